/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a path: connecting, breaking, fencing both ends, reconnecting.  All
 * of it runs on the path's worker.  Nothing is tried again elsewhere before the
 * fence of both ends has been answered, or the session is gone (P2).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "path.h"
#include "stage.h"

#define BACKOFF_FIRST_NS (20 * MC_MSEC)
/* A rail that does not get ready holds up work that another one could carry. */
#define OPEN_MAX_NS (4 * MC_SEC)
#define BACKOFF_MAX_NS (2 * MC_SEC)
/* A rail of a device that left is closed when nothing has used it for so long. */
#define LEAVE_NS (200 * MC_MSEC)

static const char *label_of(const struct mc_path *path)
{
	return path->lane->label;
}

static void set_state(struct mc_path *path, enum mc_path_state state)
{
	atomic_store(&path->state, state);
}

/* ---- objects ----------------------------------------------------------------------------------- */

struct mc_path *mc_path_new(struct mc_paths *paths, struct mc_lane *lane, bool active)
{
	struct mc_path *path = aligned_alloc(MC_CACHE_LINE, mc_round_up(sizeof *path, MC_CACHE_LINE));

	if (!path)
		return NULL;
	memset(path, 0, sizeof *path);
	path->paths = paths;
	path->session = paths->session;
	path->lane = lane;
	path->active = active;
	path->lane_id = lane->idx;
	path->queue_tail = &path->queue;
	path->ramp = UINT64_MAX;
	path->caps = lane->caps;
	path->nominal = lane->caps.bandwidth ? lane->caps.bandwidth : MC_SEC;
	atomic_init(&path->rate, path->nominal);
	return path;
}

void mc_path_free(struct mc_path *path)
{
	free(path);
}

static int peer_alloc(struct mc_path *path)
{
	size_t size = mc_round_up(sizeof(struct mc_peer_area) + path->lane->ops->peer_size,
				  MC_CACHE_LINE);

	path->peer = aligned_alloc(MC_CACHE_LINE, size);
	if (!path->peer)
		return -ENOMEM;
	memset(path->peer, 0, size);
	path->peer->path = path;
	return 0;
}

/* The lane drives us: into its list, and the session stays while we are in it. */
static void join(struct mc_path *path)
{
	struct mc_lane *lane = path->lane;

	if (path->listed)
		return;
	path->listed = true;
	path->next = lane->paths;
	lane->paths = path;
	lane->client.linked = true;
	lane->client.serves |= !path->active;
	mc_session_ref(path->session);
	atomic_fetch_add(&path->paths->open, 1);
	atomic_fetch_add(&path->session->engine->open_paths, 1);
}

/* The plugin may have reported the end from inside the call that ended the path. */
static void unattend(struct mc_path *path)
{
	struct mc_path **at = &path->lane->attend;

	if (!path->in_attend)
		return;
	path->in_attend = false;
	while (*at != path)
		at = &(*at)->next_attend;
	*at = path->next_attend;
}

static void part(struct mc_path *path)
{
	struct mc_lane *lane = path->lane;
	struct mc_path **at = &lane->paths;
	struct mc_session *session = path->session;

	if (!path->listed)
		return;
	path->listed = false;
	while (*at != path)
		at = &(*at)->next;
	*at = path->next;
	lane->client.linked = lane->paths != NULL;
	lane->client.serves = false;
	for (const struct mc_path *p = lane->paths; p; p = p->next)
		lane->client.serves |= !p->active;
	mc_worker_timer(lane->worker, &path->timer, 0);
	mc_path_unready(path);
	unattend(path);
	atomic_fetch_sub(&path->paths->open, 1);
	/* An active path lives as long as its session, and may go with it here.  A passive one still
	 * needs its worker: it counts until it is free, so that closing waits for it. */
	if (path->active)
		atomic_fetch_sub(&session->engine->open_paths, 1);
	else
		mc_path_retire(path);
	mc_session_unref(session);
}

