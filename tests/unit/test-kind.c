/* SPDX-License-Identifier: Apache-2.0 */
/* Memory kinds: host pages, names, what an engine without memory plugins answers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/host.h"
#include "core/kind.h"
#include "core/pages.h"
#include "core/util/check.h"

static struct mc_engine engine;

static int setup(void **state)
{
	struct mc_error err;

	memset(&engine, 0, sizeof engine);
	assert_int_equal(mc_config_new(&engine.config, &err), 0);
	engine.set = mc_config_settings(engine.config);
	engine.registry = mc_config_registry(engine.config);
	assert_int_equal(mc_helpers_new(&engine.helpers), 0);
	assert_int_equal(mc_kinds_new(&engine), 0);
	return 0;
}

static int teardown(void **state)
{
	mc_kinds_free(&engine);
	mc_helpers_free(engine.helpers);
	mc_config_free(engine.config);
	return 0;
}

static void test_pages(void **state)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	unsigned char *p = mc_pages_alloc(3 * page + 1, -1);

	assert_non_null(p);
	assert_int_equal((uintptr_t)p % page, 0);
	for (size_t i = 0; i < 4 * page; i++)
		assert_int_equal(p[i], 0);
	memset(p, 1, 4 * page);
	mc_pages_free(p, 3 * page + 1);
	p = mc_pages_alloc(4u << 20, 0);
	assert_non_null(p);
	p[(4u << 20) - 1] = 1;
	mc_pages_free(p, 4u << 20);
	assert_null(mc_pages_alloc(0, -1));
	assert_null(mc_pages_alloc(UINT64_MAX, -1));
	assert_null(mc_pages_alloc(page, 1 << 20));
	assert_int_equal(errno, EINVAL);
	mc_pages_free(NULL, 0);
}

static unsigned nr_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned nr = 0;

	assert_non_null(dir);
	while (readdir(dir))
		nr++;
	closedir(dir);
	return nr;
}

/* What another process would map is the same memory, and cannot be cut short. */
static void assert_shared(char *p, size_t len, int fd)
{
	char *other = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	assert_ptr_not_equal(other, MAP_FAILED);
	assert_int_equal(other[len - 1], 0);
	p[0] = 'a';
	other[len - 1] = 'b';
	assert_int_equal(other[0], 'a');
	assert_int_equal(p[len - 1], 'b');
	assert_int_equal(ftruncate(fd, 0), -1);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	munmap(other, len);
}

static void test_shared(void **state)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	/* Of 4 MiB are huge pages, where the host has set some aside. */
	const size_t lens[] = {page, 3 * page, 4u << 20};
	unsigned before = nr_descriptors();
	struct rlimit limit, small;
	int fd;
	char *p;

	for (size_t i = 0; i < MC_ARRAY_SIZE(lens); i++) {
		p = mc_pages_share(lens[i], i ? 0 : -1, &fd);
		assert_non_null(p);
		assert_true(fd >= 0);
		assert_shared(p, lens[i], fd);
		mc_pages_free(p, lens[i]);
		close(fd);
	}
	assert_null(mc_pages_share(0, -1, &fd));
	assert_null(mc_pages_share(UINT64_MAX, -1, &fd));
	assert_null(mc_pages_share(page, 1 << 20, &fd));
	assert_int_equal(errno, EINVAL);
	/* Files may not be as large as this: no signal, but memory that nobody else can map. */
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
	small = limit;
	small.rlim_cur = page;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	p = mc_pages_share(2 * page, -1, &fd);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	assert_non_null(p);
	assert_int_equal(fd, -1);
	p[2 * page - 1] = 1;
	mc_pages_free(p, 2 * page);
	/* Nor takes memory the last descriptors. */
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	small = limit;
	small.rlim_cur = 6; /* 0, 1 and 2 are open */
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &small), 0);
	p = mc_pages_share(page, -1, &fd);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_non_null(p);
	assert_int_equal(fd, -1);
	mc_pages_free(p, page);
	assert_int_equal(nr_descriptors(), before);
}

static void test_names(void **state)
{
	char cpu[] = "cpu", odd[] = "odd";

	assert_ptr_equal(mc_kind_name(cpu), mc_kind_name("cpu"));
	assert_ptr_equal(mc_kind_name(odd), mc_kind_name("odd"));
	assert_ptr_not_equal(mc_kind_name(odd), odd);
	assert_ptr_not_equal(mc_kind_name("odd"), mc_kind_name("cpu"));
}

