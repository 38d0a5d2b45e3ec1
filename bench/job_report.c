/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A job's report.  In JSON, "job" holds the job as it was run, a file for --job
 * again, "results" what every run of the bench has (its latencies are those of
 * batches), and "requests" what is the job's own.
 */
#include "job_report.h"

#include <inttypes.h>
#include <string.h>

static double per_second(const struct bench_job_report *r, double nr)
{
	uint64_t ns = r->base->result->duration_ns;

	return ns ? nr * 1e9 / (double)ns : 0;
}

/* ---- text --------------------------------------------------------------------------------------
 */

/* "64 KiB", or "16 KiB x 3 + 64 KiB x 1". */
static void sizes_text(const struct bench_job *job, char *buf, size_t cap)
{
	size_t used = 0;

	for (size_t i = 0; i < job->nr_blocks && used < cap; i++) {
		char size[32];

		bench_size_text(job->blocks[i].size, size, sizeof size);
		used += (size_t)snprintf(buf + used, cap - used, "%s%s", i ? " + " : "", size);
		if (job->nr_blocks > 1 && used < cap)
			used += (size_t)snprintf(buf + used, cap - used, " x %g", job->blocks[i].share);
	}
}

static void text_requests(FILE *f, const struct bench_job_report *r)
{
	static const struct {
		const char *name;
		double share;
	} wanted[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99.9", 0.999}};
	const struct bench_hist *h = &r->result->latency;

	fprintf(f, "requests    %" PRIu64 ", %.1f/s", r->result->requests, per_second(r, (double)r->result->requests));
	if (r->result->asked_requests_per_s > 0)
		fprintf(f, " of %.1f/s asked", r->result->asked_requests_per_s);
	if (r->result->asked_bytes_per_s > 0)
		fprintf(f, "; %.*f %s/s asked", (int)r->base->opts->report_precision,
			r->result->asked_bytes_per_s / bench_unit(r->base->opts->report_unit),
			r->base->opts->report_unit);
	fprintf(f, "; blocks read %" PRIu64 ", written %" PRIu64, r->result->reads, r->result->writes);
	if (r->job->notify)
		fprintf(f, "; %" PRIu64 " messages", r->result->notifies);
	fputs("\nlatency     of a request, in ms:", f);
	for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
		fprintf(f, " %s %.3f,", wanted[i].name, (double)bench_hist_percentile(h, wanted[i].share) / 1e6);
	fprintf(f, " max %.3f\n", (double)h->max / 1e6);
}

static void text_trace(FILE *f, const struct bench_trace *t)
{
	uint64_t all = t->reads + t->puts + t->misses;

	fprintf(f,
		"trace       %zu requests, %" PRIu64 " blocks on %" PRIu64 " places: %.1f %% there, %" PRIu64
		" first seen, %" PRIu64 " evicted since, %" PRIu64 " without room\n",
		t->nr, all + t->refused, t->nr_slots, all ? 100.0 * (double)t->reads / (double)all : 0, t->puts,
		t->misses, t->refused);
}

void bench_job_report_text(FILE *f, const struct bench_job_report *r)
{
	char sizes[512];

	sizes_text(r->job, sizes, sizeof sizes);
	fprintf(f, "job         '%s': %s, %" PRIu64 " threads, depth %" PRIu64 ", %u %s, seed %" PRIu64 "\n",
		r->job->name, sizes, r->job->threads, r->job->depth, r->nr_peers,
		r->nr_peers == 1 ? "target" : "targets", r->job->seed);
	if (r->trace)
		text_trace(f, r->trace);
	bench_report_text(f, r->base);
	text_requests(f, r);
}

/* ---- JSON --------------------------------------------------------------------------------------
 */

static void json_key(void *ctx, const char *name, const char *value, bool quote)
{
	FILE *f = ctx;

	/* The name is the first key. */
	fprintf(f, "%s\n    \"%s\": ", strcmp(name, "name") == 0 ? "" : ",", name);
	if (quote)
		bench_json_string(f, value);
	else
		fputs(value, f);
}

static void json_count(FILE *f, const char *name, uint64_t value)
{
	fprintf(f, "    \"%s\": %" PRIu64 ",\n", name, value);
}

static void json_rate(FILE *f, const char *name, double value)
{
	if (value > 0)
		fprintf(f, "    \"%s\": %.9g,\n", name, value);
	else
		fprintf(f, "    \"%s\": null,\n", name);
}

static void json_trace(FILE *f, const struct bench_trace *t)
{
	fputs("  \"trace\": {\n", f);
	json_count(f, "requests", t->nr);
	json_count(f, "places", t->nr_slots);
	json_count(f, "reads", t->reads);
	json_count(f, "first_writes", t->puts);
	json_count(f, "misses", t->misses);
	json_count(f, "repeats", t->repeats);
	fprintf(f, "    \"without_room\": %" PRIu64 "\n  },\n", t->refused);
}

void bench_job_report_json(FILE *f, const struct bench_job_report *r)
{
	const struct bench_hist *h = &r->result->latency;

	bench_report_json_head(f, r->base);
	fputs("  \"job\": {", f);
	bench_job_each(r->job, json_key, f);
	fputs("\n  },\n", f);
	if (r->trace)
		json_trace(f, r->trace);
	fputs("  \"requests\": {\n", f);
	json_count(f, "targets", r->nr_peers);
	json_count(f, "nr", r->result->requests);
	json_rate(f, "per_s", per_second(r, (double)r->result->requests));
	json_rate(f, "asked_per_s", r->result->asked_requests_per_s);
	json_rate(f, "asked_bytes_per_s", r->result->asked_bytes_per_s);
	json_count(f, "blocks_read", r->result->reads);
	json_count(f, "blocks_written", r->result->writes);
	json_count(f, "messages", r->result->notifies);
	json_count(f, "p50_ns", bench_hist_percentile(h, 0.5));
	json_count(f, "p90_ns", bench_hist_percentile(h, 0.9));
	json_count(f, "p99_ns", bench_hist_percentile(h, 0.99));
	json_count(f, "p999_ns", bench_hist_percentile(h, 0.999));
	json_count(f, "max_ns", h->max);
	fprintf(f, "    \"mean_ns\": %.9g\n  },\n", bench_hist_mean(h));
	bench_report_json_tail(f, r->base);
}
