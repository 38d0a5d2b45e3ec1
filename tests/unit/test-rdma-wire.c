/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rdma wire: bytes of a handshake message and of a buffer's keys as docs/wire.md draws them, what
 * must be refused, and which key and how many bytes an address stands for.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "transports/shared/verbs/rdma.h"

static struct rdma_hello example(uint8_t msg, uint32_t nr_qps, uint32_t nr_gids)
{
	struct rdma_hello h = {
		.msg = msg, .round = 0x01020304, .attempt = 3, .nr_attempts = 6, .own = 1, .far = 2, .mtu = 4096,
		.relaxed = true, .rd_atomic = 16, .scratch = UINT64_C(0x1122334455667788), .scratch_rkey = 0xaabbccdd,
		.nr_qps = nr_qps, .port = { .lid = 0x0a0b, .mtu = 2048, .nr_gids = nr_gids },
	};

	for (uint32_t i = 0; i < nr_qps; i++) {
		h.qpns[i] = 0x100000 + i;
		h.psns[i] = 0xabc000 + i;
	}
	for (uint32_t i = 0; i < nr_gids; i++) {
		memset(h.port.gids[i].raw, (int)(i + 1), 16);
		h.port.gids[i].type = (uint8_t)(i % 3);
		h.port.gids[i].prefix = (uint8_t)(64 + i % 65);
		h.port.gids[i].index = (uint16_t)(1000 + i);
	}
	return h;
}

static void test_hello_layout(void **state)
{
	static const uint8_t head[52] = {
		1, RDMA_MSG_ACCEPT, 0x0b, 0x0a, 4, 3, 2, 1, 0, 0, 0, 0, 3, 0, 0, 0, 6, 0, 0, 0, 1, 2, 2, 1,
		0, 0x10, 0, 0, 16, 0, 0, 0, 0, 8, 0, 0, 0xdd, 0xcc, 0xbb, 0xaa,
		0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 1, 0, 0, 0,
	};
	static const uint8_t qp[8] = { 0, 0, 0x10, 0, 0, 0xc0, 0xab, 0 };
	static const uint8_t gid[20] = { 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 64, 0xe8, 3 };
	struct rdma_hello h = example(RDMA_MSG_ACCEPT, 1, 1);
	uint8_t buf[RDMA_HELLO_MAX];

	assert_int_equal(rdma_hello_encode(&h, buf, sizeof buf), 80);
	assert_memory_equal(buf, head, sizeof head);
	assert_memory_equal(buf + 52, qp, sizeof qp);
	assert_memory_equal(buf + 60, gid, sizeof gid);
}

/* What came out is what went in. */
static void test_hello_again(void **state)
{
	uint8_t buf[RDMA_HELLO_MAX], second[RDMA_HELLO_MAX];
	struct rdma_hello back;

	for (uint8_t msg = RDMA_MSG_HELLO; msg <= RDMA_MSG_PARK; msg++) {
		struct rdma_hello h = example(msg, RDMA_QPS_MAX, RDMA_GIDS_MAX);
		size_t len;

		memset(h.why, 'w', sizeof h.why - 1);
		len = rdma_hello_encode(&h, buf, sizeof buf);
		assert_true(len <= RDMA_HELLO_MAX && len <= MC_PEER_MSG_MAX);
		assert_int_equal(rdma_hello_decode(buf, len, &back), 0);
		assert_int_equal(back.nr_qps, RDMA_QPS_MAX);
		assert_int_equal(back.port.nr_gids, RDMA_GIDS_MAX);
		assert_string_equal(back.why, h.why);
		assert_int_equal(rdma_hello_encode(&back, second, sizeof second), len);
		assert_memory_equal(buf, second, len);
	}
}

/* A byte of a good message is changed, or its length. */
static int decode_changed(size_t at, uint8_t byte, int longer)
{
	struct rdma_hello h = example(RDMA_MSG_HELLO, 2, 2), back;
	uint8_t buf[RDMA_HELLO_MAX] = { 0 };
	size_t len = rdma_hello_encode(&h, buf, sizeof buf);

	if (at < len)
		buf[at] = byte;
	return rdma_hello_decode(buf, (size_t)((int)len + longer), &back);
}

