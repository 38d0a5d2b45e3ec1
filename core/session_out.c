/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a control connection sends.  It is encoded into one buffer as far as 128 KiB
 * ahead, so a slow peer costs no more than that; the rest waits in the session's
 * queue, whence it also goes again over the next connection.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "session_impl.h"
#include "core/util/check.h"

#define OUT_AHEAD (128u << 10)

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

int mc_conn_write(struct mc_conn *c)
{
	for (;;) {
		ssize_t n;

		if (out_fill(c) < 0 && c->out_at == c->out_len)
			return -ENOMEM;
		if (c->out_at == c->out_len) {
			mc_conn_watch(c, false);
			return 0;
		}
		n = send(c->fd, c->out + c->out_at, c->out_len - c->out_at,
			 MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			mc_conn_watch(c, true);
			return 0;
		}
		if (n < 0)
			return -errno;
		c->out_at += (size_t)n;
	}
}

void mc_conn_flush(struct mc_conn *c)
{
	int r = c->fd < 0 ? 0 : mc_conn_write(c);

	if (r < 0)
		mc_conn_lost(c, r, strerror(-r));
}

void mc_conn_ping(struct mc_conn *c)
{
	if (out_frame(c, MC_FRAME_PING, 0, NULL, 0) == 0)
		mc_conn_flush(c);
}

int mc_conn_pong(struct mc_conn *c)
{
	/* What waits to be sent is an answer, too; who only asks does not fill our memory. */
	if (c->out_len - c->out_at >= OUT_AHEAD)
		return 0;
	return out_frame(c, MC_FRAME_PONG, 0, NULL, 0);
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

int mc_conn_ack(struct mc_conn *c)
{
	return ack_is_due(c) ? out_frame(c, MC_FRAME_ACK, 0, NULL, 0) : 0;
}

void mc_conn_bye(struct mc_conn *c, int status, const char *why)
{
	uint8_t bye[4 + MC_BYE_WHY_MAX];

	if (c->fd >= 0 && out_frame(c, MC_FRAME_BYE, 0, bye, mc_bye_encode(status, why, bye)) == 0)
		(void)mc_conn_write(c); /* it is closed next, whatever becomes of this */
}

int mc_conn_send_hello(struct mc_conn *c)
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
	return r < 0 ? r : mc_conn_write(c);
}
