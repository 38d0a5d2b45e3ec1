/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tables of operations.  A plugin's table begins with its size and may be older
 * (shorter) or newer (longer) than ours; what it lacks is filled from a table of
 * stubs.  A stub answers -ENOTSUP, or does nothing where there is no result.
 */
#include <errno.h>
#include <string.h>

#include "overlay.h"
#include "util/check.h"

typedef void (*slot_fn)(void);

/* ---- stubs: transport -------------------------------------------------------------------------- */

static int no_enumerate(const struct mc_host *host, int (*found)(void *ctx, const char *device),
			void *ctx)
{
	return -ENOTSUP;
}

static int no_probe(const struct mc_host *host, const char *device, struct mc_device_info *info,
		    struct mc_error *err)
{
	return mc_fail(err, -ENOTSUP, "device '%s': the plugin cannot describe devices", device);
}

static int no_reconfigure(void *inst, const struct mc_value *options, struct mc_error *err)
{
	return mc_fail(err, -ENOTSUP, "the plugin's options cannot change while it is open");
}

static void no_stop(void *inst)
{
}

static int no_mem_alloc(void *inst, void *region, struct mc_mem_desc *desc, struct mc_error *err)
{
	return mc_fail(err, -ENOTSUP, "the device has no memory of its own");
}

static void no_mem_free(void *inst, void *region, struct mc_mem_desc *desc)
{
}

static int no_mem_reg(void *inst, void *region, const struct mc_mem_desc *desc, struct mc_error *err)
{
	return mc_fail(err, -ENOTSUP, "the plugin registers no memory");
}

static void no_mem_unreg(void *inst, void *region)
{
}

static int no_mem_export(void *inst, void *region, void *blob, size_t cap)
{
	return -ENOTSUP;
}

static int no_mem_import(void *inst, void *remote, void *peer, const struct mc_remote_buffer *buf)
{
	return -ENOTSUP;
}

static void no_mem_release(void *inst, void *remote)
{
}

static int no_peer_accept(void *inst, void *peer, const struct mc_peer_args *args)
{
	return -ENOTSUP;
}

static void no_peer_msg(void *inst, void *peer, const void *msg, size_t len)
{
}

static void no_peer_attach(void *inst, void *peer, const struct mc_stream *stream)
{
}

static void no_flush(void *inst)
{
}

static int no_arm(void *inst)
{
	return -ENOTSUP;
}

static int no_cancel(void *inst, struct mc_slice *slice)
{
	return -ENOTSUP;
}

static int no_fence(void *inst, void *peer, uint32_t epoch)
{
	return -ENOTSUP;
}

static void no_counters(void *inst, void (*emit)(void *ctx, const char *name, uint64_t value),
			void *ctx)
{
}

static int no_mem_sync(void *inst, void *region, void *addr, uint64_t len, uint32_t how)
{
	return 0; /* its memory is coherent */
}

static void no_explain(void *inst, const void *region, char *text, size_t cap)
{
	if (cap)
		*text = '\0';
}

/* Required slots stay NULL here; mc_overlay refuses before they could be called. */
static const struct mc_transport_ops transport_stubs = {
	.enumerate = no_enumerate,
	.probe = no_probe,
	.reconfigure = no_reconfigure,
	.stop = no_stop,
	.mem_alloc = no_mem_alloc,
	.mem_free = no_mem_free,
	.mem_reg = no_mem_reg,
	.mem_unreg = no_mem_unreg,
	.mem_export = no_mem_export,
	.mem_import = no_mem_import,
	.mem_release = no_mem_release,
	.peer_accept = no_peer_accept,
	.peer_msg = no_peer_msg,
	.peer_attach = no_peer_attach,
	.flush = no_flush,
	.arm = no_arm,
	.cancel = no_cancel,
	.fence = no_fence,
	.counters = no_counters,
	.mem_sync = no_mem_sync,
	.mem_explain = no_explain,
};

/* ---- stubs: metadata --------------------------------------------------------------------------- */

static int no_watch(void *inst, void *watch, const char *prefix, uint64_t deadline_ns,
		    struct mc_error *err)
{
	return mc_fail(err, -ENOTSUP, "the metadata plugin cannot watch");
}

static void no_unwatch(void *inst, void *watch)
{
}

static int no_lease_grant(void *inst, uint64_t ttl_ns, uint64_t deadline_ns, uint64_t *ret_lease,
			  struct mc_error *err)
{
	return mc_fail(err, -ENOTSUP, "the metadata plugin has no leases");
}

static int no_lease(void *inst, uint64_t lease, uint64_t deadline_ns, struct mc_error *err)
{
	return mc_fail(err, -ENOTSUP, "the metadata plugin has no leases");
}

static const struct mc_metadata_ops metadata_stubs = {
	.watch = no_watch,
	.unwatch = no_unwatch,
	.lease_grant = no_lease_grant,
	.lease_keepalive = no_lease,
	.lease_revoke = no_lease,
	.reconfigure = no_reconfigure,
};

/* ---- stubs: memory ----------------------------------------------------------------------------- */

static int no_count(void *inst)
{
	return -ENOTSUP;
}

static int no_alloc(void *inst, struct mc_mem_desc *desc, struct mc_error *err)
{
	return mc_fail(err, -ENOTSUP, "the memory plugin cannot allocate");
}

static void no_free(void *inst, struct mc_mem_desc *desc)
{
}

