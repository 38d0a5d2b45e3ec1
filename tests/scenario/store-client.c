/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The managed store's client library, several engines of one process, against a master that
 * does what the test tells it (store-fake.h): what moves where, and what becomes of a call
 * whose question or answer is lost, whose master is started anew in the middle, whose lease
 * runs out, whose replica's memory has gone.
 *
 *   store-client MATRIX
 */
#include <mooncake/store.h>

#include <poll.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define T (60 * MC_SEC)
#include "engines.h"
#include "store-fake.h"

#define LENT ((uint64_t)24 << 20)

static struct fake fake = {.lock = PTHREAD_MUTEX_INITIALIZER, .epoch = 1, .lease_ns = 30 * MC_SEC, .put_ttl_ns = 30 * MC_SEC};
static struct mc_engine *engines[4]; /* master, two that lend, one that uses */
static struct mc_store *lenders[2], *store;
static unsigned char *mem; /* registered at the user */
static unsigned char *raw; /* not */
static unsigned char *unlent; /* mapped before any memory was lent: ADRIFT_TRIES times MEM */
static char said[4000];
static pthread_mutex_t said_lock = PTHREAD_MUTEX_INITIALIZER;

#define MEM ((size_t)8 << 20)
#define ADRIFT_TRIES 16

static void on_log(void *arg, enum mc_log_level level, const char *line)
{
	pthread_mutex_lock(&said_lock);
	snprintf(said, sizeof said, "%s", line);
	pthread_mutex_unlock(&said_lock);
}

static struct mc_store *open_store(struct mc_engine *e, bool checksum)
{
	struct mc_store_options o = {.size = sizeof o, .log = on_log, .checksum = checksum, .staging_len = 1 << 20, .max_in_flight = 32};
	struct mc_store *s = NULL;
	struct mc_error err = {0};
	int r = mc_store_open(e, &o, T, &s, &err);

	CHECK(r == 0, "%d %s", r, err.text);
	if (r < 0)
		exit(1);
	return s;
}

static void fill(unsigned char *p, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len; i++)
		p[i] = (unsigned char)(i * 131 + (i >> 8) * 7 + seed);
}

static bool is(const unsigned char *p, size_t len, unsigned seed, size_t from)
{
	for (size_t i = 0; i < len; i++)
		if (p[i] != (unsigned char)((i + from) * 131 + ((i + from) >> 8) * 7 + seed))
			return false;
	return true;
}

static unsigned asked(int method)
{
	return FAKE_GET(asked[method]);
}

static int put(const char *key, const void *from, size_t len, unsigned replicas, uint32_t flags, uint64_t timeout)
{
	struct mc_store_config c = {.size = sizeof c, .nr_replicas = replicas, .flags = flags};
	struct mc_error err = {0};
	int r = mc_store_put(store, key, strlen(key), from, len, &c, timeout, &err);

	CHECK(r == 0 || err.text[0], "put %s: %d without a sentence", key, r);

	return r;
}

static int get(const char *key, void *to, size_t cap, uint64_t *len, uint32_t flags)
{
	struct mc_store_config c = {.size = sizeof c, .flags = flags};
	struct mc_error err = {0};
	int r = mc_store_get(store, key, strlen(key), to, cap, len, &c, T, &err);

	CHECK(r == 0 || err.text[0], "get %s: %d without a sentence", key, r);
	return r;
}

/* ---- cases ------------------------------------------------------------------------------------------- */

