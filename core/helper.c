/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Helper threads: at most two of an engine, which take from a queue of jobs first,
 * then from one of look-ups and one of lazy jobs.  Of those two kinds, the slow
 * ones, one job runs at a time, whatever else there is to do.  A thread is started when more
 * jobs wait than threads are idle, and ends after ten idle seconds; its slot keeps
 * the handle until the next start, or the end, joins it.  Without any thread (the
 * system gives none) jobs stay queued until one can be started; whoever waits for
 * a job runs the queue itself.
 */
#include "helper.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "clock.h"
#include "core/util/check.h"
#include "core/util/signals.h"

#define NR_THREADS 2

uint64_t mc_helpers_idle_ns = 10 * MC_SEC;

enum slot_state { SLOT_FREE = 0, SLOT_RUNNING, SLOT_ENDED };

struct slot {
	struct mc_helpers *helpers;
	pthread_t thread;
	enum slot_state state;
};

struct queue {
	struct mc_job *head, **tail;
	size_t nr;
};

struct mc_helpers {
	/* Guards everything below; held for a few instructions, and over pthread_create. */
	pthread_mutex_t lock;
	pthread_cond_t work; /* a job was queued, or stopping was set */
	struct queue jobs, lookups, lazy;
	bool slow; /* a thread runs a look-up or a lazy job */
	unsigned int nr_idle; /* threads inside pthread_cond_timedwait */
	unsigned int nr_running; /* jobs that are being run */
	unsigned int nr_waiters; /* in mc_helpers_wait, for `settled` */
	pthread_cond_t settled;
	bool stopping;
	struct slot slots[NR_THREADS];
};

static MC_PER_THREAD bool on_helper;

bool mc_on_helper(void)
{
	return on_helper;
}

static struct mc_job *take(struct queue *q, struct mc_job **at)
{
	struct mc_job *job = *at;

	*at = job->next;
	if (!*at)
		q->tail = at;
	q->nr--;
	return job;
}

static size_t nr_slow(const struct mc_helpers *h)
{
	return h->lookups.nr + h->lazy.nr;
}

/* The queue whose first job may begin now. */
static struct queue *runnable(struct mc_helpers *h)
{
	if (h->jobs.nr)
		return &h->jobs;
	if (h->slow)
		return NULL;
	if (h->lookups.nr)
		return &h->lookups;
	return h->lazy.nr ? &h->lazy : NULL;
}

static void settle(struct mc_helpers *h)
{
	if (h->nr_waiters)
		pthread_cond_broadcast(&h->settled);
}

static struct timespec idle_until(void)
{
	struct timespec ts;
	uint64_t ns = __atomic_load_n(&mc_helpers_idle_ns, __ATOMIC_RELAXED);

	clock_gettime(CLOCK_MONOTONIC, &ts);
	ns += (uint64_t)ts.tv_nsec;
	ts.tv_sec += (time_t)(ns / MC_SEC);
	ts.tv_nsec = (long)(ns % MC_SEC);
	return ts;
}

static void *helper_main(void *arg);

/* Start one more thread if a slot is free.  Called with the lock held.  An ended thread has let go
 * of the lock for good, so that joining it here waits for nothing but its exit. */
static bool start_thread(struct mc_helpers *h)
{
	sigset_t all, old;

	if (h->stopping)
		return false;
	for (size_t i = 0; i < NR_THREADS; i++) {
		struct slot *slot = &h->slots[i];
		int r;

		if (slot->state == SLOT_RUNNING)
			continue;
		if (slot->state == SLOT_ENDED)
			pthread_join(slot->thread, NULL);
		slot->state = SLOT_FREE;
		slot->helpers = h;
		/* Signals are the application's threads' affair. */
		mc_signals_to_block(&all);
		pthread_sigmask(SIG_SETMASK, &all, &old);
		r = pthread_create(&slot->thread, NULL, helper_main, slot);
		pthread_sigmask(SIG_SETMASK, &old, NULL);
		if (r != 0)
			return false;
		pthread_setname_np(slot->thread, "mc-helper");
		slot->state = SLOT_RUNNING;
		return true;
	}
	return false;
}

