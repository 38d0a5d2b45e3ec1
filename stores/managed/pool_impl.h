/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of a pool: segments in places of an array, those that take something new in a dense
 * list beside it, to draw from, and all of a host in a list of its own.
 */
#ifndef MC_POOL_IMPL_H
#define MC_POOL_IMPL_H

#include <pthread.h>
#include <stdatomic.h>
#include <uthash.h>

#include <mooncake/allocator.h>

struct pool_host {
	uint64_t id;
	struct pool_segment *first;
	UT_hash_handle hh;
};

struct pool_segment {
	pthread_mutex_t lock; /* guards space */
	struct mc_space *space;
	struct pool_host *host;
	struct pool_segment *host_next;
	uint32_t name; /* place, and how often it has been used above it */
	uint32_t nr_in_open; /* where it is in pool->open, while it is */
	enum mc_pool_state state;
	uint64_t bytes;
	/* Of the space, as of the last change; read without the lock. */
	_Atomic uint64_t hint, used;
};

struct mc_pool {
	/* Guards all but what a segment's own lock does; taken before it. */
	pthread_rwlock_t lock;
	struct pool_segment *places[MC_POOL_SEGMENTS + 1];
	uint16_t uses[MC_POOL_SEGMENTS + 1];
	struct pool_segment *open[MC_POOL_SEGMENTS]; /* that are mounted and do not drain */
	uint32_t nr_open, nr_places, nr_segments;
	struct pool_host *hosts;
	uint64_t seed;
	_Atomic uint64_t nr_drawn;
};

/* The segment of a name, or NULL; with pool->lock. */
struct pool_segment *pool_find(const struct mc_pool *pool, uint32_t name);
/* After each change of its space; with its lock. */
void pool_noted(struct pool_segment *segment);

#endif
