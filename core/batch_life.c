/* SPDX-License-Identifier: Apache-2.0 */
/* Batches as objects: made, configured, emptied for another round, freed, ended with the engine. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "batch.h"
#include "engine.h"

/* ---- life ------------------------------------------------------------------------------------------ */

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER; /* guards every engine->batches */

int mc_batch_new(struct mc_engine *engine, size_t capacity, struct mc_batch **ret_batch)
{
	struct mc_batch *b;

	if (!engine || !ret_batch || !capacity || capacity > 1u << 20)
		return -EINVAL;
	if (mc_engine_check(engine) < 0)
		return -EPERM;
	b = calloc(1, sizeof *b);
	if (!b)
		return -ENOMEM;
	b->reqs = calloc(capacity, sizeof *b->reqs);
	if (!b->reqs) {
		free(b);
		return -ENOMEM;
	}
	b->engine = engine;
	b->capacity = capacity;
	b->span_ns = (uint64_t)engine->set->deadline;
	b->event_fd = -1;
	atomic_store(&b->complete, true);
	pthread_mutex_init(&b->lock, NULL);
	pthread_mutex_lock(&list_lock);
	b->next = engine->batches;
	if (b->next)
		b->next->prev = b;
	engine->batches = b;
	pthread_mutex_unlock(&list_lock);
	*ret_batch = b;
	return 0;
}

static void batch_destroy(struct mc_batch *b)
{
	if (b->event_fd >= 0)
		close(b->event_fd);
	mc_session_unref(b->notify_session);
	pthread_mutex_destroy(&b->lock);
	mc_arena_fini(&b->arena);
	free(b->notify_data);
	free(b->reqs);
	free(b);
}

void mc_batch_free(struct mc_batch *b)
{
	/* A forked child has a copy of the memory, and threads of none. */
	if (!b || mc_engine_check(b->engine) < 0)
		return;
	if (!mc_batch_is_complete(b)) {
		mc_batch_cancel(b);
		if (mc_batch_wait(b, MC_FOREVER) == -EDEADLK)
			return;
	}
	mc_batch_settle(b);
	pthread_mutex_lock(&list_lock);
	if (b->prev)
		b->prev->next = b->next;
	else
		b->engine->batches = b->next;
	if (b->next)
		b->next->prev = b->prev;
	pthread_mutex_unlock(&list_lock);
	batch_destroy(b);
}

void mc_batches_stop(struct mc_engine *engine, int status)
{
	pthread_mutex_lock(&list_lock);
	for (struct mc_batch *b = engine->batches; b; b = b->next) {
		int32_t zero = 0;

		atomic_compare_exchange_strong(&b->stop, &zero, status);
		pthread_mutex_lock(&b->lock);
		for (uint32_t i = 0; i < b->nr_workers; i++)
			mc_worker_tick_now(b->workers[i]);
		mc_batch_stop_deferred(b);
		pthread_mutex_unlock(&b->lock);
	}
	pthread_mutex_unlock(&list_lock);
}

void mc_batches_count(struct mc_engine *engine, uint64_t *ret_nr, uint64_t *ret_open)
{
	*ret_nr = *ret_open = 0;
	pthread_mutex_lock(&list_lock);
	for (struct mc_batch *b = engine->batches; b; b = b->next) {
		++*ret_nr;
		*ret_open += !mc_batch_is_complete(b);
	}
	pthread_mutex_unlock(&list_lock);
}

void mc_batches_free(struct mc_engine *engine)
{
	while (engine->batches)
		mc_batch_free(engine->batches);
}

int mc_batch_reset(struct mc_batch *b)
{
	uint64_t count;

	if (!b)
		return -EINVAL;
	if (!mc_batch_is_complete(b))
		return -EBUSY;
	mc_batch_settle(b);
	if (b->event_fd >= 0 && b->nr)
		while (read(b->event_fd, &count, sizeof count) < 0 && errno == EINTR)
			;
	b->nr = 0;
	b->runs = NULL;
	b->deadline_ns = 0;
	b->notify_status = 0;
	mc_arena_reset(&b->arena);
	atomic_store(&b->failed, 0);
	atomic_store(&b->stop, 0);
	return 0;
}

/* ---- settings before submit -------------------------------------------------------------------------- */

int mc_batch_set_deadline(struct mc_batch *batch, uint64_t span_ns)
{
	if (!batch || !span_ns || batch->nr)
		return -EINVAL;
	batch->span_ns = span_ns;
	return 0;
}

int mc_batch_set_callback(struct mc_batch *batch, void (*done)(void *arg, struct mc_batch *batch),
			  void *arg)
{
	if (!batch || batch->nr)
		return -EINVAL;
	batch->done = done;
	batch->done_arg = arg;
	return 0;
}

int mc_batch_set_notify(struct mc_batch *batch, struct mc_segment *segment, const void *data,
			size_t len)
{
	void *copy;

	if (!batch || !segment || (!data && len) || len > sizeof ((struct mc_notify *)NULL)->data ||
	    segment->engine != batch->engine)
		return -EINVAL;
	copy = malloc(len ? len : 1);
	if (!copy)
		return -ENOMEM;
	if (len)
		memcpy(copy, data, len);
	free(batch->notify_data);
	batch->notify_data = copy;
	batch->notify_len = len;
	mc_session_unref(batch->notify_session);
	batch->notify_session = mc_session_ref(segment->session);
	return 0;
}

int mc_batch_fd(struct mc_batch *batch)
{
	if (!batch)
		return -EINVAL;
	if (batch->event_fd < 0) {
		int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

		if (fd < 0)
			return -errno;
		batch->event_fd = fd;
	}
	return batch->event_fd;
}
