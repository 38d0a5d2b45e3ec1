/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Draws a host's topology: the locations of its memory left, its devices right,
 * and a line for each entry of the matrix between them.  One file of plain SVG:
 * generic fonts, no scripts, light and dark by the viewer's preference.  Tiers
 * differ by weight and dashes too, so that they can be told apart without colours.
 * Boxes are as tall as their lines need; texts are cut to what fits their box.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/util/check.h"
#include "host_map.h"

#define WIDTH 960.0
#define MARGIN 24.0
#define LEFT_WIDTH 240.0
#define RIGHT_WIDTH 300.0
#define RIGHT_X (WIDTH - MARGIN - RIGHT_WIDTH)
#define BOX_HEIGHT 50.0 /* at least */
#define BOX_GAP 18.0
#define LINE_GAP 9.0    /* between the ends of two lines */
#define TOP 150.0       /* of the first boxes */
#define PADDING 12.0
#define GLYPH 0.62      /* of a letter, in em, of a wide sans-serif face */
#define BOLD 1.2       /* how much wider */
#define NR_STYLES 4     /* of tiers; later ones look like the last */
#define CELL 58.0
#define MAX_GRID 14     /* nodes whose distances fit the page */

struct box {
	char name[MC_PLUGIN_NAME_MAX + MC_DEVICE_NAME_MAX + 2];
	char words[96];
	size_t nr_lines, nr_drawn;
	double y, height;
	bool apart; /* the matrix does not name it */
};

struct line {
	size_t left, right, tier;
	double from, to;
};

struct drawing {
	const struct cli_topology *t;
	struct box *left, *right;
	size_t nr_left, nr_right;
	struct line *lines;
	size_t nr_lines, nr_tiers;
};

/* ---- what there is -------------------------------------------------------------------------- */

static const struct mc_topo_device *device_of(const struct mc_topology *facts, const char *name)
{
	for (size_t i = 0; i < facts->nr_devices; i++)
		if (facts->devices[i].class != MC_TOPO_GPU && !strcmp(facts->devices[i].name, name))
			return &facts->devices[i];
	return NULL;
}

static const struct cli_pool *pool_of(const struct cli_topology *t, const char *transport, const char *name)
{
	for (size_t i = 0; i < t->nr_pools; i++)
		if (!strcmp(t->pools[i].name, name) && !strcmp(t->pools[i].transport, transport))
			return &t->pools[i];
	return NULL;
}

static void location_words(const struct mc_topology *facts, const char *location, char *buf, size_t cap)
{
	int ordinal = -1;

	snprintf(buf, cap, "%s", !strcmp(location, "*") ? "every other location" : "not found by discovery");
	if (sscanf(location, "cpu:%d", &ordinal) == 1) {
		for (size_t i = 0; i < facts->nr_nodes; i++) {
			const struct mc_topo_node *n = &facts->nodes[i];
			char memory[32];

			if (n->node != ordinal)
				continue;
			cli_bytes_words(n->memory, memory, sizeof memory);
			snprintf(buf, cap, "%u CPU%s, %s", n->nr_cpus, n->nr_cpus == 1 ? "" : "s", memory);
		}
	} else if (sscanf(location, "cuda:%d", &ordinal) == 1) {
		for (size_t i = 0; i < facts->nr_devices; i++)
			if (facts->devices[i].class == MC_TOPO_GPU && facts->devices[i].ordinal == ordinal)
				cli_device_words(&facts->devices[i], buf, cap);
	}
}

static size_t find_box(const struct box *boxes, size_t nr, const char *name)
{
	size_t i = 0;

	while (i < nr && strcmp(boxes[i].name, name))
		i++;
	return i;
}

/* The box of that name; made if there is none. */
static size_t add_box(struct box *boxes, size_t *nr, const char *name)
{
	size_t i = find_box(boxes, *nr, name);

	if (i == *nr) {
		boxes[i] = (struct box){.height = BOX_HEIGHT};
		snprintf(boxes[i].name, sizeof boxes[i].name, "%s", name);
		(*nr)++;
	}
	return i;
}

static void add_location(struct drawing *d, const char *location, bool has_row)
{
	size_t nr = d->nr_left, i = add_box(d->left, &d->nr_left, location);

	if (i < nr)
		return;
	location_words(&d->t->facts, location, d->left[i].words, sizeof d->left[i].words);
	d->left[i].apart = !has_row;
	if (!has_row) {
		size_t at = strlen(d->left[i].words);

		snprintf(d->left[i].words + at, sizeof d->left[i].words - at, "; %s",
			 mc_matrix_row_find(d->t->matrix, "*") ? "as *" : "no row");
	}
}

