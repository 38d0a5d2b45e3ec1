/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory plugins: bytes.  The CPU may not be able to touch the memory, so that what is
 * in it is known by copies alone; guard bytes lie on both sides of each range, in the
 * memory and in the host's buffer.
 */
#include "cases_mem.h"
#include "core/util/check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EDGE 256 /* guard bytes on either side */
#define EDGE_BYTE 0xa5

static unsigned char pattern(uint64_t seed, uint64_t i)
{
	uint64_t x = (i + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ seed * UINT64_C(0xbf58476d1ce4e5b9);

	return (unsigned char)(x >> 40 ^ x);
}

/* len bytes between guards. */
static unsigned char *host_new(uint64_t len)
{
	unsigned char *p = malloc(len + 2 * EDGE);

	if (!p)
		abort();
	memset(p, EDGE_BYTE, len + 2 * EDGE);
	return p + EDGE;
}

static void host_free(unsigned char *p)
{
	free(p - EDGE);
}

static bool edges_ok(const unsigned char *p, uint64_t len)
{
	for (int i = 1; i <= EDGE; i++)
		if (p[-i] != EDGE_BYTE || p[len + (uint64_t)i - 1] != EDGE_BYTE)
			return false;
	return true;
}

/* ---- sizes and places ---------------------------------------------------------------------- */

/* Write len bytes at off, read them and what is beside them; d has room for the guards. */
static int there_and_back(struct ctx *c, struct mem *m, const struct mc_mem_desc *d, uint64_t off, uint64_t len,
			  uint64_t skew, uint64_t seed)
{
	unsigned char *blank = host_new(len + 2 * EDGE), *out = host_new(len + skew), *in = host_new(len + skew);
	const char *what = NULL;
	int r = copy_all(m, d, off - EDGE, blank, len + 2 * EDGE, false);

	for (uint64_t i = 0; i < len; i++)
		out[skew + i] = pattern(seed, i);
	if (r == 0)
		r = copy_all(m, d, off, out + skew, len, false);
	if (r == 0)
		r = copy_all(m, d, off, in + skew, len, true);
	CHECK(r == 0, "a copy of %llu bytes at offset %llu on ordinal %d fails: %d", (unsigned long long)len,
	      (unsigned long long)off, d->ordinal, r);
	if (memcmp(in + skew, out + skew, len))
		what = "brings wrong bytes";
	else if (!edges_ok(in, len + skew) || !edges_ok(out, len + skew))
		what = "changes bytes beside the host's range";
	r = copy_all(m, d, off - EDGE, blank, len + 2 * EDGE, true);
	CHECK(r == 0, "a copy to the host fails: %d", r);
	if (!what && (!edges_ok(blank + EDGE, len) || memcmp(blank + EDGE, out + skew, len)))
		what = "changes bytes beside its range of the memory";
	CHECK(!what, "a copy of %llu bytes, %llu off the start of a page, %s", (unsigned long long)len,
	      (unsigned long long)(off % 4096), what);
	host_free(blank);
	host_free(out);
	host_free(in);
	return PASS;
}

static int case_copy(struct ctx *c)
{
	static const uint64_t lens[] = {0, 1, 7, 64, 4095, 4096, 4097, 65535, (1 << 20) + 1};
	static const uint64_t skews[] = {0, 1, 63};
	const uint64_t room = 3 << 20;
	struct mc_mem_desc d;
	struct mem m;
	int r;

	NEEDS_ALLOC(c);
	r = mem_open(c, &m);
	for (int32_t ord = 0; r == PASS && ord < mem_count(&m) && ord < 4; ord++) {
		r = mem_alloc(c, &m, ord, room, &d);
		for (size_t i = 0; r == PASS && i < MC_ARRAY_SIZE(lens) * MC_ARRAY_SIZE(skews); i++)
			r = there_and_back(c, &m, &d, 8192 + skews[i % 3], lens[i / 3], skews[i % 3], i + 1);
		/* Both ends of the memory: what is beside it is nobody's. */
		if (r == PASS)
			r = there_and_back(c, &m, &d, EDGE, 100, 0, 98);
		if (r == PASS)
			r = there_and_back(c, &m, &d, room - EDGE - 100, 100, 0, 99);
		if (r == PASS)
			m.ops->free(m.a, &d);
	}
	return r == PASS ? mem_close(c, &m) : r;
}

/* ---- answers ------------------------------------------------------------------------------------- */

#define MANY 4096
#define SMALL 16384

struct many {
	struct copying x[MANY];
	unsigned char out[SMALL];
};

/* Until the queue is full, or all are taken; wait for all.  Each is answered, once. */
static int fill_queue(struct ctx *c, struct mem *m, const struct mc_mem_desc *d, struct many *q, unsigned *ret_nr)
{
	unsigned nr;
	int r = 0;

	for (nr = 0; nr < MANY; nr++) {
		copy_set(&q->x[nr], d, nr % 64 * SMALL, q->out, SMALL, false);
		r = copy_try(m, &q->x[nr]);
		if (r < 0)
			break;
		if (r == MC_DONE)
			q->x[nr].status = 0;
	}
	CHECK(nr == MANY || r == -EAGAIN, "copy answers %d after %u copies", r, nr);
	for (unsigned i = 0; i < nr; i++) {
		r = copy_wait(&q->x[i]);
		CHECK(r != -ETIMEDOUT, "copied never comes for copy %u of %u that were taken", i + 1, nr);
		CHECK(r == 0, "copy %u of %u ends with %d", i + 1, nr, r);
	}
	nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL); /* what comes twice comes soon */
	CHECK(nr == MANY || __atomic_load_n(&q->x[nr].status, __ATOMIC_ACQUIRE) == 1,
	      "a copy that was answered with -EAGAIN is answered again by copied");
	*ret_nr = nr;
	return PASS;
}

