/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is left behind by one that does not end in time: leases end by themselves, and
 * an unfinished get is continued.
 */
#include "stop.h"

#include <signal.h>
#include <stdio.h>
#include <time.h>

#define GRACE_NS (10 * MC_SEC)

uint64_t p2pc_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * MC_SEC + (uint64_t)ts.tv_nsec;
}

bool p2pc_stopping(void *ignored)
{
	return mc_stopping();
}

static void cut_short(void)
{
	fputs("ended before all was closed: what this process offered vanishes with its lease\n", stderr);
}

int p2pc_stop_init(struct mc_error *err)
{
	const struct mc_stop_options options = {.grace_ns = GRACE_NS, .cut_short = cut_short};

	signal(SIGXFSZ, SIG_IGN); /* a limit of file sizes is an error of the write */
	return mc_stop_init(&options, err);
}