/* The next slow job may begin; the others go first here, and shall not hold it up. */
static void slow_ended(struct mc_helpers *h)
{
	h->slow = false;
	if (nr_slow(h) == 0 || h->jobs.nr == 0)
		return;
	if (h->nr_idle || !start_thread(h))
		pthread_cond_signal(&h->work);
}

/* Run what is queued.  Called and left with the lock held. */
static void drain(struct mc_helpers *h)
{
	struct queue *q;

	while ((q = runnable(h))) {
		struct mc_job *job = take(q, &q->head);

		h->nr_running++;
		h->slow |= q != &h->jobs;
		pthread_mutex_unlock(&h->lock);
		job->run(job); /* the job may be gone from here on */
		pthread_mutex_lock(&h->lock);
		h->nr_running--;
		if (q != &h->jobs)
			slow_ended(h);
		settle(h);
	}
}

static void *helper_main(void *arg)
{
	struct slot *slot = arg;
	struct mc_helpers *h = slot->helpers;
	struct timespec until;
	int r;

	on_helper = true;
	pthread_mutex_lock(&h->lock);
	until = idle_until();
	for (;;) {
		if (runnable(h)) {
			drain(h);
			/* Rare jobs that the threads take in turn shall not keep both alive. */
			if (!h->nr_idle)
				until = idle_until();
		}
		if (h->stopping)
			break;
		h->nr_idle++;
		r = pthread_cond_timedwait(&h->work, &h->lock, &until);
		h->nr_idle--;
		if (r == ETIMEDOUT && !runnable(h))
			break;
	}
	slot->state = SLOT_ENDED;
	pthread_mutex_unlock(&h->lock);
	return NULL;
}

static bool any_running(const struct mc_helpers *h)
{
	for (size_t i = 0; i < NR_THREADS; i++) {
		if (h->slots[i].state == SLOT_RUNNING)
			return true;
	}
	return false;
}

/* Queue a job; false if no thread is there to run it.  Called with the lock held. */
static bool push(struct mc_helpers *h, struct mc_job *job, enum mc_job_kind kind)
{
	struct queue *q = kind == MC_JOB_LOOKUP ? &h->lookups
			  : kind == MC_JOB_LAZY ? &h->lazy
						: &h->jobs;
	struct mc_job **at = kind == MC_JOB_URGENT ? &q->head : q->tail;

	job->next = *at;
	*at = job;
	if (!job->next)
		q->tail = &job->next;
	q->nr++;
	if (h->jobs.nr + nr_slow(h) > h->nr_idle && start_thread(h))
		return true;
	pthread_cond_signal(&h->work);
	return any_running(h);
}

int mc_helpers_new(struct mc_helpers **ret_helpers)
{
	struct mc_helpers *h = calloc(1, sizeof *h);
	pthread_condattr_t attr;

	if (!h)
		return -ENOMEM;
	h->jobs.tail = &h->jobs.head;
	h->lookups.tail = &h->lookups.head;
	h->lazy.tail = &h->lazy.head;
	pthread_mutex_init(&h->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&h->work, &attr);
	pthread_cond_init(&h->settled, &attr);
	pthread_condattr_destroy(&attr);
	*ret_helpers = h;
	return 0;
}

void mc_helpers_run_as(struct mc_helpers *helpers, struct mc_job *job, enum mc_job_kind kind)
{
	pthread_mutex_lock(&helpers->lock);
	push(helpers, job, kind);
	pthread_mutex_unlock(&helpers->lock);
}

struct call {
	struct mc_job job;
	int (*f)(void *arg);
	void *arg;
	pthread_mutex_t lock; /* guards done and result */
	pthread_cond_t finished;
	bool done;
	int result;
};

static void call_run(struct mc_job *job)
{
	struct call *c = MC_CONTAINER_OF(job, struct call, job);
	int r = c->f(c->arg);

	pthread_mutex_lock(&c->lock);
	c->result = r;
	c->done = true;
	pthread_cond_signal(&c->finished);
	pthread_mutex_unlock(&c->lock);
}

