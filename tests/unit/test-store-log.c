/* SPDX-License-Identifier: Apache-2.0 */
/* The master's log on a real file system: killed writers, torn ends, damage, groups, dropping. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "store_log.h"
#include "core/util/bytes.h"

#define FILE_BYTES MC_STORE_LOG_FILE_MIN
#define WAIT (60 * MC_SEC)

static char dir[64];

static int setup(void **state)
{
	snprintf(dir, sizeof dir, "/tmp/mc-store-log-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	char cmd[128];

	snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
	return system(cmd);
}

/* What a record holds follows from its number, so that a reader knows what must be there. */
static uint32_t payload_of(uint64_t seq, unsigned char *data)
{
	uint32_t len = (uint32_t)(seq * 7919 % 300);

	for (uint32_t i = 0; i < len; i++)
		data[i] = (unsigned char)(seq + i);
	return len;
}

struct seen {
	uint64_t next, stop_at;
	struct mc_store_log_at at;
};

static int see(void *ctx, const struct mc_store_record *rec, const struct mc_store_log_at *next)
{
	struct seen *s = ctx;
	unsigned char data[300];
	uint32_t len = payload_of(rec->seq, data);

	if (rec->seq != s->next || rec->len != len || memcmp(rec->payload, data, len) != 0 ||
	    rec->type != (uint16_t)(rec->seq % 5 + 1) || rec->version != 3)
		fail_msg("record %llu is not what was written as %llu", (unsigned long long)rec->seq,
			 (unsigned long long)s->next);
	s->next++;
	s->at = *next;
	return rec->seq == s->stop_at ? -ECANCELED : 0;
}

static int write_one(struct mc_store_log *log)
{
	uint64_t seq = mc_store_log_last(log) + 1;
	unsigned char data[300];
	struct mc_store_record rec = {
		.type = (uint16_t)(seq % 5 + 1), .version = 3, .len = payload_of(seq, data), .payload = data};

	return mc_store_log_append(log, &rec, 1);
}

static struct mc_store_log *open_log(const struct mc_store_log_at *from, struct seen *seen)
{
	struct mc_store_log *log = NULL;
	struct mc_error err = {0};
	int r;

	*seen = (struct seen){.next = from ? from->seq : 1};
	r = mc_store_log_open(dir, FILE_BYTES, from, see, seen, &log, &err);
	if (r < 0)
		fail_msg("open: %d %s", r, err.text);
	return log;
}

static void test_reopened(void **state)
{
	uint64_t total = 0;
	struct seen seen;

	for (int round = 0; round < 6; round++) {
		struct mc_store_log *log = open_log(NULL, &seen);

		assert_int_equal(seen.next - 1, total);
		assert_int_equal(mc_store_log_last(log), total);
		for (int i = 0; i < round * 700; i++)
			assert_int_equal(write_one(log), 0);
		total = mc_store_log_last(log);
		mc_store_log_close(log);
	}
	assert_int_equal(total, 15 * 700);
}

static void test_read_along(void **state)
{
	struct mc_store_log_at at = {.file = 1, .offset = 64, .seq = 1};
	struct seen seen, along = {.next = 1};
	struct mc_store_log *log = open_log(NULL, &seen);
	uint64_t files;

	for (int i = 0; i < 3000; i++) {
		assert_int_equal(write_one(log), 0);
		if (i % 100 == 50)
			assert_int_equal(mc_store_log_read(log, &at, see, &along), 0);
	}
	along.stop_at = mc_store_log_last(log) - 10;
	assert_int_equal(mc_store_log_read(log, &at, see, &along), -ECANCELED);
	assert_int_equal(at.seq, mc_store_log_last(log) - 9);
	assert_int_equal(mc_store_log_read(log, &at, see, &along), 0);
	assert_int_equal(along.next, mc_store_log_last(log) + 1);
	assert_int_equal(mc_store_log_read(log, &at, see, &along), 0);
	files = mc_store_log_files(log);
	assert_true(files > 4);
	mc_store_log_drop(log, &at);
	assert_int_equal(mc_store_log_files(log), 1);
	for (int i = 0; i < 300; i++)
		assert_int_equal(write_one(log), 0);
	mc_store_log_close(log);
	/* Goes on from where the reader was, and not from the beginning, which is gone. */
	log = open_log(&at, &seen);
	assert_int_equal(seen.next, at.seq + 300);
	mc_store_log_close(log);
	assert_int_equal(mc_store_log_open(dir, FILE_BYTES, NULL, see, &seen, &log, NULL), -EBADMSG);
}

