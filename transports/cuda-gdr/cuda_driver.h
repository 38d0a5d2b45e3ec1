/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The CUDA driver, opened at run time: nothing of ours links it, and a host without one loses no more
 * than the memory kind.
 */
#ifndef MC_CUDA_DRIVER_H
#define MC_CUDA_DRIVER_H

#include <mooncake/types.h>

#if MC_HAVE_CUDA_H
#include <cuda.h>
#else
#include "cuda_own.h"
#endif

/* Those that every driver has which can do unified addressing.  The header's macros give each the
 * name of its present version before it is made a word. */
#define CUDA_CALLS(X) \
	X(cuInit) X(cuGetErrorName) X(cuDeviceGetCount) X(cuDeviceGet) X(cuDeviceGetPCIBusId) \
	X(cuDeviceGetAttribute) X(cuDevicePrimaryCtxRetain) X(cuDevicePrimaryCtxRelease) X(cuCtxPushCurrent) \
	X(cuCtxPopCurrent) X(cuMemAlloc) X(cuMemFree) X(cuMemGetAddressRange) X(cuPointerGetAttributes) \
	X(cuPointerSetAttribute) X(cuMemcpyHtoDAsync) X(cuMemcpyDtoHAsync) X(cuMemHostRegister) \
	X(cuMemHostUnregister) X(cuStreamCreate) X(cuStreamSynchronize) X(cuStreamDestroy) X(cuEventCreate) \
	X(cuEventRecord) X(cuEventSynchronize) X(cuEventDestroy)
/* Since CUDA 10.1, 11.3 and 11.7; NULL where the driver is older. */
#define CUDA_LATER_CALLS(X) \
	X(cuThreadExchangeStreamCaptureMode) X(cuFlushGPUDirectRDMAWrites) X(cuMemGetHandleForAddressRange)

struct cuda_driver {
	void *library;
#define CUDA_FIELD(name) __typeof__(name) *name;
	CUDA_CALLS(CUDA_FIELD)
	CUDA_LATER_CALLS(CUDA_FIELD)
#undef CUDA_FIELD
};

/* Open the driver and count its devices.  -ENODEV with one sentence, whatever it is that is missing:
 * the library, a device, or a driver that fits it. */
int cuda_driver_open(struct cuda_driver *cu, int *ret_nr, struct mc_error *err);
void cuda_driver_close(struct cuda_driver *cu);
/* "CUDA_ERROR_OUT_OF_MEMORY"; the string is the driver's, or "an unknown error". */
const char *cuda_error_name(const struct cuda_driver *cu, CUresult r);
/* The errno for what a call answered. */
int cuda_errno(CUresult r);

#endif
