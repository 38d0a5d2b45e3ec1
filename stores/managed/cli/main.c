/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mooncake_store: lend memory to the managed store, put and get values, look at them, measure.
 * A verb is a function of a file of its own; here is what all of them begin and end with.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include <cli/program/stop.h>
#include <cli/program/tell.h>
#include <core/util/std-fds.h>

#include "program.h"

#define GRACE_NS (10 * MC_SEC)

static void cut_short(void)
{
	fputs("ended before all was closed: the master gives this client up when it hears nothing more\n", stderr);
}

static int run_verb(const struct msc_options *o, struct mc_config *config)
{
	switch (o->verb) {
	case MSC_SERVE:
		return msc_serve(o, config);
	case MSC_PUT:
		return msc_put(o, config);
	case MSC_GET:
		return msc_get(o, config);
	case MSC_RM:
		return msc_rm(o, config);
	case MSC_LS:
		return msc_ls(o, config);
	case MSC_STAT:
		return msc_stat(o, config);
	default:
		return *o->trace ? msc_replay(o, config) : msc_bench(o, config);
	}
}

static int run(const struct msc_options *o, struct mc_config *config)
{
	const struct mc_stop_options stop = {.grace_ns = GRACE_NS, .cut_short = cut_short};
	struct mc_error err = {0};
	int code;

	if (o->version) {
		printf("mooncake_store %s\n", mc_version());
		return MSC_EXIT_OK;
	}
	if (o->help || o->helpfull) {
		if (o->helpfull)
			msc_help_full(stdout, config);
		else
			msc_help(stdout);
		return MSC_EXIT_OK;
	}
	if (msc_options_check(o, &err) < 0)
		return mc_tell_error("mooncake_store", o->json, err.text, MSC_EXIT_USAGE);
	mc_tell_log_init();
	signal(SIGXFSZ, SIG_IGN); /* a limit of file sizes is an error of the write */
	if (mc_stop_init(&stop, &err) < 0)
		return mc_tell_error("mooncake_store", o->json, err.text, MSC_EXIT_FAILED);
	code = run_verb(o, config);
	mc_stop_fini();
	return code;
}

int main(int argc, char **argv)
{
	struct mc_error err = {0};
	struct msc_options options;
	struct mc_config *config;
	int code;

	mc_hold_std_fds();
	msc_options_init(&options);
	if (mc_config_new(&config, &err) < 0) {
		fprintf(stderr, "mooncake_store: %s\n", err.text);
		return MSC_EXIT_FAILED;
	}
	for (int i = 1; i < argc; i++) /* how a mistake before it is told */
		options.json |= strcmp(argv[i], "--json") == 0;
	if (msc_options_parse(&options, argc, argv, config, &err) < 0 && !options.help)
		code = mc_tell_error("mooncake_store", options.json, err.text, MSC_EXIT_USAGE);
	else
		code = run(&options, config);
	mc_config_free(config);
	/* A full disk must not look like an answer. */
	errno = 0;
	if (fflush(stdout) != 0 || ferror(stdout)) {
		fprintf(stderr, "mooncake_store: stdout: %s\n", errno ? strerror(errno) : "not all of the answer could be written");
		return MSC_EXIT_FAILED;
	}
	return code;
}
