/* SPDX-License-Identifier: Apache-2.0 */
/* A new config and matrix for an engine that is open; reload.c and reload_options.c. */
#ifndef MC_CORE_RELOAD_H
#define MC_CORE_RELOAD_H

#include "engine.h"

/* The matrix in force, and what reloads have put out of force.  The engine is being freed. */
void mc_reload_free(struct mc_engine *engine);

/* New values of the options of plugins that are open: devices' transports and the metadata's. */
struct mc_reload_options;
/* Find what differs from the values in force.  -EINVAL: an option differs that is not reloadable. */
int mc_reload_options_new(struct mc_engine *engine, const struct mc_config *config,
			  struct mc_reload_options **ret_options, struct mc_error *err);
/* Give them to the plugins, all or none.  [any] but control and workers */
int mc_reload_options_apply(struct mc_reload_options *options, uint64_t deadline_ns, struct mc_error *err);
/* They are in force.  Does not fail. */
void mc_reload_options_keep(struct mc_reload_options *options);
void mc_reload_options_free(struct mc_reload_options *options);

#endif
