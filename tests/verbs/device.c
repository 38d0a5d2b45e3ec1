/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Devices: list, open, close, and what they say of themselves.  Closing a context whose objects
 * are still there is a mistake of the program under test and ends it.
 */
#include "mock.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct proc proc = {
	.life = PTHREAD_MUTEX_INITIALIZER, .big = PTHREAD_MUTEX_INITIALIZER,
	.events = PTHREAD_MUTEX_INITIALIZER,
};

/* The engine lets those first who wait here. */
void big_lock(void)
{
	atomic_fetch_add(&proc.big_waiters, 1);
	pthread_mutex_lock(&proc.big);
	atomic_fetch_sub(&proc.big_waiters, 1);
}

void big_unlock(void)
{
	pthread_mutex_unlock(&proc.big);
}

/* ---- the list ------------------------------------------------------------------------------------------ */

/* What the program holds of a device; never freed, so an open context may name it. */
struct mock_device {
	struct ibv_device device;
	struct shared_dev *dev;
};
static struct mock_device devices[DEVS];
static pthread_mutex_t devices_lock = PTHREAD_MUTEX_INITIALIZER;

static struct ibv_device *device_of(struct shared_dev *dev)
{
	struct mock_device *d = &devices[dev - fabric_get()->devs];
	const char *dir = getenv("MOCK_VERBS_DIR");

	pthread_mutex_lock(&devices_lock);
	if (!d->dev) {
		d->device.node_type = IBV_NODE_CA;
		d->device.transport_type = IBV_TRANSPORT_IB;
		snprintf(d->device.name, sizeof d->device.name, "%s", dev->name);
		snprintf(d->device.dev_name, sizeof d->device.dev_name, "uverbs%d", (int)(d - devices));
		snprintf(d->device.dev_path, sizeof d->device.dev_path, "%.128s/class/infiniband_verbs/uverbs%d",
			 dir ? dir : "/sys", (int)(d - devices));
		snprintf(d->device.ibdev_path, sizeof d->device.ibdev_path, "%.128s/class/infiniband/%.64s",
			 dir ? dir : "/sys", dev->name);
		d->dev = dev;
	}
	pthread_mutex_unlock(&devices_lock);
	return &d->device;
}

EXPORT struct ibv_device **ibv_get_device_list(int *num_devices)
{
	struct shared_dev *devs[DEVS];
	unsigned nr = fabric_devs_here(devs), out = 0;
	struct ibv_device **list = calloc(nr + 1, sizeof *list);

	for (unsigned i = 0; list && i < nr; i++)
		if (!dev_fault(devs[i], F_GONE))
			list[out++] = device_of(devs[i]);
	if (num_devices)
		*num_devices = (int)out;
	return list;
}

EXPORT void ibv_free_device_list(struct ibv_device **list)
{
	free(list);
}

EXPORT const char *ibv_get_device_name(struct ibv_device *device)
{
	return device->name;
}

EXPORT int ibv_get_device_index(struct ibv_device *device)
{
	return (int)(MC_CONTAINER_OF(device, struct mock_device, device) - devices);
}

EXPORT __be64 ibv_get_device_guid(struct ibv_device *device)
{
	return htobe64(0x7700000000000000u + (uint64_t)ibv_get_device_index(device));
}

EXPORT int ibv_fork_init(void)
{
	fputs("mock verbs: ibv_fork_init was called: children that touch registered memory would die\n", stderr);
	abort();
}

EXPORT enum ibv_fork_status ibv_is_fork_initialized(void)
{
	return IBV_FORK_DISABLED;
}

/* ---- what a device says ----------------------------------------------------------------------------------- */

EXPORT int ibv_query_device(struct ibv_context *context, struct ibv_device_attr *attr)
{
	const struct shared_dev *dev = mock_ctx(context)->dev;

	if (dev_fault(dev, F_GONE))
		return ENODEV;
	memset(attr, 0, sizeof *attr);
	snprintf(attr->fw_ver, sizeof attr->fw_ver, "mock");
	attr->node_guid = attr->sys_image_guid = ibv_get_device_guid(context->device);
	attr->max_mr_size = (uint64_t)dev->set[S_MAX_MR_SIZE];
	attr->page_size_cap = UINT64_C(0xfffffffffffff000);
	attr->max_qp = (int)dev->set[S_MAX_QP];
	attr->max_qp_wr = (int)dev->set[S_MAX_WR];
	attr->device_cap_flags = IBV_DEVICE_RC_RNR_NAK_GEN | IBV_DEVICE_PORT_ACTIVE_EVENT;
	attr->max_sge = attr->max_sge_rd = (int)dev->set[S_MAX_SGE];
	attr->max_cq = 4096;
	attr->max_cqe = (int)dev->set[S_MAX_CQE];
	attr->max_mr = (int)dev->set[S_MAX_MR];
	attr->max_pd = 4096;
	attr->max_qp_rd_atom = attr->max_qp_init_rd_atom = (int)dev->set[S_RD_ATOMIC];
	attr->max_res_rd_atom = attr->max_qp_rd_atom * attr->max_qp;
	attr->atomic_cap = IBV_ATOMIC_HCA;
	attr->max_pkeys = 1;
	attr->local_ca_ack_delay = 15;
	attr->phys_port_cnt = 1;
	return 0;
}

