/* SPDX-License-Identifier: Apache-2.0 */
/* What opening and closing leaves behind, for plugins of every kind. */
#ifndef MC_CHECK_LEAKS_H
#define MC_CHECK_LEAKS_H

#include "cases.h"

#define CYCLES 100

struct leaks {
	unsigned fds, threads;
	long pages;
	size_t heap[CYCLES];
};
/* Count after cycle i of CYCLES; the first may fill caches that stay. */
void leaks_count(struct leaks *l, unsigned i);
/* Run one cycle on a thread of its own, so that none of malloc's caches of freed blocks outlives it. */
int leaks_cycle(struct ctx *c, int (*cycle)(struct ctx *c, int i), int i);
int leaks_check(struct ctx *c, const struct leaks *l);

#define LEAKS_FDS 1024
void fds_open(bool open[LEAKS_FDS]);
/* A process that the user's program starts inherits no descriptor of the plugin: FAIL if one that was not
 * open before is not close-on-exec. */
int closed_on_exec(struct ctx *c, const bool before[LEAKS_FDS]);

#endif
