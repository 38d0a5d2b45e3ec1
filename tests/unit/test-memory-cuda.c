/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory kind `cuda` over the fake driver (tests/cuda): what each operation does, that the caller's
 * context is left as it was, that every call of the driver may fail, and what is said where there is no
 * driver.  Takes the plugin's path.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli/check/fake-host.h"
#include "tests/cuda/fake-cuda.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
#define DEPTH 4

static const char *path, *self;
static struct fake_plugin plugin;
static const struct mc_memory_ops *ops = &plugin.ops.memory;

/* ---- the driver, as this test uses it ---------------------------------------------------------------- */

static int (*h2d)(uint64_t to, const void *from, size_t len), (*d2h)(void *to, uint64_t from, size_t len);
static int (*push)(uintptr_t context), (*pop)(uintptr_t *context), (*current)(uintptr_t *context);
static int (*reserve)(uint64_t *ptr, size_t len, size_t alignment, uint64_t at, unsigned long long flags);
static int (*create)(void **handle, size_t len, const int *properties, unsigned long long flags);
static int (*map)(uint64_t ptr, size_t len, size_t offset, void *handle, unsigned long long flags);
static int (*unmap)(uint64_t ptr, size_t len), (*release)(void *handle), (*unreserve)(uint64_t ptr, size_t len);
static int (*managed)(uint64_t *ptr, size_t len, unsigned flags), (*give)(uint64_t ptr);
static long (*left)(const char *what);

static void driver_find(void)
{
	static const struct {
		const char *name;
		void *fn;
	} calls[] = {
		{"cuMemcpyHtoD_v2", &h2d}, {"cuMemcpyDtoH_v2", &d2h}, {"cuCtxPushCurrent_v2", &push},
		{"cuCtxPopCurrent_v2", &pop}, {"cuCtxGetCurrent", &current}, {"cuMemAddressReserve", &reserve},
		{"cuMemCreate", &create}, {"cuMemMap", &map}, {"cuMemUnmap", &unmap}, {"cuMemRelease", &release},
		{"cuMemAddressFree", &unreserve}, {"cuMemAllocManaged", &managed}, {"cuMemFree_v2", &give},
		{"fake_cuda_left", &left},
	};
	void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);

	assert_non_null(library);
	for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
		void *sym = dlsym(library, calls[i].name);

		assert_non_null(sym);
		memcpy(calls[i].fn, &sym, sizeof sym);
	}
}

static void nothing_left(void)
{
	static const char *const things[] = {"blocks", "streams", "events", "contexts", "pinned"};

	for (size_t i = 0; i < sizeof things / sizeof things[0]; i++)
		if (left(things[i]))
			fail_msg("%ld %s are left", left(things[i]), things[i]);
}

/* ---- the host ------------------------------------------------------------------------------------------ */

static void log_line(const struct mc_host *h, int level, const char *fmt, ...) MC_PRINTF(3, 4);
static char logged[512]; /* the last line */
static void log_line(const struct mc_host *h, int level, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(logged, sizeof logged, fmt, ap);
	va_end(ap);
}

static void copied(const struct mc_host *h, struct mc_copy *c, int status)
{
	__atomic_store_n((int *)c->user, status, __ATOMIC_RELEASE);
}

static const struct mc_host host = {.size = sizeof host, .instance = "cuda", .log = log_line, .copied = copied};

static bool join = true; /* option join_handles */

static int try_open(void **ret_inst, struct mc_error *err)
{
	const struct mc_value values[] = {{.i = 4096}, {.i = DEPTH}, {.b = join}};
	struct mc_open_args args = {.size = sizeof args, .options = values};
	int r;

	*ret_inst = calloc(1, ops->instance_size);
	assert_non_null(*ret_inst);
	r = ops->open(*ret_inst, &host, &args, err);
	if (r < 0)
		free(*ret_inst);
	return r;
}

static void *must_open(void)
{
	struct mc_error err = {0};
	void *inst;

	if (try_open(&inst, &err) < 0)
		fail_msg("%s", err.text);
	return inst;
}

