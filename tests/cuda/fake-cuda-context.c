/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fake driver's environment, devices and contexts; fake-cuda.h says what it is for.
 */
#include "fake-cuda.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GPUS 8
#define DEPTH 16

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards all below but the thread's own */
static long contexts[GPUS]; /* how often retained */
static bool initialized; /* atomic */
long fake_streams, fake_events;
static __thread uintptr_t stack[DEPTH]; /* current contexts of the thread: device number + 1 */
static __thread int stacked;

/* ---- the environment ----------------------------------------------------------------------------- */

uint64_t fake_number(const char *variable, uint64_t otherwise)
{
	const char *s = getenv(variable);

	return s && *s ? strtoull(s, NULL, 10) : otherwise;
}

static int devices(void)
{
	uint64_t n = fake_number("FAKE_CUDA_DEVICES", 2);

	return n < GPUS ? (int)n : GPUS;
}

int fake_injected(const char *call)
{
	static struct { char name[64]; unsigned nr; } seen[64];
	const char *list = getenv("FAKE_CUDA_FAIL");
	char name[64];
	unsigned nr = 0, code, nth;
	int used;

	if (!list || !*list)
		return OK;
	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < 64 && !nr; i++) {
		if (!seen[i].name[0])
			strncpy(seen[i].name, call, 63);
		if (!strcmp(seen[i].name, call))
			nr = ++seen[i].nr;
	}
	pthread_mutex_unlock(&lock);
	for (; list && *list; list = strchr(list, ',')) {
		list += *list == ',';
		nth = 0;
		used = 0;
		if (sscanf(list, "%63[A-Za-z0-9_]%n", name, &used) != 1)
			return OK;
		if (list[used] == '@')
			nth = (unsigned)strtoul(list + used + 1, NULL, 10);
		code = strchr(list, '=') ? (unsigned)strtoul(strchr(list, '=') + 1, NULL, 10) : 999;
		if (!strcmp(name, call) && (!nth || nth == nr))
			return (int)code;
	}
	return OK;
}

/* ---- devices and contexts --------------------------------------------------------------------------- */

CALL(cuInit, unsigned flags)
{
	INJECT;
	if (flags)
		return INVALID_VALUE;
	if (!devices())
		return NO_DEVICE;
	__atomic_store_n(&initialized, true, __ATOMIC_RELAXED);
	return OK;
}

CALL(cuDriverGetVersion, int *version)
{
	INJECT;
	*version = 12040;
	return OK;
}

CALL(cuGetErrorName, int error, const char **name)
{
	static const struct { int code; const char *name; } names[] = {
		{OK, "CUDA_SUCCESS"}, {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},
		{OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"}, {NO_DEVICE, "CUDA_ERROR_NO_DEVICE"},
		{INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"}, {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED"},
		{719, "CUDA_ERROR_LAUNCH_FAILED"},
	};

	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		if (names[i].code == error) {
			*name = names[i].name;
			return OK;
		}
	*name = NULL;
	return INVALID_VALUE;
}

CALL(cuDeviceGetCount, int *count)
{
	INJECT;
	if (!fake_initialized())
		return NOT_INITIALIZED;
	*count = devices();
	return OK;
}

CALL(cuDeviceGet, int *device, int ordinal)
{
	INJECT;
	if (ordinal < 0 || ordinal >= devices())
		return INVALID_DEVICE;
	*device = ordinal;
	return OK;
}

CALL(cuDeviceGetPCIBusId, char *id, int len, int device)
{
	INJECT;
	snprintf(id, (size_t)len, "0000:%02X:00.0", device + 1);
	return OK;
}

CALL(cuDeviceGetAttribute, int *value, int attribute, int device)
{
	INJECT;
	(void)device;
	switch (attribute) {
	case 117:
		*value = 1;
		return OK;
	case 118:
		*value = (int)fake_number("FAKE_CUDA_ORDERING", 200);
		return OK;
	case 124:
		*value = (int)fake_number("FAKE_CUDA_DMABUF", 1);
		return OK;
	default:
		return INVALID_VALUE;
	}
}

CALL(cuDevicePrimaryCtxRetain, uintptr_t *context, int device)
{
	INJECT_UNSAFE;
	if (device < 0 || device >= devices())
		return INVALID_DEVICE;
	pthread_mutex_lock(&lock);
	contexts[device]++;
	pthread_mutex_unlock(&lock);
	*context = (uintptr_t)device + 1;
	return OK;
}

CALL(cuDevicePrimaryCtxRelease_v2, int device)
{
	INJECT;
	pthread_mutex_lock(&lock);
	contexts[device]--;
	pthread_mutex_unlock(&lock);
	return OK;
}

CALL(cuCtxPushCurrent_v2, uintptr_t context)
{
	INJECT;
	if (!context || context > GPUS || stacked == DEPTH)
		return INVALID_CONTEXT;
	stack[stacked++] = context;
	return OK;
}

CALL(cuCtxPopCurrent_v2, uintptr_t *context)
{
	INJECT;
	if (!stacked)
		return INVALID_CONTEXT;
	*context = stack[--stacked];
	return OK;
}

CALL(cuCtxGetCurrent, uintptr_t *context)
{
	INJECT;
	*context = stacked ? stack[stacked - 1] : 0;
	return OK;
}

bool fake_in_context(void)
{
	return stacked > 0;
}

/* ---- capturing -------------------------------------------------------------------------------------- */

static __thread int capture_mode; /* 0: global; 2: relaxed */

CALL(cuThreadExchangeStreamCaptureMode, int *mode)
{
	int before = capture_mode;

	INJECT;
	if (*mode < 0 || *mode > 2)
		return INVALID_VALUE;
	capture_mode = *mode;
	*mode = before;
	return OK;
}

bool fake_captures(void)
{
	return capture_mode != 2 && fake_number("FAKE_CUDA_CAPTURE", 0);
}

int fake_current(void)
{
	return stacked ? (int)stack[stacked - 1] - 1 : -1;
}

bool fake_initialized(void)
{
	return __atomic_load_n(&initialized, __ATOMIC_RELAXED);
}

long fake_contexts(void)
{
	long retained = 0;

	pthread_mutex_lock(&lock);
	for (int i = 0; i < GPUS; i++)
		retained += contexts[i];
	pthread_mutex_unlock(&lock);
	return retained;
}
