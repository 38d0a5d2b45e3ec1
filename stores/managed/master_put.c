/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Putting: places are given, the client writes, the object is complete.  A token names
 * a put by its place in the shard's list and a number that no other put has had there.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "master_impl.h"

#define SHARD_BITS 12
#define SLOT_BITS 24
#define SEQ_BITS 28
#define PUTS_FIRST 256u
#define PREFERRED_MAX 256u
#define AHEAD 64u /* looked up at a time */
#define AGAIN_MAX 64u
#define RETRY_SOON_MS 2u   /* what was evicted is being synced */
#define RETRY_MS 50u

_Static_assert(SHARD_BITS + SLOT_BITS + SEQ_BITS == 64, "a token is 64 bits");

/* ---- slots ----------------------------------------------------------------------------------- */

static int puts_grow(struct shard *shard, uint32_t seq)
{
	uint32_t old = shard->nr_puts, nr = old ? old * 2 : PUTS_FIRST;
	struct put *puts;

	if (nr >= 1u << SLOT_BITS)
		return -ENOMEM;
	puts = reallocarray(shard->puts, nr, sizeof *puts);
	if (!puts)
		return -ENOMEM;
	shard->puts = puts;
	shard->nr_puts = nr;
	for (uint32_t i = old; i < nr; i++) {
		puts[i] = (struct put){.seq = seq, .newer = i + 1 < nr ? i + 1 : PUT_NONE, .older = PUT_NONE};
	}
	shard->free_first = old;
	shard->free_last = nr - 1;
	return 0;
}

/* The slot that has been free for longest, so that a token is known for a while after its end. */
static struct put *put_open(struct mc_master *s, struct shard *shard, uint64_t now)
{
	struct put *p;
	uint32_t at;

	if (shard->free_first == PUT_NONE && puts_grow(shard, s->first_token) < 0)
		return NULL;
	at = shard->free_first;
	p = &shard->puts[at];
	shard->free_first = p->newer;
	if (shard->free_first == PUT_NONE)
		shard->free_last = PUT_NONE;
	p->seq = (p->seq + 1) & ((1u << SEQ_BITS) - 1);
	p->state = PUT_OPEN;
	p->start_ns = now;
	p->older = shard->newest;
	p->newer = PUT_NONE;
	if (shard->newest != PUT_NONE)
		shard->puts[shard->newest].newer = at;
	else
		shard->oldest = at;
	shard->newest = at;
	atomic_fetch_add(&s->nr_open, 1);
	return p;
}

void put_close(struct mc_master *s, struct shard *shard, struct put *p, enum put_state state)
{
	uint32_t at = (uint32_t)(p - shard->puts);

	if (p->older != PUT_NONE)
		shard->puts[p->older].newer = p->newer;
	else
		shard->oldest = p->newer;
	if (p->newer != PUT_NONE)
		shard->puts[p->newer].older = p->older;
	else
		shard->newest = p->older;
	p->state = (uint8_t)state;
	p->object = NULL;
	p->newer = PUT_NONE;
	if (shard->free_last != PUT_NONE)
		shard->puts[shard->free_last].newer = at;
	else
		shard->free_first = at;
	shard->free_last = at;
	atomic_fetch_sub(&s->nr_open, 1);
}

static uint64_t token_of(const struct mc_master *s, const struct shard *shard, const struct put *p)
{
	return (uint64_t)p->seq << (SHARD_BITS + SLOT_BITS) | (uint64_t)(p - shard->puts) << SHARD_BITS |
	       (uint64_t)(shard - s->shards);
}

struct put *put_find(struct shard *shard, uint64_t token, const struct mc_master_client_id *client)
{
	uint32_t at = (uint32_t)(token >> SHARD_BITS) & ((1u << SLOT_BITS) - 1);
	struct put *p = at < shard->nr_puts ? &shard->puts[at] : NULL;

	if (!p || p->state == PUT_FREE || p->seq != token >> (SHARD_BITS + SLOT_BITS) ||
	    memcmp(&p->client, client, sizeof *client) != 0)
		return NULL;
	return p;
}

struct shard *token_shard(const struct mc_master *s, uint64_t token)
{
	uint32_t at = (uint32_t)(token & ((1u << SHARD_BITS) - 1));

	return at <= s->shard_mask ? &s->shards[at] : NULL;
}

/* ---- giving up ------------------------------------------------------------------------------- */

