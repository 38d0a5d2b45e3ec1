/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A job as a whole: defaults, its file, and what the keys say together.
 */
#include "job.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <core/util/check.h>
#include <core/util/cleanup.h>

/* All batches in flight of all threads, in blocks: what the memory for them costs. */
#define MAX_BLOCKS_IN_FLIGHT (UINT64_C(1) << 24)

void bench_job_init(struct bench_job *job)
{
	*job = (struct bench_job){
		.nr_blocks = 1,
		.blocks = {{.size = 65536, .share = 1}},
		.batch = 16,
		.depth = 1,
		.threads = 1,
		.peers = 1,
		.layers = 1,
		.footprint = UINT64_C(64) << 20,
		.zipf_exponent = 0.99,
		.duration = 10,
		.warm_up = 0.2,
		.speed = 1,
	};
}

uint64_t bench_job_largest(const struct bench_job *job)
{
	uint64_t largest = 0;

	for (size_t i = 0; i < job->nr_blocks; i++)
		largest = MC_MAX(largest, job->blocks[i].size);
	return largest;
}

/* ---- the file ----------------------------------------------------------------------------------
 */

/* "bench/jobs/kv-write.json": "kv-write" */
static void name_of_path(const char *path, char *buf, size_t cap)
{
	const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
	size_t len = strlen(base);

	if (len > 5 && strcmp(base + len - 5, ".json") == 0)
		len -= 5;
	snprintf(buf, cap, "%.*s", (int)MC_MIN(len, cap - 1), base);
	for (char *p = buf; *p; p++)
		*p = (unsigned char)*p < ' ' || *p == 0x7f ? '?' : *p;
}

/* A trace is found from the job's folder. */
static int resolve_trace(const char *path, struct bench_job *job, struct mc_error *err)
{
	const char *slash = strrchr(path, '/');
	char trace[sizeof job->trace];

	if (!*job->trace || *job->trace == '/' || !slash)
		return 0;
	memcpy(trace, job->trace, sizeof trace);
	if ((size_t)snprintf(job->trace, sizeof job->trace, "%.*s/%s", (int)(slash - path), path, trace) >=
	    sizeof job->trace)
		return mc_fail(err, -ENAMETOOLONG, "%s: key 'trace': the path is too long", path);
	return 0;
}

int bench_job_load(const char *path, struct bench_job *job, struct mc_error *err)
{
	mc_cleanup(mc_freep) char *text = malloc(BENCH_JOB_MAX_BYTES + 1);
	mc_cleanup(mc_fclosep) FILE *f = fopen(path, "re");
	size_t len;
	int r;

	if (!f)
		return mc_fail(err, -errno, "job '%s': %s", path, strerror(errno));
	if (!text)
		return mc_fail(err, -ENOMEM, "job '%s': no memory", path);
	len = fread(text, 1, BENCH_JOB_MAX_BYTES + 1, f);
	if (ferror(f))
		return mc_fail(err, -EIO, "job '%s': cannot be read", path);
	bench_job_init(job);
	name_of_path(path, job->name, sizeof job->name);
	r = bench_job_parse(path, text, len, job, err);
	if (r == 0)
		r = resolve_trace(path, job, err);
	return r;
}

/* ---- the keys together -------------------------------------------------------------------------
 */

static int check_replay(struct bench_job *job, struct mc_error *err)
{
	if (!*job->trace)
		return mc_fail(err, -EINVAL, "job '%s' replays a trace: name one by --trace=FILE", job->name);
	if (job->nr_blocks != 1)
		return mc_fail(err, -EINVAL, "job '%s': keys 'trace' and 'blocks': each hash of a trace is one block, "
					     "of one size", job->name);
	/* The trace has no part to spare. */
	job->warm_up = 0;
	if (!bench_job_given(job, "duration"))
		job->duration = 0;
	return 0;
}

static int check_load(struct bench_job *job, struct mc_error *err)
{
	const char *why = NULL;

	if (job->bytes_per_s > 0 && job->requests_per_s > 0)
		why = "keys 'bytes_per_s' and 'requests_per_s': one rate is enough";
	else if (job->think_time > 0 && (job->bytes_per_s > 0 || job->requests_per_s > 0))
		why = "keys 'think_time' and a rate: requests of a rate do not wait for each other";
	else if (job->think_time > 0 && job->depth > 1)
		why = "keys 'think_time' and 'depth': who thinks has one batch in flight";
	else if (job->notify && job->read_share > 0)
		why = "keys 'notify' and 'read_share': a message says that bytes were written";
	else if (job->broadcast && job->read_share > 0)
		why = "keys 'broadcast' and 'read_share': what goes to every target is written";
	else if (job->notify && job->broadcast)
		why = "keys 'notify' and 'broadcast': a message goes to one target";
	else if (job->layer_time > 0 && job->layers == 1)
		why = "key 'layer_time': there is only one of the 'layers'";
	else if (job->passes && (job->locality != BENCH_SEQUENTIAL || job->nr_blocks > 1))
		why = "key 'passes': needs the locality \"sequential\" and one size of blocks";
	if (why)
		return mc_fail(err, -EINVAL, "job '%s': %s", job->name, why);
	if (job->passes) {
		job->warm_up = 0;
		if (!bench_job_given(job, "duration"))
			job->duration = 0;
	}
	return 0;
}

int bench_job_check(struct bench_job *job, struct mc_error *err)
{
	uint64_t batch = job->batch * (job->broadcast ? job->peers ? job->peers : BENCH_MAX_PEERS : 1);
	int r = bench_job_keys_check(job, err);

	if (r == 0)
		r = bench_job_replays(job) ? check_replay(job, err) : check_load(job, err);
	if (r < 0)
		return r;
	if (batch > 1048576 || batch * job->depth * job->threads > MAX_BLOCKS_IN_FLIGHT)
		return mc_fail(err, -EINVAL,
			       "job '%s': keys 'batch', 'depth', 'threads' (and the targets of a broadcast): %" PRIu64
			       " blocks in flight are too many; lower one",
			       job->name, batch * job->depth * job->threads);
	return 0;
}
