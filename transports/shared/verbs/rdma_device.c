/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Verbs, devices: a device is one of class/infiniband.  sysfs names them, so that they are
 * seen where /dev/infiniband is not; libibverbs opens them, and where it does not, sysfs and the
 * device node tell why.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/util/cleanup.h"
#include "core/util/pci.h"
#include "rdma.h"

/* ---- sysfs -------------------------------------------------------------------------------------- */

/* A path below class/ of sysfs, where libibverbs looks for it too. */
static void class_path(char path[PATH_MAX], const char *rest)
{
	const char *root = secure_getenv("SYSFS_PATH");

	snprintf(path, PATH_MAX, "%s/class/%s", root && *root ? root : "/sys", rest);
}

/* A file of the device, without the final newline; "" if it cannot be read. */
static const char *read_file(const char *device, const char *file, char *buf, size_t cap)
{
	mc_cleanup(mc_fclosep) FILE *f = NULL;
	char path[PATH_MAX], rest[256];

	snprintf(rest, sizeof rest, "%s/%s", device, file);
	class_path(path, rest);
	f = fopen(path, "re");
	/* Unused entries of the GID table answer with EINVAL. */
	if (!f || !fgets(buf, (int)cap, f))
		*buf = '\0';
	buf[strcspn(buf, "\n")] = '\0';
	return buf;
}

static bool in_sysfs(const char *device)
{
	char path[PATH_MAX], rest[256];

	snprintf(rest, sizeof rest, "infiniband/%s", device);
	class_path(path, rest);
	return access(path, F_OK) == 0;
}

static int not_hidden(const struct dirent *d)
{
	return d->d_name[0] != '.';
}

/* Calls found for every entry of the class. */
static int list_class(const char *class, int (*found)(void *ctx, const char *name), void *ctx)
{
	struct dirent **list;
	char path[PATH_MAX];
	int n, r = 0;

	class_path(path, class);
	n = scandir(path, &list, not_hidden, versionsort);
	/* No driver of the kind is loaded. */
	if (n < 0)
		return errno == ENOENT ? 0 : -errno;
	for (int i = 0; i < n; i++) {
		if (!r && strlen(list[i]->d_name) <= MC_DEVICE_NAME_MAX)
			r = found(ctx, list[i]->d_name);
		free(list[i]);
	}
	free(list);
	return r;
}

/* [helper] */
int rdma_enumerate(const struct mc_host *host, int (*found)(void *ctx, const char *device), void *ctx)
{
	(void)host;
	return list_class("infiniband", found, ctx);
}

const char *rdma_netdev(const char *device, uint8_t port, char *buf, size_t cap)
{
	char class_device[128], file[64], name[64];

	snprintf(class_device, sizeof class_device, "infiniband/%s", device);
	snprintf(file, sizeof file, "ports/%u/gid_attrs/ndevs/0", port);
	read_file(class_device, file, name, sizeof name);
	snprintf(buf, cap, "%s", *name ? name : "its network interface");
	return buf;
}

static void read_pci(const char *device, struct mc_device_info *info)
{
	char path[PATH_MAX], rest[256];

	snprintf(rest, sizeof rest, "infiniband/%s/device", device);
	class_path(path, rest);
	mc_pci_of_link(path, info->pci);
}

static int read_numa(const char *device)
{
	char class_device[128], text[32];

	snprintf(class_device, sizeof class_device, "infiniband/%s", device);
	read_file(class_device, "device/numa_node", text, sizeof text);
	return isdigit((unsigned char)*text) ? atoi(text) : -1;
}

/* ---- opening, and why not -------------------------------------------------------------------------- */

struct names {
	char text[300];
	size_t len;
};

static int names_add(void *ctx, const char *name)
{
	struct names *n = ctx;

	if (n->len < sizeof n->text)
		n->len += (size_t)snprintf(n->text + n->len, sizeof n->text - n->len, "%s%s",
					   n->len ? ", " : "", name);
	return 0;
}

