/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The key-value service of plugins: keys below mooncake/<cluster>/plugin/<name>/,
 * asked on a helper, answered through the caller's post_done on that helper (or,
 * for events of a watch, wherever the metadata plugin noticed them).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "meta.h"
#include "core/util/check.h"

typedef void (*post_done_fn)(void *arg, struct mc_kv_call *call, int status, const struct mc_kv *kv,
			     bool last);

/* A watch that a plugin asked for; the metadata plugin's area follows.  The plugin may end it before
 * the job that begins it has run, so it is listed from the call on. */
struct mc_kv_watch {
	struct mc_kv_watch *prev, *next; /* m->watches */
	struct mc_kv_call *call;
	post_done_fn post_done;
	void *arg;
	size_t strip;          /* bytes of the prefix that the plugin does not see */
	bool starting, ending; /* under watch_lock; both: the job that begins it ends it, too */
	_Alignas(max_align_t) unsigned char area[];
};

/* What to do is copied from the call: its op changes when a watch is to end. */
struct kv_job {
	struct mc_job job;
	struct mc_meta *m;
	struct mc_kv_call *call;
	struct mc_kv_watch *watch; /* WATCH, UNWATCH */
	post_done_fn post_done;
	void *arg;
	size_t strip;
	uint32_t op;
	bool found;
	char key[MC_KV_KEY_MAX + 1];
};

static int got(void *ctx, const struct mc_kv *kv)
{
	struct kv_job *j = ctx;
	struct mc_kv seen = *kv;

	j->found = true;
	seen.size = sizeof seen;
	seen.key = j->key + j->strip;
	j->post_done(j->arg, j->call, 0, &seen, true);
	return 0;
}

static void watch_finish(struct mc_kv_watch *w, int status)
{
	w->post_done(w->arg, w->call, status, NULL, true);
	free(w);
}

/* [helper] */
static void watch_begin(struct mc_meta *m, struct mc_kv_watch *w, const char *key, uint64_t deadline_ns)
{
	int r = m->ops->watch(m->inst, w->area, key, deadline_ns, NULL);
	bool live;

	pthread_mutex_lock(&m->watch_lock);
	w->starting = false;
	live = r == 0 && !w->ending;
	if (!live)
		DL_DELETE(m->watches, w);
	pthread_mutex_unlock(&m->watch_lock);
	if (live)
		return;
	if (r == 0)
		m->ops->unwatch(m->inst, w->area);
	watch_finish(w, r < 0 ? r : -ECANCELED);
}

static struct mc_kv_watch *watch_new(struct mc_meta *m, struct kv_job *j)
{
	struct mc_kv_watch *w = calloc(1, sizeof *w + m->ops->watch_size);

	if (!w)
		return NULL;
	w->call = j->call;
	w->post_done = j->post_done;
	w->arg = j->arg;
	w->strip = j->strip;
	w->starting = true;
	pthread_mutex_lock(&m->watch_lock);
	DL_APPEND(m->watches, w);
	pthread_mutex_unlock(&m->watch_lock);
	return w;
}

void mc_kv_watch_event(void *watch, const struct mc_kv *kv)
{
	struct mc_kv_watch *w = MC_CONTAINER_OF(watch, struct mc_kv_watch, area);
	struct mc_kv seen = *kv;

	if (strlen(kv->key) < w->strip)
		return;
	seen.size = sizeof seen;
	seen.key = kv->key + w->strip;
	w->post_done(w->arg, w->call, 0, &seen, false);
}

/* [helper] */
static void watch_end(struct mc_meta *m, struct mc_kv_watch *w)
{
	m->ops->unwatch(m->inst, w->area);
	watch_finish(w, -ECANCELED);
}

/* 0: its end is under way, and *ret_watch for the caller to end; NULL there: the job that begins it
 * ends it.  -ENOENT: no such watch, or it has ended. */
static int watch_remove(struct mc_meta *m, const struct mc_kv_call *call, struct mc_kv_watch **ret_watch)
{
	struct mc_kv_watch *w;
	int r = -ENOENT;

	pthread_mutex_lock(&m->watch_lock);
	DL_SEARCH_SCALAR(m->watches, w, call, call);
	if (w && !w->ending) {
		w->ending = true;
		r = 0;
		if (!w->starting)
			DL_DELETE(m->watches, w);
		*ret_watch = w->starting ? NULL : w;
	}
	pthread_mutex_unlock(&m->watch_lock);
	return r;
}

