/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The other engines of a pool, as the metadata service and the pool show them.  Each
 * engine's slot has a beat, a word that goes on while its lease holds.  Who beats and
 * has no key at our service is known to another one: then the grants that we read
 * are not those that it lives by, and we keep out.
 */
#include "cxl.h"

#include <errno.h>
#include <string.h>

#include "core/util/check.h"

#define BEAT_NS (2 * MC_SEC)
#define LOOK_NS (200 * MC_MSEC)

struct cxl_known *cxl_known_find(struct cxl_ledger *l, uint64_t generation)
{
	for (uint32_t i = 0; i < l->nr_known; i++)
		if (l->known[i].generation == generation)
			return &l->known[i];
	return NULL;
}

bool cxl_ledger_dead(struct cxl_ledger *l, uint64_t generation)
{
	uint64_t now = l->host->now_ns(l->host);
	const struct cxl_known *k;
	bool dead;

	pthread_mutex_lock(&l->lock);
	k = cxl_known_find(l, generation);
	dead = k && k->missing_since && now - k->missing_since >= l->quarantine_ns;
	pthread_mutex_unlock(&l->lock);
	return dead;
}

/* The grants name them; those that left are forgotten. */
void cxl_known_members(struct cxl_ledger *l)
{
	struct cxl_known before[CXL_SLOTS_MAX];
	uint32_t nr_before;

	pthread_mutex_lock(&l->lock);
	nr_before = l->nr_known;
	memcpy(before, l->known, nr_before * sizeof before[0]);
	l->nr_known = 0;
	for (uint32_t i = 0; i < l->doc->nr_members; i++) {
		const struct cxl_member *m = &l->doc->members[i];
		struct cxl_known *k = &l->known[l->nr_known];

		if (m->generation == l->generation)
			continue;
		*k = (struct cxl_known){.generation = m->generation, .slot = m->slot};
		for (uint32_t j = 0; j < nr_before; j++)
			if (before[j].generation == m->generation)
				*k = before[j];
		l->nr_known++;
	}
	pthread_mutex_unlock(&l->lock);
}

void cxl_known_missing(struct cxl_ledger *l, uint64_t generation, bool missing)
{
	uint64_t now = l->host->now_ns(l->host);
	struct cxl_known *k;

	pthread_mutex_lock(&l->lock);
	k = cxl_known_find(l, generation);
	if (k) {
		k->checked = true;
		k->missing_since = !missing ? 0 : k->missing_since ? k->missing_since : now;
	}
	pthread_mutex_unlock(&l->lock);
}

/* ---- strangers -------------------------------------------------------------------------------- */

static struct cxl_known stranger(struct cxl_ledger *l, const struct cxl_ident *ident, uint32_t slot, uint64_t now)
{
	const struct cxl_known *k = cxl_known_find(l, ident->generation);
	uint64_t beat = cxl_beat_read(&l->device->pool, slot);
	struct cxl_known s = k ? *k : (struct cxl_known){.generation = ident->generation, .slot = slot};

	if (!s.seen) {
		s.seen = s.quiet = now;
		s.beat = beat;
		l->host->log(l->host, MC_LOG_INFO, "pool '%s': the grants do not know engine '%s' in slot %u: is it alive?",
			     l->device->pool.path, ident->name, slot);
	}
	if (beat != s.beat) {
		s.beat = beat;
		s.beats = true;
		s.quiet = now;
	}
	return s;
}

/* 0: it is one of ours, or dead; -EAGAIN: that is not known yet; -EXDEV: it is another service's. */
static int judge(const struct cxl_ledger *l, const struct cxl_known *s, uint64_t now)
{
	if (!s->checked)
		return -EAGAIN;
	if (!s->missing_since || now - s->quiet >= l->quarantine_ns)
		return 0;
	return s->beats && now - s->seen >= l->quarantine_ns / 2 ? -EXDEV : -EAGAIN;
}

int cxl_known_strangers(struct cxl_ledger *l, struct cxl_doc *doc)
{
	uint64_t now = l->host->now_ns(l->host);
	struct cxl_known found[CXL_SLOTS_MAX];
	struct cxl_ident ident;
	uint32_t nr = 0;
	int result = 0;

	pthread_mutex_lock(&l->lock);
	for (uint32_t slot = 0; slot < l->device->pool.g.nr_slots; slot++) {
		int r;

		cxl_slot_read(&l->device->pool, slot, &ident);
		if (!ident.generation || ident.generation == l->generation || cxl_doc_member(doc, ident.generation))
			continue;
		found[nr] = stranger(l, &ident, slot, now);
		r = judge(l, &found[nr++], now);
		if (r == -EXDEV)
			memcpy(l->stranger, ident.name, sizeof l->stranger);
		if (r == -EXDEV || result == 0)
			result = r;
	}
	memcpy(l->known, found, nr * sizeof found[0]);
	l->nr_known = nr;
	pthread_mutex_unlock(&l->lock);
	return result;
}

uint64_t cxl_known_look(const struct cxl_ledger *l)
{
	return l->host->now_ns(l->host) + MC_MIN(LOOK_NS, l->quarantine_ns / 10);
}

/* ---- the beat --------------------------------------------------------------------------------- */

bool cxl_beat_ours(const struct cxl_ledger *l)
{
	struct cxl_ident ident;

	cxl_slot_read(&l->device->pool, l->slot, &ident);
	return ident.generation == l->generation;
}

/* A lease that lapsed: until the grants say that we are still in, no lane touches anything. */
static void beat_fired(struct mc_timer *t, uint64_t now_ns)
{
	struct cxl_ledger *l = t->user;

	if (l->gone || l->stopping)
		return;
	if (l->joined && l->step == CXL_IDLE && !cxl_beat_ours(l)) {
		cxl_ledger_evicted(l);
		return;
	}
	if (!mc_lease_left(l->host))
		__atomic_store_n(&l->doubt, true, __ATOMIC_RELEASE);
	else if (__atomic_load_n(&l->doubt, __ATOMIC_ACQUIRE))
		cxl_ledger_kick(l);
	else if (l->joined)
		cxl_beat_write(&l->device->pool, l->slot, ++l->beat);
	cxl_beat_start(l);
}

void cxl_beat_start(struct cxl_ledger *l)
{
	l->beat_timer.fire = beat_fired;
	l->host->timer_set(l->host, &l->beat_timer,
			   l->host->now_ns(l->host) + MC_MIN(BEAT_NS, l->quarantine_ns / 5));
}
