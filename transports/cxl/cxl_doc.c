/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The grants of a pool as text: parsed strictly, for whoever can write the metadata
 * service can write anything there, changed in memory, printed.
 */
#include "cxl_doc.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/util/check.h"

#define LINE_MAX_LEN 255

void cxl_doc_init(struct cxl_doc *doc, const struct cxl_geometry *g)
{
	memcpy(doc->uuid, g->uuid, CXL_UUID_LEN);
	doc->nr_units = g->nr_units;
	doc->nr_slots = g->nr_slots;
	doc->nr_members = doc->nr_grants = 0;
}

/* ---- reading ---------------------------------------------------------------------------------- */

/* The words of a line, from left to right. */
struct words {
	const char *at, *end;
};

static bool word_is(struct words *w, const char *word)
{
	size_t len = strlen(word);

	if ((size_t)(w->end - w->at) < len || memcmp(w->at, word, len) != 0)
		return false;
	if (w->at + len < w->end && w->at[len] != ' ')
		return false;
	w->at += len + (w->at + len < w->end);
	return true;
}

/* A number without sign, blanks or leading zeros, that ends its word. */
static bool word_number(struct words *w, unsigned base, uint64_t max, uint64_t *ret)
{
	uint64_t n = 0;
	const char *at = w->at;

	for (; at < w->end && *at != ' '; at++) {
		unsigned digit = *at >= '0' && *at <= '9' ? (unsigned)(*at - '0') :
				 *at >= 'a' && *at <= 'f' ? (unsigned)(*at - 'a') + 10 : 99;

		if (digit >= base || n > (max - digit) / base)
			return false;
		n = n * base + digit;
	}
	if (at == w->at)
		return false;
	w->at = at + (at < w->end);
	*ret = n;
	return true;
}

static bool word_u32(struct words *w, uint32_t *ret)
{
	uint64_t n;

	if (!word_number(w, 10, UINT32_MAX, &n))
		return false;
	*ret = (uint32_t)n;
	return true;
}

static bool word_generation(struct words *w, uint64_t *ret)
{
	return word_number(w, 16, UINT64_MAX, ret) && *ret;
}

static bool parse_member(struct cxl_doc *doc, struct words *w)
{
	struct cxl_member *m = &doc->members[doc->nr_members];
	size_t len;

	memset(m, 0, sizeof *m);
	if (doc->nr_members == CXL_SLOTS_MAX || !word_generation(w, &m->generation) || !word_is(w, "slot") ||
	    !word_u32(w, &m->slot) || m->slot >= doc->nr_slots)
		return false;
	m->state = word_is(w, "live") ? CXL_LIVE : CXL_REAPED;
	if (m->state == CXL_REAPED && (!word_is(w, "reaped") || !word_is(w, "by") || !word_generation(w, &m->reaper)))
		return false;
	if (!word_is(w, "name"))
		return false;
	len = (size_t)(w->end - w->at);
	if (len > CXL_NAME_MAX)
		return false;
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)w->at[i] < ' ' || w->at[i] == 0x7f)
			return false;
	memcpy(m->name, w->at, len);
	for (uint32_t i = 0; i < doc->nr_members; i++)
		if (doc->members[i].generation == m->generation || doc->members[i].slot == m->slot)
			return false;
	doc->nr_members++;
	return true;
}

static bool parse_grant(struct cxl_doc *doc, struct words *w)
{
	struct cxl_grant *g = &doc->grants[doc->nr_grants];
	const struct cxl_grant *before = doc->nr_grants ? g - 1 : NULL;

	if (doc->nr_grants == CXL_GRANTS_MAX || !word_generation(w, &g->generation) || !word_is(w, "first") ||
	    !word_u32(w, &g->first) || !word_is(w, "nr") || !word_u32(w, &g->nr) || w->at < w->end)
		return false;
	if (!g->nr || !mc_range_inside(0, doc->nr_units, g->first, g->nr) ||
	    !cxl_doc_member(doc, g->generation) || (before && before->first + before->nr > g->first))
		return false;
	doc->nr_grants++;
	return true;
}

static bool parse_pool(const struct cxl_doc *doc, struct words *w, bool *ret_other)
{
	char uuid[CXL_UUID_TEXT];
	uint32_t units, slots;

	cxl_uuid_text(doc->uuid, uuid);
	*ret_other = !word_is(w, uuid);
	return !*ret_other && word_is(w, "units") && word_u32(w, &units) && units == doc->nr_units &&
	       word_is(w, "slots") && word_u32(w, &slots) && slots == doc->nr_slots && w->at == w->end;
}

