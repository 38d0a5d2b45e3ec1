/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What engines leave that died: their extents are quarantined, and free again in
 * this order.
 *
 *   the engine's key has been missing for the quarantine (its lease is over, and by then it has seen so,
 *     for it looks before each chunk) -> the grants say who clears it away, by compare and swap
 *   -> its keys are zero, so that nobody begins to touch its memory
 *   -> no lane of a living engine says that it still does (dead ones have looked at their lease, too)
 *   -> its slot is zero -> the grants lose it, and its units are free
 *
 * A word of a dead engine's slot has its one writer in the engine that clears it.
 */
#include "cxl.h"

#include <string.h>

#include "core/util/check.h"

#define LOOK_AGAIN_NS (10 * MC_MSEC)
#define STAGGER_NS (50 * MC_MSEC) /* so that not all go for it at once */

static bool ours_to_clear(const struct cxl_ledger *l, const struct cxl_member *m)
{
	return m->state == CXL_REAPED && m->reaper == l->generation;
}

/* Is nobody at it who lives? */
static bool unattended(struct cxl_ledger *l, struct cxl_doc *doc, const struct cxl_member *m)
{
	if (m->state == CXL_LIVE)
		return cxl_ledger_dead(l, m->generation);
	return m->reaper != l->generation && (!cxl_doc_member(doc, m->reaper) || cxl_ledger_dead(l, m->reaper));
}

bool cxl_reap_plan(struct cxl_ledger *l, struct cxl_doc *doc)
{
	bool changed = false;

	for (uint32_t i = 0; i < doc->nr_members; i++) {
		struct cxl_member *m = &doc->members[i];
		const struct cxl_known *k = cxl_known_find(l, m->generation);

		if (m->generation == l->generation)
			continue;
		if (ours_to_clear(l, m) && k && k->cleared) {
			l->host->log(l->host, MC_LOG_INFO, "pool '%s': what '%s' had is free again", l->device->pool.path, m->name);
			cxl_doc_leave(doc, m->generation);
			i--;
			changed = true;
		} else if (unattended(l, doc, m)) {
			l->host->log(l->host, MC_LOG_INFO, "pool '%s': engine '%s' is dead: clearing it away", l->device->pool.path,
				     m->name);
			m->state = CXL_REAPED;
			m->reaper = l->generation;
			changed = true;
		}
	}
	return changed;
}

uint64_t cxl_reap_next(struct cxl_ledger *l)
{
	uint64_t now = l->host->now_ns(l->host), next = UINT64_MAX;

	for (uint32_t i = 0; i < l->doc->nr_members; i++) {
		const struct cxl_member *m = &l->doc->members[i];
		const struct cxl_known *k = cxl_known_find(l, m->generation);
		uint64_t at = UINT64_MAX;

		if (m->generation == l->generation || !k)
			continue;
		if (ours_to_clear(l, m))
			at = now + LOOK_AGAIN_NS;
		else if (m->state == CXL_REAPED)
			at = now + l->quarantine_ns;
		else if (k->missing_since)
			at = MC_MAX(k->missing_since + l->quarantine_ns, now) + (l->slot + 1) * STAGGER_NS;
		next = MC_MIN(next, at);
	}
	return next;
}

static bool clear_one(struct cxl_ledger *l, const struct cxl_member *m, struct cxl_known *k)
{
	struct cxl_device *d = l->device;
	uint32_t slot, lane;
	uint64_t word;

	if (!k->stripped)
		cxl_slot_clear_keys(&d->pool, m->slot);
	k->stripped = true;
	if (cxl_guards_find(d, m->slot, &slot, &lane, &word))
		return false;
	cxl_slot_clear(&d->pool, m->slot);
	k->cleared = true;
	return true;
}

bool cxl_reap_clear(struct cxl_ledger *l)
{
	bool any = false;

	for (uint32_t i = 0; i < l->doc->nr_members; i++) {
		const struct cxl_member *m = &l->doc->members[i];
		struct cxl_known *k = cxl_known_find(l, m->generation);

		/* If our own lease is over, another one may have been put in our place. */
		if (k && !k->cleared && ours_to_clear(l, m) && mc_lease_left(l->host))
			any |= clear_one(l, m, k);
	}
	return any;
}
