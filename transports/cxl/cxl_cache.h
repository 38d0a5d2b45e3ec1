/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The caches between a host and its pool.  Nothing keeps two hosts coherent: what
 * one wrote is in the pool when its lines were written back, and another one sees
 * it when it has dropped what it holds of them.  Every call says which rule of
 * README.md it keeps; the table's functions are chosen at open, by what the
 * processor can do.
 */
#ifndef MC_CXL_CACHE_H
#define MC_CXL_CACHE_H

#include <mooncake/types.h>

enum cxl_rule {
	CXL_HEADER_SET = 1, /* format: the header is in the pool */
	CXL_HEADER_LOOK,    /* attach: it is read from there */
	CXL_SLOT_SET,       /* an engine's identity and extents are in the pool */
	CXL_SLOT_LOOK,      /* others read them from there */
	CXL_KEY_SET,        /* a buffer may be reached, or no more */
	CXL_KEY_LOOK,       /* its key is read before it is touched */
	CXL_GUARD_SET,      /* whose memory a lane touches, before it reads that memory's key */
	CXL_GUARD_CLEAR,    /* it touches it no more */
	CXL_GUARD_LOOK,     /* who takes memory back reads who touches it */
	CXL_WRITE,          /* bytes of a WRITE are in the pool when it completes */
	CXL_CUT,            /* the rest of a line that a WRITE cuts is the pool's, when it is written back */
	CXL_READ,           /* a READ takes them from the pool */
	CXL_LEAVE,          /* what its owner wrote last is not written back over memory that is another's */
	CXL_PUBLISH,        /* mc_memory_publish */
	CXL_REFRESH,        /* mc_memory_refresh */
	CXL_NR_RULES
};

struct cxl_cache {
	const char *name; /* of the instructions, for the log */
	/* Map a pool, whole; NULL with errno.  [helper] */
	void *(*map)(int fd, uint64_t len);
	void (*unmap)(void *base, uint64_t len);
	/* Give back the lines that hold [at, at + len): they are in the pool after fence.  [any] */
	void (*write_back)(const void *at, uint64_t len, enum cxl_rule rule);
	/* The same, and forget them: later loads read the pool, and come after all stores and write-backs
	 * of before; no fence is needed.  [any] */
	void (*drop)(const void *at, uint64_t len, enum cxl_rule rule);
	/* The two halves of drop, with other work between: from settle on loads read the pool.  [any] */
	void (*forget)(const void *at, uint64_t len, enum cxl_rule rule);
	void (*settle)(enum cxl_rule rule);
	/* memcpy into the pool whose lines need no write_back, but a fence.  [any] */
	void (*stream)(void *to, const void *from, uint64_t len, enum cxl_rule rule);
	/* All stores, write-backs and streams of before are in the pool before any store that follows. */
	void (*fence)(enum cxl_rule rule);
};

/* What this processor has.  Tests of the incoherence put their own in its place. */
const struct cxl_cache *cxl_cache_pick(void);

#endif
