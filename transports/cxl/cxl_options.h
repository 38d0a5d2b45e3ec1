/* SPDX-License-Identifier: Apache-2.0 */
/* The options of the cxl transport, in the order of the CXL_OPT_ words. */
#ifndef MC_CXL_OPTIONS_H
#define MC_CXL_OPTIONS_H

#include "cxl.h"

static const struct mc_option cxl_options[CXL_NR_OPTS + 1] = {
	[CXL_OPT_POOL_DIR] = { .name = "pool_dir", .type = MC_OPT_STRING, .def = "", .env = "MC_CXL_POOL_DIR",
		.doc = "folder of pools that are files: the device 'pool0' is the file pool0 in it; for tests, and for "
		       "engines of one host" },
	[CXL_OPT_SOLE] = { .name = "sole", .type = MC_OPT_BOOL, .def = "false",
		.doc = "every WRITE is the only writer of the cache lines that it cuts, as if its request said "
		       "MC_REQUEST_SOLE" },
	[CXL_OPT_GROWTH] = { .name = "growth", .type = MC_OPT_SIZE, .def = "16MiB", .min = 0, .max = INT64_C(1) << 40,
		.doc = "bytes that an engine asks for when it needs more of the pool, at least; no more than an eighth of the "
		       "pool unless it needs them" },
	[CXL_OPT_QUARANTINE] = { .name = "quarantine", .type = MC_OPT_DURATION, .def = "10s", .min = 100000000,
		.max = INT64_C(3600000000000),
		.doc = "how long an engine's lease must be over before others take its memory; longer than a copy of "
		       "1 MiB can take, and the same on all hosts" },
	[CXL_OPT_LANES] = { .name = "lanes", .type = MC_OPT_INT, .def = "1", .min = 1, .max = CXL_LANES_MAX,
		.doc = "workers that drive the device, and so processors that copy at once" },
	[CXL_NR_OPTS] = { .name = NULL },
};

#endif
