/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors, threads and memory over a hundred openings; descriptors that a
 * program would inherit; a program that forks.
 */
#include "leaks.h"
#include "census.h"

#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

struct leaks {
	unsigned fds, threads;
	long pages;
	size_t heap[CYCLES];
};

static long mapped_pages(void)
{
	FILE *f = fopen("/proc/self/statm", "re");
	long pages = 0;

	if (f && fscanf(f, "%ld", &pages) != 1)
		pages = 0;
	if (f)
		fclose(f);
	return pages;
}

/* Bytes that are in use, by the C library's own count: 0 where another allocator stands in. */
static size_t heap_bytes(void)
{
	struct mallinfo2 m = mallinfo2();

	return m.uordblks + m.hblkhd;
}

static void leaks_count(struct leaks *l, unsigned i)
{
	l->heap[i] = heap_bytes();
	if (i == 1) {
		l->fds = census_fds();
		l->threads = census_threads();
		l->pages = mapped_pages();
	}
}

struct cycle {
	struct ctx *c;
	int (*run)(struct ctx *c, int i);
	int i, result;
};

static void *cycle_main(void *arg)
{
	struct cycle *y = arg;

	y->result = y->run(y->c, y->i);
	return NULL;
}

static int cycle_apart(struct ctx *c, int (*cycle)(struct ctx *c, int i), int i)
{
	struct cycle y = {c, cycle, i, FAIL};
	pthread_t thread;

	CHECK(pthread_create(&thread, NULL, cycle_main, &y) == 0, "no thread");
	pthread_join(thread, NULL);
	return y.result;
}

static int leaks_check(struct ctx *c, const struct leaks *l)
{
	const size_t *heap = l->heap;

	CHECK(census_settles(census_fds, l->fds), "%u descriptors became %u in %d cycles", l->fds, census_fds(),
	      CYCLES - 2);
	CHECK(census_settles(census_threads, l->threads), "%u threads became %u in %d cycles", l->threads,
	      census_threads(), CYCLES - 2);
	/* 1 MiB of slack for malloc; far less than a page per cycle of any size. */
	CHECK(mapped_pages() <= l->pages + 256 || mapped_pages() > 1 << 28 /* sanitizers */,
	      "%ld pages of memory became %ld in %d cycles", l->pages, mapped_pages(), CYCLES - 2);
	/* At least 16 bytes per cycle, in each third of those that count: no cache that fills grows so. */
	CHECK(heap[33] < heap[1] + 16 * 32 || heap[66] < heap[33] + 16 * 33 || heap[99] < heap[66] + 16 * 33,
	      "%zu bytes of memory became %zu in %d cycles", heap[1], heap[99], CYCLES - 2);
	return PASS;
}

int leaks_over(struct ctx *c, int (*cycle)(struct ctx *c, int i), bool apart)
{
	struct leaks l = {0};

	for (int i = 0; i < CYCLES; i++) {
		int r = apart ? cycle_apart(c, cycle, i) : cycle(c, i);

		if (r != PASS)
			return r;
		leaks_count(&l, (unsigned)i);
	}
	return leaks_check(c, &l);
}

pid_t bystander_start(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	return pid;
}

void bystander_end(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

void fds_open(bool open[LEAKS_FDS])
{
	for (int fd = 0; fd < LEAKS_FDS; fd++)
		open[fd] = fcntl(fd, F_GETFD) >= 0;
}

/* One end of a pair of sockets that this process made for itself, as libraries wake up their own threads
 * (libcurl's has no O_CLOEXEC, and cannot be told): it leads nowhere else. */
static bool leads_nowhere(int fd)
{
	struct sockaddr_un peer;
	socklen_t len = sizeof peer, cred_len;
	struct ucred cred;

	cred_len = sizeof cred;
	return getpeername(fd, (struct sockaddr *)&peer, &len) == 0 && peer.sun_family == AF_UNIX &&
	       len == offsetof(struct sockaddr_un, sun_path) &&
	       getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &cred_len) == 0 && cred.pid == getpid();
}

int closed_on_exec(struct ctx *c, const bool before[LEAKS_FDS])
{
	for (int fd = 0; fd < LEAKS_FDS; fd++) {
		char link[64], at[256];
		int flags = fcntl(fd, F_GETFD);
		ssize_t n;

		if (flags < 0 || (flags & FD_CLOEXEC) || before[fd] || leads_nowhere(fd))
			continue;
		snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
		n = readlink(link, at, sizeof at - 1);
		at[n > 0 ? n : 0] = '\0';
		return fail(c, "descriptor %d (%s) would be inherited by a program that the user's starts: O_CLOEXEC",
			    fd, at);
	}
	return PASS;
}
