/* SPDX-License-Identifier: Apache-2.0 */
/*
 * metadata/etcd: the key-value service of etcd v3, over its JSON gateway.  This
 * file: the descriptor, the options, open and close.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/util/cleanup.h"
#include "etcd.h"

#ifndef MC_VERSION
#define MC_VERSION "0"
#endif

/* Whoever waits for an engine to open shall know within 5 s that there is no etcd. */
#define OPEN_NS (3500 * MC_MSEC)
#define PASSWORD_MAX 4096

enum { OPT_USER, OPT_PASSWORD, OPT_PASSWORD_FILE, OPT_CA, OPT_CERT, OPT_KEY, OPT_VERIFY,
       OPT_CONNECT_TIMEOUT, OPT_REQUEST_TIMEOUT, OPT_RETRY, OPT_PAGE };

#define TEXT(the_name, the_doc)                                                                    \
	{.name = the_name, .type = MC_OPT_STRING, .def = "", .doc = the_doc}
#define SPAN(the_name, the_def, the_min, the_doc)                                                  \
	{.name = the_name, .type = MC_OPT_DURATION, .def = the_def, .min = (the_min),              \
	 .max = 60 * (int64_t)MC_SEC, .doc = the_doc}

static const struct mc_option etcd_options[] = {
	[OPT_USER] = TEXT("user", "User of etcd; empty: no authentication."),
	[OPT_PASSWORD] = {.name = "password",
			  .type = MC_OPT_STRING,
			  .flags = MC_OPT_SECRET,
			  .def = "",
			  .doc = "Its password; password_file is kept out of the list of processes."},
	[OPT_PASSWORD_FILE] = TEXT("password_file", "File whose first line is the password."),
	[OPT_CA] = TEXT("ca", "PEM file of the CAs that servers are checked against; empty: the system's."),
	[OPT_CERT] = TEXT("cert", "PEM file of our certificate, where etcd wants one."),
	[OPT_KEY] = TEXT("key", "PEM file of its key; empty: it is in the file of the certificate."),
	[OPT_VERIFY] = {.name = "verify",
			.type = MC_OPT_BOOL,
			.def = "true",
			.doc = "Check the certificates and names of servers."},
	[OPT_CONNECT_TIMEOUT] = SPAN("connect_timeout", "1s", 10 * (int64_t)MC_MSEC,
				     "Time for a connection to an endpoint, TLS included."),
	[OPT_REQUEST_TIMEOUT] = SPAN("request_timeout", "2s", 10 * (int64_t)MC_MSEC,
				     "Time for an answer until the next endpoint is asked, where there are several."),
	[OPT_RETRY] = SPAN("retry", "2s", 0,
			   "How long a call goes on asking when no endpoint answers, unless that was in vain before."),
	[OPT_PAGE] = {.name = "page",
		      .type = MC_OPT_INT,
		      .def = "500",
		      .min = 1,
		      .max = 100000,
		      .doc = "Keys per answer of a listing."},
	{.name = NULL},
};

static int read_password(const char *path, char **ret, struct mc_error *err)
{
	mc_cleanup(mc_fclosep) FILE *f = fopen(path, "re");
	char line[PASSWORD_MAX] = "";

	if (!f || (!fgets(line, sizeof line, f) && ferror(f))) {
		int r = -errno;

		return mc_fail(err, r, "metadata.etcd.password_file: '%s': %s", path, strerrordesc_np(-r));
	}
	line[strcspn(line, "\r\n")] = '\0';
	if (!*line)
		return mc_fail(err, -EINVAL, "metadata.etcd.password_file: '%s': its first line is empty",
			       path);
	*ret = strdup(line);
	explicit_bzero(line, sizeof line);
	return *ret ? 0 : mc_fail(err, -ENOMEM, "metadata.etcd.password_file: out of memory");
}

