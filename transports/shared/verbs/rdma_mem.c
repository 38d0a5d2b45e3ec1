/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Verbs, memory: registration with the device, and the keys that peers get.
 *
 * A buffer larger than the device's largest memory region (option max_mr_size) becomes several, of
 * equal size but for the last.  Registering pins pages, which for large buffers takes long; helpers
 * of several devices do it side by side.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "core/util/cleanup.h"
#include "rdma.h"

#define PAGE UINT64_C(4096)
#define TELL_NS (2 * MC_SEC)            /* how often a slow registration says how far it is */
#define TOUCH_FROM (UINT64_C(4) << 30)  /* buffers from this size on are touched first, */
#define TOUCH_STEP (UINT64_C(1) << 30)  /* so much at a time */

/* "64 MiB"; rounded. */
static const char *size_text(uint64_t len, char *buf, size_t cap)
{
	static const char *const units[] = { "bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	double n = (double)len;
	size_t u = 0;

	for (; n >= 1024 && u + 1 < MC_ARRAY_SIZE(units); u++)
		n /= 1024;
	snprintf(buf, cap, "%.*f %s", n < 10 && u && n != (double)(int)n ? 1 : 0, n, units[u]);
	return buf;
}

int rdma_mem_fail(struct rdma *rdma, int error, const char *what, uint64_t len, struct mc_error *err)
{
	struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };
	char size[32], most[32];

	size_text(len, size, sizeof size);
	getrlimit(RLIMIT_MEMLOCK, &limit);
	if ((error == ENOMEM || error == EPERM || error == EAGAIN) && limit.rlim_cur != RLIM_INFINITY)
		return mc_fail(err, -error, "%s: pinning %s for %s: %s: this process may lock %s (RLIMIT_MEMLOCK): raise "
			       "it by ulimit -l unlimited, LimitMEMLOCK=infinity in the service's unit, or docker run "
			       "--ulimit memlock=-1", rdma->host->instance, size, what, strerror(error),
			       size_text(limit.rlim_cur, most, sizeof most));
	if (error == ENOMEM)
		return mc_fail(err, -error, "%s: pinning %s for %s: %s: the kernel or the device has none left (it holds "
			       "%u memory regions of at most %d): register less, or free some", rdma->host->instance, size,
			       what, strerror(error), (unsigned)rdma->lane0->nr_mrs, rdma->attr.max_mr);
	return mc_fail(err, -error, "%s: registering %s for %s: %s", rdma->host->instance, size, what, strerror(error));
}

/* Writes in relaxed order need a READ behind them, so only what peers may read takes them. */
static bool relaxed(const struct rdma *rdma, uint32_t access)
{
	return rdma->set.relaxed && (access & MC_ACCESS_REMOTE_READ);
}

static uint32_t access_flags(const struct rdma *rdma, uint32_t access)
{
	uint32_t flags = IBV_ACCESS_LOCAL_WRITE;

	if (access & MC_ACCESS_REMOTE_READ)
		flags |= IBV_ACCESS_REMOTE_READ;
	if (access & MC_ACCESS_REMOTE_WRITE)
		flags |= IBV_ACCESS_REMOTE_WRITE;
	if (relaxed(rdma, access))
		flags |= IBV_ACCESS_RELAXED_ORDERING;
	return flags;
}

/* One memory region of [at, at + len) of the buffer, by the dma-buf or, with dmabuf -1, by its address.
 * NULL with errno. */
static struct ibv_mr *reg_one(struct rdma *rdma, const struct mc_mem_desc *desc, int dmabuf, uint64_t at,
			      uint64_t len, uint32_t flags)
{
	uint64_t addr = (uintptr_t)desc->addr + at;
	struct ibv_mr *mr;

	errno = 0;
	if (dmabuf >= 0)
		mr = ibv_reg_dmabuf_mr(rdma->pd, desc->dmabuf_offset + at, len, addr, dmabuf, (int)flags);
	else
		mr = ibv_reg_mr(rdma->pd, (void *)(uintptr_t)addr, len, (int)flags);
	if (!mr && !errno)
		errno = EIO;
	return mr;
}

