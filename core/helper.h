/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Helper threads: what may block (pinning, metadata, name resolution) runs here.
 * At most two per engine, started on demand, ended after 10 s without work.
 */
#ifndef MC_CORE_HELPER_H
#define MC_CORE_HELPER_H

#include <mooncake/types.h>

struct mc_helpers;

/* Embedded by the caller; its again when run is entered. */
struct mc_job {
	struct mc_job *next; /* helpers' */
	void (*run)(struct mc_job *job); /* [helper]; may block until a deadline of its own */
};

int mc_helpers_new(struct mc_helpers **ret_helpers);
/* Queue a job, in order of arrival over both threads.  Never blocks; if no thread can be started
 * and none runs, the job runs when one can (memory of the job is enough to hold it).  [any] */
void mc_helpers_run(struct mc_helpers *helpers, struct mc_job *job);
/* Run f(arg) on a helper and wait for its result.  Called on a helper, it runs at once.  [any] but
 * the control loop and workers */
int mc_helpers_call(struct mc_helpers *helpers, int (*f)(void *arg), void *arg);
/* Wait until at most nr_left jobs are queued or running; -ETIMEDOUT.  With nr_left = 1 the next call
 * finds a thread free.  [any] but the control loop, workers and helpers */
int mc_helpers_wait(struct mc_helpers *helpers, unsigned int nr_left, uint64_t deadline_ns);
/* True on a helper thread of any engine. */
bool mc_on_helper(void);
/* Finish what is queued, end the threads. */
void mc_helpers_free(struct mc_helpers *helpers);
/* Span after which an idle thread ends; tests shorten it. */
extern uint64_t mc_helpers_idle_ns;

#endif
