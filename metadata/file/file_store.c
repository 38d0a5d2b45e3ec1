/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The key-value operations.  A value is written to a temp file first; only the
 * comparison and the rename happen under the key's lock.  A key whose lease is
 * dead does not exist for any of them, and its file goes when somebody notices.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "file.h"

static int key_name(const char *key, char name[FILE_NAME_SIZE], struct mc_error *err)
{
	int r = file_name_of(key, name);

	if (r < 0)
		return mc_fail(err, r, "key '%.40s': a key has 1 to %d bytes", key ? key : "",
			       MC_KV_KEY_MAX);
	return 0;
}

static void to_kv(const struct file_loaded *l, struct mc_kv *kv)
{
	*kv = (struct mc_kv){
		.size = sizeof *kv,
		.key = l->k.key,
		.value = l->k.value,
		.len = l->k.value_len,
		.revision = l->k.revision,
		.lease = l->k.lease,
	};
}

/* file_load, where a key with a dead lease is not there. */
static int load_living(struct file_inst *f, const char *name, const char *key, bool with_value,
		       uint64_t since_ns, struct file_loaded *l, struct mc_error *err)
{
	int r = file_load(f, name, key, with_value, l, err);

	if (r < 0 || l->k.lease == 0 || file_lease_alive(f, l->k.lease, since_ns))
		return r;
	r = mc_fail(err, -ENOENT, "key '%s': it does not exist: its lease has ended", l->k.key);
	/* `with_value` readers hold no lock; writers do, and replace or remove it themselves. */
	if (with_value)
		file_reap(f, name, l->k.key);
	file_loaded_fini(l);
	return r;
}

void file_reap(struct file_inst *f, const char *name, const char *key)
{
	struct file_loaded l;
	int lock = file_lock(f, key, 0, NULL);

	if (lock < 0)
		return;
	/* Under the lock: it may have been written anew by a living owner. */
	if (file_load(f, name, key, false, &l, NULL) == 0) {
		if (l.k.lease && !file_lease_alive(f, l.k.lease, file_now(f)))
			unlinkat(f->dirfd, name, 0);
		file_loaded_fini(&l);
	}
	file_unlock(lock);
}

int file_get(void *inst, const char *key, uint64_t deadline_ns, mc_kv_emit emit, void *ctx,
	     struct mc_error *err)
{
	struct file_inst *f = inst;
	char name[FILE_NAME_SIZE];
	struct file_loaded l;
	struct mc_kv kv;
	int r = key_name(key, name, err);

	if (r == 0)
		r = load_living(f, name, key, true, file_now(f), &l, err);
	if (r < 0)
		return r;
	to_kv(&l, &kv);
	emit(ctx, &kv);
	file_loaded_fini(&l);
	return 0;
}

/* Reloadable, so read atomically. */
static bool wants_fsync(const struct file_inst *f)
{
	return __atomic_load_n(&f->fsync, __ATOMIC_RELAXED);
}

static int write_all(int fd, struct iovec *iov, int nr)
{
	while (nr > 0) {
		ssize_t n = writev(fd, iov, nr);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		while (nr > 0 && (size_t)n >= iov->iov_len) {
			n -= (ssize_t)iov->iov_len;
			iov++;
			nr--;
		}
		if (nr > 0) {
			iov->iov_base = (char *)iov->iov_base + n;
			iov->iov_len -= (size_t)n;
		}
	}
	return 0;
}

/* The whole new key file as a temp file. */
static int write_temp(struct file_inst *f, const struct mc_kv *kv, uint64_t revision,
		      struct file_temp *t, struct mc_error *err)
{
	uint8_t head[FILE_KEY_HEAD];
	struct iovec iov[3] = {
		{head, sizeof head},
		{(void *)(uintptr_t)kv->key, strlen(kv->key) + 1},
		{(void *)(uintptr_t)kv->value, kv->len},
	};
	int r = file_temp_open(f, t);

