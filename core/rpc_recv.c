/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Input of rpc connections.  Whole frames are handled where they were read; of a
 * frame that comes in parts, the prefix is kept in the connection and the body
 * is read straight to where it belongs: a request's into a message buffer, a
 * reply's into the caller's.  An idle connection holds no buffer.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "log.h"
#include "rpc_conn.h"

#define READS_PER_TURN 4

static bool is_up(const struct rpc_conn *conn)
{
	return atomic_load_explicit(&conn->state, memory_order_relaxed) == RPC_UP;
}

static void pong(struct rpc_conn *conn)
{
	const struct mc_rpc_head head = {.type = MC_RPC_PONG};

	/* A peer that pings and does not read is not worth memory. */
	if (atomic_fetch_add(&conn->out_bytes, MC_RPC_HEAD_LEN) > RPC_OUT_MAX ||
	    mc_rpc_conn_send(conn, &head, NULL, NULL, false) < 0)
		atomic_fetch_sub(&conn->out_bytes, MC_RPC_HEAD_LEN);
}

/* The call that a reply belongs to, if it still waits on this connection. */
static struct rpc_slot *slot_of(struct rpc_conn *conn, uint64_t id)
{
	struct rpc_slot *slot = mc_rpc_slot_find(conn->rpc, id);

	return slot && slot->conn == conn ? slot : NULL;
}

/* A frame that lies whole in memory. */
static void handle(struct rpc_conn *conn, const struct mc_rpc_head *head, const char *name,
		   const uint8_t *data)
{
	struct rpc_slot *slot;

	switch (head->type) {
	case MC_RPC_REQUEST:
		mc_rpc_serve_request(conn, head, name, data);
		break;
	case MC_RPC_REPLY:
		slot = slot_of(conn, head->id);
		if (!slot)
			break; /* it came too late */
		if (head->len > slot->call->reply_cap) {
			mc_rpc_slot_end(slot, -EMSGSIZE, head->len);
			break;
		}
		if (head->len)
			memcpy(slot->call->reply, data, head->len);
		mc_rpc_slot_end(slot, head->status, head->reply_len);
		break;
	case MC_RPC_PING:
		pong(conn);
		break;
	case MC_RPC_PONG:
		break;
	}
}

/* Begin to gather a body that is not here yet; head and name are in conn->prefix. */
static int body_begin(struct rpc_conn *conn, const struct mc_rpc_head *head)
{
	conn->head = *head;
	conn->in_body = true;
	conn->body_len = head->len;
	conn->body_got = 0;
	conn->body = NULL;
	if (head->type == MC_RPC_REQUEST) {
		conn->body_buf = mc_rpc_buf_new(conn->rpc, head->len);
		if (!conn->body_buf)
			return -ENOMEM;
		conn->body = conn->body_buf->data;
	} else {
		struct rpc_slot *slot = slot_of(conn, head->id);

		if (slot && head->len > slot->call->reply_cap)
			mc_rpc_slot_end(slot, -EMSGSIZE, head->len);
		else if (slot) {
			conn->body_slot = slot;
			conn->body = slot->call->reply;
		}
	}
	return 0;
}

static void body_end(struct rpc_conn *conn)
{
	struct rpc_buf *buf = conn->body_buf;
	struct rpc_slot *slot = conn->body_slot;

	conn->in_body = false;
	conn->prefix_len = 0;
	conn->body_buf = NULL;
	conn->body_slot = NULL;
	conn->body = NULL;
	if (buf) {
		mc_rpc_serve_request(conn, &conn->head, (const char *)conn->prefix + MC_RPC_HEAD_LEN,
				     buf->data);
		mc_rpc_buf_free(conn->rpc, buf);
	} else if (slot) {
		mc_rpc_slot_end(slot, conn->head.status, conn->head.reply_len);
	}
}

/* -errno: not a frame that may come here. */
static int read_head(struct rpc_conn *conn, const uint8_t *p, struct mc_rpc_head *head, const char **why)
{
	int r = mc_rpc_head_get(p, head, why);

	if (r == 0 && head->type == (conn->active ? MC_RPC_REQUEST : MC_RPC_REPLY)) {
		*why = "a frame in the wrong direction";
		r = -EPROTO;
	}
	return r;
}

/* Take bytes into the prefix until it has `want`; how many were taken. */
static size_t prefix_take(struct rpc_conn *conn, size_t want, const uint8_t *p, size_t n)
{
	size_t take = MC_MIN(want - conn->prefix_len, n);

	memcpy(conn->prefix + conn->prefix_len, p, take);
	conn->prefix_len += (uint32_t)take;
	return take;
}

