/* SPDX-License-Identifier: Apache-2.0 */
/* Dialling addresses of which some are names: what a silent name service may hold up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>

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
	};

	return cmocka_run_group_tests(tests, init, fixture_cleanup);
}