static void fill_args(const struct mc_path *path, struct mc_peer_args *args)
{
	const struct mc_peer_info *info = path->session->peer;
	const char *slash = strchr(path->remote_label, ':');

	*args = (struct mc_peer_args){
		.size = sizeof *args,
		.segment = info->name,
		.generation = info->generation,
		.remote_device = slash ? slash + 1 : path->remote_label,
		.remote_kinds = path->active ? info->devices[path->remote_device].remote_kinds : "",
		.addresses = (const char *const *)info->addresses,
		.wire_version = path->wire_version,
		.epoch = path->epoch,
		.remote_lane = path->remote_lane,
		.passive = !path->active,
		.remote_filters = path->active ? info->devices[path->remote_device].filters : NULL,
		.deadline_ns = mc_now_ns() + (uint64_t)path->session->engine->set->peer_timeout,
	};
}

/* ---- connecting --------------------------------------------------------------------------------- */

static void timer_fired(struct mc_timer *t, uint64_t now_ns);

static void set_timer(struct mc_path *path, uint64_t span_ns)
{
	path->timer.size = sizeof path->timer;
	path->timer.fire = timer_fired;
	mc_worker_timer(path->lane->worker, &path->timer, mc_now_ns() + span_ns);
}

struct end_session {
	struct mc_job job;
	struct mc_engine *engine;
	uint64_t generation;
};

static void end_session_run(struct mc_job *job)
{
	struct end_session *e = MC_CONTAINER_OF(job, struct end_session, job);

	mc_session_end(e->engine, e->generation, -EHOSTDOWN, "it does not answer a fence");
	free(e);
}

/* The other end lives but never answers our fence.  What waits for it has waited as long as it would
 * for a silent peer, so the peer is treated as one (P1). */
static void give_up(struct mc_path *path)
{
	struct end_session *e = malloc(sizeof *e);

	if (!e) {
		set_timer(path, BACKOFF_MAX_NS);
		return;
	}
	e->job.run = end_session_run;
	e->engine = path->session->engine;
	e->generation = path->session->peer->generation;
	mc_helpers_run(e->engine->helpers, &e->job);
}

/* The matrix does not name its device any more, and nothing waits for it: it probes no longer, and connects when
 * somebody needs it again. */
static bool is_retired(const struct mc_path *path)
{
	return path->active && path->lane->device->retired && !path->queue && !path->held_valid && !path->stages;
}

/* Nothing of it is under way, at either end: our slices are done, and seen. */
static bool is_idle(const struct mc_path *path)
{
	return !path->nr_inflight && !path->inflight_list && !path->unflushed && !path->flushing && !path->orphans &&
	       !path->queue && !path->held_valid && !path->stages && !path->nr_grants && !path->nr_copies &&
	       !path->break_due;
}

void mc_path_leave(struct mc_path *path)
{
	uint64_t now = mc_now_ns();

	if (!path->active || path->dead || !mc_path_is(path, MC_PATH_UP) || !path->lane->device->retired)
		return;
	if (!is_idle(path) || now - path->last_used < LEAVE_NS) {
		set_timer(path, LEAVE_NS);
		return;
	}
	path->leaving = true;
	mc_path_break(path, -ECANCELED, "its device has left");
}

static void timer_fired(struct mc_timer *t, uint64_t now_ns)
{
	struct mc_path *path = MC_CONTAINER_OF(t, struct mc_path, timer);

	if (mc_path_is(path, MC_PATH_UP)) {
		mc_path_leave(path);
	} else if (mc_path_is(path, MC_PATH_DOWN) && is_retired(path)) {
		path->failures = 0;
		set_state(path, MC_PATH_IDLE);
		part(path);
	} else if (mc_path_is(path, MC_PATH_DOWN)) {
		mc_path_connect(path);
	} else if (mc_path_is(path, MC_PATH_FENCING) && path->fence_remote) {
		give_up(path);
	} else if (mc_path_is(path, MC_PATH_OPENING)) {
		mc_path_break(path, -ETIMEDOUT, "the peer did not get ready in time");
	}
}