static void uncharge(struct mc_master *s, const struct object *o)
{
	atomic_fetch_sub(&s->tenants[o->item.tenant]->used, o->len * o->nr_replicas);
	atomic_fetch_sub(&s->unfinished, o->len * o->nr_replicas);
}

struct object *put_give_up(struct mc_master *s, struct shard *shard, struct put *p)
{
	struct object *o = p->object;

	if (!(o->flags & OBJECT_SHADOW))
		mc_store_map_remove(&shard->map, &o->item);
	uncharge(s, o);
	put_close(s, shard, p, PUT_FREE);
	return o;
}

void puts_expire(struct mc_master *s, const struct mc_master_client_id *client, uint64_t now)
{
	for (uint32_t k = 0; k <= s->shard_mask; k++) {
		struct shard *shard = &s->shards[k];

		pthread_mutex_lock(&shard->lock);
		for (uint32_t at = shard->oldest; at != PUT_NONE;) {
			struct put *p = &shard->puts[at];
			uint64_t writer = p->generation;

			if (!client && now < p->start_ns + s->limits.put_ttl_ns)
				break;
			at = p->newer;
			if (client && memcmp(&p->client, client, sizeof *client) != 0)
				continue;
			object_quarantine(s, put_give_up(s, shard, p), writer);
			atomic_fetch_add(&s->nr_expired, 1);
		}
		pthread_mutex_unlock(&shard->lock);
	}
}

/* ---- begin ----------------------------------------------------------------------------------- */

/* What is the same for all puts of a batch. */
struct putting {
	struct mc_master *s;
	const struct client *client;
	const struct mc_master_put_config *config;
	struct mc_pool_request request;
	struct mc_master_extents *extents;
	struct object *parent, *prev; /* what the first one stands on, and the next one */
	uint64_t parent_id, prev_id, now, lent;
	uint32_t nr;
	bool touched; /* the parent */
	uint64_t ask; /* number of this request */
	uint32_t preferred[PREFERRED_MAX];
	bool full; /* somebody found no room */
};

static void prefer(struct putting *b)
{
	const struct mc_master_put_config *c = b->config;
	size_t nr = 0;

	for (uint32_t i = 0; i < c->nr_preferred && nr < PREFERRED_MAX; i++) {
		const struct segment *seg = segment_find(b->s, c->preferred[i]);

		if (seg)
			b->preferred[nr++] = seg->place;
	}
	for (const struct segment *seg = b->s->segments; seg && c->preferred_engine && nr < PREFERRED_MAX; seg = seg->next)
		if (strcmp(seg->engine, c->preferred_engine) == 0 && atomic_load(&seg->state) == MC_MASTER_MOUNTED)
			b->preferred[nr++] = seg->place;
	b->request.preferred = b->preferred;
	b->request.nr_preferred = nr;
}

static bool all_gone(const struct mc_master *s, const struct object *o)
{
	for (uint32_t i = 0; i < o->nr; i++)
		if (atomic_load(&segment_at(s, object_extents(o)[i].place)->state) != MASTER_SEGMENT_GONE)
			return false;
	return true;
}

/* Tell where it lies.  -ENOBUFS: no room in the answer. */
static int tell_places(struct putting *b, const struct object *o, struct mc_master_put *put)
{
	struct mc_master_extents *x = b->extents;

	if (x->cap - x->nr < o->nr)
		return -ENOBUFS;
	put->first = (uint32_t)x->nr;
	put->nr = o->nr;
	for (uint32_t i = 0; i < o->nr; i++) {
		const struct object_extent *e = &object_extents(o)[i];
		const struct segment *seg = segment_at(b->s, e->place);

		x->at[x->nr++] = (struct mc_master_extent){.offset = seg->base + e->offset, .len = extent_len(o, i),
							   .segment = seg->id, .replica = extent_replica(o, i),
							   .medium = MC_MASTER_MEMORY};
	}
	return 0;
}

static bool is_again(const struct putting *b, const struct put *p, const struct mc_master_put *put)
{
	const struct object *o = p->object;

	return p->nonce == b->config->nonce && o->len == put->len && o->item.tenant == b->config->tenant &&
	       o->item.key_len == put->key.len && memcmp(mc_store_item_key(&o->item), put->key.data, put->key.len) == 0 &&
	       memcmp(&p->client, &b->client->id, sizeof p->client) == 0;
}

/* An open put of the same request, whose answer was lost.  Those that replace something are not in the table, and are
 * looked for among the last ones. */
