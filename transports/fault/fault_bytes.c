/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Faults of the bytes themselves.  A READ gets its wrong bit in the local buffer,
 * after the transport has ended it and before anybody above hears of that.  A WRITE
 * sends a copy with a wrong bit, where the transport moves bytes by the CPU and so
 * takes any memory; others need memory that is registered, so there the bit is wrong
 * in the user's buffer as long as the transport has the slice, and right again after.
 */
#include <string.h>

#include "fault.h"

static void tell(const struct fault *f, const struct fault_op *op, uint64_t at)
{
	const struct mc_slice *s = op->slice;

	f->host->log(f->host, MC_LOG_INFO, "flipped bits 0x%02x of the byte at 0x%llx, in a %s of %llu bytes",
		     op->mask, (unsigned long long)(s->remote_offset + at),
		     s->opcode == MC_OP_READ ? "read" : "write", (unsigned long long)s->len);
}

/* Which byte, and in op->mask which bit of it. */
static uint64_t choose(const struct fault *f, struct fault_op *op)
{
	uint64_t at = fault_plan_draw(&f->plan, FAULT_FLIP, op->nth, op->slice->len);

	op->mask = (unsigned char)(1u << fault_plan_draw(&f->plan, FAULT_FLIP, ~op->nth, 8));
	return at;
}

static bool can_flip(const struct fault_op *op)
{
	return op->slice->len && op->slice->local_kind && !strcmp(op->slice->local_kind, "cpu");
}

static void flip_source(struct fault *f, struct fault_op *op)
{
	uint64_t at;

	if (!can_flip(op))
		return;
	if (f->cpu_copy) {
		op->bounce = f->host->alloc(f->host, op->slice->len);
		if (!op->bounce)
			return;
		memcpy(op->bounce, op->slice->local, op->slice->len);
	}
	at = choose(f, op);
	if (op->bounce) {
		((unsigned char *)op->bounce)[at] ^= op->mask;
	} else {
		op->flipped = (unsigned char *)op->slice->local + at;
		__atomic_fetch_xor(op->flipped, op->mask, __ATOMIC_RELAXED);
	}
	fault_count(f, FAULT_FLIP);
	tell(f, op, at);
}

/* Undo what only the transport was to see. */
static void put_right(struct fault *f, struct fault_op *op)
{
	if (op->bounce)
		f->host->free(f->host, op->bounce, op->slice->len);
	op->bounce = NULL;
	if (op->flipped)
		__atomic_fetch_xor(op->flipped, op->mask, __ATOMIC_RELAXED);
	op->flipped = NULL;
}

int fault_send(struct fault *f, struct fault_op *op)
{
	struct mc_slice *s = op->slice;
	void *local = s->local;
	uint64_t len = s->len;
	int r;

	if (fault_has(op, FAULT_FLIP) && s->opcode == MC_OP_WRITE)
		flip_source(f, op);
	if (fault_has(op, FAULT_SHORTEN) && len) {
		s->len = fault_plan_draw(&f->plan, FAULT_SHORTEN, op->nth, len);
		s->len -= s->len % f->alignment;
	}
	if (op->bounce)
		s->local = op->bounce;
	op->place = FAULT_BELOW;
	op->sent_len = s->len;
	r = f->next->submit(f->next, s);
	s->local = local;
	s->len = len;
	if (r < 0)
		put_right(f, op);
	else if (fault_has(op, FAULT_SHORTEN) && len)
		fault_count(f, FAULT_SHORTEN);
	return r;
}

void fault_returned(struct fault *f, struct fault_op *op, int status)
{
	unsigned char *byte;
	uint64_t at;

	put_right(f, op);
	if (status < 0 || !fault_has(op, FAULT_FLIP) || op->slice->opcode != MC_OP_READ || !can_flip(op))
		return;
	at = choose(f, op);
	byte = (unsigned char *)op->slice->local + at;
	*byte ^= op->mask;
	fault_count(f, FAULT_FLIP);
	tell(f, op, at);
}
