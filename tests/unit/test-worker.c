/* SPDX-License-Identifier: Apache-2.0 */
/* Workers: inbox, baton, waiting callers, watches, timers, ticks, the check for freezing. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "core/util/check.h"
#include "worker_impl.h"

#define PATIENCE (20 * MC_SEC)

struct probe {
	struct mc_client client;
	struct mc_worker *worker;
	atomic_uint progressed, ticks, frozen;
	atomic_int pending; /* events that progress will handle */
};

static int probe_progress(struct mc_client *c, uint64_t now_ns)
{
	struct probe *p = MC_CONTAINER_OF(c, struct probe, client);

	assert_true(mc_worker_mine(p->worker));
	atomic_fetch_add(&p->progressed, 1);
	return atomic_exchange(&p->pending, 0);
}

static int probe_arm(struct mc_client *c)
{
	return atomic_load(&MC_CONTAINER_OF(c, struct probe, client)->pending) ? -EBUSY : 0;
}

static void probe_tick(struct mc_client *c, uint64_t now_ns)
{
	atomic_fetch_add(&MC_CONTAINER_OF(c, struct probe, client)->ticks, 1);
}

static void probe_frozen(struct mc_client *c)
{
	atomic_fetch_add(&MC_CONTAINER_OF(c, struct probe, client)->frozen, 1);
}

static const struct mc_client_ops probe_ops = {
	.progress = probe_progress, .arm = probe_arm, .tick = probe_tick, .frozen = probe_frozen,
};

static void add_client(void *arg)
{
	struct probe *p = arg;

	mc_worker_add(p->worker, &p->client);
}

static void remove_client(void *arg)
{
	struct probe *p = arg;

	mc_worker_remove(p->worker, &p->client);
}

static void open_worker(struct probe *p, uint64_t spin_ns, uint64_t peer_timeout_ns)
{
	struct mc_worker_args args = {.name = "test", .spin_ns = spin_ns,
				      .peer_timeout_ns = peer_timeout_ns, .numa_node = -1};

	memset(p, 0, sizeof *p);
	p->client.ops = &probe_ops;
	assert_int_equal(mc_worker_new(&args, &p->worker), 0);
	mc_worker_call(p->worker, add_client, p);
}

static void close_worker(struct probe *p)
{
	mc_worker_call(p->worker, remove_client, p);
	mc_worker_free(p->worker);
}

/* ---- posts ------------------------------------------------------------------------------------ */

#define POSTERS 3
#define POSTS 2000

struct numbered {
	struct mc_post post;
	unsigned poster, seq;
	struct order *order;
};
struct order {
	unsigned next[POSTERS];
	atomic_uint total, wrong;
	struct mc_bell bell;
};

static void numbered_run(struct mc_post *post)
{
	struct numbered *n = MC_CONTAINER_OF(post, struct numbered, post);

	if (n->order->next[n->poster]++ != n->seq)
		atomic_fetch_add(&n->order->wrong, 1);
	if (atomic_fetch_add(&n->order->total, 1) + 1 == POSTERS * POSTS)
		mc_bell_ring(&n->order->bell);
}

struct poster {
	struct mc_worker *worker;
	struct order *order;
	unsigned idx;
	struct numbered *items;
};

static void *poster_main(void *arg)
{
	struct poster *p = arg;

	for (unsigned i = 0; i < POSTS; i++) {
		p->items[i] = (struct numbered){.post.run = numbered_run, .poster = p->idx, .seq = i,
						.order = p->order};
		mc_worker_post(p->worker, &p->items[i].post);
	}
	return NULL;
}

static bool all_posts(void *arg)
{
	return atomic_load(&((struct order *)arg)->total) == POSTERS * POSTS;
}

