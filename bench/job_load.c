/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The threads of a job together: made, started, held until all have warmed up,
 * let run, and what they counted added up.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "job_impl.h"
#include "pattern.h"

#include <core/util/check.h>

#define SLACK_NS 1000 /* of sleeping until a request is due; the kernel's default is 50 us */

/* ---- sizes -------------------------------------------------------------------------------------
 */

static size_t part_cap(const struct bench_job_args *a)
{
	return a->trace ? a->trace->max_ops : bench_draw_cap(a->job, a->nr_peers);
}

/* Of a batch. */
static uint64_t area(const struct bench_job_args *a)
{
	return a->trace ? a->trace->max_ops * bench_job_largest(a->job) : bench_draw_area(a->job);
}

uint64_t bench_job_memory(const struct bench_job_args *a)
{
	return area(a) * (a->job->depth + a->opts->check);
}

uint64_t bench_job_region(const struct bench_job *job)
{
	return bench_job_replays(job) ? job->footprint : job->footprint / job->threads;
}

uint64_t bench_job_rows(const struct bench_job *job, size_t nr)
{
	return (job->threads + nr - 1) / nr;
}

/* ---- a thread ----------------------------------------------------------------------------------
 */

static void pace_from(struct job_thread *t, uint64_t start_ns)
{
	bench_pace_init(&t->pace, t->load->args.job, t->idx, t->load->team.nr, start_ns);
}

static int warm_up(struct job_thread *t)
{
	const struct bench_job *job = t->load->args.job;
	int r = job_thread_connect(t);

	if (r < 0 || !(job->warm_up > 0))
		return r;
	pace_from(t, clock_ns(t));
	r = job_thread_run(t, bench_now_ns() + (uint64_t)(job->warm_up * 1e9));
	return r < 0 ? r : 0;
}

static int run(struct job_thread *t)
{
	const struct bench_job *job = t->load->args.job;
	uint64_t start = t->load->team.start_ns, deadline = start + (uint64_t)(job->duration * 1e9);
	int r;

	if (!(job->duration > 0))
		deadline = job->passes || t->load->args.trace ? UINT64_MAX : 0;
	t->shift_ns = t->check_cpu_ns = t->last_end_ns = 0;
	t->counted = true;
	pace_from(t, start);
	r = job_thread_run(t, deadline);
	return r < 0 ? r : 0;
}

static void *thread_main(void *arg)
{
	struct job_thread *t = arg;
	struct bench_job_load *load = t->load;

	prctl(PR_SET_TIMERSLACK, SLACK_NS);
	t->status = warm_up(t);
	if (bench_team_gate(&load->team, t->status))
		t->status = run(t);
	t->end_ns = bench_now_ns();
	bench_team_leave(&load->team, t->status);
	return NULL;
}

/* ---- making and ending -------------------------------------------------------------------------
 */

static int flight_init(struct job_thread *t, struct flight *f, uint8_t *local)
{
	const struct bench_job_args *a = &t->load->args;
	size_t cap = part_cap(a);
	int r;

	f->local = local;
	f->reqs = calloc(cap, sizeof *f->reqs);
	f->entries = calloc(cap, sizeof *f->entries);
	if (!f->reqs || !f->entries)
		return -ENOMEM;
	if (a->opts->init_mem && !a->opts->device_memory)
		bench_pattern_fill(local, area(a), a->seed, 0);
	r = mc_batch_new(a->engine, cap, &f->batch);
	if (r == 0 && t->depth > 1)
		r = mc_batch_set_callback(f->batch, job_flight_ended, f);
	return r;
}

static int check_init(struct job_thread *t, uint8_t *scratch)
{
	const struct bench_job_args *a = &t->load->args;

	t->scratch = scratch;
	t->nr_places = t->draw.layout.nr_places;
	t->fill_seed = bench_mix(a->seed ^ (t->idx + 1));
	t->write_seed = bench_mix(t->fill_seed);
	t->back = calloc(part_cap(a), sizeof *t->back);
	t->place_seeds = calloc(t->nr_places * a->nr_peers, sizeof *t->place_seeds);
	if (!t->back || !t->place_seeds)
		return -ENOMEM;
	for (uint64_t i = 0; i < t->nr_places * a->nr_peers; i++)
		t->place_seeds[i] = t->fill_seed;
	return 0;
}

static int thread_init(struct bench_job_load *load, uint64_t idx, struct mc_error *err)
{
	const struct bench_job_args *a = &load->args;
	struct job_thread *t = &load->threads[idx];
	uint64_t region = bench_job_region(a->job);
	uint8_t *local = a->local->bufs[idx % a->local->nr].addr;
	int r = bench_draw_init(&t->draw, a->job, a->nr_peers, idx, a->seed, region, err);

	t->load = load;
	t->idx = t->next = idx;
	t->depth = a->job->depth;
	if (r < 0)
		return r;
	bench_hist_init(&t->latency);
	bench_hist_init(&t->batches);
	for (uint32_t p = 0; p < a->nr_peers; p++)
		t->base[p] = a->trace ? a->peers[p].remote[0]
				      : a->peers[p].remote[idx % a->peers[p].nr_remote] + idx * region;
	local += idx / a->local->nr * bench_job_memory(a);
	t->ring = calloc(t->depth, sizeof *t->ring);
	t->open = calloc(t->depth + 2, sizeof *t->open);
	r = t->ring && t->open ? 0 : -ENOMEM;
	for (uint64_t i = 0; r == 0 && i < t->depth; i++)
		r = flight_init(t, &t->ring[i], local + i * area(a));
	if (r == 0 && a->opts->check)
		r = check_init(t, local + t->depth * area(a));
	return r < 0 ? mc_fail(err, r, "job '%s': thread %" PRIu64 ": %s", a->job->name, idx, strerror(-r)) : 0;
}

