/* SPDX-License-Identifier: Apache-2.0 */
/* The command line of check-plugin. */
#include "check.h"
#include "core/json.h"
#include "core/util/check.h"

#include <stdlib.h>
#include <string.h>

static const char usage_text[] =
	"  mooncake check-plugin FILE.so [--device=NAME] [--FLAG=VALUE...]\n"
	"Checks a plugin against docs/plugin-abi.md, each check in a process of its own.\n"
	"  --device=NAME         to open; default: the first that the plugin finds; the\n"
	"                        URL of the service for a metadata plugin\n"
	"  --level=NAME          the last to run: loads (what loading it does), lives (it\n"
	"                        opens and closes), moves (bytes, keys), behaves (when\n"
	"                        all goes wrong), performs (a bench); default: performs\n"
	"  --case=NAME, --list   one check alone; what checks there are\n"
	"  --option=KEY=VALUE    of the plugin; may be repeated, as the next three lines\n"
	"  --memory=FILE.so      a memory plugin whose kind takes part\n"
	"  --filter=FILE.so, --filter-option=K=V   a filter over the transport\n"
	"  --over=FILE.so, --over-option=K=V       filters: the transport to put it over\n"
	"  --no-data             the transport moves nothing by design\n"
	"  --ttl=SECONDS         metadata: of leases that shall end; default 2\n"
	"  --manifest=FILE       compare the manifest with the plugin's tables\n"
	"  --timeout=SECONDS     of each check; default 100\n"
	"  --strict              a skipped check is a failure\n"
	"  --json[=FILE], --junit=FILE   the report for programs\n"
	"Example:\n"
	"  mooncake check-plugin ./transport-mine.so --device=mine0 --junit=report.xml\n"
	"Exit: 0 no check failed, 1 one did, 2 usage.\n";

static int usage(const char *what, const char *arg)
{
	fprintf(stderr, "mooncake check-plugin: %s%s%s%s; --help says more\n", what, arg ? " '" : "", arg ? arg : "",
		arg ? "'" : "");
	return 2;
}

static int set_level(struct check *k, const char *value)
{
	for (int i = 0; i < NR_LEVELS; i++) {
		if (strcmp(level_names[i], value) == 0) {
			k->last = (enum level)i;
			return 0;
		}
	}
	return usage("the levels are loads, lives, moves, behaves, performs; there is no", value);
}

static int set_case(struct check *k, const char *value)
{
	k->only = value;
	if (strcmp(value, "bench") == 0)
		return 0;
	for (const struct case_list *l = case_lists; l->cases; l++)
		for (const struct test_case *t = l->cases; t->run; t++)
			if (strcmp(t->name, value) == 0)
				return 0;
	return usage("no check has the name", value);
}

static int set_timeout(struct check *k, const char *value)
{
	char *end;
	unsigned long n = strtoul(value, &end, 10);

	if (end == value || *end || n < 1 || n > 86400)
		return usage("--timeout is 1 to 86400 seconds, not", value);
	k->seconds = (unsigned)n;
	return 0;
}

static int set_ttl(struct check *k, const char *value)
{
	char *end;
	double seconds = strtod(value, &end);

	if (end == value || *end || !(seconds >= 0.1 && seconds <= 3600))
		return usage("--ttl is 0.1 to 3600 seconds, not", value);
	k->c.ttl_ns = (uint64_t)(seconds * 1e9);
	return 0;
}

static int set_filter_option(struct ctx *c, const char *value)
{
	struct filter *f = c->nr_filters ? &c->filters[c->nr_filters - 1] : NULL;

	if (!f)
		return usage("--filter-option comes after its --filter", NULL);
	if (f->nr_words == MC_ARRAY_SIZE(f->words))
		return usage("too many of --filter-option", NULL);
	f->words[f->nr_words++] = value;
	return 0;
}

