/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tables over a log and a database.  A record is one change: type 1 sets, type 2
 * removes; payload: 0 u16 table, 2 u16 zero, 4 u32 zero, 8 u64 id, 16 value.  The
 * database has `values`, by table and id, and `at`, the place in the log that it
 * has come to; both change in one transaction, so folding may end anywhere.
 */
#include "store_disk.h"

#include <errno.h>
#include <lmdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "store_log.h"
#include "core/util/bytes.h"
#include "core/util/check.h"

#define CHANGE_HEAD 16
#define KEY_LEN 10 /* table, id: big-endian, so that they lie in their order */
#define AT_LEN 24
#define FORMAT 1u
#define MAP_STEP ((size_t)1 << 30) /* of addresses, not of the disk */

enum { CHANGE_SET = 1, CHANGE_GONE = 2 };

struct mc_store_disk {
	struct mc_store_log *log;
	struct mc_store_disk_options options;
	MDB_env *env;
	MDB_dbi values, meta;
	size_t map_size;

	/* Of the thread that folds; before it, of open. */
	struct mc_store_log_at at;
	MDB_txn *txn;
	uint32_t in_txn;
	int fold_error; /* of MDB, inside a transaction */

	pthread_mutex_t lock; /* guards closing */
	pthread_cond_t wake;
	pthread_t thread;
	bool closing, started;
	_Atomic uint64_t folded;
	atomic_int failed;
};

/* LMDB's own errors are positive as errno, or negative. */
static int errno_of(int r)
{
	if (r == 0)
		return 0;
	return r > 0 ? -r : r == MDB_MAP_FULL ? -ENOSPC : -EBADMSG;
}

/* ---- folding ------------------------------------------------------------------------------ */

static void key_put(unsigned char *key, uint16_t table, uint64_t id)
{
	uint64_t big = __builtin_bswap64(MC_LE64(id));

	key[0] = (unsigned char)(table >> 8);
	key[1] = (unsigned char)table;
	memcpy(key + 2, &big, sizeof big);
}

static int at_write(struct mc_store_disk *d)
{
	unsigned char at[AT_LEN];
	MDB_val key = {.mv_size = 2, .mv_data = "at"}, val = {.mv_size = sizeof at, .mv_data = at};

	mc_put64(at, d->at.file);
	mc_put64(at + 8, d->at.offset);
	mc_put64(at + 16, d->at.seq);
	return mdb_put(d->txn, d->meta, &key, &val, 0);
}

/* One record into the transaction.  A record that is no change is passed over: a later version has written it. */
static int fold_one(void *ctx, const struct mc_store_record *rec, const struct mc_store_log_at *next)
{
	struct mc_store_disk *d = ctx;
	const unsigned char *p = rec->payload;
	unsigned char key_bytes[KEY_LEN];
	MDB_val key = {.mv_size = sizeof key_bytes, .mv_data = key_bytes}, val;
	int r = 0;

	if (rec->len >= CHANGE_HEAD && (rec->type == CHANGE_SET || rec->type == CHANGE_GONE)) {
		key_put(key_bytes, mc_get16(p), mc_get64(p + 8));
		val = (MDB_val){.mv_size = rec->len - CHANGE_HEAD, .mv_data = (void *)(p + CHANGE_HEAD)};
		r = rec->type == CHANGE_SET ? mdb_put(d->txn, d->values, &key, &val, 0) :
					      mdb_del(d->txn, d->values, &key, NULL);
		if (r == MDB_NOTFOUND)
			r = 0;
	}
	if (r != 0) {
		d->fold_error = r;
		return 1;
	}
	d->at = *next;
	return ++d->in_txn == d->options.fold_records ? 1 : 0;
}

/* One transaction.  0: nothing is left; 1: there may be more; -errno: nothing has changed. */
static int fold_some(struct mc_store_disk *d)
{
	struct mc_store_log_at before = d->at;
	int r = mdb_txn_begin(d->env, NULL, 0, &d->txn), more;

	if (r != 0)
		return errno_of(r);
	d->in_txn = 0;
	d->fold_error = 0;
	more = mc_store_log_read(d->log, &d->at, fold_one, d);
	r = more < 0 ? more : d->fold_error;
	if (r == 0 && d->in_txn)
		r = at_write(d);
	if (r == 0 && d->in_txn) {
		r = mdb_txn_commit(d->txn);
	} else {
		mdb_txn_abort(d->txn);
	}
	if (r != 0) {
		d->at = before;
		return more < 0 ? more : r == MDB_MAP_FULL ? -EFBIG : errno_of(r);
	}
	atomic_store(&d->folded, d->at.seq - 1);
	if (d->in_txn)
		mc_store_log_drop(d->log, &d->at);
	return more;
}

