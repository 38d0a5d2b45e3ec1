/* SPDX-License-Identifier: Apache-2.0 */
/* Cases: bytes arrive, completions come once, queues fill and drain, ranges are refused. */
#include "cases.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SLACK 8192 /* in front of and behind a range inside its buffer */

/* ---- sizes and kinds ------------------------------------------------------------------------------- */

struct shape {
	uint64_t len, local_off, remote_off;
};

static int one_write(struct ctx *c, struct pair *p, struct bufs *b, const struct shape *s, uint64_t seed)
{
	uint64_t total = b->target->len;
	int r;

	fake_buf_fill(b->target, 0, total, 7);
	fake_buf_fill_at(b->local, s->local_off, s->len, seed, 0);
	r = transfer(p, MC_OP_WRITE, b->local, s->local_off, b->remote, s->remote_off, s->len, NULL);
	CHECK(r == 0, "a write of %llu bytes fails: %d", (unsigned long long)s->len, r);
	r = make_visible(p, b);
	CHECK(r == 0, "the flush after a write of %llu bytes fails: %d", (unsigned long long)s->len, r);
	if (c->no_data)
		return PASS;
	CHECK(fake_buf_check_at(b->target, s->remote_off, s->len, seed, 0) < 0,
	      "a write of %llu bytes (offsets %llu, %llu) brings wrong bytes", (unsigned long long)s->len,
	      (unsigned long long)s->local_off, (unsigned long long)s->remote_off);
	CHECK(fake_buf_check(b->target, 0, s->remote_off, 7) < 0 &&
		      fake_buf_check(b->target, s->remote_off + s->len, total - s->remote_off - s->len, 7) < 0,
	      "a write of %llu bytes changes others", (unsigned long long)s->len);
	return PASS;
}

static int one_read(struct ctx *c, struct pair *p, struct bufs *b, const struct shape *s, uint64_t seed)
{
	uint64_t total = b->local->len;
	int r;

	fake_buf_fill(b->local, 0, total, 7);
	fake_buf_fill_at(b->target, s->remote_off, s->len, seed, 0);
	r = transfer(p, MC_OP_READ, b->local, s->local_off, b->remote, s->remote_off, s->len, NULL);
	CHECK(r == 0, "a read of %llu bytes fails: %d", (unsigned long long)s->len, r);
	if (c->no_data)
		return PASS;
	CHECK(fake_buf_check_at(b->local, s->local_off, s->len, seed, 0) < 0,
	      "a read of %llu bytes (offsets %llu, %llu) brings wrong bytes", (unsigned long long)s->len,
	      (unsigned long long)s->local_off, (unsigned long long)s->remote_off);
	CHECK(fake_buf_check(b->local, 0, s->local_off, 7) < 0 &&
		      fake_buf_check(b->local, s->local_off + s->len, total - s->local_off - s->len, 7) < 0,
	      "a read of %llu bytes changes others", (unsigned long long)s->len);
	return PASS;
}

static int sizes_of(struct ctx *c, const char *local_kind, const char *target_kind)
{
	static const uint64_t sizes[] = { 0, 1, 63, 64, 65, 4095, 4096, 4097, 65536, 100003 };
	static const uint64_t skews[] = { 0, 1, 7, 4095 };
	struct pair p;
	struct bufs b;
	int r = pair_open(c, &p, 0, true);

	if (r == PASS)
		r = bufs_open(c, &p, 100003 + 2 * SLACK, local_kind, target_kind, MC_ACCESS_ALL, &b);
	for (unsigned i = 0; i < 10 && r == PASS; i++) {
		uint64_t len = align_up(&p, sizes[i]);

		for (unsigned j = 0; j < (p.a->caps.alignment > 1 ? 1 : 4) && r == PASS; j++) {
			struct shape s = { len, SLACK - skews[j], SLACK - skews[3 - j] };

			if (p.a->caps.alignment > 1)
				s.local_off = s.remote_off = SLACK;
			if (len > p.a->caps.max_slice || len + SLACK > b.local->len)
				continue;
			r = one_write(c, &p, &b, &s, i * 10 + j + 100);
			if (r == PASS)
				r = one_read(c, &p, &b, &s, i * 10 + j + 1000);
		}
	}
	if (r == PASS)
		r = bufs_close(c, &p, &b);
	return r == PASS ? pair_close(c, &p) : r;
}

