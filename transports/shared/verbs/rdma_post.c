/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Slices to work requests.  submit gathers them in the ring of a queue pair, linked;
 * flush hands each queue pair its chain by one call, the last of it signalled.  A
 * place of the ring is free again when a completion at or behind it has come.
 */
#include "rdma.h"

#include <errno.h>
#include <utlist.h>

#define TURN_BYTES (UINT64_C(128) << 10) /* small requests stay on one queue pair: fewer doorbells */

static bool fits(const struct rdma_qp *qp, uint32_t nr)
{
	return qp->head - qp->tail + nr <= qp->depth;
}

/* The one with the least work, but not another one for every little slice. */
static struct rdma_qp *choose(struct rdma_ep *ep, uint32_t nr)
{
	struct rdma_qp *turn = &ep->qps[ep->turn], *best = NULL;

	for (uint32_t i = 0; i < ep->nr_used; i++) {
		struct rdma_qp *qp = &ep->qps[i];

		if (fits(qp, nr) && (!best || qp->bytes < best->bytes))
			best = qp;
	}
	if (!best || (fits(turn, nr) && turn->bytes < best->bytes + TURN_BYTES))
		return best ? turn : NULL;
	ep->turn = (uint32_t)(best - ep->qps);
	return best;
}

/* What a work request says besides its place. */
struct piece {
	enum ibv_wr_opcode opcode;
	uint64_t local, remote;
	uint32_t len, lkey, rkey, flags;
};

static void gather(struct rdma_qp *qp, const struct piece *p, enum rdma_wr_kind kind, struct mc_slice *slice)
{
	uint32_t pos = qp->head++, at = pos & (qp->size - 1);
	struct ibv_send_wr *wr = &qp->wrs[at];
	struct rdma *rdma = qp->ep->rdma;

	qp->ring[at] = (struct rdma_wr){.slice = slice, .len = p->len, .kind = (uint8_t)kind};
	qp->bytes += p->len;
	qp->sges[at] = (struct ibv_sge){.addr = p->local, .length = p->len, .lkey = p->lkey};
	wr->wr_id = rdma_wr_id(qp, pos);
	wr->next = NULL;
	wr->num_sge = p->len != 0;
	wr->opcode = p->opcode;
	wr->send_flags = p->flags;
	wr->wr.rdma.remote_addr = p->remote;
	wr->wr.rdma.rkey = p->rkey;
	if (pos != qp->posted)
		qp->wrs[(pos - 1) & (qp->size - 1)].next = wr;
	if (++qp->unsignalled >= RDMA_SIGNAL || qp->unsignalled >= qp->depth / 2) {
		wr->send_flags |= IBV_SEND_SIGNALED;
		qp->unsignalled = 0;
	}
	if (kind != RDMA_WR_PROBE)
		rdma->cq_free--;
	if (!qp->dirty) {
		qp->dirty = true;
		LL_PREPEND2(rdma->dirty, qp, next_dirty);
	}
}

/* How far one work request reaches from `off`: not over the end of a memory region at either end. */
static uint64_t reach(const struct mc_slice *s, uint64_t off)
{
	const struct rdma_region *region = s->region;
	const struct rdma_remote *remote = s->remote;
	uint64_t n = s->len - off;

	if (region->nr > 1)
		n = MC_MIN(n, rdma_chunk_left(region->base, region->len, region->chunk, (uintptr_t)s->local + off));
	if (remote->nr > 1)
		n = MC_MIN(n, rdma_chunk_left(remote->base, remote->len, remote->chunk, s->remote_offset + off));
	return n;
}

static uint32_t count_parts(const struct mc_slice *s)
{
	uint32_t nr = 0;

	for (uint64_t off = 0; off < s->len; nr++)
		off += reach(s, off);
	return nr;
}

static void gather_slice(struct rdma_qp *qp, struct mc_slice *s)
{
	const struct rdma *rdma = qp->ep->rdma;
	bool write = s->opcode == MC_OP_WRITE;
	struct piece p = {.opcode = write ? IBV_WR_RDMA_WRITE : IBV_WR_RDMA_READ};

	for (uint64_t off = 0, n; off < s->len; off += n) {
		n = reach(s, off);
		p.local = (uintptr_t)s->local + off;
		p.remote = s->remote_offset + off;
		p.len = (uint32_t)n;
		p.lkey = rdma_lkey(s->region, p.local);
		p.rkey = rdma_rkey(s->remote, p.remote);
		p.flags = write && n <= rdma->set.max_inline ? IBV_SEND_INLINE : 0;
		gather(qp, &p, off + n == s->len ? RDMA_WR_SLICE : RDMA_WR_PART, s);
	}
}

/* A READ pushes the writes before it to where the target's CPU sees them (P3), if they were allowed
 * to linger. */
static void gather_flush(struct rdma_qp *qp, struct mc_slice *s)
{
	const struct rdma *rdma = qp->ep->rdma;
	const struct rdma_remote *remote = s->remote;
	struct piece p = {
		.opcode = IBV_WR_RDMA_READ, .local = (uintptr_t)rdma->scratch + RDMA_SCRATCH_FLUSH,
		.lkey = rdma->scratch_mr->lkey, .remote = remote->base, .rkey = remote->rkeys[0], .len = remote->relaxed ? 1 : 0,
	};

	gather(qp, &p, RDMA_WR_SLICE, s);
}

static int starve(struct rdma *rdma, struct rdma_peer *peer)
{
	if (!peer->starved)
		rdma->nr_starved++;
	peer->starved = true;
	if (!peer->ep)
		rdma_peer_wake(peer);
	return -EAGAIN;
}

