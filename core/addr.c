/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Addresses as people write them and as records carry them, the addresses under
 * which this host can be reached, and the rules for segment names.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <string.h>

#include "addr.h"
#include "core/util/check.h"
#include "core/util/cleanup.h"

#define MAX_INTERFACES 16
#define MAX_ADVERTISED 16

static int parse_port(const char *text, uint16_t *ret_port)
{
	unsigned long port = 0;

	if (!*text || strlen(text) > 5)
		return -EINVAL;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return -EINVAL;
		port = port * 10 + (unsigned long)(*text - '0');
	}
	if (port == 0 || port > 65535)
		return -EINVAL;
	*ret_port = (uint16_t)port;
	return 0;
}

int mc_addr_parse(const char *text, struct mc_addr *ret_addr)
{
	struct mc_addr a = {.port = 0};
	const char *end, *colon;
	size_t len;

	if (*text == '[') {
		text++;
		end = strchr(text, ']');
		if (!end)
			return -EINVAL;
		colon = end[1] == ':' ? end + 1 : NULL;
		if (end[1] && !colon)
			return -EINVAL;
	} else {
		colon = strchr(text, ':');
		if (colon && strchr(colon + 1, ':'))
			colon = NULL; /* several colons: a bare IPv6 address */
		end = colon ? colon : text + strlen(text);
	}
	len = (size_t)(end - text);
	if (len == 0 || len > MC_HOST_MAX)
		return -EINVAL;
	for (size_t i = 0; i < len; i++) {
		if ((unsigned char)text[i] <= ' ' || strchr("/@[],\"", text[i]))
			return -EINVAL;
	}
	memcpy(a.host, text, len);
	if (colon && parse_port(colon + 1, &a.port) < 0)
		return -EINVAL;
	*ret_addr = a;
	return 0;
}

void mc_addr_format(const char *host, uint16_t port, char text[MC_ADDR_TEXT_MAX])
{
	if (strchr(host, ':'))
		snprintf(text, MC_ADDR_TEXT_MAX, "[%s]:%u", host, port);
	else
		snprintf(text, MC_ADDR_TEXT_MAX, "%s:%u", host, port);
}

int mc_addr_numeric(const struct mc_addr *addr, struct sockaddr_storage *ret_ss)
{
	struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
				 .ai_socktype = SOCK_STREAM};
	struct addrinfo *ai;
	char port[8];
	int len;

	snprintf(port, sizeof port, "%u", addr->port);
	if (getaddrinfo(addr->host, port, &hints, &ai) != 0)
		return -EINVAL;
	memset(ret_ss, 0, sizeof *ret_ss);
	memcpy(ret_ss, ai->ai_addr, ai->ai_addrlen);
	len = (int)ai->ai_addrlen;
	freeaddrinfo(ai);
	return len;
}

void mc_addr_of_sock(const struct sockaddr *sa, char text[MC_ADDR_TEXT_MAX])
{
	char host[INET6_ADDRSTRLEN] = "?";

	if (sa->sa_family == AF_INET) {
		const struct sockaddr_in *in = (const void *)sa;

		inet_ntop(AF_INET, &in->sin_addr, host, sizeof host);
		mc_addr_format(host, ntohs(in->sin_port), text);
	} else if (sa->sa_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const void *)sa;

		if (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr))
			inet_ntop(AF_INET, &in6->sin6_addr.s6_addr[12], host, sizeof host);
		else
			inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof host);
		mc_addr_format(host, ntohs(in6->sin6_port), text);
	} else {
		snprintf(text, MC_ADDR_TEXT_MAX, "?");
	}
}

/* Bridges of container runtimes and tunnels: their addresses often exist on every host. */
static bool is_virtual(const char *name)
{
	static const char *const prefixes[] = {"docker", "virbr", "br-",  "veth", "cni",
					       "flannel", "cali",  "lxc", "tun",  "tap"};

	for (size_t i = 0; i < MC_ARRAY_SIZE(prefixes); i++) {
		if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0)
			return true;
	}
	return false;
}

/* 0: best .. 3: loopback; -1: of no use to a peer. */
static int rank(const struct ifaddrs *ifa, bool v6)
{
	int base;

	if (!ifa->ifa_addr || !(ifa->ifa_flags & IFF_UP))
		return -1;
	if (ifa->ifa_addr->sa_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const void *)ifa->ifa_addr;

		if (!v6 || IN6_IS_ADDR_LINKLOCAL(&in6->sin6_addr))
			return -1;
		base = 1;
	} else if (ifa->ifa_addr->sa_family == AF_INET) {
		base = 0;
	} else {
		return -1;
	}
	if (ifa->ifa_flags & IFF_LOOPBACK)
		return 4 + base;
	return (is_virtual(ifa->ifa_name) ? 2 : 0) + base;
}

