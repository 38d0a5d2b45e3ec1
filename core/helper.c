/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Helper threads: one queue, at most two threads of an engine that take from it.
 * A thread is started when more jobs wait than threads are idle, and ends after
 * ten idle seconds; its slot keeps the handle until the next start, or the end,
 * joins it.  Without any thread (the system gives none) jobs stay queued until
 * one can be started; whoever waits for a job runs the queue itself.
 */
#include "helper.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include "core/util/check.h"

#define NR_THREADS 2

uint64_t mc_helpers_idle_ns = 10 * MC_SEC;

enum slot_state { SLOT_FREE = 0, SLOT_RUNNING, SLOT_ENDED };

struct slot {
	struct mc_helpers *helpers;
	pthread_t thread;
	enum slot_state state;
};

struct mc_helpers {
	/* Guards everything below; held for a few instructions, and over pthread_create. */
	pthread_mutex_t lock;
	pthread_cond_t work; /* a job was queued, or stopping was set */
	struct mc_job *head, **tail;
	size_t nr_queued;
	unsigned int nr_idle; /* threads inside pthread_cond_timedwait */
	unsigned int nr_running; /* jobs that are being run */
	unsigned int nr_waiters; /* in mc_helpers_wait, for `settled` */
	pthread_cond_t settled;
	bool stopping;
	struct slot slots[NR_THREADS];
};

static __thread bool on_helper;

bool mc_on_helper(void)
{
	return on_helper;
}

static struct mc_job *pop(struct mc_helpers *h)
{
	struct mc_job *job = h->head;

	if (!job)
		return NULL;
	h->head = job->next;
	if (!h->head)
		h->tail = &h->head;
	h->nr_queued--;
	return job;
}

/* Run what is queued.  Called and left with the lock held. */
static void drain(struct mc_helpers *h)
{
	struct mc_job *job;

	while ((job = pop(h))) {
		h->nr_running++;
		pthread_mutex_unlock(&h->lock);
		job->run(job); /* the job may be gone from here on */
		pthread_mutex_lock(&h->lock);
		h->nr_running--;
		if (h->nr_waiters)
			pthread_cond_broadcast(&h->settled);
	}
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
		if (h->head) {
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
		if (r == ETIMEDOUT && !h->head)
			break;
	}
	slot->state = SLOT_ENDED;
	pthread_mutex_unlock(&h->lock);
	return NULL;
}

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
		sigfillset(&all);
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

static bool any_running(const struct mc_helpers *h)
{
	for (size_t i = 0; i < NR_THREADS; i++) {
		if (h->slots[i].state == SLOT_RUNNING)
			return true;
	}
	return false;
}

/* Queue a job; false if no thread is there to run it.  Called with the lock held. */
static bool push(struct mc_helpers *h, struct mc_job *job)
{
	job->next = NULL;
	*h->tail = job;
	h->tail = &job->next;
	h->nr_queued++;
	if (h->nr_queued > h->nr_idle && start_thread(h))
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
	h->tail = &h->head;
	pthread_mutex_init(&h->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&h->work, &attr);
	pthread_cond_init(&h->settled, &attr);
	pthread_condattr_destroy(&attr);
	*ret_helpers = h;
	return 0;
}

void mc_helpers_run(struct mc_helpers *helpers, struct mc_job *job)
{
	pthread_mutex_lock(&helpers->lock);
	push(helpers, job);
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

int mc_helpers_call(struct mc_helpers *helpers, int (*f)(void *arg), void *arg)
{
	struct call c = {.job.run = call_run, .f = f, .arg = arg};

	if (on_helper)
		return f(arg);
	pthread_mutex_init(&c.lock, NULL);
	pthread_cond_init(&c.finished, NULL);

	pthread_mutex_lock(&helpers->lock);
	if (!push(helpers, &c.job)) {
		on_helper = true;
		drain(helpers);
		on_helper = false;
	}
	pthread_mutex_unlock(&helpers->lock);

	pthread_mutex_lock(&c.lock);
	while (!c.done)
		pthread_cond_wait(&c.finished, &c.lock);
	pthread_mutex_unlock(&c.lock);
	pthread_cond_destroy(&c.finished);
	pthread_mutex_destroy(&c.lock);
	return c.result;
}

int mc_helpers_wait(struct mc_helpers *helpers, unsigned int nr_left, uint64_t deadline_ns)
{
	struct timespec until = {.tv_sec = (time_t)(deadline_ns / MC_SEC),
				 .tv_nsec = (long)(deadline_ns % MC_SEC)};
	int r = 0;

	pthread_mutex_lock(&helpers->lock);
	helpers->nr_waiters++;
	while (helpers->nr_queued + helpers->nr_running > nr_left && r == 0)
		r = pthread_cond_timedwait(&helpers->settled, &helpers->lock, &until);
	if (helpers->nr_queued + helpers->nr_running <= nr_left)
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
