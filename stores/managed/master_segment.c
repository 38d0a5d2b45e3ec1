/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clients and the memory that they lend.  A segment that goes is marked first, so that
 * nothing of it is told any more, and then emptied piece by piece.
 *
 *   record of a segment   0 u8 format · 1 u8 1: drained · 2 zeros · 8 uuid[16] · 24 client[16] · 40 u64 generation ·
 *                         48 u64 base · 56 u64 bytes · 64 u64 host · 72 engine and location, each with its NUL
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/util/bytes.h"
#include "master_impl.h"

#define HEAD 72u
#define PIECE 512u /* extents of dying segments that are dropped in one tick */

struct client *client_find(const struct mc_master *s, const struct mc_master_client_id *id)
{
	struct client *c;

	HASH_FIND(hh, s->clients, id, sizeof *id, c);
	return c;
}

struct segment *segment_find(const struct mc_master *s, uint32_t id)
{
	for (struct segment *seg = s->segments; seg; seg = seg->next)
		if (seg->id == id)
			return seg;
	return NULL;
}

/* ---- records --------------------------------------------------------------------------------- */

static int segment_log(struct mc_master *s, const struct segment *seg, bool gone, uint64_t *ret_seq)
{
	int r;

	uint8_t record[HEAD + 2 * (MC_MASTER_SEGMENT_NAME_MAX + 1)] = {0};
	size_t engine = strlen(seg->engine) + 1, location = strlen(seg->location) + 1;
	struct mc_store_change change = {.table = MC_MASTER_TABLE_SEGMENT, .id = seg->id, .gone = gone, .value = record,
					 .len = (uint32_t)(HEAD + engine + location)};

	record[0] = MASTER_FORMAT;
	record[1] = seg->drain;
	memcpy(record + 8, seg->uuid, 16);
	memcpy(record + 24, &seg->client, 16);
	mc_put64(record + 40, seg->generation);
	mc_put64(record + 48, seg->base);
	mc_put64(record + 56, seg->len);
	mc_put64(record + 64, seg->host);
	memcpy(record + HEAD, seg->engine, engine);
	memcpy(record + HEAD + engine, seg->location, location);
	if (gone)
		change.len = 0;
	r = sink_append(s, &change, 1);
	*ret_seq = change.seq;
	return r;
}

void dropped_free(struct dropped *d)
{
	if (!d)
		return;
	free(d->engine);
	free(d);
}

static void segment_free(struct segment *seg)
{
	dropped_free(seg->stone);
	free(seg->engine);
	free(seg->location);
	free(seg);
}

static struct segment *segment_new(struct mc_master *s, const struct mc_master_segment *from, int *ret)
{
	struct mc_space_options options = {.size = sizeof options, .bytes = from->len, .granule = s->limits.granule};
	struct segment *seg = calloc(1, sizeof *seg);

	*ret = -ENOMEM;
	if (!seg)
		return NULL;
	seg->engine = strdup(from->engine);
	seg->location = strdup(from->location ? from->location : "*");
	seg->stone = calloc(1, sizeof *seg->stone);
	if (seg->stone)
		seg->stone->engine = strdup(from->engine);
	if (seg->engine && seg->location && seg->stone && seg->stone->engine)
		*ret = mc_pool_mount(s->pool, &options, from->host, &seg->place);
	if (*ret < 0) {
		segment_free(seg);
		return NULL;
	}
	memcpy(seg->uuid, from->uuid, 16);
	seg->client = from->client;
	seg->generation = from->generation;
	seg->base = from->base;
	seg->len = from->len;
	seg->host = from->host;
	return seg;
}

static void segment_link(struct mc_master *s, struct segment *seg)
{
	struct segment **at = &s->segments;

	while (*at)
		at = &(*at)->next;
	*at = seg;
	s->places[seg->place & 0xffff] = seg;
}

static bool text_inside(const uint8_t *p, size_t left, size_t *ret_len)
{
	const void *end = memchr(p, 0, left);

	*ret_len = end ? (size_t)((const uint8_t *)end - p) + 1 : 0;
	return end && *ret_len <= MC_MASTER_SEGMENT_NAME_MAX + 1;
}

