/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mod-discover.so: the facts of the machine, by hwloc (NUMA nodes, where PCI
 * devices hang) and the kernel (which interfaces are up, which rdma ports are
 * active).  hwloc is kept from what costs time and tells us nothing: its x86
 * back end binds the thread to every CPU in turn, those of GPU vendors start
 * drivers, and caches and cores are filtered out.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <hwloc.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <string.h>

#include "core/util/check.h"
#include "core/util/cleanup.h"
#include "gpu_visible.h"
#include "mc-config.h"
#include "module.h"
#include "topology.h"

#define PCI_VENDOR_NVIDIA 0x10de
#define PCI_CLASS_DISPLAY 0x03
#define MAX_GPUS 64

/* ---- small files of sysfs ------------------------------------------------------------------ */

static bool sysfs_read(char *buf, size_t cap, const char *dir, const char *name, const char *file)
{
	char path[512];
	mc_cleanup(mc_closep) int fd = -1;
	ssize_t n;

	if (snprintf(path, sizeof path, "/sys/class/%s/%s/%s", dir, name, file) >= (int)sizeof path)
		return false;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, buf, cap - 1);
	if (n < 0)
		return false;
	buf[n] = 0;
	return true;
}

/* ---- where a device hangs -------------------------------------------------------------------- */

static void set_place(hwloc_topology_t topo, hwloc_obj_t obj, struct mc_topo_device *d)
{
	hwloc_obj_t above[64], up = hwloc_get_non_io_ancestor_obj(topo, obj);
	uint32_t n = 0;

	d->numa_node = -1;
	if (up && up->nodeset && hwloc_bitmap_weight(up->nodeset) == 1)
		d->numa_node = hwloc_bitmap_first(up->nodeset);
	for (up = obj->parent; up && n < MC_ARRAY_SIZE(above); up = up->parent)
		above[n++] = up;
	while (n > 0 && d->nr_above < MC_TOPO_DEPTH)
		d->above[d->nr_above++] = above[--n]->gp_index;
}

/* By the name that the kernel gives it; devices without hardware have no place. */
static void find_place(hwloc_topology_t topo, const char *dir, struct mc_topo_device *d)
{
	hwloc_obj_t obj = NULL;
	char buf[32];

	while ((obj = hwloc_get_next_osdev(topo, obj))) {
		if (strcmp(obj->name, d->name) == 0) {
			set_place(topo, obj, d);
			return;
		}
	}
	d->numa_node = sysfs_read(buf, sizeof buf, dir, d->name, "device/numa_node") ? atoi(buf) : -1;
}

static bool set_name(struct mc_topo_device *d, const char *name)
{
	size_t len = strlen(name);

	if (len > MC_DEVICE_NAME_MAX)
		return false;
	memset(d, 0, sizeof *d);
	memcpy(d->name, name, len + 1);
	d->ordinal = -1;
	return true;
}

/* ---- network interfaces ------------------------------------------------------------------------ */

/* Frames of these leave by another interface, or never. */
static bool is_made_up(const char *name)
{
	static const char *const types[] = {"DEVTYPE=bridge", "DEVTYPE=vxlan", "DEVTYPE=geneve",
					    "DEVTYPE=gre", "DEVTYPE=wwan"};
	char buf[512];

	if (sysfs_read(buf, sizeof buf, "net", name, "tun_flags"))
		return true;
	/* ARPHRD numbers: 1 Ethernet, 32 InfiniBand; all others are tunnels or stranger. */
	if (sysfs_read(buf, sizeof buf, "net", name, "type") && atoi(buf) != 1 && atoi(buf) != 32)
		return true;
	if (!sysfs_read(buf, sizeof buf, "net", name, "uevent"))
		return false;
	for (size_t i = 0; i < MC_ARRAY_SIZE(types); i++) {
		if (strstr(buf, types[i]))
			return true;
	}
	return false;
}

/* An address that a peer could dial. */
static bool has_address(const struct ifaddrs *a)
{
	if (!a->ifa_addr || !(a->ifa_flags & IFF_UP) || !(a->ifa_flags & IFF_RUNNING))
		return false;
	if (a->ifa_addr->sa_family == AF_INET)
		return true;
	return a->ifa_addr->sa_family == AF_INET6 &&
	       !IN6_IS_ADDR_LINKLOCAL(&((const struct sockaddr_in6 *)a->ifa_addr)->sin6_addr);
}