static void plain(void)
{
	static const size_t lens[] = {1, 255, 4096, 1 << 20, (5 << 20) + 3};
	char key[32];

	for (size_t i = 0; i < sizeof lens / sizeof *lens; i++)
		for (int where = 0; where < 4; where++) {
			unsigned char *from = where & 1 ? raw : mem, *to = where & 2 ? raw : mem;
			uint64_t len = 0;

			snprintf(key, sizeof key, "plain-%zu-%d", i, where);
			fill(from, lens[i], (unsigned)i);
			CHECK(put(key, from, lens[i], 1, 0, T) == 0, "%s", key);
			CHECK(put(key, from, lens[i], 1, 0, T) == -EEXIST, "%s", key);
			memset(to, 0xee, lens[i] + 64);
			CHECK(get(key, to, lens[i] + 64, &len, 0) == 0 && len == lens[i], "%s: %llu", key, (unsigned long long)len);
			CHECK(is(to, lens[i], (unsigned)i, 0) && to[lens[i]] == 0xee, "%s", key);
			CHECK(mc_store_exist(store, key, strlen(key), &len, T, NULL) == 0 && len == lens[i], "%s", key);
			CHECK(mc_store_remove(store, key, strlen(key), 0, T, NULL) == 0, "%s", key);
			CHECK(get(key, to, 10, NULL, 0) == -ENOENT && mc_store_exist(store, key, strlen(key), NULL, T, NULL) == -ENOENT,
			      "%s", key);
			CHECK(mc_store_remove(store, key, strlen(key), 0, T, NULL) == -ENOENT, "%s", key);
		}
}

/* Ranges of the caller's, some registered and some not, meet pieces of the replicas. */
static void ranges(void)
{
	struct mc_store_range in[5] = {{raw + 1, 100001}, {mem, 3}, {mem + 4096, 500000}, {raw + 200000, 0}, {raw + 300000, 600000}};
	struct mc_store_range out[3] = {{mem + 1000000, 77}, {raw + 2000000, 400000}, {mem + 3000000, 900000}};
	struct mc_store_op op = {.key = "ranges", .key_len = 6, .ranges = in, .nr_ranges = 5};
	struct mc_store_config c = {.size = sizeof c, .nr_replicas = 2};
	size_t total = 100001 + 3 + 500000 + 600000, at = 0;

	FAKE_SET(piece, 90000);
	for (int i = 0; i < 5; i++) {
		for (size_t k = 0; k < in[i].len; k++)
			((unsigned char *)in[i].addr)[k] = (unsigned char)((at + k) * 131 + ((at + k) >> 8) * 7 + 9);
		at += in[i].len;
	}
	CHECK(mc_store_put_batch(store, &op, 1, &c, T, NULL) == 0 && op.moved == total, "%d", op.status);
	for (size_t from = 0; from < total; from += 299993) {
		op = (struct mc_store_op){.key = "ranges", .key_len = 6, .ranges = out, .nr_ranges = 3, .offset = from};
		memset(raw + 2000000, 0, 400000);
		memset(mem + 3000000, 0, 900000);
		CHECK(mc_store_get_batch(store, &op, 1, NULL, T, NULL) == 0 && op.len == total, "%d", op.status);
		CHECK(op.moved == (total - from < 1300077 ? total - from : 1300077), "%llu", (unsigned long long)op.moved);
		for (size_t i = 0, done = 0; i < 3 && done < op.moved; done += out[i++].len)
			CHECK(is(out[i].addr, out[i].len < op.moved - done ? out[i].len : op.moved - done, 9, from + done),
			      "range %zu from %zu", i, from);
	}
	op = (struct mc_store_op){.key = "ranges", .key_len = 6, .ranges = out, .nr_ranges = 3, .offset = total + 5};
	CHECK(mc_store_get_batch(store, &op, 1, NULL, T, NULL) == 0 && op.moved == 0 && op.len == total, "beyond");
	FAKE_SET(piece, 0);
}