int rdma_submit(void *inst, struct mc_slice *s)
{
	struct rdma *rdma = inst;
	struct rdma_peer *peer = s->peer;
	struct rdma_ep *ep = peer->ep;
	struct rdma_op *op = s->priv;
	const struct rdma_remote *remote = s->remote;
	struct rdma_qp *qp;
	uint32_t nr;

	if (MC_UNLIKELY(rdma->stopped))
		return -ESHUTDOWN;
	if (MC_UNLIKELY(peer->dead || !peer->reported || peer->passive))
		return -ENOTCONN;
	if (MC_UNLIKELY(s->len > rdma->max_slice))
		return -EMSGSIZE;
	if (MC_UNLIKELY(!s->remote))
		return -EACCES;
	if (MC_UNLIKELY(!ep || ep->state != RDMA_EP_UP))
		return starve(rdma, peer);
	if (MC_UNLIKELY(!s->len && !(s->flags & MC_SLICE_FLUSH)))
		return MC_DONE;
	/* One region is the device's to check; the keys of several are looked up here. */
	if (MC_UNLIKELY(remote->nr > 1 && !mc_range_inside(remote->base, remote->len, s->remote_offset, s->len)))
		return -EACCES;
	nr = s->flags & MC_SLICE_FLUSH ? 1 : count_parts(s);
	if (MC_UNLIKELY(nr > ep->qps[0].depth))
		return -EMSGSIZE;
	qp = rdma->cq_free >= nr ? choose(ep, nr) : NULL;
	if (!qp)
		return starve(rdma, peer);
	ep->visited = true;
	ep->fresh = false;
	op->status = 0;
	rdma->nr_flight++;
	rdma->bytes_flight += s->len;
	if (MC_UNLIKELY(s->flags & MC_SLICE_FLUSH))
		gather_flush(qp, s);
	else
		gather_slice(qp, s);
	return 0;
}

void rdma_post_probe(struct rdma_ep *ep)
{
	struct rdma *rdma = ep->rdma;
	const struct rdma_peer *peer = ep->peer;
	struct piece p = {
		.opcode = IBV_WR_RDMA_WRITE, .local = (uintptr_t)rdma->scratch, .len = ep->made.mtu,
		.lkey = rdma->scratch_mr->lkey, .remote = peer->scratch_addr, .rkey = peer->scratch_rkey,
	};

	ep->nr_probes = ep->nr_used;
	for (uint32_t i = 0; i < ep->nr_used; i++)
		gather(&ep->qps[i], &p, RDMA_WR_PROBE, NULL);
	rdma_flush(rdma);
	if (!rdma->suspect.deadline_ns)
		rdma_suspect_arm(rdma);
}

/* ---- to the device ------------------------------------------------------------------------------------ */

static void undirty(struct rdma_qp *qp)
{
	if (qp->dirty)
		LL_DELETE2(qp->ep->rdma->dirty, qp, next_dirty);
	qp->dirty = false;
}

static void give_up(struct rdma_qp *qp, uint32_t from)
{
	struct rdma *rdma = qp->ep->rdma;

	for (uint32_t pos = from; pos != qp->head; pos++) {
		struct rdma_wr *wr = &qp->ring[pos & (qp->size - 1)];

		qp->bytes -= wr->len;
		if (wr->kind != RDMA_WR_PROBE)
			rdma->cq_free++;
		if (wr->kind == RDMA_WR_SLICE)
			rdma_op_end(rdma, wr->slice, -ECONNRESET, MC_SCOPE_PEER);
	}
	qp->head = from;
}

void rdma_post_drop(struct rdma_qp *qp)
{
	undirty(qp);
	give_up(qp, qp->posted);
	qp->unsignalled = 0;
}

void rdma_qp_abandon(struct rdma_qp *qp)
{
	undirty(qp);
	give_up(qp, qp->tail);
	qp->posted = qp->head;
}

static void post(struct rdma_qp *qp)
{
	struct rdma *rdma = qp->ep->rdma;
	struct ibv_send_wr *bad = NULL;
	char why[96];
	int r;

	if (qp->head == qp->posted)
		return;
	if (qp->tail == qp->posted)
		qp->alive_ns = rdma->host->now_ns(rdma->host);
	qp->wrs[(qp->head - 1) & (qp->size - 1)].send_flags |= IBV_SEND_SIGNALED;
	qp->unsignalled = 0;
	mc_counter_add(rdma->c_doorbells, 1);
	mc_counter_add(rdma->c_posted, qp->head - qp->posted);
	r = ibv_post_send(qp->qp, &qp->wrs[qp->posted & (qp->size - 1)], &bad);
	if (MC_LIKELY(!r)) {
		qp->posted = qp->head;
		return;
	}
	/* Those before the bad one are at the device. */
	while (qp->posted != qp->head && &qp->wrs[qp->posted & (qp->size - 1)] != bad)
		qp->posted++;
	give_up(qp, qp->posted);
	snprintf(why, sizeof why, "the device does not take requests: %s", strerror(r));
	if (qp->ep->peer)
		rdma_peer_broke(qp->ep->peer, -r, why);
}

void rdma_flush(void *inst)
{
	struct rdma *rdma = inst;
	struct rdma_qp *qp;

	while ((qp = rdma->dirty)) {
		rdma->dirty = qp->next_dirty;
		qp->dirty = false;
		post(qp);
	}
	rdma_show_cq(rdma);
	if (rdma->nr_flight && !rdma->suspect.deadline_ns)
		rdma_suspect_arm(rdma);
}

/* What is gathered is posted within the same turn; from then on only a fence ends it. */
int rdma_cancel(void *inst, struct mc_slice *slice)
{
	(void)inst;
	(void)slice;
	return -EALREADY;
}
