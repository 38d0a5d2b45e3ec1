/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A mapped pool: its header, and the words of its slots.  Each word has one writer,
 * the engine that the metadata service granted the slot to; there are no atomics
 * across hosts.  Reading one drops its line first, writing one ends with the line
 * written back.
 */
#ifndef MC_CXL_POOL_H
#define MC_CXL_POOL_H

#include "cxl_cache.h"
#include "cxl_device.h"
#include "cxl_wire.h"

struct cxl_pool {
	const struct cxl_cache *cache;
	struct cxl_geometry g;
	uint8_t *base; /* of the mapping; NULL: none */
	uint64_t mapped;
	char path[256];
};

/* Map the device and read its header; refuses what is not a pool of this version (cxl_header_get).
 * On error nothing is left. */
int cxl_pool_open(struct cxl_pool *pool, const struct cxl_place *place, struct mc_error *err);
void cxl_pool_close(struct cxl_pool *pool);
/* Its geometry alone; refuses the same. */
int cxl_pool_look(const struct cxl_place *place, struct cxl_geometry *ret, struct mc_error *err);

/* Write a new header and empty slots.  Without force only where nothing is at the beginning. */
int cxl_pool_format(const struct cxl_place *place, uint64_t unit, uint32_t nr_slots,
		    const uint8_t uuid[CXL_UUID_LEN], bool force, struct cxl_geometry *ret, struct mc_error *err);

/* Put memory of our own in its place: what the program still writes there harms nobody. */
void cxl_pool_detach(const struct cxl_pool *pool, const struct cxl_extent *extent);

/* ---- slots ------------------------------------------------------------------------------------ */

/* What a slot says of its engine. */
struct cxl_ident {
	uint64_t generation; /* 0: nobody's */
	uint32_t lanes, nr_extents;
	char name[CXL_NAME_MAX + 1];
};

/* The owner's copy of its identity and extents; nr_extents <= CXL_EXTENTS_MAX. */
void cxl_slot_write(const struct cxl_pool *pool, uint32_t slot, const struct cxl_ident *ident,
		    const struct cxl_extent *extents);
/* What is there now, out of bounds values cut; the name is UTF-8 without control characters. */
void cxl_slot_read(const struct cxl_pool *pool, uint32_t slot, struct cxl_ident *ret);
/* Do the slot's extents hold [offset, offset + len) of the pool? */
bool cxl_slot_holds(const struct cxl_pool *pool, uint32_t slot, const struct cxl_ident *ident, uint64_t offset,
		    uint64_t len);
/* All of them into extents, CXL_EXTENTS_MAX; returns how many. */
uint32_t cxl_slot_extents(const struct cxl_pool *pool, uint32_t slot, const struct cxl_ident *ident,
			  struct cxl_extent *extents);
/* Nobody's again: keys, guards and identity are 0. */
void cxl_slot_clear_keys(const struct cxl_pool *pool, uint32_t slot);
void cxl_slot_clear(const struct cxl_pool *pool, uint32_t slot);

/* A word that says that the slot's engine lives. */
void cxl_beat_write(const struct cxl_pool *pool, uint32_t slot, uint64_t beat);
uint64_t cxl_beat_read(const struct cxl_pool *pool, uint32_t slot);

void cxl_key_write(const struct cxl_pool *pool, uint32_t slot, uint32_t idx, uint64_t key);
uint64_t cxl_key_read(const struct cxl_pool *pool, uint32_t slot, uint32_t idx);

/* A lane begins (other: the slot whose memory it touches) and ends; seq differs from guard to guard. */
static inline uint64_t cxl_guard_word(uint64_t seq, uint32_t other)
{
	return seq << 8 | (other + 1);
}
/* Then read the key, by cxl_key_read: only its fence puts the two in order. */
void cxl_guard_set(const struct cxl_pool *pool, uint32_t slot, uint32_t lane, uint64_t word);
void cxl_guard_clear(const struct cxl_pool *pool, uint32_t slot, uint32_t lane, uint64_t seq);
uint64_t cxl_guard_read(const struct cxl_pool *pool, uint32_t slot, uint32_t lane);
/* Does it touch memory of this slot? */
static inline bool cxl_guard_names(uint64_t word, uint32_t slot)
{
	return (word & 0xff) == slot + 1;
}

#endif
