/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages of host memory.  Large ranges ask for huge pages: transparent ones, and
 * for what is shared those that the host has set aside, if enough are free.  Of
 * the latter every page is fetched at once: a fault on one that has run out would
 * be a SIGBUS.
 */
#include "pages.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/util/check.h"
#include "log.h"

#define HUGE_SIZE ((size_t)2 << 20)
#define MAX_NODE 1023

#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21u << 26)
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8u
#endif

static size_t pages_len(uint64_t len)
{
	return mc_round_up((size_t)len, (size_t)sysconf(_SC_PAGESIZE));
}

static int pages_bind(void *addr, size_t size, int32_t node)
{
	unsigned long mask[(MAX_NODE + 1) / (8 * sizeof(long))] = {0};

	if (node < 0)
		return 0;
	if (node > MAX_NODE)
		return -EINVAL;
	mask[(size_t)node / (8 * sizeof(long))] = 1ul << ((size_t)node % (8 * sizeof(long)));
	/* Containers often forbid it, and node 0 is all there is on kernels without it. */
	if (syscall(SYS_mbind, addr, size, MPOL_BIND, mask, (unsigned long)MAX_NODE + 2, 0u) < 0 && errno != EPERM &&
	    errno != ENOSYS)
		return -EINVAL;
	return 0;
}

/* fd < 0: of no file. */
static int pages_map(size_t size, int32_t node, int fd, void **ret_addr)
{
	int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, r;
	void *addr = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);

	if (addr == MAP_FAILED)
		return -errno;
	if (size >= HUGE_SIZE)
		madvise(addr, size, MADV_HUGEPAGE);
	r = pages_bind(addr, size, node);
	if (r < 0)
		munmap(addr, size);
	else
		*ret_addr = addr;
	return r;
}

void *mc_pages_alloc(uint64_t len, int32_t node)
{
	size_t size = pages_len(len);
	void *addr = NULL;
	int r = !len || size < len ? -EINVAL : pages_map(size, node, -1, &addr);

	if (r < 0)
		errno = -r;
	return addr;
}

/* A buffer costs a descriptor here and one in each transport that shares it.  Sockets and files need some, too:
 * at most half of what the process may have goes into memory. */
static bool is_scarce(int fd)
{
	static atomic_bool told;
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY || (rlim_t)fd < limit.rlim_cur / 2)
		return false;
	if (!atomic_exchange(&told, true))
		mc_warn("descriptors get scarce (%d of %llu are in use): from here on mc_memory_alloc gives memory that other "
			"processes cannot map, shm attaches to it, or leaves it to the next tier; raise ulimit -n, or "
			"allocate fewer, larger ranges", fd, (unsigned long long)limit.rlim_cur);
	return true;
}

/* A memfd of that size; huge: of huge pages that were set aside. */
static int file_new(size_t size, bool huge)
{
	unsigned int flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | (huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0);
	struct rlimit limit;
	int fd;

	/* Growing a file past the limit is a signal, not an error. */
	if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < size)
		return -EFBIG;
	fd = memfd_create("mooncake", flags | MFD_NOEXEC_SEAL);
	if (fd < 0 && errno == EINVAL) /* before Linux 6.3 */
		fd = memfd_create("mooncake", flags);
	if (fd < 0)
		return -errno;
	if (is_scarce(fd)) {
		close(fd);
		return -EMFILE;
	}
	/* Whoever maps it relies on its size. */
	if (ftruncate(fd, (off_t)size) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0) {
		int r = -errno;

		close(fd);
		return r;
	}
	return fd;
}

static int share(size_t size, int32_t node, bool huge, void **ret_addr, int *ret_fd)
{
	int fd = file_new(size, huge), r;

	if (fd < 0)
		return fd;
	r = pages_map(size, node, fd, ret_addr);
	if (r == 0 && huge && fallocate(fd, 0, 0, (off_t)size) < 0) {
		r = -errno;
		munmap(*ret_addr, size);
	}
	if (r < 0)
		close(fd);
	else
		*ret_fd = fd;
	return r;
}

void *mc_pages_share(uint64_t len, int32_t node, int *ret_fd)
{
	size_t size = pages_len(len);
	void *addr = NULL;

	*ret_fd = -1;
	if (len && size >= len &&
	    ((size % HUGE_SIZE == 0 && share(size, node, true, &addr, ret_fd) == 0) ||
	     share(size, node, false, &addr, ret_fd) == 0))
		return addr;
	return mc_pages_alloc(len, node);
}

void mc_pages_free(void *addr, uint64_t len)
{
	if (addr)
		munmap(addr, pages_len(len));
}
