/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of remote staging's messages.  The input: u16 type, u8 whether the head's
 * status says no, then the body.  What is accepted keeps its promises and comes out
 * as the same bytes again.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/util/bytes.h"
#include "core/util/check.h"
#include "stage_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void die(const char *what)
{
	fprintf(stderr, "fuzz-stage: %s\n", what);
	abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mc_stage_msg m = {0};
	uint8_t again[MC_STAGE_MSG_MAX], *body;
	uint16_t type;
	size_t len;
	int status;

	if (size < 3)
		return 0;
	type = mc_get16(data);
	status = data[2] & 1 ? -EACCES : 0;
	len = size - 3;
	body = malloc(len ? len : 1);
	if (!body)
		return 0;
	memcpy(body, data + 3, len);
	if (mc_stage_parse(type, status, body, len, &m) == 0) {
		if (type == MC_MSG_STAGE_REQUEST && (!m.len || m.offset + m.len < m.offset || m.opcode > 1))
			die("a request that is none");
		if (type == MC_MSG_STAGE_GRANT && m.blob_len > MC_EXPORT_BLOB_MAX)
			die("a blob that is too long");
		if (type == MC_MSG_STAGE_GRANT && !status &&
		    (!m.len || !mc_range_inside(m.base, m.region_len, m.addr, m.len)))
			die("a grant outside of its registration");
		if (mc_stage_put(type, &m, again) != len)
			die("another length");
		/* Only the reserved word of a grant may differ. */
		if (type == MC_MSG_STAGE_GRANT)
			memset(body + 46, 0, 2);
		if (memcmp(body, again, len))
			die("other bytes");
	}
	free(body);
	return 0;
}
