/* SPDX-License-Identifier: Apache-2.0 */
/* From a config and what stood on the command line to an engine. */
#include "join.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "text.h"

int mc_join_default(struct mc_config *config, const char *key, const char *value, struct mc_error *err)
{
	enum mc_origin origin = MC_ORIGIN_DEFAULT;

	mc_config_get(config, key, &origin);
	return origin == MC_ORIGIN_DEFAULT || origin == MC_ORIGIN_MANIFEST ? mc_config_set(config, key, value, err) : 0;
}

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

		if (strcspn(p, "\"\\") < len || !mc_text_plain(p, len) || n + len + 16 > sizeof matrix)
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

int mc_join_configure(struct mc_config *config, const char *devices, bool aside, struct mc_error *err)
{
	char name[MC_SEGMENT_NAME_MAX + 1], host[128] = "host";
	int r = 0;

	if (*devices)
		r = set_devices(devices, config, err);
	if (r == 0)
		r = mc_join_default(config, "log_level", "warn", err);
	if (r < 0 || !aside)
		return r;
	r = mc_join_default(config, "port", "0", err);
	gethostname(host, sizeof host - 1);
	snprintf(name, sizeof name, "%s-%ld", host, (long)getpid());
	return r < 0 ? r : mc_join_default(config, "local_server_name", name, err);
}

int mc_join_open(const struct mc_config *config, uint64_t timeout_ns, struct mc_engine **ret_engine, bool *ret_usage,
		 struct mc_error *err)
{
	const char *matrix = mc_config_get(config, "nic_priority_matrix", NULL);
	int r = mc_engine_open(config, timeout_ns, ret_engine, err);

	/* Without a matrix it is the host that has no device. */
	*ret_usage = r == -EINVAL || (r == -ENODEV && matrix && *matrix);
	return r;
}

int mc_join_ready(const char *path, const struct mc_engine *engine, struct mc_error *err)
{
	char part[4096];
	FILE *f;
	int r = 0;

	if (!*path)
		return 0;
	if ((size_t)snprintf(part, sizeof part, "%s.%ld", path, (long)getpid()) >= sizeof part)
		return mc_fail(err, -ENAMETOOLONG, "flag --ready_file: the path is too long");
	f = fopen(part, "we");
	if (!f || fprintf(f, "%s %u\n", mc_engine_name(engine), mc_engine_port(engine)) < 0)
		r = -errno;
	if (f && fclose(f) != 0 && r == 0)
		r = -errno;
	if (r == 0 && rename(part, path) < 0)
		r = -errno;
	if (r < 0)
		unlink(part);
	return r < 0 ? mc_fail(err, r, "ready file '%s': %s", path, strerror(-r)) : 0;
}
