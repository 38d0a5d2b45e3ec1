/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp transport, news of the interface: the kernel tells over a netlink socket when
 * it loses its carrier, is taken down, comes back, or vanishes, and the host routes
 * around it at once instead of waiting for timeouts.  Lane 0 watches for all lanes.
 * A host without netlink (some sandboxes) goes on without.
 */
#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tcp.h"

static void link_told(struct tcp *tcp, int event, const char *why)
{
	if (tcp->link_event == event)
		return;
	tcp->link_event = event;
	tcp->host->device_event(tcp->host, event, why);
}

static void link_flags(struct tcp *tcp, unsigned flags)
{
	if (!(flags & IFF_UP))
		link_told(tcp, MC_DEVICE_DOWN, "the interface was taken down");
	else if (!(flags & IFF_RUNNING))
		link_told(tcp, MC_DEVICE_DOWN, "the interface has lost its carrier");
	else
		link_told(tcp, MC_DEVICE_UP, "the interface is up");
}

static void link_message(struct tcp *tcp, const struct nlmsghdr *nh)
{
	const struct ifinfomsg *ifi = NLMSG_DATA(nh);

	if (nh->nlmsg_len < NLMSG_LENGTH(sizeof *ifi) || ifi->ifi_index != tcp->ifindex)
		return;
	if (nh->nlmsg_type == RTM_DELLINK)
		link_told(tcp, MC_DEVICE_GONE, "the interface was removed");
	else if (nh->nlmsg_type == RTM_NEWLINK)
		link_flags(tcp, ifi->ifi_flags);
}

/* The kernel had no room for some news: what is true now counts. */
static void link_look(struct tcp *tcp)
{
	struct ifreq ifr = { .ifr_ifindex = tcp->ifindex };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return;
	/* By index: the name may be another interface's by now. */
	if (ioctl(fd, SIOCGIFNAME, &ifr) == 0 && ioctl(fd, SIOCGIFFLAGS, &ifr) == 0)
		link_flags(tcp, (unsigned short)ifr.ifr_flags);
	else if (errno == ENODEV)
		link_told(tcp, MC_DEVICE_GONE, "the interface was removed");
	close(fd);
}

/* [worker] */
static void link_ready(struct mc_watch *w, uint32_t revents)
{
	struct tcp *tcp = MC_CONTAINER_OF(w, struct tcp, link);
	_Alignas(struct nlmsghdr) char buf[8192];
	bool lost = false;
	ssize_t n;

	(void)revents;
	while ((n = recv(w->fd, buf, sizeof buf, MSG_DONTWAIT)) > 0 || (n < 0 && errno == ENOBUFS)) {
		int left = (int)n;

		lost |= n < 0;
		for (struct nlmsghdr *nh = (void *)buf; left > 0 && NLMSG_OK(nh, (unsigned)left);
		     nh = NLMSG_NEXT(nh, left))
			link_message(tcp, nh);
	}
	/* After what was still told, which is older. */
	if (lost)
		link_look(tcp);
}

/* [helper], inside open. */
void tcp_link_open(struct tcp *tcp, const char *device)
{
	struct sockaddr_nl addr = { .nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK };
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);

	tcp->link_event = MC_DEVICE_UP;
	tcp->ifindex = (int)if_nametoindex(device);
	if (fd < 0)
		return;
	if (tcp->ifindex > 0 && bind(fd, (struct sockaddr *)&addr, sizeof addr) == 0) {
		tcp->link = (struct mc_watch){ .size = sizeof tcp->link, .fd = fd, .events = POLLIN,
					       .ready = link_ready };
		if (tcp->host->watch(tcp->host, &tcp->link) == 0)
			return;
	}
	tcp->link.fd = -1;
	close(fd);
}

/* [worker] */
void tcp_link_stop(struct tcp *tcp)
{
	if (tcp->link.fd < 0)
		return;
	tcp->host->unwatch(tcp->host, &tcp->link);
	tcp_link_close(tcp);
}

/* [helper] */
void tcp_link_close(struct tcp *tcp)
{
	if (tcp->link.fd >= 0)
		close(tcp->link.fd);
	tcp->link.fd = -1;
}
