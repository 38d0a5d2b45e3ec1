/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One control connection of a session: hello, frames in and out.  What is to be
 * sent is encoded into one buffer as far as 128 KiB ahead, so a slow peer costs
 * no more than that; the rest waits in the session's queue, whence it also goes
 * again over the next connection.
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
#define OUT_AHEAD (128u << 10)
#define IN_FIRST 4096u
#define MAX_SILENT 256u /* accepted connections that have not said hello */

struct mc_conn {
	struct mc_conn *prev, *next; /* ss->conns */
	struct mc_sessions *ss;
	struct mc_session_impl *session; /* a reference; passive: NULL until its hello */
	uv_poll_t poll;
	int fd; /* -1: closed, waits for libuv */
	uint64_t id, generation; /* of the preamble */
	uint64_t deadline_ns;    /* for the hello; 0: it came */
	uint32_t no;
	uint32_t denied;                    /* passive: MC_ACCESS_REMOTE_* that the peer does not have */
	char from[MC_SEGMENT_NAME_MAX + 1]; /* passive: the name that the port judged it by */
	bool writing; /* POLLOUT is watched */
	bool silent;  /* counted in ss->nr_silent */

	uint8_t *in, *out;
	size_t in_have, in_cap, out_at, out_len, out_cap;
};

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

/* ---- out ---------------------------------------------------------------------------------- */

static int out_reserve(struct mc_conn *c, size_t more)
{
	size_t cap;
	uint8_t *out;

	if (c->out_at == c->out_len)
		c->out_at = c->out_len = 0;
	if (c->out_len + more <= c->out_cap)
		return 0;
	if (c->out_at)
		memmove(c->out, c->out + c->out_at, c->out_len - c->out_at);
	c->out_len -= c->out_at;
	c->out_at = 0;
	cap = MC_MAX(c->out_cap, 1024);
	while (cap < c->out_len + more)
		cap *= 2;
	out = realloc(c->out, cap);
	if (!out)
		return -ENOMEM;
	c->out = out;
	c->out_cap = cap;
	return 0;
}

static int out_frame(struct mc_conn *c, uint16_t type, uint64_t seq, const void *payload, size_t len)
{
	struct mc_frame frame = {.len = (uint32_t)len, .type = type, .seq = seq,
				 .ack = c->session ? c->session->received : 0};

	if (out_reserve(c, MC_FRAME_HEAD + len) < 0)
		return -ENOMEM;
	mc_frame_encode(&frame, c->out + c->out_len);
	if (len)
		memcpy(c->out + c->out_len + MC_FRAME_HEAD, payload, len);
	c->out_len += MC_FRAME_HEAD + len;
	if (c->session)
		c->session->acked = c->session->received;
	return 0;
}

/* Messages that wait, as far as there is room ahead. */
static int out_fill(struct mc_conn *c)
{
	struct mc_session_impl *i = c->session;
	int r = 0;

	if (!i || i->conn != c)
		return 0;
	pthread_mutex_lock(&i->lock);
	while (r == 0 && i->unsent && c->out_len - c->out_at < OUT_AHEAD) {
		r = out_frame(c, i->unsent->type, i->unsent->seq, i->unsent->data, i->unsent->len);
		if (r == 0)
			i->unsent = i->unsent->next;
	}
	pthread_mutex_unlock(&i->lock);
	return r;
}

static void conn_watch(struct mc_conn *c, bool writing)
{
	if (c->writing == writing)
		return;
	c->writing = writing;
	uv_poll_start(&c->poll, UV_READABLE | (writing ? UV_WRITABLE : 0), conn_ready);
}

/* 0: all is out or the socket is full; -errno: broken. */
static int out_write(struct mc_conn *c)
{
	for (;;) {
		ssize_t n;

		if (out_fill(c) < 0 && c->out_at == c->out_len)
			return -ENOMEM;
		if (c->out_at == c->out_len) {
			conn_watch(c, false);
			return 0;
		}
		n = send(c->fd, c->out + c->out_at, c->out_len - c->out_at,
			 MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			conn_watch(c, true);
			return 0;
		}
		if (n < 0)
			return -errno;
		c->out_at += (size_t)n;
	}
}

void mc_conn_flush(struct mc_conn *c)
{
	int r = c->fd < 0 ? 0 : out_write(c);

	if (r < 0)
		mc_conn_lost(c, r, strerror(-r));
}

void mc_conn_ping(struct mc_conn *c)
{
	if (out_frame(c, MC_FRAME_PING, 0, NULL, 0) == 0)
		mc_conn_flush(c);
}

void mc_conn_bye(struct mc_conn *c, int status, const char *why)
{
	uint8_t bye[4 + MC_BYE_WHY_MAX];

	if (c->fd >= 0 && out_frame(c, MC_FRAME_BYE, 0, bye, mc_bye_encode(status, why, bye)) == 0)
		(void)out_write(c); /* it is closed next, whatever becomes of this */
}

static int send_hello(struct mc_conn *c)
{
	struct mc_session_impl *i = c->session;
	char *json = mc_hello_json(c->ss->engine);
	struct mc_hello_head head = {.session_id = i->s.id,
				     .received = i->received,
				     .link = c->no,
				     .flags = i->s.state == MC_SESSION_UP ? MC_HELLO_RESUME : 0,
				     .json_len = json ? strlen(json) : 0};
	uint8_t *buf;
	int r;

	if (!json)
		return -ENOMEM;
	if (MC_HELLO_FIXED + head.json_len > MC_FRAME_MAX) {
		free(json);
		return -EMSGSIZE;
	}
	buf = malloc(MC_HELLO_FIXED + head.json_len);
	r = buf ? 0 : -ENOMEM;
	if (buf) {
		mc_hello_head_encode(&head, buf);
		memcpy(buf + MC_HELLO_FIXED, json, head.json_len);
		r = out_frame(c, MC_FRAME_HELLO, 0, buf, MC_HELLO_FIXED + head.json_len);
	}
	free(buf);
	free(json);
	return r < 0 ? r : out_write(c);
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
	r = send_hello(c);
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
		/* What waits to be sent is an answer, too; who only asks does not fill our memory. */
		if (c->out_len - c->out_at >= OUT_AHEAD)
			return 0;
		return out_frame(c, MC_FRAME_PONG, 0, NULL, 0);
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

/* An acknowledgement of its own is due: none of the messages that wait will carry it. */
static bool ack_is_due(struct mc_conn *c)
{
	struct mc_session_impl *i = c->session;
	bool unsent;

	if (!i || i->conn != c || i->acked >= i->received || c->out_at != c->out_len)
		return false;
	pthread_mutex_lock(&i->lock); /* any thread queues messages */
	unsent = i->unsent != NULL;
	pthread_mutex_unlock(&i->lock);
	return !unsent;
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
	if (r == 0 && c->fd >= 0 && ack_is_due(c))
		r = out_frame(c, MC_FRAME_ACK, 0, NULL, 0);
	if (r == 0 && c->fd >= 0)
		r = out_write(c);
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
		r = send_hello(c);
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
