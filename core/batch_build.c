/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the caller's array to runs: every request is checked against our own
 * buffers and the snapshot of the peer's (P4), and consecutive ones between the
 * same two buffers become one run.  What the snapshot does not hold waits for one
 * refresh, off the caller's thread, and is resolved again.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "batch.h"
#include "clock.h"
#include "control.h"
#include "engine.h"
#include "path.h"

/* Requests of one batch that wait for a refresh of one session's table.  Ended by the answer, the
 * batch's deadline or a cancel, whichever is first; freed once the answer and the post are back too. */
struct mc_deferred {
	struct mc_deferred *next;  /* of its batch, or of the builder */
	struct mc_batch *batch;    /* valid until it is over */
	struct mc_session *session; /* a reference until then */
	size_t nr, cap;
	uint32_t *idx;             /* in the batch */
	struct mc_control_post post;
	bool posted;               /* the post is on its way; the batch's lock, [control] once it is over */
	bool over, answered;       /* [control] */
	struct mc_timer timer;
};

/* ---- runs ------------------------------------------------------------------------------------- */

static bool run_takes(const struct mc_run *run, const struct mc_req *req, const struct mc_session *s)
{
	return run && run->session == s && run->opcode == req->opcode && run->sole == req->sole &&
	       run->first + run->nr == (uint32_t)(req - run->reqs) &&
	       mc_range_inside(run->lbuf->base, run->lbuf->len, req->local, req->len) &&
	       mc_range_inside(run->rbuf->base, run->rbuf->len, req->offset, req->len);
}

static bool remember(struct mc_builder *b, struct mc_run *run)
{
	if (b->nr_ready == b->cap_ready) {
		size_t cap = b->cap_ready * 2;
		struct mc_run **ready = malloc(cap * sizeof *ready);

		if (!ready)
			return false;
		memcpy(ready, b->ready, b->nr_ready * sizeof *ready);
		if (b->ready != b->ready_inline)
			free(b->ready);
		b->ready = ready;
		b->cap_ready = cap;
	}
	b->ready[b->nr_ready++] = run;
	return true;
}

/* Begin a run; lbuf is held, snapshot is a reference, both pass to it. */
static struct mc_run *run_begin(struct mc_builder *b, struct mc_req *req, struct mc_session *session,
				struct mc_local_buf *lbuf, struct mc_remote_buf *rbuf,
				struct mc_snapshot *snapshot)
{
	struct mc_batch *batch = b->batch;
	struct mc_run *run = mc_arena_get(&batch->arena, sizeof *run);

	if (!run || !remember(b, run))
		return NULL;
	run->batch = batch;
	run->reqs = batch->reqs;
	run->session = session;
	run->lbuf = lbuf;
	run->rbuf = rbuf;
	run->snapshot = snapshot;
	run->route = NULL;
	run->first = (uint32_t)(req - batch->reqs);
	run->nr = 0;
	run->bytes = 0;
	run->ored = 0;
	run->opcode = req->opcode;
	run->sole = req->sole;
	atomic_init(&run->cursor, 0);
	atomic_init(&run->refs, 1);
	atomic_init(&run->retry, NULL);
	atomic_init(&run->links_used, 0);
	atomic_init(&run->nr_barred, 0);
	/* Others may look at places that are only being filled. */
	for (int i = 0; i < MC_RUN_LINKS; i++) {
		run->links[i].path = NULL;
		atomic_init(&run->barred[i], NULL);
	}
	run->next = batch->runs;
	batch->runs = run;
	b->run = run;
	mc_batch_begin(batch);
	return run;
}

/* ---- deferring ---------------------------------------------------------------------------------- */

static void build_init(struct mc_builder *b, struct mc_batch *batch);
static void build_dispatch(struct mc_builder *b);

static void deferred_free(struct mc_deferred *d)
{
	if (!d->over || !d->answered || d->posted)
		return;
	free(d->idx);
	free(d);
}

/* Nobody but its answer and its post, if they are on their way, finds it any more.  [control] */
static void deferred_leave(struct mc_deferred *d)
{
	struct mc_batch *batch = d->batch;
	struct mc_deferred **at;

	mc_control_timer(batch->engine->control, &d->timer, 0);
	pthread_mutex_lock(&batch->lock);
	for (at = &batch->deferred; *at != d; at = &(*at)->next)
		;
	*at = d->next;
	pthread_mutex_unlock(&batch->lock);
	d->over = true;
}

/* Nothing of it was sent: it ends without a fence.  [control] */
static void deferred_end(struct mc_deferred *d, int status)
{
	struct mc_batch *batch = d->batch;

	deferred_leave(d);
	for (size_t i = 0; i < d->nr; i++)
		mc_req_fail(batch, &batch->reqs[d->idx[i]], status, MC_SCOPE_REQUEST);
	mc_session_unref(d->session);
	deferred_free(d);
	mc_batch_end(batch);
}

