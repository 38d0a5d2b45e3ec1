/* SPDX-License-Identifier: Apache-2.0 */
/* Results of bench/run-all: what the reader takes and refuses, what runs say about a ratio, and the
 * page. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "suite.h"

static struct suite suite;
static char error[512];

static int parse(const char *text)
{
	suite_fini(&suite);
	return suite_parse("in.json", (const unsigned char *)text, strlen(text), &suite, error, sizeof error);
}

#define RUN(rate, p50, there)                                                                  \
	"{\"throughput_bytes_per_s\":" #rate ",\"batch_p50_ns\":" #p50                         \
	",\"batch_p99_ns\":40000,\"cpu_s_per_gb\":0.25,\"target_cpu_s_per_gb\":" #there "}"
#define POINT_OF(stack, where, op, kind, block, checked, runs)                                 \
	"{\"stack\":\"" stack "\",\"where\":\"" where "\",\"operation\":\"" op                 \
	"\",\"kind\":\"" kind "\",\"block_size\":" #block ",\"batch_size\":16,"                \
	"\"checked_bytes\":" #checked ",\"samples\":[" runs "]}"
#define POINT(stack, op, block, runs) \
	POINT_OF(stack, "host", op, "throughput", block, 4096, runs)
#define FILE_OF(points, left_out)                                                              \
	"{\"schema\":1,\"program\":\"run-all\",\"version\":\"0.1.0\",\"quick\":false,"         \
	"\"seconds\":1,\"machine\":{\"host\":\"h\",\"cpu\":\"A CPU\",\"cpus\":2,"              \
	"\"kernel\":\"6.1\",\"memory_bytes\":1073741824,\"time\":\"2026-01-02T03:04:05Z\"},"   \
	"\"guest\":null,\"points\":[" points "],\"left_out\":[" left_out "]}"
#define RUNS RUN(2e9, 20000, 0.5)

#define assert_refused(text, sentence)                                        \
	do {                                                                  \
		assert_int_equal(parse(text), -1);                            \
		if (!strstr(error, sentence))                                 \
			fail_msg("'%s' does not hold '%s'", error, sentence); \
	} while (0)

/* ---- reading ------------------------------------------------------------------------------------
 */

static void test_whole(void **state)
{
	static const char text[] = FILE_OF(
		POINT("tcp", "write", 4096, RUN(1e9, 10, 0.5) "," RUN(3e9, 30, 0.75)) "," POINT_OF(
			"null", "host", "read", "latency", 64, null, RUN(1, 2, null)) "," POINT_OF("tcp",
			"guest", "write", "throughput", 4096, 0, RUNS),
		"{\"what\":\"cxl\",\"reason\":\"not built\",\"failed\":false}");
	const struct suite_point *p;

	assert_int_equal(parse(text), 0);
	assert_int_equal(suite.nr, 3);
	assert_int_equal(suite.nr_stacks, 3);
	p = &suite.points[0];
	assert_string_equal(suite.stacks[p->stack].name, "tcp");
	assert_true(!p->is_read && !p->is_latency && p->target_known && p->checked);
	assert_int_equal(p->block_size, 4096);
	assert_int_equal(p->nr, 2);
	assert_true(p->runs[1].bytes_per_s == 3e9 && p->runs[1].cpu_s_per_gb == 1);
	assert_true(suite_point_median(p, SUITE_RATE) == 2e9 && suite_point_median(p, SUITE_P50) == 20);
	p = &suite.points[1];
	assert_true(p->is_read && p->is_latency && !p->target_known && !p->checked);
	assert_true(suite.stacks[suite.points[2].stack].guest);
	assert_string_equal(suite.cpu, "A CPU");
	assert_int_equal(suite.memory_bytes, 1073741824);
	assert_int_equal(suite.nr_left_out, 1);
	assert_string_equal(suite.left_out[0].reason, "not built");
}

