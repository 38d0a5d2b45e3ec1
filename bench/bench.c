/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transfer_engine_bench, also installed as transfer_engine_test: starts a target,
 * or an initiator that reads or writes a target's memory and says how fast.
 */
#include "bench.h"

#include <stdio.h>

#include "job.h"

#include <core/util/std-fds.h>

static int run(const struct bench_options *opts, const struct bench_job *job, struct mc_config *config)
{
	struct mc_error err = {0};
	int code;

	if (opts->help) {
		bench_help(stdout);
		return BENCH_EXIT_OK;
	}
	if (opts->helpfull) {
		bench_help_full(stdout, opts, config);
		bench_job_help(stdout);
		return BENCH_EXIT_OK;
	}
	if (opts->version) {
		printf("transfer_engine_bench %s\n", mc_version());
		return BENCH_EXIT_OK;
	}
	if (bench_configure(opts, config, &err) < 0) {
		bench_report_error(opts, err.text);
		return BENCH_EXIT_USAGE;
	}
	if (bench_stop_init(&err) < 0) {
		fprintf(stderr, "%s\n", err.text);
		return BENCH_EXIT_FAILED;
	}
	bench_stop_name(mc_config_get(config, "local_server_name", NULL));
	code = opts->mode == BENCH_TARGET ? bench_target(opts, config)
					   : bench_initiator(opts, *opts->job ? job : NULL, config);
	mc_stop_fini();
	return code;
}

int main(int argc, char **argv)
{
	struct mc_error err = {0};
	struct bench_options opts;
	struct bench_job job;
	struct mc_config *config;
	int code;

	mc_hold_std_fds();
	bench_options_init(&opts);
	bench_reload_init(argc, argv);
	if (mc_config_new(&config, &err) < 0) {
		fprintf(stderr, "%s\n", err.text);
		return BENCH_EXIT_FAILED;
	}
	if (bench_options_parse(&opts, argc, argv, config, &err) < 0 ||
	    bench_options_check(&opts, &err) < 0 || bench_job_options(&job, &opts, &err) < 0) {
		bench_report_error(&opts, err.text);
		code = BENCH_EXIT_USAGE;
	} else {
		code = run(&opts, &job, config);
	}
	mc_config_free(config);
	return code;
}
