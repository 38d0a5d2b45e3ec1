/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One table of flags; what it lacks is looked up among the config's keys, and what neither
 * knows is refused with the closest known one (cli/program/args.h).
 */
#include "flags.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <cli/program/args.h>
#include <cli/program/text.h>
#include <core/util/check.h>

enum flag_type { FLAG_BOOL, FLAG_TEXT, FLAG_COUNT, FLAG_SIZE, FLAG_SECONDS };

/* Verbs that a flag is for. */
#define SERVE (1u << MSC_SERVE)
#define PUT (1u << MSC_PUT)
#define GET (1u << MSC_GET)
#define RM (1u << MSC_RM)
#define BENCH (1u << MSC_BENCH)
#define ANY 0u

struct flag {
	const char *name;
	enum flag_type type;
	size_t offset;
	uint64_t min, max; /* of a count or a size */
	unsigned verbs;    /* ANY: all */
	const char *doc;
};

#define FIELD(f) offsetof(struct msc_options, f)

static const struct flag flags[] = {
	{"master", FLAG_TEXT, FIELD(master), 0, 0, ANY, "segment name of the master's engine; default mooncake_master"},
	{"tenant", FLAG_TEXT, FIELD(tenant), 0, 0, ANY, "whose name space and quota; default: the one without a name"},
	{"size", FLAG_TEXT, FIELD(size), 0, 0, SERVE | BENCH,
	 "serve: memory to lend, 4G, or several pieces 4G,8G; bench: bytes of a value, default 1M"},
	{"location", FLAG_TEXT, FIELD(location), 0, 0, SERVE | BENCH, "serve: where, cpu:0, cxl:0, one or as many as --size; bench: of its buffers"},
	{"duration", FLAG_SECONDS, FIELD(duration), 0, 0, SERVE | BENCH, "serve: how long, 0: until a signal, the default; bench: default 5 s"},
	{"populate", FLAG_BOOL, FIELD(populate), 0, 0, SERVE, "take the memory's pages before it is lent; default; --nopopulate: as values come"},
	{"ready_file", FLAG_TEXT, FIELD(ready_file), 0, 0, SERVE, "written when all is lent, for scripts"},
	{"output", FLAG_TEXT, FIELD(output), 0, 0, GET, "file that get makes, '-': stdout; -o for short"},
	{"offset", FLAG_SIZE, FIELD(offset), 0, INT64_MAX, GET, "of the value, from where on"},
	{"len", FLAG_SIZE, FIELD(len), 1, INT64_MAX, GET, "at most so many bytes"},
	{"replicas", FLAG_COUNT, FIELD(replicas), 1, 8, PUT | BENCH, "in so many memories; default 1"},
	{"preferred", FLAG_TEXT, FIELD(preferred), 0, 0, PUT | BENCH, "engine whose memory is tried first"},
	{"soft_pin", FLAG_BOOL, FIELD(soft_pin), 0, 0, PUT, "evicted only when nothing else is left, for some time"},
	{"hard_pin", FLAG_BOOL, FIELD(hard_pin), 0, 0, PUT, "never evicted"},
	{"replace", FLAG_BOOL, FIELD(replace), 0, 0, PUT, "a value that is there is replaced when the new one is complete"},
	{"checksum", FLAG_BOOL, FIELD(checksum), 0, 0, PUT | GET | BENCH, "keep one, and verify it; default for put and get; --nochecksum: not"},
	{"prefix", FLAG_TEXT, FIELD(prefix), 0, 0, RM, "rm: all that begins so"},
	{"regex", FLAG_TEXT, FIELD(regex), 0, 0, RM, "rm: all that matches a POSIX extended expression"},
	{"all", FLAG_BOOL, FIELD(all), 0, 0, RM, "rm: everything of the tenant"},
	{"force", FLAG_BOOL, FIELD(force), 0, 0, RM | GET, "rm: leased and pinned values too; get: over a file that is there"},
	{"op", FLAG_TEXT, FIELD(op), 0, 0, BENCH, "put, get or exist; default put"},
	{"batch", FLAG_COUNT, FIELD(batch), 1, 4096, BENCH, "values of a call; default 16"},
	{"jobs", FLAG_COUNT, FIELD(jobs), 1, 256, BENCH, "threads that call; default 1"},
	{"keys", FLAG_COUNT, FIELD(keys), 1, 1u << 24, BENCH, "values that a job puts again and again, or gets; default 4 batches"},
	{"check", FLAG_BOOL, FIELD(check), 0, 0, BENCH, "verify every byte"},
	{"trace", FLAG_TEXT, FIELD(trace), 0, 0, BENCH, "replay requests of a file, a JSON object with \"hash_ids\" a line"},
	{"capacities", FLAG_TEXT, FIELD(capacities), 0, 0, BENCH, "--trace: of the pool, in blocks; default 50000,30000,10000,1000"},
	{"block", FLAG_SIZE, FIELD(block), 256, 1u << 20, BENCH, "--trace: bytes of a block; default 256"},
	{"master_program", FLAG_TEXT, FIELD(master_program), 0, 0, BENCH, "--trace: mooncake_master; default: the one beside this program, or by PATH"},
	{"svg", FLAG_TEXT, FIELD(svg), 0, 0, BENCH, "--trace: draw hit ratios here"},
	{"seed", FLAG_COUNT, FIELD(seed), 0, INT64_MAX, BENCH, "of what is drawn; default 1"},
	{"timeout", FLAG_SECONDS, FIELD(timeout), 0, 0, ANY, "for a call; default 30 s"},
	{"json", FLAG_BOOL, FIELD(json), 0, 0, ANY, "one object on stdout"},
	{"device_name", FLAG_TEXT, FIELD(device_name), 0, 0, ANY, "these devices, A,B, instead of a matrix"},
	{"config", FLAG_TEXT, FIELD(config), 0, 0, ANY, "a config file, below MC_* variables and flags"},
	{"help", FLAG_BOOL, FIELD(help), 0, 0, ANY, "one screen"},
	{"helpfull", FLAG_BOOL, FIELD(helpfull), 0, 0, ANY, "all flags and config keys"},
	{"version", FLAG_BOOL, FIELD(version), 0, 0, ANY, "which this is"},
};
_Static_assert(MC_ARRAY_SIZE(flags) <= 64, "a bit for each");

