/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Metadata plugins with several processes and threads: contention, killed and stopped
 * writers, deadlines.
 */
#include "cases_meta.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int wait_for(pid_t pid)
{
	int status;

	if (pid <= 0 || waitpid(pid, &status, 0) != pid)
		return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static uint64_t seed_of(void)
{
	static _Thread_local uint64_t x;

	if (!x)
		x = mh_now() ^ (uint64_t)getpid() << 32;
	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return x;
}

/* ---- contention ---------------------------------------------------------------------------- */

#define PROCESSES 4
#define THREADS 2
#define STEPS 20

struct adder {
	struct suite *s;
	char key[256];
	int failed;
};

/* Add one STEPS times, by get and cas. */
static void *adder_main(void *arg)
{
	struct adder *ad = arg;
	struct suite *s = ad->s;

	for (int done = 0; done < STEPS && !ad->failed;) {
		struct got g = get(s, s->a, ad->key);
		struct mc_error err = {0};
		uint64_t n = 0;
		int r;

		if (g.status == 0 && g.len == sizeof n)
			memcpy(&n, g.value, sizeof n);
		free(g.value);
		n++;
		r = cas(s, s->a, ad->key, &n, sizeof n, 0, g.status ? 0 : g.revision, NULL, &err);
		done += r == 0;
		if (r != 0 && r != -ESTALE && r != -EEXIST) {
			fprintf(stderr, "cas: %d %s\n", r, err.text);
			ad->failed = 1;
		}
	}
	return NULL;
}

static int add_here(struct suite *s, const char *key)
{
	struct adder ad[THREADS];
	pthread_t t[THREADS];
	int failed = 0;

	for (int i = 0; i < THREADS; i++) {
		ad[i] = (struct adder){.s = s};
		snprintf(ad[i].key, sizeof ad[i].key, "%s", key);
		pthread_create(&t[i], NULL, adder_main, &ad[i]);
	}
	for (int i = 0; i < THREADS; i++) {
		pthread_join(t[i], NULL);
		failed |= ad[i].failed;
	}
	return failed;
}

static int case_contention(struct ctx *c)
{
	struct suite *s = c->meta;
	const char *k = key_of(s, "counter");
	const uint64_t want = (PROCESSES + 1) * THREADS * STEPS;
	pid_t pids[PROCESSES];
	struct got g;
	uint64_t n = 0;
	int failed = 0;

	for (int i = 0; i < PROCESSES; i++)
		pids[i] = child_start(s, "add", k);
	failed |= add_here(s, k);
	for (int i = 0; i < PROCESSES; i++)
		failed |= wait_for(pids[i]);
	CHECK(!failed, "of several processes that add by get and cas one fails");
	g = get(s, s->a, k);
	if (g.status == 0 && g.len == sizeof n)
		memcpy(&n, g.value, sizeof n);
	free(g.value);
	CHECK(n == want, "several processes added %llu times by get and cas, the sum is %llu: writes were lost",
	      (unsigned long long)want, (unsigned long long)n);
	return PASS;
}

static int case_one_winner(struct ctx *c)
{
	struct suite *s = c->meta;

	for (int round = 0; round < 3; round++) {
		const char *k = key_of(s, "winner/%d", round);
		pid_t pids[PROCESSES];
		int winners = 0;

		for (int i = 0; i < PROCESSES; i++)
			pids[i] = child_start(s, "win", k);
		for (int i = 0; i < PROCESSES; i++)
			winners += wait_for(pids[i]) == 10;
		CHECK(winners == 1, "of %d processes that create one key by cas %d are told that they did", PROCESSES,
		      winners);
	}
	return PASS;
}

/* ---- killed, stopped ------------------------------------------------------------------------- */

#define KILL_KEYS 3
#define KILL_ROUNDS CHILDREN

/* Puts of patterns, for ever. */
static int child_puts(struct suite *s, const char *key)
{
	unsigned char *buf = malloc(65536);

	while (buf) {
		uint64_t x = seed_of();
		size_t len = 16 + x % 65000;
		char k[300];

		snprintf(k, sizeof k, "%s%d", key, (int)(x >> 40) % KILL_KEYS);
		pattern_fill(buf, len, x);
		if (x >> 60 == 0)
			s->ops->del(s->a, k, 0, IN(5), NULL);
		else
			put(s, s->a, k, buf, len, 0, NULL, NULL);
	}
	return 1;
}

struct checked {
	unsigned nr, bad;
};

static int check_emit(void *ctx, const struct mc_kv *kv)
{
	struct checked *c = ctx;

	c->nr++;
	c->bad += !pattern_ok(kv->value, kv->len);
	return 0;
}

/* A writer is killed in the middle of it: values are whole, and nobody is held up. */
static int kill_one(struct ctx *c, const char *prefix, int round)
{
	struct suite *s = c->meta;
	pid_t pid = child_start(s, "puts", prefix);
	struct mc_error err = {0};
	struct checked found = {0};
	unsigned char buf[100];
	uint64_t begin;

	CHECK(pid > 0, "no process");
	mh_sleep((5 + seed_of() % 40) * MC_MSEC);
	kill(pid, SIGKILL);
	wait_for(pid);
	CHECK(s->ops->list(s->a, prefix, IN(5), check_emit, &found, &err) == 0,
	      "list after a writer was killed: %s", err.text);
	CHECK(!found.bad && found.nr <= KILL_KEYS, "after a writer was killed %u of %u values are damaged", found.bad,
	      found.nr);
	begin = mh_now();
	pattern_fill(buf, sizeof buf, (uint64_t)round);
	for (int i = 0; i < KILL_KEYS; i++)
		CHECK(put(s, s->a, key_of(s, "killed/%d", i), buf, sizeof buf, 0, NULL, &err) == 0,
		      "put after a writer was killed: %s", err.text);
	CHECK(mh_now() - begin < 2 * MC_SEC, "a dead process holds up %d puts for more than 2 s", KILL_KEYS);
	return PASS;
}

static int case_killed(struct ctx *c)
{
	char prefix[128];
	int r = PASS;

	snprintf(prefix, sizeof prefix, "%skilled/", c->meta->root);
	for (int round = 0; round < KILL_ROUNDS && r == PASS; round++)
		r = kill_one(c, prefix, round);
	return r;
}

/* A put while another writer stands still: done, or -ETIMEDOUT in time. */
static int put_beside(struct ctx *c, const char *key, pid_t pid)
{
	struct mc_kv kv = {.size = sizeof kv, .key = key, .value = "0123456789abcdef", .len = 16};
	struct suite *s = c->meta;
	struct mc_error err = {0};
	uint64_t begin, took;
	int r;

	kill(pid, SIGSTOP);
	begin = mh_now();
	r = s->ops->put(s->a, &kv, begin + 200 * MC_MSEC, NULL, &err);
	took = mh_now() - begin;
	kill(pid, SIGCONT);
	CHECK(r == 0 || (r == -ETIMEDOUT && err.text[0]),
	      "put while another process stands still answers %d '%s', not -ETIMEDOUT with a sentence", r, err.text);
	CHECK(took < 200 * MC_MSEC + MC_SEC, "put misses its deadline by more than 1 s while another process stands still");
	return PASS;
}

static int case_stopped(struct ctx *c)
{
	struct suite *s = c->meta;
	const char *one = key_of(s, "stopped/0");
	pid_t pid = child_start(s, "puts", key_of(s, "stopped/"));
	int r = PASS;

	CHECK(pid > 0, "no process");
	CHECK(wait_status(s, one, 0, BOUND), "another process's put is not found");
	for (int round = 0; round < 15 && r == PASS; round++) {
		mh_sleep((1 + seed_of() % 8) * MC_MSEC);
		r = put_beside(c, one, pid);
	}
	kill(pid, SIGKILL);
	wait_for(pid);
	CHECK(r != PASS || put(s, s->a, one, "v", 1, 0, NULL, NULL) == 0, "put after the other process has ended fails");
	return r;
}

/* The lease of a process that dies ends, within its ttl. */
static int case_lease_killed(struct ctx *c)
{
	struct suite *s = c->meta;
	const char *k = key_of(s, "dying");
	struct mc_error err = {0};
	struct mh_watch *w = NULL;
	pid_t pid;
	int r;

	if (!has_leases(s))
		return skip(c, "no leases (lease_grant, lease_keepalive, lease_revoke); engines need them");
	r = has_watch(s) ? mh_watch(s->in, k, &w, &err) : 0;
	CHECK(r == 0, "watch: %d %s", r, err.text);
	pid = child_start(s, "lease", k);
	CHECK(pid > 0 && wait_status(s, k, 0, BOUND), "another process's put under a lease is not found");
	mh_sleep(s->ttl_ns + s->ttl_ns / 2);
	CHECK(status_of(s, s->a, k) == 0, "a lease ends while another process keeps it alive");
	kill(pid, SIGKILL);
	wait_for(pid);
	CHECK(wait_status(s, k, -ENOENT, s->ttl_ns + 3 * MC_SEC),
	      "the lease of a process that was killed does not end within its ttl and 3 s");
	CHECK(!w || mh_watch_wait(w, k, 0, 4 * MC_SEC), "a watch is not told of the end of a killed process's lease");
	r = cas(s, s->a, k, "mine", 4, 0, 0, NULL, &err);
	CHECK(r == 0, "cas of a key whose holder was killed: %d %s", r, err.text);
	mh_sleep(300 * MC_MSEC);
	CHECK(status_of(s, s->a, k) == 0, "a key that was taken over is removed with its former lease");
	if (w) {
		mh_unwatch(w);
		mh_watch_free(w);
	}
	return PASS;
}

/* Is what get finds now what the watch reported last?  What was under way when the writer died may come to
 * pass after a first look. */
static bool watch_caught_up(struct suite *s, struct mh_watch *w, const char *key)
{
	bool seen = false;

	for (int tries = 0; tries < 4 && !seen; tries++) {
		struct got g = get(s, s->a, key);

		free(g.value);
		seen = g.status != 0 || mh_watch_wait(w, key, g.revision, 2 * MC_SEC);
	}
	return seen;
}

static int case_watch_process(struct ctx *c)
{
	struct suite *s = c->meta;
	const char *k = key_of(s, "seen/");
	struct mc_error err = {0};
	struct mh_watch *w;
	pid_t pid;

	if (!has_watch(s))
		return skip(c, "no watches (watch, unwatch)");
	CHECK(mh_watch(s->in, k, &w, &err) == 0, "watch: %s", err.text);
	pid = child_start(s, "puts", k);
	CHECK(pid > 0 && wait_status(s, key_of(s, "seen/0"), 0, BOUND), "another process's put is not found");
	mh_sleep(200 * MC_MSEC);
	kill(pid, SIGKILL);
	wait_for(pid);
	for (int i = 0; i < KILL_KEYS; i++)
		CHECK(watch_caught_up(s, w, key_of(s, "seen/%d", i)),
		      "a watch does not report the last of another process's changes");
	mh_unwatch(w);
	for (size_t i = 0; i < w->nr; i++)
		CHECK(!w->events[i].value || pattern_ok(w->events[i].value, w->events[i].len),
		      "a watch reports a value that is not what was put");
	mh_watch_free(w);
	return PASS;
}

/* ---- deadlines --------------------------------------------------------------------------------- */

static int ignore_emit(void *ctx, const struct mc_kv *kv)
{
	return 0;
}

/* A deadline that has passed: done at once or -ETIMEDOUT, but soon. */
static int case_deadlines(struct ctx *c)
{
	static const char *const names[] = {"put", "get", "list", "del", "cas", "lease_grant"};
	struct suite *s = c->meta;
	const char *k = key_of(s, "deadline");
	struct mc_kv kv = {.size = sizeof kv, .key = k, .value = "v", .len = 1};
	uint64_t begin = mh_now(), past = begin - MC_SEC, lease = 0;
	int r[6] = {0};

	r[0] = s->ops->put(s->a, &kv, past, NULL, NULL);
	r[1] = s->ops->get(s->a, k, past, ignore_emit, NULL, NULL);
	r[2] = s->ops->list(s->a, k, past, ignore_emit, NULL, NULL);
	r[3] = s->ops->del(s->a, k, 0, past, NULL);
	r[4] = s->ops->cas(s->a, &kv, 0, past, NULL, NULL);
	if (has_leases(s))
		r[5] = s->ops->lease_grant(s->a, s->ttl_ns, past, &lease, NULL);
	CHECK(mh_now() - begin < 2 * MC_SEC, "six calls whose deadline has passed take %llu ms",
	      (unsigned long long)((mh_now() - begin) / MC_MSEC));
	for (int i = 0; i < 6; i++)
		CHECK(r[i] == 0 || r[i] == -ETIMEDOUT || r[i] == -ENOENT || r[i] == -EEXIST,
		      "%s answers %d when its deadline has passed, not -ETIMEDOUT", names[i], r[i]);
	if (lease)
		s->ops->lease_revoke(s->a, lease, IN(5), NULL);
	return PASS;
}

const struct test_case meta_many_cases[] = {
	{BEHAVES, "contention", case_contention, 8, .children = PROCESSES},
	{BEHAVES, "one-winner", case_one_winner, 8, .children = 3 * PROCESSES},
	{BEHAVES, "writer-killed", case_killed, 8, .children = KILL_ROUNDS},
	{BEHAVES, "writer-stopped", case_stopped, 8, .children = 1},
	{BEHAVES, "lease-killed", case_lease_killed, 8, .children = 1},
	{BEHAVES, "watch-process", case_watch_process, 8, .children = 1},
	{BEHAVES, "deadlines", case_deadlines, 8},
	{.run = NULL},
};

static int child_lease(struct suite *s, const char *key)
{
	uint64_t lease;

	if (s->ops->lease_grant(s->a, s->ttl_ns, IN(5), &lease, NULL) < 0 ||
	    put(s, s->a, key, "v", 1, lease, NULL, NULL) < 0)
		return 1;
	for (;;) {
		mh_sleep(s->ttl_ns / 4);
		if (s->ops->lease_keepalive(s->a, lease, IN(5), NULL) < 0)
			return 1;
	}
}

int meta_child(struct ctx *c, const char *role, const char *key)
{
	struct suite *s = c->meta;

	if (!strcmp(role, "add"))
		return add_here(s, key);
	if (!strcmp(role, "win"))
		return cas(s, s->a, key, "me", 2, 0, 0, NULL, NULL) == 0 ? 10 : 0;
	if (!strcmp(role, "puts"))
		return child_puts(s, key);
	return child_lease(s, key);
}
