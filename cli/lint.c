/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mooncake lint: a configuration, matrices and manifests against the schema and
 * against this host.  An engine stops at the first thing that is wrong; here
 * everything is read as far as it goes, by the functions that an engine uses,
 * and each thing is told.  No engine, device or service is opened.
 */
#include "lint.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "core/discover.h"
#include "core/util/check.h"
#include "core/util/cleanup.h"

void lint_add(struct lint *lint, enum lint_level level, const char *code, const char *fmt, ...)
{
	struct lint_finding *more = reallocarray(lint->findings, lint->nr_findings + 1, sizeof *more);
	va_list ap;

	if (!more)
		abort();
	lint->findings = more;
	more += lint->nr_findings++;
	more->level = level;
	more->code = code;
	va_start(ap, fmt);
	if (vasprintf(&more->text, fmt, ap) < 0)
		abort();
	va_end(ap);
	lint->nr[level]++;
}

bool lint_said(const struct lint *lint, const char *text)
{
	for (size_t i = 0; i < lint->nr_findings; i++) {
		if (strstr(lint->findings[i].text, text))
			return true;
	}
	return false;
}

static void lint_fini(struct lint *lint)
{
	for (size_t i = 0; i < lint->nr_findings; i++)
		free(lint->findings[i].text);
	for (size_t i = 0; i < lint->nr_unusable; i++)
		free(lint->unusable[i]);
	free(lint->unusable);
	free(lint->rails);
	free(lint->findings);
	mc_config_free(lint->config);
	mc_registry_free(lint->registry);
}

/* ---- reading ---------------------------------------------------------------------------------- */

enum file_kind { FILE_BAD, FILE_CONFIG, FILE_MATRIX, FILE_MANIFEST };

/* What a file is meant to be, by its members. */
static enum file_kind kind_of(const struct mc_json *root)
{
	static const char *const manifest[] = {"library", "kind", "claims", "wire", "schemes", "options", "optional"};

	if (root->type != MC_JSON_OBJECT)
		return FILE_MATRIX; /* its own sentence says more */
	for (size_t i = 0; i < MC_ARRAY_SIZE(manifest); i++) {
		if (mc_json_get(root, manifest[i]))
			return FILE_MANIFEST;
	}
	for (size_t i = 0; i < root->list.nr; i++) {
		const struct mc_json *v = &root->list.items[i];

		/* A location; or tiers, which are arrays in an array, while an address list has strings. */
		if (strchr(v->key, ':') || strcmp(v->key, "*") == 0 ||
		    (v->type == MC_JSON_ARRAY && v->list.nr && v->list.items[0].type == MC_JSON_ARRAY))
			return FILE_MATRIX;
	}
	return FILE_CONFIG;
}

static void bad_manifest(void *ctx, const char *path, const struct mc_error *why)
{
	(void)path; /* the sentence begins with it */
	lint_add(ctx, LINT_ERROR, "manifest-broken", "%s", why->text);
}

static void bad_member(void *ctx, const struct mc_error *why)
{
	lint_add(ctx, LINT_ERROR, "config", "%s", why->text);
}

/* The core warns of variables that it does not know. */
static void warned(void *ctx, enum mc_log_level level, const char *line)
{
	if (level <= MC_LOG_WARN)
		lint_add(ctx, LINT_WARNING, "environment", "%s", line);
}

/* A variable that is wrong is told and taken away, so that the others are read, too. */
static void read_environment(struct lint *lint)
{
	struct mc_error why;

	mc_log_set_handler(warned, lint);
	while (mc_config_env(lint->config, &why) < 0) {
		char name[128];
		size_t len = strcspn(why.text, ":");

		lint_add(lint, LINT_ERROR, "environment", "%s", why.text);
		snprintf(name, sizeof name, "%.*s", (int)MC_MIN(len, sizeof name - 1), why.text);
		if (!getenv(name))
			break;
		unsetenv(name);
	}
	mc_log_set_handler(NULL, NULL);
}

struct file {
	const char *path;
	char *text;
	size_t len;
	enum file_kind kind;
};

static void file_read(struct lint *lint, const char *path, struct file *f)
{
	struct mc_json *root = NULL;
	struct mc_error why;

	f->path = path;
	f->kind = FILE_BAD;
	if (mc_read_file(path, &f->text, &f->len, &why) < 0 ||
	    mc_json_parse(path, f->text, f->len, &root, &why) < 0) {
		lint_add(lint, LINT_ERROR, "file", "%s", why.text);
		return;
	}
	f->kind = kind_of(root);
	mc_json_free(root);
}

