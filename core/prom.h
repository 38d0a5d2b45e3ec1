/* SPDX-License-Identifier: Apache-2.0 */
/* Writes metrics in the text format of Prometheus (0.0.4) into a buffer that grows. */
#ifndef MC_CORE_PROM_H
#define MC_CORE_PROM_H

#include <mooncake/types.h>

/* Zeroed: empty.  Once memory has run out it stays so, and mc_prom_take gives NULL. */
struct mc_prom {
	char *text;
	size_t len, cap;
	bool failed;
};

enum mc_prom_type { MC_PROM_COUNTER, MC_PROM_GAUGE };

/* The two lines that begin a family.  Every sample of a family follows before the next one begins.
 * Names and labels' names are the caller's promise; see mc_prom_name for foreign ones. */
void mc_prom_family(struct mc_prom *p, const char *name, enum mc_prom_type type, const char *help);
/* One sample; labels: what mc_prom_label wrote, or "". */
void mc_prom_u64(struct mc_prom *p, const char *name, const char *labels, uint64_t value);
void mc_prom_double(struct mc_prom *p, const char *name, const char *labels, double value);
/* Append name="value" to labels, with a comma before it unless it is the first.  Backslashes,
 * quotes and newlines of the value are escaped, what is not UTF-8 becomes '_'; what does not fit
 * ends the value early, never the syntax. */
void mc_prom_label(char *labels, size_t size, const char *name, const char *value);
/* text as a part of a name: letters, digits and '_', others become '_'. */
void mc_prom_name(char *name, size_t size, const char *text);
/* The text, NUL-terminated; the caller frees it.  NULL: out of memory. */
char *mc_prom_take(struct mc_prom *p, size_t *ret_len);

#endif
