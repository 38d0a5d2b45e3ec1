/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Devices: opens what the matrix names, each with its plugin, the filters over
 * it and its lanes, and says what is used instead of what cannot be opened.  A
 * lane's plugin is opened and closed on a helper; its worker's baton is held
 * meanwhile, so that nothing of the lane runs before it is whole.
 */
#include "device.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "filter.h"
#include "host.h"
#include "lane.h"
#include "log.h"
#include "stage.h"
#include "core/util/check.h"

#define MAX_DEVICES 256
#define MAX_FILTERS 8

/* What only opening and closing need. */
struct mc_device_impl {
	struct mc_value *values;
	struct mc_transport_settings settings;
	size_t nr_filters;
	struct mc_plugin *filters[MAX_FILTERS]; /* loaded, not yet owned by a stack */
	struct mc_value *filter_values[MAX_FILTERS];
	struct mc_filter_stack *stacks[MAX_FILTERS];
};

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

/* ---- lanes ---------------------------------------------------------------------------------- */

static void *area_new(size_t size)
{
	size_t full = mc_round_up(size ? size : 1, MC_CACHE_LINE);
	void *area = aligned_alloc(MC_CACHE_LINE, full);

	return area ? memset(area, 0, full) : NULL;
}

static void lane_free(struct mc_lane *lane)
{
	if (!lane)
		return;
	mc_lane_slices_free(lane);
	mc_worker_free(lane->worker);
	free(lane->inst);
	free(lane);
}

/* The worker's own thread holds the baton for moments only: it has no client yet. */
static void baton_take(struct mc_worker *worker)
{
	while (!mc_worker_enter(worker))
		sched_yield();
}

static int lane_open_plugin(struct mc_lane *lane, uint64_t deadline_ns, struct mc_error *err)
{
	struct mc_device *d = lane->device;
	struct mc_open_args args = {
		.size = sizeof args,
		.device = d->name,
		.engine = d->engine->name,
		.generation = d->engine->generation,
		.options = d->impl->values,
		.lane = lane->idx,
		.nr_lanes = d->nr_lanes,
		.lane0 = lane->idx ? d->lanes[0]->inst : NULL,
		.peer_timeout_ns = (uint64_t)d->engine->set->peer_timeout,
		.deadline_ns = deadline_ns,
	};
	int r;

	lane->caps.size = sizeof lane->caps;
	if (err)
		err->text[0] = '\0';
	baton_take(lane->worker);
	r = d->ops->open(lane->inst, &lane->host, &args, &lane->caps, err);
	if (r == 0 && (lane->caps.alignment & (lane->caps.alignment - 1))) {
		r = mc_fail(err, -EPROTO, "device '%s': its plugin asks for an alignment of %u: that is no power of two",
			    d->label, lane->caps.alignment);
		d->ops->close(lane->inst);
	}
	if (r == 0) {
		if (d->impl->settings.bandwidth)
			lane->caps.bandwidth = (uint64_t)d->impl->settings.bandwidth;
		mc_worker_set_flags(lane->worker, lane->caps.flags & MC_CAP_OWN_THREAD,
				    lane->caps.flags & MC_CAP_CPU_COPY);
		lane->client.ops = &mc_lane_client_ops;
		lane->client.polled = lane->caps.flags & MC_CAP_SPIN;
		mc_worker_add(lane->worker, &lane->client);
	}
	mc_worker_leave(lane->worker);
	return r < 0 ? mc_plugin_open_failed(d->plugin, d->label, r, err) : 0;
}

static int lane_open(struct mc_device *d, uint16_t idx, uint64_t deadline_ns, struct mc_error *err)
{
	struct mc_lane *lane = area_new(sizeof *lane);
	char worker_name[sizeof lane->label];
	struct mc_worker_args args = {
		.name = worker_name,
		.spin_ns = (uint64_t)d->engine->set->spin,
		.peer_timeout_ns = (uint64_t)d->engine->set->peer_timeout,
		.numa_node = d->info.numa_node,
	};
	int r = -ENOMEM;

	if (!lane)
		return mc_fail(err, r, "device '%s': out of memory", d->label);
	lane->device = d;
	lane->idx = idx;
	lane->ops = d->ops;
	lane->ready_tail = &lane->ready;
	snprintf(lane->label, sizeof lane->label, idx ? "%s/%u" : "%s", d->label, idx);
	snprintf(worker_name, sizeof worker_name, "%s/%u", d->label, idx);
	lane->inst = area_new(d->ops->instance_size);
	if (lane->inst)
		r = mc_worker_new(&args, &lane->worker);
	if (r < 0) {
		lane_free(lane);
		return mc_fail(err, r, "device '%s': no worker for it: %s", d->label, strerror(-r));
	}
	mc_host_init(lane);
	r = lane_open_plugin(lane, deadline_ns, err);
	if (r < 0) {
		lane_free(lane);
		return r;
	}
	d->lanes[idx] = lane;
	return 0;
}

static void lane_stop(void *arg)
{
	struct mc_lane *lane = arg;

	lane->ops->stop(lane->inst);
}

struct drain {
	struct mc_lane *lane;
	bool idle;
};

static void lane_look(void *arg)
{
	struct drain *drain = arg;

	drain->idle = !drain->lane->nr_slices &&
		      !__atomic_load_n(&drain->lane->calls, __ATOMIC_ACQUIRE);
}

static void lane_leave(void *arg)
{
	struct mc_lane *lane = arg;

	mc_worker_remove(lane->worker, &lane->client);
	/* A helper closes the plugin under the baton. */
	if (lane->caps.flags & MC_CAP_OWN_THREAD)
		mc_worker_set_flags(lane->worker, false, false);
}

