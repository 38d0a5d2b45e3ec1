/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The master's rules one by one: quota, sizes, expressions, pages of a query; whose a token is and
 * for how long; replacing; answers without room; draining; memory that readers may still look at.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/util/check.h"
#include "master_state.h"

#define SEC UINT64_C(1000000000)
#define MIB (UINT64_C(1) << 20)

static struct mc_master *state;
static uint64_t now;

static struct mc_master_client_id client_of(uint8_t number)
{
	struct mc_master_client_id id;

	memset(id.bytes, number, sizeof id.bytes);
	return id;
}

static void ping(uint8_t number)
{
	struct mc_master_ping p = {.size = sizeof p, .client = client_of(number), .engine = "engine", .generation = number};

	assert_int_equal(mc_master_client_ping(state, &p, now), 0);
}

/* The number of the segment. */
static uint32_t lend(uint8_t number, uint64_t bytes)
{
	struct mc_master_segment segment = {.size = sizeof segment, .engine = "engine", .generation = number, .base = 4096,
					    .len = bytes, .location = "cpu:0", .host = number, .client = client_of(number)};

	memset(segment.uuid, number, sizeof segment.uuid);
	ping(number);
	assert_int_equal(mc_master_mount(state, &segment, now), 0);
	return segment.id;
}

static void begin(void)
{
	struct mc_master_limits limits = {.size = sizeof limits, .nr_shards = 4, .lease_ns = SEC, .put_ttl_ns = 1000 * SEC,
					  .client_ttl_ns = 2000 * SEC, .high_watermark = 1, .seed = 7};

	now = 1000 * SEC;
	assert_int_equal(mc_master_new(&limits, &state), 0);
	assert_int_equal(mc_master_start(state, NULL, now), 0);
}

static void end(void)
{
	struct mc_error err = {0};

	if (mc_master_check(state, &err) < 0)
		fail_msg("%s", err.text);
	mc_master_free(state);
}

/* ---- calls with one key ---------------------------------------------------------------------------- */

static struct mc_master_extent places[128];

/* The status, and the token; where it goes is in places. */
static int start(uint8_t client, const char *key, uint64_t len, uint32_t tenant, uint32_t flags, uint64_t *ret_token)
{
	struct mc_master_client_id id = client_of(client);
	struct mc_master_put_config config = {.size = sizeof config, .tenant = tenant, .flags = flags};
	struct mc_master_put put = {.key = {key, (uint32_t)strlen(key)}, .len = len};
	struct mc_master_extents x = {places, 0, MC_ARRAY_SIZE(places)};
	struct mc_master_full full;

	assert_true(mc_master_put_start(state, &id, &config, &put, 1, &x, &full, now) >= 0);
	*ret_token = put.token;
	return put.status;
}

static int finish(uint8_t client, uint64_t token)
{
	struct mc_master_client_id id = client_of(client);
	struct mc_master_end e = {.token = token};
	int failed = mc_master_put_end(state, &id, &e, 1, now);

	assert_int_equal(failed, e.status != 0);
	return e.status;
}

static int revoke(uint8_t client, uint64_t token)
{
	struct mc_master_client_id id = client_of(client);
	struct mc_master_end e = {.token = token};
	int failed = mc_master_put_revoke(state, &id, &e, 1, now);

	assert_int_equal(failed, e.status != 0);
	return e.status;
}

static int put_one(const char *key, uint64_t len, uint32_t tenant, uint32_t flags)
{
	uint64_t token;
	int r = start(1, key, len, tenant, flags, &token);

	return r ? r : finish(1, token);
}

/* How long it is; 0: it is not there.  Its places are in places. */
static uint64_t length(const char *key)
{
	struct mc_master_got got = {.key = {key, (uint32_t)strlen(key)}};
	struct mc_master_extents x = {places, 0, MC_ARRAY_SIZE(places)};
	uint64_t lease;

	if (mc_master_get(state, 0, 0, &got, 1, &x, &lease, now) == 0)
		return got.len;
	assert_int_equal(got.status, -ENOENT);
	return 0;
}

static int remove_one(const char *key, uint32_t flags)
{
	struct mc_master_named named = {.key = {key, (uint32_t)strlen(key)}};

	mc_master_remove(state, 0, flags, &named, 1, now);
	return named.status;
}

/* ---- cases ------------------------------------------------------------------------------------------ */

static int count(void *ctx, const struct mc_master_object *object)
{
	++*(unsigned *)ctx;
	return object->complete ? 0 : -1;
}

