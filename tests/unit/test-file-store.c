/* SPDX-License-Identifier: Apache-2.0 */
/* File metadata: damage, foreign files, dead writers, locks, a full disk, a read-only directory. */
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include "file-fixture.h"

static void damaged(void **state)
{
	struct fixture *x = *state;
	struct mc_kv kv = {.size = sizeof kv, .key = "bad", .value = "w", .len = 1};
	struct mc_error err = {0};
	char value[64];

	assert_int_equal(fx_put(&x->f, "bad", "v", 0, &err), 0);
	assert_int_equal(fx_put(&x->f, "good", "v", 0, &err), 0);
	fx_write(x, "k.bad", "\xff", 1, 20);
	assert_int_equal(fx_get(&x->f, "bad", NULL, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "k.bad"));
	assert_non_null(strstr(err.text, "write the key again"));
	assert_int_equal(fx_list(&x->f, ""), 1);
	assert_int_equal(x->logs[MC_LOG_WARN], 1);
	assert_non_null(strstr(x->last_log, "k.bad"));
	assert_int_equal(file_cas(&x->f, &kv, 0, x->now + MC_SEC, NULL, &err), -EBADMSG);
	assert_int_equal(file_del(&x->f, "bad", 7, x->now + MC_SEC, &err), -EBADMSG);
	assert_int_equal(fx_put(&x->f, "bad", "new", 0, &err), 0);
	assert_int_equal(fx_get(&x->f, "bad", value, &err), 0);
	assert_string_equal(value, "new");
	fx_write(x, "k.bad", "\xff", 1, 20);
	assert_int_equal(file_del(&x->f, "bad", 0, x->now + MC_SEC, &err), 0);
	assert_int_equal(fx_get(&x->f, "bad", NULL, &err), -ENOENT);
}

/* Files under our names that are something else; none may block or be followed. */
static void strange(void **state)
{
	struct fixture *x = *state;
	struct mc_error err = {0};

	assert_int_equal(fx_put(&x->f, "good", "v", 0, &err), 0);
	assert_int_equal(mkfifoat(x->f.dirfd, "k.fifo", 0600), 0);
	assert_int_equal(mkdirat(x->f.dirfd, "k.dir", 0700), 0);
	assert_int_equal(symlinkat("k.good", x->f.dirfd, "k.link"), 0);
	fx_write(x, "k.empty", "", 0, 0);
	fx_write(x, "k.huge", "x", 1, FILE_KEY_FILE_MAX + 10);
	assert_int_equal(linkat(x->f.dirfd, "k.good", x->f.dirfd, "k.other", 0), 0);
	assert_int_equal(fx_get(&x->f, "fifo", NULL, &err), -EBADMSG);
	assert_int_equal(fx_get(&x->f, "dir", NULL, &err), -EBADMSG);
	assert_int_equal(fx_get(&x->f, "link", NULL, &err), -EBADMSG);
	assert_int_equal(fx_get(&x->f, "empty", NULL, &err), -EBADMSG);
	assert_int_equal(fx_get(&x->f, "huge", NULL, &err), -EBADMSG);
	assert_int_equal(fx_get(&x->f, "other", NULL, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "another key"));
	assert_int_equal(fx_list(&x->f, ""), 1);
}

static void junk(void **state)
{
	struct fixture *x = *state;
	struct mc_error err = {0};

	assert_int_equal(fx_put(&x->f, "good", "v", 0, &err), 0);
	fx_write(x, "README", "hello", 5, 0);
	fx_write(x, "k.%zz", "hello", 5, 0);
	fx_write(x, ".nfs0001", "hello", 5, 0);
	assert_int_equal(fx_list(&x->f, ""), 1);
	assert_int_equal(fx_list(&x->f, ""), 1);
	assert_int_equal(x->logs[MC_LOG_DEBUG], 1);
	assert_int_equal(x->logs[MC_LOG_WARN], 0);
	assert_true(fx_exists(x, "README"));
}

