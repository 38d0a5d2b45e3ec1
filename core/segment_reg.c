/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Registrations of our own memory.  A range is registered once, as one buffer
 * per location; a range equal to it or inside it, with the same rights, counts
 * on it; anything that overlaps it otherwise is refused.  While a range is being
 * opened or closed it stays in the list without the lock, and whoever overlaps
 * it waits for the outcome.
 */
#include "segment_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "kind.h"
#include "path.h"

/* ---- memory of a registration --------------------------------------------------------------- */

static void reg_free(struct mc_reg *reg)
{
	if (!reg)
		return;
	for (size_t i = 0; i < reg->nr_bufs; i++)
		mc_local_buf_free(reg->bufs[i]);
	free(reg->bufs);
	free(reg->starts);
	free(reg);
}

static size_t reg_count(const struct mc_reg *reg)
{
	size_t nr = 0;

	for (size_t i = 0; i < reg->nr_starts; i++)
		nr += reg->starts[i].count;
	return nr;
}

static int reg_count_in(struct mc_reg *reg, uint64_t addr)
{
	struct reg_start *starts;

	for (size_t i = 0; i < reg->nr_starts; i++)
		if (reg->starts[i].addr == addr) {
			reg->starts[i].count++;
			return 0;
		}
	starts = realloc(reg->starts, (reg->nr_starts + 1) * sizeof *starts);
	if (!starts)
		return -ENOMEM;
	reg->starts = starts;
	starts[reg->nr_starts++] = (struct reg_start){.addr = addr, .count = 1};
	return 0;
}

static struct reg_start *reg_start_at(struct mc_reg *reg, uint64_t addr)
{
	for (size_t i = 0; i < reg->nr_starts; i++)
		if (reg->starts[i].addr == addr)
			return &reg->starts[i];
	return NULL;
}

static void reg_count_out(struct mc_reg *reg, struct reg_start *start)
{
	if (--start->count == 0)
		*start = reg->starts[--reg->nr_starts];
}

static struct mc_reg *reg_new(uint64_t base, uint64_t len, uint32_t access)
{
	struct mc_reg *reg = calloc(1, sizeof *reg);

	if (!reg)
		return NULL;
	reg->base = base;
	reg->len = len;
	reg->access = access;
	reg->desc.share_fd = -1;
	if (reg_count_in(reg, base) < 0) {
		reg_free(reg);
		return NULL;
	}
	return reg;
}

/* ---- opening and closing, without the lock -------------------------------------------------- */

static void regions_drop(struct mc_engine *engine, struct mc_reg *reg, size_t nr,
			 uint64_t deadline_ns)
{
	while (nr-- > 0)
		mc_regions_close(engine, reg->bufs[nr], reg->owner, deadline_ns);
}

