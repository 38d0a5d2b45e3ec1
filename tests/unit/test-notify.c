/* SPDX-License-Identifier: Apache-2.0 */
/* Notifies: their order over a full queue, and the flush of memory kinds before they are seen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <sched.h>

#include "engine-fixture.h"
#include "kind.h"

bool __wrap_mc_kinds_any(struct mc_engine *engine);
void __wrap_mc_kinds_flush(struct mc_engine *engine);

static bool any;
static int nr_flushes;
static sem_t flush_begun, flush_go;

bool __wrap_mc_kinds_any(struct mc_engine *engine)
{
	return __atomic_load_n(&any, __ATOMIC_RELAXED);
}

void __wrap_mc_kinds_flush(struct mc_engine *engine)
{
	assert_true(mc_on_helper());
	__atomic_fetch_add(&nr_flushes, 1, __ATOMIC_RELAXED);
	sem_post(&flush_begun);
	sem_wait(&flush_go);
}

#define NR 100

static struct mc_session *open_beta(struct fixture *a)
{
	struct mc_session *s = NULL;
	struct mc_error err = {0};

	if (mc_session_open(&a->engine, "beta", fixture_deadline(10 * MC_SEC), &s, &err) < 0)
		fail_msg("%s", err.text);
	return s;
}

static sem_t sent;
static int nr_failed;

static void notified(void *arg, int status)
{
	if (status < 0)
		__atomic_fetch_add(&nr_failed, 1, __ATOMIC_RELAXED);
	sem_post(&sent);
}

static void post(struct mc_session *s, uint32_t i, uint64_t span_ns)
{
	assert_int_equal(mc_notify_post(s, &i, sizeof i, fixture_deadline(span_ns), notified, NULL), 0);
}

static uint32_t take(struct fixture *b)
{
	struct mc_notify n = {.size = sizeof n};
	uint32_t i;

	assert_int_equal(mc_notify_take(&b->engine, &n, 10 * MC_SEC), 0);
	assert_int_equal(n.len, sizeof i);
	memcpy(&i, n.data, sizeof i);
	return i;
}

/* All are under way at once, the queue holds three. */
static void test_order(void **state)
{
	static const char *const small[] = {"notify_queue", "3", NULL};
	struct fixture *a = fixture_start("alpha", NULL), *b = fixture_start("beta", small);
	struct mc_session *s = open_beta(a);

	nr_failed = 0;
	for (uint32_t i = 0; i < NR; i++)
		post(s, i, 20 * MC_SEC);
	for (uint32_t i = 0; i < NR; i++)
		assert_int_equal(take(b), i);
	for (int i = 0; i < NR; i++)
		sem_wait(&sent);
	assert_int_equal(nr_failed, 0);
	mc_session_unref(s);
	fixture_free(a);
	fixture_free(b);
}

/* The first of those that wait gives up: those behind it do not wait for it for ever. */
static void test_given_up(void **state)
{
	static const char *const one[] = {"notify_queue", "1", NULL};
	struct fixture *a = fixture_start("alpha", NULL), *b = fixture_start("beta", one);
	struct mc_session *s = open_beta(a);

	nr_failed = 0;
	post(s, 0, 20 * MC_SEC);
	sem_wait(&sent);
	post(s, 1, 20 * MC_MSEC);
	post(s, 2, 20 * MC_SEC);
	post(s, 3, 20 * MC_SEC);
	sem_wait(&sent);
	assert_int_equal(nr_failed, 1);
	assert_int_equal(take(b), 0);
	assert_int_equal(take(b), 2);
	assert_int_equal(take(b), 3);
	sem_wait(&sent);
	sem_wait(&sent);
	assert_int_equal(nr_failed, 1);
	mc_session_unref(s);
	fixture_free(a);
	fixture_free(b);
}

static void refreshed(void *arg, int status)
{
	assert_int_equal(status, 0);
	sem_post(arg);
}

/* Nothing is seen before the flush is done; the control loop does not wait for it; what comes
 * meanwhile shares the next one. */
static void test_flush(void **state)
{
	struct fixture *a = fixture_start("alpha", NULL), *b = fixture_start("beta", NULL);
	struct mc_session *s = open_beta(a);
	struct mc_notify n = {.size = sizeof n};
	sem_t answered;

	__atomic_store_n(&any, true, __ATOMIC_RELAXED);
	sem_init(&answered, 0, 0);
	nr_flushes = 0;
	post(s, 0, 20 * MC_SEC);
	sem_wait(&flush_begun);
	for (uint32_t i = 1; i < 10; i++)
		post(s, i, 20 * MC_SEC);
	assert_int_equal(mc_session_refresh(s, refreshed, &answered), 0);
	sem_wait(&answered); /* behind the messages, in the same session */
	assert_int_equal(mc_notify_take(&b->engine, &n, 0), -EAGAIN);
	sem_post(&flush_go);
	assert_int_equal(take(b), 0);
	sem_wait(&flush_begun);
	assert_int_equal(mc_notify_take(&b->engine, &n, 0), -EAGAIN);
	sem_post(&flush_go);
	for (uint32_t i = 1; i < 10; i++)
		assert_int_equal(take(b), i);
	assert_int_equal(nr_flushes, 2);
	/* The target is closed with one in the flush. */
	post(s, 10, 20 * MC_SEC);
	sem_wait(&flush_begun);
	sem_post(&flush_go);
	sem_destroy(&answered);
	mc_session_unref(s);
	fixture_free(b);
	fixture_free(a);
	__atomic_store_n(&any, false, __ATOMIC_RELAXED);
}

static int init(void **state)
{
	sem_init(&flush_begun, 0, 0);
	sem_init(&flush_go, 0, 0);
	sem_init(&sent, 0, 0);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_order),
		cmocka_unit_test(test_given_up),
		cmocka_unit_test(test_flush),
	};

	return cmocka_run_group_tests(tests, init, fixture_cleanup);
}
