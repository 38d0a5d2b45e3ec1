/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Signals are blocked in every thread and one thread waits for them, so that no call of the
 * library is interrupted, and keys in the metadata are taken back.  What hangs is ended by a
 * second signal, or after a while: leases end by themselves, and an unfinished get is continued.
 */
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

#include "flags.h"

#define GRACE_NS (10 * MC_SEC)
#define SAME_NS (300 * MC_MSEC)

static atomic_bool stopping, done;
static int stop_fd = -1;
static bool hup_ignored; /* nohup */
static pthread_t thread;

uint64_t p2pc_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * MC_SEC + (uint64_t)ts.tv_nsec;
}

bool p2pc_stopping(void)
{
	return atomic_load_explicit(&stopping, memory_order_relaxed);
}

int p2pc_stop_fd(void)
{
	return stop_fd;
}

bool p2pc_stop_wait(uint64_t timeout_ns)
{
	struct pollfd pfd = {.fd = stop_fd, .events = POLLIN};
	uint64_t now = p2pc_now_ns(), end = timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;

	while (!p2pc_stopping() && now < end) {
		uint64_t left = end - now;

		poll(&pfd, 1, left > 3600 * MC_SEC ? 3600000 : (int)((left + MC_MSEC - 1) / MC_MSEC));
		now = p2pc_now_ns();
	}
	return p2pc_stopping();
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

static void *stop_thread(void *arg)
{
	const uint64_t one = 1;
	uint64_t first, passed;
	sigset_t set = signals_waited();
	int sig;

	if (sigwait(&set, &sig) != 0 || atomic_load(&done))
		return NULL;
	atomic_store(&stopping, true);
	if (write(stop_fd, &one, sizeof one) < 0)
		_exit(P2PC_EXIT_FAILED);
	first = p2pc_now_ns();
	do {
		struct timespec left = {.tv_nsec = 100000000};

		sig = sigtimedwait(&set, NULL, &left);
		if (atomic_load(&done))
			return NULL;
		passed = p2pc_now_ns() - first;
	} while (passed < GRACE_NS && !(sig >= 0 && passed >= SAME_NS));
	fputs("ended before all was closed: what this process offered vanishes with its lease\n", stderr);
	_exit(P2PC_EXIT_FAILED);
}

int p2pc_stop_init(struct mc_error *err)
{
	struct sigaction hup;
	sigset_t set;
	int r;

	hup_ignored = sigaction(SIGHUP, NULL, &hup) == 0 && hup.sa_handler == SIG_IGN;
	set = signals_waited();
	stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (stop_fd < 0)
		return mc_fail(err, -errno, "no descriptor for the stop signal: %s", strerror(errno));
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* a limit of file sizes is an error of the write */
	r = pthread_create(&thread, NULL, stop_thread, NULL);
	return r ? mc_fail(err, -r, "no thread for signals: %s", strerror(r)) : 0;
}

void p2pc_stop_fini(void)
{
	atomic_store(&done, true);
	pthread_kill(thread, SIGTERM);
	pthread_join(thread, NULL);
	close(stop_fd);
	stop_fd = -1;
}