static void end(void *inst)
{
	ops->close(inst);
	free(inst);
	nothing_left();
}

static struct mc_mem_desc alloc(void *inst, uint64_t len, int32_t ordinal)
{
	struct mc_mem_desc d = {.size = sizeof d, .len = len, .kind = "cuda", .ordinal = ordinal, .dmabuf_fd = -1};
	struct mc_error err = {0};

	if (ops->alloc(inst, &d, &err) < 0)
		fail_msg("%s", err.text);
	return d;
}

static int copy(void *inst, void *mem, void *hostptr, size_t len, int ordinal, bool to_host)
{
	int status = 1, r;
	struct mc_copy c = {.size = sizeof c, .mem = mem, .hostptr = hostptr, .len = len, .kind = "cuda",
			    .ordinal = ordinal, .to_host = to_host, .user = &status};

	r = ops->copy(inst, &c);
	if (r)
		return r < 0 ? r : 0;
	while (__atomic_load_n(&status, __ATOMIC_ACQUIRE) == 1)
		usleep(50);
	return status;
}

static unsigned char *pattern(size_t len, unsigned seed)
{
	unsigned char *p = malloc(len);

	assert_non_null(p);
	for (size_t i = 0; i < len; i++)
		p[i] = (unsigned char)((i * 2654435761u + seed) >> 9);
	return p;
}

/* ---- what the operations do -------------------------------------------------------------------------------- */

/* Odd sizes and places, both ways, with what lies around them. */
static void test_copies(void **state)
{
	static const size_t sizes[] = {1, 4095, 4096, 4097, 100001, MIB - 7};
	void *inst = must_open();
	struct mc_mem_desc d = alloc(inst, MIB + 16, 1);
	unsigned char *in = pattern(MIB + 16, 1), *old = pattern(MIB + 16, 2), *out = malloc(MIB + 16);

	assert_int_equal(d.ordinal, 1);
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		assert_int_equal(copy(inst, d.addr, old, MIB + 16, 1, false), 0);
		assert_int_equal(copy(inst, (char *)d.addr + 7, in, sizes[i], 1, false), 0);
		memset(out, 0, MIB + 16);
		assert_int_equal(copy(inst, d.addr, out, MIB + 16, 1, true), 0);
		assert_memory_equal(out, old, 7);
		assert_memory_equal(out + 7, in, sizes[i]);
		assert_memory_equal(out + 7 + sizes[i], old + 7 + sizes[i], MIB + 9 - sizes[i]);
		memset(out, 0, sizes[i] + 1);
		assert_int_equal(copy(inst, (char *)d.addr + 7, out, sizes[i], 1, true), 0);
		assert_memory_equal(out, in, sizes[i]);
		assert_int_equal(out[sizes[i]], sizes[i] + 1 < MIB ? out[sizes[i]] : 0);
	}
	assert_int_equal(copy(inst, in, out, MIB, 0, true), -EFAULT);
	assert_non_null(strstr(logged, "a copy at 'cuda:0' failed: cuMemcpyAsync answers CUDA_ERROR_INVALID_VALUE (1)"));
	assert_non_null(strstr(logged, "was memory freed that is registered?"));
	assert_int_equal(copy(inst, in, out, 8, 0, true), -EFAULT);
	assert_int_equal(copy(inst, d.addr, out, 8, 2, true), -ENODEV);
	assert_int_equal(copy(inst, d.addr, out, 8, -1, true), -ENODEV);
	assert_int_equal(copy(inst, d.addr, NULL, 0, 0, true), 0);
	ops->free(inst, &d);
	end(inst);
	free(in);
	free(old);
	free(out);
}

