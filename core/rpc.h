/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rpc service as the engine sees it; applications see <mooncake/rpc.h>.  Its
 * worker and its state come with the first service or client.
 */
#ifndef MC_CORE_RPC_H
#define MC_CORE_RPC_H

#include <mooncake/rpc.h>

#include "stream.h"

/* The engine's `spin` has changed.  [any] but workers */
void mc_rpc_set_spin(struct mc_engine *engine, uint64_t spin_ns);

/* Owner of accepted rpc streams.  -ENOENT: this engine offers nothing; -ENOBUFS: too many
 * connections.  [control] */
int mc_rpc_accept(struct mc_engine *engine, int fd, const struct mc_stream_hello *hello);

/* For the metrics; all 0 before the first service or client.  [control] */
struct mc_rpc_counts {
	uint64_t calls, failed;  /* ours that have ended, well and otherwise */
	uint64_t requests;       /* of peers, handed to a service */
	uint64_t connections;    /* of peers, now */
};
void mc_rpc_count(struct mc_engine *engine, struct mc_rpc_counts *ret_counts);

/* Drop the connections of a peer with this generation.  -ENOENT: none.  [any] but control and workers */
int mc_rpc_evict(struct mc_engine *engine, uint64_t generation);

/* Calls end with -ECANCELED, services and clients are freed, connections closed, the worker ends.
 * Requests that were not answered stay valid for mc_rpc_reply.  Before the control loop, the
 * helpers and the metadata are closed.  [any] but control and workers */
void mc_rpc_close(struct mc_engine *engine);

#endif
