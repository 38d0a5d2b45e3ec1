/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sources of a get: opened, looked at, dropped.  What they tell is checked: the block's header against the
 * record, its hashes and attachment against the root.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "p2p_get.h"

#define RETRY_NS (2 * MC_SEC)  /* a source that failed is looked at again, later each time */
#define MAP_NS (3 * MC_SEC)    /* for a bitmap */

/* ---- reading of a block ---------------------------------------------------------------------- */

static int read_part(struct mc_p2p_get *g, const struct get_source *s, uint64_t off, uint8_t *to, uint64_t len,
		     struct mc_error *err)
{
	return mc_p2p_read(&g->reader, s->segment, s->offer.block + off, to, len, GET_WAIT_NS, err);
}

static int read_ranges(struct mc_p2p_get *g, struct get_source *s, struct mc_error *err)
{
	uint64_t len = (uint64_t)s->layout.nr_ranges * 16;
	uint8_t *bytes = malloc(len);
	int r;

	if (!bytes)
		return mc_fail(err, -ENOMEM, "out of memory");
	r = read_part(g, s, s->layout.ranges_off, bytes, len, err);
	if (r == 0)
		r = mc_p2p_ranges_parse(bytes, s->layout.nr_ranges, s->layout.size, &s->map, err);
	free(bytes);
	return r;
}

/* The hash list and the attachment, once per get. */
static int read_hashes(struct mc_p2p_get *g, const struct get_source *s, struct mc_error *err)
{
	const struct mc_p2p_block *b = &s->layout;
	uint64_t len = (uint64_t)b->nr_shards * MC_P2P_HASH_SIZE;
	uint8_t *hashes = malloc(len), *attachment = malloc(b->attachment_len + 1);
	struct mc_p2p_hash root, attached;
	int r = hashes && attachment ? 0 : mc_fail(err, -ENOMEM, "out of memory");

	if (r == 0)
		r = read_part(g, s, b->hashes_off, hashes, len, err);
	if (r == 0)
		r = read_part(g, s, b->attachment_off, attachment, b->attachment_len, err);
	if (r == 0) {
		mc_p2p_root(b->size, b->shard_size, hashes, b->nr_shards, b->attachment_len, &b->attachment_hash, &root);
		mc_p2p_hash(attachment, b->attachment_len, &attached);
		if (memcmp(&root, &g->record.root, sizeof root) != 0)
			r = mc_fail(err, -EBADMSG, "its list of hashes does not verify by the root");
		else if (b->attachment_len && memcmp(&attached, &b->attachment_hash, sizeof attached) != 0)
			r = mc_fail(err, -EBADMSG, "its attachment does not verify");
	}
	if (r < 0) {
		free(hashes);
		free(attachment);
		return r;
	}
	g->hashes = hashes;
	g->attachment = attachment;
	g->attachment_hash = b->attachment_hash;
	return 0;
}

static int read_block(struct mc_p2p_get *g, struct get_source *s, struct mc_error *err)
{
	uint8_t header[MC_P2P_BLOCK_HEADER];
	const struct mc_p2p_record *rec = &g->record;
	const struct mc_p2p_block *b = &s->layout;
	int r = read_part(g, s, 0, header, sizeof header, err);

	if (r == 0)
		r = mc_p2p_block_parse(header, s->offer.block_len, &s->layout, err);
	if (r < 0)
		return r;
	if (b->generation != s->offer.generation || b->size != rec->size || b->shard_size != rec->shard_size ||
	    b->attachment_len != rec->attachment_len || memcmp(&b->root, &rec->root, sizeof b->root) != 0)
		return mc_fail(err, -EBADMSG, "its control block is of another object than the record");
	r = read_ranges(g, s, err);
	return r == 0 && !g->hashes ? read_hashes(g, s, err) : r;
}

/* ---- opening and closing --------------------------------------------------------------------- */

