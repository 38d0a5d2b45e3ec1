/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The master's state as a whole: made, filled from what the disk tells, begun; tenants,
 * figures, and the check that tests call.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "core/util/bytes.h"
#include "master_impl.h"

#define SEGMENTS_APART 65536u

static void defaults(struct mc_master_limits *l)
{
	l->size = sizeof *l;
	if (!l->nr_shards)
		l->nr_shards = 64;
	if (!l->lease_ns)
		l->lease_ns = 10 * MASTER_SEC;
	if (!l->soft_pin_ns)
		l->soft_pin_ns = 1800 * MASTER_SEC;
	if (l->high_watermark <= 0)
		l->high_watermark = 0.90;
	if (l->eviction_ratio <= 0)
		l->eviction_ratio = 0.05;
	if (!l->client_ttl_ns)
		l->client_ttl_ns = 10 * MASTER_SEC;
	if (!l->put_ttl_ns)
		l->put_ttl_ns = 30 * MASTER_SEC;
	if (!l->granule)
		l->granule = MC_SPACE_GRANULE;
	while (l->seed == 0 && getrandom(&l->seed, sizeof l->seed, 0) < 0)
		l->seed = (uint64_t)(uintptr_t)&l->seed;
}

static int tenant_add(struct mc_master *s, uint32_t number, const char *name, size_t len)
{
	struct tenant *t = calloc(1, sizeof *t);

	if (!t)
		return -ENOMEM;
	memcpy(t->name, name, len);
	s->tenants[number] = t;
	s->nr_tenants = MC_MAX(s->nr_tenants, number + 1);
	return 0;
}

int mc_master_new(const struct mc_master_limits *limits, struct mc_master **ret_state)
{
	struct mc_master *s = calloc(1, sizeof *s);

	if (!s)
		return -ENOMEM;
	if (limits)
		memcpy(&s->limits, limits, MC_MIN(limits->size, sizeof s->limits));
	defaults(&s->limits);
	if (s->limits.nr_shards & (s->limits.nr_shards - 1) || s->limits.nr_shards > 4096 ||
	    s->limits.strategy >= MC_POOL_STRATEGY_COUNT || s->limits.high_watermark > 1) {
		free(s);
		return -EINVAL;
	}
	s->seed = s->limits.seed;
	s->shard_mask = s->limits.nr_shards - 1;
	s->shards = aligned_alloc(MC_CACHE_LINE, s->limits.nr_shards * sizeof *s->shards);
	if (!s->shards || mc_pool_new(s->seed, &s->pool) < 0 || tenant_add(s, 0, "", 0) < 0) {
		mc_pool_free(s->pool);
		free(s->shards);
		free(s);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < s->limits.nr_shards; i++) {
		s->shards[i] = (struct shard){.oldest = PUT_NONE, .newest = PUT_NONE, .free_first = PUT_NONE, .free_last = PUT_NONE};
		pthread_mutex_init(&s->shards[i].lock, NULL);
	}
	pthread_rwlock_init(&s->admin, NULL);
	pthread_mutex_init(&s->policy_lock, NULL);
	pthread_mutex_init(&s->slab_lock, NULL);
	pthread_mutex_init(&s->away_lock, NULL);
	*ret_state = s;
	return 0;
}

static void free_segments(struct mc_master *s)
{
	while (s->segments) {
		struct segment *seg = s->segments;

		s->segments = seg->next;
		dropped_free(seg->stone);
		free(seg->engine);
		free(seg->location);
		free(seg);
	}
}

static void free_clients(struct mc_master *s)
{
	struct client *c, *next;

	HASH_ITER(hh, s->clients, c, next) {
		HASH_DEL(s->clients, c);
		free(c->engine);
		free(c);
	}
}

