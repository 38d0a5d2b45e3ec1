/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the bench's flags mean together: combinations that make no sense, bounds
 * of the whole, where entries lie, and which points a sweep has.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "flags.h"

#include <core/util/check.h>

#define MAX_SPAN 70368744177664.0 /* 64 TiB */
#define SWEEP_DURATION_S 1
#define SWEEP_WARM_UP_S 0.2
/* A batch of large blocks need not be long to fill any wire, and must fit the target. */
#define SWEEP_BATCH_BYTES (UINT64_C(64) << 20)

uint64_t bench_entry_offset(const struct bench_options *opts, uint64_t thread, uint64_t i)
{
	return opts->stride * (opts->hot ? thread : i * opts->threads + thread);
}

uint64_t bench_footprint(const struct bench_options *opts)
{
	return bench_entry_offset(opts, opts->threads - 1, opts->batch_size - 1) + opts->block_size;
}

double bench_unit(const char *unit)
{
	static const struct {
		const char *name;
		double bytes;
	} units[] = {
		{"GB", 1e9}, {"GiB", 1073741824.0}, {"Gb", 1e9 / 8},
		{"MB", 1e6}, {"MiB", 1048576.0},    {"Mb", 1e6 / 8},
		{"KB", 1e3}, {"KiB", 1024.0},       {"Kb", 1e3 / 8},
	};

	for (size_t i = 0; i < MC_ARRAY_SIZE(units); i++) {
		if (strcmp(units[i].name, unit) == 0)
			return units[i].bytes;
	}
	return 0;
}

/* A sweep's own defaults, and its largest block in place of the one size. */
static int check_sweep(struct bench_options *opts, struct mc_error *err)
{
	if (!opts->sweep.min)
		return 0;
	if (opts->mode == BENCH_TARGET)
		return mc_fail(
			err, -EINVAL,
			"flag --sweep: a target serves every block size; give it to the initiator");
	if (bench_option_given(opts, "block_size"))
		return mc_fail(
			err, -EINVAL,
			"flags --sweep and --block_size: leave one out, or write --sweep=MIN:MAX");
	opts->block_size = opts->sweep.max;
	if (!bench_option_given(opts, "threads"))
		opts->threads = 1;
	if (!bench_option_given(opts, "duration"))
		opts->duration = SWEEP_DURATION_S;
	if (!bench_option_given(opts, "warm_up"))
		opts->warm_up = SWEEP_WARM_UP_S;
	return 0;
}

/* A local buffer that was named must hold the batches, of every point of a sweep. */
static int check_buffer(const struct bench_options *opts, struct mc_error *err)
{
	struct bench_point points[BENCH_MAX_POINTS];
	uint64_t need = bench_footprint(opts);
	size_t nr = 0;

	if (opts->mode == BENCH_TARGET || *opts->job || !bench_option_given(opts, "buffer_size"))
		return 0;
	if (opts->sweep.min) {
		nr = bench_sweep_points(opts, points);
		need = 0;
	}
	for (size_t i = 0; i < nr; i++) {
		struct bench_options o = bench_point_options(opts, &points[i]);

		need = MC_MAX(need, bench_footprint(&o));
	}
	if (opts->buffer_size >= need)
		return 0;
	return mc_fail(err, -EINVAL,
		       "flag --buffer_size: the batches span %" PRIu64 " bytes, more than its %" PRIu64
		       "; leave it out, write --buffer_size=%" PRIu64
		       ", or lower %s, --batch_size or --threads",
		       need, opts->buffer_size, need,
		       opts->sweep.min ? "the end of --sweep" : "--block_size");
}

bool bench_is_device_memory(const char *location)
{
	static const char *const ours[] = {"", "*", "cpu", "cxl"};
	size_t len = strcspn(location, ":");

	for (size_t i = 0; i < MC_ARRAY_SIZE(ours); i++)
		if (strlen(ours[i]) == len && memcmp(location, ours[i], len) == 0)
			return false;
	return true;
}

