/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Verbs, the port: its state, its GIDs, and the device's asynchronous events.  Lane 0 has
 * them for all lanes.
 *
 * An event is a hint: after it, and after a suspicion of any lane, a helper asks the device how its
 * port is, and that is what the host is told.  While there are peers the port's state is asked for
 * each second besides, for a network interface that is deleted says nothing: its GIDs change, and
 * from then on ibv_query_port answers ENODEV.
 */
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "core/util/cleanup.h"
#include "rdma.h"

#define SOON_NS (20 * MC_MSEC) /* events come in bursts: one look after them */
#define LOOK_NS MC_SEC         /* while there are peers, or the port is down */

/* ---- reading the port ------------------------------------------------------------------------------ */

static uint32_t mtu_bytes(enum ibv_mtu mtu)
{
	return mtu >= IBV_MTU_256 && mtu <= IBV_MTU_4096 ? 128u << mtu : 256;
}

uint64_t rdma_port_speed(const struct ibv_port_attr *attr)
{
	/* Mbit/s of data per lane, by the bit that is set: SDR, DDR, QDR, FDR10, FDR, EDR, HDR, NDR. */
	static const uint32_t lane[] = { 2500, 5000, 10000, 10000, 14000, 25000, 50000, 100000 };
	uint64_t speed = 0, width = attr->active_width == 16 ? 2 : attr->active_width == 1 ? 1 :
			 attr->active_width == 2 ? 4 : attr->active_width == 4 ? 8 : attr->active_width == 8 ? 12 : 0;

	for (unsigned i = 0; i < MC_ARRAY_SIZE(lane); i++)
		if (attr->active_speed & (1u << i))
			speed = lane[i];
	return speed * width * 125000;
}

/* Bits of a mask that lie at its front. */
static unsigned mask_bits(const uint8_t *mask, size_t len)
{
	unsigned bits = 0;

	for (size_t i = 0; i < len; i++)
		bits += (unsigned)__builtin_popcount(mask[i]);
	return bits;
}

/* The prefix of the address that the GID stands for, 0 if no interface here has it. */
static uint8_t find_prefix(const struct ifaddrs *all, const struct rdma_gid *gid)
{
	bool v4 = rdma_gid_is_v4(gid);

	if (gid->type == RDMA_GID_IB)
		return 64;
	for (const struct ifaddrs *i = all; i; i = i->ifa_next) {
		const void *addr = i->ifa_addr, *mask = i->ifa_netmask;

		if (!addr || !mask || i->ifa_addr->sa_family != (v4 ? AF_INET : AF_INET6))
			continue;
		if (v4 && !memcmp(&((const struct sockaddr_in *)addr)->sin_addr, gid->raw + 12, 4))
			return (uint8_t)(96 + mask_bits((const void *)&((const struct sockaddr_in *)mask)->sin_addr, 4));
		if (!v4 && !memcmp(&((const struct sockaddr_in6 *)addr)->sin6_addr, gid->raw, 16))
			return (uint8_t)mask_bits((const void *)&((const struct sockaddr_in6 *)mask)->sin6_addr, 16);
	}
	return 0;
}

/* Best first; of equals by index.  A table may be larger than ours. */
static void add_gid(struct rdma_port *port, const struct rdma_gid *gid)
{
	uint32_t at = port->nr_gids;

	while (at > 0 && rdma_gid_grade(&port->gids[at - 1]) > rdma_gid_grade(gid))
		at--;
	if (at == RDMA_GIDS_MAX)
		return;
	port->nr_gids = MC_MIN(port->nr_gids + 1, RDMA_GIDS_MAX);
	memmove(&port->gids[at + 1], &port->gids[at], (port->nr_gids - at - 1) * sizeof *gid);
	port->gids[at] = *gid;
}

static void add_gids(struct rdma_port *port, const struct ibv_gid_entry *entries, size_t nr, uint32_t nr_port)
{
	static const uint8_t none[16];
	struct ifaddrs *all = NULL;

	/* Without it prefixes are unknown, which costs a rank at most. */
	if (getifaddrs(&all) < 0)
		all = NULL;
	for (size_t i = 0; i < nr; i++) {
		const struct ibv_gid_entry *e = &entries[i];
		struct rdma_gid gid = { .type = (uint8_t)e->gid_type, .index = (uint16_t)e->gid_index };

		memcpy(gid.raw, e->gid.raw, sizeof gid.raw);
		/* An InfiniBand entry without an interface id, fe80:: alone, is no address either. */
		if (e->port_num != nr_port || e->gid_index > UINT8_MAX || e->gid_type > IBV_GID_TYPE_ROCE_V2 ||
		    !memcmp(gid.raw, none, sizeof none) || !memcmp(gid.raw + 8, none, 8))
			continue;
		gid.prefix = find_prefix(all, &gid);
		add_gid(port, &gid);
	}
	freeifaddrs(all);
}

