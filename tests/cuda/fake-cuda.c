/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fake driver's memory; fake-cuda.h says what it is for.
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
#define SKEW 512u /* small allocations do not begin at a page, as a driver's do not */

struct block {
	struct block *next;
	uint64_t ptr, len;       /* as the user knows it */
	uint64_t map, map_len;   /* pages at the device pointer */
	unsigned char *alias;    /* of map */
	uint64_t at;             /* of its first byte in fd */
	int fd, device;
	bool managed, mapped;    /* mapped: from a handle, into a reserved range */
	unsigned sync_memops;
};

/* A range of addresses, and the bytes of whatever is mapped there. */
struct reserved {
	struct reserved *next;
	uint64_t ptr, len;
	unsigned char *alias;
	int fd;
};

struct handle {
	int device;
	size_t len;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards all below */
static struct block *blocks;
static struct reserved *ranges;
static struct { void *addr; size_t len; } pinned[256];
static long flushes;

/* ---- what is left ---------------------------------------------------------------------------- */

long fake_cuda_left(const char *what)
{
	long blocks_nr = 0, pins = 0;

	pthread_mutex_lock(&lock);
	for (struct block *b = blocks; b; b = b->next)
		blocks_nr++;
	for (size_t i = 0; i < 256; i++)
		pins += pinned[i].addr != NULL;
	pthread_mutex_unlock(&lock);
	return !strcmp(what, "blocks") ? blocks_nr : !strcmp(what, "contexts") ? fake_contexts() :
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

/* [ptr, ptr + len) is one block, or of handles that are mapped side by side, if it may be. */
static bool cover(uint64_t ptr, uint64_t len, bool many)
{
	uint64_t end = ptr + len, device = 0;
	bool first = true;

	if (find(ptr, len))
		return true;
	while (many && ptr < end) {
		struct block *b = find(ptr, 1);

		if (!b || !b->mapped || (!first && device != (uint64_t)b->device))
			return false;
		first = false;
		device = (uint64_t)b->device;
		ptr = b->ptr + b->len;
	}
	return many;
}

void *fake_reach(uint64_t ptr, size_t len)
{
	struct block *b;
	void *alias = NULL;

	pthread_mutex_lock(&lock);
	b = len && cover(ptr, len, true) ? find(ptr, 1) : NULL;
	if (b && !b->managed)
		alias = b->alias + (ptr - b->map);
	pthread_mutex_unlock(&lock);
	return alias;
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

/* At what->map, or anywhere; of fd's bytes from what->at on.  What is listed does not change any more. */
static struct block *block_map(int fd, const struct block *what, uint64_t skew, int rights)
{
	struct block *b = calloc(1, sizeof *b);
	uint64_t map_len = what->map_len;
	void *map = MAP_FAILED, *alias = what->alias ? what->alias : MAP_FAILED;

	if (b) {
		map = mmap((void *)(uintptr_t)what->map, map_len, rights, MAP_SHARED | (what->map ? MAP_FIXED : 0), fd,
			   (off_t)what->at);
		if (alias == MAP_FAILED)
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

	INJECT_UNSAFE;
	if (!fake_in_context())
		return INVALID_CONTEXT;
	if (!len)
		return INVALID_VALUE;
	if (len > (size_t)1 << 32)
		return OUT_OF_MEMORY;
	what.device = fake_current();
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
	if (!fake_in_context())
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
	else {
		munmap((void *)(uintptr_t)b->map, b->map_len);
		munmap(b->alias, b->map_len);
	}
	close(b->fd);
	free(b);
	return OK;
}

CALL(cuMemFree_v2, uint64_t ptr)
{
	INJECT_UNSAFE;
	fake_drain();
	return fake_in_context() ? block_drop(ptr, false) : INVALID_CONTEXT;
}

/* ---- memory from handles --------------------------------------------------------------------------------- */

CALL(cuMemAddressReserve, uint64_t *ptr, size_t len, size_t alignment, uint64_t at, unsigned long long flags)
{
	struct reserved *r;
	void *map, *alias;

	INJECT;
	(void)alignment;
	(void)at;
	(void)flags;
	r = calloc(1, sizeof *r);
	if (!r)
		return OUT_OF_MEMORY;
	r->fd = make_fd(len);
	map = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	alias = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, r->fd, 0);
	if (r->fd < 0 || map == MAP_FAILED || alias == MAP_FAILED)
		abort();
	r->alias = alias;
	r->len = len;
	*ptr = r->ptr = (uintptr_t)map;
	pthread_mutex_lock(&lock);
	r->next = ranges;
	ranges = r;
	pthread_mutex_unlock(&lock);
	return OK;
}

CALL(cuMemAddressFree, uint64_t ptr, size_t len)
{
	struct reserved **at, *r;

	INJECT;
	pthread_mutex_lock(&lock);
	for (at = &ranges; *at && ((*at)->ptr != ptr || (*at)->len != len); at = &(*at)->next)
		;
	r = *at;
	if (r)
		*at = r->next;
	pthread_mutex_unlock(&lock);
	if (!r)
		return INVALID_VALUE;
	munmap((void *)(uintptr_t)ptr, len);
	munmap(r->alias, len);
	close(r->fd);
	free(r);
	return OK;
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
	h->len = len;
	h->device = properties[3];
	*handle = h;
	return OK;
}

CALL(cuMemRelease, struct handle *handle)
{
	INJECT;
	free(handle);
	return OK;
}

/* Once, into a range that was reserved. */
CALL(cuMemMap, uint64_t ptr, size_t len, size_t offset, struct handle *handle, unsigned long long flags)
{
	struct block what = {.map = ptr, .len = len, .map_len = len, .device = handle->device, .mapped = true};
	const struct reserved *r;

	INJECT;
	(void)flags;
	pthread_mutex_lock(&lock);
	for (r = ranges; r && (ptr < r->ptr || ptr - r->ptr > r->len || len > r->len - (ptr - r->ptr)); r = r->next)
		;
	pthread_mutex_unlock(&lock);
	if (!r || offset || len != handle->len)
		return INVALID_VALUE;
	what.at = ptr - r->ptr;
	what.alias = r->alias + what.at;
	return block_map(dup(r->fd), &what, 0, PROT_NONE) ? OK : OUT_OF_MEMORY;
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
	if (!fake_in_context())
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
	if (!fake_initialized())
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

/* Whole pages, of an allocation or of handles that are mapped side by side.  The file's position is where
 * the dma-buf begins. */
CALL(cuMemGetHandleForAddressRange, int *handle, uint64_t ptr, size_t len, int type, unsigned long long flags)
{
	struct block *b;
	char path[64];
	int r = INVALID_VALUE;

	INJECT_UNSAFE;
	if (!fake_in_context())
		return INVALID_CONTEXT;
	if (type != 1 || flags || ptr % PAGE || len % PAGE)
		return INVALID_VALUE;
	pthread_mutex_lock(&lock);
	for (b = blocks; b && (b->mapped || ptr != b->map || len > b->map_len); b = b->next)
		;
	if (!b && cover(ptr, len, fake_number("FAKE_CUDA_WHOLE", 1)))
		b = find(ptr, 1);
	if (b) {
		snprintf(path, sizeof path, "/proc/self/fd/%d", b->fd);
		*handle = open(path, O_RDWR | O_CLOEXEC);
		r = *handle < 0 || lseek(*handle, (off_t)(b->at + (ptr - b->map)), SEEK_SET) < 0 ? OUT_OF_MEMORY : OK;
	}
	pthread_mutex_unlock(&lock);
	return r;
}

CALL(cuMemHostRegister_v2, void *addr, size_t len, unsigned flags)
{
	int r = OUT_OF_MEMORY;

	INJECT_UNSAFE;
	(void)flags;
	if (!fake_in_context())
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

	INJECT_UNSAFE;
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
	if (!fake_in_context() || target || (scope != 100 && scope != 200))
		return INVALID_VALUE;
	__atomic_fetch_add(&flushes, 1, __ATOMIC_RELAXED);
	return OK;
}
