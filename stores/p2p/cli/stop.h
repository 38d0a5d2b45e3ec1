/* SPDX-License-Identifier: Apache-2.0 */
/* Ending on SIGINT, SIGTERM and SIGHUP. */
#ifndef MC_P2P_CLI_STOP_H
#define MC_P2P_CLI_STOP_H

#include <cli/program/stop.h>

/* mc_stop_init; a second signal, or 10 s without an end, end the process where it is.  Before any thread exists. */
int p2pc_stop_init(struct mc_error *err);

uint64_t p2pc_now_ns(void);
/* mc_stopping, for struct mc_p2p_register_options. */
bool p2pc_stopping(void *ignored);

#endif
