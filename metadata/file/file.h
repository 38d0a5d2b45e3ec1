/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private header of the file metadata plugin: the instance, the two file
 * formats, and what the topics (names, formats, locks, leases, store, watches)
 * offer each other.  README.md describes the directory.
 */
#ifndef MC_FILE_H
#define MC_FILE_H

#include <pthread.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "mooncake/metadata.h"

/* ---- names in the directory (file_name.c) ------------------------------------------------ */

#define FILE_NAME_MAX 200 /* longer names are hashed */
#define FILE_NAME_SIZE (FILE_NAME_MAX + 1)
#define FILE_LOCK_NAME "lock"
#define FILE_SWEPT_NAME "swept" /* its time stamp: when the last sweep began */

enum file_kind {
	FILE_JUNK,   /* not ours */
	FILE_OURS,   /* ".", "..", the lock file, the sweep's mark */
	FILE_KEY,    /* k.ENCODED: the key can be read from the name */
	FILE_HASHED, /* h.HASH: the key stands in the file */
	FILE_LEASE,  /* l.ID */
	FILE_TEMP,   /* t.BOOT.PID.RANDOM: being written */
};

/* The file name of a key.  0, or -EINVAL for an empty or too long key. */
int file_name_of(const char *key, char name[FILE_NAME_SIZE]);
/* What a name is.  FILE_KEY: the key goes to key[MC_KV_KEY_MAX + 1].  FILE_LEASE: the id to *id. */
enum file_kind file_name_kind(const char *name, char *key, uint64_t *id);
/* 64 bits of a key, for its lock. */
uint64_t file_hash(const void *data, size_t len);

/* ---- file formats (file_format.c) -------------------------------------------------------- */

/*
 * Key file, little-endian:
 *    0  "MCKV"       4  u16 version 1    6  u16 length of key
 *    8  u64 revision                    16  u64 lease, 0: none
 *   24  u64 length of value             32  u64 XXH3 of the value
 *   40  u64 XXH3 of bytes 0..39 and the key
 *   48  the key, one NUL, the value; nothing after it
 */
#define FILE_KEY_HEAD 48
#define FILE_KEY_FILE_MAX (FILE_KEY_HEAD + MC_KV_KEY_MAX + 1 + (size_t)MC_KV_VALUE_MAX)

struct file_key {
	uint64_t revision, lease, value_len, value_sum;
	size_t key_len;
	const char *key;   /* into the buffer */
	const void *value; /* into the buffer; NULL if only the head was given */
};

void file_key_encode(uint8_t head[FILE_KEY_HEAD], const struct mc_kv *kv, uint64_t revision);
/* buf holds the first len of file_size bytes: all of them, or at least head and key.  0, or
 * -EBADMSG with *ret_why set to the check that failed. */
int file_key_parse(const uint8_t *buf, size_t len, uint64_t file_size, struct file_key *k,
		   const char **ret_why);

/*
 * Lease file, little-endian.  The checksum covers bytes 0..55 and the host name;
 * counter and ended change in place, 8 bytes each.
 *    0  "MCLS"       4  u16 version 1    6  u16 length of host name (<= 64)
 *    8  u64 lease                       16  u64 ttl in ns
 *   24  u64 hash of the boot id         32  u64 pid namespace
 *   40  u64 start time of the process   48  u32 pid    52  u32 0
 *   56  u64 XXH3
 *   64  u64 counter                     72  u64 1: ended
 *   80  host name, zero-padded
 */
#define FILE_LEASE_SIZE 144
#define FILE_LEASE_COUNTER 64
#define FILE_LEASE_ENDED 72
#define FILE_HOST_MAX 64

/* A process, so that readers can tell whether they share its kernel. */
struct file_self {
	uint64_t boot, pidns, start;
	uint32_t pid;
	char host[FILE_HOST_MAX + 1];
};

struct file_lease {
	uint64_t id, ttl_ns, counter, ended;
	struct file_self holder;
};

void file_lease_encode(uint8_t buf[FILE_LEASE_SIZE], const struct file_lease *l);
/* 0 or -EBADMSG. */
int file_lease_parse(const uint8_t *buf, size_t len, struct file_lease *l);

/* ---- the instance ------------------------------------------------------------------------ */

struct file_own;  /* a lease granted here */
struct file_seen; /* a lease of somebody else */
struct file_ctl;  /* watches, the inotify descriptor, the timer */

struct file_inst {
	const struct mc_host *host;
	struct file_self self;
	char *path; /* the directory, for messages and inotify */
	int dirfd;
	bool fsync; /* atomic */
	mode_t file_mode;
	int junk_said; /* atomic: the one debug line about foreign files was written */

	/* Guards own and seen and the I/O on lease files.  Helpers only; taken before ctl's
	 * mutex, held across no host service but clock, random and post. */
	pthread_mutex_t lease_mx;
	struct file_own *own;
	struct file_seen *seen;

	struct file_ctl *ctl;
};

static inline uint64_t file_now(const struct file_inst *f)
{
	return f->host->now_ns(f->host);
}

