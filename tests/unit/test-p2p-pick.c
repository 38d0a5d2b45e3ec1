/* SPDX-License-Identifier: Apache-2.0 */
/* What a getter of the P2P store asks whom for: rarity, nearness, bounds, failures, whose bitmaps are read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "stores/p2p/p2p_pick.h"

#define MS 1000000ull

static struct mc_p2p_pick *pick_of(uint32_t nr_shards, uint32_t per_source, uint32_t per_getter)
{
	const struct mc_p2p_pick_limits limits = {per_source, per_getter, 0};
	struct mc_p2p_pick *p = NULL;

	assert_int_equal(mc_p2p_pick_new(nr_shards, 1000, &limits, 7, &p), 0);
	return p;
}

/* A source that has the nr shards named. */
static uint32_t source_with(struct mc_p2p_pick *p, enum mc_p2p_near near, uint32_t nr, const uint32_t *shards)
{
	uint8_t map[64] = {0};
	int i = mc_p2p_pick_source_add(p, near, MS);

	assert_true(i >= 0);
	for (uint32_t s = 0; s < nr; s++)
		map[shards[s] / 8] |= (uint8_t)(1u << (shards[s] % 8));
	mc_p2p_pick_source_map(p, (uint32_t)i, map, MS);
	return (uint32_t)i;
}

/* Asks, is granted the first candidate, says which. */
static uint32_t fly(struct mc_p2p_pick *p, uint32_t *ret_source)
{
	uint32_t candidates[MC_P2P_CANDIDATES], nr;

	assert_int_equal(mc_p2p_pick_next(p, MS, ret_source, candidates, &nr), 0);
	assert_int_equal(mc_p2p_pick_granted(p, *ret_source, candidates[0], MS), 0);
	return candidates[0];
}

static void rarest_first(void **state)
{
	struct mc_p2p_pick *p = pick_of(100, 4, 8);
	const uint32_t few[] = {1, 2, 3, 99}, one[] = {1};
	uint32_t source, c[MC_P2P_CANDIDATES], nr, seed;

	seed = source_with(p, MC_P2P_HOST, 4, few);
	source_with(p, MC_P2P_FAR, 3, few);
	source_with(p, MC_P2P_FAR, 1, one);
	assert_int_equal(mc_p2p_pick_next(p, MS, &source, c, &nr), 0);
	assert_int_equal(source, seed);
	assert_int_equal(nr, 4);
	assert_int_equal(c[0], 99);
	assert_int_equal(c[3], 1);
	mc_p2p_pick_free(p);
}

static void near_first_then_idle(void **state)
{
	struct mc_p2p_pick *p = pick_of(64, 2, 8);
	const uint32_t all[] = {0, 1, 2, 3, 4, 5, 6, 7};
	uint32_t far, rack, host, source, seen[3] = {0};

	far = source_with(p, MC_P2P_FAR, 8, all);
	rack = source_with(p, MC_P2P_RACK, 8, all);
	host = source_with(p, MC_P2P_HOST, 8, all);
	for (int i = 0; i < 6; i++) {
		fly(p, &source);
		assert_int_equal(source, i < 2 ? host : i < 4 ? rack : far);
		seen[source]++;
	}
	assert_int_equal(seen[0] + seen[1] + seen[2], 6);
	assert_int_equal(mc_p2p_pick_flying(p), 6);
	mc_p2p_pick_free(p);
}

/* No more than the bounds, and again as soon as something has landed. */
static void bounds(void **state)
{
	struct mc_p2p_pick *p = pick_of(8, 2, 3);
	const uint32_t all[] = {0, 1, 2, 3, 4, 5, 6, 7};
	uint32_t a, b, c[MC_P2P_CANDIDATES], nr, shard;

	source_with(p, MC_P2P_FAR, 8, all);
	shard = fly(p, &a);
	fly(p, &a);
	assert_int_equal(mc_p2p_pick_next(p, MS, &b, c, &nr), -EAGAIN);
	source_with(p, MC_P2P_FAR, 8, all);
	fly(p, &b);
	assert_int_not_equal(a, b);
	assert_int_equal(mc_p2p_pick_next(p, MS, &b, c, &nr), -EAGAIN);
	mc_p2p_pick_done(p, a, shard, 1, MS);
	fly(p, &b);
	assert_int_equal(mc_p2p_pick_missing(p), 7);
	mc_p2p_pick_free(p);
}