	if (r == -ENOENT)
		return mc_fail(err, -EIO, "key '%s': directory '%s' was removed; open it anew",
			       kv->key, f->path);
	if (r < 0)
		return file_fail(f, err, r, kv->key, "create a file in", "");
	file_key_encode(head, kv, revision);
	r = write_all(t->fd, iov, kv->len ? 3 : 2);
	if (r == 0 && kv->lease == 0 && wants_fsync(f) && fsync(t->fd) < 0)
		r = -errno;
	if (r < 0) {
		file_fail(f, err, r, kv->key, "write", t->name);
		file_temp_close(f, t);
	}
	return r;
}

/* What stands under the key: its revision, 0 for none.  [key's lock] */
static int revision_now(struct file_inst *f, const char *name, const char *key,
			uint64_t *ret_revision, uint64_t *ret_lease, struct mc_error *err)
{
	struct file_loaded l;
	int r = load_living(f, name, key, false, file_now(f), &l, err);

	*ret_revision = *ret_lease = 0;
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return r;
	*ret_revision = l.k.revision;
	*ret_lease = l.k.lease;
	file_loaded_fini(&l);
	return 0;
}

static int compare(struct file_inst *f, const char *name, const char *key, uint64_t expect_rev,
		   struct mc_error *err)
{
	uint64_t rev, lease;
	int r = revision_now(f, name, key, &rev, &lease, err);

	if (r < 0 || rev == expect_rev)
		return r;
	if (expect_rev == 0)
		return mc_fail(err, -EEXIST, "key '%s': it exists", key);
	if (rev == 0)
		return mc_fail(err, -ESTALE, "key '%s': it is gone", key);
	return mc_fail(err, -ESTALE, "key '%s': somebody else wrote it", key);
}

static int dir_sync(struct file_inst *f, const char *key, struct mc_error *err)
{
	if (wants_fsync(f) && fsync(f->dirfd) < 0)
		return file_fail(f, err, -errno, key, "sync", "");
	return 0;
}

/* Bring a finished temp file to its name; expect NULL: whatever stands there. */
static int publish(struct file_inst *f, const struct mc_kv *kv, const char *name,
		   const uint64_t *expect, uint64_t deadline_ns, struct file_temp *t,
		   struct mc_error *err)
{
	int r = 0, lock = file_lock(f, kv->key, deadline_ns, err);

	if (lock < 0)
		return lock;
	if (expect)
		r = compare(f, name, kv->key, *expect, err);
	if (r == 0 && kv->lease && !file_lease_alive(f, kv->lease, file_now(f)))
		r = mc_fail(err, -ENOENT, "key '%s': lease 0x%llx does not exist or has ended",
			    kv->key, (unsigned long long)kv->lease);
	if (r == 0 && renameat(f->dirfd, t->name, f->dirfd, name) < 0) {
		r = -errno;
		/* Swept while this process was frozen. */
		if (r == -ENOENT)
			r = -EAGAIN;
		file_fail(f, err, r, kv->key, "rename a file to", name);
	} else if (r == 0) {
		t->name[0] = '\0';
	}
	file_unlock(lock);
	return r;
}

static int store(struct file_inst *f, const struct mc_kv *kv, const uint64_t *expect,
		 uint64_t deadline_ns, uint64_t *ret_revision, struct mc_error *err)
{
	char name[FILE_NAME_SIZE];
	uint64_t revision = 0;
	struct file_temp t;
	int r = key_name(kv->key, name, err);

	if (r < 0)
		return r;
	if (kv->len > MC_KV_VALUE_MAX || (kv->len && !kv->value))
		return mc_fail(err, -EINVAL,
			       "key '%s': a value has at most %u bytes, this has %llu", kv->key,
			       MC_KV_VALUE_MAX, (unsigned long long)kv->len);
	if (kv->lease && !file_lease_alive(f, kv->lease, file_now(f)))
		return mc_fail(err, -ENOENT, "key '%s': lease 0x%llx does not exist or has ended",
			       kv->key, (unsigned long long)kv->lease);
	/* Random, so that no revision comes back after the key was deleted. */
	while (revision == 0)
		f->host->random(f->host, &revision, sizeof revision);
	for (int tries = 0; tries < 3; tries++) {
		r = write_temp(f, kv, revision, &t, err);
		if (r < 0)
			return r;
		r = publish(f, kv, name, expect, deadline_ns, &t, err);
		file_temp_close(f, &t);
		if (r != -EAGAIN)
			break;
	}
	if (r == 0 && kv->lease == 0)
		r = dir_sync(f, kv->key, err);
	if (r == 0 && ret_revision)
		*ret_revision = revision;
	return r;
}