/* "key 'k': cannot WHAT '/dir/name': errno's text; what to do".  Returns code. */
int file_fail(struct file_inst *f, struct mc_error *err, int code, const char *key,
	      const char *what, const char *name);

/* ---- locks (file_lock.c) ----------------------------------------------------------------- */

/* Take the lock of a key.  deadline_ns 0: one try, -EAGAIN.  Returns a descriptor for
 * file_unlock, or -errno; -ETIMEDOUT names the holder. */
int file_lock(struct file_inst *f, const char *key, uint64_t deadline_ns, struct mc_error *err);
void file_unlock(int fd);
/* Lock a whole file that nobody else has locked; and ask whether somebody has: 1, 0, -errno. */
int file_hold(int fd);
int file_held(int fd);
/* Take up to n bytes from fd, at offset 0.  The count or -errno. */
ssize_t file_read(int fd, void *buf, size_t n);

/* ---- files (file_dir.c) ------------------------------------------------------------------ */

struct file_temp {
	int fd;
	char name[64];
};

/* A new locked temp file, so that sweepers see that its writer lives. */
int file_temp_open(struct file_inst *f, struct file_temp *t);
/* Close it, and remove it if it was not renamed (name[0] still set). */
void file_temp_close(struct file_inst *f, struct file_temp *t);

/* A key file that was read. */
struct file_loaded {
	struct file_key k;
	struct stat st;
	uint8_t *buf;
};

/* Read and check a key file.  -ENOENT; -EBADMSG: damaged, err says what to do.  Key (may be
 * NULL) must be the one inside.  Free with file_loaded_fini. */
int file_load(struct file_inst *f, const char *name, const char *key, bool with_value,
	      struct file_loaded *l, struct mc_error *err);
void file_loaded_fini(struct file_loaded *l);

/* Call fn for each name of the directory, but temp files (swept when their writer is dead) and
 * junk.  key is set for FILE_KEY, id for FILE_LEASE.  A non-zero answer stops and is returned. */
typedef int (*file_each)(void *ctx, enum file_kind kind, const char *name, const char *key,
			 uint64_t id);
int file_dir_each(struct file_inst *f, file_each fn, void *ctx);

/* ---- store (file_store.c) ---------------------------------------------------------------- */

int file_get(void *inst, const char *key, uint64_t deadline_ns, mc_kv_emit emit, void *ctx,
	     struct mc_error *err);
int file_put(void *inst, const struct mc_kv *kv, uint64_t deadline_ns, uint64_t *ret_revision,
	     struct mc_error *err);
int file_cas(void *inst, const struct mc_kv *kv, uint64_t expect_rev, uint64_t deadline_ns,
	     uint64_t *ret_revision, struct mc_error *err);
int file_del(void *inst, const char *key, uint64_t expect_rev, uint64_t deadline_ns,
	     struct mc_error *err);
int file_list(void *inst, const char *prefix, uint64_t deadline_ns, mc_kv_emit emit, void *ctx,
	      struct mc_error *err);
/* Remove a key file whose lease is dead, unless somebody took the key over meanwhile. */
void file_reap(struct file_inst *f, const char *name, const char *key);
/* Whether nobody has swept for a while; then this one is noted as the last.  Engines that open one
 * after the other would each walk all that the cluster has, else. */
bool file_sweep_due(struct file_inst *f);
/* Remove what dead leases left behind; looks at *stop between files. */
void file_sweep(struct file_inst *f, const int *stop);

/* ---- leases (file_lease.c) --------------------------------------------------------------- */

void file_self_init(struct file_self *s);
int file_lease_grant(void *inst, uint64_t ttl_ns, uint64_t deadline_ns, uint64_t *ret_lease,
		     struct mc_error *err);
int file_lease_keepalive(void *inst, uint64_t lease, uint64_t deadline_ns, struct mc_error *err);
int file_lease_revoke(void *inst, uint64_t lease, uint64_t deadline_ns, struct mc_error *err);
/* Whether keys of this lease count.  An answer found since since_ns is used again. */
bool file_lease_alive(struct file_inst *f, uint64_t id, uint64_t since_ns);
/* End own leases that were not kept alive. */
void file_lease_expire(struct file_inst *f);
/* End all of them and forget everything (close). */
void file_lease_fini(struct file_inst *f);

/* ---- watches (file_watch.c, file_scan.c) ------------------------------------------------ */

/* The private area of a watch: the host may free it as soon as unwatch returned. */
struct file_watch {
	struct file_wstate *state;
};

int file_ctl_open(struct file_inst *f, uint64_t interval_ns, struct mc_error *err);
void file_ctl_close(struct file_inst *f);
void file_ctl_set_interval(struct file_inst *f, uint64_t interval_ns);
/* The soonest own lease ends at due_ns (0: none). */
void file_ctl_lease_due(struct file_inst *f, uint64_t due_ns);
int file_watch_add(void *inst, void *watch, const char *prefix, uint64_t deadline_ns,
		   struct mc_error *err);
void file_watch_remove(void *inst, void *watch);

#endif
