/* SPDX-License-Identifier: Apache-2.0 */
/* stderr belongs to all threads, and to a line of progress that goes away before any other. */
#include "tell.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "text.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* shown, and who writes to stderr */
static bool shown;					 /* a progress line stands there */

static void write_line(const char *prefix, const char *line)
{
	pthread_mutex_lock(&lock);
	if (shown)
		fputs("\r\033[K", stderr);
	shown = false;
	fputs(prefix, stderr);
	mc_text_tame(stderr, line);
	fputc('\n', stderr);
	pthread_mutex_unlock(&lock);
}

void mc_tell(const char *fmt, ...)
{
	char line[2048];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	write_line("", line);
}

static void on_log(void *arg, enum mc_log_level level, const char *line)
{
	static const char *const names[] = {"error: ", "warning: ", "info: ", "debug: ", "trace: "};

	write_line(level < MC_LOG_COUNT ? names[level] : "", line);
}

void mc_tell_log_init(void)
{
	mc_log_set_handler(on_log, NULL);
}

int mc_tell_error(const char *program, bool json, const char *sentence, int code)
{
	mc_tell("%s: %s", program, sentence);
	if (json) {
		fputs("{\"error\": ", stdout);
		mc_text_json(stdout, sentence);
		fputs("}\n", stdout);
	}
	return code;
}

bool mc_tell_progress_on(void)
{
	return isatty(STDERR_FILENO);
}

size_t mc_tell_columns(void)
{
	struct winsize size = {0};

	return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col < 20 ? 79 : size.ws_col - 1u;
}

void mc_tell_progress(const char *line)
{
	pthread_mutex_lock(&lock);
	fputc('\r', stderr);
	mc_text_tame(stderr, line);
	fputs("\033[K", stderr);
	fflush(stderr);
	shown = true;
	pthread_mutex_unlock(&lock);
}

void mc_tell_progress_end(void)
{
	pthread_mutex_lock(&lock);
	if (shown)
		fputs("\r\033[K", stderr);
	shown = false;
	pthread_mutex_unlock(&lock);
}
