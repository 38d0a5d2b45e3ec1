/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The initiator's half: hash the local range of slices that the transport has done,
 * ask the other end for its own, compare.  If they differ, ask for hashes of ever
 * smaller parts until one byte is found, name it, and send the slice again.
 */
#include <errno.h>
#include <string.h>

#include "checksum.h"
#include "core/util/check.h"

#define MUTED_NS (5 * MC_MSEC) /* until a peer that could not be asked is asked again */
#define WARN_NS MC_SEC /* one warning per peer and span, the first at once */

/* ---- slots: the ids of what was asked ------------------------------------------------------------ */

/* The upper bits of an id tell a late answer from one to the slot's next user. */
static uint32_t slot_take(struct ck_peer *p, struct ck_op *op)
{
	uint32_t slot = p->free_slots[--p->nr_free];

	p->slots[slot] = op;
	return slot | p->seq++ * CK_SLOTS;
}

void ck_slot_free(struct ck_peer *p, struct ck_op *op)
{
	uint32_t slot = op->id % CK_SLOTS;

	p->slots[slot] = NULL;
	p->free_slots[p->nr_free++] = (uint16_t)slot;
}

static struct ck_op *slot_find(struct ck_peer *p, uint32_t id, enum ck_place place)
{
	struct ck_op *op = p->slots ? p->slots[id % CK_SLOTS] : NULL;

	return op && op->id == id && op->place == place ? op : NULL;
}

static bool may_warn(struct ck *c, struct ck_peer *p)
{
	uint64_t now = c->host->now_ns(c->host);

	if (p->warned_ns && now - p->warned_ns < WARN_NS)
		return false;
	p->warned_ns = now;
	return true;
}

/* Over, and the other end could not say what is there. */
static void unverified(struct ck *c, struct ck_peer *p, struct ck_op *op, int status)
{
	const struct mc_slice *s = op->slice;

	mc_counter_add(c->unverified, 1);
	if (may_warn(c, p))
		c->host->log(c->host, MC_LOG_WARN, "peer '%s': rail %s -> %s: a %s of %llu bytes at 0x%llx is not verified: %s",
			     p->segment, c->host->instance, p->device, s->opcode == MC_OP_READ ? "read" : "write",
			     (unsigned long long)s->len, (unsigned long long)s->remote_offset,
			     status == -EOPNOTSUPP ? "it is no memory that the CPU can read" : strerror(-status));
	ck_end(c, op, 0, MC_SCOPE_NONE);
}

/* ---- asking ---------------------------------------------------------------------------------------- */

static void ask_fill(struct ckw_ask *ask, const struct ck_op *op, uint64_t from, uint64_t len, uint64_t value)
{
	*ask = (struct ckw_ask){.id = op->id, .opcode = op->slice->opcode,
				.offset = op->slice->remote_offset + from, .len = len, .value = value};
}

bool ck_ask_due(const struct ck *c, struct ck_peer *p)
{
	return p->nr_free && ck_first(&p->want) && (!p->muted_ns || c->host->now_ns(c->host) >= p->muted_ns);
}

int ck_ask_turn(struct ck *c, struct ck_peer *p)
{
	int events = 0;

	if (!ck_ask_due(c, p))
		return 0;
	p->muted_ns = 0;

	while (p->nr_free && ck_first(&p->want)) {
		struct ck_op *ops[CKW_ASKS], *op;
		uint8_t msg[CKW_MSG_MAX], *at = ckw_begin(msg, CKW_ASK);
		uint16_t nr = 0;

		while (nr < CKW_ASKS && p->nr_free && (op = ck_first(&p->want))) {
			struct ckw_ask ask;

			ck_take(op);
			op->hash = XXH3_64bits(op->slice->local, op->slice->len);
			op->id = slot_take(p, op);
			ck_insert(&p->asked, op, CK_ASKED);
			ask_fill(&ask, op, 0, op->slice->len, op->hash);
			ckw_ask_put(at, &ask);
			at += CKW_ASK_SIZE;
			ops[nr++] = op;
		}
		ckw_end(msg, nr);
		events += nr;
		if (c->host->peer_send(c->host, p->peer, msg, (size_t)(at - msg)) == 0)
			continue;
		/* No control connection now: asked again when it is back, or fenced when it is not. */
		while (nr--) {
			ck_slot_free(p, ops[nr]);
			ck_take(ops[nr]);
			ck_insert(&p->want, ops[nr], CK_WANT);
		}
		p->muted_ns = c->host->now_ns(c->host) + MUTED_NS;
		ck_wake_at(c, p->muted_ns);
		break;
	}
	return events;
}

static void equal(struct ck *c, struct ck_op *op)
{
	mc_counter_add(c->verified, 1);
	mc_counter_add(c->bytes, op->slice->len);
	if (op->tries)
		mc_counter_add(c->repaired, 1);
	ck_end(c, op, 0, MC_SCOPE_NONE);
}

