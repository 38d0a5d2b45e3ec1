/* SPDX-License-Identifier: Apache-2.0 */
/* The grant queue of a P2P store's source: slots, least granted first, the queue and its deadlines, the rate. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "stores/p2p/p2p_serve.h"

#define MS 1000000ull
#define LATE (1000 * MS)

static uint32_t counts[64];
static struct mc_p2p_tally tally = {64, counts, NULL};
static const uint32_t four[] = {3, 2, 1, 0};

static struct mc_p2p_serve *serve_of(uint32_t slots, uint32_t queue, uint64_t rate)
{
	const struct mc_p2p_serve_limits limits = {slots, queue, 5000 * MS, rate};
	struct mc_p2p_serve *s = NULL;

	memset(counts, 0, sizeof counts);
	assert_int_equal(mc_p2p_serve_new(&limits, &s), 0);
	return s;
}

static void least_granted(void **state)
{
	struct mc_p2p_serve *s = serve_of(8, 0, 0);
	struct mc_p2p_grant g;
	const uint32_t two[] = {3, 0};

	for (uint32_t i = 0; i < 4; i++) {      /* each getter prefers the same, each gets another */
		assert_int_equal(mc_p2p_serve_ask(s, &tally, i, four, 4, LATE, MS, &g), 0);
		assert_int_equal(g.shard, 3 - i);
	}
	assert_int_equal(mc_p2p_serve_done(s, 3, g.slot, MC_P2P_END_DECLINED, MS), 0);
	assert_int_equal(mc_p2p_serve_ask(s, &tally, 9, two, 2, LATE, MS, &g), 0);
	assert_int_equal(g.shard, 0);   /* it never left */
	assert_int_equal(g.rate, 0);
	mc_p2p_serve_free(s);
}

static void queue_and_deadlines(void **state)
{
	struct mc_p2p_serve *s = serve_of(1, 3, 0);
	struct mc_p2p_grant g, first, w1, w2, w3;

	assert_int_equal(mc_p2p_serve_ask(s, &tally, 1, four, 4, LATE, MS, &first), 0);
	assert_int_equal(mc_p2p_serve_ask(s, &tally, 2, four, 4, 90 * MS, MS, &w1), -EINPROGRESS);
	assert_int_equal(mc_p2p_serve_ask(s, &tally, 3, four, 4, 70 * MS, MS, &w2), -EINPROGRESS);
	assert_int_equal(mc_p2p_serve_ask(s, &tally, 4, four, 4, LATE, MS, &w3), -EINPROGRESS);
	assert_int_equal(mc_p2p_serve_ask(s, &tally, 5, four, 4, LATE, MS, &g), -EAGAIN);
	assert_true(g.retry_ns > 0);
	assert_int_equal(mc_p2p_serve_wake(s), 70 * MS);
	assert_int_equal(mc_p2p_serve_next(s, 69 * MS, &g), 0);
	assert_int_equal(mc_p2p_serve_next(s, 70 * MS, &g), 1);
	assert_int_equal(g.ticket, w2.ticket);
	assert_int_equal(g.status, -EAGAIN);
	assert_int_equal(mc_p2p_serve_done(s, 2, first.slot, MC_P2P_END_OK, 71 * MS), -ENOENT);
	assert_int_equal(mc_p2p_serve_done(s, 1, first.slot, MC_P2P_END_OK, 71 * MS), 0);
	assert_int_equal(mc_p2p_serve_done(s, 1, first.slot, MC_P2P_END_OK, 71 * MS), -ENOENT);
	assert_int_equal(mc_p2p_serve_next(s, 71 * MS, &g), 1);
	assert_int_equal(g.ticket, w1.ticket);
	assert_int_equal(g.status, 0);
	assert_int_equal(g.shard, 2);   /* the first of those that never left */
	assert_int_equal(mc_p2p_serve_next(s, 71 * MS, &g), 0);
	/* nobody ends that slot: it ends itself */
	assert_int_equal(mc_p2p_serve_next(s, (71 + 5000) * MS, &g), 1);
	assert_int_equal(g.ticket, w3.ticket);
	assert_int_equal(mc_p2p_serve_active(s), 1);
	assert_int_equal(mc_p2p_serve_waiting(s), 0);
	mc_p2p_serve_free(s);
}

static void a_slot_lasts_as_long_as_its_getter(void **state)
{
	struct mc_p2p_serve *s = serve_of(1, 2, 0);
	struct mc_p2p_grant first, second, g;

	assert_int_equal(mc_p2p_serve_ask(s, &tally, 1, four, 4, LATE, MS, &first), 0);
	assert_int_equal(mc_p2p_serve_ask(s, &tally, 2, four, 4, UINT64_MAX, MS, &second), -EINPROGRESS);
	/* It takes a minute, and says now and then that it goes on. */
	for (uint64_t t = 1; t < 60; t++) {
		mc_p2p_serve_heard(s, 1, t * 1000 * MS);
		assert_int_equal(mc_p2p_serve_next(s, t * 1000 * MS + 900 * MS, &g), 0);
	}
	assert_true(mc_p2p_serve_wake(s) > 60000 * MS);
	/* What others say does not count. */
	mc_p2p_serve_heard(s, 2, 63000 * MS);
	assert_int_equal(mc_p2p_serve_next(s, 65000 * MS, &g), 1);
	assert_int_equal(g.ticket, second.ticket);
	assert_int_equal(mc_p2p_serve_done(s, 1, first.slot, MC_P2P_END_OK, 65000 * MS), -ENOENT);
	mc_p2p_serve_free(s);
}

