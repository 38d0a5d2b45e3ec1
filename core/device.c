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
/* How many more than it was opened with an engine can get by reloads. */
#define MORE_DEVICES 16

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

/* -EINPROGRESS: it is not closed yet. */
static int device_close(struct mc_device *d, uint64_t deadline_ns)
{
	int r = 0;

	/* Lane 0 last: the others may use what it registered. */
	for (size_t i = d->nr_lanes; i-- > 0;) {
		int closed = d->lanes[i] ? mc_lane_close(d->lanes[i], deadline_ns) : 0;

		if (closed == -EINPROGRESS)
			return closed;
		d->lanes[i] = NULL;
		r = closed < 0 ? closed : r;
	}
	device_free(d);
	return r;
}

/* Close all that wait for it, the last first.  -EINPROGRESS: some wait on. */
static int close_waiting(struct mc_engine *engine, uint64_t deadline_ns)
{
	struct mc_device **at = &engine->closing_devices;
	int r = 0;

	while (*at) {
		struct mc_device *d = *at, *next = d->impl->next_closing;
		int closed = device_close(d, deadline_ns);

		if (closed == -EINPROGRESS)
			at = &d->impl->next_closing;
		else
			*at = next;
		if (closed < 0 && r != -EINPROGRESS)
			r = closed;
	}
	return r;
}

