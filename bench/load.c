/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The initiator's threads.  Each owns a batch and submits it again and again
 * until the time is over; the clock, the latencies and the verification are its
 * own, so threads share nothing but the stop flag while they run.
 *
 * With --check a batch is verified as long as verification has taken less time
 * than transferring, and at the end.  WRITE: new bytes, write, read them back
 * into other memory, compare.  READ: spoil the local bytes, read, compare with
 * what the target was told to hold.
 */
#include "bench.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "pattern.h"
#include "team.h"

#define STOP_POLL_NS (100 * MC_MSEC)

struct load_thread {
	struct bench_load *load;
	uint64_t idx, seed; /* seed: of the pattern that its entries hold at the target */
	bool wrote;
	uint8_t *local, *scratch;
	uint64_t remote;
	struct mc_batch *batch;
	struct mc_list *list; /* --prepared */
	struct mc_request *reqs; /* the batch */
	struct mc_request *back; /* --check of writes: the same entries, read into scratch */
	struct bench_hist latency;
	atomic_uint_fast64_t batches; /* main reads it for the progress line */
	uint64_t checked, transfer_ns, check_ns, check_cpu_ns, end_ns;
	uint64_t now_ns; /* when the last step ended */
	uint64_t bad;
	int status;
	struct mc_error err;
};

struct bench_load {
	struct bench_load_args args;
	struct bench_team team;
	struct load_thread threads[];
};

static uint64_t thread_cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * MC_SEC + (uint64_t)ts.tv_nsec;
}

/* ---- one batch ----------------------------------------------------------------------------------
 */

static int batch_failure(struct load_thread *t, const struct mc_request *reqs)
{
	const struct bench_options *o = t->load->args.opts;

	for (size_t i = 0; i < o->batch_size; i++) {
		struct mc_request_status st = {.size = sizeof st};
		struct mc_error why;

		if (mc_batch_status(t->batch, i, &st) != 0 || st.status >= 0)
			continue;
		if (st.status == -EACCES && mc_request_check(&reqs[i], &why) == -EACCES)
			return mc_fail(&t->err, -EACCES,
				       "request %zu of a batch of thread %" PRIu64 " failed: %s: %.400s", i,
				       t->idx, strerror(EACCES), why.text);
		return mc_fail(&t->err, st.status,
			       "%s of %" PRIu64 " bytes at offset 0x%" PRIx64
			       " of segment '%s' (request %zu of a batch of thread %" PRIu64
			       ") failed: %s",
			       reqs[i].opcode == MC_OP_READ ? "read" : "write", reqs[i].len,
			       reqs[i].offset, mc_segment_name(t->load->args.segment), i, t->idx,
			       strerror(-st.status));
	}
	return mc_fail(&t->err, -EIO, "a batch of thread %" PRIu64 " failed without a status",
		       t->idx);
}

static int batch_submit(struct load_thread *t, const struct mc_request *reqs)
{
	const struct bench_options *o = t->load->args.opts;
	size_t bad = 0;
	int r = mc_batch_reset(t->batch);

	if (r == 0)
		r = t->list && reqs == t->reqs
			    ? mc_batch_submit_list(t->batch, t->list, NULL, o->batch_size, &bad)
			    : mc_batch_submit(t->batch, reqs, o->batch_size, &bad);
	if (r < 0)
		return mc_fail(&t->err, r, "request %zu of thread %" PRIu64 " was not accepted: %s",
			       bad, t->idx, strerror(-r));
	return 0;
}

/* Submit the requests and wait for all; a signal cancels them. */
static int batch_run(struct load_thread *t, const struct mc_request *reqs)
{
	int r = batch_submit(t, reqs);
	bool cancelled = false;

	if (r < 0)
		return r;
	while ((r = mc_batch_wait(t->batch, STOP_POLL_NS)) == -ETIMEDOUT) {
		if (!cancelled && mc_stopping()) {
			mc_batch_cancel(t->batch);
			cancelled = true;
		}
	}
	if (r < 0)
		return mc_fail(&t->err, r, "waiting for a batch of thread %" PRIu64 " failed: %s",
			       t->idx, strerror(-r));
	if (mc_batch_failed(t->batch))
		return cancelled ? mc_fail(&t->err, -ECANCELED, "interrupted")
				 : batch_failure(t, reqs);
	return 0;
}

