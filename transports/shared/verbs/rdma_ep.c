/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Endpoints: the queue pairs of a connection, from making to destroying.  What may
 * block (creating, address resolution at RTR, destroying) is a step on a helper
 * thread, one at a time per endpoint; everything else is the worker's.
 */
#include "rdma.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define FLUSH_NS UINT64_C(250000000)  /* after ERR the flushed requests should be here by then */

/* ---- steps on a helper ------------------------------------------------------------------------------ */

static int say(struct rdma_ep *ep, int r, const char *what)
{
	snprintf(ep->made.why, sizeof ep->made.why, "%s: %s", what, strerror(-r));
	return r;
}

/* How deep a ring must be for the queue pair that we got. */
static uint32_t ring_size(uint32_t depth)
{
	uint32_t n = 1;

	while (n < depth)
		n *= 2;
	return n;
}

static int ring_new(struct rdma_qp *qp)
{
	qp->size = ring_size(qp->depth);
	qp->ring = calloc(qp->size, sizeof *qp->ring);
	qp->wrs = calloc(qp->size, sizeof *qp->wrs);
	qp->sges = calloc(qp->size, sizeof *qp->sges);
	if (!qp->ring || !qp->wrs || !qp->sges)
		return -ENOMEM;
	for (uint32_t i = 0; i < qp->size; i++) {
		qp->wrs[i].sg_list = &qp->sges[i];
		qp->wrs[i].num_sge = 1;
	}
	return 0;
}

static int qp_create(struct rdma_qp *qp)
{
	struct rdma *rdma = qp->ep->rdma;
	struct ibv_qp_init_attr init = {
		.qp_context = qp->ep, .send_cq = rdma->cq, .recv_cq = rdma->cq, .qp_type = IBV_QPT_RC,
		.cap = {
			.max_send_wr = rdma->set.max_wr, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1,
			.max_inline_data = qp->ep->passive ? 0 : rdma->set.max_inline,
		},
	};

	/* A target sends nothing. */
	if (qp->ep->passive)
		init.cap.max_send_wr = 1;
	qp->qp = ibv_create_qp(rdma->pd, &init);
	if (!qp->qp)
		return -errno;
	atomic_fetch_add(&rdma->nr_qps, 1);
	mc_gauge_add(rdma->g_qps, 1);
	qp->depth = MC_MIN(init.cap.max_send_wr, rdma->set.max_wr);
	return ring_new(qp);
}

static int qp_init(const struct rdma_qp *qp)
{
	const struct rdma_settings *set = &qp->ep->rdma->set;
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_INIT, .pkey_index = set->pkey_index, .port_num = set->port,
		.qp_access_flags = qp->ep->passive ? IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE : 0,
	};

	return -ibv_modify_qp(qp->qp, &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
}

int rdma_ep_make(struct rdma_ep *ep)
{
	for (uint32_t i = 0; i < ep->nr_qps; i++) {
		int r = qp_create(&ep->qps[i]);

		if (r < 0)
			return say(ep, r, r == -ENOMEM ? "a queue pair cannot be created; max_endpoints, "
							 "qps_per_peer or max_wr may ask for more than the device has"
						       : "a queue pair cannot be created");
		r = qp_init(&ep->qps[i]);
		if (r < 0)
			return say(ep, r, "a queue pair cannot be bound to its port; see options port and "
					  "pkey_index");
	}
	return 0;
}

static enum ibv_mtu mtu_word(uint32_t bytes)
{
	switch (bytes) {
	case 256: return IBV_MTU_256;
	case 512: return IBV_MTU_512;
	case 1024: return IBV_MTU_1024;
	case 2048: return IBV_MTU_2048;
	default: return IBV_MTU_4096;
	}
}

