/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp transport, streams.  A stream with traffic is hot: progress reads and writes
 * its socket directly, without asking epoll first.  After a quiet millisecond it
 * cools, and the host's watch announces the next byte.  Streams take turns of
 * MC_TCP_TURN bytes, so a slow or greedy peer holds up nobody.
 */
#include <stdlib.h>
#include <string.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <utlist.h>

#include "tcp.h"

/* ---- bounce buffers ---------------------------------------------------------------------- */

/* A free buffer, or NULL: the stream is served again when one is put back. */
struct tcp_bounce *tcp_bounce_get(struct tcp_stream *st)
{
	struct tcp *tcp = st->tcp;
	struct tcp_bounce *b = tcp->bounces;

	if (!b) {
		tcp->bounce_wanted = true;
		return NULL;
	}
	LL_DELETE(tcp->bounces, b);
	b->stream = st;
	b->fill = 0;
	b->status = 0;
	b->busy = false;
	return b;
}

void tcp_bounce_put(struct tcp *tcp, struct tcp_bounce *b)
{
	struct tcp_stream *st;
	struct tcp_peer *peer;

	LL_PREPEND(tcp->bounces, b);
	if (!tcp->bounce_wanted)
		return;
	tcp->bounce_wanted = false;
	DL_FOREACH(tcp->peers, peer)
		DL_FOREACH(peer->streams, st)
			if (st->watch.fd >= 0) {
				tcp_stream_heat(st);
				st->again = true;
			}
}

static void bounce_copied(struct mc_copy *copy, int status)
{
	struct tcp_bounce *b = MC_CONTAINER_OF(copy, struct tcp_bounce, copy);
	struct tcp_stream *st = b->stream;

	b->busy = false;
	b->status = status < 0 ? status : 0;
	if (st->watch.fd >= 0) {
		tcp_stream_heat(st);
		st->again = true;
		return;
	}
	/* Broken meanwhile: the last thing that touched memory has ended. */
	tcp_recv_drop(st);
	tcp_send_drop(st);
	st->tcp->news = true;
}

/* MC_DONE, 0 (later; b->busy until then) or -errno. */
int tcp_bounce_copy(struct tcp_bounce *b, const struct mc_range *range, void *mem, uint64_t len,
		    bool to_host)
{
	const struct mc_host *h = b->stream->tcp->host;
	int r;

	b->copy = (struct mc_copy){
		.size = sizeof b->copy, .mem = mem, .hostptr = b->buf, .len = len,
		.kind = range->kind, .ordinal = range->ordinal, .to_host = to_host,
		.done = bounce_copied,
	};
	b->busy = true;
	r = h->mem_copy(h, &b->copy);
	if (r)
		b->busy = false;
	return r;
}

/* ---- life -------------------------------------------------------------------------------- */

static void stream_cool(struct tcp_stream *st)
{
	if (!st->hot)
		return;
	DL_DELETE2(st->tcp->hot, st, hot_prev, hot_next);
	st->tcp->nr_hot--;
	st->hot = false;
}

void tcp_stream_heat(struct tcp_stream *st)
{
	if (st->hot)
		return;
	DL_APPEND2(st->tcp->hot, st, hot_prev, hot_next);
	st->tcp->nr_hot++;
	st->hot = true;
	st->last_ns = st->tcp->host->now_ns(st->tcp->host);
}

static void stream_ready(struct mc_watch *w, uint32_t revents)
{
	struct tcp_stream *st = MC_CONTAINER_OF(w, struct tcp_stream, watch);

	(void)revents; /* the system calls tell */
	tcp_stream_heat(st);
	st->tx.blocked = false;
	st->again = true;
}

/* What the watch must announce while nobody polls. */
static void stream_want(struct tcp_stream *st)
{
	uint32_t events = st->rx.paused ? 0 : POLLIN;

	if (st->tx.iov_idx < st->tx.nr_iov)
		events |= POLLOUT;
	if (events != st->watch.events)
		st->tcp->host->rewatch(st->tcp->host, &st->watch, events);
	st->watch.events = events;
}

/* Takes over stream->fd in any case.  NULL: no memory, or the descriptor cannot be watched. */
struct tcp_stream *tcp_stream_new(struct tcp_peer *peer, const struct mc_stream *stream)
{
	struct tcp *tcp = peer->tcp;
	struct tcp_stream *st = calloc(1, sizeof *st + MC_TCP_AHEAD + MC_TCP_TXBUF);

	if (!st)
		goto fail;
	st->tcp = tcp;
	st->peer = peer;
	st->epoch = stream->epoch;
	st->passive = peer->passive;
	st->rx.buf = (uint8_t *)(st + 1);
	st->rx.window = MC_TCP_AHEAD;
	st->tx.buf = st->rx.buf + MC_TCP_AHEAD;
	if (tcp->sndbuf)
		setsockopt(stream->fd, SOL_SOCKET, SO_SNDBUF, &tcp->sndbuf, sizeof tcp->sndbuf);
	if (tcp->rcvbuf)
		setsockopt(stream->fd, SOL_SOCKET, SO_RCVBUF, &tcp->rcvbuf, sizeof tcp->rcvbuf);
	st->watch = (struct mc_watch){
		.size = sizeof st->watch, .fd = stream->fd, .events = POLLIN, .ready = stream_ready,
	};
	if (tcp->host->watch(tcp->host, &st->watch) < 0)
		goto fail;
	DL_APPEND(peer->streams, st);
	tcp_stream_heat(st);
	st->again = true; /* bytes may be there already */
	return st;
fail:
	free(st);
	close(stream->fd);
	return NULL;
}

