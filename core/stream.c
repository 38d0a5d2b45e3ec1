/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The listening side of the port: bind, accept, find out who speaks, read the
 * preamble, hand the stream to its owner.  A connection has 3 s to speak and
 * takes one of 256 slots until it is admitted; a new one drops the oldest.
 * Nothing is read beyond the preamble: the rest of the stream is the owner's.
 */
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
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
#define BACKLOG 1024

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

struct mc_port *mc_port_ref(struct mc_port *port)
{
	__atomic_fetch_add(&port->refs, 1, __ATOMIC_RELAXED);
	return port;
}

void mc_port_unref(struct mc_port *port)
{
	if (__atomic_sub_fetch(&port->refs, 1, __ATOMIC_ACQ_REL) > 0)
		return;
	mc_addr_list_free(port->addresses);
	free(port);
}

static struct mc_port *port_get(struct mc_engine *engine)
{
	if (!engine->listener) {
		struct mc_port *port = calloc(1, sizeof *port);

		if (!port)
			return NULL;
		port->engine = engine;
		port->refs = 1;
		port->fd = port->current_fd = -1;
		engine->listener = port;
	}
	return engine->listener;
}

int mc_stream_set_owners(struct mc_engine *engine, const struct mc_stream_owners *owners)
{
	struct mc_port *port = port_get(engine);

	if (!port)
		return -ENOMEM;
	if (owners->control)
		port->owners.control = owners->control;
	if (owners->data)
		port->owners.data = owners->data;
	if (owners->rpc)
		port->owners.rpc = owners->rpc;
	return 0;
}

char **mc_engine_addresses(struct mc_engine *engine)
{
	static char *none[] = {NULL};

	return engine->listener && engine->listener->addresses ? engine->listener->addresses : none;
}

/* ---- admission --------------------------------------------------------------------------- */

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

/* ---- the port ---------------------------------------------------------------------------- */

/* One listening socket; the port that was bound goes to *port. */
static int bind_one(const struct sockaddr_storage *ss, socklen_t len, uint16_t *port, int *ret_fd)
{
	struct sockaddr_storage at = *ss;
	int one = 1, zero = 0, r, fd;

	fd = socket(at.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (at.ss_family == AF_INET6) {
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
		((struct sockaddr_in6 *)&at)->sin6_port = htons(*port);
	} else {
		((struct sockaddr_in *)&at)->sin_port = htons(*port);
	}
	if (bind(fd, (struct sockaddr *)&at, len) < 0 || listen(fd, BACKLOG) < 0 ||
	    getsockname(fd, (struct sockaddr *)&at, &len) < 0) {
		r = -errno;
		close(fd);
		return r;
	}
	*port = at.ss_family == AF_INET6 ? ntohs(((struct sockaddr_in6 *)&at)->sin6_port)
					 : ntohs(((struct sockaddr_in *)&at)->sin_port);
	*ret_fd = fd;
	return 0;
}

static int bind_any(struct mc_port *p, uint16_t *port, int *ret_fd)
{
	struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_ANY_INIT};
	struct sockaddr_in four = {.sin_family = AF_INET};
	struct sockaddr_storage ss = {0};
	int r;

	memcpy(&ss, &six, sizeof six);
	r = bind_one(&ss, sizeof six, port, ret_fd);
	p->v6 = r == 0;
	if (r != -EAFNOSUPPORT && r != -EADDRNOTAVAIL)
		return r;
	memset(&ss, 0, sizeof ss);
	memcpy(&ss, &four, sizeof four);
	return bind_one(&ss, sizeof four, port, ret_fd);
}

static int bind_named(struct mc_port *p, const char *listen, uint16_t *port, int *ret_fd,
		      struct mc_error *err)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *ai;
	struct sockaddr_storage ss = {0};
	struct mc_addr addr;
	socklen_t len;
	int r;

	if (mc_addr_parse(listen, &addr) < 0 || addr.port)
		return mc_fail(err, -EINVAL,
			       "listen_address '%s': not an address; give a host without a port, such "
			       "as 192.0.2.1 or ::1",
			       listen);
	r = getaddrinfo(addr.host, NULL, &hints, &ai);
	if (r != 0)
		return mc_fail(err, -EADDRNOTAVAIL, "listen_address '%s': %s", listen, gai_strerror(r));
	memcpy(&ss, ai->ai_addr, ai->ai_addrlen);
	len = ai->ai_addrlen;
	freeaddrinfo(ai);
	p->v6 = ss.ss_family == AF_INET6;
	r = bind_one(&ss, len, port, ret_fd);
	if (r < 0 && r != -EADDRINUSE)
		return mc_fail(err, r, "listen_address '%s': %s; name an address of this host", listen,
			       strerror(-r));
	return r;
}

