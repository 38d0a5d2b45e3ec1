/* SPDX-License-Identifier: Apache-2.0 */
/* Mapping files beside each other, and living on when one of them is cut short. */
#include "map.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <core/util/check.h>
#include <core/util/cleanup.h>

/* ---- the guard -------------------------------------------------------------------------------- */

#define GUARDED_MAX 1024 /* objects of one process */

/* Read by the signal's handler: a map is there from seal to close, and does not change meanwhile. */
static _Atomic(struct p2pc_map *) guarded[GUARDED_MAX];
static atomic_bool cut[GUARDED_MAX];
static size_t page_size;

/* The end of the pages of the file that has the byte at this offset of the map. */
static size_t file_end(const struct p2pc_map *m, size_t at)
{
	size_t low = 0, high = m->nr;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (m->files[mid].at <= at)
			low = mid + 1;
		else
			high = mid;
	}
	return low < m->nr ? m->files[low].at : m->used;
}

static void on_bus(int sig, siginfo_t *info, void *context)
{
	uintptr_t addr = (uintptr_t)info->si_addr;

	for (size_t i = 0; i < GUARDED_MAX; i++) {
		struct p2pc_map *m = atomic_load(&guarded[i]);
		size_t at = m ? addr - (uintptr_t)m->base : 0;

		if (!m || addr < (uintptr_t)m->base || at >= m->used)
			continue;
		at -= at % page_size;
		if (mmap(m->base + at, file_end(m, at) - at, PROT_READ | (m->write ? PROT_WRITE : 0),
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
			break;
		atomic_store(&cut[i], true);
		return;
	}
	signal(SIGBUS, SIG_DFL); /* it comes again when we return */
}

void p2pc_map_guard(void)
{
	struct sigaction action = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO | SA_NODEFER};

	page_size = (size_t)sysconf(_SC_PAGESIZE);
	sigemptyset(&action.sa_mask);
	sigaction(SIGBUS, &action, NULL);
}

int p2pc_map_seal(struct p2pc_map *m, struct mc_error *err)
{
	for (int i = 0; i < GUARDED_MAX; i++) {
		struct p2pc_map *none = NULL;

		if (atomic_load(&guarded[i]))
			continue;
		atomic_store(&cut[i], false);
		if (atomic_compare_exchange_strong(&guarded[i], &none, m)) {
			m->slot = i;
			return 0;
		}
	}
	return mc_fail(err, -E2BIG, "more than %d objects; serve some from another process", GUARDED_MAX);
}

#define SYNC_FILES 64

/* ---- maps ------------------------------------------------------------------------------------- */

int p2pc_map_open(struct p2pc_map *m, size_t nr, uint64_t size, bool write, struct mc_error *err)
{
	uint64_t len;
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	*m = (struct p2pc_map){.slot = -1, .write = write, .cap = nr};
	if (!nr || !size)
		return mc_fail(err, -EINVAL, "it has no byte, and an object has at least one");
	if (__builtin_add_overflow(size, (uint64_t)nr * page, &len) || len > SIZE_MAX / 2)
		return mc_fail(err, -EFBIG, "%" PRIu64 " bytes are more than this machine can map", size);
	m->files = calloc(nr, sizeof *m->files);
	m->ranges = calloc(nr, sizeof *m->ranges);
	m->base = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (!m->files || !m->ranges || m->base == MAP_FAILED) {
		m->base = m->base == MAP_FAILED ? NULL : m->base;
		m->len = len;
		p2pc_map_close(m);
		return mc_fail(err, -ENOMEM, "no room in memory to map %" PRIu64 " bytes", size);
	}
	m->len = len;
	return 0;
}

static void remember(struct p2pc_mapped *f, const struct stat *st)
{
	f->dev = st->st_dev;
	f->ino = st->st_ino;
	f->mtime = st->st_mtim;
}

int p2pc_map_add(struct p2pc_map *m, int fd, const char *path, uint64_t size, struct mc_error *err)
{
	struct p2pc_mapped *f = &m->files[m->nr];
	size_t len = mc_round_up(size, (size_t)sysconf(_SC_PAGESIZE));
	struct stat st;

	if (m->nr == m->cap || len > m->len - m->used)
		return mc_fail(err, -EINVAL, "file '%s': more than was reserved", path);
	if (fstat(fd, &st) < 0)
		return mc_fail(err, -errno, "file '%s': %s", path, strerror(errno));
	if ((uint64_t)st.st_size != size)
		return mc_fail(err, -ESTALE, "file '%s': its size has changed meanwhile, from %" PRIu64 " to %" PRIu64 " bytes", path,
			       size, (uint64_t)st.st_size);
	if (mmap(m->base + m->used, len, PROT_READ | (m->write ? PROT_WRITE : 0), MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
		return mc_fail(err, -errno, "file '%s': it cannot be mapped: %s%s", path, strerror(errno),
			       errno == ENOMEM ? "; is vm.max_map_count below the number of files?" : "");
	f->path = strdup(path);
	if (!f->path)
		return mc_fail(err, -ENOMEM, "out of memory");
	remember(f, &st);
	f->size = size;
	f->at = m->used;
	m->ranges[m->nr++] = (struct mc_p2p_range){m->base + m->used, size};
	m->used += len;
	return 0;
}

/* NULL: removed, or another stands in its place, and ours is still what it was. */
static const struct stat *look_at(const struct p2pc_mapped *f, struct stat *st)
{
	return stat(f->path, st) == 0 && st->st_dev == f->dev && st->st_ino == f->ino ? st : NULL;
}

int p2pc_map_whole(const struct p2pc_map *m, struct mc_error *err)
{
	for (size_t i = 0; i < m->nr; i++) {
		const struct p2pc_mapped *f = &m->files[i];
		struct stat st;

		if (look_at(f, &st) && (uint64_t)st.st_size != f->size)
			return mc_fail(err, -ESTALE, "file '%s' has %s to %" PRIu64 " of its %" PRIu64 " bytes", f->path,
				       (uint64_t)st.st_size < f->size ? "been cut" : "grown", (uint64_t)st.st_size, f->size);
	}
	if (m->slot >= 0 && atomic_load(&cut[m->slot]))
		return mc_fail(err, -ESTALE, "a file of it has been cut");
	return 0;
}

int p2pc_map_look(const struct p2pc_map *m, struct mc_error *err)
{
	for (size_t i = 0; i < m->nr; i++) {
		const struct p2pc_mapped *f = &m->files[i];
		struct stat st;

		if (look_at(f, &st) && (uint64_t)st.st_size >= f->size &&
		    ((uint64_t)st.st_size != f->size || st.st_mtim.tv_sec != f->mtime.tv_sec ||
		     st.st_mtim.tv_nsec != f->mtime.tv_nsec))
			return mc_fail(err, -ESTALE, "file '%s' has been changed", f->path);
	}
	return p2pc_map_whole(m, err);
}

/* ---- memory of its own ------------------------------------------------------------------------ */

#define STORE_PIECE ((size_t)1 << 20)

/* The file again: a descriptor. */
static int reopen(const struct p2pc_mapped *f, int flags, struct mc_error *err)
{
	int fd = open(f->path, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY), r = 0;
	struct stat st;

	if (fd < 0)
		return mc_fail(err, -errno, "file '%s': %s", f->path, strerror(errno));
	if (fstat(fd, &st) < 0)
		r = mc_fail(err, -errno, "file '%s': %s", f->path, strerror(errno));
	else if (st.st_dev != f->dev || st.st_ino != f->ino || (uint64_t)st.st_size != f->size)
		r = mc_fail(err, -ESTALE, "file '%s' is another one by now, or of another size", f->path);
	if (r == 0)
		return fd;
	close(fd);
	return r;
}

/* What has been written to the file at some time; the rest is zeros. */
static int load(const struct p2pc_mapped *f, int fd, uint8_t *to, struct mc_error *err)
{
	off_t at = lseek(fd, 0, SEEK_DATA), size = (off_t)f->size, end;

	while (at >= 0 && at < size) {
		end = lseek(fd, at, SEEK_HOLE);
		end = end < at || end > size ? size : end;
		while (at < end) {
			ssize_t n = pread(fd, to + at, (size_t)(end - at), at);

			if (n < 0 && errno == EINTR)
				continue;
			if (n <= 0)
				return mc_fail(err, n < 0 ? -errno : -ESTALE, "file '%s' cannot be read: %s", f->path,
					       n < 0 ? strerror(errno) : "it has been cut");
			at += n;
		}
		at = lseek(fd, at, SEEK_DATA);
	}
	return 0;
}

int p2pc_map_detach(struct p2pc_map *m, struct mc_error *err)
{
	for (size_t i = 0; i < m->nr; i++) {
		const struct p2pc_mapped *f = &m->files[i];
		size_t len = mc_round_up(f->size, (size_t)sysconf(_SC_PAGESIZE));
		int flags = MAP_PRIVATE | MAP_FIXED | (m->write ? MAP_ANONYMOUS : 0), r = 0;
		mc_cleanup(mc_closep) int fd = reopen(f, O_RDONLY, err);

		if (fd < 0)
			return fd;
		if (mmap(m->base + f->at, len, PROT_READ | (m->write ? PROT_WRITE : 0), flags, m->write ? -1 : fd, 0) == MAP_FAILED)
			return mc_fail(err, -errno, "file '%s': no memory for a copy: %s", f->path, strerror(errno));
		if (m->write)
			r = load(f, fd, m->base + f->at, err);
		if (r < 0)
			return r;
	}
	m->own = m->write;
	return 0;
}

static int store(const struct p2pc_mapped *f, int fd, const uint8_t *from, bool sync)
{
	for (size_t at = 0; at < f->size;) {
		size_t n = MC_MIN(STORE_PIECE, f->size - at);
		ssize_t done = pwrite(fd, from + at, n, (off_t)at);

		if (done < 0 && errno != EINTR)
			return -errno;
		at += done > 0 ? (size_t)done : 0;
	}
	return sync && fsync(fd) < 0 ? -errno : 0;
}

int p2pc_map_store(const struct p2pc_map *m, bool sync, struct mc_error *err)
{
	for (size_t i = 0; m->own && m->write && i < m->nr; i++) {
		const struct p2pc_mapped *f = &m->files[i];
		mc_cleanup(mc_closep) int fd = reopen(f, O_WRONLY, err);
		int r = fd < 0 ? fd : store(f, fd, m->base + f->at, sync);

		if (fd >= 0 && r < 0)
			mc_fail(err, r, "file '%s': what has arrived could not be written: %s", f->path, strerror(-r));
		if (r < 0)
			return r;
	}
	return 0;
}

int p2pc_map_settle(struct p2pc_map *m, int fd, struct mc_error *err)
{
	struct stat st;
	int r = 0;

	r = p2pc_map_store(m, fd >= 0, err);
	if (r < 0)
		return r;
	/* msync waits for the disk once per file; of many, the file system writes all back at once. */
	if (fd >= 0)
		r = m->nr > SYNC_FILES ? syncfs(fd) : msync(m->base, m->used, MS_SYNC);
	if (r < 0)
		return mc_fail(err, -errno, "what has arrived could not be written to the disk: %s", strerror(errno));
	mprotect(m->base, m->used, PROT_READ);
	for (size_t i = 0; i < m->nr; i++)
		if (look_at(&m->files[i], &st))
			remember(&m->files[i], &st);
	m->write = false;
	return 0;
}

void p2pc_map_close(struct p2pc_map *m)
{
	if (m->slot >= 0 && m->files)
		atomic_store(&guarded[m->slot], NULL);
	for (size_t i = 0; i < m->nr; i++)
		free(m->files[i].path);
	free(m->files);
	free(m->ranges);
	if (m->base)
		munmap(m->base, m->len);
	*m = (struct p2pc_map){.slot = -1};
}
