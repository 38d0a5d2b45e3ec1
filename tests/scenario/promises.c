/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The promises about peers that fail (P1, P2, P5, P6 of the design): targets are processes
 * that are frozen, killed and started again while requests are on their way.
 *
 *   promises P1|P1-alive|P1-refresh|P2|P5|P6
 */
#include "peers.h"

#include <pthread.h>
#include <stdatomic.h>

/* Seconds of silence after which a peer is gone, everywhere here. */
#ifndef BOUND_S
#define BOUND_S 1
#endif
#ifndef ONE_SIDED
#define ONE_SIDED 0 /* 1: over a wire that needs no agent */
#endif
#define BOUND (BOUND_S * MC_SEC)
#define TEXT_OF(number) #number
#define TEXT(number) TEXT_OF(number)
static const char *const settings[] = {"peer_timeout=" TEXT(BOUND_S), NULL};

/* After the bound and 10 %. */
#define TYPED_BY(start) ((start) + BOUND * 11 / 10 * SLOW)

/* A second peer, written to all the time by a thread of its own. */
struct other {
	struct mc_engine *engine;
	struct peer peer;
	struct mc_segment *segment;
	unsigned char *local;
	pthread_t thread;
	atomic_bool stop;
	atomic_uint rounds, failed;
	_Atomic uint64_t longest; /* ns, of one batch */
};

static void *other_run(void *arg)
{
	struct other *o = arg;

	while (!atomic_load(&o->stop)) {
		uint64_t t = now_ns();
		struct mc_batch *b = submit_many(o->engine, MC_OP_WRITE, o->local, o->segment, o->peer.base,
						 PEER_LEN, 16, 65536, T);

		if (mc_batch_wait(b, T) != 0 || mc_batch_failed(b))
			atomic_fetch_add(&o->failed, 1);
		mc_batch_free(b);
		t = now_ns() - t;
		if (t > atomic_load(&o->longest))
			atomic_store(&o->longest, t);
		atomic_fetch_add(&o->rounds, 1);
		/* Not all of a machine that tests share. */
		nap(MC_MSEC);
	}
	return NULL;
}

static void other_start(struct other *o, struct mc_engine *e)
{
	*o = (struct other){.engine = e};
	peer_start(&o->peer, "other", settings);
	o->segment = segment_new(e, "other");
	o->local = memory_new(e, PEER_LEN);
	NEED(pthread_create(&o->thread, NULL, other_run, o) == 0, "thread");
}

static void other_end(struct other *o)
{
	atomic_store(&o->stop, true);
	pthread_join(o->thread, NULL);
	CHECK(atomic_load(&o->failed) == 0, "%u batches to the other peer failed", atomic_load(&o->failed));
	mc_segment_close(o->segment);
	peer_end(&o->peer);
}

/* ---- P1 -------------------------------------------------------------------------------------- */

static void count_call(void *arg, struct mc_batch *batch)
{
	atomic_fetch_add((atomic_uint *)arg, 1);
}

/* Each in the time that it was given, whatever the peer does; 0 is no answer that a frozen one gives. */
#define IN_TIME(call, span)                                                                        \
	({                                                                                         \
		uint64_t t_ = now_ns();                                                            \
		int r_ = (call);                                                                   \
		t_ = now_ns() - t_;                                                                \
		CHECK(t_ < (span) + 200 * MC_MSEC * SLOW, "%s took %llu ms", #call,                \
		      (unsigned long long)(t_ / MC_MSEC));                                         \
		r_;                                                                                \
	})

