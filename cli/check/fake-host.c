/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fake host: the world, and opening and closing instances.  Their loops are
 * in fake-loop.c, private areas in fake-area.c, services in fake-services.c,
 * peers and slices in fake-peer.c and fake-slice.c, buffers in fake-buf.c.
 */
#include "fake-host-impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

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

static char last_of_all[512]; /* written under the lock of a world, read when none is left */

const char *fake_last_of_all(void)
{
	return last_of_all;
}

void fake_forgive(struct fake_world *w)
{
	__atomic_store_n(&w->breaches, 0, __ATOMIC_RELAXED);
	w->last[0] = 0;
}

void fake_breach(struct fake_world *w, const char *fmt, ...)
{
	static char said[512]; /* under lock, nearly always: one world at a time breaches */
	va_list ap;

	pthread_mutex_lock(&w->lock);
	va_start(ap, fmt);
	vsnprintf(w->last, sizeof w->last, fmt, ap);
	va_end(ap);
	memcpy(last_of_all, w->last, sizeof last_of_all);
	__atomic_fetch_add(&w->breaches, 1, __ATOMIC_RELAXED);
	/* A plugin that does it once does it a thousand times. */
	if (!(w->flags & FAKE_QUIET) && strcmp(said, w->last) != 0) {
		fprintf(stderr, "breach: %s\n", w->last);
		memcpy(said, w->last, sizeof said);
	}
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

/* ---- open and close ----------------------------------------------------------------------------- */

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
		inst_thread_start(inst);
	} else if (epoll_ctl(w->epfd, EPOLL_CTL_ADD, inst->st->epfd, &ev) < 0) {
		abort();
	}
	pthread_mutex_unlock(&w->lock);
	*ret_inst = inst;
	return 0;
}

int fake_enumerate(struct fake_world *w, const struct fake_plugin *plugin,
		   int (*found)(void *ctx, const char *device), void *ctx)
{
	struct fake_inst *inst = calloc(1, sizeof *inst);
	int r;

	if (!inst || (inst->world = w, inst_state_new(inst)) < 0)
		abort();
	inst->plugin = plugin;
	inst->ops = &plugin->ops.transport;
	name_inst(inst, &(struct fake_open){ .device = "none" });
	services_fill(&inst->host, inst->name);
	r = inst->ops->enumerate(&inst->host, found, ctx);
	inst_state_free(inst);
	free(inst);
	return r;
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
	inst_thread_end(inst);
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
