/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Our dealings with a pool's grants at the metadata service.  One turn: read the
 * grants, decide what we want changed (to be in, to have more, to leave, to clear
 * a dead engine away), swap them if nobody else has, and start over if somebody
 * has.  One call is under way at a time; all of it runs on lane 0's worker.
 *
 * Beside the grants each engine has a key that goes with its lease, so that others
 * see that it lives.
 */
#include "cxl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/util/check.h"

#define CALL_NS (5 * MC_SEC)
#define GOODBYE_NS (2 * MC_SEC)
#define GROW_NS (20 * MC_SEC)
#define RETRY_NS (500 * MC_MSEC)

static void turn(struct cxl_ledger *l);

/* ---- telling ---------------------------------------------------------------------------------- */

static void tell_lanes(struct cxl_device *d)
{
	pthread_mutex_lock(&d->lock);
	for (uint32_t i = 0; i < CXL_LANES_MAX; i++)
		if (d->lanes[i])
			d->lanes[i]->host->post(d->lanes[i]->host, &d->lanes[i]->joined);
	pthread_mutex_unlock(&d->lock);
}

static void trouble(struct cxl_ledger *l, int status, const char *what)
{
	pthread_mutex_lock(&l->lock);
	if (!l->status)
		l->host->log(l->host, MC_LOG_WARN, "pool '%s': %s", l->device->pool.path, what);
	l->status = status;
	snprintf(l->why, sizeof l->why, "%s", what);
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
	l->step = CXL_IDLE;
	if (l->stopping)
		l->gone = true;
	else
		l->host->timer_set(l->host, &l->timer, l->host->now_ns(l->host) + RETRY_NS);
}

static void trouble_call(struct cxl_ledger *l, int status, const char *verb)
{
	char what[160];

	snprintf(what, sizeof what, "its grants cannot be %s at the metadata service: %s", verb, strerror(-status));
	trouble(l, status, what);
}

/* ---- calls ------------------------------------------------------------------------------------ */

static void call(struct cxl_ledger *l, enum cxl_step step, uint32_t op, const char *key_of)
{
	uint64_t now = l->host->now_ns(l->host);
	int r;

	snprintf(l->key, sizeof l->key, "%s%s", l->prefix, key_of);
	l->step = step;
	l->call.op = op;
	l->call.key = l->key;
	l->call.deadline_ns = now + (l->stopping ? GOODBYE_NS : CALL_NS);
	r = l->host->kv(l->host, &l->call);
	if (r < 0)
		trouble_call(l, r, "asked for");
}

static void alive_key(uint64_t generation, char key[32])
{
	snprintf(key, 32, "alive/%016llx", (unsigned long long)generation);
}

static void put_alive(struct cxl_ledger *l)
{
	char key[32];

	alive_key(l->generation, key);
	l->call.value = l->name;
	l->call.len = strlen(l->name);
	l->call.leased = 1;
	call(l, CXL_ALIVE, MC_KV_PUT, key);
}

static void get_doc(struct cxl_ledger *l)
{
	call(l, CXL_GET, MC_KV_GET, "grants");
}

static void put_doc(struct cxl_ledger *l)
{
	size_t len;

	free(l->text);
	l->text = cxl_doc_text(l->next, &len);
	if (!l->text) {
		trouble(l, -ENOMEM, "there is no memory for its grants");
		return;
	}
	l->call.value = l->text;
	l->call.len = len;
	l->call.leased = 0;
	l->call.expect_rev = l->revision;
	call(l, CXL_CAS, MC_KV_CAS, "grants");
}

/* ---- others ----------------------------------------------------------------------------------- */

/* Ask for the keys of those that nothing was heard of yet, one after the other; false: none is left. */
static bool check_next(struct cxl_ledger *l)
{
	char key[32];

	for (uint32_t i = 0; i < l->nr_known; i++) {
		if (l->known[i].checked)
			continue;
		l->check = i;
		alive_key(l->known[i].generation, key);
		call(l, CXL_CHECK, MC_KV_GET, key);
		return true;
	}
	return false;
}

static void watched(struct mc_kv_call *c, int status, const struct mc_kv *kv)
{
	struct cxl_ledger *l = c->user;
	const char *slash = kv ? strrchr(kv->key, '/') : NULL;
	uint64_t generation = slash ? strtoull(slash + 1, NULL, 16) : 0;

	if (status < 0 && status != -ECANCELED && !l->stopping)
		l->host->log(l->host, MC_LOG_WARN, "pool '%s': engines cannot be watched: %s; memory of dead ones stays "
			     "theirs", l->device->pool.path, strerror(-status));
	if (!kv || status < 0)
		return;
	cxl_known_missing(l, generation, !kv->value);
	/* Our own key went with a lease that lapsed: are we still in?  Another's: when is it over? */
	turn(l);
}

