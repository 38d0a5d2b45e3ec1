/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Paths and the control connection: the messages between the two ends of a path,
 * the paths that a peer opens, and the ends of sessions.  What arrives on the
 * control loop travels to the path's worker as a note; so do the data streams of
 * path_stream.c.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/util/bytes.h"
#include "log.h"
#include "path.h"
#include "path_wire.h"
#include "stage.h"

/* ---- notes: from the control loop to the worker ------------------------------------------------- */

enum note_type {
	NOTE_ACCEPT, NOTE_OPENED, NOTE_MSG, NOTE_FENCE, NOTE_FENCED, NOTE_BROKEN, NOTE_STREAM, NOTE_PRUNE,
	NOTE_GONE, NOTE_FREE, NOTE_STAGE,
};
struct mc_path_note {
	struct mc_post post;
	struct mc_path *path;
	enum note_type type;
	uint32_t epoch;
	int32_t status;
	uint64_t token; /* STREAM; STAGE: type of the message */
	bool passive;
	size_t len;
	char data[];    /* NUL-terminated; HANDSHAKE: bytes */
};

static void take_stream(struct mc_path_note *n)
{
	struct mc_path *path = n->path;
	struct mc_stream stream = {
		.size = sizeof stream, .fd = n->status, .passive = n->passive, .token = n->token,
		.epoch = n->epoch, .why = n->status < 0 ? n->data : NULL,
	};

	if (!path->peer || path->epoch != n->epoch || mc_path_is(path, MC_PATH_FENCING)) {
		if (n->status >= 0)
			close(n->status);
		return;
	}
	path->lane->ops->peer_attach(path->lane->inst, path->peer->area, &stream);
}

static void put_head(uint8_t head[MC_PATH_HEAD_SIZE], const struct mc_path *path, int32_t status)
{
	mc_put32(head + MC_PATH_HEAD_RAIL, path->rail_id);
	mc_put16(head + MC_PATH_HEAD_LANE, path->lane_id);
	mc_put16(head + MC_PATH_HEAD_RESERVED, 0);
	mc_put32(head + MC_PATH_HEAD_EPOCH, path->epoch);
	mc_put32(head + MC_PATH_HEAD_STATUS, (uint32_t)status);
}

/* A path serves one epoch only: of any other nothing is here, nor of this one when it is closed. */
static void fence_asked(struct mc_path *path, uint32_t epoch)
{
	uint8_t head[MC_PATH_HEAD_SIZE];

	if (epoch == path->epoch && !mc_path_is(path, MC_PATH_CLOSED)) {
		path->fence_asked = true;
		mc_path_break(path, -ECONNRESET, "the other end fenced it");
		return;
	}
	put_head(head, path, 0);
	mc_put32(head + MC_PATH_HEAD_EPOCH, epoch);
	mc_session_send(path->session, MC_MSG_PATH_FENCED, head, sizeof head, NULL, 0);
}

static void note_run(struct mc_post *post)
{
	struct mc_path_note *n = MC_CONTAINER_OF(post, struct mc_path_note, post);
	struct mc_path *path = n->path;
	struct mc_session *session = path->session;
	bool current = n->epoch == path->epoch, counted = session->paths;

	switch (n->type) {
	case NOTE_ACCEPT:
		mc_path_accept(path);
		break;
	case NOTE_OPENED:
		mc_path_opened(path, n->epoch, n->status, n->data);
		break;
	case NOTE_MSG:
		if (current && path->peer && !mc_path_is(path, MC_PATH_FENCING))
			path->lane->ops->peer_msg(path->lane->inst, path->peer->area, n->data, n->len);
		break;
	case NOTE_FENCE:
		fence_asked(path, n->epoch);
		break;
	case NOTE_FENCED:
		mc_path_fenced_remote(path, n->epoch);
		break;
	case NOTE_BROKEN:
		if (current)
			mc_path_break(path, n->status, n->data);
		break;
	case NOTE_STREAM:
		take_stream(n);
		break;
	case NOTE_GONE:
		path->dead = true;
		mc_path_break(path, n->status, n->data);
		break;
	case NOTE_STAGE:
		if (current && path->peer)
			mc_stage_message(path, (uint16_t)n->token, n->status, n->data, n->len);
		break;
	case NOTE_PRUNE:
		if (path->nr_imports)
			mc_path_prune_imports(path);
		break;
	case NOTE_FREE:
		mc_path_free(path);
		atomic_fetch_sub(&session->engine->open_paths, 1);
		break;
	}
	if (counted)
		atomic_fetch_sub_explicit(&((struct mc_paths *)session->paths)->note_bytes, sizeof *n + n->len,
					  memory_order_relaxed);
	free(n);
	mc_session_unref(session);
}

