/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The peer's buffers as one path knows them: imported by the plugin on first use,
 * released when the path closes or the peer has withdrawn them.  Worker only.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "path.h"

struct mc_import *mc_import_find(struct mc_path *path, uint32_t buf_id)
{
	struct mc_import *imp;

	if (!path->cap_imports)
		return NULL;
	imp = path->imports[buf_id & (path->cap_imports - 1)];
	while (imp && imp->buf_id != buf_id)
		imp = imp->next;
	return imp;
}

static bool imports_grow(struct mc_path *path)
{
	uint32_t cap = path->cap_imports ? 2 * path->cap_imports : 16;
	struct mc_import **table = calloc(cap, sizeof *table);

	if (!table)
		return false;
	for (uint32_t i = 0; i < path->cap_imports; i++) {
		for (struct mc_import *imp = path->imports[i], *next; imp; imp = next) {
			next = imp->next;
			imp->next = table[imp->buf_id & (cap - 1)];
			table[imp->buf_id & (cap - 1)] = imp;
		}
	}
	free(path->imports);
	path->imports = table;
	path->cap_imports = cap;
	return true;
}

struct mc_import *mc_import_new(struct mc_path *path, uint32_t id, const struct mc_remote_buffer *desc)
{
	struct mc_remote_buffer shown = *desc;
	struct mc_lane *lane = path->lane;
	size_t size = mc_round_up(sizeof(struct mc_import) + lane->ops->remote_size, MC_CACHE_LINE);
	struct mc_import *imp;
	int r;

	if (path->nr_imports >= path->cap_imports && !imports_grow(path))
		return NULL;
	imp = aligned_alloc(MC_CACHE_LINE, size);
	if (!imp)
		return NULL;
	memset(imp, 0, size);
	imp->path = path;
	imp->buf_id = id;
	shown.access &= MC_ACCESS_ALL;
	if ((desc->access & MC_REMOTE_NO_KEYS) && lane->device->plugin->has_mem_export)
		r = -EACCES;
	else
		r = lane->ops->mem_import(lane->inst, imp->area, path->peer->area, &shown);
	/* The stub's answer means that nothing need be imported; a plugin's own, that it cannot reach the buffer. */
	imp->status = r == -ENOTSUP && !lane->device->plugin->has_mem_import ? 0 : r;
	imp->next = path->imports[imp->buf_id & (path->cap_imports - 1)];
	path->imports[imp->buf_id & (path->cap_imports - 1)] = imp;
	path->nr_imports++;
	return imp;
}

static struct mc_import *import_buf(struct mc_path *path, const struct mc_remote_buf *rbuf)
{
	struct mc_remote_buffer desc = {
		.size = sizeof desc, .base = rbuf->base, .len = rbuf->len, .kind = rbuf->kind,
		.ordinal = rbuf->ordinal, .access = rbuf->access,
	};

	for (size_t i = 0; i < rbuf->nr_blobs; i++) {
		if (rbuf->blobs[i].device_idx != path->remote_device)
			continue;
		desc.blob = rbuf->blobs[i].data;
		desc.blob_len = rbuf->blobs[i].len;
	}
	return mc_import_new(path, rbuf->id, &desc);
}

void mc_path_drop_imports(struct mc_path *path)
{
	struct mc_lane *lane = path->lane;

	for (uint32_t i = 0; i < path->cap_imports; i++) {
		for (struct mc_import *imp = path->imports[i], *next; imp; imp = next) {
			next = imp->next;
			if (imp->status == 0 || imp->status == -EINPROGRESS)
				lane->ops->mem_release(lane->inst, imp->area);
			free(imp);
		}
	}
	free(path->imports);
	path->imports = NULL;
	path->cap_imports = path->nr_imports = 0;
}

static bool import_in_use(const struct mc_path *path, const struct mc_import *imp)
{
	const struct mc_hslice *const lists[] = {path->inflight_list, path->unflushed, path->flush_list};

	for (size_t i = 0; i < MC_ARRAY_SIZE(lists); i++)
		for (const struct mc_hslice *hs = lists[i]; hs; hs = hs->next)
			if (hs->s.remote == imp->area)
				return true;
	return false;
}

/* Does the table still have the buffer?  A staging pool of the peer's is not in it. */
static bool import_wanted(const struct mc_path *path, const struct mc_snapshot *snapshot, uint32_t id)
{
	if (path->stage_pool && id == path->stage_pool)
		return true;
	for (size_t i = 0; i < snapshot->nr; i++)
		if (snapshot->bufs[i]->id == id)
			return true;
	return false;
}

static void prune_bucket(struct mc_path *path, const struct mc_snapshot *snapshot, struct mc_import **at)
{
	struct mc_lane *lane = path->lane;
	struct mc_import *imp;

	while ((imp = *at) != NULL) {
		if (imp->status == -EINPROGRESS || import_in_use(path, imp) ||
		    import_wanted(path, snapshot, imp->buf_id)) {
			at = &imp->next;
			continue;
		}
		*at = imp->next;
		path->nr_imports--;
		if (!imp->status)
			lane->ops->mem_release(lane->inst, imp->area);
		free(imp);
	}
}

void mc_path_prune_imports(struct mc_path *path)
{
	struct mc_snapshot *snapshot = mc_session_snapshot(path->session);

	/* Not at each change of the table, so that it costs little per change. */
	if (snapshot && path->nr_imports > 2 * snapshot->nr + 16)
		for (uint32_t i = 0; i < path->cap_imports; i++)
			prune_bucket(path, snapshot, &path->imports[i]);
	mc_snapshot_unref(snapshot);
}

void mc_host_imported(const struct mc_host *h, void *remote, int status)
{
	struct mc_import *imp = MC_CONTAINER_OF(remote, struct mc_import, area);

	imp->status = status;
	mc_path_set_ready(imp->path);
}

/* The buffer as the table has it now: since the run began the peer may have added keys of another device to
 * it, or taken it back.  A connection that has broken for a key that is no more would break again with each
 * request that is left. */
static int import_latest(struct mc_path *path, const struct mc_remote_buf *rbuf, struct mc_import **ret_imp)
{
	struct mc_snapshot *snapshot = mc_session_snapshot(path->session);
	const struct mc_remote_buf *latest = rbuf;
	bool gone = snapshot && !import_wanted(path, snapshot, rbuf->id);

	for (size_t i = 0; snapshot && i < snapshot->nr; i++)
		if (snapshot->bufs[i]->id == rbuf->id)
			latest = snapshot->bufs[i];
	*ret_imp = gone ? NULL : import_buf(path, latest);
	mc_snapshot_unref(snapshot);
	return gone ? -EACCES : 0;
}

/* The import of a buffer, made on first use: 0, -EINPROGRESS (later), or why it cannot be. */
int mc_import_get(struct mc_path *path, const struct mc_remote_buf *rbuf, struct mc_import **ret_imp)
{
	struct mc_import *imp = mc_import_find(path, rbuf->id);

	if (MC_UNLIKELY(!imp)) {
		if (import_latest(path, rbuf, &imp) < 0)
			return -EACCES;
		if (!imp)
			return -EINPROGRESS; /* no memory now */
	}
	*ret_imp = imp;
	return imp->status;
}