static void what_came_meanwhile(void **state)
{
	struct mc_p2p_pick *p = pick_of(2, 2, 8);
	const uint32_t all[] = {0, 1};
	uint32_t a, b, ca[MC_P2P_CANDIDATES], cb[MC_P2P_CANDIDATES], nr;

	source_with(p, MC_P2P_FAR, 2, all);
	source_with(p, MC_P2P_FAR, 2, all);
	assert_int_equal(mc_p2p_pick_next(p, MS, &a, ca, &nr), 0);
	assert_int_equal(mc_p2p_pick_next(p, MS, &b, cb, &nr), 0);
	assert_int_equal(mc_p2p_pick_granted(p, a, 0, MS), 0);
	assert_int_equal(mc_p2p_pick_granted(p, b, 0, MS), -EALREADY);
	assert_int_equal(mc_p2p_pick_granted(p, b, 1, MS), -EINVAL);    /* no GRANT is open there */
	mc_p2p_pick_have(p, 0);
	mc_p2p_pick_done(p, a, 0, 1, MS);
	assert_int_equal(mc_p2p_pick_missing(p), 1);
	assert_int_equal(mc_p2p_pick_next(p, MS, &a, ca, &nr), 0);
	assert_int_equal(nr, 1);
	assert_int_equal(mc_p2p_pick_granted(p, a, 64, MS), -EINVAL);   /* a foreign answer gone wrong */
	mc_p2p_pick_have(p, 1);
	assert_int_equal(mc_p2p_pick_next(p, MS, &a, ca, &nr), -EALREADY);
	assert_int_equal(mc_p2p_pick_wake(p, MS), UINT64_MAX);
	mc_p2p_pick_free(p);
}

static void sources_that_fail(void **state)
{
	struct mc_p2p_pick *p = pick_of(3, 2, 8);
	const uint32_t all[] = {0, 1, 2};
	uint32_t a, b, c[MC_P2P_CANDIDATES], nr, shard;

	a = source_with(p, MC_P2P_HOST, 3, all);
	b = source_with(p, MC_P2P_FAR, 3, all);
	assert_int_equal(b, 1);
	shard = fly(p, &a);
	mc_p2p_pick_failed(p, a, shard, false, MS);
	assert_int_equal(mc_p2p_pick_flying(p), 0);
	fly(p, &b);     /* a has a pause */
	assert_int_equal(b, 1);
	assert_true(mc_p2p_pick_wake(p, MS) > MS);
	assert_int_equal(mc_p2p_pick_next(p, 2000 * MS, &a, c, &nr), 0);
	assert_int_equal(a, 0);
	mc_p2p_pick_source_drop(p, a);
	mc_p2p_pick_source_drop(p, b);
	assert_int_equal(mc_p2p_pick_flying(p), 0);
	assert_int_equal(mc_p2p_pick_missing(p), 3);
	assert_int_equal(mc_p2p_pick_next(p, 2000 * MS, &a, c, &nr), -ENODATA);
	/* who is new may be the one who has it */
	assert_int_equal(mc_p2p_pick_source_add(p, MC_P2P_FAR, MS), 0);
	assert_int_equal(mc_p2p_pick_next(p, 2000 * MS, &a, c, &nr), -EAGAIN);
	mc_p2p_pick_source_map(p, 0, NULL, 2000 * MS);
	for (int i = 0; i < 2; i++)
		fly(p, &a);
	mc_p2p_pick_free(p);
}

/* A shard that does not come is asked for elsewhere, once nothing else is left to ask for; who was slow gives what no
 * other has. */
