/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A soak: engines in several processes do random jobs with each other (batches of
 * reads and writes of all sizes, notifies, cancels, deadlines, unregistering under
 * way, segments and engines opened and closed) over a transport that is disturbed
 * by random faults, while processes are killed, started again and frozen.  Every
 * byte is compared; what a job may not touch is watched until the next one (P2);
 * in the end all engines must reach each other again without help.
 *
 *   soak [--seed=N] [--duration=SECONDS]
 *
 * The first line has the seed.  It repeats the jobs and faults, not the timing.
 */
#include "peers.h"

#include <pthread.h>
#include <stdatomic.h>

#define NODES 3u
#define THREADS 2u
#define GENERATIONS 4u /* of a node's process: each has places of its own, for what its dead one had sent */
#define REGION ((size_t)128 << 10)
#define REQS 64u
#define BOUND_NS MC_SEC /* peer_timeout */
#define STUCK_NS ((uint64_t)45 * MC_SEC * SLOW)

/* ---- what the processes share ------------------------------------------------------------------ */

enum { S_JOBS, S_REQUESTS, S_BYTES, S_FAILED, S_NOTIFIES, S_CANCELS, S_UNREGISTERED, S_REOPENED, S_ENGINES, S_NR };
static const char *const stat_names[S_NR] = {"jobs", "requests", "bytes", "requests failed", "notifies", "cancels",
					     "unregistered in use", "segments reopened", "engines opened"};
struct shared {
	_Atomic uint64_t stats[S_NR];
	_Atomic uint64_t turns[NODES][THREADS]; /* grows while the thread is alive */
	atomic_int errnos[256];
	atomic_bool calm; /* no more faults from outside: reach everybody, then end */
	atomic_uint done[NODES];
	atomic_uint started[NODES]; /* incarnations */
	_Atomic uint64_t seen[NODES][NODES][GENERATIONS * 1024][THREADS]; /* last notify of an incarnation */
};
_Static_assert(sizeof(struct shared) <= PEER_LEN, "it fits into a peer's file");

static struct shared *shared;

static void stat_add(unsigned which, uint64_t n)
{
	atomic_fetch_add(&shared->stats[which], n);
}

/* ---- numbers and patterns ------------------------------------------------------------------------ */

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

static uint64_t draw(uint64_t *state, uint64_t below)
{
	*state += 0x9e3779b97f4a7c15u;
	return mix(*state) % below;
}

static void fill(unsigned char *p, size_t len, uint64_t seed)
{
	for (size_t i = 0; i + 8 <= len; i += 8) {
		uint64_t x = mix(seed + i);

		memcpy(p + i, &x, 8);
	}
}

/* ---- one node ---------------------------------------------------------------------------------------- */

struct node {
	unsigned me, incarnation;
	uint64_t seed;
	char faults[12][64];
	const char *settings[24];
	struct mc_engine *engine;
	unsigned char *maps[NODES]; /* every node's memory */
};

/* A thread of jobs, and its place at one target. */
struct worker {
	struct node *node;
	unsigned idx;
	uint64_t rng;
	struct mc_segment *segments[NODES];
	unsigned char *local[NODES];    /* registered, REGION each */
	unsigned char *kept_local[NODES], *kept_remote[NODES]; /* as they were left */
	bool kept[NODES];
	uint64_t seq;
	pthread_t thread;
};

static size_t place(const struct worker *w)
{
	return ((w->node->me * THREADS + w->idx) * GENERATIONS + w->node->incarnation % GENERATIONS) * REGION;
}

static void turn(const struct worker *w)
{
	atomic_fetch_add(&shared->turns[w->node->me][w->idx], 1);
}

/* Nobody waits on an end that has gone wrong. */
static void failed(const struct worker *w, const char *fmt, ...) MC_PRINTF(2, 3);
static void failed(const struct worker *w, const char *fmt, ...)
{
	va_list ap;

	printf("FAIL node%u.%u, thread %u: ", w->node->me, w->node->incarnation, w->idx);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	_exit(1);
}

static void differ(const struct worker *w, const char *what, const unsigned char *is, const unsigned char *want)
{
	size_t first = 0, n = 0;

	for (size_t i = REGION; i-- > 0;)
		if (is[i] != want[i]) {
			first = i;
			n++;
		}
	if (n)
		failed(w, "%s: %zu bytes differ, the first at %zu: 0x%02x instead of 0x%02x", what, n, first,
		       is[first], want[first]);
}