/* ---- verification
 * ---------------------------------------------------------------------------------- */

static void entries_fill(struct load_thread *t)
{
	const struct bench_options *o = t->load->args.opts;

	for (uint64_t i = 0; i < o->batch_size; i++) {
		uint64_t place = bench_entry_offset(o, t->idx, i);

		bench_pattern_fill(t->local + place, o->block_size, t->seed, place);
	}
}

static void entries_spoil(const struct bench_options *o, uint64_t thread, uint8_t *mem)
{
	for (uint64_t i = 0; i < o->batch_size; i++)
		memset(mem + bench_entry_offset(o, thread, i), 0xa5, o->block_size);
}

static int entries_compare(struct load_thread *t, const uint8_t *mem)
{
	const struct bench_options *o = t->load->args.opts;

	for (uint64_t i = 0; i < o->batch_size; i++) {
		uint64_t place = bench_entry_offset(o, t->idx, i);
		size_t right = bench_pattern_check(mem + place, o->block_size, t->seed, place);

		if (right == o->block_size)
			continue;
		t->bad = t->remote + place + right;
		return mc_fail(&t->err, -EBADMSG,
			       "check: byte %zu of %" PRIu64 " at offset 0x%" PRIx64
			       " of segment '%s' is wrong (entry %" PRIu64 " of thread %" PRIu64
			       ", %s)",
			       right, o->block_size, t->remote + place,
			       mc_segment_name(t->load->args.segment), i, t->idx,
			       t->scratch ? "read back after the write" : "read");
	}
	t->checked++;
	return 0;
}

/* Before a batch that will be verified. */
static void check_prepare(struct load_thread *t)
{
	const struct bench_options *o = t->load->args.opts;

	if (o->operation == MC_OP_READ) {
		entries_spoil(o, t->idx, t->local);
		return;
	}
	t->seed = bench_mix(t->seed);
	entries_fill(t);
}

/* After it. */
static int check_finish(struct load_thread *t)
{
	const struct bench_options *o = t->load->args.opts;
	int r;

	if (o->operation == MC_OP_READ)
		return entries_compare(t, t->local);
	entries_spoil(o, t->idx, t->scratch);
	r = batch_run(t, t->back);
	return r < 0 ? r : entries_compare(t, t->scratch);
}

/* ---- the thread
 * -------------------------------------------------------------------------------------- */

/* One batch, timed from now_ns, verified if `check`. */
static int thread_step(struct load_thread *t, bool check, bool timed)
{
	uint64_t begin = t->now_ns, cpu = check ? thread_cpu_ns() : 0, start, end;
	int r;

	if (check) {
		check_prepare(t);
		t->check_cpu_ns += thread_cpu_ns() - cpu;
	}
	start = check ? bench_now_ns() : begin;
	r = batch_run(t, t->reqs);
	end = t->now_ns = bench_now_ns();
	if (r < 0)
		return r;
	t->wrote = true;
	if (timed) {
		t->transfer_ns += end - start;
		bench_hist_add(&t->latency, end - start);
		atomic_fetch_add_explicit(&t->batches, 1, memory_order_relaxed);
	}
	if (check) {
		cpu = thread_cpu_ns();
		r = check_finish(t);
		t->check_cpu_ns += thread_cpu_ns() - cpu;
		t->now_ns = bench_now_ns();
		t->check_ns += start - begin + t->now_ns - end;
	}
	return r;
}

static int thread_loop(struct load_thread *t)
{
	const struct bench_options *o = t->load->args.opts;
	uint64_t deadline;
	int r = 0;

	t->now_ns = bench_now_ns();
	deadline = t->now_ns + (uint64_t)(o->duration * 1e9);
	do {
		r = thread_step(t, o->check && t->check_ns <= t->transfer_ns, true);
	} while (r == 0 && t->now_ns < deadline &&
		 !atomic_load_explicit(&t->load->team.stop, memory_order_relaxed));
	return r;
}