/* One question and one answer for the whole batch. */
static void batches(void)
{
	static struct mc_store_op ops[200];
	static struct mc_store_range r[200];
	static char keys[200][16];
	struct mc_store_config c = {.size = sizeof c, .flags = MC_STORE_CHAIN, .parent = "root", .parent_len = 4};
	struct mc_error err = {0};
	unsigned starts = asked(MC_WIRE_PUT_START), ends = asked(MC_WIRE_PUT_END), gets = asked(MC_WIRE_GET);

	for (int i = 0; i < 200; i++) {
		snprintf(keys[i], sizeof keys[i], "batch-%d", i);
		r[i] = (struct mc_store_range){mem + 8192 * i, 5000};
		ops[i] = (struct mc_store_op){.key = keys[i], .key_len = (uint32_t)strlen(keys[i]), .ranges = &r[i], .nr_ranges = 1};
		fill(r[i].addr, 5000, (unsigned)i);
	}
	CHECK(mc_store_put_batch(store, ops, 150, &c, T, &err) == 0, "%s", err.text);
	CHECK(asked(MC_WIRE_PUT_START) == starts + 1 && asked(MC_WIRE_PUT_END) == ends + 1, "messages");
	pthread_mutex_lock(&fake.lock);
	CHECK(fake.last_flags == 0 && !strcmp(fake.last_parent, "root"), "%s", fake.last_parent);
	pthread_mutex_unlock(&fake.lock);
	memset(mem, 0, 8192 * 200);
	CHECK(mc_store_get_batch(store, ops, 200, &c, T, &err) == 50 && err.code == -ENOENT, "%s", err.text);
	CHECK(asked(MC_WIRE_GET) == gets + 1, "messages");
	for (int i = 0; i < 200; i++)
		CHECK(i < 150 ? ops[i].status == 0 && is(r[i].addr, 5000, (unsigned)i, 0) : ops[i].status == -ENOENT, "%d: %d", i,
		      ops[i].status);
	c.flags = 0;
	CHECK(mc_store_exist_batch(store, ops, 200, &c, T, &err) == 50 && ops[149].len == 5000 && ops[150].status == -ENOENT, "exist");
	CHECK(mc_store_remove_batch(store, ops, 200, &c, T, &err) == 50 && ops[0].status == 0 && ops[199].status == -ENOENT, "remove");
}

/* Answers and questions are lost. */
static void lost(void)
{
	uint64_t len;

	fill(mem, 100000, 3);
	for (int m = MC_WIRE_PUT_START; m <= MC_WIRE_PUT_END; m++)
		for (int kind = 0; kind < 2; kind++) {
			char key[32];

			snprintf(key, sizeof key, "lost-%d-%d", m, kind);
			pthread_mutex_lock(&fake.lock);
			*(kind ? &fake.refuse[m] : &fake.lose[m]) = 2;
			pthread_mutex_unlock(&fake.lock);
			CHECK(put(key, mem, 100000, 2, 0, T) == 0, "%s", key);
			CHECK(get(key, mem + 200000, 100000, &len, 0) == 0 && is(mem + 200000, 100000, 3, 0), "%s", key);
		}
	FAKE_SET(lose[MC_WIRE_GET], 1);
	FAKE_SET(lose[MC_WIRE_EXIST], 1);
	FAKE_SET(lose[MC_WIRE_REMOVE], 1);
	CHECK(get("lost-8-0", mem + 200000, 100000, &len, 0) == 0, "get");
	CHECK(mc_store_exist(store, "lost-8-0", 8, &len, T, NULL) == 0, "exist");
	CHECK(mc_store_remove(store, "lost-8-0", 8, 0, T, NULL) == 0, "its first answer was lost, and it was there");
	FAKE_SET(refuse[MC_WIRE_GET], 1000000);
	CHECK(mc_store_get(store, "x", 1, mem, 10, NULL, NULL, 200 * MC_MSEC, NULL) < 0, "nobody answers");
	FAKE_SET(refuse[MC_WIRE_GET], 0);
}