/* All that there is. */
static int fold(struct mc_store_disk *d)
{
	int r;

	do {
		r = fold_some(d);
		if (r == -EFBIG) {
			d->map_size += MAP_STEP;
			r = errno_of(mdb_env_set_mapsize(d->env, d->map_size));
			r = r < 0 ? r : 1;
		}
	} while (r == 1);
	atomic_store(&d->failed, r);
	return r;
}

static void *folder(void *arg)
{
	struct mc_store_disk *d = arg;
	struct timespec ts;
	uint64_t next;

	pthread_mutex_lock(&d->lock);
	while (!d->closing) {
		clock_gettime(CLOCK_MONOTONIC, &ts);
		next = (uint64_t)ts.tv_sec * MC_SEC + (uint64_t)ts.tv_nsec + d->options.fold_ns;
		ts = (struct timespec){.tv_sec = (time_t)(next / MC_SEC), .tv_nsec = (long)(next % MC_SEC)};
		pthread_cond_timedwait(&d->wake, &d->lock, &ts);
		if (mc_store_log_last(d->log) == atomic_load(&d->folded))
			continue;
		pthread_mutex_unlock(&d->lock);
		fold(d);
		pthread_mutex_lock(&d->lock);
	}
	pthread_mutex_unlock(&d->lock);
	return NULL;
}

/* ---- open --------------------------------------------------------------------------------- */

static int fail(struct mc_error *err, const char *dir, const char *what, int mdb)
{
	int r = errno_of(mdb);

	return mc_fail(err, r, "store '%s': its database %s: %s%s", dir, what, mdb_strerror(mdb),
		       r == -EBADMSG ? "; move the folder away if the store may begin anew" : "");
}

/* LMDB maps the file and reads where its pages should be: what is missing at its end must be a hole, a wrong page, and not
 * SIGBUS.  A sound file may be shorter than its pages: the last ones are not written when they are free. */
static int database_whole(MDB_env *env)
{
	MDB_envinfo info;
	struct stat st;
	MDB_stat pages;
	uint64_t size;
	int fd, r = mdb_env_get_fd(env, &fd);

	if (r == 0)
		r = mdb_env_info(env, &info);
	if (r == 0)
		r = mdb_env_stat(env, &pages);
	if (r != 0)
		return r;
	size = ((uint64_t)info.me_last_pgno + 1) * pages.ms_psize;
	if (fstat(fd, &st) < 0 || ((uint64_t)st.st_size < size && ftruncate(fd, (off_t)size) < 0))
		return errno;
	return 0;
}

static int tables_open(struct mc_store_disk *d)
{
	MDB_txn *txn;
	int r = mdb_txn_begin(d->env, NULL, 0, &txn);

	if (r != 0)
		return r;
	r = mdb_dbi_open(txn, "values", MDB_CREATE, &d->values);
	if (r == 0)
		r = mdb_dbi_open(txn, "meta", MDB_CREATE, &d->meta);
	if (r == 0)
		return mdb_txn_commit(txn);
	mdb_txn_abort(txn);
	return r;
}

/* Where the database has come to in the log; *ret_any false: it is new. */
static int at_read(struct mc_store_disk *d, bool *ret_any)
{
	MDB_val key = {.mv_size = 6, .mv_data = "format"}, val;
	unsigned char format[4];
	MDB_txn *txn;
	int r = mdb_txn_begin(d->env, NULL, 0, &txn);

	if (r != 0)
		return r;
	*ret_any = false;
	r = mdb_get(txn, d->meta, &key, &val);
	if (r == MDB_NOTFOUND) {
		mc_put32(format, FORMAT);
		val = (MDB_val){.mv_size = sizeof format, .mv_data = format};
		r = mdb_put(txn, d->meta, &key, &val, 0);
	} else if (r == 0 && (val.mv_size != 4 || mc_get32(val.mv_data) != FORMAT)) {
		r = MDB_VERSION_MISMATCH;
	}
	key = (MDB_val){.mv_size = 2, .mv_data = "at"};
	if (r == 0 && mdb_get(txn, d->meta, &key, &val) == 0) {
		const unsigned char *p = val.mv_data;

		*ret_any = val.mv_size == AT_LEN;
		if (*ret_any)
			d->at = (struct mc_store_log_at){mc_get64(p), mc_get64(p + 8), mc_get64(p + 16)};
	}
	if (r == 0)
		return mdb_txn_commit(txn);
	mdb_txn_abort(txn);
	return r;
}

