/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp transport, peers: their streams, the slots of slices in flight, fences, and
 * what the host is told about them.  A peer is as good as its streams: when one of
 * them breaks while slices may be on it, the host is told that the path is broken
 * and fences both ends; only then do the slices end, so no retry meets a late byte.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

#include "tcp.h"

#define REDIAL_NS (100 * MC_MSEC) /* doubles up to REDIAL_NS << REDIAL_SHIFT */
#define REDIAL_SHIFT 6u

/* ---- slices in flight -------------------------------------------------------------------- */

/* The slice of a tag that came in from the wire, or NULL. */
struct tcp_op *tcp_peer_op(struct tcp_peer *peer, uint32_t tag)
{
	return tag < peer->tcp->max_inflight ? peer->slots[tag] : NULL;
}

/* A slice has ended; the host hears of it from tcp_settle. */
void tcp_op_end(struct tcp_op *op, int status, int scope)
{
	struct tcp *tcp = op->peer->tcp;

	if (op->state == TCP_OP_QUEUED)
		DL_DELETE(op->stream->queue, op);
	op->stream->load -= op->slice->len;
	op->stream = NULL;
	op->state = TCP_OP_DONE;
	op->status = status;
	op->scope = scope;
	DL_APPEND(tcp->done, op);
	if (op->peer->starved)
		tcp->news = true;
}

/* The stream with the least to do. */
static struct tcp_stream *pick_stream(struct tcp_peer *peer)
{
	struct tcp_stream *st, *best = NULL;

	DL_FOREACH(peer->streams, st)
		if (st->watch.fd >= 0 && (!best || st->load < best->load))
			best = st;
	return best;
}

/* [worker] */
int tcp_submit(void *inst, struct mc_slice *slice)
{
	struct tcp *tcp = inst;
	struct tcp_peer *peer = slice->peer;
	struct tcp_op *op = slice->priv;
	struct tcp_stream *st;

	if (MC_UNLIKELY(tcp->stopped))
		return -ESHUTDOWN;
	if (MC_UNLIKELY(slice->len > MC_TCP_LEN_MAX || slice->opcode >= MC_OP_COUNT))
		return -EINVAL;
	st = pick_stream(peer);
	if (MC_UNLIKELY(!st || peer->report < 0))
		return -ENOTCONN;
	if (!peer->nr_free) {
		peer->starved = true;
		return -EAGAIN;
	}
	op->tag = peer->free_slots[--peer->nr_free];
	peer->slots[op->tag] = op;
	op->slice = slice;
	op->peer = peer;
	op->stream = st;
	op->state = TCP_OP_QUEUED;
	st->load += slice->len;
	DL_APPEND(st->queue, op);
	tcp->nr_flight++;
	if (!st->hot)
		tcp_stream_heat(st);
	return 0;
}

/* [worker] */
int tcp_cancel(void *inst, struct mc_slice *slice)
{
	struct tcp_op *op = slice->priv;

	(void)inst;
	if (op->state == TCP_OP_DONE)
		return 0;
	if (op->state != TCP_OP_QUEUED)
		return -EALREADY;
	tcp_op_end(op, -ECANCELED, MC_SCOPE_REQUEST);
	return 0;
}

/* ---- news for the host ------------------------------------------------------------------- */

/* Remember what peer_ready is to say; the first failure is the one that counts. */
void tcp_peer_report(struct tcp_peer *peer, int status, const char *why)
{
	if (peer->news && peer->report < 0)
		return;
	peer->news = true;
	peer->tcp->news = true;
	peer->report = status;
	snprintf(peer->why, sizeof peer->why, "%s", why ? why : "");
}

static void settle_done(struct tcp *tcp)
{
	struct tcp_op *op;

	while ((op = tcp->done)) {
		struct mc_slice *slice = op->slice;
		struct tcp_peer *peer = op->peer;

		DL_DELETE(tcp->done, op);
		op->state = TCP_OP_FREE;
		peer->slots[op->tag] = NULL;
		peer->free_slots[peer->nr_free++] = op->tag;
		tcp->nr_flight--;
		tcp->host->complete(tcp->host, slice, op->status, op->scope,
				    op->status ? 0 : slice->len);
	}
}

