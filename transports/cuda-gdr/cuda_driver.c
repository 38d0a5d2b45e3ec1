/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finding the CUDA driver, and what its answers mean.
 */
#include "cuda_driver.h"

#include <dlfcn.h>
#include <errno.h>

#define LIBRARY "libcuda.so.1"
#define NO_GPU "memory of kind 'cuda' cannot be used: "

int cuda_errno(CUresult r)
{
	switch (r) {
	case CUDA_SUCCESS:
		return 0;
	case CUDA_ERROR_OUT_OF_MEMORY:
		return -ENOMEM;
	case CUDA_ERROR_INVALID_VALUE:
		return -EINVAL;
	case CUDA_ERROR_NOT_SUPPORTED:
		return -ENOTSUP;
	default:
		return -EIO;
	}
}

const char *cuda_error_name(const struct cuda_driver *cu, CUresult r)
{
	const char *name = NULL;

	if (cu->cuGetErrorName(r, &name) != CUDA_SUCCESS || !name)
		return "an unknown error";
	return name;
}

/* The name of the first call that the library lacks, or NULL. */
static const char *find_calls(struct cuda_driver *cu)
{
#define CUDA_WORD_(name) #name
#define CUDA_WORD(name) CUDA_WORD_(name)
#define CUDA_FIND(name) cu->name = (__typeof__(cu->name))(uintptr_t)dlsym(cu->library, CUDA_WORD(name));
#define CUDA_NEED(name) \
	if (!cu->name) \
		return CUDA_WORD(name);
	CUDA_CALLS(CUDA_FIND)
	CUDA_LATER_CALLS(CUDA_FIND)
	CUDA_CALLS(CUDA_NEED)
	return NULL;
}

static int refuse(const struct cuda_driver *cu, CUresult r, const char *call, struct mc_error *err)
{
	switch ((int)r) {
	case CUDA_ERROR_STUB_LIBRARY:
		return mc_fail(err, -ENODEV, NO_GPU LIBRARY " is the toolkit's stub, not a driver: install the NVIDIA "
			       "driver, and take the stubs' folder out of LD_LIBRARY_PATH");
	case 35: /* CUDA_ERROR_INSUFFICIENT_DRIVER, which only the run-time API's header names */
		return mc_fail(err, -ENODEV, NO_GPU "the NVIDIA driver is older than this host's GPUs or CUDA need: "
			       "update it");
	case CUDA_ERROR_NO_DEVICE:
		return mc_fail(err, -ENODEV, NO_GPU "the NVIDIA driver finds no GPU: see nvidia-smi, CUDA_VISIBLE_DEVICES, "
			       "and, in a container, that it is given the host's (docker run --gpus all)");
	default:
		return mc_fail(err, -ENODEV, NO_GPU "%s answers %s (%d): see nvidia-smi", call, cuda_error_name(cu, r),
			       (int)r);
	}
}

int cuda_driver_open(struct cuda_driver *cu, int *ret_nr, struct mc_error *err)
{
	const char *lacks, *call = "cuInit";
	CUresult answer;
	int nr = 0, r;

	cu->library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
	if (!cu->library) {
		const char *why = dlerror();

		return mc_fail(err, -ENODEV, NO_GPU "no CUDA driver (%s): install the NVIDIA driver, or give the container "
			       "the host's (docker run --gpus all)", why ? why : LIBRARY);
	}
	lacks = find_calls(cu);
	if (lacks) {
		r = mc_fail(err, -ENODEV, NO_GPU LIBRARY " has no %s: update the NVIDIA driver", lacks);
		goto close;
	}
	answer = cu->cuInit(0);
	if (answer == CUDA_SUCCESS) {
		call = "cuDeviceGetCount";
		answer = cu->cuDeviceGetCount(&nr);
		if (answer == CUDA_SUCCESS && nr <= 0)
			answer = CUDA_ERROR_NO_DEVICE;
	}
	if (answer == CUDA_SUCCESS) {
		*ret_nr = nr;
		return 0;
	}
	r = refuse(cu, answer, call, err);
close:
	cuda_driver_close(cu);
	return r;
}

void cuda_driver_close(struct cuda_driver *cu)
{
	if (cu->library)
		dlclose(cu->library);
	cu->library = NULL;
}
