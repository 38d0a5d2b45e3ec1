/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of a job's load: its threads (job_thread.c), what they verify (job_check.c), and who starts and
 * ends them (job_load.c). */
#ifndef MC_BENCH_JOB_IMPL_H
#define MC_BENCH_JOB_IMPL_H

#include <stdatomic.h>

#include "job_load.h"
#include "team.h"

/* A batch that may be in flight. */
struct flight {
	struct mc_batch *batch;
	struct mc_request *reqs;
	struct bench_entry *entries;
	uint8_t *local;
	struct bench_part part;
	bool busy;
	uint64_t request; /* its number */
	uint64_t start_ns;
	atomic_uint_fast64_t end_ns; /* 0: not yet.  Set by the callback */
};

/* A request of which a batch is in flight, or still to come. */
struct request {
	uint64_t due_ns, end_ns, left; /* left: batches in flight, and one while it is drawn */
};

/* A thread, which it belongs to until it has ended. */
struct job_thread {
	struct bench_job_load *load;
	uint64_t idx;
	struct bench_draw draw;
	struct bench_pace pace;
	uint64_t next; /* of the trace */
	uint64_t depth;
	struct flight *ring; /* depth */
	struct request *open; /* depth + 2, by number */
	uint64_t nr_flights, nr_requests; /* begun */
	uint64_t base[BENCH_MAX_PEERS]; /* of its region, at each target */
	/* --check */
	uint8_t *scratch;
	struct mc_request *back;
	uint64_t nr_places;
	uint64_t fill_seed, write_seed;
	uint64_t *place_seeds; /* what each place of each target holds */
	uint64_t shift_ns; /* its clock is so much behind: the time that verifying took */
	uint64_t check_cpu_ns, bad, checked;
	/* Results. */
	bool counted;
	struct bench_hist latency, batches;
	uint64_t nr_done, nr_batches, reads, writes, notifies;
	atomic_uint_fast64_t bytes; /* main reads it for the progress line */
	uint64_t last_end_ns; /* of a batch, by its clock */
	uint64_t end_ns;
	int status;
	struct mc_error err;
};

struct bench_job_load {
	struct bench_job_args args;
	struct bench_team team;
	struct job_thread threads[];
};

/* The thread's clock: without the time that verifying took. */
static inline uint64_t clock_ns(const struct job_thread *t)
{
	return bench_now_ns() - t->shift_ns;
}

/* ---- job_thread.c ------------------------------------------------------------------------------- */

/* Wait for a batch, but not beyond `until`, of the thread's clock.  0; -ETIMEDOUT: then; or a failure. */
int job_batch_wait(struct job_thread *t, struct mc_batch *batch, uint64_t until_ns);
/* Requests until the deadline, of the real clock, which begins none; 0: one.  1: there are no more. */
int job_thread_run(struct job_thread *t, uint64_t deadline_ns);
/* One small read of every target: it connects. */
int job_thread_connect(struct job_thread *t);
/* The callback of batches, when several are in flight. */
void job_flight_ended(void *arg, struct mc_batch *batch);

/* ---- job_check.c -------------------------------------------------------------------------------- */

/* Before a batch that will be verified, and after it; both add to shift_ns. */
void job_check_prepare(struct job_thread *t, struct flight *f);
int job_check_finish(struct job_thread *t, struct flight *f);

#endif
