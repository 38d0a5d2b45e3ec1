/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line of a program: flags of its own, and every key of the config as a
 * flag too.  --NAME=VALUE or --NAME VALUE; one dash or two; '-' in a name is '_';
 * a boolean needs no value, and --noNAME is its opposite; --set KEY=VALUE; --config
 * files are loaded first, then the environment, then what stands on the line.
 */
#ifndef MC_PROGRAM_ARGS_H
#define MC_PROGRAM_ARGS_H

#include <stdio.h>

#include <mooncake/mooncake.h>

/* A program's own flags, by their place in its table. */
struct mc_args {
	void *ctx;
	struct mc_config *config;
	const char *example; /* of a flag, for who writes none: "--mode=target" */
	size_t nr_flags;
	const char *(*name)(size_t flag);
	/* Another name of a flag, such as "h"; NULL: none.  May be NULL. */
	const char *(*alias)(const char *name);
	/* What it is given when no value stands there: "true" makes it a boolean; NULL: it needs one. */
	const char *(*bare)(size_t flag);
	/* value is borrowed from argv */
	int (*apply)(void *ctx, size_t flag, const char *value, struct mc_error *err);
	/* What is no flag, or stands behind "--".  NULL: refused. */
	int (*word)(void *ctx, char *word, struct mc_error *err);
};

/* returns   0; -EINVAL: err says which argument, and what was meant perhaps; what loading a file gave */
int mc_args_parse(const struct mc_args *args, int argc, char **argv, struct mc_error *err);

/* The value of a boolean flag: true, false, 1, 0, yes, no, on, off.  0; -EINVAL. */
int mc_args_bool(const char *flag, const char *text, bool *ret, struct mc_error *err);
/* A count (digits alone) or a size ("64K"), from min to max.  0; -EINVAL. */
int mc_args_number(const char *flag, const char *text, bool is_count, uint64_t min, uint64_t max, uint64_t *ret,
		   struct mc_error *err);
/* A time of at most a year, in seconds: "2.5", "500ms", "2h".  0; -EINVAL. */
int mc_args_seconds(const char *flag, const char *text, double *ret, struct mc_error *err);

/* Which of nr verbs the word is.  0; -EINVAL: err names the closest, or says `all`. */
int mc_args_verb(const char *word, const char *(*name)(size_t idx), size_t nr, const char *all, size_t *ret_idx,
		 struct mc_error *err);

/* For --helpfull: each key of the config, with what it is now. */
void mc_args_help_keys(FILE *f, const struct mc_config *config);

#endif