static int stop_at(void *ctx, const char *name)
{
	(void)ctx;
	(void)name;
	return 1;
}

static bool any_in_sysfs(void)
{
	return list_class("infiniband", stop_at, NULL) == 1;
}

struct find_uverbs {
	const char *device;
	char name[MC_DEVICE_NAME_MAX + 1];
};

static int is_uverbs(void *ctx, const char *name)
{
	struct find_uverbs *find = ctx;
	char class_device[128], device[MC_DEVICE_NAME_MAX + 2];

	snprintf(class_device, sizeof class_device, "infiniband_verbs/%s", name);
	if (strcmp(read_file(class_device, "ibdev", device, sizeof device), find->device) != 0)
		return 0;
	snprintf(find->name, sizeof find->name, "%s", name);
	return 1;
}

static int fail_absent(const char *device, struct mc_error *err)
{
	struct names names = { .len = 0 };

	list_class("infiniband", names_add, &names);
	if (!names.len && !*device)
		return mc_fail(err, -ENODEV,
			       "there is no RDMA device: load the adapter's driver, or for soft-RoCE modprobe rdma_rxe; "
			       "rdma link add rxe0 type rxe netdev INTERFACE");
	if (!names.len)
		return mc_fail(err, -ENODEV,
			       "there is no RDMA device here, so no '%.63s': load the adapter's driver, or for "
			       "soft-RoCE modprobe rdma_rxe; rdma link add %.63s type rxe netdev INTERFACE",
			       device, device);
	return mc_fail(err, -ENODEV, "there is no RDMA device '%.63s': nic_priority_matrix may name %s", device,
		       names.text);
}

/* libibverbs has not opened it: the first thing on the way that is not as it should be. */
static int fail_open(const char *device, bool listed, int error, struct mc_error *err)
{
	struct find_uverbs find = { .device = device };
	mc_cleanup(mc_closep) int fd = -1;
	bool has_node = list_class("infiniband_verbs", is_uverbs, &find) == 1;
	char node[128];

	if (!listed && !in_sysfs(device))
		return fail_absent(device, err);
	if (!listed && !has_node)
		return mc_fail(err, -ENXIO, "the kernel offers no verbs for device %.63s: modprobe ib_uverbs", device);
	if (has_node) {
		snprintf(node, sizeof node, "/dev/infiniband/%.63s", find.name);
		fd = open(node, O_RDWR | O_CLOEXEC);
		if (fd < 0 && errno == ENOENT)
			return mc_fail(err, -ENOENT, "%s of device %.63s is missing: give the container the host's "
				       "devices (--device=/dev/infiniband), or modprobe ib_uverbs", node, device);
		if (fd < 0)
			return mc_fail(err, -errno, "%s of device %.63s: %s: give the container --device=/dev/infiniband, "
				       "or the user the group that owns it (usually rdma)", node, device, strerror(errno));
	}
	if (!listed)
		return mc_fail(err, -ENOENT, "libibverbs has no provider for device %.63s: install ibverbs-providers "
			       "(rdma-core), or what the adapter's vendor gives", device);
	if (error == ENOMEM)
		return mc_fail(err, -ENOMEM, "opening device %.63s: %s: raise the memlock limit (ulimit -l unlimited, "
			       "LimitMEMLOCK=infinity, docker --ulimit memlock=-1)", device, strerror(error));
	return mc_fail(err, -error, "opening device %.63s: %s: see the kernel's log (dmesg) for its driver", device,
		       strerror(error));
}

/* [helper] */
int rdma_device_open(const char *device, struct ibv_context **ret_ctx, struct mc_error *err)
{
	struct ibv_device **list = ibv_get_device_list(NULL);
	struct ibv_context *ctx = NULL;
	bool listed = false;
	int error = ENODEV;

	for (int i = 0; list && list[i] && !listed; i++) {
		if (strcmp(ibv_get_device_name(list[i]), device) != 0)
			continue;
		listed = true;
		errno = 0;
		ctx = ibv_open_device(list[i]);
		error = errno ? errno : EIO;
	}
	if (list)
		ibv_free_device_list(list);
	if (!ctx)
		return fail_open(device, listed, error, err);
	*ret_ctx = ctx;
	return 0;
}

