/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Staging for peers: lends chunks of the lane's pool, fills them before a READ and
 * empties them after a WRITE.  Every range is checked against our own buffers
 * when it is asked for and again, holding the buffer, when it is copied (P4).
 */
#include <errno.h>
#include <stdlib.h>

#include "log.h"
#include "segment.h"
#include "stage.h"

/* A peer that asks for more at a time is refused. */
#define GRANTS_MAX 1024

static void answer(struct mc_path *path, uint16_t type, int status, const struct mc_stage_msg *msg)
{
	uint8_t body[MC_STAGE_MSG_MAX];
	size_t len = mc_stage_put(type, msg, body);
	int r = mc_path_send(path, type, status, body, len);

	if (r < 0)
		mc_debug("peer '%s': a staging answer is lost: the control connection takes no message",
			 path->session->peer->name);
}

static void answer_tag(struct mc_path *path, uint16_t type, int status, uint64_t tag)
{
	answer(path, type, status, &(struct mc_stage_msg){.tag = tag});
}

/* ---- grants ---------------------------------------------------------------------------------------------- */

static struct mc_grant *find(struct mc_path *path, uint64_t tag)
{
	struct mc_grant *g = path->grants;

	while (g && g->tag != tag)
		g = g->next;
	return g;
}

static void unqueue(struct mc_stage_lane *sl, struct mc_grant *g)
{
	struct mc_grant **at = &sl->queue;

	while (*at != g)
		at = &(*at)->queue_next;
	*at = g->queue_next;
	if (!*at)
		sl->queue_tail = at;
}

/* Forget a grant; its chunk goes back to the pool, from where others get it next. */
static void grant_free(struct mc_grant *g)
{
	struct mc_path *path = g->path;
	struct mc_stage_lane *sl = path->lane->stage;
	struct mc_grant **at = &path->grants;

	while (*at != g)
		at = &(*at)->next;
	*at = g->next;
	path->nr_grants--;
	if (g->phase == MC_GRANT_QUEUED)
		unqueue(sl, g);
	if (g->chunk) {
		path->nr_chunks--;
		mc_stage_give(&sl->lent, g->chunk);
	}
	free(g);
}

static struct mc_local_buf *check_range(const struct mc_grant *g, uint64_t len)
{
	const struct mc_session *session = g->path->session;
	uint32_t access = g->opcode == MC_OP_READ ? MC_ACCESS_REMOTE_READ : MC_ACCESS_REMOTE_WRITE;

	if (session->denied & access)
		return NULL;
	return mc_local_find_range(session->engine, g->offset, len, access);
}

static void say_granted(struct mc_grant *g)
{
	struct mc_path *path = g->path;
	const struct mc_stage_pool *pool = &((struct mc_stage_lane *)path->lane->stage)->lent;
	struct mc_stage_msg msg = {
		.tag = g->tag, .addr = (uintptr_t)g->chunk->addr, .len = g->part,
		.base = (uintptr_t)pool->base, .region_len = pool->nr * pool->chunk,
		.pool = MC_STAGE_POOL_BIT | (uint32_t)path->lane->device->idx << 16 | path->lane->idx,
		.blob = pool->blob, .blob_len = pool->blob_len,
	};

	g->phase = MC_GRANT_GRANTED;
	answer(path, MC_MSG_STAGE_GRANT, 0, &msg);
}

/* ---- copies ------------------------------------------------------------------------------------------------ */

static void copy_ended(struct mc_grant *g, int status)
{
	struct mc_path *path = g->path;
	struct mc_stage_lane *sl = path->lane->stage;

	mc_local_put(g->buf);
	g->buf = NULL;
	path->nr_copies--;
	if (!mc_path_is(path, MC_PATH_UP)) {
		g->phase = MC_GRANT_GRANTED;
		mc_path_attend(path); /* the fence waits for this */
		return;
	}
	if (g->phase == MC_GRANT_FILLING && !g->aborted && status == 0) {
		say_granted(g);
		return;
	}
	if (g->aborted)
		answer_tag(path, MC_MSG_STAGE_ABORTED, 0, g->tag);
	else
		answer_tag(path, g->phase == MC_GRANT_FILLING ? MC_MSG_STAGE_GRANT : MC_MSG_STAGE_ACK, status,
			   g->tag);
	g->phase = MC_GRANT_GRANTED;
	grant_free(g);
	mc_stage_serve_next(sl);
}

static void copy_done(struct mc_stage_copy *c, int status)
{
	copy_ended(MC_CONTAINER_OF(c, struct mc_grant, copy), status);
}

/* Copy between the chunk and the buffer; -EACCES if the buffer is not ours to touch (any more). */
static int copy_start(struct mc_grant *g)
{
	struct mc_path *path = g->path;
	int r;

	g->buf = check_range(g, g->part);
	if (!g->buf)
		return -EACCES;
	g->phase = g->opcode == MC_OP_READ ? MC_GRANT_FILLING : MC_GRANT_DRAINING;
	path->nr_copies++;
	g->copy.lane = path->lane;
	g->copy.done = copy_done;
	g->copy.copy = (struct mc_copy){
		.mem = (void *)(uintptr_t)g->offset, .hostptr = g->chunk->addr, .len = g->part,
		.kind = g->buf->kind, .ordinal = g->buf->ordinal, .to_host = g->opcode == MC_OP_READ,
	};
	r = mc_stage_copy(&g->copy);
	if (r)
		copy_ended(g, MC_MIN(r, 0));
	return 0;
}

