/* SPDX-License-Identifier: Apache-2.0 */
/* What a pool's header, grants, blobs and hellos look like, and what is refused of them. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "cxl_doc.h"
#include "cxl_wire.h"

#define MIB ((uint64_t)1 << 20)

static struct cxl_geometry plan(uint64_t size, uint64_t unit)
{
	struct cxl_geometry g;
	struct mc_error err;

	if (cxl_geometry_plan(size, unit, 0, &g, &err) < 0)
		fail_msg("%s", err.text);
	for (unsigned i = 0; i < CXL_UUID_LEN; i++)
		g.uuid[i] = (uint8_t)(i * 17);
	return g;
}

static void test_geometry(void **state)
{
	struct cxl_geometry g = plan(256 * MIB, 2 * MIB);
	struct mc_error err = {0};

	assert_int_equal(g.nr_slots, 63);
	assert_int_equal(g.data_offset, 2 * MIB);
	assert_int_equal(g.nr_units, 127);
	assert_int_equal(g.size, 256 * MIB);
	g = plan(MIB, 4096);
	assert_int_equal(g.nr_slots, 15);
	assert_int_equal(g.data_offset, 128 << 10);
	assert_int_equal(g.nr_units, (MIB - (128 << 10)) / 4096);
	assert_int_equal(cxl_geometry_plan(2 * MIB, 2 * MIB, 0, &g, &err), -ENOSPC);
	assert_non_null(strstr(err.text, "4194304 at least"));
	assert_int_equal(cxl_geometry_plan(MIB, 4096, 255, &g, &err), -EINVAL);
	assert_int_equal(cxl_geometry_plan(MIB, 4097, 0, &g, &err), -EINVAL);
	assert_int_equal(cxl_geometry_plan(MIB, 2048, 0, &g, &err), -EINVAL);
}

/* Change a byte, and be refused with this errno and these words. */
static void refused(const struct cxl_geometry *g, unsigned at, uint8_t with, uint64_t size, int want, const char *words)
{
	uint8_t header[CXL_HEADER_LEN];
	struct cxl_geometry got;
	struct mc_error err = {0};

	cxl_header_put(g, header);
	header[at] ^= with;
	assert_int_equal(cxl_header_get(header, "dax0.0", size, &got, &err), want);
	if (!strstr(err.text, words) || !strstr(err.text, "dax0.0"))
		fail_msg("%s", err.text);
}

static void test_header(void **state)
{
	struct cxl_geometry g = plan(64 * MIB, 2 * MIB), got;
	uint8_t header[CXL_HEADER_LEN] = {0};
	struct mc_error err = {0};

	assert_int_equal(cxl_header_get(header, "dax0.0", 64 * MIB, &got, &err), -ENODATA);
	assert_non_null(strstr(err.text, "mooncake cxl format dax0.0"));
	cxl_header_put(&g, header);
	assert_int_equal(cxl_header_get(header, "dax0.0", 64 * MIB, &got, &err), 0);
	assert_memory_equal(&got, &g, sizeof g);
	refused(&g, 0, 1, 64 * MIB, -EBADMSG, "not a Mooncake pool");
	refused(&g, 8, 3, 64 * MIB, -EPROTONOSUPPORT, "version 2, and this one is 1");
	refused(&g, 12, 1, 64 * MIB, -EPROTONOSUPPORT, "same release");
	refused(&g, 0, 0, 32 * MIB, -ENOSPC, "give the device its size back");
	for (unsigned at = 16; at < CXL_HEADER_LEN; at++)
		refused(&g, at, 0x40, 64 * MIB, -EIO, "damaged");
}

/* A sum that is right says nothing of what it is over. */
static void test_header_bounds(void **state)
{
	struct cxl_geometry good = plan(64 * MIB, 4096), bad[8], got;
	uint8_t header[CXL_HEADER_LEN];
	struct mc_error err;

	for (unsigned i = 0; i < 8; i++)
		bad[i] = good;
	bad[0].unit = 3 << 20;
	bad[1].nr_units = UINT32_MAX;
	bad[2].nr_slots = 255;
	bad[3].slot_size = 4096;
	bad[4].data_offset = 4096;
	bad[5].slots_offset = 1;
	bad[6].size += 1;
	bad[7].nr_slots = 64;
	for (unsigned i = 0; i < 8; i++) {
		cxl_header_put(&bad[i], header);
		assert_int_equal(cxl_header_get(header, "x", UINT64_MAX, &got, &err), -EIO);
	}
}

