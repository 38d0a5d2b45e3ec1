/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to the memory kind `cuda`.  A GPU's primary context is retained when its memory is first met,
 * so GPUs that nobody uses cost nothing.  Every call into the driver that needs a context pushes that one
 * and pops it again: the caller's own is left as it was.
 */
#ifndef MC_MEMORY_CUDA_H
#define MC_MEMORY_CUDA_H

#include <pthread.h>
#include <stdatomic.h>

#include <mooncake/memory.h>

#include "core/util/check.h"
#include "core/util/pci.h"
#include "cuda_driver.h"

struct cuda;
struct gpu;

/* Copies of one direction: a stream, and a thread that waits for its events in their order. */
struct copy_queue {
	struct gpu *gpu;
	CUstream stream;
	pthread_mutex_t lock; /* everything below; the driver is called under it, so that events are in order */
	pthread_cond_t wake;
	struct copy_slot {
		struct mc_copy *copy;
		CUevent event; /* made once */
	} *ring;
	uint32_t head, nr;    /* under way: nr slots from head on */
	bool running, quit;
	pthread_t thread;
};

enum { TO_HOST, TO_GPU, DIRECTIONS };

struct gpu {
	struct cuda *cuda;
	int32_t ordinal;
	CUdevice device;
	char pci[MC_PCI_LEN + 1]; /* "" : unknown */
	bool dmabuf;         /* the driver exports its memory */
	bool must_flush;     /* what NICs wrote is not visible before a flush */
	bool can_flush;
	_Atomic int told;    /* what the driver answered when a copy failed last */
	pthread_mutex_t lock;
	_Atomic(CUcontext) context; /* primary; NULL: not retained yet; set under lock */
	CUstream small;      /* of copies that are waited for; set before context is */
	struct copy_queue queues[DIRECTIONS];
};

struct cuda {
	const struct mc_host *host;
	struct cuda_driver cu;
	struct gpu *gpus;
	int nr_gpus;
	int64_t sync_below;
	uint32_t depth;
	bool join_handles;
	pthread_mutex_t lock; /* guards blocks */
	struct cuda_block {
		struct cuda_block *next;
		struct gpu *gpu;
		CUdeviceptr ptr;
	} *blocks; /* what alloc gave and free did not take */
};

/* What gpu_leave puts back. */
struct gpu_visit {
	CUstreamCaptureMode mode;
	bool exchanged;
};
/* Make the GPU's context this thread's, and let our calls be no part of a graph that somebody captures; what
 * was so before is again after gpu_leave.  [any] */
CUresult gpu_enter(struct gpu *gpu, struct gpu_visit *visit);
void gpu_leave(struct gpu *gpu, const struct gpu_visit *visit);

/* memory_cuda_copy.c */
int gpu_copies_init(struct gpu *gpu);  /* [helper] */
void gpu_copies_stop(struct gpu *gpu);  /* [helper] what is under way is waited for and answered */
void gpu_copies_close(struct gpu *gpu); /* [helper] after that */
int cuda_copy(void *inst, struct mc_copy *c);

#endif
