/* SPDX-License-Identifier: Apache-2.0 */
/* Discovery: the matrix written for machines that the test makes up, and for this one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/discover.h"
#include "core/gpu_visible.h"
#include "core/module.h"
#include "core/util/check.h"

static struct mc_topo_device net(const char *name, bool loopback, bool made_up)
{
	struct mc_topo_device d = {.class = MC_TOPO_NET, .numa_node = -1, .ordinal = -1,
				   .loopback = loopback, .made_up = made_up};

	snprintf(d.name, sizeof d.name, "%s", name);
	return d;
}

static struct mc_topo_device pci(enum mc_topo_class class, const char *name, int node, uint64_t package,
				 uint64_t bridge)
{
	struct mc_topo_device d = {.class = class, .numa_node = node, .ordinal = -1, .nr_above = 3,
				   .above = {1, package, bridge}};

	snprintf(d.name, sizeof d.name, "%s", name);
	if (class == MC_TOPO_GPU)
		d.ordinal = atoi(name + 4);
	return d;
}

/* rdma claims mlx* for cpu memory, gdr for cuda memory if there is a driver; tcp what begins with
 * e, l or docker; shm its own if it is built. */
static bool gdr, shm;
static const char *claim(void *ctx, const char *device, const char *kind)
{
	if (strncmp(device, "mlx", 3) == 0)
		return strcmp(kind, "cpu") == 0 ? "rdma" : gdr ? "cuda-gdr" : NULL;
	if (shm && strcmp(device, "shm0") == 0)
		return strcmp(kind, "cpu") == 0 ? "shm" : NULL;
	return strchr("eld", device[0]) && strcmp(kind, "cpu") == 0 ? "tcp" : NULL;
}

static void expect(const int32_t *nodes, size_t nr_nodes, const struct mc_topo_device *devices,
		   size_t nr, const char *matrix)
{
	struct mc_topo_node all[2] = {{.node = 0}};
	const struct mc_topology t = {.nr_nodes = nr_nodes, .nodes = all, .nr_devices = nr,
				      .devices = (struct mc_topo_device *)devices};
	struct mc_error err = {0};
	char *text = NULL;
	int r;

	for (size_t i = 0; i < nr_nodes; i++)
		all[i].node = nodes[i];
	r = mc_discover_write(&t, claim, NULL, &text, &err);
	if (!matrix) {
		assert_int_equal(r, -ENODEV);
		assert_non_null(strstr(err.text, "--nic_priority_matrix"));
		return;
	}
	assert_int_equal(r, 0);
	assert_string_equal(text, matrix);
	free(text);
}

static void test_interfaces(void **state)
{
	const int32_t nodes[] = {0};
	const struct mc_topo_device d[] = {net("lo", true, false), net("docker0", false, true),
					   net("eth0", false, false), net("wg0", false, true)};

	expect(nodes, 1, d, 4, "{\"cpu:0\":[[\"tcp:eth0\"]],\"*\":[[\"tcp:eth0\"]]}");
	expect(nodes, 1, d, 2, "{\"cpu:0\":[[\"tcp:docker0\"]],\"*\":[[\"tcp:docker0\"]]}");
	expect(nodes, 1, d, 1, "{\"cpu:0\":[[\"tcp:lo\"]],\"*\":[[\"tcp:lo\"]]}");
	/* Nobody claims wg0. */
	expect(nodes, 1, d + 3, 1, NULL);
	expect(nodes, 1, d, 0, NULL);
}

static void test_rdma_by_node(void **state)
{
	const int32_t nodes[] = {0, 1};
	const struct mc_topo_device d[] = {pci(MC_TOPO_RDMA, "mlx5_0", 0, 10, 20),
					   pci(MC_TOPO_RDMA, "mlx5_1", 1, 11, 21),
					   net("lo", true, false), net("eth0", false, false)};

	gdr = false;
	expect(nodes, 2, d, 4,
	       "{\"cpu:0\":[[\"rdma:mlx5_0\"],[\"rdma:mlx5_1\"],[\"tcp:eth0\"]],"
	       "\"cpu:1\":[[\"rdma:mlx5_1\"],[\"rdma:mlx5_0\"],[\"tcp:eth0\"]],"
	       "\"*\":[[\"rdma:mlx5_0\",\"rdma:mlx5_1\"],[\"tcp:eth0\"]]}");
	/* With rdma there is no need for loopback. */
	expect(nodes, 1, d, 3,
	       "{\"cpu:0\":[[\"rdma:mlx5_0\"],[\"rdma:mlx5_1\"]],"
	       "\"*\":[[\"rdma:mlx5_0\",\"rdma:mlx5_1\"]]}");
}

