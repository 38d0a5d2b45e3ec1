/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sample of accesses, and what follows from it.  The worth of a class at an age is the largest
 * (chance to be accessed until then) / (expected time until the access or then) over all later
 * ages: blocks of the highest worth are those to keep.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/util/check.h"
#include "policy_learn.h"

#define NONE UINT32_MAX
#define RING_MAX (1u << 16)
/* The sample reaches back so many times as many accesses as there are blocks. */
#define HORIZON 64u
/* Before a class has about so many entries at an age, it has the shape of all and its own mean
 * there... */
#define TRUST 250.0f
/* ...and before so many accesses are expected of it, not even that. */
#define TRUST_MEAN 10.0f
/* Before anything is known, this share of blocks is wanted again in each bin: the older, the less
 * often. */
#define BELIEF 0.02f
#define BELIEF_WEIGHT 4.0f

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

int learn_init(struct learn *l, uint64_t capacity)
{
	uint64_t span = MC_MAX(capacity, 64) * HORIZON;
	uint32_t size = 1024;

	while (size < RING_MAX && size < span)
		size *= 2;
	memset(l, 0, sizeof *l);
	l->ring_mask = size - 1;
	l->sampled = span <= size ? UINT64_MAX : UINT64_MAX / span * size;
	l->unit = (uint32_t)MC_MAX(1, MC_MIN(capacity, 1u << 30) / 64);
	for (uint32_t b = 1; b <= LEARN_BINS; b++)
		l->bound[b] = (float)l->unit * (float)(1u << (b - 1) / 4) *
			      (1 + (float)((b - 1) % 4) / 4);
	l->ring = calloc(size, sizeof *l->ring);
	l->table = malloc(2 * (size_t)size * sizeof *l->table);
	if (!l->ring || !l->table) {
		learn_fini(l);
		return -ENOMEM;
	}
	memset(l->table, 0xff, 2 * (size_t)size * sizeof *l->table);
	learn_settle(l);
	return 0;
}

void learn_fini(struct learn *l)
{
	free(l->ring);
	free(l->table);
}

uint32_t learn_bin(const struct learn *l, uint32_t age)
{
	uint32_t x = age / l->unit, log, b;

	if (!x)
		return 0;
	log = 31u - (uint32_t)__builtin_clz(x);
	/* Two bits below the highest one, of the age itself where the quotient has too few. */
	b = log >= 2 ? (x >> (log - 2)) & 3 : (uint32_t)(((uint64_t)age * 4 / l->unit) >> log) & 3;
	return MC_MIN(1 + 4 * log + b, LEARN_BINS - 1);
}

/* ---- table -------------------------------------------------------------------------------------
 */

static uint32_t table_mask(const struct learn *l)
{
	return 2 * l->ring_mask + 1;
}

static uint32_t home(const struct learn *l, uint64_t key)
{
	return (uint32_t)(mix(key) >> 7) & table_mask(l);
}

/* Where the key is in the table, or where it would be. */
static uint32_t table_find(const struct learn *l, uint64_t key)
{
	uint32_t at = home(l, key);

	while (l->table[at] != NONE && l->ring[l->table[at]].key != key)
		at = (at + 1) & table_mask(l);
	return at;
}

static void table_remove(struct learn *l, uint32_t at)
{
	uint32_t next = at;

	for (;;) {
		uint32_t want;

		next = (next + 1) & table_mask(l);
		if (l->table[next] == NONE)
			break;
		want = home(l, l->ring[l->table[next]].key);
		if (((next - want) & table_mask(l)) >= ((next - at) & table_mask(l))) {
			l->table[at] = l->table[next];
			at = next;
		}
	}
	l->table[at] = NONE;
}

/* ---- counting ----------------------------------------------------------------------------------
 */

/* A live entry has come to an age.  What was learnt of an age counts half when as many have come to
 * it as the ring holds: what is young is known soon, and so it may be forgotten soon. */
