/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of a worker, shared by worker.c (baton, thread, turn), worker_drive.c
 * (callers that wait) and worker_poll.c (watches, timers).
 *
 * Three epolls' worth of waiting:
 *   inner   the data descriptors, level-triggered; polled by the holder of the baton
 *   outer   what the worker's own thread sleeps on: inner (EPOLLONESHOT) and thread_wake.  A
 *           caller that takes the baton disarms inner in it and rearms it when he leaves, so the
 *           thread is not woken for what a caller handles.
 *   poll    what a caller that holds the baton sleeps on: inner and holder_wake
 */
#ifndef MC_CORE_WORKER_IMPL_H
#define MC_CORE_WORKER_IMPL_H

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/epoll.h>

#include "core/util/check.h"
#include "worker.h"

#define WORKER_EVENTS 64
#define TICK_BUSY_NS (10 * MC_MSEC)
#define SPIN_ALONE_NS 2000 /* of a spin, before it lets others run */
#define SPIN_SHARED_NS 1500 /* a yield that took as long let somebody run */
#define SPIN_LOST_NS 400000 /* others that ran for so long had nothing to do with us */
/* So many times what was lost we neither yield nor spin on: once may have been the hypervisor's doing, and what we
 * wait for lives on this processor; who computes here takes the next yield, too, and each time the span doubles. */
#define SPIN_LOST_MIN 4
#define SPIN_LOST_MAX 128 /* of our time is lost so at most, one part */
#define SPIN_YIELDS 32 /* that lost nothing: it was once */
#define SPIN_TRY 16 /* spins that missed in a row until a whole one is tried */

struct mc_worker {
	/* Set once, but for spin_ns, which is the holder's; own_thread and cpu_copy of args are only where these
	 * two begin. */
	struct mc_worker_args args;
	atomic_bool own_thread, cpu_copy; /* known only once the plugin is open */
	char name[16];
	int inner, outer, thread_wake, holder_wake;
	pthread_t thread;

	/* Any thread. */
	_Alignas(MC_CACHE_LINE) _Atomic(struct mc_post *) inbox; /* newest first */
	atomic_uint posting;          /* threads inside of mc_worker_post: it is not freed before they have left */
	atomic_uint baton;            /* 1: held */
	_Atomic(const void *) holder; /* token of the thread that holds it */
	atomic_bool holder_asleep;    /* in poll: needs holder_wake */
	atomic_bool thread_signalled; /* thread_wake was written and not yet read */
	_Atomic uint64_t thread_until; /* when the sleeping thread wakes by itself; 0: awake */
	_Atomic uint64_t next_wake;   /* when the loop must turn again; left by the last holder */
	atomic_bool fired;            /* the thread was woken by inner, which disarmed it: armed is not true */
	atomic_bool tick_now;         /* clients shall tick at the next turn */
	atomic_bool stopping;

	/* Callers that come and go, see mc_worker_pause.  Guesses: no order is needed between them. */
	_Atomic uint64_t warm_ns;    /* when the baton was put down warm; 0: it was given back */
	_Atomic uint64_t warm_span_ns; /* how long it may lie like that */
	_Atomic uint64_t paused_ns;  /* when a caller last put it down, warm or not; 0: judged */
	_Atomic uint64_t cold_until_ns; /* it was left lying: not before this again */
	atomic_uint returns;         /* how often callers were back soon, less when they were not */
	atomic_uint undriven;        /* submits in a row that nobody has waited after */

	/* A caller that waits for the baton; its bell is rung when the thread gives it up.  The lock
	 * guards the slot, so that a bell is not rung after its owner took it back. */
	pthread_mutex_t want_lock;
	struct mc_bell *want;
	atomic_bool wanted;

	/* The holder's. */
	_Alignas(MC_CACHE_LINE) struct mc_client *clients;
	bool armed; /* inner is armed in outer: the thread may sleep on it */
	unsigned nr_watches;
	unsigned turns_since_poll;
	uint64_t now;            /* monotonic, as the last turn began */
	uint64_t last_turn_boot; /* CLOCK_BOOTTIME of the last turn */
	bool was_linked;         /* some client had peers at the end of it, so ticks were due since */
	uint64_t next_tick;      /* monotonic; 0: none */
	uint64_t cold_ns;        /* how long callers last were not to put the baton down warm; the thread's */
	uint64_t spin_ns;        /* adaptive, <= args.spin_ns */
	unsigned spin_misses;    /* in a row */
	uint64_t no_yield_until; /* who computes here is not one that we wait for */
	unsigned lost_span;      /* SPIN_LOST_MIN to _MAX, of the last loss; 0: none yet */
	unsigned yields;         /* since then */
	bool shared;             /* the last yield went to somebody who was soon done, who may be the one who answers */
	struct mc_timer **timers; /* heap by deadline */
	unsigned nr_timers, cap_timers;
	struct epoll_event events[WORKER_EVENTS]; /* of the running poll; entries of removed watches are cleared */
	int nr_events;
};

