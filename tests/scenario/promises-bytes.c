/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The promises about bytes (P3 and P4 of the design), and many requests at once:
 * engines of one process, so that the test sees both ends.  The hostile initiator
 * is a whole engine whose tcp frames are changed on their way into the socket:
 * sendmsg here stands before that of libc.
 *
 *   promises-bytes P3|P4|many
 */
#include "peers.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

#define LEN PEER_LEN

static const char *const plain[] = {NULL};

/* ---- P3 -------------------------------------------------------------------------------------- */

/* Requests of len bytes, LEN / 64 apart. */
static void p3_over(const char *const *settings, size_t len)
{
	enum { NR = 64, ROUNDS = SLOW > 1 ? 10 : 40 };
	struct mc_engine *a = engine_with("left", settings), *b = engine_with("right", settings);
	unsigned char *local = memory_new(a, LEN), *there = memory_new(b, LEN);
	struct mc_segment *s = segment_new(a, "right");
	static struct mc_notify n = {.size = sizeof n};
	struct mc_request reqs[NR];
	struct mc_batch *batch;

	NEED(mc_batch_new(a, NR, &batch) == 0, "batch");
	for (size_t i = 0; i < NR; i++)
		reqs[i] = (struct mc_request){.opcode = MC_OP_WRITE, .local = local + i * (LEN / NR), .segment = s,
					      .offset = (uintptr_t)there + i * (LEN / NR), .len = len};
	for (unsigned char round = 1; round <= ROUNDS; round++) {
		memset(local, round, LEN);
		NEED(mc_batch_set_notify(batch, s, &round, 1) == 0, "notify");
		NEED(mc_batch_submit(batch, reqs, NR, NULL) == 0, "submit");
		/* The batch is not waited for: the message alone says that the bytes are there. */
		NEED(mc_notify_recv(b, &n, T) == 0, "no message");
		CHECK(n.len == 1 && n.data[0] == round, "round %u: message of %zu", round, n.len);
		for (size_t i = 0; i < NR; i++)
			CHECK(all_are(there + i * (LEN / NR), len, round), "round %u: told before request %zu", round, i);
		CHECK(mc_batch_wait(batch, T) == 0 && !mc_batch_failed(batch), "wait");
		CHECK(mc_batch_notify_status(batch) == 0, "%d", mc_batch_notify_status(batch));
		NEED(mc_batch_reset(batch) == 0, "reset");
		/* What was read is here when the batch is complete. */
		memset(local, 0, LEN);
		for (size_t i = 0; i < NR; i++)
			reqs[i].opcode = MC_OP_READ;
		NEED(mc_batch_submit(batch, reqs, NR, NULL) == 0, "submit");
		CHECK(mc_batch_wait(batch, T) == 0 && !mc_batch_failed(batch), "wait");
		for (size_t i = 0; i < NR; i++) {
			CHECK(all_are(local + i * (LEN / NR), len, round), "round %u: complete before request %zu", round, i);
			reqs[i].opcode = MC_OP_WRITE;
		}
		NEED(mc_batch_reset(batch) == 0, "reset");
	}
	/* None at all for a batch of which one request failed. */
	reqs[NR / 2].offset = 1;
	NEED(mc_batch_set_notify(batch, s, "x", 1) == 0 && mc_batch_submit(batch, reqs, NR, NULL) == 0, "submit");
	CHECK(mc_batch_wait(batch, T) == 0 && mc_batch_failed(batch) == 1, "%zu failed", mc_batch_failed(batch));
	CHECK(mc_batch_notify_status(batch) == -ECANCELED, "%d", mc_batch_notify_status(batch));
	CHECK(mc_notify_recv(b, &n, 50 * MC_MSEC) == -ETIMEDOUT, "a message of a batch that failed");
	mc_batch_free(batch);
	mc_segment_close(s);
	CHECK(mc_engine_close(a, T) == 0 && mc_engine_close(b, T) == 0, "close");
}

static void p3(void)
{
	static const char *const tcp[] = {"transports.tcp.lanes=2", NULL};
	/* Small writes are visible only after a flush. */
	static const char *const keys[] = {"nic_priority_matrix={\"*\": [[\"keys:keys0\", \"keys:keys1\"]]}",
					   "transports.keys.lanes=2", "transports.keys.delay_writes=true", NULL};

	p3_over(tcp, LEN / 64);
	p3_over(keys, LEN / 64);
	p3_over(keys, 2000);
}

