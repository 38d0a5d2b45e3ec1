/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two engines in one process on file metadata: names, ports, records, memory,
 * error sentences; then opening and closing many times, counting what is left.
 * Seen from outside: the public header only.
 *
 *   engine [--rounds=N]
 */
#include "engines.h"

#include "cli/check/census.h"

#include <malloc.h>
#include <sys/wait.h>

/* Open must fail, with this errno and these words. */
static void refused(const char *name, const char *matrix, int want, const char *words)
{
	struct mc_config *c = config_new(name, matrix);
	struct mc_engine *e = NULL;
	struct mc_error err = {0};
	int r = mc_engine_open(c, T, &e, &err);

	CHECK(r == want, "%s: %d %s", matrix, r, err.text);
	CHECK(strstr(err.text, words), "'%s' is not in '%s'", words, err.text);
	CHECK(!e, "%s", matrix);
	mc_config_free(c);
	if (e)
		mc_engine_close(e, T);
}

static int seen(void *ctx, const char *name)
{
	strcat(strcat(ctx, " "), name);
	return 0;
}

static void test_names(const char *matrix)
{
	struct mc_engine *a = engine_new("left", matrix), *b = engine_new("right:0", matrix);
	struct mc_error err = {0};
	struct mc_segment *s = NULL;
	char names[600] = "";
	int n, r;

	CHECK(!strcmp(mc_engine_name(a), "left"), "%s", mc_engine_name(a));
	CHECK(!strcmp(mc_engine_name(b), "right:0"), "%s", mc_engine_name(b));
	CHECK(mc_engine_port(a) && mc_engine_port(b) && mc_engine_port(a) != mc_engine_port(b), "ports");
	CHECK(mc_engine_generation(a) != mc_engine_generation(b), "generations");
	CHECK(strstr(mc_engine_matrix(a), "*"), "%s", mc_engine_matrix(a));
	n = mc_segment_list(a, T, seen, names, &err);
	CHECK(n == 2, "%d %s", n, err.text);
	CHECK(strstr(names, " left") && strstr(names, " right:0"), "%s", names);
	refused("left", matrix, -EEXIST, "left");
	r = mc_segment_open(a, "rihgt:0", T, &s, &err);
	CHECK(r == -ENOENT && strstr(err.text, "right:0"), "%d %s", r, err.text);
	CHECK(mc_segment_open(a, "no/such", T, &s, &err) == -EINVAL, "%s", err.text);
	r = mc_engine_close(a, T);
	CHECK(r == 0, "%d", r);
	/* The name is free again. */
	a = engine_new("left", matrix);
	CHECK(mc_engine_close(b, T) == 0, "close");
	CHECK(mc_engine_close(a, T) == 0, "close");
	CHECK(mc_engine_close(NULL, T) == 0, "close");
}

static void test_segment(const char *matrix)
{
	struct mc_engine *a = engine_new("left", matrix), *b = engine_new("right", matrix);
	struct mc_buffer_info info = {.size = sizeof info};
	struct mc_error err = {0};
	struct mc_segment *s = NULL;
	void *mem = NULL;
	int r;

	r = mc_memory_alloc(b, "cpu:0", 1 << 20, MC_ACCESS_ALL, T, &mem, &err);
	CHECK(r == 0, "%s", err.text);
	r = mc_segment_open(a, "right", T, &s, &err);
	CHECK(r == 0, "%d %s", r, err.text);
	if (r == 0) {
		CHECK(mc_segment_generation(s) == mc_engine_generation(b), "generation");
		CHECK(mc_segment_nr_buffers(s) == 1, "%zu buffers", mc_segment_nr_buffers(s));
		r = mc_segment_buffer(s, 0, &info);
		CHECK(r == 0 && info.offset == (uintptr_t)mem && info.len == 1 << 20, "%d", r);
		CHECK(!strcmp(info.location, "cpu:0"), "%s", info.location);
		CHECK(mc_segment_buffer(s, 1, &info) == -ERANGE, "index");
	}
	r = mc_memory_free(b, mem, T, &err);
	CHECK(r == 0, "%s", err.text);
	mc_segment_close(s);
	mc_segment_close(NULL);
	CHECK(mc_engine_close(a, T) == 0, "close");
	CHECK(mc_engine_close(b, T) == 0, "close");
}

