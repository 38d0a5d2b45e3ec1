/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an engine wants of a pool's grants: to be in, with what it had if the
 * metadata service has lost it, to have more units, to clear dead engines away, to
 * leave.  Changes a copy of the grants; cxl_ledger.c swaps it in.
 */
#include "cxl.h"

#include <errno.h>

/* Engines that the pool knows and the grants do not: the metadata service has lost them, and they come back
 * with theirs, or are found dead.  Until then what they have is not free. */
static void plan_adopt(struct cxl_ledger *l, struct cxl_doc *doc)
{
	const struct cxl_pool *pool = &l->device->pool;
	struct cxl_extent extents[CXL_EXTENTS_MAX];
	struct cxl_ident ident;

	for (uint32_t slot = 0; slot < pool->g.nr_slots; slot++) {
		cxl_slot_read(pool, slot, &ident);
		if (!ident.generation || ident.generation == l->generation || cxl_doc_member(doc, ident.generation))
			continue;
		if (cxl_doc_adopt(doc, ident.generation, ident.name, slot, extents,
				  cxl_slot_extents(pool, slot, &ident, extents)) < 0)
			l->host->log(l->host, MC_LOG_WARN, "pool '%s': what slot %u says of '%s' does not fit its grants",
				     pool->path, slot, ident.name);
	}
}

static int plan_join(struct cxl_ledger *l, struct cxl_doc *doc)
{
	struct cxl_ident ident;
	uint32_t slot;

	if (!l->joined) {
		int r = cxl_known_strangers(l, doc);

		if (r < 0)
			return r;
		plan_adopt(l, doc);
		return cxl_doc_join(doc, l->generation, l->name, &slot);
	}
	/* We were in.  Who took us for dead has cleared our slot; if it stands, the service has lost us. */
	cxl_slot_read(&l->device->pool, l->slot, &ident);
	if (ident.generation != l->generation ||
	    cxl_doc_adopt(doc, l->generation, l->name, l->slot, l->extents, l->nr_extents) < 0)
		return -EOWNERDEAD;
	return 0;
}

static bool plan_grow(struct cxl_ledger *l, struct cxl_doc *doc)
{
	uint32_t least, wanted;
	struct cxl_grant grant;
	int r;

	pthread_mutex_lock(&l->lock);
	least = l->least;
	wanted = l->wanted;
	pthread_mutex_unlock(&l->lock);
	if (!wanted)
		return false;
	r = cxl_doc_grant(doc, l->generation, least, wanted, &grant);
	if (r == 0)
		return true;
	pthread_mutex_lock(&l->lock);
	l->least = l->wanted = 0;
	l->refused = r;
	snprintf(l->refusal, sizeof l->refusal,
		 r == -EMFILE ? "this engine has as many extents as it can: free memory, or use larger units"
			      : "%u units of %llu KiB in a row are not free (%u are in all): free memory, or make the pool larger",
		 least, (unsigned long long)(l->device->pool.g.unit >> 10), cxl_doc_free(doc));
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
	return false;
}

bool cxl_ledger_plan(struct cxl_ledger *l, struct cxl_doc *doc, int *ret_status)
{
	struct cxl_member *me = cxl_doc_member(doc, l->generation);
	bool changed = false;

	*ret_status = 0;
	if (l->stopping) {
		/* Somebody may still touch our memory: who reaps us waits for him. */
		if (!me || me->state != CXL_LIVE || __atomic_load_n(&l->device->held, __ATOMIC_ACQUIRE))
			return false;
		if (l->joined && cxl_beat_ours(l))
			cxl_slot_clear(&l->device->pool, l->slot);
		cxl_doc_leave(doc, l->generation);
		return true;
	}
	if (!me || me->state != CXL_LIVE) {
		*ret_status = me ? -EOWNERDEAD : plan_join(l, doc);
		if (*ret_status < 0)
			return false;
		changed = true;
	}
	changed |= cxl_reap_plan(l, doc);
	changed |= plan_grow(l, doc);
	return changed;
}