/* Bytes of a frame whose prefix does not lie whole in p; how many were used, or -errno. */
static ssize_t take_in_parts(struct rpc_conn *conn, const uint8_t *p, size_t n, const char **why)
{
	struct mc_rpc_head head;
	size_t used = 0, want;
	int r;

	if (conn->prefix_len < MC_RPC_HEAD_LEN)
		used = prefix_take(conn, MC_RPC_HEAD_LEN, p, n);
	if (conn->prefix_len < MC_RPC_HEAD_LEN)
		return (ssize_t)used;
	r = read_head(conn, conn->prefix, &head, why);
	if (r < 0)
		return r;
	want = MC_RPC_HEAD_LEN + head.name_len;
	used += prefix_take(conn, want, p + used, n - used);
	if (conn->prefix_len < want)
		return (ssize_t)used;
	if (head.len == 0) {
		conn->prefix_len = 0;
		handle(conn, &head, (const char *)conn->prefix + MC_RPC_HEAD_LEN, NULL);
		return (ssize_t)used;
	}
	r = body_begin(conn, &head);
	return r < 0 ? r : (ssize_t)used;
}

/* Bytes of a body; how many were used. */
static ssize_t take_body(struct rpc_conn *conn, const uint8_t *p, size_t n)
{
	size_t take = MC_MIN((size_t)(conn->body_len - conn->body_got), n);

	if (conn->body)
		memcpy(conn->body + conn->body_got, p, take);
	conn->body_got += (uint32_t)take;
	if (conn->body_got == conn->body_len)
		body_end(conn);
	return (ssize_t)take;
}

/* The beginning of p, at a frame's first byte; how many bytes were used, or -errno. */
static ssize_t take_frame(struct rpc_conn *conn, const uint8_t *p, size_t n, const char **why)
{
	struct mc_rpc_head head;
	size_t prefix;
	int r;

	if (n < MC_RPC_HEAD_LEN)
		return take_in_parts(conn, p, n, why);
	r = read_head(conn, p, &head, why);
	if (r < 0)
		return r;
	prefix = MC_RPC_HEAD_LEN + head.name_len;
	if (n < prefix || n - prefix < head.len)
		return take_in_parts(conn, p, MC_MIN(n, prefix), why);
	handle(conn, &head, (const char *)p + MC_RPC_HEAD_LEN, p + prefix);
	return (ssize_t)(prefix + head.len);
}

static void input(struct rpc_conn *conn, const uint8_t *p, size_t n)
{
	const char *why = "out of memory";

	/* Whatever is called may end the connection. */
	while (n && is_up(conn)) {
		ssize_t used;

		if (conn->in_body)
			used = take_body(conn, p, n);
		else if (conn->prefix_len)
			used = take_in_parts(conn, p, n, &why);
		else
			used = take_frame(conn, p, n, &why);
		if (used < 0) {
			mc_rpc_conn_drop(conn, -EHOSTDOWN, why);
			return;
		}
		p += used;
		n -= (size_t)used;
	}
}

/* One read: bytes, 0 if there was nothing, -errno if the stream has ended. */
static ssize_t read_some(struct rpc_conn *conn, size_t *ret_asked)
{
	struct iovec iov[2];
	struct msghdr msg = {.msg_iov = iov};
	ssize_t n;

	*ret_asked = RPC_SCRATCH;
	if (conn->in_body && conn->body) {
		iov[msg.msg_iovlen++] = (struct iovec){conn->body + conn->body_got,
						       conn->body_len - conn->body_got};
		*ret_asked += conn->body_len - conn->body_got;
	}
	iov[msg.msg_iovlen++] = (struct iovec){conn->rpc->scratch, RPC_SCRATCH};
	do
		n = recvmsg(conn->fd, &msg, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n > 0)
		return n;
	if (n == 0)
		return -ECONNRESET;
	return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
}

int mc_rpc_conn_recv(struct rpc_conn *conn)
{
	int nr = 0;

	while (is_up(conn) && conn->reading && nr < READS_PER_TURN) {
		size_t asked, direct = 0;
		ssize_t n = read_some(conn, &asked);

		if (n < 0) {
			mc_rpc_conn_drop(conn, -EHOSTDOWN, strerror((int)-n));
			return nr + 1;
		}
		if (n == 0)
			break;
		nr++;
		conn->heard_ns = mc_now_ns();
		conn->pinged = false;
		mc_rpc_conn_heat(conn, conn->heard_ns);
		if (conn->in_body && conn->body) {
			direct = MC_MIN((size_t)(conn->body_len - conn->body_got), (size_t)n);
			conn->body_got += (uint32_t)direct;
			if (conn->body_got == conn->body_len)
				body_end(conn);
		}
		input(conn, conn->rpc->scratch, (size_t)n - direct);
		if ((size_t)n < asked)
			break;
	}
	return nr;
}