static const struct {
	const char *name;
	enum msc_verb verb;
	size_t min_args, max_args;
	const char *args;
} verbs[] = {
	{"serve", MSC_SERVE, 0, 0, "no argument"}, {"put", MSC_PUT, 2, 2, "KEY FILE, or KEY - for stdin"},
	{"get", MSC_GET, 1, 1, "KEY"},		   {"rm", MSC_RM, 0, SIZE_MAX, "KEY..."},
	{"ls", MSC_LS, 0, 1, "[PREFIX]"},	   {"stat", MSC_STAT, 0, 1, "[KEY]"},
	{"bench", MSC_BENCH, 0, 0, "no argument"},
};

void msc_options_init(struct msc_options *o)
{
	*o = (struct msc_options){
		.master = "mooncake_master",
		.tenant = "",
		.size = "",
		.location = "",
		.output = "",
		.preferred = "",
		.prefix = "",
		.regex = "",
		.ready_file = "",
		.device_name = "",
		.config = "",
		.op = "put",
		.trace = "",
		.svg = "",
		.master_program = "",
		.capacities = "50000,30000,10000,1000",
		.len = UINT64_MAX,
		.replicas = 1,
		.batch = 16,
		.jobs = 1,
		.block = 256,
		.populate = true,
		.seed = 1,
		.duration = -1,
		.timeout = 30,
	};
}

/* ---- values ----------------------------------------------------------------------------------- */

static int flag_apply(struct msc_options *o, const struct flag *flag, const char *text, struct mc_error *err)
{
	void *field = (char *)o + flag->offset;
	int r = 0;

	if (flag->type == FLAG_BOOL) {
		r = mc_args_bool(flag->name, text, field, err);
	} else if (flag->type == FLAG_TEXT) {
		*(const char **)field = text;
	} else if (flag->type == FLAG_SECONDS) {
		r = mc_args_seconds(flag->name, text, field, err);
	} else {
		r = mc_args_number(flag->name, text, flag->type == FLAG_COUNT, flag->min, flag->max, field, err);
	}
	if (r == 0)
		o->set |= UINT64_C(1) << (flag - flags);
	return r;
}

size_t msc_list_len(const char *list)
{
	size_t n = 1;

	for (; *list; list++)
		n += *list == ',';
	return n;
}

