/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading, removing, looking, pinning.  Only complete objects are told, and of those only
 * replicas that lie on mounted segments as a whole.
 */
#include <errno.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "master_impl.h"

#define GOTS 256u /* told to the policy at a time */
#define AHEAD 64u /* looked up at a time: as many as a core fetches side by side, and some */
#define REGEX_MAX 2000u
#define REGEX_DEPTH_MAX 64u

static struct object *find(const struct shard *shard, uint64_t hash, uint32_t tenant, const struct mc_master_key *key)
{
	struct mc_store_item *item = mc_store_map_find(&shard->map, hash, tenant, key->data, key->len);
	struct object *o = item ? MC_CONTAINER_OF(item, struct object, item) : NULL;

	return o && o->state == OBJECT_COMPLETE ? o : NULL;
}

/* Replica of the extent at *at, and *at behind it: 0 readable · -EAGAIN not mounted yet · -ENOENT gone. */
static int replica_state(const struct mc_master *s, const struct object *o, uint32_t *at)
{
	uint8_t replica = extent_replica(o, *at);
	int r = 0;

	for (; *at < o->nr && extent_replica(o, *at) == replica; ++*at) {
		uint32_t state = atomic_load_explicit(&segment_at(s, object_extents(o)[*at].place)->state, memory_order_relaxed);

		if (state == MASTER_SEGMENT_GONE)
			r = -ENOENT;
		else if (state == MC_MASTER_SUSPECT && r == 0)
			r = -EAGAIN;
	}
	return r;
}

/* What of an object can be read: extents are appended (NULL: counted only), of replicas counted from 0.  0; -EAGAIN, -ENOENT, -ENOBUFS */
static int tell_object(const struct mc_master *s, const struct object *o, struct mc_master_got *got,
		       struct mc_master_extents *extents)
{
	int best = -ENOENT;

	got->len = o->len;
	got->nr = 0;
	got->nr_replicas = 0;
	got->first = extents ? (uint32_t)extents->nr : 0;
	got->has_checksum = (o->flags & OBJECT_CHECKED) != 0;
	if (got->has_checksum)
		memcpy(got->checksum, object_checksum(o), 16);
	if (extents && extents->cap - extents->nr < o->nr)
		return -ENOBUFS;
	for (uint32_t at = 0, from = 0; at < o->nr; from = at) {
		int r = replica_state(s, o, &at);

		if (r < 0) {
			best = r == -EAGAIN && best == -ENOENT ? r : best;
			continue;
		}
		best = 0;
		got->nr_replicas++;
		for (uint32_t i = from; extents && i < at; i++) {
			const struct object_extent *e = &object_extents(o)[i];
			const struct segment *seg = segment_at(s, e->place);

			extents->at[extents->nr++] = (struct mc_master_extent){
				.offset = seg->base + e->offset, .len = extent_len(o, i), .segment = seg->id,
				.replica = (uint8_t)(got->nr_replicas - 1), .medium = MC_MASTER_MEMORY};
			got->nr++;
		}
	}
	return best;
}

/* Runs on the way of one get. */
struct getting {
	struct mc_master *s;
	uint32_t tenant, flags;
	uint64_t now;
	struct mc_master_extents *extents;
	struct object *told[GOTS], *prev;
	uint64_t prev_id;
	size_t nr;
	bool goes_on;
};

static void told_end(struct getting *g)
{
	struct object *last = g->nr ? g->told[g->nr - 1] : NULL;
	bool chain = g->flags & MC_MASTER_GET_CHAIN;

	policy_tell(g->s, g->told, g->nr, chain, g->prev, g->prev_id, true);
	if (chain && last) {
		g->prev = last;
		g->prev_id = atomic_load(&last->id);
	}
	g->nr = 0;
}

/* Fetch what nr gets will read, all of it at the same time; their hashes are worked out. */
static void expect(const struct getting *g, const struct mc_master_got *gots, size_t nr, uint64_t *hashes)
{
	struct mc_master *s = g->s;

	for (size_t i = 0; i < nr; i++) {
		const struct mc_master_key *key = &gots[i].key;

		hashes[i] = key->len <= MC_STORE_KEY_MAX ? mc_store_hash(s->seed, g->tenant, key->data, key->len) : 0;
		mc_store_map_expect(&shard_of(s, hashes[i])->map, hashes[i]);
	}
	for (size_t i = 0; i < nr && nr > 1; i++) {
		struct shard *shard = shard_of(s, hashes[i]);

		if (pthread_mutex_trylock(&shard->lock) != 0)
			continue;
		mc_store_map_expect_item(&shard->map, hashes[i]);
		pthread_mutex_unlock(&shard->lock);
	}
}

