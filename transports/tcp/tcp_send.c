/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp transport, bytes going out.  A stream sends one packet at a time: as many
 * whole frames as fit, heads and tiny payloads gathered in tx->buf, larger payloads
 * straight from where they lie.  The next packet is built when the last byte of the
 * present one is in the socket, so all answers that came up meanwhile share it.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <utlist.h>

#include "tcp.h"

static void piece_add_as(struct tcp_tx *tx, const void *ptr, uint64_t len, bool lends)
{
	if (!len)
		return;
	tx->built += len;
	if (tx->nr_iov && tx->lends[tx->nr_iov - 1] == lends) {
		struct iovec *last = &tx->iov[tx->nr_iov - 1];

		if ((uint8_t *)last->iov_base + last->iov_len == (const uint8_t *)ptr) {
			last->iov_len += len;
			return;
		}
	}
	tx->lends[tx->nr_iov] = lends;
	tx->iov[tx->nr_iov++] = (struct iovec){ (void *)ptr, len };
}

static void piece_add(struct tcp_tx *tx, const void *ptr, uint64_t len)
{
	piece_add_as(tx, ptr, len, false);
}

/* Room in tx->buf, beside a frame's head. */
static uint32_t entries_room(const struct tcp_tx *tx, uint32_t entry)
{
	uint32_t room = MC_TCP_TXBUF - tx->fill;

	return room < MC_TCP_HEAD_SIZE ? 0 : (room - (uint32_t)MC_TCP_HEAD_SIZE) / entry;
}

static uint8_t *head_begin(struct tcp_tx *tx)
{
	return tx->buf + tx->fill;
}

static void head_end(struct tcp_tx *tx, uint8_t *p, enum tcp_frame type, uint32_t nr,
		     uint32_t entry, uint64_t generation)
{
	uint32_t size = (uint32_t)MC_TCP_HEAD_SIZE + nr * entry;

	tcp_head_put(p, type, nr, generation);
	piece_add(tx, p, size);
	tx->fill += size;
}

/* ---- initiator: WRITE and READ frames ---------------------------------------------------- */

static bool op_tiny(const struct tcp_op *op)
{
	return op->slice->opcode == MC_OP_WRITE && op->slice->len <= MC_TCP_TINY;
}

/* One frame of slices of one opcode from the queue's head.  Bytes of the frame, or 0 when it
 * would not fit. */
static uint64_t build_requests(struct tcp_stream *st, uint64_t limit)
{
	struct tcp_tx *tx = &st->tx;
	uint8_t opcode = st->queue->slice->opcode, *p = head_begin(tx), *entry;
	uint32_t nr = 0, room = MC_TCP_TXBUF - tx->fill, pieces = MC_TCP_IOV - tx->nr_iov;
	uint32_t need = MC_TCP_HEAD_SIZE;
	uint64_t bytes = 0;
	struct tcp_op *op;

	entry = p + MC_TCP_HEAD_SIZE;
	for (op = st->queue; op; op = op->next) {
		const struct mc_slice *s = op->slice;
		uint32_t more = MC_TCP_ENTRY_MAX + (op_tiny(op) ? (uint32_t)s->len : 0);

		if (s->opcode != opcode || nr == MC_TCP_FRAME_NR || need + more > room ||
		    nr + 2 > pieces || (bytes >= limit && opcode == MC_OP_WRITE))
			break;
		need += more;
		tcp_request_put(entry, s->remote_offset, (uint32_t)s->len, op->tag);
		entry += MC_TCP_ENTRY_MAX;
		bytes += s->len;
		nr++;
	}
	if (!nr)
		return 0;
	head_end(tx, p, opcode == MC_OP_WRITE ? TCP_FRAME_WRITE : TCP_FRAME_READ, nr,
		 MC_TCP_ENTRY_MAX, st->peer->generation);
	while (nr--) {
		op = st->queue;
		DL_DELETE(st->queue, op);
		op->state = TCP_OP_SENT;
		if (op_tiny(op)) {
			memcpy(tx->buf + tx->fill, op->slice->local, op->slice->len);
			piece_add(tx, tx->buf + tx->fill, op->slice->len);
			tx->fill += (uint32_t)op->slice->len;
		} else if (opcode == MC_OP_WRITE) {
			piece_add_as(tx, op->slice->local, op->slice->len, op->slice->len >= MC_TCP_LEND_MIN);
		}
		op->end = tx->built;
	}
	return need + (opcode == MC_OP_WRITE ? bytes : 0);
}