/* The refresh is over: resolve once more.  [control] */
static void deferred_resolve(struct mc_deferred *d)
{
	struct mc_batch *batch = d->batch;
	struct mc_builder b;

	deferred_leave(d);
	build_init(&b, batch);
	b.last_try = true;
	pthread_mutex_lock(&batch->lock);
	for (size_t i = 0; i < d->nr; i++)
		mc_build_add(&b, &batch->reqs[d->idx[i]], d->session);
	pthread_mutex_unlock(&batch->lock);
	build_dispatch(&b);
	mc_session_unref(d->session);
	deferred_free(d);
	mc_batch_end(batch);
}

/* It is new, answered, or its batch is stopped.  [control] */
static void deferred_step(struct mc_deferred *d)
{
	struct mc_batch *batch = d->batch;
	int stop = atomic_load(&batch->stop);

	if (!stop && mc_now_ns() >= batch->deadline_ns)
		stop = -ETIMEDOUT;
	if (stop)
		deferred_end(d, stop);
	else if (d->answered)
		deferred_resolve(d);
	else if (batch->deadline_ns != UINT64_MAX)
		mc_control_timer(batch->engine->control, &d->timer, batch->deadline_ns);
}

static void deferred_answered(void *arg, int status)
{
	struct mc_deferred *d = arg;

	d->answered = true;
	if (d->over)
		deferred_free(d);
	else
		deferred_step(d);
}

static void deferred_expired(struct mc_timer *timer, uint64_t now_ns)
{
	deferred_step(MC_CONTAINER_OF(timer, struct mc_deferred, timer));
}

static void deferred_look(struct mc_control_post *post)
{
	struct mc_deferred *d = MC_CONTAINER_OF(post, struct mc_deferred, post);

	if (d->over) {
		d->posted = false;
		deferred_free(d);
		return;
	}
	pthread_mutex_lock(&d->batch->lock);
	d->posted = false;
	pthread_mutex_unlock(&d->batch->lock);
	deferred_step(d);
}

void mc_batch_stop_deferred(struct mc_batch *batch)
{
	for (struct mc_deferred *d = batch->deferred; d; d = d->next) {
		if (!d->posted)
			mc_control_post(batch->engine->control, &d->post);
		d->posted = true;
	}
}

static bool defer(struct mc_builder *b, struct mc_req *req, struct mc_session *session)
{
	struct mc_deferred *d = b->deferred;

	while (d && d->session != session)
		d = d->next;
	if (!d) {
		d = calloc(1, sizeof *d);
		if (!d)
			return false;
		d->batch = b->batch;
		d->session = mc_session_ref(session);
		d->post.run = deferred_look;
		d->timer = (struct mc_timer){.size = sizeof d->timer, .fire = deferred_expired};
		d->next = b->deferred;
		b->deferred = d;
	}
	if (d->nr == d->cap) {
		size_t cap = d->cap ? 2 * d->cap : 16;
		uint32_t *idx = realloc(d->idx, cap * sizeof *idx);

		if (!idx)
			return false;
		d->idx = idx;
		d->cap = cap;
	}
	d->idx[d->nr++] = (uint32_t)(req - b->batch->reqs);
	return true;
}

static void start_deferred(struct mc_builder *b)
{
	struct mc_batch *batch = b->batch;

	while (b->deferred) {
		struct mc_deferred *d = b->deferred;

		b->deferred = d->next;
		mc_batch_begin(batch);
		pthread_mutex_lock(&batch->lock);
		d->posted = true;
		d->next = batch->deferred;
		batch->deferred = d;
		pthread_mutex_unlock(&batch->lock);
		/* Once it is asked for, the answer may come before our post. */
		if (mc_session_refresh(d->session, deferred_answered, d) < 0)
			d->answered = true;
		mc_control_post(batch->engine->control, &d->post);
	}
}

/* ---- adding requests ------------------------------------------------------------------------------ */

struct mc_remote_buf *mc_req_find_remote(const struct mc_snapshot *snapshot, const struct mc_req *req)
{
	uint32_t need = req->opcode == MC_OP_READ ? MC_ACCESS_REMOTE_READ : MC_ACCESS_REMOTE_WRITE;
	struct mc_remote_buf *rbuf = mc_snapshot_find(snapshot, req->offset, req->len);

	return rbuf && (rbuf->access & need) ? rbuf : NULL;
}

