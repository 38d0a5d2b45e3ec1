/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many engines at once, each a process: two that use each other, a crowd on one
 * target, initiators that are killed or slow, names that several want, memory that
 * is taken away under its users, and a user's program that forks.
 *
 *   crowd CASE
 */
#include "roles.h"

#include "cli/check/census.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

/* Seconds of silence after which a peer is gone. */
#define BOUND (SLOW > 1 ? 4 * MC_SEC : MC_SEC)
static const char *const settings[] = {SLOW > 1 ? "peer_timeout=4" : "peer_timeout=1", NULL};
/* Where processes are stopped and go on, or the machine is full of them. */
static const char *const patient[] = {"peer_timeout=10", NULL};

/* ---- roles ------------------------------------------------------------------------------------------- */

static bool input_over(void)
{
	struct pollfd p = {.fd = 0, .events = POLLIN};

	return poll(&p, 1, 0) > 0;
}

/* churn NAME TARGET SLOT NR ROUNDS: 0: until the input ends.  It has a buffer of its own for others. */
static int as_churn(char **argv)
{
	struct mc_error err = {0};
	struct mc_engine *e = engine_with(argv[0], patient);
	unsigned rounds = (unsigned)atoi(argv[4]);
	unsigned char *mem = peer_map(argv[0], PEER_AT);
	struct churn c;
	char byte;

	NEED(mc_memory_register(e, mem, PEER_LEN, "cpu:0", MC_ACCESS_ALL, T, &err) == 0, "%s", err.text);
	dprintf(3, "open\n");
	NEED(read(0, &byte, 1) == 1, "nobody says go");
	churn_open(&c, e, argv[1], (unsigned)atoi(argv[2]), (unsigned)atoi(argv[3]));
	for (unsigned i = 0; (!rounds && !input_over()) || i < rounds; i++) {
		NEED(churn_once(&c), "round %u", i);
		if (i == 0)
			dprintf(3, "first\n");
	}
	mc_segment_close(c.segment);
	dprintf(3, "done\n");
	/* Its buffer is used by others until then. */
	while (read(0, &byte, 1) > 0)
		;
	CHECK(mc_engine_close(e, T) == 0, "close");
	return failures != 0;
}

/* claim NAME: who of several gets it? */
static int as_claim(char **argv)
{
	struct mc_config *c = config_new(argv[0], "{\"*\": [[\"tcp:lo\"]]}");
	struct mc_engine *e = NULL;
	struct mc_error err = {0};
	char byte;
	int r;

	dprintf(3, "ready\n");
	NEED(read(0, &byte, 1) == 1, "nobody says go");
	r = mc_engine_open(c, T, &e, &err);
	mc_config_free(c);
	if (r == 0)
		dprintf(3, "won\n");
	else
		dprintf(3, "%d %s\n", r, err.text);
	while (read(0, &byte, 1) > 0)
		;
	CHECK(mc_engine_close(e, T) == 0, "close");
	return failures != 0;
}

/* stream NAME TARGET write|read: the whole of its buffer, until that is refused, or the input ends. */
static int as_stream(char **argv)
{
	struct mc_engine *e = engine_with(argv[0], patient);
	uint32_t op = strcmp(argv[2], "read") ? MC_OP_WRITE : MC_OP_READ;
	struct churn c;
	int r = 0;

	churn_open(&c, e, argv[1], 0, 1);
	memset(c.local, 1, PEER_LEN);
	while (r == 0 && !input_over()) {
		struct mc_batch *b = submit_many(e, op, c.local, c.segment, c.offset, c.len, 64, 1 << 20, T);

		if (!c.seed++)
			dprintf(3, "first\n");
		NEED(mc_batch_wait(b, T) == 0, "wait");
		for (size_t i = 0; i < 64; i++)
			r = r ? r : status_of(b, i);
		mc_batch_free(b);
	}
	/* What is not the segment's any more is not seen. */
	CHECK(op == MC_OP_WRITE || r != -EACCES || !memchr(c.local, GUARD, PEER_LEN), "read after it was unregistered");
	dprintf(3, "%d\n", r);
	mc_segment_close(c.segment);
	CHECK(mc_engine_close(e, T) == 0, "close");
	return failures != 0;
}

