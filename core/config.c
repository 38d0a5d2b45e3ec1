/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The config: slots for the keys of the schema and for the options of every
 * plugin that has a manifest, each with its value and origin.  A value of a
 * lower origin never replaces one of a higher, in whatever order they are set.
 * This file holds the object itself; the JSON file is config_file.c, the
 * environment config_env.c, plugins' options config_plugin.c.
 */
#include <errno.h>
#include <string.h>

#include "config_priv.h"
#include "config_schema.h"
#include "json.h"
#include "util/check.h"
#include "util/cleanup.h"
#include "value.h"

static void slot_fini(struct mc_slot *s)
{
	free(s->key);
	free(s->text);
	free(s->detail);
}

/* Put the core slots' values where the core reads them. */
static void refresh(struct mc_config *c)
{
	for (size_t i = 0; i < c->nr_slots; i++) {
		const struct mc_slot *s = &c->slots[i];
		char *field = (char *)&c->settings + (s->core ? s->core->offset : 0);

		if (!s->core)
			continue;
		switch (s->option->type) {
		case MC_OPT_BOOL:
			memcpy(field, &s->value.b, sizeof s->value.b);
			break;
		case MC_OPT_STRING:
		case MC_OPT_ENUM:
			memcpy(field, &s->value.s, sizeof s->value.s);
			break;
		default:
			memcpy(field, &s->value.i, sizeof s->value.i);
			break;
		}
	}
}

static bool same_key(const char *a, const char *b)
{
	for (; *a && *b; a++, b++) {
		if ((*a == '-' ? '_' : *a) != (*b == '-' ? '_' : *b))
			return false;
	}
	return *a == *b;
}

struct mc_slot *mc_slot_find(const struct mc_config *config, const char *key)
{
	for (size_t i = 0; i < config->nr_slots; i++) {
		if (same_key(config->slots[i].key, key))
			return &config->slots[i];
	}
	return NULL;
}

const char *mc_slot_closest(const struct mc_config *config, const char *key)
{
	mc_cleanup(mc_freep) const char **words = calloc(config->nr_slots + 1, sizeof *words);

	for (size_t i = 0; words && i < config->nr_slots; i++)
		words[i] = config->slots[i].key;
	return words ? mc_closest(key, words) : NULL;
}

/* Parse and keep a text that is on the heap; it is taken over in any case. */
static int slot_take(struct mc_slot *s, const char *where, char *text, struct mc_error *err)
{
	struct mc_value value = {0};
	int r = 0;

	if (!text)
		return mc_fail(err, -ENOMEM, "%s: out of memory", where);
	if (s->core && s->core->normalize)
		r = s->core->normalize(&text, where, err);
	if (r == 0)
		r = mc_value_parse(s->option, where, text, &value, err);
	if (r < 0) {
		free(text);
		return r;
	}
	free(s->text);
	s->text = text;
	s->value = value;
	return 0;
}

int mc_slot_set(struct mc_config *config, struct mc_slot *slot, const struct mc_assignment *a,
		struct mc_error *err)
{
	struct mc_slot probe = *slot;
	char *detail = NULL;
	int r;

	probe.text = NULL;
	if (a->detail) {
		detail = strdup(a->detail);
		if (!detail)
			return mc_fail(err, -ENOMEM, "%s: out of memory", a->where);
	}
	r = slot_take(&probe, a->where, strdup(a->text), err);
	/* The environment of a host also speaks of plugins that this engine does not use. */
	if (r == -EINVAL && a->origin == MC_ORIGIN_ENV && !slot->core) {
		probe.text = strdup(a->text);
		probe.value = (struct mc_value){0}; /* read again, and refused, when the plugin is opened */
		r = probe.text ? 0 : -ENOMEM;
	}
	if (r < 0 || a->origin < slot->origin) {
		free(detail);
		free(probe.text);
		return r;
	}
	free(slot->text);
	free(slot->detail);
	slot->text = probe.text;
	slot->value = probe.value;
	slot->origin = a->origin;
	slot->detail = detail;
	refresh(config);
	return 0;
}

int mc_slot_add(struct mc_config *config, const char *key, const struct mc_option *option,
		const struct mc_key *core, struct mc_error *err)
{
	struct mc_slot *more = realloc(config->slots, (config->nr_slots + 1) * sizeof *more);
	struct mc_slot *s;
	char *text;

	if (!more)
		return mc_fail(err, -ENOMEM, "config: out of memory");
	config->slots = more;
	s = &more[config->nr_slots];
	*s = (struct mc_slot){.key = strdup(key), .option = option, .core = core};
	if (!s->key)
		return mc_fail(err, -ENOMEM, "config: out of memory");
	config->nr_slots++;
	/* An option that must be said has no value until then. */
	if (!option->def && !(core && core->host_default))
		return 0;
	text = core && core->host_default ? core->host_default() : strdup(option->def);
	return slot_take(s, key, text, err);
}

static int fill(struct mc_config *c, struct mc_error *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < mc_config_schema_nr; i++) {
		const struct mc_key *key = &mc_config_schema[i];

		r = mc_slot_add(c, key->option.name, &key->option, key, err);
	}
	if (r == 0)
		r = mc_config_add_plugins(c, err);
	if (r == 0)
		refresh(c);
	return r;
}

