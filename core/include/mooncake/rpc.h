/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Named request/reply services between engines, on the engine's own port.  Run
 * by a worker of the engine with bounded spinning: a call that waits drives it
 * from its own thread.  Messages are at most 1 MiB; many calls may be
 * outstanding on one connection, and replies come in any order.
 */
#ifndef MOONCAKE_RPC_H
#define MOONCAKE_RPC_H

#include "types.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MC_RPC_MESSAGE_MAX (1u << 20)
#define MC_RPC_SERVICE_NAME_MAX 63

struct mc_engine;
struct mc_rpc_service;
struct mc_rpc_client;
struct mc_rpc_request;

/* A request as the service sees it. */
struct mc_rpc_incoming {
	size_t size;
	uint32_t method;
	uint32_t reserved;
	const void *data; /* borrowed until the handler returns; of any alignment */
	size_t len;
	const char *from;     /* the caller's segment name; borrowed likewise */
	uint64_t generation;  /* of the caller */
	uint64_t deadline_ns; /* monotonic, here; after it nobody waits for the reply */
};

/* Handle one request.  Answer by mc_rpc_reply, now or later, from any thread, exactly once.  Runs
 * on the rpc worker: must not block, may submit batches, may call other services asynchronously. */
typedef void (*mc_rpc_handler)(void *arg, struct mc_rpc_request *request,
			       const struct mc_rpc_incoming *incoming);

/* Offer a service under a name ([a-z0-9._-]+).
 *   returns   0; -EEXIST; -EINVAL
 *   since 0.1 */
MC_EXPORT int mc_rpc_serve(struct mc_engine *engine, const char *service, mc_rpc_handler handler,
			   void *arg, struct mc_rpc_service **ret_service, struct mc_error *err);
/* From the return on the handler is not called; requests not yet answered may still be.  Not from
 * the handler.  Accepts NULL.  since 0.1 */
MC_EXPORT void mc_rpc_unserve(struct mc_rpc_service *service);

/* Answer a request: status 0 or -errno, and data (copied; len <= MC_RPC_MESSAGE_MAX).  Frees
 * request.  [any]
 *   returns   0; -EMSGSIZE, -EINVAL, -ENOMEM: not answered, request still valid; -ENOTCONN: the
 *             caller has gone
 *   since 0.1 */
MC_EXPORT int mc_rpc_reply(struct mc_rpc_request *request, int status, const void *data, size_t len);

/* A client of a service of the engine named segment; connects on the first call, and again when
 * the connection is lost.
 *   returns   0; -EINVAL, -ENOMEM
 *   since 0.1 */
MC_EXPORT int mc_rpc_client_open(struct mc_engine *engine, const char *segment, const char *service,
				 struct mc_rpc_client **ret_client, struct mc_error *err);
/* Outstanding calls end with -ECANCELED before it returns.  Accepts NULL.  since 0.1 */
MC_EXPORT void mc_rpc_client_close(struct mc_rpc_client *client);

/* One call; embedded by the caller, which owns it again when done is called (or wait returns). */
struct mc_rpc_call {
	size_t size;
	uint32_t method;
	int32_t status; /* out: the service's, or -ETIMEDOUT, -EHOSTDOWN, -ENOENT (no such service), -EACCES (not admitted), ... */
	const void *data; /* request; borrowed until mc_rpc_start returns */
	size_t len;
	void *reply; /* where the reply goes; the caller's */
	size_t reply_cap;
	size_t reply_len; /* out; > reply_cap with -EMSGSIZE: not stored */
	/* Called once, on the rpc worker or in a caller that drives it; may start calls.  NULL:
	 * use mc_rpc_wait. */
	void (*done)(struct mc_rpc_call *call);
	void *user;
	void *priv[6]; /* the engine's */
};

/* Begin a call; ends at the latest after timeout_ns.  Never blocks.  [any]
 *   returns   0: call->done follows exactly once; -EMSGSIZE, -EINVAL, -ENOBUFS (too much is waiting,
 *             or out of memory), -ECANCELED (closing): nothing was started
 *   since 0.1 */
MC_EXPORT int mc_rpc_start(struct mc_rpc_client *client, struct mc_rpc_call *call,
			   uint64_t timeout_ns);
/* Wait for a call without `done`, driving the rpc worker from this thread.  0 (see call->status),
 * -EDEADLK (in a callback).  since 0.1 */
MC_EXPORT int mc_rpc_wait(struct mc_rpc_client *client, struct mc_rpc_call *call);

#ifdef __cplusplus
}
#endif
#endif
