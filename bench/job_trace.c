/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads a trace line by line and plays the store that its blocks live in: a hash
 * that is seen first is written to a slot, one that is there is read.  When all
 * slots are taken, the least recently used block goes (lru), or the one whose
 * slot is the hash modulo their number (modulo); a hash that comes back later is
 * written again.  A request never overwrites what it uses itself.
 *
 * Unknown members are passed over: a trace is not ours.
 */
#include "job_trace.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <yajl/yajl_parse.h>

#include <cli/program/words.h>
#include <core/util/check.h>
#include <core/util/cleanup.h>

#include "pattern.h"

#define MAX_LINE (16u << 20)
#define MAX_HASHES 65536 /* of a request */
#define MAX_REQUESTS (1u << 24)
#define MAX_OPS (1u << 28)
#define MAX_MS 1e12
#define NONE UINT32_MAX

/* ---- the store ---------------------------------------------------------------------------------
 */

struct known {
	uint64_t hash;
	uint32_t slot; /* NONE: evicted */
};

struct slot {
	uint32_t owner; /* index of known; NONE: free */
	uint32_t prev, next; /* by use; prev of the last used is NONE */
	uint32_t request; /* that used it last, from 1 */
};

struct store {
	enum bench_evict evict;
	struct slot *slots; /* nr; not touched before they are used */
	uint32_t nr, used;
	uint32_t newest, oldest;
	struct known *known; /* every hash that was ever seen */
	uint32_t nr_known, known_cap;
	uint32_t *table; /* of indices of known, by hash; a power of two, at most half full */
	uint32_t table_size;
};

static int store_init(struct store *s, uint64_t nr, enum bench_evict evict)
{
	*s = (struct store){.evict = evict, .nr = (uint32_t)nr, .newest = NONE, .oldest = NONE};
	s->slots = calloc(nr, sizeof *s->slots);
	return s->slots ? 0 : -ENOMEM;
}

static void store_fini(struct store *s)
{
	free(s->slots);
	free(s->known);
	free(s->table);
}

static void table_put(struct store *s, uint32_t idx)
{
	uint32_t at = (uint32_t)bench_mix(s->known[idx].hash) & (s->table_size - 1);

	while (s->table[at] != NONE)
		at = (at + 1) & (s->table_size - 1);
	s->table[at] = idx;
}

static int known_grow(struct store *s)
{
	uint32_t cap = s->known_cap ? s->known_cap * 2 : 1024;
	struct known *known;

	if (cap > UINT32_C(1) << 29)
		return -EFBIG;
	known = realloc(s->known, cap * sizeof *known);
	if (!known)
		return -ENOMEM;
	s->known = known;
	s->known_cap = cap;
	free(s->table);
	s->table_size = cap * 2;
	s->table = malloc(s->table_size * sizeof *s->table);
	if (!s->table)
		return -ENOMEM;
	memset(s->table, 0xff, s->table_size * sizeof *s->table);
	for (uint32_t i = 0; i < s->nr_known; i++)
		table_put(s, i);
	return 0;
}

/* The hash's index, a new one if it was never seen. */
static int known_find(struct store *s, uint64_t hash, uint32_t *ret, bool *ret_new)
{
	uint32_t at;

	if (s->nr_known == s->known_cap) {
		int r = known_grow(s);

		if (r < 0)
			return r;
	}
	*ret_new = false;
	at = (uint32_t)bench_mix(hash) & (s->table_size - 1);
	for (; s->table[at] != NONE; at = (at + 1) & (s->table_size - 1)) {
		*ret = s->table[at];
		if (s->known[*ret].hash == hash)
			return 0;
	}
	*ret_new = true;
	*ret = s->nr_known++;
	s->known[*ret] = (struct known){hash, NONE};
	s->table[at] = *ret;
	return 0;
}

static void unlink_slot(struct store *s, uint32_t i)
{
	struct slot *slot = &s->slots[i];

	if (slot->prev == NONE)
		s->newest = slot->next;
	else
		s->slots[slot->prev].next = slot->next;
	if (slot->next == NONE)
		s->oldest = slot->prev;
	else
		s->slots[slot->next].prev = slot->prev;
}

static void push_newest(struct store *s, uint32_t i)
{
	s->slots[i].prev = NONE;
	s->slots[i].next = s->newest;
	if (s->newest == NONE)
		s->oldest = i;
	else
		s->slots[s->newest].prev = i;
	s->newest = i;
}

/* A slot for a block that has none; NONE: this request uses all that could go. */
static uint32_t slot_take(struct store *s, uint32_t idx, uint32_t request)
{
	bool fresh = s->evict == BENCH_LRU && s->used < s->nr;
	uint32_t i = fresh ? s->used : s->evict == BENCH_LRU ? s->oldest : (uint32_t)(s->known[idx].hash % s->nr);
	struct slot *slot = &s->slots[i];

	if (slot->request == request)
		return NONE;
	if (fresh)
		s->used++;
	else if (s->evict == BENCH_LRU)
		unlink_slot(s, i);
	/* request 0: nobody had it. */
	if (slot->request)
		s->known[slot->owner].slot = NONE;
	slot->owner = idx;
	s->known[idx].slot = i;
	if (s->evict == BENCH_LRU)
		push_newest(s, i);
	return i;
}

