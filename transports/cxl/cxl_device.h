/* SPDX-License-Identifier: Apache-2.0 */
/* From a device's name to what can be mapped: devdax devices, and files that stand for one. */
#ifndef MC_CXL_DEVICE_H
#define MC_CXL_DEVICE_H

#include <mooncake/transport.h>

/* Where a pool lies. */
struct cxl_place {
	char path[4096];
	uint64_t size;  /* bytes */
	uint64_t align; /* of mappings and grants: 2 MiB and more for devdax, a page for files */
	bool dax;
	int numa_node;  /* -1: unknown */
};

/* "dax0.0": as the kernel names them. */
bool cxl_is_dax_name(const char *name);
/* Find a device: "dax0.0" is /dev/dax0.0; any other name is a file in pool_dir (NULL or "": there
 * are none).  err says what is missing and what to do: no such device, system-ram instead of
 * devdax, no permission.  Opens nothing. */
int cxl_device_find(const char *name, const char *pool_dir, struct cxl_place *ret, struct mc_error *err);
/* The same for a path, of a devdax device or a file. */
int cxl_device_find_path(const char *path, struct cxl_place *ret, struct mc_error *err);

/* The same for what the matrix names: also "region0" and "mem0", the dax device that lies in that CXL region or
 * is made of that memory device.  cxl_probe.c */
int cxl_device_resolve(const char *name, const char *pool_dir, struct cxl_place *ret, struct mc_error *err);

/* Operations of the transport.  cxl_probe.c */
int cxl_enumerate(const struct mc_host *host, int (*found)(void *ctx, const char *device), void *ctx);
int cxl_probe(const struct mc_host *host, const char *device, struct mc_device_info *info, struct mc_error *err);

#endif
