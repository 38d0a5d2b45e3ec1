/* SPDX-License-Identifier: Apache-2.0 */
/* What the master's state keeps: in a folder, or nowhere. */
#ifndef MC_MASTER_KEEP_H
#define MC_MASTER_KEEP_H

#include "master_state.h"

struct master_keep;

/* Load what the folder holds into the state, and be the sink of what follows.
 *   dir      "": nothing is kept
 *   returns  0; -EBUSY: another process has it; -EBADMSG, -ENOSPC, ... */
int master_keep_open(const char *dir, struct mc_master *state, struct master_keep **ret_keep, struct mc_error *err);
/* After the state's last change.  Accepts NULL. */
void master_keep_close(struct master_keep *keep);
struct mc_master_sink master_keep_sink(struct master_keep *keep);
/* Have all that was changed until now on the disk.  0; -ETIMEDOUT, -EIO, ... */
int master_keep_sync(struct master_keep *keep, uint64_t timeout_ns, struct mc_error *err);

/* Now and then, from one thread: say that changes cannot be written (what clients are told is one -errno), and that they
 * can again. */
void master_keep_watch(struct master_keep *keep, const char *dir);

struct master_keep_stats {
	struct mc_store_disk_stats disk;
	uint64_t nr_loaded, nr_broken; /* values, at the start */
	uint64_t last, synced;	       /* changes */
	double load_s;
	bool kept; /* there is a folder */
};
void master_keep_stats(struct master_keep *keep, struct master_keep_stats *stats);

#endif
