/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Filters: a FILTER plugin stacked over a transport, so that both together look
 * like one transport.  An instance's private area holds, each on its own cache
 * lines, our layer, the filter's area and the transport's:
 *
 *   | layer | filter instance | lower instance |
 *
 * and a slice's, if the filter looks at slices at all:
 *
 *   | filter's priv | struct below: the slice that the lower plugin sees | lower's priv |
 *
 * The lower plugin gets a slice of its own, so it is always clear who may look at
 * which priv, whoever holds the slice when cancel comes.  It also gets a host of
 * its own, whose completions go through the filter.  A peer's area has the
 * filter's behind the lower plugin's, so that everybody means the same address by
 * `peer`.  Regions and remote buffers have no area of the filter's and pass as
 * they are.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "filter_impl.h"
#include "util/check.h"

#define STACKS_MAX 32

static struct below *below_of(const struct layer *l, const struct mc_slice *orig)
{
	return (struct below *)((char *)orig->priv + l->stack->below_at);
}

/* ---- what the filter calls to go down ------------------------------------------------------------- */

static int next_submit(const struct mc_filter_next *next, struct mc_slice *slice)
{
	struct layer *l = next->host;
	struct below *b;

	if (!l->stack->slices)
		return l->stack->lower->submit(l->lower, slice);
	b = below_of(l, slice);
	b->slice = *slice;
	b->slice.priv = (char *)b + mc_round_up(sizeof *b, MC_CACHE_LINE);
	b->orig = slice;
	return l->stack->lower->submit(l->lower, &b->slice);
}

static void next_flush(const struct mc_filter_next *next)
{
	struct layer *l = next->host;

	l->stack->lower->flush(l->lower);
}

static int next_progress(const struct mc_filter_next *next)
{
	struct layer *l = next->host;

	return l->stack->lower->progress(l->lower);
}

static int next_arm(const struct mc_filter_next *next)
{
	struct layer *l = next->host;

	return l->stack->lower->arm(l->lower);
}

static int next_cancel(const struct mc_filter_next *next, struct mc_slice *slice)
{
	struct layer *l = next->host;

	return l->stack->lower->cancel(l->lower, l->stack->slices ? &below_of(l, slice)->slice : slice);
}

static int next_fence(const struct mc_filter_next *next, void *peer, uint32_t epoch)
{
	struct layer *l = next->host;

	return l->stack->lower->fence(l->lower, peer, epoch);
}

static void next_complete(const struct mc_filter_next *next, struct mc_slice *slice, int status,
			  int scope, uint64_t done_len)
{
	struct layer *l = next->host;

	l->up->complete(l->up, slice, status, scope, done_len);
}

static void *next_peer_priv(const struct mc_filter_next *next, void *peer)
{
	struct layer *l = next->host;

	return (char *)peer + l->stack->peer_at;
}

/* ---- the transport that the host sees -------------------------------------------------------------- */

static int stack_open(const struct mc_filter_stack *stack, void *inst, const struct mc_host *host,
		      const struct mc_open_args *args, struct mc_transport_caps *caps,
		      struct mc_error *err)
{
	struct mc_open_args lower_args = *args, filter_args = *args;
	const struct layer *lane0 = args->lane0;
	struct layer *l = inst;
	int r;

	l->stack = stack;
	l->up = host;
	l->filter = (char *)inst + stack->filter_at;
	l->lower = (char *)inst + stack->lower_at;
	l->host = mc_filter_below_host;
	l->host.instance = host->instance;
	l->work = (struct mc_work){.size = sizeof l->work, .run = mc_filter_work_run, .user = l};
	l->next = (struct mc_filter_next){
		.size = sizeof l->next, .transport = stack->lower_name, .submit = next_submit,
		.flush = next_flush, .progress = next_progress, .arm = next_arm,
		.cancel = next_cancel, .fence = next_fence, .complete = next_complete, .host = l,
		.peer_priv = next_peer_priv,
	};
	lower_args.lane0 = lane0 ? lane0->lower : NULL;
	r = stack->lower->open(l->lower, &l->host, &lower_args, caps, err);
	if (r < 0 || !stack->f->open)
		return r;
	filter_args.lane0 = lane0 ? lane0->filter : NULL;
	filter_args.options = stack->values;
	r = stack->f->open(l->filter, host, &filter_args, &l->next, caps, err);
	if (r < 0) {
		mc_plugin_open_failed(stack->filter, args->device, r, err);
		stack->lower->close(l->lower);
	}
	return r;
}

