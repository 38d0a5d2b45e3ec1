/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The work of a lane: links queued at its paths are cut into slices as long as
 * the path has room, peers in turn by bytes; deadlines are enforced.  Nothing here
 * allocates once the slabs are there.  How slices end is in path_done.c.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "path.h"
#include "stage.h"

#define SLAB_SLICES 64
#define LANE_SLICES_MAX 65536
#define TURN_BYTES (256u << 10)

struct mc_slab {
	struct mc_slab *next;
	_Alignas(MC_CACHE_LINE) char slices[];
};

/* ---- slices -------------------------------------------------------------------------------------- */

static bool slab_add(struct mc_lane *lane)
{
	size_t stride = mc_round_up(sizeof(struct mc_hslice) + lane->ops->slice_size, MC_CACHE_LINE);
	size_t size = sizeof(struct mc_slab) + SLAB_SLICES * stride;
	struct mc_slab *slab = aligned_alloc(MC_CACHE_LINE, mc_round_up(size, MC_CACHE_LINE));

	if (!slab)
		return false;
	memset(slab, 0, size);
	slab->next = lane->slabs;
	lane->slabs = slab;
	for (size_t i = SLAB_SLICES; i-- > 0;) {
		struct mc_hslice *hs = (struct mc_hslice *)(slab->slices + i * stride);

		hs->s.size = sizeof hs->s;
		hs->s.priv = hs->priv;
		hs->next = lane->free_slices;
		lane->free_slices = hs;
	}
	return true;
}

struct mc_hslice *mc_slice_get(struct mc_lane *lane)
{
	struct mc_hslice *hs = lane->free_slices;

	if (MC_UNLIKELY(!hs)) {
		if (lane->nr_slices >= LANE_SLICES_MAX || !slab_add(lane))
			return NULL;
		hs = lane->free_slices;
	}
	lane->free_slices = hs->next;
	lane->nr_slices++;
	return hs;
}

void mc_slice_put(struct mc_lane *lane, struct mc_hslice *hs)
{
	hs->next = lane->free_slices;
	lane->free_slices = hs;
	lane->nr_slices--;
}

void mc_lane_slices_free(struct mc_lane *lane)
{
	while (lane->slabs) {
		struct mc_slab *next = lane->slabs->next;

		free(lane->slabs);
		lane->slabs = next;
	}
	lane->free_slices = NULL;
}

void mc_inflight_add(struct mc_path *path, struct mc_hslice *hs)
{
	hs->prev = NULL;
	hs->next = path->inflight_list;
	if (hs->next)
		hs->next->prev = hs;
	path->inflight_list = hs;
	path->nr_inflight++;
	hs->counted = hs->s.len;
	mc_bump(&path->inflight, hs->s.len);
	atomic_fetch_add_explicit(&path->lane->inflight, hs->s.len, memory_order_relaxed);
	path->lane->client.busy = true;
}

void mc_inflight_remove(struct mc_path *path, struct mc_hslice *hs)
{
	if (hs->prev)
		hs->prev->next = hs->next;
	else
		path->inflight_list = hs->next;
	if (hs->next)
		hs->next->prev = hs->prev;
	path->nr_inflight--;
	mc_bump(&path->inflight, -hs->counted);
	atomic_fetch_sub_explicit(&path->lane->inflight, hs->counted, memory_order_relaxed);
}

/* ---- the ready list -------------------------------------------------------------------------------- */

void mc_path_set_ready(struct mc_path *path)
{
	struct mc_lane *lane = path->lane;

	if (path->in_ready || !mc_path_is(path, MC_PATH_UP))
		return;
	path->in_ready = true;
	path->next_ready = NULL;
	*lane->ready_tail = path;
	lane->ready_tail = &path->next_ready;
}

static struct mc_path *ready_pop(struct mc_lane *lane)
{
	struct mc_path *path = lane->ready;

	lane->ready = path->next_ready;
	if (!lane->ready)
		lane->ready_tail = &lane->ready;
	path->in_ready = false;
	return path;
}

void mc_path_unready(struct mc_path *path)
{
	struct mc_lane *lane = path->lane;

	if (!path->in_ready)
		return;
	for (struct mc_path **at = &lane->ready; *at; at = &(*at)->next_ready) {
		if (*at != path)
			continue;
		*at = path->next_ready;
		if (!*at)
			lane->ready_tail = at;
		break;
	}
	path->in_ready = false;
}

void mc_path_enqueue(struct mc_path *path, struct mc_link *link)
{
	link->next = NULL;
	*path->queue_tail = link;
	path->queue_tail = &link->next;
	path->lane->client.busy = true;
	if (mc_path_is(path, MC_PATH_UP))
		mc_path_set_ready(path);
	else if (mc_path_is(path, MC_PATH_IDLE) && !path->dead)
		mc_path_connect(path);
	else if (mc_path_is(path, MC_PATH_CLOSED) || path->dead)
		mc_path_reroute(path);
}

