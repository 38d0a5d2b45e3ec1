/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rpc connections: life, output, and noticing that a peer is gone.  Messages to
 * one peer gather until the end of a turn and leave in vectored system calls; a
 * message that nothing waits before leaves without being copied.  A failed send
 * only stops output: the descriptor announces the failure, and the connection is
 * dropped from the loop, never from inside a caller's mc_rpc_start.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "log.h"
#include "rpc_conn.h"

#define FLUSH_IOV 64

/* ---- life ------------------------------------------------------------------------------------ */

struct rpc_conn *mc_rpc_conn_new(struct mc_rpc *rpc, bool active)
{
	struct rpc_conn *conn = calloc(1, sizeof *conn);

	if (!conn)
		return NULL;
	mc_rpc_ref(rpc);
	conn->rpc = rpc;
	atomic_init(&conn->refs, 1);
	conn->active = active;
	conn->fd = -1;
	conn->out_tail = &conn->out;
	link_init(&conn->all);
	link_init(&conn->clients);
	link_init(&conn->calls);
	return conn;
}

void mc_rpc_conn_ref(struct rpc_conn *conn)
{
	atomic_fetch_add(&conn->refs, 1);
}

void mc_rpc_conn_unref(struct rpc_conn *conn)
{
	if (atomic_fetch_sub(&conn->refs, 1) != 1)
		return;
	mc_rpc_addresses_free(conn->addresses);
	free(conn->segment);
	mc_rpc_unref(conn->rpc);
	free(conn);
}

static void rewatch(struct rpc_conn *conn)
{
	mc_worker_rewatch(conn->rpc->worker, &conn->watch,
			  (conn->reading ? POLLIN : 0) | (conn->blocked ? POLLOUT : 0));
}

static void ready(struct mc_watch *w, uint32_t revents)
{
	struct rpc_conn *conn = w->user;
	struct mc_rpc *rpc = conn->rpc;

	mc_rpc_conn_ref(conn);
	if (revents & POLLOUT) {
		conn->blocked = false;
		rewatch(conn);
		mc_rpc_conn_dirty(conn);
	}
	if (conn->reading && (revents & (POLLIN | POLLERR | POLLHUP)))
		mc_rpc_conn_recv(conn);
	else if (revents & (POLLERR | POLLHUP))
		mc_rpc_conn_drop(conn, -EHOSTDOWN, "the connection broke");
	mc_rpc_conn_unref(conn);
	mc_rpc_flush(rpc);
}

/* The kernel notices a host that is gone while nothing is outstanding; what is outstanding is
 * watched by tick. */
static void set_options(int fd, uint64_t peer_timeout_ns)
{
	unsigned int ms = (unsigned int)(peer_timeout_ns / MC_MSEC);
	int on = 1, idle = 30, interval = 10, count = 3;

	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof ms);
}

int mc_rpc_conn_start(struct rpc_conn *conn, int fd)
{
	struct mc_rpc *rpc = conn->rpc;
	int r;

	set_options(fd, (uint64_t)rpc->engine->set->peer_timeout);
	conn->watch = (struct mc_watch){.size = sizeof conn->watch, .fd = fd, .events = POLLIN,
					.ready = ready, .user = conn};
	r = mc_worker_watch(rpc->worker, &conn->watch);
	if (r < 0) {
		close(fd);
		return r;
	}
	conn->fd = fd;
	conn->reading = true;
	conn->blocked = conn->pinged = false;
	conn->prefix_len = 0;
	conn->in_body = false;
	conn->heard_ns = mc_now_ns();
	atomic_store(&conn->state, RPC_UP);
	rpc->nr_up++;
	rpc->client.linked = true;
	if (conn->out)
		mc_rpc_conn_dirty(conn);
	return 0;
}