static bool is_readonly_error(int error)
{
	return error == EFAULT || error == EACCES || error == EPERM;
}

enum mapping { MAPPING_FINE, MAPPING_HOLE, MAPPING_READONLY };

/* What of the range would keep a device from writing to it, as the kernel lists this process' mappings. */
static enum mapping look_at_mapping(const struct mc_mem_desc *desc)
{
	uint64_t at = (uintptr_t)desc->addr, end = at + desc->len, from, to;
	mc_cleanup(mc_fclosep) FILE *f = fopen("/proc/self/maps", "re");
	bool readonly = false;
	char line[512], rights[5];

	while (f && at < end && fgets(line, sizeof line, f)) {
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s", &from, &to, rights) != 3 || to <= at)
			continue;
		if (from > at)
			break;
		readonly |= rights[1] != 'w';
		at = to;
	}
	return f && at < end ? MAPPING_HOLE : readonly ? MAPPING_READONLY : MAPPING_FINE;
}

static int fail_reg(struct rdma *rdma, const struct mc_mem_desc *desc, int error, struct mc_error *err)
{
	enum mapping mapping;
	char size[32];

	size_text(desc->len, size, sizeof size);
	if (desc->dmabuf_fd >= 0 && (error == EOPNOTSUPP || error == ENOTSUP || error == ENOSYS || error == EINVAL))
		return mc_fail(err, -EOPNOTSUPP, "%s: registering %s of kind '%s' by a dma-buf: %s: the driver of this device "
			       "cannot; name another device for this kind of memory in nic_priority_matrix, or leave it to "
			       "staging", rdma->host->instance, size, desc->kind, strerror(error));
	mapping = is_readonly_error(error) && desc->dmabuf_fd < 0 ? look_at_mapping(desc) : MAPPING_FINE;
	if (mapping == MAPPING_READONLY && (desc->access & MC_ACCESS_REMOTE_WRITE))
		return mc_fail(err, -error, "%s: registering %s at %p: it is mapped read-only, and peers are to write to it: "
			       "map it writable, or register it with MC_ACCESS_REMOTE_READ or MC_ACCESS_LOCAL only",
			       rdma->host->instance, size, desc->addr);
	if (mapping == MAPPING_READONLY)
		return mc_fail(err, -error, "%s: registering %s at %p: %s: this kernel pins no read-only mapping that is "
			       "shared: map it MAP_PRIVATE, or writable", rdma->host->instance, size, desc->addr,
			       strerror(error));
	if (mapping == MAPPING_HOLE)
		return mc_fail(err, -error, "%s: registering %s at %p: %s: a part of the range is not mapped: register what "
			       "mmap or malloc gave", rdma->host->instance, size, desc->addr, strerror(error));
	if (error == EFAULT)
		return mc_fail(err, -error, "%s: registering %s at %p: %s: the file system of this file lets no device write "
			       "to its pages: use anonymous memory, tmpfs or hugetlbfs", rdma->host->instance, size,
			       desc->addr, strerror(error));
	return rdma_mem_fail(rdma, error, "a buffer", desc->len, err);
}

/* ---- slow registrations ------------------------------------------------------------------------------ */

struct progress {
	uint64_t since_ns, told_ns;
	bool told;
};

static void tell_progress(struct rdma *rdma, struct progress *p, const char *how, uint64_t done, uint64_t len)
{
	uint64_t now = rdma->host->now_ns(rdma->host), took = now - p->since_ns;

	if (now - p->told_ns < TELL_NS && !(p->told && done == len))
		return;
	p->told_ns = now;
	p->told = true;
	rdma->host->log(rdma->host, MC_LOG_INFO, "registering memory: %.1f of %.1f GiB %s, %.1f GiB/s",
			(double)done / (double)(1 << 30), (double)len / (double)(1 << 30), how,
			(double)done * 1e9 / (double)(1 << 30) / (double)MC_MAX(took, UINT64_C(1)));
}

