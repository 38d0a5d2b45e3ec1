/* SPDX-License-Identifier: Apache-2.0 */
/* metadata/etcd: the decoder of answers, whole and in pieces of every size. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "etcd.h"

/* Everything that a decoder tells, as text. */
struct told {
	char text[4096];
	size_t len;
};

static void told_kv(void *ctx, const struct mc_kv *kv)
{
	struct told *t = ctx;

	t->len += (size_t)snprintf(t->text + t->len, sizeof t->text - t->len, "%s=%.*s@%llu/%llu;", kv->key,
				   kv->value ? (int)kv->len : 3, kv->value ? (const char *)kv->value : "(-)",
				   (unsigned long long)kv->revision, (unsigned long long)kv->lease);
}

static void told_frame(void *ctx, const struct etcd_reply *r)
{
	struct told *t = ctx;

	t->len += (size_t)snprintf(t->text + t->len, sizeof t->text - t->len,
				   "[rev %llu%s%s%s%s%s%s%s code %d compact %llu ttl %llu del %llu id %llu]",
				   (unsigned long long)r->revision, r->more ? " more" : "",
				   r->succeeded ? " succeeded" : "", r->created ? " created" : "",
				   r->canceled ? " canceled" : "", r->failed ? " failed" : "",
				   *r->message ? " " : "", r->message, r->code,
				   (unsigned long long)r->compact_revision, (unsigned long long)r->ttl,
				   (unsigned long long)r->deleted, (unsigned long long)r->id);
}

static void told_token(void *ctx, const char *token)
{
	struct told *t = ctx;

	t->len += (size_t)snprintf(t->text + t->len, sizeof t->text - t->len, "token %s;", token);
}

/* Feed it in pieces; NULL: it must be refused. */
static void check_pieces(const char *in, const char *out, size_t piece)
{
	struct told t = {0};
	struct etcd_sink sink = {.kv = told_kv, .frame = told_frame, .token = told_token, .ctx = &t};
	struct etcd_decoder *d = etcd_decoder_new(&sink);
	size_t len = strlen(in);
	int r = 0;

	for (size_t at = 0; at < len; at += piece) {
		size_t n = len - at < piece ? len - at : piece;
		/* Exactly as large as it is, for sanitizers. */
		char *copy = malloc(n);

		memcpy(copy, in + at, n);
		r |= etcd_decoder_feed(d, copy, n);
		free(copy);
	}
	r |= etcd_decoder_end(d);
	etcd_decoder_free(d);
	if (!out) {
		if (!r)
			fail_msg("taken: %s", in);
		return;
	}
	assert_int_equal(r, 0);
	assert_string_equal(t.text, out);
}

static void check(const char *in, const char *out)
{
	for (size_t piece = 1; piece < 20; piece += 3)
		check_pieces(in, out, piece);
	check_pieces(in, out, 4096);
}

#define HEAD "\"header\":{\"cluster_id\":\"15118495548433857066\",\"member_id\":\"1\",\"revision\":\"7\",\"raft_term\":\"2\"}"
#define REST " compact 0 ttl 0 del 0 id 0]"

static void test_range(void **state)
{
	check("{" HEAD "}", "[rev 7 code 0" REST);
	check("{" HEAD ",\"kvs\":[{\"key\":\"Zm9v\",\"create_revision\":\"2\",\"mod_revision\":\"3\",\"version\":\"1\","
	      "\"value\":\"YmFy\",\"lease\":\"9\"},{\"key\":\"Zm9w\",\"mod_revision\":\"4\"}],\"more\":true,\"count\":\"8\"}",
	      "foo=bar@3/9;fop=@4/0;[rev 7 more code 0" REST);
	/* Numbers may be numbers; unknown members of every kind are skipped. */
	check("{\"x\":[{\"kvs\":[{\"key\":\"!\"}]}],\"y\":null,\"z\":1.5e3,\"kvs\":[{\"mod_revision\":3,\"q\":{},\"key\":\"YQ==\"}]}",
	      "a=@3/0;[rev 0 code 0" REST);
}

static void test_txn(void **state)
{
	check("{" HEAD ",\"succeeded\":true,\"responses\":[{\"response_put\":{\"header\":{\"revision\":\"5\"}}}]}",
	      "[rev 7 succeeded code 0" REST);
	check("{" HEAD ",\"responses\":[{\"response_range\":{\"header\":{\"revision\":\"6\"},\"kvs\":[{\"key\":\"YQ==\","
	      "\"mod_revision\":\"2\",\"value\":\"Yg==\"}],\"count\":\"1\"}}]}",
	      "a=b@2/0;[rev 7 code 0" REST);
}