/* Close the socket: from the return on it brings no byte and sends none.  Memory may still be
 * touched by a copy under way; tcp_stream_free tells. */
void tcp_stream_shut(struct tcp_stream *st)
{
	if (st->watch.fd < 0)
		return;
	stream_cool(st);
	st->tcp->host->unwatch(st->tcp->host, &st->watch);
	/* Requests that have not been acknowledged end now, and with them the right to read their memory: what the kernel
	 * has not sent of it is thrown away. */
	if (st->tx.lent && st->load) {
		struct linger none = { .l_onoff = 1 };

		setsockopt(st->watch.fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
	}
	close(st->watch.fd);
	st->watch.fd = -1;
	tcp_recv_drop(st);
	tcp_send_drop(st);
}

/* Free a stream that is shut.  False while a copy is under way; the caller tries again when
 * tcp->news says that one has ended. */
bool tcp_stream_free(struct tcp_stream *st)
{
	if (st->rx.bounce || st->tx.foreign.active)
		return false;
	if (st->peer)
		DL_DELETE(st->peer->streams, st);
	free(st);
	return true;
}

/* At most one line a second: a hostile peer does not fill the log. */
static void stream_warn(struct tcp_stream *st, const char *why)
{
	struct tcp *tcp = st->tcp;
	uint64_t now = tcp->host->now_ns(tcp->host);

	if (tcp->warned_ns && now - tcp->warned_ns < MC_SEC)
		return;
	tcp->warned_ns = now;
	tcp->host->log(tcp->host, MC_LOG_WARN, "stream of peer '%s' closed: %s", st->peer->name,
		       why);
}

/* The stream has failed: it is shut at once, and the peer's owner hears of it from tcp_settle.
 * At the target nothing more is owed: the initiator sees the end of the stream and asks for a
 * fence over the control channel. */
void tcp_stream_break(struct tcp_stream *st, int status, const char *why)
{
	if (st->watch.fd < 0)
		return;
	mc_counter_add(st->tcp->c_broken, 1);
	if (status == -EPROTO)
		stream_warn(st, why);
	if (!st->passive)
		tcp_peer_report(st->peer, status, why);
	st->tcp->news = true;
	tcp_stream_shut(st);
}

/* ---- turns ------------------------------------------------------------------------------- */

static uint64_t boot_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * MC_SEC + (uint64_t)t.tv_nsec;
}

/* No promise of the host covers a turn that the process was frozen in: what the sockets hold may be
 * of requests that have ended long ago.  Between turns the host looks at the clock, and fences. */
bool tcp_turn_over(const struct tcp *tcp)
{
	return boot_ns() - tcp->turn_boot_ns > MC_TCP_TURN_NS;
}

static int stream_serve(struct tcp_stream *st, uint64_t turn)
{
	bool paused;
	int events;

	st->again = false;
	events = tcp_recv(st, turn);
	if (st->watch.fd < 0)
		return events + 1;
	paused = st->rx.paused;
	if (tcp_send_due(st)) {
		int sent = tcp_send(st, turn);

		if (st->watch.fd < 0)
			return events + sent + 1;
		/* What was sent made room for answers. */
		if (sent && paused)
			st->again = true;
		events += sent;
	}
	return events;
}

/* The stream has fallen silent: what was held back is to go.  False: nothing was. */
static bool stream_press(struct tcp_stream *st)
{
	struct tcp_tx *tx = &st->tx;

	if (tx->ack_head == tx->ack_tail || tx->iov_idx < tx->nr_iov)
		return false;
	tx->press = st->again = true;
	return true;
}

/* [worker] */
void tcp_flush(void *inst)
{
	struct tcp *tcp = inst;
	struct tcp_stream *st, *next;
	uint64_t turn = tcp->nr_hot > 1 ? MC_TCP_TURN : MC_TCP_TURN_ALONE;

	for (st = tcp->hot; st; st = next) {
		next = st->hot_next;
		if (st->queue && !st->tx.blocked)
			tcp_send(st, turn);
	}
}

/* [worker] */
int tcp_progress(void *inst)
{
	struct tcp *tcp = inst;
	struct tcp_stream *st, *next;
	uint64_t turn = tcp->nr_hot > 1 ? MC_TCP_TURN : MC_TCP_TURN_ALONE;
	uint64_t now = tcp->hot ? tcp->host->now_ns(tcp->host) : 0, boot, last;
	int events = 0;

	/* The host looks at the clock before each turn.  If the process was frozen between that look and
	 * this line, the host must look again before a byte is read; a sleep costs one empty turn. */
	boot = boot_ns();
	last = tcp->turn_boot_ns;
	tcp->turn_boot_ns = boot;
	if (boot - last > 2 * MC_TCP_TURN_NS)
		return 1;
	for (st = tcp->hot; st; st = next) {
		int n = stream_serve(st, turn);

		/* Serving one stream heats others only at the list's end and breaks none. */
		next = st->hot_next;
		if (n) {
			st->last_ns = now;
			events += n;
		} else if (!st->again && now - st->last_ns > MC_TCP_HOT_NS && !stream_press(st)) {
			stream_want(st);
			stream_cool(st);
		}
	}
	if (tcp->done || tcp->news) {
		tcp_settle(tcp);
		events++;
	}
	return events;
}

/* [worker] */
int tcp_arm(void *inst)
{
	struct tcp *tcp = inst;
	struct tcp_stream *st;

	if (tcp->done || tcp->news)
		return -EBUSY;
	DL_FOREACH2(tcp->hot, st, hot_next) {
		if (st->again || (st->queue && !st->tx.blocked) || stream_press(st))
			return -EBUSY;
		stream_want(st);
	}
	return 0;
}
