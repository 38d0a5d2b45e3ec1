/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of the lease files of metadata/file.  The input is one file, tried as it is
 * and with its checksum put right.  What is accepted has a terminated host name and
 * encodes to something that parses to the same.
 */
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/util/bytes.h"
#include "file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const uint8_t *buf, size_t size)
{
	struct file_lease l, m;
	uint8_t again[FILE_LEASE_SIZE];

	memset(&l, 0xee, sizeof l);
	if (file_lease_parse(buf, size, &l) < 0)
		return;
	if (!memchr(l.holder.host, 0, sizeof l.holder.host))
		abort();
	file_lease_encode(again, &l);
	if (file_lease_parse(again, sizeof again, &m) < 0 || m.id != l.id || m.ttl_ns != l.ttl_ns ||
	    m.counter != l.counter || m.holder.pid != l.holder.pid ||
	    strcmp(m.holder.host, l.holder.host) != 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *buf = malloc(size + 1);
	XXH3_state_t st;

	if (!buf)
		return 0;
	memcpy(buf, data, size);
	check(buf, size);
	if (size == FILE_LEASE_SIZE) {
		memcpy(buf, "MCLS\1", 6);
		XXH3_INITSTATE(&st);
		XXH3_64bits_reset(&st);
		XXH3_64bits_update(&st, buf, 56);
		XXH3_64bits_update(&st, buf + 80, FILE_HOST_MAX);
		mc_put64(buf + 56, XXH3_64bits_digest(&st));
		check(buf, size);
	}
	free(buf);
	return 0;
}
