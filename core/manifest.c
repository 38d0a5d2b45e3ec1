/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Manifests: what a plugin is, without loading it.  They are generated from the
 * plugin's own tables (mc_manifest_write); an admin's manifest may change some
 * of it.  A manifest is text from outside: every member is checked, an unknown
 * one is refused.
 */
#include <errno.h>
#include <string.h>

#include "manifest.h"
#include "util/check.h"
#include "util/cleanup.h"
#include "value.h"

/* Where a check stands, for its sentences. */
struct place {
	const char *file;
	struct mc_error *err;
};

static const char *const kind_names[] = {"", "transport", "metadata", "memory", "filter", NULL};

const char *mc_plugin_kind_name(uint32_t kind)
{
	return kind > 0 && kind < MC_KIND_COUNT ? kind_names[kind] : NULL;
}

bool mc_plugin_name_ok(const char *name)
{
	size_t len = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-");

	return len > 0 && len <= MC_PLUGIN_NAME_MAX && !name[len];
}

static void strings_free(char **strings)
{
	for (char **s = strings; s && *s; s++)
		free(*s);
	free(strings);
}

static void options_free(struct mc_option *options, char **values)
{
	size_t i = 0;

	for (struct mc_option *o = options; o && o->name; o++, i++) {
		free((char *)o->name);
		free((char *)o->def);
		free((char *)o->env);
		free((char *)o->doc);
		strings_free((char **)o->choices);
		if (values)
			free(values[i]);
	}
	free(options);
	free(values);
}

void mc_manifest_fini(struct mc_manifest *m)
{
	free(m->path);
	free(m->name);
	free(m->library);
	free(m->wire);
	free(m->summary);
	strings_free(m->memory);
	strings_free(m->claims);
	strings_free(m->schemes);
	options_free(m->options, m->values);
	*m = (struct mc_manifest){0};
}

static int no_memory(const struct place *at)
{
	return mc_fail(at->err, -ENOMEM, "manifest '%s': out of memory", at->file);
}

static int wrong_type(const struct place *at, const struct mc_json *v, const char *want)
{
	return mc_fail(at->err, -EINVAL, "%s:%u:%u: '%.64s' must be %s, not %s", at->file, v->line,
		       v->column, v->key ? v->key : "?", want, mc_json_type_name(v->type));
}

static int check_known(const struct place *at, const struct mc_json *object,
		       const char *const *known)
{
	for (size_t i = 0; i < object->list.nr; i++) {
		const struct mc_json *v = &object->list.items[i];
		const char *const *k = known;
		const char *near;

		while (*k && strcmp(*k, v->key) != 0)
			k++;
		if (*k)
			continue;
		near = mc_closest(v->key, known);
		return mc_fail(at->err, -EINVAL, "%s:%u:%u: unknown key '%.64s'%s%s%s", at->file,
			       v->line, v->column, v->key, near ? " (did you mean '" : "",
			       near ? near : "", near ? "'?)" : "");
	}
	return 0;
}

/* The readers below leave *field as it is if the key is absent. */
static int read_string(const struct place *at, const struct mc_json *object, const char *key,
		       char **field)
{
	const struct mc_json *v = mc_json_get(object, key);
	char *copy;

	if (!v)
		return 0;
	if (v->type != MC_JSON_STRING)
		return wrong_type(at, v, "a string");
	copy = strdup(v->s);
	if (!copy)
		return no_memory(at);
	free(*field);
	*field = copy;
	return 0;
}

static int read_bool(const struct place *at, const struct mc_json *object, const char *key,
		     bool *field)
{
	const struct mc_json *v = mc_json_get(object, key);

	if (!v)
		return 0;
	if (v->type != MC_JSON_BOOL)
		return wrong_type(at, v, "true or false");
	*field = v->b;
	return 0;
}

