/* SPDX-License-Identifier: Apache-2.0 */
/* Which dax device a name means, and which command is missing where it means none. */
#include "cxl_hw.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static bool numbered(const char *name, const char *word)
{
	size_t len = strlen(word);

	return !strncmp(name, word, len) && name[len] && !name[len + strspn(name + len, "0123456789")];
}

bool cxl_hw_is_name(const char *name)
{
	return numbered(name, "mem") || numbered(name, "region");
}

const struct cxl_hw_region *cxl_hw_region_of(const struct cxl_hw *hw, const struct cxl_hw_dax *dax)
{
	for (uint32_t i = 0; dax->start && i < hw->nr_regions; i++) {
		const struct cxl_hw_region *r = &hw->regions[i];

		if (r->size && dax->start >= r->start && dax->start - r->start < r->size)
			return r;
	}
	return NULL;
}

static const struct cxl_hw_dax *dax_in(const struct cxl_hw *hw, const struct cxl_hw_region *region)
{
	for (uint32_t i = 0; i < hw->nr_daxes; i++)
		if (cxl_hw_region_of(hw, &hw->daxes[i]) == region)
			return &hw->daxes[i];
	return NULL;
}

static const struct cxl_hw_region *region_with(const struct cxl_hw *hw, uint32_t memdev)
{
	for (uint32_t i = 0; i < hw->nr_regions; i++)
		if (hw->regions[i].memdevs & UINT64_C(1) << memdev)
			return &hw->regions[i];
	return NULL;
}

bool cxl_hw_used(const struct cxl_hw *hw, uint32_t memdev)
{
	const struct cxl_hw_region *r = region_with(hw, memdev);

	return r && dax_in(hw, r);
}

const struct cxl_hw_memdev *cxl_hw_memdev(const struct cxl_hw *hw, const char *name)
{
	for (uint32_t i = 0; i < hw->nr_memdevs; i++)
		if (!strcmp(hw->memdevs[i].name, name))
			return &hw->memdevs[i];
	return NULL;
}

/* ---- what is missing --------------------------------------------------------------------------- */

static const struct cxl_hw_dax *find_in_region(const struct cxl_hw *hw, const struct cxl_hw_region *r,
					       const char *name, struct mc_error *err)
{
	const struct cxl_hw_dax *dax = dax_in(hw, r);
	bool pmem = false;

	if (dax)
		return dax;
	for (uint32_t i = 0; i < hw->nr_memdevs; i++)
		pmem |= (r->memdevs & UINT64_C(1) << i) && hw->memdevs[i].pmem;
	if (!r->enabled)
		mc_fail(err, -ENODEV, "device '%s': region '%s' is not enabled: run cxl enable-region %s", name, r->name, r->name);
	else if (!hw->nr_daxes || !pmem)
		mc_fail(err, -ENODEV, "device '%s': no dax device lies in region '%s': run %s", name, r->name,
			pmem ? "ndctl create-namespace --mode=devdax --force" : "modprobe dax_cxl device_dax");
	else /* The kernel tells addresses only to root. */
		mc_fail(err, -ENODEV, "device '%s': which dax device lies in region '%s' cannot be seen: name the dax device "
			"itself (daxctl list shows them), or run ndctl create-namespace --mode=devdax --force", name, r->name);
	return NULL;
}

static const struct cxl_hw_dax *find_by_memdev(const struct cxl_hw *hw, uint32_t at, struct mc_error *err)
{
	const struct cxl_hw_region *r = region_with(hw, at);
	const struct cxl_hw_memdev *m = &hw->memdevs[at];

	if (r)
		return find_in_region(hw, r, m->name, err);
	if (!m->enabled)
		mc_fail(err, -ENODEV, "device '%s': the memory device is not enabled: run cxl enable-memdev %s", m->name, m->name);
	else if (!m->decoder[0])
		mc_fail(err, -ENODEV, "device '%s': no region maps it and no decoder of this host has room for one: destroy a "
			"region that is not used (cxl list -R, cxl destroy-region)", m->name);
	else
		mc_fail(err, -ENODEV, "device '%s': no region maps it: run cxl create-region -m -d %s -w 1 -t %s %s%s", m->name,
			m->decoder, m->decoder_pmem ? "pmem" : "ram", m->name,
			m->decoder_pmem ? ", then ndctl create-namespace --mode=devdax --force" : "");
	return NULL;
}

const struct cxl_hw_dax *cxl_hw_find(const struct cxl_hw *hw, const char *name, struct mc_error *err)
{
	for (uint32_t i = 0; i < hw->nr_daxes; i++)
		if (!strcmp(hw->daxes[i].name, name))
			return &hw->daxes[i];
	for (uint32_t i = 0; i < hw->nr_regions; i++)
		if (!strcmp(hw->regions[i].name, name))
			return find_in_region(hw, &hw->regions[i], name, err);
	for (uint32_t i = 0; i < hw->nr_memdevs; i++)
		if (!strcmp(hw->memdevs[i].name, name))
			return find_by_memdev(hw, i, err);
	mc_fail(err, -ENODEV, "device '%s': this host has no such CXL memory: cxl list shows memory devices and regions, "
		"daxctl list dax devices", name);
	return NULL;
}

/* ---- for people -------------------------------------------------------------------------------- */

void cxl_hw_words(const struct cxl_hw *hw, const struct cxl_hw_dax *dax, char *buf, size_t cap)
{
	const struct cxl_hw_region *r = cxl_hw_region_of(hw, dax);
	size_t at = 0;

	at += (size_t)snprintf(buf, cap, "aligned to %llu KiB", (unsigned long long)(dax->align >> 10));
	if (!r)
		return;
	if (at < cap)
		at += (size_t)snprintf(buf + at, cap - at, ", %s", r->name);
	for (uint32_t i = 0, nr = 0; i < hw->nr_memdevs && at < cap; i++) {
		const struct cxl_hw_memdev *m = &hw->memdevs[i];

		if (!(r->memdevs & UINT64_C(1) << i))
			continue;
		at += (size_t)snprintf(buf + at, cap - at, "%s%s%s%s%s", nr++ ? ", " : " of ", m->name,
				       m->health[0] ? " (" : "", m->health, m->health[0] ? ")" : "");
	}
}

void cxl_hw_memdev_words(const struct cxl_hw_memdev *m, char *buf, size_t cap)
{
	char pmem[40] = "", ram[40] = "";

	if (m->pmem)
		snprintf(pmem, sizeof pmem, "%llu MiB persistent", (unsigned long long)(m->pmem >> 20));
	if (m->ram)
		snprintf(ram, sizeof ram, "%llu MiB ram", (unsigned long long)(m->ram >> 20));
	snprintf(buf, cap, "%s%s%s%s%s", pmem, pmem[0] && ram[0] ? ", " : "", ram, m->health[0] ? ", " : "", m->health);
}
