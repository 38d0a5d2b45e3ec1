/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory kind `cuda`: memory of NVIDIA GPUs, through the driver's own library.  This file has the
 * descriptor, finding memory, allocating it, and what registering it needs: dma-bufs and the order of
 * writes.  README.md says what a host must have.
 */
#include "memory_cuda.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- contexts -------------------------------------------------------------------------------------- */

/* The streams belong to the context: all of it, or nothing.  Under the lock. */
static CUresult make_streams(struct gpu *gpu)
{
	struct cuda_driver *cu = &gpu->cuda->cu;
	CUstream *streams[] = { &gpu->small, &gpu->queues[TO_HOST].stream, &gpu->queues[TO_GPU].stream };
	CUresult r = CUDA_SUCCESS;
	size_t i;

	for (i = 0; i < MC_ARRAY_SIZE(streams) && r == CUDA_SUCCESS; i++)
		r = cu->cuStreamCreate(streams[i], CU_STREAM_NON_BLOCKING);
	if (r == CUDA_SUCCESS)
		return r;
	for (size_t j = 0; j + 1 < i; j++) {
		cu->cuStreamDestroy(*streams[j]);
		*streams[j] = NULL;
	}
	return r;
}

static CUresult retain(struct gpu *gpu)
{
	struct cuda_driver *cu = &gpu->cuda->cu;
	CUcontext context = NULL, before;
	CUresult r = CUDA_SUCCESS;

	pthread_mutex_lock(&gpu->lock);
	if (!atomic_load(&gpu->context)) {
		r = cu->cuDevicePrimaryCtxRetain(&context, gpu->device);
		if (r == CUDA_SUCCESS) {
			r = cu->cuCtxPushCurrent(context);
			if (r == CUDA_SUCCESS) {
				r = make_streams(gpu);
				cu->cuCtxPopCurrent(&before);
			}
			if (r == CUDA_SUCCESS)
				atomic_store(&gpu->context, context);
			else
				cu->cuDevicePrimaryCtxRelease(gpu->device);
		}
	}
	pthread_mutex_unlock(&gpu->lock);
	return r;
}

/* A capture in the mode `global`, as PyTorch's, forbids every thread what could disturb it, and is void once
 * somebody does that.  Our streams and memory are none of its concern. */
static void relax(struct gpu *gpu, struct gpu_visit *visit)
{
	const struct cuda_driver *cu = &gpu->cuda->cu;

	visit->mode = CU_STREAM_CAPTURE_MODE_RELAXED;
	visit->exchanged = cu->cuThreadExchangeStreamCaptureMode &&
			   cu->cuThreadExchangeStreamCaptureMode(&visit->mode) == CUDA_SUCCESS;
}

static void unrelax(struct gpu *gpu, const struct gpu_visit *visit)
{
	CUstreamCaptureMode mode = visit->mode;

	if (visit->exchanged)
		gpu->cuda->cu.cuThreadExchangeStreamCaptureMode(&mode);
}

CUresult gpu_enter(struct gpu *gpu, struct gpu_visit *visit)
{
	CUcontext context = atomic_load(&gpu->context);
	CUresult r = CUDA_SUCCESS;

	relax(gpu, visit);
	if (MC_UNLIKELY(!context)) {
		r = retain(gpu);
		context = atomic_load(&gpu->context);
	}
	if (r == CUDA_SUCCESS)
		r = gpu->cuda->cu.cuCtxPushCurrent(context);
	if (r != CUDA_SUCCESS)
		unrelax(gpu, visit);
	return r;
}

void gpu_leave(struct gpu *gpu, const struct gpu_visit *visit)
{
	CUcontext ours;

	gpu->cuda->cu.cuCtxPopCurrent(&ours);
	unrelax(gpu, visit);
}

/* ---- finding memory ---------------------------------------------------------------------------------- */

struct span {
	struct gpu *gpu;
	uint64_t start, end; /* of the allocation, or of one handle mapped into a reserved range */
};

/* What follows takes it for no memory of a GPU, which says too little: a GPU may have failed, or the process
 * has forked. */
static void lookup_failed(struct cuda *cuda, const char *call, uint64_t addr, CUresult r)
{
	cuda->host->log(cuda->host, MC_LOG_WARN, "%s of %p answers %s (%d): its memory is not found", call,
			(void *)(uintptr_t)addr, cuda_error_name(&cuda->cu, r), (int)r);
}