/* Every message runs once, each sender's in its order, whether a caller drives or not. */
static void test_posts(void **state)
{
	static struct numbered items[POSTERS][POSTS];
	struct order order = {.total = 0};
	struct poster posters[POSTERS];
	pthread_t threads[POSTERS];
	struct probe p;

	open_worker(&p, 20000, 5 * MC_SEC);
	for (unsigned i = 0; i < POSTERS; i++) {
		posters[i] = (struct poster){p.worker, &order, i, items[i]};
		assert_int_equal(pthread_create(&threads[i], NULL, poster_main, &posters[i]), 0);
	}
	assert_int_equal(mc_worker_drive(&p.worker, 1, &order.bell, all_posts, &order,
					 mc_now_ns() + PATIENCE), 0);
	for (unsigned i = 0; i < POSTERS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(atomic_load(&order.wrong), 0);
	close_worker(&p);
}

struct last_word {
	struct mc_post post;
	struct mc_worker *worker;
	atomic_bool said;
};

static void last_word_run(struct mc_post *post)
{
	atomic_store(&MC_CONTAINER_OF(post, struct last_word, post)->said, true);
}

static void *last_word_main(void *arg)
{
	struct last_word *l = arg;

	mc_worker_post(l->worker, &l->post);
	return NULL;
}

/* A message that ends its worker: who posted it may still be inside, as a helper that answers a device which waits
 * for nothing else.  What he touches then is seen by the sanitizers. */
static void test_freed_by_post(void **state)
{
	for (int i = 0; i < 200; i++) {
		struct last_word l = {.post.run = last_word_run};
		pthread_t thread;
		struct probe p;

		open_worker(&p, 0, 5 * MC_SEC);
		l.worker = p.worker;
		assert_int_equal(pthread_create(&thread, NULL, last_word_main, &l), 0);
		while (!atomic_load(&l.said))
			sched_yield();
		close_worker(&p);
		pthread_join(thread, NULL);
	}
}

/* ---- the baton ---------------------------------------------------------------------------------- */

static void count_up(void *arg)
{
	(*(unsigned *)arg)++;
}

static bool never(void *arg)
{
	return false;
}

static void test_baton(void **state)
{
	struct mc_bell bell = {0};
	unsigned n = 0;
	struct probe p;
	uint64_t start;

	open_worker(&p, 0, 5 * MC_SEC);
	assert_false(mc_worker_any_mine());
	while (!mc_worker_enter(p.worker))
		;
	assert_true(mc_worker_mine(p.worker));
	assert_true(mc_worker_any_mine());
	assert_false(mc_worker_enter(p.worker));
	/* Inside, a call runs at once and waiting is refused. */
	mc_worker_call(p.worker, count_up, &n);
	assert_int_equal(n, 1);
	assert_int_equal(mc_worker_drive(&p.worker, 1, &bell, never, NULL, mc_now_ns() + MC_SEC),
			 -EDEADLK);
	mc_worker_leave(p.worker);
	assert_false(mc_worker_mine(p.worker));
	start = mc_now_ns();
	assert_int_equal(mc_worker_drive(&p.worker, 1, &bell, never, NULL, start + 20 * MC_MSEC),
			 -ETIMEDOUT);
	assert_true(mc_now_ns() - start >= 20 * MC_MSEC);
	assert_true(mc_now_ns() - start < PATIENCE);
	close_worker(&p);
}

static void *call_many(void *arg)
{
	struct probe *p = arg;
	unsigned n = 0;

	for (int i = 0; i < 500; i++)
		mc_worker_call(p->worker, count_up, &n);
	assert_int_equal(n, 500);
	return NULL;
}

/* Callers from several threads share one baton; none is lost, none waits for ever. */
static void test_contended_baton(void **state)
{
	pthread_t threads[3];
	struct probe p;

	open_worker(&p, 20000, 5 * MC_SEC);
	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, call_many, &p), 0);
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	close_worker(&p);
}

/* ---- watches and timers ---------------------------------------------------------------------------- */

struct seen {
	struct mc_watch watch;
	struct mc_timer timer;
	struct mc_worker *worker;
	struct mc_bell bell;
	atomic_uint reads, fired;
};

static void seen_ready(struct mc_watch *w, uint32_t revents)
{
	struct seen *s = MC_CONTAINER_OF(w, struct seen, watch);
	uint64_t count;

	assert_int_equal(read(w->fd, &count, sizeof count), sizeof count);
	atomic_fetch_add(&s->reads, 1);
	mc_bell_ring(&s->bell);
}

