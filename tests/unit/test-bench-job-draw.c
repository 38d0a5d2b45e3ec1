/* SPDX-License-Identifier: Apache-2.0 */
/* What a job draws: shares, zipf, places, targets, and when requests are due, by a clock of the test. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <math.h>
#include <string.h>

#include "job_draw.h"

#define DRAWS 200000

static struct bench_job job;
static struct bench_draw draw;
static struct bench_entry entries[256];
static struct bench_part part;

static int setup(void **state)
{
	bench_job_init(&job);
	return 0;
}

static void start(uint32_t nr_peers, uint64_t idx, uint64_t seed, uint64_t bytes)
{
	struct mc_error err = {0};

	if (bench_draw_init(&draw, &job, nr_peers, idx, seed, bytes, &err) < 0)
		fail_msg("%s", err.text);
}

/* Off by five standard deviations of a share p of nr at the most. */
static void assert_share(double got, double p, double nr)
{
	if (fabs(got - p) > 5 * sqrt(p * (1 - p) / nr) + 1e-9)
		fail_msg("a share of %g instead of %g", got, p);
}

static void test_rng(void **state)
{
	struct bench_rng a = {1}, b = {1}, c = {2};
	double sum = 0;

	assert_true(bench_rng_next(&a) == bench_rng_next(&b));
	assert_true(bench_rng_next(&a) != bench_rng_next(&c));
	for (int i = 0; i < DRAWS; i++) {
		double u = bench_rng_unit(&a);

		assert_true(u >= 0 && u < 1);
		sum += u;
		assert_true(bench_rng_below(&a, 7) < 7);
	}
	assert_true(fabs(sum / DRAWS - 0.5) < 0.01);
	assert_int_equal(bench_rng_below(&a, 1), 0);
}

static void test_zipf(void **state)
{
	static const double exponents[] = {0.01, 0.5, 0.99, 1, 1.1, 2, 10};

	for (size_t e = 0; e < sizeof exponents / sizeof *exponents; e++) {
		struct bench_rng rng = {42};
		struct bench_zipf zipf;
		double all = 0;
		int hits[10] = {0};

		bench_zipf_init(&zipf, 10, exponents[e]);
		for (int i = 0; i < DRAWS; i++) {
			uint64_t k = bench_zipf_draw(&zipf, &rng);

			assert_true(k < 10);
			hits[k]++;
		}
		for (int k = 0; k < 10; k++)
			all += pow(k + 1, -exponents[e]);
		for (int k = 0; k < 10; k++)
			assert_share((double)hits[k] / DRAWS, pow(k + 1, -exponents[e]) / all, DRAWS);
		/* One place, and very many. */
		bench_zipf_init(&zipf, 1, exponents[e]);
		assert_int_equal(bench_zipf_draw(&zipf, &rng), 0);
		bench_zipf_init(&zipf, UINT64_C(1) << 46, exponents[e]);
		for (int i = 0; i < 1000; i++)
			assert_true(bench_zipf_draw(&zipf, &rng) < UINT64_C(1) << 46);
	}
}

static void set_mix(void)
{
	job.nr_blocks = 3;
	job.blocks[0] = (struct bench_job_block){4096, 6};
	job.blocks[1] = (struct bench_job_block){65536, 3};
	job.blocks[2] = (struct bench_job_block){1000, 1};
}

static void test_layout(void **state)
{
	struct bench_layout l;
	struct mc_error err = {0};
	uint64_t at = 0, first = 0;

	set_mix();
	assert_int_equal(bench_layout_init(&l, &job, 16 << 20, &err), 0);
	for (size_t i = 0; i < l.nr; i++) {
		assert_int_equal(l.classes[i].offset, at);
		assert_int_equal(l.classes[i].first, first);
		at += l.classes[i].nr * l.classes[i].size;
		first += l.classes[i].nr;
	}
	assert_int_equal(l.bytes, at);
	assert_int_equal(l.nr_places, first);
	assert_true(at <= 16 << 20 && at > (16 << 20) - 3 * 65536);
	/* Of the bytes each has as much as it will move. */
	assert_true(fabs((double)l.classes[0].nr / (double)l.classes[1].nr - 2) < 0.1);
	assert_int_equal(bench_layout_init(&l, &job, 65536, &err), -EINVAL);
	assert_non_null(strstr(err.text, "--footprint"));
	job.nr_blocks = 1;
	assert_int_equal(bench_layout_init(&l, &job, 40960, &err), 0);
	assert_int_equal(l.nr_places, 10);
}

static void test_mix(void **state)
{
	int hits[3] = {0}, reads = 0;

	set_mix();
	job.batch = 1;
	job.locality = BENCH_UNIFORM;
	job.read_share = 0.3;
	start(1, 0, 5, 16 << 20);
	for (int i = 0; i < DRAWS; i++) {
		const struct bench_layout *l = &draw.layout;
		int class;

		assert_true(bench_draw_part(&draw, entries, &part));
		assert_true(part.nr == 1 && part.first && part.last && part.bytes == entries[0].len);
		class = entries[0].len == 4096 ? 0 : entries[0].len == 65536 ? 1 : 2;
		hits[class]++;
		reads += entries[0].read;
		/* The place has this size, and is where it says. */
		assert_true(entries[0].place >= l->classes[class].first &&
			    entries[0].place < l->classes[class].first + l->classes[class].nr);
		assert_int_equal(entries[0].offset, l->classes[class].offset + (entries[0].place - l->classes[class].first) *
									       l->classes[class].size);
	}
	assert_share((double)hits[0] / DRAWS, 0.6, DRAWS);
	assert_share((double)hits[1] / DRAWS, 0.3, DRAWS);
	assert_share((double)hits[2] / DRAWS, 0.1, DRAWS);
	assert_share((double)reads / DRAWS, 0.3, DRAWS);
}

