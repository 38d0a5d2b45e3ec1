/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Draws three panels over the block size: throughput, p99 latency (log scale) and
 * CPU time.  One file of plain SVG: generic fonts, no scripts, light and dark by
 * the viewer's preference.  A file has a colour and a marker, a read is dashed and
 * hollow, so lines can be told apart without seeing colours.
 */
#include <math.h>
#include <string.h>

#include "plot.h"

#define WIDTH 1200.0
#define MARGIN 20.0
#define PANEL_WIDTH (WIDTH / 3)
#define PLOT_LEFT 66.0 /* of a panel, to its axis */
#define PLOT_RIGHT 24.0
#define PLOT_HEIGHT 300.0
#define PLOT_INNER (PANEL_WIDTH - PLOT_LEFT - PLOT_RIGHT)
#define TITLE_HEIGHT 46.0
#define LEGEND_ROW 24.0
#define LEGEND_SAMPLE 40.0
#define FONT 13.0
#define GLYPH 0.58 /* mean width of a letter, in em, of a sans-serif face */
#define NR_COLOURS 6
#define NR_MARKERS 6
#define MAX_TICKS 32
/* Largest to smallest value from which a linear scale would show the large ones only. */
#define LOG_SPAN 100

struct axis {
	double lo, hi; /* of the values; log: of their logarithms */
	bool log;
	size_t nr;
	double ticks[MAX_TICKS]; /* values */
};

struct panel {
	const char *title, *unit;
	bool log; /* always; else only where the values span much */
	double (*value)(const struct plot_point *p); /* in the axis' unit */
	void (*label)(double value, char *buf, size_t cap);
};

/* ---- text --------------------------------------------------------------------------------------
 */

/* Length of the UTF-8 sequence at s, 0: there is no valid one, or XML has no such character. */
static size_t sequence(const unsigned char *s)
{
	size_t n = s[0] < 0x80                   ? 1
		   : s[0] >= 0xc2 && s[0] < 0xe0 ? 2
		   : (s[0] & 0xf0) == 0xe0       ? 3
		   : s[0] >= 0xf0 && s[0] < 0xf5 ? 4
						 : 0;

	if (n == 1)
		return s[0] >= ' ' && s[0] != 0x7f;
	for (size_t i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	}
	if (n == 3 && ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] >= 0xa0) ||
		       (s[0] == 0xef && s[1] == 0xbf && s[2] >= 0xbe)))
		return 0;
	if (n == 4 && ((s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] >= 0x90)))
		return 0;
	return n;
}

void plot_escaped(FILE *f, const char *text, size_t max)
{
	const unsigned char *s = (const unsigned char *)text;

	for (size_t nr = 0; *s; nr++) {
		size_t n = sequence(s);

		if (nr + 1 >= max && s[n ? n : 1]) {
			fputs("\xe2\x80\xa6", f);
			return;
		}
		if (!n)
			fputs("\xef\xbf\xbd", f);
		else if (*s == '<')
			fputs("&lt;", f);
		else if (*s == '>')
			fputs("&gt;", f);
		else if (*s == '&')
			fputs("&amp;", f);
		else if (*s == '"')
			fputs("&quot;", f);
		else
			fwrite(s, 1, n, f);
		s += n ? n : 1;
	}
}

static size_t characters(const char *text)
{
	const unsigned char *s = (const unsigned char *)text;
	size_t nr = 0;

	while (*s) {
		size_t n = sequence(s);

		s += n ? n : 1;
		nr++;
	}
	return nr;
}

static void write_text(FILE *f, double x, double y, const char *class, const char *text, size_t max)
{
	fprintf(f, "<text class=\"%s\" x=\"%.1f\" y=\"%.1f\">", class, x, y);
	plot_escaped(f, text, max);
	fputs("</text>\n", f);
}

/* ---- labels of values --------------------------------------------------------------------------
 */

static void number_label(double value, char *buf, size_t cap)
{
	snprintf(buf, cap, value >= 1e4 && value < 1e6 ? "%.0f" : "%.4g", value);
}