static void seen_fire(struct mc_timer *t, uint64_t now_ns)
{
	struct seen *s = MC_CONTAINER_OF(t, struct seen, timer);

	atomic_fetch_add(&s->fired, 1);
	mc_bell_ring(&s->bell);
}

static void seen_watch(void *arg)
{
	struct seen *s = arg;

	assert_int_equal(mc_worker_watch(s->worker, &s->watch), 0);
}

static void seen_unwatch(void *arg)
{
	struct seen *s = arg;

	mc_worker_unwatch(s->worker, &s->watch);
}

static void seen_timer(void *arg)
{
	struct seen *s = arg;

	mc_worker_timer(s->worker, &s->timer, mc_now_ns() + 5 * MC_MSEC);
}

static bool saw_read(void *arg)
{
	return atomic_load(&((struct seen *)arg)->reads) > 0;
}

static bool saw_fire(void *arg)
{
	return atomic_load(&((struct seen *)arg)->fired) > 0;
}

static void test_watch_and_timer(void **state)
{
	struct seen s = {.watch = {.size = sizeof s.watch, .events = POLLIN, .ready = seen_ready},
			 .timer = {.size = sizeof s.timer, .fire = seen_fire}};
	uint64_t one = 1;
	struct probe p;

	open_worker(&p, 1000, 5 * MC_SEC);
	s.worker = p.worker;
	s.watch.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	mc_worker_call(p.worker, seen_watch, &s);
	/* Nobody drives: the worker's own thread must notice.  The waiter has no worker to drive. */
	assert_int_equal(write(s.watch.fd, &one, sizeof one), sizeof one);
	assert_int_equal(mc_worker_drive(NULL, 0, &s.bell, saw_read, &s, mc_now_ns() + PATIENCE), 0);
	/* A caller drives and sleeps in the kernel: it must notice itself. */
	atomic_store(&s.reads, 0);
	assert_int_equal(write(s.watch.fd, &one, sizeof one), sizeof one);
	assert_int_equal(mc_worker_drive(&p.worker, 1, &s.bell, saw_read, &s, mc_now_ns() + PATIENCE), 0);
	mc_worker_call(p.worker, seen_timer, &s);
	assert_int_equal(mc_worker_drive(NULL, 0, &s.bell, saw_fire, &s, mc_now_ns() + PATIENCE), 0);
	mc_worker_call(p.worker, seen_unwatch, &s);
	atomic_store(&s.reads, 0);
	assert_int_equal(write(s.watch.fd, &one, sizeof one), sizeof one);
	assert_int_equal(mc_worker_drive(&p.worker, 1, &s.bell, saw_read, &s,
					 mc_now_ns() + 30 * MC_MSEC), -ETIMEDOUT);
	close(s.watch.fd);
	close_worker(&p);
}

/* ---- a warm baton ------------------------------------------------------------------------------- */

/* As a caller does that submits, and waits, at once. */
static void come_and_go(struct mc_worker *w)
{
	for (int drives = 0; drives < 2; drives++) {
		while (!mc_worker_resume(w, drives, mc_now_ns()))
			sched_yield();
		mc_worker_turn(w);
		mc_worker_pause(w);
	}
}

static bool lies_warm(const struct mc_worker *w)
{
	return atomic_load(&((struct mc_worker *)(uintptr_t)w)->warm_ns) != 0;
}

/* Until the baton lies warm: on a busy machine callers are not always back in time. */
static void make_warm(struct mc_worker *w)
{
	uint64_t end = mc_now_ns() + PATIENCE;
	bool warm = false;

	while (!warm && mc_now_ns() < end) {
		come_and_go(w);
		warm = lies_warm(w);
	}
	assert_true(warm);
}

static void touch(struct mc_post *post)
{
	mc_bell_ring((struct mc_bell *)(void *)(post + 1));
}

struct touched {
	struct mc_post post;
	struct mc_bell bell;
};