static struct put *put_again(const struct putting *b, const struct shard *shard, const struct object *there,
				   const struct mc_master_put *put)
{
	uint32_t at = shard->newest;

	if (!b->config->nonce)
		return NULL;
	if (there && there->state == OBJECT_PUTTING && is_again(b, &shard->puts[there->put], put))
		return &shard->puts[there->put];
	for (uint32_t i = 0; b->config->flags & MC_MASTER_PUT_UPSERT && i < AGAIN_MAX && at != PUT_NONE; i++) {
		if (is_again(b, &shard->puts[at], put))
			return &shard->puts[at];
		at = shard->puts[at].older;
	}
	return NULL;
}

/* With the shard's lock: what stands in the way.  1: nothing does · 0: it is our own put again · -errno. */
static int in_the_way(struct putting *b, struct shard *shard, struct object *o, struct mc_master_put *put)
{
	struct put *p = put_again(b, shard, o, put);

	/* The key stands in this batch twice: the other value of it is being put. */
	if (p && p->asked == b->ask) {
		put->retry_ms = RETRY_MS;
		return -EBUSY;
	}
	if (p) {
		p->asked = b->ask;
		put->token = token_of(b->s, shard, p);
		return tell_places(b, p->object, put);
	}
	if (!o)
		return 1;
	if (o->state == OBJECT_COMPLETE) {
		if (all_gone(b->s, o)) {
			object_remove(b->s, shard, o, false);
			atomic_fetch_add(&b->s->nr_lost, 1);
			return 1;
		}
		return b->config->flags & MC_MASTER_PUT_UPSERT ? 1 : -EEXIST;
	}
	p = &shard->puts[o->put];
	if (b->config->flags & MC_MASTER_PUT_UPSERT)
		return 1;
	put->retry_ms = (uint32_t)MC_MAX((p->start_ns + b->s->limits.put_ttl_ns - MC_MIN(b->now, p->start_ns + b->s->limits.put_ttl_ns)) /
						 MASTER_MSEC, 1u);
	return -EBUSY;
}

static uint64_t charge(struct tenant *t, uint64_t bytes)
{
	uint64_t quota = atomic_load(&t->quota), used = atomic_fetch_add(&t->used, bytes);

	if (quota && used + bytes > quota) {
		atomic_fetch_sub(&t->used, bytes);
		return false;
	}
	return true;
}

/* Memory and places for an object of len bytes. */
static int place(struct putting *b, uint64_t hash, const struct mc_master_put *put, uint32_t pieces, struct object **ret)
{
	struct mc_master *s = b->s;
	struct mc_pool_extent at[MASTER_EXTENTS_MAX];
	uint8_t flags = (uint8_t)((pieces > 1 ? OBJECT_PIECES : 0) | (b->config->flags & MC_MASTER_PUT_CHECKSUM ? OBJECT_CHECKSUM : 0));
	struct object *o = object_new(s, hash, b->config->tenant, &put->key, b->request.nr_replicas * pieces, flags);
	size_t nr = MASTER_EXTENTS_MAX;
	int r;

	if (!o)
		return -ENOMEM;
	b->request.len = put->len;
	b->request.max_pieces = pieces;
	b->request.tag = (uint64_t)(uintptr_t)o;
	r = mc_pool_alloc(s->pool, &b->request, at, &nr);
	if (r < 0) {
		object_free(s, o);
		return r;
	}
	o->len = put->len;
	o->nr = (uint8_t)nr;
	o->nr_replicas = (uint8_t)r;
	for (size_t i = 0; i < nr; i++) {
		object_extents(o)[i] = (struct object_extent){at[i].offset, at[i].segment, at[i].id};
		if (flags & OBJECT_PIECES)
			object_pieces(o)[i] = at[i].len | (uint64_t)at[i].replica << 56;
		atomic_fetch_add(&segment_at(s, at[i].segment)->nr_objects, 1);
	}
	*ret = o;
	return 0;
}

/* Whole if one segment holds it, cut if not, after an eviction if need be. */
static int find_room(struct putting *b, uint64_t hash, const struct mc_master_put *put, struct object **ret)
{
	struct mc_master *s = b->s;
	uint64_t bytes = put->len * b->request.nr_replicas;

	for (int i = 0; i < 2; i++) {
		int r = place(b, hash, put, 1, ret);

		if (r == -ENOSPC)
			r = place(b, hash, put, MC_MASTER_PIECES_MAX, ret);
		if (r != -ENOSPC)
			return r;
		if (i == 0 && !atomic_load(&s->waiting) && atomic_load(&s->away_bytes) < bytes) {
			if (b->parent && !b->touched)
				policy_touch(s, b->parent, b->parent_id);
			b->touched = true;
			evict(s, bytes - atomic_load(&s->away_bytes), b->nr, b->now);
		}
		if (i == 0)
			away_release(s, b->now);
	}
	if (!atomic_load(&s->waiting))
		atomic_store(&s->wanted, MC_MAX(atomic_load(&s->wanted), bytes));
	return -ENOSPC;
}

