/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Options of open plugins under another config: each plugin whose reloadable options
 * differ gets all of its values again through `reconfigure`; if one refuses, those
 * that have taken theirs get the old ones back.
 */
#include "reload.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "device_impl.h"
#include "log.h"
#include "meta.h"
#include "value.h"

/* One plugin's: a device's transport, or the metadata's. */
struct item {
	struct mc_device *device; /* NULL: metadata */
	struct mc_value *values;  /* new; after keep, the old ones */
};

struct mc_reload_options {
	struct mc_engine *engine;
	size_t nr;
	struct item items[];
};

static struct mc_value **in_force(const struct mc_reload_options *o, const struct item *item)
{
	return item->device ? &item->device->impl->values : &o->engine->meta->values;
}

/* ---- what differs --------------------------------------------------------------------------- */

static bool same_value(const struct mc_option *o, const struct mc_value *a, const struct mc_value *b)
{
	switch (o->type) {
	case MC_OPT_BOOL:
		return a->b == b->b;
	case MC_OPT_FLOAT:
		return a->d == b->d;
	case MC_OPT_STRING:
		return !strcmp(a->s ? a->s : "", b->s ? b->s : "");
	case MC_OPT_ENUM:
		return a->i2 == b->i2;
	default:
		return a->i == b->i;
	}
}

/* Adds an item if some value differs. */
static int add(struct mc_reload_options *o, const struct mc_config *config, const char *section,
	       const struct mc_plugin_desc *desc, struct mc_device *device, struct mc_error *err)
{
	struct item *item = &o->items[o->nr];
	const struct mc_option *option;
	const struct mc_value *was;
	bool differs = false;
	int r;

	*item = (struct item){.device = device};
	r = mc_config_plugin_values(config, section, desc->name, desc, &item->values, err);
	if (r < 0)
		return r;
	was = *in_force(o, item);
	for (size_t i = 0; (option = mc_option_at(desc, i)) && r == 0; i++) {
		if (same_value(option, &was[i], &item->values[i]))
			continue;
		differs = true;
		if (!(option->flags & MC_OPT_RELOADABLE))
			r = mc_fail(err, -EINVAL, "%s.%s.%s cannot change while the engine is open: open it anew",
				    section, desc->name, option->name);
	}
	if (r == 0 && differs) {
		o->nr++;
		return 0;
	}
	mc_values_free(item->values);
	return r;
}

int mc_reload_options_new(struct mc_engine *engine, const struct mc_config *config,
			  struct mc_reload_options **ret_options, struct mc_error *err)
{
	size_t nr = engine->nr_devices;
	struct mc_reload_options *o = calloc(1, sizeof *o + (nr + 1) * sizeof *o->items);
	int r = 0;

	if (!o)
		return mc_fail(err, -ENOMEM, "options: out of memory");
	o->engine = engine;
	for (size_t i = 0; i < nr && r == 0; i++) {
		struct mc_device *d = engine->devices[i];

		r = add(o, config, "transports", d->plugin->desc, d, err);
	}
	if (r == 0)
		r = add(o, config, "metadata", engine->meta->plugin->desc, NULL, err);
	if (r < 0)
		mc_reload_options_free(o);
	else
		*ret_options = o;
	return r;
}

void mc_reload_options_free(struct mc_reload_options *o)
{
	for (size_t i = 0; o && i < o->nr; i++)
		mc_values_free(o->items[i].values);
	free(o);
}

/* ---- giving them ---------------------------------------------------------------------------- */

struct call {
	struct mc_lane *lane;
	struct mc_meta *meta;
	const struct mc_value *values;
	struct mc_error *err;
	int status;
};

static void lane_reconfigure(void *arg)
{
	struct call *c = arg;

	c->status = c->lane->ops->reconfigure(c->lane->inst, c->values, c->err);
}

static int meta_reconfigure(void *arg)
{
	struct call *c = arg;

	return c->meta->ops->reconfigure(c->meta->inst, c->values, c->err);
}

static int failed(const char *what, int r, struct mc_error *err)
{
	struct mc_error why = *err;

	if (r == -ENOTSUP)
		return mc_fail(err, -EINVAL, "%s: its plugin takes no options while it is open", what);
	return mc_fail(err, r, "%s: it does not take its new options: %s", what, why.text[0] ? why.text : strerror(-r));
}

/* The first nr lanes of a device. */
static int give_lanes(struct mc_device *d, const struct mc_value *values, uint16_t nr, uint16_t *ret_done,
		      struct mc_error *err)
{
	for (*ret_done = 0; *ret_done < nr; ++*ret_done) {
		struct call c = {.lane = d->lanes[*ret_done], .values = values, .err = err};

		err->text[0] = '\0';
		mc_worker_call(c.lane->worker, lane_reconfigure, &c);
		if (c.status < 0)
			return failed(c.lane->label, c.status, err);
	}
	return 0;
}

static int give_meta(struct mc_engine *engine, const struct mc_value *values, uint64_t deadline_ns,
		     struct mc_error *err)
{
	struct call c = {.meta = engine->meta, .values = values, .err = err};
	int r;

	err->text[0] = '\0';
	r = mc_helpers_call_until(engine->helpers, meta_reconfigure, &c, deadline_ns);
	return r < 0 ? failed(engine->meta->label, r, err) : 0;
}

/* Values that a plugin has had before it takes again. */
static void take_back(struct mc_reload_options *o, const struct item *item, uint16_t nr_lanes, uint64_t deadline_ns)
{
	const struct mc_value *old = *in_force(o, item);
	struct mc_error err = {0};
	uint16_t done;
	int r = item->device ? give_lanes(item->device, old, nr_lanes, &done, &err)
			     : give_meta(o->engine, old, deadline_ns, &err);

	if (r < 0)
		mc_warn("%s; it was to get its old ones back", err.text);
}

int mc_reload_options_apply(struct mc_reload_options *o, uint64_t deadline_ns, struct mc_error *err)
{
	struct mc_error why = {0};

	for (size_t i = 0; i < o->nr; i++) {
		struct item *item = &o->items[i];
		uint16_t done = 0;
		int r = item->device ? give_lanes(item->device, item->values, item->device->nr_lanes, &done, &why)
				     : give_meta(o->engine, item->values, deadline_ns, &why);

		if (r == 0)
			continue;
		if (done)
			take_back(o, item, done, deadline_ns);
		while (i-- > 0)
			take_back(o, &o->items[i], o->items[i].device ? o->items[i].device->nr_lanes : 0, deadline_ns);
		return mc_fail(err, r, "%s", why.text);
	}
	return 0;
}

void mc_reload_options_keep(struct mc_reload_options *o)
{
	for (size_t i = 0; i < o->nr; i++) {
		struct mc_value **at = in_force(o, &o->items[i]), *old = *at;

		*at = o->items[i].values;
		o->items[i].values = old;
	}
}
