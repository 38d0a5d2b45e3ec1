/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Medians, and what the ratio of two sets of runs is worth.  Runs are few and
 * spread as they like (a busy machine makes a long tail), so the interval counts
 * orders instead of assuming a distribution.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "suite.h"

#define MAX_PAIRS (SUITE_MAX_RUNS * SUITE_MAX_RUNS)
#define TAIL 0.05 /* at each end of the interval */

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

double suite_median(double *values, size_t nr)
{
	if (!nr)
		return 0;
	qsort(values, nr, sizeof *values, by_value);
	return nr % 2 ? values[nr / 2] : (values[nr / 2 - 1] + values[nr / 2]) / 2;
}

size_t suite_values(const struct suite_point *point, enum suite_figure figure, double *values)
{
	for (size_t i = 0; i < point->nr; i++) {
		const struct suite_run *r = &point->runs[i];

		values[i] = figure == SUITE_RATE  ? r->bytes_per_s
			    : figure == SUITE_P50 ? r->p50_ns
			    : figure == SUITE_P99 ? r->p99_ns
						  : r->cpu_s_per_gb;
	}
	return point->nr;
}

double suite_point_median(const struct suite_point *point, enum suite_figure figure)
{
	double values[SUITE_MAX_RUNS];

	return suite_median(values, suite_values(point, figure, values));
}

/* Of n values and m others of the same kind, the number of pairs in which one of the n is the smaller:
 * how many it may be at most, so that as few or fewer come up in at most TAIL of all cases.  -1: even
 * none at all comes up more often.  The number of orders for each count of pairs is the coefficient
 * of the Gaussian binomial; doubles hold them well enough for SUITE_MAX_RUNS. */
static int rare_pairs(size_t n, size_t m)
{
	static double orders[MAX_PAIRS + 1];
	size_t pairs = n * m;
	double all = 0, sum = 0;

	memset(orders, 0, sizeof orders);
	orders[0] = 1;
	for (size_t i = 1; i <= n; i++) {
		for (size_t u = pairs; u >= m + i; u--)
			orders[u] -= orders[u - m - i];
		for (size_t u = i; u <= pairs; u++)
			orders[u] += orders[u - i];
	}
	for (size_t u = 0; u <= pairs; u++)
		all += orders[u];
	for (size_t u = 0; u <= pairs; u++) {
		sum += orders[u];
		if (sum > TAIL * all * (1 + 1e-12))
			return (int)u - 1;
	}
	return (int)pairs;
}

bool suite_compare(double *a, size_t nr_a, double *b, size_t nr_b, struct suite_ratio *ret)
{
	static double quotients[MAX_PAIRS];
	size_t nr = 0;
	int rare;

	if (!nr_a || !nr_b || nr_a > SUITE_MAX_RUNS || nr_b > SUITE_MAX_RUNS)
		return false;
	ret->ratio = suite_median(b, nr_b) / suite_median(a, nr_a);
	if (!(a[0] > 0) || !(b[0] > 0))
		return false;
	for (size_t i = 0; i < nr_a; i++) {
		for (size_t j = 0; j < nr_b; j++)
			quotients[nr++] = b[j] / a[i];
	}
	qsort(quotients, nr, sizeof *quotients, by_value);
	rare = rare_pairs(nr_a, nr_b);
	ret->enough = rare >= 0;
	ret->lo = quotients[rare < 0 ? 0 : rare];
	ret->hi = quotients[nr - 1 - (size_t)(rare < 0 ? 0 : rare)];
	/* With even numbers the ratio of medians is none of the quotients. */
	ret->lo = fmin(ret->lo, ret->ratio);
	ret->hi = fmax(ret->hi, ret->ratio);
	return true;
}