/* What would take the master's memory or time is refused before it is looked at. */
static void expressions(void)
{
	static const char *const refused[] = {"a{1,32767}", "a{2001}", "a{3000,}", "((a{1,200}){1,200}){1,200}", "(((a{40}){40})*){2}",
					      "(((((((((((((a+)+)+)+)+)+)+)+)+)+)+)+)+)+", "([^]{]{50}){50}", "[[:alpha:]]{2001}",
					      "(a)\\1", "(b|\\)){1500}", "a?{1000}{1000}"};
	static const char *const taken[] = {"a{1,1000}", "^[0-9a-f]{64}/(k|v)+$", "[]{2001}]{3}", "\\{2001}", "[[.a.]{2001}]", "a{1,20}{1,20}", "^a-.+"};
	static char longer[4000];
	struct mc_error err = {0};
	uint64_t cursor = 0;
	unsigned nr = 0;

	for (size_t i = 0; i < MC_ARRAY_SIZE(refused); i++) {
		err.text[0] = '\0';
		assert_int_equal(mc_master_query(state, 0, MC_MASTER_REGEX, refused[i], &cursor, 100, count, &nr, now, &err), -EINVAL);
		if (!strstr(err.text, "use a simpler one"))
			fail_msg("%s: %s", refused[i], err.text);
	}
	for (size_t i = 0; i + 2 < sizeof longer; i += 2)
		memcpy(longer + i, "a?", 2);
	assert_int_equal(mc_master_query(state, 0, MC_MASTER_REGEX, longer, &cursor, 100, count, &nr, now, &err), -EINVAL);
	for (size_t i = 0; i < MC_ARRAY_SIZE(taken); i++)
		if (mc_master_query(state, 0, MC_MASTER_REGEX, taken[i], &cursor, 0, count, &nr, now, &err) < 0)
			fail_msg("%s: %s", taken[i], err.text);
}

static void test_rules(void **unused)
{
	struct mc_master_named named = {.key = {"a-1", 3}};
	struct mc_error err = {0};
	uint64_t cursor = 0, lease;
	uint32_t tenant;
	unsigned nr = 0;
	struct mc_master_got got = {.key = {"b-1", 3}};
	char key[16];

	(void)unused;
	begin();
	lend(1, 1u << 20);
	assert_int_equal(mc_master_tenant(state, "team", 4, true, &tenant), 0);
	assert_int_equal(mc_master_quota(state, tenant, 10000), 0);
	assert_int_equal(put_one("b-1", 8000, tenant, 0), 0);
	assert_int_equal(put_one("b-2", 8000, tenant, 0), -EDQUOT);
	assert_int_equal(put_one("b-2", 8000, 0, 0), 0);
	assert_int_equal(put_one("b-1", 1, tenant, 0), -EEXIST);
	assert_int_equal(put_one("huge", 2u << 20, 0, 0), -E2BIG);
	assert_int_equal(put_one("", 1, 0, 0), -EINVAL);
	assert_int_equal(put_one("none", 0, 0, 0), -EINVAL);
	/* A tenant's keys are its own. */
	assert_int_equal(mc_master_get(state, 0, 0, &got, 1, NULL, &lease, now), 1);
	assert_int_equal(got.status, -ENOENT);
	assert_int_equal(mc_master_get(state, tenant, 0, &got, 1, NULL, &lease, now), 0);
	for (int i = 0; i < 100; i++) {
		snprintf(key, sizeof key, "a-%d", i);
		assert_int_equal(put_one(key, 256, 0, 0), 0);
	}
	do {
		assert_true(mc_master_query(state, 0, MC_MASTER_PREFIX, "a-", &cursor, 7, count, &nr, now, &err) >= 0);
	} while (cursor);
	assert_int_equal(nr, 100);
	nr = 0;
	do {
		assert_true(mc_master_query(state, 0, MC_MASTER_REGEX, "^a-.[05]$", &cursor, 100, count, &nr, now, &err) >= 0);
	} while (cursor);
	assert_int_equal(nr, 18);
	assert_int_equal(mc_master_query(state, 0, MC_MASTER_REGEX, "(", &cursor, 100, count, &nr, now, &err), -EINVAL);
	expressions();
	assert_int_equal(mc_master_pin(state, 0, MC_FOREVER, &named, 1, now), 0);
	assert_int_equal(mc_master_remove(state, 0, 0, &named, 1, now), 1);
	assert_int_equal(named.status, -EBUSY);
	assert_int_equal(mc_master_pin(state, 0, 0, &named, 1, now), 0);
	assert_int_equal(mc_master_remove(state, 0, 0, &named, 1, now), 0);
	end();
}