static int database_open(struct mc_store_disk *d, const char *dir, bool *ret_any, struct mc_error *err)
{
	char path[4200];
	struct stat st;
	int r = mdb_env_create(&d->env);

	if (r != 0)
		return fail(err, dir, "cannot be made", r);
	snprintf(path, sizeof path, "%s/fold.mdb", dir);
	d->map_size = MAP_STEP;
	if (stat(path, &st) == 0)
		d->map_size += (size_t)st.st_size / MAP_STEP * MAP_STEP;
	mdb_env_set_maxdbs(d->env, 2);
	mdb_env_set_mapsize(d->env, d->map_size);
	r = mdb_env_open(d->env, path, MDB_NOSUBDIR | MDB_NOTLS, 0600);
	if (r == 0)
		r = database_whole(d->env);
	if (r == 0)
		r = tables_open(d);
	if (r == 0)
		r = at_read(d, ret_any);
	return r ? fail(err, dir, "cannot be opened", r) : 0;
}

static int tell_all(struct mc_store_disk *d, const char *dir, mc_store_disk_each each, void *ctx, struct mc_error *err)
{
	MDB_cursor *cursor = NULL;
	MDB_val key, val;
	MDB_txn *txn;
	int r = mdb_txn_begin(d->env, NULL, MDB_RDONLY, &txn), told = 0;

	if (r != 0)
		return fail(err, dir, "cannot be read", r);
	r = mdb_cursor_open(txn, d->values, &cursor);
	while (r == 0 && told >= 0 && (r = mdb_cursor_get(cursor, &key, &val, MDB_NEXT)) == 0) {
		const unsigned char *p = key.mv_data;
		uint64_t id;

		if (key.mv_size != KEY_LEN) {
			r = MDB_CORRUPTED;
			break;
		}
		memcpy(&id, p + 2, sizeof id);
		told = each(ctx, (uint16_t)(p[0] << 8 | p[1]), MC_LE64(__builtin_bswap64(id)), val.mv_data, val.mv_size);
	}
	if (cursor)
		mdb_cursor_close(cursor);
	mdb_txn_abort(txn);
	if (told < 0)
		return told;
	return r == 0 || r == MDB_NOTFOUND ? 0 : fail(err, dir, "cannot be read", r);
}

static int pass(void *ctx, const struct mc_store_record *rec, const struct mc_store_log_at *next)
{
	return 0;
}

static struct mc_store_disk *disk_new(const struct mc_store_disk_options *options)
{
	struct mc_store_disk *d = calloc(1, sizeof *d);
	pthread_condattr_t attr;

	if (!d)
		return NULL;
	if (options)
		memcpy(&d->options, options, MC_MIN(options->size, sizeof d->options));
	if (!d->options.fold_ns)
		d->options.fold_ns = 100 * MC_MSEC;
	if (!d->options.fold_records)
		d->options.fold_records = 20000;
	pthread_mutex_init(&d->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&d->wake, &attr);
	pthread_condattr_destroy(&attr);
	return d;
}

int mc_store_disk_open(const char *dir, const struct mc_store_disk_options *options, mc_store_disk_each each, void *ctx,
		       struct mc_store_disk **ret_disk, struct mc_error *err)
{
	struct mc_store_disk *d = disk_new(options);
	bool any = false;
	int r;

	if (!d)
		return mc_fail(err, -ENOMEM, "store '%s': out of memory", dir);
	if (mkdir(dir, 0700) < 0 && errno != EEXIST) {
		r = mc_fail(err, -errno, "store '%s': the folder cannot be made: %s", dir, strerror(errno));
		goto fail;
	}
	r = database_open(d, dir, &any, err);
	if (r < 0)
		goto fail;
	r = mc_store_log_open(dir, d->options.file_bytes, any ? &d->at : NULL, pass, NULL, &d->log, err);
	if (r < 0)
		goto fail;
	if (!any)
		d->at = (struct mc_store_log_at){.file = 1, .offset = 64, .seq = 1};
	r = fold(d);
	if (r < 0) {
		mc_fail(err, r, "store '%s': the log cannot be folded into its database: %s", dir, strerror(-r));
		goto fail;
	}
	r = tell_all(d, dir, each, ctx, err);
	if (r < 0)
		goto fail;
	r = -pthread_create(&d->thread, NULL, folder, d);
	if (r < 0) {
		mc_fail(err, r, "store '%s': its thread cannot be started: %s", dir, strerror(-r));
		goto fail;
	}
	d->started = true;
	*ret_disk = d;
	return 0;
fail:
	mc_store_disk_close(d);
	return r;
}

