/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One control connection of a session, from its socket to its end: the hellos that
 * bind it to a session, and what comes in, a frame at a time.  What goes out is in
 * session_out.c.  A newer connection of the session takes the place of an older one.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <utlist.h>

#include "addr.h"
#include "clock.h"
#include "log.h"
#include "session_impl.h"
#include "stream.h"
#include "core/util/check.h"

#define HELLO_NS (3 * MC_SEC)
#define IN_FIRST 4096u
#define MAX_SILENT 256u /* accepted connections that have not said hello */

static void conn_ready(uv_poll_t *poll, int status, int events);

uint64_t mc_conn_deadline(const struct mc_conn *conn)
{
	return conn->deadline_ns;
}

struct mc_conn *mc_conn_next(struct mc_conn *conn)
{
	return conn->next;
}

/* One line about what a peer did to its connection; many of them are as good as a few. */
static void complain(const struct mc_conn *c, const char *why)
{
	static struct mc_ratelimit rl;
	struct sockaddr_storage ss = {0};
	socklen_t len = sizeof ss;
	char from[MC_ADDR_TEXT_MAX] = "an address that is not known any more";
	const char *name = c->session ? c->session->info.name : "";
	uint32_t dropped;

	if (!mc_ratelimit_ok(&rl, 5, &dropped))
		return;
	if (getpeername(c->fd, (struct sockaddr *)&ss, &len) == 0)
		mc_addr_of_sock((struct sockaddr *)&ss, from);
	mc_warn("port %u: the control connection of '%s' from %s is closed: %s%s", c->ss->engine->port, name, from, why,
		dropped ? " (others like it were left out)" : "");
}

static void heard_hello(struct mc_conn *c)
{
	c->deadline_ns = 0;
	c->ss->nr_silent -= c->silent;
	c->silent = false;
}

static void conn_closed(uv_handle_t *handle)
{
	struct mc_conn *c = handle->data;

	if (c->session)
		mc_session_unref(&c->session->s);
	mc_sessions_unref(c->ss);
	free(c->in);
	free(c->out);
	free(c);
}

void mc_conn_close(struct mc_conn *c)
{
	if (!c || c->fd < 0)
		return;
	if (c->session && c->session->conn == c)
		c->session->conn = NULL;
	if (c->session && c->session->pending == c)
		c->session->pending = NULL;
	DL_DELETE(c->ss->conns, c);
	c->ss->nr_conns--;
	heard_hello(c);
	uv_close((uv_handle_t *)&c->poll, conn_closed);
	close(c->fd);
	c->fd = -1;
}

void mc_conn_lost(struct mc_conn *c, int status, const char *why)
{
	struct mc_session_impl *i = c->session;
	bool ours = i && (i->conn == c || i->pending == c);

	if (c->fd < 0)
		return;
	mc_conn_close(c);
	if (ours)
		mc_session_conn_lost(i, status, why);
}

void mc_conn_watch(struct mc_conn *c, bool writing)
{
	if (c->writing == writing)
		return;
	c->writing = writing;
	uv_poll_start(&c->poll, UV_READABLE | (writing ? UV_WRITABLE : 0), conn_ready);
}

/* ---- in ------------------------------------------------------------------------------------ */

/* The peer has everything up to seq. */
static void forget_acked(struct mc_session_impl *i, uint64_t seq)
{
	struct mc_out_msg *done = NULL, *msg;

	pthread_mutex_lock(&i->lock);
	while (i->head && i->head->seq <= seq && i->head != i->unsent) {
		msg = i->head;
		i->head = msg->next;
		if (!i->head)
			i->tail = NULL;
		i->out_bytes -= msg->len + sizeof *msg;
		msg->next = done;
		done = msg;
	}
	pthread_mutex_unlock(&i->lock);
	while (done) {
		msg = done;
		done = msg->next;
		free(msg);
	}
}

/* This connection carries the session from now on; what the peer has not received goes again. */
static void conn_adopt(struct mc_conn *c, uint64_t peer_received)
{
	struct mc_session_impl *i = c->session;

	heard_hello(c);
	if (i->pending == c)
		i->pending = NULL;
	mc_conn_close(i->pending);
	mc_conn_close(i->conn);
	i->conn = c;
	i->conn_no = c->no;
	i->expect_ns = 0;
	i->backoff_ns = 0;
	pthread_mutex_lock(&i->lock);
	i->unsent = NULL;
	pthread_mutex_unlock(&i->lock);
	/* With `unsent` empty the whole queue may be acknowledged. */
	forget_acked(i, peer_received);
	pthread_mutex_lock(&i->lock);
	i->unsent = i->head;
	pthread_mutex_unlock(&i->lock);
	mc_session_heard(&i->s);
}