/* ---- target: ACK and DATA frames --------------------------------------------------------- */

/* tcp_recv accepts no frame whose answers would not fit, so there is room. */
bool tcp_answer_ack(struct tcp_stream *st, uint32_t tag, uint32_t status)
{
	struct tcp_tx *tx = &st->tx;

	if (tx->ack_tail - tx->ack_head == MC_TCP_ANSWERS)
		return false;
	tx->acks[tx->ack_tail++ % MC_TCP_ANSWERS] = (struct tcp_wire_ack){ tag, status };
	return true;
}

static uint64_t build_acks(struct tcp_stream *st)
{
	struct tcp_tx *tx = &st->tx;
	uint32_t nr = MC_MIN(tx->ack_tail - tx->ack_head, MC_TCP_FRAME_NR);
	uint8_t *p = head_begin(tx);

	nr = MC_MIN(nr, entries_room(tx, sizeof(struct tcp_wire_ack)));
	if (!nr || tx->nr_iov == MC_TCP_IOV)
		return 0;
	for (uint32_t i = 0; i < nr; i++) {
		const struct tcp_wire_ack *a = &tx->acks[tx->ack_head++ % MC_TCP_ANSWERS];

		tcp_ack_put(p + MC_TCP_HEAD_SIZE + i * sizeof *a, a->tag, a->status);
	}
	tx->unacked = 0;
	tx->press = false;
	head_end(tx, p, TCP_FRAME_ACK, nr, sizeof(struct tcp_wire_ack), 0);
	return MC_TCP_HEAD_SIZE + nr * sizeof(struct tcp_wire_ack);
}

/* One frame of READs from the ring's head; stops before one of foreign memory, which becomes
 * tx->foreign.  Bytes of the frame, or 0 when none was built. */
static uint64_t build_data(struct tcp_stream *st, uint64_t limit)
{
	const struct mc_host *h = st->tcp->host;
	struct tcp_tx *tx = &st->tx;
	uint32_t nr = 0, first = tx->nr_ranges;
	uint32_t room = entries_room(tx, sizeof(struct tcp_wire_data));
	uint8_t *p = head_begin(tx);
	uint64_t bytes = 0;

	while (tx->read_head != tx->read_tail && nr < MC_TCP_FRAME_NR && nr < room &&
	       tx->nr_iov + nr + 2 <= MC_TCP_IOV && tx->nr_ranges < MC_TCP_FRAME_NR &&
	       bytes < limit) {
		const struct tcp_read *rd = &tx->reads[tx->read_head % MC_TCP_ANSWERS];
		struct mc_range *range = &tx->ranges[tx->nr_ranges];
		uint32_t status;

		range->size = sizeof *range;
		status = tcp_status_of(h->range_get(h, st->peer, rd->generation, rd->offset,
						    rd->len, MC_ACCESS_REMOTE_READ, range));
		tx->read_head++;
		if (status == TCP_STATUS_OK && rd->len && strcmp(range->kind, "cpu") != 0) {
			tx->foreign.active = true;
			tx->foreign.headed = false;
			tx->foreign.read = *rd;
			tx->foreign.range = *range;
			tx->foreign.left = rd->len;
			break;
		}
		tcp_data_put(p + MC_TCP_HEAD_SIZE + nr * sizeof(struct tcp_wire_data), rd->tag,
			     status, status == TCP_STATUS_OK ? rd->len : 0);
		nr++;
		if (status != TCP_STATUS_OK) {
			mc_counter_add(st->tcp->c_refused, 1);
			continue;
		}
		bytes += rd->len;
		tx->range_len[tx->nr_ranges++] = rd->len;
	}
	if (!nr)
		return 0;
	head_end(tx, p, TCP_FRAME_DATA, nr, sizeof(struct tcp_wire_data), 0);
	for (uint32_t i = first; i < tx->nr_ranges; i++)
		piece_add(tx, tx->ranges[i].addr, tx->range_len[i]);
	return MC_TCP_HEAD_SIZE + nr * sizeof(struct tcp_wire_data) + bytes;
}

