/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Segments by their ids, the engines that lend them, and handles of those, which stay open.
 * An engine that was started anew is another peer: what lay in the old one's memory is gone.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "store_impl.h"

#define OPEN_NS (3 * MC_SEC)        /* for one engine to answer */
#define RETRY_NS (200 * MC_MSEC)    /* between two tries to reach one */
#define GRAVES_MAX 64
#define WARM_MAX 64                 /* peers that are opened before they are needed */
#define WARM_NS (300 * MC_MSEC)

/* ---- by id -------------------------------------------------------------------------------------- */

static size_t place_of(const struct mc_store *store, uint32_t id)
{
	size_t at = (size_t)id * UINT64_C(0x9e3779b97f4a7c15) >> 40 & (store->cap_segments - 1);

	while (store->segments[at].id && store->segments[at].id != id)
		at = (at + 1) & (store->cap_segments - 1);
	return at;
}

struct store_segment *mc_store_segment_find(struct mc_store *store, uint32_t id)
{
	struct store_segment *s;

	if (!store->cap_segments || !id)
		return NULL;
	s = &store->segments[place_of(store, id)];
	return s->id ? s : NULL;
}

static bool segments_grow(struct mc_store *store)
{
	struct store_segment *old = store->segments;
	size_t cap = store->cap_segments;
	struct store_segment *more;

	if (store->nr_segments * 2 < cap)
		return true;
	more = calloc(cap ? 2 * cap : 64, sizeof *more);
	if (!more)
		return false;
	store->segments = more;
	store->cap_segments = cap ? 2 * cap : 64;
	for (size_t i = 0; i < cap; i++)
		if (old[i].id)
			store->segments[place_of(store, old[i].id)] = old[i];
	free(old);
	return true;
}

static struct store_peer *peer_find(struct mc_store *store, const struct mc_master_segment *m)
{
	struct store_peer *p = store->peers;

	while (p && (p->generation != m->generation || strcmp(p->name, m->engine) != 0))
		p = p->next;
	if (p)
		return p;
	p = calloc(1, sizeof *p);
	if (!p)
		return NULL;
	p->name = strdup(m->engine);
	if (!p->name) {
		free(p);
		return NULL;
	}
	p->generation = m->generation;
	p->host = m->host;
	p->next = store->peers;
	store->peers = p;
	return p;
}

/* With the lock. */
static int segment_keep(struct mc_store *store, const struct mc_master_segment *m)
{
	struct store_segment *s;
	struct store_peer *p;

	if (!m->id || !m->engine)
		return -EBADMSG;
	p = peer_find(store, m);
	if (!p || !segments_grow(store))
		return -ENOMEM;
	s = &store->segments[place_of(store, m->id)];
	store->nr_segments += !s->id;
	*s = (struct store_segment){.id = m->id, .base = m->base, .len = m->len, .peer = p,
				     .lines = m->location && !strncmp(m->location, "cxl", 3)};
	return 0;
}

/* Ask the master for all segments from an id on. */
static int segments_fetch(struct store_ctx *of, uint32_t from)
{
	struct mc_store *store = of->store;
	struct store_ctx *ctx = mc_store_ctx_get(store, 1, MC_FOREVER);
	struct mc_master_segment m;
	int r = ctx ? 0 : -ENOMEM;
	bool more = ctx;

	while (r == 0 && more) {
		ctx->deadline_ns = of->deadline_ns;
		ctx->job = of->job;
		mc_store_begin(ctx, 0, 0);
		mc_wire_number(&ctx->out, &from);
		r = mc_store_call(ctx, MC_WIRE_SEGMENTS);
		more = r == 0 && ctx->head.flags & MC_WIRE_MORE && ctx->head.count;
		pthread_mutex_lock(&store->lock);
		for (uint32_t i = 0; r == 0 && i < ctx->head.count; i++) {
			m = (struct mc_master_segment){.size = sizeof m};
			mc_wire_segment(&ctx->in, &m);
			r = ctx->in.broken ? -EBADMSG : segment_keep(store, &m);
			from = m.id + 1;
		}
		pthread_mutex_unlock(&store->lock);
	}
	if (ctx) {
		if (ctx->has_why)
			mc_store_why(of, r, "%s", ctx->why.text);
		mc_store_ctx_put(ctx);
	}
	return r;
}

/* ---- handles ------------------------------------------------------------------------------------- */

/* With the lock. */
static void bury(struct mc_store *store, struct mc_segment *handle)
{
	struct store_grave *g = handle ? malloc(sizeof *g) : NULL;

	if (!g)
		return; /* no memory: it stays open until the engine is closed */
	g->handle = handle;
	g->next = store->graves;
	store->graves = g;
}

