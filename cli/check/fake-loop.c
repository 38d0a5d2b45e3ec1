/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loops of the fake host: what an instance is told by descriptors, timers and
 * posts, and how a test runs it: all instances on the test's thread, or each on
 * its own.
 */
#include "fake-host-impl.h"
#include "core/util/check.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

/* ---- one instance's loop ---------------------------------------------------------------------- */

_Thread_local const char *helper_op;

bool on_worker(const struct fake_inst *inst)
{
	return !helper_op && pthread_equal(inst->st->worker, pthread_self());
}

const char *called_from(void)
{
	return helper_op ? helper_op : "another thread";
}

void inst_push(struct fake_inst *inst, struct fake_job *job)
{
	struct fake_inst_state *st = inst->st;
	bool first;

	job->next = NULL;
	pthread_mutex_lock(&st->lock);
	first = !st->jobs;
	*st->jobs_tail = job;
	st->jobs_tail = &job->next;
	/* Inside the lock: the worker may close the descriptor once it has seen the job. */
	if (first && write(st->evfd, &(uint64_t){ 1 }, 8) < 0)
		abort();
	pthread_mutex_unlock(&st->lock);
}

void inst_post(struct fake_inst *inst, void (*run)(struct fake_job *job), void *a, void *b, int64_t n)
{
	struct fake_job *job = malloc(sizeof *job);

	if (!job)
		abort();
	*job = (struct fake_job){ .run = run, .a = a, .b = b, .n = n };
	inst_push(inst, job);
}

void inst_outstanding(struct fake_inst *inst, int delta)
{
	pthread_mutex_lock(&inst->st->lock);
	inst->st->outstanding += (unsigned)delta;
	pthread_mutex_unlock(&inst->st->lock);
}

int jobs_run(struct fake_inst *inst)
{
	struct fake_inst_state *st = inst->st;
	struct fake_job *job, *next;
	int n = 0;

	pthread_mutex_lock(&st->lock);
	job = st->jobs;
	st->jobs = NULL;
	st->jobs_tail = &st->jobs;
	pthread_mutex_unlock(&st->lock);
	for (; job; job = next, n++) {
		next = job->next;
		job->run(job);
		free(job);
	}
	return n;
}

int inst_add_source(struct fake_inst *inst, int fd, uint32_t events, struct fake_source *s)
{
	struct epoll_event ev = { .events = events, .data.ptr = s };

	return epoll_ctl(inst->st->epfd, EPOLL_CTL_ADD, fd, &ev) < 0 ? -errno : 0;
}

/* The source may still be in the array of events that is being handled: it is freed later. */
void inst_drop_source(struct fake_inst *inst, int fd, struct fake_source *s)
{
	epoll_ctl(inst->st->epfd, EPOLL_CTL_DEL, fd, NULL);
	s->dead = true;
	s->next = inst->st->dead_sources;
	inst->st->dead_sources = s;
}

static void free_dead_sources(struct fake_inst_state *st)
{
	struct fake_source *s;

	while (!st->dispatching && (s = st->dead_sources)) {
		st->dead_sources = s->next;
		free(s);
	}
}

static void dispatch(struct fake_inst *inst, const struct epoll_event *ev)
{
	struct fake_source *s = ev->data.ptr;
	uint64_t v;

	if (s->dead)
		return;
	if (s->kind == SOURCE_INBOX) {
		if (read(inst->st->evfd, &v, sizeof v) < 0 && errno != EAGAIN)
			abort();
	} else if (s->kind == SOURCE_LINK) {
		link_ready(s->obj);
	} else {
		struct mc_watch *w = s->obj;

		w->ready(w, ev->events); /* EPOLL* and POLL* have the same values */
	}
}

static int poll_events(struct fake_inst *inst, int timeout_ms)
{
	struct epoll_event evs[32];
	int n = epoll_wait(inst->st->epfd, evs, MC_ARRAY_SIZE(evs), timeout_ms);

	inst->st->dispatching++;
	for (int i = 0; i < n; i++)
		dispatch(inst, &evs[i]);
	inst->st->dispatching--;
	free_dead_sources(inst->st);
	return MC_MAX(n, 0);
}

