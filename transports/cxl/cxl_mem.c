/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Our memory in the pool: ranges of our extents, first fit, and a key per buffer
 * that stands in our slot while peers may reach it.  When a buffer goes its key
 * goes first; then who is still touching it is waited for, as far as he lives.
 */
#include "cxl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/util/check.h"

/* ---- free ranges ------------------------------------------------------------------------------ */

/* Give a range back; neighbours become one.  False: no memory.  Under the lock. */
static bool range_put(struct cxl_memory *m, uint64_t offset, uint64_t len)
{
	struct cxl_free **at = &m->list, *before = NULL, *after;

	while (*at && (*at)->offset < offset) {
		before = *at;
		at = &before->next;
	}
	after = *at;
	if (before && before->offset + before->len == offset) {
		before->len += len;
		if (after && offset + len == after->offset) {
			before->len += after->len;
			before->next = after->next;
			free(after);
		}
		return true;
	}
	if (after && offset + len == after->offset) {
		after->offset = offset;
		after->len += len;
		return true;
	}
	*at = malloc(sizeof **at);
	if (!*at) {
		*at = after;
		return false;
	}
	**at = (struct cxl_free){.next = after, .offset = offset, .len = len};
	return true;
}

/* First fit, from its beginning.  Under the lock. */
static bool range_get(struct cxl_memory *m, uint64_t len, uint64_t *ret_offset)
{
	for (struct cxl_free **at = &m->list; *at; at = &(*at)->next) {
		struct cxl_free *f = *at;

		if (f->len < len)
			continue;
		*ret_offset = f->offset;
		f->offset += len;
		f->len -= len;
		if (!f->len) {
			*at = f->next;
			free(f);
		}
		return true;
	}
	return false;
}

int cxl_memory_init(struct cxl_memory *m, const struct cxl_pool *pool)
{
	m->keys = calloc(pool->g.nr_keys, sizeof *m->keys);
	if (!m->keys)
		return -ENOMEM;
	pthread_mutex_init(&m->lock, NULL);
	pthread_mutex_init(&m->grow, NULL);
	return 0;
}

void cxl_memory_fini(struct cxl_memory *m)
{
	if (!m->keys)
		return;
	while (m->list) {
		struct cxl_free *f = m->list;

		m->list = f->next;
		free(f);
	}
	free(m->keys);
	pthread_mutex_destroy(&m->grow);
	pthread_mutex_destroy(&m->lock);
}

/* ---- guards ----------------------------------------------------------------------------------- */

bool cxl_guards_find(struct cxl_device *d, uint32_t slot, uint32_t *ret_slot, uint32_t *ret_lane,
		     uint64_t *ret_word)
{
	struct cxl_ident ident;

	for (uint32_t s = 0; s < d->pool.g.nr_slots; s++) {
		cxl_slot_read(&d->pool, s, &ident);
		if (!ident.generation || cxl_ledger_dead(&d->ledger, ident.generation))
			continue;
		for (uint32_t lane = 0; lane < ident.lanes; lane++) {
			uint64_t word = cxl_guard_read(&d->pool, s, lane);

			if (!cxl_guard_names(word, slot))
				continue;
			*ret_slot = s;
			*ret_lane = lane;
			*ret_word = word;
			return true;
		}
	}
	return false;
}

static uint64_t clock_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * MC_SEC + (uint64_t)t.tv_nsec;
}

/* One lane, until it is at something else: what it begins after the key went, it does not begin.  False: it did not
 * until then. */
static bool guard_wait(struct cxl_device *d, uint32_t slot, uint32_t lane, uint64_t until)
{
	uint64_t word = cxl_guard_read(&d->pool, slot, lane);
	struct timespec pause = {.tv_nsec = 20000};
	struct cxl_ident ident;

	while (cxl_guard_read(&d->pool, slot, lane) == word) {
		cxl_slot_read(&d->pool, slot, &ident);
		if (!ident.generation || cxl_ledger_dead(&d->ledger, ident.generation))
			return true;
		if (clock_ns() >= until)
			return false;
		nanosleep(&pause, NULL);
		if (pause.tv_nsec < 2000000)
			pause.tv_nsec *= 2;
	}
	return true;
}

