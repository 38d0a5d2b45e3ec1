/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Objects as memory and as records: slabs by 16 bytes, and the value that the table of
 * objects keeps of each.
 *
 *   record   0 u8 format · 1 u8 bits (1: hard pin, 2: checksum) · 2 u16 key's bytes · 4 u32 tenant ·
 *            8 u64 len · 16 u64 id of the block that it stands on, 0: none · 24 u32 seconds of soft pin ·
 *            28 u8 extents · 29 zeros · 32 checksum[16] ·
 *            48 extents: u32 segment · u8 replica · u8 medium · u16 0 · u64 offset in the segment · u64 len · key
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/util/bytes.h"
#include "master_impl.h"

#define CHUNK (UINT64_C(1) << 18)
#define HEAD 48u
#define EXTENT 24u
#define RECORD_PINNED 1u
#define RECORD_CHECKED 2u
#define SOFT_PIN_MAX_S 1000000000u

static size_t object_size(size_t key_len, uint32_t room, uint8_t flags)
{
	size_t n = sizeof(struct object) + room * sizeof(struct object_extent) + key_len;

	n += flags & OBJECT_PIECES ? room * sizeof(uint64_t) : 0;
	n += flags & OBJECT_CHECKSUM ? 16 : 0;
	return mc_round_up(n, 16);
}

/* With slab_lock. */
static void *slab_take(struct mc_master *s, size_t bytes)
{
	void **at = &s->slab[bytes / 16], *p = *at;

	if (p) {
		memcpy(at, p, sizeof *at);
		return p;
	}
	if (s->chunk_left < bytes) {
		void *chunk = malloc(CHUNK);

		if (!chunk)
			return NULL;
		memcpy(chunk, &s->chunks, sizeof s->chunks);
		s->chunks = chunk;
		s->chunk = (char *)chunk + 16;
		s->chunk_left = CHUNK - 16;
		atomic_fetch_add_explicit(&s->slab_bytes, CHUNK, memory_order_relaxed);
	}
	p = s->chunk;
	s->chunk += bytes;
	s->chunk_left -= bytes;
	/* A stale pointer that looks at its id finds 0. */
	memset(p, 0, bytes);
	return p;
}

struct object *object_new(struct mc_master *s, uint64_t hash, uint32_t tenant, const struct mc_master_key *key, uint32_t room,
			  uint8_t flags)
{
	size_t bytes = object_size(key->len, room, flags);
	struct object *o;

	pthread_mutex_lock(&s->slab_lock);
	o = slab_take(s, bytes);
	pthread_mutex_unlock(&s->slab_lock);
	if (!o)
		return NULL;
	memset(&o->node, 0, sizeof o->node);
	o->bytes = (uint16_t)(bytes / 16);
	o->flags = flags;
	o->state = OBJECT_PUTTING;
	o->nr = 0;
	o->nr_replicas = 0;
	o->nr_room = (uint8_t)room;
	o->dead = o->known = 0;
	o->put = PUT_NONE;
	o->len = 0;
	atomic_store_explicit(&o->lease_ns, 0, memory_order_relaxed);
	atomic_store_explicit(&o->pin_s, 0, memory_order_relaxed);
	o->item.hash = hash;
	o->item.tenant = tenant;
	o->item.key_len = (uint16_t)key->len;
	o->item.key_at = (uint16_t)(object_checksum(o) + (flags & OBJECT_CHECKSUM ? 16 : 0) - (uint8_t *)&o->item);
	memcpy((char *)&o->item + o->item.key_at, key->data, key->len);
	atomic_store_explicit(&o->id, atomic_fetch_add(&s->last_id, 1) + 1, memory_order_release);
	return o;
}

void object_free(struct mc_master *s, struct object *o)
{
	void **at = &s->slab[o->bytes];

	atomic_store_explicit(&o->id, 0, memory_order_release);
	o->state = OBJECT_FREE;
	pthread_mutex_lock(&s->slab_lock);
	memcpy(o, at, sizeof *at);
	*at = o;
	pthread_mutex_unlock(&s->slab_lock);
}

int sink_append(struct mc_master *s, struct mc_store_change *changes, size_t nr)
{
	return s->sink.append(s->sink.ctx, changes, nr);
}

/* ---- records --------------------------------------------------------------------------------- */

