/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The index of a space's gaps by offset, which exact reservations need: a treap, whose priorities
 * are a hash of the node's number.  Order among gaps never changes, so they stay in their places
 * while allocations move their ends.
 */
#include <errno.h>
#include <stdlib.h>

#include "space_impl.h"

static uint32_t priority(uint32_t gap)
{
	uint32_t x = gap * 0x9e3779b1u;

	x ^= x >> 15;
	x *= 0x85ebca77u;
	return x ^ x >> 13;
}

void space_index_insert(struct mc_space *s, uint32_t gap)
{
	uint64_t at = s->nodes[gap].at;
	uint32_t *place = &s->root, *below = &s->index[gap].below, *above = &s->index[gap].above;
	uint32_t rest;

	while (*place != SPACE_NONE && priority(*place) >= priority(gap))
		place = at < s->nodes[*place].at ? &s->index[*place].below
						 : &s->index[*place].above;
	for (rest = *place; rest != SPACE_NONE;) {
		if (s->nodes[rest].at < at) {
			*below = rest;
			below = &s->index[rest].above;
			rest = *below;
		} else {
			*above = rest;
			above = &s->index[rest].below;
			rest = *above;
		}
	}
	*below = *above = SPACE_NONE;
	*place = gap;
}

void space_index_remove(struct mc_space *s, uint32_t gap)
{
	uint32_t *place = &s->root;
	uint32_t low = s->index[gap].below, high = s->index[gap].above;

	while (*place != gap)
		place = s->nodes[gap].at < s->nodes[*place].at ? &s->index[*place].below
							       : &s->index[*place].above;
	while (low != SPACE_NONE && high != SPACE_NONE) {
		if (priority(low) >= priority(high)) {
			*place = low;
			place = &s->index[low].above;
			low = *place;
		} else {
			*place = high;
			place = &s->index[high].below;
			high = *place;
		}
	}
	*place = low != SPACE_NONE ? low : high;
}

uint32_t space_index_find(const struct mc_space *s, uint64_t at)
{
	uint32_t found = SPACE_NONE, n = s->root;

	while (n != SPACE_NONE) {
		if (s->nodes[n].at <= at) {
			found = n;
			n = s->index[n].above;
		} else {
			n = s->index[n].below;
		}
	}
	return found;
}

int space_index_make(struct mc_space *s)
{
	s->index = malloc((size_t)s->cap * sizeof *s->index);
	if (!s->index)
		return -ENOMEM;
	s->root = SPACE_NONE;
	for (uint32_t n = s->first; n != SPACE_NONE; n = s->nodes[n].next) {
		if (!(s->nodes[n].size & SPACE_TAKEN))
			space_index_insert(s, n);
	}
	return 0;
}
