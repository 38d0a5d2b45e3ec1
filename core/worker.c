/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker's thread, baton, inbox and turn.  The rule that makes hand-overs safe:
 * a poster pushes, then looks whether somebody holds the baton; a holder gives
 * the baton back, then looks into the inbox.  Both in sequentially consistent
 * order, so a message is seen by one of them.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "clock.h"
#include "core/util/signals.h"
#include "worker_impl.h"

/* How many turns without success of progress go by between two looks at the inner epoll. */
#define TURNS_PER_POLL 8

#define PAST_NS (20 * MC_MSEC)       /* a pause this long ago says nothing any more */

static MC_PER_THREAD unsigned held_count;
static MC_PER_THREAD char thread_token; /* its address names the thread */

bool mc_worker_mine(const struct mc_worker *w)
{
	return atomic_load_explicit(&w->holder, memory_order_relaxed) == &thread_token;
}

bool mc_worker_any_mine(void)
{
	return held_count != 0;
}

/* A user's callback may wait for what a thread does that is still to be woken. */
void mc_worker_callback(bool begin)
{
	if (begin)
		mc_bell_wake_all();
	held_count += begin ? 1 : -1u;
}

bool mc_worker_cpu_copy(const struct mc_worker *w)
{
	return atomic_load(&w->cpu_copy);
}

static void kick(int fd)
{
	uint64_t one = 1;

	while (write(fd, &one, sizeof one) < 0 && errno == EINTR)
		;
}

static void wake_thread(struct mc_worker *w)
{
	if (!atomic_exchange(&w->thread_signalled, true))
		kick(w->thread_wake);
}

/* ---- baton ---------------------------------------------------------------------------------- */

static bool take(struct mc_worker *w)
{
	if (atomic_load_explicit(&w->baton, memory_order_relaxed) || atomic_exchange(&w->baton, 1))
		return false;
	atomic_store_explicit(&w->holder, &thread_token, memory_order_relaxed);
	held_count++;
	return true;
}

static void inner_set(struct mc_worker *w, bool on)
{
	struct epoll_event ev = {.events = on ? EPOLLIN | EPOLLONESHOT : 0, .data.fd = w->inner};

	epoll_ctl(w->outer, EPOLL_CTL_MOD, w->inner, &ev);
	w->armed = on;
}

bool mc_worker_enter(struct mc_worker *w)
{
	if (atomic_load(&w->own_thread) || !take(w))
		return false;
	if (w->armed)
		inner_set(w, false);
	atomic_store_explicit(&w->fired, false, memory_order_relaxed);
	return true;
}

/* Somebody waits for the baton: tell him that it is free. */
static void ring_want(struct mc_worker *w)
{
	uint32_t *futex = NULL;

	if (!atomic_load(&w->wanted))
		return;
	pthread_mutex_lock(&w->want_lock);
	atomic_store(&w->wanted, false);
	if (w->want)
		futex = mc_bell_strike(w->want);
	w->want = NULL;
	pthread_mutex_unlock(&w->want_lock);
	mc_bell_wake(futex);
}

/* next: when the loop must turn again.  Left before the baton is, so that the thread, which looks at
 * it after it has said how long it will sleep, or the leaver, who looks at that, sees the other's.
 * warm: the time if a caller is about to come back, else 0. */
static void give(struct mc_worker *w, uint64_t next, uint64_t warm)
{
	if (!warm && w->nr_watches && !w->armed)
		inner_set(w, true);
	atomic_store_explicit(&w->warm_ns, warm, memory_order_relaxed);
	atomic_store(&w->next_wake, next);
	atomic_store_explicit(&w->holder, NULL, memory_order_relaxed);
	held_count--;
	atomic_store(&w->baton, 0);
	/* The thread was woken, and so disarmed what was just armed, but could not have the baton yet. */
	if (atomic_load(&w->fired))
		wake_thread(w);
}

static bool has_mail(struct mc_worker *w)
{
	return atomic_load(&w->inbox) || atomic_load(&w->tick_now);
}

void mc_worker_leave(struct mc_worker *w)
{
	uint64_t next = mc_worker_next_deadline(w);
	bool quiet = mc_worker_arm(w);

	give(w, next, 0);
	if (!quiet || has_mail(w) || next < atomic_load(&w->thread_until))
		wake_thread(w);
	ring_want(w);
}

/* ---- callers that come and go -------------------------------------------------------------- */

bool mc_worker_resume(struct mc_worker *w, bool drives, uint64_t now)
{
	mc_warm_returned(w, drives, now);
	return mc_worker_enter(w);
}

