/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Peers: the handshake, parking, fences.
 *
 *   initiator                                          target
 *   makes queue pairs; HELLO  ----------------------->
 *                                                      chooses a pair of GIDs, makes queue pairs, RTR
 *             <--------------------------------------- ACCEPT, or REFUSE and why
 *   RTR, RTS; a WRITE of one MTU on each of them ....> into its scratch
 *   peer_ready
 *
 * A way that fails is an attempt: the next one has new queue pairs, and the target's
 * next best pair of GIDs.  PARK ends the queue pairs of an idle connection, the next
 * slice begins a handshake again; LEAVE is a target's wish for that.
 */
#include "rdma.h"

#include <errno.h>
#include <string.h>
#include <utlist.h>

#define LATER_NS UINT64_C(1000000000) /* until queue pairs are asked for again that the device did not have */

static void attempt(struct rdma_peer *peer);

/* ---- messages -------------------------------------------------------------------------------------- */

static int send_hello(struct rdma_peer *peer, const struct rdma_hello *hello)
{
	unsigned char buf[RDMA_HELLO_MAX];
	size_t len = rdma_hello_encode(hello, buf, sizeof buf);

	return peer->rdma->host->peer_send(peer->rdma->host, peer, buf, len);
}

static void send_word(struct rdma_peer *peer, uint8_t msg, uint32_t round)
{
	struct rdma_hello hello = {.msg = msg, .round = round};

	/* Without a control session the host ends the peer anyway. */
	(void)send_hello(peer, &hello);
}

/* What HELLO and ACCEPT have in common. */
static void fill_hello(const struct rdma_ep *ep, struct rdma_hello *hello)
{
	struct rdma *rdma = ep->rdma;

	hello->round = ep->peer->round;
	hello->relaxed = rdma->set.relaxed;
	hello->rd_atomic = rdma_reads(rdma);
	hello->scratch = (uint64_t)(uintptr_t)rdma->scratch + RDMA_SCRATCH_PEER;
	hello->chunk = rdma->set.max_mr_size;
	hello->scratch_rkey = rdma->scratch_peer_mr->rkey;
	hello->port = ep->made.own;
	hello->nr_qps = ep->nr_qps;
	for (uint32_t i = 0; i < ep->nr_qps; i++) {
		hello->qpns[i] = ep->qps[i].qp->qp_num;
		hello->psns[i] = ep->made.psns[i];
	}
}

/* ---- initiator ----------------------------------------------------------------------------------------- */

/* This attempt led nowhere; the last one's reason is the one that is told. */
static void attempt_failed(struct rdma_peer *peer, int status, const char *why)
{
	struct rdma *rdma = peer->rdma;

	snprintf(peer->why, sizeof peer->why, "%s", why);
	if (peer->ep)
		rdma_ep_bury(peer->ep);
	if (peer->dead)
		return;
	if (status != -ENODEV && peer->attempt + 1 < peer->nr_attempts &&
	    rdma->host->now_ns(rdma->host) < peer->deadline_ns) {
		rdma->host->log(rdma->host, MC_LOG_DEBUG, "'%s' by %s, attempt %u of %u: %s", peer->name, peer->device,
				peer->attempt + 1, peer->nr_attempts, peer->why);
		peer->attempt++;
		attempt(peer);
		return;
	}
	rdma_peer_broke(peer, status, peer->why);
	/* It may be the port that is not well. */
	rdma_port_check(rdma);
}

/* It comes back when those that are dying are gone, its own few among them: asking sooner would only make
 * more of these. */
bool rdma_peer_lacks(struct rdma_peer *peer, int status)
{
	struct rdma *rdma = peer->rdma;

	if (status != -ENOMEM || !(peer->after_others || rdma_ep_some_dying(rdma)))
		return false;
	peer->not_before_ns = rdma->host->now_ns(rdma->host) + LATER_NS;
	rdma_peer_requeue(peer);
	return true;
}

