/* SPDX-License-Identifier: Apache-2.0 */
/* Cases: peers that are fenced, reconnected, stopped, slow or talk nonsense. */
#include "cases.h"

#include <string.h>

struct turns {
	int left;
};

static bool few_turns(void *ctx)
{
	return ((struct turns *)ctx)->left-- <= 0;
}

/* ---- fences ------------------------------------------------------------------------------------------- */

/* Fence with slices under way: afterwards nothing moves, whatever the loops still do (P2). */
static int fence_after(struct ctx *c, struct pair *p, struct bufs *b, enum mc_opcode op, int nr_turns)
{
	struct fake_buf *dest = op == MC_OP_WRITE ? b->target : b->local;
	struct turns t = { nr_turns };
	struct deep d = { .nr = 0 };
	int r;

	fake_buf_fill(b->local, 0, b->local->len, 1);
	fake_buf_fill(b->target, 0, b->target->len, 2);
	r = deep_submit(c, p, b, op, &d);
	if (r != PASS)
		return r;
	fake_run(p->w, few_turns, &t, 50 * MC_MSEC);
	r = fake_peer_fence(p->peer, BOUND);
	CHECK(r == 0, "fence at both ends does not end: %d", r);
	CHECK(deep_over(&d), "fenced came before every slice had completed");
	for (unsigned i = 0; i < d.nr; i++)
		CHECK(d.s[i]->status == 0 || d.s[i]->scope == MC_SCOPE_PEER,
		      "a fenced slice ended with %d, scope %d", d.s[i]->status, d.s[i]->scope);
	fake_buf_fill(dest, 0, dest->len, 3);
	fake_run(p->w, never, NULL, 30 * MC_MSEC);
	CHECK(fake_buf_check(dest, 0, dest->len, 3) < 0, "bytes move after the fence (%s, %d turns)",
	      op == MC_OP_WRITE ? "write" : "read", nr_turns);
	deep_free(&d);
	return PASS;
}

static int again_after(struct ctx *c, struct pair *p, struct bufs *b, bool reattach)
{
	int r;

	if (reattach) {
		r = fake_peer_reattach(p->peer);
		CHECK(r == 0, "no new streams: %d", r);
		r = fake_peer_wait(p->peer, BOUND);
		CHECK(r == 0, "the peer does not get ready on streams of a new epoch: %d %s", r, p->peer->why);
		return works(c, p, b, 21);
	}
	fake_peer_close(p->peer);
	r = pair_connect(c, p);
	b->remote = r == PASS ? fake_remote_find(p->peer, b->target->base) : NULL;
	return r == PASS ? works(c, p, b, 22) : r;
}

static int case_fence(struct ctx *c)
{
	static const int turns[] = { 0, 1, 2, 5, 20 };
	struct pair p;
	struct bufs b;
	int r = pair_open(c, &p, 0, true);

	if (r == PASS && (p.a->caps.flags & MC_CAP_SYNC))
		return skip(c, "nothing is ever in flight (MC_CAP_SYNC)");
	if (r == PASS)
		r = bufs_open(c, &p, (uint64_t)DEEP * PIECE, NULL, NULL, MC_ACCESS_ALL, &b);
	for (unsigned i = 0; i < 10 && r == PASS; i++) {
		r = fence_after(c, &p, &b, i & 1 ? MC_OP_READ : MC_OP_WRITE, turns[i / 2]);
		if (r == PASS)
			r = again_after(c, &p, &b, p.a->caps.streams && i % 3);
	}
	if (r == PASS)
		r = bufs_close(c, &p, &b);
	return r == PASS ? pair_close(c, &p) : r;
}

/* ---- stop and close --------------------------------------------------------------------------------------- */