static void time_label(double ns, char *buf, size_t cap)
{
	static const struct {
		double ns;
		const char *name;
	} units[] = {{1e9, "s"}, {1e6, "ms"}, {1e3, "\xc2\xb5s"}};

	for (size_t i = 0; i < 3; i++) {
		if (ns >= units[i].ns * 0.9999999) {
			snprintf(buf, cap, "%.4g %s", ns / units[i].ns, units[i].name);
			return;
		}
	}
	snprintf(buf, cap, "%.4g ns", ns);
}

/* Of block sizes: "4K", "1.5M". */
static void size_label(double bytes, char *buf, size_t cap)
{
	static const char letters[] = "\0KMGTP";
	size_t i = 0;

	while (bytes >= 1024 && i < 5) {
		bytes /= 1024;
		i++;
	}
	snprintf(buf, cap, "%.4g%.1s", bytes, &letters[i]);
}

static double gigabytes(const struct plot_point *p)
{
	return p->bytes_per_s / 1e9;
}

static double latency(const struct plot_point *p)
{
	return p->p99_ns;
}

static double cpu_time(const struct plot_point *p)
{
	return p->cpu_s_per_gb;
}

/* ---- axes --------------------------------------------------------------------------------------
 */

/* The next of ..., 1, 2, 5, 10, 20, ... above value (or at it). */
static double round_up(double value)
{
	double decade = pow(10, floor(log10(value)));
	double lead = value / decade;

	return decade * (lead <= 1.0000001   ? 1
			 : lead <= 2.0000001 ? 2
			 : lead <= 5.0000001 ? 5
					     : 10);
}

static double round_down(double value)
{
	double decade = pow(10, floor(log10(value)));
	double lead = value / decade;

	return decade * (lead >= 9.9999999   ? 10
			 : lead >= 4.9999999 ? 5
			 : lead >= 1.9999999 ? 2
					     : 1);
}

static void linear_axis(struct axis *a, double max)
{
	double step = round_up((max > 0 ? max : 1) / 5.5);

	a->lo = 0;
	a->hi = ceil((max > 0 ? max : 1) / step - 1e-9) * step;
	for (size_t i = 0; i < MAX_TICKS && (double)i * step <= a->hi * (1 + 1e-9); i++)
		a->ticks[a->nr++] = (double)i * step;
}

/* Decades; between them 2 and 5 where there is room. */
static void log_axis(struct axis *a, double min, double max)
{
	double lo = round_down(min), hi = round_up(max), decades;
	int every;

	if (hi / lo < 9.99) {
		lo = pow(10, floor(log10(lo) + 1e-9));
		hi = fmax(pow(10, ceil(log10(hi) - 1e-9)), lo * 10);
	}
	a->lo = log10(lo);
	a->hi = log10(hi);
	decades = a->hi - a->lo;
	every = (int)ceil(decades / 12);
	if (decades <= 3.01) {
		for (double v = lo; v <= hi * 1.001 && a->nr < MAX_TICKS; v = round_up(v * 1.01))
			a->ticks[a->nr++] = v;
		return;
	}
	for (double e = ceil(a->lo - 1e-9); e <= a->hi + 1e-9 && a->nr < MAX_TICKS; e += every)
		a->ticks[a->nr++] = pow(10, e);
}

static void value_axis(const struct plot *plot, const struct panel *panel, struct axis *a)
{
	double min = INFINITY, max = 0;
	bool zero = false; /* which a log scale has no place for */

	memset(a, 0, sizeof *a);
	for (size_t s = 0; s < plot->nr; s++) {
		for (size_t i = 0; i < plot->series[s].nr; i++) {
			double v = panel->value(&plot->series[s].points[i]);

			max = fmax(max, v);
			if (v > 0)
				min = fmin(min, v);
			else
				zero = true;
		}
	}
	a->log = panel->log || (!zero && max > LOG_SPAN * min);
	if (!a->log)
		linear_axis(a, max);
	else if (max > 0)
		log_axis(a, min, max);
	else
		log_axis(a, 1, 10);
}

