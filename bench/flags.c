/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bench's flags: one table, gflags' spelling.  --flag=value, --flag value,
 * --bool, --nobool; dashes and underscores are the same; one leading dash will
 * do.  What the table lacks is looked up among the config keys; what neither
 * knows is refused with the closest known one.
 */
#include "flags.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <cli/program/args.h>
#include <cli/program/words.h>
#include <core/util/check.h>


enum flag_type {
	FLAG_BOOL,
	FLAG_COUNT,
	FLAG_SIZE,
	FLAG_INT,
	FLAG_SECONDS,
	FLAG_REAL,
	FLAG_STRING,
	FLAG_WORD,
	FLAG_RANGE, /* MIN:MAX, sizes; without a value SWEEP_RANGE */
};

struct flag {
	const char *name;
	enum flag_type type;
	size_t offset; /* of the field in struct bench_options */
	double min, max;
	const char *const *words;
	const char *doc;
};

#define GIB 1073741824.0
#define SWEEP_RANGE "4K:16M"
#define FIELD(f) offsetof(struct bench_options, f)

static const char *const mode_words[] = {"initiator", "target", NULL};
static const char *const operation_words[] = {"read", "write", NULL};

static const struct flag flags[] = {
	{"mode", FLAG_WORD, FIELD(mode), 0, 0, mode_words, "initiator or target"},
	{"segment_id", FLAG_STRING, FIELD(segment_id), 0, 0, NULL,
	 "the target's segment; default: the only other one; beside --job several, A,B"},
	{"operation", FLAG_WORD, FIELD(operation), 0, 0, operation_words, "read or write"},
	{"block_size", FLAG_SIZE, FIELD(block_size), 1, 16 * GIB, NULL, "bytes per request"},
	{"batch_size", FLAG_COUNT, FIELD(batch_size), 1, 1048576, NULL, "requests per batch"},
	{"threads", FLAG_COUNT, FIELD(threads), 1, 1024, NULL, "submitting threads"},
	{"duration", FLAG_SECONDS, FIELD(duration), 0, 31536000, NULL,
	 "seconds; initiator 0: one batch per thread; target 0 (its default): for ever"},
	{"warm_up", FLAG_SECONDS, FIELD(warm_up), 0, 3600, NULL,
	 "seconds of transferring before the measured time; default: one batch, 0.2 s in a sweep"},
	{"sweep", FLAG_RANGE, FIELD(sweep), 1, 16 * GIB, NULL,
	 "measure every block size MIN:MAX by powers of two, " SWEEP_RANGE " without a value; both "
	 "operations unless one is named"},
	{"job", FLAG_STRING, FIELD(job), 0, 0, NULL,
	 "a file of bench/jobs: what to transfer; other flags override its values"},
	{"seed", FLAG_COUNT, FIELD(seed), 1, 9007199254740992, NULL,
	 "beside --job: of its random numbers; default: drawn, and printed"},
	{"footprint", FLAG_SIZE, FIELD(footprint), 1, 65536 * GIB, NULL,
	 "beside --job: bytes of each target that it uses"},
	{"trace", FLAG_STRING, FIELD(trace), 0, 0, NULL,
	 "beside --job: the trace of requests to replay, JSON lines"},
	{"speed", FLAG_REAL, FIELD(speed), 0, 1e9, NULL,
	 "beside --job: replay a trace so many times faster; 0: without waiting"},
	{"buffer_size", FLAG_SIZE, FIELD(buffer_size), 4096, 65536 * GIB, NULL,
	 "bytes of each buffer of the target, one per NUMA node"},
	{"stride", FLAG_SIZE, FIELD(stride), 0, 32 * GIB, NULL,
	 "bytes from entry to entry; default: the block size (adjacent)"},
	{"hot", FLAG_BOOL, FIELD(hot), 0, 0, NULL, "all requests of a thread use one block"},
	{"prepared", FLAG_BOOL, FIELD(prepared), 0, 0, NULL, "submit a prepared list"},
	{"check", FLAG_BOOL, FIELD(check), 0, 0, NULL,
	 "verify seeded patterns at both ends; one initiator at a time"},
	{"init_mem", FLAG_BOOL, FIELD(init_mem), 0, 0, NULL, "fill the memory before the run"},
	{"json", FLAG_BOOL, FIELD(json), 0, 0, NULL, "one JSON object on stdout"},
	{"protocol", FLAG_STRING, FIELD(protocol), 0, 0, NULL, "use this transport only"},
	{"device_name", FLAG_STRING, FIELD(device_name), 0, 0, NULL,
	 "comma-separated devices to use"},
	{"auto_discovery", FLAG_BOOL, FIELD(auto_discovery), 0, 0, NULL,
	 "let the engine find devices, as it does without a matrix"},
	{"location", FLAG_STRING, FIELD(location), 0, 0, NULL,
	 "where our buffer lies, such as cxl:0; default: one on each NUMA node"},
	{"use_vram", FLAG_BOOL, FIELD(use_vram), 0, 0, NULL, "memory of a GPU instead of the host"},
	{"gpu_id", FLAG_INT, FIELD(gpu_id), -1, 1023, NULL, "which GPU, by itself also --use_vram; -1: a buffer on each"},
	{"report_unit", FLAG_STRING, FIELD(report_unit), 0, 0, NULL,
	 "GB, GiB, Gb, MB, MiB, Mb, KB, KiB or Kb"},
	{"report_precision", FLAG_COUNT, FIELD(report_precision), 0, 9, NULL, "decimals"},
	{"ready_fd", FLAG_INT, FIELD(ready_fd), 0, 1048576, NULL,
	 "target: write 'NAME PORT' there when ready"},
	{"ready_file", FLAG_STRING, FIELD(ready_file), 0, 0, NULL,
	 "target: create this file with 'NAME PORT' when ready"},
	{"config", FLAG_STRING, FIELD(config), 0, 0, NULL, "config file"},
	{"help", FLAG_BOOL, FIELD(help), 0, 0, NULL, "one screen of help"},
	{"helpfull", FLAG_BOOL, FIELD(helpfull), 0, 0, NULL, "every flag and config key"},
	{"version", FLAG_BOOL, FIELD(version), 0, 0, NULL, "print the version"},
};