int segment_load(struct mc_master *s, uint64_t id, const uint8_t *v, size_t len, struct mc_error *err)
{
	struct mc_master_segment from = {.size = sizeof from};
	size_t engine = 0, location = 0;
	struct segment *seg;
	int r;

	if (len < HEAD || v[0] != MASTER_FORMAT || id == 0 || id > UINT32_MAX || segment_find(s, (uint32_t)id) ||
	    !text_inside(v + HEAD, len - HEAD, &engine) || !text_inside(v + HEAD + engine, len - HEAD - engine, &location) ||
	    HEAD + engine + location != len)
		return mc_fail(err, -EBADMSG, "segment %llu: its record is damaged", (unsigned long long)id);
	memcpy(from.uuid, v + 8, 16);
	memcpy(&from.client, v + 24, 16);
	from.generation = mc_get64(v + 40);
	from.base = mc_get64(v + 48);
	from.len = mc_get64(v + 56);
	from.host = mc_get64(v + 64);
	if (from.base + from.len < from.base)
		return mc_fail(err, -EBADMSG, "segment %llu: its record is damaged", (unsigned long long)id);
	from.engine = (const char *)v + HEAD;
	from.location = (const char *)v + HEAD + engine;
	seg = segment_new(s, &from, &r);
	if (!seg)
		return mc_fail(err, r == -EINVAL ? -EBADMSG : r, "segment %llu: %s", (unsigned long long)id,
			       r == -EINVAL ? "its record is damaged" : strerror(-r));
	seg->id = (uint32_t)id;
	seg->drain = v[1] & 1;
	seg->held = true;
	atomic_store(&seg->state, MC_MASTER_SUSPECT);
	mc_pool_drain(s->pool, seg->place, true);
	segment_link(s, seg);
	s->last_segment = MC_MAX(s->last_segment, seg->id);
	return 0;
}

/* ---- clients --------------------------------------------------------------------------------- */

/* With admin as a writer. */
static void segment_kill(struct mc_master *s, struct segment *seg, uint64_t now)
{
	struct dropped *d = seg->stone;

	atomic_store(&seg->state, MASTER_SEGMENT_GONE);
	mc_pool_drain(s->pool, seg->place, true);
	if (!d)
		return;
	seg->stone = NULL;
	d->generation = seg->generation;
	d->base = seg->base;
	d->len = seg->len;
	d->id = seg->id;
	d->until_ns = now + MC_MAX(s->lease_max, s->limits.put_ttl_ns);
	d->next = s->dropped;
	s->dropped = d;
	/* At once, so that no other life of the master takes it up again. */
	if (segment_log(s, seg, true, &d->seq) < 0)
		d->seq = 0;
	else
		s->sink.want(s->sink.ctx, d->seq);
}

static void client_gone(struct mc_master *s, struct client *c, uint64_t now)
{
	struct mc_master_client_id id = c->id;

	for (struct segment *seg = s->segments; seg; seg = seg->next)
		if (memcmp(&seg->client, &id, sizeof id) == 0)
			segment_kill(s, seg, now);
	HASH_DEL(s->clients, c);
	free(c->engine);
	free(c);
	puts_expire(s, &id, now);
	quarantine_look(s);
}

static int client_new(struct mc_master *s, const struct mc_master_ping *ping, uint64_t now)
{
	struct client *c = calloc(1, sizeof *c);

	if (!c)
		return -ENOMEM;
	c->id = ping->client;
	c->engine = strdup(ping->engine);
	if (!c->engine) {
		free(c);
		return -ENOMEM;
	}
	c->generation = ping->generation;
	c->ping_ns = now;
	HASH_ADD(hh, s->clients, id, sizeof c->id, c);
	return 0;
}

static bool lends(const struct mc_master *s, const struct mc_master_client_id *id)
{
	for (const struct segment *seg = s->segments; seg; seg = seg->next) {
		uint32_t state = atomic_load(&seg->state);

		if (memcmp(&seg->client, id, sizeof *id) == 0 && state != MASTER_SEGMENT_GONE && state != MC_MASTER_SUSPECT)
			return true;
	}
	return false;
}

int mc_master_client_ping(struct mc_master *s, struct mc_master_ping *ping, uint64_t now)
{
	struct client *c;
	int r = 0;

	ping->remount = false;
	ping->nr_evict = 0;
	if (!ping->engine || strlen(ping->engine) > MC_MASTER_SEGMENT_NAME_MAX)
		return -EINVAL;
	pthread_rwlock_rdlock(&s->admin);
	c = client_find(s, &ping->client);
	if (c && c->generation == ping->generation) {
		__atomic_store_n(&c->ping_ns, now, __ATOMIC_RELAXED);
		for (size_t i = 0; i < ping->nr_evicted; i++)
			quarantine_confirm(s, c, ping->evicted[i]);
		ping->nr_evict = quarantine_ask(s, c, ping->evict, MC_ARRAY_SIZE(ping->evict));
		ping->remount = !lends(s, &ping->client);
		pthread_rwlock_unlock(&s->admin);
		return 0;
	}
	pthread_rwlock_unlock(&s->admin);
	pthread_rwlock_wrlock(&s->admin);
	c = client_find(s, &ping->client);
	/* The same id in another process cannot be: ids are drawn. */
	if (c && c->generation != ping->generation)
		client_gone(s, c, now);
	if (!client_find(s, &ping->client))
		r = client_new(s, ping, now);
	ping->remount = true;
	pthread_rwlock_unlock(&s->admin);
	return r;
}

