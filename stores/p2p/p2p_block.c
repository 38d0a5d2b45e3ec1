/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control block: laid out, written, and read from strangers.
 */
#include <errno.h>
#include <string.h>

#include <mooncake/p2p_store.h>

#include "core/util/bytes.h"
#include "core/util/check.h"
#include "p2p_block.h"

static const char magic[8] = "MCP2PBLK";

static uint64_t up8(uint64_t n)
{
	return (n + 7) & ~UINT64_C(7);
}

void mc_p2p_block_lay(struct mc_p2p_block *b)
{
	b->ranges_off = MC_P2P_BLOCK_HEADER;
	b->hashes_off = b->ranges_off + (uint64_t)b->nr_ranges * 16;
	b->attachment_off = b->hashes_off + (uint64_t)b->nr_shards * MC_P2P_HASH_SIZE;
	b->bitmap_off = up8(b->attachment_off + b->attachment_len);
	b->block_len = up8(b->bitmap_off + mc_p2p_bitmap_len(b->nr_shards));
}

void mc_p2p_block_put(const struct mc_p2p_block *b, uint8_t header[MC_P2P_BLOCK_HEADER])
{
	memcpy(header, magic, sizeof magic);
	mc_put32(header + 8, MC_P2P_FORMAT);
	mc_put32(header + 12, MC_P2P_BLOCK_HEADER);
	mc_put64(header + 16, b->generation);
	mc_put64(header + 24, b->size);
	mc_put64(header + 32, b->shard_size);
	mc_put32(header + 40, b->nr_shards);
	mc_put32(header + 44, b->nr_ranges);
	memcpy(header + 48, b->root.bytes, MC_P2P_HASH_SIZE);
	mc_put64(header + 64, b->ranges_off);
	mc_put64(header + 72, b->hashes_off);
	mc_put64(header + 80, b->attachment_off);
	mc_put64(header + 88, b->attachment_len);
	mc_put64(header + 96, b->bitmap_off);
	mc_put64(header + 104, b->block_len);
	memcpy(header + 112, b->attachment_hash.bytes, MC_P2P_HASH_SIZE);
}

int mc_p2p_block_parse(const uint8_t header[MC_P2P_BLOCK_HEADER], uint64_t len, struct mc_p2p_block *ret,
		       struct mc_error *err)
{
	struct mc_p2p_block b = {0}, laid;

	if (memcmp(header, magic, sizeof magic) != 0)
		return mc_fail(err, -EBADMSG, "control block: it does not begin as one does; its owner has freed it");
	if (mc_get32(header + 8) != MC_P2P_FORMAT || mc_get32(header + 12) != MC_P2P_BLOCK_HEADER)
		return mc_fail(err, -EBADMSG, "control block: format %u, this one reads %u; update the older of the two",
			       mc_get32(header + 8), MC_P2P_FORMAT);
	b.generation = mc_get64(header + 16);
	b.size = mc_get64(header + 24);
	b.shard_size = mc_get64(header + 32);
	b.nr_shards = mc_get32(header + 40);
	b.nr_ranges = mc_get32(header + 44);
	memcpy(b.root.bytes, header + 48, MC_P2P_HASH_SIZE);
	b.ranges_off = mc_get64(header + 64);
	b.hashes_off = mc_get64(header + 72);
	b.attachment_off = mc_get64(header + 80);
	b.attachment_len = mc_get64(header + 88);
	b.bitmap_off = mc_get64(header + 96);
	b.block_len = mc_get64(header + 104);
	memcpy(b.attachment_hash.bytes, header + 112, MC_P2P_HASH_SIZE);
	if (b.size == 0 || b.shard_size < MC_P2P_SHARD_MIN || b.shard_size > MC_P2P_SHARD_MAX ||
	    b.nr_shards > MC_P2P_SHARDS_MAX || b.nr_shards != mc_p2p_nr_shards(b.size, b.shard_size))
		return mc_fail(err, -EBADMSG, "control block: %u shards of %llu bytes are not an object of %llu bytes",
			       b.nr_shards, (unsigned long long)b.shard_size, (unsigned long long)b.size);
	if (b.nr_ranges == 0 || b.nr_ranges > MC_P2P_RANGES_MAX || b.attachment_len > MC_P2P_ATTACHMENT_MAX)
		return mc_fail(err, -EBADMSG, "control block: %u ranges and %llu bytes attached are out of bounds", b.nr_ranges,
			       (unsigned long long)b.attachment_len);
	laid = b;
	mc_p2p_block_lay(&laid);
	if (memcmp(&laid, &b, sizeof b) != 0 || b.block_len != len)
		return mc_fail(err, -EBADMSG, "control block: its parts do not lie where they belong in %llu bytes",
			       (unsigned long long)len);
	*ret = b;
	return 0;
}

void mc_p2p_ranges_put(const struct mc_p2p_map *map, uint8_t *to)
{
	for (size_t i = 0; i < map->nr; i++, to += 16) {
		mc_put64(to, map->parts[i].addr);
		mc_put64(to + 8, map->parts[i].len);
	}
}

int mc_p2p_ranges_parse(const uint8_t *from, uint32_t nr, uint64_t size, struct mc_p2p_map *ret_map,
			struct mc_error *err)
{
	struct mc_p2p_map map;

	if (mc_p2p_map_new(&map, nr) < 0)
		return mc_fail(err, -ENOMEM, "control block: no memory for %u ranges", nr);
	for (uint32_t i = 0; i < nr; i++, from += 16) {
		map.parts[i].addr = mc_get64(from);
		map.parts[i].len = mc_get64(from + 8);
	}
	if (mc_p2p_map_end(&map) < 0 || map.size != size) {
		mc_p2p_map_free(&map);
		return mc_fail(err, -EBADMSG, "control block: its %u ranges do not add up to the %llu bytes of the object", nr,
			       (unsigned long long)size);
	}
	*ret_map = map;
	return 0;
}

void mc_p2p_root(uint64_t size, uint64_t shard_size, const uint8_t *hashes, uint32_t nr_shards,
		 uint64_t attachment_len, const struct mc_p2p_hash *attachment_hash, struct mc_p2p_hash *ret_root)
{
	struct mc_p2p_hasher h;
	uint8_t head[24], tail[8];

	mc_put64(head, MC_P2P_FORMAT);
	mc_put64(head + 8, size);
	mc_put64(head + 16, shard_size);
	mc_put64(tail, attachment_len);
	mc_p2p_hasher_init(&h);
	mc_p2p_hasher_add(&h, head, sizeof head);
	mc_p2p_hasher_add(&h, hashes, (size_t)nr_shards * MC_P2P_HASH_SIZE);
	mc_p2p_hasher_add(&h, tail, sizeof tail);
	if (attachment_len)
		mc_p2p_hasher_add(&h, attachment_hash->bytes, MC_P2P_HASH_SIZE);
	mc_p2p_hasher_end(&h, ret_root);
}

void mc_p2p_bit_set(uint8_t *bitmap, uint32_t shard)
{
	__atomic_fetch_or(&bitmap[shard / 8], (uint8_t)(1u << shard % 8), __ATOMIC_RELEASE);
}

bool mc_p2p_bit_get(const uint8_t *bitmap, uint32_t shard)
{
	return __atomic_load_n(&bitmap[shard / 8], __ATOMIC_ACQUIRE) >> shard % 8 & 1;
}

uint32_t mc_p2p_bits_count(const uint8_t *bitmap, uint32_t nr_shards)
{
	uint32_t nr = 0;

	for (uint32_t k = 0; k < nr_shards; k++)
		nr += mc_p2p_bit_get(bitmap, k);
	return nr;
}