/* This caller goes on without a warm baton: let the thread have it. */
void mc_worker_cool(struct mc_worker *w)
{
	if (atomic_load(&w->warm_ns) && mc_worker_enter(w))
		mc_worker_leave(w);
}

void mc_worker_pause(struct mc_worker *w)
{
	uint64_t now, next;

	/* Other callers' work: cheaper done than handed over. */
	if (has_mail(w))
		mc_worker_turn(w);
	now = mc_now_ns();
	atomic_store_explicit(&w->paused_ns, now, memory_order_relaxed);
	if (!mc_warm_may_keep(w, now)) {
		mc_worker_leave(w);
		return;
	}
	next = MC_MIN(mc_worker_next_deadline(w), now + mc_warm_span(w));
	give(w, next, now);
	/* Who wants the baton is not told: whoever comes back drives his work too. */
	if (has_mail(w) || next < atomic_load(&w->thread_until))
		wake_thread(w);
}

/* ---- inbox ---------------------------------------------------------------------------------- */

/* What the message says may let another thread end the worker, before this one has looked whom to wake. */
void mc_worker_post(struct mc_worker *w, struct mc_post *post)
{
	atomic_fetch_add_explicit(&w->posting, 1, memory_order_relaxed);
	post->next = atomic_load_explicit(&w->inbox, memory_order_relaxed);
	while (!atomic_compare_exchange_weak(&w->inbox, &post->next, post))
		;
	mc_worker_nudge(w);
	atomic_fetch_sub_explicit(&w->posting, 1, memory_order_release);
}

void mc_worker_nudge(struct mc_worker *w)
{
	if (!atomic_load(&w->baton))
		wake_thread(w);
	else if (atomic_load(&w->holder_asleep) && atomic_exchange(&w->holder_asleep, false))
		kick(w->holder_wake);
}

void mc_worker_tick_now(struct mc_worker *w)
{
	atomic_store(&w->tick_now, true);
	mc_worker_nudge(w);
}

static int drain(struct mc_worker *w)
{
	struct mc_post *list, *oldest = NULL;
	int n = 0;

	if (!atomic_load_explicit(&w->inbox, memory_order_relaxed))
		return 0;
	list = atomic_exchange(&w->inbox, NULL);
	while (list) {
		struct mc_post *next = list->next;

		list->next = oldest;
		oldest = list;
		list = next;
	}
	while (oldest) {
		struct mc_post *next = oldest->next;

		oldest->run(oldest);
		oldest = next;
		n++;
	}
	return n;
}

/* ---- turn ----------------------------------------------------------------------------------- */

static void check_frozen(struct mc_worker *w)
{
	uint64_t now = mc_boot_ns();
	uint64_t gap = now - w->last_turn_boot;

	w->last_turn_boot = now;
	/* Without peers the loop may sleep for as long as it likes. */
	if (MC_LIKELY(gap <= w->args.peer_timeout_ns / 2) || !w->was_linked)
		return;
	for (struct mc_client *c = w->clients; c; c = c->next)
		if (c->linked && c->ops->frozen)
			c->ops->frozen(c);
}

static void tick(struct mc_worker *w, uint64_t now)
{
	uint64_t span = 0;
	bool linked = false;
	bool due = w->next_tick && now >= w->next_tick;

	if (atomic_load_explicit(&w->tick_now, memory_order_relaxed))
		due |= atomic_exchange(&w->tick_now, false);
	for (struct mc_client *c = w->clients, *next; c; c = next) {
		next = c->next;
		if (!c->busy && !c->linked)
			continue;
		if (due && c->ops->tick)
			c->ops->tick(c, now);
		linked |= c->linked;
		if (c->busy)
			span = TICK_BUSY_NS;
		else if (c->linked && !span)
			span = w->args.peer_timeout_ns / 10;
	}
	w->was_linked = linked;
	if (!span)
		w->next_tick = 0;
	else if (!w->next_tick || now >= w->next_tick || w->next_tick > now + span)
		w->next_tick = now + span;
}

int mc_worker_turn(struct mc_worker *w)
{
	uint64_t now = mc_now_ns();
	int n = 0;

	w->now = now;
	check_frozen(w);
	mc_bell_hold();
	n += drain(w);
	if (w->nr_timers)
		n += mc_worker_fire(w, now);
	for (struct mc_client *c = w->clients, *next; c; c = next) {
		next = c->next;
		n += c->ops->progress(c, now);
	}
	if (++w->turns_since_poll >= TURNS_PER_POLL || (!n && !mc_worker_spin_on(w)))
		n += mc_worker_poll(w);
	tick(w, now);
	mc_bell_let_go();
	return n;
}

