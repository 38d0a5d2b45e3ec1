/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fake host's key-value service: the keys of a world, and watches of them.
 * Answers and events come as posts, as the engine's do.
 */
#include "fake-host-impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct kv_answer {
	struct fake_inst *inst;
	struct mc_kv_call *call;
	int status;
	bool event; /* of a watch, not the answer of the call */
	char *key;
	void *value;
	uint64_t len, revision;
};

static void kv_answer_run(struct fake_job *job)
{
	struct kv_answer *a = job->a;
	struct mc_kv kv = { .size = sizeof kv, .key = a->key, .value = a->value, .len = a->len,
			    .revision = a->revision };

	a->call->done(a->call, a->status, a->key ? &kv : NULL);
	if (!a->event)
		inst_outstanding(a->inst, -1);
	free(a->key);
	free(a->value);
	free(a);
}

static void kv_answer(struct fake_inst *inst, struct mc_kv_call *call, int status,
		      const struct fake_kv_entry *e, bool event)
{
	struct kv_answer *a = calloc(1, sizeof *a);

	if (!a)
		abort();
	a->inst = inst;
	a->call = call;
	a->status = status;
	a->event = event;
	if (e) {
		a->key = strdup(e->key);
		a->len = e->len;
		a->revision = e->revision;
		if (e->value) {
			a->value = malloc(e->len + 1);
			if (!a->value)
				abort();
			memcpy(a->value, e->value, e->len);
		}
	}
	inst_post(inst, kv_answer_run, a, NULL, 0);
}

static struct fake_kv_entry **kv_find(struct fake_world *w, const char *key)
{
	struct fake_kv_entry **p = &w->kv;

	while (*p && strcmp((*p)->key, key))
		p = &(*p)->next;
	return p;
}

static void kv_notify(struct fake_world *w, const struct fake_kv_entry *e)
{
	for (struct fake_kv_watch *k = w->kv_watches; k; k = k->next)
		if (!strncmp(e->key, k->call->key, strlen(k->call->key)))
			kv_answer(k->inst, k->call, 0, e, true);
}

static void kv_write(struct fake_world *w, struct fake_kv_entry **p, const struct mc_kv_call *c)
{
	struct fake_kv_entry *e = *p;

	if (!e) {
		e = *p = calloc(1, sizeof *e);
		if (!e)
			abort();
		e->key = strdup(c->key);
	}
	free(e->value);
	e->value = malloc(c->len + 1);
	if (!e->value)
		abort();
	memcpy(e->value, c->value, c->len);
	e->len = c->len;
	e->revision = ++w->kv_revision;
	kv_notify(w, e);
}

static void kv_erase(struct fake_world *w, struct fake_kv_entry **p)
{
	struct fake_kv_entry *e = *p;

	*p = e->next;
	free(e->value);
	e->value = NULL;
	e->len = 0;
	kv_notify(w, e);
	free(e->key);
	free(e);
}

static void kv_watch(struct fake_inst *inst, struct mc_kv_call *c)
{
	struct fake_kv_watch *k = calloc(1, sizeof *k);

	if (!k)
		abort();
	k->inst = inst;
	k->call = c;
	k->next = inst->world->kv_watches;
	inst->world->kv_watches = k;
}

static int kv_unwatch(struct fake_inst *inst, struct mc_kv_call *c)
{
	struct fake_kv_watch **p = &inst->world->kv_watches, *k;

	while (*p && (*p)->call != c)
		p = &(*p)->next;
	k = *p;
	if (!k)
		return -ENOENT;
	*p = k->next;
	free(k);
	kv_answer(inst, c, -ECANCELED, NULL, false); /* ends what WATCH began */
	return 0;
}

static int kv_do(struct fake_inst *inst, struct mc_kv_call *c)
{
	struct fake_world *w = inst->world;
	struct fake_kv_entry **p = kv_find(w, c->key);
	int status = 0;

	switch (c->op) {
	case MC_KV_GET:
		kv_answer(inst, c, *p ? 0 : -ENOENT, *p, false);
		return 0;
	case MC_KV_PUT:
		kv_write(w, p, c);
		break;
	case MC_KV_CAS:
		if ((*p ? (*p)->revision : 0) == c->expect_rev)
			kv_write(w, p, c);
		else
			status = c->expect_rev ? -ESTALE : -EEXIST;
		break;
	case MC_KV_DELETE:
		if (!*p)
			status = c->expect_rev ? -ESTALE : -ENOENT;
		else if (c->expect_rev && (*p)->revision != c->expect_rev)
			status = -ESTALE;
		else
			kv_erase(w, p);
		break;
	case MC_KV_WATCH:
		kv_watch(inst, c);
		return 0;
	default:
		return -EINVAL;
	}
	kv_answer(inst, c, status, NULL, false);
	return 0;
}

int kv_service_call(const struct mc_host *h, struct mc_kv_call *c)
{
	struct fake_inst *inst = inst_of(h);
	int r;

	expect_worker(inst, "kv");
	if (!c->done || (!c->key && c->op != MC_KV_UNWATCH))
		return -EINVAL;
	if (c->op != MC_KV_UNWATCH)
		inst_outstanding(inst, 1);
	pthread_mutex_lock(&inst->world->lock);
	r = c->op == MC_KV_UNWATCH ? kv_unwatch(inst, c) : kv_do(inst, c);
	pthread_mutex_unlock(&inst->world->lock);
	if (r < 0 && c->op != MC_KV_UNWATCH)
		inst_outstanding(inst, -1);
	return r;
}

void kv_free(struct fake_world *w)
{
	while (w->kv) {
		struct fake_kv_entry *e = w->kv;

		w->kv = e->next;
		free(e->key);
		free(e->value);
		free(e);
	}
	while (w->kv_watches) {
		struct fake_kv_watch *k = w->kv_watches;

		w->kv_watches = k->next;
		free(k);
	}
}

void kv_service_event(const struct mc_host *h, void *watch, const struct mc_kv *kv)
{
	fake_breach(inst_of(h)->world, "kv_event is for metadata plugins: %s called it", h->instance);
}
