/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mooncake_p2p: files and folders to many hosts, over the P2P store.  A verb is a function of a
 * file of its own; here is what all of them begin and end with.
 */
#include <errno.h>
#include <string.h>

#include <cli/program/tell.h>
#include <core/util/std-fds.h>

#include "map.h"
#include "program.h"
#include "stop.h"

static int run_verb(const struct p2pc_options *o, struct mc_config *config)
{
	if (*o->cmd)
		return *o->cmd == 't' ? p2pc_trainer(o, config) : p2pc_inferencer(o, config);
	switch (o->verb) {
	case P2PC_SERVE:
		return p2pc_serve(o, config);
	case P2PC_GET:
		return p2pc_get(o, config);
	case P2PC_LS:
		return p2pc_ls(o, config);
	case P2PC_RM:
		return p2pc_rm(o, config);
	default:
		return p2pc_stat(o, config);
	}
}

static int run(const struct p2pc_options *o, struct mc_config *config)
{
	struct mc_error err = {0};
	int code;

	if (o->version) {
		printf("mooncake_p2p %s\n", mc_version());
		return P2PC_EXIT_OK;
	}
	if (o->help || o->helpfull) {
		if (o->helpfull)
			p2pc_help_full(stdout, config);
		else
			p2pc_help(stdout);
		return P2PC_EXIT_OK;
	}
	if (p2pc_options_check(o, &err) < 0)
		return p2pc_tell_error(o, err.text, P2PC_EXIT_USAGE);
	mc_tell_log_init();
	p2pc_map_guard();
	if (p2pc_stop_init(&err) < 0)
		return p2pc_tell_error(o, err.text, P2PC_EXIT_FAILED);
	code = run_verb(o, config);
	mc_stop_fini();
	return code;
}

int main(int argc, char **argv)
{
	struct mc_error err = {0};
	struct p2pc_options options;
	struct mc_config *config;
	int code;

	mc_hold_std_fds();
	p2pc_options_init(&options);
	if (mc_config_new(&config, &err) < 0) {
		fprintf(stderr, "mooncake_p2p: %s\n", err.text);
		return P2PC_EXIT_FAILED;
	}
	for (int i = 1; i < argc; i++) /* how a mistake before it is told */
		options.json |= strcmp(argv[i], "--json") == 0;
	if (p2pc_options_parse(&options, argc, argv, config, &err) < 0 && !options.help)
		code = p2pc_tell_error(&options, err.text, P2PC_EXIT_USAGE);
	else
		code = run(&options, config);
	mc_config_free(config);
	/* A full disk must not look like an answer. */
	errno = 0;
	if (fflush(stdout) != 0 || ferror(stdout)) {
		fprintf(stderr, "mooncake_p2p: stdout: %s\n", errno ? strerror(errno) : "not all of the answer could be written");
		return P2PC_EXIT_FAILED;
	}
	return code;
}
