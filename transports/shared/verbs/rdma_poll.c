/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Completions.  Those of a queue pair come in the order of its requests, so one
 * ends all before it.  The first that fails breaks the connection; what stood behind
 * it is flushed by the device, and ends as it comes.  A queue pair with requests
 * that says nothing for too long is suspect: some devices never tell.
 */
#include "rdma.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <utlist.h>

#define LOOK_NS UINT64_C(250000000) /* how often queue pairs are looked at while requests are in flight */
#define ACK_EVENTS 64u              /* of the completion channel, acknowledged together: it takes a lock */

void rdma_op_end(struct rdma *rdma, struct mc_slice *slice, int status, int scope)
{
	struct rdma_op *op = slice->priv;

	/* An earlier part of the slice knows better what went wrong. */
	if (op->status == 0) {
		op->status = status;
		op->scope = scope;
	}
	op->slice = slice;
	op->next = NULL;
	*rdma->done_tail = op;
	rdma->done_tail = &op->next;
	rdma->nr_flight--;
	rdma->bytes_flight -= slice->len;
	if (op->status == 0) {
		rdma->rate_bytes += slice->len;
		mc_counter_add(slice->opcode == MC_OP_WRITE ? rdma->c_sent : rdma->c_read, slice->len);
	}
}

/* What a failed completion means: the request alone, or the way to the peer. */
static int meaning(enum ibv_wc_status status, int *scope)
{
	*scope = MC_SCOPE_PEER;
	switch (status) {
	case IBV_WC_REM_ACCESS_ERR:
		*scope = MC_SCOPE_REQUEST;
		return -EACCES;
	case IBV_WC_LOC_PROT_ERR:
		*scope = MC_SCOPE_REQUEST;
		return -EFAULT;
	case IBV_WC_LOC_LEN_ERR:
		*scope = MC_SCOPE_REQUEST;
		return -EMSGSIZE;
	default:
		return -ECONNRESET;
	}
}

/* Ends requests from the tail up to pos, which ended with this status; those before it went well. */
static void retire(struct rdma_qp *qp, uint32_t pos, enum ibv_wc_status status)
{
	struct rdma_ep *ep = qp->ep;
	struct rdma *rdma = ep->rdma;

	for (uint32_t end = pos + 1; qp->tail != end; qp->tail++) {
		struct rdma_wr *wr = &qp->ring[qp->tail & (qp->size - 1)];
		bool failed = qp->tail == pos && status != IBV_WC_SUCCESS;
		int scope = MC_SCOPE_NONE, r = failed ? meaning(status, &scope) : 0;

		qp->bytes -= wr->len;
		if (wr->kind == RDMA_WR_PROBE) {
			ep->nr_probes -= !failed && ep->nr_probes;
			continue;
		}
		rdma->cq_free++;
		if (wr->kind == RDMA_WR_SLICE)
			rdma_op_end(rdma, wr->slice, r, scope);
		else if (r < 0 && ((struct rdma_op *)wr->slice->priv)->status == 0)
			*(struct rdma_op *)wr->slice->priv = (struct rdma_op){.status = r, .scope = scope};
	}
}

static void failed(struct rdma_qp *qp, const struct ibv_wc *wc)
{
	struct rdma_ep *ep = qp->ep;
	struct rdma *rdma = ep->rdma;
	char why[160];

	if (!ep->peer || ep->state == RDMA_EP_ERROR || ep->state == RDMA_EP_DYING || wc->status == IBV_WC_WR_FLUSH_ERR)
		return;
	snprintf(why, sizeof why, "%s (status %d, vendor 0x%x)", ibv_wc_status_str(wc->status), (int)wc->status,
		 wc->vendor_err);
	if (ep->state == RDMA_EP_PROBING) {
		rdma_peer_probed(ep, -EHOSTUNREACH, why);
		return;
	}
	rdma_peer_broke(ep->peer, -ECONNRESET, why);
	rdma_port_check(rdma);
}

/* The last request of an endpoint has ended. */
static void now_idle(struct rdma_ep *ep)
{
	if (!ep->peer)
		return;
	if (ep->state == RDMA_EP_PROBING && !ep->nr_probes)
		rdma_peer_probed(ep, 0, NULL);
	else if (ep->state == RDMA_EP_DRAINING)
		rdma_ep_drain(ep);
	else if (ep->state == RDMA_EP_ERROR && rdma_ep_drained(ep))
		rdma_peer_drained(ep);
}

