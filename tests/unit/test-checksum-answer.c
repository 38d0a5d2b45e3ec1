/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The target's half of the checksum filter against peers that ask too much: nothing
 * is hashed where a question arrives, a turn hashes a bounded amount for all peers
 * together, nobody waits behind another's flood, and what is too much is refused.
 * The answers are those of one pass over each part.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "checksum.h"
#include "core/util/check.h"

#define MEM_LEN (CKW_NARROW_MAX + 4096)
#define ID_UNUSED UINT32_MAX

static uint8_t *mem;
static uint64_t touched; /* bytes of ranges that were asked for */
static int held;
static struct ck_peer areas[3];

/* The last message to each peer, and how many. */
static uint8_t sent[3][CKW_MSG_MAX];
static size_t sent_len[3];
static unsigned nr_sent[3], nr_refused[3];

static uint64_t h_now(const struct mc_host *h)
{
	return 1;
}
static void *h_alloc(const struct mc_host *h, size_t len)
{
	return calloc(1, len);
}
static void h_free(const struct mc_host *h, void *p, size_t len)
{
	free(p);
}
static uint64_t *h_counter(const struct mc_host *h, const char *name, const char *doc)
{
	return NULL;
}
static void h_timer(const struct mc_host *h, struct mc_timer *t, uint64_t deadline_ns)
{
}
static int h_range_get(const struct mc_host *h, void *peer, uint64_t generation, uint64_t offset, uint64_t len,
		       uint32_t access, struct mc_range *range)
{
	if (!mc_range_inside(0, MEM_LEN, offset, len))
		return -EACCES;
	touched += len;
	held++;
	range->addr = mem + offset;
	range->kind = "cpu";
	return 0;
}
static void h_range_put(const struct mc_host *h, struct mc_range *range)
{
	held--;
}
static int h_peer_send(const struct mc_host *h, void *peer, const void *msg, size_t len)
{
	size_t i = (size_t)((struct ck_peer *)peer - areas);
	struct ckw_answer answer;
	uint16_t nr;
	int type;

	assert_true(len <= CKW_MSG_MAX);
	memcpy(sent[i], msg, len);
	sent_len[i] = len;
	nr_sent[i]++;
	type = ckw_parse(msg, len, &nr);
	assert_true(type == CKW_ANSWER || type == CKW_NARROWED);
	if (type == CKW_ANSWER)
		ckw_answer_get(msg, 0, &answer);
	else
		ckw_narrowed_get(msg, &answer);
	nr_refused[i] += answer.status == -EBUSY;
	return 0;
}

static const struct mc_host host = {
	.size = sizeof host, .abi_major = MC_ABI_MAJOR, .abi_minor = MC_ABI_MINOR, .instance = "test",
	.now_ns = h_now, .alloc = h_alloc, .free = h_free, .counter = h_counter, .timer_set = h_timer,
	.range_get = h_range_get, .range_put = h_range_put, .peer_send = h_peer_send,
};

static int n_progress(const struct mc_filter_next *n)
{
	return 0;
}
static int n_arm(const struct mc_filter_next *n)
{
	return 0;
}
static int n_fence(const struct mc_filter_next *n, void *peer, uint32_t epoch)
{
	return 0;
}
static void *n_peer_priv(const struct mc_filter_next *n, void *peer)
{
	return peer;
}

static const struct mc_filter_next next = {
	.size = sizeof next, .transport = "test", .progress = n_progress, .arm = n_arm, .fence = n_fence,
	.peer_priv = n_peer_priv,
};

static const struct mc_filter_ops *ops;
static void *inst;

static int setup(void **state)
{
	const struct mc_value options[] = {{.d = 1}, {.i = 2}};
	struct mc_open_args args = {.size = sizeof args, .device = "test", .generation = 7, .options = options};
	struct mc_peer_args peer = {.size = sizeof peer, .segment = "other", .passive = 1};
	struct mc_transport_caps caps = {.size = sizeof caps};
	struct mc_error err;

	ops = mc_plugin_desc.ops;
	inst = calloc(1, ops->instance_size);
	assert_int_equal(ops->open(inst, &host, &args, &next, &caps, &err), 0);
	memset(nr_sent, 0, sizeof nr_sent);
	memset(nr_refused, 0, sizeof nr_refused);
	touched = 0;
	for (size_t i = 0; i < MC_ARRAY_SIZE(areas); i++)
		assert_int_equal(ops->peer_open(inst, &areas[i], &peer), 0);
	return 0;
}

static int teardown(void **state)
{
	assert_int_equal(held, 0);
	for (size_t i = 0; i < MC_ARRAY_SIZE(areas); i++)
		ops->peer_close(inst, &areas[i]);
	ops->close(inst);
	free(inst);
	return 0;
}

static void ask(unsigned peer, enum ckw_type type, uint32_t id, uint64_t offset, uint64_t len, uint64_t part)
{
	struct ckw_ask q = {.id = id, .opcode = MC_OP_WRITE, .offset = offset, .len = len, .value = part};
	uint8_t msg[CKW_HEAD + CKW_ASK_SIZE];

	ckw_ask_put(ckw_begin(msg, type), &q);
	ckw_end(msg, 1);
	assert_int_equal(ops->peer_msg(inst, &areas[peer], msg, sizeof msg), 1);
}

/* One turn; it stays within its bounds. */
static void turn(void)
{
	uint64_t before = touched;

	ops->progress(inst);
	assert_true(touched - before < CK_TURN_BYTES + (1 << 20));
}

