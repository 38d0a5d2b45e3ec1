/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What bench/run-all has measured, read back from its JSON: suite_read.c reads a
 * file, suite_math.c says what the runs of a point are worth, suite_page.c makes
 * the HTML page, compare.c holds two files against each other.
 */
#ifndef MC_BENCH_SUITE_H
#define MC_BENCH_SUITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define SUITE_SCHEMA 1
#define SUITE_TEXT_MAX 200
#define SUITE_NAME_MAX 64 /* of a stack */
#define SUITE_MAX_STACKS 32
#define SUITE_MAX_POINTS 2048
#define SUITE_MAX_RUNS 64 /* of a point */
#define SUITE_MAX_LEFT_OUT 1024
#define SUITE_MAX_FILE_BYTES (16u << 20)

/* One run of a point; the ranges are checked by the reader. */
struct suite_run {
	double bytes_per_s, p50_ns, p99_ns;
	double cpu_s_per_gb; /* of both ends, if the target's is known */
};

/* A transport with its filters, here or in a guest: "tcp+checksum". */
struct suite_stack {
	char name[SUITE_NAME_MAX];
	bool guest; /* an emulated machine: comparable with others of its kind only */
};

struct suite_point {
	size_t stack; /* of suite.stacks */
	bool is_read;
	bool is_latency; /* one transfer at a time: what counts is how long it takes */
	bool target_known; /* the CPU time of the target, of every run */
	bool checked; /* false: the transport moves nothing */
	uint64_t checked_bytes; /* that both ends found right */
	uint64_t block_size, batch_size;
	struct suite_run *runs;
	size_t nr;
};

struct suite_left_out {
	char what[SUITE_TEXT_MAX], reason[2 * SUITE_TEXT_MAX];
	bool failed; /* it was tried and should have worked */
};

struct suite {
	char version[SUITE_TEXT_MAX], time[SUITE_TEXT_MAX];
	char commit[SUITE_TEXT_MAX]; /* of the sources; may be empty */
	char host[SUITE_TEXT_MAX], cpu[SUITE_TEXT_MAX], kernel[SUITE_TEXT_MAX];
	char guest_cpu[SUITE_TEXT_MAX], guest_kernel[SUITE_TEXT_MAX]; /* empty: no guest */
	uint64_t cpus, guest_cpus, memory_bytes;
	bool quick;
	double seconds; /* of a run */
	struct suite_stack stacks[SUITE_MAX_STACKS];
	struct suite_point *points;
	struct suite_left_out *left_out;
	size_t nr_stacks, nr, nr_left_out;
};

/* ---- suite_read.c ---------------------------------------------------------------------------- */

/* Read the text of one file into a zeroed suite.  path is for messages.
 *   returns   0; -1: error holds "path:line:column: ..." or "path: $.place: ..."
 * Undo with suite_fini, also on error. */
int suite_parse(const char *path, const unsigned char *text, size_t len, struct suite *suite,
		char *error, size_t cap);
/* The same from the disk. */
int suite_read(const char *path, struct suite *suite, char *error, size_t cap);
void suite_fini(struct suite *suite);

/* ---- suite_math.c ---------------------------------------------------------------------------- */

enum suite_figure { SUITE_RATE, SUITE_P50, SUITE_P99, SUITE_CPU };

/* Of the point's runs; values has room for SUITE_MAX_RUNS.  Returns how many. */
size_t suite_values(const struct suite_point *point, enum suite_figure figure, double *values);
/* Sorts the values.  0 if there are none. */
double suite_median(double *values, size_t nr);
double suite_point_median(const struct suite_point *point, enum suite_figure figure);

/* How b stands to a.  The interval holds the true ratio in 90 of 100 cases, whatever the values are
 * spread like: it is that of Mann and Whitney's test, over all quotients b/a. */
struct suite_ratio {
	double ratio; /* of the medians */
	double lo, hi;
	bool enough; /* false: too few runs for 90 %; lo and hi are the ends of what was seen */
};
/* a, b: all above 0; they are sorted.  Returns false if one is empty or holds a value that is not. */
bool suite_compare(double *a, size_t nr_a, double *b, size_t nr_b, struct suite_ratio *ret);

/* ---- suite_page.c ---------------------------------------------------------------------------- */

/* "4 KiB", "64 B" */
void suite_size_text(uint64_t bytes, char *buf, size_t cap);
/* "21.3 us" */
void suite_time_text(double ns, char *buf, size_t cap);
/* "1.23 GB/s" */
void suite_rate_text(double bytes_per_s, char *buf, size_t cap);
/* "tcp write 4 KiB x 128", "rdma (guest) read 64 B x 1" */
void suite_point_text(const struct suite *suite, const struct suite_point *point, char *buf,
		      size_t cap);
/* The whole page, which needs nothing but itself.  Sorts nothing, allocates little; -1 if f cannot be
 * written or there is no memory. */
int suite_page(FILE *f, const struct suite *suite);

#endif