/* It comes first for host memory, and takes nothing away: not loopback either, for who has no other. */
static void test_one_host(void **state)
{
	const int32_t nodes[] = {0, 1};
	const struct mc_topo_device d[] = {net("lo", true, false), pci(MC_TOPO_GPU, "cuda0", 0, 10, 20),
					   pci(MC_TOPO_RDMA, "mlx5_0", 0, 10, 20)};

	shm = gdr = true;
	expect(nodes, 1, d, 1, "{\"cpu:0\":[[\"shm:shm0\"],[\"tcp:lo\"]],\"*\":[[\"tcp:lo\"]]}");
	expect(nodes, 2, d, 3,
	       "{\"cpu:0\":[[\"shm:shm0\"],[\"rdma:mlx5_0\"]],\"cpu:1\":[[\"shm:shm0\"],[\"rdma:mlx5_0\"]],"
	       "\"cuda:0\":[[\"cuda-gdr:mlx5_0\"],[\"rdma:mlx5_0\"]],\"*\":[[\"rdma:mlx5_0\"]]}");
	shm = gdr = false;
}

static void test_gpus_by_bridge(void **state)
{
	const struct mc_topo_device d[] = {pci(MC_TOPO_RDMA, "mlx5_0", 0, 10, 20),
					   pci(MC_TOPO_RDMA, "mlx5_1", 0, 10, 21),
					   pci(MC_TOPO_GPU, "cuda0", 0, 10, 21),
					   pci(MC_TOPO_GPU, "cuda1", 0, 10, 22)};

	gdr = true;
	expect(NULL, 0, d, 4,
	       "{\"cuda:0\":[[\"cuda-gdr:mlx5_1\"],[\"cuda-gdr:mlx5_0\"],[\"rdma:mlx5_0\",\"rdma:mlx5_1\"]],"
	       "\"cuda:1\":[[\"cuda-gdr:mlx5_0\",\"cuda-gdr:mlx5_1\"],[\"rdma:mlx5_0\",\"rdma:mlx5_1\"]],"
	       "\"*\":[[\"rdma:mlx5_0\",\"rdma:mlx5_1\"]]}");
	gdr = false;
	expect(NULL, 0, d, 4, "{\"*\":[[\"rdma:mlx5_0\",\"rdma:mlx5_1\"]]}");
}

struct count {
	struct mc_topo_sink sink;
	int nodes, devices;
};

static int count_node(struct mc_topo_sink *sink, const struct mc_topo_node *node)
{
	assert_true(node->node >= 0 && node->nr_distances <= MC_TOPO_NODES);
	/* Its own memory is the nearest. */
	for (uint32_t i = 0; i < node->nr_distances; i++)
		assert_true(node->distances[i] > 0);
	((struct count *)sink)->nodes++;
	return 0;
}

static int count_device(struct mc_topo_sink *sink, const struct mc_topo_device *d)
{
	assert_true(d->name[0] && d->nr_above <= MC_TOPO_DEPTH);
	((struct count *)sink)->devices++;
	return 0;
}

static void test_this_machine(void **state)
{
	struct count c = {.sink = {.node = count_node, .device = count_device}};
	const struct mc_topology_ops *ops;
	const void *found = NULL;
	struct mc_error err = {0};
	int r = mc_module_open("discover", &found, &err);

	if (r == -ENOENT)
		skip(); /* built without it */
	assert_int_equal(r, 0);
	ops = found;
	assert_int_equal(ops->scan(&c.sink, &err), 0);
	assert_true(c.nodes >= 1);
}

static void test_no_module(void **state)
{
	const void *found = NULL;
	struct mc_error err = {0};

	assert_int_equal(mc_module_open("nothing", &found, &err), -ENOENT);
	assert_non_null(strstr(err.text, "mod-nothing.so"));
	assert_null(found);
}

/* cuda:N is what the driver counts as N for this process. */
static void test_gpus_visible(void **state)
{
	static const char uuids[4][MC_GPU_UUID_LEN + 1] = {"GPU-11110000-a", "GPU-22220000-a", "GPU-22223333-a", ""};
	static const struct {
		const char *list;
		int32_t gpus[4]; /* of the first ordinals */
	} cases[] = {
		{NULL, {0, 1, 2, 3}}, {"", {-1}}, {"3", {3, -1}}, {"2,0", {2, 0, -1}}, {" 1 , 3", {1, 3, -1}},
		{"0,-1,1", {0, -1, -1}}, {"0,4,1", {0, -1}}, {"1,1", {1, -1}}, {"0x1", {-1}}, {"NoDevFiles", {-1}},
		{"GPU-22223333-a,0", {2, 0, -1}}, {"GPU-2222", {-1}}, {"GPU-1", {0, -1}}, {"GPU-", {-1}},
		{"MIG-5a", {-1}}, {"0,,1", {0, -1}}, {"99999999999999999999", {-1}},
	};

	for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++)
		for (uint32_t i = 0; i < 4; i++) {
			int32_t got = mc_gpu_visible(cases[c].list, i, uuids, 4);

			if (got != cases[c].gpus[i])
				fail_msg("'%s': number %u is %d", cases[c].list ? cases[c].list : "-", i, got);
			if (got < 0)
				break;
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_interfaces),
		cmocka_unit_test(test_rdma_by_node),
		cmocka_unit_test(test_one_host),
		cmocka_unit_test(test_gpus_by_bridge), cmocka_unit_test(test_gpus_visible),
		cmocka_unit_test(test_this_machine),
		cmocka_unit_test(test_no_module),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
