/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Metadata conformance with several processes and threads: contention, killed
 * and stopped writers, deadlines.  Children are this program again, so nothing
 * is inherited but what is meant.
 */
#include "metadata.h"

#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static pid_t spawn(struct suite *s, const char *role, const char *arg)
{
	char ttl[32];
	char *argv[] = {(char *)(uintptr_t) "metadata",
			(char *)(uintptr_t) "--child",
			(char *)(uintptr_t)s->path,
			(char *)(uintptr_t)s->url,
			s->root,
			ttl,
			(char *)(uintptr_t)role,
			(char *)(uintptr_t)arg,
			NULL};
	pid_t pid;

	snprintf(ttl, sizeof ttl, "%llu", (unsigned long long)s->ttl_ns);
	return posix_spawn(&pid, s->self, NULL, NULL, argv, environ) ? -1 : pid;
}

static int wait_for(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) != pid)
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
	char key[128];
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

static int case_contention(struct suite *s)
{
	const char *k = key_of(s, "counter");
	pid_t pids[PROCESSES];
	struct got g;
	uint64_t n;
	int failed = 0;

	for (int i = 0; i < PROCESSES; i++)
		pids[i] = spawn(s, "add", k);
	failed |= add_here(s, k);
	for (int i = 0; i < PROCESSES; i++)
		failed |= wait_for(pids[i]);
	EXPECT(!failed, "a process failed");
	g = get(s, s->a, k);
	EXPECT(g.status == 0 && g.len == sizeof n);
	memcpy(&n, g.value, sizeof n);
	free(g.value);
	EXPECT(n == (PROCESSES + 1) * THREADS * STEPS, "%llu", (unsigned long long)n);
	return 0;
}

/* Only one of many wins a key that does not exist. */
static int case_one_winner(struct suite *s)
{
	for (int round = 0; round < 3; round++) {
		const char *k = key_of(s, "winner/%d", round);
		pid_t pids[PROCESSES];
		int winners = 0;

		for (int i = 0; i < PROCESSES; i++)
			pids[i] = spawn(s, "win", k);
		for (int i = 0; i < PROCESSES; i++)
			winners += wait_for(pids[i]) == 10;
		EXPECT(winners == 1, "%d winners", winners);
	}
	return 0;
}

/* ---- killed, stopped ------------------------------------------------------------------------- */

#define KILL_KEYS 3

