/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Options of plugins in the config: keys SECTION.PLUGIN.OPTION.  The manifests
 * say which there are; when a plugin is opened, its own table has the last word
 * (mc_config_plugin_values).
 */
#include <errno.h>
#include <string.h>

#include "config_priv.h"
#include "json.h"
#include "util/check.h"
#include "util/cleanup.h"
#include "value.h"

#define KEY_LEN 256

static const char *const sections[MC_KIND_COUNT] = {
	[MC_KIND_TRANSPORT] = "transports",
	[MC_KIND_METADATA] = "metadata",
	[MC_KIND_MEMORY] = "memory",
	[MC_KIND_FILTER] = "filters",
};

/* What the core reads of every transport, whatever the plugin. */
static const struct mc_option transport_options[] = {
	{.name = "lanes", .type = MC_OPT_INT, .def = "1", .min = 1, .max = 64,
	 .doc = "Workers per device."},
	{.name = "filters", .type = MC_OPT_STRING, .def = "",
	 .doc = "Filters over the transport, outermost first, with commas between."},
	{.name = "bandwidth", .type = MC_OPT_SIZE, .def = "0", .min = 0, .max = INT64_MAX,
	 .doc = "Nominal bytes per second of a device; 0: what the transport says."},
};

/* An option of a plugin whose manifest has no schema: checked when it is opened. */
static const struct mc_option unchecked = {
	.type = MC_OPT_STRING, .def = "", .doc = "Checked when the plugin is opened.",
};

uint32_t mc_config_section(const char *name)
{
	for (uint32_t k = 1; k < MC_KIND_COUNT; k++) {
		if (strcmp(sections[k], name) == 0)
			return k;
	}
	return 0;
}

static bool is_core_option(const char *section, const char *name)
{
	for (size_t i = 0; i < MC_ARRAY_SIZE(transport_options); i++) {
		if (strcmp(section, sections[MC_KIND_TRANSPORT]) == 0 &&
		    strcmp(transport_options[i].name, name) == 0)
			return true;
	}
	return false;
}

static int add_option(struct mc_config *config, const struct mc_manifest *m,
		      const struct mc_option *o, const char *value, struct mc_error *err)
{
	struct mc_assignment a = {.text = value, .origin = MC_ORIGIN_MANIFEST, .detail = m->path};
	char key[KEY_LEN];
	int r;

	snprintf(key, sizeof key, "%s.%s.%s", sections[m->kind], m->name, o->name);
	a.where = key;
	/* The core's own meaning of a name comes first. */
	if (!mc_slot_find(config, key)) {
		r = mc_slot_add(config, key, o, NULL, err);
		if (r < 0)
			return r;
	}
	return value ? mc_slot_set(config, mc_slot_find(config, key), &a, err) : 0;
}

/* A transport that lists an option of ours gives it a default of its own, within our bounds. */
static const struct mc_option *own_default(const struct mc_manifest *m, const struct mc_option *core)
{
	for (const struct mc_option *o = m->options; o->name; o++)
		if (!strcmp(o->name, core->name) && o->type == core->type && o->min >= core->min && o->max <= core->max)
			return o;
	return core;
}

int mc_config_add_plugins(struct mc_config *config, struct mc_error *err)
{
	int r = 0;

	for (size_t i = 0; i < mc_registry_nr(config->registry); i++) {
		const struct mc_manifest *m = mc_registry_at(config->registry, i);

		for (size_t j = 0; m->kind == MC_KIND_TRANSPORT && r == 0 &&
				   j < MC_ARRAY_SIZE(transport_options); j++)
			r = add_option(config, m, own_default(m, &transport_options[j]), NULL, err);
		for (size_t j = 0; r == 0 && m->options[j].name; j++)
			r = add_option(config, m, &m->options[j], m->values[j], err);
		if (r < 0)
			return r;
	}
	return 0;
}

int mc_config_add_unchecked(struct mc_config *config, const char *key, struct mc_slot **ret_slot,
			    struct mc_error *err)
{
	char section[KEY_LEN], *plugin, *option;
	const struct mc_manifest *m;
	uint32_t kind;
	int r;

	*ret_slot = NULL;
	if (strlen(key) >= sizeof section)
		return 0;
	strcpy(section, key);
	plugin = strchr(section, '.');
	option = plugin ? strchr(plugin + 1, '.') : NULL;
	if (!option || strlen(option + 1) == 0)
		return 0;
	*plugin++ = '\0';
	*option++ = '\0';
	kind = mc_config_section(section);
	m = kind ? mc_registry_find(config->registry, kind, plugin, NULL) : NULL;
	if (!m || m->has_options)
		return 0;
	r = mc_slot_add(config, key, &unchecked, NULL, err);
	if (r == 0)
		*ret_slot = &config->slots[config->nr_slots - 1];
	return r;
}

