/* SPDX-License-Identifier: Apache-2.0 */
/* Ending on SIGINT, SIGTERM and SIGHUP. */
#ifndef MC_P2P_CLI_STOP_H
#define MC_P2P_CLI_STOP_H

#include <mooncake/types.h>

/* Block the signals everywhere; the first one makes p2pc_stopping() true, a second one (300 ms later at least: some
 * send it twice) or 10 s without an end end the process where it is.  Before any thread exists. */
int p2pc_stop_init(struct mc_error *err);
void p2pc_stop_fini(void);
bool p2pc_stopping(void);
/* Readable once p2pc_stopping(). */
int p2pc_stop_fd(void);
/* Sleep until then, or so long.  true: stopping. */
bool p2pc_stop_wait(uint64_t timeout_ns);

uint64_t p2pc_now_ns(void);

#endif