static bool equal(const struct bench_entry *a, const struct bench_entry *b, size_t nr)
{
	for (size_t i = 0; i < nr; i++)
		if (a[i].place != b[i].place || a[i].offset != b[i].offset || a[i].len != b[i].len ||
		    a[i].local != b[i].local || a[i].peer != b[i].peer || a[i].read != b[i].read)
			return false;
	return true;
}

static void test_same_seed(void **state)
{
	struct bench_entry first[16];
	size_t nr;

	job.locality = BENCH_UNIFORM;
	start(3, 1, 9, 16 << 20);
	bench_draw_part(&draw, first, &part);
	nr = part.nr;
	assert_in_range(nr, 1, 16);
	start(3, 1, 9, 16 << 20);
	bench_draw_part(&draw, entries, &part);
	assert_int_equal(part.nr, nr);
	assert_true(equal(first, entries, nr));
	start(3, 2, 9, 16 << 20);
	bench_draw_part(&draw, entries, &part);
	assert_false(equal(first, entries, nr));
}

/* Every place as often as there are passes, in order; the last batch is what is left. */
static void test_passes(void **state)
{
	int seen[10] = {0}, nr = 0, parts = 0;

	job.passes = 2;
	job.batch = 7;
	start(1, 0, 1, 10 * 65536 + 1);
	while (bench_draw_part(&draw, entries, &part)) {
		parts++;
		assert_int_equal(part.nr, parts == 3 ? 6 : 7);
		for (size_t i = 0; i < part.nr; i++) {
			assert_int_equal(entries[i].place, nr++ % 10);
			assert_int_equal(entries[i].local, i * 65536);
			seen[entries[i].place]++;
		}
	}
	assert_int_equal(parts, 3);
	for (int i = 0; i < 10; i++)
		assert_int_equal(seen[i], 2);
}

/* A request's layers go to one target, the next request to the next. */
static void test_layers(void **state)
{
	job.layers = 3;
	start(2, 1, 1, 16 << 20);
	for (uint32_t i = 0; i < 12; i++) {
		assert_true(bench_draw_part(&draw, entries, &part));
		assert_int_equal(part.layer, i % 3);
		assert_true(part.first == (i % 3 == 0) && part.last == (i % 3 == 2));
		assert_int_equal(part.peer, (1 + i / 3) % 2);
		assert_int_equal(entries[15].peer, part.peer);
	}
}

static void test_broadcast(void **state)
{
	job.broadcast = true;
	job.batch = 2;
	start(3, 0, 1, 16 << 20);
	assert_int_equal(bench_draw_cap(&job, 3), 6);
	assert_int_equal(bench_draw_area(&job), 2 * 65536);
	assert_true(bench_draw_part(&draw, entries, &part));
	assert_int_equal(part.nr, 6);
	assert_int_equal(part.bytes, 6 * 65536);
	for (uint32_t i = 0; i < 6; i++) {
		assert_int_equal(entries[i].peer, i % 3);
		assert_int_equal(entries[i].local, i / 3 * 65536);
		assert_int_equal(entries[i].place, i / 3);
	}
}

/* Open loop: what is due follows from the rate alone. */
static void test_pace(void **state)
{
	struct bench_pace pace;

	bench_pace_init(&pace, &job, 0, 1, 1000);
	assert_true(pace.ns_per_unit == 0);
	job.requests_per_s = 1000;
	bench_pace_init(&pace, &job, 1, 4, 5 * MC_SEC);
	/* The second of four threads: a quarter of the rate, a millisecond later than the first. */
	assert_int_equal(bench_pace_due(&pace), 5 * MC_SEC + MC_MSEC);
	bench_pace_add(&pace, 1);
	assert_int_equal(bench_pace_due(&pace), 5 * MC_SEC + 5 * MC_MSEC);
	bench_pace_add(&pace, 249);
	assert_int_equal(bench_pace_due(&pace), 6 * MC_SEC + MC_MSEC);
	job.requests_per_s = 0;
	job.bytes_per_s = 3e6;
	bench_pace_init(&pace, &job, 1, 2, 0);
	assert_int_equal(bench_pace_due(&pace), 0);
	for (int i = 0; i < 3000; i++)
		bench_pace_add(&pace, 1000);
	assert_int_equal(bench_pace_due(&pace), 2 * MC_SEC);
	/* Days of it lose nothing. */
	bench_pace_add(&pace, 1.5e6 * 86400);
	assert_int_equal(bench_pace_due(&pace), 86402 * MC_SEC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_rng, setup),	   cmocka_unit_test_setup(test_zipf, setup),
		cmocka_unit_test_setup(test_layout, setup),	   cmocka_unit_test_setup(test_mix, setup),
		cmocka_unit_test_setup(test_same_seed, setup), cmocka_unit_test_setup(test_passes, setup),
		cmocka_unit_test_setup(test_layers, setup),	   cmocka_unit_test_setup(test_broadcast, setup),
		cmocka_unit_test_setup(test_pace, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
