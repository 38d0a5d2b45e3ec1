/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The policy: chains as a forest of nodes, candidates (leaves of it) in an array to draw from, and
 * the choice of a victim: the least worth of some that are drawn and of some that were nearly
 * chosen last time.
 */
#include <errno.h>
#include <stdlib.h>

#include "core/util/check.h"
#include "policy_learn.h"
#include "store_policy.h"

#define NONE UINT32_MAX
#define DRAWN 48u
#define SEARCHED 4096u /* when none of those may go */
#define SETTLE_MIN 512u
#define GHOSTS_MIN (1u << 16)
#define WAYS 8u /* ghosts of one cache line */

#define KNOWN 1u /* flags: the node is in here */
#define TAIL 2u /* it was one of the last two of its chain when it was accessed last */
#define ORPHAN 4u /* what it stood on has gone */
#define BACK 8u /* it has been here before, which a ghost tells */

/* How a block was used that was evicted; found by the hash of its key, of which tag is a part. */
struct ghost {
	uint32_t touched; /* the oldest of a set makes room */
	uint16_t tag; /* 0: nothing is here */
	uint8_t hits;
	uint8_t turn_tail; /* twice the turn, and whether it was TAIL */
};

struct mc_policy {
	struct learn learn;
	struct ghost *ghosts;
	uint32_t ghost_mask; /* of sets of WAYS */
	struct mc_policy_node **leaves;
	uint32_t nr_leaves, cap;
	uint64_t nr_nodes, nr_accesses, random;
	uint32_t now, next_settle, settle_every;
};

static uint32_t draw_below(struct mc_policy *p, uint32_t limit)
{
	p->random ^= p->random << 13;
	p->random ^= p->random >> 7;
	p->random ^= p->random << 17;
	return (uint32_t)((p->random >> 32) * limit >> 32);
}

/* ---- the forest --------------------------------------------------------------------------------
 */

static void leaf_add(struct mc_policy *p, struct mc_policy_node *n)
{
	n->leaf = p->nr_leaves;
	p->leaves[p->nr_leaves++] = n;
}

static void leaf_remove(struct mc_policy *p, struct mc_policy_node *n)
{
	struct mc_policy_node *last = p->leaves[--p->nr_leaves];

	p->leaves[n->leaf] = last;
	last->leaf = n->leaf;
	n->leaf = NONE;
}

static void join(struct mc_policy *p, struct mc_policy_node *parent, struct mc_policy_node *n)
{
	n->parent = parent;
	n->prev = NULL;
	n->next = parent ? parent->child : NULL;
	if (!parent)
		return;
	if (parent->child)
		parent->child->prev = n;
	else
		leaf_remove(p, parent);
	parent->child = n;
}

static void leave(struct mc_policy *p, struct mc_policy_node *n)
{
	struct mc_policy_node *parent = n->parent;

	if (!parent)
		return;
	if (n->prev)
		n->prev->next = n->next;
	else
		parent->child = n->next;
	if (n->next)
		n->next->prev = n->prev;
	n->parent = n->next = n->prev = NULL;
	if (!parent->child)
		leaf_add(p, parent);
}

/* ---- ghosts ------------------------------------------------------------------------------------
 */

static struct ghost *ghost_set(const struct mc_policy *p, uint64_t key, uint16_t *ret_tag)
{
	uint64_t x = (key ^ key >> 32) * UINT64_C(0xd6e8feb86659fd93);

	x = (x ^ x >> 32) * UINT64_C(0xd6e8feb86659fd93);
	*ret_tag = (uint16_t)(x >> 48 ? x >> 48 : 1);
	return &p->ghosts[((uint32_t)x & p->ghost_mask) * WAYS];
}

static void ghost_put(struct mc_policy *p, const struct mc_policy_node *n, uint64_t key)
{
	uint16_t tag;
	struct ghost *set = ghost_set(p, key, &tag), *place = set;

	for (uint32_t i = 0; i < WAYS; i++) {
		if (!set[i].tag || set[i].tag == tag) {
			place = &set[i];
			break;
		}
		if ((int32_t)(set[i].touched - place->touched) < 0)
			place = &set[i];
	}
	*place = (struct ghost){n->touched, tag, n->hits,
				(uint8_t)(n->turn << 1 | !!(n->flags & TAIL))};
}