/* Another process: it writes, and tells on stdout what append has returned for, until it is killed. */
static int writer(const char *where)
{
	struct mc_store_log *log;
	struct seen seen;
	uint64_t seq;

	snprintf(dir, sizeof dir, "%s", where);
	log = open_log(NULL, &seen);
	while (write_one(log) == 0) {
		seq = mc_store_log_last(log);
		if (write(STDOUT_FILENO, &seq, sizeof seq) != sizeof seq)
			break;
	}
	return 1;
}

/* A writer that is killed at any instant loses nothing that append has returned for. */
static void test_killed(void **state)
{
	uint64_t told = 0;
	struct seen seen;

	for (int round = 0; round < 8; round++) {
		struct mc_store_log *log;
		uint64_t seq;
		int fds[2], status;
		pid_t pid;

		assert_int_equal(pipe(fds), 0);
		pid = fork();
		assert_true(pid >= 0);
		if (pid == 0) {
			dup2(fds[1], STDOUT_FILENO);
			execl("/proc/self/exe", "test-store-log", dir, NULL);
			_exit(1);
		}
		close(fds[1]);
		for (int i = 0; i < 400 + round * 37; i++)
			assert_int_equal(read(fds[0], &told, sizeof told), sizeof told);
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		assert_true(WIFSIGNALED(status));
		while (read(fds[0], &seq, sizeof seq) == sizeof seq)
			told = seq;
		close(fds[0]);
		log = open_log(NULL, &seen);
		assert_true(mc_store_log_last(log) >= told && mc_store_log_last(log) <= told + 1);
		mc_store_log_close(log);
	}
}

static void damage(uint64_t file, off_t offset, size_t len)
{
	unsigned char junk[64];
	char path[128];
	int fd;

	memset(junk, 0xA5, sizeof junk);
	snprintf(path, sizeof path, "%s/log.%08llu", dir, (unsigned long long)file);
	fd = open(path, O_WRONLY);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, junk, len, offset), len);
	close(fd);
}

/* A hole in the middle, as the end of a machine leaves it: what is behind does not count, and never comes back. */
static void test_torn(void **state)
{
	struct seen seen, half = {.next = 1, .stop_at = 500};
	struct mc_store_log_at at = {.file = 1, .offset = 64, .seq = 1};
	struct mc_store_log *log = open_log(NULL, &seen);

	for (int i = 0; i < 2000; i++)
		assert_int_equal(write_one(log), 0);
	assert_int_equal(mc_store_log_read(log, &at, see, &half), -ECANCELED);
	mc_store_log_close(log);
	damage(at.file, (off_t)at.offset + 30, 1);
	log = open_log(NULL, &seen);
	assert_int_equal(mc_store_log_last(log), 500);
	for (int i = 0; i < 40; i++)
		assert_int_equal(write_one(log), 0);
	mc_store_log_close(log);
	log = open_log(NULL, &seen);
	assert_int_equal(mc_store_log_last(log), 540);
	mc_store_log_close(log);
}

static void test_refused(void **state)
{
	struct mc_store_log *log, *other = NULL;
	struct mc_error err = {0};
	struct seen seen;
	char path[128];
	int fd;

	log = open_log(NULL, &seen);
	assert_int_equal(mc_store_log_open(dir, FILE_BYTES, NULL, see, &seen, &other, &err), -EBUSY);
	snprintf(path, sizeof path, "process %d has it open", (int)getpid());
	assert_non_null(strstr(err.text, path));
	assert_int_equal(write_one(log), 0);
	mc_store_log_close(log);
	/* Not ours: nothing of it is touched. */
	snprintf(path, sizeof path, "%s/log.00000001", dir);
	fd = open(path, O_RDWR);
	assert_int_equal(pwrite(fd, "precious", 8, 0), 8);
	assert_int_equal(mc_store_log_open(dir, FILE_BYTES, NULL, see, &seen, &other, &err), -EBADMSG);
	assert_int_equal(pread(fd, path, 8, 0), 8);
	assert_memory_equal(path, "precious", 8);
	close(fd);
	assert_int_equal(mc_store_log_open(dir, FILE_BYTES + 1, NULL, see, &seen, &other, &err), -EINVAL);
	assert_int_equal(mc_store_log_open("/proc/nothing", 0, NULL, see, &seen, &other, &err), -ENOENT);
}

