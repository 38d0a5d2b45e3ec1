/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an application does with two engines: counters, notifies with
 * back-pressure, eviction, rights of buffers, registering much and while
 * requests are under way.
 */
#include "engines.h"

#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <time.h>

#define LEN ((size_t)1 << 20)
#define NR_SMALL 10000

static const char matrix[] = "{\"*\": [[\"tcp:lo\"]]}";

/* Two engines, memory in each, and the way from the left to the right. */
static struct mc_engine *left, *right;
static struct mc_segment *segment;
static unsigned char *here, *there;
static struct mc_error err;

static void begin(const char *what)
{
	int r;

	printf("%s\n", what);
	left = engine_new("left", matrix);
	right = engine_new("right", matrix);
	r = mc_memory_alloc(left, "cpu:0", LEN, MC_ACCESS_LOCAL, T, (void **)&here, &err);
	r = r ? r : mc_memory_alloc(right, "*", LEN, MC_ACCESS_ALL, T, (void **)&there, &err);
	r = r ? r : mc_segment_open(left, "right", T, &segment, &err);
	CHECK(r == 0, "%s", err.text);
	if (r < 0)
		exit(1);
}

static void end(void)
{
	mc_segment_close(segment);
	CHECK(mc_engine_close(left, T) == 0, "close");
	CHECK(mc_engine_close(right, T) == 0, "close");
}

/* One request; its status. */
static int move(uint32_t opcode, void *local, const void *remote, uint64_t len, const char *notify)
{
	struct mc_request req = {.opcode = opcode, .local = local, .segment = segment,
				 .offset = (uintptr_t)remote, .len = len};
	struct mc_request_status st = {.size = sizeof st};
	struct mc_batch *batch = NULL;
	int r = mc_batch_new(left, 1, &batch);

	if (r == 0 && notify)
		r = mc_batch_set_notify(batch, segment, notify, strlen(notify));
	if (r == 0)
		r = mc_batch_set_deadline(batch, MC_SEC);
	if (r == 0)
		r = mc_batch_submit(batch, &req, 1, NULL);
	if (r == 0)
		r = mc_batch_wait(batch, T);
	if (r == 0)
		r = mc_batch_status(batch, 0, &st);
	if (r == 0 && st.status == 0 && notify)
		r = mc_batch_notify_status(batch);
	mc_batch_free(batch);
	return r ? r : st.status;
}

/* Processor time of all threads: what others do here at the same time is not in it. */
static double seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* ---- counters ------------------------------------------------------------------------------- */

struct totals {
	uint64_t engine[4], device[4], rail[4]; /* by which_counter */
	int rails;
};

static int which_counter(const char *name)
{
	static const char *const names[] = {"bytes_read", "bytes_written", "slices", "failures"};

	for (int i = 0; i < 4; i++)
		if (!strcmp(name, names[i]))
			return i;
	return -1;
}

static int add_counter(void *ctx, const struct mc_counter *c)
{
	struct totals *t = ctx;
	int i = which_counter(c->name);

	if (i < 0)
		return 0;
	if (!strcmp(c->object, "engine"))
		t->engine[i] += c->value;
	else if (!strcmp(c->object, "device tcp:lo"))
		t->device[i] += c->value;
	else if (!strcmp(c->object, "rail tcp:lo -> right tcp:lo"))
		t->rail[i] += c->value, t->rails += i == 0;
	else
		CHECK(0, "an object '%s'", c->object);
	return 0;
}

static struct totals totals(struct mc_engine *engine)
{
	struct totals t = {0};

	CHECK(mc_engine_counters(engine, add_counter, &t) == 0, "counters");
	for (int i = 0; i < 4; i++)
		CHECK(t.engine[i] == t.device[i], "%d: engine %llu, device %llu", i,
		      (unsigned long long)t.engine[i], (unsigned long long)t.device[i]);
	return t;
}

static int stop_at_once(void *ctx, const struct mc_counter *c)
{
	return 7;
}

