/* SPDX-License-Identifier: Apache-2.0 */
/* What this process has and has done, so that what a library did while it was loaded can be named.
 */
#ifndef MC_CHECK_FOOTPRINT_H
#define MC_CHECK_FOOTPRINT_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/time.h>
#include <sys/types.h>

#define FOOTPRINT_FDS 256
#define FOOTPRINT_ENV 512

struct footprint {
	char fds[FOOTPRINT_FDS][96]; /* where a descriptor leads; "": it is closed */
	unsigned threads;
	struct sigaction handlers[NSIG];
	sigset_t blocked;
	const char *env[FOOTPRINT_ENV]; /* the strings themselves, not copied */
	uint64_t env_sums[FOOTPRINT_ENV];
	unsigned nr_env;
	char cwd[256];
	mode_t mask;
	struct itimerval timer;
	bool denormals; /* numbers below the smallest normal one are kept */
	bool children;
	uint64_t written; /* bytes, by write calls of any descriptor */
	bool counts; /* written is known */
	off_t said; /* bytes that went to stdout and stderr */
	char words[80];
};

/* Send stdout and stderr to memory, and look.  -errno: /proc is not readable. */
int footprint_begin(struct footprint *f);
/* Look again; stdout and stderr are as before. */
void footprint_end(struct footprint *f);
/* The first difference as a sentence; false: there is none. */
bool footprint_compare(const struct footprint *a, const struct footprint *b, char *why, size_t cap);

#endif