/* Nobody else ends a put. */
static void test_whose(void **unused)
{
	uint64_t token;

	(void)unused;
	begin();
	lend(1, MIB);
	ping(2);
	assert_int_equal(start(1, "key", 1000, 0, 0, &token), 0);
	assert_int_equal(finish(2, token), -ESTALE);
	assert_int_equal(revoke(2, token), -ESTALE);
	assert_int_equal(length("key"), 0);
	assert_int_equal(finish(3, token), -ESTALE);
	assert_int_equal(finish(1, token), 0);
	assert_int_equal(finish(1, token), 0); /* again: its answer was lost */
	assert_int_equal(finish(2, token), -ESTALE);
	assert_int_equal(revoke(1, token), -ESTALE); /* it is complete */
	assert_int_equal(length("key"), 1000);
	end();
}

/* A token that is over ends nothing, whoever has its place by now. */
static void test_over(void **unused)
{
	enum { NR = 20000, KEPT = 64 };
	static uint64_t old[NR];

	(void)unused;
	begin();
	lend(1, MIB);
	for (unsigned i = 0; i < NR; i++) {
		assert_int_equal(start(1, "key", 1000, 0, 0, &old[i]), 0);
		/* All of them now and then: a place is used again after many others only. */
		for (unsigned k = i % 997 && i > KEPT ? i - KEPT : 0; k < i; k++)
			if (finish(1, old[k]) != -ESTALE || revoke(1, old[k]) != -ESTALE)
				fail_msg("the token of put %u ends put %u", k, i);
		assert_int_equal(revoke(1, old[i]), 0);
	}
	end();
}

static void test_replace(void **unused)
{
	uint64_t token, other;

	(void)unused;
	begin();
	lend(1, MIB);
	assert_int_equal(put_one("key", 1000, 0, 0), 0);
	assert_int_equal(start(1, "key", 2000, 0, 0, &token), -EEXIST);
	assert_int_equal(start(1, "key", 2000, 0, MC_MASTER_PUT_UPSERT, &token), 0);
	assert_int_equal(length("key"), 1000);
	assert_int_equal(finish(1, token), 0);
	assert_int_equal(length("key"), 2000);
	/* A new one that is given up leaves the old one. */
	assert_int_equal(start(1, "key", 3000, 0, MC_MASTER_PUT_UPSERT, &token), 0);
	assert_int_equal(revoke(1, token), 0);
	assert_int_equal(length("key"), 2000);
	/* The old one went meanwhile, and somebody puts in the ordinary way: he is waited for. */
	assert_int_equal(start(1, "key", 4000, 0, MC_MASTER_PUT_UPSERT, &token), 0);
	assert_int_equal(remove_one("key", MC_MASTER_REMOVE_FORCE), 0);
	assert_int_equal(start(1, "key", 5000, 0, 0, &other), 0);
	assert_int_equal(finish(1, token), -EBUSY);
	assert_int_equal(length("key"), 0);
	assert_int_equal(finish(1, other), 0);
	assert_int_equal(length("key"), 5000);
	assert_int_equal(finish(1, token), 0);
	assert_int_equal(length("key"), 4000);
	end();
}

/* What does not fit into the answer fails by itself. */
static void test_answer(void **unused)
{
	struct mc_master_client_id id = client_of(1);
	struct mc_master_put_config config = {.size = sizeof config};
	struct mc_master_put puts[3] = {{.key = {"a", 1}, .len = 100}, {.key = {"b", 1}, .len = 100}, {.key = {"c", 1}, .len = 100}};
	struct mc_master_got gots[3] = {{.key = {"a", 1}}, {.key = {"b", 1}}, {.key = {"c", 1}}};
	struct mc_master_extents x = {places, 0, 2};
	struct mc_master_stats stats = {.size = sizeof stats};
	struct mc_master_full full;
	uint64_t lease;

	(void)unused;
	begin();
	lend(1, MIB);
	assert_int_equal(mc_master_put_start(state, &id, &config, puts, 3, &x, &full, now), 1);
	assert_int_equal(puts[0].status, 0);
	assert_int_equal(puts[1].status, 0);
	assert_int_equal(puts[2].status, -ENOBUFS);
	assert_int_equal(x.nr, 2);
	for (int i = 0; i < 2; i++)
		assert_int_equal(finish(1, puts[i].token), 0);
	assert_int_equal(put_one("c", 100, 0, 0), 0);
	x.nr = 0;
	assert_int_equal(mc_master_get(state, 0, 0, gots, 3, &x, &lease, now), 1);
	assert_int_equal(gots[2].status, -ENOBUFS);
	assert_int_equal(gots[1].status, 0);
	mc_master_stats(state, &stats, now);
	assert_int_equal(stats.nr_objects, 3);
	assert_int_equal(stats.nr_puts, 0);
	end();
}

