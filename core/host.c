/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The services that a lane's plugin gets: logging, clock, memory, the lane's
 * worker, helpers, key-value access.  What concerns peers, slices, streams and
 * ranges is in path.c; it is only put into the table here.
 */
#include "host.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kind.h"
#include "lane.h"
#include "log.h"
#include "pages.h"
#include "path.h"
#include "record.h"
#include "core/util/check.h"

static struct mc_lane *lane_of(const struct mc_host *h)
{
	return MC_CONTAINER_OF(h, struct mc_lane, host);
}

static void *host_alloc(const struct mc_host *h, size_t len)
{
	return mc_pages_alloc(len, lane_of(h)->device->info.numa_node);
}

static void host_free(const struct mc_host *h, void *ptr, size_t len)
{
	mc_pages_free(ptr, len);
}

static uint64_t *count(const struct mc_host *h, const char *name, const char *doc, bool gauge)
{
	struct mc_lane *lane = lane_of(h);
	uint32_t nr = lane->nr_counters;

	for (uint32_t i = 0; i < nr; i++)
		if (!strcmp(lane->counters[i].name, name))
			return &lane->counters[i].value;
	if (nr == MC_LANE_COUNTERS || strlen(name) >= sizeof lane->counters[0].name)
		return NULL;
	memcpy(lane->counters[nr].name, name, strlen(name) + 1);
	lane->counters[nr].doc = doc;
	lane->counters[nr].gauge = gauge;
	__atomic_store_n(&lane->nr_counters, nr + 1, __ATOMIC_RELEASE);
	return &lane->counters[nr].value;
}

static uint64_t *host_counter(const struct mc_host *h, const char *name, const char *doc)
{
	return count(h, name, doc, false);
}

static uint64_t *host_gauge(const struct mc_host *h, const char *name, const char *doc)
{
	return count(h, name, doc, true);
}

/* ---- the worker's loop ---------------------------------------------------------------------- */

/* Inside open the helper that runs it holds the baton, so these are [worker] there too. */
static int host_watch(const struct mc_host *h, struct mc_watch *w)
{
	return mc_worker_watch(lane_of(h)->worker, w);
}

static int host_rewatch(const struct mc_host *h, struct mc_watch *w, uint32_t events)
{
	return mc_worker_rewatch(lane_of(h)->worker, w, events);
}

static void host_unwatch(const struct mc_host *h, struct mc_watch *w)
{
	mc_worker_unwatch(lane_of(h)->worker, w);
}

static void host_timer(const struct mc_host *h, struct mc_timer *t, uint64_t deadline_ns)
{
	mc_worker_timer(lane_of(h)->worker, t, deadline_ns);
}

/* A struct mc_work has room for a post. */
static_assert(sizeof(struct mc_post) <= sizeof ((struct mc_work *)0)->host, "a post fits into a work");

static void post_run(struct mc_post *post)
{
	struct mc_work *w = MC_CONTAINER_OF((void **)post, struct mc_work, host[0]);

	w->run(w);
}

static void host_post(const struct mc_host *h, struct mc_work *w)
{
	struct mc_post *post = (struct mc_post *)(void *)w->host;

	post->run = post_run;
	mc_worker_post(lane_of(h)->worker, post);
}

/* ---- work on helpers ------------------------------------------------------------------------ */

/* There and back: the lane counts it, so that close waits for `done`. */
struct blocking {
	struct mc_job job;
	struct mc_post post;
	struct mc_lane *lane;
	struct mc_work *work;
};

static void blocking_done(struct mc_post *post)
{
	struct blocking *b = MC_CONTAINER_OF(post, struct blocking, post);
	struct mc_lane *lane = b->lane;
	struct mc_work *w = b->work;

	free(b);
	if (w->done)
		w->done(w);
	__atomic_sub_fetch(&lane->calls, 1, __ATOMIC_RELEASE);
}

static void blocking_run(struct mc_job *job)
{
	struct blocking *b = MC_CONTAINER_OF(job, struct blocking, job);

	b->work->run(b->work);
	mc_worker_post(b->lane->worker, &b->post);
}

static void inline_done(struct mc_post *post)
{
	struct mc_work *w = MC_CONTAINER_OF((void **)post, struct mc_work, host[0]);

	if (w->done)
		w->done(w);
}

static void run_on_helper(const struct mc_host *h, struct mc_work *w, enum mc_job_kind kind)
{
	struct mc_lane *lane = lane_of(h);
	struct blocking *b = calloc(1, sizeof *b);

	if (!b) {
		/* Rather late than never: this thread does the work itself. */
		struct mc_post *post = (struct mc_post *)(void *)w->host;

		w->run(w);
		post->run = inline_done;
		mc_worker_post(lane->worker, post);
		return;
	}
	b->job.run = blocking_run;
	b->post.run = blocking_done;
	b->lane = lane;
	b->work = w;
	__atomic_add_fetch(&lane->calls, 1, __ATOMIC_RELAXED);
	mc_helpers_run_as(lane->device->engine->helpers, &b->job, kind);
}

static void host_run_blocking(const struct mc_host *h, struct mc_work *w)
{
	run_on_helper(h, w, MC_JOB_PLAIN);
}

static void host_run_lazily(const struct mc_host *h, struct mc_work *w)
{
	run_on_helper(h, w, MC_JOB_LAZY);
}

/* ---- devices, memory ------------------------------------------------------------------------ */

