/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Faults and figures of the mock verbs library for shell scripts, with their MOCK_VERBS and MOCK_VERBS_DIR:
 *
 *   mock-verbs DEVICE FAULT VALUE   set a fault (see mock-verbs.h)
 *   mock-verbs DEVICE STAT          print a figure
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mock-verbs.h"

int main(int argc, char **argv)
{
	int64_t n;

	if (argc < 3 || argc > 4) {
		fputs("usage: mock-verbs DEVICE FAULT VALUE | mock-verbs DEVICE STAT\n", stderr);
		return 2;
	}
	n = argc == 4 ? mock_verbs_fault(argv[1], argv[2], strtoll(argv[3], NULL, 0)) :
			mock_verbs_stat(argv[1], argv[2]);
	if (n < 0) {
		fprintf(stderr, "mock-verbs: %s %s: %s\n", argv[1], argv[2], strerror((int)-n));
		return 1;
	}
	if (argc == 3)
		printf("%" PRId64 "\n", n);
	return 0;
}