/* The GPU that an address is memory of, or NULL.  Managed memory moves, and the CPU may touch it: it is
 * host memory to us.  Needs no context. */
static struct gpu *gpu_of(struct cuda *cuda, uint64_t addr)
{
	CUpointer_attribute attributes[] = { CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_IS_MANAGED,
					     CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL };
	unsigned type = 0, managed = 0;
	int ordinal = -1;
	void *values[] = { &type, &managed, &ordinal };

	CUresult r = cuda->cu.cuPointerGetAttributes(MC_ARRAY_SIZE(attributes), attributes, values, addr);

	if (r != CUDA_SUCCESS) {
		if (r != CUDA_ERROR_INVALID_VALUE) /* else it is nothing of the driver's */
			lookup_failed(cuda, "cuPointerGetAttributes", addr, r);
		return NULL;
	}
	if (type != CU_MEMORYTYPE_DEVICE || managed || ordinal < 0 || ordinal >= cuda->nr_gpus)
		return NULL;
	return &cuda->gpus[ordinal];
}

static int span_find(struct cuda *cuda, uint64_t addr, struct span *span)
{
	struct gpu *gpu = gpu_of(cuda, addr);
	struct gpu_visit visit;
	CUdeviceptr base = 0;
	size_t len = 0;
	CUresult r;

	if (!gpu)
		return -ENOENT;
	r = gpu_enter(gpu, &visit);
	if (r == CUDA_SUCCESS) {
		r = cuda->cu.cuMemGetAddressRange(&base, &len, addr);
		gpu_leave(gpu, &visit);
	}
	if (r != CUDA_SUCCESS) {
		lookup_failed(cuda, "cuMemGetAddressRange", addr, r);
		return cuda_errno(r);
	}
	if (!mc_range_inside(base, len, addr, 1))
		return -EIO;
	*span = (struct span){ .gpu = gpu, .start = base, .end = base + len };
	return 0;
}

/* [addr, addr + len) lies in one allocation, or in handles of one GPU that are mapped side by side. */
static int span_cover(struct cuda *cuda, uint64_t addr, uint64_t len, struct span *span)
{
	struct span next;
	int r = span_find(cuda, addr, span);

	while (r == 0 && len > span->end - addr) {
		r = span_find(cuda, span->end, &next);
		if (r == 0 && (next.gpu != span->gpu || next.start != span->end))
			r = -EINVAL;
		if (r == 0)
			span->end = next.end;
	}
	return r;
}

/* [any] */
static int cuda_identify(void *inst, const void *addr, uint64_t len, struct mc_mem_desc *desc)
{
	struct cuda *cuda = inst;
	uint64_t at = (uintptr_t)addr, last = MC_MAX(len, UINT64_C(1)) - 1;
	struct gpu *first = gpu_of(cuda, at);
	struct span span;

	if (!first)
		return gpu_of(cuda, at + last) ? -EINVAL : -ENOENT;
	if (last > UINT64_MAX - 1 - at || span_cover(cuda, at, last + 1, &span) < 0)
		return -EINVAL;
	desc->kind = "cuda";
	desc->ordinal = first->ordinal;
	return 0;
}

/* ---- allocating ---------------------------------------------------------------------------------------- */

static int no_gpu(const struct cuda *cuda, int32_t ordinal, struct mc_error *err)
{
	if (cuda->nr_gpus == 1)
		return mc_fail(err, -ENODEV, "location 'cuda:%d' does not exist: this host has one GPU, 'cuda:0'", ordinal);
	return mc_fail(err, -ENODEV, "location 'cuda:%d' does not exist: this host has %d GPUs, 'cuda:0' to 'cuda:%d'",
		       ordinal, cuda->nr_gpus, cuda->nr_gpus - 1);
}

static int fail_call(struct gpu *gpu, CUresult r, const char *what, uint64_t len, struct mc_error *err)
{
	return mc_fail(err, cuda_errno(r), "%s %llu bytes at 'cuda:%d': %s%s", what, (unsigned long long)len, gpu->ordinal,
		       cuda_error_name(&gpu->cuda->cu, r),
		       r == CUDA_ERROR_OUT_OF_MEMORY ? ": other processes may hold the GPU's memory, see nvidia-smi" : "");
}

