/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to the checksum filter.  Everything belongs to the instance's worker;
 * there is no lock.  A slice that is verified goes through these places:
 *
 *   BELOW --done--> (FLUSHING) --> WANT --message--> ASKED --equal--> told
 *     ^                                                `--differs--> NARROWING
 *     `---------------- AGAIN (sent again) <----------------------------'
 *
 * READY: over, told in the next turn, because it may not be told where it ended.
 */
#ifndef MC_CHECKSUM_H
#define MC_CHECKSUM_H

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <mooncake/transport.h>

#include "checksum_wire.h"

#define CK_TURN_BYTES (UINT64_C(4) << 20) /* hashed in a turn for all peers together */
#define CK_SLOTS 1024u /* asked at a time, per peer; also what a target keeps for one */

struct ck_link {
	struct ck_link *prev, *next;
};

enum ck_place { CK_BELOW = 0, CK_FLUSHING, CK_WANT, CK_ASKED, CK_NARROWING, CK_AGAIN, CK_READY };

/* In the slice's private area. */
struct ck_op {
	struct ck_link link; /* first; unless BELOW or FLUSHING */
	struct mc_slice *slice;
	enum ck_place place;
	bool chosen;  /* it will be verified */
	bool flushed; /* it is visible at the target */
	uint32_t id;  /* ASKED, NARROWING */
	uint32_t tries;
	uint64_t hash;
	/* NARROWING: where in the slice the first difference lies, so far. */
	uint64_t from, span, part;
	uint32_t level, wrong, parts; /* of the first step: parts that differ, of how many */
	int status, scope;	      /* READY */
	uint64_t done_len;
};

struct ck_todo {
	struct ckw_ask ask;
	bool narrow;
};

struct ck_peer {
	struct ck_link link; /* first; inst->peers */
	void *peer;	     /* the transport's area */
	char segment[64], device[64];
	bool able; /* the other end has this filter */
	bool passive, fence_seen;
	uint32_t fenced;
	/* Active. */
	struct ck_link want, asked;
	struct ck_op **slots; /* CK_SLOTS */
	uint16_t *free_slots;
	uint32_t nr_free, seq;
	uint64_t warned_ns;
	uint64_t muted_ns; /* until then it is not asked */
	/* Passive: what the other end asks, of either kind, a ring of CK_SLOTS. */
	struct ck_todo *todo;
	uint32_t todo_head, todo_tail;
	uint64_t todo_done; /* bytes of the first that are hashed */
	XXH3_state_t state; /* of the first, or of its present part */
	uint32_t nr_parts;  /* of a NARROW that are hashed */
	uint64_t parts[CKW_PARTS];
};

struct ck {
	const struct mc_host *host;
	const struct mc_filter_next *next;
	double sample;
	uint32_t retries;
	uint64_t generation; /* of this engine */
	bool flushes; /* writes are visible after a flush only */
	bool stopped, kind_warned, flush_due;
	uint64_t nr; /* slices that could be verified, so far */
	struct ck_link peers, ready, again;
	struct mc_timer timer;
	uint64_t unable[16]; /* hashes of names of peers without the filter, that were named */
	uint32_t nr_unable;
	uint64_t *verified, *bytes, *mismatches, *repaired, *given_up, *unverified, *answered;
};

static inline struct ck_peer *ck_peer_of(const struct ck *c, void *peer)
{
	return c->next->peer_priv(c->next, peer);
}

/* checksum.c */
void ck_insert(struct ck_link *head, struct ck_op *op, enum ck_place place); /* at the end */
void ck_take(struct ck_op *op);
struct ck_op *ck_first(struct ck_link *head);
/* Told upwards in the next turn. */
void ck_end(struct ck *c, struct ck_op *op, int status, int scope);
/* A turn by then at the latest. */
void ck_wake_at(struct ck *c, uint64_t at_ns);
/* Its bytes have arrived wrong: sent again, or given up. */
void ck_repeat(struct ck *c, struct ck_op *op);

/* checksum_ask.c: the initiator's half. */
bool ck_ask_due(const struct ck *c, struct ck_peer *p);
int ck_ask_turn(struct ck *c, struct ck_peer *p);
void ck_answered(struct ck *c, struct ck_peer *p, const struct ckw_answer *answer);
void ck_narrowed(struct ck *c, struct ck_peer *p, const void *msg, uint16_t nr);
void ck_slot_free(struct ck_peer *p, struct ck_op *op);

/* checksum_answer.c: the target's half. */
void ck_asked(struct ck *c, struct ck_peer *p, const struct ckw_ask *ask, bool narrow);
bool ck_answer_busy(const struct ck_peer *p);
void ck_answer_drop(struct ck_peer *p);
/* Takes what it hashes from *budget, and is at most a step beyond it. */
int ck_answer_turn(struct ck *c, struct ck_peer *p, uint64_t *budget);

#endif
