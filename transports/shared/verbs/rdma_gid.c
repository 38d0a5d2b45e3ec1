/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Verbs, GIDs: which of ours reaches which of the peer's.  Pairs are ranked by what the
 * two tables say, then the kernel's routes have a word: a pair that it would send another way, or
 * not at all, fails minutes later with "transport retry counter exceeded", so it is left out here.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/util/cleanup.h"
#include "rdma.h"

/* Parts of a pair's rank; the sum decides. */
#define RANK_DOUBTFUL 64u   /* the route may or may not carry it */
#define RANK_LINK_LOCAL 32u
#define RANK_ROCE1 16u
#define RANK_FAR_SUBNET 8u
#define RANK_V6 1u

#define CANDIDATES_MAX 64u  /* pairs whose routes are asked for */
#define ANSWER_MS 500       /* the kernel answers at once, or there is something in its place */

bool rdma_gid_is_v4(const struct rdma_gid *gid)
{
	static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };

	return gid->type != RDMA_GID_IB && !memcmp(gid->raw, mapped, sizeof mapped);
}

/* fe80::/10, and 169.254.0.0/16. */
bool rdma_gid_is_link_local(const struct rdma_gid *gid)
{
	if (gid->type == RDMA_GID_IB)
		return false;
	if (rdma_gid_is_v4(gid))
		return gid->raw[12] == 169 && gid->raw[13] == 254;
	return gid->raw[0] == 0xfe && (gid->raw[1] & 0xc0) == 0x80;
}

const char *rdma_gid_address(const struct rdma_gid *gid, char *buf, size_t cap)
{
	char text[INET6_ADDRSTRLEN] = "";

	if (rdma_gid_is_v4(gid))
		inet_ntop(AF_INET, gid->raw + 12, text, sizeof text);
	else
		inet_ntop(AF_INET6, gid->raw, text, sizeof text);
	snprintf(buf, cap, "%s", text);
	return buf;
}

const char *rdma_gid_print(const struct rdma_gid *gid, char *buf, size_t cap)
{
	static const char *const types[] = { "InfiniBand", "RoCE v1", "RoCE v2" };
	char address[INET6_ADDRSTRLEN];

	snprintf(buf, cap, "%s (%s, index %u)", rdma_gid_address(gid, address, sizeof address),
		 gid->type < MC_ARRAY_SIZE(types) ? types[gid->type] : "?", gid->index);
	return buf;
}

unsigned rdma_gid_grade(const struct rdma_gid *gid)
{
	unsigned grade = 0;

	if (rdma_gid_is_link_local(gid))
		grade += RANK_LINK_LOCAL;
	if (gid->type == RDMA_GID_ROCE1)
		grade += RANK_ROCE1;
	if (gid->type != RDMA_GID_IB && !rdma_gid_is_v4(gid))
		grade += RANK_V6;
	return grade;
}

/* ---- routes ------------------------------------------------------------------------------------ */

