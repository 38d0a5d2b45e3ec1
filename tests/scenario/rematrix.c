/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Another config and matrix while transfers run: threads of the engine "left" write to
 * "right" and read back, every byte looked at, while either end is reloaded, well and
 * badly.  Nothing may fail, and what the new matrix says must come true.
 *
 *   rematrix order|join|told|leave|closes|refused|options|together
 */
#include "peers.h"

#include <dirent.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>

#define TCP "{\"*\": [[\"tcp:lo\"]]}"
#define KEYS "{\"*\": [[\"keys:keys0\"], [\"tcp:lo\"]]}"
#define KEYS_LAST "{\"*\": [[\"tcp:lo\"], [\"keys:keys0\"]]}"

/* Bytes that a reload may keep until the engine or session ends. */
#define KEPT 16384

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MANY_MATRICES 12 /* slow, and the plain build has counted them */
#else
#define MANY_MATRICES 270
#endif

enum { NR_CHURNERS = 3, NR_SLICES = 24, SLICE = 16384, SPAN = NR_SLICES * SLICE };

static const char *const plain[] = {NULL};
static struct mc_engine *left, *right;
static char left_matrix[4096], right_matrix[4096]; /* files */

/* ---- transfers -------------------------------------------------------------------------------- */

static struct churner {
	pthread_t thread;
	unsigned char *local;
	struct mc_segment *segment;
	uint64_t offset;
	atomic_uint rounds;
	unsigned seed;
} churners[NR_CHURNERS];
static unsigned char *there;
static atomic_bool stop;

static unsigned char byte_of(unsigned seed, size_t i)
{
	return (unsigned char)(seed * 151 + i * 7 + (i >> 8));
}

static int ignore(void *ctx, const struct mc_counter *c)
{
	return 0;
}

/* That what came over a socket was before what is copied next is beyond TSan, which looks at both ends here; a
 * visit to every worker of the other end shows it. */
static void show_order(void)
{
#ifdef __SANITIZE_THREAD__
	mc_engine_counters(right, ignore, NULL);
#else
	(void)ignore;
#endif
}

static void move_all(struct churner *c, uint32_t opcode)
{
	struct mc_batch *b = submit_many(left, opcode, c->local, c->segment, c->offset, SPAN, NR_SLICES, SLICE, T);

	NEED(mc_batch_wait(b, 2 * T) == 0 && !mc_batch_failed(b), "%s: %zu requests failed, the first with %d",
	     opcode == MC_OP_READ ? "read" : "write", mc_batch_failed(b), status_of(b, 0));
	mc_batch_free(b);
	show_order();
}

static void *churn(void *arg)
{
	struct churner *c = arg;

	while (!atomic_load(&stop)) {
		c->seed++;
		for (size_t i = 0; i < SPAN; i++)
			c->local[i] = byte_of(c->seed, i);
		move_all(c, MC_OP_WRITE);
		memset(c->local, 0, SPAN);
		move_all(c, MC_OP_READ);
		for (size_t i = 0; i < SPAN; i++)
			NEED(c->local[i] == byte_of(c->seed, i), "byte %zu of round %u is wrong", i, c->seed);
		atomic_fetch_add(&c->rounds, 1);
	}
	return NULL;
}

/* Every thread has begun and ended a round since. */
static void rounds_pass(void)
{
	unsigned seen[NR_CHURNERS];
	uint64_t end = now_ns() + 4 * T;

	for (int i = 0; i < NR_CHURNERS; i++)
		seen[i] = atomic_load(&churners[i].rounds);
	for (int i = 0; i < NR_CHURNERS; i++)
		while (atomic_load(&churners[i].rounds) - seen[i] < 2) {
			NEED(now_ns() < end, "thread %d does not get on", i);
			nap(MC_MSEC);
		}
}

static void matrix_write(const char *file, const char *text)
{
	FILE *f = fopen(file, "w");

	NEED(f && fputs(text, f) >= 0 && fclose(f) == 0, "%s: %s", file, strerror(errno));
}

