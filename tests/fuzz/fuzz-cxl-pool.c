/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pool's first bytes and a slot of it, as anybody may have left them on the
 * device: 128 bytes of header, whose sum is put right, then what lies in slot 0.
 */
#include <stdlib.h>
#include <string.h>

#include "core/util/bytes.h"
#include "cxl_pool.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void nothing(const void *at, uint64_t len, enum cxl_rule rule)
{
}

static void no_fence(enum cxl_rule rule)
{
}

static void look_at_slot(const struct cxl_geometry *g, const uint8_t *bytes, size_t len)
{
	static const struct cxl_cache cache = {.write_back = nothing, .drop = nothing, .fence = no_fence};
	struct cxl_pool pool = {.cache = &cache, .g = *g};
	struct cxl_ident ident;

	/* Slots of a fuzzer's pool begin where its memory does. */
	pool.g.slots_offset = 0;
	pool.base = calloc(1, g->slot_size);
	if (!pool.base)
		return;
	memcpy(pool.base, bytes, len < g->slot_size ? len : g->slot_size);
	cxl_slot_read(&pool, 0, &ident);
	if (ident.lanes > CXL_LANES_MAX || ident.nr_extents > CXL_EXTENTS_MAX || strlen(ident.name) > CXL_NAME_MAX)
		abort();
	cxl_slot_holds(&pool, 0, &ident, g->data_offset, g->unit);
	for (uint32_t lane = 0; lane < ident.lanes; lane++)
		cxl_guard_read(&pool, 0, lane);
	free(pool.base);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t header[CXL_HEADER_LEN] = {0}, again[CXL_HEADER_LEN];
	struct cxl_geometry g;
	struct mc_error err;

	if (size < CXL_HEADER_LEN)
		return 0;
	memcpy(header, data, CXL_HEADER_LEN);
	cxl_header_get(header, "dax0.0", size, &g, &err);
	/* With the sum that belongs to the bytes, so that the rest is looked at. */
	g = (struct cxl_geometry){.size = mc_get64(header + 32), .unit = mc_get64(header + 40),
				  .slots_offset = mc_get64(header + 48), .data_offset = mc_get64(header + 56),
				  .slot_size = mc_get32(header + 64), .nr_slots = mc_get32(header + 68),
				  .nr_units = mc_get32(header + 72)};
	memcpy(g.uuid, header + 16, CXL_UUID_LEN);
	cxl_header_put(&g, again);
	if (cxl_header_get(again, "dax0.0", UINT64_MAX, &g, &err) == 0) {
		if (g.data_offset < g.slots_offset + (uint64_t)g.nr_slots * g.slot_size || g.nr_keys * 8 > g.slot_size)
			abort();
		look_at_slot(&g, data + CXL_HEADER_LEN, size - CXL_HEADER_LEN);
	}
	return 0;
}
