/* SPDX-License-Identifier: Apache-2.0 */
/* Scenarios about time and trouble: what cannot go on without, clocks, engines with settings of their own. */
#ifndef MC_TESTS_PATIENT_H
#define MC_TESTS_PATIENT_H

#include "engines.h"

#include <time.h>

/* Bounds of time are for builds that are not instrumented. */
#ifndef SLOW
#define SLOW 1
#endif

#define NEED(cond, ...)                                                                            \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			printf("FAIL %s:%d: %s: ", __FILE__, __LINE__, #cond);                     \
			printf(__VA_ARGS__);                                                       \
			printf("\n");                                                              \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static inline uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * MC_SEC + (uint64_t)t.tv_nsec;
}

static inline void nap(uint64_t ns)
{
	struct timespec t = {.tv_sec = (time_t)(ns / MC_SEC), .tv_nsec = (long)(ns % MC_SEC)};

	nanosleep(&t, NULL);
}

/* An engine with further settings, "key=value" words ended by NULL.  MATRIX says what it uses, tcp:lo unless
 * told: what a scenario shows of one transport is shown of others so. */
static inline struct mc_engine *engine_with(const char *name, const char *const *settings)
{
	const char *matrix = getenv("MATRIX");
	struct mc_config *c = config_new(name, matrix ? matrix : "{\"*\": [[\"tcp:lo\"]]}");
	struct mc_engine *e = NULL;
	struct mc_error err = {0};
	char key[128];
	int r;

	for (; *settings; settings++) {
		const char *eq = strchr(*settings, '=');

		snprintf(key, sizeof key, "%.*s", (int)(eq - *settings), *settings);
		NEED(mc_config_set(c, key, eq + 1, &err) == 0, "%s: %s", *settings, err.text);
	}
	r = mc_engine_open(c, T, &e, &err);
	mc_config_free(c);
	NEED(r == 0, "%s: %d %s", name, r, err.text);
	return e;
}

#endif