int msc_list_item(const char *list, size_t idx, char *buf, size_t cap)
{
	size_t len;

	for (; idx && strchr(list, ','); idx--)
		list = strchr(list, ',') + 1;
	len = strcspn(list, ",");
	if (!len || len >= cap)
		return -EINVAL;
	memcpy(buf, list, len);
	buf[len] = '\0';
	return 0;
}

/* ---- the command line ------------------------------------------------------------------------- */

static const char *verb_name(size_t verb)
{
	return verbs[verb].name;
}

static int verb_set(struct msc_options *o, const char *word, struct mc_error *err)
{
	size_t i;
	int r = mc_args_verb(word, verb_name, MC_ARRAY_SIZE(verbs), "serve, put, get, rm, ls, stat, bench; mooncake_store --help",
			     &i, err);

	if (r == 0)
		o->verb = verbs[i].verb;
	return r;
}

static bool given(const struct msc_options *o, const char *name)
{
	for (size_t i = 0; i < MC_ARRAY_SIZE(flags); i++)
		if (strcmp(flags[i].name, name) == 0)
			return o->set >> i & 1;
	return false;
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
	struct msc_options *o = ctx;

	if (!o->has_verb) {
		o->has_verb = true;
		return verb_set(o, word, err);
	}
	o->args[o->nr_args++] = word;
	return 0;
}

int msc_options_parse(struct msc_options *o, int argc, char **argv, struct mc_config *config, struct mc_error *err)
{
	const struct mc_args args = {.ctx = o,
				     .config = config,
				     .example = "--size=4G",
				     .nr_flags = MC_ARRAY_SIZE(flags),
				     .name = arg_name,
				     .alias = arg_alias,
				     .bare = arg_bare,
				     .apply = arg_apply,
				     .word = arg_word};

	int r;

	o->args = argv;
	r = mc_args_parse(&args, argc, argv, err);
	if (!given(o, "checksum"))
		o->checksum = o->verb != MSC_BENCH;
	return r;
}

/* ---- together --------------------------------------------------------------------------------- */

static int check_serve(const struct msc_options *o, struct mc_error *err)
{
	size_t nr = msc_list_len(o->size), at = msc_list_len(o->location);
	char item[64];
	uint64_t bytes;

	if (!*o->size)
		return mc_fail(err, -EINVAL, "serve: --size is missing: how much to lend, as --size=4G");
	for (size_t i = 0; i < nr; i++)
		if (msc_list_item(o->size, i, item, sizeof item) < 0 || mc_text_parse_size(item, &bytes) < 0 || !bytes)
			return mc_fail(err, -EINVAL, "flag --size: '%s' is no size and no list of sizes, as 4G or 4G,8G", o->size);
	if (*o->location && at != 1 && at != nr)
		return mc_fail(err, -EINVAL, "flag --location: %zu of them for %zu sizes; write one, or one for each", at, nr);
	for (size_t i = 0; *o->location && i < at; i++)
		if (msc_list_item(o->location, i, item, sizeof item) < 0)
			return mc_fail(err, -EINVAL, "flag --location: '%s' is no location and no list of locations", o->location);
	return 0;
}

static int check_rm(const struct msc_options *o, struct mc_error *err)
{
	int ways = (o->nr_args > 0) + (*o->prefix != '\0') + (*o->regex != '\0') + o->all;

	if (ways == 0)
		return mc_fail(err, -EINVAL, "rm: what to remove is missing: KEY..., --prefix=P, --regex=E or --all");
	if (ways > 1)
		return mc_fail(err, -EINVAL, "rm: one of KEY..., --prefix, --regex and --all at a time");
	return 0;
}

static int check_bench(const struct msc_options *o, struct mc_error *err)
{
	static const char *const of_trace[] = {"capacities", "block", "svg", "master_program"}, *const of_speed[] = {"op", "size", "batch", "jobs",
				       "duration", "keys", "check", "replicas", "preferred", "location", "checksum"};
	uint64_t bytes;

	for (size_t i = 0; !*o->trace && i < MC_ARRAY_SIZE(of_trace); i++)
		if (given(o, of_trace[i]))
			return mc_fail(err, -EINVAL, "flag --%s: it is for --trace, which is not there", of_trace[i]);
	for (size_t i = 0; *o->trace && i < MC_ARRAY_SIZE(of_speed); i++)
		if (given(o, of_speed[i]))
			return mc_fail(err, -EINVAL, "flag --%s: it is not for --trace", of_speed[i]);
	if (strcmp(o->op, "put") != 0 && strcmp(o->op, "get") != 0 && strcmp(o->op, "exist") != 0)
		return mc_fail(err, -EINVAL, "flag --op: '%s' is none of put, get and exist", o->op);
	if (*o->size && (mc_text_parse_size(o->size, &bytes) < 0 || !bytes || bytes > UINT64_C(1) << 34))
		return mc_fail(err, -EINVAL, "flag --size: '%s' is not a size from 1 to 16G", o->size);
	if (given(o, "keys") && o->keys < o->batch)
		return mc_fail(err, -EINVAL, "flag --keys: %" PRIu64 " are less than a batch of %" PRIu64, o->keys, o->batch);
	return 0;
}