static void test_blob(void **state)
{
	struct cxl_geometry g = plan(64 * MIB, 4096);
	struct cxl_blob b = {.generation = 5, .key = 7, .offset = g.data_offset + 4096, .len = 8192, .base = 0x7f0000001000,
			     .slot = 3, .key_idx = 11}, got, bad;
	uint8_t bytes[CXL_BLOB_LEN + 1];

	memcpy(b.uuid, g.uuid, sizeof b.uuid);
	cxl_blob_put(&b, bytes);
	assert_int_equal(cxl_blob_get(bytes, CXL_BLOB_LEN, &g, &got), 0);
	assert_memory_equal(&got, &b, sizeof b);
	assert_int_equal(cxl_blob_get(bytes, CXL_BLOB_LEN - 1, &g, &got), -EPROTO);
	assert_int_equal(cxl_blob_get(bytes, CXL_BLOB_LEN + 1, &g, &got), -EPROTO);
	assert_int_equal(cxl_blob_get(NULL, 0, &g, &got), -EPROTO);
#define REFUSED(change)                                                                            \
	do {                                                                                       \
		bad = b;                                                                           \
		change;                                                                            \
		cxl_blob_put(&bad, bytes);                                                         \
		assert_int_equal(cxl_blob_get(bytes, CXL_BLOB_LEN, &g, &got), -EPROTO);            \
	} while (0)
	REFUSED(bad.uuid[3] ^= 1);
	REFUSED(bad.generation = 0);
	REFUSED(bad.key = 0);
	REFUSED(bad.slot = g.nr_slots);
	REFUSED(bad.key_idx = g.nr_keys);
	REFUSED(bad.offset = 0);
	REFUSED(bad.offset = g.size);
	REFUSED(bad.len = UINT64_MAX);
	REFUSED(bad.len = g.size - bad.offset + 1);
	REFUSED(bad.base += 1);
}

static void test_hello(void **state)
{
	uint8_t uuid[CXL_UUID_LEN] = {1, 2, 3}, got[CXL_UUID_LEN], hello[CXL_HELLO_LEN];

	cxl_hello_put(uuid, hello);
	assert_int_equal(cxl_hello_get(hello, sizeof hello, got), 0);
	assert_memory_equal(got, uuid, sizeof uuid);
	assert_int_equal(cxl_hello_get(hello, sizeof hello - 1, got), -EPROTO);
	assert_int_equal(cxl_hello_get(hello, 0, got), -EPROTO);
	hello[0] ^= 1;
	assert_int_equal(cxl_hello_get(hello, sizeof hello, got), -EPROTO);
}

/* ---- grants ------------------------------------------------------------------------------------- */

static void test_doc(void **state)
{
	struct cxl_geometry g = plan(MIB, 4096); /* 15 slots, 224 units */
	struct cxl_doc *doc = calloc(1, sizeof *doc), *got = calloc(1, sizeof *got);
	struct cxl_grant a, b, c;
	struct mc_error err = {0};
	uint32_t slot;
	size_t len;
	char *text;

	cxl_doc_init(doc, &g);
	assert_int_equal(cxl_doc_join(doc, 0xabc, "decode 1", &slot), 0);
	assert_int_equal(slot, 0);
	assert_int_equal(cxl_doc_join(doc, 0xdef, "prefill", &slot), 0);
	assert_int_equal(slot, 1);
	assert_int_equal(cxl_doc_grant(doc, 0xabc, 10, 100, &a), 0);
	assert_int_equal(a.first, 0);
	assert_int_equal(a.nr, 100);
	assert_int_equal(cxl_doc_grant(doc, 0xdef, 10, 20, &b), 0);
	assert_int_equal(b.first, 100);
	/* 104 are left: as many as there are, but not fewer than asked for at least. */
	assert_int_equal(cxl_doc_grant(doc, 0xabc, 105, 200, &c), -ENOSPC);
	assert_int_equal(cxl_doc_grant(doc, 0xabc, 50, 200, &c), 0);
	assert_int_equal(c.first, 120);
	assert_int_equal(c.nr, 104);
	assert_int_equal(cxl_doc_free(doc), 0);
	doc->members[1].state = CXL_REAPED;
	doc->members[1].reaper = 0xabc;
	text = cxl_doc_text(doc, &len);
	assert_int_equal(cxl_doc_parse(got, &g, text, len, &err), 0);
	assert_int_equal(got->nr_members, 2);
	assert_int_equal(got->members[1].reaper, 0xabc);
	assert_string_equal(got->members[0].name, "decode 1");
	assert_int_equal(got->nr_grants, 3);
	/* What is cut off anywhere is refused, or is a whole document. */
	for (size_t cut = 0; cut < len; cut++)
		if (cxl_doc_parse(got, &g, text, cut, &err) == 0)
			assert_int_equal(text[cut - 1], '\n');
	cxl_doc_leave(doc, 0xabc);
	assert_int_equal(doc->nr_members, 1);
	assert_int_equal(cxl_doc_free(doc), 204);
	/* The hole that fits best. */
	assert_int_equal(cxl_doc_grant(doc, 0xdef, 90, 90, &a), 0);
	assert_int_equal(a.first, 0);
	free(text);
	free(doc);
	free(got);
}