static void completed(struct rdma *rdma, const struct ibv_wc *wc, uint64_t now)
{
	struct rdma_qp *qp = rdma_qp_of(rdma, wc->wr_id);
	struct rdma_ep *ep;

	if (!qp)
		return; /* of a queue pair that has gone */
	ep = qp->ep;
	qp->alive_ns = now;
	if (wc->wr_id & RDMA_MARKER) {
		/* One that a SEND of the peer has used up says nothing; then the timer helps. */
		ep->nr_markers -= ep->nr_markers > 0 && wc->status == IBV_WC_WR_FLUSH_ERR;
	} else if ((uint32_t)wc->wr_id - qp->tail < qp->posted - qp->tail) {
		retire(qp, (uint32_t)wc->wr_id, wc->status);
		if (MC_UNLIKELY(wc->status != IBV_WC_SUCCESS))
			failed(qp, wc);
	}
	if (MC_UNLIKELY(ep->state != RDMA_EP_UP) && rdma_ep_idle(ep))
		now_idle(ep);
}

static int poll_cq(struct rdma *rdma)
{
	struct ibv_wc wc[RDMA_POLL];
	uint64_t now = 0;
	int n, sum = 0;

	if (MC_UNLIKELY(!rdma->cq))
		return 0; /* the device has gone */
	do {
		n = ibv_poll_cq(rdma->cq, RDMA_POLL, wc);
		if (n > 0 && !now)
			now = rdma->host->now_ns(rdma->host);
		for (int i = 0; i < n; i++)
			completed(rdma, &wc[i], now);
		sum += MC_MAX(n, 0);
	} while (n == (int)RDMA_POLL && sum < 8 * (int)RDMA_POLL);
	if (sum)
		rdma_show_cq(rdma);
	return sum;
}

int rdma_progress(void *inst)
{
	struct rdma *rdma = inst;
	int n = poll_cq(rdma);

	if (n || rdma->news || rdma->done)
		rdma_settle(rdma);
	return n;
}

/* ---- sleeping ------------------------------------------------------------------------------------------ */

static void on_cq_event(struct mc_watch *w, uint32_t revents)
{
	struct rdma *rdma = w->user;
	struct ibv_cq *cq;
	void *ctx;

	(void)revents;
	while (ibv_get_cq_event(rdma->channel, &cq, &ctx) == 0) {
		rdma->armed = false;
		mc_counter_add(rdma->c_events, 1);
		if (++rdma->nr_cq_events >= ACK_EVENTS) {
			ibv_ack_cq_events(rdma->cq, rdma->nr_cq_events);
			rdma->nr_cq_events = 0;
		}
	}
}

/* A completion that came between the last poll and the request for an event makes none. */
int rdma_arm(void *inst)
{
	struct rdma *rdma = inst;

	if (rdma->news || rdma->done)
		return -EBUSY;
	if (rdma->armed || !rdma->cq)
		return 0;
	if (ibv_req_notify_cq(rdma->cq, 0))
		return -EBUSY;
	rdma->armed = true;
	if (!poll_cq(rdma))
		return 0;
	rdma_settle(rdma);
	return -EBUSY;
}

/* ---- suspicion ------------------------------------------------------------------------------------------- */

static void learn_rate(struct rdma *rdma, uint64_t now)
{
	uint64_t span = now - rdma->rate_since, rate;

	if (span < LOOK_NS / 2)
		return;
	rate = (uint64_t)((double)rdma->rate_bytes * 1e9 / (double)span);
	if (rate)
		rdma->rate = rdma->rate ? (rdma->rate + rate) / 2 : rate;
	rdma->rate_since = now;
	rdma->rate_bytes = 0;
}

static uint64_t patience(const struct rdma *rdma)
{
	double expected = rdma->rate ? (double)rdma->bytes_flight * 1e9 / (double)rdma->rate : 0;
	double bound = (double)rdma->peer_timeout_ns;

	return MC_MAX(rdma->set.suspect_ns, (uint64_t)MC_MIN(4 * expected, bound));
}

static bool is_silent(const struct rdma_ep *ep, uint64_t now, uint64_t limit)
{
	for (uint32_t i = 0; i < ep->nr_qps; i++) {
		const struct rdma_qp *qp = &ep->qps[i];

		if (qp->tail != qp->posted && now - qp->alive_ns > limit)
			return true;
	}
	return false;
}

/* Completions that wait in the queue, because this process did not run, are signs of life too. */
static void look(struct mc_timer *t, uint64_t now_ns)
{
	struct rdma *rdma = t->user;
	struct rdma_ep *ep, *next;
	bool probing = false;
	uint64_t limit;
	char why[96];

	poll_cq(rdma);
	now_ns = rdma->host->now_ns(rdma->host); /* not before the last completion */
	learn_rate(rdma, now_ns);
	limit = patience(rdma);
	DL_FOREACH_SAFE(rdma->eps, ep, next) {
		if (ep->peer && ep->state == RDMA_EP_PROBING) {
			probing = true;
			if (is_silent(ep, now_ns, rdma->set.suspect_ns))
				rdma_peer_probed(ep, -EHOSTUNREACH, "no completion");
			continue;
		}
		if (!ep->peer || ep->peer->dead || (ep->state != RDMA_EP_UP && ep->state != RDMA_EP_DRAINING) ||
		    !is_silent(ep, now_ns, limit))
			continue;
		mc_counter_add(rdma->c_suspect, 1);
		snprintf(why, sizeof why, "no completion for %llu ms", (unsigned long long)(limit / 1000000));
		rdma_peer_broke(ep->peer, -ETIMEDOUT, why);
		rdma_port_check(rdma);
	}
	if (rdma->nr_flight || probing)
		rdma->host->timer_set(rdma->host, &rdma->suspect, now_ns + LOOK_NS);
	rdma_settle(rdma);
}

