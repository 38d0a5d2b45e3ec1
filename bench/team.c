/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A gate holds the threads of a run until all have warmed up and main has read the
 * counters; the last to end wakes main, which meanwhile passes signals on and shows
 * progress.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "bench.h"
#include "team.h"

#define PROGRESS_MS 250

int bench_team_init(struct bench_team *team, size_t nr, struct mc_error *err)
{
	*team = (struct bench_team){.nr = nr, .ended_fd = eventfd(0, EFD_CLOEXEC)};
	pthread_mutex_init(&team->lock, NULL);
	pthread_cond_init(&team->changed, NULL);
	if (team->ended_fd < 0)
		return mc_fail(err, -errno, "no eventfd: %s", strerror(errno));
	team->ids = calloc(nr, sizeof *team->ids);
	return team->ids ? 0 : mc_fail(err, -ENOMEM, "no memory for %zu threads", nr);
}

void bench_team_fini(struct bench_team *team)
{
	free(team->ids);
	pthread_cond_destroy(&team->changed);
	pthread_mutex_destroy(&team->lock);
	if (team->ended_fd >= 0)
		close(team->ended_fd);
}

static void open_gate(struct bench_team *team)
{
	pthread_mutex_lock(&team->lock);
	team->start_ns = bench_now_ns();
	team->open = true;
	pthread_cond_broadcast(&team->changed);
	pthread_mutex_unlock(&team->lock);
}

static void join(struct bench_team *team)
{
	for (size_t i = 0; i < team->nr_started; i++)
		pthread_join(team->ids[i], NULL);
	team->nr_started = 0;
}

int bench_team_start(struct bench_team *team, void *(*main)(void *element), void *elements, size_t size,
		     struct mc_error *err)
{
	for (size_t i = 0; i < team->nr; i++) {
		int r = pthread_create(&team->ids[i], NULL, main, (char *)elements + i * size);

		if (r) {
			atomic_store(&team->stop, true);
			open_gate(team);
			join(team);
			return mc_fail(err, -r, "thread %zu of %zu: %s", i, team->nr, strerror(r));
		}
		team->nr_started++;
	}
	pthread_mutex_lock(&team->lock);
	while (team->ready < team->nr_started)
		pthread_cond_wait(&team->changed, &team->lock);
	pthread_mutex_unlock(&team->lock);
	return 0;
}

void bench_team_run(struct bench_team *team, void (*show)(const void *ctx, uint64_t passed_ns), const void *ctx)
{
	struct pollfd fds[2] = {{.fd = team->ended_fd, .events = POLLIN}, {.fd = mc_stop_fd(), .events = POLLIN}};
	bool terminal = isatty(STDERR_FILENO);
	uint64_t now, next;

	open_gate(team);
	next = team->start_ns + PROGRESS_MS * MC_MSEC;
	while (atomic_load(&team->nr_ended) < team->nr_started) {
		/* Not often: waking a processor that sleeps can hold up the threads. */
		if (poll(fds, mc_stopping() ? 1 : 2, terminal ? PROGRESS_MS / 5 : 1000) > 0 && fds[1].revents)
			atomic_store(&team->stop, true);
		now = bench_now_ns();
		if (terminal && now >= next) {
			show(ctx, now - team->start_ns);
			next = now + PROGRESS_MS * MC_MSEC;
		}
	}
	if (terminal)
		fputs("\r\033[K", stderr);
	join(team);
}

/* ---- in a thread -------------------------------------------------------------------------------- */

bool bench_team_gate(struct bench_team *team, int status)
{
	if (status < 0)
		atomic_store(&team->stop, true);
	pthread_mutex_lock(&team->lock);
	team->ready++;
	pthread_cond_broadcast(&team->changed);
	while (!team->open)
		pthread_cond_wait(&team->changed, &team->lock);
	pthread_mutex_unlock(&team->lock);
	return !atomic_load(&team->stop);
}

void bench_team_leave(struct bench_team *team, int status)
{
	if (status < 0)
		atomic_store(&team->stop, true);
	if (atomic_fetch_add(&team->nr_ended, 1) + 1 == team->nr)
		eventfd_write(team->ended_fd, 1);
}
