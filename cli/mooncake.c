/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mooncake: one program that answers questions about plugins, configuration and
 * cluster.  The table below has its verbs; each is a file of its own.
 */
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "core/util/check.h"
#include "core/util/std-fds.h"

struct verb {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *doc; /* one line of help */
};

static const struct verb verbs[] = {
	{"plugins", cli_plugins, "which plugins are there, which are refused, and why"},
	{"inspect", cli_inspect, "what a plugin's shared object says of itself, and its manifest"},
	{"check-plugin", cli_check_plugin, "does a plugin keep the contract: the conformance kit"},
	{"lint", cli_lint, "is a configuration right, and right for this host"},
	{"segments", cli_segments, "the engines of the cluster, by their records"},
	{"topology", cli_topology, "this host as the core sees it, and its matrix; --svg draws it"},
	{"explain", cli_explain, "which rails a transfer would take, and why not the others"},
#ifdef MC_WITH_CXL
	{"cxl", cli_cxl, "make a pool of a CXL device or a file, and what is in one"},
#endif
};

static int help(void)
{
	puts("Ask Mooncake about plugins, configuration and cluster.\n"
	     "  mooncake VERB [ARGUMENT...] [--FLAG...]\n"
	     "Verbs:");
	for (size_t i = 0; i < MC_ARRAY_SIZE(verbs); i++)
		printf("  %-14s %s\n", verbs[i].name, verbs[i].doc);
	puts("Example:\n"
	     "  mooncake lint --nic_priority_matrix='{\"*\": [[\"tcp:eth0\"]]}'\n"
	     "mooncake VERB --help says more; --json gives one object on stdout.  Verbs that\n"
	     "ask about a configuration read it as programs do: --config=FILE, MC_* variables,\n"
	     "--KEY=VALUE.\n"
	     "Exit: 0 all well, 1 failed or something wrong was found, 2 usage.");
	return CLI_OK;
}

static int unknown_verb(const char *name)
{
	const char *words[MC_ARRAY_SIZE(verbs) + 1] = {NULL}, *near;

	for (size_t i = 0; i < MC_ARRAY_SIZE(verbs); i++)
		words[i] = verbs[i].name;
	near = mc_closest(name, words);
	fprintf(stderr, "mooncake: there is no verb '%s'%s%s%s\n", name, near ? " (did you mean '" : "",
		near ? near : "", near ? "'?)" : "; mooncake --help lists them");
	return CLI_USAGE;
}

static int run(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : NULL;
	char *ask[] = {(char *)"mooncake", argc > 2 ? argv[2] : NULL, (char *)"--help", NULL};

	if (!name) {
		fputs("mooncake: a verb is missing; mooncake --help lists them\n", stderr);
		return CLI_USAGE;
	}
	if (strcmp(name, CLI_TRIAL) == 0 && argc == 3)
		return cli_trial_child(argv[2]);
	if (strcmp(name, "--version") == 0) {
		printf("mooncake %s\n", mc_version());
		return CLI_OK;
	}
	if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || (strcmp(name, "help") == 0 && argc == 2))
		return help();
	if (strcmp(name, "help") == 0) {
		name = ask[1];
		argc = 3;
		argv = ask;
	}
	for (size_t i = 0; i < MC_ARRAY_SIZE(verbs); i++) {
		if (strcmp(verbs[i].name, name) != 0)
			continue;
		if (verbs[i].run != cli_check_plugin) /* its cases are children, and judge the loading itself */
			cli_try_plugins();
		return verbs[i].run(argc - 1, argv + 1);
	}
	return unknown_verb(name);
}

int main(int argc, char **argv)
{
	int code;

	mc_hold_std_fds();
	mc_log_set_level(MC_LOG_WARN);
	code = run(argc, argv);
	/* A full disk must not look like an answer. */
	if (fflush(stdout) != 0 || ferror(stdout)) {
		perror("mooncake: stdout");
		return CLI_FAILED;
	}
	return code;
}