static void address_of(const struct rdma_ep *ep, struct ibv_ah_attr *ah)
{
	const struct rdma_settings *set = &ep->rdma->set;
	const struct rdma_port *own = &ep->made.own, *far = &ep->made.far.port;

	memset(ah, 0, sizeof *ah);
	ah->port_num = set->port;
	ah->dlid = far->lid;
	ah->sl = (uint8_t)MC_MAX(set->service_level, 0);
	if (!own->nr_gids || !far->nr_gids)
		return;
	ah->is_global = 1;
	memcpy(ah->grh.dgid.raw, far->gids[ep->made.pair.far].raw, 16);
	ah->grh.sgid_index = (uint8_t)own->gids[ep->made.pair.own].index;
	ah->grh.hop_limit = 64;
	ah->grh.traffic_class = (uint8_t)MC_MAX(set->traffic_class, 0);
}

static int qp_to_rtr(struct rdma_ep *ep, uint32_t i)
{
	const struct rdma_hello *far = &ep->made.far;
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_RTR, .path_mtu = mtu_word(ep->made.mtu), .dest_qp_num = far->qpns[i],
		.rq_psn = far->psns[i], .max_dest_rd_atomic = (uint8_t)rdma_reads(ep->rdma), .min_rnr_timer = 12,
	};
	int r;

	address_of(ep, &attr.ah_attr);
	r = -ibv_modify_qp(ep->qps[i].qp, &attr, IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
			   IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
	return r;
}

static int qp_to_rts(struct rdma_ep *ep, uint32_t i)
{
	const struct rdma *rdma = ep->rdma;
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_RTS, .timeout = rdma->set.timeout, .retry_cnt = rdma->set.retry_cnt, .rnr_retry = 6,
		.sq_psn = ep->made.psns[i],
		.max_rd_atomic = (uint8_t)MC_MIN(MC_MIN((uint32_t)MC_MAX(rdma->attr.max_qp_init_rd_atom, 1), 128u),
						 ep->made.far.rd_atomic),
	};

	return -ibv_modify_qp(ep->qps[i].qp, &attr, IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT |
			      IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC);
}

/* "GID a (RoCE v2, index 1) cannot reach b (...): No route to host; ..." */
static int say_pair(struct rdma_ep *ep, int r, const char *hint)
{
	char own[96] = "LID only", far[96] = "LID only";

	if (ep->made.own.nr_gids && ep->made.far.port.nr_gids) {
		rdma_gid_print(&ep->made.own.gids[ep->made.pair.own], own, sizeof own);
		rdma_gid_print(&ep->made.far.port.gids[ep->made.pair.far], far, sizeof far);
	}
	snprintf(ep->made.why, sizeof ep->made.why, "GID %s cannot reach %s: %s; %s", own, far, strerror(-r), hint);
	return r;
}

static int to_rtr(struct rdma_ep *ep)
{
	for (uint32_t i = 0; i < MC_MIN(ep->nr_qps, ep->made.far.nr_qps); i++) {
		int r = qp_to_rtr(ep, i);

		if (r < 0)
			return say_pair(ep, r, r == -EINVAL ? "set gid_index to a GID of the peer's network"
							    : "see that the two networks reach each other");
	}
	return 0;
}

int rdma_ep_join(struct rdma_ep *ep)
{
	const struct rdma_hello *far = &ep->made.far;
	const struct rdma_port *own = &ep->made.own;
	int r;

	if (own->nr_gids && far->port.nr_gids) {
		r = rdma_gid_route(&own->gids[ep->made.pair.own], &far->port.gids[ep->made.pair.far],
				   ep->rdma->device);
		if (r < 0)
			return say_pair(ep, r, "see that the two networks reach each other");
	}
	r = to_rtr(ep);
	for (uint32_t i = 0; r == 0 && i < MC_MIN(ep->nr_qps, far->nr_qps); i++) {
		r = qp_to_rts(ep, i);
		if (r < 0)
			say(ep, r, "a queue pair cannot be made ready to send");
	}
	return r;
}

/* Attempt n of the initiator is our n-th best pair of GIDs; then come the same with a path MTU that
 * every network carries. */
