/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How slices end: counted, learned from, made visible by a flush where the device
 * needs it, or collected by a break until both ends are fenced and then tried
 * again.  Runs on the path's worker.
 */
#include <errno.h>
#include <string.h>

#include "log.h"
#include "path.h"
#include "stage.h"

#define LEARN_NS (2 * MC_MSEC)
#define WINDOW_MIN (256u << 10)
#define WINDOW_MAX ((uint64_t)64 << 20)
#define HEARD_NS (100 * MC_MSEC)

/* ---- learning ------------------------------------------------------------------------------------------- */

void mc_path_set_window(struct mc_path *path)
{
	uint64_t span = (uint64_t)path->session->engine->set->rail_window;
	uint64_t chunk = path->caps.pref_slice ? path->caps.pref_slice : path->caps.max_slice;
	uint64_t least = MC_MAX((uint64_t)WINDOW_MIN, 4 * MC_MIN(chunk, (uint64_t)1 << 20));
	double rate = (double)atomic_load_explicit(&path->rate, memory_order_relaxed);
	double bytes = rate * (double)span / 1e9;

	path->window = bytes > (double)WINDOW_MAX ? WINDOW_MAX : MC_MAX((uint64_t)bytes, least);
}

/* The rate is learned only while the path is backlogged: otherwise it says how little was asked. */
static void learn(struct mc_path *path, uint64_t len)
{
	uint64_t now = path->lane->now, span, rate;
	bool backlogged = path->queue || path->held_valid;

	if (!backlogged) {
		path->learn_since = 0;
		return;
	}
	if (!path->learn_since) {
		path->learn_since = now;
		path->learn_bytes = 0;
		return;
	}
	path->learn_bytes += len;
	span = now - path->learn_since;
	if (span < LEARN_NS)
		return;
	rate = atomic_load_explicit(&path->rate, memory_order_relaxed);
	rate = (uint64_t)(0.75 * (double)rate + 0.25 * (double)path->learn_bytes * 1e9 / (double)span);
	atomic_store_explicit(&path->rate, MC_MAX(rate, (uint64_t)1 << 16), memory_order_relaxed);
	mc_path_set_window(path);
	path->learn_since = now;
	path->learn_bytes = 0;
	if (path->ramp != UINT64_MAX) {
		path->ramp *= 2;
		if (path->ramp >= path->window) {
			path->ramp = UINT64_MAX;
			path->failures = 0;
		}
	}
}

void mc_path_decay(struct mc_path *path, uint64_t now)
{
	uint64_t rate;

	if (path->nr_inflight || now - path->last_used < MC_SEC)
		return;
	rate = atomic_load_explicit(&path->rate, memory_order_relaxed);
	atomic_store_explicit(&path->rate, (rate + path->nominal) / 2, memory_order_relaxed);
	path->last_used = now;
	if (path->ramp != UINT64_MAX && mc_path_is(path, MC_PATH_UP)) {
		path->ramp = UINT64_MAX;
		path->failures = 0;
	}
}

/* ---- completion -------------------------------------------------------------------------------------------- */

static void count(struct mc_path *path, const struct mc_hslice *hs)
{
	struct mc_lane *lane = path->lane;
	bool read = hs->s.opcode == MC_OP_READ;

	mc_bump(read ? &path->bytes_read : &path->bytes_written, hs->s.len);
	mc_bump(read ? &lane->bytes_read : &lane->bytes_written, hs->s.len);
	mc_bump(&path->slices, 1);
	mc_bump(&lane->slices, 1);
	/* A cut request counts on the rail that carries its beginning. */
	if (!hs->piece.off)
		mc_bump(&path->requests, hs->piece.nr);
	if (path->lane->now - path->last_heard > HEARD_NS) {
		path->last_heard = path->lane->now;
		mc_session_heard(path->session);
	}
}

