/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mooncake inspect FILE.so: what a plugin says of itself, read as the loader
 * reads it: no operation of the plugin runs and no device is opened.  A file that
 * is no plugin is refused with the loader's sentence.
 */
#include <string.h>

#include "cli.h"
#include "core/manifest.h"
#include "core/util/check.h"
#include "core/util/cleanup.h"
#include "core/value.h"
#include "slots.h"

static const char *file_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* The name by which the loader looks for it, unless a manifest says another. */
static void usual_name(const struct mc_plugin_desc *d, char *buf, size_t cap)
{
	snprintf(buf, cap, "%s-%s.so", mc_plugin_kind_name(d->kind), d->name);
}

/* ---- for people ------------------------------------------------------------------------------- */

static void print_words(const char *what, const char *const *words)
{
	if (!words || !*words)
		return;
	printf("%-10s", what);
	for (; *words; words++)
		printf(" %s", *words);
	putchar('\n');
}

struct slot_list {
	bool want;
	const char *what;
	bool begun;
};

static void print_slot(void *ctx, const char *name, bool has)
{
	struct slot_list *l = ctx;

	if (has != l->want)
		return;
	if (!l->begun)
		printf("%-10s", l->what);
	l->begun = true;
	printf(" %s", name);
}

static void print_slots(const struct mc_plugin_desc *d, const char *what, bool want)
{
	struct slot_list l = {.want = want, .what = what};

	cli_slots(d, print_slot, &l);
	if (l.begun)
		putchar('\n');
}

static void print_options(const struct mc_plugin_desc *d)
{
	static const char *const heading[] = {"option", "type", "default", "takes", "variable", "meaning"};
	struct cli_table t = {0};
	const struct mc_option *o;

	if (!mc_option_at(d, 0)) {
		puts("options    none");
		return;
	}
	putchar('\n');
	cli_table_row(&t, MC_ARRAY_SIZE(heading), heading);
	for (size_t i = 0; (o = mc_option_at(d, i)); i++) {
		char range[256], doc[512];

		mc_value_range(o, range, sizeof range);
		snprintf(doc, sizeof doc, "%s%s%s", o->doc ? o->doc : "",
			 o->flags & MC_OPT_RELOADABLE ? " (reloadable)" : "",
			 o->flags & MC_OPT_REQUIRED ? " (the config must say it)" : "");
		cli_table_row(&t, MC_ARRAY_SIZE(heading),
			      (const char *const[]){o->name, mc_option_type_name(o->type), o->def, range, o->env, doc});
	}
	cli_table_print(&t);
}

static void print_text(const struct mc_plugin *p)
{
	const struct mc_plugin_desc *d = p->desc;
	char usual[64];

	printf("plugin     %s '%s'%s%s\n", mc_plugin_kind_name(d->kind), d->name, d->version ? ", version " : "",
	       d->version ? d->version : "");
	if (d->summary)
		printf("summary    %s\n", d->summary);
	printf("file       %s\n", p->path);
	usual_name(d, usual, sizeof usual);
	if (strcmp(usual, file_name(p->path)) != 0)
		printf("           without a manifest it would be looked for as %s\n", usual);
	printf("abi        %u.%u; this core speaks %d.%d\n", d->abi_major, d->abi_minor, MC_ABI_MAJOR, MC_ABI_MINOR);
	if (d->wire)
		printf("wire       %s %u..%u\n", d->wire, d->wire_min, d->wire_max);
	print_words("memory", d->memory);
	print_words("claims", d->claims);
	print_words("schemes", d->schemes);
	printf("flags      %s\n", d->flags & MC_PLUGIN_OPTIONAL ? "optional" : "none");
	print_slots(d, "operations", true);
	print_slots(d, "lacks", false);
	print_options(d);
}

/* ---- for programs ----------------------------------------------------------------------------- */

struct slot_json {
	struct mc_json_out *out;
	bool want;
};

static void put_slot(void *ctx, const char *name, bool has)
{
	struct slot_json *s = ctx;

	if (has == s->want)
		mc_json_out_str(s->out, name);
}

static void put_slots(struct mc_json_out *o, const struct mc_plugin_desc *d, const char *key, bool want)
{
	struct slot_json s = {.out = o, .want = want};

	cli_json_open(o, key, '[');
	cli_slots(d, put_slot, &s);
	mc_json_out_close(o);
}

static int print_json(const struct cli *cli, const struct mc_plugin *p, const char *manifest)
{
	struct mc_json_out *o = mc_json_out_new(true);
	const struct mc_plugin_desc *d = p->desc;
	struct mc_json *tree = NULL;
	char text[64];
	int code;

	mc_json_parse("manifest", manifest, strlen(manifest), &tree, NULL);
	mc_json_out_open(o, '{');
	cli_json_int(o, "schema", 1);
	cli_json_str(o, "file", p->path);
	snprintf(text, sizeof text, "%u.%u", d->abi_major, d->abi_minor);
	cli_json_str(o, "abi", text);
	snprintf(text, sizeof text, "%d.%d", MC_ABI_MAJOR, MC_ABI_MINOR);
	cli_json_str(o, "core_abi", text);
	usual_name(d, text, sizeof text);
	cli_json_str(o, "usual_file", text);
	put_slots(o, d, "operations", true);
	put_slots(o, d, "lacks", false);
	mc_json_out_key(o, "manifest");
	if (tree)
		mc_json_out_json(o, tree);
	mc_json_out_close(o);
	code = cli_json_print(cli, o);
	mc_json_free(tree);
	return code;
}

static int inspect(const struct cli *cli, const char *path, bool json, bool only_manifest)
{
	mc_cleanup(mc_freep) char *manifest = NULL;
	struct mc_plugin *p;
	struct mc_error err;
	int code = CLI_OK, held = cli_stdout_away(), r;

	r = mc_plugin_load_file(path, 0, NULL, &p, &err);
	cli_stdout_back(held);
	if (r < 0)
		return cli_error(cli, CLI_FAILED, "%s", err.text);
	if (cli_plugin_said(p->path))
		cli_error(cli, CLI_OK, "%s", cli_plugin_said(p->path));
	manifest = mc_manifest_write(p->desc, file_name(path));
	if (!manifest)
		code = cli_error(cli, CLI_FAILED, "%s: a string of its tables is not UTF-8", path);
	else if (json)
		code = print_json(cli, p, manifest);
	else if (only_manifest)
		fputs(manifest, stdout);
	else
		print_text(p);
	mc_plugin_unref(p);
	return code;
}

int cli_inspect(int argc, char **argv)
{
	bool json = false, manifest = false;
	const struct cli_option options[] = {
		{"json", CLI_FLAG, &json, NULL, "one JSON object, the manifest in it"},
		{"manifest", CLI_FLAG, &manifest, NULL, "only the manifest, ready for a file in plugins.d"},
		{0},
	};
	struct cli cli = {
		.verb = "inspect",
		.args = "FILE.so",
		.help = "What a plugin says of itself: name, kind, ABI, operations, options.  It is\n"
			"loaded, nothing of it is called, no device is opened.  A file that is no plugin\n"
			"is refused, and the sentence says why.\n"
			"  mooncake inspect ./transport-mine.so\n"
			"  mooncake inspect ./transport-mine.so --manifest > mine.json\n",
		.options = options,
		.min_args = 1,
		.max_args = 1,
	};
	int code = cli_parse(&cli, argc, argv);

	if (code < 0)
		code = inspect(&cli, cli.argv[0], json, manifest);
	cli_fini(&cli);
	return code;
}
