/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Plays nvidia_peermem for a verbs library: LD_PRELOAD it, with the fake CUDA driver.  Registering a
 * device pointer, which nobody can pin, registers the driver's alias of it under that address.
 */
#include <dlfcn.h>
#include <infiniband/verbs.h>
#include <stdlib.h>

#undef ibv_reg_mr
#undef ibv_reg_mr_iova

#define EXPORT __attribute__((visibility("default")))

static void *find(const char *library, const char *name)
{
	void *handle = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
	void *sym = handle ? dlsym(handle, name) : NULL;

	if (handle)
		dlclose(handle);
	return sym;
}

EXPORT struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova, unsigned int access)
{
	void *(*alias_of)(uint64_t ptr, size_t len) = (void *(*)(uint64_t, size_t))find("libcuda.so.1", "fake_cuda_alias");
	struct ibv_mr *(*real)(struct ibv_pd *, void *, size_t, uint64_t, unsigned) =
		(struct ibv_mr *(*)(struct ibv_pd *, void *, size_t, uint64_t, unsigned))find("libibverbs.so.1",
											      "ibv_reg_mr_iova2");
	void *alias = alias_of ? alias_of((uintptr_t)addr, length) : NULL;

	if (!real)
		abort();
	return real(pd, alias ? alias : addr, length, iova, access);
}

EXPORT struct ibv_mr *ibv_reg_mr_iova(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova, int access)
{
	return ibv_reg_mr_iova2(pd, addr, length, iova, (unsigned)access);
}

EXPORT struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *addr, size_t length, int access)
{
	return ibv_reg_mr_iova2(pd, addr, length, (uintptr_t)addr, (unsigned)access);
}
