/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of the P2P store that need no engine: names, records, control blocks, cuts, hashes, messages. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/util/bytes.h"
#include "p2p_block.h"
#include "p2p_record.h"
#include "p2p_wire.h"

static void test_hashes(void **state)
{
	/* What xxhsum -H2 prints for the empty string. */
	static const char *const empty = "99aa06d3014798d86001c324468d497f";
	const struct mc_p2p_hash_ops *ops;
	unsigned char *data = malloc(100003);
	struct mc_p2p_hash whole, parts;
	struct mc_p2p_hasher h;
	char text[33];

	mc_p2p_hash("", 0, &whole);
	mc_p2p_hash_text(&whole, text);
	assert_string_equal(text, empty);
	assert_int_equal(mc_p2p_hash_parse(text, &parts), 0);
	assert_memory_equal(&whole, &parts, sizeof whole);
	text[3] = 'A';
	assert_int_equal(mc_p2p_hash_parse(text, &parts), -EINVAL);
	assert_int_equal(mc_p2p_hash_parse("00", &parts), -EINVAL);
	for (size_t i = 0; i < 100003; i++)
		data[i] = (unsigned char)(i * 131 >> 3);
	mc_p2p_hash(data, 100003, &whole);
	/* Every build of it, in pieces that fit no stripe. */
	for (size_t b = 0; (ops = mc_p2p_hash_build(b)); b++) {
		ops->init(h.state);
		for (size_t at = 0; at < 100003;) {
			size_t n = at % 997 + 1;

			n = n < 100003 - at ? n : 100003 - at;
			ops->add(h.state, data + at, n);
			at += n;
		}
		ops->end(h.state, parts.bytes);
		assert_memory_equal(&whole, &parts, sizeof whole);
	}
	assert_true(mc_p2p_hash_build(0) != NULL);
	free(data);
}