static void add_entry(struct drawing *d, size_t left, size_t tier, const struct mc_matrix_entry *e)
{
	const struct mc_topo_device *fact = device_of(&d->t->facts, e->device);
	const struct cli_pool *pool = pool_of(d->t, e->transport, e->device);
	char name[sizeof d->right->name];
	size_t right;

	snprintf(name, sizeof name, "%s:%s", e->transport, e->device);
	right = add_box(d->right, &d->nr_right, name);
	if (fact)
		cli_device_words(fact, d->right[right].words, sizeof d->right[right].words);
	else if (pool)
		cli_pool_words(pool, d->right[right].words, sizeof d->right[right].words);
	else
		snprintf(d->right[right].words, sizeof d->right[right].words, "not found by discovery");
	d->lines[d->nr_lines++] = (struct line){.left = left, .right = right, .tier = tier};
	d->left[left].nr_lines++;
	d->right[right].nr_lines++;
	d->nr_tiers = MC_MAX(d->nr_tiers, tier + 1);
}

static void add_matrix(struct drawing *d)
{
	const struct mc_matrix *m = d->t->matrix;

	for (size_t r = 0; m && r < m->nr_rows; r++) {
		add_location(d, m->rows[r].location, true);
		for (size_t i = 0; i < m->rows[r].nr_tiers; i++)
			for (size_t e = 0; e < m->rows[r].tiers[i].nr; e++)
				add_entry(d, d->nr_left - 1, i, &m->rows[r].tiers[i].entries[e]);
	}
}

/* What the host has and the matrix does not name. */
static void add_rest(struct drawing *d)
{
	const struct mc_topology *facts = &d->t->facts;
	char name[sizeof d->right->name];

	for (size_t i = 0; i < facts->nr_nodes; i++) {
		snprintf(name, sizeof name, "cpu:%d", (int)facts->nodes[i].node);
		add_location(d, name, false);
	}
	for (size_t i = 0; i < facts->nr_devices; i++) {
		const struct mc_topo_device *device = &facts->devices[i];
		const char *transport = d->t->transports[i];
		bool named = false;
		size_t at;

		if (device->class == MC_TOPO_GPU) {
			snprintf(name, sizeof name, "cuda:%d", (int)device->ordinal);
			add_location(d, name, false);
			continue;
		}
		/* By whatever transport. */
		for (size_t b = 0; b < d->nr_right; b++) {
			const char *colon = strchr(d->right[b].name, ':');

			named |= !strcmp(colon ? colon + 1 : d->right[b].name, device->name);
		}
		if (named)
			continue;
		snprintf(name, sizeof name, "%s%s%s", transport ? transport : "", transport ? ":" : "", device->name);
		at = add_box(d->right, &d->nr_right, name);
		cli_device_words(device, d->right[at].words, sizeof d->right[at].words);
		d->right[at].apart = true;
	}
}

static void add_pools(struct drawing *d)
{
	char name[sizeof d->right->name];

	for (size_t i = 0; i < d->t->nr_pools; i++) {
		const struct cli_pool *pool = &d->t->pools[i];
		size_t nr = d->nr_right, at;

		snprintf(name, sizeof name, "%s:%s", pool->transport, pool->name);
		at = add_box(d->right, &d->nr_right, name);
		if (at < nr)
			continue;
		cli_pool_words(pool, d->right[at].words, sizeof d->right[at].words);
		d->right[at].apart = true;
	}
}

/* ---- where it goes -------------------------------------------------------------------------- */

static double place_boxes(struct box *boxes, size_t nr)
{
	double y = TOP;

	for (size_t i = 0; i < nr; i++) {
		boxes[i].height = MC_MAX(BOX_HEIGHT, LINE_GAP * (double)(boxes[i].nr_lines + 1));
		boxes[i].y = y;
		y += boxes[i].height + BOX_GAP;
	}
	return y;
}

/* Where the next line of a box ends. */
static double next_end(struct box *b)
{
	return b->y + b->height * (double)(++b->nr_drawn) / (double)(b->nr_lines + 1);
}

/* Ends at the right are in the order of the boxes at the left, and the other way round. */
static void place_lines(struct drawing *d)
{
	for (size_t right = 0; right < d->nr_right; right++)
		for (size_t i = 0; i < d->nr_lines; i++)
			if (d->lines[i].right == right)
				d->lines[i].from = next_end(&d->left[d->lines[i].left]);
	for (size_t i = 0; i < d->nr_lines; i++)
		d->lines[i].to = next_end(&d->right[d->lines[i].right]);
}

/* ---- writing -------------------------------------------------------------------------------- */