static int get_one(struct getting *g, struct mc_master_got *got, uint64_t hash)
{
	struct mc_master *s = g->s;
	struct shard *shard;
	struct object *o;
	int r;

	got->nr = 0;
	if (got->key.len == 0 || got->key.len > MC_STORE_KEY_MAX)
		return -EINVAL;
	shard = shard_of(s, hash);
	pthread_mutex_lock(&shard->lock);
	o = find(shard, hash, g->tenant, &got->key);
	r = o ? tell_object(s, o, got, g->extents) : -ENOENT;
	if (r == 0 && !(g->flags & MC_MASTER_GET_NO_LEASE)) {
		uint64_t until = g->now + s->limits.lease_ns;

		if (atomic_load_explicit(&o->lease_ns, memory_order_relaxed) < until)
			atomic_store_explicit(&o->lease_ns, until, memory_order_relaxed);
		g->told[g->nr++] = o;
	}
	pthread_mutex_unlock(&shard->lock);
	return r;
}

int mc_master_get(struct mc_master *s, uint32_t tenant, uint32_t flags, struct mc_master_got *gots, size_t nr,
		  struct mc_master_extents *extents, uint64_t *ret_lease_ns, uint64_t now)
{
	struct getting g = {.s = s, .tenant = tenant, .flags = flags, .now = now, .extents = extents};
	uint64_t hits = 0, hashes[AHEAD];
	bool missed = false;

	pthread_rwlock_rdlock(&s->admin);
	for (size_t i = 0; i < nr; i++) {
		if (i % AHEAD == 0 && !missed)
			expect(&g, gots + i, MC_MIN(nr - i, AHEAD), hashes);
		gots[i].nr = 0;
		gots[i].status = missed ? -ENOENT : get_one(&g, &gots[i], hashes[i % AHEAD]);
		hits += gots[i].status == 0;
		if (flags & MC_MASTER_GET_CHAIN && gots[i].status != 0 && gots[i].status != -ENOBUFS)
			missed = true;
		if (g.nr == GOTS)
			told_end(&g);
	}
	/* The rest of a chain is put next, which tells all of it as the one request that it is. */
	if (!missed)
		told_end(&g);
	pthread_rwlock_unlock(&s->admin);
	atomic_fetch_add_explicit(&s->nr_get, nr, memory_order_relaxed);
	atomic_fetch_add_explicit(&s->nr_hit, hits, memory_order_relaxed);
	*ret_lease_ns = flags & MC_MASTER_GET_NO_LEASE ? 0 : s->limits.lease_ns;
	return (int)(nr - hits);
}

/* ---- removing -------------------------------------------------------------------------------- */

/* With the shard's lock. */
static int remove_one(struct mc_master *s, struct shard *shard, struct object *o, uint32_t flags, uint64_t now)
{
	uint32_t pin = atomic_load(&o->pin_s);
	int r;

	if (!(flags & MC_MASTER_REMOVE_FORCE) && (atomic_load(&o->lease_ns) > now || pin > now / MASTER_SEC))
		return -EBUSY;
	r = object_remove_logged(s, shard, o);
	atomic_fetch_add(&s->nr_removed, r == 0);
	return r;
}

int mc_master_remove(struct mc_master *s, uint32_t tenant, uint32_t flags, struct mc_master_named *keys, size_t nr, uint64_t now)
{
	int failed = 0;

	pthread_rwlock_rdlock(&s->admin);
	for (size_t i = 0; i < nr; i++) {
		uint64_t hash;
		struct shard *shard;
		struct object *o;

		keys[i].status = -EINVAL;
		if (keys[i].key.len && keys[i].key.len <= MC_STORE_KEY_MAX) {
			hash = mc_store_hash(s->seed, tenant, keys[i].key.data, keys[i].key.len);
			shard = shard_of(s, hash);
			pthread_mutex_lock(&shard->lock);
			o = find(shard, hash, tenant, &keys[i].key);
			keys[i].status = o ? remove_one(s, shard, o, flags, now) : -ENOENT;
			pthread_mutex_unlock(&shard->lock);
		}
		failed += keys[i].status != 0;
	}
	pthread_rwlock_unlock(&s->admin);
	return failed;
}

/* ---- by pattern ------------------------------------------------------------------------------ */

struct pattern {
	regex_t regex;
	const char *prefix; /* NULL: regex */
	size_t len;
};

/* Behind the class that begins at text[0] == '['. */
static const char *class_end(const char *text)
{
	text += text[1] == '^' ? 2 : 1;
	text += *text == ']';
	while (*text && *text != ']') {
		char kind = *text == '[' ? text[1] : '\0';

		text++;
		if (kind != ':' && kind != '.' && kind != '=')
			continue;
		for (text++; *text && (text[0] != kind || text[1] != ']'); text++)
			;
		text += *text ? 2 : 0;
	}
	return *text ? text + 1 : text;
}