static void begin(const char *ours, const char *theirs, const char *const *settings)
{
	snprintf(left_matrix, sizeof left_matrix, "%s/left.json", dir);
	snprintf(right_matrix, sizeof right_matrix, "%s/right.json", dir);
	matrix_write(left_matrix, ours);
	matrix_write(right_matrix, theirs);
	setenv("MATRIX", left_matrix, 1);
	left = engine_with("left", settings);
	setenv("MATRIX", right_matrix, 1);
	right = engine_with("right", settings);
	there = memory_new(right, NR_CHURNERS * SPAN);
	for (int i = 0; i < NR_CHURNERS; i++) {
		struct churner *c = &churners[i];

		c->local = memory_new(left, SPAN);
		c->segment = segment_new(left, "right");
		c->offset = (uintptr_t)there + (size_t)i * SPAN;
		c->seed = (unsigned)i * 40;
		NEED(pthread_create(&c->thread, NULL, churn, c) == 0, "thread");
	}
}

static void end(void)
{
	rounds_pass();
	atomic_store(&stop, true);
	for (int i = 0; i < NR_CHURNERS; i++) {
		pthread_join(churners[i].thread, NULL);
		mc_segment_close(churners[i].segment);
	}
	CHECK(mc_engine_close(left, T) == 0, "close");
	CHECK(mc_engine_close(right, T) == 0, "close");
}

/* ---- reloads ---------------------------------------------------------------------------------- */

static int reload_with(struct mc_engine *e, const char *matrix, const char *key, const char *value,
		       struct mc_error *err)
{
	struct mc_config *c = config_new(e == left ? "left" : "right", e == left ? left_matrix : right_matrix);
	int r = 0;

	if (matrix)
		matrix_write(e == left ? left_matrix : right_matrix, matrix);
	if (key)
		r = mc_config_set(c, key, value, err);
	if (r == 0)
		r = mc_engine_reload(e, c, T, err);
	mc_config_free(c);
	return r;
}

static void reload(struct mc_engine *e, const char *matrix)
{
	struct mc_error err = {0};
	int r = reload_with(e, matrix, NULL, NULL, &err);

	NEED(r == 0, "%s: %d %s", matrix, r, err.text);
}

/* What does not work changes nothing; the file is as it was after it. */
static void refused(struct mc_engine *e, const char *matrix, const char *key, const char *value, int want,
		    const char *say)
{
	const char *before = mc_engine_matrix(e);
	struct mc_error err = {0};
	int r;

	r = reload_with(e, matrix, key, value, &err);
	CHECK(r == want && strstr(err.text, say), "%s %s: %d '%s' lacks '%s'", matrix ? matrix : "", key ? key : "",
	      r, err.text, say);
	CHECK(mc_engine_matrix(e) == before, "the matrix has changed");
	matrix_write(e == left ? left_matrix : right_matrix, before);
}

struct asked {
	const char *object;
	uint64_t bytes;
};

static int add_bytes(void *ctx, const struct mc_counter *c)
{
	struct asked *a = ctx;

	if (!strcmp(c->object, a->object) && !strncmp(c->name, "bytes_", 6))
		a->bytes += c->value;
	return 0;
}

/* What "left" has moved over a device of its own. */
static uint64_t bytes_over(const char *device)
{
	char object[128];
	struct asked a = {.object = object};

	snprintf(object, sizeof object, "device %s", device);
	NEED(mc_engine_counters(left, add_bytes, &a) == 0, "counters");
	return a.bytes;
}

/* Sooner or later all goes over this device, and nothing over the other. */
static void goes_over(const char *device, const char *other)
{
	uint64_t until = now_ns() + 4 * T, a0, b0, a1, b1;

	do {
		NEED(now_ns() < until, "%s does not carry all of it", device);
		a0 = bytes_over(device);
		b0 = bytes_over(other);
		rounds_pass();
		a1 = bytes_over(device);
		b1 = bytes_over(other);
	} while (a1 == a0 || b1 != b0);
}

/* ---- cases ------------------------------------------------------------------------------------ */

/* Tiers change places, at either end. */
static void order(void)
{
	begin(KEYS, KEYS, plain);
	goes_over("keys:keys0", "tcp:lo");
	for (int i = 0; i < 6; i++) {
		reload(left, KEYS_LAST);
		reload(right, KEYS_LAST);
		goes_over("tcp:lo", "keys:keys0");
		refused(left, "{\"*\": [[\"tcp:nosuch0\"]]}", NULL, NULL, -ENODEV, "tcp:nosuch0");
		reload(right, KEYS);
		reload(left, KEYS);
		goes_over("keys:keys0", "tcp:lo");
	}
	CHECK(strstr(mc_engine_matrix(left), "keys:keys0"), "%s", mc_engine_matrix(left));
	end();
}

