/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pools: mapped and attached to, formatted, and the single-writer words of their
 * slots read and written.
 */
#include "cxl_pool.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/util/bytes.h"
#include "core/util/check.h"
#include "core/util/cleanup.h"

#define CXL_BLANK ((uint64_t)2 << 20) /* bytes that a new pool must find empty, besides those that it writes */

/* ---- attach ----------------------------------------------------------------------------------- */

static int pool_map(struct cxl_pool *pool, const struct cxl_place *place, uint64_t len, struct mc_error *err)
{
	mc_cleanup(mc_closep) int fd = open(place->path, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return mc_fail(err, -errno, "pool '%s': %s", place->path, strerror(errno));
	pool->cache = cxl_cache_pick();
	pool->base = pool->cache->map(fd, len);
	if (!pool->base)
		return mc_fail(err, -errno, "pool '%s': its %llu bytes cannot be mapped: %s", place->path,
			       (unsigned long long)len, strerror(errno));
	pool->mapped = len;
	snprintf(pool->path, sizeof pool->path, "%.*s", (int)sizeof pool->path - 1, place->path);
	return 0;
}

void cxl_pool_close(struct cxl_pool *pool)
{
	if (pool->base)
		pool->cache->unmap(pool->base, pool->mapped);
	pool->base = NULL;
}

static int check_size(const struct cxl_place *place, struct mc_error *err)
{
	if (place->size < CXL_PAGE)
		return mc_fail(err, -ENOSPC, "pool '%s': %llu bytes are too few for a pool: give it 1 MiB at least (an "
			       "empty file: by --size)", place->path,
			       (unsigned long long)place->size);
	return 0;
}

/* Map len bytes and read the header.  On error nothing is left. */
static int pool_attach(struct cxl_pool *pool, const struct cxl_place *place, uint64_t len, struct mc_error *err)
{
	uint8_t header[CXL_HEADER_LEN];
	int r = check_size(place, err);

	memset(pool, 0, sizeof *pool);
	if (r == 0)
		r = pool_map(pool, place, len, err);
	if (r < 0)
		return r;
	pool->cache->drop(pool->base, sizeof header, CXL_HEADER_LOOK);
	memcpy(header, pool->base, sizeof header);
	r = cxl_header_get(header, place->path, place->size, &pool->g, err);
	if (r == 0 && pool->g.unit % place->align)
		r = mc_fail(err, -EINVAL, "pool '%s': it was formatted in units of %llu bytes and the device maps by %llu: "
			    "reconfigure the device, or run mooncake cxl format --force %s", place->path,
			    (unsigned long long)pool->g.unit, (unsigned long long)place->align, place->path);
	if (r < 0)
		cxl_pool_close(pool);
	return r;
}

int cxl_pool_open(struct cxl_pool *pool, const struct cxl_place *place, struct mc_error *err)
{
	return pool_attach(pool, place, place->size, err);
}

int cxl_pool_look(const struct cxl_place *place, struct cxl_geometry *ret, struct mc_error *err)
{
	struct cxl_pool pool;
	int r = pool_attach(&pool, place, MC_MIN(place->align, place->size), err);

	if (r < 0)
		return r;
	*ret = pool.g;
	cxl_pool_close(&pool);
	return 0;
}

static void pool_put(const struct cxl_pool *pool, uint64_t at, const void *bytes, uint64_t len, enum cxl_rule rule)
{
	memcpy(pool->base + at, bytes, len);
	pool->cache->write_back(pool->base + at, len, rule);
	pool->cache->fence(rule);
}

/* First nothing is a pool, then its slots are empty, then it is one. */
static void write_pool(struct cxl_pool *pool, const struct cxl_geometry *g)
{
	uint8_t header[CXL_PAGE] = {0};

	pool_put(pool, 0, header, sizeof header, CXL_HEADER_SET);
	for (uint32_t i = 0; i < g->nr_slots; i++) {
		uint8_t *slot = pool->base + g->slots_offset + (uint64_t)i * g->slot_size;

		memset(slot, 0, g->slot_size);
		pool->cache->write_back(slot, g->slot_size, CXL_HEADER_SET);
	}
	pool->cache->fence(CXL_HEADER_SET);
	cxl_header_put(g, header);
	pool_put(pool, 0, header, CXL_HEADER_LEN, CXL_HEADER_SET);
}

/* Is anything in the first `len` bytes?  Labels of file systems and volumes lie there, and what a format that was
 * cut short has left. */
static bool pool_blank(const struct cxl_pool *pool, uint64_t len)
{
	const uint64_t *at = (const uint64_t *)(const void *)pool->base;

	pool->cache->drop(at, len, CXL_HEADER_LOOK);
	for (uint64_t i = 0; i < len / 8; i++)
		if (at[i])
			return false;
	return true;
}

int cxl_pool_format(const struct cxl_place *place, uint64_t unit, uint32_t nr_slots,
		    const uint8_t uuid[CXL_UUID_LEN], bool force, struct cxl_geometry *ret, struct mc_error *err)
{
	struct cxl_geometry g, old;
	struct cxl_pool pool = {0};
	struct mc_error why;
	int r = check_size(place, err);

	if (r == 0)
		r = cxl_geometry_plan(place->size, unit ? unit : place->align, nr_slots, &g, err);
	if (r == 0 && g.unit % place->align)
		r = mc_fail(err, -EINVAL, "pool '%s': units must be multiples of %llu bytes, as the device maps", place->path,
			    (unsigned long long)place->align);
	if (r == 0)
		r = pool_map(&pool, place, place->size, err);
	if (r < 0)
		return r;
	pool.cache->drop(pool.base, CXL_PAGE, CXL_HEADER_LOOK);
	r = cxl_header_get(pool.base, place->path, place->size, &old, &why);
	if (r == -ENODATA && !pool_blank(&pool, MC_MIN(MC_MAX(g.data_offset, CXL_BLANK), place->size)))
		r = -EBADMSG;
	if (r == -ENODATA || force)
		r = 0;
	else if (r == 0)
		r = mc_fail(err, -EEXIST, "pool '%s': it is a pool already, and engines may be using it: mooncake cxl info shows "
			    "them; --force takes it from them", place->path);
	else
		r = mc_fail(err, r == -EBADMSG ? -EEXIST : r, "pool '%s': there is something on it; if nobody needs it, say "
			    "--force", place->path);
	if (r == 0) {
		memcpy(g.uuid, uuid, CXL_UUID_LEN);
		write_pool(&pool, &g);
		*ret = g;
	}
	cxl_pool_close(&pool);
	return r;
}

void cxl_pool_detach(const struct cxl_pool *pool, const struct cxl_extent *extent)
{
	uint8_t *at = pool->base + pool->g.data_offset + extent->first * pool->g.unit;

	/* Refused, it stays as it was: then only the program can keep its hands off. */
	mmap(at, extent->nr * pool->g.unit, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE,
	     -1, 0);
}

/* ---- words ------------------------------------------------------------------------------------ */

static uint8_t *slot_at(const struct cxl_pool *pool, uint32_t slot)
{
	return pool->base + pool->g.slots_offset + (uint64_t)slot * pool->g.slot_size;
}

/* One aligned store, so that no reader sees half of it. */
static void word_store(uint8_t *at, uint64_t value)
{
	__atomic_store_n((uint64_t *)(void *)at, MC_LE64(value), __ATOMIC_RELAXED);
}

static uint64_t word_load(const uint8_t *at)
{
	uint64_t v = __atomic_load_n((const uint64_t *)(const void *)at, __ATOMIC_RELAXED);

	return MC_LE64(v);
}

static void word_write(const struct cxl_pool *pool, uint8_t *at, uint64_t value, enum cxl_rule rule)
{
	word_store(at, value);
	pool->cache->write_back(at, 8, rule);
	pool->cache->fence(rule);
}

static uint64_t word_read(const struct cxl_pool *pool, const uint8_t *at, enum cxl_rule rule)
{
	pool->cache->drop(at, 8, rule);
	return word_load(at);
}

/* Whole words, which other threads of this process may be reading; at and len are multiples of 8. */
static void words_store(uint8_t *at, const void *bytes, size_t len)
{
	for (size_t i = 0; i < len; i += 8)
		word_store(at + i, mc_get64((const uint8_t *)bytes + i));
}

static void words_load(void *bytes, const uint8_t *at, size_t len)
{
	for (size_t i = 0; i < len; i += 8)
		mc_put64((uint8_t *)bytes + i, word_load(at + i));
}

static void words_zero(uint8_t *at, size_t len)
{
	for (size_t i = 0; i < len; i += 8)
		word_store(at + i, 0);
}

/* ---- slots ------------------------------------------------------------------------------------ */

/* The generation comes last: who sees it sees the rest. */
void cxl_slot_write(const struct cxl_pool *pool, uint32_t slot, const struct cxl_ident *ident,
		    const struct cxl_extent *extents)
{
	uint8_t *at = slot_at(pool, slot), line[CXL_LINE] = {0};

	for (uint32_t i = 0; i < ident->nr_extents; i++)
		word_store(at + CXL_SLOT_EXTENTS + (size_t)i * 8, (uint64_t)extents[i].nr << 32 | extents[i].first);
	pool->cache->write_back(at + CXL_SLOT_EXTENTS, (uint64_t)ident->nr_extents * 8, CXL_SLOT_SET);
	pool->cache->fence(CXL_SLOT_SET);
	mc_put32(line + 8, ident->lanes);
	mc_put32(line + 12, ident->nr_extents);
	memcpy(line + 16, ident->name, CXL_NAME_MAX + 1);
	words_store(at + 8, line + 8, sizeof line - 8);
	word_write(pool, at, ident->generation, CXL_SLOT_SET);
}

/* A name that lies in the pool goes to logs and terminals: what is no UTF-8, or cut, or a control character, is a
 * question mark there. */
static void name_clean(char *name)
{
	for (unsigned char *at = (unsigned char *)name; *at;) {
		unsigned more = *at >= 0xf0 && *at < 0xf5 ? 3 : *at >= 0xe0 && *at < 0xf0 ? 2 : *at >= 0xc2 && *at < 0xe0 ? 1 : 0;
		unsigned n = 0;

		while (n < more && (at[n + 1] & 0xc0) == 0x80)
			n++;
		/* Also: overlong forms, surrogates, C1 controls, and what is beyond Unicode. */
		if (n < more || *at < ' ' || *at == 0x7f || (*at >= 0x80 && !more) || (*at == 0xc2 && at[1] < 0xa0) ||
		    (*at == 0xe0 && at[1] < 0xa0) || (*at == 0xed && at[1] >= 0xa0) || (*at == 0xf0 && at[1] < 0x90) ||
		    (*at == 0xf4 && at[1] >= 0x90)) {
			*at++ = '?';
			continue;
		}
		at += 1 + more;
	}
}

void cxl_slot_read(const struct cxl_pool *pool, uint32_t slot, struct cxl_ident *ret)
{
	const uint8_t *at = slot_at(pool, slot);
	uint8_t line[CXL_LINE];

	pool->cache->drop(at, sizeof line, CXL_SLOT_LOOK);
	words_load(line, at, sizeof line);
	ret->generation = mc_get64(line);
	ret->lanes = MC_MIN(mc_get32(line + 8), CXL_LANES_MAX);
	ret->nr_extents = MC_MIN(mc_get32(line + 12), CXL_EXTENTS_MAX);
	memcpy(ret->name, line + 16, CXL_NAME_MAX);
	ret->name[CXL_NAME_MAX] = '\0';
	name_clean(ret->name);
}

uint32_t cxl_slot_extents(const struct cxl_pool *pool, uint32_t slot, const struct cxl_ident *ident,
			  struct cxl_extent *extents)
{
	const uint8_t *at = slot_at(pool, slot) + CXL_SLOT_EXTENTS;

	pool->cache->drop(at, (uint64_t)ident->nr_extents * 8, CXL_SLOT_LOOK);
	for (uint32_t i = 0; i < ident->nr_extents; i++) {
		uint64_t word = word_load(at + (size_t)i * 8);

		extents[i] = (struct cxl_extent){(uint32_t)word, (uint32_t)(word >> 32)};
	}
	return ident->nr_extents;
}

bool cxl_slot_holds(const struct cxl_pool *pool, uint32_t slot, const struct cxl_ident *ident, uint64_t offset,
		    uint64_t len)
{
	struct cxl_extent extents[CXL_EXTENTS_MAX];
	uint32_t nr = cxl_slot_extents(pool, slot, ident, extents);

	for (uint32_t i = 0; i < nr; i++)
		if (mc_range_inside(pool->g.data_offset + extents[i].first * pool->g.unit,
				    extents[i].nr * pool->g.unit, offset, len))
			return true;
	return false;
}

void cxl_slot_clear_keys(const struct cxl_pool *pool, uint32_t slot)
{
	uint8_t *at = slot_at(pool, slot) + CXL_SLOT_KEYS;

	words_zero(at, (size_t)pool->g.nr_keys * 8);
	pool->cache->write_back(at, (uint64_t)pool->g.nr_keys * 8, CXL_KEY_SET);
	pool->cache->fence(CXL_KEY_SET);
}

void cxl_slot_clear(const struct cxl_pool *pool, uint32_t slot)
{
	uint8_t *at = slot_at(pool, slot);

	cxl_slot_clear_keys(pool, slot);
	words_zero(at, CXL_SLOT_EXTENTS);
	pool->cache->write_back(at, CXL_SLOT_EXTENTS, CXL_SLOT_SET);
	pool->cache->fence(CXL_SLOT_SET);
}

void cxl_beat_write(const struct cxl_pool *pool, uint32_t slot, uint64_t beat)
{
	word_write(pool, slot_at(pool, slot) + CXL_SLOT_BEAT, beat, CXL_SLOT_SET);
}

uint64_t cxl_beat_read(const struct cxl_pool *pool, uint32_t slot)
{
	return word_read(pool, slot_at(pool, slot) + CXL_SLOT_BEAT, CXL_SLOT_LOOK);
}

void cxl_key_write(const struct cxl_pool *pool, uint32_t slot, uint32_t idx, uint64_t key)
{
	word_write(pool, slot_at(pool, slot) + CXL_SLOT_KEYS + (size_t)idx * 8, key, CXL_KEY_SET);
}

uint64_t cxl_key_read(const struct cxl_pool *pool, uint32_t slot, uint32_t idx)
{
	return word_read(pool, slot_at(pool, slot) + CXL_SLOT_KEYS + (size_t)idx * 8, CXL_KEY_LOOK);
}

static uint8_t *guard_at(const struct cxl_pool *pool, uint32_t slot, uint32_t lane)
{
	return slot_at(pool, slot) + CXL_SLOT_GUARDS + (size_t)lane * CXL_LINE;
}

/* The drop of the key, which is next, has the fence that puts the guard before it. */
void cxl_guard_set(const struct cxl_pool *pool, uint32_t slot, uint32_t lane, uint64_t word)
{
	uint8_t *at = guard_at(pool, slot, lane);

	word_store(at, word);
	pool->cache->write_back(at, 8, CXL_GUARD_SET);
}

void cxl_guard_clear(const struct cxl_pool *pool, uint32_t slot, uint32_t lane, uint64_t seq)
{
	word_write(pool, guard_at(pool, slot, lane), seq << 8, CXL_GUARD_CLEAR);
}

uint64_t cxl_guard_read(const struct cxl_pool *pool, uint32_t slot, uint32_t lane)
{
	return word_read(pool, guard_at(pool, slot, lane), CXL_GUARD_LOOK);
}
