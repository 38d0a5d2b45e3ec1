/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Numbers as people write them, for flags and for jobs alike, and how far a name
 * is from a known one.
 */
#include "words.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <core/util/check.h>

#define NAME_MAX_LEN 127

/* Levenshtein's distance. */
size_t mc_word_distance(const char *a, const char *b)
{
	size_t row[NAME_MAX_LEN + 1], nb = MC_MIN(strlen(b), (size_t)NAME_MAX_LEN);

	for (size_t j = 0; j <= nb; j++)
		row[j] = j;
	for (size_t i = 0; a[i]; i++) {
		size_t diagonal = row[0];

		row[0] = i + 1;
		for (size_t j = 0; j < nb; j++) {
			size_t best = diagonal + (a[i] != b[j]);

			diagonal = row[j + 1];
			best = MC_MIN(best, diagonal + 1);
			row[j + 1] = MC_MIN(best, row[j] + 1);
		}
	}
	return row[nb];
}

size_t mc_word_closest(const char *word, const char *(*name)(size_t idx), size_t nr, size_t *ret_distance)
{
	size_t best = SIZE_MAX, closest = 0;

	for (size_t i = 0; i < nr; i++) {
		size_t d = mc_word_distance(word, name(i));

		closest = d < best ? i : closest;
		best = MC_MIN(d, best);
	}
	*ret_distance = best;
	return closest;
}

/* Bytes per unit of a size's suffix, as in the config, and K, M, G, T for short: 1024; KB, MB, ...
 * are decimal. */
static int64_t suffix_factor(const char *s)
{
	static const char letters[] = "KMGT";
	const char *at = *s ? strchr(letters, toupper((unsigned char)*s)) : NULL;
	int64_t factor = 1;
	bool decimal = at && strcasecmp(s + 1, "B") == 0;

	if (!*s || strcasecmp(s, "B") == 0)
		return 1;
	if (!at || !(decimal || !s[1] || strcasecmp(s + 1, "iB") == 0))
		return 0;
	for (const char *l = letters; l <= at; l++)
		factor *= decimal ? 1000 : 1024;
	return factor;
}

int mc_word_number(const char *text, bool units, int64_t *ret)
{
	char *end;
	int64_t value, factor = 1, part = 0, scale = 1;

	errno = 0;
	value = strtoll(text, &end, 10);
	if (end == text || errno)
		return -EINVAL;
	if (units) {
		/* Six digits of a fraction count: part * factor stays far below 2^63. */
		if (*end == '.') {
			for (end++; isdigit((unsigned char)*end); end++) {
				part = scale < 1000000 ? part * 10 + (*end - '0') : part;
				scale = scale < 1000000 ? scale * 10 : scale;
			}
		}
		end += strspn(end, " ");
		factor = suffix_factor(end);
	} else if (*end) {
		factor = 0;
	}
	if (!factor || (part && *text == '-') || __builtin_mul_overflow(value, factor, &value) ||
	    __builtin_add_overflow(value, part * factor / scale, &value))
		return -EINVAL;
	*ret = value;
	return 0;
}

int mc_word_real(const char *text, double *ret)
{
	char *end;
	double value = strtod(text, &end);

	if (end == text || *end || !isfinite(value))
		return -EINVAL;
	*ret = value;
	return 0;
}

int mc_word_seconds(const char *text, double *ret)
{
	static const struct {
		const char *name;
		double seconds;
	} units[] = {{"", 1}, {"s", 1}, {"ms", 1e-3}, {"us", 1e-6}, {"ns", 1e-9}, {"min", 60}};
	char *end;
	double value = strtod(text, &end);

	if (end == text || !isfinite(value))
		return -EINVAL;
	end += strspn(end, " ");
	for (size_t i = 0; i < MC_ARRAY_SIZE(units); i++) {
		if (strcmp(end, units[i].name) == 0) {
			*ret = value * units[i].seconds;
			return 0;
		}
	}
	return -EINVAL;
}
