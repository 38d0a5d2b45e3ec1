/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The config inside the core: the typed values of the schema (one table in
 * config.c), the options of plugins, and where each value came from.
 */
#ifndef MC_CORE_CONFIG_H
#define MC_CORE_CONFIG_H

#include <mooncake/mooncake.h>
#include <mooncake/plugin.h>

/* Effective values of the core's own keys; the field names are the keys.  Strings live as long
 * as the config. */
struct mc_settings {
	const char *local_server_name;   /* "name[:port]"; "": hostname */
	const char *metadata_server;     /* URL; default: file:// of a per-user directory */
	const char *cluster;             /* "default"; env MC_METADATA_CLUSTER_ID */
	const char *nic_priority_matrix; /* JSON text or path; "": discovery */
	int64_t port;                    /* 0: any; default 12001; env MC_HANDSHAKE_PORT */
	const char *listen_address;      /* "": all, IPv4 and IPv6 */
	const char *advertise_address;   /* comma-separated; "": addresses of the interfaces that are up */
	const char *local_socket;        /* auto|off|folder of the Unix socket */
	const char *http;                /* on|loopback|off */
	int64_t deadline;                /* ns, of a batch; 30 s; env MC_TRANSFER_TIMEOUT */
	int64_t peer_timeout;            /* ns, P6; 5 s */
	int64_t lease_ttl;               /* ns; 10 s */
	const char *log_level;           /* error|warn|info|debug|trace; env MC_LOG_LEVEL (case-insensitive) */
	int64_t slice_size;              /* bytes; MC_VALUE_AUTO; env MC_SLICE_SIZE */
	int64_t retry_count;             /* 9; env MC_RETRY_CNT */
	int64_t rail_window;             /* ns of work that a rail holds; 2 ms */
	int64_t spin;                    /* ns after activity; 50 us; 0: never */
	bool spill;                      /* use lower tiers when the best is full */
	int64_t staging_pool;            /* bytes; 64 MiB */
	int64_t staging_chunk;           /* bytes; 1 MiB */
	int64_t max_peers;               /* sessions; 4096 */
	int64_t max_peer_buffers;        /* of one peer; 65536 */
	int64_t notify_queue;            /* messages; 1024 */
	const char *verify;              /* off|sampled|full: the filter checksum over every transport */
	bool metadata_proxy;             /* let metadata traffic use http_proxy; false */
	const char *cluster_key_file;    /* path; "": whoever comes is admitted */
	const char *access;              /* JSON text or path; "": every peer may everything */
};

/* Borrowed; valid until the config changes. */
const struct mc_settings *mc_config_settings(const struct mc_config *config);
/* Origin of a core key or of "transports.tcp.lanes"; MC_ORIGIN_DEFAULT if unknown. */
enum mc_origin mc_config_origin(const struct mc_config *config, const char *key);
/* The manifests that the config was made with; borrowed, ref it to keep it. */
struct mc_registry;
struct mc_registry *mc_config_registry(const struct mc_config *config);
/* For who explains a config: over manifests that he has read himself (one more reference is taken), and of a
 * file all that is good, with each error told instead of the first. */
int mc_config_new_over(struct mc_registry *registry, struct mc_config **ret_config, struct mc_error *err);
int mc_config_load_good(struct mc_config *config, const char *path,
			void (*bad)(void *ctx, const struct mc_error *why), void *ctx);
/* A deep copy, so that an engine may keep it. */
int mc_config_clone(const struct mc_config *config, struct mc_config **ret_config);

/* A key whose value differs between two configs. */
struct mc_config_change {
	const char *key;
	const char *was, *is; /* as text; a password as "(secret)" */
	bool core;            /* of the schema; else of a plugin, or what the core reads of every transport */
	bool reloadable;
};
/* Call each for every one until it returns non-zero; that value is returned. */
int mc_config_diff(const struct mc_config *was, const struct mc_config *is,
		   int (*each)(void *ctx, const struct mc_config_change *change), void *ctx);

/*
 * Options of one plugin, in the order of its option table, checked by it.
 * kind: "transports", "metadata", "memory", "filters".  Options given in the
 * config that the table lacks are refused with the closest one.  Strings are
 * owned by the array: free it with mc_values_free.
 */
int mc_config_plugin_values(const struct mc_config *config, const char *kind, const char *name,
			    const struct mc_plugin_desc *desc, struct mc_value **ret_values,
			    struct mc_error *err);
void mc_values_free(struct mc_value *values);

/* What the core itself reads of every transport: "transports.NAME.lanes" (1..64, default 1),
 * ".filters" (comma-separated), ".bandwidth" (bytes/s, 0: the plugin's own). */
struct mc_transport_settings {
	int64_t lanes;
	const char *filters;
	int64_t bandwidth;
};
void mc_config_transport(const struct mc_config *config, const char *name,
			 struct mc_transport_settings *ret);

#endif
