/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A plain main for a fuzzer: runs it once over every file and folder that is named,
 * so that seeds and past crashes are part of each test run.  -n N adds N mutations
 * of each file, drawn from a fixed seed.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/util/cleanup.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define INPUT_MAX (1u << 20)

static uint64_t draw(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

static void mutate(uint8_t *data, size_t *size, uint64_t *seed)
{
	for (uint64_t n = draw(seed) % 4 + 1; n && *size; n--) {
		size_t at = draw(seed) % *size;

		switch (draw(seed) % 4) {
		case 0:
			data[at] ^= (uint8_t)(1u << draw(seed) % 8);
			break;
		case 1:
			data[at] = (uint8_t)draw(seed);
			break;
		case 2:
			*size = at;
			break;
		default:
			memmove(data + at, data + at / 2, *size - at);
			break;
		}
	}
}

static int run_file(const char *path, unsigned mutations)
{
	mc_cleanup(mc_fclosep) FILE *f = fopen(path, "rbe");
	mc_cleanup(mc_freep) uint8_t *data = malloc(INPUT_MAX), *copy = malloc(INPUT_MAX);
	uint64_t seed = UINT64_C(0x9e3779b97f4a7c15);
	size_t size;

	if (!f || !data || !copy) {
		perror(path);
		return 1;
	}
	size = fread(data, 1, INPUT_MAX, f);
	LLVMFuzzerTestOneInput(data, size);
	while (mutations--) {
		size_t n = size;

		memcpy(copy, data, size);
		mutate(copy, &n, &seed);
		LLVMFuzzerTestOneInput(copy, n);
	}
	return 0;
}

static int run_path(const char *path, unsigned mutations, unsigned *nr)
{
	DIR *dir = opendir(path);
	struct dirent *e;
	int failed = 0;

	if (!dir) {
		(*nr)++;
		return run_file(path, mutations);
	}
	while ((e = readdir(dir))) {
		char file[4096];

		if (e->d_name[0] == '.')
			continue;
		snprintf(file, sizeof file, "%s/%s", path, e->d_name);
		failed |= run_path(file, mutations, nr);
	}
	closedir(dir);
	return failed;
}

int main(int argc, char **argv)
{
	unsigned mutations = 0, nr = 0;
	int failed = 0, c;

	while ((c = getopt(argc, argv, "n:")) != -1) {
		if (c != 'n') {
			fprintf(stderr, "usage: %s [-n MUTATIONS] FILE|FOLDER...\n", argv[0]);
			return 2;
		}
		mutations = (unsigned)strtoul(optarg, NULL, 10);
	}
	for (int i = optind; i < argc; i++)
		failed |= run_path(argv[i], mutations, &nr);
	printf("%u inputs, %u mutations each\n", nr, mutations);
	return failed || !nr;
}