/* A device that was not there joins both ends of sessions that are open, memory that is registered included. */
static void join(void)
{
	char weighed[128];

	begin(TCP, TCP, plain);
	goes_over("tcp:lo", "keys:keys0");
	/* However many there were before it. */
	for (int i = 2; i < MANY_MATRICES; i++) {
		snprintf(weighed, sizeof weighed, "{\"*\": [[{\"device\": \"tcp:lo\", \"weight\": %d}]]}", i);
		reload(right, weighed);
	}
	reload(right, KEYS);
	rounds_pass();
	reload(left, KEYS);
	goes_over("keys:keys0", "tcp:lo");
	/* The other order, with a second device. */
	reload(left, "{\"*\": [[\"keys:keys1\"], [\"keys:keys0\"], [\"tcp:lo\"]]}");
	goes_over("keys:keys1", "tcp:lo");
	reload(right, "{\"*\": [[\"keys:keys1\"], [\"tcp:lo\"]]}");
	goes_over("keys:keys1", "keys:keys0");
	CHECK(sh("for i in $(seq 100); do grep -rq keys:keys1 '%s'/*engine*right* && exit 0; sleep 0.1; done; exit 1",
		 dir) == 0, "the record does not name the new device");
	/* Who connects only now. */
	mc_segment_close(segment_new(right, "left"));
	end();
}

static void count_news(void *arg, enum mc_log_level level, const char *line)
{
	atomic_uint *news = arg;

	if (strstr(line, "'left': its matrix is"))
		atomic_fetch_add(news, 1);
}

/* Each has a session with the other, and hears of a new matrix in both; it is logged once. */
static void told(void)
{
	static atomic_uint news;
	struct mc_segment *back;

	begin(KEYS, KEYS, plain);
	back = segment_new(right, "left");
	rounds_pass();
	mc_log_set_handler(count_news, &news);
	mc_log_set_level(MC_LOG_INFO);
	for (unsigned i = 1; i <= 4; i++) {
		reload(left, i & 1 ? KEYS_LAST : KEYS);
		for (uint64_t until = now_ns() + 2 * T; atomic_load(&news) < i && now_ns() < until; nap(MC_MSEC))
			;
		nap(50 * MC_MSEC);
		CHECK(atomic_load(&news) == i, "%u new matrices are logged %u times", i, atomic_load(&news));
	}
	mc_log_set_level(MC_LOG_ERROR);
	mc_log_set_handler(NULL, NULL);
	mc_segment_close(back);
	end();
}

/* A device leaves one end, the other, and comes back. */
static void leave(void)
{
	begin(KEYS, KEYS, plain);
	for (int i = 0; i < 4; i++) {
		goes_over("keys:keys0", "tcp:lo");
		reload(i & 1 ? left : right, TCP);
		goes_over("tcp:lo", "keys:keys0");
		reload(i & 1 ? left : right, KEYS);
	}
	goes_over("keys:keys0", "tcp:lo");
	end();
}

/* More rows than peers can be told of in one message. */
static void refused_for_size(void)
{
	static char rows[128 * 1024];
	size_t len = (size_t)sprintf(rows, "{\"*\": [[\"tcp:lo\"]]");

	for (int i = 1; i < 3000; i++)
		len += (size_t)sprintf(rows + len, ", \"cpu:%d\": [[\"tcp:lo\"]]", i);
	strcpy(rows + len, "}");
	for (int i = 0; i < 2; i++)
		refused(i ? right : left, rows, NULL, NULL, -E2BIG, "to tell each peer");
}

/* What this process holds: descriptors, those that are sockets, threads, bytes. */
struct held {
	unsigned fds, sockets, threads;
	size_t bytes;
};