/* Every call that can wait, with less time than the bound. */
static void p1_calls(void)
{
	struct mc_engine *e = engine_with("initiator", settings), *fresh = engine_with("fresh", settings);
	struct peer target = {0};
	static unsigned char more[8192];
	struct mc_segment *s, *none = NULL;
	struct mc_error err = {0};
	unsigned char *used = memory_new(e, PEER_LEN);
	uint64_t span = 150 * MC_MSEC;
	struct mc_batch *b;

	peer_start(&target, "target", settings);
	s = segment_new(e, "target");
	CHECK(move_one(e, MC_OP_WRITE, used, s, target.base, PEER_LEN, T) == 0, "write");
	peer_signal(&target, SIGSTOP);
	b = submit_many(e, MC_OP_WRITE, used, s, target.base, PEER_LEN, 16, 1 << 20, MC_FOREVER);
	CHECK(IN_TIME(mc_batch_wait(b, span), span) == -ETIMEDOUT, "wait");
	CHECK(IN_TIME(mc_segment_open(fresh, "target", span, &none, &err), span) < 0 && !none, "open");
	CHECK(IN_TIME(mc_memory_register(e, more, sizeof more, "*", MC_ACCESS_ALL, span, &err), span) == 0, "%s",
	      err.text);
	CHECK(IN_TIME(mc_memory_unregister(e, more, span, &err), span) == 0, "%s", err.text);
	CHECK(IN_TIME(mc_notify_send(s, "x", 1, span, &err), span) < 0, "notify");
	/* A buffer in use is fenced first, which is over with the bound at the latest. */
	IN_TIME(mc_memory_free(e, used, span, &err), span + BOUND * SLOW);
	IN_TIME(mc_peer_evict(e, target.generation, span), span);
	CHECK(mc_batch_wait(b, T) == 0 && mc_batch_failed(b), "no write failed");
	mc_batch_free(b);
	mc_segment_close(s);
	CHECK(IN_TIME(mc_engine_close(fresh, span), span) == 0, "close");
	CHECK(mc_engine_close(e, T) == 0, "close");
	peer_signal(&target, SIGCONT);
	peer_end(&target);
}

/* At the deadline the fence begins; the silent peer cannot answer it before the bound. */
static void p1_frozen(void)
{
	enum { NR = 64 };
	struct mc_engine *e = engine_with("initiator", settings);
	struct peer target = {0};
	struct other other;
	struct mc_segment *s;
	struct mc_batch *b;
	atomic_uint calls = 0;
	unsigned char *local;
	uint64_t start;
	unsigned rounds, ended = 0;

	peer_start(&target, "target", settings);
	other_start(&other, e);
	s = segment_new(e, "target");
	local = memory_new(e, PEER_LEN);
	CHECK(move_one(e, MC_OP_WRITE, local, s, target.base, PEER_LEN, T) == 0, "write");
	NEED(mc_batch_new(e, NR, &b) == 0, "batch");
	mc_batch_set_deadline(b, 300 * MC_MSEC);
	mc_batch_set_callback(b, count_call, &calls);
	rounds = atomic_load(&other.rounds);
	start = now_ns();
	peer_signal(&target, SIGSTOP);
	for (size_t i = 0; i < NR; i++) {
		struct mc_request req = {.opcode = i % 2 ? MC_OP_READ : MC_OP_WRITE, .local = local + (i << 16),
					 .segment = s, .offset = target.base + (i << 16), .len = 65536};

		NEED(mc_batch_submit(b, &req, 1, NULL) == 0, "submit");
	}
	CHECK(mc_batch_wait(b, T) == 0, "wait");
	CHECK(now_ns() - start > 300 * MC_MSEC, "ended before the deadline");
	CHECK(now_ns() < TYPED_BY(start), "%llu ms", (unsigned long long)((now_ns() - start) / MC_MSEC));
	CHECK(mc_batch_poll(b) == NR && mc_batch_failed(b) == NR, "%zu ended, %zu failed", mc_batch_poll(b),
	      mc_batch_failed(b));
	for (size_t i = 0; i < NR; i++)
		ended += status_of(b, i) == -ETIMEDOUT || status_of(b, i) == -EHOSTDOWN;
	CHECK(ended == NR, "%u of %d have a type, the first %d", ended, NR, status_of(b, 0));
	CHECK(atomic_load(&other.rounds) > rounds + 10, "the other peer stood still");
	peer_signal(&target, SIGCONT);
	nap(300 * MC_MSEC);
	/* Late answers end nothing again. */
	CHECK(atomic_load(&calls) == 1, "called %u times", atomic_load(&calls));
	CHECK(mc_batch_poll(b) == NR, "%zu", mc_batch_poll(b));
	mc_batch_free(b);
	mc_segment_close(s);
	other_end(&other);
	CHECK(mc_engine_close(e, T) == 0, "close");
	peer_end(&target);
}

