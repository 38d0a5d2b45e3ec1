/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Children that run a stranger's plugin.  They are killed with all that they have
 * started when they end or take too long.
 */
#include "child.h"
#include "core/util/check.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

static bool has_ended(pid_t pid)
{
	siginfo_t info = {.si_pid = 0};

	/* It stays a zombie, so that its group keeps its name. */
	return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0 ||
	       info.si_pid == pid;
}

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

int child_wait(pid_t pid, unsigned seconds, int *ret_status)
{
	uint64_t until = now_ms() + seconds * UINT64_C(1000);
	struct timespec nap = {.tv_nsec = 200000};
	int r = 0;

	while (!has_ended(pid) && r == 0) {
		if (now_ms() > until)
			r = -ETIMEDOUT;
		nanosleep(&nap, NULL);
		nap.tv_nsec = MC_MIN(nap.tv_nsec * 2, 10000000);
	}
	kill(-pid, SIGKILL);
	if (r < 0)
		kill(pid, SIGKILL);
	return waitpid(pid, ret_status, 0) < 0 ? -errno : r;
}

void child_how(int r, int status, unsigned seconds, char *why, size_t cap)
{
	if (r == -ETIMEDOUT)
		snprintf(why, cap, "does not end within %u s", seconds);
	else if (r < 0)
		snprintf(why, cap, "the process is lost: %s", strerror(-r));
	else if (WIFSIGNALED(status))
		snprintf(why, cap, "crashes: %s (signal %d)", strsignal(WTERMSIG(status)), WTERMSIG(status));
	else
		snprintf(why, cap, "%s", "");
}
