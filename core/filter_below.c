/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host that a transport under a filter sees: its completions go through the
 * filter, on the worker only; all other services are those of the real host,
 * which finds its own state by the table it is called with.
 */
#include "filter_impl.h"
#include "util/check.h"

static struct layer *layer_of(const struct mc_host *h)
{
	return MC_CONTAINER_OF(h, struct layer, host);
}

/* ---- completions on their way up ----------------------------------------------------------------- */

static void ended(struct layer *l, struct mc_slice *s, int status, int scope, uint64_t done_len)
{
	struct mc_slice *orig = MC_CONTAINER_OF(s, struct below, slice)->orig;

	if (l->stack->f->completed)
		l->stack->f->completed(l->filter, orig, status, scope, done_len);
	else
		l->up->complete(l->up, orig, status, scope, done_len);
}

int mc_filter_take_ended(struct layer *l)
{
	struct below *b = NULL, *next;
	int nr = 0;

	if (__atomic_load_n(&l->ended, __ATOMIC_RELAXED))
		b = __atomic_exchange_n(&l->ended, NULL, __ATOMIC_ACQUIRE);
	for (; b; b = next) {
		next = b->next; /* the slice may be used again at once */
		ended(l, &b->slice, b->status, b->scope, b->done_len);
		nr++;
	}
	return nr;
}

void mc_filter_work_run(struct mc_work *w)
{
	struct layer *l = w->user;

	__atomic_store_n(&l->posted, false, __ATOMIC_SEQ_CST);
	mc_filter_take_ended(l);
}

static void below_complete(const struct mc_host *h, struct mc_slice *s, int status, int scope,
			   uint64_t done_len)
{
	struct layer *l = layer_of(h);

	if (l->stack->slices)
		ended(l, s, status, scope, done_len);
	else
		l->up->complete(l->up, s, status, scope, done_len);
}

static void below_complete_any(const struct mc_host *h, struct mc_slice *s, int status, int scope,
			       uint64_t done_len)
{
	struct layer *l = layer_of(h);
	struct below *b = MC_CONTAINER_OF(s, struct below, slice);

	if (!l->stack->slices) {
		l->up->complete_any(l->up, s, status, scope, done_len);
		return;
	}
	if (!l->stack->f->completed) {
		l->up->complete_any(l->up, b->orig, status, scope, done_len);
		return;
	}
	/* The filter is called on the worker only. */
	b->status = status;
	b->scope = scope;
	b->done_len = done_len;
	b->next = __atomic_load_n(&l->ended, __ATOMIC_RELAXED);
	while (!__atomic_compare_exchange_n(&l->ended, &b->next, b, true, __ATOMIC_RELEASE,
					    __ATOMIC_RELAXED))
		;
	if (!__atomic_exchange_n(&l->posted, true, __ATOMIC_SEQ_CST))
		l->up->post(l->up, &l->work);
}

/* Slices of the fenced epochs have completed before this; also those that other threads ended. */
static void below_fenced(const struct mc_host *h, void *peer, uint32_t epoch)
{
	struct layer *l = layer_of(h);

	mc_filter_take_ended(l);
	l->up->fenced(l->up, peer, epoch);
}

/* ---- the other services of the lower plugin's host: the real one's ------------------------------ */

#define UP(h) (layer_of(h)->up)

static void below_log(const struct mc_host *h, int level, const char *fmt, ...) MC_PRINTF(3, 4);
static void below_log(const struct mc_host *h, int level, const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	UP(h)->log(UP(h), level, "%s", text);
}

static uint64_t below_now_ns(const struct mc_host *h)
{
	return UP(h)->now_ns(UP(h));
}

static void below_random(const struct mc_host *h, void *buf, size_t len)
{
	UP(h)->random(UP(h), buf, len);
}

static void *below_alloc(const struct mc_host *h, size_t len)
{
	return UP(h)->alloc(UP(h), len);
}

static void below_free(const struct mc_host *h, void *ptr, size_t len)
{
	UP(h)->free(UP(h), ptr, len);
}

static uint64_t *below_counter(const struct mc_host *h, const char *name, const char *doc)
{
	return UP(h)->counter(UP(h), name, doc);
}

static uint64_t *below_gauge(const struct mc_host *h, const char *name, const char *doc)
{
	return mc_gauge_new(UP(h), name, doc);
}