static void stack_close(void *inst)
{
	struct layer *l = inst;

	if (l->stack->f->close)
		l->stack->f->close(l->filter);
	l->stack->lower->close(l->lower);
}

static void stack_stop(void *inst)
{
	struct layer *l = inst;

	if (l->stack->f->stop)
		l->stack->f->stop(l->filter);
	l->stack->lower->stop(l->lower);
}

static int stack_reconfigure(void *inst, const struct mc_value *options, struct mc_error *err)
{
	struct layer *l = inst;

	return l->stack->lower->reconfigure(l->lower, options, err);
}

static int stack_submit(void *inst, struct mc_slice *slice)
{
	struct layer *l = inst;

	if (l->stack->f->submit)
		return l->stack->f->submit(l->filter, slice);
	return next_submit(&l->next, slice);
}

static void stack_flush(void *inst)
{
	struct layer *l = inst;

	if (l->stack->f->flush)
		l->stack->f->flush(l->filter);
	else
		l->stack->lower->flush(l->lower);
}

static int stack_progress(void *inst)
{
	struct layer *l = inst;
	int nr = mc_filter_take_ended(l);

	if (l->stack->f->progress)
		return nr + l->stack->f->progress(l->filter);
	return nr + l->stack->lower->progress(l->lower);
}

static int stack_arm(void *inst)
{
	struct layer *l = inst;

	if (l->stack->f->arm)
		return l->stack->f->arm(l->filter);
	return l->stack->lower->arm(l->lower);
}

static int stack_cancel(void *inst, struct mc_slice *slice)
{
	struct layer *l = inst;

	if (l->stack->f->cancel)
		return l->stack->f->cancel(l->filter, slice);
	return next_cancel(&l->next, slice);
}

static int stack_fence(void *inst, void *peer, uint32_t epoch)
{
	struct layer *l = inst;

	if (l->stack->f->fence)
		return l->stack->f->fence(l->filter, peer, epoch);
	return l->stack->lower->fence(l->lower, peer, epoch);
}

static void stack_peer_attach(void *inst, void *peer, const struct mc_stream *stream)
{
	struct layer *l = inst;
	struct mc_stream copy;

	if (!l->stack->f->attach) {
		l->stack->lower->peer_attach(l->lower, peer, stream);
		return;
	}
	copy = *stream;
	l->stack->f->attach(l->filter, peer, &copy);
	l->stack->lower->peer_attach(l->lower, peer, &copy);
}

/* The filter's peer begins before the lower one and ends after it.  A transport that cannot accept
 * because it has nothing to serve (-ENOTSUP) has a peer all the same. */
static int peer_begin(struct layer *l, void *peer, const struct mc_peer_args *args,
		      int (*lower)(void *inst, void *peer, const struct mc_peer_args *args))
{
	const struct mc_filter_ops *f = l->stack->f;
	int r = f->peer_open ? f->peer_open(l->filter, peer, args) : 0;

	if (r < 0)
		return r;
	r = lower(l->lower, peer, args);
	if (r < 0 && !(args->passive && r == -ENOTSUP) && f->peer_close)
		f->peer_close(l->filter, peer);
	return r;
}

static int stack_peer_open(void *inst, void *peer, const struct mc_peer_args *args)
{
	struct layer *l = inst;

	return peer_begin(l, peer, args, l->stack->lower->peer_open);
}

static int stack_peer_accept(void *inst, void *peer, const struct mc_peer_args *args)
{
	struct layer *l = inst;

	return peer_begin(l, peer, args, l->stack->lower->peer_accept);
}

static void stack_peer_close(void *inst, void *peer)
{
	struct layer *l = inst;

	l->stack->lower->peer_close(l->lower, peer);
	if (l->stack->f->peer_close)
		l->stack->f->peer_close(l->filter, peer);
}