/* Without data len bytes are room. */
static struct mc_path_note *note_new(struct mc_path *path, enum note_type type, uint32_t epoch,
				     int status, const void *data, size_t len)
{
	struct mc_path_note *n = malloc(sizeof *n + len + 1);

	if (!n)
		return NULL;
	memset(n, 0, sizeof *n);
	n->post.run = note_run;
	n->path = path;
	n->type = type;
	n->epoch = epoch;
	n->status = status;
	n->len = len;
	if (data)
		memcpy(n->data, data, len);
	else
		memset(n->data, 0, len);
	n->data[len] = '\0';
	return n;
}

/* The note keeps the session, and with it the path, until it has run. */
static void note_post(struct mc_path_note *n)
{
	struct mc_paths *paths = n->path->session->paths;

	if (paths)
		atomic_fetch_add_explicit(&paths->note_bytes, sizeof *n + n->len, memory_order_relaxed);
	mc_session_ref(n->path->session);
	mc_worker_post(n->path->lane->worker, &n->post);
}

static int note(struct mc_path *path, enum note_type type, uint32_t epoch, int status,
		const void *data, size_t len)
{
	struct mc_path_note *n = note_new(path, type, epoch, status, data, len);

	if (!n)
		return -ENOMEM;
	note_post(n);
	return 0;
}

struct mc_path_note *mc_path_note_stream(struct mc_path *path, uint32_t epoch, uint64_t token,
					 bool passive, size_t room)
{
	struct mc_path_note *n = note_new(path, NOTE_STREAM, epoch, -ENOMEM, NULL, room);

	if (n) {
		n->token = token;
		n->passive = passive;
	}
	return n;
}

void mc_path_note_stream_post(struct mc_path_note *n, int fd, const char *why)
{
	n->status = fd;
	if (fd < 0 && why)
		snprintf(n->data, n->len + 1, "%s", why);
	note_post(n);
}

/* ---- messages out -------------------------------------------------------------------------------- */

int mc_path_send(struct mc_path *path, uint16_t type, int32_t status, const void *body, size_t len)
{
	uint8_t head[MC_PATH_HEAD_SIZE];

	put_head(head, path, status);
	return mc_session_send(path->session, type, head, sizeof head, body, len);
}

int mc_path_send_open(struct mc_path *path)
{
	const struct mc_device *device = path->lane->device;
	const struct mc_remote_device *remote = &path->session->peer->devices[path->remote_device];
	struct mc_path_open open = {.lane = path->remote_lane, .wire_version = path->wire_version};
	uint8_t body[MC_PATH_OPEN_MAX];

	snprintf(open.transport, sizeof open.transport, "%s", remote->transport);
	snprintf(open.device, sizeof open.device, "%s", remote->name);
	snprintf(open.from_transport, sizeof open.from_transport, "%s", device->transport);
	snprintf(open.from_device, sizeof open.from_device, "%s", device->name);
	return mc_path_send(path, MC_MSG_PATH_OPEN, 0, body, mc_path_open_encode(&open, body));
}

/* ---- passive paths, on the control loop ---------------------------------------------------------------- */

struct mc_path *mc_paths_find(const struct mc_paths *paths, uint32_t rail_id, uint16_t lane_id)
{
	for (size_t i = 0; paths && i < paths->nr; i++)
		if (paths->list[i]->rail_id == rail_id && paths->list[i]->lane_id == lane_id)
			return paths->list[i];
	return NULL;
}

static int list_add(struct mc_paths *paths, struct mc_path *path)
{
	if (paths->nr == paths->cap) {
		size_t cap = paths->cap ? 2 * paths->cap : 8;
		struct mc_path **list = realloc(paths->list, cap * sizeof *list);

		if (!list)
			return -ENOMEM;
		paths->list = list;
		paths->cap = cap;
	}
	paths->list[paths->nr++] = path;
	return 0;
}

struct retire {
	struct mc_control_post post;
	struct mc_path *path;
	struct mc_session *session; /* a reference */
};