/* Options that the config sets and the plugin does not have. */
static int check_known(const struct mc_config *config, const char *prefix, const char *section,
		       const struct mc_plugin_desc *desc, struct mc_error *err)
{
	size_t len = strlen(prefix), nr = 0;
	const struct mc_option *o;

	while (mc_option_at(desc, nr))
		nr++;
	for (size_t i = 0; i < config->nr_slots; i++) {
		const struct mc_slot *s = &config->slots[i];
		mc_cleanup(mc_freep) const char **words = NULL;
		const char *near;
		size_t j = 0;

		if (s->origin == MC_ORIGIN_DEFAULT || strncmp(s->key, prefix, len) != 0 ||
		    is_core_option(section, s->key + len))
			continue;
		while ((o = mc_option_at(desc, j)) && strcmp(o->name, s->key + len) != 0)
			j++;
		if (o)
			continue;
		words = calloc(nr + 1, sizeof *words);
		for (j = 0; words && j < nr; j++)
			words[j] = mc_option_at(desc, j)->name;
		near = words ? mc_closest(s->key + len, words) : NULL;
		return mc_fail(err, -EINVAL, "%s: the plugin has no option '%.64s'%s%s%s", s->key,
			       s->key + len, near ? " (did you mean '" : "", near ? near : "",
			       near ? "'?)" : "");
	}
	return 0;
}

/* The text of an option and who said it. */
static const char *option_text(const struct mc_config *config, const char *prefix,
			       const struct mc_option *o, enum mc_origin *ret_origin)
{
	const struct mc_slot *s;
	char key[KEY_LEN];

	snprintf(key, sizeof key, "%s%s", prefix, o->name);
	s = mc_slot_find(config, key);
	*ret_origin = s ? s->origin : MC_ORIGIN_DEFAULT;
	return *ret_origin == MC_ORIGIN_DEFAULT ? o->def : s->text;
}

/* As the user has written it. */
static void say_where(const struct mc_config *config, const char *prefix, const struct mc_option *o, char *where,
		      size_t cap)
{
	const struct mc_slot *slot;

	snprintf(where, cap, "%s%s", prefix, o->name);
	slot = mc_slot_find(config, where);
	if (slot && slot->origin == MC_ORIGIN_ENV && slot->detail)
		snprintf(where, cap, "%s", slot->detail);
}

int mc_config_plugin_values(const struct mc_config *config, const char *kind, const char *name,
			    const struct mc_plugin_desc *desc, struct mc_value **ret_values,
			    struct mc_error *err)
{
	mc_cleanup(mc_freep) struct mc_value *values = NULL;
	char prefix[KEY_LEN], where[KEY_LEN];
	const struct mc_option *o;
	enum mc_origin origin;
	size_t nr, bytes = 0;
	const char *text;
	char *strings;
	int r;

	snprintf(prefix, sizeof prefix, "%s.%s.", kind, name);
	r = check_known(config, prefix, kind, desc, err);
	if (r < 0)
		return r;
	for (nr = 0; (o = mc_option_at(desc, nr)); nr++) {
		text = option_text(config, prefix, o, &origin);
		if (!text)
			return mc_fail(err, -EINVAL, "%s%s: the plugin needs it; set it in the config",
				       prefix, o->name);
		bytes += strlen(text) + 1;
	}
	/* The strings lie behind the array, so that one free is enough. */
	values = calloc(1, (nr + 1) * sizeof *values + bytes);
	if (!values)
		return mc_fail(err, -ENOMEM, "%soptions: out of memory", prefix);
	strings = (char *)&values[nr + 1];
	for (size_t i = 0; i < nr; i++) {
		o = mc_option_at(desc, i);
		text = strcpy(strings, option_text(config, prefix, o, &origin));
		strings += strlen(text) + 1;
		say_where(config, prefix, o, where, sizeof where);
		r = mc_value_parse(o, where, text, &values[i], err);
		if (r < 0)
			return r;
		values[i].set = origin;
	}
	*ret_values = mc_steal(values);
	return 0;
}

void mc_values_free(struct mc_value *values)
{
	free(values);
}

void mc_config_transport(const struct mc_config *config, const char *name,
			 struct mc_transport_settings *ret)
{
	struct mc_value values[MC_ARRAY_SIZE(transport_options)];
	char key[KEY_LEN];

	for (size_t i = 0; i < MC_ARRAY_SIZE(values); i++) {
		const struct mc_option *o = &transport_options[i];
		const struct mc_slot *s;

		snprintf(key, sizeof key, "transports.%s.%s", name, o->name);
		s = mc_slot_find(config, key);
		/* Both cannot fail: the slot was checked, the default is ours. */
		if (s)
			values[i] = s->value;
		else
			mc_value_parse(o, key, o->def, &values[i], NULL);
	}
	*ret = (struct mc_transport_settings){
		.lanes = values[0].i, .filters = values[1].s, .bandwidth = values[2].i};
}
