/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leases.  A lease is a file, l.ID, that its holder keeps locked.  While the
 * lock stands, the lease lives.  Where it does not stand, it is dead at once if
 * the holder's kernel is ours; else the lock may just not be visible here, and
 * the lease lives as long as its counter is seen to change within the ttl by
 * this reader's own clock.  A missing file is a dead lease; identifiers are
 * random and never come back.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#include "core/util/bytes.h"
#include "core/util/check.h"
#include "file.h"

/* A lease file that cannot be read says no ttl. */
#define UNKNOWN_TTL_NS (30 * MC_SEC)
#define SEEN_MAX 65536

/* A lease granted by this instance.  [lease_mx] */
struct file_own {
	struct file_own *next;
	uint64_t id, ttl_ns, expiry_ns, counter;
	int fd;
};

/* What this instance knows of a lease of somebody else.  [lease_mx] */
struct file_seen {
	uint64_t id, counter;
	uint64_t checked_ns; /* when it was looked at last */
	uint64_t idle_ns; /* how long the counter was seen to stand still */
	bool alive;
	UT_hash_handle hh;
};

static void lease_name(uint64_t id, char name[FILE_NAME_SIZE])
{
	snprintf(name, FILE_NAME_SIZE, "l.%016llx", (unsigned long long)id);
}

/* Start time of a process in clock ticks; 0: /proc cannot say, or hides it (hidepid). */
static uint64_t process_start(const char *pid)
{
	unsigned long long start = 0;
	char path[64], buf[1024], *p;
	ssize_t n;
	int fd;

	snprintf(path, sizeof path, "/proc/%s/stat", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = read(fd, buf, sizeof buf - 1);
	close(fd);
	if (n <= 0)
		return 0;
	buf[n] = '\0';
	p = strrchr(buf, ')');
	/* Field 22, counted from 1; the name in parentheses is field 2. */
	for (int field = 2; p && field < 22; field++)
		p = strchr(p + 1, ' ');
	if (p)
		sscanf(p, "%llu", &start);
	return start;
}

/* Where our pid and start time mean what they mean to others: the PID name space, and above it the time name
 * space, by which start times are shifted.  0: unknown, as when /proc is that of another PID name space. */
static uint64_t process_space(void)
{
	char link[16] = "";
	struct stat pid, time;

	if (readlink("/proc/self", link, sizeof link - 1) < 0 || strtol(link, NULL, 10) != getpid() ||
	    stat("/proc/self/ns/pid", &pid) < 0)
		return 0;
	return pid.st_ino ^ (stat("/proc/self/ns/time", &time) == 0 ? (uint64_t)time.st_ino << 32 : 0);
}

void file_self_init(struct file_self *s)
{
	char boot[64] = "";
	struct utsname uts;
	int fd;

	memset(s, 0, sizeof *s);
	fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		ssize_t n = read(fd, boot, sizeof boot);

		/* 0 stands for "unknown" and equals nobody's. */
		if (n > 0)
			s->boot = file_hash(boot, (size_t)n) | 1;
		close(fd);
	}
	s->pidns = process_space();
	s->pid = (uint32_t)getpid();
	s->start = process_start("self");
	if (uname(&uts) == 0)
		snprintf(s->host, sizeof s->host, "%.*s", FILE_HOST_MAX, uts.nodename);
}

/* ---- own leases -------------------------------------------------------------------------- */

/* [lease_mx] */
static void tell_due(struct file_inst *f)
{
	uint64_t due = 0;

	for (struct file_own *o = f->own; o; o = o->next)
		if (due == 0 || o->expiry_ns < due)
			due = o->expiry_ns;
	if (f->ctl)
		file_ctl_lease_due(f, due);
}

static struct file_own **own_find(struct file_inst *f, uint64_t id)
{
	struct file_own **at = &f->own;

	while (*at && (*at)->id != id)
		at = &(*at)->next;
	return at;
}