static_assert(MC_ARRAY_SIZE(flags) <= 64, "one bit per flag in bench_options.set");

void bench_options_init(struct bench_options *opts)
{
	*opts = (struct bench_options){
		.mode = BENCH_INITIATOR,
		.operation = MC_OP_READ,
		.segment_id = "",
		.location = "",
		.protocol = "",
		.device_name = "",
		.job = "",
		.trace = "",
		.speed = 1,
		.block_size = 65536,
		.batch_size = 128,
		.threads = 12,
		.buffer_size = UINT64_C(1) << 30,
		.duration = 10,
		.init_mem = true,
		.report_unit = "GB",
		.report_precision = 2,
		.ready_fd = -1,
		.ready_file = "",
		.config = "",
	};
}

/* ---- values ---------------------------------------------------------------------------------- */

static int range_error(const struct flag *flag, const char *text, struct mc_error *err)
{
	return mc_fail(err, -EINVAL, "flag --%s: '%s' is not a number from %.0f to %.0f",
		       flag->name, text, flag->min, flag->max);
}

static int parse_integer(const struct flag *flag, const char *text, int64_t *ret,
			 struct mc_error *err)
{
	int64_t value;

	if (mc_word_number(text, flag->type == FLAG_SIZE, &value) < 0 ||
	    (double)value < flag->min || (double)value > flag->max)
		return range_error(flag, text, err);
	*ret = value;
	return 0;
}

/* "4K:16M", "4K-16M", or one size. */
static int parse_range(const struct flag *flag, const char *text, struct bench_range *ret,
		       struct mc_error *err)
{
	const struct flag size = {
		.name = flag->name, .type = FLAG_SIZE, .min = flag->min, .max = flag->max};
	size_t len = strcspn(text, ":-");
	const char *end = text[len] ? text + len + 1 : text;
	int64_t min = 0, max = 0;
	char first[64];

