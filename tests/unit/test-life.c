/* SPDX-License-Identifier: Apache-2.0 */
/* What an engine outlives: its metadata lost and back, a holder of its name that is silent, a
 * connection that is cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "engine-fixture.h"
#include "meta.h"
#include "metrics.h"
#include "session_impl.h"

/* ---- what was logged ------------------------------------------------------------------------- */

static unsigned nr_lost, nr_back, nr_silent, nr_taken;

static void logged(void *arg, enum mc_log_level level, const char *text)
{
	if (strstr(text, "transfers go on"))
		__atomic_fetch_add(&nr_lost, 1, __ATOMIC_RELAXED);
	if (strstr(text, "is back: the record"))
		__atomic_fetch_add(&nr_back, 1, __ATOMIC_RELAXED);
	if (strstr(text, "does not answer; waiting for its lease"))
		__atomic_fetch_add(&nr_silent, 1, __ATOMIC_RELAXED);
	if (strstr(text, "taken over"))
		__atomic_fetch_add(&nr_taken, 1, __ATOMIC_RELAXED);
}

static unsigned count(const unsigned *nr)
{
	return __atomic_load_n(nr, __ATOMIC_RELAXED);
}

/* At most 15 s, for sanitizers on a busy machine. */
static bool wait_for(bool (*f)(void *arg), void *arg)
{
	uint64_t deadline = fixture_deadline(15 * MC_SEC);

	while (!f(arg) && mc_now_ns() < deadline)
		poll(NULL, 0, 5);
	return f(arg);
}

/* ---- metadata lost (P10) --------------------------------------------------------------------- */

static sem_t arrived;

static void on_message(struct mc_session *s, uint16_t type, const void *payload, size_t len)
{
	sem_post(&arrived);
}

static struct mc_session *open_beta(struct fixture *a)
{
	struct mc_session *s = NULL;
	struct mc_error err = {0};

	if (mc_session_open(&a->engine, "beta", fixture_deadline(10 * MC_SEC), &s, &err) < 0)
		fail_msg("%s", err.text);
	return s;
}

static bool both_lost(void *arg)
{
	return count(&nr_lost) >= 2;
}

static bool both_back(void *arg)
{
	return count(&nr_back) >= 2;
}

static bool has_alpha(void *arg)
{
	struct fixture *b = arg;
	struct mc_record *r = NULL;
	int status = mc_record_find(&b->engine, "alpha", fixture_deadline(MC_SEC), &r, NULL);

	mc_record_free(r);
	return status == 0;
}

static void say(struct mc_session *s)
{
	assert_int_equal(mc_session_send(s, 0x123, "x", 1, NULL, 0), 0);
	sem_wait(&arrived);
}

/* The directory goes away, as a whole or with a service that is not mounted, and comes back: with
 * what was in it, or empty. */
static void metadata_lost(bool emptied)
{
	static const char *const quick[] = {"lease_ttl", "1s", "peer_timeout", "1s", NULL};
	struct fixture *a = fixture_start("alpha", quick), *b = fixture_start("beta", quick);
	struct mc_session *s = open_beta(a);
	char away[80], cmd[100];
	uint64_t begin, took;

	nr_lost = nr_back = 0;
	sem_init(&arrived, 0, 0);
	b->message = on_message;
	snprintf(away, sizeof away, "%s.away", fixture_dir);
	assert_int_equal(rename(fixture_dir, away), 0);
	say(s);
	assert_true(wait_for(both_lost, NULL));
	/* Longer than lease and peer_timeout. */
	begin = mc_now_ns();
	while (mc_now_ns() - begin < 1500 * MC_MSEC)
		say(s);
	assert_int_equal(s->state, MC_SESSION_UP);
	assert_int_equal(count(&nr_lost), 2);
	assert_int_equal(count(&nr_back), 0);
	if (emptied) {
		snprintf(cmd, sizeof cmd, "rm -rf '%s'", away);
		assert_int_equal(system(cmd), 0);
		assert_int_equal(mkdir(fixture_dir, 0700), 0);
	} else {
		assert_int_equal(rename(away, fixture_dir), 0);
	}
	begin = mc_now_ns();
	assert_true(wait_for(both_back, NULL));
	assert_true(wait_for(has_alpha, b));
	took = mc_now_ns() - begin;
	print_message("published again after %llu ms\n", (unsigned long long)(took / MC_MSEC));
	assert_true(took < 5 * MC_SEC);
	assert_int_equal(count(&nr_lost), 2);
	assert_int_equal(count(&nr_back), 2);
	assert_int_equal(a->nr_gone + b->nr_gone, 0);
	say(s);
	mc_session_unref(s);
	fixture_free(a);
	fixture_free(b);
}

