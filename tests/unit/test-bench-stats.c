/* SPDX-License-Identifier: Apache-2.0 */
/* The bench's histogram and its patterns. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "pattern.h"
#include "stats.h"

static struct bench_hist hist, other;

static void test_small_values_are_exact(void **state)
{
	bench_hist_init(&hist);
	assert_int_equal(bench_hist_percentile(&hist, 0.5), 0);
	for (uint64_t i = 1; i <= 50; i++)
		bench_hist_add(&hist, i);
	assert_int_equal(bench_hist_percentile(&hist, 0), 1);
	assert_int_equal(bench_hist_percentile(&hist, 0.5), 25);
	assert_int_equal(bench_hist_percentile(&hist, 0.98), 49);
	assert_int_equal(bench_hist_percentile(&hist, 1), 50);
	assert_true(bench_hist_mean(&hist) == 25.5);
}

/* A percentile is never below the true value and at most 1/64 above, over the whole range. */
static void test_error_is_bounded(void **state)
{
	for (int shift = 0; shift < 64; shift++) {
		for (uint64_t low = 0; low < 3; low++) {
			uint64_t value = (UINT64_C(1) << shift) + (low << (shift / 2));
			uint64_t p;

			bench_hist_init(&hist);
			bench_hist_add(&hist, value);
			bench_hist_add(&hist, UINT64_MAX);
			p = bench_hist_percentile(&hist, 0.5);
			assert_true(p >= value);
			assert_true(p - value <= value / 64);
			assert_true(bench_hist_percentile(&hist, 1) == UINT64_MAX);
		}
	}
}

static void test_percentile_is_capped_by_max(void **state)
{
	bench_hist_init(&hist);
	bench_hist_add(&hist, 1000001);
	assert_int_equal(bench_hist_percentile(&hist, 0.5), 1000001);
	assert_int_equal(hist.min, 1000001);
}

static void test_merge(void **state)
{
	bench_hist_init(&hist);
	bench_hist_init(&other);
	for (uint64_t i = 0; i < 100; i++) {
		bench_hist_add(&hist, 10);
		bench_hist_add(&other, 60);
	}
	bench_hist_merge(&hist, &other);
	assert_int_equal(hist.nr, 200);
	assert_int_equal(hist.min, 10);
	assert_int_equal(hist.max, 60);
	assert_int_equal(bench_hist_percentile(&hist, 0.5), 10);
	assert_int_equal(bench_hist_percentile(&hist, 0.51), 60);
}

/* Pieces cut anywhere hold the same bytes as the whole. */
static void test_pattern_pieces(void **state)
{
	uint8_t whole[256], piece[256];

	bench_pattern_fill(whole, sizeof whole, 7, 1000);
	for (size_t from = 0; from < 20; from++) {
		for (size_t len = 0; len < 40; len++) {
			memset(piece, 0, sizeof piece);
			bench_pattern_fill(piece, len, 7, 1000 + from);
			assert_memory_equal(piece, whole + from, len);
			assert_int_equal(piece[len], 0);
			assert_int_equal(bench_pattern_check(whole + from, len, 7, 1000 + from),
					 len);
		}
	}
}

static void test_pattern_finds_each_byte(void **state)
{
	uint8_t mem[77];

	bench_pattern_fill(mem, sizeof mem, 3, 5);
	for (size_t i = 0; i < sizeof mem; i++) {
		mem[i] ^= 0x10;
		assert_int_equal(bench_pattern_check(mem, sizeof mem, 3, 5), i);
		mem[i] ^= 0x10;
	}
	assert_int_equal(bench_pattern_check(mem, sizeof mem, 3, 5), sizeof mem);
}

/* Another seed, or the right bytes eight places off, differ early. */
static void test_pattern_depends_on_seed_and_place(void **state)
{
	uint8_t mem[64];

	bench_pattern_fill(mem, sizeof mem, 3, 4096);
	assert_true(bench_pattern_check(mem, sizeof mem, 4, 4096) < 8);
	assert_true(bench_pattern_check(mem, sizeof mem, 3, 4104) < 8);
	assert_true(bench_pattern_check(mem, sizeof mem, 3, 0) < 8);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_small_values_are_exact),
		cmocka_unit_test(test_error_is_bounded),
		cmocka_unit_test(test_percentile_is_capped_by_max),
		cmocka_unit_test(test_merge),
		cmocka_unit_test(test_pattern_pieces),
		cmocka_unit_test(test_pattern_finds_each_byte),
		cmocka_unit_test(test_pattern_depends_on_seed_and_place),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
