/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who keeps his endpoint when there are more peers than places.  Each half (connections
 * that we opened, that peers opened) holds at most max_endpoints, those included that are
 * not destroyed yet.  The halves are counted apart, so that two engines which open each
 * other cannot wait in a circle.  Who finds no room waits, and the sieve looks for one that
 * was not used since its hand last came by: an own one is parked once it is idle, a peer's
 * is asked to be.
 */
#include "rdma.h"

#include <errno.h>
#include <utlist.h>

#define LINGER_NS UINT64_C(5000000)   /* what has just connected is parked no sooner, */
#define FRESH_NS UINT64_C(50000000)   /* or than this if it has not carried what it was made for */
#define ANSWER_NS UINT64_C(250000000) /* a target that says nothing for so long lets others go first */
#define LOOK_NS UINT64_C(2000000)     /* how often the sieve looks again while somebody waits */

/* Active: take no more slices; parked when those in flight have ended. */
void rdma_ep_drain(struct rdma_ep *ep)
{
	if (ep->state == RDMA_EP_UP)
		ep->state = RDMA_EP_DRAINING;
	if (ep->state == RDMA_EP_DRAINING && rdma_ep_idle(ep))
		rdma_peer_park(ep->peer);
}

/* From when on it may lose its place. */
static uint64_t stays_until(const struct rdma_ep *ep)
{
	return ep->since_ns + (ep->fresh ? FRESH_NS : LINGER_NS);
}

void rdma_ep_leave(struct rdma_ep *ep)
{
	struct rdma *rdma = ep->rdma;

	if (rdma->host->now_ns(rdma->host) >= stays_until(ep))
		rdma_ep_drain(ep);
	else
		rdma->host->timer_set(rdma->host, &ep->timer, stays_until(ep));
}

static bool may_go(const struct rdma_ep *ep, uint64_t now)
{
	if (ep->state == RDMA_EP_ASKED)
		return now >= ep->since_ns + ANSWER_NS;
	return ep->state == RDMA_EP_UP && !ep->leaving && (ep->passive || now >= stays_until(ep));
}

/* One that may go, not used since the hand last came by; busy ones only if no idle one is left. */
static struct rdma_ep *sieve_victim(struct rdma *rdma, bool passive, uint64_t now)
{
	struct rdma_half *half = &rdma->half[passive];
	struct rdma_ep *ep = half->hand ? half->hand : rdma->eps, *busy = NULL;

	for (uint32_t n = 0; ep && n < 2 * (rdma->half[0].nr_eps + rdma->half[1].nr_eps); n++) {
		struct rdma_ep *next = ep->next ? ep->next : rdma->eps;

		if (ep->passive == passive && may_go(ep, now)) {
			if (ep->visited) {
				ep->visited = false;
			} else if (passive || rdma_ep_idle(ep)) {
				half->hand = next;
				return ep;
			} else if (!busy) {
				busy = ep;
			}
		}
		ep = next;
	}
	return busy;
}

static uint32_t nr_leaving(struct rdma *rdma, bool passive)
{
	uint64_t now = rdma->host->now_ns(rdma->host);
	uint32_t n = rdma->half[passive].nr_dying;
	struct rdma_ep *ep, *next;

	DL_FOREACH_SAFE(rdma->eps, ep, next) {
		if (ep->passive != passive || !(ep->leaving || ep->state == RDMA_EP_DRAINING))
			continue;
		/* Half of the bound is longer than anybody needs to finish what he has in flight. */
		if (passive && ep->peer && now - ep->asked_ns > rdma->peer_timeout_ns / 2)
			rdma_peer_broke(ep->peer, -ETIMEDOUT, "it does not let go of its endpoint, which others wait for");
		else
			n++;
	}
	return n;
}

static void evict(struct rdma_ep *ep)
{
	mc_counter_add(ep->rdma->c_parked, ep->state == RDMA_EP_UP);
	if (ep->passive)
		rdma_peer_dismiss(ep->peer);
	else if (ep->state == RDMA_EP_ASKED)
		rdma_peer_requeue(ep->peer);
	else
		rdma_ep_drain(ep);
}

/* Who may go changes by time too, so it looks again until nobody waits. */
void rdma_sieve(struct rdma *rdma, bool passive)
{
	struct rdma_half *half = &rdma->half[passive];
	uint64_t now = rdma->host->now_ns(rdma->host);
	uint32_t waiting = 0, leaving;
	struct rdma_peer *peer;

	while ((peer = half->waiters) && !rdma->stopped &&
	       (peer->not_before_ns <= now || !rdma_ep_some_dying(rdma))) {
		LL_DELETE2(half->waiters, peer, next_waiter);
		peer->waiting = false;
		if (!rdma_peer_start(peer))
			break;
	}
	LL_COUNT2(half->waiters, peer, waiting, next_waiter);
	if (!waiting || rdma->stopped)
		return;
	for (leaving = nr_leaving(rdma, passive); leaving < waiting; leaving++) {
		struct rdma_ep *ep = sieve_victim(rdma, passive, now);

		if (!ep)
			break;
		evict(ep);
	}
	if (!rdma->sieve.deadline_ns)
		rdma->host->timer_set(rdma->host, &rdma->sieve, now + LOOK_NS);
}

static void look_again(struct mc_timer *t, uint64_t now_ns)
{
	struct rdma *rdma = t->user;

	(void)now_ns;
	rdma->news = true;
	rdma_settle(rdma);
}

void rdma_eps_open(struct rdma *rdma)
{
	rdma->done_tail = &rdma->done;
	rdma->sieve = (struct mc_timer){.size = sizeof rdma->sieve, .fire = look_again, .user = rdma};
}
