/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rdma-plugin: who gets what of a device that has little, and gives it back: places of endpoints, queue
 * pairs that are slow to go, one scratch for all peers, a peer that says what is not so.
 */
#include "core/util/bytes.h"
#include "rdma-plugin.h"

#include <errno.h>
#include <string.h>

/* ---- messages; docs/wire.md has the layout ---------------------------------------------------------- */

#define HELLO 1
#define ACCEPT 2
#define PARK 5
#define HELLO_QPS 16u
#define HELLO_LEN (52 + 8 * HELLO_QPS + 20)

static void put_head(unsigned char *p, uint8_t msg, uint32_t round)
{
	memset(p, 0, HELLO_LEN);
	p[0] = 1;
	p[1] = msg;
	mc_put32(p + 4, round);
}

static size_t put_hello(unsigned char *p, uint32_t round)
{
	unsigned char *gid = p + 52 + 8 * HELLO_QPS;

	put_head(p, HELLO, round);
	p[23] = HELLO_QPS;
	mc_put32(p + 24, 4096);
	mc_put32(p + 28, 16);
	mc_put32(p + 32, 4096);
	mc_put16(p + 48, 1);
	for (uint32_t i = 0; i < HELLO_QPS; i++)
		mc_put32(p + 52 + 8 * i, 0x1000 + i);
	memcpy(gid, "\0\0\0\0\0\0\0\0\0\0\xff\xff\x7f\x4d\0\1", 16);
	gid[16] = 2; /* RoCE v2 */
	return HELLO_LEN;
}

/* A target's answers are looked at on their way out. */
static struct {
	int (*send)(const struct mc_host *host, void *peer, const void *msg, size_t len);
	uint32_t round;         /* of the last ACCEPT */
	unsigned char *scratch; /* that it named */
} heard;

static int hear(const struct mc_host *host, void *peer, const void *msg, size_t len)
{
	const unsigned char *p = msg;

	if (len >= 52 && p[1] == ACCEPT) {
		heard.round = mc_get32(p + 4);
		heard.scratch = (unsigned char *)(uintptr_t)mc_get64(p + 40);
		heard.scratch[0] = 0x5a;
	}
	return heard.send(host, peer, msg, len);
}

static void listen_to(struct fake_inst *inst)
{
	heard.send = inst->host.peer_send;
	inst->host.peer_send = hear;
}

/* ---- nets of more than two -------------------------------------------------------------------------- */

#define PEERS 8u

static void connect_all(struct net *n, struct fake_peer **peers, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++) {
		net_connect(n);
		peers[i] = n->peer;
	}
}

/* The last one is net_close's. */
static void close_others(const struct net *n, struct fake_peer **peers, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++)
		if (peers[i] != n->peer)
			fake_peer_close(peers[i]);
}

static void works(struct net *n)
{
	net_bufs(n, 1 << 20);
	net_import(n);
	net_works(n, 3);
}

/* ---- places of endpoints ---------------------------------------------------------------------------- */

/* Connections that one opened and does not use keep nobody out who opens one to it: two that open each
 * other would wait for ever. */
static void case_circle(void)
{
	struct fake_peer *peers[PEERS];
	struct net n, o;

	net_open(&n, "mock0", "mock1", "qps_per_peer=16 max_cqe=128 max_endpoints=7");
	connect_all(&n, peers, 7);
	o = n;
	o.a = inst_open(n.w, "mock2", "qps_per_peer=2");
	o.b = n.a;
	CHECK(fake_link(o.a, o.b, &o.la, &o.lb) == 0, "no link");
	net_connect(&o);
	CHECK(fake_counter(n.a, "endpoints_active") == 7 && fake_counter(n.a, "endpoints_parked") == 0,
	      "one that comes costs one that we opened");
	works(&o);
	fake_peer_close(o.peer);
	CHECK(fake_buf_free(o.target, BOUND) == 0 && fake_buf_free(o.local, BOUND) == 0, "a buffer stays held");
	CHECK(fake_close(o.a, BOUND) == 0, "the third does not close");
	close_others(&n, peers, 7);
	net_close(&n);
}

/* One newcomer costs one place, however long that takes to be free. */
static void case_cascade(void)
{
	struct fake_peer *peers[PEERS];
	uint64_t parked;
	struct net n;

	net_open(&n, "mock0", "mock1", "qps_per_peer=4 max_endpoints=7");
	connect_all(&n, peers, 7);
	fault("mock0", "slow_destroy", 100);
	fault("mock1", "slow_destroy", 100);
	connect_all(&n, peers + 7, 1);
	parked = fake_counter(n.a, "endpoints_parked") + fake_counter(n.b, "endpoints_parked");
	CHECK(parked > 0, "eight are connected where there is room for seven");
	CHECK(parked <= 2, "one newcomer parks %llu idle connections", (unsigned long long)parked);
	fault("mock0", "slow_destroy", 0);
	fault("mock1", "slow_destroy", 0);
	works(&n);
	close_others(&n, peers, 8);
	net_close(&n);
}

