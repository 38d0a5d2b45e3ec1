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

typedef void (*post_done_fn)(void *arg, struct mc_kv_call *call, int status, const struct mc_kv *kv);

/* A watch that a plugin asked for; the metadata plugin's area follows. */
struct mc_kv_watch {
	struct mc_kv_watch *prev, *next; /* m->watches */
	struct mc_kv_call *call;
	post_done_fn post_done;
	void *arg;
	size_t strip; /* bytes of the prefix that the plugin does not see */
	_Alignas(max_align_t) unsigned char area[];
};

struct kv_job {
	struct mc_job job;
	struct mc_meta *m;
	struct mc_kv_call *call;
	post_done_fn post_done;
	void *arg;
	size_t strip;
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
	j->post_done(j->arg, j->call, 0, &seen);
	return 0;
}

static int watch_new(struct kv_job *j)
{
	struct mc_meta *m = j->m;
	struct mc_kv_watch *w = calloc(1, sizeof *w + m->ops->watch_size);
	int r;

	if (!w)
		return -ENOMEM;
	w->call = j->call;
	w->post_done = j->post_done;
	w->arg = j->arg;
	w->strip = j->strip;
	pthread_mutex_lock(&m->watch_lock);
	DL_APPEND(m->watches, w);
	pthread_mutex_unlock(&m->watch_lock);
	r = m->ops->watch(m->inst, w->area, j->key, j->call->deadline_ns, NULL);
	if (r < 0) {
		pthread_mutex_lock(&m->watch_lock);
		DL_DELETE(m->watches, w);
		pthread_mutex_unlock(&m->watch_lock);
		free(w);
	}
	return r;
}

void mc_kv_watch_event(void *watch, const struct mc_kv *kv)
{
	struct mc_kv_watch *w = MC_CONTAINER_OF(watch, struct mc_kv_watch, area);
	struct mc_kv seen = *kv;

	if (strlen(kv->key) < w->strip)
		return;
	seen.size = sizeof seen;
	seen.key = kv->key + w->strip;
	w->post_done(w->arg, w->call, 0, &seen);
}

static void watch_end(struct mc_meta *m, struct mc_kv_watch *w)
{
	m->ops->unwatch(m->inst, w->area);
	w->post_done(w->arg, w->call, -ECANCELED, NULL);
	free(w);
}

static int watch_remove(struct mc_meta *m, const struct mc_kv_call *call)
{
	struct mc_kv_watch *w;

	pthread_mutex_lock(&m->watch_lock);
	DL_SEARCH_SCALAR(m->watches, w, call, call);
	if (w)
		DL_DELETE(m->watches, w);
	pthread_mutex_unlock(&m->watch_lock);
	if (!w)
		return -ENOENT;
	watch_end(m, w);
	return 0;
}

static int drop_all(void *arg)
{
	struct mc_meta *m = arg;

	while (m->watches) {
		struct mc_kv_watch *w = m->watches;

		DL_DELETE(m->watches, w);
		watch_end(m, w);
	}
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
	int r = 0;

	if (c->leased)
		r = mc_meta_lease(j->m, c->deadline_ns, &kv.lease, NULL);
	if (r < 0)
		return r;
	if (c->op == MC_KV_PUT)
		return j->m->ops->put(j->m->inst, &kv, c->deadline_ns, revision, NULL);
	return j->m->ops->cas(j->m->inst, &kv, c->expect_rev, c->deadline_ns, revision, NULL);
}

static void kv_run(struct mc_job *job)
{
	struct kv_job *j = MC_CONTAINER_OF(job, struct kv_job, job);
	struct mc_kv_call *c = j->call;
	struct mc_kv kv = {.size = sizeof kv, .key = j->key + j->strip};
	bool answered = false;
	int r = -EINVAL;

	switch (c->op) {
	case MC_KV_GET:
		r = j->m->ops->get(j->m->inst, j->key, c->deadline_ns, got, j, NULL);
		answered = j->found;
		break;
	case MC_KV_PUT:
	case MC_KV_CAS:
		r = kv_write(j, &kv.revision);
		break;
	case MC_KV_DELETE:
		r = j->m->ops->del(j->m->inst, j->key, c->expect_rev, c->deadline_ns, NULL);
		break;
	case MC_KV_WATCH:
		r = watch_new(j);
		answered = r == 0; /* its events are the answer */
		break;
	case MC_KV_UNWATCH:
		r = watch_remove(j->m, c);
		answered = r == 0;
		break;
	}
	if (!answered)
		j->post_done(j->arg, c, r, r == 0 && kv.revision ? &kv : NULL);
	free(j);
}

int mc_meta_kv(struct mc_engine *engine, const char *plugin, struct mc_kv_call *call,
	       void (*post_done)(void *arg, struct mc_kv_call *call, int status, const struct mc_kv *kv),
	       void *arg)
{
	struct mc_meta *m = engine->meta;
	struct kv_job *j;
	int len;

	if (!m)
		return -ENOTCONN;
	if (call->op < MC_KV_GET || call->op > MC_KV_UNWATCH || !call->key ||
	    call->len > MC_KV_VALUE_MAX)
		return -EINVAL;
	j = calloc(1, sizeof *j);
	if (!j)
		return -ENOMEM;
	len = snprintf(j->key, sizeof j->key, "%splugin/%s/%s", m->prefix, plugin, call->key);
	if (len < 0 || (size_t)len >= sizeof j->key) {
		free(j);
		return -ENAMETOOLONG;
	}
	j->strip = (size_t)len - strlen(call->key);
	j->job.run = kv_run;
	j->m = m;
	j->call = call;
	j->post_done = post_done;
	j->arg = arg;
	mc_helpers_run(engine->helpers, &j->job);
	return 0;
}
