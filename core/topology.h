/* SPDX-License-Identifier: Apache-2.0 */
/* What mod-discover.so tells the core about the machine: facts only; discover.c judges them. */
#ifndef MC_CORE_TOPOLOGY_H
#define MC_CORE_TOPOLOGY_H

#include <mooncake/types.h>

enum mc_topo_class {
	MC_TOPO_NET = 1, /* a network interface that is up and has an address */
	MC_TOPO_RDMA,    /* a device of class/infiniband with an active port */
	MC_TOPO_GPU,     /* a GPU that CUDA shows this process (CUDA_VISIBLE_DEVICES), in PCI order */
};

#define MC_TOPO_DEPTH 24

struct mc_topo_device {
	enum mc_topo_class class;
	char name[MC_DEVICE_NAME_MAX + 1]; /* "eth0", "mlx5_0"; GPU: "cuda0" */
	int32_t numa_node;                 /* -1: unknown, or as near to all */
	int32_t ordinal;                   /* GPU; else -1 */
	bool loopback;                     /* NET */
	bool made_up;                      /* NET: a bridge or a tunnel, which other ports carry */
	/* Ids of what the device hangs below (packages, bridges), from the root: the more two
	 * devices have in common at the beginning, the nearer they are. */
	uint32_t nr_above;
	uint64_t above[MC_TOPO_DEPTH];
};

#define MC_TOPO_NODES 64 /* to which a distance is told; machines with more are told without */

struct mc_topo_node {
	int32_t node;
	uint32_t nr_cpus;
	uint64_t memory; /* bytes */
	/* To the nodes in the order in which they are told, itself included, as firmware says it: 10 is
	 * near.  0 of them: unknown. */
	uint32_t nr_distances;
	uint32_t distances[MC_TOPO_NODES];
};

/* Where scan puts what it finds, nodes before devices; a non-zero answer ends the scan. */
struct mc_topo_sink {
	int (*node)(struct mc_topo_sink *sink, const struct mc_topo_node *node);
	int (*device)(struct mc_topo_sink *sink, const struct mc_topo_device *device);
};

struct mc_topology_ops {
	int (*scan)(struct mc_topo_sink *sink, struct mc_error *err);
};

#endif