static int stop_one(struct ctx *c, bool the_target)
{
	struct pair p;
	struct bufs b;
	struct deep d = { .nr = 0 };
	int r = pair_open(c, &p, 0, true), got;

	if (r == PASS)
		r = bufs_open(c, &p, (uint64_t)DEEP * PIECE, NULL, NULL, MC_ACCESS_ALL, &b);
	if (r == PASS)
		r = deep_submit(c, &p, &b, MC_OP_WRITE, &d);
	if (r != PASS)
		return r;
	if (the_target) {
		got = fake_close(p.b, BOUND);
		CHECK(got == 0, "close of the target does not end");
		p.b = NULL;
		/* What the core does with a peer that went: its end alone. */
		if (!deep_over(&d)) {
			p.peer->gone = true;
			got = fake_peer_fence(p.peer, BOUND);
			CHECK(got == 0, "fence does not end after the target is gone");
		}
	} else {
		fake_stop(p.a);
	}
	got = fake_run_on(p.a, deep_over, &d, BOUND);
	CHECK(got == 0, "%u slices never complete", p.a->nr_inflight);
	deep_free(&d);
	return pair_close(c, &p);
}

static int case_stop(struct ctx *c)
{
	return stop_one(c, false);
}

static int case_target_closes(struct ctx *c)
{
	return stop_one(c, true);
}

/* ---- two peers -------------------------------------------------------------------------------------------------- */

static int case_two_peers(struct ctx *c)
{
	struct fake_inst *slow = NULL;
	struct fake_link *la, *lslow;
	struct fake_peer *first;
	struct bufs b, bslow;
	struct deep d = { .nr = 0 };
	struct mc_error err = { 0 };
	struct pair p, q;
	int r = pair_open(c, &p, 0, true);

	if (r == PASS)
		r = bufs_open(c, &p, (uint64_t)DEEP * PIECE, NULL, NULL, MC_ACCESS_ALL, &b);
	if (r != PASS)
		return r;
	CHECK(open_one(c, p.w, &slow, &err) == 0, "open: %s", err.text);
	CHECK(fake_link(p.a, slow, &la, &lslow) == 0, "no link");
	first = p.peer;
	q = p;
	q.b = slow;
	q.la = la;
	r = pair_connect(c, &q);
	if (r == PASS)
		r = bufs_open(c, &q, (uint64_t)DEEP * PIECE, NULL, NULL, MC_ACCESS_ALL, &bslow);
	if (r != PASS)
		return r;
	slow->paused = true;
	r = deep_submit(c, &q, &bslow, MC_OP_WRITE, &d);
	p.peer = first;
	for (uint64_t i = 0; i < 20 && r == PASS; i++)
		r = works(c, &p, &b, i + 1); /* while the other stands still */
	slow->paused = false;
	if (r != PASS)
		return r;
	CHECK(fake_run_on(p.a, deep_over, &d, BOUND) == 0, "the slow peer's slices never complete");
	for (unsigned i = 0; i < d.nr; i++)
		CHECK(d.s[i]->status == 0, "the slow peer's slice ended with %d", d.s[i]->status);
	deep_free(&d);
	r = works(c, &q, &bslow, 50);
	if (r == PASS)
		r = bufs_close(c, &q, &bslow);
	fake_peer_close(q.peer);
	fake_close(slow, BOUND);
	if (r == PASS)
		r = bufs_close(c, &p, &b);
	return r == PASS ? pair_close(c, &p) : r;
}

static int case_reconnect(struct ctx *c)
{
	struct pair p;
	struct bufs b;
	int r = pair_open(c, &p, 0, true);

	if (r == PASS)
		r = bufs_open(c, &p, 65536, NULL, NULL, MC_ACCESS_ALL, &b);
	for (uint64_t i = 0; i < 50 && r == PASS; i++) {
		r = works(c, &p, &b, i + 1);
		fake_peer_close(p.peer);
		if (r == PASS)
			r = pair_connect(c, &p);
		b.remote = r == PASS ? fake_remote_find(p.peer, b.target->base) : NULL;
	}
	/* Closed while it connects. */
	for (int i = 0; i < 5 && r == PASS; i++) {
		struct fake_peer *early;
		struct turns t = { i };

		CHECK(fake_peer_open(p.a, p.la, &early) == 0, "peer_open fails");
		fake_run(p.w, few_turns, &t, 20 * MC_MSEC);
		fake_peer_close(early);
	}
	if (r == PASS)
		r = works(c, &p, &b, 99);
	if (r == PASS)
		r = bufs_close(c, &p, &b);
	return r == PASS ? pair_close(c, &p) : r;
}

