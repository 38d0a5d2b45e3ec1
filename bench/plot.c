/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mooncake_plot FILE... > out.svg: a picture of what the bench measured.  The files
 * are the output of transfer_engine_bench --json, of a sweep or of single runs.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "plot.h"

static void usage(FILE *f)
{
	fprintf(f,
		"usage: mooncake_plot [--title=TEXT] [--output=FILE] FILE... [> out.svg]\n"
		"  FILE: what 'transfer_engine_bench --sweep --json' wrote, or single runs; at "
		"most %d.\n"
		"  Draws throughput, p99 latency and CPU time over the block size, a line per file "
		"and\n"
		"  direction.  The SVG needs nothing but itself.  --help, --version.\n"
		"Exit: 0 drawn, 1 a file cannot be used or written, 2 usage.\n",
		PLOT_MAX_FILES);
}

static int draw(const struct plot *plot, const char *output)
{
	FILE *f = output ? fopen(output, "we") : stdout;
	int r = f ? plot_svg(f, plot) : -1;

	if (f && (output ? fclose(f) : fflush(f)) != 0)
		r = -1;
	if (r < 0)
		fprintf(stderr, "%s: %s\n", output ? output : "standard output", strerror(errno));
	return r;
}

static int run(char **paths, size_t nr, const char *title, const char *output)
{
	struct plot_file *files = calloc(nr, sizeof *files);
	struct plot *plot = calloc(1, sizeof *plot);
	char error[1024];
	int r = 0;

	if (!files || !plot) {
		fprintf(stderr, "out of memory\n");
		r = -1;
	}
	/* Every bad file is told, not the first alone. */
	for (size_t i = 0; files && plot && i < nr; i++) {
		if (plot_read(paths[i], &files[i], error, sizeof error) < 0) {
			fprintf(stderr, "%s\n", error);
			r = -1;
		}
	}
	if (r == 0) {
		plot_make(files, nr, title, plot);
		r = draw(plot, output);
	}
	for (size_t i = 0; files && i < nr; i++)
		plot_file_fini(&files[i]);
	free(files);
	free(plot);
	return r;
}

int main(int argc, char **argv)
{
	const char *title = NULL, *output = NULL;
	char *paths[PLOT_MAX_FILES];
	size_t nr = 0;
	bool flags = true;

	for (int i = 1; i < argc; i++) {
		const char *arg = argv[i];

		if (flags && strcmp(arg, "--") == 0) {
			flags = false;
		} else if (flags && strncmp(arg, "--title=", 8) == 0) {
			title = arg + 8;
		} else if (flags && strncmp(arg, "--output=", 9) == 0 && arg[9]) {
			output = arg + 9;
		} else if (flags && (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0)) {
			usage(stdout);
			return 0;
		} else if (flags && strcmp(arg, "--version") == 0) {
			printf("mooncake_plot %s\n", PLOT_VERSION);
			return 0;
		} else if (flags && arg[0] == '-') {
			fprintf(stderr, "flag %s is not known\n", arg);
			usage(stderr);
			return 2;
		} else if (nr == PLOT_MAX_FILES) {
			fprintf(stderr, "more than %d files\n", PLOT_MAX_FILES);
			return 2;
		} else {
			paths[nr++] = argv[i];
		}
	}
	if (!nr) {
		usage(stderr);
		return 2;
	}
	if (!output && isatty(STDOUT_FILENO)) {
		fprintf(stderr, "the picture would go to the terminal; redirect it, or write "
				"--output=FILE\n");
		return 2;
	}
	return run(paths, nr, title, output) < 0 ? 1 : 0;
}
