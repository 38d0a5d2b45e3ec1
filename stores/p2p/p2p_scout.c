/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A get from its begin to its end: the record, a first source and its hashes, our own offer, then sources that come
 * and go until all is there.  The scout waits for what may be slow; the driver keeps time and reads bitmaps.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "p2p_get.h"

#define META_NS (5 * MC_SEC)   /* for one question to the metadata service; it is asked again */
#define AGAIN_NS (300 * MC_MSEC)
#define TICK_NS (100 * MC_MSEC)
#define OPEN_AT_ONCE 16        /* sources, before dropped ones and time are looked at again */
#define REST_NS (200 * MC_MSEC) /* for the others, when a get that waited for its first source has it */

/* With the lock: wait for a wake-up.  False: it is over. */
static bool doze(struct mc_p2p_get *g, uint64_t span_ns)
{
	uint64_t until = mc_p2p_now() + span_ns;

	while (!g->over && !g->cancel && !g->waked && mc_p2p_now() < until)
		mc_p2p_cond_until(&g->cond, &g->lock, MC_MIN(until, g->deadline_ns));
	g->waked = false;
	if (g->cancel)
		mc_p2p_get_end(g, -ECANCELED, "cancelled");
	else if (mc_p2p_left(g->deadline_ns) == 0)
		mc_p2p_get_end(g, -ETIMEDOUT, "its time is over");
	return !g->over;
}

static bool nap(struct mc_p2p_get *g, uint64_t span_ns)
{
	bool on;

	pthread_mutex_lock(&g->lock);
	on = doze(g, span_ns);
	pthread_mutex_unlock(&g->lock);
	return on;
}

static void end_with(struct mc_p2p_get *g, int status, const char *text)
{
	pthread_mutex_lock(&g->lock);
	mc_p2p_get_end(g, status, "%s", text);
	pthread_mutex_unlock(&g->lock);
}

static uint64_t soon(const struct mc_p2p_get *g)
{
	return MC_MIN(g->deadline_ns, mc_p2p_now() + META_NS);
}

/* ---- the record ------------------------------------------------------------------------------ */

/* The metadata service may be away for a while. */
static bool find_record(struct mc_p2p_get *g)
{
	struct mc_p2p_block *b = &g->object->layout;
	struct mc_error err;

	for (;;) {
		int r = mc_p2p_record_read(g->store, g->object->name, soon(g), &g->record, NULL, &err);

		if (r == 0)
			break;
		if (r == -ENOENT || r == -EBADMSG || r == -EINVAL || r == -ENOMEM || r == -ENOTCONN) {
			pthread_mutex_lock(&g->lock);
			g->err = err;
			g->status = r;
			g->over = true;
			pthread_mutex_unlock(&g->lock);
			return false;
		}
		if (!nap(g, AGAIN_NS))
			return false;
	}
	if (g->record.size != g->object->map.size) {
		char text[160];

		snprintf(text, sizeof text, "it has %llu bytes, and the ranges to copy it to have %llu",
			 (unsigned long long)g->record.size, (unsigned long long)g->object->map.size);
		end_with(g, -EINVAL, text);
		return false;
	}
	b->size = g->record.size;
	b->shard_size = g->record.shard_size;
	b->attachment_len = g->record.attachment_len;
	b->root = g->record.root;
	b->nr_shards = mc_p2p_nr_shards(b->size, b->shard_size);
	pthread_mutex_lock(&g->lock);
	g->len = b->size;
	g->nr_shards = b->nr_shards;
	pthread_mutex_unlock(&g->lock);
	return true;
}

/* ---- sources --------------------------------------------------------------------------------- */

struct choice {
	const struct p2p_offer_at *at;
	uint64_t rank; /* small ones first */
};

static int by_rank(const void *a, const void *b)
{
	const struct choice *x = a, *y = b;

	return (x->rank > y->rank) - (x->rank < y->rank);
}

static struct get_source *open_one(struct mc_p2p_get *g, const char *engine)
{
	for (struct get_source *s = g->all; s; s = s->next)
		if (!s->dropped && strcmp(s->offer.engine, engine) == 0)
			return s;
	return NULL;
}

/* With the lock.  Is it one to open now?  One that is open, but was written anew, is dropped. */
static bool is_new(struct mc_p2p_get *g, const struct p2p_offer_at *at)
{
	const struct mc_p2p_offer *o = &at->offer;
	struct get_known *k = mc_p2p_known(g, o->engine, false);
	struct get_source *s = open_one(g, o->engine);

	if (strcmp(o->engine, mc_engine_name(g->store->engine)) == 0 ||
	    memcmp(&o->root, &g->record.root, sizeof o->root) != 0)
		return false;
	if (s && (s->offer.generation != o->generation || s->offer.block != o->block)) {
		mc_p2p_source_drop(g, s, false, -ESTALE, "it offers the object anew");
		return true;
	}
	if (s)
		return false;
	if (k && k->generation == o->generation && k->corrupt)
		return false;
	return !k || k->generation != o->generation || k->revision != at->revision || mc_p2p_now() >= k->retry_ns;
}

