/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Logging: one line per call.  The application may take the lines over
 * (mc_log_set_handler); else they go to stderr, each in one write so that lines
 * of several threads do not mix.  Names and messages of peers end up here, so
 * control characters are taken out.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <mooncake/mooncake.h>
#include "clock.h"
#include "log.h"
#include "util/check.h"

#define LOG_LINE_MAX 2048
#define RATELIMIT_WINDOW_NS (10 * MC_SEC)

int mc_log_level_now = MC_LOG_INFO;

/* Guards the pair below, so that no line meets the function of one handler and the argument of
 * another.  Not held while the handler runs: it may log itself. */
static pthread_mutex_t handler_lock = PTHREAD_MUTEX_INITIALIZER;
static void (*handler_fn)(void *arg, enum mc_log_level level, const char *line);
static void *handler_arg;

void mc_log_set_handler(void (*handler)(void *arg, enum mc_log_level level, const char *line),
			void *arg)
{
	pthread_mutex_lock(&handler_lock);
	handler_fn = handler;
	handler_arg = arg;
	pthread_mutex_unlock(&handler_lock);
}

void mc_log_set_level(enum mc_log_level level)
{
	int l = MC_MAX((int)level, MC_LOG_ERROR);

	__atomic_store_n(&mc_log_level_now, MC_MIN(l, MC_LOG_TRACE), __ATOMIC_RELAXED);
}

static void write_stderr(int level, const char *line)
{
	static const char *const names[MC_LOG_COUNT] = {"error", "warn", "info", "debug", "trace"};
	char out[LOG_LINE_MAX + 64];
	struct timespec now;
	struct tm tm;
	ssize_t done;
	int len;

	clock_gettime(CLOCK_REALTIME, &now);
	localtime_r(&now.tv_sec, &tm);
	len = snprintf(out, sizeof out, "%02d:%02d:%02d.%03ld mooncake %s: %s\n", tm.tm_hour,
		       tm.tm_min, tm.tm_sec, now.tv_nsec / 1000000, names[level], line);
	len = MC_MIN(len, (int)sizeof out - 1);
	out[len - 1] = '\n';
	/* Nobody could be told that stderr is gone. */
	done = write(STDERR_FILENO, out, (size_t)len);
	(void)done;
}

void mc_logv(int level, const char *prefix, const char *fmt, va_list ap)
{
	void (*fn)(void *arg, enum mc_log_level l, const char *line);
	char line[LOG_LINE_MAX];
	int saved = errno;
	size_t len = 0;
	void *arg;

	if (level < MC_LOG_ERROR)
		level = MC_LOG_ERROR;
	if (level > MC_LOG_TRACE)
		level = MC_LOG_TRACE;
	if (!mc_log_enabled(level))
		return;
	if (prefix && *prefix) {
		snprintf(line, sizeof line, "%s: ", prefix);
		len = strlen(line);
	}
	errno = saved; /* for %m */
	vsnprintf(line + len, sizeof line - len, fmt, ap);
	for (char *p = line; *p; p++) {
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = ' ';
	}
	pthread_mutex_lock(&handler_lock);
	fn = handler_fn;
	arg = handler_arg;
	pthread_mutex_unlock(&handler_lock);
	if (fn)
		fn(arg, (enum mc_log_level)level, line);
	else
		write_stderr(level, line);
	errno = saved;
}

void mc_log(int level, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	mc_logv(level, NULL, fmt, ap);
	va_end(ap);
}

bool mc_ratelimit_ok(struct mc_ratelimit *rl, uint32_t burst, uint32_t *ret_dropped)
{
	uint64_t start = __atomic_load_n(&rl->window_ns, __ATOMIC_RELAXED);
	uint64_t now = mc_now_ns();

	*ret_dropped = 0;
	if (!start || now - start >= RATELIMIT_WINDOW_NS) {
		/* One of the threads that come here at once opens the window. */
		if (__atomic_compare_exchange_n(&rl->window_ns, &start, now, false,
						__ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
			__atomic_store_n(&rl->used, 1, __ATOMIC_RELAXED);
			*ret_dropped = __atomic_exchange_n(&rl->dropped, 0, __ATOMIC_RELAXED);
			return true;
		}
	}
	if (__atomic_load_n(&rl->used, __ATOMIC_RELAXED) < burst &&
	    __atomic_fetch_add(&rl->used, 1, __ATOMIC_RELAXED) < burst)
		return true;
	__atomic_fetch_add(&rl->dropped, 1, __ATOMIC_RELAXED);
	return false;
}