/* Make the writes that have ended visible (P3): one flushing read for all of them. */
void mc_path_flush(struct mc_path *path)
{
	struct mc_lane *lane = path->lane;
	struct mc_hslice *hs, *like = path->unflushed;
	int r;

	if (path->flushing || !like || path->parked || !mc_path_is(path, MC_PATH_UP))
		return;
	hs = mc_slice_get(lane);
	if (!hs)
		return;
	mc_slice_fill(hs, path, &like->piece, NULL);
	hs->piece.run = NULL;
	/* A staged write went elsewhere than its piece says. */
	hs->s.local = like->s.local;
	hs->s.region = like->s.region;
	hs->s.local_kind = like->s.local_kind;
	hs->s.local_ordinal = like->s.local_ordinal;
	hs->s.remote = like->s.remote;
	hs->s.remote_offset = like->s.remote_offset;
	hs->s.opcode = MC_OP_READ;
	hs->s.flags = MC_SLICE_FLUSH;
	hs->s.len = 0;
	path->flush_list = path->unflushed;
	path->unflushed = NULL;
	path->flushing = hs;
	mc_inflight_add(path, hs);
	lane->inside = true;
	r = lane->ops->submit(lane->inst, &hs->s);
	lane->inside = false;
	lane->flush_due = true;
	if (r == 0)
		return;
	if (r == -EAGAIN) {
		path->flushing = NULL;
		path->unflushed = path->flush_list;
		path->flush_list = NULL;
		path->parked = true;
		mc_inflight_remove(path, hs);
		mc_slice_put(lane, hs);
		return;
	}
	mc_slice_complete(hs, r == MC_DONE ? 0 : r, r == MC_DONE ? MC_SCOPE_NONE : MC_SCOPE_PEER, 0);
}

static void orphan(struct mc_path *path, struct mc_hslice *hs, int status, int scope)
{
	if (hs->stage)
		mc_stage_drop(hs);
	hs->status = status;
	hs->scope = scope;
	hs->next = path->orphans;
	path->orphans = hs;
}

static void orphan_list(struct mc_path *path, struct mc_hslice **list, int status)
{
	while (*list) {
		struct mc_hslice *hs = *list;

		*list = hs->next;
		orphan(path, hs, status, MC_SCOPE_PEER);
	}
}

static void flush_done(struct mc_path *path, struct mc_hslice *flush, int status)
{
	struct mc_hslice *list = path->flush_list;

	path->flushing = NULL;
	path->flush_list = NULL;
	mc_slice_put(path->lane, flush);
	if (status < 0) {
		orphan_list(path, &list, status);
		if (!mc_path_is(path, MC_PATH_FENCING))
			mc_path_break_soon(path, status, "a flush failed");
		return;
	}
	while (list) {
		struct mc_hslice *hs = list;
		struct mc_piece piece = hs->piece;

		list = hs->next;
		if (hs->stage) {
			mc_stage_flushed(hs);
			continue;
		}
		mc_slice_put(path->lane, hs);
		mc_piece_end(&piece, 0, MC_SCOPE_NONE);
	}
	mc_path_flush(path);
}

static void break_scope(struct mc_path *path, int status, int scope)
{
	struct mc_engine *engine = path->session->engine;

	if (mc_path_is(path, MC_PATH_FENCING))
		return;
	mc_path_break_soon(path, status, "a slice failed");
	if (scope < MC_SCOPE_NIC)
		return;
	/* The device is broken for every peer; other lanes find out by their own slices. */
	for (struct mc_path *p = path->lane->paths; p; p = p->next)
		if (p != path)
			mc_path_break_soon(p, status, "the device failed");
	mc_debug("engine '%s': device %s failed: %s", engine->name, path->lane->label, strerror(-status));
}

static void slice_failed(struct mc_path *path, struct mc_hslice *hs, int status, int scope)
{
	struct mc_piece piece = hs->piece;
	int expired = mc_run_expired(piece.run, path->lane->now);

	if (scope >= MC_SCOPE_PEER || mc_path_is(path, MC_PATH_FENCING)) {
		orphan(path, hs, status, scope);
		break_scope(path, status, scope);
		return;
	}
	mc_slice_put(path->lane, hs);
	if (hs->cancelling && expired)
		status = expired;
	mc_piece_end(&piece, status, scope ? scope : MC_SCOPE_REQUEST);
}

