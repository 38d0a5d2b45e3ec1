/* SPDX-License-Identifier: Apache-2.0 */
/* What rpc_conn.c (life and output) and rpc_recv.c (input) share. */
#ifndef MC_CORE_RPC_CONN_H
#define MC_CORE_RPC_CONN_H

#include "rpc_impl.h"

/* Read what there is, within bounds; how many reads brought something. */
int mc_rpc_conn_recv(struct rpc_conn *conn);
/* It has output for the next flush. */
void mc_rpc_conn_dirty(struct rpc_conn *conn);
/* Traffic was seen: progress looks at it without being told, for a while. */
void mc_rpc_conn_heat(struct rpc_conn *conn, uint64_t now_ns);

#endif