int rdma_ep_serve(struct rdma_ep *ep)
{
	struct rdma_hello *far = &ep->made.far;
	struct rdma_pair pairs[RDMA_PAIRS_MAX] = {{0}};
	uint32_t mtu = MC_MIN(MC_MIN(far->mtu, ep->made.own.mtu), ep->rdma->set.mtu);
	size_t nr = rdma_gid_pairs(&ep->made.own, &far->port, ep->rdma->device, rdma_gid_route, pairs,
				   ep->made.why, sizeof ep->made.why);
	int r;

	if (!nr)
		return -EHOSTUNREACH;
	ep->made.nr_attempts = (uint32_t)nr * (mtu > RDMA_MTU_SAFE ? 2 : 1);
	if (far->attempt >= ep->made.nr_attempts)
		return say(ep, -EHOSTUNREACH, "every pair of GIDs was tried");
	ep->made.pair = pairs[far->attempt % nr];
	ep->made.mtu = far->attempt < nr ? mtu : RDMA_MTU_SAFE;
	r = rdma_ep_make(ep);
	return r < 0 ? r : to_rtr(ep);
}

static int destroy(struct rdma_ep *ep)
{
	for (uint32_t i = 0; i < ep->nr_qps; i++) {
		struct rdma_qp *qp = &ep->qps[i];
		int r = qp->qp ? ibv_destroy_qp(qp->qp) : 0;

		if (r)
			ep->rdma->host->log(ep->rdma->host, MC_LOG_WARN, "a queue pair cannot be destroyed and is lost: %s",
					    strerror(r));
		if (qp->qp) {
			atomic_fetch_sub(&ep->rdma->nr_qps, 1);
			mc_gauge_add(ep->rdma->g_qps, -1);
		}
		qp->qp = NULL;
	}
	return 0;
}

/* ---- life on the worker --------------------------------------------------------------------------------- */

static int slots_grow(struct rdma *rdma)
{
	uint32_t nr = rdma->nr_slots ? 2 * rdma->nr_slots : 64;
	struct rdma_qp **slots = realloc(rdma->slots, nr * sizeof(struct rdma_qp *));
	uint32_t *serials = slots ? realloc(rdma->slot_serials, nr * sizeof *serials) : NULL;
	uint32_t *places = serials ? realloc(rdma->free_slots, nr * sizeof *places) : NULL;

	if (slots)
		rdma->slots = slots;
	if (serials)
		rdma->slot_serials = serials;
	if (!places)
		return -ENOMEM;
	rdma->free_slots = places;
	for (uint32_t i = nr; i-- > rdma->nr_slots;) {
		slots[i] = NULL;
		serials[i] = 0;
		places[rdma->nr_free_slots++] = i;
	}
	rdma->nr_slots = nr;
	return 0;
}

/* Slots of queue pairs that have gone get a new serial, so that late completions find nobody. */
static void slots_put(struct rdma_ep *ep)
{
	struct rdma *rdma = ep->rdma;

	for (uint32_t i = 0; i < ep->nr_qps; i++) {
		struct rdma_qp *qp = &ep->qps[i];

		rdma->slots[qp->slot] = NULL;
		rdma->slot_serials[qp->slot]++;
		rdma->free_slots[rdma->nr_free_slots++] = qp->slot;
	}
}

static void ep_free(struct rdma_ep *ep)
{
	struct rdma_half *half = &ep->rdma->half[ep->passive];

	slots_put(ep);
	DL_DELETE(ep->rdma->dying, ep);
	half->nr_dying--;
	if (ep->of && --ep->of->nr_dying <= 1 && ep->of->held_back)
		rdma_peer_serve(ep->of);
	if (half->waiters)
		ep->rdma->news = true;
	for (uint32_t i = 0; i < ep->nr_qps; i++) {
		free(ep->qps[i].ring);
		free(ep->qps[i].wrs);
		free(ep->qps[i].sges);
	}
	free(ep->qps);
	free(ep);
}

static void on_timer(struct mc_timer *t, uint64_t now_ns);

struct rdma_ep *rdma_ep_new(struct rdma_peer *peer, uint32_t nr_qps)
{
	struct rdma *rdma = peer->rdma;
	const struct rdma_half *half = &rdma->half[peer->passive];
	struct rdma_ep *ep;

