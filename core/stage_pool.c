/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Staging: the pools of a lane and the copies between chunks and buffers.  A pool
 * is allocated and registered by a helper, because pinning takes long.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "pages.h"
#include "stage.h"

#define CHUNK_MIN 4096u
#define AGAIN_NS 100000

/* ---- sizes ------------------------------------------------------------------------------------------- */

void mc_stage_sizes(const struct mc_settings *set, size_t nr_lanes, uint64_t max_reg,
		    uint64_t *ret_chunk, uint32_t *ret_nr)
{
	uint64_t share = (uint64_t)set->staging_pool / (2 * MC_MAX(nr_lanes, (size_t)1));
	uint64_t chunk;

	if (max_reg)
		share = MC_MIN(share, max_reg);
	chunk = MC_MIN((uint64_t)set->staging_chunk, share) / CHUNK_MIN * CHUNK_MIN;
	chunk = MC_MAX(chunk, (uint64_t)CHUNK_MIN);
	*ret_chunk = chunk;
	*ret_nr = (uint32_t)MC_MIN(MC_MAX(share / chunk, (uint64_t)1), (uint64_t)65536);
}

/* As the engine was opened: chunks of routes that were built then must fit chunks of pools made later.
 * Devices that joined since take a share of their own. */
static size_t nr_lanes(const struct mc_engine *engine)
{
	size_t n = engine->nr_lanes;

	if (n)
		return n;
	for (size_t i = 0; i < engine->nr_devices; i++)
		n += engine->devices[i]->nr_lanes;
	return n;
}

uint64_t mc_stage_piece_max(const struct mc_engine *engine)
{
	uint64_t least = UINT64_MAX, chunk;
	uint32_t nr;

	if (!engine->set->staging_pool)
		return 0;
	for (size_t i = 0; i < engine->nr_devices; i++) {
		mc_stage_sizes(engine->set, nr_lanes(engine), engine->devices[i]->caps.max_reg, &chunk, &nr);
		least = MC_MIN(least, chunk);
	}
	return least;
}

/* ---- opening a pool ---------------------------------------------------------------------------------- */

static void *region_new(const struct mc_device *d)
{
	size_t full = mc_round_up(d->ops->region_size + 1, MC_CACHE_LINE);
	void *area = aligned_alloc(MC_CACHE_LINE, full);

	return area ? memset(area, 0, full) : NULL;
}

static int pool_register(struct mc_stage_pool *pool)
{
	struct mc_device *d = pool->lane->device;
	struct mc_mem_desc desc = {
		.size = sizeof desc, .addr = pool->base, .len = pool->nr * pool->chunk,
		.kind = mc_kind_name("cpu"), .ordinal = d->info.numa_node, .dmabuf_fd = -1, .share_fd = -1,
		.access = pool->lend ? MC_ACCESS_ALL : MC_ACCESS_LOCAL,
	};
	struct mc_error err = {0};
	int r;

	pool->region = region_new(d);
	if (!pool->region)
		return -ENOMEM;
	r = d->ops->mem_reg(d->lanes[0]->inst, pool->region, &desc, &err);
	if (r < 0) {
		free(pool->region);
		pool->region = NULL;
		if (r == -ENOTSUP && !d->plugin->has_mem_reg) /* a transport that needs no registration */
			return 0;
		mc_warn("device '%s': staging: registering %llu bytes: %s", d->label,
			(unsigned long long)desc.len, err.text[0] ? err.text : strerror(-r));
		return r;
	}
	if (!pool->lend || !d->plugin->has_mem_export)
		return 0;
	r = d->ops->mem_export(d->lanes[0]->inst, pool->region, pool->blob, sizeof pool->blob);
	if (r == -ENOTSUP)
		return 0;
	if (r < 0 || (size_t)r > sizeof pool->blob)
		return r < 0 ? r : -EPROTO;
	pool->blob_len = (uint16_t)r;
	return 0;
}

static void pool_release(struct mc_stage_pool *pool)
{
	struct mc_device *d = pool->lane->device;

	if (pool->region) {
		d->ops->mem_unreg(d->lanes[0]->inst, pool->region);
		free(pool->region);
		pool->region = NULL;
	}
	if (pool->pinned)
		mc_kinds_unpin(d->engine, pool->base);
	pool->pinned = false;
	mc_pages_free(pool->base, pool->nr * pool->chunk);
	pool->base = NULL;
	free(pool->chunks);
	pool->chunks = pool->free = NULL;
}

static int pool_make(struct mc_stage_pool *pool)
{
	const struct mc_device *d = pool->lane->device;

	mc_stage_sizes(d->engine->set, nr_lanes(d->engine), d->caps.max_reg, &pool->chunk, &pool->nr);
	pool->chunks = calloc(pool->nr, sizeof *pool->chunks);
	pool->base = mc_pages_alloc(pool->nr * pool->chunk, d->info.numa_node);
	if (!pool->base)
		pool->base = mc_pages_alloc(pool->nr * pool->chunk, -1);
	if (!pool->chunks || !pool->base)
		return -ENOMEM;
	for (uint32_t i = pool->nr; i-- > 0;) {
		pool->chunks[i].addr = pool->base + i * pool->chunk;
		pool->chunks[i].next = pool->free;
		pool->free = &pool->chunks[i];
	}
	mc_kinds_pin(d->engine, pool->base, pool->nr * pool->chunk);
	pool->pinned = true;
	return pool_register(pool);
}

