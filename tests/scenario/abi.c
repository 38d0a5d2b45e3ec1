/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plugin ABI seen from outside: whole engines over the test transports `keys`
 * and `altkeys` (keys per device, fences at both ends, flushes, memory that the
 * device owns), the memory kind `fake` and the filter `count`.  Bytes go both
 * ways and are compared; what the plugins count says that they were asked.
 *
 *   abi CASE                     both engines in this process
 *   abi CASE --apart             the second one in a process of its own
 *   abi --serve NAME [KEY=VALUE] that process: serves until its input ends
 *
 * ABI_VERBOSE=1 shows all that is logged, not warnings and errors alone.
 */
#include <mooncake/mooncake.h>

#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define T (20 * MC_SEC)
#define LEN (4u << 20)
#define MAX_SETTINGS 16

static int failures;
static char dir[] = "/tmp/mc-abi-XXXXXX";
static const char *self;
static bool apart;

static bool check(bool ok, const char *file, int line, const char *cond)
{
	if (!ok) {
		failures++;
		printf("FAIL %s:%d: %s: ", file, line, cond);
	}
	return ok;
}

#define CHECK(cond, ...)                                                                           \
	do {                                                                                       \
		if (!check(cond, __FILE__, __LINE__, #cond)) {                                     \
			printf(__VA_ARGS__);                                                       \
			printf("\n");                                                              \
		}                                                                                  \
	} while (0)

/* For what the rest of a case needs. */
#define NEED(cond, ...)                                                                            \
	do {                                                                                       \
		if (!check(cond, __FILE__, __LINE__, #cond)) {                                     \
			printf(__VA_ARGS__);                                                       \
			printf("\n");                                                              \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

/* ---- what was logged ------------------------------------------------------------------------- */

static char logged[1 << 16];
static size_t logged_len; /* both under log_lock: any thread logs */
static volatile char log_lock;

static void on_log(void *arg, enum mc_log_level level, const char *line)
{
	size_t len = strlen(line);

	while (__atomic_test_and_set(&log_lock, __ATOMIC_ACQUIRE))
		;
	if (level <= MC_LOG_INFO && logged_len + len + 2 < sizeof logged) {
		memcpy(logged + logged_len, line, len);
		logged_len += len;
		logged[logged_len++] = '\n';
	}
	__atomic_clear(&log_lock, __ATOMIC_RELEASE);
	if (level <= MC_LOG_WARN || getenv("ABI_VERBOSE"))
		fprintf(stderr, "%s\n", line);
}

static bool was_logged(const char *words)
{
	bool found;

	while (__atomic_test_and_set(&log_lock, __ATOMIC_ACQUIRE))
		;
	logged[logged_len] = '\0';
	found = strstr(logged, words);
	__atomic_clear(&log_lock, __ATOMIC_RELEASE);
	return found;
}

static void nap(uint64_t ns)
{
	struct timespec t = {.tv_sec = (time_t)(ns / MC_SEC), .tv_nsec = (long)(ns % MC_SEC)};

	nanosleep(&t, NULL);
}

/* What an engine's own thread says may come a moment after what it did. */
static bool logged_soon(const char *words)
{
	for (int i = 0; i < 500 && !was_logged(words); i++)
		nap(10 * MC_MSEC);
	return was_logged(words);
}

/* ---- engines --------------------------------------------------------------------------------- */

/* Settings are "key=value" words, ended by NULL. */
static struct mc_config *config_new(const char *name, const char *const *settings)
{
	struct mc_config *c = NULL;
	struct mc_error err = {0};
	char url[64], key[128];

	snprintf(url, sizeof url, "file://%s", dir);
	if (mc_config_new(&c, &err) < 0 || mc_config_set(c, "metadata_server", url, &err) < 0 ||
	    mc_config_set(c, "local_server_name", name, &err) < 0 ||
	    mc_config_set(c, "port", "0", &err) < 0 ||
	    mc_config_set(c, "advertise_address", "127.0.0.1", &err) < 0)
		NEED(false, "config: %s", err.text);
	for (; *settings; settings++) {
		const char *eq = strchr(*settings, '=');

		snprintf(key, sizeof key, "%.*s", (int)(eq - *settings), *settings);
		NEED(mc_config_set(c, key, eq + 1, &err) == 0, "%s: %s", *settings, err.text);
	}
	return c;
}

static struct mc_engine *engine_new(const char *name, const char *const *settings)
{
	struct mc_config *c = config_new(name, settings);
	struct mc_engine *e = NULL;
	struct mc_error err = {0};
	int r = mc_engine_open(c, T, &e, &err);

	mc_config_free(c);
	NEED(r == 0, "%s: %d %s", name, r, err.text);
	return e;
}

static void refused(const char *const *settings, int want, const char *words)
{
	struct mc_config *c = config_new("refused", settings);
	struct mc_engine *e = NULL;
	struct mc_error err = {0};
	int r = mc_engine_open(c, T, &e, &err);

	CHECK(r == want && strstr(err.text, words), "%d %s", r, err.text);
	mc_config_free(c);
	mc_engine_close(e, T);
}

struct sum {
	const char *object, *name;
	uint64_t value;
	unsigned nr;
};

static int sum_one(void *ctx, const struct mc_counter *c)
{
	struct sum *s = ctx;

	if (!strcmp(c->name, s->name) && strstr(c->object, s->object)) {
		s->value += c->value;
		s->nr++;
	}
	return 0;
}

/* The sum of a counter over the objects whose name holds `object`; -1: there is none. */
static int64_t counter(struct mc_engine *e, const char *object, const char *name)
{
	struct sum s = {.object = object, .name = name};

	CHECK(mc_engine_counters(e, sum_one, &s) == 0, "counters");
	return s.nr ? (int64_t)s.value : -1;
}

/* ---- two engines and a buffer at each end ----------------------------------------------------- */

struct pair {
	struct mc_engine *here, *there; /* there: NULL if it is apart */
	struct mc_segment *to, *from;   /* from: of `there` to `here`; NULL if it is apart */
	unsigned char *mine, *local, *yours; /* yours: the target's buffer, if it is in this process */
	uint64_t base;                  /* of the target's buffer */
	const char *location;
	pid_t pid;
	int input; /* of the other process */
};

static unsigned char pattern(uint64_t i, unsigned seed)
{
	return (unsigned char)(i * 31 + (i >> 9) + seed * 101);
}

/* Both engines may live in this process, and what travels through the kernel between their workers
 * orders nothing that TSan could see: it may not watch who touches the payload. */
#if defined(__SANITIZE_THREAD__)
#define PAYLOAD __attribute__((no_sanitize("thread")))
#else
#define PAYLOAD
#endif

PAYLOAD static void fill(unsigned char *p, uint64_t len, unsigned seed)
{
	for (uint64_t i = 0; i < len; i++)
		p[i] = pattern(i, seed);
}

static int64_t first_wrong(const unsigned char *p, uint64_t len, unsigned seed)
{
	for (uint64_t i = 0; i < len; i++)
		if (p[i] != pattern(i, seed))
			return (int64_t)i;
	return -1;
}

static void *memory(struct mc_engine *e, const char *location, uint64_t len)
{
	struct mc_error err = {0};
	void *p = NULL;
	int r = mc_memory_alloc(e, location, len, MC_ACCESS_ALL, T, &p, &err);

	NEED(r == 0, "%s: %d %s", location, r, err.text);
	return p;
}

static void serve_apart(struct pair *p, const char *const *settings)
{
	const char *argv[MAX_SETTINGS + 8] = {self, "--serve", dir, p->location};
	extern char **environ;
	posix_spawn_file_actions_t fa;
	int in[2], out[2], n = 4;
	char ready;

	for (; *settings && n < MAX_SETTINGS + 6; settings++)
		argv[n++] = *settings;
	NEED(pipe(in) == 0 && pipe(out) == 0, "pipe");
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_adddup2(&fa, in[0], 0);
	posix_spawn_file_actions_adddup2(&fa, out[1], 3);
	posix_spawn_file_actions_addclose(&fa, in[1]);
	posix_spawn_file_actions_addclose(&fa, out[0]);
	NEED(posix_spawn(&p->pid, self, &fa, NULL, (char **)argv, environ) == 0, "spawn");
	posix_spawn_file_actions_destroy(&fa);
	close(in[0]);
	close(out[1]);
	NEED(read(out[0], &ready, 1) == 1, "the other process did not come up");
	close(out[0]);
	p->input = in[1];
}

static struct mc_segment *segment(struct mc_engine *e, const char *name)
{
	struct mc_segment *s = NULL;
	struct mc_error err = {0};
	int r = mc_segment_open(e, name, T, &s, &err);

	NEED(r == 0, "%s: %d %s", name, r, err.text);
	return s;
}

static void pair_open(struct pair *p, const char *location, const char *const *settings)
{
	struct mc_buffer_info info = {.size = sizeof info};

	*p = (struct pair){.location = location, .input = -1};
	p->here = engine_new("here", settings);
	p->mine = memory(p->here, location, LEN);
	p->local = memory(p->here, "cpu:0", LEN);
	if (apart) {
		serve_apart(p, settings);
	} else {
		p->there = engine_new("there", settings);
		p->yours = memory(p->there, location, LEN);
		p->from = segment(p->there, "here");
	}
	p->to = segment(p->here, "there");
	NEED(mc_segment_buffer(p->to, 0, &info) == 0 && info.len >= LEN, "buffer of the target");
	p->base = info.offset;
}

static void pair_close(struct pair *p)
{
	int status = 0;

	mc_segment_close(p->to);
	mc_segment_close(p->from);
	CHECK(mc_engine_close(p->here, T) == 0, "close");
	CHECK(mc_engine_close(p->there, T) == 0, "close");
	if (p->pid) {
		close(p->input);
		waitpid(p->pid, &status, 0);
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the other process: %x", status);
	}
}

static int serve(int argc, char **argv)
{
	struct mc_engine *e;
	char c;

	strcpy(dir, argv[0]);
	e = engine_new("there", (const char *const *)argv + 2);
	memory(e, argv[1], LEN);
	if (write(3, "r", 1) != 1)
		return 1;
	while (read(0, &c, 1) > 0)
		;
	return mc_engine_close(e, T) == 0 && !failures ? 0 : 1;
}

/* ---- moving bytes ----------------------------------------------------------------------------- */

/* [0, len) in pieces of `step`, one batch. */
static void move(struct mc_engine *e, enum mc_opcode op, unsigned char *local, struct mc_segment *to,
		 uint64_t offset, uint64_t len, uint64_t step)
{
	size_t nr = (size_t)((len + step - 1) / step);
	struct mc_request *reqs = calloc(nr, sizeof *reqs);
	struct mc_batch *batch = NULL;
	int r;

	NEED(reqs && mc_batch_new(e, nr, &batch) == 0, "batch");
	for (size_t i = 0; i < nr; i++) {
		uint64_t at = i * step;

		reqs[i] = (struct mc_request){.opcode = op, .local = local + at, .segment = to,
					      .offset = offset + at, .len = at + step < len ? step : len - at};
	}
	r = mc_batch_submit(batch, reqs, nr, NULL);
	CHECK(r == 0, "submit %d", r);
	r = mc_batch_wait(batch, T);
	CHECK(r == 0 && mc_batch_failed(batch) == 0, "wait %d, %zu of %zu failed", r, mc_batch_failed(batch), nr);
	if (mc_batch_failed(batch)) {
		struct mc_request_status st = {.size = sizeof st};

		for (size_t i = 0; i < nr && st.status == 0; i++)
			mc_batch_status(batch, i, &st);
		printf("the first failed with %s, scope %d\n", strerror(-st.status), st.scope);
	}
	mc_batch_free(batch);
	free(reqs);
}

/* Write and read back; what is in this process is looked at directly. */
static void there_and_back(struct pair *p, uint64_t len, uint64_t step, unsigned seed)
{
	bool cpu = strncmp(p->location, "fake", 4); /* it can touch the buffers */

	fill(p->local, len, seed);
	move(p->here, MC_OP_WRITE, p->local, p->to, p->base, len, step);
	/* P3: the batch is complete, so its writes are visible, delayed ones too. */
	if (p->yours && cpu)
		CHECK(first_wrong(p->yours, len, seed) < 0, "step %llu: written byte %lld is wrong",
		      (unsigned long long)step, (long long)first_wrong(p->yours, len, seed));
	memset(p->local, 0xee, len);
	move(p->here, MC_OP_READ, p->local, p->to, p->base, len, step);
	CHECK(first_wrong(p->local, len, seed) < 0, "step %llu: byte %lld read is wrong",
	      (unsigned long long)step, (long long)first_wrong(p->local, len, seed));
	/* The other way round: they write into our buffer of the location, and read it. */
	if (p->from && cpu) {
		fill(p->yours, len, seed + 1);
		move(p->there, MC_OP_WRITE, p->yours, p->from, (uintptr_t)p->mine, len, step);
		CHECK(first_wrong(p->mine, len, seed + 1) < 0, "step %llu: their write", (unsigned long long)step);
		fill(p->mine, len, seed + 2);
		move(p->there, MC_OP_READ, p->yours, p->from, (uintptr_t)p->mine, len, step);
		CHECK(first_wrong(p->yours, len, seed + 2) < 0, "step %llu: their read", (unsigned long long)step);
	}
}

static void all_sizes(struct pair *p)
{
	there_and_back(p, LEN, LEN, 1);
	there_and_back(p, LEN, 65536, 2);
	there_and_back(p, 256 * 1024, 1024, 3);
	there_and_back(p, 64, 64, 4);
}

static void odd_sizes(struct pair *p)
{
	there_and_back(p, LEN - 3, 100001, 5);
	there_and_back(p, 4097, 63, 6);
	there_and_back(p, 1, 1, 7);
}

#define KEYS2 "nic_priority_matrix={\"*\": [[\"keys:keys0\", \"keys:keys1\"]]}"
#define KEYS1 "nic_priority_matrix={\"*\": [[\"keys:keys0\"]]}"

/* ---- cases ------------------------------------------------------------------------------------ */

/* Two devices with keys of their own, two lanes each. */
static void case_lanes(void)
{
	/* Slow enough that no lane is done before the others have begun. */
	static const char *const settings[] = {KEYS2, "transports.keys.lanes=2", "transports.keys.bandwidth=200MB", NULL};
	struct pair p;

	pair_open(&p, "cpu:0", settings);
	all_sizes(&p);
	odd_sizes(&p);
	/* A busy machine may take its time to open the rails that are not the first. */
	for (unsigned i = 0; i < 100 && counter(p.here, "device keys:keys1", "keys_bytes") <= 0; i++)
		there_and_back(&p, LEN, LEN, 8 + i);
	CHECK(counter(p.here, "device keys:keys0", "keys_writes") > 0, "the first device wrote nothing");
	CHECK(counter(p.here, "device keys:keys1", "keys_bytes") > 0, "the second device moved nothing");
	CHECK(counter(p.here, "device keys:keys1/1", "keys_reads") >= 0, "no lane 1");
	CHECK(counter(p.here, "device keys", "keys_flushes") > 0, "no write was flushed");
	CHECK(counter(p.here, "device keys", "keys_queued") == 0, "gauge of the plugin");
	CHECK(counter(p.here, "device keys", "keys_bytes") >= counter(p.here, "engine", "bytes_written"), "bytes");
	pair_close(&p);
}

/* The transport's announcements below its own prefix, seen by its own watches. */
static void case_kv(void)
{
	static const char *const settings[] = {KEYS2, "transports.keys.lanes=2", NULL};
	struct pair p;
	int64_t n = 0;

	pair_open(&p, "cpu:0", settings);
	/* Four lanes here and four there announce themselves; each watch sees those after it. */
	for (int i = 0; i < 1000 && n <= 0; i++) {
		n = counter(p.here, "device keys", "keys_kv_events");
		if (n <= 0)
			nap(10 * MC_MSEC);
	}
	CHECK(n > 0, "no event of the transport's keys");
	for (int i = 0; i < 1000 && counter(p.here, "device keys", "keys_kv_found") < 4; i++)
		nap(10 * MC_MSEC);
	CHECK(counter(p.here, "device keys", "keys_kv_found") == 4, "keys read back: %lld",
	      (long long)counter(p.here, "device keys", "keys_kv_found"));
	CHECK(counter(p.here, "device keys", "keys_kv_wrong") == 0, "answers");
	pair_close(&p);
}

static void case_slow(void)
{
	static const char *const settings[] = {KEYS2, "transports.keys.latency=200us", "transports.keys.bandwidth=2GB",
					       "transports.keys.depth=8", NULL};
	struct pair p;

	pair_open(&p, "cpu:0", settings);
	all_sizes(&p);
	odd_sizes(&p);
	pair_close(&p);
}

/* Alignment, small slices, small registrations, one thread for all calls. */
static void case_aligned(void)
{
	static const char *const settings[] = {KEYS2, "transports.keys.alignment=64", "transports.keys.max_slice=100000",
					       "transports.keys.max_reg=64MiB", "transports.keys.own_thread=true",
					       "transports.keys.kinds=cpu", NULL};
	struct mc_error err = {0};
	struct pair p;
	void *big = NULL;

	pair_open(&p, "cpu:0", settings);
	all_sizes(&p);
	CHECK(mc_memory_alloc(p.here, "cpu:0", 65u << 20, MC_ACCESS_ALL, T, &big, &err) < 0 &&
	      strstr(err.text, "keys:keys"), "larger than max_reg: %s", err.text);
	pair_close(&p);
}

/* What is not aligned goes by a transport that does not mind. */
static void case_misaligned(void)
{
	static const char *const settings[] = {
		"nic_priority_matrix={\"*\": [[\"keys:keys0\"], [\"tcp:lo\"]]}",
		"transports.keys.alignment=64", "transports.keys.max_slice=100000", NULL};
	struct pair p;

	pair_open(&p, "cpu:0", settings);
	there_and_back(&p, LEN, 65536, 1);
	CHECK(counter(p.here, "rail keys:keys0", "bytes_written") == LEN, "what is aligned goes by the first tier");
	odd_sizes(&p);
	CHECK(counter(p.here, "rail tcp:lo", "bytes_written") > 0, "what is not goes by the second");
	pair_close(&p);
}

/* Visible at completion; large slices are copied on helpers, which complete them or hand over. */
static void case_plain(void)
{
	static const char *const settings[] = {KEYS2, "transports.keys.delay_writes=false", "transports.keys.offload_from=4096",
					       "transports.keys.complete_any=false", NULL};
	struct pair p;

	pair_open(&p, "cpu:0", settings);
	all_sizes(&p);
	odd_sizes(&p);
	CHECK(counter(p.here, "device keys", "keys_flushes") == 0, "a flush that nobody needs");
	CHECK(counter(p.here, "device keys", "keys_offloads") > 0, "nothing ran on a helper");
	pair_close(&p);
}

static void case_any(void)
{
	static const char *const settings[] = {KEYS2, "transports.keys.offload_from=4096", "transports.keys.lanes=2", NULL};
	struct pair p;

	pair_open(&p, "cpu:0", settings);
	all_sizes(&p);
	odd_sizes(&p);
	CHECK(counter(p.here, "device keys", "keys_offloads") > 0, "nothing ran on a helper");
	pair_close(&p);
}

/* One slice of each lane fails: the batch does not. */
static void case_fails(void)
{
	static const char *const scopes[] = {"transports.keys.fail_scope=peer", "transports.keys.fail_scope=nic",
					     "transports.keys.fail_scope=transport"};

	for (size_t i = 0; i < 3; i++) {
		const char *const settings[] = {KEYS2, "transports.keys.fail_nth=5", "transports.keys.max_slice=65536",
						scopes[i], NULL};
		struct pair p;

		printf("%s\n", scopes[i]);
		pair_open(&p, "cpu:0", settings);
		all_sizes(&p);
		CHECK(counter(p.here, "device keys", "keys_fences") > 0, "no fence");
		CHECK(counter(p.here, "engine", "failures") > 0, "no failure");
		pair_close(&p);
	}
}

/* The filter sees every slice of the transport, once on each way. */
static void case_filter(void)
{
	static const char *const settings[] = {KEYS2, "transports.keys.lanes=2", "transports.keys.filters=count",
					       "filters.count.fail_nth=40", "transports.keys.max_slice=65536", NULL};
	struct pair p;

	pair_open(&p, "cpu:0", settings);
	all_sizes(&p);
	odd_sizes(&p);
	CHECK(counter(p.here, "device keys", "count_submits") > 0, "nothing went through the filter");
	CHECK(counter(p.here, "device keys", "count_failures") > 0, "the filter failed nothing");
	CHECK(counter(p.here, "device keys", "count_fences") > 0, "no fence went through it");
	CHECK(counter(p.here, "device keys", "keys_bytes") > 0, "counters of the transport below");
	CHECK(counter(p.here, "device keys", "keys_queued") == 0, "gauges of the transport below");
	pair_close(&p);
}

/* Delayed and refused slices; two filters of one kind over streams. */
static void case_filter_tcp(void)
{
	static const char *const settings[] = {"nic_priority_matrix={\"*\": [[\"tcp:lo\"]]}", "transports.tcp.filters=count",
					       "filters.count.delay=1ms", "filters.count.refuse_nth=9", NULL};
	struct pair p;

	pair_open(&p, "cpu:0", settings);
	there_and_back(&p, LEN, 65536, 2);
	odd_sizes(&p);
	CHECK(counter(p.here, "device tcp:lo", "count_streams") > 0, "no stream went through the filter");
	CHECK(counter(p.here, "device tcp:lo", "count_completions") > 0, "nothing went through the filter");
	pair_close(&p);
}

/* Memory that a device owns. */
static void case_owned(void)
{
	static const char *const settings[] = {KEYS2, NULL};
	struct mc_error err = {0};
	struct pair p;
	int64_t before;

	pair_open(&p, "pool:0", settings);
	before = counter(p.here, "device keys:keys0", "keys_owned");
	CHECK(before == 1, "buffers of the device's own memory: %lld", (long long)before);
	all_sizes(&p);
	odd_sizes(&p);
	CHECK(mc_memory_publish(p.here, p.mine, 4096, &err) == 0, "%s", err.text);
	CHECK(mc_memory_refresh(p.here, (char *)p.mine + 64, 64, &err) == 0, "%s", err.text);
	CHECK(counter(p.here, "device keys:keys0", "keys_synced") == 2, "mem_sync");
	CHECK(mc_memory_publish(p.here, p.local, 4096, &err) == 0, "memory that is coherent: %s", err.text);
	CHECK(counter(p.here, "device keys:keys0", "keys_synced") == 2, "mem_sync of memory that is coherent");
	CHECK(mc_memory_publish(p.here, &err, sizeof err, &err) == -EFAULT, "memory that is not registered");
	CHECK(counter(p.here, "device keys:keys0", "keys_lease") > 0, "lease_left_ns");
	/* It is registered, and counted when it is registered again, though no plugin knows its kind. */
	CHECK(mc_memory_register(p.here, p.mine, 4096, "pool:0", MC_ACCESS_ALL, T, &err) == 0, "%s", err.text);
	CHECK(mc_memory_unregister(p.here, p.mine, T, &err) == 0, "%s", err.text);
	CHECK(mc_memory_free(p.here, p.mine, T, &err) == 0, "%s", err.text);
	CHECK(counter(p.here, "device keys:keys0", "keys_owned") == 0, "mem_free");
	pair_close(&p);
}

/* Memory that the CPU cannot touch, reached by its dma-buf, at the target. */
static void case_kind(void)
{
	static const char *const settings[] = {KEYS2, "transports.keys.max_slice=65536", NULL};
	struct pair p;

	pair_open(&p, "fake:1", settings);
	all_sizes(&p);
	odd_sizes(&p);
	if (p.yours) {
		/* From fake memory to fake memory, and back into memory that we can look at. */
		fill(p.local, LEN, 9);
		move(p.here, MC_OP_WRITE, p.local, p.to, p.base, LEN, LEN);
		move(p.here, MC_OP_READ, p.mine, p.to, p.base, LEN, LEN);
		move(p.here, MC_OP_WRITE, p.local, p.to, p.base, 4096, 4096);
		memset(p.local, 0, LEN);
		move(p.here, MC_OP_WRITE, p.mine, p.to, p.base, LEN, 100000);
		move(p.here, MC_OP_READ, p.local, p.to, p.base, LEN, LEN);
		CHECK(first_wrong(p.local, LEN, 9) < 0, "fake to fake");
	}
	pair_close(&p);
}

static void say(const char *path, const char *word)
{
	FILE *f = fopen(path, "w");

	NEED(f && fputs(word, f) >= 0 && fclose(f) == 0, "%s", path);
}

/* Too little to be spread over the rails of a tier: one carries it all. */
#define USES_LEN (128 * 1024)

/* Move until the counter of the object grows by this traffic, or time is up. */
static bool uses(struct pair *p, const char *object)
{
	for (int i = 0; i < 400; i++) {
		int64_t before = counter(p->here, object, "bytes_written");

		there_and_back(p, USES_LEN, 65536, 10 + (unsigned)i);
		if (counter(p->here, object, "bytes_written") >= (before < 0 ? 0 : before) + USES_LEN)
			return true;
		nap(20 * MC_MSEC);
	}
	return false;
}

/* A device goes down and comes back: the tier below carries the work meanwhile. */
static void device_goes(const char *matrix, const char *first, const char *second)
{
	char path[96], trigger[128];
	const char *const settings[] = {matrix, trigger, NULL};
	struct pair p;

	snprintf(path, sizeof path, "%s/trigger", dir);
	snprintf(trigger, sizeof trigger, "transports.keys.trigger=%s", path);
	unlink(path);
	pair_open(&p, "cpu:0", settings);
	CHECK(uses(&p, first), "%s is not used", first);
	say(path, "down\n");
	CHECK(logged_soon("device 'keys:keys0': is down: the trigger file says so"), "down was not logged");
	CHECK(uses(&p, second), "%s is not used while the device is down", second);
	say(path, "up\n");
	CHECK(uses(&p, first), "%s is not used again", first);
	CHECK(logged_soon("device 'keys:keys0': is up"), "up was not logged");
	say(path, "gone\n");
	CHECK(logged_soon("device 'keys:keys0': is gone"), "gone was not logged");
	CHECK(uses(&p, second), "%s is not used when the device is gone", second);
	pair_close(&p);
}

static void case_device_tier(void)
{
	device_goes("nic_priority_matrix={\"*\": [[\"keys:keys0\"], [\"tcp:lo\"]]}", "rail keys:keys0", "rail tcp:lo");
}

/* Another transport of the same tier; no rail joins the two wires. */
static void case_device_rail(void)
{
	device_goes("nic_priority_matrix={\"*\": [[\"keys:keys0\", \"altkeys:altkeys0\"]]}", "rail keys:keys0",
		    "rail altkeys:altkeys0");
}

/* An optional plugin that cannot be used costs a warning that says what is used instead. */
static void case_optional(void)
{
	static const char *const optional[] = {
		"nic_priority_matrix={\"*\": [[\"altkeys:altkeysdown\"], [\"tcp:lo\"]]}", NULL};
	static const char *const needed[] = {"nic_priority_matrix={\"*\": [[\"keys:keysdown\"], [\"tcp:lo\"]]}", NULL};
	struct pair p;

	refused(needed, -ENETDOWN, "keys:keysdown");
	pair_open(&p, "cpu:0", optional);
	CHECK(was_logged("using tcp:lo instead"), "no warning says what is used instead");
	there_and_back(&p, LEN, LEN, 1);
	pair_close(&p);
}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	{"lanes", case_lanes}, {"kv", case_kv}, {"slow", case_slow}, {"aligned", case_aligned},
	{"misaligned", case_misaligned}, {"plain", case_plain}, {"any", case_any}, {"fails", case_fails},
	{"filter", case_filter}, {"filter_tcp", case_filter_tcp}, {"owned", case_owned}, {"kind", case_kind},
	{"device_tier", case_device_tier}, {"device_rail", case_device_rail}, {"optional", case_optional},
};

static int usage(void)
{
	fprintf(stderr, "usage: abi CASE [--apart]\n");
	return 2;
}

int main(int argc, char **argv)
{
	char cmd[64];

	setvbuf(stdout, NULL, _IONBF, 0);
	signal(SIGPIPE, SIG_IGN);
	mc_log_set_level(MC_LOG_INFO);
	mc_log_set_handler(on_log, NULL);
	self = "/proc/self/exe";
	if (argc > 3 && !strcmp(argv[1], "--serve"))
		return serve(argc - 2, argv + 2);
	if (argc < 2 || argc > 3 || (argc == 3 && strcmp(argv[2], "--apart")))
		return usage();
	apart = argc == 3;
	if (!mkdtemp(dir))
		return 1;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
		if (!strcmp(cases[i].name, argv[1])) {
			cases[i].run();
			snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
			if (system(cmd))
				return 1;
			printf(failures ? "%d failed\n" : "ok\n", failures);
			return failures ? 1 : 0;
		}
	return usage();
}
