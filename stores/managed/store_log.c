/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log's files: appending, reading, syncing, dropping.  One lock for appending;
 * a thread syncs what is wanted, and has the next file ready before the one in use
 * is full.  Files stay mapped until they are dropped.  store_log_open.c finds what
 * an earlier process has left.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "store_log_impl.h"
#include "core/util/bytes.h"
#include "core/util/check.h"

/* ---- files -------------------------------------------------------------------------------- */

void mc_store_log_path(const struct mc_store_log *log, uint64_t number, char *path, size_t size)
{
	snprintf(path, size, "%s/log.%08llu", log->dir, (unsigned long long)number);
}

void mc_store_log_file_free(struct log_file *f)
{
	if (!f)
		return;
	if (f->map)
		munmap(f->map, f->bytes);
	if (f->fd >= 0)
		close(f->fd);
	free(f);
}

/* A new file without a head: nobody takes it for a part of the log yet. */
static int file_make(const struct mc_store_log *log, uint64_t number, struct log_file **ret_file)
{
	struct log_file *f = calloc(1, sizeof *f);
	char path[LOG_PATH_MAX];
	int r;

	if (!f)
		return -ENOMEM;
	mc_store_log_path(log, number, path, sizeof path);
	f->number = number;
	f->bytes = log->file_bytes;
	f->fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	r = f->fd < 0 ? -errno : -posix_fallocate(f->fd, 0, (off_t)f->bytes);
	if (r == 0) {
		f->map = mmap(NULL, f->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
		if (f->map == MAP_FAILED) {
			r = -errno;
			f->map = NULL;
		}
	}
	if (r == 0) {
		*ret_file = f;
		return 0;
	}
	if (f->fd >= 0)
		unlink(path);
	mc_store_log_file_free(f);
	return r;
}

/* ---- appending ------------------------------------------------------------------------------ */

static size_t record_bytes(uint32_t len)
{
	return mc_round_up(LOG_RECORD_HEAD + len, 8);
}

uint32_t mc_store_log_hash(const unsigned char *head, const void *payload, size_t len)
{
	XXH3_state_t state;

	XXH3_64bits_reset(&state);
	XXH3_64bits_update(&state, head, 16);
	if (len)
		XXH3_64bits_update(&state, payload, len);
	return (uint32_t)XXH3_64bits_digest(&state);
}

uint32_t mc_store_log_head_hash(const unsigned char *head)
{
	unsigned char copy[LOG_FILE_HEAD];

	memcpy(copy, head, sizeof copy);
	mc_put32(copy + 12, 0);
	return (uint32_t)XXH3_64bits(copy, sizeof copy);
}

static void file_begin(struct log_file *f, uint64_t first_seq)
{
	unsigned char head[LOG_FILE_HEAD] = LOG_MAGIC;

	mc_put32(head + 8, LOG_FORMAT);
	mc_put64(head + 16, f->number);
	mc_put64(head + 24, first_seq);
	mc_put64(head + 32, f->bytes);
	mc_put32(head + 12, mc_store_log_head_hash(head));
	memcpy(f->map, head, sizeof head);
	f->first_seq = first_seq;
	f->used = LOG_FILE_HEAD;
}

/* Under the lock: records go to a file that has not been appended to. */
static int roll(struct mc_store_log *log)
{
	struct log_file *f = log->spare;
	int r = 0;

	log->spare = NULL;
	if (!f)
		r = file_make(log, log->next_number, &f);
	if (r < 0)
		return r;
	log->next_number = f->number + 1;
	file_begin(f, atomic_load(&log->last) + 1);
	DL_APPEND(log->files, f);
	log->nr_files++;
	log->tail = f;
	return 0;
}

/* The length goes last: without it there is no record. */
static void put_record(struct log_file *f, struct mc_store_record *rec, uint64_t seq)
{
	unsigned char *at = f->map + f->used;
	unsigned char head[16];

	mc_put32(head, rec->len + 1);
	mc_put16(head + 4, rec->type);
	mc_put16(head + 6, rec->version);
	mc_put64(head + 8, seq);
	memcpy(at + 4, head + 4, sizeof head - 4);
	mc_put32(at + 16, mc_store_log_hash(head, rec->payload, rec->len));
	if (rec->len)
		memcpy(at + LOG_RECORD_HEAD, rec->payload, rec->len);
	__atomic_store_n((uint32_t *)(void *)at, MC_LE32(rec->len + 1), __ATOMIC_RELEASE);
	rec->seq = seq;
	f->used += record_bytes(rec->len);
}

int mc_store_log_append(struct mc_store_log *log, struct mc_store_record *records, size_t nr)
{
	size_t total = 0;
	uint64_t seq;
	bool half;
	int r = 0;

	for (size_t i = 0; i < nr; i++) {
		if (records[i].len > MC_STORE_LOG_PAYLOAD_MAX)
			return -EMSGSIZE;
		total += record_bytes(records[i].len);
	}
	if (total > log->file_bytes / 2)
		return -EMSGSIZE;
	pthread_mutex_lock(&log->lock);
	if (!log->tail || log->tail->bytes - log->tail->used < total)
		r = roll(log);
	if (r == 0) {
		seq = atomic_load_explicit(&log->last, memory_order_relaxed);
		for (size_t i = 0; i < nr; i++)
			put_record(log->tail, &records[i], ++seq);
		atomic_store_explicit(&log->last, seq, memory_order_release);
	}
	half = r == 0 && !log->spare && log->tail->used > log->tail->bytes / 2;
	if (half)
		pthread_cond_signal(&log->wake);
	pthread_mutex_unlock(&log->lock);
	return r;
}

uint64_t mc_store_log_last(const struct mc_store_log *log)
{
	return atomic_load_explicit(&log->last, memory_order_acquire);
}

/* ---- syncing ------------------------------------------------------------------------------ */

uint64_t mc_store_log_synced(const struct mc_store_log *log)
{
	return atomic_load_explicit(&log->synced, memory_order_acquire);
}

static int file_sync(struct mc_store_log *log, struct log_file *f, size_t to)
{
	size_t from = f->synced & ~(size_t)(LOG_PAGE - 1);

	if (f->synced == to)
		return 0;
	/* The first time the file's own existence goes along. */
	if (!f->synced && (fsync(f->fd) < 0 || fsync(log->dir_fd) < 0))
		return -errno;
	if (msync(f->map + from, to - from, MS_SYNC) < 0)
		return -errno;
	f->synced = to;
	return 0;
}

/* All that was appended before the call.  Only this thread syncs; drop is kept out by sync_lock. */
static int sync_all(struct mc_store_log *log)
{
	struct log_file *f, *last;
	uint64_t seq;
	size_t used;
	int r = 0;

	pthread_mutex_lock(&log->sync_lock);
	pthread_mutex_lock(&log->lock);
	seq = atomic_load(&log->last);
	f = log->files;
	last = log->tail;
	used = last ? last->used : 0;
	pthread_mutex_unlock(&log->lock);
	/* Those before the tail do not change; behind it others may join the list meanwhile. */
	for (; last && r == 0; f = f->next) {
		r = file_sync(log, f, f == last ? used : f->used);
		if (f == last)
			break;
	}
	pthread_mutex_unlock(&log->sync_lock);
	if (r == 0)
		atomic_store_explicit(&log->synced, seq, memory_order_release);
	return r;
}

/* Without the lock: a full file is found to be so before its next one is needed.  That it fails is told to who
 * appends, who tries again. */
static struct log_file *spare_make(struct mc_store_log *log, uint64_t number)
{
	struct log_file *f = NULL;

	pthread_mutex_unlock(&log->lock);
	file_make(log, number, &f);
	pthread_mutex_lock(&log->lock);
	return f;
}

static bool wants_spare(const struct mc_store_log *log)
{
	return !log->spare && log->tail && log->tail->used > log->tail->bytes / 2 && log->spare_tried != log->tail;
}

static void spare_prepare(struct mc_store_log *log)
{
	uint64_t number = log->next_number;
	struct log_file *f;

	log->spare_tried = log->tail;
	/* Who appends meanwhile and needs one makes the one behind it. */
	log->next_number = number + 1;
	f = spare_make(log, number);
	if (f && log->tail == log->spare_tried)
		log->spare = f;
	else if (f)
		mc_store_log_file_remove(log, f);
}

static void *syncer(void *arg)
{
	struct mc_store_log *log = arg;

	pthread_mutex_lock(&log->lock);
	while (!log->closing) {
		if (log->wanted > atomic_load(&log->synced) && !log->failed) {
			int r;

			pthread_mutex_unlock(&log->lock);
			r = sync_all(log);
			pthread_mutex_lock(&log->lock);
			if (r < 0)
				log->failed = r;
			pthread_cond_broadcast(&log->done);
		} else if (wants_spare(log)) {
			spare_prepare(log);
		} else {
			pthread_cond_wait(&log->wake, &log->lock);
		}
	}
	pthread_mutex_unlock(&log->lock);
	return NULL;
}

static void want_locked(struct mc_store_log *log, uint64_t seq)
{
	if (seq <= log->wanted)
		return;
	log->wanted = seq;
	pthread_cond_signal(&log->wake);
}

void mc_store_log_want(struct mc_store_log *log, uint64_t seq)
{
	if (seq <= mc_store_log_synced(log))
		return;
	pthread_mutex_lock(&log->lock);
	want_locked(log, seq);
	pthread_mutex_unlock(&log->lock);
}

static struct timespec after(uint64_t span_ns)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	if (span_ns > (uint64_t)3600 * 24 * MC_SEC)
		span_ns = (uint64_t)3600 * 24 * MC_SEC;
	ts.tv_sec += (time_t)(span_ns / MC_SEC);
	ts.tv_nsec += (long)(span_ns % MC_SEC);
	if (ts.tv_nsec >= (long)MC_SEC) {
		ts.tv_sec++;
		ts.tv_nsec -= (long)MC_SEC;
	}
	return ts;
}