/* The interface that has the GID's address, 0 if none has. */
static unsigned find_interface(const struct rdma_gid *gid)
{
	struct ifaddrs *all;
	unsigned index = 0;

	if (getifaddrs(&all) < 0)
		return 0;
	for (const struct ifaddrs *i = all; i && !index; i = i->ifa_next) {
		const struct sockaddr *sa = i->ifa_addr;
		bool same = false;

		if (sa && sa->sa_family == AF_INET && rdma_gid_is_v4(gid))
			same = !memcmp(&((const struct sockaddr_in *)(const void *)sa)->sin_addr,
				       gid->raw + 12, 4);
		else if (sa && sa->sa_family == AF_INET6 && !rdma_gid_is_v4(gid))
			same = !memcmp(&((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr,
				       gid->raw, 16);
		if (same)
			index = if_nametoindex(i->ifa_name);
	}
	freeifaddrs(all);
	return index;
}

struct route {
	uint8_t type; /* RTN_* */
	unsigned oif;
	bool gateway;
};

struct route_ask {
	struct nlmsghdr head;
	struct rtmsg rt;
	uint8_t attrs[2 * RTA_SPACE(16) + RTA_SPACE(4)];
};

static void put_attr(struct route_ask *ask, unsigned short type, const void *data, unsigned short len)
{
	struct rtattr *a = (void *)((uint8_t *)ask + NLMSG_ALIGN(ask->head.nlmsg_len));

	a->rta_type = type;
	a->rta_len = (unsigned short)RTA_LENGTH(len);
	memcpy(RTA_DATA(a), data, len);
	ask->head.nlmsg_len = NLMSG_ALIGN(ask->head.nlmsg_len) + (uint32_t)RTA_SPACE(len);
}

/* 0, or -errno as the kernel gives it: -ENETUNREACH, -EHOSTUNREACH, ... */
static int read_route(const struct nlmsghdr *head, size_t n, struct route *ret)
{
	const struct rtmsg *rt = NLMSG_DATA(head);
	int left;

	if (!NLMSG_OK(head, n))
		return -EPROTO;
	if (head->nlmsg_type == NLMSG_ERROR && head->nlmsg_len >= NLMSG_LENGTH(sizeof(struct nlmsgerr))) {
		int r = ((const struct nlmsgerr *)NLMSG_DATA(head))->error;

		return r < 0 ? r : -EPROTO;
	}
	if (head->nlmsg_type != RTM_NEWROUTE || head->nlmsg_len < NLMSG_LENGTH(sizeof *rt))
		return -EPROTO;
	*ret = (struct route){ .type = rt->rtm_type };
	left = (int)(head->nlmsg_len - NLMSG_LENGTH(sizeof *rt));
	for (const struct rtattr *a = RTM_RTA(rt); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
		if (a->rta_type == RTA_OIF && RTA_PAYLOAD(a) == sizeof ret->oif)
			memcpy(&ret->oif, RTA_DATA(a), sizeof ret->oif);
		ret->gateway |= a->rta_type == RTA_GATEWAY || a->rta_type == RTA_VIA;
	}
	return 0;
}

/* How the kernel would send from one address to the other; by interface `oif` if that is not 0.  Then
 * it must have a route there: without RTM_F_FIB_MATCH IPv4 takes every address for one of the link. */
static int ask_route(const struct rdma_gid *own, const struct rdma_gid *far, unsigned oif, struct route *ret)
{
	bool v4 = rdma_gid_is_v4(far);
	unsigned short len = v4 ? 4 : 16;
	struct timeval patience = { .tv_usec = ANSWER_MS * 1000 };
	struct route_ask ask = {
		.head = { .nlmsg_len = NLMSG_LENGTH(sizeof(struct rtmsg)), .nlmsg_type = RTM_GETROUTE,
			  .nlmsg_flags = NLM_F_REQUEST, .nlmsg_seq = 1 },
		.rt = { .rtm_family = v4 ? AF_INET : AF_INET6, .rtm_dst_len = (unsigned char)(len * 8),
			.rtm_src_len = (unsigned char)(len * 8), .rtm_flags = oif ? RTM_F_FIB_MATCH : 0 },
	};
	_Alignas(struct nlmsghdr) char buf[4096];
	mc_cleanup(mc_closep) int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	ssize_t n;

	if (fd < 0)
		return -errno;
	put_attr(&ask, RTA_DST, far->raw + 16 - len, len);
	put_attr(&ask, RTA_SRC, own->raw + 16 - len, len);
	if (oif)
		put_attr(&ask, RTA_OIF, &oif, sizeof oif);
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) < 0 ||
	    send(fd, &ask, ask.head.nlmsg_len, 0) < 0)
		return -errno;
	n = recv(fd, buf, sizeof buf, 0);
	return n < 0 ? -errno : read_route((void *)buf, (size_t)n, ret);
}

/* May this route carry packets of the GID that `interface` has?  RoCE v1 does not pass routers. */
static bool carries(const struct route *route, unsigned interface, const struct rdma_gid *own)
{
	return route->type == RTN_UNICAST && route->oif == interface &&
	       !(route->gateway && own->type == RDMA_GID_ROCE1);
}

/* [helper] */
int rdma_gid_route(const struct rdma_gid *own, const struct rdma_gid *far, const char *device)
{
	struct route route;
	unsigned interface;
	int r;

	(void)device;
	if (own->type == RDMA_GID_IB || !memcmp(own->raw, far->raw, sizeof own->raw))
		return 0;
	interface = find_interface(own);
	if (!interface)
		return 1;
	/* Every interface has a route for these; only a try tells. */
	if (rdma_gid_is_link_local(far) && !rdma_gid_is_v4(far))
		return find_interface(far) ? 1 : 0;
	r = ask_route(own, far, 0, &route);
	/* No netlink here, or no answer. */
	if (r == -EAFNOSUPPORT || r == -EPROTONOSUPPORT || r == -EAGAIN || r == -EPERM)
		return 1;
	if (r == 0 && carries(&route, interface, own))
		return 0;
	/* Adapters send it out on their own port; soft-RoCE cannot, unless policy routing says so. */
	if (r == 0 && route.type == RTN_LOCAL)
		return 1;
	/* Of several interfaces in one subnet the kernel prefers one; a queue pair is bound to its
	 * own. */
	r = ask_route(own, far, interface, &route);
	return r == 0 && carries(&route, interface, own) ? 0 : -EHOSTUNREACH;
}

/* ---- pairs ----------------------------------------------------------------------------------------- */

static bool same_bits(const uint8_t *a, const uint8_t *b, unsigned bits)
{
	unsigned bytes = bits / 8, rest = bits % 8;
	uint8_t mask = (uint8_t)(0xff << (8 - rest));

	return !memcmp(a, b, bytes) && (!rest || !((a[bytes] ^ b[bytes]) & mask));
}

