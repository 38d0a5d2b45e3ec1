/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two tcp instances in one process, over socketpairs: what is tcp's own beside the
 * conformance suite.  Sizes around every threshold of the code, full queues and full
 * sockets, refused requests between good ones, several streams, a fence in the
 * middle of a payload.  And one end against the test itself, which speaks the wire:
 * answers to what has not been sent, acknowledgements in company, a process that is
 * frozen in a system call.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "cli/check/fake-host.h"
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

/* ---- calls that the linker leads here ------------------------------------------------------ */

/* The boot clock stands, but that the next call that reads from this one ends a second later. */
static int freeze_fd = -1;
static uint64_t frozen_ns;

int __real_clock_gettime(clockid_t id, struct timespec *t);
int __wrap_clock_gettime(clockid_t id, struct timespec *t);
int __wrap_clock_gettime(clockid_t id, struct timespec *t)
{
	if (id != CLOCK_BOOTTIME)
		return __real_clock_gettime(id, t);
	*t = (struct timespec){ .tv_sec = 1 + (time_t)(frozen_ns / MC_SEC) };
	return 0;
}

static void froze(int fd)
{
	if (fd != freeze_fd)
		return;
	frozen_ns += MC_SEC;
	freeze_fd = -1;
}

ssize_t __real_recv(int fd, void *buf, size_t len, int flags);
ssize_t __wrap_recv(int fd, void *buf, size_t len, int flags);
ssize_t __wrap_recv(int fd, void *buf, size_t len, int flags)
{
	ssize_t n = __real_recv(fd, buf, len, flags);

	froze(fd);
	return n;
}

ssize_t __real_recvmsg(int fd, struct msghdr *msg, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *msg, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *msg, int flags)
{
	ssize_t n = __real_recvmsg(fd, msg, flags);

	froze(fd);
	return n;
}

/* ---- pairs --------------------------------------------------------------------------------- */

