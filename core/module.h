/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Internal modules: parts of the core that need a library of their own live in
 * mod-NAME.so and are opened on first need, so that libmooncake.so itself links
 * few.  They are not plugins: they match one version of the core exactly, get
 * everything they use by argument, and export `mc_module_desc`.
 */
#ifndef MC_CORE_MODULE_H
#define MC_CORE_MODULE_H

#include <mooncake/types.h>

#define MC_MODULE_SYMBOL "mc_module_desc"

struct mc_module_desc {
	const char *name;    /* "discover" for mod-discover.so */
	const char *version; /* MC_VERSION when it was built */
	const void *ops;
};

extern MC_EXPORT const struct mc_module_desc mc_module_desc;

/* Open mod-NAME.so from the folders of MC_PLUGIN_PATH, then the plugin folder; it stays open.
 * -ENOENT: not installed; -ELIBACC, -ELIBBAD: err says why.  [any], may read the disk */
int mc_module_open(const char *name, const void **ret_ops, struct mc_error *err);

#endif