/* A call that succeeds leaves the caller's error alone, whatever was asked on the way. */
static void test_error_untouched(void)
{
	static const char mark[] = "untouched";
	struct mc_config *c = config_new("third", matrix);
	struct mc_engine *third = NULL;
	void *own = malloc(LEN);
	int r;

	snprintf(err.text, sizeof err.text, "%s", mark);
	err.code = 1;
	begin("errors of calls that succeed");
	r = mc_engine_open(c, T, &third, &err);
	r = r ? r : mc_memory_register(third, own, LEN, "*", MC_ACCESS_ALL, T, &err);
	r = r ? r : mc_memory_unregister(third, own, T, &err);
	r = r ? r : mc_notify_send(segment, "one", 3, T, &err);
	CHECK(r == 0, "%d %s", r, err.text);
	CHECK(err.code == 1 && !strcmp(err.text, mark), "%d '%s'", err.code, err.text);
	CHECK(mc_engine_close(third, T) == 0, "close");
	mc_config_free(c);
	free(own);
	end();
}

static void test_counters(void)
{
	struct totals t;

	begin("counters");
	CHECK(move(MC_OP_WRITE, here, there, LEN, NULL) == 0, "write");
	CHECK(move(MC_OP_READ, here, there, LEN / 2, NULL) == 0, "read");
	t = totals(left);
	CHECK(t.rails == 1 && t.rail[0] == LEN / 2 && t.rail[1] == LEN, "%d rails", t.rails);
	CHECK(t.engine[0] == LEN / 2 && t.engine[1] == LEN && t.engine[2] >= 2 && !t.engine[3],
	      "%llu read", (unsigned long long)t.engine[0]);
	CHECK(!totals(right).engine[1], "what others do with our memory is theirs");
	CHECK(mc_engine_counters(left, stop_at_once, NULL) == 7, "stopped");
	/* The session ends; what it did stays. */
	CHECK(mc_engine_close(right, T) == 0, "close");
	for (int i = 0; i < 500; i++) {
		t = totals(left);
		CHECK(t.engine[0] == LEN / 2 && t.engine[1] == LEN, "%llu read, %llu written",
		      (unsigned long long)t.engine[0], (unsigned long long)t.engine[1]);
		if (!t.rails)
			break;
		mc_segment_close(segment);
		segment = NULL;
		usleep(10000);
	}
	CHECK(!t.rails, "%d rails without a session", t.rails);
	right = engine_new("right", matrix);
	CHECK(mc_memory_alloc(right, "*", LEN, MC_ACCESS_ALL, T, (void **)&there, &err) == 0, "%s", err.text);
	CHECK(mc_segment_open(left, "right", T, &segment, &err) == 0, "%s", err.text);
	CHECK(move(MC_OP_WRITE, here, there, LEN, NULL) == 0, "write");
	t = totals(left);
	CHECK(t.rails == 1 && t.rail[1] == LEN && t.engine[1] == 2 * LEN, "%llu written",
	      (unsigned long long)t.engine[1]);
	end();
}

/* ---- notifies ------------------------------------------------------------------------------- */

