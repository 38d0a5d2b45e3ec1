/* SPDX-License-Identifier: Apache-2.0 */
/* rdma-plugin: ways between ports, many peers on few endpoints, hostile initiators. */
#include "core/util/bytes.h"
#include "rdma-plugin.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- ways ------------------------------------------------------------------------------------------------ */

static void connects(const char *a, const char *b, const char *words)
{
	struct net n;

	net_open(&n, a, b, words);
	net_connect(&n);
	net_bufs(&n, 1 << 20);
	net_import(&n);
	net_works(&n, 1);
	net_close(&n);
}

/* Large packets are lost on the way, or the best GID reaches nobody: the next way is tried. */
static void case_ways(void)
{
	connects("mock0", "narrow", "timeout=8");
	connects("narrow", "mock0", "timeout=8");
	connects("mock0", "lost", "timeout=8 ack_retries=1");
	connects("lost", "mock0", "timeout=8 ack_retries=1");
	connects("mock0", "v1only", "");
	connects("ib0", "ib1", "");
	connects("mock0", "mock0", "");
}

static bool has_answer(void *ctx)
{
	return ((struct fake_peer *)ctx)->status <= 0;
}

static void refuses(const char *a, const char *b, const char *words, const char *says, const char *too)
{
	struct net n;

	net_open(&n, a, b, words);
	CHECK(fake_peer_open(n.a, n.la, &n.peer) == 0, "peer_open fails");
	CHECK(fake_run_on(n.a, has_answer, n.peer, BOUND) == 0, "no answer");
	CHECK(n.peer->status < 0, "%s connects to %s", a, b);
	CHECK(strstr(n.peer->why, says) && strstr(n.peer->why, too), "%s to %s: no '%s' and '%s' in: %s", a, b, says,
	      too, n.peer->why);
	CHECK(fake_peer_fence(n.peer, BOUND) == 0, "the fence does not end");
	net_close(&n);
	CHECK(figure(a, "qps") == 0 && figure(b, "qps") == 0, "queue pairs are left");
}

static void case_no_way(void)
{
	refuses("mock0", "far", "timeout=8 ack_retries=1", "127.77.0.1", "127.77.2.1");
	refuses("v2only", "v1only", "", "RoCE v1", "RoCE v2");
	refuses("mock0", "ib0", "", "InfiniBand", "Ethernet");
}

/* ---- many on few --------------------------------------------------------------------------------------------- */

#define PEERS 200u
#define ROUNDS 3u
#define PIECE 4096u

struct many {
	struct net n;
	struct fake_peer *peers[PEERS];
	struct fake_slice *slices[PEERS];
	unsigned writable[PEERS]; /* peer_writable calls when submit answered -EAGAIN */
	unsigned rounds[PEERS];
	bool starved[PEERS];
	unsigned nr_done;
};

static bool all_ready(void *ctx)
{
	struct many *m = ctx;

	for (unsigned i = 0; i < PEERS; i++) {
		const struct fake_remote *r = fake_remote_find(m->peers[i], m->n.target->base);

		CHECK(m->peers[i]->status == 1 || m->peers[i]->ready, "peer %u: %d %s", i, m->peers[i]->status,
		      m->peers[i]->why);
		if (!m->peers[i]->ready || !r || !r->area || r->status)
			return false;
	}
	return true;
}

static void submit_one(struct many *m, unsigned i)
{
	struct fake_slice *s = m->slices[i];
	int r;

	fake_slice_set(s, m->peers[i], MC_OP_WRITE, m->n.local, i * PIECE,
		       fake_remote_find(m->peers[i], m->n.target->base), i * PIECE, PIECE, 0);
	m->writable[i] = m->peers[i]->nr_writable;
	r = fake_submit(s);
	CHECK(r == 0 || r == -EAGAIN, "peer %u: submit answers %d: %s", i, r, m->peers[i]->why);
	m->starved[i] = r == -EAGAIN;
}

