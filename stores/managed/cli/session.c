/* SPDX-License-Identifier: Apache-2.0 */
/* From options to an engine with a store on it, and back. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cli/program/join.h>
#include <cli/program/tell.h>
#include <cli/program/text.h>

#include "program.h"

static void on_store_log(void *arg, enum mc_log_level level, const char *line)
{
	if (level <= MC_LOG_WARN)
		mc_tell("%s: %s", level == MC_LOG_ERROR ? "error" : "warning", line);
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
	r = mc_store_open(s->engine, &options, msc_timeout(o), &s->store, err);
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

	len = len > MC_STORE_KEY_MAX ? MC_STORE_KEY_MAX : len;
	for (size_t i = 0; i < len; i++)
		text[i] = ((const char *)key)[i] ? ((const char *)key)[i] : '?';
	text[len] = '\0';
	if (json)
		mc_text_json(stdout, text);
	else
		mc_text_tame(stdout, text);
}
