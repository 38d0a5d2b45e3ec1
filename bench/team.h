/* SPDX-License-Identifier: Apache-2.0 */
/* The threads of one measured run: they warm up, wait for each other at a gate, and go. */
#ifndef MC_BENCH_TEAM_H
#define MC_BENCH_TEAM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <mooncake/mooncake.h>

struct bench_team {
	atomic_bool stop; /* a thread failed, or a signal came */
	uint64_t start_ns; /* when the gate was opened; set before it is */
	/* The team's own. */
	size_t nr, nr_started;
	atomic_size_t nr_ended;
	int ended_fd; /* eventfd: the last thread has ended */
	pthread_t *ids;
	/* Guards ready and open, on which threads and main wait for each other. */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	size_t ready;
	bool open;
};

/* Give it to fini also where it failed. */
int bench_team_init(struct bench_team *team, size_t nr, struct mc_error *err);
void bench_team_fini(struct bench_team *team);

/* Start a thread for each of the nr elements, of so many bytes, and wait until all are at the gate. */
int bench_team_start(struct bench_team *team, void *(*main)(void *element), void *elements, size_t size,
		     struct mc_error *err);
/* Open the gate and wait until all have ended.  A signal stops them; on a terminal show is called now and
 * then.  Once, after start. */
void bench_team_run(struct bench_team *team, void (*show)(const void *ctx, uint64_t passed_ns), const void *ctx);

/* What a thread calls: warmed up, with 0 or what went wrong; false: it is not to go on. */
bool bench_team_gate(struct bench_team *team, int status);
/* And at its end. */
void bench_team_leave(struct bench_team *team, int status);

#endif
