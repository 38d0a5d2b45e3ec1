/* SPDX-License-Identifier: Apache-2.0 */
/* The preamble, its answer and control frames: what is written is read, what is broken is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "session_wire.h"
#include "stream_wire.h"
#include "core/util/bytes.h"

static void test_preamble(void **state)
{
	struct mc_stream_hello h = {.kind = MC_STREAM_DATA, .session_id = 1, .from_generation = 2,
				    .to_generation = 3, .rail_id = 4, .lane = 5, .epoch = 6,
				    .token = 7, .admission = 1, .from = "node1"}, got;
	uint8_t buf[MC_PREAMBLE_MAX];
	size_t len = mc_preamble_encode(&h, buf);

	assert_memory_equal(buf, "mooncake", 8);
	assert_true(mc_get64(buf) > UINT64_C(1) << 56);
	assert_int_equal(mc_stream_sniff(buf), MC_SPEAKER_MOONCAKE);
	assert_int_equal(mc_preamble_length(buf), len);
	assert_int_equal(mc_preamble_decode(buf, len, &got), 0);
	assert_memory_equal(&got, &h, sizeof h);
	for (size_t cut = 0; cut < len; cut++)
		assert_int_equal(mc_preamble_decode(buf, cut, &got), -EBADMSG);
	/* A later version appends; an unknown range of versions is told. */
	mc_put16(buf + 12, (uint16_t)(len + 8));
	assert_int_equal(mc_preamble_decode(buf, len + 8, &got), 0);
	mc_put16(buf + 8, 9);
	mc_put16(buf + 10, 9);
	assert_int_equal(mc_preamble_decode(buf, len + 8, &got), -EPROTONOSUPPORT);
	mc_put16(buf + 10, 8);
	assert_int_equal(mc_preamble_decode(buf, len + 8, &got), -EBADMSG);
	mc_put16(buf + 12, 65535);
	assert_int_equal(mc_preamble_length(buf), -EBADMSG);
	mc_preamble_encode(&h, buf);
	buf[MC_PREAMBLE_FIXED + 1] = 0;
	assert_int_equal(mc_preamble_decode(buf, len, &got), -EBADMSG);
}

static void test_speakers(void **state)
{
	static const char *const http[] = {"GET / HTTP", "GET /met", "HEAD / H", "POST / H", "PUT /a H",
					   "DELETE /", "OPTIONS ", "PATCH /a", "TRACE / ", "CONNECT "};
	static const char *const others[] = {"get / HTTP", "GETX / H", "GET\t/ HT", " GET / H", "HEADS / ",
					     "OPTIONSX", "PRI * HT", "\x16\x03\x01\x02\x01\x01\xfc\x03",
					     "SSH-2.0-", "mooncakf"};

	for (size_t i = 0; i < sizeof http / sizeof http[0]; i++)
		assert_int_equal(mc_stream_sniff((const uint8_t *)http[i]), MC_SPEAKER_HTTP);
	for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
		assert_int_equal(mc_stream_sniff((const uint8_t *)others[i]), MC_SPEAKER_UNKNOWN);
}

static void test_answer(void **state)
{
	struct mc_answer a = {.version = 1, .status = -ESTALE, .generation = 9, .why = "a\nb"}, got;
	uint8_t buf[MC_ANSWER_MAX];
	size_t len = mc_answer_encode(&a, buf);

	assert_int_equal(mc_answer_length(buf), len);
	assert_int_equal(mc_answer_decode(buf, len, &got), 0);
	assert_int_equal(got.status, -ESTALE);
	assert_string_equal(got.why, "a?b");
	for (size_t cut = 0; cut < len; cut++)
		assert_int_equal(mc_answer_decode(buf, cut, &got), -EBADMSG);
	mc_put16(buf + 24, 400);
	assert_int_equal(mc_answer_decode(buf, len, &got), -EBADMSG);
	assert_int_equal(mc_errno_of_wire(mc_wire_of_errno(-EHOSTDOWN)), -EHOSTDOWN);
	assert_int_equal(mc_errno_of_wire(60000), -EIO);
	assert_int_equal(mc_errno_of_wire(mc_wire_of_errno(0)), 0);
}

static void test_frames(void **state)
{
	struct mc_frame f = {.len = 5, .type = 0x300, .seq = 7, .ack = 9}, got;
	struct mc_hello_head h = {.session_id = 1, .received = 2, .link = 3, .flags = 1, .json_len = 2};
	uint8_t buf[MC_HELLO_FIXED + 8], bye[4 + MC_BYE_WHY_MAX];
	char why[MC_BYE_WHY_MAX + 1];
	struct mc_hello_head head;
	int status;
	size_t len;

	mc_frame_encode(&f, buf);
	assert_int_equal(mc_frame_decode(buf, &got), 0);
	assert_memory_equal(&got, &f, sizeof f);
	mc_put32(buf, MC_FRAME_MAX + 1);
	assert_int_equal(mc_frame_decode(buf, &got), -EMSGSIZE);
	f.seq = 0;
	mc_frame_encode(&f, buf);
	assert_int_equal(mc_frame_decode(buf, &got), -EBADMSG);

	mc_hello_head_encode(&h, buf);
	assert_int_equal(mc_hello_head_decode(buf, MC_HELLO_FIXED + 2, &head), 0);
	assert_true(head.received == 2 && head.link == 3 && head.json_len == 2);
	assert_int_equal(mc_hello_head_decode(buf, MC_HELLO_FIXED + 1, &head), -EBADMSG);
	assert_int_equal(mc_hello_head_decode(buf, 3, &head), -EBADMSG);

	len = mc_bye_encode(-EHOSTDOWN, "closed", bye);
	assert_int_equal(mc_bye_decode(bye, len, &status, why), 0);
	assert_int_equal(status, -EHOSTDOWN);
	assert_string_equal(why, "closed");
	assert_int_equal(mc_bye_decode(bye, len - 1, &status, why), -EBADMSG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_preamble),
		cmocka_unit_test(test_speakers),
		cmocka_unit_test(test_answer),
		cmocka_unit_test(test_frames),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
