/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the host is told of a watch: the events that its stream brought, each once,
 * and after a gap what differs.  What etcd has compacted while a stream was away is
 * made up for by a listing, whose difference to the keys that were known is told as
 * events.  So is what an etcd holds that has lost its data or was restored, whose
 * revisions begin anew.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define HASH_NONFATAL_OOM 1
#define uthash_nonfatal_oom(elt) (elt)->failed = true
#include <uthash.h>

#include "core/util/check.h"
#include "etcd_watch.h"

#define RESYNC_NS (10 * MC_SEC)

struct etcd_known {
	UT_hash_handle hh;
	uint64_t revision, seen; /* seen: number of the listing that had it */
	bool failed;             /* it could not be added */
	char key[];
};

/* ---- known keys ---------------------------------------------------------------------------- */

static struct etcd_known *known_find(struct etcd_wstate *ws, const char *key)
{
	struct etcd_known *k;

	HASH_FIND_STR(ws->known, key, k);
	return k;
}

int etcd_known_set(struct etcd_wstate *ws, const char *key, uint64_t revision)
{
	struct etcd_known *k = known_find(ws, key);

	if (!k) {
		k = calloc(1, sizeof *k + strlen(key) + 1);
		if (!k)
			return -ENOMEM;
		strcpy(k->key, key);
		HASH_ADD_STR(ws->known, key, k);
		if (k->failed) {
			free(k);
			return -ENOMEM;
		}
	}
	k->revision = revision;
	k->seen = ws->sync_nr;
	return 0;
}

static void known_drop(struct etcd_wstate *ws, struct etcd_known *k)
{
	HASH_DEL(ws->known, k);
	free(k);
}

/* ---- events ---------------------------------------------------------------------------------- */

/* Report one event, unless the watch has ended: then false. */
static bool deliver(struct etcd_wstate *ws, const struct mc_kv *kv)
{
	struct etcd_hub *h = ws->hub;
	bool dead;

	pthread_mutex_lock(&h->mx);
	dead = ws->dead || h->closing;
	ws->emitting = !dead;
	h->emitter = pthread_self();
	pthread_mutex_unlock(&h->mx);
	if (dead)
		return false;
	h->host->kv_event(h->host, ws->user, kv);
	pthread_mutex_lock(&h->mx);
	ws->emitting = false;
	dead = ws->dead;
	pthread_cond_broadcast(&h->cond);
	pthread_mutex_unlock(&h->mx);
	return !dead;
}

/* A change; what is older than what was told is left out.  0 or -ENOMEM. */
static int change(struct etcd_wstate *ws, const struct mc_kv *kv)
{
	struct etcd_known *k;
	int r = 0;

	if (strncmp(kv->key, ws->prefix, ws->prefix_len) != 0)
		return 0;
	k = known_find(ws, kv->key);
	if (k && k->revision >= kv->revision) {
		k->seen = ws->sync_nr;
		return 0;
	}
	if (kv->value)
		r = etcd_known_set(ws, kv->key, kv->revision);
	else if (k)
		known_drop(ws, k);
	if (r == 0)
		deliver(ws, kv);
	return r;
}

void etcd_events_deliver(struct etcd_wstate *ws)
{
	struct etcd_event *ev;

	while ((ev = ws->events)) {
		struct mc_kv kv = {.size = sizeof kv,
				   .key = ev->key,
				   .value = ev->deleted ? NULL : ev->value,
				   .len = ev->len,
				   .revision = ev->revision};

		ws->events = ev->next;
		if (!ws->events)
			ws->events_tail = &ws->events;
		if (change(ws, &kv) < 0) {
			ws->lost = true;
			etcd_stream_over(ws, "out of memory");
		}
		/* Included: a frame may end between two events of one revision. */
		ws->from = MC_MAX(ws->from, ev->revision);
		free(ev);
	}
}

void etcd_events_free(struct etcd_wstate *ws)
{
	struct etcd_known *k, *next;
	struct etcd_event *ev;

	while ((ev = ws->events)) {
		ws->events = ev->next;
		free(ev);
	}
	HASH_ITER(hh, ws->known, k, next)
		known_drop(ws, k);
}

/* ---- after a gap ------------------------------------------------------------------------------- */

bool etcd_other_store(const struct etcd_wstate *ws, uint64_t revision, uint64_t cluster)
{
	return (revision && revision + 1 < ws->from) ||
	       (cluster && ws->cluster && cluster != ws->cluster);
}

static int listed(void *ctx, const struct mc_kv *kv)
{
	struct etcd_wstate *ws = ctx;

	if (change(ws, kv) < 0)
		etcd_stream_over(ws, "out of memory");
	return ws->ended || __atomic_load_n(&ws->hub->closing, __ATOMIC_RELAXED);
}

static int listed_none(void *ctx, const struct mc_kv *kv)
{
	return 1;
}

/* Ask the cluster, not a member of it, whether it is the store that was seen.  If not, no revision
 * that is known says anything about a key. */
static int known_check(struct etcd_wstate *ws, uint64_t now, struct mc_error *err)
{
	struct etcd_hub *h = ws->hub;
	struct etcd_listing l = {.prefix = ws->prefix,
				 .keys_only = true,
				 .deadline_ns = now + RESYNC_NS,
				 .stop = &h->closing,
				 .emit = listed_none};
	struct etcd_known *k, *next;
	int r = etcd_list_pages(h->inst, &l, err);

	if (r < 0 || !etcd_other_store(ws, l.revision, l.cluster))
		return r;
	h->host->log(h->host, MC_LOG_WARN,
		     "watch of '%s': etcd has lost its data or was restored: its revision is %" PRIu64
		     ", %" PRIu64 " was seen; what differs is told",
		     ws->prefix, l.revision, ws->from - 1);
	HASH_ITER(hh, ws->known, k, next)
		k->revision = 0;
	ws->from = 0;
	return 0;
}

int etcd_resync(struct etcd_wstate *ws, uint64_t now, struct mc_error *err)
{
	struct etcd_hub *h = ws->hub;
	struct etcd_listing l = {.prefix = ws->prefix,
				 .deadline_ns = now + RESYNC_NS,
				 .stop = &h->closing,
				 .emit = listed,
				 .ctx = ws};
	struct etcd_known *k, *next;
	int r;

	r = known_check(ws, now, err);
	if (r < 0)
		return r;
	ws->sync_nr++;
	r = etcd_list_pages(h->inst, &l, err);
	if (r < 0 || ws->ended)
		return r < 0 ? r : -ENOMEM;
	HASH_ITER(hh, ws->known, k, next) {
		struct mc_kv kv = {.size = sizeof kv, .key = k->key, .revision = l.revision};

		/* One that was told newer than the listing is the stream's business. */
		if (k->seen == ws->sync_nr || k->revision > l.revision)
			continue;
		deliver(ws, &kv);
		known_drop(ws, k);
	}
	ws->from = l.revision + 1;
	ws->cluster = l.cluster;
	ws->lost = false;
	return 0;
}