static bool was_touched(void *arg)
{
	return __atomic_load_n(&((struct touched *)arg)->bell.seq, __ATOMIC_SEQ_CST) != 0;
}

/* Callers who come and go leave the baton warm; what they do not come back for is the thread's. */
static void test_warm(void **state)
{
	struct seen s = {.watch = {.size = sizeof s.watch, .events = POLLIN, .ready = seen_ready}};
	struct touched t = {.post.run = touch};
	uint64_t one = 1;
	struct probe p;

	open_worker(&p, 0, 5 * MC_SEC);
	s.worker = p.worker;
	s.watch.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	mc_worker_call(p.worker, seen_watch, &s);
	make_warm(p.worker);
	/* Nobody comes back: the thread takes it up, and what has come meanwhile. */
	assert_int_equal(write(s.watch.fd, &one, sizeof one), sizeof one);
	assert_int_equal(mc_worker_drive(NULL, 0, &s.bell, saw_read, &s, mc_now_ns() + PATIENCE), 0);
	mc_worker_call(p.worker, seen_unwatch, &s);
	close(s.watch.fd);
	/* Nothing is put down warm for a while after work was left lying, then it is. */
	make_warm(p.worker);
	/* A post need not wait. */
	mc_worker_post(p.worker, &t.post);
	assert_int_equal(mc_worker_drive(NULL, 0, &t.bell, was_touched, &t, mc_now_ns() + PATIENCE), 0);
	close_worker(&p);
}

/* Who submits and never waits, who comes seldom, and whom peers use: the thread is to be at work. */
static void test_never_warm(void **state)
{
	struct timespec pause = {.tv_nsec = 1000000};
	struct probe p;

	open_worker(&p, 0, 5 * MC_SEC);
	for (int i = 0; i < 100; i++) {
		while (!mc_worker_resume(p.worker, false, mc_now_ns()))
			sched_yield();
		mc_worker_pause(p.worker);
		assert_false(i > 20 && lies_warm(p.worker));
	}
	for (int i = 0; i < 20; i++) {
		nanosleep(&pause, NULL);
		come_and_go(p.worker);
		nanosleep(&pause, NULL);
		assert_false(lies_warm(p.worker));
	}
	while (!mc_worker_enter(p.worker))
		;
	p.client.serves = true;
	mc_worker_leave(p.worker);
	for (int i = 0; i < 100; i++) {
		come_and_go(p.worker);
		assert_false(lies_warm(p.worker));
	}
	close_worker(&p);
}

/* ---- who else computes here ----------------------------------------------------------------------- */

static void test_yields(void **state)
{
	const uint64_t much = 2 * SPIN_LOST_NS, spin = 50000;
	uint64_t now = MC_SEC, span = SPIN_LOST_MIN;
	struct mc_worker w = {.no_yield_until = 0};

	assert_true(mc_worker_spins(&w, spin, spin - 1, now));
	assert_false(mc_worker_spins(&w, spin, spin, now));
	/* Each yield goes to who computes: for longer and longer there is none, and no spin. */
	for (int i = 0; i < 10; i++, span = MC_MIN(2 * span, (uint64_t)SPIN_LOST_MAX)) {
		mc_worker_yielded(&w, now, much);
		assert_int_equal(w.no_yield_until, now + span * much);
		assert_true(mc_worker_spins(&w, spin, SPIN_ALONE_NS - 1, now));
		assert_false(mc_worker_spins(&w, spin, SPIN_ALONE_NS, w.no_yield_until - 1));
		now = w.no_yield_until;
		assert_true(mc_worker_spins(&w, spin, SPIN_ALONE_NS, now));
	}
	/* Once among many that cost little. */
	for (int i = 0; i < SPIN_YIELDS; i++)
		mc_worker_yielded(&w, now, SPIN_LOST_NS);
	mc_worker_yielded(&w, now, much);
	assert_int_equal(w.no_yield_until, now + SPIN_LOST_MIN * much);
	/* Who shares the processor and is soon done runs at once the next time; nobody else does. */
	for (int i = 0; i < 2; i++) {
		assert_false(mc_worker_gives_way(&w, 0));
		assert_true(mc_worker_gives_way(&w, SPIN_ALONE_NS));
		mc_worker_yielded(&w, now, i ? SPIN_LOST_NS : SPIN_SHARED_NS);
		assert_true(mc_worker_gives_way(&w, 0));
		mc_worker_yielded(&w, now, i ? SPIN_LOST_NS + 1 : SPIN_SHARED_NS - 1);
	}
	assert_false(mc_worker_gives_way(&w, 0));
}