static void *thread_main(void *arg)
{
	struct load_thread *t = arg;
	struct bench_load *load = t->load;
	const struct bench_options *o = load->args.opts;

	uint64_t warm;

	t->now_ns = bench_now_ns();
	warm = t->now_ns + (uint64_t)(o->warm_up * 1e9);
	/* The first batch connects and touches the memory; it is verified, not timed. */
	t->status = thread_step(t, o->check, false);
	while (t->status == 0 && t->now_ns < warm && !atomic_load(&load->team.stop) && !mc_stopping())
		t->status = thread_step(t, false, false);
	t->check_ns = t->check_cpu_ns = 0;
	if (bench_team_gate(&load->team, t->status))
		t->status = thread_loop(t);
	t->end_ns = bench_now_ns();
	bench_team_leave(&load->team, t->status);
	return NULL;
}

/* ---- making and ending
 * ---------------------------------------------------------------------------------- */

static void requests_init(struct load_thread *t, struct mc_request *reqs, enum mc_opcode opcode,
			  uint8_t *local)
{
	const struct bench_options *o = t->load->args.opts;

	for (uint64_t i = 0; i < o->batch_size; i++) {
		uint64_t place = bench_entry_offset(o, t->idx, i);

		reqs[i] = (struct mc_request){
			.opcode = opcode,
			.local = local + place,
			.segment = t->load->args.segment,
			.offset = t->remote + place,
			.len = o->block_size,
		};
	}
}

static int thread_init(struct bench_load *load, uint64_t idx, struct mc_error *err)
{
	const struct bench_load_args *a = &load->args;
	struct load_thread *t = &load->threads[idx];
	size_t n = a->opts->batch_size, bad = 0;
	int r;

	t->load = load;
	t->idx = idx;
	t->seed = bench_mix(a->seed + idx);
	bench_hist_init(&t->latency);
	t->local = a->local->bufs[idx % a->local->nr].addr;
	t->scratch = a->scratch->nr ? a->scratch->bufs[idx % a->scratch->nr].addr : NULL;
	t->remote = a->remote[idx % a->local->nr % a->nr_remote];
	t->reqs = calloc(n, sizeof *t->reqs);
	t->back = t->scratch ? calloc(n, sizeof *t->back) : NULL;
	if (!t->reqs || (t->scratch && !t->back))
		return mc_fail(err, -ENOMEM, "no memory for %zu requests of thread %" PRIu64, n,
			       idx);
	requests_init(t, t->reqs, a->opts->operation, t->local);
	if (t->scratch)
		requests_init(t, t->back, MC_OP_READ, t->scratch);
	r = mc_batch_new(a->engine, n, &t->batch);
	if (r == 0 && a->opts->prepared)
		r = mc_list_new(a->engine, t->reqs, n, &t->list, &bad);
	if (r < 0) {
		struct mc_error why;
		bool known = a->opts->prepared && mc_request_check(&t->reqs[bad], &why) == r;

		return mc_fail(err, r,
			       "batch of %zu requests of thread %" PRIu64 ": request %zu: %s%s%.400s", n,
			       idx, bad, strerror(-r), known ? ": " : "", known ? why.text : "");
	}
	if ((a->opts->init_mem && !a->opts->device_memory) || a->opts->check)
		entries_fill(t);
	return 0;
}

int bench_load_new(const struct bench_load_args *args, struct bench_load **ret_load,
		   struct mc_error *err)
{
	uint64_t nr = args->opts->threads;
	struct bench_load *load = calloc(1, sizeof *load + nr * sizeof load->threads[0]);
	int r;

	if (!load)
		return mc_fail(err, -ENOMEM, "no memory for %" PRIu64 " threads", nr);
	load->args = *args;
	r = bench_team_init(&load->team, nr, err);
	for (uint64_t i = 0; r == 0 && i < nr; i++)
		r = thread_init(load, i, err);
	if (r < 0) {
		bench_load_free(load);
		return r;
	}
	*ret_load = load;
	return 0;
}