/* Off the list, so that no note for it follows; the last one frees it behind all others.  [control] */
static void retire_run(struct mc_control_post *post)
{
	struct retire *r = MC_CONTAINER_OF(post, struct retire, post);
	struct mc_paths *paths = r->session->paths;

	for (size_t i = 0; i < paths->nr; i++) {
		if (paths->list[i] != r->path)
			continue;
		paths->list[i] = paths->list[--paths->nr];
		break;
	}
	/* Without memory for the note the path stays until the process ends; nothing uses it. */
	note(r->path, NOTE_FREE, 0, 0, NULL, 0);
	mc_session_unref(r->session);
	free(r);
}

void mc_path_retire(struct mc_path *path)
{
	struct retire *r = malloc(sizeof *r);

	if (!r)
		return;
	r->post.run = retire_run;
	r->path = path;
	r->session = mc_session_ref(path->session);
	mc_control_post(path->session->engine->control, &r->post);
}

static void refuse(struct mc_session *s, const uint8_t *head, int status, const char *why)
{
	uint8_t copy[MC_PATH_HEAD_SIZE];

	memcpy(copy, head, sizeof copy);
	mc_put32(copy + MC_PATH_HEAD_STATUS, (uint32_t)status);
	mc_session_send(s, MC_MSG_PATH_OPENED, copy, sizeof copy, why, strlen(why));
}

/* One path for each lane of the peer to each device of ours. */
static size_t paths_max(const struct mc_session *s)
{
	size_t lanes = 0;

	for (size_t i = 0; i < s->peer->nr_devices; i++)
		lanes += s->peer->devices[i].nr_lanes;
	return MC_MIN(lanes * s->engine->nr_devices, (size_t)MC_PATHS_PER_SESSION);
}

static void path_opened_by_peer(struct mc_session *s, const uint8_t *head, const void *body, size_t len)
{
	uint32_t rail_id = mc_get32(head + MC_PATH_HEAD_RAIL);
	uint16_t lane_id = mc_get16(head + MC_PATH_HEAD_LANE);
	struct mc_paths *paths = s->paths;
	struct mc_path_open open;
	struct mc_device *device;
	struct mc_path *path;

	if (mc_path_open_decode(body, len, &open) < 0) {
		refuse(s, head, -EBADMSG, "the open message is malformed");
		return;
	}
	device = mc_device_find(s->engine, open.transport, open.device);
	if (!device || open.wire_version < device->wire_min || open.wire_version > device->wire_max) {
		refuse(s, head, device ? -EPROTONOSUPPORT : -ENODEV,
		       device ? "that version of the wire is not spoken here"
			      : "the target has not opened that device");
		return;
	}
	if (mc_paths_find(paths, rail_id, lane_id)) {
		refuse(s, head, -EBUSY, "an earlier connection of the rail is still being closed");
		return;
	}
	if (paths->nr >= paths_max(s)) {
		refuse(s, head, -EBUSY, "each pair of devices and lanes of the session has its path");
		return;
	}
	path = mc_path_new(paths, device->lanes[open.lane % device->nr_lanes], false);
	if (!path || list_add(paths, path) < 0) {
		mc_path_free(path);
		refuse(s, head, -ENOMEM, "out of memory");
		return;
	}
	path->rail_id = rail_id;
	path->lane_id = lane_id;
	path->epoch = mc_get32(head + MC_PATH_HEAD_EPOCH);
	path->remote_lane = lane_id;
	path->wire_version = open.wire_version;
	snprintf(path->remote_label, sizeof path->remote_label, "%s:%s", open.from_transport,
		 open.from_device);
	if (note(path, NOTE_ACCEPT, path->epoch, 0, NULL, 0) < 0) {
		paths->nr--;
		mc_path_free(path);
		refuse(s, head, -ENOMEM, "out of memory");
	}
}

static void note_stage(struct mc_session *s, struct mc_path *path, uint16_t type, uint32_t epoch,
		       int status, const void *body, size_t len)
{
	struct mc_path_note *n;

	/* Each type has one direction; longer than any of them is nothing that we know. */
	if (mc_stage_from_active(type) == s->active || len > MC_STAGE_MSG_MAX)
		return;
	n = note_new(path, NOTE_STAGE, epoch, status, body, len);
	if (!n)
		return;
	n->token = type;
	note_post(n);
}