void rdma_suspect_arm(struct rdma *rdma)
{
	uint64_t now = rdma->host->now_ns(rdma->host);

	rdma->rate_since = now;
	rdma->rate_bytes = 0;
	rdma->host->timer_set(rdma->host, &rdma->suspect, now + LOOK_NS);
}

/* ---- the completion queue ---------------------------------------------------------------------------------- */

/* Room for the requests, for one entry per queue pair (its probe or its marker), and for late
 * completions of queue pairs that were destroyed.  Where the device has not so many entries, fewer
 * endpoints are held. */
static uint32_t divide(struct rdma *rdma)
{
	struct rdma_settings *set = &rdma->set;
	uint64_t most = (uint64_t)MC_MAX(rdma->attr.max_cqe, 8), each = 2 * (uint64_t)set->qps_per_peer, held;

	set->cq_depth = (uint32_t)MC_MIN(set->cq_depth, MC_MAX(most / 2, 4u));
	held = most - MC_MIN(set->cq_depth + set->cq_depth / 8, most - 1);
	set->max_endpoints = (uint32_t)MC_MIN(set->max_endpoints, MC_MAX(held / each, UINT64_C(1)));
	return (uint32_t)MC_MIN(set->cq_depth + set->cq_depth / 8 + set->max_endpoints * each, most);
}

int rdma_cq_open(struct rdma *rdma, struct mc_error *err)
{
	const struct mc_host *h = rdma->host;
	uint32_t size = divide(rdma);
	int r;

	rdma->cq_free = rdma->set.cq_depth;
	rdma->suspect = (struct mc_timer){.size = sizeof rdma->suspect, .fire = look, .user = rdma};
	rdma->cq_watch = (struct mc_watch){.size = sizeof rdma->cq_watch, .fd = -1};
	rdma->channel = ibv_create_comp_channel(rdma->ctx);
	if (!rdma->channel)
		return mc_fail(err, -errno, "device '%s': no completion channel: %s", rdma->device, strerror(errno));
	rdma->cq = ibv_create_cq(rdma->ctx, (int)size, NULL, rdma->channel, 0);
	if (!rdma->cq)
		return mc_fail(err, -errno, "device '%s': no completion queue of %u entries: %s; lower option max_cqe or max_endpoints",
			       rdma->device, size, strerror(errno));
	if (fcntl(rdma->channel->fd, F_SETFL, fcntl(rdma->channel->fd, F_GETFL) | O_NONBLOCK) < 0)
		return mc_fail(err, -errno, "device '%s': completion channel: %s", rdma->device, strerror(errno));
	rdma->cq_watch = (struct mc_watch){.size = sizeof rdma->cq_watch, .fd = rdma->channel->fd, .events = POLLIN,
					   .ready = on_cq_event, .user = rdma};
	r = h->watch(h, &rdma->cq_watch);
	if (r < 0) {
		rdma->cq_watch.fd = -1;
		return mc_fail(err, r, "device '%s': completion channel: %s", rdma->device, strerror(-r));
	}
	return 0;
}

/* Also of what rdma_cq_open left half made. */
void rdma_cq_close(struct rdma *rdma)
{
	rdma_cq_unwatch(rdma);
	rdma_cq_free(rdma);
}

void rdma_cq_unwatch(struct rdma *rdma)
{
	const struct mc_host *h = rdma->host;

	h->timer_set(h, &rdma->suspect, 0);
	if (rdma->cq_watch.fd >= 0 && rdma->channel)
		h->unwatch(h, &rdma->cq_watch);
	if (rdma->cq && rdma->nr_cq_events)
		ibv_ack_cq_events(rdma->cq, rdma->nr_cq_events);
	rdma->nr_cq_events = 0;
	rdma->cq_watch.fd = -1;
	rdma->gone_cq = rdma->cq;
	rdma->gone_channel = rdma->channel;
	rdma->cq = NULL;
	rdma->channel = NULL;
}

void rdma_cq_free(struct rdma *rdma)
{
	if (rdma->gone_cq)
		ibv_destroy_cq(rdma->gone_cq);
	if (rdma->gone_channel)
		ibv_destroy_comp_channel(rdma->gone_channel);
	rdma->gone_cq = NULL;
	rdma->gone_channel = NULL;
}
