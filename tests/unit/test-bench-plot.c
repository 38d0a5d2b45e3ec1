/* SPDX-License-Identifier: Apache-2.0 */
/* The picture of results: what the reader takes and refuses, names of lines, and the SVG itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "plot.h"

static struct plot_file files[3];
static char error[512];
static struct plot plot;

static int parse_as(size_t i, const char *name, const char *text)
{
	plot_file_fini(&files[i]);
	memset(&files[i], 0, sizeof files[i]);
	strcpy(files[i].name, name);
	return plot_parse("in.json", (const unsigned char *)text, strlen(text), &files[i], error,
			  sizeof error);
}

static int parse(const char *text)
{
	return parse_as(0, "in", text);
}

/* A point of a sweep, by block size and direction. */
#define POINT(block, op)                                                                \
	"{\"operation\":\"" op "\",\"block_size\":" #block                              \
	",\"throughput_bytes_per_s\":2e9,\"batch_p99_ns\":30000,\"cpu_s_per_gb\":0.25," \
	"\"target_cpu_s_per_gb\":0.5,\"rails\":[{\"name\":\"tcp:a -> t tcp:b\","        \
	"\"bytes_read\":1,\"bytes_written\":0}],\"error\":\"\",\"status\":0}"
#define HEAD(host, version)                                                                \
	"{\"schema\":1,\"machine\":{\"host\":\"" host "\",\"cpu\":\"A CPU\",\"cpus\":2,"   \
	"\"kernel\":\"6.1\",\"time\":\"2026-01-02T03:04:05Z\"},\"versions\":{\"library\":" \
	"\"" version "\"},"
#define SWEEP(points) HEAD("h", "1.0") "\"sweep\":[" points "],\"error\":\"\"}"

#define assert_refused(text, sentence)                                        \
	do {                                                                  \
		assert_int_equal(parse(text), -1);                            \
		if (!strstr(error, sentence))                                 \
			fail_msg("'%s' does not hold '%s'", error, sentence); \
	} while (0)

static char *svg(void)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);

	assert_non_null(f);
	assert_int_equal(plot_svg(f, &plot), 0);
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

/* ---- tests --------------------------------------------------------------------------------------
 */

static void test_sweep(void **state)
{
	const struct plot_point *p;

	assert_int_equal(parse(SWEEP(POINT(4096, "write") "," POINT(1024, "write") "," POINT(
				 8192, "write") "," POINT(64, "read"))),
			 0);
	assert_int_equal(files[0].nr, 4);
	p = &files[0].points[0];
	assert_int_equal(p->block_size, 4096);
	assert_true(!p->is_read && p->bytes_per_s == 2e9 && p->p99_ns == 30000);
	assert_true(p->target_known && p->cpu_s_per_gb == 0.75);
	assert_string_equal(files[0].rails, "tcp");
	assert_int_equal(files[0].cpus, 2);
	plot_make(files, 1, NULL, &plot);
	assert_int_equal(plot.nr, 2);
	assert_string_equal(plot.series[0].label, "tcp write");
	assert_string_equal(plot.series[1].label, "tcp read");
	for (size_t i = 0; i < 3; i++) /* in order */
		assert_int_equal(plot.series[0].points[i].block_size, i == 0 ? 1024 : 4096 * i);
	assert_string_equal(plot.title, "Mooncake 1.0: A CPU, 2 CPUs, Linux 6.1, 2026-01-02");
	assert_false(plot.initiator_only);
}

