/* SPDX-License-Identifier: Apache-2.0 */
/* The replay of a trace: which blocks are written, which are read, and what a full store does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "job_trace.h"

static struct bench_trace trace;

static int play(const char *text, uint64_t nr_slots, enum bench_evict evict, struct mc_error *err)
{
	FILE *f = fmemopen((void *)text, strlen(text), "r");
	int r;

	assert_non_null(f);
	r = bench_trace_read(&trace, "t.jsonl", f, nr_slots, evict, err);
	fclose(f);
	return r;
}

/* "0.000: w0 w1; 5.000: r0" */
static void assert_plan(const char *text, uint64_t nr_slots, enum bench_evict evict, const char *want)
{
	struct mc_error err = {0};
	char *got = NULL;
	size_t len;
	FILE *f = open_memstream(&got, &len);

	if (play(text, nr_slots, evict, &err) < 0)
		fail_msg("%s", err.text);
	for (size_t i = 0; i < trace.nr; i++) {
		const struct bench_trace_request *q = &trace.requests[i];

		fprintf(f, "%s%.3f:", i ? "; " : "", (double)q->at_ns / 1e6);
		for (uint32_t j = 0; j < q->nr; j++) {
			uint32_t op = trace.ops[q->first + j];

			fprintf(f, " %c%u", op & BENCH_TRACE_READ ? 'r' : 'w', op & ~BENCH_TRACE_READ);
		}
	}
	fclose(f);
	assert_string_equal(got, want);
	free(got);
}

#define LINE(ms, ids) "{\"timestamp\": " ms ", \"input_length\": 1, \"output_length\": 2, \"hash_ids\": [" ids "]}\n"

static void test_plan(void **state)
{
	assert_plan(LINE("0", "10, 11") "\n" LINE("2.5", "10, 11, 12"), 8, BENCH_LRU, "0.000: w0 w1; 2.500: r0 r1 w2");
	assert_int_equal(trace.reads, 2);
	assert_int_equal(trace.puts, 3);
	assert_int_equal(trace.misses + trace.repeats + trace.refused, 0);
	assert_int_equal(trace.max_ops, 3);
	bench_trace_fini(&trace);
}

/* 1 and 2 fill it; 1 is used, so 3 takes the place of 2; 2 comes back in the place of 1. */
static void test_lru(void **state)
{
	assert_plan(LINE("0", "1, 2") LINE("1", "1") LINE("2", "3") LINE("3", "2") LINE("4", "3"), 2, BENCH_LRU,
		    "0.000: w0 w1; 1.000: r0; 2.000: w1; 3.000: w0; 4.000: r1");
	assert_int_equal(trace.puts, 3);
	assert_int_equal(trace.misses, 1);
	assert_int_equal(trace.reads, 2);
	bench_trace_fini(&trace);
}

static void test_modulo(void **state)
{
	assert_plan(LINE("0", "1, 2") LINE("1", "5") LINE("2", "1, 2"), 4, BENCH_MODULO,
		    "0.000: w1 w2; 1.000: w1; 2.000: w1 r2");
	assert_int_equal(trace.misses, 1);
	bench_trace_fini(&trace);
}

/* A request does not evict its own blocks, and moves none of them twice. */
static void test_within_a_request(void **state)
{
	assert_plan(LINE("0", "1, 1, 2, 3") LINE("1", "1, 2"), 2, BENCH_LRU, "0.000: w0 w1; 1.000: r0 r1");
	assert_int_equal(trace.repeats, 1);
	assert_int_equal(trace.refused, 1);
	bench_trace_fini(&trace);
	assert_plan(LINE("0", "1, 3"), 2, BENCH_MODULO, "0.000: w1");
	assert_int_equal(trace.refused, 1);
	bench_trace_fini(&trace);
}

/* More hashes than its tables begin with. */
static void test_many(void **state)
{
	struct mc_error err = {0};
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < 500; i++) {
			fprintf(f, "{\"timestamp\": %d, \"hash_ids\": [", round * 500 + i);
			for (int j = 0; j < 20; j++)
				fprintf(f, "%s%lld", j ? ", " : "", (i * 20 + j) * 1000003LL);
			fputs("]}\n", f);
		}
	}
	fclose(f);
	assert_int_equal(play(text, 10000, BENCH_LRU, &err), 0);
	assert_int_equal(trace.nr, 1000);
	assert_int_equal(trace.puts, 10000);
	assert_int_equal(trace.reads, 10000);
	bench_trace_fini(&trace);
	/* One too few for a circle: every block goes before it is needed again. */
	assert_int_equal(play(text, 9999, BENCH_LRU, &err), 0);
	assert_int_equal(trace.reads, 0);
	assert_int_equal(trace.misses, 10000);
	bench_trace_fini(&trace);
	free(text);
}

static void test_refused(void **state)
{
	static const struct {
		const char *text, *why;
	} cases[] = {
		{"\n", "no request has a block"},
		{LINE("0", "1") "{\"timestamp\": 1", "t.jsonl:2: not JSON"},
		{"[]", "t.jsonl:1: not an object"},
		{"{\"timestamp\": 1}", "'hash_ids' is missing"},
		{"{\"hash_ids\": [1]}", "'timestamp' is missing"},
		{"{\"timestamp\": \"1\", \"hash_ids\": [1]}", "'timestamp' is not a number"},
		{"{\"timestamp\": -1, \"hash_ids\": [1]}", "'timestamp': -1 is not"},
		{"{\"timestamp\": 1, \"hash_ids\": 1}", "'hash_ids' is not a list"},
		{"{\"timestamp\": 1, \"hash_ids\": [-1]}", "'hash_ids' is not a list"},
		{"{\"timestamp\": 1, \"hash_ids\": [1.5]}", "'hash_ids' is not a list"},
		{"{\"timestamp\": 1, \"hash_ids\": [[1]]}", "'hash_ids' is not a list"},
		{"{\"timestamp\": 1, \"timestamp\": 1, \"hash_ids\": [1]}", "'timestamp' is there twice"},
		{LINE("5", "1") LINE("4", "2"), "t.jsonl:2: 'timestamp': 4 is before"},
	};
	struct mc_error err = {0};

	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		assert_int_equal(play(cases[i].text, 4, BENCH_LRU, &err), -EINVAL);
		if (!strstr(err.text, cases[i].why))
			fail_msg("%s: '%s' lacks '%s'", cases[i].text, err.text, cases[i].why);
		bench_trace_fini(&trace);
	}
	assert_int_equal(play(LINE("0", "1"), 0, BENCH_LRU, &err), -EINVAL);
	bench_trace_fini(&trace);
	assert_int_equal(play(LINE("0", "1"), BENCH_TRACE_MAX_SLOTS + 1, BENCH_LRU, &err), -EINVAL);
	bench_trace_fini(&trace);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plan),	    cmocka_unit_test(test_lru),
		cmocka_unit_test(test_modulo),	    cmocka_unit_test(test_within_a_request),
		cmocka_unit_test(test_many),	    cmocka_unit_test(test_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
