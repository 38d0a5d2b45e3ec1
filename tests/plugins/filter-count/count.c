/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Test-only filter: passes everything on and counts it; by option it delays
 * completions, fails the n-th slice or does not take it.
 */
#include <mooncake/transport.h>

#include <core/util/check.h>

#include <errno.h>

struct held {
	struct mc_slice *slice; /* not NULL: in the list of delayed completions */
	struct held *next;
	int status, scope;
	uint64_t done_len, due_ns;
};

struct count {
	const struct mc_host *host;
	const struct mc_filter_next *next;
	int64_t fail_nth, refuse_nth, delay_ns;
	uint64_t nr_submits, *submits, *completions, *failures, *fences, *streams;
	struct held *head, **tail; /* completions that wait, in order of due_ns */
	struct mc_timer timer;
	bool stopping;
};

enum { OPT_FAIL_NTH, OPT_REFUSE_NTH, OPT_DELAY };
static const struct mc_option options[] = {
	[OPT_FAIL_NTH] = { .name = "fail_nth", .type = MC_OPT_INT, .def = "0",
			   .max = INT64_MAX, .doc = "This slice, counted from 1, ends with -EIO." },
	[OPT_REFUSE_NTH] = { .name = "refuse_nth", .type = MC_OPT_INT,
			     .def = "0", .max = INT64_MAX,
			     .doc = "This slice, counted from 1, is not taken (-EIO from submit)." },
	[OPT_DELAY] = { .name = "delay", .type = MC_OPT_DURATION, .def = "0",
			.max = INT64_MAX, .doc = "Completions come this much later." },
	{ .name = NULL },
};

static void deliver(struct count *c, struct held *h)
{
	struct mc_slice *s = h->slice;

	h->slice = NULL;
	c->next->complete(c->next, s, h->status, h->scope, h->done_len);
}

static int deliver_due(struct count *c, uint64_t now)
{
	int n = 0;

	while (c->head && c->head->due_ns <= now) {
		struct held *h = c->head;

		c->head = h->next;
		if (!c->head)
			c->tail = &c->head;
		deliver(c, h);
		n++;
	}
	if (c->head)
		c->host->timer_set(c->host, &c->timer, c->head->due_ns);
	return n;
}

static void on_timer(struct mc_timer *t, uint64_t now_ns)
{
	deliver_due(t->user, now_ns);
}

static int count_open(void *inst, const struct mc_host *host, const struct mc_open_args *args,
		      const struct mc_filter_next *next, struct mc_transport_caps *caps, struct mc_error *err)
{
	struct count *c = inst;

	c->host = host;
	c->next = next;
	c->tail = &c->head;
	c->timer = (struct mc_timer){ .size = sizeof c->timer, .fire = on_timer, .user = c };
	c->submits = host->counter(host, "count_submits", "Slices that went down.");
	c->completions = host->counter(host, "count_completions", "Slices that came up.");
	c->failures = host->counter(host, "count_failures", "Slices that the filter failed.");
	c->fences = host->counter(host, "count_fences", "Fences that went down.");
	c->streams = host->counter(host, "count_streams", "Streams that were attached.");
	caps->flags &= ~MC_CAP_SYNC; /* completions may be held back */
	c->fail_nth = args->options[OPT_FAIL_NTH].i;
	c->refuse_nth = args->options[OPT_REFUSE_NTH].i;
	c->delay_ns = args->options[OPT_DELAY].i;
	return 0;
}

static void count_close(void *inst)
{
	struct count *c = inst;

	c->host->timer_set(c->host, &c->timer, 0);
}

static void count_stop(void *inst)
{
	((struct count *)inst)->stopping = true;
}

static int count_submit(void *inst, struct mc_slice *slice)
{
	struct count *c = inst;
	struct held *h = slice->priv;
	int r;

	if (c->stopping)
		return -ESHUTDOWN;
	if (++c->nr_submits == (uint64_t)c->refuse_nth)
		return -EIO;
	*h = (struct held){ .status = c->nr_submits == (uint64_t)c->fail_nth ? -EIO : 0 };
	r = c->next->submit(c->next, slice);
	if (r == 0 || r == MC_DONE)
		mc_counter_add(c->submits, 1);
	else
		c->nr_submits--;
	return r;
}

static void count_completed(void *inst, struct mc_slice *slice, int status, int scope, uint64_t done_len)
{
	struct count *c = inst;
	struct held *h = slice->priv;

	mc_counter_add(c->completions, 1);
	if (h->status < 0 && status == 0) {
		mc_counter_add(c->failures, 1);
		status = h->status;
		scope = MC_SCOPE_PEER;
	}
	if (!c->delay_ns || c->stopping) {
		c->next->complete(c->next, slice, status, scope, done_len);
		return;
	}
	*h = (struct held){ .slice = slice, .status = status, .scope = scope, .done_len = done_len,
			    .due_ns = c->host->now_ns(c->host) + (uint64_t)c->delay_ns };
	*c->tail = h;
	c->tail = &h->next;
	if (c->head == h)
		c->host->timer_set(c->host, &c->timer, h->due_ns);
}

static int count_progress(void *inst)
{
	struct count *c = inst;
	int n = deliver_due(c, c->stopping ? UINT64_MAX : 0), r = c->next->progress(c->next);

	return r < 0 ? r : n + r;
}

static int count_fence(void *inst, void *peer, uint32_t epoch)
{
	struct count *c = inst;
	struct held **p = &c->head, *h;

	mc_counter_add(c->fences, 1);
	/* Their bytes have moved, but a fence ends every slice of the peer before `fenced`. */
	while ((h = *p)) {
		if (h->slice->peer != peer || h->slice->epoch > epoch) {
			p = &h->next;
			continue;
		}
		*p = h->next;
		deliver(c, h);
	}
	c->tail = p;
	return c->next->fence(c->next, peer, epoch);
}

static void count_attach(void *inst, void *peer, struct mc_stream *stream)
{
	mc_counter_add(((struct count *)inst)->streams, 1);
}

static const struct mc_filter_ops count_ops = {
	.size = sizeof count_ops,
	.instance_size = sizeof(struct count),
	.slice_size = sizeof(struct held),
	.open = count_open,
	.close = count_close,
	.submit = count_submit,
	.progress = count_progress,
	.fence = count_fence,
	.completed = count_completed,
	.attach = count_attach,
	.stop = count_stop,
};

const struct mc_plugin_desc mc_plugin_desc = {
	MC_PLUGIN_HEAD(MC_KIND_FILTER),
	.name = "count",
	.version = "0.1.0",
	.summary = "tests only: counts, delays and fails slices",
	.ops = &count_ops,
	.options = options,
};