/* worker_poll.c */
int mc_worker_poll(struct mc_worker *w);             /* handle ready watches, no waiting */
int mc_worker_fire(struct mc_worker *w, uint64_t now); /* timers that are due */
uint64_t mc_worker_next_deadline(const struct mc_worker *w); /* UINT64_MAX: none */

/* worker_warm.c.  [worker], but for what is said */
/* A caller is back: judge his pause.  [any] */
void mc_warm_returned(struct mc_worker *w, bool drives, uint64_t now);
void mc_warm_waited(struct mc_worker *w); /* a caller waits, though what he waits for may be done.  [any] */
bool mc_warm_earned(const struct mc_worker *w);          /* callers have come back soon so far.  [any] */
bool mc_warm_may_keep(const struct mc_worker *w, uint64_t now);
void mc_warm_late(struct mc_worker *w, uint64_t now);    /* work was left lying: cold for a while */
uint64_t mc_warm_span(const struct mc_worker *w);        /* how long a baton stays warm.  [any] */
void mc_warm_span_set(struct mc_worker *w, uint64_t span_ns); /* within its bounds; the thread's */

/* worker_drive.c: what mc_bell_wake wakes after the first waits for the second.  They nest. */
void mc_bell_hold(void);
void mc_bell_let_go(void);
void mc_bell_wake_all(void); /* those put off so far */

/* worker.c */
bool mc_worker_arm(struct mc_worker *w); /* false: a client has work */
void mc_worker_cool(struct mc_worker *w); /* a warm baton becomes the thread's, if it is free */
bool mc_worker_spin_on(const struct mc_worker *w); /* some client is polled */
/* The spin after activity paid off, or it did not: adapt its bound.  Two ends that both sleep make each
 * other wait for longer than a short spin, so now and then a whole one is tried. */
static inline void mc_worker_spin_result(struct mc_worker *w, bool hit)
{
	if (hit) {
		w->spin_misses = 0;
		w->spin_ns = MC_MIN(w->args.spin_ns, w->spin_ns * 2 + 1000);
	} else if (++w->spin_misses % SPIN_TRY == 0) {
		w->spin_ns = w->args.spin_ns;
	} else {
		w->spin_ns = MC_MAX(w->spin_ns / 2, w->args.spin_ns / 8);
	}
}

static inline void mc_cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield" ::: "memory");
#endif
}

/* Is a spin that has found nothing for so long to go on?  Not beside one who computes on this processor: whoever sleeps
 * is woken in his place, and who spins takes from him.  [worker] */
static inline bool mc_worker_spins(const struct mc_worker *w, uint64_t spin_ns, uint64_t idle_ns, uint64_t now)
{
	return idle_ns < spin_ns && (idle_ns < SPIN_ALONE_NS || now >= w->no_yield_until);
}

/* What a yield has cost.  [worker] */
static inline void mc_worker_yielded(struct mc_worker *w, uint64_t now, uint64_t lost_ns)
{
	w->yields++;
	w->shared = lost_ns >= SPIN_SHARED_NS && lost_ns <= SPIN_LOST_NS;
	if (lost_ns <= SPIN_LOST_NS)
		return;
	w->lost_span = w->yields > SPIN_YIELDS ? SPIN_LOST_MIN : MC_MIN(MC_MAX(2 * w->lost_span, SPIN_LOST_MIN), SPIN_LOST_MAX);
	w->yields = 0;
	w->no_yield_until = now + lost_ns * w->lost_span;
}

/* Is somebody else to run between two looks of a spin that has found nothing for so long?  The answer may be another
 * process's to give, on this very processor; at once, if there was one last time.  [worker] */
static inline bool mc_worker_gives_way(const struct mc_worker *w, uint64_t idle_ns)
{
	return w->shared || idle_ns >= SPIN_ALONE_NS;
}

/* Between two looks.  [worker] */
static inline void mc_worker_relax(struct mc_worker *w, uint64_t idle_ns, uint64_t now)
{
	if (!mc_worker_gives_way(w, idle_ns)) {
		mc_cpu_relax();
		return;
	}
	sched_yield();
	mc_worker_yielded(w, now, mc_now_ns() - now);
}

#endif