/* ---- an end that never answers ------------------------------------------------------------------------ */

#define SILENCE MC_SEC

static bool answered(void *ctx)
{
	return ((struct fake_peer *)ctx)->nr_ready > 0;
}

static int case_silent_peer(struct ctx *c)
{
	struct pair p;
	uint64_t begin;
	int r = pair_open(c, &p, 0, false);

	if (r != PASS)
		return r;
	fake_peer_deadline(p.w, SILENCE);
	begin = fake_real_ns();
	CHECK(fake_peer_open(p.a, p.la, &p.peer) == 0, "peer_open fails at once");
	p.b->paused = true;
	r = fake_run_on(p.a, answered, p.peer, SILENCE + 2 * MC_SEC);
	CHECK(r == 0, "peer_ready does not come within %u ms, the deadline was %u: the other end never answers",
	      (unsigned)((fake_real_ns() - begin) / MC_MSEC), (unsigned)(SILENCE / MC_MSEC));
	if (p.peer->status == 0)
		return skip(c, "it is ready without an answer of the other end");
	fake_peer_fence(p.peer, 0); /* the other end answers nothing */
	fake_peer_deadline(p.w, 0);
	fake_peer_close(p.peer);
	p.b->paused = false;
	r = pair_connect(c, &p);
	return r == PASS ? pair_close(c, &p) : r;
}

/* ---- nonsense ----------------------------------------------------------------------------------------------------- */

/* A hostile peer may break its own connection; the process and others go on. */
static int case_nonsense(struct ctx *c)
{
	static const size_t lengths[] = { 0, 1, 3, 8, 16, 48, 512, MC_PEER_MSG_MAX };
	struct pair p;
	struct bufs b;
	struct fake_peer *other;
	unsigned char msg[MC_PEER_MSG_MAX];
	int r = pair_open(c, &p, 0, true);

	if (r == PASS && !fake_has(&c->plugin, peer_msg))
		return skip(c, "no handshake messages");
	if (r != PASS)
		return r;
	for (unsigned i = 0; i < 8 * 4; i++) {
		for (size_t j = 0; j < sizeof msg; j++)
			msg[j] = (unsigned char)(i < 8 ? 0 : i < 16 ? 0xff : (j * 31 + i) >> (i & 3));
		other = fake_peer_other(p.peer);
		if (p.peer->open)
			p.a->ops->peer_msg(p.a->priv, p.peer->area, msg, lengths[i % 8]);
		if (other && other->open)
			p.b->ops->peer_msg(p.b->priv, other->area, msg, lengths[i % 8]);
		fake_run(p.w, NULL, NULL, BOUND);
		if (p.peer->open && p.peer->ready)
			continue;
		CHECK(fake_peer_fence(p.peer, BOUND) == 0, "the fence does not end");
		fake_peer_close(p.peer);
		r = pair_connect(c, &p);
		if (r != PASS)
			return r;
	}
	fake_peer_close(p.peer);
	r = pair_connect(c, &p);
	if (r == PASS)
		r = bufs_open(c, &p, 65536, NULL, NULL, MC_ACCESS_ALL, &b);
	if (r == PASS)
		r = works(c, &p, &b, 1);
	if (r == PASS)
		r = bufs_close(c, &p, &b);
	return r == PASS ? pair_close(c, &p) : r;
}

const struct test_case peer_cases[] = {
	{ BEHAVES, "reconnect", case_reconnect, 6 },
	{ BEHAVES, "fence", case_fence, 6 },
	{ BEHAVES, "stop", case_stop, 4 },
	{ BEHAVES, "target-closes", case_target_closes, 6 },
	{ BEHAVES, "two-peers", case_two_peers, 6 },
	{ BEHAVES, "silent-peer", case_silent_peer, 4 },
	{ BEHAVES, "nonsense", case_nonsense, 4 },
	{ .run = NULL },
};