/* ---- P4 -------------------------------------------------------------------------------------- */

static void register_new(struct mc_engine *e, void *mem, size_t len, uint32_t access)
{
	struct mc_error err = {0};
	int r = mc_memory_register(e, mem, len, "cpu:0", access, T, &err);

	NEED(r == 0, "%d %s", r, err.text);
}

/* What the next requests on the wire are changed to. */
static atomic_bool hostile;
static _Atomic uint64_t hostile_offset, hostile_len; /* len 0: as it was */
static atomic_uint nr_hostile;
static atomic_uint nr_frames; /* of requests */

/* Each bad request fails alone. */
static void p4_ranges(struct mc_engine *a, struct mc_engine *b)
{
	static unsigned char target[3][65536], foreign[4096];
	unsigned char *local = memory_new(a, 65536);
	struct mc_segment *s;
	struct mc_batch *batch = NULL;
	struct mc_error err = {0};

	register_new(b, target[0], sizeof target[0], MC_ACCESS_ALL);
	register_new(b, target[1], sizeof target[1], MC_ACCESS_REMOTE_READ);
	s = segment_new(a, "right");
	/* After our snapshot: found by one refresh. */
	register_new(b, target[2], sizeof target[2], MC_ACCESS_REMOTE_WRITE);

	uint64_t all = (uintptr_t)target[0], read_only = (uintptr_t)target[1], late = (uintptr_t)target[2];
	const struct {
		uint32_t opcode;
		void *local;
		uint64_t offset, len;
		int status;
	} cases[] = {
		{MC_OP_WRITE, local, all, 4096, 0},
		{MC_OP_WRITE, local, all - 1, 4096, -EACCES},
		{MC_OP_READ, local, all + 65535, 2, -EACCES},
		{MC_OP_WRITE, local, UINT64_MAX - 99, 4096, -EACCES},
		{MC_OP_WRITE, local, read_only, 4096, -EACCES},
		{MC_OP_READ, local, read_only, 4096, 0},
		{MC_OP_READ, local, late, 4096, -EACCES},
		{MC_OP_WRITE, local, late, 4096, 0},
		{MC_OP_WRITE, foreign, all, 4096, -EFAULT},
		{MC_OP_WRITE, local + 65536 - 8, all, 16384, -EFAULT},
		{MC_OP_WRITE, local, all + 4096, 4096, 0},
	};
	enum { NR = sizeof cases / sizeof *cases };
	struct mc_request reqs[NR];

	/* Nothing is sent for what the snapshot does not allow. */
	atomic_store(&nr_frames, 0);
	for (size_t i = 0; i < NR; i++)
		if (cases[i].status == -EACCES)
			CHECK(move_one(a, cases[i].opcode, cases[i].local, s, cases[i].offset, cases[i].len, T) == -EACCES,
			      "request %zu alone", i);
	CHECK(atomic_load(&nr_frames) == 0, "%u frames for what is refused", atomic_load(&nr_frames));
	memset(local, 9, 65536);
	memset(target[1], 9, sizeof target[1]);
	for (size_t i = 0; i < NR; i++)
		reqs[i] = (struct mc_request){.opcode = cases[i].opcode, .local = cases[i].local, .segment = s,
					      .offset = cases[i].offset, .len = cases[i].len};
	NEED(mc_batch_new(a, NR, &batch) == 0 && mc_batch_submit(batch, reqs, NR, NULL) == 0, "submit");
	CHECK(mc_batch_wait(batch, T) == 0, "wait");
	for (size_t i = 0; i < NR; i++)
		CHECK(status_of(batch, i) == cases[i].status, "request %zu: %d", i, status_of(batch, i));
	mc_batch_free(batch);
	CHECK(all_are(target[0], 8192, 9) && all_are(target[0] + 8192, 65536 - 8192, 0), "bytes");
	CHECK(all_are(target[2], 4096, 9), "bytes of the late buffer");
	/* Taken back: refused again. */
	CHECK(mc_memory_unregister(b, target[2], T, &err) == 0, "%s", err.text);
	CHECK(move_one(a, MC_OP_WRITE, local, s, late, 4096, T) == -EACCES, "unregistered");
	mc_segment_close(s);
	CHECK(mc_memory_unregister(b, target[0], T, &err) == 0 && mc_memory_unregister(b, target[1], T, &err) == 0,
	      "%s", err.text);
}

