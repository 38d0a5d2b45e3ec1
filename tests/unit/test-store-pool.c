/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pools: where replicas go by each strategy, what is preferred, draining and unmounting, cutting,
 * and threads that allocate while segments come and go.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <mooncake/allocator.h>

#define MIB (UINT64_C(1) << 20)
#define NR 8u

struct fixture {
	struct mc_pool *pool;
	uint32_t segments[NR]; /* two on each of hosts 100..103, 64 MiB each */
};

static int setup(void **state)
{
	struct mc_space_options o = {.size = sizeof o, .bytes = 64 * MIB};
	struct fixture *f = calloc(1, sizeof *f);

	assert_non_null(f);
	assert_int_equal(mc_pool_new(5, &f->pool), 0);
	for (uint32_t i = 0; i < NR; i++)
		assert_int_equal(mc_pool_mount(f->pool, &o, 100 + i / 2, &f->segments[i]), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	mc_pool_free(f->pool);
	free(f);
	return 0;
}

static uint32_t index_of(const struct fixture *f, uint32_t segment)
{
	uint32_t i = 0;

	while (i < NR && f->segments[i] != segment)
		i++;
	assert_true(i < NR);
	return i;
}

static void release_all(struct fixture *f, const struct mc_pool_extent *e, size_t nr)
{
	for (size_t i = 0; i < nr; i++)
		assert_int_equal(mc_pool_release(f->pool, e[i].segment, e[i].id), 0);
}

static void replicas_lie_apart(void **state)
{
	struct fixture *f = *state;
	struct mc_pool_extent e[MC_POOL_REPLICAS];
	size_t nr;

	for (int strategy = 0; strategy < MC_POOL_STRATEGY_COUNT; strategy++) {
		for (uint32_t n = 1; n <= 8; n++) {
			struct mc_pool_request q = {.size = sizeof q,
						    .len = MIB,
						    .nr_replicas = n,
						    .host = 102,
						    .strategy = (enum mc_pool_strategy)strategy};
			uint32_t on_segment[NR] = {0}, on_host[NR / 2] = {0}, hosts = 0;

			assert_int_equal(mc_pool_alloc(f->pool, &q, e, &nr), n);
			assert_int_equal(nr, n);
			for (uint32_t i = 0; i < n; i++) {
				uint32_t at = index_of(f, e[i].segment);

				assert_int_equal(e[i].replica, i);
				assert_int_equal(++on_segment[at], 1);
				hosts += !on_host[at / 2]++;
			}
			assert_int_equal(hosts, n < 4 ? n : 4);
			assert_true(strategy != MC_POOL_LOCAL ||
				    index_of(f, e[0].segment) / 2 == 2);
			release_all(f, e, nr);
		}
	}
}

static void what_is_preferred_and_what_is_free_is_seen(void **state)
{
	struct fixture *f = *state;
	struct mc_pool_request q = {.size = sizeof q,
				    .len = 40 * MIB,
				    .nr_replicas = 1,
				    .nr_preferred = 2};
	uint32_t preferred[] = {f->segments[6], f->segments[1]};
	struct mc_pool_stats stats = {.size = sizeof stats};
	struct mc_pool_extent e;
	size_t nr;

	q.preferred = preferred;
	assert_int_equal(mc_pool_alloc(f->pool, &q, &e, &nr), 1);
	assert_int_equal(e.segment, f->segments[6]);
	assert_int_equal(mc_pool_alloc(f->pool, &q, &e, &nr), 1);
	assert_int_equal(e.segment, f->segments[1]);
	/* Neither has room now; then the emptiest, of which there are six. */
	q.strategy = MC_POOL_FREE_RATIO;
	for (int i = 0; i < 6; i++) {
		assert_int_equal(mc_pool_alloc(f->pool, &q, &e, &nr), 1);
		assert_true(e.segment != f->segments[6] && e.segment != f->segments[1]);
	}
	assert_int_equal(mc_pool_alloc(f->pool, &q, &e, &nr), -ENOSPC);
	mc_pool_stats(f->pool, &stats);
	assert_int_equal(stats.used, 320 * MIB);
	assert_int_equal(stats.bytes, 512 * MIB);
	assert_int_equal(stats.nr_hosts, 4);
	assert_int_equal(stats.nr_extents, 8);
	/* Small ones level out. */
	q = (struct mc_pool_request){.size = sizeof q,
				     .len = MIB,
				     .nr_replicas = 1,
				     .strategy = MC_POOL_FREE_RATIO};
	assert_int_equal(mc_pool_release(f->pool, e.segment, e.id), 0);
	for (int i = 0; i < 150; i++)
		assert_int_equal(mc_pool_alloc(f->pool, &q, &e, &nr), 1);
	for (uint32_t i = 0; i < NR; i++) {
		struct mc_pool_segment_info info = {.size = sizeof info};

		assert_int_equal(mc_pool_segment(f->pool, f->segments[i], &info), 0);
		assert_int_equal(info.host, 100 + i / 2);
		assert_in_range(info.space.used / MIB, 50, 60);
	}
}

static void fewer_than_asked_is_for_those_who_allow_it(void **state)
{
	struct fixture *f = *state;
	struct mc_pool_request q = {.size = sizeof q, .len = 60 * MIB, .nr_replicas = 1};
	struct mc_pool_stats stats = {.size = sizeof stats};
	struct mc_pool_extent e[8];
	size_t nr;

	for (uint32_t i = 0; i < 6; i++)
		assert_int_equal(mc_pool_alloc(f->pool, &q, e, &nr), 1);
	q.nr_replicas = 3;
	q.flags = MC_POOL_ALL;
	assert_int_equal(mc_pool_alloc(f->pool, &q, e, &nr), -ENOSPC);
	mc_pool_stats(f->pool, &stats);
	assert_int_equal(stats.used, 360 * MIB);
	q.flags = 0;
	assert_int_equal(mc_pool_alloc(f->pool, &q, e, &nr), 2);
	assert_int_equal(nr, 2);
	q.len = 0;
	assert_int_equal(mc_pool_alloc(f->pool, &q, e, &nr), -EINVAL);
}

static void large_ones_are_cut_where_that_is_allowed(void **state)
{
	struct fixture *f = *state;
	struct mc_pool_request q = {.size = sizeof q,
				    .len = 150 * MIB,
				    .nr_replicas = 2,
				    .max_pieces = 4,
				    .flags = MC_POOL_ALL};
	struct mc_pool_extent e[8];
	uint64_t sum[2] = {0};
	uint32_t owner[NR];
	size_t nr;

	memset(owner, 0xff, sizeof owner);
	assert_int_equal(mc_pool_alloc(f->pool, &q, e, &nr), 2);
	assert_int_equal(nr, 6);
	for (size_t i = 0; i < nr; i++) {
		uint32_t at = index_of(f, e[i].segment);

		assert_true(owner[at] == UINT32_MAX || owner[at] == e[i].replica);
		owner[at] = e[i].replica;
		sum[e[i].replica] += e[i].len;
	}
	assert_int_equal(sum[0], q.len);
	assert_int_equal(sum[1], q.len);
	release_all(f, e, nr);
	q.max_pieces = 2;
	assert_int_equal(mc_pool_alloc(f->pool, &q, e, &nr), -ENOSPC);
	q.nr_replicas = 1;
	q.len = 128 * MIB + 1;
	q.max_pieces = 3;
	/* The rest of one byte may be short, as the last. */
	assert_int_equal(mc_pool_alloc(f->pool, &q, e, &nr), 1);
	assert_int_equal(nr, 3);
	assert_int_equal(e[2].len, 1);
}

static int count(void *arg, const struct mc_space_extent *e)
{
	uint64_t *sum = arg;

	*sum += e->tag;
	return 0;
}

static void segments_come_and_go(void **state)
{
	struct fixture *f = *state;
	struct mc_space_options o = {.size = sizeof o, .bytes = MIB};
	struct mc_pool_request q = {.size = sizeof q, .len = MIB, .tag = 7, .nr_replicas = 8};
	struct mc_pool_stats stats = {.size = sizeof stats};
	struct mc_pool_extent e[8];
	struct mc_space_extent one;
	uint64_t sum = 0;
	uint32_t again;
	size_t nr;

	assert_int_equal(mc_pool_alloc(f->pool, &q, e, &nr), 8);
	assert_int_equal(mc_pool_drain(f->pool, f->segments[3], true), 0);
	assert_int_equal(mc_pool_drain(f->pool, f->segments[3], true), 0);
	assert_int_equal(mc_pool_alloc(f->pool, &q, e, &nr), 7);
	mc_pool_stats(f->pool, &stats);
	assert_int_equal(stats.nr_draining, 1);
	assert_int_equal(stats.free, 7 * 62 * MIB);
	assert_int_equal(mc_pool_each(f->pool, f->segments[3], count, &sum), 0);
	assert_int_equal(sum, 7);
	assert_int_equal(mc_pool_unmount(f->pool, f->segments[3], count, &sum), 0);
	assert_int_equal(sum, 14);
	assert_int_equal(mc_pool_unmount(f->pool, f->segments[3], NULL, NULL), -ENOENT);
	assert_int_equal(mc_pool_drain(f->pool, f->segments[3], false), -ENOENT);
	assert_int_equal(mc_pool_release(f->pool, f->segments[3], 0), -ENOENT);
	assert_int_equal(mc_pool_mount(f->pool, &o, 101, &again), 0);
	assert_int_not_equal(again, f->segments[3]);
	assert_int_equal(mc_pool_reserve(f->pool, again, 4096, 4096, 9, &one), 0);
	assert_int_equal(one.offset, 4096);
	mc_pool_settle(f->pool);
	assert_int_equal(mc_pool_get(f->pool, again, one.id, &one), 0);
	assert_int_equal(one.tag, 9);
	assert_int_equal(mc_pool_drain(f->pool, f->segments[0], true), 0);
	assert_int_equal(mc_pool_drain(f->pool, f->segments[0], false), 0);
	q.len = 4096;
	assert_int_equal(mc_pool_alloc(f->pool, &q, e, &nr), 8);
}

/* ---- threads -----------------------------------------------------------------------------------
 */

static void *churn(void *arg)
{
	struct fixture *f = arg;
	struct mc_pool_extent held[64][2];
	size_t nrs[64] = {0};
	uint64_t random = (uintptr_t)&held | 1;

	for (int i = 0; i < 6000; i++) {
		struct mc_pool_request q = {.size = sizeof q,
					    .len = 1 + random % (2 * MIB),
					    .nr_replicas = 2,
					    .strategy = (enum mc_pool_strategy)(i % 3),
					    .host = 101};
		size_t at = (size_t)i % 64;

		random = random * 6364136223846793005u + 1;
		for (size_t k = 0; k < nrs[at]; k++)
			mc_pool_release(f->pool, held[at][k].segment, held[at][k].id);
		nrs[at] = 0;
		if (mc_pool_alloc(f->pool, &q, held[at], &nrs[at]) < 0)
			nrs[at] = 0;
	}
	for (size_t at = 0; at < 64; at++) {
		for (size_t k = 0; k < nrs[at]; k++)
			mc_pool_release(f->pool, held[at][k].segment, held[at][k].id);
	}
	return NULL;
}

static void threads_share_a_pool(void **state)
{
	struct fixture *f = *state;
	struct mc_space_options o = {.size = sizeof o, .bytes = 64 * MIB};
	struct mc_pool_stats stats = {.size = sizeof stats};
	pthread_t threads[3];

	for (size_t i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, churn, f), 0);
	for (int i = 0; i < 60; i++) {
		uint32_t segment;

		assert_int_equal(mc_pool_mount(f->pool, &o, 200, &segment), 0);
		assert_int_equal(mc_pool_drain(f->pool, segment, true), 0);
		mc_pool_stats(f->pool, &stats);
		assert_int_equal(mc_pool_unmount(f->pool, segment, NULL, NULL), 0);
	}
	for (size_t i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	mc_pool_stats(f->pool, &stats);
	assert_int_equal(stats.used, 0);
	assert_int_equal(stats.nr_extents, 0);
	assert_int_equal(stats.nr_segments, NR);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(replicas_lie_apart, setup, teardown),
		cmocka_unit_test_setup_teardown(what_is_preferred_and_what_is_free_is_seen, setup,
						teardown),
		cmocka_unit_test_setup_teardown(fewer_than_asked_is_for_those_who_allow_it, setup,
						teardown),
		cmocka_unit_test_setup_teardown(large_ones_are_cut_where_that_is_allowed, setup,
						teardown),
		cmocka_unit_test_setup_teardown(segments_come_and_go, setup, teardown),
		cmocka_unit_test_setup_teardown(threads_share_a_pool, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
