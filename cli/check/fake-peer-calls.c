/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Peers of the fake host as a test drives them: open, wait, fence, attach again,
 * close, find.  Each runs on its instance's thread and waits for it.
 */
#include "fake-link.h"
#include "core/util/check.h"

#include <errno.h>
#include <stdlib.h>

struct peer_call {
	struct fake_inst *inst;
	struct fake_link *link;
	struct fake_peer *peer;
	int r;
};

static void do_peer_open(void *ctx)
{
	struct peer_call *c = ctx;
	struct fake_inst *inst = c->inst;
	struct fake_peer *p = peer_new(c->link, c->link->side | ++c->link->next_id, 1, false);
	struct msg m = { .type = MSG_OPEN, .id = p->id, .epoch = p->epoch };
	struct mc_peer_args args;

	p->epoch = m.epoch = c->link->next_id; /* later peers have later epochs */
	link_fill_open(inst, &m);
	link_send(c->link, &m, -1);
	peer_args_fill(p, &c->link->hello, &args);
	c->r = inst->ops->peer_open(inst->priv, p->area, &args);
	if (c->r < 0) {
		struct msg bye = { .type = MSG_CLOSE, .id = p->id };

		link_send(c->link, &bye, -1);
		area_release(inst->world, p->area);
		inst->st->peers = p->next;
		free(p);
		return;
	}
	peer_make_streams(p);
	c->peer = p;
}

static bool said_hello(void *ctx)
{
	return ((struct fake_link *)ctx)->hello.type != 0;
}

int fake_peer_open(struct fake_inst *inst, struct fake_link *link, struct fake_peer **ret_peer)
{
	struct peer_call c = { .inst = inst, .link = link };
	int r = fake_run_on(inst, said_hello, link, 10 * MC_SEC);

	if (r < 0)
		return r;
	fake_call(inst, do_peer_open, &c);
	if (c.r == 0)
		*ret_peer = c.peer;
	return c.r;
}

void fake_peer_deadline(struct fake_world *w, uint64_t ns)
{
	w->peer_deadline_ns = ns;
}

static bool peer_settled(void *ctx)
{
	struct fake_peer *p = ctx;

	if (p->status < 0 || !p->open)
		return true;
	if (!p->ready || !p->remote_open || !p->remote_ready || !p->snapshot)
		return false;
	for (struct fake_remote *r = p->remotes; r; r = r->next)
		if (!r->area || r->status == -EINPROGRESS)
			return false;
	return true;
}

int fake_peer_wait(struct fake_peer *peer, uint64_t bound_ns)
{
	int r = fake_run_on(peer->inst, peer_settled, peer, bound_ns);

	return r < 0 ? r : MC_MIN(peer->status, 0);
}

static void do_fence(void *ctx)
{
	struct peer_call *c = ctx;
	struct fake_peer *p = c->peer;
	struct msg m = { .type = MSG_FENCE, .id = p->id, .epoch = p->epoch };

	p->fence_asked = p->epoch;
	p->ready = false;
	c->r = p->inst->ops->fence(p->inst->priv, p->area, p->epoch);
	if (c->r == -ENOTSUP) {
		if (!(p->inst->caps.flags & MC_CAP_SYNC))
			fake_breach(p->inst->world, "a transport with slices in flight can fence: %s cannot",
				    p->inst->name);
		p->fenced_epoch = p->epoch;
		c->r = 0;
	}
	if (p->inst->caps.fence == MC_FENCE_BOTH && !p->gone)
		link_send(p->link, &m, -1);
	else
		p->remote_fenced_epoch = p->epoch; /* local suffices, or the target does it by itself */
}

int fake_peer_fence_begin(struct fake_peer *peer)
{
	struct peer_call c = { .peer = peer };

	fake_call(peer->inst, do_fence, &c);
	return c.r;
}

bool fake_peer_fenced(const struct fake_peer *p)
{
	return p->fenced_epoch >= p->epoch && (p->remote_fenced_epoch >= p->epoch || p->gone);
}

static bool is_fenced(void *ctx)
{
	return fake_peer_fenced(ctx);
}

int fake_peer_fence(struct fake_peer *peer, uint64_t bound_ns)
{
	int r = fake_peer_fence_begin(peer);

	return r < 0 ? r : fake_run_on(peer->inst, is_fenced, peer, bound_ns);
}

static void do_reattach(void *ctx)
{
	struct peer_call *c = ctx;
	struct fake_peer *p = c->peer;

	p->epoch = ++p->link->next_id;
	p->status = 1;
	peer_make_streams(p);
}

int fake_peer_reattach(struct fake_peer *peer)
{
	struct peer_call c = { .peer = peer };

	if (!peer->inst->caps.streams)
		return -ENOTSUP;
	fake_call(peer->inst, do_reattach, &c);
	return 0;
}

static void do_close(void *ctx)
{
	struct fake_peer *p = ctx;
	struct msg m = { .type = MSG_CLOSE, .id = p->id };

	if (!p->open)
		return;
	link_send(p->link, &m, -1);
	peer_drop(p);
}

void fake_peer_close(struct fake_peer *peer)
{
	if (peer)
		fake_call(peer->inst, do_close, peer);
}

/* Or closed: news that the other end has done so may come while this one is fenced. */
static bool is_over(void *ctx)
{
	const struct fake_peer *p = ctx;

	return !p->open || fake_peer_fenced(p);
}

/* Both objects of a closing instance's peers go.  A passive one may still be served: it is fenced
 * first. */
void peers_close(struct fake_inst *inst, uint64_t bound_ns)
{
	struct fake_peer *p;

	while ((p = inst->st->peers)) {
		if (p->passive && p->fenced_epoch < p->epoch && fake_has(inst->plugin, fence)) {
			struct peer_call c = { .peer = p };

			p->gone = false;
			fake_call(inst, do_fence, &c);
			p->remote_fenced_epoch = p->epoch;
			if (fake_run_on(inst, is_over, p, bound_ns) < 0)
				fake_breach(inst->world, "fence at the target ends: %s did not", inst->name);
		}
		fake_peer_close(p);
	}
}

/* A peer of the instance that a fence has something to end of. */
static struct fake_peer *unfenced(struct fake_inst *inst)
{
	struct fake_peer *p = inst->st->peers;

	while (p && p->fenced_epoch >= p->epoch)
		p = p->next;
	return p;
}

int fake_peers_fence(struct fake_inst *inst, uint64_t bound_ns)
{
	struct fake_peer *p;

	while (fake_has(inst->plugin, fence) && (p = unfenced(inst))) {
		struct peer_call c = { .peer = p };
		int r;

		p->gone = true; /* nobody is asked at the other end */
		fake_call(inst, do_fence, &c);
		r = fake_run_on(inst, is_over, p, bound_ns);
		if (r < 0)
			return r;
	}
	return 0;
}

struct find_other {
	struct fake_link *link;
	uint32_t id;
	struct fake_peer *found;
};

static void do_find(void *ctx)
{
	struct find_other *c = ctx;

	c->found = peer_find(c->link, c->id);
}

struct fake_peer *fake_peer_other(struct fake_peer *peer)
{
	struct find_other c = { .link = peer->link->other, .id = peer->id };

	if (c.link)
		fake_call(c.link->inst, do_find, &c);
	return c.found;
}

struct fake_remote *fake_remote_find(struct fake_peer *peer, const void *base)
{
	struct fake_remote *r = peer->remotes;

	while (r && r->base != (uintptr_t)base)
		r = r->next;
	return r;
}
