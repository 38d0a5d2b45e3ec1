/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cutting off: every path of a peer that is evicted, every use of a buffer that is
 * unregistered while it is in use; waiting for the last path.  Called from threads that may wait.
 */
#include <errno.h>
#include <time.h>

#include "path.h"

struct evict {
	uint64_t generation;
	struct mc_session *list[64];
	size_t nr;
};

static void evict_collect(struct mc_session *s, void *arg)
{
	struct evict *e = arg;

	if (s->peer && s->peer->generation == e->generation && e->nr < MC_ARRAY_SIZE(e->list))
		e->list[e->nr++] = mc_session_ref(s);
}

struct evict_call {
	struct mc_engine *engine;
	struct evict *evict;
};

static void evict_on_control(void *arg)
{
	struct evict_call *c = arg;

	mc_session_each(c->engine, evict_collect, c->evict);
}

static int wait_closed(struct mc_session *s, uint64_t deadline_ns)
{
	struct timespec pause = {.tv_nsec = 200000};
	struct mc_paths *paths = s->paths;

	while (paths && atomic_load(&paths->open)) {
		if (mc_now_ns() >= deadline_ns)
			return -ETIMEDOUT;
		nanosleep(&pause, NULL);
	}
	return 0;
}

struct served {
	struct mc_lane *lane;
	uint64_t generation;
	uint32_t nr;
};

static void served_count(void *arg)
{
	struct served *e = arg;

	for (const struct mc_path *p = e->lane->paths; p; p = p->next)
		e->nr += !p->active && p->session->peer && p->session->peer->generation == e->generation &&
			 __atomic_load_n(&p->session->state, __ATOMIC_ACQUIRE) == MC_SESSION_GONE;
}

/* Paths by which the peer came to us in sessions that have ended: one whose process was stopped while it touched our
 * memory is there until it goes on or is gone. */
static uint32_t served_paths(struct mc_engine *engine, uint64_t generation)
{
	struct served e = {.generation = generation};

	for (size_t d = 0; d < engine->nr_devices; d++)
		for (uint32_t l = 0; l < engine->devices[d]->nr_lanes; l++) {
			e.lane = engine->devices[d]->lanes[l];
			mc_worker_call(e.lane->worker, served_count, &e);
		}
	return e.nr;
}

static int wait_served(struct mc_engine *engine, uint64_t generation, uint64_t deadline_ns, int before)
{
	struct timespec pause = {.tv_nsec = 1000000};

	while (served_paths(engine, generation)) {
		before = 0;
		if (mc_now_ns() >= deadline_ns)
			return -ETIMEDOUT;
		nanosleep(&pause, NULL);
	}
	return before;
}

int mc_paths_evict(struct mc_engine *engine, uint64_t generation, uint64_t deadline_ns)
{
	struct evict evict = {.generation = generation};
	struct evict_call call = {.engine = engine, .evict = &evict};
	int r, waited;

	mc_control_call(engine->control, evict_on_control, &call);
	r = mc_session_end(engine, generation, -ECONNRESET, "it was evicted");
	for (size_t i = 0; i < evict.nr; i++) {
		waited = wait_closed(evict.list[i], deadline_ns);
		if (!r)
			r = waited;
		mc_session_unref(evict.list[i]);
	}
	return r == 0 || r == -ENOENT ? wait_served(engine, generation, deadline_ns, r) : r;
}

struct fence_buffer {
	struct mc_lane *lane;
	const struct mc_local_buf *buf;
};

static void fence_buffer_run(void *arg)
{
	struct fence_buffer *f = arg;

	for (struct mc_path *path = f->lane->paths; path; path = path->next) {
		bool uses = !path->active && path->peer;

		for (struct mc_hslice *hs = path->inflight_list; hs && !uses; hs = hs->next)
			uses = hs->piece.run && hs->piece.run->lbuf == f->buf;
		if (uses)
			mc_path_break_request(path, -ECANCELED, "a buffer in use was unregistered");
	}
}

void mc_paths_fence_buffer(struct mc_engine *engine, struct mc_local_buf *buf)
{
	__atomic_store_n(&buf->fenced, true, __ATOMIC_RELAXED);
	for (size_t i = 0; i < engine->nr_devices; i++) {
		struct mc_device *device = engine->devices[i];

		for (uint16_t l = 0; l < device->nr_lanes; l++) {
			struct fence_buffer f = {.lane = device->lanes[l], .buf = buf};

			mc_worker_call(f.lane->worker, fence_buffer_run, &f);
			mc_worker_tick_now(f.lane->worker);
		}
	}
}

int mc_paths_wait(struct mc_engine *engine, uint64_t deadline_ns)
{
	struct timespec pause = {.tv_nsec = 200000};

	while (atomic_load(&engine->open_paths)) {
		if (mc_now_ns() >= deadline_ns)
			return -ETIMEDOUT;
		nanosleep(&pause, NULL);
	}
	return 0;
}
