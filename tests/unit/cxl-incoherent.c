/* SPDX-License-Identifier: Apache-2.0 */
/* Caches that nothing keeps coherent; cxl-incoherent.h says what they do. */
#include "cxl-incoherent.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define LINE 64u

/* A line that is on its way to the pool, until its thread fences. */
struct pending {
	struct pending *next;
	pthread_t thread;
	uint64_t at;
	uint8_t bytes[LINE];
};

struct mapping {
	struct mapping *next;
	uint8_t *mine, *clean, *shared; /* what loads see; the same when it was last the pool's; the pool */
	uint64_t len;
	bool gone;
	struct pending *pending, **tail;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards all below but the copies' bytes */
static struct mapping *mappings;
static enum cxl_rule broken_rule;
static enum inc_op broken_op;
static unsigned calls[CXL_NR_RULES][INC_NR_OPS];
static const void *forgotten; /* of forget, until settle; one lane at a time does that in these tests */
static uint64_t forgotten_len;
static uint64_t hook_least;
static void (*hook)(void *arg);
static void *hook_arg;

void inc_break(enum cxl_rule rule, enum inc_op op)
{
	pthread_mutex_lock(&lock);
	broken_rule = rule;
	broken_op = op;
	pthread_mutex_unlock(&lock);
}

unsigned inc_calls(enum cxl_rule rule, enum inc_op op)
{
	return calls[rule][op];
}

void inc_on_write(uint64_t least, void (*run)(void *arg), void *arg)
{
	hook_least = least;
	hook = run;
	hook_arg = arg;
}

/* Under the lock: is this call to be left out? */
static bool broken(enum cxl_rule rule, enum inc_op op)
{
	calls[rule][op]++;
	return broken_rule == rule && broken_op == op;
}

static struct mapping *mapping_of(const void *at)
{
	struct mapping *m = mappings;

