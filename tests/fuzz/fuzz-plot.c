/* SPDX-License-Identifier: Apache-2.0 */
/* Results of the bench, from anywhere: any text is refused with a sentence, or becomes a picture
 * whose tags are closed, whose text is clean and whose coordinates are numbers. */
#include <stdlib.h>
#include <string.h>

#include "markup.h"
#include "plot.h"

static void check(const struct plot *plot, bool words)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);

	if (!f || plot_svg(f, plot) < 0 || fclose(f) != 0)
		abort();
	check_markup(text, len);
	if (words && (strstr(text, "nan") || strstr(text, "inf")))
		abort();
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct plot plot;
	struct plot_file file = {.name = "fuzz"};
	char error[512];

	if (plot_parse("fuzz", data, size, &file, error, sizeof error) == 0) {
		plot_make(&file, 1, NULL, &plot);
		check(&plot, false);
		/* Without the words of the file, which may hold anything. */
		plot.title[0] = '\0';
		for (size_t i = 0; i < plot.nr; i++)
			strcpy(plot.series[i].label, "x");
		check(&plot, true);
	} else if (!error[0] || !memchr(error, 0, sizeof error)) {
		abort();
	}
	plot_file_fini(&file);
	return 0;
}
