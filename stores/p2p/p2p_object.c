/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An object that this store offers, from the name's reservation to the last byte's release.  Whoever made it busy
 * is the only one who changes it, but for what the store's lock guards.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "p2p_impl.h"

/* Memory and segments are given back also when a caller's time is over: that much is waited for. */
#define RELEASE_NS (10 * MC_SEC)
#define FINISH_NS MC_SEC /* for who copies from an object that is taken back */
#define FINISH_LOOK_NS 5000000

static struct p2p_object *find(const struct mc_p2p *store, const char *name)
{
	for (struct p2p_object *o = store->objects; o; o = o->next)
		if (strcmp(o->name, name) == 0)
			return o;
	return NULL;
}

static int map_ranges(struct p2p_object *o, const struct mc_p2p_range *ranges, size_t nr, struct mc_error *err)
{
	bool overlap;
	size_t a, b;

	if (!ranges || nr == 0 || nr > MC_P2P_RANGES_MAX)
		return mc_fail(err, -EINVAL, "object '%s': it has 1 to %u ranges, not %zu", o->name, MC_P2P_RANGES_MAX, nr);
	if (mc_p2p_map_new(&o->map, nr) < 0)
		return mc_fail(err, -ENOMEM, "object '%s': no memory for %zu ranges", o->name, nr);
	for (size_t i = 0; i < nr; i++) {
		o->map.parts[i].addr = (uint64_t)(uintptr_t)ranges[i].addr;
		o->map.parts[i].len = ranges[i].addr ? ranges[i].len : 0;
	}
	if (mc_p2p_map_end(&o->map) < 0)
		return mc_fail(err, -EINVAL, "object '%s': a range is empty or not in the address space", o->name);
	if (mc_p2p_map_overlap(&o->map, &a, &b, &overlap) < 0)
		return mc_fail(err, -ENOMEM, "object '%s': no memory for %zu ranges", o->name, nr);
	if (overlap)
		return mc_fail(err, -EINVAL, "object '%s': ranges %zu and %zu overlap", o->name, a, b);
	return 0;
}

static void object_free(struct p2p_object *o)
{
	mc_p2p_map_free(&o->map);
	free(o->tally.granted);
	free(o);
}

int mc_p2p_object_new(struct mc_p2p *store, const char *name, const struct mc_p2p_range *ranges, size_t nr,
		      enum mc_p2p_role role, struct p2p_object **ret, struct mc_error *err)
{
	struct p2p_object *o;
	int r = mc_p2p_name_check(name, err);

	if (r < 0)
		return r;
	o = calloc(1, sizeof *o);
	if (!o)
		return mc_fail(err, -ENOMEM, "object '%s': out of memory", name);
	o->store = store;
	o->role = role;
	o->busy = true;
	memcpy(o->name, name, strlen(name) + 1);
	mc_p2p_hash(name, strlen(name), &o->id);
	r = map_ranges(o, ranges, nr, err);
	if (r < 0) {
		object_free(o);
		return r;
	}
	pthread_mutex_lock(&store->lock);
	if (store->stop || find(store, name))
		r = -EEXIST;
	if (r == 0) {
		o->next = store->objects;
		store->objects = o;
	}
	pthread_mutex_unlock(&store->lock);
	if (r < 0) {
		object_free(o);
		return mc_fail(err, r, "object '%s': this store has it already; take that back first", name);
	}
	*ret = o;
	return 0;
}

int mc_p2p_object_pin(struct p2p_object *o, const char *location, uint64_t deadline_ns, struct mc_error *err)
{
	struct mc_engine *engine = o->store->engine;
	struct mc_error why = {0};

	for (size_t i = 0; i < o->map.nr; i++) {
		const struct mc_p2p_part *p = &o->map.parts[i];
		void *addr = (void *)(uintptr_t)p->addr;
		int r = mc_memory_register(engine, addr, p->len, location ? location : "*", MC_ACCESS_REMOTE_READ,
					   mc_p2p_left(deadline_ns), &why);

		/* It may lie in a buffer with more rights, where it is only counted. */
		if (r == -EEXIST)
			r = mc_memory_register(engine, addr, p->len, location ? location : "*", MC_ACCESS_ALL,
					       mc_p2p_left(deadline_ns), NULL);
		if (r < 0)
			return mc_fail(err, r, "object '%s': range %zu: %s", o->name, i, why.text);
		o->nr_registered = i + 1;
	}
	return 0;
}