static void cool(struct rpc_conn *conn)
{
	struct mc_rpc *rpc = conn->rpc;

	if (!conn->is_hot)
		return;
	conn->is_hot = false;
	for (uint32_t i = 0; i < rpc->nr_hot; i++) {
		if (rpc->hot[i] == conn) {
			rpc->hot[i] = rpc->hot[--rpc->nr_hot];
			break;
		}
	}
	rpc->client.polled = rpc->nr_hot != 0;
}

static void clean(struct rpc_conn *conn)
{
	struct mc_rpc *rpc = conn->rpc;
	size_t bytes = 0;

	for (struct rpc_conn **at = &rpc->dirty; *at; at = &(*at)->next_dirty) {
		if (*at == conn) {
			*at = conn->next_dirty;
			break;
		}
	}
	conn->is_dirty = false;
	while (conn->out) {
		struct rpc_buf *next = conn->out->next;

		bytes += conn->out->len - conn->out->off;
		mc_rpc_buf_free(rpc, conn->out);
		conn->out = next;
	}
	conn->out_tail = &conn->out;
	atomic_fetch_sub(&conn->out_bytes, bytes);
	mc_rpc_buf_free(rpc, conn->body_buf);
	conn->body_buf = NULL;
	conn->body_slot = NULL;
	conn->body = NULL;
	conn->in_body = false;
}

void mc_rpc_conn_drop(struct rpc_conn *conn, int status, const char *why)
{
	struct mc_rpc *rpc = conn->rpc;
	uint32_t was = atomic_load(&conn->state);

	if (was == RPC_GONE)
		return;
	mc_debug("rpc connection %s '%s' ended: %s", conn->active ? "to" : "from",
		 conn->active ? conn->segment : conn->from, why);
	/* An attempt to connect goes on; it finds out for itself whether anybody wants it. */
	if (was != RPC_DIALLING)
		atomic_store(&conn->state, conn->active ? RPC_IDLE : RPC_GONE);
	if (was == RPC_WAITING)
		mc_worker_timer(rpc->worker, &conn->retry, 0);
	cool(conn);
	clean(conn);
	if (conn->fd >= 0) {
		mc_worker_unwatch(rpc->worker, &conn->watch);
		close(conn->fd);
		conn->fd = -1;
		rpc->client.linked = --rpc->nr_up != 0;
	}
	if (conn->active) {
		mc_rpc_conn_end_calls(conn, status);
		return;
	}
	atomic_store(&conn->state, RPC_GONE);
	atomic_fetch_sub(&rpc->nr_passives, 1);
	link_del(&conn->all);
	mc_rpc_serves(rpc);
	mc_rpc_conn_unref(conn);
}

/* ---- out --------------------------------------------------------------------------------------- */

void mc_rpc_conn_dirty(struct rpc_conn *conn)
{
	if (conn->is_dirty || atomic_load_explicit(&conn->state, memory_order_relaxed) != RPC_UP)
		return;
	conn->is_dirty = true;
	conn->next_dirty = conn->rpc->dirty;
	conn->rpc->dirty = conn;
}

void mc_rpc_conn_queue(struct rpc_conn *conn, struct rpc_buf *buf)
{
	buf->next = NULL;
	*conn->out_tail = buf;
	conn->out_tail = &buf->next;
	mc_rpc_conn_dirty(conn);
}

/* bytes of the queue were sent */
static void sent(struct rpc_conn *conn, size_t bytes)
{
	atomic_fetch_sub(&conn->out_bytes, bytes);
	while (bytes) {
		struct rpc_buf *buf = conn->out;
		size_t left = buf->len - buf->off;

		if (bytes < left) {
			buf->off += (uint32_t)bytes;
			return;
		}
		bytes -= left;
		conn->out = buf->next;
		if (!conn->out)
			conn->out_tail = &conn->out;
		mc_rpc_buf_free(conn->rpc, buf);
	}
}

static void block(struct rpc_conn *conn)
{
	conn->blocked = true;
	rewatch(conn);
}

