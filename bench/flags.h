/* SPDX-License-Identifier: Apache-2.0 */
/* The options of the bench: its own flags in one table, every config key beside them. */
#ifndef MC_BENCH_FLAGS_H
#define MC_BENCH_FLAGS_H

#include <mooncake/mooncake.h>

enum bench_mode { BENCH_INITIATOR = 0, BENCH_TARGET };

struct bench_range {
	uint64_t min, max; /* bytes; 0: none */
};

struct bench_options {
	int mode; /* enum bench_mode */
	int operation; /* enum mc_opcode */
	const char *segment_id; /* "": the only other segment */
	const char *protocol; /* "": what the matrix or discovery says */
	const char *device_name; /* comma-separated; "": see protocol */
	uint64_t block_size, batch_size, threads;
	uint64_t stride; /* between the starts of two entries; 0: block_size */
	uint64_t buffer_size; /* bytes, of each of the target's buffers */
	struct bench_range sweep; /* block sizes */
	const char *job; /* "": none */
	uint64_t seed, footprint; /* of a job; 0: as the job says */
	const char *trace; /* "": as the job says */
	double speed;
	double warm_up; /* seconds */
	double duration; /* seconds; initiator 0: one batch per thread; target 0: for ever */
	bool check, hot, prepared, init_mem, json, use_vram, auto_discovery;
	int64_t gpu_id; /* -1: every GPU */
	bool device_memory; /* the CPU may not touch our buffers; set by bench_options_check */
	const char *location; /* of our one buffer; "": host memory, or as use_vram says */
	const char *report_unit;
	uint64_t report_precision;
	int64_t ready_fd; /* -1: none */
	const char *ready_file;
	const char *config;
	bool help, helpfull, version;
	uint64_t set; /* bit i: flag i of the table was given */
};

/* Fill opts with the defaults. */
void bench_options_init(struct bench_options *opts);

/*
 * Read the arguments: config file first, then the MC_* environment, then the flags, so that the
 * later wins wherever --config stands.  Strings of opts point into argv.
 *   returns   0; -EINVAL, -ENOENT, ...: err says which flag and what it accepts
 */
int bench_options_parse(struct bench_options *opts, int argc, char **argv, struct mc_config *config,
			struct mc_error *err);

/* What the options say together: combinations that make no sense, and bounds of the whole. */
int bench_options_check(struct bench_options *opts, struct mc_error *err);

/* Memory at this location (KIND:NUMBER) is for devices; kinds that we do not know may be. */
bool bench_is_device_memory(const char *location);

/* Was the flag given on the command line? */
bool bench_option_given(const struct bench_options *opts, const char *name);

/* Start of entry i of a thread, from the start of its buffer, and the bytes that all entries of
 * all threads span. */
uint64_t bench_entry_offset(const struct bench_options *opts, uint64_t thread, uint64_t i);
uint64_t bench_footprint(const struct bench_options *opts);

/* One measurement of a sweep. */
struct bench_point {
	int operation; /* enum mc_opcode */
	uint64_t block_size, batch_size;
};
#define BENCH_MAX_POINTS 80 /* two operations; sizes from 1 to 2^34 */

/* The points of a sweep, after bench_options_check; and the options that one of them stands for. */
size_t bench_sweep_points(const struct bench_options *opts,
			  struct bench_point points[BENCH_MAX_POINTS]);
struct bench_options bench_point_options(const struct bench_options *opts,
					 const struct bench_point *point);

/* Bytes (or bits) per second of one report unit; 0: no such unit. */
double bench_unit(const char *unit);

/* One screen; and every flag and config key, with its default and what it is now. */
void bench_help(FILE *f);
void bench_help_full(FILE *f, const struct bench_options *opts, const struct mc_config *config);

/* Call each for every own flag with its value as text. */
void bench_options_each(const struct bench_options *opts,
			void (*each)(void *ctx, const char *name, const char *value, bool quote),
			void *ctx);

#endif