int msc_options_check(const struct msc_options *o, struct mc_error *err)
{
	size_t v = 0;

	if (!o->verb)
		return mc_fail(err, -EINVAL, "what to do is missing: serve, put, get, rm, ls, stat or bench; mooncake_store --help");
	while (verbs[v].verb != o->verb)
		v++;
	if (o->nr_args < verbs[v].min_args)
		return mc_fail(err, -EINVAL, "%s: it takes %s; mooncake_store --help", verbs[v].name, verbs[v].args);
	if (o->nr_args > verbs[v].max_args)
		return mc_fail(err, -EINVAL, "%s: '%s' is one too many; it takes %s", verbs[v].name, o->args[verbs[v].max_args],
			       verbs[v].args);
	for (size_t i = 0; i < MC_ARRAY_SIZE(flags); i++)
		if ((o->set >> i & 1) && flags[i].verbs && !(flags[i].verbs >> o->verb & 1))
			return mc_fail(err, -EINVAL, "flag --%s is not for %s", flags[i].name, verbs[v].name);
	if (o->json && strcmp(o->output, "-") == 0)
		return mc_fail(err, -EINVAL, "flags --json and -o -: both write to stdout; leave one out");
	if (o->soft_pin && o->hard_pin)
		return mc_fail(err, -EINVAL, "flags --soft_pin and --hard_pin: one of them");
	return o->verb == MSC_SERVE ? check_serve(o, err) : o->verb == MSC_RM ? check_rm(o, err) :
	       o->verb == MSC_BENCH ? check_bench(o, err) : 0;
}

/* ---- help ------------------------------------------------------------------------------------- */

void msc_help_full(FILE *f, const struct mc_config *config)
{
	fputs("Flags of mooncake_store:\n", f);
	for (size_t i = 0; i < MC_ARRAY_SIZE(flags); i++)
		fprintf(f, "  --%-14s %s\n", flags[i].name, flags[i].doc);
	fputs("Config keys, with what they are now:\n", f);
	mc_args_help_keys(f, config);
}

/* clang-format off */
void msc_help(FILE *f)
{
	fputs("Values by key, in memory that its clients lend; mooncake_master knows where.\n"
	      "  mooncake_master --dir=/var/lib/mooncake &\n"
	      "  mooncake_store serve --size=4G &\n"
	      "  mooncake_store put prompt.kv ./block && mooncake_store get prompt.kv -o -\n"
	      "Verbs:\n"
	      "  serve --size=BYTES     lend memory; SIGTERM takes it back; --location=cxl:0\n"
	      "  put KEY FILE|-         --replace --replicas=N --soft_pin --hard_pin\n"
	      "  get KEY [-o FILE|-]    --offset=N --len=N; --force writes over a file\n"
	      "  rm KEY...              or --prefix=P, --regex=E, --all; --force: leased too\n"
	      "  ls [PREFIX]            keys             stat KEY    where it lies\n"
	      "  stat                   the pool\n"
	      "  bench                  --op=put|get|exist --size=1M --batch=16 --jobs=1\n"
	      "                         --duration=5 --check; --trace=FILE: hit ratios\n"
	      "Flags:\n"
	      "  --metadata_server=URL  file:///dir (default: one per user), etcd://host:2379\n"
	      "  --master=NAME          the master's engine; default mooncake_master\n"
	      "  --tenant=NAME          name space and quota    --timeout=S   default 30\n"
	      "  --json                 one object on stdout    --ready_file=F   serve is up\n"
	      "Every config key is a flag too: --log_level=debug; --config=FILE reads them;\n"
	      "--helpfull lists all; '-' is '_'.\n"
	      "Exit: 0 done (serve: ended by a signal), 1 failed, 2 usage.\n",
	      f);
}
/* clang-format on */
