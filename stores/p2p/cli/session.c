/* SPDX-License-Identifier: Apache-2.0 */
/* From options to an engine with a store on it, and back. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <cli/program/join.h>
#include <cli/program/tell.h>

#include "program.h"

/* ---- opening and closing ---------------------------------------------------------------------- */

/* The store has found out by itself that an object is not its own to offer any more. */
static bool is_given_up(const char *line)
{
	static const char end[] = "; it is not offered any more";
	size_t n = strlen(line);

	return n >= sizeof end && strcmp(line + n - (sizeof end - 1), end) == 0;
}

/* From any thread of the store. */
static void store_log(void *arg, enum mc_log_level level, const char *line)
{
	struct p2pc_session *s = arg;
	const struct p2pc_map *filling = s->filling;
	struct mc_error cut;

	if (filling && p2pc_map_whole(filling, &cut) < 0)
		return; /* no source is to blame; the get ends with that */
	if (level <= MC_LOG_WARN)
		mc_tell("%s: %s", level == MC_LOG_ERROR ? "error" : "warning", line);
	if (strstr(line, "': removed by ") || is_given_up(line)) {
		char **more, *copy = strdup(line);

		pthread_mutex_lock(&s->lock);
		more = copy ? reallocarray(s->removed, s->nr_removed + 1, sizeof *more) : NULL;
		if (more) {
			s->removed = more;
			more[s->nr_removed++] = copy;
		} else {
			free(copy);
		}
		pthread_mutex_unlock(&s->lock);
	}
}

bool p2pc_session_removed(struct p2pc_session *s, const char *name, int *code)
{
	static const char by[] = "removed by ", other[] = "another object ";
	char want[MC_P2P_NAME_MAX + 32];
	size_t n = (size_t)snprintf(want, sizeof want, "object '%s': ", name);
	bool found = false;

	pthread_mutex_lock(&s->lock);
	for (size_t i = 0; i < s->nr_removed && !found; i++) {
		const char *what = s->removed[i] + n;

		if (strncmp(s->removed[i], want, n) != 0)
			continue;
		found = strncmp(what, by, sizeof by - 1) == 0;
		if (found)
			mc_tell("mooncake_p2p: '%s' was removed by '%s'; it is served no more", name, what + sizeof by - 1);
		else
			found = is_given_up(what); /* and told */
		if (found && strncmp(what, other, sizeof other - 1) == 0)
			*code = P2PC_EXIT_FAILED;
	}
	pthread_mutex_unlock(&s->lock);
	return found;
}

int p2pc_session_open(struct p2pc_session *s, const struct p2pc_options *o, struct mc_config *config, bool aside,
		      struct mc_error *err)
{
	struct mc_p2p_options options = {
		.size = sizeof options,
		.rack = *o->rack ? o->rack : NULL,
		.max_serve = (uint32_t)o->max_serve,
		.lanes = (uint32_t)o->threads,
		.max_rate_serve = o->max_rate,
		.max_rate_get = o->max_rate,
		.patience_ns = p2pc_patience(o),
		.log = store_log,
		.log_arg = s,
	};
	int r;

	*s = (struct p2pc_session){.lock = PTHREAD_MUTEX_INITIALIZER};
	r = mc_join_configure(config, o->device_name, aside, err);
	s->usage = r < 0;
	if (r == 0)
		r = mc_join_open(config, P2PC_OPEN_NS, &s->engine, &s->usage, err);
	if (r < 0)
		return r;
	r = mc_p2p_open(s->engine, &options, &s->store, err);
	s->usage = r == -EINVAL;
	return r;
}

void p2pc_session_close(struct p2pc_session *s)
{
	mc_p2p_close(s->store, P2PC_CLOSE_NS);
	mc_engine_close(s->engine, P2PC_CLOSE_NS);
	for (size_t i = 0; i < s->nr_removed; i++)
		free(s->removed[i]);
	free(s->removed);
	*s = (struct p2pc_session){0};
}

static int hold(struct p2pc_session *s, const struct p2pc_map *map, struct mc_error *err)
{
	return mc_memory_register(s->engine, map->base, map->used, "*", MC_ACCESS_REMOTE_READ, P2PC_MEMORY_NS, err);
}

/* Not every kernel lets a device have pages of a file: before Linux 6.2 none that are mapped to be read only, since
 * 6.5 none that the device writes, but those of tmpfs. */
int p2pc_session_hold(struct p2pc_session *s, struct p2pc_map *map, struct mc_error *err)
{
	struct mc_error why = {0};
	int r = hold(s, map, &why), e;

	if (r != -EFAULT)
		return r < 0 ? mc_fail(err, r, "%s", why.text) : r;
	e = p2pc_map_detach(map, err);
	if (e < 0)
		return e;
	if (map->write)
		mc_tell("warning: what comes is kept in memory until all is there, and written to the disk then (%s)", why.text);
	return hold(s, map, err);
}

void p2pc_session_release(struct p2pc_session *s, const struct p2pc_map *map)
{
	mc_memory_unregister(s->engine, map->base, P2PC_CLOSE_NS, NULL);
}

uint64_t p2pc_timeout(const struct p2pc_options *o, uint64_t fallback_ns)
{
	return o->timeout > 0 ? (uint64_t)(o->timeout * 1e9) : fallback_ns;
}

uint64_t p2pc_patience(const struct p2pc_options *o)
{
	return o->patience > 0 ? (uint64_t)(o->patience * 1e9) : MC_P2P_PATIENCE_NS;
}

/* ---- telling ---------------------------------------------------------------------------------- */

int p2pc_tell_error(const struct p2pc_options *o, const char *sentence, int code)
{
	return mc_tell_error("mooncake_p2p", o->json, sentence, code);
}
