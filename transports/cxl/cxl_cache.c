/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing back and dropping cache lines on x86-64: clwb, clflushopt or clflush,
 * whichever the processor has, and stores that go past the caches.  README.md says
 * which manual promises what.
 */
#include "cxl_cache.h"

#include <cpuid.h>
#include <emmintrin.h>
#include <string.h>
#include <sys/mman.h>

#include "cxl_wire.h"

static void *native_map(int fd, uint64_t len)
{
	void *base = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	return base == MAP_FAILED ? NULL : base;
}

static void native_unmap(void *base, uint64_t len)
{
	munmap(base, len);
}

/* Each line of a range, in order. */
#define EACH_LINE(line, at, len)                                                                   \
	for (const char *line = (const char *)((uintptr_t)(at) & ~(uintptr_t)(CXL_LINE - 1)),      \
			*end_ = (const char *)(at) + (len);                                        \
	     line < end_; line += CXL_LINE)

/* Spelled out, so that no compiler option is needed for what only some processors run. */
static void lines_clwb(const void *at, uint64_t len, enum cxl_rule rule)
{
	EACH_LINE(line, at, len)
		__asm__ volatile("clwb %0" : "+m"(*(volatile char *)(uintptr_t)line));
}

static void lines_clflushopt(const void *at, uint64_t len, enum cxl_rule rule)
{
	EACH_LINE(line, at, len)
		__asm__ volatile("clflushopt %0" : "+m"(*(volatile char *)(uintptr_t)line));
}

static void lines_clflush(const void *at, uint64_t len, enum cxl_rule rule)
{
	EACH_LINE(line, at, len)
		_mm_clflush(line);
}

static void native_fence(enum cxl_rule rule)
{
	_mm_sfence();
}

static void native_settle(enum cxl_rule rule)
{
	_mm_mfence();
}

/* A flush comes after what was stored to its line before; mfence keeps the loads that follow behind it, and
 * behind all that was stored. */
static void drop_clflushopt(const void *at, uint64_t len, enum cxl_rule rule)
{
	lines_clflushopt(at, len, rule);
	_mm_mfence();
}

static void drop_clflush(const void *at, uint64_t len, enum cxl_rule rule)
{
	lines_clflush(at, len, rule);
	_mm_mfence();
}

/* Whole lines past the caches; the caller has aligned `to`. */
static void stream_lines(char *to, const char *from, uint64_t len)
{
	for (; len >= CXL_LINE; len -= CXL_LINE, to += CXL_LINE, from += CXL_LINE) {
		__m128i a = _mm_loadu_si128((const __m128i *)(const void *)from);
		__m128i b = _mm_loadu_si128((const __m128i *)(const void *)(from + 16));
		__m128i c = _mm_loadu_si128((const __m128i *)(const void *)(from + 32));
		__m128i d = _mm_loadu_si128((const __m128i *)(const void *)(from + 48));

		_mm_stream_si128((__m128i *)(void *)to, a);
		_mm_stream_si128((__m128i *)(void *)(to + 16), b);
		_mm_stream_si128((__m128i *)(void *)(to + 32), c);
		_mm_stream_si128((__m128i *)(void *)(to + 48), d);
	}
}

/* What the cut lines at both ends hold beside our bytes goes through the cache. */
static void stream_by(char *to, const char *from, uint64_t len, enum cxl_rule rule,
		      void (*write_back)(const void *at, uint64_t len, enum cxl_rule rule))
{
	uint64_t head = -(uintptr_t)to & (CXL_LINE - 1), body, tail;

	head = head < len ? head : len;
	body = (len - head) & ~(uint64_t)(CXL_LINE - 1);
	tail = len - head - body;
	if (head) {
		memcpy(to, from, head);
		write_back(to, head, rule);
	}
	stream_lines(to + head, from + head, body);
	if (tail) {
		memcpy(to + head + body, from + head + body, tail);
		write_back(to + head + body, tail, rule);
	}
}

static void stream_clwb(void *to, const void *from, uint64_t len, enum cxl_rule rule)
{
	stream_by(to, from, len, rule, lines_clwb);
}

static void stream_clflushopt(void *to, const void *from, uint64_t len, enum cxl_rule rule)
{
	stream_by(to, from, len, rule, lines_clflushopt);
}

static void stream_clflush(void *to, const void *from, uint64_t len, enum cxl_rule rule)
{
	stream_by(to, from, len, rule, lines_clflush);
}

#define CACHE(the_name, wb, dr, fo, st)                                                                \
	{.name = the_name, .map = native_map, .unmap = native_unmap, .write_back = wb, .drop = dr, \
	 .forget = fo, .settle = native_settle, .stream = st, .fence = native_fence}
static const struct cxl_cache with_clwb = CACHE("clwb, clflushopt", lines_clwb, drop_clflushopt, lines_clflushopt,
						  stream_clwb);
static const struct cxl_cache with_clflushopt =
	CACHE("clflushopt", lines_clflushopt, drop_clflushopt, lines_clflushopt, stream_clflushopt);
static const struct cxl_cache with_clflush = CACHE("clflush", lines_clflush, drop_clflush, lines_clflush,
						     stream_clflush);

const struct cxl_cache *cxl_cache_pick(void)
{
	unsigned a, b = 0, c, d;

	if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
		return &with_clflush;
	if ((b & bit_CLFLUSHOPT) && (b & bit_CLWB))
		return &with_clwb;
	return b & bit_CLFLUSHOPT ? &with_clflushopt : &with_clflush;
}