/* Let the kernel find the pages of a large buffer step by step: most of the time of pinning it goes
 * there, and the call that pins says nothing until its end.  What cannot be touched so (an old
 * kernel, a read-only mapping, beyond the limit) is left to that call and its errors. */
static void touch_pages(struct rdma *rdma, const struct mc_mem_desc *desc, struct progress *p)
{
#ifdef MADV_POPULATE_WRITE
	uint64_t base = (uintptr_t)desc->addr & ~(PAGE - 1), end = (uintptr_t)desc->addr + desc->len, n;
	struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };

	getrlimit(RLIMIT_MEMLOCK, &limit);
	if (strcmp(desc->kind, "cpu") != 0 || desc->len < TOUCH_FROM || desc->len > limit.rlim_cur)
		return;
	for (uint64_t at = base; at < end; at += n) {
		n = MC_MIN(TOUCH_STEP, end - at);
		if (madvise((void *)(uintptr_t)at, n, MADV_POPULATE_WRITE) < 0)
			return;
		tell_progress(rdma, p, "touched", at + n - base, desc->len);
	}
#else
	(void)rdma;
	(void)desc;
	(void)p;
#endif
}

/* ---- operations ---------------------------------------------------------------------------------------- */

void rdma_region_drop(struct rdma *rdma, struct rdma_region *region)
{
	for (uint32_t i = 0; i < region->nr; i++) {
		int r = ibv_dereg_mr(region->mrs[i]);

		/* The device has gone, or a driver has a fault; nothing can be done about it here. */
		if (r)
			rdma->host->log(rdma->host, MC_LOG_WARN, "a memory region could not be deregistered: %s",
					strerror(abs(r)));
		atomic_fetch_sub(&rdma->lane0->nr_mrs, 1);
		mc_gauge_add(rdma->lane0->g_mrs, -1);
	}
	if (region->mrs != &region->one)
		free(region->mrs);
	region->mrs = NULL;
	region->nr = 0;
}

/* All of the buffer with these rights: 0, or the errno with nothing registered. */
static int reg_all(struct rdma *rdma, struct rdma_region *region, const struct mc_mem_desc *desc,
		   int dmabuf, uint32_t nr, struct progress *p)
{
	region->mrs = nr == 1 ? &region->one : calloc(nr, sizeof(struct ibv_mr *));
	if (!region->mrs)
		return ENOMEM;
	while (region->nr < nr) {
		uint64_t at = region->nr * region->chunk, len = MC_MIN(region->chunk, desc->len - at);
		struct ibv_mr *mr = reg_one(rdma, desc, dmabuf, at, len, region->access);
		int error = errno;

		if (!mr) {
			rdma_region_drop(rdma, region);
			return error;
		}
		region->mrs[region->nr++] = mr;
		atomic_fetch_add(&rdma->lane0->nr_mrs, 1);
		mc_gauge_add(rdma->lane0->g_mrs, 1);
		tell_progress(rdma, p, "pinned", at + len, desc->len);
	}
	return 0;
}

/* ---- device memory: a dma-buf, else peermem ---------------------------------------------------------------- */

static const char *dmabuf_why(const struct mc_mem_desc *desc)
{
	bool has = desc->size >= offsetof(struct mc_mem_desc, dmabuf_why) + sizeof desc->dmabuf_why;

	return has && desc->dmabuf_why ? desc->dmabuf_why : "its memory plugin gives none";
}

/* Which way was taken, once for each. */
static void tell_way(struct rdma *rdma, const struct rdma_region *reg)
{
	if (atomic_fetch_or(&rdma->lane0->ways_told, 1u << reg->registration) & 1u << reg->registration)
		return;
	if (reg->registration == RDMA_REG_DMABUF)
		rdma->host->log(rdma->host, MC_LOG_INFO, "device memory is registered by dma-buf");
	else
		rdma->host->log(rdma->host, MC_LOG_INFO, "device memory is registered by peermem: %s",
				reg->why[0] ? reg->why : "option 'registration' asks for it");
}

