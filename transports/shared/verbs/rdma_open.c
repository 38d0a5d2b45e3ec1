/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Verbs: opening and closing a lane of a device.  The settings come from the options that every
 * transport over verbs has (rdma_options.h); what the device cannot do is lowered here.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "rdma.h"
#include "rdma_options.h"

#define MAX_SLICE (UINT64_C(1) << 30)
#define PAGE UINT64_C(4096)
#define TIMEOUT_MIN 8  /* 1 ms: less, and a busy host looks like a dead one */
#define TIMEOUT_MAX 18 /* 1 s */

const char *const rdma_mtu_words[] = { "256", "512", "1024", "2048", "4096", NULL };
/* In words, and as MC_IB_PCI_RELAXED_ORDERING has them. */
const char *const rdma_relaxed_words[] = { "off", "on", "auto", "0", "1", "2", NULL };

/* ---- settings -------------------------------------------------------------------------------------- */

static int auto_is(const struct mc_value *v, int value)
{
	return v->i == MC_VALUE_AUTO ? value : (int)v->i;
}

/* The longest wait of which seven, the first and six retries, fit into a quarter of the bound (P6). */
static uint8_t derive_timeout(uint64_t peer_timeout_ns)
{
	uint8_t t = TIMEOUT_MAX;

	while (t > TIMEOUT_MIN && (UINT64_C(7) * 4096 << t) > peer_timeout_ns / 4)
		t--;
	return t;
}

static void read_settings(struct rdma_settings *set, const struct rdma_flavour *flavour,
			  const struct mc_open_args *args)
{
	const struct mc_value *o = args->options;

	set->gid_index = auto_is(&o[RDMA_OPT_GID_INDEX], -1);
	set->port = (uint8_t)o[RDMA_OPT_PORT].i;
	set->pkey_index = (uint16_t)o[RDMA_OPT_PKEY_INDEX].i;
	set->traffic_class = auto_is(&o[RDMA_OPT_TRAFFIC_CLASS], -1);
	set->service_level = auto_is(&o[RDMA_OPT_SERVICE_LEVEL], -1);
	set->mtu = 256u << o[RDMA_OPT_MTU].i2;
	set->qps_per_peer = MC_MAX((uint32_t)o[RDMA_OPT_QPS_PER_PEER].i / MC_MAX(args->nr_lanes, 1u), 1u);
	set->max_wr = (uint32_t)o[RDMA_OPT_MAX_WR].i;
	set->max_inline = (uint32_t)o[RDMA_OPT_MAX_INLINE].i;
	set->cq_depth = (uint32_t)o[RDMA_OPT_MAX_CQE].i;
	set->max_endpoints = MC_MAX((uint32_t)o[RDMA_OPT_MAX_ENDPOINTS].i / MC_MAX(args->nr_lanes, 1u), 1u);
	set->max_mr_size = o[RDMA_OPT_MAX_MR_SIZE].i == MC_VALUE_AUTO ? UINT64_MAX : (uint64_t)o[RDMA_OPT_MAX_MR_SIZE].i;
	set->slice = (uint64_t)o[RDMA_OPT_PREF_SLICE].i;
	set->retry_cnt = (uint8_t)o[RDMA_OPT_ACK_RETRIES].i;
	set->timeout = (uint8_t)auto_is(&o[RDMA_OPT_TIMEOUT], derive_timeout(args->peer_timeout_ns));
	set->relaxed = o[RDMA_OPT_RELAXED_ORDERING].i2 % 3 != 0;
	set->suspect_ns = (uint64_t)o[RDMA_OPT_SUSPECT].i;
	if (flavour->device_memory) {
		set->max_inline = 0;
		set->registration = (uint32_t)o[RDMA_OPT_COUNT].i2;
	}
}

struct lowered {
	char text[256];
	size_t len;
};

static uint64_t lower(struct lowered *l, const char *name, uint64_t value, uint64_t most)
{
	if (value <= most)
		return value;
	if (l->len < sizeof l->text)
		l->len += (size_t)snprintf(l->text + l->len, sizeof l->text - l->len, "%s%s %llu to %llu",
					   l->len ? ", " : "", name, (unsigned long long)value,
					   (unsigned long long)most);
	return most;
}