/* A full queue, its recovery, and no answer for what was not taken. */
static int case_full(struct ctx *c)
{
	struct many *q = calloc(1, sizeof *q);
	struct mc_mem_desc d;
	unsigned nr = 0;
	struct mem m;
	int r;

	NEEDS_ALLOC(c);
	r = mem_open(c, &m);
	if (r == PASS)
		r = mem_alloc(c, &m, 0, 64 * SMALL, &d);
	for (int round = 0; round < 3 && r == PASS; round++) {
		r = fill_queue(c, &m, &d, q, &nr);
		CHECK(r != PASS || nr, "-EAGAIN comes although nothing is in flight");
	}
	if (r == PASS)
		r = there_and_back(c, &m, &d, 4096, 5000, 0, 3);
	if (r != PASS)
		return r;
	m.ops->free(m.a, &d);
	r = mem_close(c, &m);
	free(q);
	return r;
}

/* Memory that is not of the kind: -EFAULT, at once or later. */
static int case_not_ours(struct ctx *c)
{
	unsigned char *theirs = host_new(8192), *host = host_new(8192);
	struct mc_mem_desc d = {.size = sizeof d, .addr = theirs, .len = 8192, .kind = c->plugin.desc->memory[0]};
	struct mem m;
	int r = mem_open(c, &m);

	if (r != PASS)
		return r;
	memset(host, 1, 8192);
	for (int to_host = 0; to_host < 2; to_host++) {
		r = copy_all(&m, &d, 0, host, 8192, to_host);
		CHECK(r == -EFAULT, "copy of malloc's memory as if it were of the kind answers %d, not -EFAULT", r);
	}
	CHECK(theirs[0] == EDGE_BYTE && host[0] == 1, "a copy that was refused moves bytes");
	host_free(theirs);
	host_free(host);
	return mem_close(c, &m);
}

/* ---- threads --------------------------------------------------------------------------------- */

#define THREADS 4
#define ROUNDS 40

struct one {
	struct ctx c; /* of its own: it says what fails */
	struct told told;
	struct mem *m;
	uint64_t seed;
	int result;
};

static void *one_main(void *arg)
{
	struct one *o = arg;

	o->result = PASS;
	for (uint64_t i = 0; i < ROUNDS && o->result == PASS; i++) {
		struct mc_mem_desc d;

		o->result = mem_alloc(&o->c, o->m, -1, 1 << 18, &d);
		if (o->result == PASS)
			o->result = there_and_back(&o->c, o->m, &d, 4096 + i, 1000 * (i + 1), i % 3, o->seed + i);
		if (o->result == PASS)
			o->m->ops->free(o->m->a, &d);
	}
	return NULL;
}

static int case_threads(struct ctx *c)
{
	struct one *o = calloc(THREADS, sizeof *o);
	pthread_t threads[THREADS];
	struct mem m;
	int r;

	NEEDS_ALLOC(c);
	r = mem_open(c, &m);
	if (r != PASS)
		return r;
	for (int i = 0; i < THREADS; i++) {
		o[i].c = *c;
		o[i].c.told = &o[i].told;
		o[i].m = &m;
		o[i].seed = (uint64_t)i * 1000;
		CHECK(pthread_create(&threads[i], NULL, one_main, &o[i]) == 0, "no thread");
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < THREADS; i++)
		CHECK(o[i].result == PASS, "of %d threads that allocate, copy and free at once: %.300s", THREADS,
		      o[i].told.why);
	free(o);
	return mem_close(c, &m);
}

const struct test_case mem_copy_cases[] = {
	{MOVES, "copy", case_copy, 9},
	{BEHAVES, "full", case_full, 9},
	{BEHAVES, "not-ours", case_not_ours, 9},
	{BEHAVES, "threads", case_threads, 9},
	{.run = NULL},
};