/* Powers of two; as many as can be labelled. */
static void size_axis(const struct plot *plot, struct axis *a)
{
	double lo = INFINITY, hi = -INFINITY;
	int every;

	memset(a, 0, sizeof *a);
	a->log = true;
	for (size_t s = 0; s < plot->nr; s++) {
		for (size_t i = 0; i < plot->series[s].nr; i++) {
			double v = log2((double)plot->series[s].points[i].block_size);

			lo = fmin(lo, v);
			hi = fmax(hi, v);
		}
	}
	if (lo > hi) /* no point at all */
		lo = hi = 12;
	if (hi - lo < 2) { /* a lone point stands in the middle */
		lo = floor(lo - 0.5);
		hi = ceil(hi + 0.5);
	}
	a->lo = lo;
	a->hi = hi;
	every = (int)ceil((hi - lo) / 7);
	for (double e = ceil(lo); e <= hi && a->nr < MAX_TICKS; e += every)
		a->ticks[a->nr++] = exp2(e);
}

static double along(const struct axis *a, double value, bool base2)
{
	double v = !a->log ? value : base2 ? log2(value) : log10(value);

	return (v - a->lo) / (a->hi - a->lo);
}

/* ---- markers -----------------------------------------------------------------------------------
 */

static void write_marker(FILE *f, size_t kind, bool hollow, double x, double y)
{
	/* Around the origin, about as large as the circle. */
	static const char *const shapes[NR_MARKERS] = {
		NULL,
		"M-3.6-3.6H3.6V3.6H-3.6Z",
		"M0-4.8L4.6 3.4H-4.6Z",
		"M0-5L5 0L0 5L-5 0Z",
		"M0 4.8L4.6-3.4H-4.6Z",
		"M-1.4-4.6H1.4V-1.4H4.6V1.4H1.4V4.6H-1.4V1.4H-4.6V-1.4H-1.4Z",
	};
	const char *class = hollow ? "hollow" : "solid";

	if (shapes[kind])
		fprintf(f, "<path class=\"%s\" transform=\"translate(%.2f %.2f)\" d=\"%s\">", class,
			x, y, shapes[kind]);
	else
		fprintf(f, "<circle class=\"%s\" cx=\"%.2f\" cy=\"%.2f\" r=\"4\">", class, x, y);
}

static void end_marker(FILE *f, size_t kind)
{
	fputs(kind ? "</path>\n" : "</circle>\n", f);
}

static size_t marker_of(const struct plot_series *s)
{
	return (s->group + s->group / NR_COLOURS) % NR_MARKERS;
}

static const char *line_class(const struct plot_series *s)
{
	return s->is_read ? "line read" : "line";
}

/* ---- a panel -----------------------------------------------------------------------------------
 */

struct frame {
	double left, top; /* of the plot area */
	const struct panel *panel;
	struct axis x, y;
};

static void write_axes(FILE *f, const struct frame *fr)
{
	double bottom = fr->top + PLOT_HEIGHT, right = fr->left + PLOT_INNER;
	char label[64];

	for (size_t i = 0; i < fr->y.nr; i++) {
		double y = bottom - along(&fr->y, fr->y.ticks[i], false) * PLOT_HEIGHT;

		fprintf(f, "<path class=\"grid\" d=\"M%.2f %.2fH%.2f\"/>\n", fr->left, y, right);
		fr->panel->label(fr->y.ticks[i], label, sizeof label);
		write_text(f, fr->left - 8, y + 4, "tick end", label, 12);
	}
	for (size_t i = 0; i < fr->x.nr; i++) {
		double x = fr->left + along(&fr->x, fr->x.ticks[i], true) * PLOT_INNER;

		fprintf(f, "<path class=\"grid\" d=\"M%.2f %.2fV%.2f\"/>\n", x, fr->top,
			bottom + 4);
		size_label(fr->x.ticks[i], label, sizeof label);
		write_text(f, x, bottom + 19, "tick mid", label, 12);
	}
	fprintf(f, "<path class=\"axis\" d=\"M%.2f %.2fV%.2fH%.2f\"/>\n", fr->left, fr->top, bottom,
		right);
	write_text(f, fr->left + PLOT_INNER / 2, bottom + 40, "tick mid",
		   "block size, bytes (K = 1024)", 60);
}

