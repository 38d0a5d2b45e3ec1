/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mc_engine_counters: gathers what lanes and paths have counted, each on the
 * thread that owns it, then tells the caller without holding anything.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"
#include "lane.h"
#include "path.h"
#include "session.h"
#include "core/util/check.h"

#define OBJECT_MAX (MC_SEGMENT_NAME_MAX + 2 * (MC_PLUGIN_NAME_MAX + MC_DEVICE_NAME_MAX) + 32)

struct item {
	char name[64];
	uint32_t object; /* index in objects */
	uint64_t value;
};

struct gathering {
	struct mc_engine *engine;
	struct mc_lane *lane;
	struct item *items;
	size_t nr, cap;
	char (*objects)[OBJECT_MAX];
	size_t nr_objects, cap_objects;
	uint64_t bytes_read, bytes_written, slices, failures;
	bool failed; /* out of memory */
};

static void object(struct gathering *g, const char *fmt, ...) MC_PRINTF(2, 3);
static void object(struct gathering *g, const char *fmt, ...)
{
	va_list ap;

	if (g->nr_objects == g->cap_objects) {
		size_t cap = g->cap_objects ? 2 * g->cap_objects : 16;
		char(*more)[OBJECT_MAX] = realloc(g->objects, cap * sizeof *more);

		if (!more) {
			g->failed = true;
			return;
		}
		g->objects = more;
		g->cap_objects = cap;
	}
	va_start(ap, fmt);
	vsnprintf(g->objects[g->nr_objects++], OBJECT_MAX, fmt, ap);
	va_end(ap);
}

static void add(void *ctx, const char *name, uint64_t value)
{
	struct gathering *g = ctx;
	struct item *item;

	if (g->nr == g->cap) {
		size_t cap = g->cap ? 2 * g->cap : 64;
		struct item *more = realloc(g->items, cap * sizeof *more);

		if (!more)
			g->failed = true;
		else
			g->items = more, g->cap = cap;
	}
	if (g->failed || !g->nr_objects)
		return;
	item = &g->items[g->nr++];
	snprintf(item->name, sizeof item->name, "%s", name);
	item->object = (uint32_t)g->nr_objects - 1;
	item->value = value;
}

static void add_sum(struct gathering *g, const char *name, _Atomic uint64_t *counter, uint64_t *sum)
{
	uint64_t value = atomic_load_explicit(counter, memory_order_relaxed);

	add(g, name, value);
	*sum += value;
}

/* [worker] */
static void gather_lane(void *arg)
{
	struct gathering *g = arg;
	struct mc_lane *lane = g->lane;

	add_sum(g, "bytes_read", &lane->bytes_read, &g->bytes_read);
	add_sum(g, "bytes_written", &lane->bytes_written, &g->bytes_written);
	add_sum(g, "slices", &lane->slices, &g->slices);
	add_sum(g, "failures", &lane->failures, &g->failures);
	for (uint32_t i = 0; i < __atomic_load_n(&lane->nr_counters, __ATOMIC_ACQUIRE); i++)
		add(g, lane->counters[i].name,
		    __atomic_load_n(&lane->counters[i].value, __ATOMIC_RELAXED));
	if (lane->device->plugin->has_counters)
		lane->ops->counters(lane->inst, add, g);
}

/* [control] */
static void gather_session(struct mc_session *s, void *arg)
{
	struct gathering *g = arg;
	struct mc_paths *paths = s->paths;

	if (!s->active || !paths)
		return;
	pthread_mutex_lock(&paths->lock);
	for (size_t i = 0; i < paths->nr; i++) {
		struct mc_path *p = paths->list[i];

		object(g, "rail %s -> %s %s", p->lane->label, s->peer->name, p->remote_label);
		add(g, "bytes_read", atomic_load_explicit(&p->bytes_read, memory_order_relaxed));
		add(g, "bytes_written", atomic_load_explicit(&p->bytes_written, memory_order_relaxed));
		add(g, "slices", atomic_load_explicit(&p->slices, memory_order_relaxed));
		add(g, "failures", atomic_load_explicit(&p->breaks, memory_order_relaxed));
		add(g, "rate", atomic_load_explicit(&p->rate, memory_order_relaxed));
	}
	pthread_mutex_unlock(&paths->lock);
}

static void gather_sessions(void *arg)
{
	struct gathering *g = arg;

	mc_session_each(g->engine, gather_session, g);
}

static void gather(struct gathering *g)
{
	struct mc_engine *engine = g->engine;

	for (size_t i = 0; i < engine->nr_devices; i++) {
		struct mc_device *d = engine->devices[i];

		for (uint16_t l = 0; l < d->nr_lanes; l++) {
			g->lane = d->lanes[l];
			object(g, "device %s", g->lane->label);
			mc_worker_call(g->lane->worker, gather_lane, g);
		}
	}
	mc_control_call(engine->control, gather_sessions, g);
	object(g, "engine");
	add(g, "bytes_read", g->bytes_read);
	add(g, "bytes_written", g->bytes_written);
	add(g, "slices", g->slices);
	add(g, "failures", g->failures);
}

int mc_engine_counters(struct mc_engine *engine,
		       int (*each)(void *ctx, const struct mc_counter *counter), void *ctx)
{
	struct gathering g = {.engine = engine};
	int r = mc_engine_check(engine);

	if (r < 0 || !each)
		return r < 0 ? r : -EINVAL;
	if (mc_worker_any_mine())
		return -EDEADLK;
	gather(&g);
	if (g.failed)
		r = -ENOMEM;
	for (size_t i = 0; i < g.nr && r == 0; i++) {
		struct mc_counter c = {
			.size = sizeof c,
			.name = g.items[i].name,
			.object = g.objects[g.items[i].object],
			.value = g.items[i].value,
		};

		r = each(ctx, &c);
	}
	free(g.items);
	free(g.objects);
	return r;
}