static void test_names(void **state)
{
	char key[MC_P2P_KEY_MAX], name[MC_P2P_NAME_MAX + 2];
	static const char *const bad[] = {"", "a\n", "\x7f", "\xff", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xc2\x85", "a\xc3"};
	static const char *const good[] = {"a", "models/\xc3\xbc x", "\xf0\x9f\x8c\x99", "/"};

	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		assert_int_equal(mc_p2p_name_check(bad[i], NULL), -EINVAL);
	for (size_t i = 0; i < sizeof good / sizeof *good; i++)
		assert_int_equal(mc_p2p_name_check(good[i], NULL), 0);
	memset(name, 'x', sizeof name);
	name[MC_P2P_NAME_MAX + 1] = '\0';
	assert_int_equal(mc_p2p_name_check(name, NULL), -EINVAL);
	name[MC_P2P_NAME_MAX] = '\0';
	assert_int_equal(mc_p2p_name_check(name, NULL), 0);
	mc_p2p_object_key(name, key);
	assert_int_equal(strlen(key), strlen(MC_P2P_OBJECTS) + MC_P2P_NAME_MAX);
	mc_p2p_source_key("a/b", "node", key);
	assert_int_equal(strlen(key), strlen(MC_P2P_SOURCES) + 32 + 1 + 4);
	assert_null(strstr(key, "a/b"));
}

/* text is refused with a sentence that holds why. */
static void refused(const char *text, const char *why)
{
	struct mc_p2p_record rec;
	struct mc_error err = {0};

	assert_int_equal(mc_p2p_record_parse("n", text, strlen(text), &rec, &err), -EBADMSG);
	if (!strstr(err.text, why))
		fail_msg("'%s' is not in: %s", why, err.text);
}

#define ROOT "\"root\":\"00112233445566778899aabbccddeeff\""
#define REST ROOT ",\"attachment_len\":3,\"created_by\":\"e\",\"created\":\"now\""

static void test_record(void **state)
{
	struct mc_p2p_record rec = {.name = "n", .created_by = "e\"x", .created = "2026-01-01T00:00:00Z", .size = UINT64_C(1) << 44,
				    .shard_size = MC_P2P_SHARD_DEFAULT_MAX, .attachment_len = 7};
	uint64_t sizes[2] = {(UINT64_C(1) << 44) - 3, 3};
	struct mc_p2p_record back;
	struct mc_error err;
	char *text, deep[200];

	rec.sizes = sizes;
	rec.nr_sizes = 2;
	mc_p2p_hash("r", 1, &rec.root);
	text = mc_p2p_record_print(&rec);
	assert_int_equal(mc_p2p_record_parse("n", text, strlen(text), &back, &err), 0);
	assert_true(back.size == rec.size && back.shard_size == rec.shard_size && back.attachment_len == 7);
	assert_string_equal(back.created_by, "e\"x");
	assert_int_equal(back.nr_sizes, 2);
	assert_memory_equal(back.sizes, sizes, sizeof sizes);
	assert_memory_equal(&back.root, &rec.root, sizeof rec.root);
	mc_p2p_record_free(&back);
	assert_int_equal(mc_p2p_record_parse("other", text, strlen(text), &back, &err), -EBADMSG);
	free(text);
	refused("", "empty");
	refused("[]", "not an object");
	refused("{\"format\":1", "not JSON");
	refused("{\"format\":2,\"name\":\"n\"}", "format");
	refused("{\"format\":1,\"name\":\"n\",\"root\":\"00\"}", "root");
	refused("{\"format\":1,\"name\":\"n\",\"size\":-1," REST "}", "size");
	refused("{\"format\":1,\"name\":\"n\",\"size\":18446744073709551616," REST "}", "size");
	refused("{\"format\":1,\"name\":\"n\",\"size\":1.5," REST "}", "size");
	refused("{\"format\":1,\"name\":\"n\",\"size\":9,\"shard_size\":1," REST "}", "shard_size");
	refused("{\"format\":1,\"name\":\"n\",\"size\":18446744073709551615,\"shard_size\":4096," REST "}", "shards");
	refused("{\"format\":1,\"name\":\"n\",\"size\":9,\"shard_size\":4096,\"sizes\":[4,6]," REST "}", "sizes");
	refused("{\"format\":1,\"name\":\"n\",\"size\":9,\"shard_size\":4096,\"sizes\":3," REST "}", "sizes");
	memset(deep, '[', sizeof deep);
	deep[sizeof deep - 1] = '\0';
	refused(deep, "nested");
}

static void test_offer(void **state)
{
	struct mc_p2p_offer o = {.name = "n", .host = "h", .rack = "", .generation = 0xfedcba9876543210, .block = UINT64_MAX - 4096,
				 .block_len = 4000, .role = MC_P2P_REPLICA};
	struct mc_p2p_offer back;
	struct mc_error err;
	char *text = mc_p2p_offer_print(&o), *at;

	assert_int_equal(mc_p2p_offer_parse("n", "e", text, strlen(text), &back, &err), 0);
	assert_true(back.generation == o.generation && back.block == o.block && back.block_len == 4000);
	assert_true(back.role == MC_P2P_REPLICA && strcmp(back.engine, "e") == 0);
	assert_int_equal(mc_p2p_offer_parse("n", "e/f", text, strlen(text), &back, &err), -EBADMSG);
	assert_int_equal(mc_p2p_offer_parse("n", "", text, strlen(text), &back, &err), -EBADMSG);
	at = strstr(text, "4000");
	memcpy(at, "9000", 4); /* wraps around */
	assert_int_equal(mc_p2p_offer_parse("n", "e", text, strlen(text), &back, &err), -EBADMSG);
	free(text);
}

static void test_block(void **state)
{
	struct mc_p2p_block b = {.generation = 5, .size = 1000001, .shard_size = 4096, .nr_shards = 245, .nr_ranges = 3,
				 .attachment_len = 5}, back;
	uint8_t h[MC_P2P_BLOCK_HEADER], bad[MC_P2P_BLOCK_HEADER], ranges[48] = {0};
	struct mc_p2p_map map, read;
	struct mc_error err;

	mc_p2p_block_lay(&b);
	assert_int_equal(b.hashes_off, 128 + 48);
	assert_int_equal(b.attachment_off, 128 + 48 + 245 * 16);
	assert_int_equal(b.bitmap_off % 8, 0);
	assert_int_equal(b.block_len, b.bitmap_off + 32);
	mc_p2p_block_put(&b, h);
	assert_int_equal(mc_p2p_block_parse(h, b.block_len, &back, &err), 0);
	assert_memory_equal(&b, &back, sizeof b);
	assert_int_equal(mc_p2p_block_parse(h, b.block_len + 8, &back, &err), -EBADMSG);
	/* Each word that says where or how many: another value is refused. */
	for (size_t at = 0; at < MC_P2P_BLOCK_HEADER; at += 4) {
		if ((at >= 16 && at < 24) || (at >= 48 && at < 64) || at >= 112)
			continue; /* generation and hashes may be anything */
		memcpy(bad, h, sizeof bad);
		mc_put32(bad + at, mc_get32(bad + at) ^ 0x80000001);
		if (mc_p2p_block_parse(bad, b.block_len, &back, &err) == 0)
			fail_msg("a header with another word at %zu was taken", at);
	}
	assert_int_equal(mc_p2p_map_new(&map, 3), 0);
	map.parts[0] = (struct mc_p2p_part){.addr = 4096, .len = 1};
	map.parts[1] = (struct mc_p2p_part){.addr = 8192, .len = 999999};
	map.parts[2] = (struct mc_p2p_part){.addr = 4, .len = 1};
	assert_int_equal(mc_p2p_map_end(&map), 0);
	mc_p2p_ranges_put(&map, ranges);
	assert_int_equal(mc_p2p_ranges_parse(ranges, 3, 1000001, &read, &err), 0);
	assert_memory_equal(map.parts, read.parts, 3 * sizeof *map.parts);
	mc_p2p_map_free(&read);
	assert_int_equal(mc_p2p_ranges_parse(ranges, 3, 1000002, &read, &err), -EBADMSG);
	mc_put64(ranges + 16, UINT64_MAX - 5);
	assert_int_equal(mc_p2p_ranges_parse(ranges, 3, 1000001, &read, &err), -EBADMSG);
	mc_p2p_map_free(&map);
}

static void test_bits(void **state)
{
	uint8_t map[3] = {0};

	mc_p2p_bit_set(map, 0);
	mc_p2p_bit_set(map, 9);
	mc_p2p_bit_set(map, 17);
	assert_int_equal(map[0], 1);
	assert_int_equal(map[1], 2);
	assert_int_equal(mc_p2p_bits_count(map, 17), 2);
	assert_int_equal(mc_p2p_bits_count(map, 18), 3);
	assert_true(mc_p2p_bit_get(map, 9) && !mc_p2p_bit_get(map, 8));
	assert_int_equal(mc_p2p_bitmap_len(17), 3);
}

static void test_root(void **state)
{
	uint8_t hashes[32] = {1};
	struct mc_p2p_hash a, b, att = {{7}};

	mc_p2p_root(5000, 4096, hashes, 2, 0, &att, &a);
	mc_p2p_root(5001, 4096, hashes, 2, 0, &att, &b);
	assert_memory_not_equal(&a, &b, sizeof a);
	mc_p2p_root(5000, 8192, hashes, 2, 0, &att, &b);
	assert_memory_not_equal(&a, &b, sizeof a);
	mc_p2p_root(5000, 4096, hashes, 2, 1, &att, &b);
	assert_memory_not_equal(&a, &b, sizeof a);
	hashes[31]++;
	mc_p2p_root(5000, 4096, hashes, 2, 0, &att, &b);
	assert_memory_not_equal(&a, &b, sizeof a);
}

/* A map of nr odd ranges that add up to size. */
static struct mc_p2p_map map_of(size_t nr, uint64_t size, uint64_t base)
{
	struct mc_p2p_map map;
	uint64_t left = size;

	assert_int_equal(mc_p2p_map_new(&map, nr), 0);
	for (size_t i = 0; i < nr; i++) {
		uint64_t len = i + 1 == nr ? left : left / (nr - i) / 3 + 1 + i;

		map.parts[i] = (struct mc_p2p_part){.addr = base, .len = len};
		base += len + 100 + i;
		left -= len;
	}
	assert_int_equal(mc_p2p_map_end(&map), 0);
	assert_int_equal(map.size, size);
	return map;
}

static uint64_t addr_of(const struct mc_p2p_map *map, uint64_t pos)
{
	for (size_t i = 0; i < map->nr; i++)
		if (pos < map->parts[i].start + map->parts[i].len)
			return map->parts[i].addr + pos - map->parts[i].start;
	return 0;
}

/* Pieces of all shards cover the object once, and each lies in one range at both ends. */
static void test_cut(void **state)
{
	const uint64_t size = 100003;
	struct mc_p2p_map a = map_of(5, size, 1000), b = map_of(11, size, 500000);
	uint64_t at = 0;

	for (uint32_t k = 0; k < mc_p2p_nr_shards(size, 4096); k++) {
		uint64_t pos, end = mc_p2p_shard_end(size, 4096, k, &pos);

		assert_true(pos == at && end <= size && end - pos <= 4096);
		while (pos < end) {
			struct mc_p2p_piece p;

			mc_p2p_cut(&a, &b, pos, end, 1500, &p);
			assert_true(p.len > 0 && p.len <= 1500 && p.len <= end - pos);
			assert_true(p.here == addr_of(&a, pos) && p.here + p.len - 1 == addr_of(&a, pos + p.len - 1));
			assert_true(p.there == addr_of(&b, pos) && p.there + p.len - 1 == addr_of(&b, pos + p.len - 1));
			pos += p.len;
		}
		at = end;
	}
	assert_true(at == size);
	mc_p2p_map_free(&a);
	mc_p2p_map_free(&b);
}

static void test_shapes(void **state)
{
	struct mc_p2p_map map;
	bool overlap;
	size_t a, b;

	assert_int_equal(mc_p2p_shard_default(1), 1 << 20);
	assert_int_equal(mc_p2p_shard_default(UINT64_C(640) << 20), 10 << 20);
	assert_int_equal(mc_p2p_shard_default(UINT64_C(1) << 40), 64 << 20);
	assert_int_equal(mc_p2p_nr_shards(8192, 4096), 2);
	assert_int_equal(mc_p2p_nr_shards(8193, 4096), 3);
	assert_int_equal(mc_p2p_nr_shards(UINT64_MAX, 4096), 0);
	assert_int_equal(mc_p2p_map_new(&map, 3), 0);
	map.parts[0] = (struct mc_p2p_part){.addr = 5000, .len = 10};
	map.parts[1] = (struct mc_p2p_part){.addr = 100, .len = 10};
	map.parts[2] = (struct mc_p2p_part){.addr = 5010, .len = 10};
	assert_int_equal(mc_p2p_map_end(&map), 0);
	assert_int_equal(mc_p2p_map_overlap(&map, &a, &b, &overlap), 0);
	assert_false(overlap);
	map.parts[2].addr--;
	assert_int_equal(mc_p2p_map_overlap(&map, &a, &b, &overlap), 0);
	assert_true(overlap && a == 0 && b == 2);
	map.parts[1].len = 0;
	assert_int_equal(mc_p2p_map_end(&map), -EINVAL);
	map.parts[1] = (struct mc_p2p_part){.addr = UINT64_MAX - 3, .len = 4};
	assert_int_equal(mc_p2p_map_end(&map), -EINVAL);
	mc_p2p_map_free(&map);
}

static void test_wire(void **state)
{
	struct mc_p2p_request q = {.count = 3, .candidates = {7, 1, 9}}, back;
	struct mc_p2p_answer a = {.slot = 1, .rate = 2, .shard = 3, .retry_ms = 4}, b;
	uint8_t bytes[MC_P2P_REQUEST_MAX];
	size_t len = mc_p2p_request_put(MC_P2P_GRANT, &q, bytes);

	assert_int_equal(mc_p2p_request_parse(MC_P2P_GRANT, bytes, len, &back), 0);
	assert_int_equal(back.candidates[2], 9);
	assert_int_equal(mc_p2p_request_parse(MC_P2P_GRANT, bytes, len - 1, &back), -EBADMSG);
	assert_int_equal(mc_p2p_request_parse(MC_P2P_GRANT, bytes, 39, &back), -EBADMSG);
	assert_int_equal(mc_p2p_request_parse(MC_P2P_DROP, bytes, len, &back), -EBADMSG);
	assert_int_equal(mc_p2p_request_parse(77, bytes, len, &back), -EBADMSG);
	mc_put32(bytes + 4, MC_P2P_CANDIDATES + 1);
	assert_int_equal(mc_p2p_request_parse(MC_P2P_GRANT, bytes, len, &back), -EBADMSG);
	mc_put32(bytes, 2);
	assert_int_equal(mc_p2p_request_parse(MC_P2P_GRANT, bytes, len, &back), -EPROTONOSUPPORT);
	mc_p2p_answer_put(&a, bytes);
	assert_int_equal(mc_p2p_answer_parse(bytes, MC_P2P_ANSWER_LEN, &b), 0);
	assert_memory_equal(&a, &b, sizeof a);
	assert_int_equal(mc_p2p_answer_parse(bytes, MC_P2P_ANSWER_LEN - 1, &b), -EBADMSG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hashes), cmocka_unit_test(test_names), cmocka_unit_test(test_record),
		cmocka_unit_test(test_offer), cmocka_unit_test(test_block), cmocka_unit_test(test_bits),
		cmocka_unit_test(test_root), cmocka_unit_test(test_cut), cmocka_unit_test(test_shapes),
		cmocka_unit_test(test_wire),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
