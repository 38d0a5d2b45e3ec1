/* SPDX-License-Identifier: Apache-2.0 */
/* The bench's questions and answers: the wire format, what a target serves and refuses, waiting. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"
#include "pattern.h"

/* ---- an engine that answers from a list ------------------------------------------------------ */

static struct mc_notify inbox[8];
static size_t inbox_nr, inbox_at;
static uint8_t sent[BENCH_MSG_LEN];

int mc_notify_send(struct mc_segment *segment, const void *data, size_t len, uint64_t timeout_ns,
		   struct mc_error *err)
{
	assert_int_equal(len, sizeof sent);
	memcpy(sent, data, len);
	return 0;
}

int mc_notify_recv(struct mc_engine *engine, struct mc_notify *notify, uint64_t timeout_ns)
{
	struct bench_msg msg;

	if (inbox_at == inbox_nr)
		return -ETIMEDOUT;
	*notify = inbox[inbox_at++];
	/* seq 0 stands for the question's. */
	if (bench_msg_decode(notify->data, notify->len, &msg) == 0 && msg.seq == 0) {
		struct bench_msg question;

		assert_int_equal(bench_msg_decode(sent, sizeof sent, &question), 0);
		msg.seq = question.seq;
		bench_msg_encode(&msg, notify->data);
	}
	return 0;
}

uint64_t mc_segment_generation(const struct mc_segment *segment)
{
	return 77;
}

/* What the session of the segment has ended with; 0: it lives. */
static int gone_status;

int mc_request_check(const struct mc_request *request, struct mc_error *err)
{
	return gone_status;
}

const char *mc_segment_name(const struct mc_segment *segment)
{
	return "target";
}

int mc_memory_alloc(struct mc_engine *engine, const char *location, uint64_t size, uint32_t access,
		    uint64_t timeout_ns, void **ret_addr, struct mc_error *err)
{
	return -ENOTSUP;
}

int mc_memory_free(struct mc_engine *engine, void *addr, uint64_t timeout_ns, struct mc_error *err)
{
	return -ENOTSUP;
}

int mc_memory_publish(struct mc_engine *engine, void *addr, uint64_t len, struct mc_error *err)
{
	return 0;
}

int mc_memory_refresh(struct mc_engine *engine, void *addr, uint64_t len, struct mc_error *err)
{
	return 0;
}

static void inbox_put(const struct bench_msg *msg, uint64_t generation)
{
	struct mc_notify *n = &inbox[inbox_nr++];

	*n = (struct mc_notify){.size = sizeof *n, .generation = generation, .len = BENCH_MSG_LEN};
	bench_msg_encode(msg, n->data);
}

/* ---- tests --------------------------------------------------------------------------------------
 */

static void test_codec(void **state)
{
	struct bench_msg in = {.type = BENCH_MSG_FILL, .seq = 9, .entries = {1, 2, 3, 4, 5, 6}},
			 out;
	uint8_t buf[BENCH_MSG_LEN];

	bench_msg_encode(&in, buf);
	assert_int_equal(bench_msg_decode(buf, sizeof buf, &out), 0);
	assert_memory_equal(&in.entries, &out.entries, sizeof in.entries);
	assert_int_equal(out.seq, 9);
	assert_false(out.reply);
	for (size_t len = 0; len < sizeof buf; len++)
		assert_int_equal(bench_msg_decode(buf, len, &out), -EBADMSG);
	buf[0] ^= 1;
	assert_int_equal(bench_msg_decode(buf, sizeof buf, &out), -EBADMSG);
	buf[0] ^= 1;
	buf[8] = BENCH_MSG_COUNT;
	assert_int_equal(bench_msg_decode(buf, sizeof buf, &out), -EBADMSG);
	buf[8] = 0;
	assert_int_equal(bench_msg_decode(buf, sizeof buf, &out), -EBADMSG);
	in = (struct bench_msg){.type = BENCH_MSG_VERIFY,
				.reply = true,
				.status = -EBADMSG,
				.bad = 3};
	bench_msg_encode(&in, buf);
	assert_int_equal(bench_msg_decode(buf, sizeof buf, &out), 0);
	assert_int_equal(out.status, -EBADMSG);
	assert_int_equal(out.bad, 3);
	buf[24] = 1; /* status becomes a huge negative, or positive, number: refused */
	memset(buf + 25, 0, 7);
	assert_int_equal(bench_msg_decode(buf, sizeof buf, &out), -EBADMSG);
}

static uint8_t area[4096];

static struct bench_msg question(enum bench_msg_type type)
{
	return (struct bench_msg){.type = type,
				  .seq = 5,
				  .entries = {.base = (uintptr_t)area,
					      .first = 16,
					      .step = 100,
					      .nr = 40,
					      .block = 60,
					      .seed = 12}};
}

static struct bench_memory memory(void)
{
	struct bench_memory mem = {.nr = 1};

	mem.bufs[0].addr = area;
	mem.bufs[0].len = sizeof area;
	return mem;
}