static unsigned entries(const char *folder, unsigned *sockets)
{
	DIR *d = opendir(folder);
	struct dirent *e;
	unsigned nr = 0;

	NEED(d, "%s", folder);
	while ((e = readdir(d))) {
		char to[64] = "";

		nr++;
		if (sockets && readlinkat(dirfd(d), e->d_name, to, sizeof to - 1) > 0)
			*sockets += !strncmp(to, "socket:", 7);
	}
	closedir(d);
	return nr;
}

static struct held held(void)
{
	struct held h = {.bytes = mallinfo2().uordblks};

	h.fds = entries("/proc/self/fd", &h.sockets);
	h.threads = entries("/proc/self/task", NULL);
	return h;
}

/* Rails of the device that left are closed at both ends, and hundreds of comings and goings keep nothing. */
static void closes(void)
{
	static const char *const both = "{\"*\": [[\"tcp:lo\"], [\"keys:keys0\"]]}", *const alone = "{\"*\": [[\"keys:keys0\"]]}";
	struct held open, closed = {0}, later;
	uint64_t until = now_ns() + 4 * T;

	begin(both, both, plain);
	goes_over("tcp:lo", "keys:keys0");
	open = held();
	reload(left, alone);
	goes_over("keys:keys0", "tcp:lo");
	do {
		NEED(now_ns() < until, "%u sockets were open, and %u are", open.sockets, closed.sockets);
		nap(10 * MC_MSEC);
		closed = held();
	} while (closed.sockets + 2 > open.sockets); /* its rail had one at either end; keys have none */
	for (int i = 0; i < 20; i++) /* until everything that is kept once is there */
		reload(left, i & 1 ? alone : both);
	reload(left, both);
	goes_over("tcp:lo", "keys:keys0");
	later = held();
	for (int i = 0; i < 200; i++)
		reload(left, i & 1 ? both : alone);
	goes_over("tcp:lo", "keys:keys0");
	open = held();
	printf("200 reloads: descriptors %u -> %u, threads %u -> %u, bytes %zu -> %zu\n", later.fds, open.fds,
	       later.threads, open.threads, later.bytes, open.bytes);
	CHECK(open.fds <= later.fds + 4, "descriptors: %u became %u", later.fds, open.fds);
	CHECK(open.threads <= later.threads + 2, "threads: %u became %u", later.threads, open.threads);
	CHECK(open.bytes <= later.bytes + 200 * KEPT, "bytes: %zu became %zu", later.bytes, open.bytes);
	end();
}

static void bad(void)
{
	char many[1024] = "{\"*\": [[\"tcp:lo\"], [";
	struct mc_error err = {0};

	begin(TCP, TCP, plain);
	for (struct mc_engine *e = left; e; e = e == left ? right : NULL) {
		refused(e, "{\"*\": [[\"tcp:lo\"]", NULL, NULL, -EINVAL, ".json:");
		refused(e, "{\"*\": [[\"tcp:nosuch0\"], [\"tcp:lo\"]]}", NULL, NULL, -ENODEV, "nosuch0");
		refused(e, "{\"*\": [[\"tcp:lo\", {\"device\": \"tcp:nosuch0\", \"require\": true}]]}", NULL, NULL,
			-ENXIO, "nosuch0");
		refused(e, "{\"*\": [[\"nosuch:lo\"]]}", NULL, NULL, -ENODEV, "nosuch");
		refused(e, "{\"cpu:7\": [[\"keys:keys0\"]]}", NULL, NULL, -EINVAL, "no row covers memory at 'cpu:0'");
		refused(e, NULL, "port", "1", -EINVAL, "port cannot change");
		refused(e, NULL, "peer_timeout", "9s", -EINVAL, "peer_timeout cannot change");
		refused(e, NULL, "transports.tcp.lanes", "2", -EINVAL, "transports.tcp.lanes cannot change");
		refused(e, NULL, "metadata_server", "file:///tmp", -EINVAL, "metadata_server cannot change");
	}
	/* More than an engine that is open takes: those that were opened for it are closed again. */
	for (int i = 0; i < 17; i++)
		snprintf(many + strlen(many), sizeof many - strlen(many), "%s\"keys:keys%d\"", i ? ", " : "", i);
	strcat(many, "]]}");
	for (int i = 0; i < 2; i++)
		refused(left, many, NULL, NULL, -E2BIG, "17 devices");
	refused_for_size();
	CHECK(mc_engine_reload(left, NULL, T, NULL) == -EINVAL, "no config");
	CHECK(mc_engine_reload(NULL, NULL, T, NULL) == -EINVAL, "no engine");
	rounds_pass();
	/* A plugin that is not open takes any option, and has it when it is opened. */
	CHECK(reload_with(left, KEYS, "transports.keys.lanes", "2", &err) == 0, "%s", err.text);
	refused(left, NULL, "transports.keys.lanes", "3", -EINVAL, "transports.keys.lanes cannot change");
	reload(right, KEYS);
	for (uint64_t until = now_ns() + 4 * T; !bytes_over("keys:keys0/1"); rounds_pass())
		NEED(now_ns() < until, "the second lane carries nothing");
	end();
}

