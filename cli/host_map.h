/* SPDX-License-Identifier: Apache-2.0 */
/* The host as `mooncake topology` tells it: facts, and the matrix that is in effect. */
#ifndef MC_CLI_HOST_MAP_H
#define MC_CLI_HOST_MAP_H

#include <stdio.h>

#include "core/discover.h"
#include "core/matrix.h"

struct cli_topology {
	char host[256];
	struct mc_topology facts;
	const char **transports;  /* of each device of facts; NULL: no installed transport claims it */
	struct mc_matrix *matrix; /* resolved; NULL: there is none */
	bool discovered;          /* discovery wrote the matrix, not the user */
};

/* "rdma, node 0", "network, loopback": what a device is, in a few words. */
void cli_device_words(const struct mc_topo_device *device, char *buf, size_t cap);
/* Is it an rdma device to which no other is nearer, seen from the GPU? */
bool cli_nearest(const struct mc_topology *facts, const struct mc_topo_device *gpu,
		 const struct mc_topo_device *device);
/* "62.8 GiB" */
void cli_bytes_words(uint64_t bytes, char *buf, size_t cap);

/* One SVG file: locations left, devices right, a line for each entry of the matrix, the heavier the
 * earlier its tier.  0; -ENOMEM; -EIO: f took not all of it. */
int cli_topology_svg(FILE *f, const struct cli_topology *t);

#endif