/* More than the queue holds is asked for again, and every copy is answered once. */
static void test_queue(void **state)
{
	enum { NR = DEPTH + 3 };
	void *inst = must_open();
	struct mc_mem_desc d = alloc(inst, NR * MIB, 0);
	unsigned char *out = malloc(NR * MIB);
	int status[NR], taken = 0;
	char *last;
	struct mc_copy c[NR];

	setenv("FAKE_CUDA_DELAY", "20000", 1);
	for (int i = 0; i < NR; i++) {
		int r;

		status[i] = 1;
		c[i] = (struct mc_copy){.size = sizeof c[i], .mem = (char *)d.addr + i * MIB, .hostptr = out + i * MIB,
					.len = MIB, .kind = "cuda", .to_host = 1, .user = &status[i]};
		r = ops->copy(inst, &c[i]);
		assert_true(r == 0 || r == -EAGAIN);
		taken += r == 0;
		if (r)
			status[i] = 2;
	}
	assert_int_equal(taken, DEPTH);
	/* The other direction is not held up, nor is a small one. */
	last = (char *)d.addr + (NR - 1) * MIB;
	assert_int_equal(copy(inst, last, out + NR * MIB - 8192, 8192, 0, false), 0);
	assert_int_equal(copy(inst, last, out + NR * MIB - 8192, 16, 0, true), 0);
	/* Closing answers what is under way. */
	ops->close(inst);
	free(inst);
	unsetenv("FAKE_CUDA_DELAY");
	for (int i = 0; i < NR; i++)
		assert_int_equal(status[i], status[i] == 2 ? 2 : 0);
	nothing_left();
	free(out);
}

static void test_identify(void **state)
{
	void *inst = must_open();
	struct mc_mem_desc d = alloc(inst, 3 * MIB, 1), got = {.size = sizeof got};
	uint64_t moving = 0;
	uintptr_t out;
	char here[64];

	assert_int_equal(ops->count(inst), 2);
	assert_int_equal(ops->identify(inst, d.addr, 3 * MIB, &got), 0);
	assert_string_equal(got.kind, "cuda");
	assert_int_equal(got.ordinal, 1);
	assert_int_equal(ops->identify(inst, (char *)d.addr + 3 * MIB - 1, 1, &got), 0);
	assert_int_equal(ops->identify(inst, (char *)d.addr + 1, 3 * MIB, &got), -EINVAL);
	assert_int_equal(ops->identify(inst, (char *)d.addr - 1, 2, &got), -EINVAL);
	assert_int_equal(ops->identify(inst, here, sizeof here, &got), -ENOENT);
	/* Memory that the driver moves to and fro is the CPU's too. */
	assert_int_equal(push(1), OK);
	assert_int_equal(managed(&moving, MIB, 1), OK);
	assert_int_equal(ops->identify(inst, (void *)(uintptr_t)moving, MIB, &got), -ENOENT);
	assert_int_equal(give(moving), OK);
	assert_int_equal(pop(&out), OK);
	assert_int_equal(ops->distance(inst, 5, "0000:03:00.0"), -1);
	assert_int_equal(ops->distance(inst, 0, NULL), -1);
	assert_int_equal(ops->distance(inst, 0, "ffff:ff:1f.7"), -1);
	end(inst);
}

