/* SPDX-License-Identifier: Apache-2.0 */
/* The replay of a request trace: JSON lines as Mooncake publishes them become a plan of reads and
 * writes of blocks, made before the run. */
#ifndef MC_BENCH_JOB_TRACE_H
#define MC_BENCH_JOB_TRACE_H

#include "job.h"

#define BENCH_TRACE_READ UINT32_C(0x80000000)
#define BENCH_TRACE_MAX_SLOTS (UINT64_C(1) << 26)

struct bench_trace {
	size_t nr;
	struct bench_trace_request {
		uint64_t at_ns; /* as the trace says, before the speed */
		uint64_t first; /* of ops */
		uint32_t nr; /* of ops */
	} *requests;
	uint32_t *ops; /* slot, with BENCH_TRACE_READ if it holds the block already */
	size_t nr_ops, requests_cap, ops_cap;
	uint32_t max_ops; /* of a request */
	uint64_t nr_slots;
	/* Blocks that requests name: each is one of these. */
	uint64_t reads; /* there already */
	uint64_t puts; /* seen first: written */
	uint64_t misses; /* evicted since: written again */
	uint64_t repeats; /* named twice in one request: moved once */
	uint64_t refused; /* no room beside the request's own blocks: not moved */
};

/* Read f to its end and replay it on a store of nr_slots blocks (1 .. BENCH_TRACE_MAX_SLOTS).
 *   what      its name, for sentences
 *   returns   0; -EINVAL: err says line and key; undo with bench_trace_fini, also on error */
int bench_trace_read(struct bench_trace *trace, const char *what, FILE *f, uint64_t nr_slots,
		     enum bench_evict evict, struct mc_error *err);
void bench_trace_fini(struct bench_trace *trace);

#endif
