/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of a device share: device.c, device_filter.c, device_lane.c. */
#ifndef MC_CORE_DEVICE_IMPL_H
#define MC_CORE_DEVICE_IMPL_H

#include "filter.h"
#include "lane.h"

#define MC_DEVICE_FILTERS 8

/* What only opening and closing need. */
struct mc_device_impl {
	const struct mc_config *config; /* while it is being opened */
	struct mc_value *values; /* in force; changed by a reload */
	struct mc_transport_settings settings;
	size_t nr_filters;
	struct mc_plugin *filters[MC_DEVICE_FILTERS]; /* loaded, not yet owned by a stack */
	struct mc_value *filter_values[MC_DEVICE_FILTERS];
	struct mc_filter_stack *stacks[MC_DEVICE_FILTERS];
	struct mc_device *next_closing; /* engine->closing_devices */
};

/* Stack the filters that the config wants over device->ops, and name them in device->filters. */
int mc_device_filters_open(struct mc_device *device, struct mc_error *err);

/* Open lane idx, lane 0 first, into device->lanes.  [helper] */
int mc_lane_open(struct mc_device *device, uint16_t idx, uint64_t deadline_ns, struct mc_error *err);

/* Stop, drain and free a lane.  [any]
 *   returns   0; -ETIMEDOUT: its plugin kept slices; it is freed all the same
 *             -EINPROGRESS: calls of it are still at a helper, which answers into it; call again */
int mc_lane_close(struct mc_lane *lane, uint64_t deadline_ns);

#endif
