/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GPU memory between two engines, each a process: every byte is looked at through the CUDA driver, which
 * may be the fake one (tests/cuda) or a real one.
 *
 *   cuda [KEY=VALUE ...] LOCATION MATRIX LOCATION MATRIX   ours and that of the process which it starts
 *   cuda [KEY=VALUE ...] --handles LOCATION MATRIX         memory mapped from several handles, to itself
 *   cuda [KEY=VALUE ...] --handles-apart LOCATION MATRIX   the same, without requests across them
 *   cuda [KEY=VALUE ...] --refused CASE MATRIX WORDS       a registration that must fail, and say WORDS
 */
#include <mooncake/mooncake.h>

#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SLOW
#define SLOW 1
#endif
#define T (20 * SLOW * MC_SEC)
#define LEN (3u << 20)
#define PIECE (1u << 20)

static char dir[64] = "/tmp/mc-cuda-XXXXXX";
static const char *self;
static const char *settings[16];
static int nr_settings;

#define NEED(cond, ...)                                                                            \
	do {                                                                                       \
		bool met = (cond);                                                                 \
                                                                                                   \
		if (!met) {                                                                        \
			fprintf(stderr, "FAIL %s:%d: %s: ", __FILE__, __LINE__, #cond);             \
			fprintf(stderr, __VA_ARGS__);                                               \
			fprintf(stderr, "\n");                                                      \
			exit(1);                                                                    \
		}                                                                                  \
	} while (0)

/* ---- the driver ---------------------------------------------------------------------------------------- */

static struct {
	int (*cuInit)(unsigned flags);
	int (*cuDeviceGet)(int *device, int ordinal);
	int (*cuDevicePrimaryCtxRetain)(void **context, int device);
	int (*cuCtxPushCurrent_v2)(void *context);
	int (*cuCtxGetCurrent)(void **context);
	int (*cuMemcpyHtoD_v2)(uint64_t to, const void *from, size_t len);
	int (*cuMemcpyDtoH_v2)(void *to, uint64_t from, size_t len);
	int (*cuMemAlloc_v2)(uint64_t *ptr, size_t len);
	int (*cuMemAddressReserve)(uint64_t *ptr, size_t len, size_t alignment, uint64_t at, unsigned long long flags);
	int (*cuMemCreate)(uint64_t *handle, size_t len, const void *properties, unsigned long long flags);
	int (*cuMemRelease)(uint64_t handle);
	int (*cuMemMap)(uint64_t ptr, size_t len, size_t offset, uint64_t handle, unsigned long long flags);
	int (*cuMemSetAccess)(uint64_t ptr, size_t len, const void *access, size_t nr);
} cu;
static void *context;

static void driver_open(int ordinal)
{
	static const char *const names[] = {"cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent_v2",
					    "cuCtxGetCurrent", "cuMemcpyHtoD_v2", "cuMemcpyDtoH_v2", "cuMemAlloc_v2",
					    "cuMemAddressReserve", "cuMemCreate", "cuMemRelease", "cuMemMap", "cuMemSetAccess"};
	void *library = dlopen("libcuda.so.1", RTLD_NOW), **slot = (void **)(void *)&cu;
	int device = -1;

	NEED(library, "%s", dlerror());
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		slot[i] = dlsym(library, names[i]);
		NEED(slot[i], "%s", names[i]);
	}
	NEED(cu.cuInit(0) == 0 && cu.cuDeviceGet(&device, ordinal) == 0, "GPU %d", ordinal);
	NEED(cu.cuDevicePrimaryCtxRetain(&context, device) == 0 && cu.cuCtxPushCurrent_v2(context) == 0, "context");
}

/* ---- ends -------------------------------------------------------------------------------------------------- */

struct end {
	struct mc_engine *engine;
	bool gpu;
	unsigned char *mem;
};

static bool on_gpu(const char *location)
{
	return !strncmp(location, "cuda:", 5);
}

static void engine_open(struct end *end, const char *name, const char *matrix)
{
	struct mc_config *c = NULL;
	struct mc_error err = {0};
	char url[80], key[128];

	snprintf(url, sizeof url, "file://%s", dir);
	NEED(mc_config_new(&c, &err) == 0 && mc_config_set(c, "metadata_server", url, &err) == 0 &&
	     mc_config_set(c, "local_server_name", name, &err) == 0 && mc_config_set(c, "port", "0", &err) == 0 &&
	     mc_config_set(c, "advertise_address", "127.0.0.1", &err) == 0 &&
	     mc_config_set(c, "nic_priority_matrix", matrix, &err) == 0, "%s", err.text);
	for (int i = 0; i < nr_settings; i++) {
		snprintf(key, sizeof key, "%.*s", (int)strcspn(settings[i], "="), settings[i]);
		NEED(mc_config_set(c, key, strchr(settings[i], '=') + 1, &err) == 0, "%s", err.text);
	}
	NEED(mc_engine_open(c, T, &end->engine, &err) == 0, "%s: %s", name, err.text);
	mc_config_free(c);
}