/* ---- the plan ----------------------------------------------------------------------------------
 */

static int grow(void *array, size_t *cap, size_t size)
{
	size_t want = *cap ? *cap * 2 : 256;
	void *p = realloc(*(void **)array, want * size);

	if (!p)
		return -ENOMEM;
	*(void **)array = p;
	*cap = want;
	return 0;
}

static int add_op(struct bench_trace *t, uint32_t op)
{
	if (t->nr_ops == MAX_OPS)
		return -EFBIG;
	if (t->nr_ops == t->ops_cap && grow(&t->ops, &t->ops_cap, sizeof *t->ops) < 0)
		return -ENOMEM;
	t->ops[t->nr_ops++] = op;
	return 0;
}

/* One block of the last request. */
static int add_block(struct bench_trace *t, struct store *s, uint64_t hash)
{
	uint32_t request = (uint32_t)t->nr, idx, slot;
	bool is_new, hit;
	int r = known_find(s, hash, &idx, &is_new);

	if (r < 0)
		return r;
	slot = s->known[idx].slot;
	hit = slot != NONE;
	if (hit && s->slots[slot].request == request) {
		t->repeats++;
		return 0;
	}
	if (!hit)
		slot = slot_take(s, idx, request);
	if (slot == NONE) {
		t->refused++;
		return 0;
	}
	if (hit && s->evict == BENCH_LRU) {
		unlink_slot(s, slot);
		push_newest(s, slot);
	}
	s->slots[slot].request = request;
	*(hit ? &t->reads : is_new ? &t->puts : &t->misses) += 1;
	return add_op(t, hit ? slot | BENCH_TRACE_READ : slot);
}

/* ---- a line ------------------------------------------------------------------------------------
 */

enum member { M_OTHER, M_TIME, M_HASHES };

struct reader {
	unsigned depth;
	enum member member;
	bool in_hashes, has_time, has_hashes;
	double ms;
	uint64_t *hashes; /* MAX_HASHES */
	size_t nr_hashes;
	char why[200];
};

