/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that a wire does not reach: whole engines over `keys`, told to reach host
 * memory only, and over tcp, with buffers of the kind `fake`, which faults when
 * the CPU touches it.  The test looks at such a buffer by lifting the protection.
 *
 *   staging CASE                     both engines in this process
 *   staging --serve NAME DIR KIND    an engine with one buffer, until its input ends
 */
#include <mooncake/mooncake.h>

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define T (20 * MC_SEC)
#define LEN (8u << 20)
#define PAGE 4096u
#define MAX_SETTINGS 8

static int failures;
static char dir[64] = "/tmp/mc-staging-XXXXXX";
static const char *self;

#define CHECK(cond, ...)                                                                           \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			failures++;                                                                \
			printf("FAIL %s:%d: %s: ", __FILE__, __LINE__, #cond);                     \
			printf(__VA_ARGS__);                                                       \
			printf("\n");                                                              \
		}                                                                                  \
	} while (0)

/* For what the rest of a case needs. */
#define NEED(cond, ...)                                                                            \
	do {                                                                                       \
		bool met = (cond);                                                                 \
                                                                                                   \
		CHECK(met && #cond, __VA_ARGS__);                                                  \
		if (!met)                                                                          \
			exit(1);                                                                   \
	} while (0)

/* ---- engines --------------------------------------------------------------------------------- */

struct end {
	struct mc_engine *engine;
	const char *kind;
	unsigned char *mem; /* LEN bytes */
};

/* Settings: key, value, ..., NULL. */
static void end_open(struct end *end, const char *name, const char *kind, const char *const *settings)
{
	struct mc_config *c = NULL;
	struct mc_error err = {0};
	char url[80];
	void *mem = NULL;

	snprintf(url, sizeof url, "file://%s", dir);
	if (mc_config_new(&c, &err) < 0 || mc_config_set(c, "metadata_server", url, &err) < 0 ||
	    mc_config_set(c, "local_server_name", name, &err) < 0 ||
	    mc_config_set(c, "port", "0", &err) < 0 ||
	    mc_config_set(c, "transports.keys.kinds", "cpu", &err) < 0 ||
	    mc_config_set(c, "advertise_address", "127.0.0.1", &err) < 0)
		NEED(false, "config: %s", err.text);
	for (; settings[0]; settings += 2)
		NEED(mc_config_set(c, settings[0], settings[1], &err) == 0, "%s", err.text);
	NEED(mc_engine_open(c, T, &end->engine, &err) == 0, "%s: %s", name, err.text);
	mc_config_free(c);
	NEED(mc_memory_alloc(end->engine, !strcmp(kind, "fake") ? "fake:0" : "cpu:0", LEN, MC_ACCESS_ALL, T,
			     &mem, &err) == 0, "%s: %s", name, err.text);
	end->mem = mem;
	end->kind = kind;
}

static void end_close(struct end *end)
{
	CHECK(mc_engine_close(end->engine, T) == 0, "close");
}

/* Let the test touch the buffer, or nobody again. */
static void lift(const struct end *end, bool lifted)
{
	if (!strcmp(end->kind, "fake") && mprotect(end->mem, LEN, lifted ? PROT_READ | PROT_WRITE : PROT_NONE) < 0)
		NEED(false, "mprotect: %s", strerror(errno));
}

static unsigned char byte_at(uint64_t seed, size_t i)
{
	uint64_t x = (seed + i) * UINT64_C(0x9e3779b97f4a7c15);

	return (unsigned char)(x >> 56);
}

static void fill(const struct end *end, uint64_t seed)
{
	lift(end, true);
	for (size_t i = 0; i < LEN; i++)
		end->mem[i] = byte_at(seed, i);
	lift(end, false);
}

/* [at, at + len) is what from had at src, everything else what seed drew. */
static void expect(const struct end *end, uint64_t seed, size_t at, size_t len, uint64_t from, size_t src)
{
	size_t bad = 0, first = 0;

	lift(end, true);
	for (size_t i = 0; i < LEN; i++) {
		bool inside = i >= at && i < at + len;

		if (end->mem[i] != (inside ? byte_at(from, src + i - at) : byte_at(seed, i)) && !bad++)
			first = i;
	}
	lift(end, false);
	CHECK(!bad, "%s: %zu bytes are wrong, the first at %zu, of [%zu, +%zu)", end->kind, bad, first, at, len);
}

static struct mc_segment *segment(const struct end *from, const char *name)
{
	struct mc_segment *s = NULL;
	struct mc_error err = {0};

	NEED(mc_segment_open(from->engine, name, T, &s, &err) == 0, "%s", err.text);
	return s;
}

static struct mc_request request(const struct end *a, struct mc_segment *s, const unsigned char *remote,
				 uint32_t opcode, size_t at, size_t offset, size_t len)
{
	return (struct mc_request){.opcode = opcode, .local = a->mem + at, .segment = s,
				   .offset = (uintptr_t)remote + offset, .len = len};
}

static struct mc_batch *submit(const struct end *a, const struct mc_request *reqs, size_t nr)
{
	struct mc_batch *b = NULL;

	NEED(mc_batch_new(a->engine, nr, &b) == 0, "batch");
	NEED(mc_batch_submit(b, reqs, nr, NULL) == 0, "submit");
	return b;
}

static int status_of(struct mc_batch *b, size_t idx)
{
	struct mc_request_status st = {.size = sizeof st};

	CHECK(mc_batch_status(b, idx, &st) == 0, "status");
	return st.state == MC_REQUEST_DONE ? 0 : st.state == MC_REQUEST_FAILED ? st.status : -EINPROGRESS;
}

static void run(const struct end *a, const struct mc_request *reqs, size_t nr)
{
	struct mc_batch *b = submit(a, reqs, nr);

	CHECK(mc_batch_wait(b, T) == 0, "wait: %zu of %zu", mc_batch_poll(b), nr);
	CHECK(mc_batch_failed(b) == 0, "%zu failed, the first with %d", mc_batch_failed(b), status_of(b, 0));
	mc_batch_free(b);
}

/* ---- sizes, kinds, directions ------------------------------------------------------------------- */

static void move(const struct end *a, const struct end *b, struct mc_segment *s, size_t len)
{
	size_t at = 3 * PAGE + 1, offset = 5 * PAGE + 7;
	struct mc_request w = request(a, s, b->mem, MC_OP_WRITE, at, offset, len);
	struct mc_request r = request(a, s, b->mem, MC_OP_READ, at, offset, len);

	fill(a, 1);
	fill(b, 2);
	run(a, &w, 1);
	expect(b, 2, offset, len, 1, at);
	expect(a, 1, 0, 0, 0, 0);
	fill(b, 3);
	run(a, &r, 1);
	expect(a, 1, at, len, 3, offset);
	expect(b, 3, 0, 0, 0, 0);
}

/* Many requests of odd sizes at once, to and fro, so that chunks run out. */
static void many(const struct end *a, const struct end *b, struct mc_segment *s, uint32_t opcode)
{
	enum { NR = 60 };
	struct mc_request reqs[NR];
	const struct end *src = opcode == MC_OP_WRITE ? a : b, *dst = opcode == MC_OP_WRITE ? b : a;
	size_t at[NR + 1], bad = 0;

	for (size_t i = 0, pos = 0; i < NR; i++) {
		size_t len = 1 + (i * 7919) % (2 * (LEN / 2 / NR) - 1);

		at[i] = pos;
		reqs[i] = request(a, s, b->mem, opcode, pos, pos, len);
		pos += len + 17;
		NEED(pos < LEN, "too much");
	}
	fill(src, 4);
	fill(dst, 5);
	run(a, reqs, NR);
	lift(dst, true);
	for (size_t i = 0, k = 0; i < LEN; i++) {
		while (k < NR && i >= at[k] + reqs[k].len)
			k++;
		if (dst->mem[i] != byte_at(k < NR && i >= at[k] ? 4 : 5, i))
			bad++;
	}
	lift(dst, false);
	CHECK(!bad, "%zu bytes are wrong", bad);
}

static void all_ways(const char *ka, const char *kb, const char *const *settings)
{
	static const size_t sizes[] = {1, 63, PAGE - 1, PAGE, PAGE + 1, 100001, (3u << 20) + 5};
	struct end a, b;
	struct mc_segment *s;

	end_open(&b, "target", kb, settings);
	end_open(&a, "initiator", ka, settings);
	s = segment(&a, "target");
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
		move(&a, &b, s, sizes[i]);
	many(&a, &b, s, MC_OP_WRITE);
	many(&a, &b, s, MC_OP_READ);
	mc_segment_close(s);
	end_close(&a);
	end_close(&b);
}

/* ---- refusals, cancels, both directions ---------------------------------------------------------- */

/* A buffer without the right: typed, and the rail goes on. */
static void rights(const char *const *settings)
{
	struct end a, b;
	struct mc_segment *s;
	struct mc_request w, r;
	struct mc_error err = {0};
	struct mc_batch *batch;
	void *mem = NULL;

	end_open(&b, "target", "fake", settings);
	NEED(mc_memory_alloc(b.engine, "fake:1", LEN, MC_ACCESS_REMOTE_READ, T, &mem, &err) == 0, "%s", err.text);
	end_open(&a, "initiator", "cpu", settings);
	s = segment(&a, "target");
	w = request(&a, s, mem, MC_OP_WRITE, 0, 0, PAGE);
	r = request(&a, s, mem, MC_OP_READ, 0, 0, PAGE);
	batch = submit(&a, &w, 1);
	CHECK(mc_batch_wait(batch, T) == 0 && status_of(batch, 0) == -EACCES, "%d", status_of(batch, 0));
	mc_batch_free(batch);
	run(&a, &r, 1);
	mc_segment_close(s);
	end_close(&a);
	end_close(&b);
}

/* Cancel in the middle: every request ends, and what comes after works and is not disturbed. */
static void cancel(const char *const *settings)
{
	enum { NR = 8 };
	struct end a, b;
	struct mc_segment *s;
	struct mc_request reqs[NR];

	end_open(&b, "target", "fake", settings);
	end_open(&a, "initiator", "fake", settings);
	s = segment(&a, "target");
	for (size_t i = 0; i < NR; i++)
		reqs[i] = request(&a, s, b.mem, i % 2 ? MC_OP_READ : MC_OP_WRITE, i << 20, i << 20, 1u << 20);
	run(&a, reqs, NR);
	for (int round = 0; round < 10; round++) {
		struct mc_batch *batch = submit(&a, reqs, NR);
		struct timespec pause = {.tv_nsec = round * 1000000};

		nanosleep(&pause, NULL);
		mc_batch_cancel(batch);
		CHECK(mc_batch_wait(batch, T) == 0, "wait");
		for (size_t i = 0; i < NR; i++)
			CHECK(status_of(batch, i) == 0 || status_of(batch, i) == -ECANCELED, "%d",
			      status_of(batch, i));
		mc_batch_free(batch);
		/* Nothing of the old requests comes behind their end. */
		fill(&a, 10 + (uint64_t)round);
		fill(&b, 30 + (uint64_t)round);
		nanosleep(&(struct timespec){.tv_nsec = 3000000}, NULL);
		expect(&a, 10 + (uint64_t)round, 0, 0, 0, 0);
		expect(&b, 30 + (uint64_t)round, 0, 0, 0, 0);
	}
	move(&a, &b, s, (3u << 20) + 5);
	mc_segment_close(s);
	end_close(&a);
	end_close(&b);
}

/* Two engines that stage to each other at the same time, with the least of pools. */
static void crossing(const char *const *settings)
{
	enum { NR = 8 };
	struct end a, b;
	struct mc_segment *to_b, *to_a;
	struct mc_request x[NR], y[NR];
	struct mc_batch *bx, *by;

	end_open(&b, "target", "fake", settings);
	end_open(&a, "initiator", "fake", settings);
	to_b = segment(&a, "target");
	to_a = segment(&b, "initiator");
	for (size_t i = 0; i < NR; i++) {
		x[i] = request(&a, to_b, b.mem, MC_OP_WRITE, i << 18, i << 18, 1u << 18);
		y[i] = request(&b, to_a, a.mem, MC_OP_WRITE, LEN / 2 + (i << 18), LEN / 2 + (i << 18), 1u << 18);
	}
	fill(&a, 6);
	fill(&b, 7);
	bx = submit(&a, x, NR);
	by = submit(&b, y, NR);
	CHECK(mc_batch_wait(bx, T) == 0 && mc_batch_failed(bx) == 0, "%d", status_of(bx, 0));
	CHECK(mc_batch_wait(by, T) == 0 && mc_batch_failed(by) == 0, "%d", status_of(by, 0));
	mc_batch_free(bx);
	mc_batch_free(by);
	expect(&b, 7, 0, NR << 18, 6, 0);
	expect(&a, 6, LEN / 2, NR << 18, 7, LEN / 2);
	mc_segment_close(to_a);
	mc_segment_close(to_b);
	end_close(&a);
	end_close(&b);
}

/* ---- a slice fails: the piece is fenced and tried again -------------------------------------------- */

static void retry(const char *const *settings)
{
	struct end a, b;
	struct mc_segment *s;
	const char *with[MAX_SETTINGS * 2 + 3];
	size_t n = 0;

	while (settings[n]) {
		with[n] = settings[n];
		n++;
	}
	with[n] = "transports.keys.fail_nth";
	with[n + 1] = "3";
	with[n + 2] = NULL;
	end_open(&b, "target", "fake", settings);
	end_open(&a, "initiator", "fake", with);
	s = segment(&a, "target");
	move(&a, &b, s, (3u << 20) + 5);
	move(&a, &b, s, 1);
	mc_segment_close(s);
	end_close(&a);
	end_close(&b);
}

/* ---- two processes ------------------------------------------------------------------------------------ */

static int serve(const char *name, const char *kind)
{
	static const char *const settings[] = {"nic_priority_matrix", "{\"*\": [[\"keys:keys0\"]]}", NULL};
	struct end end;
	char c;

	end_open(&end, name, kind, settings);
	fill(&end, 8);
	printf("%llu\n", (unsigned long long)(uintptr_t)end.mem);
	fflush(stdout);
	while (read(0, &c, 1) > 0)
		;
	end_close(&end);
	return failures != 0;
}

struct child {
	pid_t pid;
	int in;
	unsigned char *mem;
};

static void child_start(struct child *child, const char *name, const char *kind)
{
	int in[2], out[2];
	FILE *f;
	unsigned long long mem = 0;

	NEED(pipe(in) == 0 && pipe(out) == 0, "pipe");
	child->pid = fork();
	NEED(child->pid >= 0, "fork");
	if (child->pid == 0) {
		dup2(in[0], 0);
		dup2(out[1], 1);
		close(in[1]);
		close(out[0]);
		execl(self, self, "--serve", name, dir, kind, (char *)NULL);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	child->in = in[1];
	f = fdopen(out[0], "r");
	NEED(f && fscanf(f, "%llu", &mem) == 1, "the target did not start");
	fclose(f);
	child->mem = (unsigned char *)(uintptr_t)mem;
}

static void apart(const char *const *settings)
{
	struct child child;
	struct end a;
	struct mc_segment *s;
	struct mc_request w, r;
	int status = -1;

	child_start(&child, "target", "fake");
	end_open(&a, "initiator", "fake", settings);
	s = segment(&a, "target");
	fill(&a, 9);
	w = request(&a, s, child.mem, MC_OP_WRITE, 0, PAGE, 3u << 20);
	r = request(&a, s, child.mem, MC_OP_READ, 4u << 20, 0, 4u << 20);
	run(&a, &w, 1);
	run(&a, &r, 1);
	lift(&a, true);
	for (size_t i = 0; i < 4u << 20; i++) {
		bool written = i >= PAGE && i < PAGE + (3u << 20);

		NEED(a.mem[(4u << 20) + i] == (written ? byte_at(9, i - PAGE) : byte_at(8, i)), "byte %zu", i);
	}
	lift(&a, false);
	mc_segment_close(s);
	end_close(&a);
	close(child.in);
	CHECK(waitpid(child.pid, &status, 0) == child.pid && status == 0, "the target ended with %d", status);
}

static void killed(const char *const *settings)
{
	enum { NR = 16 };
	struct child child;
	struct end a;
	struct mc_segment *s;
	struct mc_request reqs[NR];
	struct mc_batch *batch;
	uint64_t gone = 0;

	child_start(&child, "target", "fake");
	end_open(&a, "initiator", "fake", settings);
	s = segment(&a, "target");
	for (size_t i = 0; i < NR; i++)
		reqs[i] = request(&a, s, child.mem, i % 2 ? MC_OP_READ : MC_OP_WRITE, i << 18, i << 18, 1u << 18);
	run(&a, reqs, NR);
	/* Only one of its threads takes the signal, and stops the others when it runs. */
	kill(child.pid, SIGSTOP);
	waitpid(child.pid, NULL, WUNTRACED);
	batch = submit(&a, reqs, NR);
	nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
	kill(child.pid, SIGKILL);
	waitpid(child.pid, NULL, 0);
	CHECK(mc_batch_wait(batch, T) == 0, "wait: %zu of %d", mc_batch_poll(batch), NR);
	for (size_t i = 0; i < NR; i++) {
		int r = status_of(batch, i);

		gone += r == -EHOSTDOWN;
		CHECK(r == 0 || r == -EHOSTDOWN || r == -ECONNRESET, "%d", r);
	}
	CHECK(gone, "%zu failed, but nobody was told that the peer is gone", mc_batch_failed(batch));
	mc_batch_free(batch);
	fill(&a, 11);
	nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
	expect(&a, 11, 0, 0, 0, 0);
	mc_segment_close(s);
	end_close(&a);
	close(child.in);
}

/* ---- cases ---------------------------------------------------------------------------------------------- */

#define KEYS "nic_priority_matrix", "{\"*\": [[\"keys:keys0\"]]}"
#define TCP "nic_priority_matrix", "{\"*\": [[\"tcp:lo\"]]}"
#define SLOW "transports.keys.latency", "2ms"
#define TIGHT "staging_pool", "256KiB", "staging_chunk", "64KiB"
#define LEAST "staging_pool", "1KiB", "staging_chunk", "1MiB"

struct test {
	const char *name;
	void (*run)(const char *const *settings);
	const char *ka, *kb; /* run NULL: all_ways */
	const char *settings[MAX_SETTINGS * 2 + 1];
};

static const struct test tests[] = {
	{"keys-fake-cpu", NULL, "fake", "cpu", {KEYS}},
	{"keys-cpu-fake", NULL, "cpu", "fake", {KEYS}},
	{"keys-fake-fake", NULL, "fake", "fake", {KEYS}},
	{"tcp-fake-cpu", NULL, "fake", "cpu", {TCP}},
	{"tcp-cpu-fake", NULL, "cpu", "fake", {TCP}},
	{"tcp-fake-fake", NULL, "fake", "fake", {TCP}},
	{"keys-tight", NULL, "fake", "fake", {KEYS, TIGHT}},
	{"tcp-tight", NULL, "fake", "fake", {TCP, TIGHT}},
	{"keys-busy", NULL, "fake", "fake", {KEYS, "memory.fake.depth", "1", "transports.keys.depth", "1"}},
	{"keys-lanes", NULL, "fake", "fake", {KEYS, "transports.keys.lanes", "2"}},
	{"keys-own-thread", NULL, "fake", "fake", {KEYS, "transports.keys.own_thread", "true"}},
	{"keys-sync", NULL, "fake", "fake", {KEYS, "memory.fake.sync_below", "1GiB"}},
	{"keys-no-flush", NULL, "fake", "fake", {KEYS, "transports.keys.delay_writes", "false"}},
	{"rights", rights, NULL, NULL, {KEYS}},
	{"cancel", cancel, NULL, NULL, {KEYS, SLOW}},
	{"cancel-tcp", cancel, NULL, NULL, {TCP}},
	{"crossing", crossing, NULL, NULL, {KEYS, LEAST}},
	{"retry", retry, NULL, NULL, {KEYS}},
	{"apart", apart, NULL, NULL, {KEYS}},
	{"killed", killed, NULL, NULL, {KEYS, SLOW, "peer_timeout", "2"}},
};

static int run_test(const char *name)
{
	char cmd[128];

	for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
		const struct test *t = &tests[i];

		if (strcmp(t->name, name))
			continue;
		NEED(mkdtemp(dir), "mkdtemp");
		if (t->run)
			t->run(t->settings);
		else
			all_ways(t->ka, t->kb, t->settings);
		snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
		if (system(cmd))
			printf("%s is left\n", dir);
		return failures != 0;
	}
	fprintf(stderr, "no such case: %s\n", name);
	return 2;
}

int main(int argc, char **argv)
{
	self = argv[0];
	signal(SIGPIPE, SIG_IGN);
	if (argc == 5 && !strcmp(argv[1], "--serve")) {
		snprintf(dir, sizeof dir, "%s", argv[3]);
		return serve(argv[2], argv[4]);
	}
	if (argc != 2) {
		fprintf(stderr, "usage: %s CASE\n", argv[0]);
		return 2;
	}
	return run_test(argv[1]);
}