void mc_master_free(struct mc_master *s)
{
	if (!s)
		return;
	free_segments(s);
	free_clients(s);
	while (s->dropped) {
		struct dropped *d = s->dropped;

		s->dropped = d->next;
		dropped_free(d);
	}
	free(s->left_out);
	for (uint32_t i = 0; i <= s->shard_mask; i++) {
		mc_store_map_free(&s->shards[i].map);
		free(s->shards[i].puts);
		pthread_mutex_destroy(&s->shards[i].lock);
	}
	free(s->shards);
	while (s->quarantine) {
		struct quarantine *q = s->quarantine;

		s->quarantine = q->next;
		free(q);
	}
	while (s->chunks) {
		void *chunk = s->chunks;

		memcpy(&s->chunks, chunk, sizeof s->chunks);
		free(chunk);
	}
	for (uint32_t i = 0; i < s->nr_tenants; i++)
		free(s->tenants[i]);
	mc_policy_free(s->policy);
	free(s->nodes);
	free(s->keys);
	mc_pool_free(s->pool);
	pthread_rwlock_destroy(&s->admin);
	pthread_mutex_destroy(&s->policy_lock);
	pthread_mutex_destroy(&s->slab_lock);
	pthread_mutex_destroy(&s->away_lock);
	free(s);
}

/* ---- what the disk tells --------------------------------------------------------------------- */

static int number_load(const uint8_t *v, size_t len, uint64_t *number)
{
	if (len != 9 || v[0] != MASTER_FORMAT)
		return -EBADMSG;
	*number = mc_get64(v + 1);
	return 0;
}

int number_log(struct mc_master *s, uint64_t row, uint64_t number)
{
	uint8_t v[9] = {MASTER_FORMAT};
	struct mc_store_change change = {.table = MC_MASTER_TABLE_MASTER, .id = row, .value = v, .len = sizeof v};

	mc_put64(v + 1, number);
	return sink_append(s, &change, 1);
}

/* 0 u8 format · 1 u64 quota · 9 name */
static int tenant_load(struct mc_master *s, uint64_t id, const uint8_t *v, size_t len)
{
	int r = 0;

	if (len < 9 || len - 9 > MC_MASTER_TENANT_MAX || v[0] != MASTER_FORMAT || id >= MASTER_TENANTS_MAX ||
	    memchr(v + 9, 0, len - 9) || (id > 0) != (len > 9))
		return -EBADMSG;
	if (!s->tenants[id])
		r = tenant_add(s, (uint32_t)id, (const char *)v + 9, len - 9);
	if (r == 0)
		atomic_store(&s->tenants[id]->quota, mc_get64(v + 1));
	return r;
}

static int tenant_log(struct mc_master *s, uint32_t number)
{
	const struct tenant *t = s->tenants[number];
	uint8_t v[9 + MC_MASTER_TENANT_MAX] = {MASTER_FORMAT};
	struct mc_store_change change = {.table = MC_MASTER_TABLE_TENANT, .id = number, .value = v,
					 .len = (uint32_t)(9 + strlen(t->name))};

	mc_put64(v + 1, atomic_load(&t->quota));
	memcpy(v + 9, t->name, strlen(t->name));
	return sink_append(s, &change, 1);
}

int mc_master_load(struct mc_master *s, uint16_t table, uint64_t id, const void *value, size_t len, struct mc_error *err)
{
	uint64_t number;
	int r = 0;

	switch (table) {
	case MC_MASTER_TABLE_MASTER:
		if (id <= ROW_SEGMENT)
			r = number_load(value, len, &number);
		if (r == 0 && id == ROW_EPOCH)
			s->epoch = number;
		else if (r == 0 && id == ROW_LEASE)
			s->lease_max = number;
		else if (r == 0 && id == ROW_SEGMENT)
			s->last_segment = MC_MAX(s->last_segment, (uint32_t)number);
		break;
	case MC_MASTER_TABLE_SEGMENT:
		return segment_load(s, id, value, len, err);
	case MC_MASTER_TABLE_TENANT:
		r = tenant_load(s, id, value, len);
		break;
	case MC_MASTER_TABLE_OBJECT:
		return object_load(s, id, value, len, err);
	default: /* of a later version: kept on the disk */
		break;
	}
	return r < 0 ? mc_fail(err, r, "table %u, row %llu: %s", table, (unsigned long long)id,
			       r == -ENOMEM ? "out of memory" : "the value is damaged")
		     : 0;
}

