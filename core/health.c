/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether the engine is well.  A reason makes it degraded; it is failing, and
 * /health answers 503, only if it serves nobody: it is being opened or closed, or
 * none of its devices works.  The loss of the metadata is no such case, for
 * transfers go on (P10), and a supervisor that restarts on 503 would end them.
 */
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "device.h"
#include "json.h"
#include "lane.h"
#include "meta.h"
#include "metrics.h"
#include "path.h"
#include "session_impl.h"
#include "stream_port.h"

#define MAX_REASONS 64 /* in the text; all are counted */

struct look {
	void (*reason)(void *ctx, const char *part, const char *why);
	void *ctx;
	bool any;
};

static void say(struct look *l, const char *part, const char *fmt, ...) MC_PRINTF(3, 4);
static void say(struct look *l, const char *part, const char *fmt, ...)
{
	char why[512];
	va_list ap;

	l->any = true;
	if (!l->reason)
		return;
	va_start(ap, fmt);
	vsnprintf(why, sizeof why, fmt, ap);
	va_end(ap);
	l->reason(l->ctx, part, why);
}

/* Does it do less than it has done?  A pair of devices that was tried only because others had failed,
 * and does not reach, is nothing to mend. */
static bool is_lost(const struct mc_path *p)
{
	if (!__atomic_load_n(&p->logged_up, __ATOMIC_RELAXED))
		return false;
	return mc_path_is(p, MC_PATH_FENCING) || mc_path_is(p, MC_PATH_DOWN) ||
	       (mc_path_is(p, MC_PATH_OPENING) && atomic_load_explicit(&((struct mc_path *)(uintptr_t)p)->failures,
								       memory_order_relaxed));
}

static bool any_up(const struct mc_paths *paths)
{
	for (size_t i = 0; i < paths->nr; i++)
		if (mc_path_is(paths->list[i], MC_PATH_UP))
			return true;
	return false;
}

/* What a reload took out of a matrix, here or there, is not missed. */
static bool is_named(const struct mc_session *s, const struct mc_path *p)
{
	const struct mc_peer_info *info = s->peer;
	const struct mc_remote_device *remote = &info->devices[p->remote_device];
	const struct mc_matrix *m = info->matrix;

	if (atomic_load_explicit(&p->lane->device->retired, memory_order_relaxed))
		return false;
	for (size_t i = 0; m && i < m->nr_rows; i++)
		for (size_t t = 0; t < m->rows[i].nr_tiers; t++)
			for (size_t e = 0; e < m->rows[i].tiers[t].nr; e++) {
				const struct mc_matrix_entry *entry = &m->rows[i].tiers[t].entries[e];

				if (!strcmp(entry->device, remote->name) &&
				    (!entry->transport || !strcmp(entry->transport, remote->transport)))
					return true;
			}
	return false;
}

static void look_rails(struct look *l, struct mc_session *s)
{
	struct mc_paths *paths = s->paths;
	bool up;

	if (!paths)
		return;
	pthread_mutex_lock(&paths->lock);
	up = any_up(paths);
	for (size_t i = 0; i < paths->nr; i++) {
		const struct mc_path *p = paths->list[i];

		if (!is_named(s, p))
			continue;
		if (is_lost(p) || (!up && (mc_path_is(p, MC_PATH_FENCING) || mc_path_is(p, MC_PATH_DOWN))))
			say(l, "rail", "rail %s -> %s of peer '%s' is down", p->lane->label,
			    p->remote_label, s->peer->name);
	}
	pthread_mutex_unlock(&paths->lock);
}

static void look_session(struct mc_session *s, void *arg)
{
	struct look *l = arg;

	if (!s->active || s->state != MC_SESSION_UP)
		return;
	if (!s->impl->conn ||
	    (s->impl->expect_ns && mc_boot_ns() - s->impl->expect_ns > MC_SILENCE_NS))
		say(l, "peer", "peer '%s' does not answer", s->peer->name);
	else
		look_rails(l, s);
}

/* Does any device work? */
static bool look_devices(struct look *l, const struct mc_engine *engine)
{
	bool any = false;

	for (size_t i = 0; i < engine->nr_devices; i++) {
		struct mc_device *d = engine->devices[i];
		uint32_t state = __atomic_load_n(&d->state, __ATOMIC_RELAXED);

		if (atomic_load_explicit(&d->retired, memory_order_relaxed))
			continue;
		if (state == MC_STATE_ACTIVE)
			any = true;
		else
			say(l, "device", "device %s is %s", d->label,
			    state == MC_STATE_MISSING ? "gone" : "down");
	}
	return any;
}

enum mc_health mc_health_look(struct mc_engine *engine,
			      void (*reason)(void *ctx, const char *part, const char *why),
			      void *ctx)
{
	struct look l = {.reason = reason, .ctx = ctx};
	bool serves = look_devices(&l, engine);

	if (atomic_load(&engine->closing)) {
		say(&l, "engine", "it is being closed");
		serves = false;
	} else if (!engine->meta->published) {
		say(&l, "engine", "it is being opened: its record is not published yet");
		serves = false;
	}
	if (engine->meta->trouble)
		say(&l, "metadata",
		    "metadata service %s cannot be reached; transfers go on, new peers cannot find "
		    "us",
		    engine->meta->url);
	if (engine->meta->name_lost)
		say(&l, "name", "another engine holds the name '%s': new peers reach that one",
		    engine->name);
	if (engine->listener->resume_ns)
		say(&l, "port", "no descriptors are left for new connections; raise ulimit -n");
	mc_session_each(engine, look_session, &l);
	return !serves ? MC_HEALTH_FAILING : l.any ? MC_HEALTH_DEGRADED : MC_HEALTH_OK;
}

/* ---- as JSON ------------------------------------------------------------------------------ */

struct writing {
	struct mc_json_out *o;
	int nr;
};

static void write_reason(void *ctx, const char *part, const char *why)
{
	struct writing *w = ctx;

	if (w->nr++ >= MAX_REASONS)
		return;
	mc_json_out_open(w->o, '{');
	mc_json_out_key(w->o, "part");
	mc_json_out_str(w->o, part);
	mc_json_out_key(w->o, "why");
	mc_json_out_str(w->o, why);
	mc_json_out_close(w->o);
}

char *mc_health_json(struct mc_engine *engine, int *ret_status)
{
	static const char *const words[] = {"ok", "degraded", "failing"};
	struct writing w = {.o = mc_json_out_new(true)};
	enum mc_health health = mc_health_look(engine, NULL, NULL);

	mc_json_out_open(w.o, '{');
	mc_json_out_key(w.o, "state");
	mc_json_out_str(w.o, words[health]);
	mc_json_out_key(w.o, "name");
	mc_json_out_str(w.o, engine->name);
	mc_json_out_key(w.o, "generation");
	mc_json_out_hex(w.o, engine->generation);
	mc_json_out_key(w.o, "port");
	mc_json_out_int(w.o, engine->port);
	mc_json_out_key(w.o, "uptime_seconds");
	mc_json_out_double(w.o, (double)(mc_now_ns() - engine->opened_ns) / 1e9);
	mc_json_out_key(w.o, "version");
	mc_json_out_str(w.o, mc_version());
	mc_json_out_key(w.o, "reasons");
	mc_json_out_open(w.o, '[');
	mc_health_look(engine, write_reason, &w);
	mc_json_out_close(w.o);
	mc_json_out_key(w.o, "nr_reasons");
	mc_json_out_int(w.o, w.nr);
	mc_json_out_close(w.o);
	*ret_status = health == MC_HEALTH_FAILING ? 503 : 200;
	return mc_json_out_take(w.o);
}
