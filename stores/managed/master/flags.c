/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Flags of mooncake_master, under the public project's names where it has them.  The
 * file of --config_path is one JSON object with the same names and values, and with
 * keys of the engine; the command line wins over it.
 */
#include "flags.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <mooncake/allocator.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yajl/yajl_tree.h>

#include <cli/program/args.h>
#include <cli/program/join.h>
#include <cli/program/text.h>
#include <cli/program/words.h>
#include <core/util/check.h>

#define FILE_LEN_MAX (1u << 20)

enum flag_type { FLAG_BOOL, FLAG_TEXT, FLAG_COUNT, FLAG_SIZE, FLAG_SECONDS, FLAG_MILLISECONDS, FLAG_RATIO, FLAG_STRATEGY, FLAG_KEY };

struct flag {
	const char *name;
	enum flag_type type;
	size_t offset;
	uint64_t min, max; /* of a count, a size, or a time in seconds */
	const char *key;   /* FLAG_KEY: of the engine's config */
	const char *doc;
};

#define FIELD(f) offsetof(struct master_flags, f)
#define LIMIT(f) offsetof(struct master_flags, limits.f)

static const struct flag flags[] = {
	{"dir", FLAG_TEXT, FIELD(dir), 0, 0, NULL, "folder of the log, so that a restart keeps what is cached; none: nothing is kept"},
	{"threads", FLAG_COUNT, FIELD(threads), 1, 256, NULL, "for large batches and long searches; default: by the number of cores"},
	{"default_kv_lease_ttl", FLAG_MILLISECONDS, LIMIT(lease_ns), 1, 86400, NULL,
	 "of a read: what was found stays so long; milliseconds, or with a unit; default 10s"},
	{"default_kv_soft_pin_ttl", FLAG_MILLISECONDS, LIMIT(soft_pin_ns), 1, 31536000, NULL, "likewise of a soft pin; default 30min"},
	{"allow_evict_soft_pinned_objects", FLAG_BOOL, FIELD(evict_soft_pinned), 0, 0, NULL,
	 "when nothing else is left; default true"},
	{"eviction_high_watermark_ratio", FLAG_RATIO, LIMIT(high_watermark), 0, 0, NULL,
	 "share of the lent memory from which on objects are evicted; default 0.90"},
	{"eviction_ratio", FLAG_RATIO, LIMIT(eviction_ratio), 0, 0, NULL, "share that is evicted at a time; default 0.05"},
	{"client_ttl", FLAG_SECONDS, LIMIT(client_ttl_ns), 1, 3600, NULL,
	 "after so long without a sign of life a client is gone, and its memory; default 10"},
	{"put_start_discard_timeout_sec", FLAG_SECONDS, LIMIT(put_ttl_ns), 1, 3600, NULL,
	 "a put that has not ended by then is given up; default 30"},
	{"allocation_strategy", FLAG_STRATEGY, LIMIT(strategy), 0, 0, NULL, "random (default), free_ratio_first or local_first"},
	{"mean_object_size", FLAG_SIZE, LIMIT(mean_object), 256, UINT64_C(1) << 40, NULL,
	 "about how large objects are; only what eviction remembers follows from it; default 1M"},
	{"rpc_port", FLAG_KEY, 0, 0, 0, "port", "the one port of all, as --port; default " MASTER_PORT},
	{"rpc_address", FLAG_KEY, 0, 0, 0, "listen_address", "address to listen on, as --listen_address; default: all"},
	{"config_path", FLAG_TEXT, FIELD(config_path), 0, 0, NULL,
	 "a JSON object of flags and engine keys: {\"client_ttl\": 10, \"dir\": \"/var/lib/mooncake\"}"},
	{"config", FLAG_TEXT, FIELD(config_file), 0, 0, NULL, "a config file of the engine, below MC_* variables and flags"},
	{"ready_file", FLAG_TEXT, FIELD(ready_file), 0, 0, NULL, "written when it serves, for scripts: NAME PORT"},
	{"help", FLAG_BOOL, FIELD(help), 0, 0, NULL, "one screen"},
	{"helpfull", FLAG_BOOL, FIELD(helpfull), 0, 0, NULL, "all flags and config keys"},
	{"version", FLAG_BOOL, FIELD(version), 0, 0, NULL, "which this is"},
};

