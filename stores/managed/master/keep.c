/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state's sink over store_disk.h.  Without a folder changes are numbered and
 * forgotten: they are as good as on a disk at once.
 */
#include "keep.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cli/program/tell.h>
#include <core/util/check.h>

#define TELL_BROKEN 5 /* values one by one; of more the number */

struct master_keep {
	struct mc_store_disk *disk; /* NULL: nothing is kept */
	struct mc_master *state;
	atomic_ullong seq; /* without a disk */
	uint64_t nr_loaded, nr_broken;
	double load_s, told_s;
	atomic_int refused; /* -errno of the last append */
	int told;           /* of the thread that watches */
};

static double seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* ---- loading ----------------------------------------------------------------------------------- */

static int load(void *ctx, uint16_t table, uint64_t id, const void *value, size_t len)
{
	struct master_keep *keep = ctx;
	struct mc_error err = {0};
	char line[80];
	int r = mc_master_load(keep->state, table, id, value, len, &err);

	if (r == -EBADMSG) {
		if (keep->nr_broken++ < TELL_BROKEN)
			mc_tell("warning: a value that was kept is left out: %s", err.text);
		return 0;
	}
	if (r < 0)
		return r;
	keep->nr_loaded++;
	if (keep->nr_loaded % 65536 == 0 && mc_tell_progress_on() && seconds() - keep->told_s > 0.2) {
		keep->told_s = seconds();
		snprintf(line, sizeof line, "loading: %" PRIu64 " values", keep->nr_loaded);
		mc_tell_progress(line);
	}
	return 0;
}

int master_keep_open(const char *dir, struct mc_master *state, struct master_keep **ret_keep, struct mc_error *err)
{
	struct master_keep *keep = calloc(1, sizeof *keep);
	double begin = seconds();
	int r;

	if (!keep)
		return mc_fail(err, -ENOMEM, "folder '%s': out of memory", dir);
	keep->state = state;
	keep->told_s = begin;
	if (*dir) {
		err->text[0] = '\0';
		r = mc_store_disk_open(dir, NULL, load, keep, &keep->disk, err);
		mc_tell_progress_end();
		if (r < 0) {
			free(keep);
			return *err->text ? r : mc_fail(err, r, "folder '%s': loading it: %s", dir, strerror(-r));
		}
	}
	keep->load_s = seconds() - begin;
	if (keep->nr_broken > TELL_BROKEN)
		mc_tell("warning: %" PRIu64 " values that were kept are left out", keep->nr_broken);
	*ret_keep = keep;
	return 0;
}

void master_keep_close(struct master_keep *keep)
{
	if (keep)
		mc_store_disk_close(keep->disk);
	free(keep);
}

/* ---- the sink ---------------------------------------------------------------------------------- */

static int disk_append(void *ctx, struct mc_store_change *changes, size_t nr)
{
	struct master_keep *keep = ctx;
	int r = mc_store_disk_append(keep->disk, changes, nr);

	if (r != atomic_load_explicit(&keep->refused, memory_order_relaxed))
		atomic_store_explicit(&keep->refused, r, memory_order_relaxed);
	return r;
}

static uint64_t disk_synced(void *ctx)
{
	return mc_store_disk_synced(((struct master_keep *)ctx)->disk);
}

static void disk_want(void *ctx, uint64_t seq)
{
	mc_store_disk_want(((struct master_keep *)ctx)->disk, seq);
}

static int nowhere_append(void *ctx, struct mc_store_change *changes, size_t nr)
{
	struct master_keep *keep = ctx;
	uint64_t seq = atomic_fetch_add(&keep->seq, nr);

	for (size_t i = 0; i < nr; i++)
		changes[i].seq = seq + i + 1;
	return 0;
}

static uint64_t nowhere_synced(void *ctx)
{
	return atomic_load(&((struct master_keep *)ctx)->seq);
}

static void nowhere_want(void *ctx, uint64_t seq)
{
	(void)ctx;
	(void)seq;
}

struct mc_master_sink master_keep_sink(struct master_keep *keep)
{
	return keep->disk ? (struct mc_master_sink){disk_append, disk_synced, disk_want, keep}
			  : (struct mc_master_sink){nowhere_append, nowhere_synced, nowhere_want, keep};
}

int master_keep_sync(struct master_keep *keep, uint64_t timeout_ns, struct mc_error *err)
{
	int r = keep->disk ? mc_store_disk_wait(keep->disk, mc_store_disk_last(keep->disk), timeout_ns) : 0;

	return r < 0 ? mc_fail(err, r, "folder of the log: what was written did not come to the disk: %s", strerror(-r)) : 0;
}

void master_keep_watch(struct master_keep *keep, const char *dir)
{
	struct mc_store_disk_stats stats = {0};
	int r;

	if (!keep->disk)
		return;
	mc_store_disk_stats(keep->disk, &stats);
	r = atomic_load_explicit(&keep->refused, memory_order_relaxed);
	r = r < 0 ? r : MC_MIN(stats.failed, 0);
	if (r == keep->told)
		return;
	if (r < 0)
		mc_tell("warning: folder '%s': what changes cannot be written there: %s; puts fail, now or soon, until it can%s", dir,
			strerror(-r), r == -ENOSPC ? ": make room" : "");
	else
		mc_tell("folder '%s': what changes is written there again", dir);
	keep->told = r;
}

void master_keep_stats(struct master_keep *keep, struct master_keep_stats *stats)
{
	*stats = (struct master_keep_stats){.nr_loaded = keep->nr_loaded,
					    .nr_broken = keep->nr_broken,
					    .load_s = keep->load_s,
					    .kept = keep->disk};
	if (!keep->disk) {
		stats->last = stats->synced = atomic_load(&keep->seq);
		return;
	}
	mc_store_disk_stats(keep->disk, &stats->disk);
	stats->last = mc_store_disk_last(keep->disk);
	stats->synced = mc_store_disk_synced(keep->disk);
}