/* On a worker of the engine, or in whoever drives it. */
static void map_read(void *arg, struct mc_batch *batch)
{
	struct get_source *s = arg;

	pthread_mutex_lock(&s->get->lock);
	s->read = true;
	pthread_cond_broadcast(&s->get->cond);
	pthread_mutex_unlock(&s->get->lock);
}

void mc_p2p_source_free(struct mc_p2p_get *g, struct get_source *s)
{
	mc_rpc_client_close(s->client);
	mc_batch_free(s->batch);
	mc_segment_close(s->segment);
	mc_p2p_map_free(&s->map);
	g->slots[s->slot] = false;
	free(s);
}

static int slot_take(struct mc_p2p_get *g)
{
	for (uint32_t i = 0; i < GET_SLOTS; i++)
		if (!g->slots[i]) {
			g->slots[i] = true;
			return (int)i;
		}
	return -ENOSPC;
}

/* Its segment and its block.  Who has not answered well gets no more time for what else is wrong. */
static int source_connect(struct mc_p2p_get *g, struct get_source *s, struct mc_error *err)
{
	struct mc_engine *engine = g->store->engine;
	uint64_t until = (s->heard == 0 ? mc_p2p_now() : s->begun_ns) + GET_WAIT_NS;
	int r = mc_segment_open(engine, s->offer.engine, mc_p2p_left(MC_MIN(g->deadline_ns, until)), &s->segment, err);

	if (r < 0)
		return r;
	if (mc_segment_generation(s->segment) != s->offer.generation)
		return mc_fail(err, -ESTALE, "the engine has been started anew and does not offer it yet");
	if (mc_batch_new(engine, 1, &s->batch) < 0)
		r = mc_fail(err, -ENOMEM, "out of memory");
	if (r == 0)
		mc_batch_set_callback(s->batch, map_read, s);
	return r == 0 ? read_block(g, s, err) : r;
}

/* Into the ranks, with the lock. */
static int source_join(struct mc_p2p_get *g, struct get_source *s)
{
	uint64_t now = mc_p2p_now();
	int idx = mc_p2p_pick_source_add(g->pick, s->near, now);

	if (idx < 0)
		return idx;
	s->idx = (uint32_t)idx;
	g->sources[idx] = s;
	s->next = g->all;
	g->all = s;
	g->nr_live++;
	if (s->offer.role == MC_P2P_SEED)
		mc_p2p_pick_source_map(g->pick, s->idx, NULL, now);
	pthread_cond_broadcast(&g->cond);
	return 0;
}

/* Opening a segment waits for who is silent, whatever becomes of the get meanwhile, so it is asked first whether anybody
 * is there.  What else can go wrong, the segment has the words for. */
int mc_p2p_source_begin(struct mc_p2p_get *g, const struct p2p_offer_at *at, struct get_source **ret, struct mc_error *err)
{
	const struct mc_p2p *store = g->store;
	struct get_source *s = calloc(1, sizeof *s);
	int slot = slot_take(g), r;

	if (!s || slot < 0) {
		if (slot >= 0)
			g->slots[slot] = false;
		free(s);
		return mc_fail(err, -ENOMEM, "too many sources are being closed, or out of memory");
	}
	s->get = g;
	s->begun_ns = mc_p2p_now();
	s->offer = at->offer;
	s->revision = at->revision;
	s->slot = (uint32_t)slot;
	s->near = strcmp(s->offer.host, store->host) == 0		    ? MC_P2P_HOST
		  : *store->rack && strcmp(s->offer.rack, store->rack) == 0 ? MC_P2P_RACK
									    : MC_P2P_FAR;
	r = mc_rpc_client_open(store->engine, s->offer.engine, MC_P2P_SERVICE, &s->client, err);
	if (r < 0) {
		mc_p2p_source_free(g, s);
		return r;
	}
	mc_p2p_leave(s);
	*ret = s;
	return 0;
}

