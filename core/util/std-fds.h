/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For programs, first thing in main: a descriptor of 0 to 2 that is closed would be
 * given to the first file or socket that is opened, and what is printed would go
 * there.  Held so, it still fails as a closed one does, with EBADF.
 */
#ifndef MC_UTIL_STD_FDS_H
#define MC_UTIL_STD_FDS_H

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static inline void mc_hold_std_fds(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && errno == EBADF)
			(void)!open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY); /* gets this one */
}

#endif
