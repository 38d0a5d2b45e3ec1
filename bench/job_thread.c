/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A thread of a job.  It has a ring of batches, as many as may be in flight, and
 * memory for each: the next batch is drawn (or taken from the trace), waits until
 * it is due and its place in the ring is free, and is submitted.  A request is
 * one batch or several; its latency counts from when it was due, so that one that
 * had to wait for others says so.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "job_impl.h"

#include <core/util/check.h>

#define STOP_POLL_NS (100 * MC_MSEC)

static bool stopped(const struct job_thread *t)
{
	return atomic_load_explicit(&t->load->team.stop, memory_order_relaxed) || mc_stopping();
}

/* ---- one batch ---------------------------------------------------------------------------------
 */

static int flight_failure(struct job_thread *t, const struct flight *f)
{
	for (size_t i = 0; i < f->part.nr; i++) {
		const struct mc_request *req = &f->reqs[i];
		struct mc_request_status st = {.size = sizeof st};
		struct mc_error why;

		if (mc_batch_status(f->batch, i, &st) != 0 || st.status >= 0)
			continue;
		if (st.status == -EACCES && mc_request_check(req, &why) == -EACCES)
			return mc_fail(&t->err, -EACCES, "block %zu of a batch of thread %" PRIu64 " failed: %.400s",
				       i, t->idx, why.text);
		return mc_fail(&t->err, st.status,
			       "%s of %" PRIu64 " bytes at offset 0x%" PRIx64
			       " of segment '%s' (block %zu of a batch of thread %" PRIu64 ") failed: %s",
			       req->opcode == MC_OP_READ ? "read" : "write", req->len, req->offset,
			       mc_segment_name(req->segment), i, t->idx, strerror(-st.status));
	}
	return mc_fail(&t->err, -EIO, "a batch of thread %" PRIu64 " failed without a status", t->idx);
}

int job_batch_wait(struct job_thread *t, struct mc_batch *batch, uint64_t until_ns)
{
	bool cancelled = false;
	int r;

	for (;;) {
		uint64_t now = clock_ns(t), left = until_ns > now ? until_ns - now : 0;

		r = mc_batch_wait(batch, MC_MIN(left, STOP_POLL_NS));
		if (r != -ETIMEDOUT)
			break;
		if (stopped(t) && !cancelled) {
			mc_batch_cancel(batch);
			cancelled = true;
			until_ns = UINT64_MAX;
		} else if (clock_ns(t) >= until_ns) {
			return -ETIMEDOUT;
		}
	}
	if (r < 0)
		return mc_fail(&t->err, r, "waiting for a batch of thread %" PRIu64 " failed: %s", t->idx,
			       strerror(-r));
	return cancelled && mc_batch_failed(batch) ? mc_fail(&t->err, -ECANCELED, "interrupted") : 0;
}

static void fill_request(struct job_thread *t, struct flight *f, size_t i)
{
	const struct bench_entry *e = &f->entries[i];

	f->reqs[i] = (struct mc_request){
		.opcode = e->read ? MC_OP_READ : MC_OP_WRITE,
		.local = f->local + e->local,
		.segment = t->load->args.peers[e->peer].segment,
		.offset = t->base[e->peer] + e->offset,
		.len = e->len,
	};
}

/* Says to the target which layer of which request is there. */
static int announce_layer(struct job_thread *t, struct flight *f)
{
	char text[64];
	int n = snprintf(text, sizeof text, "request %" PRIu64 ".%" PRIu64 " layer %" PRIu64, t->idx, f->request,
			 f->part.layer);
	int r = mc_batch_set_notify(f->batch, t->load->args.peers[f->part.peer].segment, text, (size_t)n);

	return r < 0 ? mc_fail(&t->err, r, "the message after a batch of thread %" PRIu64 ": %s", t->idx, strerror(-r))
		     : 0;
}

static int flight_submit(struct job_thread *t, struct flight *f)
{
	size_t bad = 0;
	int r;

	for (size_t i = 0; i < f->part.nr; i++)
		fill_request(t, f, i);
	f->start_ns = clock_ns(t);
	atomic_store_explicit(&f->end_ns, 0, memory_order_relaxed);
	r = mc_batch_submit(f->batch, f->reqs, f->part.nr, &bad);
	if (r < 0)
		return mc_fail(&t->err, r, "block %zu of a batch of thread %" PRIu64 " was not accepted: %s", bad,
			       t->idx, strerror(-r));
	f->busy = true;
	return 0;
}

void job_flight_ended(void *arg, struct mc_batch *batch)
{
	struct flight *f = arg;

	atomic_store_explicit(&f->end_ns, bench_now_ns(), memory_order_release);
}

/* ---- requests ----------------------------------------------------------------------------------
 */

static struct request *request_of(struct job_thread *t, uint64_t number)
{
	return &t->open[number % (t->depth + 2)];
}

