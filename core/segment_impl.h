/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside our own segment, shared by segment.c (the table and its lookups),
 * segment_reg.c (registrations), segment_split.c (their buffers) and segment_region.c
 * (what devices know of them).
 */
#ifndef MC_CORE_SEGMENT_IMPL_H
#define MC_CORE_SEGMENT_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "core/util/check.h"
#include "segment.h"

/* Lookups are counted per shard, so that threads do not share a line; each has two phases, so that
 * a writer can wait for those that began before it while others go on. */
#define LOCAL_SHARDS 16

struct local_table {
	size_t nr;
	struct mc_local_buf *bufs[]; /* by base */
};

struct local_shard {
	_Alignas(MC_CACHE_LINE) atomic_uint readers[2];
};

enum reg_state { REG_OPENING = 0, REG_LIVE, REG_CLOSING };

/* Where registrations of a range begin, and how many do. */
struct reg_start {
	uint64_t addr;
	uint32_t count;
};

/* One registered range with everything inside it that was registered too. */
struct mc_reg {
	uint64_t base, len; /* under local->lock, as all of it */
	uint32_t access;
	enum reg_state state;
	size_t nr_bufs, nr_starts;
	struct mc_local_buf **bufs; /* one per location, by base */
	struct reg_start *starts;
	/* Set if mc_local_alloc made the memory. */
	bool allocated;
	struct mc_device *owner; /* its mem_alloc made it; NULL: the kind did */
	struct mc_mem_desc desc;
};

struct mc_local {
	struct mc_engine *engine;
	_Atomic(struct local_table *) table;
	atomic_uint phase;
	struct local_shard shards[LOCAL_SHARDS];
	atomic_uint waiters; /* threads in mc_local_wait_idle */

	/* Guards everything below and the writing of the table.  Not held in calls to plugins, devices
	 * and sessions. */
	pthread_mutex_t lock;
	pthread_cond_t changed; /* a registration became LIVE or went, a closing buffer became idle, a thaw */
	bool frozen; /* a reload looks at the registrations: none begins or ends */
	struct mc_reg **regs; /* by base; they do not overlap */
	size_t nr_regs, cap_regs;
	struct mc_local_buf **by_id; /* those that peers may see */
	size_t nr_by_id;
	_Atomic uint64_t version; /* written under lock, like the two after it; the metrics look without */
	_Atomic uint64_t nr_bufs, nr_bytes;
	uint32_t next_id;

	/* One mem_alloc at a time: it may wait for the metadata service, and so for the other helper. */
	pthread_mutex_t alloc_lock;
};

/* segment.c */

/* Put buffers into the table, or take them out; when taken out, lookups that could have found them
 * are over at the return.  Under local->lock.  -ENOMEM: nothing changed (adding only). */
int mc_local_publish(struct mc_local *local, struct mc_local_buf **bufs, size_t nr);
void mc_local_withdraw(struct mc_local *local, struct mc_local_buf **bufs, size_t nr);
/* Wait until nobody uses a closing buffer.  0, -ETIMEDOUT.  Without the lock. */
int mc_local_wait_idle(struct mc_local_buf *buf, uint64_t deadline_ns);

/* segment_split.c */

/* What a location means for a range. */
struct mc_reg_place {
	char kind[MC_PLUGIN_NAME_MAX + 1]; /* "*": find out */
	int32_t ordinal;                   /* -1: find out */
};

/* Find the kind of a range and make its buffers: reg->bufs, also on error. */
int mc_reg_split(struct mc_engine *engine, struct mc_reg *reg, const struct mc_reg_place *place,
		 struct mc_error *err);
/* Accepts NULL. */
void mc_local_buf_free(struct mc_local_buf *buf);

/* segment_region.c */

/* Register a buffer on every device of its location's row that reaches its kind, except `owner`,
 * which has it.  On error nothing is registered.  -ETIMEDOUT: helpers had other work until the
 * deadline; one that has begun is waited for. */
int mc_regions_open(struct mc_engine *engine, struct mc_local_buf *buf, struct mc_device *owner,
		    uint64_t deadline_ns, struct mc_error *err);
/* If no helper is free before the deadline, buf has no regions any more all the same, and one closes
 * them later: for memory that nobody was told of, and that is not ours to free. */
void mc_regions_close(struct mc_engine *engine, struct mc_local_buf *buf, struct mc_device *owner,
		      uint64_t deadline_ns);
/* Register it on nr more devices, as mc_regions_open does.  reached: others have it already. */
int mc_regions_add(struct mc_engine *engine, struct mc_local_buf *buf, struct mc_device *const *devices,
		   size_t nr, bool reached, uint64_t deadline_ns, struct mc_error *err);
/* Undo it. */
void mc_regions_remove(struct mc_engine *engine, struct mc_local_buf *buf, struct mc_device *const *devices,
		       size_t nr);
/* Does a device have peers map the memory that it is given? */
bool mc_region_shared(const struct mc_engine *engine);
/* The device of the location's row that allocates this kind itself; NULL: none. */
struct mc_device *mc_region_owner(struct mc_engine *engine, const char *location, const char *kind);
/* Allocate on it: fills desc->addr and len. */
int mc_region_alloc(struct mc_device *owner, void **ret_region, struct mc_mem_desc *desc,
		    struct mc_error *err);
void mc_region_free(struct mc_device *owner, void *region, struct mc_mem_desc *desc);

#endif
