/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mooncake plugins: every plugin that a manifest describes, whether its file is
 * there and the loader takes it, and if not, why; manifests that are broken;
 * files that no manifest describes; what the build left out.  No device is opened.
 */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "core/config.h"
#include "core/loader.h"
#include "core/manifest.h"
#include "core/util/check.h"
#include "core/util/cleanup.h"
#include "not_built.h"

struct bad {
	char *path;
	struct mc_error why;
};

struct orphan {
	char *path;
	char kind[16], name[MC_PLUGIN_NAME_MAX + 1];
};

struct plugin {
	const struct mc_manifest *m;
	char *path;          /* of its file; NULL: it cannot be loaded */
	int status;          /* 0; -ENOENT: no file; else refused */
	struct mc_error why;
	size_t nr_options;
};

struct look {
	struct mc_registry *registry;
	struct mc_config *config;
	struct plugin *plugins;
	size_t nr_plugins;
	struct bad *bad;
	size_t nr_bad;
	struct orphan *orphans;
	size_t nr_orphans;
};

static const char *const sections[MC_KIND_COUNT] = {
	[MC_KIND_TRANSPORT] = "transports",
	[MC_KIND_METADATA] = "metadata",
	[MC_KIND_MEMORY] = "memory",
	[MC_KIND_FILTER] = "filters",
};

/* ---- looking ---------------------------------------------------------------------------------- */

static void found_bad(void *ctx, const char *path, const struct mc_error *why)
{
	struct look *l = ctx;
	struct bad *more = reallocarray(l->bad, l->nr_bad + 1, sizeof *more);

	if (!more)
		abort();
	l->bad = more;
	more[l->nr_bad].path = strdup(path);
	more[l->nr_bad].why = *why;
	l->nr_bad++;
}

/* "transport-NAME.so" of a kind; false: it is something else. */
static bool is_plugin_file(const char *file, struct orphan *ret)
{
	size_t len = strlen(file);

	for (uint32_t k = 1; k < MC_KIND_COUNT; k++) {
		const char *kind = mc_plugin_kind_name(k);
		size_t n = strlen(kind);

		if (len < n + 5 || strncmp(file, kind, n) != 0 || file[n] != '-' ||
		    strcmp(file + len - 3, ".so") != 0 || len - n - 4 > MC_PLUGIN_NAME_MAX)
			continue;
		snprintf(ret->kind, sizeof ret->kind, "%s", kind);
		snprintf(ret->name, sizeof ret->name, "%.*s", (int)(len - n - 4), file + n + 1);
		return mc_plugin_name_ok(ret->name);
	}
	return false;
}

static bool is_described(const struct look *l, const char *path, const char *file)
{
	mc_cleanup(mc_freep) char *real = realpath(path, NULL);

	for (size_t i = 0; i < l->nr_plugins; i++) {
		const struct plugin *p = &l->plugins[i];

		if (strcmp(p->m->library, file) == 0 || (real && p->path && strcmp(p->path, real) == 0))
			return true;
	}
	for (size_t i = 0; i < l->nr_orphans; i++) {
		if (strcmp(strrchr(l->orphans[i].path, '/') + 1, file) == 0)
			return true; /* an earlier folder hides this one */
	}
	return false;
}

static int look_folder(void *ctx, const char *folder)
{
	struct look *l = ctx;
	DIR *dir = opendir(folder);
	struct dirent *e;

	while (dir && (e = readdir(dir))) {
		struct orphan one = {0}, *more;
		char path[PATH_MAX];

		if (!is_plugin_file(e->d_name, &one) ||
		    snprintf(path, sizeof path, "%s/%s", folder, e->d_name) >= (int)sizeof path ||
		    is_described(l, path, e->d_name))
			continue;
		one.path = strdup(path);
		more = reallocarray(l->orphans, l->nr_orphans + 1, sizeof *more);
		if (!more || !one.path)
			abort();
		l->orphans = more;
		more[l->nr_orphans++] = one;
	}
	if (dir)
		closedir(dir);
	return 0;
}