bool cxl_guards_wait(struct cxl_device *d, uint32_t slot)
{
	uint64_t until = clock_ns() + d->patience_ns;
	struct cxl_ident ident;
	bool all = true;

	for (uint32_t s = 0; s < d->pool.g.nr_slots; s++) {
		cxl_slot_read(&d->pool, s, &ident);
		for (uint32_t lane = 0; ident.generation && lane < ident.lanes; lane++)
			if (cxl_guard_names(cxl_guard_read(&d->pool, s, lane), slot))
				all &= guard_wait(d, s, lane, until);
	}
	return all;
}

/* ---- operations ------------------------------------------------------------------------------- */

static struct cxl_device *device_of(void *inst)
{
	return ((struct cxl *)inst)->device;
}

static int key_new(struct cxl_device *d, const struct mc_host *host, struct cxl_region *r)
{
	struct cxl_memory *m = &d->memory;

	for (uint32_t i = 0; i < d->pool.g.nr_keys; i++) {
		uint32_t idx = (m->next_key + i) % d->pool.g.nr_keys;

		if (m->keys[idx])
			continue;
		do
			host->random(host, &r->key, sizeof r->key);
		while (!r->key);
		m->keys[idx] = r->key;
		m->next_key = idx + 1;
		r->key_idx = idx;
		return 0;
	}
	return -EMFILE;
}

/* Ask for one extent more; of a small pool not all that others might need. */
static int grow(struct cxl_device *d, uint64_t len, struct mc_error *err)
{
	const struct cxl_geometry *g = &d->pool.g;
	uint64_t least = (len + g->unit - 1) / g->unit, wanted = MC_MIN(d->growth / g->unit, g->nr_units / 8);
	struct cxl_grant grant;
	int r;

	if (least > g->nr_units)
		return mc_fail(err, -ENOSPC, "pool '%s': %llu bytes are more than it has (%llu): make it larger", d->pool.path,
			       (unsigned long long)len, (unsigned long long)(g->nr_units * g->unit));
	r = cxl_ledger_grow(&d->ledger, (uint32_t)least, (uint32_t)MC_MIN(MC_MAX(least, wanted), (uint64_t)g->nr_units),
			    &grant, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&d->memory.lock);
	if (!range_put(&d->memory, g->data_offset + grant.first * g->unit, grant.nr * g->unit))
		r = mc_fail(err, -ENOMEM, "pool '%s': out of memory", d->pool.path);
	pthread_mutex_unlock(&d->memory.lock);
	return r;
}

static int region_get(struct cxl_device *d, const struct mc_host *host, struct cxl_region *r, struct mc_error *err)
{
	struct cxl_memory *m = &d->memory;
	int status = 0;

	pthread_mutex_lock(&m->lock);
	if (!range_get(m, r->len, &r->offset)) {
		status = -EAGAIN;
	} else {
		status = key_new(d, host, r);
		if (status < 0) {
			range_put(m, r->offset, r->len);
			mc_fail(err, status, "pool '%s': this engine has %u buffers in it, and a slot of it has keys for no more: "
				"allocate fewer and larger ones", d->pool.path, d->pool.g.nr_keys);
		}
	}
	pthread_mutex_unlock(&m->lock);
	return status;
}

int cxl_mem_alloc(void *inst, void *region, struct mc_mem_desc *desc, struct mc_error *err)
{
	struct cxl_device *d = device_of(inst);
	struct cxl *lane0 = inst;
	struct cxl_region *r = region;
	int status;

	*r = (struct cxl_region){.owned = true, .len = mc_round_up(desc->len, CXL_PAGE)};
	if (__atomic_load_n(&d->ledger.evicted, __ATOMIC_ACQUIRE))
		return mc_fail(err, -EOWNERDEAD, "pool '%s': what this engine had in it was given back: open the engine anew",
			       d->pool.path);
	pthread_mutex_lock(&d->memory.grow);
	while ((status = region_get(d, lane0->host, r, err)) == -EAGAIN) {
		status = grow(d, r->len, err);
		if (status < 0)
			break;
	}
	pthread_mutex_unlock(&d->memory.grow);
	if (status < 0)
		return status;
	r->base = (uintptr_t)(d->pool.base + r->offset);
	desc->addr = d->pool.base + r->offset;
	desc->len = r->len;
	desc->kind = "cxl";
	desc->ordinal = MC_MAX(desc->ordinal, 0);
	cxl_key_write(&d->pool, d->ledger.slot, r->key_idx, r->key);
	return 0;
}

