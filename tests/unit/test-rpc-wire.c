/* SPDX-License-Identifier: Apache-2.0 */
/* Heads of rpc frames: what is written is read, and nothing else is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "core/rpc_wire.h"
#include "core/util/check.h"

static const struct mc_rpc_head request = {
	.type = MC_RPC_REQUEST, .name_len = 5, .len = 0x10203, .id = UINT64_C(0x1122334455667788),
	.method = 0xa1b2c3d4, .reply_len = 0x100000, .timeout_ns = UINT64_C(0x99aabbccddeeff00),
};

static void test_layout(void **state)
{
	static const uint8_t expect[32] = {1, 1, 5, 0, 3, 2, 1, 0, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33,
					   0x22, 0x11, 0xd4, 0xc3, 0xb2, 0xa1, 0, 0, 0x10, 0, 0, 0xff,
					   0xee, 0xdd, 0xcc, 0xbb, 0xaa, 0x99};
	uint8_t wire[32];

	mc_rpc_head_put(wire, &request);
	assert_memory_equal(wire, expect, sizeof wire);
}

static void round_trip(const struct mc_rpc_head *h)
{
	uint8_t wire[MC_RPC_HEAD_LEN];
	struct mc_rpc_head got;
	const char *why = NULL;

	mc_rpc_head_put(wire, h);
	assert_int_equal(mc_rpc_head_get(wire, &got, &why), 0);
	assert_int_equal(got.type, h->type);
	assert_int_equal(got.name_len, h->name_len);
	assert_int_equal(got.len, h->len);
	assert_int_equal(got.id, h->id);
	assert_int_equal(got.method, h->method);
	assert_int_equal(got.status, h->status);
	assert_int_equal(got.reply_len, h->reply_len);
	assert_int_equal(got.timeout_ns, h->timeout_ns);
}

static void test_round_trip(void **state)
{
	const struct mc_rpc_head heads[] = {
		request,
		{.type = MC_RPC_REPLY, .id = 7, .status = -ENOENT},
		{.type = MC_RPC_REPLY, .id = UINT64_MAX, .len = MC_RPC_MESSAGE_MAX,
		 .reply_len = MC_RPC_MESSAGE_MAX},
		{.type = MC_RPC_REPLY, .status = -EMSGSIZE, .reply_len = 5},
		{.type = MC_RPC_PING},
		{.type = MC_RPC_PONG},
	};

	for (size_t i = 0; i < MC_ARRAY_SIZE(heads); i++)
		round_trip(&heads[i]);
}

static void refused(const struct mc_rpc_head *h, size_t at, uint8_t byte, int r)
{
	uint8_t wire[MC_RPC_HEAD_LEN];
	struct mc_rpc_head got = {.id = 42};
	const char *why = NULL;

	mc_rpc_head_put(wire, h);
	if (at < sizeof wire)
		wire[at] = byte;
	assert_int_equal(mc_rpc_head_get(wire, &got, &why), r);
	assert_non_null(why);
	assert_int_equal(got.id, 42); /* written only on success */
}

static void test_refused(void **state)
{
	const struct mc_rpc_head reply = {.type = MC_RPC_REPLY, .len = 4, .reply_len = 4};
	const struct mc_rpc_head done = {.type = MC_RPC_REPLY};
	const struct mc_rpc_head ping = {.type = MC_RPC_PING};

	refused(&request, 0, 0, -EPROTONOSUPPORT);
	refused(&request, 0, 2, -EPROTONOSUPPORT);
	refused(&request, 1, 0, -EPROTO);
	refused(&request, 1, 5, -EPROTO);
	refused(&request, 2, 0, -EPROTO);  /* no name */
	refused(&request, 2, 64, -EPROTO); /* a name too long */
	refused(&request, 3, 1, -EPROTO);  /* reserved */
	refused(&request, 6, 0x11, -EPROTO); /* more than 1 MiB */
	refused(&request, 7, 0x80, -EPROTO);
	refused(&reply, 2, 1, -EPROTO);
	refused(&reply, 16, 1, -EPROTO);   /* a positive status */
	refused(&reply, 19, 0x80, -EPROTO); /* INT32_MIN + ... */
	refused(&reply, 20, 5, -EPROTO);   /* two lengths */
	refused(&done, 20, 5, -EPROTO);    /* cut, and says it is not */
	refused(&ping, 2, 1, -EPROTO);
	refused(&ping, 4, 1, -EPROTO);
}

static void test_names(void **state)
{
	char longest[65];

	memset(longest, 'a', sizeof longest);
	assert_true(mc_rpc_name_ok("store.meta-1_x", 14));
	assert_true(mc_rpc_name_ok(longest, 63));
	assert_false(mc_rpc_name_ok(longest, 64));
	assert_false(mc_rpc_name_ok("", 0));
	assert_false(mc_rpc_name_ok("Store", 5));
	assert_false(mc_rpc_name_ok("a/b", 3));
	assert_false(mc_rpc_name_ok("a\0b", 3));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_layout),
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