static int passive_hello(struct mc_conn *c, const struct mc_hello_head *head)
{
	struct mc_sessions *ss = c->ss;
	struct mc_session_impl *i = NULL, *other, *next;
	struct mc_error err;
	struct mc_peer_info info;
	bool new;
	int r;

	if (head->session_id != c->id)
		return -EBADMSG;
	i = mc_session_find(ss, c->id, false);
	if (i && (i->info.generation != c->generation || strcmp(i->info.name, c->from) != 0))
		return -EBADMSG;
	if (i && head->link <= i->conn_no)
		return -EALREADY; /* an older connection of it, overtaken */
	new = !i;
	if (new && (head->flags & MC_HELLO_RESUME)) {
		mc_conn_bye(c, -EHOSTDOWN, "the session has ended at this end");
		return -ENOENT;
	}
	if (new) {
		r = mc_hello_parse(head->json, head->json_len, &info, &err);
		if (r < 0) {
			complain(c, err.text);
			mc_conn_bye(c, r, err.text);
			return r;
		}
		if (info.generation != c->generation || strcmp(info.name, c->from) != 0) {
			mc_peer_info_fini(&info);
			return -EBADMSG;
		}
		/* One session of an initiator's generation: its newest. */
		HASH_ITER(hh, ss->by_id, other, next) {
			if (!other->s.active && other->info.generation == info.generation)
				mc_session_gone(other, -ECANCELED, "replaced by a newer session of its engine");
		}
		if (HASH_COUNT(ss->by_id) >= (size_t)ss->engine->set->max_peers) {
			mc_conn_bye(c, -EBUSY, "this engine has as many peers as max_peers allows");
			mc_peer_info_fini(&info);
			return -EBUSY;
		}
		i = mc_session_new(ss, false, c->id);
		if (!i) {
			mc_peer_info_fini(&info);
			return -ENOMEM;
		}
		i->info = info;
		i->s.denied = c->denied;
	}
	c->session = i;
	mc_session_ref(&i->s);
	c->no = head->link;
	conn_adopt(c, head->received);
	r = mc_conn_send_hello(c);
	if (r < 0)
		return r;
	if (new)
		mc_session_up(i);
	if (new && i->conn)
		mc_table_send(i);
	mc_sessions_arm(ss);
	return 0;
}

static int active_hello(struct mc_conn *c, const struct mc_hello_head *head)
{
	struct mc_session_impl *i = c->session;
	struct mc_error err;
	bool new = i->s.state == MC_SESSION_CONNECTING;
	int r;

	if (head->session_id != i->s.id || head->link != c->no || i->pending != c)
		return -EBADMSG;
	if (new) {
		r = mc_hello_parse(head->json, head->json_len, &i->info, &err);
		if (r < 0) {
			mc_session_gone(i, r, err.text);
			return r;
		}
		if (i->to_generation && i->info.generation != i->to_generation) {
			mc_session_gone(i, -ESTALE, "another generation answers");
			return -ESTALE;
		}
	}
	conn_adopt(c, head->received);
	if (new)
		mc_session_up(i);
	mc_sessions_arm(c->ss);
	return 0;
}

static int on_frame(struct mc_conn *c, const struct mc_frame *f, const uint8_t *payload)
{
	struct mc_session_impl *i = c->session;
	struct mc_hello_head head;
	char why[MC_BYE_WHY_MAX + 1];
	int status;

	if (c->deadline_ns && f->type != MC_FRAME_BYE) {
		if (f->type != MC_FRAME_HELLO || mc_hello_head_decode(payload, f->len, &head) < 0)
			return -EBADMSG;
		return i ? active_hello(c, &head) : passive_hello(c, &head);
	}
	if (!i)
		return -EBADMSG;
	forget_acked(i, f->ack);
	switch (f->type) {
	case MC_FRAME_HELLO:
		return -EBADMSG;
	case MC_FRAME_ACK:
	case MC_FRAME_PONG:
		return 0;
	case MC_FRAME_PING:
		return mc_conn_pong(c);
	case MC_FRAME_BYE:
		if (mc_bye_decode(payload, f->len, &status, why) < 0)
			return -EBADMSG;
		if (i->s.state == MC_SESSION_CONNECTING || i->conn == c)
			mc_session_gone(i, status ? status : -EHOSTDOWN, why);
		return -ECONNRESET;
	default:
		break;
	}
	if (f->type < MC_MSG_TABLE)
		return 0; /* of a later version */
	if (f->seq <= i->received)
		return 0; /* came before, over another connection */
	if (f->seq != i->received + 1)
		return -EPROTO;
	i->received = f->seq;
	mc_session_deliver(i, f->type, payload, f->len);
	return 0;
}

static int in_reserve(struct mc_conn *c, size_t want)
{
	uint8_t *in;

	if (want <= c->in_cap)
		return 0;
	in = realloc(c->in, want);
	if (!in)
		return -ENOMEM;
	c->in = in;
	c->in_cap = want;
	return 0;
}