/* Near ones first, among equals by lot, which is another at each getter; one that has all comes soon. */
static uint64_t rank(const struct mc_p2p_get *g, const struct p2p_offer_at *at)
{
	const struct mc_p2p *store = g->store;
	struct mc_p2p_hash lot;
	char text[MC_SEGMENT_NAME_MAX + 32];
	uint64_t r;

	snprintf(text, sizeof text, "%016llx%s", (unsigned long long)mc_engine_generation(store->engine), at->offer.engine);
	mc_p2p_hash(text, strlen(text), &lot);
	r = (uint64_t)lot.bytes[0] << 24 | (uint64_t)lot.bytes[1] << 16 | lot.bytes[2] << 8 | lot.bytes[3];
	if (at->offer.role == MC_P2P_SEED)
		r /= 4;
	if (strcmp(at->offer.host, store->host) == 0)
		return r;
	return *store->rack && strcmp(at->offer.rack, store->rack) == 0 ? r + (UINT64_C(1) << 32) : r + (UINT64_C(1) << 33);
}

static void pass_over(struct mc_p2p_get *g, const struct p2p_offer_at *at, int status, const char *why)
{
	struct get_known *k;

	mc_p2p_log(g->store, MC_LOG_WARN, "object '%s': source '%s' is passed over: %s", g->object->name, at->offer.engine, why);
	pthread_mutex_lock(&g->lock);
	k = mc_p2p_known(g, at->offer.engine, true);
	if (k->generation != at->offer.generation)
		k->fails = 0;
	k->generation = at->offer.generation;
	k->revision = at->revision;
	k->corrupt |= status == -EBADMSG && g->hashes;
	k->retry_ns = mc_p2p_now() + (MC_SEC << MC_MIN(k->fails++, 4u));
	mc_fail(&g->last_drop, status, "source '%s': %s", at->offer.engine, why);
	pthread_mutex_unlock(&g->lock);
}

/* Sources that were asked whether they are there.  All at once: who is frozen or cut off keeps nobody from the others. */
struct asked {
	const struct p2p_offer_at *at[OPEN_AT_ONCE];
	struct get_source *sources[OPEN_AT_ONCE]; /* NULL: dealt with */
	size_t nr;
};

static void ask_some(struct mc_p2p_get *g, const struct choice *choices, size_t nr, struct asked *ret)
{
	for (size_t i = 0; i < nr && ret->nr < OPEN_AT_ONCE; i++) {
		struct mc_error err = {0};
		bool full;
		int r;

		pthread_mutex_lock(&g->lock);
		full = g->over || g->cancel || g->nr_live + ret->nr >= GET_SOURCES;
		pthread_mutex_unlock(&g->lock);
		if (full)
			return;
		r = mc_p2p_source_begin(g, choices[i].at, &ret->sources[ret->nr], &err);
		if (r < 0)
			pass_over(g, choices[i].at, r, err.text);
		else
			ret->at[ret->nr++] = choices[i].at;
	}
}

/* Open them in the order of their answers.  Shards can come from the first one: what has not answered soon after that is
 * asked again while they do. */
static void open_asked(struct mc_p2p_get *g, struct asked *a)
{
	uint64_t until = MC_MIN(g->deadline_ns, mc_p2p_now() + GET_WAIT_NS);
	bool first = !g->hashes, patient = true;

	for (size_t left = a->nr; left; left--) {
		struct mc_error err = {0};
		int i = mc_p2p_source_answered(g, a->sources, a->nr, until), r;

		if (i < 0) {
			patient = patient && i == -ETIMEDOUT;
			break;
		}
		r = mc_p2p_source_open(g, a->sources[i], &err);
		a->sources[i] = NULL;
		if (r == -ECANCELED) {
			patient = false;
			break;
		}
		if (r < 0) {
			pass_over(g, a->at[i], r, err.text);
		} else if (first && patient) {
			patient = false;
			until = MC_MIN(until, mc_p2p_now() + REST_NS);
		}
	}
	for (size_t i = 0; i < a->nr; i++) {
		if (!a->sources[i])
			continue;
		mc_p2p_source_free(g, a->sources[i]);
		if (patient)
			pass_over(g, a->at[i], -ETIMEDOUT, GET_SILENT);
	}
}

