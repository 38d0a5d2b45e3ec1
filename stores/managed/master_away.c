/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From an object that is taken away to places that are free.  Three things are waited
 * for: that the change is on the disk (a tail of the log that is lost must not leave a
 * key that points to foreign bytes), that leases have ended, and, for what was not
 * finished, that its writer has been cut off at each lender.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "master_impl.h"

static uint64_t object_bytes(const struct object *o)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < o->nr; i++)
		sum += extent_len(o, i);
	return sum;
}

static struct tenant *tenant_of(const struct mc_master *s, const struct object *o)
{
	return s->tenants[o->item.tenant];
}

/* Its places are free.  It is seen by nobody but, perhaps, by a stale pointer. */
static void places_free(struct mc_master *s, struct object *o)
{
	for (uint32_t i = 0; i < o->nr; i++) {
		const struct object_extent *e = &object_extents(o)[i];

		mc_pool_release(s->pool, e->place, e->id);
		atomic_fetch_sub(&segment_at(s, e->place)->nr_objects, 1);
	}
	o->nr = 0;
	pthread_mutex_lock(&s->away_lock);
	o->away.next = s->grave;
	s->grave = o;
	pthread_mutex_unlock(&s->away_lock);
}

void away_push(struct mc_master *s, struct object *o, uint64_t seq)
{
	atomic_fetch_add(&s->away_bytes, object_bytes(o));
	pthread_mutex_lock(&s->away_lock);
	o->away.next = NULL;
	o->away.seq = seq;
	if (s->away_last)
		s->away_last->away.next = o;
	else
		s->away_first = o;
	s->away_last = o;
	pthread_mutex_unlock(&s->away_lock);
}

static uint64_t log_gone(struct mc_master *s, uint64_t id)
{
	struct mc_store_change change = {.table = MC_MASTER_TABLE_OBJECT, .gone = true, .id = id};

	return sink_append(s, &change, 1) < 0 ? 0 : change.seq;
}

/* Out of the policy, for good. */
static void policy_leave(struct mc_master *s, struct object *o, bool remember)
{
	pthread_mutex_lock(&s->policy_lock);
	if (!o->dead) {
		o->dead = 1;
		if (o->known)
			mc_policy_remove(s->policy, &o->node, o->item.hash, remember);
		o->known = 0;
	}
	pthread_mutex_unlock(&s->policy_lock);
}

/* seq: of the change that says so; 0: it is to be logged later. */
static void go_away(struct mc_master *s, struct shard *shard, struct object *o, bool evicted, uint64_t seq)
{
	struct tenant *t = tenant_of(s, o);

	mc_store_map_remove(&shard->map, &o->item);
	o->state = OBJECT_GONE;
	policy_leave(s, o, evicted);
	atomic_fetch_sub(&s->nr_objects, 1);
	atomic_fetch_sub(&t->used, o->len * o->nr_replicas);
	atomic_fetch_sub(&t->nr_objects, 1);
	away_push(s, o, seq);
	if (seq)
		s->sink.want(s->sink.ctx, seq);
}

void object_remove(struct mc_master *s, struct shard *shard, struct object *o, bool evicted)
{
	go_away(s, shard, o, evicted, log_gone(s, atomic_load(&o->id)));
}

int object_remove_logged(struct mc_master *s, struct shard *shard, struct object *o)
{
	uint64_t seq = log_gone(s, atomic_load(&o->id));

	if (!seq)
		return -ENOSPC;
	go_away(s, shard, o, false, seq);
	return 0;
}

void object_drop(struct mc_master *s, struct object *o)
{
	o->state = OBJECT_GONE;
	policy_leave(s, o, false);
	places_free(s, o);
}

/* ---- what is on its way ---------------------------------------------------------------------- */

static bool away_any(struct mc_master *s)
{
	bool any;

	pthread_mutex_lock(&s->away_lock);
	any = s->away_first != NULL;
	pthread_mutex_unlock(&s->away_lock);
	return any;
}

/* The first one that may not be free yet stops those behind it, but for leases: they are few, and go to the end. */
bool away_release(struct mc_master *s, uint64_t now)
{
	uint64_t synced = s->sink.synced(s->sink.ctx);
	struct object *stop = NULL;

	if (now < s->quiet_ns)
		return away_any(s);
	for (;;) {
		struct object *o;

		pthread_mutex_lock(&s->away_lock);
		o = s->away_first;
		if (o == stop || (o && o->away.seq > synced))
			o = NULL;
		if (o) {
			s->away_first = o->away.next;
			if (!s->away_first)
				s->away_last = NULL;
		}
		pthread_mutex_unlock(&s->away_lock);
		if (!o)
			break;
		atomic_fetch_sub(&s->away_bytes, object_bytes(o));
		if (o->away.seq == 0) {
			away_push(s, o, log_gone(s, atomic_load(&o->id)));
			stop = stop ? stop : o;
		} else if (atomic_load(&o->lease_ns) > now) {
			away_push(s, o, o->away.seq);
			stop = stop ? stop : o;
		} else {
			places_free(s, o);
		}
	}
	return away_any(s);
}

