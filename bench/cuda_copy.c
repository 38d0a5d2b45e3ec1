/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copies between a GPU and pinned host memory, by the memory kind `cuda` as staging asks it for them, and
 * by the driver's own synchronous copy, which is what cudaMemcpy calls.  For bench/compare-cuda.sh.
 *
 *   cuda_copy PLUGIN probe                                 0: there is a GPU; 77 and why not
 *   cuda_copy PLUGIN ours|driver to-host|to-gpu BYTES SECONDS   bytes per second
 */
#include <mooncake/memory.h>

#include <dlfcn.h>
#include <errno.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define DEPTH 16
#define GPU 0

static const struct mc_memory_ops *ops;
static void *inst;
static sem_t answered[DEPTH];

static void log_line(const struct mc_host *h, int level, const char *fmt, ...) MC_PRINTF(3, 4);
static void log_line(const struct mc_host *h, int level, const char *fmt, ...)
{
	(void)h;
	(void)level;
	(void)fmt;
}

static void copied(const struct mc_host *h, struct mc_copy *c, int status)
{
	(void)h;
	if (status < 0) {
		fprintf(stderr, "a copy failed: %s\n", strerror(-status));
		exit(1);
	}
	sem_post(c->user);
}

static const struct mc_host host = {.size = sizeof host, .instance = "cuda", .log = log_line, .copied = copied};

static int open_kind(const char *path)
{
	static struct mc_value values[16];
	struct mc_open_args args = {.size = sizeof args, .options = values};
	struct mc_error err = {0};
	void *library = dlopen(path, RTLD_NOW);
	const struct mc_plugin_desc *desc = library ? dlsym(library, MC_PLUGIN_SYMBOL) : NULL;

	if (!desc) {
		fprintf(stderr, "%s\n", library ? "that is no plugin" : dlerror());
		return 1;
	}
	/* sync_below and depth, as they are by default. */
	values[0].i = 16 << 10;
	values[1].i = 64;
	ops = desc->ops;
	inst = calloc(1, ops->instance_size);
	if (!inst)
		return 1;
	if (ops->open(inst, &host, &args, &err) < 0) {
		printf("%s\n", err.text);
		return 77;
	}
	return 0;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* As a lane's pool: several chunks under way, each asked for again when it has ended. */
static double run_ours(char *gpu, char *mem, size_t len, bool to_host, double seconds)
{
	struct mc_copy copies[DEPTH];
	double begin = now(), bytes = 0;

	for (unsigned i = 0; i < DEPTH; i++)
		sem_init(&answered[i], 0, 1);
	for (unsigned i = 0; now() - begin < seconds; i = (i + 1) % DEPTH) {
		int r;

		while (sem_wait(&answered[i]) < 0 && errno == EINTR)
			;
		copies[i] = (struct mc_copy){.size = sizeof copies[i], .mem = gpu + i * len, .hostptr = mem + i * len,
					     .len = len, .kind = "cuda", .ordinal = GPU, .to_host = to_host,
					     .user = &answered[i]};
		r = ops->copy(inst, &copies[i]);
		if (r < 0) {
			fprintf(stderr, "a copy failed: %s\n", strerror(-r));
			exit(1);
		}
		if (r == MC_DONE)
			sem_post(&answered[i]);
		bytes += (double)len;
	}
	for (unsigned i = 0; i < DEPTH; i++)
		while (sem_wait(&answered[i]) < 0 && errno == EINTR)
			;
	return bytes / (now() - begin);
}

static double run_driver(char *gpu, char *mem, size_t len, bool to_host, double seconds)
{
	void *library = dlopen("libcuda.so.1", RTLD_NOW);
	int (*retain)(void **context, int device), (*current)(void *context);
	int (*to)(void *mem, uint64_t gpu, size_t len), (*from)(uint64_t gpu, const void *mem, size_t len);
	double begin, bytes = 0;
	void *context = NULL;
	int r;

	*(void **)&retain = library ? dlsym(library, "cuDevicePrimaryCtxRetain") : NULL;
	*(void **)&current = library ? dlsym(library, "cuCtxPushCurrent_v2") : NULL;
	*(void **)&to = library ? dlsym(library, "cuMemcpyDtoH_v2") : NULL;
	*(void **)&from = library ? dlsym(library, "cuMemcpyHtoD_v2") : NULL;
	if (!retain || !current || !to || !from || retain(&context, GPU) || current(context)) {
		fprintf(stderr, "the CUDA driver has no context\n");
		exit(1);
	}
	begin = now();
	for (unsigned i = 0; now() - begin < seconds; i = (i + 1) % DEPTH) {
		uint64_t at = (uint64_t)(uintptr_t)(gpu + i * len);

		r = to_host ? to(mem + i * len, at, len) : from(at, mem + i * len, len);
		if (r) {
			fprintf(stderr, "the driver's copy answers %d\n", r);
			exit(1);
		}
		bytes += (double)len;
	}
	return bytes / (now() - begin);
}

int main(int argc, char **argv)
{
	struct mc_mem_desc d = {.size = sizeof d, .kind = "cuda", .ordinal = GPU, .dmabuf_fd = -1, .share_fd = -1};
	struct mc_error err = {0};
	bool ours, to_host;
	size_t len;
	char *mem;
	int r;

	if (argc != 6 && !(argc == 3 && !strcmp(argv[2], "probe"))) {
		fprintf(stderr, "usage: cuda_copy PLUGIN probe | ours|driver to-host|to-gpu BYTES SECONDS\n");
		return 2;
	}
	r = open_kind(argv[1]);
	if (r || argc == 3)
		return r;
	ours = !strcmp(argv[2], "ours");
	to_host = !strcmp(argv[3], "to-host");
	len = (size_t)strtoull(argv[4], NULL, 10);
	d.len = DEPTH * len;
	mem = len ? aligned_alloc(4096, (d.len + 4095) & ~(size_t)4095) : NULL;
	if (!mem || ops->alloc(inst, &d, &err) < 0) {
		fprintf(stderr, "%s\n", mem ? err.text : "no memory");
		return 1;
	}
	memset(mem, 1, d.len);
	ops->pin(inst, mem, d.len);
	printf("%.0f\n", (ours ? run_ours : run_driver)(d.addr, mem, len, to_host, atof(argv[5])));
	ops->unpin(inst, mem);
	ops->free(inst, &d);
	ops->close(inst);
	free(inst);
	free(mem);
	return 0;
}