static void test_hello_refused(void **state)
{
	static const struct {
		size_t at;
		uint8_t byte;
	} bad[] = {
		{ 0, 0 }, { 0, 2 },               /* version */
		{ 1, 0 }, { 1, 6 },               /* message */
		{ 23, 0 }, { 23, 3 }, { 23, 17 }, /* queue pairs */
		{ 48, 1 }, { 48, 3 }, { 48, 65 }, { 49, 1 },
		{ 50, 1 }, { 50, 192 }, { 51, 1 },
		{ 25, 0 }, { 25, 0x0c }, { 26, 1 }, /* MTU 0, 3072, 69632 */
		{ 33, 0 },                        /* of the port */
		{ 28, 0 },                        /* no reads */
		{ 52 + 16 + 16, 3 },              /* type of a GID */
		{ 52 + 16 + 17, 129 },            /* its prefix */
	};

	assert_int_equal(decode_changed(1000, 0, 0), 0);
	assert_int_equal(decode_changed(1000, 0, 1), -EPROTO);
	assert_int_equal(decode_changed(1000, 0, -1), -EPROTO);
	assert_int_equal(decode_changed(1000, 0, -60), -EPROTO);
	for (size_t i = 0; i < MC_ARRAY_SIZE(bad); i++) {
		if (decode_changed(bad[i].at, bad[i].byte, 0) == 0)
			fail_msg("byte %zu may be %u", bad[i].at, bad[i].byte);
	}
}

/* A stranger's sentence goes to a log. */
static void test_why_is_clean(void **state)
{
	struct rdma_hello h = { .msg = RDMA_MSG_REFUSE, .why = "no\x1b[2J\nroute\x80!" }, back;
	uint8_t buf[RDMA_HELLO_MAX];
	size_t len = rdma_hello_encode(&h, buf, sizeof buf);

	assert_int_equal(rdma_hello_decode(buf, len, &back), 0);
	assert_string_equal(back.why, "no?[2J?route?!");
}

static void test_keys_layout(void **state)
{
	static const uint8_t want[40] = {
		1, 1, 2, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0x18, 0, 0, 0, 0, 0, 0,
		0, 0x10, 0, 0, 0, 0, 0, 0, 4, 3, 2, 1, 8, 7, 6, 5,
	};
	struct rdma_keys k = { .base = 0x1000, .len = 0x1800, .chunk = 0x1000, .nr = 2, .relaxed = true,
			       .rkeys = { 0x01020304, 0x05060708 } }, back;
	uint8_t buf[64];

	assert_int_equal(rdma_keys_encode(&k, buf, 39), 0);
	assert_int_equal(rdma_keys_encode(&k, buf, sizeof buf), sizeof want);
	assert_memory_equal(buf, want, sizeof want);
	assert_int_equal(rdma_keys_decode(buf, sizeof want, &back), 0);
	assert_int_equal(back.rkeys[1], 0x05060708);
	assert_true(back.relaxed);
}

static void test_keys_most(void **state)
{
	struct rdma_keys k = { .base = 1, .len = RDMA_CHUNKS_MAX * 10, .chunk = 10, .nr = RDMA_CHUNKS_MAX }, back;
	uint8_t buf[MC_EXPORT_BLOB_MAX];
	size_t len = rdma_keys_encode(&k, buf, sizeof buf);

	assert_true(len > 0);
	assert_int_equal(rdma_keys_decode(buf, len, &back), 0);
}

static int decode_keys(uint64_t base, uint64_t len, uint64_t chunk, uint32_t nr)
{
	struct rdma_keys k = { .base = base, .len = len, .chunk = chunk, .nr = nr }, back;
	uint8_t buf[MC_EXPORT_BLOB_MAX];
	size_t n = rdma_keys_encode(&k, buf, sizeof buf);

	return rdma_keys_decode(buf, n, &back);
}