/* A master that is started anew, before, in and after each step. */
static void restarted(void)
{
	unsigned mounts = asked(MC_WIRE_MOUNT), starts;
	uint64_t len;

	fill(mem, 100000, 5);
	CHECK(put("warm", mem, 100000, 2, 0, T) == 0, "warm");
	pthread_mutex_lock(&fake.lock);
	fake_restart(&fake);
	pthread_mutex_unlock(&fake.lock);
	/* Nothing is mounted: the value waits for it, and is there again. */
	CHECK(get("warm", mem + 200000, 100000, &len, 0) == 0 && is(mem + 200000, 100000, 5, 0), "warm");
	CHECK(asked(MC_WIRE_MOUNT) >= mounts + 2, "%u mounts", asked(MC_WIRE_MOUNT) - mounts);
	pthread_mutex_lock(&fake.lock);
	fake_restart(&fake);
	pthread_mutex_unlock(&fake.lock);
	for (int i = 0; i < 100 && put("after", mem, 1000, 1, 0, T) == -ENOSPC; i++)
		nanosleep(&(struct timespec){.tv_nsec = 50 * 1000000}, NULL);
	CHECK(mc_store_exist(store, "after", 5, NULL, T, NULL) == 0, "after");
	/* Logged, but never answered: nothing is written twice. */
	starts = asked(MC_WIRE_PUT_START);
	FAKE_SET(forget_at_end, true);
	CHECK(put("logged", mem, 100000, 1, 0, T) == 0, "logged");
	CHECK(asked(MC_WIRE_PUT_START) == starts + 1, "it was put again");
	CHECK(get("logged", mem + 200000, 100000, &len, 0) == 0 && is(mem + 200000, 100000, 5, 0), "logged");
	pthread_mutex_lock(&said_lock);
	said[0] = '\0';
	pthread_mutex_unlock(&said_lock);
}

static void leases(void)
{
	struct mc_error err = {0};
	unsigned gets;

	fill(mem, 4096, 7);
	CHECK(put("lease", mem, 4096, 1, 0, T) == 0, "put");
	gets = asked(MC_WIRE_GET);
	FAKE_SET(lease_ns, 1);
	CHECK(mc_store_get(store, "lease", 5, mem + 8192, 4096, NULL, NULL, T, &err) == -ESTALE, "%s", err.text);
	CHECK(asked(MC_WIRE_GET) == gets + 2 && strstr(err.text, "longer than a lease, twice"), "%s", err.text);
	FAKE_SET(lease_ns, 30 * MC_SEC);
	CHECK(get("lease", mem + 8192, 4096, NULL, 0) == 0 && is(mem + 8192, 4096, 7, 0), "get");
}

static void full(void)
{
	struct mc_error err = {0};
	int r;

	FAKE_SET(full, 3);
	CHECK(put("full", mem, 4096, 1, 0, T) == 0, "room comes");
	FAKE_SET(full, 1000000);
	r = mc_store_put(store, "never", 5, mem, 4096, NULL, 600 * MC_MSEC, &err);
	FAKE_SET(full, 0);
	CHECK(r == -ENOSPC && strstr(err.text, "of 1000 lent bytes 900 are used, 800 by values that are being read"), "%d %s", r, err.text);
	/* That the master's disk is full is something else. */
	FAKE_SET(no_log, 1);
	r = mc_store_put(store, "unlogged", 8, mem, 4096, NULL, T, &err);
	CHECK(r == -ENOSPC && strstr(err.text, "could not log it, its disk is full"), "%d %s", r, err.text);
	FAKE_SET(no_log, 1);
	memset(&err, 0, sizeof err);
	r = mc_store_remove(store, "full", 4, 0, T, &err);
	CHECK(r == -ENOSPC && strstr(err.text, "key 'full'") && strstr(err.text, "could not log it"), "%d %s", r, err.text);
	CHECK(mc_store_remove(store, "full", 4, 0, T, &err) == 0, "%s", err.text);
}

static int ignore(void *ctx, const struct mc_counter *counter)
{
	return 0;
}

/* One byte of an extent is another one.  What the lenders' workers did before is over once each has told its counters. */
static void spoil(const struct mc_master_extent *x, size_t at)
{
	for (int i = 1; i < 3; i++)
		mc_engine_counters(engines[i], ignore, NULL);
	((unsigned char *)(uintptr_t)x->offset)[at] ^= 0x80;
	for (int i = 1; i < 3; i++)
		mc_engine_counters(engines[i], ignore, NULL);
}

