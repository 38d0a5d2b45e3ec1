/* SPDX-License-Identifier: Apache-2.0 */
/* File metadata: the formats of key and lease files. */
#include "file-fixture.h"

static size_t make_key(uint8_t *buf, const char *key, const char *value, uint64_t lease)
{
	struct mc_kv kv = {.key = key, .value = value, .len = strlen(value), .lease = lease};
	size_t n = strlen(key);

	file_key_encode(buf, &kv, 77);
	memcpy(buf + FILE_KEY_HEAD, key, n + 1);
	memcpy(buf + FILE_KEY_HEAD + n + 1, value, kv.len);
	return FILE_KEY_HEAD + n + 1 + kv.len;
}

static void key_good(void **state)
{
	uint8_t buf[256];
	size_t n = make_key(buf, "a/b", "value", 5);
	struct file_key k;
	const char *why;

	assert_int_equal(file_key_parse(buf, n, n, &k, &why), 0);
	assert_string_equal(k.key, "a/b");
	assert_int_equal(k.revision, 77);
	assert_int_equal(k.lease, 5);
	assert_int_equal(k.value_len, 5);
	assert_memory_equal(k.value, "value", 5);
	/* Head and key alone. */
	assert_int_equal(file_key_parse(buf, FILE_KEY_HEAD + 4, n, &k, &why), 0);
	assert_null(k.value);
	/* The layout is fixed. */
	assert_memory_equal(buf, "MCKV\1\0\3\0\x4d\0\0\0\0\0\0\0\5\0", 18);
}

static void key_bad(void **state)
{
	uint8_t buf[256], *exact;
	size_t n = make_key(buf, "a/b", "value", 5);
	struct file_key k;
	const char *why;

	for (size_t len = 0; len < n; len++) {
		/* Of its exact size, so that a sanitizer sees any look beyond. */
		exact = malloc(len + 1);
		memcpy(exact, buf, len);
		assert_int_equal(file_key_parse(exact, len, len, &k, &why), -EBADMSG);
		free(exact);
	}
	for (size_t bit = 0; bit < n * 8; bit++) {
		buf[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(file_key_parse(buf, n, n, &k, &why), -EBADMSG);
		assert_true(strlen(why) > 5);
		buf[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	assert_int_equal(file_key_parse(buf, n, n + 1, &k, &why), -EBADMSG);
	assert_int_equal(file_key_parse(buf, n, UINT64_MAX, &k, &why), -EBADMSG);
}

static void lease(void **state)
{
	struct file_lease l = {.id = 9, .ttl_ns = 5 * MC_SEC, .counter = 3}, m;
	uint8_t buf[FILE_LEASE_SIZE];

	file_self_init(&l.holder);
	file_lease_encode(buf, &l);
	assert_int_equal(file_lease_parse(buf, sizeof buf, &m), 0);
	assert_int_equal(m.id, 9);
	assert_int_equal(m.ttl_ns, 5 * MC_SEC);
	assert_int_equal(m.counter, 3);
	assert_int_equal(m.ended, 0);
	assert_int_equal(m.holder.pid, getpid());
	assert_int_equal(m.holder.start, l.holder.start);
	assert_string_equal(m.holder.host, l.holder.host);
	for (size_t len = 0; len < sizeof buf; len++)
		assert_int_equal(file_lease_parse(buf, len, &m), -EBADMSG);
	for (size_t bit = 0; bit < sizeof buf * 8; bit++) {
		bool may_change = bit / 8 >= FILE_LEASE_COUNTER && bit / 8 < FILE_LEASE_ENDED + 8;

		buf[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(file_lease_parse(buf, sizeof buf, &m), may_change ? 0 : -EBADMSG);
		buf[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(key_good),
		cmocka_unit_test(key_bad),
		cmocka_unit_test(lease),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
