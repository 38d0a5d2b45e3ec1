/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Why the peer's buffer table does not allow a request: its bounds, the rights
 * that a buffer was registered with, or the peer's access list.  Only what was
 * refused comes here.
 */
#include <errno.h>
#include <inttypes.h>

#include "batch.h"
#include "engine.h"
#include "log.h"
#include "core/util/check.h"

/* Bytes between the request and the buffer; 0: they meet. */
static uint64_t distance(const struct mc_remote_buf *b, uint64_t offset, uint64_t len)
{
	uint64_t end = len > UINT64_MAX - offset ? UINT64_MAX : offset + len;

	if (b->base > end)
		return b->base - end;
	return b->base + b->len < offset ? offset - (b->base + b->len) : 0;
}

static int outside(const struct mc_snapshot *snapshot, uint64_t offset, uint64_t len, const char *what,
		   struct mc_error *err)
{
	const struct mc_remote_buf *near = NULL;

	for (size_t i = 0; i < snapshot->nr; i++)
		if (!near || distance(snapshot->bufs[i], offset, len) < distance(near, offset, len))
			near = snapshot->bufs[i];
	if (!near)
		return mc_fail(err, -EACCES, "%s: it shows no buffer; register memory there with the right to "
			       "be read or written", what);
	return mc_fail(err, -EACCES, "%s: outside of every buffer that it shows; the nearest is %" PRIu64
		       " bytes at %#" PRIx64, what, near->len, near->base);
}

static int without_right(const struct mc_session *s, const struct mc_remote_buf *b, bool read, const char *what,
			 struct mc_error *err)
{
	const char *left = b->access & MC_ACCESS_REMOTE_READ	 ? "read"
			   : b->access & MC_ACCESS_REMOTE_WRITE ? "write"
								 : "none";

	if (b->access & MC_REMOTE_NO_KEYS)
		return mc_fail(err, -EACCES, "%s: its access list leaves '%s' only '%s' of buffer %#" PRIx64
			       "; change `access` there", what, s->engine->name, left, b->base);
	return mc_fail(err, -EACCES, "%s: buffer %#" PRIx64 " was registered there without %s", what, b->base,
		       read ? "MC_ACCESS_REMOTE_READ" : "MC_ACCESS_REMOTE_WRITE");
}

int mc_req_explain(struct mc_session *s, uint32_t opcode, uint64_t offset, uint64_t len, struct mc_error *err)
{
	bool read = opcode == MC_OP_READ;
	struct mc_snapshot *snapshot = mc_session_snapshot(s);
	struct mc_remote_buf *b;
	char what[MC_SEGMENT_NAME_MAX + 96];
	int r = 0;

	snprintf(what, sizeof what, "segment '%s': %s of %" PRIu64 " bytes at %#" PRIx64, s->peer->name,
		 read ? "read" : "write", len, offset);
	if (!snapshot)
		return mc_fail(err, -ENOTCONN, "%s: its buffer table is not here", what);
	b = mc_snapshot_find(snapshot, offset, len);
	if (!b)
		r = outside(snapshot, offset, len, what, err);
	else if (!(b->access & (read ? MC_ACCESS_REMOTE_READ : MC_ACCESS_REMOTE_WRITE)))
		r = without_right(s, b, read, what, err);
	mc_snapshot_unref(snapshot);
	return r;
}

void mc_req_denied(struct mc_session *s, const struct mc_req *req)
{
	struct mc_error why;
	uint32_t dropped;

	if (!mc_ratelimit_ok(&s->denials, 1, &dropped) ||
	    mc_req_explain(s, req->opcode, req->offset, req->len, &why) == 0)
		return;
	if (dropped)
		mc_warn("%s (and %u others)", why.text, dropped);
	else
		mc_warn("%s", why.text);
}