static void message(struct mc_session *s, uint16_t type, const void *payload, size_t len)
{
	const uint8_t *head = payload;
	struct mc_path *path;
	uint32_t epoch;
	int status;

	bool stage = type >= MC_MSG_STAGE_FIRST && type <= MC_MSG_STAGE_LAST;

	if (!stage && (type < MC_MSG_PATH_FIRST || type > MC_MSG_PATH_LAST))
		return;
	if (len < MC_PATH_HEAD_SIZE || !s->paths) {
		mc_debug("peer '%s': message 0x%x of %zu bytes is too short", s->peer->name, type, len);
		return;
	}
	if (atomic_load_explicit(&((struct mc_paths *)s->paths)->note_bytes, memory_order_relaxed) >
	    MC_NOTES_PER_SESSION) {
		mc_session_fail(s, -ENOBUFS, "it sends more than the workers here can look at");
		return;
	}
	epoch = mc_get32(head + MC_PATH_HEAD_EPOCH);
	status = (int)mc_get32(head + MC_PATH_HEAD_STATUS);
	payload = head + MC_PATH_HEAD_SIZE;
	len -= MC_PATH_HEAD_SIZE;
	if (type == MC_MSG_PATH_OPEN && !s->active) {
		path_opened_by_peer(s, head, payload, len);
		return;
	}
	if (s->active)
		pthread_mutex_lock(&((struct mc_paths *)s->paths)->lock);
	path = mc_paths_find(s->paths, mc_get32(head + MC_PATH_HEAD_RAIL), mc_get16(head + MC_PATH_HEAD_LANE));
	if (s->active)
		pthread_mutex_unlock(&((struct mc_paths *)s->paths)->lock);
	/* What is not here any more touches nothing: as good as fenced. */
	if (type == MC_MSG_PATH_FENCE && !s->active && !path) {
		mc_session_send(s, MC_MSG_PATH_FENCED, head, MC_PATH_HEAD_SIZE, NULL, 0);
		return;
	}
	if (!path)
		return;
	if (stage)
		note_stage(s, path, type, epoch, status, payload, len);
	else if (type == MC_MSG_PATH_HANDSHAKE)
		note(path, NOTE_MSG, epoch, 0, payload, MC_MIN(len, (size_t)MC_PEER_MSG_MAX));
	else if (type == MC_MSG_PATH_FENCE && !s->active)
		note(path, NOTE_FENCE, epoch, 0, NULL, 0);
	else if (type == MC_MSG_PATH_FENCED && s->active)
		note(path, NOTE_FENCED, epoch, 0, NULL, 0);
	else if (type == MC_MSG_PATH_OPENED && s->active)
		note(path, NOTE_OPENED, epoch, MC_MIN(status, 0), payload, len);
	else if (type == MC_MSG_PATH_BROKEN && s->active)
		note(path, NOTE_BROKEN, epoch, status < 0 ? status : -ECONNRESET, payload, len);
}

/* ---- sessions ---------------------------------------------------------------------------------------------- */

static void session_up(struct mc_session *s)
{
	struct mc_paths *paths = calloc(1, sizeof *paths);

	if (!paths)
		return;
	paths->session = s;
	pthread_mutex_init(&paths->lock, NULL);
	s->paths = paths;
}

void mc_paths_gone(struct mc_session *s, int status, const char *why)
{
	struct mc_paths *paths = s->paths;

	if (!paths)
		return;
	pthread_mutex_lock(&paths->lock);
	paths->gone = true;
	for (size_t i = 0; i < paths->nr; i++)
		note(paths->list[i], NOTE_GONE, paths->list[i]->epoch, status, why, why ? strlen(why) : 0);
	pthread_mutex_unlock(&paths->lock);
}

/* The peer's table changed: it may have withdrawn buffers. */
static void session_snapshot(struct mc_session *s)
{
	struct mc_paths *paths = s->paths;

	if (!paths)
		return;
	pthread_mutex_lock(&paths->lock);
	for (size_t i = 0; i < paths->nr; i++)
		if (mc_path_is(paths->list[i], MC_PATH_UP))
			note(paths->list[i], NOTE_PRUNE, 0, 0, NULL, 0);
	pthread_mutex_unlock(&paths->lock);
}

void mc_paths_free(struct mc_session *s)
{
	struct mc_paths *paths = s->paths;

	if (!paths)
		return;
	for (size_t i = 0; i < paths->nr; i++)
		mc_path_free(paths->list[i]);
	mc_routes_free(paths);
	pthread_mutex_destroy(&paths->lock);
	free(paths->list);
	free(paths);
	s->paths = NULL;
}

const struct mc_session_events mc_path_session_events = {
	.message = message,
	.up = session_up,
	.gone = mc_paths_gone,
	.snapshot = session_snapshot,
	.freed = mc_paths_free,
};
