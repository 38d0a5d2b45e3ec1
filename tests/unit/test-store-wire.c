/* SPDX-License-Identifier: Apache-2.0 */
/* Messages between the managed store's master and its clients: there and back, cut short, too long. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdlib.h>

#include "../fuzz/store-messages.h"

#define CAP (1u << 20)

static struct echo echo;
static uint8_t message[CAP], again[CAP];

static struct mc_wire begin(struct mc_wire_request *head)
{
	struct mc_wire w = mc_wire_writer(message, CAP);

	head->version = MC_WIRE_VERSION_MAX;
	memset(head->client.bytes, 0x5a, sizeof head->client.bytes);
	mc_wire_request(&w, head, false);
	return w;
}

static struct mc_wire answer(struct mc_wire_reply *head)
{
	struct mc_wire w = mc_wire_writer(message, CAP);

	head->version = MC_WIRE_VERSION_MAX;
	head->epoch = 77;
	mc_wire_reply(&w, head);
	return w;
}

/* The message that was written can be read, and not if any of its bytes is missing. */
static void check(const struct mc_wire *w, uint32_t method, bool reply)
{
	size_t len = mc_wire_len(w, CAP);

	assert_true(len > 0);
	for (size_t cut = 0; cut < len; cut += len > 4096 ? 97 : 1) {
		uint8_t *exact = malloc(cut + 1); /* so that ASan sees a step too far */

		memcpy(exact, message, cut);
		assert_int_equal(echo_message(&echo, method, reply, exact, cut, again, CAP), -EBADMSG);
		free(exact);
	}
	assert_int_equal(echo_message(&echo, method, reply, message, len, again, CAP), len);
	assert_memory_equal(message, again, len);
}

static void test_put(void **state)
{
	static const uint32_t named[] = {3, 9};
	struct mc_wire_request head = {.tenant = "team a", .flags = MC_MASTER_PUT_CHAIN, .count = 2};
	struct mc_master_put_config config = {.nr_replicas = 2, .nr_preferred = 2, .preferred = named, .preferred_engine = "node1",
					      .host = 5, .nonce = 6, .parent = {"p", 1}};
	struct mc_master_put puts[] = {{.key = {"k\0x", 3}, .len = 1 << 20}, {.key = {"b", 1}, .len = 1}};
	uint32_t room[MC_WIRE_PREFERRED_MAX];
	struct mc_wire w = begin(&head);

	(void)state;
	mc_wire_put_config(&w, &config, room);
	mc_wire_puts(&w, 2, puts);
	check(&w, MC_WIRE_PUT_START, false);
	assert_string_equal(echo.request.tenant, "team a");
	assert_int_equal(echo.preferred[1], 9);
	assert_int_equal(echo.puts[0].key.len, 3);
	assert_memory_equal(echo.puts[0].key.data, "k\0x", 3);
	assert_int_equal(echo.puts[1].len, 1);
}

static void test_places(void **state)
{
	struct mc_wire_reply head = {.count = 2, .flags = MC_WIRE_FULL};
	struct mc_master_full full = {.lent = 10, .used = 9, .leased = 8};
	struct mc_master_extent at[] = {{.offset = 1, .len = 2, .segment = 3}, {.offset = 4, .len = 5, .segment = 6, .replica = 1}};
	struct mc_master_extents extents = {.at = at, .nr = 2, .cap = 2};
	struct mc_master_put puts[] = {{.status = -ENOSPC, .retry_ms = 20}, {.token = 99, .nr = 2}};
	struct mc_wire w = answer(&head);

	(void)state;
	mc_wire_full(&w, &full);
	mc_wire_places(&w, 2, puts, &extents);
	check(&w, MC_WIRE_PUT_START, true);
	assert_int_equal(echo.puts[0].status, -ENOSPC);
	assert_int_equal(echo.puts[0].retry_ms, 20);
	assert_int_equal(echo.puts[1].nr, 2);
	assert_int_equal(echo.extents[echo.puts[1].first + 1].segment, 6);
}

/* What does not fit into a reply says so by itself, and what does is whole. */
static void test_small_reply(void **state)
{
	enum { NR = 8 };
	struct mc_wire_reply head = {.count = NR};
	struct mc_master_extent at[NR];
	struct mc_master_extents extents = {.at = at, .nr = NR, .cap = NR};
	struct mc_master_got gots[NR] = {0};
	uint64_t lease = 1;

	(void)state;
	memset(at, 1, sizeof at);
	for (size_t cap = 16; cap < 700; cap++) {
		struct mc_wire w = mc_wire_writer(message, cap);
		uint32_t whole = 0;

		for (uint32_t i = 0; i < NR; i++)
			gots[i] = (struct mc_master_got){.len = 7, .first = i, .nr = 1, .has_checksum = i & 1};
		head.version = MC_WIRE_VERSION_MAX;
		mc_wire_reply(&w, &head);
		mc_wire_gots(&w, NR, gots, &extents, &lease);
		if (mc_wire_len(&w, cap) == 0)
			continue;
		assert_true(echo_message(&echo, MC_WIRE_GET, true, message, mc_wire_len(&w, cap), again, CAP) > 0);
		for (uint32_t i = 0; i < NR; i++) {
			assert_true(echo.gots[i].status == 0 || echo.gots[i].status == -ENOBUFS);
			assert_int_equal(echo.gots[i].status, gots[i].status);
			whole += echo.gots[i].status == 0;
		}
		assert_true(cap < 16 + 8 + NR * 55 || whole == NR);
	}
}