static void test_doc_adopt(void **state)
{
	struct cxl_geometry g = plan(MIB, 4096);
	struct cxl_doc *doc = calloc(1, sizeof *doc);
	struct cxl_extent mine[] = {{50, 10}, {10, 10}}, clash[] = {{0, 5}, {55, 1}}, wild[] = {{UINT32_MAX, 2}};
	uint32_t slot;

	cxl_doc_init(doc, &g);
	assert_int_equal(cxl_doc_adopt(doc, 1, "one", 4, mine, 2), 0);
	assert_int_equal(doc->grants[0].first, 10);
	assert_int_equal(cxl_doc_adopt(doc, 2, "two", 4, NULL, 0), -EEXIST);
	assert_int_equal(cxl_doc_adopt(doc, 1, "one", 5, NULL, 0), -EEXIST);
	assert_int_equal(cxl_doc_adopt(doc, 2, "two", 5, clash, 2), -EEXIST);
	assert_int_equal(cxl_doc_adopt(doc, 2, "two", 5, wild, 1), -EEXIST);
	assert_int_equal(cxl_doc_adopt(doc, 2, "two", 15, NULL, 0), -EEXIST);
	assert_int_equal(doc->nr_members, 1);
	assert_int_equal(doc->nr_grants, 2);
	for (uint64_t i = 0; i < 14; i++)
		assert_int_equal(cxl_doc_join(doc, 100 + i, "x", &slot), 0);
	assert_int_equal(cxl_doc_join(doc, 99, "x", &slot), -ENOSPC);
	free(doc);
}

static void test_doc_refused(void **state)
{
	static const struct {
		const char *lines;
		int status;
	} cases[] = {
		{"", -EPROTO},
		{"mooncake-cxl 2\n", -EPROTO},
		{"mooncake-cxl 1\npool 00112233-4455-6677-8899-aabbccddeefe units 224 slots 15\n", -EXDEV},
		{"mooncake-cxl 1\nP 223 slots 15\n", -EPROTO},
		{"mooncake-cxl 1\nP 224 slots 15\nmember 0 slot 1 live name x\n", -EPROTO},
		{"mooncake-cxl 1\nP 224 slots 15\nmember 1 slot 15 live name x\n", -EPROTO},
		{"mooncake-cxl 1\nP 224 slots 15\nmember 1 slot 01x live name x\n", -EPROTO},
		{"mooncake-cxl 1\nP 224 slots 15\nmember 1 slot 1 dead name x\n", -EPROTO},
		{"mooncake-cxl 1\nP 224 slots 15\nmember 1 slot 1 live name x\nmember 1 slot 2 live name x\n", -EPROTO},
		{"mooncake-cxl 1\nP 224 slots 15\nmember 1 slot 1 live name x\nmember 2 slot 1 live name x\n", -EPROTO},
		{"mooncake-cxl 1\nP 224 slots 15\ngrant 1 first 0 nr 1\n", -EPROTO},
		{"mooncake-cxl 1\nP 224 slots 15\nmember 1 slot 1 live name x\ngrant 1 first 0 nr 0\n", -EPROTO},
		{"mooncake-cxl 1\nP 224 slots 15\nmember 1 slot 1 live name x\ngrant 1 first 224 nr 1\n", -EPROTO},
		{"mooncake-cxl 1\nP 224 slots 15\nmember 1 slot 1 live name x\ngrant 1 first 4294967295 nr 2\n", -EPROTO},
		{"mooncake-cxl 1\nP 224 slots 15\nmember 1 slot 1 live name x\ngrant 1 first 4 nr 4\ngrant 1 first 7 nr 1\n", -EPROTO},
		{"mooncake-cxl 1\nP 224 slots 15\nmember 1 slot 1 live name x\ngrant 1 first 4294967296 nr 2\n", -EPROTO},
		{"mooncake-cxl 1\nP 224 slots 15\nmember 1 slot 1 live name x", -EPROTO},
		{"mooncake-cxl 1\nP 224 slots 15\nmember 1 slot 1 live name x\ngrant 1 first 4 nr 4\n", 0},
	};
	struct cxl_geometry g = plan(MIB, 4096);
	struct cxl_doc *doc = calloc(1, sizeof *doc);

	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		char text[512];
		const char *p = strstr(cases[i].lines, "\nP ");
		struct mc_error err = {0};

		if (p)
			snprintf(text, sizeof text, "%.*s\npool 00112233-4455-6677-8899-aabbccddeeff units %s",
				 (int)(p - cases[i].lines), cases[i].lines, p + 3);
		else
			snprintf(text, sizeof text, "%s", cases[i].lines);
		if (cxl_doc_parse(doc, &g, text, strlen(text), &err) != cases[i].status)
			fail_msg("case %zu: %s", i, err.text);
	}
	free(doc);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_geometry), cmocka_unit_test(test_header),	   cmocka_unit_test(test_header_bounds),
		cmocka_unit_test(test_blob),	 cmocka_unit_test(test_hello),	   cmocka_unit_test(test_doc),
		cmocka_unit_test(test_doc_adopt), cmocka_unit_test(test_doc_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
