/* SPDX-License-Identifier: Apache-2.0 */
/* File metadata: keys to file names and back. */
#include "file-fixture.h"

static void round_trip(void **state)
{
	static const char *const keys[] = {"a", "a/b",  "%",   "a%2Fb", "..", "\xc3\xa4",
					   " ", "\x01", "k.x", "A",     "~"};
	char name[FILE_NAME_SIZE], key[MC_KV_KEY_MAX + 1];
	uint64_t id;

	for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
		assert_int_equal(file_name_of(keys[i], name), 0);
		assert_null(strchr(name, '/'));
		assert_int_equal(file_name_kind(name, key, &id), FILE_KEY);
		assert_string_equal(key, keys[i]);
	}
	file_name_of("mooncake/c/engine/x", name);
	assert_string_equal(name, "k.mooncake%2Fc%2Fengine%2Fx");
}

static void lengths(void **state)
{
	char name[FILE_NAME_SIZE], other[FILE_NAME_SIZE], key[MC_KV_KEY_MAX + 2];
	char back[MC_KV_KEY_MAX + 1];
	uint64_t id;

	for (size_t len = 1; len <= MC_KV_KEY_MAX; len++) {
		memset(key, 'a', len);
		key[len] = '\0';
		assert_int_equal(file_name_of(key, name), 0);
		assert_true(strlen(name) <= FILE_NAME_MAX);
		assert_int_equal(file_name_kind(name, back, &id),
				 len <= FILE_NAME_MAX - 2 ? FILE_KEY : FILE_HASHED);
	}
	key[MC_KV_KEY_MAX - 1] = 'b';
	assert_int_equal(file_name_of(key, other), 0);
	assert_string_not_equal(name, other);
	key[MC_KV_KEY_MAX] = 'a';
	key[MC_KV_KEY_MAX + 1] = '\0';
	assert_int_equal(file_name_of(key, name), -EINVAL);
	assert_int_equal(file_name_of("", name), -EINVAL);
	assert_int_equal(file_name_of(NULL, name), -EINVAL);
}

static void junk(void **state)
{
	static const char *const names[] = {
		"x",
		"k",
		"k.",
		"k",
		"k.a/b",
		"k.%",
		"k.%4",
		"k.%41",
		"k.%2f",
		"k.%00",
		"k.a b",
		"h.12",
		"h.0123456789abcdef0123456789abcdeF",
		"l.1",
		"l.0000000000000000",
		"l.00000000000000001",
		"README",
		".hidden",
		"lock~",
		"",
		"z.abc",
		"l.+000000000000001",
	};
	char key[MC_KV_KEY_MAX + 1];
	uint64_t id;

	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		if (file_name_kind(names[i], key, &id) != FILE_JUNK)
			fail_msg("'%s' was taken", names[i]);
	assert_int_equal(file_name_kind("l.00000000000000ff", key, &id), FILE_LEASE);
	assert_int_equal(id, 255);
	assert_int_equal(file_name_kind("lock", key, &id), FILE_OURS);
	assert_int_equal(file_name_kind("t.1.2.3", key, &id), FILE_TEMP);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip),
		cmocka_unit_test(lengths),
		cmocka_unit_test(junk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
