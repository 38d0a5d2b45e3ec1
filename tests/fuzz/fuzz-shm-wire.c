/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of what the shm transport reads: messages of its stream, blobs of buffers, and two texts of
 * /proc.  What is accepted keeps its promises, and says the same after another trip over the wire.
 * The input's first byte says which it is.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "transports/shm/shm_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void die(const char *what)
{
	fprintf(stderr, "fuzz-shm-wire: %s\n", what);
	abort();
}

static void message(const uint8_t *data)
{
	uint8_t buf[SHM_MSG_SIZE];
	struct shm_msg m;

	if (shm_msg_decode(data, &m) < 0)
		return;
	if (m.type == SHM_HELLO && (!m.hello.pid || m.hello.slot >= SHM_SLOTS))
		die("a hello of nobody");
	if (m.type == SHM_WANT && (!m.want.key || m.want.slot >= SHM_SLOTS))
		die("a wish for what no table has");
	if (m.type == SHM_GIVE && (m.give.offset + m.give.len > INT64_MAX || m.give.status > 0))
		die("a range that no file has");
	shm_msg_encode(&m, buf);
	if (memcmp(buf, data, sizeof buf))
		die("it says something else the second time");
}

static void blob(const uint8_t *data, size_t size)
{
	uint8_t buf[SHM_BLOB_SIZE];
	struct shm_blob b;

	if (shm_blob_decode(data, size, &b) < 0)
		return;
	if (!b.key || b.slot >= SHM_SLOTS)
		die("a buffer that no table has");
	shm_blob_encode(&b, buf);
	if (size != sizeof buf || memcmp(buf, data, size))
		die("a blob says something else the second time");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t uuid[16];
	uint64_t start;
	char *exact;

	if (!size)
		return 0;
	exact = calloc(1, size);
	if (!exact)
		return 0;
	memcpy(exact, data + 1, size - 1);
	switch (data[0] % 4) {
	case 0:
		if (size > SHM_MSG_SIZE)
			message((const uint8_t *)exact);
		break;
	case 1:
		blob((const uint8_t *)exact, size - 1);
		break;
	case 2:
		shm_uuid_parse(exact, uuid);
		break;
	default:
		shm_stat_parse(exact, &start);
	}
	free(exact);
	return 0;
}
