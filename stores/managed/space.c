/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One space: segregated lists of gaps.  A size below 32 granules has a list of its own,
 * above that each power of two is cut into 32.  Bitmaps say which lists hold something, so the
 * smallest list whose gaps are all large enough is found by two bit scans; before that a few gaps
 * of the size's own list are tried, where what was released in the same size lies.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/util/check.h"
#include "space_impl.h"

#define EXTENTS_MAX (1u << 30)
#define NODES_FIRST 64u
/* Gaps of one list that are looked at first, and when no larger list has any. */
#define TRY_FIRST 2u
#define TRY_LAST 64u

/* Row and column in one number, without a branch that nobody could foresee. */
static inline uint32_t bin_of(uint64_t size)
{
	uint32_t shift = 58u - (uint32_t)__builtin_clzll(size | SPACE_COLUMNS);

	return shift * SPACE_COLUMNS + (uint32_t)(size >> shift);
}

/* The largest size of a bin. */
static uint64_t bin_top(uint32_t bin)
{
	uint32_t shift = bin < SPACE_COLUMNS ? 0 : bin / SPACE_COLUMNS - 1;

	return ((uint64_t)(bin - shift * SPACE_COLUMNS + 1) << shift) - 1;
}

static uint64_t size_of(const struct space_node *n)
{
	return n->size & ~SPACE_TAKEN;
}

static bool is_gap(const struct mc_space *s, uint32_t n)
{
	return n != SPACE_NONE && !(s->nodes[n].size & SPACE_TAKEN);
}

/* ---- lists of gaps -----------------------------------------------------------------------------
 */

static inline void list_add(struct mc_space *s, uint32_t gap, uint32_t bin)
{
	struct space_node *n = &s->nodes[gap];
	uint32_t head = s->heads[bin];

	n->up = SPACE_NONE;
	n->down = head;
	s->heads[bin] = gap;
	if (MC_LIKELY(head != SPACE_NONE)) {
		s->nodes[head].up = gap;
		return;
	}
	s->words[bin / 64] |= UINT64_C(1) << bin % 64;
	s->summary |= 1u << bin / 64;
}

static inline void list_remove(struct mc_space *s, uint32_t gap, uint32_t bin)
{
	const struct space_node *n = &s->nodes[gap];

	if (n->down != SPACE_NONE)
		s->nodes[n->down].up = n->up;
	if (n->up != SPACE_NONE) {
		s->nodes[n->up].down = n->down;
		return;
	}
	s->heads[bin] = n->down;
	if (n->down != SPACE_NONE)
		return;
	s->words[bin / 64] &= ~(UINT64_C(1) << bin % 64);
	if (!s->words[bin / 64])
		s->summary &= ~(1u << bin / 64);
}

static inline void gap_resize(struct mc_space *s, uint32_t gap, uint64_t size)
{
	uint32_t old = bin_of(s->nodes[gap].size), new = bin_of(size);

	if (old != new)
		list_remove(s, gap, old);
	s->nodes[gap].size = size;
	if (old != new)
		list_add(s, gap, new);
}

static void gap_add(struct mc_space *s, uint32_t gap)
{
	list_add(s, gap, bin_of(s->nodes[gap].size));
	s->nr_gaps++;
	if (s->index)
		space_index_insert(s, gap);
}

static void gap_remove(struct mc_space *s, uint32_t gap)
{
	if (s->index)
		space_index_remove(s, gap);
	list_remove(s, gap, bin_of(s->nodes[gap].size));
	s->nr_gaps--;
}

/* ---- nodes -------------------------------------------------------------------------------------
 */

/* Memory for two nodes more, which is what an allocation can need. */
static int ensure_nodes(struct mc_space *s)
{
	struct space_node *nodes;
	struct space_branch *index;
	uint32_t cap;

	if (MC_LIKELY(s->cap - s->nr_nodes + s->nr_spare >= 2))
		return 0;
	cap = MC_MIN(s->cap + s->cap / 2, 2 * s->max_extents + 2);
	nodes = realloc(s->nodes, (size_t)cap * sizeof *nodes);
	if (!nodes)
		return -ENOMEM;
	s->nodes = nodes;
	if (s->index) {
		index = realloc(s->index, (size_t)cap * sizeof *index);
		if (!index)
			return -ENOMEM;
		s->index = index;
	}
	s->cap = cap;
	return 0;
}

