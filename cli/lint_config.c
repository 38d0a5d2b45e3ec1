/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Values of the config that are well formed and may still mean nothing here:
 * files, names, addresses, the plugins and filters that they ask for.  Each is
 * read by the function by which an engine reads it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/access.h"
#include "core/addr.h"
#include "core/admit.h"
#include "core/manifest.h"
#include "core/util/cleanup.h"
#include "lint.h"

static void wrong(struct lint *lint, const char *key, const struct mc_error *why)
{
	/* Some sentences name the key themselves. */
	if (strncmp(why->text, key, strlen(key)) == 0)
		lint_add(lint, LINT_ERROR, "value", "%s", why->text);
	else
		lint_add(lint, LINT_ERROR, "value", "%s: %s", key, why->text);
}

static void check_name(struct lint *lint, const char *name)
{
	struct mc_error why;

	if (*name && (mc_name_check(name, &why) < 0 || mc_name_port_check(name, &why) < 0))
		wrong(lint, "local_server_name", &why);
}

/* Digits and dots, or colons, that are no address are no host's name either; names are not looked up. */
static void check_advertised(struct lint *lint, const char *text)
{
	struct sockaddr_storage ss;
	struct mc_addr a;

	if (mc_addr_parse(text, &a) == 0 && mc_addr_numeric(&a, &ss) <= 0 &&
	    (strchr(a.host, ':') || a.host[strspn(a.host, "0123456789.")] == '\0'))
		lint_add(lint, LINT_ERROR, "value",
			 "advertise_address '%s': no IPv4 or IPv6 address is written so; give one such as 192.0.2.1 or "
			 "[2001:db8::1], or a host's name", a.host);
}

static void check_addresses(struct lint *lint, const struct mc_settings *set)
{
	struct mc_error why;
	struct mc_addr addr;
	char **list = NULL;

	if (*set->advertise_address) {
		if (mc_addr_list(set->advertise_address, 1, &list, &why) < 0)
			wrong(lint, "advertise_address", &why);
		for (char **at = list; at && *at; at++)
			check_advertised(lint, *at);
		if (list)
			mc_addr_list_free(list);
	}
	if (*set->listen_address && mc_addr_parse(set->listen_address, &addr) < 0)
		lint_add(lint, LINT_ERROR, "value", "listen_address: '%s' is not an address", set->listen_address);
}

/* A folder that a user names is not made for him, and without it the engine does not open. */
static void check_socket(struct lint *lint, const char *path)
{
	struct stat st;
	int error = 0;

	if (*path != '/')
		return;
	if (stat(path, &st) < 0 || access(path, W_OK | X_OK) < 0)
		error = errno;
	else if (!S_ISDIR(st.st_mode))
		error = ENOTDIR;
	if (error)
		lint_add(lint, LINT_ERROR, "value", "local_socket '%.300s': cannot listen there: %s; name a folder of yours, "
			 "or \"off\"", path, strerror(error));
}

static void check_admission(struct lint *lint, const struct mc_settings *set)
{
	struct mc_access *access = NULL;
	struct mc_admit_key *key = NULL;
	struct mc_error why;

	if (mc_access_parse(set->access, &access, &why) < 0)
		wrong(lint, "access", &why);
	else
		mc_access_free(access);
	if (!*set->cluster_key_file)
		return;
	if (mc_admit_key_open(set->cluster_key_file, &key, &why) < 0)
		wrong(lint, "cluster_key_file", &why);
	else
		mc_admit_key_free(key);
}

bool lint_options(struct lint *lint, const char *section, const struct mc_plugin *plugin)
{
	struct mc_value *values = NULL;
	struct mc_error why;

	if (mc_config_plugin_values(lint->config, section, plugin->desc->name, plugin->desc, &values, &why) < 0) {
		lint_add(lint, LINT_ERROR, "option", "%s", why.text);
		return false;
	}
	mc_values_free(values);
	return true;
}

/* The plugin makes its directory, and no parent of it.  Names that are written with % are left to the plugin. */
static void check_parent(struct lint *lint, const char *url)
{
	char parent[300];
	const char *path = url + strlen("file://"), *last;

	if (strncmp(url, "file:///", 8) != 0 || strchr(path, '%') || strlen(path) >= sizeof parent)
		return;
	for (last = path + strlen(path); last > path && last[-1] == '/'; last--)
		;
	for (; last > path && last[-1] != '/'; last--)
		;
	snprintf(parent, sizeof parent, "%.*s", (int)(last - path), path);
	if (*parent && access(parent, F_OK) < 0 && errno == ENOENT)
		lint_add(lint, LINT_ERROR, "value", "metadata_server '%.300s': there is no directory '%s'; create it "
			 "(mkdir -p), or name another", url, parent);
}

static void check_metadata(struct lint *lint, const char *url)
{
	const char *sep = strstr(url, "://");
	const struct mc_manifest *m;
	struct mc_plugin *plugin;
	struct mc_error why;
	char scheme[32];

	snprintf(scheme, sizeof scheme, "%.*s", sep ? (int)(sep - url) : 4, sep ? url : "etcd");
	m = mc_registry_scheme(lint->registry, scheme, &why);
	if (!m) {
		lint_add(lint, LINT_ERROR, "value", "metadata_server '%.300s': %s", url, why.text);
	} else if (mc_plugin_load(lint->registry, MC_KIND_METADATA, m->name, &plugin, &why) < 0) {
		lint_add(lint, LINT_ERROR, "plugin-unusable", "metadata_server '%.300s': %s", url, why.text);
	} else {
		lint_options(lint, "metadata", plugin);
		check_parent(lint, url);
		mc_plugin_unref(plugin);
	}
}

void lint_config(struct lint *lint)
{
	const struct mc_settings *set = mc_config_settings(lint->config);

	check_name(lint, set->local_server_name);
	check_addresses(lint, set);
	check_socket(lint, set->local_socket);
	check_admission(lint, set);
	check_metadata(lint, set->metadata_server);
	if (set->staging_pool > 0 && set->staging_chunk > set->staging_pool)
		lint_add(lint, LINT_WARNING, "value", "staging_chunk: %lld bytes are more than the %lld of staging_pool",
			 (long long)set->staging_chunk, (long long)set->staging_pool);
}