static int settings(struct etcd_inst *e, const struct mc_open_args *args, struct mc_error *err)
{
	const struct mc_value *v = args->options;
	struct etcd_settings *set = &e->set;
	int r = 0;

	set->user = strdup(v[OPT_USER].s);
	set->ca = strdup(v[OPT_CA].s);
	set->cert = strdup(v[OPT_CERT].s);
	set->key = strdup(v[OPT_KEY].s);
	set->verify = v[OPT_VERIFY].b;
	set->connect_ns = (uint64_t)v[OPT_CONNECT_TIMEOUT].i;
	set->request_ns = (uint64_t)v[OPT_REQUEST_TIMEOUT].i;
	set->retry_ns = (uint64_t)v[OPT_RETRY].i;
	set->page = (uint64_t)v[OPT_PAGE].i;
	if (args->size >= offsetof(struct mc_open_args, flags) + sizeof args->flags)
		set->proxy = args->flags & MC_OPEN_PROXY;
	if (*v[OPT_PASSWORD_FILE].s)
		r = read_password(v[OPT_PASSWORD_FILE].s, &set->password, err);
	else
		set->password = strdup(v[OPT_PASSWORD].s);
	if (r < 0)
		return r;
	if (!set->user || !set->ca || !set->cert || !set->key || !set->password)
		return mc_fail(err, -ENOMEM, "metadata '%s': out of memory", e->url);
	if (!*set->user && *set->password)
		return mc_fail(err, -EINVAL, "metadata.etcd.user: empty, but there is a password; set both");
	if (*set->user && !*set->password)
		return mc_fail(err, -EINVAL,
			       "metadata.etcd.password_file: empty, but there is a user; set both");
	return 0;
}

static void free_inst(struct etcd_inst *e)
{
	etcd_clients_free(e);
	if (e->set.password)
		explicit_bzero(e->set.password, strlen(e->set.password));
	free(e->set.user);
	free(e->set.password);
	free(e->set.ca);
	free(e->set.cert);
	free(e->set.key);
	free(e->token);
	etcd_endpoints_free(e->endpoints, e->nr_endpoints);
	free(e->url);
	pthread_mutex_destroy(&e->mx);
	if (e->curl)
		etcd_curl_stop();
	e->url = NULL;
}

static int etcd_open(void *inst, const struct mc_host *host, const struct mc_open_args *args,
		     struct mc_error *err)
{
	struct etcd_inst *e = inst;
	uint64_t deadline_ns;
	int r;

	e->host = host;
	e->up = 1;
	pthread_mutex_init(&e->mx, NULL);
	e->url = strdup(args->device ? args->device : "");
	r = e->url ? etcd_url_parse(args->device, &e->endpoints, &e->nr_endpoints, err)
		   : mc_fail(err, -ENOMEM, "metadata: out of memory");
	if (r == 0)
		r = settings(e, args, err);
	if (r == 0) {
		r = etcd_curl_start();
		e->curl = r == 0;
		if (r < 0)
			mc_fail(err, r, "metadata '%s': libcurl does not start", e->url);
	}
	if (r == 0) {
		deadline_ns = etcd_now(e) + OPEN_NS;
		if (args->deadline_ns && args->deadline_ns < deadline_ns)
			deadline_ns = args->deadline_ns;
		r = etcd_check(e, deadline_ns, err);
	}
	if (r == 0)
		r = etcd_hub_open(e, err);
	if (r < 0)
		free_inst(e);
	return r;
}

static void etcd_close(void *inst)
{
	struct etcd_inst *e = inst;

	if (!e->url)
		return;
	etcd_hub_close(e);
	free_inst(e);
}

static const struct mc_metadata_ops etcd_ops = {
	.size = sizeof etcd_ops,
	.instance_size = sizeof(struct etcd_inst),
	.watch_size = sizeof(struct etcd_watch),
	.open = etcd_open,
	.close = etcd_close,
	.get = etcd_get,
	.put = etcd_put,
	.cas = etcd_cas,
	.del = etcd_del,
	.list = etcd_list,
	.watch = etcd_watch_add,
	.unwatch = etcd_watch_remove,
	.lease_grant = etcd_lease_grant,
	.lease_keepalive = etcd_lease_keepalive,
	.lease_revoke = etcd_lease_revoke,
};

static const char *const etcd_schemes[] = {"etcd", "etcds", NULL};

const struct mc_plugin_desc mc_plugin_desc = {
	MC_PLUGIN_HEAD(MC_KIND_METADATA),
	.name = "etcd",
	.version = MC_VERSION,
	.summary = "etcd v3, by its JSON gateway",
	.ops = &etcd_ops,
	.options = etcd_options,
	.schemes = etcd_schemes,
};