/* True: from the return on nobody touches it.  False: somebody who froze while he did might go on. */
static bool region_close(struct cxl_device *d, const struct cxl_region *r)
{
	if (__atomic_load_n(&d->ledger.evicted, __ATOMIC_ACQUIRE))
		return true;
	/* Somebody else's, if it is another one: we were taken for dead, and do not know yet. */
	if (cxl_key_read(&d->pool, d->ledger.slot, r->key_idx) == r->key)
		cxl_key_write(&d->pool, d->ledger.slot, r->key_idx, 0);
	return cxl_guards_wait(d, d->ledger.slot);
}

void cxl_mem_free(void *inst, void *region, struct mc_mem_desc *desc)
{
	struct cxl_device *d = device_of(inst);
	struct cxl_region *r = region;
	bool closed = region_close(d, r);

	if (!closed) {
		__atomic_store_n(&d->held, true, __ATOMIC_RELEASE);
		d->ledger.host->log(d->ledger.host, MC_LOG_WARN, "pool '%s': an engine that does not go on may still touch %llu "
				    "bytes that were freed: they are not used again until it does or is dead, and this "
				    "engine is closed", d->pool.path, (unsigned long long)r->len);
	}
	/* Lines that we wrote and never published must not be written back over the next one's. */
	if (!__atomic_load_n(&d->ledger.evicted, __ATOMIC_ACQUIRE))
		d->pool.cache->drop(d->pool.base + r->offset, r->len, CXL_LEAVE);
	pthread_mutex_lock(&d->memory.lock);
	d->memory.keys[r->key_idx] = 0;
	/* Without memory it is lost until the engine closes. */
	if (closed)
		range_put(&d->memory, r->offset, r->len);
	pthread_mutex_unlock(&d->memory.lock);
}

/* Memory of the host takes part in our own requests only, and needs nothing. */
int cxl_mem_reg(void *inst, void *region, const struct mc_mem_desc *desc, struct mc_error *err)
{
	struct cxl *c = inst;
	struct cxl_region *r = region;

	if (strcmp(desc->kind, "cpu") && strcmp(desc->kind, "cxl"))
		return mc_fail(err, -EOPNOTSUPP, "%s: memory of kind '%s' is not reached by load and store", c->host->instance,
			       desc->kind);
	*r = (struct cxl_region){.owned = false};
	return 0;
}

void cxl_mem_unreg(void *inst, void *region)
{
	((struct cxl_region *)region)->owned = false;
}

int cxl_mem_export(void *inst, void *region, void *blob, size_t cap)
{
	struct cxl_device *d = device_of(inst);
	const struct cxl_region *r = region;
	struct cxl_blob b = {.generation = d->ledger.generation};

	if (!r->owned)
		return 0;
	if (cap < CXL_BLOB_LEN)
		return -ENOSPC;
	b.key = r->key;
	b.offset = r->offset;
	b.len = r->len;
	b.base = r->base;
	b.slot = d->ledger.slot;
	b.key_idx = r->key_idx;
	memcpy(b.uuid, d->pool.g.uuid, CXL_UUID_LEN);
	cxl_blob_put(&b, blob);
	return CXL_BLOB_LEN;
}

int cxl_mem_sync(void *inst, void *region, void *addr, uint64_t len, uint32_t how)
{
	struct cxl_device *d = device_of(inst);
	const struct cxl_region *r = region;
	const struct cxl_cache *cache = d->pool.cache;

	if (!r->owned)
		return 0;
	if (!mc_range_inside(r->base, r->len, (uintptr_t)addr, len))
		return -EFAULT;
	if (how == MC_SYNC_PUBLISH) {
		cache->write_back(addr, len, CXL_PUBLISH);
		cache->fence(CXL_PUBLISH);
	} else if (how == MC_SYNC_REFRESH) {
		cache->drop(addr, len, CXL_REFRESH);
	} else {
		return -EINVAL;
	}
	return 0;
}
