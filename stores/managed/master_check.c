/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether all that the state counts is so: for tests, with everything else at rest.  Places
 * are gathered from every object, whatever becomes of it, and compared with the pool's.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "master_impl.h"

struct place {
	uint32_t place, id;
};

struct sums {
	struct mc_master *s;
	struct mc_error *err;
	struct place *places;
	size_t nr, cap;
	uint64_t nr_objects, nr_open, unfinished, away, quarantined;
	struct {
		uint64_t used, objects;
	} tenants[];
};

static unsigned long long name(const struct object *o)
{
	return (unsigned long long)atomic_load(&o->id);
}

static int add_places(struct sums *sums, const struct object *o)
{
	for (uint32_t i = 0; i < o->nr; i++) {
		const struct object_extent *e = &object_extents(o)[i];
		struct mc_space_extent there;
		struct place *places;

		if (mc_pool_get(sums->s->pool, e->place, e->id, &there) < 0)
			return mc_fail(sums->err, -EBADMSG, "object %llu: the pool does not know its place %u", name(o), i);
		if (there.offset != e->offset || there.len < extent_len(o, i))
			return mc_fail(sums->err, -EBADMSG, "object %llu: its place %u is another one in the pool", name(o), i);
		if (sums->nr == sums->cap) {
			sums->cap = sums->cap ? sums->cap * 2 : 1024;
			places = reallocarray(sums->places, sums->cap, sizeof *places);
			if (!places)
				return mc_fail(sums->err, -ENOMEM, "check: out of memory");
			sums->places = places;
		}
		sums->places[sums->nr++] = (struct place){e->place, e->id};
	}
	return 0;
}

static uint64_t bytes_of(const struct object *o)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < o->nr; i++)
		sum += extent_len(o, i);
	return sum;
}

static int check_complete(struct sums *sums, const struct object *o)
{
	if (o->state != OBJECT_COMPLETE && o->state != OBJECT_PUTTING)
		return mc_fail(sums->err, -EBADMSG, "object %llu: in a table, in state %u", name(o), o->state);
	if (o->nr == 0 || bytes_of(o) != o->len * o->nr_replicas)
		return mc_fail(sums->err, -EBADMSG, "object %llu: %llu bytes in places, %u replicas of %llu", name(o),
			       (unsigned long long)bytes_of(o), o->nr_replicas, (unsigned long long)o->len);
	if (o->state == OBJECT_PUTTING)
		return 0; /* found in the list of puts */
	sums->nr_objects++;
	sums->tenants[o->item.tenant].used += bytes_of(o);
	sums->tenants[o->item.tenant].objects++;
	return add_places(sums, o);
}

static int check_shard(struct sums *sums, struct shard *shard)
{
	struct mc_master *s = sums->s;
	const struct mc_store_item *item;
	uint32_t at = 0, nr = 0;
	int r;

	while ((item = mc_store_map_next(&shard->map, &at))) {
		const char *key = mc_store_item_key(item);
		const struct object *o = MC_CONTAINER_OF(item, struct object, item);

		if (item->hash != mc_store_hash(s->seed, item->tenant, key, item->key_len) || shard_of(s, item->hash) != shard ||
		    mc_store_map_find(&shard->map, item->hash, item->tenant, key, item->key_len) != item)
			return mc_fail(sums->err, -EBADMSG, "object %llu: it is not found by its key", name(o));
		r = check_complete(sums, o);
		if (r < 0)
			return r;
		nr++;
	}
	if (nr != shard->map.nr)
		return mc_fail(sums->err, -EBADMSG, "a table has %u objects and counts %u", nr, shard->map.nr);
	for (uint32_t i = shard->oldest; i != PUT_NONE; i = shard->puts[i].newer) {
		const struct object *o = shard->puts[i].object;

		if (shard->puts[i].state != PUT_OPEN || !o || o->state != OBJECT_PUTTING || o->put != i)
			return mc_fail(sums->err, -EBADMSG, "a put of object %llu is not open", o ? name(o) : 0);
		sums->nr_open++;
		sums->unfinished += bytes_of(o);
		sums->tenants[o->item.tenant].used += bytes_of(o);
		r = add_places(sums, o);
		if (r < 0)
			return r;
	}
	return 0;
}

