/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzer of the message that opens a path. */
#include <stdlib.h>
#include <string.h>

#include "path_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mc_path_open open, again;
	uint8_t out[MC_PATH_OPEN_MAX];

	if (mc_path_open_decode(data, size, &open) < 0)
		return 0;
	/* What was understood can be said again, in the same bytes. */
	if (mc_path_open_encode(&open, out) != size || memcmp(out, data, size) != 0 ||
	    mc_path_open_decode(out, size, &again) < 0 || memcmp(&open, &again, sizeof open) != 0)
		abort();
	return 0;
}
