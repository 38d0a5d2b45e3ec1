/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control loop's thread, its inbox, and what metadata plugins may put on it.
 * The inbox is a locked list and one uv_async: posts are rare (handshakes,
 * registrations, fences), so a lock costs nothing.  Timers of plugins are a
 * sorted list behind one uv_timer; a watch is one uv_poll.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "clock.h"
#include "control.h"
#include "core/util/check.h"

#define LOOP_FDS 8 /* more than libuv takes for a loop */

struct mc_control {
	uv_loop_t loop;
	uv_async_t wake;
	uv_timer_t timer;
	struct mc_timer *timers; /* by deadline; host[0] is the next one.  [control] */
	uint64_t firing_ns; /* in timers_fire: the time it began; else 0.  [control] */
	pthread_t thread;

	pthread_mutex_t lock;
	struct mc_control_post *head, **tail; /* under lock */
	bool stopping;                        /* [control] */
};

/* A watch's handle lives until libuv has closed it, which may be after the plugin forgot it. */
struct watch_handle {
	uv_poll_t poll;
	struct mc_watch *w;
};

static void posts_run(struct mc_control *c)
{
	struct mc_control_post *post;

	for (;;) {
		pthread_mutex_lock(&c->lock);
		post = c->head;
		if (post) {
			c->head = post->next;
			if (!c->head)
				c->tail = &c->head;
		}
		pthread_mutex_unlock(&c->lock);
		if (!post)
			return;
		post->run(post);
	}
}

static void wake_up(uv_async_t *async)
{
	struct mc_control *c = async->data;

	posts_run(c);
	if (c->stopping && !uv_is_closing((uv_handle_t *)&c->wake)) {
		uv_close((uv_handle_t *)&c->wake, NULL);
		uv_close((uv_handle_t *)&c->timer, NULL);
	}
}

static void *control_main(void *arg)
{
	struct mc_control *c = arg;
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	pthread_setname_np(pthread_self(), "mc-control");
	uv_run(&c->loop, UV_RUN_DEFAULT);
	return NULL;
}

/* Where libuv finds no descriptors for the pipe of its signals, and where it closes one of the lowest three, it
 * aborts the process.  So a loop is made only if there is room for it, and none of it is where the program has closed
 * its stdin, stdout or stderr. */
static int loop_init(uv_loop_t *loop)
{
	int fds[LOOP_FDS + STDERR_FILENO + 1], nr = 0, r = 0;

	while (nr < (int)MC_ARRAY_SIZE(fds) && r == 0) {
		fds[nr] = eventfd(0, EFD_CLOEXEC);
		if (fds[nr] < 0)
			r = -errno;
		else
			nr++;
	}
	for (int i = 0; i < nr; i++)
		if (fds[i] > STDERR_FILENO)
			close(fds[i]);
	if (r == 0)
		r = uv_loop_init(loop);
	for (int i = 0; i < nr; i++)
		if (fds[i] <= STDERR_FILENO)
			close(fds[i]);
	return r;
}

int mc_control_new(struct mc_control **ret_control, struct mc_error *err)
{
	struct mc_control *c = calloc(1, sizeof *c);
	int r;

	if (!c)
		return mc_fail(err, -ENOMEM, "control loop: out of memory");
	pthread_mutex_init(&c->lock, NULL);
	c->tail = &c->head;
	r = loop_init(&c->loop);
	if (r < 0)
		goto fail_loop;
	r = uv_async_init(&c->loop, &c->wake, wake_up);
	if (r < 0)
		goto fail_async;
	c->wake.data = c;
	uv_timer_init(&c->loop, &c->timer);
	c->timer.data = c;
	r = -pthread_create(&c->thread, NULL, control_main, c);
	if (r < 0)
		goto fail_thread;
	*ret_control = c;
	return 0;

fail_thread:
	uv_close((uv_handle_t *)&c->wake, NULL);
	uv_close((uv_handle_t *)&c->timer, NULL);
	uv_run(&c->loop, UV_RUN_DEFAULT);
fail_async:
	uv_loop_close(&c->loop);
fail_loop:
	pthread_mutex_destroy(&c->lock);
	free(c);
	return mc_fail(err, r, "control loop: %s; look at the limits of descriptors and threads (ulimit -n -u)",
		       uv_strerror(r));
}

