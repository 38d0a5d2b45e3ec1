/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tcp wire: bytes of each frame as docs/wire.md draws them, and every head that
 * must be refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "transports/tcp/tcp_wire.h"

static void test_layout(void **state)
{
	static const uint8_t head[16] = { 0x43, 0x54, 1, TCP_FRAME_READ, 2, 1, 0, 0,
					  8,	7,    6, 5,		 4, 3, 2, 1 };
	static const uint8_t request[16] = { 8,	  7,   6,   5,	 4, 3, 2, 1,
					     0xd, 0xc, 0xb, 0xa, 4, 3, 2, 1 };
	static const uint8_t data[16] = { 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0 };
	uint8_t buf[16];

	(void)state;
	tcp_head_put(buf, TCP_FRAME_READ, 0x0102, UINT64_C(0x0102030405060708));
	assert_memory_equal(buf, head, 16);
	tcp_request_put(buf, UINT64_C(0x0102030405060708), 0x0a0b0c0d, 0x01020304);
	assert_memory_equal(buf, request, 16);
	assert_int_equal(tcp_request_get(buf).offset, UINT64_C(0x0102030405060708));
	assert_int_equal(tcp_request_get(buf).len, 0x0a0b0c0d);
	assert_int_equal(tcp_request_get(buf).tag, 0x01020304);
	tcp_ack_put(buf, 9, TCP_STATUS_ACCESS);
	assert_int_equal(tcp_ack_get(buf).tag, 9);
	assert_int_equal(tcp_ack_get(buf).status, TCP_STATUS_ACCESS);
	tcp_data_put(buf, 1, 2, 3);
	assert_memory_equal(buf, data, 16);
	assert_int_equal(tcp_data_get(buf).len, 3);
}

static int check(enum tcp_frame type, uint32_t nr, int passive)
{
	const char *why = NULL;
	uint8_t buf[16];
	int r;

	tcp_head_put(buf, type, nr, 1);
	r = tcp_head_check(buf, passive, &why);
	assert_non_null(why);
	return r;
}

static void test_sizes(void **state)
{
	(void)state;
	assert_int_equal(check(TCP_FRAME_WRITE, 1, 1), 16);
	assert_int_equal(check(TCP_FRAME_READ, 256, 1), 4096);
	assert_int_equal(check(TCP_FRAME_ACK, 3, 0), 24);
	assert_int_equal(check(TCP_FRAME_DATA, 256, 0), 4096);
	assert_true(MC_TCP_FRAME_MAX >= 16 + 4096);
}

static void test_refused(void **state)
{
	const char *why;
	uint8_t buf[16];

	(void)state;
	assert_int_equal(check(TCP_FRAME_WRITE, 1, 0), -EPROTO);
	assert_int_equal(check(TCP_FRAME_READ, 1, 0), -EPROTO);
	assert_int_equal(check(TCP_FRAME_ACK, 1, 1), -EPROTO);
	assert_int_equal(check(TCP_FRAME_DATA, 1, 1), -EPROTO);
	assert_int_equal(check(0, 1, 1), -EPROTO);
	assert_int_equal(check(5, 1, 0), -EPROTO);
	assert_int_equal(check(TCP_FRAME_WRITE, 0, 1), -EPROTO);
	assert_int_equal(check(TCP_FRAME_WRITE, 257, 1), -EPROTO);
	assert_int_equal(check(TCP_FRAME_WRITE, 65535, 1), -EPROTO);
	/* Magic, version and the reserved field, each with one bit wrong. */
	for (int i = 0; i < 8; i++) {
		if (i == 3 || i == 4 || i == 5)
			continue;
		tcp_head_put(buf, TCP_FRAME_WRITE, 1, 1);
		buf[i] ^= 0x10;
		assert_int_equal(tcp_head_check(buf, 1, &why), -EPROTO);
	}
}

static void test_status(void **state)
{
	static const int errnos[] = { 0, -ESTALE, -EACCES, -EIO };

	(void)state;
	for (int i = 0; i < 4; i++)
		assert_int_equal(tcp_status_errno(tcp_status_of(errnos[i])), errnos[i]);
	assert_int_equal(tcp_status_errno(tcp_status_of(-ENOMEM)), -EIO);
	assert_int_equal(tcp_status_errno(77), -EIO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_layout),
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_status),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