/* Slices of all peers at once; who was told -EAGAIN comes again when peer_writable says so. */
static bool all_move(void *ctx)
{
	struct many *m = ctx;

	for (unsigned i = 0; i < PEERS; i++) {
		struct fake_slice *s = m->slices[i];

		CHECK(m->peers[i]->ready, "peer %u broke: %s", i, m->peers[i]->why);
		if (s->state == FAKE_INFLIGHT || m->rounds[i] == ROUNDS ||
		    (m->starved[i] && m->writable[i] == m->peers[i]->nr_writable))
			continue;
		if (s->state == FAKE_DONE && !m->starved[i]) {
			CHECK(s->status == 0, "peer %u: a slice ends with %d", i, s->status);
			if (++m->rounds[i] == ROUNDS) {
				m->nr_done++;
				continue;
			}
		}
		submit_one(m, i);
	}
	fake_flush(m->n.a);
	return m->nr_done == PEERS;
}

static void many_peers(const char *words, unsigned cap)
{
	struct many *m = calloc(1, sizeof *m);

	/* Each helper's step is a thread here; under a sanitizer thousands of them take their time. */
	peer_timeout_ns = 30 * MC_SEC;
	net_open(&m->n, "mock0", "mock1", words);
	net_bufs(&m->n, PEERS * PIECE);
	fake_buf_fill(m->n.local, 0, PEERS * PIECE, 7);
	for (unsigned i = 0; i < PEERS; i++) {
		CHECK(fake_peer_open(m->n.a, m->n.la, &m->peers[i]) == 0, "peer_open %u", i);
		m->slices[i] = fake_slice_new(m->n.a);
		m->starved[i] = true;
		m->writable[i] = UINT32_MAX;
	}
	CHECK(fake_run_on(m->n.a, all_ready, m, 2 * BOUND) == 0, "not all peers get ready");
	CHECK(figure("mock0", "qps") <= 2 * cap, "%lld queue pairs of %u", (long long)figure("mock0", "qps"), cap);
	CHECK(fake_run_on(m->n.a, all_move, m, 3 * BOUND) == 0, "%u of %u peers have moved all", m->nr_done, PEERS);
	CHECK(fake_buf_check(m->n.target, 0, PEERS * PIECE, 7) < 0, "wrong bytes");
	CHECK(fake_counter(m->n.a, "endpoints_parked") > 0 || fake_counter(m->n.b, "endpoints_parked") > 0,
	      "nobody was parked");
	for (unsigned i = 0; i < PEERS; i++) {
		fake_slice_free(m->slices[i]);
		fake_peer_close(m->peers[i]);
	}
	net_close(&m->n);
	CHECK(figure("mock0", "qps") == 0 && figure("mock1", "qps") == 0, "queue pairs are left");
	free(m);
}

static void case_many_peers(void)
{
	many_peers("max_endpoints=16 qps_per_peer=1", 16);
}

/* ---- hostile initiators ---------------------------------------------------------------------------------------- */

/* Addresses beside the buffer, by the keys of one of its regions: refused at the target, and nothing is
 * touched here or there. */
static void beside(struct net *n, enum mc_opcode op, uint64_t remote_offset)
{
	struct fake_slice *s = fake_slice_new(n->a);
	int r;

	fake_slice_set(s, n->peer, op, n->local, 0, n->remote, 0, 4096, 0);
	s->s.remote_offset = remote_offset;
	r = fake_transfer(s, BOUND);
	CHECK(r < 0, "an address beside the buffer is served");
	if (s->state != FAKE_INFLIGHT)
		fake_slice_free(s);
	net_reconnect(n);
}

