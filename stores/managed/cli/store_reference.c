/* SPDX-License-Identifier: Apache-2.0 */
/*
 * LRU · SIEVE (Zhang et al., NSDI '24) · S3-FIFO (Yang et al., SOSP '23: a tenth for the small
 * queue, promotion at the second access, as many ghosts as blocks) · ARC (Megiddo and Modha, FAST
 * '03) · Belady's bound (the block that is wanted last goes).
 */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/util/check.h"
#include "store_reference.h"

#define NONE UINT32_MAX
#define NR_QUEUES 4

const char *const reference_names[REFERENCE_COUNT] = {"LRU", "SIEVE", "S3-FIFO", "ARC", "Belady"};

struct queue {
	uint32_t head, tail, nr; /* what came last is at the head */
};

struct cache {
	uint32_t *prev, *next; /* of each key: towards the head, the tail */
	uint8_t *in; /* which queue the key is in, 0: none */
	uint8_t *seen; /* SIEVE: visited; S3-FIFO: accesses up to 3 */
	struct queue q[NR_QUEUES + 1];
	uint32_t capacity, hand;
	uint32_t target; /* of ARC: for queue 1; in whole blocks, as the steps are */
};

static void push(struct cache *c, uint8_t queue, uint32_t key)
{
	struct queue *q = &c->q[queue];

	c->in[key] = queue;
	c->prev[key] = NONE;
	c->next[key] = q->head;
	if (q->head != NONE)
		c->prev[q->head] = key;
	else
		q->tail = key;
	q->head = key;
	q->nr++;
}

static void take_out(struct cache *c, uint32_t key)
{
	struct queue *q = &c->q[c->in[key]];

	if (c->prev[key] != NONE)
		c->next[c->prev[key]] = c->next[key];
	else
		q->head = c->next[key];
	if (c->next[key] != NONE)
		c->prev[c->next[key]] = c->prev[key];
	else
		q->tail = c->prev[key];
	q->nr--;
	c->in[key] = 0;
}

static uint32_t pop(struct cache *c, uint8_t queue)
{
	uint32_t key = c->q[queue].tail;

	take_out(c, key);
	return key;
}

/* ---- the policies: was it a hit? ---------------------------------------------------------------
 */

static bool lru(struct cache *c, uint32_t key)
{
	bool hit = c->in[key];

	if (hit)
		take_out(c, key);
	else if (c->q[1].nr == c->capacity)
		pop(c, 1);
	push(c, 1, key);
	return hit;
}

static bool sieve(struct cache *c, uint32_t key)
{
	if (c->in[key]) {
		c->seen[key] = 1;
		return true;
	}
	if (c->q[1].nr == c->capacity) {
		uint32_t at = c->hand != NONE ? c->hand : c->q[1].tail;

		while (c->seen[at]) {
			c->seen[at] = 0;
			at = c->prev[at] != NONE ? c->prev[at] : c->q[1].tail;
		}
		c->hand = c->prev[at];
		take_out(c, at);
	}
	c->seen[key] = 0;
	push(c, 1, key);
	return false;
}

enum { SMALL = 1, MAIN, GHOST };

static void s3_evict(struct cache *c)
{
	uint32_t small = MC_MAX(c->capacity / 10, 1), main_size = c->capacity - small, key;

	while (c->q[SMALL].nr && (c->q[SMALL].nr >= small || !c->q[MAIN].nr)) {
		key = pop(c, SMALL);
		if (c->seen[key] > 1) {
			push(c, MAIN, key);
			c->seen[key] = 0;
			if (c->q[MAIN].nr > main_size)
				break;
			continue;
		}
		if (c->q[GHOST].nr == c->capacity)
			pop(c, GHOST);
		push(c, GHOST, key);
		return;
	}
	for (;;) {
		key = pop(c, MAIN);
		if (!c->seen[key])
			return;
		c->seen[key]--;
		push(c, MAIN, key);
	}
}

static bool s3_fifo(struct cache *c, uint32_t key)
{
	if (c->in[key] == SMALL || c->in[key] == MAIN) {
		c->seen[key] = (uint8_t)MC_MIN(c->seen[key] + 1, 3);
		return true;
	}
	while (c->q[SMALL].nr + c->q[MAIN].nr >= c->capacity)
		s3_evict(c);
	if (c->in[key] == GHOST) {
		take_out(c, key);
		push(c, MAIN, key);
	} else {
		push(c, SMALL, key);
	}
	c->seen[key] = 0;
	return false;
}

enum { T1 = 1, T2, B1, B2 };

/* Makes room: the last of T1 or T2 becomes a ghost. */
static void arc_replace(struct cache *c, bool in_b2)
{
	if (c->q[T1].nr && (c->q[T1].nr > c->target || (in_b2 && c->q[T1].nr == c->target)))
		push(c, B1, pop(c, T1));
	else
		push(c, B2, pop(c, T2));
}