int mc_config_new_over(struct mc_registry *registry, struct mc_config **ret_config, struct mc_error *err)
{
	struct mc_config *c = calloc(1, sizeof *c);
	int r;

	if (!c)
		return mc_fail(err, -ENOMEM, "config: out of memory");
	c->registry = mc_registry_ref(registry);
	r = fill(c, err);
	if (r < 0) {
		mc_config_free(c);
		return r;
	}
	*ret_config = c;
	return 0;
}

int mc_config_new(struct mc_config **ret_config, struct mc_error *err)
{
	struct mc_registry *registry;
	int r;

	if (!ret_config)
		return mc_fail(err, -EINVAL, "config: ret_config may not be NULL");
	r = mc_registry_load(&registry, err);
	if (r < 0)
		return r;
	r = mc_config_new_over(registry, ret_config, err);
	mc_registry_free(registry);
	return r;
}

void mc_config_free(struct mc_config *config)
{
	if (!config)
		return;
	for (size_t i = 0; i < config->nr_slots; i++)
		slot_fini(&config->slots[i]);
	free(config->slots);
	mc_registry_free(config->registry);
	free(config);
}

static int clone_slot(struct mc_slot *to, const struct mc_slot *from)
{
	*to = *from;
	to->key = strdup(from->key);
	to->text = from->text ? strdup(from->text) : NULL;
	to->detail = from->detail ? strdup(from->detail) : NULL;
	if (!to->key || (from->text && !to->text) || (from->detail && !to->detail)) {
		slot_fini(to);
		return -ENOMEM;
	}
	if (from->option->type == MC_OPT_STRING)
		to->value.s = to->text;
	return 0;
}

int mc_config_clone(const struct mc_config *config, struct mc_config **ret_config)
{
	struct mc_config *c = calloc(1, sizeof *c);

	if (!c)
		return -ENOMEM;
	c->registry = mc_registry_ref(config->registry);
	c->slots = calloc(config->nr_slots, sizeof *c->slots);
	for (size_t i = 0; c->slots && i < config->nr_slots; i++) {
		if (clone_slot(&c->slots[i], &config->slots[i]) < 0)
			break;
		c->nr_slots++;
	}
	if (c->nr_slots < config->nr_slots) {
		mc_config_free(c);
		return -ENOMEM;
	}
	refresh(c);
	*ret_config = c;
	return 0;
}

int mc_config_set(struct mc_config *config, const char *key, const char *value, struct mc_error *err)
{
	struct mc_assignment a = {.where = key, .text = value, .origin = MC_ORIGIN_FLAG};
	struct mc_slot *s;
	const char *near;
	int r;

	if (!config || !key || !value)
		return mc_fail(err, -EINVAL, "config: config, key and value may not be NULL");
	s = mc_slot_find(config, key);
	if (!s) {
		r = mc_config_add_unchecked(config, key, &s, err);
		if (r < 0)
			return r;
	}
	if (s)
		return mc_slot_set(config, s, &a, err);
	near = mc_slot_closest(config, key);
	return mc_fail(err, -ENOENT, "unknown key '%.128s'%s%s%s", key, near ? " (did you mean '" : "",
		       near ? near : "",
		       near ? "'?)" : "; docs/config.md and transfer_engine_bench --helpfull list them all");
}

const char *mc_config_get(const struct mc_config *config, const char *key,
			  enum mc_origin *ret_origin)
{
	const struct mc_slot *s = config && key ? mc_slot_find(config, key) : NULL;

	if (!s)
		return NULL;
	if (ret_origin)
		*ret_origin = s->origin;
	return s->text ? s->text : "";
}

int mc_config_each(const struct mc_config *config,
		   int (*each)(void *ctx, const struct mc_config_key *key), void *ctx)
{
	if (!config || !each)
		return -EINVAL;
	for (size_t i = 0; i < config->nr_slots; i++) {
		const struct mc_slot *s = &config->slots[i];
		char range[256];
		struct mc_config_key key = {
			.size = sizeof key,
			.key = s->key,
			.type = mc_option_type_name(s->option->type),
			.def = s->option->def,
			.env = s->option->env,
			.doc = s->option->doc,
			.value = mc_slot_shown(s),
			.origin = s->origin,
			.origin_detail = s->detail,
			.reloadable = s->option->flags & MC_OPT_RELOADABLE,
			.range = range,
		};
		int r;

		mc_value_range(s->option, range, sizeof range);
		r = each(ctx, &key);
		if (r)
			return r;
	}
	return 0;
}

const struct mc_settings *mc_config_settings(const struct mc_config *config)
{
	return &config->settings;
}

struct mc_registry *mc_config_registry(const struct mc_config *config)
{
	return config->registry;
}

enum mc_origin mc_config_origin(const struct mc_config *config, const char *key)
{
	const struct mc_slot *s = mc_slot_find(config, key);

	return s ? s->origin : MC_ORIGIN_DEFAULT;
}