static void end_open(struct end *end, const char *name, const char *location, const char *matrix)
{
	struct mc_error err = {0};
	void *mem = NULL;

	end->gpu = on_gpu(location);
	if (end->gpu)
		driver_open(atoi(location + 5));
	engine_open(end, name, matrix);
	NEED(mc_memory_alloc(end->engine, location, LEN, MC_ACCESS_ALL, T, &mem, &err) == 0, "%s: %s", name, err.text);
	end->mem = mem;
}

static unsigned char byte_at(uint64_t seed, size_t i)
{
	return (unsigned char)(((seed + i) * UINT64_C(0x9e3779b97f4a7c15)) >> 56);
}

static void put(const struct end *end, size_t at, const void *from, size_t len)
{
	if (end->gpu)
		NEED(cu.cuMemcpyHtoD_v2((uintptr_t)end->mem + at, from, len) == 0, "copy");
	else
		memcpy(end->mem + at, from, len);
}

static void get(const struct end *end, size_t at, void *to, size_t len)
{
	if (end->gpu)
		NEED(cu.cuMemcpyDtoH_v2(to, (uintptr_t)end->mem + at, len) == 0, "copy");
	else
		memcpy(to, end->mem + at, len);
}

/* By pieces: memory of handles is copied handle by handle. */
static void fill(const struct end *end, uint64_t seed)
{
	static unsigned char buf[PIECE];

	for (size_t at = 0; at < LEN; at += PIECE) {
		for (size_t i = 0; i < PIECE; i++)
			buf[i] = byte_at(seed, at + i);
		put(end, at, buf, PIECE);
	}
}

/* How many bytes are wrong: [at, at + len) is what `from` drew from src on, the rest what seed drew. */
static size_t wrong(const struct end *end, uint64_t seed, size_t at, size_t len, uint64_t from, size_t src)
{
	static unsigned char buf[PIECE];
	size_t bad = 0;

	for (size_t i = 0; i < LEN; i++) {
		if (i % PIECE == 0)
			get(end, i, buf, PIECE);
		bad += buf[i % PIECE] != (i - at < len ? byte_at(from, src + i - at) : byte_at(seed, i));
	}
	return bad;
}

/* ---- the other process -------------------------------------------------------------------------------------- */

static int serve(const char *name, const char *location, const char *matrix)
{
	unsigned long long a[5];
	char line[128];
	struct end end;

	end_open(&end, name, location, matrix);
	printf("%llu\n", (unsigned long long)(uintptr_t)end.mem);
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		if (sscanf(line, "fill %llu", a) == 1) {
			fill(&end, a[0]);
			printf("0\n");
		} else if (sscanf(line, "wrong %llu %llu %llu %llu %llu", a, a + 1, a + 2, a + 3, a + 4) == 5) {
			printf("%zu\n", wrong(&end, a[0], a[1], a[2], a[3], a[4]));
		}
		fflush(stdout);
	}
	NEED(mc_engine_close(end.engine, T) == 0, "close");
	return 0;
}

struct child {
	pid_t pid;
	FILE *in, *out;
	uint64_t mem;
};

static unsigned long long answer(struct child *child)
{
	unsigned long long n = 0;

	fflush(child->in);
	NEED(fscanf(child->out, "%llu", &n) == 1, "the other process does not answer");
	return n;
}

