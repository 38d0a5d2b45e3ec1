/* SPDX-License-Identifier: Apache-2.0 */
/* Where the bytes of an object lie.  Two ends cut it at different places; what moves in one request lies in one
 * range of each.  Pure. */
#ifndef MC_P2P_CUT_H
#define MC_P2P_CUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MC_P2P_SHARD_DEFAULT_MIN (UINT64_C(1) << 20)
#define MC_P2P_SHARD_DEFAULT_MAX (UINT64_C(64) << 20)

/* A range: bytes [start, start + len) of the object lie at addr of its owner. */
struct mc_p2p_part {
	uint64_t start, addr, len;
};

struct mc_p2p_map {
	size_t nr;
	uint64_t size; /* of the object */
	struct mc_p2p_part *parts;
};

/* A map for nr ranges, whose addr and len the caller fills before mc_p2p_map_end.  -ENOMEM. */
int mc_p2p_map_new(struct mc_p2p_map *map, size_t nr);
/* Add up.  -EINVAL: a range is empty or wraps around the address space, or the sum does. */
int mc_p2p_map_end(struct mc_p2p_map *map);
void mc_p2p_map_free(struct mc_p2p_map *map);
/* Two ranges share a byte: which (indices), as they cannot both be written.  -ENOMEM. */
int mc_p2p_map_overlap(const struct mc_p2p_map *map, size_t *ret_a, size_t *ret_b, bool *ret_overlap);

/* From byte pos of the object on, how much is in one piece, and where; pos < map->size.  Returns its length. */
uint64_t mc_p2p_map_at(const struct mc_p2p_map *map, uint64_t pos, uint64_t *ret_addr);

/* The same at two ends, at most max bytes and not past end. */
struct mc_p2p_piece {
	uint64_t here, there, len;
};
void mc_p2p_cut(const struct mc_p2p_map *here, const struct mc_p2p_map *there, uint64_t pos, uint64_t end,
		uint64_t max, struct mc_p2p_piece *ret);

/* clamp(size / 64, 1 MiB, 64 MiB). */
uint64_t mc_p2p_shard_default(uint64_t size);
/* How many shards, 0 if there would be more than 2^32 - 1. */
uint32_t mc_p2p_nr_shards(uint64_t size, uint64_t shard_size);
/* [ret_start, return) is shard k. */
uint64_t mc_p2p_shard_end(uint64_t size, uint64_t shard_size, uint32_t shard, uint64_t *ret_start);

#endif
