/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What cases run on: the plugin loaded with what belongs to it, one instance, two
 * that are connected, two buffers; and the sentences that a case ends with.
 */
#include "cases.h"
#include "filter-stack.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int say(struct ctx *c, int result, const char *fmt, va_list ap)
{
	vsnprintf(c->told->why, WHY_MAX, fmt, ap);
	return result;
}

int fail(struct ctx *c, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(c, FAIL, fmt, ap);
	va_end(ap);
	return FAIL;
}

int skip(struct ctx *c, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(c, SKIP, fmt, ap);
	va_end(ap);
	return SKIP;
}

int ctx_load(struct ctx *c, struct mc_error *err)
{
	int r = fake_plugin_load(c->over ? c->over : c->path, MC_KIND_TRANSPORT, &c->plugin, err);

	for (unsigned i = 0; i < c->nr_memories && r == 0; i++)
		r = fake_plugin_load(c->memory_paths[i], MC_KIND_MEMORY, &c->memories[i], err);
	for (unsigned i = 0; i < c->nr_filters && r == 0; i++) {
		const struct filter *f = &c->filters[i];

		r = filter_stack(&c->plugin, f->path, f->words, f->nr_words, err);
	}
	return r;
}

/* ---- pairs --------------------------------------------------------------------------------------- */

struct fake_world *world_open(struct ctx *c, unsigned flags)
{
	struct fake_world *w = fake_world_new(flags);

	for (unsigned i = 0; i < c->nr_memories; i++) {
		struct mc_error err = { 0 };

		if (fake_memory_open(w, &c->memories[i], NULL, 0, &err) < 0) {
			fprintf(stderr, "%s\n", err.text);
			abort();
		}
	}
	return w;
}

int open_one(struct ctx *c, struct fake_world *w, struct fake_inst **ret, struct mc_error *err)
{
	struct fake_open how = { .device = c->device, .words = c->words, .nr_words = c->nr_words };

	return fake_open(w, &c->plugin, &how, ret, err);
}

int pair_connect(struct ctx *c, struct pair *p)
{
	int r = fake_peer_open(p->a, p->la, &p->peer);

	CHECK(r == 0, "peer_open answered %d", r);
	r = fake_peer_wait(p->peer, BOUND);
	CHECK(r == 0, "the peer does not get ready: %d %s", r, p->peer->why);
	return PASS;
}

int pair_open(struct ctx *c, struct pair *p, unsigned flags, bool connect)
{
	struct mc_error err = { 0 };
	int r;

	memset(p, 0, sizeof *p);
	p->w = world_open(c, flags);
	r = open_one(c, p->w, &p->a, &err);
	CHECK(r == 0, "open of the initiator: %d %s", r, err.text);
	r = open_one(c, p->w, &p->b, &err);
	CHECK(r == 0, "open of the target: %d %s", r, err.text);
	r = fake_link(p->a, p->b, &p->la, &p->lb);
	CHECK(r == 0, "no link: %d", r);
	return connect ? pair_connect(c, p) : PASS;
}

int pair_close(struct ctx *c, struct pair *p)
{
	char last[512];
	unsigned nr;

	fake_peer_close(p->peer);
	fake_close(p->a, BOUND);
	fake_close(p->b, BOUND);
	snprintf(last, sizeof last, "%s", fake_last_breach(p->w));
	nr = fake_world_free(p->w);
	CHECK(!nr, "%u breaches: %s", nr, last[0] ? last : "at the end of the world, see above");
	return PASS;
}

struct wait_remote {
	struct fake_peer *peer;
	void *base;
};

static bool remote_known(void *ctx)
{
	struct wait_remote *w = ctx;
	struct fake_remote *r = fake_remote_find(w->peer, w->base);

	return r && r->area && r->status != -EINPROGRESS;
}

int remote_wait(struct ctx *c, struct pair *p, struct fake_buf *target, struct fake_remote **ret)
{
	struct wait_remote wait = { p->peer, target->base };
	int r = fake_run_on(p->a, remote_known, &wait, BOUND);

	CHECK(r == 0, "the remote buffer is not imported: %d", r);
	*ret = fake_remote_find(p->peer, target->base);
	CHECK((*ret)->status == 0, "mem_import answered %d", (*ret)->status);
	return PASS;
}

int bufs_open(struct ctx *c, struct pair *p, uint64_t len, const char *local_kind,
	      const char *target_kind, uint32_t access, struct bufs *ret)
{
	struct mc_error err = { 0 };
	int r = fake_buf_new(p->a, len, 0, local_kind, MC_ACCESS_LOCAL, &ret->local, &err);

	CHECK(r == 0, "registering at the initiator: %d %s", r, err.text);
	r = fake_buf_new(p->b, len, 0, target_kind, access, &ret->target, &err);
	CHECK(r == 0, "registering at the target: %d %s", r, err.text);
	return remote_wait(c, p, ret->target, &ret->remote);
}

