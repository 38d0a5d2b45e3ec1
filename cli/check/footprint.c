/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a process has and has done, before and after: descriptors, threads, signal
 * handlers, environment, working directory, timers, children, how it computes, and
 * bytes that it wrote anywhere.
 */
#include "footprint.h"
#include "census.h"

#include <errno.h>
#include <float.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

extern char **environ;

static int saved[2] = {-1, -1}, sink = -1; /* between begin and end */

static void look_fds(struct footprint *f)
{
	for (int fd = 0; fd < FOOTPRINT_FDS; fd++) {
		char link[64];
		ssize_t n;

		snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
		n = readlink(link, f->fds[fd], sizeof f->fds[fd] - 1);
		f->fds[fd][n > 0 ? n : 0] = '\0';
	}
}

static uint64_t sum(const char *s)
{
	uint64_t h = UINT64_C(0xcbf29ce484222325);

	for (; *s; s++)
		h = (h ^ (unsigned char)*s) * UINT64_C(0x100000001b3);
	return h;
}

static void look_env(struct footprint *f)
{
	f->nr_env = 0;
	for (char **e = environ; e && *e && f->nr_env < FOOTPRINT_ENV; e++) {
		f->env[f->nr_env] = *e;
		f->env_sums[f->nr_env++] = sum(*e);
	}
}

static void look_written(struct footprint *f)
{
	FILE *io = fopen("/proc/self/io", "re");
	unsigned long long n = 0;
	char line[128];

	f->counts = false;
	while (io && fgets(line, sizeof line, io))
		if (sscanf(line, "wchar: %llu", &n) == 1)
			f->counts = true;
	f->written = n;
	if (io)
		fclose(io);
}

static void look_said(struct footprint *f)
{
	struct stat st = {.st_size = 0};
	ssize_t n;

	fflush(stdout);
	fstat(sink, &st);
	f->said = st.st_size;
	n = pread(sink, f->words, sizeof f->words - 1, 0);
	f->words[n > 0 ? n : 0] = '\0';
	f->words[strcspn(f->words, "\n")] = '\0';
}

static void look(struct footprint *f)
{
	volatile double least = DBL_MIN;

	f->threads = census_threads();
	look_fds(f);
	for (int s = 1; s < NSIG; s++)
		if (sigaction(s, NULL, &f->handlers[s]) < 0)
			memset(&f->handlers[s], 0, sizeof f->handlers[s]);
	sigprocmask(SIG_BLOCK, NULL, &f->blocked);
	look_env(f);
	if (!getcwd(f->cwd, sizeof f->cwd))
		f->cwd[0] = '\0';
	f->mask = umask(0);
	umask(f->mask);
	getitimer(ITIMER_REAL, &f->timer);
	f->denormals = least / 2 > 0;
	f->children = waitpid(-1, NULL, WNOHANG) >= 0 || errno != ECHILD;
	look_said(f);
	look_written(f);
}

int footprint_begin(struct footprint *f)
{
	if (access("/proc/self/fd", R_OK) < 0 || access("/proc/self/task", R_OK) < 0)
		return -ENOENT;
	fflush(stdout);
	sink = memfd_create("said", MFD_CLOEXEC);
	if (sink < 0)
		return -errno;
	for (int i = 0; i < 2; i++) {
		saved[i] = fcntl(1 + i, F_DUPFD_CLOEXEC, 3);
		dup2(sink, 1 + i);
	}
	look(f);
	return 0;
}

void footprint_end(struct footprint *f)
{
	look(f);
	for (int i = 0; i < 2; i++) {
		if (saved[i] >= 0)
			dup2(saved[i], 1 + i);
		else
			close(1 + i);
		close(saved[i]);
	}
	close(sink);
}

static bool differ_fds(const struct footprint *a, const struct footprint *b, char *why, size_t cap)
{
	for (int fd = 0; fd < FOOTPRINT_FDS; fd++) {
		if (!strcmp(a->fds[fd], b->fds[fd]))
			continue;
		snprintf(why, cap, "loading it %s descriptor %d (%s)",
			 !a->fds[fd][0]   ? "opens"
			 : !b->fds[fd][0] ? "closes"
					  : "replaces",
			 fd, b->fds[fd][0] ? b->fds[fd] : a->fds[fd]);
		return true;
	}
	return false;
}

static bool differ_signals(const struct footprint *a, const struct footprint *b, char *why,
			   size_t cap)
{
	for (int s = 1; s < NSIG; s++) {
		if (a->handlers[s].sa_sigaction == b->handlers[s].sa_sigaction &&
		    a->handlers[s].sa_flags == b->handlers[s].sa_flags &&
		    sigismember(&a->blocked, s) == sigismember(&b->blocked, s))
			continue;
		snprintf(why, cap, "loading it changes what happens at signal %d (%s)", s,
			 strsignal(s));
		return true;
	}
	return false;
}

static bool differ_env(const struct footprint *a, const struct footprint *b, char *why, size_t cap)
{
	unsigned n = a->nr_env > b->nr_env ? a->nr_env : b->nr_env;

	for (unsigned i = 0; i < n; i++) {
		if (i < a->nr_env && i < b->nr_env && a->env_sums[i] == b->env_sums[i])
			continue;
		if (i < b->nr_env)
			snprintf(why, cap, "loading it changes the environment: %.100s", b->env[i]);
		else
			snprintf(why, cap, "loading it takes a variable out of the environment");
		return true;
	}
	return false;
}

bool footprint_compare(const struct footprint *a, const struct footprint *b, char *why, size_t cap)
{
	const char *what = NULL;

	if (b->said != a->said) {
		snprintf(why, cap, "loading it prints: '%s'", b->words);
		return true;
	}
	if (b->threads != a->threads) {
		snprintf(why, cap, "loading it starts threads: %u became %u", a->threads,
			 b->threads);
		return true;
	}
	if (differ_fds(a, b, why, cap) || differ_signals(a, b, why, cap) ||
	    differ_env(a, b, why, cap))
		return true;
	if (a->counts && b->counts && a->written != b->written) {
		snprintf(why, cap, "loading it writes %llu bytes somewhere",
			 (unsigned long long)(b->written - a->written));
		return true;
	}
	if (b->children && !a->children)
		what = "starts a process";
	else if (strcmp(a->cwd, b->cwd))
		what = "changes the working directory";
	else if (a->mask != b->mask)
		what = "changes the umask";
	else if (memcmp(&a->timer, &b->timer, sizeof a->timer))
		what = "sets a timer";
	else if (a->denormals != b->denormals)
		what = "changes how the program computes: denormal numbers became 0 (was it linked "
		       "with -ffast-math?)";
	if (what)
		snprintf(why, cap, "loading it %s", what);
	return what;
}
