/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The CXL memory of this host: memory devices, the regions that map them, and the
 * dax devices that lie in those.  cxl_scan.c asks libcxl and libdaxctl for facts;
 * cxl_hw.c judges them: which dax device a name means, or what is missing.
 */
#ifndef MC_CXL_HW_H
#define MC_CXL_HW_H

#include <mooncake/types.h>

#define CXL_HW_MAX 64 /* of each; a host has fewer, and who has more names dax devices */
#define CXL_HW_NAME 32

struct cxl_hw_memdev {
	char name[CXL_HW_NAME]; /* "mem0" */
	uint64_t pmem, ram;     /* bytes */
	int32_t numa_node;      /* -1: unknown */
	bool enabled;
	char health[64];        /* "healthy", "needs maintenance", ...; empty: it does not say */
	/* The root decoder through which a region of it could be made; empty: none has room. */
	char decoder[CXL_HW_NAME];
	bool decoder_pmem;        /* it would be persistent memory, not ram */
};

struct cxl_hw_region {
	char name[CXL_HW_NAME]; /* "region0" */
	uint64_t start, size;   /* physical; size 0: unknown */
	bool enabled;
	uint64_t memdevs;       /* bits, by index */
};

enum cxl_hw_mode { CXL_HW_DEVDAX, CXL_HW_SYSTEM_RAM, CXL_HW_DISABLED };
struct cxl_hw_dax {
	char name[CXL_HW_NAME]; /* "dax0.0" */
	uint64_t start;         /* physical; 0: only root is told */
	uint64_t size, align;
	int32_t numa_node;      /* that it is or would be part of; -1: unknown */
	enum cxl_hw_mode mode;
};

struct cxl_hw {
	uint32_t nr_memdevs, nr_regions, nr_daxes;
	struct cxl_hw_memdev memdevs[CXL_HW_MAX];
	struct cxl_hw_region regions[CXL_HW_MAX];
	struct cxl_hw_dax daxes[CXL_HW_MAX];
};

/* Fill in what is there; a host without any is no error.  Opens no memory.  [any] that may block */
int cxl_hw_scan(struct cxl_hw *hw, struct mc_error *err);

/* ---- judging ----------------------------------------------------------------------------------- */

/* Does it read like "mem0" or "region0"? */
bool cxl_hw_is_name(const char *name);
/* The dax device that a name means: its own, that of the region in which it lies, or that of the memory
 * device which such a region maps.  NULL: err says what is missing and the command that makes it. */
const struct cxl_hw_dax *cxl_hw_find(const struct cxl_hw *hw, const char *name, struct mc_error *err);
/* The region in which a dax device lies; NULL: none that is known. */
const struct cxl_hw_region *cxl_hw_region_of(const struct cxl_hw *hw, const struct cxl_hw_dax *dax);
/* The memory device of that name, or NULL. */
const struct cxl_hw_memdev *cxl_hw_memdev(const struct cxl_hw *hw, const char *name);
/* "aligned to 2048 KiB, region0 of mem0 (healthy)"; "256 MiB persistent, healthy": for people. */
void cxl_hw_words(const struct cxl_hw *hw, const struct cxl_hw_dax *dax, char *buf, size_t cap);
void cxl_hw_memdev_words(const struct cxl_hw_memdev *m, char *buf, size_t cap);
/* Is the memory device in a region that has a dax device? */
bool cxl_hw_used(const struct cxl_hw *hw, uint32_t memdev);

#endif
