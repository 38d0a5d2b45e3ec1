/* SPDX-License-Identifier: Apache-2.0 */
/* Our own buffers: overlap rules, counting, lookups against changes, regions on devices. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/kind.h"
#include "core/lane.h"
#include "core/pages.h"
#include "core/segment.h"
#include "core/util/check.h"

#define PAGE 4096u
#define NR_PAGES 64

/* Two devices that only count. */
static struct fake {
	int regs, unregs, exports;
	int fail; /* what the next mem_reg answers */
	const char *kind;
	struct mc_job *then; /* takes the helper after the next mem_reg */
	struct mc_mem_desc desc;
} fakes[2];
static const char *const cpu_only[] = {"cpu", NULL};
static const char *const odd_only[] = {"odd", NULL};

static struct mc_engine engine;
static struct mc_device devices[2], *device_list[2];
static struct mc_lane lanes[2], *lane_list[2];
static struct mc_plugin_desc plugin_desc;
static struct mc_plugin plugin;
static struct mc_transport_ops ops;
static struct mc_error err;
static char *pages;

static int fake_reg(void *inst, void *region, const struct mc_mem_desc *desc, struct mc_error *e)
{
	struct fake *f = inst;

	if (f->fail)
		return mc_fail(e, f->fail, "no more of it");
	f->regs++;
	f->desc = *desc;
	if (f->then)
		mc_helpers_run_as(engine.helpers, f->then, MC_JOB_URGENT);
	f->then = NULL;
	return 0;
}

static void fake_unreg(void *inst, void *region)
{
	((struct fake *)inst)->unregs++;
}

static int fake_export(void *inst, void *region, void *blob, size_t cap)
{
	((struct fake *)inst)->exports++;
	memcpy(blob, "key", 3);
	return 3;
}

static int setup(void **state)
{
	static const char matrix[] = "{\"*\": [[\"fake:a\"], [\"fake:b\"]]}";
	struct mc_matrix *parsed;

	memset(&engine, 0, sizeof engine);
	memset(fakes, 0, sizeof fakes);
	memset(&plugin, 0, sizeof plugin);
	memset(&plugin_desc, 0, sizeof plugin_desc);
	plugin.desc = &plugin_desc;
	assert_int_equal(mc_config_new(&engine.config, &err), 0);
	engine.set = mc_config_settings(engine.config);
	engine.registry = mc_config_registry(engine.config);
	assert_int_equal(mc_matrix_parse(matrix, &parsed, &err), 0);
	engine.matrix = parsed;
	assert_int_equal(mc_helpers_new(&engine.helpers), 0);
	assert_int_equal(mc_kinds_new(&engine), 0);
	assert_int_equal(mc_local_new(&engine), 0);
	ops = (struct mc_transport_ops){.size = sizeof ops, .region_size = 16, .mem_reg = fake_reg,
					.mem_unreg = fake_unreg, .mem_export = fake_export};
	plugin.has_mem_export = true;
	for (uint16_t i = 0; i < 2; i++) {
		lane_list[i] = &lanes[i];
		lanes[i] = (struct mc_lane){.device = &devices[i], .inst = &fakes[i], .ops = &ops};
		devices[i] = (struct mc_device){
			.engine = &engine, .idx = i, .transport = "fake", .name = i ? "b" : "a", .plugin = &plugin,
			.ops = &ops, .nr_lanes = 1, .lanes = &lane_list[i], .caps.local_kinds = cpu_only};
		snprintf(devices[i].label, sizeof devices[i].label, "fake:%s", devices[i].name);
		device_list[i] = &devices[i];
	}
	engine.devices = device_list;
	engine.nr_devices = 2;
	pages = mc_pages_alloc(NR_PAGES * PAGE, -1);
	memset(pages, 1, NR_PAGES * PAGE);
	return 0;
}

static int teardown(void **state)
{
	mc_local_close(&engine);
	assert_int_equal(fakes[0].regs, fakes[0].unregs);
	assert_int_equal(fakes[1].regs, fakes[1].unregs);
	mc_local_free(&engine);
	mc_kinds_free(&engine);
	mc_helpers_free(engine.helpers);
	mc_matrix_free(engine.matrix);
	mc_config_free(engine.config);
	mc_pages_free(pages, NR_PAGES * PAGE);
	return 0;
}

static int reg_at(unsigned first, unsigned nr, const char *location)
{
	return mc_local_register(&engine, pages + first * PAGE, nr * PAGE, location, MC_ACCESS_LOCAL,
				 mc_deadline(MC_SEC), &err);
}

