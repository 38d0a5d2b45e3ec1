/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp transport, bytes coming in.  Heads and entries are read into a small
 * read-ahead buffer and checked there; payloads are read by the same system calls
 * straight into the memory that they are meant for.  Only payloads so small that a
 * copy is cheaper than a piece of a vector pass through the read-ahead buffer, and
 * payloads for memory that the CPU cannot touch pass through a bounce buffer.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "tcp.h"

#define PAUSE 1 /* wait for room or a bounce buffer */
#define MORE 2  /* wait for bytes */
#define OVER 3  /* the turn is */
#define STEP 8192u /* bytes that are copied between two looks at the clock */

static void seg_drop(struct tcp_stream *st, struct tcp_seg *seg)
{
	if (!seg->op && seg->status == TCP_STATUS_OK)
		st->tcp->host->range_put(st->tcp->host, &seg->range);
	seg->status = TCP_STATUS_IO;
	seg->dst = NULL;
	seg->foreign = false;
}

/* All of a payload is where it belongs, or was dropped. */
static void seg_done(struct tcp_stream *st, struct tcp_seg *seg)
{
	struct tcp_rx *rx = &st->rx;

	if (rx->bounce) {
		tcp_bounce_put(st->tcp, rx->bounce);
		rx->bounce = NULL;
	}
	if (seg->op) {
		tcp_op_end(seg->op, tcp_status_errno(seg->status),
			   seg->status == TCP_STATUS_OK ? MC_SCOPE_NONE : MC_SCOPE_REQUEST);
		seg->op = NULL;
	} else {
		if (seg->status == TCP_STATUS_OK)
			st->tcp->host->range_put(st->tcp->host, &seg->range);
		else
			mc_counter_add(st->tcp->c_refused, 1);
		tcp_answer_ack(st, seg->tag, seg->status);
	}
	seg->status = TCP_STATUS_IO; /* nothing is held */
	rx->seg++;
}

/* Bytes that arrived for the present segment were put where seg_place says. */
static void seg_took(struct tcp_stream *st, struct tcp_seg *seg, uint64_t n)
{
	seg->left -= n;
	st->tx.unacked += n;
	if (seg->foreign)
		st->rx.bounce->fill += n;
	else if (seg->dst)
		seg->dst += n;
	if (!seg->left && !seg->foreign)
		seg_done(st, seg);
}

/* Move a foreign segment on: a full or last chunk goes to its memory.  PAUSE while that lasts or
 * no buffer is free; 0 when there is room for more bytes or the segment has ended. */
static int seg_foreign(struct tcp_stream *st, struct tcp_seg *seg)
{
	struct tcp_bounce *b = st->rx.bounce;
	int r;

	if (!b) {
		b = st->rx.bounce = tcp_bounce_get(st);
		if (!b)
			return PAUSE;
	}
	if (b->busy)
		return PAUSE;
	r = b->status;
	if (!r && b->fill && (!seg->left || b->fill == MC_TCP_CHUNK)) {
		uint64_t n = b->fill;

		r = tcp_bounce_copy(b, &seg->range, seg->dst, n, false);
		if (r == -EAGAIN) {
			st->again = true;
			return PAUSE;
		}
		b->fill = 0;
		seg->dst += n;
		if (!r)
			return PAUSE;
	}
	if (r < 0)
		seg_drop(st, seg);
	if (!seg->left)
		seg_done(st, seg);
	return 0;
}

/* Where the next bytes of a segment go, and how many may. */
static uint8_t *seg_place(struct tcp_stream *st, const struct tcp_seg *seg, uint64_t *len)
{
	if (seg->foreign) {
		*len = MC_MIN(seg->left, MC_TCP_CHUNK - st->rx.bounce->fill);
		return st->rx.bounce->buf + st->rx.bounce->fill;
	}
	*len = seg->left;
	if (seg->dst)
		return seg->dst;
	*len = MC_MIN(seg->left, MC_TCP_CHUNK);
	return st->tcp->scratch;
}

/* ---- frames ------------------------------------------------------------------------------ */