/* How often {m,n} wants what is before it, and *at behind it; 0: it is none. */
static uint64_t repetition(const char **at)
{
	char *end;
	uint64_t from = strtoul(*at + 1, &end, 10), to = from;

	if (*end == ',')
		to = end[1] == '}' ? from + 1 : strtoul(end + 1, &end, 10);
	end += *end == ',';
	if (*end != '}')
		return 0;
	*at = end + 1;
	return MC_MAX(MC_MAX(from, to), 1);
}

/* What regcomp() needs grows with the square of the expression whose repetitions are written out: a{1,32767} takes
 * gigabytes.  And back references, which are none of POSIX's extended expressions, take for ever to match. */
static bool not_taken(const char *text, char *why, size_t len)
{
	uint64_t sum[REGEX_DEPTH_MAX] = {0}, last = 0;
	unsigned depth = 0;

	while (*text && sum[depth] <= REGEX_MAX) {
		uint64_t times = *text == '{' ? repetition(&text) : 0;

		if (*text == '+' && !times) { /* x+ is xx* there */
			text++;
			times = 2;
		}
		if (times) {
			sum[depth] += MC_MIN(last, REGEX_MAX + 1) * (MC_MIN(times, REGEX_MAX + 2) - 1);
			last *= MC_MIN(times, REGEX_MAX + 2);
			continue;
		}
		if (*text == '(') {
			if (++depth == REGEX_DEPTH_MAX) {
				snprintf(why, len, "its parentheses are more than %u deep", REGEX_DEPTH_MAX - 1);
				return true;
			}
			sum[depth] = 0;
			text++;
			continue;
		}
		last = *text == '*' || *text == '?' ? last : 1;
		if (*text == ')' && depth)
			last = 1 + sum[depth--];
		if (*text == '\\' && text[1] >= '1' && text[1] <= '9') {
			snprintf(why, len, "back references are not taken");
			return true;
		}
		sum[depth] += MC_MAX(last, 1);
		text = *text == '[' ? class_end(text) : text + 1 + (*text == '\\' && text[1]);
	}
	snprintf(why, len, "it has more than %u characters when its repetitions are written out", REGEX_MAX);
	return sum[depth] > REGEX_MAX;
}

static int pattern_make(struct pattern *p, enum mc_master_match match, const char *text, struct mc_error *err)
{
	char why[128];
	int r;

	p->prefix = match == MC_MASTER_PREFIX ? text : NULL;
	p->len = strlen(text);
	if (match != MC_MASTER_REGEX)
		return 0;
	if (not_taken(text, why, sizeof why))
		return mc_fail(err, -EINVAL, "expression '%.200s': %s; use a simpler one, or a prefix", text, why);
	r = regcomp(&p->regex, text, REG_EXTENDED | REG_NOSUB);
	if (r == 0)
		return 0;
	regerror(r, &p->regex, why, sizeof why);
	return mc_fail(err, -EINVAL, "expression '%s': %s", text, why);
}

static void pattern_free(struct pattern *p)
{
	if (!p->prefix)
		regfree(&p->regex);
}

/* A key is compared as bytes with a prefix, and as text up to its first NUL with an expression. */
static bool matches(const struct pattern *p, const struct mc_store_item *item)
{
	char text[MC_STORE_KEY_MAX + 1];

	if (p->prefix)
		return item->key_len >= p->len && memcmp(mc_store_item_key(item), p->prefix, p->len) == 0;
	memcpy(text, mc_store_item_key(item), item->key_len);
	text[item->key_len] = '\0';
	return regexec(&p->regex, text, 0, NULL, 0) == 0;
}

int mc_master_remove_match(struct mc_master *s, uint32_t tenant, uint32_t flags, enum mc_master_match match,
			   const char *text, uint64_t *cursor, uint64_t *nr_removed, uint64_t *nr_refused, uint64_t now,
			   struct mc_error *err)
{
	struct mc_store_item *item;
	struct pattern pattern;
	uint32_t at = 0;
	int r = *cursor > s->shard_mask ? -EINVAL : pattern_make(&pattern, match, text, err);

	if (r < 0)
		return r;
	pthread_rwlock_rdlock(&s->admin);
	struct shard *shard = &s->shards[*cursor];

