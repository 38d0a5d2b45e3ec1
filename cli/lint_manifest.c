/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Manifests against the plugins that they describe: is the file there, does the
 * loader take it, and does it say of itself what the manifest says.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/manifest.h"
#include "core/value.h"
#include "lint.h"

static bool manifest_has(const struct mc_manifest *m, const char *option)
{
	for (const struct mc_option *o = m->options; o->name; o++) {
		if (strcmp(o->name, option) == 0)
			return true;
	}
	return false;
}

static bool plugin_has(const struct mc_plugin_desc *d, const char *option)
{
	const struct mc_option *o;

	for (size_t i = 0; (o = mc_option_at(d, i)); i++) {
		if (strcmp(o->name, option) == 0)
			return true;
	}
	return false;
}

#define MEND "; write it anew: mooncake inspect %s --manifest"

static void compare(struct lint *lint, const struct mc_manifest *m, const struct mc_plugin *p)
{
	const struct mc_plugin_desc *d = p->desc;
	const struct mc_option *o;

	if (m->kind == MC_KIND_TRANSPORT &&
	    (strcmp(m->wire, d->wire) != 0 || m->wire_min != d->wire_min || m->wire_max != d->wire_max))
		lint_add(lint, LINT_WARNING, "manifest-differs",
			 "manifest '%s': wire %s %u..%u, but the plugin speaks %s %u..%u" MEND, m->path, m->wire,
			 m->wire_min, m->wire_max, d->wire, d->wire_min, d->wire_max, p->path);
	for (o = m->options; m->has_options && o->name; o++)
		if (!plugin_has(d, o->name))
			lint_add(lint, LINT_WARNING, "manifest-differs",
				 "manifest '%s': option '%s': the plugin has none of this name" MEND, m->path, o->name,
				 p->path);
	for (size_t i = 0; m->has_options && (o = mc_option_at(d, i)); i++)
		if (!manifest_has(m, o->name))
			lint_add(lint, LINT_WARNING, "manifest-differs",
				 "manifest '%s': the plugin's option '%s' is missing, so no config can set it" MEND, m->path,
				 o->name, p->path);
}

/* What the config needs of these is judged where it needs it; here a plugin that is not there is no more
 * than a warning. */
static void look(struct lint *lint, const struct mc_manifest *m, int status, struct mc_plugin *p,
		 const struct mc_error *why)
{
	if (status == 0)
		compare(lint, m, p);
	else if (!m->optional && !lint_said(lint, why->text))
		lint_add(lint, LINT_WARNING, "plugin-unusable", "%s", why->text);
}

void lint_manifests(struct lint *lint)
{
	for (size_t i = 0; i < mc_registry_nr(lint->registry); i++) {
		const struct mc_manifest *m = mc_registry_at(lint->registry, i);
		struct mc_plugin *p = NULL;
		struct mc_error why;
		int r = mc_plugin_load(lint->registry, m->kind, m->name, &p, &why);

		look(lint, m, r, p, &why);
		mc_plugin_unref(p);
	}
}

/* One that begins what another of the registry, of the same file name, ends is laid over it. */
static const struct mc_manifest *under(const struct lint *lint, const char *path)
{
	const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;

	for (size_t i = 0; i < mc_registry_nr(lint->registry); i++) {
		const struct mc_manifest *m = mc_registry_at(lint->registry, i);
		const char *slash = strrchr(m->path, '/');

		if (strcmp(slash ? slash + 1 : m->path, name) == 0)
			return m;
	}
	return NULL;
}

static int parse(struct lint *lint, const char *path, const char *text, size_t len, bool whole,
		 struct mc_manifest *m, struct mc_error *err)
{
	const struct mc_manifest *below = whole ? NULL : under(lint, path);
	char *base = NULL;
	size_t base_len;
	int r = 0;

	if (!whole && !below)
		return mc_fail(err, -ENOENT,
			       "manifest '%s': there is no \"library\", so it is laid over one of the same file name; no "
			       "such is installed", path);
	if (below) {
		r = mc_read_file(below->path, &base, &base_len, err);
		if (r == 0)
			r = mc_manifest_parse(m, below->path, base, base_len, err);
		free(base);
	}
	return r < 0 ? r : mc_manifest_parse(m, path, text, len, err);
}

static int load_file(const struct mc_manifest *m, struct mc_plugin **ret, struct mc_error *err)
{
	if (*m->library == '/')
		return mc_plugin_load_file(m->library, m->kind, m->name, ret, err);
	return mc_plugin_load(NULL, m->kind, m->name, ret, err);
}

void lint_manifest_file(struct lint *lint, const char *path, const char *text, size_t len)
{
	struct mc_manifest m = {0};
	struct mc_plugin *p = NULL;
	struct mc_json *root = NULL;
	struct mc_error err = {0};
	bool whole;
	int r = mc_json_parse(path, text, len, &root, &err);

	if (r == 0) {
		whole = mc_json_get(root, "library");
		mc_json_free(root);
		r = parse(lint, path, text, len, whole, &m, &err);
	}
	if (r < 0) {
		lint_add(lint, LINT_ERROR, "manifest-broken", "%s", err.text);
	} else {
		r = load_file(&m, &p, &err);
		look(lint, &m, r, p, &err);
		mc_plugin_unref(p);
	}
	mc_manifest_fini(&m);
}
