/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The page of bench/run-all: what was measured where, pictures, tables, and what
 * was left out and why.  It loads nothing, runs no script, and is light or dark as
 * the reader prefers.  What moves nothing (null) and what ran in an emulated machine
 * have pictures of their own: beside the others they would mislead.
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "plot.h"
#include "suite.h"

enum group { MOVING, GUEST, STILL, NR_GROUPS };

/* ---- values as text ----------------------------------------------------------------------------
 */

void suite_size_text(uint64_t bytes, char *buf, size_t cap)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
	double value = (double)bytes;
	size_t u = 0;

	while (u < 4 && value >= 1024) {
		value /= 1024;
		u++;
	}
	snprintf(buf, cap, "%.4g %s", value, units[u]);
}

/* Three digits that count, and no exponent. */
static void three_digits(double value, const char *unit, char *buf, size_t cap)
{
	int decimals = value >= 100 || value == 0 ? 0 : value >= 10 ? 1 : value >= 1 ? 2 : 3;

	snprintf(buf, cap, "%.*f%s%s", decimals, value, *unit ? " " : "", unit);
}

void suite_time_text(double ns, char *buf, size_t cap)
{
	bool s = ns >= 1e9, ms = ns >= 1e6, us = ns >= 1e4;

	three_digits(ns / (s ? 1e9 : ms ? 1e6 : us ? 1e3 : 1), s ? "s" : ms ? "ms" : us ? "us" : "ns",
		     buf, cap);
}

void suite_rate_text(double bytes_per_s, char *buf, size_t cap)
{
	bool small = bytes_per_s < 1e8;

	three_digits(bytes_per_s / (small ? 1e6 : 1e9), small ? "MB/s" : "GB/s", buf, cap);
}

void suite_point_text(const struct suite *suite, const struct suite_point *point, char *buf,
		      size_t cap)
{
	const struct suite_stack *stack = &suite->stacks[point->stack];
	char size[32];

	suite_size_text(point->block_size, size, sizeof size);
	snprintf(buf, cap, "%s%s %s %s x %" PRIu64, stack->name, stack->guest ? " (guest)" : "",
		 point->is_read ? "read" : "write", size, point->batch_size);
}

/* ---- pictures ----------------------------------------------------------------------------------
 */

static enum group group_of(const struct suite *suite, size_t stack)
{
	bool moves = false;

	if (suite->stacks[stack].guest)
		return GUEST;
	for (size_t i = 0; i < suite->nr; i++)
		moves |= suite->points[i].stack == stack && suite->points[i].checked;
	return moves ? MOVING : STILL;
}

/* The medians of a stack's points, as a file of the plot; a point of a latency job has no place in
 * lines of throughput. */
static int stack_file(const struct suite *suite, size_t stack, struct plot_file *file)
{
	memset(file, 0, sizeof *file);
	snprintf(file->name, sizeof file->name, "%s%s", suite->stacks[stack].name,
		 suite->stacks[stack].guest ? " (guest)" : "");
	snprintf(file->protocol, sizeof file->protocol, "%s", file->name);
	file->points = calloc(suite->nr ? suite->nr : 1, sizeof *file->points);
	if (!file->points)
		return -1;
	for (size_t i = 0; i < suite->nr; i++) {
		const struct suite_point *p = &suite->points[i];

		if (p->stack != stack || p->is_latency)
			continue;
		file->points[file->nr++] = (struct plot_point){
			.block_size = p->block_size,
			.is_read = p->is_read,
			.bytes_per_s = suite_point_median(p, SUITE_RATE),
			.p99_ns = suite_point_median(p, SUITE_P99),
			.cpu_s_per_gb = suite_point_median(p, SUITE_CPU),
			.target_known = p->target_known,
		};
	}
	return 0;
}

static int picture(FILE *f, const struct suite *suite, enum group group, const char *title)
{
	struct plot_file *files = calloc(SUITE_MAX_STACKS, sizeof *files);
	struct plot *plot = calloc(1, sizeof *plot);
	size_t nr = 0;
	int r = files && plot ? 0 : -1;

	for (size_t i = 0; r == 0 && i < suite->nr_stacks; i++) {
		if (group_of(suite, i) != group)
			continue;
		r = stack_file(suite, i, &files[nr]);
		if (r < 0 || files[nr].nr)
			nr++;
		else
			plot_file_fini(&files[nr]);
	}
	if (r == 0 && nr) {
		plot_make(files, nr, title, plot);
		fputs("<figure>\n", f);
		r = plot_svg(f, plot);
		fputs("</figure>\n", f);
	}
	for (size_t i = 0; files && i < nr; i++)
		plot_file_fini(&files[i]);
	free(files);
	free(plot);
	return r;
}

