/* SPDX-License-Identifier: Apache-2.0 */
/* What a program says beside its answer: lines on stderr, and a line of progress that they pass by. */
#ifndef MC_PROGRAM_TELL_H
#define MC_PROGRAM_TELL_H

#include <mooncake/mooncake.h>

/* A line on stderr; what a terminal would obey in it becomes '?'.  Any thread. */
void mc_tell(const char *fmt, ...) MC_PRINTF(1, 2);
/* Log lines of the engine go the same way. */
void mc_tell_log_init(void);
/* "PROGRAM: sentence", and with json an object on stdout; returns code. */
int mc_tell_error(const char *program, bool json, const char *sentence, int code);

/* Is there anybody to look at progress? */
bool mc_tell_progress_on(void);
/* How wide a line may be. */
size_t mc_tell_columns(void);
/* The line of progress, instead of the one that stands there. */
void mc_tell_progress(const char *line);
void mc_tell_progress_end(void);

#endif