static void check_narrowed(unsigned peer, uint32_t id, uint64_t offset, uint64_t len, uint64_t part)
{
	struct ckw_answer answer;
	uint16_t nr;

	assert_int_equal(ckw_parse(sent[peer], sent_len[peer], &nr), CKW_NARROWED);
	ckw_narrowed_get(sent[peer], &answer);
	assert_int_equal(answer.id, id);
	assert_int_equal(answer.status, 0);
	assert_int_equal(nr, (len + part - 1) / part);
	for (uint16_t i = 0; i < nr; i++) {
		const uint8_t *at = mem + offset + i * part;

		assert_int_equal(ckw_narrowed_part(sent[peer], i),
				 part == 1 ? *at : XXH3_64bits(at, MC_MIN(part, len - i * part)));
	}
}

/* All shapes of parts: around the bytes of a step, one byte each, one alone, a rest at the end. */
static void test_parts(void **state)
{
	static const struct {
		uint64_t offset, len, part;
	} shapes[] = {
		{0, 1, 1}, {3, 256, 1}, {5, 255, 1}, {0, 1000, 4}, {7, 1001, 1000}, {9, 100000, 391},
		{1, (1 << 20) + 1, 1 << 20}, {0, 3 << 20, 300001}, {11, 9 << 20, 9 << 20},
		{0, CKW_NARROW_MAX, CKW_NARROW_MAX / CKW_PARTS}, {13, CKW_NARROW_MAX, CKW_NARROW_MAX},
	};

	for (uint32_t i = 0; i < MC_ARRAY_SIZE(shapes); i++) {
		uint64_t before = touched;

		ask(0, CKW_NARROW, i, shapes[i].offset, shapes[i].len, shapes[i].part);
		assert_int_equal(touched, before);
		assert_int_equal(ops->arm(inst), -EBUSY);
		for (unsigned turns = 0; nr_sent[0] == i; turns++) {
			assert_true(turns <= shapes[i].len / CK_TURN_BYTES);
			turn();
		}
		check_narrowed(0, i, shapes[i].offset, shapes[i].len, shapes[i].part);
		assert_int_equal(ops->arm(inst), 0);
	}
}

static void test_refused(void **state)
{
	static const struct {
		uint64_t offset, len, part;
		int status;
	} shapes[] = {
		{0, 1000, 0, -EINVAL},  {0, 1000, 1001, -EINVAL}, {0, 1000, 1, -EINVAL},
		{0, 0, 0, -EINVAL},     {0, CKW_NARROW_MAX + 1, CKW_NARROW_MAX, -EINVAL},
		{MEM_LEN, 8, 8, -EACCES},
	};
	struct ckw_answer answer;

	for (uint32_t i = 0; i < MC_ARRAY_SIZE(shapes); i++) {
		ask(0, CKW_NARROW, i, shapes[i].offset, shapes[i].len, shapes[i].part);
		turn();
		assert_int_equal(nr_sent[0], i + 1);
		ckw_narrowed_get(sent[0], &answer);
		assert_int_equal(answer.id, i);
		assert_int_equal(answer.status, shapes[i].status);
	}
	assert_int_equal(touched, 0);
}

/* Two peers ask for all that they can; the third is answered as if they were not there. */
static void test_flood(void **state)
{
	for (uint32_t i = 0; i < CK_SLOTS + 10; i++) {
		ask(0, CKW_NARROW, i, 0, CKW_NARROW_MAX, CKW_NARROW_MAX);
		ask(1, i % 2 ? CKW_ASK : CKW_NARROW, i, 0, CKW_NARROW_MAX, CKW_NARROW_MAX);
	}
	assert_int_equal(touched, 0);
	assert_int_equal(nr_refused[0], 10);
	assert_int_equal(nr_refused[1], 10);
	for (unsigned round = 0; round < 20; round++) {
		uint64_t done[2] = {areas[0].todo_done, areas[1].todo_done};

		ask(2, round % 2 ? CKW_ASK : CKW_NARROW, round, 0, 1000, 1000);
		for (unsigned turns = 0; nr_sent[2] == round; turns++) {
			assert_true(turns < MC_ARRAY_SIZE(areas));
			turn();
		}
		turn();
		turn();
		/* Nor does one of the two wait for the other. */
		assert_true(areas[0].todo_done != done[0] && areas[1].todo_done != done[1]);
	}
	/* Those that cost no hashing are bounded by their messages. */
	assert_int_equal(ops->fence(inst, &areas[0], 1), 0);
	assert_int_equal(ops->fence(inst, &areas[1], 1), 0);
	assert_int_equal(ops->arm(inst), 0);
	for (uint32_t i = 0; i < CK_SLOTS; i++)
		ask(2, CKW_NARROW, i, 0, 1, 1);
	nr_sent[2] = 0;
	turn();
	assert_true(nr_sent[2] > 0 && nr_sent[2] <= 100);
	/* After a fence nothing is read. */
	touched = nr_sent[0] = 0;
	ask(0, CKW_NARROW, ID_UNUSED, 0, 100, 100);
	assert_int_equal(nr_sent[0], 1);
	assert_int_equal(nr_refused[0], 11);
	assert_int_equal(touched, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_parts, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_flood, setup, teardown),
	};
	uint64_t x = 1;
	int r;

	mem = malloc(MEM_LEN);
	if (!mem)
		return 1;
	for (uint64_t i = 0; i < MEM_LEN; i += 8) {
		x = x * UINT64_C(6364136223846793005) + 1442695040888963407u;
		memcpy(mem + i, &x, 8);
	}
	r = cmocka_run_group_tests(tests, NULL, NULL);
	free(mem);
	return r;
}