size_t object_encode(const struct mc_master *s, const struct object *o, uint64_t parent, uint8_t *to)
{
	const struct object_extent *e = object_extents(o);
	uint32_t pin = atomic_load_explicit(&o->pin_s, memory_order_relaxed);
	uint8_t *p = to + HEAD;

	memset(to, 0, HEAD);
	to[0] = MASTER_FORMAT;
	to[1] = (uint8_t)((pin == MASTER_PIN_HARD ? RECORD_PINNED : 0) | (o->flags & OBJECT_CHECKED ? RECORD_CHECKED : 0));
	mc_put16(to + 2, o->item.key_len);
	mc_put32(to + 4, o->item.tenant);
	mc_put64(to + 8, o->len);
	mc_put64(to + 16, parent);
	mc_put32(to + 24, pin && pin != MASTER_PIN_HARD ? (uint32_t)(s->limits.soft_pin_ns / MASTER_SEC) : 0);
	to[28] = o->nr;
	if (o->flags & OBJECT_CHECKED)
		memcpy(to + 32, object_checksum(o), 16);
	for (uint32_t i = 0; i < o->nr; i++, p += EXTENT) {
		mc_put32(p, segment_at(s, e[i].place)->id);
		p[4] = extent_replica(o, i);
		p[5] = MC_MASTER_MEMORY;
		mc_put16(p + 6, 0);
		mc_put64(p + 8, e[i].offset);
		mc_put64(p + 16, extent_len(o, i));
	}
	memcpy(p, mc_store_item_key(&o->item), o->item.key_len);
	return (size_t)(p - to) + o->item.key_len;
}

/* An object's extents, as the record says: reserved in the pool.  Those of segments that are not known are left out,
 * with their replicas. */
static int take_extents(struct mc_master *s, struct object *o, const uint8_t *at, uint32_t nr)
{
	uint32_t lost = 0; /* bits of replicas */

	for (uint32_t i = 0; i < nr; i++)
		if (at[i * EXTENT + 5] != MC_MASTER_MEMORY || !segment_find(s, mc_get32(at + i * EXTENT)))
			lost |= 1u << at[i * EXTENT + 4];
	for (uint32_t i = 0; i < nr; i++) {
		const uint8_t *p = at + i * EXTENT;
		const struct segment *seg = segment_find(s, mc_get32(p));
		struct mc_space_extent got;
		int r;

		if (lost >> p[4] & 1)
			continue;
		r = mc_pool_reserve(s->pool, seg->place, mc_get64(p + 8), mc_get64(p + 16), (uint64_t)(uintptr_t)o, &got);
		if (r < 0)
			return r == -ENOMEM ? r : -EBADMSG;
		object_extents(o)[o->nr] = (struct object_extent){got.offset, seg->place, got.id};
		if (o->flags & OBJECT_PIECES)
			object_pieces(o)[o->nr] = mc_get64(p + 16) | (uint64_t)p[4] << 56;
		o->nr++;
		atomic_fetch_add(&((struct segment *)seg)->nr_objects, 1);
	}
	return o->nr ? 0 : -ENOENT;
}

static int check_record(const uint8_t *v, size_t len, struct mc_master_key *key, uint8_t *ret_flags)
{
	uint8_t last = 0;
	uint64_t sum = 0;

	if (len < HEAD || v[0] != MASTER_FORMAT || v[28] == 0 || v[28] > MASTER_EXTENTS_MAX ||
	    len != HEAD + v[28] * (size_t)EXTENT + mc_get16(v + 2))
		return -EBADMSG;
	key->len = mc_get16(v + 2);
	key->data = v + HEAD + v[28] * (size_t)EXTENT;
	if (key->len == 0 || key->len > MC_STORE_KEY_MAX || mc_get64(v + 8) == 0 || mc_get32(v + 4) >= MASTER_TENANTS_MAX)
		return -EBADMSG;
	*ret_flags = v[1] & RECORD_CHECKED ? OBJECT_CHECKSUM | OBJECT_CHECKED : 0;
	/* Replica after replica, each of which has all bytes. */
	for (uint32_t i = 0; i < v[28]; i++) {
		const uint8_t *p = v + HEAD + i * EXTENT;

		/* The first ones may have been lost. */
		if (i == 0 || p[4] != last) {
			if (p[4] >= MC_MASTER_REPLICAS_MAX || (i && (p[4] < last || sum != mc_get64(v + 8))))
				return -EBADMSG;
			last = p[4];
			sum = 0;
		}
		if (mc_get64(p + 16) == 0 || mc_get64(p + 16) >> 56 || mc_get64(p + 16) > mc_get64(v + 8) - sum)
			return -EBADMSG;
		sum += mc_get64(p + 16);
		if (p[4] != i || mc_get64(p + 16) != mc_get64(v + 8))
			*ret_flags |= OBJECT_PIECES;
	}
	return sum == mc_get64(v + 8) ? 0 : -EBADMSG;
}