static void pool_opened(struct mc_post *post)
{
	struct mc_stage_pool *pool = MC_CONTAINER_OF(post, struct mc_stage_pool, post);

	pool->state = pool->status < 0 ? MC_POOL_FAILED : MC_POOL_OPEN;
	__atomic_fetch_sub(&pool->lane->calls, 1, __ATOMIC_RELEASE);
	pool->opened(pool);
}

/* [helper] */
static void pool_open(struct mc_job *job)
{
	struct mc_stage_pool *pool = MC_CONTAINER_OF(job, struct mc_stage_pool, job);

	pool->status = pool_make(pool);
	if (pool->status < 0)
		pool_release(pool);
	mc_worker_post(pool->lane->worker, &pool->post);
}

int mc_stage_take(struct mc_stage_pool *pool, uint32_t held, struct mc_stage_chunk **ret_chunk)
{
	switch (pool->state) {
	case MC_POOL_OPEN:
		/* A peer that does not go on leaves something for the others. */
		if (!pool->free || (held && held >= (pool->nr + 1) / 2))
			return -EAGAIN;
		*ret_chunk = pool->free;
		pool->free = pool->free->next;
		return 0;
	case MC_POOL_FAILED:
		pool->state = MC_POOL_NONE;
		return pool->status;
	case MC_POOL_NONE:
		pool->state = MC_POOL_OPENING;
		pool->job.run = pool_open;
		pool->post.run = pool_opened;
		__atomic_fetch_add(&pool->lane->calls, 1, __ATOMIC_RELAXED);
		mc_helpers_run(pool->lane->device->engine->helpers, &pool->job);
		break;
	case MC_POOL_OPENING:
		break;
	}
	return -EAGAIN;
}

void mc_stage_give(struct mc_stage_pool *pool, struct mc_stage_chunk *chunk)
{
	chunk->next = pool->free;
	pool->free = chunk;
}

/* ---- copies ---------------------------------------------------------------------------------------------- */

static void copied(struct mc_copy *copy, int status)
{
	struct mc_stage_copy *c = MC_CONTAINER_OF(copy, struct mc_stage_copy, copy);

	c->done(c, MC_MIN(status, 0));
}

static int copy_start(struct mc_stage_copy *c)
{
	struct mc_stage_lane *sl = c->lane->stage;
	int r = mc_kind_copy(c->lane->device->engine, c->lane->worker, &c->copy);

	if (r != -EAGAIN)
		return r;
	if (!sl->again)
		mc_worker_timer(c->lane->worker, &sl->timer, mc_now_ns() + AGAIN_NS);
	c->next = sl->again;
	sl->again = c;
	return 0;
}

static void copy_again(struct mc_timer *t, uint64_t now_ns)
{
	struct mc_stage_lane *sl = MC_CONTAINER_OF(t, struct mc_stage_lane, timer);
	struct mc_stage_copy *list = sl->again;

	sl->again = NULL;
	while (list) {
		struct mc_stage_copy *c = list;
		int r;

		list = c->next;
		r = copy_start(c);
		if (r)
			c->done(c, MC_MIN(r, 0));
	}
}

int mc_stage_copy(struct mc_stage_copy *c)
{
	c->copy.size = sizeof c->copy;
	c->copy.done = copied;
	return copy_start(c);
}

/* ---- staging of a lane --------------------------------------------------------------------------------------- */

static void own_opened(struct mc_stage_pool *pool)
{
	for (struct mc_path *path = pool->lane->paths; path; path = path->next)
		if (path->stage_wait)
			mc_path_set_ready(path);
}

static void lent_opened(struct mc_stage_pool *pool)
{
	mc_stage_serve_next(pool->lane->stage);
}

struct mc_stage_lane *mc_stage_lane_get(struct mc_lane *lane)
{
	struct mc_stage_lane *sl = lane->stage;

	if (MC_LIKELY(sl))
		return sl;
	sl = calloc(1, sizeof *sl);
	if (!sl)
		return NULL;
	sl->lane = sl->own.lane = sl->lent.lane = lane;
	sl->own.opened = own_opened;
	sl->lent.opened = lent_opened;
	sl->lent.lend = true;
	sl->queue_tail = &sl->queue;
	sl->timer.size = sizeof sl->timer;
	sl->timer.fire = copy_again;
	lane->stage = sl;
	return sl;
}

static int close_job(void *arg)
{
	struct mc_stage_lane *sl = arg;

	pool_release(&sl->own);
	pool_release(&sl->lent);
	return 0;
}

void mc_stage_lane_close(struct mc_lane *lane)
{
	struct mc_stage_lane *sl = lane->stage;

	if (!sl)
		return;
	mc_helpers_call(lane->device->engine->helpers, close_job, sl);
	mc_stage_slabs_free(sl);
	lane->stage = NULL;
	free(sl);
}