static void list_gids(const struct rdma_port *port, char *buf, size_t cap)
{
	size_t at = 0;

	*buf = '\0';
	for (uint32_t i = 0; i < port->nr_gids && at < cap; i++) {
		char text[96];

		at += (size_t)snprintf(buf + at, cap - at, "%s%s", i ? ", " : "",
				       rdma_gid_print(&port->gids[i], text, sizeof text));
	}
	if (at >= cap && cap > 4)
		memcpy(buf + cap - 4, "...", 4);
}

/* Keep only the one that the user has named. */
static int choose_gid(struct rdma_port *port, int index, int table_len, const char *device, uint8_t nr_port,
		      struct mc_error *err)
{
	char list[512];

	for (uint32_t i = 0; i < port->nr_gids; i++)
		if (port->gids[i].index == index) {
			port->gids[0] = port->gids[i];
			port->nr_gids = 1;
			return 0;
		}
	list_gids(port, list, sizeof list);
	port->nr_gids = 0;
	if (index >= table_len)
		return mc_fail(err, -EINVAL, "gid_index %d is out of range 0..%d of device %.63s, port %u, whose GIDs are: "
			       "%s: name one of them, or auto", index, table_len - 1, device, nr_port, *list ? list : "none");
	return mc_fail(err, -EINVAL, "gid_index %d of device %.63s, port %u, holds no GID; there are: %s: name one of "
		       "them, or auto", index, device, nr_port, *list ? list : "none");
}

static int query_port(struct ibv_context *ctx, const char *device, uint8_t nr, struct ibv_port_attr *attr,
		      struct mc_error *err)
{
	int r = ibv_query_port(ctx, nr, attr);

	if (!r)
		return 0;
	r = r > 0 ? r : errno;
	if (r == ENODEV)
		return mc_fail(err, -ENODEV, "device %.63s has gone: its network interface or adapter was removed", device);
	return mc_fail(err, -r, "device %.63s, port %u: %s: see the kernel's log (dmesg)", device, nr, strerror(r));
}

/* [any] */
int rdma_port_read(struct ibv_context *ctx, const char *device, const struct rdma_settings *set,
		   struct rdma_port *port, struct mc_error *err)
{
	mc_cleanup(mc_freep) struct ibv_gid_entry *entries = NULL;
	struct ibv_device_attr device_attr;
	struct ibv_port_attr attr;
	size_t cap;
	ssize_t nr;
	int r = query_port(ctx, device, set->port, &attr, err);

	if (r < 0)
		return r;
	memset(port, 0, sizeof *port);
	port->lid = attr.lid;
	port->infiniband = attr.link_layer != IBV_LINK_LAYER_ETHERNET;
	port->state = (uint8_t)attr.state;
	port->mtu = MC_MIN(mtu_bytes(attr.active_mtu), set->mtu);
	r = ibv_query_device(ctx, &device_attr);
	if (r)
		return mc_fail(err, -abs(r), "device %.63s does not answer: %s", device, strerror(abs(r)));
	/* The entries of all ports come together. */
	cap = (size_t)MC_MAX(attr.gid_tbl_len, 1) * MC_MAX(device_attr.phys_port_cnt, 1);
	entries = calloc(cap, sizeof *entries);
	if (!entries)
		return mc_fail(err, -ENOMEM, "device %.63s: no memory for its %zu GIDs", device, cap);
	nr = ibv_query_gid_table(ctx, entries, cap, 0);
	if (nr < 0)
		return mc_fail(err, (int)nr, "device %.63s, port %u: its GIDs cannot be read: %s", device, set->port,
			       strerror((int)-nr));
	add_gids(port, entries, (size_t)nr, set->port);
	return set->gid_index < 0 ? 0 : choose_gid(port, set->gid_index, attr.gid_tbl_len, device, set->port, err);
}

/* [any] */
int rdma_port_usable(const struct rdma_port *port, const char *device, const struct rdma_settings *set,
		     struct mc_error *err)
{
	static const char *const states[] = { "in no state", "DOWN", "INIT", "ARMED", "ACTIVE", "ACTIVE (deferred)" };
	const char *state = port->state < MC_ARRAY_SIZE(states) ? states[port->state] : "in an unknown state";
	char netdev[64];

