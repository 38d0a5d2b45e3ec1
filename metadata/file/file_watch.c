/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control loop's part of watches: it sees the inotify descriptor and a timer,
 * and does nothing but start a scan (file_scan.c) on a helper.  Also watch,
 * unwatch, and what open and close do about them.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "file_watch.h"

/* ---- the control loop's part ------------------------------------------------------------- */

/* Unlocks mx. */
static void ctl_unref_unlock(struct file_ctl *c)
{
	bool last = --c->refs == 0;

	pthread_mutex_unlock(&c->mx);
	if (!last)
		return;
	pthread_cond_destroy(&c->cond);
	pthread_mutex_destroy(&c->mx);
	free(c);
}

/* Have a scan run; a running one is followed by another.  [any] */
static void scan_request(struct file_ctl *c, bool full)
{
	bool start;

	pthread_mutex_lock(&c->mx);
	c->full |= full;
	start = !c->queued && !c->closing;
	if (start) {
		c->queued = true;
		c->refs++;
	} else {
		c->again = true;
	}
	pthread_mutex_unlock(&c->mx);
	if (start)
		c->host->run_blocking(c->host, &c->scan);
}

/* [control] */
static void timer_arm(struct file_ctl *c)
{
	uint64_t due = 0, tick;

	pthread_mutex_lock(&c->mx);
	if (c->watches)
		due = c->host->now_ns(c->host) + c->interval_ns;
	tick = c->timer.deadline_ns;
	/* A tick that is already set stands; new work does not put it off. */
	if (due && tick && tick < due)
		due = tick;
	if (c->lease_due_ns && (due == 0 || c->lease_due_ns < due))
		due = c->lease_due_ns;
	pthread_mutex_unlock(&c->mx);
	if (due != tick)
		c->host->timer_set(c->host, &c->timer, due);
}

/* [helper] */
static void scan_run(struct mc_work *w)
{
	struct file_ctl *c = w->user;
	struct file_inst *f;
	bool full, sweep;

	pthread_mutex_lock(&c->mx);
	f = c->closing ? NULL : c->inst;
	c->running = f != NULL;
	full = c->full;
	sweep = c->sweep;
	c->full = c->sweep = c->again = false;
	pthread_mutex_unlock(&c->mx);
	if (f)
		file_scan(f, c, full, sweep);
	pthread_mutex_lock(&c->mx);
	c->running = false;
	pthread_cond_broadcast(&c->cond);
	pthread_mutex_unlock(&c->mx);
}

/* [control] */
static void scan_done(struct mc_work *w)
{
	struct file_ctl *c = w->user;
	bool again;

	pthread_mutex_lock(&c->mx);
	c->queued = false;
	again = c->again;
	if (!c->closing) {
		pthread_mutex_unlock(&c->mx);
		if (again)
			scan_request(c, false);
		else if (c->fd >= 0)
			c->host->rewatch(c->host, &c->fd_watch, POLLIN);
		timer_arm(c);
		pthread_mutex_lock(&c->mx);
	}
	ctl_unref_unlock(c);
}

/* Quiet until the scan has read the events.  [control] */
static void fd_ready(struct mc_watch *w, uint32_t revents)
{
	struct file_ctl *c = w->user;

	c->host->rewatch(c->host, w, 0);
	scan_request(c, false);
}

/* [control] */
static void timer_fire(struct mc_timer *t, uint64_t now_ns)
{
	scan_request(t->user, true);
}

/* A new watch or lease: set the timer, look at everything once.  [control] */
static void kick_run(struct mc_work *w)
{
	struct file_ctl *c = w->user;
	bool full;

	pthread_mutex_lock(&c->mx);
	c->kicked = false;
	full = c->full;
	if (!c->closing) {
		pthread_mutex_unlock(&c->mx);
		timer_arm(c);
		if (full)
			scan_request(c, true);
		pthread_mutex_lock(&c->mx);
	}
	ctl_unref_unlock(c);
}

/* [mx] held; unlocks it. */
static void kick_unlock(struct file_ctl *c)
{
	bool post = !c->kicked && !c->closing;

	if (post) {
		c->kicked = true;
		c->refs++;
	}
	pthread_mutex_unlock(&c->mx);
	if (post)
		c->host->post(c->host, &c->kick);
}

/* [control] */
static void stop_run(struct mc_work *w)
{
	struct file_ctl *c = w->user;

	if (c->fd >= 0)
		c->host->unwatch(c->host, &c->fd_watch);
	c->host->timer_set(c->host, &c->timer, 0);
	pthread_mutex_lock(&c->mx);
	c->stopped = true;
	pthread_cond_broadcast(&c->cond);
	ctl_unref_unlock(c);
}

void file_ctl_set_interval(struct file_inst *f, uint64_t interval_ns)
{
	pthread_mutex_lock(&f->ctl->mx);
	f->ctl->interval_ns = interval_ns;
	kick_unlock(f->ctl);
}

void file_ctl_lease_due(struct file_inst *f, uint64_t due_ns)
{
	struct file_ctl *c = f->ctl;
	bool sooner;

	pthread_mutex_lock(&c->mx);
	/* A later end is found when the timer fires. */
	sooner = due_ns && (c->lease_due_ns == 0 || due_ns < c->lease_due_ns);
	c->lease_due_ns = due_ns;
	if (sooner)
		kick_unlock(c);
	else
		pthread_mutex_unlock(&c->mx);
}

/* ---- open, close, watch, unwatch --------------------------------------------------------- */