static void foreign_end(struct tcp_stream *st)
{
	struct tcp_tx *tx = &st->tx;

	if (tx->foreign.bounce)
		tcp_bounce_put(st->tcp, tx->foreign.bounce);
	tx->foreign.bounce = NULL;
	tx->foreign.active = false;
	st->tcp->host->range_put(st->tcp->host, &tx->foreign.range);
}

/* The next packet of a READ of foreign memory: its head with the first chunk, then chunk by chunk;
 * nothing else may be sent in between. */
static uint64_t build_foreign(struct tcp_stream *st)
{
	struct tcp_tx *tx = &st->tx;
	uint64_t total = tx->foreign.read.len, n;
	struct tcp_bounce *b = tx->foreign.bounce;
	int r;

	if (!tx->foreign.left) {
		foreign_end(st);
		return 0;
	}
	n = MC_MIN(tx->foreign.left, MC_TCP_CHUNK);
	if (!b) {
		b = tx->foreign.bounce = tcp_bounce_get(st);
		if (!b)
			return 0;
	}
	if (b->busy)
		return 0;
	r = b->status;
	if (!r && !b->fill) {
		r = tcp_bounce_copy(b, &tx->foreign.range,
				    (uint8_t *)tx->foreign.range.addr + total - tx->foreign.left,
				    n, true);
		if (r == -EAGAIN) {
			st->again = true;
			return 0;
		}
		b->fill = n;
		if (!r)
			return 0;
	}
	if (r < 0 && tx->foreign.headed) {
		tcp_stream_break(st, r, "a memory plugin failed in the middle of an answer");
		return 0;
	}
	if (!tx->foreign.headed) {
		uint8_t *p = head_begin(tx);

		tcp_data_put(p + MC_TCP_HEAD_SIZE, tx->foreign.read.tag,
			     r < 0 ? TCP_STATUS_IO : TCP_STATUS_OK, r < 0 ? 0 : (uint32_t)total);
		head_end(tx, p, TCP_FRAME_DATA, 1, sizeof(struct tcp_wire_data), 0);
		tx->foreign.headed = true;
	}
	if (r < 0) {
		foreign_end(st);
		return 1;
	}
	piece_add(tx, b->buf, n);
	b->fill = 0;
	tx->foreign.left -= n;
	return n;
}

/* ---- packets ----------------------------------------------------------------------------- */

bool tcp_send_pending(const struct tcp_stream *st)
{
	const struct tcp_tx *tx = &st->tx;

	return tx->iov_idx < tx->nr_iov || st->queue || tx->ack_head != tx->ack_tail ||
	       tx->read_head != tx->read_tail || tx->foreign.active;
}

/* Is there something that should not wait?  Acknowledgements inside a frame do, for company: each
 * call that sends some disturbs the other end in its own. */
bool tcp_send_due(const struct tcp_stream *st)
{
	const struct tcp_tx *tx = &st->tx;

	if (tx->iov_idx < tx->nr_iov || st->queue || tx->read_head != tx->read_tail ||
	    tx->foreign.active)
		return true;
	if (tx->ack_head == tx->ack_tail)
		return false;
	return st->rx.seg == st->rx.nr_segs || st->rx.paused || tx->press ||
	       tx->unacked >= MC_TCP_ACK || tx->ack_tail - tx->ack_head >= MC_TCP_ACKS;
}

/* The packet is sent: its ranges may go. */
static void packet_done(struct tcp_stream *st)
{
	struct tcp_tx *tx = &st->tx;

	for (uint32_t i = 0; i < tx->nr_ranges; i++)
		st->tcp->host->range_put(st->tcp->host, &tx->ranges[i]);
	tx->nr_ranges = tx->nr_iov = tx->iov_idx = tx->fill = 0;
}

static void packet_build(struct tcp_stream *st, uint64_t limit)
{
	struct tcp_tx *tx = &st->tx;
	uint64_t bytes = 0, n;

	if (tx->foreign.active && tx->foreign.headed) {
		build_foreign(st);
		if (tx->nr_iov || tx->foreign.active || st->watch.fd < 0)
			return;
	}
	do {
		n = 0;
		if (tx->ack_head != tx->ack_tail)
			n += build_acks(st);
		if (tx->foreign.active) {
			if (tx->nr_iov < MC_TCP_IOV - 2 &&
			    entries_room(tx, sizeof(struct tcp_wire_data)))
				build_foreign(st);
			return;
		}
		if (st->queue)
			n += build_requests(st, limit - bytes);
		if (tx->read_head != tx->read_tail)
			n += build_data(st, limit - bytes);
		bytes += n;
	} while (n && bytes < limit);
}

