/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the log: store_log.c and store_log_open.c. */
#ifndef MC_STORE_LOG_IMPL_H
#define MC_STORE_LOG_IMPL_H

#include "store_log.h"

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <utlist.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define LOG_MAGIC "MCSTLOG1"
#define LOG_FORMAT 1u
#define LOG_FILE_HEAD 64u
#define LOG_RECORD_HEAD 24u
#define LOG_PAGE 4096u
#define LOG_PATH_MAX (PATH_MAX + 32)

struct log_file {
	struct log_file *prev, *next; /* log->files, by number */
	uint64_t number, first_seq;
	unsigned char *map;
	size_t bytes;
	size_t used;   /* where the next record goes; under log->lock, fixed once it is not the tail */
	size_t synced; /* of the thread that syncs */
	int fd;
};

struct mc_store_log {
	char *dir;
	uint64_t file_bytes;
	int dir_fd, lock_fd;

	pthread_mutex_t sync_lock; /* before lock; held while files are synced or dropped */
	pthread_mutex_t lock;      /* guards what follows */
	pthread_cond_t wake, done;
	struct log_file *files;
	struct log_file *tail;  /* appended to; NULL: the next append makes one */
	struct log_file *spare; /* made ahead, without a head */
	const struct log_file *spare_tried; /* the tail for which one was made, or could not be */
	uint64_t next_number, nr_files;
	uint64_t wanted;
	int failed; /* of syncing, for good: what the kernel has given up is not tried again */
	bool closing, started;
	pthread_t thread;

	_Atomic uint64_t last, synced;
};

void mc_store_log_path(const struct mc_store_log *log, uint64_t number, char *path, size_t size);
void mc_store_log_file_free(struct log_file *f);
/* And its name. */
void mc_store_log_file_remove(struct mc_store_log *log, struct log_file *f);
uint32_t mc_store_log_hash(const unsigned char *head, const void *payload, size_t len);
uint32_t mc_store_log_head_hash(const unsigned char *head);
/* The record at an offset, if it is sound and the one with this seq.  0; -ENODATA. */
int mc_store_log_record(const struct log_file *f, size_t offset, uint64_t seq, struct mc_store_record *rec);
/* Each sound record of a file from *at on, up to the one with seq `last`. */
int mc_store_log_read_file(const struct log_file *f, struct mc_store_log_at *at, uint64_t last,
			   mc_store_log_each each, void *ctx);
int mc_store_log_start(struct mc_store_log *log);

#endif
