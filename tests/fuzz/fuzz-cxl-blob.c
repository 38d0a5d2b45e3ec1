/* SPDX-License-Identifier: Apache-2.0 */
/* What a peer says of its buffers and its pool. */
#include <stdlib.h>
#include <string.h>

#include "cxl_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t uuid[CXL_UUID_LEN];
	struct cxl_geometry g;
	struct cxl_blob b;
	struct mc_error err;

	if (cxl_geometry_plan((uint64_t)64 << 20, 4096, 0, &g, &err) < 0)
		abort();
	for (unsigned i = 0; i < CXL_UUID_LEN; i++)
		g.uuid[i] = (uint8_t)(i * 17);
	if (cxl_blob_get(data, size, &g, &b) == 0 &&
	    (b.slot >= g.nr_slots || b.key_idx >= g.nr_keys || b.offset < g.data_offset || b.len > g.size - b.offset))
		abort();
	cxl_hello_get(data, size, uuid);
	return 0;
}