static void test_keys_refused(void **state)
{
	uint8_t buf[MC_EXPORT_BLOB_MAX] = { 0 };
	struct rdma_keys k = { .base = 4096, .len = 100, .chunk = 100, .nr = 1 }, back;
	size_t len = rdma_keys_encode(&k, buf, sizeof buf);

	assert_int_equal(decode_keys(4096, 100, 100, 1), 0);
	assert_int_equal(decode_keys(4096, 100, 50, 2), 0);
	assert_int_equal(decode_keys(4096, 101, 50, 3), 0);
	assert_int_equal(decode_keys(4096, 0, 100, 1), -EPROTO);
	assert_int_equal(decode_keys(4096, 100, 0, 1), -EPROTO);
	assert_int_equal(decode_keys(4096, 100, 50, 1), -EPROTO);
	assert_int_equal(decode_keys(4096, 100, 50, 3), -EPROTO);
	assert_int_equal(decode_keys(4096, 100, 50, 0), -EPROTO);
	assert_int_equal(decode_keys(UINT64_MAX - 50, 100, 100, 1), -EPROTO);
	for (size_t n = 0; n < len; n++)
		assert_int_equal(rdma_keys_decode(buf, n, &back), -EPROTO);
	assert_int_equal(rdma_keys_decode(buf, len + 4, &back), -EPROTO);
	buf[0] = 9;
	assert_int_equal(rdma_keys_decode(buf, len, &back), -EPROTO);
	memset(buf, 0xff, sizeof buf);
	assert_int_equal(rdma_keys_decode(buf, sizeof buf, &back), -EPROTO);
}

/* ---- chunks ------------------------------------------------------------------------------------------- */

static void test_chunk_left(void **state)
{
	assert_int_equal(rdma_chunk_left(1000, 250, 100, 1000), 100);
	assert_int_equal(rdma_chunk_left(1000, 250, 100, 1099), 1);
	assert_int_equal(rdma_chunk_left(1000, 250, 100, 1100), 100);
	assert_int_equal(rdma_chunk_left(1000, 250, 100, 1200), 50);
	assert_int_equal(rdma_chunk_left(1000, 250, 100, 1249), 1);
	assert_int_equal(rdma_chunk_left(1000, 200, 100, 1199), 1);
	assert_int_equal(rdma_chunk_left(0, UINT64_C(1) << 63, UINT64_C(1) << 62, UINT64_C(1) << 62),
			 UINT64_C(1) << 62);
}

static void test_key_of(void **state)
{
	struct ibv_mr mrs[3] = { { .lkey = 10 }, { .lkey = 11 }, { .lkey = 12 } };
	struct ibv_mr *list[3] = { &mrs[0], &mrs[1], &mrs[2] };
	struct rdma_region region = { .base = 1000, .len = 250, .chunk = 100, .nr = 3, .mrs = list };
	uint32_t rkeys[3] = { 20, 21, 22 };
	struct rdma_remote remote = { .base = 1000, .len = 250, .chunk = 100, .nr = 3, .rkeys = rkeys };

	for (uint64_t at = 0; at < 250; at++) {
		assert_int_equal(rdma_lkey(&region, 1000 + at), 10 + at / 100);
		assert_int_equal(rdma_rkey(&remote, 1000 + at), 20 + at / 100);
	}
	region = (struct rdma_region){ .base = 1000, .len = 100, .chunk = 100, .nr = 1, .one = &mrs[2] };
	remote = (struct rdma_remote){ .base = 1000, .len = 100, .chunk = 100, .nr = 1, .one = 7 };
	assert_int_equal(rdma_lkey(&region, 1099), 12);
	assert_int_equal(rdma_rkey(&remote, 1099), 7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hello_layout), cmocka_unit_test(test_hello_again),
		cmocka_unit_test(test_hello_refused), cmocka_unit_test(test_why_is_clean),
		cmocka_unit_test(test_keys_layout), cmocka_unit_test(test_keys_most),
		cmocka_unit_test(test_keys_refused), cmocka_unit_test(test_chunk_left),
		cmocka_unit_test(test_key_of),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
