/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scoped locals for cold code: `mc_cleanup(mc_freep) char *s = strdup(x);`.
 * Cleanup functions keep errno.  Header-only, stateless.
 */
#ifndef MC_UTIL_CLEANUP_H
#define MC_UTIL_CLEANUP_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define mc_cleanup(fn) __attribute__((cleanup(fn)))

/* Move ownership out of a scoped local. */
#define mc_steal(ptr)                                                                              \
	__extension__({                                                                            \
		__typeof__(ptr) mc_stolen_ = (ptr);                                                \
		(ptr) = NULL;                                                                      \
		mc_stolen_;                                                                        \
	})

static inline void mc_freep(void *p)
{
	int saved = errno;

	free(*(void **)p);
	errno = saved;
}

static inline void mc_closep(int *fd)
{
	if (*fd >= 0) {
		int saved = errno;

		close(*fd);
		errno = saved;
	}
}

static inline void mc_fclosep(FILE **f)
{
	if (*f) {
		int saved = errno;

		fclose(*f);
		errno = saved;
	}
}

#endif
