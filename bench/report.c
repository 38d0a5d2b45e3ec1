/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the bench prints: a few lines for people, one JSON object (schema 1) for
 * programs, and the line that scripts look for.
 */
#include "bench.h"

#include <inttypes.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#define SCHEMA 1

double bench_throughput(const struct bench_result *result)
{
	return result->duration_ns ? (double)result->bytes * 1e9 / (double)result->duration_ns : 0;
}

static double per_second(const struct bench_result *result, uint64_t nr)
{
	return result->duration_ns ? (double)nr * 1e9 / (double)result->duration_ns : 0;
}

/* CPU seconds per 10^9 bytes. */
static double cpu_per_gb(const struct bench_result *result, uint64_t cpu_ns)
{
	return result->bytes ? (double)cpu_ns / (double)result->bytes : 0;
}

/* ---- rails -------------------------------------------------------------------------------------
 */

struct rail_reader {
	struct bench_rail *rails;
	size_t nr, cap;
};

static int rail_add(void *ctx, const struct mc_counter *c)
{
	struct rail_reader *reader = ctx;
	bool written = strcmp(c->name, "bytes_written") == 0;
	struct bench_rail *rail = NULL;

	if (strncmp(c->object, "rail ", 5) != 0 || (!written && strcmp(c->name, "bytes_read") != 0))
		return 0;
	for (size_t i = 0; i < reader->nr && !rail; i++) {
		if (strcmp(reader->rails[i].name, c->object + 5) == 0)
			rail = &reader->rails[i];
	}
	if (!rail) {
		if (reader->nr == reader->cap)
			return 0;
		rail = &reader->rails[reader->nr++];
		memset(rail, 0, sizeof *rail);
		snprintf(rail->name, sizeof rail->name, "%s", c->object + 5);
	}
	*(written ? &rail->written : &rail->read) += c->value;
	return 0;
}

size_t bench_rails_read(struct mc_engine *engine, struct bench_rail *rails, size_t cap)
{
	struct rail_reader reader = {.rails = rails, .cap = cap};

	mc_engine_counters(engine, rail_add, &reader);
	return reader.nr;
}

void bench_rails_subtract(struct bench_rail *rails, size_t nr, const struct bench_rail *before,
			  size_t nr_before)
{
	for (size_t i = 0; i < nr; i++) {
		for (size_t j = 0; j < nr_before; j++) {
			if (strcmp(rails[i].name, before[j].name) == 0) {
				rails[i].read -= before[j].read;
				rails[i].written -= before[j].written;
			}
		}
	}
}

/* ---- text
 * ---------------------------------------------------------------------------------------- */

const char *bench_operation(const struct bench_options *o)
{
	return o->operation == MC_OP_READ ? "read" : "write";
}

void bench_size_text(uint64_t bytes, char *buf, size_t cap)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB"};
	double value = (double)bytes;
	size_t u = 0;

	while (u < 3 && bytes >= UINT64_C(1024) << (10 * u)) {
		value /= 1024;
		u++;
	}
	snprintf(buf, cap, "%.4g %s", value, units[u]);
}

static void print_latency(FILE *f, const char *name, uint64_t ns)
{
	if (ns < 10000)
		fprintf(f, "%s %" PRIu64 " ns", name, ns);
	else if (ns < 10000000)
		fprintf(f, "%s %.1f us", name, (double)ns / 1e3);
	else
		fprintf(f, "%s %.1f ms", name, (double)ns / 1e6);
}

static void text_latency(FILE *f, const struct bench_hist *h)
{
	fputs("latency     of a batch: ", f);
	print_latency(f, "p50", bench_hist_percentile(h, 0.5));
	print_latency(f, ", p99", bench_hist_percentile(h, 0.99));
	print_latency(f, ", p99.9", bench_hist_percentile(h, 0.999));
	print_latency(f, ", max", h->max);
	fputc('\n', f);
}

