/* SPDX-License-Identifier: Apache-2.0 */
/* Entries of buffer tables and whole tables as a receiver sees them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "session_impl.h"
#include "table.h"
#include "core/util/bytes.h"

static struct mc_local_blob blobs[3] = {{3, (uint8_t *)"abc"}, {0, NULL}, {1, (uint8_t *)"z"}};

static size_t entry(uint8_t *out, uint32_t id, uint64_t base, uint64_t len)
{
	struct mc_local_buf b = {.id = id, .base = base, .len = len, .access = 3, .ordinal = -1,
				 .location = "cpu:1", .kind = "cpu", .blobs = blobs};
	size_t size = mc_entry_size(&b, 3);

	mc_entry_encode(&b, 3, out);
	return size;
}

static void test_entry(void **state)
{
	uint8_t buf[256];
	struct mc_remote_buf *got;
	size_t size = entry(buf, 7, 0x1000, 0x20);

	assert_int_equal(mc_entry_decode(buf, size, &got), size);
	assert_true(got->id == 7 && got->base == 0x1000 && got->len == 0x20 && got->ordinal == -1);
	assert_string_equal(got->location, "cpu:1");
	assert_int_equal(got->nr_blobs, 2);
	assert_int_equal(got->blobs[1].device_idx, 2);
	assert_memory_equal(got->blobs[0].data, "abc", 3);
	mc_remote_buf_unref(got);
	for (size_t cut = 0; cut < size; cut++)
		assert_int_equal(mc_entry_decode(buf, cut, &got), -EBADMSG);
	/* A blob longer than the entry; a range that overflows; no length. */
	mc_put16(buf + MC_ENTRY_FIXED + 8 + 2, 999);
	assert_int_equal(mc_entry_decode(buf, size, &got), -EBADMSG);
	entry(buf, 7, UINT64_MAX - 10, 0x20);
	assert_int_equal(mc_entry_decode(buf, size, &got), -EBADMSG);
	entry(buf, 7, 0x1000, 0);
	assert_int_equal(mc_entry_decode(buf, size, &got), -EBADMSG);
}

static struct mc_sessions ss;
static struct mc_session_impl *impl;

static int setup(void **state)
{
	pthread_mutex_init(&ss.lock, NULL);
	pthread_cond_init(&ss.changed, NULL);
	ss.refs = 10;
	impl = mc_session_new(&ss, true, 1);
	return impl ? 0 : -1;
}

static int teardown(void **state)
{
	HASH_DEL(ss.by_id, impl);
	mc_session_unref(&impl->s);
	return 0;
}

static int table(uint32_t flags, size_t nr, const uint64_t (*bufs)[3])
{
	uint8_t msg[2048];
	size_t len = MC_TABLE_HEAD;

	mc_put64(msg, 5);
	mc_put32(msg + 8, flags);
	mc_put32(msg + 12, (uint32_t)nr);
	for (size_t i = 0; i < nr; i++)
		len += entry(msg + len, (uint32_t)bufs[i][0], bufs[i][1], bufs[i][2]);
	return mc_table_message(impl, MC_MSG_TABLE, msg, len);
}

static void test_receive(void **state)
{
	static const uint64_t two[][3] = {{1, 0x2000, 0x1000}, {2, 0x1000, 0x1000}};
	static const uint64_t over[][3] = {{3, 0x2fff, 2}};
	static const uint64_t more[][3] = {{3, 0x3000, 2}};
	static const uint64_t bad[][3] = {{1, 0x1000, 0x1000}, {2, 0x1fff, 1}};
	struct mc_snapshot *one, *next;
	uint8_t msg[MC_TABLE_HEAD + 4] = {0};

	assert_int_equal(table(MC_TABLE_FIRST, 2, two), 0);
	mc_table_publish(impl);
	assert_null(mc_session_snapshot(&impl->s)); /* not complete */
	assert_int_equal(table(MC_TABLE_LAST, 0, two), 0);
	mc_table_publish(impl);
	one = mc_session_snapshot(&impl->s);
	assert_int_equal(one->nr, 2);
	assert_int_equal(one->bufs[0]->id, 2);
	assert_ptr_equal(mc_snapshot_find(one, 0x2fff, 1), one->bufs[1]);
	assert_null(mc_snapshot_find(one, 0x1fff, 2)); /* over two buffers */
	assert_null(mc_snapshot_find(one, 0x2000, UINT64_MAX));
	assert_null(mc_snapshot_find(one, 0, 1));
	assert_int_equal(table(0, 1, over), -EBADMSG);
	assert_int_equal(table(0, 1, more), 0);
	mc_put32(msg + 12, 1);
	mc_put32(msg + MC_TABLE_HEAD, 2);
	assert_int_equal(mc_table_message(impl, MC_MSG_REMOVE, msg, sizeof msg), 0);
	assert_int_equal(mc_table_message(impl, MC_MSG_REMOVE, msg, sizeof msg - 1), -EBADMSG);
	mc_table_publish(impl);
	next = mc_session_snapshot(&impl->s);
	assert_int_equal(next->nr, 2);
	assert_ptr_equal(next->bufs[0], one->bufs[1]); /* shared */
	assert_int_equal(table(MC_TABLE_FIRST | MC_TABLE_LAST, 2, bad), -EBADMSG);
	mc_snapshot_unref(one);
	mc_snapshot_unref(next);
}

/* Whatever a peer says, a table holds so many buffers, and no two of one id. */
static void test_bounds(void **state)
{
	static const uint64_t one[][3] = {{11, 0x1000, 0x100}};
	static const uint64_t next[][3] = {{12, 0x2000, 0x100}, {13, 0x3000, 0x100}};
	static const uint64_t again[][3] = {{11, 0x4000, 0x100}};
	static const uint64_t twice[][3] = {{11, 0x1000, 0x100}, {11, 0x2000, 0x100}};
	static const uint64_t many[][3] = {{1, 0x1000, 1}, {2, 0x2000, 1}, {3, 0x3000, 1}, {4, 0x4000, 1}};
	uint8_t msg[MC_TABLE_HEAD + 4] = {0};

	ss.max_buffers = 3;
	assert_int_equal(table(MC_TABLE_FIRST | MC_TABLE_LAST, 1, one), 0);
	assert_int_equal(table(0, 1, again), -EBADMSG);
	assert_int_equal(table(0, 2, next), 0);
	assert_int_equal(table(0, 1, many), -EBADMSG); /* where another one lies */
	assert_int_equal(table(0, 1, many + 3), -E2BIG);
	/* One that has gone makes room, also for its place. */
	mc_put32(msg + 12, 1);
	mc_put32(msg + MC_TABLE_HEAD, 12);
	assert_int_equal(mc_table_message(impl, MC_MSG_REMOVE, msg, sizeof msg), 0);
	assert_int_equal(mc_table_message(impl, MC_MSG_REMOVE, msg, sizeof msg), 0); /* nothing is left to do */
	assert_int_equal(table(0, 1, many + 1), 0);
	assert_int_equal(table(MC_TABLE_FIRST | MC_TABLE_LAST, 4, many), -E2BIG);
	assert_int_equal(table(MC_TABLE_FIRST | MC_TABLE_LAST, 3, many), 0);
	assert_int_equal(impl->in.nr, 3);
	assert_int_equal(table(MC_TABLE_FIRST | MC_TABLE_LAST, 2, twice), -EBADMSG);
	ss.max_buffers = 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_entry),
		cmocka_unit_test(test_receive),
		cmocka_unit_test(test_bounds),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