/* The bytes of one replica are wrong; of all. */
static void checksums(void)
{
	struct fake_object *o;
	uint64_t len;

	fill(mem, 300000, 11);
	CHECK(put("sum", mem, 300000, 2, MC_STORE_CHECKSUM, T) == 0, "put");
	o = fake_find(&fake, &(struct mc_master_key){.data = "sum", .len = 3});
	CHECK(o && o->has_checksum && o->nr == 2, "checksum");
	spoil(&o->extents[0], 1234); /* lenders are in this process */
	for (int i = 0; i < 4; i++) {
		memset(mem + 400000, 0, 300000);
		CHECK(get("sum", mem + 400000, 300000, &len, MC_STORE_CHECKSUM) == 0 && is(mem + 400000, 300000, 11, 0), "%d", i);
	}
	spoil(&o->extents[1], 299999);
	CHECK(get("sum", mem + 400000, 300000, &len, MC_STORE_CHECKSUM) == -EBADMSG, "both are wrong");
	CHECK(get("sum", mem + 400000, 300000, &len, 0) == 0, "nobody asked for it");
}

/* A lender takes its memory back under a value: the other replica is read. */
static void taken_back(void)
{
	struct mc_error err = {0};
	struct fake_object *o;
	void *extra = NULL;
	uint64_t len;

	CHECK(mc_store_lend(lenders[1], NULL, 1 << 20, NULL, T, &extra, &err) == 0, "%s", err.text);
	CHECK(mc_store_lend(lenders[1], (char *)extra + 4096, 4096, NULL, T, NULL, NULL) == -EEXIST, "twice");
	CHECK(mc_store_lend(lenders[1], NULL, 255, NULL, T, NULL, &err) == -EINVAL && strstr(err.text, "at least 256"), "%s", err.text);
	fill(mem, 100000, 13);
	FAKE_SET(next_segment, (uint32_t)fake.nr_segments - 1);
	CHECK(put("goes", mem, 100000, 2, 0, T) == 0, "put");
	o = fake_find(&fake, &(struct mc_master_key){.data = "goes", .len = 4});
	CHECK(o && o->extents[0].offset == (uintptr_t)extra, "the first replica lies there");
	CHECK(mc_store_take_back(lenders[1], extra, T, NULL) == 0, "take back");
	CHECK(mc_store_take_back(lenders[1], extra, T, NULL) == -ENOENT, "again");
	for (int i = 0; i < 4; i++) {
		memset(mem + 200000, 0, 100000);
		CHECK(get("goes", mem + 200000, 100000, &len, 0) == 0 && is(mem + 200000, 100000, 13, 0), "%d", i);
	}
	/* The master believes that it is there still: all replicas are wanted, or one is enough. */
	pthread_mutex_lock(&fake.lock);
	fake.segments[fake.nr_segments - 1].mounted = true;
	fake.next_segment = (uint32_t)fake.nr_segments - 1;
	pthread_mutex_unlock(&fake.lock);
	CHECK(put("half", mem, 1000, 2, 0, T) == 0, "one is enough");
	o = fake_find(&fake, &(struct mc_master_key){.data = "half", .len = 4});
	CHECK(o && o->failed == 1, "%x", o ? o->failed : 99);
	for (int i = 0; i < 4; i++) {
		memset(mem + 200000, 0, 1000);
		CHECK(get("half", mem + 200000, 1000, &len, 0) == 0 && is(mem + 200000, 1000, 13, 0), "%d", i);
	}
	/* Places of a replica that is not among those counted: no byte came, and none is said to have come. */
	FAKE_SET(objects[o - fake.objects].nr_replicas, 1);
	CHECK(get("half", mem + 200000, 1000, &len, 0) == -EHOSTDOWN, "a replica without places was read");
	FAKE_SET(next_segment, (uint32_t)fake.nr_segments - 1);
	CHECK(put("whole", mem, 1000, 2, MC_STORE_ALL_REPLICAS, T) == -EHOSTDOWN, "all are wanted");
	CHECK(mc_store_exist(store, "whole", 5, NULL, T, NULL) == -ENOENT, "and nothing is left");
	FAKE_SET(segments[fake.nr_segments - 1].mounted, false);
}