/* A device that is refused has asked the metadata service something, which answers when nobody waits any more: the
 * answer finds what it comes to, and the engine's end waits for it behind its caller's back. */
static void late_answers(void)
{
	static const char *const lacking = "{\"*\": [[\"keys:keys0\", {\"device\": \"tcp:nosuch0\", \"require\": true}]]}";
	struct mc_error err = {0};
	struct mc_config *c;
	char url[64];

	snprintf(url, sizeof url, "bent://%s", dir);
	snprintf(left_matrix, sizeof left_matrix, "%s/left.json", dir);
	matrix_write(left_matrix, TCP);
	for (int i = 0; i < 2; i++) {
		c = config_new("left", left_matrix);
		NEED(mc_config_set(c, "metadata_server", url, &err) == 0, "%s", err.text);
		NEED(mc_engine_open(c, T, &left, &err) == 0, "%s", err.text);
		setenv("SLOW_PUT_MS", "2500", 1);
		matrix_write(left_matrix, lacking);
		CHECK(mc_engine_reload(left, c, T, &err) == -ENXIO, "%s", err.text);
		matrix_write(left_matrix, TCP);
		/* Once the answers come while the engine is open, once while it is closed. */
		if (i == 0) {
			nap(4 * MC_SEC);
			CHECK(mc_engine_reload(left, c, T, &err) == 0, "%s", err.text);
		}
		unsetenv("SLOW_PUT_MS");
		CHECK(mc_engine_close(left, i == 0 ? T : 0) == (i == 0 ? 0 : -ETIMEDOUT), "close %d", i);
		mc_config_free(c);
	}
	nap(5 * MC_SEC);
}

/* One request now takes this long. */
static uint64_t time_of_one(struct mc_segment *s, unsigned char *local)
{
	uint64_t start = now_ns();

	CHECK(move_one(left, MC_OP_READ, local, s, (uintptr_t)there, SLICE, T) == 0, "read");
	return now_ns() - start;
}

/* Options of an open plugin, and the core's own. */
static void options(void)
{
	struct mc_error err = {0};
	struct mc_segment *s;
	unsigned char *local;
	struct mc_batch *b;
	struct mc_request r = {.opcode = MC_OP_READ, .len = SLICE};

	begin(KEYS, KEYS, plain);
	s = segment_new(left, "right");
	local = memory_new(left, SLICE);
	refused(left, NULL, "transports.keys.depth", "3", -EINVAL, "transports.keys.depth cannot change");
	CHECK(reload_with(left, NULL, "transports.keys.latency", "50ms", &err) == 0, "%s", err.text);
	CHECK(time_of_one(s, local) >= 50 * MC_MSEC, "the latency is not there");
	rounds_pass();
	/* Left out again: it has its default. */
	reload(left, KEYS);
	rounds_pass();
	/* A batch has the deadline that was in force when it was made. */
	CHECK(reload_with(left, NULL, "transports.keys.latency", "3s", &err) == 0, "%s", err.text);
	{
		struct mc_config *c = config_new("left", left_matrix);

		CHECK(mc_config_set(c, "transports.keys.latency", "3s", &err) == 0 &&
		      mc_config_set(c, "deadline", "200ms", &err) == 0 && mc_config_set(c, "spin", "0", &err) == 0 &&
		      mc_config_set(c, "spill", "true", &err) == 0 && mc_config_set(c, "retry_count", "20", &err) == 0 &&
		      mc_config_set(c, "rail_window", "4ms", &err) == 0 && mc_engine_reload(left, c, T, &err) == 0,
		      "%s", err.text);
		mc_config_free(c);
	}
	NEED(mc_batch_new(left, 1, &b) == 0, "batch");
	r.local = local;
	r.segment = s;
	r.offset = (uintptr_t)there;
	NEED(mc_batch_submit(b, &r, 1, NULL) == 0, "submit");
	CHECK(mc_batch_wait(b, T) == 0 && status_of(b, 0) == -ETIMEDOUT, "%d", status_of(b, 0));
	mc_batch_free(b);
	reload(left, KEYS);
	mc_segment_close(s);
	end();
}