void mc_slice_complete(struct mc_hslice *hs, int status, int scope, uint64_t done_len)
{
	struct mc_path *path = hs->path;
	struct mc_piece piece;

	if (MC_UNLIKELY(hs->stage) && mc_stage_took(hs, status, scope)) {
		if (path->unflushed)
			mc_path_attend(path);
		return;
	}
	mc_inflight_remove(path, hs);
	mc_trace("%s: slice at 0x%llx ended: %d, scope %d", path->lane->label,
		 (unsigned long long)hs->s.remote_offset, status, scope);
	path->lane->handled++;
	if (path->queue || path->held_valid)
		mc_path_set_ready(path);
	if (hs == path->flushing) {
		flush_done(path, hs, status);
		return;
	}
	if (MC_UNLIKELY(status < 0)) {
		if (scope >= 0 && scope < MC_SCOPE_COUNT)
			mc_bump(&path->errors[scope], 1);
		slice_failed(path, hs, status, scope);
	} else {
		count(path, hs);
		learn(path, hs->s.len);
		if (path->caps.visibility == MC_VISIBLE_AFTER_FLUSH && hs->s.opcode == MC_OP_WRITE &&
		    !hs->visible) {
			hs->next = path->unflushed;
			path->unflushed = hs;
			/* One flush for all that end in this turn, or while another flush is under
			 * way.  It may not wait for the path to be idle: a busy one never is. */
			mc_path_attend(path);
			return;
		}
		piece = hs->piece;
		mc_slice_put(path->lane, hs);
		mc_piece_end(&piece, 0, MC_SCOPE_NONE);
	}
	/* The last one may be what the fence waits for. */
	if (mc_path_is(path, MC_PATH_FENCING) && !path->inflight_list)
		mc_path_attend(path);
}

/* ---- after a fence ------------------------------------------------------------------------------------------- */

static void settle_orphan(struct mc_path *path, struct mc_hslice *hs)
{
	const struct mc_settings *set = path->session->engine->set;
	struct mc_piece piece = hs->piece;
	int expired = mc_run_expired(piece.run, mc_now_ns());
	int status = hs->status, scope = hs->scope;
	struct mc_link hold = {.run = piece.run};

	mc_slice_put(path->lane, hs);
	piece.tries++;
	if (expired) {
		mc_piece_end(&piece, expired, MC_SCOPE_PEER);
	} else if (path->dead) {
		mc_piece_end(&piece, path->session->gone_status, MC_SCOPE_PEER);
	} else if (piece.tries > (uint32_t)set->retry_count) {
		mc_piece_end(&piece, status, scope);
	} else {
		mc_bump(&path->retries, 1);
		/* The piece keeps its request open, so the run stays until somebody ends it. */
		atomic_fetch_add(&hold.run->refs, 1);
		mc_piece_retry(&piece, status, scope);
		mc_route_dispatch(hold.run);
		mc_run_unref(hold.run);
	}
}

void mc_path_settle_orphans(struct mc_path *path)
{
	orphan_list(path, &path->unflushed, path->break_status ? path->break_status : -ECONNRESET);
	while (path->orphans) {
		struct mc_hslice *hs = path->orphans;

		path->orphans = hs->next;
		settle_orphan(path, hs);
	}
}

void mc_path_reroute(struct mc_path *path)
{
	struct mc_link *list = path->queue;

	path->queue = NULL;
	path->queue_tail = &path->queue;
	path->parked = false;
	if (path->held_valid) {
		struct mc_piece held = path->held;

		path->held_valid = false;
		atomic_fetch_add(&held.run->refs, 1);
		mc_piece_retry(&held, -ECONNRESET, MC_SCOPE_PEER);
		mc_route_dispatch(held.run);
		mc_run_unref(held.run);
	}
	while (list) {
		struct mc_link *link = list;

		list = link->next;
		mc_link_give_back(link);
	}
}
