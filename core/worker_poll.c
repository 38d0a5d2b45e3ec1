/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Watches and timers of a worker: data descriptors in the inner epoll, timers in
 * a heap.  Everything here runs under the baton.
 */
#include <errno.h>
#include <stdlib.h>

#include "worker_impl.h"

int mc_worker_watch(struct mc_worker *w, struct mc_watch *watch)
{
	struct epoll_event ev = {.events = watch->events, .data.ptr = watch};

	if (epoll_ctl(w->inner, EPOLL_CTL_ADD, watch->fd, &ev) < 0)
		return -errno;
	watch->host = w;
	w->nr_watches++;
	return 0;
}

int mc_worker_rewatch(struct mc_worker *w, struct mc_watch *watch, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = watch};

	if (watch->events == events)
		return 0;
	if (epoll_ctl(w->inner, EPOLL_CTL_MOD, watch->fd, &ev) < 0)
		return -errno;
	watch->events = events;
	return 0;
}

void mc_worker_unwatch(struct mc_worker *w, struct mc_watch *watch)
{
	if (!watch->host)
		return;
	epoll_ctl(w->inner, EPOLL_CTL_DEL, watch->fd, NULL);
	watch->host = NULL;
	w->nr_watches--;
	for (int i = 0; i < w->nr_events; i++)
		if (w->events[i].data.ptr == watch)
			w->events[i].data.ptr = NULL;
}

int mc_worker_poll(struct mc_worker *w)
{
	int handled = 0;

	w->turns_since_poll = 0;
	if (!w->nr_watches)
		return 0;
	w->nr_events = epoll_wait(w->inner, w->events, WORKER_EVENTS, 0);
	for (int i = 0; i < w->nr_events; i++) {
		struct mc_watch *watch = w->events[i].data.ptr;

		if (!watch)
			continue;
		watch->ready(watch, w->events[i].events);
		handled++;
	}
	w->nr_events = 0;
	return handled;
}

/* ---- timers: a binary heap; timer->host[0] is the index + 1 ------------------------------- */

static void timer_place(struct mc_worker *w, unsigned idx, struct mc_timer *t)
{
	w->timers[idx] = t;
	t->host[0] = (void *)(uintptr_t)(idx + 1);
}

static void timer_up(struct mc_worker *w, unsigned idx, struct mc_timer *t)
{
	while (idx) {
		unsigned parent = (idx - 1) / 2;

		if (w->timers[parent]->deadline_ns <= t->deadline_ns)
			break;
		timer_place(w, idx, w->timers[parent]);
		idx = parent;
	}
	timer_place(w, idx, t);
}

static void timer_down(struct mc_worker *w, unsigned idx, struct mc_timer *t)
{
	for (;;) {
		unsigned child = 2 * idx + 1;

		if (child >= w->nr_timers)
			break;
		if (child + 1 < w->nr_timers &&
		    w->timers[child + 1]->deadline_ns < w->timers[child]->deadline_ns)
			child++;
		if (t->deadline_ns <= w->timers[child]->deadline_ns)
			break;
		timer_place(w, idx, w->timers[child]);
		idx = child;
	}
	timer_place(w, idx, t);
}

static void timer_remove(struct mc_worker *w, struct mc_timer *t)
{
	unsigned idx = (unsigned)(uintptr_t)t->host[0] - 1;
	struct mc_timer *last = w->timers[--w->nr_timers];

	t->host[0] = NULL;
	if (last == t)
		return;
	if (idx && last->deadline_ns < w->timers[(idx - 1) / 2]->deadline_ns)
		timer_up(w, idx, last);
	else
		timer_down(w, idx, last);
}

void mc_worker_timer(struct mc_worker *w, struct mc_timer *t, uint64_t deadline_ns)
{
	if (t->host[0])
		timer_remove(w, t);
	t->deadline_ns = deadline_ns;
	if (!deadline_ns)
		return;
	if (w->nr_timers == w->cap_timers) {
		unsigned cap = w->cap_timers ? w->cap_timers * 2 : 16;
		struct mc_timer **timers = realloc(w->timers, cap * sizeof *timers);

		/* A timer that is not armed would be waited for for ever; there is no way on. */
		if (!timers)
			abort();
		w->timers = timers;
		w->cap_timers = cap;
	}
	timer_up(w, w->nr_timers++, t);
}

int mc_worker_fire(struct mc_worker *w, uint64_t now)
{
	int fired = 0;

	while (w->nr_timers && w->timers[0]->deadline_ns <= now) {
		struct mc_timer *t = w->timers[0];

		timer_remove(w, t);
		t->deadline_ns = 0;
		t->fire(t, now);
		fired++;
	}
	return fired;
}

uint64_t mc_worker_next_deadline(const struct mc_worker *w)
{
	uint64_t next = w->nr_timers ? w->timers[0]->deadline_ns : UINT64_MAX;

	if (w->next_tick && w->next_tick < next)
		next = w->next_tick;
	return next;
}