static void open_some(struct mc_p2p_get *g, const struct p2p_offer_at *offers, size_t nr)
{
	struct choice *choices = calloc(nr ? nr : 1, sizeof *choices);
	struct asked asked = {.nr = 0};
	size_t found = 0;

	if (!choices)
		return;
	pthread_mutex_lock(&g->lock);
	for (size_t i = 0; i < nr; i++)
		if (is_new(g, &offers[i]))
			choices[found++] = (struct choice){.at = &offers[i], .rank = rank(g, &offers[i])};
	pthread_mutex_unlock(&g->lock);
	qsort(choices, found, sizeof *choices, by_rank);
	ask_some(g, choices, found, &asked);
	open_asked(g, &asked);
	free(choices);
}

/* Who offers it now?  Returns when to ask again: soon at first, when all start together, and with many sources
 * seldom, for each getter asks. */
static uint64_t look_round(struct mc_p2p_get *g)
{
	struct p2p_offer_at *offers = NULL;
	size_t nr = 0;
	uint64_t span;
	int r = mc_p2p_offers_read(g->store, g->object->name, soon(g), &offers, &nr, NULL);

	mc_p2p_sources_tell(g, r == 0, offers, nr);
	mc_p2p_sources_reap(g, false);
	if (r < 0)
		return AGAIN_NS;
	open_some(g, offers, nr);
	free(offers);
	span = (MC_SEC / 4 << MC_MIN(g->rounds, 4u)) + nr * MC_MSEC;
	g->rounds++;
	pthread_mutex_lock(&g->lock);
	if (g->nr_live == 0 || g->lack_ns)
		span = MC_MIN(span, AGAIN_NS);
	pthread_mutex_unlock(&g->lock);
	return span;
}

/* With the lock: nobody has what is missing, and that for too long. */
static void end_lacking(struct mc_p2p_get *g)
{
	uint64_t lacks = g->object->map.size - g->done_len;

	if (g->nr_quarantined)
		mc_p2p_get_end(g, -EBADMSG, "nobody has the last %llu bytes intact; %s", (unsigned long long)lacks,
			       g->last_drop.text);
	else
		mc_p2p_get_end(g, -ENODATA, "nobody offers %llu bytes of it%s%s; start the engine that has them",
			       (unsigned long long)lacks, g->last_drop.code ? "; last, " : "", g->last_drop.text);
}

static bool first_source(struct mc_p2p_get *g)
{
	uint64_t until = mc_p2p_now() + g->store->options.patience_ns;

	for (;;) {
		look_round(g);
		if (g->hashes)
			return true;
		if (mc_p2p_now() >= until) {
			pthread_mutex_lock(&g->lock);
			end_lacking(g);
			pthread_mutex_unlock(&g->lock);
		}
		if (!nap(g, AGAIN_NS))
			return false;
	}
}

/* ---- the driver ------------------------------------------------------------------------------ */

/* With the lock: somebody has removed the object, which we offer ourselves, so we were told. */
static bool is_removed(const struct mc_p2p_get *g, char by[MC_SEGMENT_NAME_MAX + 1])
{
	bool removed;

	pthread_mutex_lock(&g->store->lock);
	removed = g->object->removed;
	memcpy(by, g->object->removed_by, sizeof g->object->removed_by);
	pthread_mutex_unlock(&g->store->lock);
	return removed;
}

static void *driver(void *arg)
{
	struct mc_p2p_get *g = arg;
	uint64_t patience = g->store->options.patience_ns;

	pthread_mutex_lock(&g->lock);
	while (!g->over) {
		uint64_t now = mc_p2p_now(), until;
		char by[MC_SEGMENT_NAME_MAX + 1];

		if (g->cancel)
			mc_p2p_get_end(g, -ECANCELED, "cancelled");
		else if (is_removed(g, by))
			mc_p2p_get_end(g, -ENOENT, "'%s' has removed it while it was copied", by);
		else if (now >= g->deadline_ns)
			mc_p2p_get_end(g, -ETIMEDOUT, "its time is over, %llu bytes are missing; %u source%s known%s%s",
				       (unsigned long long)(g->object->map.size - g->done_len), g->nr_live,
				       g->nr_live == 1 ? " is" : "s are",
				       g->last_drop.code ? "; last, " : "", g->last_drop.text);
		else if (g->lack_ns && now - g->lack_ns >= patience)
			end_lacking(g);
		if (g->over)
			break;
		mc_p2p_sample(g);
		pthread_mutex_unlock(&g->lock);
		mc_p2p_advance(g);
		mc_p2p_keep(g);
		pthread_mutex_lock(&g->lock);
		now = mc_p2p_now();
		until = MC_MIN(MC_MIN(g->deadline_ns, now + TICK_NS), MC_MAX(mc_p2p_pick_wake(g->pick, now), now + MC_MSEC));
		if (!g->over)
			mc_p2p_cond_until(&g->cond, &g->lock, until);
	}
	pthread_mutex_unlock(&g->lock);
	return NULL;
}

/* ---- the whole ------------------------------------------------------------------------------- */

