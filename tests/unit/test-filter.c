/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Filters over a transport that this file plays: private areas that do not
 * meet, completions through the filter from the worker and from other threads,
 * cancel on both sides of the filter, two filters over one another.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "filter.h"
#include "util/check.h"

static struct mc_error err;

/* ---- the transport below ------------------------------------------------------------------------ */

struct low {
	const struct mc_host *host;
	struct mc_slice *slices[8];
	int nr, nr_flush, nr_cancel, attached_fd;
	bool any, open, stopped;
	void *lane0;
	int64_t option;
};

struct low_slice {
	uint64_t mark[3];
};

static struct low *lowest; /* opened last */
static int submit_answer, nr_peers, nr_msgs;

static int low_open(void *inst, const struct mc_host *host, const struct mc_open_args *args,
		    struct mc_transport_caps *caps, struct mc_error *e)
{
	lowest = inst;
	lowest->host = host;
	lowest->open = true;
	lowest->lane0 = args->lane0;
	lowest->option = args->options[0].i;
	caps->max_slice = 1234;
	assert_string_equal(host->instance, "low:dev0");
	assert_int_equal(host->now_ns(host), 99);
	return 0;
}

static void low_close(void *inst)
{
	((struct low *)inst)->open = false;
}

static void low_stop(void *inst)
{
	((struct low *)inst)->stopped = true;
}

static int low_submit(void *inst, struct mc_slice *s)
{
	struct low_slice *ls = s->priv;
	struct low *l = inst;

	if (submit_answer)
		return submit_answer;
	memset(ls, 0xab, sizeof *ls);
	l->slices[l->nr++] = s;
	return 0;
}

static void low_flush(void *inst)
{
	((struct low *)inst)->nr_flush++;
}

static int low_progress(void *inst)
{
	struct low *l = inst;
	int nr = l->nr;

	for (int i = 0; i < nr; i++) {
		if (l->any)
			l->host->complete_any(l->host, l->slices[i], 0, 0, l->slices[i]->len);
		else
			l->host->complete(l->host, l->slices[i], 0, 0, l->slices[i]->len);
	}
	l->nr = 0;
	return nr;
}

static int low_cancel(void *inst, struct mc_slice *s)
{
	struct low *l = inst;

	assert_ptr_equal(s, l->slices[0]);
	l->nr_cancel++;
	return -EALREADY;
}

static int low_fence(void *inst, void *peer, uint32_t epoch)
{
	struct low *l = inst;

	l->host->fenced(l->host, peer, epoch);
	return 0;
}

static int low_peer_open(void *inst, void *peer, const struct mc_peer_args *args)
{
	struct low *l = inst;

	nr_peers++;
	memset(peer, 0xcd, 40);
	if (args && args->epoch == 666)
		return -EIO;

	l->host->peer_ready(l->host, peer, 0, NULL, NULL);
	l->host->log(l->host, MC_LOG_INFO, "%s %d", "peer", 5);
	return 0;
}

static void low_peer_close(void *inst, void *peer)
{
	nr_peers--;
	memset(peer, 0xdc, 40);
}

static void low_peer_msg(void *inst, void *peer, const void *msg, size_t len)
{
	nr_msgs++;
}

static void low_peer_attach(void *inst, void *peer, const struct mc_stream *stream)
{
	((struct low *)inst)->attached_fd = stream->fd;
}

static int low_enumerate(const struct mc_host *host, int (*found)(void *ctx, const char *device), void *ctx)
{
	return found(ctx, "dev0");
}

static const struct mc_transport_ops low_ops = {
	.size = sizeof low_ops,
	.instance_size = sizeof(struct low),
	.peer_size = 40,
	.slice_size = sizeof(struct low_slice),
	.enumerate = low_enumerate,
	.open = low_open,
	.stop = low_stop,
	.close = low_close,
	.peer_open = low_peer_open,
	.peer_accept = low_peer_open,
	.peer_close = low_peer_close,
	.peer_msg = low_peer_msg,
	.peer_attach = low_peer_attach,
	.submit = low_submit,
	.flush = low_flush,
	.progress = low_progress,
	.cancel = low_cancel,
	.fence = low_fence,
};

/* ---- the host above ------------------------------------------------------------------------------- */

static struct mc_slice *done[8];
static uint64_t done_len[8];
static int done_status[8], nr_done, nr_ready, nr_fenced;
static uint64_t counters[4];
static int nr_counters;
static char logged[64];
static struct mc_work *posted;
static unsigned char low_peer[256] __attribute__((aligned(64)));