int file_put(void *inst, const struct mc_kv *kv, uint64_t deadline_ns, uint64_t *ret_revision,
	     struct mc_error *err)
{
	return store(inst, kv, NULL, deadline_ns, ret_revision, err);
}

int file_cas(void *inst, const struct mc_kv *kv, uint64_t expect_rev, uint64_t deadline_ns,
	     uint64_t *ret_revision, struct mc_error *err)
{
	return store(inst, kv, &expect_rev, deadline_ns, ret_revision, err);
}

int file_del(void *inst, const char *key, uint64_t expect_rev, uint64_t deadline_ns,
	     struct mc_error *err)
{
	struct file_inst *f = inst;
	char name[FILE_NAME_SIZE];
	uint64_t rev, lease = 0;
	int lock, r = key_name(key, name, err);

	if (r < 0)
		return r;
	lock = file_lock(f, key, deadline_ns, err);
	if (lock < 0)
		return lock;
	r = revision_now(f, name, key, &rev, &lease, err);
	if (r == -EBADMSG && expect_rev == 0)
		r = 0; /* a damaged file may be removed */
	else if (r == 0 && rev == 0)
		r = mc_fail(err, -ENOENT, "key '%s': it does not exist", key);
	else if (r == 0 && expect_rev && rev != expect_rev)
		r = mc_fail(err, -ESTALE, "key '%s': somebody else wrote it", key);
	if (r == 0 && unlinkat(f->dirfd, name, 0) < 0)
		r = file_fail(f, err, -errno, key, "remove", name);
	file_unlock(lock);
	if (r == 0 && lease == 0)
		r = dir_sync(f, key, err);
	return r;
}

/* ---- list -------------------------------------------------------------------------------- */

struct found {
	char *key;
	char name[]; /* then the key */
};

struct lister {
	struct file_inst *f;
	const char *prefix;
	size_t prefix_len;
	struct found **v;
	size_t nr, room;
};

static int lister_add(struct lister *ls, const char *name, const char *key)
{
	size_t name_size = strlen(name) + 1, key_size = strlen(key) + 1;
	struct found *e;

	if (ls->nr == ls->room) {
		size_t room = ls->room ? ls->room * 2 : 64;
		struct found **v = realloc(ls->v, room * sizeof *v);

		if (!v)
			return -ENOMEM;
		ls->v = v;
		ls->room = room;
	}
	e = malloc(sizeof *e + name_size + key_size);
	if (!e)
		return -ENOMEM;
	memcpy(e->name, name, name_size);
	e->key = e->name + name_size;
	memcpy(e->key, key, key_size);
	ls->v[ls->nr++] = e;
	return 0;
}

/* Only names that match are kept, only hashed ones are opened for it. */
static int lister_each(void *ctx, enum file_kind kind, const char *name, const char *key,
		       uint64_t id)
{
	struct lister *ls = ctx;
	struct file_loaded l;
	struct mc_error err;
	int r = 0;

	if (kind == FILE_KEY)
		return strncmp(key, ls->prefix, ls->prefix_len) ? 0 : lister_add(ls, name, key);
	if (kind != FILE_HASHED)
		return 0;
	r = file_load(ls->f, name, NULL, false, &l, &err);
	if (r == -EBADMSG)
		ls->f->host->log(ls->f->host, MC_LOG_WARN, "%s", err.text);
	if (r < 0)
		return r == -ENOMEM ? r : 0;
	if (!strncmp(l.k.key, ls->prefix, ls->prefix_len))
		r = lister_add(ls, name, l.k.key);
	file_loaded_fini(&l);
	return r;
}

static int found_cmp(const void *a, const void *b)
{
	return strcmp((*(struct found *const *)a)->key, (*(struct found *const *)b)->key);
}