/* ---- where it differs ------------------------------------------------------------------------------ */

static bool narrow_next(struct ck *c, struct ck_peer *p, struct ck_op *op)
{
	uint8_t msg[CKW_HEAD + CKW_ASK_SIZE];
	struct ckw_ask ask;

	op->part = (op->span + CKW_PARTS - 1) / CKW_PARTS;
	ask_fill(&ask, op, op->from, op->span, op->part);
	ckw_ask_put(ckw_begin(msg, CKW_NARROW), &ask);
	ckw_end(msg, 1);
	return c->host->peer_send(c->host, p->peer, msg, sizeof msg) == 0;
}

/* Every mismatch is counted; one sentence per second says which it was. */
static void report(struct ck *c, struct ck_peer *p, struct ck_op *op, int theirs)
{
	const struct mc_slice *s = op->slice;
	bool read = s->opcode == MC_OP_READ;
	int ours = ((const unsigned char *)s->local)[op->from];
	char where[192];

	if (!may_warn(c, p))
		return;
	if (theirs >= 0)
		snprintf(where, sizeof where,
			 "the byte at 0x%llx, offset %llu of it, is 0x%02x instead of 0x%02x (bits 0x%02x); %u of "
			 "its %u parts differ",
			 (unsigned long long)(s->remote_offset + op->from), (unsigned long long)op->from,
			 read ? ours : theirs, read ? theirs : ours, ours ^ theirs, op->wrong, op->parts);
	else
		snprintf(where, sizeof where, "%s", op->level ? "it differs no more: was it overwritten meanwhile?"
							       : "the place could not be found");
	c->host->log(c->host, MC_LOG_WARN,
		     "peer '%s': rail %s -> %s: a %s of %llu bytes at 0x%llx has arrived wrong: %s; it is %s",
		     p->segment, c->host->instance, p->device, read ? "read" : "write",
		     (unsigned long long)s->len, (unsigned long long)s->remote_offset, where,
		     op->tries < c->retries ? "sent again" : "left to another rail, or fails");
}

static void found(struct ck *c, struct ck_peer *p, struct ck_op *op, int theirs)
{
	ck_slot_free(p, op);
	ck_take(op);
	report(c, p, op, theirs);
	ck_repeat(c, op);
}

static void differs(struct ck *c, struct ck_peer *p, struct ck_op *op)
{
	mc_counter_add(c->mismatches, 1);
	op->from = 0;
	op->span = op->slice->len;
	op->level = op->wrong = op->parts = 0;
	ck_take(op);
	ck_insert(&p->asked, op, CK_NARROWING);
	if (op->span > CKW_NARROW_MAX || !narrow_next(c, p, op))
		found(c, p, op, -1);
}

void ck_answered(struct ck *c, struct ck_peer *p, const struct ckw_answer *answer)
{
	struct ck_op *op = slot_find(p, answer->id, CK_ASKED);

	if (!op)
		return;
	if (answer->status == 0 && answer->hash != op->hash) {
		differs(c, p, op);
		return;
	}
	ck_slot_free(p, op);
	ck_take(op);
	if (answer->status == 0)
		equal(c, op);
	else
		unverified(c, p, op, answer->status);
}

void ck_narrowed(struct ck *c, struct ck_peer *p, const void *msg, uint16_t nr)
{
	uint64_t first = 0, n = 0, parts;
	struct ckw_answer answer;
	const uint8_t *local;
	struct ck_op *op;
	int theirs = -1;

	ckw_narrowed_get(msg, &answer);
	op = slot_find(p, answer.id, CK_NARROWING);
	if (!op)
		return;
	parts = (op->span + op->part - 1) / op->part;
	if (answer.status < 0 || nr != parts) {
		found(c, p, op, -1);
		return;
	}
	local = (const uint8_t *)op->slice->local + op->from;
	for (uint64_t i = 0; i < parts; i++) {
		uint64_t at = i * op->part, len = MC_MIN(op->part, op->span - at);
		uint64_t ours = op->part == 1 ? local[at] : XXH3_64bits(local + at, len);

		if (ours == ckw_narrowed_part(msg, (uint16_t)i))
			continue;
		if (!n++)
			first = i;
	}
	if (!op->level++) {
		op->wrong = (uint32_t)n;
		op->parts = (uint32_t)parts;
	}
	if (!n) {
		found(c, p, op, -1);
		return;
	}
	op->from += first * op->part;
	op->span = MC_MIN(op->part, op->span - first * op->part);
	if (op->part == 1)
		theirs = (int)(ckw_narrowed_part(msg, (uint16_t)first) & 0xff);
	if (op->part == 1 || !narrow_next(c, p, op))
		found(c, p, op, theirs);
}
