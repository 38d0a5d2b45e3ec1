/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between http.c and mod-http.so, which speaks HTTP with libmicrohttpd.  The
 * module has no thread and never waits: the control loop calls it when its
 * descriptor is readable and when its deadline has come.  All [control].
 */
#ifndef MC_CORE_HTTP_MODULE_H
#define MC_CORE_HTTP_MODULE_H

#include <sys/socket.h>

#include <mooncake/types.h>

struct mc_http_server;
struct mc_http_call; /* one request, the module's; valid until it was answered, or is gone */

struct mc_http_reply {
	int status; /* of HTTP */
	const char *type; /* Content-Type; read before the call that gives it returns */
	char *body; /* malloc'ed, the module's from here on; NULL: out of memory */
	size_t len;
	const char *allow; /* the methods, with status 405; static */
};

/* A whole request; borrowed during the call. */
struct mc_http_request {
	struct mc_http_call *call;
	const char *method, *path;
	const void *body; /* NULL: none */
	size_t body_len;
};

struct mc_http_limits {
	unsigned int connections; /* one more drops the one that was idle longest */
	size_t memory; /* bytes per connection: request line and headers must fit */
	size_t body; /* bytes of a request's body; more is refused */
	uint64_t request_ns; /* from the first byte, or the last answer, to a whole request */
	uint64_t answer_ns; /* for a client to take an answer */
};

struct mc_http_args {
	struct mc_http_limits limits;
	/* Answer a request: at once (true), or later by `reply`, which `user` finds its way back from. */
	bool (*answer)(void *ctx, const struct mc_http_request *request, struct mc_http_reply *ret_reply,
		       void **ret_user);
	/* Nobody waits any more for the answer of the request that gave this user. */
	void (*gone)(void *ctx, void *user);
	void *ctx;
};

struct mc_http_stats {
	uint64_t connections; /* now */
	uint64_t dropped; /* slow ones, and those that had to give way */
};

struct mc_http_ops {
	int (*open)(const struct mc_http_args *args, struct mc_http_server **ret_server);
	/* Readable when run has something to do; the server's. */
	int (*fd)(struct mc_http_server *server);
	/* Take an accepted, non-blocking socket; closes it in any case, in the end. */
	void (*add)(struct mc_http_server *server, int fd, const struct sockaddr *from,
		    socklen_t len, uint64_t now_ns);
	/* Inside `answer` only: each NAME=VALUE behind the path's '?', decoded; value NULL: none.
	 * -EBADMSG: one has a zero byte, where it seems to end. */
	int (*arguments)(struct mc_http_call *call, void (*each)(void *ctx, const char *name, const char *value),
			 void *ctx);
	/* The answer of a call that waits for it; `run` sends it. */
	void (*reply)(struct mc_http_call *call, const struct mc_http_reply *reply);
	/* Read, answer, write, drop the slow ones: whatever is possible without waiting.  Returns
	 * when to call again at the latest; 0: not before the descriptor is readable. */
	uint64_t (*run)(struct mc_http_server *server, uint64_t now_ns);
	void (*stats)(const struct mc_http_server *server, struct mc_http_stats *ret_stats);
	/* Closes every connection. */
	void (*close)(struct mc_http_server *server);
};

#endif
