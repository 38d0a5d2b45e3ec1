/* SPDX-License-Identifier: Apache-2.0 */
/* ls, stat and rm: what there is, where it lies, and away with it. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cli/program/text.h>
#include <core/util/check.h>

#include "program.h"

/* ---- ls --------------------------------------------------------------------------------------- */

struct row {
	char *key;
	size_t key_len;
	struct mc_store_entry entry; /* key is not ours */
};

struct rows {
	struct row *list;
	size_t nr, cap;
};

static int add_row(void *ctx, const struct mc_store_entry *e)
{
	struct rows *rows = ctx;
	struct row *row;

	if (rows->nr == rows->cap) {
		size_t cap = rows->cap ? 2 * rows->cap : 256;
		struct row *more = reallocarray(rows->list, cap, sizeof *more);

		if (!more)
			return 1;
		rows->list = more;
		rows->cap = cap;
	}
	row = &rows->list[rows->nr];
	*row = (struct row){.key = malloc(e->key_len + 1), .key_len = e->key_len, .entry = *e};
	if (!row->key)
		return 1;
	memcpy(row->key, e->key, e->key_len);
	rows->nr++;
	return 0;
}

static int compare_rows(const void *a, const void *b)
{
	const struct row *x = a, *y = b;
	int r = memcmp(x->key, y->key, MC_MIN(x->key_len, y->key_len));

	return r ? r : (x->key_len > y->key_len) - (x->key_len < y->key_len);
}

static const char *pin_text(const struct mc_store_entry *e)
{
	return e->hard_pinned ? "hard" : e->soft_pin_ns ? "soft" : "";
}

static void print_row(const struct row *row, bool json, bool first)
{
	const struct mc_store_entry *e = &row->entry;
	char size[MC_TEXT_MAX];

	if (json) {
		fputs(first ? "\n{" : ",\n{", stdout);
		msc_print_key(row->key, row->key_len, true);
		printf(", \"size\": %" PRIu64 ", \"replicas\": %u, \"complete\": %s, \"lease_ms\": %" PRIu64 ", \"soft_pin_ms\": %" PRIu64
		       ", \"hard_pinned\": %s}", e->len, e->nr_replicas, e->complete ? "true" : "false",
		       e->lease_ns / MC_MSEC, e->soft_pin_ns / MC_MSEC, e->hard_pinned ? "true" : "false");
		return;
	}
	printf("%10s  %8u  %6.1f s  %-4s  %s", mc_text_size(e->len, size), e->nr_replicas, (double)e->lease_ns / 1e9, pin_text(e),
	       e->complete ? "" : "(being put) ");
	msc_print_key(row->key, row->key_len, false);
	putchar('\n');
}

int msc_ls(const struct msc_options *o, struct mc_config *config)
{
	struct msc_session s;
	struct rows rows = {0};
	struct mc_error err = {0};
	int r = msc_session_open(&s, o, config, true, &err), code = MSC_EXIT_OK;

	if (r >= 0)
		r = mc_store_list(s.store, o->nr_args ? o->args[0] : "", msc_timeout(o), add_row, &rows, &err);
	if (r >= 0 && rows.nr < (size_t)r)
		r = mc_fail(&err, -ENOMEM, "no memory for all %d objects; ask for some, by a prefix", r);
	if (rows.nr)
		qsort(rows.list, rows.nr, sizeof *rows.list, compare_rows);
	if (r < 0) {
		code = msc_fail(o, &s, &err);
	} else {
		if (o->json)
			fputs("{\"objects\": [", stdout);
		else if (rows.nr)
			printf("%10s  %8s  %8s  %-4s  %s\n", "SIZE", "REPLICAS", "LEASE", "PIN", "KEY");
		for (size_t i = 0; i < rows.nr; i++)
			print_row(&rows.list[i], o->json, i == 0);
		if (o->json)
			puts("]}");
	}
	msc_session_close(&s);
	for (size_t i = 0; i < rows.nr; i++)
		free(rows.list[i].key);
	free(rows.list);
	return code;
}

/* ---- stat ------------------------------------------------------------------------------------- */

static void print_pool(const struct msc_options *o, const struct mc_store_info *i)
{
	char used[MC_TEXT_MAX], lent[MC_TEXT_MAX];

	if (o->json) {
		printf("{\"epoch\": %" PRIu64 ", \"lent\": %" PRIu64 ", \"used\": %" PRIu64 ", \"objects\": %" PRIu64 ", \"segments\": %" PRIu64
		       ", \"clients\": %" PRIu64 ", \"lease_ms\": %" PRIu64 ", \"version_min\": %u, \"version_max\": %u}\n",
		       i->epoch, i->lent, i->used, i->nr_objects, i->nr_segments, i->nr_clients, i->lease_ns / MC_MSEC,
		       i->version_min, i->version_max);
		return;
	}
	printf("pool       %s of %s used", mc_text_size(i->used, used), mc_text_size(i->lent, lent));
	if (i->lent)
		printf(" (%.1f %%)", (double)i->used * 100 / (double)i->lent);
	printf("\nobjects    %" PRIu64 "\nsegments   %" PRIu64 "\nclients    %" PRIu64 "\n", i->nr_objects, i->nr_segments, i->nr_clients);
	fputs("master     ", stdout);
	mc_text_tame(stdout, o->master);
	printf(", its life number %" PRIu64 "; leases of %.1f s; protocol %u to %u\n", i->epoch, (double)i->lease_ns / 1e9,
	       i->version_min, i->version_max);
}

struct places {
	bool json;
	size_t nr;
};

