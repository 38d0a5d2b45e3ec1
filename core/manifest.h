/* SPDX-License-Identifier: Apache-2.0 */
/* One manifest: parsed from JSON, and written for a plugin.  The registry of all is loader.h. */
#ifndef MC_CORE_MANIFEST_H
#define MC_CORE_MANIFEST_H

#include "json.h"
#include "loader.h"

/* Parse one manifest over *m, which is zeroed or holds what an earlier manifest of the same file
 * name said (an admin's manifest without "library" is laid over ours).  On error *m must be
 * given to mc_manifest_fini. */
int mc_manifest_parse(struct mc_manifest *m, const char *path, const char *text, size_t len,
		      struct mc_error *err);
void mc_manifest_fini(struct mc_manifest *m);
/* The manifest text of a loaded plugin; NULL if memory ran out. */
char *mc_manifest_write(const struct mc_plugin_desc *desc, const char *library);

/* "transport", "metadata", "memory", "filter"; NULL if there is no such kind. */
const char *mc_plugin_kind_name(uint32_t kind);
/* [a-z0-9-]+, at most MC_PLUGIN_NAME_MAX bytes. */
bool mc_plugin_name_ok(const char *name);

#endif
