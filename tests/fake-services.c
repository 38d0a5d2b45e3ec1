/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The services of struct mc_host that need no peer: log, clock, memory,
 * counters, watches, timers, posts, blocking work, completions, key-value.
 * Each checks the thread that its tag in plugin.h names.
 */
#include "fake-host-impl.h"
#include "core/util/check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

static struct fake_inst *inst_of(const struct mc_host *h)
{
	return (struct fake_inst *)(uintptr_t)h;
}

/* [worker], and [helper] inside open and close (where the opener's thread is the worker). */
static void expect_worker(struct fake_inst *inst, const char *service)
{
	if (!on_worker(inst))
		fake_breach(inst->world, "%s is called on the instance's worker: %s called it from another thread",
			    service, inst->name);
	if (inst->st->closed)
		fake_breach(inst->world, "no service is called after close: %s called %s", inst->name, service);
}

static void host_log(const struct mc_host *h, int level, const char *fmt, ...)
{
	int saved = errno;
	va_list ap;

	if (getenv("FAKE_VERBOSE")) {
		flockfile(stderr);
		fprintf(stderr, "[%d] %s: ", level, h->instance);
		va_start(ap, fmt);
		vfprintf(stderr, fmt, ap);
		va_end(ap);
		fputc('\n', stderr);
		funlockfile(stderr);
	}
	errno = saved;
}

static uint64_t host_now(const struct mc_host *h)
{
	return world_now(inst_of(h)->world);
}

static void host_random(const struct mc_host *h, void *buf, size_t len)
{
	for (size_t off = 0; off < len;) {
		ssize_t n = getrandom((char *)buf + off, len - off, 0);

		if (n > 0)
			off += (size_t)n;
	}
}

/* True if this call is the one to fail. */
static bool strikes(struct fake_world *w, unsigned *nth)
{
	bool hit;

	pthread_mutex_lock(&w->lock);
	hit = *nth == 1;
	if (*nth)
		(*nth)--;
	pthread_mutex_unlock(&w->lock);
	return hit;
}