static void made(struct rdma_ep *ep, int status)
{
	struct rdma_peer *peer = ep->peer;
	struct rdma_hello hello = {.msg = RDMA_MSG_HELLO, .attempt = peer->attempt, .mtu = ep->rdma->set.mtu};
	int r;

	if (rdma_peer_lacks(peer, status))
		return;
	if (status < 0) {
		peer->nr_attempts = 0; /* it is not the way that fails */
		attempt_failed(peer, status, ep->made.why);
		return;
	}
	hello.mtu = MC_MIN(hello.mtu, ep->made.own.mtu);
	fill_hello(ep, &hello);
	ep->state = RDMA_EP_ASKED;
	ep->since_ns = ep->rdma->host->now_ns(ep->rdma->host);
	r = send_hello(peer, &hello);
	if (r < 0) {
		peer->nr_attempts = 0;
		attempt_failed(peer, r, "the handshake cannot be sent: there is no control session");
	}
}

/* Begin with new queue pairs, or wait for room. */
bool rdma_peer_start(struct rdma_peer *peer)
{
	struct rdma *rdma = peer->rdma;
	uint32_t nr = peer->passive ? MC_MIN(peer->hello.nr_qps, rdma->set.qps_per_peer) : rdma->set.qps_per_peer;
	struct rdma_ep *ep = rdma_ep_new(peer, nr);

	if (!ep) {
		peer->waiting = true;
		LL_PREPEND2(rdma->half[peer->passive].waiters, peer, next_waiter);
		return false;
	}
	rdma_port_get(rdma, &ep->made.own);
	peer->after_others = rdma_ep_some_dying(rdma);
	if (peer->passive) {
		ep->made.far = peer->hello;
		rdma_ep_run(ep, rdma_ep_serve, rdma_peer_served);
	} else {
		peer->round++;
		rdma_ep_run(ep, rdma_ep_make, made);
	}
	return true;
}

/* Take a place behind those that wait already. */
static void attempt(struct rdma_peer *peer)
{
	struct rdma *rdma = peer->rdma;

	if (peer->waiting)
		return;
	peer->waiting = true;
	LL_APPEND2(rdma->half[peer->passive].waiters, peer, next_waiter);
	rdma->news = true;
}

static void joined(struct rdma_ep *ep, int status)
{
	if (status < 0) {
		attempt_failed(ep->peer, status, ep->made.why);
		return;
	}
	ep->state = RDMA_EP_PROBING;
	rdma_post_probe(ep);
}

static void on_accept(struct rdma_peer *peer, const struct rdma_hello *msg)
{
	struct rdma_ep *ep = peer->ep;
	const struct rdma_port *own = &ep->made.own;

	if (msg->nr_qps > ep->nr_qps || msg->nr_attempts > 4 * RDMA_PAIRS_MAX || msg->mtu > ep->made.own.mtu ||
	    (own->nr_gids && msg->port.nr_gids && (msg->far >= own->nr_gids || msg->own >= msg->port.nr_gids))) {
		peer->nr_attempts = 0;
		attempt_failed(peer, -EPROTO, "the other end accepted what was not offered");
		return;
	}
	/* The other end may want fewer.  A flushing READ pushes only what went down its own queue pair. */
	ep->nr_used = msg->relaxed ? 1 : msg->nr_qps;
	peer->relaxed = msg->relaxed;
	peer->far_chunk = msg->chunk;
	peer->nr_attempts = msg->nr_attempts;
	peer->scratch_addr = msg->scratch;
	peer->scratch_rkey = msg->scratch_rkey;
	ep->made.far = *msg;
	ep->made.pair = (struct rdma_pair){.own = msg->far, .far = msg->own};
	ep->made.mtu = msg->mtu;
	ep->state = RDMA_EP_JOINING;
	rdma_ep_run(ep, rdma_ep_join, joined);
}