int mc_store_log_wait(struct mc_store_log *log, uint64_t seq, uint64_t timeout_ns)
{
	struct timespec until = after(timeout_ns);
	int r = 0;

	pthread_mutex_lock(&log->lock);
	want_locked(log, seq);
	while (atomic_load(&log->synced) < seq && !log->failed && r == 0)
		r = -pthread_cond_timedwait(&log->done, &log->lock, &until);
	if (atomic_load(&log->synced) >= seq)
		r = 0;
	else if (log->failed)
		r = log->failed;
	pthread_mutex_unlock(&log->lock);
	return r;
}

/* ---- reading and dropping --------------------------------------------------------------------- */

int mc_store_log_record(const struct log_file *f, size_t offset, uint64_t seq, struct mc_store_record *rec)
{
	const unsigned char *at = f->map + offset;
	unsigned char head[16];
	uint32_t len;

	if (offset > f->bytes || f->bytes - offset < LOG_RECORD_HEAD)
		return -ENODATA;
	len = MC_LE32(__atomic_load_n((const uint32_t *)(const void *)at, __ATOMIC_ACQUIRE));
	if (len == 0 || len - 1 > MC_STORE_LOG_PAYLOAD_MAX || record_bytes(len - 1) > f->bytes - offset)
		return -ENODATA;
	mc_put32(head, len);
	memcpy(head + 4, at + 4, sizeof head - 4);
	len--;
	if (mc_get64(head + 8) != seq || mc_get32(at + 16) != mc_store_log_hash(head, at + LOG_RECORD_HEAD, len))
		return -ENODATA;
	*rec = (struct mc_store_record){.type = mc_get16(head + 4),
					.version = mc_get16(head + 6),
					.len = len,
					.payload = at + LOG_RECORD_HEAD,
					.seq = seq};
	return 0;
}

