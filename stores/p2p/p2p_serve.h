/* SPDX-License-Identifier: Apache-2.0 */
/* Who may read from a source, and which shard: a few slots at once, who asks first is served first, and of the
 * shards that a getter would take the one that was granted least often, so that a rare shard leaves once.
 *
 * Pure, as p2p_pick.h: no I/O, no clock, no allocation after _new; not thread-safe, the store's lock guards it.
 * One per store: slots and the rate are those of the process, tallies are each object's. */
#ifndef MC_P2P_SERVE_H
#define MC_P2P_SERVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "p2p_pick.h"

struct mc_p2p_serve;

struct mc_p2p_serve_limits {
	uint32_t slots;         /* shards on their way at once; 0: 4 */
	uint32_t queue;         /* GRANTs that wait for a slot; 0: as many as slots */
	uint64_t slot_ns;       /* a slot ends when its getter has not been heard of for so long; 0: 30 s */
	uint64_t rate;          /* bytes/s that the process may serve; 0: no cap */
};

/* An object that is served; the caller's, it outlives its GRANTs (see _forget). */
struct mc_p2p_tally {
	uint32_t nr_shards;
	uint32_t *granted;      /* nr_shards counts, zeroed by the caller at first */
	const uint8_t *map;     /* bits set (with release) for the shards that are here; NULL: all are */
};

struct mc_p2p_grant {
	uint64_t ticket;        /* of _ask */
	uint64_t getter;        /* likewise */
	int status;             /* 0: granted · -EAGAIN: no slot came, ask again after retry_ns */
	uint64_t slot;          /* never 0, never the same again */
	uint32_t shard;
	uint64_t rate;          /* bytes/s for this shard; 0: no cap */
	uint64_t retry_ns;
};

enum mc_p2p_end {
	MC_P2P_END_OK,
	MC_P2P_END_DECLINED,    /* it was not read: does not count as granted */
	MC_P2P_END_FAILED,      /* likewise; the caller looks into why */
};

int mc_p2p_serve_new(const struct mc_p2p_serve_limits *limits, struct mc_p2p_serve **ret_serve);
void mc_p2p_serve_free(struct mc_p2p_serve *serve);

/* A getter (any number of the caller's, see _gone) asks for one of nr candidates of an object.
 *   deadline_ns   it is answered by then; the caller takes off what the answer needs to arrive
 *   returns       0: *ret_grant is the answer · -EINPROGRESS: it waits, ret_grant->ticket is set, _next answers ·
 *                 -EAGAIN: the queue is full, ret_grant->retry_ns is set · -ENODATA: none of them is here ·
 *                 -EINVAL: none or too many candidates, or one that the object has not */
int mc_p2p_serve_ask(struct mc_p2p_serve *serve, const struct mc_p2p_tally *tally, uint64_t getter,
		     const uint32_t *candidates, uint32_t nr, uint64_t deadline_ns, uint64_t now_ns,
		     struct mc_p2p_grant *ret_grant);
/* The getter lives: its slots go on, however long a shard takes.  _ask and _done say so, too. */
void mc_p2p_serve_heard(struct mc_p2p_serve *serve, uint64_t getter, uint64_t now_ns);
/* A slot ends.  -ENOENT: it had ended, or is another getter's.  Then call _next until it returns 0. */
int mc_p2p_serve_done(struct mc_p2p_serve *serve, uint64_t getter, uint64_t slot, enum mc_p2p_end end,
		      uint64_t now_ns);
/* The next waiting GRANT to be answered: by a slot that is free, or because its deadline is near.  1, or 0. */
int mc_p2p_serve_next(struct mc_p2p_serve *serve, uint64_t now_ns, struct mc_p2p_grant *ret_grant);
/* The getter wants no more of the object, of all objects if that is NULL: its slots are free, what it has not ended
 * does not count as granted, and nothing is kept for what it waits for.  ret_tickets as with _close. */
size_t mc_p2p_serve_gone(struct mc_p2p_serve *serve, const struct mc_p2p_tally *tally, uint64_t getter,
			 uint64_t *ret_tickets, size_t max);
/* The object gets no more slots: who waits for one is let go.  ret_tickets (room for max) are those that still want
 * an answer; returns how many, at most limits.queue. */
size_t mc_p2p_serve_close(struct mc_p2p_serve *serve, const struct mc_p2p_tally *tally, uint64_t *ret_tickets,
			  size_t max);
/* Slots in use of this object. */
uint32_t mc_p2p_serve_busy(struct mc_p2p_serve *serve, const struct mc_p2p_tally *tally, uint64_t now_ns);
/* The object is not served any more: its slots end, and as _close. */
size_t mc_p2p_serve_forget(struct mc_p2p_serve *serve, const struct mc_p2p_tally *tally,
			   uint64_t *ret_tickets, size_t max);
/* When to call _next although nothing has happened; UINT64_MAX: never. */
uint64_t mc_p2p_serve_wake(const struct mc_p2p_serve *serve);
/* Slots in use; GRANTs waiting. */
uint32_t mc_p2p_serve_active(const struct mc_p2p_serve *serve);
uint32_t mc_p2p_serve_waiting(const struct mc_p2p_serve *serve);

#endif
