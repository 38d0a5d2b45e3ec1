/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Staging: the life of a piece that is carried through chunks, and its local half.
 * The half at the target is asked for in stage_remote.c.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "stage.h"

#define SLAB_STAGES 32
/* A path holds no more; further pieces wait in their runs. */
#define PATH_STAGES 256

struct mc_stage_slab {
	struct mc_stage_slab *next;
	struct mc_stage stages[SLAB_STAGES];
};

/* ---- objects -------------------------------------------------------------------------------------------- */

static struct mc_stage *stage_get(struct mc_stage_lane *sl)
{
	struct mc_stage *st = sl->free;

	if (MC_UNLIKELY(!st)) {
		struct mc_stage_slab *slab = calloc(1, sizeof *slab);

		if (!slab)
			return NULL;
		slab->next = sl->slabs;
		sl->slabs = slab;
		for (size_t i = 0; i < SLAB_STAGES; i++) {
			slab->stages[i].next = sl->free;
			sl->free = &slab->stages[i];
		}
		st = sl->free;
	}
	sl->free = st->next;
	return st;
}

void mc_stage_slabs_free(struct mc_stage_lane *sl)
{
	while (sl->slabs) {
		struct mc_stage_slab *next = sl->slabs->next;

		free(sl->slabs);
		sl->slabs = next;
	}
}

/* Wake every path that waits for a chunk: the ready list keeps their turns. */
static void wake_waiters(struct mc_lane *lane)
{
	for (struct mc_path *path = lane->paths; path; path = path->next)
		if (path->stage_wait)
			mc_path_set_ready(path);
}

void mc_stage_drop(struct mc_hslice *hs)
{
	struct mc_stage *st = hs->stage;
	struct mc_path *path = hs->path;
	struct mc_stage_lane *sl = path->lane->stage;

	if (st->granted)
		mc_stage_release(st);
	if (st->prev)
		st->prev->next = st->next;
	else
		path->stages = st->next;
	if (st->next)
		st->next->prev = st->prev;
	path->nr_stages--;
	if (st->chunk) {
		path->nr_chunks--;
		mc_stage_give(&sl->own, st->chunk);
		wake_waiters(path->lane);
	}
	hs->stage = NULL;
	hs->s.len = hs->piece.len;
	st->next = sl->free;
	sl->free = st;
}

void mc_stage_finish(struct mc_stage *st, int status, int scope)
{
	struct mc_hslice *hs = st->hs;
	struct mc_path *path = hs->path;

	/* What the target has acknowledged needs no flush. */
	hs->visible = st->mode & MC_STAGE_REMOTE;
	mc_stage_drop(hs);
	mc_slice_complete(hs, status, scope, status < 0 ? 0 : hs->piece.len);
	if (mc_path_is(path, MC_PATH_FENCING))
		mc_path_attend(path);
}

int mc_stage_over(const struct mc_stage *st, int *ret_scope)
{
	struct mc_path *path = st->hs->path;
	int expired;

	if (!mc_path_is(path, MC_PATH_UP)) {
		*ret_scope = MC_SCOPE_PEER;
		return path->break_status < 0 ? path->break_status : -ECONNRESET;
	}
	if (!st->hs->cancelling)
		return 0;
	expired = mc_run_expired(st->hs->piece.run, mc_now_ns());
	*ret_scope = MC_SCOPE_REQUEST;
	return expired ? expired : -ECANCELED;
}

/* ---- the local copy -------------------------------------------------------------------------------------- */

static void round_start(struct mc_stage *st)
{
	if (st->mode & MC_STAGE_REMOTE)
		mc_stage_ask(st);
	else
		mc_stage_wire(st);
}

static void copy_done(struct mc_stage_copy *c, int status)
{
	struct mc_stage *st = MC_CONTAINER_OF(c, struct mc_stage, copy);
	int scope = MC_SCOPE_REQUEST;

	if (!status && st->hs->s.opcode == MC_OP_WRITE)
		status = mc_stage_over(st, &scope);
	if (status < 0)
		mc_stage_finish(st, status, scope);
	else if (st->hs->s.opcode == MC_OP_READ)
		mc_stage_finish(st, 0, MC_SCOPE_NONE);
	else
		round_start(st);
}

