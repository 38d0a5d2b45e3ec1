/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Devices: opens what the matrix names, each with its plugin, the filters over
 * it and its lanes, and says what is used instead of what cannot be opened.
 */
#include "device_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "host.h"
#include "log.h"
#include "core/util/check.h"

#define MAX_DEVICES 256

struct mc_device *mc_device_find(const struct mc_engine *engine, const char *transport,
				 const char *name)
{
	for (size_t i = 0; i < engine->nr_devices; i++) {
		struct mc_device *d = engine->devices[i];

		if (!strcmp(d->name, name) && !strcmp(d->transport, transport))
			return d;
	}
	return NULL;
}

bool mc_device_reaches(const struct mc_device *device, const char *kind)
{
	const char *const *k = device->caps.local_kinds;

	for (; k && *k; k++)
		if (!strcmp(*k, kind) || !strcmp(*k, "*"))
			return true;
	return false;
}

/* ---- one device ----------------------------------------------------------------------------- */

static void device_free(struct mc_device *d)
{
	if (!d)
		return;
	if (d->impl) {
		for (size_t i = d->impl->nr_filters; i-- > 0;) {
			mc_filter_stack_free(d->impl->stacks[i]);
			mc_plugin_unref(d->impl->filters[i]);
			mc_values_free(d->impl->filter_values[i]);
		}
		mc_values_free(d->impl->values);
		free(d->impl);
	}
	mc_plugin_unref(d->plugin);
	free(d->lanes);
	free((char *)d->name);
	free(d);
}

static int device_close(struct mc_device *d, uint64_t deadline_ns)
{
	int r = 0;

	/* Lane 0 last: the others may use what it registered. */
	for (size_t i = d->nr_lanes; i-- > 0;)
		if (d->lanes[i] && mc_lane_close(d->lanes[i], deadline_ns) < 0)
			r = -ETIMEDOUT;
	device_free(d);
	return r;
}

struct names {
	char text[300];
	size_t len;
};

static int names_add(void *ctx, const char *device)
{
	struct names *n = ctx;

	if (n->len < sizeof n->text)
		n->len += (size_t)snprintf(n->text + n->len, sizeof n->text - n->len, "%s%s", n->len ? ", " : "",
					   device);
	return 0;
}

/* With the devices that are here, where the transport can list them. */
static int not_here(struct mc_device *d, const struct mc_host *host, struct mc_error *err)
{
	struct names names = {.len = 0};

	d->plugin->ops.transport.enumerate(host, names_add, &names);
	return mc_fail(err, -ENODEV, "device '%s': is not on this host: %s%s%s%s", d->label,
		       d->info.remedy[0] ? d->info.remedy : "name another in nic_priority_matrix",
		       names.len ? "; there are: " : "", names.text,
		       names.len >= sizeof names.text ? "..." : "");
}

static int device_probe(struct mc_device *d, struct mc_error *err)
{
	struct mc_plain_host host;
	int r;

	d->info.size = sizeof d->info;
	d->info.numa_node = -1;
	mc_plain_host_init(&host, d->engine, d->label);
	if (err)
		err->text[0] = '\0';
	r = d->plugin->ops.transport.probe(&host.host, d->name, &d->info, err);
	if (r == -ENOTSUP)
		return 0;
	if (r < 0)
		return mc_plugin_open_failed(d->plugin, d->label, r, err);
	if (d->info.state == MC_STATE_DOWN)
		return mc_fail(err, -ENETDOWN, "device '%s': is down: %s", d->label,
			       d->info.remedy[0] ? d->info.remedy : "name another in nic_priority_matrix");
	if (d->info.state == MC_STATE_MISSING)
		return not_here(d, &host.host, err);
	return 0;
}

static int device_load(struct mc_device *d, struct mc_error *err)
{
	const struct mc_plugin_desc *desc;
	int r = mc_plugin_load(d->engine->registry, MC_KIND_TRANSPORT, d->transport, &d->plugin, err);

	if (r < 0)
		return r;
	desc = d->plugin->desc;
	d->transport = desc->name;
	d->wire = desc->wire ? desc->wire : desc->name;
	d->wire_min = desc->wire_min;
	d->wire_max = desc->wire_max;
	d->ops = &d->plugin->ops.transport;
	mc_config_transport(d->engine->config, d->transport, &d->impl->settings);
	r = mc_config_plugin_values(d->engine->config, "transports", d->transport, desc,
				    &d->impl->values, err);
	if (r < 0)
		return r;
	r = device_probe(d, err);
	return r < 0 ? r : mc_device_filters_open(d, err);
}

struct open_job {
	struct mc_device *device;
	uint64_t deadline_ns;
	struct mc_error *err;
};