	if (port->state != IBV_PORT_ACTIVE && !port->infiniband)
		return mc_fail(err, -ENETDOWN, "port %u of device %.63s is %s: ip link set %s up, and check its cable",
			       set->port, device, state, rdma_netdev(device, set->port, netdev, sizeof netdev));
	if (port->state == IBV_PORT_INIT || port->state == IBV_PORT_ARMED)
		return mc_fail(err, -ENETDOWN, "port %u of device %.63s is %s: start a subnet manager (opensm) on its fabric",
			       set->port, device, state);
	if (port->state != IBV_PORT_ACTIVE)
		return mc_fail(err, -ENETDOWN, "port %u of device %.63s is %s: check its cable and its switch's port",
			       set->port, device, state);
	if (!port->nr_gids)
		return mc_fail(err, -EADDRNOTAVAIL, "port %u of device %.63s has no GID: ip address add ADDRESS/LEN dev %s",
			       set->port, device, rdma_netdev(device, set->port, netdev, sizeof netdev));
	return 0;
}

/* [any] */
void rdma_port_get(struct rdma *rdma, struct rdma_port *port)
{
	struct rdma *lane0 = rdma->lane0;

	pthread_mutex_lock(&lane0->port_lock);
	*port = lane0->port;
	pthread_mutex_unlock(&lane0->port_lock);
}

/* ---- looking at it again, lane 0 -------------------------------------------------------------------- */

/* [worker] */
static void look_by(struct rdma *lane0, uint64_t deadline_ns)
{
	struct mc_timer *t = &lane0->port_timer;

	if (!lane0->stopped && !lane0->gone && (!t->deadline_ns || deadline_ns < t->deadline_ns))
		lane0->host->timer_set(lane0->host, t, deadline_ns);
}

/* [worker] */
static void look_soon(struct rdma *lane0)
{
	lane0->port_again = true;
	if (!lane0->port_busy)
		look_by(lane0, lane0->host->now_ns(lane0->host) + SOON_NS);
}

/* [worker] of another lane: what lane 0 has told last. */
static void lane_told(struct mc_work *w)
{
	struct rdma *rdma = w->user, *lane0 = rdma->lane0;
	char why[sizeof lane0->told_why];
	int event;

	pthread_mutex_lock(&lane0->region_lock);
	rdma->told_posted = false;
	event = lane0->told;
	memcpy(why, lane0->told_why, sizeof why);
	pthread_mutex_unlock(&lane0->region_lock);
	if (!rdma->stopped)
		rdma->host->device_event(rdma->host, event, why);
}

void rdma_port_lane(struct rdma *rdma)
{
	rdma->told_work = (struct mc_work){ .size = sizeof rdma->told_work, .run = lane_told, .user = rdma };
}

void rdma_port_lane_stop(struct rdma *rdma)
{
	pthread_mutex_lock(&rdma->lane0->region_lock);
	rdma->told_off = true;
	pthread_mutex_unlock(&rdma->lane0->region_lock);
}

/* Peers are of one lane each, and the host asks every lane for news of its own. */
static void tell_lanes(struct rdma *lane0, int event, const char *why)
{
	struct rdma *lane;

	pthread_mutex_lock(&lane0->region_lock);
	lane0->told = event;
	snprintf(lane0->told_why, sizeof lane0->told_why, "%s", why);
	LL_FOREACH2(lane0->lanes, lane, next_lane) {
		if (lane == lane0 || lane->told_posted || lane->told_off)
			continue;
		lane->told_posted = true;
		lane->host->post(lane->host, &lane->told_work);
	}
	pthread_mutex_unlock(&lane0->region_lock);
}

/* Tell the host what it does not know yet.  [worker] */
static void tell(struct rdma *lane0, int event, const char *why)
{
	bool down = event != MC_DEVICE_UP;

	if (lane0->stopped || lane0->gone || (event != MC_DEVICE_GONE && down == lane0->port_down))
		return;
	lane0->port_down = down;
	lane0->host->device_event(lane0->host, event, why);
	tell_lanes(lane0, event, why);
	if (event == MC_DEVICE_GONE)
		rdma_gone(lane0);
}

