/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rpc service "store": requests are answered where they come in, on the rpc worker;
 * those that may take long, and batches that queue up, by a pool of threads.
 */
#ifndef MC_MASTER_SERVE_H
#define MC_MASTER_SERVE_H

#include <mooncake/mooncake.h>

#include "store_wire.h"

struct master_server;
struct master_pool;

/* Of one method, since the start. */
struct master_method_stats {
	const char *name;
	uint64_t nr, nr_failed /* as a whole */, nr_keys, total_ns;
	uint64_t slower[8]; /* took more than 10 us, 30 us, 100 us, ... 30 ms */
};
extern const uint64_t master_latency_bounds_ns[8];

struct master_serve_options {
	struct mc_engine *engine; /* borrowed, as the next two */
	struct mc_master *state;
	const struct mc_master_limits *limits;
	uint32_t threads;
	void (*hurry)(void *arg); /* there is no room: tick at once.  Any thread */
	void *arg;
};

/* returns   0; -EEXIST, -ENOMEM, ... */
int master_serve(const struct master_serve_options *options, struct master_server **ret_server, struct mc_error *err);
/* Answer what is under way and stop.  Accepts NULL. */
void master_unserve(struct master_server *server);
/* Methods MC_WIRE_HELLO .. in order; how many. [any] */
size_t master_method_stats(struct master_server *server, struct master_method_stats *list, size_t max);

/* ---- between serve.c, methods.c and pool.c ---------------------------------------------------- */

#define MASTER_EXTENTS 43690 /* as many as a reply can hold */

/* What a request is taken apart into; each thread that answers has one. */
struct master_scratch {
	union {
		struct mc_master_put puts[MC_WIRE_COUNT_MAX];
		struct mc_master_got gots[MC_WIRE_COUNT_MAX];
		struct mc_master_end ends[MC_WIRE_COUNT_MAX];
		struct mc_master_named names[MC_WIRE_COUNT_MAX];
	};
	struct mc_master_end revoked[MC_WIRE_COUNT_MAX];
	struct mc_master_extent extents[MASTER_EXTENTS];
	uint32_t preferred[MC_WIRE_PREFERRED_MAX];
	uint64_t generations[MC_WIRE_EVICT_MAX];
	uint8_t reply[1u << 20];
};

/* One request on its way. */
struct master_call {
	struct master_server *server;
	struct mc_master *state;
	struct master_scratch *scratch;
	const char *from; /* engine of the caller */
	uint64_t generation, now;
	struct mc_wire in, out;
	struct mc_wire_request head;
	struct mc_wire_reply reply;
	struct mc_error err; /* its sentence, with a status below zero; may be empty */
};

/* A method: reads what is left of `in`, does it, writes behind the reply's head.  returns 0, or the status as a whole */
typedef int (*master_method)(struct master_call *call);
struct master_method_desc {
	master_method run;
	const char *name;
	bool slow; /* always by the pool */
};
extern const struct master_method_desc master_methods[MC_WIRE_METHOD_END];

const struct mc_master_limits *master_server_limits(const struct master_server *server);
void master_server_hurry(struct master_server *server);
/* Take apart, do, answer; frees request. */
struct mc_rpc_request;
struct mc_rpc_incoming;
void master_answer(struct master_server *server, struct master_scratch *scratch, struct mc_rpc_request *request,
		   const struct mc_rpc_incoming *incoming);

/* pool.c: its threads call master_answer with copies. */
int master_pool_new(struct master_server *server, uint32_t nr_threads, struct master_pool **ret_pool, struct mc_error *err);
/* Answers what is queued first.  Accepts NULL. */
void master_pool_free(struct master_pool *pool);
/* Is a thread without work? */
bool master_pool_idle(const struct master_pool *pool);
/* false: there is no room; answer it yourself. */
bool master_pool_add(struct master_pool *pool, struct mc_rpc_request *request, const struct mc_rpc_incoming *incoming);

#endif
