/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Admission to the port: accept, find out who speaks, read the preamble, have the
 * cluster key proven where there is one, look up what the peer may, hand the
 * stream to its owner.  A connection has 3 s for all of it and takes one of 256
 * slots until it is admitted; a new one drops the oldest.  Nothing is read beyond
 * the preamble and the proof: the rest of the stream is the owner's.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <utlist.h>

#include "addr.h"
#include "admit_wire.h"
#include "clock.h"
#include "host.h"
#include "log.h"
#include "session.h"
#include "session_impl.h"
#include "stream_port.h"
#include "core/util/check.h"
#include "core/util/cleanup.h"

#define SPEAK_NS (3 * MC_SEC)
#define MAX_UNADMITTED 256
#define PAUSE_NS (100 * MC_MSEC)

enum admit_state { ADMIT_SNIFF, ADMIT_HEAD, ADMIT_REST, ADMIT_PROOF };

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
	/* While the proof is awaited. */
	struct mc_stream_hello hello;
	struct mc_admit_talk *talk;
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
	mc_admit_talk_free(a->talk);
	a->talk = NULL;
	if (a->fd >= 0)
		close(a->fd);
	a->fd = -1;
}

static void admit_drop(struct mc_admit *a, const char *why)
{
	static struct mc_ratelimit rl;
	uint32_t dropped;

	a->port->counts.dropped++;
	if (mc_ratelimit_ok(&rl, 5, &dropped))
		mc_warn("port %u: connection from %s dropped: %s%s", a->port->engine->port, a->from, why,
			dropped ? " (others like it were left out)" : "");
	admit_end(a);
}

/* talk: of a dialler that has proven the key; NULL: none was asked for, or none was given. */
static void answer(struct mc_port *port, int fd, struct mc_admit_talk *talk, int status, const char *why)
{
	struct mc_answer ans = {.version = status == -EPROTONOSUPPORT ? 0 : MC_STREAM_VERSION_MAX,
				.step = MC_STEP_VERDICT,
				.status = status,
				.generation = port->engine->generation};
	uint8_t out[MC_ANSWER_MAX];
	int len;

	if (why)
		snprintf(ans.why, sizeof ans.why, "%s", why);
	len = talk ? mc_admit_verdict(talk, &ans, out) : (int)mc_answer_encode(&ans, out);
	/* A fresh socket's buffer takes it; if not, the dialler times out. */
	if (len < 0 || send(fd, out, (size_t)len, MSG_DONTWAIT | MSG_NOSIGNAL) != len)
		mc_debug("port %u: an answer could not be sent: %s", port->engine->port,
			 strerror(errno));
}

void mc_stream_admit(struct mc_engine *engine)
{
	struct mc_port *port = engine->listener;

	if (port && port->current_fd >= 0 && !port->current_told) {
		port->current_told = true;
		answer(port, port->current_fd, port->current_talk, 0, NULL);
	}
}

/* What the peer of this name may here: in hello->denied; nothing at all: refused. */
static int look_up_rights(struct mc_port *port, struct mc_stream_hello *hello, const char *at, char *why,
			  size_t why_size)
{
	static struct mc_ratelimit rl;
	char rule[128] = "";
	uint32_t dropped;

	hello->denied = mc_access_denied(port->access, hello->from, rule, sizeof rule);
	if (hello->denied != MC_ACCESS_ALL)
		return 0;
	/* Both names at full length would not fit. */
	snprintf(why, why_size, "engine '%.60s' gives '%.60s' no access, %s", port->engine->name, hello->from,
		 rule);
	if (mc_ratelimit_ok(&rl, 1, &dropped))
		mc_warn("port %u: '%s' at %s refused: it has no access here, %s%s", port->engine->port,
			hello->from, at, rule, dropped ? " (others like it were left out)" : "");
	return -EACCES;
}

/* Which owner takes it; the sentence of a refusal goes to why. */
static int dispatch(struct mc_port *port, int fd, struct mc_stream_hello *hello, const char *at, char *why,
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
	r = look_up_rights(port, hello, at, why, why_size);
	if (r < 0)
		return r;
	why[0] = '\0';
	switch (hello->kind) {
	case MC_STREAM_CONTROL:
		return port->owners.control ? port->owners.control(engine, fd, hello) : -ENOTSUP;
	case MC_STREAM_RPC:
		return port->owners.rpc ? port->owners.rpc(engine, fd, hello) : -ENOTSUP;
	case MC_STREAM_DATA:
		session = mc_session_lookup(engine, hello->session_id, hello->from_generation);
		if (session && strcmp(session->peer->name, hello->from) != 0) {
			mc_session_unref(session);
			session = NULL;
		}
		if (!session) {
			snprintf(why, why_size, "no session %016llx of '%.120s' is up here",
				 (unsigned long long)hello->session_id, hello->from);
			return -ENOENT;
		}
		r = port->owners.data ? port->owners.data(engine, session, fd, hello) : -ENOTSUP;
		mc_session_unref(session);
		if (r == -EBUSY)
			snprintf(why, why_size, "session %016llx has a stream of this token, or all that it may have",
				 (unsigned long long)hello->session_id);
		return r;
	default:
		snprintf(why, why_size, "stream kind %u is not known here", hello->kind);
		return -ENOTSUP;
	}
}

