/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bare peers of our shm cases: one thread that copies blocks between memory of its own and that
 * of a second process, again and again, and does nothing else.
 *
 *   bare_copy HOW BLOCK BATCH SECONDS      prints "BYTES_PER_SECOND CPU_SECONDS_PER_GB"
 *
 * HOW: memcpy-write, memcpy-read (a mapping that both have), or attach-write, attach-read (one
 * process_vm_writev or process_vm_readv per block).  Both sides have BATCH blocks, as ours do.
 */
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WARM_UP_NS UINT64_C(200000000)

struct job {
	size_t block, batch;
	char *here, *there; /* there: in the other process, unless it is mapped */
	bool attach, write;
	pid_t pid;
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static double cpu_s(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* Shared memory as mc_memory_alloc makes it, every page in place. */
static char *shared(size_t len)
{
	int fd = memfd_create("bare", MFD_CLOEXEC);
	char *p = fd < 0 || ftruncate(fd, (off_t)len) < 0
			  ? MAP_FAILED
			  : mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (p == MAP_FAILED)
		return NULL;
	memset(p, 1, len);
	return p;
}

static bool copy(const struct job *j, size_t i)
{
	struct iovec near = {j->here + i * j->block, j->block}, far = {j->there + i * j->block, j->block};

	if (!j->attach) {
		memcpy(j->write ? far.iov_base : near.iov_base, j->write ? near.iov_base : far.iov_base, j->block);
		__asm__ volatile("" : : : "memory");
		return true;
	}
	return (j->write ? process_vm_writev(j->pid, &near, 1, &far, 1, 0)
			 : process_vm_readv(j->pid, &near, 1, &far, 1, 0)) == (ssize_t)j->block;
}

/* Bytes moved until then, or 0 if one failed. */
static uint64_t run_until(const struct job *j, uint64_t until)
{
	uint64_t nr = 0;

	do {
		for (size_t i = 0; i < j->batch; i++)
			if (!copy(j, i))
				return 0;
		nr += j->batch;
	} while (now_ns() < until);
	return nr * j->block;
}

static int measure(const struct job *j, double seconds)
{
	uint64_t begin, bytes;
	double cpu;

	if (!run_until(j, now_ns() + WARM_UP_NS)) {
		fprintf(stderr, "bare_copy: process_vm_%sv: %s\n", j->write ? "write" : "read", strerror(errno));
		return 1;
	}
	begin = now_ns();
	cpu = cpu_s();
	bytes = run_until(j, begin + (uint64_t)(seconds * 1e9));
	printf("%.0f %.4f\n", (double)bytes * 1e9 / (double)(now_ns() - begin), (cpu_s() - cpu) / ((double)bytes / 1e9));
	return 0;
}

int main(int argc, char **argv)
{
	struct job j = {0};
	double seconds;
	int r;

	if (argc != 5 || (strncmp(argv[1], "memcpy-", 7) && strncmp(argv[1], "attach-", 7)) ||
	    (j.block = strtoull(argv[2], NULL, 10)) == 0 || (j.batch = strtoull(argv[3], NULL, 10)) == 0 ||
	    (seconds = strtod(argv[4], NULL)) <= 0) {
		fprintf(stderr, "usage: bare_copy memcpy-write|memcpy-read|attach-write|attach-read BLOCK BATCH SECONDS\n");
		return 2;
	}
	j.attach = argv[1][0] == 'a';
	j.write = !strcmp(argv[1] + 7, "write");
	j.there = shared(j.block * j.batch);
	j.here = shared(j.block * j.batch);
	if (!j.here || !j.there) {
		perror("bare_copy: memory");
		return 1;
	}
	j.pid = fork();
	if (j.pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (size_t i = 0; i < j.block * j.batch; i += 4096)
			j.there[i] = 2; /* pages of this process's table too */
		for (;;)
			pause();
	}
	r = j.pid < 0 ? 1 : measure(&j, seconds);
	if (j.pid > 0) {
		kill(j.pid, SIGKILL);
		waitpid(j.pid, NULL, 0);
	}
	return r;
}