/* ---- many timers ----------------------------------------------------------------------------------- */

#define TIMERS 200

struct many {
	struct mc_timer timer;
	uint64_t *last;
	unsigned *fired;
};

static void many_fire(struct mc_timer *t, uint64_t now_ns)
{
	struct many *m = MC_CONTAINER_OF(t, struct many, timer);

	(*m->fired)++;
	assert_true((uintptr_t)t->user >= *m->last);
	*m->last = (uintptr_t)t->user;
}

struct many_set {
	struct mc_worker *worker;
	struct many timers[TIMERS];
	uint64_t last;
	unsigned fired;
};

static void many_arm(void *arg)
{
	struct many_set *s = arg;
	uint64_t now = mc_now_ns();

	for (unsigned i = 0; i < TIMERS; i++) {
		struct many *m = &s->timers[i];
		uint64_t at = now + (uint64_t)(i * 7919 % TIMERS) * 10000;

		*m = (struct many){.timer = {.size = sizeof m->timer, .fire = many_fire,
					     .user = (void *)(uintptr_t)at},
				   .last = &s->last, .fired = &s->fired};
		mc_worker_timer(s->worker, &m->timer, at);
	}
	/* Every fifth is disarmed again, every seventh moved and left. */
	for (unsigned i = 0; i < TIMERS; i += 5)
		mc_worker_timer(s->worker, &s->timers[i].timer, 0);
}

static bool many_done(void *arg)
{
	return ((struct many_set *)arg)->fired == TIMERS - TIMERS / 5;
}

static void test_timers_in_order(void **state)
{
	static struct many_set s;
	struct mc_bell bell = {0};
	struct probe p;

	open_worker(&p, 1000, 5 * MC_SEC);
	memset(&s, 0, sizeof s);
	s.worker = p.worker;
	while (!mc_worker_enter(p.worker))
		;
	many_arm(&s);
	/* Driven by hand, so that all of it is this thread's. */
	while (!many_done(&s))
		mc_worker_turn(p.worker);
	mc_worker_leave(p.worker);
	assert_int_equal(mc_worker_drive(&p.worker, 1, &bell, many_done, &s, mc_now_ns() + MC_SEC), 0);
	close_worker(&p);
}

/* ---- ticks, freezing -------------------------------------------------------------------------------- */

static void make_busy(void *arg)
{
	((struct probe *)arg)->client.busy = true;
}

static void make_linked(void *arg)
{
	((struct probe *)arg)->client.linked = true;
}

static bool ticked(void *arg)
{
	return atomic_load(&((struct probe *)arg)->ticks) >= 3;
}

static void wait_for(bool (*cond)(void *), void *arg)
{
	struct timespec pause = {.tv_nsec = 1000000};

	for (int i = 0; i < 20000 && !cond(arg); i++)
		nanosleep(&pause, NULL);
	assert_true(cond(arg));
}

static void test_tick(void **state)
{
	struct probe p;

	open_worker(&p, 0, 5 * MC_SEC);
	mc_worker_tick_now(p.worker);
	mc_worker_call(p.worker, make_busy, &p);
	wait_for(ticked, &p);
	close_worker(&p);
}

static bool was_frozen(void *arg)
{
	return atomic_load(&((struct probe *)arg)->frozen) > 0;
}

