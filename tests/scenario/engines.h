/* SPDX-License-Identifier: Apache-2.0 */
/* Engines of one process on file metadata, for scenarios that see the public headers only. */
#ifndef MC_TESTS_ENGINES_H
#define MC_TESTS_ENGINES_H

#include <mooncake/mooncake.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* How long anything may take. */
#ifndef T
#define T (10 * MC_SEC)
#endif

static int failures;
static char dir[] = "/tmp/mc-engine-XXXXXX";

#define CHECK(cond, ...)                                                                           \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			failures++;                                                                \
			printf("FAIL %s:%d: %s: ", __FILE__, __LINE__, #cond);                     \
			printf(__VA_ARGS__);                                                       \
			printf("\n");                                                              \
		}                                                                                  \
	} while (0)

static inline struct mc_config *config_new(const char *name, const char *matrix)
{
	struct mc_config *c = NULL;
	struct mc_error err = {0};
	char url[64];

	snprintf(url, sizeof url, "file://%s", dir);
	if (mc_config_new(&c, &err) < 0 || mc_config_set(c, "metadata_server", url, &err) < 0 ||
	    mc_config_set(c, "local_server_name", name, &err) < 0 ||
	    mc_config_set(c, "port", "0", &err) < 0 ||
	    mc_config_set(c, "advertise_address", "127.0.0.1", &err) < 0 ||
	    mc_config_set(c, "nic_priority_matrix", matrix, &err) < 0) {
		printf("FAIL config: %s\n", err.text);
		exit(1);
	}
	return c;
}

static inline struct mc_engine *engine_new(const char *name, const char *matrix)
{
	struct mc_config *c = config_new(name, matrix);
	struct mc_engine *e = NULL;
	struct mc_error err = {0};
	int r = mc_engine_open(c, T, &e, &err);

	CHECK(r == 0, "%s: %d %s", name, r, err.text);
	mc_config_free(c);
	if (r < 0)
		exit(1);
	return e;
}

/* Make the folder of the metadata; the end of the test removes it. */
static inline void engines_begin(void)
{
	setvbuf(stdout, NULL, _IONBF, 0);
	if (!mkdtemp(dir))
		exit(1);
	mc_log_set_level(MC_LOG_ERROR);
}

static inline int engines_end(void)
{
	char cmd[64];

	snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
	if (system(cmd) != 0)
		failures++;
	printf(failures ? "%d failed\n" : "ok\n", failures);
	return failures ? 1 : 0;
}

#endif