static void option_prefix(const struct mc_manifest *m, char *buf, size_t cap)
{
	snprintf(buf, cap, "%s.%s.", sections[m->kind], m->name);
}

struct count {
	char prefix[MC_PLUGIN_NAME_MAX + 16];
	size_t nr;
	struct mc_json_out *out; /* NULL: only count */
	bool print;
};

static int count_key(void *ctx, const struct mc_config_key *key)
{
	struct count *c = ctx;

	if (strncmp(key->key, c->prefix, strlen(c->prefix)) != 0)
		return 0;
	c->nr++;
	if (c->out)
		mc_json_out_str(c->out, key->key);
	if (c->print)
		cli_line("  %-40s %s%s%s, now '%s': %s", key->key, key->type, *key->range ? " " : "", key->range,
			 key->value, key->doc ? key->doc : "");
	return 0;
}

/* Not loaded twice: the loader keeps a list of what is loaded. */
static void look_plugin(struct look *l, const struct mc_manifest *m)
{
	struct plugin *p = &l->plugins[l->nr_plugins++];
	struct count c = {.nr = 0};
	struct mc_plugin *loaded;

	p->m = m;
	p->status = mc_plugin_load(l->registry, m->kind, m->name, &loaded, &p->why);
	if (p->status == 0) {
		p->path = strdup(loaded->path);
		mc_plugin_unref(loaded);
	}
	option_prefix(m, c.prefix, sizeof c.prefix);
	mc_config_each(l->config, count_key, &c);
	p->nr_options = c.nr;
}

static int by_kind_and_name(const void *a, const void *b)
{
	const struct mc_manifest *x = ((const struct plugin *)a)->m, *y = ((const struct plugin *)b)->m;

	return x->kind != y->kind ? (x->kind > y->kind ? 1 : -1) : strcmp(x->name, y->name);
}

static int look(struct look *l, struct mc_error *err)
{
	size_t nr;
	int r = mc_registry_load_good(&l->registry, found_bad, l, err);

	if (r == 0)
		r = mc_config_new_over(l->registry, &l->config, err);
	if (r < 0)
		return r;
	nr = mc_registry_nr(l->registry);
	l->plugins = calloc(nr + 1, sizeof *l->plugins);
	if (!l->plugins)
		return mc_fail(err, -ENOMEM, "out of memory");
	for (size_t i = 0; i < nr; i++)
		look_plugin(l, mc_registry_at(l->registry, i));
	qsort(l->plugins, l->nr_plugins, sizeof *l->plugins, by_kind_and_name);
	return mc_plugin_folders(look_folder, l);
}

static void look_fini(struct look *l)
{
	for (size_t i = 0; i < l->nr_plugins; i++)
		free(l->plugins[i].path);
	for (size_t i = 0; i < l->nr_bad; i++)
		free(l->bad[i].path);
	for (size_t i = 0; i < l->nr_orphans; i++)
		free(l->orphans[i].path);
	free(l->plugins);
	free(l->bad);
	free(l->orphans);
	mc_config_free(l->config);
	mc_registry_free(l->registry);
}

/* ---- telling ---------------------------------------------------------------------------------- */

const char *cli_not_built(const char *kind, const char *name)
{
	for (const struct not_built *n = not_built; n->name; n++) {
		if (strcmp(n->kind, kind) == 0 && strcmp(n->name, name) == 0)
			return n->why;
	}
	return NULL;
}

/* A manifest may describe one of another build. */
static bool is_absent(const struct look *l, const struct not_built *n)
{
	for (size_t i = 0; i < l->nr_plugins; i++) {
		const struct mc_manifest *m = l->plugins[i].m;

		if (strcmp(mc_plugin_kind_name(m->kind), n->kind) == 0 && strcmp(m->name, n->name) == 0)
			return false;
	}
	return true;
}

