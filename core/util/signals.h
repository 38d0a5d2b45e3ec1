/* SPDX-License-Identifier: Apache-2.0 */
/* Signals of threads that touch the application's memory. */
#ifndef MC_UTIL_SIGNALS_H
#define MC_UTIL_SIGNALS_H

#include <signal.h>
#include <stddef.h>

/* What a thread of ours blocks: the application's handlers run on its own threads.  Not what a thread's own
 * instruction raises: blocked, that ends the process in spite of a handler, such as one that lives on when a
 * mapped file is cut (SIGBUS). */
static inline void mc_signals_to_block(sigset_t *set)
{
	static const int own[] = {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGSYS};

	sigfillset(set);
	for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
		sigdelset(set, own[i]);
}

#endif
