/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages of the managed store, as a client or a master may send them.  The first byte is the
 * method, with 0x80 for replies.  What can be read is written again as it was read.
 */
#include <stdlib.h>

#include "store-messages.h"

#define CAP (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct echo e;
	static uint8_t once[CAP], twice[CAP];
	uint32_t method;
	bool reply;
	int len;

	if (size < 1 || size > CAP)
		return 0;
	reply = data[0] & 0x80;
	method = data[0] & 0x1f;
	len = echo_message(&e, method, reply, data + 1, size - 1, once, sizeof once);
	if (len < 0)
		return 0;
	if (echo_message(&e, method, reply, once, (size_t)len, twice, sizeof twice) != len ||
	    memcmp(once, twice, (size_t)len) != 0)
		abort();
	return 0;
}
