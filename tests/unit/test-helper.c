/* SPDX-License-Identifier: Apache-2.0 */
/* Helper threads: order, the bound of two, ending when idle, what free finishes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <string.h>

#include "clock.h"
#include "core/helper.h"
#include "core/util/check.h"
#include "cli/check/census.h"

static struct mc_helpers *fresh(void)
{
	struct mc_helpers *h = NULL;

	assert_int_equal(mc_helpers_new(&h), 0);
	return h;
}

static int add_one(void *arg)
{
	*(int *)arg += 1;
	return mc_on_helper() ? 7 : -1;
}

static void test_call(void **state)
{
	struct mc_helpers *h = fresh();
	int n = 0;

	assert_false(mc_on_helper());
	for (int i = 0; i < 100; i++)
		assert_int_equal(mc_helpers_call(h, add_one, &n), 7);
	assert_int_equal(n, 100);
	mc_helpers_free(h);
	mc_helpers_free(NULL);
}

static int nested(void *arg)
{
	int n = 0, r = mc_helpers_call(arg, add_one, &n);

	return r == 7 && n == 1 ? 3 : -1;
}

static void test_call_on_helper_runs_at_once(void **state)
{
	struct mc_helpers *h = fresh();

	/* Both threads may be inside it without waiting for each other. */
	assert_int_equal(mc_helpers_call(h, nested, h), 3);
	mc_helpers_free(h);
}

struct item {
	struct mc_job job;
	int idx;
};
static int order[64], nr_order;
static sem_t gate, entered;

static void blocker(struct mc_job *job)
{
	sem_post(&entered);
	while (sem_wait(&gate) != 0)
		;
}

static void note(struct mc_job *job)
{
	order[nr_order++] = MC_CONTAINER_OF(job, struct item, job)->idx;
}

static void test_order_and_two_threads(void **state)
{
	struct mc_helpers *h = fresh();
	struct mc_job block[3] = {{.run = blocker}, {.run = blocker}, {.run = blocker}};
	struct item items[64];
	int left = 0;

	sem_init(&gate, 0, 0);
	sem_init(&entered, 0, 0);
	nr_order = 0;
	for (int i = 0; i < 3; i++)
		mc_helpers_run(h, &block[i]);
	for (int i = 0; i < 2; i++)
		sem_wait(&entered);
	/* Two hold both threads; with the third queued, nothing else may run. */
	sem_getvalue(&entered, &left);
	assert_int_equal(left, 0);
	for (int i = 0; i < 64; i++) {
		items[i] = (struct item){.job.run = note, .idx = i};
		mc_helpers_run(h, &items[i].job);
	}
	assert_int_equal(nr_order, 0);
	/* One thread goes on: it takes the third blocker, the other stays held. */
	sem_post(&gate);
	sem_wait(&entered);
	sem_getvalue(&entered, &left);
	assert_int_equal(left, 0);
	sem_post(&gate); /* one thread runs all items, in order, while the other is held */
	for (int n = 0; n < 64;) {
		int seen = 0;

		/* A call is queued behind them, so that its end means theirs. */
		if (mc_helpers_call(h, add_one, &seen) == 7)
			n = nr_order;
	}
	for (int i = 0; i < 64; i++)
		assert_int_equal(order[i], i);
	sem_post(&gate);
	mc_helpers_free(h);
	sem_destroy(&gate);
	sem_destroy(&entered);
}

static void hold(struct mc_helpers *h, struct mc_job *jobs, int nr, enum mc_job_kind kind)
{
	sem_init(&gate, 0, 0);
	sem_init(&entered, 0, 0);
	for (int i = 0; i < nr; i++) {
		jobs[i].run = blocker;
		mc_helpers_run_as(h, &jobs[i], kind);
	}
}

static void release(struct mc_helpers *h, int nr)
{
	for (int i = 0; i < nr; i++)
		sem_post(&gate);
	mc_helpers_free(h);
	sem_destroy(&gate);
	sem_destroy(&entered);
}