static void test_refused(void **state)
{
	assert_refused("", "in.json:1:1: not the JSON of run-all");
	assert_refused("{\"schema\":1} x", "in.json:1:");
	assert_refused("{\"schema\":1,\n oops}", "in.json:2:");
	assert_refused("[]", "$.schema: it is missing");
	assert_refused("{\"schema\":2}", "$.schema: 2 is not a schema");
	assert_refused("{\"schema\":1,\"schema\":1}", "$.schema: this member stands twice");
	assert_refused("{\"schema\":\"1\"}", "$.schema: a text stands where a number is expected");
	assert_refused("{\"schema\":null}", "$.schema: null stands");
	assert_refused("{\"schema\":1,\"program\":\"bench\"}", "'bench' is not 'run-all'");
	assert_refused("{\"schema\":1}", "$.program: it is missing");
	assert_refused("{\"quick\":1}", "a number stands where true or false");
	assert_refused("{\"version\":\"a\\u0000b\"}", "holds a NUL");
	assert_refused("{\"points\":{}}", "$.points: a list is expected");
	assert_refused("{\"points\":3}", "$.points: a list is expected");
	assert_refused("{\"points\":[3]}", "$.points[0]: an object is expected");
	assert_refused("{\"points\":[{\"samples\":[[]]}]}", "$.points[0].samples[0]: an object");
	assert_refused(FILE_OF("", ""), "$.points: there is no point");
}

static void test_refused_points(void **state)
{
	assert_refused(FILE_OF("{}", ""), "$.points[0]: member 'stack' is missing");
	assert_refused(FILE_OF(POINT("tcp", "write", 4096, ""), ""), "$.points[0]: there is no sample");
	assert_refused(FILE_OF(POINT("tcp", "write", 4096, "{}"), ""),
		       "$.points[0].samples[0]: member 'throughput_bytes_per_s' is missing");
	assert_refused(FILE_OF(POINT("tcp", "write", 4096, RUNS) "," POINT("tcp", "write", 4096, RUNS), ""),
		       "$.points[1]: the same point as $.points[0]");
	assert_refused(FILE_OF(POINT("tcp", "copy", 4096, RUNS), ""), "'copy' is neither 'write' nor 'read'");
	assert_refused(FILE_OF(POINT("", "write", 4096, RUNS), ""), "a name of 1 to 63 bytes");
	assert_refused(FILE_OF(POINT("tcp", "write", 0, RUNS), ""), "0 is not a whole number from 1");
	assert_refused(FILE_OF(POINT("tcp", "write", 1.5, RUNS), ""), "1.5 is not a whole number");
	assert_refused(FILE_OF(POINT("tcp", "write", 4096, RUN(-1, 1, 1)), ""), "-1 is not a number from 0");
	assert_refused(FILE_OF(POINT("tcp", "write", 4096, RUN(1e999, 1, 1)), ""), "is not a number from 0");
	assert_refused(FILE_OF(POINT("tcp", "write", 4096, RUN(null, 1, 1)), ""), "null stands");
	assert_refused(FILE_OF(POINT("tcp", "write", 4096, RUNS), "{\"what\":\"x\"}"),
		       "$.left_out[0]: member 'reason' is missing");
	/* What is right in one element does not stand for the next. */
	assert_refused(FILE_OF(POINT("tcp", "write", 4096, RUNS ",{}"), ""), "samples[1]: member");
}

/* What nobody wants may be anything, as deep as it likes; names that look like places are not. */
static void test_passed_over(void **state)
{
	static char text[8192];
	char *p = text;

	p += sprintf(p, "{\"points[]\":{\"stack\":3},\"points[].stack\":4,\"\":5,\"x\":");
	memset(p, '[', 1000);
	memset(p + 1000, ']', 1000);
	p[2000] = ',';
	strcpy(p + 2001, &FILE_OF(POINT("tcp", "write", 4096, RUNS), "")[1]);
	assert_int_equal(parse(text), 0);
	assert_int_equal(suite.nr, 1);
}

/* ---- the ratio ----------------------------------------------------------------------------------
 */

