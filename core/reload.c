/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mc_engine_reload: another config and matrix while requests are under way.  First
 * everything that can fail is done where nobody sees it: what may not change is
 * refused, new devices are opened, our memory is registered on them, plugins take
 * their options.  Then all of it is put in place, and nothing of that can fail:
 *
 *   devices      they are ours: peers may open rails to them
 *   buffers      have their registrations there; peers get the keys
 *   matrix       and the peers are told of it and of the devices
 *   rows         of our buffers: new requests take other routes
 *   settings     deadline and the like
 *
 * Requests go by the matrix that was in force when they were submitted, to their
 * end.  So a device that the matrix does not name any more drains by itself, and our
 * rails over it are closed at both ends; the device itself stays open, asleep, for
 * peers may go on to use it, and an index of a device means the same one for ever.  Nothing that a reader may
 * look at is freed before the engine.
 */
#include "reload.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "device_impl.h"
#include "log.h"
#include "meta.h"
#include "path.h"
#include "record.h"
#include "rpc.h"
#include "segment.h"
#include "session.h"

struct kept_matrix {
	struct kept_matrix *next;
	struct mc_matrix *matrix;
};

struct kept_settings {
	struct kept_settings *next;
	struct mc_settings set; /* strings are those of engine->config */
};

/* All under engine->reload_lock. */
struct mc_reload {
	struct mc_config *config; /* of the last reload; NULL: engine->config */
	struct kept_matrix *matrices;
	struct kept_settings *settings;
};

/* One reload under way. */
struct reload {
	struct mc_engine *engine;
	struct mc_reload *state;
	struct mc_config *config; /* our clone */
	uint64_t deadline_ns;
	/* To be in force; they may be the ones that are, or were.  New ones are the reload's until they are. */
	struct mc_matrix *matrix;
	const struct mc_settings *set;
	struct kept_matrix *new_matrix;
	struct kept_settings *new_settings;
	struct mc_device_plan plan;
	struct mc_local_change *change;
	struct mc_reload_options *options;
	bool frozen, level;
	struct mc_error *err;
	char said[1500]; /* what changes, for the log */
	size_t len;
};

void mc_reload_free(struct mc_engine *engine)
{
	struct mc_reload *state = engine->reload;

	if (!state) {
		mc_matrix_free(engine->matrix);
		return;
	}
	while (state->matrices) {
		struct kept_matrix *m = state->matrices;

		state->matrices = m->next;
		mc_matrix_free(m->matrix);
		free(m);
	}
	while (state->settings) {
		struct kept_settings *s = state->settings;

		state->settings = s->next;
		free(s);
	}
	mc_config_free(state->config);
	free(state);
}

static void say(struct reload *r, const char *fmt, ...) MC_PRINTF(2, 3);
static void say(struct reload *r, const char *fmt, ...)
{
	va_list ap;

	if (r->len && r->len < sizeof r->said)
		r->len += (size_t)snprintf(r->said + r->len, sizeof r->said - r->len, ", ");
	if (r->len >= sizeof r->said)
		return;
	va_start(ap, fmt);
	r->len += (size_t)vsnprintf(r->said + r->len, sizeof r->said - r->len, fmt, ap);
	va_end(ap);
}

/* ---- what may change ------------------------------------------------------------------------ */

static bool has_filter(const struct mc_device *d, const char *name, size_t len)
{
	for (const char *at = d->filters; *at; at += strspn(at, " ")) {
		size_t n = strcspn(at, " ");

		if (n == len && !memcmp(at, name, len))
			return true;
		at += n;
	}
	return false;
}

/* Is the plugin of a key open, "transports.tcp.lanes"?  What is not takes its options when it is. */
static bool in_use(const struct mc_engine *engine, const char *key)
{
	const char *name = strchr(key, '.') + 1;
	size_t len = strcspn(name, ".");

	if (!strncmp(key, "metadata.", 9))
		return strlen(engine->meta->plugin->desc->name) == len &&
		       !memcmp(engine->meta->plugin->desc->name, name, len);
	if (!strncmp(key, "memory.", 7))
		return true;
	for (size_t i = 0; i < engine->nr_devices; i++) {
		const struct mc_device *d = engine->devices[i];

		if (!strncmp(key, "filters.", 8) ? has_filter(d, name, len)
						  : strlen(d->transport) == len && !memcmp(d->transport, name, len))
			return true;
	}
	return false;
}

/* Options of filters and of memory kinds are those of their opening. */
static bool may_change(const struct reload *r, const struct mc_config_change *c)
{
	if (c->core)
		return c->reloadable;
	if (!strchr(c->key, '.') || !in_use(r->engine, c->key))
		return true;
	return c->reloadable && strncmp(c->key, "filters.", 8) != 0 && strncmp(c->key, "memory.", 7) != 0;
}