/* What the device cannot do is asked of it no more; said once. */
static void clamp_settings(struct rdma *rdma, const struct ibv_port_attr *port, struct lowered *l)
{
	const struct ibv_device_attr *a = &rdma->attr;
	struct rdma_settings *set = &rdma->set;
	uint64_t max_qp = (uint64_t)MC_MAX(a->max_qp, 2), max_mr = MC_MAX(a->max_mr_size, PAGE);

	set->qps_per_peer = (uint32_t)lower(l, "qps_per_peer", set->qps_per_peer, max_qp / 2);
	set->max_wr = (uint32_t)lower(l, "max_wr", set->max_wr, (uint64_t)MC_MAX(a->max_qp_wr, 1));
	set->cq_depth = (uint32_t)lower(l, "max_cqe", set->cq_depth, (uint64_t)MC_MAX(a->max_cqe, 1));
	/* Two halves share the device's queue pairs. */
	set->max_endpoints = (uint32_t)lower(l, "max_endpoints", set->max_endpoints,
					     MC_MAX(max_qp / 2 / rdma->nr_lanes / set->qps_per_peer, UINT64_C(1)));
	if (set->max_mr_size != UINT64_MAX)
		set->max_mr_size = lower(l, "max_mr_size", set->max_mr_size, max_mr);
	/* Chunks of a buffer begin at pages. */
	set->max_mr_size = MC_MIN(set->max_mr_size, max_mr) & ~(PAGE - 1);
	if (port->max_msg_sz)
		set->slice = lower(l, "pref_slice", set->slice, port->max_msg_sz);
}

/* ---- lane 0: what the device can ------------------------------------------------------------------------ */

static int check_port(struct rdma *rdma, struct ibv_port_attr *attr, struct mc_error *err)
{
	struct rdma_settings *set = &rdma->set;
	int r;

	if (set->port > rdma->attr.phys_port_cnt)
		return mc_fail(err, -EINVAL, "port %u is out of range 1..%u of device %s: set option 'port' (MC_IB_PORT)",
			       set->port, rdma->attr.phys_port_cnt, rdma->device);
	r = rdma_port_read(rdma->ctx, rdma->device, set, &rdma->port, err);
	if (r == 0)
		r = rdma_port_usable(&rdma->port, rdma->device, set, err);
	if (r < 0)
		return r;
	r = ibv_query_port(rdma->ctx, set->port, attr);
	if (r)
		return mc_fail(err, -abs(r), "port %u of device %s does not answer: %s", set->port, rdma->device,
			       strerror(abs(r)));
	if (set->pkey_index >= MC_MAX(attr->pkey_tbl_len, 1))
		return mc_fail(err, -EINVAL, "pkey_index %u is out of range 0..%u of device %s, port %u", set->pkey_index,
			       MC_MAX(attr->pkey_tbl_len, 1) - 1u, rdma->device, set->port);
	return 0;
}

/* A queue pair is made and thrown away: drivers refuse depths and inline sizes that the attributes
 * seem to allow. */
static int try_queue_pair(struct rdma *rdma, struct lowered *l, struct mc_error *err)
{
	struct rdma_settings *set = &rdma->set;
	uint32_t size = set->max_inline;
	struct ibv_qp *qp;

	for (;;) {
		struct ibv_qp_init_attr init = {
			.send_cq = rdma->cq, .recv_cq = rdma->cq, .qp_type = IBV_QPT_RC,
			.cap = { .max_send_wr = set->max_wr, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1,
				 .max_inline_data = size },
		};

		errno = 0;
		qp = ibv_create_qp(rdma->pd, &init);
		if (qp) {
			size = MC_MIN(size, init.cap.max_inline_data);
			break;
		}
		if (!size || (errno != EINVAL && errno != ENOMEM && errno != EOPNOTSUPP))
			break;
		size /= 2;
	}
	if (!qp && (errno == ENOMEM || errno == EPERM))
		return rdma_mem_fail(rdma, errno, "a queue pair", (uint64_t)set->max_wr * 64, err);
	if (!qp)
		return mc_fail(err, errno ? -errno : -EIO, "device %s: no queue pair of %u requests: %s: lower option 'max_wr'",
			       rdma->device, set->max_wr, strerror(errno));
	ibv_destroy_qp(qp);
	set->max_inline = (uint32_t)lower(l, "max_inline", set->max_inline, size);
	return 0;
}

static int open_device(struct rdma *rdma, struct lowered *l, struct ibv_port_attr *port, struct mc_error *err)
{
	int r;

	pthread_mutex_init(&rdma->port_lock, NULL);
	r = rdma_device_open(rdma->device, &rdma->ctx, err);
	if (r < 0)
		return r;
	r = ibv_query_device(rdma->ctx, &rdma->attr);
	if (r)
		return mc_fail(err, -abs(r), "device %s does not answer: %s", rdma->device, strerror(abs(r)));
	r = check_port(rdma, port, err);
	if (r < 0)
		return r;
	clamp_settings(rdma, port, l);
	errno = 0;
	rdma->pd = ibv_alloc_pd(rdma->ctx);
	if (!rdma->pd)
		return mc_fail(err, errno ? -errno : -EIO, "device %s: no protection domain: %s", rdma->device,
			       strerror(errno));
	return 0;
}

