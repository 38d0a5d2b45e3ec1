/* SPDX-License-Identifier: Apache-2.0 */
/* The schema of the core's own keys: one table, in config_schema.c. */
#ifndef MC_CORE_CONFIG_SCHEMA_H
#define MC_CORE_CONFIG_SCHEMA_H

#include "config.h"

struct mc_key {
	struct mc_option option;
	size_t offset; /* of its field in struct mc_settings */
	/* Bring a text into its one form, or refuse it; may be NULL.  *text is on the heap. */
	int (*normalize)(char **text, const char *where, struct mc_error *err);
	/* A default that depends on the host, on the heap; NULL: option.def. */
	char *(*host_default)(void);
};

extern const struct mc_key mc_config_schema[];
extern const size_t mc_config_schema_nr;

#endif