static uint32_t node_new(struct mc_space *s)
{
	uint32_t n = s->spare;

	if (n == SPACE_NONE)
		return s->nr_nodes++;
	s->spare = s->nodes[n].next;
	s->nr_spare--;
	return n;
}

/* Out of the order of offsets, into the spare ones. */
static void node_drop(struct mc_space *s, uint32_t id)
{
	struct space_node *n = &s->nodes[id];

	if (n->prev != SPACE_NONE)
		s->nodes[n->prev].next = n->next;
	else
		s->first = n->next;
	if (n->next != SPACE_NONE)
		s->nodes[n->next].prev = n->prev;
	n->size = 0;
	n->next = s->spare;
	s->spare = id;
	s->nr_spare++;
}

/* A new node between prev and next, which are neighbours. */
static uint32_t node_between(struct mc_space *s, uint32_t prev, uint32_t next, uint64_t at,
			     uint64_t size)
{
	uint32_t id = node_new(s);
	struct space_node *n = &s->nodes[id];

	n->at = at;
	n->size = size;
	n->prev = prev;
	n->next = next;
	if (prev != SPACE_NONE)
		s->nodes[prev].next = id;
	else
		s->first = id;
	if (next != SPACE_NONE)
		s->nodes[next].prev = id;
	return id;
}

/* ---- taking ------------------------------------------------------------------------------------
 */

/* Take [at, at + size) out of a gap around it; the node that it is then. */
static inline uint32_t carve(struct mc_space *s, uint32_t gap, uint64_t at, uint64_t size)
{
	struct space_node g = s->nodes[gap];
	uint64_t end = g.at + g.size;
	uint32_t taken, rest;

	s->used += size;
	s->nr_extents++;
	if (g.size == size) {
		gap_remove(s, gap);
		s->nodes[gap].size |= SPACE_TAKEN;
		return gap;
	}
	if (at == g.at) {
		taken = node_between(s, g.prev, gap, at, size | SPACE_TAKEN);
		s->nodes[gap].at += size;
		gap_resize(s, gap, g.size - size);
		return taken;
	}
	taken = node_between(s, gap, g.next, at, size | SPACE_TAKEN);
	gap_resize(s, gap, at - g.at);
	if (at + size < end) {
		rest = node_between(s, taken, s->nodes[taken].next, at + size, end - at - size);
		gap_add(s, rest);
	}
	return taken;
}

/* Where size units would lie in a gap, mask + 1 being the alignment. */
static bool fits(const struct space_node *gap, uint64_t size, uint64_t mask, uint64_t *ret_at)
{
	uint64_t at = (gap->at + mask) & ~mask;

	*ret_at = at;
	return at - gap->at <= gap->size && gap->size - (at - gap->at) >= size;
}

static inline uint32_t try_list(const struct mc_space *s, uint32_t bin, uint32_t *tries,
				uint64_t size, uint64_t mask, uint64_t *ret_at)
{
	uint32_t n = s->heads[bin];

	for (; n != SPACE_NONE && *tries; n = s->nodes[n].down, --*tries) {
		if (fits(&s->nodes[n], size, mask, ret_at))
			return n;
	}
	return SPACE_NONE;
}

/* The next bin above one that holds something. */
static inline bool next_bin(const struct mc_space *s, uint32_t *bin)
{
	uint32_t at = *bin + 1, word = at / 64;
	uint64_t bits = word < SPACE_WORDS ? s->words[word] >> at % 64 : 0;

	if (bits) {
		*bin = at + (uint32_t)__builtin_ctzll(bits);
		return true;
	}
	word = word + 1 < SPACE_WORDS ? s->summary >> (word + 1) << (word + 1) : 0;
	if (!word)
		return false;
	word = (uint32_t)__builtin_ctz(word);
	*bin = word * 64 + (uint32_t)__builtin_ctzll(s->words[word]);
	return true;
}