static void pair_open_in(struct pair *p, unsigned flags, const char *const *words, size_t nr_words)
{
	struct fake_open how = { .device = "lo", .words = words, .nr_words = nr_words };
	struct mc_error err = { 0 };

	p->w = fake_world_new(FAKE_UNIX | flags);
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

static void pair_open(struct pair *p, const char *const *words, size_t nr_words)
{
	pair_open_in(p, 0, words, nr_words);
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

/* ---- lent payloads ------------------------------------------------------------------------- */

static struct tcp *tcp_of(const struct fake_inst *inst)
{
	return inst->priv;
}

static struct tcp_stream *stream_of(const struct fake_inst *inst)
{
	return tcp_of(inst)->peers->streams;
}

/* nr WRITEs of len bytes, at odd places. */
static void writes(struct pair *p, struct many *m, unsigned nr, uint64_t len, uint64_t seed)
{
	m->s = calloc(nr, sizeof *m->s);
	m->nr = nr;
	for (unsigned i = 0; i < nr; i++) {
		uint64_t at = i * (len + 4099) + 1;

		assert_true(at + len <= BUF_LEN);
		fake_buf_fill(p->local, at, len, seed + i);
		fake_buf_fill(p->target, at, len, 0);
		m->s[i] = fake_slice_new(p->a);
		fake_slice_set(m->s[i], p->peer, MC_OP_WRITE, p->local, at, p->remote, at, len, 0);
	}
}

static void writes_free(struct many *m)
{
	for (unsigned i = 0; i < m->nr; i++)
		fake_slice_free(m->s[i]);
	free(m->s);
}

/* With the end of a WRITE its memory is the user's again: what he does with it does not arrive. */
static void test_lent(void **state)
{
	static const uint64_t lens[] = { MC_TCP_LEND, 700001, 2097152 + 5, MC_TCP_LEND_MIN, MC_TCP_LEND - 1 };
	struct pair p = { 0 };

	(void)state;
	pair_open(&p, NULL, 0);
	for (unsigned round = 0; round < 40; round++) {
		uint64_t len = lens[round % MC_ARRAY_SIZE(lens)], before = fake_counter(p.a, "bytes_lent");
		unsigned nr = round % 2 ? 1 : (unsigned)MC_MIN(UINT64_C(20), BUF_LEN / (len + 4100));
		struct many m;

		writes(&p, &m, nr, len, round + 1);
		run_all(&p, &m);
		fake_buf_fill(p.local, 0, BUF_LEN, 999);
		for (int turns = 0; turns < 3; turns++)
			fake_turn(p.b, 0);
		for (unsigned i = 0; i < nr; i++) {
			assert_int_equal(m.s[i]->status, 0);
			assert_int_equal(fake_buf_check(p.target, m.s[i]->s.remote_offset - p.remote->base, len,
							round + 1 + i), -1);
		}
		if (nr * len >= MC_TCP_LEND)
			assert_true(fake_counter(p.a, "bytes_lent") > before);
		else
			assert_true(fake_counter(p.a, "bytes_lent") == before);
		writes_free(&m);
	}
	assert_int_equal(fake_counter(p.b, "bytes_lent"), 0);
	pair_close(&p);
}

/* A system that gives no pipe. */
static void test_not_lent(void **state)
{
	struct pair p = { 0 };
	struct many m;

	(void)state;
	pair_open(&p, NULL, 0);
	tcp_of(p.a)->pipe.refused = true;
	writes(&p, &m, 5, 700001, 1);
	run_all(&p, &m);
	for (unsigned i = 0; i < m.nr; i++)
		assert_int_equal(m.s[i]->status, 0);
	writes_free(&m);
	mix(&p, 20, 400000, 3, 0);
	assert_int_equal(fake_counter(p.a, "bytes_lent"), 0);
	pair_close(&p);
}

/* The socket is full, and a part of a payload lies in the pipe. */
static void lend_half(struct pair *p, struct many *m, uint64_t seed)
{
	p->b->paused = true;
	writes(p, m, 3, 2000003, seed);
	for (unsigned i = 0; i < m->nr; i++)
		assert_int_equal(fake_submit(m->s[i]), 0);
	fake_flush(p->a);
	fake_turn(p->a, 0);
	assert_true(tcp_of(p->a)->pipe.user && tcp_of(p->a)->pipe.user->tx.piped > 0);
}

/* What a broken stream has left in the pipe goes with it: the next stream's bytes are its own. */
static void test_lent_fence(void **state)
{
	static const char *const words[] = { "sndbuf=64KiB", "rcvbuf=64KiB" };
	struct pair p = { 0 };
	struct many m;

	(void)state;
	pair_open(&p, words, 2);
	for (unsigned round = 0; round < 4; round++) {
		lend_half(&p, &m, round + 1);
		p.b->paused = false;
		assert_int_equal(fake_peer_fence(p.peer, BOUND), 0);
		for (unsigned i = 0; i < m.nr; i++)
			assert_int_equal(m.s[i]->status, -ECONNRESET);
		writes_free(&m);
		assert_null(tcp_of(p.a)->pipe.user);
		assert_int_equal(fake_peer_reattach(p.peer), 0);
		assert_int_equal(fake_peer_wait(p.peer, BOUND), 0);
		mix(&p, 20, 400000, round + 5, 0);
	}
	pair_close(&p);
}

/* One stream has filled the pipe and stands; the others copy. */
static void test_lent_streams(void **state)
{
	static const char *const words[] = { "streams=3", "sndbuf=64KiB", "rcvbuf=64KiB" };
	struct pair p = { 0 };
	struct many m;

	(void)state;
	pair_open(&p, words, 3);
	lend_half(&p, &m, 1);
	p.b->paused = false;
	assert_int_equal(fake_run(p.w, all_over, &m, BOUND), 0);
	for (unsigned i = 0; i < m.nr; i++) {
		assert_int_equal(m.s[i]->status, 0);
		assert_int_equal(fake_buf_check(p.target, m.s[i]->s.remote_offset - p.remote->base, 2000003, 1 + i), -1);
	}
	writes_free(&m);
	pair_close(&p);
}

static volatile sig_atomic_t nr_sigpipe;

static void on_sigpipe(int sig)
{
	(void)sig;
	nr_sigpipe++;
}

/* The other end is gone: the thread that drives, the application's, gets no signal of it. */
static void test_lent_gone(void **state)
{
	static const char *const words[] = { "sndbuf=64KiB", "rcvbuf=64KiB" };
	struct sigaction action = { .sa_handler = on_sigpipe }, old;
	struct pair p = { 0 };
	struct many m;
	sigset_t blocked;

	(void)state;
	sigaction(SIGPIPE, &action, &old);
	pair_open(&p, words, 2);
	lend_half(&p, &m, 1);
	shutdown(stream_of(p.b)->watch.fd, SHUT_RD);
	tcp_of(p.a)->pipe.user->tx.blocked = false;
	assert_true(tcp_send(stream_of(p.a), MC_TCP_TURN) == 0);
	assert_int_equal(fake_counter(p.a, "streams_broken"), 1);
	assert_int_equal(nr_sigpipe, 0);
	pthread_sigmask(SIG_BLOCK, NULL, &blocked);
	assert_false(sigismember(&blocked, SIGPIPE));
	p.b->paused = false;
	assert_int_equal(fake_peer_fence(p.peer, BOUND), 0);
	writes_free(&m);
	pair_close(&p);
	sigaction(SIGPIPE, &old, NULL);
}

/* ---- the test at one end ------------------------------------------------------------------- */

static uint32_t tag_of(const struct fake_slice *s)
{
	return ((const struct tcp_op *)s->s.priv)->tag;
}

static void say(int fd, const void *bytes, size_t len)
{
	assert_int_equal(send(fd, bytes, len, MSG_DONTWAIT | MSG_NOSIGNAL), len);
}

static void say_answer(int fd, enum tcp_frame type, uint32_t tag, uint32_t len)
{
	uint8_t msg[MC_TCP_HEAD_SIZE + MC_TCP_ENTRY_MAX];

	tcp_head_put(msg, type, 1, 0);
	if (type == TCP_FRAME_ACK)
		tcp_ack_put(msg + MC_TCP_HEAD_SIZE, tag, TCP_STATUS_OK);
	else
		tcp_data_put(msg + MC_TCP_HEAD_SIZE, tag, TCP_STATUS_OK, len);
	say(fd, msg, MC_TCP_HEAD_SIZE + (type == TCP_FRAME_ACK ? sizeof(struct tcp_wire_ack)
							       : sizeof(struct tcp_wire_data)));
}

enum { EARLY_NONE, EARLY_WRITE, EARLY_READ, EARLY_COUNT };

/* One packet: a small WRITE, which the socket takes; a large one, which it takes a part of; a READ
 * behind it.  The target answers the first, and then one of the others. */
static void early(int which)
{
	static const char *const words[] = { "sndbuf=64KiB", "rcvbuf=64KiB" };
	struct fake_slice *s[3];
	struct pair p = { 0 };
	int fd;

	pair_open(&p, words, 2);
	p.b->paused = true;
	fd = stream_of(p.b)->watch.fd;
	for (int i = 0; i < 3; i++) {
		s[i] = fake_slice_new(p.a);
		fake_slice_set(s[i], p.peer, i == 2 ? MC_OP_READ : MC_OP_WRITE, p.local,
			       (uint64_t)i << 20, p.remote, (uint64_t)i << 20, i == 1 ? 700000 : 1000, 0);
		assert_int_equal(fake_submit(s[i]), 0);
	}
	fake_flush(p.a);
	assert_int_equal(((struct tcp_op *)s[2]->s.priv)->state, TCP_OP_SENT);
	say_answer(fd, TCP_FRAME_ACK, tag_of(s[0]), 0);
	if (which == EARLY_WRITE)
		say_answer(fd, TCP_FRAME_ACK, tag_of(s[1]), 0);
	if (which == EARLY_READ) {
		uint8_t bytes[1000] = { 1 };

		say_answer(fd, TCP_FRAME_DATA, tag_of(s[2]), sizeof bytes);
		say(fd, bytes, sizeof bytes);
	}
	for (int i = 0; i < 5; i++)
		fake_turn(p.a, 0);
	/* What was answered in time has ended; of the rest nothing has. */
	assert_int_equal(s[0]->state, FAKE_DONE);
	assert_int_equal(s[0]->status, 0);
	assert_int_equal(s[1]->state, FAKE_INFLIGHT);
	assert_int_equal(s[2]->state, FAKE_INFLIGHT);
	assert_int_equal(fake_counter(p.a, "streams_broken"), which == EARLY_NONE ? 0 : 1);
	if (which != EARLY_NONE)
		assert_int_equal(p.peer->status, -EPROTO);
	p.b->paused = false;
	assert_int_equal(fake_peer_fence(p.peer, BOUND), 0);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(s[i]->state, FAKE_DONE);
		fake_slice_free(s[i]);
	}
	pair_close(&p);
}

static void test_early_answers(void **state)
{
	(void)state;
	for (int which = 0; which < EARLY_COUNT; which++)
		early(which);
}

/* The head of a frame of WRITEs with nr entries of len bytes, one behind the other. */
static void say_writes(struct pair *p, int fd, uint32_t nr, uint32_t len)
{
	uint8_t msg[MC_TCP_FRAME_MAX];

	tcp_head_put(msg, TCP_FRAME_WRITE, nr, p->b->generation);
	for (uint32_t i = 0; i < nr; i++)
		tcp_request_put(msg + MC_TCP_HEAD_SIZE + i * MC_TCP_ENTRY_MAX,
				p->remote->base + (uint64_t)i * len, len, i);
	say(fd, msg, MC_TCP_HEAD_SIZE + nr * MC_TCP_ENTRY_MAX);
}

/* Payload bytes, given to the target as it takes them. */
static void say_payload(struct pair *p, int fd, uint64_t len)
{
	uint8_t bytes[20000] = { 0 };

	for (uint64_t n; len; len -= n) {
		n = MC_MIN(len, sizeof bytes);
		say(fd, bytes, n);
		fake_turn(p->b, 0);
		fake_turn(p->b, 0);
	}
}

/* The number of WRITEs that one frame acknowledges, from `first` on; 0: no frame has come. */
static uint32_t acks(int fd, uint32_t first)
{
	uint8_t msg[MC_TCP_FRAME_MAX];
	ssize_t n = recv(fd, msg, MC_TCP_HEAD_SIZE, MSG_DONTWAIT);
	uint32_t nr;

	if (n < 0)
		return 0;
	assert_int_equal(n, MC_TCP_HEAD_SIZE);
	assert_int_equal(msg[3], TCP_FRAME_ACK);
	nr = mc_get16(msg + 4);
	assert_int_equal(recv(fd, msg, nr * sizeof(struct tcp_wire_ack), MSG_DONTWAIT),
			 nr * sizeof(struct tcp_wire_ack));
	for (uint32_t i = 0; i < nr; i++) {
		struct tcp_wire_ack a = tcp_ack_get(msg + i * sizeof a);

		assert_int_equal(a.tag, first + i);
		assert_int_equal(a.status, TCP_STATUS_OK);
	}
	return nr;
}

/* Inside a frame acknowledgements wait for company, but not for ever; at its end none does. */
static void test_acks_together(void **state)
{
	struct pair p = { 0 };
	int fd;

	(void)state;
	pair_open_in(&p, FAKE_CLOCK, NULL, 0);
	fd = stream_of(p.a)->watch.fd;
	say_writes(&p, fd, 50, 100);
	say_payload(&p, fd, (MC_TCP_ACKS - 1) * 100);
	assert_int_equal(acks(fd, 0), 0);
	say_payload(&p, fd, 99);
	assert_int_equal(acks(fd, 0), 0);
	say_payload(&p, fd, 1);
	assert_int_equal(acks(fd, 0), MC_TCP_ACKS);
	/* The initiator falls silent for longer than a stream stays hot. */
	say_payload(&p, fd, 500);
	assert_int_equal(acks(fd, 16), 0);
	fake_advance(p.w, 2 * MC_TCP_HOT_NS);
	fake_turn(p.b, 0);
	fake_turn(p.b, 0);
	assert_int_equal(acks(fd, 16), 5);
	/* The worker wants to sleep. */
	say_payload(&p, fd, 300);
	assert_int_equal(acks(fd, 21), 0);
	assert_int_equal(p.b->ops->arm(p.b->priv), -EBUSY);
	fake_turn(p.b, 0);
	assert_int_equal(acks(fd, 21), 3);
	/* The frame ends: many in one call, and one alone. */
	say_payload(&p, fd, 2600);
	assert_int_equal(acks(fd, 24), 26);
	say_writes(&p, fd, 1, 100);
	say_payload(&p, fd, 100);
	assert_int_equal(acks(fd, 0), 1);
	/* Large ones wait for no others. */
	say_writes(&p, fd, 3, 300000);
	say_payload(&p, fd, 300000);
	assert_int_equal(acks(fd, 0), 1);
	say_payload(&p, fd, 600000);
	assert_int_equal(acks(fd, 1), 1);
	assert_int_equal(acks(fd, 2), 1);
	assert_int_equal(acks(fd, 3), 0);
	pair_close(&p);
}

/* A process that is frozen in the call that reads wakes up when its peer may have been told that
 * the WRITE failed: what was read ahead waits for a turn that begins after the thaw. */
static void test_frozen(void **state)
{
	static const uint64_t lens[] = { 100, 1000, 30000 };
	struct pair p = { 0 };

	(void)state;
	pair_open(&p, NULL, 0);
	for (size_t i = 0; i < MC_ARRAY_SIZE(lens); i++) {
		struct fake_slice *s = fake_slice_new(p.a);

		stream_of(p.b)->rx.window = MC_TCP_AHEAD; /* as after small ones */
		fake_buf_fill(p.local, 0, lens[i], i + 1);
		fake_buf_fill(p.target, 0, lens[i], 99);
		fake_slice_set(s, p.peer, MC_OP_WRITE, p.local, 0, p.remote, 0, lens[i], 0);
		assert_int_equal(fake_submit(s), 0);
		fake_flush(p.a);
		freeze_fd = stream_of(p.b)->watch.fd;
		/* A busy machine may bring the bytes a little later. */
		for (int turns = 0; freeze_fd >= 0 && turns < 1000; turns++)
			fake_turn(p.b, 10 * MC_MSEC);
		assert_int_equal(freeze_fd, -1);
		assert_int_equal(fake_buf_check(p.target, 0, lens[i], 99), -1);
		/* Here the host looks at the clock.  This one does not, and goes on. */
		assert_int_equal(fake_run(p.w, all_over, &(struct many){ &s, 1 }, BOUND), 0);
		assert_int_equal(s->status, 0);
		assert_int_equal(fake_buf_check(p.target, 0, lens[i], i + 1), -1);
		fake_slice_free(s);
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
		cmocka_unit_test(test_lent),
		cmocka_unit_test(test_not_lent),
		cmocka_unit_test(test_lent_fence),
		cmocka_unit_test(test_lent_streams),
		cmocka_unit_test(test_lent_gone),
		cmocka_unit_test(test_early_answers),
		cmocka_unit_test(test_acks_together),
		cmocka_unit_test(test_frozen),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