static int unreg_at(unsigned first)
{
	return mc_local_unregister(&engine, pages + first * PAGE, mc_deadline(MC_SEC), &err);
}

static bool known(unsigned first, unsigned nr)
{
	struct mc_local_buf *buf = mc_local_find(&engine, pages + first * PAGE, nr * PAGE);

	if (buf)
		mc_local_put(buf);
	return buf != NULL;
}

static void test_lookup(void **state)
{
	struct mc_local_buf *buf;

	assert_false(known(0, 1));
	assert_int_equal(reg_at(10, 4, "cpu:0"), 0);
	assert_int_equal(reg_at(2, 2, "cpu:0"), 0);
	assert_int_equal(reg_at(20, 1, "cpu:0"), 0);
	assert_true(known(10, 4));
	assert_true(known(13, 1));
	assert_true(known(2, 1));
	assert_true(known(20, 1));
	assert_false(known(9, 1));
	assert_false(known(9, 2));
	assert_false(known(13, 2));
	assert_false(known(14, 1));
	assert_null(mc_local_find(&engine, pages + 10 * PAGE, UINT64_MAX));
	/* Its rights are none, so no peer finds it. */
	assert_null(mc_local_find_range(&engine, (uintptr_t)pages + 10 * PAGE, 1, MC_ACCESS_REMOTE_READ));
	buf = mc_local_find(&engine, pages + 11 * PAGE, 1);
	assert_non_null(buf);
	assert_string_equal(buf->location, "cpu:0");
	assert_string_equal(buf->kind, "cpu");
	assert_int_equal(buf->users, 1);
	assert_non_null(buf->regions[0]);
	assert_non_null(buf->regions[1]);
	mc_local_put(buf);
	assert_int_equal(fakes[0].regs, 3);
	assert_int_equal(unreg_at(10), 0);
	assert_false(known(10, 1));
	assert_true(known(2, 2));
	assert_int_equal(fakes[0].unregs, 1);
}

static void test_overlap(void **state)
{
	assert_int_equal(reg_at(10, 10, "*"), 0);
	/* Equal and inside count. */
	assert_int_equal(reg_at(10, 10, "cpu:0"), 0);
	assert_int_equal(reg_at(12, 2, "*"), 0);
	assert_int_equal(fakes[0].regs, 1);
	/* In part, around, with other rights, elsewhere. */
	assert_int_equal(reg_at(5, 6, "*"), -EEXIST);
	assert_non_null(strstr(err.text, "in part"));
	assert_int_equal(reg_at(19, 2, "*"), -EEXIST);
	assert_int_equal(reg_at(9, 12, "*"), -EEXIST);
	assert_int_equal(mc_local_register(&engine, pages + 12 * PAGE, PAGE, "*", MC_ACCESS_ALL,
					   mc_deadline(MC_SEC), &err), -EEXIST);
	assert_non_null(strstr(err.text, "rights"));
	assert_int_equal(reg_at(12, 1, "cpu:7"), -EEXIST);
	assert_non_null(strstr(err.text, "location"));
	/* Beside it is no overlap. */
	assert_int_equal(reg_at(20, 1, "*"), 0);
	assert_int_equal(reg_at(9, 1, "*"), 0);
	/* As often as it was registered, in any order. */
	assert_int_equal(unreg_at(13), -ENOENT);
	assert_non_null(strstr(err.text, "lies in"));
	assert_int_equal(unreg_at(10), 0);
	assert_int_equal(unreg_at(10), 0);
	assert_true(known(10, 10));
	assert_int_equal(unreg_at(10), -ENOENT);
	assert_int_equal(unreg_at(12), 0);
	assert_false(known(12, 1));
	assert_int_equal(unreg_at(12), -ENOENT);
	assert_non_null(strstr(err.text, "not registered"));
	assert_int_equal(reg_at(5, 4, "*"), 0);
}

/* Ranges inside one that come and go leave nothing behind. */
static void test_inside(void **state)
{
	size_t before = 0;

	assert_int_equal(reg_at(0, NR_PAGES, "*"), 0);
	for (int i = 0; i < 20000; i++) {
		assert_int_equal(mc_local_register(&engine, pages + i, 8, "*", MC_ACCESS_LOCAL,
						   mc_deadline(MC_SEC), &err), 0);
		assert_int_equal(mc_local_unregister(&engine, pages + i, mc_deadline(MC_SEC), &err), 0);
		if (i == 100)
			before = mallinfo2().uordblks;
	}
	assert_true(mallinfo2().uordblks < before + 4096);
	assert_int_equal(unreg_at(0), 0);
	assert_int_equal(unreg_at(0), -ENOENT);
}