/* A gap for size units, and where in it. */
static uint32_t find_gap(const struct mc_space *s, uint64_t size, uint64_t mask, uint64_t *ret_at)
{
	uint32_t own = bin_of(size), b = own;
	uint32_t tries = TRY_FIRST;
	uint32_t gap = try_list(s, own, &tries, size, mask, ret_at);

	if (gap == SPACE_NONE && mask) {
		/* Aligned by chance, or with room to be so, a little above. */
		tries = TRY_FIRST;
		if (next_bin(s, &b))
			gap = try_list(s, b, &tries, size, mask, ret_at);
		b = bin_of(size + mask);
	}
	if (gap != SPACE_NONE)
		return gap;
	if (next_bin(s, &b)) {
		tries = 1;
		return try_list(s, b, &tries, size, mask, ret_at);
	}
	b = own;
	tries = TRY_LAST;
	do {
		gap = try_list(s, b, &tries, size, mask, ret_at);
	} while (gap == SPACE_NONE && tries && next_bin(s, &b));
	return gap;
}

static void tell(const struct mc_space *s, uint32_t id, struct mc_space_extent *ret)
{
	const struct space_node *n = &s->nodes[id];

	*ret = (struct mc_space_extent){.offset = n->at << s->shift,
					.len = size_of(n) << s->shift,
					.tag = n->tag,
					.id = id};
}

int mc_space_alloc(struct mc_space *s, uint64_t len, uint64_t align, uint64_t tag,
		   struct mc_space_extent *ret_extent)
{
	uint64_t size = (len + (UINT64_C(1) << s->shift) - 1) >> s->shift;
	uint64_t mask = align >> s->shift ? (align >> s->shift) - 1 : 0, at;
	uint32_t gap, id;
	int r;

	if (!len || (align & (align - 1)))
		return -EINVAL;
	if (len > MC_SPACE_MAX || align > MC_SPACE_MAX || size > s->units - s->used)
		return -ENOSPC;
	if (s->nr_extents >= s->max_extents)
		return -EMFILE;
	r = ensure_nodes(s);
	if (r < 0)
		return r;
	gap = find_gap(s, size, mask, &at);
	if (gap == SPACE_NONE)
		return -ENOSPC;
	id = carve(s, gap, at, size);
	s->nodes[id].tag = tag;
	tell(s, id, ret_extent);
	return 0;
}

int mc_space_reserve(struct mc_space *s, uint64_t offset, uint64_t len, uint64_t tag,
		     struct mc_space_extent *ret_extent)
{
	uint64_t at = offset >> s->shift, end;
	uint32_t gap, id;
	int r;

	if (!len)
		return -EINVAL;
	if (!mc_range_inside(0, s->units << s->shift, offset, len))
		return -ERANGE;
	if (s->nr_extents >= s->max_extents)
		return -EMFILE;
	r = ensure_nodes(s);
	if (r == 0 && !s->index)
		r = space_index_make(s);
	if (r < 0)
		return r;
	end = ((offset + len - 1) >> s->shift) + 1;
	gap = space_index_find(s, at);
	if (gap == SPACE_NONE || s->nodes[gap].at + s->nodes[gap].size < end)
		return -EEXIST;
	id = carve(s, gap, at, end - at);
	s->nodes[id].tag = tag;
	tell(s, id, ret_extent);
	return 0;
}

/* ---- giving back -------------------------------------------------------------------------------
 */

static bool taken(const struct mc_space *s, uint32_t id)
{
	return id < s->nr_nodes && s->nodes[id].size & SPACE_TAKEN;
}

int mc_space_release(struct mc_space *s, uint32_t id)
{
	struct space_node *n;
	uint64_t size;
	uint32_t prev, next;

	if (!taken(s, id))
		return -ENOENT;
	n = &s->nodes[id];
	size = size_of(n);
	prev = n->prev;
	next = n->next;
	/* Both are far away, and it is as likely as not that either is a gap. */
	if (next != SPACE_NONE)
		__builtin_prefetch(&s->nodes[next]);
	if (prev != SPACE_NONE)
		__builtin_prefetch(&s->nodes[prev]);
	s->used -= size;
	s->nr_extents--;
	if (is_gap(s, prev)) {
		if (is_gap(s, next)) {
			size += s->nodes[next].size;
			gap_remove(s, next);
			node_drop(s, next);
		}
		node_drop(s, id);
		gap_resize(s, prev, s->nodes[prev].size + size);
	} else if (is_gap(s, next)) {
		node_drop(s, id);
		s->nodes[next].at -= size;
		gap_resize(s, next, s->nodes[next].size + size);
	} else {
		n->size = size;
		gap_add(s, id);
	}
	return 0;
}