static void text_cpu(FILE *f, const struct bench_report *r)
{
	fprintf(f, "cpu         %.3f s/GB here, ", cpu_per_gb(r->result, r->result->cpu_ns));
	if (r->remote_cpu_known)
		fprintf(f, "%.3f s/GB at the target\n", cpu_per_gb(r->result, r->remote_cpu_ns));
	else
		fputs("unknown at the target\n", f);
}

void bench_report_text(FILE *f, const struct bench_report *r)
{
	const struct bench_options *o = r->opts;

	if (!*o->job)
		fprintf(f,
			"%-11s %" PRIu64 " bytes x %" PRIu64 " per batch x %" PRIu64
			" threads, '%s' -> '%s'%s\n",
			bench_operation(o), o->block_size, o->batch_size, o->threads, r->local_name,
			r->segment, o->hot ? ", hot" : "");
	for (size_t i = 0; i < r->nr_rails; i++) {
		if (r->rails[i].read + r->rails[i].written)
			fprintf(f, "rail        %s: %.3f GB\n", r->rails[i].name,
				(double)(r->rails[i].read + r->rails[i].written) / 1e9);
	}
	fprintf(f, "throughput  %.*f %s/s, %.0f transfers/s\n", (int)o->report_precision,
		bench_throughput(r->result) / bench_unit(o->report_unit), o->report_unit,
		per_second(r->result, r->result->requests));
	text_latency(f, &r->result->latency);
	text_cpu(f, r);
	if (o->check && r->result->status == 0)
		fprintf(f,
			"checked     %" PRIu64 " batches here, %" PRIu64
			" bytes at the target: all bytes are right; the time of verifying is not "
			"in the duration below\n",
			r->result->checked_batches, r->remote_checked);
}

void bench_report_line(FILE *f, const struct bench_report *r)
{
	const struct bench_options *o = r->opts;

	fprintf(f, "Test completed: duration %.2f, batch count %" PRIu64 ", throughput %.*f %s/s\n",
		(double)r->result->duration_ns / 1e9, r->result->batches, (int)o->report_precision,
		bench_throughput(r->result) / bench_unit(o->report_unit), o->report_unit);
}

/* ---- JSON: one member per line, so that line tools can read it too
 * ---------------------------------- */

void bench_json_string(FILE *f, const char *s)
{
	fputc('"', f);
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;

		if (c == '"' || c == '\\')
			fprintf(f, "\\%c", c);
		else if (c < ' ' || c == 0x7f)
			fprintf(f, "\\u%04x", c);
		else
			fputc(c, f);
	}
	fputc('"', f);
}

static void json_text(FILE *f, const char *name, const char *value, const char *end)
{
	fprintf(f, "    \"%s\": ", name);
	bench_json_string(f, value);
	fprintf(f, "%s\n", end);
}

static void json_u64(FILE *f, const char *name, uint64_t value)
{
	fprintf(f, "    \"%s\": %" PRIu64 ",\n", name, value);
}

static void json_double(FILE *f, const char *name, double value)
{
	fprintf(f, "    \"%s\": %.9g,\n", name, value);
}

/* The first "model name" of /proc/cpuinfo; "unknown" where there is none. */
static void cpu_model(char *buf, size_t cap)
{
	FILE *f = fopen("/proc/cpuinfo", "re");
	char line[256];

	snprintf(buf, cap, "unknown");
	while (f && fgets(line, sizeof line, f)) {
		char *colon = strchr(line, ':');

		if (strncmp(line, "model name", 10) == 0 && colon && colon[1]) {
			line[strcspn(line, "\n")] = '\0';
			snprintf(buf, cap, "%s", colon + 2);
			break;
		}
	}
	if (f)
		fclose(f);
}