static struct mc_segment *segment_to(struct worker *w, struct mc_engine *e, unsigned to)
{
	struct mc_segment *s = NULL;
	struct mc_error err = {0};
	char name[16];

	snprintf(name, sizeof name, "node%u", to);
	for (;;) {
		turn(w);
		if (mc_segment_open(e, name, 2 * MC_SEC, &s, &err) == 0 && mc_segment_nr_buffers(s) > 0)
			return s;
		mc_segment_close(s);
		s = NULL;
		nap(20 * MC_MSEC);
	}
}

/* What a request may end with when peers die, freeze and come back, and rails are disturbed. */
static bool is_typed(int status)
{
	switch (status) {
	case -ETIMEDOUT:
	case -ECANCELED:
	case -EHOSTDOWN:
	case -ESTALE:
	case -ENETDOWN:
	case -EFAULT:
		return true;
	default:
		return false;
	}
}

struct job {
	struct mc_engine *engine;
	struct mc_segment *segment;
	unsigned to;
	uint32_t opcode;
	struct mc_request reqs[REQS];
	size_t nr;
	uint64_t deadline_ns;
	bool notify, cancel, unregister, must;
	size_t nr_failed; /* of the last run */
	atomic_uint calls;
};

static void called(void *arg, struct mc_batch *batch)
{
	atomic_fetch_add((atomic_uint *)arg, 1);
}

/* Pieces that do not meet, some adjacent, some empty, in any order. */
static void cut(struct worker *w, struct job *j)
{
	size_t slot, nr = 1 + draw(&w->rng, draw(&w->rng, 2) ? REQS : 4);
	uint64_t offset = (uintptr_t)PEER_AT + place(w);

	slot = REGION / nr;
	for (size_t i = 0; i < nr; i++) {
		size_t from = draw(&w->rng, 3) ? 0 : draw(&w->rng, slot), at = i * slot + from;
		size_t len = draw(&w->rng, 4) ? slot - from : draw(&w->rng, slot - from + 1);

		j->reqs[i] = (struct mc_request){.opcode = j->opcode, .local = w->local[j->to] + at,
						 .segment = j->segment, .offset = offset + at, .len = len};
	}
	for (size_t i = nr; i-- > 1;) {
		size_t k = draw(&w->rng, 2) ? i : draw(&w->rng, i + 1);
		struct mc_request tmp = j->reqs[i];

		j->reqs[i] = j->reqs[k];
		j->reqs[k] = tmp;
	}
	j->nr = nr;
}

/* The destination as it must be now: requests that are done have brought the source's bytes, failed ones
 * may have brought any of them, the rest is as it was. */
static size_t check_bytes(struct worker *w, struct job *j, struct mc_batch *b, const unsigned char *from,
			  const unsigned char *to, unsigned char *want)
{
	size_t nr_failed = 0;

	for (size_t i = 0; i < j->nr; i++) {
		size_t at = (size_t)((unsigned char *)j->reqs[i].local - w->local[j->to]), len = j->reqs[i].len;
		int r = status_of(b, i);

		if (r == -EINPROGRESS)
			failed(w, "request %zu has not ended", i);
		if (r && !is_typed(r))
			failed(w, "request %zu to node%u ended with %d", i, j->to, r);
		if (r && j->must)
			failed(w, "request %zu to node%u ended with %d although all is well", i, j->to, r);
		if (r)
			atomic_fetch_add(&shared->errnos[-r & 255], 1);
		nr_failed += r != 0;
		memcpy(want + at, r ? to + at : from + at, len);
	}
	return nr_failed;
}

static struct mc_batch *submit(struct worker *w, struct job *j)
{
	uint64_t note[4] = {w->node->me, w->node->incarnation, w->idx, ++w->seq};
	struct mc_batch *b = NULL;

	if (mc_batch_new(j->engine, j->nr, &b) < 0)
		failed(w, "no batch");
	mc_batch_set_deadline(b, j->deadline_ns);
	mc_batch_set_callback(b, called, &j->calls);
	if (j->notify && mc_batch_set_notify(b, j->segment, note, sizeof note) < 0)
		failed(w, "no notify");
	if (mc_batch_submit(b, j->reqs, j->nr, NULL) < 0)
		failed(w, "not submitted");
	return b;
}