/* Memory of which the user knows, but not that it is gone, and the master neither.  It was never
 * lent before: what was would rest, and not be mounted at once. */
static size_t lend_gone(void *extra)
{
	size_t gone = FAKE_GET(nr_segments);
	struct mc_error err = {0};

	CHECK(mc_store_lend(lenders[1], extra, MEM, NULL, T, NULL, &err) == 0 && FAKE_GET(segments[gone].mounted), "%s", err.text);
	FAKE_SET(next_segment, (uint32_t)gone);
	CHECK(put("knows", mem, 1000, 1, 0, T) == 0 && mc_store_remove(store, "knows", 5, 0, T, NULL) == 0, "put, remove");
	CHECK(mc_store_take_back(lenders[1], extra, T, NULL) == 0, "take back");
	FAKE_SET(segments[gone].mounted, true);
	FAKE_SET(segments[gone].used, 0);
	return gone;
}

/* A byte of a lender's memory, which its engine may just be writing: read by the kernel, as no thread of a program with a
 * race would. */
static int byte_at(const unsigned char *addr)
{
	unsigned char byte;
	struct iovec to = {&byte, 1}, from = {(void *)(uintptr_t)addr, 1};

	return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == 1 ? byte : -1;
}

/*
 * Begin a put of several waves, and give it up once a later one than the first is seen at the second replica: the first
 * replica, whose memory is gone, has failed by then, and not because the put was given up.
 *   returns the put's status
 */
static int give_up_between_waves(unsigned char mark)
{
	struct mc_store_range r = {raw, MEM};
	struct mc_store_op op = {.key = "adrift", .key_len = 6, .ranges = &r, .nr_ranges = 1};
	struct mc_store_config c = {.size = sizeof c, .nr_replicas = 2};
	struct mc_store_job *job;
	struct mc_error err = {0};
	const unsigned char *to;

	memset(raw, mark, MEM);
	CHECK(mc_store_start(store, MC_STORE_DO_PUT, &op, 1, &c, T, &job, &err) == 0, "%s", err.text);
	to = fake_wait_place(&fake, "adrift", 1);
	CHECK(to, "the put did not begin");
	while (to && byte_at(to + MEM / 4) != mark && mc_store_job_wait(job, 0, NULL) == -EAGAIN)
		;
	mc_store_job_cancel(job);
	mc_store_job_wait(job, T, NULL);
	mc_store_job_free(job);
	return op.status;
}

/* A put that is given up while bytes of a replica that failed may still be on their way: its places are not free at once. */
static void adrift(void)
{
	int status = 0;

	for (unsigned char mark = 1; status == 0 && mark <= ADRIFT_TRIES; mark++) {
		uint64_t used[2] = {FAKE_GET(segments[0].used), FAKE_GET(segments[1].used)};
		unsigned ends = asked(MC_WIRE_PUT_END), revokes = asked(MC_WIRE_PUT_REVOKE);
		size_t gone = lend_gone(unlent + (mark - 1) * MEM);

		ends++; /* what makes the memory known */
		FAKE_SET(next_segment, (uint32_t)gone);
		status = give_up_between_waves(mark);
		CHECK(asked(MC_WIRE_PUT_REVOKE) == revokes && asked(MC_WIRE_PUT_END) == ends + 1, "status %d: %u ends, %u revokes",
		      status, asked(MC_WIRE_PUT_END) - ends, asked(MC_WIRE_PUT_REVOKE) - revokes);
		FAKE_SET(segments[gone].mounted, false);
		/* It was faster than this thread. */
		if (status == 0)
			CHECK(mc_store_remove(store, "adrift", 6, 0, T, NULL) == 0, "remove");
		for (size_t k = 0; k < 2; k++)
			FAKE_SET(segments[k].used, used[k]);
	}
	CHECK(status == -ECANCELED, "%d", status);
}

