/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of a space.  All ranges, taken or not, are nodes in one array, linked in order of
 * offset; those that are not taken ("gaps") are in the list of their size, too.  Positions and
 * sizes are counted in granules.
 */
#ifndef MC_SPACE_IMPL_H
#define MC_SPACE_IMPL_H

#include <mooncake/allocator.h>

#define SPACE_NONE UINT32_MAX
#define SPACE_COLUMNS 32u
/* A bin for each size below 32, and 32 for each power of two from there on. */
#define SPACE_BINS (59u * SPACE_COLUMNS)
#define SPACE_WORDS ((SPACE_BINS + 63u) / 64u)
#define SPACE_TAKEN (UINT64_C(1) << 63)

struct space_node {
	uint64_t at;
	uint64_t size; /* SPACE_TAKEN in it; 0: the node is spare, next is another one */
	uint32_t prev, next; /* by offset */
	union {
		uint64_t tag; /* taken */
		struct {
			uint32_t up, down; /* in its list, by no order */
		};
	};
};

/* A gap's children in the index, a treap by offset. */
struct space_branch {
	uint32_t below, above;
};

struct mc_space {
	struct space_node *nodes;
	struct space_branch *index; /* one for each node, or NULL */
	uint32_t root; /* of the index */
	uint32_t nr_nodes, cap; /* nodes that have been in use; that there is memory for */
	uint32_t spare, nr_spare; /* list of nodes to use again */
	uint32_t first; /* the node at 0 */
	uint32_t nr_extents, nr_gaps, max_extents;
	uint32_t shift; /* log2 of the granule */
	uint64_t units, used;
	uint64_t words[SPACE_WORDS]; /* bit: the bin's list is not empty */
	uint32_t summary; /* bit: the word is not 0 */
	uint32_t heads[SPACE_BINS];
};

/* The index: made, dropped, kept.  A gap may move and change its size in it as long as the order of
 * gaps stays. */
int space_index_make(struct mc_space *s);
void space_index_insert(struct mc_space *s, uint32_t gap);
void space_index_remove(struct mc_space *s, uint32_t gap);
/* The last gap that begins at or before a position, or SPACE_NONE. */
uint32_t space_index_find(const struct mc_space *s, uint64_t at);

#endif