static void put_le(unsigned char *p, uint64_t value, int bytes)
{
	for (int i = 0; i < bytes; i++)
		p[i] = (unsigned char)(value >> (8 * i));
}

ssize_t sendmsg(int fd, const struct msghdr *msg, int flags)
{
	static ssize_t (*real)(int, const struct msghdr *, int); /* the same for every thread */
	ssize_t (*call)(int, const struct msghdr *, int) = __atomic_load_n(&real, __ATOMIC_RELAXED);
	unsigned char *p = msg->msg_iovlen ? msg->msg_iov[0].iov_base : NULL;

	if (!call) {
		call = (ssize_t (*)(int, const struct msghdr *, int))dlsym(RTLD_NEXT, "sendmsg");
		__atomic_store_n(&real, call, __ATOMIC_RELAXED);
	}
	atomic_fetch_add(&nr_frames, p && msg->msg_iov[0].iov_len >= 32 && p[0] == 0x43 && p[1] == 0x54 &&
				     (p[3] == 1 || p[3] == 2));
	/* A frame of version 1, WRITE (1) or READ (2), with one entry. */
	if (p && atomic_load(&hostile) && msg->msg_iov[0].iov_len >= 32 && p[0] == 0x43 && p[1] == 0x54 &&
	    p[2] == 1 && (p[3] == 1 || p[3] == 2) && p[4] == 1 && p[5] == 0) {
		put_le(p + 16, atomic_load(&hostile_offset), 8);
		if (atomic_load(&hostile_len) && p[3] == 2)
			put_le(p + 24, atomic_load(&hostile_len), 4);
		atomic_fetch_add(&nr_hostile, 1);
	}
	return call(fd, msg, flags);
}

static atomic_uint nr_broke;

static void on_log(void *arg, enum mc_log_level level, const char *line)
{
	if (strstr(line, "broke"))
		atomic_fetch_add(&nr_broke, 1);
}

static void p4_hostile(struct mc_engine *a, struct mc_engine *b)
{
	static unsigned char target[3][65536]; /* the middle one is registered */
	unsigned char *local = memory_new(a, 65536);
	uint64_t base = (uintptr_t)target[1];
	const struct {
		uint64_t offset, len;
	} wrong[] = {
		{base - 1, 0}, {base + 1, 0}, {base + 65536, 0}, {base - 65536, 0}, {0, 0}, {UINT64_MAX, 0},
		{UINT64_MAX - 65535, 0}, {UINT64_MAX - 4095, 0}, {base + (UINT64_C(1) << 63), 0},
		{base, 65537}, {base, UINT32_C(1) << 30}, {UINT64_MAX - (UINT32_C(1) << 30) + 1, UINT32_C(1) << 30},
	};
	struct mc_segment *s;

	register_new(b, target[1], 65536, MC_ACCESS_ALL);
	s = segment_new(a, "right");
	memset(local, 3, 65536);
	CHECK(move_one(a, MC_OP_WRITE, local, s, base, 65536, T) == 0, "before");
	mc_log_set_level(MC_LOG_WARN);
	mc_log_set_handler(on_log, NULL);
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		atomic_store(&hostile_offset, wrong[i].offset);
		atomic_store(&hostile_len, wrong[i].len);
		for (uint32_t op = wrong[i].len ? MC_OP_READ : 0; op < MC_OP_COUNT; op++) {
			int r;

			if (wrong[i].len && op == MC_OP_WRITE)
				continue;
			memset(local, 4, 65536);
			atomic_store(&nr_hostile, 0);
			atomic_store(&hostile, true);
			r = move_one(a, op, local, s, base, 65536, 2 * MC_SEC);
			atomic_store(&hostile, false);
			CHECK(atomic_load(&nr_hostile) == 1, "%zu: %u frames were changed", i, atomic_load(&nr_hostile));
			CHECK(r == -EACCES, "%zu, opcode %u: %d", i, op, r);
			CHECK(all_are(local, 65536, 4), "%zu: bytes were read", i);
			CHECK(all_are(target[0], 65536, 0) && all_are(target[1], 65536, 3) &&
			      all_are(target[2], 65536, 0), "%zu: bytes were written", i);
		}
	}
	memset(local, 5, 65536);
	CHECK(move_one(a, MC_OP_WRITE, local, s, base, 65536, T) == 0 && all_are(target[1], 65536, 5), "after");
	CHECK(atomic_load(&nr_broke) == 0, "the connection broke %u times", atomic_load(&nr_broke));
	mc_log_set_handler(NULL, NULL);
	mc_segment_close(s);
}

