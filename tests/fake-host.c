/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fake host: the world, the instances and their loops, private areas with
 * guards.  Services are in fake-services.c, peers and slices in fake-peer.c and
 * fake-slice.c, buffers in fake-buf.c.
 */
#include "fake-host-impl.h"
#include "core/util/check.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define POISON(p, n) ASAN_POISON_MEMORY_REGION(p, n)
#define UNPOISON(p, n) ASAN_UNPOISON_MEMORY_REGION(p, n)
#else
#define POISON(p, n) ((void)0)
#define UNPOISON(p, n) ((void)0)
#endif

/* ---- areas --------------------------------------------------------------------------------- */

#define AREA_MAGIC UINT64_C(0x616572615f6b6974)
#define AREA_EDGE 64
#define AREA_BYTE 0xa5
#define AREA_DEAD 0xdd

struct area_head {
	uint64_t magic;
	uint32_t kind, dead;
	void *owner;
	size_t size;
	struct area_head *next;
	unsigned char pad[24]; /* to one cache line */
};
static_assert(sizeof(struct area_head) == 64, "the area behind it stays aligned");

static const char *const area_names[] = { "", "instance", "region", "peer", "remote", "slice" };

void *area_new(struct fake_world *w, enum area_kind kind, size_t size, void *owner)
{
	size_t total = sizeof(struct area_head) + 2 * AREA_EDGE + mc_round_up(size, AREA_EDGE);
	struct area_head *a = aligned_alloc(AREA_EDGE, total);
	unsigned char *p;

	if (!a)
		abort();
	memset(a, AREA_BYTE, total);
	*a = (struct area_head){ .magic = AREA_MAGIC, .kind = kind, .owner = owner, .size = size };
	p = (unsigned char *)(a + 1) + AREA_EDGE;
	memset(p, 0, size);
	return p;
}

static struct area_head *area_head(const void *area)
{
	return (struct area_head *)((uintptr_t)area - AREA_EDGE - sizeof(struct area_head));
}

static bool area_edges_ok(const struct area_head *a)
{
	const unsigned char *p = (const unsigned char *)(a + 1);
	const unsigned char *end = p + AREA_EDGE + a->size;

	for (size_t i = 0; i < AREA_EDGE; i++)
		if (p[i] != AREA_BYTE || end[i] != AREA_BYTE)
			return false;
	return true;
}

void area_release(struct fake_world *w, void *area)
{
	struct area_head *a;

	if (!area)
		return;
	a = area_head(area);
	if (!area_edges_ok(a))
		fake_breach(w, "a plugin writes only inside its private areas: guard of a %s area changed",
			    area_names[a->kind]);
	memset(area, AREA_DEAD, a->size);
	POISON(area, a->size);
	pthread_mutex_lock(&w->lock);
	a->dead = 1;
	a->next = w->quarantine;
	w->quarantine = a;
	pthread_mutex_unlock(&w->lock);
}

void *area_owner(const void *area, enum area_kind kind)
{
	const struct area_head *a = area ? area_head(area) : NULL;

	return a && a->magic == AREA_MAGIC && a->kind == kind && !a->dead ? a->owner : NULL;
}

static void quarantine_free(struct fake_world *w)
{
	struct area_head *a;

	while ((a = w->quarantine)) {
		unsigned char *p = (unsigned char *)(a + 1) + AREA_EDGE;
		size_t i = 0;

		UNPOISON(p, a->size);
		while (i < a->size && p[i] == AREA_DEAD)
			i++;
		if (i < a->size || !area_edges_ok(a))
			fake_breach(w, "an area is not touched after its close: a %s area was written",
				    area_names[a->kind]);
		w->quarantine = a->next;
		free(a);
	}
}

/* ---- world --------------------------------------------------------------------------------- */

uint64_t fake_real_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * MC_SEC + (uint64_t)ts.tv_nsec;
}

uint64_t world_now(const struct fake_world *w)
{
	return w->flags & FAKE_CLOCK ? __atomic_load_n(&w->clock_ns, __ATOMIC_RELAXED) : fake_real_ns();
}

struct fake_world *fake_world_new(unsigned flags)
{
	struct fake_world *w = calloc(1, sizeof *w);

	if (!w)
		return NULL;
	w->flags = flags;
	w->clock_ns = 1000 * MC_SEC;
	w->epfd = epoll_create1(EPOLL_CLOEXEC);
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->moved, NULL);
	return w;
}

