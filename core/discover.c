/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Discovery, the judging half: from the machine's facts (mod-discover.so) to a
 * matrix.  Tiers of a row, from the left: what engines of this host share (host
 * memory only), rdma devices near the location, rdma devices elsewhere, for a GPU
 * those through which it is staged, network interfaces.  Interfaces that other ports
 * carry (bridges, tunnels) are taken when there is no other, loopback when there is
 * nothing else at all.
 */
#include "discover.h"

#include <errno.h>
#include <string.h>

#include "core/util/cleanup.h"
#include "json.h"
#include "log.h"
#include "module.h"

/* No hardware, so nobody finds it: a transport whose engines share a host claims it. */
#define HOST_DEVICE "shm0"

#define HINT "give a matrix by --nic_priority_matrix, for example '{\"*\": [[\"tcp:eth0\"]]}'"

struct writer {
	const struct mc_topology *t;
	const char *(*claim)(void *ctx, const char *device, const char *kind);
	void *ctx;
	struct mc_json_out *out;
	size_t nr_written; /* devices, over all rows */
};

/* A row: for whom nearness is asked, and what memory its devices must reach. */
struct row {
	const char *kind;
	int32_t node;                     /* "cpu:N"; -1: none in particular */
	const struct mc_topo_device *gpu; /* "cuda:N"; else NULL */
};

uint32_t mc_topo_common(const struct mc_topo_device *a, const struct mc_topo_device *b)
{
	uint32_t n = 0;

	while (n < a->nr_above && n < b->nr_above && a->above[n] == b->above[n])
		n++;
	return n;
}

static bool is_near(const struct writer *w, const struct row *row, const struct mc_topo_device *d)
{
	uint32_t mine;

	if (!row->gpu)
		return row->node < 0 || d->numa_node < 0 || d->numa_node == row->node;
	mine = mc_topo_common(row->gpu, d);
	for (size_t i = 0; i < w->t->nr_devices; i++) {
		const struct mc_topo_device *other = &w->t->devices[i];

		if (other->class == MC_TOPO_RDMA && mc_topo_common(row->gpu, other) > mine)
			return false;
	}
	return true;
}

/* 0: first choice of interfaces, 1: when there is no other, 2: when there is nothing else. */
static int net_rank(const struct mc_topo_device *d)
{
	return d->loopback ? 2 : d->made_up ? 1 : 0;
}

enum tier { TIER_NEAR, TIER_FAR, TIER_STAGE, TIER_NET, TIER_COUNT };

/* The transport of a device if it belongs to this tier of the row, else NULL. */
static const char *place(struct writer *w, const struct row *row, enum tier tier, int rank,
			 const struct mc_topo_device *d)
{
	if (tier == TIER_NET) {
		if (d->class != MC_TOPO_NET || net_rank(d) != rank)
			return NULL;
		/* Network interfaces reach other kinds through the core's staging. */
		return w->claim(w->ctx, d->name, "cpu");
	}
	if (d->class != MC_TOPO_RDMA)
		return NULL;
	/* What takes a GPU's memory may not be there: then host memory goes between. */
	if (tier == TIER_STAGE)
		return row->gpu ? w->claim(w->ctx, d->name, "cpu") : NULL;
	if (is_near(w, row, d) != (tier == TIER_NEAR))
		return NULL;
	return w->claim(w->ctx, d->name, row->kind);
}

static size_t write_tier(struct writer *w, const struct row *row, enum tier tier, int rank)
{
	size_t nr = 0;

	for (size_t i = 0; i < w->t->nr_devices; i++) {
		const struct mc_topo_device *d = &w->t->devices[i];
		const char *transport = place(w, row, tier, rank, d);
		char entry[MC_PLUGIN_NAME_MAX + MC_DEVICE_NAME_MAX + 2];

		if (!transport)
			continue;
		if (nr++ == 0)
			mc_json_out_open(w->out, '[');
		snprintf(entry, sizeof entry, "%s:%s", transport, d->name);
		mc_json_out_str(w->out, entry);
	}
	if (nr)
		mc_json_out_close(w->out);
	return nr;
}

/* Peers elsewhere see no rail in it: another tier must reach them. */
static size_t write_host_tier(struct writer *w, const struct row *row)
{
	const char *transport = row->node < 0 ? NULL : w->claim(w->ctx, HOST_DEVICE, row->kind);
	char entry[MC_PLUGIN_NAME_MAX + sizeof HOST_DEVICE + 1];

	if (!transport)
		return 0;
	mc_json_out_open(w->out, '[');
	snprintf(entry, sizeof entry, "%s:%s", transport, HOST_DEVICE);
	mc_json_out_str(w->out, entry);
	mc_json_out_close(w->out);
	return 1;
}

static void write_row(struct writer *w, const char *location, const struct row *row)
{
	size_t nr = 0, nr_net = 0;

	mc_json_out_key(w->out, location);
	mc_json_out_open(w->out, '[');
	w->nr_written += write_host_tier(w, row);
	nr += write_tier(w, row, TIER_NEAR, 0);
	nr += write_tier(w, row, TIER_FAR, 0);
	nr += write_tier(w, row, TIER_STAGE, 0);
	for (int rank = 0; rank <= 2 && nr_net == 0; rank++) {
		if (rank < 2 || nr == 0)
			nr_net = write_tier(w, row, TIER_NET, rank);
	}
	mc_json_out_close(w->out);
	w->nr_written += nr + nr_net;
}