static int look_at_change(void *ctx, const struct mc_config_change *c)
{
	struct reload *r = ctx;

	if (!may_change(r, c))
		return mc_fail(r->err, -EINVAL, "%s cannot change while the engine is open ('%s' now, '%s' is wanted): "
			       "open it anew", c->key, c->was, c->is);
	r->level |= !strcmp(c->key, "log_level");
	if (strcmp(c->key, "nic_priority_matrix") != 0) /* what is in it counts */
		say(r, "%s '%s' -> '%s'", c->key, c->was, c->is);
	return 0;
}

/* ---- preparing ------------------------------------------------------------------------------ */

static int state_get(struct reload *r)
{
	struct mc_reload *state = r->engine->reload;

	r->state = state;
	if (state)
		return 0;
	state = calloc(1, sizeof *state);
	if (state)
		state->matrices = calloc(1, sizeof *state->matrices);
	if (!state || !state->matrices) {
		free(state);
		return mc_fail(r->err, -ENOMEM, "reload: out of memory");
	}
	state->matrices->matrix = r->engine->matrix;
	r->engine->reload = r->state = state;
	return 0;
}

/* A matrix that was in force before is taken again, so that going to and fro keeps nothing more. */
static int find_matrix(struct reload *r)
{
	const char *text = mc_config_settings(r->config)->nic_priority_matrix;
	struct mc_matrix *matrix;
	int status = mc_engine_read_matrix(r->engine, text, &matrix, r->err);

	if (status < 0)
		return status;
	for (struct kept_matrix *m = r->state->matrices; m; m = m->next) {
		if (!mc_matrix_same(m->matrix, matrix))
			continue;
		r->matrix = m->matrix;
		mc_matrix_free(matrix);
		return 0;
	}
	r->new_matrix = calloc(1, sizeof *r->new_matrix);
	if (!r->new_matrix) {
		mc_matrix_free(matrix);
		return mc_fail(r->err, -ENOMEM, "reload: out of memory");
	}
	r->matrix = r->new_matrix->matrix = matrix;
	return 0;
}

static bool same_settings(const struct mc_settings *a, const struct mc_settings *b)
{
	return a->deadline == b->deadline && a->retry_count == b->retry_count && a->rail_window == b->rail_window &&
	       a->spin == b->spin && a->spill == b->spill;
}

static int find_settings(struct reload *r)
{
	const struct mc_settings *wanted = mc_config_settings(r->config), *now = r->engine->set;
	struct kept_settings *s;

	r->set = now;
	if (same_settings(wanted, now))
		return 0;
	for (s = r->state->settings; s && !same_settings(&s->set, wanted); s = s->next)
		;
	if (!s) {
		s = calloc(1, sizeof *s);
		if (!s)
			return mc_fail(r->err, -ENOMEM, "reload: out of memory");
		s->set = *now;
		s->set.deadline = wanted->deadline;
		s->set.retry_count = wanted->retry_count;
		s->set.rail_window = wanted->rail_window;
		s->set.spin = wanted->spin;
		s->set.spill = wanted->spill;
		r->new_settings = s;
	}
	r->set = &s->set;
	return 0;
}

static int plan_devices(struct reload *r)
{
	struct mc_engine *engine = r->engine;
	int status;

	r->plan = (struct mc_device_plan){
		.engine = engine,
		.matrix = r->matrix,
		.config = r->config,
		.named = *mc_config_settings(r->config)->nic_priority_matrix,
	};
	mc_engine_open_kinds(engine, r->matrix);
	status = mc_devices_plan(&r->plan, r->deadline_ns, r->err);
	if (status < 0 || (r->matrix == engine->matrix && !r->plan.nr_fresh))
		return status;
	status = mc_hello_fits(engine, r->matrix, r->plan.fresh, r->plan.nr_fresh, r->err);
	if (status < 0)
		return status;
	status = mc_local_freeze(engine, r->deadline_ns);
	if (status < 0)
		return mc_fail(r->err, status, "reload: another thread is still registering or unregistering memory");
	r->frozen = true;
	return mc_local_change_new(&r->plan, r->deadline_ns, &r->change, r->err);
}

static int prepare(struct reload *r)
{
	struct mc_engine *engine = r->engine;
	const struct mc_config *was;
	int status = state_get(r);

	if (status < 0)
		return status;
	was = r->state->config ? r->state->config : engine->config;
	status = mc_config_diff(was, r->config, look_at_change, r);
	if (status == 0)
		status = mc_reload_options_new(engine, r->config, &r->options, r->err);
	if (status == 0)
		status = find_matrix(r);
	if (status == 0)
		status = find_settings(r);
	if (status == 0)
		status = plan_devices(r);
	if (status == 0)
		status = mc_reload_options_apply(r->options, r->deadline_ns, r->err);
	return status;
}

/* ---- putting it in place -------------------------------------------------------------------- */