static bool same_subnet(const struct rdma_gid *a, const struct rdma_gid *b)
{
	unsigned bits = a->prefix && b->prefix ? MC_MIN(a->prefix, b->prefix) : MC_MAX(a->prefix, b->prefix);

	return bits && bits <= 128 && same_bits(a->raw, b->raw, bits);
}

/* false: the two cannot talk, whatever the routes. */
static bool rank_pair(const struct rdma_gid *own, const struct rdma_gid *far, uint8_t *ret_rank)
{
	if (own->type != far->type || rdma_gid_is_v4(own) != rdma_gid_is_v4(far) ||
	    rdma_gid_is_link_local(own) != rdma_gid_is_link_local(far))
		return false;
	*ret_rank = (uint8_t)(rdma_gid_grade(own) + (same_subnet(own, far) ? 0 : RANK_FAR_SUBNET));
	return true;
}

/* Sorted by rank; of equals the earlier stays first.  Returns the new number. */
static size_t insert_pair(struct rdma_pair *list, size_t nr, size_t cap, struct rdma_pair pair)
{
	size_t at = nr;

	while (at > 0 && list[at - 1].rank > pair.rank)
		at--;
	if (at == cap)
		return nr;
	nr = MC_MIN(nr + 1, cap);
	memmove(&list[at + 1], &list[at], (nr - at - 1) * sizeof *list);
	list[at] = pair;
	return nr;
}

static size_t find_candidates(const struct rdma_port *own, const struct rdma_port *far,
			      struct rdma_pair list[CANDIDATES_MAX])
{
	size_t nr = 0;

	for (uint32_t i = 0; i < MC_MIN(own->nr_gids, RDMA_GIDS_MAX); i++)
		for (uint32_t j = 0; j < MC_MIN(far->nr_gids, RDMA_GIDS_MAX); j++) {
			struct rdma_pair pair = { .own = (uint8_t)i, .far = (uint8_t)j };

			if (rank_pair(&own->gids[i], &far->gids[j], &pair.rank))
				nr = insert_pair(list, nr, CANDIDATES_MAX, pair);
		}
	return nr;
}

static const struct rdma_gid *best_gid(const struct rdma_port *port)
{
	const struct rdma_gid *best = &port->gids[0];

	for (uint32_t i = 1; i < MC_MIN(port->nr_gids, RDMA_GIDS_MAX); i++)
		if (rdma_gid_grade(&port->gids[i]) < rdma_gid_grade(best))
			best = &port->gids[i];
	return best;
}

static void say_why(const struct rdma_port *own, const struct rdma_port *far, const char *device,
		    const struct rdma_pair *refused, char *why, size_t why_cap)
{
	const struct rdma_gid *a = best_gid(own), *b = best_gid(far);
	char a_text[80], b_text[80];

	if (!own->nr_gids || !far->nr_gids) {
		snprintf(why, why_cap, "%s has no GID: give its network interface an address",
			 own->nr_gids ? "the port of the other end" : device);
		return;
	}
	if (refused) {
		a = &own->gids[refused->own];
		b = &far->gids[refused->far];
	}
	rdma_gid_print(a, a_text, sizeof a_text);
	rdma_gid_print(b, b_text, sizeof b_text);
	if (own->infiniband != far->infiniband)
		snprintf(why, why_cap, "%s of %s is %s and the other end's is %s: pair ports of one kind in "
			 "nic_priority_matrix", a_text, device, own->infiniband ? "InfiniBand" : "Ethernet",
			 far->infiniband ? "InfiniBand" : "Ethernet");
	else if (refused)
		snprintf(why, why_cap, "no route from %s of %s to %s: give both ends addresses of one subnet, or "
			 "add a route by that interface", a_text, device, b_text);
	else
		snprintf(why, why_cap, "%s of %s and %s of the other end are of different types or families: give "
			 "both ends IPv4, or both IPv6 addresses, and leave gid_index at auto", a_text, device,
			 b_text);
}

size_t rdma_gid_pairs(const struct rdma_port *own, const struct rdma_port *far, const char *device,
		      int (*route)(const struct rdma_gid *own, const struct rdma_gid *far,
				   const char *device),
		      struct rdma_pair pairs[RDMA_PAIRS_MAX], char *why, size_t why_cap)
{
	struct rdma_pair list[CANDIDATES_MAX];
	size_t nr_list = own->infiniband == far->infiniband ? find_candidates(own, far, list) : 0, nr = 0;

	for (size_t i = 0; i < nr_list; i++) {
		int r = route(&own->gids[list[i].own], &far->gids[list[i].far], device);
		struct rdma_pair pair = list[i];

		if (r < 0)
			continue;
		if (r > 0)
			pair.rank = (uint8_t)(pair.rank + RANK_DOUBTFUL);
		nr = insert_pair(pairs, nr, RDMA_PAIRS_MAX, pair);
	}
	if (!nr)
		say_why(own, far, device, nr_list ? &list[0] : NULL, why, why_cap);
	return nr;
}