/* Free what is shut and touches nothing any more.  False if a fenced stream is left. */
static bool peer_reap(struct tcp_peer *peer)
{
	struct tcp_stream *st, *tmp;
	bool clean = true;

	DL_FOREACH_SAFE(peer->streams, st, tmp) {
		bool fenced = peer->fence_seen && st->epoch <= peer->fenced;

		/* Slices on a broken stream refer to it until the fence. */
		if (st->watch.fd >= 0 || (!st->passive && !fenced))
			continue;
		if (!tcp_stream_free(st))
			clean = false;
	}
	return clean;
}

/* Tell the host one thing about one peer.  False when there is nothing to tell.  The host may do
 * what it likes with the peer in the call, so the caller starts over. */
static bool settle_peer(struct tcp *tcp, struct tcp_peer *peer)
{
	const struct mc_host *h = tcp->host;

	if (peer_reap(peer) && peer->fencing) {
		peer->fencing = false;
		h->fenced(h, peer, peer->fenced);
		return true;
	}
	if (peer->news) {
		peer->news = false;
		h->peer_ready(h, peer, peer->report, NULL, peer->report ? peer->why : NULL);
		return true;
	}
	if (peer->starved && peer->nr_free >= (tcp->max_inflight + 3) / 4) {
		peer->starved = false;
		h->peer_writable(h, peer);
		return true;
	}
	return false;
}

/* Deliver everything that the host has not been told yet. */
void tcp_settle(struct tcp *tcp)
{
	struct tcp_peer *peer;
	struct tcp_stream *st, *tmp;

	settle_done(tcp);
	while (tcp->news) {
		tcp->news = false;
		DL_FOREACH_SAFE2(tcp->orphans, st, tmp, next) {
			DL_DELETE(tcp->orphans, st);
			if (!tcp_stream_free(st))
				DL_PREPEND(tcp->orphans, st);
		}
		DL_FOREACH(tcp->peers, peer) {
			if (settle_peer(tcp, peer)) {
				tcp->news = true;
				break;
			}
		}
		settle_done(tcp);
	}
}

/* ---- life -------------------------------------------------------------------------------- */

static void redial(struct mc_timer *t, uint64_t now_ns)
{
	struct tcp_peer *peer = MC_CONTAINER_OF(t, struct tcp_peer, redial);
	const struct mc_host *h = peer->tcp->host;

	(void)now_ns;
	for (uint32_t token = 0; token < MC_TCP_STREAMS_MAX; token++)
		if (peer->lost & 1u << token && h->stream_dial(h, peer, token) == 0)
			peer->lost &= ~(1u << token);
	if (peer->lost)
		h->timer_set(h, t, h->now_ns(h) + (REDIAL_NS << REDIAL_SHIFT));
}

static void peer_init(struct tcp *tcp, struct tcp_peer *peer, const struct mc_peer_args *args)
{
	peer->tcp = tcp;
	peer->generation = args->generation;
	peer->epoch = args->epoch;
	snprintf(peer->name, sizeof peer->name, "%s", args->segment ? args->segment : "");
	peer->passive = args->passive;
	peer->redial.size = sizeof peer->redial;
	peer->redial.fire = redial;
	DL_APPEND(tcp->peers, peer);
}

/* [worker] Ready when the host has answered for every stream that caps ask for. */
int tcp_peer_open(void *inst, void *priv, const struct mc_peer_args *args)
{
	struct tcp *tcp = inst;
	struct tcp_peer *peer = priv;

	peer->slots = calloc(tcp->max_inflight, sizeof *peer->slots);
	peer->free_slots = malloc(tcp->max_inflight * sizeof *peer->free_slots);
	if (!peer->slots || !peer->free_slots) {
		free(peer->slots);
		free(peer->free_slots);
		return -ENOMEM;
	}
	/* Low tags first: fewer cache lines while few slices are in flight. */
	for (uint32_t i = 0; i < tcp->max_inflight; i++)
		peer->free_slots[i] = tcp->max_inflight - 1 - i;
	peer->nr_free = tcp->max_inflight;
	peer_init(tcp, peer, args);
	return 0;
}

/* [worker] The serving end is ready at once: it waits for streams. */
int tcp_peer_accept(void *inst, void *priv, const struct mc_peer_args *args)
{
	struct tcp_peer *peer = priv;

	peer_init(inst, peer, args);
	peer->passive = true;
	peer->up = true;
	tcp_peer_report(peer, 0, NULL);
	return 0;
}

