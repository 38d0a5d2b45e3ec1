/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fake driver's streams: a thread each, which carries out copies and events in order.
 */
#include "fake-cuda.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct event {
	uint64_t recorded, done; /* how often */
	pthread_mutex_t lock;
	pthread_cond_t changed;
};

struct op {
	struct op *next;
	void *to;
	const void *from;
	size_t len;
	struct event *event;
	uint64_t turn;
};

struct stream {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct op *head, **tail;
	bool busy, quit;
	pthread_t thread;
};

#if defined(__SANITIZE_THREAD__)
__attribute__((no_sanitize_thread)) void fake_dma(void *to, const void *from, size_t len)
{
	volatile unsigned char *t = to;
	const volatile unsigned char *f = from;

	for (size_t i = 0; i < len; i++)
		t[i] = f[i];
}
#else
void fake_dma(void *to, const void *from, size_t len)
{
	memcpy(to, from, len);
}
#endif

static long pending; /* atomic: of all streams */

void fake_drain(void)
{
	while (__atomic_load_n(&pending, __ATOMIC_ACQUIRE))
		usleep(100);
}

static void run(struct op *op)
{
	uint64_t delay = fake_number("FAKE_CUDA_DELAY", 0);

	if (op->event) {
		pthread_mutex_lock(&op->event->lock);
		op->event->done = op->turn;
		pthread_cond_broadcast(&op->event->changed);
		pthread_mutex_unlock(&op->event->lock);
		return;
	}
	if (delay)
		usleep((useconds_t)delay);
	fake_dma(op->to, op->from, op->len);
}

static void *work(void *arg)
{
	struct stream *s = arg;

	pthread_mutex_lock(&s->lock);
	while (!s->quit || s->head) {
		struct op *op = s->head;

		if (!op) {
			pthread_cond_wait(&s->changed, &s->lock);
			continue;
		}
		s->head = op->next;
		if (!s->head)
			s->tail = &s->head;
		s->busy = true;
		pthread_mutex_unlock(&s->lock);
		run(op);
		free(op);
		pthread_mutex_lock(&s->lock);
		s->busy = false;
		__atomic_fetch_sub(&pending, 1, __ATOMIC_RELEASE);
		pthread_cond_broadcast(&s->changed);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

static int enqueue(struct stream *s, const struct op *what)
{
	struct op *op = malloc(sizeof *op);

	if (!op)
		return OUT_OF_MEMORY;
	*op = *what;
	op->next = NULL;
	__atomic_fetch_add(&pending, 1, __ATOMIC_RELAXED);
	pthread_mutex_lock(&s->lock);
	*s->tail = op;
	s->tail = &op->next;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	return OK;
}

CALL(cuStreamCreate, struct stream **stream, unsigned flags)
{
	struct stream *s;

	INJECT_UNSAFE;
	(void)flags;
	if (!fake_in_context())
		return INVALID_CONTEXT;
	s = calloc(1, sizeof *s);
	if (!s)
		return OUT_OF_MEMORY;
	s->tail = &s->head;
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->changed, NULL);
	if (pthread_create(&s->thread, NULL, work, s)) {
		free(s);
		return OUT_OF_MEMORY;
	}
	__atomic_fetch_add(&fake_streams, 1, __ATOMIC_RELAXED);
	*stream = s;
	return OK;
}

CALL(cuStreamSynchronize, struct stream *s)
{
	INJECT_UNSAFE;
	if (!fake_in_context())
		return INVALID_CONTEXT;
	pthread_mutex_lock(&s->lock);
	while (s->head || s->busy)
		pthread_cond_wait(&s->changed, &s->lock);
	pthread_mutex_unlock(&s->lock);
	return OK;
}

CALL(cuStreamDestroy_v2, struct stream *s)
{
	INJECT_UNSAFE;
	pthread_mutex_lock(&s->lock);
	s->quit = true;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	pthread_join(s->thread, NULL);
	pthread_cond_destroy(&s->changed);
	pthread_mutex_destroy(&s->lock);
	free(s);
	__atomic_fetch_sub(&fake_streams, 1, __ATOMIC_RELAXED);
	return OK;
}

CALL(cuEventCreate, struct event **event, unsigned flags)
{
	struct event *e;

	INJECT_UNSAFE;
	(void)flags;
	if (!fake_in_context())
		return INVALID_CONTEXT;
	e = calloc(1, sizeof *e);
	if (!e)
		return OUT_OF_MEMORY;
	pthread_mutex_init(&e->lock, NULL);
	pthread_cond_init(&e->changed, NULL);
	__atomic_fetch_add(&fake_events, 1, __ATOMIC_RELAXED);
	*event = e;
	return OK;
}

CALL(cuEventRecord, struct event *e, struct stream *s)
{
	INJECT;
	pthread_mutex_lock(&e->lock);
	e->recorded++;
	pthread_mutex_unlock(&e->lock);
	return enqueue(s, &(struct op){.event = e, .turn = e->recorded});
}

CALL(cuEventSynchronize, struct event *e)
{
	INJECT_UNSAFE;
	pthread_mutex_lock(&e->lock);
	while (e->done < e->recorded)
		pthread_cond_wait(&e->changed, &e->lock);
	pthread_mutex_unlock(&e->lock);
	return OK;
}

CALL(cuEventDestroy_v2, struct event *e)
{
	INJECT_UNSAFE;
	pthread_cond_destroy(&e->changed);
	pthread_mutex_destroy(&e->lock);
	free(e);
	__atomic_fetch_sub(&fake_events, 1, __ATOMIC_RELAXED);
	return OK;
}

CALL(cuMemcpyHtoDAsync_v2, uint64_t to, const void *from, size_t len, struct stream *s)
{
	void *alias = fake_reach(to, len);

	INJECT;
	if (!fake_in_context())
		return INVALID_CONTEXT;
	return alias ? enqueue(s, &(struct op){.to = alias, .from = from, .len = len}) : INVALID_VALUE;
}

CALL(cuMemcpyDtoHAsync_v2, void *to, uint64_t from, size_t len, struct stream *s)
{
	void *alias = fake_reach(from, len);

	INJECT;
	if (!fake_in_context())
		return INVALID_CONTEXT;
	return alias ? enqueue(s, &(struct op){.to = to, .from = alias, .len = len}) : INVALID_VALUE;
}

CALL(cuMemcpyHtoD_v2, uint64_t to, const void *from, size_t len)
{
	void *alias = fake_reach(to, len);

	INJECT;
	if (alias)
		fake_dma(alias, from, len);
	return !fake_in_context() ? INVALID_CONTEXT : alias ? OK : INVALID_VALUE;
}

CALL(cuMemcpyDtoH_v2, void *to, uint64_t from, size_t len)
{
	void *alias = fake_reach(from, len);

	INJECT;
	if (alias)
		fake_dma(to, alias, len);
	return !fake_in_context() ? INVALID_CONTEXT : alias ? OK : INVALID_VALUE;
}