static void test_notify(void)
{
	static struct mc_notify n = {.size = sizeof n};
	char data[4097] = "one";
	struct pollfd p = {.events = POLLIN};
	int r, sent = 0, got = 0;

	begin("notify");
	p.fd = mc_notify_fd(right);
	CHECK(poll(&p, 1, 0) == 0, "nothing yet");
	CHECK(mc_notify_recv(right, &n, 0) == -EAGAIN, "nothing yet");
	CHECK(mc_notify_recv(right, &n, MC_MSEC) == -ETIMEDOUT, "nothing yet");
	CHECK(mc_notify_send(segment, data, 4097, T, &err) == -EINVAL && strstr(err.text, "4096"), "%s", err.text);
	CHECK(mc_notify_send(segment, data, 3, T, &err) == 0, "%s", err.text);
	CHECK(mc_notify_send(segment, NULL, 0, T, &err) == 0, "%s", err.text);
	CHECK(mc_notify_send(segment, data, 4096, T, &err) == 0, "%s", err.text);
	CHECK(poll(&p, 1, 10000) == 1, "the fd");
	CHECK(mc_notify_recv(right, &n, T) == 0 && n.len == 3 && !memcmp(n.data, "one", 3), "%zu", n.len);
	CHECK(!strcmp(n.from, "left") && n.generation == mc_engine_generation(left), "%s", n.from);
	CHECK(mc_notify_recv(right, &n, 0) == 0 && n.len == 0, "%zu", n.len);
	CHECK(mc_notify_recv(right, &n, 0) == 0 && n.len == 4096, "%zu", n.len);
	CHECK(poll(&p, 1, 0) == 0, "the fd");
	/* A target that takes none: the sender is held up, then told; nothing is lost or doubled. */
	for (r = 0; r == 0 && sent < 1000000; sent += r == 0) {
		memcpy(data, &sent, sizeof sent);
		r = mc_notify_send(segment, data, sizeof sent, 50 * MC_MSEC, &err);
	}
	CHECK(r == -ENOBUFS && strstr(err.text, "queue"), "%d after %d: %s", r, sent, err.text);
	CHECK(move(MC_OP_WRITE, here, there, 4096, "never") == -ENOBUFS, "a batch's notify");
	while (mc_notify_recv(right, &n, 0) == 0) {
		CHECK(n.len == sizeof got && !memcmp(n.data, &got, sizeof got), "message %d", got);
		got++;
	}
	CHECK(got == sent, "sent %d, got %d", sent, got);
	memset(here, 0x5a, LEN);
	CHECK(move(MC_OP_WRITE, here, there, LEN, "done") == 0, "write");
	CHECK(mc_notify_recv(right, &n, T) == 0 && n.len == 4 && !memcmp(n.data, "done", 4), "%zu", n.len);
	CHECK(!memcmp(here, there, LEN), "seen after the notify");
	/* One that fails tells nothing. */
	CHECK(move(MC_OP_WRITE, here, there + LEN, 1, "bad") == -EACCES, "write");
	CHECK(mc_notify_recv(right, &n, 0) == -EAGAIN, "nothing");
	end();
}

/* ---- peers ---------------------------------------------------------------------------------- */

static void test_evict(void)
{
	begin("evict");
	CHECK(move(MC_OP_WRITE, here, there, LEN, NULL) == 0, "write");
	CHECK(mc_peer_evict(right, 12345, T) == -ENOENT, "nobody");
	CHECK(mc_peer_evict(right, mc_engine_generation(left), T) == 0, "evict");
	CHECK(mc_peer_evict(right, mc_engine_generation(left), T) == -ENOENT, "gone");
	mc_segment_close(segment);
	CHECK(mc_segment_open(left, "right", T, &segment, &err) == 0, "%s", err.text);
	CHECK(move(MC_OP_WRITE, here, there, LEN, NULL) == 0, "write anew");
	end();
}

struct mover {
	pthread_t thread;
	struct mc_engine *from, *to;
	int status;
};

static void *mover_run(void *arg)
{
	struct mover *m = arg;
	struct mc_segment *s = NULL;
	struct mc_batch *batch = NULL;
	void *mine = NULL, *theirs = NULL;
	int r = mc_memory_alloc(m->from, "*", LEN, MC_ACCESS_LOCAL, T, &mine, NULL);

	r = r ? r : mc_memory_alloc(m->to, "*", LEN, MC_ACCESS_ALL, T, &theirs, NULL);
	r = r ? r : mc_segment_open(m->from, mc_engine_name(m->to), T, &s, NULL);
	r = r ? r : mc_batch_new(m->from, 1, &batch);
	for (int i = 0; r == 0 && i < 50; i++) {
		struct mc_request req = {.opcode = i & 1 ? MC_OP_READ : MC_OP_WRITE, .local = mine,
					 .segment = s, .offset = (uintptr_t)theirs, .len = LEN};

		memset(mine, i, i & 1 ? 0 : LEN);
		r = mc_batch_submit(batch, &req, 1, NULL);
		r = r ? r : mc_batch_wait(batch, T);
		r = r ? r : mc_batch_failed(batch) ? -EIO : 0;
		r = r ? r : memcmp(mine, theirs, LEN) ? -EBADMSG : 0;
		mc_batch_reset(batch);
	}
	mc_batch_free(batch);
	mc_segment_close(s);
	m->status = r;
	return NULL;
}