/* Bytes there and back. */
static void test_transfer(const char *matrix)
{
	struct mc_engine *a = engine_new("left", matrix), *b = engine_new("right", matrix);
	struct mc_error err = {0};
	struct mc_segment *s = NULL;
	struct mc_batch *batch = NULL;
	unsigned char *here = NULL, *there = NULL;
	size_t len = 1 << 20;
	int r = mc_memory_alloc(b, "cpu:0", len, MC_ACCESS_ALL, T, (void **)&there, &err);

	r = r ? r : mc_memory_alloc(a, "cpu:0", len, MC_ACCESS_LOCAL, T, (void **)&here, &err);
	r = r ? r : mc_segment_open(a, "right", T, &s, &err);
	CHECK(r == 0, "%d %s", r, err.text);
	if (r == 0 && mc_batch_new(a, 4, &batch) == 0) {
		struct mc_request w = {.opcode = MC_OP_WRITE, .local = here, .segment = s,
				       .offset = (uintptr_t)there, .len = len};
		struct mc_request_status st = {.size = sizeof st};

		for (size_t i = 0; i < len; i++)
			here[i] = (unsigned char)(i * 7 + (i >> 8));
		r = mc_batch_submit(batch, &w, 1, NULL);
		CHECK(r == 0, "%d", r);
		r = mc_batch_wait(batch, T);
		mc_batch_status(batch, 0, &st);
		CHECK(r == 0 && st.status == 0, "wait %d, status %d", r, st.status);
		CHECK(!memcmp(here, there, len), "what was written");
		mc_batch_reset(batch);
		w.opcode = MC_OP_READ;
		memset(here, 0, len);
		r = mc_batch_submit(batch, &w, 1, NULL);
		r = mc_batch_wait(batch, T);
		mc_batch_status(batch, 0, &st);
		CHECK(r == 0 && st.status == 0, "wait %d, status %d", r, st.status);
		CHECK(!memcmp(here, there, len), "what was read");
	}
	mc_batch_free(batch);
	mc_segment_close(s);
	CHECK(mc_engine_close(a, T) == 0, "close");
	CHECK(mc_engine_close(b, T) == 0, "close");
}

static void test_memory(const char *matrix)
{
	struct mc_engine *a = engine_new("left", matrix);
	struct mc_error err = {0};
	char *mem = aligned_alloc(4096, 1 << 20);
	int r;

	memset(mem, 1, 1 << 20);
	CHECK(mc_memory_register(a, mem, 1 << 20, "*", MC_ACCESS_ALL, T, &err) == 0, "%s", err.text);
	CHECK(mc_memory_register(a, mem, 1 << 20, "*", MC_ACCESS_ALL, T, &err) == 0, "%s", err.text);
	CHECK(mc_memory_register(a, mem + 4096, 4096, "*", MC_ACCESS_ALL, T, &err) == 0, "%s", err.text);
	r = mc_memory_register(a, mem + 4096, 1 << 20, "*", MC_ACCESS_ALL, T, &err);
	CHECK(r == -EEXIST && strstr(err.text, "in part"), "%d %s", r, err.text);
	r = mc_memory_register(a, mem, 4096, "*", MC_ACCESS_LOCAL, T, &err);
	CHECK(r == -EEXIST && strstr(err.text, "rights"), "%d %s", r, err.text);
	CHECK(mc_memory_register(a, mem, 0, "*", 0, T, &err) == -EINVAL, "%s", err.text);
	CHECK(mc_memory_register(a, mem, UINT64_MAX, "*", 0, T, &err) == -EINVAL, "%s", err.text);
	CHECK(mc_memory_register(a, NULL, 4096, "*", 0, T, &err) == -EINVAL, "%s", err.text);
	CHECK(mc_memory_register(a, mem, 4096, NULL, 0, T, &err) == -EINVAL, "%s", err.text);
	CHECK(mc_memory_register(a, mem, 4096, "cpu:x", 0, T, &err) == -EINVAL, "%s", err.text);
	CHECK(mc_memory_register(a, mem, 4096, "*", 4, T, &err) == -EINVAL, "%s", err.text);
	CHECK(mc_memory_register(a, mem, 4096, "nosuch:0", 0, T, &err) < 0, "%s", err.text);
	CHECK(mc_memory_unregister(a, mem + 8192, T, &err) == -ENOENT, "%s", err.text);
	CHECK(mc_memory_unregister(a, mem, T, &err) == 0, "%s", err.text);
	CHECK(mc_memory_unregister(a, mem, T, &err) == 0, "%s", err.text);
	CHECK(mc_memory_unregister(a, mem, T, &err) == -ENOENT, "%s", err.text);
	CHECK(mc_memory_unregister(a, mem + 4096, T, &err) == 0, "%s", err.text);
	CHECK(mc_memory_register(a, mem, 1 << 20, "*", MC_ACCESS_ALL, T, &err) == 0, "%s", err.text);
	/* What is still registered ends with the engine. */
	CHECK(mc_engine_close(a, T) == 0, "close");
	free(mem);
}

