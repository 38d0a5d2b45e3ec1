/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cxl transport: hosts that map the same pool of CXL memory reach each other's
 * buffers in it by load and store.  A WRITE is a copy into it that ends with its
 * lines written back, a READ a copy out of it that begins with stale lines dropped;
 * README.md says what that guarantees.
 */
#include "cxl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/util/check.h"
#include "cxl_options.h"

#define NAME "cxl"
#define PATIENCE_NS (5 * MC_SEC)

/* ---- devices ---------------------------------------------------------------------------------- */

static void device_free(struct cxl_device *d)
{
	if (!d)
		return;
	cxl_ledger_fini(&d->ledger);
	cxl_memory_fini(&d->memory);
	cxl_pool_close(&d->pool);
	pthread_mutex_destroy(&d->lock);
	free(d);
}

static int device_new(struct cxl *c, const struct mc_open_args *args, struct mc_error *err)
{
	struct cxl_device *d;
	struct cxl_place place;
	int r = cxl_device_resolve(args->device, args->options[CXL_OPT_POOL_DIR].s, &place, err);

	if (r < 0)
		return r;
	d = calloc(1, sizeof *d);
	if (!d)
		return mc_fail(err, -ENOMEM, "device '%s': out of memory", args->device);
	pthread_mutex_init(&d->lock, NULL);
	d->nr_lanes = args->nr_lanes;
	d->by_subnet = place.dax;
	d->patience_ns = PATIENCE_NS;
	d->growth = (uint64_t)args->options[CXL_OPT_GROWTH].i;
	r = cxl_pool_open(&d->pool, &place, err);
	if (r == 0 && (cxl_memory_init(&d->memory, &d->pool) < 0 || cxl_ledger_init(&d->ledger, d, args) < 0))
		r = mc_fail(err, -ENOMEM, "device '%s': out of memory", args->device);
	if (r < 0) {
		device_free(d);
		return r;
	}
	d->ledger.host = c->host;
	c->device = d;
	c->own_device = true;
	return 0;
}

/* ---- operations ------------------------------------------------------------------------------- */

static void fill_caps(const struct cxl_device *device, struct mc_transport_caps *caps)
{
	static const char *const local[] = { "cpu", "cxl", NULL }, *const remote[] = { "cxl", NULL };
	struct mc_transport_caps own = {
		.size = caps->size,
		.flags = MC_CAP_READ | MC_CAP_WRITE | MC_CAP_CPU_COPY | MC_CAP_SYNC | MC_CAP_TRUST |
			 (device->by_subnet ? MC_CAP_SAME_SUBNET : 0),
		.fence = MC_FENCE_LOCAL,
		.visibility = MC_VISIBLE_AT_COMPLETION,
		.local_kinds = local,
		.remote_kinds = remote,
		.max_slice = CXL_CHUNK,
		.pref_slice = CXL_CHUNK,
		.bandwidth = UINT64_C(8000000000),
		.latency_ns = 1000,
	};

	memcpy(caps, &own, MC_MIN(caps->size, sizeof own));
}

static int cxl_open(void *inst, const struct mc_host *host, const struct mc_open_args *args,
		    struct mc_transport_caps *caps, struct mc_error *err)
{
	struct cxl *c = inst;
	int r = 0;

	c->host = host;
	c->lane = args->lane;
	c->guard_slot = UINT32_MAX;
	c->sole = args->options[CXL_OPT_SOLE].b;
	c->joined = (struct mc_work){.size = sizeof c->joined, .run = cxl_peers_joined, .user = c};
	if (args->lane >= CXL_LANES_MAX || args->nr_lanes > CXL_LANES_MAX)
		return mc_fail(err, -EINVAL, "device '%s': %u lanes: at most %u", args->device, args->nr_lanes, CXL_LANES_MAX);
	if (args->lane0)
		c->device = ((struct cxl *)args->lane0)->device;
	else
		r = device_new(c, args, err);
	if (r < 0)
		return r;
	fill_caps(c->device, caps);
	c->nr_written = host->counter(host, "cxl_written", "Bytes copied into the pool.");
	c->nr_read = host->counter(host, "cxl_read", "Bytes copied out of the pool.");
	c->nr_refused = host->counter(host, "cxl_refused", "Slices refused: a cut line, or a buffer that is gone.");
	pthread_mutex_lock(&c->device->lock);
	c->device->lanes[c->lane] = c;
	pthread_mutex_unlock(&c->device->lock);
	if (c->own_device) {
		host->log(host, MC_LOG_INFO, "pool '%s': %llu MiB in %u units, flushed by %s", c->device->pool.path,
			  (unsigned long long)(c->device->pool.g.size >> 20), c->device->pool.g.nr_units,
			  c->device->pool.cache->name);
		cxl_ledger_kick(&c->device->ledger);
	}
	return 0;
}

static void cxl_stop(void *inst)
{
	struct cxl *c = inst;

	c->stopped = true;
	cxl_flush(c);
	pthread_mutex_lock(&c->device->lock);
	c->device->lanes[c->lane] = NULL;
	pthread_mutex_unlock(&c->device->lock);
	if (c->own_device)
		cxl_ledger_stop(&c->device->ledger);
}

static void cxl_close(void *inst)
{
	struct cxl *c = inst;

	if (c->own_device) {
		c->host->timer_set(c->host, &c->device->ledger.timer, 0);
		c->host->timer_set(c->host, &c->device->ledger.beat_timer, 0);
		device_free(c->device);
	}
	c->device = NULL;
}

static const struct mc_transport_ops cxl_ops = {
	.size = sizeof cxl_ops,
	.instance_size = sizeof(struct cxl),
	.peer_size = sizeof(struct cxl_peer),
	.region_size = sizeof(struct cxl_region),
	.remote_size = sizeof(struct cxl_remote),
	.enumerate = cxl_enumerate,
	.probe = cxl_probe,
	.open = cxl_open,
	.stop = cxl_stop,
	.close = cxl_close,
	.mem_alloc = cxl_mem_alloc,
	.mem_free = cxl_mem_free,
	.mem_reg = cxl_mem_reg,
	.mem_unreg = cxl_mem_unreg,
	.mem_export = cxl_mem_export,
	.mem_import = cxl_mem_import,
	.mem_release = cxl_mem_release,
	.peer_open = cxl_peer_open,
	.peer_accept = cxl_peer_accept,
	.peer_msg = cxl_peer_msg,
	.peer_close = cxl_peer_close,
	.submit = cxl_submit,
	.flush = cxl_flush,
	.progress = cxl_progress,
	.fence = cxl_fence,
	.mem_sync = cxl_mem_sync,
};

static const char *const cxl_memory[] = { "cpu", "cxl", NULL };
static const char *const cxl_claims[] = { "dax[0-9]*.[0-9]*", "mem[0-9]*", "region[0-9]*", "sysfs:bus/cxl/devices/*", NULL };

const struct mc_plugin_desc mc_plugin_desc = {
	MC_PLUGIN_HEAD(MC_KIND_TRANSPORT),
	.name = NAME,
	.version = MC_VERSION,
	.summary = "memory pools that several hosts map (CXL, devdax): a transfer is a copy and the flushes that make it seen",
	.ops = &cxl_ops,
	.options = cxl_options,
	.wire = "cxl-pool",
	.wire_min = 1,
	.wire_max = 1,
	.flags = MC_PLUGIN_OPTIONAL,
	.memory = cxl_memory,
	.claims = cxl_claims,
};
