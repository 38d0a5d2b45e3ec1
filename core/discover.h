/* SPDX-License-Identifier: Apache-2.0 */
/* Discovery: writes the NIC priority matrix when the user gave none. */
#ifndef MC_CORE_DISCOVER_H
#define MC_CORE_DISCOVER_H

#include "loader.h"
#include "topology.h"

/*
 * Look at the machine and write a matrix as JSON text: a row for each NUMA node
 * (rdma devices near it, those elsewhere, tcp), one for each GPU that a transport
 * reaches, and "*".  Only devices that a transport of the registry claims appear,
 * qualified by it.  Free the text with free.  The caller logs it, once.
 *   returns   0; -ENOTSUP: built without discovery; -ENODEV: nothing usable; ...: err says what to do
 * [any] but control and workers: tens of ms, more on big machines
 */
int mc_discover_matrix(const struct mc_registry *registry, char **ret_text, struct mc_error *err);

/* The judging half, for tests: the matrix of this machine.  claim answers the transport that claims
 * a device for a memory kind, or NULL. */
struct mc_topology {
	size_t nr_nodes, nr_devices;
	int32_t *nodes;
	struct mc_topo_device *devices;
};
int mc_discover_write(const struct mc_topology *topology,
		      const char *(*claim)(void *ctx, const char *device, const char *kind), void *ctx,
		      char **ret_text, struct mc_error *err);

#endif