/* ---- begin ----------------------------------------------------------------------------------- */

static int no_append(void *ctx, struct mc_store_change *changes, size_t nr)
{
	for (size_t i = 0; i < nr; i++)
		changes[i].seq = 1;
	return 0;
}

static uint64_t no_synced(void *ctx)
{
	return UINT64_MAX;
}

static void no_want(void *ctx, uint64_t seq)
{
}

int mc_master_start(struct mc_master *s, const struct mc_master_sink *sink, uint64_t now)
{
	static const struct mc_master_sink none = {no_append, no_synced, no_want, NULL};
	int r = 0;

	s->sink = sink ? *sink : none;
	s->epoch++;
	s->lease_max = MC_MAX(s->lease_max, s->limits.lease_ns);
	/* Readers may hold leases on what was removed, writers may write to what was not finished. */
	atomic_store(&s->waiting, s->epoch > 1);
	if (s->epoch > 1)
		s->quiet_ns = now + MC_MAX(s->lease_max, s->limits.put_ttl_ns);
	mc_pool_settle(s->pool);
	for (uint32_t k = 0; k <= s->shard_mask; k++) {
		struct mc_store_item *item;
		uint32_t at = 0;

		while ((item = mc_store_map_next(&s->shards[k].map, &at))) {
			struct object *o = MC_CONTAINER_OF(item, struct object, item);
			uint32_t pin = atomic_load(&o->pin_s);

			if (pin && pin != MASTER_PIN_HARD)
				atomic_store(&o->pin_s, pin + (uint32_t)(now / MASTER_SEC) + 1);
			policy_tell(s, &o, 1, false, NULL, 0, false);
		}
	}
	/* Not from the epoch, which may not be on the disk when the life ends, and come again. */
	s->first_token = (uint32_t)mc_store_hash(s->seed ^ now, 0, "token", 5) & 0xfffffff;
	/* Numbers of segments that were told just before the end may not be on the disk: a life begins well above them. */
	if (s->epoch > 1)
		s->last_segment += 1 + (uint32_t)(mc_store_hash(s->seed ^ now, 0, "segment", 7) % SEGMENTS_APART);
	/* Their places may be used from now on. */
	for (size_t i = 0; i < s->nr_left_out && r == 0; i++) {
		struct mc_store_change change = {.table = MC_MASTER_TABLE_OBJECT, .gone = true, .id = s->left_out[i]};

		r = sink_append(s, &change, 1);
	}
	free(s->left_out);
	s->left_out = NULL;
	s->nr_left_out = 0;
	if (r == 0)
		r = number_log(s, ROW_EPOCH, s->epoch);
	if (r == 0)
		r = number_log(s, ROW_LEASE, s->lease_max);
	if (r == 0)
		r = number_log(s, ROW_SEGMENT, s->last_segment);
	return r;
}

uint64_t mc_master_epoch(const struct mc_master *s)
{
	return s->epoch;
}

/* ---- tenants --------------------------------------------------------------------------------- */

static int tenant_find(const struct mc_master *s, const char *name, size_t len, uint32_t *ret)
{
	for (uint32_t i = 0; i < s->nr_tenants; i++)
		if (s->tenants[i] && strlen(s->tenants[i]->name) == len && memcmp(s->tenants[i]->name, name, len) == 0) {
			*ret = i;
			return 0;
		}
	return -ENOENT;
}

int mc_master_tenant(struct mc_master *s, const char *name, size_t len, bool create, uint32_t *ret_tenant)
{
	int r;

	*ret_tenant = 0;
	if (len == 0)
		return 0;
	if (len > MC_MASTER_TENANT_MAX || memchr(name, 0, len))
		return -EINVAL;
	pthread_rwlock_rdlock(&s->admin);
	r = tenant_find(s, name, len, ret_tenant);
	pthread_rwlock_unlock(&s->admin);
	if (r == 0 || !create)
		return r;
	pthread_rwlock_wrlock(&s->admin);
	r = tenant_find(s, name, len, ret_tenant);
	if (r < 0) {
		r = s->nr_tenants < MASTER_TENANTS_MAX ? tenant_add(s, s->nr_tenants, name, len) : -ENOMEM;
		if (r == 0)
			*ret_tenant = s->nr_tenants - 1;
		if (r == 0)
			r = tenant_log(s, *ret_tenant);
	}
	pthread_rwlock_unlock(&s->admin);
	return r;
}

