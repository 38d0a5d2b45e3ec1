/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lending: memory is registered, mounted at the master, mounted again whenever that asks,
 * and taken back.  A range that lies on several NUMA nodes is a buffer on each, and mounted
 * as so many segments, since a request stays inside of one buffer.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "store_impl.h"

#define LEND_MIN 256 /* what the master gives away at least */

#define RESTS 256
#define FIND_NS (5 * MC_SEC) /* until our own segment shows what was registered */

/* Memory of this process that was lent until lately: who was sent there may read and write it for a while, so it is not
 * lent again before.  A ring; the oldest goes. */
static struct rest {
	uint64_t generation; /* of the engine */
	uint64_t base, len, until_ns;
} rests[RESTS];
static size_t next_rest;
static pthread_mutex_t rests_lock = PTHREAD_MUTEX_INITIALIZER;

static void rest_begin(struct mc_store *store, const struct store_lent *l)
{
	uint64_t span;

	pthread_mutex_lock(&store->lock);
	span = mc_store_span(store);
	pthread_mutex_unlock(&store->lock);
	pthread_mutex_lock(&rests_lock);
	rests[next_rest++ % RESTS] = (struct rest){.generation = mc_engine_generation(store->engine), .base = (uintptr_t)l->addr,
						   .len = l->len, .until_ns = mc_store_now() + span};
	pthread_mutex_unlock(&rests_lock);
}

static uint64_t rest_end(struct mc_store *store, uint64_t base, uint64_t len)
{
	uint64_t generation = mc_engine_generation(store->engine), until = 0;

	pthread_mutex_lock(&rests_lock);
	for (size_t i = 0; i < RESTS; i++)
		if (rests[i].generation == generation && mc_range_overlaps(rests[i].base, rests[i].len, base, len))
			until = MC_MAX(until, rests[i].until_ns);
	pthread_mutex_unlock(&rests_lock);
	return until;
}

/* ---- the master's side ----------------------------------------------------------------------------- */

static int mount_one(struct mc_store *store, struct store_mount *m, uint64_t deadline_ns, struct mc_error *err)
{
	struct mc_master_segment segment = {.size = sizeof segment, .base = m->base, .len = m->len, .location = m->location,
					    .host = store->host};
	struct store_ctx *ctx = mc_store_ctx_get(store, 1, MC_FOREVER);
	int r;

	if (!ctx)
		return mc_fail(err, -ENOMEM, "store: out of memory");
	ctx->deadline_ns = deadline_ns;
	memcpy(segment.uuid, m->uuid, sizeof m->uuid);
	mc_store_begin(ctx, 0, 0);
	mc_wire_mount(&ctx->out, &segment);
	r = mc_store_call(ctx, MC_WIRE_MOUNT);
	if (r == 0) {
		mc_wire_number(&ctx->in, &m->id);
		if (mc_wire_end(&ctx->in) < 0)
			r = mc_store_nonsense(ctx);
	}
	m->mounted = r == 0;
	return mc_store_result(ctx, r, err);
}

static int unmount_one(struct mc_store *store, struct store_mount *m, uint64_t deadline_ns)
{
	struct store_ctx *ctx = m->mounted ? mc_store_ctx_get(store, 1, MC_FOREVER) : NULL;
	int r;

	if (!ctx)
		return 0;
	ctx->deadline_ns = deadline_ns;
	ctx->stranger = true; /* who is not known has nothing mounted */
	mc_store_begin(ctx, 0, 0);
	mc_wire_uuid(&ctx->out, m->uuid);
	r = mc_store_call(ctx, MC_WIRE_UNMOUNT);
	mc_store_ctx_put(ctx);
	m->mounted = false;
	return r == -ETIMEDOUT || r == -EHOSTDOWN ? -ETIMEDOUT : 0;
}

int mc_store_mount_all(struct mc_store *store, bool anew, uint64_t deadline_ns, struct mc_error *err)
{
	uint64_t rest_until;
	int r = 0;

	pthread_mutex_lock(&store->lend_lock);
	pthread_mutex_lock(&store->lock);
	rest_until = store->rest_until;
	pthread_mutex_unlock(&store->lock);
	for (struct store_lent *l = store->lent; l; l = l->next)
		for (size_t i = 0; i < l->nr; i++) {
			struct mc_error why = {0};
			int e;

			l->mounts[i].not_before = MC_MAX(l->mounts[i].not_before, rest_until);
			l->mounts[i].mounted &= !anew;
			if (l->mounts[i].mounted || mc_store_left(l->mounts[i].not_before))
				continue;
			e = mount_one(store, &l->mounts[i], deadline_ns, &why);
			if (e < 0 && r == 0)
				r = mc_fail(err, e, "%s", why.text);
		}
	pthread_mutex_unlock(&store->lend_lock);
	return r;
}

/* ---- our side ---------------------------------------------------------------------------------------- */

/* The buffers that the range has become, as far as our own segment's table, which follows a little later, has them. */
static int look_for_buffers(struct mc_store *store, struct store_lent *l, uint64_t deadline_ns, struct mc_error *err)
{
	uint64_t base = (uintptr_t)l->addr, end = base + l->len, found = 0;
	struct mc_segment *own;
	int r = mc_segment_open(store->engine, mc_engine_name(store->engine), mc_store_left(deadline_ns), &own, err);

	if (r < 0)
		return r;
	l->nr = 0;
	for (size_t i = 0; i < mc_segment_nr_buffers(own) && l->nr < STORE_MOUNTS; i++) {
		struct mc_buffer_info b = {.size = sizeof b};
		struct store_mount *m = &l->mounts[l->nr];

		if (mc_segment_buffer(own, i, &b) < 0 || b.offset >= end || b.offset + b.len <= base ||
		    (b.access & MC_ACCESS_ALL) != MC_ACCESS_ALL)
			continue;
		m->base = MC_MAX(b.offset, base);
		m->len = MC_MIN(b.offset + b.len, end) - m->base;
		memcpy(m->location, b.location, sizeof m->location);
		found += m->len;
		l->nr++;
	}
	mc_segment_close(own);
	return found == l->len;
}