uv_loop_t *mc_control_loop(struct mc_control *control)
{
	return &control->loop;
}

bool mc_on_control(const struct mc_control *control)
{
	return pthread_equal(control->thread, pthread_self());
}

void mc_control_post(struct mc_control *control, struct mc_control_post *post)
{
	post->next = NULL;
	pthread_mutex_lock(&control->lock);
	*control->tail = post;
	control->tail = &post->next;
	/* Under the lock: once it is released, the loop may run the post and close the async. */
	uv_async_send(&control->wake);
	pthread_mutex_unlock(&control->lock);
}

struct call {
	struct mc_control_post post;
	void (*f)(void *arg);
	void *arg;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool done; /* under lock */
};

static void call_run(struct mc_control_post *post)
{
	struct call *call = MC_CONTAINER_OF(post, struct call, post);

	call->f(call->arg);
	pthread_mutex_lock(&call->lock);
	call->done = true;
	pthread_cond_signal(&call->cond);
	pthread_mutex_unlock(&call->lock);
}

void mc_control_call(struct mc_control *control, void (*f)(void *arg), void *arg)
{
	struct call call = {.post.run = call_run, .f = f, .arg = arg};

	MC_ASSERT(!mc_on_control(control));
	pthread_mutex_init(&call.lock, NULL);
	pthread_cond_init(&call.cond, NULL);
	mc_control_post(control, &call.post);
	pthread_mutex_lock(&call.lock);
	while (!call.done)
		pthread_cond_wait(&call.cond, &call.lock);
	pthread_mutex_unlock(&call.lock);
	pthread_cond_destroy(&call.cond);
	pthread_mutex_destroy(&call.lock);
}

static void stop_run(struct mc_control_post *post)
{
	struct call *call = MC_CONTAINER_OF(post, struct call, post);

	((struct mc_control *)call->arg)->stopping = true;
}

void mc_control_free(struct mc_control *control)
{
	struct call stop = {.post.run = stop_run, .arg = control};

	if (!control)
		return;
	mc_control_post(control, &stop.post);
	pthread_join(control->thread, NULL);
	MC_ASSERT(!control->head);
	MC_ASSERT(!control->timers);
	if (uv_loop_close(&control->loop) != 0)
		MC_ASSERT(!"a handle is still open");
	pthread_mutex_destroy(&control->lock);
	free(control);
}

/* ---- watches and timers of plugins ------------------------------------------------------- */

/* Plugins may call from a helper inside open, watch and close: the work is carried to the loop. */
struct watch_call {
	struct mc_control *control;
	struct mc_watch *w;
	struct mc_timer *t;
	uint64_t deadline_ns;
	uint32_t events;
	int ret;
};

static void on_loop(struct mc_control *control, void (*f)(void *arg), void *arg)
{
	if (mc_on_control(control))
		f(arg);
	else
		mc_control_call(control, f, arg);
}

static int to_uv(uint32_t events)
{
	return (events & POLLIN ? UV_READABLE : 0) | (events & POLLOUT ? UV_WRITABLE : 0);
}

static void watch_ready(uv_poll_t *poll, int status, int events)
{
	struct watch_handle *h = poll->data;
	uint32_t revents = (events & UV_READABLE ? POLLIN : 0) | (events & UV_WRITABLE ? POLLOUT : 0);

	if (!h->w)
		return;
	if (status < 0)
		revents |= POLLERR;
	h->w->ready(h->w, revents);
}

static void watch_closed(uv_handle_t *handle)
{
	free(handle->data);
}

static void watch_on_loop(void *arg)
{
	struct watch_call *call = arg;
	struct watch_handle *h = calloc(1, sizeof *h);

	if (!h) {
		call->ret = -ENOMEM;
		return;
	}
	call->ret = uv_poll_init(&call->control->loop, &h->poll, call->w->fd);
	if (call->ret < 0) {
		free(h);
		return;
	}
	h->poll.data = h;
	h->w = call->w;
	call->w->host = h;
	uv_poll_start(&h->poll, to_uv(call->w->events), watch_ready);
}