static void test_watch(void **state)
{
	check("{\"result\":{" HEAD ",\"created\":true}}\n"
	      "{\"result\":{" HEAD ",\"events\":[{\"kv\":{\"key\":\"YQ==\",\"mod_revision\":\"3\",\"value\":\"Yg==\"}},"
	      "{\"type\":\"DELETE\",\"kv\":{\"key\":\"YQ==\",\"mod_revision\":\"4\"},\"prev_kv\":{\"key\":\"Yg==\"}},"
	      "{\"kv\":{\"key\":\"Yg==\",\"mod_revision\":\"5\"},\"type\":\"PUT\"}]}}\n",
	      "[rev 7 created code 0" REST "a=b@3/0;a=(-)@4/0;b=@5/0;[rev 7 code 0" REST);
	check("{\"result\":{\"header\":{},\"canceled\":true,\"compact_revision\":\"6\",\"watch_id\":\"-1\"}}",
	      "[rev 0 canceled code 0 compact 6 ttl 0 del 0 id 0]");
	check("{\"result\":{\"canceled\":true,\"cancel_reason\":\"no\\nleader\"}}", "[rev 0 canceled no leader code 0" REST);
}

static void test_errors(void **state)
{
	check("{\"error\":\"lost\",\"message\":\"lost\",\"code\":5}", "[rev 0 failed lost code 5" REST);
	check("{\"error\":{\"grpc_code\":14,\"http_code\":503,\"message\":\"away\",\"http_status\":\"x\"}}",
	      "[rev 0 failed away code 14" REST);
	check("{" HEAD ",\"token\":\"abc.1\"}", "token abc.1;[rev 7 code 0" REST);
	check("{\"result\":{" HEAD ",\"ID\":\"9\",\"TTL\":\"10\"}}", "[rev 7 code 0 compact 0 ttl 10 del 0 id 9]");
	check("{" HEAD ",\"deleted\":\"1\"}", "[rev 7 code 0 compact 0 ttl 0 del 1 id 0]");
}

static void test_refused(void **state)
{
	static const char *const bad[] = {
		"", " ", "[]", "5", "null", "true", "\"a\"", "x", "{", "{\"kvs\":[{\"key\":\"YQ==\"}]}",
		"{\"kvs\":[{}]}", "{\"kvs\":[{\"key\":\"Y\",\"mod_revision\":\"1\"}]}",
		"{\"kvs\":[{\"key\":\"YQ==\",\"mod_revision\":\"-1\"}]}",
		"{\"kvs\":[{\"key\":\"YQ==\",\"mod_revision\":\"18446744073709551616\"}]}",
		"{\"kvs\":[{\"key\":\"YQ==\",\"mod_revision\":1.5}]}",
		"{\"kvs\":[{\"key\":\"YQ==\",\"mod_revision\":\"\"}]}",
		"{\"events\":[{\"type\":\"DELETE\"}]}", "{\"token\":\"a b\"}", "{\"token\":\"a\\r\\nX: y\"}",
		"{\"token\":\"\"}", "{\"code\":-1}", "{}x",
		"{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{",
	};

	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		check(bad[i], NULL);
}

/* A key that no engine can have written is left out, not the answer. */
static void test_skipped(void **state)
{
	struct told t = {0};
	struct etcd_sink sink = {.kv = told_kv, .ctx = &t};
	struct etcd_decoder *d = etcd_decoder_new(&sink);
	struct etcd_text text = {0};
	char *big = calloc(1, MC_KV_VALUE_MAX + 1);

	etcd_text_add(&text, "{\"kvs\":[{\"mod_revision\":\"1\",\"key\":");
	etcd_text_bytes(&text, "a\0b", 3);
	etcd_text_add(&text, "},{\"mod_revision\":\"2\",\"key\":\"Yg==\",\"value\":");
	etcd_text_bytes(&text, big, MC_KV_VALUE_MAX + 1);
	etcd_text_add(&text, "},{\"mod_revision\":\"3\",\"key\":");
	etcd_text_bytes(&text, memset(big, 'x', 2000), MC_KV_KEY_MAX + 1);
	etcd_text_add(&text, "},{\"mod_revision\":\"4\",\"key\":\"Yw==\"}]}");
	assert_false(text.failed);
	assert_int_equal(etcd_decoder_feed(d, text.s, text.len), 0);
	assert_int_equal(etcd_decoder_end(d), 0);
	assert_int_equal(etcd_decoder_reply(d)->nr_skipped, 3);
	assert_int_equal(etcd_decoder_reply(d)->nr_kvs, 1);
	assert_string_equal(t.text, "c=@4/0;");
	etcd_decoder_free(d);
	etcd_text_fini(&text);
	free(big);
}

/* Memory is bounded: a string that does not end is given up. */
static void test_endless(void **state)
{
	struct etcd_decoder *d = etcd_decoder_new(NULL);
	char *piece = malloc(1 << 20);
	int r = etcd_decoder_feed(d, "{\"a\":\"", 6), nr = 0;

	memset(piece, 'x', 1 << 20);
	while (r == 0 && nr++ < 100)
		r = etcd_decoder_feed(d, piece, 1 << 20);
	assert_int_equal(r, -EBADMSG);
	assert_true(nr < 20);
	etcd_decoder_free(d);
	free(piece);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_range),	cmocka_unit_test(test_txn),
		cmocka_unit_test(test_watch),	cmocka_unit_test(test_errors),
		cmocka_unit_test(test_refused), cmocka_unit_test(test_skipped),
		cmocka_unit_test(test_endless),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