int mc_store_log_read_file(const struct log_file *f, struct mc_store_log_at *at, uint64_t last,
			   mc_store_log_each each, void *ctx)
{
	struct mc_store_record rec;
	int r;

	while (at->seq <= last && mc_store_log_record(f, at->offset, at->seq, &rec) == 0) {
		at->offset += record_bytes(rec.len);
		at->seq++;
		r = each(ctx, &rec, at);
		if (r != 0)
			return r;
	}
	return 0;
}

/* The file that a place lies in, or the first one behind it. */
static struct log_file *file_at(struct mc_store_log *log, uint64_t number)
{
	struct log_file *f;

	pthread_mutex_lock(&log->lock);
	for (f = log->files; f && f->number < number; f = f->next)
		;
	pthread_mutex_unlock(&log->lock);
	return f;
}

int mc_store_log_read(struct mc_store_log *log, struct mc_store_log_at *at, mc_store_log_each each, void *ctx)
{
	uint64_t last = mc_store_log_last(log);
	int r = 0;

	while (r == 0 && at->seq <= last) {
		struct log_file *f = file_at(log, at->file);

		if (!f)
			return -EBADMSG;
		if (f->number != at->file) {
			at->file = f->number;
			at->offset = LOG_FILE_HEAD;
		}
		r = mc_store_log_read_file(f, at, last, each, ctx);
		if (r == 0 && at->seq <= last) {
			at->file++;
			at->offset = LOG_FILE_HEAD;
		}
	}
	return r;
}