/* A GPU deserves a row only if a transport reaches its memory by itself. */
static bool gpu_reached(struct writer *w)
{
	for (size_t i = 0; i < w->t->nr_devices; i++) {
		const struct mc_topo_device *d = &w->t->devices[i];

		if (d->class == MC_TOPO_RDMA && w->claim(w->ctx, d->name, "cuda"))
			return true;
	}
	return false;
}

int mc_discover_write(const struct mc_topology *topology,
		      const char *(*claim)(void *ctx, const char *device, const char *kind), void *ctx,
		      char **ret_text, struct mc_error *err)
{
	struct writer w = {.t = topology, .claim = claim, .ctx = ctx, .out = mc_json_out_new(false)};
	const struct row any = {.kind = "cpu", .node = -1};
	char location[MC_LOCATION_MAX + 1];
	char *text;

	if (!w.out)
		return mc_fail(err, -ENOMEM, "discovery: out of memory");
	mc_json_out_open(w.out, '{');
	for (size_t i = 0; i < topology->nr_nodes; i++) {
		const struct row row = {.kind = "cpu", .node = topology->nodes[i].node};

		snprintf(location, sizeof location, "cpu:%d", (int)row.node);
		write_row(&w, location, &row);
	}
	if (gpu_reached(&w)) {
		for (size_t i = 0; i < topology->nr_devices; i++) {
			const struct mc_topo_device *d = &topology->devices[i];
			const struct row row = {.kind = "cuda", .node = -1, .gpu = d};

			if (d->class != MC_TOPO_GPU)
				continue;
			snprintf(location, sizeof location, "cuda:%d", (int)d->ordinal);
			write_row(&w, location, &row);
		}
	}
	write_row(&w, "*", &any);
	mc_json_out_close(w.out);
	text = mc_json_out_take(w.out);
	if (!text)
		return mc_fail(err, -ENOMEM, "discovery: out of memory");
	if (w.nr_written == 0) {
		free(text);
		return mc_fail(err, -ENODEV,
			       "discovery: none of this machine's %zu devices is claimed by an "
			       "installed transport: install one, or " HINT,
			       topology->nr_devices);
	}
	*ret_text = text;
	return 0;
}

/* ---- collecting ---------------------------------------------------------------------------- */

struct collect {
	struct mc_topo_sink sink; /* first */
	struct mc_topology t;
};

static int collect_node(struct mc_topo_sink *sink, const struct mc_topo_node *node)
{
	struct mc_topology *t = &((struct collect *)sink)->t;
	struct mc_topo_node *nodes = reallocarray(t->nodes, t->nr_nodes + 1, sizeof *nodes);

	if (!nodes)
		return -ENOMEM;
	t->nodes = nodes;
	nodes[t->nr_nodes++] = *node;
	return 0;
}

static int collect_device(struct mc_topo_sink *sink, const struct mc_topo_device *device)
{
	struct mc_topology *t = &((struct collect *)sink)->t;
	struct mc_topo_device *d = reallocarray(t->devices, t->nr_devices + 1, sizeof *d);

	if (!d)
		return -ENOMEM;
	t->devices = d;
	d[t->nr_devices++] = *device;
	return 0;
}

static const char *registry_claim(void *ctx, const char *device, const char *kind)
{
	const struct mc_manifest *m;
	struct mc_error why;

	m = mc_registry_claim(ctx, device, kind, &why);
	if (!m)
		mc_debug("discovery leaves out '%s' for %s memory: %s", device, kind, why.text);
	return m ? m->name : NULL;
}

int mc_discover_scan(struct mc_topology *ret_topology, struct mc_error *err)
{
	struct collect c = {.sink = {.node = collect_node, .device = collect_device}};
	const struct mc_topology_ops *ops;
	const void *found = NULL;
	struct mc_error why = {0};
	int r;

	r = mc_module_open("discover", &found, &why);
	if (r < 0)
		return mc_fail(err, r == -ENOENT ? -ENOTSUP : r, "discovery is not available (%s)", why.text);
	ops = found;
	r = ops->scan(&c.sink, &why);
	if (r < 0) {
		mc_topology_free(&c.t);
		return mc_fail(err, r, "discovery failed (%s)", why.text[0] ? why.text : strerror(-r));
	}
	*ret_topology = c.t;
	return 0;
}

void mc_topology_free(struct mc_topology *topology)
{
	free(topology->nodes);
	free(topology->devices);
	*topology = (struct mc_topology){.nr_nodes = 0};
}

int mc_discover_matrix(const struct mc_registry *registry, char **ret_text, struct mc_error *err)
{
	struct mc_topology t;
	struct mc_error why = {0};
	int r = mc_discover_scan(&t, &why);

	if (r < 0)
		return mc_fail(err, r, "no matrix is given, and %.700s: " HINT, why.text);
	r = mc_discover_write(&t, registry_claim, (void *)registry, ret_text, err);
	mc_topology_free(&t);
	return r;
}
