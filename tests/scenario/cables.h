/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cables of a guest under the test's hand (tests/lab/rails): taken out, put in, lossy; what
 * goes over which; and traffic that is checked byte by byte meanwhile.
 */
#ifndef MC_TESTS_CABLES_H
#define MC_TESTS_CABLES_H

#include "roles.h"

#include <pthread.h>
#include <stdatomic.h>

/* What an emulated machine with others beside it needs where a person would expect a second. */
#define PATIENCE (30 * MC_SEC)

/* Programs that obey at once: to start one takes half a second here. */
static FILE *cable_ip, *cable_tc;

static inline void cables_end(void)
{
	CHECK(pclose(cable_ip) == 0, "ip did not obey");
	CHECK(pclose(cable_tc) == 0, "tc did not obey");
}

/* The near end's device goes down, the far one has no carrier. */
static inline void cable_down(unsigned i)
{
	NEED(fprintf(cable_ip, "link set ea%u down\n", i) > 0 && fflush(cable_ip) == 0, "ip has ended");
}

static inline void cable_up(unsigned i)
{
	NEED(sh("exec $LAB_RAILS up %u", i) == 0, "cable %u does not come up", i);
}

/* A cable as it is when all is well: narrow, so that one alone is not as fast as two. */
#define CABLE_WELL "rate 200mbit limit 100000"

/* What becomes of the packets of both directions besides. */
static inline void cable_netem(unsigned i, const char *how)
{
	for (const char *end = "ab"; *end; end++)
		fprintf(cable_tc, "qdisc replace dev e%c%u root netem " CABLE_WELL " %s\n", *end, i, how);
	NEED(fflush(cable_tc) == 0, "tc has ended");
}

static inline void cable_deaf(unsigned i)
{
	cable_netem(i, "loss 100%");
}

static inline void cable_heal(unsigned i)
{
	cable_netem(i, "loss 0%");
}

static inline void cables_begin(unsigned nr)
{
	NEED(getenv("LAB_RAILS"), "to be run by tests/lab/rails, in a guest");
	cable_ip = popen("exec ip -batch -", "we");
	cable_tc = popen("exec tc -batch -", "we");
	NEED(cable_ip && cable_tc, "ip, tc");
	for (unsigned i = 0; i < nr; i++)
		cable_heal(i);
}

/* ---- counters ------------------------------------------------------------------------------------ */

struct counting {
	const char *object, *name; /* the beginning of the object */
	uint64_t sum;
	unsigned nr;
};

static inline int counting_one(void *ctx, const struct mc_counter *counter)
{
	struct counting *c = ctx;

	if (!strncmp(counter->object, c->object, strlen(c->object)) && !strcmp(counter->name, c->name)) {
		c->sum += counter->value;
		c->nr++;
	}
	return 0;
}

static inline uint64_t count(struct mc_engine *e, const char *object, const char *name)
{
	struct counting c = {object, name, 0, 0};

	mc_engine_counters(e, counting_one, &c);
	return c.sum;
}

/* Bytes of the engine's requests by one of its devices, "rdma:ra0". */
static inline uint64_t carried(struct mc_engine *e, const char *device)
{
	char object[96];

	snprintf(object, sizeof object, "device %s", device);
	return count(e, object, "bytes_read") + count(e, object, "bytes_written");
}

/* ---- traffic ------------------------------------------------------------------------------------- */

/* Writes, reads back and compares all the time, in a thread; hardly anything of that is not the wire's. */
struct traffic {
	struct mc_engine *engine;
	struct mc_segment *segment;
	unsigned char *local, *pattern;
	uint64_t offset;
	size_t len;
	pthread_t thread;
	uint64_t pause;
	atomic_bool stop;
	atomic_uint rounds, failed;
	_Atomic uint64_t longest; /* ns: the longest round since the mark */
};

/* 0, or what the first request that failed came to. */
static inline int traffic_round(struct traffic *t, unsigned round)
{
	const unsigned char *want = t->pattern + round * 4099u % t->len;
	size_t nr = 16;

	memcpy(t->local, want, t->len);
	for (uint32_t op = 0; op < 2; op++) {
		struct mc_batch *b = submit_many(t->engine, op ? MC_OP_READ : MC_OP_WRITE, t->local, t->segment, t->offset,
						 t->len, nr, t->len / nr, PATIENCE);
		int r = mc_batch_wait(b, PATIENCE);

		for (size_t i = 0; i < nr && r == 0; i++)
			r = status_of(b, i);
		mc_batch_free(b);
		if (r < 0)
			return r;
		if (!op)
			memset(t->local, GUARD, t->len);
	}
	return memcmp(t->local, want, t->len) ? -EBADMSG : 0;
}