static void test_fill_and_verify(void **state)
{
	struct bench_memory mem = memory();
	struct bench_msg fill = question(BENCH_MSG_FILL), verify = question(BENCH_MSG_VERIFY),
			 reply;

	memset(area, 0, sizeof area);
	assert_int_equal(bench_memory_serve(&mem, &fill, NULL, &reply), 0);
	assert_int_equal(reply.value, 40 * 60);
	assert_int_equal(reply.seq, 5);
	assert_true(reply.reply);
	assert_int_equal(area[15], 0);
	assert_int_equal(area[16 + 60], 0);
	assert_int_equal(bench_pattern_check(area + 116, 60, 12, 116), 60);
	assert_int_equal(bench_memory_serve(&mem, &verify, NULL, &reply), 0);
	assert_int_equal(reply.value, 40 * 60);
	area[216 + 7] ^= 1;
	assert_int_equal(bench_memory_serve(&mem, &verify, NULL, &reply), -EBADMSG);
	assert_int_equal(reply.bad, (uintptr_t)area + 216 + 7);
	assert_int_equal(reply.value, 2 * 60 + 7);
}

/* Nothing outside the buffers is touched, whatever the question says. */
static void test_bad_entries_are_refused(void **state)
{
	struct bench_memory mem = memory();
	const struct bench_msg good = question(BENCH_MSG_FILL);
	struct bench_msg bad[8], reply;

	for (size_t i = 0; i < 8; i++)
		bad[i] = good;
	bad[0].entries.nr = 42; /* the last one ends one entry behind the buffer */
	bad[1].entries.base -= 17;
	bad[2].entries.nr = 0;
	bad[3].entries.block = 0;
	bad[4].entries.step = UINT64_MAX / 39; /* the span wraps */
	bad[5].entries.block = UINT64_MAX;
	bad[6].entries.first = UINT64_MAX - bad[6].entries.base + 1; /* the start wraps */
	bad[7].entries.nr = UINT64_MAX;
	for (size_t i = 0; i < 8; i++)
		assert_int_equal(bench_memory_serve(&mem, &bad[i], NULL, &reply), -EACCES);
	mem.device = true;
	assert_int_equal(bench_memory_serve(&mem, &good, NULL, &reply), -EOPNOTSUPP);
	mem.nr = 0;
	assert_int_equal(bench_memory_serve(&mem, &good, NULL, &reply), -EACCES);
}

static bool always(void)
{
	return true;
}

static void test_serve_stops(void **state)
{
	struct bench_memory mem = memory();
	struct bench_msg fill = question(BENCH_MSG_FILL), reply;

	assert_int_equal(bench_memory_serve(&mem, &fill, always, &reply), -ECANCELED);
	assert_int_equal(reply.value, 0);
}

static void test_ask(void **state)
{
	struct bench_msg reply = {.type = BENCH_MSG_CPU, .reply = true, .value = 1234};
	struct bench_msg msg = {.type = BENCH_MSG_CPU};
	struct mc_error err = {0};

	inbox_nr = inbox_at = 0;
	inbox[inbox_nr++] = (struct mc_notify){.generation = 77, .len = 3, .data = "hey"};
	inbox_put(&reply, 78); /* of somebody else */
	reply.type = BENCH_MSG_FILL;
	inbox_put(&reply, 77); /* to another question */
	reply.type = BENCH_MSG_CPU;
	reply.seq = 1 << 20;
	inbox_put(&reply, 77); /* to an earlier one */
	reply.seq = 0;
	inbox_put(&reply, 77);
	assert_int_equal(bench_ask(NULL, NULL, &msg, MC_SEC, &err), 0);
	assert_int_equal(msg.value, 1234);
	assert_int_equal(inbox_at, 5);
	assert_int_equal(bench_ask(NULL, NULL, &msg, MC_SEC, &err), -ETIMEDOUT);
	assert_non_null(strstr(err.text, "transfer_engine_bench --mode=target"));
}

/* Who is gone is not waited for until the answer's time is over. */
static void test_ask_gone(void **state)
{
	struct bench_msg msg = {.type = BENCH_MSG_CPU};
	struct mc_error err = {0};

	inbox_at = inbox_nr = 0;
	gone_status = -EHOSTDOWN;
	assert_int_equal(bench_ask(NULL, NULL, &msg, 3600 * MC_SEC, &err), -EHOSTDOWN);
	assert_string_equal(err.text, "segment 'target': peer gone before it answered: Host is down");
	gone_status = 0;
}

static void test_numa_nodes(void **state)
{
	static const struct {
		const char *text;
		size_t nr;
		unsigned last;
	} cases[] = {{"0\n", 1, 0}, {"0-3\n", 4, 3}, {"0,2-3,7\n", 4, 7},
		     {"", 1, 0},    {"x", 1, 0},     {"0-99999999", 16, 15}};
	char dir[] = "/tmp/mc-bench-XXXXXX", path[64];
	unsigned nodes[16];

	assert_non_null(mkdtemp(dir));
	assert_int_equal(bench_numa_nodes(dir, nodes, 16), 1);
	snprintf(path, sizeof path, "%s/has_memory", dir);
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		FILE *f = fopen(path, "w");

		assert_non_null(f);
		fputs(cases[i].text, f);
		fclose(f);
		assert_int_equal(bench_numa_nodes(dir, nodes, 16), cases[i].nr);
		assert_int_equal(nodes[cases[i].nr - 1], cases[i].last);
	}
	unlink(path);
	rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_codec),
		cmocka_unit_test(test_fill_and_verify),
		cmocka_unit_test(test_bad_entries_are_refused),
		cmocka_unit_test(test_serve_stops),
		cmocka_unit_test(test_ask),
		cmocka_unit_test(test_ask_gone),
		cmocka_unit_test(test_numa_nodes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
