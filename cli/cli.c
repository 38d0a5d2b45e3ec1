/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the verbs share.  The command line is the bench's: --flag=value,
 * --flag value, dashes and underscores are the same, every config key is a flag
 * by --KEY=VALUE (booleans by --KEY and --noKEY), later wins, and what nobody knows is refused with the closest
 * that is known.
 */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/config.h"
#include "core/util/check.h"
#include "core/util/cleanup.h"
#include "core/value.h"

#define NAME_LEN 256

/* ---- telling -------------------------------------------------------------------------------- */

char *cli_tame(char *text)
{
	for (char *c = text; *c; c++) {
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			*c = '?';
	}
	return text;
}

static void print_tame(FILE *f, const char *fmt, va_list ap)
{
	char *text;

	if (vasprintf(&text, fmt, ap) < 0)
		abort(); /* a line of text */
	fputs(cli_tame(text), f);
	fputc('\n', f);
	free(text);
}

int cli_error(const struct cli *cli, int code, const char *fmt, ...)
{
	va_list ap;

	fflush(stdout); /* in a terminal, what came before stands before */
	fprintf(stderr, "mooncake %s: ", cli->verb);
	va_start(ap, fmt);
	print_tame(stderr, fmt, ap);
	va_end(ap);
	return code;
}

int cli_stdout_away(void)
{
	int held;

	fflush(stdout);
	held = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	if (held >= 0)
		dup2(STDERR_FILENO, STDOUT_FILENO);
	return held;
}

void cli_stdout_back(int held)
{
	if (held < 0)
		return;
	fflush(stdout);
	dup2(held, STDOUT_FILENO);
	close(held);
}

void cli_line(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	print_tame(stdout, fmt, ap);
	va_end(ap);
}

void cli_json_str(struct mc_json_out *o, const char *key, const char *s)
{
	static const struct mc_json null = {.type = MC_JSON_NULL};

	mc_json_out_key(o, key);
	if (s)
		mc_json_out_str(o, s);
	else
		mc_json_out_json(o, &null);
}

void cli_json_int(struct mc_json_out *o, const char *key, int64_t i)
{
	mc_json_out_key(o, key);
	mc_json_out_int(o, i);
}

void cli_json_bool(struct mc_json_out *o, const char *key, bool b)
{
	mc_json_out_key(o, key);
	mc_json_out_bool(o, b);
}

void cli_json_open(struct mc_json_out *o, const char *key, char bracket)
{
	mc_json_out_key(o, key);
	mc_json_out_open(o, bracket);
}

int cli_json_print(const struct cli *cli, struct mc_json_out *o)
{
	mc_cleanup(mc_freep) char *text = mc_json_out_take(o);
	size_t len = text ? strlen(text) : 0;

	if (!text)
		return cli_error(cli, CLI_FAILED, "the answer is no JSON: a string in it is not UTF-8, or memory ran out");
	fputs(text, stdout);
	if (len && text[len - 1] != '\n')
		putchar('\n');
	return CLI_OK;
}

void cli_table_row(struct cli_table *t, size_t nr_columns, const char *const *cells)
{
	char **more = reallocarray(t->cells, (t->nr_rows + 1) * nr_columns, sizeof *more);

	if (!more)
		abort(); /* a few lines of text */
	t->cells = more;
	t->nr_columns = nr_columns;
	for (size_t i = 0; i < nr_columns; i++) {
		char *copy = strdup(cells[i] && *cells[i] ? cells[i] : "-");

		if (!copy)
			abort();
		more[t->nr_rows * nr_columns + i] = cli_tame(copy);
	}
	t->nr_rows++;
}

/* Columns on a screen: bytes that begin a character. */
static size_t width(const char *s)
{
	size_t n = 0;

	for (; *s; s++)
		n += ((unsigned char)*s & 0xc0) != 0x80;
	return n;
}

void cli_table_print(struct cli_table *t)
{
	size_t widths[CLI_COLUMNS_MAX] = {0}, nr = t->nr_columns;

	for (size_t i = 0; i < t->nr_rows * nr; i++)
		widths[i % nr] = MC_MAX(widths[i % nr], width(t->cells[i]));
	for (size_t i = 0; i < t->nr_rows * nr; i++) {
		size_t column = i % nr;

		fputs(t->cells[i], stdout);
		if (column + 1 == nr)
			putchar('\n');
		else
			printf("%*s", (int)(widths[column] - width(t->cells[i]) + 2), "");
		free(t->cells[i]);
	}
	free(t->cells);
	*t = (struct cli_table){0};
}

