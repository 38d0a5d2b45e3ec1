/* SPDX-License-Identifier: Apache-2.0 */
/* Facts of this host's CXL memory, as libcxl and libdaxctl tell them. */
#include "cxl_hw.h"

#include <cxl/libcxl.h>
#include <daxctl/libdaxctl.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Sizes and addresses that the libraries do not know, or may not tell. */
static uint64_t known(unsigned long long n)
{
	return n == UINT64_MAX ? 0 : n;
}

static void take_name(char to[CXL_HW_NAME], const char *name)
{
	snprintf(to, CXL_HW_NAME, "%s", name ? name : "");
}

/* They complain on stderr, which is the program's; what matters is in their answers. */
static void cxl_quiet(struct cxl_ctx *ctx, int priority, const char *file, int line, const char *fn,
		      const char *format, va_list args)
{
}
static void daxctl_quiet(struct daxctl_ctx *ctx, int priority, const char *file, int line, const char *fn,
			 const char *format, va_list args)
{
}

/* ---- memory devices ---------------------------------------------------------------------------- */

/* By the device's mailbox; not every device has the command, and not every user may ask. */
static void take_health(struct cxl_memdev *from, struct cxl_hw_memdev *to)
{
	struct cxl_cmd *cmd = cxl_cmd_new_get_health_info(from);
	const char *word = "healthy";

	if (!cmd)
		return;
	if (cxl_cmd_submit(cmd) < 0 || cxl_cmd_get_mbox_status(cmd) != 0)
		word = "";
	else if (cxl_cmd_health_info_get_hw_replacement_needed(cmd) > 0)
		word = "must be replaced";
	else if (cxl_cmd_health_info_get_media_not_ready(cmd) > 0)
		word = "media not ready";
	else if (cxl_cmd_health_info_get_media_data_lost(cmd) > 0)
		word = "has lost data";
	else if (cxl_cmd_health_info_get_media_persistence_lost(cmd) > 0)
		word = "does not keep data any more";
	else if (cxl_cmd_health_info_get_maintenance_needed(cmd) > 0)
		word = "needs maintenance";
	else if (cxl_cmd_health_info_get_performance_degraded(cmd) > 0)
		word = "slower than it should be";
	snprintf(to->health, sizeof to->health, "%s", word);
	cxl_cmd_unref(cmd);
}

/* The first root decoder of its bus that could map it and has room. */
static void take_decoder(struct cxl_memdev *from, struct cxl_hw_memdev *to)
{
	struct cxl_bus *bus = cxl_memdev_get_bus(from);
	struct cxl_decoder *d;

	if (!bus)
		return;
	cxl_decoder_foreach(cxl_bus_get_port(bus), d) {
		bool pmem = to->pmem && cxl_decoder_is_pmem_capable(d);
		bool ram = to->ram && cxl_decoder_is_volatile_capable(d);

		if ((!pmem && !ram) || known(cxl_decoder_get_max_available_extent(d)) == 0 ||
		    !cxl_decoder_get_target_by_memdev(d, from))
			continue;
		take_name(to->decoder, cxl_decoder_get_devname(d));
		to->decoder_pmem = pmem;
		return;
	}
}

static void scan_memdevs(struct cxl_hw *hw, struct cxl_ctx *ctx)
{
	struct cxl_memdev *m;

	cxl_memdev_foreach(ctx, m) {
		struct cxl_hw_memdev *to = &hw->memdevs[hw->nr_memdevs];

		if (hw->nr_memdevs == CXL_HW_MAX)
			return;
		take_name(to->name, cxl_memdev_get_devname(m));
		to->pmem = known(cxl_memdev_get_pmem_size(m));
		to->ram = known(cxl_memdev_get_ram_size(m));
		to->numa_node = cxl_memdev_get_numa_node(m);
		to->enabled = cxl_memdev_is_enabled(m);
		take_health(m, to);
		take_decoder(m, to);
		hw->nr_memdevs++;
	}
}

/* ---- regions ----------------------------------------------------------------------------------- */

static uint64_t members(const struct cxl_hw *hw, struct cxl_region *region)
{
	struct cxl_memdev_mapping *map;
	uint64_t bits = 0;

	cxl_mapping_foreach(region, map) {
		struct cxl_decoder *d = cxl_mapping_get_decoder(map);
		struct cxl_memdev *m = d ? cxl_decoder_get_memdev(d) : NULL;

		for (uint32_t i = 0; m && i < hw->nr_memdevs; i++)
			if (!strcmp(hw->memdevs[i].name, cxl_memdev_get_devname(m)))
				bits |= UINT64_C(1) << i;
	}
	return bits;
}

static void scan_decoder(struct cxl_hw *hw, struct cxl_decoder *decoder)
{
	struct cxl_region *r;

	cxl_region_foreach(decoder, r) {
		struct cxl_hw_region *to = &hw->regions[hw->nr_regions];

		if (hw->nr_regions == CXL_HW_MAX)
			return;
		take_name(to->name, cxl_region_get_devname(r));
		to->start = known(cxl_region_get_resource(r));
		to->size = known(cxl_region_get_size(r));
		to->enabled = cxl_region_is_enabled(r);
		to->memdevs = members(hw, r);
		hw->nr_regions++;
	}
}

static void scan_regions(struct cxl_hw *hw, struct cxl_ctx *ctx)
{
	struct cxl_decoder *d;
	struct cxl_bus *bus;

	cxl_bus_foreach(ctx, bus)
		cxl_decoder_foreach(cxl_bus_get_port(bus), d)
			scan_decoder(hw, d);
}

/* ---- dax devices ------------------------------------------------------------------------------- */

static void scan_daxes(struct cxl_hw *hw, struct daxctl_ctx *ctx)
{
	struct daxctl_region *region;
	struct daxctl_dev *d;

	daxctl_region_foreach(ctx, region)
		daxctl_dev_foreach(region, d) {
			struct cxl_hw_dax *to = &hw->daxes[hw->nr_daxes];

			/* Without a size it is the seed from which others are made. */
			if (hw->nr_daxes == CXL_HW_MAX || !known(daxctl_dev_get_size(d)))
				continue;
			take_name(to->name, daxctl_dev_get_devname(d));
			to->start = known(daxctl_dev_get_resource(d));
			to->size = known(daxctl_dev_get_size(d));
			to->align = daxctl_dev_get_align(d);
			to->numa_node = daxctl_dev_get_target_node(d);
			to->mode = daxctl_dev_get_memory(d) ? CXL_HW_SYSTEM_RAM
				: daxctl_dev_is_enabled(d)  ? CXL_HW_DEVDAX : CXL_HW_DISABLED;
			hw->nr_daxes++;
		}
}

int cxl_hw_scan(struct cxl_hw *hw, struct mc_error *err)
{
	struct daxctl_ctx *dax;
	struct cxl_ctx *cxl;
	int r = cxl_new(&cxl);

	memset(hw, 0, sizeof *hw);
	if (r < 0)
		return mc_fail(err, r, "libcxl does not start: %s", strerror(-r));
	cxl_set_log_fn(cxl, cxl_quiet);
	scan_memdevs(hw, cxl);
	scan_regions(hw, cxl);
	cxl_unref(cxl);
	r = daxctl_new(&dax);
	if (r < 0)
		return mc_fail(err, r, "libdaxctl does not start: %s", strerror(-r));
	daxctl_set_log_fn(dax, daxctl_quiet);
	scan_daxes(hw, dax);
	daxctl_unref(dax);
	return 0;
}
