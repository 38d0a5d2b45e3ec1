/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A network in virtual time for p2p_sim: hosts with an uplink and a downlink each, joined by a switch that is
 * never the limit; flows share links max-min fairly, as TCP does over a while; a clock and its events.
 */
#ifndef MC_BENCH_P2P_NET_H
#define MC_BENCH_P2P_NET_H

#include <stdbool.h>
#include <stdint.h>

#define NET_SEC 1000000000ull

struct net_event {
	uint64_t at_ns;
	uint64_t order;         /* of equal times the first that was posted */
	int kind;               /* the caller's, >= 0; NET_FLOW is ours */
	uint32_t from, to;      /* what the caller likes */
	uint64_t what;
	uint32_t candidates[16], nr;
};

struct net;

/* rate: bytes/s of each link; delay_ns: one way, of an idle network; queue_ns: what a link that is full adds. */
struct net *net_new(uint32_t nr_hosts, double rate, uint64_t delay_ns, uint64_t queue_ns);
void net_free(struct net *net);
uint64_t net_now(const struct net *net);

void net_post(struct net *net, const struct net_event *event);
/* After what a message from one host to another takes now. */
void net_send(struct net *net, struct net_event event);
/* bytes from one host to another; then the event is due. */
void net_flow(struct net *net, uint32_t from, uint32_t to, double bytes, const struct net_event *then);
/* The next thing that happens; false: nothing will. */
bool net_step(struct net *net, struct net_event *ret_event);

/* Bytes that have left a host. */
double net_sent(const struct net *net, uint32_t host);

#endif