/* Is the port as it was?  One command to the device; the GID table can be hundreds of files. */
static bool unchanged(struct rdma *lane0)
{
	const struct rdma_port *old = &lane0->port; /* written by port_done only, which does not run now */
	struct ibv_port_attr attr;

	if (lane0->port_full || !old->nr_gids ||
	    query_port(lane0->ctx, lane0->device, lane0->set.port, &attr, NULL) < 0 ||
	    attr.state != (enum ibv_port_state)old->state || attr.lid != old->lid ||
	    MC_MIN(mtu_bytes(attr.active_mtu), lane0->set.mtu) != old->mtu)
		return false;
	lane0->port_new = *old;
	return true;
}

/* [helper] */
static void port_run(struct mc_work *w)
{
	struct rdma *lane0 = w->user;
	int r = 0;

	lane0->port_new.state = 0;
	if (!unchanged(lane0))
		r = rdma_port_read(lane0->ctx, lane0->device, &lane0->set, &lane0->port_new, &lane0->port_err);
	if (r == 0)
		r = rdma_port_usable(&lane0->port_new, lane0->device, &lane0->set, &lane0->port_err);
	lane0->port_status = r;
}

/* [worker] */
static void port_done(struct mc_work *w)
{
	struct rdma *lane0 = w->user;

	lane0->port_busy = false;
	if (lane0->stopped)
		return;
	/* What was read counts even if it is of no use now: peers are told of no GID that has gone. */
	if (lane0->port_new.state) {
		pthread_mutex_lock(&lane0->port_lock);
		lane0->port = lane0->port_new;
		pthread_mutex_unlock(&lane0->port_lock);
	}
	if (lane0->port_status == -ENODEV)
		tell(lane0, MC_DEVICE_GONE, lane0->port_err.text);
	else if (lane0->port_status < 0)
		tell(lane0, MC_DEVICE_DOWN, lane0->port_err.text);
	else
		tell(lane0, MC_DEVICE_UP, "its port is active");
	if (lane0->port_again)
		look_soon(lane0);
	else if (lane0->port_down || atomic_load_explicit(&lane0->nr_peers, memory_order_relaxed))
		look_by(lane0, lane0->host->now_ns(lane0->host) + LOOK_NS);
}

/* [worker] */
static void port_fire(struct mc_timer *t, uint64_t now_ns)
{
	struct rdma *lane0 = t->user;

	(void)now_ns;
	if (lane0->stopped || lane0->gone || lane0->port_busy)
		return;
	lane0->port_busy = true;
	lane0->port_full = lane0->port_again;
	lane0->port_again = false;
	lane0->host->run_blocking(lane0->host, &lane0->port_work);
}

/* [worker] What other lanes wanted. */
static void port_kicked(struct mc_work *w)
{
	struct rdma *lane0 = w->user;

	if (atomic_exchange(&lane0->port_wanted, 0) > 1)
		look_soon(lane0);
	else if (!lane0->port_busy)
		look_by(lane0, lane0->host->now_ns(lane0->host) + LOOK_NS);
}

/* [worker] of another lane: 1 = see that somebody looks each second, 2 = look now. */
static void kick(struct rdma *rdma, uint32_t how)
{
	struct rdma *lane0 = rdma->lane0;

	if (!atomic_fetch_or(&lane0->port_wanted, how))
		lane0->host->post(lane0->host, &lane0->port_kick);
}

void rdma_port_check(struct rdma *rdma)
{
	if (rdma == rdma->lane0)
		look_soon(rdma);
	else
		kick(rdma, 2);
}

void rdma_port_peers(struct rdma *rdma, int change)
{
	struct rdma *lane0 = rdma->lane0;
	uint32_t before = atomic_fetch_add(&lane0->nr_peers, (uint32_t)change);

	if (before || change < 0)
		return;
	if (rdma != lane0)
		kick(rdma, 1);
	else if (!lane0->port_busy)
		look_by(lane0, lane0->host->now_ns(lane0->host) + LOOK_NS);
}

/* ---- asynchronous events ------------------------------------------------------------------------------ */

/* Between getting and acknowledging the event its queue pair cannot be destroyed, so its endpoint is
 * there.  Those of other lanes are their workers'; failing requests tell them.  [worker] */
static void qp_event(struct rdma *lane0, const struct ibv_async_event *event)
{
	struct rdma_ep *ep = event->element.qp->qp_context;
	const char *what = ibv_event_type_str(event->event_type);

	lane0->host->log(lane0->host, MC_LOG_DEBUG, "device %s, qp 0x%x: %s", lane0->device,
			 event->element.qp->qp_num, what);
	if (ep && ep->rdma == lane0 && ep->peer && !lane0->stopped)
		rdma_peer_broke(ep->peer, -EIO, what);
}

