/* SPDX-License-Identifier: Apache-2.0 */
/* A master of our own, as a child process with a metadata folder of its own: what is measured meets nobody else. */
#ifndef MC_STORE_CLI_OWN_H
#define MC_STORE_CLI_OWN_H

#include <mooncake/mooncake.h>

#include <sys/types.h>

#define MSC_OWN_FLAGS 16

struct msc_own {
	char dir[64]; /* temporary; "": none */
	pid_t pid;
};

/* Start one and wait until it serves; config's metadata_server is set to its own.
 *   program  its path; "": mooncake_master beside this program, else by PATH
 *   flags    of its command line, up to MSC_OWN_FLAGS, ended by NULL
 *   returns  0; -errno, and err says what it said */
int msc_own_start(struct msc_own *own, const char *program, const char *const *flags, struct mc_config *config,
		  struct mc_error *err);
/* End it and take its folder away. */
void msc_own_stop(struct msc_own *own);

#endif