static int frame_write(struct tcp_stream *st, const uint8_t *p, uint32_t nr, uint64_t generation)
{
	const struct mc_host *h = st->tcp->host;
	struct tcp_rx *rx = &st->rx;

	if (MC_TCP_ANSWERS - (st->tx.ack_tail - st->tx.ack_head) < nr)
		return PAUSE;
	for (uint32_t i = 0; i < nr; i++)
		if (tcp_request_get(p + i * sizeof(struct tcp_wire_request)).len > MC_TCP_LEN_MAX)
			return -EPROTO;
	for (uint32_t i = 0; i < nr; i++) {
		struct tcp_wire_request q = tcp_request_get(p + i * sizeof q);
		struct tcp_seg *seg = &rx->segs[i];

		seg->op = NULL;
		seg->tag = q.tag;
		seg->left = q.len;
		seg->range.size = sizeof seg->range;
		seg->status = tcp_status_of(h->range_get(h, st->peer, generation, q.offset, q.len,
							 MC_ACCESS_REMOTE_WRITE, &seg->range));
		seg->dst = seg->status == TCP_STATUS_OK ? seg->range.addr : NULL;
		seg->foreign = seg->dst && q.len && strcmp(seg->range.kind, "cpu") != 0;
	}
	rx->nr_segs = nr;
	return 0;
}

static int frame_read(struct tcp_stream *st, const uint8_t *p, uint32_t nr, uint64_t generation)
{
	struct tcp_tx *tx = &st->tx;

	if (MC_TCP_ANSWERS - (tx->read_tail - tx->read_head) < nr)
		return PAUSE;
	for (uint32_t i = 0; i < nr; i++) {
		struct tcp_wire_request q = tcp_request_get(p + i * sizeof q);

		if (q.len > MC_TCP_LEN_MAX)
			return -EPROTO;
		tx->reads[tx->read_tail++ % MC_TCP_ANSWERS] =
			(struct tcp_read){ q.offset, generation, q.len, q.tag };
	}
	return 0;
}

/* What the socket has not wholly taken cannot have been answered: an end now would free memory that
 * is yet to be sent.  Inside a packet an answer may come as soon as its own request is out. */
static struct tcp_op *answered(struct tcp_stream *st, uint32_t tag, enum mc_opcode opcode)
{
	struct tcp_op *op = tcp_peer_op(st->peer, tag);

	if (!op || op->stream != st || op->state != TCP_OP_SENT || op->end > st->tx.sent ||
	    op->slice->opcode != opcode)
		return NULL;
	return op;
}

static int frame_ack(struct tcp_stream *st, const uint8_t *p, uint32_t nr)
{
	for (uint32_t i = 0; i < nr; i++) {
		struct tcp_wire_ack a = tcp_ack_get(p + i * sizeof a);
		struct tcp_op *op = answered(st, a.tag, MC_OP_WRITE);

		if (!op)
			return -EPROTO;
		tcp_op_end(op, tcp_status_errno(a.status),
			   a.status == TCP_STATUS_OK ? MC_SCOPE_NONE : MC_SCOPE_REQUEST);
	}
	return 0;
}

static int frame_data(struct tcp_stream *st, const uint8_t *p, uint32_t nr)
{
	struct tcp_rx *rx = &st->rx;

	for (uint32_t i = 0; i < nr; i++) {
		struct tcp_wire_data d = tcp_data_get(p + i * sizeof d);
		struct tcp_op *op = answered(st, d.tag, MC_OP_READ);
		struct tcp_seg *seg = &rx->segs[i];

		if (!op || d.reserved || d.len != (d.status == TCP_STATUS_OK ? op->slice->len : 0))
			return -EPROTO;
		op->state = TCP_OP_LANDING;
		seg->op = op;
		seg->dst = op->slice->local;
		seg->left = d.len;
		seg->status = d.status;
		seg->foreign = false;
		rx->nr_segs = i + 1;
	}
	return 0;
}

