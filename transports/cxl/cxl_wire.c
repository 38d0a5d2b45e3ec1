/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes that engines share, written and read: the header of a pool, blobs and
 * hellos.  What comes from elsewhere is checked before a value of it is used.
 */
#include "cxl_wire.h"

#include <errno.h>
#include <string.h>

#include "core/util/bytes.h"
#include "core/util/check.h"

#define BLOB_MAGIC 0x42584343u  /* "CCXB" */
#define HELLO_MAGIC 0x48584343u /* "CCXH" */
#define SUM_AT (CXL_HEADER_LEN - 8)
#define SMALL_POOL ((uint64_t)64 << 20)

void cxl_uuid_text(const uint8_t uuid[CXL_UUID_LEN], char text[CXL_UUID_TEXT])
{
	static const char digits[] = "0123456789abcdef";
	char *at = text;

	for (unsigned i = 0; i < CXL_UUID_LEN; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*at++ = '-';
		*at++ = digits[uuid[i] >> 4];
		*at++ = digits[uuid[i] & 15];
	}
	*at = '\0';
}

/* ---- the header ------------------------------------------------------------------------------- */

static bool power_of_two(uint64_t n)
{
	return n && !(n & (n - 1));
}

int cxl_geometry_plan(uint64_t size, uint64_t unit, uint32_t nr_slots, struct cxl_geometry *ret,
		      struct mc_error *err)
{
	struct cxl_geometry g = {.unit = unit};
	uint64_t least;

	if (!power_of_two(unit) || unit < CXL_PAGE || unit > (uint64_t)1 << 30)
		return mc_fail(err, -EINVAL, "pool: a unit of %llu bytes: it must be a power of two, 4 KiB to 1 GiB",
			       (unsigned long long)unit);
	if (nr_slots > CXL_SLOTS_MAX)
		return mc_fail(err, -EINVAL, "pool: %u engines: at most %u can use a pool at once", nr_slots,
			       CXL_SLOTS_MAX);
	/* With these the header and all slots are 128 KiB and 2 MiB. */
	g.slot_size = size < SMALL_POOL ? 8u << 10 : 32u << 10;
	g.nr_slots = nr_slots ? nr_slots : size < SMALL_POOL ? 15 : 63;
	g.slots_offset = g.slot_size;
	g.data_offset = mc_round_up(g.slots_offset + (uint64_t)g.nr_slots * g.slot_size, unit);
	least = g.data_offset + unit;
	if (size < least)
		return mc_fail(err, -ENOSPC, "pool: %llu bytes are too few: for %u engines and grants of %llu bytes "
			       "it needs %llu at least", (unsigned long long)size, g.nr_slots,
			       (unsigned long long)unit, (unsigned long long)least);
	g.nr_units = (uint32_t)MC_MIN((size - g.data_offset) / unit, (uint64_t)UINT32_MAX - 1);
	g.size = g.data_offset + g.nr_units * unit;
	g.nr_keys = (g.slot_size - CXL_SLOT_KEYS) / 8;
	*ret = g;
	return 0;
}

/* FNV-1a: it tells damage, not malice. */
static uint64_t header_sum(const uint8_t *header)
{
	uint64_t sum = UINT64_C(14695981039346656037);

	for (unsigned i = 0; i < SUM_AT; i++)
		sum = (sum ^ header[i]) * UINT64_C(1099511628211);
	return sum;
}

void cxl_header_put(const struct cxl_geometry *g, uint8_t header[CXL_HEADER_LEN])
{
	memset(header, 0, CXL_HEADER_LEN);
	mc_put64(header, CXL_POOL_MAGIC);
	mc_put32(header + 8, CXL_POOL_VERSION);
	mc_put32(header + 12, CXL_HEADER_LEN);
	memcpy(header + 16, g->uuid, CXL_UUID_LEN);
	mc_put64(header + 32, g->size);
	mc_put64(header + 40, g->unit);
	mc_put64(header + 48, g->slots_offset);
	mc_put64(header + 56, g->data_offset);
	mc_put32(header + 64, g->slot_size);
	mc_put32(header + 68, g->nr_slots);
	mc_put32(header + 72, g->nr_units);
	mc_put64(header + SUM_AT, header_sum(header));
}

static bool geometry_ok(const struct cxl_geometry *g)
{
	if (!power_of_two(g->unit) || g->unit < CXL_PAGE || g->unit > (uint64_t)1 << 30)
		return false;
	if (!power_of_two(g->slot_size) || g->slot_size < CXL_SLOT_MIN || g->slot_size > CXL_SLOT_MAX)
		return false;
	if (!g->nr_slots || g->nr_slots > CXL_SLOTS_MAX || !g->nr_units || g->nr_units == UINT32_MAX)
		return false;
	if (g->slots_offset % CXL_PAGE || g->slots_offset < CXL_PAGE || g->slots_offset > CXL_SLOT_MAX)
		return false;
	if (g->data_offset % g->unit || g->data_offset > (uint64_t)1 << 40 ||
	    g->data_offset < g->slots_offset + (uint64_t)g->nr_slots * g->slot_size)
		return false;
	return g->size == g->data_offset + g->nr_units * g->unit;
}

