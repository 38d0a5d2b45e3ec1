/* SPDX-License-Identifier: Apache-2.0 */
/* The host as `mooncake topology` tells it: facts, and the matrix that is in effect. */
#ifndef MC_CLI_HOST_MAP_H
#define MC_CLI_HOST_MAP_H

#include <stdio.h>

#include "core/config.h"
#include "core/discover.h"
#include "core/json.h"
#include "core/matrix.h"

/* Memory that a device of a transport owns, as its plugin tells. */
struct cli_pool {
	char transport[MC_PLUGIN_NAME_MAX + 1];
	char name[MC_DEVICE_NAME_MAX + 1];
	uint64_t capacity; /* bytes; 0: unknown, or not to be had as it is */
	int32_t numa_node; /* -1: unknown */
	bool active;
	char detail[128];  /* what it is made of; may be empty */
	char remedy[256];  /* not active: what to do */
};

struct cli_topology {
	char host[256];
	struct mc_topology facts;
	const char **transports;  /* of each device of facts; NULL: no installed transport claims it */
	struct cli_pool *pools;
	size_t nr_pools;
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

/* Ask the transports that have memory of their own for their devices; none is opened.  What cannot be asked has
 * no pools.  0 or -ENOMEM */
int cli_pools_find(struct cli_topology *t, struct mc_config *config);
/* "250 MiB, node 0" */
void cli_pool_words(const struct cli_pool *pool, char *buf, size_t cap);
void cli_pools_print(const struct cli_topology *t);
void cli_pools_json(struct mc_json_out *o, const struct cli_topology *t);

/* One SVG file: locations left, devices right, a line for each entry of the matrix, the heavier the
 * earlier its tier.  0; -ENOMEM; -EIO: f took not all of it. */
int cli_topology_svg(FILE *f, const struct cli_topology *t);

#endif
