/* SPDX-License-Identifier: Apache-2.0 */
/* The bench's command line, over a config of three keys. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"
#include "job.h"

/* ---- a config that notes what it is told ---------------------------------------------------- */

static char told[1024];

static void tell(const char *what, const char *a, const char *b)
{
	size_t used = strlen(told);

	snprintf(told + used, sizeof told - used, "%s(%s,%s) ", what, a, b);
}

int mc_config_load(struct mc_config *config, const char *path, struct mc_error *err)
{
	tell("load", path, "");
	return strcmp(path, "bad") ? 0 : mc_fail(err, -ENOENT, "config 'bad': no such file");
}

int mc_config_env(struct mc_config *config, struct mc_error *err)
{
	tell("env", "", "");
	return 0;
}

int mc_config_set(struct mc_config *config, const char *key, const char *value,
		  struct mc_error *err)
{
	tell("set", key, value);
	return 0;
}

const char *mc_config_get(const struct mc_config *config, const char *key,
			  enum mc_origin *ret_origin)
{
	*ret_origin = strstr(told, "set(nic_priority_matrix") ? MC_ORIGIN_FLAG : MC_ORIGIN_DEFAULT;
	return "";
}

int mc_config_each(const struct mc_config *config,
		   int (*each)(void *ctx, const struct mc_config_key *key), void *ctx)
{
	static const struct mc_config_key keys[] = {
		{.size = sizeof *keys, .key = "metadata_server", .type = "string", .def = ""},
		{.size = sizeof *keys, .key = "spill", .type = "bool", .def = "false"},
		{.size = sizeof *keys, .key = "nic_priority_matrix", .type = "string", .def = ""},
	};
	int r = 0;

	for (size_t i = 0; r == 0 && i < 3; i++)
		r = each(ctx, &keys[i]);
	return r;
}

int mc_transport_devices(const struct mc_config *config, const char *transport,
			 int (*each)(void *ctx, const struct mc_device_desc *device), void *ctx,
			 struct mc_error *err)
{
	static const struct mc_device_desc devices[] = {
		{.size = sizeof *devices, .name = "lo", .address = "127.0.0.1", .active = true},
		{.size = sizeof *devices, .name = "eth0", .address = "192.0.2.1", .active = true},
		{.size = sizeof *devices, .name = "eth1", .address = "192.0.2.2", .active = false},
	};
	int r = 0;

	if (strcmp(transport, "empty") == 0) {
		mc_fail(err, 0, "plug one in");
		return 0;
	}
	if (strcmp(transport, "tcp") != 0)
		return mc_fail(err, -ENOENT, "no transport '%s'", transport);
	for (size_t i = 0; r == 0 && i < 3; i++)
		r = each(ctx, &devices[i]);
	return r;
}

/* ---- helpers ----------------------------------------------------------------------------------
 */

static struct bench_options opts;
static struct mc_error err;

/* Parse and check the arguments in one string, separated by spaces. */
static int parse(const char *line)
{
	static char copy[1024];
	char *argv[32] = {"bench"};
	int argc = 1;

	told[0] = '\0';
	memset(&err, 0, sizeof err);
	snprintf(copy, sizeof copy, "%s", line);
	for (char *p = strtok(copy, " "); p && argc < 31; p = strtok(NULL, " "))
		argv[argc++] = p;
	bench_options_init(&opts);
	int r = bench_options_parse(&opts, argc, argv, NULL, &err);

	return r ? r : bench_options_check(&opts, &err);
}

#define assert_refused(line, sentence)                                           \
	do {                                                                 \
		assert_true(parse(line) < 0);                                \
		if (!strstr(err.text, sentence))                                 \
			fail_msg("'%s' does not hold '%s'", err.text, sentence); \
	} while (0)

/* ---- tests --------------------------------------------------------------------------------------
 */

static void test_defaults(void **state)
{
	assert_int_equal(parse(""), 0);
	assert_int_equal(opts.mode, BENCH_INITIATOR);
	assert_int_equal(opts.operation, MC_OP_READ);
	assert_int_equal(opts.block_size, 65536);
	assert_int_equal(opts.stride, 65536);
	assert_int_equal(opts.batch_size, 128);
	assert_int_equal(opts.threads, 12);
	assert_true(opts.duration == 10);
	assert_int_equal(parse("--mode=target"), 0);
	assert_true(opts.duration == 0);
	assert_int_equal(parse("--mode=target --duration=3"), 0);
	assert_true(opts.duration == 3);
}