static void only_what_is_here(void **state)
{
	struct mc_p2p_serve *s = serve_of(4, 0, 0);
	uint8_t map[8] = {1u << 2};
	struct mc_p2p_tally part = {64, counts, map};
	const uint32_t absent[] = {63, 5}, wild[] = {64};
	struct mc_p2p_grant g;

	assert_int_equal(mc_p2p_serve_ask(s, &part, 1, four, 4, LATE, MS, &g), 0);
	assert_int_equal(g.shard, 2);
	assert_int_equal(mc_p2p_serve_ask(s, &part, 1, absent, 2, LATE, MS, &g), -ENODATA);
	assert_int_equal(mc_p2p_serve_ask(s, &part, 1, wild, 1, LATE, MS, &g), -EINVAL);
	assert_int_equal(mc_p2p_serve_ask(s, &part, 1, four, 0, LATE, MS, &g), -EINVAL);
	assert_int_equal(mc_p2p_serve_ask(s, &part, 1, four, 17, LATE, MS, &g), -EINVAL);
	mc_p2p_serve_free(s);
}

static void getters_and_objects_that_go(void **state)
{
	struct mc_p2p_serve *s = serve_of(2, 8, 0);
	uint32_t others[64] = {0};
	struct mc_p2p_tally other = {64, others, NULL};
	struct mc_p2p_grant g, w, held, waits;
	uint64_t tickets[8];

	assert_int_equal(mc_p2p_serve_ask(s, &tally, 1, four, 4, LATE, MS, &held), 0);
	assert_int_equal(mc_p2p_serve_ask(s, &tally, 2, four, 4, LATE, MS, &g), 0);
	assert_int_equal(mc_p2p_serve_ask(s, &tally, 1, four, 4, LATE, MS, &waits), -EINPROGRESS);
	assert_int_equal(mc_p2p_serve_ask(s, &other, 3, four, 4, LATE, MS, &w), -EINPROGRESS);
	assert_int_equal(mc_p2p_serve_ask(s, &tally, 4, four, 4, LATE, MS, &g), -EINPROGRESS);
	/* Another object is not touched, and what was not read does not count. */
	assert_int_equal(counts[held.shard], 1);
	assert_int_equal(mc_p2p_serve_gone(s, &other, 1, tickets, 8), 0);
	assert_int_equal(mc_p2p_serve_busy(s, &tally, MS), 2);
	assert_int_equal(mc_p2p_serve_gone(s, &tally, 1, tickets, 8), 1);
	assert_int_equal(tickets[0], waits.ticket);
	assert_int_equal(counts[held.shard], 0);
	assert_int_equal(mc_p2p_serve_busy(s, &tally, MS), 1);
	assert_int_equal(mc_p2p_serve_next(s, MS, &g), 1);
	assert_int_equal(g.ticket, w.ticket);
	assert_int_equal(mc_p2p_serve_next(s, MS, &g), 0);
	/* One that is to go lets its slots finish, or expire; nobody gets a new one. */
	assert_int_equal(mc_p2p_serve_close(s, &tally, tickets, 8), 1);
	assert_int_equal(mc_p2p_serve_busy(s, &tally, MS), 1);
	assert_int_equal(mc_p2p_serve_busy(s, &other, MS), 1);
	assert_int_equal(mc_p2p_serve_forget(s, &tally, tickets, 8), 0);
	assert_int_equal(mc_p2p_serve_busy(s, &tally, MS), 0);
	assert_int_equal(mc_p2p_serve_active(s), 1);
	assert_int_equal(mc_p2p_serve_waiting(s), 0);
	mc_p2p_serve_free(s);
}

/* Whatever is in flight, the sum of what was promised is within the cap. */
static void rate(void **state)
{
	struct mc_p2p_serve *s = serve_of(8, 8, 1000);
	struct mc_p2p_grant g;
	uint64_t sum = 0;

	for (uint64_t i = 0; !mc_p2p_serve_ask(s, &tally, i, four, 4, LATE, MS, &g); i++) {
		assert_true(g.rate > 0);
		sum += g.rate;
	}
	assert_int_equal(sum, 1000);
	mc_p2p_serve_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(least_granted),     cmocka_unit_test(queue_and_deadlines),
		cmocka_unit_test(a_slot_lasts_as_long_as_its_getter),
		cmocka_unit_test(only_what_is_here), cmocka_unit_test(getters_and_objects_that_go),
		cmocka_unit_test(rate),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