static bool all_zero(const uint8_t *bytes, size_t len)
{
	while (len && !bytes[len - 1])
		len--;
	return !len;
}

int cxl_header_get(const uint8_t header[CXL_HEADER_LEN], const char *name, uint64_t device_size,
		   struct cxl_geometry *ret, struct mc_error *err)
{
	struct cxl_geometry g = {0};
	uint32_t version = mc_get32(header + 8);

	if (all_zero(header, CXL_HEADER_LEN))
		return mc_fail(err, -ENODATA, "pool '%s': it is not formatted: run mooncake cxl format %s, once, on one "
			       "host", name, name);
	if (mc_get64(header) != CXL_POOL_MAGIC)
		return mc_fail(err, -EBADMSG, "pool '%s': what is on it is not a Mooncake pool, and is left as it is: name "
			       "another device, or, if nobody needs it, run mooncake cxl format --force %s", name, name);
	if (version != CXL_POOL_VERSION || mc_get32(header + 12) != CXL_HEADER_LEN)
		return mc_fail(err, -EPROTONOSUPPORT, "pool '%s': it was formatted by version %u, and this one is %u: run the "
			       "same release on all hosts, or, if nobody uses it, mooncake cxl format --force %s", name,
			       version, CXL_POOL_VERSION, name);
	memcpy(g.uuid, header + 16, CXL_UUID_LEN);
	g.size = mc_get64(header + 32);
	g.unit = mc_get64(header + 40);
	g.slots_offset = mc_get64(header + 48);
	g.data_offset = mc_get64(header + 56);
	g.slot_size = mc_get32(header + 64);
	g.nr_slots = mc_get32(header + 68);
	g.nr_units = mc_get32(header + 72);
	if (mc_get64(header + SUM_AT) != header_sum(header) || !geometry_ok(&g))
		return mc_fail(err, -EIO, "pool '%s': its header is damaged: stop the engines that use it and run mooncake cxl "
			       "format --force %s", name, name);
	if (g.size > device_size)
		return mc_fail(err, -ENOSPC, "pool '%s': it was formatted with %llu bytes and there are %llu: give the device its "
			       "size back, or run mooncake cxl format --force %s", name, (unsigned long long)g.size,
			       (unsigned long long)device_size, name);
	g.nr_keys = (g.slot_size - CXL_SLOT_KEYS) / 8;
	*ret = g;
	return 0;
}

/* ---- blobs and hellos --------------------------------------------------------------------------- */

void cxl_blob_put(const struct cxl_blob *b, uint8_t blob[CXL_BLOB_LEN])
{
	memset(blob, 0, CXL_BLOB_LEN);
	mc_put32(blob, BLOB_MAGIC);
	mc_put32(blob + 4, CXL_BLOB_LEN);
	memcpy(blob + 8, b->uuid, CXL_UUID_LEN);
	mc_put64(blob + 24, b->generation);
	mc_put64(blob + 32, b->key);
	mc_put64(blob + 40, b->offset);
	mc_put64(blob + 48, b->len);
	mc_put64(blob + 56, b->base);
	mc_put32(blob + 64, b->slot);
	mc_put32(blob + 68, b->key_idx);
}

int cxl_blob_get(const void *bytes, size_t len, const struct cxl_geometry *g, struct cxl_blob *ret)
{
	const uint8_t *blob = bytes;
	struct cxl_blob b;

	if (!blob || len < CXL_BLOB_LEN || mc_get32(blob) != BLOB_MAGIC || mc_get32(blob + 4) != len)
		return -EPROTO;
	memcpy(b.uuid, blob + 8, CXL_UUID_LEN);
	b.generation = mc_get64(blob + 24);
	b.key = mc_get64(blob + 32);
	b.offset = mc_get64(blob + 40);
	b.len = mc_get64(blob + 48);
	b.base = mc_get64(blob + 56);
	b.slot = mc_get32(blob + 64);
	b.key_idx = mc_get32(blob + 68);
	if (memcmp(b.uuid, g->uuid, CXL_UUID_LEN) || !b.generation || !b.key || b.slot >= g->nr_slots ||
	    b.key_idx >= g->nr_keys || b.offset < g->data_offset ||
	    !mc_range_inside(0, g->size, b.offset, b.len) || b.offset % CXL_LINE != b.base % CXL_LINE)
		return -EPROTO;
	*ret = b;
	return 0;
}

void cxl_hello_put(const uint8_t uuid[CXL_UUID_LEN], uint8_t hello[CXL_HELLO_LEN])
{
	mc_put32(hello, HELLO_MAGIC);
	mc_put32(hello + 4, CXL_HELLO_LEN);
	memcpy(hello + 8, uuid, CXL_UUID_LEN);
}

int cxl_hello_get(const void *bytes, size_t len, uint8_t ret_uuid[CXL_UUID_LEN])
{
	const uint8_t *hello = bytes;

	if (len < CXL_HELLO_LEN || mc_get32(hello) != HELLO_MAGIC || mc_get32(hello + 4) != len)
		return -EPROTO;
	memcpy(ret_uuid, hello + 8, CXL_UUID_LEN);
	return 0;
}
