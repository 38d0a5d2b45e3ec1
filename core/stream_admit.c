/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Admission to the port: accept, find out who speaks, read the preamble, hand the
 * stream to its owner.  A connection has 3 s to speak and takes one of 256 slots
 * until it is admitted; a new one drops the oldest.  Nothing is read beyond the
 * preamble: the rest of the stream is the owner's.
 */
#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <utlist.h>

#include "addr.h"
#include "clock.h"
#include "log.h"
#include "session.h"
#include "session_impl.h"
#include "stream_port.h"
#include "core/util/check.h"

#define SPEAK_NS (3 * MC_SEC)
#define MAX_UNADMITTED 256
#define PAUSE_NS (100 * MC_MSEC)

enum admit_state { ADMIT_SNIFF, ADMIT_HEAD, ADMIT_REST };

/* An accepted connection that has not said yet what it is. */
struct mc_admit {
	struct mc_admit *prev, *next; /* port->admits */
	struct mc_port *port;
	uv_poll_t poll;
	int fd;
	enum admit_state state;
	uint64_t deadline_ns;
	size_t have, need;
	char from[MC_ADDR_TEXT_MAX];
	uint8_t buf[MC_PREAMBLE_MAX];
};

static void port_timer(struct mc_port *port);

static void admit_closed(uv_handle_t *handle)
{
	struct mc_admit *a = handle->data;

	mc_port_unref(a->port);
	free(a);
}

/* The slot is given back; the fd is closed unless it was taken out. */
static void admit_end(struct mc_admit *a)
{
	DL_DELETE(a->port->admits, a);
	a->port->nr_admits--;
	uv_close((uv_handle_t *)&a->poll, admit_closed);
	if (a->fd >= 0)
		close(a->fd);
	a->fd = -1;
}

static void admit_drop(struct mc_admit *a, const char *why)
{
	static struct mc_ratelimit rl;
	uint32_t dropped;

	if (mc_ratelimit_ok(&rl, 5, &dropped))
		mc_warn("port %u: connection from %s dropped: %s%s", a->port->engine->port, a->from, why,
			dropped ? " (others like it were left out)" : "");
	admit_end(a);
}

static void answer(struct mc_port *port, int fd, int status, const char *why)
{
	struct mc_answer ans = {.version = status == -EPROTONOSUPPORT ? 0 : MC_STREAM_VERSION_MAX,
				.step = MC_STEP_VERDICT,
				.status = status,
				.generation = port->engine->generation};
	uint8_t out[MC_ANSWER_MAX];
	size_t len;

	if (why)
		snprintf(ans.why, sizeof ans.why, "%s", why);
	len = mc_answer_encode(&ans, out);
	/* A fresh socket's buffer takes it; if not, the dialler times out. */
	if (send(fd, out, len, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)len)
		mc_debug("port %u: an answer could not be sent: %s", port->engine->port,
			 strerror(errno));
}

void mc_stream_admit(struct mc_engine *engine)
{
	struct mc_port *port = engine->listener;

	if (port && port->current_fd >= 0 && !port->current_told) {
		port->current_told = true;
		answer(port, port->current_fd, 0, NULL);
	}
}

/* Which owner takes it; the sentence of a refusal goes to why. */
static int dispatch(struct mc_port *port, int fd, const struct mc_stream_hello *hello, char *why,
		    size_t why_size)
{
	struct mc_engine *engine = port->engine;
	struct mc_session *session;
	int r;

	if (hello->to_generation && hello->to_generation != engine->generation) {
		snprintf(why, why_size, "engine '%.200s' has another generation: it was restarted",
			 engine->name);
		return -ESTALE;
	}
	why[0] = '\0';
	switch (hello->kind) {
	case MC_STREAM_CONTROL:
		return port->owners.control ? port->owners.control(engine, fd, hello) : -ENOTSUP;
	case MC_STREAM_RPC:
		return port->owners.rpc ? port->owners.rpc(engine, fd, hello) : -ENOTSUP;
	case MC_STREAM_DATA:
		session = mc_session_lookup(engine, hello->session_id, hello->from_generation);
		if (!session) {
			snprintf(why, why_size, "no session %016llx of '%.120s' is up here",
				 (unsigned long long)hello->session_id, hello->from);
			return -ENOENT;
		}
		r = port->owners.data ? port->owners.data(engine, session, fd, hello) : -ENOTSUP;
		mc_session_unref(session);
		if (r == -EBUSY)
			snprintf(why, why_size, "session %016llx has all the data streams that it may have",
				 (unsigned long long)hello->session_id);
		return r;
	default:
		snprintf(why, why_size, "stream kind %u is not known here", hello->kind);
		return -ENOTSUP;
	}
}

