/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Of what a registered range is made: its kind, and a buffer for each place where
 * a part of it lies, a NUMA node or a piece that devices register by itself.
 */
#include "segment_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "kind.h"
#include "lane.h"
#include "numa.h"

void mc_local_buf_free(struct mc_local_buf *buf)
{
	if (!buf)
		return;
	free(buf->regions);
	free(buf->blobs);
	free(buf);
}

static struct mc_local_buf *buf_new(struct mc_engine *engine, const struct mc_reg *reg)
{
	size_t nr = mc_device_places(engine);
	struct mc_local_buf *buf = calloc(1, sizeof *buf);

	if (!buf)
		return NULL;
	buf->local = engine->local;
	buf->access = reg->access;
	buf->regions = calloc(nr, sizeof *buf->regions);
	buf->blobs = calloc(nr, sizeof(struct mc_local_blob));
	if (!buf->regions || !buf->blobs) {
		mc_local_buf_free(buf);
		return NULL;
	}
	return buf;
}

struct splitting {
	struct mc_engine *engine;
	struct mc_reg *reg;
	const char *kind;
};

static int add_buf(struct splitting *s, uint64_t off, uint64_t len, int32_t ordinal)
{
	struct mc_reg *reg = s->reg;
	struct mc_local_buf **bufs = realloc(reg->bufs, (reg->nr_bufs + 1) * sizeof *bufs);
	struct mc_local_buf *buf;

	if (!bufs)
		return -ENOMEM;
	reg->bufs = bufs;
	buf = buf_new(s->engine, reg);
	if (!buf)
		return -ENOMEM;
	buf->base = reg->base + off;
	buf->len = len;
	buf->ordinal = ordinal;
	buf->share_fd = reg->desc.share_fd;
	buf->share_offset = off;
	snprintf(buf->kind, sizeof buf->kind, "%s", s->kind);
	snprintf(buf->location, sizeof buf->location, "%.20s:%d", s->kind, MC_MAX(ordinal, 0));
	buf->row = mc_matrix_row_find(s->engine->matrix, buf->location);
	bufs[reg->nr_bufs++] = buf;
	return 0;
}

static int on_node(void *ctx, uint64_t off, uint64_t len, int node)
{
	return add_buf(ctx, off, len, node);
}

static bool any_registers(const struct mc_engine *engine, const char *kind)
{
	for (size_t i = 0; i < engine->nr_devices; i++)
		if (engine->devices[i]->plugin->has_mem_reg && mc_device_reaches(engine->devices[i], kind))
			return true;
	return false;
}

/* Memory whose pieces devices register one by one: a buffer of each.  Copies of the kind need none. */
static int add_pieces(struct splitting *s, int32_t ordinal)
{
	struct mc_mem_desc desc = {.size = sizeof desc, .kind = s->kind, .ordinal = ordinal, .dmabuf_fd = -1,
				   .share_fd = -1};
	uint64_t len;
	int r = 0;

	if (!any_registers(s->engine, s->kind))
		return add_buf(s, 0, s->reg->len, ordinal);
	for (uint64_t off = 0; r == 0 && off < s->reg->len; off += len) {
		desc.addr = (void *)(uintptr_t)(s->reg->base + off);
		desc.len = s->reg->len - off;
		r = mc_kind_extent(s->engine, &desc, &len);
		if (r == 0)
			r = add_buf(s, off, len, ordinal);
	}
	return r;
}

/* Memory of a device, whose kind nobody opened, looks like host memory until the CPU touches it.  The kernel
 * knows better; where it may not be asked (seccomp), nothing is said. */
static bool unreadable(const void *addr, uint64_t len)
{
	char byte;
	struct iovec here = {&byte, 1}, there = {(void *)(uintptr_t)addr, 1};
	bool bad = process_vm_readv(getpid(), &here, 1, &there, 1, 0) < 0 && errno == EFAULT;

	there.iov_base = (char *)there.iov_base + len - 1;
	return bad && process_vm_readv(getpid(), &here, 1, &there, 1, 0) < 0 && errno == EFAULT;
}

int mc_reg_split(struct mc_engine *engine, struct mc_reg *reg, const struct mc_reg_place *place,
		 struct mc_error *err)
{
	struct mc_mem_desc desc = {.size = sizeof desc, .dmabuf_fd = -1, .share_fd = -1};
	struct splitting s = {.engine = engine, .reg = reg};
	void *addr = (void *)(uintptr_t)reg->base;
	int r;

	if (reg->owner) {
		s.kind = reg->desc.kind;
		r = add_buf(&s, 0, reg->len, reg->desc.ordinal);
		return r < 0 ? mc_fail(err, r, "memory %p: out of memory", addr) : 0;
	}
	r = mc_kind_identify(engine, addr, reg->len, &desc);
	if (r < 0)
		return mc_fail(err, r, "memory %p: only a part of its %llu bytes is of one kind", addr,
			       (unsigned long long)reg->len);
	if (strcmp(place->kind, "*") && strcmp(place->kind, desc.kind))
		return mc_fail(err, -EINVAL, "memory %p: its kind is '%s', not '%s'; name its location, or '*'",
			       addr, desc.kind, place->kind);
	if (!strcmp(desc.kind, "cpu") && !strcmp(place->kind, "cpu") && unreadable(addr, reg->len))
		return mc_fail(err, -EFAULT, "memory %p: the CPU cannot read it: map it readable, or, if it is memory of a "
			       "device, name its location (cuda:N for a GPU)", addr);
	s.kind = desc.kind;
	if (place->ordinal >= 0 && desc.ordinal >= 0 && place->ordinal != desc.ordinal)
		return mc_fail(err, -EINVAL, "memory %p: it is at '%s:%d', not at '%s:%d'", addr, desc.kind,
			       desc.ordinal, desc.kind, place->ordinal);
	if (strcmp(desc.kind, "cpu"))
		r = add_pieces(&s, place->ordinal >= 0 ? place->ordinal : desc.ordinal);
	else if (place->ordinal >= 0)
		r = add_buf(&s, 0, reg->len, place->ordinal);
	else
		r = mc_numa_ranges(addr, reg->len, on_node, &s);
	return r < 0 ? mc_fail(err, r, "memory %p: %s", addr, strerror(-r)) : 0;
}
