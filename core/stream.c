/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The port itself: bind it as the user says, or find a free one, know the
 * addresses under which peers reach it, and take it down again.
 */
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "addr.h"
#include "clock.h"
#include "helper.h"
#include "log.h"
#include "stream_port.h"
#include "core/util/check.h"

#define BACKLOG 1024
#define LOOKUP_NS (3 * MC_SEC)

/* Are both ends of a connection at one address?  Then it does not leave this host. */
static bool within_host(int fd)
{
	struct sockaddr_storage here, there;
	socklen_t here_len = sizeof here, there_len = sizeof there;

	if (getsockname(fd, (struct sockaddr *)&here, &here_len) < 0 || getpeername(fd, (struct sockaddr *)&there, &there_len) < 0)
		return false;
	if (here.ss_family == AF_INET6)
		return IN6_ARE_ADDR_EQUAL(&((struct sockaddr_in6 *)&here)->sin6_addr, &((struct sockaddr_in6 *)&there)->sin6_addr);
	return here.ss_family == AF_INET &&
	       ((struct sockaddr_in *)&here)->sin_addr.s_addr == ((struct sockaddr_in *)&there)->sin_addr.s_addr;
}

void mc_stream_tune(int fd)
{
	static const char unpaced[] = "reno"; /* every kernel has it, and lets everybody use it */
	/* What waits here for room at the other end would be sent by the receiving processor, which has enough to do. */
	int one = 1, unsent = 128 << 10;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (!within_host(fd))
		return;
	setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, unpaced, sizeof unpaced - 1);
	setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof unsent);
}

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
	free(port->local_path);
	mc_admit_key_free(port->key);
	mc_access_free(port->access);
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
		port->fd = port->local_fd = port->current_fd = -1;
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
	if (owners->http)
		port->owners.http = owners->http;
	return 0;
}

char **mc_engine_addresses(struct mc_engine *engine)
{
	static char *none[] = {NULL};

	return engine->listener && engine->listener->addresses ? engine->listener->addresses : none;
}

const char *mc_engine_local_path(const struct mc_engine *engine)
{
	return engine->listener ? engine->listener->local_path : NULL;
}

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

/* ---- advertised addresses ------------------------------------------------------------------ */

/* One look-up of a name; it may outlast the open that asked, on its helper. */
struct lookup {
	struct mc_job job;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned refs; /* under lock, like what follows */
	bool done;
	int answer;
	char host[MC_HOST_MAX + 1];
};

static void lookup_leave(struct lookup *l)
{
	bool last = --l->refs == 0;

	pthread_mutex_unlock(&l->lock);
	if (!last)
		return;
	pthread_cond_destroy(&l->changed);
	pthread_mutex_destroy(&l->lock);
	free(l);
}

static void lookup_run(struct mc_job *job)
{
	struct lookup *l = MC_CONTAINER_OF(job, struct lookup, job);
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *ai;
	int r = getaddrinfo(l->host, NULL, &hints, &ai);

	if (r == 0)
		freeaddrinfo(ai);
	pthread_mutex_lock(&l->lock);
	l->answer = r;
	l->done = true;
	pthread_cond_signal(&l->changed);
	lookup_leave(l);
}

/* The answer of getaddrinfo; 1: none in time. */
static int lookup(struct mc_engine *engine, const char *host)
{
	struct timespec until = mc_wait_until(mc_now_ns() + LOOKUP_NS);
	struct lookup *l = calloc(1, sizeof *l);
	int r = 0;

	if (!l)
		return EAI_MEMORY;
	pthread_mutex_init(&l->lock, NULL);
	mc_cond_init(&l->changed);
	l->refs = 2;
	l->job.run = lookup_run;
	snprintf(l->host, sizeof l->host, "%s", host);
	mc_helpers_run_as(engine->helpers, &l->job, MC_JOB_LOOKUP);
	pthread_mutex_lock(&l->lock);
	while (!l->done && r == 0)
		r = pthread_cond_timedwait(&l->changed, &l->lock, &until);
	r = l->done ? l->answer : 1;
	lookup_leave(l);
	return r;
}

