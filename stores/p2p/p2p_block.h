/* SPDX-License-Identifier: Apache-2.0 */
/* The control block of a source: what peers READ of it before they ask for shards.  It lies in registered memory.
 * Little-endian, at offsets from the block's begin:
 *
 *     0  magic "MCP2PBLK"       40  u32 nr_shards          88  u64 attachment_len
 *     8  u32 format, 1          44  u32 nr_ranges          96  u64 bitmap_off
 *    12  u32 header_len, 128    48  root[16]              104  u64 block_len
 *    16  u64 generation         64  u64 ranges_off        112  attachment_hash[16], zeros without one
 *    24  u64 size               72  u64 hashes_off        128  ranges, hashes, attachment, bitmap, in this
 *    32  u64 shard_size         80  u64 attachment_off         order, each at a multiple of 8
 *
 * A range is u64 offset (the owner's address, as READs name it), u64 len.  A hash is 16 bytes.  The bitmap has
 * bit k % 8 of byte k / 8 set when the source has shard k, verified; only it ever changes. */
#ifndef MC_P2P_BLOCK_H
#define MC_P2P_BLOCK_H

#include <mooncake/types.h>

#include "p2p_cut.h"
#include "p2p_hash.h"

#define MC_P2P_BLOCK_HEADER 128
#define MC_P2P_FORMAT 1

struct mc_p2p_block {
	uint64_t generation, size, shard_size;
	uint32_t nr_shards, nr_ranges;
	struct mc_p2p_hash root, attachment_hash;
	uint64_t ranges_off, hashes_off, attachment_off, attachment_len, bitmap_off, block_len;
};

/* Fill in the offsets from nr_shards, nr_ranges, attachment_len. */
void mc_p2p_block_lay(struct mc_p2p_block *b);
void mc_p2p_block_put(const struct mc_p2p_block *b, uint8_t header[MC_P2P_BLOCK_HEADER]);
/* Read a header of a block that is said to be len bytes.  0; -EBADMSG: err says what is wrong. */
int mc_p2p_block_parse(const uint8_t header[MC_P2P_BLOCK_HEADER], uint64_t len, struct mc_p2p_block *ret,
		       struct mc_error *err);
void mc_p2p_ranges_put(const struct mc_p2p_map *map, uint8_t *to);
/* nr ranges that must add up to size.  0; -EBADMSG; -ENOMEM. */
int mc_p2p_ranges_parse(const uint8_t *from, uint32_t nr, uint64_t size, struct mc_p2p_map *ret_map,
			struct mc_error *err);

/* The root of an object: over format, size, shard_size, the hashes of all shards in order, the length of the
 * attachment and, if there is one, its hash. */
void mc_p2p_root(uint64_t size, uint64_t shard_size, const uint8_t *hashes, uint32_t nr_shards,
		 uint64_t attachment_len, const struct mc_p2p_hash *attachment_hash, struct mc_p2p_hash *ret_root);

/* The bitmap of a block that peers may read at any time: set after verification. */
void mc_p2p_bit_set(uint8_t *bitmap, uint32_t shard);
bool mc_p2p_bit_get(const uint8_t *bitmap, uint32_t shard);
static inline size_t mc_p2p_bitmap_len(uint32_t nr_shards)
{
	return ((size_t)nr_shards + 7) / 8;
}
/* Bits that are set among the first nr_shards. */
uint32_t mc_p2p_bits_count(const uint8_t *bitmap, uint32_t nr_shards);

#endif