static void test_spellings(void **state)
{
	assert_int_equal(parse("--block_size=8 --batch-size 3 -threads=2 --operation write"), 0);
	assert_int_equal(opts.block_size, 8);
	assert_int_equal(opts.batch_size, 3);
	assert_int_equal(opts.threads, 2);
	assert_int_equal(opts.operation, MC_OP_WRITE);
	assert_int_equal(parse("--check --noinit_mem --hot=true --json=0"), 0);
	assert_true(opts.check && opts.hot && !opts.init_mem && !opts.json);
	assert_int_equal(parse("--check --nocheck"), 0);
	assert_false(opts.check);
	assert_int_equal(parse("--segment-id=-x --duration=0.5s"), 0);
	assert_string_equal(opts.segment_id, "-x");
	assert_true(opts.duration == 0.5);
	assert_int_equal(parse("-h"), 0);
	assert_true(opts.help);
}

static void test_sizes(void **state)
{
	static const struct {
		const char *text;
		uint64_t value;
	} cases[] = {{"1K", 1024},         {"1KiB", 1024},  {"2k", 2048},
		     {"3KB", 3000},        {"1M", 1048576}, {"2MB", 2000000},
		     {"1GiB", 1073741824}, {"7B", 7},       {"0100", 100},
		     {"1.5KiB", 1536},     {"0.5m", 524288}, {"1kib", 1024}};

	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		char line[64];

		snprintf(line, sizeof line, "--block_size=%s --batch_size=1", cases[i].text);
		assert_int_equal(parse(line), 0);
		assert_int_equal(opts.block_size, cases[i].value);
	}
	assert_refused("--block_size=0x100", "not a number from 1 to");
	assert_refused("--block_size=-0.5K", "not a number from 1 to");
	assert_refused("--block_size=1X", "not a number from 1 to");
	assert_refused("--block_size=1Ki", "not a number from 1 to");
	assert_refused("--batch_size=1K", "--batch_size: '1K' is not a number from 1 to 1048576");
}

static void test_ranges(void **state)
{
	assert_refused("--block_size=0", "--block_size: '0' is not a number from 1 to 17179869184");
	assert_refused("--block_size=1099511627776", "from 1 to 17179869184");
	assert_refused("--block_size=99999999999999999999", "from 1 to 17179869184");
	assert_refused("--block_size=9007199254740993G", "from 1 to 17179869184");
	assert_refused("--threads=-1", "--threads: '-1' is not a number from 1 to 1024");
	assert_refused("--threads=", "--threads: '' is not");
	assert_refused("--duration=-1", "from 0 to");
	assert_refused("--duration=nan", "from 0 to");
	assert_refused("--mode=both", "'both' is not 'initiator' or 'target'");
	assert_refused("--check=maybe", "neither true nor false");
	assert_refused("--report_unit=TB", "'TB' is not GB");
	assert_refused("--block_size=16G --batch_size=1048576", "span more than 64 TiB");
	assert_refused("--block_size=4096 --stride=64", "below the block size");
}

static void test_unknown(void **state)
{
	assert_refused("--blocksize=1", "did you mean --block_size?");
	assert_refused("--metadata_sever=x", "did you mean --metadata_server?");
	assert_refused("--zzzzzzzzzz", "--helpfull lists them all");
	assert_refused("target", "not a flag");
	assert_refused("--", "not a flag");
	assert_refused("--=3", "not a flag");
	assert_refused("--nothreads", "not known");
	assert_refused("--segment_id", "the value is missing");
}

static void test_config_keys(void **state)
{
	assert_int_equal(parse("--metadata-server=file:///x --spill --set a.b=c=d --config f"), 0);
	assert_string_equal(told, "load(f,) env(,) set(metadata_server,file:///x) "
				  "set(spill,true) set(a.b,c=d) ");
	assert_int_equal(parse("--nospill --metadata_server file:///y --transports.tcp.lanes=2"),
			 0);
	assert_string_equal(told, "env(,) set(spill,false) set(metadata_server,file:///y) "
				  "set(transports.tcp.lanes,2) ");
	assert_refused("--config=bad", "no such file");
	assert_refused("--set novalue", "'novalue' is not KEY=VALUE");
}

