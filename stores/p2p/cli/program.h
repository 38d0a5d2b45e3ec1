/* SPDX-License-Identifier: Apache-2.0 */
/* What the verbs of mooncake_p2p share: engine and store, telling, progress. */
#ifndef MC_P2P_CLI_PROGRAM_H
#define MC_P2P_CLI_PROGRAM_H

#include <mooncake/mooncake.h>
#include <mooncake/p2p_store.h>

#include <pthread.h>

#include "flags.h"
#include "map.h"

#define P2PC_OPEN_NS (30 * MC_SEC)
#define P2PC_ASK_NS (30 * MC_SEC)  /* metadata, unless --timeout says otherwise */
#define P2PC_MEMORY_NS (60 * MC_SEC)
#define P2PC_CLOSE_NS (3 * MC_SEC) /* each of the steps of an end */

/* The verbs: exit codes. */
int p2pc_serve(const struct p2pc_options *o, struct mc_config *config);
int p2pc_get(const struct p2pc_options *o, struct mc_config *config);
int p2pc_ls(const struct p2pc_options *o, struct mc_config *config);
int p2pc_stat(const struct p2pc_options *o, struct mc_config *config);
int p2pc_rm(const struct p2pc_options *o, struct mc_config *config);
int p2pc_trainer(const struct p2pc_options *o, struct mc_config *config);
int p2pc_inferencer(const struct p2pc_options *o, struct mc_config *config);

/* ---- engine and store ------------------------------------------------------------------------ */

struct p2pc_session {
	struct mc_engine *engine;
	struct mc_p2p *store;
	bool usage; /* it was not opened for a mistake of the user's: exit code 2 */
	_Atomic(const struct p2pc_map *) filling; /* what a get writes to; a cut file of it explains all that fails */
	pthread_mutex_t lock;
	char **removed; /* under lock: what the store said of objects that somebody removed */
	size_t nr_removed;
};

/* aside: nobody looks for this engine by name, so that it takes any port and a name of its own unless they were
 * given.  Undo with p2pc_session_close, also on error. */
int p2pc_session_open(struct p2pc_session *s, const struct p2pc_options *o, struct mc_config *config, bool aside,
		      struct mc_error *err);
void p2pc_session_close(struct p2pc_session *s);
/* Has somebody removed this object for all?  Said once, as a note.  *code: also set where another has taken its name. */
bool p2pc_session_removed(struct p2pc_session *s, const char *name, int *code);

/* Files that lie beside each other are registered as one buffer, so that peers hear of one and not of thousands;
 * ranges in it, which the store registers, are then counted only.  Undo with p2pc_session_release. */
int p2pc_session_hold(struct p2pc_session *s, struct p2pc_map *map, struct mc_error *err);
void p2pc_session_release(struct p2pc_session *s, const struct p2pc_map *map);

/* --timeout, or fallback; in nanoseconds. */
uint64_t p2pc_timeout(const struct p2pc_options *o, uint64_t fallback_ns);
uint64_t p2pc_patience(const struct p2pc_options *o); /* nanoseconds */

/* ---- telling ---------------------------------------------------------------------------------- */

/* A sentence on stderr, and with --json an object on stdout; returns the exit code. */
int p2pc_tell_error(const struct p2pc_options *o, const char *sentence, int code);

/* ---- progress: a line on stderr if that is a terminal ------------------------------------------ */

#define P2PC_RATE_POINTS 16
struct p2pc_progress {
	bool on;
	const char *name;
	struct {
		uint64_t at_ns, len;
	} points[P2PC_RATE_POINTS];
	unsigned nr; /* of points ever taken */
};

void p2pc_progress_init(struct p2pc_progress *p, const char *name, bool quiet);
void p2pc_progress_show(struct p2pc_progress *p, const struct mc_p2p_progress *now);
/* Another line, such as "waiting for 'x'". */
void p2pc_progress_text(struct p2pc_progress *p, const char *fmt, ...) MC_PRINTF(2, 3);
/* The line itself, for a terminal of so many columns.  at_ns: the clock's. */
void p2pc_progress_line(struct p2pc_progress *p, const struct mc_p2p_progress *now, uint64_t at_ns, size_t columns,
			char *buf, size_t cap);

#endif
