/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The records of others: one that is asked for by name, the names closest to one
 * that does not exist, and all of them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "meta.h"
#include "core/util/check.h"

#define NR_CLOSEST 10

/* ---- one record --------------------------------------------------------------------------- */

int mc_record_key(struct mc_meta *m, const char *name, char key[MC_KV_KEY_MAX + 1], struct mc_error *err)
{
	int len = snprintf(key, MC_KV_KEY_MAX + 1, "%sengine/%s", m->prefix, name);

	if (len > MC_KV_KEY_MAX)
		return mc_fail(err, -ENAMETOOLONG, "segment '%s': cluster and name are too long", name);
	return 0;
}

struct get_ctx {
	const char *what;
	struct mc_record *record;
	int status;
	struct mc_error *err;
};

static int got(void *ctx, const struct mc_kv *kv)
{
	struct get_ctx *g = ctx;

	g->status = mc_record_parse(g->what, kv->value, kv->len, &g->record, g->err);
	if (g->status == 0)
		g->record->revision = kv->revision;
	return 0;
}

int mc_record_get(struct mc_meta *m, const char *name, uint64_t deadline_ns,
		  struct mc_record **ret_record, struct mc_error *err)
{
	char key[MC_KV_KEY_MAX + 1], what[MC_KV_KEY_MAX + 16];
	struct get_ctx g = {.what = what, .status = -ENOENT, .err = err};
	int r = mc_record_key(m, name, key, err);

	if (r < 0)
		return r;
	snprintf(what, sizeof what, "record '%s'", key);
	r = mc_meta_get(m, key, deadline_ns, got, &g, err);
	if (r < 0)
		return r;
	if (g.status == 0)
		*ret_record = g.record;
	return g.status;
}

/* ---- those with the closest names ---------------------------------------------------------- */

/* Edit distance, by bytes, of names of at most 255. */
static unsigned distance(const char *a, const char *b)
{
	unsigned row[MC_SEGMENT_NAME_MAX + 2];
	size_t na = strnlen(a, MC_SEGMENT_NAME_MAX), nb = strnlen(b, MC_SEGMENT_NAME_MAX);

	for (size_t j = 0; j <= nb; j++)
		row[j] = (unsigned)j;
	for (size_t i = 1; i <= na; i++) {
		unsigned diagonal = row[0];

		row[0] = (unsigned)i;
		for (size_t j = 1; j <= nb; j++) {
			unsigned change = diagonal + (a[i - 1] != b[j - 1]);

			diagonal = row[j];
			row[j] = MC_MIN(change, MC_MIN(row[j], row[j - 1]) + 1);
		}
	}
	return row[nb];
}

struct closest {
	const char *name, *self; /* who asks is no candidate */
	size_t nr, total;
	struct {
		char *name;
		unsigned distance;
	} best[NR_CLOSEST];
};

static int closest_one(void *ctx, const char *name)
{
	struct closest *c = ctx;
	unsigned d = distance(c->name, name);
	size_t at = c->nr;
	char *copy;

	if (strcmp(name, c->self) == 0)
		return 0;
	c->total++;
	while (at > 0 && c->best[at - 1].distance > d)
		at--;
	if (at == NR_CLOSEST || !(copy = strdup(name)))
		return 0;
	if (c->nr == NR_CLOSEST)
		free(c->best[--c->nr].name);
	memmove(&c->best[at + 1], &c->best[at], (c->nr - at) * sizeof c->best[0]);
	c->best[at].name = copy;
	c->best[at].distance = d;
	c->nr++;
	return 0;
}

static int not_found(struct mc_engine *engine, const char *name, uint64_t deadline_ns,
		     struct mc_error *err)
{
	struct closest c = {.name = name, .self = engine->name};
	char text[600];
	size_t at = 0;

	/* What came before the time was over is worth telling too. */
	mc_record_list(engine, deadline_ns, closest_one, &c, NULL);
	if (c.nr == 0)
		return mc_fail(err, -ENOENT,
			       "segment '%s': there is no such engine, nor any other, in cluster '%s' of "
			       "%s; start it, or name its metadata_server",
			       name, engine->set->cluster, engine->meta->url);
	text[0] = '\0';
	for (size_t i = 0; i < c.nr; i++) {
		if (at < sizeof text)
			at += (size_t)snprintf(text + at, sizeof text - at, "%s'%s'", i ? ", " : "",
					       c.best[i].name);
		free(c.best[i].name);
	}
	return mc_fail(err, -ENOENT, "segment '%s': there is no such engine in cluster '%s'; %s: %s%s",
		       name, engine->set->cluster, c.total > c.nr ? "the closest are" : "there are",
		       text, at >= sizeof text ? "..." : "");
}

int mc_record_find(struct mc_engine *engine, const char *name, uint64_t deadline_ns,
		   struct mc_record **ret_record, struct mc_error *err)
{
	int r;

	if (!engine->meta)
		return mc_fail(err, -ENOTCONN, "segment '%s': no metadata service is open", name);
	r = mc_record_get(engine->meta, name, deadline_ns, ret_record, err);
	return r == -ENOENT ? not_found(engine, name, deadline_ns, err) : r;
}

/* ---- all ------------------------------------------------------------------------------------- */

struct list_ctx {
	size_t strip;
	int (*each)(void *ctx, const char *name);
	void *ctx;
	int nr;
};

static int list_one(void *ctx, const struct mc_kv *kv)
{
	struct list_ctx *l = ctx;

	if (strlen(kv->key) <= l->strip)
		return 0;
	l->nr++;
	return l->each(l->ctx, kv->key + l->strip);
}

int mc_record_list(struct mc_engine *engine, uint64_t deadline_ns,
		   int (*each)(void *ctx, const char *name), void *ctx, struct mc_error *err)
{
	struct list_ctx l = {.each = each, .ctx = ctx};
	char prefix[MC_KV_KEY_MAX + 1];
	int r = mc_record_key(engine->meta, "", prefix, err);

	if (r < 0)
		return r;
	l.strip = strlen(prefix);
	r = mc_meta_list(engine->meta, prefix, deadline_ns, list_one, &l, err);
	return r < 0 ? r : l.nr;
}
