/* SPDX-License-Identifier: Apache-2.0 */
/* Ranges per NUMA node, with a kernel that says what the test laid out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "core/numa.h"
#include "core/util/check.h"

#define MIB (UINT64_C(1) << 20)
#define BASE ((const char *)(UINT64_C(1) << 40))

/* The layout: node of each piece, up to its end; -2 is untouched. */
struct piece {
	uint64_t end;
	int node;
};
static const struct piece *layout;
static size_t nr_asked, nr_calls;
static int answer;

static int fake_query(size_t nr, void **pages, int *ret_nodes)
{
	nr_calls++;
	for (size_t i = 0; i < nr; i++) {
		int64_t off = (const char *)pages[i] - BASE;
		const struct piece *p = layout;

		assert_int_equal((uintptr_t)pages[i] % 4096, 0);
		nr_asked++;
		while (off >= 0 && (uint64_t)off >= p->end)
			p++;
		ret_nodes[i] = p->node == -2 ? -ENOENT : p->node;
	}
	return answer;
}

static struct {
	uint64_t off, len;
	int node;
} got[MC_NUMA_RANGES_MAX + 1];
static size_t nr_got;

static int emit(void *ctx, uint64_t off, uint64_t len, int node)
{
	assert_true(nr_got < MC_ARRAY_SIZE(got));
	assert_int_equal(off, nr_got ? got[nr_got - 1].off + got[nr_got - 1].len : 0);
	got[nr_got].off = off;
	got[nr_got].len = len;
	got[nr_got++].node = node;
	return ctx ? *(int *)ctx : 0;
}

static void run(const struct piece *p, const char *addr, uint64_t len)
{
	layout = p;
	nr_asked = nr_calls = nr_got = 0;
	answer = 0;
	mc_numa_query_hook = fake_query;
	assert_int_equal(mc_numa_ranges(addr, len, emit, NULL), 0);
	assert_int_equal(got[nr_got - 1].off + got[nr_got - 1].len, len);
}

static void test_one_node(void **state)
{
	const struct piece p[] = {{UINT64_MAX, 1}};

	run(p, BASE, 1);
	assert_int_equal(nr_got, 1);
	assert_int_equal(got[0].node, 1);
	/* 8 GiB: 4096 steps, the last byte, and no more. */
	run(p, BASE + 17, 8192 * MIB);
	assert_int_equal(nr_got, 1);
	assert_true(nr_asked <= 4098 && nr_calls <= 9);
}

static void test_boundaries_are_found_to_the_page(void **state)
{
	const struct piece p[] = {{5 * MIB + 3 * 4096, 0}, {9 * MIB, 1}, {UINT64_MAX, 2}};

	run(p, BASE, 16 * MIB);
	assert_int_equal(nr_got, 3);
	assert_int_equal(got[1].off, 5 * MIB + 3 * 4096);
	assert_int_equal(got[1].node, 1);
	assert_int_equal(got[2].off, 9 * MIB);
	assert_int_equal(got[2].node, 2);
	/* From an odd address the ranges still end at pages. */
	run(p, BASE + 100, 16 * MIB);
	assert_int_equal(nr_got, 3);
	assert_int_equal(got[1].off, 5 * MIB + 3 * 4096 - 100);
	/* A buffer smaller than a step that crosses one. */
	run(p, BASE + 5 * MIB, 6 * 4096);
	assert_int_equal(nr_got, 2);
	assert_int_equal(got[1].off, 3 * 4096);
}

static void test_untouched_pages(void **state)
{
	const struct piece head[] = {{4 * MIB, -2}, {8 * MIB, 1}, {12 * MIB, -2}, {UINT64_MAX, 1}};
	const struct piece mid[] = {{4 * MIB, 0}, {8 * MIB, -2}, {UINT64_MAX, 1}};
	const struct piece none[] = {{UINT64_MAX, -2}};

	run(head, BASE, 16 * MIB);
	assert_int_equal(nr_got, 1);
	assert_int_equal(got[0].node, 1);
	run(mid, BASE, 16 * MIB);
	assert_int_equal(nr_got, 2);
	assert_int_equal(got[0].node, 0);
	assert_int_equal(got[1].off, 8 * MIB);
	run(none, BASE, 16 * MIB);
	assert_int_equal(nr_got, 1);
	assert_int_equal(got[0].node, mc_numa_here());
}

static void test_interleaved_is_one_range(void **state)
{
	static struct piece p[512];

	for (size_t i = 0; i < MC_ARRAY_SIZE(p); i++)
		p[i] = (struct piece){(i + 1) * 2 * MIB, i % 3 == 0 ? 0 : 1};
	p[MC_ARRAY_SIZE(p) - 1].end = UINT64_MAX;
	run(p, BASE, 1024 * MIB);
	assert_int_equal(nr_got, 1);
	assert_int_equal(got[0].node, 1);
}

static void test_refused_and_stopped(void **state)
{
	const struct piece p[] = {{4 * MIB, 0}, {UINT64_MAX, 1}};
	int stop = -ENOSPC;

	run(p, BASE, 8 * MIB);
	assert_int_equal(nr_got, 2);
	nr_got = 0;
	assert_int_equal(mc_numa_ranges(BASE, 8 * MIB, emit, &stop), -ENOSPC);
	assert_int_equal(nr_got, 1);
	answer = -EPERM;
	nr_got = 0;
	assert_int_equal(mc_numa_ranges(BASE, 8 * MIB, emit, NULL), 0);
	assert_int_equal(nr_got, 1);
	assert_int_equal(got[0].node, mc_numa_here());
}

static int (*kernel)(size_t nr, void **pages, int *ret_nodes);

static void test_real_kernel(void **state)
{
	size_t len = 4 * MIB;
	char *mem = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(mem, MAP_FAILED);
	memset(mem, 1, len);
	mc_numa_query_hook = kernel;
	nr_got = 0;
	assert_int_equal(mc_numa_ranges(mem, len, emit, NULL), 0);
	assert_true(nr_got >= 1 && got[0].node >= 0);
	assert_int_equal(got[nr_got - 1].off + got[nr_got - 1].len, len);
	munmap(mem, len);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_node),
		cmocka_unit_test(test_boundaries_are_found_to_the_page),
		cmocka_unit_test(test_untouched_pages),
		cmocka_unit_test(test_interleaved_is_one_range),
		cmocka_unit_test(test_refused_and_stopped),
		cmocka_unit_test(test_real_kernel),
	};

	kernel = mc_numa_query_hook;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