/* One system call; how many bytes were taken, or -EAGAIN for any reason to wait. */
static ssize_t send_some(struct rpc_conn *conn, struct iovec *iov, size_t nr)
{
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = nr};
	ssize_t n;

	do
		n = sendmsg(conn->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n >= 0)
		return n;
	/* A broken stream is readable, and ends there. */
	if (errno != EAGAIN && errno != EWOULDBLOCK && errno != ENOBUFS)
		shutdown(conn->fd, SHUT_RDWR);
	return -EAGAIN;
}

static int flush(struct rpc_conn *conn)
{
	int n = 0;

	while (conn->out && !conn->blocked) {
		struct iovec iov[FLUSH_IOV];
		size_t nr = 0, total = 0;
		ssize_t took;

		for (struct rpc_buf *b = conn->out; b && nr < FLUSH_IOV; b = b->next) {
			iov[nr] = (struct iovec){b->data + b->off, b->len - b->off};
			total += iov[nr++].iov_len;
		}
		took = send_some(conn, iov, nr);
		if (took > 0)
			sent(conn, (size_t)took);
		if (took < 0 || (size_t)took < total)
			block(conn);
		n++;
	}
	if (!conn->active)
		mc_rpc_conn_throttle(conn);
	return n;
}

int mc_rpc_flush(struct mc_rpc *rpc)
{
	int n = 0;

	while (rpc->dirty) {
		struct rpc_conn *conn = rpc->dirty;

		rpc->dirty = conn->next_dirty;
		conn->is_dirty = false;
		n += flush(conn);
	}
	return n;
}

static int queue_rest(struct rpc_conn *conn, const struct iovec *iov, size_t nr, size_t total, size_t skip)
{
	struct rpc_buf *buf = mc_rpc_buf_new(conn->rpc, total - skip);
	uint32_t at = 0;

	if (!buf)
		return -ENOMEM;
	for (size_t i = 0; i < nr; i++) {
		size_t drop = MC_MIN(skip, iov[i].iov_len), len = iov[i].iov_len - drop;

		skip -= drop;
		if (len)
			memcpy(buf->data + at, (const char *)iov[i].iov_base + drop, len);
		at += (uint32_t)len;
	}
	mc_rpc_conn_queue(conn, buf);
	return 0;
}

int mc_rpc_conn_send(struct rpc_conn *conn, const struct mc_rpc_head *head, const char *name,
		     const void *data, bool now)
{
	uint8_t wire[MC_RPC_HEAD_LEN];
	struct iovec iov[3] = {{wire, sizeof wire}, {(void *)name, head->name_len},
			       {(void *)data, head->len}};
	size_t total = sizeof wire + head->name_len + head->len;
	ssize_t took = 0;
	int r;

	mc_rpc_head_put(wire, head);
	if (now && !conn->out && !conn->blocked && atomic_load(&conn->state) == RPC_UP) {
		took = send_some(conn, iov, 3);
		if (took < 0 || (size_t)took < total)
			block(conn);
		took = MC_MAX(took, 0);
		atomic_fetch_sub(&conn->out_bytes, (size_t)took);
		if ((size_t)took == total)
			return 0;
	}
	r = queue_rest(conn, iov, 3, total, (size_t)took);
	if (r == 0 || took == 0)
		return r;
	/* Half a frame is out and the rest cannot be kept: nothing may follow it. */
	atomic_fetch_sub(&conn->out_bytes, total - (size_t)took);
	shutdown(conn->fd, SHUT_RDWR);
	return 0;
}

void mc_rpc_conn_throttle(struct rpc_conn *conn)
{
	uint64_t bytes = conn->promised + atomic_load(&conn->out_bytes);
	bool read_on = conn->nr_open < RPC_OPEN_MAX && bytes <= RPC_PROMISED_MAX;

	if (conn->fd < 0 || conn->reading == read_on)
		return;
	/* Not for every message: read on when half of it is gone. */
	if (read_on && (conn->nr_open > RPC_OPEN_MAX / 2 || bytes > RPC_PROMISED_MAX / 2))
		return;
	conn->reading = read_on;
	rewatch(conn);
}

