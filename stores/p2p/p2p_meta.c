/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The record of an object and the keys of its sources.  The record is made by compare-and-swap and never changed;
 * the last source takes it away, and makes it again if another one has joined in between.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "p2p_impl.h"

#define TRIES 8
#define YIELD_NS MC_SEC /* for another owner of our name to leave; a clerk gives up later */
#define YIELD_LOOK_NS 20000000

struct reading {
	struct mc_p2p_record *record;
	const char *name;
	uint64_t revision;
	struct mc_error *err;
};

static int on_record(void *ctx, const struct mc_kv_entry *e)
{
	struct reading *r = ctx;

	r->revision = e->revision;
	return mc_p2p_record_parse(r->name, e->value, e->len, r->record, r->err);
}

int mc_p2p_record_read(struct mc_p2p *store, const char *name, uint64_t deadline_ns, struct mc_p2p_record *ret,
		       uint64_t *ret_revision, struct mc_error *err)
{
	struct mc_error why = {0}, mine = {0};
	struct reading reading = {.record = ret, .name = name, .err = &mine};
	char key[MC_P2P_KEY_MAX];
	int r;

	mc_p2p_object_key(name, key);
	r = mc_kv_read(store->engine, key, mc_p2p_left(deadline_ns), on_record, &reading, &why);
	if (r < 0)
		return mine.code ? mc_fail(err, mine.code, "%s", mine.text)
				 : mc_fail(err, r, "object '%s': %s", name, r == -ENOENT ? "there is none" : why.text);
	if (ret_revision)
		*ret_revision = reading.revision;
	return 0;
}

/* ---- sources --------------------------------------------------------------------------------- */

struct listing {
	struct mc_p2p *store;
	const char *name;
	size_t prefix_len, nr, cap;
	struct p2p_offer_at *offers;
};

static int on_offer(void *ctx, const struct mc_kv_entry *e)
{
	struct listing *l = ctx;
	struct mc_error why;

	if (l->nr == l->cap) {
		size_t cap = l->cap ? 2 * l->cap : 16;
		struct p2p_offer_at *offers = reallocarray(l->offers, cap, sizeof *offers);

		if (!offers)
			return -ENOMEM;
		l->offers = offers;
		l->cap = cap;
	}
	if (mc_p2p_offer_parse(l->name, e->key + l->prefix_len, e->value, e->len, &l->offers[l->nr].offer, &why) < 0) {
		mc_p2p_log(l->store, MC_LOG_DEBUG, "%s", why.text);
		return 0;
	}
	l->offers[l->nr++].revision = e->revision;
	return 0;
}

int mc_p2p_offers_read(struct mc_p2p *store, const char *name, uint64_t deadline_ns, struct p2p_offer_at **ret,
		       size_t *ret_nr, struct mc_error *err)
{
	struct listing l = {.store = store, .name = name};
	struct mc_error why = {0};
	char prefix[MC_P2P_KEY_MAX];
	int r;

	mc_p2p_source_key(name, NULL, prefix);
	l.prefix_len = strlen(prefix);
	r = mc_kv_each(store->engine, prefix, mc_p2p_left(deadline_ns), on_offer, &l, &why);
	if (r < 0) {
		free(l.offers);
		return mc_fail(err, r, "object '%s': its sources: %s", name, r == -ENOMEM ? "out of memory" : why.text);
	}
	*ret = l.offers;
	*ret_nr = l.nr;
	return 0;
}

/* How many engines but us offer an object of this name: all, those with this root, or those with another. */
enum which { ANY_ROOT, THIS_ROOT, OTHER_ROOTS };

static int others(const struct p2p_object *o, enum which which, uint64_t deadline_ns, struct mc_error *err)
{
	struct p2p_offer_at *offers = NULL;
	size_t nr = 0;
	int r = mc_p2p_offers_read(o->store, o->name, deadline_ns, &offers, &nr, err), found = 0;

	for (size_t i = 0; r == 0 && i < nr; i++) {
		bool same = memcmp(&offers[i].offer.root, &o->layout.root, sizeof o->layout.root) == 0;

		if (strcmp(offers[i].offer.engine, mc_engine_name(o->store->engine)) != 0 &&
		    (which == ANY_ROOT || same == (which == THIS_ROOT)))
			found++;
	}
	free(offers);
	return r < 0 ? r : found;
}

/* ---- the record ------------------------------------------------------------------------------ */

