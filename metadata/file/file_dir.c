/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files of the directory: temp files and their sweeping, reading a key file,
 * walking the names.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "file.h"

/* A temp file that nobody holds may be one whose writer is about to lock it; give it time.
 * Where locks of other hosts may not be seen, much more. */
#define SWEEP_AFTER_S 10
#define SWEEP_FOREIGN_AFTER_S 3600

static const char *remedy(int code)
{
	switch (code) {
	case -ENOSPC:
	case -EDQUOT:
		return "; free space there";
	case -EACCES:
	case -EPERM:
	case -EROFS:
		return "; this process may only read there";
	case -ENOLCK:
	case -EOPNOTSUPP:
		return "; the file system must support locks";
	case -EMFILE:
	case -ENFILE:
		return "; raise the limit of open files";
	default:
		return "";
	}
}

int file_fail(struct file_inst *f, struct mc_error *err, int code, const char *key,
	      const char *what, const char *name)
{
	const char *text = strerrordesc_np(-code);

	return mc_fail(err, code, "key '%s': cannot %s '%s/%s': %s%s", key, what, f->path, name,
		       text ? text : "unknown error", remedy(code));
}

int file_temp_open(struct file_inst *f, struct file_temp *t)
{
	uint64_t id;
	int r;

	f->host->random(f->host, &id, sizeof id);
	snprintf(t->name, sizeof t->name, "t.%016llx.%u.%016llx", (unsigned long long)f->self.boot,
		 f->self.pid, (unsigned long long)id);
	t->fd = openat(f->dirfd, t->name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW,
		       f->file_mode);
	if (t->fd < 0) {
		r = -errno;
		t->name[0] = '\0';
		return r;
	}
	/* The umask may have taken rights that the option `access` gives. */
	r = fchmod(t->fd, f->file_mode) < 0 ? -errno : file_hold(t->fd);
	if (r < 0)
		file_temp_close(f, t);
	return r;
}

void file_temp_close(struct file_inst *f, struct file_temp *t)
{
	if (t->name[0])
		unlinkat(f->dirfd, t->name, 0);
	if (t->fd >= 0)
		close(t->fd);
	t->fd = -1;
	t->name[0] = '\0';
}

static void temp_sweep(struct file_inst *f, const char *name)
{
	unsigned long long boot = 0;
	struct timespec now;
	struct stat st;
	time_t age;
	int fd;

	if (fstatat(f->dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
		return;
	clock_gettime(CLOCK_REALTIME, &now);
	age = now.tv_sec - st.st_mtim.tv_sec;
	sscanf(name, "t.%16llx.", &boot);
	if (age < (boot == f->self.boot ? SWEEP_AFTER_S : SWEEP_FOREIGN_AFTER_S))
		return;
	fd = openat(f->dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0)
		return;
	/* A writer that was frozen before it took the lock finds its file gone and begins anew. */
	if (file_held(fd) == 0)
		unlinkat(f->dirfd, name, 0);
	close(fd);
}

static int load_fd(int fd, bool with_value, struct file_loaded *l, const char **ret_why)
{
	size_t want;
	ssize_t n;

	*ret_why = "it is not a regular file";
	if (fstat(fd, &l->st) < 0)
		return -errno;
	if (!S_ISREG(l->st.st_mode))
		return -EBADMSG;
	*ret_why = "its size is not one of a key file";
	if (l->st.st_size < FILE_KEY_HEAD || (size_t)l->st.st_size > FILE_KEY_FILE_MAX)
		return -EBADMSG;
	want = (size_t)l->st.st_size;
	if (!with_value && want > FILE_KEY_HEAD + MC_KV_KEY_MAX + 1)
		want = FILE_KEY_HEAD + MC_KV_KEY_MAX + 1;
	l->buf = malloc(want);
	if (!l->buf)
		return -ENOMEM;
	n = file_read(fd, l->buf, want);
	if (n < 0)
		return (int)n;
	return file_key_parse(l->buf, (size_t)n, (uint64_t)l->st.st_size, &l->k, ret_why);
}

int file_load(struct file_inst *f, const char *name, const char *key, bool with_value,
	      struct file_loaded *l, struct mc_error *err)
{
	const char *why = "";
	int r, fd;

	memset(l, 0, sizeof *l);
	fd = openat(f->dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0 && errno == ENOENT)
		return mc_fail(err, -ENOENT, "key '%s': it does not exist", key ? key : name);
	if (fd < 0 && errno == ELOOP) {
		r = -EBADMSG;
		why = "it is a symbolic link";
	} else if (fd < 0) {
		return file_fail(f, err, -errno, key ? key : name, "open", name);
	} else {
		r = load_fd(fd, with_value, l, &why);
		close(fd);
	}
	if (r == 0 && key && strcmp(key, l->k.key) != 0) {
		r = -EBADMSG;
		why = "it holds another key";
	}
	if (r == 0)
		return 0;
	file_loaded_fini(l);
	if (r != -EBADMSG)
		return file_fail(f, err, r, key ? key : name, "read", name);
	return mc_fail(err, r,
		       "key '%s': key file '%s/%s' is damaged: %s; write the key again, or remove "
		       "the file",
		       key ? key : name, f->path, name, why);
}

void file_loaded_fini(struct file_loaded *l)
{
	free(l->buf);
	l->buf = NULL;
}

/* What the walk does with one name before its caller sees it. */
static int each_name(struct file_inst *f, const char *name, file_each fn, void *ctx)
{
	char key[MC_KV_KEY_MAX + 1];
	uint64_t id = 0;
	enum file_kind kind = file_name_kind(name, key, &id);

	switch (kind) {
	case FILE_OURS:
		return 0;
	case FILE_TEMP:
		temp_sweep(f, name);
		return 0;
	case FILE_JUNK:
		if (!__atomic_exchange_n(&f->junk_said, 1, __ATOMIC_RELAXED))
			f->host->log(
				f->host, MC_LOG_DEBUG,
				"directory '%s': '%s' is not ours, ignored (others like it too)",
				f->path, name);
		return 0;
	default:
		return fn(ctx, kind, name, kind == FILE_KEY ? key : NULL, id);
	}
}

int file_dir_each(struct file_inst *f, file_each fn, void *ctx)
{
	/* A description of its own: the position in a directory is shared by duplicates. */
	int fd = openat(f->dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *de;
	int r = 0;

	if (!dir) {
		r = -errno;
		if (fd >= 0)
			close(fd);
		return r;
	}
	while (r == 0) {
		errno = 0;
		de = readdir(dir);
		if (!de) {
			r = -errno;
			break;
		}
		r = each_name(f, de->d_name, fn, ctx);
	}
	closedir(dir);
	return r;
}
