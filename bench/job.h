/* SPDX-License-Identifier: Apache-2.0 */
/* A job: what the threads of an initiator transfer, read from a file.  bench/jobs/README.md has the
 * format for people; the table in job_read.c is what is taken. */
#ifndef MC_BENCH_JOB_H
#define MC_BENCH_JOB_H

#include <stdio.h>

#include <mooncake/types.h>

#define BENCH_MAX_SIZES 16
#define BENCH_MAX_PEERS 64
#define BENCH_JOB_MAX_BYTES (1u << 20) /* of a job's file */

enum bench_locality { BENCH_SEQUENTIAL = 0, BENCH_HOT, BENCH_UNIFORM, BENCH_ZIPF };
enum bench_evict { BENCH_LRU = 0, BENCH_MODULO };

struct bench_job_block {
	uint64_t size;
	double share; /* how often, against the other sizes */
};

struct bench_job {
	char name[64], about[512];
	size_t nr_blocks;
	struct bench_job_block blocks[BENCH_MAX_SIZES];
	uint64_t batch; /* blocks per batch */
	uint64_t depth; /* batches that a thread has in flight */
	uint64_t threads;
	uint64_t peers; /* 0: all */
	uint64_t layers; /* batches per request */
	uint64_t passes; /* over the footprint; 0: until the duration is over */
	uint64_t seed; /* 0: to be drawn */
	uint64_t footprint; /* bytes of each target */
	double read_share; /* of requests, 0..1 */
	double bytes_per_s, requests_per_s; /* of all threads; 0: no limit */
	int locality; /* enum bench_locality */
	double zipf_exponent;
	double think_time, layer_time, duration, warm_up; /* seconds */
	bool notify, broadcast;
	char trace[1024]; /* path of the trace to replay; "": see bench_job_replays */
	double speed; /* of the replay; 0: without waiting */
	int evict; /* enum bench_evict */
	uint64_t set; /* bit i: key i of the table was given */
};

/* Fill job with the defaults. */
void bench_job_init(struct bench_job *job);
/* Read len bytes over job, which holds defaults; what: the file's name, which sentences begin with.
 *   returns   0; -EINVAL: err says file, line, key and what would do */
int bench_job_parse(const char *what, const char *text, size_t len, struct bench_job *job,
		    struct mc_error *err);
/* Defaults, then the file; its name without ".json" is the job's unless it says another. */
int bench_job_load(const char *path, struct bench_job *job, struct mc_error *err);
/* What the keys say together; after flags have had their say.  Fills in what follows from others. */
int bench_job_check(struct bench_job *job, struct mc_error *err);

/* The part of it that only the table knows: no key is given that has no meaning in this kind of job. */
int bench_job_keys_check(const struct bench_job *job, struct mc_error *err);

/* Was the key given, by the file or by bench_job_give? */
bool bench_job_given(const struct bench_job *job, const char *key);
void bench_job_give(struct bench_job *job, const char *key);
/* Is it the replay of a trace? */
bool bench_job_replays(const struct bench_job *job);
uint64_t bench_job_largest(const struct bench_job *job); /* block */

/* Call each for every key that has a meaning in this kind of job, with its value as JSON (quote:
 * still to be quoted).  Together they are a job again. */
void bench_job_each(const struct bench_job *job,
		    void (*each)(void *ctx, const char *name, const char *value, bool quote),
		    void *ctx);
/* Print each key with its type, range, default and meaning. */
void bench_job_help(FILE *f);

/* ---- job_flags.c ------------------------------------------------------------------------------- */

struct bench_options;
/* Read the file of --job, put what flags say over it, and what the job says into opts. */
int bench_job_options(struct bench_job *job, struct bench_options *opts, struct mc_error *err);

#endif
