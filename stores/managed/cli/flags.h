/* SPDX-License-Identifier: Apache-2.0 */
/* The command line of mooncake_store: a verb, its flags in one table, every config key beside them. */
#ifndef MC_STORE_CLI_FLAGS_H
#define MC_STORE_CLI_FLAGS_H

#include <mooncake/mooncake.h>

enum msc_verb {
	MSC_NO_VERB,
	MSC_SERVE,
	MSC_PUT,
	MSC_GET,
	MSC_RM,
	MSC_LS,
	MSC_STAT,
	MSC_BENCH,
};

enum { MSC_EXIT_OK = 0, MSC_EXIT_FAILED = 1, MSC_EXIT_USAGE = 2 };

struct msc_options {
	enum msc_verb verb;
	bool has_verb;
	char **args; /* what is no flag, without the verb; point into argv */
	size_t nr_args;
	const char *master, *tenant;
	const char *size, *location; /* serve: lists, "4G,8G"; bench: one size */
	const char *output;
	const char *preferred;
	const char *prefix, *regex;
	const char *ready_file;
	const char *device_name, *config;
	const char *op, *trace, *svg, *capacities, *master_program;
	uint64_t offset, len;
	uint64_t replicas, batch, jobs, keys, block, seed;
	double duration; /* seconds; < 0: was not given */
	double timeout;
	bool all, force, replace, soft_pin, hard_pin, checksum, check, populate;
	bool json, help, helpfull, version;
	uint64_t set; /* bit i: flag i of the table was given */
};

void msc_options_init(struct msc_options *o);
/* Read the arguments: config files, then the MC_* environment, then flags.  Strings point into argv, whose words
 * without dashes move to the front.
 *   returns   0; below: err says which argument, and what it may be */
int msc_options_parse(struct msc_options *o, int argc, char **argv, struct mc_config *config, struct mc_error *err);
/* Do they make sense together?  Not for --help and --version. */
int msc_options_check(const struct msc_options *o, struct mc_error *err);

void msc_help(FILE *f);
void msc_help_full(FILE *f, const struct mc_config *config);

/* The nth of a list with commas, or the only one of it.  0; -EINVAL: it is too long or not there. */
int msc_list_item(const char *list, size_t idx, char *buf, size_t cap);
size_t msc_list_len(const char *list);

#endif
