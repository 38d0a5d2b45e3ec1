/* SPDX-License-Identifier: Apache-2.0 */
/* JSON: positions, 64-bit numbers, every refusal with its place; the writer; files and words. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "clock.h"
#include "json.h"

static struct mc_error err;

static struct mc_json *parse(const char *text)
{
	struct mc_json *j = NULL;

	assert_int_equal(mc_json_parse("x", text, strlen(text), &j, &err), 0);
	return j;
}

static void refuse(const char *text, int code, const char *why)
{
	struct mc_json *j = NULL;

	memset(&err, 0, sizeof err);
	assert_int_equal(mc_json_parse("x", text, strlen(text), &j, &err), code);
	assert_string_equal(err.text, why);
	assert_null(j);
}

static void test_tree(void **state)
{
	struct mc_json *j = parse(" {\"a\": [1, -9223372036854775808, 9223372036854775807, 1.5, 2e3],\n"
				  "  \"é\": \"\\u00e9\\n\", \"t\":true,\n\t\"n\" : null, \"o\": {}}\n");
	const struct mc_json *a = mc_json_get(j, "a");

	assert_int_equal(j->type, MC_JSON_OBJECT);
	assert_int_equal(j->line, 1);
	assert_int_equal(j->column, 2);
	assert_int_equal(a->list.nr, 5);
	assert_int_equal(a->line, 1);
	assert_int_equal(a->column, 8);
	assert_int_equal(a->list.items[1].column, 12);
	assert_true(a->list.items[1].i == INT64_MIN);
	assert_true(a->list.items[2].i == INT64_MAX);
	assert_true(a->list.items[3].d == 1.5);
	assert_true(a->list.items[4].d == 2000);
	assert_string_equal(mc_json_str(j, "é", NULL), "é\n");
	assert_int_equal(mc_json_get(j, "é")->line, 2);
	assert_int_equal(mc_json_get(j, "é")->column, 8); /* characters, not bytes */
	assert_int_equal(mc_json_get(j, "n")->line, 3);
	assert_int_equal(mc_json_get(j, "n")->column, 8);
	assert_true(mc_json_get(j, "t")->b);
	assert_null(mc_json_get(j, "zz"));
	assert_int_equal(mc_json_int(j, "t", 7), 7);
	mc_json_free(j);
	mc_json_free(NULL);

	j = parse("{\"id\": \"00000000deadBEEF\", \"short\": \"1\", \"bad\": \"00000000deadbeeg\"}");
	assert_true(mc_json_hex(j, "id", 0) == 0xdeadbeef);
	assert_true(mc_json_hex(j, "short", 3) == 3);
	assert_true(mc_json_hex(j, "bad", 4) == 4);
	mc_json_free(j);

	j = parse("42");
	assert_int_equal(j->i, 42);
	mc_json_free(j);
}

static void test_refused(void **state)
{
	char deep[200];

	refuse("", -EINVAL, "x:1:1: it is empty");
	refuse("{", -EINVAL, "x:1:2: it ends too early: a quote or bracket is not closed");
	refuse("{} {}", -EINVAL, "x:1:4: trailing garbage");
	refuse("{\n \"a\" 1}", -EINVAL, "x:2:6: object key and value must be separated by a colon (':')");
	refuse("[1,\n2,]", -EINVAL, "x:2:3: unallowed token at this point in JSON text");
	refuse("{\"a\":1,\n\"b\":2,\n\"a\":3}", -EINVAL, "x:3:5: the key 'a' is there twice");
	refuse("[\"\xff\"]", -EINVAL, "x:1:2: invalid bytes in UTF8 string");
	refuse("[\"a\\u0000b\"]", -EINVAL, "x:1:2: the string holds a NUL character");
	refuse("[9223372036854775808]", -ERANGE, "x:1:2: the number is out of the range of 64 bits");
	refuse("[1e999]", -ERANGE, "x:1:2: the number is out of the range of a double");
	refuse("[/*c*/1]", -EINVAL, "x:1:2: probable comment found in input text, comments are not enabled");
	memset(deep, '[', 65);
	deep[65] = '\0';
	refuse(deep, -EINVAL, "x:1:65: nested more than 64 deep");
	deep[64] = '\0';
	refuse(deep, -EINVAL, "x:1:65: it ends too early: a quote or bracket is not closed");
	memset(deep, '1', 70);
	deep[70] = '\0';
	strcat(deep, " ");
	refuse(deep, -ERANGE, "x:1:1: the number has more than 64 characters");
	assert_int_equal(mc_json_parse("x", "", (16u << 20) + 1, &(struct mc_json *){NULL}, &err), -EFBIG);
}

static void test_many_values(void **state)
{
	size_t nr = (1u << 20) + 1;
	char *text = malloc(nr * 2 + 2);
	struct mc_json *j;

	text[0] = '[';
	for (size_t i = 0; i < nr; i++)
		memcpy(text + 1 + i * 2, "1,", 2);
	text[nr * 2] = ']';
	assert_int_equal(mc_json_parse("x", text, nr * 2 + 1, &j, &err), -EFBIG);
	free(text);
}

