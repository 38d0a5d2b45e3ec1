/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mooncake topology: this host as the core sees it (NUMA nodes, devices, GPUs,
 * how near they are) and the matrix that an engine with this config would use,
 * the user's or discovery's.  Opens no device.
 */
#include "host_map.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "core/config.h"

static const char help[] =
	"Shows the NUMA nodes, network and rdma devices, GPUs and memory pools of this\n"
	"host, how near they are, and the NIC priority matrix in effect: the config's,\n"
	"or what discovery writes without one.\n"
	"  mooncake topology --svg=host.svg\n"
	"  mooncake topology --matrix >m.json  (edit it: --nic_priority_matrix=m.json)\n";

static const char *class_word(enum mc_topo_class class)
{
	return class == MC_TOPO_NET ? "network" : class == MC_TOPO_RDMA ? "rdma" : "GPU";
}

void cli_device_words(const struct mc_topo_device *d, char *buf, size_t cap)
{
	char node[32] = "any node";

	if (d->numa_node >= 0)
		snprintf(node, sizeof node, "node %d", (int)d->numa_node);
	snprintf(buf, cap, "%s, %s", class_word(d->class), d->loopback ? "loopback"
			: d->made_up ? "carried by others" : node);
}

bool cli_nearest(const struct mc_topology *facts, const struct mc_topo_device *gpu,
		 const struct mc_topo_device *device)
{
	uint32_t mine = mc_topo_common(gpu, device);

	if (device->class != MC_TOPO_RDMA || !mine)
		return false;
	for (size_t i = 0; i < facts->nr_devices; i++)
		if (facts->devices[i].class == MC_TOPO_RDMA && mc_topo_common(gpu, &facts->devices[i]) > mine)
			return false;
	return true;
}

void cli_bytes_words(uint64_t bytes, char *buf, size_t cap)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
	double value = (double)bytes;
	size_t i = 0;

	while (value >= 1024 && i + 1 < sizeof units / sizeof *units) {
		value /= 1024;
		i++;
	}
	snprintf(buf, cap, i && value < 100 ? "%.1f %s" : "%.0f %s", value, units[i]);
}

/* ---- gathering ------------------------------------------------------------------------------ */

/* The matrix that an engine of this config would use. */
static int find_matrix(struct cli_topology *t, struct mc_config *config, struct mc_error *err)
{
	const struct mc_settings *set = mc_config_settings(config);
	struct mc_registry *registry = mc_config_registry(config);
	const char *text = set->nic_priority_matrix;
	char *found = NULL;
	int r = 0;

	t->discovered = !*text;
	if (t->discovered)
		r = mc_discover_matrix(registry, &found, err);
	if (r == 0)
		r = mc_matrix_parse(found ? found : text, &t->matrix, err);
	if (r == 0)
		r = mc_matrix_resolve(t->matrix, registry, err);
	free(found);
	if (r < 0) {
		mc_matrix_free(t->matrix);
		t->matrix = NULL;
	}
	return r;
}

static int gather(struct cli_topology *t, struct mc_config *config, struct mc_error *err)
{
	struct mc_registry *registry = mc_config_registry(config);
	int r;

	gethostname(t->host, sizeof t->host - 1);
	r = mc_discover_scan(&t->facts, err);
	if (r < 0)
		return r;
	t->transports = calloc(t->facts.nr_devices + 1, sizeof *t->transports);
	if (!t->transports)
		return mc_fail(err, -ENOMEM, "out of memory");
	for (size_t i = 0; i < t->facts.nr_devices; i++) {
		const struct mc_topo_device *d = &t->facts.devices[i];
		const struct mc_manifest *m = NULL;
		struct mc_error why;

		if (d->class != MC_TOPO_GPU)
			m = mc_registry_claim(registry, d->name, "*", &why);
		t->transports[i] = m ? m->name : NULL;
	}
	if (cli_pools_find(t, config) < 0)
		return mc_fail(err, -ENOMEM, "out of memory");
	return 0;
}

static void release(struct cli_topology *t)
{
	mc_topology_free(&t->facts);
	mc_matrix_free(t->matrix);
	free(t->transports);
	free(t->pools);
}

/* ---- as text -------------------------------------------------------------------------------- */

/* "10 21" */
static void distances_text(const struct mc_topo_node *node, char *buf, size_t cap)
{
	size_t at = 0;

	*buf = '\0';
	for (uint32_t i = 0; i < node->nr_distances && at + 12 < cap; i++)
		at += (size_t)snprintf(buf + at, cap - at, "%s%" PRIu32, i ? " " : "", node->distances[i]);
}

static void print_nodes(const struct mc_topology *facts)
{
	static const char *const head[] = {"LOCATION", "CPUS", "MEMORY", "DISTANCE TO EACH"};
	struct cli_table table = {.nr_rows = 0};

	cli_table_row(&table, 4, head);
	for (size_t i = 0; i < facts->nr_nodes; i++) {
		const struct mc_topo_node *n = &facts->nodes[i];
		char location[32], cpus[16], memory[32], distances[MC_TOPO_NODES * 11 + 16];

		snprintf(location, sizeof location, "cpu:%d", (int)n->node);
		snprintf(cpus, sizeof cpus, "%u", n->nr_cpus);
		cli_bytes_words(n->memory, memory, sizeof memory);
		distances_text(n, distances, sizeof distances);
		cli_table_row(&table, 4, (const char *const[]){location, cpus, memory, distances});
	}
	cli_table_print(&table);
}

