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

uint64_t mc_run_uncut(const struct mc_run *run)
{
	uint64_t cursor = atomic_load_explicit(&run->cursor, memory_order_relaxed);
	uint64_t idx = MC_MIN(cursor >> 32, (uint64_t)run->nr), begun = (cursor & UINT32_MAX) * run->chunk;
	uint64_t bytes = (uint64_t)((double)run->bytes * (double)(run->nr - idx) / (double)run->nr);

	return bytes - MC_MIN(begun, bytes);
}

void mc_run_stop(struct mc_run *run, int status, int scope)
{
	struct mc_piece piece = {.run = run};

	while (take_piece(run, &piece))
		mc_piece_end(&piece, status, scope);
}

bool mc_run_bar(struct mc_run *run, struct mc_path *path, int status)
{
	uint32_t at = atomic_load(&run->nr_barred);

	atomic_store(&run->barred_status, status);
	do {
		if (at == MC_RUN_LINKS)
			return false;
	} while (!atomic_compare_exchange_weak(&run->nr_barred, &at, at + 1));
	atomic_store(&run->barred[at], path);
	return true;
}

/* A place that is only being filled is empty: that path is asked again, and barred again. */
bool mc_run_barred(const struct mc_run *run, const struct mc_path *path)
{
	struct mc_run *r = (struct mc_run *)(uintptr_t)run;
	uint32_t nr = atomic_load_explicit(&r->nr_barred, memory_order_acquire);

	for (uint32_t i = 0; i < nr; i++)
		if (atomic_load_explicit(&r->barred[i], memory_order_relaxed) == path)
			return true;
	return false;
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

/* The whole requests at the front of a piece that fit into max bytes, at least one. */
static uint32_t leading(const struct mc_piece *piece, uint64_t max, uint64_t *ret_len)
{
	const struct mc_req *req = &piece->run->reqs[piece->first];
	uint64_t len = req->len;
	uint32_t nr = 1;

	while (nr < piece->nr && len + req[nr].len <= max)
		len += req[nr++].len;
	*ret_len = len;
	return nr;
}

void mc_piece_split(struct mc_piece *piece, uint64_t max)
{
	while (piece->len > max) {
		struct mc_piece rest = *piece;

		if (piece->nr > 1) {
			piece->nr = leading(piece, max, &piece->len);
			rest.first += piece->nr;
			rest.nr -= piece->nr;
		} else {
			piece->len = max;
			rest.off += max;
		}
		rest.len -= piece->len;
		if (rest.nr)
			mc_piece_retry(&rest, -ENOMEM, MC_SCOPE_REQUEST);
	}
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

static MC_PER_THREAD struct mc_batch *in_callback;

/* Whoever completed the batch may still be on his way out of it. */
void mc_batch_settle(struct mc_batch *batch)
{
	while (in_callback != batch && atomic_load(&batch->finishing))
		sched_yield();
}

void mc_batch_open(struct mc_batch *batch)
{
	if (atomic_fetch_add(&batch->open_runs, 1) == 0)
		mc_batch_settle(batch);
	atomic_store(&batch->complete, false);
}

/* Returns whom to wake (mc_bell_wake) once the batch may go away. */
static uint32_t *publish(struct mc_batch *batch)
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
	return mc_bell_strike(&batch->bell);
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
	uint32_t *futex = NULL;

	atomic_fetch_add(&batch->finishing, 1);
	if (atomic_fetch_sub(&batch->open_runs, 1) == 1 && !start_notify(batch))
		futex = publish(batch);
	atomic_fetch_sub(&batch->finishing, 1);
	mc_bell_wake(futex);
}

/* ---- waiting ------------------------------------------------------------------------------------- */

bool mc_batch_is_complete(void *batch)
{
	return atomic_load_explicit(&((struct mc_batch *)batch)->complete, memory_order_acquire);
}

int mc_batch_wait(struct mc_batch *batch, uint64_t timeout_ns)
{
	uint64_t deadline = UINT64_MAX, now;
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
	if (timeout_ns != MC_FOREVER && !mc_batch_is_complete(batch)) {
		now = mc_now_ns();
		deadline = timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;
	}
	/* Workers that a deferred resolve or a retry adds later do their work on their own threads. */
	nr = atomic_load_explicit(&batch->nr_workers, memory_order_acquire);
	r = mc_worker_drive(batch->workers, nr, &batch->bell, mc_batch_is_complete, batch, deadline);
	if (!r)
		mc_batch_settle(batch);
	return r;
}

size_t mc_batch_poll(const struct mc_batch *batch)
{
	size_t n = 0;

	if (!batch)
		return 0;
	if (mc_batch_is_complete((void *)(uintptr_t)batch))
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
	if (mc_batch_is_complete(batch))
		return 0;
	atomic_compare_exchange_strong(&batch->stop, &zero, -ECANCELED);
	pthread_mutex_lock(&batch->lock);
	for (uint32_t i = 0; i < batch->nr_workers; i++)
		mc_worker_tick_now(batch->workers[i]);
	mc_batch_stop_deferred(batch);
	pthread_mutex_unlock(&batch->lock);
	return 0;
}

static bool has_worker(const struct mc_batch *batch, uint32_t nr, const struct mc_worker *worker)
{
	while (nr && batch->workers[nr - 1] != worker)
		nr--;
	return nr != 0;
}

void mc_batch_add_worker(struct mc_batch *batch, struct mc_worker *worker)
{
	uint32_t nr = atomic_load_explicit(&batch->nr_workers, memory_order_acquire);

	if (has_worker(batch, nr, worker))
		return;
	pthread_mutex_lock(&batch->lock);
	nr = atomic_load_explicit(&batch->nr_workers, memory_order_relaxed);
	if (nr < MC_BATCH_WORKERS && !has_worker(batch, nr, worker)) {
		batch->workers[nr] = worker;
		atomic_store_explicit(&batch->nr_workers, nr + 1, memory_order_release);
	}
	pthread_mutex_unlock(&batch->lock);
}
