/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The URL of the service: etcd://host:port,host:port, with ',' or ';' between.
 * etcds:// means TLS for all of them; an endpoint may say http:// or https://
 * itself.  What is no such list is refused with what to write instead.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "etcd.h"

void etcd_endpoints_free(struct etcd_endpoint *endpoints, size_t nr)
{
	for (size_t i = 0; i < nr; i++)
		free(endpoints[i].url);
	free(endpoints);
}

/* The port behind the host, 0 for none, -1 for a bad one; *ret_host_len is the host's. */
static int split_port(const char *s, size_t len, size_t *ret_host_len)
{
	const char *colon = NULL, *close = len && *s == '[' ? memchr(s, ']', len) : NULL;
	int port = 0;

	if (len && *s == '[' && !close)
		return -1;
	for (const char *p = close ? close + 1 : s; p < s + len; p++) {
		if (*p == ':') {
			if (colon)
				return -1; /* IPv6 without brackets */
			colon = p;
		}
	}
	if (close && close + 1 < s + len && close[1] != ':')
		return -1;
	*ret_host_len = colon ? (size_t)(colon - s) : len;
	if (!colon)
		return 0;
	if (colon + 1 == s + len)
		return -1;
	for (const char *p = colon + 1; p < s + len; p++) {
		if (*p < '0' || *p > '9' || (port = port * 10 + (*p - '0')) > 65535)
			return -1;
	}
	return port ? port : -1;
}

static int one(const char *url, const char *s, size_t len, bool tls, char **ret_url,
	       struct mc_error *err)
{
	const char *why = NULL;
	size_t host_len = 0;
	int port, n = (int)len;
	const char *whole = s;

	if (len >= 7 && !strncmp(s, "http://", 7)) {
		tls = false;
		s += 7;
		len -= 7;
	} else if (len >= 8 && !strncmp(s, "https://", 8)) {
		tls = true;
		s += 8;
		len -= 8;
	}
	if (len && s[len - 1] == '/')
		len--;
	port = split_port(s, len, &host_len);
	if (memchr(s, '@', len))
		why = "user and password are options: metadata.etcd.user, metadata.etcd.password_file";
	else if (host_len == 0 && port >= 0)
		why = "there is no host; write etcd://host:2379";
	else if (port < 0)
		why = "not host:port; write etcd://host:2379, IPv6 addresses as [::1]:2379";
	for (size_t i = 0; !why && i < host_len; i++) {
		if ((unsigned char)s[i] <= ' ' || strchr("/?#\\\"'<>%{}|^`", s[i]))
			why = "a host cannot hold such characters; write etcd://host:2379";
	}
	if (why)
		return mc_fail(err, -EINVAL, "metadata '%s': endpoint '%.*s': %s", url, n, whole, why);
	if (asprintf(ret_url, "%s://%.*s:%d", tls ? "https" : "http", (int)host_len, s,
		     port ? port : ETCD_DEFAULT_PORT) < 0)
		return mc_fail(err, -ENOMEM, "metadata '%s': out of memory", url);
	return 0;
}

int etcd_url_parse(const char *url, struct etcd_endpoint **ret_endpoints, size_t *ret_nr,
		   struct mc_error *err)
{
	const char *p = url ? url : "";
	struct etcd_endpoint *list;
	bool tls = !strncmp(p, "etcds://", 8);
	size_t nr = 0;
	int r = 0;

	if (!tls && strncmp(p, "etcd://", 7) != 0)
		return mc_fail(err, -EINVAL,
			       "metadata '%s': not an etcd URL; write etcd://host:2379,host:2379", p);
	p += tls ? 8 : 7;
	list = calloc(ETCD_MAX_ENDPOINTS, sizeof *list);
	if (!list)
		return mc_fail(err, -ENOMEM, "metadata '%s': out of memory", url);
	while (*p && r == 0) {
		size_t len = strcspn(p, ",;");

		if (nr == ETCD_MAX_ENDPOINTS)
			r = mc_fail(err, -EINVAL, "metadata '%s': more than %d endpoints", url,
				    ETCD_MAX_ENDPOINTS);
		else if (len)
			r = one(url, p, len, tls, &list[nr].url, err);
		nr += len && r == 0;
		p += len + (p[len] != '\0');
	}
	if (r == 0 && nr == 0)
		r = mc_fail(err, -EINVAL,
			    "metadata '%s': no endpoint is named; write etcd://host:2379", url);
	if (r < 0) {
		etcd_endpoints_free(list, nr);
		return r;
	}
	*ret_endpoints = list;
	*ret_nr = nr;
	return 0;
}