static void child_start(struct child *child, const char *location, const char *matrix)
{
	const char *argv[32] = {self};
	int in[2], out[2], n = 1;

	for (int i = 0; i < nr_settings; i++)
		argv[n++] = settings[i];
	argv[n++] = "--serve";
	argv[n++] = dir;
	argv[n++] = location;
	argv[n++] = matrix;
	NEED(pipe(in) == 0 && pipe(out) == 0, "pipe");
	child->pid = fork();
	NEED(child->pid >= 0, "fork");
	if (child->pid == 0) {
		dup2(in[0], 0);
		dup2(out[1], 1);
		close(in[1]);
		close(out[0]);
		execv(self, (char *const *)(uintptr_t)argv);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	child->in = fdopen(in[1], "w");
	child->out = fdopen(out[0], "r");
	child->mem = answer(child);
}

/* ---- transfers ------------------------------------------------------------------------------------------------ */

static void transfer(const struct end *a, struct mc_segment *s, uint64_t remote, uint32_t opcode, size_t at,
		     size_t offset, size_t len)
{
	struct mc_request q = {.opcode = opcode, .local = a->mem + at, .segment = s, .offset = remote + offset, .len = len};
	struct mc_request_status st = {.size = sizeof st};
	struct mc_batch *b = NULL;

	NEED(mc_batch_new(a->engine, 1, &b) == 0 && mc_batch_submit(b, &q, 1, NULL) == 0, "submit");
	NEED(mc_batch_wait(b, T) == 0 && mc_batch_status(b, 0, &st) == 0 && st.state == MC_REQUEST_DONE,
	     "%s of %zu bytes: %s", opcode == MC_OP_READ ? "read" : "write", len, strerror(-st.status));
	mc_batch_free(b);
}

static int both_ways(char **argv)
{
	static const size_t sizes[] = {1, 63, 4095, 4097, 65537, 1000003, (2u << 20) + 5};
	const size_t at = 4099, offset = 8200;
	struct mc_error err = {0};
	struct mc_segment *s = NULL;
	struct child child;
	struct end a;
	void *now = NULL;
	int status = -1;

	child_start(&child, argv[2], argv[3]);
	end_open(&a, "initiator", argv[0], argv[1]);
	NEED(mc_segment_open(a.engine, "target", T, &s, &err) == 0, "%s", err.text);
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		size_t len = sizes[i];

		fill(&a, 1);
		fprintf(child.in, "fill 2\n");
		NEED(answer(&child) == 0, "fill");
		transfer(&a, s, child.mem, MC_OP_WRITE, at, offset, len);
		fprintf(child.in, "wrong 2 %zu %zu 1 %zu\n", offset, len, at);
		NEED(answer(&child) == 0, "written: %zu bytes", len);
		fprintf(child.in, "fill 3\n");
		NEED(answer(&child) == 0, "fill");
		transfer(&a, s, child.mem, MC_OP_READ, at, offset, len);
		NEED(wrong(&a, 1, at, len, 3, offset) == 0, "read: %zu bytes", len);
	}
	NEED(!a.gpu || (cu.cuCtxGetCurrent(&now) == 0 && now == context), "the current context was changed");
	mc_segment_close(s);
	NEED(mc_engine_close(a.engine, T) == 0, "close");
	fclose(child.in);
	NEED(waitpid(child.pid, &status, 0) == child.pid && status == 0, "the other process ended with %d", status);
	fclose(child.out);
	return 0;
}

/* ---- memory of several handles ------------------------------------------------------------------------------------ */

static void map_handles(struct end *end, int ordinal)
{
	/* Pinned, no handle type, on a device; the rest 0. */
	struct {
		int type, handles, where, ordinal;
		uint64_t more[2];
	} properties = {1, 0, 1, ordinal, {0, 0}};
	struct {
		int where, ordinal, flags;
	} access = {1, ordinal, 3};
	uint64_t base = 0, handle = 0;

	NEED(cu.cuMemAddressReserve(&base, LEN, 0, 0, 0) == 0, "reserve");
	for (unsigned i = 0; i < LEN / PIECE; i++)
		NEED(cu.cuMemCreate(&handle, PIECE, &properties, 0) == 0 &&
		     cu.cuMemMap(base + i * PIECE, PIECE, 0, handle, 0) == 0 && cu.cuMemRelease(handle) == 0, "map");
	NEED(cu.cuMemSetAccess(base, LEN, &access, 1) == 0, "access");
	end->mem = (unsigned char *)(uintptr_t)base;
}

/* A request may go on from one handle to the next. */
static void across_handles(const struct end *a, const struct end *b, struct mc_segment *s)
{
	fill(a, 1);
	fill(b, 2);
	transfer(a, s, (uintptr_t)b->mem, MC_OP_WRITE, 4099, 8200, LEN - 9000);
	NEED(wrong(b, 2, 8200, LEN - 9000, 1, 4099) == 0, "written across handles");
	transfer(a, s, (uintptr_t)b->mem, MC_OP_READ, 4099, 8200, LEN - 9000);
	NEED(wrong(a, 1, 0, 0, 0, 0) == 0, "read across handles");
}