static int turn_once(struct fake_inst *inst)
{
	struct fake_inst_state *st = inst->st;
	int n = jobs_run(inst), r;

	n += links_flush(inst);
	timers_fire(inst, &n);
	r = inst->ops->progress(inst->priv);
	if (r < 0)
		fake_breach(inst->world, "progress returns a number of events: it returned %d", r);
	else
		n += r;
	/* Descriptors are looked at each time that nothing else happened, and now and then. */
	if (n == 0 || ++st->busy_turns % 16 == 0)
		n += poll_events(inst, 0);
	return n;
}

/* 0: may sleep; 1: there is work. */
static int arm(struct fake_inst *inst)
{
	int r = inst->ops->arm(inst->priv);

	if (r && r != -EBUSY)
		fake_breach(inst->world, "arm answers 0 or -EBUSY: it answered %d", r);
	return r == -EBUSY;
}

static int sleep_ms(uint64_t now, uint64_t until)
{
	uint64_t ns = until > now ? until - now : 0;

	return (int)MC_MIN((ns + MC_MSEC - 1) / MC_MSEC, 1000000);
}

/* When the loop must look again whatever the descriptors say. */
static uint64_t wake_time(const struct fake_inst *inst, uint64_t real_until)
{
	uint64_t t = timers_next(inst);

	if (t == UINT64_MAX || inst->world->flags & FAKE_CLOCK)
		return real_until;
	return MC_MIN(t, real_until);
}

int fake_turn(struct fake_inst *inst, uint64_t wait_ns)
{
	int n = turn_once(inst);
	uint64_t now;

	if (n || !wait_ns || arm(inst))
		return n;
	now = fake_real_ns();
	return poll_events(inst, sleep_ms(now, wake_time(inst, now + wait_ns)));
}

int inst_state_new(struct fake_inst *inst)
{
	struct fake_inst_state *st = calloc(1, sizeof *st);

	if (!st)
		return -ENOMEM;
	inst->st = st;
	st->epfd = epoll_create1(EPOLL_CLOEXEC);
	st->evfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	st->inbox = (struct fake_source){ .kind = SOURCE_INBOX };
	st->jobs_tail = &st->jobs;
	st->worker = pthread_self();
	pthread_mutex_init(&st->lock, NULL);
	return inst_add_source(inst, st->evfd, EPOLLIN, &st->inbox);
}

void inst_state_free(struct fake_inst *inst)
{
	struct fake_inst_state *st = inst->st;

	free_dead_sources(st);
	close(st->epfd);
	close(st->evfd);
	pthread_mutex_destroy(&st->lock);
	free(st);
}

/* ---- running all ------------------------------------------------------------------------------- */

static int run_single(struct fake_world *w, fake_cond cond, void *ctx, uint64_t until)
{
	while (!cond || !cond(ctx)) {
		uint64_t now = fake_real_ns(), wake = until;
		struct epoll_event ev;
		int n = 0, busy = 0;

		if (now > until)
			return -ETIMEDOUT;
		for (struct fake_inst *i = w->insts, *next; i; i = next) {
			next = i->st->next;
			n += i->paused ? 0 : turn_once(i);
		}
		if (n)
			continue;
		if (cond && cond(ctx))
			break;
		for (struct fake_inst *i = w->insts; i; i = i->st->next) {
			if (i->paused)
				continue;
			busy |= arm(i);
			wake = wake_time(i, wake);
		}
		if (busy)
			continue;
		if (!cond && epoll_wait(w->epfd, &ev, 1, 0) == 0)
			break;
		if (cond)
			epoll_wait(w->epfd, &ev, 1, sleep_ms(now, wake + 1));
	}
	return 0;
}

struct ask {
	fake_cond cond;
	void *ctx;
	bool yes;
};

static void ask_cond(void *ctx)
{
	struct ask *a = ctx;

	a->yes = a->cond(a->ctx);
}