int mc_master_quota(struct mc_master *s, uint32_t tenant, uint64_t bytes)
{
	int r = -ENOENT;

	pthread_rwlock_wrlock(&s->admin);
	if (tenant < s->nr_tenants && s->tenants[tenant]) {
		atomic_store(&s->tenants[tenant]->quota, bytes);
		r = tenant_log(s, tenant);
	}
	pthread_rwlock_unlock(&s->admin);
	return r;
}

int mc_master_tenants(struct mc_master *s,
		      int (*each)(void *ctx, const char *name, uint64_t quota, uint64_t used, uint64_t nr_objects), void *ctx)
{
	int r = 0;

	pthread_rwlock_rdlock(&s->admin);
	for (uint32_t i = 0; i < s->nr_tenants && r == 0; i++) {
		const struct tenant *t = s->tenants[i];

		if (t)
			r = each(ctx, t->name, atomic_load(&t->quota), atomic_load(&t->used), atomic_load(&t->nr_objects));
	}
	pthread_rwlock_unlock(&s->admin);
	return r;
}

/* ---- figures --------------------------------------------------------------------------------- */

static uint64_t memory(struct mc_master *s, const struct mc_pool_stats *pool)
{
	uint64_t sum = sizeof *s + atomic_load(&s->slab_bytes) + pool->metadata;

	for (uint32_t k = 0; k <= s->shard_mask; k++) {
		struct shard *shard = &s->shards[k];

		pthread_mutex_lock(&shard->lock);
		sum += shard->map.slots ? (uint64_t)(shard->map.mask + 1) * sizeof *shard->map.slots : 0;
		sum += shard->nr_puts * sizeof *shard->puts + sizeof *shard;
		pthread_mutex_unlock(&shard->lock);
	}
	pthread_mutex_lock(&s->policy_lock);
	if (s->policy) {
		struct mc_policy_stats policy;

		mc_policy_stats(s->policy, &policy);
		sum += policy.metadata + MASTER_SCRATCH * 16;
	}
	pthread_mutex_unlock(&s->policy_lock);
	return sum;
}

void mc_master_stats(struct mc_master *s, struct mc_master_stats *stats, uint64_t now)
{
	struct mc_pool_stats pool = {.size = sizeof pool};
	struct mc_master_stats st = {.size = MC_MIN(stats->size, sizeof st)};

	pthread_rwlock_rdlock(&s->admin);
	mc_pool_stats(s->pool, &pool);
	for (const struct segment *seg = s->segments; seg; seg = seg->next) {
		uint32_t state = atomic_load(&seg->state);

		st.nr_segments += state != MASTER_SEGMENT_GONE;
		st.nr_suspect += state == MC_MASTER_SUSPECT;
	}
	st.epoch = s->epoch;
	st.nr_clients = HASH_COUNT(s->clients);
	st.metadata = memory(s, &pool);
	space_tell(s, &st.space);
	pthread_rwlock_unlock(&s->admin);
	st.nr_objects = atomic_load(&s->nr_objects);
	st.nr_puts = atomic_load(&s->nr_open);
	st.nr_put = atomic_load(&s->nr_put);
	st.nr_get = atomic_load(&s->nr_get);
	st.nr_hit = atomic_load(&s->nr_hit);
	st.nr_removed = atomic_load(&s->nr_removed);
	st.nr_evicted = atomic_load(&s->nr_evicted);
	st.evicted_bytes = atomic_load(&s->evicted_bytes);
	st.nr_expired_puts = atomic_load(&s->nr_expired);
	st.nr_lost = atomic_load(&s->nr_lost);
	st.waits_ns = now < s->quiet_ns ? s->quiet_ns - now : 0;
	memcpy(stats, &st, st.size);
}
