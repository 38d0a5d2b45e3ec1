/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tables that outlive their process, on a real file system: what a writer that is
 * killed at any instant was told is made must be there, and nothing else.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "store_disk.h"
#include "store_log.h"
#include "core/util/check.h"

#define NR_IDS 500
#define NR_TABLES 3

static char dir[64];
static uint64_t model[NR_TABLES][NR_IDS]; /* the step that set it; 0: not there */
static uint64_t steps;                    /* that the model has taken */

static int setup(void **state)
{
	snprintf(dir, sizeof dir, "/tmp/mc-store-disk-XXXXXX");
	memset(model, 0, sizeof model);
	steps = 0;
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	char cmd[128];

	snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
	return system(cmd);
}

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

/* What step k does follows from k alone. */
static struct mc_store_change step(uint64_t k, unsigned char value[1024])
{
	struct mc_store_change c = {.table = (uint16_t)(mix(k) % NR_TABLES),
				    .gone = mix(k) / 16 % 4 == 0,
				    .id = mix(k) / 256 % NR_IDS,
				    .value = value};

	memcpy(value, &k, sizeof k);
	c.len = 8 + (uint32_t)(k % 7 == 0 ? mix(k + 1) % 1016 : mix(k + 1) % 40);
	memset(value + 8, (int)k, c.len - 8);
	return c;
}

static void model_to(uint64_t k)
{
	unsigned char value[1024];

	while (steps < k) {
		struct mc_store_change c = step(++steps, value);

		model[c.table][c.id] = c.gone ? 0 : steps;
	}
}

static int differing;

static int compare(void *ctx, uint16_t table, uint64_t id, const void *value, size_t len)
{
	uint64_t (*seen)[NR_IDS] = ctx, k;
	unsigned char want[1024];

	if (table >= NR_TABLES || id >= NR_IDS || len < 8)
		return -EINVAL;
	memcpy(&k, value, sizeof k);
	if (len != step(k, want).len || memcmp(want, value, len) != 0)
		differing++;
	seen[table][id] = k;
	return 0;
}

static struct mc_store_disk *open_disk(uint64_t (*seen)[NR_IDS])
{
	const struct mc_store_disk_options options = {.size = sizeof options,
						      .file_bytes = MC_STORE_LOG_FILE_MIN,
						      .fold_ns = MC_MSEC,
						      .fold_records = 60};
	static uint64_t unseen[NR_TABLES][NR_IDS];
	struct mc_store_disk *disk = NULL;
	struct mc_error err = {0};
	int r;

	if (!seen)
		seen = unseen;
	memset(seen, 0, sizeof unseen);
	r = mc_store_disk_open(dir, &options, compare, seen, &disk, &err);
	if (r < 0)
		fail_msg("open: %d %s", r, err.text);
	return disk;
}

/* In groups of 1 to 5; the last step that was made. */
static uint64_t take_steps(struct mc_store_disk *disk, uint64_t from, uint64_t nr)
{
	static unsigned char values[5][1024];
	struct mc_store_change changes[5];
	size_t group = 1 + mix(from) % 5;

	while (nr) {
		group = MC_MIN(group, nr);
		for (size_t i = 0; i < group; i++)
			changes[i] = step(from + 1 + i, values[i]);
		if (mc_store_disk_append(disk, changes, group) < 0)
			return from;
		from += group;
		nr -= group;
	}
	return from;
}

static int writer(const char *where, const char *from)
{
	uint64_t k = strtoull(from, NULL, 10);
	struct mc_store_disk *disk;

	snprintf(dir, sizeof dir, "%s", where);
	disk = open_disk(NULL);
	for (;;) {
		k = take_steps(disk, k, 1);
		if (write(STDOUT_FILENO, &k, sizeof k) != sizeof k)
			return 1;
	}
}

/* Run a writer from step k on, kill it; the last step that it has told of. */
static uint64_t write_and_kill(uint64_t k, int nr)
{
	char from[24];
	uint64_t told;
	int fds[2], status;
	pid_t pid;

	snprintf(from, sizeof from, "%llu", (unsigned long long)k);
	assert_int_equal(pipe(fds), 0);
	pid = fork();
	if (pid == 0) {
		dup2(fds[1], STDOUT_FILENO);
		execl("/proc/self/exe", "test-store-disk", dir, from, NULL);
		_exit(1);
	}
	close(fds[1]);
	while (nr-- && read(fds[0], &told, sizeof told) == sizeof told)
		k = told;
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	assert_true(WIFSIGNALED(status));
	while (read(fds[0], &told, sizeof told) == sizeof told)
		k = told;
	close(fds[0]);
	return k;
}

static bool as_model(uint64_t (*seen)[NR_IDS], uint64_t k)
{
	model_to(k);
	return memcmp(seen, model, sizeof model) == 0;
}

static void test_killed(void **state)
{
	static uint64_t seen[NR_TABLES][NR_IDS];
	uint64_t k = 0;

	for (int round = 0; round < 8; round++) {
		struct mc_store_disk *disk;

		k = write_and_kill(k, 200 + round * 331);
		differing = 0;
		disk = open_disk(seen);
		assert_int_equal(differing, 0);
		/* One step more may have been made than was told. */
		if (!as_model(seen, k))
			assert_true(as_model(seen, ++k));
		k = take_steps(disk, k, round % 2 ? 900 : 0);
		mc_store_disk_close(disk);
	}
	assert_true(k > 5000);
}

