/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What this process has: threads and descriptors, for tests that look for leaks.
 *
 * A thread that pthread_join has given back may still be listed in /proc for a moment:
 * the kernel wakes the joiner (clear_child_tid) before it takes the task off the list.
 * Such a task is marked as exiting (PF_EXITING in proc(5)'s flags) by then, and is not
 * counted; so a count is exact right after a join.  Threads that nobody joins, a library's
 * or helpers that end when they are idle, need the ones that wait.
 */
#ifndef MC_CHECK_CENSUS_H
#define MC_CHECK_CENSUS_H

#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CENSUS_EXITING 0x4u /* PF_EXITING */
#define CENSUS_PATIENCE 200 /* times 10 ms */

/* Is this task, by its line of /proc/self/task/TID/stat, one that runs?  False: it ends, or has. */
static inline bool census_runs(const char *tid)
{
	char path[300], text[512], *at;
	unsigned flags = 0;
	ssize_t n;
	int fd;

	snprintf(path, sizeof path, "/proc/self/task/%s/stat", tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	n = read(fd, text, sizeof text - 1);
	close(fd);
	if (n <= 0)
		return false;
	text[n] = '\0';
	/* The name in parentheses may hold anything; state, five ids, flags come after it. */
	at = strrchr(text, ')');
	return at && sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %u", &flags) == 1 && !(flags & CENSUS_EXITING);
}

static inline unsigned census_of(const char *path, bool (*counts)(const char *name))
{
	DIR *d = opendir(path);
	struct dirent *de;
	unsigned n = 0;

	if (!d) {
		perror(path);
		abort();
	}
	while ((de = readdir(d)))
		n += de->d_name[0] != '.' && (!counts || counts(de->d_name));
	closedir(d);
	return n;
}

static inline unsigned census_threads(void)
{
	return census_of("/proc/self/task", census_runs);
}

/* Without the one that the count itself needs. */
static inline unsigned census_fds(void)
{
	return census_of("/proc/self/fd", NULL) - 1;
}

/* Does the count come down to at most this within 2 s? */
static inline bool census_settles(unsigned (*count)(void), unsigned most)
{
	for (int i = 0; i < CENSUS_PATIENCE && count() > most; i++)
		nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
	return count() <= most;
}

#endif
