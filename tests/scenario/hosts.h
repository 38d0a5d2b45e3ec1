/* SPDX-License-Identifier: Apache-2.0 */
/* Scenarios of two hosts (tests/lab/two-hosts): what they say to each other by files, and to who runs them. */
#ifndef MC_TESTS_HOSTS_H
#define MC_TESTS_HOSTS_H

#include "patient.h"

#define HOSTS_PATIENCE (120 * MC_SEC) /* machines that are emulated, side by side */

/* The folder LAB_SHARE. */
static const char *share;

static inline bool shared(const char *name)
{
	char path[200];

	snprintf(path, sizeof path, "%s/%s", share, name);
	return access(path, F_OK) == 0;
}

static inline void shared_write(const char *name, const char *text)
{
	char path[200], fresh[208];
	FILE *f;

	snprintf(path, sizeof path, "%s/%s", share, name);
	snprintf(fresh, sizeof fresh, "%s.new", path);
	f = fopen(fresh, "we");
	NEED(f && fputs(text, f) >= 0 && fclose(f) == 0 && rename(fresh, path) == 0, "%s: %s", path, strerror(errno));
}

/* What tests/lab/two-hosts shall do; it is done when this returns. */
static inline void wish(const char *what)
{
	uint64_t end = now_ns() + HOSTS_PATIENCE;

	shared_write("wish", what);
	while (shared("wish")) {
		NEED(now_ns() < end, "'%s' is not granted", what);
		nap(5 * MC_MSEC);
	}
}

#endif
