/* SPDX-License-Identifier: Apache-2.0 */
/* ls, stat and rm: what there is, who has it, and away with it. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <cli/program/tell.h>
#include <cli/program/text.h>

#include "manifest.h"
#include "program.h"

#define LS_MAX (UINT64_C(1) << 20) /* rows that are kept to be aligned and sorted */

static int fail(const struct p2pc_options *o, const struct p2pc_session *s, const struct mc_error *err)
{
	return p2pc_tell_error(o, err->text, s->usage ? P2PC_EXIT_USAGE : P2PC_EXIT_FAILED);
}

static void json_text(const char *key, const char *value)
{
	printf("\"%s\": ", key);
	mc_text_json(stdout, value);
}

/* ---- ls --------------------------------------------------------------------------------------- */

struct row {
	char *name, *created_by, *created;
	uint64_t len, shard_size;
	uint32_t nr_shards, nr_sources;
	char root[MC_P2P_ROOT_SIZE];
};

struct rows {
	struct row *list;
	size_t nr, cap;
};

static int add_row(void *ctx, const struct mc_p2p_entry *e)
{
	struct rows *rows = ctx;
	struct row *row;

	if (rows->nr == rows->cap) {
		size_t cap = rows->cap ? rows->cap * 2 : 64;
		struct row *more = cap > LS_MAX ? NULL : reallocarray(rows->list, cap, sizeof *more);

		if (!more)
			return 1;
		rows->list = more;
		rows->cap = cap;
	}
	row = &rows->list[rows->nr];
	*row = (struct row){
		.name = strdup(e->name),
		.created_by = strdup(e->created_by),
		.created = strdup(e->created),
		.len = e->len,
		.shard_size = e->shard_size,
		.nr_shards = e->nr_shards,
		.nr_sources = e->nr_sources,
	};
	snprintf(row->root, sizeof row->root, "%s", e->root);
	rows->nr++;
	return row->name && row->created_by && row->created ? 0 : 1;
}

static int compare_rows(const void *a, const void *b)
{
	const struct row *x = a, *y = b;

	return x->name && y->name ? strcmp(x->name, y->name) : 0;
}

static size_t width(const char *s)
{
	size_t n = 0;

	for (; *s; s++)
		n += ((unsigned char)*s & 0xc0) != 0x80;
	return n;
}

static void print_table(const struct rows *rows)
{
	size_t widest = 4;

	for (size_t i = 0; i < rows->nr; i++)
		widest = width(rows->list[i].name) > widest ? width(rows->list[i].name) : widest;
	if (rows->nr)
		printf("%-*s  %10s  %7s  %7s  %-20s  %s\n", (int)widest, "NAME", "SIZE", "SHARDS", "SOURCES", "SINCE",
		       "FIRST OFFERED BY");
	for (size_t i = 0; i < rows->nr; i++) {
		const struct row *r = &rows->list[i];
		char size[MC_TEXT_MAX], sources[16] = "none";

		if (r->nr_sources)
			snprintf(sources, sizeof sources, "%u", r->nr_sources);
		mc_text_tame(stdout, r->name);
		printf("%*s  %10s  %7u  %7s  %-20s  ", (int)(widest - width(r->name)), "", mc_text_size(r->len, size),
		       r->nr_shards, sources, r->created);
		mc_text_tame(stdout, r->created_by);
		putchar('\n');
	}
}

static void print_json(const struct rows *rows)
{
	fputs("{\"objects\": [", stdout);
	for (size_t i = 0; i < rows->nr; i++) {
		const struct row *r = &rows->list[i];

		fputs(i ? ", {" : "{", stdout);
		json_text("name", r->name);
		printf(", \"size\": %" PRIu64 ", \"shards\": %u, \"shard_size\": %" PRIu64 ", \"root\": \"%s\", \"sources\": %u, ", r->len,
		       r->nr_shards, r->shard_size, r->root, r->nr_sources);
		json_text("created_by", r->created_by);
		fputs(", ", stdout);
		json_text("created", r->created);
		putchar('}');
	}
	puts("]}");
}

int p2pc_ls(const struct p2pc_options *o, struct mc_config *config)
{
	const char *prefix = o->nr_args ? o->args[0] : "";
	struct p2pc_session s;
	struct rows rows = {0};
	struct mc_error err = {0};
	int r = p2pc_session_open(&s, o, config, true, &err), code = P2PC_EXIT_OK;

	if (r >= 0)
		r = mc_p2p_list(s.store, prefix, p2pc_timeout(o, P2PC_ASK_NS), add_row, &rows, &err);
	if (r >= 0 && rows.nr < (size_t)r)
		r = mc_fail(&err, -1, "no memory for all %d objects; ask for some, by a prefix", r);
	if (rows.nr)
		qsort(rows.list, rows.nr, sizeof *rows.list, compare_rows);
	if (r < 0)
		code = fail(o, &s, &err);
	else if (o->json)
		print_json(&rows);
	else
		print_table(&rows);
	p2pc_session_close(&s);
	for (size_t i = 0; i < rows.nr; i++) {
		free(rows.list[i].name);
		free(rows.list[i].created_by);
		free(rows.list[i].created);
	}
	free(rows.list);
	return code;
}

/* ---- stat ------------------------------------------------------------------------------------- */