static void test_writer(void **state)
{
	struct mc_json_out *o = mc_json_out_new(false);
	struct mc_json *j;
	char *text;

	mc_json_out_open(o, '{');
	mc_json_out_key(o, "s");
	mc_json_out_str(o, "a\"b\n");
	mc_json_out_key(o, "l");
	mc_json_out_open(o, '[');
	mc_json_out_int(o, INT64_MIN);
	mc_json_out_double(o, 0.1);
	mc_json_out_bool(o, true);
	mc_json_out_hex(o, 0xabc);
	mc_json_out_close(o);
	mc_json_out_close(o);
	text = mc_json_out_take(o);
	assert_string_equal(text, "{\"s\":\"a\\\"b\\n\",\"l\":[-9223372036854775808,0.1,true,\"0000000000000abc\"]}");
	j = parse(text);
	o = mc_json_out_new(false);
	mc_json_out_json(o, j);
	mc_json_free(j);
	free(text);
	text = mc_json_out_take(o);
	assert_string_equal(text, "{\"s\":\"a\\\"b\\n\",\"l\":[-9223372036854775808,0.1,true,\"0000000000000abc\"]}");
	free(text);

	/* Not UTF-8, and brackets that do not match. */
	o = mc_json_out_new(true);
	mc_json_out_str(o, "\xff");
	assert_null(mc_json_out_take(o));
	o = mc_json_out_new(true);
	mc_json_out_open(o, '[');
	assert_null(mc_json_out_take(o));
	o = mc_json_out_new(true);
	mc_json_out_close(o);
	assert_null(mc_json_out_take(o));
}

static void test_closest(void **state)
{
	static const char *const words[] = {"rdma", "tcp", "metadata_server", "cuda-gdr", NULL};

	assert_string_equal(mc_closest("rdmaa", words), "rdma");
	assert_string_equal(mc_closest("TPC", (const char *const[]){"tcpx", "tcp", NULL}), "tcp");
	assert_null(mc_closest("abc", (const char *const[]){"cba", NULL}));
	assert_string_equal(mc_closest("metadta-server", words), "metadata_server");
	assert_string_equal(mc_closest("cuda_gdr", words), "cuda-gdr");
	assert_null(mc_closest("completely", words));
	assert_null(mc_closest("", words));
}

static void test_file(void **state)
{
	char path[] = "/tmp/mc-test-json-XXXXXX";
	int fd = mkstemp(path);
	size_t len;
	char *text;

	assert_int_equal(write(fd, "abc\0d", 5), 5);
	close(fd);
	assert_int_equal(mc_read_file(path, &text, &len, &err), 0);
	assert_int_equal(len, 5);
	assert_memory_equal(text, "abc\0d", 6);
	free(text);
	unlink(path);
	assert_int_equal(mc_read_file("/nowhere/x", &text, &len, &err), -ENOENT);
	assert_string_equal(err.text, "file '/nowhere/x': cannot read it: No such file or directory");
	assert_int_equal(mc_read_file("/", &text, &len, &err), -EISDIR);
}

struct writer {
	pthread_t thread;
	int fd;
	size_t len;
};

static void *writer_run(void *arg)
{
	struct writer *wr = arg;
	char buf[1000];

	memset(buf, 'x', sizeof buf);
	for (size_t at = 0; at < wr->len; at += sizeof buf)
		assert_int_equal(write(wr->fd, buf, sizeof buf), sizeof buf);
	close(wr->fd);
	return NULL;
}

/* As a shell's <(command): read while it is written, or once its writer has gone. */
static void test_pipe(void **state)
{
	for (int early = 0; early < 2; early++) {
		/* More than a pipe holds, if both go on at once. */
		struct writer wr = {.len = early ? 10000 : 300000};
		char path[32], *text = NULL;
		size_t len = 0;
		int fds[2];

		assert_int_equal(pipe(fds), 0);
		wr.fd = fds[1];
		snprintf(path, sizeof path, "/dev/fd/%d", fds[0]);
		assert_int_equal(pthread_create(&wr.thread, NULL, writer_run, &wr), 0);
		if (early)
			pthread_join(wr.thread, NULL);
		assert_int_equal(mc_read_file(path, &text, &len, &err), 0);
		assert_int_equal(len, wr.len);
		assert_int_equal(strlen(text), len);
		if (!early)
			pthread_join(wr.thread, NULL);
		free(text);
		close(fds[0]);
	}
}

/* Almost five seconds pass between two looks. */
static uint64_t hurried_clock(void)
{
	static uint64_t now = 1;

	return now += 4990 * MC_MSEC;
}

/* Nobody writes: it ends, and says what it is. */
static void test_pipe_silent(void **state)
{
	char path[32], *text = NULL;
	size_t len;
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	snprintf(path, sizeof path, "/dev/fd/%d", fds[0]);
	mc_clock_hook = hurried_clock;
	assert_int_equal(mc_read_file(path, &text, &len, &err), -ETIMEDOUT);
	mc_clock_hook = NULL;
	assert_non_null(strstr(err.text, "it is a pipe whose writer is not done"));
	close(fds[0]);
	close(fds[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tree),	cmocka_unit_test(test_refused),
		cmocka_unit_test(test_many_values), cmocka_unit_test(test_writer),
		cmocka_unit_test(test_closest), cmocka_unit_test(test_file),
		cmocka_unit_test(test_pipe),	cmocka_unit_test(test_pipe_silent),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
