/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Helper threads: what may block (pinning, metadata, name resolution) runs here.
 * At most two per engine, started on demand, ended after 10 s without work.
 */
#ifndef MC_CORE_HELPER_H
#define MC_CORE_HELPER_H

#include <mooncake/types.h>

struct mc_helpers;

enum mc_job_kind {
	MC_JOB_PLAIN,
	MC_JOB_URGENT, /* goes before all that waits */
	MC_JOB_LOOKUP, /* asks a name service, which has no deadline: a slow job; goes after all that
			  waits but lazy ones */
	MC_JOB_LAZY,   /* nobody waits for it, and it may take long: a slow job; goes last */
	/* Of the slow jobs, look-ups and lazy ones together, one runs at a time, so that it leaves a
	 * thread to the others. */
};

/* Embedded by the caller; its again when run is entered. */
struct mc_job {
	struct mc_job *next; /* helpers' */
	void (*run)(struct mc_job *job); /* [helper]; may block until a deadline of its own */
};

int mc_helpers_new(struct mc_helpers **ret_helpers);
/* Queue a job, among those of its kind in order of arrival over both threads.  Never blocks; if no thread can be started
 * and none runs, the job runs when one can (memory of the job is enough to hold it).  [any] */
void mc_helpers_run_as(struct mc_helpers *helpers, struct mc_job *job, enum mc_job_kind kind);
static inline void mc_helpers_run(struct mc_helpers *helpers, struct mc_job *job)
{
	mc_helpers_run_as(helpers, job, MC_JOB_PLAIN);
}
/* Run f(arg) on a helper and wait for its result.  Called on a helper, it runs at once.  [any] but
 * the control loop and workers */
int mc_helpers_call(struct mc_helpers *helpers, int (*f)(void *arg), void *arg);
/* Likewise, but -ETIMEDOUT, and f never runs, if no thread was free before the deadline.  Once begun,
 * f is waited for: it keeps the deadline itself. */
int mc_helpers_call_until(struct mc_helpers *helpers, int (*f)(void *arg), void *arg,
			  uint64_t deadline_ns);
/* True: the job had not begun, never will, and is the caller's again.  [any] */
bool mc_helpers_cancel(struct mc_helpers *helpers, struct mc_job *job);
/* Wait until at most nr_left jobs are queued or running; -ETIMEDOUT.  With nr_left = 1, slow jobs that
 * wait for another one do not count: the next call finds a thread free.  [any] but the control loop, workers and helpers */
int mc_helpers_wait(struct mc_helpers *helpers, unsigned int nr_left, uint64_t deadline_ns);
/* True on a helper thread of any engine. */
bool mc_on_helper(void);
/* Finish what is queued, end the threads. */
void mc_helpers_free(struct mc_helpers *helpers);
/* Span after which an idle thread ends; tests shorten it. */
extern uint64_t mc_helpers_idle_ns;

#endif