	snprintf(first, sizeof first, "%.*s", (int)MC_MIN(len, sizeof first - 1), text);
	if (len >= sizeof first || parse_integer(&size, first, &min, NULL) < 0 ||
	    parse_integer(&size, end, &max, NULL) < 0 || min > max)
		return mc_fail(err, -EINVAL,
			       "flag --%s: '%s' is not a range of sizes, as " SWEEP_RANGE
			       ", from %.0f to %.0f",
			       flag->name, text, flag->min, flag->max);
	*ret = (struct bench_range){(uint64_t)min, (uint64_t)max};
	return 0;
}

static int parse_seconds(const struct flag *flag, const char *text, double *ret,
			 struct mc_error *err)
{
	double value;

	if (mc_word_seconds(text, &value) < 0 || value < flag->min || value > flag->max)
		return range_error(flag, text, err);
	*ret = value;
	return 0;
}

static int parse_real(const struct flag *flag, const char *text, double *ret, struct mc_error *err)
{
	double value;

	if (mc_word_real(text, &value) < 0 || value < flag->min || value > flag->max)
		return range_error(flag, text, err);
	*ret = value;
	return 0;
}

static int parse_word(const struct flag *flag, const char *text, int *ret, struct mc_error *err)
{
	char list[128];
	size_t used = 0;

	list[0] = '\0';
	for (int i = 0; flag->words[i]; i++) {
		if (strcmp(flag->words[i], text) == 0) {
			*ret = i;
			return 0;
		}
		used += (size_t)snprintf(list + used, sizeof list - used, "%s'%s'", i ? " or " : "",
					 flag->words[i]);
	}
	return mc_fail(err, -EINVAL, "flag --%s: '%s' is not %s", flag->name, text, list);
}

static int flag_apply(struct bench_options *opts, const struct flag *flag, const char *text,
		      struct mc_error *err)
{
	void *field = (char *)opts + flag->offset;
	int64_t number = 0;
	int r = 0;

	switch (flag->type) {
	case FLAG_BOOL:
		r = mc_args_bool(flag->name, text, field, err);
		break;
	case FLAG_COUNT:
	case FLAG_SIZE:
	case FLAG_INT: /* int64_t and uint64_t fields; max is far below either's limit */
		r = parse_integer(flag, text, &number, err);
		if (r == 0)
			memcpy(field, &number, sizeof number);
		break;
	case FLAG_SECONDS:
		r = parse_seconds(flag, text, field, err);
		break;
	case FLAG_REAL:
		r = parse_real(flag, text, field, err);
		break;
	case FLAG_STRING:
		*(const char **)field = text;
		break;
	case FLAG_WORD:
		r = parse_word(flag, text, field, err);
		break;
	case FLAG_RANGE:
		r = parse_range(flag, text, field, err);
		break;
	}
	if (r == 0)
		opts->set |= UINT64_C(1) << (flag - flags);
	return r;
}

/* ---- names ------------------------------------------------------------------------------------
 */

static const struct flag *flag_find(const char *name)
{
	for (size_t i = 0; i < MC_ARRAY_SIZE(flags); i++) {
		if (strcmp(flags[i].name, name) == 0)
			return &flags[i];
	}
	return NULL;
}

static const char *arg_name(size_t flag)
{
	return flags[flag].name;
}

static const char *arg_alias(const char *name)
{
	return strcmp(name, "h") == 0 ? "help" : NULL;
}

static const char *arg_bare(size_t flag)
{
	return flags[flag].type == FLAG_BOOL ? "true" : flags[flag].type == FLAG_RANGE ? SWEEP_RANGE : NULL;
}

static int arg_apply(void *ctx, size_t flag, const char *value, struct mc_error *err)
{
	return flag_apply(ctx, &flags[flag], value, err);
}