static int port_bind(struct mc_port *p, uint16_t *port, int *ret_fd, struct mc_error *err)
{
	const char *listen = p->engine->set->listen_address;
	int r;

	if (listen && *listen)
		return bind_named(p, listen, port, ret_fd, err);
	r = bind_any(p, port, ret_fd);
	if (r < 0 && r != -EADDRINUSE)
		mc_fail(err, r, "port %u: cannot listen: %s", *port, strerror(-r));
	return r;
}

/* The addresses of peers' dials: what the user says, else what we listen on. */
static int port_addresses(struct mc_port *p, uint16_t port, struct mc_error *err)
{
	const struct mc_settings *set = p->engine->set;

	if (set->advertise_address && *set->advertise_address)
		return mc_addr_list(set->advertise_address, port, &p->addresses, err);
	if (set->listen_address && *set->listen_address) {
		struct mc_addr a;
		struct sockaddr_storage ss;
		bool any = mc_addr_parse(set->listen_address, &a) == 0 &&
			   mc_addr_numeric(&a, &ss) > 0 &&
			   (ss.ss_family == AF_INET
				    ? ((struct sockaddr_in *)&ss)->sin_addr.s_addr == INADDR_ANY
				    : IN6_IS_ADDR_UNSPECIFIED(&((struct sockaddr_in6 *)&ss)->sin6_addr));

		if (!any)
			return mc_addr_list(set->listen_address, port, &p->addresses, err);
	}
	p->addresses = mc_addr_interfaces(port, p->v6);
	if (!p->addresses)
		return mc_fail(err, -ENOMEM, "port %u: out of memory", port);
	if (!p->addresses[0])
		return mc_fail(err, -EADDRNOTAVAIL,
			       "port %u: no interface of this host has an address; set advertise_address",
			       port);
	return 0;
}

static void port_start(void *arg)
{
	struct mc_port *port = arg;
	uv_loop_t *loop = mc_control_loop(port->engine->control);

	uv_timer_init(loop, &port->timer);
	port->timer.data = mc_port_ref(port);
	uv_poll_init(loop, &port->poll, port->fd);
	port->poll.data = mc_port_ref(port);
	uv_poll_start(&port->poll, UV_READABLE, port_ready);
	port->has_handles = true;
}

/* Whether the user chose the port himself, in `port` or as part of the name; and which. */
static bool port_wanted(const struct mc_engine *engine, uint16_t *ret_port)
{
	const struct mc_settings *set = engine->set;
	uint16_t named = set->local_server_name ? mc_name_port(set->local_server_name) : 0;
	bool chosen = !engine->config ||
		      mc_config_origin(engine->config, "port") > MC_ORIGIN_MANIFEST;

	*ret_port = (uint16_t)set->port;
	if (chosen || !named)
		return chosen;
	*ret_port = named;
	return true;
}

int mc_stream_listen(struct mc_engine *engine, struct mc_error *err)
{
	struct mc_port *port = port_get(engine);
	uint16_t wanted, bound;
	bool chosen;
	int r;

	if (!port)
		return mc_fail(err, -ENOMEM, "port: out of memory");
	chosen = port_wanted(engine, &wanted);
	bound = wanted;
	r = port_bind(port, &bound, &port->fd, err);
	if (r == -EADDRINUSE && !chosen) {
		bound = 0;
		r = port_bind(port, &bound, &port->fd, err);
		if (r == 0)
			mc_warn("port %u is in use on this host: using port %u instead", wanted, bound);
	}
	if (r == -EADDRINUSE)
		return mc_fail(err, r,
			       "port %u is in use on this host: choose another with --port or 0 for any",
			       wanted);
	if (r < 0)
		return r;
	r = port_addresses(port, bound, err);
	if (r < 0) {
		close(port->fd);
		port->fd = -1;
		return r;
	}
	engine->port = bound;
	mc_control_call(engine->control, port_start, port);
	return 0;
}

static void port_handle_closed(uv_handle_t *handle)
{
	mc_port_unref(handle->data);
}

static void port_stop(void *arg)
{
	struct mc_port *port = arg;

	__atomic_store_n(&port->closed, true, __ATOMIC_RELEASE);
	while (port->admits)
		admit_end(port->admits);
	mc_dials_cancel(port);
	if (port->has_handles) {
		uv_close((uv_handle_t *)&port->poll, port_handle_closed);
		uv_close((uv_handle_t *)&port->timer, port_handle_closed);
		port->has_handles = false;
	}
	if (port->fd >= 0)
		close(port->fd);
	port->fd = -1;
}

void mc_stream_unlisten(struct mc_engine *engine)
{
	if (engine->listener)
		mc_control_call(engine->control, port_stop, engine->listener);
}

void mc_stream_free(struct mc_engine *engine)
{
	if (!engine->listener)
		return;
	mc_stream_unlisten(engine);
	mc_port_unref(engine->listener);
	engine->listener = NULL;
}
