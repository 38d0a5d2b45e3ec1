/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The schema: every key of the core, its type, default, range, variable and
 * meaning, in one table.  docs/config.md, --help, the environment and the file
 * follow from it.
 */
#include <errno.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "config_schema.h"
#include "util/check.h"

static const char *const http_choices[] = {"on", "loopback", "off", NULL};
static const char *const log_levels[] = {"error", "warn", "info", "debug", "trace", NULL};

static const char *const verify_words[] = {"off", "sampled", "full", NULL};

static int replace(char **text, char *with, const char *where, struct mc_error *err)
{
	if (!with)
		return mc_fail(err, -ENOMEM, "%s: out of memory", where);
	free(*text);
	*text = with;
	return 0;
}

/* "warning" is what other programs of this field call it. */
static int normalize_level(char **text, const char *where, struct mc_error *err)
{
	return strcasecmp(*text, "warning") == 0 ? replace(text, strdup("warn"), where, err) : 0;
}

/* A final slash is common, because elsewhere the value is a key prefix. */
static int normalize_cluster(char **text, const char *where, struct mc_error *err)
{
	size_t len = strlen(*text);
	size_t good;

	while (len > 1 && (*text)[len - 1] == '/')
		(*text)[--len] = '\0';
	good = strspn(*text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");
	if (len == 0 || good != len || len > 63)
		return mc_fail(err, -EINVAL,
			       "%s: '%.80s' is not the name of a cluster: 1 to 63 of letters, digits, '.', '_', '-'",
			       where, *text);
	return 0;
}

static int normalize_socket(char **text, const char *where, struct mc_error *err)
{
	if (**text == '\0')
		return replace(text, strdup("auto"), where, err);
	if (**text != '/' && strcasecmp(*text, "auto") && strcasecmp(*text, "off"))
		return mc_fail(err, -EINVAL, "%s: '%.200s' is neither auto, off nor the path of a folder", where, *text);
	if (strlen(*text) > 3900)
		return mc_fail(err, -EINVAL, "%s: the path is too long", where);
	return 0;
}

/* "host:port[,host:port]" means etcd. */
static int normalize_server(char **text, const char *where, struct mc_error *err)
{
	size_t len = strlen(*text);
	char *url;

	if (strstr(*text, "://"))
		return 0;
	if (**text == '/')
		return mc_fail(err, -EINVAL, "%s: '%.200s' is a path; write file://%.200s", where, *text,
			       *text);
	if (!strchr(*text, ':') || strpbrk(*text, " /"))
		return mc_fail(err, -EINVAL,
			       "%s: '%.200s' is neither a URL such as file:///dir or etcd://host:2379, nor host:port",
			       where, *text);
	url = malloc(len + sizeof "etcd://");
	if (url)
		sprintf(url, "etcd://%s", *text);
	return replace(text, url, where, err);
}

/* A folder of this user, so that nothing has to be started and nobody else can write. */
static char *default_server(void)
{
	const char *runtime = secure_getenv("XDG_RUNTIME_DIR");
	char url[4096];

	if (runtime && *runtime == '/' && strlen(runtime) < 4000)
		snprintf(url, sizeof url, "file://%s/mooncake", runtime);
	else
		snprintf(url, sizeof url, "file:///tmp/mooncake-%lu", (unsigned long)getuid());
	return strdup(url);
}

#define KEY(the_name, the_type, ...)                                                               \
	{                                                                                          \
		.option = {.name = #the_name, .type = (the_type), __VA_ARGS__},                    \
		.offset = offsetof(struct mc_settings, the_name)
#define SECOND ((int64_t)MC_SEC)
#define MILLISECOND ((int64_t)MC_MSEC)
#define MIB (INT64_C(1) << 20)

const struct mc_key mc_config_schema[] = {
	KEY(local_server_name, MC_OPT_STRING, .def = "",
	    .doc = "Name of this engine's segment, name[:port]; empty: the hostname.")},
	KEY(metadata_server, MC_OPT_STRING, .def = NULL,
	    .doc = "Where engines find each other: file:///dir, etcd://host:2379,host:2379, or host:port (etcd).")
		, .normalize = normalize_server, .host_default = default_server},
	KEY(cluster, MC_OPT_STRING, .def = "default", .env = "MC_METADATA_CLUSTER_ID",
	    .doc = "Engines of one cluster see each other.")
		, .normalize = normalize_cluster},
	KEY(nic_priority_matrix, MC_OPT_STRING, .def = "", .flags = MC_OPT_RELOADABLE,
	    .doc = "Location to tiers of devices: JSON, or the path of a file; empty: written by discovery.")},
	KEY(port, MC_OPT_INT, .def = "12001", .min = 0, .max = 65535, .env = "MC_HANDSHAKE_PORT",
	    .doc = "The one listening port; 0: any free one.")},
	KEY(listen_address, MC_OPT_STRING, .def = "",
	    .doc = "Address to listen on; empty: all, IPv4 and IPv6.")},
	KEY(advertise_address, MC_OPT_STRING, .def = "",
	    .doc = "Addresses that peers shall use, with commas between; empty: those of the interfaces that are up.")},
	KEY(local_socket, MC_OPT_STRING, .def = "auto",
	    .doc = "Folder of the Unix socket for engines of this host (shm); auto: the user's runtime directory; off: none.")
		, .normalize = normalize_socket},
	KEY(http, MC_OPT_ENUM, .def = "loopback", .choices = http_choices,
	    .doc = "Who may ask for /metrics and /health on the port: everybody (on), this host (loopback), nobody (off).")},
	KEY(deadline, MC_OPT_DURATION, .def = "30s", .min = MILLISECOND, .max = 86400 * SECOND,
	    .flags = MC_OPT_RELOADABLE, .env = "MC_TRANSFER_TIMEOUT",
	    .doc = "Time of a batch from its first submit until what is left of it is given up.")},
	KEY(peer_timeout, MC_OPT_DURATION, .def = "5s", .min = 100 * MILLISECOND, .max = 600 * SECOND,
	    .doc = "After this silence a peer is gone.")},
	KEY(lease_ttl, MC_OPT_DURATION, .def = "10s", .min = 100 * MILLISECOND, .max = 3600 * SECOND,
	    .doc = "Life of an engine's record after its last sign of life.")},
	KEY(log_level, MC_OPT_ENUM, .def = "info", .choices = log_levels, .flags = MC_OPT_RELOADABLE,
	    .env = "MC_LOG_LEVEL", .doc = "What is logged.")
		, .normalize = normalize_level},
	KEY(slice_size, MC_OPT_SIZE, .def = "auto", .min = 1024, .max = 1024 * MIB, .flags = MC_OPT_AUTO,
	    .env = "MC_SLICE_SIZE", .doc = "Size into which requests are cut; auto: what the transport prefers.")},
	KEY(retry_count, MC_OPT_INT, .def = "9", .min = 0, .max = 1000, .flags = MC_OPT_RELOADABLE,
	    .env = "MC_RETRY_CNT", .doc = "How often a slice is tried again before its request fails.")},
	KEY(rail_window, MC_OPT_DURATION, .def = "2ms", .min = 10000, .max = SECOND,
	    .flags = MC_OPT_RELOADABLE, .doc = "Work that one rail holds at a time.")},
	KEY(spin, MC_OPT_DURATION, .def = "50us", .min = 0, .max = 10 * MILLISECOND,
	    .flags = MC_OPT_RELOADABLE, .doc = "How long a worker polls after activity before it sleeps; 0: never.")},
	KEY(spill, MC_OPT_BOOL, .def = "false", .flags = MC_OPT_RELOADABLE,
	    .doc = "Use a lower tier of the matrix when the better ones are full, not only when they are down.")},
	KEY(staging_pool, MC_OPT_SIZE, .def = "64MiB", .min = 0, .max = MIB * MIB,
	    .doc = "Pinned memory for copies to memory that a wire cannot reach.")},
	KEY(staging_chunk, MC_OPT_SIZE, .def = "1MiB", .min = 4096, .max = 1024 * MIB,
	    .doc = "Size of one such copy.")},
	KEY(max_peers, MC_OPT_INT, .def = "4096", .min = 1, .max = 1 << 20,
	    .doc = "Sessions with peers at a time.")},
	KEY(max_peer_buffers, MC_OPT_INT, .def = "65536", .min = 1, .max = 4 << 20,
	    .doc = "Buffers of one peer that are kept here, of 1 KiB each at the most on average; more end the session.")},
	KEY(notify_queue, MC_OPT_INT, .def = "1024", .min = 1, .max = 1 << 20,
	    .doc = "Notify messages that wait to be taken; senders wait when it is full.")},
	KEY(verify, MC_OPT_ENUM, .def = "off", .choices = verify_words,
	    .doc = "Compare what was moved at both ends by checksums: of no, some (filters.checksum.sample) or all slices.")},
	KEY(metadata_proxy, MC_OPT_BOOL, .def = "false",
	    .doc = "Let metadata traffic use http_proxy and https_proxy.")},
	KEY(cluster_key_file, MC_OPT_STRING, .def = "", .env = "MC_CLUSTER_KEY_FILE",
	    .doc = "File of the key that peers must prove to know, 16 to 4096 bytes; empty: none is asked for.")},
	KEY(access, MC_OPT_STRING, .def = "", .env = "MC_ACCESS",
	    .doc = "Which peers may read and write our memory: JSON, name patterns to none, read, write or all, or the path of a file; empty: all.")},
};
const size_t mc_config_schema_nr = MC_ARRAY_SIZE(mc_config_schema);

/* A new setting needs a key: strings 12, int64_t 13, bool 2 (padded to one word). */
_Static_assert(sizeof(struct mc_settings) == 12 * sizeof(char *) + 13 * 8 + 2 * 8,
	       "struct mc_settings and the schema differ");