int mc_master_client_leave(struct mc_master *s, const struct mc_master_client_id *client, uint64_t now)
{
	struct client *c;

	pthread_rwlock_wrlock(&s->admin);
	c = client_find(s, client);
	if (c)
		client_gone(s, c, now);
	pthread_rwlock_unlock(&s->admin);
	return c ? 0 : -ESTALE;
}

/* ---- segments -------------------------------------------------------------------------------- */

static bool overlaps(const struct segment *seg, const struct mc_master_segment *m)
{
	return strcmp(seg->engine, m->engine) == 0 && seg->generation == m->generation &&
	       mc_range_overlaps(seg->base, seg->len, m->base, m->len);
}

static bool is_same(const struct segment *seg, const struct mc_master_segment *m)
{
	return memcmp(seg->uuid, m->uuid, 16) == 0 && seg->generation == m->generation && seg->base == m->base &&
	       seg->len == m->len && strcmp(seg->engine, m->engine) == 0;
}

static bool still_held(struct mc_master *s, const struct segment *seg, uint64_t now)
{
	uint64_t synced = s->sink.synced(s->sink.ctx);

	if (now < s->quiet_ns)
		return true;
	for (const struct dropped *d = s->dropped; d; d = d->next)
		if (strcmp(d->engine, seg->engine) == 0 && d->generation == seg->generation &&
		    mc_range_overlaps(d->base, d->len, seg->base, seg->len) &&
		    (now < d->until_ns || d->seq == 0 || d->seq > synced))
			return true;
	return false;
}

/* The pool gives places there if nobody drains it, and nobody of before may still be at it. */
static void pool_follow(struct mc_master *s, struct segment *seg, uint64_t now)
{
	seg->held = still_held(s, seg, now);
	mc_pool_drain(s->pool, seg->place, seg->held || atomic_load(&seg->state) != MC_MASTER_MOUNTED);
}

/* With admin as a writer. */
static int mount(struct mc_master *s, struct mc_master_segment *m, uint64_t now)
{
	struct segment *seg, *same = NULL;
	uint64_t seq;
	int r;

	for (seg = s->segments; seg; seg = seg->next) {
		if (atomic_load(&seg->state) == MASTER_SEGMENT_GONE)
			continue;
		if (is_same(seg, m))
			same = seg;
		else if (memcmp(seg->uuid, m->uuid, 16) != 0 && overlaps(seg, m))
			return -EEXIST;
	}
	for (seg = s->segments; seg; seg = seg->next)
		if (seg != same && memcmp(seg->uuid, m->uuid, 16) == 0 && atomic_load(&seg->state) != MASTER_SEGMENT_GONE)
			segment_kill(s, seg, now);
	if (same) {
		same->client = m->client;
		atomic_store(&same->state, same->drain ? MC_MASTER_DRAINING : MC_MASTER_MOUNTED);
		pool_follow(s, same, now);
		m->id = same->id;
		return 0;
	}
	seg = segment_new(s, m, &r);
	if (!seg)
		return r;
	seg->id = ++s->last_segment;
	seg->mounted_ns = now;
	atomic_store(&seg->state, MC_MASTER_MOUNTED);
	r = number_log(s, ROW_SEGMENT, seg->id);
	if (r == 0)
		r = segment_log(s, seg, false, &seq);
	if (r < 0) {
		mc_pool_unmount(s->pool, seg->place, NULL, NULL);
		segment_free(seg);
		return r;
	}
	segment_link(s, seg);
	pool_follow(s, seg, now);
	m->id = seg->id;
	return 0;
}