static void say_devices(struct reload *r)
{
	const struct mc_engine *engine = r->engine;

	if (r->matrix != engine->matrix)
		say(r, "nic_priority_matrix %s", r->matrix->text);
	for (size_t i = 0; i < r->plan.nr_fresh; i++)
		say(r, "%s joins", r->plan.fresh[i]->label);
	for (size_t i = 0; i < engine->nr_devices; i++) {
		const struct mc_device *d = engine->devices[i];
		bool named = false;

		for (size_t w = 0; w < r->plan.nr_wanted && !named; w++)
			named = r->plan.wanted[w].device == d;
		if (named == d->retired)
			say(r, "%s %s", d->label, named ? "joins again" : "leaves");
	}
}

struct set_spin {
	struct mc_worker *worker;
	uint64_t spin_ns;
};

static void set_spin(void *arg)
{
	struct set_spin *s = arg;

	mc_worker_set_spin(s->worker, s->spin_ns);
}

/* Devices that have joined were opened with the old one. */
static void spread_spin(struct mc_engine *engine)
{
	struct set_spin s = {.spin_ns = (uint64_t)engine->set->spin};

	for (size_t i = 0; i < engine->nr_devices; i++)
		for (uint16_t l = 0; l < engine->devices[i]->nr_lanes; l++) {
			s.worker = engine->devices[i]->lanes[l]->worker;
			mc_worker_call(s.worker, set_spin, &s);
		}
	mc_rpc_set_spin(engine, s.spin_ns);
}

static void leave_lane(void *arg)
{
	struct mc_lane *lane = arg;
	struct mc_path *next;

	for (struct mc_path *path = lane->paths; path; path = next) {
		next = path->next;
		mc_path_leave(path);
	}
}

/* Our rails of devices that have left are closed when what uses them has ended. */
static void close_rails(struct mc_engine *engine)
{
	for (size_t i = 0; i < engine->nr_devices; i++) {
		const struct mc_device *d = engine->devices[i];

		for (uint16_t l = 0; d->retired && l < d->nr_lanes; l++)
			mc_worker_call(d->lanes[l]->worker, leave_lane, d->lanes[l]);
	}
}

/* What was in force stays, the config excepted: nobody but reloads looks at it. */
static void keep(struct reload *r)
{
	struct mc_reload *state = r->state;

	if (r->new_matrix) {
		r->new_matrix->next = state->matrices;
		state->matrices = r->new_matrix;
		r->new_matrix = NULL;
	}
	if (r->new_settings) {
		r->new_settings->next = state->settings;
		state->settings = r->new_settings;
		r->new_settings = NULL;
	}
	mc_config_free(state->config);
	state->config = r->config;
	r->config = NULL;
}

static void commit(struct reload *r)
{
	struct mc_engine *engine = r->engine;
	bool other = r->change != NULL, spins = engine->set->spin != r->set->spin;

	say_devices(r);
	mc_reload_options_keep(r->options);
	if (other) {
		mc_devices_adopt(&r->plan);
		mc_local_change_adopt(engine, r->change);
		engine->matrix = r->matrix;
		/* Before anything is sent over a new device: the other end must know it. */
		mc_session_tell_self(engine);
		mc_devices_judge(&r->plan);
		mc_local_change_rows(r->change);
		close_rails(engine);
	}
	engine->set = r->set;
	if (spins || other)
		spread_spin(engine);
	if (r->level)
		mc_engine_log_level(r->config);
	keep(r);
	if (other)
		mc_record_outdated(engine);
}

static int reload(struct reload *r)
{
	int status = prepare(r);

	if (status == 0)
		commit(r);
	mc_local_change_free(r->engine, r->change);
	if (r->frozen)
		mc_local_thaw(r->engine);
	mc_devices_plan_free(&r->plan, r->deadline_ns);
	mc_reload_options_free(r->options);
	mc_config_free(r->config);
	if (r->new_matrix)
		mc_matrix_free(r->new_matrix->matrix);
	free(r->new_matrix);
	free(r->new_settings);
	return status;
}

int mc_engine_reload(struct mc_engine *engine, const struct mc_config *config, uint64_t timeout_ns,
		     struct mc_error *err)
{
	struct mc_error why = {0};
	struct reload r = {.engine = engine, .deadline_ns = mc_deadline(timeout_ns), .err = &why};
	int status = mc_engine_check(engine);

	if (status < 0 || !config)
		return mc_fail(err, status < 0 ? status : -EINVAL, status == -EPERM
			       ? "reload: this process was forked from the one that opened the engine"
			       : "reload: engine and config may not be NULL");
	if (mc_worker_any_mine())
		return mc_fail(err, -EDEADLK, "reload: may not be called from a callback");
	if (mc_config_clone(config, &r.config) < 0)
		return mc_fail(err, -ENOMEM, "reload: out of memory");
	if (pthread_mutex_trylock(&engine->reload_lock) != 0) {
		mc_config_free(r.config);
		return mc_fail(err, -EBUSY, "reload: another thread is reloading this engine");
	}
	status = reload(&r);
	pthread_mutex_unlock(&engine->reload_lock);
	if (status == 0)
		mc_info("engine '%s': reloaded: %s", engine->name, r.len ? r.said : "nothing has changed");
	return mc_fail_with(err, status, &why);
}