/* Who was parked has a bound for coming back, as for its opening. */
static void case_wake(void)
{
	struct fake_peer *first, *second;
	struct fake_slice *s;
	struct net n;
	int r;

	peer_timeout_ns = 2 * MC_SEC;
	net_open(&n, "mock0", "mock1", "max_endpoints=1");
	net_connect(&n);
	first = n.peer;
	net_bufs(&n, 1 << 20);
	net_import(&n);
	net_connect(&n);
	second = n.peer;
	CHECK(fake_counter(n.a, "endpoints_parked") == 1, "the first one is not parked");
	n.peer = first;
	n.b->paused = true;
	s = fake_slice_new(n.a);
	fake_slice_set(s, first, MC_OP_WRITE, n.local, 0, n.remote, 0, 4096, 0);
	r = fake_submit(s);
	CHECK(r == -EAGAIN, "a slice of one that is parked is answered %d", r);
	fake_slice_free(s);
	net_breaks(&n);
	n.b->paused = false;
	peer_timeout_ns = 5 * MC_SEC;
	net_reconnect(&n);
	net_works(&n, 1);
	fake_peer_close(second);
	net_close(&n);
}

/* ---- queue pairs ------------------------------------------------------------------------------------ */

/* More connections than the device has queue pairs for, and those that are parked go slowly. */
static void case_few(void)
{
	struct fake_peer *peers[PEERS];
	struct net n;

	net_open(&n, "few", "mock1", "qps_per_peer=2");
	fault("few", "slow_destroy", 100);
	connect_all(&n, peers, PEERS);
	CHECK(fake_counter(n.a, "endpoints_parked") > 0, "the device has more queue pairs than it says");
	fault("few", "slow_destroy", 0);
	works(&n);
	close_others(&n, peers, PEERS);
	net_close(&n);
}

static int64_t most; /* queue pairs that mock1 had at a time */

static bool heard_round(void *ctx)
{
	most = MC_MAX(most, figure("mock1", "qps"));
	return heard.round == *(const uint32_t *)ctx;
}

static bool none_left(void *ctx)
{
	most = MC_MAX(most, figure("mock1", "qps"));
	return figure("mock1", "qps") <= *(const int64_t *)ctx;
}

/* HELLOs that all come at once, each for 16 queue pairs: the last one is answered, and none of the
 * others makes more than max_endpoints allows. */
static void case_flood(void)
{
	unsigned char msg[HELLO_LEN];
	struct fake_peer *other;
	uint32_t last = 299;
	int64_t few = 0;
	struct net n;

	net_open(&n, "mock0", "mock1", "max_endpoints=2 qps_per_peer=16");
	net_connect(&n);
	other = fake_peer_other(n.peer);
	listen_to(n.b);
	fault("mock1", "slow_destroy", 10);
	for (uint32_t i = 100; i <= last; i++)
		n.b->ops->peer_msg(n.b->priv, other->area, msg, put_hello(msg, i));
	CHECK(fake_run(n.w, heard_round, &last, BOUND) == 0, "the last HELLO is not answered");
	/* The initiator never asked for that. */
	CHECK(fake_run(n.w, none_left, &few, BOUND) == 0, "queue pairs are left");
	CHECK(most <= 2 * 16, "%lld queue pairs for a cap of 2 endpoints", (long long)most);
	fault("mock1", "slow_destroy", 0);
	CHECK(fake_peer_fence(n.peer, BOUND) == 0, "the fence does not end");
	fake_peer_close(n.peer);
	net_connect(&n);
	works(&n);
	net_close(&n);
}

/* The end that wants fewer decides. */
static void case_asym(void)
{
	for (int i = 0; i < 2; i++) {
		struct net n = { .w = fake_world_new(0) };

		n.a = inst_open(n.w, "mock0", i ? "qps_per_peer=1" : "qps_per_peer=16");
		n.b = inst_open(n.w, "mock1", i ? "qps_per_peer=16" : "qps_per_peer=1");
		CHECK(fake_link(n.a, n.b, &n.la, &n.lb) == 0, "no link");
		net_connect(&n);
		CHECK(figure("mock1", "qps") == 1, "the target has %lld queue pairs", (long long)figure("mock1", "qps"));
		works(&n);
		net_close(&n);
	}
}

/* ---- what is shown ---------------------------------------------------------------------------------- */

static bool shows_use(void *ctx)
{
	return fake_counter(ctx, "cq_used") > 0;
}

static bool shows_nothing(void *ctx)
{
	static const char *const gauges[] = { "cq_used", "qps", "endpoints_active", "endpoints_passive" };

	for (size_t i = 0; i < MC_ARRAY_SIZE(gauges); i++)
		if (fake_counter(ctx, gauges[i]))
			return false;
	return true;
}

