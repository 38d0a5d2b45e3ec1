/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The services of struct mc_host that need no peer: log, clock, memory,
 * counters, watches, timers, posts, blocking work, completions.  Each checks
 * the thread that its tag in plugin.h names.  Keys are in fake-kv.c.
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

struct fake_inst *inst_of(const struct mc_host *h)
{
	return (struct fake_inst *)(uintptr_t)h;
}

void expect_worker(struct fake_inst *inst, const char *service)
{
	if (!on_worker(inst))
		fake_breach(inst->world, "%s is called on the instance's worker: %s called it from %s", service,
			    inst->name, called_from());
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

	if (!inst->st->in_open || !on_worker(inst))
		fake_breach(inst->world, "counter is called inside open: %s asked for '%s' later, or elsewhere",
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

static uint64_t host_lease_left(const struct mc_host *h)
{
	return UINT64_MAX - __atomic_load_n(&inst_of(h)->world->lease_used, __ATOMIC_RELAXED);
}

void fake_lease(struct fake_world *w, uint64_t left_ns)
{
	__atomic_store_n(&w->lease_used, UINT64_MAX - left_ns, __ATOMIC_RELAXED);
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
		.kv = kv_service_call,
		.kv_event = kv_service_event,
		.copied = buf_service_copied,
		.lease_left_ns = host_lease_left,
	};
}