static void host_device_event(const struct mc_host *h, int event, const char *why)
{
	static const char *const words[] = {
		[MC_DEVICE_UP] = "is up", [MC_DEVICE_DOWN] = "is down", [MC_DEVICE_GONE] = "is gone"};
	struct mc_lane *lane = lane_of(h);
	uint32_t state = event == MC_DEVICE_UP	 ? MC_STATE_ACTIVE
			 : event == MC_DEVICE_DOWN ? MC_STATE_DOWN
						   : MC_STATE_MISSING;
	uint32_t before;

	if (event < MC_DEVICE_UP || event > MC_DEVICE_GONE)
		return;
	/* Every lane of a device tells; one line is enough. */
	before = __atomic_exchange_n(&lane->device->state, state, __ATOMIC_RELAXED);
	if (before != state)
		mc_log(event == MC_DEVICE_UP ? MC_LOG_INFO : MC_LOG_WARN, "device '%s': %s%s%s",
		       lane->device->label, words[event], why && *why ? ": " : "", why ? why : "");
	mc_lane_device_event(lane, event, why ? why : "");
}

static int host_mem_copy(const struct mc_host *h, struct mc_copy *c)
{
	struct mc_lane *lane = lane_of(h);

	return mc_kind_copy(lane->device->engine, lane->worker, c);
}

static int host_identify(const struct mc_host *h, const void *addr, uint64_t len,
			 struct mc_mem_desc *desc)
{
	return mc_kind_identify(lane_of(h)->device->engine, addr, len, desc);
}

/* ---- key-value ------------------------------------------------------------------------------ */

/* An answer on its way to the worker, with the key and value behind it. */
struct kv_answer {
	struct mc_post post;
	struct mc_lane *lane;
	struct mc_kv_call *call;
	int status;
	bool last; /* the call is over */
	bool has_kv;
	struct mc_kv kv;
	char bytes[];
};

static void kv_deliver(struct mc_post *post)
{
	struct kv_answer *a = MC_CONTAINER_OF(post, struct kv_answer, post);
	struct mc_lane *lane = a->lane;
	bool last = a->last;

	a->call->done(a->call, a->status, a->has_kv ? &a->kv : NULL);
	free(a);
	if (last)
		__atomic_sub_fetch(&lane->calls, 1, __ATOMIC_RELEASE);
}

static void kv_answered(void *arg, struct mc_kv_call *call, int status, const struct mc_kv *kv, bool last)
{
	struct mc_lane *lane = arg;
	size_t key_len = kv ? strlen(kv->key) + 1 : 0;
	size_t value_len = kv && kv->value ? (size_t)kv->len : 0;
	struct kv_answer *a = malloc(sizeof *a + key_len + value_len);

	while (!a) {
		/* Only the answer's own bytes can be too many; the bare failure is small. */
		kv = NULL;
		key_len = value_len = 0;
		status = -ENOMEM;
		a = malloc(sizeof *a);
	}
	memset(a, 0, sizeof *a);
	a->post.run = kv_deliver;
	a->lane = lane;
	a->call = call;
	a->status = status;
	a->last = last;
	if (kv) {
		a->has_kv = true;
		a->kv = *kv;
		a->kv.key = memcpy(a->bytes, kv->key, key_len);
		if (kv->value)
			a->kv.value = memcpy(a->bytes + key_len, kv->value, value_len);
	}
	mc_worker_post(lane->worker, &a->post);
}

static int host_kv(const struct mc_host *h, struct mc_kv_call *c)
{
	struct mc_lane *lane = lane_of(h);
	bool counted = c->op != MC_KV_UNWATCH; /* an UNWATCH is answered by the end of its watch */
	int r;

	if (counted)
		__atomic_add_fetch(&lane->calls, 1, __ATOMIC_RELAXED);
	r = mc_meta_kv(lane->device->engine, lane->device->transport, c, kv_answered, lane);
	if (r < 0 && counted)
		__atomic_sub_fetch(&lane->calls, 1, __ATOMIC_RELEASE);
	return r;
}

static uint64_t host_lease_left(const struct mc_host *h)
{
	return mc_meta_lease_left(lane_of(h)->device->engine);
}

void mc_host_init(struct mc_lane *lane)
{
	struct mc_plain_host plain;

	/* What a transport has no use for stays as it is there. */
	mc_plain_host_init(&plain, NULL, "");
	lane->host = plain.host;
	lane->host.instance = lane->label;
	lane->host.alloc = host_alloc;
	lane->host.free = host_free;
	lane->host.counter = host_counter;
	lane->host.gauge = host_gauge;
	lane->host.watch = host_watch;
	lane->host.rewatch = host_rewatch;
	lane->host.unwatch = host_unwatch;
	lane->host.timer_set = host_timer;
	lane->host.post = host_post;
	lane->host.run_blocking = host_run_blocking;
	lane->host.run_lazily = host_run_lazily;
	lane->host.complete = mc_host_complete;
	lane->host.complete_any = mc_host_complete_any;
	lane->host.peer_send = mc_host_peer_send;
	lane->host.peer_ready = mc_host_peer_ready;
	lane->host.peer_writable = mc_host_peer_writable;
	lane->host.fenced = mc_host_fenced;
	lane->host.device_event = host_device_event;
	lane->host.stream_dial = mc_host_stream_dial;
	lane->host.imported = mc_host_imported;
	lane->host.range_get = mc_host_range_get;
	lane->host.range_put = mc_host_range_put;
	lane->host.mem_copy = host_mem_copy;
	lane->host.mem_identify = host_identify;
	lane->host.kv = host_kv;
	lane->host.lease_left_ns = host_lease_left;
}
