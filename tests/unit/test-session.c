/* SPDX-License-Identifier: Apache-2.0 */
/* Two engines' control planes in one process: sessions, tables, notifies, life and death. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

#include "engine-fixture.h"
#include "core/util/check.h"
#include "session_impl.h"

static void test_open_and_table(void **state)
{
	struct fixture *a = fixture_start("alpha", NULL), *b = fixture_start("beta", NULL);
	struct mc_session *s, *again;
	struct mc_snapshot *snap;
	struct mc_error err = {0};

	fixture_buf(b, 1, 0x10000, 0x1000);
	fixture_buf(b, 2, 0x20000, 0x1000);
	if (mc_session_open(&a->engine, "beta", fixture_deadline(5 * MC_SEC), &s, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(s->state, MC_SESSION_UP);
	assert_string_equal(s->peer->name, "beta");
	assert_true(s->peer->generation == b->engine.generation);
	snap = mc_session_snapshot(s);
	assert_int_equal(snap->nr, 2);
	assert_non_null(mc_snapshot_find(snap, 0x10800, 0x800));
	assert_null(mc_snapshot_find(snap, 0x10800, 0x801));
	mc_snapshot_unref(snap);
	assert_int_equal(mc_session_open(&a->engine, "beta", fixture_deadline(MC_SEC), &again, &err), 0);
	assert_ptr_equal(s, again);
	mc_session_unref(again);
	mc_session_unref(s);
	fixture_free(a);
	fixture_free(b);
}

static void test_own_segment(void **state)
{
	struct fixture *a = fixture_start("alpha", NULL);
	struct mc_session *s;
	struct mc_error err = {0};

	if (mc_session_open(&a->engine, "alpha", fixture_deadline(5 * MC_SEC), &s, &err) < 0)
		fail_msg("%s", err.text);
	mc_session_unref(s);
	fixture_free(a);
}

static sem_t sem;
static uint64_t sum;
static uint64_t expected;

static void count_message(struct mc_session *s, uint16_t type, const void *payload, size_t len)
{
	uint64_t n;

	assert_int_equal(type, 0x123);
	memcpy(&n, payload, sizeof n);
	assert_true(n == sum); /* in order, once */
	sum++;
	if (sum == expected)
		sem_post(&sem);
}

static void break_conn(void *arg)
{
	struct mc_session *s = arg;

	if (s->impl->conn)
		mc_conn_lost(s->impl->conn, -ECONNRESET, "the test broke it");
}

/* The connection breaks again and again; every message arrives once and in order. */
static void test_messages(void **state)
{
	struct fixture *a = fixture_start("alpha", NULL), *b = fixture_start("beta", NULL);
	struct mc_session *s;
	struct mc_error err = {0};
	char body[3000] = "";

	sum = 0;
	expected = 3000;
	sem_init(&sem, 0, 0);
	b->message = count_message;
	if (mc_session_open(&a->engine, "beta", fixture_deadline(5 * MC_SEC), &s, &err) < 0)
		fail_msg("%s", err.text);
	for (uint64_t i = 0; i < expected; i++) {
		assert_int_equal(mc_session_send(s, 0x123, &i, sizeof i, body, sizeof body), 0);
		if (i % 500 == 250)
			mc_control_call(a->engine.control, break_conn, s);
	}
	assert_int_equal(mc_session_send(s, 0x123, body, 1, body, 65536), -EMSGSIZE);
	sem_wait(&sem);
	assert_int_equal(sum, expected);
	mc_session_unref(s);
	fixture_free(a);
	fixture_free(b);
}

static void refreshed(void *arg, int status)
{
	*(int *)arg = status;
	sem_post(&sem);
}