static void test_groups(void **state)
{
	static uint64_t seen[NR_TABLES][NR_IDS];
	struct mc_store_disk *disk = open_disk(seen);
	struct mc_store_disk_stats stats;
	static struct mc_store_change many[100];
	static unsigned char values[100][1024], big[MC_STORE_DISK_VALUE_MAX + 1];

	for (int i = 0; i < 100; i++)
		many[i] = step((uint64_t)i + 1, values[i]);
	assert_int_equal(mc_store_disk_append(disk, many, 100), 0);
	for (int i = 0; i < 100; i++)
		assert_int_equal(many[i].seq, i + 1);
	many[0].table = MC_STORE_DISK_TABLES;
	assert_int_equal(mc_store_disk_append(disk, many, 1), -EINVAL);
	many[0] = (struct mc_store_change){.len = sizeof big, .value = big};
	assert_int_equal(mc_store_disk_append(disk, many, 1), -EINVAL);
	assert_int_equal(mc_store_disk_last(disk), 100);
	assert_int_equal(mc_store_disk_wait(disk, 100, 60 * MC_SEC), 0);
	assert_true(mc_store_disk_synced(disk) >= 100);
	do
		mc_store_disk_stats(disk, &stats);
	while (stats.folded < 100);
	assert_int_equal(stats.failed, 0);
	assert_int_equal(stats.log_files, 1);
	mc_store_disk_close(disk);
	disk = open_disk(seen);
	assert_true(as_model(seen, 100));
	mc_store_disk_close(disk);
}

static int refuse(void *ctx, uint16_t table, uint64_t id, const void *value, size_t len)
{
	return -ECANCELED;
}

static void test_refused(void **state)
{
	struct mc_store_disk *disk = open_disk(NULL), *other = NULL;
	struct mc_error err = {0};
	char path[128];
	int fd;

	assert_int_equal(take_steps(disk, 0, 50), 50);
	assert_int_equal(mc_store_disk_open(dir, NULL, refuse, NULL, &other, &err), -EBUSY);
	mc_store_disk_close(disk);
	assert_int_equal(mc_store_disk_open(dir, NULL, refuse, NULL, &other, &err), -ECANCELED);
	/* Without its database the log does not say all. */
	snprintf(path, sizeof path, "%s/fold.mdb", dir);
	fd = open(path, O_RDWR);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, "no database at all, but something else", 38, 0), 38);
	close(fd);
	assert_int_equal(mc_store_disk_open(dir, NULL, refuse, NULL, &other, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "its database cannot be opened"));
}

/* A database that was cut off is refused, wherever that was, unless what is missing was free. */
static void test_cut(void **state)
{
	static uint64_t seen[NR_TABLES][NR_IDS];
	struct mc_store_disk *disk = open_disk(NULL);
	char path[128], cmd[300];
	unsigned refused = 0;
	struct stat st;

	take_steps(disk, 0, 3000);
	mc_store_disk_close(disk);
	snprintf(path, sizeof path, "%s/fold.mdb", dir);
	assert_int_equal(stat(path, &st), 0);
	snprintf(cmd, sizeof cmd, "cp -r '%s' '%s.whole'", dir, dir);
	assert_int_equal(system(cmd), 0);
	for (off_t size = 8192; size < st.st_size; size += 4096) {
		struct mc_error err = {0};
		int r;

		assert_int_equal(truncate(path, size), 0);
		memset(seen, 0, sizeof seen);
		disk = NULL;
		r = mc_store_disk_open(dir, NULL, compare, seen, &disk, &err);
		refused += r < 0;
		if (r < 0)
			assert_true(r == -EBADMSG && strstr(err.text, "move the folder away"));
		else
			assert_true(as_model(seen, 3000));
		mc_store_disk_close(disk);
		snprintf(cmd, sizeof cmd, "rm -r '%s' && cp -r '%s.whole' '%s'", dir, dir, dir);
		assert_int_equal(system(cmd), 0);
	}
	assert_true(refused > 0);
	snprintf(cmd, sizeof cmd, "rm -r '%s.whole'", dir);
	assert_int_equal(system(cmd), 0);
}

/* The end of the machine, after the database was written and before the log was: numbers go on. */
static void test_log_lost(void **state)
{
	static uint64_t seen[NR_TABLES][NR_IDS];
	struct mc_store_disk *disk = open_disk(NULL);
	char cmd[128];

	take_steps(disk, 0, 2000);
	mc_store_disk_close(disk);
	snprintf(cmd, sizeof cmd, "rm '%s'/log.*", dir);
	assert_int_equal(system(cmd), 0);
	disk = open_disk(seen);
	assert_true(as_model(seen, 2000));
	assert_int_equal(mc_store_disk_last(disk), 2000);
	assert_int_equal(take_steps(disk, 2000, 1000), 3000);
	mc_store_disk_close(disk);
	disk = open_disk(seen);
	assert_true(as_model(seen, 3000));
	mc_store_disk_close(disk);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_killed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_groups, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cut, setup, teardown),
		cmocka_unit_test_setup_teardown(test_log_lost, setup, teardown),
	};

	if (argc > 2)
		return writer(argv[1], argv[2]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