static void up_complete(const struct mc_host *h, struct mc_slice *s, int status, int scope, uint64_t len)
{
	assert_string_equal(h->instance, "low:dev0");
	done[nr_done] = s;
	done_status[nr_done] = status;
	done_len[nr_done++] = len;
}

static uint64_t *up_counter(const struct mc_host *h, const char *name, const char *doc)
{
	return &counters[nr_counters++];
}

static void up_peer_ready(const struct mc_host *h, void *peer, int status,
			  const struct mc_transport_caps *caps, const char *why)
{
	assert_ptr_equal(peer, low_peer);
	nr_ready++;
}

static void up_fenced(const struct mc_host *h, void *peer, uint32_t epoch)
{
	assert_int_equal(epoch, 3);
	nr_fenced++;
}

static void up_post(const struct mc_host *h, struct mc_work *w)
{
	assert_null(posted);
	posted = w;
}

static uint64_t up_now(const struct mc_host *h)
{
	return 99;
}

static void up_log(const struct mc_host *h, int level, const char *fmt, ...) MC_PRINTF(3, 4);
static void up_log(const struct mc_host *h, int level, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(logged, sizeof logged, fmt, ap);
	va_end(ap);
}

static const struct mc_host up_host = {
	.size = sizeof up_host,
	.abi_major = MC_ABI_MAJOR,
	.instance = "low:dev0",
	.log = up_log,
	.now_ns = up_now,
	.counter = up_counter,
	.post = up_post,
	.complete = up_complete,
	.complete_any = up_complete,
	.peer_ready = up_peer_ready,
	.fenced = up_fenced,
};

static const struct mc_value low_values[] = {{.i = 11}};
static struct mc_transport_caps caps;

static int open_stack(const struct mc_transport_ops *ops, void **ret_inst, void *lane0)
{
	struct mc_open_args args = {.size = sizeof args, .device = "dev0", .options = low_values, .lane0 = lane0};
	int r;

	nr_done = nr_counters = 0;
	memset(counters, 0, sizeof counters);
	memset(&err, 0, sizeof err);
	*ret_inst = aligned_alloc(64, mc_round_up(ops->instance_size, 64));
	memset(*ret_inst, 0, mc_round_up(ops->instance_size, 64));
	r = ops->open(*ret_inst, &up_host, &args, &caps, &err);
	if (r < 0)
		free(*ret_inst);
	return r;
}

/* A slice with a private area of exactly the size that was asked for, so that sanitizers see who
 * goes past its end. */
static struct mc_slice *slice_new(const struct mc_transport_ops *ops, uint64_t len)
{
	struct mc_slice *s = calloc(1, sizeof *s);

	s->size = sizeof *s;
	s->len = len;
	s->priv = calloc(1, ops->slice_size);
	return s;
}

static void slice_free(struct mc_slice *s)
{
	free(s->priv);
	free(s);
}

static struct mc_plugin *load(const char *name)
{
	struct mc_plugin *p;

	setenv("MC_PLUGIN_PATH", getenv("TEST_PLUGIN_DIR"), 1);
	assert_int_equal(mc_plugin_load(NULL, MC_KIND_FILTER, name, &p, &err), 0);
	return p;
}

static struct mc_filter_stack *stack_new(const char *name, const struct mc_value *values,
					 const struct mc_transport_ops *lower)
{
	struct mc_plugin *p = load(name);
	struct mc_filter_stack *s;

	assert_int_equal(mc_filter_stack_new(p, values, lower, "low", &s, &err), 0);
	mc_plugin_unref(p); /* the stack keeps it */
	return s;
}

/* ---- tests ------------------------------------------------------------------------------------------- */

static int found(void *ctx, const char *device)
{
	assert_string_equal(device, "dev0");
	return 17;
}

