/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A filter that has every operation: it holds each slice until progress, marks
 * the slice's private area to see that nobody else writes there, adds its option
 * `add` to the bytes done, and turns the descriptor of a stream round.  It has an
 * area of each peer, refuses the peer "unwanted", and takes messages that begin
 * with an 'h'.
 */
#include <errno.h>
#include <string.h>

#include <mooncake/transport.h>

#define MARK UINT64_C(0xfeedfacecafebeef)

struct hold {
	const struct mc_host *host;
	const struct mc_filter_next *next;
	struct mc_slice *held[16];
	int nr;
	int64_t add;
	bool stopped;
	uint64_t *completed, *spoilt;
};

struct hold_slice {
	uint64_t mark[5]; /* not a whole cache line */
};

static int hold_open(void *inst, const struct mc_host *host, const struct mc_open_args *args,
		     const struct mc_filter_next *next, struct mc_transport_caps *caps,
		     struct mc_error *err)
{
	struct hold *h = inst;

	h->host = host;
	h->next = next;
	h->add = args->options[0].i;
	h->completed = host->counter(host, "completed", "slices that came back");
	h->spoilt = host->counter(host, "spoilt", "slices whose private area was written to");
	if (h->add < 0)
		return mc_fail(err, -EINVAL, "add is %lld", (long long)h->add);
	caps->max_inline = 77;
	return 0;
}

static void hold_close(void *inst)
{
	struct hold *h = inst;

	mc_counter_add(h->completed, 1000);
}

static int hold_submit(void *inst, struct mc_slice *slice)
{
	struct hold_slice *hs = slice->priv;
	struct hold *h = inst;

	if (h->nr == 16)
		return -EAGAIN;
	for (int i = 0; i < 5; i++)
		hs->mark[i] = MARK + (uint64_t)i;
	h->held[h->nr++] = slice;
	return 0;
}

static int hold_progress(void *inst)
{
	struct hold *h = inst;
	int nr = h->nr;

	for (int i = 0; i < nr; i++) {
		int r = h->stopped ? -ECANCELED : h->next->submit(h->next, h->held[i]);

		if (r < 0)
			h->next->complete(h->next, h->held[i], r, MC_SCOPE_REQUEST, 0);
		else if (r == MC_DONE)
			h->next->complete(h->next, h->held[i], 0, 0, h->held[i]->len);
	}
	h->nr = 0;
	return nr + h->next->progress(h->next);
}

static void hold_flush(void *inst)
{
	struct hold *h = inst;

	h->next->flush(h->next);
}

static int hold_arm(void *inst)
{
	struct hold *h = inst;

	return h->nr ? -EBUSY : h->next->arm(h->next);
}

static int hold_cancel(void *inst, struct mc_slice *slice)
{
	struct hold *h = inst;

	for (int i = 0; i < h->nr; i++) {
		if (h->held[i] == slice)
			return 0;
	}
	return h->next->cancel(h->next, slice);
}

static int hold_fence(void *inst, void *peer, uint32_t epoch)
{
	struct hold *h = inst;

	return h->next->fence(h->next, peer, epoch);
}

static void hold_completed(void *inst, struct mc_slice *slice, int status, int scope,
			   uint64_t done_len)
{
	const struct hold_slice *hs = slice->priv;
	struct hold *h = inst;

	mc_counter_add(h->completed, 1);
	for (int i = 0; i < 5; i++) {
		if (hs->mark[i] != MARK + (uint64_t)i)
			mc_counter_add(h->spoilt, 1);
	}
	h->next->complete(h->next, slice, status, scope, done_len + (uint64_t)h->add);
}

static void hold_attach(void *inst, void *peer, struct mc_stream *stream)
{
	stream->fd = -stream->fd;
}

static void hold_stop(void *inst)
{
	struct hold *h = inst;

	h->stopped = true;
}

struct hold_peer {
	uint64_t mark[3];
};

static int hold_peer_open(void *inst, void *peer, const struct mc_peer_args *args)
{
	struct hold *h = inst;
	struct hold_peer *p = h->next->peer_priv(h->next, peer);

	if (args && args->segment && !strcmp(args->segment, "unwanted"))
		return -EPERM;
	for (int i = 0; i < 3; i++)
		p->mark[i] = MARK + (uint64_t)i;
	return 0;
}

static void hold_peer_close(void *inst, void *peer)
{
	struct hold *h = inst;
	const struct hold_peer *p = h->next->peer_priv(h->next, peer);

	mc_counter_add(h->completed, 100);
	for (int i = 0; i < 3; i++)
		if (p->mark[i] != MARK + (uint64_t)i)
			mc_counter_add(h->spoilt, 1);
}

static int hold_peer_msg(void *inst, void *peer, const void *msg, size_t len)
{
	return len && *(const char *)msg == 'h';
}

static const struct mc_filter_ops hold_ops = {
	.size = sizeof hold_ops,
	.instance_size = sizeof(struct hold),
	.slice_size = sizeof(struct hold_slice),
	.open = hold_open,
	.close = hold_close,
	.submit = hold_submit,
	.flush = hold_flush,
	.progress = hold_progress,
	.arm = hold_arm,
	.cancel = hold_cancel,
	.fence = hold_fence,
	.completed = hold_completed,
	.attach = hold_attach,
	.stop = hold_stop,
	.peer_size = sizeof(struct hold_peer),
	.peer_open = hold_peer_open,
	.peer_close = hold_peer_close,
	.peer_msg = hold_peer_msg,
};

static const struct mc_option hold_options[] = {
	{.name = "add", .type = MC_OPT_INT, .def = "0", .min = -10, .max = 10, .doc = "Added to bytes done."},
	{.name = NULL},
};

const struct mc_plugin_desc mc_plugin_desc = {
	MC_PLUGIN_HEAD(MC_KIND_FILTER),
	.name = "hold",
	.version = "1",
	.summary = "holds slices until progress",
	.ops = &hold_ops,
	.options = hold_options,
};
