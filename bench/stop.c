/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ending on SIGINT and SIGTERM, and SIGHUP's two meanings: the terminal is gone, which
 * ends us too; or somebody has sent it, so that the config is read again.  The signals are blocked in every thread and one
 * thread waits for them, so that no call of the library is interrupted and the
 * record is taken back.  Should the process hang in a call that waits for others
 * (a name held by somebody, a host that does not answer), that thread ends it.
 */
#include "bench.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define GRACE_NS (950 * MC_MSEC)
#define SAME_NS (300 * MC_MSEC) /* timeout(1) and shells signal the process and its group */

static atomic_bool stopping, done;
static int stop_fd = -1;
static bool had_terminal;
static bool hup_ignored; /* nohup */
static pthread_t thread;
static pthread_mutex_t name_lock = PTHREAD_MUTEX_INITIALIZER;
static char engine_name[MC_SEGMENT_NAME_MAX + 1]; /* under name_lock */

bool bench_stopping(void)
{
	return atomic_load_explicit(&stopping, memory_order_relaxed);
}

void bench_stop_done(void)
{
	atomic_store(&done, true);
}

int bench_stop_fd(void)
{
	return stop_fd;
}

void bench_stop_name(const char *name)
{
	pthread_mutex_lock(&name_lock);
	snprintf(engine_name, sizeof engine_name, "%s", name ? name : "");
	pthread_mutex_unlock(&name_lock);
}

/* It is not known whether the record is still there. */
static void say_cut_short(void)
{
	pthread_mutex_lock(&name_lock);
	fprintf(stderr, "engine%s%s%s: stopped before it was closed; its record, if it has one, ends with "
			"its lease\n",
		*engine_name ? " '" : "", engine_name, *engine_name ? "'" : "");
	pthread_mutex_unlock(&name_lock);
}

static bool terminal_gone(void)
{
	return had_terminal && !isatty(STDERR_FILENO);
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
	uint64_t first;
	sigset_t set = signals_waited();
	int sig;

	do {
		if (sigwait(&set, &sig) != 0 || atomic_load(&done))
			return NULL;
		if (sig == SIGHUP && !terminal_gone())
			bench_reload_ask();
	} while (sig == SIGHUP && !terminal_gone());
	sigdelset(&set, SIGHUP);
	atomic_store(&stopping, true);
	if (write(stop_fd, &one, sizeof one) < 0)
		_exit(BENCH_EXIT_FAILED);
	first = bench_now_ns();
	for (;;) {
		uint64_t passed = bench_now_ns() - first;
		struct timespec left = {.tv_nsec = passed < GRACE_NS ? (long)(GRACE_NS - passed) : 0};

		sig = sigtimedwait(&set, NULL, &left);
		if (atomic_load(&done))
			return NULL;
		passed = bench_now_ns() - first;
		if ((sig >= 0 && passed >= SAME_NS) || passed >= GRACE_NS)
			break;
	}
	say_cut_short();
	_exit(BENCH_EXIT_FAILED);
}

int bench_stop_init(struct mc_error *err)
{
	struct sigaction hup;
	sigset_t set;
	int r;

	had_terminal = isatty(STDERR_FILENO);
	hup_ignored = sigaction(SIGHUP, NULL, &hup) == 0 && hup.sa_handler == SIG_IGN;
	set = signals_waited();
	stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (stop_fd < 0)
		return mc_fail(err, -errno, "no descriptor for the stop signal: %s",
			       strerror(errno));
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	r = pthread_create(&thread, NULL, stop_thread, NULL);
	if (r)
		return mc_fail(err, -r, "no thread for signals: %s", strerror(r));
	return 0;
}

void bench_stop_fini(void)
{
	atomic_store(&done, true);
	pthread_kill(thread, SIGTERM);
	pthread_join(thread, NULL);
	close(stop_fd);
	stop_fd = -1;
}