static void disturb(struct worker *w, struct job *j, struct mc_batch *b)
{
	unsigned char *local = w->local[j->to];
	struct mc_error err = {0};
	int r;

	if (j->cancel || j->unregister)
		nap(draw(&w->rng, 2 * MC_MSEC));
	if (j->cancel)
		mc_batch_cancel(b);
	if (!j->unregister)
		return;
	r = mc_memory_unregister(j->engine, local, T * SLOW, &err);
	if (r < 0)
		failed(w, "unregister: %d %s", r, err.text);
	stat_add(S_UNREGISTERED, 1);
}

/* One batch, and all that must be true of it.  May be run again. */
static void job_run(struct worker *w, struct job *j)
{
	unsigned char *remote = w->node->maps[j->to] + place(w), *local = w->local[j->to];
	unsigned char *from = j->opcode == MC_OP_WRITE ? local : remote, *to = from == local ? remote : local;
	unsigned char *want = malloc(REGION);
	uint64_t bytes = 0, start;
	struct mc_error err = {0};
	struct mc_batch *b;
	size_t nr_failed;

	if (w->kept[j->to]) {
		differ(w, "a ghost wrote at the target", remote, w->kept_remote[j->to]);
		differ(w, "a ghost wrote at home", local, w->kept_local[j->to]);
	}
	fill(local, REGION, draw(&w->rng, UINT64_MAX));
	fill(remote, REGION, draw(&w->rng, UINT64_MAX));
	memcpy(want, to, REGION);
	memcpy(from == local ? w->kept_local[j->to] : w->kept_remote[j->to], from, REGION);
	cut(w, j);
	atomic_store(&j->calls, 0);
	start = now_ns();
	b = submit(w, j);
	disturb(w, j, b);
	if (mc_batch_wait(b, j->deadline_ns + STUCK_NS / 2) < 0)
		failed(w, "a batch of %zu with a deadline of %llu ms has not ended after %llu ms", j->nr,
		       (unsigned long long)(j->deadline_ns / MC_MSEC),
		       (unsigned long long)((now_ns() - start) / MC_MSEC));
	nr_failed = j->nr_failed = check_bytes(w, j, b, from, to, want);
	differ(w, from == local ? "after a write" : "after a read", to, want);
	differ(w, "the source", from, from == local ? w->kept_local[j->to] : w->kept_remote[j->to]);
	if (atomic_load(&j->calls) != 1 || mc_batch_poll(b) != j->nr || mc_batch_failed(b) != nr_failed)
		failed(w, "called %u times, %zu of %zu ended, %zu failed", atomic_load(&j->calls), mc_batch_poll(b),
		       j->nr, mc_batch_failed(b));
	if (nr_failed && j->notify && mc_batch_notify_status(b) == 0)
		failed(w, "a notify although %zu requests failed", nr_failed);
	for (size_t i = 0; i < j->nr; i++)
		bytes += j->reqs[i].len;
	mc_batch_free(b);
	/* Touched by us alone until the next job here. */
	fill(to, REGION, draw(&w->rng, UINT64_MAX));
	memcpy(w->kept_local[j->to], local, REGION);
	memcpy(w->kept_remote[j->to], remote, REGION);
	w->kept[j->to] = true;
	if (j->unregister && mc_memory_register(j->engine, local, REGION, "cpu:0", MC_ACCESS_LOCAL, T * SLOW, &err) < 0)
		failed(w, "register: %s", err.text);
	stat_add(S_JOBS, 1);
	stat_add(S_REQUESTS, j->nr);
	stat_add(S_BYTES, bytes);
	stat_add(S_FAILED, nr_failed);
	stat_add(S_CANCELS, j->cancel);
	turn(w);
	free(want);
}

static void reopen(struct worker *w, unsigned to)
{
	mc_segment_close(w->segments[to]);
	w->segments[to] = segment_to(w, w->node->engine, to);
	stat_add(S_REOPENED, 1);
}

/* A short-lived engine of its own does one job. */
static void engine_job(struct worker *w, struct job *j)
{
	struct mc_error err = {0};
	char name[32];

	snprintf(name, sizeof name, "extra%u-%u-%u", w->node->me, w->node->incarnation, w->idx);
	j->engine = engine_with(name, w->node->settings);
	if (mc_memory_register(j->engine, w->local[j->to], REGION, "cpu:0", MC_ACCESS_LOCAL, T * SLOW, &err) < 0)
		failed(w, "register: %s", err.text);
	j->segment = segment_to(w, j->engine, j->to);
	j->unregister = false;
	job_run(w, j);
	mc_segment_close(j->segment);
	if (mc_engine_close(j->engine, T * SLOW) < 0)
		failed(w, "an engine does not close");
	stat_add(S_ENGINES, 1);
}

