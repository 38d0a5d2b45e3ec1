/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a program ends by signals.  They are blocked in every thread and one thread
 * waits for them, so that no call of the library is interrupted, and what was
 * published is taken back.  A program that hangs meanwhile is ended by a second
 * signal, or after a while.
 */
#ifndef MC_PROGRAM_STOP_H
#define MC_PROGRAM_STOP_H

#include <mooncake/types.h>

struct mc_stop_options {
	uint64_t grace_ns; /* from the first signal on */
	/* SIGHUP came: true: it meant something else than the end.  NULL: it means the end, unless nohup
	 * ignores it.  On the thread that waits. */
	bool (*hup)(void);
	/* Say what is left behind; the process then ends with status 1.  On that thread. */
	void (*cut_short)(void);
};

/* Block SIGINT, SIGTERM and SIGHUP everywhere, ignore SIGPIPE.  Call before any thread exists.
 *   options   copied
 *   returns   0; -errno */
int mc_stop_init(const struct mc_stop_options *options, struct mc_error *err);
/* Everything is over: end the thread that waits for signals. */
void mc_stop_fini(void);
/* A signal came.  Any thread. */
bool mc_stopping(void);
/* A descriptor that is readable once mc_stopping(). */
int mc_stop_fd(void);
/* Wait for a signal; mc_stopping().  Any thread. */
bool mc_stop_wait(uint64_t timeout_ns);
/* All is closed: the process may take its time to exit. */
void mc_stop_done(void);

#endif
