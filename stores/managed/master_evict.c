/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the policy hears, whom it names, and the clock's work: a bounded piece of it at
 * a time, so that no request waits long for a lock.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "master_impl.h"

#define VICTIMS 64u      /* at a time */
#define TICK_NS (10 * MASTER_MSEC)
#define PRESSURE_PART 8u /* leases are counted when less than 1/8 of the memory is free */

/* ---- what the policy hears ------------------------------------------------------------------- */

/* With policy_lock: made with the first object, when it is known about how many there will be. */
static int policy_need(struct mc_master *s, uint64_t len)
{
	struct mc_pool_stats stats = {.size = sizeof stats};
	uint64_t capacity, mean = s->limits.mean_object ? s->limits.mean_object : len;

	if (s->policy)
		return 0;
	if (!s->nodes) {
		s->nodes = calloc(MASTER_SCRATCH, sizeof(struct mc_policy_node *));
		s->keys = calloc(MASTER_SCRATCH, sizeof *s->keys);
		if (!s->nodes || !s->keys) {
			free(s->nodes);
			free(s->keys);
			s->nodes = NULL;
			s->keys = NULL;
			return -ENOMEM;
		}
	}
	mc_pool_stats(s->pool, &stats);
	capacity = MC_MIN(MC_MAX(stats.bytes / MC_MAX(mean, 1u), 64u), UINT64_C(1) << 28);
	return mc_policy_new(capacity, s->seed, &s->policy);
}

static struct object *object_of(const struct mc_policy_node *node)
{
	return MC_CONTAINER_OF(node, struct object, node);
}

/* The blocks that `o` stands on, the first one first, and `o`; at most max, the last ones. */
static size_t ancestry(struct mc_master *s, struct object *o, size_t max)
{
	size_t nr = 0;

	for (struct mc_policy_node *n = &o->node; n && nr < max; n = n->parent)
		s->nodes[nr++] = n;
	for (size_t i = 0; i < nr / 2; i++) {
		struct mc_policy_node *n = s->nodes[i];

		s->nodes[i] = s->nodes[nr - 1 - i];
		s->nodes[nr - 1 - i] = n;
	}
	for (size_t i = 0; i < nr; i++)
		s->keys[i] = object_of(s->nodes[i])->item.hash;
	return nr;
}

/* The first nr of the scratch, the first of which stands on `after`. */
static void tell(struct mc_master *s, size_t nr, struct mc_policy_node *after)
{
	if (nr == 0 || mc_policy_access(s->policy, after, s->nodes, s->keys, nr) < 0)
		return;
	for (size_t i = 0; i < nr; i++)
		object_of(s->nodes[i])->known = 1;
}

/* With policy_lock: it is still that object, and the policy's. */
static bool is_known(const struct object *o, uint64_t id)
{
	return atomic_load(&o->id) == id && o->known && !o->dead;
}

void policy_tell(struct mc_master *s, struct object *const *objects, size_t nr, bool chain, struct object *prev,
		 uint64_t prev_id, bool goes_on)
{
	struct mc_policy_node *after = NULL;
	size_t n = 0;

	pthread_mutex_lock(&s->policy_lock);
	if (nr == 0 || policy_need(s, objects[0]->len) < 0)
		nr = 0;
	if (nr && prev && goes_on && is_known(prev, prev_id)) {
		after = &prev->node;
	} else if (nr && prev && is_known(prev, prev_id)) {
		n = ancestry(s, prev, MASTER_SCRATCH / 2);
		after = s->nodes[0]->parent;
	}
	for (size_t i = 0; i < nr && n < MASTER_SCRATCH; i++) {
		if (objects[i]->dead) {
			/* What is behind a gap begins anew. */
			tell(s, n, after);
			after = NULL;
			n = 0;
			continue;
		}
		s->nodes[n] = &objects[i]->node;
		s->keys[n++] = objects[i]->item.hash;
		if (!chain) {
			tell(s, n, NULL);
			n = 0;
		}
	}
	tell(s, n, after);
	pthread_mutex_unlock(&s->policy_lock);
}

void policy_touch(struct mc_master *s, struct object *o, uint64_t id)
{
	pthread_mutex_lock(&s->policy_lock);
	if (is_known(o, id))
		mc_policy_touch(s->policy, &o->node);
	pthread_mutex_unlock(&s->policy_lock);
}

/* ---- eviction -------------------------------------------------------------------------------- */

struct asking {
	struct mc_master *s;
	uint64_t now;
	uint32_t ahead;
	bool soft_too;
};

/* Something new may go where a part of it lies; else taking it away gains nothing. */
static bool helps(struct mc_master *s, const struct object *o)
{
	for (uint32_t i = 0; i < o->nr; i++)
		if (atomic_load_explicit(&segment_at(s, object_extents(o)[i].place)->state, memory_order_relaxed) == MC_MASTER_MOUNTED)
			return true;
	return false;
}

static bool may_go(void *arg, const struct mc_policy_node *node)
{
	const struct asking *a = arg;
	const struct object *o = MC_CONTAINER_OF(node, struct object, node);
	uint32_t pin = atomic_load_explicit(&o->pin_s, memory_order_relaxed);

	return atomic_load_explicit(&o->lease_ns, memory_order_relaxed) <= a->now && pin != MASTER_PIN_HARD &&
	       (a->soft_too || pin <= a->now / MASTER_SEC) && helps(a->s, o);
}