/* All whole frames of the buffer. */
static int in_parse(struct mc_conn *c)
{
	size_t at = 0;
	int r = 0;

	while (r == 0 && c->fd >= 0 && c->in_have - at >= MC_FRAME_HEAD) {
		struct mc_frame f;

		r = mc_frame_decode(c->in + at, &f);
		if (r < 0)
			break;
		if (c->in_have - at < MC_FRAME_HEAD + f.len) {
			if (MC_FRAME_HEAD + f.len > c->in_cap) {
				memmove(c->in, c->in + at, c->in_have - at);
				c->in_have -= at;
				at = 0;
				r = in_reserve(c, MC_FRAME_HEAD + MC_FRAME_MAX);
			}
			break;
		}
		r = on_frame(c, &f, c->in + at + MC_FRAME_HEAD);
		at += MC_FRAME_HEAD + f.len;
	}
	if (at) {
		memmove(c->in, c->in + at, c->in_have - at);
		c->in_have -= at;
	}
	return r;
}

static int conn_read(struct mc_conn *c)
{
	int r = 0;

	/* A bounded number of reads: other connections get their turn. */
	for (int turn = 0; turn < 16 && c->fd >= 0; turn++) {
		ssize_t n = recv(c->fd, c->in + c->in_have, c->in_cap - c->in_have, MSG_DONTWAIT);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			break;
		if (n <= 0)
			return n < 0 ? -errno : -ECONNRESET;
		c->in_have += (size_t)n;
		if (c->session) {
			mc_session_heard(&c->session->s);
			c->session->expect_ns = 0;
		}
		r = in_parse(c);
		if (r < 0)
			return r;
	}
	return 0;
}

static void conn_ready(uv_poll_t *poll, int status, int events)
{
	struct mc_conn *c = poll->data;
	struct mc_session_impl *i;
	int r;

	mc_sessions_turn(c->ss);
	if (c->fd < 0)
		return; /* its session was found dead just now */
	r = conn_read(c);
	i = c->session;
	if (i)
		mc_session_ref(&i->s);
	if (i && i->s.state == MC_SESSION_UP)
		mc_table_publish(i);
	if (r == 0 && c->fd >= 0)
		r = mc_conn_ack(c);
	if (r == 0 && c->fd >= 0)
		r = mc_conn_write(c);
	if (c->fd >= 0 && (r == -EBADMSG || r == -EPROTO || r == -EMSGSIZE)) {
		complain(c, "it broke the control protocol");
		mc_conn_lost(c, r, "it broke the control protocol");
	} else if (r < 0) {
		mc_conn_lost(c, r, strerror(-r));
	}
	if (i)
		mc_session_unref(&i->s);
}

/* ---- making one ---------------------------------------------------------------------------- */

int mc_conn_new(struct mc_sessions *ss, int fd, struct mc_session_impl *active, uint64_t id,
		uint64_t generation, struct mc_conn **ret_conn)
{
	struct mc_conn *c = calloc(1, sizeof *c);
	int r = c ? in_reserve(c, IN_FIRST) : -ENOMEM;

	if (r == 0)
		r = uv_poll_init(mc_control_loop(ss->engine->control), &c->poll, fd);
	if (r < 0) {
		if (c)
			free(c->in);
		free(c);
		if (active)
			close(fd);
		return r;
	}
	c->poll.data = c;
	c->ss = ss;
	mc_sessions_ref(ss);
	c->fd = fd;
	c->id = id;
	c->generation = generation;
	c->deadline_ns = mc_now_ns() + HELLO_NS;
	DL_APPEND(ss->conns, c);
	ss->nr_conns++;
	uv_poll_start(&c->poll, UV_READABLE, conn_ready);
	if (active) {
		c->session = active;
		mc_session_ref(&active->s);
		c->no = ++active->conn_no;
		active->pending = c;
		r = mc_conn_send_hello(c);
		if (r < 0) {
			mc_conn_close(c);
			return r;
		}
	}
	if (ret_conn)
		*ret_conn = c;
	mc_sessions_arm(ss);
	return 0;
}

/* The oldest that has said nothing makes room. */
static void drop_silent(struct mc_sessions *ss)
{
	struct mc_conn *c;

	DL_SEARCH_SCALAR(ss->conns, c, silent, true);
	complain(c, "too many connections wait to say hello");
	mc_conn_close(c);
}

int mc_session_accept(struct mc_engine *engine, int fd, const struct mc_stream_hello *hello)
{
	struct mc_sessions *ss = engine->sessions;
	struct mc_conn *c;
	int r;

	if (!ss || ss->closing)
		return -ECONNREFUSED;
	/* Twice the peers: a session may be on the way to its next connection. */
	if (ss->nr_conns >= 2 * (size_t)engine->set->max_peers + MAX_SILENT)
		return -EBUSY;
	if (ss->nr_silent >= MAX_SILENT)
		drop_silent(ss);
	r = mc_conn_new(ss, fd, NULL, hello->session_id, hello->from_generation, &c);
	if (r < 0)
		return r;
	c->silent = true;
	ss->nr_silent++;
	c->denied = hello->denied;
	memcpy(c->from, hello->from, sizeof c->from);
	return 0;
}
