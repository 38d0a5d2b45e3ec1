/* SPDX-License-Identifier: Apache-2.0 */
/* What the bench prints: the last line, the text, and JSON that a parser takes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <yajl/yajl_tree.h>

#include "bench.h"

/* ---- the library's part ------------------------------------------------------------------------
 */

const char *mc_version(void)
{
	return "0.1.0";
}

int mc_engine_counters(struct mc_engine *engine,
		       int (*each)(void *ctx, const struct mc_counter *counter), void *ctx)
{
	static const struct mc_counter counters[] = {
		{sizeof *counters, "bytes_written", "engine", 1},
		{sizeof *counters, "bytes_written", "rail tcp:a -> t tcp:b", 100},
		{sizeof *counters, "bytes_read", "rail tcp:a -> t tcp:b", 20},
		{sizeof *counters, "slices", "rail tcp:a -> t tcp:b", 5},
		{sizeof *counters, "bytes_read", "rail tcp:c -> t tcp:d", 3},
	};
	int r = 0;

	for (size_t i = 0; r == 0 && i < sizeof counters / sizeof *counters; i++)
		r = each(ctx, &counters[i]);
	return r;
}

int mc_config_load(struct mc_config *config, const char *path, struct mc_error *err)
{
	return 0;
}

int mc_config_env(struct mc_config *config, struct mc_error *err)
{
	return 0;
}

int mc_config_set(struct mc_config *config, const char *key, const char *value,
		  struct mc_error *err)
{
	return 0;
}

int mc_config_each(const struct mc_config *config,
		   int (*each)(void *ctx, const struct mc_config_key *key), void *ctx)
{
	const struct mc_config_key set = {.key = "metadata_server",
					  .value = "file:///a\"\\\n\x01",
					  .origin = MC_ORIGIN_FLAG},
				   unset = {.key = "cluster", .value = "default"};
	int r = each(ctx, &set);

	return r ? r : each(ctx, &unset);
}

/* ---- a report
 * ------------------------------------------------------------------------------------ */

static struct bench_options opts;
static struct bench_result result;
static struct bench_report report;

static void make_report(void)
{
	bench_options_init(&opts);
	opts.stride = opts.block_size;
	opts.segment_id = "a \"quoted\" name";
	memset(&result, 0, sizeof result);
	bench_hist_init(&result.latency);
	bench_hist_add(&result.latency, 2000);
	result.duration_ns = 2 * MC_SEC;
	result.batches = 10;
	result.requests = 1280;
	result.bytes = UINT64_C(3000000000);
	result.cpu_ns = MC_SEC * 3 / 2;
	report = (struct bench_report){.opts = &opts,
				       .local_name = "me",
				       .segment = "t",
				       .matrix = "{}",
				       .result = &result};
	report.nr_rails = bench_rails_read(NULL, report.rails, BENCH_MAX_RAILS);
}

static char *written(void (*print)(FILE *f, const struct bench_report *report))
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	assert_non_null(f);
	print(f, &report);
	fclose(f);
	return text;
}

static void test_line(void **state)
{
	char *text;

	make_report();
	text = written(bench_report_line);
	assert_string_equal(
		text, "Test completed: duration 2.00, batch count 10, throughput 1.50 GB/s\n");
	free(text);
	opts.report_unit = "Mb";
	opts.report_precision = 0;
	text = written(bench_report_line);
	assert_string_equal(
		text, "Test completed: duration 2.00, batch count 10, throughput 12000 Mb/s\n");
	free(text);
	memset(&result, 0,
	       sizeof result); /* interrupted before the first batch: no division by 0 */
	text = written(bench_report_line);
	assert_non_null(strstr(text, "throughput 0 Mb/s"));
	free(text);
}

static void test_text(void **state)
{
	char *text;

	make_report();
	text = written(bench_report_text);
	assert_non_null(strstr(text, "rail        tcp:a -> t tcp:b: "));
	assert_non_null(strstr(text, "640 transfers/s"));
	assert_non_null(strstr(text, "p99.9 2000 ns"));
	assert_non_null(strstr(text, "0.500 s/GB here, unknown at the target"));
	assert_null(strstr(text, "checked"));
	free(text);
	opts.check = true;
	report.remote_cpu_known = true;
	report.remote_cpu_ns = MC_SEC * 3;
	text = written(bench_report_text);
	assert_non_null(strstr(text, "1.000 s/GB at the target"));
	assert_non_null(strstr(text, "all bytes are right"));
	free(text);
	result.status = -EBADMSG;
	text = written(bench_report_text);
	assert_null(strstr(text, "all bytes are right"));
	free(text);
}