int mc_p2p_source_answered(struct mc_p2p_get *g, struct get_source *const *sources, size_t nr, uint64_t until_ns)
{
	int found = -EAGAIN;

	pthread_mutex_lock(&g->lock);
	while (found == -EAGAIN) {
		for (size_t i = 0; i < nr; i++)
			if (sources[i] && !sources[i]->waiting && (found < 0 || (sources[found]->heard && !sources[i]->heard)))
				found = (int)i;
		if (g->over || g->cancel)
			found = -ECANCELED;
		else if (found < 0 && mc_p2p_now() >= until_ns)
			found = -ETIMEDOUT;
		else if (found < 0)
			mc_p2p_cond_until(&g->cond, &g->lock, until_ns);
	}
	pthread_mutex_unlock(&g->lock);
	return found;
}

int mc_p2p_source_open(struct mc_p2p_get *g, struct get_source *s, struct mc_error *err)
{
	int r = s->heard == -ETIMEDOUT ? mc_fail(err, -ETIMEDOUT, GET_SILENT) : source_connect(g, s, err);

	if (r == 0) {
		pthread_mutex_lock(&g->lock);
		r = source_join(g, s);
		pthread_mutex_unlock(&g->lock);
	}
	if (r < 0)
		mc_p2p_source_free(g, s);
	return r;
}

void mc_p2p_sources_leave(struct mc_p2p_get *g)
{
	uint64_t until = mc_p2p_now() + GET_LEAVE_NS;

	/* Only the scout changes the list, and only it is left. */
	for (struct get_source *s = g->all; s; s = s->next)
		if (!s->dropped)
			mc_p2p_leave(s);
	pthread_mutex_lock(&g->lock);
	for (struct get_source *s = g->all; s; s = s->next)
		if (!s->dropped)
			mc_p2p_left_by(s, until);
	pthread_mutex_unlock(&g->lock);
}

void mc_p2p_sources_reap(struct mc_p2p_get *g, bool all)
{
	struct get_source **at, *s, *gone = NULL;

	pthread_mutex_lock(&g->lock);
	for (at = &g->all; (s = *at);) {
		if (!all && (!s->dropped || s->refs || (s->reading && !s->read))) {
			at = &s->next;
			continue;
		}
		*at = s->next;
		s->next = gone;
		gone = s;
	}
	pthread_mutex_unlock(&g->lock);
	while ((s = gone)) {
		gone = s->next;
		mc_p2p_source_free(g, s);
	}
}

/* ---- failing --------------------------------------------------------------------------------- */

struct get_known *mc_p2p_known(struct mc_p2p_get *g, const char *engine, bool make)
{
	struct get_known *k;

	for (uint32_t i = 0; i < g->nr_known; i++)
		if (strcmp(g->known[i].engine, engine) == 0)
			return &g->known[i];
	if (!make)
		return NULL;
	/* More failures than that: the first ones are forgotten. */
	k = g->nr_known < GET_KNOWN ? &g->known[g->nr_known++] : &g->known[g->nr_dropped % GET_KNOWN];
	memset(k, 0, sizeof *k);
	snprintf(k->engine, sizeof k->engine, "%s", engine);
	return k;
}

static void tell_dropped(const struct mc_p2p_get *g, const struct get_source *s, bool corrupt, int status, const char *why)
{
	mc_p2p_log(g->store, MC_LOG_WARN, "object '%s': source '%s' is dropped%s: %s (%s)", g->object->name, s->offer.engine,
		   corrupt ? " and quarantined" : "", why, strerror(-status));
}

static void tell_left(const struct mc_p2p_get *g, const struct get_source *s)
{
	mc_p2p_log(g->store, MC_LOG_INFO, "object '%s': source '%s' offers it no more", g->object->name, s->offer.engine);
}