/* Take the next frame's head and entries out of the read-ahead buffer. */
static int rx_head(struct tcp_stream *st)
{
	struct tcp_rx *rx = &st->rx;
	const uint8_t *p = rx->buf + rx->head;
	uint32_t have = rx->tail - rx->head, nr;
	const char *why;
	uint64_t total = 0;
	int size, r;

	if (have < MC_TCP_HEAD_SIZE)
		return MORE;
	size = tcp_head_check(p, st->passive, &why);
	if (size < 0) {
		tcp_stream_break(st, size, why);
		return size;
	}
	if (have < MC_TCP_HEAD_SIZE + (uint32_t)size)
		return MORE;
	nr = mc_get16(p + 4);
	rx->type = p[3];
	rx->seg = rx->nr_segs = 0;
	why = "an answer fits no request";
	if (rx->type == TCP_FRAME_WRITE || rx->type == TCP_FRAME_READ) {
		why = "a request is longer than 1 GiB";
		r = rx->type == TCP_FRAME_WRITE
			    ? frame_write(st, p + MC_TCP_HEAD_SIZE, nr, mc_get64(p + 8))
			    : frame_read(st, p + MC_TCP_HEAD_SIZE, nr, mc_get64(p + 8));
	} else {
		r = rx->type == TCP_FRAME_ACK ? frame_ack(st, p + MC_TCP_HEAD_SIZE, nr)
					      : frame_data(st, p + MC_TCP_HEAD_SIZE, nr);
	}
	if (r < 0)
		tcp_stream_break(st, r, why);
	if (r)
		return r;
	rx->head += MC_TCP_HEAD_SIZE + (uint32_t)size;
	for (uint32_t i = 0; i < rx->nr_segs; i++)
		total += rx->segs[i].left;
	rx->small = total <= (uint64_t)rx->nr_segs * MC_TCP_SMALL;
	/* Traffic repeats itself: the next head is likely as long as this one. */
	rx->window = rx->small ? MC_TCP_AHEAD : MC_TCP_HEAD_SIZE + (uint32_t)size;
	return 0;
}

/* Use up what the read-ahead buffer holds.  MORE when bytes are needed. */
static int rx_parse(struct tcp_stream *st)
{
	struct tcp_rx *rx = &st->rx;

	for (;;) {
		while (rx->seg < rx->nr_segs) {
			struct tcp_seg *seg = &rx->segs[rx->seg];
			uint64_t room, n = rx->tail - rx->head;
			uint8_t *dst;
			int r;

			if (seg->foreign) {
				r = seg_foreign(st, seg);
				if (r)
					return r;
				if (rx->seg == rx->nr_segs || seg != &rx->segs[rx->seg])
					continue;
			}
			if (!seg->left) {
				seg_done(st, seg);
				continue;
			}
			if (!n)
				return MORE;
			dst = seg_place(st, seg, &room);
			n = MC_MIN(MC_MIN(n, room), STEP);
			if (dst != st->tcp->scratch) {
				/* Who is stopped in a copy, or right before it, ends it when he goes on: little is under way at a time. */
				if (n == STEP && tcp_turn_over(st->tcp))
					return OVER;
				memcpy(dst, rx->buf + rx->head, n);
			}
			rx->head += (uint32_t)n;
			seg_took(st, seg, n);
		}
		if (rx->head == rx->tail)
			rx->head = rx->tail = 0;
		int r = rx_head(st);
		if (r)
			return r;
	}
}

/* ---- system calls ------------------------------------------------------------------------ */

/* Pieces for the payloads that are awaited, then the read-ahead buffer.  Returns how many; *want
 * is the number of payload bytes among them. */
static uint32_t rx_pieces(struct tcp_stream *st, struct iovec *iov, uint64_t turn, uint64_t *want)
{
	struct tcp_rx *rx = &st->rx;
	uint32_t n = 0, i = rx->seg;

	*want = 0;
	for (; i < rx->nr_segs && n < MC_TCP_IOV - 1 && *want < turn; i++) {
		const struct tcp_seg *seg = &rx->segs[i];
		uint64_t len;
		uint8_t *dst;

		if (!seg->left)
			continue;
		if (seg->foreign && i != rx->seg)
			break;
		dst = seg_place(st, seg, &len);
		len = MC_MIN(len, turn - *want);
		*want += len;
		if (n && (uint8_t *)iov[n - 1].iov_base + iov[n - 1].iov_len == dst)
			iov[n - 1].iov_len += len;
		else
			iov[n++] = (struct iovec){ dst, len };
		if (len < seg->left || seg->foreign)
			break;
	}
	if (i == rx->nr_segs)
		iov[n++] = (struct iovec){ rx->buf, rx->window };
	return n;
}

/* Hand n bytes that rx_pieces placed to their segments; what is left lies in the read-ahead
 * buffer. */