static const char *state(const struct plugin *p)
{
	return p->status == 0 ? "ok" : p->status == -ENOENT ? "missing" : "refused";
}

/* What it printed when it was loaded. */
static const char *said(const struct plugin *p)
{
	return p->path ? cli_plugin_said(p->path) : NULL;
}

static bool wrong(const struct plugin *p)
{
	return p->status < 0 && !p->m->optional;
}

static void join(char *const *words, const char *suffix, char *buf, size_t cap)
{
	size_t at = 0;

	buf[0] = '\0';
	for (; *words && at < cap; words++)
		at += (size_t)snprintf(buf + at, cap - at, "%s%s%s", at ? " " : "", *words, suffix);
}

static void print_text(const struct look *l, bool options)
{
	static const char *const heading[] = {"kind", "name", "state", "claims", "memory", "optional", "options"};
	struct cli_table t = {0};

	cli_table_row(&t, MC_ARRAY_SIZE(heading), heading);
	for (size_t i = 0; i < l->nr_plugins; i++) {
		const struct plugin *p = &l->plugins[i];
		char claims[256], memory[128], nr[24];

		if (p->m->kind == MC_KIND_METADATA)
			join(p->m->schemes, "://", claims, sizeof claims);
		else
			join(p->m->claims, "", claims, sizeof claims);
		join(p->m->memory, "", memory, sizeof memory);
		snprintf(nr, sizeof nr, "%zu", p->nr_options);
		cli_table_row(&t, MC_ARRAY_SIZE(heading),
			      (const char *const[]){mc_plugin_kind_name(p->m->kind), p->m->name, state(p), claims, memory,
						    p->m->optional ? "yes" : "no", nr});
	}
	cli_table_print(&t);
	for (size_t i = 0; i < l->nr_plugins; i++)
		if (l->plugins[i].status < 0)
			cli_line("%s: %s", l->plugins[i].m->optional ? "note" : "error", l->plugins[i].why.text);
	for (size_t i = 0; i < l->nr_plugins; i++)
		if (said(&l->plugins[i]))
			cli_line("note: %s", said(&l->plugins[i]));
	for (size_t i = 0; i < l->nr_bad; i++)
		cli_line("error: %s", l->bad[i].why.text);
	for (size_t i = 0; i < l->nr_orphans; i++)
		cli_line("note: %s: no manifest describes it, so nothing uses it: mooncake inspect %s --manifest writes one",
			 l->orphans[i].path, l->orphans[i].path);
	for (const struct not_built *n = not_built; n->name; n++)
		if (is_absent(l, n))
			cli_line("note: %s '%s' was not built: %s", n->kind, n->name, n->why);
	for (size_t i = 0; options && i < l->nr_plugins; i++) {
		struct count c = {.print = true};

		option_prefix(l->plugins[i].m, c.prefix, sizeof c.prefix);
		cli_line("%s '%s', %s:", mc_plugin_kind_name(l->plugins[i].m->kind), l->plugins[i].m->name,
			 l->plugins[i].path ? l->plugins[i].path : l->plugins[i].m->library);
		mc_config_each(l->config, count_key, &c);
	}
}

static void put_words(struct mc_json_out *o, const char *key, char *const *words)
{
	cli_json_open(o, key, '[');
	for (; *words; words++)
		mc_json_out_str(o, *words);
	mc_json_out_close(o);
}

