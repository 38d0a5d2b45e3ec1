/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The NUMA nodes of a range of memory, by sampling.  A registration of location
 * `*` is cut by it, so it must stay cheap for buffers of many GiB: 512 samples,
 * 1 GiB, per system call, and a bisection per boundary.
 */
#include "numa.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/util/check.h"

#define STEP (UINT64_C(2) << 20)
#define SAMPLES 512
#define NODES_MAX 1024 /* of the kernel */

static int query(size_t nr, void **pages, int *ret_nodes)
{
	return syscall(SYS_move_pages, 0, (unsigned long)nr, pages, NULL, ret_nodes, 0) < 0 ? -errno
											      : 0;
}

int (*mc_numa_query_hook)(size_t nr, void **pages, int *ret_nodes) = query;

int mc_numa_here(void)
{
	unsigned int cpu = 0, node = 0;

	return syscall(SYS_getcpu, &cpu, &node, NULL) < 0 ? 0 : (int)node;
}

struct scan {
	const char *base;
	uint64_t len;
	size_t nr;
	struct {
		uint64_t off;
		int node;
	} ranges[MC_NUMA_RANGES_MAX];
	bool overflow;
	uint32_t count[NODES_MAX]; /* samples per node */
};

static void *page_at(const struct scan *s, uint64_t off)
{
	uintptr_t mask = (uintptr_t)sysconf(_SC_PAGESIZE) - 1;

	return (void *)(((uintptr_t)s->base + off) & ~mask);
}

/* The first page that is on `node`: after lo, which is not, at the latest at hi, which is. */
static uint64_t boundary(const struct scan *s, uint64_t lo, uint64_t hi, int node)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

	while (hi - lo > page) {
		uint64_t mid = lo + (hi - lo) / 2;
		void *addr;
		int found = -ENOENT;

		/* Keep to page boundaries, so that a range ends where a page does. */
		addr = page_at(s, mid);
		mid = (uint64_t)((char *)addr - s->base);
		if ((char *)addr <= s->base + lo)
			mid = (uint64_t)((char *)page_at(s, lo + page) - s->base);
		if (mid >= hi)
			break;
		addr = page_at(s, mid);
		if (mc_numa_query_hook(1, &addr, &found) == 0 && found == node)
			hi = mid;
		else
			lo = mid;
	}
	return hi;
}

static void note(struct scan *s, uint64_t last_off, uint64_t off, int node)
{
	if (node < 0 || node >= NODES_MAX)
		return;
	s->count[node]++;
	if (s->nr == 0) {
		s->ranges[s->nr].off = 0;
		s->ranges[s->nr++].node = node;
		return;
	}
	if (s->ranges[s->nr - 1].node == node || s->overflow)
		return;
	if (s->nr == MC_NUMA_RANGES_MAX) {
		s->overflow = true;
		return;
	}
	s->ranges[s->nr].off = boundary(s, last_off, off, node);
	s->ranges[s->nr++].node = node;
}

/* Look at the page of every step, and at the last one. */
static int sample(struct scan *s)
{
	uint64_t off = 0, last = 0;

	while (off < s->len) {
		void *pages[SAMPLES];
		uint64_t offs[SAMPLES];
		int nodes[SAMPLES];
		size_t nr = 0;
		int r;

		while (nr < SAMPLES && off < s->len) {
			/* Aligned offsets, but for the first and the last byte. */
			offs[nr] = off ? (uint64_t)((char *)page_at(s, off) - s->base) : 0;
			pages[nr++] = page_at(s, off);
			if (s->len - off > STEP)
				off += STEP;
			else
				off = off == s->len - 1 ? s->len : s->len - 1;
		}
		memset(nodes, 0xff, sizeof nodes);
		r = mc_numa_query_hook(nr, pages, nodes);
		if (r < 0)
			return r;
		for (size_t i = 0; i < nr; i++) {
			note(s, last, offs[i], nodes[i]);
			last = offs[i];
		}
	}
	return 0;
}

int mc_numa_ranges(const void *addr, uint64_t len,
		   int (*emit)(void *ctx, uint64_t off, uint64_t len, int node), void *ctx)
{
	struct scan s;

	memset(&s, 0, sizeof s);
	s.base = addr;
	s.len = len;
	if (sample(&s) < 0 || s.nr == 0) /* refused (containers), or nothing touched yet */
		return emit(ctx, 0, len, mc_numa_here());
	if (s.overflow) {
		int best = 0;

		for (int i = 1; i < NODES_MAX; i++) {
			if (s.count[i] > s.count[best])
				best = i;
		}
		return emit(ctx, 0, len, best);
	}
	for (size_t i = 0; i < s.nr; i++) {
		uint64_t end = i + 1 < s.nr ? s.ranges[i + 1].off : len;
		int r = emit(ctx, s.ranges[i].off, end - s.ranges[i].off, s.ranges[i].node);

		if (r != 0)
			return r;
	}
	return 0;
}
