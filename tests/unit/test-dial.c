/* SPDX-License-Identifier: Apache-2.0 */
/* Dialling addresses of which some are names: what a silent name service may hold up.  What a connection is set to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>

#include "core/stream_port.h"
#include "engine-fixture.h"

static sem_t silence, done;
static unsigned nr_silent; /* look-ups that were met with silence; atomic */

/* The name service: silent.example has no answer before `silence` is posted, live.example is here. */
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
		struct addrinfo **ret)
{
	static int (*next)(const char *, const char *, const struct addrinfo *, struct addrinfo **);

	bool asks = node && !(hints->ai_flags & AI_NUMERICHOST);

	if (asks && strcmp(node, "silent.example") == 0) {
		__atomic_fetch_add(&nr_silent, 1, __ATOMIC_RELAXED);
		while (sem_wait(&silence) != 0)
			;
		return EAI_AGAIN;
	}
	if (!__atomic_load_n(&next, __ATOMIC_RELAXED))
		__atomic_store_n(&next, dlsym(RTLD_NEXT, "getaddrinfo"), __ATOMIC_RELAXED);
	return __atomic_load_n(&next, __ATOMIC_RELAXED)(
		asks && strcmp(node, "live.example") == 0 ? "127.0.0.1" : node, service, hints, ret);
}

struct dialled {
	int fd;
	char why[512];
};

static void dialled(void *arg, int fd, const char *why)
{
	struct dialled *d = arg;

	d->fd = fd;
	snprintf(d->why, sizeof d->why, "%s", why ? why : "");
	sem_post(&done);
}

static void dial(struct fixture *from, struct fixture *to, const char *first, const char *second,
		 uint64_t span_ns, struct dialled *ret)
{
	struct mc_stream_hello hello = {.kind = MC_STREAM_CONTROL,
					.from_generation = from->engine.generation,
					.to_generation = to->engine.generation};
	const char *addresses[] = {first, second, NULL};

	snprintf(hello.from, sizeof hello.from, "%s", from->engine.name);
	assert_int_equal(mc_stream_dial(&from->engine, addresses, NULL, &hello,
					fixture_deadline(span_ns), dialled, ret), 0);
}

static void expect_fd(struct dialled *d)
{
	sem_wait(&done);
	if (d->fd < 0)
		fail_msg("%s", d->why);
	close(d->fd);
}

static void test_numeric_does_not_wait(void **state)
{
	struct fixture *a = fixture_start("alpha", NULL), *b = fixture_start("beta", NULL);
	char at[32];
	struct dialled d;

	snprintf(at, sizeof at, "127.0.0.1:%u", b->engine.port);
	dial(a, b, "silent.example:1", at, 20 * MC_SEC, &d);
	expect_fd(&d);
	/* If the machine was slow, the name was asked for all the same. */
	sem_post(&silence);
	fixture_free(a);
	fixture_free(b);
}

static void test_names_join(void **state)
{
	struct fixture *a = fixture_start("alpha", NULL), *b = fixture_start("beta", NULL);
	char at[32];
	struct dialled d;

	snprintf(at, sizeof at, "live.example:%u", b->engine.port);
	dial(a, b, at, NULL, 20 * MC_SEC, &d);
	expect_fd(&d);
	dial(a, b, at, "127.0.0.1:1", 20 * MC_SEC, &d);
	expect_fd(&d);
	fixture_free(a);
	fixture_free(b);
}

/* The sentence says what was silent; a look-up that has not begun is off. */
static void test_silent(void **state)
{
	struct fixture *a = fixture_start("alpha", NULL), *b = fixture_start("beta", NULL);
	struct dialled d[2];

	while (sem_trywait(&silence) == 0)
		;
	__atomic_store_n(&nr_silent, 0, __ATOMIC_RELAXED);
	for (int i = 0; i < 2; i++)
		dial(a, b, "silent.example:1", i ? NULL : "127.0.0.1:1", MC_SEC, &d[i]);
	for (int i = 0; i < 2; i++)
		sem_wait(&done);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(d[i].fd, -ETIMEDOUT);
		assert_non_null(strstr(d[i].why, "silent.example:1: the name service did not answer in time"));
	}
	assert_non_null(strstr(d[0].why, "127.0.0.1:1: Connection refused"));
	assert_true(__atomic_load_n(&nr_silent, __ATOMIC_RELAXED) <= 1);
	sem_post(&silence);
	assert_int_equal(mc_helpers_wait(a->engine.helpers, 0, fixture_deadline(60 * MC_SEC)), 0);
	assert_true(__atomic_load_n(&nr_silent, __ATOMIC_RELAXED) <= 1);
	fixture_free(a);
	fixture_free(b);
}