	/* Each queue pair has a place of its own in the completion queue, for its probe or its marker. */
	if (half->nr_eps + half->nr_dying >= rdma->set.max_endpoints)
		return NULL;
	while (rdma->nr_free_slots < nr_qps)
		if (slots_grow(rdma) < 0)
			return NULL;
	ep = calloc(1, sizeof *ep);
	if (!ep)
		return NULL;
	ep->qps = calloc(nr_qps, sizeof *ep->qps);
	if (!ep->qps) {
		free(ep);
		return NULL;
	}
	ep->rdma = rdma;
	ep->peer = peer;
	ep->passive = peer->passive;
	ep->visited = true;
	ep->nr_qps = nr_qps;
	ep->timer = (struct mc_timer){.size = sizeof ep->timer, .fire = on_timer, .user = ep};
	for (uint32_t i = 0; i < nr_qps; i++) {
		struct rdma_qp *qp = &ep->qps[i];

		qp->ep = ep;
		qp->slot = rdma->free_slots[--rdma->nr_free_slots];
		qp->serial = rdma->slot_serials[qp->slot];
		rdma->slots[qp->slot] = qp;
		rdma->host->random(rdma->host, &ep->made.psns[i], sizeof ep->made.psns[i]);
		ep->made.psns[i] &= 0xffffff;
	}
	rdma->half[ep->passive].nr_eps++;
	mc_gauge_add(ep->passive ? rdma->g_passive : rdma->g_active, 1);
	DL_APPEND(rdma->eps, ep);
	peer->ep = ep;
	return ep;
}

static void step_run(struct mc_work *w)
{
	struct rdma_ep *ep = w->user;

	ep->made.status = ep->made.step(ep);
}

static void step_done(struct mc_work *w)
{
	struct rdma_ep *ep = w->user;
	struct rdma *rdma = ep->rdma;

	ep->working = false;
	ep->made.then(ep, ep->made.status);
	rdma_settle(rdma);
}

static void prepare(struct rdma_ep *ep, int (*step)(struct rdma_ep *), void (*then)(struct rdma_ep *, int))
{
	ep->made.step = step;
	ep->made.then = then;
	ep->made.why[0] = '\0';
	ep->working = true;
	ep->work = (struct mc_work){.size = sizeof ep->work, .run = step_run, .done = step_done, .user = ep};
}

void rdma_ep_run(struct rdma_ep *ep, int (*step)(struct rdma_ep *), void (*then)(struct rdma_ep *, int))
{
	prepare(ep, step, then);
	ep->rdma->host->run_blocking(ep->rdma->host, &ep->work);
}

bool rdma_ep_idle(const struct rdma_ep *ep)
{
	for (uint32_t i = 0; i < ep->nr_qps; i++)
		if (ep->qps[i].head != ep->qps[i].tail)
			return false;
	return true;
}

static void buried(struct rdma_ep *ep, int status)
{
	(void)status;
	ep_free(ep);
}

static void interred(struct rdma_ep *ep, int status)
{
	(void)status;
	ep->state = RDMA_EP_DYING;
	/* Nobody waits for it, and on a dead link it takes seconds. */
	prepare(ep, destroy, buried);
	mc_run_lazily(ep->rdma->host, &ep->work);
}

void rdma_ep_disown(struct rdma_peer *peer)
{
	struct rdma_ep *ep;

	DL_FOREACH(peer->rdma->dying, ep)
		if (ep->of == peer)
			ep->of = NULL;
	peer->nr_dying = 0;
}

bool rdma_ep_some_dying(const struct rdma *rdma)
{
	return rdma->half[0].nr_dying || rdma->half[1].nr_dying;
}

static void to_error(struct rdma_ep *ep)
{
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};

	for (uint32_t i = 0; i < ep->nr_qps; i++)
		if (ep->qps[i].qp)
			(void)ibv_modify_qp(ep->qps[i].qp, &attr, IBV_QP_STATE);
}