void mc_store_peers_bury(struct mc_store *store, bool wait)
{
	struct store_grave *g;
	size_t nr = 0;

	pthread_mutex_lock(&store->lock);
	for (g = store->graves; g; g = g->next)
		nr++;
	pthread_mutex_unlock(&store->lock);
	if (!nr)
		return;
	if (wait || nr > GRAVES_MAX)
		pthread_rwlock_wrlock(&store->handles);
	else if (pthread_rwlock_trywrlock(&store->handles) != 0)
		return;
	pthread_mutex_lock(&store->lock);
	g = store->graves;
	store->graves = NULL;
	pthread_mutex_unlock(&store->lock);
	while (g) {
		struct store_grave *next = g->next;

		mc_segment_close(g->handle);
		free(g);
		g = next;
	}
	pthread_rwlock_unlock(&store->handles);
}

void mc_store_peers_free(struct mc_store *store)
{
	while (store->peers) {
		struct store_peer *p = store->peers;

		store->peers = p->next;
		mc_segment_close(p->handle);
		free(p->name);
		free(p);
	}
	while (store->graves) {
		struct store_grave *g = store->graves;

		store->graves = g->next;
		mc_segment_close(g->handle);
		free(g);
	}
	free(store->segments);
}

void mc_store_peer_failed(struct mc_store *store, struct store_peer *peer, struct mc_segment *handle, int status)
{
	if (status != -ESTALE && status != -EHOSTDOWN && status != -ECONNRESET && status != -ENETDOWN && status != -ENOENT)
		return;
	pthread_mutex_lock(&store->lock);
	if (peer->handle && peer->handle == handle) {
		bury(store, handle);
		peer->handle = NULL;
		peer->why = 0; /* it may be opened at once */
	}
	pthread_mutex_unlock(&store->lock);
}

/* Open it, or wait for the thread that does.  Without the lock; the outcome is in the peer. */
static void peer_open(struct mc_store *store, struct store_peer *peer, uint64_t timeout_ns)
{
	struct mc_segment *handle = NULL;
	bool mine;
	int r;

	pthread_mutex_lock(&store->lock);
	if (peer->opening) {
		while (peer->opening)
			mc_store_wait(store, &store->changed, MC_FOREVER);
		pthread_mutex_unlock(&store->lock);
		return;
	}
	mine = peer->opening = !peer->handle;
	peer->tried = true;
	pthread_mutex_unlock(&store->lock);
	if (!mine)
		return;
	r = mc_segment_open(store->engine, peer->name, MC_MAX(timeout_ns, MC_MSEC), &handle, NULL);
	if (r == 0 && mc_segment_generation(handle) != peer->generation) {
		mc_segment_close(handle);
		handle = NULL;
		r = -ESTALE;
	}
	pthread_mutex_lock(&store->lock);
	peer->opening = false;
	peer->handle = handle;
	peer->why = r;
	peer->lost = r == -ESTALE;
	peer->retry_ns = mc_store_now() + RETRY_NS;
	pthread_cond_broadcast(&store->changed);
	pthread_mutex_unlock(&store->lock);
}

void mc_store_peers_warm(struct mc_store *store)
{
	struct store_peer *p;
	int nr = 0;

	pthread_mutex_lock(&store->lock);
	for (p = store->peers; p && nr < WARM_MAX; p = p->next, nr++) {
		if (p->tried)
			continue;
		pthread_mutex_unlock(&store->lock);
		peer_open(store, p, WARM_NS);
		pthread_mutex_lock(&store->lock);
		break;
	}
	pthread_mutex_unlock(&store->lock);
}

/* ---- what a call needs ------------------------------------------------------------------------------ */

static void replica_failed(struct store_item *item, uint32_t replica, int why)
{
	item->failed |= 1u << replica;
	item->why = why;
}

static uint32_t usable(const struct store_item *item)
{
	return ((1u << item->nr_replicas) - 1) & ~item->failed;
}

/* The lowest id that is not known, or whose peer is lost; 0: none. */
static uint32_t unknown_segment(struct store_ctx *ctx, bool fail)
{
	uint32_t id = 0;

	for (size_t k = 0; k < ctx->nr_group; k++) {
		struct store_item *item = &ctx->items[ctx->group[k]];

		for (uint32_t i = item->first; item->op->status == 0 && i < item->first + item->nr; i++) {
			const struct mc_master_extent *x = &ctx->extents.at[i];
			const struct store_segment *s = mc_store_segment_find(ctx->store, x->segment);

			if (x->replica >= item->nr_replicas || (s && !s->peer->lost && mc_range_inside(s->base, s->len, x->offset, x->len)))
				continue;
			if (fail)
				replica_failed(item, x->replica, -ESTALE);
			else if (!(item->failed & 1u << x->replica))
				id = id ? MC_MIN(id, x->segment) : x->segment;
		}
	}
	return id;
}