static bool seen_before(const struct ifaddrs *list, const struct ifaddrs *a)
{
	for (; list != a; list = list->ifa_next) {
		if (has_address(list) && strcmp(list->ifa_name, a->ifa_name) == 0)
			return true;
	}
	return false;
}

static int scan_net(hwloc_topology_t topo, struct mc_topo_sink *sink)
{
	struct ifaddrs *list;
	int r = 0;

	if (getifaddrs(&list) < 0)
		return -errno;
	for (const struct ifaddrs *a = list; a && r == 0; a = a->ifa_next) {
		struct mc_topo_device d;

		if (!has_address(a) || seen_before(list, a) || !set_name(&d, a->ifa_name))
			continue;
		d.class = MC_TOPO_NET;
		d.loopback = a->ifa_flags & IFF_LOOPBACK;
		d.made_up = !d.loopback && is_made_up(d.name);
		find_place(topo, "net", &d);
		r = sink->device(sink, &d);
	}
	freeifaddrs(list);
	return r;
}

/* ---- rdma ---------------------------------------------------------------------------------------- */

static bool has_active_port(const char *device)
{
	for (int port = 1; port <= 16; port++) {
		char file[32], state[32];

		snprintf(file, sizeof file, "ports/%d/state", port);
		if (!sysfs_read(state, sizeof state, "infiniband", device, file))
			return false;
		if (strstr(state, "ACTIVE"))
			return true;
	}
	return false;
}

static int not_hidden(const struct dirent *e)
{
	return e->d_name[0] != '.';
}

static int scan_rdma(hwloc_topology_t topo, struct mc_topo_sink *sink)
{
	struct dirent **list;
	int n = scandir("/sys/class/infiniband", &list, not_hidden, versionsort), r = 0;

	if (n < 0)
		return errno == ENOMEM ? -ENOMEM : 0; /* the machine has none */
	for (int i = 0; i < n; i++) {
		struct mc_topo_device d;

		if (r == 0 && has_active_port(list[i]->d_name) && set_name(&d, list[i]->d_name)) {
			d.class = MC_TOPO_RDMA;
			find_place(topo, "infiniband", &d);
			r = sink->device(sink, &d);
		}
		free(list[i]);
	}
	free(list);
	return r;
}

/* ---- GPUs, nodes ----------------------------------------------------------------------------------- */

/* "GPU-8932f937-...", as its driver tells; "" without one. */
static void gpu_uuid(const struct hwloc_pcidev_attr_s *pci, char uuid[MC_GPU_UUID_LEN + 1])
{
	char path[96], line[256];

	uuid[0] = '\0';
	snprintf(path, sizeof path, "/proc/driver/nvidia/gpus/%04x:%02x:%02x.%x/information", pci->domain, pci->bus, pci->dev,
		 pci->func);
	mc_cleanup(mc_fclosep) FILE *f = fopen(path, "re");
	while (f && fgets(line, sizeof line, f))
		if (sscanf(line, "GPU UUID: %40s", uuid) == 1)
			return;
}

static int tell_gpu(hwloc_topology_t topo, hwloc_obj_t obj, int32_t ordinal, struct mc_topo_sink *sink)
{
	struct mc_topo_device d;
	char name[32];

	snprintf(name, sizeof name, "cuda%d", ordinal);
	set_name(&d, name);
	d.class = MC_TOPO_GPU;
	d.ordinal = ordinal;
	set_place(topo, obj, &d);
	return sink->device(sink, &d);
}

static int scan_gpus(hwloc_topology_t topo, struct mc_topo_sink *sink)
{
	const char *visible = getenv("CUDA_VISIBLE_DEVICES");
	char uuids[MAX_GPUS][MC_GPU_UUID_LEN + 1];
	hwloc_obj_t gpus[MAX_GPUS], obj = NULL;
	uint32_t nr = 0;
	int r = 0;

	/* hwloc lists PCI devices in the order of their bus ids, as CUDA_DEVICE_ORDER=PCI_BUS_ID. */
	while (nr < MAX_GPUS && (obj = hwloc_get_next_pcidev(topo, obj))) {
		if (obj->attr->pcidev.vendor_id != PCI_VENDOR_NVIDIA ||
		    obj->attr->pcidev.class_id >> 8 != PCI_CLASS_DISPLAY)
			continue;
		gpu_uuid(&obj->attr->pcidev, uuids[nr]);
		gpus[nr++] = obj;
	}
	for (uint32_t i = 0; r == 0 && i < nr; i++) {
		int32_t which = mc_gpu_visible(visible, i, uuids, nr);

		if (which < 0)
			break;
		r = tell_gpu(topo, gpus[which], (int32_t)i, sink);
	}
	return r;
}

