/* SPDX-License-Identifier: Apache-2.0 */
/* The pools of a lane: sizes, opening on a helper, fair shares, a registration that fails. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lane.h"
#include "stage.h"

static int reg_status;
static unsigned nr_regs, nr_unregs;
static struct mc_mem_desc reg_desc;

static int fake_reg(void *inst, void *region, const struct mc_mem_desc *desc, struct mc_error *err)
{
	assert_true(mc_on_helper());
	nr_regs++;
	reg_desc = *desc;
	return reg_status;
}

static void fake_unreg(void *inst, void *region)
{
	nr_unregs++;
}

static int fake_export(void *inst, void *region, void *blob, size_t cap)
{
	memset(blob, 0x5a, 3);
	return 3;
}

static const struct mc_transport_ops ops = {
	.size = sizeof ops, .region_size = 16, .mem_reg = fake_reg, .mem_unreg = fake_unreg,
	.mem_export = fake_export,
};

struct fixture {
	struct mc_settings set;
	struct mc_engine engine;
	struct mc_plugin plugin;
	struct mc_device device, *devices[1];
	struct mc_lane lane, *lanes[1];
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);
	struct mc_worker_args args = {.name = "stage", .peer_timeout_ns = MC_SEC, .numa_node = -1};

	if (!f)
		return -1;
	f->set.staging_pool = 64 * 1024;
	f->set.staging_chunk = 8192;
	f->engine.set = &f->set;
	f->engine.devices = f->devices;
	f->engine.nr_devices = 1;
	f->devices[0] = &f->device;
	f->plugin.has_mem_export = true;
	f->device.engine = &f->engine;
	f->device.plugin = &f->plugin;
	f->device.ops = &ops;
	f->device.info.numa_node = -1;
	f->device.nr_lanes = 1;
	f->device.lanes = f->lanes;
	f->lanes[0] = &f->lane;
	f->lane.device = &f->device;
	f->lane.ops = &ops;
	reg_status = 0;
	nr_regs = nr_unregs = 0;
	*state = f;
	return mc_helpers_new(&f->engine.helpers) < 0 || mc_worker_new(&args, &f->lane.worker) < 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	mc_stage_lane_close(&f->lane);
	mc_worker_free(f->lane.worker);
	mc_helpers_free(f->engine.helpers);
	free(f);
	return 0;
}

static void test_sizes(void **state)
{
	static const struct {
		int64_t pool, chunk;
		size_t lanes;
		uint64_t max_reg, want_chunk;
		uint32_t want_nr;
	} cases[] = {
		{64 << 20, 1 << 20, 1, 0, 1 << 20, 32},      {64 << 20, 1 << 20, 8, 0, 1 << 20, 4},
		{1 << 20, 1 << 20, 1, 0, 512 << 10, 1},      {1 << 20, 64 << 10, 2, 0, 64 << 10, 4},
		{1000, 1 << 20, 1, 0, 4096, 1},              {64 << 20, 1 << 20, 1, 300000, 299008, 1},
		{1 << 20, 5000, 1, 0, 4096, 128},            {1 << 20, 1 << 20, 0, 0, 512 << 10, 1},
		{(int64_t)1 << 62, 4096, 1, 0, 4096, 65536},
	};

	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct mc_settings set = {.staging_pool = cases[i].pool, .staging_chunk = cases[i].chunk};
		uint64_t chunk;
		uint32_t nr;

		mc_stage_sizes(&set, cases[i].lanes, cases[i].max_reg, &chunk, &nr);
		assert_int_equal(chunk, cases[i].want_chunk);
		assert_int_equal(nr, cases[i].want_nr);
	}
}

struct ask {
	struct mc_lane *lane;
	bool lent;
	uint32_t held;
	int status;
	struct mc_stage_chunk *chunk;
};

static void ask_run(void *arg)
{
	struct ask *a = arg;
	struct mc_stage_lane *sl = mc_stage_lane_get(a->lane);

	a->status = mc_stage_take(a->lent ? &sl->lent : &sl->own, a->held, &a->chunk);
}

/* Ask until the helper has answered, as the worker would when it is told. */
static struct mc_stage_chunk *take(struct fixture *f, bool lent, uint32_t held, int want)
{
	struct ask a = {.lane = &f->lane, .lent = lent, .held = held};

	do
		mc_worker_call(f->lane.worker, ask_run, &a);
	while (a.status == -EAGAIN && __atomic_load_n(&f->lane.calls, __ATOMIC_ACQUIRE));
	/* The answer may have come behind the last question. */
	if (a.status == -EAGAIN && want != -EAGAIN)
		mc_worker_call(f->lane.worker, ask_run, &a);
	assert_int_equal(a.status, want);
	return a.status ? NULL : a.chunk;
}

static void test_take_and_give(void **state)
{
	struct fixture *f = *state;
	struct mc_stage_chunk *c[4];

	/* 64 KiB: half for us, half to lend; four chunks of 8 KiB each. */
	for (int i = 0; i < 4; i++)
		c[i] = take(f, false, 0, 0);
	assert_int_equal(nr_regs, 1);
	assert_int_equal(reg_desc.len, 4 * 8192);
	assert_int_equal(reg_desc.access, MC_ACCESS_LOCAL);
	for (int i = 0; i < 4; i++)
		for (int j = 0; j < i; j++)
			assert_true(llabs(c[i]->addr - c[j]->addr) >= 8192);
	take(f, false, 0, -EAGAIN);
	memset(c[2]->addr, 1, 8192);
	mc_stage_give(&f->lane.stage->own, c[2]);
	assert_ptr_equal(take(f, false, 0, 0), c[2]);
}

static void test_half_for_one(void **state)
{
	struct fixture *f = *state;
	struct mc_stage_chunk *c = take(f, true, 0, 0);

	assert_int_equal(reg_desc.access, MC_ACCESS_ALL);
	assert_int_equal(f->lane.stage->lent.blob_len, 3);
	take(f, true, 1, 0);
	take(f, true, 2, -EAGAIN); /* two of four are enough for one path */
	take(f, true, 0, 0);
	mc_stage_give(&f->lane.stage->lent, c);
}

static void test_no_registration(void **state)
{
	struct fixture *f = *state;

	reg_status = -ENOTSUP; /* the transport registers nothing: fine */
	assert_non_null(take(f, false, 0, 0));
	assert_null(f->lane.stage->own.region);
}

static void test_failure_then_success(void **state)
{
	struct fixture *f = *state;

	reg_status = -ENOMEM;
	take(f, false, 0, -ENOMEM);
	reg_status = 0;
	assert_non_null(take(f, false, 0, 0));
	assert_int_equal(nr_regs, 2);
	mc_stage_lane_close(&f->lane);
	assert_int_equal(nr_unregs, 1);
	assert_null(f->lane.stage);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes),
		cmocka_unit_test_setup_teardown(test_take_and_give, setup, teardown),
		cmocka_unit_test_setup_teardown(test_half_for_one, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_registration, setup, teardown),
		cmocka_unit_test_setup_teardown(test_failure_then_success, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