static void admit_hand_over(struct mc_admit *a, const struct mc_stream_hello *hello)
{
	struct mc_port *port = a->port;
	char why[MC_ANSWER_WHY_MAX + 1] = "";
	int fd = a->fd, one = 1, r;

	a->fd = -1;
	mc_port_ref(port);
	admit_end(a);
	setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &one, sizeof one);
	/* A duplicate, for the owner may have closed its own when the answer is sent. */
	port->current_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	port->current_told = false;
	if (port->current_fd < 0) {
		close(fd);
		mc_port_unref(port);
		return;
	}
	r = dispatch(port, fd, hello, why, sizeof why);
	if (r == 0) {
		mc_stream_admit(port->engine);
	} else {
		if (!why[0])
			snprintf(why, sizeof why, "engine '%.120s' refused the stream: %s",
				 port->engine->name, strerror(-r));
		if (!port->current_told)
			answer(port, fd, r, why);
		mc_debug("stream of '%s' refused: %s", hello->from, why);
		close(fd);
	}
	close(port->current_fd);
	port->current_fd = -1;
	mc_port_unref(port);
}

/* 1: a->need bytes are here; 0: not yet; -errno: the connection is over. */
static int admit_read(struct mc_admit *a)
{
	while (a->have < a->need) {
		ssize_t n = recv(a->fd, a->buf + a->have, a->need - a->have, MSG_DONTWAIT);

		if (n == 0)
			return -ECONNRESET;
		if (n < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : -errno;
		a->have += (size_t)n;
	}
	return 1;
}

static int admit_sniff(struct mc_admit *a)
{
	uint8_t first[8];
	int one = 1;
	ssize_t n = recv(a->fd, first, sizeof first, MSG_PEEK | MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n < (ssize_t)sizeof first) {
		admit_end(a); /* ended before it said anything: a port scan or a health check */
		return -ECONNRESET;
	}
	if (mc_stream_sniff(first) != MC_SPEAKER_MOONCAKE) {
		admit_drop(a, "it does not speak our protocol");
		return -EPROTO;
	}
	setsockopt(a->fd, SOL_SOCKET, SO_RCVLOWAT, &one, sizeof one);
	a->state = ADMIT_HEAD;
	a->need = MC_PREAMBLE_FIXED;
	return 1;
}

static void admit_ready(uv_poll_t *poll, int status, int events)
{
	struct mc_admit *a = poll->data;
	struct mc_stream_hello hello;
	int r;

	if (a->state == ADMIT_SNIFF && admit_sniff(a) <= 0)
		return;
	r = admit_read(a);
	if (r > 0 && a->state == ADMIT_HEAD) {
		r = mc_preamble_length(a->buf);
		if (r > 0) {
			a->state = ADMIT_REST;
			a->need = (size_t)r;
			r = admit_read(a);
		}
	}
	if (r == 0)
		return;
	if (r == -EBADMSG)
		admit_drop(a, "its preamble is malformed");
	else if (r < 0)
		admit_end(a);
	if (r < 0)
		return;
	r = mc_preamble_decode(a->buf, a->need, &hello);
	if (r == -EPROTONOSUPPORT) {
		answer(a->port, a->fd, r, "this engine speaks version 1 of the preamble only");
		admit_drop(a, "it speaks another version");
	} else if (r < 0) {
		admit_drop(a, "its preamble is malformed");
	} else {
		admit_hand_over(a, &hello);
	}
}

static int admit_new(struct mc_port *port, int fd, const struct sockaddr *sa)
{
	struct mc_admit *a = calloc(1, sizeof *a);
	int eight = 8, one = 1, r;

	if (!a)
		return -ENOMEM;
	r = uv_poll_init(mc_control_loop(port->engine->control), &a->poll, fd);
	if (r < 0) {
		free(a);
		return r;
	}
	setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &eight, sizeof eight);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	mc_addr_of_sock(sa, a->from);
	a->poll.data = a;
	a->port = mc_port_ref(port);
	a->fd = fd;
	a->deadline_ns = mc_now_ns() + SPEAK_NS;
	if (port->nr_admits >= MAX_UNADMITTED)
		admit_drop(port->admits, "too many connections wait to be admitted");
	DL_APPEND(port->admits, a);
	port->nr_admits++;
	uv_poll_start(&a->poll, UV_READABLE, admit_ready);
	return 0;
}