/* 0; or an exit code, with the error told. */
static int read_all(const struct cli *cli, struct lint *lint, struct file *files)
{
	struct mc_error err;
	int code;

	if (mc_registry_load_good(&lint->registry, bad_manifest, lint, &err) < 0 ||
	    mc_config_new_over(lint->registry, &lint->config, &err) < 0)
		return cli_error(cli, CLI_FAILED, "%s", err.text);
	for (size_t i = 0; i < cli->nr_files; i++)
		mc_config_load_good(lint->config, cli->files[i], bad_member, lint);
	for (int i = 0; i < cli->nr_args; i++) {
		file_read(lint, cli->argv[i], &files[i]);
		if (files[i].kind == FILE_CONFIG)
			mc_config_load_good(lint->config, files[i].path, bad_member, lint);
	}
	read_environment(lint);
	code = cli_apply_keys(cli, lint->config);
	return code < 0 ? CLI_OK : code;
}

/* ---- looking ---------------------------------------------------------------------------------- */

static void look_discovered(struct lint *lint)
{
	mc_cleanup(mc_freep) char *text = NULL;
	struct mc_error why;

	if (mc_discover_matrix(lint->registry, &text, &why) < 0)
		lint_add(lint, LINT_ERROR, "discovery", "%s", why.text);
	else
		lint_matrix(lint, text, false);
}

static void printed(void *ctx, const char *sentence)
{
	lint_add(ctx, LINT_WARNING, "plugin-prints", "%s", sentence);
}

static void look(const struct cli *cli, struct lint *lint, const struct file *files)
{
	const char *matrix = mc_config_settings(lint->config)->nic_priority_matrix;

	lint_config(lint);
	for (int i = 0; i < cli->nr_args; i++) {
		if (files[i].kind == FILE_MATRIX)
			lint_matrix(lint, files[i].path, true);
	}
	if (*matrix)
		lint_matrix(lint, matrix, true);
	else if (!cli->nr_args) /* files are asked about, not what an engine would find */
		look_discovered(lint);
	lint_manifests(lint);
	for (int i = 0; i < cli->nr_args; i++) {
		if (files[i].kind == FILE_MANIFEST)
			lint_manifest_file(lint, files[i].path, files[i].text, files[i].len);
	}
}

/* ---- telling ---------------------------------------------------------------------------------- */

static const char *const level_names[] = {"error", "warning"};
static const char *const origins[MC_ORIGIN_COUNT] = {"default", "manifest", "file", "environment", "flag"};

static int show_key(void *ctx, const struct mc_config_key *key)
{
	char origin[512];

	snprintf(origin, sizeof origin, "%s%s%s", origins[key->origin], key->origin_detail ? " " : "",
		 key->origin_detail ? key->origin_detail : "");
	cli_table_row(ctx, 3, (const char *const[]){key->key, origin, key->value});
	return 0;
}

static void print_rails(const struct lint *lint)
{
	static const char *const heading[] = {"from", "to", "tier", "local", "remote", "wire"};
	struct cli_table t = {0};

	cli_table_row(&t, MC_ARRAY_SIZE(heading), heading);
	for (size_t i = 0; i < lint->nr_rails; i++) {
		const struct lint_rail *r = &lint->rails[i];
		char tier[24];

		snprintf(tier, sizeof tier, "%zu", r->tier + 1);
		cli_table_row(&t, MC_ARRAY_SIZE(heading),
			      (const char *const[]){r->from, r->to, tier, r->local, r->remote, r->wire});
	}
	cli_table_print(&t);
}

static void print_text(const struct lint *lint, bool show)
{
	if (show) {
		struct cli_table t = {0};

		cli_table_row(&t, 3, (const char *const[]){"key", "from", "value"});
		mc_config_each(lint->config, show_key, &t);
		cli_table_print(&t);
	}
	if (lint->nr_rails)
		print_rails(lint);
	for (size_t i = 0; i < lint->nr_findings; i++) {
		const struct lint_finding *f = &lint->findings[i];

		cli_line("%s [%s]: %s", level_names[f->level], f->code, f->text);
	}
	printf("%zu error%s, %zu warning%s; looked at %zu manifest%s, %zu row%s, %zu device%s\n", lint->nr[LINT_ERROR],
	       lint->nr[LINT_ERROR] == 1 ? "" : "s", lint->nr[LINT_WARNING], lint->nr[LINT_WARNING] == 1 ? "" : "s",
	       mc_registry_nr(lint->registry), mc_registry_nr(lint->registry) == 1 ? "" : "s", lint->nr_rows,
	       lint->nr_rows == 1 ? "" : "s", lint->nr_devices, lint->nr_devices == 1 ? "" : "s");
}