/* A new node, as its ghost says it was. */
static void ghost_take(struct mc_policy *p, struct mc_policy_node *n, uint64_t key)
{
	uint16_t tag;
	struct ghost *set = ghost_set(p, key, &tag);

	*n = (struct mc_policy_node){0};
	for (uint32_t i = 0; i < WAYS; i++) {
		if (set[i].tag != tag)
			continue;
		n->hits = set[i].hits;
		n->turn = set[i].turn_tail >> 1;
		n->flags = (uint8_t)(BACK | (set[i].turn_tail & 1 ? TAIL : 0));
		set[i].tag = 0;
		return;
	}
}

void mc_policy_remove(struct mc_policy *p, struct mc_policy_node *n, uint64_t key, bool remember)
{
	if (!(n->flags & KNOWN))
		return;
	if (remember)
		ghost_put(p, n, key);
	while (n->child) {
		struct mc_policy_node *child = n->child;

		leave(p, child);
		child->flags |= ORPHAN;
	}
	leaf_remove(p, n);
	leave(p, n);
	n->flags = 0;
	p->nr_nodes--;
}

/* ---- accesses ----------------------------------------------------------------------------------
 */

static int reserve_leaves(struct mc_policy *p, size_t more)
{
	uint64_t want = p->nr_nodes + more;
	struct mc_policy_node **leaves;

	if (want <= p->cap)
		return 0;
	if (want >= NONE)
		return -ENOMEM;
	want = MC_MIN(MC_MAX(want, (uint64_t)p->cap + p->cap / 2), NONE - 1);
	leaves = realloc(p->leaves, want * sizeof *leaves);
	if (!leaves)
		return -ENOMEM;
	p->leaves = leaves;
	p->cap = (uint32_t)want;
	return 0;
}

/* More levels do not find more: what the few blocks of a class do is then chance.  Fewer lose what
 * is wanted very often, which need not be wanted at once. */
static uint8_t class_of(const struct mc_policy_node *n, bool last)
{
	static const uint8_t from[] = {1, 2, 3, 6, 16, 40, 100};
	uint8_t level = 0;

	while (level < MC_ARRAY_SIZE(from) && n->hits >= from[level])
		level++;
	return (uint8_t)(last | n->turn << 1 | level << 2);
}

/* Does a chain go on where another one had ended? */
static uint8_t turn_of(const struct mc_policy_node *after, struct mc_policy_node *const *nodes,
		       size_t nr)
{
	const struct mc_policy_node *from = after;

	for (size_t i = 0; i < nr && nodes[i]->flags & (KNOWN | BACK); i++)
		from = nodes[i];
	return from && from->flags & TAIL;
}

int mc_policy_access(struct mc_policy *p, struct mc_policy_node *after,
		     struct mc_policy_node *const *nodes, const uint64_t *keys, size_t nr)
{
	int r = reserve_leaves(p, nr);
	uint8_t turn;

	if (r < 0)
		return r;
	for (size_t i = 0; i < nr; i++) {
		if (!(nodes[i]->flags & KNOWN))
			ghost_take(p, nodes[i], keys[i]);
	}
	turn = turn_of(after, nodes, nr);
	for (size_t i = 0; i < nr; i++) {
		struct mc_policy_node *n = nodes[i];

		if (n->flags & (KNOWN | BACK))
			n->hits += n->hits < 255;
		if (!(n->flags & KNOWN)) {
			p->nr_nodes++;
			leaf_add(p, n);
			join(p, i ? nodes[i - 1] : after, n);
		}
		n->turn = turn;
		n->flags = (uint8_t)((n->flags & ORPHAN) | KNOWN | (i + 2 >= nr ? TAIL : 0));
		n->class = class_of(n, i + 1 == nr);
		n->touched = p->now;
		learn_access(&p->learn, keys[i], p->now, n->class);
		p->now++;
		p->nr_accesses++;
	}
	if ((int32_t)(p->now - p->next_settle) >= 0) {
		learn_settle(&p->learn);
		p->next_settle = p->now + p->settle_every;
	}
	return 0;
}

/* ---- victims -----------------------------------------------------------------------------------
 */

void mc_policy_touch(struct mc_policy *p, struct mc_policy_node *node)
{
	for (struct mc_policy_node *n = node; n; n = n->parent)
		n->touched = p->now;
}