/* Memory that is mapped from several handles: each is a piece, all of it is of the kind. */
static void test_handles(void **state)
{
	static const int properties[8] = {1, 0, 1, 1};
	enum { NR = 3 };
	void *inst = must_open(), *handles[NR];
	struct mc_mem_desc d = {.size = sizeof d, .kind = "cuda"}, got = {.size = sizeof got};
	struct mc_error err = {0};
	uint64_t base = 0, len = 0;
	unsigned char *in = pattern(MIB, 3), *in2 = pattern(2 * MIB, 5), *out2 = malloc(2 * MIB), *view;

	assert_int_equal(reserve(&base, (NR + 1) * MIB, 0, 0, 0), OK);
	for (int i = 0; i < NR; i++) {
		assert_int_equal(create(&handles[i], MIB, properties, 0), OK);
		assert_int_equal(map(base + (unsigned)i * MIB, MIB, 0, handles[i], 0), OK);
	}
	d.addr = (char *)(uintptr_t)base + 1000;
	d.len = 2 * MIB;
	/* All of it in one dma-buf, if the driver can do that and we may. */
	assert_int_equal(ops->extent(inst, &d, &len), 0);
	assert_int_equal(len, 2 * MIB);
	d.dmabuf_fd = -1;
	assert_int_equal(ops->export_dmabuf(inst, &d, &err), 0);
	assert_int_equal(d.dmabuf_offset, 1000);
	assert_int_equal(copy(inst, d.addr, in2, d.len, 1, false), 0);
	assert_int_equal(pread(d.dmabuf_fd, out2, d.len, 1000), d.len);
	assert_memory_equal(in2, out2, d.len);
	close(d.dmabuf_fd);
	free(in2);
	free(out2);
	setenv("FAKE_CUDA_WHOLE", "0", 1);
	assert_int_equal(ops->identify(inst, d.addr, d.len, &got), 0);
	assert_int_equal(got.ordinal, 1);
	assert_int_equal(ops->identify(inst, d.addr, NR * MIB, &got), -EINVAL);
	assert_int_equal(ops->extent(inst, &d, &len), 0);
	assert_int_equal(len, MIB - 1000);
	d.addr = (char *)(uintptr_t)base + MIB;
	assert_int_equal(ops->extent(inst, &d, &len), 0);
	assert_int_equal(len, MIB);
	d.addr = (char *)d.addr + 4096;
	d.len = MIB - 4096;
	d.dmabuf_fd = -1;
	assert_int_equal(ops->export_dmabuf(inst, &d, &err), 0);
	assert_int_equal(d.dmabuf_offset, 4096);
	assert_int_equal(copy(inst, d.addr, in, d.len, 1, false), 0);
	view = mmap(NULL, MIB, PROT_READ, MAP_SHARED, d.dmabuf_fd, lseek(d.dmabuf_fd, 0, SEEK_CUR));
	assert_true(view != MAP_FAILED);
	assert_memory_equal(view + d.dmabuf_offset, in, d.len);
	munmap(view, MIB);
	close(d.dmabuf_fd);
	unsetenv("FAKE_CUDA_WHOLE");
	d.addr = (char *)(uintptr_t)base;
	d.len = 2 * MIB;
	ops->close(inst);
	free(inst);
	join = false;
	inst = must_open();
	assert_int_equal(ops->extent(inst, &d, &len), 0);
	assert_int_equal(len, MIB);
	join = true;
	d.addr = in;
	assert_int_equal(ops->extent(inst, &d, &len), -ENOENT);
	assert_int_equal(unmap(base, NR * MIB), OK);
	for (int i = 0; i < NR; i++)
		assert_int_equal(release(handles[i]), OK);
	assert_int_equal(unreserve(base, (NR + 1) * MIB), OK);
	end(inst);
	free(in);
}

/* A small allocation begins inside a page: what is exported is the pages around it. */
static void test_dmabuf(void **state)
{
	void *inst = must_open();
	struct mc_mem_desc d = alloc(inst, 5000, 0), whole = d;
	struct mc_error err = {0};
	unsigned char *in = pattern(5000, 4), *view;

	assert_true((uintptr_t)d.addr % 4096 != 0);
	assert_int_equal(copy(inst, d.addr, in, 5000, 0, false), 0);
	d.addr = (char *)d.addr + 100;
	d.len = 1000;
	assert_int_equal(ops->export_dmabuf(inst, &d, &err), 0);
	assert_true(d.dmabuf_fd >= 0);
	assert_int_equal(d.dmabuf_offset, 100 + (uintptr_t)whole.addr % 4096);
	view = mmap(NULL, 8192, PROT_READ, MAP_SHARED, d.dmabuf_fd, 0);
	assert_true(view != MAP_FAILED);
	assert_memory_equal(view + d.dmabuf_offset, in + 100, 1000);
	munmap(view, 8192);
	close(d.dmabuf_fd);
	d.addr = in;
	assert_int_equal(ops->export_dmabuf(inst, &d, &err), -ENOENT);
	assert_non_null(strstr(err.text, "is not memory of kind 'cuda'"));
	end(inst);
	setenv("FAKE_CUDA_DMABUF", "0", 1);
	inst = must_open();
	d = alloc(inst, 5000, 0);
	assert_int_equal(ops->export_dmabuf(inst, &d, &err), -ENOTSUP);
	assert_non_null(strstr(err.text, "exports no dma-buf of 'cuda:0'"));
	unsetenv("FAKE_CUDA_DMABUF");
	end(inst); /* with the memory that nobody gave back */
	free(in);
}