static void hostile(const char *words)
{
	struct net n, other;

	net_open(&n, "mock0", "mock1", words);
	net_connect(&n);
	net_bufs(&n, 4 * 65536);
	net_import(&n);
	/* Another initiator of the same target, which must not notice. */
	other = n;
	other.a = inst_open(n.w, "mock2", words);
	CHECK(fake_link(other.a, n.b, &other.la, &other.lb) == 0, "no link");
	net_connect(&other);
	CHECK(fake_buf_new(other.a, 4 * 65536, 0, NULL, MC_ACCESS_LOCAL, &other.local, NULL) == 0, "no buffer");
	net_import(&other);
	fake_buf_fill(n.target, 0, n.target->len, 5);
	for (int i = 0; i < 2; i++) {
		enum mc_opcode op = i ? MC_OP_READ : MC_OP_WRITE;

		beside(&n, op, (uintptr_t)n.target->base - 4096);
		beside(&n, op, (uintptr_t)n.target->base + n.target->len);
		beside(&n, op, (uintptr_t)n.target->base + n.target->len - 1);
		beside(&n, op, UINT64_MAX - 100);
		beside(&n, op, 0);
	}
	CHECK(fake_buf_check(n.target, 0, n.target->len, 5) < 0, "the target's buffer has changed");
	CHECK(fake_buf_guards_ok(n.target) && fake_buf_guards_ok(n.local), "memory beside a buffer has changed");
	net_works(&other, 6);
	fake_peer_close(other.peer);
	CHECK(fake_buf_free(other.local, BOUND) == 0 && fake_close(other.a, BOUND) == 0, "the other does not close");
	net_close(&n);
}

static void case_hostile(void)
{
	hostile("");
}

static void case_hostile_chunks(void)
{
	hostile("max_mr_size=65536");
}

/* A message that asks for new queue pairs; docs/wire.md has the layout. */
static size_t put_hello(unsigned char *p, uint32_t round)
{
	memset(p, 0, 80);
	p[0] = 1;
	p[1] = 1; /* HELLO */
	mc_put32(p + 4, round);
	p[23] = 1;
	mc_put32(p + 24, 4096);
	mc_put32(p + 28, 16);
	mc_put32(p + 32, 4096);
	mc_put16(p + 48, 1);
	mc_put32(p + 52, 0x1000 + round);
	memcpy(p + 60, "\0\0\0\0\0\0\0\0\0\0\xff\xff\x7f\x4d\0\1", 16);
	p[76] = 2; /* RoCE v2 */
	return 80;
}

static bool destroyed(void *ctx)
{
	return figure("mock1", "qps") <= *(int64_t *)ctx;
}

/* One that asks again and again gets no more of the device than its cap, and keeps nobody from it. */
static void case_storm(void)
{
	unsigned char msg[80];
	int64_t most = 0, end = 1;
	struct fake_peer *other;
	struct net n;

	net_open(&n, "mock0", "mock1", "max_endpoints=4 qps_per_peer=1");
	net_connect(&n);
	other = fake_peer_other(n.peer);
	fault("mock1", "slow_destroy", 5);
	for (uint32_t i = 0; i < 500; i++) {
		n.b->ops->peer_msg(n.b->priv, other->area, msg, put_hello(msg, i + 100));
		for (int j = 0; j < 3; j++)
			fake_turn(n.b, 0);
		most = MC_MAX(most, figure("mock1", "qps"));
	}
	CHECK(most <= 2 * 4 + 2, "%lld queue pairs for a cap of 4", (long long)most);
	fault("mock1", "slow_destroy", 0);
	CHECK(fake_run_on(n.b, destroyed, &end, BOUND) == 0, "queue pairs are left");
	CHECK(fake_peer_fence(n.peer, BOUND) == 0, "the fence does not end");
	fake_peer_close(n.peer);
	net_connect(&n);
	net_bufs(&n, 65536);
	net_import(&n);
	net_works(&n, 1);
	net_close(&n);
}

const struct rdma_case peer_cases[] = {
	{ "ways", case_ways },
	{ "no-way", case_no_way },
	{ "many-peers", case_many_peers },
	{ "hostile", case_hostile },
	{ "hostile-chunks", case_hostile_chunks },
	{ "storm", case_storm },
	{ NULL, NULL },
};