unsigned fake_world_free(struct fake_world *w)
{
	unsigned nr;

	if (!w)
		return 0;
	while (w->insts)
		fake_close(w->insts, 5 * MC_SEC);
	memories_close(w);
	kv_free(w);
	while (w->old_peers) {
		struct fake_peer *p = w->old_peers;

		w->old_peers = p->next;
		free(p);
	}
	quarantine_free(w);
	nr = w->breaches;
	close(w->epfd);
	pthread_cond_destroy(&w->moved);
	pthread_mutex_destroy(&w->lock);
	free(w);
	return nr;
}

unsigned fake_breaches(const struct fake_world *w)
{
	return __atomic_load_n(&w->breaches, __ATOMIC_RELAXED);
}

const char *fake_last_breach(const struct fake_world *w)
{
	return w->last;
}

void fake_forgive(struct fake_world *w)
{
	__atomic_store_n(&w->breaches, 0, __ATOMIC_RELAXED);
	w->last[0] = 0;
}

void fake_breach(struct fake_world *w, const char *fmt, ...)
{
	va_list ap;

	pthread_mutex_lock(&w->lock);
	va_start(ap, fmt);
	vsnprintf(w->last, sizeof w->last, fmt, ap);
	va_end(ap);
	__atomic_fetch_add(&w->breaches, 1, __ATOMIC_RELAXED);
	if (!(w->flags & FAKE_QUIET))
		fprintf(stderr, "breach: %s\n", w->last);
	pthread_mutex_unlock(&w->lock);
}

void fake_advance(struct fake_world *w, uint64_t ns)
{
	__atomic_fetch_add(&w->clock_ns, ns, __ATOMIC_RELAXED);
	/* Sleeping instances look at their timers again. */
	pthread_mutex_lock(&w->lock);
	for (struct fake_inst *i = w->insts; i; i = i->st->next)
		if (write(i->st->evfd, &(uint64_t){ 1 }, 8) < 0)
			abort();
	pthread_mutex_unlock(&w->lock);
}

void fake_fail_alloc(struct fake_world *w, unsigned nth)
{
	w->fail_alloc = nth;
}

void fake_fail_watch(struct fake_world *w, unsigned nth)
{
	w->fail_watch = nth;
}

/* ---- one instance's loop ---------------------------------------------------------------------- */

bool on_worker(const struct fake_inst *inst)
{
	return pthread_equal(inst->st->worker, pthread_self());
}

void inst_push(struct fake_inst *inst, struct fake_job *job)
{
	struct fake_inst_state *st = inst->st;
	bool first;

	job->next = NULL;
	pthread_mutex_lock(&st->lock);
	first = !st->jobs;
	*st->jobs_tail = job;
	st->jobs_tail = &job->next;
	/* Inside the lock: the worker may close the descriptor once it has seen the job. */
	if (first && write(st->evfd, &(uint64_t){ 1 }, 8) < 0)
		abort();
	pthread_mutex_unlock(&st->lock);
}

void inst_post(struct fake_inst *inst, void (*run)(struct fake_job *job), void *a, void *b, int64_t n)
{
	struct fake_job *job = malloc(sizeof *job);

	if (!job)
		abort();
	*job = (struct fake_job){ .run = run, .a = a, .b = b, .n = n };
	inst_push(inst, job);
}

void inst_outstanding(struct fake_inst *inst, int delta)
{
	pthread_mutex_lock(&inst->st->lock);
	inst->st->outstanding += (unsigned)delta;
	pthread_mutex_unlock(&inst->st->lock);
}

static int jobs_run(struct fake_inst *inst)
{
	struct fake_inst_state *st = inst->st;
	struct fake_job *job, *next;
	int n = 0;

	pthread_mutex_lock(&st->lock);
	job = st->jobs;
	st->jobs = NULL;
	st->jobs_tail = &st->jobs;
	pthread_mutex_unlock(&st->lock);
	for (; job; job = next, n++) {
		next = job->next;
		job->run(job);
		free(job);
	}
	return n;
}

int inst_add_source(struct fake_inst *inst, int fd, uint32_t events, struct fake_source *s)
{
	struct epoll_event ev = { .events = events, .data.ptr = s };

	return epoll_ctl(inst->st->epfd, EPOLL_CTL_ADD, fd, &ev) < 0 ? -errno : 0;
}

/* The source may still be in the array of events that is being handled: it is freed later. */
void inst_drop_source(struct fake_inst *inst, int fd, struct fake_source *s)
{
	epoll_ctl(inst->st->epfd, EPOLL_CTL_DEL, fd, NULL);
	s->dead = true;
	s->next = inst->st->dead_sources;
	inst->st->dead_sources = s;
}

