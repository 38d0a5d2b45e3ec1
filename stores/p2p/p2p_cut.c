/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ranges, shards and the pieces that both ends' cuts leave.
 */
#include <errno.h>
#include <stdlib.h>

#include "core/util/check.h"
#include "p2p_cut.h"

int mc_p2p_map_new(struct mc_p2p_map *map, size_t nr)
{
	map->nr = nr;
	map->size = 0;
	map->parts = calloc(nr ? nr : 1, sizeof *map->parts);
	return map->parts ? 0 : -ENOMEM;
}

int mc_p2p_map_end(struct mc_p2p_map *map)
{
	uint64_t at = 0;

	for (size_t i = 0; i < map->nr; i++) {
		struct mc_p2p_part *p = &map->parts[i];

		if (p->len == 0 || p->addr > UINT64_MAX - p->len || at > UINT64_MAX - p->len)
			return -EINVAL;
		p->start = at;
		at += p->len;
	}
	map->size = at;
	return map->nr ? 0 : -EINVAL;
}

void mc_p2p_map_free(struct mc_p2p_map *map)
{
	free(map->parts);
	map->parts = NULL;
	map->nr = 0;
}

static int by_addr(const void *a, const void *b)
{
	const struct mc_p2p_part *x = *(const struct mc_p2p_part *const *)a;
	const struct mc_p2p_part *y = *(const struct mc_p2p_part *const *)b;

	return (x->addr > y->addr) - (x->addr < y->addr);
}

int mc_p2p_map_overlap(const struct mc_p2p_map *map, size_t *ret_a, size_t *ret_b, bool *ret_overlap)
{
	const struct mc_p2p_part **order = malloc(map->nr * sizeof *order);

	if (!order)
		return -ENOMEM;
	for (size_t i = 0; i < map->nr; i++)
		order[i] = &map->parts[i];
	qsort(order, map->nr, sizeof *order, by_addr);
	*ret_overlap = false;
	for (size_t i = 1; i < map->nr && !*ret_overlap; i++) {
		if (order[i]->addr - order[i - 1]->addr >= order[i - 1]->len)
			continue;
		*ret_overlap = true;
		*ret_a = (size_t)(order[i - 1] - map->parts);
		*ret_b = (size_t)(order[i] - map->parts);
	}
	free(order);
	return 0;
}

uint64_t mc_p2p_map_at(const struct mc_p2p_map *map, uint64_t pos, uint64_t *ret_addr)
{
	size_t lo = 0, hi = map->nr;

	MC_ASSERT(pos < map->size);
	while (hi - lo > 1) {
		size_t mid = lo + (hi - lo) / 2;

		if (map->parts[mid].start <= pos)
			lo = mid;
		else
			hi = mid;
	}
	*ret_addr = map->parts[lo].addr + (pos - map->parts[lo].start);
	return map->parts[lo].len - (pos - map->parts[lo].start);
}

void mc_p2p_cut(const struct mc_p2p_map *here, const struct mc_p2p_map *there, uint64_t pos, uint64_t end,
		uint64_t max, struct mc_p2p_piece *ret)
{
	uint64_t a = mc_p2p_map_at(here, pos, &ret->here), b = mc_p2p_map_at(there, pos, &ret->there);

	ret->len = MC_MIN(MC_MIN(a, b), MC_MIN(end - pos, max));
}

uint64_t mc_p2p_shard_default(uint64_t size)
{
	uint64_t s = size / 64;

	return MC_MIN(MC_MAX(s, MC_P2P_SHARD_DEFAULT_MIN), MC_P2P_SHARD_DEFAULT_MAX);
}

uint32_t mc_p2p_nr_shards(uint64_t size, uint64_t shard_size)
{
	uint64_t nr = size / shard_size + (size % shard_size != 0);

	return nr > UINT32_MAX ? 0 : (uint32_t)nr;
}

uint64_t mc_p2p_shard_end(uint64_t size, uint64_t shard_size, uint32_t shard, uint64_t *ret_start)
{
	*ret_start = (uint64_t)shard * shard_size;
	return size - *ret_start < shard_size ? size : *ret_start + shard_size;
}