static int drop_all(void *arg)
{
	struct mc_meta *m = arg;
	struct mc_kv_watch *w, *next, *list = NULL;

	pthread_mutex_lock(&m->watch_lock);
	DL_FOREACH_SAFE(m->watches, w, next) {
		w->ending = true;
		if (w->starting)
			continue;
		DL_DELETE(m->watches, w);
		DL_APPEND(list, w);
	}
	pthread_mutex_unlock(&m->watch_lock);
	DL_FOREACH_SAFE(list, w, next)
		watch_end(m, w);
	return 0;
}

void mc_kv_watches_drop(struct mc_meta *m)
{
	mc_helpers_call(m->engine->helpers, drop_all, m);
}

/* ---- leased keys ----------------------------------------------------------------------------- */

/* What a plugin wrote under the engine's lease: it goes with the lease, and comes back with the next. */
struct mc_kv_kept {
	struct mc_kv_kept *next; /* m->kept */
	uint64_t lease;          /* under which it was written; 0: it is to be written */
	size_t len;
	char *key; /* whole; behind the value */
	uint8_t value[];
};

static struct mc_kv_kept *kept_new(const char *key, const void *value, size_t len)
{
	struct mc_kv_kept *k = malloc(sizeof *k + len + strlen(key) + 1);

	if (!k)
		return NULL;
	k->len = len;
	if (len)
		memcpy(k->value, value, len);
	k->key = strcpy((char *)k->value + len, key);
	return k;
}

/* Called with the lock held. */
static struct mc_kv_kept **kept_find(struct mc_meta *m, const char *key)
{
	struct mc_kv_kept **at = &m->kept;

	while (*at && strcmp((*at)->key, key) != 0)
		at = &(*at)->next;
	return at;
}

/* What is kept for the key from now on; NULL: nothing. */
static void kept_set(struct mc_meta *m, const char *key, struct mc_kv_kept *k)
{
	struct mc_kv_kept **at, *old;

	pthread_mutex_lock(&m->lock);
	at = kept_find(m, key);
	old = *at;
	if (old)
		*at = old->next;
	if (k) {
		k->next = m->kept;
		m->kept = k;
	}
	pthread_mutex_unlock(&m->lock);
	free(old);
}

void mc_kv_kept_free(struct mc_meta *m)
{
	struct mc_kv_kept *k;

	while ((k = m->kept)) {
		m->kept = k->next;
		free(k);
	}
}

/* A copy of one that is to be written under this lease, marked as written; NULL: none is left. */
static struct mc_kv_kept *kept_due(struct mc_meta *m, uint64_t lease)
{
	struct mc_kv_kept *k, *copy = NULL;

	pthread_mutex_lock(&m->lock);
	for (k = m->kept; k && k->lease == lease; k = k->next)
		;
	if (k)
		copy = kept_new(k->key, k->value, k->len);
	if (copy)
		k->lease = lease;
	pthread_mutex_unlock(&m->lock);
	return copy;
}

static void kept_undo(struct mc_meta *m, const char *key)
{
	struct mc_kv_kept *k;

	pthread_mutex_lock(&m->lock);
	k = *kept_find(m, key);
	if (k)
		k->lease = 0;
	pthread_mutex_unlock(&m->lock);
}

int mc_kv_rewrite(struct mc_meta *m, bool lost, uint64_t deadline_ns, struct mc_error *err)
{
	struct mc_kv_kept *k;
	uint64_t lease;
	int r = 0;

	pthread_mutex_lock(&m->lock);
	lease = m->lease;
	for (k = lost ? m->kept : NULL; k; k = k->next)
		k->lease = 0;
	pthread_mutex_unlock(&m->lock);
	while (r == 0 && lease && (k = kept_due(m, lease))) {
		struct mc_kv kv = {.size = sizeof kv, .key = k->key, .value = k->value,
				   .len = k->len, .lease = lease};
		uint64_t revision;

		r = mc_meta_cas(m, &kv, 0, deadline_ns, &revision, err);
		if (r == -EEXIST || r == -ESTALE)
			r = 0; /* it is there; if somebody else wrote it, it is his now */
		if (r < 0)
			kept_undo(m, k->key);
		free(k);
	}
	return r;
}

