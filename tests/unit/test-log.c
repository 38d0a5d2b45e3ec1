/* SPDX-License-Identifier: Apache-2.0 */
/* The log: levels, the application's handler, errno, control characters, rate limits. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <mooncake/mooncake.h>
#include "clock.h"
#include "log.h"

static char last[4096];
static int last_level, nr_lines;
static uint64_t fake_now = 1;

static uint64_t fake_clock(void)
{
	return fake_now;
}

static void handler(void *arg, enum mc_log_level level, const char *line)
{
	assert_ptr_equal(arg, &last_level);
	snprintf(last, sizeof last, "%s", line);
	last_level = (int)level;
	nr_lines++;
	errno = EPERM; /* a careless handler */
}

static void test_levels(void **state)
{
	nr_lines = 0;
	mc_log_set_handler(handler, &last_level);
	mc_log_set_level(MC_LOG_INFO);
	errno = ENOENT;
	mc_info("device %s: %m", "eth0");
	assert_int_equal(errno, ENOENT);
	assert_string_equal(last, "device eth0: No such file or directory");
	assert_int_equal(last_level, MC_LOG_INFO);
	mc_debug("not seen");
	mc_log(MC_LOG_DEBUG, "not seen");
	assert_int_equal(nr_lines, 1);
	mc_log_set_level(MC_LOG_DEBUG);
	mc_debug("seen");
	assert_int_equal(nr_lines, 2);
	mc_log_set_level((enum mc_log_level)99);
	mc_log(MC_LOG_TRACE, "seen");
	assert_int_equal(nr_lines, 3);
	mc_log_set_level(MC_LOG_ERROR);
	mc_warn("not seen");
	mc_error_log("seen");
	assert_int_equal(last_level, MC_LOG_ERROR);
	assert_int_equal(nr_lines, 4);
	mc_log_set_level(MC_LOG_INFO);
	mc_log_set_handler(NULL, NULL);
}

static void log_with(const char *prefix, const char *fmt, ...) MC_PRINTF(2, 3);
static void log_with(const char *prefix, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	mc_logv(MC_LOG_INFO, prefix, fmt, ap);
	va_end(ap);
}

static void test_text(void **state)
{
	char big[5000];

	mc_log_set_handler(handler, &last_level);
	log_with("tcp:eth0", "peer '%s'", "a\nerror: b\x1b[31m");
	assert_string_equal(last, "tcp:eth0: peer 'a error: b [31m'");
	memset(big, 'x', sizeof big - 1);
	big[sizeof big - 1] = '\0';
	mc_info("%s", big);
	assert_int_equal(strlen(last), 2047);
	mc_log_set_handler(NULL, NULL);
}

/* One line on stderr, in one write. */
static void test_stderr(void **state)
{
	char path[] = "/tmp/mc-test-log-XXXXXX", text[256] = "";
	int saved = dup(STDERR_FILENO), fd = mkstemp(path);

	dup2(fd, STDERR_FILENO);
	mc_warn("goes on");
	dup2(saved, STDERR_FILENO);
	close(saved);
	assert_true(pread(fd, text, sizeof text - 1, 0) > 0);
	close(fd);
	unlink(path);
	assert_non_null(strstr(text, " mooncake warn: goes on\n"));
}

static void test_ratelimit(void **state)
{
	struct mc_ratelimit rl = {0};
	uint32_t dropped = 9;

	mc_clock_hook = fake_clock;
	assert_true(mc_ratelimit_ok(&rl, 2, &dropped));
	assert_int_equal(dropped, 0);
	assert_true(mc_ratelimit_ok(&rl, 2, &dropped));
	for (int i = 0; i < 5; i++)
		assert_false(mc_ratelimit_ok(&rl, 2, &dropped));
	fake_now += 10 * MC_SEC - 1;
	assert_false(mc_ratelimit_ok(&rl, 2, &dropped));
	fake_now += 1;
	assert_true(mc_ratelimit_ok(&rl, 2, &dropped));
	assert_int_equal(dropped, 6);
	assert_true(mc_ratelimit_ok(&rl, 2, &dropped));
	assert_int_equal(dropped, 0);
	assert_false(mc_ratelimit_ok(&rl, 2, &dropped));
	mc_clock_hook = NULL;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_levels),
		cmocka_unit_test(test_text),
		cmocka_unit_test(test_stderr),
		cmocka_unit_test(test_ratelimit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