bool mc_worker_spin_on(const struct mc_worker *w)
{
	for (const struct mc_client *c = w->clients; c; c = c->next)
		if (c->polled)
			return true;
	return false;
}

bool mc_worker_arm(struct mc_worker *w)
{
	for (struct mc_client *c = w->clients; c; c = c->next)
		if (c->ops->arm(c) == -EBUSY)
			return false;
	return !atomic_load(&w->inbox) && !atomic_load(&w->tick_now);
}

/* ---- the thread ----------------------------------------------------------------------------- */

/* Turn until nothing has happened for the spin time, or a caller wants the baton. */
static void thread_run(struct mc_worker *w)
{
	uint64_t idle_since = 0;

	while (!atomic_load_explicit(&w->stopping, memory_order_relaxed)) {
		if (mc_worker_turn(w)) {
			if (idle_since)
				mc_worker_spin_result(w, true);
			idle_since = 0;
		} else {
			uint64_t now = mc_now_ns();

			if (!idle_since)
				idle_since = now;
			if (!mc_worker_spins(w, w->spin_ns, now - idle_since, now)) {
				mc_worker_spin_result(w, false);
				mc_worker_poll(w);
				if (mc_worker_arm(w))
					return;
				idle_since = 0;
			} else {
				mc_worker_relax(w, now - idle_since, now);
			}
		}
		if (atomic_load_explicit(&w->wanted, memory_order_relaxed) && !atomic_load(&w->own_thread))
			return;
	}
}

static int until_ms(uint64_t until)
{
	uint64_t now, ms;

	if (until == UINT64_MAX)
		return -1;
	now = mc_now_ns();
	if (until <= now)
		return 0;
	ms = (until - now + MC_MSEC - 1) / MC_MSEC;
	return ms > 60000 ? 60000 : (int)ms;
}

static void thread_sleep(struct mc_worker *w, uint64_t until)
{
	struct epoll_event ev[2];
	uint64_t count;
	int n;

	atomic_store(&w->thread_until, until);
	/* Who holds the baton now will look at thread_until when he leaves it. */
	if (!atomic_load(&w->baton)) {
		if (has_mail(w)) {
			atomic_store(&w->thread_until, 0);
			return;
		}
		until = MC_MIN(until, atomic_load(&w->next_wake));
	}
	n = epoll_wait(w->outer, ev, 2, until_ms(until));
	atomic_store(&w->thread_until, 0);
	for (int i = 0; i < n; i++) {
		if (ev[i].data.fd != w->thread_wake) {
			atomic_store(&w->fired, true);
			continue;
		}
		while (read(w->thread_wake, &count, sizeof count) < 0 && errno == EINTR)
			;
		atomic_store(&w->thread_signalled, false);
	}
}

/* A caller is about to come back: do what was posted and what is due, nothing more.  When the
 * thread is to look again. */
static uint64_t thread_visit(struct mc_worker *w)
{
	uint64_t warm = atomic_load(&w->warm_ns), next;

	mc_worker_turn(w);
	next = MC_MIN(mc_worker_next_deadline(w), warm + mc_warm_span(w));
	give(w, next, warm);
	return next;
}

/* The worker is the thread's until a caller wants it or nothing more comes. */
static uint64_t thread_drive(struct mc_worker *w, uint64_t now)
{
	uint64_t next;

	mc_warm_span_set(w, 0);
	if (atomic_load(&w->warm_ns) && mc_worker_turn(w))
		mc_warm_late(w, now);
	thread_run(w);
	/* A caller that wanted the baton may be gone again: look soon. */
	next = mc_worker_arm(w) ? mc_worker_next_deadline(w) : mc_now_ns() + MC_MSEC;
	give(w, next, 0);
	ring_want(w);
	return next;
}

static bool is_warm(struct mc_worker *w, uint64_t now)
{
	uint64_t warm = atomic_load(&w->warm_ns);

	return warm && now - warm < mc_warm_span(w);
}

/* How long the thread sleeps while a caller holds the baton, and serves timers and ticks. */
static uint64_t look_again(struct mc_worker *w, uint64_t now)
{
	uint64_t warm = atomic_load(&w->warm_ns);

	/* He will pause within this, and need not wake us. */
	return now + (warm && now - warm < PAST_NS ? mc_warm_span(w) : TICK_BUSY_NS);
}