static struct mc_link *queue_pop(struct mc_path *path)
{
	struct mc_link *link = path->queue;

	path->queue = link->next;
	if (!path->queue)
		path->queue_tail = &path->queue;
	return link;
}

/* ---- pumping ----------------------------------------------------------------------------------------- */

static bool has_room(const struct mc_path *path)
{
	uint64_t inflight = atomic_load_explicit(&path->inflight, memory_order_relaxed);

	if (path->parked || path->break_due)
		return false;
	if (!inflight)
		return true;
	if (path->caps.max_inflight && path->nr_inflight >= path->caps.max_inflight)
		return false;
	return inflight < MC_MIN(path->window, path->ramp);
}

void mc_slice_fill(struct mc_hslice *hs, struct mc_path *path, const struct mc_piece *piece,
		       struct mc_import *imp)
{
	const struct mc_run *run = piece->run;
	struct mc_slice *s = &hs->s;

	hs->path = path;
	hs->piece = *piece;
	hs->stage = NULL;
	hs->cancelling = hs->visible = false;
	s->opcode = run->opcode;
	s->flags = run->sole ? MC_SLICE_SOLE : 0;
	s->epoch = path->epoch;
	s->len = piece->len;
	s->local = (void *)(uintptr_t)mc_piece_local(piece);
	s->region = run->lbuf->regions ? run->lbuf->regions[path->lane->device->idx] : NULL;
	s->remote_offset = mc_piece_remote(piece);
	s->remote = imp ? imp->area : NULL;
	s->peer = path->peer->area;
	s->deadline_ns = run->batch->deadline_ns;
	s->local_kind = run->lbuf->kind;
	s->local_ordinal = run->lbuf->ordinal;
	s->host = hs;
}

int mc_scope_of_submit(int r)
{
	switch (r) {
	case -ECONNRESET:
	case -ENOTCONN:
	case -EPIPE:
		return MC_SCOPE_PEER;
	case -ENODEV:
	case -ENETDOWN:
	case -EIO:
		return MC_SCOPE_NIC;
	default:
		return MC_SCOPE_REQUEST;
	}
}

/* Hand one piece to the plugin.  False: it has no room now. */
static bool submit_piece(struct mc_path *path, const struct mc_piece *piece, struct mc_import *imp)
{
	struct mc_lane *lane = path->lane;
	struct mc_hslice *hs = mc_slice_get(lane);
	int r;

	if (!hs) {
		path->held = *piece;
		path->held_valid = true;
		return false;
	}
	mc_slice_fill(hs, path, piece, imp);
	mc_inflight_add(path, hs);
	mc_trace("%s: %s %llu bytes at 0x%llx", lane->label, hs->s.opcode == MC_OP_READ ? "read" : "write",
		 (unsigned long long)hs->s.len, (unsigned long long)hs->s.remote_offset);
	lane->inside = true;
	r = lane->ops->submit(lane->inst, &hs->s);
	lane->inside = false;
	lane->flush_due = true;
	if (MC_LIKELY(r == 0))
		return true;
	if (r == -EAGAIN) {
		mc_inflight_remove(path, hs);
		mc_slice_put(lane, hs);
		path->held = *piece;
		path->held_valid = true;
		path->parked = true;
		return false;
	}
	if (r == MC_DONE)
		mc_slice_complete(hs, 0, MC_SCOPE_NONE, hs->s.len);
	else
		mc_slice_complete(hs, r, mc_scope_of_submit(r), 0);
	return true;
}

/* The peer's buffer cannot be reached by this path: another one gets what is next. */
static void unreachable(struct mc_path *path, struct mc_run *run, int status)
{
	bool other = mc_run_bar(run, path, status);

	if (!path->held_valid) {
		struct mc_link *link = queue_pop(path);

		if (!other)
			mc_run_stop(run, status, MC_SCOPE_PEER);
		mc_link_give_back(link);
		return;
	}
	path->held_valid = false;
	if (other) {
		/* Somebody else may take it at once, and end the run with it. */
		atomic_fetch_add(&run->refs, 1);
		mc_piece_retry(&path->held, status, MC_SCOPE_PEER);
		mc_route_dispatch(run);
		mc_run_unref(run);
	} else {
		mc_piece_end(&path->held, status, MC_SCOPE_PEER);
	}
}

