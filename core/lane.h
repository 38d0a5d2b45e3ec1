/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A lane: one plugin instance with its worker, the paths that use it, and the
 * host services that it calls.
 */
#ifndef MC_CORE_LANE_H
#define MC_CORE_LANE_H

#include <stdatomic.h>

#include "device.h"
#include "worker.h"

struct mc_hslice;
struct mc_path;
struct mc_stage_lane;

#define MC_LANE_COUNTERS 32

struct mc_lane_counter {
	char name[48];
	const char *doc;
	uint64_t value;
	bool gauge; /* goes down too */
};

struct mc_lane {
	struct mc_host host; /* first: the plugin hands it back to us */
	char label[MC_PLUGIN_NAME_MAX + MC_DEVICE_NAME_MAX + 8]; /* "tcp:eth0", with "/1" for lane 1 */
	struct mc_device *device;
	uint16_t idx;
	void *inst;
	const struct mc_transport_ops *ops;
	struct mc_transport_caps caps;
	struct mc_worker *worker;
	struct mc_client client;

	/* [worker] */
	struct mc_path *paths;       /* all that are open, active and passive */
	struct mc_path *ready;       /* with queued work and room, round robin */
	struct mc_path **ready_tail;
	struct mc_path *attend;      /* something changed from inside the plugin: look at these */
	struct mc_hslice *free_slices;
	struct mc_slab *slabs;
	struct mc_stage_lane *stage; /* stage.h; NULL: nothing was staged yet */
	uint32_t nr_slices;          /* in use */
	uint32_t handled;            /* completions of this turn */
	bool inside;                 /* within submit or cancel: completions are forbidden */
	bool flush_due;
	bool stopped;                /* the plugin knows that we are closing */
	uint64_t now;                /* of this turn */
	_Atomic uint64_t inflight;   /* bytes */
	_Atomic uint64_t bytes_read, bytes_written, slices, failures; /* of all active paths that ever were */

	_Atomic(struct mc_hslice *) any_done; /* stack: complete_any */

	struct mc_lane_counter counters[MC_LANE_COUNTERS];
	uint32_t nr_counters;        /* atomic */
	uint32_t calls;              /* atomic: run_blocking, run_lazily and kv whose done has not run */
};

/* Fill lane->host with every service (host.c, path.c, record.c behind them).  lane->device, idx,
 * label, worker are set. */
void mc_host_init(struct mc_lane *lane);
extern const struct mc_client_ops mc_lane_client_ops; /* path.c: progress, arm, tick, frozen */
/* Free slabs. */
void mc_lane_slices_free(struct mc_lane *lane);

#endif
