/* SPDX-License-Identifier: Apache-2.0 */
/* What a job draws: sizes, places, targets, and when.  No clock and no memory of its own, so that
 * tests drive it; each thread has one. */
#ifndef MC_BENCH_JOB_DRAW_H
#define MC_BENCH_JOB_DRAW_H

#include "job.h"

/* ---- random numbers ----------------------------------------------------------------------------- */

struct bench_rng {
	uint64_t state;
};
uint64_t bench_rng_next(struct bench_rng *rng);
double bench_rng_unit(struct bench_rng *rng); /* [0, 1) */
uint64_t bench_rng_below(struct bench_rng *rng, uint64_t nr); /* 0 .. nr - 1; nr > 0 */

/* Rank k of nr (from 0) with a probability proportional to 1 / (k + 1)^exponent. */
struct bench_zipf {
	uint64_t nr;
	double exponent, first, last, cut;
};
void bench_zipf_init(struct bench_zipf *zipf, uint64_t nr, double exponent);
uint64_t bench_zipf_draw(const struct bench_zipf *zipf, struct bench_rng *rng);

/* ---- the part of the footprint that is a thread's ------------------------------------------------ */

/* One class per size, so that a place always has the same size.  Each class has as much of it as its
 * share of the bytes. */
struct bench_layout {
	size_t nr;
	struct bench_class {
		uint64_t size, offset; /* of place 0, from the start of the region */
		uint64_t first, nr; /* places: number of the first among all classes, and how many */
		double until; /* of the shares, from 0 to 1: where its own ends */
	} classes[BENCH_MAX_SIZES];
	uint64_t nr_places, bytes;
};
int bench_layout_init(struct bench_layout *layout, const struct bench_job *job, uint64_t bytes,
		      struct mc_error *err);

/* ---- when --------------------------------------------------------------------------------------- */

/* An open loop: unit n is due at start + n / rate, however late those before it were. */
struct bench_pace {
	double ns_per_unit; /* 0: no rate */
	uint64_t start_ns;
	double done;
};
/* Thread idx of nr has its share of the rate, and its place between the others. */
void bench_pace_init(struct bench_pace *pace, const struct bench_job *job, uint64_t idx, uint64_t nr,
		     uint64_t start_ns);
uint64_t bench_pace_due(const struct bench_pace *pace);
void bench_pace_add(struct bench_pace *pace, double units);

/* ---- what --------------------------------------------------------------------------------------- */

/* One block to transfer. */
struct bench_entry {
	uint64_t place; /* of the target's region */
	uint64_t offset, len; /* in the target's region */
	uint64_t local; /* in the batch's own memory */
	uint32_t peer;
	bool read;
};

/* One batch. */
struct bench_part {
	size_t nr; /* entries */
	uint64_t bytes;
	uint64_t layer; /* of its request */
	bool first, last; /* of its request */
	uint32_t peer; /* of a notify */
};

struct bench_draw {
	const struct bench_job *job;
	uint32_t nr_peers;
	struct bench_rng rng;
	struct bench_layout layout;
	struct bench_zipf zipf[BENCH_MAX_SIZES];
	uint64_t cursor[BENCH_MAX_SIZES];
	uint64_t left; /* blocks until the passes are over */
	uint64_t request, layer;
	uint32_t first_peer;
	bool reads; /* this request */
};

int bench_draw_init(struct bench_draw *draw, const struct bench_job *job, uint32_t nr_peers, uint64_t idx,
		    uint64_t seed, uint64_t bytes, struct mc_error *err);
/* The most entries of a part, and the bytes of the memory that it needs here. */
size_t bench_draw_cap(const struct bench_job *job, uint32_t nr_peers);
uint64_t bench_draw_area(const struct bench_job *job);
/* The next batch; entries has room for bench_draw_cap.  false: the passes are over. */
bool bench_draw_part(struct bench_draw *draw, struct bench_entry *entries, struct bench_part *part);

#endif
