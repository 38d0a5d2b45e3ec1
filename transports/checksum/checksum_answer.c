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
#define NARROWED_COST (UINT64_C(64) << 10) /* a message of its own is as dear as so many bytes */

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

/* A NARROWED with the parts that are hashed, or without any. */
static void narrowed_send(struct ck *c, struct ck_peer *p, uint32_t id, int status)
{
	uint8_t msg[CKW_HEAD + CKW_NARROWED_HEAD + 8 * CKW_PARTS], *at = ckw_begin(msg, CKW_NARROWED);
	uint32_t nr = status ? 0 : p->nr_parts;

	ckw_narrowed_put(at, id, status);
	at += CKW_NARROWED_HEAD;
	for (uint32_t i = 0; i < nr; i++, at += 8)
		ckw_part_put(at, p->parts[i]);
	ckw_end(msg, (uint16_t)nr);
	c->host->peer_send(c->host, p->peer, msg, (size_t)(at - msg));
}

/* Whether the parts of a NARROW are such as a filter of ours names. */
static bool narrow_valid(const struct ckw_ask *ask)
{
	return ask->value && ask->value <= ask->len && ask->len <= CKW_NARROW_MAX &&
	       (ask->len + ask->value - 1) / ask->value <= CKW_PARTS;
}

void ck_asked(struct ck *c, struct ck_peer *p, const struct ckw_ask *ask, bool narrow)
{
	uint8_t msg[CKW_HEAD + CKW_ANSWER_SIZE];
	struct ckw_answer answer = {.id = ask->id, .status = -EBUSY};
	bool valid = !narrow || narrow_valid(ask);

	/* After a fence nothing here is read for that peer. */
	if (!p->todo && !p->fence_seen && valid)
		p->todo = c->host->alloc(c->host, CK_SLOTS * sizeof *p->todo);
	if (!p->fence_seen && valid && p->todo && p->todo_tail - p->todo_head < CK_SLOTS) {
		p->todo[p->todo_tail++ % CK_SLOTS] = (struct ck_todo){.ask = *ask, .narrow = narrow};
		return;
	}
	/* A filter of ours never asks so much. */
	if (narrow) {
		narrowed_send(c, p, ask->id, valid ? -EBUSY : -EINVAL);
		return;
	}
	ckw_answer_put(ckw_begin(msg, CKW_ANSWER), &answer);
	ckw_end(msg, 1);
	c->host->peer_send(c->host, p->peer, msg, sizeof msg);
}

bool ck_answer_busy(const struct ck_peer *p)
{
	return p->todo_head != p->todo_tail;
}

void ck_answer_drop(struct ck_peer *p)
{
	p->todo_head = p->todo_tail;
	p->todo_done = 0;
	p->nr_parts = 0;
}

/* Bytes of a NARROW, which begin at todo_done: whole parts and pieces of them. */
static void hash_parts(struct ck_peer *p, const struct ckw_ask *ask, const uint8_t *at, uint64_t len)
{
	while (len) {
		uint64_t in = p->todo_done % ask->value;
		uint64_t n = MC_MIN(len, ask->value - in);

		if (!in)
			XXH3_64bits_reset(&p->state);
		XXH3_64bits_update(&p->state, at, n);
		p->todo_done += n;
		if (in + n == ask->value || p->todo_done == ask->len)
			p->parts[p->nr_parts++] = ask->value == 1 ? *at : XXH3_64bits_digest(&p->state);
		at += n;
		len -= n;
	}
}

/* A step of the first question.  True: it is answered, *status says how. */
static bool step(struct ck *c, struct ck_peer *p, uint64_t *bytes, int *status)
{
	const struct ck_todo *todo = &p->todo[p->todo_head % CK_SLOTS];
	const struct ckw_ask *ask = &todo->ask;
	uint64_t len = MC_MIN(ask->len - p->todo_done, STEP_BYTES);
	struct mc_range range;
	int r;

	if (!p->todo_done) {
		XXH3_64bits_reset(&p->state);
		p->nr_parts = 0;
	}
	r = get(c, p, ask, p->todo_done, len, &range);
	if (r == 0) {
		if (todo->narrow) {
			hash_parts(p, ask, range.addr, len);
		} else {
			XXH3_64bits_update(&p->state, range.addr, len);
			p->todo_done += len;
		}
		c->host->range_put(c->host, &range);
		*bytes += len;
		if (p->todo_done < ask->len)
			return false;
	}
	*status = r;
	p->todo_done = 0;
	p->todo_head++;
	return true;
}

int ck_answer_turn(struct ck *c, struct ck_peer *p, uint64_t *budget)
{
	uint8_t msg[CKW_MSG_MAX], *at = ckw_begin(msg, CKW_ANSWER);
	uint64_t bytes = 0;
	uint16_t nr = 0;
	int events = 0;

	while (ck_answer_busy(p) && bytes < *budget && nr < CKW_ANSWERS) {
		const struct ck_todo *todo = &p->todo[p->todo_head % CK_SLOTS];
		struct ckw_answer answer = {.id = todo->ask.id};

		events++;
		if (!step(c, p, &bytes, &answer.status))
			continue;
		if (todo->narrow) {
			narrowed_send(c, p, answer.id, answer.status);
			bytes += NARROWED_COST;
			continue;
		}
		mc_counter_add(c->answered, 1);
		answer.hash = answer.status ? 0 : XXH3_64bits_digest(&p->state);
		ckw_answer_put(at, &answer);
		at += CKW_ANSWER_SIZE;
		nr++;
	}
	if (nr) {
		ckw_end(msg, nr);
		/* Without a control connection the other end is told of its loss. */
		c->host->peer_send(c->host, p->peer, msg, (size_t)(at - msg));
	}
	*budget -= MC_MIN(bytes, *budget);
	return events;
}
