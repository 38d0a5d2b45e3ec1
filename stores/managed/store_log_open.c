/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening a log: the folder's lock, the files that an earlier process has left, and
 * every sound record in them.  Files are read in order of their number.  One counts
 * if its first record is the one that comes next; where an end was lost, those
 * behind it do not, and go.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store_log_impl.h"
#include "core/util/bytes.h"
#include "core/util/check.h"

/* ---- the folder --------------------------------------------------------------------------- */

static int take_lock(struct mc_store_log *log, struct mc_error *err)
{
	char path[LOG_PATH_MAX], pid[32] = "";
	ssize_t n;

	snprintf(path, sizeof path, "%s/lock", log->dir);
	log->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (log->lock_fd < 0)
		return mc_fail(err, -errno, "log '%s': its lock cannot be opened: %s", log->dir, strerror(errno));
	if (flock(log->lock_fd, LOCK_EX | LOCK_NB) < 0) {
		n = pread(log->lock_fd, pid, sizeof pid - 1, 0);
		pid[n > 0 ? strcspn(pid, "\n") : 0] = '\0';
		return mc_fail(err, -EBUSY, "log '%s': process %s has it open; end that one, or name another folder",
			       log->dir, pid[0] ? pid : "(unknown)");
	}
	n = snprintf(pid, sizeof pid, "%ld\n", (long)getpid());
	if (ftruncate(log->lock_fd, 0) < 0 || pwrite(log->lock_fd, pid, (size_t)n, 0) != n)
		return mc_fail(err, -errno, "log '%s': its lock cannot be written: %s", log->dir, strerror(errno));
	return 0;
}

static int folder_open(struct mc_store_log *log, struct mc_error *err)
{
	if (mkdir(log->dir, 0700) < 0 && errno != EEXIST)
		return mc_fail(err, -errno, "log '%s': the folder cannot be made: %s", log->dir, strerror(errno));
	log->dir_fd = open(log->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (log->dir_fd < 0)
		return mc_fail(err, -errno, "log '%s': it cannot be opened: %s", log->dir, strerror(errno));
	return take_lock(log, err);
}

/* ---- files -------------------------------------------------------------------------------- */

/* The number in "log.NNNNNNNN"; 0: another file. */
static uint64_t number_of(const char *name)
{
	uint64_t number = 0;

	if (strncmp(name, "log.", 4) != 0 || strlen(name) < 12 || strlen(name) > 20)
		return 0;
	for (const char *c = name + 4; *c; c++) {
		if (*c < '0' || *c > '9')
			return 0;
		number = number * 10 + (uint64_t)(*c - '0');
	}
	return number;
}

static bool head_ok(const struct log_file *f)
{
	return memcmp(f->map, LOG_MAGIC, 8) == 0 && mc_get32(f->map + 8) == LOG_FORMAT &&
	       mc_get32(f->map + 12) == mc_store_log_head_hash(f->map) && mc_get64(f->map + 16) == f->number &&
	       mc_get64(f->map + 32) == f->bytes;
}

static bool all_zero(const unsigned char *p, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (p[i])
			return false;
	}
	return true;
}

