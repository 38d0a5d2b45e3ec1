/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of what etcd answers: the decoder gets the input whole and in small
 * pieces, and must tell the same both times.  What it hands out keeps the limits
 * of the key-value service.
 */
#include <stdlib.h>
#include <string.h>

#include "etcd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A running sum over all that was told. */
struct told {
	uint64_t sum;
};

static void mix(struct told *t, const void *data, size_t len)
{
	const uint8_t *p = data;

	for (size_t i = 0; i < len; i++)
		t->sum = (t->sum ^ p[i]) * UINT64_C(0x100000001b3);
}

static void on_kv(void *ctx, const struct mc_kv *kv)
{
	size_t len = strlen(kv->key);

	if (len == 0 || len > MC_KV_KEY_MAX || kv->len > MC_KV_VALUE_MAX || !kv->revision ||
	    kv->size != sizeof *kv || (!kv->value && kv->len))
		abort();
	mix(ctx, kv->key, len + 1);
	if (kv->value)
		mix(ctx, kv->value, kv->len);
	mix(ctx, &kv->revision, sizeof kv->revision);
	mix(ctx, &kv->lease, sizeof kv->lease);
}

static void on_frame(void *ctx, const struct etcd_reply *reply)
{
	if (strlen(reply->message) >= sizeof reply->message || reply->code < 0)
		abort();
	mix(ctx, reply->message, strlen(reply->message));
	mix(ctx, &reply->revision, sizeof reply->revision);
}

static void on_token(void *ctx, const char *token)
{
	if (!*token || strpbrk(token, "\r\n "))
		abort();
	mix(ctx, token, strlen(token));
}

static uint64_t decode(const uint8_t *data, size_t size, size_t piece)
{
	struct told t = {0};
	struct etcd_sink sink = {.kv = on_kv, .frame = on_frame, .token = on_token, .ctx = &t};
	struct etcd_decoder *d = etcd_decoder_new(&sink);
	int r = 0;

	if (!d)
		return 0;
	for (size_t at = 0; at < size && r == 0; at += piece) {
		size_t n = size - at < piece ? size - at : piece;
		uint8_t *copy = malloc(n);

		if (!copy)
			break;
		memcpy(copy, data + at, n);
		r = etcd_decoder_feed(d, copy, n);
		free(copy);
	}
	/* What was told before an error depends on nothing but the bytes before it. */
	r = etcd_decoder_end(d);
	mix(&t, &r, sizeof r);
	etcd_decoder_free(d);
	return t.sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (decode(data, size, size ? size : 1) != decode(data, size, 7))
		abort();
	return 0;
}
