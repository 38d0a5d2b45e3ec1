/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Engines of one pool whose metadata services are not the same: who comes later keeps
 * out as long as the first one lives, and an engine whose slot was taken lets go.
 */
#include "cxl-fixture.h"

struct worlds {
	struct fake_world *w[2]; /* a metadata service each */
	struct fake_plugin plugin;
	struct fake_inst *inst[2];
};

static void begin(struct worlds *p)
{
	struct mc_error err = {0};

	assert_int_equal(pool_make("pool", POOL_SIZE, 7), 0);
	assert_int_equal(fake_plugin_init(&mc_plugin_desc, MC_KIND_TRANSPORT, &p->plugin, &err), 0);
	for (int i = 0; i < 2; i++)
		p->w[i] = fake_world_new(0);
}

static void end(struct worlds *p)
{
	for (int i = 0; i < 2; i++) {
		if (p->inst[i])
			fake_close(p->inst[i], BOUND);
		assert_int_equal(fake_world_free(p->w[i]), 0);
	}
}

/* Longer than a busy machine leaves a thread waiting. */
static void opened(struct worlds *p, int i)
{
	struct mc_error err = {0};

	if (engine_open(p->w[i], &p->plugin, "pool", "quarantine=1s", &p->inst[i], &err) < 0)
		fail_msg("%s", err.text);
}

static bool is_joined(void *inst)
{
	return ledger_of(inst)->joined && ledger_of(inst)->step == CXL_IDLE;
}

static bool is_refused(void *inst)
{
	return ledger_of(inst)->joined || ledger_of(inst)->status == -EXDEV;
}

static bool is_gone(void *inst)
{
	return ((struct fake_inst *)inst)->last_event == MC_DEVICE_GONE;
}

/* Both go on until one says so. */
static void until(struct worlds *p, bool (*done)(void *inst), struct fake_inst *inst)
{
	uint64_t bound = fake_real_ns() + BOUND;

	while (!done(inst) && fake_real_ns() < bound)
		for (int i = 0; i < 2; i++)
			fake_run(p->w[i], NULL, NULL, MC_MSEC);
	assert_true(done(inst));
}

static void test_other_service(void **state)
{
	struct worlds p = {0};
	struct cxl_ident ident;
	struct mc_error err;
	struct fake_buf *buf;
	uint64_t quiet;

	begin(&p);
	opened(&p, 0);
	assert_int_equal(fake_run(p.w[0], is_joined, p.inst[0], BOUND), 0);
	assert_int_equal(fake_buf_new_owned(p.inst[0], 64 << 10, MC_ACCESS_ALL, &buf, &err), 0);
	opened(&p, 1);
	until(&p, is_refused, p.inst[1]);
	assert_false(ledger_of(p.inst[1])->joined);
	assert_non_null(strstr(ledger_of(p.inst[1])->why, "by another metadata service or cluster"));
	/* The first one has lost nothing. */
	assert_int_equal(p.inst[0]->last_event, 0);
	cxl_slot_read(&device_of(p.inst[0])->pool, 0, &ident);
	assert_true(ident.generation == p.inst[0]->generation && ident.nr_extents == 1);
	/* It stops, and beats no more: after the quarantine the other one is in, and has what it had. */
	quiet = fake_real_ns();
	assert_int_equal(fake_run(p.w[1], is_joined, p.inst[1], BOUND), 0);
	assert_true(fake_real_ns() - quiet >= 500 * MC_MSEC);
	/* It goes on, and finds that its place is another's. */
	until(&p, is_gone, p.inst[0]);
	assert_non_null(strstr(p.inst[0]->event_why, "open the engine anew"));
	assert_int_equal(fake_buf_free(buf, BOUND), 0);
	cxl_slot_read(&device_of(p.inst[1])->pool, ledger_of(p.inst[1])->slot, &ident);
	assert_true(ident.generation == p.inst[1]->generation);
	end(&p);
}

static void test_formatted_anew(void **state)
{
	struct worlds p = {0};
	struct cxl_place place;
	struct cxl_geometry g;
	uint8_t uuid[CXL_UUID_LEN] = {9}, first[CXL_PAGE];
	struct cxl_ident ident;
	struct mc_error err;
	char path[128];

	begin(&p);
	opened(&p, 0);
	assert_int_equal(fake_run(p.w[0], is_joined, p.inst[0], BOUND), 0);
	pool_path("pool", path);
	assert_int_equal(cxl_device_find_path(path, &place, &err), 0);
	assert_int_equal(cxl_pool_format(&place, 0, 0, uuid, true, &g, &err), 0);
	/* Another engine has the slot by now. */
	ident = (struct cxl_ident){.generation = 77, .lanes = 1, .name = "other"};
	cxl_slot_write(&device_of(p.inst[0])->pool, 0, &ident, NULL);
	memcpy(first, device_of(p.inst[0])->pool.base + g.slots_offset, sizeof first);
	until(&p, is_gone, p.inst[0]);
	/* And keeps it, also when the first one closes. */
	fake_close(p.inst[0], BOUND);
	p.inst[0] = NULL;
	opened(&p, 1);
	assert_memory_equal(first, device_of(p.inst[1])->pool.base + g.slots_offset, sizeof first);
	end(&p);
}

/* Names in a pool are anybody's bytes, and go to terminals. */
static void test_names(void **state)
{
	static const char *const told[][2] = {
		{"node\303\274", "node\303\274"}, {"\033[2Ja\nb\177", "?[2Ja?b?"}, {"a\303", "a?"}, {"\300\257\377", "???"},
		{"\302\233x", "??x"}, {"\355\240\200", "???"}, {"\360\237\230\200", "\360\237\230\200"}, {"\364\220\200\200", "????"},
	};
	struct cxl_ident ident = {.generation = 5}, seen;
	struct cxl_place place;
	struct cxl_pool pool;
	char path[128];

	assert_int_equal(pool_make("pool", POOL_SIZE, 7), 0);
	pool_path("pool", path);
	assert_int_equal(cxl_device_find_path(path, &place, NULL), 0);
	assert_int_equal(cxl_pool_open(&pool, &place, NULL), 0);
	for (size_t i = 0; i < sizeof told / sizeof told[0]; i++) {
		snprintf(ident.name, sizeof ident.name, "%s", told[i][0]);
		cxl_slot_write(&pool, 1, &ident, NULL);
		cxl_slot_read(&pool, 1, &seen);
		assert_string_equal(seen.name, told[i][1]);
	}
	cxl_pool_close(&pool);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, pool_setup, pool_teardown)
	const struct CMUnitTest tests[] = {TEST(test_other_service), TEST(test_formatted_anew), TEST(test_names)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