static void test_flush(void **state)
{
	struct mc_mem_desc all = {.size = sizeof all, .kind = "cuda", .ordinal = -1, .dmabuf_fd = -1}, d;
	char here[64];
	void *inst;

	setenv("FAKE_CUDA_ORDERING", "0", 1);
	inst = must_open();
	long before = left("flushes");

	assert_int_equal(ops->flush(inst, &all), 0);
	assert_int_equal(left("flushes"), before); /* nobody has such memory */
	d = alloc(inst, MIB, 1);
	assert_int_equal(ops->flush(inst, &all), 0);
	assert_int_equal(left("flushes"), before + 1);
	assert_int_equal(ops->flush(inst, &d), 0);
	d.addr = here;
	assert_int_equal(ops->flush(inst, &d), -EFAULT);
	all.ordinal = 2;
	assert_int_equal(ops->flush(inst, &all), -ENODEV);
	end(inst);
	unsetenv("FAKE_CUDA_ORDERING");
	inst = must_open();
	alloc(inst, MIB, 0);
	before = left("flushes");
	all.ordinal = -1;
	assert_int_equal(ops->flush(inst, &all), 0);
	assert_int_equal(left("flushes"), before);
	end(inst);
}

static void test_pin(void **state)
{
	void *inst = must_open();
	static char pool[8192];

	alloc(inst, 4096, 1);
	assert_int_equal(ops->pin(inst, pool, sizeof pool), 0);
	assert_int_equal(left("pinned"), 1);
	assert_int_equal(left("contexts"), 1); /* no other GPU is woken up for it */
	ops->unpin(inst, pool);
	assert_int_equal(left("pinned"), 0);
	ops->unpin(inst, pool);
	end(inst);
}

/* Whatever is done, the thread's own context is current again. */
static void test_context(void **state)
{
	void *inst = must_open();
	struct mc_mem_desc d, got = {.size = sizeof got};
	struct mc_error err = {0};
	unsigned char *out = malloc(MIB);
	uintptr_t now = 0;
	uint64_t len;

	assert_int_equal(push(2), OK);
	d = alloc(inst, MIB, 0);
	assert_int_equal(ops->identify(inst, d.addr, MIB, &got), 0);
	assert_int_equal(ops->extent(inst, &d, &len), 0);
	assert_int_equal(copy(inst, d.addr, out, MIB, 0, true), 0);
	assert_int_equal(copy(inst, d.addr, out, 100, 0, false), 0);
	assert_int_equal(ops->export_dmabuf(inst, &d, &err), 0);
	close(d.dmabuf_fd);
	assert_int_equal(ops->pin(inst, out, MIB), 0);
	ops->unpin(inst, out);
	assert_int_equal(ops->flush(inst, &d), 0);
	ops->free(inst, &d);
	assert_int_equal(current(&now), OK);
	assert_int_equal(now, 2);
	end(inst);
	assert_int_equal(current(&now), OK);
	assert_int_equal(now, 2);
	assert_int_equal(pop(&now), OK);
	assert_int_equal(current(&now), OK);
	assert_int_equal(now, 0);
	free(out);
}

/* While somebody captures a graph our calls are no part of it, and the thread's own mode stays. */
static void test_capture(void **state)
{
	unsigned char *out = malloc(MIB);
	struct mc_error err = {0};
	struct mc_mem_desc d;
	uintptr_t before;
	void *inst;

	setenv("FAKE_CUDA_CAPTURE", "1", 1);
	inst = must_open();
	d = alloc(inst, MIB, 0);
	assert_int_equal(copy(inst, d.addr, out, MIB, 0, true), 0);
	assert_int_equal(copy(inst, d.addr, out, 100, 0, false), 0);
	assert_int_equal(ops->pin(inst, out, MIB), 0);
	ops->unpin(inst, out);
	assert_int_equal(ops->export_dmabuf(inst, &d, &err), 0);
	close(d.dmabuf_fd);
	ops->free(inst, &d);
	ops->close(inst);
	free(inst);
	assert_int_equal(push(1), OK);
	assert_int_equal(give(0), STREAM_CAPTURE_UNSUPPORTED);
	unsetenv("FAKE_CUDA_CAPTURE");
	assert_int_equal(pop(&before), OK);
	nothing_left();
	free(out);
}

