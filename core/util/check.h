/* SPDX-License-Identifier: Apache-2.0 */
/* Small checks and arithmetic that every part uses.  Header-only, stateless. */
#ifndef MC_UTIL_CHECK_H
#define MC_UTIL_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define MC_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define MC_CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))
#define MC_LIKELY(x) __builtin_expect(!!(x), 1)
#define MC_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define MC_CACHE_LINE 64
/* A variable per thread that costs no call to find: for few bytes only, since they are taken from what the
 * loader keeps in reserve for libraries that a program opens late. */
#define MC_PER_THREAD __thread __attribute__((tls_model("initial-exec")))

#define MC_MIN(a, b) ((a) < (b) ? (a) : (b))
#define MC_MAX(a, b) ((a) > (b) ? (a) : (b))

/* [off, off + len) lies inside [base, base + size), without overflow. */
static inline bool mc_range_inside(uint64_t base, uint64_t size, uint64_t off, uint64_t len)
{
	return off >= base && off - base <= size && len <= size - (off - base);
}

/* [a, a + alen) and [b, b + blen) share a byte. */
static inline bool mc_range_overlaps(uint64_t a, uint64_t alen, uint64_t b, uint64_t blen)
{
	return alen && blen && a < b + blen && b < a + alen;
}

static inline size_t mc_round_up(size_t n, size_t to)
{
	return (n + to - 1) / to * to;
}

/* Debug builds stop here; release builds go on. */
#ifndef NDEBUG
#define MC_ASSERT(cond)                                                                            \
	do {                                                                                       \
		if (MC_UNLIKELY(!(cond)))                                                          \
			abort();                                                                   \
	} while (0)
#else
#define MC_ASSERT(cond) ((void)sizeof(cond))
#endif

#endif