/* Wait until the plugin has given back its slices and every answer to it has come. */
static int lane_drain(struct mc_lane *lane, uint64_t deadline_ns)
{
	struct drain drain = {.lane = lane};

	for (;;) {
		struct timespec pause = {.tv_nsec = 200000};

		mc_worker_call(lane->worker, lane_look, &drain);
		if (drain.idle)
			return 0;
		if (mc_now_ns() >= deadline_ns)
			return -ETIMEDOUT;
		clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
	}
}

static int lane_close_job(void *arg)
{
	struct mc_lane *lane = arg;

	baton_take(lane->worker);
	lane->ops->close(lane->inst);
	mc_worker_leave(lane->worker);
	return 0;
}

static int lane_close(struct mc_lane *lane, uint64_t deadline_ns)
{
	int r;

	mc_worker_call(lane->worker, lane_stop, lane);
	r = lane_drain(lane, deadline_ns);
	if (r < 0)
		mc_warn("device '%s': its plugin did not give back %u slices in time", lane->label,
			lane->nr_slices);
	mc_worker_call(lane->worker, lane_leave, lane);
	mc_stage_lane_close(lane);
	mc_helpers_call(lane->device->engine->helpers, lane_close_job, lane);
	lane_free(lane);
	return r;
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
		if (d->lanes[i] && lane_close(d->lanes[i], deadline_ns) < 0)
			r = -ETIMEDOUT;
	device_free(d);
	return r;
}

static int filter_push(struct mc_device *d, const char *name, struct mc_error *err)
{
	const struct mc_config *config = d->engine->config;
	struct mc_device_impl *impl = d->impl;
	size_t i = impl->nr_filters;
	int r;

	if (i == MAX_FILTERS)
		return mc_fail(err, -E2BIG, "transports.%s.filters: more than %d filters", d->transport,
			       MAX_FILTERS);
	r = mc_plugin_load(d->engine->registry, MC_KIND_FILTER, name, &impl->filters[i], err);
	if (r < 0)
		return r;
	impl->nr_filters++;
	r = mc_config_plugin_values(config, "filters", name, impl->filters[i]->desc,
				    &impl->filter_values[i], err);
	if (r < 0)
		return r;
	r = mc_filter_stack_new(impl->filters[i], impl->filter_values[i], d->ops, d->transport,
				&impl->stacks[i], err);
	if (r < 0)
		return r;
	d->ops = mc_filter_stack_ops(impl->stacks[i]);
	return 0;
}

/* "a,b": a is the outermost, so the last name is stacked first. */
static int filters_push(struct mc_device *d, struct mc_error *err)
{
	char *words = strdup(d->impl->settings.filters ? d->impl->settings.filters : "");
	int r = words ? 0 : -ENOMEM;

	while (r == 0 && *words) {
		char *comma = strrchr(words, ',');
		char *name = comma ? comma + 1 : words;

		name += strspn(name, " ");
		name[strcspn(name, " ")] = '\0';
		if (*name)
			r = filter_push(d, name, err);
		*(comma ? comma : words) = '\0';
	}
	free(words);
	return r;
}

static struct mc_plugin *filter_find(const struct mc_device *d, const char *name, size_t *ret_idx)
{
	for (size_t i = 0; i < d->impl->nr_filters; i++) {
		*ret_idx = i;
		if (!strcmp(d->impl->filters[i]->desc->name, name))
			return d->impl->filters[i];
	}
	return NULL;
}

/* `verify`: checksum over whatever else is there, unless the user has placed it himself. */
static int verify_open(struct mc_device *d, struct mc_error *err)
{
	const char *verify = d->engine->set->verify;
	struct mc_plugin *p;
	size_t idx = 0;
	int r;

	if (!strcmp(verify, "off"))
		return 0;
	if (!filter_find(d, "checksum", &idx)) {
		r = filter_push(d, "checksum", err);
		if (r < 0)
			return r;
	}
	p = filter_find(d, "checksum", &idx);
	for (size_t i = 0; !strcmp(verify, "full") && p->desc->options && p->desc->options[i].name; i++)
		if (!strcmp(p->desc->options[i].name, "sample"))
			d->impl->filter_values[idx][i].d = 1;
	return 0;
}

static int filters_open(struct mc_device *d, struct mc_error *err)
{
	int r = filters_push(d, err);
	size_t at = 0;

	if (r == 0)
		r = verify_open(d, err);
	for (size_t i = 0; r == 0 && i < d->impl->nr_filters && at < sizeof d->filters; i++)
		at += (size_t)snprintf(d->filters + at, sizeof d->filters - at, "%s%s", at ? " " : "",
				       d->impl->filters[i]->desc->name);
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
	return r < 0 ? r : filters_open(d, err);
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
		r = lane_open(d, i, job->deadline_ns, job->err);
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
	why.code = r;
	/* Time is up for everything, not for this device alone. */
	if (!may_miss(o, entry, tier) || mc_now_ns() >= o->deadline_ns)
		return fail_at(o, row, tier, entry, &why, err);
	o->refused[o->nr_refused++] = (struct refused){.row = row, .entry = entry, .err = why};
	return 0;
}

/* One warning for each that was left out, with what is used instead. */
static int judge(const struct opening *o, struct mc_error *err)
{
	for (size_t i = 0; i < o->nr_refused; i++) {
		const struct refused *f = &o->refused[i];
		const struct mc_device *d = row_device(o->engine, f->row);

		if (d)
			mc_warn("%s; using %s instead", f->err.text, d->label);
		else if (o->named)
			return mc_fail(err, f->err.code, "%s (and nothing else is left for location '%s')",
				       f->err.text, f->row->location);
		else
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
	return r;
}
