/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SIGHUP's two meanings: the terminal is gone, which ends us as SIGINT and SIGTERM do;
 * or somebody has sent it, so that the config is read again.  And what is said of a
 * process that hangs in a call that waits for others (a name held by somebody, a host
 * that does not answer).
 */
#include "bench.h"

#include <pthread.h>
#include <unistd.h>

#define GRACE_NS (950 * MC_MSEC)

static bool had_terminal;
static pthread_mutex_t name_lock = PTHREAD_MUTEX_INITIALIZER;
static char engine_name[MC_SEGMENT_NAME_MAX + 1]; /* under name_lock */

void bench_stop_name(const char *name)
{
	pthread_mutex_lock(&name_lock);
	snprintf(engine_name, sizeof engine_name, "%s", name ? name : "");
	pthread_mutex_unlock(&name_lock);
}

/* It is not known whether the record is still there. */
static void say_cut_short(void)
{
	pthread_mutex_lock(&name_lock);
	fprintf(stderr, "engine%s%s%s: stopped before it was closed; its record, if it has one, ends with "
			"its lease\n",
		*engine_name ? " '" : "", engine_name, *engine_name ? "'" : "");
	pthread_mutex_unlock(&name_lock);
}

static bool terminal_gone(void)
{
	return had_terminal && !isatty(STDERR_FILENO);
}

/* On the thread that waits for signals. */
static bool hup(void)
{
	if (terminal_gone())
		return false;
	bench_reload_ask();
	return true;
}

int bench_stop_init(struct mc_error *err)
{
	const struct mc_stop_options options = {.grace_ns = GRACE_NS, .hup = hup, .cut_short = say_cut_short};

	had_terminal = isatty(STDERR_FILENO);
	return mc_stop_init(&options, err);
}
