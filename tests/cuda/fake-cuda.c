/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fake driver's devices, contexts and memory; fake-cuda.h says what it is for.
 */
#include "fake-cuda.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096u
#define GPUS 8
#define SKEW 512u /* small allocations do not begin at a page, as a driver's do not */
#define DEPTH 16

struct block {
	struct block *next;
	uint64_t ptr, len;       /* as the user knows it */
	uint64_t map, map_len;   /* pages at the device pointer */
	unsigned char *alias;    /* of map */
	int fd, device;
	bool managed, mapped;    /* mapped: from a handle, into a reserved range */
	unsigned sync_memops;
};

struct handle {
	int fd, device;
	size_t len;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards all below but the thread's own */
static struct block *blocks;
static struct { void *addr; size_t len; } pinned[256];
static long contexts[GPUS]; /* how often retained */
static bool initialized;
static long flushes;
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

long fake_cuda_left(const char *what)
{
	long blocks_nr = 0, retained = 0, pins = 0;

	pthread_mutex_lock(&lock);
	for (struct block *b = blocks; b; b = b->next)
		blocks_nr++;
	for (int i = 0; i < GPUS; i++)
		retained += contexts[i];
	for (size_t i = 0; i < 256; i++)
		pins += pinned[i].addr != NULL;
	pthread_mutex_unlock(&lock);
	return !strcmp(what, "blocks") ? blocks_nr : !strcmp(what, "contexts") ? retained :
	       !strcmp(what, "pinned") ? pins : !strcmp(what, "streams") ? fake_streams :
	       !strcmp(what, "events") ? fake_events : __atomic_load_n(&flushes, __ATOMIC_RELAXED);
}

__attribute__((destructor)) static void tell(void)
{
	if (fake_number("FAKE_CUDA_TELL", 0))
		fprintf(stderr, "fake cuda: blocks %ld streams %ld events %ld contexts %ld pinned %ld flushes %ld\n",
			fake_cuda_left("blocks"), fake_streams, fake_events, fake_cuda_left("contexts"),
			fake_cuda_left("pinned"), flushes);
}

/* ---- devices and contexts --------------------------------------------------------------------------- */

CALL(cuInit, unsigned flags)
{
	INJECT;
	if (flags)
		return INVALID_VALUE;
	if (!devices())
		return NO_DEVICE;
	initialized = true;
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
	if (!initialized)
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
	INJECT;
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

/* ---- blocks --------------------------------------------------------------------------------------------- */

static uint64_t round_up(uint64_t n, uint64_t to)
{
	return (n + to - 1) / to * to;
}

static struct block *find(uint64_t ptr, size_t len)
{
	struct block *b = blocks;

	while (b && (ptr < b->ptr || ptr - b->ptr >= b->len || len > b->len - (ptr - b->ptr)))
		b = b->next;
	return b;
}

void *fake_cuda_alias(uint64_t ptr, size_t len)
{
	struct block *b;
	void *alias = NULL;

	pthread_mutex_lock(&lock);
	b = find(ptr, len);
	if (b && !b->managed)
		alias = b->alias + (ptr - b->map);
	pthread_mutex_unlock(&lock);
	return alias;
}

/* At what->map, or anywhere; of fd's first bytes.  What is listed does not change any more. */
static struct block *block_map(int fd, const struct block *what, uint64_t skew, int rights)
{
	struct block *b = calloc(1, sizeof *b);
	uint64_t map_len = what->map_len;
	void *map = MAP_FAILED, *alias = MAP_FAILED;

	if (b) {
		map = mmap((void *)(uintptr_t)what->map, map_len, rights, MAP_SHARED | (what->map ? MAP_FIXED : 0), fd, 0);
		alias = mmap(NULL, map_len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	}
	if (map == MAP_FAILED || alias == MAP_FAILED) {
		free(b);
		return NULL;
	}
	*b = *what;
	b->map = (uintptr_t)map;
	b->ptr = b->map + skew;
	b->alias = alias;
	b->fd = fd;
	pthread_mutex_lock(&lock);
	b->next = blocks;
	blocks = b;
	pthread_mutex_unlock(&lock);
	return b;
}

static int make_fd(size_t len)
{
	int fd = memfd_create("fake-cuda", MFD_CLOEXEC);

	if (fd >= 0 && ftruncate(fd, (off_t)len) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

CALL(cuMemAlloc_v2, uint64_t *ptr, size_t len)
{
	size_t skew = len < 64 * 1024 ? SKEW : 0;
	struct block what = {.len = len, .map_len = round_up(len + skew, PAGE)}, *b;
	int fd;

	INJECT;
	if (!stacked)
		return INVALID_CONTEXT;
	if (!len)
		return INVALID_VALUE;
	if (len > (size_t)1 << 32)
		return OUT_OF_MEMORY;
	what.device = (int)stack[stacked - 1] - 1;
	fd = make_fd(what.map_len);
	b = fd < 0 ? NULL : block_map(fd, &what, skew, PROT_NONE);
	if (!b)
		return OUT_OF_MEMORY;
	*ptr = b->ptr;
	return OK;
}

CALL(cuMemAllocManaged, uint64_t *ptr, size_t len, unsigned flags)
{
	struct block what = {.len = len, .map_len = round_up(len, PAGE), .managed = true}, *b;
	int fd;

	INJECT;
	(void)flags;
	if (!stacked)
		return INVALID_CONTEXT;
	fd = make_fd(what.map_len);
	b = fd < 0 ? NULL : block_map(fd, &what, 0, PROT_READ | PROT_WRITE);
	if (!b)
		return OUT_OF_MEMORY;
	*ptr = b->ptr;
	return OK;
}

static int block_drop(uint64_t ptr, bool mapped)
{
	struct block **p, *b;

	pthread_mutex_lock(&lock);
	for (p = &blocks; *p && ((*p)->ptr != ptr || (*p)->mapped != mapped); p = &(*p)->next)
		;
	b = *p;
	if (b)
		*p = b->next;
	pthread_mutex_unlock(&lock);
	if (!b)
		return INVALID_VALUE;
	if (mapped)
		mmap((void *)(uintptr_t)b->map, b->map_len, PROT_NONE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
	else
		munmap((void *)(uintptr_t)b->map, b->map_len);
	munmap(b->alias, b->map_len);
	close(b->fd);
	free(b);
	return OK;
}

CALL(cuMemFree_v2, uint64_t ptr)
{
	INJECT;
	fake_drain();
	return stacked ? block_drop(ptr, false) : INVALID_CONTEXT;
}

/* ---- memory from handles --------------------------------------------------------------------------------- */

CALL(cuMemAddressReserve, uint64_t *ptr, size_t len, size_t alignment, uint64_t at, unsigned long long flags)
{
	void *map;

	INJECT;
	(void)alignment;
	(void)at;
	(void)flags;
	map = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	*ptr = (uintptr_t)map;
	return map == MAP_FAILED ? OUT_OF_MEMORY : OK;
}

CALL(cuMemAddressFree, uint64_t ptr, size_t len)
{
	INJECT;
	return munmap((void *)(uintptr_t)ptr, len) < 0 ? INVALID_VALUE : OK;
}

/* The location's number is the fourth word of the properties. */
CALL(cuMemCreate, struct handle **handle, size_t len, const int *properties, unsigned long long flags)
{
	struct handle *h;

	INJECT;
	(void)flags;
	h = calloc(1, sizeof *h);
	if (!h)
		return OUT_OF_MEMORY;
	h->fd = make_fd(len);
	h->len = len;
	h->device = properties[3];
	*handle = h;
	return h->fd < 0 ? OUT_OF_MEMORY : OK;
}

CALL(cuMemRelease, struct handle *handle)
{
	INJECT;
	close(handle->fd);
	free(handle);
	return OK;
}

CALL(cuMemMap, uint64_t ptr, size_t len, size_t offset, struct handle *handle, unsigned long long flags)
{
	struct block what = {.map = ptr, .len = len, .map_len = len, .device = handle->device, .mapped = true};
	int fd;

	INJECT;
	(void)flags;
	if (offset || len != handle->len)
		return INVALID_VALUE;
	fd = dup(handle->fd);
	return fd >= 0 && block_map(fd, &what, 0, PROT_NONE) ? OK : OUT_OF_MEMORY;
}

CALL(cuMemSetAccess, uint64_t ptr, size_t len, const void *access, size_t nr)
{
	INJECT;
	(void)ptr;
	(void)len;
	(void)access;
	(void)nr;
	return OK;
}

/* One mapping after the other. */
CALL(cuMemUnmap, uint64_t ptr, size_t len)
{
	uint64_t end = ptr + len;

	INJECT;
	while (ptr < end) {
		struct block *b = find(ptr, 1);
		uint64_t next;

		if (!b || !b->mapped)
			return INVALID_VALUE;
		next = b->ptr + b->len;
		block_drop(b->ptr, true);
		ptr = next;
	}
	return OK;
}

/* ---- asking about memory -------------------------------------------------------------------------------------- */

CALL(cuMemGetAddressRange_v2, uint64_t *base, size_t *len, uint64_t ptr)
{
	struct block *b;

	INJECT;
	if (!stacked)
		return INVALID_CONTEXT;
	pthread_mutex_lock(&lock);
	b = find(ptr, 1);
	if (b) {
		*base = b->ptr;
		*len = b->len;
	}
	pthread_mutex_unlock(&lock);
	return b ? OK : INVALID_VALUE;
}

/* Pointers that it does not know are no error: they have no attributes. */
CALL(cuPointerGetAttributes, unsigned nr, const int *attributes, void **values, uint64_t ptr)
{
	struct block *b;
	int r = OK;

	INJECT;
	if (!initialized)
		return NOT_INITIALIZED;
	pthread_mutex_lock(&lock);
	b = find(ptr, 1);
	for (unsigned i = 0; i < nr && r == OK; i++) {
		switch (attributes[i]) {
		case 2:
			*(unsigned *)values[i] = b ? 2 : 0;
			break;
		case 8:
			*(unsigned *)values[i] = b && b->managed;
			break;
		case 9:
			*(int *)values[i] = b ? b->device : -2;
			break;
		default:
			r = INVALID_VALUE;
		}
	}
	pthread_mutex_unlock(&lock);
	return r;
}

CALL(cuPointerSetAttribute, const void *value, int attribute, uint64_t ptr)
{
	struct block *b;

	INJECT;
	pthread_mutex_lock(&lock);
	b = find(ptr, 1);
	if (b && !b->mapped && attribute == 6)
		b->sync_memops = *(const unsigned *)value;
	else
		b = NULL;
	pthread_mutex_unlock(&lock);
	return b ? OK : INVALID_VALUE;
}

/* Whole pages, of one block. */
CALL(cuMemGetHandleForAddressRange, int *handle, uint64_t ptr, size_t len, int type, unsigned long long flags)
{
	struct block *b;
	int r = INVALID_VALUE;

	INJECT;
	if (!stacked)
		return INVALID_CONTEXT;
	if (type != 1 || flags || ptr % PAGE || len % PAGE)
		return INVALID_VALUE;
	pthread_mutex_lock(&lock);
	for (b = blocks; b && r != OK; b = b->next)
		if (ptr == b->map && len <= b->map_len) {
			*handle = fcntl(b->fd, F_DUPFD_CLOEXEC, 0);
			r = *handle < 0 ? OUT_OF_MEMORY : OK;
		}
	pthread_mutex_unlock(&lock);
	return r;
}

CALL(cuMemHostRegister_v2, void *addr, size_t len, unsigned flags)
{
	int r = OUT_OF_MEMORY;

	INJECT;
	(void)flags;
	if (!stacked)
		return INVALID_CONTEXT;
	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < 256; i++)
		if (pinned[i].addr == addr) {
			pthread_mutex_unlock(&lock);
			return ALREADY_REGISTERED;
		}
	for (size_t i = 0; i < 256 && r != OK; i++)
		if (!pinned[i].addr) {
			pinned[i].addr = addr;
			pinned[i].len = len;
			r = OK;
		}
	pthread_mutex_unlock(&lock);
	return r;
}

CALL(cuMemHostUnregister, void *addr)
{
	int r = NOT_REGISTERED;

	INJECT;
	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < 256; i++)
		if (pinned[i].addr == addr) {
			pinned[i].addr = NULL;
			r = OK;
		}
	pthread_mutex_unlock(&lock);
	return r;
}

CALL(cuFlushGPUDirectRDMAWrites, int target, int scope)
{
	INJECT;
	if (!stacked || target || (scope != 100 && scope != 200))
		return INVALID_VALUE;
	__atomic_fetch_add(&flushes, 1, __ATOMIC_RELAXED);
	return OK;
}
