/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file of the master's log, as a lost machine or somebody else may have left it:
 * the bytes behind its head, as they are; and again with the hash of each record and
 * its seq put right, so that what follows the first one is looked at, too.
 */
#include <stdlib.h>
#include <string.h>

#include "core/util/bytes.h"
#include "store_log_impl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct walk {
	const struct log_file *file;
	uint64_t seq, sum;
};

static int look(void *ctx, const struct mc_store_record *rec, const struct mc_store_log_at *next)
{
	struct walk *w = ctx;
	const unsigned char *p = rec->payload;

	if (rec->seq != w->seq++ || next->offset > w->file->bytes || rec->len > MC_STORE_LOG_PAYLOAD_MAX)
		abort();
	for (uint32_t i = 0; i < rec->len; i++)
		w->sum += p[i];
	return 0;
}

static void walk(const struct log_file *f)
{
	struct mc_store_log_at at = {.file = 1, .offset = LOG_FILE_HEAD, .seq = 1};
	struct walk w = {.file = f, .seq = 1};

	mc_store_log_read_file(f, &at, UINT64_MAX, look, &w);
}

static void put_right(struct log_file *f)
{
	uint64_t seq = 1;

	for (size_t at = LOG_FILE_HEAD; f->bytes - at >= LOG_RECORD_HEAD;) {
		unsigned char *head = f->map + at;
		uint32_t len = mc_get32(head);

		if (!len || len - 1 > f->bytes - at - LOG_RECORD_HEAD)
			return;
		mc_put64(head + 8, seq++);
		mc_put32(head + 16, mc_store_log_hash(head, head + LOG_RECORD_HEAD, len - 1));
		at += (LOG_RECORD_HEAD + len - 1 + 7u) & ~7u;
		if (at >= f->bytes)
			return;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct log_file f = {.number = 1, .bytes = LOG_FILE_HEAD + size};

	f.map = malloc(f.bytes);
	if (!f.map)
		return 0;
	memset(f.map, 0, LOG_FILE_HEAD);
	if (size)
		memcpy(f.map + LOG_FILE_HEAD, data, size);
	walk(&f);
	put_right(&f);
	walk(&f);
	free(f.map);
	return 0;
}