static int read_int(const struct place *at, const struct mc_json *object, const char *key,
		    int64_t min, int64_t max, int64_t *field)
{
	const struct mc_json *v = mc_json_get(object, key);

	if (!v)
		return 0;
	if (v->type != MC_JSON_INT)
		return wrong_type(at, v, "a whole number");
	if (v->i < min || v->i > max)
		return mc_fail(at->err, -EINVAL, "%s:%u:%u: %s: %lld is out of range %lld..%lld",
			       at->file, v->line, v->column, key, (long long)v->i, (long long)min,
			       (long long)max);
	*field = v->i;
	return 0;
}

static int read_strings(const struct place *at, const struct mc_json *object, const char *key,
			char ***field)
{
	const struct mc_json *v = mc_json_get(object, key);
	char **copy;

	if (!v && *field)
		return 0;
	if (v && v->type != MC_JSON_ARRAY)
		return wrong_type(at, v, "an array of strings");
	copy = calloc((v ? v->list.nr : 0) + 1, sizeof *copy);
	if (!copy)
		return no_memory(at);
	for (size_t i = 0; v && i < v->list.nr; i++) {
		const struct mc_json *item = &v->list.items[i];

		if (item->type != MC_JSON_STRING || !*item->s) {
			strings_free(copy);
			return mc_fail(at->err, -EINVAL, "%s:%u:%u: %s[%zu] must be a string that is not empty",
				       at->file, item->line, item->column, key, i);
		}
		copy[i] = strdup(item->s);
		if (!copy[i]) {
			strings_free(copy);
			return no_memory(at);
		}
	}
	strings_free(*field);
	*field = copy;
	return 0;
}

static int read_text(const struct place *at, const struct mc_json *object, const char *key,
		     char **field)
{
	const struct mc_json *v = mc_json_get(object, key);

	if (!v)
		return 0;
	if (v->type == MC_JSON_ARRAY || v->type == MC_JSON_OBJECT || v->type == MC_JSON_NULL)
		return wrong_type(at, v, "a value");
	*field = mc_json_text(v);
	return *field ? 0 : no_memory(at);
}

static int read_flag(const struct place *at, const struct mc_json *object, const char *key,
		     uint32_t flag, uint32_t *flags)
{
	bool set = false;
	int r = read_bool(at, object, key, &set);

	if (set)
		*flags |= flag;
	return r;
}

static int check_option(const struct place *at, const struct mc_json *v, const struct mc_option *o,
			const char *value)
{
	struct mc_value parsed;
	char where[512];
	int r = 0;

	snprintf(where, sizeof where, "%s:%u:%u: options.%s", at->file, v->line, v->column, o->name);
	if (o->type == MC_OPT_ENUM && (!o->choices || !o->choices[0]))
		return mc_fail(at->err, -EINVAL, "%s: an enum needs choices", where);
	if (!o->def && !(o->flags & MC_OPT_REQUIRED))
		return mc_fail(at->err, -EINVAL, "%s: it needs a default, or \"required\": true", where);
	if (o->env && strncmp(o->env, "MC_", 3) != 0)
		return mc_fail(at->err, -EINVAL, "%s: the variable '%.64s' does not begin with MC_", where,
			       o->env);
	if (o->def)
		r = mc_value_parse(o, where, o->def, &parsed, at->err);
	if (r == 0 && value)
		r = mc_value_parse(o, where, value, &parsed, at->err);
	return r;
}

