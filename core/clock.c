/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The clocks of the core.  Deadlines are points of the monotonic clock, which
 * tests may replace; a peer's life is measured on the boot clock, which also runs
 * while the machine sleeps.
 */
#include <time.h>

#include "clock.h"

/* A century is for ever, and does not overflow. */
#define CENTURY_NS (UINT64_C(100) * 365 * 86400 * MC_SEC)

uint64_t (*mc_clock_hook)(void);

static uint64_t clock_read(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * MC_SEC + (uint64_t)ts.tv_nsec;
}

uint64_t mc_now_ns(void)
{
	uint64_t (*hook)(void) = mc_clock_hook;

	return hook ? hook() : clock_read(CLOCK_MONOTONIC);
}

uint64_t mc_boot_ns(void)
{
	return clock_read(CLOCK_BOOTTIME);
}

struct timespec mc_wait_until(uint64_t deadline_ns)
{
	uint64_t now = mc_now_ns();
	uint64_t span = deadline_ns > now ? deadline_ns - now : 0;
	uint64_t end;

	if (span > CENTURY_NS)
		span = CENTURY_NS;
	end = clock_read(CLOCK_MONOTONIC) + span;
	return (struct timespec){.tv_sec = (time_t)(end / MC_SEC), .tv_nsec = (long)(end % MC_SEC)};
}

void mc_cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(cond, &attr);
	pthread_condattr_destroy(&attr);
}