static void test_check_needs_data(void **state)
{
	assert_refused("--protocol=null --check", "moves nothing");
	assert_refused("--use_vram --check", "leave one out");
	assert_refused("--use_vram --location=cxl:0", "leave one out");
	assert_refused("--gpu_id=1 --location=cuda:1", "leave one out");
	assert_refused("--location=gpu:1 --check", "--location: patterns are made and compared in host memory");
	assert_refused("--gpu_id=0 --check", "leave one out");
	assert_refused("--gpu_id=-1 --job=x", "name one GPU");
	assert_refused("--location=cxl:0123456789012345678901234567890", "KIND:NUMBER");
	assert_int_equal(parse("--protocol=null"), 0);
	assert_int_equal(parse("--protocol=tcp --check"), 0);
}

/* What the CPU may not touch is not touched; a GPU that is named is meant. */
static void test_where(void **state)
{
	assert_int_equal(parse("--threads=1"), 0);
	assert_false(opts.use_vram || opts.device_memory);
	assert_int_equal(parse("--gpu_id=1"), 0);
	assert_true(opts.use_vram && opts.device_memory);
	assert_int_equal(parse("--use_vram=false --gpu_id=1"), 0);
	assert_false(opts.use_vram || opts.device_memory);
	assert_int_equal(parse("--location=cuda:1"), 0);
	assert_true(opts.device_memory);
	assert_int_equal(parse("--location=cxl:1 --check"), 0);
	assert_true(bench_is_device_memory("gpu:0") && bench_is_device_memory("cpux:0"));
	assert_false(bench_is_device_memory("cpu:12") || bench_is_device_memory("*") || bench_is_device_memory("cpu"));
}

/* Entries of all threads tile the footprint; hot ones share a block per thread. */
static void test_entries(void **state)
{
	bool seen[12] = {false};

	assert_int_equal(parse("--block_size=16 --batch_size=4 --threads=3"), 0);
	assert_int_equal(bench_footprint(&opts), 16 * 12);
	for (uint64_t t = 0; t < 3; t++) {
		for (uint64_t i = 0; i < 4; i++) {
			uint64_t at = bench_entry_offset(&opts, t, i);

			assert_int_equal(at, 16 * (i * 3 + t));
			assert_false(seen[at / 16]);
			seen[at / 16] = true;
		}
	}
	assert_int_equal(parse("--block_size=16 --batch_size=4 --threads=3 --hot"), 0);
	assert_int_equal(bench_footprint(&opts), 48);
	assert_int_equal(bench_entry_offset(&opts, 2, 3), 32);
	assert_int_equal(parse("--block_size=16 --batch_size=4 --threads=1 --stride=100"), 0);
	assert_int_equal(bench_footprint(&opts), 316);
}

static void test_matrix(void **state)
{
	char text[256];

	assert_int_equal(bench_matrix_text("tcp", "eth0,,rdma:m0", text, sizeof text, &err), 0);
	assert_string_equal(text, "{\"*\": [[\"tcp:eth0\", \"rdma:m0\"]]}");
	assert_int_equal(bench_matrix_text("", "eth0", text, sizeof text, &err), 0);
	assert_string_equal(text, "{\"*\": [[\"eth0\"]]}");
	assert_int_equal(bench_matrix_text("", ",", text, sizeof text, &err), -EINVAL);
	assert_int_equal(bench_matrix_text("", "a\"b", text, sizeof text, &err), -EINVAL);
	for (size_t cap = 12; cap < 32; cap++)
		assert_int_equal(bench_matrix_text("tcp", "eth0,eth1,eth2", text, cap, &err),
				 -EINVAL);
}

