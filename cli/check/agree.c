/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cases that ask the core: whether its loader takes the file, and whether a
 * manifest says what the plugin's own tables say.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cases.h"
#include "core/loader.h"
#include "core/manifest.h"
#include "core/value.h"

/* What the loader refuses, the kit refuses, in the same words. */
int case_head(struct ctx *c)
{
	struct mc_plugin *p = NULL;
	struct mc_error err = {0};

	CHECK(mc_plugin_load_file(c->path, 0, NULL, &p, &err) == 0, "%s", err.text);
	c->told->kind = p->desc->kind;
	snprintf(c->told->name, sizeof c->told->name, "%s", p->desc->name);
	snprintf(c->told->version, sizeof c->told->version, "%s",
		 p->desc->version ? p->desc->version : "");
	mc_plugin_unref(p);
	return PASS;
}

int find_wanted(struct ctx *c)
{
	struct mc_registry *registry = NULL;
	struct mc_plugin *p = NULL;
	struct mc_error err = {0};

	CHECK(mc_registry_load(&registry, &err) == 0, "%s", err.text);
	CHECK(mc_plugin_load(registry, MC_KIND_TRANSPORT, c->wanted, &p, &err) == 0, "%s",
	      err.text);
	snprintf(c->told->path, sizeof c->told->path, "%s", p->path);
	mc_plugin_unref(p);
	mc_registry_free(registry);
	return PASS;
}

static bool same(const char *a, const char *b)
{
	return a && b ? strcmp(a, b) == 0 : a == b;
}

static bool same_list(char *const *manifest, const char *const *table)
{
	size_t i = 0;

	while (table && table[i] && manifest[i] && strcmp(manifest[i], table[i]) == 0)
		i++;
	return !manifest[i] && (!table || !table[i]);
}

static int same_option(struct ctx *c, const struct mc_option *m, const struct mc_option *o)
{
	const char *what = NULL;

	if (m->type != o->type)
		what = "type";
	else if (!same(m->def, o->def))
		what = "default";
	else if (m->min != o->min || m->max != o->max)
		what = "range";
	else if (m->flags != o->flags)
		what = "auto, reloadable, required or secret";
	else if (!same(m->env, o->env))
		what = "env";
	else if (!same(m->doc, o->doc))
		what = "doc";
	else if (o->type == MC_OPT_ENUM && !same_list((char *const *)m->choices, o->choices))
		what = "choices";
	CHECK(!what, "option '%s': %s differs between the manifest and the plugin", o->name, what);
	return PASS;
}

static int same_options(struct ctx *c, const struct mc_manifest *m, const struct mc_plugin_desc *d)
{
	const struct mc_option *o, *found;
	size_t nr = 0;

	if (!m->has_options)
		return PASS; /* nothing is claimed: what the plugin has is learned when it is loaded
			      */
	for (; (o = mc_option_at(d, nr)); nr++) {
		int r;

		for (found = m->options; found->name && strcmp(found->name, o->name) != 0; found++)
			;
		CHECK(found->name, "option '%s' of the plugin is not in the manifest", o->name);
		r = same_option(c, found, o);
		if (r != PASS)
			return r;
	}
	for (found = m->options; found->name; found++) {
		for (nr = 0; (o = mc_option_at(d, nr)) && strcmp(o->name, found->name) != 0; nr++)
			;
		CHECK(o, "option '%s' of the manifest is unknown to the plugin", found->name);
	}
	return PASS;
}

static int agrees(struct ctx *c, const struct mc_manifest *m, const struct mc_plugin_desc *d)
{
	const char *slash = strrchr(c->path, '/'), *file = slash ? slash + 1 : c->path;
	const char *library = strrchr(m->library, '/') ? strrchr(m->library, '/') + 1 : m->library;

	CHECK(same(m->name, d->name), "the manifest is of '%s', the plugin is '%s'", m->name,
	      d->name);
	CHECK(m->kind == d->kind, "the manifest is of a %s, the plugin is a %s",
	      mc_plugin_kind_name(m->kind), mc_plugin_kind_name(d->kind));
	CHECK(same(library, file), "the manifest's library is '%s', the file is '%s'", m->library,
	      file);
	CHECK(same(m->wire, d->wire), "the manifest's wire is '%s', the plugin's '%s'",
	      m->wire ? m->wire : "", d->wire ? d->wire : "");
	CHECK(!d->wire || (m->wire_min == d->wire_min && m->wire_max == d->wire_max),
	      "the manifest's wire is %u..%u, the plugin's %u..%u", m->wire_min, m->wire_max,
	      d->wire_min, d->wire_max);
	CHECK(same_list(m->memory, d->memory),
	      "memory differs between the manifest and the plugin");
	CHECK(same_list(m->claims, d->claims), "claims differ between the manifest and the plugin");
	CHECK(same_list(m->schemes, d->schemes),
	      "schemes differ between the manifest and the plugin");
	CHECK(m->optional == !!(d->flags & MC_PLUGIN_OPTIONAL),
	      "\"optional\" is %s in the manifest, not in the plugin",
	      m->optional ? "true" : "false");
	return same_options(c, m, d);
}

/* 16 MiB is what the core reads of any JSON file. */
static char *read_file(const char *path, size_t *ret_len)
{
	FILE *f = fopen(path, "re");
	char *text = f ? malloc(16 << 20) : NULL;

	if (text)
		*ret_len = fread(text, 1, 16 << 20, f);
	if (f)
		fclose(f);
	return text;
}

int case_manifest(struct ctx *c)
{
	struct mc_manifest m = {0};
	struct mc_plugin *p = NULL;
	struct mc_error err = {0};
	size_t len = 0;
	char *text;
	int r;

	if (!c->manifest)
		return skip(c, "no --manifest to compare with");
	if (mc_plugin_load_file(c->path, 0, NULL, &p, &err) < 0)
		return skip(c, "the file cannot be loaded");
	text = read_file(c->manifest, &len);
	CHECK(text, "manifest '%s': %s", c->manifest, strerror(errno));
	r = mc_manifest_parse(&m, c->manifest, text, len, &err);
	free(text);
	if (r < 0)
		r = fail(c, "%s", err.text);
	else
		r = agrees(c, &m, p->desc);
	mc_manifest_fini(&m);
	mc_plugin_unref(p);
	return r;
}