static uint8_t count_replicas(const struct object *o)
{
	uint8_t nr = 0;

	for (uint32_t i = 0; i < o->nr; i++)
		nr += i == 0 || extent_replica(o, i) != extent_replica(o, i - 1);
	return nr;
}

static void forget(struct mc_master *s, struct object *o)
{
	for (uint32_t i = 0; i < o->nr; i++) {
		mc_pool_release(s->pool, object_extents(o)[i].place, object_extents(o)[i].id);
		atomic_fetch_sub(&segment_at(s, object_extents(o)[i].place)->nr_objects, 1);
	}
	object_free(s, o);
}

static int leave_out(struct mc_master *s, uint64_t id)
{
	uint64_t *list = reallocarray(s->left_out, s->nr_left_out + 1, sizeof *list);

	if (!list)
		return -ENOMEM;
	list[s->nr_left_out++] = id;
	s->left_out = list;
	return 0;
}

/* Of two with the same key, between whose changes the master before ended, the later one counts. */
static int make_way(struct mc_master *s, struct shard *shard, uint64_t hash, uint32_t tenant, const struct mc_master_key *key)
{
	struct mc_store_item *item = mc_store_map_find(&shard->map, hash, tenant, key->data, key->len);
	struct object *o;

	if (!item)
		return 0;
	o = MC_CONTAINER_OF(item, struct object, item);
	if (leave_out(s, atomic_load(&o->id)) < 0)
		return -ENOMEM;
	mc_store_map_remove(&shard->map, item);
	atomic_fetch_sub(&s->nr_objects, 1);
	atomic_fetch_sub(&s->tenants[tenant]->used, o->len * o->nr_replicas);
	atomic_fetch_sub(&s->tenants[tenant]->nr_objects, 1);
	forget(s, o);
	return 0;
}

/* 0; -ENOENT: nothing is left of it; -EBADMSG, -ENOMEM */
static int load(struct mc_master *s, uint64_t id, const uint8_t *v, size_t len)
{
	struct mc_master_key key;
	struct tenant *t;
	struct shard *shard;
	struct object *o;
	uint64_t hash;
	uint8_t flags;
	int r = id ? check_record(v, len, &key, &flags) : -EBADMSG;

	t = r == 0 ? s->tenants[mc_get32(v + 4)] : NULL;
	if (!t)
		return -EBADMSG;
	hash = mc_store_hash(s->seed, mc_get32(v + 4), key.data, key.len);
	shard = shard_of(s, hash);
	o = object_new(s, hash, mc_get32(v + 4), &key, v[28], flags);
	if (!o)
		return -ENOMEM;
	o->len = mc_get64(v + 8);
	if (flags & OBJECT_CHECKED)
		memcpy(object_checksum(o), v + 32, 16);
	r = take_extents(s, o, v + HEAD, v[28]);
	if (r == 0)
		r = make_way(s, shard, hash, mc_get32(v + 4), &key);
	if (r == 0)
		r = mc_store_map_add(&shard->map, &o->item);
	if (r < 0) {
		forget(s, o);
		return r;
	}
	o->state = OBJECT_COMPLETE;
	o->nr_replicas = count_replicas(o);
	atomic_store(&o->pin_s, v[1] & RECORD_PINNED ? MASTER_PIN_HARD : MC_MIN(mc_get32(v + 24), SOFT_PIN_MAX_S));
	atomic_store(&o->id, id);
	atomic_store(&s->last_id, MC_MAX(atomic_load(&s->last_id), id));
	atomic_fetch_add(&s->nr_objects, 1);
	atomic_fetch_add(&t->used, o->len * o->nr_replicas);
	atomic_fetch_add(&t->nr_objects, 1);
	return 0;
}

int object_load(struct mc_master *s, uint64_t id, const uint8_t *v, size_t len, struct mc_error *err)
{
	int r = load(s, id, v, len);

	if ((r == -EBADMSG || r == -ENOENT) && leave_out(s, id) < 0)
		r = -ENOMEM;
	if (r == 0 || r == -ENOENT)
		return 0;
	return mc_fail(err, r, "object %llu: %s", (unsigned long long)id,
		       r == -ENOMEM ? "out of memory" : "its record is damaged, its tenant not known, or its places are another's");
}