static yajl_val member(yajl_val tree, const char *a, const char *b, yajl_type type)
{
	const char *path[] = {a, b, NULL};

	return yajl_tree_get(tree, path, type);
}

static void test_json(void **state)
{
	char *text, error[256];
	yajl_val tree, v;

	make_report();
	text = written(bench_report_json);
	tree = yajl_tree_parse(text, error, sizeof error);
	assert_non_null(tree);
	v = member(tree, "schema", NULL, yajl_t_number);
	assert_int_equal(YAJL_GET_INTEGER(v), 1);
	v = member(tree, "options", "segment_id", yajl_t_string);
	assert_string_equal(YAJL_GET_STRING(v), "a \"quoted\" name");
	v = member(tree, "options", "metadata_server", yajl_t_string);
	assert_string_equal(YAJL_GET_STRING(v), "file:///a\"\\\n\x01");
	assert_null(member(tree, "options", "cluster", yajl_t_any));
	v = member(tree, "results", "throughput_bytes_per_s", yajl_t_number);
	assert_true(YAJL_GET_DOUBLE(v) == 1.5e9);
	v = member(tree, "results", "rails", yajl_t_array);
	assert_int_equal(YAJL_GET_ARRAY(v)->len, 2);
	assert_non_null(member(tree, "results", "target_cpu_s", yajl_t_null));
	assert_non_null(member(tree, "machine", "kernel", yajl_t_string));
	assert_non_null(member(tree, "versions", "library", yajl_t_string));
	yajl_tree_free(tree);
	free(text);
}

static void print_sweep(FILE *f, const struct bench_report *r)
{
	bench_report_sweep_json_begin(f, r);
	bench_report_sweep_json_point(f, r, true);
	bench_report_sweep_json_point(f, r, false);
	bench_report_sweep_json_end(f, "the \"third\" failed");
}

static void print_table(FILE *f, const struct bench_report *r)
{
	bench_report_sweep_head(f, r, 26);
	bench_report_sweep_line(f, r);
}

static void test_sweep(void **state)
{
	char *text, error[256];
	yajl_val tree, v;

	make_report();
	text = written(print_sweep);
	tree = yajl_tree_parse(text, error, sizeof error);
	assert_non_null(tree);
	assert_null(member(tree, "results", NULL, yajl_t_any));
	v = member(tree, "error", NULL, yajl_t_string);
	assert_string_equal(YAJL_GET_STRING(v), "the \"third\" failed");
	v = member(tree, "sweep", NULL, yajl_t_array);
	assert_int_equal(YAJL_GET_ARRAY(v)->len, 2);
	v = YAJL_GET_ARRAY(v)->values[1];
	assert_string_equal(YAJL_GET_STRING(member(v, "operation", NULL, yajl_t_string)), "read");
	assert_int_equal(YAJL_GET_INTEGER(member(v, "block_size", NULL, yajl_t_number)), 65536);
	assert_true(YAJL_GET_DOUBLE(member(v, "throughput_bytes_per_s", NULL, yajl_t_number)) == 1.5e9);
	yajl_tree_free(tree);
	free(text);
	text = written(print_table);
	assert_non_null(strstr(text, "26 points of 10 s"));
	assert_non_null(strstr(text, "read      64 KiB    128      1.50        2.0        2.0        2.0   0.500       -\n"));
	free(text);
}

static void test_sizes(void **state)
{
	static const struct {
		uint64_t bytes;
		const char *text;
	} sizes[] = {{0, "0 B"},	      {1000, "1000 B"},		  {4096, "4 KiB"},
		     {10000, "9.766 KiB"},    {3 << 19, "1.5 MiB"},	  {UINT64_C(16) << 30, "16 GiB"},
		     {UINT64_MAX, "1.718e+10 GiB"}};

	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		char buf[32];

		bench_size_text(sizes[i].bytes, buf, sizeof buf);
		assert_string_equal(buf, sizes[i].text);
	}
}

static void test_rails(void **state)
{
	struct bench_rail before[1], after[4];
	size_t nr = bench_rails_read(NULL, after, 4);

	assert_int_equal(nr, 2);
	assert_string_equal(after[0].name, "tcp:a -> t tcp:b");
	assert_int_equal(after[0].written, 100);
	assert_int_equal(after[0].read, 20);
	before[0] = after[1];
	bench_rails_subtract(after, nr, before, 1);
	assert_int_equal(after[0].written, 100);
	assert_int_equal(after[1].read, 0);
	assert_int_equal(bench_rails_read(NULL, after, 1), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_line),
		cmocka_unit_test(test_text),
		cmocka_unit_test(test_json),
		cmocka_unit_test(test_sweep),
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_rails),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
