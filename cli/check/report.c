/* SPDX-License-Identifier: Apache-2.0 */
/* The report of check-plugin: lines for people, JSON, and JUnit's XML. */
#include "check.h"
#include "core/json.h"
#include "core/util/check.h"

#include <stdlib.h>
#include <string.h>

static const char *const sections[] = {
	"",
	"One plugin, one file, one symbol",
	"Threads",
	"Who owns what",
	"Transport operations",
	"A slice",
	"Peers, epochs, fences",
	"Host services",
	"Metadata plugins",
	"Memory kinds",
	"Filters",
};

static const char *outcome_name(int outcome)
{
	return outcome == PASS ? "passed" : outcome == SKIP ? "skipped" : "failed";
}

/* "docs/plugin-abi.md section 5, A slice" */
static void section_text(int section, char *buf, size_t cap)
{
	if (section < 1 || section >= (int)MC_ARRAY_SIZE(sections))
		snprintf(buf, cap, "docs/plugin-abi.md");
	else
		snprintf(buf, cap, "docs/plugin-abi.md section %d, %s", section, sections[section]);
}

/* What a plugin says may be any bytes; reports hold printable ASCII. */
static const char *clean(const char *text, char *buf, size_t cap)
{
	size_t n = 0;

	for (; *text && n + 1 < cap; text++)
		buf[n++] = *text >= ' ' && *text < 127 ? *text : '?';
	buf[n] = '\0';
	return buf;
}

/* ---- for people ------------------------------------------------------------------------------ */

void report_head(const struct check *k)
{
	char name[80], version[80];

	if (k->json)
		return;
	if (!k->kind)
		printf("%s\n", k->c.path);
	else
		printf("%s: %s '%s' %s%s%s\n", k->c.path, kind_names[k->kind],
		       clean(k->name, name, sizeof name),
		       clean(k->version, version, sizeof version), k->c.device ? ", device " : "",
		       k->c.device ? k->c.device : "");
}

void report_result(const struct check *k, const struct result *r)
{
	char where[128], why[WHY_MAX];

	if (k->json)
		return;
	section_text(r->section, where, sizeof where);
	printf("%s %s: %s",
	       r->outcome == PASS   ? "ok  "
	       : r->outcome == SKIP ? "skip"
				    : "FAIL",
	       level_names[r->test->level], r->test->name);
	if (r->outcome != PASS)
		printf(": %s", clean(r->why, why, sizeof why));
	if (r->outcome == FAIL)
		printf("; breaks %s", where);
	putchar('\n');
	fflush(stdout);
}

static void bench_table(const struct check *k)
{
	printf("%-18s", "one thread");
	for (unsigned j = 0; j < k->nr_rows; j++)
		printf("  %22.22s", k->rows[j].name);
	putchar('\n');
	for (unsigned i = 0; i < BENCH_POINTS; i++) {
		printf("%-18s", bench_points[i].name);
		for (unsigned j = 0; j < k->nr_rows; j++) {
			const struct bench_row *row = &k->rows[j];

			if (row->there && row->us[i] > 0)
				printf("  %9.2f GB/s %6.1f us", row->mbps[i] / 1e3, row->us[i]);
			else
				printf("  %22s", "-");
		}
		putchar('\n');
	}
	for (unsigned j = 1; j < k->nr_rows; j++)
		if (!k->rows[j].there)
			printf("%s is not compared with: %s\n", k->rows[j].name, k->rows[j].why);
}

void report_end(const struct check *k)
{
	if (k->json)
		return;
	if (k->nr_rows)
		bench_table(k);
	if (!k->kind && k->last > LOADS)
		puts("The levels after loads need a plugin that can be loaded.");
	else if (k->shut)
		puts("The other checks need a device that can be opened.");
	printf("%u passed, %u failed, %u skipped\n", k->counts[0], k->counts[1], k->counts[2]);
}

/* ---- JSON
 * -----------------------------------------------------------------------------------------------
 */

static void put(struct mc_json_out *o, const char *key, const char *text)
{
	char buf[WHY_MAX];

	mc_json_out_key(o, key);
	mc_json_out_str(o, clean(text, buf, sizeof buf));
}

static void put_int(struct mc_json_out *o, const char *key, int64_t i)
{
	mc_json_out_key(o, key);
	mc_json_out_int(o, i);
}

static void put_double(struct mc_json_out *o, const char *key, double d)
{
	mc_json_out_key(o, key);
	mc_json_out_double(o, d);
}

static void put_result(struct mc_json_out *o, const struct result *r)
{
	char where[128];

	mc_json_out_open(o, '{');
	put(o, "level", level_names[r->test->level]);
	put(o, "check", r->test->name);
	put(o, "result", outcome_name(r->outcome));
	put_double(o, "seconds", r->seconds);
	if (r->outcome != PASS)
		put(o, "why", r->why);
	if (r->outcome == FAIL) {
		section_text(r->section, where, sizeof where);
		put_int(o, "section", r->section);
		put(o, "breaks", where);
	}
	mc_json_out_close(o);
}