static void test_devices(void **state)
{
	/* One device reaches another kind only. */
	devices[1].caps.local_kinds = odd_only;
	assert_int_equal(reg_at(0, 1, "*"), 0);
	assert_int_equal(fakes[0].regs, 1);
	assert_int_equal(fakes[1].regs, 0);
	assert_int_equal(fakes[0].exports, 0); /* peers may not see it */
	assert_ptr_equal(fakes[0].desc.addr, pages);
	assert_string_equal(fakes[0].desc.kind, "cpu");
	devices[1].caps.local_kinds = cpu_only;
	/* A refusal leaves nothing behind, on any device. */
	fakes[1].fail = -ENOMEM;
	assert_int_equal(reg_at(1, 1, "*"), -ENOMEM);
	assert_string_equal(err.text, "no more of it");
	assert_false(known(1, 1));
	assert_int_equal(fakes[0].regs, 2);
	assert_int_equal(fakes[0].unregs, 1);
	fakes[1].fail = 0;
	assert_int_equal(reg_at(1, 1, "*"), 0);
	/* A transport that needs no registration. */
	fakes[0].fail = -ENOTSUP;
	assert_int_equal(reg_at(2, 1, "*"), 0);
	fakes[0].fail = 0;
	devices[0].caps.max_reg = PAGE;
	assert_int_equal(reg_at(3, 2, "*"), -E2BIG);
	assert_non_null(strstr(err.text, "in parts"));
	assert_int_equal(reg_at(3, 1, "nosuch:0"), -ENOENT);
}

static sem_t gate, entered;

static void hold_helper(struct mc_job *job)
{
	sem_post(&entered);
	while (sem_wait(&gate) != 0)
		;
}

/* Helpers that are busy elsewhere do not hold registering up beyond its time; what one device did
 * is undone when they are free. */
static void test_busy_helpers(void **state)
{
	struct mc_job hold[2] = {{.run = hold_helper}, {.run = hold_helper}};

	sem_init(&gate, 0, 0);
	sem_init(&entered, 0, 0);
	/* It is no excuse for going without the device. */
	plugin_desc.flags = MC_PLUGIN_OPTIONAL;
	mc_helpers_run(engine.helpers, &hold[0]);
	sem_wait(&entered);
	fakes[0].then = &hold[1];
	for (uint64_t span = 20 * MC_MSEC; fakes[0].then; span *= 2) {
		assert_int_equal(mc_local_register(&engine, pages, PAGE, "*", MC_ACCESS_ALL, mc_deadline(span),
						   &err), -ETIMEDOUT);
		assert_non_null(strstr(err.text, "try again"));
	}
	sem_wait(&entered);
	assert_false(known(0, 1));
	assert_int_equal(fakes[0].regs, 1);
	assert_int_equal(fakes[0].unregs, 0);
	/* Both are held now: nothing begins. */
	assert_int_equal(mc_local_register(&engine, pages, PAGE, "*", MC_ACCESS_ALL, mc_deadline(MC_MSEC), &err),
			 -ETIMEDOUT);
	assert_int_equal(fakes[0].regs, 1);
	assert_int_equal(fakes[1].regs, 0);
	sem_post(&gate);
	sem_post(&gate);
	assert_int_equal(mc_helpers_wait(engine.helpers, 0, mc_deadline(60 * MC_SEC)), 0);
	assert_int_equal(fakes[0].unregs, 1);
	assert_int_equal(reg_at(0, 1, "*"), 0);
	sem_destroy(&gate);
	sem_destroy(&entered);
}

/* What an optional device cannot register the others transfer, unless the user insists on it. */
static void test_optional(void **state)
{
	struct mc_local_buf *buf;

	plugin_desc.flags = MC_PLUGIN_OPTIONAL;
	fakes[0].fail = -ENOMEM;
	assert_int_equal(reg_at(0, 1, "*"), 0);
	buf = mc_local_find_range(&engine, (uint64_t)(uintptr_t)pages, PAGE, MC_ACCESS_LOCAL);
	assert_non_null(buf);
	assert_true(buf->lacks && buf->blobs[0].lacks && !buf->blobs[1].lacks);
	assert_null(buf->regions[0]);
	mc_local_put(buf);
	devices[0].require = true;
	assert_int_equal(reg_at(1, 1, "*"), -ENOMEM);
	devices[0].require = false;
	fakes[1].fail = -EPERM;
	assert_int_equal(reg_at(1, 1, "*"), -ENOMEM);
	assert_int_equal(fakes[1].regs, fakes[1].unregs + 1);
}

