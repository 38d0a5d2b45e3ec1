/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of the bench's command line: one argument per line.  What is taken lies in
 * its range, alone and together; what is refused has its sentence.
 */
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "config.h"

#define NR_ARGS 32

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct bench_options *opts)
{
	uint64_t all;

	if (opts->threads < 1 || opts->threads > 1024 || opts->batch_size < 1 || opts->block_size < 1 ||
	    opts->stride < opts->block_size || !(opts->duration >= 0) || opts->report_precision > 9 ||
	    !(bench_unit(opts->report_unit) > 0))
		abort();
	if (__builtin_mul_overflow(opts->stride, opts->batch_size, &all) ||
	    __builtin_mul_overflow(all, opts->threads, &all) || bench_footprint(opts) > all + opts->block_size)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct mc_config *pristine;
	struct bench_options opts;
	struct mc_config *c = NULL;
	struct mc_error err = {0};
	char *text = malloc(size + 1), *argv[NR_ARGS + 1] = {"bench"}, *next;
	int argc = 1;

	if (!pristine) {
		setenv("MC_CONFIG_DIR", "/nonexistent", 1);
		if (mc_config_new(&pristine, &err) < 0)
			abort();
	}
	if (!text || mc_config_clone(pristine, &c) < 0)
		abort();
	memcpy(text, data, size);
	text[size] = '\0';
	for (char *at = text; at && argc < NR_ARGS; at = next) {
		next = strchr(at, '\n');
		if (next)
			*next++ = '\0';
		/* It would read that file. */
		if (strncmp(at + strspn(at, "-"), "config", 6) != 0)
			argv[argc++] = at;
	}
	bench_options_init(&opts);
	if (bench_options_parse(&opts, argc, argv, c, &err) == 0 && bench_options_check(&opts, &err) == 0)
		check(&opts);
	else if (!err.text[0])
		abort();
	mc_config_free(c);
	free(text);
	return 0;
}
