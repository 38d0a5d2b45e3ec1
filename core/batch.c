/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Batches: cutting runs into pieces, counting what has ended, signalling the
 * caller.  Nothing here allocates on the way of a healthy request.
 */
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "batch.h"
#include "engine.h"
#include "notify.h"

#define CURSOR(idx, chunk_idx) (((uint64_t)(idx) << 32) | (chunk_idx))

/* ---- cutting --------------------------------------------------------------------------------- */

/* Take one piece off the retry stack.  The whole stack is taken and the rest put back, so that no
 * entry can return between a look and a swap. */
static bool pop_retry(struct mc_run *run, struct mc_piece *ret_piece)
{
	struct mc_piece *list, *rest, *last;

	if (MC_LIKELY(!atomic_load_explicit(&run->retry, memory_order_relaxed)))
		return false;
	list = atomic_exchange(&run->retry, NULL);
	if (!list)
		return false;
	rest = list->next;
	if (rest) {
		for (last = rest; last->next; last = last->next)
			;
		last->next = atomic_load(&run->retry);
		while (!atomic_compare_exchange_weak(&run->retry, &last->next, rest))
			;
	}
	*ret_piece = *list;
	free(list);
	return true;
}

/* The piece at a cursor, and the cursor behind it. */
static uint64_t piece_at(const struct mc_run *run, uint64_t cursor, struct mc_piece *p)
{
	uint32_t idx = (uint32_t)(cursor >> 32);
	const struct mc_req *req = &run->reqs[run->first + idx];

	p->first = run->first + idx;
	p->nr = 1;
	p->tries = 0;
	p->stage = 0;
	if (req->len > run->chunk) {
		uint64_t rest;

		p->off = (cursor & UINT32_MAX) * run->chunk;
		rest = req->len - p->off;
		/* A short tail travels with the chunk before it. */
		if (rest <= run->chunk || (rest - run->chunk < run->chunk / 4 && rest <= run->max_piece)) {
			p->len = rest;
			return CURSOR(idx + 1, 0);
		}
		p->len = run->chunk;
		return cursor + 1;
	}
	p->off = 0;
	p->len = req->len;
	while (idx + p->nr < run->nr) {
		const struct mc_req *next = &run->reqs[p->first + p->nr];

		if (next->local != req->local + p->len || next->offset != req->offset + p->len ||
		    p->len + next->len > run->max_piece || next->len > run->chunk)
			break;
		p->len += next->len;
		p->nr++;
	}
	return CURSOR(idx + p->nr, 0);
}

static bool take_piece(struct mc_run *run, struct mc_piece *p)
{
	uint64_t cursor = atomic_load_explicit(&run->cursor, memory_order_relaxed), next;

	p->run = run;
	if (pop_retry(run, p))
		return true;
	do {
		if (cursor >> 32 >= run->nr)
			return false;
		next = piece_at(run, cursor, p);
	} while (!atomic_compare_exchange_weak_explicit(&run->cursor, &cursor, next,
							memory_order_acq_rel, memory_order_relaxed));
	return true;
}

bool mc_run_cut(struct mc_run *run, struct mc_piece *ret_piece)
{
	while (take_piece(run, ret_piece)) {
		const struct mc_req *req = &run->reqs[ret_piece->first];
		int stop = atomic_load_explicit(&run->batch->stop, memory_order_relaxed);

		if (MC_UNLIKELY(stop))
			mc_piece_end(ret_piece, stop, MC_SCOPE_REQUEST);
		else if (MC_UNLIKELY(atomic_load_explicit(&req->failed, memory_order_relaxed)))
			mc_piece_end(ret_piece, -ECANCELED, MC_SCOPE_REQUEST);
		else
			return true;
	}
	return false;
}

bool mc_run_has_work(const struct mc_run *run)
{
	/* In one order with the push of a retry and the marks of links: see mc_link_give_back. */
	return atomic_load_explicit(&run->cursor, memory_order_relaxed) >> 32 < run->nr ||
	       atomic_load(&run->retry);
}

void mc_run_stop(struct mc_run *run, int status, int scope)
{
	struct mc_piece piece = {.run = run};

	while (take_piece(run, &piece))
		mc_piece_end(&piece, status, scope);
}

int mc_run_expired(const struct mc_run *run, uint64_t now_ns)
{
	int stop = atomic_load_explicit(&run->batch->stop, memory_order_relaxed);

	if (stop)
		return stop;
	if (__atomic_load_n(&run->lbuf->fenced, __ATOMIC_RELAXED))
		return -ECANCELED;
	return now_ns >= run->batch->deadline_ns ? -ETIMEDOUT : 0;
}

void mc_piece_retry(const struct mc_piece *piece, int status, int scope)
{
	struct mc_run *run = piece->run;
	struct mc_piece *copy = malloc(sizeof *copy);

	if (!copy) {
		mc_piece_end(piece, status, scope);
		return;
	}
	*copy = *piece;
	copy->next = atomic_load(&run->retry);
	while (!atomic_compare_exchange_weak(&run->retry, &copy->next, copy))
		;
}