static void put_row(struct mc_json_out *o, const struct bench_row *row)
{
	mc_json_out_open(o, '{');
	put(o, "plugin", row->name);
	if (!row->there)
		put(o, "why", row->why);
	mc_json_out_key(o, "points");
	mc_json_out_open(o, '[');
	for (unsigned i = 0; i < BENCH_POINTS && row->there; i++) {
		mc_json_out_open(o, '{');
		put(o, "operation", bench_points[i].op == MC_OP_READ ? "read" : "write");
		put_int(o, "block_size", (int64_t)bench_points[i].len);
		put_int(o, "depth", bench_points[i].depth);
		put_double(o, "bytes_per_second", row->mbps[i] * 1e6);
		put_double(o, "microseconds_each", row->us[i]);
		mc_json_out_close(o);
	}
	mc_json_out_close(o);
	mc_json_out_close(o);
}

static char *json_text(const struct check *k)
{
	struct mc_json_out *o = mc_json_out_new(true);
	char abi[16];

	snprintf(abi, sizeof abi, "%d.%d", MC_ABI_MAJOR, MC_ABI_MINOR);
	mc_json_out_open(o, '{');
	put_int(o, "schema", 1);
	put(o, "file", k->c.path);
	put(o, "name", k->name);
	put(o, "version", k->version);
	put(o, "device", k->c.device ? k->c.device : "");
	put(o, "abi", abi);
	put(o, "last_level", level_names[k->last]);
	put_int(o, "passed", k->counts[0]);
	put_int(o, "failed", k->counts[1]);
	put_int(o, "skipped", k->counts[2]);
	mc_json_out_key(o, "checks");
	mc_json_out_open(o, '[');
	for (unsigned i = 0; i < k->nr_results; i++)
		put_result(o, &k->results[i]);
	mc_json_out_close(o);
	mc_json_out_key(o, "bench");
	mc_json_out_open(o, '[');
	for (unsigned i = 0; i < k->nr_rows; i++)
		put_row(o, &k->rows[i]);
	mc_json_out_close(o);
	mc_json_out_close(o);
	return mc_json_out_take(o);
}

/* ---- JUnit
 * ------------------------------------------------------------------------------------------------
 */

static void xml(FILE *f, const char *text)
{
	char buf[WHY_MAX];

	for (const char *p = clean(text, buf, sizeof buf); *p; p++) {
		if (*p == '<')
			fputs("&lt;", f);
		else if (*p == '&')
			fputs("&amp;", f);
		else if (*p == '"')
			fputs("&quot;", f);
		else
			putc(*p, f);
	}
}

static void junit_case(FILE *f, const struct result *r)
{
	char where[128];

	fprintf(f, "  <testcase classname=\"%s\" name=\"%s\" time=\"%.3f\"",
		level_names[r->test->level], r->test->name, r->seconds);
	if (r->outcome == PASS) {
		fputs("/>\n", f);
		return;
	}
	fprintf(f, ">\n    <%s message=\"", r->outcome == FAIL ? "failure" : "skipped");
	xml(f, r->why);
	if (r->outcome == FAIL) {
		section_text(r->section, where, sizeof where);
		fprintf(f, "; breaks %s", where);
	}
	fputs("\"/>\n  </testcase>\n", f);
}

static void junit(FILE *f, const struct check *k)
{
	double seconds = 0;

	for (unsigned i = 0; i < k->nr_results; i++)
		seconds += k->results[i].seconds;
	fputs("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"mooncake "
	      "check-plugin ",
	      f);
	xml(f, k->c.path);
	fprintf(f, "\" tests=\"%u\" failures=\"%u\" errors=\"0\" skipped=\"%u\" time=\"%.3f\">\n",
		k->nr_results, k->counts[1], k->counts[2], seconds);
	for (unsigned i = 0; i < k->nr_results; i++)
		junit_case(f, &k->results[i]);
	fputs("</testsuite>\n", f);
}

/* ---- files
 * -------------------------------------------------------------------------------------------------
 */

/* Written or not: a full disk must not look like a report. */
static int finish(FILE *f, const char *path)
{
	bool bad = ferror(f) != 0;

	if (fclose(f) != 0 || bad) {
		fprintf(stderr, "check-plugin: '%s': it cannot be written\n", path);
		return 1;
	}
	return 0;
}

static FILE *create(const char *path)
{
	FILE *f = fopen(path, "we");

	if (!f)
		fprintf(stderr, "check-plugin: '%s': %m\n", path);
	return f;
}

static int write_json(const struct check *k, const char *text)
{
	FILE *f;

	if (!text) {
		fprintf(stderr, "check-plugin: out of memory\n");
		return 1;
	}
	if (k->json)
		fputs(text, stdout);
	if (!k->json_file)
		return 0;
	f = create(k->json_file);
	if (!f)
		return 1;
	fputs(text, f);
	return finish(f, k->json_file);
}

int report_files(const struct check *k)
{
	int r = 0;
	FILE *f;

	if (k->json || k->json_file) {
		char *text = json_text(k);

		r = write_json(k, text);
		free(text);
	}
	if (!k->junit_file)
		return r;
	f = create(k->junit_file);
	if (!f)
		return 1;
	junit(f, k);
	return finish(f, k->junit_file) || r;
}