/* ---- the text ----------------------------------------------------------------------------------
 */

static const char head[] =
	"<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
	"<meta name=\"viewport\" content=\"width=device-width\">\n"
	"<title>Mooncake: every transport here</title>\n<style>\n"
	":root{color-scheme:light dark}\n"
	"body{font-family:sans-serif;line-height:1.45;max-width:1240px;margin:1.5em auto;padding:0 1em;"
	"color:#24292f;background:#ffffff}\n"
	"figure{margin:1em 0;overflow-x:auto}svg{display:block;max-width:100%;min-width:56em;height:auto}\n"
	"table{border-collapse:collapse;margin:1em 0}caption{text-align:left;font-weight:bold;padding:.4em 0}\n"
	".wide{overflow-x:auto}th,td{padding:.25em .8em;border-bottom:1px solid #d8dee4;white-space:nowrap}\n"
	"th{text-align:left}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}\n"
	"td.why{white-space:normal}.small{color:#57606a;font-size:.9em}.bad{color:#b42318;font-weight:bold}\n"
	"@media (prefers-color-scheme: dark){body{color:#e6edf3;background:#0d1117}\n"
	"th,td{border-color:#2a313a}.small{color:#9da7b3}.bad{color:#ff8c7a}}\n"
	"</style>\n</head>\n<body>\n<h1>Mooncake: every transport here</h1>\n";

static void machine(FILE *f, const char *what, const char *cpu, uint64_t cpus, const char *kernel)
{
	fprintf(f, "%s: ", what);
	plot_escaped(f, *cpu ? cpu : "an unknown processor", 120);
	if (cpus)
		fprintf(f, ", %" PRIu64 " CPUs", cpus);
	if (*kernel) {
		fputs(", Linux ", f);
		plot_escaped(f, kernel, 80);
	}
}

static void introduction(FILE *f, const struct suite *s)
{
	fputs("<p>", f);
	machine(f, "Machine", s->cpu, s->cpus, s->kernel);
	if (s->memory_bytes)
		fprintf(f, ", %.1f GiB of memory", (double)s->memory_bytes / 1073741824);
	if (*s->guest_cpu || *s->guest_kernel) {
		fputs(".<br>\n", f);
		machine(f, "Guest (emulated: compare its figures with each other only)", s->guest_cpu,
			s->guest_cpus, s->guest_kernel);
	}
	fputs(".<br>\nMooncake ", f);
	plot_escaped(f, s->version, 40);
	if (*s->commit) {
		fputs(" (", f);
		plot_escaped(f, s->commit, 60);
		fputs(")", f);
	}
	fputs(", ", f);
	plot_escaped(f, s->time, 40);
	fprintf(f, ", runs of %g s%s.</p>\n", s->seconds,
		s->quick ? "; <strong>a smoke run: too short to be judged</strong>" : "");
	fputs("<p>Every figure is the median of its runs, which alternate over all points. One thread, two "
	      "processes. Bytes were verified at both ends in runs of their own; the measured ones do "
	      "not verify. Latency is that of a whole batch, CPU time that of both ends.</p>\n",
	      f);
}

static void cell(FILE *f, const char *class, const char *text)
{
	fprintf(f, "<td%s%s%s>", *class ? " class=\"" : "", class, *class ? "\"" : "");
	plot_escaped(f, text, 400);
	fputs("</td>", f);
}

static void range_cell(FILE *f, const struct suite_point *p, enum suite_figure figure,
		       void (*text)(double value, char *buf, size_t cap))
{
	double values[SUITE_MAX_RUNS];
	size_t nr = suite_values(p, figure, values);
	char median[32], lo[32], hi[32], all[128];

	text(suite_median(values, nr), median, sizeof median);
	text(values[0], lo, sizeof lo);
	text(values[nr - 1], hi, sizeof hi);
	snprintf(all, sizeof all, "lowest %s, highest %s", lo, hi);
	fputs("<td class=\"n\" title=\"", f);
	plot_escaped(f, all, sizeof all);
	fputs("\">", f);
	plot_escaped(f, median, sizeof median);
	fputs("</td>", f);
}

