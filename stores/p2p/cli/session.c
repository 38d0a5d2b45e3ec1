/* SPDX-License-Identifier: Apache-2.0 */
/* From options to an engine with a store on it, and back. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "program.h"
#include "text.h"

/* ---- the config ------------------------------------------------------------------------------- */

static bool is_default(const struct mc_config *config, const char *key)
{
	enum mc_origin origin = MC_ORIGIN_DEFAULT;

	mc_config_get(config, key, &origin);
	return origin == MC_ORIGIN_DEFAULT || origin == MC_ORIGIN_MANIFEST;
}

/* --device_name=A,B: a matrix that gives these devices to every location. */
static int set_devices(const char *names, struct mc_config *config, struct mc_error *err)
{
	char matrix[4096];
	size_t n = (size_t)snprintf(matrix, sizeof matrix, "{\"*\": [[");
	enum mc_origin origin = MC_ORIGIN_DEFAULT;

	mc_config_get(config, "nic_priority_matrix", &origin);
	if (origin == MC_ORIGIN_FLAG)
		return mc_fail(err, -EINVAL, "flags --nic_priority_matrix and --device_name: both choose devices; leave one out");
	for (const char *p = names; *p;) {
		size_t len = strcspn(p, ",");

		if (strcspn(p, "\"\\") < len || !p2pc_text_plain(p, len) || n + len + 16 > sizeof matrix)
			return mc_fail(err, -EINVAL, "flag --device_name: '%.*s' is no device's name", (int)len, p);
		if (len)
			n += (size_t)snprintf(matrix + n, sizeof matrix - n, "%s\"%.*s\"", matrix[n - 1] == '[' ? "" : ", ", (int)len, p);
		p += len + (p[len] == ',');
	}
	if (matrix[n - 1] == '[')
		return mc_fail(err, -EINVAL, "flag --device_name: '%s' names no device", names);
	snprintf(matrix + n, sizeof matrix - n, "]]}");
	return mc_config_set(config, "nic_priority_matrix", matrix, err);
}

static int configure(const struct p2pc_options *o, struct mc_config *config, bool aside, struct mc_error *err)
{
	char name[MC_SEGMENT_NAME_MAX + 1], host[128] = "host";
	int r = 0;

	if (*o->device_name)
		r = set_devices(o->device_name, config, err);
	if (r == 0 && is_default(config, "log_level"))
		r = mc_config_set(config, "log_level", "warn", err);
	if (r < 0 || !aside)
		return r;
	if (is_default(config, "port"))
		r = mc_config_set(config, "port", "0", err);
	gethostname(host, sizeof host - 1);
	snprintf(name, sizeof name, "%s-%ld", host, (long)getpid());
	if (r == 0 && is_default(config, "local_server_name"))
		r = mc_config_set(config, "local_server_name", name, err);
	return r;
}

/* ---- opening and closing ---------------------------------------------------------------------- */

/* From any thread of the store. */
static void store_log(void *arg, enum mc_log_level level, const char *line)
{
	struct p2pc_session *s = arg;

	if (level <= MC_LOG_WARN)
		p2pc_note("%s: %s", level == MC_LOG_ERROR ? "error" : "warning", line);
	if (strstr(line, "': removed by ")) {
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

bool p2pc_session_removed(struct p2pc_session *s, const char *name)
{
	char want[MC_P2P_NAME_MAX + 32];
	size_t n = (size_t)snprintf(want, sizeof want, "object '%s': removed by ", name);
	bool found = false;

	pthread_mutex_lock(&s->lock);
	for (size_t i = 0; i < s->nr_removed && !found; i++) {
		found = strncmp(s->removed[i], want, n) == 0;
		if (found)
			p2pc_note("mooncake_p2p: '%s' was removed by '%s'; it is served no more", name, s->removed[i] + n);
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
		.patience_ns = (uint64_t)(o->patience * 1e9),
		.log = store_log,
		.log_arg = s,
	};
	const char *matrix;
	int r;

	*s = (struct p2pc_session){.lock = PTHREAD_MUTEX_INITIALIZER};
	r = configure(o, config, aside, err);
	s->usage = r < 0;
	if (r < 0)
		return r;
	r = mc_engine_open(config, P2PC_OPEN_NS, &s->engine, err);
	matrix = mc_config_get(config, "nic_priority_matrix", NULL);
	/* Without a matrix it is the host that has no device. */
	s->usage = r == -EINVAL || (r == -ENODEV && matrix && *matrix);
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

int p2pc_session_hold(struct p2pc_session *s, const struct p2pc_map *map, struct mc_error *err)
{
	if (map->nr < 2)
		return 0;
	return mc_memory_register(s->engine, map->base, map->used, "*", MC_ACCESS_REMOTE_READ, P2PC_MEMORY_NS, err);
}

void p2pc_session_release(struct p2pc_session *s, const struct p2pc_map *map)
{
	if (map->nr >= 2)
		mc_memory_unregister(s->engine, map->base, P2PC_CLOSE_NS, NULL);
}

uint64_t p2pc_timeout(const struct p2pc_options *o, uint64_t fallback_ns)
{
	return o->timeout > 0 ? (uint64_t)(o->timeout * 1e9) : fallback_ns;
}

/* ---- telling ---------------------------------------------------------------------------------- */

int p2pc_tell_error(const struct p2pc_options *o, const char *sentence, int code)
{
	p2pc_note("mooncake_p2p: %s", sentence);
	if (o->json) {
		fputs("{\"error\": ", stdout);
		p2pc_text_json(stdout, sentence);
		fputs("}\n", stdout);
	}
	return code;
}

int p2pc_ready(const struct p2pc_options *o, const struct p2pc_session *s, struct mc_error *err)
{
	char part[4096];
	FILE *f;
	int r = 0;

	if (!*o->ready_file)
		return 0;
	if ((size_t)snprintf(part, sizeof part, "%s.%ld", o->ready_file, (long)getpid()) >= sizeof part)
		return mc_fail(err, -ENAMETOOLONG, "flag --ready_file: the path is too long");
	f = fopen(part, "we");
	if (!f || fprintf(f, "%s %u\n", mc_engine_name(s->engine), mc_engine_port(s->engine)) < 0)
		r = -errno;
	if (f && fclose(f) != 0 && r == 0)
		r = -errno;
	if (r == 0 && rename(part, o->ready_file) < 0)
		r = -errno;
	if (r < 0)
		unlink(part);
	return r < 0 ? mc_fail(err, r, "ready file '%s': %s", o->ready_file, strerror(-r)) : 0;
}