static void free_dead_sources(struct fake_inst_state *st)
{
	struct fake_source *s;

	while (!st->dispatching && (s = st->dead_sources)) {
		st->dead_sources = s->next;
		free(s);
	}
}

static void dispatch(struct fake_inst *inst, const struct epoll_event *ev)
{
	struct fake_source *s = ev->data.ptr;
	uint64_t v;

	if (s->dead)
		return;
	if (s->kind == SOURCE_INBOX) {
		if (read(inst->st->evfd, &v, sizeof v) < 0 && errno != EAGAIN)
			abort();
	} else if (s->kind == SOURCE_LINK) {
		link_ready(s->obj);
	} else {
		struct mc_watch *w = s->obj;

		w->ready(w, ev->events); /* EPOLL* and POLL* have the same values */
	}
}

static int poll_events(struct fake_inst *inst, int timeout_ms)
{
	struct epoll_event evs[32];
	int n = epoll_wait(inst->st->epfd, evs, MC_ARRAY_SIZE(evs), timeout_ms);

	inst->st->dispatching++;
	for (int i = 0; i < n; i++)
		dispatch(inst, &evs[i]);
	inst->st->dispatching--;
	free_dead_sources(inst->st);
	return MC_MAX(n, 0);
}

static int turn_once(struct fake_inst *inst)
{
	struct fake_inst_state *st = inst->st;
	int n = jobs_run(inst), r;

	n += links_flush(inst);
	timers_fire(inst, &n);
	r = inst->ops->progress(inst->priv);
	if (r < 0)
		fake_breach(inst->world, "progress returns a number of events: it returned %d", r);
	else
		n += r;
	/* Descriptors are looked at each time that nothing else happened, and now and then. */
	if (n == 0 || ++st->busy_turns % 16 == 0)
		n += poll_events(inst, 0);
	return n;
}

/* 0: may sleep; 1: there is work. */
static int arm(struct fake_inst *inst)
{
	int r = inst->ops->arm(inst->priv);

	if (r && r != -EBUSY)
		fake_breach(inst->world, "arm answers 0 or -EBUSY: it answered %d", r);
	return r == -EBUSY;
}

static int sleep_ms(uint64_t now, uint64_t until)
{
	uint64_t ns = until > now ? until - now : 0;

	return (int)MC_MIN((ns + MC_MSEC - 1) / MC_MSEC, 1000000);
}

/* When the loop must look again whatever the descriptors say. */
static uint64_t wake_time(const struct fake_inst *inst, uint64_t real_until)
{
	uint64_t t = timers_next(inst);

	if (t == UINT64_MAX || inst->world->flags & FAKE_CLOCK)
		return real_until;
	return MC_MIN(t, real_until);
}

int fake_turn(struct fake_inst *inst, uint64_t wait_ns)
{
	int n = turn_once(inst);
	uint64_t now;

	if (n || !wait_ns || arm(inst))
		return n;
	now = fake_real_ns();
	return poll_events(inst, sleep_ms(now, wake_time(inst, now + wait_ns)));
}

/* ---- running all ------------------------------------------------------------------------------- */

static int run_single(struct fake_world *w, fake_cond cond, void *ctx, uint64_t until)
{
	while (!cond || !cond(ctx)) {
		uint64_t now = fake_real_ns(), wake = until;
		struct epoll_event ev;
		int n = 0, busy = 0;

		if (now > until)
			return -ETIMEDOUT;
		for (struct fake_inst *i = w->insts, *next; i; i = next) {
			next = i->st->next;
			n += i->paused ? 0 : turn_once(i);
		}
		if (n)
			continue;
		if (cond && cond(ctx))
			break;
		for (struct fake_inst *i = w->insts; i; i = i->st->next) {
			if (i->paused)
				continue;
			busy |= arm(i);
			wake = wake_time(i, wake);
		}
		if (busy)
			continue;
		if (!cond && epoll_wait(w->epfd, &ev, 1, 0) == 0)
			break;
		if (cond)
			epoll_wait(w->epfd, &ev, 1, sleep_ms(now, wake + 1));
	}
	return 0;
}

struct ask {
	fake_cond cond;
	void *ctx;
	bool yes;
};

static void ask_cond(void *ctx)
{
	struct ask *a = ctx;

	a->yes = a->cond(a->ctx);
}

