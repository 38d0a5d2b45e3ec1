/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads a trace: of each line only the list "hash_ids" counts.  Draws hit ratios: plain SVG, no
 * scripts, light and dark by the viewer's preference; capacities on a logarithmic scale.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/util/cleanup.h"
#include "core/util/check.h"
#include "store_trace.h"

/* ---- reading -----------------------------------------------------------------------------------
 */

static int grow(void *array, size_t *cap, size_t nr, size_t each)
{
	void **at = array, *more;

	if (nr < *cap)
		return 0;
	*cap = *cap ? 2 * *cap : 1024;
	more = realloc(*at, *cap * each);
	if (!more)
		return -ENOMEM;
	*at = more;
	return 0;
}

static int read_line(const char *line, struct trace *t, size_t *cap)
{
	const char *p = strstr(line, "\"hash_ids\"");
	size_t before = t->nr_accesses;

	p = p ? strchr(p, '[') : NULL;
	if (!p)
		return -EBADMSG;
	for (p++;;) {
		char *end;
		unsigned long n;

		p += strspn(p, " ,");
		if (*p == ']')
			break;
		n = strtoul(p, &end, 10);
		if (end == p || *p == '-' || n >= 1ul << 31)
			return -EBADMSG;
		if (grow(&t->keys, cap, t->nr_accesses, sizeof *t->keys) < 0)
			return -ENOMEM;
		t->keys[t->nr_accesses++] = (uint32_t)n;
		t->nr_keys = MC_MAX(t->nr_keys, (uint32_t)n + 1);
		p = end;
	}
	t->longest = MC_MAX(t->longest, t->nr_accesses - before);
	return 0;
}

static int count_different(struct trace *t)
{
	uint8_t *seen = calloc(t->nr_keys ? t->nr_keys : 1, 1);

	if (!seen)
		return -ENOMEM;
	for (size_t i = 0; i < t->nr_accesses; i++) {
		t->nr_different += !seen[t->keys[i]];
		seen[t->keys[i]] = 1;
	}
	free(seen);
	return 0;
}

static int read_all(FILE *f, double from, double to, struct trace *t)
{
	mc_cleanup(mc_freep) char *line = NULL;
	size_t size = 0, cap = 0, cap_starts = 0, nr_lines = 0, at = 0;
	int r = 0;

	while (getline(&line, &size, f) > 0)
		nr_lines++;
	rewind(f);
	while (r == 0 && getline(&line, &size, f) > 0) {
		double share = (double)at++ / (double)nr_lines;

		if (share < from || share >= to || line[strspn(line, " \n")] == '\0')
			continue;
		r = grow(&t->starts, &cap_starts, t->nr_requests + 1, sizeof *t->starts);
		if (r == 0)
			t->starts[t->nr_requests++] = t->nr_accesses;
		if (r == 0)
			r = read_line(line, t, &cap);
	}
	if (r == 0 && !t->nr_accesses)
		r = -ERANGE;
	if (r == 0)
		t->starts[t->nr_requests] = t->nr_accesses;
	return r;
}

int trace_read(const char *path, double from, double to, struct trace *ret_trace)
{
	struct trace t = {.name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path};
	FILE *f = fopen(path, "re");
	int r = f ? 0 : -errno;

	if (f) {
		r = read_all(f, from, to, &t);
		fclose(f);
	}
	if (r == 0)
		r = count_different(&t);
	if (r < 0)
		trace_free(&t);
	else
		*ret_trace = t;
	return r;
}

void trace_free(struct trace *t)
{
	free(t->keys);
	free(t->starts);
}

/* ---- drawing -----------------------------------------------------------------------------------
 */

#define WIDTH 1000.0
#define HEIGHT 420.0
#define LEFT 60.0
#define INNER 380.0
#define TOP 60.0
#define BOTTOM 360.0

void trace_picture(FILE *f, bool begin)
{
	if (!begin) {
		fprintf(f, "</svg>\n");
		return;
	}
	fprintf(f,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" "
		"font-family=\"sans-serif\" font-size=\"13\">\n",
		WIDTH, HEIGHT);
	fprintf(f, "<title>Hit ratio over capacity, by eviction policy</title>\n<style>\n"
		   "svg{background:#fff}text{fill:#222}.a{stroke:#888;fill:none}.g{stroke:#ddd}\n"
		   ".l{fill:none;stroke-width:1.5}.p0{stroke:#1f6fb2}.p1{stroke:#c26a00}.p2{stroke:"
		   "#7a5195}.p3{stroke:#2a8f4e}"
		   ".p4{stroke:#888;stroke-dasharray:2 4}.p5{stroke:#d1242f;stroke-width:3}\n"
		   "@media(prefers-color-scheme:dark){svg{background:#14171a}text{fill:#ddd}.g{"
		   "stroke:#333}"
		   ".p0{stroke:#6cb6ff}.p1{stroke:#f0a040}.p2{stroke:#c49bdd}.p3{stroke:#5fd38a}."
		   "p5{stroke:#ff6b74}}\n</style>\n");
}

static double position(uint32_t capacity, uint32_t least, uint32_t most)
{
	return most > least ? log((double)capacity / least) / log((double)most / least) : 0.5;
}

static void write_title(FILE *f, double x, const char *title)
{
	fprintf(f, "<text x=\"%.0f\" y=\"24\" font-weight=\"bold\">", x);
	for (; *title; title++) {
		if (strchr("<>&\"", *title) || (unsigned char)*title < ' ' ||
		    (unsigned char)*title > '~')
			fputc('?', f);
		else
			fputc(*title, f);
	}
	fprintf(f,
		"</text>\n<text x=\"%.0f\" y=\"42\">share of blocks found, over capacity in "
		"blocks</text>\n",
		x);
}

void trace_panel(FILE *f, int at, const char *title, const char *const *names, size_t nr_names,
		 const uint32_t *capacities, size_t nr_capacities, const double *ratios)
{
	double left = LEFT + (double)at * WIDTH / 2, top = 0.05;
	uint32_t least = UINT32_MAX, most = 0;

	for (size_t c = 0; c < nr_capacities; c++) {
		least = MC_MIN(least, capacities[c]);
		most = MC_MAX(most, capacities[c]);
		for (size_t p = 0; p < nr_names; p++)
			top = MC_MAX(top, ratios[c * nr_names + p]);
	}
	top = ceil(top * 10) / 10;
	write_title(f, left, title);
	for (int i = 0; i <= 5; i++) {
		double y = BOTTOM - (BOTTOM - TOP) * i / 5;

		fprintf(f,
			"<line class=\"g\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>"
			"<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%.2f</text>\n",
			left, left + INNER, y, y, left - 6, y + 4, top * i / 5);
	}
	for (size_t c = 0; c < nr_capacities; c++)
		fprintf(f, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%u</text>\n",
			left + INNER * position(capacities[c], least, most), BOTTOM + 18,
			capacities[c]);
	for (size_t p = 0; p < nr_names; p++) {
		double x = left + 64.0 * (double)p;

		fprintf(f, "<polyline class=\"l p%zu\" points=\"", p);
		for (size_t c = 0; c < nr_capacities; c++)
			fprintf(f, "%.1f,%.1f ",
				left + INNER * position(capacities[c], least, most),
				BOTTOM - (BOTTOM - TOP) * ratios[c * nr_names + p] / top);
		fprintf(f,
			"\"/>\n<line class=\"l p%zu\" x1=\"%.1f\" x2=\"%.1f\" y1=\"395\" "
			"y2=\"395\"/><text x=\"%.1f\" y=\"412\">%s</text>\n",
			p, x, x + 30, x, names[p]);
	}
}
