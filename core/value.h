/* SPDX-License-Identifier: Apache-2.0 */
/* Values of options: the text that a user writes, checked against an option's type and range. */
#ifndef MC_CORE_VALUE_H
#define MC_CORE_VALUE_H

#include <mooncake/plugin.h>

/* Parse text as an option's type says; `where` begins error sentences ("port", "MC_LOG_LEVEL",
 * "mooncake.json:3:9: port").  In *ret, s of a string borrows text, s of an enum is the
 * table's own word; `set` is left 0.  [any] */
int mc_value_parse(const struct mc_option *option, const char *where, const char *text,
		   struct mc_value *ret, struct mc_error *err);
/* "int", "duration", ...; NULL if there is no such type. */
const char *mc_option_type_name(uint32_t type);
/* The type of a name; 0 if there is none. */
uint32_t mc_option_type_parse(const char *name);
/* One option of a table whose entries may be larger than ours; NULL at its end. */
const struct mc_option *mc_option_at(const struct mc_plugin_desc *desc, size_t idx);
/* A size or duration as a person would write it: "64MiB", "1500ms". */
void mc_value_print(uint32_t type, int64_t value, char *buf, size_t cap);
/* What an option takes: "1..64", "1KiB..1GiB or auto", "error, warn"; "": anything of its type. */
void mc_value_range(const struct mc_option *option, char *buf, size_t cap);

#endif
