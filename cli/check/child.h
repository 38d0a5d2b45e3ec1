/* SPDX-License-Identifier: Apache-2.0 */
/* Children that run a stranger's plugin: wait for one, and say how it ended. */
#ifndef MC_CHECK_CHILD_H
#define MC_CHECK_CHILD_H

#include <stddef.h>
#include <sys/types.h>

/* Wait for a child that leads a process group of its own; what it started ends with it.  0: it ended by
 * itself; -ETIMEDOUT: it had to be killed after so many seconds; else -errno. */
int child_wait(pid_t pid, unsigned seconds, int *ret_status);
/* How it ended by itself or not, r being child_wait's answer, as the end of a sentence; "" if its exit
 * status says it.  seconds: what child_wait was given. */
void child_how(int r, int status, unsigned seconds, char *why, size_t cap);

#endif
