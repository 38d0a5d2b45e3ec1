/* SPDX-License-Identifier: Apache-2.0 */
/* A bump allocator whose memory is kept over resets, so that steady use costs no malloc.  One thread
 * at a time; header-only. */
#ifndef MC_CORE_ARENA_H
#define MC_CORE_ARENA_H

#include <stdlib.h>

#include "core/util/check.h"

#define MC_ARENA_CHUNK 32768

struct mc_arena_chunk {
	struct mc_arena_chunk *next;
	size_t size, used;
	_Alignas(MC_CACHE_LINE) char data[];
};
struct mc_arena {
	struct mc_arena_chunk *first, *current;
};

static inline void *mc_arena_get(struct mc_arena *a, size_t size)
{
	struct mc_arena_chunk *c = a->current;

	size = mc_round_up(size, MC_CACHE_LINE);
	while (c && c->size - c->used < size) {
		c = c->next;
		if (c)
			c->used = 0;
	}
	if (!c) {
		size_t want = MC_MAX(size, (size_t)MC_ARENA_CHUNK);

		c = aligned_alloc(MC_CACHE_LINE, mc_round_up(sizeof *c + want, MC_CACHE_LINE));
		if (!c)
			return NULL;
		c->size = want;
		c->used = 0;
		/* Behind the current one, so that chunks skipped as too small are not lost. */
		c->next = a->current ? a->current->next : a->first;
		if (a->current)
			a->current->next = c;
		else
			a->first = c;
	}
	a->current = c;
	c->used += size;
	return c->data + c->used - size;
}

static inline void mc_arena_reset(struct mc_arena *a)
{
	a->current = a->first;
	if (a->first)
		a->first->used = 0;
}

static inline void mc_arena_fini(struct mc_arena *a)
{
	while (a->first) {
		struct mc_arena_chunk *next = a->first->next;

		free(a->first);
		a->first = next;
	}
	a->current = NULL;
}

#endif