static int place_order(const void *a, const void *b)
{
	const struct place *x = a, *y = b;

	if (x->place != y->place)
		return x->place < y->place ? -1 : 1;
	return x->id < y->id ? -1 : x->id > y->id;
}

static int check_sums(struct sums *sums)
{
	const struct mc_master *s = sums->s;
	struct mc_pool_stats pool = {.size = sizeof pool};

	if (sums->nr)
		qsort(sums->places, sums->nr, sizeof *sums->places, place_order);
	for (size_t i = 1; i < sums->nr; i++)
		if (place_order(&sums->places[i - 1], &sums->places[i]) == 0)
			return mc_fail(sums->err, -EBADMSG, "place %u of segment %u is in two objects", sums->places[i].id,
				       sums->places[i].place);
	mc_pool_stats(s->pool, &pool);
	if (pool.nr_extents != sums->nr)
		return mc_fail(sums->err, -EBADMSG, "%zu places are of objects, %llu are taken", sums->nr,
			       (unsigned long long)pool.nr_extents);
	if (sums->nr_objects != atomic_load(&s->nr_objects) || sums->nr_open != atomic_load(&s->nr_open) ||
	    sums->unfinished != atomic_load(&s->unfinished))
		return mc_fail(sums->err, -EBADMSG, "%llu objects, %llu puts of %llu bytes; counted are %llu, %llu, %llu",
			       (unsigned long long)sums->nr_objects, (unsigned long long)sums->nr_open,
			       (unsigned long long)sums->unfinished, (unsigned long long)atomic_load(&s->nr_objects),
			       (unsigned long long)atomic_load(&s->nr_open), (unsigned long long)atomic_load(&s->unfinished));
	if (sums->away != atomic_load(&s->away_bytes) || sums->quarantined != atomic_load(&s->quarantined))
		return mc_fail(sums->err, -EBADMSG, "%llu bytes on their way, %llu in quarantine; counted are %llu, %llu",
			       (unsigned long long)sums->away, (unsigned long long)sums->quarantined,
			       (unsigned long long)atomic_load(&s->away_bytes), (unsigned long long)atomic_load(&s->quarantined));
	for (uint32_t t = 0; t < s->nr_tenants; t++)
		if (s->tenants[t] && (sums->tenants[t].used != atomic_load(&s->tenants[t]->used) ||
				      sums->tenants[t].objects != atomic_load(&s->tenants[t]->nr_objects)))
			return mc_fail(sums->err, -EBADMSG, "tenant '%s': %llu bytes in %llu objects; counted are %llu, %llu",
				       s->tenants[t]->name, (unsigned long long)sums->tenants[t].used, (unsigned long long)sums->tenants[t].objects,
				       (unsigned long long)atomic_load(&s->tenants[t]->used),
				       (unsigned long long)atomic_load(&s->tenants[t]->nr_objects));
	return 0;
}

int mc_master_check(struct mc_master *s, struct mc_error *err)
{
	struct sums *sums;
	int r = 0;

	pthread_rwlock_wrlock(&s->admin);
	sums = calloc(1, sizeof *sums + s->nr_tenants * sizeof *sums->tenants);
	if (!sums) {
		pthread_rwlock_unlock(&s->admin);
		return mc_fail(err, -ENOMEM, "check: out of memory");
	}
	sums->s = s;
	sums->err = err;
	for (uint32_t k = 0; k <= s->shard_mask && r == 0; k++)
		r = check_shard(sums, &s->shards[k]);
	for (const struct object *o = s->away_first; o && r == 0; o = o->away.next) {
		sums->away += bytes_of(o);
		r = add_places(sums, o);
	}
	for (const struct quarantine *q = s->quarantine; q && r == 0; q = q->next) {
		sums->quarantined += bytes_of(q->object);
		r = add_places(sums, q->object);
	}
	if (r == 0)
		r = check_sums(sums);
	pthread_rwlock_unlock(&s->admin);
	free(sums->places);
	free(sums);
	return r;
}
