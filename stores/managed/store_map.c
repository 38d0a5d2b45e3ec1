/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of objects: linear probing, at most 3/4 full, and what is removed is
 * closed up by moving back what probed past it, so there are no tombstones.
 */
#include "store_map.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define SLOTS_MIN 64u
#define ADDRESS_BITS 48
#define ADDRESS_MASK ((UINT64_C(1) << ADDRESS_BITS) - 1)

uint64_t mc_store_hash(uint64_t seed, uint32_t tenant, const void *key, size_t len)
{
	return XXH3_64bits_withSeed(key, len, seed ^ (tenant * UINT64_C(0x9E3779B97F4A7C15)));
}

/* The table's owner chooses it by the lowest bits, so the place is from the middle, the tag from the top. */
static uint32_t place(const struct mc_store_map *map, uint64_t hash)
{
	return (uint32_t)(hash >> 16) & map->mask;
}

static struct mc_store_item *item_of(uint64_t slot)
{
	return (struct mc_store_item *)(uintptr_t)(slot & ADDRESS_MASK);
}

static uint64_t slot_of(const struct mc_store_item *item)
{
	return (uint64_t)(uintptr_t)item | (item->hash >> ADDRESS_BITS << ADDRESS_BITS);
}

struct mc_store_item *mc_store_map_find(const struct mc_store_map *map, uint64_t hash, uint32_t tenant, const void *key,
					size_t len)
{
	if (!map->slots)
		return NULL;
	for (uint32_t at = place(map, hash); map->slots[at]; at = (at + 1) & map->mask) {
		struct mc_store_item *item;

		if (map->slots[at] >> ADDRESS_BITS != hash >> ADDRESS_BITS)
			continue;
		item = item_of(map->slots[at]);
		if (item->hash == hash && item->tenant == tenant && item->key_len == len &&
		    memcmp(mc_store_item_key(item), key, len) == 0)
			return item;
	}
	return NULL;
}

/* While a table grows, slots and mask may be of different ones: then the address is of no use, and does no harm. */
void mc_store_map_expect(const struct mc_store_map *map, uint64_t hash)
{
	const uint64_t *slots = __atomic_load_n(&map->slots, __ATOMIC_RELAXED);
	uint32_t mask = __atomic_load_n(&map->mask, __ATOMIC_RELAXED);

	__builtin_prefetch((const void *)((uintptr_t)slots + ((hash >> 16) & mask) * sizeof *slots));
}

void mc_store_map_expect_item(const struct mc_store_map *map, uint64_t hash)
{
	uint32_t at = place(map, hash);

	if (!map->slots)
		return;
	while (map->slots[at] && map->slots[at] >> ADDRESS_BITS != hash >> ADDRESS_BITS)
		at = (at + 1) & map->mask;
	/* With key and all it is seldom longer than three lines. */
	for (size_t line = 0; map->slots[at] && line < 3; line++)
		__builtin_prefetch((const char *)item_of(map->slots[at]) + line * 64);
}

static void put(struct mc_store_map *map, uint64_t slot, uint64_t hash)
{
	uint32_t at = place(map, hash);

	while (map->slots[at])
		at = (at + 1) & map->mask;
	map->slots[at] = slot;
}

static int grow(struct mc_store_map *map)
{
	uint32_t old = map->slots ? map->mask + 1 : 0, nr = old ? old * 2 : SLOTS_MIN;
	struct mc_store_map bigger = {.mask = nr - 1, .nr = map->nr};

	if (nr < old)
		return -ENOMEM;
	bigger.slots = calloc(nr, sizeof *bigger.slots);
	if (!bigger.slots)
		return -ENOMEM;
	for (uint32_t at = 0; at < old; at++) {
		if (map->slots[at])
			put(&bigger, map->slots[at], item_of(map->slots[at])->hash);
	}
	free(map->slots);
	/* mc_store_map_expect looks without the lock. */
	__atomic_store_n(&map->slots, bigger.slots, __ATOMIC_RELAXED);
	__atomic_store_n(&map->mask, bigger.mask, __ATOMIC_RELAXED);
	return 0;
}

int mc_store_map_add(struct mc_store_map *map, struct mc_store_item *item)
{
	int r;

	if (!map->slots || map->nr >= (map->mask + 1) / 4 * 3) {
		r = grow(map);
		if (r < 0)
			return r;
	}
	put(map, slot_of(item), item->hash);
	map->nr++;
	return 0;
}

/* May what stands at `at` move to the hole?  Not if the place where looking for it begins lies behind the hole. */
static bool may_move(const struct mc_store_map *map, uint32_t hole, uint32_t at)
{
	uint32_t home = place(map, item_of(map->slots[at])->hash);

	return ((at - home) & map->mask) >= ((at - hole) & map->mask);
}

void mc_store_map_remove(struct mc_store_map *map, const struct mc_store_item *item)
{
	uint64_t slot = slot_of(item);
	uint32_t hole = place(map, item->hash);

	while (map->slots[hole] != slot)
		hole = (hole + 1) & map->mask;
	for (uint32_t at = (hole + 1) & map->mask; map->slots[at]; at = (at + 1) & map->mask) {
		if (may_move(map, hole, at)) {
			map->slots[hole] = map->slots[at];
			hole = at;
		}
	}
	map->slots[hole] = 0;
	map->nr--;
}

struct mc_store_item *mc_store_map_next(const struct mc_store_map *map, uint32_t *at)
{
	while (map->slots && *at <= map->mask) {
		uint64_t slot = map->slots[(*at)++];

		if (slot)
			return item_of(slot);
	}
	return NULL;
}

void mc_store_map_free(struct mc_store_map *map)
{
	free(map->slots);
	*map = (struct mc_store_map){0};
}