/* ---- links ----------------------------------------------------------------------------------- */

struct mc_link *mc_run_link(struct mc_run *run, struct mc_path *path)
{
	uint32_t used = atomic_load(&run->links_used), bit;

	do {
		bit = ~used & (used + 1);
		if (bit >= 1u << MC_RUN_LINKS || !bit)
			return NULL;
	} while (!atomic_compare_exchange_weak(&run->links_used, &used, used | bit));
	atomic_fetch_add(&run->refs, 1);
	struct mc_link *link = &run->links[__builtin_ctz(bit)];

	link->run = run;
	/* Another thread that offers the run may look at it meanwhile. */
	__atomic_store_n(&link->path, path, __ATOMIC_RELAXED);
	link->next = NULL;
	link->stage = 0;
	return link;
}

void mc_run_unref(struct mc_run *run)
{
	struct mc_batch *batch = run->batch;

	if (atomic_fetch_sub_explicit(&run->refs, 1, memory_order_acq_rel) != 1)
		return;
	mc_local_put(run->lbuf);
	mc_snapshot_unref(run->snapshot);
	mc_batch_end(batch);
}

void mc_link_drop(struct mc_link *link)
{
	struct mc_run *run = link->run;

	atomic_fetch_and(&run->links_used, ~(1u << (link - run->links)));
	mc_run_unref(run);
}

/* ---- counting ---------------------------------------------------------------------------------- */

static void req_complete(struct mc_batch *batch, struct mc_req *req)
{
	bool failed = atomic_load_explicit(&req->failed, memory_order_relaxed);

	if (failed)
		atomic_fetch_add(&batch->failed, 1);
	atomic_store_explicit(&req->state, failed ? MC_REQUEST_FAILED : MC_REQUEST_DONE,
			      memory_order_release);
}

static void req_set_failed(struct mc_req *req, int status, int scope)
{
	if (atomic_exchange(&req->failed, true))
		return;
	req->status = status;
	req->scope = (uint8_t)scope;
}

void mc_req_fail(struct mc_batch *batch, struct mc_req *req, int status, int scope)
{
	req_set_failed(req, status, scope);
	atomic_store_explicit(&req->left, 0, memory_order_relaxed);
	req_complete(batch, req);
}

/* Requests that the piece covers whole: nobody else counts on them. */
static void end_whole(struct mc_batch *batch, struct mc_req *req, uint32_t nr, int status, int scope)
{
	for (uint32_t i = 0; i < nr; i++, req++) {
		if (MC_UNLIKELY(status))
			req_set_failed(req, status, scope);
		else
			atomic_store_explicit(&req->done_len, req->len, memory_order_relaxed);
		atomic_store_explicit(&req->left, 0, memory_order_relaxed);
		req_complete(batch, req);
	}
}

void mc_piece_end(const struct mc_piece *piece, int status, int scope)
{
	struct mc_run *run = piece->run;
	struct mc_batch *batch = run->batch;
	struct mc_req *req = &run->reqs[piece->first];
	uint32_t ended = piece->nr;

	if (piece->len == req->len || piece->nr > 1) {
		end_whole(batch, req, piece->nr, status, scope);
	} else {
		if (status)
			req_set_failed(req, status, scope);
		else
			atomic_fetch_add_explicit(&req->done_len, piece->len, memory_order_relaxed);
		if (atomic_fetch_sub_explicit(&req->left, piece->len, memory_order_acq_rel) ==
		    piece->len)
			req_complete(batch, req);
		else
			ended = 0;
	}
	if (ended &&
	    atomic_fetch_sub_explicit(&run->left, ended, memory_order_acq_rel) == ended)
		mc_run_unref(run);
}

/* ---- completion of the batch ------------------------------------------------------------------- */

static __thread struct mc_batch *in_callback;

/* Whoever completed the batch may still be on his way out of it. */
static void settle(struct mc_batch *batch)
{
	while (in_callback != batch && atomic_load(&batch->finishing))
		sched_yield();
}

void mc_batch_open(struct mc_batch *batch)
{
	if (atomic_fetch_add(&batch->open_runs, 1) == 0)
		settle(batch);
	atomic_store(&batch->complete, false);
}

static void publish(struct mc_batch *batch)
{
	uint64_t one = 1;

	atomic_store(&batch->complete, true);
	if (batch->event_fd >= 0)
		while (write(batch->event_fd, &one, sizeof one) < 0 && errno == EINTR)
			;
	if (batch->done) {
		struct mc_batch *outer = in_callback;

		in_callback = batch;
		mc_worker_callback(true);
		batch->done(batch->done_arg, batch);
		mc_worker_callback(false);
		in_callback = outer;
	}
	mc_bell_ring(&batch->bell);
}

static void notify_done(void *arg, int status)
{
	struct mc_batch *batch = arg;

	batch->notify_status = status;
	mc_batch_end(batch);
}

