/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The example transport: descriptor, options, devices, opening and closing.  example.h says how the
 * parts belong together; transport.h says what each operation is for.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "example.h"

/* The host parses options; they come to open in this order. */
enum { OPT_MAX_SLICE, OPT_DEPTH };
static const struct mc_option example_options[] = {
	[OPT_MAX_SLICE] = {.name = "max_slice",
			   .type = MC_OPT_SIZE,
			   .def = "4MiB",
			   .min = 4096,
			   .max = INT64_C(1) << 30,
			   .doc = "largest piece that a request is cut into"},
	[OPT_DEPTH] = {.name = "depth",
		       .type = MC_OPT_INT,
		       .flags = MC_OPT_RELOADABLE,
		       .def = "256",
		       .min = 1,
		       .max = 65536,
		       .doc = "slices in flight per peer; more wait in the core"},
	{.name = NULL},
};

/* [helper] One device, that always exists.  Others would list what sysfs or their library shows,
 * and open none of it. */
static int example_enumerate(const struct mc_host *host,
			     int (*found)(void *ctx, const char *device), void *ctx)
{
	(void)host;
	return found(ctx, "unix0");
}

/* [helper] A device that cannot be used gets a sentence that says what to do, and is no error. */
static int example_probe(const struct mc_host *host, const char *device,
			 struct mc_device_info *info, struct mc_error *err)
{
	(void)host;
	(void)err;
	snprintf(info->name, sizeof info->name, "%s", device);
	snprintf(info->address, sizeof info->address, "this host");
	info->numa_node = -1;
	info->state = MC_STATE_ACTIVE;
	if (strncmp(device, "unix", 4) != 0) {
		info->state = MC_STATE_MISSING;
		snprintf(info->remedy, sizeof info->remedy,
			 "device '%.63s': not of the example transport: name it unix0", device);
	}
	return 0;
}

/* [helper] On an error there must be a sentence in err, and nothing left to close. */
static int example_open(void *inst, const struct mc_host *host, const struct mc_open_args *args,
			struct mc_transport_caps *caps, struct mc_error *err)
{
	static const char *const kinds[] = {"cpu", NULL};
	struct mc_device_info info = {.size = sizeof info};
	struct example *x = inst;

	example_probe(host, args->device, &info, err);
	if (info.state != MC_STATE_ACTIVE)
		return mc_fail(err, -ENODEV, "%s", info.remedy);
	x->host = host;
	x->max_slice = (uint64_t)args->options[OPT_MAX_SLICE].i;
	x->depth = (uint32_t)args->options[OPT_DEPTH].i;
	example_queue_init(&x->over);
	x->c_slices = host->counter(host, "slices", "slices that ended well");
	x->c_bytes = host->counter(host, "bytes", "bytes that they moved");
	x->c_refused = host->counter(host, "refused", "requests of peers that were refused");
	/* AGENT: our code runs at the target for each slice, which makes the host's range check
	 * ours.
	 * FENCE_BOTH: bytes may lie in the socket, so only both ends together know that a
	 * slice is dead. */
	caps->flags = MC_CAP_READ | MC_CAP_WRITE | MC_CAP_AGENT | MC_CAP_CPU_COPY;
	caps->fence = MC_FENCE_BOTH;
	caps->visibility = MC_VISIBLE_AT_COMPLETION;
	caps->local_kinds = kinds;
	caps->remote_kinds = kinds;
	caps->max_slice = x->max_slice;
	caps->pref_slice = x->max_slice < 1 << 20 ? x->max_slice : 1 << 20;
	caps->bandwidth = UINT64_C(3000000000); /* a first guess; the core learns the real one */
	caps->latency_ns = 15000;
	return 0;
}

/* [worker] All options come, with their present values. */
static int example_reconfigure(void *inst, const struct mc_value *options, struct mc_error *err)
{
	struct example *x = inst;

	(void)err;
	x->depth = (uint32_t)options[OPT_DEPTH].i;
	return 0;
}

/* [worker] Nothing new from here on; what is in flight ends in progress. */
static void example_stop(void *inst)
{
	struct example *x = inst;

	x->stopped = true;
	for (struct example_peer *p = x->peers; p; p = p->next) {
		example_peer_shut(p);
		example_peer_end(p, -ECANCELED);
	}
}

/* [helper] The host has closed every peer.  Whatever open took would be given back here. */
static void example_close(void *inst)
{
	(void)inst;
}

/* [helper] Sockets take any memory of the CPU.  Others pin it, or map it; see mem_export in
 * transport.h for what peers are told of it. */
static int example_mem_reg(void *inst, void *region, const struct mc_mem_desc *desc,
			   struct mc_error *err)
{
	(void)inst;
	(void)region;
	(void)desc;
	(void)err;
	return 0;
}

/* [worker] Descriptors announce everything but slices that were cancelled or stopped. */
static int example_progress(void *inst)
{
	return example_deliver(inst);
}

/* [worker] Before the worker sleeps. */
static int example_arm(void *inst)
{
	return ((struct example *)inst)->over.head ? -EBUSY : 0;
}

static const struct mc_transport_ops example_ops = {
	.size = sizeof example_ops,
	.instance_size = sizeof(struct example),
	.peer_size = sizeof(struct example_peer),
	.slice_size = sizeof(struct example_op),
	.enumerate = example_enumerate,
	.probe = example_probe,
	.open = example_open,
	.reconfigure = example_reconfigure,
	.stop = example_stop,
	.close = example_close,
	.mem_reg = example_mem_reg,
	.peer_open = example_peer_open,
	.peer_accept = example_peer_accept,
	.peer_msg = example_peer_msg,
	.peer_close = example_peer_close,
	.submit = example_submit,
	.flush = example_flush,
	.progress = example_progress,
	.arm = example_arm,
	.cancel = example_cancel,
	.fence = example_fence,
};

static const char *const example_memory[] = {"cpu", NULL};
static const char *const example_claims[] = {"unix*", NULL};

/* The one symbol that is exported.  example.json says the same to who does not load us. */
const struct mc_plugin_desc mc_plugin_desc = {
	MC_PLUGIN_HEAD(MC_KIND_TRANSPORT),
	.name = "example",
	.version = EXAMPLE_VERSION,
	.summary = "Unix-domain sockets between processes of one host",
	.ops = &example_ops,
	.options = example_options,
	.wire = "example",
	.wire_min = 1,
	.wire_max = 1,
	.memory = example_memory,
	.claims = example_claims,
};
