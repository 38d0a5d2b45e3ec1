/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When a caller may put the baton down warm, and for how long: learned from whether callers
 * come back soon, and to drive, and from work that was left lying for them.
 */
#include "worker_impl.h"

#define WARM_NS MC_MSEC              /* a warm baton is the thread's after this; longer once callers came back */
#define WARM_MAX_NS (4 * MC_MSEC)    /* to it: to look each millisecond costs much where the thread's processor slept */
#define RETURN_NS (MC_MSEC / 2)      /* a caller that is back within this was right to pause */
#define RETURNS_MIN 8                /* so many earn a warm baton */
#define RETURNS_MAX 16
#define RETURNS_LATE 4               /* and so many does one cost that came late */
#define UNDRIVEN_MAX 8               /* submits without a wait: he does not come back to drive */
#define COLD_MIN_NS (2 * MC_MSEC)    /* no warm baton after work was left lying: once may have been the */
#define COLD_MAX_NS (200 * MC_MSEC)  /* scheduler's doing, so for longer only if it happens again soon */

/* Judge the last pause by when, and for what, a caller is back. */
void mc_warm_returned(struct mc_worker *w, bool drives, uint64_t now)
{
	uint64_t paused = atomic_load_explicit(&w->paused_ns, memory_order_relaxed);
	unsigned undriven = drives ? 0 : atomic_load_explicit(&w->undriven, memory_order_relaxed) + 1;
	unsigned returns = atomic_load_explicit(&w->returns, memory_order_relaxed);

	if (!paused)
		return;
	atomic_store_explicit(&w->paused_ns, 0, memory_order_relaxed);
	atomic_store_explicit(&w->undriven, undriven, memory_order_relaxed);
	if (undriven > UNDRIVEN_MAX)
		returns = 0;
	else if (now > paused + RETURN_NS)
		returns -= MC_MIN(returns, RETURNS_LATE);
	else if (returns < RETURNS_MAX)
		returns++;
	atomic_store_explicit(&w->returns, returns, memory_order_relaxed);
}

/* He drove when he submitted, if that was enough. */
void mc_warm_waited(struct mc_worker *w)
{
	if (atomic_load_explicit(&w->undriven, memory_order_relaxed))
		atomic_store_explicit(&w->undriven, 0, memory_order_relaxed);
}

/* Callers and the thread go by the same span, so that who pauses need not wake a thread that sleeps for
 * less.  The thread's to change, while it is awake. */
uint64_t mc_warm_span(const struct mc_worker *w)
{
	return atomic_load_explicit(&w->warm_span_ns, memory_order_relaxed);
}

void mc_warm_span_set(struct mc_worker *w, uint64_t span_ns)
{
	span_ns = MC_MIN(MC_MAX(span_ns, (uint64_t)WARM_NS), (uint64_t)WARM_MAX_NS);
	atomic_store_explicit(&w->warm_span_ns, span_ns, memory_order_relaxed);
}

bool mc_warm_earned(const struct mc_worker *w)
{
	return atomic_load_explicit(&w->returns, memory_order_relaxed) >= RETURNS_MIN;
}

bool mc_warm_may_keep(const struct mc_worker *w, uint64_t now)
{
	if (!mc_warm_earned(w) || now < atomic_load_explicit(&w->cold_until_ns, memory_order_relaxed))
		return false;
	for (const struct mc_client *c = w->clients; c; c = c->next)
		if (c->serves)
			return false;
	return true;
}

void mc_warm_late(struct mc_worker *w, uint64_t now)
{
	uint64_t since = now - MC_MIN(atomic_load_explicit(&w->cold_until_ns, memory_order_relaxed), now);

	w->cold_ns = since < 10 * w->cold_ns ? MC_MIN(2 * w->cold_ns, COLD_MAX_NS) : COLD_MIN_NS;
	atomic_store_explicit(&w->cold_until_ns, now + w->cold_ns, memory_order_relaxed);
}
