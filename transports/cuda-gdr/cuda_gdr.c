/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cuda-gdr transport: slices from and to GPU memory that no CPU touches, by GPUDirect RDMA.  What it
 * does is in transports/shared/verbs; here are the descriptor and what a host must have.
 */
#include "cuda_driver.h"
#include "transports/shared/verbs/rdma_options.h"

/* enum rdma_registration */
static const char *const registration_words[] = { "auto", "dmabuf", "peermem", NULL };

static const struct mc_option gdr_options[] = {
	RDMA_OPTIONS,
	[RDMA_OPT_COUNT] = { .name = "registration", .type = MC_OPT_ENUM, .def = "auto", .choices = registration_words,
			     .doc = "how GPU memory is registered; auto: dma-buf, else peermem, else it is staged; what is "
				    "named is the only way, and memory that it does not take is refused" },
	{ .name = NULL },
};

static const char *const gdr_memory[] = { "cuda", NULL };
static const char *const gdr_remote[] = { "cuda", "cpu", NULL };
static const struct rdma_flavour gdr_flavour = { .local_kinds = gdr_memory, .remote_kinds = gdr_remote,
						 .device_memory = true };

/* Without a GPU there is nothing to carry, and a connection to be had for nothing. */
static int look_for_gpu(struct mc_error *err)
{
	struct cuda_driver cu = { .library = NULL };
	int nr, r = cuda_driver_open(&cu, &nr, err);

	if (r == 0)
		cuda_driver_close(&cu);
	return r;
}

/* [helper] */
static int gdr_open(void *inst, const struct mc_host *host, const struct mc_open_args *args,
		    struct mc_transport_caps *caps, struct mc_error *err)
{
	int r = args->lane0 ? 0 : look_for_gpu(err);

	return r < 0 ? r : rdma_open(inst, &gdr_flavour, host, args, caps, err);
}

static const struct mc_transport_ops gdr_ops = { RDMA_OPS, .open = gdr_open };

static const char *const gdr_claims[] = { "sysfs:class/infiniband/*", NULL };

const struct mc_plugin_desc mc_plugin_desc = {
	MC_PLUGIN_HEAD(MC_KIND_TRANSPORT),
	.name = "cuda-gdr",
	.version = MC_VERSION,
	.summary = "one-sided RDMA from and to GPU memory: GPUDirect RDMA, through libibverbs",
	.ops = &gdr_ops,
	.options = gdr_options,
	.wire = "verbs-rc",
	.wire_min = RDMA_WIRE_VERSION,
	.wire_max = RDMA_WIRE_VERSION,
	.flags = MC_PLUGIN_OPTIONAL,
	.memory = gdr_memory,
	.claims = gdr_claims,
};