static void test_median(void **state)
{
	double x[] = {5, 1, 3, 2};

	assert_true(suite_median(x, 0) == 0);
	assert_true(suite_median(x, 1) == 5);
	assert_true(suite_median(x, 4) == 2.5);
	assert_true(x[0] == 1 && x[3] == 5);
}

/* How many quotients of n and m values the interval leaves out at each end. */
static size_t cut_off(size_t n, size_t m, bool *ret_enough)
{
	double a[SUITE_MAX_RUNS], b[SUITE_MAX_RUNS];
	struct suite_ratio r;

	for (size_t i = 0; i < n; i++)
		a[i] = pow(2, -(double)(i * m)); /* every quotient is another power of 2 */
	for (size_t j = 0; j < m; j++)
		b[j] = pow(2, (double)j);
	assert_true(suite_compare(a, n, b, m, &r));
	*ret_enough = r.enough;
	assert_true(r.lo <= r.ratio && r.ratio <= r.hi);
	assert_true(log2(r.lo) + log2(r.hi) == (double)(n * m - 1)); /* as many at either end */
	return (size_t)log2(r.lo);
}

/* As many as the critical value of Mann and Whitney's U at 5 %, one-sided, in the tables of textbooks. */
static void test_interval(void **state)
{
	static const struct {
		size_t n, m, u;
	} table[] = {{3, 3, 0}, {3, 4, 0}, {3, 5, 1}, {4, 4, 1}, {5, 5, 4}, {4, 7, 4}, {7, 7, 11},
		     {5, 9, 9}};
	bool enough;

	for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
		assert_int_equal(cut_off(table[i].n, table[i].m, &enough), table[i].u);
		assert_true(enough);
		assert_int_equal(cut_off(table[i].m, table[i].n, &enough), table[i].u);
	}
	assert_int_equal(cut_off(2, 2, &enough), 0);
	assert_false(enough);
	assert_int_equal(cut_off(1, 7, &enough), 0);
	assert_false(enough);
}

static void test_compare(void **state)
{
	double a[] = {10, 10, 10}, b[] = {5, 5, 5}, zero[] = {1, 0, 1};
	double many[SUITE_MAX_RUNS], more[SUITE_MAX_RUNS];
	struct suite_ratio r;

	assert_true(suite_compare(a, 3, b, 3, &r));
	assert_true(r.ratio == 0.5 && r.lo == 0.5 && r.hi == 0.5 && r.enough);
	assert_false(suite_compare(a, 3, zero, 3, &r));
	assert_false(suite_compare(zero, 3, a, 3, &r));
	assert_false(suite_compare(a, 0, b, 3, &r));
	for (size_t i = 0; i < SUITE_MAX_RUNS; i++) {
		many[i] = 100 + (double)i;
		more[i] = 200 + 2 * (double)i;
	}
	assert_true(suite_compare(many, SUITE_MAX_RUNS, more, SUITE_MAX_RUNS, &r));
	assert_true(r.enough && r.ratio == 2 && r.lo > 1.85 && r.lo < 2 && r.hi > 2 && r.hi < 2.15);
}

/* ---- the page -----------------------------------------------------------------------------------
 */

static char *page(void)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);

	assert_non_null(f);
	assert_int_equal(suite_page(f, &suite), 0);
	fclose(f);
	return text;
}

static size_t count(const char *text, const char *what)
{
	size_t nr = 0;

	for (const char *p = text; (p = strstr(p, what)); p += strlen(what))
		nr++;
	return nr;
}