/* All requests are complete: send the notify, if there is one, before the batch is. */
static bool start_notify(struct mc_batch *batch)
{
	struct mc_session *session = batch->notify_session;
	int r;

	if (!session)
		return false;
	batch->notify_session = NULL;
	if (atomic_load(&batch->failed)) {
		batch->notify_status = -ECANCELED;
		mc_session_unref(session);
		return false;
	}
	mc_batch_begin(batch);
	r = mc_notify_post(session, batch->notify_data, batch->notify_len, batch->deadline_ns,
			   notify_done, batch);
	mc_session_unref(session);
	if (r < 0) {
		batch->notify_status = r;
		atomic_fetch_sub(&batch->open_runs, 1);
		return false;
	}
	return true;
}

void mc_batch_begin(struct mc_batch *batch)
{
	atomic_fetch_add(&batch->open_runs, 1);
}

void mc_batch_end(struct mc_batch *batch)
{
	atomic_fetch_add(&batch->finishing, 1);
	if (atomic_fetch_sub(&batch->open_runs, 1) == 1 && !start_notify(batch))
		publish(batch);
	atomic_fetch_sub(&batch->finishing, 1);
}

/* ---- waiting ------------------------------------------------------------------------------------- */

static bool is_complete(void *arg)
{
	return atomic_load_explicit(&((struct mc_batch *)arg)->complete, memory_order_acquire);
}

int mc_batch_wait(struct mc_batch *batch, uint64_t timeout_ns)
{
	struct mc_worker *workers[MC_BATCH_WORKERS];
	uint64_t now = mc_now_ns(), deadline;
	uint32_t nr;
	int r;

	if (!batch)
		return -EINVAL;
	if (mc_engine_check(batch->engine) < 0)
		return -EPERM;
	if (mc_worker_any_mine())
		return -EDEADLK;
	if (!batch->nr)
		return 0;
	deadline = timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;
	/* Workers that a deferred resolve or a retry adds later do their work on their own threads. */
	pthread_mutex_lock(&batch->lock);
	nr = batch->nr_workers;
	memcpy(workers, batch->workers, nr * sizeof workers[0]);
	pthread_mutex_unlock(&batch->lock);
	r = mc_worker_drive(workers, nr, &batch->bell, is_complete, batch, deadline);
	if (!r)
		settle(batch);
	return r;
}

size_t mc_batch_poll(const struct mc_batch *batch)
{
	size_t n = 0;

	if (!batch)
		return 0;
	if (is_complete((void *)(uintptr_t)batch))
		return batch->nr;
	for (size_t i = 0; i < batch->nr; i++)
		n += atomic_load_explicit(&batch->reqs[i].state, memory_order_acquire) !=
		     MC_REQUEST_PENDING;
	return n;
}

size_t mc_batch_failed(const struct mc_batch *batch)
{
	return batch ? atomic_load(&batch->failed) : 0;
}

int mc_batch_notify_status(const struct mc_batch *batch)
{
	return batch ? batch->notify_status : -EINVAL;
}

int mc_batch_status(const struct mc_batch *batch, size_t idx, struct mc_request_status *status)
{
	struct mc_request_status s = {.size = sizeof s};
	const struct mc_req *req;

	if (!batch || !status || status->size < sizeof status->size)
		return -EINVAL;
	if (idx >= batch->nr)
		return -ERANGE;
	req = &batch->reqs[idx];
	s.state = atomic_load_explicit(&req->state, memory_order_acquire);
	s.user = req->user;
	s.done_len = atomic_load(&req->done_len);
	if (s.state == MC_REQUEST_FAILED) {
		s.status = req->status;
		s.scope = req->scope;
	}
	s.size = status->size;
	memcpy(status, &s, MC_MIN(status->size, sizeof s));
	return 0;
}

int mc_batch_cancel(struct mc_batch *batch)
{
	int32_t zero = 0;

	if (!batch)
		return -EINVAL;
	if (mc_engine_check(batch->engine) < 0)
		return -EPERM;
	if (is_complete(batch))
		return 0;
	atomic_compare_exchange_strong(&batch->stop, &zero, -ECANCELED);
	pthread_mutex_lock(&batch->lock);
	for (uint32_t i = 0; i < batch->nr_workers; i++)
		mc_worker_tick_now(batch->workers[i]);
	pthread_mutex_unlock(&batch->lock);
	return 0;
}

void mc_batch_add_worker(struct mc_batch *batch, struct mc_worker *worker)
{
	uint32_t i;

	pthread_mutex_lock(&batch->lock);
	for (i = 0; i < batch->nr_workers && batch->workers[i] != worker; i++)
		;
	if (i == batch->nr_workers && i < MC_BATCH_WORKERS)
		batch->workers[batch->nr_workers++] = worker;
	pthread_mutex_unlock(&batch->lock);
}

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
	if (!is_complete(b)) {
		mc_batch_cancel(b);
		if (mc_batch_wait(b, MC_FOREVER) == -EDEADLK)
			return;
	}
	settle(b);
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
		pthread_mutex_unlock(&b->lock);
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
	if (!is_complete(b))
		return -EBUSY;
	settle(b);
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
