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

struct builder {
	struct mc_batch *batch;
	struct mc_run *run;        /* being filled */
	struct mc_run *first;      /* of this build, oldest first, through run->next of newer ones */
	struct mc_run **ready;     /* small array of runs to dispatch */
	size_t nr_ready, cap_ready;
	struct mc_deferred *deferred;
	bool last_try;             /* after the refresh: what is not there fails */
	struct mc_run *ready_inline[16]; /* last: it needs no clearing */
};

/* ---- runs ------------------------------------------------------------------------------------- */

static bool run_takes(const struct mc_run *run, const struct mc_req *req, const struct mc_session *s)
{
	return run && run->session == s && run->opcode == req->opcode &&
	       run->first + run->nr == (uint32_t)(req - run->reqs) &&
	       mc_range_inside(run->lbuf->base, run->lbuf->len, req->local, req->len) &&
	       mc_range_inside(run->rbuf->base, run->rbuf->len, req->offset, req->len);
}

static void run_append(struct mc_run *run, struct mc_req *req)
{
	run->nr++;
	run->bytes += req->len;
	run->ored |= req->local | req->offset | req->len;
	atomic_store_explicit(&req->left, req->len, memory_order_relaxed);
}

static bool remember(struct builder *b, struct mc_run *run)
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
static struct mc_run *run_begin(struct builder *b, struct mc_req *req, struct mc_session *session,
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

static void build_init(struct builder *b, struct mc_batch *batch);
static void build_add(struct builder *b, struct mc_req *req, struct mc_session *session);
static void build_dispatch(struct builder *b);

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
	struct builder b;

	deferred_leave(d);
	build_init(&b, batch);
	b.last_try = true;
	pthread_mutex_lock(&batch->lock);
	for (size_t i = 0; i < d->nr; i++)
		build_add(&b, &batch->reqs[d->idx[i]], d->session);
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

static bool defer(struct builder *b, struct mc_req *req, struct mc_session *session)
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

static void start_deferred(struct builder *b)
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

static struct mc_remote_buf *find_remote(const struct mc_snapshot *snapshot, const struct mc_req *req)
{
	uint32_t need = req->opcode == MC_OP_READ ? MC_ACCESS_REMOTE_READ : MC_ACCESS_REMOTE_WRITE;
	struct mc_remote_buf *rbuf = mc_snapshot_find(snapshot, req->offset, req->len);

	return rbuf && (rbuf->access & need) ? rbuf : NULL;
}

/* Put one filled request into a run, defer it, or end it with its failure. */
static void build_add(struct builder *b, struct mc_req *req, struct mc_session *session)
{
	struct mc_batch *batch = b->batch;
	struct mc_local_buf *lbuf;
	struct mc_remote_buf *rbuf;
	struct mc_snapshot *snapshot;

	if (run_takes(b->run, req, session)) {
		run_append(b->run, req);
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
	rbuf = snapshot ? find_remote(snapshot, req) : NULL;
	if (rbuf && run_begin(b, req, session, lbuf, rbuf, snapshot)) {
		run_append(b->run, req);
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

static void build_init(struct builder *b, struct mc_batch *batch)
{
	memset(b, 0, offsetof(struct builder, ready_inline));
	b->batch = batch;
	b->ready = b->ready_inline;
	b->cap_ready = MC_ARRAY_SIZE(b->ready_inline);
}

static void build_dispatch(struct builder *b)
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

static int check(const struct mc_batch *batch, const struct mc_request *r)
{
	if (r->opcode >= MC_OP_COUNT || r->flags || !r->segment ||
	    r->segment->engine != batch->engine)
		return -EINVAL;
	return 0;
}

static void fill(struct mc_req *req, const struct mc_request *r)
{
	req->local = (uintptr_t)r->local;
	req->offset = r->offset;
	req->len = r->len;
	req->user = r->user;
	req->opcode = (uint8_t)r->opcode;
	req->scope = MC_SCOPE_NONE;
	req->status = 0;
	atomic_store_explicit(&req->failed, false, memory_order_relaxed);
	atomic_store_explicit(&req->done_len, 0, memory_order_relaxed);
	atomic_store_explicit(&req->state, MC_REQUEST_PENDING, memory_order_relaxed);
}

/* Before anything of the nr is looked at: is there room for them? */
static int submit_check(const struct mc_batch *batch, size_t nr, size_t *reterr_idx)
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

static void submit_begin(struct mc_batch *batch)
{
	uint64_t now;

	if (!batch->deadline_ns) {
		now = mc_now_ns();
		batch->deadline_ns = batch->span_ns > UINT64_MAX - now ? UINT64_MAX
								       : now + batch->span_ns;
	}
	mc_batch_open(batch);
}

/* The runs are made: take the batons that are free, so that the work begins on this thread. */
static void submit_run(struct mc_batch *batch, struct builder *b)
{
	struct mc_lending lending = {.nr = 0};

	mc_lend_begin(&lending);
	build_dispatch(b);
	mc_lend_end(&lending);
	mc_batch_end(batch);
}

int mc_batch_submit(struct mc_batch *batch, const struct mc_request *reqs, size_t nr,
		    size_t *reterr_idx)
{
	struct builder b;
	size_t i;
	int r;

	if (!batch || !reqs)
		return -EINVAL;
	r = submit_check(batch, nr, reterr_idx);
	if (r < 0)
		return r;
	for (i = 0; i < nr; i++) {
		r = check(batch, &reqs[i]);
		if (r < 0) {
			if (reterr_idx)
				*reterr_idx = i;
			return r;
		}
	}
	submit_begin(batch);
	build_init(&b, batch);
	pthread_mutex_lock(&batch->lock);
	for (i = 0; i < nr; i++) {
		struct mc_req *req = &batch->reqs[batch->nr++];

		fill(req, &reqs[i]);
		if (req->len)
			build_add(&b, req, reqs[i].segment->session);
		else
			atomic_store(&req->state, MC_REQUEST_DONE);
	}
	pthread_mutex_unlock(&batch->lock);
	submit_run(batch, &b);
	return 0;
}

/* ---- prepared lists ---------------------------------------------------------------------------------- */

/* An entry: the request, and which entry's buffers it shares (the first of its kind). */
struct list_entry {
	struct mc_req req;
	struct mc_session *session; /* borrowed from the segment handle */
	uint32_t group;             /* entries of one group lie in the same two buffers */
};
struct mc_list {
	struct mc_engine *engine;
	size_t nr;
	struct list_entry *entries;
	/* Per group, the buffers it was resolved to, by ids that are never reused. */
	struct list_group {
		uint32_t lbuf_id, rbuf_id;
		struct mc_session *session;
		uint8_t opcode;
	} *groups;
	uint32_t nr_groups;
};

static bool same_group(const struct list_group *a, const struct list_group *b)
{
	return a->lbuf_id == b->lbuf_id && a->rbuf_id == b->rbuf_id && a->session == b->session &&
	       a->opcode == b->opcode;
}

static int list_resolve(struct mc_list *list, struct list_entry *e)
{
	struct mc_local_buf *lbuf;
	struct mc_snapshot *snapshot;
	struct mc_remote_buf *rbuf;
	struct list_group g = {.session = e->session, .opcode = e->req.opcode};
	uint32_t i;

	lbuf = mc_local_find(list->engine, (const void *)(uintptr_t)e->req.local, e->req.len);
	if (!lbuf)
		return -EFAULT;
	snapshot = mc_session_snapshot(e->session);
	rbuf = snapshot ? find_remote(snapshot, &e->req) : NULL;
	g.lbuf_id = lbuf->id;
	if (rbuf)
		g.rbuf_id = rbuf->id;
	mc_local_put(lbuf);
	mc_snapshot_unref(snapshot);
	if (!rbuf) {
		mc_req_denied(e->session, &e->req);
		return -EACCES;
	}
	for (i = list->nr_groups; i > 0; i--)
		if (same_group(&list->groups[i - 1], &g))
			break;
	if (!i) {
		list->groups[list->nr_groups] = g;
		i = ++list->nr_groups;
	}
	e->group = i - 1;
	return 0;
}

void mc_list_free(struct mc_list *list)
{
	if (!list)
		return;
	free(list->entries);
	free(list->groups);
	free(list);
}

int mc_list_new(struct mc_engine *engine, const struct mc_request *reqs, size_t nr,
		struct mc_list **ret_list, size_t *reterr_idx)
{
	struct mc_batch probe = {.engine = engine};
	struct mc_list *list;
	int r;

	if (!engine || !reqs || !nr || nr > UINT32_MAX || !ret_list)
		return -EINVAL;
	r = mc_engine_check(engine);
	if (r < 0)
		return r;
	r = -ENOMEM;
	list = calloc(1, sizeof *list);
	if (!list)
		return -ENOMEM;
	list->engine = engine;
	list->nr = nr;
	list->entries = calloc(nr, sizeof *list->entries);
	list->groups = calloc(nr, sizeof *list->groups);
	if (!list->entries || !list->groups)
		goto fail;
	for (size_t i = 0; i < nr; i++) {
		struct list_entry *e = &list->entries[i];

		r = check(&probe, &reqs[i]);
		if (!r) {
			fill(&e->req, &reqs[i]);
			e->session = reqs[i].segment->session;
			r = e->req.len ? list_resolve(list, e) : 0;
		}
		if (r < 0) {
			if (reterr_idx)
				*reterr_idx = i;
			goto fail;
		}
	}
	*ret_list = list;
	return 0;
fail:
	mc_list_free(list);
	return r;
}

/* The run under construction holds the two buffers of this group, and they are the ones that the
 * list was checked against: no range needs a look. */
static bool group_matches(const struct mc_run *run, const struct list_group *g,
			  const struct mc_req *req)
{
	return run && run->lbuf->id == g->lbuf_id && run->rbuf->id == g->rbuf_id && run->session == g->session &&
	       run->opcode == g->opcode && run->first + run->nr == (uint32_t)(req - run->reqs);
}

int mc_batch_submit_list(struct mc_batch *batch, const struct mc_list *list, const uint32_t *idx,
			 size_t nr, size_t *reterr_idx)
{
	struct builder b;
	int r;

	if (!batch || !list || list->engine != batch->engine)
		return -EINVAL;
	r = submit_check(batch, nr, reterr_idx);
	if (r < 0)
		return r;
	for (size_t i = 0; i < nr; i++) {
		if ((idx ? idx[i] : i) < list->nr)
			continue;
		if (reterr_idx)
			*reterr_idx = i;
		return -EINVAL;
	}
	submit_begin(batch);
	build_init(&b, batch);
	pthread_mutex_lock(&batch->lock);
	for (size_t i = 0; i < nr; i++) {
		const struct list_entry *e = &list->entries[idx ? idx[i] : i];
		struct mc_req *req = &batch->reqs[batch->nr++];

		memcpy(req, &e->req, sizeof *req);
		if (!req->len)
			atomic_store(&req->state, MC_REQUEST_DONE);
		else if (group_matches(b.run, &list->groups[e->group], req))
			run_append(b.run, req);
		else
			build_add(&b, req, e->session);
	}
	pthread_mutex_unlock(&batch->lock);
	submit_run(batch, &b);
	return 0;
}