static void lister_fini(struct lister *ls)
{
	for (size_t i = 0; i < ls->nr; i++)
		free(ls->v[i]);
	free(ls->v);
}

static int lister_emit(struct lister *ls, uint64_t deadline_ns, mc_kv_emit emit, void *ctx,
		       struct mc_error *err)
{
	struct file_inst *f = ls->f;
	uint64_t since = file_now(f);

	for (size_t i = 0; i < ls->nr; i++) {
		struct found *e = ls->v[i];
		struct file_loaded l;
		struct mc_error why;
		struct mc_kv kv;
		int r;

		/* A name may be seen twice when it is renamed over during the walk. */
		if (i > 0 && !strcmp(ls->v[i - 1]->key, e->key))
			continue;
		r = load_living(f, e->name, e->key, true, since, &l, &why);
		if (r == -EBADMSG)
			f->host->log(f->host, MC_LOG_WARN, "%s", why.text);
		if (r == -ENOENT || r == -EBADMSG)
			continue;
		if (r < 0)
			return mc_fail(err, r, "%s", why.text);
		to_kv(&l, &kv);
		r = emit(ctx, &kv);
		file_loaded_fini(&l);
		if (r)
			return r < 0 ? r : 0;
		if (file_now(f) >= deadline_ns && i + 1 < ls->nr)
			return mc_fail(err, -ETIMEDOUT,
				       "prefix '%s': %zu of %zu keys listed at the deadline",
				       ls->prefix, i + 1, ls->nr);
	}
	return 0;
}

int file_list(void *inst, const char *prefix, uint64_t deadline_ns, mc_kv_emit emit, void *ctx,
	      struct mc_error *err)
{
	struct file_inst *f = inst;
	struct lister ls = {.f = f, .prefix = prefix, .prefix_len = strlen(prefix)};
	int r = file_dir_each(f, lister_each, &ls);

	if (r < 0) {
		file_fail(f, err, r, prefix, "list", "");
	} else if (ls.nr) {
		qsort(ls.v, ls.nr, sizeof *ls.v, found_cmp);
		r = lister_emit(&ls, deadline_ns, emit, ctx, err);
	}
	lister_fini(&ls);
	return r;
}

/* ---- sweep ------------------------------------------------------------------------------- */

#define SWEEP_EVERY_S 60

bool file_sweep_due(struct file_inst *f)
{
	struct timespec now;
	struct stat st;
	bool noted;
	int fd, r;

	clock_gettime(CLOCK_REALTIME, &now);
	/* A stamp from the future is of another clock, or of a clock that was set. */
	if (fstatat(f->dirfd, FILE_SWEPT_NAME, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	    st.st_mtim.tv_sec <= now.tv_sec && now.tv_sec - st.st_mtim.tv_sec < SWEEP_EVERY_S)
		return false;
	fd = openat(f->dirfd, FILE_SWEPT_NAME, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK,
		    f->file_mode);
	if (fd < 0)
		return false; /* who may not write here can remove nothing either */
	r = fchmod(fd, f->file_mode);
	(void)r; /* somebody else's already has its mode */
	noted = futimens(fd, NULL) == 0;
	close(fd);
	return noted;
}

struct sweeper {
	struct file_inst *f;
	const int *stop;
	uint64_t since_ns;
};

static int sweep_each(void *ctx, enum file_kind kind, const char *name, const char *key,
		      uint64_t id)
{
	struct sweeper *s = ctx;
	struct file_loaded l;

	if (__atomic_load_n(s->stop, __ATOMIC_RELAXED))
		return 1;
	if (kind == FILE_LEASE) {
		file_lease_alive(s->f, id, s->since_ns); /* removes it when dead */
		return 0;
	}
	if (file_load(s->f, name, key, false, &l, NULL) < 0)
		return 0;
	if (l.k.lease && !file_lease_alive(s->f, l.k.lease, s->since_ns))
		file_reap(s->f, name, l.k.key);
	file_loaded_fini(&l);
	return 0;
}

void file_sweep(struct file_inst *f, const int *stop)
{
	struct sweeper s = {.f = f, .stop = stop, .since_ns = file_now(f)};

	file_dir_each(f, sweep_each, &s);
}