/* [helper] */
static int cuda_alloc(void *inst, struct mc_mem_desc *desc, struct mc_error *err)
{
	struct cuda *cuda = inst;
	struct cuda_block *block;
	struct gpu_visit visit;
	struct gpu *gpu;
	CUresult r;

	if (desc->ordinal < -1 || desc->ordinal >= cuda->nr_gpus)
		return no_gpu(cuda, desc->ordinal, err);
	gpu = &cuda->gpus[MC_MAX(desc->ordinal, 0)];
	block = calloc(1, sizeof *block);
	if (!block)
		return mc_fail(err, -ENOMEM, "location 'cuda:%d': out of memory", gpu->ordinal);
	r = gpu_enter(gpu, &visit);
	if (r == CUDA_SUCCESS) {
		r = cuda->cu.cuMemAlloc(&block->ptr, desc->len);
		gpu_leave(gpu, &visit);
	}
	if (r != CUDA_SUCCESS) {
		free(block);
		return fail_call(gpu, r, "allocating", desc->len, err);
	}
	block->gpu = gpu;
	pthread_mutex_lock(&cuda->lock);
	block->next = cuda->blocks;
	cuda->blocks = block;
	pthread_mutex_unlock(&cuda->lock);
	desc->addr = (void *)(uintptr_t)block->ptr;
	desc->kind = "cuda";
	desc->ordinal = gpu->ordinal;
	return 0;
}

static void block_free(struct cuda *cuda, struct cuda_block *block)
{
	struct gpu_visit visit;

	if (gpu_enter(block->gpu, &visit) == CUDA_SUCCESS) {
		CUresult r = cuda->cu.cuMemFree(block->ptr);

		if (r != CUDA_SUCCESS)
			cuda->host->log(cuda->host, MC_LOG_WARN, "cuMemFree at 'cuda:%d': %s", block->gpu->ordinal,
					cuda_error_name(&cuda->cu, r));
		gpu_leave(block->gpu, &visit);
	}
	free(block);
}

/* [helper] */
static void cuda_free(void *inst, struct mc_mem_desc *desc)
{
	struct cuda *cuda = inst;
	struct cuda_block **p, *block;

	pthread_mutex_lock(&cuda->lock);
	for (p = &cuda->blocks; *p && (*p)->ptr != (uintptr_t)desc->addr; p = &(*p)->next)
		;
	block = *p;
	if (block)
		*p = block->next;
	pthread_mutex_unlock(&cuda->lock);
	if (block)
		block_free(cuda, block);
}

/* ---- registering ----------------------------------------------------------------------------------------- */

/* Copies of the user's that return before they are carried out would overtake what a NIC reads: the
 * driver shall wait for them.  Memory mapped from handles knows no such attribute. */
static void sync_memops(struct gpu *gpu, const struct mc_mem_desc *desc)
{
	struct cuda *cuda = gpu->cuda;
	unsigned on = 1;
	CUresult r = cuda->cu.cuPointerSetAttribute(&on, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, (uintptr_t)desc->addr);

	if (r != CUDA_SUCCESS)
		cuda->host->log(cuda->host, MC_LOG_DEBUG, "SYNC_MEMOPS of %p at 'cuda:%d': %s: copies must be waited for "
				"before the memory is sent", desc->addr, gpu->ordinal, cuda_error_name(&cuda->cu, r));
}

/* The allocation that encloses it, as pages: the driver exports nothing smaller. */
static CUresult export_span(struct gpu *gpu, const struct span *span, int *ret_fd, uint64_t *ret_start)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), start = span->start & ~(page - 1);

	*ret_start = start;
	return gpu->cuda->cu.cuMemGetHandleForAddressRange(ret_fd, start, (size_t)mc_round_up(span->end - start, page),
							   CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD, 0);
}

/* Memory of several handles is one to devices if the driver exports it as one dma-buf; some do not. */
static bool exports_whole(struct cuda *cuda, const struct mc_mem_desc *desc)
{
	struct gpu_visit visit;
	struct span span;
	uint64_t start;
	int fd = -1;
	bool whole;

	if (!cuda->join_handles || span_cover(cuda, (uintptr_t)desc->addr, desc->len, &span) < 0 || !span.gpu->dmabuf ||
	    gpu_enter(span.gpu, &visit) != CUDA_SUCCESS)
		return false;
	whole = export_span(span.gpu, &span, &fd, &start) == CUDA_SUCCESS;
	gpu_leave(span.gpu, &visit);
	if (whole)
		close(fd);
	return whole;
}

