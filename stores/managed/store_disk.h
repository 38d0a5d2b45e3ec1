/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the master keeps over its own end: tables of numbered values.  A change is a
 * record of the log (store_log.h) and survives kill -9 from the call's return on; a
 * thread folds the log into a database (LMDB) behind the back of who writes, so that
 * the log stays short and a start does not read all that ever happened.
 *
 * Nothing here knows what the values mean, so tables may come later without a change
 * of the format.  A folder holds the log's files and `fold.mdb`.
 */
#ifndef MC_STORE_DISK_H
#define MC_STORE_DISK_H

#include <mooncake/types.h>

#define MC_STORE_DISK_TABLES 64 /* numbered 0..63 */
#define MC_STORE_DISK_VALUE_MAX 16000

struct mc_store_disk;

struct mc_store_disk_options {
	size_t size;
	uint64_t file_bytes;    /* of the log's files; 0: the log's default */
	uint64_t fold_ns;       /* the thread looks so often; 0: 100 ms */
	uint32_t fold_records;  /* changes of one transaction; 0: 20,000 */
};

/* A change: a value is set, or goes.  One that is not there may go, too. */
struct mc_store_change {
	uint16_t table;
	bool gone;
	uint32_t len; /* <= MC_STORE_DISK_VALUE_MAX */
	uint64_t id;
	const void *value;
	uint64_t seq; /* set by append: what must be synced for the change to be on the disk */
};

/* Called for each value, by table and id; < 0 stops and is returned. */
typedef int (*mc_store_disk_each)(void *ctx, uint16_t table, uint64_t id, const void *value, size_t len);

/* Open a folder, made if it is not there; fold what the log holds, tell every value, be ready for changes.  [any]
 *   options   copied; NULL: defaults
 *   returns   0; -EBUSY: another process has it; -EBADMSG: not ours, or damaged; -ENOSPC, ...; what each returned */
int mc_store_disk_open(const char *dir, const struct mc_store_disk_options *options, mc_store_disk_each each, void *ctx,
		       struct mc_store_disk **ret_disk, struct mc_error *err);
/* Fold what is left and close; accepts NULL.  Nobody else uses it any more. */
void mc_store_disk_close(struct mc_store_disk *disk);

/* Make changes, in order.  [any]; never waits for the disk.
 *   returns   0; -EINVAL: a table or a length, nothing has changed; -ENOSPC, -EIO, -ENOMEM ...: those whose seq is not 0
 *             are made, the others are not */
int mc_store_disk_append(struct mc_store_disk *disk, struct mc_store_change *changes, size_t nr);

/* As those of the log: the last change, what is on the disk, ask, wait. */
uint64_t mc_store_disk_last(const struct mc_store_disk *disk);
uint64_t mc_store_disk_synced(const struct mc_store_disk *disk);
void mc_store_disk_want(struct mc_store_disk *disk, uint64_t seq);
int mc_store_disk_wait(struct mc_store_disk *disk, uint64_t seq, uint64_t timeout_ns);

/* How the folding stands.  [any] */
struct mc_store_disk_stats {
	uint64_t appended, folded; /* records, of all lives */
	uint64_t log_files;
	uint64_t database_bytes;
	int failed; /* -errno of the last transaction; it is tried again */
};
void mc_store_disk_stats(struct mc_store_disk *disk, struct mc_store_disk_stats *stats);

#endif