static void random_job(struct worker *w)
{
	unsigned to = (unsigned)draw(&w->rng, NODES);
	struct job *j = calloc(1, sizeof *j);
	uint64_t before = atomic_load(&shared->stats[S_FAILED]);

	if (draw(&w->rng, 40) == 0)
		reopen(w, to);
	*j = (struct job){.engine = w->node->engine, .segment = w->segments[to], .to = to,
			  .opcode = (uint32_t)draw(&w->rng, 2), .notify = draw(&w->rng, 4) == 0,
			  .cancel = draw(&w->rng, 20) == 0, .unregister = draw(&w->rng, 40) == 0,
			  .deadline_ns = draw(&w->rng, 8) ? 3 * MC_SEC : (1 + draw(&w->rng, 50)) * MC_MSEC};
	j->notify = j->notify && j->opcode == MC_OP_WRITE;
	if (draw(&w->rng, 150) == 0)
		engine_job(w, j);
	else
		job_run(w, j);
	free(j);
	/* A target that was started again has another generation. */
	if (atomic_load(&shared->stats[S_FAILED]) != before)
		reopen(w, to);
}

/* All is well again outside: everybody is reached, in both directions, with time enough.  The plan of faults
 * goes on, and a slice that it drops takes its request to the deadline: so there are some tries. */
static void last_jobs(struct worker *w)
{
	enum { TRIES = 6 };

	for (unsigned to = 0; to < NODES; to++) {
		reopen(w, to);
		for (uint32_t opcode = 0; opcode < MC_OP_COUNT; opcode++) {
			struct job *j = calloc(1, sizeof *j);

			*j = (struct job){.engine = w->node->engine, .segment = w->segments[to], .to = to,
					  .opcode = opcode, .deadline_ns = 4 * MC_SEC * SLOW, .nr_failed = 1};
			for (int i = 1; i <= TRIES && j->nr_failed; i++) {
				j->must = i == TRIES;
				job_run(w, j);
			}
			free(j);
		}
	}
}

static void *worker_run(void *arg)
{
	struct worker *w = arg;
	struct mc_error err = {0};

	w->rng = mix(w->node->seed + w->node->me * 64 + w->idx + w->node->incarnation * 1024u);
	for (unsigned to = 0; to < NODES; to++) {
		w->kept_local[to] = malloc(REGION);
		w->kept_remote[to] = malloc(REGION);
		if (posix_memalign((void **)&w->local[to], 4096, REGION) ||
		    mc_memory_register(w->node->engine, w->local[to], REGION, "cpu:0", MC_ACCESS_LOCAL, T * SLOW, &err) < 0)
			failed(w, "memory: %s", err.text);
		w->segments[to] = segment_to(w, w->node->engine, to);
	}
	while (!atomic_load(&shared->calm)) {
		random_job(w);
		if (draw(&w->rng, 4) == 0)
			nap(draw(&w->rng, 5 * MC_MSEC));
	}
	last_jobs(w);
	for (unsigned to = 0; to < NODES; to++) {
		mc_segment_close(w->segments[to]);
		w->segments[to] = NULL;
	}
	atomic_fetch_add(&shared->done[w->node->me], 1);
	return NULL;
}

/* Each message once, those of one thread in their order. */
static void take_notifies(struct node *n)
{
	struct mc_notify *note = malloc(sizeof *note);

	while (read(0, note, 0) == 0 && !failures) {
		uint64_t got[4], last;
		_Atomic uint64_t *seen;

		*note = (struct mc_notify){.size = sizeof *note};
		if (mc_notify_recv(n->engine, note, 50 * MC_MSEC) == 0) {
			NEED(note->len == sizeof got, "a notify of %zu bytes", note->len);
			memcpy(got, note->data, sizeof got);
			NEED(got[0] < NODES && got[2] < THREADS, "a notify of nobody");
			seen = &shared->seen[n->me][got[0]][got[1] % (GENERATIONS * 1024)][got[2]];
			last = atomic_exchange(seen, got[3]);
			NEED(last < got[3], "node%u: notify %llu of node%llu.%llu after %llu", n->me,
			     (unsigned long long)got[3], (unsigned long long)got[0], (unsigned long long)got[1],
			     (unsigned long long)last);
			stat_add(S_NOTIFIES, 1);
		}
		if (atomic_load(&shared->calm)) {
			unsigned all = 0;

			for (unsigned i = 0; i < NODES; i++)
				all += atomic_load(&shared->done[i]);
			if (all == NODES * THREADS)
				break;
		}
	}
	free(note);
}