static void slow_ones(void **state)
{
	struct mc_p2p_pick *p = pick_of(4, 4, 8);
	const uint32_t all[] = {0, 1, 2, 3}, two[] = {0, 1};
	uint32_t a, b, source, c[MC_P2P_CANDIDATES], nr;

	a = source_with(p, MC_P2P_HOST, 3, all);
	for (int i = 0; i < 3; i++)
		fly(p, &source);
	b = source_with(p, MC_P2P_FAR, 2, two);
	assert_false(mc_p2p_pick_elsewhere(p, a, 0)); /* shard 3 is wanted, and could be asked for */
	mc_p2p_pick_have(p, 3);
	assert_true(mc_p2p_pick_elsewhere(p, a, 0));
	assert_false(mc_p2p_pick_elsewhere(p, a, 2)); /* only there */
	assert_false(mc_p2p_pick_elsewhere(p, a, 4));
	mc_p2p_pick_slow(p, a, 0);
	assert_int_equal(fly(p, &source), 0);
	assert_int_equal(source, b);
	assert_false(mc_p2p_pick_elsewhere(p, b, 0)); /* the other one is slow */
	mc_p2p_pick_slow(p, a, 2);
	assert_int_equal(fly(p, &source), 2);
	assert_int_equal(source, a);
	mc_p2p_pick_done(p, b, 0, 1, MS);
	mc_p2p_pick_slow(p, a, 1);
	assert_int_equal(mc_p2p_pick_next(p, MS, &source, c, &nr), 0);
	assert_int_equal(source, b);
	mc_p2p_pick_refused(p, b, 0, MS);
	assert_int_equal(mc_p2p_pick_next(p, MS, &source, c, &nr), -EAGAIN);
	mc_p2p_pick_source_drop(p, b);
	assert_int_equal(fly(p, &source), 1);
	assert_int_equal(source, a);
	mc_p2p_pick_free(p);
}

static void refused(void **state)
{
	struct mc_p2p_pick *p = pick_of(2, 1, 8);
	const uint32_t all[] = {0, 1};
	uint32_t a, c[MC_P2P_CANDIDATES], nr;

	source_with(p, MC_P2P_FAR, 2, all);
	assert_int_equal(mc_p2p_pick_next(p, MS, &a, c, &nr), 0);
	mc_p2p_pick_refused(p, a, 50 * MS, MS);
	assert_int_equal(mc_p2p_pick_next(p, 49 * MS, &a, c, &nr), -EAGAIN);
	assert_in_range(mc_p2p_pick_wake(p, 49 * MS), 50 * MS, 80 * MS);
	for (uint64_t now = 100 * MS, last = 0; now < 800 * MS; last = now) {   /* later each time, by lot */
		assert_int_equal(mc_p2p_pick_next(p, now, &a, c, &nr), 0);
		mc_p2p_pick_refused(p, a, 0, now);
		now = mc_p2p_pick_wake(p, now + 1);
		assert_true(now > last);
	}
	mc_p2p_pick_free(p);
}

/* What only a seed has is fetched from it before more is asked of peers, also while peers are nearer; then
 * peers, so that the seed's uplink is left to what is new. */
static void seed_is_kept_busy(void **state)
{
	struct mc_p2p_pick *p = pick_of(64, 4, 8);
	const uint32_t some[] = {0, 1, 2, 3, 4, 5, 6, 7};
	uint32_t seed, peer, source, c[MC_P2P_CANDIDATES], nr;

	seed = (uint32_t)mc_p2p_pick_source_add(p, MC_P2P_FAR, MS);
	mc_p2p_pick_source_map(p, seed, NULL, MS);
	peer = source_with(p, MC_P2P_HOST, 8, some);
	assert_int_equal(mc_p2p_pick_next(p, MS, &source, c, &nr), 0);
	assert_int_equal(source, seed);
	for (uint32_t i = 0; i < nr; i++)
		assert_true(c[i] > 7);
	fly(p, &source);
	assert_int_equal(source, peer);
	mc_p2p_pick_free(p);
}

/* At most eight in 200 ms, everybody in turn, those who have all of it never again. */
static void sampling(void **state)
{
	struct mc_p2p_pick *p = pick_of(8, 1, 8);
	uint32_t who[32], reads[20] = {0};
	const uint8_t none[1] = {0};

	for (int i = 0; i < 20; i++)
		assert_int_equal(mc_p2p_pick_source_add(p, MC_P2P_FAR, MS), i);
	mc_p2p_pick_source_map(p, 5, NULL, MS);
	for (uint64_t now = MS; now < 2000 * MS; now += MS) {
		size_t nr = mc_p2p_pick_sample(p, who, 32, now);

		assert_true(nr <= 8);
		if (!nr)
			assert_true(mc_p2p_pick_wake(p, now) > now);
		for (size_t i = 0; i < nr; i++) {
			reads[who[i]]++;
			if (i % 2)
				mc_p2p_pick_source_map(p, who[i], none, now);
			else
				mc_p2p_pick_source_unread(p, who[i], now);
		}
	}
	for (int i = 0; i < 20; i++)
		assert_in_range(reads[i], i == 5 ? 0 : 1, i == 5 ? 0 : 10);
	mc_p2p_pick_free(p);
}