/* A range that the table does not hold waits for one answer of the peer, who would have longer to give it. */
static void p1_refresh(void)
{
	static const char *const patient[] = {"peer_timeout=30s", NULL};
	struct mc_engine *e = engine_with("initiator", patient);
	struct peer target = {0};
	unsigned char *local = memory_new(e, 4096);
	uint64_t span = 200 * MC_MSEC, nowhere;
	struct mc_segment *s;
	struct mc_batch *b;

	peer_start(&target, "target", patient);
	nowhere = target.base + ((uint64_t)1 << 30);
	s = segment_new(e, "target");
	peer_signal(&target, SIGSTOP);
	b = submit_many(e, MC_OP_WRITE, local, s, nowhere, 4096, 1, 4096, span);
	CHECK(IN_TIME(mc_batch_wait(b, T), span) == 0 && status_of(b, 0) == -ETIMEDOUT, "%d", status_of(b, 0));
	mc_batch_free(b);
	b = submit_many(e, MC_OP_WRITE, local, s, nowhere, 4096, 1, 4096, MC_FOREVER);
	mc_batch_cancel(b);
	CHECK(IN_TIME(mc_batch_wait(b, T), 0) == 0 && status_of(b, 0) == -ECANCELED, "%d", status_of(b, 0));
	mc_batch_free(b);
	b = submit_many(e, MC_OP_WRITE, local, s, nowhere, 4096, 1, 4096, MC_FOREVER);
	CHECK(IN_TIME((mc_batch_free(b), 0), 0) == 0, "free");
	/* The late answers concern nobody. */
	peer_signal(&target, SIGCONT);
	CHECK(move_one(e, MC_OP_WRITE, local, s, nowhere, 4096, T) == -EACCES, "nowhere");
	CHECK(move_one(e, MC_OP_WRITE, local, s, target.base, 4096, T) == 0, "write");
	mc_segment_close(s);
	CHECK(mc_engine_close(e, T) == 0, "close");
	peer_end(&target);
}

/* An engine is closed over a frozen peer, with a batch under way whose callback says what became of it. */
static atomic_uint nr_canceled;

static void count_canceled(void *arg, struct mc_batch *batch)
{
	for (size_t i = 0; i < 16; i++)
		if (status_of(batch, i) == -ECANCELED)
			atomic_fetch_add(&nr_canceled, 1);
}

static void p1_close(void)
{
	struct mc_engine *e = engine_with("initiator", settings);
	struct peer target = {0};
	struct mc_segment *s;
	struct mc_batch *b;
	struct mc_request reqs[16];
	unsigned char *local = memory_new(e, PEER_LEN);

	peer_start(&target, "target", settings);
	s = segment_new(e, "target");
	CHECK(move_one(e, MC_OP_WRITE, local, s, target.base, PEER_LEN, T) == 0, "write");
	peer_signal(&target, SIGSTOP);
	NEED(mc_batch_new(e, 16, &b) == 0 && mc_batch_set_callback(b, count_canceled, NULL) == 0, "batch");
	for (size_t i = 0; i < 16; i++)
		reqs[i] = (struct mc_request){.opcode = MC_OP_WRITE, .local = local, .segment = s,
					      .offset = target.base, .len = PEER_LEN};
	NEED(mc_batch_submit(b, reqs, 16, NULL) == 0, "submit");
	CHECK(IN_TIME(mc_engine_close(e, 3 * MC_SEC), 3 * MC_SEC) == 0, "close");
	CHECK(atomic_load(&nr_canceled) == 16, "%u of 16 were canceled", atomic_load(&nr_canceled));
	peer_signal(&target, SIGCONT);
	peer_end(&target);
}