static int case_sizes(struct ctx *c)
{
	return sizes_of(c, NULL, NULL);
}

/* Every kind that both the plugin and the memory plugins know, on either side. */
static int case_kinds(struct ctx *c)
{
	struct fake_world *w = world_open(c, 0);
	struct fake_inst *inst = NULL;
	struct mc_error err = { 0 };
	struct mc_transport_caps caps;
	unsigned nr = 0;
	int r = open_one(c, w, &inst, &err);

	CHECK(r == 0, "open: %d %s", r, err.text);
	caps = inst->caps;
	CHECK(!fake_world_free(w), "breaches");
	r = PASS;
	for (unsigned i = 0; i < c->nr_memories && r == PASS; i++) {
		const char *kind = c->memories[i].desc->memory[0];
		bool local = has_kind(caps.local_kinds, kind), remote = has_kind(caps.remote_kinds, kind);

		nr += local + remote;
		if (local && has_kind(caps.remote_kinds, "cpu"))
			r = sizes_of(c, kind, NULL);
		if (r == PASS && remote && has_kind(caps.local_kinds, "cpu"))
			r = sizes_of(c, NULL, kind);
		if (r == PASS && local && remote)
			r = sizes_of(c, kind, kind);
	}
	return r == PASS && !nr ? skip(c, "no memory kind but cpu (give --memory)") : r;
}

static int case_largest(struct ctx *c)
{
	struct pair p;
	struct bufs b;
	uint64_t max, step;
	int r = pair_open(c, &p, 0, true);

	if (r != PASS)
		return r;
	max = largest(&p);
	step = align_up(&p, 1);
	r = bufs_open(c, &p, max + 2 * SLACK, NULL, NULL, MC_ACCESS_ALL, &b);
	for (unsigned i = 0; i < 2 && r == PASS; i++) {
		struct shape s = { max - i * step, SLACK, SLACK };

		if (max < i * step)
			break;
		r = one_write(c, &p, &b, &s, i + 1);
		if (r == PASS)
			r = one_read(c, &p, &b, &s, i + 11);
	}
	if (r == PASS && max == p.peer->caps.max_slice) {
		int got = transfer(&p, MC_OP_WRITE, b.local, 0, b.remote, 0, max + step, NULL);

		CHECK(got == -EMSGSIZE, "a slice larger than max_slice is answered with %d, not -EMSGSIZE", got);
		r = works(c, &p, &b, 5);
	}
	if (r == PASS)
		r = bufs_close(c, &p, &b);
	return r == PASS ? pair_close(c, &p) : r;
}

static int case_alignment(struct ctx *c)
{
	struct pair p;
	struct bufs b;
	int r = pair_open(c, &p, 0, true), got;

	if (r == PASS && p.a->caps.alignment <= 1)
		return skip(c, "any alignment will do");
	if (r == PASS)
		r = bufs_open(c, &p, 65536, NULL, NULL, MC_ACCESS_ALL, &b);
	if (r != PASS)
		return r;
	got = transfer(&p, MC_OP_WRITE, b.local, 1, b.remote, 0, align_up(&p, 1), NULL);
	CHECK(got == -EINVAL, "a slice out of alignment is answered with %d, not -EINVAL", got);
	r = works(c, &p, &b, 1);
	if (r == PASS)
		r = bufs_close(c, &p, &b);
	return r == PASS ? pair_close(c, &p) : r;
}

/* ---- many at once ------------------------------------------------------------------------------------- */

#define MANY 8192
struct many {
	struct fake_slice *s[MANY];
	unsigned nr; /* taken */
};

static bool many_over(void *ctx)
{
	struct many *m = ctx;

	for (unsigned i = 0; i < m->nr; i++)
		if (m->s[i]->state == FAKE_INFLIGHT)
			return false;
	return true;
}

