/* SPDX-License-Identifier: Apache-2.0 */
/* mooncake lint: what its parts share.  lint.c is the verb, the others look at one thing each. */
#ifndef MC_CLI_LINT_H
#define MC_CLI_LINT_H

#include "cli.h"
#include "core/config.h"
#include "core/loader.h"

enum lint_level {
	LINT_ERROR,   /* an engine with this configuration would not open here */
	LINT_WARNING, /* it opens, and something that was written has no effect, or another than was meant */
};

struct lint_finding {
	enum lint_level level;
	const char *code; /* a stable word for programs: docs/cli.md lists them */
	char *text;
};

/* One that would exist between us and a peer. */
struct lint_rail {
	char from[MC_LOCATION_MAX + 1], to[MC_LOCATION_MAX + 1];
	size_t tier; /* of the worse end */
	char local[MC_PLUGIN_NAME_MAX + MC_DEVICE_NAME_MAX + 2], remote[MC_PLUGIN_NAME_MAX + MC_DEVICE_NAME_MAX + 2];
	char wire[48];
};

struct lint {
	struct mc_registry *registry; /* of the manifests that are good */
	struct mc_config *config;     /* of what is good in the files, the environment, the flags */
	struct lint_finding *findings;
	size_t nr_findings, nr[2];    /* per level */
	size_t nr_rows, nr_devices;   /* of the matrices that were looked at */
	char **unusable;              /* labels of devices of them */
	size_t nr_unusable;
	struct lint_rail *rails;      /* lint_peer */
	size_t nr_rails;
};

void lint_add(struct lint *lint, enum lint_level level, const char *code, const char *fmt, ...)
	MC_PRINTF(4, 5);

/* Is this sentence part of a finding already? */
bool lint_said(const struct lint *lint, const char *text);

/* lint_config.c: values that only mean something on this host, and the plugins that they need. */
void lint_config(struct lint *lint);
/* Its options as the config has them; false: a finding says what is wrong.  plugin is loaded. */
bool lint_options(struct lint *lint, const char *section, const struct mc_plugin *plugin);

/* lint_matrix.c: text as in the config: JSON, or a path.  named: the user wrote it, an engine will not just
 * leave out what is wrong. */
void lint_matrix(struct lint *lint, const char *text, bool named);

/* lint_manifest.c: all of the registry, and one file that need not belong to it. */
void lint_manifests(struct lint *lint);
void lint_manifest_file(struct lint *lint, const char *path, const char *text, size_t len);

/* lint_peer.c: by the record of an engine of the cluster; after the matrix. */
void lint_peer(struct lint *lint, const char *name, uint64_t timeout_ns);

#endif