/* A key that stands in a batch twice has two values: one of them is put.  The same batch again, since its answer was lost,
 * is told the same again. */
static void test_twice(void **unused)
{
	struct mc_master_client_id id = client_of(1);
	struct mc_master_put_config config = {.size = sizeof config, .nonce = 5};
	struct mc_master_put puts[3] = {{.key = {"a", 1}, .len = 100}, {.key = {"a", 1}, .len = 100}, {.key = {"b", 1}, .len = 100}};
	struct mc_master_full full;
	uint64_t token = 0;

	(void)unused;
	begin();
	lend(1, MIB);
	for (int again = 0; again < 6; again++) {
		struct mc_master_extents x = {places, 0, MC_ARRAY_SIZE(places)};

		if (again == 3) {
			assert_int_equal(finish(1, token), 0);
			assert_int_equal(finish(1, puts[2].token), 0);
			config.flags = MC_MASTER_PUT_UPSERT;
			config.nonce = 6;
		}
		assert_int_equal(mc_master_put_start(state, &id, &config, puts, 3, &x, &full, now), 1);
		assert_int_equal(puts[0].status, 0);
		assert_int_equal(puts[1].status, -EBUSY);
		assert_int_equal(puts[2].status, 0);
		assert_true(again % 3 == 0 || puts[0].token == token);
		token = puts[0].token;
	}
	assert_int_equal(finish(1, token), 0);
	assert_int_equal(finish(1, puts[2].token), 0);
	end();
}

static void test_drain(void **unused)
{
	uint32_t one, two;
	uint64_t token;
	char key[16];

	(void)unused;
	begin();
	one = lend(1, MIB);
	assert_int_equal(put_one("old", 1000, 0, 0), 0);
	assert_int_equal(mc_master_drain(state, one, true, now), 0);
	assert_int_equal(start(1, "new", 1000, 0, 0, &token), -ENOSPC);
	assert_int_equal(length("old"), 1000);
	two = lend(2, MIB);
	for (int i = 0; i < 100; i++) {
		snprintf(key, sizeof key, "new-%d", i);
		assert_int_equal(start(1, key, 1000, 0, 0, &token), 0);
		assert_int_equal(places[0].segment, two);
		assert_int_equal(finish(1, token), 0);
	}
	assert_int_equal(mc_master_drain(state, one, false, now), 0);
	assert_int_equal(mc_master_drain(state, two, true, now), 0);
	assert_int_equal(start(1, "back", 1000, 0, 0, &token), 0);
	assert_int_equal(places[0].segment, one);
	assert_int_equal(finish(1, token), 0);
	assert_int_not_equal(mc_master_drain(state, 77, true, now), 0);
	end();
}

/* A replica in two pieces, one of which is lost: readers may look at the other until their lease has ended. */
static void test_half(void **unused)
{
	struct mc_master_client_id two = client_of(2);
	uint64_t token, offset;
	uint32_t one;

	(void)unused;
	begin();
	one = lend(1, MIB);
	lend(2, MIB);
	assert_int_equal(put_one("cut", 3 * MIB / 2, 0, 0), 0);
	assert_int_equal(length("cut"), 3 * MIB / 2);
	assert_int_equal(places[0].replica, places[1].replica);
	assert_int_not_equal(places[0].segment, places[1].segment);
	offset = places[places[0].segment == one ? 0 : 1].len;
	assert_int_equal(mc_master_client_leave(state, &two, now), 0);
	mc_master_tick(state, now);
	assert_int_equal(length("cut"), 0);
	assert_int_equal(start(1, "more", MIB - offset + 4096, 0, 0, &token), -ENOSPC);
	now += SEC / 2;
	mc_master_tick(state, now);
	assert_int_equal(start(1, "more", MIB - offset + 4096, 0, 0, &token), -ENOSPC);
	now += SEC;
	mc_master_tick(state, now);
	assert_int_equal(start(1, "more", MIB - offset + 4096, 0, 0, &token), 0);
	assert_int_equal(finish(1, token), 0);
	end();
}

