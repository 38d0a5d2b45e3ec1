/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The list of objects, and how many engines offer each: a few are asked after one by one, of many all sources are
 * read at once.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "p2p_impl.h"

#define FEW 8

struct row {
	struct mc_p2p_record record;
	struct mc_p2p_hash id; /* of the name */
	uint32_t nr_sources;
};

struct listing {
	struct mc_p2p *store;
	uint64_t deadline_ns;
	struct row **rows, **by_id; /* in the order of the service; by_id: the same, sorted */
	size_t nr, cap;
	struct mc_error *err;
};

/* ---- objects --------------------------------------------------------------------------------- */

static int add(struct listing *l, struct row *row)
{
	if (l->nr == l->cap) {
		size_t cap = l->cap ? 2 * l->cap : 16;
		struct row **rows = reallocarray(l->rows, cap, sizeof(struct row *));

		if (!rows)
			return -ENOMEM;
		l->rows = rows;
		l->cap = cap;
	}
	l->rows[l->nr++] = row;
	return 0;
}

static int on_record(void *ctx, const struct mc_kv_entry *e)
{
	struct listing *l = ctx;
	struct row *row = calloc(1, sizeof *row);
	struct mc_error why;
	int r;

	if (!row)
		return -ENOMEM;
	if (mc_p2p_record_parse(e->key + strlen(MC_P2P_OBJECTS), e->value, e->len, &row->record, &why) < 0) {
		mc_p2p_log(l->store, MC_LOG_WARN, "%s", why.text);
		free(row);
		return 0;
	}
	mc_p2p_record_free(&row->record); /* how it is cut is not told here */
	mc_p2p_hash(row->record.name, strlen(row->record.name), &row->id);
	r = add(l, row);
	if (r < 0)
		free(row);
	return r;
}

/* ---- sources --------------------------------------------------------------------------------- */

static int by_id(const void *a, const void *b)
{
	return memcmp(&(*(struct row *const *)a)->id, &(*(struct row *const *)b)->id, sizeof(struct mc_p2p_hash));
}

/* A key of a source, below any object. */
static int on_source(void *ctx, const struct mc_kv_entry *e)
{
	struct listing *l = ctx;
	struct row want, *wanted = &want, **found;
	const char *at = e->key + strlen(MC_P2P_SOURCES), *engine = strchr(at, '/');
	struct mc_p2p_offer offer;
	struct mc_error why;
	char id[33];

	if (!engine || engine - at != sizeof id - 1)
		return 0;
	memcpy(id, at, sizeof id - 1);
	id[sizeof id - 1] = '\0';
	if (mc_p2p_hash_parse(id, &want.id) < 0)
		return 0;
	found = bsearch(&wanted, l->by_id, l->nr, sizeof(struct row *), by_id);
	if (!found)
		return 0;
	if (mc_p2p_offer_parse((*found)->record.name, engine + 1, e->value, e->len, &offer, &why) < 0)
		mc_p2p_log(l->store, MC_LOG_DEBUG, "%s", why.text);
	else if (memcmp(&offer.root, &(*found)->record.root, sizeof offer.root) == 0)
		(*found)->nr_sources++;
	return 0;
}

static int count_sources(struct listing *l)
{
	char key[MC_P2P_KEY_MAX] = MC_P2P_SOURCES;
	int r = 0;

	if (!l->nr)
		return 0;
	l->by_id = calloc(l->nr, sizeof(struct row *));
	if (!l->by_id)
		return -ENOMEM;
	memcpy(l->by_id, l->rows, l->nr * sizeof(struct row *));
	qsort(l->by_id, l->nr, sizeof(struct row *), by_id);
	if (l->nr > FEW)
		return mc_kv_each(l->store->engine, key, mc_p2p_left(l->deadline_ns), on_source, l, l->err);
	for (size_t i = 0; r >= 0 && i < l->nr; i++) {
		mc_p2p_source_key(l->rows[i]->record.name, NULL, key);
		r = mc_kv_each(l->store->engine, key, mc_p2p_left(l->deadline_ns), on_source, l, l->err);
	}
	return r;
}

/* ---- both ------------------------------------------------------------------------------------ */

static int tell(const struct row *row, int (*each)(void *ctx, const struct mc_p2p_entry *entry), void *ctx)
{
	const struct mc_p2p_record *rec = &row->record;
	char root[MC_P2P_ROOT_SIZE];
	struct mc_p2p_entry entry = {
		.size = sizeof entry,
		.name = rec->name,
		.len = rec->size,
		.shard_size = rec->shard_size,
		.nr_shards = mc_p2p_nr_shards(rec->size, rec->shard_size),
		.attachment_len = (uint32_t)rec->attachment_len,
		.root = root,
		.created_by = rec->created_by,
		.created = rec->created,
		.nr_sources = row->nr_sources,
	};

	mc_p2p_hash_text(&rec->root, root);
	return each(ctx, &entry);
}

int mc_p2p_list(struct mc_p2p *store, const char *prefix, uint64_t timeout_ns,
		int (*each)(void *ctx, const struct mc_p2p_entry *entry), void *ctx, struct mc_error *err)
{
	struct listing l = {.store = store, .deadline_ns = mc_p2p_deadline(timeout_ns), .err = err};
	char key[MC_P2P_KEY_MAX];
	bool stop = false;
	int r, told = 0;

	if (!store || !each)
		return mc_fail(err, -EINVAL, "list: store and each may not be NULL");
	if (prefix && *prefix && mc_p2p_name_check(prefix, err) < 0)
		return -EINVAL;
	mc_p2p_object_key(prefix ? prefix : "", key);
	r = mc_kv_each(store->engine, key, timeout_ns, on_record, &l, err);
	if (r >= 0)
		r = count_sources(&l);
	if (r == -ENOMEM)
		mc_fail(err, r, "list: out of memory");
	for (size_t i = 0; i < l.nr; i++) {
		if (r >= 0 && !stop) {
			told++;
			stop = tell(l.rows[i], each, ctx) != 0;
		}
		free(l.rows[i]);
	}
	free(l.rows);
	free(l.by_id);
	return r < 0 ? r : told;
}
