/* SPDX-License-Identifier: Apache-2.0 */
/* Messages of the checksum filter at the other end: any bytes; what is accepted comes out as it went in. */
#include <stdlib.h>
#include <string.h>

#include "checksum_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* Of its own size, so that a byte read behind it is seen. */
	uint8_t *msg = malloc(size ? size : 1), again[CKW_ASK_SIZE];
	struct ckw_answer answer;
	struct ckw_ask ask;
	uint64_t sum = 0;
	uint16_t nr = 0;
	int type;

	if (!msg)
		return 0;
	memcpy(msg, data, size);
	type = ckw_parse(msg, size, &nr);
	for (uint16_t i = 0; i < nr && (type == CKW_ASK || type == CKW_NARROW); i++) {
		if (ckw_ask_get(msg, i, &ask) < 0)
			continue;
		ckw_ask_put(again, &ask);
		if (memcmp(again, msg + CKW_HEAD + i * CKW_ASK_SIZE, CKW_ASK_SIZE) != 0 ||
		    ask.offset + ask.len < ask.offset)
			abort();
	}
	for (uint16_t i = 0; i < nr && type == CKW_ANSWER; i++) {
		ckw_answer_get(msg, i, &answer);
		if (answer.status > 0)
			abort();
	}
	if (type == CKW_NARROWED) {
		ckw_narrowed_get(msg, &answer);
		if (answer.status > 0 || nr > CKW_PARTS)
			abort();
		for (uint16_t i = 0; i < nr; i++)
			sum += ckw_narrowed_part(msg, i);
	}
	free(msg);
	return (int)(sum & 0);
}