/* How long the transfers that are past their deadline took to end. */
static uint64_t late_transfers(struct mc_engine *e, struct mc_segment *s, struct peer *target, unsigned char *local)
{
	enum { NR = 1024, SIZE = 256 << 10 };
	struct mc_batch *late, *b;
	unsigned ended = 0;
	uint64_t start;

	memset(local, 6, PEER_LEN);
	CHECK(move_one(e, MC_OP_WRITE, local, s, target->base, PEER_LEN, T) == 0, "write");
	start = now_ns();
	NEED(mc_batch_new(e, NR, &late) == 0 && mc_batch_new(e, NR, &b) == 0, "batch");
	mc_batch_set_deadline(late, 30 * MC_MSEC);
	/* By turns, so that both are on the wire when it breaks. */
	for (size_t i = 0; i < 2 * NR; i++) {
		struct mc_request req = {.opcode = i % 2 ? MC_OP_READ : MC_OP_WRITE, .segment = s, .len = SIZE,
					 .local = local + i / 2 * SIZE % PEER_LEN,
					 .offset = target->base + i / 2 * SIZE % PEER_LEN};

		NEED(mc_batch_submit(i % 2 ? b : late, &req, 1, NULL) == 0, "submit");
	}
	CHECK(mc_batch_wait(late, T) == 0 && mc_batch_failed(late), "all of it in 30 ms");
	start = now_ns() - start;
	for (size_t i = 0; i < NR; i++)
		ended += status_of(late, i) == 0 || status_of(late, i) == -ETIMEDOUT;
	CHECK(ended == NR, "%u of %d ended well or with their deadline", ended, NR);
	CHECK(mc_batch_wait(b, T) == 0 && !mc_batch_failed(b), "%zu of the others failed", mc_batch_failed(b));
	CHECK(all_are(local, PEER_LEN, 6), "bytes");
	mc_batch_free(late);
	mc_batch_free(b);
	return start;
}

/* The peer is well: the fence of what is past its deadline is over with its answer.  What shares the streams
 * that it ends is moved again, not failed. */
static void p1_alive(void)
{
	struct mc_engine *e = engine_with("initiator", settings);
	struct peer target = {0};
	struct mc_segment *s;
	unsigned char *local;
	uint64_t took = UINT64_MAX;

	peer_start(&target, "target", settings);
	s = segment_new(e, "target");
	local = memory_new(e, PEER_LEN);
	/* Again beside a busy neighbour, who delays an answer now and then; the bound would be waited for each time. */
	for (unsigned i = 0; i < 4 && took >= BOUND * SLOW / 2; i++)
		took = late_transfers(e, s, &target, local);
	CHECK(took < BOUND * SLOW / 2, "%llu ms", (unsigned long long)(took / MC_MSEC));
	mc_segment_close(s);
	CHECK(mc_engine_close(e, T) == 0, "close");
	peer_end(&target);
}

/* What is promised to those who set nothing. */
static void default_is(const char *key, const char *want)
{
	struct mc_config *c = NULL;

	NEED(mc_config_new(&c, NULL) == 0, "config");
	CHECK(!strcmp(mc_config_get(c, key, NULL), want), "%s is %s", key, mc_config_get(c, key, NULL));
	mc_config_free(c);
}

static void p1(void)
{
	default_is("deadline", "30s");
	p1_alive();
	p1_frozen();
	p1_calls();
	p1_refresh();
	p1_close();
}

/* ---- P2 -------------------------------------------------------------------------------------- */