/* ---- what goes wrong ----------------------------------------------------------------------------------------- */

static void test_sentences(void **state)
{
	void *inst = must_open();
	struct mc_mem_desc d = {.size = sizeof d, .len = 4096, .ordinal = 2, .dmabuf_fd = -1};
	struct mc_error err = {0};

	assert_int_equal(ops->alloc(inst, &d, &err), -ENODEV);
	assert_string_equal(err.text, "location 'cuda:2' does not exist: this host has 2 GPUs, 'cuda:0' to 'cuda:1'");
	d.ordinal = 0;
	d.len = UINT64_C(1) << 40;
	assert_int_equal(ops->alloc(inst, &d, &err), -ENOMEM);
	assert_non_null(strstr(err.text, "allocating 1099511627776 bytes at 'cuda:0': CUDA_ERROR_OUT_OF_MEMORY: "));
	end(inst);
	setenv("FAKE_CUDA_DEVICES", "1", 1);
	inst = must_open();
	d.ordinal = 1;
	assert_int_equal(ops->alloc(inst, &d, &err), -ENODEV);
	assert_string_equal(err.text, "location 'cuda:1' does not exist: this host has one GPU, 'cuda:0'");
	unsetenv("FAKE_CUDA_DEVICES");
	end(inst);
}

static void refused(const char *variable, const char *value, const char *says)
{
	struct mc_error err = {0};
	void *inst;

	setenv(variable, value, 1);
	assert_int_equal(try_open(&inst, &err), -ENODEV);
	if (!strstr(err.text, says))
		fail_msg("'%s' does not say '%s'", err.text, says);
	assert_null(strchr(err.text, '\n'));
	unsetenv(variable);
	nothing_left();
}

static void test_no_gpu(void **state)
{
	refused("FAKE_CUDA_DEVICES", "0", "finds no GPU");
	refused("FAKE_CUDA_FAIL", "cuInit=34", "is the toolkit's stub");
	refused("FAKE_CUDA_FAIL", "cuInit=35", "update it");
	refused("FAKE_CUDA_FAIL", "cuInit=100", "finds no GPU");
	refused("FAKE_CUDA_FAIL", "cuInit=999", "cuInit answers an unknown error (999)");
	refused("FAKE_CUDA_FAIL", "cuDeviceGetCount=3", "cuDeviceGetCount answers");
	refused("FAKE_CUDA_FAIL", "cuDeviceGet=101", "cuDeviceGet of GPU 0");
}

/* Without the library: in a process of its own, for one that was found stays. */
static void test_no_driver(void **state)
{
	int status = -1;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid) {
		setenv("LD_LIBRARY_PATH", "/nonexistent", 1);
		execl(self, self, path, "--no-driver", (char *)NULL);
		_exit(127);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static int no_driver(void)
{
	struct mc_error err = {0};
	void *inst;

	if (dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL)) /* a host with a GPU: nothing to see */
		return 0;
	return try_open(&inst, &err) != -ENODEV || !strstr(err.text, "no CUDA driver (") ||
	       !strstr(err.text, "install the NVIDIA driver");
}

/* Each call of the driver fails, always or once: an error or none, but no crash, no hang, nothing left
 * that could be given back, and the instance lives on. */