static void jobs(void)
{
	static struct mc_store_op ops[16];
	static struct mc_store_range r[16];
	static char keys[16][16];
	struct mc_store_job *job[16];
	struct mc_error err = {0};

	for (int i = 0; i < 16; i++) {
		snprintf(keys[i], sizeof keys[i], "job-%d", i);
		r[i] = (struct mc_store_range){(i & 1 ? raw : mem) + 65536 * i, 60000};
		fill(r[i].addr, 60000, (unsigned)i);
		ops[i] = (struct mc_store_op){.key = keys[i], .key_len = (uint32_t)strlen(keys[i]), .ranges = &r[i], .nr_ranges = 1};
		CHECK(mc_store_start(store, MC_STORE_DO_PUT, &ops[i], 1, NULL, T, &job[i], &err) == 0, "%s", err.text);
	}
	CHECK(mc_store_close(store, T) == -EBUSY, "jobs are there");
	for (int i = 0; i < 16; i++) {
		struct pollfd p = {.fd = mc_store_job_fd(job[i]), .events = POLLIN};

		CHECK(poll(&p, 1, 60000) == 1 && mc_store_job_wait(job[i], 0, &err) == 0, "%d %s", i, err.text);
		mc_store_job_free(job[i]);
		CHECK(get(keys[i], mem + (4 << 20), 60000, NULL, 0) == 0 && is(mem + (4 << 20), 60000, (unsigned)i, 0), "%d", i);
	}
	/* One that waits for room, and is not wanted any more. */
	FAKE_SET(full, 1000000);
	ops[0].key = "job-x";
	ops[0].key_len = 5;
	CHECK(mc_store_start(store, MC_STORE_DO_PUT, &ops[0], 1, NULL, T, &job[0], &err) == 0, "%s", err.text);
	CHECK(mc_store_job_wait(job[0], 50 * MC_MSEC, &err) == -EAGAIN, "it waits");
	mc_store_job_cancel(job[0]);
	CHECK(mc_store_job_wait(job[0], T, &err) == 1 && ops[0].status == -ECANCELED, "%d", ops[0].status);
	mc_store_job_free(job[0]);
	FAKE_SET(full, 0);
}

/* The lenders are told to cut a writer off. */
static void evicted(void)
{
	unsigned before = FAKE_GET(nr_evicted);

	fill(mem, 1000, 1);
	FAKE_SET(evict, mc_engine_generation(engines[3]));
	for (int i = 0; i < 600 && FAKE_GET(nr_evicted) == before; i++)
		nanosleep(&(struct timespec){.tv_nsec = 100 * 1000000}, NULL);
	CHECK(FAKE_GET(nr_evicted) > before, "nobody says that it was cut off");
	CHECK(put("evicted", mem, 1000, 2, 0, T) == 0, "it connects anew");
}

static void misuse(void)
{
	struct mc_store_config c = {.size = sizeof c, .flags = MC_STORE_FORCE};
	struct mc_store_options o = {.size = sizeof o, .master = "nobody"};
	struct mc_store *s;
	struct mc_error err = {0};

	CHECK(mc_store_put(store, "", 0, mem, 1, NULL, T, &err) == -EINVAL && strstr(err.text, "0 bytes"), "%s", err.text);
	CHECK(mc_store_put(store, "k", 1, mem, 0, NULL, T, &err) == -EINVAL, "%s", err.text);
	CHECK(mc_store_put(store, "k", 1, mem, 1, &c, T, &err) == -EINVAL && strstr(err.text, "flags"), "%s", err.text);
	c = (struct mc_store_config){.size = sizeof c, .nr_replicas = 9};
	CHECK(mc_store_put(store, "k", 1, mem, 1, &c, T, &err) == -EINVAL, "%s", err.text);
	CHECK(mc_store_get_batch(store, NULL, 0, NULL, T, &err) == -EINVAL, "%s", err.text);
	CHECK(mc_store_open(engines[3], &o, T, &s, &err) == -ENOENT && strstr(err.text, "'mooncake_master'"), "%s", err.text);
	o.master = NULL;
	FAKE_SET(foreign, true);
	CHECK(mc_store_open(engines[3], &o, T, &s, &err) == -EPROTONOSUPPORT && strstr(err.text, "versions 2 to 3") &&
	      strstr(err.text, "this library 1 to 1"), "%s", err.text);
	FAKE_SET(foreign, false);
	CHECK(mc_store_close(NULL, 0) == 0, "NULL");
}