static int run_threads(struct fake_world *w, struct fake_inst *inst, fake_cond cond, void *ctx,
		       uint64_t until)
{
	struct ask a = { cond, ctx, false };

	for (;;) {
		struct timespec ts;

		if (inst)
			fake_call(inst, ask_cond, &a);
		else
			ask_cond(&a);
		if (a.yes)
			return 0;
		if (fake_real_ns() > until)
			return -ETIMEDOUT;
		clock_gettime(CLOCK_REALTIME, &ts);
		ts.tv_nsec += 2000000;
		if (ts.tv_nsec >= 1000000000) {
			ts.tv_nsec -= 1000000000;
			ts.tv_sec++;
		}
		pthread_mutex_lock(&w->lock);
		pthread_cond_timedwait(&w->moved, &w->lock, &ts);
		pthread_mutex_unlock(&w->lock);
	}
}

int fake_run(struct fake_world *w, fake_cond cond, void *ctx, uint64_t bound_ns)
{
	uint64_t until = fake_real_ns() + bound_ns;

	if (!(w->flags & FAKE_THREADS))
		return run_single(w, cond, ctx, until);
	return cond ? run_threads(w, NULL, cond, ctx, until) : 0;
}

int fake_run_on(struct fake_inst *inst, fake_cond cond, void *ctx, uint64_t bound_ns)
{
	uint64_t until = fake_real_ns() + bound_ns;

	if (!(inst->world->flags & FAKE_THREADS))
		return run_single(inst->world, cond, ctx, until);
	if (!on_worker(inst))
		return run_threads(inst->world, inst, cond, ctx, until);
	while (!cond(ctx)) {
		if (fake_real_ns() > until)
			return -ETIMEDOUT;
		fake_turn(inst, 10 * MC_MSEC);
	}
	return 0;
}

struct call {
	void (*fn)(void *ctx);
	void *ctx;
	bool over;
	pthread_mutex_t lock;
	pthread_cond_t cond;
};

static void call_run(struct fake_job *job)
{
	struct call *c = job->a;

	c->fn(c->ctx);
	pthread_mutex_lock(&c->lock);
	c->over = true;
	pthread_cond_signal(&c->cond);
	pthread_mutex_unlock(&c->lock);
}

void fake_call(struct fake_inst *inst, void (*fn)(void *ctx), void *ctx)
{
	struct call c = { .fn = fn, .ctx = ctx };

	if (!inst->st->threaded || on_worker(inst)) {
		fn(ctx);
		return;
	}
	pthread_mutex_init(&c.lock, NULL);
	pthread_cond_init(&c.cond, NULL);
	inst_post(inst, call_run, &c, NULL, 0);
	pthread_mutex_lock(&c.lock);
	while (!c.over)
		pthread_cond_wait(&c.cond, &c.lock);
	pthread_mutex_unlock(&c.lock);
	pthread_cond_destroy(&c.cond);
	pthread_mutex_destroy(&c.lock);
}

static void quit_job(struct fake_job *job)
{
	((struct fake_inst *)job->a)->st->quit = true;
}

static void *inst_thread(void *arg)
{
	struct fake_inst *inst = arg;

	pthread_mutex_lock(&inst->world->lock); /* orders st->worker, set by the opener */
	pthread_mutex_unlock(&inst->world->lock);
	while (!inst->st->quit) {
		fake_turn(inst, MC_SEC);
		pthread_cond_broadcast(&inst->world->moved);
	}
	return NULL;
}

void inst_thread_start(struct fake_inst *inst)
{
	inst->st->threaded = true;
	if (pthread_create(&inst->st->thread, NULL, inst_thread, inst))
		abort();
	inst->st->worker = inst->st->thread;
}

void inst_thread_end(struct fake_inst *inst)
{
	if (!inst->st->threaded)
		return;
	inst_post(inst, quit_job, inst, NULL, 0);
	pthread_join(inst->st->thread, NULL);
	inst->st->threaded = false;
	inst->st->worker = pthread_self();
}
