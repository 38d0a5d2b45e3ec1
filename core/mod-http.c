/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mod-http.so: libmicrohttpd behind the engine's port.  It runs without a thread
 * of its own: an epoll set holds its sockets, and MHD_run, which never waits, is
 * called by the control loop.  Its time-out restarts at each byte, so a client
 * that sends one now and then would never end; therefore each connection has a
 * deadline here, and one that is past it is shut down, which libmicrohttpd sees
 * as the client's end.
 */
#include <errno.h>
#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utlist.h>

#include "http_module.h"
#include "mc-config.h"
#include "module.h"

struct conn {
	struct conn *prev, *next; /* server->conns */
	int fd; /* libmicrohttpd's; open until it tells that the connection ended */
	uint64_t deadline_ns; /* 0: it was shut down */
};

struct mc_http_server {
	struct mc_http_args args;
	struct MHD_Daemon *daemon;
	struct conn *conns; /* the one that was idle longest first */
	struct conn *adding; /* inside MHD_add_connection */
	struct mc_http_stats stats;
	uint64_t now; /* of the call under way */
};

static void shut(struct mc_http_server *s, struct conn *c)
{
	shutdown(c->fd, SHUT_RDWR);
	c->deadline_ns = 0;
	s->stats.dropped++;
}

/* ---- called by libmicrohttpd -------------------------------------------------------------- */

static void notified(void *cls, struct MHD_Connection *connection, void **context,
		     enum MHD_ConnectionNotificationCode code)
{
	struct mc_http_server *s = cls;
	struct conn *c = s->adding;

	if (code == MHD_CONNECTION_NOTIFY_STARTED) {
		*context = c;
		s->adding = NULL;
		DL_APPEND(s->conns, c);
		s->stats.connections++;
		return;
	}
	c = *context;
	*context = NULL;
	DL_DELETE(s->conns, c);
	s->stats.connections--;
	free(c);
}

static struct conn *conn_of(struct MHD_Connection *connection)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

	return info ? info->socket_context : NULL;
}

/* An answer was sent, or given up: the next request has its own time. */
static void completed(void *cls, struct MHD_Connection *connection, void **request,
		      enum MHD_RequestTerminationCode code)
{
	struct mc_http_server *s = cls;
	struct conn *c = conn_of(connection);

	if (!c || !c->deadline_ns)
		return;
	c->deadline_ns = s->now + s->args.limits.request_ns;
	DL_DELETE(s->conns, c);
	DL_APPEND(s->conns, c);
}

static enum MHD_Result respond(struct MHD_Connection *connection, int status, const char *type,
			       const char *allow, struct MHD_Response *response)
{
	enum MHD_Result r;

	if (!response)
		return MHD_NO;
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
	MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
	if (allow)
		MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, allow);
	r = MHD_queue_response(connection, (unsigned int)status, response);
	MHD_destroy_response(response);
	return r;
}

static enum MHD_Result handle(void *cls, struct MHD_Connection *connection, const char *url,
			      const char *method, const char *version, const char *upload,
			      size_t *upload_size, void **request)
{
	static const char no_method[] = "only GET and HEAD are answered here\n";
	struct mc_http_server *s = cls;
	struct mc_http_reply reply = {0};
	struct conn *c = conn_of(connection);

	if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
		return respond(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "text/plain; charset=utf-8",
			       "GET, HEAD",
			       MHD_create_response_from_buffer(sizeof no_method - 1,
							       (void *)no_method,
							       MHD_RESPMEM_PERSISTENT));
	/* Answered at the first call, the connection would be closed: a body might follow.  This
	 * one is thrown away. */
	if (!*request || *upload_size) {
		*request = s;
		*upload_size = 0;
		return MHD_YES;
	}
	if (c && c->deadline_ns)
		c->deadline_ns = s->now + s->args.limits.answer_ns;
	s->args.answer(s->args.ctx, url, &reply);
	if (!reply.body)
		return MHD_NO;
	return respond(connection, reply.status, reply.type, NULL,
		       MHD_create_response_from_buffer(reply.len, reply.body,
						       MHD_RESPMEM_MUST_FREE));
}

/* ---- called by the core ------------------------------------------------------------------- */

static int http_open(const struct mc_http_args *args, struct mc_http_server **ret_server)
{
	struct mc_http_server *s = calloc(1, sizeof *s);

	if (!s)
		return -ENOMEM;
	s->args = *args;
	s->daemon =
		MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET, 0, NULL, NULL, handle, s,
				 /* Those that were shut down leave in the next run only. */
				 MHD_OPTION_CONNECTION_LIMIT, args->limits.connections + 1,
				 MHD_OPTION_CONNECTION_MEMORY_LIMIT, args->limits.memory,
				 MHD_OPTION_CONNECTION_MEMORY_INCREMENT, (size_t)1024,
				 MHD_OPTION_NOTIFY_CONNECTION, notified, s,
				 MHD_OPTION_NOTIFY_COMPLETED, completed, s, MHD_OPTION_END);
	if (!s->daemon) {
		free(s);
		return -EIO;
	}
	*ret_server = s;
	return 0;
}

static int http_fd(struct mc_http_server *s)
{
	return MHD_get_daemon_info(s->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
}

static void http_add(struct mc_http_server *s, int fd, const struct sockaddr *from, socklen_t len,
		     uint64_t now_ns)
{
	struct conn *c = calloc(1, sizeof *c), *old;

	s->now = now_ns;
	if (!c) {
		close(fd);
		return;
	}
	if (s->stats.connections >= s->args.limits.connections) {
		DL_SEARCH_SCALAR(s->conns, old, deadline_ns, 0);
		if (!old)
			shut(s, s->conns);
		MHD_run(s->daemon);
	}
	c->fd = fd;
	c->deadline_ns = now_ns + s->args.limits.request_ns;
	s->adding = c;
	if (MHD_add_connection(s->daemon, fd, from, len) == MHD_NO && s->adding)
		free(c); /* no connection was made of it: nobody tells of its end */
	s->adding = NULL;
}

static uint64_t http_run(struct mc_http_server *s, uint64_t now_ns)
{
	MHD_UNSIGNED_LONG_LONG wait;
	uint64_t next = 0;
	struct conn *c;

	s->now = now_ns;
	/* What is shut down here makes the descriptor readable. */
	DL_FOREACH(s->conns, c) {
		if (c->deadline_ns && c->deadline_ns <= now_ns)
			shut(s, c);
	}
	MHD_run(s->daemon);
	/* It has no time-outs: it wants another turn at once, or none. */
	if (MHD_get_timeout(s->daemon, &wait) == MHD_YES)
		return now_ns;
	DL_FOREACH(s->conns, c) {
		if (c->deadline_ns && (!next || c->deadline_ns < next))
			next = c->deadline_ns;
	}
	return next;
}

static void http_stats(const struct mc_http_server *s, struct mc_http_stats *ret_stats)
{
	*ret_stats = s->stats;
}

static void http_close(struct mc_http_server *s)
{
	MHD_stop_daemon(s->daemon);
	free(s);
}

static const struct mc_http_ops http_ops = {
	.open = http_open,
	.fd = http_fd,
	.add = http_add,
	.run = http_run,
	.stats = http_stats,
	.close = http_close,
};

const struct mc_module_desc mc_module_desc = {.name = "http",
					      .version = MC_VERSION,
					      .ops = &http_ops};
