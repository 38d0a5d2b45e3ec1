/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory pools of `mooncake topology`: devices of transports that own memory, as
 * their plugins tell by enumerate and probe.  Such a plugin is loaded, no device opened.
 */
#include "host_map.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

struct finder {
	struct cli_topology *t;
	const char *transport;
};

static int pool_found(void *ctx, const struct mc_device_desc *device)
{
	struct finder *f = ctx;
	struct cli_topology *t = f->t;
	struct cli_pool *more = realloc(t->pools, (t->nr_pools + 1) * sizeof *more), *p;

	if (!more)
		return -ENOMEM;
	t->pools = more;
	p = &more[t->nr_pools++];
	*p = (struct cli_pool){.capacity = device->capacity, .numa_node = device->numa_node, .active = device->active};
	snprintf(p->transport, sizeof p->transport, "%s", f->transport);
	snprintf(p->name, sizeof p->name, "%s", device->name);
	snprintf(p->detail, sizeof p->detail, "%s", device->detail);
	snprintf(p->remedy, sizeof p->remedy, "%s", device->remedy);
	return 0;
}

/* Does a transport bring a kind of memory of its own? */
static bool owns_memory(const struct mc_manifest *m)
{
	for (char *const *kind = m->memory; *kind; kind++)
		if (strcmp(*kind, "cpu") != 0 && strcmp(*kind, "cuda") != 0 && strcmp(*kind, "*") != 0)
			return m->kind == MC_KIND_TRANSPORT;
	return false;
}

int cli_pools_find(struct cli_topology *t, struct mc_config *config)
{
	const struct mc_registry *registry = mc_config_registry(config);
	struct mc_error why;

	for (size_t i = 0; i < mc_registry_nr(registry); i++) {
		const struct mc_manifest *m = mc_registry_at(registry, i);
		struct finder f = {.t = t, .transport = m->name};

		if (owns_memory(m) && mc_transport_devices(config, m->name, pool_found, &f, &why) == -ENOMEM)
			return -ENOMEM;
	}
	return 0;
}

void cli_pool_words(const struct cli_pool *pool, char *buf, size_t cap)
{
	char size[32] = "", node[32] = "";

	if (pool->capacity)
		cli_bytes_words(pool->capacity, size, sizeof size);
	if (pool->numa_node >= 0)
		snprintf(node, sizeof node, ", node %d", (int)pool->numa_node);
	snprintf(buf, cap, "pool%s%s%s%s", size[0] ? ", " : "", size, node, pool->active ? "" : ", not usable");
}

void cli_pools_print(const struct cli_topology *t)
{
	static const char *const head[] = {"POOL", "TRANSPORT", "SIZE", "NODE", "NOTE"};
	struct cli_table table = {.nr_rows = 0};

	cli_table_row(&table, 5, head);
	for (size_t i = 0; i < t->nr_pools; i++) {
		const struct cli_pool *p = &t->pools[i];
		char size[32] = "", node[16] = "", note[sizeof p->detail + sizeof p->remedy + 4];

		if (p->capacity)
			cli_bytes_words(p->capacity, size, sizeof size);
		if (p->numa_node >= 0)
			snprintf(node, sizeof node, "%d", (int)p->numa_node);
		snprintf(note, sizeof note, "%s%s%s", p->detail, p->detail[0] && p->remedy[0] ? "; " : "", p->remedy);
		cli_table_row(&table, 5, (const char *const[]){p->name, p->transport, size, node, note});
	}
	cli_table_print(&table);
}

void cli_pools_json(struct mc_json_out *o, const struct cli_topology *t)
{
	cli_json_open(o, "pools", '[');
	for (size_t i = 0; i < t->nr_pools; i++) {
		const struct cli_pool *p = &t->pools[i];

		mc_json_out_open(o, '{');
		cli_json_str(o, "name", p->name);
		cli_json_str(o, "transport", p->transport);
		cli_json_int(o, "size", (int64_t)p->capacity);
		if (p->numa_node >= 0)
			cli_json_int(o, "numa_node", p->numa_node);
		else
			cli_json_str(o, "numa_node", NULL);
		cli_json_bool(o, "usable", p->active);
		cli_json_str(o, "detail", p->detail[0] ? p->detail : NULL);
		cli_json_str(o, "remedy", p->remedy[0] ? p->remedy : NULL);
		mc_json_out_close(o);
	}
	mc_json_out_close(o);
}
