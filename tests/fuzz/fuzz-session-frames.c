/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzer of the control wire: frame heads, HELLO with its JSON, BYE. */
#include <stdlib.h>
#include <string.h>

#include "session_impl.h"
#include "session_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char why[MC_BYE_WHY_MAX + 1];
	struct mc_peer_info info;
	struct mc_hello_head head;
	struct mc_frame f;
	int status;

	while (size >= MC_FRAME_HEAD && mc_frame_decode(data, &f) == 0) {
		data += MC_FRAME_HEAD;
		size -= MC_FRAME_HEAD;
		if (f.len > size)
			break;
		if (f.type == MC_FRAME_HELLO && mc_hello_head_decode(data, f.len, &head) == 0 &&
		    mc_hello_parse(head.json, head.json_len, &info, NULL) == 0)
			mc_peer_info_fini(&info);
		if (f.type == MC_FRAME_BYE)
			(void)mc_bye_decode(data, f.len, &status, why);
		data += f.len;
		size -= f.len;
	}
	return 0;
}