/* Submit nr slices of len, each to a place of its own; stops at the first that is not taken. */
static int submit_many(struct pair *p, struct bufs *b, enum mc_opcode op, uint64_t len, unsigned nr,
		       struct many *m)
{
	uint64_t places = b->local->len / len;
	int r = 0;

	for (m->nr = 0; m->nr < nr; m->nr++) {
		struct fake_slice *s = m->s[m->nr];
		uint64_t off = m->nr % places * len;

		if (!s)
			s = m->s[m->nr] = fake_slice_new(p->a);
		fake_slice_set(s, p->peer, op, b->local, off, b->remote, off, len, MC_SLICE_MORE);
		r = fake_submit(s);
		if (r < 0)
			break;
	}
	fake_flush(p->a);
	return r;
}

static void many_free(struct many *m)
{
	for (unsigned i = 0; i < MANY; i++)
		fake_slice_free(m->s[i]);
}

static int case_once(struct ctx *c)
{
	static struct many m;
	struct pair p;
	struct bufs b;
	int r = pair_open(c, &p, 0, true);

	if (r == PASS)
		r = bufs_open(c, &p, MANY / 4 * 128, NULL, NULL, MC_ACCESS_ALL, &b);
	for (int round = 0; round < 20 && r == PASS; round++) {
		enum mc_opcode op = round & 1 ? MC_OP_READ : MC_OP_WRITE;
		uint64_t len = align_up(&p, 64);
		int got;

		fake_buf_fill(round & 1 ? b.target : b.local, 0, b.local->len, (uint64_t)round);
		got = submit_many(&p, &b, op, len, MANY / 16, &m);
		CHECK(got >= 0 || got == -EAGAIN, "submit answered %d", got);
		got = fake_run_on(p.a, many_over, &m, BOUND);
		CHECK(got == 0, "not every slice completes");
		for (unsigned i = 0; i < m.nr; i++)
			CHECK(m.s[i]->status == 0, "slice %u of round %d ended with %d", i, round, m.s[i]->status);
		CHECK(make_visible(&p, &b) == 0, "the flush fails");
		CHECK(c->no_data || fake_buf_check(round & 1 ? b.local : b.target, 0, m.nr * len, (uint64_t)round) < 0,
		      "wrong bytes in round %d", round);
	}
	many_free(&m);
	if (r == PASS)
		r = bufs_close(c, &p, &b);
	return r == PASS ? pair_close(c, &p) : r;
}

struct room {
	struct fake_peer *peer;
	unsigned before;
};

static bool has_room(void *ctx)
{
	struct room *w = ctx;

	return w->peer->nr_writable > w->before;
}

static int case_again(struct ctx *c)
{
	static struct many m;
	struct room room;
	struct pair p;
	struct bufs b;
	int r = pair_open(c, &p, 0, true), got;
	bool full;

	if (r == PASS)
		r = bufs_open(c, &p, MANY * 4096, NULL, NULL, MC_ACCESS_ALL, &b);
	if (r != PASS)
		return r;
	fake_buf_fill(b.local, 0, 1 << 20, 3);
	room = (struct room){ p.peer, p.peer->nr_writable };
	got = submit_many(&p, &b, MC_OP_WRITE, align_up(&p, 4096), MANY, &m);
	full = got == -EAGAIN;
	CHECK(got >= 0 || full, "submit answered %d", got);
	CHECK(!full || m.nr, "submit answered -EAGAIN with nothing in flight");
	if (full) {
		/* A filter may have used the room for what it sends by itself; then there is room again later. */
		for (int tries = c->plugin.filters[0] ? 100 : 1; got == -EAGAIN && tries > 0; tries--) {
			got = fake_run_on(p.a, has_room, &room, BOUND);
			CHECK(got == 0, "no peer_writable follows -EAGAIN");
			room.before = p.peer->nr_writable;
			got = fake_submit(m.s[m.nr]);
		}
		CHECK(got >= 0, "submit answered %d right after peer_writable", got);
		m.nr++;
		fake_flush(p.a);
	}
	got = fake_run_on(p.a, many_over, &m, BOUND);
	CHECK(got == 0, "not every slice completes");
	for (unsigned i = 0; i < m.nr; i++)
		CHECK(m.s[i]->status == 0, "slice %u ended with %d", i, m.s[i]->status);
	many_free(&m);
	r = works(c, &p, &b, 9);
	if (r == PASS)
		r = bufs_close(c, &p, &b);
	if (r == PASS)
		r = pair_close(c, &p);
	return r == PASS && !full ? skip(c, "never full with %d slices of 4 KiB", MANY) : r;
}