static int below_watch(const struct mc_host *h, struct mc_watch *w)
{
	return UP(h)->watch(UP(h), w);
}

static int below_rewatch(const struct mc_host *h, struct mc_watch *w, uint32_t events)
{
	return UP(h)->rewatch(UP(h), w, events);
}

static void below_unwatch(const struct mc_host *h, struct mc_watch *w)
{
	UP(h)->unwatch(UP(h), w);
}

static void below_timer_set(const struct mc_host *h, struct mc_timer *t, uint64_t deadline_ns)
{
	UP(h)->timer_set(UP(h), t, deadline_ns);
}

static void below_post(const struct mc_host *h, struct mc_work *w)
{
	UP(h)->post(UP(h), w);
}

static void below_run_blocking(const struct mc_host *h, struct mc_work *w)
{
	UP(h)->run_blocking(UP(h), w);
}

static void below_run_lazily(const struct mc_host *h, struct mc_work *w)
{
	mc_run_lazily(UP(h), w);
}

static int below_peer_send(const struct mc_host *h, void *peer, const void *msg, size_t len)
{
	return UP(h)->peer_send(UP(h), peer, msg, len);
}

static void below_peer_ready(const struct mc_host *h, void *peer, int status,
			     const struct mc_transport_caps *caps, const char *why)
{
	UP(h)->peer_ready(UP(h), peer, status, caps, why);
}

static void below_peer_writable(const struct mc_host *h, void *peer)
{
	UP(h)->peer_writable(UP(h), peer);
}

static void below_device_event(const struct mc_host *h, int event, const char *why)
{
	UP(h)->device_event(UP(h), event, why);
}

static int below_stream_dial(const struct mc_host *h, void *peer, uint64_t token)
{
	return UP(h)->stream_dial(UP(h), peer, token);
}

static void below_imported(const struct mc_host *h, void *remote, int status)
{
	UP(h)->imported(UP(h), remote, status);
}

static int below_range_get(const struct mc_host *h, void *peer, uint64_t generation, uint64_t offset,
			   uint64_t len, uint32_t access, struct mc_range *range)
{
	return UP(h)->range_get(UP(h), peer, generation, offset, len, access, range);
}

static void below_range_put(const struct mc_host *h, struct mc_range *range)
{
	UP(h)->range_put(UP(h), range);
}

static int below_mem_copy(const struct mc_host *h, struct mc_copy *c)
{
	return UP(h)->mem_copy(UP(h), c);
}

static int below_mem_identify(const struct mc_host *h, const void *addr, uint64_t len,
			      struct mc_mem_desc *desc)
{
	return UP(h)->mem_identify(UP(h), addr, len, desc);
}

static int below_kv(const struct mc_host *h, struct mc_kv_call *c)
{
	return UP(h)->kv(UP(h), c);
}

static void below_kv_event(const struct mc_host *h, void *watch, const struct mc_kv *kv)
{
	UP(h)->kv_event(UP(h), watch, kv);
}

static void below_copied(const struct mc_host *h, struct mc_copy *c, int status)
{
	UP(h)->copied(UP(h), c, status);
}

const struct mc_host mc_filter_below_host = {
	.size = sizeof(struct mc_host),
	.abi_major = MC_ABI_MAJOR,
	.abi_minor = MC_ABI_MINOR,
	.log = below_log,
	.now_ns = below_now_ns,
	.random = below_random,
	.alloc = below_alloc,
	.free = below_free,
	.counter = below_counter,
	.watch = below_watch,
	.rewatch = below_rewatch,
	.unwatch = below_unwatch,
	.timer_set = below_timer_set,
	.post = below_post,
	.run_blocking = below_run_blocking,
	.complete = below_complete,
	.complete_any = below_complete_any,
	.peer_send = below_peer_send,
	.peer_ready = below_peer_ready,
	.peer_writable = below_peer_writable,
	.fenced = below_fenced,
	.device_event = below_device_event,
	.stream_dial = below_stream_dial,
	.imported = below_imported,
	.range_get = below_range_get,
	.range_put = below_range_put,
	.mem_copy = below_mem_copy,
	.mem_identify = below_mem_identify,
	.kv = below_kv,
	.kv_event = below_kv_event,
	.copied = below_copied,
	.gauge = below_gauge,
	.run_lazily = below_run_lazily,
};