static void *host_alloc(const struct mc_host *h, size_t len)
{
	struct fake_inst *inst = inst_of(h);
	void *p;

	if (strikes(inst->world, &inst->world->fail_alloc) || !len)
		return NULL;
	p = mmap(NULL, mc_round_up(len, 4096), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	__atomic_fetch_add(&inst->st->nr_allocs, 1, __ATOMIC_RELAXED);
	return p;
}

static void host_free(const struct mc_host *h, void *ptr, size_t len)
{
	if (!ptr)
		return;
	munmap(ptr, mc_round_up(len, 4096));
	__atomic_fetch_sub(&inst_of(h)->st->nr_allocs, 1, __ATOMIC_RELAXED);
}

static uint64_t *host_counter(const struct mc_host *h, const char *name, const char *doc)
{
	struct fake_inst *inst = inst_of(h);
	struct fake_counter *c;

	if (!inst->st->in_open)
		fake_breach(inst->world, "counter is called inside open: %s asked for '%s' later",
			    inst->name, name);
	if (!doc || !*doc)
		fake_breach(inst->world, "a counter has a sentence that explains it: '%s' has none", name);
	if (inst->nr_counters == FAKE_COUNTERS)
		return NULL;
	c = &inst->counters[inst->nr_counters++];
	snprintf(c->name, sizeof c->name, "%s", name);
	return &c->value;
}

/* ---- watches and timers ------------------------------------------------------------------------ */

static int host_watch(const struct mc_host *h, struct mc_watch *w)
{
	struct fake_inst *inst = inst_of(h);
	struct fake_source *s;
	int r;

	expect_worker(inst, "watch");
	if (w->size < sizeof *w)
		fake_breach(inst->world, "a watch carries its size: %s gave %zu", inst->name, w->size);
	if (strikes(inst->world, &inst->world->fail_watch))
		return -ENOSPC;
	s = calloc(1, sizeof *s);
	if (!s)
		return -ENOMEM;
	*s = (struct fake_source){ .kind = SOURCE_WATCH, .obj = w };
	r = inst_add_source(inst, w->fd, w->events, s);
	if (r < 0) {
		free(s);
		return r;
	}
	w->host = s;
	inst->st->nr_watches++;
	return 0;
}

static int host_rewatch(const struct mc_host *h, struct mc_watch *w, uint32_t events)
{
	struct fake_inst *inst = inst_of(h);
	struct epoll_event ev = { .events = events, .data.ptr = w->host };

	expect_worker(inst, "rewatch");
	if (!w->host) {
		fake_breach(inst->world, "rewatch needs a watch that is set: %s", inst->name);
		return -EINVAL;
	}
	if (epoll_ctl(inst->st->epfd, EPOLL_CTL_MOD, w->fd, &ev) < 0)
		return -errno;
	w->events = events;
	return 0;
}

static void host_unwatch(const struct mc_host *h, struct mc_watch *w)
{
	struct fake_inst *inst = inst_of(h);

	expect_worker(inst, "unwatch");
	if (!w->host)
		return;
	inst_drop_source(inst, w->fd, w->host);
	w->host = NULL;
	inst->st->nr_watches--;
}

static void timer_remove(struct fake_inst *inst, struct mc_timer *t)
{
	struct mc_timer **p = &inst->st->timers;

	while (*p && *p != t)
		p = (struct mc_timer **)&(*p)->host[0];
	if (*p)
		*p = t->host[0];
}

static void host_timer_set(const struct mc_host *h, struct mc_timer *t, uint64_t deadline_ns)
{
	struct fake_inst *inst = inst_of(h);

	expect_worker(inst, "timer_set");
	if (t->deadline_ns)
		timer_remove(inst, t);
	t->deadline_ns = deadline_ns;
	if (deadline_ns) {
		t->host[0] = inst->st->timers;
		inst->st->timers = t;
	}
}

uint64_t timers_next(const struct fake_inst *inst)
{
	uint64_t min = UINT64_MAX;

	for (const struct mc_timer *t = inst->st->timers; t; t = t->host[0])
		min = MC_MIN(min, t->deadline_ns);
	return min;
}

void timers_fire(struct fake_inst *inst, int *happened)
{
	uint64_t now;
	struct mc_timer *t;

	if (!inst->st->timers)
		return;
	now = world_now(inst->world);
	for (;;) {
		for (t = inst->st->timers; t && t->deadline_ns > now; t = t->host[0])
			;
		if (!t)
			return;
		timer_remove(inst, t);
		t->deadline_ns = 0;
		(*happened)++;
		t->fire(t, now);
	}
}

/* ---- work ---------------------------------------------------------------------------------------- */

static void run_posted(struct fake_job *job)
{
	struct mc_work *w = job->a;

	w->run(w);
}

static void host_post(const struct mc_host *h, struct mc_work *w)
{
	struct fake_inst *inst = inst_of(h);

	if (inst->st->closed)
		fake_breach(inst->world, "no service is called after close: %s called post", inst->name);
	inst_post(inst, run_posted, w, NULL, 0);
}

struct blocking {
	struct fake_inst *inst;
	struct mc_work *work;
	pthread_t thread;
};

static void blocking_done(struct fake_job *job)
{
	struct blocking *b = job->a;

	pthread_join(b->thread, NULL);
	if (b->work->done)
		b->work->done(b->work);
	inst_outstanding(b->inst, -1);
	free(b);
}

static void *blocking_run(void *arg)
{
	struct blocking *b = arg;

	b->work->run(b->work);
	inst_post(b->inst, blocking_done, b, NULL, 0);
	return NULL;
}

static void host_run_blocking(const struct mc_host *h, struct mc_work *w)
{
	struct blocking *b = calloc(1, sizeof *b);

	if (!b)
		abort();
	b->inst = inst_of(h);
	b->work = w;
	inst_outstanding(b->inst, 1);
	/* The thread posts itself; the lock keeps blocking_done behind the write of b->thread. */
	pthread_mutex_lock(&b->inst->st->lock);
	if (pthread_create(&b->thread, NULL, blocking_run, b))
		abort();
	pthread_mutex_unlock(&b->inst->st->lock);
}

/* ---- completions ----------------------------------------------------------------------------------- */

static void check_completion(struct fake_inst *inst, struct fake_slice *fs, int status, int scope,
			     uint64_t done_len)
{
	struct fake_world *w = inst->world;

	if (status > 0)
		fake_breach(w, "a status is 0 or -errno: %s completed with %d", inst->name, status);
	if (scope < 0 || scope >= MC_SCOPE_COUNT || (status == 0) != (scope == MC_SCOPE_NONE))
		fake_breach(w, "a failure has a scope and a success has none: %s gave status %d, scope %d",
			    inst->name, status, scope);
	if (done_len > fs->s.len || (status == 0 && done_len != fs->s.len))
		fake_breach(w, "done_len is the slice's length on success, never more: %s gave %llu of %llu",
			    inst->name, (unsigned long long)done_len, (unsigned long long)fs->s.len);
	if (!fs->peer->open)
		fake_breach(w, "nothing arrives for a peer after peer_close: %s completed a slice", inst->name);
}

static void finish(struct fake_inst *inst, struct mc_slice *s, int status, int scope, uint64_t done_len)
{
	struct fake_slice *fs = s->host;

	if (fs->state != FAKE_INFLIGHT) {
		fake_breach(inst->world, "each slice completes exactly once: %s completed one that was %s",
			    inst->name, fs->state == FAKE_DONE ? "done" : "never taken");
		return;
	}
	check_completion(inst, fs, status, scope, done_len);
	fs->status = status;
	fs->scope = scope;
	fs->done_len = done_len;
	fs->state = FAKE_DONE;
	inst->nr_inflight--;
	fs->peer->nr_inflight--;
	if (fs->done)
		fs->done(fs);
}

static void host_complete(const struct mc_host *h, struct mc_slice *s, int status, int scope,
			  uint64_t done_len)
{
	struct fake_inst *inst = inst_of(h);

	expect_worker(inst, "complete");
	if (on_worker(inst) && (inst->st->in_submit || inst->st->in_cancel))
		fake_breach(inst->world, "no completion comes from inside %s: %s did so",
			    inst->st->in_submit ? "submit" : "cancel", inst->name);
	finish(inst, s, status, scope, done_len);
}

struct completion {
	struct fake_inst *inst;
	struct mc_slice *slice;
	int status, scope;
	uint64_t done_len;
};

static void completion_run(struct fake_job *job)
{
	struct completion *c = job->a;

	__atomic_fetch_sub(&c->inst->st->nr_any, 1, __ATOMIC_RELAXED);
	finish(c->inst, c->slice, c->status, c->scope, c->done_len);
	free(c);
}

static void host_complete_any(const struct mc_host *h, struct mc_slice *s, int status, int scope,
			      uint64_t done_len)
{
	struct completion *c = malloc(sizeof *c);

	if (!c)
		abort();
	*c = (struct completion){ inst_of(h), s, status, scope, done_len };
	__atomic_fetch_add(&c->inst->st->nr_any, 1, __ATOMIC_RELAXED);
	inst_post(c->inst, completion_run, c, NULL, 0);
}

static void host_device_event(const struct mc_host *h, int event, const char *why)
{
	struct fake_inst *inst = inst_of(h);

	expect_worker(inst, "device_event");
	if (event < MC_DEVICE_UP || event > MC_DEVICE_GONE)
		fake_breach(inst->world, "device_event says up, down or gone: %s said %d", inst->name, event);
	inst->last_event = event;
	inst->nr_events++;
	snprintf(inst->event_why, sizeof inst->event_why, "%s", why ? why : "");
}

/* ---- key-value ---------------------------------------------------------------------------------------- */

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

static int host_kv(const struct mc_host *h, struct mc_kv_call *c)
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

static void host_kv_event(const struct mc_host *h, void *watch, const struct mc_kv *kv)
{
	fake_breach(inst_of(h)->world, "kv_event is for metadata plugins: %s called it", h->instance);
}

/* ---- the table ------------------------------------------------------------------------------------- */

void services_fill(struct mc_host *host, const char *instance)
{
	*host = (struct mc_host){
		.size = sizeof *host,
		.abi_major = MC_ABI_MAJOR,
		.abi_minor = MC_ABI_MINOR,
		.instance = instance,
		.log = host_log,
		.now_ns = host_now,
		.random = host_random,
		.alloc = host_alloc,
		.free = host_free,
		.counter = host_counter,
		.gauge = host_counter,
		.watch = host_watch,
		.rewatch = host_rewatch,
		.unwatch = host_unwatch,
		.timer_set = host_timer_set,
		.post = host_post,
		.run_blocking = host_run_blocking,
		.run_lazily = host_run_blocking,
		.complete = host_complete,
		.complete_any = host_complete_any,
		.peer_send = peer_service_send,
		.peer_ready = peer_service_ready,
		.peer_writable = peer_service_writable,
		.fenced = peer_service_fenced,
		.device_event = host_device_event,
		.stream_dial = peer_service_dial,
		.imported = peer_service_imported,
		.range_get = buf_service_get,
		.range_put = buf_service_put,
		.mem_copy = buf_service_copy,
		.mem_identify = buf_service_identify,
		.kv = host_kv,
		.kv_event = host_kv_event,
		.copied = buf_service_copied,
	};
}