static int case_cancel(struct ctx *c)
{
	static struct many m;
	struct pair p;
	struct bufs b;
	int r = pair_open(c, &p, 0, true), got;

	if (r == PASS && !fake_has(&c->plugin, cancel))
		return skip(c, "no cancel");
	if (r == PASS)
		r = bufs_open(c, &p, 1 << 20, NULL, NULL, MC_ACCESS_ALL, &b);
	if (r != PASS)
		return r;
	got = submit_many(&p, &b, MC_OP_WRITE, align_up(&p, 65536), 16, &m);
	CHECK(got >= 0 || got == -EAGAIN, "submit answered %d", got);
	for (unsigned i = 0; i < m.nr; i += 2)
		fake_cancel(m.s[i]);
	got = fake_run_on(p.a, many_over, &m, BOUND);
	CHECK(got == 0, "a cancelled slice never completes");
	for (unsigned i = 0; i < m.nr; i++)
		CHECK(m.s[i]->status == 0 || (i % 2 == 0 && m.s[i]->status == -ECANCELED),
		      "slice %u ended with %d", i, m.s[i]->status);
	many_free(&m);
	r = works(c, &p, &b, 4);
	if (r == PASS)
		r = bufs_close(c, &p, &b);
	return r == PASS ? pair_close(c, &p) : r;
}

static int case_wakeups(struct ctx *c)
{
	struct pair p;
	struct bufs b;
	int r = pair_open(c, &p, 0, true);

	if (r == PASS)
		r = bufs_open(c, &p, 65536, NULL, NULL, MC_ACCESS_ALL, &b);
	for (int i = 0; i < 300 && r == PASS; i++) {
		int got = transfer(&p, i & 1 ? MC_OP_READ : MC_OP_WRITE, b.local, 0, b.remote, 0,
				   align_up(&p, 1u << (i % 14)), NULL);

		CHECK(got == 0, "transfer %d: %d (a wake-up was lost if -110)", i, got);
		if (i % 10 == 0)
			CHECK(fake_run(p.w, NULL, NULL, BOUND) == 0, "it never gets quiet");
	}
	if (r == PASS)
		r = bufs_close(c, &p, &b);
	return r == PASS ? pair_close(c, &p) : r;
}

static int case_threads(struct ctx *c)
{
	struct pair p;
	struct bufs b;
	int r = pair_open(c, &p, FAKE_THREADS, true);

	if (r == PASS)
		r = bufs_open(c, &p, 1 << 20, NULL, NULL, MC_ACCESS_ALL, &b);
	for (uint64_t i = 0; i < 20 && r == PASS; i++)
		r = works(c, &p, &b, i + 1);
	if (r == PASS)
		r = bufs_close(c, &p, &b);
	return r == PASS ? pair_close(c, &p) : r;
}

/* ---- refusals ---------------------------------------------------------------------------------------------- */

static int refused(struct ctx *c, struct pair *p, struct bufs *b, const char *what, uint64_t addr,
		   uint64_t len, enum mc_opcode op, int want)
{
	struct fake_slice *s = fake_slice_new(p->a);
	int r;

	fake_slice_set(s, p->peer, op, b->local, 0, b->remote, 0, len, 0);
	s->s.remote_offset = addr;
	r = fake_transfer(s, BOUND);
	CHECK(r == want, "%s is answered with %d, not %d", what, r, want);
	CHECK(s->scope == MC_SCOPE_REQUEST || want == -ESTALE, "%s breaks scope %d", what, s->scope);
	CHECK(p->peer->ready, "%s kills the connection", what);
	fake_slice_free(s);
	return PASS;
}