int bench_options_parse(struct bench_options *opts, int argc, char **argv, struct mc_config *config,
			struct mc_error *err)
{
	const struct mc_args args = {.ctx = opts,
				     .config = config,
				     .example = "--mode=target",
				     .nr_flags = MC_ARRAY_SIZE(flags),
				     .name = arg_name,
				     .alias = arg_alias,
				     .bare = arg_bare,
				     .apply = arg_apply};

	return mc_args_parse(&args, argc, argv, err);
}

bool bench_option_given(const struct bench_options *opts, const char *name)
{
	const struct flag *flag = flag_find(name);

	return flag && (opts->set >> (flag - flags) & 1);
}

/* ---- showing them
 * ---------------------------------------------------------------------------------- */

static void flag_text(const struct bench_options *opts, const struct flag *flag, char *buf,
		      size_t cap)
{
	const void *field = (const char *)opts + flag->offset;
	const struct bench_range *range = field;
	int64_t number;

	switch (flag->type) {
	case FLAG_BOOL:
		snprintf(buf, cap, "%s", *(const bool *)field ? "true" : "false");
		break;
	case FLAG_COUNT:
	case FLAG_SIZE:
	case FLAG_INT:
		memcpy(&number, field, sizeof number);
		snprintf(buf, cap, "%" PRId64, number);
		break;
	case FLAG_SECONDS:
	case FLAG_REAL:
		snprintf(buf, cap, "%g", *(const double *)field);
		break;
	case FLAG_STRING:
		snprintf(buf, cap, "%s", *(const char *const *)field);
		break;
	case FLAG_WORD:
		snprintf(buf, cap, "%s", flag->words[*(const int *)field]);
		break;
	case FLAG_RANGE:
		buf[0] = '\0';
		if (range->min)
			snprintf(buf, cap, "%" PRIu64 ":%" PRIu64, range->min, range->max);
		break;
	}
}

void bench_options_each(const struct bench_options *opts,
			void (*each)(void *ctx, const char *name, const char *value, bool quote),
			void *ctx)
{
	char text[4096];

	for (size_t i = 0; i < MC_ARRAY_SIZE(flags); i++) {
		flag_text(opts, &flags[i], text, sizeof text);
		each(ctx, flags[i].name, text,
		     flags[i].type == FLAG_STRING || flags[i].type == FLAG_WORD ||
			     flags[i].type == FLAG_RANGE);
	}
}

static int help_key(void *ctx, const struct mc_config_key *key)
{
	bool changed = key->value && strcmp(key->value, key->def ? key->def : "") != 0;

	fprintf(ctx, "  --%s  %s%s%s, default '%s'%s%s%s%s%s\n      %s\n", key->key,
		key->type ? key->type : "", *key->range ? " " : "", key->range,
		key->def ? key->def : "", changed ? ", now '" : "",
		changed ? key->value : "", changed ? "'" : "", key->env ? ", env " : "",
		key->env ? key->env : "", key->doc ? key->doc : "");
	return 0;
}

void bench_help_full(FILE *f, const struct bench_options *opts, const struct mc_config *config)
{
	struct bench_options defaults;
	char text[64], now[4096];

	bench_options_init(&defaults);
	fputs("Flags of the bench:\n", f);
	for (size_t i = 0; i < MC_ARRAY_SIZE(flags); i++) {
		flag_text(&defaults, &flags[i], text, sizeof text);
		flag_text(opts, &flags[i], now, sizeof now);
		fprintf(f, "  --%s  default '%s'", flags[i].name, text);
		if (bench_option_given(opts, flags[i].name))
			fprintf(f, ", now '%s'", now);
		if (flags[i].max > 0)
			fprintf(f, ", %.0f to %.0f", flags[i].min, flags[i].max);
		fprintf(f, "\n      %s\n", flags[i].doc);
	}
	fputs("  --set KEY=VALUE\n      any config key\nConfig keys:\n", f);
	mc_config_each(config, help_key, f);
}