static void live_with(const char *fault, bool once)
{
	struct mc_mem_desc d = {.size = sizeof d, .len = MIB, .kind = "cuda", .dmabuf_fd = -1}, got = d;
	unsigned char *out = calloc(1, MIB);
	struct mc_error err = {0};
	uintptr_t now = 0;
	uint64_t len;
	void *inst;

	setenv("FAKE_CUDA_FAIL", fault, 1);
	if (try_open(&inst, &err) == 0) {
		int r = ops->alloc(inst, &d, &err);

		if (r < 0 && once)
			r = ops->alloc(inst, &d, &err);
		if (r == 0) {
			ops->identify(inst, d.addr, MIB, &got);
			ops->extent(inst, &d, &len);
			for (int i = 0; i < 3; i++) {
				r = copy(inst, d.addr, out, MIB / 2, 0, i & 1);
				assert_true(r <= 0);
				if (once && i == 2)
					assert_int_equal(r, 0);
				/* A failed wait leaves its copy under way: it has bytes of its own. */
				assert_true(copy(inst, (char *)d.addr + MIB / 2, out + MIB / 2, 64, 0, i & 1) <= 0);
			}
			if (ops->export_dmabuf(inst, &d, &err) == 0)
				close(d.dmabuf_fd);
			if (ops->pin(inst, out, MIB) == 0)
				ops->unpin(inst, out);
			ops->flush(inst, &d);
			ops->free(inst, &d);
		}
		ops->close(inst);
		free(inst);
	} else {
		assert_true(err.text[0]);
	}
	unsetenv("FAKE_CUDA_FAIL");
	/* What the test itself asked the driver to refuse to take back is no matter. */
	if (once && !strstr(fault, "Free") && !strstr(fault, "Destroy") && !strstr(fault, "Release") &&
	    !strstr(fault, "Unregister") && !strstr(fault, "PopCurrent") && !strstr(fault, "PushCurrent"))
		nothing_left();
	while (current(&now) == OK && now)
		pop(&now);
	free(out);
}

static void test_faults(void **state)
{
	static const char *const calls[] = {
		"cuDeviceGet", "cuDeviceGetPCIBusId", "cuDeviceGetAttribute", "cuDevicePrimaryCtxRetain",
		"cuCtxPushCurrent_v2", "cuMemAlloc_v2", "cuMemGetAddressRange_v2", "cuPointerGetAttributes",
		"cuPointerSetAttribute", "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuMemHostRegister_v2",
		"cuMemHostUnregister", "cuStreamCreate", "cuStreamSynchronize", "cuEventCreate", "cuEventRecord",
		"cuEventSynchronize", "cuThreadExchangeStreamCaptureMode", "cuFlushGPUDirectRDMAWrites", "cuMemGetHandleForAddressRange",
		/* These leave things behind. */
		"cuMemFree_v2", "cuStreamDestroy_v2", "cuEventDestroy_v2", "cuDevicePrimaryCtxRelease_v2",
		"cuCtxPopCurrent_v2",
	};

	setenv("FAKE_CUDA_ORDERING", "0", 1);
	for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
		pid_t pid = fork();
		int status = -1;

		assert_true(pid >= 0);
		if (!pid) {
			char fault[80];

			for (int nth = 1; nth <= 3; nth++) {
				snprintf(fault, sizeof fault, "%s@%d=719", calls[i], nth);
				live_with(fault, true);
			}
			snprintf(fault, sizeof fault, "%s=719", calls[i]);
			live_with(fault, false);
			_exit(0);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (status)
			fail_msg("%s: status 0x%x", calls[i], (unsigned)status);
	}
	unsetenv("FAKE_CUDA_ORDERING");
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_faults), /* forks: before there is a thread */
		cmocka_unit_test(test_copies), cmocka_unit_test(test_queue), cmocka_unit_test(test_identify),
		cmocka_unit_test(test_handles), cmocka_unit_test(test_dmabuf), cmocka_unit_test(test_flush),
		cmocka_unit_test(test_pin), cmocka_unit_test(test_context), cmocka_unit_test(test_capture), cmocka_unit_test(test_sentences),
		cmocka_unit_test(test_no_gpu), cmocka_unit_test(test_no_driver),
	};
	struct mc_error err = {0};

	if (argc < 2)
		return 2;
	self = argv[0];
	path = argv[1];
	if (fake_plugin_load(path, MC_KIND_MEMORY, &plugin, &err) < 0) {
		fprintf(stderr, "%s\n", err.text);
		return 1;
	}
	if (argc == 3)
		return no_driver();
	driver_find();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