int mc_control_watch(struct mc_control *control, struct mc_watch *w)
{
	struct watch_call call = {.control = control, .w = w};

	on_loop(control, watch_on_loop, &call);
	return call.ret;
}

static void rewatch_on_loop(void *arg)
{
	struct watch_call *call = arg;
	struct watch_handle *h = call->w->host;

	call->w->events = call->events;
	if (!h)
		call->ret = -EBADF;
	else if (call->events)
		call->ret = uv_poll_start(&h->poll, to_uv(call->events), watch_ready);
	else
		call->ret = uv_poll_stop(&h->poll);
}

int mc_control_rewatch(struct mc_control *control, struct mc_watch *w, uint32_t events)
{
	struct watch_call call = {.control = control, .w = w, .events = events};

	on_loop(control, rewatch_on_loop, &call);
	return call.ret;
}

static void unwatch_on_loop(void *arg)
{
	struct watch_call *call = arg;
	struct watch_handle *h = call->w->host;

	if (!h)
		return;
	h->w = NULL;
	call->w->host = NULL;
	uv_close((uv_handle_t *)&h->poll, watch_closed);
}

void mc_control_unwatch(struct mc_control *control, struct mc_watch *w)
{
	struct watch_call call = {.control = control, .w = w};

	on_loop(control, unwatch_on_loop, &call);
}

static void timers_arm(struct mc_control *c);

/* Only what was due at the entry: a timer that arms itself anew waits for the next turn. */
static void timers_fire(uv_timer_t *timer)
{
	struct mc_control *c = timer->data;
	struct mc_timer *t;

	c->firing_ns = mc_now_ns();
	while ((t = c->timers) && t->deadline_ns <= c->firing_ns) {
		c->timers = t->host[0];
		t->host[0] = NULL;
		t->deadline_ns = 0;
		t->fire(t, c->firing_ns);
	}
	timers_arm(c);
	c->firing_ns = 0;
}

/* libuv runs timers as long as one is due by the loop's time.  From inside a timer's callback that
 * time stays as it is and the span is at least 1 ms, so that what is due again at once cannot keep
 * the loop from its descriptors. */
static void timers_arm(struct mc_control *c)
{
	uint64_t now = mc_now_ns(), span_ms = c->firing_ns ? 1 : 0;

	if (!c->timers) {
		uv_timer_stop(&c->timer);
		return;
	}
	if (!c->firing_ns)
		uv_update_time(&c->loop);
	if (c->timers->deadline_ns > now)
		span_ms = (c->timers->deadline_ns - now + MC_MSEC - 1) / MC_MSEC;
	uv_timer_start(&c->timer, timers_fire, span_ms, 0);
}

static void timer_on_loop(void *arg)
{
	struct watch_call *call = arg;
	struct mc_control *c = call->control;
	struct mc_timer *t = call->t, *at = c->timers, *before = NULL;

	if (t->deadline_ns) {
		for (; at && at != t; at = at->host[0])
			before = at;
		if (at && before)
			before->host[0] = t->host[0];
		else if (at)
			c->timers = t->host[0];
		t->host[0] = NULL;
	}
	t->deadline_ns = call->deadline_ns;
	if (t->deadline_ns && t->deadline_ns <= c->firing_ns)
		t->deadline_ns = c->firing_ns + 1;
	if (t->deadline_ns) {
		before = NULL;
		for (at = c->timers; at && at->deadline_ns <= t->deadline_ns; at = at->host[0])
			before = at;
		t->host[0] = at;
		if (before)
			before->host[0] = t;
		else
			c->timers = t;
	}
	if (!c->firing_ns)
		timers_arm(c);
}

void mc_control_timer(struct mc_control *control, struct mc_timer *t, uint64_t deadline_ns)
{
	struct watch_call call = {.control = control, .t = t, .deadline_ns = deadline_ns};

	on_loop(control, timer_on_loop, &call);
}
