/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Plugins: manifests found without loading anything, shared objects checked
 * before anything of them runs.
 */
#ifndef MC_CORE_LOADER_H
#define MC_CORE_LOADER_H

#include <mooncake/memory.h>
#include <mooncake/metadata.h>
#include <mooncake/plugin.h>
#include <mooncake/transport.h>

/* What a manifest says. */
struct mc_manifest {
	char *path;    /* of the manifest */
	char *name;
	uint32_t kind; /* enum mc_kind */
	char *library; /* file name, or absolute path */
	char *wire;
	uint16_t wire_min, wire_max;
	char **memory, **claims, **schemes; /* NULL-terminated, never NULL */
	bool optional;
	bool has_options;                   /* false: the schema is not known without loading */
	struct mc_option *options;          /* ends with name == NULL; never NULL; owned */
	char **values;                      /* per option: what plugins.d sets beyond its default, or NULL */
	char *summary;
};

/* All manifests, read once; immutable. */
struct mc_registry;
int mc_registry_load(struct mc_registry **ret_registry, struct mc_error *err);
/* The same for who explains what is there: a manifest that is broken, or describes a plugin again, is left
 * out and told to bad, with its path. */
int mc_registry_load_good(struct mc_registry **ret_registry,
			  void (*bad)(void *ctx, const char *path, const struct mc_error *why), void *ctx,
			  struct mc_error *err);
/* Shared by configs and engines; free drops one reference. */
struct mc_registry *mc_registry_ref(struct mc_registry *registry);
void mc_registry_free(struct mc_registry *registry);
size_t mc_registry_nr(const struct mc_registry *registry);
const struct mc_manifest *mc_registry_at(const struct mc_registry *registry, size_t idx);
/* By kind and name; NULL with err naming what exists and the closest name. */
const struct mc_manifest *mc_registry_find(const struct mc_registry *registry, enum mc_kind kind,
					   const char *name, struct mc_error *err);
/* The metadata plugin of a URL scheme. */
const struct mc_manifest *mc_registry_scheme(const struct mc_registry *registry, const char *scheme,
					     struct mc_error *err);
/* The transport that claims a bare device name and reaches that memory kind ("*": any).  Two, or
 * none: NULL, and err names them and the qualified spelling. */
const struct mc_manifest *mc_registry_claim(const struct mc_registry *registry, const char *device,
					    const char *kind, struct mc_error *err);

/* Is it a memory kind, though perhaps not of this host?  cpu, cuda and cxl are; others where a memory
 * plugin has the name or a transport reaches it.  -EINVAL: err names the known ones. */
int mc_registry_memory_kind(const struct mc_registry *registry, const char *kind, struct mc_error *err);

/* A loaded plugin: refcounted, shared by its instances, never unloaded.  The ops tables are the
 * host's copies, laid over stubs that answer -ENOTSUP, so no slot is NULL. */
struct mc_plugin {
	const struct mc_plugin_desc *desc;
	char *path;
	union {
		struct mc_transport_ops transport;
		struct mc_metadata_ops metadata;
		struct mc_memory_ops memory;
		struct mc_filter_ops filter;
	} ops;
	/* Which optional operations the plugin has itself: of a transport, of a metadata plugin. */
	bool has_fence, has_cancel, has_arm, has_mem_reg, has_mem_alloc, has_mem_export, has_mem_import,
		has_peer_accept, has_counters, has_mem_sync;
	bool has_leases;
};

/* Call each for every folder where plugins are looked for, in order, until it returns non-zero; that value
 * is returned. */
int mc_plugin_folders(int (*each)(void *ctx, const char *folder), void *ctx);

/* Find and check NAME; each refusal is one message (style: refused because ... what to do).
 * library: a file name searched in MC_PLUGIN_PATH then plugindir, or a path with '/'. */
int mc_plugin_load(const struct mc_registry *registry, enum mc_kind kind, const char *name,
		   struct mc_plugin **ret_plugin, struct mc_error *err);
/* kind 0 and name NULL: whatever the file holds. */
int mc_plugin_load_file(const char *path, enum mc_kind kind, const char *name,
			struct mc_plugin **ret_plugin, struct mc_error *err);
/* For programs that look at strangers' plugins: asked about each file before it is opened here; -errno with
 * err: it is refused.  Set before another thread loads a plugin; NULL: none. */
void mc_plugin_set_trial(int (*trial)(const char *path, struct mc_error *err));
/* One more user of it. */
struct mc_plugin *mc_plugin_ref(struct mc_plugin *plugin);
void mc_plugin_unref(struct mc_plugin *plugin);
/* Its `open` failed with r and its own sentence in err (may be empty): say which plugin and device
 * that was.  Returns r. */
int mc_plugin_open_failed(const struct mc_plugin *plugin, const char *device, int r,
			  struct mc_error *err);

#endif