static int run_threads(struct fake_world *w, struct fake_inst *inst, fake_cond cond, void *ctx,
		       uint64_t until)
{
	struct ask a = { cond, ctx, false };

	for (;;) {
		struct timespec ts;

		if (inst)
			fake_call(inst, ask_cond, &a);
		else
			ask_cond(&a);
		if (a.yes)
			return 0;
		if (fake_real_ns() > until)
			return -ETIMEDOUT;
		clock_gettime(CLOCK_REALTIME, &ts);
		ts.tv_nsec += 2000000;
		if (ts.tv_nsec >= 1000000000) {
			ts.tv_nsec -= 1000000000;
			ts.tv_sec++;
		}
		pthread_mutex_lock(&w->lock);
		pthread_cond_timedwait(&w->moved, &w->lock, &ts);
		pthread_mutex_unlock(&w->lock);
	}
}

int fake_run(struct fake_world *w, fake_cond cond, void *ctx, uint64_t bound_ns)
{
	uint64_t until = fake_real_ns() + bound_ns;

	if (!(w->flags & FAKE_THREADS))
		return run_single(w, cond, ctx, until);
	return cond ? run_threads(w, NULL, cond, ctx, until) : 0;
}

int fake_run_on(struct fake_inst *inst, fake_cond cond, void *ctx, uint64_t bound_ns)
{
	uint64_t until = fake_real_ns() + bound_ns;

	if (!(inst->world->flags & FAKE_THREADS))
		return run_single(inst->world, cond, ctx, until);
	if (!on_worker(inst))
		return run_threads(inst->world, inst, cond, ctx, until);
	while (!cond(ctx)) {
		if (fake_real_ns() > until)
			return -ETIMEDOUT;
		fake_turn(inst, 10 * MC_MSEC);
	}
	return 0;
}

struct call {
	void (*fn)(void *ctx);
	void *ctx;
	bool over;
	pthread_mutex_t lock;
	pthread_cond_t cond;
};

static void call_run(struct fake_job *job)
{
	struct call *c = job->a;

	c->fn(c->ctx);
	pthread_mutex_lock(&c->lock);
	c->over = true;
	pthread_cond_signal(&c->cond);
	pthread_mutex_unlock(&c->lock);
}

void fake_call(struct fake_inst *inst, void (*fn)(void *ctx), void *ctx)
{
	struct call c = { .fn = fn, .ctx = ctx };

	if (!inst->st->threaded || on_worker(inst)) {
		fn(ctx);
		return;
	}
	pthread_mutex_init(&c.lock, NULL);
	pthread_cond_init(&c.cond, NULL);
	inst_post(inst, call_run, &c, NULL, 0);
	pthread_mutex_lock(&c.lock);
	while (!c.over)
		pthread_cond_wait(&c.cond, &c.lock);
	pthread_mutex_unlock(&c.lock);
	pthread_cond_destroy(&c.cond);
	pthread_mutex_destroy(&c.lock);
}

static void quit_job(struct fake_job *job)
{
	((struct fake_inst *)job->a)->st->quit = true;
}

static void *inst_thread(void *arg)
{
	struct fake_inst *inst = arg;

	pthread_mutex_lock(&inst->world->lock); /* orders st->worker, set by the opener */
	pthread_mutex_unlock(&inst->world->lock);
	while (!inst->st->quit) {
		fake_turn(inst, MC_SEC);
		pthread_cond_broadcast(&inst->world->moved);
	}
	return NULL;
}

/* ---- open and close ----------------------------------------------------------------------------- */

int inst_state_new(struct fake_inst *inst)
{
	struct fake_inst_state *st = calloc(1, sizeof *st);

	if (!st)
		return -ENOMEM;
	inst->st = st;
	st->epfd = epoll_create1(EPOLL_CLOEXEC);
	st->evfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	st->inbox = (struct fake_source){ .kind = SOURCE_INBOX };
	st->jobs_tail = &st->jobs;
	st->worker = pthread_self();
	pthread_mutex_init(&st->lock, NULL);
	return inst_add_source(inst, st->evfd, EPOLLIN, &st->inbox);
}

void inst_state_free(struct fake_inst *inst)
{
	struct fake_inst_state *st = inst->st;

	free_dead_sources(st);
	close(st->epfd);
	close(st->evfd);
	pthread_mutex_destroy(&st->lock);
	free(st);
}

static void inst_free(struct fake_inst *inst)
{
	inst_state_free(inst);
	area_release(inst->world, inst->priv);
	free(inst);
}

