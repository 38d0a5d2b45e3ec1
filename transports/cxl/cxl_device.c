/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a pool lies: dax devices as the kernel shows them in sysfs, and files in the
 * folder of the option pool_dir, which stand for a device on one host.  Says what is
 * missing and how a host gets it.
 */
#include "cxl_device.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cxl_pool.h"

#define SYSFS_DAX "/sys/bus/dax/devices"
#define DAX_ALIGN ((uint64_t)2 << 20)

/* "dax0.0": as the kernel names them. */
bool cxl_is_dax_name(const char *name)
{
	size_t n;

	if (strncmp(name, "dax", 3) != 0)
		return false;
	n = strspn(name + 3, "0123456789");
	return n && name[3 + n] == '.' && name[4 + n] && !name[4 + n + strspn(name + 4 + n, "0123456789")];
}

static int read_number(const char *device, const char *attribute, uint64_t *ret)
{
	char path[256], text[32] = "", *end;
	FILE *f;
	uint64_t n;

	snprintf(path, sizeof path, SYSFS_DAX "/%.63s/%s", device, attribute);
	f = fopen(path, "re");
	if (!f)
		return -errno;
	if (!fgets(text, sizeof text, f))
		text[0] = '\0';
	fclose(f);
	errno = 0;
	n = strtoull(text, &end, 0);
	if (errno || end == text)
		return -EIO;
	*ret = n;
	return 0;
}

/* The driver that has the device: "device_dax", or "kmem" when it is system memory. */
static void driver_of(const char *device, char *driver, size_t cap)
{
	char path[256], target[256];
	ssize_t len;

	snprintf(path, sizeof path, SYSFS_DAX "/%.63s/driver", device);
	len = readlink(path, target, sizeof target - 1);
	driver[0] = '\0';
	if (len > 0) {
		target[len] = '\0';
		snprintf(driver, cap, "%.*s", (int)cap - 1, strrchr(target, '/') ? strrchr(target, '/') + 1 : target);
	}
}

static int check_access(const struct cxl_place *p, struct mc_error *err)
{
	if (access(p->path, R_OK | W_OK) == 0)
		return 0;
	return mc_fail(err, -errno, "pool '%s': %s: %s", p->path, strerror(errno),
		       errno == EACCES ? "let this user read and write it (a udev rule, or a group)"
				       : "name a device that is there");
}

static int find_dax(const char *name, struct cxl_place *p, struct mc_error *err)
{
	char driver[64];
	uint64_t node;

	snprintf(p->path, sizeof p->path, "/dev/%s", name);
	p->dax = true;
	p->align = DAX_ALIGN;
	p->numa_node = -1;
	if (read_number(name, "size", &p->size) < 0)
		return mc_fail(err, -ENODEV, "device '%s': there is no such dax device on this host: daxctl list shows those "
			       "that are; a CXL region becomes one by ndctl create-namespace -m devdax", name);
	driver_of(name, driver, sizeof driver);
	if (strcmp(driver, "kmem") == 0)
		return mc_fail(err, -EBUSY, "device '%s': it is used as system memory: run daxctl reconfigure-device "
			       "--mode=devdax --force %s", name, name);
	if (!driver[0])
		return mc_fail(err, -EBUSY, "device '%s': it is not enabled: run daxctl reconfigure-device --mode=devdax "
			       "--force %s", name, name);
	if (read_number(name, "align", &node) == 0 && node >= DAX_ALIGN)
		p->align = node;
	if (read_number(name, "numa_node", &node) == 0 && node < 1024)
		p->numa_node = (int)node;
	if (!p->size)
		return mc_fail(err, -ENODEV, "device '%s': it has no memory: daxctl list shows those that have", name);
	p->size -= p->size % p->align;
	return check_access(p, err);
}

int cxl_device_find_path(const char *path, struct cxl_place *p, struct mc_error *err)
{
	struct stat st;
	const char *name = strrchr(path, '/');

	memset(p, 0, sizeof *p);
	if (strlen(path) >= sizeof p->path)
		return mc_fail(err, -ENAMETOOLONG, "pool '%.200s...': the path is too long", path);
	if (name && cxl_is_dax_name(name + 1) && strncmp(path, "/dev/", 5) == 0)
		return find_dax(name + 1, p, err);
	memcpy(p->path, path, strlen(path) + 1);
	p->align = CXL_PAGE;
	p->numa_node = -1;
	if (stat(path, &st) < 0)
		return mc_fail(err, errno == ENOENT ? -ENODEV : -errno, "pool '%s': %s: name a dax device, or a file; "
			       "mooncake cxl format --size=SIZE %s makes one", path, strerror(errno), path);
	if (!S_ISREG(st.st_mode))
		return mc_fail(err, -EINVAL, "pool '%s': it is neither a dax device nor a file", path);
	p->size = (uint64_t)st.st_size;
	return check_access(p, err);
}

int cxl_device_find(const char *name, const char *pool_dir, struct cxl_place *p, struct mc_error *err)
{
	char path[sizeof p->path];

	memset(p, 0, sizeof *p);
	if (cxl_is_dax_name(name))
		return find_dax(name, p, err);
	if (!pool_dir || !*pool_dir)
		return mc_fail(err, -ENODEV, "device '%s': it is no dax device (dax0.0), and for a file of this name the option "
			       "transports.cxl.pool_dir names the folder", name);
	if (snprintf(path, sizeof path, "%s/%s", pool_dir, name) >= (int)sizeof path)
		return mc_fail(err, -ENAMETOOLONG, "device '%s': the path of pool_dir is too long", name);
	return cxl_device_find_path(path, p, err);
}