void mc_path_connect(struct mc_path *path)
{
	int r;

	if (path->dead || !(mc_path_is(path, MC_PATH_IDLE) || mc_path_is(path, MC_PATH_DOWN)))
		return;
	join(path);
	if (!mc_path_device_up(path)) {
		set_state(path, MC_PATH_DOWN);
		set_timer(path, BACKOFF_MAX_NS); /* the event that it is up comes first */
		mc_path_reroute(path); /* another one may carry what has come here; else it comes back, and waits */
		return;
	}
	path->epoch++;
	path->remote_open = false;
	path->break_status = 0;
	set_state(path, MC_PATH_OPENING);
	set_timer(path, MC_MIN(OPEN_MAX_NS, (uint64_t)path->session->engine->set->peer_timeout));
	r = mc_path_send_open(path);
	if (r < 0)
		mc_path_break(path, r, "the control connection takes no message");
}

void mc_path_opened(struct mc_path *path, uint32_t epoch, int status, const char *why)
{
	struct mc_peer_args args;
	int r;

	if (epoch != path->epoch || !mc_path_is(path, MC_PATH_OPENING) || path->remote_open)
		return;
	if (status < 0) {
		mc_path_break(path, status, why);
		return;
	}
	path->remote_open = true;
	r = peer_alloc(path);
	if (!r) {
		fill_args(path, &args);
		r = path->lane->ops->peer_open(path->lane->inst, path->peer->area, &args);
		if (r < 0) {
			free(path->peer);
			path->peer = NULL;
		}
	}
	if (r < 0) {
		mc_path_break(path, r, "the transport cannot open the peer");
		return;
	}
	for (uint32_t i = 0; i < path->caps.streams && path->peer && path->epoch == epoch; i++)
		mc_path_dial(path, i);
}

void mc_path_accept(struct mc_path *path)
{
	struct mc_peer_args args;
	const char *why = NULL;
	int r;

	join(path);
	set_state(path, MC_PATH_OPENING);
	r = mc_path_device_up(path) ? peer_alloc(path) : -ENETDOWN;
	if (!r) {
		fill_args(path, &args);
		r = path->lane->ops->peer_accept(path->lane->inst, path->peer->area, &args);
		/* A wire without an agent has nothing to serve. */
		if (r == -ENOTSUP)
			r = 0;
		if (r < 0) {
			free(path->peer);
			path->peer = NULL;
		}
	}
	if (r < 0)
		why = mc_path_device_up(path) ? "the transport at the other end does not accept it"
				      : "the device at the other end is down";
	mc_path_send(path, MC_MSG_PATH_OPENED, r, why, why ? strlen(why) : 0);
	if (r < 0) {
		set_state(path, MC_PATH_CLOSED);
		part(path);
	} else if (mc_path_is(path, MC_PATH_OPENING)) {
		set_state(path, MC_PATH_UP);
	}
}

static void log_up(struct mc_path *path)
{
	const struct mc_peer_info *info = path->session->peer;

	/* P7: the rail in use is said once per peer, and again when it comes back. */
	if (!path->logged_up || path->failures)
		mc_info("peer '%s': rail %s -> %s is up", info->name, label_of(path),
			path->remote_label);
	__atomic_store_n(&path->logged_up, true, __ATOMIC_RELAXED); /* health.c looks from the control loop */
}

static void path_up(struct mc_path *path)
{
	const struct mc_transport_caps *caps = &path->caps;
	uint64_t chunk = caps->pref_slice ? caps->pref_slice : caps->max_slice;

	mc_worker_timer(path->lane->worker, &path->timer, 0);
	set_state(path, MC_PATH_UP);
	mc_path_set_window(path);
	path->ramp = path->failures ? MC_MAX(chunk, (uint64_t)1) : UINT64_MAX;
	path->learn_since = 0;
	log_up(path);
	mc_path_leave(path); /* who goes by an older matrix may need a device that has left */
	if (path->queue)
		mc_path_set_ready(path);
}