/* At most max letters; what XML or a font may lack is a question mark. */
static void write_text(FILE *f, double x, double y, const char *class, const char *text, size_t max)
{
	size_t len = strlen(text);

	fprintf(f, "<text class=\"%s\" x=\"%.1f\" y=\"%.1f\">", class, x, y);
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)text[i];

		if (i + 1 >= max && i + 1 < len) {
			fputs("\xe2\x80\xa6", f);
			break;
		}
		if (c == '<' || c == '>' || c == '&' || c == '"')
			fprintf(f, "&#%d;", c);
		else
			fputc(c >= ' ' && c < 0x7f ? c : '?', f);
	}
	fputs("</text>\n", f);
}

static size_t letters(double width, double font)
{
	return (size_t)(width / (font * GLYPH));
}

static void write_boxes(FILE *f, const struct box *boxes, size_t nr, double x, double width)
{
	for (size_t i = 0; i < nr; i++) {
		const struct box *b = &boxes[i];
		double middle = b->y + b->height / 2;

		fprintf(f, "<rect class=\"box%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" rx=\"6\"/>\n",
			b->apart ? " apart" : "", x, b->y, width, b->height);
		write_text(f, x + PADDING, middle - 3, "name", b->name, letters(width - 2 * PADDING, 14));
		write_text(f, x + PADDING, middle + 15, "words", b->words, letters(width - 2 * PADDING, 12));
	}
}

static size_t style_of(size_t tier)
{
	return MC_MIN(tier, (size_t)NR_STYLES - 1);
}

static void write_lines(FILE *f, const struct drawing *d)
{
	double x0 = MARGIN + LEFT_WIDTH, x1 = RIGHT_X, bend = (x1 - x0) / 2;

	/* The heaviest last, on top. */
	for (size_t tier = d->nr_tiers; tier-- > 0;)
		for (size_t i = 0; i < d->nr_lines; i++) {
			const struct line *l = &d->lines[i];

			if (l->tier != tier)
				continue;
			fprintf(f, "<path class=\"line t%zu\" d=\"M%.1f %.1fC%.1f %.1f %.1f %.1f %.1f %.1f\"><title>",
				style_of(tier), x0, l->from, x0 + bend, l->from, x1 - bend, l->to, x1, l->to);
			/* Names of locations and transports are plain; the device's box has its own. */
			fprintf(f, "%s, tier %zu</title></path>\n", d->left[l->left].name, tier + 1);
		}
}

static void write_legend(FILE *f, const struct drawing *d)
{
	static const char *const words[NR_STYLES] = {"tier 1, used first", "tier 2", "tier 3", "tier 4 and below"};
	static const double widths[NR_STYLES] = {190, 110, 110, 180};
	double x = MARGIN;

	for (size_t i = 0; i < MC_MIN(d->nr_tiers, (size_t)NR_STYLES); i++) {
		fprintf(f, "<path class=\"line t%zu\" d=\"M%.1f 88H%.1f\"/>\n", i, x, x + 36);
		write_text(f, x + 44, 92, "words", i == 3 && d->nr_tiers == 4 ? "tier 4" : words[i], 40);
		x += widths[i];
	}
	fprintf(f, "<rect class=\"sample apart\" x=\"%.1f\" y=\"80\" width=\"36\" height=\"16\" rx=\"4\"/>\n", x);
	write_text(f, x + 44, 92, "words", "not in the matrix", 40);
}

static void write_head(FILE *f, const struct drawing *d)
{
	const struct mc_topology *facts = &d->t->facts;
	const struct mc_matrix *m = d->t->matrix;
	char title[320], words[512];
	uint32_t cpus = 0;

	for (size_t i = 0; i < facts->nr_nodes; i++)
		cpus += facts->nodes[i].nr_cpus;
	snprintf(title, sizeof title, "Topology of %s", d->t->host);
	snprintf(words, sizeof words, "%zu NUMA node%s, %u CPU%s, %zu device%s; matrix: %s", facts->nr_nodes,
		 facts->nr_nodes == 1 ? "" : "s", cpus, cpus == 1 ? "" : "s", facts->nr_devices,
		 facts->nr_devices == 1 ? "" : "s", !m ? "none" : d->t->discovered ? "written by discovery"
		 : m->path ? m->path : "of the config");
	write_text(f, MARGIN, 34, "title", title, letters(WIDTH - 2 * MARGIN, 18 * BOLD));
	write_text(f, MARGIN, 58, "words", words, letters(WIDTH - 2 * MARGIN, 12));
	write_legend(f, d);
	write_text(f, MARGIN, TOP - 14, "head", "memory", 20);
	write_text(f, RIGHT_X, TOP - 14, "head", "devices", 20);
}

