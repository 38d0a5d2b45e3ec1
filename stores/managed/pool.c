/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pool's segments: mounted, drained, unmounted, looked at; and what goes straight to one of
 * them.  Where something new goes is decided in pool_place.c.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/util/check.h"
#include "pool_impl.h"
#include "space_impl.h"

struct pool_segment *pool_find(const struct mc_pool *pool, uint32_t name)
{
	struct pool_segment *s = pool->places[name & 0xffff];

	return s && s->name == name ? s : NULL;
}

void pool_noted(struct pool_segment *s)
{
	atomic_store_explicit(&s->used, s->space->used << s->space->shift, memory_order_relaxed);
	atomic_store_explicit(&s->hint, mc_space_hint(s->space), memory_order_relaxed);
}

/* ---- segments ----------------------------------------------------------------------------------
 */

static void open_add(struct mc_pool *pool, struct pool_segment *s)
{
	s->nr_in_open = pool->nr_open;
	pool->open[pool->nr_open++] = s;
}

static void open_remove(struct mc_pool *pool, struct pool_segment *s)
{
	struct pool_segment *last = pool->open[--pool->nr_open];

	pool->open[s->nr_in_open] = last;
	last->nr_in_open = s->nr_in_open;
}

static void segment_free(struct pool_segment *s)
{
	mc_space_free(s->space);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static int host_join(struct mc_pool *pool, uint64_t id, struct pool_segment *s)
{
	struct pool_host *h;

	HASH_FIND(hh, pool->hosts, &id, sizeof id, h);
	if (!h) {
		h = calloc(1, sizeof *h);
		if (!h)
			return -ENOMEM;
		h->id = id;
		HASH_ADD(hh, pool->hosts, id, sizeof h->id, h);
	}
	s->host = h;
	s->host_next = h->first;
	h->first = s;
	return 0;
}

static void host_leave(struct mc_pool *pool, struct pool_segment *s)
{
	struct pool_host *h = s->host;
	struct pool_segment **place = &h->first;

	while (*place != s)
		place = &(*place)->host_next;
	*place = s->host_next;
	if (!h->first) {
		HASH_DEL(pool->hosts, h);
		free(h);
	}
}

/* With the lock for writing. */
static int enter(struct mc_pool *pool, uint64_t host, struct pool_segment *s)
{
	uint32_t place = 0;
	int r;

	if (pool->nr_segments == MC_POOL_SEGMENTS)
		return -EMFILE;
	/* A new place while there are any, so that names come again as late as can be. */
	if (pool->nr_places < MC_POOL_SEGMENTS)
		place = pool->nr_places;
	else
		while (pool->places[place])
			place++;
	r = host_join(pool, host, s);
	if (r < 0)
		return r;
	pool->nr_places = MC_MAX(pool->nr_places, place + 1);
	s->name = (uint32_t)++pool->uses[place] << 16 | place;
	pool->places[place] = s;
	pool->nr_segments++;
	open_add(pool, s);
	return 0;
}

int mc_pool_mount(struct mc_pool *pool, const struct mc_space_options *options, uint64_t host,
		  uint32_t *ret_segment)
{
	struct pool_segment *s = calloc(1, sizeof *s);
	int r;

	if (!s)
		return -ENOMEM;
	r = mc_space_new(options, &s->space);
	if (r < 0) {
		free(s);
		return r;
	}
	pthread_mutex_init(&s->lock, NULL);
	pool_noted(s);
	s->bytes = s->space->units << s->space->shift;
	pthread_rwlock_wrlock(&pool->lock);
	r = enter(pool, host, s);
	if (r == 0)
		*ret_segment = s->name;
	pthread_rwlock_unlock(&pool->lock);
	if (r < 0)
		segment_free(s);
	return r;
}

int mc_pool_drain(struct mc_pool *pool, uint32_t segment, bool drain)
{
	enum mc_pool_state want = drain ? MC_POOL_DRAINING : MC_POOL_MOUNTED;
	struct pool_segment *s;

	pthread_rwlock_wrlock(&pool->lock);
	s = pool_find(pool, segment);
	if (s && s->state != want) {
		s->state = want;
		if (drain)
			open_remove(pool, s);
		else
			open_add(pool, s);
	}
	pthread_rwlock_unlock(&pool->lock);
	return s ? 0 : -ENOENT;
}

int mc_pool_unmount(struct mc_pool *pool, uint32_t segment,
		    int (*each)(void *arg, const struct mc_space_extent *extent), void *arg)
{
	struct pool_segment *s;

	pthread_rwlock_wrlock(&pool->lock);
	s = pool_find(pool, segment);
	if (s) {
		pool->places[segment & 0xffff] = NULL;
		pool->nr_segments--;
		if (s->state == MC_POOL_MOUNTED)
			open_remove(pool, s);
		host_leave(pool, s);
	}
	pthread_rwlock_unlock(&pool->lock);
	if (!s)
		return -ENOENT;
	if (each)
		mc_space_each(s->space, each, arg);
	segment_free(s);
	return 0;
}

/* ---- of one segment ----------------------------------------------------------------------------
 */

static struct pool_segment *enter_segment(struct mc_pool *pool, uint32_t name)
{
	struct pool_segment *s;

	pthread_rwlock_rdlock(&pool->lock);
	s = pool_find(pool, name);
	if (s)
		pthread_mutex_lock(&s->lock);
	else
		pthread_rwlock_unlock(&pool->lock);
	return s;
}

static void leave_segment(struct mc_pool *pool, struct pool_segment *s)
{
	pthread_mutex_unlock(&s->lock);
	pthread_rwlock_unlock(&pool->lock);
}

int mc_pool_release(struct mc_pool *pool, uint32_t segment, uint32_t id)
{
	struct pool_segment *s = enter_segment(pool, segment);
	int r;

	if (!s)
		return -ENOENT;
	r = mc_space_release(s->space, id);
	pool_noted(s);
	leave_segment(pool, s);
	return r;
}

int mc_pool_reserve(struct mc_pool *pool, uint32_t segment, uint64_t offset, uint64_t len,
		    uint64_t tag, struct mc_space_extent *ret_extent)
{
	struct pool_segment *s = enter_segment(pool, segment);
	int r;

	if (!s)
		return -ENOENT;
	r = mc_space_reserve(s->space, offset, len, tag, ret_extent);
	pool_noted(s);
	leave_segment(pool, s);
	return r;
}

int mc_pool_get(struct mc_pool *pool, uint32_t segment, uint32_t id,
		struct mc_space_extent *ret_extent)
{
	struct pool_segment *s = enter_segment(pool, segment);
	int r;

	if (!s)
		return -ENOENT;
	r = mc_space_get(s->space, id, ret_extent);
	leave_segment(pool, s);
	return r;
}

int mc_pool_each(struct mc_pool *pool, uint32_t segment,
		 int (*each)(void *arg, const struct mc_space_extent *extent), void *arg)
{
	struct pool_segment *s = enter_segment(pool, segment);
	int r;

	if (!s)
		return -ENOENT;
	r = mc_space_each(s->space, each, arg);
	leave_segment(pool, s);
	return r;
}

int mc_pool_segment(struct mc_pool *pool, uint32_t segment, struct mc_pool_segment_info *info)
{
	struct pool_segment *s = enter_segment(pool, segment);
	struct mc_pool_segment_info all = {.space.size = sizeof all.space};

	if (!s)
		return -ENOENT;
	all.size = MC_MIN(info->size, sizeof all);
	all.segment = segment;
	all.state = s->state;
	all.host = s->host->id;
	mc_space_stats(s->space, &all.space);
	leave_segment(pool, s);
	memcpy(info, &all, all.size);
	return 0;
}

/* ---- of all ------------------------------------------------------------------------------------
 */

void mc_pool_settle(struct mc_pool *pool)
{
	pthread_rwlock_rdlock(&pool->lock);
	for (uint32_t i = 0; i < pool->nr_places; i++) {
		struct pool_segment *s = pool->places[i];

		if (!s)
			continue;
		pthread_mutex_lock(&s->lock);
		mc_space_settle(s->space);
		pthread_mutex_unlock(&s->lock);
	}
	pthread_rwlock_unlock(&pool->lock);
}

void mc_pool_stats(struct mc_pool *pool, struct mc_pool_stats *stats)
{
	struct mc_pool_stats all = {.size = MC_MIN(stats->size, sizeof all),
				    .metadata = sizeof *pool};

	pthread_rwlock_rdlock(&pool->lock);
	for (uint32_t i = 0; i < pool->nr_places; i++) {
		struct pool_segment *s = pool->places[i];
		struct mc_space_stats one = {.size = sizeof one};

		if (!s)
			continue;
		pthread_mutex_lock(&s->lock);
		mc_space_stats(s->space, &one);
		pthread_mutex_unlock(&s->lock);
		all.bytes += one.bytes;
		all.used += one.used;
		all.metadata += one.metadata + sizeof *s;
		all.nr_extents += one.nr_extents;
		all.nr_draining += s->state == MC_POOL_DRAINING;
		all.free += s->state == MC_POOL_MOUNTED ? one.bytes - one.used : 0;
		all.bytes_open += s->state == MC_POOL_MOUNTED ? one.bytes : 0;
	}
	all.nr_segments = pool->nr_segments;
	all.nr_hosts = HASH_COUNT(pool->hosts);
	all.metadata += all.nr_hosts * sizeof(struct pool_host);
	pthread_rwlock_unlock(&pool->lock);
	memcpy(stats, &all, all.size);
}

int mc_pool_new(uint64_t seed, struct mc_pool **ret_pool)
{
	struct mc_pool *pool = calloc(1, sizeof *pool);
	pthread_rwlockattr_t attr;

	if (!pool)
		return -ENOMEM;
	pool->seed = seed;
	pthread_rwlockattr_init(&attr);
	/* Allocations come without a pause; a mount must not wait for one. */
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&pool->lock, &attr);
	pthread_rwlockattr_destroy(&attr);
	*ret_pool = pool;
	return 0;
}

void mc_pool_free(struct mc_pool *pool)
{
	if (!pool)
		return;
	for (uint32_t i = 0; i < pool->nr_places; i++) {
		struct pool_segment *s = pool->places[i];

		if (!s)
			continue;
		host_leave(pool, s);
		segment_free(s);
	}
	pthread_rwlock_destroy(&pool->lock);
	free(pool);
}
