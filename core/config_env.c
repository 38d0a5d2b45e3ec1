/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The environment: MC_* variables of the schema and of the plugins' options.
 * Hosts carry other programs' MC_* variables, so unknown ones are no error: they
 * are named in one warning per process.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "config_priv.h"
#include "json.h"
#include "log.h"
#include "util/check.h"
#include "util/cleanup.h"

/* Read elsewhere: the loader's, the registry's, and mooncake_p2p's. */
static const char *const other_variables[] = {"MC_PLUGIN_PATH", "MC_CONFIG_DIR", "MC_RACK"};

/* Splits "NAME=value"; NULL if the name does not fit. */
static const char *split(const char *entry, char *name, size_t cap)
{
	const char *equals = strchr(entry, '=');
	size_t len = equals ? (size_t)(equals - entry) : cap;

	if (len >= cap)
		return NULL;
	memcpy(name, entry, len);
	name[len] = '\0';
	return equals + 1;
}

/* Set every key of a variable.  Returns how many, or -errno. */
static int apply(struct mc_config *config, const char *name, const char *value,
		 struct mc_error *err)
{
	struct mc_assignment a = {.where = name, .text = value, .origin = MC_ORIGIN_ENV, .detail = name};
	int nr = 0, r;

	for (size_t i = 0; i < MC_ARRAY_SIZE(other_variables); i++)
		nr += strcmp(other_variables[i], name) == 0;
	for (size_t i = 0; i < config->nr_slots; i++) {
		const char *env = config->slots[i].option->env;

		if (!env || strcmp(env, name) != 0)
			continue;
		nr++;
		if (!*value)
			continue; /* as if it were not there */
		r = mc_slot_set(config, &config->slots[i], &a, err);
		if (r < 0)
			return r;
	}
	return nr;
}

static const char *closest_variable(const struct mc_config *config, const char *name)
{
	size_t nr = MC_ARRAY_SIZE(other_variables);
	mc_cleanup(mc_freep) const char **words = calloc(config->nr_slots + nr + 1, sizeof *words);

	if (!words)
		return NULL;
	memcpy(words, other_variables, sizeof other_variables);
	for (size_t i = 0; i < config->nr_slots; i++) {
		if (config->slots[i].option->env)
			words[nr++] = config->slots[i].option->env;
	}
	return mc_closest(name, words);
}

static void warn_unknown(const char *names)
{
	static bool warned; /* atomic; once per process, however many engines it opens */

	if (*names && !__atomic_exchange_n(&warned, true, __ATOMIC_RELAXED))
		mc_warn("environment: unknown MC_* variables are ignored: %s", names);
}

int mc_config_env(struct mc_config *config, struct mc_error *err)
{
	struct mc_config *copy, old;
	char unknown[1024] = "", name[128];
	size_t at = 0;
	int r = config ? mc_config_clone(config, &copy) : -EINVAL;

	if (r == -EINVAL)
		return mc_fail(err, r, "environment: config may not be NULL");
	if (r < 0)
		return mc_fail(err, r, "environment: out of memory");
	for (char **e = environ; e && *e; e++) {
		const char *value, *near;

		if (strncmp(*e, "MC_", 3) != 0)
			continue;
		value = split(*e, name, sizeof name);
		if (!value)
			continue;
		r = apply(copy, name, value, err);
		if (r < 0)
			break;
		if (r > 0 || at >= sizeof unknown)
			continue;
		near = closest_variable(config, name);
		at += (size_t)snprintf(unknown + at, sizeof unknown - at, "%s%s%s%s%s", at ? ", " : "",
				       name, near ? " (did you mean " : "", near ? near : "",
				       near ? "?)" : "");
	}
	if (r >= 0) {
		warn_unknown(unknown);
		old = *config;
		*config = *copy;
		*copy = old;
		r = 0;
	}
	mc_config_free(copy);
	return r;
}