static char *print_record(const struct p2p_object *o)
{
	struct mc_p2p_record *record = calloc(1, sizeof *record);
	time_t now = time(NULL);
	char *text = NULL;
	struct tm tm;

	if (!record)
		return NULL;
	memcpy(record->name, o->name, sizeof record->name);
	snprintf(record->created_by, sizeof record->created_by, "%s", mc_engine_name(o->store->engine));
	strftime(record->created, sizeof record->created, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
	record->size = o->layout.size;
	record->shard_size = o->layout.shard_size;
	record->attachment_len = o->layout.attachment_len;
	record->root = o->layout.root;
	record->nr_sizes = MC_MIN(o->map.nr, MC_P2P_SIZES_TOLD);
	record->sizes = calloc(record->nr_sizes, sizeof *record->sizes);
	for (size_t i = 0; record->sizes && i < record->nr_sizes; i++)
		record->sizes[i] = o->map.parts[i].len;
	if (record->sizes)
		text = mc_p2p_record_print(record);
	mc_p2p_record_free(record);
	free(record);
	return text;
}

static int refuse(const struct p2p_object *o, const struct mc_p2p_record *there, struct mc_error *err)
{
	return mc_fail(err, -EEXIST,
		       "object '%s': engine '%s' has another one under this name (%llu bytes in shards of %llu), '%s' has %llu "
		       "bytes in shards of %llu; choose another name, or remove that one first",
		       o->name, there->created_by, (unsigned long long)there->size, (unsigned long long)there->shard_size,
		       mc_engine_name(o->store->engine), (unsigned long long)o->layout.size,
		       (unsigned long long)o->layout.shard_size);
}

/* What stands under our name: 1: the same object · 0: nothing, or, if that may be replaced, what nobody offers: *ret,
 * which the caller frees, and *ret_revision · -EEXIST. */
static int look(const struct p2p_object *o, bool replace, uint64_t deadline_ns, struct mc_p2p_record *ret,
		uint64_t *ret_revision, struct mc_error *err)
{
	int r = mc_p2p_record_read(o->store, o->name, deadline_ns, ret, ret_revision, err);

	if (r == -ENOENT) {
		*ret_revision = 0;
		return 0;
	}
	if (r < 0)
		return r;
	if (memcmp(&ret->root, &o->layout.root, sizeof ret->root) == 0 && ret->size == o->layout.size &&
	    ret->shard_size == o->layout.shard_size)
		return 1;
	r = replace ? others(o, ANY_ROOT, deadline_ns, err) : 1;
	return r > 0 ? refuse(o, ret, err) : r;
}

/* We have replaced a record that nobody offered.  Its owner may have published his key since we looked.  Then either he
 * finds ours and leaves, or he has found his own before, and it is put back. */
static int yield_to_owner(const struct p2p_object *o, const struct mc_p2p_record *was, uint64_t revision, uint64_t deadline_ns,
			  struct mc_error *err)
{
	const struct timespec nap = {.tv_nsec = YIELD_LOOK_NS};
	uint64_t until = MC_MIN(deadline_ns, mc_p2p_now() + YIELD_NS);
	char key[MC_P2P_KEY_MAX], *text;
	int r;

	while ((r = others(o, OTHER_ROOTS, deadline_ns, err)) > 0 && mc_p2p_now() < until)
		nanosleep(&nap, NULL);
	if (r <= 0)
		return r;
	text = mc_p2p_record_print(was);
	if (!text)
		return mc_fail(err, -ENOMEM, "object '%s': out of memory", o->name);
	mc_p2p_object_key(o->name, key);
	mc_kv_swap(o->store->engine, key, text, strlen(text), revision, 0, mc_p2p_left(deadline_ns), NULL, NULL);
	free(text);
	return refuse(o, was, err);
}

int mc_p2p_record_ensure(struct p2p_object *o, bool replace, uint64_t deadline_ns, struct mc_error *err)
{
	char key[MC_P2P_KEY_MAX], *text = print_record(o);
	int r = -EEXIST;

	if (!text)
		return mc_fail(err, -ENOMEM, "object '%s': out of memory", o->name);
	mc_p2p_object_key(o->name, key);
	for (int i = 0; i < TRIES; i++) {
		struct mc_p2p_record was = {.nr_sizes = 0};
		uint64_t revision = 0, ours = 0;

		r = look(o, replace, deadline_ns, &was, &revision, err);
		if (r != 0) {
			mc_p2p_record_free(&was);
			break;
		}
		r = mc_kv_swap(o->store->engine, key, text, strlen(text), revision, 0, mc_p2p_left(deadline_ns), &ours, err);
		if (r == 0 && revision)
			r = yield_to_owner(o, &was, ours, deadline_ns, err);
		else if (r == -EEXIST)
			r = -ESTALE; /* another has made one just now */
		mc_p2p_record_free(&was);
		if (r != -ESTALE)
			break;
	}
	free(text);
	return r > 0 ? 0 : r;
}

int mc_p2p_record_drop(struct p2p_object *o, uint64_t deadline_ns, struct mc_error *err)
{
	struct mc_p2p_record there = {.nr_sizes = 0};
	uint64_t revision = 0;
	char key[MC_P2P_KEY_MAX];
	bool ours;
	int r = others(o, THIS_ROOT, deadline_ns, err);

	if (r != 0)
		return r < 0 ? r : 0;
	r = mc_p2p_record_read(o->store, o->name, deadline_ns, &there, &revision, err);
	if (r == -ENOENT || r == -EBADMSG)
		return 0;
	if (r < 0)
		return r;
	ours = memcmp(&there.root, &o->layout.root, sizeof there.root) == 0;
	mc_p2p_record_free(&there);
	if (!ours)
		return 0;
	mc_p2p_object_key(o->name, key);
	r = mc_kv_remove(o->store->engine, key, revision, mc_p2p_left(deadline_ns), err);
	if (r == -ENOENT || r == -ESTALE)
		return 0;
	if (r < 0)
		return r;
	/* Who joined after we had looked saw the record, and counts on it. */
	r = others(o, THIS_ROOT, deadline_ns, err);
	return r > 0 ? mc_p2p_record_ensure(o, false, deadline_ns, err) : r;
}