/* [any] */
static int cuda_extent(void *inst, const struct mc_mem_desc *desc, uint64_t *ret_len)
{
	struct span span;
	uint64_t rest;
	int r = span_find(inst, (uintptr_t)desc->addr, &span);

	if (r < 0)
		return r;
	rest = span.end - (uintptr_t)desc->addr;
	*ret_len = rest >= desc->len || exports_whole(inst, desc) ? desc->len : rest;
	return 0;
}

/* [helper] */
static int cuda_export_dmabuf(void *inst, struct mc_mem_desc *desc, struct mc_error *err)
{
	struct cuda *cuda = inst;
	struct gpu_visit visit;
	struct span span;
	uint64_t start = 0;
	CUresult r;
	int fd = -1, found = span_cover(cuda, (uintptr_t)desc->addr, desc->len, &span);

	if (found < 0)
		return mc_fail(err, found, "address %p is not memory of kind 'cuda'", desc->addr);
	r = gpu_enter(span.gpu, &visit);
	if (r != CUDA_SUCCESS)
		return fail_call(span.gpu, r, "exporting", desc->len, err);
	sync_memops(span.gpu, desc);
	if (!span.gpu->dmabuf) {
		gpu_leave(span.gpu, &visit);
		return mc_fail(err, -ENOTSUP, "the driver exports no dma-buf of 'cuda:%d' (CUDA 11.7 or newer with the open "
			       "kernel modules does)", span.gpu->ordinal);
	}
	r = export_span(span.gpu, &span, &fd, &start);
	gpu_leave(span.gpu, &visit);
	if (r != CUDA_SUCCESS)
		return mc_fail(err, cuda_errno(r), "cuMemGetHandleForAddressRange at 'cuda:%d': %s", span.gpu->ordinal,
			       cuda_error_name(&cuda->cu, r));
	desc->dmabuf_fd = fd;
	desc->dmabuf_offset = (uintptr_t)desc->addr - start;
	return 0;
}

static int gpu_flush(struct gpu *gpu)
{
	struct gpu_visit visit;
	CUresult r;

	/* Who never met its memory gave none to a NIC. */
	if (!gpu->must_flush || !atomic_load(&gpu->context))
		return 0;
	r = gpu->can_flush ? gpu_enter(gpu, &visit) : CUDA_ERROR_NOT_SUPPORTED;
	if (r != CUDA_SUCCESS)
		return cuda_errno(r);
	r = gpu->cuda->cu.cuFlushGPUDirectRDMAWrites(CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TARGET_CURRENT_CTX,
						     CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TO_OWNER);
	gpu_leave(gpu, &visit);
	return cuda_errno(r);
}

/* [any] The driver knows no smaller part than all that NICs wrote to a GPU. */
static int cuda_flush(void *inst, const struct mc_mem_desc *desc)
{
	struct cuda *cuda = inst;
	int status = 0;

	if (desc->ordinal < -1 || desc->ordinal >= cuda->nr_gpus)
		return -ENODEV;
	if (desc->len && !gpu_of(cuda, (uintptr_t)desc->addr))
		return -EFAULT;
	for (int i = 0; i < cuda->nr_gpus; i++) {
		int r = desc->ordinal < 0 || desc->ordinal == i ? gpu_flush(&cuda->gpus[i]) : 0;

		status = status ? status : r;
	}
	return status;
}

/* [helper] Copies from and to pinned memory run beside everything else; others stop the caller. */
static int cuda_pin(void *inst, void *addr, uint64_t len)
{
	struct cuda *cuda = inst;
	struct gpu *gpu = cuda->gpus;
	struct gpu_visit visit;
	CUresult r;

	/* Pinned for one, pinned for all: do not wake up a GPU that is not used. */
	for (int i = 0; i < cuda->nr_gpus; i++)
		if (atomic_load(&cuda->gpus[i].context)) {
			gpu = &cuda->gpus[i];
			break;
		}
	r = gpu_enter(gpu, &visit);
	if (r != CUDA_SUCCESS)
		return cuda_errno(r);
	r = cuda->cu.cuMemHostRegister(addr, len, CU_MEMHOSTREGISTER_PORTABLE);
	gpu_leave(gpu, &visit);
	if (r != CUDA_SUCCESS)
		cuda->host->log(cuda->host, MC_LOG_WARN, "pinning %llu bytes of host memory: %s: copies to and from GPUs will "
				"be slower", (unsigned long long)len, cuda_error_name(&cuda->cu, r));
	return cuda_errno(r);
}