/* Targets freeze, some while we write to them, at any place of their code, one while we read from it. */
static void p2_target(void)
{
	enum { NR = 2048, TARGETS = 5 };
	static const char *const names[] = {"read", "first", "second", "third", "fourth"};
	struct mc_engine *e = engine_with("initiator", settings);
	struct peer targets[TARGETS] = {0};
	unsigned char *locals[TARGETS], *guarded[TARGETS];
	struct mc_segment *s[TARGETS];
	struct mc_batch *b[TARGETS];

	for (int i = 0; i < TARGETS; i++) {
		peer_start(&targets[i], names[i], settings);
		s[i] = segment_new(e, names[i]);
		locals[i] = memory_new(e, PEER_LEN);
		guarded[i] = i ? targets[i].mem : locals[i];
	}
	for (int i = 0; i < TARGETS; i++)
		b[i] = submit_many(e, i ? MC_OP_WRITE : MC_OP_READ, locals[i], s[i], targets[i].base, PEER_LEN, NR,
				   1 << 20, T);
	nap(30 * MC_MSEC);
	for (int i = 0; i < TARGETS; i++) {
		peer_signal(&targets[i], SIGSTOP);
		CHECK(mc_batch_poll(b[i]) < NR, "too fast to be frozen in the middle");
	}
	for (int i = 0; i < TARGETS; i++) {
		/* A device serves while its process is frozen: then the batch may as well end well. */
		CHECK(mc_batch_wait(b[i], T) == 0 && (ONE_SIDED || mc_batch_failed(b[i])), "the batch");
		mc_batch_free(b[i]);
		memset(guarded[i], GUARD, PEER_LEN);
	}
	/* They were frozen for longer than half of the bound, which they notice by themselves. */
	for (int i = 0; i < TARGETS; i++)
		peer_signal(&targets[i], SIGCONT);
	nap(2 * MC_SEC);
	for (int i = 0; i < TARGETS; i++) {
		CHECK(guard_holds(guarded[i], PEER_LEN), "%s: a ghost wrote", names[i]);
		mc_segment_close(s[i]);
	}
	CHECK(mc_engine_close(e, T) == 0, "close");
	for (int i = 0; i < TARGETS; i++)
		peer_end(&targets[i]);
}

/* Requests that end early while the target is well: nothing of them comes later. */
static void p2_early(uint32_t opcode)
{
	enum { NR = 2048 };
	struct mc_engine *e = engine_with("initiator", settings);
	struct peer target = {0};
	struct mc_segment *s;
	unsigned char *local = memory_new(e, PEER_LEN), *guarded;

	peer_start(&target, "target", settings);
	s = segment_new(e, "target");
	memset(local, 1, PEER_LEN);
	memset(target.mem, 2, PEER_LEN);
	guarded = opcode == MC_OP_WRITE ? target.mem : local;
	for (int round = 0; round < 5; round++) {
		struct mc_batch *b = submit_many(e, opcode, local, s, target.base, PEER_LEN, NR, 1 << 20,
						 round % 2 ? 20 * MC_MSEC : T);

		nap(10 * MC_MSEC);
		if (round % 2 == 0)
			mc_batch_cancel(b);
		CHECK(mc_batch_wait(b, T) == 0 && mc_batch_failed(b), "the batch");
		mc_batch_free(b);
		memset(guarded, GUARD, PEER_LEN);
		nap(100 * MC_MSEC);
		CHECK(guard_holds(guarded, PEER_LEN), "round %d: a ghost wrote", round);
	}
	mc_segment_close(s);
	CHECK(mc_engine_close(e, T) == 0, "close");
	peer_end(&target);
}

/* A process that writes freezes; the target is well. */
static int p2_writer(void)
{
	enum { NR = 8192 };
	struct mc_engine *e = engine_with("writer", settings);
	struct mc_segment *s = segment_new(e, "target");
	struct mc_buffer_info info = {.size = sizeof info};
	unsigned char *local = memory_new(e, PEER_LEN);
	struct mc_batch *b;

	memset(local, 1, PEER_LEN);
	NEED(mc_segment_buffer(s, 0, &info) == 0, "buffer");
	b = submit_many(e, MC_OP_WRITE, local, s, info.offset, PEER_LEN, NR, 1 << 20, 20 * MC_SEC);
	NEED(write(3, "w", 1) == 1, "pipe");
	CHECK(mc_batch_wait(b, T) == 0 && mc_batch_failed(b), "the frozen writer's batch");
	for (size_t i = 0; i < NR; i++)
		CHECK(status_of(b, i) == 0 || status_of(b, i) == -EHOSTDOWN || status_of(b, i) == -ETIMEDOUT ||
		      status_of(b, i) == -ESTALE, "%d", status_of(b, i));
	mc_batch_free(b);
	mc_segment_close(s);
	CHECK(mc_engine_close(e, T) == 0, "close");
	return failures != 0;
}

