/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bare peer of our cxl cases: memcpy into a mapped file and out of it, with the
 * flushes that memory of several hosts needs, in one process and thread.
 *
 *   cxl_copy FILE write|read BLOCK BATCH SECONDS    prints "BYTES_PER_S P50_NS", of a batch
 *
 * write: memcpy, clwb of each line, sfence.  read: clflushopt of each line, mfence, memcpy.
 */
#include <cpuid.h>
#include <emmintrin.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "stats.h"

#define LINE 64

static bool has_clwb, has_clflushopt;

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static void look_at_cpu(void)
{
	unsigned a, b = 0, c, d;

	if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
		has_clwb = b & bit_CLWB;
		has_clflushopt = b & bit_CLFLUSHOPT;
	}
}

static void write_back(char *at, size_t len)
{
	for (char *end = at + len; at < end; at += LINE) {
		if (has_clwb)
			__asm__ volatile("clwb %0" : "+m"(*at));
		else if (has_clflushopt)
			__asm__ volatile("clflushopt %0" : "+m"(*at));
		else
			_mm_clflush(at);
	}
	_mm_sfence();
}

static void drop(char *at, size_t len)
{
	for (char *end = at + len; at < end; at += LINE) {
		if (has_clflushopt)
			__asm__ volatile("clflushopt %0" : "+m"(*at));
		else
			_mm_clflush(at);
	}
	_mm_mfence();
}

static void copy_batch(char *pool, char *local, size_t block, size_t batch, bool write)
{
	for (size_t i = 0; i < batch; i++) {
		char *there = pool + i * block, *here = local + i * block;

		if (write) {
			memcpy(there, here, block);
			write_back(there, block);
		} else {
			drop(there, block);
			memcpy(here, there, block);
		}
	}
}

static int fail(const char *what)
{
	fprintf(stderr, "cxl_copy: %s: %s\n", what, strerror(errno));
	return 1;
}

int main(int argc, char **argv)
{
	static struct bench_hist hist;
	size_t block, batch, len;
	char *pool, *local;
	uint64_t begin, end, last, n = 0;
	struct stat st;
	bool write;
	int fd;

	if (argc != 6) {
		fprintf(stderr, "usage: cxl_copy FILE write|read BLOCK BATCH SECONDS\n");
		return 2;
	}
	write = strcmp(argv[2], "write") == 0;
	block = strtoull(argv[3], NULL, 10);
	batch = strtoull(argv[4], NULL, 10);
	len = block * batch;
	fd = open(argv[1], O_RDWR | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return fail(argv[1]);
	if ((uint64_t)st.st_size < len || !len)
		return errno = EINVAL, fail("the file is smaller than a batch");
	pool = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	local = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (pool == MAP_FAILED || local == MAP_FAILED)
		return fail("mmap");
	look_at_cpu();
	bench_hist_init(&hist);
	memset(local, 1, len);
	copy_batch(pool, local, block, batch, true);
	copy_batch(pool, local, block, batch, write);
	begin = last = now_ns();
	end = begin + (uint64_t)(strtod(argv[5], NULL) * 1e9);
	while (last < end) {
		uint64_t t;

		copy_batch(pool, local, block, batch, write);
		t = now_ns();
		bench_hist_add(&hist, t - last);
		last = t;
		n++;
	}
	printf("%.0f %llu\n", (double)n * (double)len * 1e9 / (double)(last - begin),
	       (unsigned long long)bench_hist_percentile(&hist, 0.5));
	return 0;
}