void bench_load_free(struct bench_load *load)
{
	if (!load)
		return;
	for (uint64_t i = 0; i < load->args.opts->threads; i++) {
		struct load_thread *t = &load->threads[i];

		mc_list_free(t->list);
		mc_batch_free(t->batch);
		free(t->reqs);
		free(t->back);
	}
	bench_team_fini(&load->team);
	free(load);
}

bool bench_load_entries(const struct bench_load *load, uint64_t thread, struct bench_entries *ret)
{
	const struct bench_options *o = load->args.opts;
	const struct load_thread *t = &load->threads[thread];

	*ret = (struct bench_entries){
		.base = t->remote,
		.first = bench_entry_offset(o, thread, 0),
		.step = o->hot ? 0 : o->stride * o->threads,
		.nr = o->hot ? 1 : o->batch_size,
		.block = o->block_size,
		.seed = t->seed,
	};
	return t->wrote;
}

/* ---- the run
 * ------------------------------------------------------------------------------------------ */

static uint64_t batches_so_far(const struct bench_load *load)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < load->args.opts->threads; i++)
		sum += atomic_load_explicit(&load->threads[i].batches, memory_order_relaxed);
	return sum;
}

static void show_progress(const void *ctx, uint64_t passed_ns)
{
	const struct bench_load *load = ctx;
	const struct bench_options *o = load->args.opts;
	double seconds = (double)passed_ns / 1e9, left = o->duration - seconds;
	const char *label = load->args.label;
	double bytes = (double)batches_so_far(load) * (double)o->batch_size * (double)o->block_size;

	fprintf(stderr, "\r%s: %.*f %s/s, %.0f s left \033[K",
		label ? label : bench_operation(o), (int)o->report_precision,
		bytes / seconds / bench_unit(o->report_unit), o->report_unit,
		ceil((left > 0 ? left : 0) + load->args.more_s));
	fflush(stderr);
}

/* Time until the last thread ended; with --check, the mean time that threads transferred. */
static uint64_t run_duration(const struct bench_load *load, uint64_t start)
{
	const struct bench_options *o = load->args.opts;
	uint64_t end = start, transfer_ns = 0;

	for (uint64_t i = 0; i < o->threads; i++) {
		transfer_ns += load->threads[i].transfer_ns;
		if (load->threads[i].end_ns > end)
			end = load->threads[i].end_ns;
	}
	return o->check ? transfer_ns / o->threads : end - start;
}

static void collect(const struct bench_load *load, struct bench_result *result)
{
	const struct bench_options *o = load->args.opts;

	for (uint64_t i = 0; i < o->threads; i++) {
		const struct load_thread *t = &load->threads[i];

		bench_hist_merge(&result->latency, &t->latency);
		result->batches += atomic_load(&t->batches);
		result->checked_batches += t->checked;
		result->cpu_ns -=
			t->check_cpu_ns < result->cpu_ns ? t->check_cpu_ns : result->cpu_ns;
		/* A real failure is told rather than another thread's interruption. */
		if (t->status < 0 && (result->status == 0 || result->status == -ECANCELED)) {
			result->status = t->status;
			result->err = t->err;
			result->first_bad = t->bad;
		}
	}
	result->requests = result->batches * o->batch_size;
	result->bytes = result->requests * o->block_size;
	if (result->status == 0 && mc_stopping())
		result->status = mc_fail(&result->err, -ECANCELED, "interrupted");
}

int bench_load_start(struct bench_load *load, struct mc_error *err)
{
	return bench_team_start(&load->team, thread_main, load->threads, sizeof load->threads[0], err);
}

void bench_load_finish(struct bench_load *load, struct bench_result *result)
{
	uint64_t cpu = bench_cpu_ns();

	memset(result, 0, sizeof *result);
	bench_hist_init(&result->latency);
	bench_team_run(&load->team, show_progress, load);
	result->duration_ns = run_duration(load, load->team.start_ns);
	result->cpu_ns = bench_cpu_ns() - cpu;
	collect(load, result);
}
