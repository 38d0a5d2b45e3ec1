/* SPDX-License-Identifier: Apache-2.0 */
/* What a getter asks whom for next: rarest shard first, near sources before far ones, few in flight at each.
 * Also whose bitmaps to read again, and when to come back to who refused.
 *
 * Pure: no I/O, no clock of its own (now_ns is passed in, monotonic), no allocation after _new, the same seed
 * and calls give the same answers.  One per get; not thread-safe, the get's lock guards it.  The simulation of
 * bench/p2p-scale runs the same code.
 *
 * The way of a shard: _next gives a source and candidates -> the GRANT is sent -> _granted (the source chose
 * one), _refused or _source_drop -> READ and hash -> _done, _failed or _slow.  Each _next that returned 0 is followed
 * by exactly one of the second step, each _granted that returned 0 by exactly one of the third, unless the
 * source is dropped, which ends both kinds. */
#ifndef MC_P2P_PICK_H
#define MC_P2P_PICK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MC_P2P_CANDIDATES 16    /* most candidates of one GRANT */
#define MC_P2P_SAMPLE 8         /* most bitmaps read in MC_P2P_SAMPLE_NS, all sources together */
#define MC_P2P_SAMPLE_NS 200000000ull

enum mc_p2p_near { MC_P2P_HOST, MC_P2P_RACK, MC_P2P_FAR };

struct mc_p2p_pick;

struct mc_p2p_pick_limits {
	uint32_t per_source;    /* most GRANTs and shards in flight at one source, fewer at many sources; 0: 4 */
	uint32_t per_getter;    /* the same, at all of them: lanes and two more; 0: 6 */
	uint32_t nr_candidates; /* 0: MC_P2P_CANDIDATES, which is also the most */
};

/* 1 <= nr_shards, 1 <= max_sources; limits may be NULL.  -EINVAL, -ENOMEM. */
int mc_p2p_pick_new(uint32_t nr_shards, uint32_t max_sources, const struct mc_p2p_pick_limits *limits,
		    uint64_t seed, struct mc_p2p_pick **ret_pick);
void mc_p2p_pick_free(struct mc_p2p_pick *pick);

/* A source without a bitmap yet.  Returns its index, which is used again after a drop; -ENOSPC. */
int mc_p2p_pick_source_add(struct mc_p2p_pick *pick, enum mc_p2p_near near, uint64_t now_ns);
/* It is gone, or is not to be asked any more: what was in flight there is wanted again. */
void mc_p2p_pick_source_drop(struct mc_p2p_pick *pick, uint32_t source);
/* What it has now: bit k of byte k / 8 (the lowest first) is shard k; NULL: everything. */
void mc_p2p_pick_source_map(struct mc_p2p_pick *pick, uint32_t source, const uint8_t *bitmap,
			    uint64_t now_ns);
/* Its bitmap could not be read just now: not before the next ones. */
void mc_p2p_pick_source_unread(struct mc_p2p_pick *pick, uint32_t source, uint64_t now_ns);
/* The shard is ours already. */
void mc_p2p_pick_have(struct mc_p2p_pick *pick, uint32_t shard);

/* Whom to ask, and the shards to offer, those most wanted first; candidates has room for MC_P2P_CANDIDATES.
 * 0: ask (counted as in flight there) · -EAGAIN: nothing now, see _wake; also while all that is missing is in
 * flight · -ENODATA: nobody known has what is missing, nothing is in flight · -EALREADY: nothing is missing. */
int mc_p2p_pick_next(struct mc_p2p_pick *pick, uint64_t now_ns, uint32_t *ret_source,
		     uint32_t *ret_candidates, uint32_t *ret_nr);

/* The source chose this shard.  0: READ it · -EALREADY: it has come, or comes, from elsewhere by now: say DONE
 * (declined) and ask again · -EINVAL: no such shard or no GRANT open there: a foreign answer gone wrong. */
int mc_p2p_pick_granted(struct mc_p2p_pick *pick, uint32_t source, uint32_t shard, uint64_t now_ns);
/* It had no slot.  retry_at_ns: not to be asked before, and later each time in a row; 0: we choose. */
void mc_p2p_pick_refused(struct mc_p2p_pick *pick, uint32_t source, uint64_t retry_at_ns, uint64_t now_ns);
/* The shard is here and verified. */
void mc_p2p_pick_done(struct mc_p2p_pick *pick, uint32_t source, uint32_t shard, uint64_t bytes,
		      uint64_t now_ns);
/* The READ failed or the shard did not verify: it is wanted again, and not from there (corrupt: the caller
 * drops the source besides). */
void mc_p2p_pick_failed(struct mc_p2p_pick *pick, uint32_t source, uint32_t shard, bool corrupt,
			uint64_t now_ns);
/* Would this shard better come from elsewhere, if it is slow to come?  Another source has it that is not slow, and all
 * that is wanted is in flight, or as much as may be. */
bool mc_p2p_pick_elsewhere(const struct mc_p2p_pick *pick, uint32_t source, uint32_t shard);
/* It was too slow: the shard is wanted again, and the source gives from now on only what no other has. */
void mc_p2p_pick_slow(struct mc_p2p_pick *pick, uint32_t source, uint32_t shard);

/* Whose bitmaps to READ now: at most max and what MC_P2P_SAMPLE leaves.  Each is followed by _source_map,
 * _source_unread or _source_drop.  Returns how many, 0 if it is too early. */
size_t mc_p2p_pick_sample(struct mc_p2p_pick *pick, uint32_t *ret_sources, size_t max, uint64_t now_ns);

/* When _next or _sample may answer otherwise than now if nothing else happens; UINT64_MAX: never. */
uint64_t mc_p2p_pick_wake(const struct mc_p2p_pick *pick, uint64_t now_ns);

/* For progress and logs. */
uint32_t mc_p2p_pick_missing(const struct mc_p2p_pick *pick);   /* not here yet, in flight or not */
uint32_t mc_p2p_pick_flying(const struct mc_p2p_pick *pick);    /* GRANTs and shards in flight */

#endif