static void case_gauge(void)
{
	struct fake_peer *peers[4];
	struct burst b;
	struct net n;

	net_open(&n, "mock0", "mock1", "qps_per_peer=4");
	connect_all(&n, peers, 4);
	net_bufs(&n, 1 << 20);
	net_import(&n);
	CHECK(fake_counter(n.a, "qps") == 16 && fake_counter(n.b, "qps") == 16, "16 queue pairs are not shown");
	CHECK(fake_counter(n.a, "endpoints_active") == 4 && fake_counter(n.b, "endpoints_passive") == 4,
	      "4 endpoints are not shown");
	fault("mock0", "silent", 1);
	burst_submit(&n, &b, MC_OP_WRITE, 4096);
	CHECK(fake_run_on(n.a, shows_use, n.a, BOUND) == 0, "requests in flight are not shown");
	fault("mock0", "silent", 0);
	burst_wait(&n, &b);
	burst_ended(&b, 0, 0);
	close_others(&n, peers, 4);
	fake_peer_close(n.peer);
	CHECK(fake_run_on(n.a, shows_nothing, n.a, BOUND) == 0 && fake_run_on(n.b, shows_nothing, n.b, BOUND) == 0,
	      "a gauge shows what is no more: %llu and %llu places, %llu and %llu queue pairs",
	      (unsigned long long)fake_counter(n.a, "cq_used"), (unsigned long long)fake_counter(n.b, "cq_used"),
	      (unsigned long long)fake_counter(n.a, "qps"), (unsigned long long)fake_counter(n.b, "qps"));
	net_close(&n);
}

/* ---- peers that are not to be trusted --------------------------------------------------------------- */

/* A flush reads a byte of one peer's memory; the probe of another peer's connection must not carry it. */
static void case_leak(void)
{
	struct fake_slice *s;
	struct net n, o;

	net_open(&n, "mock0", "mock1", "relaxed_ordering=on");
	net_connect(&n);
	net_bufs(&n, 1 << 20);
	net_import(&n);
	memset(n.target->base, 0xa5, 4096);
	s = fake_slice_new(n.a);
	fake_slice_set(s, n.peer, MC_OP_READ, n.local, 0, n.remote, 0, 0, MC_SLICE_FLUSH);
	CHECK(fake_transfer(s, BOUND) == 0, "a flush fails");
	fake_slice_free(s);
	o = n;
	o.b = inst_open(n.w, "mock2", "relaxed_ordering=on");
	CHECK(fake_link(o.a, o.b, &o.la, &o.lb) == 0, "no link");
	listen_to(o.b);
	net_connect(&o);
	CHECK(heard.scratch, "the target has not answered");
	CHECK(heard.scratch[0] != 0x5a, "no probe came");
	CHECK(heard.scratch[0] != 0xa5, "a byte of one peer's memory went to another peer");
	fake_peer_close(o.peer);
	CHECK(fake_close(o.b, BOUND) == 0, "the other target does not close");
	net_close(&n);
}

static bool target_fenced(void *ctx)
{
	const struct fake_peer *other = ctx;

	return other->fenced_epoch == other->epoch;
}

/* PARK of one that goes on all the same: once the target has answered its fence nothing arrives, although
 * its queue pairs are not destroyed yet. */
static void case_liar(void)
{
	unsigned char msg[HELLO_LEN];
	struct fake_peer *other;
	struct net n;
	int r;

	net_open(&n, "mock0", "mock1", "timeout=8 ack_retries=1");
	net_connect(&n);
	net_bufs(&n, 1 << 20);
	net_import(&n);
	other = fake_peer_other(n.peer);
	fault("mock1", "slow_destroy", 2000);
	put_head(msg, PARK, 1);
	n.b->ops->peer_msg(n.b->priv, other->area, msg, 52);
	other->fence_asked = other->epoch;
	n.b->ops->fence(n.b->priv, other->area, other->epoch);
	CHECK(fake_run_on(n.b, target_fenced, other, BOUND) == 0, "the target's fence does not end");
	CHECK(figure("mock1", "qps") > 0, "the queue pairs are gone already");
	fake_buf_fill(n.local, 0, 4096, 77);
	fake_buf_fill(n.target, 0, 4096, 1);
	r = net_transfer(&n, MC_OP_WRITE, 0, 4096);
	CHECK(r < 0, "a write to a target that is fenced ends with %d", r);
	CHECK(fake_buf_check(n.target, 0, 4096, 1) < 0, "bytes arrive after the target has answered its fence");
	fault("mock1", "slow_destroy", 0);
	net_reconnect(&n);
	net_works(&n, 1);
	net_close(&n);
}

const struct rdma_case limit_cases[] = {
	{ "circle", case_circle },
	{ "cascade", case_cascade },
	{ "wake", case_wake },
	{ "few", case_few },
	{ "flood", case_flood },
	{ "asym", case_asym },
	{ "gauge", case_gauge },
	{ "leak", case_leak },
	{ "liar", case_liar },
	{ NULL, NULL },
};