int mc_master_mount(struct mc_master *s, struct mc_master_segment *m, uint64_t now)
{
	int r;

	if (!m->engine || m->engine[0] == '\0' || strlen(m->engine) > MC_MASTER_SEGMENT_NAME_MAX ||
	    (m->location && strlen(m->location) > MC_LOCATION_MAX) || m->len < s->limits.granule || m->base + m->len < m->base ||
	    m->len > MC_SPACE_MAX)
		return -EINVAL;
	pthread_rwlock_wrlock(&s->admin);
	r = client_find(s, &m->client) ? mount(s, m, now) : -ESTALE;
	quarantine_look(s);
	pthread_rwlock_unlock(&s->admin);
	return r;
}

int mc_master_unmount(struct mc_master *s, const struct mc_master_client_id *client, const uint8_t uuid[16], uint64_t now)
{
	int r = -ENOENT;

	pthread_rwlock_wrlock(&s->admin);
	for (struct segment *seg = s->segments; seg; seg = seg->next)
		if (memcmp(seg->uuid, uuid, 16) == 0 && memcmp(&seg->client, client, sizeof *client) == 0 &&
		    atomic_load(&seg->state) != MASTER_SEGMENT_GONE) {
			segment_kill(s, seg, now);
			r = 0;
		}
	quarantine_look(s);
	pthread_rwlock_unlock(&s->admin);
	return r;
}

int mc_master_drain(struct mc_master *s, uint32_t id, bool drain, uint64_t now)
{
	struct segment *seg;
	uint64_t seq;
	int r = -ENOENT;

	pthread_rwlock_wrlock(&s->admin);
	seg = segment_find(s, id);
	if (seg && atomic_load(&seg->state) != MASTER_SEGMENT_GONE) {
		bool before = seg->drain;

		seg->drain = drain;
		r = segment_log(s, seg, false, &seq);
		seg->drain = r < 0 ? before : drain;
	}
	if (r == 0) {
		if (atomic_load(&seg->state) != MC_MASTER_SUSPECT)
			atomic_store(&seg->state, drain ? MC_MASTER_DRAINING : MC_MASTER_MOUNTED);
		pool_follow(s, seg, now);
	}
	pthread_rwlock_unlock(&s->admin);
	return r;
}

int mc_master_segments(struct mc_master *s, uint32_t from, int (*each)(void *ctx, const struct mc_master_segment *segment),
		       void *ctx)
{
	int r = 0;

	pthread_rwlock_rdlock(&s->admin);
	for (const struct segment *seg = s->segments; seg && r == 0; seg = seg->next) {
		struct mc_pool_segment_info info = {.size = sizeof info};
		uint32_t state = atomic_load(&seg->state);
		struct mc_master_segment m = {.size = sizeof m, .id = seg->id, .engine = seg->engine, .generation = seg->generation,
					      .base = seg->base, .len = seg->len, .location = seg->location, .host = seg->host,
					      .client = seg->client, .state = (enum mc_master_segment_state)state,
					      .quarantined = atomic_load(&seg->quarantined),
					      .nr_objects = atomic_load(&seg->nr_objects)};

		if (seg->id < from || state == MASTER_SEGMENT_GONE)
			continue;
		memcpy(m.uuid, seg->uuid, 16);
		if (mc_pool_segment(s->pool, seg->place, &info) == 0)
			m.used = info.space.used;
		r = each(ctx, &m);
	}
	pthread_rwlock_unlock(&s->admin);
	return r;
}

/* ---- the clock ------------------------------------------------------------------------------- */

struct piece {
	struct object *objects[PIECE];
	size_t nr;
};

static int piece_take(void *arg, const struct mc_space_extent *e)
{
	struct piece *p = arg;

	p->objects[p->nr++] = (struct object *)(uintptr_t)e->tag;
	return p->nr == PIECE;
}

/* A complete object loses what lies on dying segments: all of it, if no replica is left.  With admin as a writer, so
 * that nobody else is there. */