static void json_machine(FILE *f)
{
	struct utsname u;
	char model[256], when[32];
	time_t now = time(NULL);
	struct tm tm;

	uname(&u);
	cpu_model(model, sizeof model);
	gmtime_r(&now, &tm);
	strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &tm);
	fputs("  \"machine\": {\n", f);
	json_text(f, "host", u.nodename, ",");
	json_text(f, "system", u.sysname, ",");
	json_text(f, "kernel", u.release, ",");
	json_text(f, "arch", u.machine, ",");
	json_text(f, "cpu", model, ",");
	json_u64(f, "cpus", (uint64_t)sysconf(_SC_NPROCESSORS_ONLN));
	json_u64(f, "memory_bytes",
		 (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE));
	json_text(f, "time", when, "");
	fputs("  },\n  \"versions\": {\n", f);
	json_text(f, "bench", mc_version(), ",");
	json_text(f, "library", mc_version(), ",");
	json_text(f, "compiler", __VERSION__, "");
	fputs("  },\n", f);
}

static void json_option(void *ctx, const char *name, const char *value, bool quote)
{
	FILE *f = ctx;

	fprintf(f, "    \"%s\": ", name);
	if (quote)
		bench_json_string(f, value);
	else
		fputs(value, f);
	fputs(",\n", f);
}

/* Config keys that somebody set. */
static int json_key(void *ctx, const struct mc_config_key *key)
{
	if (key->origin > MC_ORIGIN_MANIFEST && key->value)
		json_option(ctx, key->key, key->value, true);
	return 0;
}

static void json_rails(FILE *f, const struct bench_report *r)
{
	fputs("    \"rails\": [", f);
	for (size_t i = 0; i < r->nr_rails; i++) {
		fprintf(f, "%s\n      {\"name\": ", i ? "," : "");
		bench_json_string(f, r->rails[i].name);
		fprintf(f, ", \"bytes_read\": %" PRIu64 ", \"bytes_written\": %" PRIu64 "}",
			r->rails[i].read, r->rails[i].written);
	}
	fputs("],\n", f);
}

static void json_results(FILE *f, const struct bench_report *r)
{
	const struct bench_result *res = r->result;
	const struct bench_hist *h = &res->latency;

	json_double(f, "duration_s", (double)res->duration_ns / 1e9);
	json_u64(f, "batches", res->batches);
	json_u64(f, "transfers", res->requests);
	json_u64(f, "bytes", res->bytes);
	json_double(f, "throughput_bytes_per_s", bench_throughput(res));
	json_double(f, "transfers_per_s", per_second(res, res->requests));
	json_u64(f, "batch_p50_ns", bench_hist_percentile(h, 0.5));
	json_u64(f, "batch_p99_ns", bench_hist_percentile(h, 0.99));
	json_u64(f, "batch_p999_ns", bench_hist_percentile(h, 0.999));
	json_u64(f, "batch_max_ns", h->max);
	json_double(f, "batch_mean_ns", bench_hist_mean(h));
	json_double(f, "cpu_s_per_gb", cpu_per_gb(res, res->cpu_ns));
	json_double(f, "cpu_s", (double)res->cpu_ns / 1e9);
	if (r->remote_cpu_known) {
		json_double(f, "target_cpu_s_per_gb", cpu_per_gb(res, r->remote_cpu_ns));
		json_double(f, "target_cpu_s", (double)r->remote_cpu_ns / 1e9);
	} else {
		fputs("    \"target_cpu_s_per_gb\": null,\n    \"target_cpu_s\": null,\n", f);
	}
	json_rails(f, r);
	json_u64(f, "checked_batches", res->checked_batches);
	json_u64(f, "target_checked_bytes", r->remote_checked);
	json_text(f, "error", res->status < 0 ? res->err.text : "", ",");
	fprintf(f, "    \"status\": %d\n", res->status);
}

