/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two tcp instances in one process, over socketpairs: what is tcp's own beside the
 * conformance suite.  Sizes around every threshold of the code, full queues and full
 * sockets, refused requests between good ones, several streams, a fence in the
 * middle of a payload.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/fake-host.h"
#include "transports/tcp/tcp.h"

#define BOUND (20 * MC_SEC)
#define BUF_LEN (UINT64_C(8) << 20)

struct pair {
	struct fake_world *w;
	struct fake_plugin plugin;
	struct fake_inst *a, *b;
	struct fake_link *la, *lb;
	struct fake_peer *peer;
	struct fake_buf *local, *target;
	struct fake_remote *remote;
};

static void pair_open(struct pair *p, const char *const *words, size_t nr_words)
{
	struct fake_open how = { .device = "lo", .words = words, .nr_words = nr_words };
	struct mc_error err = { 0 };

	p->w = fake_world_new(FAKE_UNIX);
	assert_int_equal(fake_plugin_init(&mc_plugin_desc, MC_KIND_TRANSPORT, &p->plugin, &err), 0);
	if (fake_open(p->w, &p->plugin, &how, &p->a, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(fake_open(p->w, &p->plugin, &how, &p->b, &err), 0);
	assert_int_equal(fake_buf_new(p->a, BUF_LEN, 3, NULL, MC_ACCESS_LOCAL, &p->local, &err), 0);
	assert_int_equal(fake_buf_new(p->b, BUF_LEN, 5, NULL, MC_ACCESS_ALL, &p->target, &err), 0);
	assert_int_equal(fake_link(p->a, p->b, &p->la, &p->lb), 0);
	assert_int_equal(fake_peer_open(p->a, p->la, &p->peer), 0);
	assert_int_equal(fake_peer_wait(p->peer, BOUND), 0);
	p->remote = fake_remote_find(p->peer, p->target->base);
	assert_non_null(p->remote);
}

static void pair_close(struct pair *p)
{
	assert_true(fake_buf_guards_ok(p->local) && fake_buf_guards_ok(p->target));
	assert_int_equal(fake_peer_fence(p->peer, BOUND), 0);
	fake_peer_close(p->peer);
	assert_int_equal(fake_buf_free(p->local, BOUND), 0);
	assert_int_equal(fake_buf_free(p->target, BOUND), 0);
	assert_int_equal(fake_close(p->a, BOUND), 0);
	assert_int_equal(fake_close(p->b, BOUND), 0);
	assert_int_equal(fake_world_free(p->w), 0);
}

struct many {
	struct fake_slice **s;
	unsigned nr;
};

static bool all_over(void *ctx)
{
	const struct many *m = ctx;

	for (unsigned i = 0; i < m->nr; i++)
		if (m->s[i]->state == FAKE_INFLIGHT)
			return false;
	return true;
}

static uint64_t draw(uint64_t *seed)
{
	*seed = *seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
	return *seed >> 33;
}

/* Submit everything, whatever the queue's depth, and wait for the last. */
static void run_all(struct pair *p, struct many *m)
{
	for (unsigned i = 0; i < m->nr;) {
		int r = fake_submit(m->s[i]);

		if (r == 0) {
			i++;
			continue;
		}
		assert_int_equal(r, -EAGAIN);
		fake_flush(p->a);

		unsigned before = p->peer->nr_writable;
		/* The promise behind -EAGAIN: peer_writable follows. */
		for (unsigned turns = 0; p->peer->nr_writable == before; turns++) {
			assert_true(turns < 1000000);
			fake_turn(p->a, 0);
			fake_turn(p->b, 0);
		}
	}
	fake_flush(p->a);
	assert_int_equal(fake_run(p->w, all_over, m, BOUND), 0);
}

/* nr slices of mixed sizes and both directions, each in a place of its own. */
static void mix(struct pair *p, unsigned nr, uint64_t max, uint64_t seed, uint64_t bad_every)
{
	struct many m = { calloc(nr, sizeof *m.s), nr };
	uint64_t *off = calloc(nr + 1, sizeof *off);

	for (unsigned i = 0; i < nr; i++) {
		uint64_t len = draw(&seed) % 4 ? draw(&seed) % max : draw(&seed) % 1100;
		bool write = draw(&seed) % 2, bad = bad_every && i % bad_every == 0;

		m.s[i] = fake_slice_new(p->a);
		off[i + 1] = off[i] + len;
		assert_true(off[i + 1] <= BUF_LEN);
		fake_slice_set(m.s[i], p->peer, write ? MC_OP_WRITE : MC_OP_READ, p->local, off[i],
			       bad ? NULL : p->remote, bad ? 4096 : off[i], len, 0);
		fake_buf_fill(write ? p->local : p->target, off[i], len, i + 1);
		fake_buf_fill(write ? p->target : p->local, off[i], len, 0);
	}
	run_all(p, &m);
	for (unsigned i = 0; i < nr; i++) {
		const struct fake_slice *s = m.s[i];
		bool bad = bad_every && i % bad_every == 0, write = s->s.opcode == MC_OP_WRITE;

		assert_int_equal(s->status, bad ? -EACCES : 0);
		assert_int_equal(s->scope, bad ? MC_SCOPE_REQUEST : MC_SCOPE_NONE);
		assert_int_equal(s->done_len, bad ? 0 : s->s.len);
		assert_int_equal(fake_buf_check(write ? p->target : p->local, off[i], s->s.len,
						bad ? 0 : i + 1),
				 -1);
		fake_slice_free(m.s[i]);
	}
	free(m.s);
	free(off);
}

static void test_sizes(void **state)
{
	static const uint64_t lens[] = { 0,    1,    511,   512,   513,	  1023,	  1024,	  1025,
					 4095, 4096, 65535, 65536, 65537, 262144, 262145, 1048577,
					 4194304 };
	struct pair p = { 0 };

	(void)state;
	pair_open(&p, NULL, 0);
	for (size_t i = 0; i < MC_ARRAY_SIZE(lens); i++) {
		for (int op = 0; op < MC_OP_COUNT; op++) {
			struct fake_slice *s = fake_slice_new(p.a);
			struct fake_buf *from = op == MC_OP_WRITE ? p.local : p.target;
			struct fake_buf *to = op == MC_OP_WRITE ? p.target : p.local;

			fake_buf_fill(from, 7, lens[i], i + 1);
			fake_buf_fill(to, 0, lens[i] + 14, 99);
			fake_slice_set(s, p.peer, op, p.local, 7, p.remote, 7, lens[i], 0);
			assert_int_equal(fake_transfer(s, BOUND), 0);
			assert_int_equal(fake_buf_check(to, 7, lens[i], i + 1), -1);
			assert_int_equal(fake_buf_check(to, 0, 7, 99), -1);
			assert_int_equal(fake_buf_check(to, 7 + lens[i], 7, 99), -1);
			fake_slice_free(s);
		}
	}
	pair_close(&p);
}

static void test_mix(void **state)
{
	struct pair p = { 0 };

	(void)state;
	pair_open(&p, NULL, 0);
	mix(&p, 3000, 600, 1, 0);
	mix(&p, 1500, 5000, 2, 0);
	mix(&p, 30, 260000, 3, 0);
	pair_close(&p);
}

static void test_refused(void **state)
{
	struct pair p = { 0 };

	(void)state;
	pair_open(&p, NULL, 0);
	mix(&p, 1000, 600, 4, 3);
	mix(&p, 60, 130000, 5, 2);
	mix(&p, 20, 400000, 6, 1);
	mix(&p, 100, 600, 7, 0);
	assert_true(fake_counter(p.b, "refused") > 300);
	assert_int_equal(fake_counter(p.b, "streams_broken"), 0);
	pair_close(&p);
}

static void test_narrow(void **state)
{
	static const char *const words[] = { "max_inflight=5", "sndbuf=64KiB", "rcvbuf=64KiB" };
	struct pair p = { 0 };

	(void)state;
	pair_open(&p, words, 3);
	mix(&p, 20, 400000, 8, 7);
	mix(&p, 300, 20000, 8, 7);
	mix(&p, 2000, 600, 9, 0);
	assert_true(p.peer->nr_writable > 0);
	pair_close(&p);
}

static void test_streams(void **state)
{
	static const char *const words[] = { "streams=7" };
	struct pair p = { 0 };

	(void)state;
	pair_open(&p, words, 1);
	assert_int_equal(p.a->caps.streams, 7);
	mix(&p, 1000, 8000, 10, 0);
	pair_close(&p);
}

static void test_cancel(void **state)
{
	struct pair p = { 0 };
	struct fake_slice *s[3];

	(void)state;
	pair_open(&p, NULL, 0);
	fake_buf_fill(p.target, 0, 4096, 5);
	for (int i = 0; i < 3; i++) {
		s[i] = fake_slice_new(p.a);
		fake_slice_set(s[i], p.peer, MC_OP_WRITE, p.local, 0, p.remote, (uint64_t)i * 1000,
			       1000, 0);
		assert_int_equal(fake_submit(s[i]), 0);
	}
	assert_int_equal(fake_cancel(s[1]), 0);
	fake_flush(p.a);
	assert_int_equal(fake_cancel(s[2]), -EALREADY);
	assert_int_equal(fake_run(p.w, all_over, &(struct many){ s, 3 }, BOUND), 0);
	assert_int_equal(s[0]->status, 0);
	assert_int_equal(s[1]->status, -ECANCELED);
	assert_int_equal(s[2]->status, 0);
	assert_int_equal(fake_buf_check_at(p.target, 1000, 1000, 5, 1000), -1);
	for (int i = 0; i < 3; i++)
		fake_slice_free(s[i]);
	pair_close(&p);
}

/* After a fence nothing of the old epoch moves; a new epoch on the same objects works. */
static void test_fence(void **state)
{
	struct pair p = { 0 };
	struct fake_slice *s[6];

	(void)state;
	pair_open(&p, NULL, 0);
	for (unsigned round = 0; round < 8; round++) {
		fake_buf_fill(p.local, 0, BUF_LEN, 100 + round);
		for (unsigned i = 0; i < 6; i++) {
			s[i] = fake_slice_new(p.a);
			fake_slice_set(s[i], p.peer, i % 2 ? MC_OP_READ : MC_OP_WRITE, p.local,
				       i << 20, p.remote, i << 20, 1 << 20, 0);
			assert_int_equal(fake_submit(s[i]), 0);
		}
		fake_flush(p.a);
		for (unsigned turns = 0; turns < round * 2; turns++) {
			fake_turn(p.b, 0);
			fake_turn(p.a, 0);
		}
		assert_int_equal(fake_peer_fence(p.peer, BOUND), 0);
		for (unsigned i = 0; i < 6; i++) {
			assert_int_equal(s[i]->state, FAKE_DONE);
			assert_true(s[i]->status == 0 || s[i]->status == -ECONNRESET);
			assert_int_equal(s[i]->scope,
					 s[i]->status ? MC_SCOPE_PEER : MC_SCOPE_NONE);
			fake_slice_free(s[i]);
		}
		fake_buf_fill(p.target, 0, BUF_LEN, 7);
		fake_buf_fill(p.local, 0, BUF_LEN, 8);
		for (unsigned turns = 0; turns < 20; turns++) {
			fake_turn(p.b, 0);
			fake_turn(p.a, 0);
		}
		assert_int_equal(fake_buf_check(p.target, 0, BUF_LEN, 7), -1);
		assert_int_equal(fake_buf_check(p.local, 0, BUF_LEN, 8), -1);
		assert_int_equal(fake_peer_reattach(p.peer), 0);
		assert_int_equal(fake_peer_wait(p.peer, BOUND), 0);
		mix(&p, 50, 5000, round + 20, 0);
	}
	pair_close(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_mix),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_narrow),
		cmocka_unit_test(test_streams),
		cmocka_unit_test(test_cancel),
		cmocka_unit_test(test_fence),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