/* Each uses the other's memory, and its own. */
static void test_both_ways(void)
{
	struct mover movers[3] = {{.status = 1}, {.status = 1}, {.status = 1}};

	begin("both ways");
	for (int i = 0; i < 3; i++) {
		movers[i].from = i ? left : right;
		movers[i].to = i == 1 ? right : left;
		pthread_create(&movers[i].thread, NULL, mover_run, &movers[i]);
	}
	for (int i = 0; i < 3; i++) {
		pthread_join(movers[i].thread, NULL);
		CHECK(movers[i].status == 0, "%d: %d", i, movers[i].status);
	}
	end();
}

/* ---- memory --------------------------------------------------------------------------------- */

static int listed(const void *addr)
{
	struct mc_buffer_info info = {.size = sizeof info};

	for (size_t i = 0; mc_segment_buffer(segment, i, &info) == 0; i++)
		if (info.offset == (uintptr_t)addr)
			return (int)info.access;
	return -1;
}

static void test_rights(void)
{
	void *local, *readable, *writable;

	begin("rights");
	CHECK(mc_memory_alloc(right, "*", LEN, MC_ACCESS_LOCAL, T, &local, &err) == 0, "%s", err.text);
	CHECK(mc_memory_alloc(right, "*", LEN, MC_ACCESS_REMOTE_READ, T, &readable, &err) == 0, "%s", err.text);
	CHECK(mc_memory_alloc(right, "*", LEN, MC_ACCESS_REMOTE_WRITE, T, &writable, &err) == 0, "%s", err.text);
	memset(readable, 0x11, LEN);
	CHECK(move(MC_OP_READ, here, readable, LEN, NULL) == 0, "read");
	CHECK(here[LEN - 1] == 0x11, "%x", here[LEN - 1]);
	CHECK(move(MC_OP_WRITE, here, readable, 1, NULL) == -EACCES, "write to read-only");
	CHECK(move(MC_OP_WRITE, here, writable, LEN, NULL) == 0, "write");
	CHECK(move(MC_OP_READ, here, writable, 1, NULL) == -EACCES, "read of write-only");
	CHECK(move(MC_OP_READ, here, local, 1, NULL) == -EACCES, "read of local");
	CHECK(move(MC_OP_WRITE, here, local, 1, NULL) == -EACCES, "write to local");
	CHECK(move(MC_OP_READ, here, there + 1, LEN, NULL) == -EACCES, "over the end");
	CHECK(move(MC_OP_READ, here + 1, there, LEN, NULL) == -EFAULT, "over our end");
	CHECK(move(MC_OP_READ, &failures, there, 1, NULL) == -EFAULT, "not registered");
	CHECK(listed(readable) == MC_ACCESS_REMOTE_READ && listed(writable) == MC_ACCESS_REMOTE_WRITE &&
	      listed(there) == MC_ACCESS_ALL && listed(local) == -1, "the list");
	CHECK(mc_memory_free(right, readable, T, &err) == 0, "%s", err.text);
	CHECK(move(MC_OP_READ, here, readable, 1, NULL) == -EACCES, "read of what is gone");
	CHECK(mc_memory_unregister(right, writable, T, &err) == -EINVAL && strstr(err.text, "mc_memory_free"),
	      "%s", err.text);
	end();
}

