/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mooncake segments: the records of a cluster's engines, as its metadata service
 * has them.  No engine is asked, and none hears of it.
 */
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli.h"
#include "core/clock.h"
#include "core/meta.h"
#include "core/util/check.h"
#include "core/util/cleanup.h"

struct segment {
	char *name; /* of its key */
	struct mc_json *json; /* NULL: why says what is wrong with the record */
	uint64_t lease;
	struct mc_error why;
};

struct look {
	size_t strip; /* bytes of keys before the name */
	struct segment *list;
	size_t nr, nr_broken;
	char *const *patterns; /* of names; nr_patterns 0: all */
	int nr_patterns;
};

static bool wanted(const struct look *l, const char *name)
{
	for (int i = 0; i < l->nr_patterns; i++) {
		if (fnmatch(l->patterns[i], name, 0) == 0)
			return true;
	}
	return !l->nr_patterns;
}

/* Called for each record, on a helper thread, while the caller waits. */
static int found(void *ctx, const struct mc_kv *kv)
{
	struct look *l = ctx;
	struct segment *more, *s;
	struct mc_record *record = NULL;
	char what[300];

	if (strlen(kv->key) <= l->strip || !wanted(l, kv->key + l->strip))
		return 0;
	more = reallocarray(l->list, l->nr + 1, sizeof *more);
	if (!more)
		return -ENOMEM;
	l->list = more;
	s = &more[l->nr];
	*s = (struct segment){.name = strdup(kv->key + l->strip), .lease = kv->lease};
	if (!s->name)
		return -ENOMEM;
	l->nr++;
	snprintf(what, sizeof what, "record '%s'", s->name);
	/* First as an engine reads it, then for what it does not need. */
	if (mc_record_parse(what, kv->value, kv->len, &record, &s->why) < 0 ||
	    mc_json_parse(what, kv->value, kv->len, &s->json, &s->why) < 0)
		l->nr_broken++;
	mc_record_free(record);
	return 0;
}

static int look(const struct cli *cli, struct look *l, uint64_t timeout_ns)
{
	uint64_t deadline = mc_now_ns() + timeout_ns;
	char prefix[MC_KV_KEY_MAX + 1];
	struct mc_engine *engine;
	struct mc_error err = {0};
	int r;

	if (mc_engine_open_aside(cli->config, deadline, &engine, &err) < 0)
		return cli_error(cli, CLI_FAILED, "%s", err.text);
	snprintf(prefix, sizeof prefix, "%sengine/", engine->meta->prefix);
	l->strip = strlen(prefix);
	r = mc_meta_list(engine->meta, prefix, deadline, found, l, &err);
	mc_engine_close(engine, MC_SEC);
	return r < 0 ? cli_error(cli, CLI_FAILED, "%s", err.text) : CLI_OK;
}

static void look_fini(struct look *l)
{
	for (size_t i = 0; i < l->nr; i++) {
		free(l->list[i].name);
		mc_json_free(l->list[i].json);
	}
	free(l->list);
}

/* ---- telling ---------------------------------------------------------------------------------- */

/* The strings of an array, or of one member of its objects, with blanks between. */
static void join(const struct mc_json *record, const char *list, const char *member, char *buf, size_t cap)
{
	const struct mc_json *array = mc_json_get(record, list);
	size_t at = 0;

	buf[0] = '\0';
	if (!array || array->type != MC_JSON_ARRAY)
		return;
	for (size_t i = 0; i < array->list.nr && at < cap; i++) {
		const struct mc_json *item = &array->list.items[i];
		const char *text = item->type == MC_JSON_STRING ? item->s : NULL;

		if (member && item->type == MC_JSON_OBJECT)
			text = mc_json_str(item, member, NULL);
		if (text)
			at += (size_t)snprintf(buf + at, cap - at, "%s%s", at ? " " : "", text);
	}
}

/* Seconds since it was written, by the clocks of two hosts; -1: it does not say when. */
static int64_t age_of(const struct segment *s)
{
	int64_t published = s->json ? mc_json_int(s->json, "published", -1) : -1;
	int64_t now = time(NULL);

	if (published < 0)
		return -1;
	return now > published ? now - published : 0;
}

