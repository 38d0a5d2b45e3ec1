/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A NIC priority matrix against this host: every device is described by its
 * plugin (probe: nothing is opened), and what follows for rows and tiers is
 * judged as an engine would, which leaves out some devices and insists on
 * others.  All that is wrong is told, not the first only.
 */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/host.h"
#include "core/manifest.h"
#include "core/matrix.h"
#include "core/util/check.h"
#include "core/util/cleanup.h"
#include "lint.h"

#define NODES "/sys/devices/system/node"

/* One device, however many rows name it. */
struct device {
	char label[MC_PLUGIN_NAME_MAX + MC_DEVICE_NAME_MAX + 2];
	const char *transport;
	bool usable;
	const char *code;
	struct mc_error why;
	double weight;
};

/* What became of an entry of the matrix. */
struct place {
	const struct mc_matrix_row *row;
	const struct mc_matrix_entry *entry;
	const struct mc_manifest *m; /* NULL: no transport, and that is said already */
	size_t tier, idx;
	size_t device;
};

struct look {
	struct lint *lint;
	const char *what; /* begins sentences: the file, or "nic_priority_matrix" */
	bool named;
	struct mc_matrix *matrix;
	struct device *devices;
	size_t nr_devices;
	struct place *places; /* in the order of the matrix */
	size_t nr_places;
	struct kind {
		char name[MC_PLUGIN_NAME_MAX + 1];
		int nr; /* of its places; -1: unknown, and why, or a finding says it */
		struct mc_error why;
	} kinds[8]; /* asked so far; the last one is asked again and again */
};

static const char *row_kind(const struct mc_matrix_row *row, char kind[MC_PLUGIN_NAME_MAX + 1])
{
	int32_t ordinal;

	if (mc_location_parse(row->location, kind, &ordinal, NULL) < 0)
		strcpy(kind, "*");
	return kind;
}

/* What an engine goes on without. */
static bool may_miss(const struct look *l, const struct place *p)
{
	return !p->entry->require && (!l->named || p->tier > 0 || p->m->optional);
}

/* Kept for the rails of a peer. */
static void unusable_add(struct lint *lint, const char *label)
{
	char **more = reallocarray(lint->unusable, lint->nr_unusable + 1, sizeof *more);

	if (!more || !(more[lint->nr_unusable] = strdup(label)))
		abort();
	lint->unusable = more;
	lint->nr_unusable++;
}

/* ---- devices ------------------------------------------------------------------------------- */

static void refuse(struct device *d, const char *code, const struct mc_error *why)
{
	d->usable = false;
	d->code = code;
	d->why = *why;
}

static bool filters_ok(struct lint *lint, const char *transport)
{
	struct mc_transport_settings settings;
	bool verify = strcmp(mc_config_settings(lint->config)->verify, "off") != 0, ok = true;
	char *words, *at, *name;

	mc_config_transport(lint->config, transport, &settings);
	if (asprintf(&words, "%s%s", settings.filters ? settings.filters : "", verify ? ",checksum" : "") < 0)
		return true;
	for (at = words; (name = strsep(&at, ", "));) {
		struct mc_plugin *filter;
		struct mc_error why;

		if (!*name)
			continue;
		if (mc_plugin_load(lint->registry, MC_KIND_FILTER, name, &filter, &why) < 0) {
			lint_add(lint, LINT_ERROR, "plugin-unusable", "transports.%s.filters: %s", transport, why.text);
			ok = false;
			continue;
		}
		ok &= lint_options(lint, "filters", filter);
		mc_plugin_unref(filter);
	}
	free(words);
	return ok;
}

