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

static int kv_write(struct kv_job *j, uint64_t *revision)
{
	struct mc_kv_call *c = j->call;
	struct mc_kv kv = {.size = sizeof kv, .key = j->key, .value = c->value, .len = c->len};

	return mc_kept_write(j->m, &kv, j->op == MC_KV_CAS ? &c->expect_rev : NULL, c->leased, c->deadline_ns, revision,
			     NULL);
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
		r = mc_kept_remove(j->m, j->key, c->expect_rev, c->deadline_ns, NULL);
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