static void copy_local(struct mc_stage *st)
{
	const struct mc_piece *piece = &st->hs->piece;
	const struct mc_local_buf *buf = piece->run->lbuf;
	int r;

	st->phase = MC_STAGE_COPY;
	st->copy.lane = st->hs->path->lane;
	st->copy.done = copy_done;
	st->copy.copy = (struct mc_copy){
		.mem = (void *)(uintptr_t)mc_piece_local(piece), .hostptr = st->chunk->addr,
		.len = piece->len, .kind = buf->kind, .ordinal = buf->ordinal,
		.to_host = st->hs->s.opcode == MC_OP_WRITE,
	};
	r = mc_stage_copy(&st->copy);
	if (r)
		copy_done(&st->copy, MC_MIN(r, 0));
}

/* ---- the wire ---------------------------------------------------------------------------------------------- */

static void fill_slice(struct mc_stage *st)
{
	struct mc_slice *s = &st->hs->s;
	const struct mc_piece *piece = &st->hs->piece;
	struct mc_stage_lane *sl = st->hs->path->lane->stage;

	if (st->mode & MC_STAGE_LOCAL) {
		s->local = st->chunk->addr + st->done;
		s->region = sl->own.region;
		s->local_kind = "cpu";
		s->local_ordinal = -1;
	} else {
		s->local = (void *)(uintptr_t)(mc_piece_local(piece) + st->done);
	}
	if (st->mode & MC_STAGE_REMOTE) {
		s->len = st->part;
		s->remote_offset = st->addr;
		s->remote = st->import->area;
	}
}

void mc_stage_wire(struct mc_stage *st)
{
	struct mc_hslice *hs = st->hs;
	struct mc_path *path = hs->path;
	struct mc_lane *lane = path->lane;
	int r = -EAGAIN;

	fill_slice(st);
	st->phase = MC_STAGE_WIRE;
	if (!path->parked) {
		lane->inside = true;
		r = lane->ops->submit(lane->inst, &hs->s);
		lane->inside = false;
		lane->flush_due = true;
	}
	if (r == -EAGAIN) {
		st->phase = MC_STAGE_READY;
			path->parked = path->stage_due = true;
	} else if (r) {
		mc_slice_complete(hs, MC_MIN(r, 0), r < 0 ? mc_scope_of_submit(r) : MC_SCOPE_NONE,
				  r < 0 ? 0 : hs->s.len);
	}
}

void mc_stage_round_done(struct mc_stage *st)
{
	st->done += st->part;
	if (st->done < st->hs->piece.len)
		mc_stage_ask(st);
	else if (st->hs->s.opcode == MC_OP_READ && (st->mode & MC_STAGE_LOCAL))
		copy_local(st);
	else
		mc_stage_finish(st, 0, MC_SCOPE_NONE);
}

/* A remote WRITE is in the target's chunk: let it be visible there, then have it copied. */
static void written(struct mc_stage *st)
{
	struct mc_hslice *hs = st->hs;
	struct mc_path *path = hs->path;

	if (path->caps.visibility != MC_VISIBLE_AFTER_FLUSH) {
		mc_stage_commit(st);
		return;
	}
	st->phase = MC_STAGE_FLUSHING;
	mc_inflight_remove(path, hs);
	hs->next = path->unflushed;
	path->unflushed = hs;
}

void mc_stage_flushed(struct mc_hslice *hs)
{
	struct mc_stage *st = hs->stage;
	int scope, status = mc_stage_over(st, &scope);

	mc_inflight_add(hs->path, hs);
	if (status < 0 && hs->cancelling)
		mc_stage_abort(st);
	else if (status < 0)
		mc_stage_finish(st, status, scope);
	else
		mc_stage_commit(st);
}

bool mc_stage_took(struct mc_hslice *hs, int status, int scope)
{
	struct mc_stage *st = hs->stage;

	hs->path->lane->handled++;
	if (status == 0 && !mc_path_is(hs->path, MC_PATH_UP)) {
		mc_stage_finish(st, hs->path->break_status < 0 ? hs->path->break_status : -ECONNRESET,
				MC_SCOPE_PEER);
		return true;
	}
	if (status < 0 || (st->mode == MC_STAGE_LOCAL && hs->s.opcode == MC_OP_WRITE)) {
		/* A peer that is being fenced takes its chunks back itself, once nothing writes there. */
		if (scope >= MC_SCOPE_PEER)
			st->granted = false;
		mc_stage_drop(hs);
		return false;
	}
	if (hs->s.opcode == MC_OP_WRITE) {
		if (hs->cancelling)
			mc_stage_abort(st);
		else
			written(st);
		return true;
	}
	if (st->mode & MC_STAGE_REMOTE)
		mc_stage_release(st);
	else
		st->part = hs->piece.len;
	mc_stage_round_done(st);
	return true;
}