static void put_plugin(struct mc_json_out *o, const struct look *l, const struct plugin *p)
{
	struct count c = {.out = o};

	mc_json_out_open(o, '{');
	cli_json_str(o, "kind", mc_plugin_kind_name(p->m->kind));
	cli_json_str(o, "name", p->m->name);
	cli_json_str(o, "state", state(p));
	cli_json_str(o, "why", p->status < 0 ? p->why.text : NULL);
	cli_json_str(o, "note", said(p));
	cli_json_str(o, "library", p->m->library);
	cli_json_str(o, "file", p->path);
	cli_json_str(o, "manifest", p->m->path);
	cli_json_bool(o, "optional", p->m->optional);
	cli_json_str(o, "wire", p->m->wire);
	put_words(o, "memory", p->m->memory);
	put_words(o, "claims", p->m->claims);
	put_words(o, "schemes", p->m->schemes);
	cli_json_open(o, "options", '[');
	option_prefix(p->m, c.prefix, sizeof c.prefix);
	mc_config_each(l->config, count_key, &c);
	mc_json_out_close(o);
	mc_json_out_close(o);
}

static int print_json(const struct cli *cli, const struct look *l)
{
	struct mc_json_out *o = mc_json_out_new(true);

	mc_json_out_open(o, '{');
	cli_json_int(o, "schema", 1);
	cli_json_open(o, "plugins", '[');
	for (size_t i = 0; i < l->nr_plugins; i++)
		put_plugin(o, l, &l->plugins[i]);
	mc_json_out_close(o);
	cli_json_open(o, "bad_manifests", '[');
	for (size_t i = 0; i < l->nr_bad; i++) {
		mc_json_out_open(o, '{');
		cli_json_str(o, "manifest", l->bad[i].path);
		cli_json_str(o, "why", l->bad[i].why.text);
		mc_json_out_close(o);
	}
	mc_json_out_close(o);
	cli_json_open(o, "without_manifest", '[');
	for (size_t i = 0; i < l->nr_orphans; i++) {
		mc_json_out_open(o, '{');
		cli_json_str(o, "kind", l->orphans[i].kind);
		cli_json_str(o, "name", l->orphans[i].name);
		cli_json_str(o, "file", l->orphans[i].path);
		mc_json_out_close(o);
	}
	mc_json_out_close(o);
	cli_json_open(o, "not_built", '[');
	for (const struct not_built *n = not_built; n->name; n++) {
		if (!is_absent(l, n))
			continue;
		mc_json_out_open(o, '{');
		cli_json_str(o, "kind", n->kind);
		cli_json_str(o, "name", n->name);
		cli_json_str(o, "why", n->why);
		mc_json_out_close(o);
	}
	mc_json_out_close(o);
	mc_json_out_close(o);
	return cli_json_print(cli, o);
}

static int plugins(const struct cli *cli, bool json, bool options)
{
	struct look l = {0};
	struct mc_error err = {0};
	int code = CLI_OK, held = cli_stdout_away(), r;

	r = look(&l, &err);
	cli_stdout_back(held);
	if (r < 0)
		code = cli_error(cli, CLI_FAILED, "%s", err.text);
	else if (json)
		code = print_json(cli, &l);
	else
		print_text(&l, options);
	for (size_t i = 0; i < l.nr_plugins; i++)
		code = MC_MAX(code, wrong(&l.plugins[i]) ? CLI_FAILED : CLI_OK);
	if (l.nr_bad)
		code = CLI_FAILED;
	look_fini(&l);
	return code;
}

int cli_plugins(int argc, char **argv)
{
	bool json = false, keys = false;
	const struct cli_option options[] = {
		{"json", CLI_FLAG, &json, NULL, "one JSON object"},
		{"options", CLI_FLAG, &keys, NULL, "the file and the config keys of each plugin, too"},
		{0},
	};
	struct cli cli = {
		.verb = "plugins",
		.args = "",
		.help = "Every plugin that a manifest describes: is its file there, would it be taken,\n"
			"and if not, why.  Broken manifests, files without one.  No device is opened.\n"
			"Exit 1: a manifest is broken, or a plugin that is not optional cannot be used.\n"
			"  mooncake plugins --options\n",
		.options = options,
	};
	int code = cli_parse(&cli, argc, argv);

	if (code < 0)
		code = plugins(&cli, json, keys);
	cli_fini(&cli);
	return code;
}