/* [helper] */
static void cuda_unpin(void *inst, void *addr)
{
	struct cuda *cuda = inst;
	struct gpu_visit visit;

	for (int i = 0; i < cuda->nr_gpus; i++) {
		struct gpu *gpu = &cuda->gpus[i];

		if (!atomic_load(&gpu->context) || gpu_enter(gpu, &visit) != CUDA_SUCCESS)
			continue;
		cuda->cu.cuMemHostUnregister(addr);
		gpu_leave(gpu, &visit);
		return;
	}
}

/* ---- distance ---------------------------------------------------------------------------------------------- */

/* The place of a device in the tree of buses, as sysfs writes it; false: it is not there. */
static bool bus_path(const char *pci, char path[PATH_MAX])
{
	char link[64];

	snprintf(link, sizeof link, "/sys/bus/pci/devices/%.12s", pci);
	return strlen(pci) == MC_PCI_LEN && realpath(link, path);
}

static int count_slashes(const char *s)
{
	int n = 0;

	for (; *s; s++)
		n += *s == '/';
	return n;
}

/* Links between the two in the tree of buses: two below one switch are nearer than two below one root. */
static int cuda_distance(void *inst, int32_t ordinal, const char *pci)
{
	struct cuda *cuda = inst;
	char ours[PATH_MAX], theirs[PATH_MAX];
	size_t same = 0;

	if (ordinal < 0 || ordinal >= cuda->nr_gpus || !pci || !bus_path(cuda->gpus[ordinal].pci, ours) ||
	    !bus_path(pci, theirs))
		return -1;
	if (strcmp(ours, theirs) == 0)
		return 0;
	for (size_t i = 0; ours[i] && ours[i] == theirs[i]; i++)
		if (ours[i] == '/')
			same = i;
	return count_slashes(ours + same) + count_slashes(theirs + same);
}

/* ---- opening and closing ------------------------------------------------------------------------------------- */

enum { OPT_SYNC_BELOW, OPT_DEPTH, OPT_JOIN_HANDLES };
static const struct mc_option cuda_options[] = {
	[OPT_SYNC_BELOW] = { .name = "sync_below", .type = MC_OPT_SIZE, .def = "16KiB", .max = 1 << 30,
			     .doc = "copies between GPU and host memory that are smaller are waited for" },
	[OPT_DEPTH] = { .name = "depth", .type = MC_OPT_INT, .def = "64", .min = 1, .max = 65536,
			.doc = "copies under way per GPU and direction; further ones are tried again later" },
	[OPT_JOIN_HANDLES] = { .name = "join_handles", .type = MC_OPT_BOOL, .def = "true",
			       .doc = "memory mapped from several handles is one buffer, if the driver exports it as one "
				      "dma-buf; false: a buffer per handle, as peermem may need" },
	{ .name = NULL },
};

static int attribute(struct gpu *gpu, CUdevice_attribute which)
{
	int value = 0;

	return gpu->cuda->cu.cuDeviceGetAttribute(&value, which, gpu->device) == CUDA_SUCCESS ? value : 0;
}