/* An algorithm that hosts are set to and that this one lets us have; NULL: there is only reno. */
static const char *host_wide(void)
{
	static const char *const names[] = {"bbr", "cubic", "dctcp", "vegas"};
	const char *found = NULL;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	for (size_t i = 0; !found && i < sizeof names / sizeof *names; i++)
		if (setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, names[i], (socklen_t)strlen(names[i])) == 0)
			found = names[i];
	close(fd);
	return found;
}

/* Both ends of a connection to 127.0.0.1 from `from`, or in the same way by IPv6 to ::1; false: this host has none of it. */
static bool connected(const char *from, const char *congestion, int ret_fd[2])
{
	struct mc_addr at = {.host = "127.0.0.1"}, source = {0};
	struct sockaddr_storage to, ss;
	socklen_t len;
	int listener;

	snprintf(source.host, sizeof source.host, "%s", from);
	if (strchr(from, ':'))
		snprintf(at.host, sizeof at.host, "::1");
	len = (socklen_t)mc_addr_numeric(&at, &to);
	assert_int_equal(mc_addr_numeric(&source, &ss), len);
	listener = socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (listener < 0 || bind(listener, (struct sockaddr *)&to, len) < 0) {
		assert_int_equal(to.ss_family, AF_INET6);
		close(listener);
		return false;
	}
	ret_fd[0] = socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(setsockopt(i ? listener : ret_fd[0], IPPROTO_TCP, TCP_CONGESTION, congestion,
					    (socklen_t)strlen(congestion)), 0);
	assert_int_equal(listen(listener, 1), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&to, &len), 0);
	assert_int_equal(bind(ret_fd[0], (struct sockaddr *)&ss, len), 0);
	assert_int_equal(connect(ret_fd[0], (struct sockaddr *)&to, len), 0);
	ret_fd[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(ret_fd[1] >= 0);
	close(listener);
	return true;
}

static void expect_tuned(int fd, const char *congestion)
{
	char name[16] = "";
	socklen_t len = sizeof name, int_len = sizeof(int);
	int nodelay = 0;

	assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &len), 0);
	assert_string_equal(name, congestion);
	assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &nodelay, &int_len), 0);
	assert_true(nodelay);
}

/* What the host is set to holds for the network; nothing paces what stays within the host. */
static void test_within_host(void **state)
{
	const struct {
		const char *from;
		bool within;
	} rows[] = {{"127.0.0.1", true}, {"127.0.0.2", false}, {"::1", true}};
	struct fixture *a = fixture_start("alpha", NULL), *b = fixture_start("beta", NULL);
	const char *other = host_wide();
	struct dialled d;
	char at[32];

	snprintf(at, sizeof at, "127.0.0.1:%u", b->engine.port);
	dial(a, b, at, NULL, 10 * MC_SEC, &d);
	sem_wait(&done);
	assert_true(d.fd >= 0);
	expect_tuned(d.fd, "reno");
	close(d.fd);
	fixture_free(a);
	fixture_free(b);
	if (!other)
		skip();
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		int fd[2];

		if (!connected(rows[i].from, other, fd))
			continue;
		for (int end = 0; end < 2; end++) {
			mc_stream_tune(fd[end]);
			expect_tuned(fd[end], rows[i].within ? "reno" : other);
			close(fd[end]);
		}
	}
}

static int init(void **state)
{
	sem_init(&silence, 0, 0);
	sem_init(&done, 0, 0);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_numeric_does_not_wait),
		cmocka_unit_test(test_names_join),
		cmocka_unit_test(test_silent),
		cmocka_unit_test(test_within_host),
	};

	return cmocka_run_group_tests(tests, init, fixture_cleanup);
}
