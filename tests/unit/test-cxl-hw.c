/* SPDX-License-Identifier: Apache-2.0 */
/* Which dax device a name of CXL memory means, and which command is missing where it means none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "cxl_hw.h"

#define MIB (UINT64_C(1) << 20)

static struct cxl_hw hw;
static struct mc_error err;

static struct cxl_hw_memdev *memdev(const char *name, uint64_t pmem, uint64_t ram, const char *decoder)
{
	struct cxl_hw_memdev *m = &hw.memdevs[hw.nr_memdevs++];

	*m = (struct cxl_hw_memdev){.pmem = pmem, .ram = ram, .enabled = true, .decoder_pmem = pmem != 0};
	snprintf(m->name, sizeof m->name, "%s", name);
	snprintf(m->decoder, sizeof m->decoder, "%s", decoder);
	return m;
}

static struct cxl_hw_region *region(const char *name, uint64_t start, uint64_t size, uint64_t memdevs)
{
	struct cxl_hw_region *r = &hw.regions[hw.nr_regions++];

	*r = (struct cxl_hw_region){.start = start, .size = size, .enabled = true, .memdevs = memdevs};
	snprintf(r->name, sizeof r->name, "%s", name);
	return r;
}

static void dax(const char *name, uint64_t start, uint64_t size)
{
	struct cxl_hw_dax *d = &hw.daxes[hw.nr_daxes++];

	*d = (struct cxl_hw_dax){.start = start, .size = size, .align = 2 * MIB};
	snprintf(d->name, sizeof d->name, "%s", name);
}

static int fresh(void **state)
{
	memset(&hw, 0, sizeof hw);
	return 0;
}

static void means(const char *name, const char *want)
{
	const struct cxl_hw_dax *d = cxl_hw_find(&hw, name, &err);

	assert_non_null(d);
	assert_string_equal(d->name, want);
}

static void lacks(const char *name, const char *words)
{
	assert_null(cxl_hw_find(&hw, name, &err));
	if (!strstr(err.text, words))
		fail_msg("'%s' is not in: %s", words, err.text);
}

/* Two regions, one of two memory devices: each name leads to the device that lies there. */
static void names(void **state)
{
	char words[128];

	memdev("mem0", 256 * MIB, 0, "");
	snprintf(memdev("mem1", 256 * MIB, 0, "")->health, 64, "needs maintenance");
	memdev("mem2", 0, 512 * MIB, "");
	region("region0", 4096 * MIB, 512 * MIB, 3);
	region("region1", 8192 * MIB, 512 * MIB, 4);
	dax("dax1.0", 8192 * MIB, 512 * MIB);
	dax("dax0.0", 4102 * MIB, 506 * MIB);
	means("mem0", "dax0.0");
	means("mem1", "dax0.0");
	means("mem2", "dax1.0");
	means("region0", "dax0.0");
	means("region1", "dax1.0");
	means("dax1.0", "dax1.0");
	assert_true(cxl_hw_used(&hw, 1));
	cxl_hw_words(&hw, cxl_hw_find(&hw, "mem0", NULL), words, sizeof words);
	assert_string_equal(words, "aligned to 2048 KiB, region0 of mem0, mem1 (needs maintenance)");
	cxl_hw_memdev_words(cxl_hw_memdev(&hw, "mem2"), words, sizeof words);
	assert_string_equal(words, "512 MiB ram");
	lacks("mem3", "no such CXL memory");
}

static void nothing(void **state)
{
	lacks("mem0", "cxl list");
	lacks("dax0.0", "no such CXL memory");
}

static void no_region(void **state)
{
	memdev("mem0", 256 * MIB, 0, "decoder0.3");
	memdev("mem1", 0, 256 * MIB, "decoder0.0");
	memdev("mem2", 256 * MIB, 0, "");
	memdev("mem3", 256 * MIB, 0, "decoder0.0")->enabled = false;
	lacks("mem0", "run cxl create-region -m -d decoder0.3 -w 1 -t pmem mem0, then ndctl create-namespace");
	lacks("mem1", "run cxl create-region -m -d decoder0.0 -w 1 -t ram mem1");
	assert_null(strstr(err.text, "ndctl"));
	lacks("mem2", "no decoder of this host has room");
	lacks("mem3", "run cxl enable-memdev mem3");
	assert_false(cxl_hw_used(&hw, 0));
}

static void no_dax(void **state)
{
	memdev("mem0", 256 * MIB, 0, "");
	memdev("mem1", 0, 256 * MIB, "");
	region("region0", 4096 * MIB, 256 * MIB, 1);
	region("region1", 8192 * MIB, 256 * MIB, 2);
	region("region2", 0, 0, 0)->enabled = false;
	lacks("mem0", "lies in region 'region0': run ndctl create-namespace --mode=devdax");
	lacks("region1", "run modprobe dax_cxl");
	lacks("region2", "run cxl enable-region region2");
}

/* Only root is told addresses: then a dax device can only be named by itself. */
static void hidden_addresses(void **state)
{
	memdev("mem0", 256 * MIB, 0, "");
	region("region0", 0, 256 * MIB, 1);
	dax("dax0.0", 0, 250 * MIB);
	lacks("mem0", "name the dax device itself");
	means("dax0.0", "dax0.0");
}

static void looks_like_a_name(void **state)
{
	static const char *const good[] = {"mem0", "mem12", "region0"}, *const bad[] = {"mem", "memory", "mem0x", "dax0.0",
		"pool0", "region", ""};

	for (size_t i = 0; i < sizeof good / sizeof *good; i++)
		assert_true(cxl_hw_is_name(good[i]));
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		assert_false(cxl_hw_is_name(bad[i]));
}

int main(void)
{
#define T(name) cmocka_unit_test_setup(name, fresh)
	const struct CMUnitTest tests[] = {T(names), T(nothing), T(no_region), T(no_dax), T(hidden_addresses),
					   T(looks_like_a_name)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