/* Its options say block size and direction, wherever they stand. */
static void test_single(void **state)
{
	static const char results[] =
		"\"results\":{\"throughput_bytes_per_s\":1,\"batch_p99_ns\":2,\"cpu_s_per_gb\":3,"
		"\"target_cpu_s_per_gb\":null,\"status\":0}";
	static const char options[] =
		"\"options\":{\"operation\":\"read\",\"block_size\":512,\"protocol\":\"null\"}";
	char text[1024];

	for (int order = 0; order < 2; order++) {
		snprintf(text, sizeof text, "{\"schema\":1,%s,%s}", order ? results : options,
			 order ? options : results);
		assert_int_equal(parse(text), 0);
		assert_int_equal(files[0].nr, 1);
		assert_int_equal(files[0].points[0].block_size, 512);
		assert_true(files[0].points[0].is_read && !files[0].points[0].target_known);
		plot_make(files, 1, "mine", &plot);
		assert_string_equal(plot.series[0].label, "null read");
		assert_string_equal(plot.title, "mine");
		assert_true(plot.initiator_only);
	}
	snprintf(text, sizeof text, "{\"schema\":1,%s}", results);
	assert_refused(text, "$.options.block_size: it is missing");
}

static void test_refused(void **state)
{
	assert_refused("", "in.json:1:1: not the JSON of a bench");
	assert_refused("{\n  \"schema\": 1,\n  oops\n}", "in.json:3:");
	assert_refused("{\"schema\":1} x", "in.json:1:");
	assert_refused("[]", "$.schema: it is missing");
	assert_refused("{}", "transfer_engine_bench --json");
	assert_refused("{\"schema\":2}", "$.schema: 2 is not a schema");
	assert_refused("{\"schema\":\"1\"}", "$.schema: a text stands where a number");
	assert_refused("{\"schema\":1}", "neither $.results nor a point");
	assert_refused("{\"schema\":1,\"error\":\"it broke\"}",
		       "$.error: the run failed: it broke");
	assert_refused("{\"schema\":1,\"sweep\":[{}]}", "$.sweep[0]: the block size is missing");
	assert_refused(SWEEP(POINT(4096, "write") "," POINT(0, "write")),
		       "$.sweep[1].block_size: 0 is not a whole number from 1");
	assert_refused(SWEEP(POINT(-1, "write")), "$.sweep[0].block_size: -1");
	assert_refused(SWEEP(POINT(1e3, "write")), "1e3 is not a whole number");
	assert_refused(SWEEP(POINT(99999999999999999999, "write")), "is not a whole number");
	assert_refused(SWEEP(POINT([1], "write")), "$.sweep[0].block_size: a list stands");
	assert_refused(SWEEP(POINT(1, "copy")), "$.sweep[0].operation: 'copy' is neither");
	assert_refused("{\"schema\":1,\"sweep\":[{\"batch_p99_ns\":-1}]}",
		       "$.sweep[0].batch_p99_ns: -1 is not");
	assert_refused("{\"schema\":1,\"sweep\":[{\"batch_p99_ns\":1e99}]}", "from 0 to 1e+19");
	assert_refused("{\"schema\":1,\"sweep\":[{\"batch_p99_ns\":1e999}]}",
		       "is not a number from 0");
	assert_refused("{\"schema\":1,\"sweep\":[{\"batch_p99_ns\":null}]}", "null stands");
	assert_refused("{\"schema\":1,\"sweep\":[{\"operation\":true}]}", "true or false stands");
	assert_refused("{\"schema\":1,\"results\":{\"error\":\"gone\",\"status\":-5}}",
		       "$.results: this run failed: gone");
	assert_refused("{\"schema\":1,\"machine\":{\"cpu\":\"a\\u0000b\"}}", "holds a NUL");
}

/* What nobody wants may be anything, as deep as it likes. */
static void test_passed_over(void **state)
{
	char deep[20000], *p = deep;

	p += sprintf(p, "{\"schema\":1,\"x\":");
	memset(p, '[', 5000);
	memset(p + 5000, ']', 5000);
	p += 10000;
	strcpy(p, ",\"sweep\":[" POINT(1, "read") "]}");
	assert_int_equal(parse(deep), 0);
	assert_int_equal(files[0].nr, 1);
	assert_int_equal(
		parse("{\"schema\":1,\"sweep\":[" POINT(1, "read") ",{\"a\":{\"block_size\":0},"
								   "\"rails\":[[{\"name\":3}]]}]}"),
		-1); /* the second point lacks all, and nothing else is wrong with it */
	assert_non_null(strstr(error, "$.sweep[1]: the block size is missing"));
}