/* Of many, two getters read different ones first. */
static void sampling_by_lot(void **state)
{
	struct mc_p2p_pick *p = pick_of(8, 1, 8), *q = NULL;
	uint32_t one[8], two[8], same = 0;

	assert_int_equal(mc_p2p_pick_new(8, 1000, NULL, 8, &q), 0);
	for (int i = 0; i < 500; i++) {
		assert_int_equal(mc_p2p_pick_source_add(p, i == 77 ? MC_P2P_RACK : MC_P2P_FAR, MS), i);
		assert_int_equal(mc_p2p_pick_source_add(q, MC_P2P_FAR, MS), i);
	}
	assert_int_equal(mc_p2p_pick_sample(p, one, 8, MS), 8);
	assert_int_equal(mc_p2p_pick_sample(q, two, 8, MS), 8);
	assert_int_equal(one[0], 77);
	for (int i = 0; i < 64; i++)
		same += one[i / 8] == two[i % 8];
	assert_true(same < 4);
	mc_p2p_pick_free(p);
	mc_p2p_pick_free(q);
}

/* Every word's edge, whatever the number of shards; the same seed gives the same answers. */
static void all_sizes(void **state)
{
	for (uint32_t n = 1; n < 200; n += 21) {
		struct mc_p2p_pick *p = pick_of(n, 2, 2), *q = pick_of(n, 2, 2);
		uint8_t all[32];
		uint32_t a, b;

		memset(all, 0xff, sizeof all);  /* bits past the last shard mean nothing */
		assert_int_equal(mc_p2p_pick_source_add(p, MC_P2P_FAR, MS), 0);
		assert_int_equal(mc_p2p_pick_source_add(q, MC_P2P_FAR, MS), 0);
		mc_p2p_pick_source_map(p, 0, all, MS);
		mc_p2p_pick_source_map(q, 0, NULL, MS);
		for (uint32_t i = 0; i < n; i++) {
			uint32_t shard = fly(p, &a);

			assert_int_equal(shard, fly(q, &b));
			assert_true(shard < n);
			mc_p2p_pick_done(p, a, shard, 1, MS);
			mc_p2p_pick_done(q, b, shard, 1, MS);
		}
		assert_int_equal(mc_p2p_pick_missing(p), 0);
		mc_p2p_pick_free(p);
		mc_p2p_pick_free(q);
	}
}

static void arguments(void **state)
{
	struct mc_p2p_pick *p;

	assert_int_equal(mc_p2p_pick_new(0, 1, NULL, 0, &p), -EINVAL);
	assert_int_equal(mc_p2p_pick_new(1, 0, NULL, 0, &p), -EINVAL);
	mc_p2p_pick_free(NULL);
	assert_int_equal(mc_p2p_pick_new(1, 1, NULL, 0, &p), 0);
	assert_int_equal(mc_p2p_pick_source_add(p, MC_P2P_FAR, 0), 0);
	assert_int_equal(mc_p2p_pick_source_add(p, MC_P2P_FAR, 0), -ENOSPC);
	mc_p2p_pick_source_drop(p, 5);
	mc_p2p_pick_done(p, 5, 0, 1, 0);
	mc_p2p_pick_free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rarest_first), cmocka_unit_test(near_first_then_idle),
		cmocka_unit_test(bounds), cmocka_unit_test(what_came_meanwhile),
		cmocka_unit_test(sources_that_fail), cmocka_unit_test(refused), cmocka_unit_test(slow_ones),
		cmocka_unit_test(seed_is_kept_busy), cmocka_unit_test(sampling),
		cmocka_unit_test(sampling_by_lot), cmocka_unit_test(all_sizes), cmocka_unit_test(arguments),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
