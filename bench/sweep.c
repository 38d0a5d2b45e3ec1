/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A sweep: the same transfer over block sizes and operations, one measurement
 * after the other on one connection and one allocation.  A line of the table is
 * printed as soon as its point is measured, so an interrupted sweep has shown
 * what it knows.
 */
#include <errno.h>
#include <string.h>

#include "initiator.h"

struct sweep {
	struct initiator *in;
	const struct bench_options *opts;
	struct bench_point points[BENCH_MAX_POINTS];
	size_t nr, done;
};

static uint64_t footprint(const struct sweep *s, size_t i)
{
	struct bench_options o = bench_point_options(s->opts, &s->points[i]);

	return bench_footprint(&o);
}

/* The target must hold the largest point, before the first is measured. */
static int alloc(struct sweep *s, struct mc_error *err)
{
	struct bench_options largest;
	size_t at = 0;
	int r;

	for (size_t i = 1; i < s->nr; i++)
		at = footprint(s, i) > footprint(s, at) ? i : at;
	largest = bench_point_options(s->opts, &s->points[at]);
	s->in->opts = &largest;
	r = initiator_alloc(s->in, s->points[0].operation == MC_OP_WRITE, err);
	s->in->opts = s->opts;
	return r;
}

/* The head waits for the first line: what the log says while rails come up stays above it. */
static void table_line(const struct sweep *s, size_t i)
{
	if (i == 0)
		bench_report_sweep_head(stdout, &s->in->report, s->nr);
	bench_report_sweep_line(stdout, &s->in->report);
}

/* One point, on options that live as long as its load. */
static int measure(struct sweep *s, size_t i, struct mc_error *err)
{
	struct bench_options o = bench_point_options(s->opts, &s->points[i]);
	struct initiator *in = s->in;
	char size[32], label[96];
	int r;

	bench_size_text(o.block_size, size, sizeof size);
	snprintf(label, sizeof label, "[%zu/%zu] %s %s", i + 1, s->nr, bench_operation(&o), size);
	in->opts = in->report.opts = &o;
	in->label = label;
	in->more_s = (double)(s->nr - i - 1) * (o.duration + o.warm_up);
	r = initiator_prepare(in, err);
	if (r == 0)
		r = initiator_measure(in, err);
	if (r == 0 && in->result.status == 0 && s->opts->json)
		bench_report_sweep_json_point(stdout, &in->report, i == 0);
	else if (r == 0 && in->result.status == 0)
		table_line(s, i);
	bench_load_free(in->load);
	in->load = NULL;
	in->opts = in->report.opts = s->opts;
	if (r < 0) {
		in->result.status = r;
		in->result.err = *err;
	}
	return in->result.status;
}

static int run(struct sweep *s, struct mc_error *err)
{
	const struct initiator *in = s->in;
	uint64_t start = bench_now_ns();
	int r = 0;

	if (s->opts->json)
		bench_report_sweep_json_begin(stdout, &in->report);
	while (r == 0 && s->done < s->nr) {
		r = measure(s, s->done, err);
		s->done += r == 0;
	}
	if (s->opts->json)
		bench_report_sweep_json_end(stdout, r < 0 ? in->result.err.text : "");
	if (r < 0)
		initiator_failure(in);
	fprintf(s->opts->json ? stderr : stdout, "Sweep %s: %zu of %zu points, %.1f s\n",
		r == 0 ? "completed" : "ended early", s->done, s->nr,
		(double)(bench_now_ns() - start) / 1e9);
	fflush(stdout);
	return r;
}

int bench_sweep(struct initiator *in, bool *ret_reported, struct mc_error *err)
{
	struct sweep s = {.in = in, .opts = in->opts};
	int r;

	s.nr = bench_sweep_points(s.opts, s.points);
	r = alloc(&s, err);
	if (r < 0)
		return r;
	*ret_reported = true;
	return run(&s, err);
}