static void p2_initiator(void)
{
	struct peer target = {0};
	const char *argv[] = {self, "--writer", dir, NULL};
	extern char **environ;
	posix_spawn_file_actions_t fa;
	int out[2], status = -1;
	unsigned sockets;
	char c;
	pid_t pid;

	peer_start(&target, "target", settings);
	sockets = nr_sockets(target.pid);
	NEED(pipe2(out, O_CLOEXEC) == 0, "pipe");
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_adddup2(&fa, out[1], 3);
	NEED(posix_spawn(&pid, self, &fa, NULL, (char **)argv, environ) == 0, "spawn");
	posix_spawn_file_actions_destroy(&fa);
	close(out[1]);
	NEED(read(out[0], &c, 1) == 1, "the writer did not come up");
	close(out[0]);
	nap(20 * MC_MSEC);
	kill(pid, SIGSTOP);
	waitpid(pid, NULL, WUNTRACED);
	CHECK(nr_sockets(target.pid) > sockets, "no stream");
	/* By then the target has ended its streams by itself. */
	nap(BOUND * 3 / 2);
	CHECK(nr_sockets(target.pid) == sockets, "the target keeps streams of a peer that is silent");
	memset(target.mem, GUARD, PEER_LEN);
	kill(pid, SIGCONT);
	nap(2 * MC_SEC);
	CHECK(guard_holds(target.mem, PEER_LEN), "the writer's ghost wrote");
	waitpid(pid, &status, 0);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the writer ended with %x", status);
	peer_end(&target);
}

static void p2(void)
{
	p2_target();
	p2_early(MC_OP_WRITE);
	p2_early(MC_OP_READ);
	p2_initiator();
}

/* ---- P5 -------------------------------------------------------------------------------------- */

static void p5(void)
{
	enum { NR = 2048 };
	struct mc_engine *e = engine_with("initiator", settings);
	struct peer target = {0};
	struct mc_segment *s, *again;
	struct mc_batch *b;
	unsigned char *local = memory_new(e, PEER_LEN);
	uint64_t generation;
	unsigned typed = 0, failed = 0;
	int r;

	peer_start(&target, "target", settings);
	generation = target.generation;
	s = segment_new(e, "target");
	memset(local, 1, PEER_LEN);
	CHECK(move_one(e, MC_OP_WRITE, local, s, target.base, PEER_LEN, T) == 0, "write");
	b = submit_many(e, MC_OP_WRITE, local, s, target.base, PEER_LEN, NR, 1 << 20, T);
	nap(20 * MC_MSEC);
	peer_kill(&target);
	/* What one system call had under way goes into the memory of the dead, which we see. */
	if (ONE_SIDED)
		nap(100 * SLOW * MC_MSEC);
	memset(target.mem, GUARD, PEER_LEN);
	peer_start(&target, "target", settings);
	CHECK(target.generation != generation, "the generation is the same");
	CHECK(mc_batch_wait(b, T) == 0, "wait");
	for (size_t i = 0; i < NR; i++) {
		r = status_of(b, i);
		failed += r != 0;
		typed += r == -ESTALE || r == -EHOSTDOWN;
	}
	CHECK(failed && failed == typed, "%u failed, %u of them with a type", failed, typed);
	mc_batch_free(b);
	/* The old handle is of the old generation for ever. */
	for (int i = 0; i < 3; i++) {
		r = move_one(e, MC_OP_WRITE, local, s, target.base, PEER_LEN, T);
		CHECK(r == -ESTALE || r == -EHOSTDOWN, "%d", r);
	}
	again = segment_new(e, "target");
	CHECK(mc_segment_generation(again) == target.generation, "generation");
	r = move_one(e, MC_OP_WRITE, local, s, target.base, PEER_LEN, T);
	CHECK(r == -ESTALE || r == -EHOSTDOWN, "%d", r);
	CHECK(guard_holds(target.mem, PEER_LEN), "something was replayed onto the new target");
	CHECK(move_one(e, MC_OP_WRITE, local, again, target.base, PEER_LEN, T) == 0, "write");
	CHECK(all_are(target.mem, PEER_LEN, 1), "the write after opening again");
	mc_segment_close(s);
	mc_segment_close(again);
	CHECK(mc_engine_close(e, T) == 0, "close");
	peer_end(&target);
}