/* Map a file.  0; 1: it never was a part of the log (made ahead, or its head did not reach the disk). */
static int file_load(struct mc_store_log *log, struct log_file *f, struct mc_error *err)
{
	char path[LOG_PATH_MAX];
	struct stat st;

	mc_store_log_path(log, f->number, path, sizeof path);
	f->fd = open(path, O_RDWR | O_CLOEXEC);
	if (f->fd < 0 || fstat(f->fd, &st) < 0)
		return mc_fail(err, -errno, "log '%s': it cannot be opened: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return mc_fail(err, -EBADMSG, "log '%s': it is no regular file", path);
	f->bytes = (size_t)st.st_size;
	if (f->bytes < LOG_FILE_HEAD)
		return 1;
	f->map = mmap(NULL, f->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
	if (f->map == MAP_FAILED) {
		f->map = NULL;
		return mc_fail(err, -errno, "log '%s': it cannot be mapped: %s", path, strerror(errno));
	}
	if (all_zero(f->map, LOG_FILE_HEAD))
		return 1;
	if (!head_ok(f))
		return mc_fail(err, -EBADMSG, "log '%s': it is damaged, of another version, or not a log of a store; move "
			       "it away if the store may begin anew", path);
	f->first_seq = mc_get64(f->map + 24);
	return 0;
}

static int by_number(const struct log_file *a, const struct log_file *b)
{
	return a->number < b->number ? -1 : a->number > b->number;
}

/* All files into log->files, by number; those that never were a part of it go. */
static int files_load(struct mc_store_log *log, struct mc_error *err)
{
	struct dirent *entry;
	int r = 0, fd = dup(log->dir_fd);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);

	if (!d) {
		r = mc_fail(err, -errno, "log '%s': it cannot be listed: %s", log->dir, strerror(errno));
		if (fd >= 0)
			close(fd);
		return r;
	}
	while (r == 0 && (entry = readdir(d))) {
		uint64_t number = number_of(entry->d_name);
		struct log_file *f = number ? calloc(1, sizeof *f) : NULL;

		if (!number)
			continue;
		if (!f) {
			r = mc_fail(err, -ENOMEM, "log '%s': out of memory", log->dir);
			break;
		}
		f->fd = -1;
		f->number = number;
		log->next_number = MC_MAX(log->next_number, number + 1);
		r = file_load(log, f, err);
		if (r == 0) {
			DL_APPEND(log->files, f);
			log->nr_files++;
		} else if (r == 1) {
			mc_store_log_file_remove(log, f);
			r = 0;
		} else {
			mc_store_log_file_free(f);
		}
	}
	closedir(d);
	DL_SORT(log->files, by_number);
	return r;
}

/* ---- records ------------------------------------------------------------------------------ */

static void file_forget(struct mc_store_log *log, struct log_file *f)
{
	DL_DELETE(log->files, f);
	log->nr_files--;
	mc_store_log_file_remove(log, f);
}

/* Where the reading begins; what lies before it is of no use. */
static int find_begin(struct mc_store_log *log, const struct mc_store_log_at *from, struct mc_store_log_at *at,
		      struct mc_error *err)
{
	uint64_t want = from ? from->seq : 1;

	/* Also when the file that was read to has not reached the disk. */
	if (from)
		log->next_number = MC_MAX(log->next_number, from->file + 1);
	while (log->files && from && log->files->number < from->file)
		file_forget(log, log->files);
	*at = (struct mc_store_log_at){.file = log->next_number, .offset = LOG_FILE_HEAD, .seq = want};
	if (!log->files)
		return 0;
	if (from && log->files->number == from->file && log->files->first_seq <= want) {
		*at = *from;
		return 0;
	}
	if (log->files->first_seq != want)
		return mc_fail(err, -EBADMSG, "log '%s': it begins with record %llu, but record %llu is needed next: files "
			       "of it are missing, or its database is of another log", log->dir,
			       (unsigned long long)log->files->first_seq, (unsigned long long)want);
	at->file = log->files->number;
	return 0;
}

static int read_all(struct mc_store_log *log, struct mc_store_log_at *at, mc_store_log_each each, void *ctx)
{
	struct log_file *f, *next;
	int r = 0;

	DL_FOREACH_SAFE(log->files, f, next) {
		if (f->number != at->file) {
			/* Behind an end that was lost. */
			if (f->first_seq != at->seq) {
				file_forget(log, f);
				continue;
			}
			at->file = f->number;
			at->offset = LOG_FILE_HEAD;
		}
		r = mc_store_log_read_file(f, at, UINT64_MAX, each, ctx);
		f->used = (size_t)at->offset;
		f->synced = 0;
		if (r != 0)
			return r;
	}
	return 0;
}

/* ---- open --------------------------------------------------------------------------------- */

static struct mc_store_log *log_new(const char *dir, uint64_t file_bytes)
{
	struct mc_store_log *log = calloc(1, sizeof *log);
	pthread_condattr_t attr;

	if (!log)
		return NULL;
	log->dir = strdup(dir);
	log->dir_fd = log->lock_fd = -1;
	log->file_bytes = file_bytes ? file_bytes : MC_STORE_LOG_FILE_DEFAULT;
	log->next_number = 1;
	pthread_mutex_init(&log->lock, NULL);
	pthread_mutex_init(&log->sync_lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&log->wake, &attr);
	pthread_cond_init(&log->done, &attr);
	pthread_condattr_destroy(&attr);
	return log;
}

int mc_store_log_open(const char *dir, uint64_t file_bytes, const struct mc_store_log_at *from,
		      mc_store_log_each each, void *ctx, struct mc_store_log **ret_log, struct mc_error *err)
{
	struct mc_store_log_at at;
	struct mc_store_log *log;
	int r;

	if (strlen(dir) >= PATH_MAX || (file_bytes && (file_bytes < MC_STORE_LOG_FILE_MIN || file_bytes % LOG_PAGE)))
		return mc_fail(err, -EINVAL, "log '%.100s': its path is too long, or %llu bytes are no size for its files: a "
			       "multiple of %u, %u at least", dir, (unsigned long long)file_bytes, LOG_PAGE,
			       MC_STORE_LOG_FILE_MIN);
	log = log_new(dir, file_bytes);
	if (!log || !log->dir) {
		mc_store_log_close(log);
		return mc_fail(err, -ENOMEM, "log '%s': out of memory", dir);
	}
	r = folder_open(log, err);
	if (r == 0)
		r = files_load(log, err);
	if (r == 0)
		r = find_begin(log, from, &at, err);
	if (r == 0)
		r = read_all(log, &at, each, ctx);
	if (r == 0) {
		atomic_store(&log->last, at.seq - 1);
		/* What the other process has not synced is not known to be on the disk. */
		atomic_store(&log->synced, log->files || !from ? 0 : at.seq - 1);
		r = mc_store_log_start(log);
		if (r < 0)
			mc_fail(err, r, "log '%s': its thread cannot be started: %s", dir, strerror(-r));
	}
	if (r != 0) {
		mc_store_log_close(log);
		return r;
	}
	*ret_log = log;
	return 0;
}