/* 1: peers can dial it, as far as we know; 0: perhaps some can, err says why not all. */
static int advertised_check(struct mc_engine *engine, const char *text, struct mc_error *err)
{
	struct sockaddr_storage ss;
	struct mc_addr a;
	int r;

	if (mc_addr_parse(text, &a) < 0 || mc_addr_numeric(&a, &ss) > 0)
		return 1;
	if (strchr(a.host, ':') || a.host[strspn(a.host, "0123456789.")] == '\0')
		return mc_fail(err, -EINVAL,
			       "advertise_address '%s': no IPv4 or IPv6 address is written so; give "
			       "one such as 192.0.2.1 or [2001:db8::1], or a host's name",
			       a.host);
	r = lookup(engine, a.host);
	if (r == 0)
		return 1;
	mc_fail(err, -EADDRNOTAVAIL,
		"advertise_address '%s': %s; give a name that peers can resolve, or an address", a.host,
		r == 1 ? "the name service did not answer in time" : gai_strerror(r));
	return 0;
}

static int port_advertised(struct mc_port *p, uint16_t port, struct mc_error *err)
{
	int r = mc_addr_list(p->engine->set->advertise_address, port, &p->addresses, err);
	struct mc_error why = {0};
	bool any = false;

	for (char **at = p->addresses; r >= 0 && *at; at++) {
		r = advertised_check(p->engine, *at, &why);
		any |= r > 0;
	}
	if (r >= 0 && any) {
		if (why.text[0])
			mc_warn("%s", why.text);
		return 0;
	}
	/* Without any that can be dialled nobody could answer us. */
	return why.text[0] ? mc_fail(err, r < 0 ? r : -EADDRNOTAVAIL, "%s", why.text) : r;
}

/* The addresses of peers' dials: what the user says, else what we listen on. */
static int port_addresses(struct mc_port *p, uint16_t port, struct mc_error *err)
{
	const struct mc_settings *set = p->engine->set;

	if (set->advertise_address && *set->advertise_address)
		return port_advertised(p, port, err);
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
		return mc_fail(err, -errno, "port %u: cannot list the addresses of this host: %s", port,
			       strerror(errno));
	if (!p->addresses[0])
		return mc_fail(err, -EADDRNOTAVAIL,
			       "port %u: no interface of this host has an address; set advertise_address",
			       port);
	return 0;
}

static void port_start(void *arg)
{
	mc_port_accept_start(arg);
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

/* Who may connect, and to what. */
static int port_guards(struct mc_port *port, const struct mc_settings *set, struct mc_error *err)
{
	int r = 0;

	if (set->access)
		r = mc_access_parse(set->access, &port->access, err);
	if (r == 0 && set->cluster_key_file && *set->cluster_key_file)
		r = mc_admit_key_open(set->cluster_key_file, &port->key, err);
	if (r < 0 && r != -ENOMEM && r != -ENOTSUP)
		r = -EINVAL; /* a file that is not there, or not as it must be, is a wrong value, too */
	if (r < 0 && err)
		err->code = r;
	return r;
}

int mc_stream_listen(struct mc_engine *engine, struct mc_error *err)
{
	struct mc_port *port = port_get(engine);
	uint16_t wanted, bound;
	bool chosen;
	int r;

	if (!port)
		return mc_fail(err, -ENOMEM, "port: out of memory");
	r = port_guards(port, engine->set, err);
	if (r < 0)
		return r;
	if (engine->set->local_server_name) {
		r = mc_name_port_check(engine->set->local_server_name, err);
		if (r < 0)
			return r;
	}
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
	if (r == 0)
		r = mc_unix_listen(port, err);
	if (r < 0) {
		close(port->fd);
		port->fd = -1;
		return r;
	}
	engine->port = bound;
	return 0;
}

void mc_stream_start(struct mc_engine *engine)
{
	mc_control_call(engine->control, port_start, engine->listener);
}

static void port_stop(void *arg)
{
	struct mc_port *port = arg;

	__atomic_store_n(&port->closed, true, __ATOMIC_RELEASE);
	mc_port_accept_stop(port);
	mc_dials_cancel(port);
	if (port->fd >= 0)
		close(port->fd);
	port->fd = -1;
	mc_unix_unlisten(port);
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
