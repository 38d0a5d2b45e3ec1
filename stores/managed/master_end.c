/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of a put: the object is logged and complete, without the replicas that could not be
 * written, and the policy hears of it; or the put is taken back.
 */
#include <errno.h>
#include <string.h>

#include "master_impl.h"

/* Leave out the replicas that were not written, and those whose segment has gone.  What the writer could not
 * reach goes into quarantine, as an object without a name. */
static int cut_replicas(struct mc_master *s, struct object *o, uint32_t failed, uint64_t writer)
{
	const struct mc_master_key none = {"", 0};
	struct object *rest;
	uint32_t keep = 0;

	for (uint32_t i = 0; i < o->nr; i++)
		if (atomic_load(&segment_at(s, object_extents(o)[i].place)->state) == MASTER_SEGMENT_GONE)
			failed |= 1u << extent_replica(o, i);
	if (failed == 0)
		return 0;
	rest = object_new(s, o->item.hash, o->item.tenant, &none, o->nr, OBJECT_PIECES);
	if (!rest)
		return -ENOMEM;
	o->nr_replicas = 0;
	for (uint32_t i = 0; i < o->nr; i++) {
		uint8_t replica = extent_replica(o, i);
		uint64_t len = extent_len(o, i);

		if (failed >> replica & 1) {
			object_extents(rest)[rest->nr] = object_extents(o)[i];
			object_pieces(rest)[rest->nr++] = len | (uint64_t)replica << 56;
			continue;
		}
		o->nr_replicas += keep == 0 || extent_replica(o, keep - 1) != replica;
		object_extents(o)[keep] = object_extents(o)[i];
		if (o->flags & OBJECT_PIECES)
			object_pieces(o)[keep] = len | (uint64_t)replica << 56;
		keep++;
	}
	o->nr = (uint8_t)keep;
	object_quarantine(s, rest, writer);
	return 0;
}

/* With the shard's lock: the object is logged and complete. */
static int complete(struct mc_master *s, struct shard *shard, struct put *p, const struct mc_master_end *end)
{
	uint8_t record[MASTER_RECORD_MAX];
	struct object *o = p->object, *there;
	uint64_t parent = 0, before = o->len * o->nr_replicas;
	struct mc_store_change change = {.table = MC_MASTER_TABLE_OBJECT, .value = record};
	int r;

	if (end->has_checksum && !(o->flags & OBJECT_CHECKSUM))
		return -EINVAL;
	there = o->flags & OBJECT_SHADOW ? object_find(shard, o->item.hash, o->item.tenant,
						&(struct mc_master_key){mc_store_item_key(&o->item), o->item.key_len}) : NULL;
	/* Who puts the same key in the ordinary way and has not ended is in the way of the table; he comes later. */
	if (there && there->state != OBJECT_COMPLETE)
		return -EBUSY;
	r = cut_replicas(s, o, end->failed, p->generation);
	if (r < 0)
		return r;
	atomic_fetch_sub(&s->tenants[o->item.tenant]->used, before - o->len * o->nr_replicas);
	atomic_fetch_sub(&s->unfinished, before - o->len * o->nr_replicas);
	if (o->nr == 0) {
		object_drop(s, put_give_up(s, shard, p));
		return -EIO;
	}
	if (end->has_checksum) {
		memcpy(object_checksum(o), end->checksum, 16);
		o->flags |= OBJECT_CHECKED;
	}
	if (p->prev && atomic_load(&p->prev->id) == p->prev_id)
		parent = p->prev_id;
	change.id = atomic_load(&o->id);
	change.len = (uint32_t)object_encode(s, o, parent, record);
	r = sink_append(s, &change, 1);
	if (r < 0) { /* the writer has ended, and replicas that failed are cut off: this put cannot be ended again */
		object_drop(s, put_give_up(s, shard, p));
		return r;
	}
	if (there)
		object_remove(s, shard, there, false);
	if (o->flags & OBJECT_SHADOW) {
		r = mc_store_map_add(&shard->map, &o->item);
		if (r < 0)
			return r;
	}
	o->flags &= (uint8_t)~OBJECT_SHADOW;
	o->state = OBJECT_COMPLETE;
	atomic_fetch_sub(&s->unfinished, o->len * o->nr_replicas);
	atomic_fetch_add(&s->nr_objects, 1);
	atomic_fetch_add(&s->tenants[o->item.tenant]->nr_objects, 1);
	put_close(s, shard, p, PUT_DONE);
	return 0;
}