	pthread_mutex_lock(&shard->lock);
	while (r != -ENOSPC && (item = mc_store_map_next(&shard->map, &at))) {
		struct object *o = MC_CONTAINER_OF(item, struct object, item);

		if (o->state != OBJECT_COMPLETE || item->tenant != tenant || !matches(&pattern, item))
			continue;
		r = remove_one(s, shard, o, flags, now);
		if (r == 0)
			++*nr_removed, at--;
		else
			++*nr_refused;
	}
	pthread_mutex_unlock(&shard->lock);
	pthread_rwlock_unlock(&s->admin);
	pattern_free(&pattern);
	if (r == -ENOSPC)
		return mc_fail(err, r, "what is removed cannot be logged, the master's disk is full: make room in its folder (--dir)");
	*cursor = (*cursor + 1) & s->shard_mask;
	return 0;
}

/* The cursor is the shard above, the slot of its table below: a table that has grown meanwhile is told again. */
int mc_master_query(struct mc_master *s, uint32_t tenant, enum mc_master_match match, const char *text, uint64_t *cursor,
		    uint32_t max, int (*each)(void *ctx, const struct mc_master_object *object), void *ctx, uint64_t now,
		    struct mc_error *err)
{
	uint32_t at = (uint32_t)*cursor, k = (uint32_t)(*cursor >> 32), told = 0, looked = 0;
	struct pattern pattern;
	bool full = false;
	int r = k > s->shard_mask ? -EINVAL : pattern_make(&pattern, match, text, err);

	if (r < 0)
		return r;
	pthread_rwlock_rdlock(&s->admin);
	while (k <= s->shard_mask && !full) {
		struct shard *shard = &s->shards[k];
		struct mc_store_item *item;

		pthread_mutex_lock(&shard->lock);
		while (!full && (item = mc_store_map_next(&shard->map, &at))) {
			const struct object *o = MC_CONTAINER_OF(item, struct object, item);
			uint64_t lease = atomic_load(&o->lease_ns), pin = atomic_load(&o->pin_s);
			struct mc_master_object object = {
				.size = sizeof object, .key = {mc_store_item_key(item), item->key_len}, .len = o->len,
				.lease_ns = lease > now ? lease - now : 0,
				.soft_pin_ns = pin != MASTER_PIN_HARD && pin > now / MASTER_SEC ? (pin - now / MASTER_SEC) * MASTER_SEC : 0,
				.complete = o->state == OBJECT_COMPLETE, .hard_pinned = pin == MASTER_PIN_HARD,
				.nr_replicas = o->nr_replicas};

			if (item->tenant == tenant && matches(&pattern, item)) {
				full = each(ctx, &object) != 0 || ++told == max;
			}
			full |= ++looked == 65536;
		}
		pthread_mutex_unlock(&shard->lock);
		if (!full) {
			k++;
			at = 0;
		}
	}
	pthread_rwlock_unlock(&s->admin);
	pattern_free(&pattern);
	*cursor = k > s->shard_mask ? 0 : (uint64_t)k << 32 | at;
	return (int)told;
}

/* ---- pins ------------------------------------------------------------------------------------ */

static int pin_one(struct mc_master *s, uint32_t tenant, uint64_t span_ns, const struct mc_master_key *key, uint64_t now)
{
	uint64_t hash = mc_store_hash(s->seed, tenant, key->data, key->len);
	struct shard *shard = shard_of(s, hash);
	uint8_t record[MASTER_RECORD_MAX];
	struct mc_store_change change = {.table = MC_MASTER_TABLE_OBJECT, .value = record};
	struct object *o;
	uint32_t before;
	int r = -ENOENT;

	pthread_mutex_lock(&shard->lock);
	o = find(shard, hash, tenant, key);
	if (o) {
		before = atomic_load(&o->pin_s);
		atomic_store(&o->pin_s, span_ns == MC_FOREVER ? MASTER_PIN_HARD
				       : span_ns ? (uint32_t)((now + MC_MIN(span_ns, MASTER_SEC * 1000000000)) / MASTER_SEC) + 1
						 : 0);
		change.id = atomic_load(&o->id);
		change.len = (uint32_t)object_encode(s, o, 0, record);
		r = sink_append(s, &change, 1);
		if (r < 0)
			atomic_store(&o->pin_s, before);
	}
	pthread_mutex_unlock(&shard->lock);
	return r;
}

int mc_master_pin(struct mc_master *s, uint32_t tenant, uint64_t span_ns, struct mc_master_named *keys, size_t nr, uint64_t now)
{
	int failed = 0;

	pthread_rwlock_rdlock(&s->admin);
	for (size_t i = 0; i < nr; i++) {
		keys[i].status = keys[i].key.len == 0 || keys[i].key.len > MC_STORE_KEY_MAX
					 ? -EINVAL
					 : pin_one(s, tenant, span_ns, &keys[i].key, now);
		failed += keys[i].status != 0;
	}
	pthread_rwlock_unlock(&s->admin);
	return failed;
}