/* What was agreed on, and what keeps it from being better. */
static void tell_way(const struct rdma_ep *ep)
{
	const struct rdma_peer *peer = ep->peer;
	const struct rdma *rdma = ep->rdma;
	uint32_t own_mtu = ep->made.own.mtu, far_mtu = ep->made.far.port.mtu;
	char own[96] = "LID only", far[96] = "LID only";

	if (ep->made.own.nr_gids && ep->made.far.port.nr_gids) {
		rdma_gid_print(&ep->made.own.gids[ep->made.pair.own], own, sizeof own);
		rdma_gid_print(&ep->made.far.port.gids[ep->made.pair.far], far, sizeof far);
	}
	rdma->host->log(rdma->host, MC_LOG_INFO, "'%s' by %s: GID %s to %s, MTU %u, %u queue pairs", peer->name, peer->device,
			own, far, ep->made.mtu, ep->nr_used);
	if (ep->made.mtu == RDMA_MTU_SAFE && peer->attempt && MC_MIN(own_mtu, far_mtu) > RDMA_MTU_SAFE)
		rdma->host->log(rdma->host, MC_LOG_WARN, "'%s' by %s: packets of more than %u bytes do not get through: raise "
				"the MTU of the network between them, or set option mtu", peer->name, peer->device,
				RDMA_MTU_SAFE);
	else if (own_mtu != far_mtu)
		rdma->host->log(rdma->host, MC_LOG_INFO, "'%s' by %s: the ports' MTUs differ, %u here and %u there: the smaller "
				"one counts; raise the other interface's MTU for speed", peer->name, peer->device, own_mtu, far_mtu);
}

/* All queue pairs have carried a request (0), or one has not. */
void rdma_peer_probed(struct rdma_ep *ep, int status, const char *why)
{
	struct rdma_peer *peer = ep->peer;
	struct rdma *rdma = ep->rdma;
	char own[96] = "LID only", far[96] = "LID only", text[sizeof peer->why];

	if (status == 0) {
		if (!peer->reported)
			tell_way(ep);
		ep->state = RDMA_EP_UP;
		ep->since_ns = rdma->host->now_ns(rdma->host);
		ep->fresh = peer->starved;
		peer->up = true;
		rdma->host->timer_set(rdma->host, &peer->timer, 0);
		/* The target wants it back already: first let it do what it was made for. */
		if (ep->leaving)
			rdma_ep_leave(ep);
		if (!peer->reported)
			rdma_peer_report(peer, 0, NULL);
		return;
	}
	if (ep->made.own.nr_gids && ep->made.far.port.nr_gids) {
		rdma_gid_print(&ep->made.own.gids[ep->made.pair.own], own, sizeof own);
		rdma_gid_print(&ep->made.far.port.gids[ep->made.pair.far], far, sizeof far);
	}
	snprintf(text, sizeof text, "nothing gets from GID %s to %s with MTU %u (%s): see that the network carries UDP "
		 "port 4791 between them, or set gid_index", own, far, ep->made.mtu, why);
	attempt_failed(peer, status, text);
}

void rdma_peer_wake(struct rdma_peer *peer)
{
	struct rdma *rdma = peer->rdma;

	if (peer->waiting || peer->ep || peer->dead)
		return;
	peer->deadline_ns = rdma->host->now_ns(rdma->host) + rdma->peer_timeout_ns;
	rdma->host->timer_set(rdma->host, &peer->timer, peer->deadline_ns);
	attempt(peer);
}

/* Idle, and its place is wanted: let the queue pairs go at both ends. */
void rdma_peer_park(struct rdma_peer *peer)
{
	peer->up = false;
	send_word(peer, RDMA_MSG_PARK, peer->round);
	rdma_ep_bury(peer->ep);
	if (peer->starved)
		rdma_peer_wake(peer);
}

/* Back to the end of the queue, with new queue pairs later. */
void rdma_peer_requeue(struct rdma_peer *peer)
{
	peer->up = false;
	rdma_ep_bury(peer->ep);
	attempt(peer);
}

static void on_leave(struct rdma_peer *peer)
{
	struct rdma_ep *ep = peer->ep;

	if (!ep || ep->leaving)
		return;
	ep->leaving = true;
	if (ep->state == RDMA_EP_UP)
		rdma_ep_leave(ep);
}