static void discard(struct mc_master *s, struct object *o)
{
	for (uint32_t i = 0; i < o->nr; i++) {
		mc_pool_release(s->pool, object_extents(o)[i].place, object_extents(o)[i].id);
		atomic_fetch_sub(&segment_at(s, object_extents(o)[i].place)->nr_objects, 1);
	}
	object_free(s, o);
}

static uint32_t pin_until(const struct mc_master *s, uint32_t flags, uint64_t now)
{
	if (flags & MC_MASTER_PUT_HARD_PIN)
		return MASTER_PIN_HARD;
	return flags & MC_MASTER_PUT_SOFT_PIN ? (uint32_t)((now + s->limits.soft_pin_ns) / MASTER_SEC) + 1 : 0;
}

/* With the shard's lock, when nothing stands in the way. */
static int enter(struct putting *b, struct shard *shard, struct object *o, struct object *there, struct mc_master_put *put)
{
	struct mc_master *s = b->s;
	struct put *p;

	if (b->extents->cap - b->extents->nr < o->nr)
		return -ENOBUFS;
	if (there)
		o->flags |= OBJECT_SHADOW;
	p = put_open(s, shard, b->now);
	if (!p)
		return -ENOMEM;
	if (!there && mc_store_map_add(&shard->map, &o->item) < 0) {
		put_close(s, shard, p, PUT_FREE);
		return -ENOMEM;
	}
	p->object = o;
	p->prev = b->prev;
	p->prev_id = b->prev_id;
	p->nonce = b->config->nonce;
	p->asked = b->ask;
	p->generation = b->client->generation;
	p->client = b->client->id;
	o->put = (uint32_t)(p - shard->puts);
	atomic_store(&o->pin_s, pin_until(s, b->config->flags, b->now));
	atomic_fetch_add(&s->unfinished, o->len * o->nr_replicas);
	put->token = token_of(s, shard, p);
	return tell_places(b, o, put);
}

static int start_one(struct putting *b, struct mc_master_put *put, uint64_t hash)
{
	struct mc_master *s = b->s;
	uint32_t tenant = b->config->tenant;
	uint64_t bytes;
	struct object *o, *there;
	struct shard *shard;
	bool entered;
	int r;

	if (put->key.len == 0 || put->key.len > MC_STORE_KEY_MAX || put->len == 0 || put->len >> 56)
		return -EINVAL;
	shard = shard_of(s, hash);
	pthread_mutex_lock(&shard->lock);
	r = in_the_way(b, shard, object_find(shard, hash, tenant, &put->key), put);
	pthread_mutex_unlock(&shard->lock);
	if (r <= 0)
		return r;
	if (put->len > b->lent)
		return b->lent ? -E2BIG : -ENOSPC; /* who lends may be about to come */
	bytes = put->len * b->request.nr_replicas;
	if (!charge(s->tenants[tenant], bytes))
		return -EDQUOT;
	r = find_room(b, hash, put, &o);
	if (r < 0) {
		atomic_fetch_sub(&s->tenants[tenant]->used, bytes);
		return r;
	}
	/* Fewer replicas than asked for cost less. */
	atomic_fetch_sub(&s->tenants[tenant]->used, bytes - o->len * o->nr_replicas);
	pthread_mutex_lock(&shard->lock);
	there = object_find(shard, hash, tenant, &put->key);
	r = in_the_way(b, shard, there, put);
	entered = r == 1;
	if (entered)
		r = enter(b, shard, o, object_find(shard, hash, tenant, &put->key), put);
	pthread_mutex_unlock(&shard->lock);
	if (r < 0 || !entered) {
		atomic_fetch_sub(&s->tenants[tenant]->used, o->len * o->nr_replicas);
		discard(s, o);
		return r;
	}
	if (b->config->flags & MC_MASTER_PUT_CHAIN) {
		b->prev = o;
		b->prev_id = atomic_load(&o->id);
	}
	return 0;
}