static void rx_took(struct tcp_stream *st, uint64_t n)
{
	struct tcp_rx *rx = &st->rx;

	while (rx->seg < rx->nr_segs) {
		struct tcp_seg *seg = &rx->segs[rx->seg];
		uint64_t take = MC_MIN(seg->left, n);

		if (!take && seg->left)
			return;
		n -= take;
		seg_took(st, seg, take);
		if (seg->foreign)
			return;
	}
	rx->tail = (uint32_t)n;
}

/* One read, unless the turn is over by now: nothing lies between that look and the call.  Bytes, 0 when
 * there are none, or the stream is broken and -errno. */
static int64_t rx_read(struct tcp_stream *st, uint64_t turn, bool *ret_drained, bool *ret_over)
{
	struct tcp_rx *rx = &st->rx;
	struct iovec iov[MC_TCP_IOV];
	struct msghdr msg = { .msg_iov = iov };
	uint64_t want = 0, asked = 0;
	ssize_t n;
	int r;

	if (rx->head) {
		memmove(rx->buf, rx->buf + rx->head, rx->tail - rx->head);
		rx->tail -= rx->head;
		rx->head = 0;
	}
	if (rx->seg < rx->nr_segs && !rx->small) {
		msg.msg_iovlen = rx_pieces(st, iov, turn, &want);
		for (size_t i = 0; i < msg.msg_iovlen; i++)
			asked += iov[i].iov_len;
		*ret_over = tcp_turn_over(st->tcp);
		if (*ret_over)
			return 0;
		n = recvmsg(st->watch.fd, &msg, MSG_DONTWAIT);
	} else {
		uint32_t room = MC_TCP_AHEAD - rx->tail;

		/* Of a frame that has begun, read all entries. */
		asked = MC_MIN(room, MC_MAX(rx->window, (uint32_t)MC_TCP_FRAME_MAX));
		if (!rx->tail && rx->seg == rx->nr_segs)
			asked = MC_MIN(room, rx->window);
		*ret_over = tcp_turn_over(st->tcp);
		if (*ret_over)
			return 0;
		n = recv(st->watch.fd, rx->buf + rx->tail, asked, MSG_DONTWAIT);
	}
	*ret_drained = n < (ssize_t)asked;
	if (n > 0) {
		if (rx->seg < rx->nr_segs && !rx->small)
			rx_took(st, (uint64_t)n);
		else
			rx->tail += (uint32_t)n;
		return n;
	}
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	r = n ? -errno : -ECONNRESET;
	tcp_stream_break(st, r, n ? strerror(errno) : "the other end has closed the stream");
	return r;
}

int tcp_recv(struct tcp_stream *st, uint64_t turn)
{
	struct tcp *tcp = st->tcp;
	uint64_t got = 0;
	bool drained = false, over;
	int calls = 0, r;

	st->rx.paused = false;
	for (;;) {
		int64_t n;

		/* Frozen since they were read, we may wake up when the bytes must not be placed. */
		over = (calls || st->rx.tail > st->rx.head || st->rx.bounce) && tcp_turn_over(tcp);
		if (over)
			break;
		r = rx_parse(st);
		if (r < 0)
			return calls;
		over = r == OVER;
		if (over)
			break;
		if (r == PAUSE) {
			st->rx.paused = true;
			break;
		}
		if (drained || got >= turn)
			break;
		n = rx_read(st, turn - got, &drained, &over);
		if (n <= 0)
			break;
		calls++;
		got += (uint64_t)n;
	}
	if (over || (got >= turn && !drained))
		st->again = true;
	if (calls) {
		mc_counter_add(tcp->c_received, got);
		mc_counter_add(tcp->c_recv_calls, (uint64_t)calls);
	}
	return calls;
}

/* The stream is broken: let go of all that is being received. */
void tcp_recv_drop(struct tcp_stream *st)
{
	struct tcp_rx *rx = &st->rx;
	bool busy = rx->bounce && rx->bounce->busy;

	for (uint32_t i = rx->seg; i < rx->nr_segs; i++)
		if (!(busy && i == rx->seg))
			seg_drop(st, &rx->segs[i]);
	if (busy)
		return; /* again, when the copy has ended */
	if (rx->bounce)
		tcp_bounce_put(st->tcp, rx->bounce);
	rx->bounce = NULL;
	rx->seg = rx->nr_segs = 0;
}