static bool mounted(size_t idx)
{
	bool is;

	pthread_mutex_lock(&fake.lock);
	is = idx < fake.nr_segments && fake.segments[idx].mounted;
	pthread_mutex_unlock(&fake.lock);
	return is;
}

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void wait_mounted(size_t idx)
{
	for (int i = 0; i < 3000 && !mounted(idx); i++)
		nanosleep(&(struct timespec){.tv_nsec = 10 * 1000000}, NULL);
	CHECK(mounted(idx), "segment %zu was not mounted", idx);
}

/* Who was sent to memory may use it for so long, though the master has given its lender up, or it is lent anew. */
static void rests(void)
{
	size_t idx = FAKE_GET(nr_segments);
	struct mc_store *s;
	uint64_t begin;

	pthread_mutex_lock(&fake.lock);
	fake.lease_ns = fake.put_ttl_ns = 1200 * MC_MSEC;
	pthread_mutex_unlock(&fake.lock);
	s = open_store(engines[3], false);
	CHECK(mc_store_lend(s, raw, MEM, NULL, T, NULL, NULL) == 0 && mounted(idx), "lend");
	begin = now_ms();
	pthread_mutex_lock(&fake.lock);
	fake.nr_known = 0;
	fake.segments[idx].mounted = false;
	pthread_mutex_unlock(&fake.lock);
	wait_mounted(idx);
	CHECK(now_ms() - begin >= 1200, "given up, and lent again after %llu ms", (unsigned long long)(now_ms() - begin));
	begin = now_ms();
	CHECK(mc_store_take_back(s, raw, T, NULL) == 0, "take back");
	CHECK(mc_store_lend(s, raw + 4096, 4096, NULL, T, NULL, NULL) == 0, "lend");
	wait_mounted(idx + 1);
	CHECK(now_ms() - begin >= 1200, "lent anew after %llu ms", (unsigned long long)(now_ms() - begin));
	CHECK(mc_store_close(s, T) == 0, "close");
}

int main(int argc, char **argv)
{
	static const char *const names[] = {"mooncake_master", "lender-a", "lender-b", "user"};
	static void (*const cases[])(void) = {plain, ranges, batches, lost, restarted, leases, full, checksums, taken_back, adrift, jobs,
					      evicted, misuse};
	struct mc_error err = {0};
	void *own = mmap(NULL, LENT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	unlent = mmap(NULL, ADRIFT_TRIES * MEM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	engines_begin();
	for (int i = 0; i < 4; i++)
		engines[i] = engine_new(names[i], argc > 1 ? argv[1] : "{\"*\": [[\"tcp:lo\"]]}");
	CHECK(mc_rpc_serve(engines[0], MC_STORE_SERVICE, fake_handle, &fake, &fake.service, &err) == 0, "%s", err.text);
	for (int i = 0; i < 2; i++) {
		lenders[i] = open_store(engines[1 + i], false);
		CHECK(mc_store_lend(lenders[i], i ? own : NULL, LENT, NULL, T, NULL, &err) == 0, "%s", err.text);
	}
	CHECK(mc_memory_alloc(engines[3], "*", MEM, MC_ACCESS_LOCAL, T, (void **)&mem, &err) == 0, "%s", err.text);
	raw = mmap(NULL, MEM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	store = open_store(engines[3], false);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		cases[i]();
	CHECK(mc_store_close(store, T) == 0, "close");
	rests();
	for (int i = 0; i < 2; i++)
		CHECK(mc_store_close(lenders[i], T) == 0, "close");
	mc_rpc_unserve(fake.service);
	for (int i = 3; i >= 0; i--)
		mc_engine_close(engines[i], T);
	return engines_end();
}