static int query_device_ex(struct ibv_context *context, const struct ibv_query_device_ex_input *input,
			   struct ibv_device_attr_ex *attr, size_t attr_size)
{
	memset(attr, 0, attr_size);
	return ibv_query_device(context, &attr->orig_attr);
}

static enum ibv_mtu mtu_enum(int64_t bytes)
{
	return bytes >= 4096 ? IBV_MTU_4096 : bytes >= 2048 ? IBV_MTU_2048 : bytes >= 1024 ? IBV_MTU_1024 :
	       bytes >= 512 ? IBV_MTU_512 : IBV_MTU_256;
}

static int query_port(struct ibv_context *context, uint8_t port, struct ibv_port_attr *ret, size_t len)
{
	const struct shared_dev *dev = mock_ctx(context)->dev;
	bool down = dev_fault(dev, F_DOWN);
	struct ibv_port_attr attr = {
		.state = down ? IBV_PORT_DOWN : IBV_PORT_ACTIVE, .max_mtu = IBV_MTU_4096,
		.active_mtu = mtu_enum(dev->set[S_MTU]), .gid_tbl_len = GIDS, .max_msg_sz = 1u << 30,
		.pkey_tbl_len = 1, .active_width = 2, .active_speed = 32, .phys_state = down ? 3 : 5,
		.lid = dev->infiniband ? (uint16_t)dev->set[S_LID] : 0,
		.link_layer = dev->infiniband ? IBV_LINK_LAYER_INFINIBAND : IBV_LINK_LAYER_ETHERNET,
		.flags = dev->infiniband ? 0 : IBV_QPF_GRH_REQUIRED,
		.port_cap_flags = dev->infiniband ? 0 : IBV_PORT_IP_BASED_GIDS,
	};

	if (dev_fault(dev, F_GONE))
		return ENODEV;
	if (port != 1)
		return EINVAL;
	memcpy(ret, &attr, MC_MIN(len, sizeof attr));
	return 0;
}

/* The symbol for programs older than struct verbs_context. */
#undef ibv_query_port
EXPORT int ibv_query_port(struct ibv_context *context, uint8_t port, struct _compat_ibv_port_attr *attr)
{
	return query_port(context, port, (struct ibv_port_attr *)attr,
			  offsetof(struct ibv_port_attr, port_cap_flags2));
}

static void gid_entry(const struct shared_dev *dev, uint32_t idx, struct ibv_gid_entry *entry)
{
	struct shared_gid gid;

	dev_gid(dev, idx, &gid);
	memcpy(entry->gid.raw, gid.raw, sizeof gid.raw);
	entry->gid_index = idx;
	entry->port_num = 1;
	entry->gid_type = gid.type;
	entry->ndev_ifindex = dev->infiniband ? 0 : if_nametoindex("lo");
}

EXPORT int ibv_query_gid(struct ibv_context *context, uint8_t port, int index, union ibv_gid *gid)
{
	const struct shared_dev *dev = mock_ctx(context)->dev;
	struct ibv_gid_entry entry = { .gid_index = 0 };

	if (port != 1 || index < 0 || index >= (int)GIDS || dev_fault(dev, F_GONE)) {
		errno = dev_fault(dev, F_GONE) ? ENODEV : EINVAL;
		return -1;
	}
	if (index < (int)dev->nr_gids)
		gid_entry(dev, (uint32_t)index, &entry);
	*gid = entry.gid;
	return 0;
}

EXPORT int _ibv_query_gid_ex(struct ibv_context *context, uint32_t port, uint32_t index,
			     struct ibv_gid_entry *entry, uint32_t flags, size_t entry_size)
{
	const struct shared_dev *dev = mock_ctx(context)->dev;

	if (dev_fault(dev, F_GONE))
		return ENODEV;
	if (flags || port != 1 || entry_size < sizeof *entry || index >= GIDS)
		return EINVAL;
	if (index >= dev->nr_gids)
		return ENODATA;
	gid_entry(dev, index, entry);
	return 0;
}

EXPORT ssize_t _ibv_query_gid_table(struct ibv_context *context, struct ibv_gid_entry *entries,
				    size_t max, uint32_t flags, size_t entry_size)
{
	const struct shared_dev *dev = mock_ctx(context)->dev;

	if (dev_fault(dev, F_GONE))
		return -ENODEV;
	if (flags || entry_size != sizeof *entries || max < dev->nr_gids)
		return -EINVAL;
	for (uint32_t i = 0; i < dev->nr_gids; i++)
		gid_entry(dev, i, &entries[i]);
	return dev->nr_gids;
}