/* ---- many at once ----------------------------------------------------------------------------- */

static const char *const all[] = {
	TCP, KEYS, KEYS_LAST, "{\"*\": [[\"tcp:lo\", \"keys:keys0\"]]}",
	"{\"cpu:0\": [[\"keys:keys1\"], [\"tcp:lo\"]], \"*\": [[\"tcp:lo\"]]}",
	"{\"*\": [[\"keys:keys1\", \"keys:keys0\"], [{\"device\": \"tcp:lo\", \"weight\": 2}]]}",
	"{\"*\": [[\"tcp:lo\"", "{\"*\": [[\"keys:down\"]]}", "{\"cpu:9\": [[\"tcp:lo\"]]}",
};
enum { NR_GOOD = 6, NR_ALL = 9 };
static atomic_uint nr_reloads;

static void *reload_much(void *arg)
{
	struct mc_engine *e = arg;
	unsigned seed = e == left ? 1 : 2;

	while (!atomic_load(&stop)) {
		unsigned which = (unsigned)rand_r(&seed) % NR_ALL;
		struct mc_error err = {0};
		int r = reload_with(e, all[which], NULL, NULL, &err);

		CHECK((r == 0) == (which < NR_GOOD), "%s: %d %s", all[which], r, err.text);
		atomic_fetch_add(&nr_reloads, 1);
	}
	return NULL;
}

static void *register_much(void *arg)
{
	struct mc_engine *e = arg;
	unsigned char *mem = aligned_alloc(4096, SLICE);
	struct mc_error err = {0};

	memset(mem, 1, SLICE);
	while (!atomic_load(&stop)) {
		CHECK(mc_memory_register(e, mem, SLICE, "*", MC_ACCESS_ALL, T, &err) == 0, "%s", err.text);
		CHECK(mc_memory_unregister(e, mem, T, &err) == 0, "%s", err.text);
	}
	free(mem);
	return NULL;
}

static void *open_much(void *arg)
{
	while (!atomic_load(&stop)) {
		mc_segment_close(segment_new(right, "left"));
		mc_segment_close(segment_new(left, "right"));
		bytes_over("tcp:lo");
	}
	return NULL;
}

static void together(void)
{
	void *(*const what[])(void *) = {reload_much, reload_much, register_much, register_much, open_much};
	enum { NR_WHAT = sizeof what / sizeof *what };
	pthread_t threads[NR_WHAT];
	uint64_t until;

	begin(TCP, KEYS, plain);
	for (size_t i = 0; i < NR_WHAT; i++)
		NEED(pthread_create(&threads[i], NULL, what[i], i & 1 ? left : right) == 0, "thread");
	until = now_ns() + 4 * MC_SEC;
	while (now_ns() < until || atomic_load(&nr_reloads) < 40)
		rounds_pass();
	printf("%u reloads\n", atomic_load(&nr_reloads));
	atomic_store(&stop, true);
	for (size_t i = 0; i < NR_WHAT; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < NR_CHURNERS; i++)
		pthread_join(churners[i].thread, NULL);
	/* It is as well as it was. */
	atomic_store(&stop, false);
	for (int i = 0; i < NR_CHURNERS; i++)
		NEED(pthread_create(&churners[i].thread, NULL, churn, &churners[i]) == 0, "thread");
	reload(left, KEYS);
	reload(right, KEYS);
	goes_over("keys:keys0", "tcp:lo");
	end();
}

int main(int argc, char **argv)
{
	static const struct promise cases[] = {{"order", order}, {"join", join}, {"told", told}, {"leave", leave}, {"refused", bad},
					       {"late", late_answers}, {"options", options}, {"closes", closes}, {"together", together}};

	return promises_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