static void test_labels(void **state)
{
	static const char text[] = SWEEP(POINT(1, "read"));

	assert_int_equal(parse_as(0, "tcp", text), 0);
	assert_int_equal(parse_as(1, "after", text), 0);
	plot_make(files, 2, NULL, &plot);
	assert_string_equal(plot.series[0].label, "tcp read"); /* named as its transport */
	assert_string_equal(plot.series[1].label, "tcp (after) read");
	assert_int_equal(parse_as(1, "after", HEAD("h", "2.0") "\"sweep\":[" POINT(1, "read") "]}"),
			 0);
	plot_make(files, 2, NULL, &plot);
	assert_string_equal(plot.series[1].label, "tcp 2.0 read");
	assert_non_null(strstr(plot.title, "several versions"));
	assert_int_equal(parse_as(2, "there", HEAD("g", "2.0") "\"sweep\":[" POINT(1, "read") "]}"),
			 0);
	plot_make(files, 3, NULL, &plot);
	assert_string_equal(plot.series[2].label, "tcp 2.0 @g read");
	assert_non_null(strstr(plot.title, "several machines"));
}

static void test_picture(void **state)
{
	char *text;

	assert_int_equal(
		parse(SWEEP(POINT(4096, "write") "," POINT(65536, "write") "," POINT(64, "read"))),
		0);
	plot_make(files, 1, "<&\"> \xff\x01 \xed\xa0\x80 \xef\xbf\xbe", &plot);
	text = svg();
	assert_int_equal(count(text, "<g class=\"series "), 3 * 2);
	assert_int_equal(count(text, "<g class=\"key "), 2);
	assert_int_equal(count(text, "<circle "), 3 * 3 + 2); /* of the first colour; keys too */
	assert_non_null(strstr(text, "&lt;&amp;&quot;&gt; \xef\xbf\xbd\xef\xbf\xbd"));
	assert_null(strstr(text, "\xff"));
	assert_null(strstr(text, "\x01"));
	assert_null(strstr(text, "\xed\xa0\x80"));
	assert_null(strstr(text, "\xef\xbf\xbe"));
	assert_null(strstr(text, "<script"));
	assert_non_null(strstr(text, "prefers-color-scheme: dark"));
	assert_non_null(strstr(text, "<title>4K: 30 \xc2\xb5s</title>"));
	assert_non_null(strstr(text, "<title>64: 2 GB/s</title>"));
	free(text);
}

/* Nothing, one point, zeros and the largest values: all have a place, and it is a number. */
static void test_extremes(void **state)
{
	static struct plot_point points[] = {{.block_size = 1},
					     {.block_size = PLOT_MAX_BLOCK,
					      .bytes_per_s = 1e18,
					      .p99_ns = 1e19,
					      .cpu_s_per_gb = 2e12},
					     {.block_size = 3000,
					      .bytes_per_s = 1e-300,
					      .p99_ns = 1e-300,
					      .cpu_s_per_gb = 1e-300}};
	char *text;

	memset(&plot, 0, sizeof plot);
	plot.nr = 1;
	for (size_t from = 0; from < 3; from++) {
		for (size_t nr = 0; from + nr <= 3; nr++) {
			plot.series[0].points = points + from;
			plot.series[0].nr = nr;
			text = svg();
			assert_null(strstr(text, "nan"));
			assert_null(strstr(text, "inf"));
			assert_int_equal(count(text, "<g class=\"series "), 3);
			free(text);
		}
	}
	plot.nr = 0;
	text = svg();
	assert_null(strstr(text, "nan"));
	free(text);
}

static int teardown(void **state)
{
	for (size_t i = 0; i < 3; i++)
		plot_file_fini(&files[i]);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sweep),    cmocka_unit_test(test_single),
		cmocka_unit_test(test_refused),  cmocka_unit_test(test_passed_over),
		cmocka_unit_test(test_labels),   cmocka_unit_test(test_picture),
		cmocka_unit_test(test_extremes),
	};

	return cmocka_run_group_tests(tests, NULL, teardown);
}
