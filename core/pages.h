/* SPDX-License-Identifier: Apache-2.0 */
/* Pages of host memory: zeroed, on a node, huge where they can be, and such as another process may map. */
#ifndef MC_CORE_PAGES_H
#define MC_CORE_PAGES_H

#include <mooncake/types.h>

/* Zeroed pages, len rounded up to pages, bound to a node (-1: any); NULL: errno.  [any] */
void *mc_pages_alloc(uint64_t len, int32_t node);
/* The same from a memfd, whose offset 0 is the first page: sealed against shrinking and growing, the
 * caller's to close, before or after the pages are freed.  Where the system gives none, or descriptors are scarce, they are plain
 * pages and *ret_fd is -1.  A child of fork shares them.  [any] */
void *mc_pages_share(uint64_t len, int32_t node, int *ret_fd);
void mc_pages_free(void *addr, uint64_t len);

#endif