/* fork NAME TARGET: a child of it stays, with what it inherited and without exec. */
static int as_fork(char **argv)
{
	struct mc_engine *e = engine_with(argv[0], settings);
	struct churn c;
	pid_t pid;

	churn_open(&c, e, argv[1], 0, 1);
	NEED(churn_once(&c), "before the fork");
	pid = fork();
	if (!pid)
		for (;;)
			pause();
	dprintf(3, "%d\n", (int)pid);
	for (;;)
		NEED(churn_once(&c), "after the fork");
}

/* ---- both ways ------------------------------------------------------------------------------------- */

/* Memory for all, and in *ret_seen a look at it from beside, for a time when only the order of messages
 * between processes says that nobody writes. */
static unsigned char *memory_seen(struct mc_engine *e, unsigned char **ret_seen)
{
	unsigned char *mem = peer_map(mc_engine_name(e), NULL);
	struct mc_error err = {0};

	NEED(mc_memory_register(e, mem, PEER_LEN, "cpu:0", MC_ACCESS_ALL, T, &err) == 0, "%s", err.text);
	*ret_seen = peer_map(mc_engine_name(e), NULL);
	return mem;
}

static void both_ways(void)
{
	struct mc_engine *e = engine_with("left", patient);
	unsigned char *seen, *mem = memory_seen(e, &seen);
	enum { ROUNDS = SLOW > 1 ? 8 : 30 };
	struct role right;
	struct churn c;
	char rounds[16];

	snprintf(rounds, sizeof rounds, "%d", ROUNDS);
	role_start(&right, (const char *const[]){"churn", "right", "left", "0", "1", rounds, NULL});
	role_says(&right, "open");
	churn_open(&c, e, "right", 0, 1);
	NEED(write(right.input, "g", 1) == 1, "go");
	for (int i = 0; i < ROUNDS; i++)
		NEED(churn_once(&c), "round %d", i);
	role_says(&right, "first");
	role_says(&right, "done");
	for (size_t i = 0; i < PEER_LEN; i++)
		NEED(seen[i] == byte_of(ROUNDS, i), "byte %zu of what the other wrote here", i);
	mc_segment_close(c.segment);
	role_end(&right);
	CHECK(mc_engine_close(e, T) == 0, "close");
	munmap(seen, PEER_LEN);
	munmap(mem, PEER_LEN);
}

/* ---- a crowd on one target --------------------------------------------------------------------------- */

static unsigned nr_threads(pid_t pid)
{
	char path[64], line[128];
	unsigned n = 0;
	FILE *f;

	snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
	f = fopen(path, "re");
	NEED(f, "%s", path);
	while (fgets(line, sizeof line, f) && sscanf(line, "Threads: %u", &n) != 1)
		;
	fclose(f);
	return n;
}

/* Does the target come back to what it had? */
static bool sockets_settle(const struct peer *p, unsigned most)
{
	for (int i = 0; i < 1000 && nr_sockets(p->pid) > most; i++)
		nap(10 * MC_MSEC);
	return nr_sockets(p->pid) <= most;
}

/* Has it more, as soon as a peer that moves bytes has its streams? */
static bool sockets_grow(const struct peer *p, unsigned than)
{
	for (int i = 0; i < 1000 && nr_sockets(p->pid) <= than; i++)
		nap(10 * MC_MSEC);
	return nr_sockets(p->pid) > than;
}

