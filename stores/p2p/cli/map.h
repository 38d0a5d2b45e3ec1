/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files as memory: those of an object one after the other in one stretch of addresses, each
 * from a page of its own, so that the engine registers them as one buffer.
 *
 * A file that others cut short while it is mapped gives SIGBUS where its bytes were.  Once
 * p2pc_map_guard has been called, such pages become zeros instead, which no getter takes for
 * the object's since shards are verified, and p2pc_map_look says what has happened.
 */
#ifndef MC_P2P_CLI_MAP_H
#define MC_P2P_CLI_MAP_H

#include <mooncake/p2p_store.h>

#include <sys/types.h>
#include <time.h>

struct p2pc_mapped {
	char *path; /* what people call it */
	dev_t dev;
	ino_t ino;
	uint64_t size;
	struct timespec mtime;
	size_t at; /* offset of its first byte in the stretch */
};

struct p2pc_map {
	uint8_t *base;
	size_t len, used;
	bool write;
	bool own; /* memory of its own that p2pc_map_store puts into the files; else the files' pages */
	struct p2pc_mapped *files;
	size_t nr, cap;
	struct mc_p2p_range *ranges; /* one per file */
	int slot;                    /* in the guard's table; -1: none */
};

/* Handle SIGBUS from now on.  Once, before threads. */
void p2pc_map_guard(void);

/* Reserve addresses for up to nr files of size bytes in all; p2pc_map_close undoes it. */
int p2pc_map_open(struct p2pc_map *m, size_t nr, uint64_t size, bool write, struct mc_error *err);
/* Map the size bytes (> 0) of an open file after those that are there; the descriptor stays the caller's. */
int p2pc_map_add(struct p2pc_map *m, int fd, const char *path, uint64_t size, struct mc_error *err);
/* All are there: the guard knows the map. */
int p2pc_map_seal(struct p2pc_map *m, struct mc_error *err);
/* For a device that may not have the files' pages: memory of its own at the same addresses, with what the files hold.
 * What is only read is a private mapping.  Nobody uses the map meanwhile.  0; -ESTALE: a file is another one by now;
 * the map is of no use then. */
int p2pc_map_detach(struct p2pc_map *m, struct mc_error *err);
/* Write such memory into the files, and with sync to the disk.  Nothing to do for others.  0, or -errno. */
int p2pc_map_store(const struct p2pc_map *m, bool sync, struct mc_error *err);
/* Has a file been changed or cut since it was mapped, or since the last p2pc_map_settle?  0; -ESTALE: err names it. */
int p2pc_map_look(const struct p2pc_map *m, struct mc_error *err);
/* Are all files as long as they were, so that what was written to the map is in them?  0; -ESTALE. */
int p2pc_map_whole(const struct p2pc_map *m, struct mc_error *err);
/* p2pc_map_store, and what we wrote is on the disk (fd: something open on their file system; -1: no need to be); read-only from now on. */
int p2pc_map_settle(struct p2pc_map *m, int fd, struct mc_error *err);
void p2pc_map_close(struct p2pc_map *m);

#endif