void mc_build_add(struct mc_builder *b, struct mc_req *req, struct mc_session *session)
{
	struct mc_batch *batch = b->batch;
	struct mc_local_buf *lbuf;
	struct mc_remote_buf *rbuf;
	struct mc_snapshot *snapshot;

	if (run_takes(b->run, req, session)) {
		mc_run_append(b->run, req);
		return;
	}
	if (__atomic_load_n(&session->state, __ATOMIC_ACQUIRE) == MC_SESSION_GONE) {
		mc_req_fail(batch, req, session->gone_status, MC_SCOPE_PEER);
		return;
	}
	lbuf = mc_local_find(batch->engine, (const void *)(uintptr_t)req->local, req->len);
	if (!lbuf) {
		mc_req_fail(batch, req, -EFAULT, MC_SCOPE_REQUEST);
		return;
	}
	snapshot = mc_session_snapshot(session);
	rbuf = snapshot ? mc_req_find_remote(snapshot, req) : NULL;
	if (rbuf && run_begin(b, req, session, lbuf, rbuf, snapshot)) {
		mc_run_append(b->run, req);
		return;
	}
	mc_local_put(lbuf);
	mc_snapshot_unref(snapshot);
	if (rbuf) {
		mc_req_fail(batch, req, -ENOMEM, MC_SCOPE_REQUEST);
	} else if (b->last_try || !defer(b, req, session)) {
		mc_req_denied(session, req);
		mc_req_fail(batch, req, -EACCES, MC_SCOPE_REQUEST);
	}
}

static void build_init(struct mc_builder *b, struct mc_batch *batch)
{
	memset(b, 0, offsetof(struct mc_builder, ready_inline));
	b->batch = batch;
	b->ready = b->ready_inline;
	b->cap_ready = MC_ARRAY_SIZE(b->ready_inline);
}

static void build_dispatch(struct mc_builder *b)
{
	for (size_t i = 0; i < b->nr_ready; i++) {
		atomic_init(&b->ready[i]->left, b->ready[i]->nr);
		mc_route_dispatch(b->ready[i]);
	}
	if (b->ready != b->ready_inline)
		free(b->ready);
	if (b->deferred)
		start_deferred(b);
}

/* ---- submit ---------------------------------------------------------------------------------------- */

int mc_req_check(const struct mc_engine *engine, const struct mc_request *r)
{
	if (r->opcode >= MC_OP_COUNT || (r->flags & ~MC_REQUEST_SOLE) || !r->segment || r->segment->engine != engine)
		return -EINVAL;
	return 0;
}

void mc_req_fill(struct mc_req *req, const struct mc_request *r)
{
	req->local = (uintptr_t)r->local;
	req->offset = r->offset;
	req->len = r->len;
	req->user = r->user;
	req->opcode = (uint8_t)r->opcode;
	req->sole = (r->flags & MC_REQUEST_SOLE) != 0;
	req->scope = MC_SCOPE_NONE;
	req->status = 0;
	atomic_store_explicit(&req->failed, false, memory_order_relaxed);
	atomic_store_explicit(&req->done_len, 0, memory_order_relaxed);
	atomic_store_explicit(&req->state, MC_REQUEST_PENDING, memory_order_relaxed);
}

int mc_submit_check(const struct mc_batch *batch, size_t nr, size_t *reterr_idx)
{
	int r = nr ? mc_engine_check(batch->engine) : -EINVAL;

	if (r == 0 && nr > batch->capacity - batch->nr) {
		r = -ENOSPC;
		if (reterr_idx)
			*reterr_idx = batch->capacity - batch->nr;
	} else if (r < 0 && reterr_idx) {
		*reterr_idx = 0;
	}
	return r;
}

void mc_submit_begin(struct mc_batch *batch, struct mc_builder *b)
{
	uint64_t now = 0;

	if (!batch->deadline_ns) {
		now = mc_now_ns();
		batch->deadline_ns = batch->span_ns > UINT64_MAX - now ? UINT64_MAX
								       : now + batch->span_ns;
	}
	mc_batch_open(batch);
	build_init(b, batch);
	b->now = now;
	pthread_mutex_lock(&batch->lock);
}

void mc_submit_end(struct mc_batch *batch, struct mc_builder *b)
{
	struct mc_lending lending = {.nr = 0};

	pthread_mutex_unlock(&batch->lock);
	mc_lend_begin(&lending, b->now);
	build_dispatch(b);
	mc_lend_end(&lending);
	mc_batch_end(batch);
}

int mc_batch_submit(struct mc_batch *batch, const struct mc_request *reqs, size_t nr,
		    size_t *reterr_idx)
{
	struct mc_builder b;
	size_t i;
	int r;

	if (!batch || !reqs)
		return -EINVAL;
	r = mc_submit_check(batch, nr, reterr_idx);
	if (r < 0)
		return r;
	for (i = 0; i < nr; i++) {
		r = mc_req_check(batch->engine, &reqs[i]);
		if (r < 0) {
			if (reterr_idx)
				*reterr_idx = i;
			return r;
		}
	}
	mc_submit_begin(batch, &b);
	for (i = 0; i < nr; i++) {
		struct mc_req *req = &batch->reqs[batch->nr++];

		mc_req_fill(req, &reqs[i]);
		if (req->len)
			mc_build_add(&b, req, reqs[i].segment->session);
		else
			atomic_store(&req->state, MC_REQUEST_DONE);
	}
	mc_submit_end(batch, &b);
	return 0;
}