/* A holder that does not turn for more than half of the peer timeout looks like a frozen process. */
static void test_frozen(void **state)
{
	struct timespec pause = {.tv_nsec = 600000000};
	struct probe p;

	open_worker(&p, 0, MC_SEC);
	mc_worker_call(p.worker, make_linked, &p);
	while (!mc_worker_enter(p.worker))
		;
	mc_worker_turn(p.worker);
	atomic_store(&p.frozen, 0);
	mc_worker_turn(p.worker);
	assert_int_equal(atomic_load(&p.frozen), 0);
	nanosleep(&pause, NULL);
	mc_worker_turn(p.worker);
	assert_int_equal(atomic_load(&p.frozen), 1);
	mc_worker_leave(p.worker);
	assert_true(was_frozen(&p));
	close_worker(&p);
}

/* A loop that slept because it had no peers was not frozen when the first one comes. */
static void test_first_peer_after_sleep(void **state)
{
	struct timespec pause = {.tv_nsec = 600000000};
	struct probe p;

	open_worker(&p, 0, MC_SEC);
	nanosleep(&pause, NULL);
	while (!mc_worker_enter(p.worker))
		;
	p.client.linked = true;
	mc_worker_turn(p.worker);
	assert_int_equal(atomic_load(&p.frozen), 0);
	mc_worker_leave(p.worker);
	/* Idle with a peer, the thread turns often enough. */
	nanosleep(&pause, NULL);
	mc_worker_call(p.worker, make_linked, &p);
	assert_int_equal(atomic_load(&p.frozen), 0);
	close_worker(&p);
}

/* What is readable when the baton is given back wakes the thread before the baton is free: it comes again. */
static void test_readable_when_left(void **state)
{
	struct seen s = {.watch = {.size = sizeof s.watch, .events = POLLIN, .ready = seen_ready}};
	uint64_t one = 1;
	struct probe p;

	open_worker(&p, 0, 100 * MC_SEC);
	s.worker = p.worker;
	s.watch.fd = eventfd(0, EFD_CLOEXEC);
	mc_worker_call(p.worker, seen_watch, &s);
	for (unsigned i = 1; i <= 20000; i++) {
		uint64_t give_up = mc_now_ns() + PATIENCE;

		while (!mc_worker_enter(p.worker))
			sched_yield();
		assert_int_equal(write(s.watch.fd, &one, sizeof one), sizeof one);
		mc_worker_leave(p.worker);
		while ((unsigned)atomic_load(&s.reads) < i) {
			assert_true(mc_now_ns() < give_up);
			sched_yield();
		}
	}
	mc_worker_call(p.worker, seen_unwatch, &s);
	close(s.watch.fd);
	close_worker(&p);
}

/* An idle worker runs nothing. */
static void test_idle(void **state)
{
	struct timespec pause = {.tv_nsec = 100000000};
	unsigned before, quiet = 0;
	struct probe p;

	open_worker(&p, 50000, 5 * MC_SEC);
	/* On a busy machine its thread may be long about the spin that it begins with. */
	for (int i = 0; i < 100 && quiet < 3; i++) {
		before = atomic_load(&p.progressed);
		nanosleep(&pause, NULL);
		quiet = before && atomic_load(&p.progressed) == before ? quiet + 1 : 0;
	}
	assert_int_equal(quiet, 3);
	/* arm says that there is more: it must not sleep on it. */
	atomic_store(&p.pending, 1);
	mc_worker_nudge(p.worker);
	for (int i = 0; i < 100 && atomic_load(&p.pending); i++)
		nanosleep(&pause, NULL);
	assert_int_equal(atomic_load(&p.pending), 0);
	close_worker(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_posts),
		cmocka_unit_test(test_freed_by_post),
		cmocka_unit_test(test_baton),
		cmocka_unit_test(test_contended_baton),
		cmocka_unit_test(test_warm),
		cmocka_unit_test(test_never_warm),
		cmocka_unit_test(test_yields),
		cmocka_unit_test(test_watch_and_timer),
		cmocka_unit_test(test_timers_in_order),
		cmocka_unit_test(test_tick),
		cmocka_unit_test(test_frozen),
		cmocka_unit_test(test_first_peer_after_sleep),
		cmocka_unit_test(test_readable_when_left),
		cmocka_unit_test(test_idle),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
