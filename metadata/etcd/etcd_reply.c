/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What etcd's gateway answers, decoded while it comes: single objects, and the
 * frames of a watch one after another.  Keys are handed out as soon as each is
 * complete, so that memory does not grow with the answer.  Whoever answers is a
 * stranger: depth, lengths and numbers are checked; unknown members are skipped.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include <yajl/yajl_parse.h>

#include "core/util/check.h"
#include "etcd.h"

/* etcd takes requests of up to 1.5 MiB unless it was told otherwise; base64 makes a third more. */
#define MAX_TOKEN (16u << 20)
#define MAX_DEPTH 16

/* What an open object or array is. */
enum where { W_OTHER, W_TOP, W_HEADER, W_KVS, W_KV, W_RESPONSES, W_RESPONSE, W_RANGE, W_EVENTS,
	     W_EVENT, W_EVENT_KV, W_ERROR };

enum field { F_NONE, F_HEADER, F_KVS, F_RESULT, F_RESPONSES, F_RESPONSE_RANGE, F_EVENTS, F_EVENT_KV,
	     F_ERROR, F_MESSAGE, F_CODE, F_GRPC_CODE, F_CLUSTER, F_REVISION, F_MORE, F_SUCCEEDED, F_DELETED, F_ID,
	     F_TTL, F_TOKEN, F_CREATED, F_CANCELED, F_CANCEL_REASON, F_COMPACT, F_TYPE, F_KEY, F_VALUE,
	     F_MOD, F_LEASE };

static const struct {
	enum where where;
	enum field field;
	const char *name;
} names[] = {
	{W_TOP, F_HEADER, "header"},
	{W_TOP, F_KVS, "kvs"},
	{W_TOP, F_RESULT, "result"},
	{W_TOP, F_RESPONSES, "responses"},
	{W_TOP, F_EVENTS, "events"},
	{W_TOP, F_ERROR, "error"},
	{W_TOP, F_MESSAGE, "message"},
	{W_TOP, F_CODE, "code"},
	{W_TOP, F_MORE, "more"},
	{W_TOP, F_SUCCEEDED, "succeeded"},
	{W_TOP, F_DELETED, "deleted"},
	{W_TOP, F_ID, "ID"},
	{W_TOP, F_TTL, "TTL"},
	{W_TOP, F_TOKEN, "token"},
	{W_TOP, F_CREATED, "created"},
	{W_TOP, F_CANCELED, "canceled"},
	{W_TOP, F_CANCEL_REASON, "cancel_reason"},
	{W_TOP, F_COMPACT, "compact_revision"},
	{W_HEADER, F_CLUSTER, "cluster_id"},
	{W_HEADER, F_REVISION, "revision"},
	{W_RESPONSE, F_RESPONSE_RANGE, "response_range"},
	{W_RANGE, F_KVS, "kvs"},
	{W_EVENT, F_TYPE, "type"},
	{W_EVENT, F_EVENT_KV, "kv"},
	{W_ERROR, F_GRPC_CODE, "grpc_code"},
	{W_ERROR, F_CODE, "code"},
	{W_ERROR, F_MESSAGE, "message"},
	{W_KV, F_KEY, "key"},
	{W_KV, F_VALUE, "value"},
	{W_KV, F_MOD, "mod_revision"},
	{W_KV, F_LEASE, "lease"},
};

struct bytes {
	uint8_t *at;
	size_t len, room;
};

struct etcd_decoder {
	yajl_handle yajl;
	struct etcd_sink sink;
	struct etcd_reply reply;
	enum where stack[MAX_DEPTH];
	unsigned depth;
	enum field field; /* of the value that comes next */
	size_t since;     /* bytes since the last token */
	bool bad, any;
	/* The key that is being read. */
	struct bytes key, value;
	uint64_t mod, lease;
	bool deleted;
};

static int bad(struct etcd_decoder *d)
{
	d->bad = true;
	return 0; /* stops yajl */
}

static enum where here(const struct etcd_decoder *d)
{
	return d->depth ? d->stack[d->depth - 1] : W_OTHER;
}

static void copy_text(char *to, size_t room, const unsigned char *s, size_t len)
{
	size_t n = MC_MIN(len, room - 1);

	for (size_t i = 0; i < n; i++)
		to[i] = s[i] < ' ' || s[i] == 0x7f ? ' ' : (char)s[i];
	to[n] = '\0';
}

/* Digits only; etcd writes 64-bit numbers as strings. */
static int number(const unsigned char *s, size_t len, uint64_t *ret)
{
	uint64_t u = 0;

	if (len == 0 || len > 20)
		return -EBADMSG;
	for (size_t i = 0; i < len; i++) {
		if (s[i] < '0' || s[i] > '9' || __builtin_mul_overflow(u, 10u, &u) ||
		    __builtin_add_overflow(u, (uint64_t)(s[i] - '0'), &u))
			return -EBADMSG;
	}
	*ret = u;
	return 0;
}