static void fill_args(struct fake_inst *inst, const struct fake_open *how, struct mc_open_args *args)
{
	*args = (struct mc_open_args){
		.size = sizeof *args,
		.device = inst->device,
		.engine = inst->engine,
		.generation = inst->generation,
		.lane = how->lane,
		.nr_lanes = how->nr_lanes ? how->nr_lanes : 1,
		.lane0 = how->lane0 ? how->lane0->priv : NULL,
		.peer_timeout_ns = how->peer_timeout_ns ? how->peer_timeout_ns : 5 * MC_SEC,
		.deadline_ns = world_now(inst->world) + 10 * MC_SEC,
	};
}

static void name_inst(struct fake_inst *inst, const struct fake_open *how)
{
	const char *transport = inst->plugin->desc->name;

	snprintf(inst->device, sizeof inst->device, "%s", how->device ? how->device : "dev0");
	if (how->engine)
		snprintf(inst->engine, sizeof inst->engine, "%s", how->engine);
	else
		snprintf(inst->engine, sizeof inst->engine, "engine-%u", inst->world->nr_engines++);
	snprintf(inst->name, sizeof inst->name, "%s:%s", transport, inst->device);
	inst->generation = how->generation;
	while (!inst->generation)
		if (getrandom(&inst->generation, sizeof inst->generation, 0) < 0)
			abort();
}

static int check_caps(struct fake_inst *inst, struct mc_error *err)
{
	const struct mc_transport_caps *c = &inst->caps;

	if (!(c->flags & (MC_CAP_READ | MC_CAP_WRITE)))
		return mc_fail(err, -ELIBBAD, "%s: caps carry neither reads nor writes", inst->name);
	if (c->fence != MC_FENCE_LOCAL && c->fence != MC_FENCE_BOTH)
		return mc_fail(err, -ELIBBAD, "%s: caps name no fence class", inst->name);
	if (c->visibility != MC_VISIBLE_AT_COMPLETION && c->visibility != MC_VISIBLE_AFTER_FLUSH)
		return mc_fail(err, -ELIBBAD, "%s: caps name no visibility class", inst->name);
	if (!c->local_kinds || !c->remote_kinds || !c->max_slice)
		return mc_fail(err, -ELIBBAD, "%s: caps lack memory kinds or max_slice", inst->name);
	return 0;
}

static int call_open(struct fake_inst *inst, const struct fake_open *how, struct mc_error *err)
{
	struct mc_open_args args;
	struct mc_value *values = NULL;
	int r = fake_options_parse(inst->plugin->desc, how->words, how->nr_words, &values, err);

	if (r < 0)
		return r;
	fill_args(inst, how, &args);
	args.options = values;
	inst->caps.size = sizeof inst->caps;
	inst->st->in_open = true;
	r = inst->ops->open(inst->priv, &inst->host, &args, &inst->caps, err);
	inst->st->in_open = false;
	fake_options_free(inst->plugin->desc, values);
	if (r > 0) {
		fake_breach(inst->world, "open answers 0 or -errno: it answered %d", r);
		r = -ELIBBAD;
	}
	if (r < 0) {
		if (err && (err->code != r || !err->text[0]))
			fake_breach(inst->world, "a failed open fills err: %s answered %d with '%s'",
				    inst->name, r, err->text);
		if (inst->st->nr_watches || inst->st->nr_allocs || inst->st->timers)
			fake_breach(inst->world, "a failed open leaves nothing: %s left %u watches, %u allocations",
				    inst->name, inst->st->nr_watches, inst->st->nr_allocs);
		return r;
	}
	r = check_caps(inst, err);
	if (r < 0)
		inst->ops->close(inst->priv);
	return r;
}

int fake_open(struct fake_world *w, const struct fake_plugin *plugin, const struct fake_open *how,
	      struct fake_inst **ret_inst, struct mc_error *err)
{
	struct fake_inst *inst = calloc(1, sizeof *inst), **tail;
	struct epoll_event ev = { .events = EPOLLIN };
	int r;

