/* SPDX-License-Identifier: Apache-2.0 */
/* A filter that does nothing at all: everything goes straight to the transport. */
#include <mooncake/transport.h>

static const struct mc_filter_ops idle_ops = {.size = sizeof idle_ops};

const struct mc_plugin_desc mc_plugin_desc = {
	MC_PLUGIN_HEAD(MC_KIND_FILTER),
	.name = "idle",
	.version = "1",
	.summary = "passes everything on",
	.ops = &idle_ops,
};