/* Copy about `turn` bytes of the packet into the socket, up to what is better lent.  Bytes, 0 when it is full, or
 * -errno. */
static int64_t packet_copy(struct tcp_stream *st, uint64_t turn, uint64_t *ret_asked)
{
	struct tcp_tx *tx = &st->tx;
	struct msghdr msg = { .msg_iov = tx->iov + tx->iov_idx };
	uint32_t end = tx->iov_idx;
	uint64_t asked = 0, cut = 0;
	int flags = MSG_DONTWAIT | MSG_NOSIGNAL;
	ssize_t n;

	while (end < tx->nr_iov && asked < turn) {
		if (end > tx->iov_idx && tx->lends[end] && !tx->lends[end - 1] && tcp_lend_bytes(st, end, turn)) {
			flags |= MSG_MORE; /* it follows at once */
			break;
		}
		asked += tx->iov[end++].iov_len;
	}
	/* A short rest would cost a call, and a segment, of its own. */
	if (asked > turn + turn / 4) {
		cut = asked - turn;
		tx->iov[end - 1].iov_len -= cut;
		asked = turn;
	}
	msg.msg_iovlen = end - tx->iov_idx;
	n = sendmsg(st->watch.fd, &msg, flags);
	if (cut)
		tx->iov[end - 1].iov_len += cut;
	*ret_asked = asked;
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	return n;
}

/* Hand about `turn` bytes of the packet to the socket.  Bytes, 0 when it is full, or -errno. */
static int64_t packet_send(struct tcp_stream *st, uint64_t turn)
{
	struct tcp_tx *tx = &st->tx;
	uint64_t asked = tcp_lend_bytes(st, tx->iov_idx, turn), left;
	int64_t n = asked ? tcp_lend(st, asked) : -EOPNOTSUPP;

	if (n == -EOPNOTSUPP)
		n = packet_copy(st, turn, &asked);
	if (n < 0) {
		tcp_stream_break(st, (int)n, strerror((int)-n));
		return n;
	}
	tx->blocked = (uint64_t)n < asked;
	tx->sent += (uint64_t)n;
	for (left = (uint64_t)n; left && left >= tx->iov[tx->iov_idx].iov_len; tx->iov_idx++)
		left -= tx->iov[tx->iov_idx].iov_len;
	if (left) {
		tx->iov[tx->iov_idx].iov_base = (uint8_t *)tx->iov[tx->iov_idx].iov_base + left;
		tx->iov[tx->iov_idx].iov_len -= left;
	}
	return n;
}

int tcp_send(struct tcp_stream *st, uint64_t turn)
{
	struct tcp_tx *tx = &st->tx;
	struct tcp *tcp = st->tcp;
	uint64_t sent = 0;
	int calls = 0;

	while (sent < turn - turn / 4) {
		int64_t n;

		if (tx->iov_idx == tx->nr_iov) {
			packet_done(st);
			packet_build(st, turn - sent);
			if (!tx->nr_iov)
				break;
		}
		n = packet_send(st, turn - sent);
		if (n <= 0)
			break;
		calls++;
		sent += (uint64_t)n;
		if (tx->blocked)
			break;
	}
	if (st->watch.fd < 0)
		return calls;
	if (tx->iov_idx == tx->nr_iov)
		packet_done(st);
	if (sent && !tx->blocked && tcp_send_pending(st))
		st->again = true;
	if (calls) {
		mc_counter_add(tcp->c_sent, sent);
		mc_counter_add(tcp->c_send_calls, (uint64_t)calls);
	}
	return calls;
}

/* The stream is broken: let go of all that was to be sent. */
void tcp_send_drop(struct tcp_stream *st)
{
	struct tcp_tx *tx = &st->tx;

	tcp_lend_drop(st);
	packet_done(st);
	tx->ack_head = tx->ack_tail;
	tx->read_head = tx->read_tail;
	if (tx->foreign.active && !(tx->foreign.bounce && tx->foreign.bounce->busy))
		foreign_end(st);
}