static int no_export_dmabuf(void *inst, struct mc_mem_desc *desc, struct mc_error *err)
{
	return mc_fail(err, -ENOTSUP, "the memory plugin exports no dma-buf");
}

static int no_mem_flush(void *inst, const struct mc_mem_desc *desc)
{
	return -ENOTSUP;
}

static int no_distance(void *inst, int32_t ordinal, const char *pci)
{
	return -ENOTSUP;
}

static int whole_extent(void *inst, const struct mc_mem_desc *desc, uint64_t *ret_len)
{
	*ret_len = desc->len;
	return 0;
}

static int no_pin(void *inst, void *addr, uint64_t len)
{
	return -ENOTSUP;
}

static void no_unpin(void *inst, void *addr)
{
}

static const struct mc_memory_ops memory_stubs = {
	.count = no_count,
	.alloc = no_alloc,
	.free = no_free,
	.export_dmabuf = no_export_dmabuf,
	.flush = no_mem_flush,
	.distance = no_distance,
	.extent = whole_extent,
	.pin = no_pin,
	.unpin = no_unpin,
};

/* A filter's NULL means "straight to the transport"; filter.c looks at it. */
static const struct mc_filter_ops filter_stubs = {0};

/* ---- laying over ------------------------------------------------------------------------------- */

struct required {
	const char *name;
	size_t offset;
};
#define REQUIRED(type, name) {#name, offsetof(struct type, name)}

static const struct required transport_required[] = {
	REQUIRED(mc_transport_ops, open),      REQUIRED(mc_transport_ops, close),
	REQUIRED(mc_transport_ops, submit),    REQUIRED(mc_transport_ops, progress),
	REQUIRED(mc_transport_ops, peer_open), REQUIRED(mc_transport_ops, peer_close),
	{NULL, 0},
};
static const struct required metadata_required[] = {
	REQUIRED(mc_metadata_ops, open), REQUIRED(mc_metadata_ops, close),
	REQUIRED(mc_metadata_ops, get),	 REQUIRED(mc_metadata_ops, put),
	REQUIRED(mc_metadata_ops, cas),	 REQUIRED(mc_metadata_ops, del),
	REQUIRED(mc_metadata_ops, list), {NULL, 0},
};
static const struct required memory_required[] = {
	REQUIRED(mc_memory_ops, open),	   REQUIRED(mc_memory_ops, close),
	REQUIRED(mc_memory_ops, identify), REQUIRED(mc_memory_ops, copy),
	{NULL, 0},
};
static const struct required filter_required[] = {{NULL, 0}};

struct table {
	size_t size;  /* ours */
	size_t first; /* offset of the first operation; the rest are operations */
	const void *stubs;
	const struct required *required;
};

static const struct table tables[MC_KIND_COUNT] = {
	[MC_KIND_TRANSPORT] = {sizeof(struct mc_transport_ops), offsetof(struct mc_transport_ops, enumerate),
			       &transport_stubs, transport_required},
	[MC_KIND_METADATA] = {sizeof(struct mc_metadata_ops), offsetof(struct mc_metadata_ops, open),
			      &metadata_stubs, metadata_required},
	[MC_KIND_MEMORY] = {sizeof(struct mc_memory_ops), offsetof(struct mc_memory_ops, open),
			    &memory_stubs, memory_required},
	[MC_KIND_FILTER] = {sizeof(struct mc_filter_ops), offsetof(struct mc_filter_ops, open),
			    &filter_stubs, filter_required},
};

static slot_fn slot_at(const void *table, size_t offset)
{
	slot_fn fn;

	memcpy(&fn, (const char *)table + offset, sizeof fn);
	return fn;
}

/* Which optional operations the plugin has itself; ops hold its own table, before the stubs. */
static void note_own(struct mc_plugin *p, const struct mc_transport_ops *ops)
{
	p->has_fence = ops->fence;
	p->has_cancel = ops->cancel;
	p->has_arm = ops->arm;
	p->has_mem_reg = ops->mem_reg;
	p->has_mem_alloc = ops->mem_alloc;
	p->has_mem_export = ops->mem_export;
	p->has_mem_import = ops->mem_import;
	p->has_peer_accept = ops->peer_accept;
	p->has_counters = ops->counters;
	p->has_mem_sync = ops->mem_sync;
}

const char *mc_overlay(struct mc_plugin *p)
{
	const struct table *t = &tables[p->desc->kind];
	char *ops = (char *)&p->ops;
	size_t size;

	memset(&p->ops, 0, sizeof p->ops);
	memcpy(&size, p->desc->ops, sizeof size);
	if (size < t->first)
		return "size and the sizes of private areas";
	memcpy(ops, p->desc->ops, MC_MIN(size, t->size));
	memcpy(ops, &t->size, sizeof t->size);
	for (const struct required *r = t->required; r->name; r++) {
		if (!slot_at(ops, r->offset))
			return r->name;
	}
	if (p->desc->kind == MC_KIND_TRANSPORT)
		note_own(p, &p->ops.transport);
	if (p->desc->kind == MC_KIND_METADATA)
		p->has_leases = p->ops.metadata.lease_grant && p->ops.metadata.lease_keepalive;
	for (size_t at = t->first; at < t->size; at += sizeof(slot_fn)) {
		slot_fn stub = slot_at(t->stubs, at);

		if (!slot_at(ops, at))
			memcpy(ops + at, &stub, sizeof stub);
	}
	return NULL;
}