/* Where our memory is, and what cannot be done with it there. */
static int check_location(struct bench_options *opts, struct mc_error *err)
{
	bool gpu = bench_option_given(opts, "gpu_id");

	if (gpu && !bench_option_given(opts, "use_vram") && !*opts->location)
		opts->use_vram = true;
	if (*opts->location && (opts->use_vram || gpu))
		return mc_fail(err, -EINVAL, "flags --location and --%s: leave one out; --location=cuda:%d says both",
			       opts->use_vram ? "use_vram" : "gpu_id", (int)MC_MAX(opts->gpu_id, 0));
	if (strlen(opts->location) > MC_LOCATION_MAX)
		return mc_fail(err, -EINVAL, "flag --location: '%.40s...' is too long: it is KIND:NUMBER, such as cxl:0",
			       opts->location);
	opts->device_memory = opts->use_vram || bench_is_device_memory(opts->location);
	if (opts->check && opts->device_memory)
		return mc_fail(err, -EINVAL,
			       "flags --check and --%s: patterns are made and compared in host memory; leave one out",
			       opts->use_vram ? "use_vram" : "location");
	if (opts->use_vram && opts->gpu_id < 0 && *opts->job)
		return mc_fail(err, -EINVAL, "flags --job and --gpu_id=-1: name one GPU; its threads share out one buffer");
	return 0;
}

int bench_options_check(struct bench_options *opts, struct mc_error *err)
{
	int r = check_sweep(opts, err);

	if (r < 0)
		return r;
	if (!bench_unit(opts->report_unit))
		return mc_fail(
			err, -EINVAL,
			"flag --report_unit: '%s' is not GB, GiB, Gb, MB, MiB, Mb, KB, KiB or Kb",
			opts->report_unit);
	if (opts->stride && opts->stride < opts->block_size)
		return mc_fail(err, -EINVAL,
			       "flag --stride: %" PRIu64 " is below the block size %" PRIu64
			       "; entries would overlap",
			       opts->stride, opts->block_size);
	if (!opts->stride)
		opts->stride = opts->block_size;
	if (opts->check && strcmp(opts->protocol, "null") == 0)
		return mc_fail(
			err, -EINVAL,
			"flag --check: the null transport moves nothing, so there is nothing to "
			"check; leave it out, or use another --protocol");
	r = check_location(opts, err);
	if (r < 0)
		return r;
	/* 2^20 entries of 2^35 bytes for 2^10 threads still fit 2^65; keep below 2^46. */
	if ((double)opts->stride * (double)opts->batch_size * (double)opts->threads > MAX_SPAN)
		return mc_fail(
			err, -EINVAL,
			"flags --block_size (or --stride), --batch_size, --threads: together they "
			"span more than 64 TiB; lower one");
	if (opts->mode == BENCH_TARGET && !bench_option_given(opts, "duration"))
		opts->duration = 0;
	return check_buffer(opts, err);
}

/* ---- a sweep ----------------------------------------------------------------------------------
 */

static uint64_t point_batch(const struct bench_options *opts, uint64_t block)
{
	if (bench_option_given(opts, "batch_size"))
		return opts->batch_size;
	return MC_MAX(UINT64_C(1), MC_MIN(opts->batch_size, SWEEP_BATCH_BYTES / block));
}

size_t bench_sweep_points(const struct bench_options *opts,
			  struct bench_point points[BENCH_MAX_POINTS])
{
	bool one = bench_option_given(opts, "operation");
	size_t nr = 0;

	for (int op = MC_OP_COUNT - 1; op >= 0; op--) {
		uint64_t block = opts->sweep.min;

		if (one && op != opts->operation)
			continue;
		/* The end of the range belongs to it, whatever the doubling meets. */
		while (nr < BENCH_MAX_POINTS) {
			points[nr++] = (struct bench_point){op, block, point_batch(opts, block)};
			if (block == opts->sweep.max)
				break;
			block = MC_MIN(block * 2, opts->sweep.max);
		}
	}
	return nr;
}

struct bench_options bench_point_options(const struct bench_options *opts,
					 const struct bench_point *point)
{
	struct bench_options o = *opts;

	o.operation = point->operation;
	o.block_size = point->block_size;
	o.batch_size = point->batch_size;
	if (!bench_option_given(opts, "stride"))
		o.stride = point->block_size;
	return o;
}
