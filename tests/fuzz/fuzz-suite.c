/* SPDX-License-Identifier: Apache-2.0 */
/* Results of bench/run-all, from anywhere: any text is refused with a sentence, or becomes a page
 * whose tags are closed and whose text is clean, and medians and ratios that are numbers. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "markup.h"
#include "suite.h"

static void check_page(const struct suite *suite)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);

	if (!f || suite_page(f, suite) < 0 || fclose(f) != 0)
		abort();
	check_markup(text, len);
	free(text);
}

/* Each point beside the last one. */
static void check_ratios(const struct suite *suite)
{
	for (size_t i = 0; i < suite->nr; i++) {
		double a[SUITE_MAX_RUNS], b[SUITE_MAX_RUNS];
		size_t na = suite_values(&suite->points[i], SUITE_P50, a);
		size_t nb = suite_values(&suite->points[suite->nr - 1], SUITE_P50, b);
		struct suite_ratio r;

		if (!na || na > SUITE_MAX_RUNS || !nb || nb > SUITE_MAX_RUNS)
			abort();
		if (suite_compare(a, na, b, nb, &r) && !(r.lo <= r.ratio && r.ratio <= r.hi && r.lo >= 0))
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct suite suite;
	char error[512];

	if (suite_parse("fuzz", data, size, &suite, error, sizeof error) == 0) {
		check_page(&suite);
		check_ratios(&suite);
	} else if (!error[0] || !memchr(error, 0, sizeof error)) {
		abort();
	}
	suite_fini(&suite);
	return 0;
}