static inline void *traffic_run(void *arg)
{
	struct traffic *t = arg;

	while (!atomic_load(&t->stop)) {
		uint64_t start = now_ns();
		int r = traffic_round(t, atomic_load(&t->rounds));

		start = now_ns() - start;
		if (r < 0) {
			printf("round %u of '%s': %d\n", atomic_load(&t->rounds), mc_segment_name(t->segment), r);
			atomic_fetch_add(&t->failed, 1);
		}
		if (start > atomic_load(&t->longest))
			atomic_store(&t->longest, start);
		atomic_fetch_add(&t->rounds, 1);
		if (t->pause)
			nap(t->pause);
	}
	return NULL;
}

/* In the first len bytes of the target's buffer. */
static inline void traffic_start(struct traffic *t, struct mc_engine *e, const char *target, size_t len, uint64_t pause)
{
	struct mc_buffer_info info = {.size = sizeof info};

	*t = (struct traffic){.engine = e, .len = len, .pause = pause};
	t->segment = segment_new(e, target);
	NEED(mc_segment_buffer(t->segment, 0, &info) == 0 && info.len >= len, "'%s' has no buffer for it", target);
	t->offset = info.offset;
	t->local = memory_new(e, len);
	t->pattern = malloc(2 * len);
	NEED(t->pattern, "memory");
	for (size_t i = 0; i < 2 * len; i++)
		t->pattern[i] = byte_of((unsigned)(i >> 16), i);
	NEED(pthread_create(&t->thread, NULL, traffic_run, t) == 0, "thread");
}

static inline int print_one(void *ctx, const struct mc_counter *counter)
{
	if (counter->value)
		printf("    %s: %s %llu\n", counter->object, counter->name, (unsigned long long)counter->value);
	return 0;
}

/* For whoever reads of a failure: what the engine has counted, and where in the kernel everybody is. */
static inline void print_state(struct mc_engine *e)
{
	mc_engine_counters(e, print_one, NULL);
	(void)sh("cd /proc; for t in [0-9]*/task/*; do [ -r $t/comm ] && read -r c <$t/comm && "
		 "case $c in mc-*|scenario-*|ip) echo \"$t $c:\"; cat $t/stack;; esac; done");
}

/* So many rounds more; in ns, the longest of them. */
static inline uint64_t traffic_goes_on(struct traffic *t, unsigned rounds, const char *what)
{
	uint64_t end = now_ns() + PATIENCE;
	unsigned from = atomic_load(&t->rounds);

	atomic_store(&t->longest, 0);
	while (atomic_load(&t->rounds) < from + rounds) {
		if (now_ns() > end)
			print_state(t->engine);
		NEED(now_ns() < end, "%s: %u rounds in %d s", what, atomic_load(&t->rounds) - from,
		     (int)(PATIENCE / MC_SEC));
		nap(MC_MSEC);
	}
	return atomic_load(&t->longest);
}

static inline void traffic_end(struct traffic *t, const char *what)
{
	atomic_store(&t->stop, true);
	pthread_join(t->thread, NULL);
	CHECK(atomic_load(&t->failed) == 0, "%s: %u of %u rounds failed", what, atomic_load(&t->failed),
	      atomic_load(&t->rounds));
	mc_segment_close(t->segment);
	CHECK(mc_memory_free(t->engine, t->local, T, NULL) == 0, "free");
	free(t->pattern);
}

/* Until the device has carried `more` bytes; how long that took, in ms. */
static inline unsigned carries(struct mc_engine *e, const char *device, uint64_t more, const char *what)
{
	uint64_t start = now_ns(), from = carried(e, device);

	while (carried(e, device) < from + more) {
		NEED(now_ns() < start + PATIENCE, "%s: %s is not used", what, device);
		nap(2 * MC_MSEC);
	}
	return (unsigned)((now_ns() - start) / MC_MSEC);
}

#endif
