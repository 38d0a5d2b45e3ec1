/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzer of the port's first bytes: the preamble as a listener, the answer as a dialler reads it. */
#include <stdlib.h>
#include <string.h>

#include "stream_wire.h"
#include "core/util/check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mc_stream_hello hello, again;
	struct mc_answer answer;
	uint8_t out[MC_PREAMBLE_MAX];

	if (size >= 8)
		(void)mc_stream_sniff(data);
	if (mc_preamble_decode(data, size, &hello) == 0) {
		size_t len = mc_preamble_encode(&hello, out);

		/* What was understood can be said again. */
		if (mc_preamble_decode(out, len, &again) != 0 ||
		    memcmp(&hello, &again, sizeof hello) != 0)
			abort();
	}
	if (mc_answer_decode(data, size, &answer) == 0 && strlen(answer.why) > MC_ANSWER_WHY_MAX)
		abort();
	return 0;
}