static void test_sizes(void **state)
{
	static unsigned char big[MC_STORE_LOG_PAYLOAD_MAX + 1];
	struct mc_store_record rec = {.type = 1, .len = sizeof big, .payload = big}, many[8];
	struct mc_store_log *log;
	struct seen seen;

	log = open_log(NULL, &seen);
	assert_int_equal(mc_store_log_append(log, &rec, 1), -EMSGSIZE);
	for (int i = 0; i < 8; i++)
		many[i] = (struct mc_store_record){.type = 1, .len = sizeof big - 1, .payload = big};
	assert_int_equal(mc_store_log_append(log, many, 8), -EMSGSIZE);
	assert_int_equal(mc_store_log_last(log), 0);
	assert_int_equal(mc_store_log_append(log, many, 1), 0);
	assert_int_equal(many[0].seq, 1);
	mc_store_log_close(log);
}

/* Its folder is full: what does not fit does not count, what was written stays, and later there is room. */
static void test_no_room(void **state)
{
	struct mc_store_log *log;
	struct seen seen;
	char path[128];
	int r = 0;

	log = open_log(NULL, &seen);
	for (int i = 0; i < 100; i++)
		assert_int_equal(write_one(log), 0);
	/* A folder in the place of the next file: it cannot be made. */
	for (int n = 2; n < 200; n++) {
		snprintf(path, sizeof path, "%s/log.%08d", dir, n);
		assert_int_equal(mkdir(path, 0700), 0);
	}
	while (r == 0)
		r = write_one(log);
	assert_int_equal(r, -EISDIR);
	seen.next = mc_store_log_last(log);
	assert_int_equal(write_one(log), -EISDIR);
	assert_int_equal(mc_store_log_last(log), seen.next);
	for (int n = 2; n < 200; n++) {
		snprintf(path, sizeof path, "%s/log.%08d", dir, n);
		rmdir(path);
	}
	assert_int_equal(write_one(log), 0);
	mc_store_log_close(log);
	log = open_log(NULL, &seen);
	assert_int_equal(seen.next - 1, mc_store_log_last(log));
	mc_store_log_close(log);
}

struct writer {
	struct mc_store_log *log;
	uint64_t last;
};

static void *write_many(void *arg)
{
	struct writer *w = arg;
	unsigned char data[64] = {0};

	for (int i = 0; i < 500; i++) {
		struct mc_store_record recs[3] = {{.type = 9, .len = 64, .payload = data},
						  {.type = 9, .len = 1, .payload = data},
						  {.type = 9, .len = 0}};

		if (mc_store_log_append(w->log, recs, 3) < 0 || recs[2].seq != recs[0].seq + 2 || recs[0].seq <= w->last)
			return w;
		w->last = recs[2].seq;
		if (i % 50 == 0 && mc_store_log_wait(w->log, w->last, WAIT) < 0)
			return w;
		if (i % 50 == 0 && mc_store_log_synced(w->log) < w->last)
			return w;
		mc_store_log_want(w->log, w->last);
	}
	return NULL;
}

static int count(void *ctx, const struct mc_store_record *rec, const struct mc_store_log_at *next)
{
	++*(uint64_t *)ctx;
	return rec->type == 9 ? 0 : -EINVAL;
}

static void test_threads(void **state)
{
	struct mc_store_log_at at = {.file = 1, .offset = 64, .seq = 1};
	struct writer writers[3];
	pthread_t threads[3];
	uint64_t nr = 0;
	struct seen seen;
	struct mc_store_log *log = open_log(NULL, &seen);
	void *failed;

	for (int i = 0; i < 3; i++) {
		writers[i] = (struct writer){.log = log};
		assert_int_equal(pthread_create(&threads[i], NULL, write_many, &writers[i]), 0);
	}
	while (nr < 3 * 3 * 500) {
		assert_int_equal(mc_store_log_read(log, &at, count, &nr), 0);
		mc_store_log_drop(log, &at);
	}
	for (int i = 0; i < 3; i++) {
		pthread_join(threads[i], &failed);
		assert_null(failed);
	}
	assert_int_equal(nr, mc_store_log_last(log));
	assert_int_equal(mc_store_log_wait(log, mc_store_log_last(log) + 1, MC_MSEC), -ETIMEDOUT);
	mc_store_log_close(log);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_reopened, setup, teardown),
		cmocka_unit_test_setup_teardown(test_read_along, setup, teardown),
		cmocka_unit_test_setup_teardown(test_killed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_torn, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_sizes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_room, setup, teardown),
		cmocka_unit_test_setup_teardown(test_threads, setup, teardown),
	};

	if (argc > 1)
		return writer(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