static int kv_write(struct kv_job *j, uint64_t *revision)
{
	struct mc_kv_call *c = j->call;
	struct mc_kv kv = {.size = sizeof kv, .key = j->key, .value = c->value, .len = c->len};
	struct mc_kv_kept *k = NULL;
	int r = 0;

	if (c->leased) {
		k = kept_new(j->key, c->value, c->len);
		r = k ? mc_meta_lease(j->m, c->deadline_ns, &kv.lease, NULL) : -ENOMEM;
	}
	if (r == 0 && j->op == MC_KV_PUT)
		r = j->m->ops->put(j->m->inst, &kv, c->deadline_ns, revision, NULL);
	else if (r == 0)
		r = j->m->ops->cas(j->m->inst, &kv, c->expect_rev, c->deadline_ns, revision, NULL);
	if (r < 0) {
		free(k);
		return r;
	}
	if (k)
		k->lease = kv.lease;
	kept_set(j->m, j->key, k);
	return r;
}

static void kv_run(struct mc_job *job)
{
	struct kv_job *j = MC_CONTAINER_OF(job, struct kv_job, job);
	struct mc_kv_call *c = j->call;
	struct mc_kv kv = {.size = sizeof kv, .key = j->key + j->strip};
	int r = -EINVAL;

	switch (j->op) {
	case MC_KV_GET:
		r = j->m->ops->get(j->m->inst, j->key, c->deadline_ns, got, j, NULL);
		break;
	case MC_KV_PUT:
	case MC_KV_CAS:
		r = kv_write(j, &kv.revision);
		break;
	case MC_KV_DELETE:
		r = j->m->ops->del(j->m->inst, j->key, c->expect_rev, c->deadline_ns, NULL);
		if (r == 0 || r == -ENOENT)
			kept_set(j->m, j->key, NULL);
		break;
	case MC_KV_WATCH:
		watch_begin(j->m, j->watch, j->key, c->deadline_ns);
		free(j);
		return;
	case MC_KV_UNWATCH:
		watch_end(j->m, j->watch);
		free(j);
		return;
	}
	if (!j->found)
		j->post_done(j->arg, c, r, r == 0 && kv.revision ? &kv : NULL, true);
	free(j);
}

static int kv_start(struct mc_meta *m, const char *plugin, struct kv_job *j)
{
	int len = snprintf(j->key, sizeof j->key, "%splugin/%s/%s", m->prefix, plugin, j->call->key), r;

	if (len < 0 || (size_t)len >= sizeof j->key)
		return -ENAMETOOLONG;
	j->strip = (size_t)len - strlen(j->call->key);
	if (j->op == MC_KV_WATCH && !(j->watch = watch_new(m, j)))
		return -ENOMEM;
	if (j->op == MC_KV_UNWATCH) {
		r = watch_remove(m, j->call, &j->watch);
		if (r < 0)
			return r;
		if (!j->watch) {
			free(j);
			return 0;
		}
	}
	mc_helpers_run(m->engine->helpers, &j->job);
	return 0;
}

int mc_meta_kv(struct mc_engine *engine, const char *plugin, struct mc_kv_call *call,
	       void (*post_done)(void *arg, struct mc_kv_call *call, int status, const struct mc_kv *kv,
				 bool last),
	       void *arg)
{
	struct mc_meta *m = engine->meta;
	struct kv_job *j;
	int r;

	if (!m)
		return -ENOTCONN;
	if (call->op < MC_KV_GET || call->op > MC_KV_UNWATCH || !call->key ||
	    call->len > MC_KV_VALUE_MAX)
		return -EINVAL;
	j = calloc(1, sizeof *j);
	if (!j)
		return -ENOMEM;
	j->job.run = kv_run;
	j->m = m;
	j->call = call;
	j->op = call->op;
	j->post_done = post_done;
	j->arg = arg;
	r = kv_start(m, plugin, j);
	if (r < 0)
		free(j);
	return r;
}
