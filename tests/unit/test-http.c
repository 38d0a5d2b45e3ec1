/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP on the port, without its module: who may ask. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control.h"
#include "engine.h"
#include "http.h"

static struct mc_settings set;
static struct mc_engine engine = {.set = &set};

static int setup(void **state)
{
	set.http = "loopback";
	return mc_control_new(&engine.control, NULL) < 0 || mc_http_new(&engine) < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	mc_http_free(&engine);
	mc_control_free(engine.control);
	return 0;
}

struct asked {
	int fd, status;
	char why[192];
};

static void ask(void *arg)
{
	struct asked *a = arg;

	a->status = mc_http_accept(&engine, a->fd, a->why, sizeof a->why);
}

/* A client that resets the connection has no address any more: it is not from elsewhere. */
static void test_reset_is_no_refusal(void **state)
{
	struct asked a = {.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)};
	struct mc_http_counts counts;

	assert_true(a.fd >= 0);
	mc_control_call(engine.control, ask, &a);
	assert_int_equal(a.status, 0);
	assert_string_equal(a.why, "");
	assert_int_equal(fcntl(a.fd, F_GETFD), -1);
	mc_http_count(&engine, &counts);
	assert_int_equal(counts.refused, 0);
	assert_int_equal(counts.connections, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_reset_is_no_refusal)};

	return cmocka_run_group_tests(tests, setup, teardown);
}