/* ---- what the path asks for ------------------------------------------------------------------------------------ */

static bool hold(struct mc_path *path, const struct mc_piece *piece)
{
	path->held = *piece;
	path->held_valid = true;
	return false;
}

static struct mc_stage *stage_new(struct mc_path *path, struct mc_stage_lane *sl,
				  const struct mc_piece *piece, struct mc_import *imp,
				  struct mc_stage_chunk *chunk)
{
	struct mc_hslice *hs = mc_slice_get(path->lane);
	struct mc_stage *st = hs ? stage_get(sl) : NULL;

	if (!st) {
		if (hs)
			mc_slice_put(path->lane, hs);
		return NULL;
	}
	memset(st, 0, sizeof *st);
	st->hs = hs;
	st->mode = piece->stage;
	st->chunk = chunk;
	path->nr_chunks += chunk != NULL;
	mc_slice_fill(hs, path, piece, imp);
	hs->stage = st;
	mc_inflight_add(path, hs);
	st->next = path->stages;
	if (st->next)
		st->next->prev = st;
	path->stages = st;
	path->nr_stages++;
	return st;
}

bool mc_stage_submit(struct mc_path *path, const struct mc_piece *piece, struct mc_import *imp)
{
	struct mc_stage_lane *sl = mc_stage_lane_get(path->lane);
	struct mc_stage_chunk *chunk = NULL;
	struct mc_stage *st;
	int r = sl ? 0 : -ENOMEM;

	path->stage_wait = false;
	if (path->nr_stages >= PATH_STAGES)
		return hold(path, piece); /* woken when one ends */
	if (!r && (piece->stage & MC_STAGE_LOCAL))
		r = mc_stage_take(&sl->own, path->nr_chunks, &chunk);
	if (r == -EAGAIN) {
		path->stage_wait = true;
		return hold(path, piece);
	}
	if (r < 0) {
		mc_piece_end(piece, r, MC_SCOPE_NIC);
		return true;
	}
	/* A piece of another try may come from a path with larger chunks. */
	MC_ASSERT(!chunk || piece->len <= sl->own.chunk);
	st = stage_new(path, sl, piece, imp, chunk);
	if (!st) {
		if (chunk)
			mc_stage_give(&sl->own, chunk);
		return hold(path, piece);
	}
	if (chunk && st->hs->s.opcode == MC_OP_WRITE)
		copy_local(st);
	else
		round_start(st);
	return true;
}

void mc_stage_pump(struct mc_path *path)
{
	path->stage_due = false;
	for (struct mc_stage *st = path->stages, *next; st; st = next) {
		next = st->next;
		if (st->phase == MC_STAGE_IMPORT)
			mc_stage_import(st);
		else if (st->phase == MC_STAGE_READY && !path->parked)
			mc_stage_wire(st);
		else if (st->phase == MC_STAGE_READY)
			path->stage_due = true;
	}
}

void mc_stage_cancel(struct mc_hslice *hs)
{
	struct mc_stage *st = hs->stage;
	int status, scope;

	switch (st->phase) {
	case MC_STAGE_READY:
		if (!(st->mode & MC_STAGE_REMOTE)) {
			status = mc_stage_over(st, &scope);
			if (status < 0)
				mc_stage_finish(st, status, scope);
			break;
		}
		/* fall through */
	case MC_STAGE_ASKED:
	case MC_STAGE_IMPORT:
	case MC_STAGE_COMMITTED:
		mc_stage_abort(st);
		break;
	case MC_STAGE_COPY:     /* ends by itself, soon */
	case MC_STAGE_FLUSHING: /* likewise */
	case MC_STAGE_WIRE:
	case MC_STAGE_ABORTING:
		break;
	}
}

void mc_stage_broken(struct mc_path *path, int status)
{
	for (struct mc_stage *st = path->stages, *next; st; st = next) {
		next = st->next;
		/* The target takes its chunk back when it is fenced. */
		st->granted = false;
		if (st->phase != MC_STAGE_COPY && st->phase != MC_STAGE_WIRE &&
		    st->phase != MC_STAGE_FLUSHING)
			mc_stage_finish(st, status, MC_SCOPE_PEER);
	}
}