/* ---- P6 -------------------------------------------------------------------------------------- */

/* The peer goes while it is written to; back: brings it back.  Nobody else notices. */
static void p6_goes(struct mc_engine *e, struct other *other, struct peer *target, bool dies)
{
	enum { NR = 2048 };
	struct mc_segment *s = segment_new(e, "target");
	unsigned char *local = memory_new(e, PEER_LEN);
	unsigned before, during, typed = 0;
	struct mc_error err = {0};
	struct mc_batch *b;
	uint64_t start;
	bool well;

	before = atomic_load(&other->rounds);
	nap(200 * MC_MSEC);
	before = atomic_load(&other->rounds) - before;
	b = submit_many(e, MC_OP_WRITE, local, s, target->base, PEER_LEN, NR, 1 << 20, T);
	nap(20 * MC_MSEC);
	start = now_ns();
	if (dies)
		peer_kill(target);
	else
		peer_signal(target, SIGSTOP);
	atomic_store(&other->longest, 0);
	during = atomic_load(&other->rounds);
	CHECK(mc_batch_wait(b, T) == 0, "wait");
	/* Who stands still may well be written to by a wire that needs no agent. */
	well = ONE_SIDED && !dies && !mc_batch_failed(b);
	CHECK(well || now_ns() < TYPED_BY(start), "%s: %llu ms", dies ? "killed" : "frozen",
	      (unsigned long long)((now_ns() - start) / MC_MSEC));
	nap(200 * MC_MSEC);
	during = atomic_load(&other->rounds) - during;
	for (size_t i = 0; i < NR; i++)
		typed += status_of(b, i) == -EHOSTDOWN;
	CHECK((typed || well) && typed == mc_batch_failed(b), "%u typed of %zu failed", typed, mc_batch_failed(b));
	mc_batch_free(b);
	CHECK(during >= (before < 5 ? before : 5) && atomic_load(&other->longest) < BOUND / 2 * SLOW,
	      "the other peer: %u rounds, then %u; one took %llu ms", before, during,
	      (unsigned long long)(atomic_load(&other->longest) / MC_MSEC));
	mc_segment_close(s);
	/* Long enough that both ends have given the session up. */
	if (well)
		nap(BOUND * SLOW);
	if (dies)
		peer_start(target, "target", settings);
	else
		peer_signal(target, SIGCONT);
	s = segment_new(e, "target");
	memset(local, 7, PEER_LEN);
	CHECK(move_one(e, MC_OP_WRITE, local, s, target->base, PEER_LEN, T) == 0, "after its return");
	CHECK(all_are(target->mem, PEER_LEN, 7), "bytes after its return");
	mc_segment_close(s);
	CHECK(mc_memory_free(e, local, T, &err) == 0, "%s", err.text);
}

static void p6(void)
{
	struct mc_engine *e = engine_with("initiator", settings);
	struct peer target = {0};
	struct other other;

	default_is("peer_timeout", "5s");
	peer_start(&target, "target", settings);
	other_start(&other, e);
	p6_goes(e, &other, &target, false);
	p6_goes(e, &other, &target, true);
	other_end(&other);
	CHECK(mc_engine_close(e, T) == 0, "close");
	peer_end(&target);
}

int main(int argc, char **argv)
{
	static const struct promise promises[] = {
		{"P1", p1}, {"P1-alive", p1_alive}, {"P1-refresh", p1_refresh}, {"P2", p2}, {"P5", p5}, {"P6", p6},
	};

	if (argc == 3 && !strcmp(argv[1], "--writer")) {
		snprintf(dir, sizeof dir, "%s", argv[2]);
		mc_log_set_level(MC_LOG_ERROR);
		return p2_writer();
	}
	return promises_main(argc, argv, promises, sizeof promises / sizeof *promises);
}
