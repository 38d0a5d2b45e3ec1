/* SPDX-License-Identifier: Apache-2.0 */
/* What the verbs of mooncake_store share. */
#ifndef MC_STORE_CLI_PROGRAM_H
#define MC_STORE_CLI_PROGRAM_H

#include <mooncake/mooncake.h>
#include <mooncake/store.h>

#include "flags.h"

#define MSC_OPEN_NS (30 * MC_SEC)
#define MSC_CLOSE_NS (3 * MC_SEC) /* each of the steps of an end */
#define MSC_MEMORY_NS (60 * MC_SEC)

/* The verbs: exit codes. */
int msc_serve(const struct msc_options *o, struct mc_config *config);
int msc_put(const struct msc_options *o, struct mc_config *config);
int msc_get(const struct msc_options *o, struct mc_config *config);
int msc_rm(const struct msc_options *o, struct mc_config *config);
int msc_ls(const struct msc_options *o, struct mc_config *config);
int msc_stat(const struct msc_options *o, struct mc_config *config);
int msc_bench(const struct msc_options *o, struct mc_config *config);
int msc_replay(const struct msc_options *o, struct mc_config *config); /* bench --trace */

struct msc_session {
	struct mc_engine *engine;
	struct mc_store *store;
	bool usage; /* it was not opened for a mistake of the user's: exit code 2 */
};

/* aside: nobody looks for this engine by name.  Undo with msc_session_close, also on error. */
int msc_session_open(struct msc_session *s, const struct msc_options *o, struct mc_config *config, bool aside,
		     struct mc_error *err);
void msc_session_close(struct msc_session *s);

uint64_t msc_timeout(const struct msc_options *o);
uint64_t msc_now_ns(void);
/* A sentence on stderr, and with --json an object on stdout; returns the exit code. */
int msc_fail(const struct msc_options *o, const struct msc_session *s, const struct mc_error *err);
/* A key, which may be any bytes: as a member of a JSON object, "key" or what is no text as "key_hex", or for a terminal. */
void msc_print_key(const void *key, size_t len, bool json);

#endif
