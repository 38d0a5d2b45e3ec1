/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From files to lines: sorted, split by direction, and named by what tells them
 * apart: the transport; where two files share it, the version, the host, or the
 * file's name as well.
 */
#include <stdlib.h>
#include <string.h>

#include "plot.h"

static int by_direction_and_size(const void *a, const void *b)
{
	const struct plot_point *x = a, *y = b;

	if (x->is_read != y->is_read)
		return x->is_read ? 1 : -1;
	return x->block_size < y->block_size ? -1 : x->block_size > y->block_size;
}

static const char *transport(const struct plot_file *f)
{
	return *f->rails ? f->rails : *f->protocol ? f->protocol : f->name;
}

typedef const char *(*text_of)(const struct plot_file *f);

static const char *host(const struct plot_file *f)
{
	return f->host;
}

static const char *version(const struct plot_file *f)
{
	return f->version;
}

static const char *cpu(const struct plot_file *f)
{
	return f->cpu;
}

static bool all_equal(const struct plot_file *files, size_t nr, text_of of)
{
	for (size_t i = 1; i < nr; i++) {
		if (strcmp(of(&files[0]), of(&files[i])) != 0)
			return false;
	}
	return true;
}

/* Another file's line would be called the same without the file's name. */
static bool ambiguous(const struct plot_file *files, size_t nr, size_t i, bool hosts, bool versions)
{
	for (size_t j = 0; j < nr; j++) {
		if (j != i && strcmp(transport(&files[i]), transport(&files[j])) == 0 &&
		    (!hosts || strcmp(files[i].host, files[j].host) == 0) &&
		    (!versions || strcmp(files[i].version, files[j].version) == 0))
			return true;
	}
	return false;
}

/* "tcp write", "tcp 0.2.0 @node1 (before) write" */
static void name_series(const struct plot_file *files, size_t nr, size_t i, struct plot_series *s)
{
	bool hosts = !all_equal(files, nr, host), versions = !all_equal(files, nr, version);
	bool named = ambiguous(files, nr, i, hosts, versions);
	const struct plot_file *f = &files[i];
	const char *t = transport(f);

	named = named && strcmp(t, f->name) != 0;
	snprintf(s->label, sizeof s->label, "%.60s%s%.30s%s%.60s%s%.60s%s %s", t,
		 versions ? " " : "", versions ? f->version : "", hosts ? " @" : "",
		 hosts ? f->host : "", named ? " (" : "", named ? f->name : "", named ? ")" : "",
		 s->is_read ? "read" : "write");
}

static void make_title(const struct plot_file *files, size_t nr, char *buf, size_t cap)
{
	const struct plot_file *f = &files[0];
	bool one_machine = all_equal(files, nr, host) && all_equal(files, nr, cpu);
	char machine[3 * PLOT_TEXT_MAX] = "several machines", cpus[32] = "";

	if (f->cpus)
		snprintf(cpus, sizeof cpus, ", %llu CPUs", (unsigned long long)f->cpus);
	if (one_machine)
		snprintf(machine, sizeof machine, "%.120s%s%s%.80s%s%.10s", f->cpu, cpus,
			 *f->kernel ? ", Linux " : "", f->kernel, *f->time ? ", " : "", f->time);
	snprintf(buf, cap, "Mooncake %s: %s",
		 all_equal(files, nr, version) ? f->version : "(several versions)", machine);
}

void plot_make(struct plot_file *files, size_t nr, const char *title, struct plot *plot)
{
	memset(plot, 0, sizeof *plot);
	if (title)
		snprintf(plot->title, sizeof plot->title, "%s", title);
	else
		make_title(files, nr, plot->title, sizeof plot->title);
	for (size_t i = 0; i < nr; i++) {
		struct plot_file *f = &files[i];
		size_t writes = 0;

		qsort(f->points, f->nr, sizeof *f->points, by_direction_and_size);
		while (writes < f->nr && !f->points[writes].is_read)
			writes++;
		for (int read = 0; read < 2; read++) {
			struct plot_series *s = &plot->series[plot->nr];

			s->points = read ? f->points + writes : f->points;
			s->nr = read ? f->nr - writes : writes;
			s->group = i;
			s->is_read = read;
			if (!s->nr)
				continue;
			name_series(files, nr, i, s);
			plot->nr++;
		}
		for (size_t k = 0; k < f->nr; k++)
			plot->initiator_only |= !f->points[k].target_known;
	}
}
