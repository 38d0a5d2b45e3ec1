/* SPDX-License-Identifier: Apache-2.0 */
/* Cases of memory plugins: cases_mem.c (opening, memory and its names), cases_mem_copy.c (bytes). */
#ifndef MC_CHECK_CASES_MEM_H
#define MC_CHECK_CASES_MEM_H

#include "cases.h"

#define COPY_BOUND (5 * MC_SEC) /* of one copy */

/* One opened instance in a world of its own. */
struct mem {
	struct fake_world *w;
	const struct mc_memory_ops *ops;
	void *a; /* its area */
};
int mem_open(struct ctx *c, struct mem *m);
/* Closes it; FAIL if anything was breached. */
int mem_close(struct ctx *c, struct mem *m);
int mem_count(const struct mem *m); /* at least 1: what has no count has one ordinal */

/* Memory of the kind; SKIP if the plugin gives none. */
int mem_alloc(struct ctx *c, struct mem *m, int32_t ordinal, uint64_t len, struct mc_mem_desc *ret);
#define NEEDS_ALLOC(c)                      \
	if (!(c)->plugin.ops.memory.alloc) \
	return skip(c, "no memory to be had from it (alloc)")

/* A copy under way; it stays in place until it was answered. */
struct copying {
	struct mc_copy c;
	int64_t status; /* 1: not answered yet */
};
void copy_set(struct copying *x, const struct mc_mem_desc *d, uint64_t off, void *hostptr, uint64_t len, bool to_host);
/* What copy answers. */
int copy_try(struct mem *m, struct copying *x);
/* Wait for the answer of one that was taken: its status; -ETIMEDOUT. */
int copy_wait(struct copying *x);
/* From start to end, again while the queue is full. */
int copy_all(struct mem *m, const struct mc_mem_desc *d, uint64_t off, void *hostptr, uint64_t len, bool to_host);

#endif
