/* SPDX-License-Identifier: Apache-2.0 */
/* Choice of source and shard (p2p_pick.h).
 *
 * A bitmap per source and one of what is wanted (missing and not in flight), in words of 64 shards; how many
 * known sources have a shard is counted as bitmaps come.  A decision first takes the best source that has
 * something wanted, then the rarest shards of it: one pass over sources, one over shards.  A source that was
 * found to have nothing wanted is barren until its bitmap or what is wanted grows, so that passes over bitmaps
 * are paid once per news and not per decision. */
#include "p2p_pick.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/util/check.h"

#define MAX_FLIGHTS 256         /* per_getter is at most this */
#define RETRY_MIN_NS 20000000ull
#define RETRY_MAX_NS 1000000000ull

struct source {
	bool live, whole, known, reading;
	bool slow;              /* asked only for what no other has */
	uint8_t near;
	uint8_t refusals;       /* in a row */
	uint32_t asks, flights; /* GRANTs open, shards coming */
	uint32_t barren;        /* pick->news when nothing wanted was found here */
	uint64_t retry_ns;      /* not to be asked before */
	uint64_t read_ns;       /* when its bitmap was last read or tried */
};

struct flight {
	uint32_t source, shard;
};

struct mc_p2p_pick {
	struct mc_p2p_pick_limits limits;
	uint32_t nr_shards, words, max_sources, top;    /* sources below top have been used */
	uint32_t nr_missing, nr_wanted, nr_asks, nr_flights, nr_slow;
	uint32_t news;          /* grows when something becomes wanted that was not */
	uint64_t rng;
	uint64_t sample_ns;     /* the first READ of the current bunch of bitmaps */
	uint32_t sampled;       /* how many it has */
	uint64_t *wanted, *have;
	uint64_t *maps;         /* words per source */
	uint16_t *count;        /* sources that are known to have the shard */
	struct source *sources;
	struct flight flights[MAX_FLIGHTS];
};