static void unpin(struct p2p_object *o, uint64_t timeout_ns)
{
	while (o->nr_registered) {
		const struct mc_p2p_part *p = &o->map.parts[--o->nr_registered];

		mc_memory_unregister(o->store->engine, (void *)(uintptr_t)p->addr, timeout_ns, NULL);
	}
}

static int ignore_counter(void *ctx, const struct mc_counter *counter)
{
	return 0;
}

/* What was written into registered memory so far is there for every worker: reading the counters asks each of them.
 * Peers come by way of the metadata, which is an order that only people see. */
static void settle(struct mc_engine *engine)
{
	mc_engine_counters(engine, ignore_counter, NULL);
}

int mc_p2p_object_block(struct p2p_object *o, const uint8_t *hashes, const void *attachment, bool full,
			uint64_t deadline_ns, struct mc_error *err)
{
	struct mc_p2p_block *b = &o->layout;
	void *block;
	int r;

	b->generation = mc_engine_generation(o->store->engine);
	b->nr_ranges = (uint32_t)o->map.nr;
	b->nr_shards = mc_p2p_nr_shards(b->size, b->shard_size);
	mc_p2p_block_lay(b);
	o->tally.granted = calloc(b->nr_shards, sizeof *o->tally.granted);
	if (!o->tally.granted)
		return mc_fail(err, -ENOMEM, "object '%s': out of memory", o->name);
	r = mc_memory_alloc(o->store->engine, "*", b->block_len, MC_ACCESS_REMOTE_READ, mc_p2p_left(deadline_ns), &block,
			    err);
	if (r < 0)
		return r;
	o->block = block;
	memset(o->block, 0, b->block_len);
	mc_p2p_block_put(b, o->block);
	mc_p2p_ranges_put(&o->map, o->block + b->ranges_off);
	memcpy(o->block + b->hashes_off, hashes, (size_t)b->nr_shards * MC_P2P_HASH_SIZE);
	if (b->attachment_len)
		memcpy(o->block + b->attachment_off, attachment, b->attachment_len);
	o->bitmap = o->block + b->bitmap_off;
	for (uint32_t k = 0; full && k < b->nr_shards; k++)
		mc_p2p_bit_set(o->bitmap, k);
	o->tally.nr_shards = b->nr_shards;
	o->tally.map = full ? NULL : o->bitmap;
	settle(o->store->engine);
	return 0;
}

int mc_p2p_object_publish(struct p2p_object *o, uint64_t deadline_ns, struct mc_error *err)
{
	struct mc_p2p *store = o->store;
	struct mc_p2p_offer offer = {.root = o->layout.root, .generation = o->layout.generation,
				     .block = (uint64_t)(uintptr_t)o->block, .block_len = o->layout.block_len,
				     .role = o->role};
	char key[MC_P2P_KEY_MAX], *text;
	int r;

	memcpy(offer.name, o->name, sizeof offer.name);
	memcpy(offer.host, store->host, sizeof offer.host);
	memcpy(offer.rack, store->rack, sizeof offer.rack);
	text = mc_p2p_offer_print(&offer);
	if (!text)
		return mc_fail(err, -ENOMEM, "object '%s': out of memory", o->name);
	pthread_mutex_lock(&store->lock);
	o->served = true;
	o->look_ns = mc_p2p_look_next();
	pthread_mutex_unlock(&store->lock);
	mc_p2p_source_key(o->name, mc_engine_name(store->engine), key);
	o->published = true; /* also a write that timed out may have happened */
	r = mc_kv_write(store->engine, key, text, strlen(text), MC_KV_LEASED, mc_p2p_left(deadline_ns),
			&o->key_revision, err);
	free(text);
	return r;
}

