/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The config file: an object of the schema's keys, and the sections
 * "transports", "metadata", "memory" and "filters" that hold an object of
 * options per plugin.  It is read into a copy of the config, so that a bad file
 * changes nothing.
 */
#include <errno.h>
#include <string.h>

#include "config_priv.h"
#include "json.h"
#include "manifest.h"
#include "util/cleanup.h"

#define KEY_LEN 256

struct file {
	struct mc_config *config;
	const char *path;
	struct mc_error *err;
	/* Told of each error, and reading goes on; NULL: the first ends it. */
	void (*bad)(void *ctx, const struct mc_error *why);
	void *ctx;
};

static int go_on(const struct file *f, int r)
{
	if (r >= 0 || !f->bad || r == -ENOMEM)
		return r;
	f->bad(f->ctx, f->err);
	return 0;
}

static int unknown(const struct file *f, const struct mc_json *v, const char *key)
{
	const char *near = mc_slot_closest(f->config, key);

	return mc_fail(f->err, -EINVAL, "%s:%u:%u: unknown key '%.128s'%s%s%s", f->path, v->line,
		       v->column, key, near ? " (did you mean '" : "", near ? near : "",
		       near ? "'?)" : "; docs/config.md lists them all");
}

/* What a member means as text; NULL if its type does not fit. */
static char *member_text(const struct mc_slot *s, const struct mc_json *v)
{
	bool words = s->option->type == MC_OPT_STRING || s->option->type == MC_OPT_ENUM;
	struct mc_json_out *o;

	if (v->type == MC_JSON_OBJECT &&
	    (strcmp(s->key, "nic_priority_matrix") == 0 || strcmp(s->key, "access") == 0)) {
		o = mc_json_out_new(false);
		mc_json_out_json(o, v);
		return mc_json_out_take(o);
	}
	if (v->type == MC_JSON_STRING || (words && v->type == MC_JSON_ARRAY) ||
	    (!words && v->type != MC_JSON_ARRAY))
		return mc_json_text(v);
	return NULL;
}

static int set_member(const struct file *f, const char *key, struct mc_slot *s,
		      const struct mc_json *v)
{
	mc_cleanup(mc_freep) char *text = member_text(s, v);
	char where[4096 + KEY_LEN], detail[4096];
	struct mc_assignment a = {.where = where, .text = text, .origin = MC_ORIGIN_FILE, .detail = detail};

	snprintf(detail, sizeof detail, "%s:%u:%u", f->path, v->line, v->column);
	snprintf(where, sizeof where, "%s: %s", detail, key);
	if (!text)
		return mc_fail(f->err, -EINVAL, "%s: it must be %s, not %s", where,
			       s->option->type == MC_OPT_STRING ? "a string" : "a single value",
			       mc_json_type_name(v->type));
	return mc_slot_set(f->config, s, &a, f->err);
}

static int read_member(const struct file *f, const char *key, const struct mc_json *v)
{
	struct mc_slot *s = mc_slot_find(f->config, key);
	int r;

	if (!s) {
		r = mc_config_add_unchecked(f->config, key, &s, f->err);
		if (r < 0)
			return r;
	}
	return s ? set_member(f, key, s, v) : unknown(f, v, key);
}

static int read_plugin(const struct file *f, const char *section, const struct mc_json *plugin)
{
	struct mc_error why;
	char key[KEY_LEN];
	int r;

	if (!mc_registry_find(f->config->registry, mc_config_section(section), plugin->key, &why))
		return mc_fail(f->err, -EINVAL, "%s:%u:%u: %s: %.700s", f->path, plugin->line,
			       plugin->column, section, why.text);
	if (plugin->type != MC_JSON_OBJECT)
		return mc_fail(f->err, -EINVAL, "%s:%u:%u: %s.%s: it must be an object of options, not %s",
			       f->path, plugin->line, plugin->column, section, plugin->key,
			       mc_json_type_name(plugin->type));
	for (size_t i = 0; i < plugin->list.nr; i++) {
		const struct mc_json *v = &plugin->list.items[i];

		snprintf(key, sizeof key, "%s.%s.%.128s", section, plugin->key, v->key);
		r = go_on(f, read_member(f, key, v));
		if (r < 0)
			return r;
	}
	return 0;
}

static int read_root(const struct file *f, const struct mc_json *root)
{
	int r = 0;

	if (root->type != MC_JSON_OBJECT)
		return mc_fail(f->err, -EINVAL, "%s:%u:%u: a config is an object, not %s", f->path,
			       root->line, root->column, mc_json_type_name(root->type));
	for (size_t i = 0; r == 0 && i < root->list.nr; i++) {
		const struct mc_json *v = &root->list.items[i];

		if (!mc_config_section(v->key)) {
			r = go_on(f, read_member(f, v->key, v));
			continue;
		}
		if (v->type != MC_JSON_OBJECT)
			r = go_on(f, mc_fail(f->err, -EINVAL, "%s:%u:%u: %s: it must be an object of plugins, not %s",
					     f->path, v->line, v->column, v->key, mc_json_type_name(v->type)));
		for (size_t j = 0; r == 0 && v->type == MC_JSON_OBJECT && j < v->list.nr; j++)
			r = go_on(f, read_plugin(f, v->key, &v->list.items[j]));
	}
	return r;
}

static int read_root_of(const char *path, struct mc_json **ret_root, struct mc_error *err)
{
	mc_cleanup(mc_freep) char *text = NULL;
	struct mc_error why = {0};
	size_t len;
	int r = mc_read_file(path, &text, &len, &why);

	if (r < 0)
		return mc_fail(err, r, "config: %.900s", why.text);
	return mc_json_parse(path, text, len, ret_root, err);
}

int mc_config_load_good(struct mc_config *config, const char *path,
			void (*bad)(void *ctx, const struct mc_error *why), void *ctx)
{
	struct mc_error err = {0};
	struct file f = {.config = config, .path = path, .err = &err, .bad = bad, .ctx = ctx};
	struct mc_json *root = NULL;
	int r = read_root_of(path, &root, &err);

	if (r == 0)
		r = read_root(&f, root);
	mc_json_free(root);
	if (r < 0)
		bad(ctx, &err);
	return r == -ENOMEM ? r : 0;
}

int mc_config_load(struct mc_config *config, const char *path, struct mc_error *err)
{
	struct file f = {.path = path, .err = err};
	struct mc_json *root = NULL;
	struct mc_config old;
	int r;

	if (!config || !path)
		return mc_fail(err, -EINVAL, "config: config and path may not be NULL");
	r = read_root_of(path, &root, err);
	if (r < 0)
		return r;
	r = mc_config_clone(config, &f.config);
	if (r < 0)
		mc_fail(err, r, "config '%s': out of memory", path);
	else
		r = read_root(&f, root);
	mc_json_free(root);
	if (r == 0) {
		old = *config;
		*config = *f.config;
		*f.config = old;
	}
	mc_config_free(f.config);
	return r;
}
