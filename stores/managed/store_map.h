/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Key -> object: one table of the master's many, each under a lock of its owner.
 * Open addressing; a slot is eight bytes, the object's address and 16 bits of its
 * hash, so that a look touches one line of the table and the object that it finds.
 */
#ifndef MC_STORE_MAP_H
#define MC_STORE_MAP_H

#include <mooncake/types.h>

#define MC_STORE_KEY_MAX 1023

/* What a table knows of an object; embedded at its owner's.  The key lies where key_at says, from the
 * beginning of this. */
struct mc_store_item {
	uint64_t hash;   /* of tenant and key, from mc_store_hash */
	uint32_t tenant;
	uint16_t key_len;
	uint16_t key_at;
};

static inline const char *mc_store_item_key(const struct mc_store_item *item)
{
	return (const char *)item + item->key_at;
}

/* Zeroed: empty. */
struct mc_store_map {
	uint64_t *slots;
	uint32_t mask; /* slots - 1 */
	uint32_t nr;   /* items */
};

/* Keyed by seed, so that keys of strangers cannot be chosen to collide. */
uint64_t mc_store_hash(uint64_t seed, uint32_t tenant, const void *key, size_t len);

struct mc_store_item *mc_store_map_find(const struct mc_store_map *map, uint64_t hash, uint32_t tenant, const void *key,
					size_t len);
/* Fetch what a search will read: the slot, without the owner's lock; then, with it, the item if it is there. */
void mc_store_map_expect(const struct mc_store_map *map, uint64_t hash);
void mc_store_map_expect_item(const struct mc_store_map *map, uint64_t hash);
/* Its key must not be there.  0; -ENOMEM: nothing has changed. */
int mc_store_map_add(struct mc_store_map *map, struct mc_store_item *item);
/* It must be there. */
void mc_store_map_remove(struct mc_store_map *map, const struct mc_store_item *item);
/* The first item in or behind slot *at, which moves behind it; NULL: no more.  Begin with 0.  If nothing is added
 * meanwhile, each item is met, and met once if nothing is removed either.  Who removes what was just met sets *at
 * back by one. */
struct mc_store_item *mc_store_map_next(const struct mc_store_map *map, uint32_t *at);
/* The table, not the items. */
void mc_store_map_free(struct mc_store_map *map);

#endif