static void test_protocol(void **state)
{
	assert_int_equal(parse("--protocol=tcp"), 0);
	assert_int_equal(bench_configure(&opts, NULL, &err), 0);
	assert_non_null(strstr(told, "set(nic_priority_matrix,{\"*\": [[\"tcp:eth0\"]]})"));
	assert_int_equal(parse("--protocol=tcp --device_name=lo"), 0);
	assert_int_equal(bench_configure(&opts, NULL, &err), 0);
	assert_non_null(strstr(told, "set(nic_priority_matrix,{\"*\": [[\"tcp:lo\"]]})"));
	assert_int_equal(parse("--protocol=tpc"), 0);
	assert_int_equal(bench_configure(&opts, NULL, &err), -ENOENT);
	assert_int_equal(parse("--protocol=empty"), 0);
	assert_int_equal(bench_configure(&opts, NULL, &err), -ENODEV);
	assert_string_equal(err.text, "flag --protocol: 'empty' finds no usable device here: plug one in");
	assert_int_equal(parse("--protocol=tcp --nic_priority_matrix=x"), 0);
	assert_int_equal(bench_configure(&opts, NULL, &err), -EINVAL);
	assert_non_null(strstr(err.text, "leave one out"));
}

static void test_sweep(void **state)
{
	struct bench_point p[BENCH_MAX_POINTS];
	struct bench_options o;

	assert_int_equal(parse(""), 0);
	assert_int_equal(opts.sweep.min, 0);
	assert_int_equal(parse("--sweep"), 0);
	assert_int_equal(opts.threads, 1);
	assert_true(opts.duration == 1 && opts.warm_up == 0.2);
	assert_int_equal(bench_sweep_points(&opts, p), 26);
	assert_int_equal(p[0].operation, MC_OP_WRITE);
	assert_int_equal(p[0].block_size, 4096);
	assert_int_equal(p[0].batch_size, 128);
	assert_int_equal(p[12].block_size, 16 << 20);
	assert_int_equal(p[12].batch_size, 4); /* 64 MiB */
	assert_int_equal(p[13].operation, MC_OP_READ);
	assert_int_equal(p[13].block_size, 4096);
	o = bench_point_options(&opts, &p[25]);
	assert_int_equal(o.operation, MC_OP_READ);
	assert_int_equal(o.stride, 16 << 20);
	assert_int_equal(bench_footprint(&o), 64 << 20);

	assert_int_equal(parse("--sweep=3000-10000 --operation=read --batch_size=500 --threads=2 "
			       "--duration=3 --warm_up=0 --stride=1M"),
			 0);
	assert_int_equal(opts.threads, 2);
	assert_true(opts.duration == 3 && opts.warm_up == 0);
	assert_int_equal(bench_sweep_points(&opts, p), 3);
	assert_int_equal(p[0].block_size, 3000);
	assert_int_equal(p[1].block_size, 6000);
	assert_int_equal(p[2].block_size, 10000);
	assert_int_equal(p[2].batch_size, 500);
	o = bench_point_options(&opts, &p[0]);
	assert_int_equal(o.stride, 1 << 20);
	assert_int_equal(parse("--sweep=64K --operation=write"), 0);
	assert_int_equal(bench_sweep_points(&opts, p), 1);
	assert_int_equal(parse("--sweep=1:16G"), 0);
	assert_int_equal(bench_sweep_points(&opts, p), 70);
	assert_int_equal(p[34].batch_size, 1);

	assert_refused("--sweep=x", "not a range of sizes");
	assert_refused("--sweep=8K:4K", "not a range of sizes");
	assert_refused("--sweep=0:4K", "from 1 to");
	assert_refused("--sweep=4K:", "not a range of sizes");
	assert_refused("--sweep=4K:8K:16K", "not a range of sizes");
	assert_refused("--sweep=1:1048576G", "not a range of sizes");
	assert_refused("--sweep=", "not a range of sizes");
	assert_refused("--sweep --block_size=4K", "leave one out");
	assert_refused("--sweep --mode=target", "initiator");
	assert_refused("--sweep=4K:8K --stride=4K", "below the block size");
}

/* The initiator's own buffer, if it was named, must hold the largest point. */
static void test_buffer_size(void **state)
{
	assert_refused("--buffer_size=1M --block_size=1M --batch_size=2 --threads=1",
		       "write --buffer_size=2097152, or lower --block_size");
	assert_int_equal(parse("--buffer_size=2M --block_size=1M --batch_size=2 --threads=1"), 0);
	assert_refused("--buffer_size=1M --sweep=4K:2M", "lower the end of --sweep");
	assert_int_equal(parse("--buffer_size=64M --sweep=4K:2M"), 0);
	assert_int_equal(parse("--mode=target --buffer_size=4096"), 0);
}