struct rating {
	bool down, far;
	uint64_t load;
};

static struct rating rate(struct store_ctx *ctx, const struct store_item *item, uint32_t replica, uint64_t now)
{
	struct rating all = {0};

	for (uint32_t i = item->first; i < item->first + item->nr; i++) {
		const struct mc_master_extent *x = &ctx->extents.at[i];
		const struct store_peer *p;

		if (x->replica != replica)
			continue;
		p = mc_store_segment_find(ctx->store, x->segment)->peer;
		all.down |= !p->handle && now < p->retry_ns && p->why;
		all.far |= p->host != ctx->store->host;
		all.load = MC_MAX(all.load, atomic_load_explicit(&p->in_flight, memory_order_relaxed));
	}
	return all;
}

/* Read the nearest, and of those the one with the least to do. */
static void choose(struct store_ctx *ctx, struct store_item *item, uint64_t now)
{
	uint32_t left = usable(item), turn;
	struct rating best = {0};
	bool have = false;

	if (!left)
		return;
	if (!(left & (left - 1))) {
		item->replica = (uint32_t)__builtin_ctz(left);
		return;
	}
	turn = atomic_fetch_add_explicit(&ctx->store->turn, 1, memory_order_relaxed);
	for (uint32_t k = 0; k < item->nr_replicas; k++) {
		uint32_t replica = (k + turn) % item->nr_replicas;
		struct rating r;

		if (!(left & 1u << replica))
			continue;
		r = rate(ctx, item, replica, now);
		if (!have || r.down < best.down || (r.down == best.down && (r.far < best.far ||
		    (r.far == best.far && r.load < best.load)))) {
			best = r;
			item->replica = replica;
		}
		have = true;
	}
}

/* A peer that is to be opened; NULL: all are, or their replicas have failed.  one: the chosen replica alone counts. */
static struct store_peer *to_open(struct store_ctx *ctx, bool one)
{
	uint64_t now = mc_store_now();

	for (size_t k = 0; k < ctx->nr_group; k++) {
		struct store_item *item = &ctx->items[ctx->group[k]];

		if (item->op->status)
			continue;
		if (one && item->failed & 1u << item->replica)
			choose(ctx, item, now);
		for (uint32_t i = item->first; usable(item) && i < item->first + item->nr; i++) {
			const struct mc_master_extent *x = &ctx->extents.at[i];
			struct store_peer *p;

			if (item->failed & 1u << x->replica || (one && x->replica != item->replica))
				continue;
			p = mc_store_segment_find(ctx->store, x->segment)->peer;
			if (p->handle)
				continue;
			if (p->opening || (!p->lost && (!p->why || now >= p->retry_ns)))
				return p;
			replica_failed(item, x->replica, p->why);
			if (one) {
				choose(ctx, item, now);
				i = item->first - 1; /* all of the next one */
			}
		}
	}
	return NULL;
}

void mc_store_segments_know(struct store_ctx *ctx, uint32_t first, uint32_t nr)
{
	struct mc_store *store = ctx->store;
	uint32_t id = 0;

	pthread_mutex_lock(&store->lock);
	for (uint32_t i = first; i < first + nr; i++)
		if (!mc_store_segment_find(store, ctx->extents.at[i].segment))
			id = id ? MC_MIN(id, ctx->extents.at[i].segment) : ctx->extents.at[i].segment;
	pthread_mutex_unlock(&store->lock);
	if (id)
		segments_fetch(ctx, id);
}

int mc_store_resolve(struct store_ctx *ctx, bool one)
{
	struct mc_store *store = ctx->store;
	struct store_peer *peer;
	uint32_t id;
	int r = 0;

	pthread_mutex_lock(&store->lock);
	id = unknown_segment(ctx, false);
	if (id) {
		pthread_mutex_unlock(&store->lock);
		r = segments_fetch(ctx, id);
		pthread_mutex_lock(&store->lock);
		unknown_segment(ctx, true);
	}
	for (size_t k = 0; one && k < ctx->nr_group; k++)
		choose(ctx, &ctx->items[ctx->group[k]], mc_store_now());
	while (r == 0 && (peer = to_open(ctx, one)) != NULL) {
		pthread_mutex_unlock(&store->lock);
		peer_open(store, peer, MC_MIN(mc_store_left(ctx->deadline_ns), OPEN_NS));
		pthread_mutex_lock(&store->lock);
		/* Lost just now: what lies in it fails. */
		unknown_segment(ctx, true);
	}
	pthread_mutex_unlock(&store->lock);
	return r;
}