/* ---- telling -----------------------------------------------------------------------------------
 */

int mc_space_get(const struct mc_space *s, uint32_t id, struct mc_space_extent *ret_extent)
{
	if (!taken(s, id))
		return -ENOENT;
	tell(s, id, ret_extent);
	return 0;
}

int mc_space_set_tag(struct mc_space *s, uint32_t id, uint64_t tag)
{
	if (!taken(s, id))
		return -ENOENT;
	s->nodes[id].tag = tag;
	return 0;
}

int mc_space_each(const struct mc_space *s,
		  int (*each)(void *arg, const struct mc_space_extent *extent), void *arg)
{
	struct mc_space_extent extent;
	int r = 0;

	for (uint32_t n = s->first; n != SPACE_NONE && r == 0; n = s->nodes[n].next) {
		if (is_gap(s, n))
			continue;
		tell(s, n, &extent);
		r = each(arg, &extent);
	}
	return r;
}

static bool top_bin(const struct mc_space *s, uint32_t *ret)
{
	uint32_t word;

	if (!s->summary)
		return false;
	word = 31u - (uint32_t)__builtin_clz(s->summary);
	*ret = word * 64 + 63u - (uint32_t)__builtin_clzll(s->words[word]);
	return true;
}

uint64_t mc_space_hint(const struct mc_space *s)
{
	uint32_t b;

	return top_bin(s, &b) ? MC_MIN(bin_top(b), s->units - s->used) << s->shift : 0;
}

void mc_space_stats(const struct mc_space *s, struct mc_space_stats *stats)
{
	struct mc_space_stats all = {.bytes = s->units << s->shift,
				     .used = s->used << s->shift,
				     .nr_extents = s->nr_extents,
				     .nr_free = s->nr_gaps};
	uint64_t largest = 0;
	uint32_t b;

	all.size = MC_MIN(stats->size, sizeof all);
	if (top_bin(s, &b)) {
		for (uint32_t n = s->heads[b]; n != SPACE_NONE; n = s->nodes[n].down)
			largest = MC_MAX(largest, s->nodes[n].size);
	}
	all.largest_free = largest << s->shift;
	all.metadata = sizeof *s + s->cap * (sizeof *s->nodes + (s->index ? sizeof *s->index : 0));
	if (s->used < s->units)
		all.fragmentation = 1 - (double)largest / (double)(s->units - s->used);
	memcpy(stats, &all, all.size);
}

/* ---- life --------------------------------------------------------------------------------------
 */

int mc_space_new(const struct mc_space_options *options, struct mc_space **ret_space)
{
	struct mc_space_options o = {0};
	struct mc_space *s;
	uint64_t granules;

	if (!options || options->size < offsetof(struct mc_space_options, granule))
		return -EINVAL;
	memcpy(&o, options, MC_MIN(options->size, sizeof o));
	if (!o.granule)
		o.granule = MC_SPACE_GRANULE;
	granules = o.bytes / o.granule;
	if ((o.granule & (o.granule - 1)) || !granules || o.bytes > MC_SPACE_MAX ||
	    o.max_extents > EXTENTS_MAX)
		return -EINVAL;
	s = malloc(sizeof *s);
	if (!s)
		return -ENOMEM;
	*s = (struct mc_space){.root = SPACE_NONE,
			       .spare = SPACE_NONE,
			       .first = SPACE_NONE,
			       .units = granules,
			       .shift = (uint32_t)__builtin_ctz(o.granule)};
	s->max_extents = (uint32_t)MC_MIN(granules, o.max_extents ? o.max_extents : EXTENTS_MAX);
	memset(s->heads, 0xff, sizeof s->heads);
	s->cap = MC_MIN(NODES_FIRST, 2 * s->max_extents + 2);
	s->nodes = malloc(s->cap * sizeof *s->nodes);
	if (!s->nodes) {
		free(s);
		return -ENOMEM;
	}
	gap_add(s, node_between(s, SPACE_NONE, SPACE_NONE, 0, granules));
	*ret_space = s;
	return 0;
}

void mc_space_settle(struct mc_space *s)
{
	free(s->index);
	s->index = NULL;
}

void mc_space_free(struct mc_space *s)
{
	if (!s)
		return;
	free(s->index);
	free(s->nodes);
	free(s);
}