static void on_one_target(void)
{
	enum { NR = SLOW > 1 ? 16 : 32, ROUNDS = SLOW > 1 ? 8 : 20 };
	struct peer target = {0};
	struct role roles[NR];
	char names[NR][16], slots[NR][16], nr[16], rounds[16];
	unsigned sockets, threads;

	peer_start(&target, "target", patient);
	sockets = nr_sockets(target.pid);
	snprintf(nr, sizeof nr, "%d", NR);
	snprintf(rounds, sizeof rounds, "%d", ROUNDS);
	for (int i = 0; i < NR; i++) {
		snprintf(names[i], sizeof names[i], "crowd%d", i);
		snprintf(slots[i], sizeof slots[i], "%d", i);
		role_start(&roles[i], (const char *const[]){"churn", names[i], "target", slots[i], nr, rounds, NULL});
	}
	for (int i = 0; i < NR; i++)
		role_says(&roles[i], "open");
	for (int i = 0; i < NR; i++)
		NEED(write(roles[i].input, "g", 1) == 1, "go");
	for (int i = 0; i < NR; i++)
		role_says(&roles[i], "first");
	/* Threads are the engine's, not its peers'. */
	threads = nr_threads(target.pid);
	CHECK(threads <= 6, "%u threads for %d peers", threads, NR);
	CHECK(nr_sockets(target.pid) >= sockets + NR, "%u sockets for %d peers", nr_sockets(target.pid), NR);
	for (int i = 0; i < NR; i++)
		role_says(&roles[i], "done");
	for (size_t i = 0; i < PEER_LEN / NR * NR; i++)
		NEED(target.mem[i] == byte_of((unsigned)(i / (PEER_LEN / NR)) * 40 + ROUNDS, i % (PEER_LEN / NR)),
		     "byte %zu at the target", i);
	for (int i = 0; i < NR; i++)
		role_end(&roles[i]);
	CHECK(sockets_settle(&target, sockets), "%u sockets, then %u", sockets, nr_sockets(target.pid));
	peer_end(&target);
}

/* ---- an initiator is killed -------------------------------------------------------------------------- */

/* What it has for good: on a busy machine a peer may dial anew for a moment. */
static unsigned sockets_least(const struct peer *p)
{
	unsigned least = nr_sockets(p->pid);

	for (int i = 0; i < 20; i++) {
		unsigned n = nr_sockets(p->pid);

		least = n < least ? n : least;
		nap(10 * MC_MSEC);
	}
	return least;
}

static void initiator_killed(void)
{
	struct peer target = {0};
	struct role one, other;
	unsigned sockets;
	uint64_t start;

	peer_start(&target, "target", patient);
	role_start(&other, (const char *const[]){"churn", "other", "target", "1", "2", "0", NULL});
	role_says(&other, "open");
	NEED(write(other.input, "g", 1) == 1, "go");
	role_says(&other, "first");
	sockets = sockets_least(&target);
	for (int round = 0; round < 3; round++) {
		start = now_ns();
		role_start(&one, (const char *const[]){"churn", "one", "target", "0", "2", "0", NULL});
		role_says(&one, "open");
		/* Its lease of 10 s was not waited for. */
		CHECK(now_ns() - start < 5 * MC_SEC * SLOW, "round %d: %llu ms to open", round,
		      (unsigned long long)((now_ns() - start) / MC_MSEC));
		NEED(write(one.input, "g", 1) == 1, "go");
		role_says(&one, "first");
		nap(20 * MC_MSEC);
		CHECK(sockets_grow(&target, sockets), "no stream");
		role_kill(&one);
		CHECK(sockets_settle(&target, sockets), "%u sockets, then %u", sockets, nr_sockets(target.pid));
		memset(target.mem, GUARD, PEER_LEN / 2);
		nap(100 * MC_MSEC);
		CHECK(guard_holds(target.mem, PEER_LEN / 2), "the dead one wrote");
	}
	role_end(&other);
	peer_end(&target);
}

/* ---- one name, several that want it -------------------------------------------------------------------- */

/* All at once; the index of the one that got it. */
static int claim(struct role *roles, int nr)
{
	int winner = -1, won = 0;

	for (int i = 0; i < nr; i++) {
		role_start(&roles[i], (const char *const[]){"claim", "same", NULL});
		role_says(&roles[i], "ready");
	}
	for (int i = 0; i < nr; i++)
		NEED(write(roles[i].input, "g", 1) == 1, "go");
	for (int i = 0; i < nr; i++) {
		const char *line = role_line(&roles[i]);

		if (!strcmp(line, "won")) {
			winner = i;
			won++;
			continue;
		}
		CHECK(atoi(line) == -EEXIST && strstr(line, "'same'"), "%s", line);
	}
	CHECK(won == 1, "%d engines have the name", won);
	NEED(winner >= 0, "nobody has the name");
	return winner;
}