/* One option with its schema.  o and *value are zeroed and belong to the manifest already. */
static int read_schema(const struct place *at, const struct mc_json *v, struct mc_option *o,
		       char **value)
{
	static const char *const known[] = {"type", "default", "value", "min", "max", "auto",
					    "reloadable", "required", "secret", "choices", "env", "doc", NULL};
	const char *type = mc_json_str(v, "type", "");
	int r;

	o->type = mc_option_type_parse(type);
	if (!o->type)
		return mc_fail(at->err, -EINVAL,
			       "%s:%u:%u: options.%.64s: type '%.32s' is not one of bool, int, size, duration, float, string, enum",
			       at->file, v->line, v->column, v->key, type);
	if ((r = check_known(at, v, known)) < 0 ||
	    (r = read_text(at, v, "default", (char **)&o->def)) < 0 ||
	    (r = read_text(at, v, "value", value)) < 0 ||
	    (r = read_int(at, v, "min", INT64_MIN, INT64_MAX, &o->min)) < 0 ||
	    (r = read_int(at, v, "max", INT64_MIN, INT64_MAX, &o->max)) < 0 ||
	    (r = read_flag(at, v, "auto", MC_OPT_AUTO, &o->flags)) < 0 ||
	    (r = read_flag(at, v, "reloadable", MC_OPT_RELOADABLE, &o->flags)) < 0 ||
	    (r = read_flag(at, v, "required", MC_OPT_REQUIRED, &o->flags)) < 0 ||
	    (r = read_flag(at, v, "secret", MC_OPT_SECRET, &o->flags)) < 0 ||
	    (r = read_string(at, v, "env", (char **)&o->env)) < 0 ||
	    (r = read_string(at, v, "doc", (char **)&o->doc)) < 0)
		return r;
	if (o->type == MC_OPT_ENUM && (r = read_strings(at, v, "choices", (char ***)&o->choices)) < 0)
		return r;
	return check_option(at, v, o, *value);
}

/* "lanes": 4 in a manifest that is laid over another. */
static int read_value(const struct place *at, const struct mc_json *v, struct mc_manifest *m)
{
	char *text;
	int r;

	for (size_t i = 0; m->options[i].name; i++) {
		if (strcmp(m->options[i].name, v->key) != 0)
			continue;
		text = mc_json_text(v);
		if (!text)
			return wrong_type(at, v, "a value");
		r = check_option(at, v, &m->options[i], text);
		if (r < 0) {
			free(text);
			return r;
		}
		free(m->values[i]);
		m->values[i] = text;
		return 0;
	}
	return mc_fail(at->err, -EINVAL,
		       "%s:%u:%u: options.%.64s: a bare value needs an option of that name in the manifest below; say its type",
		       at->file, v->line, v->column, v->key);
}

static bool has_option(const struct mc_manifest *m, const char *name)
{
	for (const struct mc_option *o = m->options; o->name; o++) {
		if (strcmp(o->name, name) == 0)
			return true;
	}
	return false;
}

static int read_options(const struct place *at, const struct mc_json *root, struct mc_manifest *m)
{
	const struct mc_json *list = mc_json_get(root, "options");
	size_t nr = 0, nr_new = list && list->type == MC_JSON_OBJECT ? list->list.nr : 0;
	struct mc_option *options;
	char **values;
	int r;

	if (list && list->type != MC_JSON_OBJECT)
		return wrong_type(at, list, "an object");
	while (m->options && m->options[nr].name)
		nr++;
	options = realloc(m->options, (nr + nr_new + 1) * sizeof *options);
	if (!options)
		return no_memory(at);
	m->options = options;
	memset(options + nr, 0, (nr_new + 1) * sizeof *options);
	values = realloc(m->values, (nr + nr_new + 1) * sizeof *values);
	if (!values)
		return no_memory(at);
	m->values = values;
	memset(values + nr, 0, (nr_new + 1) * sizeof *values);
	m->has_options = m->has_options || list;
	for (size_t i = 0; i < nr_new; i++) {
		const struct mc_json *v = &list->list.items[i];
		size_t len = strspn(v->key, "abcdefghijklmnopqrstuvwxyz0123456789_");

		if (v->type != MC_JSON_OBJECT) {
			r = read_value(at, v, m);
		} else if (!len || v->key[len] || len > 63) {
			r = mc_fail(at->err, -EINVAL, "%s:%u:%u: option name '%.64s' is not [a-z0-9_]+",
				    at->file, v->line, v->column, v->key);
		} else if (has_option(m, v->key)) {
			r = mc_fail(at->err, -EINVAL,
				    "%s:%u:%u: options.%s: the manifest below describes it already; give the bare value",
				    at->file, v->line, v->column, v->key);
		} else {
			options[nr].name = strdup(v->key);
			if (!options[nr].name)
				return no_memory(at);
			nr++;
			r = read_schema(at, v, &options[nr - 1], &values[nr - 1]);
		}
		if (r < 0)
			return r;
	}
	return 0;
}

