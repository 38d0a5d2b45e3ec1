/* SPDX-License-Identifier: Apache-2.0 */
/* The plan of the fault filter: seed to decisions, shares, numbers, selectors. */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cli/check/fake-host.h"
#include "fault_plan.h"

extern const struct mc_plugin_desc mc_plugin_desc;

static void plan_of(struct fault_plan *plan, const char *device, uint32_t lane, const char *const *words)
{
	struct mc_error err = {0};
	struct mc_value *values;
	size_t nr = 0;

	while (words[nr])
		nr++;
	if (fake_options_parse(&mc_plugin_desc, words, nr, &values, &err) < 0)
		fail_msg("%s", err.text);
	fault_plan_init(plan, values, device, lane);
	fake_options_free(&mc_plugin_desc, values);
}
#define PLAN(plan, device, lane, ...)                                                              \
	plan_of(plan, device, lane, (const char *const[]){"ops=both", ##__VA_ARGS__, NULL})

#define NR 20000

static unsigned differing(const struct fault_plan *a, const struct fault_plan *b)
{
	unsigned n = 0;

	for (uint64_t i = 1; i <= NR; i++)
		n += fault_plan_decide(a, i) != fault_plan_decide(b, i);
	return n;
}

static void test_same_seed(void **state)
{
	struct fault_plan a, b;

	PLAN(&a, "eth0", 0, "seed=7", "drop=0.1", "delay=0.3", "flip=0.05");
	PLAN(&b, "eth0", 0, "seed=7", "drop=0.1", "delay=0.3", "flip=0.05");
	assert_int_equal(differing(&a, &b), 0);
	for (uint64_t i = 1; i < 100; i++)
		assert_int_equal(fault_plan_draw(&a, FAULT_FLIP, i, 4096), fault_plan_draw(&b, FAULT_FLIP, i, 4096));
	/* Whatever was asked before, and in whatever order. */
	for (uint64_t i = 100; i > 0; i--)
		assert_int_equal(fault_plan_decide(&a, i), fault_plan_decide(&b, i));
}

/* What other seeds, devices and lanes decide is something else. */
static void test_other_seed(void **state)
{
	struct fault_plan a, b;

	PLAN(&a, "eth0", 0, "seed=7", "drop=0.1");
	PLAN(&b, "eth0", 0, "seed=8", "drop=0.1");
	assert_true(differing(&a, &b) > NR / 10);
	PLAN(&b, "eth1", 0, "seed=7", "drop=0.1");
	assert_true(differing(&a, &b) > NR / 10);
	PLAN(&b, "eth0", 1, "seed=7", "drop=0.1");
	assert_true(differing(&a, &b) > NR / 10);
}

/* The very decisions of one seed: a change of the generator would make old seeds worthless. */
static void test_known(void **state)
{
	static const uint64_t dropped[] = {127, 171, 261};
	struct fault_plan plan;
	size_t at = 0;

	PLAN(&plan, "lo", 0, "seed=1", "drop=0.02");
	for (uint64_t i = 1; i <= 300; i++) {
		if (!fault_plan_decide(&plan, i))
			continue;
		assert_true(at < sizeof dropped / sizeof *dropped);
		assert_int_equal(dropped[at++], i);
	}
	assert_int_equal(at, sizeof dropped / sizeof *dropped);
}

static unsigned count(const struct fault_plan *plan, enum fault_kind kind)
{
	unsigned n = 0;

	for (uint64_t i = 1; i <= NR; i++)
		n += (fault_plan_decide(plan, i) & FAULT_BIT(kind)) != 0;
	return n;
}

static void test_shares(void **state)
{
	struct fault_plan plan;

	PLAN(&plan, "lo", 0, "drop=0.01", "delay=0.5", "reorder=1");
	/* Six standard deviations. */
	assert_true(abs((int)count(&plan, FAULT_DROP) - NR / 100) < 6 * sqrt(NR * 0.01));
	assert_true(abs((int)count(&plan, FAULT_DELAY) - NR / 2) < 6 * sqrt(NR * 0.25));
	assert_int_equal(count(&plan, FAULT_REORDER), NR);
	assert_int_equal(count(&plan, FAULT_KILL), 0);
}

/* A kind that joins leaves the others' decisions as they were. */
static void test_independent(void **state)
{
	struct fault_plan a, b;

	PLAN(&a, "lo", 0, "delay=0.2");
	PLAN(&b, "lo", 0, "delay=0.2", "hold=0.4", "drop=0.1");
	for (uint64_t i = 1; i <= NR; i++)
		assert_int_equal(fault_plan_decide(&a, i) & FAULT_BIT(FAULT_DELAY),
				 fault_plan_decide(&b, i) & FAULT_BIT(FAULT_DELAY));
}

static void test_one_of(void **state)
{
	struct fault_plan plan;
	unsigned both = 0;

	PLAN(&plan, "lo", 0, "drop=0.5", "fail=1", "flip=1", "delay=1");
	for (uint64_t i = 1; i <= NR; i++) {
		uint32_t faults = fault_plan_decide(&plan, i) & FAULT_ONE_OF;

		both += faults == 0 || (faults & (faults - 1));
	}
	assert_int_equal(both, 0);
}

static void test_nth(void **state)
{
	struct fault_plan plan;

	PLAN(&plan, "lo", 0, "fail_nth=5", "kill_nth=9", "after=100", "drop=1");
	assert_int_equal(fault_plan_decide(&plan, 4), 0);
	assert_int_equal(fault_plan_decide(&plan, 5), FAULT_BIT(FAULT_FAIL));
	assert_int_equal(fault_plan_decide(&plan, 9), FAULT_BIT(FAULT_KILL));
	assert_int_equal(fault_plan_decide(&plan, 100), 0);
	assert_int_equal(fault_plan_decide(&plan, 101), FAULT_BIT(FAULT_DROP));
}

static void test_draw(void **state)
{
	struct fault_plan plan;
	unsigned seen = 0;

	PLAN(&plan, "lo", 0);
	assert_int_equal(fault_plan_draw(&plan, FAULT_FLIP, 1, 0), 0);
	for (uint64_t i = 1; i < 1000; i++) {
		uint64_t n = fault_plan_draw(&plan, FAULT_FLIP, i, 8);

		assert_true(n < 8);
		seen |= 1u << n;
	}
	assert_int_equal(seen, 0xff);
}

static void test_selectors(void **state)
{
	struct fault_plan plan;
	char text[256];

	PLAN(&plan, "lo", 0, "ops=read", "peer=node*", "drop=1");
	assert_true(plan.ops[MC_OP_READ] && !plan.ops[MC_OP_WRITE]);
	assert_true(fault_plan_peer(&plan, "node7") && !fault_plan_peer(&plan, "other"));
	PLAN(&plan, "lo", 0, "ops=write");
	assert_true(!plan.ops[MC_OP_READ] && plan.ops[MC_OP_WRITE]);
	assert_true(fault_plan_peer(&plan, "other") && fault_plan_peer(&plan, NULL));
	/* Another device's plan has no fault. */
	PLAN(&plan, "lo", 0, "device=eth*", "drop=1", "fail_nth=1");
	assert_int_equal(count(&plan, FAULT_DROP) + count(&plan, FAULT_FAIL), 0);
	PLAN(&plan, "eth3", 0, "device=eth*", "drop=1");
	assert_int_equal(count(&plan, FAULT_DROP), NR);
	fault_plan_text(&plan, text, sizeof text);
	assert_string_equal(text, "drop 1");
	PLAN(&plan, "lo", 0, "fail_nth=3", "delay=0.25");
	fault_plan_text(&plan, text, sizeof text);
	assert_string_equal(text, "fail of slice 3, delay 0.25");
	PLAN(&plan, "lo", 0);
	fault_plan_text(&plan, text, sizeof text);
	assert_string_equal(text, "");
	PLAN(&plan, "lo", 0, "fail_status=eacces", "fail_scope=request");
	assert_int_equal(plan.fail_status, -EACCES);
	assert_int_equal(plan.fail_scope, MC_SCOPE_REQUEST);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_same_seed), cmocka_unit_test(test_other_seed),
		cmocka_unit_test(test_known),	  cmocka_unit_test(test_shares),
		cmocka_unit_test(test_independent), cmocka_unit_test(test_one_of),
		cmocka_unit_test(test_nth),	  cmocka_unit_test(test_draw),
		cmocka_unit_test(test_selectors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
