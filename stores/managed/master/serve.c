/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a request to its answer.  The rpc worker is one thread at a time, so one scratch
 * is enough for what is answered there.  A batch goes to the pool when the worker was
 * busy until just now, which says that more are queued, and a thread is free.
 */
#include "serve.h"

#include <errno.h>
#include <mooncake/rpc.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/util/check.h"

#define LARGE_GET 300		     /* keys of a batch that is worth another thread: some 60 us of work */
#define LARGE_PUT 100
#define BUSY_NS (20 * UINT64_C(1000)) /* so shortly behind the last one it had been waiting */

const uint64_t master_latency_bounds_ns[8] = {10000,   30000,	100000,	 300000,
					      1000000, 3000000, 10000000, 30000000};

struct method_counters {
	atomic_ullong nr, nr_failed, nr_keys, total_ns, slower[8];
};

struct master_server {
	struct master_serve_options options;
	struct mc_rpc_service *service;
	struct master_pool *pool;
	struct master_scratch *scratch; /* of the rpc worker */
	uint64_t last_end;		/* of a request, on the rpc worker */
	bool spread;			/* batches may go to the pool: there are cores for that */
	struct method_counters methods[MC_WIRE_METHOD_END];
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * MC_SEC + (uint64_t)ts.tv_nsec;
}

const struct mc_master_limits *master_server_limits(const struct master_server *server)
{
	return server->options.limits;
}

void master_server_hurry(struct master_server *server)
{
	server->options.hurry(server->options.arg);
}

/* ---- one request ------------------------------------------------------------------------------- */

static int call_run(struct master_call *call, uint32_t method)
{
	bool hello = method == MC_WIRE_HELLO;

	if (method < MC_WIRE_HELLO || method >= MC_WIRE_METHOD_END)
		return mc_fail(&call->err, -ENOSYS, "method %u is not known to this master, which speaks version %u", method,
			       MC_WIRE_VERSION_MAX);
	mc_wire_request(&call->in, &call->head, hello);
	if (!hello && (call->head.version < MC_WIRE_VERSION_MIN || call->head.version > MC_WIRE_VERSION_MAX))
		return mc_fail(&call->err, -EPROTONOSUPPORT, "version %u of a request: this master speaks %u to %u; say HELLO first",
			       call->head.version, MC_WIRE_VERSION_MIN, MC_WIRE_VERSION_MAX);
	if (mc_wire_end(&call->in) < 0)
		return mc_fail(&call->err, -EBADMSG, "the request's head is not sound");
	return master_methods[method].run(call);
}

static void count(struct master_server *server, uint32_t method, const struct master_call *call, int r, uint64_t span)
{
	/* What is no method counts as number 0. */
	struct method_counters *c = &server->methods[method < MC_WIRE_METHOD_END ? method : 0];

	atomic_fetch_add_explicit(&c->nr, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&c->nr_keys, call->head.count, memory_order_relaxed);
	atomic_fetch_add_explicit(&c->total_ns, span, memory_order_relaxed);
	if (r < 0)
		atomic_fetch_add_explicit(&c->nr_failed, 1, memory_order_relaxed);
	for (size_t i = 0; i < MC_ARRAY_SIZE(c->slower) && span > master_latency_bounds_ns[i]; i++)
		atomic_fetch_add_explicit(&c->slower[i], 1, memory_order_relaxed);
}

/* Behind the methods: the head, with what they have found, and the sentence if they failed. */
static size_t finish(struct master_call *call, int *status)
{
	const size_t cap = sizeof call->scratch->reply;
	struct mc_wire head = mc_wire_writer(call->scratch->reply, cap);
	const char *sentence = call->err.text;
	size_t len;

	if (*status == 0 && call->out.broken)
		*status = mc_fail(&call->err, -EMSGSIZE, "the answer is larger than a message may be; ask for less");
	if (*status < 0)
		call->reply.count = call->reply.flags = 0;
	mc_wire_reply(&head, &call->reply);
	if (*status == 0)
		return mc_wire_len(&call->out, cap);
	if (!*sentence)
		mc_fail(&call->err, *status, "%s", strerror(-*status));
	mc_wire_sentence(&head, &sentence);
	len = mc_wire_len(&head, cap);
	return len;
}

