/* SPDX-License-Identifier: Apache-2.0 */
/* Arguments taken apart, and given to the program's flag or to the config's key of that name. */
#include "args.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <strings.h>

#include <core/util/check.h>

#include "text.h"
#include "words.h"

#define NAME_MAX_LEN 127
#define SECONDS_MAX 31536000

/* ---- names ------------------------------------------------------------------------------------ */

/* Its place, or nr_flags. */
static size_t flag_find(const struct mc_args *args, const char *name)
{
	const char *other = args->alias ? args->alias(name) : NULL;
	size_t i = 0;

	while (i < args->nr_flags && strcmp(args->name(i), other ? other : name) != 0)
		i++;
	return i;
}

static bool is_bool(const struct mc_args *args, size_t flag)
{
	const char *bare = args->bare(flag);

	return bare && strcmp(bare, "true") == 0;
}

/* A search among the config keys: the exact one, and the closest. */
struct key_search {
	const char *name;
	bool found, is_bool;
	size_t best;
	char closest[NAME_MAX_LEN + 1];
};

static void search_offer(struct key_search *s, const char *known)
{
	size_t d = mc_word_distance(s->name, known);

	if (d < s->best) {
		s->best = d;
		snprintf(s->closest, sizeof s->closest, "%s", known);
	}
}

static int search_key(void *ctx, const struct mc_config_key *key)
{
	struct key_search *s = ctx;

	if (strcmp(key->key, s->name) == 0) {
		s->found = true;
		s->is_bool = key->type && strcmp(key->type, "bool") == 0;
		return 1;
	}
	search_offer(s, key->key);
	return 0;
}

static int unknown_flag(const struct mc_args *args, struct key_search *s, const char *dashes, struct mc_error *err)
{
	for (size_t i = 0; i < args->nr_flags; i++)
		search_offer(s, args->name(i));
	if (s->best <= MC_MAX((size_t)2, strlen(s->name) / 3))
		return mc_fail(err, -EINVAL, "flag %s%s is not known (did you mean --%s?)", dashes, s->name, s->closest);
	return mc_fail(err, -EINVAL, "flag %s%s is not known; --helpfull lists them all", dashes, s->name);
}

/* ---- one argument ------------------------------------------------------------------------------- */

struct arg {
	char name[NAME_MAX_LEN + 1]; /* dashes made underscores */
	const char *dashes;          /* as they were written */
	const char *value;           /* after '='; NULL: none */
	const char *next;            /* the following argument; NULL: none */
};

static int arg_split(const struct mc_args *args, const char *text, const char *next, struct arg *arg,
		     struct mc_error *err)
{
	size_t nr_dashes = (size_t)(text[0] == '-') + (text[0] == '-' && text[1] == '-');
	const char *name = text + nr_dashes;
	size_t len = strcspn(name, "=");

	if (name == text || !len || len > NAME_MAX_LEN)
		return mc_fail(err, -EINVAL, "argument '%s': not a flag; flags look like %s", text, args->example);
	for (size_t i = 0; i < len; i++)
		arg->name[i] = name[i] == '-' ? '_' : name[i];
	arg->name[len] = '\0';
	arg->value = name[len] == '=' ? name + len + 1 : NULL;
	arg->dashes = nr_dashes == 1 ? "-" : "--";
	arg->next = next;
	return 0;
}

/* The value of a flag that needs one; sets *used when it is the next argument. */
static const char *arg_value(const struct arg *arg, bool *used, struct mc_error *err)
{
	if (arg->value)
		return arg->value;
	if (!arg->next) {
		mc_fail(err, -EINVAL, "flag %s%s: the value is missing", arg->dashes, arg->name);
		return NULL;
	}
	*used = true;
	return arg->next;
}

/* --set KEY=VALUE */
static int apply_set(struct mc_config *config, const char *text, struct mc_error *err)
{
	const char *eq = strchr(text, '=');
	char key[NAME_MAX_LEN + 1];

	if (!eq || eq == text || eq - text > NAME_MAX_LEN)
		return mc_fail(err, -EINVAL, "flag --set: '%s' is not KEY=VALUE", text);
	snprintf(key, sizeof key, "%.*s", (int)(eq - text), text);
	return mc_config_set(config, key, eq + 1, err);
}

static int apply_config_key(const struct mc_args *args, const struct arg *arg, bool *used, struct mc_error *err)
{
	struct key_search s = {.name = arg->name, .best = SIZE_MAX};
	const char *value;

	mc_config_each(args->config, search_key, &s);
	if (!s.found && strncmp(arg->name, "no", 2) == 0 && !arg->value) {
		struct key_search no = {.name = arg->name + 2, .best = SIZE_MAX};

		mc_config_each(args->config, search_key, &no);
		if (no.found && no.is_bool)
			return mc_config_set(args->config, no.name, "false", err);
	}
	/* Keys of plugins have dots; the config knows better than we what exists. */
	if (!s.found && !strchr(arg->name, '.'))
		return unknown_flag(args, &s, arg->dashes, err);
	if (s.is_bool && !arg->value)
		return mc_config_set(args->config, arg->name, "true", err);
	value = arg_value(arg, used, err);
	return value ? mc_config_set(args->config, arg->name, value, err) : -EINVAL;
}