/* Puts of patterns, for ever. */
static int child_puts(struct suite *s, const char *key)
{
	unsigned char *buf = malloc(65536);

	while (buf) {
		uint64_t x = seed_of();
		size_t len = 16 + x % 65000;
		char k[160];

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

static int case_killed(struct suite *s)
{
	char k[128];

	snprintf(k, sizeof k, "%skilled/", s->root);
	for (int round = 0; round < 12; round++) {
		pid_t pid = spawn(s, "puts", k);
		struct mc_error err = {0};
		struct checked c = {0};
		uint64_t begin;
		unsigned char buf[100];

		EXPECT(pid > 0);
		mh_sleep((5 + seed_of() % 40) * MC_MSEC);
		kill(pid, SIGKILL);
		wait_for(pid);
		EXPECT(s->ops->list(s->a, k, IN(5), check_emit, &c, &err) == 0, "%s", err.text);
		EXPECT(!c.bad && c.nr <= KILL_KEYS, "round %d: %u of %u are damaged", round, c.bad,
		       c.nr);
		begin = mh_now();
		pattern_fill(buf, sizeof buf, (uint64_t)round);
		for (int i = 0; i < KILL_KEYS; i++)
			EXPECT(put(s, s->a, key_of(s, "killed/%d", i), buf, sizeof buf, 0, NULL,
				   &err) == 0,
			       "%s", err.text);
		EXPECT(mh_now() - begin < 2 * MC_SEC, "a dead process held it up");
	}
	return 0;
}

static int case_stopped(struct suite *s)
{
	const char *k = key_of(s, "stopped/"), *one = key_of(s, "stopped/0");
	pid_t pid = spawn(s, "puts", k);
	int bad = 0;

	EXPECT(pid > 0);
	EXPECT(wait_status(s, one, 0, 5 * MC_SEC));
	for (int round = 0; round < 15; round++) {
		struct mc_kv kv = {.size = sizeof kv,
				   .key = one,
				   .value = "0123456789abcdef",
				   .len = 16};
		struct mc_error err = {0};
		uint64_t begin;
		int r;

		mh_sleep((1 + seed_of() % 8) * MC_MSEC);
		kill(pid, SIGSTOP);
		begin = mh_now();
		r = s->ops->put(s->a, &kv, begin + 200 * MC_MSEC, NULL, &err);
		if (r != 0 && (r != -ETIMEDOUT || !err.text[0]))
			bad = explain(__LINE__, "put", " %d %s", r, err.text);
		if (mh_now() - begin > 200 * MC_MSEC + MC_SEC)
			bad = explain(__LINE__, "put", " the deadline was missed");
		kill(pid, SIGCONT);
	}
	kill(pid, SIGKILL);
	wait_for(pid);
	if (bad)
		return bad;
	EXPECT(put(s, s->a, one, "v", 1, 0, NULL, NULL) == 0);
	return 0;
}

/* The lease of a process that dies ends, within its ttl. */
static int case_lease_killed(struct suite *s)
{
	const char *k = key_of(s, "dying");
	struct mc_error err = {0};
	struct mh_watch *w;
	pid_t pid;

	EXPECT(mh_watch(s->in, k, &w, &err) == 0, "%s", err.text);
	pid = spawn(s, "lease", k);
	EXPECT(pid > 0 && wait_status(s, k, 0, 5 * MC_SEC));
	mh_sleep(s->ttl_ns + s->ttl_ns / 2);
	EXPECT(status_of(s, s->a, k) == 0, "it ended while kept alive by another process");
	kill(pid, SIGKILL);
	wait_for(pid);
	EXPECT(wait_status(s, k, -ENOENT, s->ttl_ns + 3 * MC_SEC), "it outlived its holder");
	EXPECT(mh_watch_wait(w, k, 0, 4 * MC_SEC), "the watch did not see it");
	EXPECT(cas(s, s->a, k, "mine", 4, 0, 0, NULL, &err) == 0, "%s", err.text);
	mh_sleep(300 * MC_MSEC);
	EXPECT(status_of(s, s->a, k) == 0, "a key that was taken over was removed");
	mh_unwatch(w);
	mh_watch_free(w);
	return 0;
}

/* Another process's changes reach a watch, the last state of each key for sure. */
static int case_watch_process(struct suite *s)
{
	const char *k = key_of(s, "seen/");
	struct mc_error err = {0};
	struct mh_watch *w;
	pid_t pid;

	EXPECT(mh_watch(s->in, k, &w, &err) == 0, "%s", err.text);
	pid = spawn(s, "puts", k);
	EXPECT(wait_status(s, key_of(s, "seen/0"), 0, 5 * MC_SEC));
	mh_sleep(200 * MC_MSEC);
	kill(pid, SIGKILL);
	wait_for(pid);
	for (int i = 0; i < KILL_KEYS; i++) {
		const char *key = key_of(s, "seen/%d", i);
		bool seen = false;

		/* What was under way when the process died may come to pass after a first look. */
		for (int tries = 0; tries < 4 && !seen; tries++) {
			struct got g = get(s, s->a, key);

			free(g.value);
			seen = g.status != 0 || mh_watch_wait(w, key, g.revision, 2 * MC_SEC);
		}
		EXPECT(seen, "key %d", i);
	}
	mh_unwatch(w);
	for (size_t i = 0; i < w->nr; i++)
		EXPECT(!w->events[i].value || pattern_ok(w->events[i].value, w->events[i].len),
		       "event %zu holds a damaged value", i);
	mh_watch_free(w);
	return 0;
}

/* ---- deadlines --------------------------------------------------------------------------------
 */

static int ignore_emit(void *ctx, const struct mc_kv *kv)
{
	return 0;
}

static int case_deadlines(struct suite *s)
{
	const char *k = key_of(s, "deadline");
	struct mc_kv kv = {.size = sizeof kv, .key = k, .value = "v", .len = 1};
	uint64_t begin = mh_now(), past = begin - MC_SEC, lease = 0;
	int r[5];

	/* A deadline that has passed: done at once or -ETIMEDOUT, but soon. */
	r[0] = s->ops->put(s->a, &kv, past, NULL, NULL);
	r[1] = s->ops->get(s->a, k, past, ignore_emit, NULL, NULL);
	r[2] = s->ops->list(s->a, k, past, ignore_emit, NULL, NULL);
	r[3] = s->ops->lease_grant(s->a, s->ttl_ns, past, &lease, NULL);
	r[4] = s->ops->del(s->a, k, 0, past, NULL);
	EXPECT(mh_now() - begin < 2 * MC_SEC, "%llu ns", (unsigned long long)(mh_now() - begin));
	for (int i = 0; i < 5; i++)
		EXPECT(r[i] == 0 || r[i] == -ETIMEDOUT || r[i] == -ENOENT, "call %d: %d", i, r[i]);
	if (lease)
		s->ops->lease_revoke(s->a, lease, IN(5), NULL);
	return 0;
}

static int case_loop(struct suite *s)
{
	/* Over all cases before; generous, for the machine may be busy. */
	EXPECT(mh_loop_worst(s->in) < 100 * MC_MSEC, "a callback held the control loop for %llu ns",
	       (unsigned long long)mh_loop_worst(s->in));
	return 0;
}

const struct test_case many_cases[] = {
	{"contention", case_contention},
	{"one-winner", case_one_winner},
	{"killed", case_killed},
	{"stopped", case_stopped},
	{"lease-killed", case_lease_killed},
	{"watch-process", case_watch_process},
	{"deadlines", case_deadlines},
	{"control-loop", case_loop},
	{NULL},
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

int child_main(struct suite *s, int argc, char **argv)
{
	if (argc < 2)
		return 2;
	if (!strcmp(argv[0], "add"))
		return add_here(s, argv[1]);
	if (!strcmp(argv[0], "win"))
		return cas(s, s->a, argv[1], "me", 2, 0, 0, NULL, NULL) == 0 ? 10 : 0;
	if (!strcmp(argv[0], "puts"))
		return child_puts(s, argv[1]);
	if (!strcmp(argv[0], "lease"))
		return child_lease(s, argv[1]);
	return 2;
}