static void active_msg(struct rdma_peer *peer, const struct rdma_hello *msg)
{
	bool asked = peer->ep && peer->ep->state == RDMA_EP_ASKED;

	/* Of queue pairs that we have given up: the other end need not keep its own. */
	if (msg->round != peer->round) {
		if (msg->msg == RDMA_MSG_ACCEPT)
			send_word(peer, RDMA_MSG_PARK, msg->round);
		return;
	}
	if (msg->msg == RDMA_MSG_ACCEPT && asked) {
		on_accept(peer, msg);
	} else if (msg->msg == RDMA_MSG_REFUSE && asked) {
		peer->nr_attempts = MC_MIN(msg->nr_attempts, 4 * RDMA_PAIRS_MAX);
		attempt_failed(peer, -EHOSTUNREACH, msg->why[0] ? msg->why : "the other end refused");
	} else if (msg->msg == RDMA_MSG_LEAVE) {
		on_leave(peer);
	}
}

static void leave_waiters(struct rdma_peer *peer)
{
	if (peer->waiting)
		LL_DELETE2(peer->rdma->half[peer->passive].waiters, peer, next_waiter);
	peer->waiting = peer->held_back = false;
}

/* ---- target ------------------------------------------------------------------------------------------------ */

void rdma_peer_served(struct rdma_ep *ep, int status)
{
	struct rdma_peer *peer = ep->peer;
	struct rdma_hello hello = {.msg = RDMA_MSG_REFUSE, .round = peer->round, .nr_attempts = ep->made.nr_attempts};

	if (rdma_peer_lacks(peer, status))
		return;
	if (status < 0) {
		snprintf(hello.why, sizeof hello.why, "at the other end: %.170s", ep->made.why);
		rdma_ep_bury(ep);
		(void)send_hello(peer, &hello);
		return;
	}
	hello.msg = RDMA_MSG_ACCEPT;
	hello.own = ep->made.pair.own;
	hello.far = ep->made.pair.far;
	hello.mtu = ep->made.mtu;
	fill_hello(ep, &hello);
	ep->nr_used = ep->nr_qps;
	ep->state = RDMA_EP_UP;
	peer->up = true;
	(void)send_hello(peer, &hello);
	if (!peer->reported)
		rdma_peer_report(peer, 0, NULL);
}

/* Ask the initiator to let go; it answers by PARK once nothing is in flight. */
void rdma_peer_dismiss(struct rdma_peer *peer)
{
	peer->ep->leaving = true;
	peer->ep->asked_ns = peer->rdma->host->now_ns(peer->rdma->host);
	send_word(peer, RDMA_MSG_LEAVE, peer->round);
}

static void passive_msg(struct rdma_peer *peer, const struct rdma_hello *msg)
{
	if (msg->msg != RDMA_MSG_HELLO && (msg->msg != RDMA_MSG_PARK || msg->round != peer->round))
		return;
	/* The initiator uses the old queue pairs no more, or says so by asking for new ones. */
	peer->up = false;
	if (peer->ep)
		rdma_ep_bury(peer->ep);
	if (msg->msg == RDMA_MSG_PARK) {
		leave_waiters(peer);
		return;
	}
	peer->hello = *msg;
	peer->round = msg->round;
	rdma_peer_serve(peer);
}

/* Who asks again and again gets no more places than one that it has and one that is on its way out. */
void rdma_peer_serve(struct rdma_peer *peer)
{
	peer->held_back = peer->nr_dying > 1;
	if (!peer->held_back && !peer->dead)
		attempt(peer);
}

/* ---- operations ---------------------------------------------------------------------------------------------- */

static void on_deadline(struct mc_timer *t, uint64_t now_ns)
{
	struct rdma_peer *peer = t->user;
	char text[sizeof peer->why];

	(void)now_ns;
	if (peer->up || peer->dead)
		return;
	snprintf(text, sizeof text, "no connection to %s in time%s%.120s", peer->device,
		 peer->waiting ? ": all endpoints are in use, raise max_endpoints" : peer->why[0] ? ": " : "",
		 peer->waiting ? "" : peer->why);
	rdma_peer_broke(peer, -ETIMEDOUT, text);
	rdma_settle(peer->rdma);
}