/* Silent name services, and clearing up that takes long, leave a thread to the others. */
static void one_at_a_time(enum mc_job_kind kind, enum mc_job_kind last)
{
	struct mc_helpers *h = fresh();
	struct mc_job slow[3] = {[2].run = blocker};
	int left = 0, n = 0;

	hold(h, slow, 2, kind);
	mc_helpers_run_as(h, &slow[2], last);
	sem_wait(&entered);
	for (int i = 0; i < 20; i++)
		assert_int_equal(mc_helpers_call_until(h, add_one, &n, mc_now_ns() + 60 * MC_SEC), 7);
	sem_getvalue(&entered, &left);
	assert_int_equal(left, 0);
	assert_int_equal(mc_helpers_wait(h, 1, mc_now_ns() + 60 * MC_SEC), 0);
	assert_int_equal(mc_helpers_wait(h, 0, mc_now_ns() + MC_MSEC), -ETIMEDOUT);
	/* The next one begins when the first has ended. */
	sem_post(&gate);
	sem_wait(&entered);
	sem_getvalue(&entered, &left);
	assert_int_equal(left, 0);
	assert_int_equal(mc_helpers_call(h, add_one, &n), 7);
	release(h, 2);
}

static void test_one_slow_job_at_a_time(void **state)
{
	one_at_a_time(MC_JOB_LOOKUP, MC_JOB_LOOKUP);
	one_at_a_time(MC_JOB_LAZY, MC_JOB_LAZY);
	one_at_a_time(MC_JOB_LOOKUP, MC_JOB_LAZY);
	one_at_a_time(MC_JOB_LAZY, MC_JOB_LOOKUP);
}

/* What is lazy goes last, in its own order; and its owner may have it back. */
static void test_lazy_goes_last(void **state)
{
	static const enum mc_job_kind kinds[] = {MC_JOB_LAZY, MC_JOB_LAZY, MC_JOB_LAZY,
						 MC_JOB_LOOKUP, MC_JOB_PLAIN, MC_JOB_PLAIN};
	static const int expected[] = {4, 5, 3, 0, 2};
	struct mc_helpers *h = fresh();
	struct item items[MC_ARRAY_SIZE(kinds)];
	struct mc_job block[2];

	hold(h, block, 2, MC_JOB_PLAIN);
	sem_wait(&entered);
	sem_wait(&entered);
	nr_order = 0;
	for (int i = 0; i < (int)MC_ARRAY_SIZE(kinds); i++) {
		items[i] = (struct item){.job.run = note, .idx = i};
		mc_helpers_run_as(h, &items[i].job, kinds[i]);
	}
	assert_true(mc_helpers_cancel(h, &items[1].job));
	assert_false(mc_helpers_cancel(h, &items[1].job));
	sem_post(&gate);
	/* The other thread is held; its job alone is left then. */
	assert_int_equal(mc_helpers_wait(h, 1, mc_now_ns() + 60 * MC_SEC), 0);
	assert_int_equal(nr_order, 5);
	for (size_t i = 0; i < MC_ARRAY_SIZE(expected); i++)
		assert_int_equal(order[i], expected[i]);
	release(h, 1);
}

static void test_urgent_goes_first(void **state)
{
	struct mc_helpers *h = fresh();
	struct mc_job block[2];
	struct item items[3] = {{.idx = 1}, {.idx = 2}, {.idx = 3}};

	hold(h, block, 2, MC_JOB_PLAIN);
	sem_wait(&entered);
	sem_wait(&entered);
	nr_order = 0;
	for (int i = 0; i < 3; i++) {
		items[i].job.run = note;
		mc_helpers_run_as(h, &items[i].job, i < 2 ? MC_JOB_PLAIN : MC_JOB_URGENT);
	}
	sem_post(&gate);
	assert_int_equal(mc_helpers_wait(h, 1, mc_now_ns() + 60 * MC_SEC), 0);
	assert_int_equal(nr_order, 3);
	assert_int_equal(order[0], 3);
	assert_int_equal(order[1], 1);
	assert_int_equal(order[2], 2);
	release(h, 1);
}

