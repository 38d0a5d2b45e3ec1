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
#include <stdio.h>
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
	struct mc_http_call *call; /* its request, if one has begun */
};

struct mc_http_call {
	struct mc_http_server *server;
	struct MHD_Connection *connection;
	char *body; /* ends with a NUL that body_len does not count */
	size_t body_len;
	bool too_big, asked;
	bool waits; /* suspended until it is answered */
	bool answered; /* reply is to be sent */
	void *user;
	struct mc_http_reply reply;
	char type[80]; /* reply.type of one that was answered later */
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
	struct mc_http_call *call = *request;

	if (call) {
		free(call->body);
		free(call->reply.body);
		free(call);
		*request = NULL;
	}
	if (c)
		c->call = NULL;
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

static enum MHD_Result respond_text(struct MHD_Connection *connection, int status, const char *text)
{
	return respond(connection, status, "text/plain; charset=utf-8", NULL,
		       MHD_create_response_from_buffer(strlen(text), (void *)text, MHD_RESPMEM_PERSISTENT));
}

static enum MHD_Result respond_call(struct mc_http_call *call)
{
	struct mc_http_reply *r = &call->reply;
	char *body = r->body;

	if (!body)
		return MHD_NO;
	r->body = NULL;
	return respond(call->connection, r->status, r->type, r->allow,
		       MHD_create_response_from_buffer(r->len, body, MHD_RESPMEM_MUST_FREE));
}

static enum MHD_Result begin(struct mc_http_server *s, struct MHD_Connection *connection, struct conn *c,
			     void **request)
{
	struct mc_http_call *call = calloc(1, sizeof *call);

	if (!call)
		return MHD_NO;
	call->server = s;
	call->connection = connection;
	*request = call;
	if (c)
		c->call = call;
	return MHD_YES;
}

/* Bytes of the body, kept up to the limit. */
static enum MHD_Result take(struct mc_http_call *call, const char *bytes, size_t len)
{
	char *body;

	if (call->too_big || len > call->server->args.limits.body - call->body_len) {
		call->too_big = true;
		return MHD_YES;
	}
	body = realloc(call->body, call->body_len + len + 1);
	if (!body)
		return MHD_NO;
	memcpy(body + call->body_len, bytes, len);
	call->body = body;
	call->body_len += len;
	body[call->body_len] = '\0';
	return MHD_YES;
}

/* Called at the head of a request, for each part of its body, and at its end; and once more when a
 * connection that waited for its answer goes on.  An answer before the end would close the
 * connection: a body might follow. */
static enum MHD_Result handle(void *cls, struct MHD_Connection *connection, const char *url,
			      const char *method, const char *version, const char *upload,
			      size_t *upload_size, void **request)
{
	struct mc_http_server *s = cls;
	struct mc_http_call *call = *request;
	struct conn *c = conn_of(connection);
	struct mc_http_request ask;

	if (!call)
		return begin(s, connection, c, request);
	if (*upload_size) {
		size_t len = *upload_size;

		*upload_size = 0;
		return take(call, upload, len);
	}
	if (c && c->deadline_ns)
		c->deadline_ns = s->now + s->args.limits.answer_ns;
	if (call->answered)
		return respond_call(call);
	if (call->too_big)
		return respond_text(connection, 413, "the request's body is too large\n");
	if (call->asked)
		return MHD_YES;
	call->asked = true;
	ask = (struct mc_http_request){
		.call = call, .method = method, .path = url, .body = call->body, .body_len = call->body_len};
	if (s->args.answer(s->args.ctx, &ask, &call->reply, &call->user))
		return respond_call(call);
	call->waits = true;
	MHD_suspend_connection(connection);
	return MHD_YES;
}

/* ---- called by the core ------------------------------------------------------------------- */

static int http_open(const struct mc_http_args *args, struct mc_http_server **ret_server)
{
	struct mc_http_server *s = calloc(1, sizeof *s);

	if (!s)
		return -ENOMEM;
	s->args = *args;
	s->daemon =
		MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, handle, s,
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

/* The one that was idle longest, but for those that wait for us; if all do, nobody gives way. */
static void shut_idlest(struct mc_http_server *s)
{
	struct conn *c;

	DL_FOREACH(s->conns, c) {
		if (!c->call || !c->call->waits) {
			shut(s, c);
			return;
		}
	}
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
			shut_idlest(s);
		MHD_run(s->daemon);
	}
	c->fd = fd;
	c->deadline_ns = now_ns + s->args.limits.request_ns;
	s->adding = c;
	if (MHD_add_connection(s->daemon, fd, from, len) == MHD_NO && s->adding)
		free(c); /* no connection was made of it: nobody tells of its end */
	s->adding = NULL;
}

struct arguments {
	void (*each)(void *ctx, const char *name, const char *value);
	void *ctx;
	bool cut; /* one would end at a zero byte */
};

static enum MHD_Result argument(void *cls, enum MHD_ValueKind kind, const char *name, size_t name_len, const char *value,
				size_t value_len)
{
	struct arguments *a = cls;

	a->cut |= strlen(name) != name_len || (value && strlen(value) != value_len);
	a->each(a->ctx, name, value);
	return MHD_YES;
}

static int http_arguments(struct mc_http_call *call, void (*each)(void *ctx, const char *name, const char *value),
			  void *ctx)
{
	struct arguments a = {each, ctx, false};

	MHD_get_connection_values_n(call->connection, MHD_GET_ARGUMENT_KIND, argument, &a);
	return a.cut ? -EBADMSG : 0;
}

static void http_reply(struct mc_http_call *call, const struct mc_http_reply *reply)
{
	call->reply = *reply;
	snprintf(call->type, sizeof call->type, "%s", reply->type);
	call->reply.type = call->type;
	call->answered = true;
	call->waits = false;
	MHD_resume_connection(call->connection);
}

/* Its answer does not come: say so instead. */
static void give_up(struct mc_http_server *s, struct mc_http_call *call)
{
	static const char late[] = "the answer took too long\n";
	struct mc_http_reply reply = {.status = MHD_HTTP_GATEWAY_TIMEOUT,
				      .type = "text/plain; charset=utf-8",
				      .body = strdup(late),
				      .len = sizeof late - 1};

	s->args.gone(s->args.ctx, call->user);
	http_reply(call, &reply);
}

static uint64_t http_run(struct mc_http_server *s, uint64_t now_ns)
{
	MHD_UNSIGNED_LONG_LONG wait;
	uint64_t next = 0;
	struct conn *c;

	s->now = now_ns;
	/* What is shut down here makes the descriptor readable. */
	DL_FOREACH(s->conns, c) {
		if (!c->deadline_ns || c->deadline_ns > now_ns)
			continue;
		if (c->call && c->call->waits) {
			give_up(s, c->call);
			c->deadline_ns = now_ns + s->args.limits.answer_ns;
		} else {
			shut(s, c);
		}
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
	struct conn *c;

	/* It may not be stopped while connections wait. */
	DL_FOREACH(s->conns, c) {
		if (c->call && c->call->waits)
			give_up(s, c->call);
	}
	MHD_run(s->daemon);
	MHD_stop_daemon(s->daemon);
	free(s);
}

static const struct mc_http_ops http_ops = {
	.open = http_open,
	.fd = http_fd,
	.add = http_add,
	.arguments = http_arguments,
	.reply = http_reply,
	.run = http_run,
	.stats = http_stats,
	.close = http_close,
};

const struct mc_module_desc mc_module_desc = {.name = "http",
					      .version = MC_VERSION,
					      .ops = &http_ops};
