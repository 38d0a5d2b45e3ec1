/* SPDX-License-Identifier: Apache-2.0 */
/* Access lists: which rule decides, what a bad list is told, what a restricted table entry says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "access.h"
#include "table.h"

static struct mc_access *parse(const char *text)
{
	struct mc_access *a = NULL;
	struct mc_error err = {0};

	if (mc_access_parse(text, &a, &err) < 0)
		fail_msg("%s", err.text);
	return a;
}

static void test_rules(void **state)
{
	static const struct {
		const char *peer;
		uint32_t denied;
		const char *why;
	} cases[] = {
		{"trainer-1", MC_ACCESS_REMOTE_WRITE, ""},
		{"trainer-", MC_ACCESS_REMOTE_WRITE, ""},
		{"trainer", MC_ACCESS_ALL, "by its rule '*r': 'none' of access"},
		{"node7", 0, ""},
		{"node77", MC_ACCESS_ALL, "for no rule of its access names it"},
		{"[::1]:12001", MC_ACCESS_REMOTE_READ, ""},
		{"a-x-b-y-c", 0, ""},
		{"a-x-b-y-d", MC_ACCESS_ALL, "for no rule of its access names it"},
		{"", MC_ACCESS_ALL, "for no rule of its access names it"},
	};
	struct mc_access *a = parse("{\"trainer-*\": \"read\", \"*r\": \"none\", \"node?\": \"all\", "
				    "\"[::1]:*\": \"write\", \"a*b*c\": \"all\"}");

	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		char why[128] = "";

		assert_int_equal(mc_access_denied(a, cases[i].peer, why, sizeof why), cases[i].denied);
		assert_string_equal(why, cases[i].why);
	}
	mc_access_free(a);
	assert_null(parse(""));
	assert_int_equal(mc_access_denied(NULL, "x", NULL, 0), 0);
	/* The first that matches decides. */
	a = parse("{\"*\": \"all\", \"x\": \"none\"}");
	assert_int_equal(mc_access_denied(a, "x", NULL, 0), 0);
	mc_access_free(a);
	a = parse("{}");
	assert_int_equal(mc_access_denied(a, "x", (char[64]){0}, 64), MC_ACCESS_ALL);
	mc_access_free(a);
}

static void test_bad(void **state)
{
	static const struct {
		const char *text, *says;
	} cases[] = {
		{"{\"a\": \"reed\"}", "access:1:7: 'a': 'reed' is no right; it is none, read, write or all"},
		{"{\"a\": 1}", "access:1:7: 'a': a right is \"none\", \"read\", \"write\" or \"all\", not a whole number"},
		{"[\"a\"]", "access is an object of at most"},
		{"{\"a\": \"all\", \"a\": \"none\"}", "access:1:"},
		{"{\"a\"", "access:1:"},
		{"no-such-file.json", "no-such-file.json"},
	};

	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct mc_access *a = (void *)&a;
		struct mc_error err = {0};

		assert_true(mc_access_parse(cases[i].text, &a, &err) < 0);
		assert_null(a);
		if (!strstr(err.text, cases[i].says))
			fail_msg("'%s' does not say '%s'", err.text, cases[i].says);
	}
}

static void test_file(void **state)
{
	char path[] = "/tmp/mc-access-XXXXXX", says[128];
	int fd = mkstemp(path);
	struct mc_access *a;
	struct mc_error err = {0};

	assert_true(fd >= 0);
	assert_int_equal(dprintf(fd, "{\n \"x\": \"read\"\n}\n"), 17);
	a = parse(path);
	assert_int_equal(mc_access_denied(a, "x", NULL, 0), MC_ACCESS_REMOTE_WRITE);
	mc_access_free(a);
	assert_int_equal(ftruncate(fd, 0), 0);
	lseek(fd, 0, SEEK_SET);
	assert_true(dprintf(fd, "{\n \"x\": \"\"\n}\n") > 0);
	assert_int_equal(mc_access_parse(path, &a, &err), -EINVAL);
	snprintf(says, sizeof says, "%s:2:7: 'x'", path);
	assert_non_null(strstr(err.text, says));
	close(fd);
	unlink(path);
}

/* Who has fewer rights than the buffer gives sees those, and no device's key. */
static void test_entry(void **state)
{
	struct mc_local_blob blob = {.len = 3, .data = (uint8_t *)"key"};
	struct mc_local_buf buf = {.id = 7, .access = MC_ACCESS_ALL, .base = 4096, .len = 100, .location = "cpu:0",
				   .kind = "cpu", .blobs = &blob};
	uint8_t entry[256], whole[256];
	struct mc_remote_buf *seen;
	size_t size = mc_entry_size(&buf, 1), less;

	mc_entry_encode(&buf, 1, entry);
	memcpy(whole, entry, size);
	assert_int_equal(mc_entry_restrict(entry, 0), size);
	assert_memory_equal(entry, whole, size);
	less = mc_entry_restrict(entry, MC_ACCESS_REMOTE_WRITE);
	assert_int_equal(less, size - 7);
	assert_int_equal(mc_entry_decode(entry, less, &seen), less);
	assert_int_equal(seen->access, MC_ACCESS_REMOTE_READ | MC_REMOTE_NO_KEYS);
	assert_int_equal(seen->nr_blobs, 0);
	assert_string_equal(seen->location, "cpu:0");
	mc_remote_buf_unref(seen);
	/* A buffer that nobody may write is the same for who may not. */
	buf.access = MC_ACCESS_REMOTE_READ;
	mc_entry_encode(&buf, 1, entry);
	assert_int_equal(mc_entry_restrict(entry, MC_ACCESS_REMOTE_WRITE), size);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rules),
		cmocka_unit_test(test_bad),
		cmocka_unit_test(test_file),
		cmocka_unit_test(test_entry),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