/* A stream could not be had.  The peer works with fewer; without any it is not reachable. */
static void attach_failed(struct tcp_peer *peer, const struct mc_stream *stream, int status,
			  const char *why)
{
	const struct mc_host *h = peer->tcp->host;
	uint32_t shift = MC_MIN(peer->redials, REDIAL_SHIFT);

	if (peer->passive)
		return;
	if (peer->attached + peer->failed < peer->tcp->streams)
		peer->failed++;
	if (peer->failed >= peer->tcp->streams) {
		tcp_peer_report(peer, status, why ? why : strerror(-status));
		return;
	}
	peer->redials++;
	peer->lost |= 1u << stream->token % MC_TCP_STREAMS_MAX;
	h->timer_set(h, &peer->redial, h->now_ns(h) + (REDIAL_NS << shift));
}

/* [worker] */
void tcp_peer_attach(void *inst, void *priv, const struct mc_stream *stream)
{
	struct tcp *tcp = inst;
	struct tcp_peer *peer = priv;

	if (tcp->stopped || (peer->fence_seen && stream->epoch <= peer->fenced)) {
		if (stream->fd >= 0)
			close(stream->fd);
		return;
	}
	if (stream->epoch > peer->epoch) {
		peer->epoch = stream->epoch;
		peer->attached = peer->failed = 0;
	}
	if (stream->fd < 0) {
		attach_failed(peer, stream, stream->fd, stream->why);
	} else if (!tcp_stream_new(peer, stream)) {
		attach_failed(peer, stream, -ENOMEM, "no memory for a stream");
	} else {
		if (peer->attached < peer->tcp->streams)
			peer->attached++;
		peer->failed = MC_MIN(peer->failed, peer->tcp->streams - peer->attached);
	}
	if (!peer->up && peer->attached && peer->attached + peer->failed >= tcp->streams) {
		peer->up = true;
		tcp_peer_report(peer, 0, NULL);
	}
}

/* End every slice of an epoch <= epoch. */
static void peer_end_slices(struct tcp_peer *peer, uint32_t epoch, int status)
{
	if (!peer->slots)
		return;
	for (uint32_t i = 0; i < peer->tcp->max_inflight; i++) {
		struct tcp_op *op = peer->slots[i];

		if (op && op->state != TCP_OP_DONE && op->slice->epoch <= epoch)
			tcp_op_end(op, status, MC_SCOPE_PEER);
	}
}

/* [worker] */
int tcp_fence(void *inst, void *priv, uint32_t epoch)
{
	struct tcp *tcp = inst;
	struct tcp_peer *peer = priv;
	struct tcp_stream *st;
	bool left = false;

	DL_FOREACH(peer->streams, st) {
		if (st->epoch <= epoch)
			tcp_stream_shut(st);
		else
			left = true;
	}
	peer_end_slices(peer, epoch, -ECONNRESET);
	if (!peer->fence_seen || epoch > peer->fenced)
		peer->fenced = epoch;
	peer->fence_seen = true;
	peer->fencing = true;
	if (!left) {
		/* A connection of a later epoch starts from nothing. */
		peer->attached = peer->failed = peer->lost = peer->redials = 0;
		peer->up = peer->passive;
		peer->news = false;
		peer->report = 0;
	}
	tcp->news = true;
	tcp_settle(tcp);
	return 0;
}

/* [worker] */
void tcp_peer_close(void *inst, void *priv)
{
	struct tcp *tcp = inst;
	struct tcp_peer *peer = priv;
	struct tcp_stream *st, *tmp;

	DL_FOREACH(peer->streams, st)
		tcp_stream_shut(st);
	DL_FOREACH_SAFE(peer->streams, st, tmp) {
		DL_DELETE(peer->streams, st);
		st->peer = NULL;
		if (!tcp_stream_free(st))
			DL_PREPEND(tcp->orphans, st);
	}
	tcp->host->timer_set(tcp->host, &peer->redial, 0);
	DL_DELETE(tcp->peers, peer);
	free(peer->slots);
	free(peer->free_slots);
	peer->slots = NULL;
	peer->free_slots = NULL;
}

/* Shut everything; slices in flight end with -ECANCELED in the next progress. */
void tcp_peers_stop(struct tcp *tcp)
{
	struct tcp_peer *peer;
	struct tcp_stream *st;

	DL_FOREACH(tcp->peers, peer) {
		DL_FOREACH(peer->streams, st)
			tcp_stream_shut(st);
		peer_end_slices(peer, UINT32_MAX, -ECANCELED);
		tcp->host->timer_set(tcp->host, &peer->redial, 0);
	}
	tcp->news = true;
}