EXPORT int ibv_query_pkey(struct ibv_context *context, uint8_t port, int index, __be16 *pkey)
{
	if (port != 1 || index != 0 || dev_fault(mock_ctx(context)->dev, F_GONE)) {
		errno = EINVAL;
		return -1;
	}
	*pkey = htobe16(0xffff);
	return 0;
}

/* ---- contexts ------------------------------------------------------------------------------------------------ */

/* In a child of a process that had contexts: those are the parent's. */
static void after_fork(void)
{
	if (proc.pid == getpid())
		return;
	pthread_mutex_init(&proc.big, NULL);
	pthread_mutex_init(&proc.events, NULL);
	atomic_store(&proc.big_waiters, 0);
	proc.ctxs = NULL;
	proc.host = NULL;
	proc.pid = getpid();
}

static struct mock_ctx *ctx_new(struct ibv_device *device, struct shared_dev *dev)
{
	struct mock_ctx *ctx = calloc(1, sizeof *ctx);

	if (!ctx || queue_init(&ctx->async) < 0) {
		free(ctx);
		return NULL;
	}
	ctx->dev = dev;
	ctx->seen_down = atomic_load(&dev->faults[F_DOWN]);
	ctx->seen_gids = atomic_load(&dev->faults[F_GID_CHANGE]);
	ctx->seen_fatal = atomic_load(&dev->faults[F_FATAL]);
	ctx->v.sz = sizeof ctx->v;
	ctx->v.query_port = query_port;
	ctx->v.query_device_ex = query_device_ex;
	ctx->v.context.device = device;
	ctx->v.context.ops.poll_cq = mock_poll_cq;
	ctx->v.context.ops.req_notify_cq = mock_req_notify_cq;
	ctx->v.context.ops.post_send = mock_post_send;
	ctx->v.context.ops.post_recv = mock_post_recv;
	ctx->v.context.cmd_fd = -1;
	ctx->v.context.async_fd = ctx->async.fd;
	ctx->v.context.num_comp_vectors = 2;
	ctx->v.context.abi_compat = __VERBS_ABI_IS_EXTENDED;
	pthread_mutex_init(&ctx->v.context.mutex, NULL);
	return ctx;
}

EXPORT struct ibv_context *ibv_open_device(struct ibv_device *device)
{
	struct shared_dev *dev = MC_CONTAINER_OF(device, struct mock_device, device)->dev;
	struct mock_ctx *ctx;

	if (dev_fault(dev, F_GONE)) {
		errno = ENODEV;
		return NULL;
	}
	ctx = ctx_new(device, dev);
	if (!ctx)
		return NULL;
	pthread_mutex_lock(&proc.life);
	after_fork();
	if (!proc.ctxs && engine_start() < 0) {
		pthread_mutex_unlock(&proc.life);
		queue_fini(&ctx->async);
		free(ctx);
		return NULL;
	}
	big_lock();
	ctx->next = proc.ctxs;
	proc.ctxs = ctx;
	big_unlock();
	pthread_mutex_unlock(&proc.life);
	return &ctx->v.context;
}

EXPORT int ibv_close_device(struct ibv_context *context)
{
	struct mock_ctx *ctx = mock_ctx(context), **at;

	if (ctx->nr_pds || ctx->nr_cqs || ctx->nr_channels || ctx->nr_mrs || ctx->nr_qps) {
		fprintf(stderr, "mock verbs: %s is closed with %u protection domains, %u queue pairs, %u memory "
			"regions, %u completion queues, %u channels\n", context->device->name, ctx->nr_pds, ctx->nr_qps,
			ctx->nr_mrs, ctx->nr_cqs, ctx->nr_channels);
		abort();
	}
	pthread_mutex_lock(&proc.life);
	big_lock();
	for (at = &proc.ctxs; *at != ctx; at = &(*at)->next)
		;
	*at = ctx->next;
	big_unlock();
	if (!proc.ctxs)
		engine_stop();
	pthread_mutex_unlock(&proc.life);
	queue_fini(&ctx->async);
	free(ctx);
	return 0;
}

/* ---- protection domains --------------------------------------------------------------------------------------- */

EXPORT struct ibv_pd *ibv_alloc_pd(struct ibv_context *context)
{
	struct mock_ctx *ctx = mock_ctx(context);
	struct mock_pd *pd;

	if (dev_fault(ctx->dev, F_GONE)) {
		errno = ENODEV;
		return NULL;
	}
	pd = calloc(1, sizeof *pd);
	if (!pd)
		return NULL;
	big_lock();
	pd->pd.context = context;
	pd->pd.handle = ++proc.host->next_pd;
	ctx->nr_pds++;
	big_unlock();
	return &pd->pd;
}

EXPORT int ibv_dealloc_pd(struct ibv_pd *ibpd)
{
	struct mock_pd *pd = MC_CONTAINER_OF(ibpd, struct mock_pd, pd);

	big_lock();
	if (pd->users) {
		big_unlock();
		return EBUSY;
	}
	mock_ctx(ibpd->context)->nr_pds--;
	big_unlock();
	free(pd);
	return 0;
}
