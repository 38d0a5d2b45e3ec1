/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control loop's part of watches: it sees the epoll descriptor of the streams
 * and a timer, and does nothing but start a turn (etcd_watch.c) on a helper.  Also
 * what open and close do about them.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "etcd_watch.h"

/* Unlocks mx. */
static void unref_unlock(struct etcd_hub *h)
{
	bool last = --h->refs == 0;

	pthread_mutex_unlock(&h->mx);
	if (!last)
		return;
	pthread_cond_destroy(&h->cond);
	pthread_mutex_destroy(&h->mx);
	free(h);
}

void etcd_hub_request(struct etcd_hub *h)
{
	bool start;

	pthread_mutex_lock(&h->mx);
	start = !h->queued && !h->closing;
	if (start) {
		h->queued = true;
		h->refs++;
	} else {
		h->again = true;
	}
	pthread_mutex_unlock(&h->mx);
	if (start)
		h->host->run_blocking(h->host, &h->turn);
}

/* [helper] */
static void turn_run(struct mc_work *w)
{
	struct etcd_hub *h = w->user;
	uint64_t due = 0;
	bool run;

	pthread_mutex_lock(&h->mx);
	run = h->running = !h->closing;
	h->again = false;
	pthread_mutex_unlock(&h->mx);
	if (run)
		due = etcd_watch_turn(h);
	pthread_mutex_lock(&h->mx);
	h->due_ns = due;
	h->running = false;
	pthread_cond_broadcast(&h->cond);
	pthread_mutex_unlock(&h->mx);
}

/* [control] */
static void turn_done(struct mc_work *w)
{
	struct etcd_hub *h = w->user;
	uint64_t due;
	bool again;

	pthread_mutex_lock(&h->mx);
	h->queued = false;
	again = h->again;
	due = h->due_ns;
	if (!h->closing) {
		pthread_mutex_unlock(&h->mx);
		if (again)
			etcd_hub_request(h);
		else
			h->host->rewatch(h->host, &h->fd_watch, POLLIN);
		if (due != h->timer.deadline_ns)
			h->host->timer_set(h->host, &h->timer, due);
		pthread_mutex_lock(&h->mx);
	}
	unref_unlock(h);
}

/* Quiet until the turn has read what came.  [control] */
static void fd_ready(struct mc_watch *w, uint32_t revents)
{
	struct etcd_hub *h = w->user;

	h->host->rewatch(h->host, w, 0);
	etcd_hub_request(h);
}

/* [control] */
static void timer_fire(struct mc_timer *t, uint64_t now_ns)
{
	etcd_hub_request(t->user);
}

/* [control] */
static void stop_run(struct mc_work *w)
{
	struct etcd_hub *h = w->user;

	h->host->unwatch(h->host, &h->fd_watch);
	h->host->timer_set(h->host, &h->timer, 0);
	pthread_mutex_lock(&h->mx);
	h->stopped = true;
	pthread_cond_broadcast(&h->cond);
	unref_unlock(h);
}

int etcd_hub_open(struct etcd_inst *e, struct mc_error *err)
{
	struct etcd_hub *h = calloc(1, sizeof *h);
	int r;

	if (!h)
		return mc_fail(err, -ENOMEM, "metadata '%s': out of memory", e->url);
	pthread_mutex_init(&h->mx, NULL);
	pthread_cond_init(&h->cond, NULL);
	h->host = e->host;
	h->inst = e;
	h->refs = 1;
	h->timer = (struct mc_timer){.size = sizeof h->timer, .fire = timer_fire, .user = h};
	h->turn = (struct mc_work){
		.size = sizeof h->turn, .run = turn_run, .done = turn_done, .user = h};
	h->stop = (struct mc_work){.size = sizeof h->stop, .run = stop_run, .user = h};
	h->epfd = epoll_create1(EPOLL_CLOEXEC);
	r = h->epfd < 0 ? -errno : 0;
	if (r == 0) {
		h->fd_watch = (struct mc_watch){.size = sizeof h->fd_watch,
						.fd = h->epfd,
						.events = POLLIN,
						.ready = fd_ready,
						.user = h};
		r = h->host->watch(h->host, &h->fd_watch);
	}
	if (r < 0) {
		if (h->epfd >= 0)
			close(h->epfd);
		pthread_mutex_lock(&h->mx);
		unref_unlock(h);
		return mc_fail(err, r, "metadata '%s': no descriptor for watches: %s; raise ulimit -n",
			       e->url, strerrordesc_np(-r));
	}
	e->hub = h;
	return 0;
}

void etcd_hub_close(struct etcd_inst *e)
{
	struct etcd_hub *h = e->hub;
	struct etcd_sigpipe s;
	struct etcd_wstate *ws;

	if (!h)
		return;
	pthread_mutex_lock(&h->mx);
	__atomic_store_n(&h->closing, 1, __ATOMIC_RELAXED);
	h->refs++;
	pthread_mutex_unlock(&h->mx);
	h->host->post(h->host, &h->stop);
	pthread_mutex_lock(&h->mx);
	/* A turn that is only queued comes later and finds nothing to do. */
	while (h->running || !h->stopped)
		pthread_cond_wait(&h->cond, &h->mx);
	pthread_mutex_unlock(&h->mx);
	etcd_sigpipe_hold(&s);
	while ((ws = h->watches)) {
		h->watches = ws->next;
		etcd_watch_free(ws);
	}
	if (h->multi)
		curl_multi_cleanup(h->multi);
	etcd_sigpipe_release(&s);
	close(h->epfd);
	e->hub = NULL;
	pthread_mutex_lock(&h->mx);
	h->inst = NULL;
	unref_unlock(h);
}