/* ---- the client of the worker -------------------------------------------------------------------- */

void mc_rpc_conn_heat(struct rpc_conn *conn, uint64_t now_ns)
{
	struct mc_rpc *rpc = conn->rpc;

	conn->hot_until = now_ns + RPC_HOT_NS;
	if (conn->is_hot || rpc->nr_hot == RPC_HOT_MAX)
		return;
	conn->is_hot = true;
	rpc->hot[rpc->nr_hot++] = conn;
	rpc->client.polled = true;
}

int mc_rpc_progress(struct mc_client *c, uint64_t now)
{
	struct mc_rpc *rpc = MC_CONTAINER_OF(c, struct mc_rpc, client);
	int n = 0;

	for (uint32_t i = 0; i < rpc->nr_hot; i++) {
		struct rpc_conn *conn = rpc->hot[i];
		int got;

		mc_rpc_conn_ref(conn);
		got = conn->reading ? mc_rpc_conn_recv(conn) : 0;
		n += got;
		if (!got && conn->is_hot && now > conn->hot_until)
			cool(conn);
		mc_rpc_conn_unref(conn);
	}
	return n + mc_rpc_flush(rpc);
}

int mc_rpc_arm(struct mc_client *c)
{
	return MC_CONTAINER_OF(c, struct mc_rpc, client)->dirty ? -EBUSY : 0;
}

static void ping(struct rpc_conn *conn)
{
	const struct mc_rpc_head head = {.type = MC_RPC_PING};

	conn->pinged = true;
	atomic_fetch_add(&conn->out_bytes, MC_RPC_HEAD_LEN);
	if (mc_rpc_conn_send(conn, &head, NULL, NULL, false) < 0)
		atomic_fetch_sub(&conn->out_bytes, MC_RPC_HEAD_LEN);
}

static void tick_conn(struct rpc_conn *conn, uint64_t now_ns)
{
	uint64_t bound = (uint64_t)conn->rpc->engine->set->peer_timeout;
	bool waiting = conn->active ? !link_empty(&conn->calls) : conn->nr_open != 0;

	if (conn->fd < 0 || !conn->reading || !waiting || now_ns <= conn->heard_ns)
		return;
	if (now_ns - conn->heard_ns >= bound)
		mc_rpc_conn_drop(conn, -EHOSTDOWN, "nothing was heard of the peer");
	else if (now_ns - conn->heard_ns >= bound / 2 && !conn->pinged)
		ping(conn);
}

static void each(struct rpc_link *head, void (*f)(struct rpc_conn *conn, uint64_t now_ns),
		 uint64_t now_ns)
{
	/* Calls end inside, and what they call may take any connection away: begin again then. */
	for (struct rpc_link *l = head->next; l != head;) {
		struct rpc_conn *conn = MC_CONTAINER_OF(l, struct rpc_conn, all);
		bool removed;

		mc_rpc_conn_ref(conn);
		f(conn, now_ns);
		removed = link_empty(&conn->all);
		l = removed ? head->next : conn->all.next;
		mc_rpc_conn_unref(conn);
	}
}

void mc_rpc_tick(struct mc_client *c, uint64_t now_ns)
{
	struct mc_rpc *rpc = MC_CONTAINER_OF(c, struct mc_rpc, client);

	each(&rpc->actives, tick_conn, now_ns);
	each(&rpc->passives, tick_conn, now_ns);
	mc_rpc_flush(rpc);
}

/* We were away, not the peers: give them their time again. */
static void thaw(struct rpc_conn *conn, uint64_t now_ns)
{
	conn->heard_ns = now_ns;
	conn->pinged = false;
}

void mc_rpc_frozen(struct mc_client *c)
{
	struct mc_rpc *rpc = MC_CONTAINER_OF(c, struct mc_rpc, client);

	each(&rpc->actives, thaw, mc_now_ns());
	each(&rpc->passives, thaw, mc_now_ns());
}