char **mc_addr_interfaces(uint16_t port, bool v6)
{
	char **list = calloc(MAX_INTERFACES + 1, sizeof *list);
	struct ifaddrs *all = NULL;
	size_t nr = 0;

	if (!list || getifaddrs(&all) < 0) {
		int saved = errno;

		free(list);
		errno = saved;
		return NULL;
	}
	for (int want = 0; want < 6; want++) {
		if (want == 4 && nr > 0)
			break;
		for (struct ifaddrs *ifa = all; ifa && nr < MAX_INTERFACES; ifa = ifa->ifa_next) {
			char text[MC_ADDR_TEXT_MAX];
			struct sockaddr_in6 copy;

			if (rank(ifa, v6) != want)
				continue;
			if (ifa->ifa_addr->sa_family == AF_INET6) {
				memcpy(&copy, ifa->ifa_addr, sizeof(struct sockaddr_in6));
				copy.sin6_port = htons(port);
			} else {
				struct sockaddr_in *in = (void *)&copy;

				memcpy(in, ifa->ifa_addr, sizeof *in);
				in->sin_port = htons(port);
			}
			mc_addr_of_sock((struct sockaddr *)&copy, text);
			list[nr] = strdup(text);
			if (list[nr])
				nr++;
		}
	}
	freeifaddrs(all);
	return list;
}

void mc_addr_list_free(char **list)
{
	for (size_t i = 0; list && list[i]; i++)
		free(list[i]);
	free(list);
}

size_t mc_addr_list_nr(char *const *list)
{
	size_t nr = 0;

	while (list && list[nr])
		nr++;
	return nr;
}

static void list_freep(char ***list)
{
	mc_addr_list_free(*list);
}

int mc_addr_list(const char *text, uint16_t port, char ***ret_list, struct mc_error *err)
{
	mc_cleanup(mc_freep) char *copy = strdup(text);
	mc_cleanup(list_freep) char **list = calloc(MAX_ADVERTISED + 1, sizeof *list);
	char *save = NULL, *word;
	size_t nr = 0;

	if (!copy || !list)
		return mc_fail(err, -ENOMEM, "addresses '%s': out of memory", text);
	for (word = strtok_r(copy, ", \t", &save); word; word = strtok_r(NULL, ", \t", &save)) {
		char one[MC_ADDR_TEXT_MAX];
		struct mc_addr a;

		if (mc_addr_parse(word, &a) < 0)
			return mc_fail(err, -EINVAL,
				       "address '%s': not host, host:port, [v6] or [v6]:port", word);
		if (nr == MAX_ADVERTISED)
			return mc_fail(err, -EINVAL, "addresses '%s': more than %d; name fewer", text,
				       MAX_ADVERTISED);
		mc_addr_format(a.host, a.port ? a.port : port, one);
		list[nr] = strdup(one);
		if (!list[nr])
			return mc_fail(err, -ENOMEM, "addresses '%s': out of memory", text);
		nr++;
	}
	if (nr == 0)
		return mc_fail(err, -EINVAL, "addresses '%s': no address in it", text);
	*ret_list = mc_steal(list);
	return 0;
}

/* Overlong ones and surrogates are none. */
size_t mc_utf8_len(const unsigned char *s)
{
	uint32_t c;
	size_t n;

	if (s[0] < 0x80)
		return 1;
	n = s[0] >= 0xf0 && s[0] <= 0xf4 ? 4 : s[0] >= 0xe0 ? 3 : s[0] >= 0xc2 ? 2 : 0;
	if (n == 0 || s[0] > 0xf4)
		return 0;
	c = s[0] & (0x7fu >> n);
	for (size_t i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (s[i] & 0x3f);
	}
	if ((n == 3 && (c < 0x800 || (c >= 0xd800 && c < 0xe000))) ||
	    (n == 4 && (c < 0x10000 || c > 0x10ffff)))
		return 0;
	return n;
}

int mc_name_check(const char *name, struct mc_error *err)
{
	size_t len = strlen(name);

	if (len == 0)
		return mc_fail(err, -EINVAL, "segment name '': it is empty; give it a name");
	if (len > MC_SEGMENT_NAME_MAX)
		return mc_fail(err, -EINVAL, "segment name '%.40s...': %zu bytes, at most %d are allowed",
			       name, len, MC_SEGMENT_NAME_MAX);
	for (const char *s = name; *s;) {
		unsigned char c = (unsigned char)*s;
		size_t n = mc_utf8_len((const unsigned char *)s);

		if (n == 0)
			return mc_fail(err, -EINVAL, "segment name: byte %zu is not UTF-8",
				       (size_t)(s - name));
		if (c < ' ' || c == 0x7f || (c == 0xc2 && (unsigned char)s[1] < 0xa0))
			return mc_fail(err, -EINVAL,
				       "segment name: byte %zu is a control character; leave it out",
				       (size_t)(s - name));
		if (c == '/' || c == '@')
			return mc_fail(err, -EINVAL,
				       "segment name '%s': '%c' is not allowed in it; use another character",
				       name, c);
		s += n;
	}
	return 0;
}

/* The text behind the one colon of name:port or [v6]:port, or NULL. */
static const char *name_port(const char *name)
{
	const char *colon = strrchr(name, ':');

	if (!colon || colon == name)
		return NULL;
	if (*name == '[' ? colon[-1] != ']' : strchr(name, ':') != colon)
		return NULL;
	return colon + 1;
}

uint16_t mc_name_port(const char *name)
{
	const char *text = name_port(name);
	uint16_t port;

	return !text || parse_port(text, &port) < 0 ? 0 : port;
}

int mc_name_port_check(const char *name, struct mc_error *err)
{
	const char *text = name_port(name);
	uint16_t port;

	/* 0 leaves the choice to us, as the setting does. */
	if (!text || !strcmp(text, "0") || parse_port(text, &port) == 0)
		return 0;
	return mc_fail(err, -EINVAL,
		       "segment name '%s': '%s' behind the colon is not a port; give 1 to 65535, or leave "
		       "the colon out",
		       name, text);
}