static int find_buffers(struct mc_store *store, struct store_lent *l, uint64_t deadline_ns, struct mc_error *err)
{
	uint64_t until = MC_MIN(deadline_ns, mc_store_deadline(FIND_NS));
	int r = look_for_buffers(store, l, deadline_ns, err);

	while (r == 0 && mc_store_left(until)) {
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
		r = look_for_buffers(store, l, deadline_ns, err);
	}
	for (size_t i = 0; i < l->nr; i++)
		mc_store_random(l->mounts[i].uuid, sizeof l->mounts[i].uuid);
	if (r < 0)
		return r;
	return r ? 0 : mc_fail(err, -EFAULT, "store: the memory at %p is not wholly in buffers of engine '%s' that others may read and "
			       "write", l->addr, mc_engine_name(store->engine));
}

static void release(struct mc_store *store, struct store_lent *l, uint64_t deadline_ns)
{
	uint64_t left = MC_MAX(mc_store_left(deadline_ns), MC_SEC);

	if (l->allocated)
		mc_memory_free(store->engine, l->addr, left, NULL);
	else
		mc_memory_unregister(store->engine, l->addr, left, NULL);
}

static bool is_lent(struct mc_store *store, const void *addr, uint64_t len)
{
	bool found = false;

	pthread_mutex_lock(&store->lend_lock);
	for (struct store_lent *l = store->lent; l && !found; l = l->next)
		found = mc_range_overlaps((uintptr_t)addr, len, (uintptr_t)l->addr, l->len);
	pthread_mutex_unlock(&store->lend_lock);
	return found;
}

int mc_store_lend(struct mc_store *store, void *addr, uint64_t len, const char *location, uint64_t timeout_ns, void **ret_addr,
		  struct mc_error *err)
{
	uint64_t deadline = mc_store_deadline(timeout_ns);
	struct store_lent *l;
	int r;

	if (!store || len < LEND_MIN)
		return mc_fail(err, -EINVAL, "store: lent memory has at least %d bytes, not %llu", LEND_MIN, (unsigned long long)len);
	if (addr && is_lent(store, addr, len))
		return mc_fail(err, -EEXIST, "store: some of the %llu bytes at %p are lent already", (unsigned long long)len, addr);
	l = calloc(1, sizeof *l);
	if (!l)
		return mc_fail(err, -ENOMEM, "store: out of memory");
	l->len = len;
	l->addr = addr;
	l->allocated = !addr;
	location = location ? location : "*";
	r = addr ? mc_memory_register(store->engine, addr, len, location, MC_ACCESS_ALL, timeout_ns, err)
		 : mc_memory_alloc(store->engine, location, len, MC_ACCESS_ALL, timeout_ns, &l->addr, err);
	if (r < 0) {
		free(l);
		return r;
	}
	r = find_buffers(store, l, deadline, err);
	/* What has to rest is mounted by the keeper. */
	for (size_t i = 0; i < l->nr && r == 0; i++) {
		l->mounts[i].not_before = rest_end(store, l->mounts[i].base, l->mounts[i].len);
		if (!mc_store_left(l->mounts[i].not_before))
			r = mount_one(store, &l->mounts[i], deadline, err);
	}
	if (r < 0) {
		for (size_t i = 0; i < l->nr; i++)
			unmount_one(store, &l->mounts[i], mc_store_deadline(MC_SEC));
		release(store, l, deadline);
		free(l);
		return r;
	}
	pthread_mutex_lock(&store->lend_lock);
	l->next = store->lent;
	store->lent = l;
	pthread_mutex_unlock(&store->lend_lock);
	if (ret_addr)
		*ret_addr = l->addr;
	return 0;
}

int mc_store_take_back(struct mc_store *store, void *addr, uint64_t timeout_ns, struct mc_error *err)
{
	uint64_t deadline = mc_store_deadline(timeout_ns);
	struct store_lent *l, **at;
	int r = 0;

	if (!store)
		return mc_fail(err, -EINVAL, "store: it may not be NULL");
	pthread_mutex_lock(&store->lend_lock);
	for (at = &store->lent; *at && (*at)->addr != addr; at = &(*at)->next)
		;
	l = *at;
	if (l)
		*at = l->next;
	pthread_mutex_unlock(&store->lend_lock);
	if (!l)
		return mc_fail(err, -ENOENT, "store: %p is not where lent memory begins", addr);
	for (size_t i = 0; i < l->nr; i++) {
		int e = unmount_one(store, &l->mounts[i], deadline);

		r = r < 0 ? r : e;
	}
	release(store, l, deadline);
	rest_begin(store, l);
	free(l);
	return r < 0 ? mc_fail(err, r, "store: master '%s': no answer in time; it will miss the memory by itself", store->master) : 0;
}

void mc_store_lent_free(struct mc_store *store, uint64_t deadline_ns)
{
	while (store->lent) {
		struct store_lent *l = store->lent;

		store->lent = l->next;
		release(store, l, deadline_ns);
		rest_begin(store, l);
		free(l);
	}
}