int file_ctl_open(struct file_inst *f, uint64_t interval_ns, struct mc_error *err)
{
	struct file_ctl *c = calloc(1, sizeof *c);
	int r;

	if (!c)
		return mc_fail(err, -ENOMEM, "directory '%s': out of memory", f->path);
	pthread_mutex_init(&c->mx, NULL);
	pthread_cond_init(&c->cond, NULL);
	c->host = f->host;
	c->inst = f;
	c->refs = 1;
	c->interval_ns = interval_ns;
	c->wd = -1;
	c->sweep = true;
	c->timer = (struct mc_timer){.size = sizeof c->timer, .fire = timer_fire, .user = c};
	c->scan = (struct mc_work){.size = sizeof c->scan,
				   .run = scan_run,
				   .done = scan_done,
				   .user = c};
	c->kick = (struct mc_work){.size = sizeof c->kick, .run = kick_run, .user = c};
	c->stop = (struct mc_work){.size = sizeof c->stop, .run = stop_run, .user = c};
	c->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (c->fd < 0) {
		f->host->log(f->host, MC_LOG_WARN,
			     "directory '%s': no inotify (%s): changes are seen once per "
			     "rescan; raise fs.inotify.max_user_instances",
			     f->path, strerrordesc_np(errno));
	} else {
		c->fd_watch = (struct mc_watch){.size = sizeof c->fd_watch,
						.fd = c->fd,
						.events = POLLIN,
						.ready = fd_ready,
						.user = c};
		r = f->host->watch(f->host, &c->fd_watch);
		if (r < 0) {
			close(c->fd);
			pthread_mutex_lock(&c->mx);
			ctl_unref_unlock(c);
			return mc_fail(err, r, "directory '%s': cannot watch inotify: %s", f->path,
				       strerrordesc_np(-r));
		}
	}
	f->ctl = c;
	scan_request(c, false);
	return 0;
}

void file_ctl_close(struct file_inst *f)
{
	struct file_ctl *c = f->ctl;
	struct file_wstate *ws;

	pthread_mutex_lock(&c->mx);
	__atomic_store_n(&c->closing, 1, __ATOMIC_RELAXED);
	c->refs++;
	pthread_mutex_unlock(&c->mx);
	c->host->post(c->host, &c->stop);
	pthread_mutex_lock(&c->mx);
	/* A scan that is only queued comes later and finds nothing to do. */
	while (c->running || !c->stopped)
		pthread_cond_wait(&c->cond, &c->mx);
	c->inst = NULL;
	while ((ws = c->watches)) {
		c->watches = ws->next;
		file_wstate_unref(ws);
	}
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	f->ctl = NULL;
	ctl_unref_unlock(c);
}

/* [mx] */
static void inotify_want(struct file_inst *f, struct file_ctl *c, bool want)
{
	if (c->fd < 0)
		return;
	if (want && c->wd < 0) {
		c->wd = inotify_add_watch(c->fd, f->path,
					  IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_CLOSE_WRITE |
						  IN_ONLYDIR);
		if (c->wd < 0)
			f->host->log(f->host, MC_LOG_WARN,
				     "directory '%s': no inotify (%s): changes are seen once per "
				     "rescan; raise fs.inotify.max_user_watches",
				     f->path, strerrordesc_np(errno));
	} else if (!want && c->wd >= 0) {
		inotify_rm_watch(c->fd, c->wd);
		c->wd = -1;
	}
}

int file_watch_add(void *inst, void *watch, const char *prefix, uint64_t deadline_ns,
		   struct mc_error *err)
{
	struct file_inst *f = inst;
	struct file_ctl *c = f->ctl;
	struct file_watch *w = watch;
	struct file_wstate *ws = calloc(1, sizeof *ws);
	int r;

	if (ws)
		ws->prefix = strdup(prefix);
	if (!ws || !ws->prefix) {
		free(ws);
		return mc_fail(err, -ENOMEM, "prefix '%s': out of memory", prefix);
	}
	ws->prefix_len = strlen(prefix);
	ws->user = watch;
	ws->refs = 1;
	pthread_mutex_lock(&c->mx);
	inotify_want(f, c, true);
	pthread_mutex_unlock(&c->mx);
	r = file_scan_watch(f, NULL, ws);
	pthread_mutex_lock(&c->mx);
	if (r < 0) {
		inotify_want(f, c, c->watches != NULL);
		file_wstate_unref(ws);
		pthread_mutex_unlock(&c->mx);
		return file_fail(f, err, r, prefix, "list", "");
	}
	ws->next = c->watches;
	c->watches = ws;
	w->state = ws;
	/* A scan of others may have taken events off the queue since the baseline. */
	inotify_want(f, c, true);
	c->full = true;
	kick_unlock(c);
	return 0;
}

void file_watch_remove(void *inst, void *watch)
{
	struct file_inst *f = inst;
	struct file_ctl *c = f->ctl;
	struct file_watch *w = watch;
	struct file_wstate *ws = w->state, **at;

	if (!ws)
		return;
	pthread_mutex_lock(&c->mx);
	ws->dead = true;
	/* Called inside its own kv_event: that one is the last. */
	while (ws->emitting && !pthread_equal(c->emitter, pthread_self()))
		pthread_cond_wait(&c->cond, &c->mx);
	for (at = &c->watches; *at && *at != ws;)
		at = &(*at)->next;
	if (*at)
		*at = ws->next;
	inotify_want(f, c, c->watches != NULL);
	w->state = NULL;
	file_wstate_unref(ws);
	pthread_mutex_unlock(&c->mx);
}
