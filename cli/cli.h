/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the verbs of `mooncake` share: options, the config that they are asked
 * about, tables for people and JSON for programs, errors and exit codes.
 *
 * A verb is a line in the table of mooncake.c and a file of its own; it reads
 * its arguments with cli_parse and returns an exit code.  What was asked for
 * goes to stdout, all else to stderr.
 */
#ifndef MC_CLI_H
#define MC_CLI_H

#include <mooncake/mooncake.h>

#include "core/json.h"

enum cli_exit {
	CLI_OK = 0,
	CLI_FAILED = 1, /* what was asked for failed, or something wrong was found */
	CLI_USAGE = 2,
};

/* The verbs; argv[0] is the verb's name. */
int cli_plugins(int argc, char **argv);
int cli_inspect(int argc, char **argv);
int cli_lint(int argc, char **argv);
int cli_check_plugin(int argc, char **argv); /* check/check.c */
int cli_segments(int argc, char **argv);
int cli_topology(int argc, char **argv);
int cli_explain(int argc, char **argv);
int cli_cxl(int argc, char **argv);

/* Why the build left out a plugin of this source tree; NULL: it did not. */
const char *cli_not_built(const char *kind, const char *name);

/* ---- the command line ----------------------------------------------------------------------- */

enum cli_type {
	CLI_FLAG,    /* bool: --json, --json=false */
	CLI_TEXT,    /* const char *, borrowed from argv */
	CLI_SIZE,    /* uint64_t, bytes: "64K", "1MiB" */
	CLI_SECONDS, /* uint64_t, nanoseconds: "5", "500ms" */
};

/* One option of a verb; tables end with name NULL.  In names dashes count as underscores. */
struct cli_option {
	const char *name;
	enum cli_type type;
	void *at;        /* where the value goes; holds the default before */
	const char *arg; /* what the help calls the value; NULL for a flag */
	const char *doc;
};

enum cli_config {
	CLI_NO_CONFIG,    /* config keys are no flags of this verb */
	CLI_CONFIG,       /* --config=FILE, MC_*, --KEY=VALUE make cli->config */
	CLI_CONFIG_LATER, /* the verb makes it: what was given is in files and keys */
};

struct cli_key {
	const char *key, *value; /* value NULL: none was given */
};

struct cli {
	/* What the verb says of itself. */
	const char *verb;  /* "inspect" */
	const char *args;  /* of its first line of help: "FILE.so" */
	const char *help;  /* what it does, with an example; lines that end with '\n' */
	const struct cli_option *options;
	enum cli_config with;
	int min_args, max_args; /* that are no flags; max -1: any number */

	/* What cli_parse found; cli_fini frees it. */
	int nr_args;
	char **argv;               /* nr_args of them */
	struct mc_config *config;  /* CLI_CONFIG */
	size_t nr_files, nr_keys;
	const char **files;        /* of --config, in order */
	struct cli_key *keys;
};

/* Read a verb's arguments.  -1: go on; else an exit code: help was printed, or an error.  In both
 * cases cli_fini follows. */
int cli_parse(struct cli *cli, int argc, char **argv);
void cli_fini(struct cli *cli);
/* Set what cli->keys say in a config.  -1: done; else an exit code, with the error told. */
int cli_apply_keys(const struct cli *cli, struct mc_config *config);

/* ---- telling ---------------------------------------------------------------------------------- */

/* "mooncake VERB: SENTENCE" on stderr; returns code. */
int cli_error(const struct cli *cli, int code, const char *fmt, ...) MC_PRINTF(3, 4);
/* A line on stdout.  It may quote strangers: like an error and the cells of a table it holds nothing that a
 * terminal obeys. */
void cli_line(const char *fmt, ...) MC_PRINTF(1, 2);
/* Makes a text so, in place. */
char *cli_tame(char *text);

/* While plugins are loaded: what their constructors print goes to stderr, not into the answer.  Takes
 * a descriptor; cli_stdout_back gives it back. */
int cli_stdout_away(void);
void cli_stdout_back(int held);

/* From here on a plugin is loaded in a child process first, so that one that crashes, hangs or exits when it
 * is loaded is refused with a sentence and not our end. */
void cli_try_plugins(void);
/* That child: this program, started with the first argument CLI_TRIAL and the file to load as the second. */
#define CLI_TRIAL "--load-to-see"
int cli_trial_child(const char *path);
/* What loading this file printed, as a sentence that begins with the file; NULL: nothing.  A borrowed string. */
const char *cli_plugin_said(const char *path);
/* Call each for every sentence of that kind. */
void cli_plugins_said(void (*each)(void *ctx, const char *sentence), void *ctx);

/* Members of a JSON object; NULL strings become null. */
void cli_json_str(struct mc_json_out *o, const char *key, const char *s);
void cli_json_int(struct mc_json_out *o, const char *key, int64_t i);
void cli_json_bool(struct mc_json_out *o, const char *key, bool b);
/* "key": [ or { ; close it by mc_json_out_close. */
void cli_json_open(struct mc_json_out *o, const char *key, char bracket);
/* Print the text and free it; an exit code: CLI_OK, or CLI_FAILED with an error told. */
int cli_json_print(const struct cli *cli, struct mc_json_out *o);

/* A table for people: cells are copied; columns are as wide as their widest cell, the last one as
 * wide as it likes.  A cell without text is "-". */
#define CLI_COLUMNS_MAX 8
struct cli_table {
	size_t nr_columns, nr_rows;
	char **cells;
};
void cli_table_row(struct cli_table *t, size_t nr_columns, const char *const *cells);
/* Print all rows (the first is the heading) and free them. */
void cli_table_print(struct cli_table *t);

#endif