/* Unregistering while requests use the memory: from its return on nobody writes there. */
static void test_unregister_busy(void)
{
	size_t len = (size_t)64 << 20;
	unsigned char *mine = malloc(len), *theirs = malloc(len);
	struct mc_request req = {.opcode = MC_OP_WRITE, .local = mine, .len = len, .offset = (uintptr_t)theirs};
	struct mc_batch *batch = NULL;

	begin("unregister in use");
	memset(mine, 1, len);
	memset(theirs, 0, len);
	CHECK(mc_memory_register(left, mine, len, "*", MC_ACCESS_LOCAL, T, &err) == 0, "%s", err.text);
	for (int end_of = 0; end_of < 2; end_of++) {
		CHECK(mc_memory_register(right, theirs, len, "*", MC_ACCESS_ALL, T, &err) == 0, "%s", err.text);
		CHECK(mc_batch_new(left, 1, &batch) == 0, "batch");
		req.segment = segment;
		CHECK(mc_batch_submit(batch, &req, 1, NULL) == 0, "submit");
		if (end_of == 0) {
			CHECK(mc_memory_unregister(right, theirs, MC_MSEC, &err) == 0, "%s", err.text);
			memset(theirs, 2, len);
		} else {
			CHECK(mc_memory_unregister(left, mine, MC_MSEC, &err) == 0, "%s", err.text);
			memset(mine, 3, len);
			CHECK(mc_memory_unregister(right, theirs, T, &err) == 0, "%s", err.text);
		}
		CHECK(mc_batch_wait(batch, T) == 0, "the request ends");
		for (size_t i = 0; i < len; i += 4096)
			if (theirs[i] == 3 || (!end_of && theirs[i] != 2)) {
				CHECK(0, "written after the end at %zu", i);
				break;
			}
		mc_batch_free(batch);
	}
	free(mine);
	free(theirs);
	end();
}

/* A peer is connected and hears of each. */
static void test_many_buffers(void)
{
	size_t stride = 8192;
	char *area = mmap(NULL, NR_SMALL * stride, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	double at;

	begin("10,000 buffers");
	memset(area, 1, NR_SMALL * stride);
	at = seconds();
	for (int i = 0; i < NR_SMALL; i++)
		if (mc_memory_register(right, area + (size_t)(i * 7919 % NR_SMALL) * stride, 4096, "*",
				       MC_ACCESS_ALL, T, &err) < 0) {
			CHECK(0, "%d: %s", i, err.text);
			break;
		}
	at = seconds() - at;
	printf("  registered in %.3f s\n", at);
	CHECK(at < 2 * SLOW, "%.3f s", at);
	CHECK(move(MC_OP_READ, here, area + (NR_SMALL - 1) * stride, 4096, NULL) == 0, "read");
	CHECK(here[4095] == 1, "read");
	CHECK(mc_segment_nr_buffers(segment) == NR_SMALL + 1, "%zu", mc_segment_nr_buffers(segment));
	at = seconds();
	for (int i = 0; i < NR_SMALL; i++)
		if (mc_memory_unregister(right, area + (size_t)(i * 7907 % NR_SMALL) * stride, T, &err) < 0) {
			CHECK(0, "%d: %s", i, err.text);
			break;
		}
	at = seconds() - at;
	printf("  unregistered in %.3f s\n", at);
	CHECK(at < 2 * SLOW, "%.3f s", at);
	munmap(area, NR_SMALL * stride);
	end();
}

static void test_large_buffer(void)
{
	size_t len = (size_t)1 << 30;
	char *area = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	double at;

	begin("1 GiB");
	at = seconds();
	CHECK(mc_memory_register(right, area, len, "*", MC_ACCESS_ALL, T, &err) == 0, "%s", err.text);
	at = seconds() - at;
	printf("  registered in %.4f s\n", at);
	CHECK(at < 0.2 * SLOW, "%.3f s", at);
	CHECK(move(MC_OP_WRITE, here, area + len - LEN, LEN, NULL) == 0, "write");
	CHECK(mc_memory_unregister(right, area, T, &err) == 0, "%s", err.text);
	munmap(area, len);
	end();
}

int main(void)
{
	engines_begin();
	test_error_untouched();
	test_counters();
	test_notify();
	test_evict();
	test_both_ways();
	test_rights();
	test_unregister_busy();
	test_many_buffers();
	test_large_buffer();
	return engines_end();
}
