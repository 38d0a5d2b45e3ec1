/* SPDX-License-Identifier: Apache-2.0 */
/* The operations in a plugin's own table, by name. */
#ifndef MC_CLI_SLOTS_H
#define MC_CLI_SLOTS_H

#include "core/loader.h"

/* Call each for every operation of the plugin's kind, in the order of the header: does the plugin's
 * own table have it?  Operations that this version does not know are not told. */
void cli_slots(const struct mc_plugin_desc *desc, void (*each)(void *ctx, const char *name, bool has),
	       void *ctx);

#endif