static void stack_peer_msg(void *inst, void *peer, const void *msg, size_t len)
{
	struct layer *l = inst;

	if (!l->stack->f->peer_msg || !l->stack->f->peer_msg(l->filter, peer, msg, len))
		l->stack->lower->peer_msg(l->lower, peer, msg, len);
}

/* The rest goes straight to the lower instance. */
#define LOWER(inst) (((struct layer *)(inst))->lower)
#define LOWER_OPS(inst) (((struct layer *)(inst))->stack->lower)

static int stack_mem_alloc(void *inst, void *region, struct mc_mem_desc *desc, struct mc_error *err)
{
	return LOWER_OPS(inst)->mem_alloc(LOWER(inst), region, desc, err);
}

static void stack_mem_free(void *inst, void *region, struct mc_mem_desc *desc)
{
	LOWER_OPS(inst)->mem_free(LOWER(inst), region, desc);
}

static int stack_mem_reg(void *inst, void *region, const struct mc_mem_desc *desc,
			 struct mc_error *err)
{
	return LOWER_OPS(inst)->mem_reg(LOWER(inst), region, desc, err);
}

static void stack_mem_unreg(void *inst, void *region)
{
	LOWER_OPS(inst)->mem_unreg(LOWER(inst), region);
}

static int stack_mem_export(void *inst, void *region, void *blob, size_t cap)
{
	return LOWER_OPS(inst)->mem_export(LOWER(inst), region, blob, cap);
}

static int stack_mem_import(void *inst, void *remote, void *peer, const struct mc_remote_buffer *buf)
{
	return LOWER_OPS(inst)->mem_import(LOWER(inst), remote, peer, buf);
}

static void stack_mem_release(void *inst, void *remote)
{
	LOWER_OPS(inst)->mem_release(LOWER(inst), remote);
}

static int stack_mem_sync(void *inst, void *region, void *addr, uint64_t len, uint32_t how)
{
	return LOWER_OPS(inst)->mem_sync(LOWER(inst), region, addr, len, how);
}

static void stack_counters(void *inst, void (*emit)(void *ctx, const char *name, uint64_t value),
			   void *ctx)
{
	LOWER_OPS(inst)->counters(LOWER(inst), emit, ctx);
}

/* ---- stacks ------------------------------------------------------------------------------------------ */

/* `open` is the one operation that cannot find its stack through the instance, whose area is still
 * zeroes: each stack has an `open` of its own.  The lock guards the places; a place is read without
 * it, because it does not change while its stack lives. */
static pthread_mutex_t stacks_lock = PTHREAD_MUTEX_INITIALIZER;
static struct mc_filter_stack *stacks[STACKS_MAX];

#define EACH_PLACE(X)                                                                              \
	X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)      \
	X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23) X(24) X(25) X(26) X(27) X(28) X(29) X(30)  \
	X(31)
#define DEFINE_OPEN(n)                                                                             \
	static int open_##n(void *inst, const struct mc_host *host,                                \
			    const struct mc_open_args *args, struct mc_transport_caps *caps,       \
			    struct mc_error *err)                                                  \
	{                                                                                          \
		return stack_open(__atomic_load_n(&stacks[n], __ATOMIC_ACQUIRE), inst, host, args, \
				  caps, err);                                                      \
	}
#define NAME_OPEN(n) open_##n,

EACH_PLACE(DEFINE_OPEN)

static int (*const opens[STACKS_MAX])(void *inst, const struct mc_host *host,
				      const struct mc_open_args *args,
				      struct mc_transport_caps *caps, struct mc_error *err) = {
	EACH_PLACE(NAME_OPEN)
};