static int fail_device(struct rdma *rdma, const struct mc_mem_desc *desc, const char *dmabuf, const char *peermem,
		       struct mc_error *err)
{
	bool strict = rdma->set.registration != RDMA_REG_AUTO;
	char size[32];

	size_text(desc->len, size, sizeof size);
	return mc_fail(err, -EOPNOTSUPP, "%s: registering %s of kind '%s'%s%s%s%s: %s", rdma->host->instance, size, desc->kind,
		       dmabuf ? ": by a dma-buf: " : "", dmabuf ? dmabuf : "", peermem ? ": by peermem: " : "",
		       peermem ? peermem : "", strict ?
		       "option 'registration' allows no other way: set it to 'auto'" :
		       "modprobe nvidia_peermem, or leave it to staging by a further tier of rdma or tcp devices");
}

/* 0 with reg->registration; -EOPNOTSUPP with what became of each way that was tried. */
static int reg_device(struct rdma *rdma, struct rdma_region *reg, const struct mc_mem_desc *desc, uint32_t nr,
		      struct progress *p, struct mc_error *err)
{
	uint32_t only = rdma->set.registration;
	char peermem[100];
	int error;

	if (only != RDMA_REG_PEERMEM) {
		error = desc->dmabuf_fd < 0 ? 0 : reg_all(rdma, reg, desc, desc->dmabuf_fd, nr, p);
		if (desc->dmabuf_fd >= 0 && !error) {
			reg->registration = RDMA_REG_DMABUF;
			tell_way(rdma, reg);
			return 0;
		}
		if (desc->dmabuf_fd < 0)
			snprintf(reg->why, sizeof reg->why, "%.199s", dmabuf_why(desc));
		else
			snprintf(reg->why, sizeof reg->why, "ibv_reg_dmabuf_mr: %s", strerror(error));
	}
	if (only == RDMA_REG_DMABUF)
		return fail_device(rdma, desc, reg->why, NULL, err);
	error = reg_all(rdma, reg, desc, -1, nr, p);
	if (error) {
		snprintf(peermem, sizeof peermem, "ibv_reg_mr: %s", strerror(error));
		return fail_device(rdma, desc, reg->why[0] ? reg->why : NULL, peermem, err);
	}
	reg->registration = RDMA_REG_PEERMEM;
	tell_way(rdma, reg);
	return 0;
}

/* [any] */
void rdma_mem_explain(void *inst, const void *region, char *text, size_t cap)
{
	const struct rdma_region *reg = region;

	(void)inst;
	if (reg->registration == RDMA_REG_PEERMEM)
		snprintf(text, cap, "by peermem%s%s%s", reg->why[0] ? " (no dma-buf: " : "", reg->why, reg->why[0] ? ")" : "");
	else
		snprintf(text, cap, "%s", reg->registration == RDMA_REG_DMABUF ? "by dma-buf" : "");
}

