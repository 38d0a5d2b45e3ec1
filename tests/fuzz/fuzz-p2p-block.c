/* SPDX-License-Identifier: Apache-2.0 */
/* What peers of the P2P store let be read and send: a control block with its ranges, requests and answers. */
#include <stdlib.h>
#include <string.h>

#include "p2p_block.h"
#include "p2p_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void walk(const struct mc_p2p_map *map, const struct mc_p2p_block *b)
{
	uint32_t step = b->nr_shards / 100 + 1;

	for (uint32_t k = 0; k < b->nr_shards; k += step) {
		uint64_t pos, end = mc_p2p_shard_end(b->size, b->shard_size, k, &pos);
		struct mc_p2p_piece p;

		mc_p2p_cut(map, map, pos, end, 1 << 20, &p);
		if (p.len == 0 || p.len > end - pos)
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mc_p2p_request q;
	struct mc_p2p_answer a;
	struct mc_p2p_block b;
	struct mc_p2p_map map;
	struct mc_error err;

	for (uint32_t method = 0; method < 5; method++)
		mc_p2p_request_parse(method, data, size, &q);
	mc_p2p_answer_parse(data, size, &a);
	if (size < MC_P2P_BLOCK_HEADER || mc_p2p_block_parse(data, size, &b, &err) < 0)
		return 0;
	/* All its parts lie inside. */
	if (b.hashes_off + (uint64_t)b.nr_shards * MC_P2P_HASH_SIZE > size || b.attachment_off + b.attachment_len > size ||
	    b.bitmap_off + mc_p2p_bitmap_len(b.nr_shards) > size)
		abort();
	if (mc_p2p_ranges_parse(data + b.ranges_off, b.nr_ranges, b.size, &map, &err) == 0) {
		walk(&map, &b);
		mc_p2p_map_free(&map);
	}
	return 0;
}
