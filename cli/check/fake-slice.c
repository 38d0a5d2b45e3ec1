/* SPDX-License-Identifier: Apache-2.0 */
/* Slices of the fake host: made, submitted, cancelled, waited for. */
#include "fake-host-impl.h"
#include "core/util/check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct fake_slice *fake_slice_new(struct fake_inst *inst)
{
	struct fake_slice *s = calloc(1, sizeof *s);

	if (!s)
		abort();
	s->world = inst->world;
	s->inst = inst;
	s->s.size = sizeof s->s;
	s->s.priv = area_new(inst->world, AREA_SLICE, inst->ops->slice_size, s);
	s->s.host = s;
	return s;
}

void fake_slice_free(struct fake_slice *s)
{
	if (!s)
		return;
	if (s->state == FAKE_INFLIGHT)
		fake_breach(s->world, "the test frees a slice that is in flight");
	area_release(s->world, s->s.priv);
	free(s);
}

void fake_slice_set(struct fake_slice *s, struct fake_peer *peer, enum mc_opcode op,
		    struct fake_buf *local, uint64_t local_off, struct fake_remote *remote,
		    uint64_t remote_off, uint64_t len, unsigned flags)
{
	struct fake_remote *any = remote ? remote : peer->remotes;

	s->peer = peer;
	s->state = FAKE_IDLE;
	s->s.opcode = (uint8_t)op;
	s->s.flags = (uint8_t)flags;
	s->s.epoch = peer->epoch;
	s->s.len = len;
	s->s.local = local->base + local_off;
	s->s.region = local->region;
	s->s.local_kind = local->desc.kind;
	s->s.local_ordinal = local->desc.ordinal;
	s->s.remote = any ? any->area : NULL;
	s->s.remote_offset = remote ? remote->base + remote_off : remote_off;
	s->s.peer = peer->area;
	s->s.deadline_ns = world_now(s->inst->world) + 30 * MC_SEC;
}

struct slice_call {
	struct fake_slice *s;
	int r;
};

static void do_submit(void *ctx)
{
	struct slice_call *c = ctx;
	struct fake_slice *s = c->s;
	struct fake_inst *inst = s->inst;

	if (s->state == FAKE_INFLIGHT || !s->peer->open) {
		fake_breach(inst->world, "the test submits a slice that is in flight, or to a closed peer");
		c->r = -EINVAL;
		return;
	}
	s->state = FAKE_INFLIGHT;
	inst->nr_inflight++;
	s->peer->nr_inflight++;
	inst->st->in_submit = true;
	c->r = inst->ops->submit(inst->priv, &s->s);
	inst->st->in_submit = false;
	if (c->r == 0 || s->state == FAKE_DONE) {
		if ((inst->caps.flags & MC_CAP_SYNC) && c->r == 0)
			fake_breach(inst->world, "with MC_CAP_SYNC submit never answers 0: %s did", inst->name);
		return;
	}
	inst->nr_inflight--;
	s->peer->nr_inflight--;
	s->state = FAKE_IDLE;
	if (c->r == MC_DONE) {
		s->state = FAKE_DONE;
		s->status = 0;
		s->scope = MC_SCOPE_NONE;
		s->done_len = s->s.len;
	} else if (c->r > 0) {
		fake_breach(inst->world, "submit answers 0, MC_DONE or -errno: %s answered %d", inst->name, c->r);
	}
}

int fake_submit(struct fake_slice *s)
{
	struct slice_call c = { .s = s };

	fake_call(s->inst, do_submit, &c);
	return c.r;
}

static void do_flush(void *ctx)
{
	struct fake_inst *inst = ctx;

	inst->ops->flush(inst->priv);
}

void fake_flush(struct fake_inst *inst)
{
	fake_call(inst, do_flush, inst);
}

static void do_cancel(void *ctx)
{
	struct slice_call *c = ctx;
	struct fake_inst *inst = c->s->inst;

	if (c->s->state != FAKE_INFLIGHT) {
		c->r = -EALREADY; /* over already: the core does not ask either */
		return;
	}
	inst->st->in_cancel = true;
	c->r = inst->ops->cancel(inst->priv, &c->s->s);
	inst->st->in_cancel = false;
	if (c->r && c->r != -EALREADY)
		fake_breach(inst->world, "cancel answers 0 or -EALREADY: %s answered %d", inst->name, c->r);
}

int fake_cancel(struct fake_slice *s)
{
	struct slice_call c = { .s = s };

	fake_call(s->inst, do_cancel, &c);
	return c.r;
}

static bool slice_over(void *ctx)
{
	return ((struct fake_slice *)ctx)->state != FAKE_INFLIGHT;
}

struct writable {
	struct fake_peer *peer;
	unsigned before;
};

static bool has_room(void *ctx)
{
	struct writable *w = ctx;

	return w->peer->nr_writable != w->before || !w->peer->ready;
}

int fake_transfer(struct fake_slice *s, uint64_t bound_ns)
{
	int r;

	for (;;) {
		struct writable w = { s->peer, s->peer->nr_writable };

		r = fake_submit(s);
		if (r != -EAGAIN)
			break;
		fake_flush(s->inst);
		r = fake_run_on(s->inst, has_room, &w, bound_ns);
		if (r < 0)
			return r;
	}
	fake_flush(s->inst);
	if (r < 0)
		return r;
	r = fake_run_on(s->inst, slice_over, s, bound_ns);
	return r < 0 ? r : s->status;
}
