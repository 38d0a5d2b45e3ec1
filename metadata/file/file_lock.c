/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One lock per key, without a file per key: byte ranges of the one lock file,
 * at the hash of the key.  The locks belong to an open file description
 * (F_OFD_*), so two threads of one process exclude each other, and the kernel
 * drops them when the holder dies.  A frozen holder keeps its lock; others try
 * until their deadline and then name it: each holder writes "pid@host" into a
 * slot of the file's first bytes.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/util/bytes.h"
#include "core/util/check.h"
#include "file.h"

#define SLOTS 256
#define SLOT_SIZE 128 /* u64 hash of the key, then text */

/* Another holder of the range, or of the file, stands: EAGAIN or EACCES, by POSIX. */
static int ofd(int fd, int cmd, short type, uint64_t start, uint64_t len, short *ret_type)
{
	struct flock fl = {.l_type = type,
			   .l_whence = SEEK_SET,
			   .l_start = (off_t)start,
			   .l_len = (off_t)len};

	if (fcntl(fd, cmd, &fl) < 0)
		return errno == EACCES ? -EAGAIN : -errno;
	if (ret_type)
		*ret_type = fl.l_type;
	return 0;
}

int file_hold(int fd)
{
	return ofd(fd, F_OFD_SETLK, F_WRLCK, 0, 0, NULL);
}

int file_held(int fd)
{
	short type = F_UNLCK;
	int r = ofd(fd, F_OFD_GETLK, F_WRLCK, 0, 0, &type);

	return r < 0 ? r : type != F_UNLCK;
}

ssize_t file_read(int fd, void *buf, size_t n)
{
	size_t done = 0;

	while (done < n) {
		ssize_t r = pread(fd, (char *)buf + done, n - done, (off_t)done);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		if (r == 0)
			break;
		done += (size_t)r;
	}
	return (ssize_t)done;
}

static uint64_t range_of(uint64_t hash)
{
	/* Behind the slots, below the largest offset. */
	return SLOTS * SLOT_SIZE + (hash >> 2);
}

static void slot_write(struct file_inst *f, int fd, uint64_t hash)
{
	uint8_t slot[SLOT_SIZE] = {0};
	ssize_t r;

	mc_put64(slot, hash);
	snprintf((char *)slot + 8, SLOT_SIZE - 8, "%u@%s", f->self.pid, f->self.host);
	/* For messages only: nothing is lost when the disk is full. */
	r = pwrite(fd, slot, sizeof slot, (off_t)(hash % SLOTS * SLOT_SIZE));
	(void)r;
}

/* Who holds the key's lock, as far as the slot tells. */
static void slot_read(int fd, uint64_t hash, char who[SLOT_SIZE])
{
	uint8_t slot[SLOT_SIZE];
	ssize_t r = pread(fd, slot, sizeof slot, (off_t)(hash % SLOTS * SLOT_SIZE));

	strcpy(who, "another process");
	if (r != (ssize_t)sizeof slot || mc_get64(slot) != hash)
		return;
	slot[SLOT_SIZE - 1] = '\0';
	for (size_t i = 8; slot[i]; i++)
		if (slot[i] < 0x21 || slot[i] > 0x7e)
			return;
	if (slot[8])
		strcpy(who, (char *)slot + 8);
}

/* 100 us at first, then doubling up to 3 ms, with jitter so that waiters do not march in step. */
static void nap(struct file_inst *f, unsigned tries, uint64_t left_ns)
{
	uint64_t ns = 100000u << MC_MIN(tries, 5u);
	uint16_t jitter;
	struct timespec ts;

	f->host->random(f->host, &jitter, sizeof jitter);
	ns = ns / 2 + ns / 2 * jitter / UINT16_MAX;
	ns = MC_MIN(ns, left_ns);
	ts.tv_sec = 0;
	ts.tv_nsec = (long)ns;
	nanosleep(&ts, NULL);
}

int file_lock(struct file_inst *f, const char *key, uint64_t deadline_ns, struct mc_error *err)
{
	uint64_t hash = file_hash(key, strlen(key));
	char who[SLOT_SIZE];
	int fd, r;

	/* An open file description per lock: an instance's two operations exclude each other. */
	fd = openat(f->dirfd, FILE_LOCK_NAME, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW,
		    f->file_mode);
	if (fd < 0)
		return file_fail(f, err, -errno, key, "open", FILE_LOCK_NAME);
	for (unsigned tries = 0;; tries++) {
		uint64_t now;

		r = ofd(fd, F_OFD_SETLK, F_WRLCK, range_of(hash), 1, NULL);
		if (r != -EAGAIN || deadline_ns == 0)
			break;
		now = file_now(f);
		if (now >= deadline_ns) {
			r = -ETIMEDOUT;
			break;
		}
		nap(f, tries, deadline_ns - now);
	}
	if (r == 0) {
		slot_write(f, fd, hash);
		return fd;
	}
	if (r == -ETIMEDOUT) {
		slot_read(fd, hash, who);
		mc_fail(err, r,
			"key '%s': still locked by process %s at the deadline; "
			"if it is stopped, continue or end it",
			key, who);
	} else if (r != -EAGAIN) {
		file_fail(f, err, r, key, "lock", FILE_LOCK_NAME);
	}
	close(fd);
	return r;
}

void file_unlock(int fd)
{
	/* A process forked meanwhile has a copy of fd; unlock for both. */
	ofd(fd, F_OFD_SETLK, F_UNLCK, 0, 0, NULL);
	close(fd);
}