static int read_kind(const struct place *at, const struct mc_json *root, struct mc_manifest *m)
{
	const struct mc_json *v = mc_json_get(root, "kind");
	const char *near;

	if (!v)
		return 0;
	if (v->type != MC_JSON_STRING)
		return wrong_type(at, v, "a string");
	for (uint32_t k = 1; k < MC_KIND_COUNT; k++) {
		if (strcmp(v->s, kind_names[k]) == 0) {
			m->kind = k;
			return 0;
		}
	}
	near = mc_closest(v->s, kind_names + 1);
	return mc_fail(at->err, -EINVAL,
		       "%s:%u:%u: kind '%.32s' is not one of transport, metadata, memory, filter%s%s%s",
		       at->file, v->line, v->column, v->s, near ? " (did you mean '" : "",
		       near ? near : "", near ? "'?)" : "");
}

static int check_whole(const struct place *at, const struct mc_manifest *m)
{
	const char *missing = !m->name ? "name" : !m->kind ? "kind" : !m->library ? "library" : NULL;

	if (missing)
		return mc_fail(at->err, -EINVAL, "manifest '%s': there is no \"%s\"", at->file, missing);
	if (!mc_plugin_name_ok(m->name))
		return mc_fail(at->err, -EINVAL, "manifest '%s': name '%.64s' is not [a-z0-9-]+ of at most %d bytes",
			       at->file, m->name, MC_PLUGIN_NAME_MAX);
	if (!*m->library || (strchr(m->library, '/') && *m->library != '/'))
		return mc_fail(at->err, -EINVAL,
			       "manifest '%s': library '%.128s' is neither a file name nor an absolute path",
			       at->file, m->library);
	if (m->kind == MC_KIND_TRANSPORT && !m->wire)
		return mc_fail(at->err, -EINVAL, "manifest '%s': a transport needs a \"wire\"", at->file);
	if (m->wire_min > m->wire_max)
		return mc_fail(at->err, -EINVAL, "manifest '%s': wire_min %u is above wire_max %u", at->file,
			       m->wire_min, m->wire_max);
	return 0;
}

static int read_manifest(const struct place *at, const struct mc_json *root, struct mc_manifest *m)
{
	static const char *const known[] = {"name", "kind", "library", "wire", "wire_min", "wire_max",
					    "memory", "claims", "schemes", "optional", "options",
					    "summary", "version", NULL};
	int64_t wire_min = m->name ? m->wire_min : 1, wire_max = m->name ? m->wire_max : 1;
	int r;

	if (root->type != MC_JSON_OBJECT)
		return mc_fail(at->err, -EINVAL, "%s:%u:%u: a manifest is an object, not %s", at->file,
			       root->line, root->column, mc_json_type_name(root->type));
	if ((r = check_known(at, root, known)) < 0 ||
	    (r = read_string(at, root, "name", &m->name)) < 0 || (r = read_kind(at, root, m)) < 0 ||
	    (r = read_string(at, root, "library", &m->library)) < 0 ||
	    (r = read_string(at, root, "wire", &m->wire)) < 0 ||
	    (r = read_int(at, root, "wire_min", 0, UINT16_MAX, &wire_min)) < 0 ||
	    (r = read_int(at, root, "wire_max", 0, UINT16_MAX, &wire_max)) < 0 ||
	    (r = read_strings(at, root, "memory", &m->memory)) < 0 ||
	    (r = read_strings(at, root, "claims", &m->claims)) < 0 ||
	    (r = read_strings(at, root, "schemes", &m->schemes)) < 0 ||
	    (r = read_bool(at, root, "optional", &m->optional)) < 0 ||
	    (r = read_string(at, root, "summary", &m->summary)) < 0 ||
	    (r = read_options(at, root, m)) < 0)
		return r;
	m->wire_min = (uint16_t)wire_min;
	m->wire_max = (uint16_t)wire_max;
	return check_whole(at, m);
}

