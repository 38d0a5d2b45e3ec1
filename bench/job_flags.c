/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A job and the flags beside it: a flag that says the same as a key overrides it,
 * and what has no meaning beside a job is refused.
 */
#include <errno.h>
#include <string.h>

#include "flags.h"
#include "job.h"

#include <core/util/check.h>

/* Flags of a job alone, and flags that a job has no place for. */
static int check_flags(const struct bench_options *o, struct mc_error *err)
{
	static const char *const only[] = {"seed", "footprint", "trace", "speed"};
	static const char *const never[] = {"sweep", "stride", "prepared"};

	for (size_t i = 0; i < MC_ARRAY_SIZE(only); i++) {
		if (!*o->job && bench_option_given(o, only[i]))
			return mc_fail(err, -EINVAL, "flag --%s: it belongs to a job; give --job=FILE too", only[i]);
	}
	for (size_t i = 0; i < MC_ARRAY_SIZE(never); i++) {
		if (*o->job && bench_option_given(o, never[i]))
			return mc_fail(err, -EINVAL, "flags --job and --%s: leave one out", never[i]);
	}
	if (*o->job && o->mode == BENCH_TARGET)
		return mc_fail(err, -EINVAL, "flag --job: a target serves every job; give it to the initiator");
	return 0;
}

static bool overrides(const struct bench_options *o, struct bench_job *job, const char *flag, const char *key)
{
	if (!bench_option_given(o, flag))
		return false;
	bench_job_give(job, key);
	return true;
}

static int override(const struct bench_options *o, struct bench_job *job, struct mc_error *err)
{
	if (overrides(o, job, "block_size", "blocks")) {
		job->nr_blocks = 1;
		job->blocks[0] = (struct bench_job_block){.size = o->block_size, .share = 1};
	}
	if (overrides(o, job, "operation", "read_share"))
		job->read_share = o->operation == MC_OP_READ;
	if (overrides(o, job, "batch_size", "batch"))
		job->batch = o->batch_size;
	if (overrides(o, job, "threads", "threads"))
		job->threads = o->threads;
	if (overrides(o, job, "duration", "duration"))
		job->duration = o->duration;
	/* A script gives the same warm-up to every job; a replay has none. */
	if (!bench_job_replays(job) && overrides(o, job, "warm_up", "warm_up"))
		job->warm_up = o->warm_up;
	if (o->hot && overrides(o, job, "hot", "locality"))
		job->locality = BENCH_HOT;
	if (overrides(o, job, "seed", "seed"))
		job->seed = o->seed;
	if (overrides(o, job, "footprint", "footprint"))
		job->footprint = o->footprint;
	if (overrides(o, job, "speed", "speed"))
		job->speed = o->speed;
	if (overrides(o, job, "trace", "trace") &&
	    (size_t)snprintf(job->trace, sizeof job->trace, "%s", o->trace) >= sizeof job->trace)
		return mc_fail(err, -ENAMETOOLONG, "flag --trace: the path is too long");
	return 0;
}

int bench_job_options(struct bench_job *job, struct bench_options *o, struct mc_error *err)
{
	int r = check_flags(o, err);

	if (r < 0 || !*o->job)
		return r;
	r = bench_job_load(o->job, job, err);
	if (r == 0)
		r = override(o, job, err);
	if (r == 0)
		r = bench_job_check(job, err);
	if (r < 0)
		return r;
	/* What a verified batch leaves behind is compared: one after the other. */
	job->depth = o->check ? 1 : job->depth;
	job->threads = o->check && bench_job_replays(job) ? 1 : job->threads;
	o->block_size = o->stride = bench_job_largest(job);
	o->batch_size = job->batch;
	o->threads = job->threads;
	o->duration = job->duration;
	o->warm_up = job->warm_up;
	o->hot = job->locality == BENCH_HOT;
	o->operation = job->read_share > 0.5 ? MC_OP_READ : MC_OP_WRITE;
	o->seed = job->seed;
	o->footprint = job->footprint;
	o->speed = job->speed;
	return 0;
}