/* [worker] */
static void handle_event(struct rdma *lane0, const struct ibv_async_event *event)
{
	char why[160];

	switch (event->event_type) {
	case IBV_EVENT_QP_FATAL:
	case IBV_EVENT_QP_REQ_ERR:
	case IBV_EVENT_QP_ACCESS_ERR:
		qp_event(lane0, event);
		break;
	case IBV_EVENT_CQ_ERR:
		/* Nothing of its lane would ever complete. */
		snprintf(why, sizeof why, "a completion queue of device %.63s has failed: open the engine anew",
			 lane0->device);
		tell(lane0, MC_DEVICE_GONE, why);
		break;
	case IBV_EVENT_DEVICE_FATAL:
		snprintf(why, sizeof why, "device %.63s has failed: see the kernel's log (dmesg)", lane0->device);
		tell(lane0, MC_DEVICE_GONE, why);
		break;
	case IBV_EVENT_PORT_ERR:
		if (event->element.port_num != lane0->set.port)
			break;
		snprintf(why, sizeof why, "port %u of device %.63s has gone down", lane0->set.port, lane0->device);
		tell(lane0, MC_DEVICE_DOWN, why);
		look_soon(lane0);
		break;
	case IBV_EVENT_PORT_ACTIVE:
	case IBV_EVENT_LID_CHANGE:
	case IBV_EVENT_PKEY_CHANGE:
	case IBV_EVENT_SM_CHANGE:
	case IBV_EVENT_CLIENT_REREGISTER:
	case IBV_EVENT_GID_CHANGE:
		if (event->element.port_num == lane0->set.port)
			look_soon(lane0);
		break;
	default:
		break;
	}
}

/* [worker] */
static void events_ready(struct mc_watch *w, uint32_t revents)
{
	struct rdma *lane0 = w->user;
	struct ibv_async_event event;

	(void)revents;
	errno = 0;
	while (ibv_get_async_event(lane0->ctx, &event) == 0) {
		if (event.event_type != IBV_EVENT_COMM_EST)
			lane0->host->log(lane0->host, MC_LOG_DEBUG, "device %s: event: %s", lane0->device,
					 ibv_event_type_str(event.event_type));
		handle_event(lane0, &event);
		ibv_ack_async_event(&event);
		errno = 0;
	}
	/* The driver has let go of the device; the descriptor stays readable for ever. */
	if (errno != EAGAIN && errno != EINTR) {
		lane0->host->unwatch(lane0->host, w);
		w->fd = -1;
		look_soon(lane0);
	}
	rdma_settle(lane0);
}

/* [helper], inside open of lane 0. */
int rdma_events_open(struct rdma *rdma, struct mc_error *err)
{
	int flags = fcntl(rdma->ctx->async_fd, F_GETFL), r;

	rdma->port_work = (struct mc_work){ .size = sizeof rdma->port_work, .run = port_run, .done = port_done,
					    .user = rdma };
	rdma->port_kick = (struct mc_work){ .size = sizeof rdma->port_kick, .run = port_kicked, .user = rdma };
	rdma->port_timer = (struct mc_timer){ .size = sizeof rdma->port_timer, .fire = port_fire, .user = rdma };
	rdma->async_watch = (struct mc_watch){ .size = sizeof rdma->async_watch, .fd = rdma->ctx->async_fd,
					       .events = POLLIN, .ready = events_ready, .user = rdma };
	r = flags < 0 || fcntl(rdma->ctx->async_fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno :
	    rdma->host->watch(rdma->host, &rdma->async_watch);
	if (r < 0) {
		rdma->async_watch.fd = -1;
		return mc_fail(err, r, "the events of device %.63s cannot be watched: %s", rdma->device, strerror(-r));
	}
	return 0;
}

/* [worker] */
void rdma_events_stop(struct rdma *rdma)
{
	if (rdma->lane0 != rdma)
		return;
	if (rdma->port_timer.fire)
		rdma->host->timer_set(rdma->host, &rdma->port_timer, 0);
	if (rdma->async_watch.size && rdma->async_watch.fd >= 0)
		rdma->host->unwatch(rdma->host, &rdma->async_watch);
	rdma->async_watch.fd = -1;
}

/* [helper] */
void rdma_events_close(struct rdma *rdma)
{
	rdma_events_stop(rdma);
}