static void test_deltas(void **state)
{
	struct fixture *a = fixture_start("alpha", NULL), *b = fixture_start("beta", NULL);
	struct mc_session *s;
	struct mc_snapshot *one, *two;
	struct mc_error err = {0};
	int status = 1;

	sem_init(&sem, 0, 0);
	for (uint32_t i = 0; i < 3000; i++)
		fixture_buf(b, i + 1, 0x100000 * (uint64_t)(3000 - i), 0x1000);
	if (mc_session_open(&a->engine, "beta", fixture_deadline(5 * MC_SEC), &s, &err) < 0)
		fail_msg("%s", err.text);
	one = mc_session_snapshot(s);
	assert_int_equal(one->nr, 3000);
	sem_wait(&a->snapshot_sem);
	fixture_buf(b, 5000, 0x10, 0x10);
	mc_session_push_add(&b->engine, &b->bufs[b->nr - 1]);
	sem_wait(&a->snapshot_sem);
	two = mc_session_snapshot(s);
	assert_int_equal(two->nr, 3001);
	assert_int_equal(two->bufs[0]->id, 5000);
	assert_ptr_equal(two->bufs[1], one->bufs[0]);
	assert_int_equal(one->nr, 3000);
	mc_snapshot_unref(two);
	mc_snapshot_unref(one);
	/* Not pushed: a refresh finds it; and a removal. */
	fixture_unbuf(b, 5000);
	fixture_buf(b, 5001, 0x30, 0x10);
	assert_int_equal(mc_session_refresh(s, refreshed, &status), 0);
	sem_wait(&sem);
	assert_int_equal(status, 0);
	two = mc_session_snapshot(s);
	assert_int_equal(two->nr, 3001);
	assert_int_equal(two->bufs[0]->id, 5001);
	mc_snapshot_unref(two);
	mc_session_push_remove(&b->engine, 5001);
	while (sem_wait(&a->snapshot_sem) == 0) {
		two = mc_session_snapshot(s);
		status = two->nr == 3000;
		mc_snapshot_unref(two);
		if (status)
			break;
	}
	mc_session_unref(s);
	fixture_free(a);
	fixture_free(b);
}

/* What is said of a buffer comes after a comparison that saw it gone, and another in its place. */
static void test_late_push(void **state)
{
	struct fixture *a = fixture_start("alpha", NULL), *b = fixture_start("beta", NULL);
	struct mc_local_buf late;
	struct mc_session *s;
	struct mc_snapshot *snap;
	struct mc_error err = {0};
	size_t nr = 0;
	int status = 1;

	sem_init(&sem, 0, 0);
	fixture_buf(b, 1, 0x10000, 0x1000);
	if (mc_session_open(&a->engine, "beta", fixture_deadline(5 * MC_SEC), &s, &err) < 0)
		fail_msg("%s", err.text);
	fixture_buf(b, 2, 0x20000, 0x1000);
	late = b->bufs[b->nr - 1];
	fixture_unbuf(b, 2);
	fixture_buf(b, 3, 0x20000, 0x2000);
	assert_int_equal(mc_session_refresh(s, refreshed, &status), 0);
	sem_wait(&sem);
	assert_int_equal(status, 0);
	mc_session_push_add(&b->engine, &late);
	fixture_buf(b, 4, 0x30000, 0x1000);
	mc_session_push_add(&b->engine, &b->bufs[b->nr - 1]);
	while (nr < 3 && s->state == MC_SESSION_UP) {
		snap = mc_session_snapshot(s);
		nr = snap->nr;
		assert_true(nr < 2 || snap->bufs[1]->id == 3);
		mc_snapshot_unref(snap);
	}
	assert_int_equal(s->state, MC_SESSION_UP);
	mc_session_unref(s);
	fixture_free(a);
	fixture_free(b);
}

static void test_goodbye(void **state)
{
	struct fixture *a = fixture_start("alpha", NULL), *b = fixture_start("beta", NULL);
	struct mc_session *s;
	struct mc_error err = {0};

	assert_int_equal(mc_session_open(&a->engine, "beta", fixture_deadline(5 * MC_SEC), &s, &err), 0);
	fixture_free(b);
	sem_wait(&a->gone_sem);
	assert_int_equal(s->state, MC_SESSION_GONE);
	assert_int_equal(s->gone_status, -EHOSTDOWN);
	assert_int_equal(mc_session_send(s, 0x123, "x", 1, NULL, 0), -ENOTCONN);
	mc_session_unref(s);
	/* It comes back with another generation: opened afresh. */
	b = fixture_start("beta", NULL);
	if (mc_session_open(&a->engine, "beta", fixture_deadline(5 * MC_SEC), &s, &err) < 0)
		fail_msg("%s", err.text);
	assert_true(s->peer->generation == b->engine.generation);
	/* Evicted by the target: the initiator hears of it and may return. */
	assert_int_equal(mc_session_end(&b->engine, a->engine.generation, -ECANCELED, "evicted"), 0);
	assert_int_equal(mc_session_end(&b->engine, 12345, -ECANCELED, "evicted"), -ENOENT);
	sem_wait(&a->gone_sem);
	mc_session_unref(s);
	assert_int_equal(mc_session_open(&a->engine, "beta", fixture_deadline(5 * MC_SEC), &s, &err), 0);
	mc_session_unref(s);
	fixture_free(a);
	fixture_free(b);
}