static void age_text(int64_t age, char *buf, size_t cap)
{
	if (age < 0)
		snprintf(buf, cap, "-");
	else if (age < 120)
		snprintf(buf, cap, "%d s", (int)age);
	else if (age < 120 * 60)
		snprintf(buf, cap, "%d min", (int)(age / 60));
	else if (age < 48 * 3600)
		snprintf(buf, cap, "%d h", (int)(age / 3600));
	else
		snprintf(buf, cap, "%lld d", (long long)(age / 86400));
}

static void print_text(const struct cli *cli, const struct look *l)
{
	static const char *const heading[] = {"segment", "generation", "age", "lease", "devices", "addresses"};
	struct cli_table t = {0};

	if (!l->nr) {
		printf("no engine%s in cluster '%s' of %s\n", l->nr_patterns ? " of this name" : "",
		       mc_config_get(cli->config, "cluster", NULL), mc_config_get(cli->config, "metadata_server", NULL));
		return;
	}
	cli_table_row(&t, MC_ARRAY_SIZE(heading), heading);
	for (size_t i = 0; i < l->nr; i++) {
		const struct segment *s = &l->list[i];
		char devices[512] = "", addresses[512] = "", generation[24] = "", age[32];

		if (s->json) {
			join(s->json, "devices", "device", devices, sizeof devices);
			join(s->json, "addresses", NULL, addresses, sizeof addresses);
			snprintf(generation, sizeof generation, "%016llx",
				 (unsigned long long)mc_json_hex(s->json, "generation", 0));
		}
		age_text(age_of(s), age, sizeof age);
		cli_table_row(&t, MC_ARRAY_SIZE(heading),
			      (const char *const[]){s->name, s->json ? generation : "broken", age,
						    s->lease ? "yes" : "no", devices, addresses});
	}
	cli_table_print(&t);
	for (size_t i = 0; i < l->nr; i++)
		if (!l->list[i].json)
			cli_line("error: %s", l->list[i].why.text);
}

static int print_json(const struct cli *cli, const struct look *l)
{
	struct mc_json_out *o = mc_json_out_new(true);

	mc_json_out_open(o, '{');
	cli_json_int(o, "schema", 1);
	cli_json_str(o, "metadata_server", mc_config_get(cli->config, "metadata_server", NULL));
	cli_json_str(o, "cluster", mc_config_get(cli->config, "cluster", NULL));
	cli_json_open(o, "segments", '[');
	for (size_t i = 0; i < l->nr; i++) {
		const struct segment *s = &l->list[i];

		mc_json_out_open(o, '{');
		cli_json_str(o, "segment", s->name);
		cli_json_bool(o, "leased", s->lease);
		if (age_of(s) >= 0)
			cli_json_int(o, "age_s", age_of(s));
		cli_json_str(o, "why", s->json ? NULL : s->why.text);
		if (s->json) {
			mc_json_out_key(o, "record");
			mc_json_out_json(o, s->json);
		}
		mc_json_out_close(o);
	}
	mc_json_out_close(o);
	mc_json_out_close(o);
	return cli_json_print(cli, o);
}

int cli_segments(int argc, char **argv)
{
	uint64_t timeout_ns = 5 * MC_SEC;
	bool json = false;
	const struct cli_option options[] = {
		{"json", CLI_FLAG, &json, NULL, "one JSON object, with the records as they are"},
		{"timeout", CLI_SECONDS, &timeout_ns, "SPAN", "for the metadata service; default 5s"},
		{0},
	};
	struct cli cli = {
		.verb = "segments",
		.args = "[NAME...]",
		.help = "The engines of a cluster: name, generation, age, lease, devices, addresses, as\n"
			"the metadata service has them; NAMEs may be patterns.  No engine is asked.\n"
			"Exit 1: a record is broken, or no engine has one of the NAMEs.\n"
			"  mooncake segments --metadata_server=etcd://node0:2379 'decode-*'\n",
		.options = options,
		.with = CLI_CONFIG,
		.max_args = -1,
	};
	struct look l = {0};
	int code = cli_parse(&cli, argc, argv);

	if (code < 0) {
		l.patterns = cli.argv;
		l.nr_patterns = cli.nr_args;
		code = look(&cli, &l, timeout_ns);
		if (code == CLI_OK && json)
			code = print_json(&cli, &l);
		else if (code == CLI_OK)
			print_text(&cli, &l);
		if (l.nr_broken || (!l.nr && l.nr_patterns))
			code = CLI_FAILED;
	}
	look_fini(&l);
	cli_fini(&cli);
	return code;
}
