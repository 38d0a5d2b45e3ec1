/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a get writes: beside the place that was named, under a name of its own,
 * ".NAME.HASH.mc-part", until all is there and verified.  HASH is of the object's root hash, so
 * work that was interrupted is found again by the same get and by no other.
 */
#ifndef MC_P2P_CLI_TARGET_H
#define MC_P2P_CLI_TARGET_H

#include "manifest.h"
#include "map.h"

struct p2pc_target {
	char *path; /* what appears in the end */
	char *part; /* what is written till then */
	char *base; /* last parts of both */
	char *part_base;
	int parent_fd;
	int part_fd;  /* locked */
	bool resumed; /* the part was there already */
	bool force;
	const struct p2pc_manifest *manifest; /* borrowed */
	struct p2pc_map map;
};

/* Find the place, refuse what cannot be written, take the room on the disk, map it.
 *   out       -o; "": the name in the working folder
 *   object    its name
 *   root      its root hash, hex
 *   returns   0; -EEXIST, -ENOSPC, -EBUSY (another process is at it), ...: err says it, and nothing new is left */
int p2pc_target_open(struct p2pc_target *t, const char *out, const char *object, const struct p2pc_manifest *m,
		     const char *root, bool force, struct mc_error *err);
/* All is verified: modes, disk (sync), and it appears in one step. */
int p2pc_target_finish(struct p2pc_target *t, bool sync, struct mc_error *err);
/* keep: what is written is left for the next get, unless it has appeared. */
void p2pc_target_close(struct p2pc_target *t, bool keep);

#endif