static int set_repeated(struct check *k, const char *name, const char *value)
{
	struct ctx *c = &k->c;

	if (!strcmp(name, "option") &&
	    c->nr_words + 1 < MC_ARRAY_SIZE(c->words)) /* one is for the cases */
		c->words[c->nr_words++] = value;
	else if (!strcmp(name, "memory") && c->nr_memories < MC_ARRAY_SIZE(c->memory_paths))
		c->memory_paths[c->nr_memories++] = value;
	else if (!strcmp(name, "filter") && c->nr_filters + 1 < MC_ARRAY_SIZE(c->filters)) /* one is for --over */
		c->filters[c->nr_filters++].path = value;
	else if (!strcmp(name, "over-option") && k->nr_over_words < MC_ARRAY_SIZE(k->over_words))
		k->over_words[k->nr_over_words++] = value;
	else
		return usage("too many of", name);
	return 0;
}

static const char *const names[] = {
	/* With a value. */
	"device", "manifest", "level", "case", "option", "memory", "filter", "timeout", "filter-option", "junit", "ttl",
	"over", "over-option",
	/* Without one. */
	"json", "strict", "no-data", "list", "help", NULL};
#define NR_VALUED 13

static bool takes_value(const char *name)
{
	for (size_t i = 0; i < NR_VALUED; i++)
		if (!strcmp(names[i], name))
			return true;
	return false;
}

static int unknown(const char *name)
{
	const char *near = mc_closest(name, names);

	fprintf(stderr, "mooncake check-plugin: flag --%s is not known%s%s%s\n", name, near ? " (did you mean --" : "",
		near ? near : "", near ? "?)" : "; --help lists them");
	return 2;
}

static int set_value(struct check *k, const char *name, const char *value)
{
	if (!strcmp(name, "device"))
		k->c.device = value;
	else if (!strcmp(name, "manifest"))
		k->c.manifest = value;
	else if (!strcmp(name, "junit"))
		k->junit_file = value;
	else if (!strcmp(name, "level"))
		return set_level(k, value);
	else if (!strcmp(name, "case"))
		return set_case(k, value);
	else if (!strcmp(name, "timeout"))
		return set_timeout(k, value);
	else if (!strcmp(name, "over"))
		k->over = value;
	else if (!strcmp(name, "ttl"))
		return set_ttl(k, value);
	else if (!strcmp(name, "filter-option"))
		return set_filter_option(&k->c, value);
	else
		return set_repeated(k, name, value);
	return 0;
}

static int set_flag(struct check *k, const char *name)
{
	if (!strcmp(name, "strict"))
		k->strict = true;
	else if (!strcmp(name, "no-data"))
		k->c.no_data = true;
	else if (!strcmp(name, "list"))
		k->list = true;
	else if (!strcmp(name, "json"))
		k->json = true;
	else
		return unknown(name);
	return 0;
}

/* --name=value, or --name value where it needs one. */
static int parse_one(struct check *k, int argc, char **argv, int *i)
{
	const char *text = argv[*i] + 2, *eq = strchr(text, '=');
	char name[32];

	snprintf(name, sizeof name, "%.*s", eq ? (int)MC_MIN(eq - text, 31) : 31, text);
	for (char *p = name; *p; p++)
		*p = *p == '_' ? '-' : *p;
	if (eq && !strcmp(name, "json")) {
		k->json_file = eq + 1;
		return 0;
	}
	if (!takes_value(name))
		return eq ? usage("no value can be given to", name) : set_flag(k, name);
	if (!eq && *i + 1 >= argc)
		return usage("a value is missing after", argv[*i]);
	return set_value(k, name, eq ? eq + 1 : argv[++*i]);
}

int check_args(struct check *k, int argc, char **argv)
{
	k->last = PERFORMS;
	k->seconds = 100;
	k->c.ttl_ns = 2 * MC_SEC;
	for (int i = 1; i < argc; i++) {
		int r = 0;

		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
			fputs(usage_text, stdout);
			return 0;
		}
		if (!strncmp(argv[i], "--", 2))
			r = parse_one(k, argc, argv, &i);
		else if (argv[i][0] == '-' || k->c.path)
			r = usage("unknown argument", argv[i]);
		else
			k->c.path = argv[i];
		if (r)
			return r;
	}
	return k->c.path || k->list ? -1 : usage("which plugin? FILE.so is missing", NULL);
}