static int handles(char **argv)
{
	struct mc_error err = {0};
	struct mc_segment *s = NULL;
	struct end a = {.gpu = true}, b = {.gpu = false};
	void *mem = NULL;

	driver_open(atoi(argv[0] + 5));
	engine_open(&a, "initiator", argv[1]);
	engine_open(&b, "target", argv[1]);
	map_handles(&a, atoi(argv[0] + 5));
	NEED(mc_memory_register(a.engine, a.mem, LEN, argv[0], MC_ACCESS_ALL, T, &err) == 0, "%s", err.text);
	NEED(mc_memory_alloc(b.engine, "cpu:0", LEN, MC_ACCESS_ALL, T, &mem, &err) == 0, "%s", err.text);
	b.mem = mem;
	NEED(mc_segment_open(a.engine, "target", T, &s, &err) == 0, "%s", err.text);
	fill(&a, 1);
	fill(&b, 2);
	for (unsigned i = 0; i < LEN / PIECE; i++)
		transfer(&a, s, (uintptr_t)b.mem, MC_OP_WRITE, i * PIECE + 7, i * PIECE + 7, PIECE - 7);
	for (unsigned i = 0; i < LEN / PIECE; i++)
		NEED(!memcmp(b.mem + i * PIECE, (unsigned char[]){byte_at(2, i * PIECE)}, 1) &&
		     b.mem[i * PIECE + 7] == byte_at(1, i * PIECE + 7) &&
		     b.mem[(i + 1) * PIECE - 1] == byte_at(1, (i + 1) * PIECE - 1), "handle %u", i);
	fill(&b, 3);
	for (unsigned i = 0; i < LEN / PIECE; i++)
		transfer(&a, s, (uintptr_t)b.mem, MC_OP_READ, i * PIECE, i * PIECE, PIECE);
	NEED(wrong(&a, 3, 0, 0, 0, 0) == 0, "read");
	if (strcmp(argv[-1], "--handles-apart"))
		across_handles(&a, &b, s);
	else
		NEED(mc_request_check(&(struct mc_request){.opcode = MC_OP_WRITE, .local = a.mem + 7, .segment = s,
							   .offset = (uintptr_t)b.mem, .len = PIECE}, &err) == -EFAULT &&
		     strstr(err.text, "where another begins"), "a request across handles: %s", err.text);
	NEED(mc_memory_unregister(a.engine, a.mem, T, &err) == 0, "%s", err.text);
	mc_segment_close(s);
	NEED(mc_engine_close(a.engine, T) == 0 && mc_engine_close(b.engine, T) == 0, "close");
	return 0;
}

/* ---- bad input -------------------------------------------------------------------------------------------------------- */

static int refused(char **argv)
{
	struct mc_error err = {0};
	static char here[8192];
	uint64_t gpu = 0;
	struct end a;
	void *mem = NULL;
	int r;

	if (!strcmp(argv[0], "no-driver") && dlopen("libcuda.so.1", RTLD_LAZY)) {
		fprintf(stderr, "this host has a CUDA driver\n");
		return 77;
	}
	engine_open(&a, "initiator", argv[1]);
	if (!strcmp(argv[0], "index")) {
		r = mc_memory_alloc(a.engine, "cuda:7", LEN, MC_ACCESS_ALL, T, &mem, &err);
	} else if (!strcmp(argv[0], "host-as-gpu")) {
		r = mc_memory_register(a.engine, here, sizeof here, "cuda:0", MC_ACCESS_ALL, T, &err);
	} else if (!strcmp(argv[0], "no-driver") || !strcmp(argv[0], "alloc")) {
		r = mc_memory_alloc(a.engine, "cuda:0", LEN, MC_ACCESS_ALL, T, &mem, &err);
	} else {
		driver_open(0);
		NEED(cu.cuMemAlloc_v2(&gpu, LEN) == 0, "alloc");
		r = mc_memory_register(a.engine, (void *)(uintptr_t)gpu, LEN, !strcmp(argv[0], "gpu-as-host") ? "cpu:0" :
				       "cuda:1", MC_ACCESS_ALL, T, &err);
	}
	NEED(r < 0, "it was taken");
	NEED(strstr(err.text, argv[2]) && !strchr(err.text, '\n'), "'%s' does not say '%s'", err.text, argv[2]);
	NEED(mc_engine_close(a.engine, T) == 0, "close");
	return 0;
}

int main(int argc, char **argv)
{
	char cmd[96];
	int r = 2;

	self = argv[0];
	signal(SIGPIPE, SIG_IGN);
	while (argc > 1 && argv[1][0] != '-' && strchr(argv[1], '=') && argv[1][0] != '{') {
		settings[nr_settings++] = argv[1];
		argv++;
		argc--;
	}
	if (argc == 5 && !strcmp(argv[1], "--serve")) {
		snprintf(dir, sizeof dir, "%s", argv[2]);
		return serve("target", argv[3], argv[4]);
	}
	if (argc < 4 || !mkdtemp(dir)) {
		fprintf(stderr, "usage: the head of cuda.c\n");
		return 2;
	}
	if (argc == 4 && !strncmp(argv[1], "--handles", 9))
		r = handles(argv + 2);
	else if (argc == 5 && !strcmp(argv[1], "--refused"))
		r = refused(argv + 2);
	else if (argc == 5)
		r = both_ways(argv + 1);
	snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
	if (system(cmd))
		fprintf(stderr, "%s is left\n", dir);
	return r;
}