static void begin_watch(struct cxl_ledger *l)
{
	int r;

	l->watch.op = MC_KV_WATCH;
	l->watch.deadline_ns = l->host->now_ns(l->host) + CALL_NS;
	r = l->host->kv(l->host, &l->watch);
	l->watching = r == 0;
}

/* ---- what stands ------------------------------------------------------------------------------ */

static int by_first(const void *a, const void *b)
{
	const struct cxl_extent *x = a, *y = b;

	return x->first < y->first ? -1 : x->first > y->first;
}

/* Our grants, and the one that is new among them. */
static void take_extents(struct cxl_ledger *l)
{
	uint32_t nr = 0;

	for (uint32_t i = 0; i < l->doc->nr_grants && nr < CXL_EXTENTS_MAX; i++) {
		const struct cxl_grant *g = &l->doc->grants[i];
		struct cxl_extent key = {.first = g->first};

		if (g->generation != l->generation)
			continue;
		if (!bsearch(&key, l->extents, l->nr_extents, sizeof key, by_first))
			l->granted = *g;
		nr++;
	}
	nr = 0;
	for (uint32_t i = 0; i < l->doc->nr_grants && nr < CXL_EXTENTS_MAX; i++)
		if (l->doc->grants[i].generation == l->generation)
			l->extents[nr++] = (struct cxl_extent){l->doc->grants[i].first, l->doc->grants[i].nr};
	l->nr_extents = nr;
}

static void write_slot(struct cxl_ledger *l)
{
	struct cxl_ident ident = {.generation = l->generation, .lanes = l->device->nr_lanes,
				  .nr_extents = l->nr_extents};

	snprintf(ident.name, sizeof ident.name, "%s", l->name);
	cxl_slot_write(&l->device->pool, l->slot, &ident, l->extents);
}

static void arm(struct cxl_ledger *l)
{
	uint64_t at = l->joined ? cxl_reap_next(l) : cxl_known_look(l);

	l->host->timer_set(l->host, &l->timer, at == UINT64_MAX ? 0 : at);
}

