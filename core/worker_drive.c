/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Callers that wait: they drive the free workers of what they wait for, spin for
 * a bounded while after activity and sleep in the kernel after that.  Without a
 * baton they block on their bell, they never spin.
 */
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "worker_impl.h"

#define DRIVE_MAX 8

/* ---- bells ---------------------------------------------------------------------------------- */

uint32_t *mc_bell_strike(struct mc_bell *bell)
{
	struct mc_worker *sleeper;
	uint64_t one = 1;

	__atomic_add_fetch(&bell->seq, 1, __ATOMIC_SEQ_CST);
	sleeper = __atomic_load_n(&bell->sleeper, __ATOMIC_SEQ_CST);
	if (sleeper)
		while (write(sleeper->holder_wake, &one, sizeof one) < 0 && errno == EINTR)
			;
	return __atomic_load_n(&bell->waiters, __ATOMIC_SEQ_CST) ? &bell->seq : NULL;
}

/* Wakes that a turn of this thread puts off to its end: who is woken often runs at once in our place,
 * and what the turn still has to send would wait for him. */
#define LATER_MAX 16
static MC_PER_THREAD struct {
	unsigned depth, nr;
	uint32_t *futexes[LATER_MAX];
} later;

static void wake_now(uint32_t *futex)
{
	syscall(SYS_futex, futex, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

void mc_bell_wake(uint32_t *futex)
{
	if (!futex)
		return;
	if (later.depth && later.nr < LATER_MAX)
		later.futexes[later.nr++] = futex;
	else
		wake_now(futex);
}

void mc_bell_hold(void)
{
	later.depth++;
}

void mc_bell_wake_all(void)
{
	while (later.nr)
		wake_now(later.futexes[--later.nr]);
}

void mc_bell_let_go(void)
{
	if (!--later.depth)
		mc_bell_wake_all();
}

void mc_bell_ring(struct mc_bell *bell)
{
	mc_bell_wake(mc_bell_strike(bell));
}

static void span_to(uint64_t deadline_ns, struct timespec *ts)
{
	uint64_t now = mc_now_ns();
	uint64_t span = deadline_ns > now ? deadline_ns - now : 0;

	/* A bound, since the clock that tests drive may move while we sleep. */
	if (span > 3600 * MC_SEC)
		span = 3600 * MC_SEC;
	ts->tv_sec = (time_t)(span / MC_SEC);
	ts->tv_nsec = (long)(span % MC_SEC);
}

static void bell_sleep(struct mc_bell *bell, uint32_t seq, uint64_t deadline_ns)
{
	struct timespec ts;

	span_to(deadline_ns, &ts);
	syscall(SYS_futex, &bell->seq, FUTEX_WAIT_PRIVATE, seq, &ts, NULL, 0);
}

/* ---- driving -------------------------------------------------------------------------------- */

struct drive {
	struct mc_worker *held[DRIVE_MAX];
	size_t nr;
	bool has_copy;
	uint64_t idle_since;
};

static void drive_take(struct drive *d, struct mc_worker *const *workers, size_t nr, uint64_t now)
{
	for (size_t i = 0; i < nr && d->nr < DRIVE_MAX; i++) {
		if (mc_worker_mine(workers[i]))
			continue;
		if (d->has_copy && atomic_load(&workers[i]->cpu_copy)) {
			mc_worker_cool(workers[i]);
			continue;
		}
		if (!mc_worker_resume(workers[i], true, now))
			continue;
		d->held[d->nr++] = workers[i];
		d->has_copy |= atomic_load(&workers[i]->cpu_copy);
	}
}

static void drive_leave(struct drive *d)
{
	while (d->nr)
		mc_worker_pause(d->held[--d->nr]);
	d->has_copy = false;
}

/* Block without a baton; the workers' own threads do the work. */
static void wait_outside(struct mc_worker *const *workers, size_t nr, struct mc_bell *bell,
			 bool (*done)(void *arg), void *arg, uint64_t deadline_ns)
{
	uint32_t seq;
	struct mc_worker *w = nr && !atomic_load(&workers[0]->own_thread) ? workers[0] : NULL;

	__atomic_add_fetch(&bell->waiters, 1, __ATOMIC_SEQ_CST);
	seq = __atomic_load_n(&bell->seq, __ATOMIC_SEQ_CST);
	if (w) {
		pthread_mutex_lock(&w->want_lock);
		if (!w->want) {
			w->want = bell;
			atomic_store(&w->wanted, true);
		}
		pthread_mutex_unlock(&w->want_lock);
	}
	if (!done(arg) && (!w || atomic_load(&w->baton)))
		bell_sleep(bell, seq, deadline_ns);
	if (w) {
		pthread_mutex_lock(&w->want_lock);
		if (w->want == bell) {
			w->want = NULL;
			atomic_store(&w->wanted, false);
		}
		pthread_mutex_unlock(&w->want_lock);
	}
	__atomic_sub_fetch(&bell->waiters, 1, __ATOMIC_SEQ_CST);
}

/* Sleep in the kernel while holding the batons: descriptors, posts, timers and the bell wake us. */
static void wait_inside(struct drive *d, struct mc_bell *bell, bool (*done)(void *arg), void *arg,
			uint64_t deadline_ns)
{
	struct pollfd fds[2 * DRIVE_MAX];
	struct timespec ts;
	uint64_t until = deadline_ns, count;
	bool ready = true;

	for (size_t i = 0; i < d->nr; i++) {
		struct mc_worker *w = d->held[i];

		atomic_store(&w->holder_asleep, true);
		until = MC_MIN(until, mc_worker_next_deadline(w));
		fds[2 * i] = (struct pollfd){.fd = w->inner, .events = POLLIN};
		fds[2 * i + 1] = (struct pollfd){.fd = w->holder_wake, .events = POLLIN};
		ready &= mc_worker_arm(w);
	}
	__atomic_store_n(&bell->sleeper, d->held[0], __ATOMIC_SEQ_CST);
	if (ready && !done(arg)) {
		span_to(until, &ts);
		ppoll(fds, 2 * d->nr, &ts, NULL);
	}
	__atomic_store_n(&bell->sleeper, NULL, __ATOMIC_SEQ_CST);
	for (size_t i = 0; i < d->nr; i++) {
		struct mc_worker *w = d->held[i];

		atomic_store(&w->holder_asleep, false);
		if (fds[2 * i + 1].revents)
			while (read(w->holder_wake, &count, sizeof count) < 0 && errno == EINTR)
				;
		w->turns_since_poll = UINT32_MAX / 2; /* look at the descriptors first */
	}
}

/* The time: as the turn began, or after a sleep. */
static uint64_t drive_turn(struct drive *d, struct mc_bell *bell, bool (*done)(void *arg), void *arg,
			   uint64_t deadline_ns)
{
	uint64_t spin = 0, now;
	int n = 0;

	for (size_t i = 0; i < d->nr; i++) {
		n += mc_worker_turn(d->held[i]);
		spin = MC_MAX(spin, d->held[i]->spin_ns);
	}
	now = d->held[0]->now;
	if (n) {
		if (d->idle_since)
			mc_worker_spin_result(d->held[0], true);
		d->idle_since = 0;
		return now;
	}
	if (done(arg))
		return now;
	if (!d->idle_since)
		d->idle_since = now;
	if (mc_worker_spins(d->held[0], spin, now - d->idle_since, now)) {
		mc_worker_relax(d->held[0], now - d->idle_since, now);
		return now;
	}
	mc_worker_spin_result(d->held[0], false);
	for (size_t i = 0; i < d->nr; i++)
		n += mc_worker_poll(d->held[i]);
	if (!n)
		wait_inside(d, bell, done, arg, deadline_ns);
	d->idle_since = 0;
	return mc_now_ns();
}

int mc_worker_drive(struct mc_worker *const *workers, size_t nr, struct mc_bell *bell,
		    bool (*done)(void *arg), void *arg, uint64_t deadline_ns)
{
	struct drive d = {.nr = 0};
	uint64_t now = 0;
	int r = 0;

	if (mc_worker_any_mine())
		return done(arg) ? 0 : -EDEADLK;
	for (size_t i = 0; i < nr; i++)
		mc_warm_waited(workers[i]);
	while (!done(arg)) {
		if (!now)
			now = mc_now_ns();
		if (now >= deadline_ns) {
			r = -ETIMEDOUT;
			break;
		}
		if (!d.nr)
			drive_take(&d, workers, nr, now);
		if (d.nr) {
			now = drive_turn(&d, bell, done, arg, deadline_ns);
		} else {
			wait_outside(workers, nr, bell, done, arg, deadline_ns);
			now = 0;
		}
	}
	drive_leave(&d);
	return r;
}

/* ---- calls ---------------------------------------------------------------------------------- */

struct call {
	struct mc_post post;
	void (*f)(void *arg);
	void *arg;
	struct mc_bell bell;
	uint32_t state; /* 1: done, 2: the runner is out of this frame */
};

static void call_run(struct mc_post *post)
{
	struct call *c = MC_CONTAINER_OF(post, struct call, post);

	c->f(c->arg);
	__atomic_store_n(&c->state, 1, __ATOMIC_SEQ_CST);
	mc_bell_ring(&c->bell);
	__atomic_store_n(&c->state, 2, __ATOMIC_RELEASE);
}

static bool call_done(void *arg)
{
	return __atomic_load_n(&((struct call *)arg)->state, __ATOMIC_SEQ_CST) != 0;
}

void mc_worker_call(struct mc_worker *w, void (*f)(void *arg), void *arg)
{
	struct call c = {.post.run = call_run, .f = f, .arg = arg};

	if (mc_worker_mine(w)) {
		f(arg);
		return;
	}
	mc_worker_post(w, &c.post);
	mc_worker_drive(&w, 1, &c.bell, call_done, &c, UINT64_MAX);
	while (__atomic_load_n(&c.state, __ATOMIC_ACQUIRE) != 2)
		mc_cpu_relax();
}