void rdma_ep_bury(struct rdma_ep *ep)
{
	struct rdma *rdma = ep->rdma;
	struct rdma_half *half = &rdma->half[ep->passive];

	rdma->host->timer_set(rdma->host, &ep->timer, 0);
	for (uint32_t i = 0; i < ep->nr_qps; i++)
		rdma_post_drop(&ep->qps[i]);
	for (int i = 0; i < 2; i++)
		if (rdma->half[i].hand == ep)
			rdma->half[i].hand = ep->next;
	DL_DELETE(rdma->eps, ep);
	DL_APPEND(rdma->dying, ep);
	half->nr_eps--;
	half->nr_dying++;
	ep->of = ep->peer;
	if (ep->of)
		ep->of->nr_dying++;
	mc_gauge_add(ep->passive ? rdma->g_passive : rdma->g_active, -1);
	if (ep->peer)
		ep->peer->ep = NULL;
	ep->peer = NULL;
	/* From now on its peer may be told that it is fenced. */
	if (ep->passive && !ep->working)
		to_error(ep);
	/* What a step is doing it will finish; then the endpoint goes. */
	if (ep->working)
		ep->made.then = ep->state == RDMA_EP_DYING ? buried : interred;
	else
		interred(ep, 0);
	if (half->waiters)
		rdma->news = true;
}

/* ---- ERR, and waiting for what it flushes ----------------------------------------------------------------- */

/* The queue pairs are gone: what was in flight has no completion any more, and is dead. */
static void destroyed(struct rdma_ep *ep, int status)
{
	(void)status;
	for (uint32_t i = 0; i < ep->nr_qps; i++)
		rdma_qp_abandon(&ep->qps[i]);
	ep->nr_markers = 0;
	if (ep->peer)
		rdma_peer_drained(ep);
}

/* The flush does not come: destroying the queue pairs is the last means to make sure. */
static void on_timer(struct mc_timer *t, uint64_t now_ns)
{
	struct rdma_ep *ep = t->user;
	struct rdma *rdma = ep->rdma;

	(void)now_ns;
	if (ep->working)
		return;
	if (ep->state == RDMA_EP_ERROR) {
		rdma->host->log(rdma->host, MC_LOG_DEBUG, "'%s': requests were not flushed; destroying the queue pairs",
				ep->peer->name);
		ep->state = RDMA_EP_DYING;
		rdma_ep_run(ep, destroy, destroyed);
	} else if (ep->state == RDMA_EP_UP && ep->leaving && !ep->passive) {
		rdma_ep_leave(ep);
	}
	rdma_settle(rdma);
}

static void post_marker(struct rdma_qp *qp)
{
	struct ibv_recv_wr wr = {.wr_id = rdma_wr_id(qp, RDMA_MARKER)}, *bad;

	if (ibv_post_recv(qp->qp, &wr, &bad) == 0)
		qp->ep->nr_markers++;
}

bool rdma_ep_drained(const struct rdma_ep *ep)
{
	return !ep->nr_markers && rdma_ep_idle(ep);
}

void rdma_ep_error(struct rdma_ep *ep)
{
	struct rdma *rdma = ep->rdma;
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};

	MC_ASSERT(!ep->working);
	if (ep->state == RDMA_EP_ERROR)
		return;
	ep->state = RDMA_EP_ERROR;
	for (uint32_t i = 0; i < ep->nr_qps; i++) {
		struct rdma_qp *qp = &ep->qps[i];
		uint32_t before = ep->nr_markers;

		rdma_post_drop(qp);
		/* Before ERR: drivers need not look at what is posted after it. */
		if (qp->qp && ep->passive)
			post_marker(qp);
		/* A device that has gone answers -ENODEV, and touches nothing any more. */
		if (!qp->qp || ibv_modify_qp(qp->qp, &attr, IBV_QP_STATE))
			ep->nr_markers = before;
	}
	if (rdma_ep_drained(ep))
		rdma_peer_drained(ep);
	else
		rdma->host->timer_set(rdma->host, &ep->timer, rdma->host->now_ns(rdma->host) + FLUSH_NS);
}

/* Every endpoint has been destroyed by now: the host waits for what helpers are doing. */
void rdma_eps_close(struct rdma *rdma)
{
	rdma->host->timer_set(rdma->host, &rdma->sieve, 0);
	free(rdma->slots);
	free(rdma->slot_serials);
	free(rdma->free_slots);
	rdma->slots = NULL;
	rdma->slot_serials = rdma->free_slots = NULL;
	rdma->nr_slots = rdma->nr_free_slots = 0;
}
