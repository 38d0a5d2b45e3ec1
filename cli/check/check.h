/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check-plugin, the conformance kit: what the run, the command line and the report
 * share.  The cases see cases.h.
 */
#ifndef MC_CHECK_CHECK_H
#define MC_CHECK_CHECK_H

#include "cases.h"

struct result {
	const struct test_case *test;
	int outcome; /* PASS, FAIL, SKIP */
	char why[WHY_MAX];
	int section; /* FAIL: of docs/plugin-abi.md */
	double seconds;
};

/* One plugin of the bench's table. */
struct bench_row {
	char name[64];
	bool there; /* false: why says why not */
	char why[WHY_MAX];
	double mbps[BENCH_POINTS], us[BENCH_POINTS];
};

#define RESULTS_MAX 128
#define ROWS_MAX 3
struct check {
	struct ctx c;
	/* Asked for. */
	const char *only; /* one case */
	enum level last;
	unsigned seconds; /* of one case */
	bool strict, list, json;
	const char *json_file, *junit_file;
	const char *over, *over_words[32]; /* filters: the transport below, and its options */
	size_t nr_over_words;
	/* Found. */
	bool shut;     /* it cannot be opened */
	uint32_t kind; /* enum mc_kind; 0: it could not be loaded */
	char name[64], version[64], device[MC_DEVICE_NAME_MAX + 1];
	struct result results[RESULTS_MAX];
	unsigned nr_results, counts[3]; /* passed, failed, skipped */
	struct bench_row rows[ROWS_MAX];
	unsigned nr_rows;
};

/* args.c: -1: go on; else an exit code. */
int check_args(struct check *k, int argc, char **argv);
/* run.c: every case up to the level, each in a process of its own. */
int check_run(struct check *k);
extern const char *const level_names[NR_LEVELS];
/* Cases of one kind of plugin; 0: of every kind.  The last has cases NULL. */
struct case_list {
	enum mc_kind kind;
	const struct test_case *cases;
};
extern const struct case_list case_lists[];
extern const char *const kind_names[MC_KIND_COUNT]; /* "transport" ...; "plugin" for 0 */

/* report.c */
void report_head(const struct check *k);
void report_result(const struct check *k, const struct result *r);
void report_end(const struct check *k);
int report_files(const struct check *k); /* JSON and JUnit, where asked for; an exit code */

#endif
