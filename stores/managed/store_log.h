/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The master's log: records appended to mapped files.  What has been appended
 * survives the end of the process, however it comes, without a system call; the end
 * of the machine only what was synced.  A tail that is lost is lost as a whole:
 * reading stops at the first record that is not sound, and nothing behind it counts.
 *
 * A folder holds the files log.00000001, log.00000002, ... of one size, and `lock`.
 *
 *   file    head of 64 bytes, records, zeros
 *   head     0 magic "MCSTLOG1"   8 u32 format   12 u32 hash of the head with 0 here
 *           16 u64 number of the file            24 u64 seq of its first record
 *           32 u64 bytes of the file             40 zeros
 *   record   0 u32 bytes of the payload + 1 (0: no record)   4 u16 type   6 u16 version
 *            8 u64 seq   16 u32 hash of bytes 0..15 and the payload   20 u32 zero
 *           24 payload, then zeros up to a multiple of 8
 *
 * All little-endian; seq counts records from 1 and leaves none out.  A file is never
 * appended to after a restart: behind a torn record stale bytes may lie.
 */
#ifndef MC_STORE_LOG_H
#define MC_STORE_LOG_H

#include <mooncake/types.h>

#define MC_STORE_LOG_FILE_MIN (64u << 10)
#define MC_STORE_LOG_FILE_DEFAULT (64u << 20)
#define MC_STORE_LOG_PAYLOAD_MAX (16u << 10)

struct mc_store_log;

/* Where a record begins; seq is its own. */
struct mc_store_log_at {
	uint64_t file, offset, seq;
};

struct mc_store_record {
	uint16_t type, version;
	uint32_t len;
	const void *payload; /* of any alignment */
	uint64_t seq; /* set by the log */
};

/* Called for each sound record; non-zero stops and is returned.  next: where the one behind it begins. */
typedef int (*mc_store_log_each)(void *ctx, const struct mc_store_record *record,
				 const struct mc_store_log_at *next);

/* Open the log of a folder (made if it is not there), read every sound record from `from` on (NULL: all that
 * there are), and be ready to append behind the last one.  Holds the folder's lock.  [any]
 *   file_bytes  of new files: a multiple of 4096, at least MC_STORE_LOG_FILE_MIN; 0: the default
 *   returns     0; -EBUSY: another process has it (err says which); -EBADMSG: a file is not ours, or records
 *               before `from`'s file are needed and gone; -ENOSPC; -EACCES, ...; what each returned */
int mc_store_log_open(const char *dir, uint64_t file_bytes, const struct mc_store_log_at *from,
		      mc_store_log_each each, void *ctx, struct mc_store_log **ret_log, struct mc_error *err);
/* Sync what is there and close; accepts NULL.  Nobody appends or waits any more. */
void mc_store_log_close(struct mc_store_log *log);

/* Append records, together and in order; sets their seq.  [any]; takes one lock, makes a system call only where a
 * file ends.
 *   returns   0; -EMSGSIZE: a payload over MC_STORE_LOG_PAYLOAD_MAX, or together over half a file; -ENOSPC, -EIO, ...: the next file could not be
 *             made; then none of them counts, and later calls try again */
int mc_store_log_append(struct mc_store_log *log, struct mc_store_record *records, size_t nr);

/* The last record appended, and the last one known to be on the disk. */
uint64_t mc_store_log_last(const struct mc_store_log *log);
uint64_t mc_store_log_synced(const struct mc_store_log *log);
/* Ask for all up to seq to be synced soon; never blocks.  What is asked meanwhile goes in one group. */
void mc_store_log_want(struct mc_store_log *log, uint64_t seq);
/* Wait for it.  0; -ETIMEDOUT; -EIO, ...: the disk has failed, and nothing is synced any more. */
int mc_store_log_wait(struct mc_store_log *log, uint64_t seq, uint64_t timeout_ns);

/* Read what was appended from `at` on, up to the last record, while others append; *at goes along.  One reader at
 * a time.
 *   returns   0; what each returned, with *at behind the record it was called for */
int mc_store_log_read(struct mc_store_log *log, struct mc_store_log_at *at, mc_store_log_each each, void *ctx);
/* The files before the one that `at` lies in are not needed any more.  Likewise one at a time. */
void mc_store_log_drop(struct mc_store_log *log, const struct mc_store_log_at *at);
/* Files that are kept: who folds too slowly sees it grow. */
uint64_t mc_store_log_files(const struct mc_store_log *log);

#endif