static void init(struct rdma *rdma, struct rdma_peer *peer, const struct mc_peer_args *args)
{
	memset(peer, 0, sizeof *peer);
	peer->rdma = rdma;
	peer->passive = args->passive;
	peer->deadline_ns = args->deadline_ns;
	snprintf(peer->name, sizeof peer->name, "%s", args->segment ? args->segment : "?");
	snprintf(peer->device, sizeof peer->device, "%s", args->remote_device ? args->remote_device : "?");
	peer->timer = (struct mc_timer){.size = sizeof peer->timer, .fire = on_deadline, .user = peer};
	DL_APPEND(rdma->peers, peer);
}

int rdma_peer_open(void *inst, void *p, const struct mc_peer_args *args)
{
	struct rdma *rdma = inst;
	struct rdma_peer *peer = p;

	if (rdma->stopped)
		return -ESHUTDOWN;
	init(rdma, peer, args);
	rdma->host->timer_set(rdma->host, &peer->timer, peer->deadline_ns);
	attempt(peer);
	rdma_settle(rdma);
	return 0;
}

int rdma_peer_accept(void *inst, void *p, const struct mc_peer_args *args)
{
	struct rdma *rdma = inst;

	if (rdma->stopped)
		return -ESHUTDOWN;
	init(rdma, p, args);
	return 0;
}

void rdma_peer_msg(void *inst, void *p, const void *msg, size_t len)
{
	struct rdma_peer *peer = p;
	struct rdma_hello hello;

	if (peer->dead)
		return;
	if (rdma_hello_decode(msg, len, &hello) < 0)
		rdma_peer_broke(peer, -EPROTO, "a handshake message of a wrong form");
	else if (peer->passive)
		passive_msg(peer, &hello);
	else
		active_msg(peer, &hello);
	rdma_settle(inst);
}

void rdma_peer_close(void *inst, void *p)
{
	struct rdma *rdma = inst;
	struct rdma_peer *peer = p;

	rdma->host->timer_set(rdma->host, &peer->timer, 0);
	leave_waiters(peer);
	if (peer->ep)
		rdma_ep_bury(peer->ep);
	rdma_ep_disown(peer);
	if (peer->starved)
		rdma->nr_starved--;
	DL_DELETE(rdma->peers, peer);
}

void rdma_peer_drained(struct rdma_ep *ep)
{
	struct rdma_peer *peer = ep->peer;

	ep->rdma->host->timer_set(ep->rdma->host, &ep->timer, 0);
	if (!peer->fencing)
		return;
	peer->fencing = false;
	peer->fenced = true;
	ep->rdma->news = true;
}

/* Before its first request is posted an endpoint has nothing to fence: the other end does not know
 * its queue pairs, or has nothing to say on them. */
int rdma_fence(void *inst, void *p, uint32_t epoch)
{
	struct rdma *rdma = inst;
	struct rdma_peer *peer = p;
	struct rdma_ep *ep = peer->ep;

	peer->dead = true;
	peer->up = false;
	peer->news = false;
	peer->fence_epoch = epoch;
	rdma->host->timer_set(rdma->host, &peer->timer, 0);
	leave_waiters(peer);
	if (ep && (ep->state == RDMA_EP_MAKING || ep->state == RDMA_EP_ASKED || ep->state == RDMA_EP_JOINING)) {
		rdma_ep_bury(ep);
		ep = NULL;
	}
	peer->fencing = ep != NULL;
	if (!ep) {
		peer->fenced = true;
		rdma->news = true;
	} else if (ep->state == RDMA_EP_ERROR && rdma_ep_drained(ep)) {
		rdma_peer_drained(ep);
	} else if (ep->state != RDMA_EP_ERROR && ep->state != RDMA_EP_DYING) {
		rdma_ep_error(ep);
	}
	rdma_settle(rdma);
	return 0;
}