/* How many begin at addr or before. */
static size_t regs_upto(const struct mc_local *local, uint64_t addr)
{
	size_t lo = 0, hi = local->nr_regs;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (local->regs[mid]->base <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static int regs_add(struct mc_local *local, struct mc_reg *reg)
{
	size_t at = regs_upto(local, reg->base);

	if (local->nr_regs == local->cap_regs) {
		size_t cap = local->cap_regs ? 2 * local->cap_regs : 16;
		struct mc_reg **more = realloc(local->regs, cap * sizeof(struct mc_reg *));

		if (!more)
			return -ENOMEM;
		local->regs = more;
		local->cap_regs = cap;
	}
	memmove(local->regs + at + 1, local->regs + at, (local->nr_regs++ - at) * sizeof(struct mc_reg *));
	local->regs[at] = reg;
	return 0;
}

/* Take it out of the list; frees it.  The memory that we allocated is the caller's. */
static void reg_forget(struct mc_local *local, struct mc_reg *reg)
{
	size_t after;

	pthread_mutex_lock(&local->lock);
	after = regs_upto(local, reg->base);
	memmove(local->regs + after - 1, local->regs + after,
		(local->nr_regs-- - after) * sizeof(struct mc_reg *));
	pthread_cond_broadcast(&local->changed);
	pthread_mutex_unlock(&local->lock);
	reg_free(reg);
}

static int reg_open(struct mc_engine *engine, struct mc_reg *reg, const struct mc_reg_place *place,
		    void *owner_region, uint64_t deadline_ns, struct mc_error *err)
{
	struct mc_local *local = engine->local;
	size_t done = 0;
	int r = mc_reg_split(engine, reg, place, err);

	if (r == 0 && reg->owner)
		reg->bufs[0]->regions[reg->owner->idx] = owner_region;
	for (; r == 0 && done < reg->nr_bufs; done++) {
		r = mc_regions_open(engine, reg->bufs[done], reg->owner, deadline_ns, err);
		if (r < 0)
			break;
	}
	if (r == 0) {
		pthread_mutex_lock(&local->lock);
		r = mc_local_publish(local, reg->bufs, reg->nr_bufs);
		pthread_mutex_unlock(&local->lock);
		if (r < 0)
			mc_fail(err, r, "memory %p: out of memory", (void *)(uintptr_t)reg->base);
	}
	if (r < 0) {
		/* Memory of our own is freed next. */
		regions_drop(engine, reg, done, reg->allocated ? MC_FOREVER : deadline_ns);
		return r;
	}
	for (size_t i = 0; i < reg->nr_bufs; i++)
		if (reg->access)
			mc_session_push_add(engine, reg->bufs[i]);
	return 0;
}

/* Withdrawn already: tell the peers, wait for users, let the devices forget it. */
static void reg_close(struct mc_engine *engine, struct mc_reg *reg, uint64_t deadline_ns)
{
	for (size_t i = 0; i < reg->nr_bufs; i++)
		if (reg->access)
			mc_session_push_remove(engine, reg->bufs[i]->id);
	for (size_t i = 0; i < reg->nr_bufs; i++) {
		if (mc_local_wait_idle(reg->bufs[i], deadline_ns) == 0)
			continue;
		/* The fence ends by itself within the bound on silent peers (P6). */
		mc_paths_fence_buffer(engine, reg->bufs[i]);
		mc_local_wait_idle(reg->bufs[i], MC_FOREVER);
	}
	/* At the return nobody touches the memory, whatever time that takes. */
	regions_drop(engine, reg, reg->nr_bufs, MC_FOREVER);
}

/* ---- the list, under the lock --------------------------------------------------------------- */

static bool location_fits(const struct mc_reg *reg, uint64_t addr, uint64_t len,
			  const struct mc_reg_place *place)
{
	for (size_t i = 0; i < reg->nr_bufs; i++) {
		const struct mc_local_buf *b = reg->bufs[i];

		if (!mc_range_overlaps(b->base, b->len, addr, len))
			continue;
		if (strcmp(place->kind, "*") && strcmp(place->kind, b->kind))
			return false;
		if (place->ordinal >= 0 && place->ordinal != MC_MAX(b->ordinal, 0))
			return false;
	}
	return true;
}

static int refuse(const struct mc_reg *reg, uint64_t addr, uint64_t len, const struct mc_reg_place *place,
		  struct mc_error *err)
{
	const char *why = "overlaps it in part; unregister that one first";

	if (mc_range_inside(reg->base, reg->len, addr, len))
		why = location_fits(reg, addr, len, place)
			      ? "lies in it with other rights; register both with the same rights"
			      : "lies in it with another location; name the same location, or '*'";
	return mc_fail(err, -EEXIST, "memory %p of %llu bytes: %p of %llu bytes is registered, and the new "
		       "range %s", (void *)(uintptr_t)addr, (unsigned long long)len,
		       (void *)(uintptr_t)reg->base, (unsigned long long)reg->len, why);
}

static struct mc_reg *find_overlap(struct mc_local *local, uint64_t addr, uint64_t len)
{
	size_t n = regs_upto(local, addr + len - 1);

	if (!n || !mc_range_overlaps(local->regs[n - 1]->base, local->regs[n - 1]->len, addr, len))
		return NULL;
	return local->regs[n - 1];
}

static int wait_change(struct mc_local *local, uint64_t addr, uint64_t deadline_ns,
		       struct mc_error *err)
{
	struct timespec until = mc_wait_until(deadline_ns);

	if (pthread_cond_timedwait(&local->changed, &local->lock, &until) == ETIMEDOUT)
		return mc_fail(err, -ETIMEDOUT, "memory %p: another thread is still registering or "
			       "unregistering it", (void *)(uintptr_t)addr);
	return 0;
}

/* Count on what is there (1), make room for ourselves (0), or be refused. */
static int claim(struct mc_local *local, struct mc_reg *fresh, const struct mc_reg_place *place,
		 uint64_t deadline_ns, struct mc_error *err)
{
	struct mc_reg *reg;
	int r = 0;

	pthread_mutex_lock(&local->lock);
	for (;;) {
		reg = find_overlap(local, fresh->base, fresh->len);
		if (!local->frozen && (!reg || reg->state == REG_LIVE))
			break;
		r = wait_change(local, fresh->base, deadline_ns, err);
		if (r < 0)
			break;
	}
	if (r == 0 && reg && reg->access == fresh->access && !fresh->allocated &&
	    mc_range_inside(reg->base, reg->len, fresh->base, fresh->len) &&
	    location_fits(reg, fresh->base, fresh->len, place)) {
		r = reg_count_in(reg, fresh->base);
		r = r < 0 ? mc_fail(err, r, "memory: out of memory") : 1;
	} else if (r == 0 && reg) {
		r = refuse(reg, fresh->base, fresh->len, place, err);
	} else if (r == 0 && regs_add(local, fresh) < 0) {
		r = mc_fail(err, -ENOMEM, "memory: out of memory");
	}
	pthread_mutex_unlock(&local->lock);
	return r;
}

static void reg_live(struct mc_local *local, struct mc_reg *reg)
{
	pthread_mutex_lock(&local->lock);
	reg->state = REG_LIVE;
	pthread_cond_broadcast(&local->changed);
	pthread_mutex_unlock(&local->lock);
}

int mc_local_register(struct mc_engine *engine, void *addr, uint64_t len, const char *location,
		      uint32_t access, uint64_t deadline_ns, struct mc_error *err)
{
	struct mc_reg *reg;
	struct mc_reg_place place;
	int r = mc_location_parse(location, place.kind, &place.ordinal, err);

	if (r < 0)
		return r;
	reg = reg_new((uint64_t)(uintptr_t)addr, len, access);
	if (!reg)
		return mc_fail(err, -ENOMEM, "memory %p: out of memory", addr);
	r = claim(engine->local, reg, &place, deadline_ns, err);
	if (r != 0) {
		reg_free(reg);
		return r < 0 ? r : 0;
	}
	/* Memory that a device has allocated may be of a kind that has no plugin, and was counted by now. */
	if (strcmp(place.kind, "*"))
		r = mc_kind_open(engine, place.kind, err);
	if (r == 0)
		r = reg_open(engine, reg, &place, NULL, deadline_ns, err);
	if (r < 0)
		reg_forget(engine->local, reg);
	else
		reg_live(engine->local, reg);
	return r;
}

/* The live registration that begins at addr; one that is being opened is waited for.  Under the
 * lock. */
static int find_start(struct mc_local *local, uint64_t addr, uint64_t deadline_ns,
		      struct mc_reg **ret_reg, struct mc_error *err)
{
	struct mc_reg *reg;

	for (;;) {
		/* A reload ends by itself; who wants his memory back gets it. */
		while (local->frozen)
			pthread_cond_wait(&local->changed, &local->lock);
		reg = find_overlap(local, addr, 1);
		if (!reg || reg->state == REG_CLOSING || !reg_start_at(reg, addr))
			break;
		if (reg->state == REG_LIVE) {
			*ret_reg = reg;
			return 0;
		}
		if (wait_change(local, addr, deadline_ns, err) < 0)
			return -ETIMEDOUT;
	}
	if (reg)
		return mc_fail(err, -ENOENT, "memory %p: no registered range begins there; it lies in the "
			       "one at %p", (void *)(uintptr_t)addr, (void *)(uintptr_t)reg->base);
	return mc_fail(err, -ENOENT, "memory %p: not registered", (void *)(uintptr_t)addr);
}

static void withdraw(struct mc_local *local, struct mc_reg *reg)
{
	reg->state = REG_CLOSING;
	mc_local_withdraw(local, reg->bufs, reg->nr_bufs);
}

int mc_local_unregister(struct mc_engine *engine, void *addr, uint64_t deadline_ns,
			struct mc_error *err)
{
	struct mc_local *local = engine->local;
	struct mc_reg *reg = NULL;
	bool last;
	int r;

	pthread_mutex_lock(&local->lock);
	r = find_start(local, (uint64_t)(uintptr_t)addr, deadline_ns, &reg, err);
	last = reg && reg_count(reg) == 1;
	if (last && reg->allocated)
		r = mc_fail(err, -EINVAL, "memory %p: mc_memory_alloc made it: give it to mc_memory_free",
			    addr);
	if (r == 0) {
		reg_count_out(reg, reg_start_at(reg, (uint64_t)(uintptr_t)addr));
		if (last)
			withdraw(local, reg);
	}
	pthread_mutex_unlock(&local->lock);
	if (r < 0 || !last)
		return r;
	reg_close(engine, reg, deadline_ns);
	reg_forget(local, reg);
	return 0;
}

/* ---- memory of our own making --------------------------------------------------------------- */

static void memory_drop(struct mc_engine *engine, struct mc_device *owner, void *region,
			struct mc_mem_desc *desc)
{
	if (owner)
		mc_region_free(owner, region, desc);
	else
		mc_kind_free(engine, desc);
}

static int memory_make(struct mc_engine *engine, const char *location, const struct mc_reg_place *place,
		       struct mc_mem_desc *desc, struct mc_device **ret_owner, void **ret_region,
		       struct mc_error *err)
{
	const char *kind = strcmp(place->kind, "*") ? place->kind : "cpu";
	struct mc_device *owner = strcmp(kind, "cpu") ? mc_region_owner(engine, location, kind) : NULL;
	struct mc_error ignored;
	int r;

	/* A device that owns the memory may do without a plugin for its kind. */
	r = mc_kind_open(engine, kind, owner ? &ignored : err);
	if (r < 0 && !owner)
		return r;
	desc->kind = mc_kind_name(kind);
	if (!desc->kind)
		return mc_fail(err, -ENOMEM, "memory: out of memory");
	r = owner ? mc_region_alloc(owner, ret_region, desc, err) : mc_kind_alloc(engine, desc, mc_region_shared(engine), err);
	if (r == 0)
		*ret_owner = owner;
	return r;
}

int mc_local_alloc(struct mc_engine *engine, const char *location, uint64_t size, uint32_t access,
		   uint64_t deadline_ns, void **ret_addr, struct mc_error *err)
{
	struct mc_device *owner = NULL;
	void *region = NULL;
	struct mc_reg *reg;
	struct mc_reg_place place;
	struct mc_mem_desc desc = {.size = sizeof desc, .access = access, .dmabuf_fd = -1, .share_fd = -1};
	int r = mc_location_parse(location, place.kind, &place.ordinal, err);

	if (r < 0)
		return r;
	desc.ordinal = place.ordinal;
	desc.len = mc_round_up(size, 4096);
	r = memory_make(engine, location, &place, &desc, &owner, &region, err);
	if (r < 0)
		return r;
	reg = reg_new((uint64_t)(uintptr_t)desc.addr, desc.len, access);
	if (!reg) {
		memory_drop(engine, owner, region, &desc);
		return mc_fail(err, -ENOMEM, "memory: out of memory");
	}
	reg->allocated = true;
	reg->owner = owner;
	reg->desc = desc;
	r = claim(engine->local, reg, &place, deadline_ns, err);
	if (r < 0) {
		reg_free(reg);
		memory_drop(engine, owner, region, &desc);
		return r;
	}
	r = reg_open(engine, reg, &place, region, deadline_ns, err);
	if (r < 0) {
		reg_forget(engine->local, reg);
		memory_drop(engine, owner, region, &desc);
		return r;
	}
	reg_live(engine->local, reg);
	*ret_addr = desc.addr;
	return 0;
}

/* Closed and forgotten, its memory is freed too if it is ours. */
static void reg_end(struct mc_engine *engine, struct mc_reg *reg)
{
	struct mc_device *owner = reg->owner;
	void *region = owner && reg->nr_bufs ? reg->bufs[0]->regions[owner->idx] : NULL;
	struct mc_mem_desc desc = reg->desc;
	bool allocated = reg->allocated;

	reg_forget(engine->local, reg);
	if (allocated)
		memory_drop(engine, owner, region, &desc);
}

int mc_local_free_memory(struct mc_engine *engine, void *addr, uint64_t deadline_ns,
			 struct mc_error *err)
{
	struct mc_local *local = engine->local;
	struct mc_reg *reg = NULL;
	int r;

	pthread_mutex_lock(&local->lock);
	r = find_start(local, (uint64_t)(uintptr_t)addr, deadline_ns, &reg, err);
	if (r == 0 && (!reg->allocated || reg->base != (uint64_t)(uintptr_t)addr))
		r = mc_fail(err, -EINVAL, "memory %p: mc_memory_alloc did not make it: give it to "
			    "mc_memory_unregister", addr);
	else if (r == 0 && reg_count(reg) > 1)
		r = mc_fail(err, -EBUSY, "memory %p: ranges in it are still registered: unregister them "
			    "first", addr);
	if (r == 0)
		withdraw(local, reg);
	pthread_mutex_unlock(&local->lock);
	if (r < 0)
		return r;
	reg_close(engine, reg, deadline_ns);
	reg_end(engine, reg);
	return 0;
}

void mc_local_close(struct mc_engine *engine)
{
	struct mc_local *local = engine->local;

	while (local && local->nr_regs) {
		struct mc_reg *reg = local->regs[local->nr_regs - 1];

		pthread_mutex_lock(&local->lock);
		withdraw(local, reg);
		pthread_mutex_unlock(&local->lock);
		regions_drop(engine, reg, reg->nr_bufs, MC_FOREVER);
		reg_end(engine, reg);
	}
}
