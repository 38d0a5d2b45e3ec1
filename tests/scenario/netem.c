/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two hosts, as network name spaces, with two cables that get worse: slow, lossy,
 * dead and healed.  On cable 0 is a peer that suffers it, on cable 1 another one that
 * must not notice.  Needs root and netem; tests/lab/guest has both.
 *
 *   netem CASE...     all on the same engines, in this order
 */
#include "peers.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

/* Seconds of silence after which a peer is gone.  An emulated machine is slow. */
#define BOUND (4 * MC_SEC)
#define TIMEOUT "peer_timeout=4"
#define BLOCK ((size_t)64 << 10)

static struct mc_engine *engine;
static struct peer far, other;
static atomic_uint nr_gone; /* times that a peer was said to be gone */

/* ---- cables ------------------------------------------------------------------------------------ */

static void enter(const char *space)
{
	char path[64];
	int fd;

	snprintf(path, sizeof path, "/run/netns/%s", space);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	NEED(fd >= 0 && setns(fd, CLONE_NEWNET) == 0, "%s: %s", path, strerror(errno));
	close(fd);
}

/* One at each end of cable 0, which obeys at once: to start a program takes a second here. */
static FILE *tc[2];

/* "here" has near0 and near1, "there0" and "there1" have far0 and far1. */
static void cables(void)
{
	NEED(sh("ip netns add here && ip netns add there0 && ip netns add there1") == 0, "name spaces");
	for (int i = 0; i < 2; i++)
		NEED(sh("ip link add near%d netns here type veth peer name far%d netns there%d", i, i, i) == 0 &&
		     sh("ip -n here addr add 10.79.%d.1/24 dev near%d", i, i) == 0 &&
		     sh("ip -n there%d addr add 10.79.%d.2/24 dev far%d", i, i, i) == 0 &&
		     sh("ip -n here link set near%d up && ip -n there%d link set far%d up", i, i, i) == 0, "cable %d", i);
	tc[0] = popen("exec tc -n here -batch -", "w");
	tc[1] = popen("exec tc -n there0 -batch -", "w");
	NEED(tc[0] && tc[1], "tc");
}

static void cable(const char *verb, const char *how)
{
	static const char *const devices[2] = {"near0", "far0"};

	for (int i = 0; i < 2; i++)
		NEED(fprintf(tc[i], "qdisc %s dev %s root netem %s\n", verb, devices[i], how) > 0 && fflush(tc[i]) == 0,
		     "tc has ended");
}

/* What becomes of cable 0, at both ends. */
static void cable_is(const char *how)
{
	cable("add", how);
}

static void cable_heals(void)
{
	cable("del", "");
}

/* ---- traffic ------------------------------------------------------------------------------------- */

/* Writes, reads back and compares on cable 1 all the time. */
static struct {
	struct mc_segment *segment;
	unsigned char *local;
	pthread_t thread;
	atomic_bool stop;
	atomic_uint rounds, failed;
	_Atomic uint64_t longest; /* ns, of one round */
} beside;

static unsigned char byte_of(unsigned seed, size_t i)
{
	return (unsigned char)(seed * 151 + i * 7 + (i >> 8));
}

/* 0: written, read back and right. */
static int there_and_back(struct mc_segment *s, unsigned char *local, size_t len, unsigned seed)
{
	for (uint32_t op = 0; op < 2; op++) {
		struct mc_batch *b;
		int r;

		for (size_t i = 0; i < len; i++)
			local[i] = op ? 0 : byte_of(seed, i);
		b = submit_many(engine, op ? MC_OP_READ : MC_OP_WRITE, local, s, (uintptr_t)PEER_AT, len, len / 16384,
				16384, 6 * T);
		r = mc_batch_wait(b, 6 * T);
		for (size_t i = 0; i < len / 16384 && r == 0; i++)
			r = status_of(b, i);
		mc_batch_free(b);
		if (r < 0)
			return r;
	}
	for (size_t i = 0; i < len; i++)
		if (local[i] != byte_of(seed, i))
			return -EBADMSG;
	return 0;
}

static void *beside_run(void *arg)
{
	for (unsigned n = 0; !atomic_load(&beside.stop); n++) {
		uint64_t t = now_ns();
		int r = there_and_back(beside.segment, beside.local, BLOCK, n);

		if (r < 0) {
			printf("beside: %d\n", r);
			atomic_fetch_add(&beside.failed, 1);
		}
		t = now_ns() - t;
		if (t > atomic_load(&beside.longest))
			atomic_store(&beside.longest, t);
		atomic_fetch_add(&beside.rounds, 1);
		nap(20 * MC_MSEC);
	}
	return NULL;
}

static void beside_start(void)
{
	beside.segment = segment_new(engine, "other");
	beside.local = memory_new(engine, BLOCK);
	NEED(pthread_create(&beside.thread, NULL, beside_run, NULL) == 0, "thread");
}