/* ---- every lane --------------------------------------------------------------------------------------------- */

/* Peers can write into the upper half, and reach nothing of the lower one. */
static int open_scratch(struct rdma *rdma, struct mc_error *err)
{
	rdma->scratch = rdma->host->alloc(rdma->host, RDMA_SCRATCH);
	if (!rdma->scratch)
		return mc_fail(err, -ENOMEM, "%s: out of memory", rdma->host->instance);
	errno = 0;
	rdma->scratch_mr = ibv_reg_mr(rdma->pd, rdma->scratch, RDMA_SCRATCH_PEER, IBV_ACCESS_LOCAL_WRITE);
	if (rdma->scratch_mr)
		rdma->scratch_peer_mr = ibv_reg_mr(rdma->pd, rdma->scratch + RDMA_SCRATCH_PEER,
						   RDMA_SCRATCH - RDMA_SCRATCH_PEER,
						   IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
	if (!rdma->scratch_peer_mr)
		return rdma_mem_fail(rdma, errno ? errno : EIO, "its own use", RDMA_SCRATCH, err);
	return 0;
}

void rdma_scratch_drop(struct rdma *rdma)
{
	if (rdma->scratch_mr)
		ibv_dereg_mr(rdma->scratch_mr);
	if (rdma->scratch_peer_mr)
		ibv_dereg_mr(rdma->scratch_peer_mr);
	rdma->scratch_mr = rdma->scratch_peer_mr = NULL;
}

static void close_scratch(struct rdma *rdma)
{
	rdma_scratch_drop(rdma);
	if (rdma->scratch)
		rdma->host->free(rdma->host, rdma->scratch, RDMA_SCRATCH);
	rdma->scratch = NULL;
}

void rdma_context_close(struct rdma *rdma)
{
	int r = rdma->pd ? ibv_dealloc_pd(rdma->pd) : 0;

	if (r)
		rdma->host->log(rdma->host, MC_LOG_DEBUG, "device %s: its protection domain stays: %s", rdma->device,
				strerror(abs(r)));
	if (rdma->ctx)
		ibv_close_device(rdma->ctx);
	rdma->pd = NULL;
	rdma->ctx = NULL;
}

/* [helper] Also undoes a half-made open. */
void rdma_close(void *inst)
{
	struct rdma *rdma = inst;

	if (rdma->lane0 == rdma)
		rdma_events_close(rdma);
	rdma_eps_close(rdma);
	if (rdma->suspect.size)
		rdma_cq_close(rdma);
	close_scratch(rdma);
	rdma_gone_close(rdma);
	if (rdma->lane0 == rdma) {
		rdma_context_close(rdma);
		pthread_mutex_destroy(&rdma->port_lock);
	}
	rdma->pd = NULL;
	rdma->ctx = NULL;
}

static void open_counters(struct rdma *rdma)
{
	const struct mc_host *h = rdma->host;

	rdma->c_sent = h->counter(h, "bytes_written", "bytes of writes that the device has finished");
	rdma->c_read = h->counter(h, "bytes_read", "bytes of reads that the device has finished");
	rdma->c_posted = h->counter(h, "requests", "requests that were given to the device");
	rdma->c_doorbells = h->counter(h, "doorbells", "lists in which they were given to it");
	rdma->c_events = h->counter(h, "cq_events", "times that the completion channel woke the worker");
	rdma->c_parked = h->counter(h, "endpoints_parked", "idle connections that gave up their queue pairs");
	rdma->c_broken = h->counter(h, "endpoints_broken", "connections that ended by an error");
	rdma->g_qps = mc_gauge_new(h, "qps", "queue pairs that there are");
	if (rdma->lane0 == rdma)
		rdma->g_mrs = mc_gauge_new(h, "mrs", "memory regions of registered buffers");
	rdma->g_cq_used = mc_gauge_new(h, "cq_used", "entries of the completion queue that are spoken for");
	rdma->g_active = mc_gauge_new(h, "endpoints_active", "connections that we opened");
	rdma->g_passive = mc_gauge_new(h, "endpoints_passive", "connections that peers opened");
	rdma->c_suspect = h->counter(h, "endpoints_suspect", "connections given up because nothing completed");
}

static void fill_caps(struct rdma *rdma, const struct ibv_port_attr *port, struct mc_transport_caps *caps)
{
	const struct rdma_settings *set = &rdma->set;

	caps->flags = MC_CAP_READ | MC_CAP_WRITE | MC_CAP_SPIN;
	caps->fence = MC_FENCE_BOTH;
	caps->visibility = set->relaxed ? MC_VISIBLE_AFTER_FLUSH : MC_VISIBLE_AT_COMPLETION;
	caps->alignment = 1;
	caps->local_kinds = rdma->flavour->local_kinds;
	caps->remote_kinds = rdma->flavour->remote_kinds;
	if (set->registration != RDMA_REG_AUTO)
		caps->flags |= MC_CAP_MUST_REG;
	caps->max_slice = port->max_msg_sz ? MC_MIN((uint64_t)port->max_msg_sz, MAX_SLICE) : MAX_SLICE;
	/* What crosses memory regions at both ends is still no more requests than a queue pair holds. */
	caps->max_slice = MC_MIN(caps->max_slice, rdma_slice_of(rdma, set->max_mr_size));
	caps->pref_slice = MC_MIN(set->slice, caps->max_slice);
	caps->max_inline = set->max_inline;
	caps->bandwidth = rdma_port_speed(port);
	caps->latency_ns = 5000;
	caps->max_inflight = set->qps_per_peer * set->max_wr;
	rdma->caps = *caps;
	rdma->max_slice = caps->max_slice;
}

static int open_lane(struct rdma *rdma, const struct mc_open_args *args, struct mc_transport_caps *caps,
		     struct mc_error *err)
{
	struct lowered lowered = { .len = 0 };
	struct ibv_port_attr port = { .max_msg_sz = 0 };
	int r = 0;

	if (rdma->lane0 == rdma) {
		read_settings(&rdma->set, rdma->flavour, args);
		r = open_device(rdma, &lowered, &port, err);
	} else {
		rdma->ctx = rdma->lane0->ctx;
		rdma->pd = rdma->lane0->pd;
		rdma->attr = rdma->lane0->attr;
		rdma->set = rdma->lane0->set;
		if (ibv_query_port(rdma->ctx, rdma->set.port, &port))
			r = mc_fail(err, -EIO, "port %u of device %s does not answer", rdma->set.port, rdma->device);
	}
	if (r == 0)
		r = open_scratch(rdma, err);
	if (r == 0)
		r = rdma_cq_open(rdma, err);
	if (r == 0 && rdma->lane0 == rdma)
		r = try_queue_pair(rdma, &lowered, err);
	if (r == 0 && rdma->lane0 == rdma)
		r = rdma_events_open(rdma, err);
	if (r < 0)
		return r;
	if (lowered.len)
		rdma->host->log(rdma->host, MC_LOG_INFO, "device %s can do less than its options say: lowered %s",
				rdma->device, lowered.text);
	fill_caps(rdma, &port, caps);
	return 0;
}

/* [helper] */
int rdma_open(void *inst, const struct rdma_flavour *flavour, const struct mc_host *host,
	      const struct mc_open_args *args, struct mc_transport_caps *caps, struct mc_error *err)
{
	struct rdma *rdma = inst;
	int r;

	rdma->host = host;
	rdma->flavour = flavour;
	rdma->lane0 = args->lane0 ? args->lane0 : rdma;
	rdma->lane = args->lane;
	rdma->nr_lanes = MC_MAX(args->nr_lanes, 1u);
	rdma->peer_timeout_ns = args->peer_timeout_ns;
	snprintf(rdma->device, sizeof rdma->device, "%s", args->device);
	rdma->async_watch.fd = rdma->cq_watch.fd = -1;
	rdma_eps_open(rdma);
	rdma_port_lane(rdma);
	rdma_gone_open(rdma);
	r = open_lane(rdma, args, caps, err);
	if (r < 0) {
		rdma_close(rdma);
		return r;
	}
	open_counters(rdma);
	return 0;
}

/* [worker] */
void rdma_stop(void *inst)
{
	struct rdma *rdma = inst;

	rdma->stopped = true;
	rdma_port_lane_stop(rdma);
	if (rdma->lane0 == rdma)
		rdma_events_stop(rdma);
}

/* [worker] */
int rdma_peer_begin(void *inst, void *peer, const struct mc_peer_args *args)
{
	int r = args->passive ? rdma_peer_accept(inst, peer, args) : rdma_peer_open(inst, peer, args);

	if (r == 0)
		rdma_port_peers(inst, 1);
	return r;
}

/* [worker] */
void rdma_peer_end(void *inst, void *peer)
{
	rdma_peer_close(inst, peer);
	rdma_port_peers(inst, -1);
}

/* [worker] */
void rdma_counters(void *inst, void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx)
{
	struct rdma *rdma = inst;

	uint32_t waiting[2];
	struct rdma_peer *peer;

	for (int half = 0; half < 2; half++)
		LL_COUNT2(rdma->half[half].waiters, peer, waiting[half], next_waiter);
	emit(ctx, "waiting_active", waiting[0]);
	emit(ctx, "waiting_passive", waiting[1]);
	emit(ctx, "in_flight", rdma->nr_flight);
}