static int refuse_all(struct ctx *c, struct pair *p, struct bufs *b)
{
	uint64_t base = (uintptr_t)b->target->base, len = b->target->len;
	int r = PASS;

	for (int op = 0; op < MC_OP_COUNT && r == PASS; op++) {
		r = refused(c, p, b, "a range before the buffer", base - 1, 64, op, -EACCES);
		if (r == PASS)
			r = refused(c, p, b, "a range over the end", base + len - 63, 64, op, -EACCES);
		if (r == PASS)
			r = refused(c, p, b, "a range at address 0", 0, 64, op, -EACCES);
		if (r == PASS)
			r = refused(c, p, b, "a range that overflows", UINT64_MAX - 31, 64, op, -EACCES);
		if (r == PASS)
			r = works(c, p, b, 3);
	}
	return r;
}

static int case_refusals(struct ctx *c)
{
	struct pair p;
	struct bufs all, readonly;
	uint64_t generation;
	int r = pair_open(c, &p, 0, true);

	if (r == PASS && !(p.a->caps.flags & MC_CAP_AGENT))
		return skip(c, "no agent at the target: the device or the mapping is the bound");
	if (r == PASS)
		r = bufs_open(c, &p, 65536, NULL, NULL, MC_ACCESS_ALL, &all);
	if (r == PASS)
		r = bufs_open(c, &p, 65536, NULL, NULL, MC_ACCESS_REMOTE_READ, &readonly);
	if (r == PASS)
		r = refuse_all(c, &p, &all);
	if (r != PASS)
		return r;
	r = refused(c, &p, &readonly, "a write without the right", (uintptr_t)readonly.target->base, 64,
		    MC_OP_WRITE, -EACCES);
	if (r == PASS)
		r = refused(c, &p, &all, "a large write outside", 4096, 65536, MC_OP_WRITE, -EACCES);
	if (r == PASS)
		r = works(c, &p, &all, 5);
	generation = p.b->generation;
	p.b->generation ^= 1;
	if (r == PASS)
		r = refused(c, &p, &all, "another generation", (uintptr_t)all.target->base, 64, MC_OP_WRITE, -ESTALE);
	p.b->generation = generation;
	if (r == PASS)
		r = bufs_close(c, &p, &readonly);
	if (r == PASS)
		r = bufs_close(c, &p, &all);
	return r == PASS ? pair_close(c, &p) : r;
}

/* A peer that asks with another key than it was given breaks its own connection, nothing else. */
static int case_wrong_key(struct ctx *c)
{
	struct pair p;
	struct bufs b;
	struct mc_remote_buffer buf;
	unsigned char blob[MC_EXPORT_BLOB_MAX];
	int r = pair_open(c, &p, 0, true), got, scope;

	if (r == PASS)
		r = bufs_open(c, &p, 65536, NULL, NULL, MC_ACCESS_ALL, &b);
	if (r != PASS)
		return r;
	if (!b.target->blob_len)
		return skip(c, "no keys (mem_export)");
	memcpy(blob, b.target->blob, sizeof blob);
	/* Cut short or empty: refused, or never reached. */
	buf = (struct mc_remote_buffer){ .size = sizeof buf, .base = b.remote->base, .len = b.remote->len,
					 .kind = b.remote->kind, .access = b.remote->access, .blob = blob };
	for (unsigned len = 0; len < (unsigned)b.target->blob_len; len++) {
		buf.blob_len = len;
		got = p.a->ops->mem_import(p.a->priv, b.remote->area, p.peer->area, &buf);
		CHECK(got < 0 && got != -EINPROGRESS, "a blob of %u bytes is imported", len);
	}
	fake_peer_close(p.peer);
	b.target->blob[12] ^= 0x55; /* the peers that come now are told another key */
	r = pair_connect(c, &p);
	if (r != PASS)
		return r;
	b.remote = fake_remote_find(p.peer, b.target->base);
	fake_buf_fill(b.target, 0, b.target->len, 1);
	got = b.remote->status;
	scope = MC_SCOPE_PEER;
	if (got == 0)
		got = transfer(&p, MC_OP_WRITE, b.local, 0, b.remote, 0, 4096, &scope);
	CHECK(got < 0 && got != -ETIMEDOUT, "a wrong key is answered with %d", got);
	CHECK(scope <= MC_SCOPE_PEER, "a wrong key breaks scope %d", scope);
	CHECK(fake_buf_check(b.target, 0, b.target->len, 1) < 0, "a write with a wrong key arrives");
	if (!p.peer->ready)
		CHECK(fake_peer_fence(p.peer, BOUND) == 0, "the fence does not end");
	fake_peer_close(p.peer);
	b.target->blob[12] ^= 0x55;
	r = pair_connect(c, &p);
	b.remote = r == PASS ? fake_remote_find(p.peer, b.target->base) : NULL;
	if (r == PASS)
		r = works(c, &p, &b, 8);
	if (r == PASS)
		r = bufs_close(c, &p, &b);
	return r == PASS ? pair_close(c, &p) : r;
}

