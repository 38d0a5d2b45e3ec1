/* SPDX-License-Identifier: Apache-2.0 */
/* The command line of mooncake_p2p: a verb, its flags in one table, every config key beside them. */
#ifndef MC_P2P_CLI_FLAGS_H
#define MC_P2P_CLI_FLAGS_H

#include <mooncake/mooncake.h>

enum p2pc_verb {
	P2PC_NO_VERB,
	P2PC_SERVE,
	P2PC_GET,
	P2PC_LS,
	P2PC_RM,
	P2PC_STAT,
	P2PC_TRAINER, /* --cmd=trainer */
	P2PC_INFERENCER,
	P2PC_VERB_COUNT
};

enum { P2PC_EXIT_OK = 0, P2PC_EXIT_FAILED = 1, P2PC_EXIT_USAGE = 2 };

struct p2pc_options {
	enum p2pc_verb verb;
	bool has_verb;
	char **args; /* what is no flag, without the verb; point into argv */
	size_t nr_args;
	const char *output; /* "": by the object's name */
	const char *name;   /* "": by the file's */
	const char *rack;
	const char *ready_file;
	const char *device_name, *cmd, *config;
	uint64_t shard_size;
	uint64_t max_rate;        /* bytes per second; 0: no bound */
	uint64_t max_serve, threads; /* 0: the library's defaults */
	uint64_t file_size_mb;
	double duration; /* seconds; 0: for ever; < 0: was not given */
	double wait;     /* for an object that is not there yet */
	double timeout;  /* of a get; 0: none */
	double patience; /* 0: the library's default */
	bool force, serve, sync, json, help, helpfull, version;
	uint64_t set; /* bit i: flag i of the table was given */
};

void p2pc_options_init(struct p2pc_options *o);
/* Read the arguments: config files, then the MC_* environment, then flags, so that the later wins wherever
 * --config stands.  Strings point into argv, whose words without dashes move to the front.
 *   returns   0; below: err says which argument, and what it may be */
int p2pc_options_parse(struct p2pc_options *o, int argc, char **argv, struct mc_config *config, struct mc_error *err);
/* Do they make sense together?  Not for --help and --version. */
int p2pc_options_check(const struct p2pc_options *o, struct mc_error *err);

void p2pc_help(FILE *f);
void p2pc_help_full(FILE *f, const struct mc_config *config);

#endif