static void test_others(void **state)
{
	struct mc_wire_request head = {.count = 3};
	struct mc_master_end ends[] = {{.token = 1}, {.token = 2, .has_checksum = 1, .checksum = {9}}, {.token = 3, .failed = 2}};
	struct mc_master_segment segment = {.size = sizeof segment, .base = 4096, .len = 8192, .host = 1, .location = "cpu:0",
					    .engine = "node1", .generation = 3, .used = 100, .state = MC_MASTER_DRAINING};
	struct mc_wire_match match = {.match = MC_MASTER_REGEX, .pattern = "^a.*b$", .cursor = 5, .max = 10};
	struct mc_wire_reply reply = {.count = 1, .flags = MC_WIRE_MORE};
	struct mc_master_stats stats = {.epoch = 4, .waits_ns = 6, .space = {.largest_free = 5}};
	struct mc_wire w = begin(&head);

	(void)state;
	mc_wire_ends(&w, 3, ends);
	check(&w, MC_WIRE_PUT_END, false);
	assert_int_equal(echo.ends[1].checksum[0], 9);
	assert_int_equal(echo.ends[2].failed, 2);
	w = begin(&head);
	mc_wire_match(&w, &match);
	check(&w, MC_WIRE_QUERY, false);
	w = begin(&head);
	mc_wire_mount(&w, &segment);
	check(&w, MC_WIRE_MOUNT, false);
	w = answer(&reply);
	mc_wire_segment(&w, &segment);
	check(&w, MC_WIRE_SEGMENTS, true);
	w = answer(&reply);
	mc_wire_stats(&w, &stats);
	check(&w, MC_WIRE_STATS, true);
}

static void test_refused(void **state)
{
	char longer[MC_STORE_KEY_MAX + 2];
	struct mc_wire_request head = {.count = MC_WIRE_COUNT_MAX + 1};
	struct mc_master_named key = {.key = {longer, MC_STORE_KEY_MAX + 1}};
	uint64_t generations[MC_WIRE_EVICT_MAX + 1] = {0};
	struct mc_wire w = begin(&head);

	(void)state;
	memset(longer, 'x', sizeof longer);
	assert_true(w.broken);
	head.count = 1;
	w = begin(&head);
	mc_wire_keys(&w, 1, &key);
	assert_true(w.broken);
	key.key.len = 0;
	w = begin(&head);
	mc_wire_keys(&w, 1, &key);
	assert_true(w.broken);
	w = begin(&head);
	mc_wire_generations(&w, MC_WIRE_EVICT_MAX + 1, generations);
	assert_true(w.broken);
	/* A NUL inside of a text: the tenant's. */
	head.tenant = "abc";
	w = begin(&head);
	assert_false(w.broken);
	message[24 + 2 + 1] = 0;
	assert_int_equal(echo_message(&echo, MC_WIRE_LEAVE, false, message, mc_wire_len(&w, CAP), again, CAP), -EBADMSG);
}

static void test_versions(void **state)
{
	struct mc_wire_request head = {.count = 0};
	struct mc_wire w = begin(&head);
	size_t len = mc_wire_len(&w, CAP);

	(void)state;
	assert_int_equal(mc_wire_common(1, 3, 2, 5), 3);
	assert_int_equal(mc_wire_common(1, 1, 2, 5), 0);
	assert_int_equal(mc_wire_common(2, 9, 1, 4), 4);
	message[0] = MC_WIRE_VERSION_MAX + 1;
	assert_int_equal(echo_message(&echo, MC_WIRE_LEAVE, false, message, len, again, CAP), -EBADMSG);
	/* HELLO is read whatever version its sender has, and what it appends is passed over. */
	w = begin(&head);
	mc_wire_hello(&w, &(struct mc_wire_hello){.min = 1, .max = 9, .host = 4});
	len = mc_wire_len(&w, CAP);
	message[0] = 9;
	assert_int_equal(echo_message(&echo, MC_WIRE_HELLO, false, message, len + 40, again, CAP), len);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_put),    cmocka_unit_test(test_places),  cmocka_unit_test(test_small_reply),
		cmocka_unit_test(test_others), cmocka_unit_test(test_refused), cmocka_unit_test(test_versions),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
