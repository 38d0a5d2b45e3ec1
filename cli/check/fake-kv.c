/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fake host's key-value service: the keys of a world, and watches of them.
 * Answers and events come as posts, as the engine's do.
 */
#include "fake-host-impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

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

/* ---- between processes -------------------------------------------------------------------------- */

/* The table of a case that has two processes: each call takes it over, works on its own world's, and
 * puts it back.  Watches see what their own process writes. */
#define SHARED_KEYS 64
#define SHARED_VALUE 16384
struct shared_kv {
	pthread_mutex_t lock;
	uint64_t revision;
	struct shared_entry {
		char key[256];
		uint64_t revision, len;
		unsigned char value[SHARED_VALUE];
	} entries[SHARED_KEYS]; /* revision 0: free */
};
static struct shared_kv *shared;

int fake_kv_share(void)
{
	pthread_mutexattr_t attr;
	void *at = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		return -ENOMEM;
	shared = at;
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
	/* The other process is killed, perhaps inside. */
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&shared->lock, &attr);
	pthread_mutexattr_destroy(&attr);
	return 0;
}

static void entries_free(struct fake_world *w)
{
	while (w->kv) {
		struct fake_kv_entry *e = w->kv;

		w->kv = e->next;
		free(e->key);
		free(e->value);
		free(e);
	}
}

static void shared_take(struct fake_world *w)
{
	if (!shared)
		return;
	if (pthread_mutex_lock(&shared->lock) == EOWNERDEAD)
		pthread_mutex_consistent(&shared->lock);
	entries_free(w);
	w->kv_revision = shared->revision;
	for (size_t i = 0; i < SHARED_KEYS; i++) {
		const struct shared_entry *s = &shared->entries[i];
		struct fake_kv_entry *e = s->revision ? calloc(1, sizeof *e) : NULL;

		if (!e)
			continue;
		e->key = strdup(s->key);
		e->len = s->len;
		e->revision = s->revision;
		e->value = malloc(s->len + 1);
		if (!e->key || !e->value)
			abort();
		memcpy(e->value, s->value, s->len);
		e->next = w->kv;
		w->kv = e;
	}
}

static void shared_give(struct fake_world *w)
{
	size_t i = 0;

	if (!shared)
		return;
	for (struct fake_kv_entry *e = w->kv; e; e = e->next, i++) {
		struct shared_entry *s = &shared->entries[i];

		if (i == SHARED_KEYS || e->len > SHARED_VALUE || strlen(e->key) >= sizeof s->key)
			abort(); /* no case has as much */
		strcpy(s->key, e->key);
		s->len = e->len;
		s->revision = e->revision;
		memcpy(s->value, e->value, e->len);
	}
	for (; i < SHARED_KEYS; i++)
		shared->entries[i].revision = 0;
	shared->revision = w->kv_revision;
	pthread_mutex_unlock(&shared->lock);
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
	shared_take(inst->world);
	r = c->op == MC_KV_UNWATCH ? kv_unwatch(inst, c) : kv_do(inst, c);
	shared_give(inst->world);
	pthread_mutex_unlock(&inst->world->lock);
	if (r < 0 && c->op != MC_KV_UNWATCH)
		inst_outstanding(inst, -1);
	return r;
}

void kv_free(struct fake_world *w)
{
	entries_free(w);
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