/* The random part of the plan of faults, for one process. */
static void plan(struct node *n)
{
	static const struct {
		const char *name;
		double share;
	} kinds[] = {{"drop", 0.0002}, {"lose", 0.0002}, {"fail", 0.0005}, {"shorten", 0.0005}, {"flip", 0.002},
		     {"kill", 0.0005}, {"stall", 0.0005}, {"hold", 0.03}, {"delay", 0.05}, {"reorder", 0.05}};
	uint64_t rng = mix(n->seed + n->me + n->incarnation * NODES);
	size_t nr = 0;

	n->settings[nr++] = "peer_timeout=1";
	n->settings[nr++] = "lease_ttl=2";
	n->settings[nr++] = "retry_count=1000";
	n->settings[nr++] = "transports.tcp.filters=fault";
	n->settings[nr++] = "verify=full";
	n->settings[nr++] = draw(&rng, 2) ? "transports.tcp.lanes=2" : "transports.tcp.lanes=1";
	n->settings[nr++] = "filters.fault.stall_time=50ms";
	snprintf(n->faults[0], sizeof n->faults[0], "filters.fault.seed=%llu", (unsigned long long)draw(&rng, 1u << 30));
	n->settings[nr++] = n->faults[0];
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		snprintf(n->faults[i + 1], sizeof n->faults[i + 1], "filters.fault.%s=%f", kinds[i].name,
			 kinds[i].share * (double)draw(&rng, 3));
		n->settings[nr++] = n->faults[i + 1];
	}
	n->settings[nr] = NULL;
}

static int node_main(int argc, char **argv)
{
	static struct node n;
	static struct worker workers[THREADS];
	struct mc_error err = {0};
	char name[16];

	NEED(argc == 4, "arguments");
	snprintf(dir, sizeof dir, "%s", argv[0]);
	setvbuf(stdout, NULL, _IONBF, 0);
	/* What is done on purpose is warned about all the time. */
	mc_log_set_level(getenv("SOAK_VERBOSE") ? MC_LOG_DEBUG : MC_LOG_ERROR);
	n.me = (unsigned)atoi(argv[1]);
	n.incarnation = (unsigned)atoi(argv[2]);
	n.seed = strtoull(argv[3], NULL, 0);
	shared = (struct shared *)(void *)peer_map("shared", NULL);
	plan(&n);
	for (unsigned i = 0; i < NODES; i++) {
		snprintf(name, sizeof name, "node%u", i);
		n.maps[i] = peer_map(name, i == n.me ? PEER_AT : NULL);
	}
	snprintf(name, sizeof name, "node%u", n.me);
	n.engine = engine_with(name, n.settings);
	NEED(mc_memory_register(n.engine, n.maps[n.me], PEER_LEN, "cpu:0", MC_ACCESS_ALL, T * SLOW, &err) == 0, "%s",
	     err.text);
	for (unsigned i = 0; i < THREADS; i++) {
		workers[i].node = &n;
		workers[i].idx = i;
		NEED(pthread_create(&workers[i].thread, NULL, worker_run, &workers[i]) == 0, "thread");
	}
	take_notifies(&n);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(workers[i].thread, NULL);
	NEED(mc_engine_close(n.engine, T * SLOW) == 0, "close");
	return failures != 0;
}

/* ---- the one who disturbs ----------------------------------------------------------------------------- */

static pid_t pids[NODES];
static uint64_t turns_seen[NODES], turned_ns[NODES], soak_seed;
static unsigned nr_kills, nr_freezes;

static void start(unsigned i)
{
	char me[8], incarnation[16], seed_text[32];
	char *argv[] = {(char *)self, "--node", dir, me, incarnation, seed_text, NULL};
	extern char **environ;

	snprintf(me, sizeof me, "%u", i);
	snprintf(incarnation, sizeof incarnation, "%u", atomic_fetch_add(&shared->started[i], 1));
	snprintf(seed_text, sizeof seed_text, "%llu", (unsigned long long)soak_seed);
	NEED(posix_spawn(&pids[i], self, NULL, NULL, argv, environ) == 0, "spawn");
	turned_ns[i] = now_ns();
}

static void end_all(void)
{
	for (unsigned i = 0; i < NODES; i++) {
		if (pids[i] <= 0)
			continue;
		kill(pids[i], SIGKILL);
		waitpid(pids[i], NULL, 0);
		pids[i] = 0;
	}
}