/* The filter's peer is there before the transport's and after it, in an area of its own. */
static void test_peers(void **state)
{
	static const struct mc_value add[] = {{.i = 0}};
	struct mc_filter_stack *s = stack_new("hold", add, &low_ops);
	const struct mc_transport_ops *ops = mc_filter_stack_ops(s);
	struct mc_peer_args args = {.size = sizeof args, .segment = "wanted"};
	void *inst;

	assert_int_equal(open_stack(ops, &inst, NULL), 0);
	nr_peers = nr_msgs = 0;
	assert_int_equal(ops->peer_open(inst, low_peer, &args), 0);
	ops->peer_msg(inst, low_peer, "hold", 4);
	assert_int_equal(nr_msgs, 0);
	ops->peer_msg(inst, low_peer, "low", 3);
	assert_int_equal(nr_msgs, 1);
	ops->peer_close(inst, low_peer);
	assert_int_equal(nr_peers, 0);
	assert_int_equal(counters[0], 100); /* closed */
	assert_int_equal(counters[1], 0);   /* and unspoilt */
	args.passive = 1;
	assert_int_equal(ops->peer_accept(inst, low_peer, &args), 0);
	ops->peer_close(inst, low_peer);
	assert_int_equal(counters[0], 200);
	/* Refused by the filter, the transport hears nothing; refused by the transport, the filter does. */
	args.segment = "unwanted";
	assert_int_equal(ops->peer_open(inst, low_peer, &args), -EPERM);
	assert_int_equal(nr_peers, 0);
	assert_int_equal(counters[0], 200);
	args.segment = "wanted";
	args.epoch = 666;
	assert_int_equal(ops->peer_open(inst, low_peer, &args), -EIO);
	assert_int_equal(counters[0], 300);
	nr_ready = 0;
	ops->close(inst);
	free(inst);
	mc_filter_stack_free(s);
}

static void test_hold(void **state)
{
	static const struct mc_value add[] = {{.i = 5}};
	struct mc_filter_stack *s = stack_new("hold", add, &low_ops);
	const struct mc_transport_ops *ops = mc_filter_stack_ops(s);
	struct mc_slice *a = slice_new(ops, 100), *b = slice_new(ops, 200);
	struct mc_stream stream = {.size = sizeof stream, .fd = 6};
	void *inst;

	assert_int_equal(ops->enumerate(NULL, found, NULL), 17);
	assert_int_equal(ops->peer_size, 64 + 24); /* the transport's 40, the filter's behind them */
	assert_int_equal(open_stack(ops, &inst, NULL), 0);
	assert_int_equal(lowest->option, 11);
	assert_int_equal(caps.max_slice, 1234); /* the transport's */
	assert_int_equal(caps.max_inline, 77);  /* the filter's */

	assert_int_equal(ops->submit(inst, a), 0);
	assert_int_equal(ops->submit(inst, b), 0);
	assert_int_equal(lowest->nr, 0);
	assert_int_equal(ops->arm(inst), -EBUSY);
	assert_int_equal(ops->cancel(inst, a), 0); /* the filter holds it */
	assert_int_equal(lowest->nr_cancel, 0);
	assert_int_equal(ops->progress(inst), 4);
	assert_int_equal(nr_done, 2);
	assert_ptr_equal(done[0], a);
	assert_ptr_equal(done[1], b);
	assert_int_equal(done_len[0], 105);
	assert_int_equal(done_len[1], 205);
	assert_int_equal(counters[0], 2);
	assert_int_equal(counters[1], 0); /* nobody wrote into the filter's area */

	ops->flush(inst);
	assert_int_equal(lowest->nr_flush, 1);
	ops->peer_attach(inst, NULL, &stream);
	assert_int_equal(lowest->attached_fd, -6);
	assert_int_equal(stream.fd, 6);
	ops->peer_open(inst, low_peer, NULL);
	assert_int_equal(nr_ready, 1);
	assert_string_equal(logged, "peer 5");

	/* What the filter holds when it is stopped ends. */
	assert_int_equal(ops->submit(inst, a), 0);
	ops->stop(inst);
	assert_true(lowest->stopped);
	ops->progress(inst);
	assert_int_equal(nr_done, 3);
	assert_int_equal(done_status[2], -ECANCELED);
	ops->close(inst);
	assert_false(lowest->open);
	assert_int_equal(counters[0], 1002); /* closed too, before the transport */
	slice_free(a);
	slice_free(b);
	free(inst);
	mc_filter_stack_free(s);
	mc_filter_stack_free(NULL);
}