/* Where the point is; false: the axis has no place for it (0 on a log scale). */
static bool locate(const struct frame *fr, const struct plot_point *p, double *x, double *y)
{
	double v = fr->panel->value(p);

	if (fr->y.log && v <= 0)
		return false;
	*x = fr->left + along(&fr->x, (double)p->block_size, true) * PLOT_INNER;
	*y = fr->top + PLOT_HEIGHT - along(&fr->y, v, false) * PLOT_HEIGHT;
	return true;
}

static void write_series(FILE *f, const struct frame *fr, const struct plot_series *s)
{
	bool pen_down = false;
	double x, y;

	fprintf(f, "<g class=\"series c%zu\"><title>", s->group % NR_COLOURS);
	plot_escaped(f, s->label, 120);
	fprintf(f, "</title>\n<path class=\"%s\" d=\"", line_class(s));
	for (size_t i = 0; i < s->nr; i++) {
		bool there = locate(fr, &s->points[i], &x, &y);

		if (there)
			fprintf(f, "%c%.2f %.2f", pen_down ? 'L' : 'M', x, y);
		pen_down = there;
	}
	fputs("\"/>\n", f);
	for (size_t i = 0; i < s->nr; i++) {
		char size[64], value[64];

		if (!locate(fr, &s->points[i], &x, &y))
			continue;
		size_label((double)s->points[i].block_size, size, sizeof size);
		fr->panel->label(fr->panel->value(&s->points[i]), value, sizeof value);
		write_marker(f, marker_of(s), s->is_read, x, y);
		fprintf(f, "<title>%s: %s%s%s</title>", size, value, *fr->panel->unit ? " " : "",
			fr->panel->unit);
		end_marker(f, marker_of(s));
	}
	fputs("</g>\n", f);
}

static void write_panel(FILE *f, const struct plot *plot, const struct panel *panel, size_t idx,
			double top)
{
	struct frame fr = {.left = (double)idx * PANEL_WIDTH + PLOT_LEFT,
			   .top = top + 30,
			   .panel = panel};
	char title[160];

	size_axis(plot, &fr.x);
	value_axis(plot, panel, &fr.y);
	snprintf(title, sizeof title, "%s%s%s", panel->title,
		 panel->value != cpu_time ? ""
		 : plot->initiator_only   ? ", target's if known"
					  : ", both ends",
		 fr.y.log ? " (log scale)" : "");
	fprintf(f, "<g class=\"panel\">\n");
	write_text(f, fr.left, top + 12, "head", title, 60);
	write_axes(f, &fr);
	for (size_t i = 0; i < plot->nr; i++)
		write_series(f, &fr, &plot->series[i]);
	fputs("</g>\n", f);
}

/* ---- legend ------------------------------------------------------------------------------------
 */

#define LEGEND_MAX_CHARACTERS 80

static double legend_width(const struct plot_series *s)
{
	size_t nr = characters(s->label);

	nr = nr < LEGEND_MAX_CHARACTERS ? nr : LEGEND_MAX_CHARACTERS;
	return LEGEND_SAMPLE + 8 + (double)nr * GLYPH * FONT + 26;
}

