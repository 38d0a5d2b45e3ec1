/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The line that shows how far a get is:
 *   llama-70b [##########----------] 52 %  68.1 of 131 GiB  1.2 GiB/s  53 s left  5 sources
 */
#include <math.h>
#include <stdarg.h>
#include <string.h>

#include <cli/program/tell.h>
#include <cli/program/text.h>
#include <core/util/check.h>

#include "program.h"
#include "stop.h"

#define COLUMNS_MAX 200
#define NAME_COLUMNS 24 /* most of the name's; fewer where the bar needs them, */
#define NAME_LEAST 8	 /* down to so many */
#define BAR_EDGES 3	 /* " [" and "]" */
#define BAR_LEAST (BAR_EDGES + 8)

/* ---- the line --------------------------------------------------------------------------------- */

/* Bytes per second over the points that are kept. */
static double rate(struct p2pc_progress *p, uint64_t at_ns, uint64_t len)
{
	unsigned first = p->nr < P2PC_RATE_POINTS ? 0 : p->nr % P2PC_RATE_POINTS;
	uint64_t since = p->nr ? p->points[first].at_ns : at_ns, base = p->nr ? p->points[first].len : len;

	p->points[p->nr % P2PC_RATE_POINTS].at_ns = at_ns;
	p->points[p->nr % P2PC_RATE_POINTS].len = len;
	p->nr++;
	return at_ns > since && len > base ? (double)(len - base) * 1e9 / (double)(at_ns - since) : 0;
}

static size_t tail(const struct mc_p2p_progress *now, double speed, char *buf, size_t cap)
{
	char done[MC_TEXT_MAX], len[MC_TEXT_MAX], per[MC_TEXT_MAX], left[MC_TEXT_MAX];
	unsigned percent = now->len ? (unsigned)((double)now->done_len * 100 / (double)now->len) : 0;
	int n = snprintf(buf, cap, " %3u %%  %s of %s", percent, mc_text_size(now->done_len, done),
			 mc_text_size(now->len, len));

	if (speed > 0)
		n += snprintf(buf + n, cap - (size_t)n, "  %s/s  %s left", mc_text_size((uint64_t)speed, per),
			      mc_text_seconds((double)(now->len - now->done_len) / speed, left));
	return (size_t)n;
}

static size_t characters(const char *text)
{
	size_t n = 0;

	for (; *text; text++)
		n += ((unsigned char)*text & 0xc0) != 0x80;
	return n;
}

/* As many characters of a UTF-8 text as fit; their bytes. */
static size_t cut(const char *text, size_t columns)
{
	size_t i = 0;

	for (; text[i]; i++)
		if (((unsigned char)text[i] & 0xc0) != 0x80 && columns-- == 0)
			break;
	return i;
}

static void draw_bar(const struct mc_p2p_progress *now, size_t room, char *bar)
{
	size_t full = (size_t)((double)now->done_len / (double)now->len * (double)room);

	bar[0] = ' ';
	bar[1] = '[';
	memset(bar + 2, '#', full);
	memset(bar + 2 + full, '-', room - full);
	bar[room + 2] = ']';
	bar[room + BAR_EDGES] = '\0';
}

/* Where it gets narrow, the bar is shortened first, then the name; then the sources go, then the bar. */
void p2pc_progress_line(struct p2pc_progress *p, const struct mc_p2p_progress *now, uint64_t at_ns, size_t columns,
			char *buf, size_t cap)
{
	char right[160], sources[32] = "", bar[COLUMNS_MAX + 1] = "";
	size_t name = MC_MIN(characters(p->name), (size_t)NAME_COLUMNS), used;
	size_t least = MC_MIN(name, (size_t)NAME_LEAST) + BAR_LEAST;

	columns = MC_MIN(columns, (size_t)COLUMNS_MAX);
	if (now->state == MC_P2P_CHECKING) {
		used = (size_t)snprintf(right, sizeof right, " looking at what is there already: %u of %u shards", now->done_shards,
					now->nr_shards);
	} else {
		used = tail(now, rate(p, at_ns, now->done_len), right, sizeof right);
		snprintf(sources, sizeof sources, "  %u source%s", now->nr_sources, now->nr_sources == 1 ? "" : "s");
		if (least + used + strlen(sources) > columns)
			*sources = '\0';
		used += strlen(sources);
	}
	if (least + used <= columns && now->len) {
		name = MC_MIN(name, columns - used - BAR_LEAST);
		draw_bar(now, columns - used - name - BAR_EDGES, bar);
	}
	snprintf(buf, cap, "%.*s%s%s%s", (int)cut(p->name, name), p->name, bar, right, sources);
	buf[cut(buf, columns)] = '\0';
}

/* ---- on a terminal ---------------------------------------------------------------------------- */

void p2pc_progress_init(struct p2pc_progress *p, const char *name, bool quiet)
{
	*p = (struct p2pc_progress){.on = !quiet && mc_tell_progress_on(), .name = name};
}

void p2pc_progress_show(struct p2pc_progress *p, const struct mc_p2p_progress *now)
{
	char line[1024];

	if (!p->on)
		return;
	p2pc_progress_line(p, now, p2pc_now_ns(), mc_tell_columns(), line, sizeof line);
	mc_tell_progress(line);
}

void p2pc_progress_text(struct p2pc_progress *p, const char *fmt, ...)
{
	char line[256];
	va_list ap;

	if (!p->on)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	mc_tell_progress(line);
}