static void one_name(void)
{
	enum { NR = 6 };
	struct role roles[NR];

	/* The second time over the record of one that was killed. */
	for (int round = 0; round < 3; round++) {
		uint64_t start = now_ns();
		int winner = claim(roles, NR);

		CHECK(now_ns() - start < 8 * MC_SEC * SLOW, "the lease was waited for: %llu ms",
		      (unsigned long long)((now_ns() - start) / MC_MSEC));
		for (int i = 0; i < NR; i++) {
			if (i == winner)
				role_kill(&roles[i]);
			else
				role_end(&roles[i]);
		}
	}
}

/* ---- one that is slow -------------------------------------------------------------------------------- */

/* Most of the time stopped, never for long: slow, and not gone.  Who waits for it waits for a pulse and more. */
#define PULSE (100 * MC_MSEC)
struct pulse {
	pid_t pid;
	pthread_t thread;
	atomic_bool stop;
};

static void *pulse_run(void *arg)
{
	struct pulse *p = arg;

	while (!atomic_load(&p->stop)) {
		kill(p->pid, SIGSTOP);
		nap(PULSE);
		kill(p->pid, SIGCONT);
		nap(4 * MC_MSEC);
	}
	return NULL;
}

static void pulse_start(struct pulse *p, pid_t pid)
{
	p->pid = pid;
	atomic_store(&p->stop, false);
	NEED(pthread_create(&p->thread, NULL, pulse_run, p) == 0, "thread");
}

static void pulse_stop(struct pulse *p)
{
	atomic_store(&p->stop, true);
	pthread_join(p->thread, NULL);
}

/* Rounds of this one in a second, and the longest. */
static unsigned churn_second(struct churn *c, uint64_t *ret_longest)
{
	uint64_t end = now_ns() + MC_SEC, longest = 0;
	unsigned n = 0;

	for (uint64_t t = now_ns(); t < end; n++) {
		uint64_t begin = t;

		NEED(churn_once(c), "beside a slow one");
		t = now_ns();
		longest = t - begin > longest ? t - begin : longest;
		/* Not all of a machine that tests share. */
		nap(MC_MSEC);
	}
	*ret_longest = longest;
	return n;
}

/* A batch is on its way to the slow target; others, and we to others, go on as before. */
static void slow_target(void)
{
	enum { NR = 1024 };
	struct mc_engine *e = engine_with("initiator", patient);
	struct peer slow = {0}, quick = {0};
	struct mc_segment *s;
	unsigned char *local = memory_new(e, PEER_LEN);
	unsigned before, during;
	uint64_t longest;
	struct pulse pulse;
	struct mc_batch *b;
	struct churn c;

	peer_start(&slow, "slow", patient);
	peer_start(&quick, "quick", patient);
	s = segment_new(e, "slow");
	memset(local, 7, PEER_LEN);
	CHECK(move_one(e, MC_OP_WRITE, local, s, slow.base, PEER_LEN, T) == 0, "write");
	churn_open(&c, e, "quick", 0, 16);
	before = churn_second(&c, &longest);
	pulse_start(&pulse, slow.pid);
	b = submit_many(e, MC_OP_WRITE, local, s, slow.base, PEER_LEN, NR, 1 << 20, 60 * MC_SEC);
	during = churn_second(&c, &longest);
	CHECK(mc_batch_poll(b) < NR, "it is not slow");
	pulse_stop(&pulse);
	CHECK(during * 6 > before || longest < PULSE, "%u rounds, then %u; the longest took %llu ms", before, during,
	      (unsigned long long)(longest / MC_MSEC));
	CHECK(mc_batch_wait(b, 60 * MC_SEC) == 0 && !mc_batch_failed(b), "the slow one: %zu failed", mc_batch_failed(b));
	mc_batch_free(b);
	mc_segment_close(s);
	mc_segment_close(c.segment);
	CHECK(mc_engine_close(e, T) == 0, "close");
	peer_end(&slow);
	peer_end(&quick);
}