void mc_store_disk_close(struct mc_store_disk *d)
{
	if (!d)
		return;
	if (d->started) {
		pthread_mutex_lock(&d->lock);
		d->closing = true;
		pthread_cond_signal(&d->wake);
		pthread_mutex_unlock(&d->lock);
		pthread_join(d->thread, NULL);
		fold(d);
	}
	mc_store_log_close(d->log);
	if (d->env)
		mdb_env_close(d->env);
	pthread_cond_destroy(&d->wake);
	pthread_mutex_destroy(&d->lock);
	free(d);
}

/* ---- changes ------------------------------------------------------------------------------ */

#define CHANGES_AT_ONCE 32

/* Up to CHANGES_AT_ONCE; room holds their payloads. */
static int append_some(struct mc_store_disk *d, struct mc_store_change *changes, size_t nr, unsigned char *room)
{
	struct mc_store_record records[CHANGES_AT_ONCE];
	int r;

	for (size_t i = 0; i < nr; i++) {
		const struct mc_store_change *c = &changes[i];
		uint32_t len = c->gone ? 0 : c->len;

		memset(room, 0, CHANGE_HEAD);
		mc_put16(room, c->table);
		mc_put64(room + 8, c->id);
		if (len)
			memcpy(room + CHANGE_HEAD, c->value, len);
		records[i] = (struct mc_store_record){.type = c->gone ? CHANGE_GONE : CHANGE_SET,
						      .version = FORMAT,
						      .len = CHANGE_HEAD + len,
						      .payload = room};
		room += CHANGE_HEAD + len;
	}
	r = mc_store_log_append(d->log, records, nr);
	for (size_t i = 0; r == 0 && i < nr; i++)
		changes[i].seq = records[i].seq;
	return r;
}

int mc_store_disk_append(struct mc_store_disk *d, struct mc_store_change *changes, size_t nr)
{
	unsigned char small[CHANGES_AT_ONCE * 256], *room = small;
	size_t done = 0;
	int r = 0;

	for (size_t i = 0; i < nr; i++) {
		if (changes[i].table >= MC_STORE_DISK_TABLES || changes[i].len > MC_STORE_DISK_VALUE_MAX)
			return -EINVAL;
	}
	for (size_t i = 0; i < nr; i++)
		changes[i].seq = 0;
	while (done < nr && r == 0) {
		size_t bytes = 0, some = 0;

		while (done + some < nr && some < CHANGES_AT_ONCE) {
			size_t more = CHANGE_HEAD + (changes[done + some].gone ? 0 : changes[done + some].len);

			if (some && bytes + more > sizeof small)
				break;
			bytes += more;
			some++;
		}
		room = bytes > sizeof small ? malloc(bytes) : small;
		if (!room)
			return -ENOMEM;
		r = append_some(d, changes + done, some, room);
		if (room != small)
			free(room);
		done += some;
	}
	return r;
}

uint64_t mc_store_disk_last(const struct mc_store_disk *d)
{
	return mc_store_log_last(d->log);
}

uint64_t mc_store_disk_synced(const struct mc_store_disk *d)
{
	return mc_store_log_synced(d->log);
}

void mc_store_disk_want(struct mc_store_disk *d, uint64_t seq)
{
	mc_store_log_want(d->log, seq);
}

int mc_store_disk_wait(struct mc_store_disk *d, uint64_t seq, uint64_t timeout_ns)
{
	return mc_store_log_wait(d->log, seq, timeout_ns);
}

void mc_store_disk_stats(struct mc_store_disk *d, struct mc_store_disk_stats *stats)
{
	MDB_envinfo info;
	MDB_stat st;

	*stats = (struct mc_store_disk_stats){.appended = mc_store_log_last(d->log),
					      .folded = atomic_load(&d->folded),
					      .log_files = mc_store_log_files(d->log),
					      .failed = atomic_load(&d->failed)};
	if (mdb_env_info(d->env, &info) == 0 && mdb_env_stat(d->env, &st) == 0)
		stats->database_bytes = ((uint64_t)info.me_last_pgno + 1) * st.ms_psize;
}
