/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp transport, devices: a device is a network interface.  Everything is read from
 * sysfs and getifaddrs; nothing is opened.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <ifaddrs.h>
#include <inttypes.h>
#include <limits.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "core/util/cleanup.h"
#include "core/util/pci.h"
#include "tcp.h"

#define CLASS_NET "/sys/class/net"

/* [helper] */
int tcp_enumerate(const struct mc_host *host, int (*found)(void *ctx, const char *device),
		  void *ctx)
{
	struct if_nameindex *ifs = if_nameindex();
	int r = 0;

	(void)host;
	if (!ifs)
		return -errno;
	for (struct if_nameindex *i = ifs; i->if_index && !r; i++)
		if (strlen(i->if_name) <= MC_DEVICE_NAME_MAX)
			r = found(ctx, i->if_name);
	if_freenameindex(ifs);
	return r;
}

/* A number in a sysfs file of the interface, or -1. */
static long long read_number(const char *device, const char *file)
{
	char path[PATH_MAX], text[32];
	mc_cleanup(mc_fclosep) FILE *f = NULL;

	snprintf(path, sizeof path, CLASS_NET "/%s/%s", device, file);
	f = fopen(path, "re");
	if (!f || !fgets(text, sizeof text, f))
		return -1;
	return strtoll(text, NULL, 10);
}

static void read_pci(const char *device, struct mc_device_info *info)
{
	char path[PATH_MAX];

	snprintf(path, sizeof path, CLASS_NET "/%s/device", device);
	mc_pci_of_link(path, info->pci);
}

/* 3: IPv4 of more than the link, 2: IPv6 likewise, 1: of the link only, 0: no IP address. */
static int address_rank(const struct sockaddr *sa)
{
	if (!sa)
		return 0;
	if (sa->sa_family == AF_INET) {
		const struct sockaddr_in *in = (const void *)sa;

		return ntohl(in->sin_addr.s_addr) >> 16 == 0xa9fe ? 1 : 3;
	}
	if (sa->sa_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const void *)sa;

		return IN6_IS_ADDR_LINKLOCAL(&in6->sin6_addr) ? 1 : 2;
	}
	return 0;
}

static void describe_address(const struct ifaddrs *ifa, struct mc_device_info *info)
{
	char text[INET6_ADDRSTRLEN];
	uint8_t addr[16], mask[16];
	int family = ifa->ifa_addr->sa_family, bits = 0;
	size_t len = family == AF_INET ? 4 : 16;

	if (family == AF_INET)
		memcpy(addr, &((struct sockaddr_in *)ifa->ifa_addr)->sin_addr, len);
	else
		memcpy(addr, &((struct sockaddr_in6 *)ifa->ifa_addr)->sin6_addr, len);
	inet_ntop(family, addr, text, sizeof text);
	snprintf(info->address, sizeof info->address, "%s", text);
	if (!ifa->ifa_netmask)
		return;
	if (family == AF_INET)
		memcpy(mask, &((struct sockaddr_in *)ifa->ifa_netmask)->sin_addr, len);
	else
		memcpy(mask, &((struct sockaddr_in6 *)ifa->ifa_netmask)->sin6_addr, len);
	for (size_t i = 0; i < len; i++) {
		addr[i] &= mask[i];
		bits += __builtin_popcount(mask[i]);
	}
	inet_ntop(family, addr, text, sizeof text);
	snprintf(info->subnet, sizeof info->subnet, "%s/%d", text, bits);
}

/* Best address, and the interface's flags; false if there is no such interface. */
static bool find_address(const char *device, struct mc_device_info *info, unsigned *flags)
{
	struct ifaddrs *all, *best = NULL;
	bool known = false;
	int rank = 0;

	if (getifaddrs(&all) < 0)
		return false;
	for (struct ifaddrs *i = all; i; i = i->ifa_next) {
		int r;

		if (strcmp(i->ifa_name, device) != 0)
			continue;
		known = true;
		*flags = i->ifa_flags;
		r = address_rank(i->ifa_addr);
		if (r > rank) {
			rank = r;
			best = i;
		}
	}
	if (best)
		describe_address(best, info);
	freeifaddrs(all);
	return known;
}

/* [helper] */
int tcp_probe(const struct mc_host *host, const char *device, struct mc_device_info *info,
	      struct mc_error *err)
{
	unsigned flags = 0;
	long long speed;

	(void)host;
	(void)err;
	snprintf(info->name, sizeof info->name, "%s", device);
	info->numa_node = -1;
	info->state = MC_STATE_MISSING;
	if (!*device || strchr(device, '/') || !find_address(device, info, &flags)) {
		snprintf(info->remedy, sizeof info->remedy,
			 "there is no interface '%.63s': ip link show lists them",
			 device);
		return 0;
	}
	info->numa_node = (int32_t)read_number(device, "device/numa_node");
	speed = read_number(device, "speed"); /* Mbit/s; virtual interfaces say -1 */
	if (speed > 0)
		info->speed = (uint64_t)speed * 125000;
	read_pci(device, info);
	info->state = MC_STATE_DOWN;
	if (!(flags & IFF_UP))
		snprintf(info->remedy, sizeof info->remedy,
			 "interface %.63s is down: ip link set %.63s up", device, device);
	else if (!(flags & IFF_RUNNING))
		snprintf(info->remedy, sizeof info->remedy,
			 "interface %.63s has no carrier: check its cable or its other end",
			 device);
	else if (!*info->address)
		snprintf(info->remedy, sizeof info->remedy,
			 "interface %.63s has no IP address: ip address add ADDRESS/LEN dev %.63s",
			 device, device);
	else
		info->state = MC_STATE_ACTIVE;
	return 0;
}
