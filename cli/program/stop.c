/* SPDX-License-Identifier: Apache-2.0 */
/* The thread that waits for signals, and what it tells the others. */
#include "stop.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define SAME_NS (300 * MC_MSEC) /* timeout(1) and shells signal the process and its group */

static struct mc_stop_options options;
static atomic_bool stopping, done;
static int stop_fd = -1;
static bool hup_ignored; /* nohup */
static pthread_t thread;

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * MC_SEC + (uint64_t)ts.tv_nsec;
}

bool mc_stopping(void)
{
	return atomic_load_explicit(&stopping, memory_order_relaxed);
}

void mc_stop_done(void)
{
	atomic_store(&done, true);
}

int mc_stop_fd(void)
{
	return stop_fd;
}

bool mc_stop_wait(uint64_t timeout_ns)
{
	struct pollfd pfd = {.fd = stop_fd, .events = POLLIN};
	uint64_t now = now_ns(), end = timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;

	while (!mc_stopping() && now < end) {
		uint64_t left = end - now;

		poll(&pfd, 1, left > 3600 * MC_SEC ? 3600000 : (int)((left + MC_MSEC - 1) / MC_MSEC));
		now = now_ns();
	}
	return mc_stopping();
}

static sigset_t signals_waited(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	if (!hup_ignored)
		sigaddset(&set, SIGHUP);
	return set;
}

/* Until a signal that means the end.  False: all is over. */
static bool wait_first(const sigset_t *set)
{
	int sig;

	do {
		if (sigwait(set, &sig) != 0 || atomic_load(&done))
			return false;
	} while (sig == SIGHUP && options.hup && options.hup());
	return true;
}

static void *stop_thread(void *arg)
{
	const uint64_t one = 1;
	uint64_t first;
	sigset_t set = signals_waited();
	int sig;

	if (!wait_first(&set))
		return NULL;
	if (options.hup)
		sigdelset(&set, SIGHUP);
	atomic_store(&stopping, true);
	if (write(stop_fd, &one, sizeof one) < 0)
		_exit(1);
	first = now_ns();
	for (;;) {
		uint64_t passed = now_ns() - first, left = passed < options.grace_ns ? options.grace_ns - passed : 0;
		struct timespec ts = {.tv_sec = (time_t)(left / MC_SEC), .tv_nsec = (long)(left % MC_SEC)};

		sig = sigtimedwait(&set, NULL, &ts);
		if (atomic_load(&done))
			return NULL;
		passed = now_ns() - first;
		if ((sig >= 0 && passed >= SAME_NS) || passed >= options.grace_ns)
			break;
	}
	options.cut_short();
	_exit(1);
}

int mc_stop_init(const struct mc_stop_options *o, struct mc_error *err)
{
	struct sigaction hup;
	sigset_t set;
	int r;

	options = *o;
	hup_ignored = sigaction(SIGHUP, NULL, &hup) == 0 && hup.sa_handler == SIG_IGN;
	set = signals_waited();
	stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (stop_fd < 0)
		return mc_fail(err, -errno, "no descriptor for the stop signal: %s", strerror(errno));
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	r = pthread_create(&thread, NULL, stop_thread, NULL);
	return r ? mc_fail(err, -r, "no thread for signals: %s", strerror(r)) : 0;
}

void mc_stop_fini(void)
{
	atomic_store(&done, true);
	pthread_kill(thread, SIGTERM);
	pthread_join(thread, NULL);
	close(stop_fd);
	stop_fd = -1;
}
