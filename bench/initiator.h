/* SPDX-License-Identifier: Apache-2.0 */
/* One initiator: what a single measurement (initiator.c) and a sweep (sweep.c) share. */
#ifndef MC_BENCH_INITIATOR_H
#define MC_BENCH_INITIATOR_H

#include "bench.h"

struct initiator {
	const struct bench_options *opts; /* of this measurement */
	struct mc_engine *engine;
	struct mc_segment *segment;
	struct bench_memory local, scratch;
	uint64_t remote[BENCH_MAX_BUFFERS];
	size_t nr_remote;
	const char *label; /* of the progress line; NULL: the operation */
	double more_s; /* that the measurements after this one take */
	bool cpu_said; /* that the target does not tell its CPU time */
	struct bench_load *load;
	struct bench_rail before[BENCH_MAX_RAILS];
	struct bench_result result;
	struct bench_report report;
};

/* Find the target's buffers and allocate as much as in->opts span, once for all measurements. */
int initiator_alloc(struct initiator *in, bool writes, struct mc_error *err);
/* Make in->load, as in->opts say; the caller frees it. */
int initiator_prepare(struct initiator *in, struct mc_error *err);
/* Run it: in->result, and in->report of it.  in->result.status says how it ended. */
int initiator_measure(struct initiator *in, struct mc_error *err);
/* Tell people why in->result.status is not 0. */
void initiator_failure(const struct initiator *in);

/* sweep.c: measure every point, print each as it comes.  *ret_reported: what is returned has been
 * told. */
int bench_sweep(struct initiator *in, bool *ret_reported, struct mc_error *err);

/* job_run.c: likewise of a job.  It opens its own targets. */
int bench_job_run(struct initiator *in, const struct bench_job *job, bool *ret_reported,
		  struct mc_error *err);

#endif
