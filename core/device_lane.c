/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lanes of a device: opens and closes them.  A lane's plugin is opened and
 * closed on a helper; its worker's baton is held meanwhile, so that nothing of
 * the lane runs before it is whole.
 */
#include "device_impl.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "clock.h"
#include "host.h"
#include "kind.h"
#include "log.h"
#include "stage.h"
#include "core/util/check.h"

static void *area_new(size_t size)
{
	size_t full = mc_round_up(size ? size : 1, MC_CACHE_LINE);
	void *area = aligned_alloc(MC_CACHE_LINE, full);

	return area ? memset(area, 0, full) : NULL;
}

static void lane_free(struct mc_lane *lane)
{
	if (!lane)
		return;
	mc_lane_slices_free(lane);
	mc_worker_free(lane->worker);
	free(lane->inst);
	free(lane);
}

/* The worker's own thread holds the baton for moments only: it has no client yet. */
static void baton_take(struct mc_worker *worker)
{
	while (!mc_worker_enter(worker))
		sched_yield();
}

static int lane_open_plugin(struct mc_lane *lane, uint64_t deadline_ns, struct mc_error *err)
{
	struct mc_device *d = lane->device;
	struct mc_open_args args = {
		.size = sizeof args,
		.device = d->name,
		.engine = d->engine->name,
		.generation = d->engine->generation,
		.options = d->impl->values,
		.lane = lane->idx,
		.nr_lanes = d->nr_lanes,
		.lane0 = lane->idx ? d->lanes[0]->inst : NULL,
		.peer_timeout_ns = (uint64_t)d->engine->set->peer_timeout,
		.deadline_ns = deadline_ns,
	};
	int r;

	lane->caps.size = sizeof lane->caps;
	if (err)
		err->text[0] = '\0';
	baton_take(lane->worker);
	r = d->ops->open(lane->inst, &lane->host, &args, &lane->caps, err);
	if (r == 0 && (lane->caps.alignment & (lane->caps.alignment - 1))) {
		r = mc_fail(err, -EPROTO, "device '%s': its plugin asks for an alignment of %u: that is no power of two",
			    d->label, lane->caps.alignment);
		d->ops->close(lane->inst);
	}
	if (r == 0) {
		if (d->impl->settings.bandwidth)
			lane->caps.bandwidth = (uint64_t)d->impl->settings.bandwidth;
		mc_worker_set_flags(lane->worker, lane->caps.flags & MC_CAP_OWN_THREAD,
				    lane->caps.flags & MC_CAP_CPU_COPY);
		lane->client.ops = &mc_lane_client_ops;
		lane->client.polled = lane->caps.flags & MC_CAP_SPIN;
		mc_worker_add(lane->worker, &lane->client);
	}
	mc_worker_leave(lane->worker);
	return r < 0 ? mc_plugin_open_failed(d->plugin, d->label, r, err) : 0;
}

int mc_lane_open(struct mc_device *d, uint16_t idx, uint64_t deadline_ns, struct mc_error *err)
{
	struct mc_lane *lane = area_new(sizeof *lane);
	char worker_name[sizeof lane->label];
	struct mc_worker_args args = {
		.name = worker_name,
		.spin_ns = (uint64_t)d->engine->set->spin,
		.peer_timeout_ns = (uint64_t)d->engine->set->peer_timeout,
		.numa_node = d->info.numa_node,
	};
	int r = -ENOMEM;

	if (!lane)
		return mc_fail(err, r, "device '%s': out of memory", d->label);
	lane->device = d;
	lane->idx = idx;
	lane->ops = d->ops;
	lane->ready_tail = &lane->ready;
	snprintf(lane->label, sizeof lane->label, idx ? "%s/%u" : "%s", d->label, idx);
	snprintf(worker_name, sizeof worker_name, "%s/%u", d->label, idx);
	lane->inst = area_new(d->ops->instance_size);
	if (lane->inst)
		r = mc_worker_new(&args, &lane->worker);
	if (r < 0) {
		lane_free(lane);
		return mc_fail(err, r, "device '%s': no worker for it: %s", d->label, strerror(-r));
	}
	mc_host_init(lane);
	r = lane_open_plugin(lane, deadline_ns, err);
	if (r < 0) {
		lane_free(lane);
		return r;
	}
	d->lanes[idx] = lane;
	return 0;
}

static void lane_stop(void *arg)
{
	struct mc_lane *lane = arg;

	if (lane->stopped)
		return;
	lane->stopped = true;
	lane->ops->stop(lane->inst);
}

void mc_lanes_stop_local(struct mc_engine *engine)
{
	for (size_t d = 0; d < engine->nr_devices; d++)
		for (uint32_t l = 0; l < engine->devices[d]->nr_lanes; l++) {
			struct mc_lane *lane = engine->devices[d]->lanes[l];

			if (lane->caps.fence == MC_FENCE_LOCAL)
				mc_worker_call(lane->worker, lane_stop, lane);
		}
}

struct drain {
	struct mc_lane *lane;
	bool idle;
};

static void lane_look(void *arg)
{
	struct drain *drain = arg;

	drain->idle = !drain->lane->nr_slices &&
		      !__atomic_load_n(&drain->lane->calls, __ATOMIC_ACQUIRE);
}

static void lane_leave(void *arg)
{
	struct mc_lane *lane = arg;

	mc_worker_remove(lane->worker, &lane->client);
	/* A helper closes the plugin under the baton. */
	if (lane->caps.flags & MC_CAP_OWN_THREAD)
		mc_worker_set_flags(lane->worker, false, false);
}

/* Wait until the plugin has given back its slices and every answer to it has come. */
static int lane_drain(struct mc_lane *lane, uint64_t deadline_ns)
{
	struct drain drain = {.lane = lane};

	for (;;) {
		struct timespec pause = {.tv_nsec = 200000};

		mc_worker_call(lane->worker, lane_look, &drain);
		if (drain.idle)
			return 0;
		if (mc_now_ns() >= deadline_ns)
			return -ETIMEDOUT;
		clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
	}
}

static int lane_close_job(void *arg)
{
	struct mc_lane *lane = arg;

	baton_take(lane->worker);
	lane->ops->close(lane->inst);
	mc_worker_leave(lane->worker);
	return 0;
}

int mc_lane_close(struct mc_lane *lane, uint64_t deadline_ns)
{
	int r;

	mc_worker_call(lane->worker, lane_stop, lane);
	r = lane_drain(lane, deadline_ns);
	if (r < 0 && __atomic_load_n(&lane->calls, __ATOMIC_ACQUIRE))
		return -EINPROGRESS;
	if (r < 0)
		mc_warn("device '%s': its plugin did not give back %u slices in time", lane->label,
			lane->nr_slices);
	mc_worker_call(lane->worker, lane_leave, lane);
	mc_stage_lane_close(lane);
	mc_helpers_call(lane->device->engine->helpers, lane_close_job, lane);
	lane_free(lane);
	return r;
}