static void wait_to_close(struct mc_device *d)
{
	d->impl->next_closing = d->engine->closing_devices;
	d->engine->closing_devices = d;
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
	mc_config_transport(d->impl->config, d->transport, &d->impl->settings);
	r = mc_config_plugin_values(d->impl->config, "transports", d->transport, desc,
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

static int device_open(struct mc_device_plan *plan, const struct mc_matrix_entry *entry,
		       uint64_t deadline_ns, struct mc_error *err)
{
	struct mc_engine *engine = plan->engine;
	struct mc_device *d = calloc(1, sizeof *d);
	struct open_job job = {.device = d, .deadline_ns = deadline_ns, .err = err};
	int r = -ENOMEM;

	if (d) {
		d->engine = engine;
		d->idx = (uint16_t)(engine->nr_devices + plan->nr_fresh);
		d->name = strdup(entry->device);
		d->impl = calloc(1, sizeof *d->impl);
	}
	if (!d || !d->name || !d->impl) {
		device_free(d);
		return mc_fail(err, r, "device '%s': out of memory", entry->device);
	}
	d->impl->config = plan->config;
	d->transport = entry->transport;
	d->require = entry->require;
	d->weight = entry->weight;
	snprintf(d->label, sizeof d->label, "%s:%s", entry->transport, entry->device);
	r = mc_helpers_call(engine->helpers, device_open_job, &job);
	if (r < 0) {
		if (device_close(d, mc_now_ns()) == -EINPROGRESS)
			wait_to_close(d);
		return r;
	}
	mc_info("device '%s': open, wire %s %u..%u%s%s", d->label, d->wire, d->wire_min, d->wire_max,
		d->info.address[0] ? ", " : "", d->info.address);
	plan->fresh[plan->nr_fresh++] = d;
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
	struct mc_device_plan *plan;
	uint64_t deadline_ns;
	struct refused *refused;
	size_t nr_refused;
};

static bool same(const struct mc_matrix_entry *a, const struct mc_matrix_entry *b)
{
	return !strcmp(a->transport, b->transport) && !strcmp(a->device, b->device);
}

/* A device that the row names and that is open; NULL: none. */
static const struct mc_device *row_device(const struct mc_device_plan *plan,
					  const struct mc_matrix_row *row)
{
	for (size_t t = 0; t < row->nr_tiers; t++)
		for (size_t e = 0; e < row->tiers[t].nr; e++) {
			const struct mc_matrix_entry *entry = &row->tiers[t].entries[e];
			const struct mc_device *d = mc_devices_planned(plan, entry->transport, entry->device);

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
	if (!o->plan->named || tier > 0)
		return true;
	m = mc_registry_find(o->plan->engine->registry, MC_KIND_TRANSPORT, entry->transport, NULL);
	return m && m->optional;
}

static struct mc_device_wanted *wanted_find(const struct mc_device_plan *plan, const struct mc_device *d)
{
	for (size_t i = 0; i < plan->nr_wanted; i++)
		if (plan->wanted[i].device == d)
			return &plan->wanted[i];
	return NULL;
}

/* It is open: keep what this place says of it beside what others have said. */
static int want(struct mc_device_plan *plan, struct mc_device *d, const struct mc_matrix_entry *entry,
		struct mc_error *err)
{
	struct mc_device_wanted *w = wanted_find(plan, d);

	if (!w) {
		plan->wanted[plan->nr_wanted++] = (struct mc_device_wanted){
			.device = d, .require = entry->require, .weight = entry->weight};
		return 0;
	}
	w->require |= entry->require;
	if (entry->weight == 1 || entry->weight == w->weight)
		return 0;
	if (w->weight != 1)
		return mc_fail(err, -EINVAL, "nic_priority_matrix: device '%s' has the weights %g and %g: "
			       "a device has one, whatever the row", d->label, w->weight, entry->weight);
	w->weight = entry->weight;
	return 0;
}

/* Fail with the place in the matrix that names the device. */
static int fail_at(const struct opening *o, const struct mc_matrix_row *row, size_t tier,
		   const struct mc_matrix_entry *entry, const struct mc_error *why, struct mc_error *err)
{
	const char *path = o->plan->matrix->path;

	if (!o->plan->named)
		return mc_fail(err, why->code, "%s", why->text);
	return mc_fail(err, why->code, "%s: $.%s[%zu][%zu]: %s", path ? path : "nic_priority_matrix", row->location,
		       tier, (size_t)(entry - row->tiers[tier].entries), why->text);
}

static int open_entry(struct opening *o, const struct mc_matrix_row *row, size_t tier,
		      const struct mc_matrix_entry *entry, struct mc_error *err)
{
	struct mc_device_plan *plan = o->plan;
	struct mc_device *d = mc_devices_planned(plan, entry->transport, entry->device);
	struct mc_error why = {0};
	int r;

	if (d)
		return want(plan, d, entry, err);
	for (size_t i = 0; i < o->nr_refused; i++)
		if (same(o->refused[i].entry, entry)) {
			why = o->refused[i].err;
			if (!may_miss(o, entry, tier))
				return fail_at(o, row, tier, entry, &why, err);
			return 0;
		}
	r = device_open(plan, entry, o->deadline_ns, &why);
	if (r == 0)
		return want(plan, plan->fresh[plan->nr_fresh - 1], entry, err);
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

/* How many are wanted that other hosts can reach.  Where discovery chose and none of these can be opened, what
 * this host shares is no way out: nobody asked to be cut off. */
static size_t nr_reaching(const struct mc_device_plan *plan)
{
	size_t nr = 0;

	for (size_t i = 0; i < plan->nr_wanted; i++)
		nr += plan->named || !(plan->wanted[i].device->caps.flags & MC_CAP_SAME_SUBNET);
	return nr;
}

/* One warning for each that was left out, with what is used instead. */
static int judge(const struct opening *o, struct mc_error *err)
{
	for (size_t i = 0; i < o->nr_refused; i++) {
		const struct refused *f = &o->refused[i];
		const struct mc_device *d = row_device(o->plan, f->row);

		if (!o->plan->engine->cap_devices) /* readers take no lock: reloads do not add to it */
			remember(o->plan->engine, f);
		if (d && nr_reaching(o->plan))
			mc_warn("%s; using %s instead", f->err.text, d->label);
		else if (o->plan->named)
			return mc_fail(err, f->err.code, "%s (and nothing else is left for location '%s')",
				       f->err.text, f->row->location);
		else if (i > 0 || nr_reaching(o->plan)) /* else it is in the error that ends all */
			mc_warn("%s; nothing is left for location '%s'", f->err.text, f->row->location);
	}
	return 0;
}

/* Is there a place for one more? */
static int check_places(const struct mc_device_plan *plan, struct mc_error *err)
{
	size_t cap = plan->engine->cap_devices, nr = plan->engine->nr_devices + plan->nr_fresh;

	if (cap && nr > cap)
		return mc_fail(err, -E2BIG, "nic_priority_matrix: an engine that is open takes %zu devices in all, "
			       "those that have left counted: open it anew for more", cap);
	if (nr >= MAX_DEVICES)
		return mc_fail(err, -E2BIG, "nic_priority_matrix: more than %d devices", MAX_DEVICES - 1);
	return 0;
}

static int open_rows(struct opening *o, struct mc_error *err)
{
	const struct mc_matrix *m = o->plan->matrix;

	for (size_t i = 0; i < m->nr_rows; i++) {
		const struct mc_matrix_row *row = &m->rows[i];

		for (size_t t = 0; t < row->nr_tiers; t++)
			for (size_t e = 0; e < row->tiers[t].nr; e++) {
				int r = open_entry(o, row, t, &row->tiers[t].entries[e], err);

				if (r == 0)
					r = check_places(o->plan, err);
				if (r < 0)
					return r;
			}
	}
	return judge(o, err);
}

struct mc_device *mc_devices_planned(const struct mc_device_plan *plan, const char *transport,
				     const char *name)
{
	for (size_t i = 0; i < plan->nr_fresh; i++) {
		struct mc_device *d = plan->fresh[i];

		if (!strcmp(d->name, name) && !strcmp(d->transport, transport))
			return d;
	}
	return mc_device_find(plan->engine, transport, name);
}

int mc_devices_plan(struct mc_device_plan *plan, uint64_t deadline_ns, struct mc_error *err)
{
	struct opening o = {.plan = plan, .deadline_ns = deadline_ns};
	size_t nr = mc_matrix_nr_entries(plan->matrix);
	int r;

	/* What an earlier plan has left, if it can be closed by now. */
	close_waiting(plan->engine, 0);
	o.refused = calloc(nr ? nr : 1, sizeof *o.refused);
	plan->fresh = calloc(MAX_DEVICES + 1, sizeof(struct mc_device *));
	plan->wanted = calloc(nr ? nr : 1, sizeof *plan->wanted);
	if (!o.refused || !plan->fresh || !plan->wanted)
		r = mc_fail(err, -ENOMEM, "devices: out of memory");
	else
		r = open_rows(&o, err);
	if (r == 0 && (!plan->nr_wanted || (o.nr_refused && !nr_reaching(plan))))
		r = mc_fail(err, -ENODEV, "nic_priority_matrix: no device of it could be opened%s%s",
			    o.nr_refused ? ": " : "", o.nr_refused ? o.refused[0].err.text : "");
	free(o.refused);
	if (r < 0)
		mc_devices_plan_free(plan, mc_now_ns() + MC_SEC);
	return r;
}

void mc_devices_adopt(struct mc_device_plan *plan)
{
	struct mc_engine *engine = plan->engine;

	for (size_t i = 0; i < plan->nr_fresh; i++) {
		plan->fresh[i]->impl->config = NULL; /* the caller's */
		engine->devices[engine->nr_devices] = plan->fresh[i];
		engine->nr_devices++; /* whoever sees it, sees the device */
	}
	plan->nr_fresh = 0;
}

void mc_devices_judge(const struct mc_device_plan *plan)
{
	for (size_t i = 0; i < plan->engine->nr_devices; i++) {
		struct mc_device *d = plan->engine->devices[i];
		const struct mc_device_wanted *w = wanted_find(plan, d);

		atomic_store(&d->retired, !w);
		if (!w)
			continue;
		d->require = w->require;
		d->weight = w->weight;
	}
}

void mc_devices_plan_free(struct mc_device_plan *plan, uint64_t deadline_ns)
{
	if (plan->nr_fresh) {
		for (size_t i = 0; i < plan->nr_fresh; i++)
			wait_to_close(plan->fresh[i]);
		plan->nr_fresh = 0;
		close_waiting(plan->engine, deadline_ns);
	}
	free(plan->fresh);
	free(plan->wanted);
	plan->fresh = NULL;
	plan->wanted = NULL;
	plan->nr_wanted = 0;
}

int mc_devices_open(struct mc_engine *engine, bool named, uint64_t deadline_ns, struct mc_error *err)
{
	struct mc_device_plan plan = {
		.engine = engine, .matrix = engine->matrix, .config = engine->config, .named = named};
	int r;

	engine->devices = calloc(MAX_DEVICES, sizeof(struct mc_device *));
	if (!engine->devices)
		return mc_fail(err, -ENOMEM, "devices: out of memory");
	r = mc_devices_plan(&plan, deadline_ns, err);
	if (r < 0) {
		free(engine->devices);
		engine->devices = NULL;
		return r;
	}
	mc_devices_adopt(&plan);
	mc_devices_judge(&plan);
	mc_devices_plan_free(&plan, deadline_ns);
	engine->cap_devices = MC_MIN(engine->nr_devices + MORE_DEVICES, (size_t)MAX_DEVICES);
	for (size_t i = 0; i < engine->nr_devices; i++)
		engine->nr_lanes += engine->devices[i]->nr_lanes;
	return 0;
}

int mc_devices_close(struct mc_engine *engine, uint64_t deadline_ns)
{
	int r;

	for (size_t i = 0; i < engine->nr_devices; i++)
		wait_to_close(engine->devices[i]);
	engine->nr_devices = 0;
	r = close_waiting(engine, deadline_ns);
	free(engine->devices);
	engine->devices = NULL;
	while (engine->left_out) {
		struct mc_left_out *next = engine->left_out->next;

		free(engine->left_out);
		engine->left_out = next;
	}
	return r;
}