/* Has one of them ended by itself, or does one stand still?  False: the soak has failed. */
static bool all_well(bool may_end)
{
	for (unsigned i = 0; i < NODES; i++) {
		uint64_t turns = 0;
		int status;

		for (unsigned t = 0; t < THREADS; t++)
			turns += atomic_load(&shared->turns[i][t]);
		if (turns != turns_seen[i])
			turned_ns[i] = now_ns();
		turns_seen[i] = turns;
		if (pids[i] > 0 && waitpid(pids[i], &status, WNOHANG) == pids[i]) {
			pids[i] = 0;
			if (may_end && WIFEXITED(status) && WEXITSTATUS(status) == 0)
				continue;
			printf("FAIL node%u ended with status 0x%x\n", i, status);
			return false;
		}
		if (pids[i] > 0 && now_ns() - turned_ns[i] > STUCK_NS) {
			printf("FAIL node%u stands still\n", i);
			kill(pids[i], SIGABRT);
			return false;
		}
	}
	return true;
}

/* Wait, and look after them meanwhile. */
static bool pause_for(uint64_t span_ns)
{
	for (uint64_t end = now_ns() + span_ns; now_ns() < end; nap(20 * MC_MSEC))
		if (!all_well(false))
			return false;
	return true;
}

static bool disturb_all(uint64_t end_ns)
{
	uint64_t rng = mix(soak_seed);

	while (now_ns() < end_ns) {
		unsigned i = (unsigned)draw(&rng, NODES);
		bool kill_it = draw(&rng, 3) == 0;
		uint64_t span = draw(&rng, 4) ? draw(&rng, 300 * MC_MSEC) : draw(&rng, 5 * BOUND_NS / 2);

		if (!pause_for((400 + draw(&rng, 1500)) * MC_MSEC * SLOW))
			return false;
		if (kill_it) {
			kill(pids[i], SIGKILL);
			waitpid(pids[i], NULL, 0);
			pids[i] = 0;
			nr_kills++;
			if (!pause_for(span))
				return false;
			start(i);
		} else {
			kill(pids[i], SIGSTOP);
			nr_freezes++;
			nap(span);
			kill(pids[i], SIGCONT);
		}
	}
	return true;
}

static bool calm_down(void)
{
	uint64_t end = now_ns() + 90 * MC_SEC * SLOW;
	unsigned left = NODES;

	atomic_store(&shared->calm, true);
	while (left && now_ns() < end) {
		if (!all_well(true))
			return false;
		left = 0;
		for (unsigned i = 0; i < NODES; i++)
			left += pids[i] > 0;
		nap(20 * MC_MSEC);
	}
	if (left)
		printf("FAIL %u nodes do not come to an end\n", left);
	return !left;
}

static void figures(void)
{
	for (unsigned i = 0; i < S_NR; i++)
		printf("%llu %s%s", (unsigned long long)atomic_load(&shared->stats[i]), stat_names[i],
		       i + 1 < S_NR ? ", " : "\n");
	for (unsigned i = 0; i < 256; i++)
		if (atomic_load(&shared->errnos[i]))
			printf("%d x %s\n", atomic_load(&shared->errnos[i]), strerror((int)i));
	printf("%u killed, %u frozen\n", nr_kills, nr_freezes);
}

int main(int argc, char **argv)
{
	unsigned long long seed = (unsigned long long)time(NULL) ^ (unsigned long long)getpid() << 32;
	double seconds = 30;
	bool ok;

	self = argv[0];
	signal(SIGPIPE, SIG_IGN);
	if (argc >= 3 && !strcmp(argv[1], "--node"))
		return node_main(argc - 2, argv + 2);
	for (int i = 1; i < argc; i++) {
		if (sscanf(argv[i], "--seed=%llu", &seed) != 1 && sscanf(argv[i], "--duration=%lf", &seconds) != 1) {
			fprintf(stderr, "usage: %s [--seed=N] [--duration=SECONDS]\n", argv[0]);
			return 2;
		}
	}
	soak_seed = seed;
	engines_begin();
	printf("seed %llu, %g s\n", seed, seconds);
	shared = (struct shared *)(void *)peer_map("shared", NULL);
	for (unsigned i = 0; i < NODES; i++)
		start(i);
	ok = disturb_all(now_ns() + (uint64_t)(seconds * 1e9)) && calm_down();
	if (!ok) {
		failures++;
		nap(MC_SEC);
		printf("again with: %s --seed=%llu --duration=%g\n", argv[0], seed, seconds);
	}
	end_all();
	figures();
	return engines_end();
}