static void device_probe(struct device *d, const struct mc_plugin *plugin, const char *name)
{
	struct mc_device_info info = {.size = sizeof info, .numa_node = -1};
	struct mc_plain_host host;
	struct mc_error why = {0};
	int r;

	mc_plain_host_init(&host, NULL, d->label);
	r = plugin->ops.transport.probe(&host.host, name, &info, &why);
	d->usable = r == -ENOTSUP || (r == 0 && info.state != MC_STATE_DOWN && info.state != MC_STATE_MISSING);
	if (d->usable)
		return;
	if (r < 0)
		d->code = "device-unusable";
	else
		d->code = info.state == MC_STATE_DOWN ? "device-down" : "device-missing";
	mc_fail(&d->why, -ENODEV, "device '%s' %s: %.600s", d->label,
		r < 0 ? "cannot be used" : info.state == MC_STATE_DOWN ? "is down" : "is not on this host",
		r < 0 && why.text[0] ? why.text
		: r < 0		     ? strerror(-r)
		: info.remedy[0]     ? info.remedy
				     : "name another");
}

static bool transport_seen(const struct look *l, const char *transport)
{
	for (size_t i = 0; i < l->nr_devices; i++) {
		if (strcmp(l->devices[i].transport, transport) == 0)
			return true;
	}
	return false;
}

static size_t device_look(struct look *l, const struct mc_manifest *m, const char *name)
{
	struct device *d = &l->devices[l->nr_devices];
	struct mc_plugin *plugin;
	struct mc_error why;

	d->transport = m->name;
	snprintf(d->label, sizeof d->label, "%s:%s", m->name, name);
	for (size_t i = 0; i < l->nr_devices; i++) {
		if (strcmp(l->devices[i].label, d->label) == 0)
			return i;
	}
	d->weight = 1;
	if (mc_plugin_load(l->lint->registry, MC_KIND_TRANSPORT, m->name, &plugin, &why) < 0) {
		refuse(d, "plugin-unusable", &why);
		return l->nr_devices++;
	}
	/* Once for all devices of a transport. */
	if (!transport_seen(l, m->name)) {
		lint_options(l->lint, "transports", plugin);
		filters_ok(l->lint, m->name);
	}
	device_probe(d, plugin, name);
	mc_plugin_unref(plugin);
	return l->nr_devices++;
}

static void place_look(struct look *l, struct place *p)
{
	const struct mc_matrix_entry *e = p->entry;
	char kind[MC_PLUGIN_NAME_MAX + 1];
	struct mc_error why;

	if (e->transport)
		p->m = mc_registry_find(l->lint->registry, MC_KIND_TRANSPORT, e->transport, &why);
	else
		p->m = mc_registry_claim(l->lint->registry, e->device, row_kind(p->row, kind), &why);
	if (!p->m) {
		const char *left_out = e->transport ? cli_not_built("transport", e->transport) : NULL;

		lint_add(l->lint, LINT_ERROR, e->transport ? "no-transport" : "device-claim", "%s: $.%s[%zu][%zu]: %s%s%s%s%s",
			 l->what, p->row->location, p->tier, p->idx, why.text, left_out ? "; '" : "",
			 left_out ? e->transport : "", left_out ? "' was not built: " : "", left_out ? left_out : "");
		return;
	}
	p->device = device_look(l, p->m, e->device);
	if (e->weight == 1)
		return;
	if (l->devices[p->device].weight != 1 && l->devices[p->device].weight != e->weight)
		lint_add(l->lint, LINT_ERROR, "weight",
			 "%s: $.%s[%zu][%zu]: device '%s' has the weights %g and %g: a device has one, whatever the row",
			 l->what, p->row->location, p->tier, p->idx, l->devices[p->device].label,
			 l->devices[p->device].weight, e->weight);
	l->devices[p->device].weight = e->weight;
}

/* What an engine uses instead in this row; NULL: nothing. */
static const char *instead(const struct look *l, const struct mc_matrix_row *row)
{
	for (size_t i = 0; i < l->nr_places; i++) {
		const struct place *p = &l->places[i];

		if (p->row == row && p->m && l->devices[p->device].usable)
			return l->devices[p->device].label;
	}
	return NULL;
}

