/* SPDX-License-Identifier: Apache-2.0 */
/* Discovery: writes the NIC priority matrix when the user gave none. */
#ifndef MC_CORE_DISCOVER_H
#define MC_CORE_DISCOVER_H

#include "loader.h"
#include "topology.h"

/*
 * Look at the machine and write a matrix as JSON text: a row for each NUMA node
 * (shm, rdma devices near it, those elsewhere, tcp), one for each GPU that a transport
 * reaches, and "*".  Only devices that a transport of the registry claims appear,
 * qualified by it.  Free the text with free.  The caller logs it, once.
 *   returns   0; -ENOTSUP: built without discovery; -ENODEV: nothing usable; ...: err says what to do
 * [any] but control and workers: tens of ms, more on big machines
 */
int mc_discover_matrix(const struct mc_registry *registry, char **ret_text, struct mc_error *err);

struct mc_topology {
	size_t nr_nodes, nr_devices;
	struct mc_topo_node *nodes;
	struct mc_topo_device *devices;
};
/* What the machine has; the caller frees its lists.
 *   returns   0; -ENOTSUP: built without discovery; ...: err says why
 * [any] but control and workers: tens of ms, more on big machines */
int mc_discover_scan(struct mc_topology *ret_topology, struct mc_error *err);
void mc_topology_free(struct mc_topology *topology);

/* What two devices hang below together: the more, the nearer they are. */
uint32_t mc_topo_common(const struct mc_topo_device *a, const struct mc_topo_device *b);

/* The judging half: the matrix of this machine.  claim answers the transport that claims a device
 * for a memory kind, or NULL. */
int mc_discover_write(const struct mc_topology *topology,
		      const char *(*claim)(void *ctx, const char *device, const char *kind), void *ctx,
		      char **ret_text, struct mc_error *err);

#endif
