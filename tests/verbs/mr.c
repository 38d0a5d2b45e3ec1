/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory regions.  What the kernel would find when it pins is looked up in /proc/self/maps: memory
 * that is not mapped, or cannot be written although the region asks for it, is EFAULT.
 */
#include "mock.h"

#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#undef ibv_reg_mr
#undef ibv_reg_mr_iova

/* 0, or EFAULT. */
static int pinnable(uint64_t addr, uint64_t len, bool write)
{
	FILE *f = fopen("/proc/self/maps", "re");
	uint64_t from, to, at = addr;
	char line[4096], rights[8];

	if (!f)
		return 0;
	while (at < addr + len && fgets(line, sizeof line, f)) {
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s", &from, &to, rights) != 3 || to <= at)
			continue;
		if (from > at || rights[0] != 'r' || (write && rights[1] != 'w'))
			break;
		at = to;
	}
	fclose(f);
	return at >= addr + len ? 0 : EFAULT;
}

static int refuse(struct shared_dev *dev, uint64_t addr, uint64_t len, unsigned access)
{
	int64_t reg_errno = atomic_load(&dev->faults[F_REG_ERRNO]);

	if (dev_fault(dev, F_GONE))
		return ENODEV;
	if (reg_errno && atomic_fetch_sub(&dev->faults[F_REG_AFTER], 1) <= 1)
		return (int)reg_errno;
	if (!len || addr + len < addr || len > (uint64_t)dev->set[S_MAX_MR_SIZE])
		return EINVAL;
	if (access & (IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC) && !(access & IBV_ACCESS_LOCAL_WRITE))
		return EINVAL;
	if (access & (IBV_ACCESS_ON_DEMAND | IBV_ACCESS_ZERO_BASED | IBV_ACCESS_HUGETLB))
		return EINVAL;
	if (atomic_load(&dev->stats[N_MRS]) >= dev->set[S_MAX_MR])
		return ENOMEM;
	return pinnable(addr, len, access & IBV_ACCESS_LOCAL_WRITE);
}

/* Under big and the host's lock. */
static uint32_t publish(struct host *host, uint64_t addr, uint64_t len, uint64_t iova, uint32_t pd, uint32_t access)
{
	for (uint32_t i = 0; i < MRS; i++) {
		uint32_t at = (host->next_mr + i) % MRS;
		struct shared_mr *mr = &host->mrs[at];

		if (mr->key)
			continue;
		mr->generation = (mr->generation + 1) & 0x3ffff;
		mr->generation += !mr->generation;
		*mr = (struct shared_mr){ .generation = mr->generation, .pd = pd, .access = access, .addr = iova,
					  .len = len, .shift = addr - iova, .key = mr->generation << 14 | at };
		host->next_mr = at + 1;
		return mr->key;
	}
	return 0;
}

static struct ibv_mr *reg(struct ibv_pd *pd, void *addr, size_t len, uint64_t iova, unsigned access)
{
	struct mock_ctx *ctx = mock_ctx(pd->context);
	struct mock_mr *mr = NULL;
	uint32_t key;

	errno = refuse(ctx->dev, (uintptr_t)addr, len, access);
	if (!errno)
		mr = calloc(1, sizeof *mr);
	if (!mr)
		return NULL;
	big_lock();
	shared_lock(&proc.host->lock);
	key = publish(proc.host, (uintptr_t)addr, len, iova, pd->handle, access);
	pthread_mutex_unlock(&proc.host->lock);
	if (key) {
		MC_CONTAINER_OF(pd, struct mock_pd, pd)->users++;
		ctx->nr_mrs++;
		dev_count(ctx->dev, N_MRS, 1);
	}
	big_unlock();
	if (!key) {
		free(mr);
		errno = ENOMEM;
		return NULL;
	}
	mr->mr = (struct ibv_mr){ .context = pd->context, .pd = pd, .addr = addr, .length = len, .lkey = key,
				  .rkey = key, .handle = key % MRS };
	return &mr->mr;
}

/* Where the bytes of memory of the fake CUDA driver are, or addr: see peermem. */
static void *device_alias(const struct ibv_pd *pd, void *addr, size_t len)
{
	void *library = mock_ctx(pd->context)->dev->set[S_PEERMEM] ? dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD) : NULL;
	void *(*alias_of)(uint64_t ptr, size_t len) =
		library ? (void *(*)(uint64_t, size_t))dlsym(library, "fake_cuda_alias") : NULL;
	void *alias = alias_of ? alias_of((uintptr_t)addr, len) : NULL;

	if (library)
		dlclose(library);
	return alias ? alias : addr;
}

EXPORT struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *addr, size_t length, int access)
{
	return reg(pd, device_alias(pd, addr, length), length, (uintptr_t)addr, (unsigned)access);
}

/* Requests name iova, the bytes are at addr: the same place in a page, as devices have it. */
EXPORT struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova,
				       unsigned int access)
{
	if ((iova ^ (uintptr_t)addr) & 4095) {
		errno = EINVAL;
		return NULL;
	}
	return reg(pd, device_alias(pd, addr, length), length, iova, access);
}

EXPORT struct ibv_mr *ibv_reg_mr_iova(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova, int access)
{
	return ibv_reg_mr_iova2(pd, addr, length, iova, (unsigned)access);
}

EXPORT struct ibv_mr *ibv_reg_dmabuf_mr(struct ibv_pd *pd, uint64_t offset, size_t length, uint64_t iova,
					int fd, int access)
{
	uint64_t inside = offset & 4095;
	struct ibv_mr *mr;
	struct stat st;
	off_t begin;
	void *map;

	errno = EOPNOTSUPP;
	if (!mock_ctx(pd->context)->dev->set[S_DMABUF])
		return NULL;
	begin = lseek(fd, 0, SEEK_CUR);
	errno = EINVAL; /* as the kernel has it */
	if ((offset ^ iova) & 4095 || begin < 0 || fstat(fd, &st) < 0 || offset + length > (uint64_t)(st.st_size - begin))
		return NULL;
	map = mmap(NULL, inside + length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, begin + (off_t)(offset - inside));
	if (map == MAP_FAILED)
		return NULL;
	mr = reg(pd, (unsigned char *)map + inside, length, iova, (unsigned)access);
	if (!mr) {
		int error = errno;

		munmap(map, inside + length);
		errno = error;
		return NULL;
	}
	MC_CONTAINER_OF(mr, struct mock_mr, mr)->map = map;
	MC_CONTAINER_OF(mr, struct mock_mr, mr)->map_len = inside + length;
	return mr;
}

EXPORT int ibv_dereg_mr(struct ibv_mr *ibmr)
{
	struct mock_mr *mr = MC_CONTAINER_OF(ibmr, struct mock_mr, mr);
	struct mock_ctx *ctx = mock_ctx(ibmr->context);

	big_lock();
	shared_lock(&proc.host->lock);
	proc.host->mrs[ibmr->lkey % MRS].key = 0;
	pthread_mutex_unlock(&proc.host->lock);
	MC_CONTAINER_OF(ibmr->pd, struct mock_pd, pd)->users--;
	ctx->nr_mrs--;
	dev_count(ctx->dev, N_MRS, -1);
	big_unlock();
	if (mr->map)
		munmap(mr->map, mr->map_len);
	free(mr);
	return 0;
}