/* ---- keys and events --------------------------------------------------------------------- */

static int decode(struct bytes *b, const unsigned char *s, size_t len)
{
	size_t want = len / 4 * 3 + 4;
	ssize_t n;

	if (want > b->room) {
		uint8_t *more = realloc(b->at, want);

		if (!more)
			return -ENOMEM;
		b->at = more;
		b->room = want;
	}
	n = etcd_base64_decode(s, len, b->at);
	if (n < 0)
		return (int)n;
	b->len = (size_t)n;
	b->at[n] = '\0';
	return 0;
}

static void kv_begin(struct etcd_decoder *d)
{
	d->key.len = d->value.len = 0;
	d->mod = d->lease = 0;
}

/* Hand out the key that was read, unless no engine can have written it. */
static int kv_end(struct etcd_decoder *d, bool deleted)
{
	struct mc_kv kv = {.size = sizeof kv,
			   .key = (char *)d->key.at,
			   .value = deleted ? NULL : d->value.len ? (void *)d->value.at : "",
			   .len = deleted ? 0 : d->value.len,
			   .revision = d->mod,
			   .lease = d->lease};

	if (d->key.len == 0 || d->mod == 0)
		return bad(d);
	if (d->key.len > MC_KV_KEY_MAX || memchr(d->key.at, 0, d->key.len) ||
	    d->value.len > MC_KV_VALUE_MAX) {
		d->reply.nr_skipped++;
		return 1;
	}
	d->reply.nr_kvs++;
	if (d->sink.kv)
		d->sink.kv(d->sink.ctx, &kv);
	return 1;
}

/* ---- tokens ------------------------------------------------------------------------------- */

static int open_any(struct etcd_decoder *d, bool array)
{
	enum where in = here(d), w = W_OTHER;

	d->since = 0;
	if (d->depth == MAX_DEPTH)
		return bad(d);
	if (d->depth == 0) {
		if (array)
			return bad(d);
		d->reply = (struct etcd_reply){0};
		w = W_TOP;
	} else if (array) {
		w = d->field == F_KVS ? W_KVS
		    : d->field == F_EVENTS ? W_EVENTS
		    : d->field == F_RESPONSES ? W_RESPONSES : W_OTHER;
	} else if (in == W_KVS || in == W_EVENTS || in == W_RESPONSES) {
		w = in == W_KVS ? W_KV : in == W_EVENTS ? W_EVENT : W_RESPONSE;
	} else {
		w = d->field == F_HEADER ? W_HEADER
		    : d->field == F_RESULT && d->depth == 1 ? W_TOP
		    : d->field == F_RESPONSE_RANGE ? W_RANGE
		    : d->field == F_EVENT_KV ? W_EVENT_KV
		    : d->field == F_ERROR ? W_ERROR : W_OTHER;
	}
	if (w == W_KV || w == W_EVENT)
		kv_begin(d);
	if (w == W_EVENT)
		d->deleted = false;
	if (w == W_ERROR)
		d->reply.failed = true;
	d->stack[d->depth++] = w;
	d->field = F_NONE;
	return 1;
}

static int on_map(void *ctx)
{
	return open_any(ctx, false);
}

static int on_array(void *ctx)
{
	return open_any(ctx, true);
}

static int on_close(void *ctx)
{
	struct etcd_decoder *d = ctx;
	enum where w = here(d);

	d->since = 0;
	d->field = F_NONE;
	d->depth--;
	if (w == W_KV)
		return kv_end(d, false);
	if (w == W_EVENT)
		return kv_end(d, d->deleted);
	if (d->depth == 0) {
		d->any = true;
		if (d->sink.frame)
			d->sink.frame(d->sink.ctx, &d->reply);
	}
	return 1;
}

static int on_key(void *ctx, const unsigned char *s, size_t len)
{
	struct etcd_decoder *d = ctx;
	enum where w = here(d);

	d->since = 0;
	d->field = F_NONE;
	w = w == W_EVENT_KV ? W_KV : w;
	for (size_t i = 0; w != W_OTHER && i < MC_ARRAY_SIZE(names); i++) {
		if (names[i].where == w && strlen(names[i].name) == len &&
		    !memcmp(names[i].name, s, len))
			d->field = names[i].field;
	}
	return 1;
}

