/* SPDX-License-Identifier: Apache-2.0 */
/* On which NUMA node pages lie, asked from the kernel; no library. */
#ifndef MC_CORE_NUMA_H
#define MC_CORE_NUMA_H

#include <mooncake/types.h>

#define MC_NUMA_RANGES_MAX 64

/*
 * Split [addr, addr + len) into ranges that lie on one node each, in order, and
 * give them to emit with their offset from addr; a non-zero answer of emit ends
 * it and is returned.  The page at each 2 MiB is looked at, and more only where
 * two neighbours differ.  Untouched pages count to the range before them; memory
 * in more than MC_NUMA_RANGES_MAX ranges (interleaved) is one range of its most
 * frequent node; if the kernel does not tell, one range of this CPU's node.
 * len > 0.  [any], asks the kernel once per GiB
 */
int mc_numa_ranges(const void *addr, uint64_t len,
		   int (*emit)(void *ctx, uint64_t off, uint64_t len, int node), void *ctx);

/* The node of the CPU that the caller runs on; 0 if unknown. */
int mc_numa_here(void);

/* move_pages(2) without moving: nodes (or -errno) of nr pages.  Tests replace it. */
extern int (*mc_numa_query_hook)(size_t nr, void **pages, int *ret_nodes);

#endif