static int put_key(void *ctx, const struct mc_config_key *key)
{
	struct mc_json_out *o = ctx;

	mc_json_out_open(o, '{');
	cli_json_str(o, "key", key->key);
	cli_json_str(o, "value", key->value);
	cli_json_str(o, "origin", origins[key->origin]);
	cli_json_str(o, "detail", key->origin_detail);
	cli_json_bool(o, "reloadable", key->reloadable);
	mc_json_out_close(o);
	return 0;
}

static void put_rail(struct mc_json_out *o, const struct lint_rail *r)
{
	mc_json_out_open(o, '{');
	cli_json_str(o, "from", r->from);
	cli_json_str(o, "to", r->to);
	cli_json_int(o, "tier", (int64_t)r->tier + 1);
	cli_json_str(o, "local", r->local);
	cli_json_str(o, "remote", r->remote);
	cli_json_str(o, "wire", r->wire);
	mc_json_out_close(o);
}

static int print_json(const struct cli *cli, const struct lint *lint, bool show, bool peer)
{
	struct mc_json_out *o = mc_json_out_new(true);

	mc_json_out_open(o, '{');
	cli_json_int(o, "schema", 1);
	cli_json_int(o, "errors", (int64_t)lint->nr[LINT_ERROR]);
	cli_json_int(o, "warnings", (int64_t)lint->nr[LINT_WARNING]);
	cli_json_open(o, "findings", '[');
	for (size_t i = 0; i < lint->nr_findings; i++) {
		mc_json_out_open(o, '{');
		cli_json_str(o, "level", level_names[lint->findings[i].level]);
		cli_json_str(o, "code", lint->findings[i].code);
		cli_json_str(o, "text", lint->findings[i].text);
		mc_json_out_close(o);
	}
	mc_json_out_close(o);
	if (peer) {
		cli_json_open(o, "rails", '[');
		for (size_t i = 0; i < lint->nr_rails; i++)
			put_rail(o, &lint->rails[i]);
		mc_json_out_close(o);
	}
	if (show) {
		cli_json_open(o, "config", '[');
		mc_config_each(lint->config, put_key, o);
		mc_json_out_close(o);
	}
	mc_json_out_close(o);
	return cli_json_print(cli, o);
}

struct asked {
	bool json, strict, show;
	const char *peer; /* NULL: none */
	uint64_t timeout_ns;
};

static int lint(const struct cli *cli, const struct asked *asked)
{
	struct file *files = calloc((size_t)cli->nr_args + 1, sizeof *files);
	struct lint l = {0};
	int code;

	if (!files)
		return cli_error(cli, CLI_FAILED, "out of memory");
	code = read_all(cli, &l, files);
	if (code == CLI_OK) {
		int held = cli_stdout_away();

		look(cli, &l, files);
		if (asked->peer)
			lint_peer(&l, asked->peer, asked->timeout_ns);
		cli_plugins_said(printed, &l);
		cli_stdout_back(held);
		if (asked->json)
			code = print_json(cli, &l, asked->show, asked->peer);
		else
			print_text(&l, asked->show);
		if (l.nr[LINT_ERROR] || (asked->strict && l.nr[LINT_WARNING]))
			code = CLI_FAILED;
	}
	for (int i = 0; i < cli->nr_args; i++)
		free(files[i].text);
	free(files);
	lint_fini(&l);
	return code;
}

int cli_lint(int argc, char **argv)
{
	struct asked asked = {.timeout_ns = 5 * MC_SEC};
	const struct cli_option options[] = {
		{"json", CLI_FLAG, &asked.json, NULL, "one JSON object"},
		{"show", CLI_FLAG, &asked.show, NULL, "each effective value, and where it comes from"},
		{"strict", CLI_FLAG, &asked.strict, NULL, "warnings are failures, too"},
		{"peer", CLI_TEXT, &asked.peer, "SEGMENT", "the rails that would exist, by that engine's record"},
		{"timeout", CLI_SECONDS, &asked.timeout_ns, "SPAN", "for the metadata service; default 5s"},
		{0},
	};
	struct cli cli = {
		.verb = "lint",
		.args = "[FILE...]",
		.help = "Is a configuration right, and right for this host?  FILEs are configs, matrices\n"
			"and manifests; installed manifests, MC_* variables and flags are always looked\n"
			"at, without a FILE also the matrix that discovery would write.  Opens no device.\n"
			"Exit 1: there is an error.\n"
			"  mooncake lint mooncake.json nics.json\n"
			"  mooncake lint --show --nic_priority_matrix='{\"*\": [[\"tcp:eth0\"]]}'\n",
		.options = options,
		.with = CLI_CONFIG_LATER,
		.max_args = -1,
	};
	int code = cli_parse(&cli, argc, argv);

	if (code < 0)
		code = lint(&cli, &asked);
	cli_fini(&cli);
	return code;
}