static int device_open_job(void *arg)
{
	struct open_job *job = arg;
	struct mc_device *d = job->device;
	int r = device_load(d, job->err);

	if (r < 0)
		return r;
	d->nr_lanes = (uint16_t)MC_MAX(d->impl->settings.lanes, 1);
	d->lanes = calloc(d->nr_lanes, sizeof(struct mc_lane *));
	if (!d->lanes)
		return mc_fail(job->err, -ENOMEM, "device '%s': out of memory", d->label);
	for (uint16_t i = 0; i < d->nr_lanes; i++) {
		r = mc_lane_open(d, i, job->deadline_ns, job->err);
		if (r < 0)
			return r;
	}
	d->caps = d->lanes[0]->caps;
	d->state = MC_STATE_ACTIVE;
	return 0;
}

static int device_open(struct mc_engine *engine, const struct mc_matrix_entry *entry,
		       uint64_t deadline_ns, struct mc_error *err)
{
	struct mc_device *d = calloc(1, sizeof *d);
	struct open_job job = {.device = d, .deadline_ns = deadline_ns, .err = err};
	int r = -ENOMEM;

	if (d) {
		d->engine = engine;
		d->idx = (uint16_t)engine->nr_devices;
		d->name = strdup(entry->device);
		d->impl = calloc(1, sizeof *d->impl);
	}
	if (!d || !d->name || !d->impl) {
		device_free(d);
		return mc_fail(err, r, "device '%s': out of memory", entry->device);
	}
	d->transport = entry->transport;
	d->require = entry->require;
	d->weight = entry->weight;
	snprintf(d->label, sizeof d->label, "%s:%s", entry->transport, entry->device);
	r = mc_helpers_call(engine->helpers, device_open_job, &job);
	if (r < 0) {
		device_close(d, mc_now_ns());
		return r;
	}
	mc_info("device '%s': open, wire %s %u..%u%s%s", d->label, d->wire, d->wire_min, d->wire_max,
		d->info.address[0] ? ", " : "", d->info.address);
	engine->devices[engine->nr_devices++] = d;
	return 0;
}

/* ---- all of them ---------------------------------------------------------------------------- */

/* What could not be opened and need not be. */
struct refused {
	const struct mc_matrix_row *row; /* the first that names it */
	const struct mc_matrix_entry *entry;
	struct mc_error err;
};

struct opening {
	struct mc_engine *engine;
	bool named;
	uint64_t deadline_ns;
	struct refused *refused;
	size_t nr_refused;
};

static bool same(const struct mc_matrix_entry *a, const struct mc_matrix_entry *b)
{
	return !strcmp(a->transport, b->transport) && !strcmp(a->device, b->device);
}

/* A device that the row names and that is open; NULL: none. */
static const struct mc_device *row_device(const struct mc_engine *engine,
					  const struct mc_matrix_row *row)
{
	for (size_t t = 0; t < row->nr_tiers; t++)
		for (size_t e = 0; e < row->tiers[t].nr; e++) {
			const struct mc_matrix_entry *entry = &row->tiers[t].entries[e];
			const struct mc_device *d = mc_device_find(engine, entry->transport, entry->device);

			if (d)
				return d;
		}
	return NULL;
}

/* What the user put first fails loudly, unless its plugin is optional by its manifest. */
static bool may_miss(const struct opening *o, const struct mc_matrix_entry *entry, size_t tier)
{
	const struct mc_manifest *m;

	if (entry->require)
		return false;
	if (!o->named || tier > 0)
		return true;
	m = mc_registry_find(o->engine->registry, MC_KIND_TRANSPORT, entry->transport, NULL);
	return m && m->optional;
}

/* It is open already: another row names it too. */
static int name_again(struct mc_device *d, const struct mc_matrix_entry *entry, struct mc_error *err)
{
	d->require |= entry->require;
	if (entry->weight == 1 || entry->weight == d->weight)
		return 0;
	if (d->weight != 1)
		return mc_fail(err, -EINVAL, "nic_priority_matrix: device '%s' has the weights %g and %g: "
			       "a device has one, whatever the row", d->label, d->weight, entry->weight);
	d->weight = entry->weight;
	return 0;
}

/* Fail with the place in the matrix that names the device. */
static int fail_at(const struct opening *o, const struct mc_matrix_row *row, size_t tier,
		   const struct mc_matrix_entry *entry, const struct mc_error *why, struct mc_error *err)
{
	const char *path = o->engine->matrix->path;

	if (!o->named)
		return mc_fail(err, why->code, "%s", why->text);
	return mc_fail(err, why->code, "%s: $.%s[%zu][%zu]: %s", path ? path : "nic_priority_matrix", row->location,
		       tier, (size_t)(entry - row->tiers[tier].entries), why->text);
}

