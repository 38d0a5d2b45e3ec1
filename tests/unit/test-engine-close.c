/* SPDX-License-Identifier: Apache-2.0 */
/* Closing an engine keeps its timeout, whatever its helpers wait for, and frees all of it in the end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <mooncake/mooncake.h>
#include <sched.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "engine.h"
#include "core/util/check.h"
#include "cli/check/census.h"

static char dir[] = "/tmp/mc-close-XXXXXX";

static struct mc_engine *engine_new(const char *lease_ttl)
{
	struct mc_config *config;
	struct mc_engine *engine = NULL;
	struct mc_error err = {0};
	char url[64];
	int r = mc_config_new(&config, &err);

	snprintf(url, sizeof url, "file://%s", dir);
	assert_int_equal(r, 0);
	assert_int_equal(mc_config_set(config, "metadata_server", url, &err), 0);
	assert_int_equal(mc_config_set(config, "local_server_name", "alpha", &err), 0);
	assert_int_equal(mc_config_set(config, "port", "0", &err), 0);
	assert_int_equal(mc_config_set(config, "nic_priority_matrix", "{\"*\": [[\"null:null0\"]]}", &err), 0);
	if (lease_ttl)
		assert_int_equal(mc_config_set(config, "lease_ttl", lease_ttl, &err), 0);
	if (mc_engine_open(config, 10 * MC_SEC, &engine, &err) < 0)
		fail_msg("%s", err.text);
	mc_config_free(config);
	return engine;
}

struct stuck {
	struct mc_job job;
	sem_t begun, go;
};

static void stuck_run(struct mc_job *job)
{
	struct stuck *s = MC_CONTAINER_OF(job, struct stuck, job);

	sem_post(&s->begun);
	sem_wait(&s->go);
}

static int nr_fds(void)
{
	int n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* Both helpers are in calls that do not return; a keepalive waits behind them. */
static void test_stuck_helpers(void **state)
{
	struct mc_engine *engine = engine_new(NULL);
	struct stuck s[2];
	uint64_t begin, took, give_up;
	unsigned threads;
	int fds;

	/* What libraries keep for good is there after the first one. */
	assert_int_equal(mc_engine_close(engine, 5 * MC_SEC), 0);
	fds = nr_fds();
	threads = census_threads();
	engine = engine_new("300ms");
	for (int i = 0; i < 2; i++) {
		s[i].job.run = stuck_run;
		sem_init(&s[i].begun, 0, 0);
		sem_init(&s[i].go, 0, 0);
		mc_helpers_run(engine->helpers, &s[i].job);
		sem_wait(&s[i].begun);
	}
	begin = mc_now_ns();
	assert_int_equal(mc_helpers_wait(engine->helpers, 1, begin + 150 * MC_MSEC), -ETIMEDOUT);
	assert_int_equal(mc_engine_close(engine, 400 * MC_MSEC), -ETIMEDOUT);
	took = mc_now_ns() - begin;
	assert_true(took < 2 * MC_SEC);
	sem_post(&s[0].go);
	sem_post(&s[1].go);
	give_up = mc_now_ns() + 20 * MC_SEC;
	while (census_threads() != threads && mc_now_ns() < give_up)
		sched_yield();
	assert_int_equal(census_threads(), threads);
	assert_int_equal(nr_fds(), fds);
	/* The name is free: neither record nor lease were left behind. */
	engine = engine_new(NULL);
	assert_int_equal(mc_engine_close(engine, 5 * MC_SEC), 0);
}

static int make_dir(void **state)
{
	mc_log_set_level(MC_LOG_ERROR);
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	char cmd[64];

	snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
	return system(cmd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_stuck_helpers),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
