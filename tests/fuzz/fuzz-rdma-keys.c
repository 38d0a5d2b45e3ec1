/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of the blob that describes a peer's buffer.  What is imported has a key for each of its
 * addresses, and its chunks cover the buffer exactly.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "transports/shared/verbs/rdma.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void die(const char *what)
{
	fprintf(stderr, "fuzz-rdma-keys: %s\n", what);
	abort();
}

static void walk(const struct rdma_remote *r)
{
	uint32_t nr = 0, sum = 0;
	uint64_t left;

	for (uint64_t at = 0; at < r->len; at += left) {
		left = rdma_chunk_left(r->base, r->len, r->chunk, r->base + at);
		if (!left || left > r->len - at)
			die("a chunk that reaches over the buffer's end");
		sum += rdma_rkey(r, r->base + at) + rdma_rkey(r, r->base + at + left - 1);
		if (++nr > r->nr)
			die("more chunks than keys");
	}
	if (nr != r->nr)
		die("keys of no chunk");
	if (sum == 1)
		puts("");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rdma_keys keys = { .nr = 0 };
	struct mc_remote_buffer buf = { .size = sizeof buf, .kind = "cpu", .blob_len = size };
	uint8_t *exact = malloc(size ? size : 1), again[MC_EXPORT_BLOB_MAX];
	struct rdma_remote remote;

	if (!exact)
		return 0;
	if (size)
		memcpy(exact, data, size);
	buf.blob = exact;
	if (rdma_keys_decode(exact, size, &keys) == 0) {
		buf.base = keys.base;
		buf.len = keys.len;
		if (rdma_keys_encode(&keys, again, sizeof again) != size)
			die("another length");
	}
	if (rdma_mem_import(NULL, &remote, NULL, &buf) == 0) {
		walk(&remote);
		rdma_mem_release(NULL, &remote);
	}
	free(exact);
	return 0;
}