static void test_page(void **state)
{
	char *text;

	assert_int_equal(parse(FILE_OF(
				 POINT("tcp", "write", 4096, RUNS) "," POINT("tcp", "read", 65536, RUNS) "," POINT(
					 "tcp+checksum", "write", 4096,
					 RUNS) "," POINT_OF("null", "host", "write", "throughput", 4096, null,
							    RUN(9e12, 100, null)) "," POINT_OF("rdma", "guest", "read",
							    "throughput", 4096, 1, RUNS) "," POINT_OF("tcp", "host",
							    "read", "latency", 64, 1, RUN(1, 9876, 0)),
				 "{\"what\":\"<cxl>\",\"reason\":\"not \\\"built\\\"\",\"failed\":false}")),
			 0);
	text = page();
	/* This machine, the guest, and what moves nothing; a line for each stack and direction. */
	assert_int_equal(count(text, "<svg "), 3);
	assert_int_equal(count(text, "<g class=\"series "), 3 * (3 + 1 + 1));
	assert_non_null(strstr(text, "<title>tcp+checksum write</title>"));
	assert_non_null(strstr(text, "<title>rdma (guest) read</title>"));
	/* A row for each point: the latency has a table of its own, and no line. */
	assert_int_equal(count(text, "<tr><td>"), 6 + 1);
	assert_non_null(strstr(text, ">9876 ns</td>"));
	assert_non_null(strstr(text, ">2.00 GB/s</td>"));
	assert_non_null(strstr(text, "moves nothing"));
	assert_non_null(strstr(text, "&lt;cxl&gt;</td><td class=\"why\">not &quot;built&quot;</td>"));
	/* Nothing is loaded from anywhere. */
	assert_int_equal(count(text, "http"), count(text, "xmlns=\"http://www.w3.org/2000/svg\""));
	assert_null(strstr(text, "src="));
	assert_null(strstr(text, "href="));
	assert_null(strstr(text, "<script"));
	assert_null(strstr(text, "url("));
	assert_null(strstr(text, "nan"));
	assert_non_null(strstr(text, "prefers-color-scheme: dark"));
	free(text);
}

/* Where markers stand: inside of the picture, higher throughput higher up. */
static void test_coordinates(void **state)
{
	const char *at;
	double x[2], y[2];
	char *text;

	assert_int_equal(parse(FILE_OF(POINT("tcp", "write", 4096, RUN(1e9, 9, 1)) "," POINT("tcp", "write",
				       4194304, RUN(4e9, 9, 1)), "")),
			 0);
	text = page();
	at = strstr(text, "<g class=\"series ");
	for (int i = 0; i < 2; i++) {
		assert_non_null(at);
		at = strstr(at + 1, "<circle class=\"solid\" ");
		assert_non_null(at);
		assert_int_equal(sscanf(at, "<circle class=\"solid\" cx=\"%lf\" cy=\"%lf\"", &x[i], &y[i]), 2);
	}
	assert_true(x[0] > 60 && x[0] < x[1] && x[1] < 400); /* the first of three panels */
	assert_true(y[1] < y[0] && y[1] > 60);
	free(text);
}

static void test_texts(void **state)
{
	char buf[64];

	suite_size_text(64, buf, sizeof buf);
	assert_string_equal(buf, "64 B");
	suite_size_text(4194304, buf, sizeof buf);
	assert_string_equal(buf, "4 MiB");
	suite_time_text(21345, buf, sizeof buf);
	assert_string_equal(buf, "21.3 us");
	suite_time_text(1234567, buf, sizeof buf);
	assert_string_equal(buf, "1.23 ms");
	suite_rate_text(1234567890, buf, sizeof buf);
	assert_string_equal(buf, "1.23 GB/s");
	suite_rate_text(5e6, buf, sizeof buf);
	assert_string_equal(buf, "5.00 MB/s");
}

static int teardown(void **state)
{
	suite_fini(&suite);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_whole),	    cmocka_unit_test(test_refused),
		cmocka_unit_test(test_refused_points), cmocka_unit_test(test_passed_over),
		cmocka_unit_test(test_median),	    cmocka_unit_test(test_interval),
		cmocka_unit_test(test_compare),	    cmocka_unit_test(test_page),
		cmocka_unit_test(test_coordinates), cmocka_unit_test(test_texts),
	};

	return cmocka_run_group_tests(tests, NULL, teardown);
}