static void admit_hand_over(struct mc_admit *a, struct mc_stream_hello *hello)
{
	struct mc_port *port = a->port;
	char from[MC_ADDR_TEXT_MAX];
	char why[MC_ANSWER_WHY_MAX + 1] = "";
	int fd = a->fd, one = 1, r;

	a->fd = -1;
	mc_port_ref(port);
	port->current_talk = mc_steal(a->talk);
	memcpy(from, a->from, sizeof from);
	admit_end(a);
	setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &one, sizeof one);
	/* A duplicate, for the owner may have closed its own when the answer is sent. */
	port->current_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	port->current_told = false;
	r = port->current_fd < 0 ? -EMFILE : dispatch(port, fd, hello, from, why, sizeof why);
	if (r == 0) {
		port->counts.admitted[hello->kind]++;
		mc_stream_admit(port->engine);
	} else {
		port->counts.refused++;
		if (!why[0])
			snprintf(why, sizeof why, "engine '%.120s' refused the stream: %s",
				 port->engine->name, strerror(-r));
		if (!port->current_told)
			answer(port, fd, port->current_talk, r, why);
		mc_debug("stream of '%s' refused: %s", hello->from, why);
		close(fd);
	}
	if (port->current_fd >= 0)
		close(port->current_fd);
	port->current_fd = -1;
	mc_admit_talk_free(port->current_talk);
	port->current_talk = NULL;
	mc_port_unref(port);
}

/* The key is not proven: tell the dialler what to do, without a proof of ours. */
static void admit_refuse(struct mc_admit *a, const char *what, const char *remedy)
{
	static struct mc_ratelimit rl;
	struct mc_port *port = a->port;
	char why[MC_ANSWER_WHY_MAX + 1];
	uint32_t dropped;

	port->counts.unproven++;
	snprintf(why, sizeof why, "engine '%.100s' refuses the connection: %s", port->engine->name, remedy);
	answer(port, a->fd, NULL, -EACCES, why);
	if (mc_ratelimit_ok(&rl, 1, &dropped))
		mc_warn("port %u: '%s' at %s refused: %s: cluster_key_file differs or is missing at one "
			"of the two%s",
			port->engine->port, a->hello.from, a->from, what,
			dropped ? " (others like it were left out)" : "");
	admit_end(a);
}

static void admit_challenge(struct mc_admit *a)
{
	const struct mc_answer ans = {.version = MC_STREAM_VERSION_MAX,
				      .step = MC_STEP_CHALLENGE,
				      .generation = a->port->engine->generation};
	uint8_t nonce[MC_ADMIT_NONCE], out[MC_ANSWER_MAX];
	int r = mc_admit_talk_new(a->port->key, a->buf, a->need, &a->talk);

	mc_random(nonce, sizeof nonce);
	if (r == 0)
		r = mc_admit_challenge(a->talk, &ans, nonce, out);
	if (r < 0 || send(a->fd, out, (size_t)r, MSG_DONTWAIT | MSG_NOSIGNAL) != r) {
		admit_end(a);
		return;
	}
	a->state = ADMIT_PROOF;
	a->have = 0;
	a->need = MC_REPLY_SIZE;
}

static void admit_reply(struct mc_admit *a)
{
	int r = mc_admit_check_reply(a->talk, a->buf, a->need);

	if (r == 0)
		admit_hand_over(a, &a->hello);
	else if (r == -EACCES)
		admit_refuse(a, "its proof of the cluster key is wrong",
			     "the proof of the cluster key is wrong: cluster_key_file must hold the same key "
			     "here and there");
	else
		admit_drop(a, "its reply to the challenge is malformed");
}

