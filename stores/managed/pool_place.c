/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where something new goes: preferred segments, then what the strategy says, first on hosts that no
 * other replica is on, then on any.  Replicas that no segment can hold are cut, where the caller
 * allows it, from the largest gaps on.
 */
#include <errno.h>
#include <string.h>

#include "core/util/check.h"
#include "pool_impl.h"

#define SAMPLES 6u /* of FREE_RATIO, for each replica */
#define MIN_PIECE (UINT64_C(1) << 20)

/* One call of mc_pool_alloc. */
struct placing {
	struct mc_pool *pool;
	const struct mc_pool_request *request;
	struct mc_pool_extent *extents;
	size_t nr; /* extents so far */
	uint32_t replica; /* that is placed now */
	bool other_host; /* must it lie on? */
};

static uint64_t draw(struct mc_pool *pool)
{
	uint64_t n = atomic_fetch_add_explicit(&pool->nr_drawn, 1, memory_order_relaxed);
	uint64_t x = pool->seed + (n + 1) * UINT64_C(0x9e3779b97f4a7c15);

	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

static uint32_t draw_below(struct mc_pool *pool, uint32_t limit)
{
	return (uint32_t)((draw(pool) >> 32) * limit >> 32);
}

/* May this replica lie there, beside those that have a place? */
static bool allowed(const struct placing *p, const struct pool_segment *s)
{
	for (size_t i = 0; i < p->nr; i++) {
		const struct pool_segment *other = p->pool->places[p->extents[i].segment & 0xffff];

		if (p->extents[i].replica != p->replica &&
		    (other == s || (p->other_host && other->host == s->host)))
			return false;
	}
	return true;
}

/* 0: one more extent. */
static int take(struct placing *p, struct pool_segment *s, uint64_t len)
{
	struct mc_space_extent e;
	int r;

	if (s->state != MC_POOL_MOUNTED ||
	    atomic_load_explicit(&s->hint, memory_order_relaxed) < len || !allowed(p, s))
		return -ENOSPC;
	pthread_mutex_lock(&s->lock);
	r = mc_space_alloc(s->space, len, p->request->align, p->request->tag, &e);
	pool_noted(s);
	pthread_mutex_unlock(&s->lock);
	if (r == 0)
		p->extents[p->nr++] = (struct mc_pool_extent){.offset = e.offset,
							      .len = len,
							      .segment = s->name,
							      .id = e.id,
							      .replica = p->replica};
	return r;
}

/* ---- strategies: each tries to place all of a replica in one segment ---------------------------
 */

static int place_random(struct placing *p)
{
	struct mc_pool *pool = p->pool;
	uint32_t at = pool->nr_open ? draw_below(pool, pool->nr_open) : 0;

	for (uint32_t i = 0; i < pool->nr_open; i++) {
		if (take(p, pool->open[at], p->request->len) == 0)
			return 0;
		at = at + 1 < pool->nr_open ? at + 1 : 0;
	}
	return -ENOSPC;
}

static double free_share(const struct pool_segment *s)
{
	return 1 - (double)atomic_load_explicit(&s->used, memory_order_relaxed) / (double)s->bytes;
}

static int place_free_ratio(struct placing *p)
{
	struct mc_pool *pool = p->pool;
	struct pool_segment *drawn[SAMPLES * MC_POOL_REPLICAS];
	uint32_t nr = pool->nr_open ? SAMPLES * p->request->nr_replicas : 0;

	for (uint32_t i = 0; i < nr; i++)
		drawn[i] = pool->open[draw_below(pool, pool->nr_open)];
	while (nr) {
		uint32_t best = 0;

		for (uint32_t i = 1; i < nr; i++) {
			if (free_share(drawn[i]) > free_share(drawn[best]))
				best = i;
		}
		if (take(p, drawn[best], p->request->len) == 0)
			return 0;
		drawn[best] = drawn[--nr];
	}
	return place_random(p);
}

static int place_local(struct placing *p)
{
	uint64_t id = p->request->host;
	struct pool_host *h;

	HASH_FIND(hh, p->pool->hosts, &id, sizeof id, h);
	for (struct pool_segment *s = h ? h->first : NULL; s; s = s->host_next) {
		if (take(p, s, p->request->len) == 0)
			return 0;
	}
	return place_random(p);
}

static int place_whole(struct placing *p)
{
	const struct mc_pool_request *q = p->request;

	for (size_t i = 0; i < q->nr_preferred; i++) {
		struct pool_segment *s = pool_find(p->pool, q->preferred[i]);

		if (s && take(p, s, q->len) == 0)
			return 0;
	}
	switch (q->strategy) {
	case MC_POOL_FREE_RATIO:
		return place_free_ratio(p);
	case MC_POOL_LOCAL:
		return place_local(p);
	default:
		return place_random(p);
	}
}

/* ---- cutting -----------------------------------------------------------------------------------
 */

static void give_back(struct placing *p, size_t nr)
{
	while (p->nr > nr) {
		const struct mc_pool_extent *e = &p->extents[--p->nr];
		struct pool_segment *s = p->pool->places[e->segment & 0xffff];

		pthread_mutex_lock(&s->lock);
		mc_space_release(s->space, e->id);
		pool_noted(s);
		pthread_mutex_unlock(&s->lock);
	}
}

static uint64_t largest_gap(struct pool_segment *s)
{
	struct mc_space_stats stats = {.size = sizeof stats};

	pthread_mutex_lock(&s->lock);
	mc_space_stats(s->space, &stats);
	pthread_mutex_unlock(&s->lock);
	return stats.largest_free;
}

/* The segment that may have the largest piece. */
static struct pool_segment *roomiest(const struct placing *p)
{
	struct pool_segment *best = NULL;
	uint64_t most = 0;

	for (uint32_t i = 0; i < p->pool->nr_open; i++) {
		struct pool_segment *s = p->pool->open[i];
		uint64_t hint = atomic_load_explicit(&s->hint, memory_order_relaxed);

		if (hint > most && allowed(p, s)) {
			most = hint;
			best = s;
		}
	}
	return best;
}

static int place_piece(struct placing *p, uint64_t *left, uint64_t min_piece)
{
	struct pool_segment *s = roomiest(p);
	uint64_t len = s ? MC_MIN(*left, largest_gap(s)) : 0;
	int r;

	if (len < MC_MIN(min_piece, *left))
		return -ENOSPC;
	r = take(p, s, len);
	if (r < 0 && len > 16) {
		/* Its alignment may cost some of the gap. */
		len -= len / 16;
		r = len < MC_MIN(min_piece, *left) ? -ENOSPC : take(p, s, len);
	}
	if (r == 0)
		*left -= len;
	return r;
}

static int place_cut(struct placing *p)
{
	const struct mc_pool_request *q = p->request;
	uint64_t left = q->len, min_piece = q->min_piece ? q->min_piece : MIN_PIECE;
	size_t before = p->nr;
	int r = 0;

	for (uint32_t i = 0; i < q->max_pieces && left && r == 0; i++)
		r = place_piece(p, &left, min_piece);
	if (!left)
		return 0;
	give_back(p, before);
	return r < 0 ? r : -ENOSPC;
}

/* ------------------------------------------------------------------------------------------------
 */

static int place_replica(struct placing *p)
{
	static const bool other_host[] = {true, false};
	int r = -ENOSPC;

	for (size_t i = 0; i < MC_ARRAY_SIZE(other_host) && r < 0; i++) {
		p->other_host = other_host[i];
		r = place_whole(p);
	}
	for (size_t i = 0; i < MC_ARRAY_SIZE(other_host) && r < 0 && p->request->max_pieces > 1;
	     i++) {
		p->other_host = other_host[i];
		r = place_cut(p);
	}
	return r;
}

int mc_pool_alloc(struct mc_pool *pool, const struct mc_pool_request *request,
		  struct mc_pool_extent *extents, size_t *ret_nr)
{
	struct mc_pool_request q = {0};
	struct placing p = {.pool = pool, .request = &q, .extents = extents};
	uint32_t nr;
	int r = 0;

	memcpy(&q, request, MC_MIN(request->size, sizeof q));
	if (!q.len || !q.nr_replicas || q.nr_replicas > MC_POOL_REPLICAS ||
	    q.max_pieces > MC_POOL_PIECES || (q.align & (q.align - 1)) ||
	    (unsigned)q.strategy >= MC_POOL_STRATEGY_COUNT || q.flags & ~MC_POOL_ALL)
		return -EINVAL;
	pthread_rwlock_rdlock(&pool->lock);
	for (; p.replica < q.nr_replicas; p.replica++) {
		r = place_replica(&p);
		if (r < 0)
			break;
	}
	nr = p.replica;
	if (nr < q.nr_replicas && q.flags & MC_POOL_ALL) {
		give_back(&p, 0);
		nr = 0;
	}
	pthread_rwlock_unlock(&pool->lock);
	if (!nr)
		return r;
	*ret_nr = p.nr;
	return (int)nr;
}
