/* SPDX-License-Identifier: Apache-2.0 */
/* A job's threads, and what one run of them gave. */
#ifndef MC_BENCH_JOB_LOAD_H
#define MC_BENCH_JOB_LOAD_H

#include "bench.h"
#include "job.h"
#include "job_draw.h"
#include "job_trace.h"

/* One target. */
struct bench_peer {
	struct mc_segment *segment;
	uint64_t remote[BENCH_MAX_BUFFERS]; /* offsets of its buffers */
	size_t nr_remote;
};

struct bench_job_args {
	const struct bench_options *opts;
	const struct bench_job *job;
	const struct bench_trace *trace; /* NULL: not a replay */
	struct mc_engine *engine;
	const struct bench_peer *peers;
	uint32_t nr_peers;
	const struct bench_memory *local; /* bench_job_rows x bench_job_memory bytes each */
	uint64_t seed;
};

struct bench_job_result {
	struct bench_result base; /* latency: of batches, from their submit */
	struct bench_hist latency; /* of requests, ns from when they were due */
	uint64_t requests, reads, writes; /* blocks read, blocks written */
	uint64_t notifies;
	double asked_bytes_per_s, asked_requests_per_s; /* 0: nothing was asked */
};

/* Bytes of local memory that a thread needs; how many threads share one of nr local buffers; and of a
 * target's footprint, what is a thread's. */
uint64_t bench_job_memory(const struct bench_job_args *args);
uint64_t bench_job_rows(const struct bench_job *job, size_t nr);
uint64_t bench_job_region(const struct bench_job *job);

struct bench_job_load;
int bench_job_load_new(const struct bench_job_args *args, struct bench_job_load **ret_load,
		       struct mc_error *err);
/* Start the threads; each connects to every target and warms up; then they wait. */
int bench_job_load_start(struct bench_job_load *load, struct mc_error *err);
/* Let them run to their end.  Once, after start. */
void bench_job_load_finish(struct bench_job_load *load, struct bench_job_result *result);
void bench_job_load_free(struct bench_job_load *load);

/* --check.  Call each for the stretches of a target that it shall fill before the run; and, after it,
 * for some of those that the run wrote (at most BENCH_JOB_SAMPLES per thread and target).  Ends with
 * the first that is not 0. */
#define BENCH_JOB_SAMPLES 64
typedef int bench_job_entries_fn(void *ctx, uint32_t peer, const struct bench_entries *entries);
int bench_job_fill_each(const struct bench_job_load *load, bench_job_entries_fn *each, void *ctx);
int bench_job_written_each(const struct bench_job_load *load, bench_job_entries_fn *each, void *ctx);

#endif