/* For every reader at once: the mark for other hosts, then lock and file go.  [lease_mx] */
static void own_end(struct file_inst *f, struct file_own **at)
{
	struct file_own *o = *at;
	char name[FILE_NAME_SIZE];
	uint8_t ended[8];
	ssize_t r;

	*at = o->next;
	mc_put64(ended, 1);
	r = pwrite(o->fd, ended, sizeof ended, FILE_LEASE_ENDED);
	(void)r; /* the file goes anyhow */
	lease_name(o->id, name);
	unlinkat(f->dirfd, name, 0);
	file_unlock(o->fd);
	free(o);
}

static int no_directory(struct file_inst *f, int code, struct mc_error *err)
{
	return mc_fail(err, -ENOTCONN, "directory '%s': %s; it is used again as soon as it is back",
		       f->path, strerrordesc_np(code));
}

/* The directory may have been removed, moved away or mounted over while we had it open: what has
 * its name now takes its place, behind the same descriptor, and leases in the other one have ended.
 * Watches see the new one at their next rescan. */
static int follow_directory(struct file_inst *f, struct mc_error *err)
{
	struct stat named, ours;
	int fd, lock;

	if (stat(f->path, &named) < 0)
		return no_directory(f, errno, err);
	if (fstat(f->dirfd, &ours) == 0 && ours.st_ino == named.st_ino && ours.st_dev == named.st_dev)
		return 0;
	fd = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return no_directory(f, errno, err);
	lock = openat(fd, FILE_LOCK_NAME, O_RDWR | O_CREAT | O_CLOEXEC, f->file_mode);
	if (lock >= 0) {
		int r = fchmod(lock, f->file_mode);

		(void)r; /* somebody else's already has its mode */
		close(lock);
	}
	pthread_mutex_lock(&f->lease_mx);
	while (f->own)
		own_end(f, &f->own);
	tell_due(f);
	dup3(fd, f->dirfd, O_CLOEXEC);
	pthread_mutex_unlock(&f->lease_mx);
	close(fd);
	f->host->log(f->host, MC_LOG_DEBUG, "directory '%s' was replaced: using the new one", f->path);
	return 0;
}

int file_lease_grant(void *inst, uint64_t ttl_ns, uint64_t deadline_ns, uint64_t *ret_lease,
		     struct mc_error *err)
{
	struct file_inst *f = inst;
	struct file_lease l = {.ttl_ns = ttl_ns, .holder = f->self};
	struct file_own *o;
	uint8_t buf[FILE_LEASE_SIZE];
	char name[FILE_NAME_SIZE];
	struct file_temp t;
	int r;

	if (ttl_ns == 0)
		return mc_fail(err, -EINVAL, "lease: a ttl of 0 would end at once");
	r = follow_directory(f, err);
	if (r < 0)
		return r;
	while (l.id == 0)
		f->host->random(f->host, &l.id, sizeof l.id);
	lease_name(l.id, name);
	file_lease_encode(buf, &l);
	o = calloc(1, sizeof *o);
	if (!o)
		return mc_fail(err, -ENOMEM, "lease: out of memory");
	r = file_temp_open(f, &t);
	if (r < 0) {
		file_fail(f, err, r, "lease", "create a file in", "");
		goto free_own;
	}
	errno = 0; /* a short write sets none */
	/* Locked as a temp file already, so nobody ever sees it without its lock. */
	if (pwrite(t.fd, buf, sizeof buf, 0) != (ssize_t)sizeof buf)
		r = errno ? -errno : -ENOSPC;
	else if (renameat(f->dirfd, t.name, f->dirfd, name) < 0)
		r = errno == ENOENT ? -EAGAIN : -errno; /* swept while this process was frozen */
	if (r < 0) {
		file_fail(f, err, r, "lease", "write", name);
		file_temp_close(f, &t);
		goto free_own;
	}
	*o = (struct file_own){.id = l.id, .ttl_ns = ttl_ns, .fd = t.fd};
	pthread_mutex_lock(&f->lease_mx);
	o->expiry_ns = file_now(f) + ttl_ns;
	o->next = f->own;
	f->own = o;
	tell_due(f);
	pthread_mutex_unlock(&f->lease_mx);
	*ret_lease = l.id;
	return 0;
free_own:
	free(o);
	return r;
}

