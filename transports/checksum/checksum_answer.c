/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The target's half: hash what a peer names, if it may read or write there, a
 * bounded amount per turn, and answer.  What is asked comes from a stranger: ranges
 * go through range_get each time, and a peer's questions are bounded.
 */
#include <errno.h>
#include <string.h>

#include "checksum.h"
#include "core/util/check.h"

#define STEP_BYTES (UINT64_C(1) << 20)
#define TURN_BYTES (UINT64_C(4) << 20)

static int get(struct ck *c, struct ck_peer *p, const struct ckw_ask *ask, uint64_t from, uint64_t len,
	       struct mc_range *range)
{
	uint32_t access = ask->opcode == MC_OP_READ ? MC_ACCESS_REMOTE_READ : MC_ACCESS_REMOTE_WRITE;
	int r;

	*range = (struct mc_range){.size = sizeof *range};
	/* The message travelled in a session of this generation. */
	r = c->host->range_get(c->host, p->peer, c->generation, ask->offset + from, len, access, range);
	if (r < 0)
		return r;
	if (strcmp(range->kind, "cpu") == 0)
		return 0;
	c->host->range_put(c->host, range);
	return -EOPNOTSUPP;
}

void ck_asked(struct ck *c, struct ck_peer *p, const struct ckw_ask *ask)
{
	uint8_t msg[CKW_HEAD + CKW_ANSWER_SIZE];
	struct ckw_answer answer = {.id = ask->id, .status = -EBUSY};

	/* After a fence nothing here is read for that peer. */
	if (!p->todo && !p->fence_seen)
		p->todo = c->host->alloc(c->host, CK_SLOTS * sizeof *p->todo);
	if (!p->fence_seen && p->todo && p->todo_tail - p->todo_head < CK_SLOTS) {
		p->todo[p->todo_tail++ % CK_SLOTS] = *ask;
		return;
	}
	/* A filter of ours never asks so much. */
	ckw_answer_put(ckw_begin(msg, CKW_ANSWER), &answer);
	ckw_end(msg, 1);
	c->host->peer_send(c->host, p->peer, msg, sizeof msg);
}

void ck_narrow_asked(struct ck *c, struct ck_peer *p, const struct ckw_ask *ask)
{
	uint64_t parts = ask->value ? (ask->len + ask->value - 1) / ask->value : 0;
	uint8_t msg[CKW_HEAD + CKW_NARROWED_HEAD + 8 * CKW_PARTS], *at = ckw_begin(msg, CKW_NARROWED);
	struct mc_range range;
	int r = -EINVAL;

	if (!p->fence_seen && ask->len <= CKW_NARROW_MAX && ask->value <= ask->len && parts && parts <= CKW_PARTS)
		r = get(c, p, ask, 0, ask->len, &range);
	ckw_narrowed_put(at, ask->id, r);
	at += CKW_NARROWED_HEAD;
	for (uint64_t i = 0; r == 0 && i < parts; i++, at += 8) {
		uint64_t from = i * ask->value, len = MC_MIN(ask->value, ask->len - from);
		const uint8_t *p8 = (const uint8_t *)range.addr + from;

		ckw_part_put(at, ask->value == 1 ? *p8 : XXH3_64bits(p8, len));
	}
	if (r == 0)
		c->host->range_put(c->host, &range);
	ckw_end(msg, (uint16_t)(r == 0 ? parts : 0));
	c->host->peer_send(c->host, p->peer, msg, (size_t)(at - msg));
}

bool ck_answer_busy(const struct ck_peer *p)
{
	return p->todo_head != p->todo_tail;
}

/* A step of the first question.  True: it is answered. */
static bool step(struct ck *c, struct ck_peer *p, struct ckw_answer *answer, uint64_t *bytes)
{
	const struct ckw_ask *ask = &p->todo[p->todo_head % CK_SLOTS];
	uint64_t len = MC_MIN(ask->len - p->todo_done, STEP_BYTES);
	struct mc_range range;
	int r;

	if (!p->todo_done)
		XXH3_64bits_reset(&p->state);
	r = get(c, p, ask, p->todo_done, len, &range);
	if (r == 0) {
		XXH3_64bits_update(&p->state, range.addr, len);
		c->host->range_put(c->host, &range);
		p->todo_done += len;
		*bytes += len;
		if (p->todo_done < ask->len)
			return false;
	}
	*answer = (struct ckw_answer){.id = ask->id, .status = r, .hash = r ? 0 : XXH3_64bits_digest(&p->state)};
	mc_counter_add(c->answered, 1);
	p->todo_done = 0;
	p->todo_head++;
	return true;
}

int ck_answer_turn(struct ck *c, struct ck_peer *p)
{
	uint8_t msg[CKW_MSG_MAX], *at = ckw_begin(msg, CKW_ANSWER);
	uint64_t bytes = 0;
	uint16_t nr = 0;

	while (ck_answer_busy(p) && bytes < TURN_BYTES && nr < CKW_ANSWERS) {
		struct ckw_answer answer;

		if (!step(c, p, &answer, &bytes))
			continue;
		ckw_answer_put(at, &answer);
		at += CKW_ANSWER_SIZE;
		nr++;
	}
	if (nr) {
		ckw_end(msg, nr);
		/* Without a control connection the other end is told of its loss. */
		c->host->peer_send(c->host, p->peer, msg, (size_t)(at - msg));
	}
	return nr || bytes;
}
