/* SPDX-License-Identifier: Apache-2.0 */
/* The messages of remote staging: to bytes and back, and everything that is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/util/bytes.h"
#include "stage_wire.h"

static uint8_t blob[MC_EXPORT_BLOB_MAX];

/* Parse a copy without slack behind it, so that a read past the end is seen. */
static int parse(uint16_t type, int status, const uint8_t *body, size_t len, struct mc_stage_msg *ret)
{
	uint8_t *copy = malloc(len ? len : 1);
	int r;

	assert_non_null(copy);
	memcpy(copy, body, len);
	r = mc_stage_parse(type, status, copy, len, ret);
	ret->blob = NULL;
	free(copy);
	return r;
}

static const struct mc_stage_msg a_request = {
	.tag = 7, .generation = 0x1122334455667788, .offset = 4096, .len = 1, .opcode = 1};
static const struct mc_stage_msg a_grant = {
	.tag = 9, .addr = 0x7000, .len = 0x1000, .base = 0x4000, .region_len = 0x4000,
	.pool = MC_STAGE_POOL_BIT | 5, .blob = blob, .blob_len = 48};

static void test_round_trip(void **state)
{
	static const struct {
		uint16_t type;
		const struct mc_stage_msg *msg;
		size_t len;
	} cases[] = {
		{MC_MSG_STAGE_REQUEST, &a_request, 40}, {MC_MSG_STAGE_GRANT, &a_grant, 96},
		{MC_MSG_STAGE_COMMIT, &a_request, 8},	{MC_MSG_STAGE_ACK, &a_request, 8},
		{MC_MSG_STAGE_RELEASE, &a_request, 8},	{MC_MSG_STAGE_ABORT, &a_request, 8},
		{MC_MSG_STAGE_ABORTED, &a_request, 8},
	};

	for (size_t i = 0; i < sizeof blob; i++)
		blob[i] = (uint8_t)i;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		uint8_t body[MC_STAGE_MSG_MAX];
		struct mc_stage_msg got = {0};
		size_t len = mc_stage_put(cases[i].type, cases[i].msg, body);

		assert_int_equal(len, cases[i].len);
		assert_int_equal(parse(cases[i].type, 0, body, len, &got), 0);
		assert_int_equal(got.tag, cases[i].msg->tag);
		/* One byte less or more is another message. */
		assert_int_equal(parse(cases[i].type, 0, body, len - 1, &got), -EBADMSG);
		body[len] = 0;
		assert_int_equal(parse(cases[i].type, 0, body, len + 1, &got), -EBADMSG);
	}
}

static void test_fields(void **state)
{
	uint8_t body[MC_STAGE_MSG_MAX];
	struct mc_stage_msg got;
	size_t len = mc_stage_put(MC_MSG_STAGE_REQUEST, &a_request, body);

	assert_int_equal(mc_stage_parse(MC_MSG_STAGE_REQUEST, 0, body, len, &got), 0);
	assert_true(got.generation == a_request.generation && got.offset == 4096 && got.len == 1 &&
		    got.opcode == 1);
	len = mc_stage_put(MC_MSG_STAGE_GRANT, &a_grant, body);
	assert_int_equal(mc_stage_parse(MC_MSG_STAGE_GRANT, 0, body, len, &got), 0);
	assert_true(got.addr == 0x7000 && got.len == 0x1000 && got.base == 0x4000 &&
		    got.region_len == 0x4000 && got.pool == a_grant.pool && got.blob_len == 48);
	assert_memory_equal(got.blob, blob, 48);
}

/* Change one field of a good message; it must be refused. */
static void refused(uint16_t type, const struct mc_stage_msg *msg, size_t at, size_t size, uint64_t value)
{
	uint8_t body[MC_STAGE_MSG_MAX];
	struct mc_stage_msg got;
	size_t len = mc_stage_put(type, msg, body);

	for (size_t i = 0; i < size; i++)
		body[at + i] = (uint8_t)(value >> 8 * i);
	assert_int_equal(parse(type, 0, body, len, &got), -EBADMSG);
}

static void test_refused_requests(void **state)
{
	refused(MC_MSG_STAGE_REQUEST, &a_request, 24, 8, 0);          /* no bytes */
	refused(MC_MSG_STAGE_REQUEST, &a_request, 24, 8, UINT64_MAX); /* past the end of all addresses */
	refused(MC_MSG_STAGE_REQUEST, &a_request, 32, 1, 2);          /* no such opcode */
	for (size_t i = 33; i < 40; i++)
		refused(MC_MSG_STAGE_REQUEST, &a_request, i, 1, 1);
}

static void test_refused_grants(void **state)
{
	refused(MC_MSG_STAGE_GRANT, &a_grant, 8, 8, 0x3fff);      /* before the registration */
	refused(MC_MSG_STAGE_GRANT, &a_grant, 8, 8, 0x7001);      /* ends behind it */
	refused(MC_MSG_STAGE_GRANT, &a_grant, 8, 8, UINT64_MAX);
	refused(MC_MSG_STAGE_GRANT, &a_grant, 16, 8, 0);
	refused(MC_MSG_STAGE_GRANT, &a_grant, 16, 8, UINT64_MAX);
	refused(MC_MSG_STAGE_GRANT, &a_grant, 32, 8, UINT64_MAX); /* wraps */
	refused(MC_MSG_STAGE_GRANT, &a_grant, 40, 4, 5);          /* could be a buffer's id */
	refused(MC_MSG_STAGE_GRANT, &a_grant, 44, 2, 513);
	refused(MC_MSG_STAGE_GRANT, &a_grant, 44, 2, 47);
	refused(MC_MSG_STAGE_GRANT, &a_grant, 44, 2, 65535);
}

/* A refusing grant has no place, and needs none. */
static void test_grant_says_no(void **state)
{
	uint8_t body[MC_STAGE_MSG_MAX];
	struct mc_stage_msg got = {0}, no = {.tag = 3};
	size_t len = mc_stage_put(MC_MSG_STAGE_GRANT, &no, body);

	assert_int_equal(parse(MC_MSG_STAGE_GRANT, -EACCES, body, len, &got), 0);
	assert_int_equal(got.tag, 3);
	assert_int_equal(parse(MC_MSG_STAGE_GRANT, 0, body, len, &got), -EBADMSG);
}

static void test_types(void **state)
{
	uint8_t body[8] = {1};
	struct mc_stage_msg got;
	unsigned active = 0;

	assert_int_equal(parse(MC_MSG_STAGE_END, 0, body, 8, &got), -EBADMSG);
	assert_int_equal(parse(MC_MSG_STAGE_FIRST - 1, 0, body, 8, &got), -EBADMSG);
	assert_int_equal(parse(MC_MSG_STAGE_ACK, 0, body, 0, &got), -EBADMSG);
	for (uint16_t t = MC_MSG_STAGE_REQUEST; t < MC_MSG_STAGE_END; t++)
		active += mc_stage_from_active(t);
	assert_int_equal(active, 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),	 cmocka_unit_test(test_fields),
		cmocka_unit_test(test_refused_requests), cmocka_unit_test(test_refused_grants),
		cmocka_unit_test(test_grant_says_no),	 cmocka_unit_test(test_types),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