static void test_cancel_below(void **state)
{
	static const struct mc_value add[] = {{.i = 0}};
	struct mc_filter_stack *s = stack_new("hold", add, &low_ops);
	const struct mc_transport_ops *ops = mc_filter_stack_ops(s);
	struct mc_slice *a = slice_new(ops, 100);
	void *inst, *lane1;

	assert_int_equal(open_stack(ops, &inst, NULL), 0);
	assert_int_equal(open_stack(ops, &lane1, inst), 0);
	assert_int_equal((char *)lowest->lane0 - (char *)inst, (char *)lowest - (char *)lane1);
	ops->close(lane1);
	free(lane1);
	ops->close(inst);
	free(inst);

	assert_int_equal(open_stack(ops, &inst, NULL), 0);
	lowest->any = true;
	assert_int_equal(ops->submit(inst, a), 0);
	ops->progress(inst); /* into the transport, which ends it from "another thread" */
	assert_int_equal(nr_done, 0);
	assert_non_null(posted);
	/* fenced is the latest moment at which it must be known. */
	assert_int_equal(ops->fence(inst, NULL, 3), 0);
	assert_int_equal(nr_done, 1);
	assert_int_equal(nr_fenced, 1);
	posted->run(posted);
	posted = NULL;
	assert_int_equal(nr_done, 1);
	assert_int_equal(counters[0], 1);

	/* The transport refuses: the filter reports it. */
	submit_answer = -EIO;
	assert_int_equal(ops->submit(inst, a), 0);
	ops->progress(inst);
	assert_int_equal(done_status[1], -EIO);
	submit_answer = MC_DONE;
	assert_int_equal(ops->submit(inst, a), 0);
	ops->progress(inst);
	assert_int_equal(done_status[2], 0);
	submit_answer = 0;
	ops->close(inst);
	free(inst);
	slice_free(a);
	mc_filter_stack_free(s);
}

static void test_two(void **state)
{
	static const struct mc_value one[] = {{.i = 1}}, two[] = {{.i = 2}};
	struct mc_filter_stack *inner = stack_new("hold", one, &low_ops);
	struct mc_filter_stack *outer = stack_new("hold", two, mc_filter_stack_ops(inner));
	const struct mc_transport_ops *ops = mc_filter_stack_ops(outer);
	struct mc_slice *a = slice_new(ops, 10);
	void *inst;

	assert_int_equal(open_stack(ops, &inst, NULL), 0);
	assert_int_equal(ops->submit(inst, a), 0);
	ops->progress(inst);
	assert_int_equal(nr_done, 1);
	assert_ptr_equal(done[0], a);
	assert_int_equal(done_len[0], 13);
	assert_int_equal(counters[1] + counters[3], 0);
	ops->close(inst);
	free(inst);
	slice_free(a);
	mc_filter_stack_free(outer);
	mc_filter_stack_free(inner);
}

/* A filter that does nothing leaves the slice alone: no area, no copy. */
static void test_idle(void **state)
{
	struct mc_filter_stack *s = stack_new("idle", NULL, &low_ops);
	const struct mc_transport_ops *ops = mc_filter_stack_ops(s);
	struct mc_slice *a;
	void *inst;

	assert_int_equal(ops->slice_size, low_ops.slice_size);
	a = slice_new(ops, 10);
	assert_int_equal(open_stack(ops, &inst, NULL), 0);
	assert_int_equal(ops->submit(inst, a), 0);
	assert_ptr_equal(lowest->slices[0], a);
	assert_int_equal(ops->cancel(inst, a), -EALREADY);
	assert_int_equal(ops->progress(inst), 1);
	assert_ptr_equal(done[0], a);
	assert_int_equal(done_len[0], 10);
	ops->close(inst);
	free(inst);
	slice_free(a);
	mc_filter_stack_free(s);
}

static void test_refused(void **state)
{
	static const struct mc_value bad[] = {{.i = -1}};
	struct mc_filter_stack *s = stack_new("hold", bad, &low_ops), *all[40];
	struct mc_plugin *p, broken;
	void *inst;
	int n = 0;

	lowest = NULL;
	assert_int_equal(open_stack(mc_filter_stack_ops(s), &inst, NULL), -EINVAL);
	assert_non_null(strstr(err.text, "filter 'hold' refused: "));
	assert_non_null(strstr(err.text, "filter-hold.so cannot open 'dev0': add is -1"));
	mc_filter_stack_free(s);

	p = load("idle");
	broken = *p;
	broken.ops.filter.flush = low_flush;
	assert_int_equal(mc_filter_stack_new(&broken, NULL, &low_ops, "low", &s, &err), -ELIBBAD);
	assert_non_null(strstr(err.text, "has no 'open', so its other operations could not call down"));
	while (n < 40 && mc_filter_stack_new(p, NULL, &low_ops, "low", &all[n], &err) == 0)
		n++;
	assert_int_equal(n, 32);
	assert_string_equal(err.text, "filter 'idle' over 'low': this process has 32 filtered transports already");
	while (n > 0)
		mc_filter_stack_free(all[--n]);
	mc_plugin_unref(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_peers),
		cmocka_unit_test(test_hold), cmocka_unit_test(test_cancel_below),
		cmocka_unit_test(test_two),  cmocka_unit_test(test_idle),
		cmocka_unit_test(test_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