static void test_cpu(void **state)
{
	struct mc_mem_desc desc = {.size = sizeof desc};
	char a[8] = "abcdefg", b[8] = "";
	struct mc_copy c = {.size = sizeof c, .mem = a, .hostptr = b, .len = 8, .kind = "cpu", .to_host = 1};

	assert_int_equal(mc_kind_open(&engine, "cpu", NULL), 0);
	assert_int_equal(mc_kind_identify(&engine, a, sizeof a, &desc), 0);
	assert_string_equal(desc.kind, "cpu");
	assert_int_equal(desc.ordinal, -1);
	assert_int_equal(mc_kind_copy(&engine, NULL, &c), MC_DONE);
	assert_memory_equal(a, b, 8);
	memcpy(b, "12345678", 8);
	c.to_host = 0;
	assert_int_equal(mc_kind_copy(&engine, NULL, &c), MC_DONE);
	assert_memory_equal(a, "12345678", 8);
	mc_kinds_flush(&engine);
}

static void test_alloc(void **state)
{
	struct mc_mem_desc desc = {.size = sizeof desc, .kind = "cpu", .ordinal = 0, .len = 4096, .share_fd = -1};
	struct mc_error err = {0};

	assert_int_equal(mc_kind_alloc(&engine, &desc, true, &err), 0);
	memset(desc.addr, 7, 4096);
	assert_true(desc.share_fd >= 0);
	mc_kind_free(&engine, &desc);
	assert_int_equal(fcntl(desc.share_fd, F_GETFD), -1);
	desc.share_fd = -1;
	desc.ordinal = 100000;
	assert_int_equal(mc_kind_alloc(&engine, &desc, true, &err), -EINVAL);
	assert_non_null(strstr(err.text, "cpu:100000"));
	desc.kind = "nosuch";
	assert_int_equal(mc_kind_alloc(&engine, &desc, true, &err), -ENODEV);
}

static void test_unknown(void **state)
{
	struct mc_error err = {0};
	struct mc_copy c = {.size = sizeof c, .kind = "nosuch", .len = 1};

	assert_true(mc_kind_open(&engine, "nosuch", &err) < 0);
	assert_non_null(strstr(err.text, "nosuch"));
	assert_int_equal(mc_kind_copy(&engine, NULL, &c), -ENODEV);
	/* Refused once, and again: nothing is left half open. */
	assert_true(mc_kind_open(&engine, "nosuch", &err) < 0);
}

static int found;

static void work_run(struct mc_work *w)
{
	__atomic_or_fetch(&found, mc_on_helper() ? 1 : 0, __ATOMIC_RELAXED);
}

static void work_done(struct mc_work *w)
{
	__atomic_or_fetch(&found, 2, __ATOMIC_RELEASE);
}

static void test_plain_host(void **state)
{
	struct mc_plain_host plain;
	struct mc_work w = {.size = sizeof w, .run = work_run, .done = work_done};
	const struct mc_host *h = &plain.host;
	uint64_t a = 0, b = 0;

	mc_plain_host_init(&plain, &engine, "odd:dev0");
	assert_string_equal(h->instance, "odd:dev0");
	/* No slot is left out: each is a pointer that may be called. */
	for (const char *const *p = (const char *const *)(const void *)&h->log;
	     p < (const char *const *)(const void *)(h + 1); p++)
		assert_non_null(*p);
	h->random(h, &a, sizeof a);
	h->random(h, &b, sizeof b);
	assert_true(a != b);
	assert_true(h->now_ns(h) > 0);
	h->run_blocking(h, &w);
	while (!(__atomic_load_n(&found, __ATOMIC_ACQUIRE) & 2))
		usleep(100);
	assert_int_equal(found, 3);
	/* Also lazily, by a host that does not know what that is, too. */
	for (int i = 0; i < 2; i++) {
		found = 0;
		mc_run_lazily(h, &w);
		while (!(__atomic_load_n(&found, __ATOMIC_ACQUIRE) & 2))
			usleep(100);
		assert_int_equal(found, 3);
		plain.host.size = offsetof(struct mc_host, run_lazily);
		plain.host.run_lazily = NULL;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pages),
		cmocka_unit_test(test_shared),
		cmocka_unit_test(test_names),
		cmocka_unit_test_setup_teardown(test_cpu, setup, teardown),
		cmocka_unit_test_setup_teardown(test_alloc, setup, teardown),
		cmocka_unit_test_setup_teardown(test_unknown, setup, teardown),
		cmocka_unit_test_setup_teardown(test_plain_host, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