/* now: what the clock will show when what room is made for has been told. */
static float worth(const struct mc_policy *p, const struct mc_policy_node *n, uint32_t now)
{
	if (n->flags & ORPHAN)
		return 0;
	return p->learn.worth[n->class][learn_bin(&p->learn, now - n->touched)];
}

/* Candidates drawn at random.  Each is far away: all are fetched side by side. */
static uint32_t draw_candidates(struct mc_policy *p, struct mc_policy_node **drawn)
{
	uint32_t at[DRAWN], nr = p->nr_leaves ? DRAWN : 0;

	for (uint32_t i = 0; i < nr; i++) {
		at[i] = draw_below(p, p->nr_leaves);
		__builtin_prefetch(&p->leaves[at[i]]);
	}
	for (uint32_t i = 0; i < nr; i++) {
		drawn[i] = p->leaves[at[i]];
		__builtin_prefetch(&drawn[i]->touched);
	}
	return nr;
}

/* None of those drawn may go: the first that may behind a place drawn. */
static struct mc_policy_node *
any_candidate(struct mc_policy *p, bool (*may_go)(void *arg, const struct mc_policy_node *node),
	      void *arg)
{
	uint32_t at = p->nr_leaves ? draw_below(p, p->nr_leaves) : 0;

	for (uint32_t i = 0; i < MC_MIN(p->nr_leaves, SEARCHED); i++) {
		if (may_go(arg, p->leaves[at]))
			return p->leaves[at];
		at = at + 1 < p->nr_leaves ? at + 1 : 0;
	}
	return NULL;
}

struct mc_policy_node *
mc_policy_victim(struct mc_policy *p, uint32_t ahead,
		 bool (*may_go)(void *arg, const struct mc_policy_node *node), void *arg)
{
	struct mc_policy_node *best = NULL, *drawn[DRAWN];
	uint32_t nr = draw_candidates(p, drawn);
	float least = 0;

	for (uint32_t i = 0; i < nr; i++) {
		struct mc_policy_node *n = drawn[i];
		float w = worth(p, n, p->now + ahead);

		if ((!best || w < least ||
		     (w == least && (int32_t)(n->touched - best->touched) < 0)) &&
		    (!may_go || may_go(arg, n))) {
			best = n;
			least = w;
		}
	}
	return best || !may_go ? best : any_candidate(p, may_go, arg);
}

/* ------------------------------------------------------------------------------------------------
 */

void mc_policy_stats(const struct mc_policy *p, struct mc_policy_stats *stats)
{
	*stats = (struct mc_policy_stats){.nr_accesses = p->nr_accesses,
					  .nr_nodes = p->nr_nodes,
					  .nr_leaves = p->nr_leaves};
	stats->metadata = (p->ghost_mask + 1) * WAYS * sizeof *p->ghosts + sizeof *p -
			  sizeof p->learn + learn_memory(&p->learn) + p->cap * sizeof *p->leaves;
}

int mc_policy_new(uint64_t capacity, uint64_t seed, struct mc_policy **ret_policy)
{
	uint64_t nr_ghosts = GHOSTS_MIN;
	struct mc_policy *p;
	int r;

	if (!capacity || capacity >= NONE / 4)
		return -EINVAL;
	p = calloc(1, sizeof *p);
	if (!p)
		return -ENOMEM;
	r = learn_init(&p->learn, capacity);
	if (r < 0) {
		free(p);
		return r;
	}
	while (nr_ghosts < 2 * capacity)
		nr_ghosts *= 2;
	p->ghosts = calloc(nr_ghosts, sizeof *p->ghosts);
	if (!p->ghosts) {
		mc_policy_free(p);
		return -ENOMEM;
	}
	p->ghost_mask = (uint32_t)(nr_ghosts / WAYS) - 1;
	p->random = seed * 2 + 1;
	p->settle_every = (uint32_t)MC_MAX(SETTLE_MIN, MC_MIN(capacity / 16, 1u << 20));
	*ret_policy = p;
	return 0;
}

void mc_policy_free(struct mc_policy *p)
{
	if (!p)
		return;
	learn_fini(&p->learn);
	free(p->ghosts);
	free(p->leaves);
	free(p);
}
