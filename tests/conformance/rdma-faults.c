/* SPDX-License-Identifier: Apache-2.0 */
/* rdma-plugin: devices and ways that fail under traffic. */
#include "rdma-plugin.h"

#include <errno.h>
#include <string.h>

static void open_pair(struct net *n, const char *a, const char *b, const char *words)
{
	net_open(n, a, b, words);
	net_connect(n);
	net_bufs(n, 1 << 20);
	net_import(n);
	net_works(n, 1);
}

/* After a fence nothing of the old connection arrives. */
static void stays_dead(struct net *n)
{
	fake_buf_fill(n->target, 0, n->target->len, 99);
	fake_run(n->w, NULL, NULL, BOUND);
	CHECK(fake_buf_check(n->target, 0, n->target->len, 99) < 0, "bytes arrive after the fence");
}

/* ---- the way --------------------------------------------------------------------------------------------- */

/* No acknowledgement: the device gives up, and what was in flight ends. */
static void case_cut(void)
{
	struct burst b;
	struct net n;

	open_pair(&n, "mock0", "mock1", "timeout=8");
	fault("mock1", "cut", 1);
	burst_submit(&n, &b, MC_OP_WRITE, 4096);
	CHECK(b.nr > 1, "nothing is in flight");
	net_breaks(&n);
	CHECK(strstr(n.peer->why, "retry"), "%s", n.peer->why);
	CHECK(fake_peer_fence(n.peer, BOUND) == 0, "the fence does not end");
	burst_ended(&b, -ECONNRESET, MC_SCOPE_PEER);
	fault("mock1", "cut", 0);
	stays_dead(&n);
	fake_peer_close(n.peer);
	net_connect(&n);
	net_import(&n);
	net_works(&n, 2);
	net_close(&n);
}

/* The device says nothing at all, not even what it flushes. */
static void silent(const char *words)
{
	struct burst b;
	struct net n;

	open_pair(&n, "mock0", "mock1", words);
	fault("mock0", "silent", 1);
	fault("mock0", "no_flush", 1);
	fault("mock1", "no_flush", 1);
	burst_submit(&n, &b, MC_OP_READ, 4096);
	net_breaks(&n);
	CHECK(n.peer->status == -ETIMEDOUT && strstr(n.peer->why, "no completion"), "%d %s", n.peer->status,
	      n.peer->why);
	CHECK(fake_counter(n.a, "endpoints_suspect") == 1, "it is not counted");
	CHECK(fake_peer_fence(n.peer, BOUND) == 0, "the fence does not end");
	burst_ended(&b, -ECONNRESET, MC_SCOPE_PEER);
	fault("mock0", "silent", 0);
	stays_dead(&n);
	fault("mock0", "no_flush", 0);
	fault("mock1", "no_flush", 0);
	fake_peer_close(n.peer);
	net_connect(&n);
	net_import(&n);
	net_works(&n, 2);
	net_close(&n);
}

static void case_silent(void)
{
	silent("suspect=200ms");
}

static void case_silent_many(void)
{
	silent("suspect=200ms qps_per_peer=4 max_wr=8");
}

/* Slow is not silent: as long as anything completes nobody is suspected. */
static void case_slow(void)
{
	struct burst b;
	struct net n;

	open_pair(&n, "mock0", "mock1", "suspect=300ms qps_per_peer=1");
	for (int i = 0; i < 3; i++) {
		fault("mock0", "delay", 100000);
		burst_submit(&n, &b, MC_OP_WRITE, 4096);
		burst_wait(&n, &b);
		burst_ended(&b, 0, 0);
	}
	fault("mock0", "delay", 0);
	CHECK(fake_counter(n.a, "endpoints_suspect") == 0, "a slow one is suspected");
	net_works(&n, 2);
	net_close(&n);
}

/* ---- the device ------------------------------------------------------------------------------------------- */

static bool saw_event(void *ctx)
{
	struct fake_inst *inst = ctx;

	return inst->nr_events > 0;
}

static void wait_event(struct fake_inst *inst, int event)
{
	CHECK(fake_run_on(inst, saw_event, inst, BOUND) == 0, "no event");
	CHECK(inst->last_event == event, "event %d instead of %d: %s", inst->last_event, event, inst->event_why);
	CHECK(inst->event_why[0], "an event without a reason");
	inst->nr_events = 0;
}

static void case_port(void)
{
	struct net n;

	open_pair(&n, "mock0", "mock1", "timeout=8");
	n.a->nr_events = n.b->nr_events = 0;
	for (int i = 0; i < 3; i++) {
		fault("mock0", "down", 1);
		wait_event(n.a, MC_DEVICE_DOWN);
		CHECK(net_transfer(&n, MC_OP_WRITE, 0, 4096) < 0, "a write goes through a port that is down");
		fault("mock0", "down", 0);
		wait_event(n.a, MC_DEVICE_UP);
		net_reconnect(&n);
		net_works(&n, (uint64_t)i + 10);
	}
	CHECK(n.b->nr_events == 0, "the other device has an event");
	net_close(&n);
}

