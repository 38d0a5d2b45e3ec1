/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Well-known policies, as their papers have them, to hold ours against: each replays blocks
 * numbered 0..nr_keys-1, one after the other, in a cache of capacity blocks, and counts hits.  A
 * block that is missing always comes in; when the cache is full, one goes before it.
 */
#ifndef MC_STORE_REFERENCE_H
#define MC_STORE_REFERENCE_H

#include <stddef.h>
#include <stdint.h>

enum reference {
	REFERENCE_LRU,
	REFERENCE_SIEVE,
	REFERENCE_S3FIFO,
	REFERENCE_ARC,
	REFERENCE_BELADY,
	REFERENCE_COUNT
};

extern const char *const reference_names[REFERENCE_COUNT];

/* Hits of nr accesses; -ENOMEM. */
int64_t reference_replay(enum reference which, const uint32_t *keys, size_t nr, uint32_t nr_keys,
			 uint32_t capacity);

#endif
