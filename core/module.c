/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opens internal modules.  Searched like plugins, checked by name and exact
 * version: a module of another build is refused, for nothing of it is promised
 * to stay.
 */
#include "module.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "loader.h"
#include "mc-config.h"

static bool try_folder(const char *folder, size_t len, const char *file, char path[PATH_MAX])
{
	return len && snprintf(path, PATH_MAX, "%.*s/%s", (int)len, folder, file) < PATH_MAX &&
	       access(path, R_OK) == 0;
}

struct attempt {
	const char *file;
	char *path;
};

static int try_one(void *ctx, const char *folder)
{
	struct attempt *a = ctx;

	return try_folder(folder, strlen(folder), a->file, a->path);
}

/* The first place that holds the file; its path goes to path. */
static bool find(const char *file, char path[PATH_MAX])
{
	const char *dirs = secure_getenv("MC_PLUGIN_PATH");
	char own[PATH_MAX];
	Dl_info info;

	while (dirs && *dirs) {
		size_t len = strcspn(dirs, ":");

		if (try_folder(dirs, len, file, path))
			return true;
		dirs += len + (dirs[len] == ':');
	}
	/* Where we lie ourselves: a tree that was moved, or a build folder. */
	if (dladdr(MC_MODULE_SYMBOL, &info) && info.dli_fname && realpath(info.dli_fname, own)) {
		size_t len = (size_t)(strrchr(own, '/') - own);

		if (try_folder(own, len, file, path))
			return true;
		if (snprintf(own + len, sizeof own - len, "/mooncake") < (int)(sizeof own - len) &&
		    try_folder(own, strlen(own), file, path))
			return true;
	}
	/* Where a program that has the core inside finds plugins, and where they were built for. */
	return mc_plugin_folders(try_one, &(struct attempt){.file = file, .path = path});
}

int mc_module_open(const char *name, const void **ret_ops, struct mc_error *err)
{
	const struct mc_module_desc *desc;
	char file[64], path[PATH_MAX];
	void *lib;

	snprintf(file, sizeof file, "mod-%s.so", name);
	if (!find(file, path))
		return mc_fail(err, -ENOENT,
			       "module '%s': %s is neither in MC_PLUGIN_PATH, nor beside the library, nor in " MC_PLUGINDIR,
			       name, file);
	lib = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
	if (!lib)
		return mc_fail(err, -ELIBACC, "module '%s': %s cannot be opened: %s", name, path,
			       dlerror());
	desc = dlsym(lib, MC_MODULE_SYMBOL);
	if (!desc || strcmp(desc->name, name) != 0)
		return mc_fail(err, -ELIBBAD, "module '%s': %s is not this module of mooncake", name,
			       path);
	if (strcmp(desc->version, MC_VERSION) != 0)
		return mc_fail(err, -ELIBBAD,
			       "module '%s': %s is of version %s, the library of %s: install both "
			       "from the same build",
			       name, path, desc->version, MC_VERSION);
	*ret_ops = desc->ops;
	return 0;
}