/* ---- help ----------------------------------------------------------------------------------- */

static void help_option(const char *name, const char *arg, const char *doc)
{
	char left[64];

	snprintf(left, sizeof left, "--%s%s%s", name, arg ? "=" : "", arg ? arg : "");
	printf("  %-24s %s\n", left, doc);
}

static void help(const struct cli *cli)
{
	printf("mooncake %s%s%s [--FLAG...]\n%s", cli->verb, *cli->args ? " " : "", cli->args, cli->help);
	puts("Flags:");
	for (const struct cli_option *o = cli->options; o && o->name; o++)
		help_option(o->name, o->arg, o->doc);
	if (cli->with != CLI_NO_CONFIG) {
		help_option("config", "FILE", "a config file, below MC_* variables and flags");
		help_option("KEY", "VALUE", "any config key: --metadata_server=file:///dir");
	}
	help_option("help", NULL, "this");
}

/* ---- arguments -------------------------------------------------------------------------------- */

static int parse_value(const struct cli *cli, const struct cli_option *o, const char *text)
{
	const struct mc_option option = {
		.name = o->name,
		.type = o->type == CLI_FLAG ? MC_OPT_BOOL : o->type == CLI_SIZE ? MC_OPT_SIZE : MC_OPT_DURATION,
		.min = 0,
		.max = INT64_MAX,
	};
	struct mc_error err;
	struct mc_value v;
	char where[NAME_LEN];
	uint64_t number;

	if (o->type == CLI_TEXT) {
		*(const char **)o->at = text;
		return -1;
	}
	snprintf(where, sizeof where, "flag --%s", o->name);
	if (mc_value_parse(&option, where, text, &v, &err) < 0)
		return cli_error(cli, CLI_USAGE, "%s", err.text);
	if (o->type == CLI_FLAG) {
		*(bool *)o->at = v.b;
		return -1;
	}
	number = (uint64_t)v.i;
	memcpy(o->at, &number, sizeof number);
	return -1;
}

static const struct cli_option *option_find(const struct cli *cli, const char *name)
{
	for (const struct cli_option *o = cli->options; o && o->name; o++) {
		if (strcmp(o->name, name) == 0)
			return o;
	}
	return NULL;
}

struct words {
	const char **list; /* ends with NULL */
	size_t nr;
};

static int add_key(void *ctx, const struct mc_config_key *key)
{
	struct words *w = ctx;
	const char **more = reallocarray(w->list, w->nr + 2, sizeof *more);

	if (!more)
		return -ENOMEM;
	w->list = more;
	more[w->nr++] = key->key;
	more[w->nr] = NULL;
	return 0;
}

/* What nobody knows, with the closest of the verb's own flags and of the config's keys. */
static int unknown(const struct cli *cli, const struct mc_config *config, const char *name)
{
	struct words w = {0};
	const char *near = NULL;
	int code;

	for (const struct cli_option *o = cli->options; o && o->name; o++)
		add_key(&w, &(struct mc_config_key){.key = o->name});
	add_key(&w, &(struct mc_config_key){.key = "help"});
	if (cli->with != CLI_NO_CONFIG)
		add_key(&w, &(struct mc_config_key){.key = "config"});
	if (config)
		mc_config_each(config, add_key, &w);
	if (w.list)
		near = mc_closest(name, w.list);
	code = cli_error(cli, CLI_USAGE, "flag --%s is not known%s%s%s", name, near ? " (did you mean --" : "",
			 near ? near : "", near ? "?)" : "; --help lists those that are");
	free(w.list);
	return code;
}

static int key_is_bool(void *ctx, const struct mc_config_key *key)
{
	return strcmp(key->key, ctx) == 0 && strcmp(key->type, "bool") == 0;
}

static int set_key(struct mc_config *config, const struct cli_key *key, struct mc_error *err)
{
	if (key->value)
		return mc_config_set(config, key->key, key->value, err);
	if (mc_config_each(config, key_is_bool, (void *)key->key))
		return mc_config_set(config, key->key, "true", err);
	if (strncmp(key->key, "no", 2) == 0 && mc_config_each(config, key_is_bool, (void *)(key->key + 2)))
		return mc_config_set(config, key->key + 2, "false", err);
	if (mc_config_get(config, key->key, NULL))
		return mc_fail(err, -EINVAL, "flag --%s: the value is missing: --%s=VALUE", key->key, key->key);
	return -ENOENT;
}