/* The rdma devices next to a GPU. */
static void nearest_text(const struct mc_topology *facts, const struct mc_topo_device *gpu, char *buf, size_t cap)
{
	size_t at = (size_t)snprintf(buf, cap, "location cuda:%d", (int)gpu->ordinal);

	for (size_t i = 0, nr = 0; i < facts->nr_devices; i++) {
		const struct mc_topo_device *d = &facts->devices[i];

		if (!cli_nearest(facts, gpu, d) || at + MC_DEVICE_NAME_MAX + 16 > cap)
			continue;
		at += (size_t)snprintf(buf + at, cap - at, "%s%s", nr++ ? ", " : ", nearest ", d->name);
	}
}

static void print_devices(const struct cli_topology *t)
{
	static const char *const head[] = {"DEVICE", "TRANSPORT", "WHAT", "NOTE"};
	struct cli_table table = {.nr_rows = 0};

	cli_table_row(&table, 4, head);
	for (size_t i = 0; i < t->facts.nr_devices; i++) {
		const struct mc_topo_device *d = &t->facts.devices[i];
		char what[64], note[1024] = "";

		cli_device_words(d, what, sizeof what);
		if (d->class == MC_TOPO_GPU)
			nearest_text(&t->facts, d, note, sizeof note);
		else if (!t->transports[i])
			snprintf(note, sizeof note, "no installed transport claims it");
		cli_table_row(&table, 4, (const char *const[]){d->name, t->transports[i], what, note});
	}
	cli_table_print(&table);
}

static void print_matrix(const struct cli_topology *t)
{
	const struct mc_matrix *m = t->matrix;

	if (t->discovered)
		printf("matrix, written by discovery:\n");
	else
		printf("matrix, from %s:\n", m->path ? m->path : "the config");
	for (size_t r = 0; r < m->nr_rows; r++) {
		const struct mc_matrix_row *row = &m->rows[r];

		printf("  %s\n", row->location);
		for (size_t i = 0; i < row->nr_tiers; i++) {
			const struct mc_matrix_tier *tier = &row->tiers[i];

			printf("    tier %zu:", i + 1);
			for (size_t e = 0; e < tier->nr; e++)
				printf("%s %s:%s%s", e ? "," : "", tier->entries[e].transport, tier->entries[e].device,
				       tier->entries[e].require ? " (required)" : "");
			printf("%s\n", tier->nr ? "" : " none");
		}
	}
}

static void print_text(const struct cli_topology *t)
{
	uint32_t cpus = 0;

	for (size_t i = 0; i < t->facts.nr_nodes; i++)
		cpus += t->facts.nodes[i].nr_cpus;
	printf("%s: %zu NUMA node%s, %u CPU%s, %zu device%s\n\n", t->host, t->facts.nr_nodes,
	       t->facts.nr_nodes == 1 ? "" : "s", cpus, cpus == 1 ? "" : "s", t->facts.nr_devices,
	       t->facts.nr_devices == 1 ? "" : "s");
	print_nodes(&t->facts);
	printf("\n");
	if (t->facts.nr_devices) {
		print_devices(t);
		printf("\n");
	}
	if (t->nr_pools) {
		cli_pools_print(t);
		printf("\n");
	}
	if (t->matrix)
		print_matrix(t);
}

/* ---- as JSON -------------------------------------------------------------------------------- */

static void json_node(struct mc_json_out *o, const struct mc_topo_node *n)
{
	char location[32];

	snprintf(location, sizeof location, "cpu:%d", (int)n->node);
	mc_json_out_open(o, '{');
	cli_json_str(o, "location", location);
	cli_json_int(o, "cpus", n->nr_cpus);
	cli_json_int(o, "memory", (int64_t)n->memory);
	cli_json_open(o, "distances", '[');
	for (uint32_t i = 0; i < n->nr_distances; i++)
		mc_json_out_int(o, n->distances[i]);
	mc_json_out_close(o);
	mc_json_out_close(o);
}

static void json_gpu(struct mc_json_out *o, const struct mc_topology *facts, const struct mc_topo_device *gpu)
{
	char location[32];

	snprintf(location, sizeof location, "cuda:%d", (int)gpu->ordinal);
	cli_json_str(o, "location", location);
	cli_json_open(o, "nearest", '[');
	for (size_t i = 0; i < facts->nr_devices; i++)
		if (cli_nearest(facts, gpu, &facts->devices[i]))
			mc_json_out_str(o, facts->devices[i].name);
	mc_json_out_close(o);
}