void mc_host_peer_ready(const struct mc_host *h, void *peer, int status,
			const struct mc_transport_caps *caps, const char *why)
{
	struct mc_path *path = mc_path_of(peer);

	if (mc_path_is(path, MC_PATH_FENCING) || mc_path_is(path, MC_PATH_CLOSED))
		return;
	if (status < 0) {
		if (path->active) {
			mc_path_break_soon(path, status, why);
		} else {
			mc_debug("peer '%s': rail at %s: %s: %s", path->session->peer->name,
				 label_of(path), why ? why : "broken", strerror(-status));
			mc_path_send(path, MC_MSG_PATH_BROKEN, status, why, why ? strlen(why) : 0);
		}
		return;
	}
	if (caps)
		memcpy(&path->caps, caps, MC_MIN(caps->size, sizeof path->caps));
	if (path->active && mc_path_is(path, MC_PATH_OPENING))
		path_up(path);
}

/* ---- breaking ------------------------------------------------------------------------------------ */

static void close_peer(struct mc_path *path)
{
	if (!path->peer)
		return;
	mc_path_drop_imports(path);
	path->lane->ops->peer_close(path->lane->inst, path->peer->area);
	free(path->peer);
	path->peer = NULL;
	path->caps = path->lane->caps;
}

static void back_off(struct mc_path *path)
{
	uint32_t shift = MC_MIN(path->failures, 8u);
	uint64_t span = MC_MIN(BACKOFF_FIRST_NS << shift, BACKOFF_MAX_NS);

	if (path->leaving) {
		path->leaving = false;
		set_state(path, MC_PATH_DOWN);
		set_timer(path, 0); /* where it ends, or is needed again */
		return;
	}
	if (path->wanted_break) {
		path->wanted_break = false;
		set_state(path, MC_PATH_DOWN);
		mc_path_connect(path);
		return;
	}
	path->failures++;
	set_state(path, MC_PATH_DOWN);
	set_timer(path, span);
}

/* Both ends are fenced and nothing is in flight: what was in flight may be tried again. */
static void check_fenced(struct mc_path *path)
{
	if (!mc_path_is(path, MC_PATH_FENCING) || path->fence_local || path->fence_remote ||
	    path->inflight_list || path->nr_copies)
		return;
	close_peer(path);
	mc_stage_serve_end(path);
	path->remote_open = false;
	if (!path->active && !path->dead)
		mc_path_send(path, MC_MSG_PATH_FENCED, 0, NULL, 0);
	if (path->dead || !path->active)
		set_state(path, MC_PATH_CLOSED);
	else
		back_off(path);
	mc_path_settle_orphans(path);
	mc_path_reroute(path);
	if (mc_path_is(path, MC_PATH_CLOSED))
		part(path);
}

void mc_path_fenced_remote(struct mc_path *path, uint32_t epoch)
{
	if (epoch != path->epoch)
		return;
	path->fence_remote = false;
	check_fenced(path);
}

static void fence_local(struct mc_path *path)
{
	if (!path->peer)
		return;
	path->fence_local = true;
	/* Without a fence of its own nothing of it outlives the call that carried it. */
	if (path->lane->ops->fence(path->lane->inst, path->peer->area, path->epoch) < 0)
		path->fence_local = false;
}

/* Nothing of the plugin is there: only the record of the path ends. */
static void break_idle(struct mc_path *path)
{
	if (!path->dead)
		return;
	set_state(path, MC_PATH_CLOSED);
	mc_path_reroute(path);
	part(path);
}

/* The transport gave the system's words, or what they mean in its own. */
static bool says(const char *why, int status)
{
	return strstr(why, strerror(-status)) || (status == -ENETDOWN && strcasestr(why, "down")) ||
	       (status == -ETIMEDOUT && strstr(why, "in time"));
}

/* Once, not at each probe of a rail that stays down. */
static void log_broken(const struct mc_path *path, int status, const char *why)
{
	const char *peer = path->session->peer->name;
	bool said = says(why, status);

	if (path->leaving)
		mc_debug("peer '%s': rail %s -> %s is closed: %s", peer, label_of(path), path->remote_label, why);
	else if (path->wanted_break)
		mc_debug("peer '%s': rail %s -> %s connects anew: %s", peer, label_of(path),
			 path->remote_label, why);
	else if (path->failures || path->lane->device->retired)
		mc_debug("peer '%s': rail %s -> %s: still down: %s%s%s", peer, label_of(path),
			 path->remote_label, why, said ? "" : ": ", said ? "" : strerror(-status));
	else
		mc_warn("peer '%s': rail %s -> %s broke: %s%s%s; its work goes to another rail, "
			"or waits for this one", peer, label_of(path), path->remote_label, why,
			said ? "" : ": ", said ? "" : strerror(-status));
}