static const struct mc_transport_ops stack_ops = {
	.size = sizeof(struct mc_transport_ops),
	.reconfigure = stack_reconfigure,
	.stop = stack_stop,
	.close = stack_close,
	.mem_alloc = stack_mem_alloc,
	.mem_free = stack_mem_free,
	.mem_reg = stack_mem_reg,
	.mem_unreg = stack_mem_unreg,
	.mem_export = stack_mem_export,
	.mem_import = stack_mem_import,
	.mem_release = stack_mem_release,
	.peer_open = stack_peer_open,
	.peer_accept = stack_peer_accept,
	.peer_msg = stack_peer_msg,
	.peer_attach = stack_peer_attach,
	.peer_close = stack_peer_close,
	.submit = stack_submit,
	.flush = stack_flush,
	.progress = stack_progress,
	.arm = stack_arm,
	.cancel = stack_cancel,
	.fence = stack_fence,
	.counters = stack_counters,
	.mem_sync = stack_mem_sync,
};

static void lay_out(struct mc_filter_stack *s)
{
	const struct mc_transport_ops *lower = s->lower;
	const struct mc_filter_ops *f = s->f;

	s->slices = f->submit || f->cancel || f->completed || f->slice_size;
	s->filter_at = mc_round_up(sizeof(struct layer), MC_CACHE_LINE);
	s->lower_at = s->filter_at + mc_round_up(f->instance_size, MC_CACHE_LINE);
	s->below_at = mc_round_up(f->slice_size, MC_CACHE_LINE);
	s->ops = stack_ops;
	s->ops.instance_size = s->lower_at + lower->instance_size;
	s->peer_at = mc_round_up(lower->peer_size, MC_CACHE_LINE);
	s->ops.peer_size = f->peer_size ? s->peer_at + f->peer_size : lower->peer_size;
	s->ops.region_size = lower->region_size;
	s->ops.remote_size = lower->remote_size;
	s->ops.slice_size = lower->slice_size;
	if (s->slices)
		s->ops.slice_size += s->below_at + mc_round_up(sizeof(struct below), MC_CACHE_LINE);
	s->ops.enumerate = lower->enumerate;
	s->ops.probe = lower->probe;
}

static int take_place(struct mc_filter_stack *s)
{
	int r = -ENOSPC;

	pthread_mutex_lock(&stacks_lock);
	for (unsigned i = 0; i < STACKS_MAX && r < 0; i++) {
		if (stacks[i])
			continue;
		s->idx = i;
		s->ops.open = opens[i];
		__atomic_store_n(&stacks[i], s, __ATOMIC_RELEASE);
		r = 0;
	}
	pthread_mutex_unlock(&stacks_lock);
	return r;
}

int mc_filter_stack_new(struct mc_plugin *filter, const struct mc_value *filter_values,
			const struct mc_transport_ops *lower, const char *lower_name,
			struct mc_filter_stack **ret_stack, struct mc_error *err)
{
	const struct mc_filter_ops *f = &filter->ops.filter;
	struct mc_filter_stack *s;

	if (!f->open && (f->submit || f->flush || f->progress || f->arm || f->cancel || f->fence ||
			 f->completed || f->peer_open || f->peer_close || f->peer_msg))
		return mc_fail(err, -ELIBBAD,
			       "filter '%s' refused: %s has no 'open', so its other operations could not call down",
			       filter->desc->name, filter->path);
	s = calloc(1, sizeof *s);
	if (!s || !(s->lower_name = strdup(lower_name))) {
		free(s);
		return mc_fail(err, -ENOMEM, "filter '%s': out of memory", filter->desc->name);
	}
	s->f = f;
	s->values = filter_values;
	s->lower = lower;
	lay_out(s);
	if (take_place(s) < 0) {
		free(s->lower_name);
		free(s);
		return mc_fail(err, -ENOSPC,
			       "filter '%s' over '%s': this process has %d filtered transports already",
			       filter->desc->name, lower_name, STACKS_MAX);
	}
	s->filter = mc_plugin_ref(filter);
	*ret_stack = s;
	return 0;
}

const struct mc_transport_ops *mc_filter_stack_ops(const struct mc_filter_stack *stack)
{
	return &stack->ops;
}

void mc_filter_stack_free(struct mc_filter_stack *stack)
{
	if (!stack)
		return;
	pthread_mutex_lock(&stacks_lock);
	__atomic_store_n(&stacks[stack->idx], NULL, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&stacks_lock);
	mc_plugin_unref(stack->filter);
	free(stack->lower_name);
	free(stack);
}