static int no_lease(struct mc_error *err, uint64_t lease)
{
	return mc_fail(err, -ENOENT,
		       "lease 0x%llx: it does not exist or has ended; grant a new one",
		       (unsigned long long)lease);
}

/* Whether an own lease still stands; ends it if not.  [lease_mx] */
static bool own_check(struct file_inst *f, struct file_own **at)
{
	struct stat st;

	/* A reader on another host may have found it dead while this process was frozen. */
	if (file_now(f) < (*at)->expiry_ns && fstat((*at)->fd, &st) == 0 && st.st_nlink > 0)
		return true;
	own_end(f, at);
	tell_due(f);
	return false;
}

int file_lease_keepalive(void *inst, uint64_t lease, uint64_t deadline_ns, struct mc_error *err)
{
	struct file_inst *f = inst;
	struct file_own **at;
	uint8_t counter[8];
	int r = follow_directory(f, err);

	if (r < 0)
		return r;
	pthread_mutex_lock(&f->lease_mx);
	at = own_find(f, lease);
	if (!*at || !own_check(f, at)) {
		pthread_mutex_unlock(&f->lease_mx);
		return no_lease(err, lease);
	}
	mc_put64(counter, ++(*at)->counter);
	errno = 0;
	if (pwrite((*at)->fd, counter, sizeof counter, FILE_LEASE_COUNTER) !=
	    (ssize_t)sizeof counter)
		r = errno ? -errno : -EIO;
	/* The lock keeps it alive here even if other hosts do not see the counter move. */
	(*at)->expiry_ns = file_now(f) + (*at)->ttl_ns;
	tell_due(f);
	pthread_mutex_unlock(&f->lease_mx);
	return r < 0 ? file_fail(f, err, r, "lease", "write in", "") : 0;
}

int file_lease_revoke(void *inst, uint64_t lease, uint64_t deadline_ns, struct mc_error *err)
{
	struct file_inst *f = inst;
	struct file_own **at;
	bool found;

	pthread_mutex_lock(&f->lease_mx);
	at = own_find(f, lease);
	found = *at != NULL;
	if (found) {
		own_end(f, at);
		tell_due(f);
	}
	pthread_mutex_unlock(&f->lease_mx);
	return found ? 0 : no_lease(err, lease);
}

void file_lease_expire(struct file_inst *f)
{
	struct file_own **at;

	pthread_mutex_lock(&f->lease_mx);
	for (at = &f->own; *at;) {
		struct file_own *o = *at;

		if (file_now(f) >= o->expiry_ns)
			own_end(f, at);
		else
			at = &o->next;
	}
	tell_due(f);
	pthread_mutex_unlock(&f->lease_mx);
}

void file_lease_fini(struct file_inst *f)
{
	struct file_seen *s, *tmp;

	pthread_mutex_lock(&f->lease_mx);
	while (f->own)
		own_end(f, &f->own);
	HASH_ITER(hh, f->seen, s, tmp) {
		HASH_DEL(f->seen, s);
		free(s);
	}
	pthread_mutex_unlock(&f->lease_mx);
}

/* ---- leases of others -------------------------------------------------------------------- */

/* The lock stands, but it may be a copy that a child of the dead holder inherited.  Only the kernel says that
 * there is no such process: /proc may hide those of other users. */
static bool holder_gone(const struct file_inst *f, const struct file_self *h)
{
	char pid[16];
	uint64_t start;

	if (!h->start || !h->boot || h->boot != f->self.boot || !h->pidns ||
	    h->pidns != f->self.pidns || !h->pid || h->pid > INT32_MAX)
		return false;
	if (kill((pid_t)h->pid, 0) < 0 && errno == ESRCH)
		return true;
	snprintf(pid, sizeof pid, "%u", h->pid);
	start = process_start(pid);
	return start && start != h->start;
}

