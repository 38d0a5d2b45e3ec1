/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which block goes when room is needed: pure code, no clock, no thread, no I/O.
 *
 * Blocks come in chains: a request's ordered list of blocks, each of which is of use only with
 * those before it.  From that follow two things.  Only blocks that no other stands on are
 * candidates, so a chain goes from its end.  And how soon a block is wanted again depends on where
 * it stands: whether its chain went on where another had ended (a conversation's next turn), how
 * often it has been wanted, whether it was the last one.  What each such class of blocks is worth
 * at each age is learnt while it runs, from a sample of all accesses that outlives the blocks
 * themselves: the chance to be wanted over the time until then, for the best time to wait (the
 * index of Gittins).
 *
 * Threads: locked by its owner.  Time is counted in accesses.
 */
#ifndef MC_STORE_POLICY_H
#define MC_STORE_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mc_policy;

/* One block, inside the owner's object; zeroed before its first access, and where it is until it is
 * removed. */
struct mc_policy_node {
	struct mc_policy_node *parent, *child, *next,
		*prev; /* the one before it; those after it: a list */
	uint32_t touched; /* time of the last access */
	uint32_t leaf; /* its place among the candidates */
	uint8_t class;
	uint8_t hits; /* saturating */
	uint8_t turn; /* 1: its chain went on where another one had ended */
	uint8_t flags;
	uint32_t reserved;
};

_Static_assert(sizeof(struct mc_policy_node) <= 48, "the master has 300 bytes per object");

struct mc_policy_stats {
	uint64_t nr_accesses, nr_nodes, nr_leaves;
	uint64_t metadata; /* bytes, beside the nodes */
};

/* capacity: about how many blocks there will be, for the time scale and the size of the sample; it
 * need not be exact.  returns 0; -EINVAL, -ENOMEM */
int mc_policy_new(uint64_t capacity, uint64_t seed, struct mc_policy **ret_policy);
/* Nodes are not touched any more.  Accepts NULL. */
void mc_policy_free(struct mc_policy *policy);

/* A request: its blocks in order of the chain, those that were there and those that are new; keys
 * are 64-bit hashes of theirs.  after: the node that the first one stands on, or NULL: it begins a
 * chain. A block that is known keeps its place.  returns 0; -ENOMEM: none of the new ones is known
 */
int mc_policy_access(struct mc_policy *policy, struct mc_policy_node *after,
		     struct mc_policy_node *const *nodes, const uint64_t *keys, size_t nr);
/* A block has gone, with the hash of its key.  Those that stood on it begin chains of their own,
 * and are the next to go.  remember: it was evicted; when it comes again, it is known how it has
 * been used. */
void mc_policy_remove(struct mc_policy *policy, struct mc_policy_node *node, uint64_t key,
		      bool remember);

/* What a block stands on, and it, is about to be gone on from: the access itself is told when the new
 * ones are there, but room for them is made before, and not by these. */
void mc_policy_touch(struct mc_policy *policy, struct mc_policy_node *node);

/* The block that should go now, or NULL: none may.  It stays known until it is removed.
 * ahead: how many accesses are about to be told, of those that room is made for: blocks are as old as
 * they will be then.  may_go: leases and pins (NULL: all may); asked for few blocks, best victim
 * first. */
struct mc_policy_node *
mc_policy_victim(struct mc_policy *policy, uint32_t ahead,
		 bool (*may_go)(void *arg, const struct mc_policy_node *node), void *arg);
void mc_policy_stats(const struct mc_policy *policy, struct mc_policy_stats *stats);

#endif