static void test_refusals(void)
{
	refused("left", "{\"*\": [[\"nosuch:dev\"]]}", -ENODEV, "nosuch");
	refused("left", "{\"*\": [[\"tcp:nosuch0\"]]}", -ENODEV, "tcp:nosuch0");
	refused("left", "{\"*\": [[{\"device\": \"tcp:nosuch0\", \"require\": true}], [\"tcp:lo\"]]}",
		-ENXIO, "tcp:nosuch0");
	refused("left", "{\"*\": ", -EINVAL, "1:");
	refused("le/ft", "{\"*\": [[\"tcp:lo\"]]}", -EINVAL, "le/ft");
	/* A lower tier may be missing. */
	mc_engine_close(engine_new("left", "{\"*\": [[\"tcp:lo\"], [\"tcp:nosuch0\"]]}"), T);
}

static void test_fork(const char *matrix)
{
	struct mc_engine *a = engine_new("left", matrix);
	int status = 0;
	pid_t pid = fork();

	if (!pid) {
		struct mc_error err = {0};
		void *addr;

		_exit(mc_engine_close(a, T) == -EPERM && mc_notify_fd(a) == -EPERM &&
		      mc_memory_alloc(a, "*", 4096, 0, T, &addr, &err) == -EPERM && strstr(err.text, "fork")
			      ? 0 : 1);
	}
	waitpid(pid, &status, 0);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%x", status);
	CHECK(mc_engine_close(a, T) == 0, "close");
}

static void test_rounds(const char *matrix, int rounds)
{
	struct mallinfo2 before = {0}, after;
	unsigned fds = 0, threads = 0;

	for (int i = 0; i < rounds; i++) {
		struct mc_engine *a = engine_new("left", matrix);
		void *mem;

		CHECK(mc_memory_alloc(a, "*", 8192, MC_ACCESS_ALL, T, &mem, NULL) == 0, "alloc");
		CHECK(mc_engine_close(a, T) == 0, "close");
		if (i == rounds / 4) {
			before = mallinfo2();
			fds = census_fds();
			threads = census_threads();
		}
	}
	after = mallinfo2();
	CHECK(census_settles(census_fds, fds), "%u descriptors, then %u", fds, census_fds());
	CHECK(census_settles(census_threads, threads), "%u threads, then %u", threads, census_threads());
	CHECK(after.uordblks < before.uordblks + 64 * 1024, "%zu bytes, then %zu", before.uordblks,
	      after.uordblks);
}

int main(int argc, char **argv)
{
	static const char *const matrices[] = {"{\"*\": [[\"null:null0\"]]}", "{\"*\": [[\"tcp:lo\"]]}"};
	int rounds = 200;

	if (argc == 2 && !strncmp(argv[1], "--rounds=", 9))
		rounds = atoi(argv[1] + 9);
	else if (argc > 1)
		return 2;
	engines_begin();
	for (size_t i = 0; i < 2; i++) {
		printf("names %s\n", matrices[i]);
		test_names(matrices[i]);
		printf("segment\n");
		test_segment(matrices[i]);
		printf("memory\n");
		test_memory(matrices[i]);
		printf("fork\n");
		test_fork(matrices[i]);
		printf("%d rounds\n", rounds / 2);
		test_rounds(matrices[i], rounds / 2);
	}
	printf("transfer\n");
	test_transfer(matrices[1]);
	printf("refusals\n");
	test_refusals();
	return engines_end();
}
