/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What this machine gives the P2P store over shm at the very best: as many threads as processors that copy
 * pieces past the caches and hash each where it has gone, as the store does, and do nothing else.  Every byte
 * is read twice and written once, so it is often the memory that bounds it and not the processors.
 *
 *   p2p_bare SIZE SECONDS      prints "BYTES_PER_SECOND CPU_SECONDS_PER_GB"
 *
 * Both sides are memfds of SIZE bytes, as mc_memory_alloc's are.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include <p2p_hash.h>

#define PIECE ((size_t)1 << 20) /* of the store's READs */
#define SHARD ((size_t)16 << 20)
#define THREADS_MAX 64

static char *from, *to;
static size_t size, next; /* next: atomic */
static uint64_t sum;      /* so that no hash is left out; atomic */

static double clock_of(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static char *memory_new(int byte)
{
	int fd = memfd_create("p2p_bare", MFD_CLOEXEC);
	void *mem = fd < 0 || ftruncate(fd, (off_t)size) < 0
			    ? MAP_FAILED
			    : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (mem == MAP_FAILED) {
		perror("p2p_bare: memory");
		exit(1);
	}
	close(fd);
	return memset(mem, byte, size);
}

static void copy(char *there, const char *here, size_t len)
{
#ifdef __SSE2__
	for (size_t i = 0; i + 64 <= len; i += 64) {
		_mm_prefetch(here + i + 1024, _MM_HINT_NTA);
		for (size_t k = 0; k < 64; k += 16)
			_mm_stream_si128((__m128i *)(there + i + k), _mm_loadu_si128((const __m128i *)(here + i + k)));
	}
	_mm_sfence();
	memcpy(there + len / 64 * 64, here + len / 64 * 64, len % 64);
#else
	memcpy(there, here, len);
#endif
}

static void *run(void *arg)
{
	struct mc_p2p_hasher hasher;
	struct mc_p2p_hash hash;
	size_t at;

	(void)arg;
	while ((at = __atomic_fetch_add(&next, SHARD, __ATOMIC_RELAXED)) < size) {
		size_t end = at + SHARD < size ? at + SHARD : size;

		mc_p2p_hasher_init(&hasher);
		for (; at < end; at += PIECE) {
			size_t n = end - at < PIECE ? end - at : PIECE;

			copy(to + at, from + at, n);
			mc_p2p_hasher_add(&hasher, to + at, n);
		}
		mc_p2p_hasher_end(&hasher, &hash);
		__atomic_fetch_xor(&sum, hash.bytes[0], __ATOMIC_RELAXED);
	}
	return NULL;
}

static void pass(size_t threads)
{
	pthread_t ids[THREADS_MAX];
	size_t nr = 0;

	next = 0;
	while (nr < threads && pthread_create(&ids[nr], NULL, run, NULL) == 0)
		nr++;
	if (nr == 0)
		run(NULL);
	while (nr)
		pthread_join(ids[--nr], NULL);
}

int main(int argc, char **argv)
{
	long processors = sysconf(_SC_NPROCESSORS_ONLN);
	size_t threads = processors < 1 ? 1 : processors > THREADS_MAX ? THREADS_MAX : (size_t)processors;
	double begin, busy, spent;
	unsigned int nr = 0;

	if (argc != 3 || (size = strtoull(argv[1], NULL, 10)) < PIECE) {
		fprintf(stderr, "usage: p2p_bare SIZE SECONDS\n");
		return 2;
	}
	from = memory_new(1);
	to = memory_new(2);
	pass(threads);
	begin = clock_of(CLOCK_MONOTONIC);
	busy = clock_of(CLOCK_PROCESS_CPUTIME_ID);
	do {
		pass(threads);
		nr++;
		spent = clock_of(CLOCK_MONOTONIC) - begin;
	} while (spent < atof(argv[2]) || nr < 3);
	busy = clock_of(CLOCK_PROCESS_CPUTIME_ID) - busy;
	printf("%.0f %.4f\n", (double)size * nr / spent, busy / ((double)size * nr / 1e9));
	return 0;
}
