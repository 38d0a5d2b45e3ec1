/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mooncake_plot: from the bench's JSON to one SVG.  plot_read.c reads the files,
 * plot_data.c makes lines of them, plot_svg.c draws.
 */
#ifndef MC_BENCH_PLOT_H
#define MC_BENCH_PLOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define PLOT_TEXT_MAX 200
#define PLOT_MAX_POINTS 4096 /* of a file */
#define PLOT_MAX_FILES 32
#define PLOT_MAX_FILE_BYTES (16u << 20)
#define PLOT_MAX_BLOCK (UINT64_C(1) << 50)

/* One measurement; the ranges are checked by the reader. */
struct plot_point {
	uint64_t block_size;
	bool is_read;
	double bytes_per_s, p99_ns;
	double cpu_s_per_gb; /* of both ends, if the target's is known */
	bool target_known;
};

/* What one file says. */
struct plot_file {
	char name[PLOT_TEXT_MAX]; /* without folder and ".json" */
	char host[PLOT_TEXT_MAX], cpu[PLOT_TEXT_MAX], kernel[PLOT_TEXT_MAX], time[PLOT_TEXT_MAX];
	char version[PLOT_TEXT_MAX];
	char protocol[PLOT_TEXT_MAX]; /* option; may be empty */
	char rails[PLOT_TEXT_MAX]; /* transports that moved bytes: "tcp", "rdma+tcp"; may be empty
				    */
	uint64_t cpus, threads;
	struct plot_point *points;
	size_t nr, cap;
};

/* Read the text of one file.  path is for messages.
 *   returns   0; -1: error holds "path:line:column: ..." or "path: $.place: ..." */
int plot_parse(const char *path, const unsigned char *text, size_t len, struct plot_file *file,
	       char *error, size_t cap);
/* The same from the disk. */
int plot_read(const char *path, struct plot_file *file, char *error, size_t cap);
void plot_file_fini(struct plot_file *file);

/* A line of each panel: the points of one direction of one file, in order of block size. */
struct plot_series {
	char label[2 * PLOT_TEXT_MAX];
	size_t group; /* the file: its colour */
	bool is_read; /* dashed */
	const struct plot_point *points;
	size_t nr;
};

struct plot {
	char title[4 * PLOT_TEXT_MAX];
	struct plot_series series[2 * PLOT_MAX_FILES];
	size_t nr;
	bool initiator_only; /* CPU time of some target is not known */
};

/* Sort the points of the files, name the lines, make the title (title: NULL, or the user's).  The
 * files must outlive the plot. */
void plot_make(struct plot_file *files, size_t nr, const char *title, struct plot *plot);

/* Returns 0, or -1 if f cannot be written. */
int plot_svg(FILE *f, const struct plot *plot);

/* Text for XML and HTML: at most max characters; what is cut ends in an ellipsis. */
void plot_escaped(FILE *f, const char *text, size_t max);

#endif
