/* SPDX-License-Identifier: Apache-2.0 */
/* What mooncake_master is told: on its command line, and below it in a file. */
#ifndef MC_MASTER_FLAGS_H
#define MC_MASTER_FLAGS_H

#include <mooncake/mooncake.h>

#include "master_state.h"

#define MASTER_PORT "50051"
#define MASTER_NAME "mooncake_master"

struct master_flags {
	struct mc_config *config; /* of the engine; not ours */
	const char *dir, *config_path, *config_file, *ready_file;
	uint64_t threads; /* 0: by the number of cores */
	bool help, helpfull, version;
	bool evict_soft_pinned;
	uint64_t set; /* bit per flag */
	struct mc_master_limits limits;
	char *texts;	   /* what the file says */
	struct yajl_val_s *tree; /* the same taken apart; flags point there */
};

/* Defaults of the engine's keys too, as long as nobody says otherwise.
 *   returns   0; -EINVAL: err says which flag, or where in the file; what reading the file gave */
int master_flags_parse(struct master_flags *flags, int argc, char **argv, struct mc_config *config, struct mc_error *err);
void master_flags_fini(struct master_flags *flags);
void master_help(FILE *f);
void master_help_full(FILE *f, const struct mc_config *config);

#endif
