/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The data streams of paths: dialled by the active end when its plugin asks for
 * one, admitted at the passive end as far as there is room for them.  Both on the
 * control loop; a stream travels to the path's worker as a note (path_msg.c), and
 * there the plugin owns it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "path.h"
#include "path_wire.h"

#define WHY_ROOM 400 /* for the sentence of a failure, the path of a socket in it */

/* ---- dialled, active ---------------------------------------------------------------------------- */

struct dial {
	struct mc_path_note *note;
	struct mc_session *session; /* a reference: the path lives as long */
	char *addresses[10];
};

static void dial_free(struct dial *d)
{
	for (size_t i = 0; i < MC_ARRAY_SIZE(d->addresses); i++)
		free(d->addresses[i]);
	mc_session_unref(d->session);
	free(d);
}

static void dialled(void *arg, int fd, const char *why)
{
	struct dial *d = arg;

	/* The path may be closed by now, but it is there: its session is.  */
	mc_path_note_stream_post(d->note, fd, why);
	dial_free(d);
}

/* Of a bare address, and of "host:port". */
static bool is_loopback(const char *address)
{
	return !strncmp(address, "127.", 4) || !strcmp(address, "::1") || !strncmp(address, "[::1]", 5);
}

/* Bind to the device's own address where that can reach the other: one family, and both on loopback,
 * or neither. */
static const char *local_address(const struct mc_device *device, const struct mc_remote_device *remote)
{
	const char *own = device->info.address, *far = remote->address;

	if (!own[0] || !far[0] || is_loopback(own) != is_loopback(far) ||
	    (strchr(own, ':') != NULL) != (far[0] == '['))
		return "";
	return own;
}

/* The device's own address first, then wherever the peer can be reached. */
static void fill_addresses(struct dial *d, const struct mc_peer_info *info, const struct mc_remote_device *remote)
{
	size_t nr = 0;

	if (remote->address[0])
		d->addresses[nr++] = strdup(remote->address);
	for (size_t i = 0; info->addresses[i] && nr < MC_ARRAY_SIZE(d->addresses) - 1; i++)
		if (strcmp(remote->address, info->addresses[i]) != 0)
			d->addresses[nr++] = strdup(info->addresses[i]);
}

void mc_path_dial(struct mc_path *path, uint64_t token)
{
	struct mc_session *session = path->session;
	struct mc_engine *engine = session->engine;
	const struct mc_peer_info *info = session->peer;
	const struct mc_remote_device *remote = &info->devices[path->remote_device];
	struct mc_stream_hello hello = {
		.kind = MC_STREAM_DATA, .session_id = session->id,
		.from_generation = engine->generation, .to_generation = info->generation,
		.rail_id = path->rail_id, .lane = path->lane_id, .epoch = path->epoch, .token = token,
	};
	bool local = path->lane->caps.flags & MC_CAP_LOCAL_STREAMS;
	uint64_t deadline_ns = mc_now_ns() + (uint64_t)engine->set->peer_timeout;
	struct dial *d = calloc(1, sizeof *d);
	int r = -ENOMEM;

	if (d)
		d->note = mc_path_note_stream(path, path->epoch, token, false, WHY_ROOM);
	if (!d || !d->note)
		goto fail;
	snprintf(hello.from, sizeof hello.from, "%s", engine->name);
	d->session = mc_session_ref(session);
	if (local && !info->local_path) {
		dialled(d, -ENETUNREACH, "the peer shows no Unix socket that we could dial: it is on another host, has "
			"local_socket off, or could not make one, which its log says");
		return;
	}
	fill_addresses(d, info, remote);
	r = local ? mc_stream_dial_local(engine, info->local_path, &hello, deadline_ns, dialled, d)
		  : mc_stream_dial(engine, (const char *const *)d->addresses,
				   local_address(path->lane->device, remote), &hello, deadline_ns, dialled, d);
	if (!r)
		return;
	free(d->note);
	dial_free(d);
	d = NULL;
fail:
	if (d) {
		free(d->note);
		free(d);
	}
	mc_path_break_soon(path, r, "a data stream cannot be dialled");
}

/* ---- accepted, passive -------------------------------------------------------------------------- */

static bool same_stream(const struct mc_admitted *a)
{
	struct stat st;

	return fstat(a->fd, &st) == 0 && S_ISSOCK(st.st_mode) && (uint64_t)st.st_ino == a->ino;
}

/* How many of a path's streams live.  The plugin owns them and closes them when it likes: then their
 * descriptor is gone or another's. */
static uint32_t streams_alive(struct mc_path *path)
{
	for (uint32_t i = 0; i < path->nr_admitted;) {
		if (same_stream(&path->admitted[i]))
			i++;
		else
			path->admitted[i] = path->admitted[--path->nr_admitted];
	}
	return path->nr_admitted;
}

/* One stream per token, and no more of them than a bound. */
static bool stream_fits(const struct mc_paths *paths, struct mc_path *path, const struct mc_stream_hello *hello)
{
	size_t sum = 0;

	if (streams_alive(path) >= MC_STREAMS_PER_PATH)
		return false;
	for (uint32_t i = 0; i < path->nr_admitted; i++)
		if (path->admitted[i].token == hello->token && path->admitted[i].epoch == hello->epoch)
			return false; /* who dials it again waits until the first one's end has come here */
	for (size_t i = 0; i < paths->nr; i++)
		sum += paths->list[i]->nr_admitted;
	if (sum < MC_STREAMS_PER_SESSION)
		return true;
	for (size_t i = sum = 0; i < paths->nr; i++)
		sum += streams_alive(paths->list[i]);
	return sum < MC_STREAMS_PER_SESSION;
}

/* Of the sort that the transport has asked for?  Who dials it chooses the way. */
static bool right_family(const struct mc_path *path, int fd)
{
	bool local = path->lane->caps.flags & MC_CAP_LOCAL_STREAMS;
	int domain = AF_UNSPEC;
	socklen_t len = sizeof domain;

	getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len);
	return local == (domain == AF_UNIX);
}

int mc_path_stream(struct mc_engine *engine, struct mc_session *session, int fd,
		   const struct mc_stream_hello *hello)
{
	struct mc_path *path;
	struct mc_path_note *n;
	struct stat st;

	if (!session || session->active)
		return -ENOENT;
	path = mc_paths_find(session->paths, hello->rail_id, (uint16_t)hello->lane);
	if (!path)
		return -ENOENT;
	if (!right_family(path, fd))
		return -EINVAL;
	if (!stream_fits(session->paths, path, hello))
		return -EBUSY;
	if (fstat(fd, &st) < 0)
		return -errno;
	n = mc_path_note_stream(path, hello->epoch, hello->token, true, 0);
	if (!n)
		return -ENOMEM;
	path->admitted[path->nr_admitted++] = (struct mc_admitted){
		.fd = fd, .epoch = hello->epoch, .ino = (uint64_t)st.st_ino, .token = hello->token};
	/* The plugin may be the first that writes. */
	mc_stream_admit(engine);
	mc_path_note_stream_post(n, fd, NULL);
	return 0;
}
