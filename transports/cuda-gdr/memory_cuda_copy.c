/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory kind `cuda`, copies.  Small ones are waited for: the way through a thread costs more.  Others
 * run on a stream of their direction, so that both copy engines of a GPU are busy, and a thread of ours
 * waits for their events: a callback of the driver may not come once its context has failed, an event
 * answers even then.
 */
#include <errno.h>
#include <stdlib.h>

#include "memory_cuda.h"

#define START "cuMemcpyAsync"

static CUresult start(struct cuda_driver *cu, const struct mc_copy *c, CUstream stream)
{
	CUdeviceptr mem = (CUdeviceptr)(uintptr_t)c->mem;

	return c->to_host ? cu->cuMemcpyDtoHAsync(c->hostptr, mem, c->len, stream)
			  : cu->cuMemcpyHtoDAsync(mem, c->hostptr, c->len, stream);
}

/* The errno of a copy; who reads the log finds what the driver answered, once until it answers otherwise.  An
 * address that is no memory of the GPU is an invalid value to it. */
static int copied(struct gpu *gpu, const char *call, CUresult r)
{
	struct cuda *cuda = gpu->cuda;

	if (r == CUDA_SUCCESS)
		return 0;
	if (atomic_exchange(&gpu->told, (int)r) != (int)r)
		cuda->host->log(cuda->host, MC_LOG_WARN, "a copy at 'cuda:%d' failed: %s answers %s (%d): %s", gpu->ordinal, call,
				cuda_error_name(&cuda->cu, r), (int)r, r == CUDA_ERROR_INVALID_VALUE ?
				"was memory freed that is registered?" : "see the kernel's log for an Xid, and nvidia-smi");
	return r == CUDA_ERROR_INVALID_VALUE ? -EFAULT : cuda_errno(r);
}

static int copy_now(struct gpu *gpu, const struct mc_copy *c)
{
	struct cuda_driver *cu = &gpu->cuda->cu;
	struct gpu_visit visit;
	CUresult r = gpu_enter(gpu, &visit);

	int status = copied(gpu, "cuCtxPushCurrent", r);

	if (status < 0)
		return status;
	status = copied(gpu, START, start(cu, c, gpu->small));
	if (status == 0)
		status = copied(gpu, "cuStreamSynchronize", cu->cuStreamSynchronize(gpu->small));
	gpu_leave(gpu, &visit);
	return status == 0 ? MC_DONE : status;
}

/* ---- copies under way ------------------------------------------------------------------------------ */

static void *wait_copies(void *arg)
{
	struct copy_queue *q = arg;
	struct cuda *cuda = q->gpu->cuda;
	struct gpu_visit visit;
	CUresult context = gpu_enter(q->gpu, &visit);

	pthread_mutex_lock(&q->lock);
	while (!q->quit || q->nr) {
		struct copy_slot slot = q->ring[q->head];
		CUresult r;

		if (!q->nr) {
			pthread_cond_wait(&q->wake, &q->lock);
			continue;
		}
		pthread_mutex_unlock(&q->lock);
		r = cuda->cu.cuEventSynchronize(slot.event);
		/* No byte is touched after the answer, unless the context is past all help. */
		if (r != CUDA_SUCCESS)
			cuda->cu.cuStreamSynchronize(q->stream);
		pthread_mutex_lock(&q->lock);
		q->head = (q->head + 1) % cuda->depth;
		q->nr--;
		pthread_mutex_unlock(&q->lock);
		cuda->host->copied(cuda->host, slot.copy, copied(q->gpu, "cuEventSynchronize", r));
		pthread_mutex_lock(&q->lock);
	}
	pthread_mutex_unlock(&q->lock);
	if (context == CUDA_SUCCESS)
		gpu_leave(q->gpu, &visit);
	return NULL;
}

/* The thread and the slot's event, made when first needed.  Under the lock, in the GPU's context. */
static int prepare(struct copy_queue *q, struct copy_slot *slot)
{
	struct cuda_driver *cu = &q->gpu->cuda->cu;
	CUresult r = CUDA_SUCCESS;

	if (!slot->event)
		r = cu->cuEventCreate(&slot->event, CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING);
	if (r != CUDA_SUCCESS) {
		slot->event = NULL;
		return copied(q->gpu, "cuEventCreate", r);
	}
	if (!q->running && pthread_create(&q->thread, NULL, wait_copies, q))
		return -ENOMEM;
	q->running = true;
	return 0;
}

