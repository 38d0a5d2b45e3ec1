/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of the key files of metadata/file.  The input is one file; its checksums
 * are also put right, so that the checks behind them are reached.  What is accepted
 * lies inside the input, and encodes to the same head again.
 */
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/util/bytes.h"
#include "file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const uint8_t *buf, size_t len, uint64_t file_size)
{
	uint8_t head[FILE_KEY_HEAD];
	struct mc_kv kv = {0};
	struct file_key k;
	const char *why = NULL;

	if (file_key_parse(buf, len, file_size, &k, &why) < 0) {
		if (!why || !*why)
			abort();
		return;
	}
	if (strlen(k.key) != k.key_len || (const uint8_t *)k.key + k.key_len >= buf + len)
		abort();
	if (!k.value)
		return;
	kv.key = k.key;
	kv.value = k.value;
	kv.len = k.value_len;
	kv.lease = k.lease;
	if ((const uint8_t *)k.value + k.value_len != buf + len)
		abort();
	file_key_encode(head, &kv, k.revision);
	if (memcmp(head, buf, sizeof head) != 0)
		abort();
}

/* Put magic, length and checksums right.  False: the key does not fit. */
static bool mend(uint8_t *buf, size_t size)
{
	size_t n = size > FILE_KEY_HEAD ? mc_get16(buf + 6) : 0, vlen;
	XXH3_state_t st;

	if (size < FILE_KEY_HEAD + n + 1)
		return false;
	vlen = size - FILE_KEY_HEAD - n - 1;
	memcpy(buf, "MCKV\1", 6);
	mc_put64(buf + 24, vlen);
	mc_put64(buf + 32, vlen ? XXH3_64bits(buf + size - vlen, vlen) : 0);
	XXH3_INITSTATE(&st);
	XXH3_64bits_reset(&st);
	XXH3_64bits_update(&st, buf, 40);
	XXH3_64bits_update(&st, buf + FILE_KEY_HEAD, n);
	mc_put64(buf + 40, XXH3_64bits_digest(&st));
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char key[MC_KV_KEY_MAX + 1], name[256];
	uint8_t *buf = malloc(size + 1);
	uint64_t id;

	if (!buf)
		return 0;
	memcpy(buf, data, size);
	check(buf, size, size);
	check(buf, size / 2, size);
	if (mend(buf, size))
		check(buf, size, size);
	/* The same bytes as a name of the directory. */
	memcpy(name, data, size < 255 ? size : 255);
	name[size < 255 ? size : 255] = '\0';
	if (file_name_kind(name, key, &id) == FILE_KEY) {
		char back[FILE_NAME_SIZE];

		if (file_name_of(key, back) < 0 || strcmp(back, name) != 0)
			abort();
	}
	free(buf);
	return 0;
}