/* Another process with an engine "beta", ready when this returns. */
static pid_t spawn_beta(const char *const *settings)
{
	int fds[2];
	char byte;
	pid_t pid;

	/* The directory is the parent's, and must exist before the fork. */
	fixture_free(fixture_start("gamma", NULL));
	assert_int_equal(pipe(fds), 0);
	pid = fork();
	if (pid == 0) {
		fixture_buf(fixture_start("beta", settings), 1, 0x1000, 0x1000);
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

static const char *const quick[] = {"peer_timeout", "600ms", NULL};

static void test_killed(void **state)
{
	pid_t pid = spawn_beta(NULL);
	struct fixture *a = fixture_start("alpha", NULL), *b;
	struct mc_session *s;
	struct mc_error err = {0};
	uint64_t begin;

	if (mc_session_open(&a->engine, "beta", fixture_deadline(5 * MC_SEC), &s, &err) < 0)
		fail_msg("%s", err.text);
	begin = mc_boot_ns();
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	sem_wait(&a->gone_sem);
	assert_int_equal(s->gone_status, -EHOSTDOWN);
	assert_true(mc_boot_ns() - begin < 4 * MC_SEC); /* at once, not after peer_timeout */
	mc_session_unref(s);
	/* Its record is still there: nobody listens. */
	assert_true(mc_session_open(&a->engine, "beta", fixture_deadline(5 * MC_SEC), &s, &err) < 0);
	/* The name is taken over without waiting for the lease. */
	b = fixture_start("beta", NULL);
	if (mc_session_open(&a->engine, "beta", fixture_deadline(5 * MC_SEC), &s, &err) < 0)
		fail_msg("%s", err.text);
	mc_session_unref(s);
	fixture_free(b);
	fixture_free(a);
}

static void test_frozen(void **state)
{
	pid_t pid = spawn_beta(quick);
	struct fixture *a = fixture_start("alpha", quick);
	struct mc_session *s;
	struct mc_error err = {0};
	uint64_t begin;

	if (mc_session_open(&a->engine, "beta", fixture_deadline(5 * MC_SEC), &s, &err) < 0)
		fail_msg("%s", err.text);
	begin = mc_boot_ns();
	kill(pid, SIGSTOP);
	sem_wait(&a->gone_sem);
	assert_int_equal(s->gone_status, -EHOSTDOWN);
	assert_true(mc_boot_ns() - begin >= 400 * MC_MSEC);
	mc_session_unref(s);
	/* It thaws: the same generation can be opened again. */
	kill(pid, SIGCONT);
	if (mc_session_open(&a->engine, "beta", fixture_deadline(5 * MC_SEC), &s, &err) < 0)
		fail_msg("%s", err.text);
	mc_session_unref(s);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	fixture_free(a);
}

static void test_not_found(void **state)
{
	struct fixture *a = fixture_start("alpha", NULL), *b = fixture_start("beta", NULL);
	struct mc_session *s;
	struct mc_error err = {0};

	assert_int_equal(mc_session_open(&b->engine, "alhpa", fixture_deadline(5 * MC_SEC), &s, &err),
			 -ENOENT);
	assert_non_null(strstr(err.text, "'alpha'"));
	/* Who asks is no candidate. */
	assert_null(strstr(err.text, "'beta'"));
	fixture_free(b);
	fixture_free(a);
}

static void test_name_in_use(void **state)
{
	struct fixture *a = fixture_start("alpha", NULL), *b = fixture_new("alpha", NULL);
	struct mc_error err = {0};

	assert_int_equal(fixture_open(b, 5 * MC_SEC, &err), -EEXIST);
	assert_non_null(strstr(err.text, "'alpha' is in use"));
	fixture_free(b);
	fixture_free(a);
}

static void notified(void *arg, int status)
{
	*(int *)arg = status;
	sem_post(&sem);
}

static void test_notify(void **state)
{
	static const char *const small[] = {"notify_queue", "2", NULL};
	struct fixture *a = fixture_start("alpha", NULL), *b = fixture_start("beta", small);
	struct mc_notify n = {.size = sizeof n};
	struct mc_session *s;
	struct mc_error err = {0};
	int status[3] = {1, 1, 1};

	sem_init(&sem, 0, 0);
	assert_int_equal(mc_session_open(&a->engine, "beta", fixture_deadline(5 * MC_SEC), &s, &err), 0);
	assert_int_equal(mc_notify_take(&b->engine, &n, 0), -EAGAIN);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(mc_notify_post(s, "hello", 5, fixture_deadline(5 * MC_SEC), notified,
						&status[i]), 0);
		sem_wait(&sem);
		assert_int_equal(status[i], 0);
	}
	/* Full: the third waits for its deadline, or for room. */
	assert_int_equal(mc_notify_post(s, "late", 4, fixture_deadline(30 * MC_MSEC), notified,
					&status[2]), 0);
	sem_wait(&sem);
	assert_int_equal(status[2], -ENOBUFS);
	assert_int_equal(mc_notify_post(s, "third", 5, fixture_deadline(5 * MC_SEC), notified,
					&status[2]), 0);
	assert_int_equal(mc_notify_take(&b->engine, &n, MC_SEC), 0);
	assert_string_equal(n.from, "alpha");
	assert_true(n.generation == a->engine.generation);
	assert_int_equal(n.len, 5);
	sem_wait(&sem);
	assert_int_equal(status[2], 0);
	assert_int_equal(mc_notify_take(&b->engine, &n, MC_SEC), 0);
	assert_int_equal(mc_notify_take(&b->engine, &n, MC_SEC), 0);
	assert_memory_equal(n.data, "third", 5);
	assert_int_equal(mc_notify_take(&b->engine, &n, 0), -EAGAIN);
	mc_session_unref(s);
	fixture_free(a);
	fixture_free(b);
}

/* What "alpha" says of itself, with these devices. */
static void say_self(struct fixture *a, struct mc_session *s, const char *devices)
{
	char json[600];
	int n = snprintf(json, sizeof json, "{\"name\": \"alpha\", \"generation\": \"%016llx\", \"addresses\": [], "
			 "\"devices\": [%s], \"matrix\": \"{}\"}", (unsigned long long)a->engine.generation, devices);

	assert_int_equal(mc_session_send(s, MC_MSG_SELF, json, (size_t)n, NULL, 0), 0);
}

/* A peer tells another matrix: the session goes on.  What contradicts itself ends it. */
static void test_self(void **state)
{
#define DEVICE(name) "{\"transport\": \"tcp\", \"name\": \"" name "\", \"wire\": \"tcp\", \"wire_min\": 1, \"wire_max\": 1, \"lanes\": 1}"
	static const char *const bad[] = {"", DEVICE("y"), DEVICE("x") ", " DEVICE("z"), "{}"};
	struct fixture *a = fixture_start("alpha", NULL), *b = fixture_start("beta", NULL);
	struct mc_matrix *matrix;
	const struct mc_peer_info *first, *second;
	struct mc_session *s;
	struct mc_error err = {0};

	assert_int_equal(mc_matrix_parse("{\"*\": [[\"tcp:lo\"]]}", &matrix, &err), 0);
	assert_int_equal(mc_session_open(&a->engine, "beta", fixture_deadline(5 * MC_SEC), &s, &err), 0);
	sem_wait(&a->snapshot_sem);
	first = s->peer;
	assert_null(first->matrix);
	for (int i = 0; i < 4; i++) {
		/* What follows in the table shows that it has come. */
		b->engine.matrix = i & 1 ? NULL : matrix;
		mc_session_tell_self(&b->engine);
		fixture_buf(b, (uint32_t)i + 1, 0x10000u * (unsigned)(i + 1), 0x1000);
		mc_session_push_add(&b->engine, &b->bufs[i]);
		sem_wait(&a->snapshot_sem);
		if (i == 0)
			second = s->peer;
		/* What it has been before is not kept twice. */
		assert_ptr_equal(s->peer, i & 1 ? first : second);
	}
	assert_string_equal(second->matrix->text, matrix->text);
	assert_int_equal(s->state, MC_SESSION_UP);
	mc_session_unref(s);
	fixture_free(a);
	for (size_t i = 0; i < MC_ARRAY_SIZE(bad); i++) {
		a = fixture_start("alpha", NULL);
		assert_int_equal(mc_session_open(&a->engine, "beta", fixture_deadline(5 * MC_SEC), &s, &err), 0);
		while (sem_trywait(&b->gone_sem) == 0)
			;
		say_self(a, s, DEVICE("x") ", " DEVICE("y"));
		say_self(a, s, DEVICE("x") ", " DEVICE("y") ", " DEVICE("z"));
		say_self(a, s, bad[i]);
		sem_wait(&b->gone_sem);
		assert_int_equal(b->gone_status, -EPROTO);
		mc_session_unref(s);
		fixture_free(a);
	}
	b->engine.matrix = NULL;
	mc_matrix_free(matrix);
	fixture_free(b);
#undef DEVICE
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_open_and_table),
		cmocka_unit_test(test_own_segment),
		cmocka_unit_test(test_messages),
		cmocka_unit_test(test_deltas),
		cmocka_unit_test(test_late_push),
		cmocka_unit_test(test_goodbye),
		cmocka_unit_test(test_killed),
		cmocka_unit_test(test_frozen),
		cmocka_unit_test(test_not_found),
		cmocka_unit_test(test_name_in_use),
		cmocka_unit_test(test_notify),
		cmocka_unit_test(test_self),
	};

	return cmocka_run_group_tests(tests, NULL, fixture_cleanup);
}
