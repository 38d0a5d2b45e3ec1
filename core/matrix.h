/* SPDX-License-Identifier: Apache-2.0 */
/* The NIC priority matrix: an immutable table from location to tiers of devices. */
#ifndef MC_CORE_MATRIX_H
#define MC_CORE_MATRIX_H

#include <mooncake/types.h>

struct mc_matrix_entry {
	char *transport; /* NULL: bare name, resolved by the loader's claims */
	char *device;
	bool require;
	double weight; /* 1 */
};

struct mc_matrix_tier {
	size_t nr;
	struct mc_matrix_entry *entries;
};

struct mc_matrix_row {
	char *location; /* "cpu:0", "*" */
	size_t nr_tiers;
	struct mc_matrix_tier *tiers;
};

struct mc_matrix {
	size_t nr_rows;
	struct mc_matrix_row *rows;
	char *text; /* canonical JSON */
	char *path; /* of the file that it was read from; NULL: it was given as text */
};

/* Parse the matrix from JSON text, or from a file if the text is a path (does not begin with '{'
 * or '[').  Errors name file, line and column, or a JSON path such as $.cuda:0[1][0]. */
int mc_matrix_parse(const char *text_or_path, struct mc_matrix **ret_matrix, struct mc_error *err);
void mc_matrix_free(struct mc_matrix *matrix);
/* The same rows, in the same order, of the same devices. */
bool mc_matrix_same(const struct mc_matrix *a, const struct mc_matrix *b);
/* The row for a location, else the one for "*", else NULL. */
const struct mc_matrix_row *mc_matrix_row_find(const struct mc_matrix *matrix, const char *location);
/* Devices in it, each as often as it stands there. */
size_t mc_matrix_row_nr_entries(const struct mc_matrix_row *row);
size_t mc_matrix_nr_entries(const struct mc_matrix *matrix);
/* "kind:N" or "*": split and check; ordinal -1 for "*" and for a kind without number. */
int mc_location_parse(const char *location, char kind[MC_PLUGIN_NAME_MAX + 1], int32_t *ret_ordinal,
		      struct mc_error *err);

/* Give bare names their transport, by claims; fails with the names and the qualified spelling. */
struct mc_registry;
int mc_matrix_resolve(struct mc_matrix *matrix, const struct mc_registry *registry,
		      struct mc_error *err);

#endif
