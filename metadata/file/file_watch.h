/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What file_watch.c (the control loop's part) and file_scan.c (the helper's part)
 * share: watches, their tables, and the object that both threads know.
 */
#ifndef MC_FILE_WATCH_H
#define MC_FILE_WATCH_H

#include <time.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#include "file.h"

/* What a watch reported last about one file. */
struct entry {
	char *key;
	uint64_t revision; /* 0: damaged, nothing was reported */
	uint64_t lease;
	uint64_t seen; /* number of the last scan that found it */
	ino_t ino;
	struct timespec mtime;
	bool young;
	UT_hash_handle hh;
	char name[];
};

struct file_wstate {
	struct file_wstate *next; /* of ctl->watches */
	unsigned refs;		  /* [mx] */
	bool dead;		  /* [mx] unwatched: nothing more is reported */
	bool emitting;		  /* [mx] a kv_event of it is under way, on ctl->emitter */
	void *user;		  /* what the host calls the watch */
	char *prefix;
	size_t prefix_len;
	/* Of whoever scans: watch() before it is listed, then one scan at a time. */
	struct entry *entries;
	uint64_t scan_nr;
	/* The directory's time stamp when all of it was looked at; tv_sec 0: look again. */
	struct timespec dir_mtime;
};

/*
 * Shared by the instance and by work that is queued at the host, which may come
 * back after close: hence a heap object with a count.
 */
struct file_ctl {
	const struct mc_host *host; /* not used once stopped */
	/* Guards all below but the host's structs; held for a few instructions, so that the
	 * control loop may take it. */
	pthread_mutex_t mx;
	pthread_cond_t cond;
	unsigned refs;
	struct file_inst *inst; /* NULL: closed */
	int closing;		/* atomic too, for long scans */
	bool stopped;		/* the control loop let go of fd and timer */
	bool queued, running;	/* the one scan: at the host, at work */
	bool again, full, sweep;
	bool kicked; /* kick is posted */
	uint64_t interval_ns, lease_due_ns;
	struct file_wstate *watches;
	pthread_t emitter;
	int fd, wd; /* inotify; -1: none, the ticks must do */
	struct mc_watch fd_watch;
	struct mc_timer timer;
	struct mc_work scan, kick, stop;
};

/* Look at all names for one watch, unless the directory says that none changed.  c NULL: report
 * nothing (the baseline of a new watch).  [helper] */
int file_scan_watch(struct file_inst *f, struct file_ctl *c, struct file_wstate *ws);
/* One turn: own leases, inotify events, all names if `full`, the sweep.  [helper] */
void file_scan(struct file_inst *f, struct file_ctl *c, bool full, bool sweep);
/* [mx] */
void file_wstate_unref(struct file_wstate *ws);

#endif