/* A run of blocks that stand on each other, as put_end tells them to the policy. */
struct run {
	struct object *objects[256];
	struct object *prev; /* of the first one */
	uint64_t prev_id;
	size_t nr;
	bool chain;
	bool goes_on; /* what prev stands on has been told just now */
};

static void run_end(struct mc_master *s, struct run *run)
{
	policy_tell(s, run->objects, run->nr, run->chain, run->prev, run->prev_id, run->goes_on);
	run->nr = 0;
}

/* A long run goes on as a chain on its own last block, which the policy knows by then. */
static void run_add(struct mc_master *s, struct run *run, struct object *o, struct object *prev, uint64_t prev_id)
{
	bool goes_on = run->nr && prev && prev == run->objects[run->nr - 1];

	if (run->nr && (!goes_on || run->nr == MC_ARRAY_SIZE(run->objects)))
		run_end(s, run);
	if (run->nr == 0) {
		run->goes_on = goes_on;
		run->prev = prev;
		run->prev_id = prev_id;
		run->chain = prev != NULL;
	}
	run->chain |= goes_on;
	run->objects[run->nr++] = o;
}

static int end_one(struct mc_master *s, const struct mc_master_client_id *client, const struct mc_master_end *end,
		   struct run *run)
{
	struct shard *shard = token_shard(s, end->token);
	struct object *o = NULL, *prev = NULL;
	uint64_t prev_id = 0;
	struct put *p;
	int r = -ESTALE;

	if (!shard)
		return r;
	pthread_mutex_lock(&shard->lock);
	p = put_find(shard, end->token, client);
	if (p && p->state == PUT_DONE)
		r = 0;
	else if (p) {
		o = p->object;
		prev = p->prev;
		prev_id = p->prev_id;
		r = complete(s, shard, p, end);
	}
	pthread_mutex_unlock(&shard->lock);
	if (r == 0 && o)
		run_add(s, run, o, prev, prev_id);
	return r;
}

int mc_master_put_end(struct mc_master *s, const struct mc_master_client_id *client, struct mc_master_end *ends, size_t nr,
		      uint64_t now)
{
	struct run run = {.nr = 0};
	int failed = 0;

	pthread_rwlock_rdlock(&s->admin);
	for (size_t i = 0; i < nr; i++) {
		ends[i].status = end_one(s, client, &ends[i], &run);
		failed += ends[i].status != 0;
		atomic_fetch_add_explicit(&s->nr_put, ends[i].status == 0, memory_order_relaxed);
	}
	run_end(s, &run);
	pthread_rwlock_unlock(&s->admin);
	return failed;
}

int mc_master_put_revoke(struct mc_master *s, const struct mc_master_client_id *client, struct mc_master_end *ends, size_t nr,
			 uint64_t now)
{
	int failed = 0;

	pthread_rwlock_rdlock(&s->admin);
	for (size_t i = 0; i < nr; i++) {
		struct shard *shard = token_shard(s, ends[i].token);
		struct put *p;

		ends[i].status = -ESTALE;
		if (shard) {
			pthread_mutex_lock(&shard->lock);
			p = put_find(shard, ends[i].token, client);
			if (p && p->state == PUT_OPEN) {
				object_drop(s, put_give_up(s, shard, p));
				ends[i].status = 0;
			}
			pthread_mutex_unlock(&shard->lock);
		}
		failed += ends[i].status != 0;
	}
	pthread_rwlock_unlock(&s->admin);
	return failed;
}