static bool cancel(struct queue *q, struct mc_job *job)
{
	for (struct mc_job **at = &q->head; *at; at = &(*at)->next) {
		if (*at == job) {
			take(q, at);
			return true;
		}
	}
	return false;
}

bool mc_helpers_cancel(struct mc_helpers *helpers, struct mc_job *job)
{
	bool was_queued;

	pthread_mutex_lock(&helpers->lock);
	was_queued = cancel(&helpers->jobs, job) || cancel(&helpers->lookups, job) ||
		     cancel(&helpers->lazy, job);
	if (was_queued)
		settle(helpers);
	pthread_mutex_unlock(&helpers->lock);
	return was_queued;
}

int mc_helpers_call_until(struct mc_helpers *helpers, int (*f)(void *arg), void *arg,
			  uint64_t deadline_ns)
{
	struct call c = {.job.run = call_run, .f = f, .arg = arg};
	struct timespec until = mc_wait_until(deadline_ns);
	int r = 0;

	if (on_helper)
		return f(arg);
	pthread_mutex_init(&c.lock, NULL);
	mc_cond_init(&c.finished);

	pthread_mutex_lock(&helpers->lock);
	if (!push(helpers, &c.job, MC_JOB_PLAIN)) {
		on_helper = true;
		drain(helpers);
		on_helper = false;
	}
	pthread_mutex_unlock(&helpers->lock);

	pthread_mutex_lock(&c.lock);
	while (!c.done && r == 0)
		r = pthread_cond_timedwait(&c.finished, &c.lock, &until);
	if (!c.done) {
		/* A helper that ends the call takes the one lock after having left the other. */
		if (mc_helpers_cancel(helpers, &c.job)) {
			c.result = -ETIMEDOUT;
			c.done = true;
		}
		while (!c.done)
			pthread_cond_wait(&c.finished, &c.lock);
	}
	pthread_mutex_unlock(&c.lock);
	pthread_cond_destroy(&c.finished);
	pthread_mutex_destroy(&c.lock);
	return c.result;
}

int mc_helpers_call(struct mc_helpers *helpers, int (*f)(void *arg), void *arg)
{
	return mc_helpers_call_until(helpers, f, arg, UINT64_MAX);
}

/* Jobs that stand between now and having only nr_left of them. */
static size_t load(const struct mc_helpers *h, unsigned int nr_left)
{
	size_t slow = nr_slow(h);

	if (nr_left && slow)
		slow = h->slow ? 0 : 1;
	return h->jobs.nr + slow + h->nr_running;
}

int mc_helpers_wait(struct mc_helpers *helpers, unsigned int nr_left, uint64_t deadline_ns)
{
	struct timespec until = mc_wait_until(deadline_ns);
	int r = 0;

	pthread_mutex_lock(&helpers->lock);
	helpers->nr_waiters++;
	while (load(helpers, nr_left) > nr_left && r == 0)
		r = pthread_cond_timedwait(&helpers->settled, &helpers->lock, &until);
	if (load(helpers, nr_left) <= nr_left)
		r = 0;
	helpers->nr_waiters--;
	pthread_mutex_unlock(&helpers->lock);
	return r ? -ETIMEDOUT : 0;
}

void mc_helpers_free(struct mc_helpers *helpers)
{
	bool was;

	if (!helpers)
		return;
	pthread_mutex_lock(&helpers->lock);
	helpers->stopping = true;
	pthread_cond_broadcast(&helpers->work);
	for (size_t i = 0; i < NR_THREADS; i++) {
		if (helpers->slots[i].state == SLOT_FREE)
			continue;
		pthread_mutex_unlock(&helpers->lock);
		pthread_join(helpers->slots[i].thread, NULL);
		pthread_mutex_lock(&helpers->lock);
		helpers->slots[i].state = SLOT_FREE;
	}
	/* What no thread could be started for. */
	was = on_helper;
	on_helper = true;
	drain(helpers);
	on_helper = was;
	pthread_mutex_unlock(&helpers->lock);
	pthread_cond_destroy(&helpers->settled);
	pthread_cond_destroy(&helpers->work);
	pthread_mutex_destroy(&helpers->lock);
	free(helpers);
}