/* ---- lending ------------------------------------------------------------------------------------------------- */

static void lend(struct mc_grant *g, struct mc_stage_lane *sl, struct mc_stage_chunk *chunk)
{
	unqueue(sl, g);
	g->chunk = chunk;
	g->path->nr_chunks++;
	g->part = MC_MIN(g->len, sl->lent.chunk);
	g->phase = MC_GRANT_GRANTED;
	if (g->opcode == MC_OP_WRITE) {
		say_granted(g);
	} else if (copy_start(g) < 0) {
		answer_tag(g->path, MC_MSG_STAGE_GRANT, -EACCES, g->tag);
		grant_free(g);
	}
}

/* Lending may end a copy at once and so come back to us: only the outermost call walks the queue. */
void mc_stage_serve_next(struct mc_stage_lane *sl)
{
	struct mc_grant *g;

	if (sl->serving) {
		sl->serve_again = true;
		return;
	}
	sl->serving = true;
	do {
		sl->serve_again = false;
		for (g = sl->queue; g; g = g->queue_next) {
			struct mc_stage_chunk *chunk;
			int r = mc_stage_take(&sl->lent, g->path->nr_chunks, &chunk);

			if (r == -EAGAIN)
				continue; /* another path may have room */
			if (r < 0) {
				answer_tag(g->path, MC_MSG_STAGE_GRANT, r, g->tag);
				grant_free(g);
			} else {
				lend(g, sl, chunk);
			}
			sl->serve_again = true;
			break;
		}
	} while (sl->serve_again);
	sl->serving = false;
}

static int request_check(const struct mc_path *path, const struct mc_stage_msg *m)
{
	struct mc_engine *engine = path->session->engine;
	struct mc_local_buf *buf;

	if (m->generation != engine->generation)
		return -ESTALE;
	if (!engine->set->staging_pool)
		return -EOPNOTSUPP;
	if (path->nr_grants >= GRANTS_MAX)
		return -ENOBUFS;
	buf = mc_local_find_range(engine, m->offset, m->len,
				  m->opcode == MC_OP_READ ? MC_ACCESS_REMOTE_READ : MC_ACCESS_REMOTE_WRITE);
	if (!buf)
		return -EACCES;
	mc_local_put(buf);
	return 0;
}

static void request(struct mc_path *path, const struct mc_stage_msg *m)
{
	struct mc_stage_lane *sl = mc_stage_lane_get(path->lane);
	int r = sl ? request_check(path, m) : -ENOMEM;
	struct mc_grant *g = r ? NULL : calloc(1, sizeof *g);

	if (!g) {
		answer_tag(path, MC_MSG_STAGE_GRANT, r ? r : -ENOMEM, m->tag);
		return;
	}
	g->path = path;
	g->tag = m->tag;
	g->offset = m->offset;
	g->len = m->len;
	g->opcode = m->opcode;
	g->phase = MC_GRANT_QUEUED;
	g->next = path->grants;
	path->grants = g;
	path->nr_grants++;
	*sl->queue_tail = g;
	sl->queue_tail = &g->queue_next;
	mc_stage_serve_next(sl);
}

static void commit(struct mc_path *path, struct mc_grant *g, uint64_t tag)
{
	if (!g || g->phase != MC_GRANT_GRANTED || g->opcode != MC_OP_WRITE) {
		answer_tag(path, MC_MSG_STAGE_ACK, -EPROTO, tag);
	} else if (copy_start(g) < 0) {
		answer_tag(path, MC_MSG_STAGE_ACK, -EACCES, tag);
		grant_free(g);
		mc_stage_serve_next(path->lane->stage);
	}
}

/* The peer is done with a grant; told: it wants to hear that nothing more is copied. */
static void let_go(struct mc_path *path, struct mc_grant *g, uint64_t tag, bool told)
{
	if (g && (g->phase == MC_GRANT_FILLING || g->phase == MC_GRANT_DRAINING)) {
		g->aborted = true; /* answered when the copy has ended */
		return;
	}
	if (told)
		answer_tag(path, MC_MSG_STAGE_ABORTED, 0, tag);
	if (g) {
		grant_free(g);
		mc_stage_serve_next(path->lane->stage);
	}
}

void mc_stage_serve(struct mc_path *path, uint16_t type, const struct mc_stage_msg *msg)
{
	struct mc_grant *g = find(path, msg->tag);

	switch (type) {
	case MC_MSG_STAGE_REQUEST:
		if (g)
			answer_tag(path, MC_MSG_STAGE_GRANT, -EPROTO, msg->tag);
		else
			request(path, msg);
		break;
	case MC_MSG_STAGE_COMMIT:
		commit(path, g, msg->tag);
		break;
	case MC_MSG_STAGE_RELEASE:
		let_go(path, g, msg->tag, false);
		break;
	case MC_MSG_STAGE_ABORT:
		let_go(path, g, msg->tag, true);
		break;
	}
}

void mc_stage_serve_broken(struct mc_path *path)
{
	for (struct mc_grant *g = path->grants, *next; g; g = next) {
		next = g->next;
		if (g->phase == MC_GRANT_QUEUED)
			grant_free(g);
	}
}

void mc_stage_serve_end(struct mc_path *path)
{
	bool any = path->grants;

	while (path->grants)
		grant_free(path->grants);
	if (any)
		mc_stage_serve_next(path->lane->stage);
}