int mc_manifest_parse(struct mc_manifest *m, const char *path, const char *text, size_t len,
		      struct mc_error *err)
{
	struct place at = {.file = path, .err = err};
	struct mc_json *root;
	int r = mc_json_parse(path, text, len, &root, err);

	if (r < 0)
		return r;
	r = read_manifest(&at, root, m);
	mc_json_free(root);
	if (r < 0)
		return r;
	free(m->path);
	m->path = strdup(path);
	return m->path ? 0 : no_memory(&at);
}

/* ---- writing ----------------------------------------------------------------------------------- */

static void put_string(struct mc_json_out *o, const char *key, const char *s)
{
	if (!s)
		return;
	mc_json_out_key(o, key);
	mc_json_out_str(o, s);
}

static void put_strings(struct mc_json_out *o, const char *key, const char *const *s)
{
	if (!s)
		return;
	mc_json_out_key(o, key);
	mc_json_out_open(o, '[');
	for (; *s; s++)
		mc_json_out_str(o, *s);
	mc_json_out_close(o);
}

static void put_flag(struct mc_json_out *o, const char *key, bool set)
{
	if (!set)
		return;
	mc_json_out_key(o, key);
	mc_json_out_bool(o, true);
}

static void put_option(struct mc_json_out *o, const struct mc_option *option)
{
	mc_json_out_key(o, option->name);
	mc_json_out_open(o, '{');
	put_string(o, "type", mc_option_type_name(option->type));
	put_string(o, "default", option->def);
	if (option->min || option->max) {
		mc_json_out_key(o, "min");
		mc_json_out_int(o, option->min);
		mc_json_out_key(o, "max");
		mc_json_out_int(o, option->max);
	}
	put_flag(o, "auto", option->flags & MC_OPT_AUTO);
	put_flag(o, "reloadable", option->flags & MC_OPT_RELOADABLE);
	put_flag(o, "required", option->flags & MC_OPT_REQUIRED);
	put_flag(o, "secret", option->flags & MC_OPT_SECRET);
	put_strings(o, "choices", option->choices);
	put_string(o, "env", option->env);
	put_string(o, "doc", option->doc);
	mc_json_out_close(o);
}

char *mc_manifest_write(const struct mc_plugin_desc *desc, const char *library)
{
	struct mc_json_out *o = mc_json_out_new(true);
	const struct mc_option *option;

	mc_json_out_open(o, '{');
	put_string(o, "name", desc->name);
	put_string(o, "kind", mc_plugin_kind_name(desc->kind));
	put_string(o, "library", library);
	put_string(o, "version", desc->version);
	put_string(o, "summary", desc->summary);
	if (desc->wire) {
		put_string(o, "wire", desc->wire);
		mc_json_out_key(o, "wire_min");
		mc_json_out_int(o, desc->wire_min);
		mc_json_out_key(o, "wire_max");
		mc_json_out_int(o, desc->wire_max);
	}
	put_strings(o, "memory", desc->memory);
	put_strings(o, "claims", desc->claims);
	put_strings(o, "schemes", desc->schemes);
	if (desc->flags & MC_PLUGIN_OPTIONAL) {
		mc_json_out_key(o, "optional");
		mc_json_out_bool(o, true);
	}
	mc_json_out_key(o, "options");
	mc_json_out_open(o, '{');
	for (size_t i = 0; (option = mc_option_at(desc, i)); i++)
		put_option(o, option);
	mc_json_out_close(o);
	mc_json_out_close(o);
	return mc_json_out_take(o);
}
