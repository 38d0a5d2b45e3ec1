/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rdma transport: slices between host memories as one-sided RDMA READs and WRITEs.  This file is
 * its descriptor; what it does is in transports/shared/verbs.  README.md says what it needs.
 */
#include "transports/shared/verbs/rdma_options.h"

static const struct mc_option rdma_options[] = {
	RDMA_OPTIONS,
	{ .name = NULL },
};

static const struct mc_transport_ops rdma_ops = { RDMA_OPS };

static const char *const rdma_memory[] = { "cpu", NULL };
static const char *const rdma_claims[] = { "sysfs:class/infiniband/*", NULL };

const struct mc_plugin_desc mc_plugin_desc = {
	MC_PLUGIN_HEAD(MC_KIND_TRANSPORT),
	.name = "rdma",
	.version = MC_VERSION,
	.summary = "one-sided RDMA READ and WRITE: InfiniBand and RoCE, through libibverbs",
	.ops = &rdma_ops,
	.options = rdma_options,
	.wire = "verbs-rc",
	.wire_min = RDMA_WIRE_VERSION,
	.wire_max = RDMA_WIRE_VERSION,
	.flags = MC_PLUGIN_OPTIONAL,
	.memory = rdma_memory,
	.claims = rdma_claims,
};
