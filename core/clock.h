/* SPDX-License-Identifier: Apache-2.0 */
/* Clocks and waiting until a deadline. */
#ifndef MC_CORE_CLOCK_H
#define MC_CORE_CLOCK_H

#include <mooncake/types.h>
#include <pthread.h>
#include <time.h>

/* Monotonic clock, ns; tests replace it.  [any] */
uint64_t mc_now_ns(void);
extern uint64_t (*mc_clock_hook)(void);
/* The clock that also runs while the machine sleeps; nobody replaces it.  [any] */
uint64_t mc_boot_ns(void);

/* The moment at which a span that begins now is over.  [any] */
static inline uint64_t mc_deadline(uint64_t span_ns)
{
	uint64_t now = mc_now_ns();

	return span_ns > UINT64_MAX - now ? UINT64_MAX : now + span_ns;
}

/* For pthread_cond_timedwait on a condition of mc_cond_init: the moment at which mc_now_ns will be
 * deadline_ns.  MC_FOREVER is far away.  [any] */
struct timespec mc_wait_until(uint64_t deadline_ns);
void mc_cond_init(pthread_cond_t *cond);

#endif
