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

	if (size >= 8) {
		enum mc_speaker speaker = mc_stream_sniff(data);
		const uint8_t *space = memchr(data, ' ', 8);

		/* Nobody but who says the whole magic is a peer; HTTP begins with a word and a space. */
		if ((speaker == MC_SPEAKER_MOONCAKE) != !memcmp(data, "mooncake", 8))
			abort();
		if (speaker == MC_SPEAKER_HTTP && (!space || space - data < 3))
			abort();
	}
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