static int print_place(void *ctx, const struct mc_store_place *p)
{
	struct places *places = ctx;
	char len[MC_TEXT_MAX];

	if (places->json) {
		printf("%s{\"replica\": %u, \"engine\": ", places->nr ? ", " : "", p->replica);
		mc_text_json(stdout, p->engine);
		printf(", \"size\": %" PRIu64 "}", p->len);
	} else {
		printf("%s replica %u: ", places->nr ? "\n          " : "place     ", p->replica);
		mc_text_tame(stdout, p->engine);
		printf(", %s", mc_text_size(p->len, len));
	}
	places->nr++;
	return 0;
}

struct finding {
	const char *key;
	struct rows rows;
};

/* The list by the key as a prefix holds the key itself; the rest of it is not kept. */
static int add_match(void *ctx, const struct mc_store_entry *e)
{
	struct finding *f = ctx;

	if (e->key_len != strlen(f->key) || memcmp(e->key, f->key, e->key_len) != 0)
		return 0;
	add_row(&f->rows, e);
	return 1;
}

static int stat_key(const struct msc_options *o, struct msc_session *s, struct mc_error *err)
{
	struct finding f = {.key = o->args[0]};
	struct places places = {.json = o->json};
	int r = mc_store_list(s->store, f.key, msc_timeout(o), add_match, &f, err);
	char size[MC_TEXT_MAX];

	if (r < 0)
		return r;
	if (!f.rows.nr) {
		free(f.rows.list);
		return mc_fail(err, -ENOENT, "key '%s': there is no such value", f.key);
	}
	if (o->json) {
		fputs("{\"object\": ", stdout);
		print_row(&f.rows.list[0], true, true);
		fputs(", \"places\": [", stdout);
	} else {
		const struct mc_store_entry *e = &f.rows.list[0].entry;

		fputs("key        ", stdout);
		msc_print_key(f.key, strlen(f.key), false);
		printf("\nsize       %s (%" PRIu64 " bytes)\nlease      %.1f s left\n", mc_text_size(e->len, size), e->len,
		       (double)e->lease_ns / 1e9);
		if (*pin_text(e))
			printf("pin        %s\n", pin_text(e));
	}
	r = mc_store_locate(s->store, f.key, strlen(f.key), msc_timeout(o), print_place, &places, err);
	puts(o->json ? "]}" : "");
	free(f.rows.list[0].key);
	free(f.rows.list);
	/* It is being put, its memory is not mounted again yet, or it went meanwhile: no place is the answer. */
	return r == -ENOENT || r == -EAGAIN ? 0 : r;
}

int msc_stat(const struct msc_options *o, struct mc_config *config)
{
	struct mc_store_info info = {.size = sizeof info};
	struct msc_session s;
	struct mc_error err = {0};
	int r = msc_session_open(&s, o, config, true, &err), code = MSC_EXIT_OK;

	if (r == 0 && o->nr_args) {
		r = stat_key(o, &s, &err);
	} else if (r == 0) {
		r = mc_store_info(s.store, msc_timeout(o), &info, &err);
		if (r == 0)
			print_pool(o, &info);
	}
	if (r < 0)
		code = msc_fail(o, &s, &err);
	msc_session_close(&s);
	return code;
}

/* ---- rm --------------------------------------------------------------------------------------- */

/* Keys one by one; how many went, and the first that did not says why. */
static int remove_keys(const struct msc_options *o, struct msc_session *s, uint64_t *removed, uint64_t *refused, struct mc_error *err)
{
	int first = 0;

	for (size_t i = 0; i < o->nr_args; i++) {
		struct mc_error why = {0};
		int r = mc_store_remove(s->store, o->args[i], strlen(o->args[i]), o->force ? MC_STORE_FORCE : 0, msc_timeout(o), &why);

		*removed += r == 0;
		*refused += r == -EBUSY;
		if (r == 0 || first)
			continue;
		first = r == -ENOENT ? mc_fail(err, r, "key '%s': there is no such value", o->args[i]) :
			r == -EBUSY ? mc_fail(err, r, "key '%s': it is leased or pinned; --force removes it", o->args[i]) :
				      mc_fail(err, r, "%s", why.text);
	}
	return first;
}

int msc_rm(const struct msc_options *o, struct mc_config *config)
{
	uint32_t flags = o->force ? MC_STORE_FORCE : 0;
	uint64_t removed = 0, refused = 0;
	struct msc_session s;
	struct mc_error err = {0};
	int r = msc_session_open(&s, o, config, true, &err), code = MSC_EXIT_OK;

	if (r == 0 && o->nr_args) {
		r = remove_keys(o, &s, &removed, &refused, &err);
	} else if (r == 0) {
		r = *o->regex ? mc_store_remove_regex(s.store, o->regex, flags, msc_timeout(o), &refused, &err) :
				mc_store_remove_prefix(s.store, o->all ? "" : o->prefix, flags, msc_timeout(o), &refused, &err);
		removed = r > 0 ? (uint64_t)r : 0;
		s.usage = r == -EINVAL;
		if (r >= 0 && refused)
			r = mc_fail(&err, -EBUSY, "%" PRIu64 " removed; leased or pinned and still there: %" PRIu64 "; --force removes them, too",
				    removed, refused);
	}
	if (r < 0)
		code = msc_fail(o, &s, &err);
	else if (o->json)
		printf("{\"removed\": %" PRIu64 "}\n", removed);
	else
		printf("removed %" PRIu64 " value%s\n", removed, removed == 1 ? "" : "s");
	msc_session_close(&s);
	return code;
}