/* The next piece of the path's queue, with the import of its buffer.  False: nothing to send now. */
static bool next_piece(struct mc_path *path, struct mc_piece *piece, struct mc_import **ret_imp)
{
	while (path->held_valid || path->queue) {
		struct mc_run *run = path->held_valid ? path->held.run : path->queue->run;
		uint8_t stage = path->held_valid ? path->held.stage : path->queue->stage;
		int status = 0;

		*ret_imp = NULL;
		if (!(stage & MC_STAGE_REMOTE))
			status = mc_import_get(path, run->rbuf, ret_imp);

		if (MC_UNLIKELY(status == -EINPROGRESS))
			return false;
		if (MC_UNLIKELY(status < 0)) {
			unreachable(path, run, status);
			continue;
		}
		if (path->held_valid) {
			*piece = path->held;
			path->held_valid = false;
			return true;
		}
		if (mc_run_cut(run, piece)) {
			piece->stage = stage;
			if (MC_UNLIKELY(piece->len > path->caps.max_slice && path->caps.max_slice))
				mc_piece_split(piece, path->caps.max_slice);
			/* Let go of the run with its last piece, so that the batch need not wait for us. */
			if (!mc_run_has_work(run))
				mc_link_give_back(queue_pop(path));
			return true;
		}
		mc_link_give_back(queue_pop(path));
	}
	return false;
}

/* Would one more piece here, behind what is in flight, be done later than another path would have it done,
 * and later than all that is left of the run is done elsewhere?  Then it is theirs: the end of a run is not to
 * wait for a slow rail.  Asked only while something is in flight here, after which this path looks again, so
 * no work is left to paths that do not go on. */
static bool others_are_sooner(const struct mc_path *path, const struct mc_run *run, uint32_t used)
{
	uint64_t left = mc_run_uncut(run), len = MC_MIN(run->chunk, left), sum = left, own = 0;
	double rate = 0, own_rate = 1, best = 0;

	for (int i = 0; i < MC_RUN_LINKS; i++) {
		struct mc_path *p = __atomic_load_n(&run->links[i].path, __ATOMIC_RELAXED);
		uint64_t flight;
		double r;

		/* NULL: the link is only just being made. */
		if (!(used & 1u << i) || !p || !mc_path_is(p, MC_PATH_UP))
			continue;
		flight = atomic_load_explicit(&p->inflight, memory_order_relaxed);
		r = (double)atomic_load_explicit(&p->rate, memory_order_relaxed);
		if (p == path) {
			own = flight;
			own_rate = r;
			continue;
		}
		sum += flight;
		rate += r;
		best = MC_MAX(best, r / (double)(flight + len));
	}
	return (double)(own + len) * rate > (double)sum * own_rate && (double)(own + len) * best > own_rate;
}

static bool leaves_it(struct mc_path *path)
{
	const struct mc_run *run;
	uint32_t used;

	if (!path->nr_inflight || path->held_valid || !path->queue)
		return false;
	run = path->queue->run;
	used = atomic_load_explicit(&run->links_used, memory_order_relaxed);
	if (MC_LIKELY(!(used & (used - 1))) || atomic_load_explicit(&run->retry, memory_order_relaxed) ||
	    !others_are_sooner(path, run, used))
		return false;
	path->learn_since = 0; /* what it does now says nothing of what it could */
	return true;
}

/* Send up to a turn's worth.  True: there is more, and room for it. */
static bool pump(struct mc_path *path)
{
	uint64_t sent = 0;
	struct mc_piece piece;
	struct mc_import *imp = NULL;

	if (MC_UNLIKELY(path->stage_due))
		mc_stage_pump(path);
	while (has_room(path) && mc_path_is(path, MC_PATH_UP)) {
		if (sent >= TURN_BYTES && path->lane->ready)
			return true;
		if (leaves_it(path))
			return false;
		if (!next_piece(path, &piece, &imp))
			return false;
		path->last_used = path->lane->now;
		sent += piece.len;
		if (!(MC_UNLIKELY(piece.stage) ? mc_stage_submit(path, &piece, imp)
					       : submit_piece(path, &piece, imp)))
			return false;
	}
	return false;
}

static void pump_lane(struct mc_lane *lane)
{
	while (lane->ready) {
		struct mc_path *path = ready_pop(lane);

		if (pump(path))
			mc_path_set_ready(path);
	}
	if (lane->flush_due) {
		lane->flush_due = false;
		lane->ops->flush(lane->inst);
	}
}

/* ---- deadlines ------------------------------------------------------------------------------------------------- */

static void expire_queue(struct mc_path *path, uint64_t now)
{
	struct mc_link *list = path->queue;

	path->queue = NULL;
	path->queue_tail = &path->queue;
	while (list) {
		struct mc_link *link = list;
		int expired = mc_run_expired(link->run, now);

		list = link->next;
		if (expired)
			mc_run_stop(link->run, expired, MC_SCOPE_REQUEST);
		/* While this path is down another one may have come back. */
		if (expired || !mc_run_has_work(link->run) ||
		    (mc_path_is(path, MC_PATH_DOWN) && mc_route_usable(link->run))) {
			mc_link_give_back(link);
			continue;
		}
		link->next = NULL;
		*path->queue_tail = link;
		path->queue_tail = &link->next;
	}
	if (path->held_valid) {
		int expired = mc_run_expired(path->held.run, now);

		if (expired) {
			path->held_valid = false;
			mc_piece_end(&path->held, expired, MC_SCOPE_REQUEST);
		}
	}
}