static void admit_preamble(struct mc_admit *a)
{
	int r = mc_preamble_decode(a->buf, a->need, &a->hello);

	if (r == -EPROTONOSUPPORT) {
		answer(a->port, a->fd, NULL, r, "this engine speaks version 1 of the preamble only");
		admit_drop(a, "it speaks another version");
	} else if (r < 0) {
		admit_drop(a, "its preamble is malformed");
	} else if (!a->port->key && a->hello.admission) {
		/* It will not believe an answer without a proof. */
		admit_refuse(a, "it asks for a proof of the cluster key, and this engine has none",
			     "it has no cluster key: set cluster_key_file there to the same key as here");
	} else if (!a->port->key) {
		admit_hand_over(a, &a->hello);
	} else if (!(a->hello.admission & MC_ADMIT_HMAC)) {
		admit_refuse(a, "it offers no proof of the cluster key",
			     "it wants a proof of the cluster key: set cluster_key_file here to the same key "
			     "as there");
	} else {
		admit_challenge(a);
	}
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

/* Its owner reads from the first byte on. */
static void admit_http(struct mc_admit *a)
{
	struct mc_port *port = a->port;
	char why[192] = "it speaks HTTP, which nobody answers here";
	int fd = a->fd;

	/* Before the owner may close it. */
	uv_poll_stop(&a->poll);
	if (!port->owners.http || port->owners.http(port->engine, fd, why, sizeof why) < 0) {
		admit_drop(a, why);
		return;
	}
	a->fd = -1;
	admit_end(a);
}

static int admit_sniff(struct mc_admit *a)
{
	enum mc_speaker speaker;
	uint8_t first[8];
	int one = 1;
	ssize_t n = recv(a->fd, first, sizeof first, MSG_PEEK | MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n < (ssize_t)sizeof first) {
		admit_end(a); /* ended before it said anything: a port scan or a health check */
		return -ECONNRESET;
	}
	speaker = mc_stream_sniff(first);
	if (speaker == MC_SPEAKER_HTTP) {
		admit_http(a);
		return 0;
	}
	if (speaker != MC_SPEAKER_MOONCAKE) {
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
	else if (a->state == ADMIT_PROOF)
		admit_reply(a);
	else
		admit_preamble(a);
}

/* Who is at the other end of the Unix socket. */
static void local_from(int fd, char from[MC_ADDR_TEXT_MAX])
{
	struct ucred cred = {.uid = (uid_t)-1};
	socklen_t len = sizeof cred;

	getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len);
	snprintf(from, MC_ADDR_TEXT_MAX, "process %d of user %u on this host", (int)cred.pid, (unsigned)cred.uid);
}

static int admit_new(struct mc_port *port, int fd, const struct sockaddr *sa)
{
	struct mc_admit *a = calloc(1, sizeof *a);
	int eight = 8, r;

	if (!a)
		return -ENOMEM;
	r = uv_poll_init(mc_control_loop(port->engine->control), &a->poll, fd);
	if (r < 0) {
		free(a);
		return r;
	}
	if (sa->sa_family == AF_UNIX) {
		/* It wakes us at the first byte, and speaks nothing but ours. */
		local_from(fd, a->from);
		a->state = ADMIT_HEAD;
		a->need = MC_PREAMBLE_FIXED;
	} else {
		setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &eight, sizeof eight);
		mc_stream_tune(fd);
		mc_addr_of_sock(sa, a->from);
	}
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

static void port_ready(uv_poll_t *poll, int status, int events);

static void polls_start(struct mc_port *port)
{
	uv_poll_start(&port->poll, UV_READABLE, port_ready);
	if (port->local_fd >= 0)
		uv_poll_start(&port->local_poll, UV_READABLE, port_ready);
}

static void polls_stop(struct mc_port *port)
{
	uv_poll_stop(&port->poll);
	if (port->local_fd >= 0)
		uv_poll_stop(&port->local_poll);
}

static void port_ready(uv_poll_t *poll, int status, int events)
{
	struct mc_port *port = poll->data;
	int listener = poll == &port->local_poll ? port->local_fd : port->fd;

	/* At most so many at a time: other handles get their turn. */
	for (int i = 0; i < 64; i++) {
		struct sockaddr_storage ss = {0};
		socklen_t len = sizeof ss;
		int fd = accept4(listener, (struct sockaddr *)&ss, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);

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
			polls_stop(port);
			break;
		}
		port->counts.accepted += fd >= 0;
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
		else if (port->admits->state == ADMIT_PROOF)
			admit_drop(port->admits, "its proof of the cluster key did not come within 3 s");
		else
			admit_drop(port->admits, "its preamble did not come within 3 s");
	}
	if (port->resume_ns && port->resume_ns <= now) {
		port->resume_ns = 0;
		polls_start(port);
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
	if (port->local_fd >= 0) {
		uv_poll_init(loop, &port->local_poll, port->local_fd);
		port->local_poll.data = mc_port_ref(port);
	}
	polls_start(port);
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
	if (port->local_fd >= 0)
		uv_close((uv_handle_t *)&port->local_poll, handle_closed);
	uv_close((uv_handle_t *)&port->timer, handle_closed);
}
