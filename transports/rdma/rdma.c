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

static const char *const rdma_memory[] = { "cpu", NULL };
/* Memory of a GPU at the other end is that of a device of cuda-gdr, which speaks the same wire. */
static const char *const rdma_remote[] = { "cpu", "cuda", NULL };
static const struct rdma_flavour rdma_flavour = { .local_kinds = rdma_memory, .remote_kinds = rdma_remote };

/* [helper] */
static int open_rdma(void *inst, const struct mc_host *host, const struct mc_open_args *args,
		     struct mc_transport_caps *caps, struct mc_error *err)
{
	return rdma_open(inst, &rdma_flavour, host, args, caps, err);
}

static const struct mc_transport_ops rdma_ops = { RDMA_OPS, .open = open_rdma };

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