/* Names up to VICTIMS blocks of at least `bytes` together, which are out of the policy then. */
static size_t choose(struct mc_master *s, struct asking *asking, uint64_t bytes, struct object **victims)
{
	size_t nr = 0;

	pthread_mutex_lock(&s->policy_lock);
	for (uint64_t sum = 0; s->policy && nr < VICTIMS && sum < bytes; nr++) {
		struct mc_policy_node *n = mc_policy_victim(s->policy, asking->ahead, may_go, asking);
		struct object *o;

		if (!n && !asking->soft_too && !s->limits.keep_soft_pinned) {
			asking->soft_too = true;
			n = mc_policy_victim(s->policy, asking->ahead, may_go, asking);
		}
		if (!n)
			break;
		o = object_of(n);
		sum += o->len * o->nr_replicas;
		mc_policy_remove(s->policy, n, o->item.hash, true);
		o->known = 0;
		o->dead = 1;
		victims[nr] = o;
	}
	pthread_mutex_unlock(&s->policy_lock);
	return nr;
}

/* It was taken by a reader, pinned or removed since it was named. */
static void spare(struct mc_master *s, struct object *o)
{
	pthread_mutex_lock(&s->policy_lock);
	o->dead = 0;
	s->nodes[0] = &o->node;
	s->keys[0] = o->item.hash;
	memset(&o->node, 0, sizeof o->node);
	tell(s, 1, NULL);
	pthread_mutex_unlock(&s->policy_lock);
}

uint64_t evict(struct mc_master *s, uint64_t bytes, uint32_t ahead, uint64_t now)
{
	struct object *victims[VICTIMS];
	struct asking asking = {.s = s, .now = now, .ahead = ahead};
	uint64_t freed = 0;
	size_t nr;

	if (now < s->quiet_ns)
		return 0;
	while (freed < bytes && (nr = choose(s, &asking, bytes - freed, victims)) > 0) {
		for (size_t i = 0; i < nr; i++) {
			struct object *o = victims[i];
			struct shard *shard = shard_of(s, o->item.hash);
			uint64_t len = o->len * o->nr_replicas;

			pthread_mutex_lock(&shard->lock);
			if (o->state != OBJECT_COMPLETE) {
				len = 0;
			} else if (may_go(&asking, &o->node)) {
				object_remove(s, shard, o, true);
			} else {
				len = 0;
				spare(s, o);
			}
			pthread_mutex_unlock(&shard->lock);
			freed += len;
			atomic_fetch_add(&s->nr_evicted, len > 0);
			atomic_fetch_add(&s->evicted_bytes, len);
		}
	}
	return freed;
}

/* ---- the clock ------------------------------------------------------------------------------- */

/* Above the watermark, or somebody found no room. */
static void evict_due(struct mc_master *s, uint64_t now)
{
	struct mc_pool_stats stats = {.size = sizeof stats};
	uint64_t wanted = atomic_exchange(&s->wanted, 0), used, high, low;

	mc_pool_stats(s->pool, &stats);
	used = stats.bytes_open - stats.free;
	used -= MC_MIN(used, atomic_load(&s->away_bytes));
	high = (uint64_t)((double)stats.bytes_open * s->limits.high_watermark);
	low = (uint64_t)((double)stats.bytes_open * MC_MAX(s->limits.high_watermark - s->limits.eviction_ratio, 0));
	if (used > high)
		wanted = MC_MAX(wanted, used - low);
	else if (wanted)
		wanted = wanted > atomic_load(&s->away_bytes) ? wanted - atomic_load(&s->away_bytes) : 0;
	if (wanted)
		evict(s, MC_MIN(wanted, VICTIMS * 16 * MC_MAX(s->limits.mean_object, 1u << 20)), 0, now);
}

/* One shard's leases and pins, for the sentence that says who has the space. */
static void walk(struct mc_master *s, uint64_t now)
{
	struct shard *shard = &s->shards[s->walk];
	struct mc_store_item *item;
	uint32_t at = 0;

	pthread_mutex_lock(&shard->lock);
	while ((item = mc_store_map_next(&shard->map, &at))) {
		const struct object *o = MC_CONTAINER_OF(item, struct object, item);
		uint64_t len = o->len * o->nr_replicas;

		if (o->state == OBJECT_COMPLETE && atomic_load(&o->lease_ns) > now)
			s->walk_leased += len;
		if (o->state == OBJECT_COMPLETE && atomic_load(&o->pin_s) > now / MASTER_SEC)
			s->walk_pinned += len;
	}
	pthread_mutex_unlock(&shard->lock);
	s->walk = (s->walk + 1) & s->shard_mask;
	if (s->walk)
		return;
	atomic_store(&s->leased, s->walk_leased);
	atomic_store(&s->pinned, s->walk_pinned);
	s->walk_leased = s->walk_pinned = 0;
}

static void grave_empty(struct mc_master *s)
{
	struct object *o;

	pthread_mutex_lock(&s->away_lock);
	o = s->grave;
	s->grave = NULL;
	pthread_mutex_unlock(&s->away_lock);
	while (o) {
		struct object *next = o->away.next;

		object_free(s, o);
		o = next;
	}
}

uint64_t mc_master_tick(struct mc_master *s, uint64_t now)
{
	struct mc_pool_stats stats = {.size = sizeof stats};
	bool left;

	pthread_rwlock_rdlock(&s->admin);
	puts_expire(s, NULL, now);
	evict_due(s, now);
	left = away_release(s, now);
	mc_pool_stats(s->pool, &stats);
	if (stats.bytes - stats.used < stats.bytes / PRESSURE_PART)
		walk(s, now);
	pthread_rwlock_unlock(&s->admin);
	pthread_rwlock_wrlock(&s->admin);
	grave_empty(s);
	segments_tick(s, now);
	pthread_rwlock_unlock(&s->admin);
	return now + (left ? MASTER_MSEC : TICK_NS);
}