/* One of its batches has ended, or all are drawn. */
static void request_less(struct job_thread *t, uint64_t number, uint64_t end_ns)
{
	struct request *q = request_of(t, number);

	q->end_ns = MC_MAX(q->end_ns, end_ns);
	if (--q->left || !t->counted)
		return;
	t->nr_done++;
	bench_hist_add(&t->latency, q->end_ns > q->due_ns ? q->end_ns - q->due_ns : 0);
}

/* Its batch is complete: look at it, count it, make it empty. */
static int flight_finish(struct job_thread *t, struct flight *f)
{
	uint64_t now = clock_ns(t), end;
	int r;

	if (mc_batch_failed(f->batch))
		return flight_failure(t, f);
	r = mc_batch_notify_status(f->batch);
	if (r < 0)
		return mc_fail(&t->err, r, "the message after a batch of thread %" PRIu64 " was not delivered: %s",
			       t->idx, strerror(-r));
	r = mc_batch_reset(f->batch); /* the callback is over then */
	if (r < 0)
		return mc_fail(&t->err, r, "a batch of thread %" PRIu64 " cannot be used again: %s", t->idx,
			       strerror(-r));
	end = atomic_load_explicit(&f->end_ns, memory_order_acquire);
	end = end ? end : now;
	f->busy = false;
	if (t->counted) {
		bench_hist_add(&t->batches, end - f->start_ns);
		t->nr_batches++;
		t->notifies += t->load->args.job->notify;
		for (size_t i = 0; i < f->part.nr; i++)
			*(f->entries[i].read ? &t->reads : &t->writes) += 1;
		atomic_fetch_add_explicit(&t->bytes, f->part.bytes, memory_order_relaxed);
	}
	request_less(t, f->request, end);
	return 0;
}

/* The oldest in flight; NULL: none. */
static struct flight *oldest(struct job_thread *t)
{
	for (uint64_t i = 0; i < t->depth; i++) {
		struct flight *f = &t->ring[(t->nr_flights + i) % t->depth];

		if (f->busy)
			return f;
	}
	return NULL;
}

/* Whatever has ended by now. */
static int harvest(struct job_thread *t)
{
	int r = 0;

	for (uint64_t i = 0; r == 0 && i < t->depth; i++) {
		struct flight *f = &t->ring[i];

		if (f->busy && atomic_load_explicit(&f->end_ns, memory_order_acquire))
			r = flight_finish(t, f);
	}
	return r;
}

/* Wait until then, for what is in flight at the same time. */
static int wait_until(struct job_thread *t, uint64_t due_ns)
{
	while (!stopped(t)) {
		uint64_t now = clock_ns(t), left = due_ns > now ? due_ns - now : 0;
		struct flight *f = oldest(t);
		struct timespec ts;
		int r = 0;

		if (!left)
			return 0;
		if (f) {
			r = job_batch_wait(t, f->batch, due_ns);
			if (r == 0)
				r = flight_finish(t, f);
			if (r == 0)
				r = harvest(t);
			if (r < 0 && r != -ETIMEDOUT)
				return r;
			continue;
		}
		left = MC_MIN(left, STOP_POLL_NS);
		ts = (struct timespec){.tv_sec = (time_t)(left / MC_SEC), .tv_nsec = (long)(left % MC_SEC)};
		nanosleep(&ts, NULL);
	}
	return 0;
}

static int finish_all(struct job_thread *t)
{
	int r = 0;

	for (struct flight *f; r == 0 && (f = oldest(t));) {
		r = job_batch_wait(t, f->batch, UINT64_MAX);
		if (r == 0)
			r = flight_finish(t, f);
	}
	return r;
}

/* ---- what comes next ---------------------------------------------------------------------------
 */

/* The thread's next request of the trace, as one batch. */
static bool take_traced(struct job_thread *t, struct flight *f, uint64_t *ret_due_ns)
{
	const struct bench_job_args *a = &t->load->args;
	const struct bench_trace *trace = a->trace;
	const struct bench_trace_request *q;
	uint64_t block = bench_job_largest(a->job);

	/* One whose blocks had no room, or that has none, moves nothing. */
	while (t->next < trace->nr && !trace->requests[t->next].nr)
		t->next += a->job->threads;
	if (t->next >= trace->nr)
		return false;
	q = &trace->requests[t->next];
	t->next += a->job->threads;
	f->part = (struct bench_part){.nr = q->nr, .bytes = q->nr * block, .first = true, .last = true};
	for (uint32_t i = 0; i < q->nr; i++) {
		uint32_t op = trace->ops[q->first + i], slot = op & ~BENCH_TRACE_READ;

		f->entries[i] = (struct bench_entry){
			.place = slot / a->nr_peers,
			.offset = slot / a->nr_peers * block,
			.len = block,
			.local = i * block,
			.peer = slot % a->nr_peers,
			.read = op & BENCH_TRACE_READ,
		};
	}
	*ret_due_ns = a->job->speed > 0 ? t->load->team.start_ns + (uint64_t)((double)q->at_ns / a->job->speed) : 0;
	return true;
}