static uint64_t draw(struct mc_p2p_pick *p)
{
	uint64_t z = p->rng += 0x9e3779b97f4a7c15ull;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

static bool bit(const uint64_t *map, uint32_t k)
{
	return map[k / 64] >> (k % 64) & 1;
}

static uint64_t *map_of(const struct mc_p2p_pick *p, uint32_t source)
{
	return p->maps + (size_t)source * p->words;
}

/* The bits of a word that are shards. */
static uint64_t valid_bits(const struct mc_p2p_pick *p, uint32_t word)
{
	uint32_t left = p->nr_shards - word * 64;

	return left >= 64 ? UINT64_MAX : (1ull << left) - 1;
}

static void want(struct mc_p2p_pick *p, uint32_t shard)
{
	p->wanted[shard / 64] |= 1ull << (shard % 64);
	p->nr_wanted++;
	p->news++;
}

/* A flight ended without its shard, which may have come another way (_have). */
static void want_again(struct mc_p2p_pick *p, uint32_t shard)
{
	if (!bit(p->have, shard))
		want(p, shard);
}

static void unwant(struct mc_p2p_pick *p, uint32_t shard)
{
	p->wanted[shard / 64] &= ~(1ull << (shard % 64));
	p->nr_wanted--;
}

int mc_p2p_pick_new(uint32_t nr_shards, uint32_t max_sources, const struct mc_p2p_pick_limits *limits,
		    uint64_t seed, struct mc_p2p_pick **ret_pick)
{
	struct mc_p2p_pick *p;

	if (!nr_shards || nr_shards > UINT32_MAX - 64 || !max_sources || max_sources > UINT16_MAX)
		return -EINVAL;
	p = calloc(1, sizeof *p);
	if (!p)
		return -ENOMEM;
	if (limits)
		p->limits = *limits;
	if (!p->limits.per_source)
		p->limits.per_source = 4;
	if (!p->limits.per_getter)
		p->limits.per_getter = 6;
	p->limits.per_getter = MC_MIN(p->limits.per_getter, MAX_FLIGHTS);
	if (!p->limits.nr_candidates || p->limits.nr_candidates > MC_P2P_CANDIDATES)
		p->limits.nr_candidates = MC_P2P_CANDIDATES;
	p->nr_shards = p->nr_missing = p->nr_wanted = nr_shards;
	p->words = (nr_shards + 63) / 64;
	p->max_sources = max_sources;
	p->news = 1;
	p->rng = seed;
	p->wanted = calloc(p->words, sizeof *p->wanted);
	p->have = calloc(p->words, sizeof *p->have);
	p->maps = calloc((size_t)p->words * max_sources, sizeof *p->maps);
	p->count = calloc(nr_shards, sizeof *p->count);
	p->sources = calloc(max_sources, sizeof *p->sources);
	if (!p->wanted || !p->have || !p->maps || !p->count || !p->sources) {
		mc_p2p_pick_free(p);
		return -ENOMEM;
	}
	for (uint32_t w = 0; w < p->words; w++)
		p->wanted[w] = valid_bits(p, w);
	*ret_pick = p;
	return 0;
}

void mc_p2p_pick_free(struct mc_p2p_pick *p)
{
	if (!p)
		return;
	free(p->wanted);
	free(p->have);
	free(p->maps);
	free(p->count);
	free(p->sources);
	free(p);
}

int mc_p2p_pick_source_add(struct mc_p2p_pick *p, enum mc_p2p_near near, uint64_t now_ns)
{
	uint32_t i = 0;

	while (i < p->top && p->sources[i].live)
		i++;
	if (i == p->max_sources)
		return -ENOSPC;
	if (i == p->top)
		p->top++;
	p->sources[i] = (struct source){.live = true, .near = near};
	return (int)i;
}

static struct source *source_at(struct mc_p2p_pick *p, uint32_t source)
{
	return source < p->top && p->sources[source].live ? &p->sources[source] : NULL;
}

/* Takes a flight out of the table; false: there is none. */
static bool land(struct mc_p2p_pick *p, uint32_t source, uint32_t shard)
{
	for (uint32_t i = 0; i < p->nr_flights; i++) {
		struct flight *f = &p->flights[i];

		if (f->source == source && f->shard == shard) {
			*f = p->flights[--p->nr_flights];
			p->sources[source].flights--;
			return true;
		}
	}
	return false;
}

/* The new bitmap in place of the old one, and the counts with it. */
static void replace_map(struct mc_p2p_pick *p, struct source *s, uint64_t *map, uint32_t w, uint64_t now)
{
	uint64_t gone = map[w] & ~now, come = now & ~map[w];

	for (; gone; gone &= gone - 1)
		p->count[w * 64 + (uint32_t)__builtin_ctzll(gone)]--;
	for (uint64_t c = come; c; c &= c - 1)
		p->count[w * 64 + (uint32_t)__builtin_ctzll(c)]++;
	if (come & p->wanted[w])
		s->barren = 0;
	map[w] = now;
}

void mc_p2p_pick_source_drop(struct mc_p2p_pick *p, uint32_t source)
{
	struct source *s = source_at(p, source);
	uint64_t *map = map_of(p, source);

	if (!s)
		return;
	for (uint32_t w = 0; w < p->words; w++)
		replace_map(p, s, map, w, 0);
	for (uint32_t i = p->nr_flights; i-- > 0;)
		if (p->flights[i].source == source) {
			want_again(p, p->flights[i].shard);
			p->flights[i] = p->flights[--p->nr_flights];
		}
	p->nr_asks -= s->asks;
	p->nr_slow -= s->slow;
	memset(s, 0, sizeof *s);
}

void mc_p2p_pick_source_map(struct mc_p2p_pick *p, uint32_t source, const uint8_t *bitmap, uint64_t now_ns)
{
	struct source *s = source_at(p, source);
	uint32_t bytes = (p->nr_shards + 7) / 8;
	bool whole = true;

	if (!s)
		return;
	for (uint32_t w = 0; w < p->words; w++) {
		uint64_t valid = valid_bits(p, w), now = valid;

		if (bitmap) {
			now = 0;
			for (uint32_t b = 0; b < 8 && w * 8 + b < bytes; b++)
				now |= (uint64_t)bitmap[w * 8 + b] << (8 * b);
			now &= valid;
		}
		whole &= now == valid;
		replace_map(p, s, map_of(p, source), w, now);
	}
	s->whole = whole;
	s->known = true;
	s->reading = false;
	s->read_ns = now_ns | 1; /* 0: never */
}

void mc_p2p_pick_source_unread(struct mc_p2p_pick *p, uint32_t source, uint64_t now_ns)
{
	struct source *s = source_at(p, source);

	if (!s)
		return;
	s->reading = false;
	s->read_ns = now_ns | 1; /* 0: never */
}

void mc_p2p_pick_have(struct mc_p2p_pick *p, uint32_t shard)
{
	if (shard >= p->nr_shards || bit(p->have, shard))
		return;
	p->have[shard / 64] |= 1ull << (shard % 64);
	p->nr_missing--;
	if (bit(p->wanted, shard))
		unwant(p, shard);
}

static bool has_wanted(struct mc_p2p_pick *p, uint32_t source)
{
	const uint64_t *map = map_of(p, source);
	struct source *s = &p->sources[source];

	if (s->barren == p->news)
		return false;
	for (uint32_t w = 0; w < p->words; w++)
		if (map[w] & p->wanted[w])
			return true;
	s->barren = p->news;
	return false;
}

/* A wanted shard that only those have who have everything: it has to leave them before peers can share it. */
static bool has_fresh(const struct mc_p2p_pick *p, uint32_t nr_whole)
{
	for (uint32_t w = 0; w < p->words; w++)
		for (uint64_t m = p->wanted[w]; m; m &= m - 1)
			if (p->count[w * 64 + (uint32_t)__builtin_ctzll(m)] == nr_whole)
				return true;
	return false;
}

/* Smaller is better.  One GRANT is kept open at a seed while it has what nobody else has, or its uplink
 * idles; else: who is near; who has few in flight; peers before seeds, for what peers have need not leave a
 * seed again; then by lot. */
static uint64_t cost_of(struct mc_p2p_pick *p, const struct source *s, bool fresh)
{
	uint64_t cost = s->near;

	if (s->whole && fresh)
		return cost << 24 | draw(p) >> 40;
	cost = cost << 8 | MC_MIN(s->asks + s->flights, 255u);
	cost = cost << 1 | s->whole;
	return (cost + 1) << 32 | (draw(p) >> 32);
}

/* How much may be under way at one of nr sources that are equally near: what is spread over many waits for none
 * of them. */
static uint32_t bound_of(const struct mc_p2p_pick *p, uint32_t nr)
{
	return MC_MIN(p->limits.per_source, (p->limits.per_getter + nr - 1) / nr);
}

/* Has a source that is not slow something wanted? */
static bool others_have(struct mc_p2p_pick *p)
{
	for (uint32_t i = 0; i < p->top; i++)
		if (p->sources[i].live && !p->sources[i].slow && has_wanted(p, i))
			return true;
	return false;
}

/* The best source that may be asked and has something wanted; -1: none. */
static int64_t best_source(struct mc_p2p_pick *p, uint64_t now_ns)
{
	uint32_t nr_whole = 0, busy = 0, nr_near[MC_P2P_FAR + 1] = {0};
	bool fresh, slow = p->nr_slow && !others_have(p);

	for (uint32_t i = 0; i < p->top; i++) {
		const struct source *s = &p->sources[i];

		nr_near[s->near] += s->live;
		nr_whole += s->whole;
		busy += s->whole ? s->asks + s->flights : 0;
	}
	fresh = nr_whole && !busy && has_fresh(p, nr_whole);

	for (;;) {
		uint64_t best = UINT64_MAX;
		int64_t found = -1;

		for (uint32_t i = 0; i < p->top; i++) {
			const struct source *s = &p->sources[i];
			uint64_t cost;

			if (!s->live || s->barren == p->news || s->retry_ns > now_ns || (s->slow && !slow) ||
			    s->asks + s->flights >= bound_of(p, nr_near[s->near]))
				continue;
			cost = cost_of(p, s, fresh);
			if (cost < best) {
				best = cost;
				found = i;
			}
		}
		if (found < 0 || has_wanted(p, (uint32_t)found))
			return found;
	}
}

/* The rarest wanted shards of a source, equally rare ones by lot. */
static uint32_t rarest(struct mc_p2p_pick *p, uint32_t source, uint32_t *ret_candidates)
{
	const uint64_t *map = map_of(p, source), salt = draw(p) | 1;
	uint64_t key[MC_P2P_CANDIDATES];
	uint32_t nr = 0, max = p->limits.nr_candidates;

	for (uint32_t w = 0; w < p->words; w++) {
		for (uint64_t m = map[w] & p->wanted[w]; m; m &= m - 1) {
			uint32_t shard = w * 64 + (uint32_t)__builtin_ctzll(m), at;
			uint64_t lot = (shard + 1) * salt * 0x9e3779b97f4a7c15ull;
			uint64_t k = (uint64_t)p->count[shard] << 48 | lot >> 16;

			if (nr == max && k >= key[nr - 1])
				continue;
			for (at = nr < max ? nr++ : nr - 1; at && key[at - 1] > k; at--) {
				key[at] = key[at - 1];
				ret_candidates[at] = ret_candidates[at - 1];
			}
			key[at] = k;
			ret_candidates[at] = shard;
		}
	}
	return nr;
}

/* Somebody may yet give something: he has it but is busy, or nobody has looked what he has. */
static bool hope(struct mc_p2p_pick *p)
{
	for (uint32_t i = 0; i < p->top; i++)
		if (p->sources[i].live && (!p->sources[i].known || has_wanted(p, i)))
			return true;
	return false;
}

int mc_p2p_pick_next(struct mc_p2p_pick *p, uint64_t now_ns, uint32_t *ret_source, uint32_t *ret_candidates,
		     uint32_t *ret_nr)
{
	uint32_t flying = p->nr_asks + p->nr_flights;
	int64_t source;

	if (!p->nr_missing)
		return -EALREADY;
	if (!p->nr_wanted || flying >= p->limits.per_getter)
		return -EAGAIN;
	source = best_source(p, now_ns);
	if (source < 0)
		return flying || hope(p) ? -EAGAIN : -ENODATA;
	*ret_nr = rarest(p, (uint32_t)source, ret_candidates);
	*ret_source = (uint32_t)source;
	p->sources[source].asks++;
	p->nr_asks++;
	return 0;
}

int mc_p2p_pick_granted(struct mc_p2p_pick *p, uint32_t source, uint32_t shard, uint64_t now_ns)
{
	struct source *s = source_at(p, source);

	if (!s || !s->asks)
		return -EINVAL;
	s->asks--;
	p->nr_asks--;
	s->refusals = 0;
	s->retry_ns = 0;
	if (shard >= p->nr_shards || !bit(map_of(p, source), shard))
		return -EINVAL;
	if (!bit(p->wanted, shard))
		return -EALREADY;
	unwant(p, shard);
	p->flights[p->nr_flights++] = (struct flight){source, shard};
	s->flights++;
	return 0;
}

/* Longer each time in a row, and by lot, or all who were refused together come together again. */
static void back_off(struct mc_p2p_pick *p, struct source *s, uint64_t retry_at_ns, uint64_t now_ns)
{
	uint64_t wait = retry_at_ns > now_ns ? retry_at_ns - now_ns : RETRY_MIN_NS;

	wait = MC_MIN(wait << MC_MIN(s->refusals, 4u), RETRY_MAX_NS);
	if (s->refusals < UINT8_MAX)
		s->refusals++;
	wait = MC_MAX(wait / 2 + draw(p) % wait, retry_at_ns > now_ns ? retry_at_ns - now_ns : 0);
	s->retry_ns = MC_MAX(s->retry_ns, now_ns + wait);
}

void mc_p2p_pick_refused(struct mc_p2p_pick *p, uint32_t source, uint64_t retry_at_ns, uint64_t now_ns)
{
	struct source *s = source_at(p, source);

	if (!s || !s->asks)
		return;
	s->asks--;
	p->nr_asks--;
	back_off(p, s, retry_at_ns, now_ns);
}

void mc_p2p_pick_done(struct mc_p2p_pick *p, uint32_t source, uint32_t shard, uint64_t bytes, uint64_t now_ns)
{
	if (!source_at(p, source) || !land(p, source, shard))
		return;
	mc_p2p_pick_have(p, shard);
}

void mc_p2p_pick_failed(struct mc_p2p_pick *p, uint32_t source, uint32_t shard, bool corrupt, uint64_t now_ns)
{
	struct source *s = source_at(p, source);
	uint64_t *map = map_of(p, source);

	if (!s || !land(p, source, shard))
		return;
	want_again(p, shard);
	if (bit(map, shard)) {
		replace_map(p, s, map, shard / 64, map[shard / 64] & ~(1ull << (shard % 64)));
		s->whole = false;
	}
	back_off(p, s, 0, now_ns);
}

bool mc_p2p_pick_elsewhere(const struct mc_p2p_pick *p, uint32_t source, uint32_t shard)
{
	if (shard >= p->nr_shards || (p->nr_wanted && p->nr_asks + p->nr_flights < p->limits.per_getter))
		return false;
	for (uint32_t i = 0; i < p->top; i++)
		if (i != source && p->sources[i].live && !p->sources[i].slow && bit(map_of(p, i), shard))
			return true;
	return false;
}

void mc_p2p_pick_slow(struct mc_p2p_pick *p, uint32_t source, uint32_t shard)
{
	struct source *s = source_at(p, source);

	if (!s || !land(p, source, shard))
		return;
	want_again(p, shard);
	p->nr_slow += !s->slow;
	s->slow = true;
}

/* Whose bitmap tells most: of those never read the nearest, by lot, or all getters would read the same ones and
 * then ask the same ones; then the oldest. */
static int64_t stalest(struct mc_p2p_pick *p, uint64_t now_ns)
{
	uint64_t best = UINT64_MAX;
	int64_t found = -1;

	for (uint32_t i = 0; i < p->top; i++) {
		const struct source *s = &p->sources[i];
		uint64_t key;

		if (!s->live || s->whole || s->reading || (s->read_ns && s->read_ns + MC_P2P_SAMPLE_NS > now_ns))
			continue;
		key = s->read_ns ? s->read_ns : (uint64_t)s->near << 16 | draw(p) >> 48;
		if (key < best) {
			best = key;
			found = i;
		}
	}
	return found;
}

size_t mc_p2p_pick_sample(struct mc_p2p_pick *p, uint32_t *ret_sources, size_t max, uint64_t now_ns)
{
	size_t nr = 0;

	if (!p->nr_missing)
		return 0;
	if (!p->sampled || now_ns >= p->sample_ns + MC_P2P_SAMPLE_NS) {
		p->sample_ns = now_ns;
		p->sampled = 0;
	}
	while (nr < max && p->sampled < MC_P2P_SAMPLE) {
		int64_t i = stalest(p, now_ns);

		if (i < 0)
			break;
		p->sources[i].reading = true;
		p->sampled++;
		ret_sources[nr++] = (uint32_t)i;
	}
	return nr;
}

uint64_t mc_p2p_pick_wake(const struct mc_p2p_pick *p, uint64_t now_ns)
{
	uint64_t wake = UINT64_MAX, sample = p->sampled < MC_P2P_SAMPLE ? 0 : p->sample_ns + MC_P2P_SAMPLE_NS;

	if (!p->nr_missing)
		return wake;
	for (uint32_t i = 0; i < p->top; i++) {
		const struct source *s = &p->sources[i];

		if (!s->live)
			continue;
		if (p->nr_wanted && s->retry_ns > now_ns)
			wake = MC_MIN(wake, s->retry_ns);
		if (!s->whole && !s->reading) {
			uint64_t due = s->read_ns ? s->read_ns + MC_P2P_SAMPLE_NS : now_ns;

			wake = MC_MIN(wake, MC_MAX(MC_MAX(due, sample), now_ns));
		}
	}
	return wake;
}

uint32_t mc_p2p_pick_missing(const struct mc_p2p_pick *p)
{
	return p->nr_missing;
}

uint32_t mc_p2p_pick_flying(const struct mc_p2p_pick *p)
{
	return p->nr_asks + p->nr_flights;
}