int cli_apply_keys(const struct cli *cli, struct mc_config *config)
{
	struct mc_error err = {0};

	for (size_t i = 0; i < cli->nr_keys; i++) {
		int r = set_key(config, &cli->keys[i], &err);

		if (r == -ENOENT)
			return unknown(cli, config, cli->keys[i].key);
		if (r < 0)
			return cli_error(cli, CLI_USAGE, "%s", err.text);
	}
	return -1;
}

static int add_file(struct cli *cli, const char *path)
{
	const char **more = reallocarray(cli->files, cli->nr_files + 1, sizeof *more);

	if (!more)
		return cli_error(cli, CLI_FAILED, "out of memory");
	cli->files = more;
	more[cli->nr_files++] = path;
	return -1;
}

static int add_unknown(struct cli *cli, const char *name, const char *value)
{
	struct cli_key *more = reallocarray(cli->keys, cli->nr_keys + 1, sizeof *more);
	char *copy = strdup(name);

	if (more)
		cli->keys = more;
	if (!more || !copy) {
		free(copy);
		return cli_error(cli, CLI_FAILED, "out of memory");
	}
	more[cli->nr_keys++] = (struct cli_key){.key = copy, .value = value};
	return -1;
}

/* One flag; *used: the next argument was its value. */
static int parse_flag(struct cli *cli, const char *arg, const char *next, bool *used)
{
	const char *at = arg + 1 + (arg[1] == '-');
	size_t len = strcspn(at, "=");
	const char *value = at[len] ? at + len + 1 : NULL;
	const struct cli_option *o;
	char name[NAME_LEN];

	if (!len || len >= sizeof name)
		return cli_error(cli, CLI_USAGE, "argument '%s' is not a flag; flags look like --json", arg);
	for (size_t i = 0; i < len; i++)
		name[i] = at[i] == '-' ? '_' : at[i];
	name[len] = '\0';
	if (strcmp(name, "help") == 0 || strcmp(name, "h") == 0) {
		help(cli);
		return CLI_OK;
	}
	o = option_find(cli, name);
	if (o && o->type == CLI_FLAG)
		return parse_value(cli, o, value ? value : "true");
	if (o || (cli->with != CLI_NO_CONFIG && strcmp(name, "config") == 0)) {
		if (!value && !next)
			return cli_error(cli, CLI_USAGE, "flag --%s: the value is missing", name);
		*used = !value;
		value = value ? value : next;
		return o ? parse_value(cli, o, value) : add_file(cli, value);
	}
	if (cli->with == CLI_NO_CONFIG)
		return unknown(cli, NULL, name);
	return add_unknown(cli, name, value);
}

/* Defaults and manifests, files, environment, flags. */
static int make_config(struct cli *cli)
{
	struct mc_error err;

	if (mc_config_new(&cli->config, &err) < 0)
		return cli_error(cli, CLI_FAILED, "%s", err.text);
	for (size_t i = 0; i < cli->nr_files; i++)
		if (mc_config_load(cli->config, cli->files[i], &err) < 0)
			return cli_error(cli, CLI_USAGE, "%s", err.text);
	if (mc_config_env(cli->config, &err) < 0)
		return cli_error(cli, CLI_USAGE, "%s", err.text);
	return cli_apply_keys(cli, cli->config);
}

int cli_parse(struct cli *cli, int argc, char **argv)
{
	bool flags = true;
	int code;

	cli->argv = argv; /* those that are no flags move to the front */
	for (int i = 1; i < argc; i++) {
		char *next = i + 1 < argc ? argv[i + 1] : NULL;
		bool used = false;

		if (flags && strcmp(argv[i], "--") == 0) {
			flags = false;
			continue;
		}
		if (!flags || argv[i][0] != '-' || !argv[i][1]) {
			cli->argv[cli->nr_args++] = argv[i];
			continue;
		}
		code = parse_flag(cli, argv[i], next, &used);
		if (code >= 0)
			return code;
		i += used;
	}
	if (cli->nr_args < cli->min_args)
		return cli_error(cli, CLI_USAGE, "%s is missing; mooncake %s --help", cli->args, cli->verb);
	if (cli->max_args >= 0 && cli->nr_args > cli->max_args)
		return cli_error(cli, CLI_USAGE, "argument '%s' is one too many; mooncake %s --help",
				 cli->argv[cli->max_args], cli->verb);
	return cli->with == CLI_CONFIG ? make_config(cli) : -1;
}

void cli_fini(struct cli *cli)
{
	mc_config_free(cli->config);
	for (size_t i = 0; i < cli->nr_keys; i++)
		free((char *)cli->keys[i].key);
	free(cli->keys);
	free(cli->files);
}
