/* SPDX-License-Identifier: Apache-2.0 */
/* The part beside the target: made, found again, filled, and renamed when it is whole. */
#include "target.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cli/program/text.h>
#include <core/util/cleanup.h>

#include "offer.h"

/* ---- where ------------------------------------------------------------------------------------ */

/* rename(2) has the last word; this says it before gigabytes have come. */
static bool empty_folder(int parent, const char *name)
{
	int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	size_t nr = 0;

	if (!dir) {
		mc_closep(&fd);
		return false;
	}
	while (nr <= 2 && readdir(dir))
		nr++;
	closedir(dir);
	return nr <= 2; /* "." and ".." */
}

/* May the target be made, or replaced? */
static int check_target(const struct p2pc_target *t, struct mc_error *err)
{
	struct stat st;
	bool dir;

	if (fstatat(t->parent_fd, t->base, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : mc_fail(err, -errno, "'%s': %s", t->path, strerror(errno));
	dir = S_ISDIR(st.st_mode);
	if (!dir && !S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode))
		return mc_fail(err, -EINVAL, "'%s' is neither a file nor a folder", t->path);
	if (dir != t->manifest->tree)
		return mc_fail(err, dir ? -EISDIR : -ENOTDIR, "'%s' is a %s, and the object is a %s; name another place", t->path,
			       dir ? "folder" : S_ISLNK(st.st_mode) ? "link" : "file", dir ? "file" : "folder");
	if (t->force || (dir && empty_folder(t->parent_fd, t->base)))
		return 0;
	return mc_fail(err, -EEXIST, "'%s' is there already; --force replaces it", t->path);
}

/* PATH without its last part, and that. */
static int split(struct p2pc_target *t, const char *path, const char *root, struct mc_error *err)
{
	size_t n = strlen(path);
	const char *slash;

	while (n > 1 && path[n - 1] == '/')
		n--;
	slash = memrchr(path, '/', n);
	t->path = strndup(path, n);
	t->base = strndup(slash ? slash + 1 : path, n - (slash ? (size_t)(slash + 1 - path) : 0));
	if (!t->path || !t->base || asprintf(&t->part_base, ".%.200s.%.16s" P2PC_PART_SUFFIX, t->base, root) < 0)
		return mc_fail(err, -ENOMEM, "out of memory");
	if (asprintf(&t->part, "%.*s%s", slash ? (int)(slash + 1 - path) : 0, path, t->part_base) < 0)
		return mc_fail(err, -ENOMEM, "out of memory");
	if (!*t->base || strcmp(t->base, ".") == 0 || strcmp(t->base, "..") == 0)
		return mc_fail(err, -EINVAL, "'%s': a folder's own name is needed, which it gets when all is there", path);
	if (slash) {
		mc_cleanup(mc_freep) char *parent = strndup(path, slash == path ? 1 : (size_t)(slash - path));

		t->parent_fd = parent ? open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
		if (t->parent_fd < 0)
			return mc_fail(err, -errno, "folder '%s': %s", parent ? parent : "", strerror(errno));
		return 0;
	}
	t->parent_fd = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return t->parent_fd < 0 ? mc_fail(err, -errno, "the working folder: %s", strerror(errno)) : 0;
}

/* -o, and what it means: a folder that is there takes a file under its own name. */
static char *meant(const char *out, const char *object, const struct p2pc_manifest *m)
{
	const char *slash = strrchr(object, '/');
	const char *name = m->tree ? (slash ? slash + 1 : object) : m->entries[0].path;
	struct stat st;
	char *path = NULL;

	if (!*out)
		return strdup(name);
	if (m->tree || stat(out, &st) < 0 || !S_ISDIR(st.st_mode))
		return strdup(out);
	return asprintf(&path, "%s/%s", out, name) < 0 ? NULL : path;
}

/* ---- the part --------------------------------------------------------------------------------- */

static int make_part(struct p2pc_target *t, bool *ret_made)
{
	int fd;

	*ret_made = false;
	if (t->manifest->tree) {
		*ret_made = mkdirat(t->parent_fd, t->part_base, 0700) == 0;
		if (!*ret_made && errno != EEXIST)
			return -errno;
		fd = openat(t->parent_fd, t->part_base, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		return fd < 0 ? -errno : fd;
	}
	fd = openat(t->parent_fd, t->part_base, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	*ret_made = fd >= 0;
	if (fd < 0 && errno == EEXIST)
		fd = openat(t->parent_fd, t->part_base, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* Open and lock it.  Whoever had it may have renamed it between our opening and our locking. */
static int lock_part(struct p2pc_target *t, struct mc_error *err)
{
	for (int tries = 0; tries < 10; tries++) {
		struct stat ours, there;
		bool made;
		int fd = make_part(t, &made);

		if (fd == -EISDIR || fd == -ENOTDIR || fd == -ELOOP)
			return mc_fail(err, fd, "'%s' is in the way and no part of a %s; remove it", t->part,
				       t->manifest->tree ? "folder" : "file");
		if (fd < 0)
			return mc_fail(err, fd, "'%s': it cannot be made: %s", t->part, strerror(-fd));
		if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
			int r = -errno;

			close(fd);
			return mc_fail(err, r == -EWOULDBLOCK ? -EBUSY : r,
				       r == -EWOULDBLOCK ? "'%s': another process is getting it" : "'%s': it cannot be locked",
				       t->path);
		}
		if (fstat(fd, &ours) == 0 && fstatat(t->parent_fd, t->part_base, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
		    ours.st_ino == there.st_ino && ours.st_dev == there.st_dev) {
			t->part_fd = fd;
			t->resumed = !made;
			return ours.st_uid == geteuid()
				       ? 0
				       : mc_fail(err, -EPERM, "'%s' is another user's; remove it", t->part);
		}
		close(fd);
	}
	return mc_fail(err, -EBUSY, "'%s': others make and rename it all the time", t->part);
}

/* The room on the disk, before a byte comes: else writing to the mapping would end in SIGBUS. */
static int take_room(int fd, const char *path, uint64_t size, struct mc_error *err)
{
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return mc_fail(err, -EINVAL, "'%s' is no file; remove it", path);
	if (st.st_nlink > 1)
		return mc_fail(err, -EMLINK, "'%s' is a hard link: a file of another name would be written to; remove it", path);
	if ((uint64_t)st.st_size > size && ftruncate(fd, (off_t)size) < 0)
		return mc_fail(err, -errno, "'%s': %s", path, strerror(errno));
	do {
		r = size ? posix_fallocate(fd, 0, (off_t)size) : 0;
	} while (r == EINTR);
	if (r == ENOSPC || r == EDQUOT || r == EFBIG) {
		char text[MC_TEXT_MAX];

		return mc_fail(err, -r, "'%s': no room on the disk for %s (%" PRIu64 " bytes): %s", path,
			       mc_text_size(size, text), size, strerror(r));
	}
	return r ? mc_fail(err, -r, "'%s': %s", path, strerror(r)) : 0;
}

/* The folder that holds an entry, made as needed; name: the entry's last part.  A descriptor of the caller's. */
static int open_folder(struct p2pc_target *t, const char *path, const char **name, struct mc_error *err)
{
	int at = fcntl(t->part_fd, F_DUPFD_CLOEXEC, 3);

	for (*name = path; at >= 0 && strchr(*name, '/');) {
		char part[P2PC_PART_MAX + 1];
		size_t n = strcspn(*name, "/");
		int below;

		snprintf(part, sizeof part, "%.*s", (int)n, *name);
		below = mkdirat(at, part, 0777) < 0 && errno != EEXIST
				? -1
				: openat(at, part, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		mc_closep(&at);
		at = below;
		*name += n + 1;
	}
	return at < 0 ? mc_fail(err, -errno, "'%s/%s': its folder cannot be made: %s", t->part, path, strerror(errno)) : at;
}

/* What a file that we make gets, for one that was there: another umask may have made it. */
static mode_t mode_of(bool exec)
{
	mode_t mask = umask(022);

	umask(mask);
	return (exec ? 0777 : 0666) & ~mask;
}

static int map_entry(struct p2pc_target *t, const struct p2pc_entry *e, struct mc_error *err)
{
	mc_cleanup(mc_freep) char *path = NULL;
	const char *name;
	int dir, fd, r = 0;

	if (asprintf(&path, "%s/%s", t->part, e->path) < 0)
		return mc_fail(err, -ENOMEM, "out of memory");
	dir = open_folder(t, e->path, &name, err);
	if (dir < 0)
		return dir;
	if (e->dir) {
		if (mkdirat(dir, name, 0777) < 0 && errno != EEXIST)
			r = mc_fail(err, -errno, "'%s': %s", path, strerror(errno));
		close(dir);
		return r;
	}
	fd = openat(dir, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, e->exec ? 0777 : 0666);
	if (fd < 0)
		r = mc_fail(err, -errno, "'%s': %s", path, strerror(errno));
	else
		r = take_room(fd, path, e->size, err);
	if (r == 0 && t->resumed && fchmod(fd, mode_of(e->exec)) < 0)
		r = mc_fail(err, -errno, "'%s': its mode cannot be set: %s", path, strerror(errno));
	if (r == 0 && e->size)
		r = p2pc_map_add(&t->map, fd, path, e->size, err);
	mc_closep(&fd);
	close(dir);
	return r;
}

static int map_all(struct p2pc_target *t, struct mc_error *err)
{
	const struct p2pc_manifest *m = t->manifest;
	size_t nr = 0;
	int r;

	for (size_t i = 0; i < m->nr; i++)
		nr += m->entries[i].size > 0;
	r = p2pc_map_open(&t->map, nr, m->size, true, err);
	if (r == 0 && !m->tree) {
		r = take_room(t->part_fd, t->part, m->size, err);
		if (r == 0)
			r = p2pc_map_add(&t->map, t->part_fd, t->part, m->size, err);
	} else {
		for (size_t i = 0; r == 0 && i < m->nr; i++)
			r = map_entry(t, &m->entries[i], err);
	}
	return r < 0 ? r : p2pc_map_seal(&t->map, err);
}

/* ---- nothing but the object ------------------------------------------------------------------- */

/* Does the manifest name this file, or this folder or something in it? */
static bool named(const struct p2pc_manifest *m, const char *path, bool dir)
{
	size_t low = 0, high = m->nr, n = strlen(path);

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (p2pc_path_compare(m->entries[mid].path, path) < 0)
			low = mid + 1;
		else
			high = mid;
	}
	if (low < m->nr && strcmp(m->entries[low].path, path) == 0)
		return m->entries[low].dir == dir;
	/* What lies in a folder comes right after it. */
	return dir && low < m->nr && strncmp(m->entries[low].path, path, n) == 0 && m->entries[low].path[n] == '/';
}

/* Takes fd, of the folder at this path of the object. */
static int check_folder(const struct p2pc_target *t, int fd, const char *path, struct mc_error *err)
{
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;
	int r = 0;

	if (!dir) {
		r = mc_fail(err, -errno, "'%s/%s': %s", t->part, path, strerror(errno));
		mc_closep(&fd);
		return r;
	}
	while (r == 0 && (errno = 0, e = readdir(dir))) {
		mc_cleanup(mc_freep) char *sub = NULL;
		struct stat st;

		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		if (asprintf(&sub, "%s%s%s", path, *path ? "/" : "", e->d_name) < 0)
			r = mc_fail(err, -ENOMEM, "out of memory");
		else if (fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			r = mc_fail(err, -errno, "'%s/%s': %s", t->part, sub, strerror(errno));
		else if ((!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode)) || !named(t->manifest, sub, S_ISDIR(st.st_mode)))
			r = mc_fail(err, -EEXIST, "'%s/%s' is nothing of the object; remove it", t->part, sub);
		else if (S_ISDIR(st.st_mode))
			r = check_folder(t, openat(dirfd(dir), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), sub,
					 err);
	}
	if (r == 0 && errno)
		r = mc_fail(err, -errno, "'%s/%s': %s", t->part, path, strerror(errno));
	closedir(dir);
	return r;
}

/* A folder's part holds nothing that the manifest does not name: it would appear with the object, and look verified. */
static int check_part(const struct p2pc_target *t, struct mc_error *err)
{
	return check_folder(t, openat(t->part_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), "", err);
}

int p2pc_target_open(struct p2pc_target *t, const char *out, const char *object, const struct p2pc_manifest *m,
		     const char *root, bool force, struct mc_error *err)
{
	mc_cleanup(mc_freep) char *path = meant(out, object, m);
	int r;

	*t = (struct p2pc_target){.parent_fd = -1, .part_fd = -1, .force = force, .manifest = m, .map.slot = -1};
	r = path ? split(t, path, root, err) : mc_fail(err, -ENOMEM, "out of memory");
	if (r == 0)
		r = check_target(t, err);
	if (r == 0)
		r = lock_part(t, err);
	if (r == 0 && m->tree && t->resumed)
		r = check_part(t, err);
	if (r == 0)
		r = map_all(t, err);
	if (r < 0)
		p2pc_target_close(t, t->resumed);
	return r;
}

/* ---- its end ---------------------------------------------------------------------------------- */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
	return remove(path);
}

static void remove_all(const struct p2pc_target *t)
{
	if (t->manifest->tree)
		nftw(t->part, remove_one, 64, FTW_DEPTH | FTW_PHYS);
	else
		unlinkat(t->parent_fd, t->part_base, 0);
}

static int appear(struct p2pc_target *t, struct mc_error *err)
{
	struct stat st;
	bool there = fstatat(t->parent_fd, t->base, &st, AT_SYMLINK_NOFOLLOW) == 0;
	int r;

	if (t->manifest->tree && there && t->force && S_ISDIR(st.st_mode)) {
		/* The old one takes the part's place, and goes. */
		r = renameat2(t->parent_fd, t->part_base, t->parent_fd, t->base, RENAME_EXCHANGE);
		if (r == 0)
			remove_all(t);
	} else if (t->manifest->tree || t->force) {
		r = renameat(t->parent_fd, t->part_base, t->parent_fd, t->base); /* over an empty folder, no other */
	} else {
		r = renameat2(t->parent_fd, t->part_base, t->parent_fd, t->base, RENAME_NOREPLACE);
		if (r < 0 && (errno == EINVAL || errno == ENOSYS) && !there) /* not every file system knows how */
			r = renameat(t->parent_fd, t->part_base, t->parent_fd, t->base);
	}
	if (r < 0)
		return mc_fail(err, -errno, "'%s': it has all arrived as '%s', but cannot take its name: %s", t->path, t->part,
			       strerror(errno));
	return 0;
}

/* The mapped files have other names now. */
static void rename_map(struct p2pc_target *t)
{
	size_t n = strlen(t->part);

	for (size_t i = 0; i < t->map.nr; i++) {
		struct p2pc_mapped *f = &t->map.files[i];
		char *path;

		if (asprintf(&path, "%s%s", t->path, f->path + n) < 0)
			continue;
		free(f->path);
		f->path = path;
	}
}

int p2pc_target_finish(struct p2pc_target *t, bool sync, struct mc_error *err)
{
	int r = p2pc_map_whole(&t->map, err);

	if (r == 0 && t->manifest->tree)
		r = check_part(t, err);
	if (r == 0)
		r = p2pc_map_settle(&t->map, sync ? t->part_fd : -1, err);
	if (r == 0 && fchmod(t->part_fd, mode_of(t->manifest->tree || t->manifest->entries[0].exec)) < 0)
		r = mc_fail(err, -errno, "'%s': %s", t->part, strerror(errno));
	if (r == 0 && sync && fsync(t->part_fd) < 0)
		r = mc_fail(err, -errno, "'%s': %s", t->part, strerror(errno));
	if (r == 0)
		r = appear(t, err);
	if (r < 0)
		return r;
	rename_map(t);
	if (sync)
		fsync(t->parent_fd);
	close(t->part_fd);
	t->part_fd = -1;
	return 0;
}

void p2pc_target_close(struct p2pc_target *t, bool keep)
{
	if (t->part_fd >= 0 && keep)
		p2pc_map_store(&t->map, false, NULL); /* what is not right in it, does not verify */
	p2pc_map_close(&t->map);
	if (t->part_fd >= 0 && !keep)
		remove_all(t);
	mc_closep(&t->part_fd);
	mc_closep(&t->parent_fd);
	free(t->path);
	free(t->part);
	free(t->base);
	free(t->part_base);
	*t = (struct p2pc_target){.parent_fd = -1, .part_fd = -1, .map.slot = -1};
}