void mc_p2p_object_hush(struct p2p_object *o)
{
	struct mc_p2p *store = o->store;
	struct mc_rpc_request *requests[P2P_ASKS];
	uint64_t tickets[P2P_ASKS];
	size_t nr = 0, found = 0;

	pthread_mutex_lock(&store->lock);
	o->served = false;
	if (o->tally.nr_shards)
		nr = mc_p2p_serve_close(store->serve, &o->tally, tickets, P2P_ASKS);
	for (size_t i = 0; i < nr; i++)
		for (size_t k = 0; k < P2P_ASKS; k++)
			if (store->asks[k].ticket == tickets[i]) {
				store->asks[k].ticket = 0;
				requests[found++] = store->asks[k].request;
			}
	pthread_mutex_unlock(&store->lock);
	for (size_t i = 0; i < found; i++)
		mc_rpc_reply(requests[i], -ENOENT, NULL, 0);
	mc_p2p_answer_due(store);
}

/* Who copies a shard from here just now may finish it: what is left at the end is cut off. */
static void let_finish(struct p2p_object *o, uint64_t deadline_ns)
{
	struct mc_p2p *store = o->store;
	const struct timespec nap = {.tv_nsec = FINISH_LOOK_NS};
	uint64_t now = mc_p2p_now(), end = MC_MIN(deadline_ns, now + FINISH_NS);
	bool busy = o->tally.nr_shards > 0;

	while (busy) {
		now = mc_p2p_now();
		pthread_mutex_lock(&store->lock);
		busy = now < end && mc_p2p_serve_busy(store->serve, &o->tally, now);
		if (!busy)
			mc_p2p_serve_forget(store->serve, &o->tally, NULL, 0);
		pthread_mutex_unlock(&store->lock);
		if (busy)
			nanosleep(&nap, NULL);
	}
}

static void unlink_object(struct p2p_object *o)
{
	struct p2p_object **at = &o->store->objects;

	pthread_mutex_lock(&o->store->lock);
	while (*at != o)
		at = &(*at)->next;
	*at = o->next;
	pthread_mutex_unlock(&o->store->lock);
}

int mc_p2p_object_retire(struct p2p_object *o, uint64_t deadline_ns, struct mc_error *err)
{
	uint64_t wait = MC_MAX(MC_MIN(mc_p2p_left(deadline_ns), RELEASE_NS), MC_SEC);
	int r = 0;

	mc_p2p_object_hush(o);
	let_finish(o, deadline_ns);
	if (o->published) {
		char key[MC_P2P_KEY_MAX];

		mc_p2p_source_key(o->name, mc_engine_name(o->store->engine), key);
		r = mc_kv_remove(o->store->engine, key, 0, mc_p2p_left(deadline_ns), err);
		if (r == -ENOENT)
			r = 0;
		if (r == 0 && !o->removed)
			r = mc_p2p_record_drop(o, deadline_ns, err);
	}
	unpin(o, wait);
	if (o->block)
		mc_memory_free(o->store->engine, o->block, wait, NULL);
	unlink_object(o);
	object_free(o);
	return r;
}

int mc_p2p_object_take(struct mc_p2p *store, const char *name, enum mc_p2p_role role, uint64_t deadline_ns,
		       struct p2p_object **ret, struct mc_error *err)
{
	struct p2p_object *o;
	int r = mc_p2p_name_check(name, err);

	if (r < 0)
		return r;
	pthread_mutex_lock(&store->lock);
	while ((o = find(store, name)) && o->busy && o->clerk && mc_p2p_left(deadline_ns))
		mc_p2p_cond_until(&store->cond, &store->lock, deadline_ns);
	r = !o || o->role != role ? -ENOENT : o->busy ? -EBUSY : 0;
	if (r == 0)
		o->busy = true;
	pthread_mutex_unlock(&store->lock);
	if (r == -ENOENT)
		return mc_fail(err, r, "object '%s': this store has not %s it", name,
			       role == MC_P2P_SEED ? "registered" : "got");
	if (r < 0)
		return mc_fail(err, r, "object '%s': another thread is at work on it; wait for that, or cancel its get", name);
	*ret = o;
	return 0;
}

void mc_p2p_object_release(struct p2p_object *o)
{
	struct mc_p2p *store = o->store;

	pthread_mutex_lock(&store->lock);
	o->busy = o->clerk = false;
	pthread_cond_broadcast(&store->cond);
	pthread_mutex_unlock(&store->lock);
}