/* The kernel's matrix of latencies between the nodes; NULL: it tells none. */
static struct hwloc_distances_s *node_distances(hwloc_topology_t topo)
{
	struct hwloc_distances_s *d = NULL;
	unsigned nr = 1;

	if (hwloc_distances_get_by_type(topo, HWLOC_OBJ_NUMANODE, &nr, &d,
					HWLOC_DISTANCES_KIND_FROM_OS | HWLOC_DISTANCES_KIND_MEANS_LATENCY, 0) < 0 ||
	    nr == 0)
		return NULL;
	if (d->nbobjs <= MC_TOPO_NODES)
		return d;
	hwloc_distances_release(topo, d);
	return NULL;
}

static void set_distances(hwloc_topology_t topo, const struct hwloc_distances_s *d, hwloc_obj_t from,
			  struct mc_topo_node *node)
{
	int i = hwloc_distances_obj_index((struct hwloc_distances_s *)(uintptr_t)d, from);
	hwloc_obj_t to = NULL;

	while (i >= 0 && (to = hwloc_get_next_obj_by_type(topo, HWLOC_OBJ_NUMANODE, to)) &&
	       node->nr_distances < MC_TOPO_NODES) {
		int j = hwloc_distances_obj_index((struct hwloc_distances_s *)(uintptr_t)d, to);

		if (j >= 0)
			node->distances[node->nr_distances] =
				(uint32_t)d->values[(unsigned)i * d->nbobjs + (unsigned)j];
		node->nr_distances++;
	}
}

static int scan_nodes(hwloc_topology_t topo, struct mc_topo_sink *sink)
{
	struct hwloc_distances_s *d = node_distances(topo);
	hwloc_obj_t obj = NULL;
	int r = 0;

	while (r == 0 && (obj = hwloc_get_next_obj_by_type(topo, HWLOC_OBJ_NUMANODE, obj))) {
		struct mc_topo_node node = {.node = (int32_t)obj->os_index, .memory = obj->attr->numanode.local_memory};
		int cpus = obj->cpuset ? hwloc_bitmap_weight(obj->cpuset) : 0;

		node.nr_cpus = cpus > 0 ? (uint32_t)cpus : 0;
		if (d)
			set_distances(topo, d, obj, &node);
		r = sink->node(sink, &node);
	}
	if (d)
		hwloc_distances_release(topo, d);
	return r;
}

static int load(hwloc_topology_t *ret_topo)
{
	static const char *const unwanted[] = {"x86", "gl", "opencl", "cuda", "nvml", "rsmi",
					       "levelzero"};
	hwloc_topology_t topo;

	if (hwloc_topology_init(&topo) < 0)
		return -errno;
	for (size_t i = 0; i < MC_ARRAY_SIZE(unwanted); i++)
		hwloc_topology_set_components(topo, HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST,
					      unwanted[i]);
	hwloc_topology_set_all_types_filter(topo, HWLOC_TYPE_FILTER_KEEP_NONE);
	hwloc_topology_set_type_filter(topo, HWLOC_OBJ_PACKAGE, HWLOC_TYPE_FILTER_KEEP_ALL);
	hwloc_topology_set_type_filter(topo, HWLOC_OBJ_GROUP, HWLOC_TYPE_FILTER_KEEP_STRUCTURE);
	hwloc_topology_set_io_types_filter(topo, HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
	if (hwloc_topology_load(topo) < 0) {
		int r = -errno;

		hwloc_topology_destroy(topo);
		return r;
	}
	*ret_topo = topo;
	return 0;
}

static int scan(struct mc_topo_sink *sink, struct mc_error *err)
{
	hwloc_topology_t topo = NULL;
	int r = load(&topo);

	if (r < 0)
		return mc_fail(err, r, "hwloc cannot read the topology of this machine: %s",
			       strerror(-r));
	r = scan_nodes(topo, sink);
	if (r == 0)
		r = scan_rdma(topo, sink);
	if (r == 0)
		r = scan_gpus(topo, sink);
	if (r == 0)
		r = scan_net(topo, sink);
	hwloc_topology_destroy(topo);
	return r;
}

static const struct mc_topology_ops ops = {.scan = scan};

const struct mc_module_desc mc_module_desc = {
	.name = "discover",
	.version = MC_VERSION,
	.ops = &ops,
};
