/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host services about slices, peers and ranges: what a plugin calls from
 * inside its own calls.  They note what happened; what follows from it is done
 * after the plugin has returned.
 */
#include <errno.h>
#include <stdlib.h>

#include "path.h"

/* A plugin that says "done" of less than all has not done it: the rest may lie anywhere on its way. */
static int check_done(const struct mc_slice *s, int status, uint64_t done_len, int *scope)
{
	if (MC_LIKELY(status < 0 || done_len >= s->len))
		return status;
	*scope = MC_SCOPE_PEER;
	return -EIO;
}

void mc_host_complete(const struct mc_host *h, struct mc_slice *s, int status, int scope,
		      uint64_t done_len)
{
	struct mc_hslice *hs = s->host;

	/* A plugin that completes from inside submit breaks the contract: its slice would be freed
	 * under the hands of the caller. */
	MC_ASSERT(!hs->path->lane->inside);
	status = check_done(s, status, done_len, &scope);
	mc_slice_complete(hs, status, scope, done_len);
}

void mc_host_complete_any(const struct mc_host *h, struct mc_slice *s, int status, int scope,
			  uint64_t done_len)
{
	struct mc_hslice *hs = s->host;
	struct mc_lane *lane = hs->path->lane;

	hs->status = check_done(s, status, done_len, &scope);
	hs->scope = scope;
	hs->any_next = atomic_load(&lane->any_done);
	while (!atomic_compare_exchange_weak(&lane->any_done, &hs->any_next, hs))
		;
	mc_worker_nudge(lane->worker);
}

int mc_host_peer_send(const struct mc_host *h, void *peer, const void *msg, size_t len)
{
	if (len > MC_PEER_MSG_MAX)
		return -EMSGSIZE;
	return mc_path_send(mc_path_of(peer), MC_MSG_PATH_HANDSHAKE, 0, msg, len);
}

void mc_host_peer_writable(const struct mc_host *h, void *peer)
{
	struct mc_path *path = mc_path_of(peer);

	path->parked = false;
	if (path->queue || path->held_valid || path->stage_due)
		mc_path_set_ready(path);
	if (path->unflushed)
		mc_path_attend(path);
}

int mc_host_stream_dial(const struct mc_host *h, void *peer, uint64_t token)
{
	struct mc_path *path = mc_path_of(peer);

	/* Only the active end knows where the other one listens. */
	if (!path->active)
		return -ENOTSUP;
	mc_path_dial(path, token);
	return 0;
}

int mc_host_range_get(const struct mc_host *h, void *peer, uint64_t generation, uint64_t offset,
		      uint64_t len, uint32_t access, struct mc_range *range)
{
	struct mc_path *path = mc_path_of(peer);
	struct mc_engine *engine = path->session->engine;
	struct mc_local_buf *buf;

	if (generation != engine->generation)
		return -ESTALE;
	if (path->session->denied & access)
		return -EACCES;
	buf = mc_local_find_range(engine, offset, len, access);
	if (!buf)
		return -EACCES;
	range->addr = (void *)(uintptr_t)offset;
	range->region = buf->regions ? buf->regions[path->lane->device->idx] : NULL;
	range->kind = buf->kind;
	range->ordinal = buf->ordinal;
	range->host = buf;
	if (path->lane->now - path->last_heard > MC_SEC / 10) {
		path->last_heard = path->lane->now;
		mc_session_heard(path->session);
	}
	return 0;
}

void mc_host_range_put(const struct mc_host *h, struct mc_range *range)
{
	mc_local_put(range->host);
	range->host = NULL;
}