static int refuse(struct reader *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int refuse(struct reader *r, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(r->why, sizeof r->why, fmt, ap);
	va_end(ap);
	return 0;
}

/* Anything but what a wanted member takes. */
static int on_else(struct reader *r)
{
	if (r->depth == 0)
		return refuse(r, "not an object");
	if (r->in_hashes || (r->depth == 1 && r->member == M_HASHES))
		return refuse(r, "'hash_ids' is not a list of whole numbers from 0 on");
	if (r->depth == 1 && r->member == M_TIME)
		return refuse(r, "'timestamp' is not a number of milliseconds");
	return 1;
}

static int on_number(void *ctx, const char *s, size_t len)
{
	struct reader *r = ctx;
	char text[64];
	int64_t hash;

	if (!(r->in_hashes && r->depth == 2) && !(r->depth == 1 && r->member == M_TIME))
		return on_else(r);
	snprintf(text, sizeof text, "%.*s", (int)MC_MIN(len, sizeof text - 1), s);
	if (!r->in_hashes) {
		if (len >= sizeof text || mc_word_real(text, &r->ms) < 0 || !(r->ms >= 0) || r->ms > MAX_MS)
			return refuse(r, "'timestamp': %s is not from 0 to %g milliseconds", text, MAX_MS);
		r->has_time = true;
		return 1;
	}
	if (len >= sizeof text || mc_word_number(text, false, &hash) < 0 || hash < 0)
		return on_else(r);
	if (r->nr_hashes == MAX_HASHES)
		return refuse(r, "'hash_ids': more than %u", MAX_HASHES);
	r->hashes[r->nr_hashes++] = (uint64_t)hash;
	return 1;
}

static int on_string(void *ctx, const unsigned char *s, size_t len)
{
	return on_else(ctx);
}

static int on_bool(void *ctx, int value)
{
	return on_else(ctx);
}

static int on_null(void *ctx)
{
	return on_else(ctx);
}

static int on_key(void *ctx, const unsigned char *s, size_t len)
{
	static const char time[] = "timestamp", hashes[] = "hash_ids";
	struct reader *r = ctx;

	if (r->depth != 1)
		return 1;
	r->member = len == sizeof time - 1 && memcmp(s, time, len) == 0		? M_TIME
		    : len == sizeof hashes - 1 && memcmp(s, hashes, len) == 0 ? M_HASHES
										: M_OTHER;
	if ((r->member == M_TIME && r->has_time) || (r->member == M_HASHES && r->has_hashes))
		return refuse(r, "'%s' is there twice", r->member == M_TIME ? time : hashes);
	return 1;
}

static int on_map_start(void *ctx)
{
	struct reader *r = ctx;

	if (r->depth && !on_else(r))
		return 0;
	r->depth++;
	return 1;
}

static int on_array_start(void *ctx)
{
	struct reader *r = ctx;

	if (r->depth == 1 && r->member == M_HASHES)
		r->in_hashes = r->has_hashes = true;
	else if (!on_else(r))
		return 0;
	r->depth++;
	return 1;
}

static int on_end(void *ctx)
{
	struct reader *r = ctx;

	r->depth--;
	if (r->depth == 1)
		r->in_hashes = false;
	return 1;
}

static int line_parse(struct reader *r, const char *line, size_t len)
{
	static const yajl_callbacks callbacks = {
		.yajl_null = on_null,
		.yajl_boolean = on_bool,
		.yajl_number = on_number,
		.yajl_string = on_string,
		.yajl_start_map = on_map_start,
		.yajl_map_key = on_key,
		.yajl_end_map = on_end,
		.yajl_start_array = on_array_start,
		.yajl_end_array = on_end,
	};
	uint64_t *hashes = r->hashes;
	yajl_handle yajl;
	bool ok;

	*r = (struct reader){.hashes = hashes};
	yajl = yajl_alloc(&callbacks, NULL, r);
	if (!yajl)
		return -ENOMEM;
	ok = yajl_parse(yajl, (const unsigned char *)line, len) == yajl_status_ok &&
	     yajl_complete_parse(yajl) == yajl_status_ok;
	yajl_free(yajl);
	if (!ok && !*r->why)
		refuse(r, "not JSON");
	else if (ok && (!r->has_time || !r->has_hashes))
		refuse(r, "'%s' is missing", r->has_time ? "hash_ids" : "timestamp");
	return *r->why ? -EINVAL : 0;
}

/* ---- the file ----------------------------------------------------------------------------------
 */

static int add_request(struct bench_trace *t, struct store *s, struct reader *r)
{
	uint64_t at_ns = (uint64_t)(r->ms * 1e6);
	struct bench_trace_request *last = t->nr ? &t->requests[t->nr - 1] : NULL;
	int ret = 0;

	if (last && at_ns < last->at_ns) {
		refuse(r, "'timestamp': %g is before the line above; sort the trace by time", r->ms);
		return -EINVAL;
	}
	if (t->nr == MAX_REQUESTS)
		return -EFBIG;
	if (t->nr == t->requests_cap && grow(&t->requests, &t->requests_cap, sizeof *t->requests) < 0)
		return -ENOMEM;
	last = &t->requests[t->nr++];
	*last = (struct bench_trace_request){.at_ns = at_ns, .first = t->nr_ops};
	for (size_t i = 0; ret == 0 && i < r->nr_hashes; i++)
		ret = add_block(t, s, r->hashes[i]);
	last->nr = (uint32_t)(t->nr_ops - last->first);
	t->max_ops = MC_MAX(t->max_ops, last->nr);
	return ret;
}

static int read_lines(struct bench_trace *t, const char *what, FILE *f, struct store *s, struct reader *reader,
		      struct mc_error *err)
{
	mc_cleanup(mc_freep) char *line = NULL;
	size_t cap = 0, nr = 0;
	ssize_t len;

	while ((len = getline(&line, &cap, f)) >= 0) {
		int r;

		nr++;
		if ((size_t)len > MAX_LINE)
			return mc_fail(err, -EFBIG, "%s:%zu: a line of more than %u bytes", what, nr, MAX_LINE);
		if (strspn(line, " \t\r\n") == (size_t)len)
			continue;
		r = line_parse(reader, line, (size_t)len);
		if (r == 0)
			r = add_request(t, s, reader);
		if (r < 0)
			return mc_fail(err, r, "%s:%zu: %s", what, nr, *reader->why ? reader->why : strerror(-r));
	}
	if (ferror(f))
		return mc_fail(err, -EIO, "%s: cannot be read", what);
	if (!t->nr_ops)
		return mc_fail(err, -EINVAL, "%s: no request has a block", what);
	return 0;
}

int bench_trace_read(struct bench_trace *t, const char *what, FILE *f, uint64_t nr_slots,
		     enum bench_evict evict, struct mc_error *err)
{
	struct reader reader = {0};
	struct store store = {0};
	int r;

	*t = (struct bench_trace){.nr_slots = nr_slots};
	if (nr_slots < 1 || nr_slots > BENCH_TRACE_MAX_SLOTS)
		return mc_fail(err, -EINVAL,
			       "%s: a footprint of %" PRIu64 " blocks, not 1 to %" PRIu64
			       "; change --footprint or --block_size",
			       what, nr_slots, BENCH_TRACE_MAX_SLOTS);
	r = store_init(&store, nr_slots, evict);
	reader.hashes = malloc(MAX_HASHES * sizeof *reader.hashes);
	if (r < 0 || !reader.hashes)
		r = mc_fail(err, -ENOMEM, "%s: no memory for %" PRIu64 " blocks", what, nr_slots);
	if (r == 0)
		r = read_lines(t, what, f, &store, &reader, err);
	free(reader.hashes);
	store_fini(&store);
	return r;
}

void bench_trace_fini(struct bench_trace *t)
{
	free(t->requests);
	free(t->ops);
	*t = (struct bench_trace){0};
}
