/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shm transport: engines of one host copy into and out of each other's memory.  This file holds
 * the descriptor, the options, open and close.  README.md says what it needs and what was measured;
 * shm.h says how both ends agree on what may be touched.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#include "shm.h"

enum { OPT_MODE, OPT_MAX_SLICE };

static const char *const modes[] = {[SHM_AUTO] = "auto", [SHM_MAP] = "map", [SHM_ATTACH] = "attach", NULL};

static const struct mc_option shm_options[] = {
	[OPT_MODE] = {.name = "mode",
		      .type = MC_OPT_ENUM,
		      .def = "auto",
		      .choices = modes,
		      .doc = "how to reach a buffer: map (those of mc_memory_alloc, by a shared mapping), "
			     "attach (any, by process_vm_readv and process_vm_writev), or auto: mapped where it "
			     "can be, attached where not"},
	[OPT_MAX_SLICE] = {.name = "max_slice",
			   .type = MC_OPT_SIZE,
			   .def = "16MiB",
			   .min = 4096,
			   .max = INT64_C(1) << 30,
			   .doc = "largest piece that a request is cut into"},
	{.name = NULL},
};

static void open_caps(const struct shm *x, struct mc_transport_caps *caps)
{
	static const char *const kinds[] = {"cpu", NULL};

	/* TRUST: who has a mapping, or may trace us, is held back by nothing.  LOCAL: nothing of a slice
	 * goes on after the initiator's own calls. */
	caps->flags = MC_CAP_READ | MC_CAP_WRITE | MC_CAP_CPU_COPY | MC_CAP_TRUST | MC_CAP_SAME_SUBNET |
		      MC_CAP_LOCAL_STREAMS;
	caps->fence = MC_FENCE_LOCAL;
	caps->visibility = MC_VISIBLE_AT_COMPLETION;
	caps->alignment = 1;
	caps->local_kinds = kinds;
	caps->remote_kinds = kinds;
	caps->max_slice = x->max_slice;
	caps->pref_slice = MC_MIN(x->max_slice, SHM_CHUNK);
	caps->bandwidth = UINT64_C(8000000000); /* a first guess; the core learns the real one */
	caps->latency_ns = 300;
	caps->streams = 1;
}

static void open_counters(struct shm *x)
{
	const struct mc_host *h = x->host;

	x->c_mapped = h->counter(h, "mapped_bytes", "bytes copied into and out of mapped memory");
	x->c_attached = h->counter(h, "attached_bytes", "bytes moved by process_vm_readv and process_vm_writev");
	x->c_calls = h->counter(h, "attach_calls", "calls of process_vm_readv and process_vm_writev");
	x->c_refused = h->counter(h, "refused", "slices for memory that may not be touched, or not any more");
	x->g_maps = mc_gauge_new(h, "maps", "buffers of peers that are mapped");
}

/* [helper] Also undoes a half-made open. */
static void shm_close(void *inst)
{
	struct shm *x = inst;

	shm_flag_close(x);
	if (x->dev == &x->own)
		shm_device_close(x->dev);
}

/* [helper] */
static int shm_open(void *inst, const struct mc_host *host, const struct mc_open_args *args,
		    struct mc_transport_caps *caps, struct mc_error *err)
{
	struct mc_device_info info = {.size = sizeof info};
	struct shm *x = inst;
	int r;

	shm_probe(host, args->device, &info, err);
	if (info.state != MC_STATE_ACTIVE)
		return mc_fail(err, -ENODEV, "%s", info.remedy);
	x->host = host;
	x->mode = (enum shm_mode)args->options[OPT_MODE].i2;
	x->max_slice = (uint64_t)args->options[OPT_MAX_SLICE].i;
	x->peer_timeout_ns = args->peer_timeout_ns;
	x->queue_tail = &x->queue;
	x->dev = args->lane ? ((struct shm *)args->lane0)->dev : &x->own;
	r = shm_self_read(&x->self);
	if (r < 0)
		return mc_fail(err, r, "this process cannot be told from others: %s: mount /proc", strerror(-r));
	r = args->lane ? 0 : shm_device_open(x->dev);
	if (r == 0)
		r = shm_flag_open(x);
	if (r < 0) {
		shm_close(x);
		return mc_fail(err, r, "no memory to share: memfd_create: %s", strerror(-r));
	}
	host->random(host, x->probe, sizeof x->probe);
	open_counters(x);
	open_caps(x, caps);
	return 0;
}

/* [worker] What is queued ends in progress. */
static void shm_stop(void *inst)
{
	((struct shm *)inst)->stopped = true;
}

/* [worker] Descriptors announce everything but what is queued and what peers are to be told. */
static int shm_progress(void *inst)
{
	struct shm *x = inst;
	int nr = shm_settle(x);

	if (x->queue) {
		shm_flush(x);
		nr++;
	}
	return nr + shm_settle(x);
}

/* [worker] */
static int shm_arm(void *inst)
{
	const struct shm *x = inst;

	return x->queue || x->news ? -EBUSY : 0;
}

/* [worker] */
static void shm_counters(void *inst, void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx)
{
	const struct shm *x = inst;
	const struct shm_peer *p;
	uint64_t peers = 0, attached = 0;

	DL_FOREACH(x->peers, p) {
		peers += p->state == SHM_READY;
		attached += p->state == SHM_READY && p->attach;
	}
	emit(ctx, "peers", peers);
	emit(ctx, "peers_attached", attached);
}

static const struct mc_transport_ops shm_ops = {
	.size = sizeof shm_ops,
	.instance_size = sizeof(struct shm),
	.peer_size = sizeof(struct shm_peer),
	.region_size = sizeof(struct shm_region),
	.remote_size = sizeof(struct shm_remote),
	.slice_size = sizeof(struct shm_op),
	.enumerate = shm_enumerate,
	.probe = shm_probe,
	.open = shm_open,
	.stop = shm_stop,
	.close = shm_close,
	.mem_reg = shm_mem_reg,
	.mem_unreg = shm_mem_unreg,
	.mem_export = shm_mem_export,
	.mem_import = shm_mem_import,
	.mem_release = shm_mem_release,
	.peer_open = shm_peer_open,
	.peer_accept = shm_peer_accept,
	.peer_attach = shm_peer_attach,
	.peer_close = shm_peer_close,
	.submit = shm_submit,
	.flush = shm_flush,
	.progress = shm_progress,
	.arm = shm_arm,
	.cancel = shm_cancel,
	.fence = shm_fence,
	.counters = shm_counters,
};

static const char *const shm_memory[] = {"cpu", NULL};
static const char *const shm_claims[] = {"shm*", NULL};

const struct mc_plugin_desc mc_plugin_desc = {
	MC_PLUGIN_HEAD(MC_KIND_TRANSPORT),
	.name = "shm",
	.version = MC_VERSION,
	.summary = "shared memory between engines of one host",
	.ops = &shm_ops,
	.options = shm_options,
	.wire = "shm",
	.wire_min = SHM_WIRE_VERSION,
	.wire_max = SHM_WIRE_VERSION,
	.memory = shm_memory,
	.claims = shm_claims,
};