/* ---- values ------------------------------------------------------------------------------------ */

static int bad(const struct flag *flag, const char *text, struct mc_error *err, const char *what)
{
	return mc_fail(err, -EINVAL, "flag --%s: '%s' is no %s", flag->name, text, what);
}

/* Seconds, or milliseconds where a number has no unit. */
static int apply_time(const struct flag *flag, const char *text, uint64_t *ret_ns, struct mc_error *err)
{
	bool unit = text[strspn(text, "0123456789.")];
	double v;

	if (mc_text_parse_seconds(text, &v) < 0)
		return bad(flag, text, err, "time; write 10s, 500ms, 10min or 2h");
	if (flag->type == FLAG_MILLISECONDS && !unit)
		v /= 1000;
	if (v > (double)flag->max || v < (flag->type == FLAG_MILLISECONDS ? 0.001 : 0.1))
		return mc_fail(err, -EINVAL, "flag --%s: '%s' is not a time from %s to %" PRIu64 " s", flag->name, text,
			       flag->type == FLAG_MILLISECONDS ? "1 ms" : "100 ms", flag->max);
	*ret_ns = (uint64_t)(v * 1e9);
	return 0;
}

static int apply_strategy(const struct flag *flag, const char *text, uint32_t *ret, struct mc_error *err)
{
	static const struct {
		const char *name;
		uint32_t strategy;
	} known[] = {{"random", MC_POOL_RANDOM}, {"free_ratio_first", MC_POOL_FREE_RATIO}, {"local_first", MC_POOL_LOCAL}};

	for (size_t i = 0; i < MC_ARRAY_SIZE(known); i++) {
		if (strcmp(text, known[i].name) == 0) {
			*ret = known[i].strategy;
			return 0;
		}
	}
	return bad(flag, text, err, "strategy: random, free_ratio_first or local_first");
}

static int flag_apply(struct master_flags *f, const struct flag *flag, const char *text, struct mc_error *err)
{
	void *field = (char *)f + flag->offset;
	double ratio;
	int r = 0;

	switch (flag->type) {
	case FLAG_BOOL:
		r = mc_args_bool(flag->name, text, field, err);
		break;
	case FLAG_TEXT:
		*(const char **)field = text;
		break;
	case FLAG_COUNT:
	case FLAG_SIZE:
		r = mc_args_number(flag->name, text, flag->type == FLAG_COUNT, flag->min, flag->max, field, err);
		break;
	case FLAG_SECONDS:
	case FLAG_MILLISECONDS:
		r = apply_time(flag, text, field, err);
		break;
	case FLAG_RATIO:
		if (mc_word_real(text, &ratio) < 0 || ratio <= 0 || ratio > 1)
			r = bad(flag, text, err, "share; write a number above 0, up to 1");
		else
			*(double *)field = ratio;
		break;
	case FLAG_STRATEGY:
		r = apply_strategy(flag, text, field, err);
		break;
	case FLAG_KEY:
		r = mc_config_set(f->config, flag->key, text, err);
		break;
	}
	if (r == 0)
		f->set |= UINT64_C(1) << (flag - flags);
	return r;
}

/* ---- the file ---------------------------------------------------------------------------------- */

static int read_file(const char *path, char **ret_text, struct mc_error *err)
{
	struct stat st;
	char *text = NULL;
	size_t len = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), r = 0;

	if (fd < 0 || fstat(fd, &st) < 0)
		r = -errno;
	else if (!S_ISREG(st.st_mode))
		r = S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL;
	else if (st.st_size > (off_t)FILE_LEN_MAX)
		r = -EFBIG;
	if (r == 0 && !(text = malloc((size_t)st.st_size + 1)))
		r = -ENOMEM;
	while (r == 0 && len < (size_t)st.st_size) {
		ssize_t n = read(fd, text + len, (size_t)st.st_size - len);

		if (n <= 0) {
			r = n < 0 ? -errno : 0;
			break;
		}
		len += (size_t)n;
	}
	if (fd >= 0)
		close(fd);
	if (r < 0) {
		free(text);
		return mc_fail(err, r, "config file '%s': %s", path, strerror(-r));
	}
	text[len] = '\0';
	*ret_text = text;
	return 0;
}

