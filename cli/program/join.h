/* SPDX-License-Identifier: Apache-2.0 */
/* How a program that is run by hand joins the engines of others. */
#ifndef MC_PROGRAM_JOIN_H
#define MC_PROGRAM_JOIN_H

#include <mooncake/mooncake.h>

/* A key's value where neither file, environment nor flag has one.  0; what mc_config_set gives. */
int mc_join_default(struct mc_config *config, const char *key, const char *value, struct mc_error *err);
/* Settle what nobody has said: only warnings are logged; aside: nobody looks for this engine by name, so that it
 * takes any port and a name of its own.
 *   devices   --device_name=A,B: a matrix that gives these devices to every location; "": not given
 *   returns   0; -EINVAL: a mistake of the user's */
int mc_join_configure(struct mc_config *config, const char *devices, bool aside, struct mc_error *err);
/* Open the engine.  *ret_usage: what failed is the user's mistake. */
int mc_join_open(const struct mc_config *config, uint64_t timeout_ns, struct mc_engine **ret_engine, bool *ret_usage,
		 struct mc_error *err);
/* --ready_file: NAME PORT of the engine; it appears whole.  "": none. */
int mc_join_ready(const char *path, const struct mc_engine *engine, struct mc_error *err);

#endif
