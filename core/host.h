/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host table for plugin calls that belong to no lane: enumerate and probe,
 * memory kinds.  It has no event loop: descriptors and timers are refused, work
 * runs on helpers.
 */
#ifndef MC_CORE_HOST_H
#define MC_CORE_HOST_H

#include "engine.h"

struct mc_plain_host {
	struct mc_host host; /* first: the plugin hands it back to us */
	struct mc_engine *engine; /* NULL: enumerate and probe without an engine */
	char label[MC_PLUGIN_NAME_MAX + MC_DEVICE_NAME_MAX + 2];
};

/* label: what log lines begin with; copied. */
void mc_plain_host_init(struct mc_plain_host *plain, struct mc_engine *engine, const char *label);

/* Services that every host has; h->instance begins the log lines.  [any] */
void mc_host_log(const struct mc_host *h, int level, const char *fmt, ...) MC_PRINTF(3, 4);
uint64_t mc_host_now(const struct mc_host *h);
void mc_host_random(const struct mc_host *h, void *buf, size_t len);
/* Unpredictable bytes from the kernel. */
void mc_random(void *buf, size_t len);

#endif
