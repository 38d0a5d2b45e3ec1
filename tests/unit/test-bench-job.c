/* SPDX-License-Identifier: Apache-2.0 */
/* The bench's jobs: what is taken, and the sentence for what is not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "job.h"

static int parse(const char *text, struct bench_job *job, struct mc_error *err)
{
	bench_job_init(job);
	return bench_job_parse("f.json", text, strlen(text), job, err);
}

static void test_values(void **state)
{
	struct mc_error err = {0};
	struct bench_job job;

	assert_int_equal(parse("{}", &job, &err), 0);
	assert_int_equal(bench_job_check(&job, &err), 0);
	assert_int_equal(job.blocks[0].size, 65536);
	assert_int_equal(job.batch, 16);
	assert_false(bench_job_given(&job, "batch"));

	assert_int_equal(parse("{\"name\": \"x\", \"batch\": 3, \"depth\": 2, \"threads\": 4, \"peers\": \"all\",\n"
			       "\"read_share\": 0.25, \"bytes_per_s\": \"1.5MB\", \"locality\": \"zipf\",\n"
			       "\"zipf_exponent\": 1.1, \"footprint\": \"1G\", \"duration\": \"250ms\", \"warm_up\": 2,\n"
			       "\"layers\": 8, \"layer_time\": \"50us\", \"seed\": 7}",
			       &job, &err), 0);
	assert_int_equal(bench_job_check(&job, &err), 0);
	assert_string_equal(job.name, "x");
	assert_int_equal(job.batch, 3);
	assert_int_equal(job.depth, 2);
	assert_int_equal(job.peers, 0);
	assert_true(job.read_share == 0.25 && job.bytes_per_s == 1500000 && job.duration == 0.25);
	assert_true(job.layer_time > 49e-6 && job.layer_time < 51e-6);
	assert_int_equal(job.locality, BENCH_ZIPF);
	assert_int_equal(job.footprint, 1 << 30);
	assert_true(bench_job_given(&job, "seed"));

	assert_int_equal(parse("{\"blocks\": 4096}", &job, &err), 0);
	assert_int_equal(job.nr_blocks, 1);
	assert_int_equal(job.blocks[0].size, 4096);
	assert_int_equal(parse("{\"blocks\": [{\"size\": \"16K\"}, {\"share\": 2.5, \"size\": 1}], \"notify\": true}",
			       &job, &err), 0);
	assert_int_equal(job.nr_blocks, 2);
	assert_int_equal(job.blocks[0].size, 16384);
	assert_true(job.blocks[0].share == 1 && job.blocks[1].share == 2.5 && job.notify);
	assert_int_equal(bench_job_largest(&job), 16384);
}

static void test_refused(void **state)
{
	static const struct {
		const char *text, *why;
	} cases[] = {
		{"", "f.json:1: "},
		{"{", "f.json:1: "},
		{"{\n\"batch\": 1,\n]", "f.json:3: "},
		{"{} {}", "f.json:1: "},
		{"[1]", "f.json:1: not an object"},
		{"7", "f.json:1: not an object"},
		{"{\n\n\"bach\": 1}", "f.json:3: key 'bach' is not known (did you mean 'batch'?)"},
		{"{\"entirely_other\": 1}", "key 'entirely_other' is not known; --helpfull"},
		{"{\"batch\": 1,\n\"batch\": 2}", "f.json:2: key 'batch' is there twice"},
		{"{\"batch\": 0}", "key 'batch': '0' is not a whole number from 1 to 1048576"},
		{"{\"batch\": 1.5}", "key 'batch': '1.5' is not"},
		{"{\"batch\": \"many\"}", "key 'batch': 'many' is not"},
		{"{\"batch\": null}", "key 'batch': 'null' is not"},
		{"{\"batch\": true}", "key 'batch': 'true' is not"},
		{"{\"batch\": [1]}", "key 'batch': a list is not"},
		{"{\"batch\": {\"a\": 1}}", "key 'batch': an object is not"},
		{"{\"notify\": 1}", "key 'notify': '1' is not true or false"},
		{"{\"peers\": \"some\"}", "or \"all\""},
		{"{\"locality\": \"here\"}", "key 'locality': 'here' is not \"sequential\", \"hot\", \"uniform\", \"zipf\""},
		{"{\"read_share\": 1.01}", "from 0 to 1"},
		{"{\"read_share\": \"0.5\"}", "key 'read_share': '0.5' is not"},
		{"{\"duration\": \"1h\"}", "like 2.5 or \"20ms\""},
		{"{\"footprint\": -1}", "key 'footprint'"},
		{"{\"name\": \"a\\u0007\"}", "in one line"},
		{"{\"name\": \"a\\u0000\"}", "key 'name'"},
		{"{\"blocks\": []}", "the list is empty"},
		{"{\"blocks\": [4096]}", "the list holds objects"},
		{"{\"blocks\": [[1]]}", "a list in a list"},
		{"{\"blocks\": [{\"share\": 1}]}", "an object without a size"},
		{"{\"blocks\": [{\"size\": 0}]}", "key 'size' of blocks: 0 is not"},
		{"{\"blocks\": [{\"size\": 1, \"share\": 0}]}", "key 'share' of blocks: 0 is not"},
		{"{\"blocks\": [{\"size\": 1, \"size\": 1}]}", "key 'size' of blocks is there twice"},
		{"{\"blocks\": [{\"size\": 1, \"sise\": 1}]}", "key 'sise' of blocks is not known"},
		{"{\"blocks\": [{\"size\": {}}]}", "an object in an object"},
		{"{\"blocks\": \"17G\"}", "key 'blocks': '17G' is not"},
	};

	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct mc_error err = {0};
		struct bench_job job;

		assert_int_equal(parse(cases[i].text, &job, &err), -EINVAL);
		if (!strstr(err.text, cases[i].why))
			fail_msg("%s: '%s' lacks '%s'", cases[i].text, err.text, cases[i].why);
	}
}

static void test_together(void **state)
{
	static const struct {
		const char *text, *why;
	} cases[] = {
		{"{\"bytes_per_s\": 1, \"requests_per_s\": 1}", "one rate"},
		{"{\"think_time\": 1, \"requests_per_s\": 1}", "'think_time' and a rate"},
		{"{\"think_time\": 1, \"depth\": 2}", "'think_time' and 'depth'"},
		{"{\"notify\": true, \"read_share\": 0.1}", "'notify' and 'read_share'"},
		{"{\"broadcast\": true, \"read_share\": 0.1}", "'broadcast' and 'read_share'"},
		{"{\"broadcast\": true, \"notify\": true}", "'notify' and 'broadcast'"},
		{"{\"layer_time\": 1}", "'layer_time'"},
		{"{\"passes\": 1, \"locality\": \"hot\"}", "'passes'"},
		{"{\"speed\": 2}", "key 'speed' is of the replay of a trace"},
		{"{\"trace\": \"t\", \"layers\": 2}", "key 'layers' has no meaning in the replay"},
		{"{\"trace\": \"\"}", "--trace=FILE"},
		{"{\"trace\": \"t\", \"blocks\": [{\"size\": 1}, {\"size\": 2}]}", "one size"},
		{"{\"batch\": 1048576, \"threads\": 1024}", "are too many"},
	};
	struct mc_error err = {0};
	struct bench_job job;

	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		assert_int_equal(parse(cases[i].text, &job, &err), 0);
		assert_int_equal(bench_job_check(&job, &err), -EINVAL);
		if (!strstr(err.text, cases[i].why))
			fail_msg("%s: '%s' lacks '%s'", cases[i].text, err.text, cases[i].why);
	}
	assert_int_equal(parse("{\"passes\": 2}", &job, &err), 0);
	assert_int_equal(bench_job_check(&job, &err), 0);
	assert_true(job.duration == 0 && job.warm_up == 0);
	assert_int_equal(parse("{\"trace\": \"t\", \"duration\": 3}", &job, &err), 0);
	assert_int_equal(bench_job_check(&job, &err), 0);
	assert_true(job.duration == 3 && bench_job_replays(&job));
}

static void test_file(void **state)
{
	char dir[] = "/tmp/mc-job.XXXXXX", path[128], want[128];
	struct mc_error err = {0};
	struct bench_job job;
	FILE *f;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof path, "%s/my-job.json", dir);
	assert_int_equal(bench_job_load(path, &job, &err), -ENOENT);
	assert_non_null(strstr(err.text, path));
	f = fopen(path, "w");
	assert_non_null(f);
	fputs("{\"trace\": \"t.jsonl\"}", f);
	fclose(f);
	assert_int_equal(bench_job_load(path, &job, &err), 0);
	assert_string_equal(job.name, "my-job");
	snprintf(want, sizeof want, "%s/t.jsonl", dir);
	assert_string_equal(job.trace, want);
	unlink(path);
	rmdir(dir);
}

/* Every job that comes with the bench. */
static void test_ours(void **state)
{
	static const char *const names[] = {"chat-read", "checkpoint-broadcast", "kv-cache-write", "mixed",
					    "steady-read", "trace-replay"};

	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		struct mc_error err = {0};
		struct bench_job job;
		char path[1024];
		bool replay = strcmp(names[i], "trace-replay") == 0;

		snprintf(path, sizeof path, "%s/%s.json", getenv("JOBS"), names[i]);
		if (bench_job_load(path, &job, &err) < 0)
			fail_msg("%s", err.text);
		assert_string_equal(job.name, names[i]);
		assert_int_equal(bench_job_check(&job, &err), replay ? -EINVAL : 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_values),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_together),
		cmocka_unit_test(test_file),
		cmocka_unit_test(test_ours),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
