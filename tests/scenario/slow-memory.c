/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For LD_PRELOAD: what a program allocates by libmooncake comes two seconds late, and standard error says so
 * at once.  So a target is known for that long without a buffer.
 */
#include <dlfcn.h>
#include <unistd.h>

#include <mooncake/mooncake.h>

int mc_memory_alloc(struct mc_engine *engine, const char *location, uint64_t size, uint32_t access,
		    uint64_t timeout_ns, void **ret_addr, struct mc_error *err)
{
	static const char said[] = "memory comes late\n";
	__typeof__(mc_memory_alloc) *next;

	*(void **)&next = dlsym(RTLD_NEXT, "mc_memory_alloc");
	if (!next || write(STDERR_FILENO, said, sizeof said - 1) < 0)
		return -1;
	sleep(2);
	return next(engine, location, size, access, timeout_ns, ret_addr, err);
}