void mc_path_break(struct mc_path *path, int status, const char *why)
{
	enum mc_path_state was = atomic_load(&path->state);
	bool told;

	path->break_due = false;
	if (was == MC_PATH_CLOSED)
		return;
	if (was == MC_PATH_IDLE || was == MC_PATH_DOWN) {
		break_idle(path);
		return;
	}
	if (was == MC_PATH_FENCING) {
		/* The session went while the other end was being asked: nobody will answer. */
		if (path->dead)
			path->fence_remote = false;
		/* This may stand for the look that an answer to the fence has asked for. */
		check_fenced(path);
		return;
	}
	if (path->active && !path->dead && !atomic_load(&path->session->engine->closing))
		log_broken(path, status, why && *why ? why : "no reason given");
	else if (!path->active && !path->dead && !path->fence_asked)
		/* The other end would not hear of it otherwise, if its wire has no stream that ends. */
		mc_path_send(path, MC_MSG_PATH_BROKEN, status, why, why ? strlen(why) : 0);
	if (!path->leaving)
		mc_bump(&path->breaks, 1);
	if (path->active && !path->leaving)
		mc_bump(&path->lane->failures, 1);
	path->break_status = status;
	if (why != path->break_why)
		snprintf(path->break_why, sizeof path->break_why, "%s", why && *why ? why : strerror(-status));
	set_state(path, MC_PATH_FENCING);
	mc_worker_timer(path->lane->worker, &path->timer, 0);
	told = path->active && !path->dead &&
	       mc_path_send(path, MC_MSG_PATH_FENCE, status, NULL, 0) == 0;
	/* Copies at the target end with its fence only. */
	path->fence_remote = told && (path->caps.fence != MC_FENCE_LOCAL || path->stage_tag);
	if (path->fence_remote)
		set_timer(path, (uint64_t)path->session->engine->set->peer_timeout);
	fence_local(path);
	mc_stage_broken(path, status);
	mc_stage_serve_broken(path);
	mc_path_reroute(path);
	check_fenced(path);
}

/* ---- what plugins ask for from inside their calls ----------------------------------------------- */

void mc_path_attend(struct mc_path *path)
{
	struct mc_lane *lane = path->lane;

	if (path->in_attend)
		return;
	path->in_attend = true;
	path->next_attend = lane->attend;
	lane->attend = path;
}

void mc_path_break_soon(struct mc_path *path, int status, const char *why)
{
	if (path->break_due)
		return;
	path->break_due = true;
	path->break_status = status;
	snprintf(path->break_why, sizeof path->break_why, "%s", why ? why : "no reason given");
	mc_path_attend(path);
}

void mc_path_break_request(struct mc_path *path, int status, const char *why)
{
	if (!path->break_due && !mc_path_is(path, MC_PATH_FENCING))
		path->wanted_break = true;
	mc_path_break_soon(path, status, why);
}

void mc_path_attended(struct mc_path *path)
{
	if (path->break_due)
		mc_path_break(path, path->break_status, path->break_why);
	else if (mc_path_is(path, MC_PATH_FENCING))
		check_fenced(path);
	else if (path->unflushed)
		mc_path_flush(path);
}

void mc_host_fenced(const struct mc_host *h, void *peer, uint32_t epoch)
{
	struct mc_path *path = mc_path_of(peer);

	if (epoch != path->epoch)
		return;
	path->fence_local = false;
	mc_path_attend(path);
}

void mc_lane_device_event(struct mc_lane *lane, int event, const char *why)
{
	for (struct mc_path *path = lane->paths; path; path = path->next) {
		if (event != MC_DEVICE_UP) {
			mc_path_break_soon(path, -ENETDOWN, why ? why : "the device is down");
		} else if (mc_path_is(path, MC_PATH_DOWN)) {
			path->failures = 0;
			set_timer(path, 0);
		}
	}
}