static int apply_arg(const struct mc_args *args, const struct arg *arg, bool *used, struct mc_error *err)
{
	size_t flag = flag_find(args, arg->name);
	bool ours = flag < args->nr_flags;
	const char *value = arg->value;

	if (!ours && strncmp(arg->name, "no", 2) == 0 && !value) {
		size_t no = flag_find(args, arg->name + 2);

		if (no < args->nr_flags && is_bool(args, no))
			return args->apply(args->ctx, no, "false", err);
	}
	if (!ours && strcmp(arg->name, "set") != 0)
		return apply_config_key(args, arg, used, err);
	if (ours && !value)
		value = args->bare(flag);
	if (!value)
		value = arg_value(arg, used, err);
	if (!value)
		return -EINVAL;
	return ours ? args->apply(args->ctx, flag, value, err) : apply_set(args->config, value, err);
}

int mc_args_bool(const char *flag, const char *text, bool *ret, struct mc_error *err)
{
	static const char *const words[] = {"false", "true", "0", "1", "no", "yes", "off", "on", "f", "t", "n", "y"};

	for (size_t i = 0; i < MC_ARRAY_SIZE(words); i++) {
		if (strcasecmp(text, words[i]) == 0) {
			*ret = i % 2;
			return 0;
		}
	}
	return mc_fail(err, -EINVAL, "flag --%s: '%s' is neither true nor false", flag, text);
}

int mc_args_number(const char *flag, const char *text, bool is_count, uint64_t min, uint64_t max, uint64_t *ret,
		   struct mc_error *err)
{
	uint64_t v;
	int r = mc_text_parse_size(text, &v);

	if (r < 0 || (is_count && text[strspn(text, "0123456789")]) || v < min || v > max)
		return mc_fail(err, -EINVAL, "flag --%s: '%s' is not a number from %" PRIu64 " to %" PRIu64, flag, text, min, max);
	*ret = v;
	return 0;
}

int mc_args_seconds(const char *flag, const char *text, double *ret, struct mc_error *err)
{
	double v;

	if (mc_text_parse_seconds(text, &v) < 0 || v > SECONDS_MAX)
		return mc_fail(err, -EINVAL, "flag --%s: '%s' is no time; write seconds, 500ms, 10min or 2h", flag, text);
	*ret = v;
	return 0;
}

int mc_args_verb(const char *word, const char *(*name)(size_t idx), size_t nr, const char *all, size_t *ret_idx,
		 struct mc_error *err)
{
	size_t distance;

	*ret_idx = mc_word_closest(word, name, nr, &distance);
	if (distance == 0)
		return 0;
	if (distance <= 2)
		return mc_fail(err, -EINVAL, "'%s' is no verb (did you mean %s?)", word, name(*ret_idx));
	return mc_fail(err, -EINVAL, "'%s' is no verb: %s", word, all);
}

static int print_key(void *ctx, const struct mc_config_key *key)
{
	fprintf(ctx, "  --%s=%s  (%s) %s\n", key->key, key->type, key->value ? key->value : "", key->doc ? key->doc : "");
	return 0;
}

void mc_args_help_keys(FILE *f, const struct mc_config *config)
{
	mc_config_each(config, print_key, f);
}

/* ---- all of them -------------------------------------------------------------------------------- */

/* Load the file of every --config, wherever it stands. */
static int load_files(int argc, char **argv, struct mc_config *config, struct mc_error *err)
{
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
		const char *name = argv[i] + strspn(argv[i], "-");
		const char *path = NULL;
		int r;

		if (argv[i][0] != '-' || strncmp(name, "config", 6) != 0)
			continue;
		if (name[6] == '=')
			path = name + 7;
		else if (!name[6] && i + 1 < argc)
			path = argv[++i];
		r = path ? mc_config_load(config, path, err) : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

int mc_args_parse(const struct mc_args *args, int argc, char **argv, struct mc_error *err)
{
	int r = load_files(argc, argv, args->config, err);
	bool flags = true;

	if (r == 0)
		r = mc_config_env(args->config, err);
	for (int i = 1; r == 0 && i < argc; i++) {
		struct arg arg;
		bool used = false;

		if (args->word && flags && strcmp(argv[i], "--") == 0) {
			flags = false;
		} else if (args->word && (!flags || argv[i][0] != '-' || !argv[i][1])) {
			r = args->word(args->ctx, argv[i], err);
		} else {
			r = arg_split(args, argv[i], i + 1 < argc ? argv[i + 1] : NULL, &arg, err);
			if (r == 0)
				r = apply_arg(args, &arg, &used, err);
			i += used;
		}
	}
	return r;
}
