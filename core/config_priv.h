/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by config*.c only: one slot per known key, with its value and where that came from. */
#ifndef MC_CORE_CONFIG_PRIV_H
#define MC_CORE_CONFIG_PRIV_H

#include "config.h"
#include "loader.h"

struct mc_slot {
	char *key;                      /* "port", "transports.tcp.lanes" */
	const struct mc_option *option; /* the schema table's, or the registry's */
	const struct mc_key *core;      /* NULL: an option of a plugin */
	char *text;
	struct mc_value value; /* its string borrows text */
	enum mc_origin origin;
	char *detail; /* "mooncake.json:12:3", "MC_LOG_LEVEL" */
};

/* Its text for people, reports and logs. */
static inline const char *mc_slot_shown(const struct mc_slot *s)
{
	if (!s || !s->text)
		return "";
	return (s->option->flags & MC_OPT_SECRET) && *s->text ? "(secret)" : s->text;
}

struct mc_config {
	struct mc_registry *registry; /* options point into it */
	struct mc_slot *slots;        /* core keys in schema order, then plugins' */
	size_t nr_slots;
	struct mc_settings settings; /* what the core slots say */
};

/* A value on its way into a slot. */
struct mc_assignment {
	const char *where;  /* begins sentences */
	const char *text;
	enum mc_origin origin;
	const char *detail; /* may be NULL */
};

/* Append a slot with its option's default.  key is copied. */
int mc_slot_add(struct mc_config *config, const char *key, const struct mc_option *option,
		const struct mc_key *core, struct mc_error *err);
/* '-' counts as '_'. */
struct mc_slot *mc_slot_find(const struct mc_config *config, const char *key);
/* Check a value and store it unless what is there has a higher origin. */
int mc_slot_set(struct mc_config *config, struct mc_slot *slot, const struct mc_assignment *a,
		struct mc_error *err);
/* The known key closest to one that is not; NULL if none is near. */
const char *mc_slot_closest(const struct mc_config *config, const char *key);

/* config_plugin.c: slots for the options of every manifest. */
int mc_config_add_plugins(struct mc_config *config, struct mc_error *err);
/* The slot of a plugin's option that no schema names, if the plugin's manifest has none; 0 and
 * NULL: there is no such plugin without a schema. */
int mc_config_add_unchecked(struct mc_config *config, const char *key, struct mc_slot **ret_slot,
			    struct mc_error *err);
/* MC_KIND_* of "transports", "metadata", "memory", "filters"; 0: no section. */
uint32_t mc_config_section(const char *name);

#endif
