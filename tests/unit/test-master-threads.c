/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads that do everything to one master's state at once: what it counts is right when they are
 * done, and all is free when everything is removed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "core/util/check.h"
#include "master_state.h"

#define SEC UINT64_C(1000000000)
#define WORKERS 3
#define ROUNDS 200
#define BATCH 16u
#define KEYS 500u

static struct mc_master *state;
static _Atomic uint64_t now = 1000 * SEC;
static _Atomic bool done;

static struct mc_master_client_id client_of(uint8_t number)
{
	struct mc_master_client_id id;

	memset(id.bytes, number, sizeof id.bytes);
	return id;
}

static void lend(uint8_t number, uint64_t bytes)
{
	struct mc_master_ping ping = {.size = sizeof ping, .client = client_of(number), .engine = "engine", .generation = number};
	struct mc_master_segment segment = {.size = sizeof segment, .engine = "engine", .generation = number, .base = 4096,
					    .len = bytes, .location = "cpu:0", .host = number, .client = ping.client};

	memset(segment.uuid, number, sizeof segment.uuid);
	assert_int_equal(mc_master_client_ping(state, &ping, now), 0);
	assert_int_equal(mc_master_mount(state, &segment, now), 0);
}

static void begin(void)
{
	struct mc_master_limits limits = {.size = sizeof limits, .nr_shards = 4, .lease_ns = SEC, .seed = 7};

	assert_int_equal(mc_master_new(&limits, &state), 0);
	assert_int_equal(mc_master_start(state, NULL, now), 0);
}

static void sound(void)
{
	struct mc_error err = {0};

	if (mc_master_check(state, &err) < 0)
		fail_msg("%s", err.text);
}

static uint64_t draw(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed >> 11;
}

static void put_some(uint8_t number, struct mc_master_key *keys, uint64_t *seed)
{
	struct mc_master_client_id id = client_of(number);
	struct mc_master_put_config config = {.size = sizeof config, .nr_replicas = 1 + draw(seed) % 2,
					      .flags = draw(seed) % 2 ? MC_MASTER_PUT_UPSERT : MC_MASTER_PUT_CHAIN};
	struct mc_master_put puts[BATCH] = {0};
	struct mc_master_end ends[BATCH] = {0};
	struct mc_master_extent room[BATCH * 128];
	struct mc_master_extents x = {room, 0, BATCH * 128};
	struct mc_master_full full;
	size_t nr = 0;

	for (uint32_t i = 0; i < BATCH; i++)
		puts[i] = (struct mc_master_put){.key = keys[i], .len = 1 + draw(seed) % 8192};
	if (mc_master_put_start(state, &id, &config, puts, BATCH, &x, &full, now) < 0)
		return;
	for (uint32_t i = 0; i < BATCH; i++)
		if (puts[i].status == 0)
			ends[nr++].token = puts[i].token;
	if (draw(seed) % 8 == 0)
		mc_master_put_revoke(state, &id, ends, nr, now);
	else
		mc_master_put_end(state, &id, ends, nr, now);
}

static void *work(void *arg)
{
	uint8_t number = (uint8_t)(uintptr_t)arg;
	uint64_t seed = number * 7919u + 1, lease, cursor, removed, refused;

	for (int round = 0; round < ROUNDS; round++) {
		char text[BATCH][16];
		struct mc_master_key keys[BATCH];
		struct mc_master_got gots[BATCH] = {0};
		struct mc_master_named named[BATCH] = {0};
		struct mc_master_extent room[BATCH * 16];
		struct mc_master_extents x = {room, 0, BATCH * 16};
		uint64_t from = draw(&seed) % KEYS;

		for (uint32_t i = 0; i < BATCH; i++) {
			keys[i].len = (uint32_t)snprintf(text[i], sizeof text[i], "key-%u", (unsigned)(from + i));
			keys[i].data = text[i];
			gots[i].key = named[i].key = keys[i];
		}
		put_some(number, keys, &seed);
		mc_master_get(state, 0, draw(&seed) % 2 ? MC_MASTER_GET_CHAIN : 0, gots, BATCH, &x, &lease, now);
		if (round % 4 == 0)
			mc_master_remove(state, 0, draw(&seed) % 2 ? MC_MASTER_REMOVE_FORCE : 0, named, BATCH / 2, now);
		if (round % 16 == 0)
			mc_master_pin(state, 0, draw(&seed) % 2 * SEC, named, BATCH, now);
		cursor = 0;
		if (round % 64 == 0)
			mc_master_remove_match(state, 0, 0, MC_MASTER_REGEX, "^key-[0-9]*3$", &cursor, &removed, &refused, now, NULL);
	}
	return NULL;
}

/* The clock, pings, and a segment that comes and goes. */
static void *keep(void *arg)
{
	uint8_t uuid[16];

	memset(uuid, 9, sizeof uuid);
	for (uint64_t i = 0; !atomic_load(&done); i++) {
		struct mc_master_stats stats = {.size = sizeof stats};

		now += SEC / 100;
		for (uint8_t c = 1; c <= WORKERS; c++) {
			struct mc_master_ping ping = {.size = sizeof ping, .client = client_of(c), .engine = "engine", .generation = c};

			mc_master_client_ping(state, &ping, now);
		}
		if (i % 8 == 0)
			lend(9, 1u << 20);
		else if (i % 8 == 4)
			mc_master_unmount(state, &(struct mc_master_client_id){{9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9}}, uuid, now);
		mc_master_tick(state, now);
		mc_master_stats(state, &stats, now);
		if (i % 16 == 0)
			sound();
	}
	return arg;
}

static void test_threads(void **unused)
{
	pthread_t workers[WORKERS], keeper;
	struct mc_master_stats stats = {.size = sizeof stats};
	uint64_t cursor = 0, removed, refused;

	(void)unused;
	begin();
	for (uint8_t c = 1; c <= WORKERS; c++)
		lend(c, 1u << 20);
	mc_master_stats(state, &stats, now);
	assert_int_equal(stats.space.largest_free, 1u << 20);
	pthread_create(&keeper, NULL, keep, NULL);
	for (uintptr_t i = 0; i < WORKERS; i++)
		pthread_create(&workers[i], NULL, work, (void *)(i + 1));
	for (size_t i = 0; i < WORKERS; i++)
		pthread_join(workers[i], NULL);
	atomic_store(&done, true);
	pthread_join(keeper, NULL);
	sound();
	do {
		mc_master_remove_match(state, 0, MC_MASTER_REMOVE_FORCE, MC_MASTER_PREFIX, "", &cursor, &removed, &refused, now, NULL);
	} while (cursor);
	now += 100 * SEC;
	for (int i = 0; i < 8; i++)
		mc_master_tick(state, now);
	sound();
	mc_master_stats(state, &stats, now);
	assert_int_equal(stats.nr_objects, 0);
	assert_int_equal(stats.space.used, 0);
	assert_true(stats.nr_put > 100);
	mc_master_free(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_threads)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