static uint64_t *number_of(struct etcd_decoder *d)
{
	switch (d->field) {
	case F_CLUSTER:
		return &d->reply.cluster;
	case F_REVISION:
		return &d->reply.revision;
	case F_DELETED:
		return &d->reply.deleted;
	case F_ID:
		return &d->reply.id;
	case F_TTL:
		return &d->reply.ttl;
	case F_COMPACT:
		return &d->reply.compact_revision;
	case F_MOD:
		return &d->mod;
	case F_LEASE:
		return &d->lease;
	default:
		return NULL;
	}
}

static int on_string(void *ctx, const unsigned char *s, size_t len)
{
	struct etcd_decoder *d = ctx;
	uint64_t *u = number_of(d);

	d->since = 0;
	if (d->depth == 0)
		return bad(d);
	if (u)
		return number(s, len, u) < 0 ? bad(d) : 1;
	switch (d->field) {
	case F_KEY:
		return decode(&d->key, s, len) < 0 ? bad(d) : 1;
	case F_VALUE:
		return decode(&d->value, s, len) < 0 ? bad(d) : 1;
	case F_TYPE:
		d->deleted = len == 6 && !memcmp(s, "DELETE", 6);
		return 1;
	case F_ERROR:
	case F_MESSAGE:
		d->reply.failed = true;
		/* fallthrough */
	case F_CANCEL_REASON:
		copy_text(d->reply.message, sizeof d->reply.message, s, len);
		return 1;
	case F_TOKEN: {
		char token[1024];

		/* It goes into a header. */
		if (len == 0 || len >= sizeof token)
			return bad(d);
		for (size_t i = 0; i < len; i++)
			if (s[i] <= ' ' || s[i] >= 0x7f)
				return bad(d);
		copy_text(token, sizeof token, s, len);
		if (d->sink.token)
			d->sink.token(d->sink.ctx, token);
		return 1;
	}
	default:
		return 1;
	}
}

static int on_number(void *ctx, const char *s, size_t len)
{
	struct etcd_decoder *d = ctx;
	uint64_t *u = number_of(d), code;

	d->since = 0;
	if (d->depth == 0)
		return bad(d);
	if (u)
		return number((const unsigned char *)s, len, u) < 0 ? bad(d) : 1;
	if (d->field == F_CODE || d->field == F_GRPC_CODE) {
		if (number((const unsigned char *)s, len, &code) < 0 || code > 1000)
			return bad(d);
		d->reply.code = (int)code;
	}
	return 1;
}

static int on_bool(void *ctx, int b)
{
	struct etcd_decoder *d = ctx;

	d->since = 0;
	if (d->depth == 0)
		return bad(d);
	if (d->field == F_MORE)
		d->reply.more = b;
	else if (d->field == F_SUCCEEDED)
		d->reply.succeeded = b;
	else if (d->field == F_CREATED)
		d->reply.created = b;
	else if (d->field == F_CANCELED)
		d->reply.canceled = b;
	return 1;
}

static int on_null(void *ctx)
{
	struct etcd_decoder *d = ctx;

	d->since = 0;
	return d->depth == 0 ? bad(d) : 1;
}

static const yajl_callbacks callbacks = {
	.yajl_null = on_null,
	.yajl_boolean = on_bool,
	.yajl_number = on_number,
	.yajl_string = on_string,
	.yajl_start_map = on_map,
	.yajl_map_key = on_key,
	.yajl_end_map = on_close,
	.yajl_start_array = on_array,
	.yajl_end_array = on_close,
};

/* ---- the decoder ---------------------------------------------------------------------------- */

struct etcd_decoder *etcd_decoder_new(const struct etcd_sink *sink)
{
	struct etcd_decoder *d = calloc(1, sizeof *d);

	if (!d)
		return NULL;
	if (sink)
		d->sink = *sink;
	d->yajl = yajl_alloc(&callbacks, NULL, d);
	if (!d->yajl) {
		free(d);
		return NULL;
	}
	yajl_config(d->yajl, yajl_allow_multiple_values, 1);
	return d;
}

void etcd_decoder_free(struct etcd_decoder *d)
{
	if (!d)
		return;
	yajl_free(d->yajl);
	free(d->key.at);
	free(d->value.at);
	free(d);
}

int etcd_decoder_feed(struct etcd_decoder *d, const void *data, size_t len)
{
	if (d->bad)
		return -EBADMSG;
	d->since += len;
	if (yajl_parse(d->yajl, data, len) != yajl_status_ok || d->since > MAX_TOKEN)
		d->bad = true;
	return d->bad ? -EBADMSG : 0;
}

int etcd_decoder_end(struct etcd_decoder *d)
{
	return d->bad || !d->any || d->depth ? -EBADMSG : 0;
}

const struct etcd_reply *etcd_decoder_reply(const struct etcd_decoder *d)
{
	return &d->reply;
}
