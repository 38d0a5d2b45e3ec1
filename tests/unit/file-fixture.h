/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A fresh directory, a host on one thread with a clock that the test moves, and
 * an instance of the file plugin without its watches.  For test-file-*.c.
 */
#ifndef MC_TESTS_FILE_FIXTURE_H
#define MC_TESTS_FILE_FIXTURE_H

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "file.h"

struct fixture {
	struct mc_host host; /* first */
	struct file_inst f;
	char dir[64];
	uint64_t now, step; /* the clock, and what each look at it adds */
	uint64_t seed;
	unsigned logs[MC_LOG_COUNT];
	char last_log[1200];
};

static inline void fx_log(const struct mc_host *h, int level, const char *fmt, ...)
{
	struct fixture *x = (struct fixture *)(uintptr_t)h;
	va_list ap;

	x->logs[level]++;
	va_start(ap, fmt);
	vsnprintf(x->last_log, sizeof x->last_log, fmt, ap);
	va_end(ap);
}

static inline uint64_t fx_now(const struct mc_host *h)
{
	struct fixture *x = (struct fixture *)(uintptr_t)h;

	return x->now += x->step;
}

static inline void fx_random(const struct mc_host *h, void *buf, size_t len)
{
	struct fixture *x = (struct fixture *)(uintptr_t)h;

	for (size_t i = 0; i < len; i++) {
		x->seed = x->seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
		((unsigned char *)buf)[i] = (unsigned char)(x->seed >> 56);
	}
}

/* An instance over a directory that exists. */
static inline void fx_inst(struct fixture *x, struct file_inst *f)
{
	*f = (struct file_inst){.host = &x->host, .path = x->dir, .file_mode = 0600};
	f->dirfd = open(x->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(f->dirfd >= 0);
	pthread_mutex_init(&f->lease_mx, NULL);
	file_self_init(&f->self);
}

static inline void fx_inst_fini(struct file_inst *f)
{
	file_lease_fini(f);
	close(f->dirfd);
	pthread_mutex_destroy(&f->lease_mx);
}

static inline int fx_setup(void **state)
{
	struct fixture *x = calloc(1, sizeof *x);

	x->host = (struct mc_host){.size = sizeof x->host, .instance = "file", .log = fx_log,
				   .now_ns = fx_now, .random = fx_random};
	x->now = 1000 * MC_SEC;
	x->seed = 42;
	strcpy(x->dir, "/tmp/mooncake-file-XXXXXX");
	assert_non_null(mkdtemp(x->dir));
	fx_inst(x, &x->f);
	*state = x;
	return 0;
}

static inline int fx_rm(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	return remove(path);
}

static inline int fx_teardown(void **state)
{
	struct fixture *x = *state;

	fx_inst_fini(&x->f);
	nftw(x->dir, fx_rm, 8, FTW_DEPTH | FTW_PHYS);
	free(x);
	return 0;
}

#define FX_TEST(fn) cmocka_unit_test_setup_teardown(fn, fx_setup, fx_teardown)

static inline int fx_put(struct file_inst *f, const char *key, const char *value, uint64_t lease,
			 struct mc_error *err)
{
	struct mc_kv kv = {.size = sizeof kv, .key = key, .value = value, .len = strlen(value),
			   .lease = lease};

	return file_put(f, &kv, file_now(f) + MC_SEC, NULL, err);
}

static inline int fx_emit(void *ctx, const struct mc_kv *kv)
{
	if (ctx)
		snprintf(ctx, 64, "%.*s", (int)kv->len, (const char *)kv->value);
	return 0;
}

/* value, at least 64 bytes, may be NULL. */
static inline int fx_get(struct file_inst *f, const char *key, char *value, struct mc_error *err)
{
	return file_get(f, key, file_now(f) + MC_SEC, fx_emit, value, err);
}

static inline int fx_count(void *ctx, const struct mc_kv *kv)
{
	++*(unsigned *)ctx;
	return 0;
}

static inline unsigned fx_list(struct file_inst *f, const char *prefix)
{
	unsigned n = 0;

	assert_int_equal(file_list(f, prefix, file_now(f) + MC_SEC, fx_count, &n, NULL), 0);
	return n;
}

static inline bool fx_exists(struct fixture *x, const char *name)
{
	return faccessat(x->f.dirfd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Write bytes over a file of the directory, at an offset; creates it. */
static inline void fx_write(struct fixture *x, const char *name, const void *data, size_t len,
			    off_t at)
{
	int fd = openat(x->f.dirfd, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, data, len, at), len);
	close(fd);
}

#endif