static const char *arg_alias(const char *name)
{
	static const char *const others[][2] = {{"h", "help"}, {"rpc_thread_num", "threads"}, {"max_threads", "threads"}};

	for (size_t i = 0; i < MC_ARRAY_SIZE(others); i++)
		if (strcmp(name, others[i][0]) == 0)
			return others[i][1];
	return NULL;
}

static const char *arg_name(size_t flag)
{
	return flags[flag].name;
}

/* No flag, and by *why no key of the engine either. */
static int unknown(const char *name, struct mc_error *why)
{
	struct mc_error key = *why;
	size_t best, closest = mc_word_closest(name, arg_name, MC_ARRAY_SIZE(flags), &best);

	if (best <= 2)
		return mc_fail(why, -EINVAL, "unknown key (did you mean '%s'?)", flags[closest].name);
	return mc_fail(why, -EINVAL, "%.300s; flags of the master: mooncake_master --helpfull", key.text);
}

/* A member of the file, which the command line has not set. */
static int apply_member(struct master_flags *f, const char *path, const char *name, yajl_val v, struct mc_error *err)
{
	const char *text = YAJL_IS_STRING(v)   ? YAJL_GET_STRING(v)
			   : YAJL_IS_NUMBER(v) ? YAJL_GET_NUMBER(v)
			   : YAJL_IS_TRUE(v)   ? "true"
			   : YAJL_IS_FALSE(v)  ? "false"
					       : NULL;
	enum mc_origin origin = MC_ORIGIN_DEFAULT;
	struct mc_error why = {0};
	size_t i = 0;
	int r;

	if (!text)
		return mc_fail(err, -EINVAL, "config file '%s': '%.100s' must be a text, a number, true or false", path, name);
	while (i < MC_ARRAY_SIZE(flags) && strcmp(flags[i].name, arg_alias(name) ? arg_alias(name) : name) != 0)
		i++;
	if (i == MC_ARRAY_SIZE(flags) || flags[i].type == FLAG_KEY) {
		const char *key = i < MC_ARRAY_SIZE(flags) ? flags[i].key : name;

		mc_config_get(f->config, key, &origin);
		r = origin == MC_ORIGIN_FLAG || origin == MC_ORIGIN_ENV ? 0 : mc_config_set(f->config, key, text, &why);
		if (r == -ENOENT)
			r = unknown(name, &why);
	} else {
		r = f->set >> i & 1 ? 0 : flag_apply(f, &flags[i], text, &why);
	}
	return r < 0 ? mc_fail(err, -EINVAL, "config file '%s': '%.100s': %s", path, name, why.text) : 0;
}

static int load_file(struct master_flags *f, struct mc_error *err)
{
	char what[256] = "";
	yajl_val tree;
	int r = read_file(f->config_path, &f->texts, err);

	if (r < 0)
		return r;
	tree = yajl_tree_parse(f->texts, what, sizeof what);
	what[strcspn(what, "\n")] = '\0';
	if (!tree || !YAJL_IS_OBJECT(tree))
		r = mc_fail(err, -EINVAL, "config file '%s': %s", f->config_path,
			    tree ? "it must be one JSON object" : *what ? what : "it is empty");
	for (size_t i = 0; r == 0 && i < YAJL_GET_OBJECT(tree)->len; i++)
		r = apply_member(f, f->config_path, YAJL_GET_OBJECT(tree)->keys[i], YAJL_GET_OBJECT(tree)->values[i], err);
	f->tree = tree; /* flags point into it */
	return r;
}

/* ---- the command line -------------------------------------------------------------------------- */

static const char *arg_bare(size_t flag)
{
	return flags[flag].type == FLAG_BOOL ? "true" : NULL;
}

static int arg_apply(void *ctx, size_t flag, const char *value, struct mc_error *err)
{
	return flag_apply(ctx, &flags[flag], value, err);
}

/* What a master is when nobody says otherwise: found under its name, at its port. */
static int engine_defaults(struct mc_config *config, struct mc_error *err)
{
	static const char *const defaults[][2] = {
		{"local_server_name", MASTER_NAME}, {"port", MASTER_PORT}, {"log_level", "warn"}};
	int r = 0;

	for (size_t i = 0; r == 0 && i < MC_ARRAY_SIZE(defaults); i++)
		r = mc_join_default(config, defaults[i][0], defaults[i][1], err);
	return r;
}