bool mc_p2p_get_is_over(void *arg)
{
	struct mc_p2p_get *g = arg;
	bool over;

	pthread_mutex_lock(&g->lock);
	over = g->over || g->cancel;
	pthread_mutex_unlock(&g->lock);
	return over;
}

static int prepare(struct mc_p2p_get *g, struct mc_error *err)
{
	uint32_t nr = g->object->layout.nr_shards;
	struct mc_p2p_pick_limits limits = {.per_getter = g->store->options.lanes + 2};
	void *arena;
	int r;

	g->map_len = mc_round_up(mc_p2p_bitmap_len(nr), 64);
	r = mc_memory_alloc(g->store->engine, "*", GET_SLOTS * g->map_len, MC_ACCESS_LOCAL,
			    mc_p2p_left(g->deadline_ns), &arena, err);
	if (r < 0)
		return r;
	g->arena = arena;
	if (mc_p2p_pick_new(nr, GET_SOURCES, &limits, mc_engine_generation(g->store->engine), &g->pick) < 0)
		return mc_fail(err, -ENOMEM, "out of memory");
	g->reader.over = mc_p2p_get_is_over;
	g->reader.arg = g;
	return mc_p2p_reader_open(&g->reader, g->store->engine, g->deadline_ns, err);
}

static int offer_it(struct mc_p2p_get *g, struct mc_error *err)
{
	struct p2p_object *o = g->object;
	int r;

	o->layout.attachment_hash = g->attachment_hash;
	r = mc_p2p_object_pin(o, *g->location ? g->location : NULL, g->deadline_ns, err);
	if (r == 0)
		r = mc_p2p_object_block(o, g->hashes, g->attachment, false, g->deadline_ns, err);
	if (r == 0)
		r = mc_p2p_object_publish(o, soon(g), err);
	/* Getting goes on without offering: the engine writes the key when the service is back. */
	if (r == -ETIMEDOUT || r == -ECONNREFUSED) {
		mc_p2p_log(g->store, MC_LOG_WARN, "object '%s': it is not offered to others yet: %s", o->name, err->text);
		r = 0;
	}
	return r;
}

static void run_threads(struct mc_p2p_get *g)
{
	uint32_t nr = 0;
	bool driven;

	pthread_mutex_lock(&g->lock);
	g->check_next = g->flags & MC_P2P_RESUME ? 0 : g->object->layout.nr_shards;
	g->check_left = g->object->layout.nr_shards - g->check_next;
	g->state = g->check_left ? MC_P2P_CHECKING : MC_P2P_GETTING;
	g->nr_lanes = MC_MIN(MC_MIN(g->store->options.lanes, GET_LANES_MAX), g->object->layout.nr_shards);
	pthread_mutex_unlock(&g->lock);
	driven = pthread_create(&g->driver, NULL, driver, g) == 0;
	while (driven && nr < g->nr_lanes && pthread_create(&g->lanes[nr], NULL, mc_p2p_lane, g) == 0)
		nr++;
	if (nr == 0)
		end_with(g, -EAGAIN, "no threads for it");
	while (nap(g, look_round(g)))
		;
	while (nr)
		pthread_join(g->lanes[--nr], NULL);
	if (driven)
		pthread_join(g->driver, NULL);
}

static void tidy(struct mc_p2p_get *g)
{
	mc_p2p_sources_leave(g);
	mc_p2p_sources_reap(g, true);
	mc_p2p_reader_close(&g->reader);
	mc_p2p_pick_free(g->pick);
	g->pick = NULL;
	if (g->arena)
		mc_memory_free(g->store->engine, g->arena, GET_WAIT_NS, NULL);
	free(g->hashes);
	free(g->attachment);
	mc_p2p_record_free(&g->record);
}

void *mc_p2p_scout(void *arg)
{
	struct mc_p2p_get *g = arg;
	struct mc_error err = {0};
	uint64_t one = 1;
	int r;

	if (find_record(g)) {
		r = prepare(g, &err);
		if (r == 0 && first_source(g)) {
			r = offer_it(g, &err);
			if (r == 0)
				run_threads(g);
		}
		if (r < 0)
			end_with(g, r, err.text);
	}
	tidy(g);
	if (g->status == 0)
		mc_p2p_object_release(g->object);
	else
		mc_p2p_object_retire(g->object, mc_p2p_now() + META_NS, NULL);
	pthread_mutex_lock(&g->lock);
	g->end_ns = mc_p2p_now();
	g->state = g->status == 0 ? MC_P2P_DONE : MC_P2P_FAILED;
	pthread_cond_broadcast(&g->cond);
	pthread_mutex_unlock(&g->lock);
	if (write(g->fd, &one, sizeof one) < 0)
		mc_p2p_log(g->store, MC_LOG_ERROR, "object: the descriptor of a get cannot be written: %s", strerror(errno));
	return NULL;
}