static bool arc(struct cache *c, uint32_t key)
{
	uint32_t b1 = c->q[B1].nr, b2 = c->q[B2].nr;
	uint8_t in = c->in[key];

	if (in == T1 || in == T2) {
		take_out(c, key);
		push(c, T2, key);
		return true;
	}
	if (in) {
		c->target = in == B1 ? MC_MIN(c->capacity, c->target + MC_MAX(b2 / b1, 1u))
				     : (c->target - MC_MIN(c->target, MC_MAX(b1 / b2, 1u)));
		arc_replace(c, in == B2);
		take_out(c, key);
		push(c, T2, key);
		return false;
	}
	if (c->q[T1].nr + c->q[B1].nr == c->capacity) {
		if (c->q[T1].nr < c->capacity) {
			pop(c, B1);
			arc_replace(c, false);
		} else {
			pop(c, T1);
		}
	} else if (c->q[T1].nr + c->q[T2].nr + c->q[B1].nr + c->q[B2].nr >= c->capacity) {
		if (c->q[T1].nr + c->q[T2].nr + c->q[B1].nr + c->q[B2].nr == 2 * c->capacity)
			pop(c, B2);
		arc_replace(c, false);
	}
	push(c, T1, key);
	return false;
}

/* ---- Belady: a heap of the next accesses -------------------------------------------------------
 */

struct later {
	size_t next;
	uint32_t key;
};

static void heap_push(struct later *heap, size_t *nr, struct later l)
{
	size_t i = (*nr)++;

	for (; i && heap[(i - 1) / 2].next < l.next; i = (i - 1) / 2)
		heap[i] = heap[(i - 1) / 2];
	heap[i] = l;
}

static struct later heap_pop(struct later *heap, size_t *nr)
{
	struct later top = heap[0], last = heap[--*nr];
	size_t i = 0, child;

	while ((child = 2 * i + 1) < *nr) {
		child += child + 1 < *nr && heap[child + 1].next > heap[child].next;
		if (heap[child].next <= last.next)
			break;
		heap[i] = heap[child];
		i = child;
	}
	heap[i] = last;
	return top;
}

static int64_t belady(const uint32_t *keys, size_t nr, uint32_t nr_keys, uint32_t capacity)
{
	size_t *next = malloc((nr + 1) * sizeof *next), *due = malloc(nr_keys * sizeof *due),
	       nr_heap = 0;
	struct later *heap = malloc((nr + 1) * sizeof *heap);
	uint32_t held = 0;
	int64_t hits = 0;

	if (!next || !due || !heap) {
		free(next);
		free(due);
		free(heap);
		return -ENOMEM;
	}
	for (uint32_t k = 0; k < nr_keys; k++)
		due[k] = SIZE_MAX;
	for (size_t i = nr; i-- > 0; due[keys[i]] = i)
		next[i] = due[keys[i]];
	/* From here on: when a held block is due; SIZE_MAX - 1: it is not held. */
	for (uint32_t k = 0; k < nr_keys; k++)
		due[k] = SIZE_MAX - 1;
	for (size_t i = 0; i < nr; i++) {
		if (due[keys[i]] != SIZE_MAX - 1) {
			hits++;
		} else if (held < capacity) {
			held++;
		} else {
			struct later l;

			/* Those of the heap that have been accessed since are there again. */
			do {
				l = heap_pop(heap, &nr_heap);
			} while (due[l.key] != l.next);
			due[l.key] = SIZE_MAX - 1;
		}
		due[keys[i]] = next[i];
		heap_push(heap, &nr_heap, (struct later){next[i], keys[i]});
	}
	free(next);
	free(due);
	free(heap);
	return hits;
}

/* ------------------------------------------------------------------------------------------------
 */

int64_t reference_replay(enum reference which, const uint32_t *keys, size_t nr, uint32_t nr_keys,
			 uint32_t capacity)
{
	static bool (*const access[])(struct cache * c,
				      uint32_t key) = {[REFERENCE_LRU] = lru,
						       [REFERENCE_SIEVE] = sieve,
						       [REFERENCE_S3FIFO] = s3_fifo,
						       [REFERENCE_ARC] = arc};
	struct cache c = {.capacity = capacity, .hand = NONE};
	int64_t hits = 0;

	if (which == REFERENCE_BELADY)
		return belady(keys, nr, nr_keys, capacity);
	for (int i = 0; i <= NR_QUEUES; i++)
		c.q[i] = (struct queue){NONE, NONE, 0};
	c.prev = malloc(nr_keys * sizeof *c.prev);
	c.next = malloc(nr_keys * sizeof *c.next);
	c.in = calloc(nr_keys, 1);
	c.seen = calloc(nr_keys, 1);
	if (c.prev && c.next && c.in && c.seen) {
		for (size_t i = 0; i < nr; i++)
			hits += access[which](&c, keys[i]);
	} else {
		hits = -ENOMEM;
	}
	free(c.prev);
	free(c.next);
	free(c.in);
	free(c.seen);
	return hits;
}
