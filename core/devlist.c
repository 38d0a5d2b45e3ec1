/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which devices a transport finds on this host, without opening one and without
 * an engine: for programs that choose devices themselves.
 */
#include <errno.h>
#include <string.h>

#include <mooncake/mooncake.h>

#include "host.h"
#include "loader.h"

struct look {
	struct mc_plain_host plain;
	const struct mc_transport_ops *ops;
	int (*each)(void *ctx, const struct mc_device_desc *device);
	void *ctx;
	bool any;
};

static int look_found(void *ctx, const char *device)
{
	struct look *look = ctx;
	struct mc_device_info info = {.size = sizeof info, .numa_node = -1};
	struct mc_error err = {0};
	struct mc_device_desc desc = {
		.size = sizeof desc, .name = device, .address = "", .remedy = "", .detail = "", .numa_node = -1};
	int r = look->ops->probe(&look->plain.host, device, &info, &err);

	/* A transport without probe vouches for what it enumerates. */
	look->any = true;
	desc.active = r == -ENOTSUP || (r == 0 && info.state != MC_STATE_DOWN &&
					info.state != MC_STATE_MISSING);
	if (r == 0) {
		desc.address = info.address;
		desc.remedy = info.remedy;
		desc.speed = info.speed;
		desc.numa_node = info.numa_node;
		desc.capacity = info.capacity;
		desc.detail = info.detail;
	} else if (r != -ENOTSUP) {
		desc.remedy = err.text;
	}
	return look->each(look->ctx, &desc);
}

/* There is no device: a transport that is asked for one without a name says what to do, or nothing. */
static void look_remedy(const struct look *look, struct mc_error *err)
{
	struct mc_device_info info = {.size = sizeof info, .numa_node = -1};
	struct mc_error ignored = {0};

	if (err)
		err->text[0] = '\0';
	if (look->ops->probe(&look->plain.host, "", &info, &ignored) == 0 && info.state == MC_STATE_MISSING &&
	    info.remedy[0])
		mc_fail(err, 0, "%s", info.remedy);
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
	mc_plain_host_init(&look.plain, NULL, transport);
	r = look.ops->enumerate(&look.plain.host, look_found, &look);
	if (r == -ENOTSUP)
		mc_fail(err, r, "transport '%s' cannot list its devices; name them", transport);
	else if (r < 0)
		mc_fail(err, r, "transport '%s' could not list its devices: %s", transport,
			strerror(-r));
	else if (r == 0 && !look.any)
		look_remedy(&look, err);
	mc_plugin_unref(plugin);
	return r;
}