/* ---- probe --------------------------------------------------------------------------------------------- */

static void describe_subnet(const struct rdma_gid *gid, struct mc_device_info *info)
{
	struct rdma_gid net = *gid;
	char text[64];
	unsigned bits = gid->prefix;

	/* Every link has fe80::/64, whatever it is connected to. */
	if (!bits || rdma_gid_is_link_local(gid))
		return;
	for (unsigned i = 0; i < sizeof net.raw; i++)
		if (i * 8 >= bits)
			net.raw[i] = 0;
		else if (i * 8 + 8 > bits)
			net.raw[i] &= (uint8_t)(0xff << (i * 8 + 8 - bits));
	rdma_gid_address(&net, text, sizeof text);
	snprintf(info->subnet, sizeof info->subnet, "%s%.46s/%u", gid->type == RDMA_GID_IB ? "ib " : "", text,
		 rdma_gid_is_v4(gid) ? bits - 96 : bits);
}

/* false: it cannot be used, and err says why. */
static bool describe_port(struct ibv_context *ctx, const char *device, uint8_t nr, struct mc_device_info *info,
			  struct mc_error *err)
{
	struct rdma_settings set = { .gid_index = -1, .port = nr, .mtu = 4096 };
	struct ibv_port_attr attr;
	struct rdma_port port;

	if (rdma_port_read(ctx, device, &set, &port, err) < 0 || rdma_port_usable(&port, device, &set, err) < 0)
		return false;
	if (!ibv_query_port(ctx, nr, &attr))
		info->speed = rdma_port_speed(&attr);
	rdma_gid_address(&port.gids[0], info->address, sizeof info->address);
	describe_subnet(&port.gids[0], info);
	return true;
}

/* [helper] Which port is used is an option that is not known here: one that works is enough. */
int rdma_probe(const struct mc_host *host, const char *device, struct mc_device_info *info, struct mc_error *err)
{
	struct mc_error why = { .code = 0 };
	struct ibv_device_attr attr;
	struct ibv_context *ctx;
	int r = -ENODEV;

	(void)host;
	(void)err;
	snprintf(info->name, sizeof info->name, "%s", device);
	info->numa_node = -1;
	info->state = MC_STATE_MISSING;
	if (!*device && !any_in_sysfs()) {
		fail_absent(device, &why);
		snprintf(info->remedy, sizeof info->remedy, "%.255s", why.text);
		return 0;
	}
	if (!*device || *device == '.' || strchr(device, '/')) {
		snprintf(info->remedy, sizeof info->remedy, "that is no device's name: rdma link show lists them");
		return 0;
	}
	info->numa_node = read_numa(device);
	read_pci(device, info);
	r = rdma_device_open(device, &ctx, &why);
	if (r < 0) {
		info->state = r == -ENODEV ? MC_STATE_MISSING : MC_STATE_DOWN;
		/* Whoever probes can list those that are here. */
		snprintf(info->remedy, sizeof info->remedy, "%.255s", r == -ENODEV && any_in_sysfs() ?
			 "name another in nic_priority_matrix (rdma link show lists them)" : why.text);
		return 0;
	}
	info->state = MC_STATE_DOWN;
	if (ibv_query_device(ctx, &attr))
		mc_fail(&why, -EIO, "device %s does not answer: see the kernel's log (dmesg)", device);
	/* Of several that cannot be used the first's reason is told. */
	else
		for (unsigned p = 1; p <= attr.phys_port_cnt && info->state != MC_STATE_ACTIVE; p++)
			if (describe_port(ctx, device, (uint8_t)p, info, p == 1 ? &why : NULL))
				info->state = MC_STATE_ACTIVE;
	if (info->state != MC_STATE_ACTIVE)
		snprintf(info->remedy, sizeof info->remedy, "%.255s", why.text);
	ibv_close_device(ctx);
	return 0;
}