static void object_lose(struct mc_master *s, struct object *o)
{
	struct shard *shard = shard_of(s, o->item.hash);
	uint8_t record[MASTER_RECORD_MAX];
	struct mc_store_change change = {.table = MC_MASTER_TABLE_OBJECT, .value = record, .id = atomic_load(&o->id)};
	const struct mc_master_key none = {"", 0};
	uint32_t lost = 0, keep = 0, replicas = 0;
	struct object *rest;
	uint64_t before = o->len * o->nr_replicas;

	for (uint32_t i = 0; i < o->nr; i++)
		if (atomic_load(&segment_at(s, object_extents(o)[i].place)->state) == MASTER_SEGMENT_GONE)
			lost |= 1u << extent_replica(o, i);
		else
			replicas |= 1u << extent_replica(o, i);
	if ((replicas & ~lost) == 0) {
		object_remove(s, shard, o, false);
		atomic_fetch_add(&s->nr_lost, 1);
		return;
	}
	rest = lost ? object_new(s, o->item.hash, o->item.tenant, &none, o->nr, OBJECT_PIECES) : NULL;
	if (!rest) /* nothing is lost, or out of memory: tried again in the next tick */
		return;
	/* Without a table of replicas their numbers are their places. */
	for (uint32_t i = 0; i < o->nr; i++) {
		struct object_extent e = object_extents(o)[i];

		if (lost >> extent_replica(o, i) & 1) {
			object_pieces(rest)[rest->nr] = extent_len(o, i);
			object_extents(rest)[rest->nr++] = e;
			continue;
		}
		if (o->flags & OBJECT_PIECES)
			object_pieces(o)[keep] = object_pieces(o)[i];
		object_extents(o)[keep++] = e;
	}
	o->nr = (uint8_t)keep;
	o->nr_replicas = (uint8_t)__builtin_popcount(replicas & ~lost);
	atomic_fetch_sub(&s->tenants[o->item.tenant]->used, before - o->len * o->nr_replicas);
	change.len = (uint32_t)object_encode(s, o, 0, record);
	if (sink_append(s, &change, 1) < 0)
		change.seq = 0;
	/* Pieces of it may lie on segments that live, and be read. */
	atomic_store(&rest->lease_ns, atomic_load(&o->lease_ns));
	away_push(s, rest, change.seq);
}

/* Empties a dying segment by a piece; true: nothing is left. */
static bool segment_empty(struct mc_master *s, struct segment *seg)
{
	struct piece piece = {.nr = 0};
	struct mc_pool_segment_info info = {.size = sizeof info};

	mc_pool_each(s->pool, seg->place, piece_take, &piece);
	for (size_t i = 0; i < piece.nr; i++) {
		struct object *o = piece.objects[i];

		/* Others are on their way already: unfinished, in quarantine, or removed. */
		if (o->state == OBJECT_COMPLETE)
			object_lose(s, o);
	}
	return mc_pool_segment(s->pool, seg->place, &info) < 0 || info.space.nr_extents == 0;
}

/* That it has gone is in the log, or is now: it could not be written when it went. */
static bool segment_told(struct mc_master *s, const struct segment *seg)
{
	struct dropped *d = s->dropped;

	while (d && d->id != seg->id)
		d = d->next;
	if (!d || d->seq)
		return true;
	if (segment_log(s, seg, true, &d->seq) == 0)
		return true;
	d->seq = 0;
	return false;
}

static void segments_die(struct mc_master *s)
{
	for (struct segment **at = &s->segments, *seg; (seg = *at);) {
		if (atomic_load(&seg->state) != MASTER_SEGMENT_GONE || !segment_told(s, seg) || !segment_empty(s, seg)) {
			at = &seg->next;
			continue;
		}
		*at = seg->next;
		s->places[seg->place & 0xffff] = NULL;
		mc_pool_unmount(s->pool, seg->place, NULL, NULL);
		segment_free(seg);
	}
}

static void dropped_tick(struct mc_master *s, uint64_t now)
{
	uint64_t synced = s->sink.synced(s->sink.ctx);

	for (struct dropped **at = &s->dropped, *d; (d = *at);) {
		if (now < d->until_ns || d->seq == 0 || d->seq > synced) {
			at = &d->next;
			continue;
		}
		*at = d->next;
		dropped_free(d);
	}
}

void segments_tick(struct mc_master *s, uint64_t now)
{
	struct client *c, *next;
	bool gone = false, waiting = false;

	HASH_ITER(hh, s->clients, c, next) {
		if (now > c->ping_ns && now - c->ping_ns > s->limits.client_ttl_ns)
			client_gone(s, c, now);
	}
	for (struct segment *seg = s->segments; seg; seg = seg->next) {
		/* Who does not come back after a restart. */
		if (atomic_load(&seg->state) == MC_MASTER_SUSPECT && now >= s->quiet_ns + s->limits.client_ttl_ns)
			segment_kill(s, seg, now);
		if (seg->held)
			pool_follow(s, seg, now);
		waiting |= seg->held || atomic_load(&seg->state) == MC_MASTER_SUSPECT;
		gone |= atomic_load(&seg->state) == MASTER_SEGMENT_GONE;
	}
	atomic_store(&s->waiting, waiting);
	if (gone) {
		quarantine_look(s);
		segments_die(s);
	}
	dropped_tick(s, now);
}