/* Distances between nodes, as a grid below the boxes; returns where it ends. */
static double write_grid(FILE *f, const struct mc_topology *facts, double y)
{
	size_t nr = facts->nr_nodes;
	char text[32];

	if (nr < 2 || nr > MAX_GRID || facts->nodes[0].nr_distances != nr)
		return y;
	y += 26;
	if (f)
		write_text(f, MARGIN, y, "head", "distance between nodes", 40);
	for (size_t i = 0; i < nr; i++) {
		double at = y + 26 + 22 * (double)(i + 1);

		for (size_t k = 0; f && k < nr; k++) {
			double x = MARGIN + 68 + CELL * (double)k;

			snprintf(text, sizeof text, "cpu:%d", (int)facts->nodes[k].node);
			if (i == 0)
				write_text(f, x, y + 26, "words", text, 8);
			snprintf(text, sizeof text, "%u", facts->nodes[i].distances[k]);
			write_text(f, x, at, "words", text, 8);
		}
		snprintf(text, sizeof text, "cpu:%d", (int)facts->nodes[i].node);
		if (f)
			write_text(f, MARGIN, at, "words", text, 9);
	}
	return y + 26 + 22 * (double)nr + 8;
}

/* Every colour stands out from its background: darker ones on white, lighter ones on black. */
static const char style[] =
	"<style>\n"
	"text{font-family:sans-serif;fill:#24292f}\n"
	".title{font-size:18px;font-weight:bold}.head{font-size:14px;font-weight:bold}\n"
	".name{font-size:14px}.words{font-size:12px;fill:#57606a}\n"
	".back{fill:#ffffff}.box{fill:#f6f8fa;stroke:#57606a;stroke-width:1}\n"
	".sample{fill:#f6f8fa;stroke:#57606a;stroke-width:1}.apart{stroke-dasharray:5 4;fill:none}\n"
	".line{fill:none;stroke-linecap:butt}\n"
	".t0{stroke:#0072b2;stroke-width:5}.t1{stroke:#007a5a;stroke-width:3}\n"
	".t2{stroke:#c05000;stroke-width:1.8}.t3{stroke:#57606a;stroke-width:1.2;stroke-dasharray:6 4}\n"
	"@media (prefers-color-scheme: dark){\n"
	"text{fill:#e6edf3}.words{fill:#9da7b3}.back{fill:#0d1117}\n"
	".box{fill:#161b22;stroke:#9da7b3}.sample{fill:#161b22;stroke:#9da7b3}.apart{fill:none}\n"
	".t0{stroke:#56b4e9}.t1{stroke:#2ecc9b}.t2{stroke:#ff8c42}.t3{stroke:#9da7b3}}\n"
	"</style>\n";

static void write_all(FILE *f, const struct drawing *d, double boxes_end)
{
	double height = write_grid(NULL, &d->t->facts, boxes_end) + MARGIN;

	fprintf(f, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f %.0f\" "
		"role=\"img\">\n<title>Topology</title>\n%s<rect class=\"back\" width=\"%.0f\" height=\"%.0f\"/>\n",
		WIDTH, height, WIDTH, height, style, WIDTH, height);
	write_head(f, d);
	write_lines(f, d);
	write_boxes(f, d->left, d->nr_left, MARGIN, LEFT_WIDTH);
	write_boxes(f, d->right, d->nr_right, RIGHT_X, RIGHT_WIDTH);
	write_grid(f, &d->t->facts, boxes_end);
	fputs("</svg>\n", f);
}

static size_t nr_entries(const struct mc_matrix *m)
{
	size_t nr = 0;

	for (size_t r = 0; m && r < m->nr_rows; r++)
		for (size_t i = 0; i < m->rows[r].nr_tiers; i++)
			nr += m->rows[r].tiers[i].nr;
	return nr;
}

int cli_topology_svg(FILE *f, const struct cli_topology *t)
{
	struct drawing d = {.t = t};
	size_t nr = nr_entries(t->matrix), rows = t->matrix ? t->matrix->nr_rows : 0;
	int r = -ENOMEM;

	d.left = calloc(rows + t->facts.nr_nodes + t->facts.nr_devices + 1, sizeof *d.left);
	d.right = calloc(nr + t->facts.nr_devices + t->nr_pools + 1, sizeof *d.right);
	d.lines = calloc(nr + 1, sizeof *d.lines);
	if (d.left && d.right && d.lines) {
		double left, right;

		add_matrix(&d);
		add_rest(&d);
		add_pools(&d);
		left = place_boxes(d.left, d.nr_left);
		right = place_boxes(d.right, d.nr_right);
		place_lines(&d);
		write_all(f, &d, MC_MAX(left, right));
		r = ferror(f) ? -EIO : 0;
	}
	free(d.left);
	free(d.right);
	free(d.lines);
	return r;
}