int bench_job_load_new(const struct bench_job_args *args, struct bench_job_load **ret_load,
		       struct mc_error *err)
{
	uint64_t nr = args->job->threads;
	struct bench_job_load *load = calloc(1, sizeof *load + nr * sizeof load->threads[0]);
	int r;

	if (!load)
		return mc_fail(err, -ENOMEM, "no memory for %" PRIu64 " threads", nr);
	load->args = *args;
	r = bench_team_init(&load->team, nr, err);
	for (uint64_t i = 0; r == 0 && i < nr; i++)
		r = thread_init(load, i, err);
	if (r < 0) {
		bench_job_load_free(load);
		return r;
	}
	*ret_load = load;
	return 0;
}

static void thread_fini(struct job_thread *t)
{
	for (uint64_t i = 0; t->ring && i < t->depth; i++) {
		mc_batch_free(t->ring[i].batch);
		free(t->ring[i].reqs);
		free(t->ring[i].entries);
	}
	free(t->ring);
	free(t->open);
	free(t->back);
	free(t->place_seeds);
}

void bench_job_load_free(struct bench_job_load *load)
{
	if (!load)
		return;
	for (uint64_t i = 0; i < load->team.nr; i++)
		thread_fini(&load->threads[i]);
	bench_team_fini(&load->team);
	free(load);
}

/* ---- the run -----------------------------------------------------------------------------------
 */

int bench_job_load_start(struct bench_job_load *load, struct mc_error *err)
{
	return bench_team_start(&load->team, thread_main, load->threads, sizeof load->threads[0], err);
}

static void show_progress(const void *ctx, uint64_t passed_ns)
{
	const struct bench_job_load *load = ctx;
	const struct bench_options *o = load->args.opts;
	double seconds = (double)passed_ns / 1e9, left = load->args.job->duration - seconds;
	uint64_t bytes = 0;

	for (uint64_t i = 0; i < load->team.nr; i++)
		bytes += atomic_load_explicit(&load->threads[i].bytes, memory_order_relaxed);
	fprintf(stderr, "\r%s: %.*f %s/s, ", load->args.job->name, (int)o->report_precision,
		(double)bytes / seconds / bench_unit(o->report_unit), o->report_unit);
	if (load->args.job->duration > 0)
		fprintf(stderr, "%.0f s left \033[K", ceil(MC_MAX(left, 0.0)));
	else
		fprintf(stderr, "%.0f s so far \033[K", seconds);
	fflush(stderr);
}

/* Of the trace, what is due until the duration is over, or all of it. */
static double traced_rate(const struct bench_job_load *load)
{
	const struct bench_trace *trace = load->args.trace;
	double span = trace->nr ? (double)trace->requests[trace->nr - 1].at_ns : 0;
	double speed = load->args.job->speed, duration = load->args.job->duration;
	size_t nr = 0;

	if (duration > 0)
		span = MC_MIN(span, duration * 1e9 * speed);
	if (speed <= 0 || span <= 0)
		return 0;
	while (nr < trace->nr && (double)trace->requests[nr].at_ns <= span)
		nr++;
	return (double)nr * speed / (span / 1e9);
}

static void collect_thread(const struct job_thread *t, struct bench_job_result *result)
{
	struct bench_result *base = &result->base;

	bench_hist_merge(&result->latency, &t->latency);
	bench_hist_merge(&base->latency, &t->batches);
	result->requests += t->nr_done;
	result->reads += t->reads;
	result->writes += t->writes;
	result->notifies += t->notifies;
	base->batches += t->nr_batches;
	base->bytes += atomic_load(&t->bytes);
	base->checked_batches += t->checked;
	base->cpu_ns -= MC_MIN(t->check_cpu_ns, base->cpu_ns);
	/* A real failure is told rather than another thread's interruption. */
	if (t->status < 0 && (base->status == 0 || base->status == -ECANCELED)) {
		base->status = t->status;
		base->err = t->err;
		base->first_bad = t->bad;
	}
}

void bench_job_load_finish(struct bench_job_load *load, struct bench_job_result *result)
{
	const struct bench_job *job = load->args.job;
	uint64_t cpu = bench_cpu_ns(), end = 0, shift = 0;
	struct bench_result *base = &result->base;

	memset(result, 0, sizeof *result);
	bench_hist_init(&result->latency);
	bench_hist_init(&base->latency);
	bench_team_run(&load->team, show_progress, load);
	base->cpu_ns = bench_cpu_ns() - cpu;
	for (uint64_t i = 0; i < load->team.nr; i++) {
		collect_thread(&load->threads[i], result);
		end = MC_MAX(end, load->threads[i].end_ns);
		shift += load->threads[i].shift_ns / load->team.nr;
	}
	base->duration_ns = end - load->team.start_ns - MC_MIN(shift, end - load->team.start_ns);
	base->requests = result->reads + result->writes;
	result->asked_bytes_per_s = job->bytes_per_s;
	result->asked_requests_per_s = load->args.trace ? traced_rate(load) : job->requests_per_s;
	if (base->status == 0 && mc_stopping())
		base->status = mc_fail(&base->err, -ECANCELED, "interrupted");
}
