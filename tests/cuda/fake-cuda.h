/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A CUDA driver for tests: libcuda.so.1 without a GPU, found by LD_LIBRARY_PATH.
 *
 * Device memory is a memfd, mapped twice: at the device pointer nobody can touch it, so code that
 * dereferences one on the CPU faults as it does with a GPU; the driver's own alias is hidden.  Streams
 * are threads, so asynchronous copies are; calls that need a context fail without one.  What it cannot
 * show: a NIC's DMA, the order of a GPU's writes, speed.
 *
 *   FAKE_CUDA_DEVICES=N    how many GPUs (2); 0: cuInit answers CUDA_ERROR_NO_DEVICE
 *   FAKE_CUDA_FAIL=LIST    NAME=CODE, NAME@N=CODE with commas between: the call NAME, or its N-th call
 *                          alone, answers CODE and does nothing
 *   FAKE_CUDA_DMABUF=0     no dma-bufs, as without the open kernel modules
 *   FAKE_CUDA_WHOLE=0      a dma-buf is of one handle at the most
 *   FAKE_CUDA_ORDERING=N   of writes of NICs: 0 (they need a flush), 100, 200 (default)
 *   FAKE_CUDA_CAPTURE=1    somebody captures a graph in the mode `global`: calls that could disturb it fail with
 *                          900 on threads that have not exchanged their own mode for `relaxed`
 *   FAKE_CUDA_DELAY=US     each asynchronous copy takes so long
 *   FAKE_CUDA_TELL=1       at exit, what is left (blocks, streams, events, contexts) and how often
 *                          cuFlushGPUDirectRDMAWrites was called, on stderr
 */
#ifndef MC_FAKE_CUDA_H
#define MC_FAKE_CUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
       INVALID_CONTEXT = 201, ALREADY_REGISTERED = 712, NOT_REGISTERED = 713, NOT_SUPPORTED = 801,
       STREAM_CAPTURE_UNSUPPORTED = 900 };

/* A call of the driver: declared and defined. */
#define CALL(name, ...) \
	__attribute__((visibility("default"))) int name(__VA_ARGS__); \
	int name(__VA_ARGS__)
/* First in each: the answer that the environment wants. */
#define INJECT \
	do { \
		int injected = fake_injected(__func__); \
\
		if (injected) \
			return injected; \
	} while (0)
int fake_injected(const char *call);
uint64_t fake_number(const char *variable, uint64_t otherwise);
/* First in calls that are not safe while a graph is captured. */
#define INJECT_UNSAFE \
	do { \
		INJECT; \
		if (fake_captures()) \
			return STREAM_CAPTURE_UNSUPPORTED; \
	} while (0)
bool fake_captures(void);
/* There is a current context. */
bool fake_in_context(void);
/* Its GPU, or -1. */
int fake_current(void);
bool fake_initialized(void);
/* How many are retained. */
long fake_contexts(void);
/* Counts of what is made and not destroyed; atomic. */
extern long fake_streams, fake_events;
/* Wait until every stream is idle, as freeing memory does. */
void fake_drain(void);
/* As a device moves bytes: no sanitizer looks on, for what orders them may be another process. */
void fake_dma(void *to, const void *from, size_t len);

/* As fake_cuda_alias, and where handles are mapped side by side they are one, as to copies. */
void *fake_reach(uint64_t ptr, size_t len);

/* Where the bytes of [ptr, ptr + len) are; NULL: that is not device memory, or more than one block.  A
 * shim of the verbs library that plays peermem asks for it by dlsym. */
__attribute__((visibility("default"))) void *fake_cuda_alias(uint64_t ptr, size_t len);
/* Blocks, streams, events, retained contexts and pinned ranges that there are now; "blocks", ... */
__attribute__((visibility("default"))) long fake_cuda_left(const char *what);

#endif
