/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prints the manifest of a plugin: `mc-manifest FILE.so`.  The build runs it on
 * every plugin, so that plugins.d never says something else than the plugin.
 */
#include <stdlib.h>
#include <string.h>

#include "loader.h"
#include "manifest.h"

int main(int argc, char **argv)
{
	struct mc_plugin *plugin;
	const char *slash;
	struct mc_error err;
	char *text;
	int r;

	if (argc != 2) {
		fprintf(stderr, "usage: mc-manifest FILE.so\n");
		return 2;
	}
	r = mc_plugin_load_file(argv[1], 0, NULL, &plugin, &err);
	if (r < 0) {
		fprintf(stderr, "mc-manifest: %s\n", err.text);
		return 1;
	}
	slash = strrchr(argv[1], '/');
	text = mc_manifest_write(plugin->desc, slash ? slash + 1 : argv[1]);
	mc_plugin_unref(plugin);
	if (!text) {
		fprintf(stderr, "mc-manifest: %s: a string of its tables is not UTF-8\n", argv[1]);
		return 1;
	}
	r = fputs(text, stdout) < 0 || fflush(stdout) != 0;
	free(text);
	return r;
}