/* [helper] on lane 0 */
int rdma_mem_reg(void *inst, void *region, const struct mc_mem_desc *desc, struct mc_error *err)
{
	struct rdma *rdma = inst;
	struct rdma_region *reg = region;
	uint64_t nr = desc->len ? (desc->len - 1) / rdma->set.max_mr_size + 1 : 1;
	struct progress p = { .since_ns = rdma->host->now_ns(rdma->host) };
	bool ladder = rdma->flavour->device_memory && strcmp(desc->kind, "cpu") != 0;
	char size[32];
	int error, r;

	if (nr > RDMA_CHUNKS_MAX)
		return mc_fail(err, -EFBIG, "%s: registering %s: that takes %llu memory regions, and a buffer may have %u: "
			       "raise option 'max_mr_size', or register the range in parts", rdma->host->instance,
			       size_text(desc->len, size, sizeof size), (unsigned long long)nr, RDMA_CHUNKS_MAX);
	if (!ladder && strcmp(desc->kind, "cpu") != 0 && desc->dmabuf_fd < 0)
		return mc_fail(err, -EOPNOTSUPP, "%s: memory of kind '%s' without a dma-buf cannot be registered: leave it to "
			       "staging, or name a transport for it in nic_priority_matrix", rdma->host->instance,
			       desc->kind);
	p.told_ns = p.since_ns;
	*reg = (struct rdma_region){ .base = (uintptr_t)desc->addr, .len = desc->len,
				     .chunk = nr > 1 ? rdma->set.max_mr_size : MC_MAX(desc->len, UINT64_C(1)),
				     .relaxed = relaxed(rdma, desc->access), .access = access_flags(rdma, desc->access) };
	if (rdma_gone_enter(rdma->lane0) < 0)
		return mc_fail(err, -ENODEV, "%s: the device has gone: open the engine anew when it is back",
			       rdma->host->instance);
	if (ladder) {
		r = reg_device(rdma, reg, desc, (uint32_t)nr, &p, err);
		rdma_gone_leave(rdma->lane0, r < 0 ? NULL : reg);
		return r;
	}
	touch_pages(rdma, desc, &p);
	error = reg_all(rdma, reg, desc, desc->dmabuf_fd, (uint32_t)nr, &p);
	/* Our own reads cannot land there, but it can be sent. */
	if (is_readonly_error(error) && !(desc->access & MC_ACCESS_REMOTE_WRITE)) {
		reg->access &= ~(uint32_t)IBV_ACCESS_LOCAL_WRITE;
		if (reg_all(rdma, reg, desc, desc->dmabuf_fd, (uint32_t)nr, &p) == 0)
			error = 0;
	}
	rdma_gone_leave(rdma->lane0, error ? NULL : reg);
	return error ? fail_reg(rdma, desc, error, err) : 0;
}

/* [helper] on lane 0 */
void rdma_mem_unreg(void *inst, void *region)
{
	struct rdma *lane0 = ((struct rdma *)inst)->lane0;

	rdma_gone_forget(lane0, region);
	rdma_region_drop(lane0, region);
}

/* [helper] on lane 0 */
int rdma_mem_export(void *inst, void *region, void *blob, size_t cap)
{
	const struct rdma_region *reg = region;
	struct rdma_keys keys = { .base = reg->base, .len = reg->len, .chunk = reg->chunk, .nr = reg->nr,
				  .relaxed = reg->relaxed };
	size_t len;

	(void)inst;
	for (uint32_t i = 0; i < reg->nr; i++)
		keys.rkeys[i] = reg->mrs[i]->rkey;
	len = rdma_keys_encode(&keys, blob, cap);
	return len ? (int)len : -ENOSPC;
}

/* [worker] */
int rdma_mem_import(void *inst, void *remote, void *peer, const struct mc_remote_buffer *buf)
{
	struct rdma_remote *rem = remote;
	struct rdma_keys keys;

	(void)inst;
	(void)peer;
	if (!buf->blob || rdma_keys_decode(buf->blob, buf->blob_len, &keys) < 0 || keys.base != buf->base ||
	    keys.len != buf->len)
		return -EPROTO;
	*rem = (struct rdma_remote){ .base = keys.base, .len = keys.len, .chunk = keys.chunk, .nr = keys.nr,
				     .relaxed = keys.relaxed, .one = keys.rkeys[0] };
	rem->rkeys = &rem->one;
	if (keys.nr == 1)
		return 0;
	rem->rkeys = malloc(keys.nr * sizeof *rem->rkeys);
	if (!rem->rkeys)
		return -ENOMEM;
	memcpy(rem->rkeys, keys.rkeys, keys.nr * sizeof *rem->rkeys);
	return 0;
}

/* [worker] */
void rdma_mem_release(void *inst, void *remote)
{
	struct rdma_remote *rem = remote;

	(void)inst;
	if (rem->rkeys != &rem->one)
		free(rem->rkeys);
	rem->rkeys = NULL;
}