/* One finding per device that cannot be used, at the place where it matters most. */
static void tell_device(struct look *l, size_t device)
{
	const struct device *d = &l->devices[device];
	const struct place *at = NULL;
	const char *other;

	for (size_t i = 0; i < l->nr_places; i++) {
		const struct place *p = &l->places[i];

		if (!p->m || p->device != device)
			continue;
		if (!at || (may_miss(l, at) && !may_miss(l, p)))
			at = p;
	}
	if (!at)
		return;
	if (!may_miss(l, at)) {
		lint_add(l->lint, LINT_ERROR, d->code, "%s: $.%s[%zu][%zu]: %s", l->what, at->row->location, at->tier,
			 at->idx, d->why.text);
		return;
	}
	other = instead(l, at->row);
	lint_add(l->lint, LINT_WARNING, d->code, "%s: $.%s[%zu][%zu]: %s%s%s", l->what, at->row->location, at->tier, at->idx,
		 d->why.text, other ? "; used instead: " : "", other ? other : "");
}

/* ---- rows and tiers ------------------------------------------------------------------------- */

/* Is there a way between memory of the row's kind and a device of this transport? */
static bool reached(const struct look *l, const struct place *p, const char *kind)
{
	bool direct = false, host_memory = false;

	for (char **k = p->m->memory; *k; k++) {
		direct |= strcmp(*k, "*") == 0 || strcmp(*k, kind) == 0;
		host_memory |= strcmp(*k, "*") == 0 || strcmp(*k, "cpu") == 0;
	}
	if (direct || strcmp(kind, "*") == 0)
		return true;
	/* Staging copies by the kind's own plugin. */
	return host_memory && mc_config_settings(l->lint->config)->staging_pool > 0 &&
	       mc_registry_find(l->lint->registry, MC_KIND_MEMORY, kind, NULL);
}

struct tier_sum {
	size_t nr, nr_usable, nr_reached, nr_unknown;
};

static struct tier_sum tier_sum(const struct look *l, const struct mc_matrix_row *row, size_t tier, const char *kind)
{
	struct tier_sum s = {0};

	for (size_t i = 0; i < l->nr_places; i++) {
		const struct place *p = &l->places[i];

		if (p->row != row || p->tier != tier)
			continue;
		s.nr++;
		s.nr_unknown += !p->m;
		if (!p->m)
			continue;
		s.nr_usable += l->devices[p->device].usable;
		s.nr_reached += reached(l, p, kind);
	}
	return s;
}

/* A tier that nothing will ever come from, here. */
static void row_tiers(struct look *l, const struct mc_matrix_row *row)
{
	bool staging = mc_config_settings(l->lint->config)->staging_pool > 0;
	size_t nr_usable = 0, nr_reached = 0, nr_unknown = 0;
	char kind[MC_PLUGIN_NAME_MAX + 1];

	row_kind(row, kind);
	for (size_t t = 0; t < row->nr_tiers; t++) {
		struct tier_sum s = tier_sum(l, row, t, kind);

		nr_usable += s.nr_usable;
		nr_reached += s.nr_reached;
		nr_unknown += s.nr_unknown;
	}
	if (nr_unknown)
		return; /* a line that says what to write is there already */
	if (!nr_reached)
		lint_add(l->lint, LINT_WARNING, "kind-unreached",
			 "%s: $.%s: the row can never be used: no transport of it reaches %s memory, and %s", l->what,
			 row->location, kind,
			 staging ? "there is no memory plugin of this name to stage it through"
				 : "staging_pool is 0");
	if (!nr_usable)
		lint_add(l->lint, l->named ? LINT_ERROR : LINT_WARNING, "row-unusable",
			 "%s: $.%s: no device of the row can be used on this host: nothing is left for location '%s'", l->what,
			 row->location, row->location);
	if (!nr_reached || !nr_usable)
		return;
	for (size_t t = 0; t < row->nr_tiers; t++) {
		struct tier_sum s = tier_sum(l, row, t, kind);

		if (s.nr && !s.nr_reached)
			lint_add(l->lint, LINT_WARNING, "tier-unused",
				 "%s: $.%s[%zu]: the tier can never be used: no device of it reaches %s memory", l->what,
				 row->location, t, kind);
		else if (s.nr && !s.nr_usable)
			lint_add(l->lint, LINT_WARNING, "tier-unused",
				 "%s: $.%s[%zu]: the tier can never be used on this host: none of its devices can", l->what,
				 row->location, t);
	}
}