void bench_report_error(const struct bench_options *opts, const char *sentence)
{
	fprintf(stderr, "%s\n", sentence);
	if (!opts->json)
		return;
	printf("{\n  \"schema\": %d,\n  \"program\": \"transfer_engine_bench\",\n  \"error\": ",
	       SCHEMA);
	bench_json_string(stdout, sentence);
	printf("\n}\n");
	fflush(stdout);
}

void bench_report_json_head(FILE *f, const struct bench_report *r)
{
	fprintf(f, "{\n  \"schema\": %d,\n  \"program\": \"transfer_engine_bench\",\n", SCHEMA);
	json_machine(f);
	fputs("  \"options\": {\n", f);
	bench_options_each(r->opts, json_option, f);
	mc_config_each(r->config, json_key, f);
	json_text(f, "segment", r->segment, ",");
	json_text(f, "matrix", r->matrix ? r->matrix : "", "");
	fputs("  },\n", f);
}

void bench_report_json_tail(FILE *f, const struct bench_report *r)
{
	fputs("  \"results\": {\n", f);
	json_results(f, r);
	fputs("  }\n}\n", f);
}

void bench_report_json(FILE *f, const struct bench_report *r)
{
	bench_report_json_head(f, r);
	bench_report_json_tail(f, r);
}

/* ---- a sweep ----------------------------------------------------------------------------------
 */

void bench_report_sweep_head(FILE *f, const struct bench_report *r, size_t nr_points)
{
	const struct bench_options *o = r->opts;
	char unit[16];

	snprintf(unit, sizeof unit, "%s/s", o->report_unit);
	fprintf(f,
		"sweep       %zu points of %g s after %g s of warm-up, %" PRIu64 " %s, '%s' -> '%s'%s\n"
		"latency     of a batch, in us; CPU in s/GB, here and at the target\n\n"
		"%-5s %10s %6s %9s %10s %10s %10s %7s %7s\n",
		nr_points, o->duration, o->warm_up, o->threads, o->threads == 1 ? "thread" : "threads",
		r->local_name, r->segment, o->hot ? ", hot" : "", "", "block", "batch", unit, "p50",
		"p99", "p99.9", "CPU", "target");
	fflush(f);
}

void bench_report_sweep_line(FILE *f, const struct bench_report *r)
{
	const struct bench_options *o = r->opts;
	const struct bench_hist *h = &r->result->latency;
	char size[32], there[32] = "-";

	bench_size_text(o->block_size, size, sizeof size);
	if (r->remote_cpu_known)
		snprintf(there, sizeof there, "%.3f", cpu_per_gb(r->result, r->remote_cpu_ns));
	fprintf(f, "%-5s %10s %6" PRIu64 " %9.*f %10.1f %10.1f %10.1f %7.3f %7s\n", bench_operation(o),
		size, o->batch_size, (int)o->report_precision,
		bench_throughput(r->result) / bench_unit(o->report_unit),
		(double)bench_hist_percentile(h, 0.5) / 1e3, (double)bench_hist_percentile(h, 0.99) / 1e3,
		(double)bench_hist_percentile(h, 0.999) / 1e3, cpu_per_gb(r->result, r->result->cpu_ns),
		there);
	fflush(f);
}

void bench_report_sweep_json_begin(FILE *f, const struct bench_report *r)
{
	bench_report_json_head(f, r);
	fputs("  \"sweep\": [", f);
}

void bench_report_sweep_json_point(FILE *f, const struct bench_report *r, bool first)
{
	fprintf(f, "%s\n  {\n", first ? "" : ",");
	json_text(f, "operation", bench_operation(r->opts), ",");
	json_u64(f, "block_size", r->opts->block_size);
	json_u64(f, "batch_size", r->opts->batch_size);
	json_results(f, r);
	fputs("  }", f);
}

void bench_report_sweep_json_end(FILE *f, const char *error)
{
	fputs("\n  ],\n  \"error\": ", f);
	bench_json_string(f, error);
	fputs("\n}\n", f);
	fflush(f);
}