int bufs_close(struct ctx *c, struct pair *p, struct bufs *b)
{
	int r = fake_buf_free(b->target, BOUND);

	CHECK(r == 0, "the target's buffer stays held: %d", r);
	r = fake_buf_free(b->local, BOUND);
	CHECK(r == 0, "the initiator's buffer stays held: %d", r);
	CHECK(!fake_breaches(p->w), "%s", fake_last_breach(p->w));
	return PASS;
}

int transfer(struct pair *p, enum mc_opcode op, struct fake_buf *local, uint64_t local_off,
	     struct fake_remote *remote, uint64_t remote_off, uint64_t len, int *ret_scope)
{
	struct fake_slice *s = fake_slice_new(p->a);
	int r;

	fake_slice_set(s, p->peer, op, local, local_off, remote, remote_off, len, 0);
	r = fake_transfer(s, BOUND);
	if (ret_scope)
		*ret_scope = s->scope;
	if (s->state != FAKE_INFLIGHT)
		fake_slice_free(s);
	return r;
}

int make_visible(struct pair *p, struct bufs *b)
{
	struct fake_slice *s;
	int r;

	if (p->a->caps.visibility != MC_VISIBLE_AFTER_FLUSH)
		return 0;
	s = fake_slice_new(p->a);
	fake_slice_set(s, p->peer, MC_OP_READ, b->local, 0, b->remote, 0, 0, MC_SLICE_FLUSH);
	r = fake_transfer(s, BOUND);
	if (s->state != FAKE_INFLIGHT)
		fake_slice_free(s);
	return r;
}

int works(struct ctx *c, struct pair *p, struct bufs *b, uint64_t seed)
{
	uint64_t len = align_up(p, b->local->len < 4096 ? b->local->len : 4096);
	int r;

	fake_buf_fill(b->local, 0, len, seed);
	r = transfer(p, MC_OP_WRITE, b->local, 0, b->remote, 0, len, NULL);
	CHECK(r == 0, "a write fails: %d", r);
	r = make_visible(p, b);
	CHECK(r == 0, "the flush fails: %d", r);
	CHECK(c->no_data || fake_buf_check(b->target, 0, len, seed) < 0, "a write brings wrong bytes");
	fake_buf_fill(b->target, 0, len, ~seed);
	r = transfer(p, MC_OP_READ, b->local, 0, b->remote, 0, len, NULL);
	CHECK(r == 0, "a read fails: %d", r);
	CHECK(c->no_data || fake_buf_check(b->local, 0, len, ~seed) < 0, "a read brings wrong bytes");
	return PASS;
}

uint64_t align_up(const struct pair *p, uint64_t n)
{
	uint64_t a = p->a->caps.alignment;

	return a > 1 ? (n + a - 1) / a * a : n;
}

/* What the largest slice is for the tests. */
uint64_t largest(const struct pair *p)
{
	uint64_t max = p->peer ? p->peer->caps.max_slice : p->a->caps.max_slice;

	return max < (8u << 20) ? max : 8u << 20;
}

bool never(void *ctx)
{
	return false;
}

bool has_kind(const char *const *kinds, const char *kind)
{
	while (*kinds && strcmp(*kinds, "*") && strcmp(*kinds, kind))
		kinds++;
	return *kinds;
}

/* ---- a queue of slices ------------------------------------------------------------------------------- */

bool deep_over(void *ctx)
{
	struct deep *d = ctx;

	for (unsigned i = 0; i < d->nr; i++)
		if (d->s[i]->state == FAKE_INFLIGHT)
			return false;
	return true;
}

int deep_submit(struct ctx *c, struct pair *p, struct bufs *b, enum mc_opcode op, struct deep *d)
{
	int r = 0;

	for (d->nr = 0; d->nr < DEEP; d->nr++) {
		struct fake_slice *s = d->s[d->nr] = fake_slice_new(p->a);
		uint64_t off = d->nr * (uint64_t)PIECE;

		fake_slice_set(s, p->peer, op, b->local, off, b->remote, off, PIECE, MC_SLICE_MORE);
		r = fake_submit(s);
		if (r < 0) {
			fake_slice_free(s);
			d->s[d->nr] = NULL;
			break;
		}
	}
	CHECK(r >= 0 || r == -EAGAIN, "submit answered %d", r);
	fake_flush(p->a);
	return PASS;
}

void deep_free(struct deep *d)
{
	for (unsigned i = 0; i < d->nr; i++)
		fake_slice_free(d->s[i]);
}