static int parse_line(struct cxl_doc *doc, unsigned nr, struct words *w)
{
	bool other = false, ok;

	if (nr == 1)
		return word_is(w, "mooncake-cxl") && word_is(w, "1") && w->at == w->end ? 0 : -EPROTO;
	if (nr == 2) {
		ok = word_is(w, "pool") && parse_pool(doc, w, &other);
		return ok ? 0 : other ? -EXDEV : -EPROTO;
	}
	if (word_is(w, "member"))
		return parse_member(doc, w) ? 0 : -EPROTO;
	return word_is(w, "grant") && parse_grant(doc, w) ? 0 : -EPROTO;
}

int cxl_doc_parse(struct cxl_doc *doc, const struct cxl_geometry *g, const char *text, size_t len,
		  struct mc_error *err)
{
	const char *at = text, *end = text + len;
	unsigned nr = 0;

	cxl_doc_init(doc, g);
	while (at < end) {
		const char *stop = memchr(at, '\n', (size_t)(end - at));
		struct words w = {.at = at, .end = stop};
		int r = -EPROTO;

		nr++;
		if (stop && stop - at <= LINE_MAX_LEN)
			r = parse_line(doc, nr, &w);
		if (r < 0)
			return mc_fail(err, r, "its grants at the metadata service: line %u %s: %.*s", nr,
				       r == -EXDEV ? "is of another pool" : "is not what this release writes",
				       (int)MC_MIN(end - at, 80), at);
		at = stop + 1;
	}
	return nr >= 2 ? 0 : mc_fail(err, -EPROTO, "its grants at the metadata service: they end before the pool is named");
}

/* ---- writing ---------------------------------------------------------------------------------- */

char *cxl_doc_text(const struct cxl_doc *doc, size_t *ret_len)
{
	size_t cap = 128 + doc->nr_members * 160 + doc->nr_grants * 64, at;
	char *text = malloc(cap), uuid[CXL_UUID_TEXT];

	if (!text)
		return NULL;
	cxl_uuid_text(doc->uuid, uuid);
	at = (size_t)snprintf(text, cap, "mooncake-cxl 1\npool %s units %u slots %u\n", uuid, doc->nr_units, doc->nr_slots);
	for (uint32_t i = 0; i < doc->nr_members; i++) {
		const struct cxl_member *m = &doc->members[i];

		at += (size_t)snprintf(text + at, cap - at, "member %016llx slot %u ", (unsigned long long)m->generation,
				       m->slot);
		if (m->state == CXL_REAPED)
			at += (size_t)snprintf(text + at, cap - at, "reaped by %016llx ", (unsigned long long)m->reaper);
		else
			at += (size_t)snprintf(text + at, cap - at, "live ");
		at += (size_t)snprintf(text + at, cap - at, "name %s\n", m->name);
	}
	for (uint32_t i = 0; i < doc->nr_grants; i++)
		at += (size_t)snprintf(text + at, cap - at, "grant %016llx first %u nr %u\n",
				       (unsigned long long)doc->grants[i].generation, doc->grants[i].first,
				       doc->grants[i].nr);
	*ret_len = at;
	return text;
}

/* ---- changes ---------------------------------------------------------------------------------- */

struct cxl_member *cxl_doc_member(struct cxl_doc *doc, uint64_t generation)
{
	for (uint32_t i = 0; i < doc->nr_members; i++)
		if (doc->members[i].generation == generation)
			return &doc->members[i];
	return NULL;
}

static bool slot_taken(const struct cxl_doc *doc, uint32_t slot)
{
	for (uint32_t i = 0; i < doc->nr_members; i++)
		if (doc->members[i].slot == slot)
			return true;
	return false;
}

int cxl_doc_join(struct cxl_doc *doc, uint64_t generation, const char *name, uint32_t *ret_slot)
{
	struct cxl_member *m = &doc->members[doc->nr_members];
	uint32_t slot = 0;

	while (slot < doc->nr_slots && slot_taken(doc, slot))
		slot++;
	if (slot == doc->nr_slots)
		return -ENOSPC;
	memset(m, 0, sizeof *m);
	m->generation = generation;
	m->slot = slot;
	/* A name that is cut inside a character is still only for people. */
	snprintf(m->name, sizeof m->name, "%s", name);
	doc->nr_members++;
	*ret_slot = slot;
	return 0;
}