/* One screen of 80 columns and 24 lines, with an example. */
static void test_help_fits(void **state)
{
	char *text = NULL;
	size_t len = 0, lines = 0;
	FILE *f = open_memstream(&text, &len);

	assert_non_null(f);
	bench_help(f);
	fclose(f);
	for (char *p = text; *p; lines++) {
		char *end = strchr(p, '\n');

		assert_non_null(end);
		assert_true(end - p <= 80);
		p = end + 1;
	}
	assert_true(lines <= 23); /* the shell's prompt needs one */
	assert_non_null(strstr(text, "transfer_engine_bench --mode=target"));
	free(text);
}

/* ---- a job ------------------------------------------------------------------------------------
 */

static struct bench_job job;

static int with_job(const char *text, const char *line)
{
	char path[] = "/tmp/mc-flags.XXXXXX", all[512];
	int fd = mkstemp(path), r;

	assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
	snprintf(all, sizeof all, "--job=%s %s", path, line);
	assert_int_equal(parse(all), 0);
	r = bench_job_options(&job, &opts, &err);
	unlink(path);
	return r;
}

/* Flags win over the file, whatever it says; what they leave alone is the file's. */
static void test_job(void **state)
{
	assert_int_equal(with_job("{\"threads\": 3, \"batch\": 5, \"blocks\": [{\"size\": 1}, {\"size\": 9}]}", ""), 0);
	assert_true(opts.threads == 3 && opts.batch_size == 5 && opts.block_size == 9 && opts.duration == 10);
	assert_int_equal(with_job("{\"threads\": 3, \"batch\": 5, \"blocks\": [{\"size\": 1}, {\"size\": 9}]}",
				  "--threads=2 --block_size=4K --operation=read --duration=1 --warm_up=0 --seed=8 "
				  "--footprint=1M --hot"),
			 0);
	assert_true(job.threads == 2 && job.batch == 5 && job.nr_blocks == 1 && job.blocks[0].size == 4096);
	assert_true(job.read_share == 1 && job.duration == 1 && job.warm_up == 0 && job.seed == 8);
	assert_true(job.footprint == 1 << 20 && job.locality == BENCH_HOT);
	assert_int_equal(opts.threads, 2);
	/* Verified batches go one after the other. */
	assert_int_equal(with_job("{\"depth\": 4, \"threads\": 2}", "--check"), 0);
	assert_true(job.depth == 1 && job.threads == 2);
	assert_int_equal(with_job("{\"depth\": 4, \"threads\": 2, \"trace\": \"\"}", "--check --trace=t --speed=2"), 0);
	assert_true(job.threads == 1 && job.speed == 2);
	assert_string_equal(job.trace, "t");

	assert_int_equal(with_job("{\"trace\": \"t\"}", "--batch_size=2"), -EINVAL);
	assert_non_null(strstr(err.text, "key 'batch' has no meaning"));
	assert_int_equal(with_job("{}", "--prepared"), -EINVAL);
	assert_non_null(strstr(err.text, "flags --job and --prepared"));
	assert_int_equal(with_job("{}", "--mode=target"), -EINVAL);
	assert_non_null(strstr(err.text, "give it to the initiator"));
	assert_int_equal(with_job("{\"bach\": 1}", ""), -EINVAL);
	assert_int_equal(parse("--seed=1"), 0);
	assert_int_equal(bench_job_options(&job, &opts, &err), -EINVAL);
	assert_non_null(strstr(err.text, "--job=FILE"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_spellings),
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_ranges),
		cmocka_unit_test(test_unknown),
		cmocka_unit_test(test_config_keys),
		cmocka_unit_test(test_check_needs_data), cmocka_unit_test(test_where),
		cmocka_unit_test(test_entries),
		cmocka_unit_test(test_matrix),
		cmocka_unit_test(test_protocol),
		cmocka_unit_test(test_sweep),
		cmocka_unit_test(test_job),
		cmocka_unit_test(test_buffer_size),
		cmocka_unit_test(test_help_fits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