static void print_sources(const struct mc_p2p_info *info)
{
	for (size_t i = 0; i < info->nr_sources; i++) {
		const struct mc_p2p_source *s = &info->sources[i];

		fputs(i ? "           " : "sources    ", stdout);
		mc_text_tame(stdout, s->engine);
		printf("  %s", s->role == MC_P2P_SEED ? "seed" : "replica");
		if (!s->answers)
			fputs("  does not answer", stdout);
		else
			printf("  %u of %u shards", s->have, info->nr_shards);
		if (s->same_host)
			fputs("  this host", stdout);
		if (*s->rack) {
			fputs("  rack ", stdout);
			mc_text_tame(stdout, s->rack);
		}
		putchar('\n');
	}
	if (!info->nr_sources)
		puts("sources    none: nobody offers it now");
}

static void print_info(const struct mc_p2p_info *info, const struct p2pc_manifest *m)
{
	char text[MC_TEXT_MAX];

	fputs("name       ", stdout);
	mc_text_tame(stdout, info->name);
	printf("\nsize       %s (%" PRIu64 " bytes)\n", mc_text_size(info->len, text), info->len);
	printf("shards     %u of %s\n", info->nr_shards, mc_text_size(info->shard_size, text));
	printf("root       %s\ncreated    %s by ", info->root, info->created);
	mc_text_tame(stdout, info->created_by);
	putchar('\n');
	print_sources(info);
	for (size_t i = 0; i < m->nr; i++) {
		fputs(i ? "           " : "files      ", stdout);
		mc_text_tame(stdout, m->entries[i].path);
		if (m->entries[i].dir)
			puts("/  an empty folder");
		else
			printf("  %s%s\n", mc_text_size(m->entries[i].size, text), m->entries[i].exec ? "  executable" : "");
	}
}

/* What the object is, as JSON.  Whether it has a manifest is in its record, what that says only at its sources. */
static const char *kind(const struct mc_p2p_info *info, const struct p2pc_manifest *m)
{
	if (m->nr)
		return m->tree ? "\"tree\"" : "\"file\"";
	return info->attachment_len && !info->attachment ? "null" : "\"memory\"";
}

static void print_info_json(const struct mc_p2p_info *info, const struct p2pc_manifest *m)
{
	putchar('{');
	json_text("name", info->name);
	printf(", \"size\": %" PRIu64 ", \"shards\": %u, \"shard_size\": %" PRIu64 ", \"root\": \"%s\", ", info->len, info->nr_shards,
	       info->shard_size, info->root);
	json_text("created_by", info->created_by);
	fputs(", ", stdout);
	json_text("created", info->created);
	fputs(", \"sources\": [", stdout);
	for (size_t i = 0; i < info->nr_sources; i++) {
		const struct mc_p2p_source *s = &info->sources[i];

		fputs(i ? ", {" : "{", stdout);
		json_text("engine", s->engine);
		fputs(", ", stdout);
		json_text("rack", s->rack);
		printf(", \"role\": \"%s\", \"same_host\": %s, \"answers\": %s, \"shards\": %u}",
		       s->role == MC_P2P_SEED ? "seed" : "replica", s->same_host ? "true" : "false", s->answers ? "true" : "false",
		       s->have);
	}
	printf("], \"kind\": %s, \"files\": [", kind(info, m));
	for (size_t i = 0; i < m->nr; i++) {
		fputs(i ? ", {" : "{", stdout);
		json_text("path", m->entries[i].path);
		if (m->entries[i].dir)
			fputs(", \"dir\": true}", stdout);
		else
			printf(", \"size\": %" PRIu64 ", \"mode\": \"%s\"}", m->entries[i].size, m->entries[i].exec ? "0755" : "0644");
	}
	puts("]}");
}

int p2pc_stat(const struct p2pc_options *o, struct mc_config *config)
{
	struct p2pc_session s;
	struct p2pc_manifest m = {0};
	struct mc_p2p_info *info = NULL;
	struct mc_error err = {0};
	int r = p2pc_session_open(&s, o, config, true, &err), code = P2PC_EXIT_OK;

	if (r == 0)
		r = mc_p2p_stat(s.store, o->args[0], p2pc_timeout(o, P2PC_ASK_NS), &info, &err);
	if (r < 0) {
		code = fail(o, &s, &err);
	} else {
		if (info->attachment && p2pc_manifest_parse(info->attachment, info->attachment_len, &m, &err) < 0)
			mc_tell("warning: '%s': %s", o->args[0], err.text);
		if (o->json)
			print_info_json(info, &m);
		else
			print_info(info, &m);
	}
	p2pc_manifest_free(&m);
	mc_p2p_info_free(info);
	p2pc_session_close(&s);
	return code;
}

/* ---- rm --------------------------------------------------------------------------------------- */

int p2pc_rm(const struct p2pc_options *o, struct mc_config *config)
{
	struct p2pc_session s;
	struct mc_error err = {0};
	uint32_t told = 0;
	int r = p2pc_session_open(&s, o, config, true, &err), code = P2PC_EXIT_OK;

	if (r == 0)
		r = mc_p2p_remove(s.store, o->args[0], p2pc_timeout(o, P2PC_ASK_NS), &told, &err);
	if (r < 0) {
		code = fail(o, &s, &err);
	} else if (o->json) {
		putchar('{');
		json_text("removed", o->args[0]);
		printf(", \"told\": %u}\n", told);
	} else {
		fputs("removed '", stdout);
		mc_text_tame(stdout, o->args[0]);
		printf("'; %u engine%s serve%s it no more\n", told, told == 1 ? "" : "s", told == 1 ? "s" : "");
	}
	p2pc_session_close(&s);
	return code;
}
