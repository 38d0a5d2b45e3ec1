/* SPDX-License-Identifier: Apache-2.0 */
/* From options to an engine with a store on it, and back. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cli/program/join.h>
#include <cli/program/stop.h>
#include <cli/program/tell.h>
#include <cli/program/text.h>
#include <core/util/check.h>

#include "program.h"

#define MASTER_WAIT_NS (5 * MC_SEC)
#define MASTER_LOOK_NS (100 * MC_MSEC)

static void on_store_log(void *arg, enum mc_log_level level, const char *line)
{
	if (level <= MC_LOG_WARN)
		mc_tell("%s: %s", level == MC_LOG_ERROR ? "error" : "warning", line);
}

/* Programs are started in any order, and a master that ended may be about to come back.  Who lends waits as long as a
 * call may take: it has nothing else to do. */
static int store_open(struct msc_session *s, const struct msc_options *o, const struct mc_store_options *options, struct mc_error *err)
{
	uint64_t timeout = msc_timeout(o), wait = o->verb == MSC_SERVE ? timeout : MC_MIN(timeout, MASTER_WAIT_NS), end = msc_now_ns() + wait;
	bool told = false;
	int r;

	while ((r = mc_store_open(s->engine, options, timeout, &s->store, err)) == -ENOENT && msc_now_ns() < end && !mc_stopping()) {
		if (!told && o->verb == MSC_SERVE)
			mc_tell("no master '%s' yet: waiting up to %.0f s", o->master, o->timeout);
		told = true;
		mc_stop_wait(MASTER_LOOK_NS);
	}
	return r;
}

int msc_session_open(struct msc_session *s, const struct msc_options *o, struct mc_config *config, bool aside,
		     struct mc_error *err)
{
	struct mc_store_options options = {
		.size = sizeof options,
		.master = o->master,
		.tenant = *o->tenant ? o->tenant : NULL,
		.checksum = o->checksum,
		.log = on_store_log,
	};
	int r;

	*s = (struct msc_session){0};
	r = mc_join_configure(config, o->device_name, aside, err);
	s->usage = r < 0;
	if (r == 0)
		r = mc_join_open(config, MSC_OPEN_NS, &s->engine, &s->usage, err);
	if (r < 0)
		return r;
	r = store_open(s, o, &options, err);
	s->usage = r == -EINVAL;
	return r;
}

void msc_session_close(struct msc_session *s)
{
	mc_store_close(s->store, MSC_CLOSE_NS);
	mc_engine_close(s->engine, MSC_CLOSE_NS);
	*s = (struct msc_session){0};
}

uint64_t msc_timeout(const struct msc_options *o)
{
	return (uint64_t)(o->timeout * 1e9);
}

uint64_t msc_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * MC_SEC + (uint64_t)ts.tv_nsec;
}

int msc_fail(const struct msc_options *o, const struct msc_session *s, const struct mc_error *err)
{
	return mc_tell_error("mooncake_store", o->json, err->text, s->usage ? MSC_EXIT_USAGE : MSC_EXIT_FAILED);
}

void msc_print_key(const void *key, size_t len, bool json)
{
	char text[MC_STORE_KEY_MAX + 1];

	if (json && !mc_text_plain(key, len)) {
		fputs("\"key_hex\": \"", stdout);
		for (size_t i = 0; i < len; i++)
			printf("%02x", ((const unsigned char *)key)[i]);
		putchar('"');
		return;
	}
	len = len > MC_STORE_KEY_MAX ? MC_STORE_KEY_MAX : len;
	for (size_t i = 0; i < len; i++)
		text[i] = ((const char *)key)[i] ? ((const char *)key)[i] : '?';
	text[len] = '\0';
	if (json) {
		fputs("\"key\": ", stdout);
		mc_text_json(stdout, text);
	} else {
		mc_text_tame(stdout, text);
	}
}