/* The device's events are lane 0's; the host hears of them from every lane, whose peers are its own. */
static void case_port_lanes(void)
{
	struct fake_open how = { .device = "mock0", .nr_lanes = 2, .peer_timeout_ns = peer_timeout_ns };
	struct fake_world *w = fake_world_new(0);
	struct fake_inst *lanes[2];
	struct mc_error err = { 0 };

	for (how.lane = 0; how.lane < 2; how.lane++) {
		CHECK(fake_open(w, &plugin, &how, &lanes[how.lane], &err) == 0, "open: %s", err.text);
		how.lane0 = lanes[0];
	}
	for (int i = 0; i < 6; i++) {
		fault("mock0", "down", i % 2 == 0);
		for (int k = 0; k < 2; k++)
			wait_event(lanes[k], i % 2 == 0 ? MC_DEVICE_DOWN : MC_DEVICE_UP);
	}
	for (int k = 2; k-- > 0;)
		CHECK(fake_close(lanes[k], BOUND) == 0, "lane %d does not close", k);
	CHECK(fake_world_free(w) == 0, "breaches, see above");
}

/* As after `ip link delete`: no completion, and every call answers ENODEV. */
static bool is_let_go(void *ctx)
{
	return !figure("mock0", "mrs") && !figure("mock0", "cqs") && !figure("mock0", "qps");
}

/* What it holds it gives back while the engine goes on: the kernel waits for that. */
static void case_gone(void)
{
	struct burst b;
	struct net n;

	open_pair(&n, "mock0", "mock1", "suspect=200ms");
	n.a->nr_events = 0;
	fault("mock0", "gone", 1);
	burst_submit(&n, &b, MC_OP_WRITE, 4096);
	wait_event(n.a, MC_DEVICE_GONE);
	CHECK(fake_peer_fence(n.peer, BOUND) == 0, "the fence does not end");
	burst_ended(&b, -ECONNRESET, MC_SCOPE_PEER);
	fake_peer_close(n.peer);
	n.peer = NULL;
	fake_run_on(n.a, is_let_go, NULL, BOUND);
	CHECK(is_let_go(NULL), "%lld memory regions, %lld completion queues, %lld queue pairs are held on a device that "
	      "has gone", (long long)figure("mock0", "mrs"), (long long)figure("mock0", "cqs"),
	      (long long)figure("mock0", "qps"));
	net_close(&n);
}

static void case_fatal(void)
{
	struct burst b;
	struct net n;

	open_pair(&n, "mock0", "mock1", "");
	n.a->nr_events = 0;
	fault("mock0", "delay", 50000);
	burst_submit(&n, &b, MC_OP_WRITE, 4096);
	fault("mock0", "fatal", 1);
	wait_event(n.a, MC_DEVICE_GONE);
	burst_wait(&n, &b);
	burst_ended(&b, -ECONNRESET, MC_SCOPE_PEER);
	CHECK(fake_peer_fence(n.peer, BOUND) == 0, "the fence does not end");
	net_close(&n);
}

/* The target's addresses change: the old connection ends, the next one uses the new ones. */
static void case_gid_change(void)
{
	struct net n;

	open_pair(&n, "mock0", "mock1", "timeout=8");
	fault("mock1", "gid_change", 32);
	CHECK(net_transfer(&n, MC_OP_WRITE, 0, 4096) < 0, "a write reaches an address that is no more");
	net_reconnect(&n);
	net_works(&n, 2);
	net_close(&n);
}

/* Destroying takes seconds; meanwhile the worker goes on with others. */
static void case_slow_destroy(void)
{
	struct fake_peer *first;
	int64_t before;
	struct net n;

	open_pair(&n, "mock0", "mock1", "");
	first = n.peer;
	net_connect(&n);
	net_import(&n);
	before = figure("mock0", "qps");
	fault("mock0", "slow_destroy", 5000);
	fake_peer_close(first);
	for (uint64_t i = 0; i < 10; i++)
		net_works(&n, i + 20);
	CHECK(figure("mock0", "qps") == before, "the worker waited until a queue pair was destroyed");
	fault("mock0", "slow_destroy", 0);
	net_close(&n);
	CHECK(figure("mock0", "qps") == 0 && figure("mock1", "qps") == 0, "queue pairs are left");
}

const struct rdma_case fault_cases[] = {
	{ "cut", case_cut },
	{ "silent", case_silent },
	{ "silent-many", case_silent_many },
	{ "slow", case_slow },
	{ "port", case_port },
	{ "port-lanes", case_port_lanes },
	{ "gone", case_gone },
	{ "fatal", case_fatal },
	{ "gid-change", case_gid_change },
	{ "slow-destroy", case_slow_destroy },
	{ NULL, NULL },
};
