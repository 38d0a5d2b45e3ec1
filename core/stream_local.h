/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Unix socket beside the port: where it is, how its file is kept, how another
 * engine's is reached.  stream_local.c
 */
#ifndef MC_CORE_STREAM_LOCAL_H
#define MC_CORE_STREAM_LOCAL_H

#include <mooncake/types.h>

struct mc_port;

#define MC_HOST_ID_MAX 63

/* The kernel that we run under, such that no two hosts have the same: its boot id.  -errno: not known.
 * [any] */
int mc_host_id(char id[MC_HOST_ID_MAX + 1]);

/* Listen in the runtime directory: sets port->local_fd and port->local_path.  Where it cannot be, or the
 * config says so, there is none; a folder that the user named must do.  Files of engines that are gone are removed. */
int mc_unix_listen(struct mc_port *port, struct mc_error *err);
/* Close it and remove its file.  Accepts what never listened. */
void mc_unix_unlisten(struct mc_port *port);

/* Is it what mc_unix_listen of that generation publishes?  Nobody makes us connect to other sockets. */
bool mc_unix_path_ok(const char *path, uint64_t generation);
/* A non-blocking socket that is connected to the path, of any length; -errno.  -EAGAIN: too many wait there. */
int mc_unix_connect(const char *path);
/* What its errno alone does not say; NULL: it says enough. */
const char *mc_unix_remedy(int status);

#endif