/* It reads more than it takes: the target sends to others meanwhile. */
static void slow_initiator(void)
{
	struct mc_engine *e = engine_with("quick", patient);
	struct peer target = {0};
	unsigned before, during;
	uint64_t longest;
	struct pulse pulse;
	struct role slow;
	struct churn c;

	peer_start(&target, "target", patient);
	churn_open(&c, e, "target", 0, 16);
	before = churn_second(&c, &longest);
	role_start(&slow, (const char *const[]){"stream", "slow", "target", "read", NULL});
	role_says(&slow, "first");
	pulse_start(&pulse, slow.pid);
	during = churn_second(&c, &longest);
	pulse_stop(&pulse);
	CHECK(during * 6 > before || longest < PULSE, "%u rounds, then %u; the longest took %llu ms", before, during,
	      (unsigned long long)(longest / MC_MSEC));
	NEED(write(slow.input, "x", 1) == 1, "stop");
	role_says(&slow, "0");
	role_end(&slow);
	mc_segment_close(c.segment);
	CHECK(mc_engine_close(e, T) == 0, "close");
	peer_end(&target);
}

/* ---- memory is taken away under its users --------------------------------------------------------------- */

static void unregistered(void)
{
	struct mc_engine *e = engine_with("target", patient);
	struct mc_error err = {0};
	struct role writer, reader;
	unsigned char *mem, *after, *seen;
	struct churn c;

	mem = mmap(NULL, PEER_LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	NEED(mem != MAP_FAILED, "mmap");
	NEED(mc_memory_register(e, mem, PEER_LEN, "cpu:0", MC_ACCESS_ALL, T, &err) == 0, "%s", err.text);
	role_start(&writer, (const char *const[]){"stream", "writer", "target", "write", NULL});
	role_start(&reader, (const char *const[]){"stream", "reader", "target", "read", NULL});
	role_says(&writer, "first");
	role_says(&reader, "first");
	nap(50 * MC_MSEC);
	CHECK(mc_memory_unregister(e, mem, T, &err) == 0, "%s", err.text);
	/* It is the user's again at once: nobody writes there, nobody sees what is written. */
	memset(mem, GUARD, PEER_LEN);
	CHECK(atoi(role_line(&writer)) == -EACCES, "the writer");
	CHECK(atoi(role_line(&reader)) == -EACCES, "the reader");
	role_end(&writer);
	role_end(&reader);
	CHECK(guard_holds(mem, PEER_LEN), "written after it was unregistered");
	munmap(mem, PEER_LEN);
	/* The engine is as good as new. */
	after = memory_seen(e, &seen);
	role_start(&writer, (const char *const[]){"churn", "writer", "target", "0", "1", "3", NULL});
	role_says(&writer, "open");
	churn_open(&c, e, "writer", 0, 1);
	NEED(write(writer.input, "g", 1) == 1, "go");
	CHECK(churn_once(&c), "from the target");
	role_says(&writer, "first");
	role_says(&writer, "done");
	for (size_t i = 0; i < PEER_LEN; i++)
		NEED(seen[i] == byte_of(3, i), "byte %zu", i);
	mc_segment_close(c.segment);
	role_end(&writer);
	CHECK(mc_engine_close(e, T) == 0, "close");
	munmap(seen, PEER_LEN);
	munmap(after, PEER_LEN);
}

/* ---- the user's program forks ----------------------------------------------------------------------------- */

struct forker {
	struct churn churn;
	atomic_bool stop;
	atomic_uint rounds, failed;
};

static void *forker_run(void *arg)
{
	struct forker *f = arg;

	while (!atomic_load(&f->stop)) {
		atomic_fetch_add(&f->failed, !churn_once(&f->churn));
		atomic_fetch_add(&f->rounds, 1);
	}
	return NULL;
}

/* Children come and go while bytes move. */
static void forks(struct mc_engine *e)
{
	struct forker f = {.stop = false};
	unsigned fds, rounds;
	pthread_t thread;

	churn_open(&f.churn, e, "target", 0, 4);
	NEED(churn_once(&f.churn), "before");
	fds = census_fds();
	NEED(pthread_create(&thread, NULL, forker_run, &f) == 0, "thread");
	for (int i = 0; i < 20; i++) {
		int status = -1;
		pid_t pid = fork();

		if (!pid) {
			if (i % 2)
				execl("/bin/true", "true", (char *)NULL);
			_exit(0);
		}
		waitpid(pid, &status, 0);
		CHECK(status == 0, "a child ended with %x", status);
	}
	rounds = atomic_load(&f.rounds);
	while (atomic_load(&f.rounds) < rounds + 2 && !atomic_load(&f.failed))
		nap(MC_MSEC);
	atomic_store(&f.stop, true);
	pthread_join(thread, NULL);
	CHECK(!atomic_load(&f.failed), "%u of %u rounds failed", atomic_load(&f.failed), atomic_load(&f.rounds));
	CHECK(census_settles(census_fds, fds), "%u descriptors, then %u", fds, census_fds());
	mc_segment_close(f.churn.segment);
}

/* The program is killed, a child of it lives on with copies of its sockets and locks.  Alone, the target has `sockets`. */
static void orphan(struct peer *target, unsigned sockets)
{
	struct role parent, again;
	uint64_t start;
	pid_t child;

	role_start(&parent, (const char *const[]){"fork", "parent", "target", NULL});
	child = atoi(role_line(&parent));
	NEED(child > 1, "the child");
	nap(20 * MC_MSEC);
	CHECK(sockets_grow(target, sockets), "no stream");
	start = now_ns();
	kill(parent.pid, SIGKILL);
	waitpid(parent.pid, NULL, 0);
	/* Its sockets are open in the child: it is the silence that tells. */
	CHECK(sockets_settle(target, sockets), "%u sockets, then %u", sockets, nr_sockets(target->pid));
	CHECK(now_ns() - start < 3 * BOUND, "%llu ms", (unsigned long long)((now_ns() - start) / MC_MSEC));
	memset(target->mem, GUARD, PEER_LEN);
	role_start(&again, (const char *const[]){"claim", "parent", NULL});
	role_says(&again, "ready");
	NEED(write(again.input, "g", 1) == 1, "go");
	role_says(&again, "won");
	CHECK(guard_holds(target->mem, PEER_LEN), "the dead one wrote");
	kill(child, SIGKILL);
	role_end(&again);
	close(parent.input);
	fclose(parent.says);
}

static void forked(void)
{
	struct mc_engine *e = engine_with("user", patient);
	struct peer target = {0};
	unsigned sockets;

	peer_start(&target, "target", settings);
	sockets = nr_sockets(target.pid);
	forks(e);
	CHECK(mc_engine_close(e, T) == 0, "close");
	CHECK(sockets_settle(&target, sockets), "%u sockets, then %u", sockets, nr_sockets(target.pid));
	orphan(&target, sockets);
	peer_end(&target);
}

/* ---- cases -------------------------------------------------------------------------------------------- */

static const struct {
	const char *name;
	int nr;
	int (*run)(char **argv);
} roles[] = {{"churn", 5, as_churn}, {"claim", 1, as_claim}, {"stream", 3, as_stream}, {"fork", 2, as_fork}};

int main(int argc, char **argv)
{
	static const struct promise cases[] = {
		{"both-ways", both_ways}, {"on-one-target", on_one_target}, {"initiator-killed", initiator_killed},
		{"one-name", one_name}, {"slow-target", slow_target}, {"slow-initiator", slow_initiator},
		{"unregistered", unregistered}, {"forked", forked},
	};

	for (size_t i = 0; argc > 4 && !strcmp(argv[1], "--as") && i < sizeof roles / sizeof *roles; i++) {
		if (strcmp(argv[2], roles[i].name) || argc != 4 + roles[i].nr)
			continue;
		snprintf(dir, sizeof dir, "%s", argv[3]);
		mc_log_set_level(MC_LOG_ERROR);
		signal(SIGPIPE, SIG_IGN);
		return roles[i].run(argv + 4);
	}
	return promises_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