/* Entries flow into rows; f NULL: only count.  Returns the number of rows. */
static size_t write_legend(FILE *f, const struct plot *plot, double top)
{
	double x = MARGIN;
	size_t row = 0;

	for (size_t i = 0; i < plot->nr; i++) {
		const struct plot_series *s = &plot->series[i];
		double width = legend_width(s), y;

		if (x > MARGIN && x + width > WIDTH - MARGIN) {
			x = MARGIN;
			row++;
		}
		y = top + (double)row * LEGEND_ROW + LEGEND_ROW / 2;
		if (f) {
			fprintf(f,
				"<g class=\"key c%zu\"><path class=\"%s\" d=\"M%.2f "
				"%.2fH%.2f\"/>\n",
				s->group % NR_COLOURS, line_class(s), x, y, x + LEGEND_SAMPLE);
			write_marker(f, marker_of(s), s->is_read, x + LEGEND_SAMPLE / 2, y);
			end_marker(f, marker_of(s));
			fputs("</g>\n", f);
			write_text(f, x + LEGEND_SAMPLE + 8, y + 4.5, "label", s->label,
				   LEGEND_MAX_CHARACTERS);
		}
		x += width;
	}
	return row + 1;
}

/* ---- the picture -------------------------------------------------------------------------------
 */

/* Colours that also differ for the colour-blind, and stand out from their background: darker ones
 * on white, lighter ones on black. */
static const char style[] =
	"<style>\n"
	"text{font-family:sans-serif;font-size:13px;fill:#24292f}\n"
	".title{font-size:16px;font-weight:bold}.head{font-size:14px;font-weight:bold}\n"
	".tick{font-size:12px;fill:#57606a}.end{text-anchor:end}.mid{text-anchor:middle}\n"
	".back{fill:#ffffff}.grid{stroke:#d8dee4;stroke-width:1;fill:none}\n"
	".axis{stroke:#57606a;stroke-width:1;fill:none}\n"
	".line{fill:none;stroke:currentColor;stroke-width:2;stroke-linejoin:round}\n"
	".read{stroke-dasharray:6 4}.solid{fill:currentColor}\n"
	".hollow{fill:#ffffff;stroke:currentColor;stroke-width:1.6}\n"
	".c0{color:#0072b2}.c1{color:#d55e00}.c2{color:#007a5a}\n"
	".c3{color:#a8407f}.c4{color:#7d5a00}.c5{color:#333333}\n"
	"@media (prefers-color-scheme: dark){\n"
	"text{fill:#e6edf3}.tick{fill:#9da7b3}.back{fill:#0d1117}\n"
	".grid{stroke:#2a313a}.axis{stroke:#9da7b3}.hollow{fill:#0d1117}\n"
	".c0{color:#56b4e9}.c1{color:#ff8c42}.c2{color:#2ecc9b}\n"
	".c3{color:#e68fc3}.c4{color:#e6b800}.c5{color:#dddddd}}\n"
	"</style>\n";

int plot_svg(FILE *f, const struct plot *plot)
{
	static const struct panel panels[] = {
		{"throughput, GB/s", "GB/s", false, gigabytes, number_label},
		{"p99 latency of a batch", "", true, latency, time_label},
		{"CPU s/GB", "s/GB", false, cpu_time, number_label},
	};
	double top = TITLE_HEIGHT + (double)write_legend(NULL, plot, 0) * LEGEND_ROW + 18;
	double height = top + 30 + PLOT_HEIGHT + 56;

	fprintf(f,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" "
		"viewBox=\"0 0 %.0f %.0f\" role=\"img\">\n<title>",
		WIDTH, height, WIDTH, height);
	plot_escaped(f, plot->title, 300);
	fprintf(f, "</title>\n%s<rect class=\"back\" width=\"%.0f\" height=\"%.0f\"/>\n", style,
		WIDTH, height);
	write_text(f, MARGIN, 30, "title", plot->title,
		   (size_t)((WIDTH - 2 * MARGIN) / (16 * 0.62)));
	write_legend(f, plot, TITLE_HEIGHT);
	for (size_t i = 0; i < sizeof panels / sizeof *panels; i++)
		write_panel(f, plot, &panels[i], i, top);
	fputs("</svg>\n", f);
	return ferror(f) ? -1 : 0;
}