int master_flags_parse(struct master_flags *f, int argc, char **argv, struct mc_config *config, struct mc_error *err)
{
	const struct mc_args args = {.ctx = f,
				     .config = config,
				     .example = "--dir=/var/lib/mooncake",
				     .nr_flags = MC_ARRAY_SIZE(flags),
				     .name = arg_name,
				     .alias = arg_alias,
				     .bare = arg_bare,
				     .apply = arg_apply};
	int r;

	*f = (struct master_flags){.config = config,
				   .dir = "",
				   .config_path = "",
				   .config_file = "",
				   .ready_file = "",
				   .evict_soft_pinned = true,
				   .limits = {.size = sizeof f->limits,
					      .lease_ns = 10 * MC_SEC,
					      .soft_pin_ns = 1800 * MC_SEC,
					      .high_watermark = 0.90,
					      .eviction_ratio = 0.05,
					      .client_ttl_ns = 10 * MC_SEC,
					      .put_ttl_ns = 30 * MC_SEC,
					      .granule = 256,
					      .strategy = MC_POOL_RANDOM,
					      .mean_object = 1u << 20}};
	r = mc_args_parse(&args, argc, argv, err);
	if (r == 0 && *f->config_path && !f->help && !f->helpfull)
		r = load_file(f, err);
	if (r == 0)
		r = engine_defaults(config, err);
	f->limits.keep_soft_pinned = !f->evict_soft_pinned;
	return r;
}

void master_flags_fini(struct master_flags *f)
{
	yajl_tree_free(f->tree);
	free(f->texts);
	f->tree = NULL;
	f->texts = NULL;
}

/* ---- help -------------------------------------------------------------------------------------- */

void master_help_full(FILE *f, const struct mc_config *config)
{
	fputs("Flags of mooncake_master:\n", f);
	for (size_t i = 0; i < MC_ARRAY_SIZE(flags); i++)
		fprintf(f, "  --%-32s %s\n", flags[i].name, flags[i].doc);
	fputs("Config keys of its engine, with what they are now:\n", f);
	mc_args_help_keys(f, config);
}

/* clang-format off */
void master_help(FILE *f)
{
	fputs("The master of a managed store: it knows where values lie; bytes never pass it.\n"
	      "  mooncake_master --dir=/var/lib/mooncake                          (one machine)\n"
	      "  mooncake_master --dir=/var/lib/mooncake --metadata_server=10.0.0.1:2379\n"
	      "  mooncake_store serve --size=16G --metadata_server=10.0.0.1:2379\n"
	      "Flags:\n"
	      "  --dir=DIR               keeps what is cached over a restart; none: all is lost\n"
	      "  --port=N                the one port, rpc and HTTP; default " MASTER_PORT "\n"
	      "  --local_server_name=N   clients find it by this name; default " MASTER_NAME "\n"
	      "  --metadata_server=URL   file:///dir (default: one per user), etcd://host:2379\n"
	      "  --default_kv_lease_ttl=T           of a read; default 10s\n"
	      "  --default_kv_soft_pin_ttl=T        default 30min\n"
	      "  --allow_evict_soft_pinned_objects  when nothing else is left; default true\n"
	      "  --eviction_high_watermark_ratio=R  share in use that starts eviction; 0.90\n"
	      "  --eviction_ratio=R                 share that is evicted at a time; 0.05\n"
	      "  --client_ttl=S                     a silent client is gone after this; 10\n"
	      "  --put_start_discard_timeout_sec=S  an unfinished put is given up; 30\n"
	      "  --allocation_strategy=S            random, free_ratio_first, local_first\n"
	      "  --config_path=FILE      JSON with these names and values; the line wins\n"
	      "Each config key of the engine is a flag too; --helpfull lists all; '-' is '_'.\n"
	      "On the port: /metrics, /health, /segments, /objects?prefix=P, /tenants, and by\n"
	      "POST /segments/drain?segment=ID.  Exit: 0 by a signal, 1 failed, 2 usage.\n",
	      f);
}
/* clang-format on */
