/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm transport: the one device that every host has, the identity of a process, and the sentence that
 * says why the memory of another one cannot be reached.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/util/cleanup.h"
#include "shm.h"

#define DEVICE "shm0"
#define BOOT_ID "/proc/sys/kernel/random/boot_id"
#define MORE_FDS "raise the limit of descriptors (ulimit -n)"

/* A small file as text: its length, or -errno. */
static int read_text(const char *path, char *buf, size_t cap)
{
	mc_cleanup(mc_closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, buf, cap - 1);
	if (n < 0)
		return -errno;
	buf[n] = '\0';
	return (int)n;
}

/* [helper] */
int shm_enumerate(const struct mc_host *host, int (*found)(void *ctx, const char *device), void *ctx)
{
	(void)host;
	return found(ctx, DEVICE);
}

/* Engines of one boot of one kernel reach each other; which of them may, their sockets tell. */
static int read_subnet(char *subnet, size_t cap)
{
	uint8_t uuid[16];
	char text[64];
	int r = read_text(BOOT_ID, text, sizeof text);

	if (r >= 0)
		r = shm_uuid_parse(text, uuid);
	if (r == 0)
		snprintf(subnet, cap, "boot-%.36s", text);
	return r;
}

/* [helper] */
int shm_probe(const struct mc_host *host, const char *device, struct mc_device_info *info,
	      struct mc_error *err)
{
	int r;

	(void)host;
	(void)err;
	snprintf(info->name, sizeof info->name, "%s", device);
	snprintf(info->address, sizeof info->address, "this host");
	info->numa_node = -1;
	info->state = MC_STATE_ACTIVE;
	if (strncmp(device, "shm", 3) != 0) {
		info->state = MC_STATE_MISSING;
		snprintf(info->remedy, sizeof info->remedy,
			 "'%.63s' is no device of the shm transport: name it " DEVICE, device);
		return 0;
	}
	r = read_subnet(info->subnet, sizeof info->subnet);
	if (r < 0) {
		info->state = MC_STATE_DOWN;
		snprintf(info->remedy, sizeof info->remedy, "this host cannot be told from others: " BOOT_ID ": %s: %s",
			 strerror(-r), r == -EMFILE || r == -ENFILE ? MORE_FDS : "mount /proc");
	}
	return 0;
}

/* ---- identity ------------------------------------------------------------------------------ */

int shm_start_of(pid_t pid, uint64_t *ret_start)
{
	char path[64], text[1024];
	int r;

	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	r = read_text(path, text, sizeof text);
	return r < 0 ? -ENOENT : shm_stat_parse(text, ret_start);
}

int shm_self_read(struct shm_self *self)
{
	char text[64];
	struct stat st, time;
	char link[16] = "";
	int r = read_text(BOOT_ID, text, sizeof text);

	if (r < 0)
		return r;
	r = shm_uuid_parse(text, self->boot);
	if (r < 0)
		return r;
	if (stat("/proc/self/ns/pid", &st) < 0)
		return -errno;
	self->pid = (uint32_t)getpid();
	self->pid_ns = st.st_ino ^ (stat("/proc/self/ns/time", &time) == 0 ? (uint64_t)time.st_ino << 32 : 0);
	self->proc = readlink("/proc/self", link, sizeof link - 1) > 0 && atoi(link) == getpid();
	/* Not by our number, which a /proc of another PID namespace gives to somebody else. */
	{
		char stat_text[1024];

		r = read_text("/proc/self/stat", stat_text, sizeof stat_text);
		return r < 0 ? r : shm_stat_parse(stat_text, &self->start);
	}
}

/* ---- remedies ------------------------------------------------------------------------------- */

/* Yama's rule, or -1 where there is no Yama. */
static int ptrace_scope(void)
{
	char text[16];

	return read_text("/proc/sys/kernel/yama/ptrace_scope", text, sizeof text) > 0 ? atoi(text) : -1;
}

void shm_attach_remedy(int error, pid_t pid, uint32_t uid, char *ret_text, size_t cap)
{
	int scope = ptrace_scope();

	if (!pid)
		snprintf(ret_text, cap,
			 "its process cannot be seen from our PID namespace: share one "
			 "(docker run --pid=container:NAME, hostPID in a pod)");
	else if (error == ENOSYS)
		snprintf(ret_text, cap, "this kernel lacks process_vm_readv or pidfd_open: it takes Linux 5.3 "
			 "with CONFIG_CROSS_MEMORY_ATTACH");
	else if (error == EMFILE || error == ENFILE)
		snprintf(ret_text, cap, "there is no descriptor left for its process: " MORE_FDS);
	else if (error != EPERM && error != EACCES)
		snprintf(ret_text, cap, "process_vm_readv: %s", strerror(error));
	else if (uid != geteuid() && geteuid() != 0)
		snprintf(ret_text, cap,
			 "it belongs to user %u and we to user %u: run both as one user, or give us "
			 "CAP_SYS_PTRACE", uid, (unsigned)geteuid());
	else if (scope > 0)
		snprintf(ret_text, cap,
			 "kernel.yama.ptrace_scope is %d: sysctl kernel.yama.ptrace_scope=0, or give us "
			 "CAP_SYS_PTRACE (docker run --cap-add SYS_PTRACE)", scope);
	else
		snprintf(ret_text, cap,
			 "the kernel's ptrace policy forbids it: give us CAP_SYS_PTRACE (docker run --cap-add "
			 "SYS_PTRACE), in one user namespace, and keep the other process dumpable");
}
