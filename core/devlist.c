/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which devices a transport finds on this host, without opening one and without
 * an engine: for programs that choose devices themselves.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include <mooncake/mooncake.h>

#include "clock.h"
#include "loader.h"
#include "log.h"

/* ---- a host for plugins that only look: log, clock, random bytes, memory ---------------------- */

static void look_log(const struct mc_host *h, int level, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	mc_logv(level, h->instance, fmt, ap);
	va_end(ap);
}

static uint64_t look_now_ns(const struct mc_host *h)
{
	return mc_now_ns();
}

static void look_random(const struct mc_host *h, void *buf, size_t len)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = getrandom((char *)buf + done, len - done, 0);

		if (n > 0)
			done += (size_t)n;
	}
}

static void *look_alloc(const struct mc_host *h, size_t len)
{
	void *p = NULL;

	if (posix_memalign(&p, 4096, len) != 0)
		return NULL;
	return memset(p, 0, len);
}

static void look_free(const struct mc_host *h, void *ptr, size_t len)
{
	free(ptr);
}

/* ---- the list ----------------------------------------------------------------------------------- */

struct look {
	struct mc_host host;
	const struct mc_transport_ops *ops;
	int (*each)(void *ctx, const struct mc_device_desc *device);
	void *ctx;
};

static int look_found(void *ctx, const char *device)
{
	struct look *look = ctx;
	struct mc_device_info info = {.size = sizeof info, .numa_node = -1};
	struct mc_error err = {0};
	struct mc_device_desc desc = {
		.size = sizeof desc, .name = device, .address = "", .remedy = "", .numa_node = -1};
	int r = look->ops->probe(&look->host, device, &info, &err);

	/* A transport without probe vouches for what it enumerates. */
	desc.active = r == -ENOTSUP || (r == 0 && info.state != MC_STATE_DOWN &&
					info.state != MC_STATE_MISSING);
	if (r == 0) {
		desc.address = info.address;
		desc.remedy = info.remedy;
		desc.speed = info.speed;
		desc.numa_node = info.numa_node;
	} else if (r != -ENOTSUP) {
		desc.remedy = err.text;
	}
	return look->each(look->ctx, &desc);
}

int mc_transport_devices(const struct mc_config *config, const char *transport,
			 int (*each)(void *ctx, const struct mc_device_desc *device), void *ctx,
			 struct mc_error *err)
{
	struct mc_registry *registry;
	struct mc_plugin *plugin = NULL;
	struct look look = {.each = each, .ctx = ctx};
	int r;

	if (!config || !transport || !each)
		return mc_fail(err, -EINVAL, "an argument is missing");
	r = mc_registry_load(&registry, err);
	if (r < 0)
		return r;
	r = mc_plugin_load(registry, MC_KIND_TRANSPORT, transport, &plugin, err);
	mc_registry_free(registry);
	if (r < 0)
		return r;
	look.ops = &plugin->ops.transport;
	look.host = (struct mc_host){
		.size = offsetof(struct mc_host, counter),
		.abi_major = MC_ABI_MAJOR,
		.abi_minor = MC_ABI_MINOR,
		.instance = transport,
		.log = look_log,
		.now_ns = look_now_ns,
		.random = look_random,
		.alloc = look_alloc,
		.free = look_free,
	};
	r = look.ops->enumerate(&look.host, look_found, &look);
	if (r == -ENOTSUP)
		mc_fail(err, r, "transport '%s' cannot list its devices; name them", transport);
	else if (r < 0)
		mc_fail(err, r, "transport '%s' could not list its devices: %s", transport,
			strerror(-r));
	mc_plugin_unref(plugin);
	return r;
}