static void count(struct learn *l, uint32_t class, uint32_t bin)
{
	l->reached[class][bin]++;
	if (++l->nr_reached[bin] <= (float)l->ring_mask)
		return;
	l->nr_reached[bin] /= 2;
	for (uint32_t c = 0; c < LEARN_CLASSES; c++) {
		l->reached[c][bin] /= 2;
		l->hit[c][bin] /= 2;
	}
}

/* Which live entries have come to the ages where bins begin. */
static void pass(struct learn *l, uint32_t now)
{
	for (uint32_t b = 1; b < LEARN_BINS; b++) {
		uint32_t oldest = l->nr_pushed - MC_MIN(l->nr_pushed, l->ring_mask + 1);

		if ((int32_t)(l->passed[b] - oldest) < 0)
			l->passed[b] = oldest;
		while (l->passed[b] != l->nr_pushed) {
			const struct learn_entry *e = &l->ring[l->passed[b] & l->ring_mask];

			if ((float)(now - e->time) < l->bound[b])
				break;
			if (e->live)
				count(l, e->class, b);
			l->passed[b]++;
		}
		if (l->passed[b] == oldest && l->nr_pushed == oldest)
			break;
	}
}

void learn_access(struct learn *l, uint64_t key, uint32_t now, uint8_t class)
{
	struct learn_entry *e;
	uint32_t at;

	if (mix(key ^ UINT64_C(0x5851f42d4c957f2d)) > l->sampled)
		return;
	pass(l, now);
	at = table_find(l, key);
	if (l->table[at] != NONE) {
		e = &l->ring[l->table[at]];
		l->hit[e->class][learn_bin(l, now - e->time)]++;
		e->live = 0;
		table_remove(l, at);
	}
	e = &l->ring[l->nr_pushed & l->ring_mask];
	if (e->live)
		table_remove(l, table_find(l, e->key));
	*e = (struct learn_entry){.key = key, .time = now, .class = class, .live = 1};
	l->table[table_find(l, key)] = l->nr_pushed++ & l->ring_mask;
	count(l, class, 0);
}

/* ---- worth -------------------------------------------------------------------------------------
 */

static void settle_class(struct learn *l, const float *all, uint32_t class)
{
	float chance[LEARN_BINS], width[LEARN_BINS], expected = TRUST_MEAN, got = TRUST_MEAN;

	for (uint32_t b = 0; b < LEARN_BINS; b++) {
		expected += l->reached[class][b] * all[b];
		got += l->hit[class][b];
	}
	for (uint32_t b = 0; b < LEARN_BINS; b++) {
		float n = MC_MAX(l->reached[class][b], l->hit[class][b]);

		chance[b] = (l->hit[class][b] + TRUST * MC_MIN(all[b] * got / expected, 0.9f)) /
			    (n + TRUST);
		width[b] = l->bound[b + 1] - l->bound[b];
	}
	for (uint32_t from = 0; from < LEARN_BINS; from++) {
		float left = 1, gain = 0, time = 0, best = 0;

		for (uint32_t b = from; b < LEARN_BINS && left > 1e-3f; b++) {
			gain += left * chance[b];
			time += left * width[b] * (1 - chance[b] / 2);
			left *= 1 - chance[b];
			best = MC_MAX(best, gain / time);
		}
		l->worth[class][from] = best;
	}
}

void learn_settle(struct learn *l)
{
	float all[LEARN_BINS];

	for (uint32_t b = 0; b < LEARN_BINS; b++) {
		float reached = BELIEF_WEIGHT, hit = BELIEF_WEIGHT * BELIEF;

		for (uint32_t c = 0; c < LEARN_CLASSES; c++) {
			reached += l->reached[c][b];
			hit += l->hit[c][b];
		}
		all[b] = MC_MIN(hit / reached, 0.99f);
	}
	for (uint32_t c = 0; c < LEARN_CLASSES; c++)
		settle_class(l, all, c);
}

size_t learn_memory(const struct learn *l)
{
	return sizeof *l + (l->ring_mask + 1) * (sizeof *l->ring + 2 * sizeof *l->table);
}