static int gpu_init(struct gpu *gpu, struct cuda *cuda, int ordinal, struct mc_error *err)
{
	CUresult r;

	gpu->cuda = cuda;
	gpu->ordinal = ordinal;
	pthread_mutex_init(&gpu->lock, NULL);
	if (gpu_copies_init(gpu) < 0)
		return mc_fail(err, -ENOMEM, "memory of kind 'cuda': out of memory");
	r = cuda->cu.cuDeviceGet(&gpu->device, ordinal);
	if (r != CUDA_SUCCESS)
		return mc_fail(err, -ENODEV, "memory of kind 'cuda' cannot be used: cuDeviceGet of GPU %d answers %s: see "
			       "nvidia-smi", ordinal, cuda_error_name(&cuda->cu, r));
	if (cuda->cu.cuDeviceGetPCIBusId(gpu->pci, sizeof gpu->pci, gpu->device) != CUDA_SUCCESS)
		gpu->pci[0] = '\0';
	for (char *c = gpu->pci; *c; c++)
		*c = (char)tolower((unsigned char)*c);
	gpu->dmabuf = cuda->cu.cuMemGetHandleForAddressRange && attribute(gpu, CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED);
	gpu->must_flush = attribute(gpu, CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WRITES_ORDERING) <
			  CU_GPU_DIRECT_RDMA_WRITES_ORDERING_OWNER;
	gpu->can_flush = cuda->cu.cuFlushGPUDirectRDMAWrites &&
			 (attribute(gpu, CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_FLUSH_WRITES_OPTIONS) &
			  CU_FLUSH_GPU_DIRECT_RDMA_WRITES_OPTION_HOST);
	return 0;
}

/* [helper] Also undoes a half-made open. */
static void cuda_close(void *inst)
{
	struct cuda *cuda = inst;

	for (int i = 0; i < cuda->nr_gpus; i++)
		gpu_copies_stop(&cuda->gpus[i]);
	while (cuda->blocks) {
		struct cuda_block *block = cuda->blocks;

		cuda->blocks = block->next;
		block_free(cuda, block);
	}
	for (int i = 0; i < cuda->nr_gpus; i++) {
		struct gpu *gpu = &cuda->gpus[i];

		if (!gpu->cuda)
			break;
		gpu_copies_close(gpu);
		if (atomic_load(&gpu->context))
			cuda->cu.cuDevicePrimaryCtxRelease(gpu->device);
		pthread_mutex_destroy(&gpu->lock);
	}
	free(cuda->gpus);
	pthread_mutex_destroy(&cuda->lock);
	cuda_driver_close(&cuda->cu);
}

/* [helper] */
static int cuda_open(void *inst, const struct mc_host *host, const struct mc_open_args *args, struct mc_error *err)
{
	struct cuda *cuda = inst;
	int r;

	cuda->host = host;
	cuda->sync_below = args->options[OPT_SYNC_BELOW].i;
	cuda->depth = (uint32_t)args->options[OPT_DEPTH].i;
	cuda->join_handles = args->options[OPT_JOIN_HANDLES].b;
	r = cuda_driver_open(&cuda->cu, &cuda->nr_gpus, err);
	if (r < 0)
		return r;
	pthread_mutex_init(&cuda->lock, NULL);
	cuda->gpus = calloc((size_t)cuda->nr_gpus, sizeof *cuda->gpus);
	if (!cuda->gpus) {
		cuda->nr_gpus = 0;
		r = mc_fail(err, -ENOMEM, "memory of kind 'cuda': out of memory");
	}
	for (int i = 0; r == 0 && i < cuda->nr_gpus; i++)
		r = gpu_init(&cuda->gpus[i], cuda, i, err);
	if (r < 0)
		cuda_close(cuda);
	return r;
}

/* [any] */
static int cuda_count(void *inst)
{
	return ((struct cuda *)inst)->nr_gpus;
}

static const struct mc_memory_ops cuda_ops = {
	.size = sizeof cuda_ops,
	.instance_size = sizeof(struct cuda),
	.open = cuda_open,
	.close = cuda_close,
	.count = cuda_count,
	.identify = cuda_identify,
	.alloc = cuda_alloc,
	.free = cuda_free,
	.copy = cuda_copy,
	.export_dmabuf = cuda_export_dmabuf,
	.flush = cuda_flush,
	.distance = cuda_distance,
	.extent = cuda_extent,
	.pin = cuda_pin,
	.unpin = cuda_unpin,
};

static const char *const cuda_kinds[] = { "cuda", NULL };

const struct mc_plugin_desc mc_plugin_desc = {
	MC_PLUGIN_HEAD(MC_KIND_MEMORY),
	.name = "cuda",
	.version = MC_VERSION,
	.summary = "memory of NVIDIA GPUs, through the CUDA driver, which is opened at run time",
	.ops = &cuda_ops,
	.options = cuda_options,
	.memory = cuda_kinds,
};