/* Under the lock, in the GPU's context. */
static int enqueue(struct copy_queue *q, struct mc_copy *c)
{
	struct cuda *cuda = q->gpu->cuda;
	struct copy_slot *slot = &q->ring[(q->head + q->nr) % cuda->depth];
	CUresult r;
	int error = prepare(q, slot);

	if (error < 0)
		return error;
	error = copied(q->gpu, START, start(&cuda->cu, c, q->stream));
	if (error < 0)
		return error;
	r = cuda->cu.cuEventRecord(slot->event, q->stream);
	if (r != CUDA_SUCCESS) {
		/* It runs, and nothing would tell when it has ended. */
		r = cuda->cu.cuStreamSynchronize(q->stream);
		return r == CUDA_SUCCESS ? MC_DONE : copied(q->gpu, "cuStreamSynchronize", r);
	}
	slot->copy = c;
	q->nr++;
	pthread_cond_signal(&q->wake);
	return 0;
}

/* [any] */
int cuda_copy(void *inst, struct mc_copy *c)
{
	struct cuda *cuda = inst;
	struct gpu_visit visit;
	struct copy_queue *q;
	struct gpu *gpu;
	int status;

	if (c->ordinal < 0 || c->ordinal >= cuda->nr_gpus)
		return -ENODEV;
	gpu = &cuda->gpus[c->ordinal];
	if (!c->len)
		return MC_DONE;
	if ((int64_t)c->len < cuda->sync_below)
		return copy_now(gpu, c);
	status = copied(gpu, "cuCtxPushCurrent", gpu_enter(gpu, &visit));
	if (status < 0)
		return status;
	q = &gpu->queues[c->to_host ? TO_HOST : TO_GPU];
	pthread_mutex_lock(&q->lock);
	status = q->nr == cuda->depth ? -EAGAIN : enqueue(q, c);
	pthread_mutex_unlock(&q->lock);
	gpu_leave(gpu, &visit);
	return status;
}

/* ---- opening and closing --------------------------------------------------------------------------- */

int gpu_copies_init(struct gpu *gpu)
{
	for (int i = 0; i < DIRECTIONS; i++) {
		struct copy_queue *q = &gpu->queues[i];

		q->gpu = gpu;
		pthread_mutex_init(&q->lock, NULL);
		pthread_cond_init(&q->wake, NULL);
		q->ring = calloc(gpu->cuda->depth, sizeof *q->ring);
		if (!q->ring)
			return -ENOMEM;
	}
	return 0;
}

void gpu_copies_stop(struct gpu *gpu)
{
	for (int i = 0; i < DIRECTIONS; i++) {
		struct copy_queue *q = &gpu->queues[i];

		if (!q->gpu || !q->running)
			continue;
		pthread_mutex_lock(&q->lock);
		q->quit = true;
		pthread_cond_signal(&q->wake);
		pthread_mutex_unlock(&q->lock);
		pthread_join(q->thread, NULL);
		q->running = false;
	}
}

static void queue_close(struct copy_queue *q, struct cuda_driver *cu, bool context)
{
	for (uint32_t i = 0; context && q->ring && i < q->gpu->cuda->depth; i++)
		if (q->ring[i].event)
			cu->cuEventDestroy(q->ring[i].event);
	if (context && q->stream)
		cu->cuStreamDestroy(q->stream);
	pthread_cond_destroy(&q->wake);
	pthread_mutex_destroy(&q->lock);
}

void gpu_copies_close(struct gpu *gpu)
{
	struct cuda_driver *cu = &gpu->cuda->cu;
	struct gpu_visit visit;
	bool context = atomic_load(&gpu->context) && gpu_enter(gpu, &visit) == CUDA_SUCCESS;

	for (int i = 0; i < DIRECTIONS; i++) {
		if (gpu->queues[i].gpu)
			queue_close(&gpu->queues[i], cu, context);
		free(gpu->queues[i].ring);
	}
	if (context && gpu->small)
		cu->cuStreamDestroy(gpu->small);
	if (context)
		gpu_leave(gpu, &visit);
}