/* The grants in l->doc are what the service has, and what we wanted is in them. */
static void settled(struct cxl_ledger *l)
{
	const struct cxl_member *me = cxl_doc_member(l->doc, l->generation);
	bool fresh = !l->joined;

	l->step = CXL_IDLE;
	if (l->stopping || !me) {
		l->gone = true;
		return;
	}
	if (fresh) {
		l->slot = me->slot;
		cxl_slot_clear(&l->device->pool, l->slot);
	} else if (!cxl_beat_ours(l)) {
		cxl_ledger_evicted(l);
		return;
	}
	pthread_mutex_lock(&l->lock);
	take_extents(l);
	if (l->granted.nr)
		l->least = l->wanted = 0;
	l->status = 0;
	pthread_mutex_unlock(&l->lock);
	write_slot(l);
	pthread_mutex_lock(&l->lock);
	__atomic_store_n(&l->joined, true, __ATOMIC_RELEASE);
	__atomic_store_n(&l->doubt, false, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
	cxl_known_members(l);
	if (fresh) {
		l->host->log(l->host, MC_LOG_INFO, "pool '%s': joined in slot %u of %u, %u other engines", l->device->pool.path,
			     l->slot, l->device->pool.g.nr_slots, l->nr_known);
		tell_lanes(l->device);
	}
}

void cxl_ledger_evicted(struct cxl_ledger *l)
{
	static const char why[] = "what it had was taken from it, for its lease had lapsed, the pool was formatted anew, or "
				  "engines of another metadata service use it: open the engine anew";

	l->gone = true;
	l->step = CXL_IDLE;
	for (uint32_t i = 0; i < l->nr_extents; i++)
		cxl_pool_detach(&l->device->pool, &l->extents[i]);
	pthread_mutex_lock(&l->lock);
	l->status = -EOWNERDEAD;
	snprintf(l->why, sizeof l->why, "%s", why);
	__atomic_store_n(&l->evicted, true, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
	l->host->log(l->host, MC_LOG_ERROR, "pool '%s': %s", l->device->pool.path, why);
	l->host->device_event(l->host, MC_DEVICE_GONE, why);
	tell_lanes(l->device);
}

/* ---- a turn ----------------------------------------------------------------------------------- */

static void goodbye(struct cxl_ledger *l)
{
	char key[32];

	alive_key(l->generation, key);
	l->call.expect_rev = 0;
	call(l, CXL_GOODBYE, MC_KV_DELETE, key);
}

static void turn(struct cxl_ledger *l)
{
	if (l->step != CXL_IDLE) {
		l->again = true;
		return;
	}
	if (l->gone)
		return;
	l->again = false;
	if (!l->alive && !l->stopping)
		put_alive(l);
	else
		get_doc(l);
}

/* After a step: the next one, if anybody wants it. */
static void next(struct cxl_ledger *l)
{
	if (l->gone && l->stopping) {
		if (l->alive) {
			l->alive = false;
			goodbye(l);
		}
		return;
	}
	if (l->gone)
		return;
	if (l->again) {
		turn(l);
		return;
	}
	if (!check_next(l))
		arm(l);
}

static void have_doc(struct cxl_ledger *l, int status, const struct mc_kv *kv)
{
	struct mc_error err = {0};
	char what[256];
	int r = 0;

	l->revision = kv ? kv->revision : 0;
	if (status < 0 && status != -ENOENT) {
		trouble_call(l, status, "read");
		return;
	}
	if (kv)
		r = cxl_doc_parse(l->doc, &l->device->pool.g, kv->value, kv->len, &err);
	else
		cxl_doc_init(l->doc, &l->device->pool.g);
	if (r < 0) {
		snprintf(what, sizeof what, "%.240s", err.text);
		trouble(l, r, what);
		return;
	}
	memcpy(l->next, l->doc, sizeof *l->doc);
	if (cxl_ledger_plan(l, l->next, &r)) {
		put_doc(l);
		return;
	}
	if (r == -EOWNERDEAD) {
		cxl_ledger_evicted(l);
		return;
	}
	if (r == -EAGAIN) {
		l->step = CXL_IDLE;
		next(l);
		return;
	}
	if (r == -EXDEV) {
		snprintf(what, sizeof what, "engine '%s' uses it by another metadata service or cluster: give all engines of a "
			 "pool the same metadata_server and cluster, or this one another pool", l->stranger);
		trouble(l, r, what);
		return;
	}
	if (r < 0) {
		trouble(l, r, "all its slots are taken: close engines, or format it for more (mooncake cxl format --engines)");
		return;
	}
	settled(l);
	next(l);
}

static void swapped(struct cxl_ledger *l, int status)
{
	struct cxl_doc *old = l->doc;

	if (status == -ESTALE || status == -EEXIST || status == -ENOENT) {
		/* Somebody was faster.  All try again at once; one of each round is through. */
		get_doc(l);
		return;
	}
	if (status < 0) {
		trouble_call(l, status, "changed");
		return;
	}
	l->doc = l->next;
	l->next = old;
	settled(l);
	if (!l->gone && cxl_reap_clear(l))
		l->again = true;
	next(l);
}

static void answered(struct mc_kv_call *c, int status, const struct mc_kv *kv)
{
	struct cxl_ledger *l = c->user;
	enum cxl_step step = l->step;

	switch (step) {
	case CXL_ALIVE:
		if (status < 0) {
			trouble_call(l, status, "asked for");
			return;
		}
		l->alive = true;
		if (!l->watching && !l->stopping) {
			begin_watch(l);
			cxl_beat_start(l);
		}
		get_doc(l);
		return;
	case CXL_GET:
		have_doc(l, status, kv);
		return;
	case CXL_CAS:
		swapped(l, status);
		return;
	case CXL_CHECK:
		l->step = CXL_IDLE;
		if (l->check < l->nr_known && (status == 0 || status == -ENOENT))
			cxl_known_missing(l, l->known[l->check].generation, status == -ENOENT);
		else if (status < 0) {
			trouble_call(l, status, "read");
			return;
		}
		next(l);
		return;
	default:
		l->step = CXL_IDLE;
		return;
	}
}

static void timer_fired(struct mc_timer *t, uint64_t now_ns)
{
	struct cxl_ledger *l = t->user;

	/* Slots that are ours to clear, and that somebody still touched last time. */
	if (l->step == CXL_IDLE && !l->gone)
		cxl_reap_clear(l);
	turn(l);
}

static void kicked(struct mc_work *w)
{
	struct cxl_ledger *l = w->user;

	pthread_mutex_lock(&l->lock);
	l->kicked = false;
	pthread_mutex_unlock(&l->lock);
	if (!l->stopping)
		turn(l);
}

void cxl_ledger_kick(struct cxl_ledger *l)
{
	bool post;

	pthread_mutex_lock(&l->lock);
	post = !l->kicked;
	l->kicked = true;
	pthread_mutex_unlock(&l->lock);
	if (post)
		l->host->post(l->host, &l->kick);
}

/* ---- for helpers ------------------------------------------------------------------------------ */

int cxl_ledger_grow(struct cxl_ledger *l, uint32_t least, uint32_t wanted, struct cxl_grant *ret,
		    struct mc_error *err)
{
	struct timespec until;
	int r = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += (time_t)(GROW_NS / MC_SEC);
	pthread_mutex_lock(&l->lock);
	if (!l->evicted && !l->stopping)
		l->status = 0;
	l->refused = 0;
	/* One that came after its asker had given up is as good. */
	if (!l->granted.nr) {
		l->least = least;
		l->wanted = wanted;
	}
	pthread_mutex_unlock(&l->lock);
	cxl_ledger_kick(l);
	pthread_mutex_lock(&l->lock);
	while (!l->granted.nr && !l->refused && !l->status && r == 0)
		r = pthread_cond_timedwait(&l->changed, &l->lock, &until);
	*ret = l->granted;
	l->granted.nr = l->least = l->wanted = 0;
	if (ret->nr)
		r = 0;
	else if (l->refused)
		r = mc_fail(err, l->refused, "pool '%s': %s", l->device->pool.path, l->refusal);
	else if (l->status)
		r = mc_fail(err, l->status, "pool '%s': %s", l->device->pool.path, l->why);
	else
		r = mc_fail(err, -ETIMEDOUT, "pool '%s': the metadata service did not answer in time: is it there?",
			    l->device->pool.path);
	pthread_mutex_unlock(&l->lock);
	return r;
}

/* ---- life ------------------------------------------------------------------------------------- */

int cxl_ledger_init(struct cxl_ledger *l, struct cxl_device *device, const struct mc_open_args *args)
{
	pthread_condattr_t attr;
	char uuid[CXL_UUID_TEXT];

	l->device = device;
	l->generation = args->generation;
	l->quarantine_ns = (uint64_t)args->options[CXL_OPT_QUARANTINE].i;
	snprintf(l->name, sizeof l->name, "%s", args->engine);
	cxl_uuid_text(device->pool.g.uuid, uuid);
	snprintf(l->prefix, sizeof l->prefix, "%s/", uuid);
	l->doc = calloc(1, sizeof *l->doc);
	l->next = calloc(1, sizeof *l->next);
	pthread_mutex_init(&l->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&l->changed, &attr);
	pthread_condattr_destroy(&attr);
	l->call = (struct mc_kv_call){.size = sizeof l->call, .done = answered, .user = l};
	l->watch = (struct mc_kv_call){.size = sizeof l->watch, .done = watched, .user = l};
	l->timer = (struct mc_timer){.size = sizeof l->timer, .fire = timer_fired, .user = l};
	l->beat_timer = (struct mc_timer){.size = sizeof l->beat_timer, .user = l};
	l->kick = (struct mc_work){.size = sizeof l->kick, .run = kicked, .user = l};
	l->watch.key = malloc(sizeof l->prefix + 8);
	if (!l->doc || !l->next || !l->watch.key)
		return -ENOMEM;
	snprintf((char *)(uintptr_t)l->watch.key, sizeof l->prefix + 8, "%salive/", l->prefix);
	return 0;
}

void cxl_ledger_fini(struct cxl_ledger *l)
{
	if (!l->device)
		return;
	free((char *)(uintptr_t)l->watch.key);
	free(l->doc);
	free(l->next);
	free(l->text);
	pthread_cond_destroy(&l->changed);
	pthread_mutex_destroy(&l->lock);
}

void cxl_ledger_stop(struct cxl_ledger *l)
{
	l->stopping = true;
	l->host->timer_set(l->host, &l->timer, 0);
	l->host->timer_set(l->host, &l->beat_timer, 0);
	if (l->watching) {
		struct mc_kv_call *c = &l->watch;

		l->watching = false;
		c->op = MC_KV_UNWATCH;
		l->host->kv(l->host, c);
	}
	pthread_mutex_lock(&l->lock);
	if (!l->status)
		l->status = -ESHUTDOWN;
	snprintf(l->why, sizeof l->why, "the engine is being closed");
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
	if (l->alive && !l->gone)
		turn(l);
	else if (l->alive && l->step == CXL_IDLE)
		next(l);
}