static void json_device(struct mc_json_out *o, const struct cli_topology *t, size_t i)
{
	const struct mc_topo_device *d = &t->facts.devices[i];

	mc_json_out_open(o, '{');
	cli_json_str(o, "name", d->name);
	cli_json_str(o, "class", d->class == MC_TOPO_NET ? "net" : d->class == MC_TOPO_RDMA ? "rdma" : "gpu");
	cli_json_str(o, "transport", t->transports[i]);
	if (d->numa_node >= 0)
		cli_json_int(o, "numa_node", d->numa_node);
	else
		cli_json_str(o, "numa_node", NULL);
	if (d->class == MC_TOPO_NET) {
		cli_json_bool(o, "loopback", d->loopback);
		cli_json_bool(o, "carried_by_others", d->made_up);
	}
	if (d->class == MC_TOPO_GPU)
		json_gpu(o, &t->facts, d);
	mc_json_out_close(o);
}

static void json_matrix(struct mc_json_out *o, const struct cli_topology *t)
{
	struct mc_json *tree = NULL;

	cli_json_str(o, "matrix_from", !t->matrix ? NULL : t->discovered ? "discovery"
				: t->matrix->path ? t->matrix->path : "config");
	if (t->matrix && mc_json_parse("matrix", t->matrix->text, strlen(t->matrix->text), &tree, NULL) == 0) {
		mc_json_out_key(o, "nic_priority_matrix");
		mc_json_out_json(o, tree);
	} else {
		cli_json_str(o, "nic_priority_matrix", NULL);
	}
	mc_json_free(tree);
}

static int print_json(const struct cli *cli, const struct cli_topology *t, const char *error)
{
	struct mc_json_out *o = mc_json_out_new(true);

	mc_json_out_open(o, '{');
	cli_json_int(o, "schema", 1);
	cli_json_str(o, "host", t->host);
	cli_json_open(o, "nodes", '[');
	for (size_t i = 0; i < t->facts.nr_nodes; i++)
		json_node(o, &t->facts.nodes[i]);
	mc_json_out_close(o);
	cli_json_open(o, "devices", '[');
	for (size_t i = 0; i < t->facts.nr_devices; i++)
		json_device(o, t, i);
	mc_json_out_close(o);
	cli_pools_json(o, t);
	json_matrix(o, t);
	cli_json_str(o, "error", error);
	mc_json_out_close(o);
	return cli_json_print(cli, o);
}

/* ---- the verb ------------------------------------------------------------------------------- */

static int write_svg(const struct cli *cli, const struct cli_topology *t, const char *path)
{
	bool std = !strcmp(path, "-");
	FILE *f = std ? stdout : fopen(path, "we");
	int r = f ? cli_topology_svg(f, t) : -errno;

	if (f && !std && fclose(f) != 0 && r == 0)
		r = -errno;
	if (r < 0)
		return cli_error(cli, CLI_FAILED, "--svg=%s: %s", path, strerror(-r));
	return CLI_OK;
}

struct wants {
	bool json, matrix;
	const char *svg;
};

static int run(const struct cli *cli, const struct wants *wants)
{
	struct cli_topology t = {.matrix = NULL};
	struct mc_error err = {0}, why = {0};
	int code = CLI_OK;

	if (gather(&t, cli->config, &err) < 0) {
		release(&t);
		return cli_error(cli, CLI_FAILED, "%s", err.text);
	}
	if (find_matrix(&t, cli->config, &why) < 0)
		code = CLI_FAILED;
	if (wants->svg && write_svg(cli, &t, wants->svg) != CLI_OK)
		code = CLI_FAILED;
	if (wants->matrix) {
		if (t.matrix)
			printf("%s\n", t.matrix->text);
	} else if (wants->json) {
		if (print_json(cli, &t, why.text[0] ? why.text : NULL) != CLI_OK)
			code = CLI_FAILED;
	} else if (!wants->svg) {
		print_text(&t);
	}
	if (why.text[0]) {
		fflush(stdout);
		cli_error(cli, CLI_FAILED, "%s", why.text);
	}
	release(&t);
	return code;
}

int cli_topology(int argc, char **argv)
{
	struct wants wants = {.svg = NULL};
	const struct cli_option options[] = {
		{"json", CLI_FLAG, &wants.json, NULL, "one JSON object with the facts and the matrix"},
		{"matrix", CLI_FLAG, &wants.matrix, NULL, "the matrix alone, as nic_priority_matrix takes it"},
		{"svg", CLI_TEXT, &wants.svg, "FILE", "a picture; - is stdout; the text is left out"},
		{.name = NULL},
	};
	struct cli cli = {.verb = "topology", .args = "", .help = help, .options = options, .with = CLI_CONFIG};
	int code = cli_parse(&cli, argc, argv);

	if (code < 0 && wants.json && wants.matrix)
		code = cli_error(&cli, CLI_USAGE, "--json and --matrix: leave one out");
	if (code < 0 && wants.svg && !strcmp(wants.svg, "-") && (wants.json || wants.matrix))
		code = cli_error(&cli, CLI_USAGE, "--svg=- and --%s: both go to stdout; name a file for the picture",
				 wants.json ? "json" : "matrix");
	if (code < 0)
		code = run(&cli, &wants);
	cli_fini(&cli);
	return code;
}