static void dead_writers(void **state)
{
	struct fixture *x = *state;
	const struct timespec old[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
	struct file_temp held, young;

	assert_int_equal(file_temp_open(&x->f, &held), 0);
	assert_int_equal(file_temp_open(&x->f, &young), 0);
	file_unlock(young.fd);
	fx_write(x, "t.0.1.2", "half", 4, 0);
	assert_int_equal(utimensat(x->f.dirfd, "t.0.1.2", old, 0), 0);
	assert_int_equal(utimensat(x->f.dirfd, held.name, old, 0), 0);
	assert_int_equal(fx_list(&x->f, ""), 0);
	assert_false(fx_exists(x, "t.0.1.2"));
	assert_true(fx_exists(x, held.name)); /* its writer lives, maybe frozen */
	assert_true(fx_exists(x, young.name)); /* its writer may be about to lock it */
	file_temp_close(&x->f, &held);
}

static void lock_timeout(void **state)
{
	struct fixture *x = *state;
	struct mc_kv kv = {.size = sizeof kv, .key = "k", .value = "v", .len = 1};
	struct mc_error err = {0};
	char holder[128];
	int lock = file_lock(&x->f, "k", x->now + MC_SEC, &err);

	assert_true(lock >= 0);
	x->step = 10 * MC_MSEC; /* each look at the clock */
	snprintf(holder, sizeof holder, "%d@%s", (int)getpid(), x->f.self.host);
	assert_int_equal(file_put(&x->f, &kv, x->now + 100 * MC_MSEC, NULL, &err), -ETIMEDOUT);
	assert_non_null(strstr(err.text, holder));
	assert_int_equal(file_cas(&x->f, &kv, 0, x->now + 100 * MC_MSEC, NULL, &err), -ETIMEDOUT);
	assert_int_equal(file_del(&x->f, "k", 0, x->now + 100 * MC_MSEC, &err), -ETIMEDOUT);
	/* Readers and other keys go on. */
	assert_int_equal(fx_get(&x->f, "k", NULL, &err), -ENOENT);
	assert_int_equal(fx_put(&x->f, "k2", "v", 0, &err), 0);
	file_unlock(lock);
	assert_int_equal(file_put(&x->f, &kv, x->now + 100 * MC_MSEC, NULL, &err), 0);
	assert_int_equal(fx_list(&x->f, "k"), 2);
}

static void read_only(void **state)
{
	struct fixture *x = *state;
	struct mc_error err = {0};
	bool root = geteuid() == 0;
	int r;

	assert_int_equal(fx_put(&x->f, "k", "v", 0, &err), 0);
	chmod(x->dir, 0555);
	fchmodat(x->f.dirfd, "k.k", 0444, 0);
	fchmodat(x->f.dirfd, "lock", 0444, 0);
	if (root)
		assert_int_equal(seteuid(65534), 0);
	r = fx_put(&x->f, "k", "w", 0, &err);
	assert_true(r == -EACCES || r == -EROFS);
	assert_non_null(strstr(err.text, "only read"));
	assert_true(file_del(&x->f, "k", 0, x->now + MC_SEC, &err) < 0);
	assert_int_equal(fx_get(&x->f, "k", NULL, &err), 0);
	assert_int_equal(fx_list(&x->f, ""), 1);
	if (root)
		assert_int_equal(seteuid(0), 0);
	chmod(x->dir, 0700);
}

/* In a child with a mount namespace of its own; exits 77 where that is not allowed. */
static int full_child(struct fixture *x)
{
	static char big[300000];
	struct mc_error err = {0};
	char value[64];

	memset(big, 'b', sizeof big - 1);
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("tmpfs", x->dir, "tmpfs", 0, "size=262144") < 0)
		return 77;
	fx_inst_fini(&x->f);
	fx_inst(x, &x->f);
	if (fx_put(&x->f, "k", "old", 0, &err) != 0)
		return 1;
	if (fx_put(&x->f, "k", big, 0, &err) != -ENOSPC || !strstr(err.text, "free space"))
		return 2;
	if (fx_get(&x->f, "k", value, &err) != 0 || strcmp(value, "old") != 0)
		return 3;
	/* Nothing half-written stays: the next fits. */
	if (fx_put(&x->f, "k", "new", 0, &err) != 0 || fx_list(&x->f, "") != 1)
		return 4;
	return 0;
}

static void full_disk(void **state)
{
	struct fixture *x = *state;
	pid_t pid = fork();
	int status;

	if (pid == 0)
		_exit(full_child(x));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77) {
		print_message("no mount namespace here\n");
		skip();
	}
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void removed_directory(void **state)
{
	struct fixture *x = *state;
	struct mc_error err = {0};

	assert_int_equal(rmdir(x->dir), 0);
	assert_int_equal(fx_put(&x->f, "k", "v", 0, &err), -EIO);
	assert_non_null(strstr(err.text, "was removed"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FX_TEST(damaged),      FX_TEST(strange),           FX_TEST(junk),
		FX_TEST(dead_writers), FX_TEST(lock_timeout),      FX_TEST(read_only),
		FX_TEST(full_disk),    FX_TEST(removed_directory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
