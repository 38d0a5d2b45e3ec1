/* SPDX-License-Identifier: Apache-2.0 */
/* What opening and closing leaves behind, for plugins of every kind. */
#ifndef MC_CHECK_LEAKS_H
#define MC_CHECK_LEAKS_H

#include "cases.h"

#define CYCLES 100

/* Run CYCLES of them and compare what is there after the last with what was there after the second; the first may
 * fill caches that stay.  apart: each on a thread of its own, so that none of malloc's caches of freed blocks
 * outlives it. */
int leaks_over(struct ctx *c, int (*cycle)(struct ctx *c, int i), bool apart);

#define LEAKS_FDS 1024
void fds_open(bool open[LEAKS_FDS]);
/* A process that the user's program starts inherits no descriptor of the plugin: FAIL if one that was not
 * open before is not close-on-exec. */
int closed_on_exec(struct ctx *c, const bool before[LEAKS_FDS]);

/* A child of a program that has forked: it lives and does nothing until its end.  < 0: errno. */
pid_t bystander_start(void);
void bystander_end(pid_t pid);

#endif
