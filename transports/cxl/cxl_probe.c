/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the matrix may name and what is said of it: dax devices, CXL regions, memory
 * devices.  A name that leads to no pool gets the command that is missing.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cxl_device.h"
#include "cxl_hw.h"
#include "cxl_pool.h"

/* A file of the name comes first: it is there because somebody wants it. */
static bool is_file(const char *name, const char *pool_dir)
{
	char path[4096];

	return pool_dir && *pool_dir && snprintf(path, sizeof path, "%s/%s", pool_dir, name) < (int)sizeof path &&
	       access(path, F_OK) == 0;
}

int cxl_device_resolve(const char *name, const char *pool_dir, struct cxl_place *p, struct mc_error *err)
{
	const struct cxl_hw_dax *dax;
	struct cxl_hw *hw;
	int r;

	memset(p, 0, sizeof *p);
	p->numa_node = -1;
	if (!cxl_hw_is_name(name) || is_file(name, pool_dir))
		return cxl_device_find(name, pool_dir, p, err);
	hw = malloc(sizeof *hw);
	if (!hw)
		return mc_fail(err, -ENOMEM, "device '%s': out of memory", name);
	r = cxl_hw_scan(hw, err);
	dax = r == 0 ? cxl_hw_find(hw, name, err) : NULL;
	if (r == 0)
		r = dax ? cxl_device_find(dax->name, NULL, p, err) : -ENODEV;
	free(hw);
	return r;
}

/* ---- operations ------------------------------------------------------------------------------- */

/* Every dax device, and memory devices of which there is none yet. */
int cxl_enumerate(const struct mc_host *host, int (*found)(void *ctx, const char *device), void *ctx)
{
	struct cxl_hw *hw = malloc(sizeof *hw);
	struct mc_error why = {0};
	int r = 0;

	if (!hw)
		return -ENOMEM;
	if (cxl_hw_scan(hw, &why) < 0) {
		host->log(host, MC_LOG_WARN, "%s", why.text);
		free(hw);
		return 0;
	}
	for (uint32_t i = 0; r == 0 && i < hw->nr_daxes; i++)
		r = found(ctx, hw->daxes[i].name);
	for (uint32_t i = 0; r == 0 && i < hw->nr_memdevs; i++)
		if (!cxl_hw_used(hw, i))
			r = found(ctx, hw->memdevs[i].name);
	free(hw);
	return r;
}

/* What the libraries know of a device that the kernel's own files do not say. */
static void describe(const char *device, struct mc_device_info *info)
{
	struct cxl_hw *hw = malloc(sizeof *hw);
	const struct cxl_hw_memdev *m = NULL;
	const struct cxl_hw_dax *dax = NULL;
	char words[sizeof info->detail] = "";

	if (!hw)
		return;
	if (cxl_hw_scan(hw, NULL) == 0 && (dax = cxl_hw_find(hw, device, NULL)) == NULL)
		m = cxl_hw_memdev(hw, device);
	if (dax)
		cxl_hw_words(hw, dax, words, sizeof words);
	else if (m)
		cxl_hw_memdev_words(m, words, sizeof words);
	if (info->numa_node < 0 && (dax || m))
		info->numa_node = dax ? dax->numa_node : m->numa_node;
	if (info->size >= offsetof(struct mc_device_info, detail) + sizeof info->detail)
		memcpy(info->detail, words, sizeof words);
	free(hw);
}

int cxl_probe(const struct mc_host *host, const char *device, struct mc_device_info *info, struct mc_error *err)
{
	struct mc_error why = {0};
	struct cxl_geometry g;
	struct cxl_place p;
	int r;

	snprintf(info->name, sizeof info->name, "%s", device);
	info->numa_node = -1;
	if (!*device) {
		info->state = MC_STATE_MISSING;
		snprintf(info->remedy, sizeof info->remedy, "this host has no CXL memory and no dax device (cxl list -M, daxctl "
			 "list): set transports.cxl.pool_dir and format a file there to try it without");
		return 0;
	}
	/* Whether a file is there only open can say: it knows the folder. */
	if (!cxl_is_dax_name(device) && !cxl_hw_is_name(device))
		return 0;
	r = cxl_device_resolve(device, NULL, &p, &why);
	info->numa_node = p.numa_node;
	describe(device, info);
	if (r == 0 && info->size >= offsetof(struct mc_device_info, capacity) + sizeof info->capacity)
		info->capacity = p.size;
	/* Who has another pool is not reached. */
	if (r == 0 && (r = cxl_pool_look(&p, &g, &why)) == 0)
		cxl_uuid_text(g.uuid, info->subnet);
	info->state = r == 0 ? MC_STATE_ACTIVE : r == -ENODEV ? MC_STATE_MISSING : MC_STATE_DOWN;
	snprintf(info->address, sizeof info->address, "%.*s", (int)sizeof info->address - 1, p.path);
	if (r < 0)
		snprintf(info->remedy, sizeof info->remedy, "%.*s", (int)sizeof info->remedy - 1, why.text);
	return 0;
}