static void p4(void)
{
	/* Frames of one entry, one stream. */
	static const char *const settings[] = {"slice_size=1GiB", NULL};
	struct mc_engine *a = engine_with("left", settings), *b = engine_with("right", settings);

	p4_ranges(a, b);
	p4_hostile(a, b);
	CHECK(mc_engine_close(a, T) == 0 && mc_engine_close(b, T) == 0, "close");
}

/* ---- many ------------------------------------------------------------------------------------ */

struct submitter {
	struct mc_engine *engine;
	struct mc_segment *segment;
	unsigned char *local;
	uint64_t offset;
	unsigned seed;
	pthread_t thread;
};

/* Its own part of the target, checked by reading back. */
static void *submitter_run(void *arg)
{
	enum { PART = 65536, ROUNDS = 50 };
	struct submitter *t = arg;

	for (unsigned round = 0; round < ROUNDS; round++) {
		unsigned char seed = (unsigned char)(t->seed + round);
		struct mc_batch *b;

		memset(t->local, seed, PART);
		b = submit_many(t->engine, MC_OP_WRITE, t->local, t->segment, t->offset, PART, 64, 1024, T);
		CHECK(mc_batch_wait(b, T) == 0 && !mc_batch_failed(b), "write");
		mc_batch_free(b);
		memset(t->local, 0, PART);
		b = submit_many(t->engine, MC_OP_READ, t->local, t->segment, t->offset, PART, 64, 1024, T);
		CHECK(mc_batch_wait(b, T) == 0 && !mc_batch_failed(b), "read");
		mc_batch_free(b);
		CHECK(all_are(t->local, PART, seed), "bytes of thread %u", t->seed);
	}
	return NULL;
}

static void many(void)
{
	enum { NR = 100000, THREADS = 4 };
	struct mc_engine *a = engine_with("left", plain), *b = engine_with("right", plain);
	unsigned char *local = memory_new(a, LEN), *there = memory_new(b, LEN);
	struct mc_segment *s = segment_new(a, "right");
	struct submitter threads[THREADS];
	struct mc_batch *batch;
	size_t done = 0;

	for (size_t i = 0; i < LEN; i++)
		local[i] = (unsigned char)(i * 7 + (i >> 12));
	batch = submit_many(a, MC_OP_WRITE, local, s, (uintptr_t)there, 32 * NR, NR, 32, T);
	CHECK(mc_batch_wait(batch, T) == 0, "wait: %zu of %d", mc_batch_poll(batch), NR);
	for (size_t i = 0; i < NR; i++)
		done += status_of(batch, i) == 0;
	CHECK(done == NR && mc_batch_poll(batch) == NR, "%zu of %d", done, NR);
	CHECK(!memcmp(local, there, 32 * NR), "bytes");
	mc_batch_free(batch);
	for (unsigned i = 0; i < THREADS; i++) {
		threads[i] = (struct submitter){.engine = a, .segment = s, .local = local + i * 65536,
						.offset = (uintptr_t)there + i * 65536, .seed = 1 + i * 60};
		NEED(pthread_create(&threads[i].thread, NULL, submitter_run, &threads[i]) == 0, "thread");
	}
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(threads[i].thread, NULL);
	mc_segment_close(s);
	CHECK(mc_engine_close(a, T) == 0 && mc_engine_close(b, T) == 0, "close");
}

int main(int argc, char **argv)
{
	static const struct promise promises[] = {{"P3", p3}, {"P4", p4}, {"many", many}};

	return promises_main(argc, argv, promises, sizeof promises / sizeof *promises);
}