static bool any_expired(const struct mc_hslice *list, uint64_t now)
{
	while (list && !(list->piece.run && mc_run_expired(list->piece.run, now)))
		list = list->next;
	return list != NULL;
}

static void expire_inflight(struct mc_path *path, uint64_t now)
{
	struct mc_lane *lane = path->lane;
	/* What waits for its flush has left the list, and the flush itself has no deadline. */
	bool stuck = any_expired(path->unflushed, now) || any_expired(path->flush_list, now);

	for (struct mc_hslice *hs = path->inflight_list, *next; hs; hs = next) {
		int r;

		next = hs->next;
		if (!hs->piece.run || hs->cancelling || !mc_run_expired(hs->piece.run, now))
			continue;
		hs->cancelling = true;
		if (!mc_stage_with_plugin(hs)) {
			mc_stage_cancel(hs);
			continue;
		}
		lane->inside = true;
		r = lane->ops->cancel(lane->inst, &hs->s);
		lane->inside = false;
		stuck |= r < 0;
	}
	if (stuck && !mc_path_is(path, MC_PATH_FENCING))
		mc_path_break_request(path, -ETIMEDOUT, "a request on it was cancelled or is past its deadline");
}

void mc_lane_expire(struct mc_lane *lane, uint64_t now_ns)
{
	for (struct mc_path *path = lane->paths, *next; path; path = next) {
		next = path->next;
		if (path->queue || path->held_valid)
			expire_queue(path, now_ns);
		/* It may have stopped for want of memory or slices, which others hold. */
		if (path->queue || path->held_valid)
			mc_path_set_ready(path);
		expire_inflight(path, now_ns);
		mc_path_decay(path, now_ns);
	}
}

/* ---- the lane as a client of its worker --------------------------------------------------------------------------- */

static struct mc_lane *lane_of(struct mc_client *c)
{
	return MC_CONTAINER_OF(c, struct mc_lane, client);
}

static void attend(struct mc_lane *lane)
{
	while (lane->attend) {
		struct mc_path *path = lane->attend;

		lane->attend = path->next_attend;
		path->in_attend = false;
		mc_path_attended(path);
	}
}

static int take_any(struct mc_lane *lane)
{
	struct mc_hslice *list;
	int n = 0;

	if (MC_LIKELY(!atomic_load_explicit(&lane->any_done, memory_order_relaxed)))
		return 0;
	for (list = atomic_exchange(&lane->any_done, NULL); list; n++) {
		struct mc_hslice *hs = list;

		list = hs->any_next;
		mc_slice_complete(hs, hs->status, hs->scope, hs->s.len);
	}
	return n;
}

static int pump_ready(struct mc_lane *lane)
{
	if (!lane->ready && !lane->flush_due)
		return 0;
	pump_lane(lane);
	return 1;
}

static int lane_progress(struct mc_client *c, uint64_t now)
{
	struct mc_lane *lane = lane_of(c);
	int n, r;

	lane->now = now;
	lane->handled = 0;
	/* First what is to go, since it may be done at once; then what that, or another one's end, made room for. */
	n = pump_ready(lane);
	r = lane->ops->progress(lane->inst);
	n += MC_MAX(r, 0);
	n += take_any(lane);
	if (lane->attend)
		attend(lane);
	n += pump_ready(lane);
	return n + (int)lane->handled;
}

static int lane_arm(struct mc_client *c)
{
	struct mc_lane *lane = lane_of(c);

	if (lane->ready || lane->attend || atomic_load(&lane->any_done))
		return -EBUSY;
	return lane->ops->arm(lane->inst) == -EBUSY ? -EBUSY : 0;
}

static void lane_tick(struct mc_client *c, uint64_t now_ns)
{
	struct mc_lane *lane = lane_of(c);
	bool busy = false;

	mc_lane_expire(lane, now_ns);
	for (struct mc_path *path = lane->paths; path && !busy; path = path->next)
		busy = path->queue || path->held_valid || path->inflight_list || path->orphans ||
		       path->unflushed;
	c->busy = busy;
}

static void lane_frozen(struct mc_client *c)
{
	struct mc_lane *lane = lane_of(c);

	for (struct mc_path *path = lane->paths, *next; path; path = next) {
		next = path->next;
		mc_path_break(path, -ETIMEDOUT, "this process was frozen");
	}
}

const struct mc_client_ops mc_lane_client_ops = {
	.progress = lane_progress,
	.arm = lane_arm,
	.tick = lane_tick,
	.frozen = lane_frozen,
};