/* No thread is free in time: the call is off, and so is a job that its owner wants back. */
static void test_deadline_and_cancel(void **state)
{
	struct mc_helpers *h = fresh();
	struct mc_job block[2];
	struct item items[3] = {{.job.run = note, .idx = 1}, {.job.run = note, .idx = 2},
				{.job.run = note, .idx = 3}};
	int n = 0;

	hold(h, block, 2, MC_JOB_PLAIN);
	sem_wait(&entered);
	sem_wait(&entered);
	nr_order = 0;
	assert_int_equal(mc_helpers_call_until(h, add_one, &n, mc_now_ns() + MC_MSEC), -ETIMEDOUT);
	for (int i = 0; i < 3; i++)
		mc_helpers_run(h, &items[i].job);
	assert_true(mc_helpers_cancel(h, &items[2].job));
	assert_true(mc_helpers_cancel(h, &items[0].job));
	assert_false(mc_helpers_cancel(h, &items[0].job));
	assert_false(mc_helpers_cancel(h, &block[0]));
	mc_helpers_run(h, &items[0].job);
	sem_post(&gate);
	assert_int_equal(mc_helpers_wait(h, 1, mc_now_ns() + 60 * MC_SEC), 0);
	assert_int_equal(n, 0);
	assert_int_equal(nr_order, 2);
	assert_int_equal(order[0], 2);
	assert_int_equal(order[1], 1);
	release(h, 1);
}

struct chain {
	struct mc_job job;
	struct mc_helpers *h;
	int left;
};

static void chain_run(struct mc_job *job)
{
	struct chain *c = MC_CONTAINER_OF(job, struct chain, job);

	if (--c->left > 0)
		mc_helpers_run(c->h, &c->job);
}

static void test_free_finishes_what_is_queued(void **state)
{
	for (int i = 0; i < 50; i++) {
		struct mc_helpers *h = fresh();
		struct chain a = {.job.run = chain_run, .h = h, .left = 20};
		struct chain b = {.job.run = chain_run, .h = h, .left = 20};

		mc_helpers_run(h, &a.job);
		mc_helpers_run(h, &b.job);
		mc_helpers_free(h);
		assert_int_equal(a.left, 0);
		assert_int_equal(b.left, 0);
	}
}

static void test_idle_threads_end(void **state)
{
	struct mc_helpers *h = fresh();
	uint64_t keep = mc_helpers_idle_ns;
	unsigned before = census_threads();
	int n = 0;

	__atomic_store_n(&mc_helpers_idle_ns, MC_MSEC, __ATOMIC_RELAXED);
	assert_int_equal(mc_helpers_call(h, add_one, &n), 7);
	while (census_threads() > before)
		sched_yield();
	/* A new one starts when it is needed again. */
	for (int i = 0; i < 20; i++)
		assert_int_equal(mc_helpers_call(h, add_one, &n), 7);
	assert_int_equal(n, 21);
	__atomic_store_n(&mc_helpers_idle_ns, keep, __ATOMIC_RELAXED);
	mc_helpers_free(h);
	assert_int_equal(census_threads(), before);
}

static void *hammer(void *arg)
{
	int n = 0;

	for (int i = 0; i < 300; i++) {
		if (mc_helpers_call(arg, add_one, &n) != 7)
			return "not on a helper";
	}
	return n == 300 ? NULL : "lost calls";
}

static void test_many_callers(void **state)
{
	struct mc_helpers *h = fresh();
	pthread_t t[4];

	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&t[i], NULL, hammer, h), 0);
	for (int i = 0; i < 4; i++) {
		void *why = NULL;

		pthread_join(t[i], &why);
		assert_null(why);
	}
	mc_helpers_free(h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_call),
		cmocka_unit_test(test_call_on_helper_runs_at_once),
		cmocka_unit_test(test_order_and_two_threads),
		cmocka_unit_test(test_one_slow_job_at_a_time),
		cmocka_unit_test(test_lazy_goes_last),
		cmocka_unit_test(test_urgent_goes_first),
		cmocka_unit_test(test_deadline_and_cancel),
		cmocka_unit_test(test_free_finishes_what_is_queued),
		cmocka_unit_test(test_idle_threads_end),
		cmocka_unit_test(test_many_callers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