/* A write that completed without its flush must not be relied upon; with it, it is there. */
static int case_visibility(struct ctx *c)
{
	struct pair p;
	struct bufs b;
	int r = pair_open(c, &p, 0, true);

	if (r == PASS && p.a->caps.visibility != MC_VISIBLE_AFTER_FLUSH)
		return skip(c, "visible at completion");
	if (r == PASS)
		r = bufs_open(c, &p, 1 << 20, NULL, NULL, MC_ACCESS_ALL, &b);
	for (uint64_t n = 1; n <= 512 && r == PASS; n *= 2) {
		uint64_t len = align_up(&p, 64);

		fake_buf_fill(b.local, 0, n * len, n);
		for (uint64_t i = 0; i < n; i++)
			CHECK(transfer(&p, MC_OP_WRITE, b.local, i * len, b.remote, i * len, len, NULL) == 0,
			      "a write fails");
		CHECK(make_visible(&p, &b) == 0, "the flush fails");
		CHECK(c->no_data || fake_buf_check(b.target, 0, n * len, n) < 0,
		      "%llu writes are not visible after the flush", (unsigned long long)n);
	}
	if (r == PASS)
		r = bufs_close(c, &p, &b);
	return r == PASS ? pair_close(c, &p) : r;
}

/* Slices that succeed, and not one byte of the destination is another than before. */
int find_nothing(struct ctx *c)
{
	struct pair p;
	struct bufs b;
	uint64_t len;
	int r = pair_open(c, &p, 0, true);

	if (r == PASS)
		r = bufs_open(c, &p, 65536, NULL, NULL, MC_ACCESS_ALL, &b);
	if (r != PASS)
		return r;
	len = align_up(&p, 4096);
	fake_buf_fill(b.local, 0, len, 1);
	fake_buf_fill(b.target, 0, len, 2);
	c->told->nothing = transfer(&p, MC_OP_WRITE, b.local, 0, b.remote, 0, len, NULL) == 0 &&
			   make_visible(&p, &b) == 0 && fake_buf_check(b.target, 0, len, 2) < 0 &&
			   transfer(&p, MC_OP_READ, b.local, 0, b.remote, 0, len, NULL) == 0 &&
			   fake_buf_check(b.local, 0, len, 1) < 0 && !fake_breaches(p.w);
	/* Leave nothing behind; what fails here, a case tells. */
	r = bufs_close(c, &p, &b);
	return r == PASS ? pair_close(c, &p) : r;
}

const struct test_case data_cases[] = {
	{ MOVES, "sizes", case_sizes, 5 },
	{ MOVES, "kinds", case_kinds, 4 },
	{ MOVES, "largest", case_largest, 5 },
	{ MOVES, "alignment", case_alignment, 5 },
	{ MOVES, "once", case_once, 5 },
	{ MOVES, "wakeups", case_wakeups, 4 },
	{ MOVES, "threads", case_threads, 2 },
	{ MOVES, "visibility", case_visibility, 5 },
	{ BEHAVES, "again", case_again, 5 },
	{ BEHAVES, "cancel", case_cancel, 4 },
	{ BEHAVES, "refusals", case_refusals, 5 },
	{ BEHAVES, "wrong-key", case_wrong_key, 4 },
	{ .run = NULL },
};