/* ---- quarantine ------------------------------------------------------------------------------ */

static bool bit(const uint64_t map[2], uint32_t i)
{
	return map[i / 64] >> (i % 64) & 1;
}

static void bit_set(uint64_t map[2], uint32_t i)
{
	map[i / 64] |= UINT64_C(1) << (i % 64);
}

static void count_quarantine(struct mc_master *s, const struct object *o, bool in)
{
	for (uint32_t i = 0; i < o->nr; i++) {
		struct segment *seg = segment_at(s, object_extents(o)[i].place);
		uint64_t len = extent_len(o, i);

		atomic_fetch_add(&seg->quarantined, in ? len : -len);
		atomic_fetch_add(&s->quarantined, in ? len : -len);
	}
}

void object_quarantine(struct mc_master *s, struct object *o, uint64_t writer)
{
	struct quarantine *q = calloc(1, sizeof *q);

	o->state = OBJECT_GONE;
	policy_leave(s, o, false);
	count_quarantine(s, o, true);
	/* Out of memory: its places are never used again while this master lives. */
	if (!q)
		return;
	q->object = o;
	q->writer = writer;
	pthread_mutex_lock(&s->away_lock);
	q->next = s->quarantine;
	s->quarantine = q;
	pthread_mutex_unlock(&s->away_lock);
}

static bool same_client(const struct mc_master_client_id *a, const struct mc_master_client_id *b)
{
	return memcmp(a, b, sizeof *a) == 0;
}

/* With away_lock: all those that nobody has to confirm for any more are unlinked. */
static struct quarantine *cleared(struct mc_master *s)
{
	struct quarantine **at = &s->quarantine, *q, *done = NULL;

	while ((q = *at)) {
		bool clear = true;

		for (uint32_t i = 0; i < q->object->nr && clear; i++)
			clear = bit(q->clear, i) || atomic_load(&segment_at(s, object_extents(q->object)[i].place)->state) ==
							    MASTER_SEGMENT_GONE;
		if (!clear) {
			at = &q->next;
			continue;
		}
		*at = q->next;
		q->next = done;
		done = q;
	}
	return done;
}

static void release_cleared(struct mc_master *s, struct quarantine *done)
{
	while (done) {
		struct quarantine *q = done;

		done = q->next;
		count_quarantine(s, q->object, false);
		places_free(s, q->object);
		free(q);
	}
}

void quarantine_look(struct mc_master *s)
{
	struct quarantine *done;

	pthread_mutex_lock(&s->away_lock);
	done = cleared(s);
	pthread_mutex_unlock(&s->away_lock);
	release_cleared(s, done);
}

void quarantine_confirm(struct mc_master *s, const struct client *client, uint64_t generation)
{
	struct quarantine *done;

	pthread_mutex_lock(&s->away_lock);
	for (struct quarantine *q = s->quarantine; q; q = q->next)
		for (uint32_t i = 0; q->writer == generation && i < q->object->nr; i++)
			/* What was cut off before it was asked for may have come back since. */
			if (bit(q->told, i) &&
			    same_client(&segment_at(s, object_extents(q->object)[i].place)->client, &client->id))
				bit_set(q->clear, i);
	done = cleared(s);
	pthread_mutex_unlock(&s->away_lock);
	release_cleared(s, done);
}

static bool listed(const uint64_t *list, size_t nr, uint64_t generation)
{
	for (size_t i = nr; i-- > 0;)
		if (list[i] == generation)
			return true;
	return false;
}

size_t quarantine_ask(struct mc_master *s, const struct client *client, uint64_t *list, size_t max)
{
	size_t nr = 0;

	pthread_mutex_lock(&s->away_lock);
	for (struct quarantine *q = s->quarantine; q; q = q->next)
		for (uint32_t i = 0; i < q->object->nr; i++) {
			if (bit(q->clear, i) ||
			    !same_client(&segment_at(s, object_extents(q->object)[i].place)->client, &client->id))
				continue;
			if (!listed(list, nr, q->writer)) {
				if (nr == max)
					continue;
				list[nr++] = q->writer;
			}
			bit_set(q->told, i);
		}
	pthread_mutex_unlock(&s->away_lock);
	return nr;
}
