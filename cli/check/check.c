/* SPDX-License-Identifier: Apache-2.0 */
/* check-plugin: the conformance kit for plugins.  docs/plugin-abi.md section 11 is its page. */
#include "check.h"
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void list(void)
{
	for (int level = LOADS; level < NR_LEVELS; level++) {
		for (const struct case_list *l = case_lists; l->cases; l++)
			for (const struct test_case *t = l->cases; t->run; t++)
				if (t->level == (enum level)level)
					printf("%-8s  %-16s  section %d  %s\n", level_names[level],
					       t->name, t->section, l->kind ? kind_names[l->kind] : "every plugin");
		if (level == PERFORMS)
			printf("%-8s  %-16s  section 4  transport\n", level_names[level], "bench");
	}
}

/* dlopen looks for a bare name where libraries lie; a path with a slash is the file itself. */
static const char *as_path(const char *file, char *buf, size_t cap)
{
	if (strchr(file, '/'))
		return file;
	snprintf(buf, cap, "./%s", file);
	return buf;
}

int cli_check_plugin(int argc, char **argv)
{
	static struct check k;
	char path[512];
	int r = check_args(&k, argc, argv), wrote;

	if (r >= 0)
		return r;
	if (k.list) {
		list();
		return 0;
	}
	k.c.path = as_path(k.c.path, path, sizeof path);
	if (access(k.c.path, R_OK) < 0) {
		fprintf(stderr, "mooncake check-plugin: '%s': %m\n", k.c.path);
		return 2;
	}
	r = check_run(&k);
	wrote = report_files(&k);
	return wrote ? wrote : r;
}