void mc_store_log_file_remove(struct mc_store_log *log, struct log_file *f)
{
	char path[LOG_PATH_MAX];

	mc_store_log_path(log, f->number, path, sizeof path);
	unlink(path);
	mc_store_log_file_free(f);
}

void mc_store_log_drop(struct mc_store_log *log, const struct mc_store_log_at *at)
{
	struct log_file *f;

	pthread_mutex_lock(&log->sync_lock);
	for (;;) {
		pthread_mutex_lock(&log->lock);
		f = log->files;
		if (f && f != log->tail && f->number < at->file) {
			DL_DELETE(log->files, f);
			log->nr_files--;
		} else {
			f = NULL;
		}
		pthread_mutex_unlock(&log->lock);
		if (!f)
			break;
		mc_store_log_file_remove(log, f);
	}
	pthread_mutex_unlock(&log->sync_lock);
}

uint64_t mc_store_log_files(const struct mc_store_log *log)
{
	struct mc_store_log *l = (struct mc_store_log *)log;
	uint64_t nr;

	pthread_mutex_lock(&l->lock);
	nr = l->nr_files;
	pthread_mutex_unlock(&l->lock);
	return nr;
}

/* ---- the thread ----------------------------------------------------------------------------- */

int mc_store_log_start(struct mc_store_log *log)
{
	int r = -pthread_create(&log->thread, NULL, syncer, log);

	log->started = r == 0;
	return r;
}

void mc_store_log_close(struct mc_store_log *log)
{
	struct log_file *f, *next;

	if (!log)
		return;
	if (log->started) {
		pthread_mutex_lock(&log->lock);
		log->closing = true;
		pthread_cond_signal(&log->wake);
		pthread_mutex_unlock(&log->lock);
		pthread_join(log->thread, NULL);
		sync_all(log);
	}
	if (log->spare)
		mc_store_log_file_remove(log, log->spare);
	DL_FOREACH_SAFE(log->files, f, next)
		mc_store_log_file_free(f);
	if (log->dir_fd >= 0)
		close(log->dir_fd);
	if (log->lock_fd >= 0)
		close(log->lock_fd);
	pthread_cond_destroy(&log->wake);
	pthread_cond_destroy(&log->done);
	pthread_mutex_destroy(&log->lock);
	pthread_mutex_destroy(&log->sync_lock);
	free(log->dir);
	free(log);
}
