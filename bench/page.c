/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mooncake_page RESULT.json > page.html: the page of bench/run-all, from its JSON.
 * bench/run-all runs it; by itself it makes the page of a file that came from
 * elsewhere.
 */
#include <errno.h>
#include <string.h>

#include "suite.h"

int main(int argc, char **argv)
{
	static struct suite suite;
	char error[1024];
	int r;

	if (argc != 2 || strcmp(argv[1], "--help") == 0) {
		fprintf(argc == 2 ? stdout : stderr, "usage: mooncake_page RESULT.json > page.html\n"
			"  RESULT.json: what bench/run-all wrote.  Exit: 0 written, 1 not, 2 usage.\n");
		return argc == 2 ? 0 : 2;
	}
	r = suite_read(argv[1], &suite, error, sizeof error);
	if (r < 0)
		fprintf(stderr, "%s\n", error);
	else if (suite_page(stdout, &suite) < 0 || fflush(stdout) != 0) {
		fprintf(stderr, "standard output: %s\n", strerror(errno));
		r = -1;
	}
	suite_fini(&suite);
	return r < 0 ? 1 : 0;
}