static void grant_insert(struct cxl_doc *doc, uint32_t at, const struct cxl_grant *grant)
{
	memmove(&doc->grants[at + 1], &doc->grants[at], (doc->nr_grants - at) * sizeof doc->grants[0]);
	doc->grants[at] = *grant;
	doc->nr_grants++;
}

int cxl_doc_adopt(struct cxl_doc *doc, uint64_t generation, const char *name, uint32_t slot,
		  const struct cxl_extent *extents, uint32_t nr)
{
	struct cxl_member *m = &doc->members[doc->nr_members];

	if (slot >= doc->nr_slots || slot_taken(doc, slot) || cxl_doc_member(doc, generation))
		return -EEXIST;
	memset(m, 0, sizeof *m);
	m->generation = generation;
	m->slot = slot;
	snprintf(m->name, sizeof m->name, "%s", name);
	for (char *at = m->name; *at; at++)
		if ((unsigned char)*at < ' ' || *at == 0x7f)
			*at = '?';
	doc->nr_members++;
	for (uint32_t i = 0; i < nr; i++) {
		struct cxl_grant g = {generation, extents[i].first, extents[i].nr};
		uint32_t at = 0;

		while (at < doc->nr_grants && doc->grants[at].first < g.first)
			at++;
		if (doc->nr_grants == CXL_GRANTS_MAX || !g.nr || !mc_range_inside(0, doc->nr_units, g.first, g.nr) ||
		    (at && doc->grants[at - 1].first + doc->grants[at - 1].nr > g.first) ||
		    (at < doc->nr_grants && g.first + g.nr > doc->grants[at].first)) {
			cxl_doc_leave(doc, generation);
			return -EEXIST;
		}
		grant_insert(doc, at, &g);
	}
	return 0;
}

void cxl_doc_leave(struct cxl_doc *doc, uint64_t generation)
{
	uint32_t nr = 0;

	for (uint32_t i = 0; i < doc->nr_members; i++)
		if (doc->members[i].generation != generation)
			doc->members[nr++] = doc->members[i];
	doc->nr_members = nr;
	nr = 0;
	for (uint32_t i = 0; i < doc->nr_grants; i++)
		if (doc->grants[i].generation != generation)
			doc->grants[nr++] = doc->grants[i];
	doc->nr_grants = nr;
}

/* The units between grant i - 1 and grant i. */
static void gap(const struct cxl_doc *doc, uint32_t i, uint32_t *ret_first, uint32_t *ret_nr)
{
	uint32_t first = i ? doc->grants[i - 1].first + doc->grants[i - 1].nr : 0;

	*ret_first = first;
	*ret_nr = (i < doc->nr_grants ? doc->grants[i].first : doc->nr_units) - first;
}

uint32_t cxl_doc_free(const struct cxl_doc *doc)
{
	uint32_t sum = 0, first, nr;

	for (uint32_t i = 0; i <= doc->nr_grants; i++) {
		gap(doc, i, &first, &nr);
		sum += nr;
	}
	return sum;
}

int cxl_doc_grant(struct cxl_doc *doc, uint64_t generation, uint32_t least, uint32_t wanted,
		  struct cxl_grant *ret)
{
	uint32_t best = UINT32_MAX, best_nr = 0, best_first = 0, own = 0, first, nr;

	for (uint32_t i = 0; i < doc->nr_grants; i++)
		own += doc->grants[i].generation == generation;
	if (own >= CXL_EXTENTS_MAX || doc->nr_grants == CXL_GRANTS_MAX)
		return -EMFILE;
	/* The smallest gap that is enough, else the largest. */
	for (uint32_t i = 0; i <= doc->nr_grants; i++) {
		gap(doc, i, &first, &nr);
		if (nr < least || (best_nr >= wanted ? nr < wanted || nr >= best_nr : nr <= best_nr))
			continue;
		best = i;
		best_nr = nr;
		best_first = first;
	}
	if (best == UINT32_MAX)
		return -ENOSPC;
	*ret = (struct cxl_grant){generation, best_first, MC_MIN(wanted, best_nr)};
	grant_insert(doc, best, ret);
	return 0;
}
