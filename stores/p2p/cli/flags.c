/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One table of flags, as the bench has: --flag=value, --flag value, --bool, --nobool; dashes
 * and underscores are the same, one leading dash will do.  What the table lacks is looked up
 * among the config's keys; what neither knows is refused with the closest known one.
 */
#include "flags.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <cli/program/args.h>
#include <cli/program/text.h>
#include <core/util/check.h>

enum flag_type { FLAG_BOOL, FLAG_TEXT, FLAG_COUNT, FLAG_SIZE, FLAG_RATE, FLAG_SECONDS };

/* Verbs that a flag is for. */
#define SERVE (1u << P2PC_SERVE)
#define GET (1u << P2PC_GET)
#define SAMPLE (1u << P2PC_TRAINER | 1u << P2PC_INFERENCER)
#define VERB (1u << P2PC_SERVE | 1u << P2PC_GET | 1u << P2PC_LS | 1u << P2PC_RM | 1u << P2PC_STAT)
#define ANY 0u

struct flag {
	const char *name;
	enum flag_type type;
	size_t offset;
	uint64_t min, max; /* of a count or a size; min of a text: bytes */
	unsigned verbs;    /* ANY: all */
	const char *doc;
};

#define FIELD(f) offsetof(struct p2pc_options, f)

static const struct flag flags[] = {
	{"output", FLAG_TEXT, FIELD(output), 1, 0, GET, "the file or folder that get makes; -o for short"},
	{"name", FLAG_TEXT, FIELD(name), 1, 0, SERVE, "the object's name; beside several files: one object of them all"},
	{"force", FLAG_BOOL, FIELD(force), 0, 0, SERVE | GET,
	 "serve a checkpoint that is not whole; get over what is there already"},
	{"serve", FLAG_BOOL, FIELD(serve), 0, 0, GET, "when all has arrived, go on serving it"},
	{"duration", FLAG_SECONDS, FIELD(duration), 0, 0, SERVE | GET | SAMPLE,
	 "how long to serve; 0: until a signal comes, which is the default (trainer: 100)"},
	{"wait", FLAG_SECONDS, FIELD(wait), 0, 0, GET | SAMPLE, "for an object that nobody serves yet"},
	{"timeout", FLAG_SECONDS, FIELD(timeout), 0, 0, ANY, "for a whole get, 0: none; for other verbs, 0: 30 s"},
	{"patience", FLAG_SECONDS, FIELD(patience), 0, 0, GET | SAMPLE,
	 "how long a get goes on when nobody offers what it lacks; default 15 s"},
	{"max_rate", FLAG_RATE, FIELD(max_rate), 0, 0, SERVE | GET | SAMPLE,
	 "bytes per second, for all that is served and for all that is got; 100M, 10Gbit"},
	{"max_serve", FLAG_COUNT, FIELD(max_serve), 1, 1024, SERVE | GET | SAMPLE,
	 "shards of an object that others may copy from here at once; default 4"},
	{"threads", FLAG_COUNT, FIELD(threads), 1, 64, GET | SAMPLE, "that copy and verify; default 4"},
	{"shard_size", FLAG_SIZE, FIELD(shard_size), 4096, UINT64_C(1) << 32, SERVE | SAMPLE,
	 "bytes; default: a 64th of the object, from 1 MiB to 64 MiB"},
	{"rack", FLAG_TEXT, FIELD(rack), 0, 0, SERVE | GET | SAMPLE, "a label of where this host stands: same label, near; default $MC_RACK"},
	{"sync", FLAG_BOOL, FIELD(sync), 0, 0, GET, "have the disk written before the file appears; --nosync: not"},
	{"ready_file", FLAG_TEXT, FIELD(ready_file), 1, 0, SERVE | GET | SAMPLE, "written when all is served, for scripts"},
	{"json", FLAG_BOOL, FIELD(json), 0, 0, VERB, "one object on stdout"},
	{"cmd", FLAG_TEXT, FIELD(cmd), 0, 0, ANY, "trainer or inferencer: the public project's sample, instead of a verb"},
	{"file_size_mb", FLAG_COUNT, FIELD(file_size_mb), 1, 1048576, SAMPLE, "of the sample's object, MiB; default 2048"},
	{"device_name", FLAG_TEXT, FIELD(device_name), 1, 0, ANY, "these devices, A,B, instead of a matrix"},
	{"config", FLAG_TEXT, FIELD(config), 0, 0, ANY, "a config file, below MC_* variables and flags"},
	{"help", FLAG_BOOL, FIELD(help), 0, 0, ANY, "one screen"},
	{"helpfull", FLAG_BOOL, FIELD(helpfull), 0, 0, ANY, "all flags and config keys"},
	{"version", FLAG_BOOL, FIELD(version), 0, 0, ANY, "which this is"},
};