	if (!inst || (inst->world = w, r = inst_state_new(inst)) < 0)
		abort();
	if (err)
		*err = (struct mc_error){ 0 };
	inst->plugin = plugin;
	inst->ops = &plugin->ops.transport;
	inst->lane0 = how->lane0 ? how->lane0 : inst;
	inst->lane = how->lane;
	name_inst(inst, how);
	services_fill(&inst->host, inst->name);
	inst->priv = area_new(w, AREA_INSTANCE, inst->ops->instance_size, inst);
	r = call_open(inst, how, err);
	if (r < 0) {
		inst_free(inst);
		return r;
	}
	pthread_mutex_lock(&w->lock);
	for (tail = &w->insts; *tail; tail = &(*tail)->st->next)
		;
	*tail = inst;
	if (w->flags & FAKE_THREADS) {
		inst->st->threaded = true;
		if (pthread_create(&inst->st->thread, NULL, inst_thread, inst))
			abort();
		inst->st->worker = inst->st->thread;
	} else if (epoll_ctl(w->epfd, EPOLL_CTL_ADD, inst->st->epfd, &ev) < 0) {
		abort();
	}
	pthread_mutex_unlock(&w->lock);
	*ret_inst = inst;
	return 0;
}

static void do_stop(void *ctx)
{
	struct fake_inst *inst = ctx;

	inst->ops->stop(inst->priv);
}

void fake_stop(struct fake_inst *inst)
{
	fake_call(inst, do_stop, inst);
}

static bool nothing_inflight(void *ctx)
{
	struct fake_inst *inst = ctx;
	bool idle;

	pthread_mutex_lock(&inst->st->lock);
	idle = !inst->nr_inflight && !inst->st->outstanding && !inst->st->jobs;
	pthread_mutex_unlock(&inst->st->lock);
	return idle;
}

static void end_thread(struct fake_inst *inst)
{
	if (!inst->st->threaded)
		return;
	inst_post(inst, quit_job, inst, NULL, 0);
	pthread_join(inst->st->thread, NULL);
	inst->st->threaded = false;
	inst->st->worker = pthread_self();
}

static void unlink_inst(struct fake_inst *inst)
{
	struct fake_world *w = inst->world;
	struct fake_inst **p;

	pthread_mutex_lock(&w->lock);
	for (p = &w->insts; *p != inst; p = &(*p)->st->next)
		;
	*p = inst->st->next;
	epoll_ctl(w->epfd, EPOLL_CTL_DEL, inst->st->epfd, NULL);
	pthread_mutex_unlock(&w->lock);
}

int fake_close(struct fake_inst *inst, uint64_t bound_ns)
{
	int r;

	if (!inst)
		return 0;
	fake_stop(inst);
	r = fake_run_on(inst, nothing_inflight, inst, bound_ns);
	if (r < 0)
		fake_breach(inst->world, "after stop, progress ends every slice: %u of %s are in flight",
			    inst->nr_inflight, inst->name);
	peers_close(inst, bound_ns);
	/* What closing a peer gave to helpers ends before close, too. */
	fake_run_on(inst, nothing_inflight, inst, bound_ns);
	end_thread(inst);
	jobs_run(inst);
	links_close(inst);
	inst_bufs_close(inst);
	inst->ops->close(inst->priv);
	inst->st->closed = true;
	if (inst->st->nr_watches)
		fake_breach(inst->world, "close unwatches every descriptor: %s left %u",
			    inst->name, inst->st->nr_watches);
	if (inst->st->timers)
		fake_breach(inst->world, "close disarms every timer: %s left one", inst->name);
	if (inst->st->nr_allocs)
		fake_breach(inst->world, "close frees what it allocated: %s left %u", inst->name,
			    inst->st->nr_allocs);
	jobs_run(inst);
	unlink_inst(inst);
	inst_free(inst);
	return r;
}

struct reconfigure {
	struct fake_inst *inst;
	const struct mc_value *values;
	struct mc_error *err;
	int r;
};

static void do_reconfigure(void *ctx)
{
	struct reconfigure *c = ctx;

	c->r = c->inst->ops->reconfigure(c->inst->priv, c->values, c->err);
}

int fake_reconfigure(struct fake_inst *inst, const char *const *words, size_t nr_words,
		     struct mc_error *err)
{
	struct mc_value *values = NULL;
	struct reconfigure c = { .inst = inst, .err = err };

	c.r = fake_options_parse(inst->plugin->desc, words, nr_words, &values, err);
	if (c.r < 0)
		return c.r;
	c.values = values;
	fake_call(inst, do_reconfigure, &c);
	fake_options_free(inst->plugin->desc, values);
	return c.r;
}

uint64_t fake_counter(const struct fake_inst *inst, const char *name)
{
	for (unsigned i = 0; i < inst->nr_counters; i++)
		if (!strcmp(inst->counters[i].name, name))
			return __atomic_load_n(&inst->counters[i].value, __ATOMIC_RELAXED);
	return 0;
}