	while (m && (m->gone || (const uint8_t *)at < m->mine || (const uint8_t *)at >= m->mine + m->len))
		m = m->next;
	if (!m)
		abort(); /* the transport flushes what is no pool's */
	return m;
}

static void pend(struct mapping *m, uint64_t at)
{
	struct pending *p = malloc(sizeof *p);

	if (!p)
		abort();
	p->next = NULL;
	p->thread = pthread_self();
	p->at = at;
	memcpy(p->bytes, m->mine + at, LINE);
	*m->tail = p;
	m->tail = &p->next;
}

/* What this thread has under way, or all do. */
static void settle(struct mapping *m, bool all)
{
	struct pending **at = &m->pending, *p;

	while ((p = *at)) {
		if (!all && !pthread_equal(p->thread, pthread_self())) {
			at = &p->next;
			continue;
		}
		*at = p->next;
		memcpy(m->shared + p->at, p->bytes, LINE);
		memcpy(m->clean + p->at, p->bytes, LINE);
		free(p);
	}
	m->tail = at;
}

/* Each line of a range, by its place in the mapping. */
#define EACH_LINE(m, off, at, len)                                                                 \
	for (uint64_t off = ((uint64_t)((const uint8_t *)(at) - (m)->mine)) / LINE * LINE,         \
		      end_ = (uint64_t)((const uint8_t *)(at) - (m)->mine) + (len);                \
	     off < end_; off += LINE)

static bool dirty(const struct mapping *m, uint64_t off)
{
	return memcmp(m->mine + off, m->clean + off, LINE) != 0;
}

static void inc_write_back(const void *at, uint64_t len, enum cxl_rule rule)
{
	struct mapping *m;

	pthread_mutex_lock(&lock);
	m = mapping_of(at);
	if (!broken(rule, INC_WRITE_BACK))
		EACH_LINE(m, off, at, len)
			if (dirty(m, off))
				pend(m, off);
	pthread_mutex_unlock(&lock);
}

/* Under the lock. */
static void drop_lines(const void *at, uint64_t len)
{
	struct mapping *m = mapping_of(at);

	settle(m, false);
	EACH_LINE(m, off, at, len) {
		if (dirty(m, off))
			memcpy(m->shared + off, m->mine + off, LINE);
		memcpy(m->mine + off, m->shared + off, LINE);
		memcpy(m->clean + off, m->shared + off, LINE);
	}
}

static void inc_drop(const void *at, uint64_t len, enum cxl_rule rule)
{
	pthread_mutex_lock(&lock);
	if (!broken(rule, INC_DROP))
		drop_lines(at, len);
	pthread_mutex_unlock(&lock);
}

/* Without the fence that follows it is not known to have happened: it happens there. */
static void inc_forget_lines(const void *at, uint64_t len, enum cxl_rule rule)
{
	pthread_mutex_lock(&lock);
	forgotten = broken(rule, INC_FORGET) ? NULL : at;
	forgotten_len = len;
	pthread_mutex_unlock(&lock);
}

static void inc_settle(enum cxl_rule rule)
{
	pthread_mutex_lock(&lock);
	if (!broken(rule, INC_SETTLE) && forgotten)
		drop_lines(forgotten, forgotten_len);
	forgotten = NULL;
	pthread_mutex_unlock(&lock);
}

static void inc_stream(void *to, const void *from, uint64_t len, enum cxl_rule rule)
{
	struct mapping *m;

	if (hook && len >= hook_least)
		hook(hook_arg);
	pthread_mutex_lock(&lock);
	m = mapping_of(to);
	memcpy(to, from, len);
	if (!broken(rule, INC_STREAM))
		EACH_LINE(m, off, to, len)
			pend(m, off);
	pthread_mutex_unlock(&lock);
}

static void inc_fence(enum cxl_rule rule)
{
	pthread_mutex_lock(&lock);
	for (struct mapping *m = broken(rule, INC_FENCE) ? NULL : mappings; m; m = m->next)
		if (!m->gone)
			settle(m, false);
	pthread_mutex_unlock(&lock);
}

static void *inc_map(int fd, uint64_t len)
{
	struct mapping *m = calloc(1, sizeof *m);
	const int both = PROT_READ | PROT_WRITE, own = MAP_PRIVATE | MAP_ANONYMOUS;

	if (!m)
		return NULL;
	m->len = len;
	m->tail = &m->pending;
	m->shared = mmap(NULL, len, both, MAP_SHARED, fd, 0);
	m->mine = mmap(NULL, len, both, own, -1, 0);
	m->clean = mmap(NULL, len, both, own, -1, 0);
	if (m->shared == MAP_FAILED || m->mine == MAP_FAILED || m->clean == MAP_FAILED)
		abort();
	/* What an earlier process of this host has left in the cache. */
	memset(m->mine, 0xa5, len);
	memset(m->clean, 0xa5, len);
	pthread_mutex_lock(&lock);
	m->next = mappings;
	mappings = m;
	pthread_mutex_unlock(&lock);
	return m->mine;
}

/* The mapping goes, its lines stay in the cache. */
static void inc_unmap(void *base, uint64_t len)
{
	pthread_mutex_lock(&lock);
	mapping_of(base)->gone = true;
	pthread_mutex_unlock(&lock);
}

void inc_evict(void)
{
	pthread_mutex_lock(&lock);
	for (struct mapping *m = mappings; m; m = m->next) {
		settle(m, true);
		for (uint64_t off = 0; off < m->len; off += LINE)
			if (dirty(m, off)) {
				memcpy(m->shared + off, m->mine + off, LINE);
				memcpy(m->clean + off, m->mine + off, LINE);
			}
	}
	pthread_mutex_unlock(&lock);
}

void inc_forget(void)
{
	pthread_mutex_lock(&lock);
	for (struct mapping **at = &mappings, *m; (m = *at);) {
		if (!m->gone) {
			at = &m->next;
			continue;
		}
		*at = m->next;
		settle(m, true);
		munmap(m->shared, m->len);
		munmap(m->mine, m->len);
		munmap(m->clean, m->len);
		free(m);
	}
	pthread_mutex_unlock(&lock);
}

const struct cxl_cache *cxl_cache_pick(void)
{
	static const struct cxl_cache cache = {
		.name = "nothing, by hand", .map = inc_map, .unmap = inc_unmap, .write_back = inc_write_back,
		.drop = inc_drop, .forget = inc_forget_lines, .settle = inc_settle, .stream = inc_stream, .fence = inc_fence,
	};

	return &cache;
}