void master_answer(struct master_server *server, struct master_scratch *scratch, struct mc_rpc_request *request,
		   const struct mc_rpc_incoming *incoming)
{
	struct master_call call;
	size_t len;
	int r;

	call.server = server;
	call.state = server->options.state;
	call.scratch = scratch;
	call.from = incoming->from;
	call.generation = incoming->generation;
	call.now = now_ns();
	call.in = mc_wire_reader(incoming->data, incoming->len);
	call.out = mc_wire_writer(scratch->reply, sizeof scratch->reply);
	call.head = (struct mc_wire_request){.tenant = ""};
	call.reply = (struct mc_wire_reply){.version = MC_WIRE_VERSION_MAX, .epoch = mc_master_epoch(call.state)};
	call.err.code = 0;
	call.err.text[0] = '\0';
	mc_wire_reply(&call.out, &call.reply); /* its place */
	r = call_run(&call, incoming->method);
	if (call.head.version >= MC_WIRE_VERSION_MIN && call.head.version <= MC_WIRE_VERSION_MAX)
		call.reply.version = call.head.version;
	len = finish(&call, &r);
	count(server, incoming->method, &call, r, now_ns() - call.now);
	/* -ENOTCONN: the caller has gone; -ENOMEM: it is still there, and hears at least that. */
	if (mc_rpc_reply(request, r, scratch->reply, len) == -ENOMEM)
		mc_rpc_reply(request, -ENOMEM, NULL, 0);
}

/* ---- the service ------------------------------------------------------------------------------- */

static bool wants_pool(const struct master_server *server, const struct mc_rpc_incoming *incoming, uint64_t now)
{
	uint32_t method = incoming->method, nr = 0;

	if (method < MC_WIRE_METHOD_END && master_methods[method].slow)
		return true;
	if (!server->spread || incoming->len < 8 || now - server->last_end > BUSY_NS || !master_pool_idle(server->pool))
		return false;
	memcpy(&nr, (const uint8_t *)incoming->data + 4, sizeof nr); /* only a hint */
	return nr >= (method == MC_WIRE_GET || method == MC_WIRE_EXIST ? LARGE_GET : LARGE_PUT);
}

/* [rpc worker] */
static void on_request(void *arg, struct mc_rpc_request *request, const struct mc_rpc_incoming *incoming)
{
	struct master_server *server = arg;
	uint64_t now = server->spread ? now_ns() : 0;

	if (wants_pool(server, incoming, now) && master_pool_add(server->pool, request, incoming))
		return;
	master_answer(server, server->scratch, request, incoming);
	if (server->spread)
		server->last_end = now_ns();
}

int master_serve(const struct master_serve_options *options, struct master_server **ret_server, struct mc_error *err)
{
	struct master_server *server = calloc(1, sizeof *server);
	int r = server ? 0 : -ENOMEM;

	if (r == 0) {
		server->options = *options;
		server->scratch = calloc(1, sizeof *server->scratch);
		server->spread = options->threads > 1;
		r = server->scratch ? 0 : -ENOMEM;
	}
	if (r < 0)
		mc_fail(err, r, "service of the master: out of memory");
	if (r == 0)
		r = master_pool_new(server, options->threads, &server->pool, err);
	if (r == 0)
		r = mc_rpc_serve(options->engine, MC_STORE_SERVICE, on_request, server, &server->service, err);
	if (r < 0) {
		master_unserve(server);
		return r;
	}
	*ret_server = server;
	return 0;
}

void master_unserve(struct master_server *server)
{
	if (!server)
		return;
	mc_rpc_unserve(server->service);
	master_pool_free(server->pool);
	free(server->scratch);
	free(server);
}

size_t master_method_stats(struct master_server *server, struct master_method_stats *list, size_t max)
{
	size_t nr = 0;

	for (uint32_t m = 0; m < MC_WIRE_METHOD_END && nr < max; m++, nr++) {
		struct method_counters *c = &server->methods[m];

		list[nr] = (struct master_method_stats){.name = m ? master_methods[m].name : "unknown",
							.nr = c->nr,
							.nr_failed = c->nr_failed,
							.nr_keys = c->nr_keys,
							.total_ns = c->total_ns};
		for (size_t i = 0; i < MC_ARRAY_SIZE(c->slower); i++)
			list[nr].slower[i] = c->slower[i];
	}
	return nr;
}