/* From now on; and what came of it. */
static unsigned beside_mark(void)
{
	atomic_store(&beside.longest, 0);
	return atomic_load(&beside.rounds);
}

/* Who waits for the other peer's trouble to end does one round meanwhile.  Times are for the reader: the
 * machine that emulates this one may have much else to do. */
static void beside_check(const char *what, unsigned mark, uint64_t ns)
{
	unsigned rounds = atomic_load(&beside.rounds) - mark;
	uint64_t longest = atomic_load(&beside.longest);

	printf("%s: the other peer: %u rounds in %llu ms, the longest took %llu ms\n", what, rounds,
	       (unsigned long long)(ns / MC_MSEC), (unsigned long long)(longest / MC_MSEC));
	CHECK(rounds >= 5, "%s: the other peer was held up", what);
}

/* ---- cases --------------------------------------------------------------------------------------- */

/* Far away, and not every packet arrives: every byte does, and nobody is gone. */
static void lossy(void)
{
	struct mc_segment *s = segment_new(engine, "far");
	unsigned char *local = memory_new(engine, BLOCK);
	unsigned gone = atomic_load(&nr_gone), mark = beside_mark();
	uint64_t t = now_ns();

	cable_is("delay 20ms loss 5%");
	for (unsigned i = 0; i < 6; i++) {
		int r = there_and_back(s, local, BLOCK, i);

		CHECK(r == 0, "round %u: %d", i, r);
	}
	CHECK(now_ns() - t > 6 * 2 * 20 * MC_MSEC, "there was no delay");
	CHECK(atomic_load(&nr_gone) == gone, "a peer that is there was said to be gone");
	beside_check("delay and loss", mark, now_ns() - t);
	cable_heals();
	mc_segment_close(s);
	CHECK(mc_memory_free(engine, local, T, NULL) == 0, "free");
}

/* A cable that carries little: what goes to others does not wait for it. */
static void narrow(void)
{
	struct mc_segment *s = segment_new(engine, "far");
	unsigned char *local = memory_new(engine, PEER_LEN);
	unsigned gone = atomic_load(&nr_gone), mark;
	struct mc_batch *b;
	uint64_t t;

	memset(local, 3, PEER_LEN);
	cable_is("rate 4mbit");
	b = submit_many(engine, MC_OP_WRITE, local, s, far.base, PEER_LEN, PEER_LEN / BLOCK, BLOCK, 6 * T);
	mark = beside_mark();
	t = now_ns();
	nap(3 * MC_SEC);
	CHECK(mc_batch_poll(b) < PEER_LEN / BLOCK, "it is not narrow");
	beside_check("4 Mbit/s", mark, now_ns() - t);
	CHECK(atomic_load(&nr_gone) == gone, "a peer that is there was said to be gone");
	cable_heals();
	CHECK(mc_batch_wait(b, T) == 0 && !mc_batch_failed(b), "%zu of %zu", mc_batch_failed(b), mc_batch_poll(b));
	CHECK(all_are(far.mem, PEER_LEN, 3), "bytes");
	mc_batch_free(b);
	mc_segment_close(s);
	CHECK(mc_memory_free(engine, local, T, NULL) == 0, "free");
}

/* Nothing comes through, nothing says so. */
static void cut(uint32_t op)
{
	enum { NR = 2048 };
	struct mc_segment *s = segment_new(engine, "far");
	unsigned char *local = memory_new(engine, PEER_LEN), *guarded = op == MC_OP_WRITE ? far.mem : local;
	unsigned gone = atomic_load(&nr_gone), mark, typed = 0, calm = 0;
	struct mc_error err = {0};
	struct mc_batch *b;
	uint64_t t;
	int r;

	memset(local, 1, PEER_LEN);
	b = submit_many(engine, op, local, s, far.base, PEER_LEN, NR, 1 << 20, 6 * T);
	nap(100 * MC_MSEC);
	cable_is("loss 100%");
	mark = beside_mark();
	t = now_ns();
	CHECK(mc_batch_poll(b) < NR, "too fast to be cut in the middle");
	CHECK(mc_batch_wait(b, 6 * T) == 0, "wait");
	/* Of the bound and 10 %, and as much again for a machine that is emulated on a busy one. */
	CHECK(now_ns() - t < BOUND * 22 / 10, "%llu ms", (unsigned long long)((now_ns() - t) / MC_MSEC));
	for (size_t i = 0; i < NR; i++)
		typed += status_of(b, i) == -EHOSTDOWN;
	CHECK(typed && typed == mc_batch_failed(b), "%u typed of %zu failed", typed, mc_batch_failed(b));
	CHECK(atomic_load(&nr_gone) > gone, "it was not said that the peer is gone");
	mc_batch_free(b);
	mc_segment_close(s);
	/* Cut off for longer than the bound, both ends have dropped the rest. */
	beside_check("cut", mark, now_ns() - t);
	while (now_ns() < t + BOUND * 11 / 10 + MC_SEC)
		nap(10 * MC_MSEC);
	memset(guarded, GUARD, PEER_LEN);
	CHECK(mc_segment_open(engine, "far", BOUND / 2, &s, &err) < 0, "opened over a dead cable");
	cable_heals();
	t = now_ns();
	nap(2 * MC_SEC);
	CHECK(guard_holds(guarded, PEER_LEN), "a ghost wrote");
	/* It is used again, by itself. */
	for (calm = 0; (r = mc_segment_open(engine, "far", T, &s, &err)) < 0 && calm < 10; calm++)
		nap(200 * MC_MSEC);
	NEED(r == 0, "the peer is not back: %s", err.text);
	printf("back %llu ms after the cable was healed\n", (unsigned long long)((now_ns() - t) / MC_MSEC));
	r = there_and_back(s, local, BLOCK, 77);
	CHECK(r == 0, "after its return: %d", r);
	mc_segment_close(s);
	CHECK(mc_memory_free(engine, local, T, NULL) == 0, "free");
}