static bool node_exists(int32_t node)
{
	char path[64];

	snprintf(path, sizeof path, NODES "/node%d", (int)node);
	return access(path, F_OK) == 0;
}

/* Its memory plugin, opened as an engine would: it knows best what there is of its kind. */
static void kind_ask(struct look *l, struct kind *k)
{
	struct mc_open_args args = {.size = sizeof args, .engine = "lint", .nr_lanes = 1, .deadline_ns = MC_FOREVER};
	struct mc_plugin *plugin;
	struct mc_plain_host host;
	struct mc_value *values = NULL;
	void *inst;

	k->nr = -1;
	if (mc_plugin_load(l->lint->registry, MC_KIND_MEMORY, k->name, &plugin, &k->why) < 0)
		return;
	if (lint_options(l->lint, "memory", plugin) &&
	    mc_config_plugin_values(l->lint->config, "memory", k->name, plugin->desc, &values, NULL) == 0) {
		inst = aligned_alloc(MC_CACHE_LINE, mc_round_up(plugin->ops.memory.instance_size + 1, MC_CACHE_LINE));
		if (!inst)
			abort();
		memset(inst, 0, plugin->ops.memory.instance_size);
		mc_plain_host_init(&host, NULL, k->name);
		args.options = values;
		if (plugin->ops.memory.open(inst, &host.host, &args, &k->why) == 0) {
			k->nr = plugin->ops.memory.count(inst);
			plugin->ops.memory.close(inst);
		}
		free(inst);
	}
	mc_values_free(values);
	mc_plugin_unref(plugin);
}

/* Kinds without a memory plugin (cpu, what transports own) are not judged here. */
static void ordinal_exists(struct look *l, const struct mc_matrix_row *row, const char *name, int32_t ordinal)
{
	struct kind *k = l->kinds;

	if (!mc_registry_find(l->lint->registry, MC_KIND_MEMORY, name, NULL))
		return;
	while (k < l->kinds + MC_ARRAY_SIZE(l->kinds) - 1 && k->name[0] && strcmp(k->name, name) != 0)
		k++;
	if (strcmp(k->name, name) != 0) {
		*k = (struct kind){.nr = -1};
		snprintf(k->name, sizeof k->name, "%s", name);
		kind_ask(l, k);
	}
	if (k->nr < 0 && k->why.text[0]) {
		lint_add(l->lint, LINT_WARNING, "no-location", "%s: $.%s: rows of kind '%s' are not used here: %s", l->what,
			 row->location, name, k->why.text);
		k->why.text[0] = '\0'; /* once for all rows */
	} else if (k->nr >= 0 && ordinal >= k->nr) {
		lint_add(l->lint, LINT_WARNING, "no-location", "%s: $.%s: the row is not used here: this host has %d %s%s",
			 l->what, row->location, k->nr, strcmp(name, "cuda") == 0 ? "GPU" : "place", k->nr == 1 ? "" : "s");
	}
}

static void row_location(struct look *l, const struct mc_matrix_row *row)
{
	char kind[MC_PLUGIN_NAME_MAX + 1];
	struct mc_error why;
	int32_t ordinal = -1;

	if (mc_location_parse(row->location, kind, &ordinal, NULL) < 0 || strcmp(kind, "*") == 0)
		return;
	if (mc_registry_memory_kind(l->lint->registry, kind, &why) < 0)
		lint_add(l->lint, LINT_ERROR, "no-kind", "%s: $.%s: %s", l->what, row->location, why.text);
	/* A kernel without NUMA tells of no node; then all memory is at cpu:0. */
	else if (strcmp(kind, "cpu") == 0 && ordinal > 0 && !node_exists(ordinal))
		lint_add(l->lint, LINT_WARNING, "no-location",
			 "%s: $.%s: this host has no NUMA node %d: the row is not used here", l->what, row->location,
			 (int)ordinal);
	else if (strcmp(kind, "cpu") != 0 && ordinal >= 0)
		ordinal_exists(l, row, kind, ordinal);
}