/* The first of two replicas is gone: the other one is told as the only one, and counted from 0. */
static void test_first_gone(void **unused)
{
	struct mc_master_client_id id = client_of(3), gone;
	struct mc_master_put_config config = {.size = sizeof config, .nr_replicas = 2, .flags = MC_MASTER_PUT_ALL};
	struct mc_master_put put = {.key = {"two", 3}, .len = 5000};
	struct mc_master_got got = {.key = {"two", 3}};
	struct mc_master_extents x = {places, 0, MC_ARRAY_SIZE(places)};
	struct mc_master_full full;
	uint32_t one;
	uint64_t lease;

	(void)unused;
	begin();
	one = lend(1, MIB);
	lend(2, MIB);
	ping(3);
	assert_int_equal(mc_master_put_start(state, &id, &config, &put, 1, &x, &full, now), 0);
	assert_int_equal(put.nr, 2);
	gone = client_of(places[0].segment == one ? 1 : 2);
	assert_int_equal(finish(3, put.token), 0);
	for (int i = 0; i < 2; i++) {
		x.nr = 0;
		assert_int_equal(mc_master_get(state, 0, 0, &got, 1, &x, &lease, now), 0);
		assert_int_equal(got.nr_replicas, 2 - i);
		assert_int_equal(got.nr, 2 - i);
		for (uint32_t k = 0; k < got.nr; k++)
			assert_int_equal(places[k].replica, k);
		if (i == 0)
			assert_int_equal(mc_master_client_leave(state, &gone, now), 0);
	}
	mc_master_tick(state, now);
	x.nr = 0;
	assert_int_equal(mc_master_get(state, 0, 0, &got, 1, &x, &lease, now), 0);
	assert_int_equal(got.nr_replicas, 1);
	assert_int_equal(places[0].replica, 0);
	end();
}

static bool log_full;

static int log_append(void *ctx, struct mc_store_change *changes, size_t nr)
{
	for (size_t i = 0; i < nr; i++)
		changes[i].seq = log_full ? 0 : 1;
	return log_full ? -ENOSPC : 0;
}

static uint64_t log_synced(void *ctx)
{
	return 1;
}

static void log_want(void *ctx, uint64_t seq)
{
}

/* What is said to be removed is gone after a restart, too: what cannot be logged stays. */
static void test_unlogged(void **unused)
{
	const struct mc_master_sink sink = {.append = log_append, .synced = log_synced, .want = log_want};
	struct mc_master_limits limits = {.size = sizeof limits, .nr_shards = 1, .lease_ns = SEC, .seed = 7};
	struct mc_master_named named = {.key = {"stays", 5}};
	uint64_t cursor = 0, removed = 0, refused = 0;
	struct mc_error err = {0};

	(void)unused;
	now = 1000 * SEC;
	log_full = false;
	assert_int_equal(mc_master_new(&limits, &state), 0);
	assert_int_equal(mc_master_start(state, &sink, now), 0);
	lend(1, MIB);
	assert_int_equal(put_one("stays", 5000, 0, 0), 0);
	now += 2 * SEC;
	log_full = true;
	assert_int_equal(mc_master_remove(state, 0, 0, &named, 1, now), 1);
	assert_int_equal(named.status, -ENOSPC);
	assert_int_equal(mc_master_remove_match(state, 0, 0, MC_MASTER_PREFIX, "", &cursor, &removed, &refused, now, &err), -ENOSPC);
	assert_non_null(strstr(err.text, "disk is full"));
	assert_int_equal(removed, 0);
	assert_int_equal(length("stays"), 5000);
	now += 2 * SEC;
	log_full = false;
	assert_int_equal(mc_master_remove(state, 0, 0, &named, 1, now), 0);
	assert_int_equal(length("stays"), 0);
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rules),
		cmocka_unit_test(test_unlogged),
		cmocka_unit_test(test_whose),
		cmocka_unit_test(test_over),
		cmocka_unit_test(test_replace),
		cmocka_unit_test(test_answer),
		cmocka_unit_test(test_twice),
		cmocka_unit_test(test_drain),
		cmocka_unit_test(test_half),
		cmocka_unit_test(test_first_gone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
