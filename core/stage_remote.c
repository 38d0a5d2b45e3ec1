/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Staging at the target, as the initiator sees it: ask for a chunk, import its
 * registration, say when it may be copied or is not needed any more.
 */
#include <errno.h>

#include "log.h"
#include "stage.h"

static void say(struct mc_stage *st, uint16_t type, const struct mc_stage_msg *more)
{
	struct mc_path *path = st->hs->path;
	struct mc_stage_msg msg = more ? *more : (struct mc_stage_msg){0};
	uint8_t body[MC_STAGE_MSG_MAX];
	size_t len;
	int r;

	msg.tag = st->tag;
	len = mc_stage_put(type, &msg, body);
	r = mc_path_send(path, type, 0, body, len);
	if (r < 0)
		mc_path_break_soon(path, r, "the control connection takes no message");
}

void mc_stage_ask(struct mc_stage *st)
{
	const struct mc_piece *piece = &st->hs->piece;
	struct mc_path *path = st->hs->path;
	struct mc_stage_msg msg = {
		.generation = path->session->peer->generation,
		.offset = mc_piece_remote(piece) + st->done,
		.len = piece->len - st->done,
		.opcode = st->hs->s.opcode,
	};
	int scope, status = mc_stage_over(st, &scope);

	if (status < 0) {
		mc_stage_finish(st, status, scope);
		return;
	}
	st->phase = MC_STAGE_ASKED;
	st->tag = ++path->stage_tag;
	say(st, MC_MSG_STAGE_REQUEST, &msg);
}

void mc_stage_release(struct mc_stage *st)
{
	st->granted = false;
	if (mc_path_is(st->hs->path, MC_PATH_UP))
		say(st, MC_MSG_STAGE_RELEASE, NULL);
}

void mc_stage_commit(struct mc_stage *st)
{
	st->phase = MC_STAGE_COMMITTED;
	st->granted = false;
	say(st, MC_MSG_STAGE_COMMIT, NULL);
}

void mc_stage_abort(struct mc_stage *st)
{
	st->phase = MC_STAGE_ABORTING;
	st->granted = false;
	say(st, MC_MSG_STAGE_ABORT, NULL);
}

void mc_stage_import(struct mc_stage *st)
{
	if (st->import->status == -EINPROGRESS)
		return;
	if (st->import->status < 0)
		mc_stage_finish(st, st->import->status, MC_SCOPE_REQUEST);
	else if (st->hs->cancelling)
		mc_stage_abort(st);
	else
		mc_stage_wire(st);
}

static void granted(struct mc_stage *st, const struct mc_stage_msg *m)
{
	struct mc_path *path = st->hs->path;
	struct mc_remote_buffer desc = {
		.size = sizeof desc, .base = m->base, .len = m->region_len, .kind = "cpu", .ordinal = -1,
		.access = MC_ACCESS_ALL, .blob = m->blob_len ? m->blob : NULL, .blob_len = m->blob_len,
	};

	st->granted = true;
	if (!path->stage_pool)
		path->stage_pool = m->pool;
	if (path->stage_pool != m->pool || m->len > st->hs->piece.len - st->done) {
		mc_path_break_soon(path, -EPROTO, "the target granted what was not asked for");
		return;
	}
	st->part = m->len;
	st->addr = m->addr;
	st->import = mc_import_find(path, m->pool);
	if (!st->import)
		st->import = mc_import_new(path, m->pool, &desc);
	if (!st->import) {
		mc_stage_finish(st, -ENOMEM, MC_SCOPE_REQUEST);
		return;
	}
	st->phase = MC_STAGE_IMPORT;
	path->stage_due |= st->import->status == -EINPROGRESS;
	mc_stage_import(st);
}

static struct mc_stage *find(struct mc_path *path, uint64_t tag)
{
	struct mc_stage *st = path->stages;

	while (st && (st->tag != tag || !(st->mode & MC_STAGE_REMOTE)))
		st = st->next;
	return st;
}

static void answered(struct mc_path *path, uint16_t type, int status, const struct mc_stage_msg *m)
{
	struct mc_stage *st = find(path, m->tag);
	int scope;

	if (!st)
		return;
	if (type == MC_MSG_STAGE_GRANT && st->phase == MC_STAGE_ASKED) {
		if (status < 0)
			mc_stage_finish(st, status, MC_SCOPE_REQUEST);
		else
			granted(st, m);
	} else if (type == MC_MSG_STAGE_ACK && st->phase == MC_STAGE_COMMITTED) {
		if (status < 0)
			mc_stage_finish(st, status, MC_SCOPE_REQUEST);
		else
			mc_stage_round_done(st);
	} else if (type == MC_MSG_STAGE_ABORTED && st->phase == MC_STAGE_ABORTING) {
		status = mc_stage_over(st, &scope);
		mc_stage_finish(st, status < 0 ? status : -ECANCELED, MC_SCOPE_REQUEST);
	}
}

void mc_stage_message(struct mc_path *path, uint16_t type, int status, const void *body, size_t len)
{
	struct mc_stage_msg msg;

	if (!mc_path_is(path, MC_PATH_UP))
		return;
	status = status < -4095 ? -EPROTO : MC_MIN(status, 0);
	if (mc_stage_parse(type, status, body, len, &msg) < 0) {
		mc_debug("peer '%s': staging message 0x%x of %zu bytes is malformed",
			 path->session->peer->name, type, len);
		mc_path_break_soon(path, -EBADMSG, "a staging message is malformed");
	} else if (path->active) {
		answered(path, type, status, &msg);
	} else {
		mc_stage_serve(path, type, &msg);
	}
}