static void plain_text(double value, char *buf, size_t cap)
{
	if (value > 0 && value < 0.01)
		snprintf(buf, cap, "%.2g", value);
	else
		three_digits(value, "", buf, cap);
}

static void row(FILE *f, const struct suite *s, const struct suite_point *p)
{
	const struct suite_stack *stack = &s->stacks[p->stack];
	char text[SUITE_NAME_MAX + 16];

	snprintf(text, sizeof text, "%s%s", stack->name, stack->guest ? " (guest)" : "");
	fputs("<tr>", f);
	cell(f, "", text);
	cell(f, "", p->is_read ? "read" : "write");
	suite_size_text(p->block_size, text, sizeof text);
	cell(f, "n", text);
	snprintf(text, sizeof text, "%" PRIu64, p->batch_size);
	cell(f, "n", text);
	if (!p->is_latency)
		range_cell(f, p, SUITE_RATE, suite_rate_text);
	range_cell(f, p, SUITE_P50, suite_time_text);
	range_cell(f, p, SUITE_P99, suite_time_text);
	if (!p->is_latency)
		range_cell(f, p, SUITE_CPU, plain_text);
	snprintf(text, sizeof text, "%zu", p->nr);
	cell(f, "n", text);
	if (p->checked) /* decimal, as rates are */
		snprintf(text, sizeof text, p->checked_bytes < 1000000 ? "%.0f kB" : "%.0f MB",
			 ceil((double)p->checked_bytes / (p->checked_bytes < 1000000 ? 1e3 : 1e6)));
	cell(f, "n", p->checked ? text : "moves nothing");
	fputs("</tr>\n", f);
}

static void table(FILE *f, const struct suite *s, bool latency)
{
	bool any = false;

	for (size_t i = 0; i < s->nr; i++)
		any |= s->points[i].is_latency == latency;
	if (!any)
		return;
	fprintf(f,
		"<div class=\"wide\"><table>\n<caption>%s</caption>\n<tr><th>transport</th><th>direction"
		"</th><th class=\"n\">block</th><th class=\"n\">batch</th>%s<th class=\"n\">p50</th><th "
		"class=\"n\">p99</th>%s<th class=\"n\">runs</th><th class=\"n\">verified</th></tr>\n",
		latency ? "Latency of one transfer at a time" : "Throughput",
		latency ? "" : "<th class=\"n\">throughput</th>",
		latency ? "" : "<th class=\"n\">CPU s/GB</th>");
	for (size_t i = 0; i < s->nr; i++) {
		if (s->points[i].is_latency == latency)
			row(f, s, &s->points[i]);
	}
	fputs("</table></div>\n", f);
}

static void left_out(FILE *f, const struct suite *s)
{
	if (!s->nr_left_out) {
		fputs("<p>Nothing that was asked for was left out.</p>\n", f);
		return;
	}
	fputs("<table>\n<caption>Not measured</caption>\n<tr><th>what</th><th>why</th></tr>\n", f);
	for (size_t i = 0; i < s->nr_left_out; i++) {
		fputs("<tr>", f);
		cell(f, s->left_out[i].failed ? "bad" : "", s->left_out[i].what);
		cell(f, "why", s->left_out[i].reason);
		fputs("</tr>\n", f);
	}
	fputs("</table>\n", f);
}

int suite_page(FILE *f, const struct suite *suite)
{
	static const char *const titles[NR_GROUPS] = {
		[MOVING] = "On this machine",
		[GUEST] = "In a guest with soft-RoCE: an emulated machine",
		[STILL] = "Our own cost, over a transport that moves nothing",
	};
	int r = 0;

	fputs(head, f);
	introduction(f, suite);
	for (int g = 0; r == 0 && g < NR_GROUPS; g++)
		r = picture(f, suite, (enum group)g, titles[g]);
	table(f, suite, false);
	table(f, suite, true);
	left_out(f, suite);
	fputs("<p class=\"small\">A row's figures have their lowest and highest run as a tooltip; all "
	      "runs are in result.json beside this page. bench/compare tells two such files apart.</p>\n"
	      "</body>\n</html>\n",
	      f);
	return r < 0 || ferror(f) ? -1 : 0;
}