/* Memory of this host that the matrix says nothing about. */
static void uncovered(struct look *l)
{
	mc_cleanup(mc_freep) char *missing = strdup("");
	DIR *dir = opendir(NODES);
	struct dirent *e;
	int node;
	char rest;

	while (dir && (e = readdir(dir))) {
		char location[MC_LOCATION_MAX + 1], *more;

		if (sscanf(e->d_name, "node%d%c", &node, &rest) != 1)
			continue;
		snprintf(location, sizeof location, "cpu:%d", node);
		if (mc_matrix_row_find(l->matrix, location) || !missing ||
		    asprintf(&more, "%s%s%s", missing, *missing ? ", " : "", location) < 0)
			continue;
		free(missing);
		missing = more;
	}
	if (dir)
		closedir(dir);
	if (missing && *missing)
		lint_add(l->lint, LINT_WARNING, "location-uncovered",
			 "%s: memory of this host at %s has no row, and there is no '*': no device serves it", l->what, missing);
}

/* ---- all of it ------------------------------------------------------------------------------- */

static void places_fill(struct look *l)
{
	const struct mc_matrix *m = l->matrix;

	for (size_t r = 0; r < m->nr_rows; r++)
		for (size_t t = 0; t < m->rows[r].nr_tiers; t++)
			for (size_t e = 0; e < m->rows[r].tiers[t].nr; e++) {
				struct place *p = &l->places[l->nr_places++];

				*p = (struct place){.row = &m->rows[r], .entry = &m->rows[r].tiers[t].entries[e],
						    .tier = t, .idx = e};
				place_look(l, p);
			}
}

static void look(struct look *l)
{
	size_t nr_errors = l->lint->nr[LINT_ERROR], nr = mc_matrix_nr_entries(l->matrix);
	bool known = true;
	struct mc_error why;

	l->devices = calloc(nr + 1, sizeof *l->devices);
	l->places = calloc(nr + 1, sizeof *l->places);
	if (!l->devices || !l->places)
		abort();
	for (size_t r = 0; r < l->matrix->nr_rows; r++)
		row_location(l, &l->matrix->rows[r]);
	places_fill(l);
	for (size_t i = 0; i < l->nr_places; i++)
		known &= l->places[i].m != NULL;
	/* "mlx5_0" and "rdma:mlx5_0" in one row are found out when names are resolved. */
	if (known && l->lint->nr[LINT_ERROR] == nr_errors &&
	    mc_matrix_resolve(l->matrix, l->lint->registry, &why) < 0)
		lint_add(l->lint, LINT_ERROR, "matrix", "%s", why.text);
	for (size_t i = 0; i < l->nr_devices; i++)
		if (!l->devices[i].usable) {
			tell_device(l, i);
			unusable_add(l->lint, l->devices[i].label);
		}
	for (size_t r = 0; r < l->matrix->nr_rows; r++)
		row_tiers(l, &l->matrix->rows[r]);
	uncovered(l);
	l->lint->nr_rows += l->matrix->nr_rows;
	l->lint->nr_devices += l->nr_devices;
}

void lint_matrix(struct lint *lint, const char *text, bool named)
{
	struct look l = {.lint = lint, .named = named};
	struct mc_error why;

	if (mc_matrix_parse(text, &l.matrix, &why) < 0) {
		lint_add(lint, LINT_ERROR, "matrix", "%s", why.text);
		return;
	}
	l.what = l.matrix->path ? l.matrix->path : named ? "nic_priority_matrix" : "the matrix of discovery";
	look(&l);
	free(l.places);
	free(l.devices);
	mc_matrix_free(l.matrix);
}
