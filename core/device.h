/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device that the matrix named, opened: its transport's plugin (with filters
 * stacked over it), and one lane (instance + worker) or several.
 */
#ifndef MC_CORE_DEVICE_H
#define MC_CORE_DEVICE_H

#include <stdatomic.h>

#include "engine.h"

struct mc_lane;

struct mc_device {
	struct mc_engine *engine;
	uint16_t idx;    /* in engine->devices */
	char label[MC_PLUGIN_NAME_MAX + MC_DEVICE_NAME_MAX + 2]; /* "tcp:eth0" */
	const char *transport, *name, *wire; /* of the manifest, of the device */
	uint16_t wire_min, wire_max;
	struct mc_plugin *plugin;
	const struct mc_transport_ops *ops; /* the stack's, if there are filters */
	char filters[128];                  /* names of the filters over it, with spaces between */
	struct mc_transport_caps caps;      /* of lane 0 */
	struct mc_device_info info;         /* from probe; empty if the plugin has none */
	bool require;            /* with registrations held off, see mc_local_freeze */
	_Atomic double weight;
	atomic_bool retired;     /* the matrix does not name it any more: nothing new is sent over it */
	uint32_t state; /* enum mc_device_state; atomic */
	uint16_t nr_lanes;
	struct mc_lane **lanes;
	struct mc_device_impl *impl; /* device.c */
};

/* What a matrix asks of devices: those that it opened, and what it says of each. */
struct mc_device_plan {
	struct mc_engine *engine;
	const struct mc_matrix *matrix;
	const struct mc_config *config;
	bool named; /* the user wrote the matrix, so what it names may not just be left out */
	size_t nr_fresh, nr_wanted;
	struct mc_device **fresh; /* opened for it: their places in engine->devices are the next ones */
	struct mc_device_wanted {
		struct mc_device *device;
		bool require;
		double weight;
	} *wanted; /* all that it names and that are open */
};
/* Open what the matrix names and the engine has not; nobody sees it yet.  On error nothing is open.
 * [any] but control and workers */
int mc_devices_plan(struct mc_device_plan *plan, uint64_t deadline_ns, struct mc_error *err);
/* By transport and name, among the engine's and the plan's; NULL: not open. */
struct mc_device *mc_devices_planned(const struct mc_device_plan *plan, const char *transport,
				     const char *name);
/* The engine has them from now on.  Does not fail. */
void mc_devices_adopt(struct mc_device_plan *plan);
/* What the matrix says of each device holds, and those that it does not name are retired. */
void mc_devices_judge(const struct mc_device_plan *plan);
/* Close what was opened and not adopted, free the plan's lists.  What a helper still works for is closed later. */
void mc_devices_plan_free(struct mc_device_plan *plan, uint64_t deadline_ns);

/* Open every device that engine->matrix names; sets engine->devices. */
int mc_devices_open(struct mc_engine *engine, bool named, uint64_t deadline_ns, struct mc_error *err);
/* Sessions and paths are gone: nothing new arrives.  -ETIMEDOUT: a plugin did not give back its slices in time;
 * -EINPROGRESS: a helper still works for one: call again when the helpers are idle. */
int mc_devices_close(struct mc_engine *engine, uint64_t deadline_ns);
/* Tell plugins whose fence is the initiator's alone that we are closing, before they are closed.  [helper] */
void mc_lanes_stop_local(struct mc_engine *engine);
/* Why a device that the matrix names is not open: a sentence that lives as long as the engine; NULL: it
 * was not left out.  [any] */
const char *mc_device_left_out(const struct mc_engine *engine, const char *transport, const char *name);
/* By transport and name; NULL: not open. */
struct mc_device *mc_device_find(const struct mc_engine *engine, const char *transport,
				 const char *name);
/* True if slices of the device may name local memory of the kind. */
bool mc_device_reaches(const struct mc_device *device, const char *kind);
/* Places for what is kept per device. */
static inline size_t mc_device_places(const struct mc_engine *engine)
{
	size_t nr = engine->nr_devices;

	return engine->cap_devices > nr ? engine->cap_devices : nr ? nr : 1;
}

#endif
