/* SPDX-License-Identifier: Apache-2.0 */
/* The control loop: posts in order, calls, watches and timers of plugins from both kinds of thread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <semaphore.h>
#include <sys/resource.h>
#include <unistd.h>

#include "clock.h"
#include "control.h"
#include "core/util/check.h"

static struct mc_control *control;
static sem_t sem;

static int setup(void **state)
{
	sem_init(&sem, 0, 0);
	return mc_control_new(&control, NULL);
}

static int teardown(void **state)
{
	mc_control_free(control);
	sem_destroy(&sem);
	return 0;
}

struct numbered {
	struct mc_control_post post;
	int n;
};
static int last;

static void in_order(struct mc_control_post *post)
{
	struct numbered *p = MC_CONTAINER_OF(post, struct numbered, post);

	last = last == p->n - 1 ? p->n : -1000;
	sem_post(&sem);
}

static void test_posts(void **state)
{
	struct numbered posts[100];

	last = 0;
	for (int i = 0; i < 100; i++) {
		posts[i] = (struct numbered){.post.run = in_order, .n = i + 1};
		mc_control_post(control, &posts[i].post);
	}
	for (int i = 0; i < 100; i++)
		sem_wait(&sem);
	assert_int_equal(last, 100);
}

static void where(void *arg)
{
	*(bool *)arg = mc_on_control(control);
}

static void test_call(void **state)
{
	bool there = false;

	mc_control_call(control, where, &there);
	assert_true(there);
	assert_false(mc_on_control(control));
}

static void ready(struct mc_watch *w, uint32_t revents)
{
	char byte;

	assert_true(revents & POLLIN);
	assert_int_equal(read(w->fd, &byte, 1), 1);
	sem_post(&sem);
}

static void test_watch(void **state)
{
	int fds[2];
	struct mc_watch w = {.size = sizeof w, .events = POLLIN, .ready = ready};

	assert_int_equal(pipe(fds), 0);
	w.fd = fds[0];
	assert_int_equal(mc_control_watch(control, &w), 0);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(write(fds[1], "x", 1), 1);
		sem_wait(&sem);
	}
	assert_int_equal(mc_control_rewatch(control, &w, 0), 0);
	assert_int_equal(mc_control_rewatch(control, &w, POLLIN), 0);
	assert_int_equal(write(fds[1], "x", 1), 1);
	sem_wait(&sem);
	mc_control_unwatch(control, &w);
	mc_control_unwatch(control, &w);
	assert_null(w.host);
	close(fds[0]);
	close(fds[1]);
}

static int fired[3], nr_fired;

static void fire(struct mc_timer *t, uint64_t now_ns)
{
	assert_int_equal(t->deadline_ns, 0);
	fired[nr_fired++] = (int)(intptr_t)t->user;
	sem_post(&sem);
}

static void set_three(void *arg)
{
	struct mc_timer *t = arg;
	uint64_t now = mc_now_ns();

	mc_control_timer(control, &t[0], now + 3600 * MC_SEC);
	mc_control_timer(control, &t[1], now + 3 * MC_MSEC);
	mc_control_timer(control, &t[2], now + 2 * MC_MSEC);
}

static void test_timers(void **state)
{
	struct mc_timer t[3];
	uint64_t now = mc_now_ns();

	for (int i = 0; i < 3; i++)
		t[i] = (struct mc_timer){.size = sizeof t[i], .fire = fire, .user = (void *)(intptr_t)i};
	mc_control_call(control, set_three, t);
	sem_wait(&sem);
	sem_wait(&sem);
	assert_int_equal(fired[0], 2);
	assert_int_equal(fired[1], 1);
	/* A timer moves, and is disarmed. */
	mc_control_timer(control, &t[0], now + MC_MSEC);
	sem_wait(&sem);
	assert_int_equal(fired[2], 0);
	mc_control_timer(control, &t[0], now + 3600 * MC_SEC);
	mc_control_timer(control, &t[0], 0);
	assert_int_equal(nr_fired, 3);
}

#define MANY 20000

static int nr_again;
static bool enough;

/* Due again by the time it was called, and later by the clock's. */
static void again(struct mc_timer *t, uint64_t now_ns)
{
	if (++nr_again < MANY && !enough)
		mc_control_timer(control, t, nr_again % 2 ? now_ns : mc_now_ns());
	else
		sem_post(&sem);
}

static void say_enough(void *arg)
{
	*(int *)arg = nr_again;
	enough = true;
}

/* A timer that is always due leaves the loop its turns. */
static void test_timer_due_again(void **state)
{
	struct mc_timer t = {.size = sizeof t, .fire = again};
	int seen = 0;

	mc_control_timer(control, &t, mc_now_ns());
	mc_control_call(control, say_enough, &seen);
	sem_wait(&sem);
	assert_true(seen < MANY);
	assert_int_equal(t.deadline_ns, 0);
}

/* Too few descriptors are refused, however few; and a loop takes none of those below 3, though they are free: libuv
 * would abort in either case. */
static void test_descriptors(void **state)
{
	struct mc_control *another;
	struct rlimit was, few;
	bool refused = false, made = false;
	int in, out;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
	in = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 100);
	out = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 100);
	close(STDIN_FILENO);
	close(STDOUT_FILENO);
	few = was;
	for (few.rlim_cur = 3; few.rlim_cur < 40; few.rlim_cur++) {
		int r;

		setrlimit(RLIMIT_NOFILE, &few);
		r = mc_control_new(&another, NULL);
		refused |= r == -EMFILE;
		made |= r == 0;
		if (r == 0)
			mc_control_free(another);
	}
	setrlimit(RLIMIT_NOFILE, &was);
	if (in >= 0)
		dup2(in, STDIN_FILENO);
	dup2(out, STDOUT_FILENO);
	close(in);
	close(out);
	assert_true(refused);
	assert_true(made);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_posts),
		cmocka_unit_test(test_call),
		cmocka_unit_test(test_watch),
		cmocka_unit_test(test_timers),
		cmocka_unit_test(test_timer_due_again),
		cmocka_unit_test(test_descriptors),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