/* When the next batch of the dice is due, by the thread's clock; 0: now. */
static uint64_t due_time(struct job_thread *t)
{
	const struct bench_job *job = t->load->args.job;

	if (t->draw.layer)
		return job->layer_time > 0 ? request_of(t, t->nr_requests - 1)->due_ns +
						     t->draw.layer * (uint64_t)(job->layer_time * 1e9)
					   : 0;
	if (t->pace.ns_per_unit > 0)
		return bench_pace_due(&t->pace);
	return job->think_time > 0 && t->last_end_ns ? t->last_end_ns + (uint64_t)(job->think_time * 1e9) : 0;
}

static void request_begin(struct job_thread *t, struct flight *f, uint64_t due_ns)
{
	struct request *q;

	if (f->part.first) {
		f->request = t->nr_requests++;
		q = request_of(t, f->request);
		*q = (struct request){.due_ns = due_ns ? due_ns : clock_ns(t), .left = 1};
	} else {
		f->request = t->nr_requests - 1;
		q = request_of(t, f->request);
	}
	q->left += !f->part.last;
}

static void pace_on(struct job_thread *t, const struct flight *f)
{
	const struct bench_job *job = t->load->args.job;

	if (job->bytes_per_s > 0)
		bench_pace_add(&t->pace, (double)f->part.bytes);
	else if (f->part.first)
		bench_pace_add(&t->pace, 1);
}

/* Draw, wait, submit; with --check, wait and verify too.  0; 1: there is no more, or its time is past
 * `deadline`. */
static int thread_step(struct job_thread *t, uint64_t deadline_ns)
{
	struct flight *f = &t->ring[t->nr_flights % t->depth];
	uint64_t due = 0;
	bool check = t->load->args.opts->check;
	int r = 0;

	if (f->busy) {
		r = job_batch_wait(t, f->batch, UINT64_MAX);
		r = r < 0 ? r : flight_finish(t, f);
		r = r < 0 ? r : harvest(t);
	}
	if (r < 0)
		return r;
	/* Nothing is drawn that will not be moved: a request of layers is whole, or not begun. */
	if (!t->load->args.trace)
		due = due_time(t);
	else if (!take_traced(t, f, &due))
		return 1;
	if (due + t->shift_ns >= deadline_ns || (!t->load->args.trace && !bench_draw_part(&t->draw, f->entries, &f->part)))
		return 1;
	if (check)
		job_check_prepare(t, f);
	if (due)
		r = wait_until(t, due);
	if (r < 0 || stopped(t))
		return r < 0 ? r : 1;
	request_begin(t, f, due);
	pace_on(t, f);
	r = t->load->args.job->notify ? announce_layer(t, f) : 0;
	r = r < 0 ? r : flight_submit(t, f);
	t->nr_flights++;
	if (r < 0 || t->depth > 1)
		return r;
	r = job_batch_wait(t, f->batch, UINT64_MAX);
	if (r == 0)
		r = flight_finish(t, f);
	t->last_end_ns = clock_ns(t);
	return r == 0 && check ? job_check_finish(t, f) : r;
}

int job_thread_run(struct job_thread *t, uint64_t deadline_ns)
{
	int r = 0;

	do {
		r = thread_step(t, deadline_ns ? deadline_ns : UINT64_MAX);
		/* A request that began is brought to its end. */
		while (r == 0 && !t->load->args.trace && t->draw.layer)
			r = thread_step(t, UINT64_MAX);
	} while (r == 0 && deadline_ns && bench_now_ns() < deadline_ns);
	if (r >= 0) {
		int end = finish_all(t);

		r = end < 0 ? end : r;
	}
	return r;
}

int job_thread_connect(struct job_thread *t)
{
	const struct bench_job_args *a = &t->load->args;
	struct flight *f = &t->ring[0];
	int r = 0;

	for (uint32_t p = 0; r == 0 && p < a->nr_peers; p++) {
		f->part = (struct bench_part){.nr = 1};
		f->entries[0] = (struct bench_entry){
			.len = MC_MIN(t->draw.layout.classes[0].size, UINT64_C(4096)), .peer = p, .read = true};
		r = flight_submit(t, f);
		r = r < 0 ? r : job_batch_wait(t, f->batch, UINT64_MAX);
		f->busy = false;
		if (r == 0 && mc_batch_failed(f->batch))
			r = flight_failure(t, f);
		if (r == 0)
			r = mc_batch_reset(f->batch);
	}
	return r;
}