/* CHAIN: what the first one stands on. */
static void find_parent(struct putting *b)
{
	const struct mc_master_key *key = &b->config->parent;
	struct shard *shard;
	struct object *o;
	uint64_t hash;

	if (!(b->config->flags & MC_MASTER_PUT_CHAIN) || key->len == 0 || key->len > MC_STORE_KEY_MAX)
		return;
	hash = mc_store_hash(b->s->seed, b->config->tenant, key->data, key->len);
	shard = shard_of(b->s, hash);
	pthread_mutex_lock(&shard->lock);
	o = object_find(shard, hash, b->config->tenant, key);
	if (o) {
		b->parent = b->prev = o;
		b->parent_id = b->prev_id = atomic_load(&o->id);
	}
	pthread_mutex_unlock(&shard->lock);
}

void space_tell(struct mc_master *s, struct mc_master_full *full)
{
	struct mc_pool_stats stats = {.size = sizeof stats};

	mc_pool_stats(s->pool, &stats);
	*full = (struct mc_master_full){.lent = stats.bytes, .used = stats.used, .leased = atomic_load(&s->leased),
					.pinned = atomic_load(&s->pinned), .quarantined = atomic_load(&s->quarantined),
					.unfinished = atomic_load(&s->unfinished)};
	for (const struct segment *seg = s->segments; seg; seg = seg->next) {
		struct mc_pool_segment_info info = {.size = sizeof info};

		if (mc_pool_segment(s->pool, seg->place, &info) == 0 && info.state == MC_POOL_MOUNTED)
			full->largest_free = MC_MAX(full->largest_free, info.space.largest_free);
	}
}

static int begin(struct putting *b, const struct mc_master_client_id *client)
{
	const struct mc_master_put_config *c = b->config;
	struct mc_pool_stats stats = {.size = sizeof stats};

	if (c->nr_replicas > MC_MASTER_REPLICAS_MAX || c->tenant >= b->s->nr_tenants)
		return -EINVAL;
	b->client = client_find(b->s, client);
	if (!b->client)
		return -ESTALE;
	b->ask = atomic_fetch_add_explicit(&b->s->last_ask, 1, memory_order_relaxed) + 1;
	b->request = (struct mc_pool_request){.size = sizeof b->request, .host = c->host,
					      .strategy = (enum mc_pool_strategy)b->s->limits.strategy,
					      .flags = c->flags & MC_MASTER_PUT_ALL ? MC_POOL_ALL : 0,
					      .nr_replicas = c->nr_replicas ? c->nr_replicas : 1};
	mc_pool_stats(b->s->pool, &stats);
	b->lent = stats.bytes;
	prefer(b);
	find_parent(b);
	return 0;
}

/* Fetch the places of nr keys in the tables, all at the same time; their hashes are worked out. */
static void expect(const struct putting *b, const struct mc_master_put *puts, size_t nr, uint64_t *hashes)
{
	const struct mc_master *s = b->s;

	for (size_t i = 0; i < nr; i++) {
		const struct mc_master_key *key = &puts[i].key;

		hashes[i] = key->len <= MC_STORE_KEY_MAX ? mc_store_hash(s->seed, b->config->tenant, key->data, key->len) : 0;
		mc_store_map_expect(&shard_of(s, hashes[i])->map, hashes[i]);
	}
}

int mc_master_put_start(struct mc_master *s, const struct mc_master_client_id *client,
			const struct mc_master_put_config *config, struct mc_master_put *puts, size_t nr,
			struct mc_master_extents *extents, struct mc_master_full *ret_full, uint64_t now)
{
	struct putting b = {.s = s, .config = config, .extents = extents, .nr = (uint32_t)nr, .now = now};
	uint64_t hashes[AHEAD];
	int failed = 0, r;

	pthread_rwlock_rdlock(&s->admin);
	r = begin(&b, client);
	for (size_t i = 0; r == 0 && i < nr; i++) {
		if (i % AHEAD == 0)
			expect(&b, puts + i, MC_MIN(nr - i, AHEAD), hashes);
		puts[i].retry_ms = 0;
		puts[i].nr = 0;
		puts[i].status = start_one(&b, &puts[i], hashes[i % AHEAD]);
		failed += puts[i].status != 0;
		if (puts[i].status != -ENOSPC)
			continue;
		b.full = true;
		puts[i].retry_ms = now < s->quiet_ns ? (uint32_t)((s->quiet_ns - now) / MASTER_MSEC) + 1
				   : atomic_load(&s->away_bytes) ? RETRY_SOON_MS
								 : RETRY_MS;
	}
	if (b.full)
		space_tell(s, ret_full);
	pthread_rwlock_unlock(&s->admin);
	return r < 0 ? r : failed;
}