void mc_p2p_sources_tell(struct mc_p2p_get *g, bool known, const struct p2p_offer_at *offers, size_t nr)
{
	pthread_mutex_lock(&g->lock);
	for (struct get_source *s = g->all; s; s = s->next) {
		bool there = !known;

		if (!s->lost)
			continue;
		for (size_t i = 0; i < nr && !there; i++)
			there = strcmp(offers[i].offer.engine, s->offer.engine) == 0;
		if (there)
			tell_dropped(g, s, false, s->lost, s->lost_why);
		else
			tell_left(g, s);
		s->lost = 0;
	}
	pthread_mutex_unlock(&g->lock);
}

void mc_p2p_source_drop(struct mc_p2p_get *g, struct get_source *s, bool corrupt, int status, const char *why)
{
	struct get_known *k;

	if (s->dropped)
		return;
	s->dropped = true;
	mc_p2p_pick_source_drop(g->pick, s->idx);
	g->sources[s->idx] = NULL;
	g->nr_live--;
	g->nr_dropped++;
	g->nr_quarantined += corrupt;
	k = mc_p2p_known(g, s->offer.engine, true);
	if (k->generation != s->offer.generation)
		k->fails = 0;
	k->generation = s->offer.generation;
	k->revision = s->revision;
	k->corrupt |= corrupt;
	k->retry_ns = mc_p2p_now() + (RETRY_NS << MC_MIN(k->fails, 4u));
	k->fails++;
	mc_fail(&g->last_drop, status, "source '%s': %s (%s)", s->offer.engine, why, strerror(-status));
	/* One that takes its object back does no wrong: it lets those finish who copy from it, and its key is gone before its
	 * memory is. */
	if (status == -ENOENT) {
		tell_left(g, s);
	} else if (corrupt || __atomic_load_n(&s->held, __ATOMIC_RELAXED)) {
		tell_dropped(g, s, corrupt, status, why);
	} else {
		s->lost = status;
		snprintf(s->lost_why, sizeof s->lost_why, "%s", why);
	}
	g->waked = true;
	pthread_cond_broadcast(&g->cond);
}

/* ---- bitmaps --------------------------------------------------------------------------------- */

static void map_take(struct mc_p2p_get *g, struct get_source *s)
{
	struct mc_request_status st = {.size = sizeof st};

	mc_batch_status(s->batch, 0, &st);
	if (mc_batch_reset(s->batch) < 0)
		return; /* its callback has not quite returned: next time */
	s->reading = s->read = false;
	if (s->dropped)
		return;
	if (st.status == 0)
		mc_p2p_pick_source_map(g->pick, s->idx, g->arena + s->slot * g->map_len, mc_p2p_now());
	else
		mc_p2p_source_drop(g, s, false, st.status, "what it has cannot be read");
}

static void map_ask(struct mc_p2p_get *g, struct get_source *s)
{
	struct mc_request q = {.opcode = MC_OP_READ, .local = g->arena + s->slot * g->map_len, .segment = s->segment,
			       .offset = s->offer.block + s->layout.bitmap_off,
			       .len = mc_p2p_bitmap_len(s->layout.nr_shards)};
	int r;

	s->refs++;
	s->reading = true;
	pthread_mutex_unlock(&g->lock);
	mc_batch_set_deadline(s->batch, MAP_NS);
	r = mc_batch_submit(s->batch, &q, 1, NULL);
	pthread_mutex_lock(&g->lock);
	s->refs--;
	if (r < 0) {
		s->reading = false;
		if (!s->dropped)
			mc_p2p_pick_source_unread(g->pick, s->idx, mc_p2p_now());
	}
}

void mc_p2p_sample(struct mc_p2p_get *g)
{
	uint32_t who[MC_P2P_SAMPLE];
	size_t nr;

	for (struct get_source *s = g->all; s; s = s->next)
		if (s->reading && s->read)
			map_take(g, s);
	nr = mc_p2p_pick_sample(g->pick, who, MC_P2P_SAMPLE, mc_p2p_now());
	for (size_t i = 0; i < nr; i++) {
		struct get_source *s = g->sources[who[i]];

		if (s && !s->reading)
			map_ask(g, s);
	}
}