static const struct {
	const char *name;
	enum p2pc_verb verb;
	size_t min_args, max_args;
	const char *args;
} verbs[] = {
	{"serve", P2PC_SERVE, 1, SIZE_MAX, "FILE... | DIR"}, {"get", P2PC_GET, 1, 1, "NAME"},
	{"ls", P2PC_LS, 0, 1, "[PREFIX]"},		     {"rm", P2PC_RM, 1, 1, "NAME"},
	{"stat", P2PC_STAT, 1, 1, "NAME"},		     {"list", P2PC_LS, 0, 1, "[PREFIX]"},
};

void p2pc_options_init(struct p2pc_options *o)
{
	*o = (struct p2pc_options){
		.output = "",
		.name = "",
		.rack = getenv("MC_RACK") ? getenv("MC_RACK") : "",
		.ready_file = "",
		.device_name = "",
		.cmd = "",
		.config = "",
		.file_size_mb = 2048,
		.duration = -1,
		.sync = true,
	};
}

/* ---- values ----------------------------------------------------------------------------------- */

static int parse_number(const struct flag *flag, const char *text, uint64_t *ret, struct mc_error *err)
{
	if (flag->type != FLAG_RATE)
		return mc_args_number(flag->name, text, flag->type == FLAG_COUNT, flag->min, flag->max, ret, err);
	if (mc_text_parse_rate(text, ret) < 0)
		return mc_fail(err, -EINVAL, "flag --%s: '%s' is no rate; write bytes per second as 100M, or 10Gbit", flag->name,
			       text);
	return 0;
}

static int flag_apply(struct p2pc_options *o, const struct flag *flag, const char *text, struct mc_error *err)
{
	void *field = (char *)o + flag->offset;
	int r = 0;

	if (flag->type == FLAG_BOOL) {
		r = mc_args_bool(flag->name, text, field, err);
	} else if (flag->type == FLAG_TEXT && strlen(text) < flag->min) {
		return mc_fail(err, -EINVAL, "flag --%s: it is empty; leave it out, or say what it is", flag->name);
	} else if (flag->type == FLAG_TEXT) {
		*(const char **)field = text;
	} else if (flag->type == FLAG_SECONDS) {
		r = mc_args_seconds(flag->name, text, field, err);
	} else {
		r = parse_number(flag, text, field, err);
	}
	if (r == 0)
		o->set |= UINT64_C(1) << (flag - flags);
	return r;
}

/* ---- the command line ------------------------------------------------------------------------- */

static const char *verb_name(size_t verb)
{
	return verbs[verb].name;
}

static int verb_set(struct p2pc_options *o, const char *word, struct mc_error *err)
{
	size_t i;
	int r = mc_args_verb(word, verb_name, MC_ARRAY_SIZE(verbs), "serve, get, ls, rm, stat; mooncake_p2p --help", &i, err);

	if (r == 0)
		o->verb = verbs[i].verb;
	return r;
}

static const char *arg_name(size_t flag)
{
	return flags[flag].name;
}

static const char *arg_alias(const char *name)
{
	return strcmp(name, "o") == 0 ? "output" : strcmp(name, "h") == 0 ? "help" : NULL;
}

static const char *arg_bare(size_t flag)
{
	return flags[flag].type == FLAG_BOOL ? "true" : NULL;
}

static int arg_apply(void *ctx, size_t flag, const char *value, struct mc_error *err)
{
	return flag_apply(ctx, &flags[flag], value, err);
}

/* The first word is the verb, if none was there; words move down to the front, and never up. */
static int arg_word(void *ctx, char *word, struct mc_error *err)
{
	struct p2pc_options *o = ctx;

	if (!o->has_verb) {
		o->has_verb = true;
		return verb_set(o, word, err);
	}
	o->args[o->nr_args++] = word;
	return 0;
}

int p2pc_options_parse(struct p2pc_options *o, int argc, char **argv, struct mc_config *config, struct mc_error *err)
{
	const struct mc_args args = {.ctx = o,
				     .config = config,
				     .example = "--max_rate=100M",
				     .nr_flags = MC_ARRAY_SIZE(flags),
				     .name = arg_name,
				     .alias = arg_alias,
				     .bare = arg_bare,
				     .apply = arg_apply,
				     .word = arg_word};

	o->args = argv;
	return mc_args_parse(&args, argc, argv, err);
}

/* ---- together --------------------------------------------------------------------------------- */