static void test_alloc(void **state)
{
	void *addr = NULL;
	char *p, seen[2];

	devices[1].caps.flags = MC_CAP_LOCAL_STREAMS;
	assert_int_equal(mc_local_alloc(&engine, "cpu:0", 3 * PAGE - 1, 0, MC_FOREVER, &addr, &err), 0);
	p = addr;
	memset(p, 1, 3 * PAGE);
	/* Whoever registers it may have others map it; they do so by the memfd alone. */
	assert_true(fakes[0].desc.share_fd >= 0);
	assert_int_equal(fakes[0].desc.share_offset, 0);
	assert_int_equal(pread(fakes[0].desc.share_fd, seen, 2, 3 * PAGE - 2), 2);
	assert_memory_equal(seen, "\1\1", 2);
	assert_int_equal(mc_local_unregister(&engine, p, MC_FOREVER, &err), -EINVAL);
	assert_non_null(strstr(err.text, "mc_memory_free"));
	assert_int_equal(mc_local_register(&engine, p + PAGE, PAGE, "*", 0, MC_FOREVER, &err), 0);
	assert_int_equal(mc_local_free_memory(&engine, p, MC_FOREVER, &err), -EBUSY);
	assert_int_equal(mc_local_unregister(&engine, p + PAGE, MC_FOREVER, &err), 0);
	assert_int_equal(mc_local_free_memory(&engine, p + PAGE, MC_FOREVER, &err), -ENOENT);
	assert_int_equal(mc_local_free_memory(&engine, p, MC_FOREVER, &err), 0);
	assert_int_equal(reg_at(0, 1, "*"), 0);
	assert_int_equal(fakes[0].desc.share_fd, -1);
	assert_int_equal(mc_local_free_memory(&engine, pages, MC_FOREVER, &err), -EINVAL);
	devices[1].caps.flags = 0;
	assert_int_equal(mc_local_alloc(&engine, "cpu:0", PAGE, 0, MC_FOREVER, &addr, &err), 0);
	assert_int_equal(fakes[0].desc.share_fd, -1);
	/* What is left goes with the engine. */
}

static void *put_later(void *arg)
{
	struct timespec pause = {.tv_nsec = 20000000};

	nanosleep(&pause, NULL);
	assert_int_equal(fakes[0].unregs, 0);
	mc_local_put(arg);
	return NULL;
}

static void test_unregister_waits(void **state)
{
	struct mc_local_buf *buf;
	pthread_t thread;

	assert_int_equal(reg_at(0, 4, "*"), 0);
	buf = mc_local_find(&engine, pages, PAGE);
	assert_non_null(buf);
	pthread_create(&thread, NULL, put_later, buf);
	assert_int_equal(unreg_at(0), 0);
	pthread_join(thread, NULL);
	assert_int_equal(fakes[0].unregs, 1);
}

static bool stop;

/* What is always there is always found; what comes and goes is whole when it is found. */
static void *look(void *arg)
{
	unsigned long *misses = arg;

	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		struct mc_local_buf *buf = mc_local_find(&engine, pages + PAGE, PAGE);

		if (!buf)
			++*misses;
		else
			mc_local_put(buf);
		buf = mc_local_find(&engine, pages + 9 * PAGE, PAGE);
		if (buf) {
			if (buf->base != (uintptr_t)pages + 8 * PAGE || !buf->regions[0])
				++*misses;
			mc_local_put(buf);
		}
	}
	return NULL;
}

static void test_lookup_against_changes(void **state)
{
	unsigned long misses[2] = {0};
	pthread_t threads[2];

	stop = false;
	assert_int_equal(reg_at(0, 4, "*"), 0);
	for (size_t i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, look, &misses[i]);
	for (int i = 0; i < 300; i++) {
		assert_int_equal(reg_at(8, 4, "*"), 0);
		assert_int_equal(unreg_at(8), 0);
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	for (size_t i = 0; i < 2; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(misses[i], 0);
	}
}

static void count(const struct mc_local_buf *buf, void *arg)
{
	++*(int *)arg;
}

static void test_each(void **state)
{
	uint32_t before, after;
	int n = 0;

	before = mc_local_each(&engine, count, &n);
	assert_int_equal(reg_at(0, 1, "*"), 0);
	after = mc_local_each(&engine, count, &n);
	assert_int_equal(n, 0); /* peers may not see it */
	assert_int_equal(after, before + 1);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_lookup), TEST(test_overlap), TEST(test_inside), TEST(test_devices), TEST(test_optional),
		TEST(test_busy_helpers),
		TEST(test_alloc),
		TEST(test_unregister_waits), TEST(test_lookup_against_changes), TEST(test_each),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