static void test_metadata_lost(void **state)
{
	metadata_lost(false);
}

static void test_metadata_emptied(void **state)
{
	metadata_lost(true);
}

/* ---- a holder of the name that is silent ---------------------------------------------------------- */

/* Only one of its threads takes the signal, and stops the others when it runs. */
static void freeze(pid_t pid)
{
	kill(pid, SIGSTOP);
	waitpid(pid, NULL, WUNTRACED);
}

static pid_t spawn_alpha(void)
{
	static const char *const quick[] = {"lease_ttl", "2s", NULL};
	int fds[2];
	char byte;
	pid_t pid;

	fixture_free(fixture_start("gamma", NULL));
	assert_int_equal(pipe(fds), 0);
	pid = fork();
	if (pid == 0) {
		mc_log_set_handler(NULL, NULL);
		fixture_start("alpha", quick);
		if (write(fds[1], "x", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	assert_true(pid > 0);
	assert_int_equal(read(fds[0], &byte, 1), 1);
	close(fds[0]);
	close(fds[1]);
	return pid;
}

/* Alive on this host, by its lock: its lease does not end while it is only stopped. */
static void test_silent_holder(void **state)
{
	pid_t pid = spawn_alpha();
	struct fixture *b = fixture_new("alpha", NULL);
	struct mc_error err = {0};
	uint64_t begin = mc_now_ns(), took;
	int r;

	nr_silent = nr_taken = 0;
	assert_int_equal(fixture_open(b, 5 * MC_SEC, &err), -EEXIST);
	assert_non_null(strstr(err.text, "live engine at 127.0.0.1:"));
	assert_true(mc_now_ns() - begin < 4 * MC_SEC);
	assert_int_equal(nr_silent, 0);
	fixture_free(b);

	freeze(pid);
	b = fixture_new("alpha", NULL);
	begin = mc_now_ns();
	r = fixture_open(b, 2 * MC_SEC, &err);
	took = mc_now_ns() - begin;
	assert_int_equal(r, -EEXIST);
	assert_non_null(strstr(err.text, "does not answer"));
	assert_true(took > MC_SEC && took < 5 * MC_SEC);
	assert_int_equal(nr_silent, 1);
	fixture_free(b);

	/* Dead: nobody listens, the name is free without waiting. */
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	b = fixture_new("alpha", NULL);
	begin = mc_now_ns();
	if (fixture_open(b, 10 * MC_SEC, &err) < 0)
		fail_msg("%s", err.text);
	assert_true(mc_now_ns() - begin < 3 * MC_SEC);
	fixture_free(b);
}

struct kill_later {
	pthread_t thread;
	pid_t pid;
};

static bool said_silent(void *arg)
{
	return count(&nr_silent) > 0;
}

static void *kill_main(void *arg)
{
	struct kill_later *k = arg;

	wait_for(said_silent, NULL);
	kill(k->pid, SIGKILL);
	return NULL;
}

/* Its lease ends while we wait for it. */
static void test_silent_until_dead(void **state)
{
	struct kill_later k = {.pid = spawn_alpha()};
	struct fixture *b = fixture_new("alpha", NULL);
	struct mc_error err = {0};

	nr_silent = 0;
	freeze(k.pid);
	assert_int_equal(pthread_create(&k.thread, NULL, kill_main, &k), 0);
	if (fixture_open(b, 20 * MC_SEC, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(nr_silent, 1);
	pthread_join(k.thread, NULL);
	waitpid(k.pid, NULL, 0);
	fixture_free(b);
}

/* ---- a name that another has taken over ----------------------------------------------------------- */

static char lost_text[512];
static unsigned nr_name_lost;

static void logged_loss(void *arg, enum mc_log_level level, const char *text)
{
	if (level != MC_LOG_WARN || !strstr(text, "new peers reach that one"))
		return;
	snprintf(lost_text, sizeof lost_text, "%s", text);
	__atomic_fetch_add(&nr_name_lost, 1, __ATOMIC_RELEASE);
}

static bool has_lost(void *arg)
{
	return __atomic_load_n(&nr_name_lost, __ATOMIC_ACQUIRE) > 0;
}

static void is_name(void *ctx, const char *part, const char *why)
{
	if (!strcmp(part, "name"))
		++*(unsigned *)ctx;
}

struct name_look {
	struct fixture *x;
	unsigned nr;
};

static void look(void *arg)
{
	struct name_look *l = arg;

	assert_int_not_equal(mc_health_look(&l->x->engine, is_name, &l->nr), MC_HEALTH_OK);
}

static unsigned name_reasons(struct fixture *x)
{
	struct name_look l = {.x = x};

	mc_control_call(x->engine.control, look, &l);
	return l.nr;
}

static bool is_alphas(void *arg)
{
	struct fixture *a = arg;
	struct mc_record *r = NULL;
	bool is = mc_record_find(&a->engine, "alpha", fixture_deadline(MC_SEC), &r, NULL) == 0 &&
		  r->generation == a->engine.generation && !a->engine.meta->name_lost;

	mc_record_free(r);
	return is;
}

/* Where it says that it is, nobody listens: it is taken for dead.  It is told, and does not fight. */
static void test_name_lost(void **state)
{
	static const char *const unreachable[] = {"lease_ttl", "600ms", "advertise_address", "127.0.0.1:1", NULL};
	struct fixture *a = fixture_start("alpha", unreachable), *b = fixture_start("beta", NULL), *other;
	struct mc_session *s = open_beta(a);
	char generation[40], port[16];
	uint64_t failures, begin;

	mc_log_set_handler(logged_loss, NULL);
	b->message = on_message;
	sem_init(&arrived, 0, 0);
	assert_int_equal(name_reasons(a), 0);
	other = fixture_start("alpha", NULL);
	assert_true(wait_for(has_lost, NULL));
	snprintf(generation, sizeof generation, "(generation %016llx)", (unsigned long long)other->engine.generation);
	snprintf(port, sizeof port, ":%u ", other->engine.port);
	assert_non_null(strstr(lost_text, generation));
	assert_non_null(strstr(lost_text, port));
	/* Rounds later as well. */
	begin = mc_now_ns();
	while (mc_now_ns() - begin < 700 * MC_MSEC)
		say(s);
	assert_int_equal(name_reasons(a), 1);
	assert_int_equal(nr_name_lost, 1);
	assert_false(is_alphas(a));
	failures = a->engine.meta->failures;
	fixture_free(other);
	assert_true(wait_for(is_alphas, a));
	assert_int_equal(name_reasons(a), 0);
	assert_int_equal(a->engine.meta->failures, failures);
	mc_log_set_handler(logged, NULL);
	mc_session_unref(s);
	fixture_free(a);
	fixture_free(b);
}

static int init(void **state)
{
	mc_log_set_handler(logged, NULL);
	mc_log_set_level(MC_LOG_INFO);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_metadata_lost),
		cmocka_unit_test(test_metadata_emptied),
		cmocka_unit_test(test_silent_holder),
		cmocka_unit_test(test_silent_until_dead),
		cmocka_unit_test(test_name_lost),
	};

	return cmocka_run_group_tests(tests, init, fixture_cleanup);
}