static int check_cmd(const struct p2pc_options *o, struct mc_error *err)
{
	if (strcmp(o->cmd, "trainer") != 0 && strcmp(o->cmd, "inferencer") != 0)
		return mc_fail(err, -EINVAL, "flag --cmd: '%s' is neither 'trainer' nor 'inferencer'", o->cmd);
	return o->verb ? mc_fail(err, -EINVAL, "--cmd=%s stands instead of a verb; leave one out", o->cmd) : 0;
}

int p2pc_options_check(const struct p2pc_options *o, struct mc_error *err)
{
	enum p2pc_verb verb = *o->cmd ? (*o->cmd == 't' ? P2PC_TRAINER : P2PC_INFERENCER) : o->verb;
	const char *word = *o->cmd ? o->cmd : "";

	if (*o->cmd && check_cmd(o, err) < 0)
		return -EINVAL;
	if (!verb)
		return mc_fail(err, -EINVAL, "what to do is missing: serve, get, ls, rm or stat; mooncake_p2p --help");
	for (size_t i = 0; i < MC_ARRAY_SIZE(verbs) && !*o->cmd; i++) {
		if (verbs[i].verb != verb)
			continue;
		word = verbs[i].name;
		if (o->nr_args < verbs[i].min_args)
			return mc_fail(err, -EINVAL, "%s: %s is missing; mooncake_p2p --help", word, verbs[i].args);
		if (o->nr_args > verbs[i].max_args)
			return mc_fail(err, -EINVAL, "%s: '%s' is one too many; it takes %s", word, o->args[verbs[i].max_args],
				       verbs[i].args);
		break;
	}
	if (*o->cmd && o->nr_args)
		return mc_fail(err, -EINVAL, "--cmd=%s takes no '%s'", o->cmd, o->args[0]);
	for (size_t i = 0; i < MC_ARRAY_SIZE(flags); i++)
		if ((o->set >> i & 1) && flags[i].verbs && !(flags[i].verbs >> verb & 1))
			return mc_fail(err, -EINVAL, "flag --%s is not for %s", flags[i].name, word);
	if (verb == P2PC_GET && !o->serve && o->duration >= 0)
		return mc_fail(err, -EINVAL, "flag --duration: it says how long --serve lasts, which is not there");
	return 0;
}

/* ---- help ------------------------------------------------------------------------------------- */

void p2pc_help_full(FILE *f, const struct mc_config *config)
{
	fputs("Flags of mooncake_p2p:\n", f);
	for (size_t i = 0; i < MC_ARRAY_SIZE(flags); i++)
		fprintf(f, "  --%-14s %s\n", flags[i].name, flags[i].doc);
	fputs("Config keys, with what they are now:\n", f);
	mc_args_help_keys(f, config);
}

/* clang-format off */
void p2pc_help(FILE *f)
{
	fputs("Give files to many hosts; each passes on what it has, no server is needed.\n"
	      "  mooncake_p2p serve ./llama --metadata_server=10.0.0.1:2379\n"
	      "  mooncake_p2p get llama -o /models/llama --metadata_server=10.0.0.1:2379\n"
	      "Verbs:\n"
	      "  serve FILE...    offer each file under its name; with --name=N, all as one\n"
	      "  serve DIR        offer a folder as one object; safetensors are looked at first\n"
	      "  get NAME [-o P]  fetch, verify, then make the file or folder P appear\n"
	      "  ls [PREFIX]      what is offered        stat NAME   its files, and who has it\n"
	      "  rm NAME          take it from all       --cmd=trainer|inferencer   the sample\n"
	      "Flags:\n"
	      "  --metadata_server=URL   file:///dir (default: one per user), etcd://host:2379\n"
	      "  --max_rate=RATE         bytes per second, both ways: 100M, 10Gbit\n"
	      "  --rack=LABEL            hosts with the same label are near\n"
	      "  --serve                 get: go on serving   --duration=S   serve so long\n"
	      "  --wait=S                get: if nobody offers it yet   --timeout=S   for all\n"
	      "  --force                 get: replace P; serve: a checkpoint that is not whole\n"
	      "  --shard_size=BYTES      serve: what is verified and passed on as one\n"
	      "  --json                  one object on stdout   --ready_file=F   serve is up\n"
	      "Every config key is a flag too: --log_level=debug; --config=FILE reads them;\n"
	      "--helpfull lists all; '-' is '_'.  A get that was interrupted goes on by the\n"
	      "same command.  Exit: 0 done (serve: ended by a signal), 1 failed, 2 usage.\n",
	      f);
}
/* clang-format on */