static void cut_writes(void)
{
	cut(MC_OP_WRITE);
}

static void cut_reads(void)
{
	cut(MC_OP_READ);
}

/* For less than the bound: nothing fails. */
static void wink(void)
{
	struct mc_segment *s = segment_new(engine, "far");
	unsigned char *local = memory_new(engine, PEER_LEN);
	unsigned gone = atomic_load(&nr_gone);
	struct mc_batch *b;

	memset(local, 9, PEER_LEN);
	b = submit_many(engine, MC_OP_WRITE, local, s, far.base, PEER_LEN, 64, 1 << 20, 6 * T);
	nap(50 * MC_MSEC);
	cable_is("loss 100%");
	nap(BOUND / 4);
	cable_heals();
	CHECK(mc_batch_wait(b, 6 * T) == 0 && !mc_batch_failed(b), "%zu failed", mc_batch_failed(b));
	CHECK(all_are(far.mem, PEER_LEN, 9), "bytes");
	CHECK(atomic_load(&nr_gone) == gone, "a peer that is there was said to be gone");
	mc_batch_free(b);
	mc_segment_close(s);
	CHECK(mc_memory_free(engine, local, T, NULL) == 0, "free");
}

static const struct promise cases[] = {
	{"lossy", lossy}, {"narrow", narrow}, {"wink", wink}, {"cut-writes", cut_writes}, {"cut-reads", cut_reads},
};

static void on_log(void *arg, enum mc_log_level level, const char *line)
{
	if (strstr(line, "nothing was heard of it"))
		atomic_fetch_add(&nr_gone, 1);
	/* What a reader of a failure wants to know. */
	if (strstr(line, "session") || strstr(line, "rail"))
		printf("  %llu: %s\n", (unsigned long long)(now_ns() / MC_MSEC), line);
}

static void peers_start(void)
{
	static const char *const on_far[] = {TIMEOUT, "advertise_address=",
					     "nic_priority_matrix={\"*\": [[\"tcp:far0\"]]}", NULL};
	static const char *const on_other[] = {TIMEOUT, "advertise_address=",
					       "nic_priority_matrix={\"*\": [[\"tcp:far1\"]]}", NULL};
	static const char *const mine[] = {TIMEOUT, "advertise_address=",
					   "nic_priority_matrix={\"*\": [[\"tcp:near0\", \"tcp:near1\"]]}", NULL};

	enter("there0");
	peer_start(&far, "far", on_far);
	enter("there1");
	peer_start(&other, "other", on_other);
	enter("here");
	mc_log_set_level(MC_LOG_DEBUG);
	mc_log_set_handler(on_log, NULL);
	engine = engine_with("near", mine);
}

int main(int argc, char **argv)
{
	self = argv[0];
	signal(SIGPIPE, SIG_IGN);
	if (argc >= 4 && !strcmp(argv[1], "--serve"))
		return peer_serve(argc - 2, argv + 2);
	engines_begin();
	cables();
	peers_start();
	beside_start();
	cases_run(argc, argv, cases, sizeof cases / sizeof *cases);
	atomic_store(&beside.stop, true);
	pthread_join(beside.thread, NULL);
	CHECK(!atomic_load(&beside.failed), "%u rounds to the other peer failed", atomic_load(&beside.failed));
	mc_segment_close(beside.segment);
	CHECK(mc_engine_close(engine, T) == 0, "close");
	mc_log_set_handler(NULL, NULL);
	peer_end(&far);
	peer_end(&other);
	for (int i = 0; i < 2; i++)
		CHECK(pclose(tc[i]) == 0, "tc did not obey");
	return engines_end();
}