static void port_ready(uv_poll_t *poll, int status, int events)
{
	struct mc_port *port = poll->data;

	/* At most so many at a time: other handles get their turn. */
	for (int i = 0; i < 64; i++) {
		struct sockaddr_storage ss;
		socklen_t len = sizeof ss;
		int fd = accept4(port->fd, (struct sockaddr *)&ss, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			break;
		if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM ||
			       errno == ENOBUFS)) {
			static struct mc_ratelimit rl;

			if (mc_ratelimit_ok(&rl, 1, &(uint32_t){0}))
				mc_warn("port %u: a connection waits: %s; raise the limit of "
					"descriptors (ulimit -n)",
					port->engine->port, strerror(errno));
			port->resume_ns = mc_now_ns() + PAUSE_NS;
			uv_poll_stop(&port->poll);
			break;
		}
		if (fd < 0)
			continue; /* that connection failed; the next may not */
		if (admit_new(port, fd, (struct sockaddr *)&ss) < 0)
			close(fd);
	}
	port_timer(port);
}

static void port_timeout(uv_timer_t *timer)
{
	struct mc_port *port = timer->data;
	uint64_t now = mc_now_ns();

	while (port->admits && port->admits->deadline_ns <= now) {
		if (port->admits->state == ADMIT_SNIFF)
			admit_end(port->admits);
		else
			admit_drop(port->admits, "its preamble did not come within 3 s");
	}
	if (port->resume_ns && port->resume_ns <= now) {
		port->resume_ns = 0;
		uv_poll_start(&port->poll, UV_READABLE, port_ready);
	}
	port_timer(port);
}

static void port_timer(struct mc_port *port)
{
	uint64_t at = port->admits ? port->admits->deadline_ns : 0, now = mc_now_ns();

	if (port->resume_ns && (!at || port->resume_ns < at))
		at = port->resume_ns;
	if (at)
		uv_timer_start(&port->timer, port_timeout, at > now ? (at - now) / MC_MSEC + 1 : 0, 0);
	else
		uv_timer_stop(&port->timer);
}

static void handle_closed(uv_handle_t *handle)
{
	mc_port_unref(handle->data);
}

void mc_port_accept_start(struct mc_port *port)
{
	uv_loop_t *loop = mc_control_loop(port->engine->control);

	uv_timer_init(loop, &port->timer);
	port->timer.data = mc_port_ref(port);
	uv_poll_init(loop, &port->poll, port->fd);
	port->poll.data = mc_port_ref(port);
	uv_poll_start(&port->poll, UV_READABLE, port_ready);
	port->has_handles = true;
}

void mc_port_accept_stop(struct mc_port *port)
{
	while (port->admits)
		admit_end(port->admits);
	if (!port->has_handles)
		return;
	port->has_handles = false;
	uv_close((uv_handle_t *)&port->poll, handle_closed);
	uv_close((uv_handle_t *)&port->timer, handle_closed);
}