/*
 * A reader that was frozen itself saw nothing meanwhile, so one look counts for
 * at most half the ttl.  [lease_mx]
 */
static bool counter_moves(struct file_inst *f, struct file_seen *s, const struct file_lease *l,
			  bool is_new)
{
	uint64_t now = file_now(f);

	if (is_new || s->counter != l->counter)
		s->idle_ns = 0;
	else
		s->idle_ns += MC_MIN(now - s->checked_ns, l->ttl_ns / 2);
	s->counter = l->counter;
	return s->idle_ns < l->ttl_ns;
}

static bool lease_look(struct file_inst *f, struct file_seen *s, int fd, bool is_new)
{
	uint8_t buf[FILE_LEASE_SIZE];
	ssize_t n = file_read(fd, buf, sizeof buf);
	struct file_lease l = {.ttl_ns = UNKNOWN_TTL_NS};
	bool readable;

	if (n < 0)
		return true; /* cannot tell: nothing is thrown away for it */
	readable = file_lease_parse(buf, (size_t)n, &l) == 0;
	if (readable && l.ended)
		return false;
	if (file_held(fd) == 1)
		return !readable || !holder_gone(f, &l.holder);
	if (readable && l.holder.boot && l.holder.boot == f->self.boot &&
	    !strcmp(l.holder.host, f->self.host))
		return false;
	return counter_moves(f, s, &l, is_new);
}

static void seen_drop(struct file_inst *f, struct file_seen *s)
{
	HASH_DEL(f->seen, s);
	free(s);
}

static struct file_seen *seen_add(struct file_inst *f, uint64_t id)
{
	struct file_seen *s, *tmp;

	/* Bounded: a forgotten lease just gets a fresh look. */
	if (HASH_COUNT(f->seen) >= SEEN_MAX) {
		HASH_ITER(hh, f->seen, s, tmp) {
			seen_drop(f, s);
		}
	}
	s = calloc(1, sizeof *s);
	if (!s)
		return NULL;
	s->id = id;
	HASH_ADD(hh, f->seen, id, sizeof id, s);
	if (!s->hh.tbl) {
		free(s);
		return NULL;
	}
	return s;
}

/* Look at the file of a lease that is not ours.  [lease_mx] */
static bool other_alive(struct file_inst *f, uint64_t id, uint64_t since_ns)
{
	struct file_seen *s;
	char name[FILE_NAME_SIZE];
	bool is_new;
	int fd;

	HASH_FIND(hh, f->seen, &id, sizeof id, s);
	if (s && s->checked_ns >= since_ns)
		return s->alive;
	lease_name(id, name);
	fd = openat(f->dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0 && errno != ENOENT)
		return true; /* cannot tell: nothing is thrown away for it */
	if (fd < 0) {
		if (s)
			seen_drop(f, s);
		return false;
	}
	is_new = !s;
	if (!s)
		s = seen_add(f, id);
	if (!s) {
		close(fd);
		return true;
	}
	s->alive = lease_look(f, s, fd, is_new);
	s->checked_ns = file_now(f);
	close(fd);
	if (s->alive)
		return true;
	/* Its file goes first: from now on it is dead for every reader. */
	if (unlinkat(f->dirfd, name, 0) == 0 || errno == ENOENT)
		seen_drop(f, s);
	return false;
}

bool file_lease_alive(struct file_inst *f, uint64_t id, uint64_t since_ns)
{
	struct file_own **at;
	bool alive;

	pthread_mutex_lock(&f->lease_mx);
	at = own_find(f, id);
	if (*at) {
		alive = own_check(f, at);
	} else {
		alive = other_alive(f, id, since_ns);
	}
	pthread_mutex_unlock(&f->lease_mx);
	return alive;
}