static void *thread_main(void *arg)
{
	struct mc_worker *w = arg;

	while (!atomic_load(&w->stopping)) {
		uint64_t now = mc_now_ns(), until = look_again(w, now);

		if (is_warm(w, now) && !has_mail(w) && now < atomic_load(&w->next_wake)) {
			/* A caller has been here since the thread went to sleep. */
			until = atomic_load(&w->next_wake);
			mc_warm_span_set(w, 2 * mc_warm_span(w));
		} else if (take(w)) {
			if (atomic_exchange(&w->fired, false))
				w->armed = false;
			until = is_warm(w, now) ? thread_visit(w) : thread_drive(w, now);
		}
		thread_sleep(w, until);
	}
	return NULL;
}

/* ---- life ----------------------------------------------------------------------------------- */

static int open_fds(struct mc_worker *w)
{
	struct epoll_event inner = {.events = 0};
	struct epoll_event wake = {.events = EPOLLIN};

	w->inner = epoll_create1(EPOLL_CLOEXEC);
	w->outer = epoll_create1(EPOLL_CLOEXEC);
	w->thread_wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	w->holder_wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (w->inner < 0 || w->outer < 0 || w->thread_wake < 0 || w->holder_wake < 0)
		return -errno;
	inner.data.fd = w->inner;
	wake.data.fd = w->thread_wake;
	if (epoll_ctl(w->outer, EPOLL_CTL_ADD, w->inner, &inner) < 0 ||
	    epoll_ctl(w->outer, EPOLL_CTL_ADD, w->thread_wake, &wake) < 0)
		return -errno;
	return 0;
}

static void close_fds(struct mc_worker *w)
{
	int fds[] = {w->inner, w->outer, w->thread_wake, w->holder_wake};

	for (size_t i = 0; i < MC_ARRAY_SIZE(fds); i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

static int start_thread(struct mc_worker *w)
{
	sigset_t all, old;
	int r;

	/* The application's signal handlers run on its own threads. */
	mc_signals_to_block(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&w->thread, NULL, thread_main, w);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!r)
		pthread_setname_np(w->thread, w->name);
	return -r;
}

int mc_worker_new(const struct mc_worker_args *args, struct mc_worker **ret_worker)
{
	struct mc_worker *w = aligned_alloc(MC_CACHE_LINE, sizeof *w);
	int r;

	if (!w)
		return -ENOMEM;
	memset(w, 0, sizeof *w);
	w->args = *args;
	atomic_init(&w->own_thread, args->own_thread);
	atomic_init(&w->cpu_copy, args->cpu_copy);
	snprintf(w->name, sizeof w->name, "mc:%s", args->name);
	w->args.name = w->name;
	w->inner = w->outer = w->thread_wake = w->holder_wake = -1;
	w->spin_ns = args->spin_ns;
	mc_warm_span_set(w, 0);
	atomic_init(&w->next_wake, UINT64_MAX);
	w->last_turn_boot = mc_boot_ns();
	pthread_mutex_init(&w->want_lock, NULL);
	r = open_fds(w);
	if (!r)
		r = start_thread(w);
	if (r < 0) {
		close_fds(w);
		pthread_mutex_destroy(&w->want_lock);
		free(w);
		return r;
	}
	*ret_worker = w;
	return 0;
}

void mc_worker_set_flags(struct mc_worker *w, bool own_thread, bool cpu_copy)
{
	atomic_store(&w->own_thread, own_thread);
	atomic_store(&w->cpu_copy, cpu_copy);
}

void mc_worker_set_spin(struct mc_worker *w, uint64_t spin_ns)
{
	w->args.spin_ns = w->spin_ns = spin_ns;
	w->spin_misses = 0;
}

void mc_worker_free(struct mc_worker *w)
{
	if (!w)
		return;
	atomic_store(&w->stopping, true);
	kick(w->thread_wake);
	pthread_join(w->thread, NULL);
	while (atomic_load_explicit(&w->posting, memory_order_acquire))
		sched_yield();
	drain(w);
	close_fds(w);
	pthread_mutex_destroy(&w->want_lock);
	free(w->timers);
	free(w);
}

void mc_worker_add(struct mc_worker *w, struct mc_client *client)
{
	client->worker = w;
	client->next = w->clients;
	w->clients = client;
}

void mc_worker_remove(struct mc_worker *w, struct mc_client *client)
{
	struct mc_client **at = &w->clients;

	while (*at && *at != client)
		at = &(*at)->next;
	if (*at)
		*at = client->next;
	client->worker = NULL;
}