static int open_entry(struct opening *o, const struct mc_matrix_row *row, size_t tier,
		      const struct mc_matrix_entry *entry, struct mc_error *err)
{
	struct mc_device *d = mc_device_find(o->engine, entry->transport, entry->device);
	struct mc_error why = {0};
	int r;

	if (d)
		return name_again(d, entry, err);
	for (size_t i = 0; i < o->nr_refused; i++)
		if (same(o->refused[i].entry, entry)) {
			why = o->refused[i].err;
			if (!may_miss(o, entry, tier))
				return fail_at(o, row, tier, entry, &why, err);
			return 0;
		}
	r = device_open(o->engine, entry, o->deadline_ns, &why);
	if (r == 0)
		return 0;
	/* What the user requires is a matter of this host, not of how he wrote it. */
	why.code = entry->require && (r == -ENODEV || r == -EINVAL) ? -ENXIO : r;
	/* Time is up for everything, not for this device alone. */
	if (!may_miss(o, entry, tier) || mc_now_ns() >= o->deadline_ns)
		return fail_at(o, row, tier, entry, &why, err);
	o->refused[o->nr_refused++] = (struct refused){.row = row, .entry = entry, .err = why};
	return 0;
}

struct mc_left_out {
	struct mc_left_out *next;
	char label[MC_PLUGIN_NAME_MAX + MC_DEVICE_NAME_MAX + 2];
	char why[MC_ERROR_TEXT_MAX];
};

const char *mc_device_left_out(const struct mc_engine *engine, const char *transport, const char *name)
{
	char label[sizeof engine->left_out->label];

	snprintf(label, sizeof label, "%s:%s", transport, name);
	for (const struct mc_left_out *l = engine->left_out; l; l = l->next)
		if (!strcmp(l->label, label))
			return l->why;
	return NULL;
}

/* For whoever asks later; without memory nobody is told. */
static void remember(struct mc_engine *engine, const struct refused *f)
{
	struct mc_left_out *l = malloc(sizeof *l);

	if (!l)
		return;
	snprintf(l->label, sizeof l->label, "%s:%s", f->entry->transport, f->entry->device);
	snprintf(l->why, sizeof l->why, "%s", f->err.text);
	l->next = engine->left_out;
	engine->left_out = l;
}

/* One warning for each that was left out, with what is used instead. */
static int judge(const struct opening *o, struct mc_error *err)
{
	for (size_t i = 0; i < o->nr_refused; i++) {
		const struct refused *f = &o->refused[i];
		const struct mc_device *d = row_device(o->engine, f->row);

		remember(o->engine, f);
		if (d)
			mc_warn("%s; using %s instead", f->err.text, d->label);
		else if (o->named)
			return mc_fail(err, f->err.code, "%s (and nothing else is left for location '%s')",
				       f->err.text, f->row->location);
		else if (i > 0 || o->engine->nr_devices) /* else it is in the error that ends all */
			mc_warn("%s; nothing is left for location '%s'", f->err.text, f->row->location);
	}
	return 0;
}

static size_t nr_entries(const struct mc_matrix *m)
{
	size_t nr = 0;

	for (size_t i = 0; i < m->nr_rows; i++)
		for (size_t t = 0; t < m->rows[i].nr_tiers; t++)
			nr += m->rows[i].tiers[t].nr;
	return nr;
}

static int open_rows(struct opening *o, struct mc_error *err)
{
	const struct mc_matrix *m = o->engine->matrix;

	for (size_t i = 0; i < m->nr_rows; i++) {
		const struct mc_matrix_row *row = &m->rows[i];

		for (size_t t = 0; t < row->nr_tiers; t++)
			for (size_t e = 0; e < row->tiers[t].nr; e++) {
				int r = open_entry(o, row, t, &row->tiers[t].entries[e], err);

				if (r < 0)
					return r;
				if (o->engine->nr_devices == MAX_DEVICES)
					return mc_fail(err, -E2BIG,
						       "nic_priority_matrix: more than %d devices",
						       MAX_DEVICES - 1);
			}
	}
	return judge(o, err);
}

int mc_devices_open(struct mc_engine *engine, bool named, uint64_t deadline_ns, struct mc_error *err)
{
	struct opening o = {.engine = engine, .named = named, .deadline_ns = deadline_ns};
	size_t nr = nr_entries(engine->matrix);
	int r;

	o.refused = calloc(nr ? nr : 1, sizeof *o.refused);
	engine->devices = calloc(MAX_DEVICES, sizeof(struct mc_device *));
	if (!o.refused || !engine->devices)
		r = mc_fail(err, -ENOMEM, "devices: out of memory");
	else
		r = open_rows(&o, err);
	if (r == 0 && !engine->nr_devices)
		r = mc_fail(err, -ENODEV, "nic_priority_matrix: no device of it could be opened%s%s",
			    o.nr_refused ? ": " : "", o.nr_refused ? o.refused[0].err.text : "");
	free(o.refused);
	if (r < 0)
		mc_devices_close(engine, mc_now_ns() + MC_SEC);
	return r;
}

int mc_devices_close(struct mc_engine *engine, uint64_t deadline_ns)
{
	int r = 0;

	while (engine->nr_devices) {
		struct mc_device *d = engine->devices[--engine->nr_devices];

		if (device_close(d, deadline_ns) < 0)
			r = -ETIMEDOUT;
	}
	free(engine->devices);
	engine->devices = NULL;
	while (engine->left_out) {
		struct mc_left_out *next = engine->left_out->next;

		free(engine->left_out);
		engine->left_out = next;
	}
	return r;
}
