/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the host is told: ends of slices and news of peers gather while queues are looked
 * at, and are told here, from a clean state.
 */
#include "rdma.h"

#include <string.h>
#include <utlist.h>

void rdma_peer_report(struct rdma_peer *peer, int status, const char *why)
{
	peer->news = true;
	peer->rdma->news = true;
	peer->report = status;
	if (why != peer->why)
		snprintf(peer->why, sizeof peer->why, "%s", why ? why : "");
}

void rdma_peer_broke(struct rdma_peer *peer, int status, const char *why)
{
	if (peer->dead)
		return;
	peer->dead = true;
	peer->up = false;
	mc_counter_add(peer->rdma->c_broken, 1);
	rdma_peer_report(peer, status, why);
}

static void tell(struct rdma_peer *peer)
{
	struct rdma *rdma = peer->rdma;
	struct mc_transport_caps caps = rdma->caps;

	if (peer->relaxed)
		caps.visibility = MC_VISIBLE_AFTER_FLUSH;
	if (peer->far_chunk)
		caps.max_slice = MC_MIN(caps.max_slice, rdma_slice_of(rdma, MC_MIN(peer->far_chunk, rdma->set.max_mr_size)));
	caps.pref_slice = MC_MIN(caps.pref_slice, caps.max_slice);
	peer->news = false;
	if (peer->report == 0) {
		peer->reported = true;
		rdma->host->peer_ready(rdma->host, peer, 0, &caps, NULL);
	} else {
		rdma->host->peer_ready(rdma->host, peer, peer->report, NULL, peer->why);
	}
}

static void tell_fenced(struct rdma_peer *peer)
{
	peer->fenced = false;
	peer->rdma->host->fenced(peer->rdma->host, peer, peer->fence_epoch);
}

/* Room enough that the host does not come back for every single place. */
static bool has_room(const struct rdma_peer *peer)
{
	const struct rdma_ep *ep = peer->ep;

	if (!peer->up || !ep || ep->state != RDMA_EP_UP || peer->rdma->cq_free < peer->rdma->set.cq_depth / 4)
		return false;
	for (uint32_t i = 0; i < ep->nr_qps; i++)
		if (ep->qps[i].head - ep->qps[i].tail <= ep->qps[i].depth / 2)
			return true;
	return false;
}

static void tell_writable(struct rdma *rdma)
{
	struct rdma_peer *peer;

	DL_FOREACH(rdma->peers, peer)
		if (peer->starved && has_room(peer)) {
			peer->starved = false;
			rdma->nr_starved--;
			rdma->host->peer_writable(rdma->host, peer);
		}
}

static void end_ops(struct rdma *rdma)
{
	while (rdma->done) {
		struct rdma_op *op = rdma->done;
		struct mc_slice *slice = op->slice;
		int status = op->status, scope = op->scope;

		rdma->done = op->next;
		if (!rdma->done)
			rdma->done_tail = &rdma->done;
		rdma->host->complete(rdma->host, slice, status, scope, status ? 0 : slice->len);
	}
}

/* Not from inside submit: the host says what it hears only between its own calls. */
void rdma_settle(struct rdma *rdma)
{
	struct rdma_peer *peer, *next;

	if (rdma->settling)
		return;
	rdma->settling = true;
	/* Why a connection broke comes before what it took along. */
	if (rdma->news)
		DL_FOREACH_SAFE(rdma->peers, peer, next)
			if (peer->news && peer->report < 0)
				tell(peer);
	end_ops(rdma);
	while (rdma->news) {
		rdma->news = false;
		for (int half = 0; half < 2; half++)
			if (rdma->half[half].waiters)
				rdma_sieve(rdma, half);
		DL_FOREACH_SAFE(rdma->peers, peer, next) {
			if (peer->news)
				tell(peer);
			if (peer->fenced)
				tell_fenced(peer);
		}
		end_ops(rdma);
	}
	if (rdma->nr_starved)
		tell_writable(rdma);
	rdma_show_cq(rdma);
	rdma->settling = false;
}
