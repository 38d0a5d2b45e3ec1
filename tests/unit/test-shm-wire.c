/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shm wire: bytes of messages and of a buffer's blob as docs/wire.md draws them, what must be
 * refused, and the texts of /proc that say who a process is.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "transports/shm/shm_wire.h"

static struct shm_msg hello(void)
{
	struct shm_msg m = {.type = SHM_HELLO,
			    .hello = {.pid = 0x01020304,
				      .pid_ns = UINT64_C(0x1112131415161718),
				      .start = UINT64_C(0x2122232425262728),
				      .probe_addr = UINT64_C(0x3132333435363738),
				      .slot = 0x4142,
				      .key = UINT64_C(0x5152535455565758)}};

	for (uint8_t i = 0; i < 16; i++) {
		m.hello.boot[i] = (uint8_t)(0x60 + i);
		m.hello.probe[i] = (uint8_t)(0x70 + i);
	}
	return m;
}

static void test_hello(void **state)
{
	static const uint8_t want[SHM_MSG_SIZE] = {
		'M', 'S', 'H', 'M', 1, 0, 1, 0, 4, 3, 2, 1, 0x42, 0x41, 0, 0,
		0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d, 0x6e, 0x6f,
		0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11, 0x28, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x21,
		0x38, 0x37, 0x36, 0x35, 0x34, 0x33, 0x32, 0x31,
		0x70, 0x71, 0x72, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x7b, 0x7c, 0x7d, 0x7e, 0x7f,
		0x58, 0x57, 0x56, 0x55, 0x54, 0x53, 0x52, 0x51,
	};
	struct shm_msg m = hello(), back;
	uint8_t buf[SHM_MSG_SIZE];

	shm_msg_encode(&m, buf);
	assert_memory_equal(buf, want, sizeof want);
	assert_int_equal(shm_msg_decode(buf, &back), 0);
	assert_int_equal(back.type, SHM_HELLO);
	assert_memory_equal(&back.hello, &m.hello, sizeof m.hello);
}

static void test_want_give(void **state)
{
	struct shm_msg want = {.type = SHM_WANT, .want = {.cookie = 7, .slot = SHM_SLOTS - 1, .key = 9}}, back;
	struct shm_msg give = {.type = SHM_GIVE,
			       .give = {.cookie = 8, .offset = 4096, .len = INT64_MAX - 4096, .status = -ENOENT}};
	uint8_t buf[SHM_MSG_SIZE];

	shm_msg_encode(&want, buf);
	assert_int_equal(buf[8], 7);
	assert_int_equal(buf[16], 9);
	assert_int_equal(buf[24], 0xff);
	assert_int_equal(shm_msg_decode(buf, &back), 0);
	assert_int_equal(back.want.slot, SHM_SLOTS - 1);
	shm_msg_encode(&give, buf);
	assert_int_equal(buf[32], ENOENT);
	assert_int_equal(shm_msg_decode(buf, &back), 0);
	assert_int_equal(back.give.status, -ENOENT);
	assert_int_equal(back.give.len, INT64_MAX - 4096);
}

static void refuse(const struct shm_msg *m, size_t at, uint8_t value)
{
	struct shm_msg back;
	uint8_t buf[SHM_MSG_SIZE];

	shm_msg_encode(m, buf);
	assert_int_equal(shm_msg_decode(buf, &back), 0);
	buf[at] = value;
	assert_int_equal(shm_msg_decode(buf, &back), -EPROTO);
}

static void test_refused(void **state)
{
	struct shm_msg want = {.type = SHM_WANT, .want = {.cookie = 7, .slot = 1, .key = 9}};
	struct shm_msg give = {.type = SHM_GIVE, .give = {.cookie = 8, .offset = 4096, .len = INT64_MAX - 4096}};
	struct shm_msg m = hello();

	refuse(&m, 0, 'm');
	refuse(&m, 4, 2);        /* another version */
	refuse(&m, 6, 4);        /* no such type */
	refuse(&m, 11, 0x80);    /* no pid */
	refuse(&m, 14, 1);       /* no slot of a table */
	refuse(&m, 95, 1);       /* behind what is used */
	refuse(&want, 16, 0);    /* a key is never 0 */
	refuse(&want, 28, 1);
	refuse(&give, 23, 0x80); /* an offset that no file has */
	refuse(&give, 18, 1);    /* an end that none has */
	refuse(&give, 34, 1);    /* no errno */
}

static void test_blob(void **state)
{
	static const uint8_t want[SHM_BLOB_SIZE] = {1, 1, 0, 0, 0xff, 0xff, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1};
	struct shm_blob b = {.slot = SHM_SLOTS - 1, .key = UINT64_C(0x0102030405060708), .flags = SHM_BLOB_MAPPED};
	uint8_t buf[SHM_BLOB_SIZE + 1] = {0};
	struct shm_blob back;

	shm_blob_encode(&b, buf);
	assert_memory_equal(buf, want, sizeof want);
	for (size_t len = 0; len <= sizeof buf; len++)
		assert_int_equal(shm_blob_decode(buf, len, &back), len == SHM_BLOB_SIZE ? 0 : -EPROTO);
	assert_int_equal(shm_blob_decode(NULL, 0, &back), -EPROTO);
	assert_int_equal(shm_blob_decode(buf, SHM_BLOB_SIZE, &back), 0);
	assert_true(back.slot == b.slot && back.key == b.key && back.flags == b.flags);
	buf[6] = 1; /* beyond the table */
	assert_int_equal(shm_blob_decode(buf, SHM_BLOB_SIZE, &back), -EPROTO);
	buf[6] = 0;
	buf[1] = 2; /* a flag that nobody knows */
	assert_int_equal(shm_blob_decode(buf, SHM_BLOB_SIZE, &back), -EPROTO);
}

static void test_uuid(void **state)
{
	static const char *const bad[] = {"", "\n", "3a0c1b5e", "3a0c1b5e-0102-0304-0506-0708090a0b0", "-",
					  "3a0c1b5e-0102-0304-0506-0708090a0b0c0", "3a0c1b5e--0102-0304-0506-0708090a0b0c",
					  "3A0c1b5e-0102-0304-0506-0708090a0b0c", "3a0c1b5e-0102-0304-0506-0708090a0b0c x"};
	uint8_t uuid[16];

	assert_int_equal(shm_uuid_parse("3a0c1b5e-0102-0304-0506-0708090a0b0c\n", uuid), 0);
	assert_memory_equal(uuid, "\x3a\x0c\x1b\x5e\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c", 16);
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		assert_int_equal(shm_uuid_parse(bad[i], uuid), -EINVAL);
}

static void test_stat(void **state)
{
	static const char *const bad[] = {"", "1", "1 (x)", "1 (x) S 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19",
					  "1 (x) S 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 -20 21",
					  "1 (x) S 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 99999999999999999999 21"};
	uint64_t start = 0;

	assert_int_equal(shm_stat_parse("12 (a) b (c) d) S 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 4711 21 22\n", &start), 0);
	assert_int_equal(start, 4711);
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		assert_int_equal(shm_stat_parse(bad[i], &start), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hello), cmocka_unit_test(test_want_give), cmocka_unit_test(test_refused),
		cmocka_unit_test(test_blob),  cmocka_unit_test(test_uuid),	cmocka_unit_test(test_stat),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
