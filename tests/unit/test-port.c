/* SPDX-License-Identifier: Apache-2.0 */
/* The port against those who flood it, say nothing or speak nonsense; the addresses it listens on,
 * publishes and dials; a control connection that is cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <sys/resource.h>

#include "engine-fixture.h"
#include "session_impl.h"
#include "stream_local.h"
#include "stream_wire.h"
#include "core/util/bytes.h"

static unsigned nr_warnings;

static void logged(void *arg, enum mc_log_level level, const char *line)
{
	if (level == MC_LOG_WARN)
		__atomic_fetch_add(&nr_warnings, 1, __ATOMIC_RELAXED);
}

/* The tests of who comes uninvited run against the port, and against the Unix socket. */
static bool over_unix;

/* -1: nobody listens there. */
static int try_dial(uint16_t port)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(port),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd >= 0 && connect(fd, (struct sockaddr *)&sa, sizeof sa) < 0) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static int dial(uint16_t port)
{
	int fd = try_dial(port);

	assert_true(fd >= 0);
	return fd;
}

static int dial_in(const struct fixture *x)
{
	int fd = over_unix ? mc_unix_connect(mc_engine_local_path(&x->engine)) : dial(x->engine.port);

	if (over_unix && fd == -EAGAIN) { /* it has more to accept than fits; it never waits */
		poll(NULL, 0, 10);
		return dial_in(x);
	}
	assert_true(fd >= 0);
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	return fd;
}

/* Has the engine closed it, within 10 s? */
static bool ended(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	char buf[512];
	ssize_t n;

	do {
		if (poll(&p, 1, 10000) != 1)
			return false;
		n = recv(fd, buf, sizeof buf, 0);
	} while (n > 0); /* an answer may come first */
	return true;
}

static bool alive(int fd)
{
	char c;

	return recv(fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

static struct mc_session *open_peer(struct fixture *a, const char *name)
{
	struct mc_session *s = NULL;
	struct mc_error err = {0};

	if (mc_session_open(&a->engine, name, fixture_deadline(10 * MC_SEC), &s, &err) < 0)
		fail_msg("%s", err.text);
	return s;
}

static sem_t sem;

static void refreshed(void *arg, int status)
{
	*(int *)arg = status;
	sem_post(&sem);
}

/* There and back. */
static void works(struct mc_session *s)
{
	int status = 1;

	assert_int_equal(mc_session_refresh(s, refreshed, &status), 0);
	sem_wait(&sem);
	assert_int_equal(status, 0);
}

/* More than may wait: the oldest are dropped, sessions go on, new ones are admitted. */
static void test_flood(void **state)
{
	struct fixture *a = fixture_start("alpha", NULL), *b = fixture_start("beta", NULL);
	struct mc_session *s = open_peer(a, "beta");
	static int fds[300];

	nr_warnings = 0;
	for (int i = 0; i < 300; i++)
		fds[i] = dial_in(b);
	works(s);
	for (int i = 0; i < 40; i++)
		assert_true(ended(fds[i]));
	assert_true(alive(fds[299]));
	mc_session_unref(s);
	mc_session_end(&a->engine, b->engine.generation, -ECANCELED, "the test");
	s = open_peer(a, "beta");
	works(s);
	/* Lines like it are few, over both ways together. */
	assert_true((nr_warnings >= 1 || over_unix) && nr_warnings <= 6);
	mc_session_unref(s);
	fixture_free(a);
	fixture_free(b);
	for (int i = 0; i < 300; i++)
		close(fds[i]);
}

/* Who says nothing is dropped after 3 s, also in the middle of a preamble. */
static void test_silent(void **state)
{
	struct fixture *b = fixture_start("beta", NULL);
	uint64_t begin = mc_now_ns(), took;
	uint8_t magic[12] = {0};
	int mute = dial_in(b), half = dial_in(b), drip = dial_in(b);

	mc_put64(magic, MC_PREAMBLE_MAGIC);
	assert_int_equal(send(half, magic, sizeof magic, 0), sizeof magic);
	assert_int_equal(send(drip, magic, 3, 0), 3);
	assert_true(ended(mute) && ended(half) && ended(drip));
	took = mc_now_ns() - begin;
	assert_true(took >= 2900 * MC_MSEC && took < 8 * MC_SEC);
	close(mute);
	close(half);
	close(drip);
	fixture_free(b);
}

static uint32_t seed = 1;

static uint8_t next_byte(void)
{
	seed = seed * 1664525u + 1013904223u;
	return (uint8_t)(seed >> 24);
}

/* Nonsense at every place: each such connection ends, nothing else does, and few lines are logged. */
static void test_garbage(void **state)
{
	struct fixture *a = fixture_start("alpha", NULL), *b = fixture_start("beta", NULL);
	struct mc_session *s = open_peer(a, "beta");
	struct mc_stream_hello hello = {.kind = MC_STREAM_CONTROL, .session_id = 77,
					.from_generation = 99, .from = "mallory"};
	uint8_t good[MC_PREAMBLE_MAX], bad[MC_PREAMBLE_MAX + 4096];
	size_t len = mc_preamble_encode(&hello, good);

	nr_warnings = 0;
	for (int round = 0; round < 200; round++) {
		int fd = dial_in(b);
		size_t n = len;

		memcpy(bad, good, len);
		switch (round % 5) {
		case 0: /* another protocol */
			n = 64;
			for (size_t i = 0; i < n; i++)
				bad[i] = next_byte() & 0x7f;
			break;
		case 1: /* lengths and versions at the limits */
			memset(bad + 8 + (unsigned)round / 5 % 8, 0xff, 8);
			break;
		case 2: /* any one byte wrong after the magic, then noise */
			bad[8 + next_byte() % (len - 8)] ^= (uint8_t)(1 + next_byte() % 255);
			n = len + 512;
			memset(bad + len, 0xee, 512);
			break;
		case 3: /* a good preamble, then noise in place of frames */
			n = len + 2048;
			for (size_t i = len; i < n; i++)
				bad[i] = next_byte();
			break;
		default: /* a good preamble, then a frame that claims 4 GiB */
			n = len + 64;
			memset(bad + len, 0xff, 64);
		}
		(void)!send(fd, bad, n, MSG_NOSIGNAL);
		shutdown(fd, SHUT_WR);
		assert_true(ended(fd));
		close(fd);
	}
	works(s);
	assert_int_equal(a->nr_gone + b->nr_gone, 0);
	assert_true(nr_warnings <= 40);
	mc_session_unref(s);
	fixture_free(a);
	fixture_free(b);
}

static void unix_flood(void **state)
{
	over_unix = true;
	test_flood(state);
	over_unix = false;
}

static void unix_silent(void **state)
{
	over_unix = true;
	test_silent(state);
	over_unix = false;
}

static void unix_garbage(void **state)
{
	over_unix = true;
	test_garbage(state);
	over_unix = false;
}

/* Ten thousand that say nothing, or as many as descriptors allow: memory stays, the port works. */
static void test_idle_thousands(void **state)
{
	struct fixture *a = fixture_start("alpha", NULL), *b = fixture_start("beta", NULL);
	struct mc_session *s = open_peer(a, "beta");
	struct rlimit lim;
	struct mallinfo2 before, after;
	int nr = 10000, *fds;

	getrlimit(RLIMIT_NOFILE, &lim);
	lim.rlim_cur = lim.rlim_max;
	setrlimit(RLIMIT_NOFILE, &lim);
	if (lim.rlim_cur < (rlim_t)nr + 1024)
		nr = (int)lim.rlim_cur - 700;
	if (nr < 500) {
		mc_session_unref(s);
		fixture_free(a);
		fixture_free(b);
		print_message("skipped: the limit of descriptors (ulimit -Hn) is %d\n", (int)lim.rlim_cur);
		skip();
	}
	fds = calloc((size_t)nr, sizeof *fds);
	assert_non_null(fds);
	before = mallinfo2();
	for (int i = 0; i < nr; i++)
		fds[i] = dial(b->engine.port);
	works(s);
	after = mallinfo2();
	print_message("%d connections: %zd KiB\n", nr,
		      ((ssize_t)after.uordblks - (ssize_t)before.uordblks) / 1024);
	assert_true(after.uordblks < before.uordblks + (4u << 20));
	assert_true(ended(fds[0]));
	mc_session_unref(s);
	for (int i = 0; i < nr; i++)
		close(fds[i]);
	free(fds);
	fixture_free(a);
	fixture_free(b);
}

/* ---- addresses ---------------------------------------------------------------------------------- */

static bool has_v6(void)
{
	struct sockaddr_in6 sa = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool has = fd >= 0 && bind(fd, (struct sockaddr *)&sa, sizeof sa) == 0;

	if (fd >= 0)
		close(fd);
	return has;
}

static void reachable(const char *const *settings)
{
	struct fixture *a = fixture_start("alpha", NULL), *b = fixture_start("beta", settings);
	struct mc_session *s = open_peer(a, "beta");

	works(s);
	mc_session_unref(s);
	fixture_free(a);
	fixture_free(b);
}

static void test_addresses(void **state)
{
	static const char *const name[] = {"advertise_address", "localhost", NULL};
	/* The first refuses or does not answer, the last is right. */
	static const char *const dead[] = {"advertise_address", "127.0.0.1:1,127.0.0.1", NULL};
	static const char *const unknown[] = {"advertise_address", "no-such-host.invalid,127.0.0.1", NULL};
	static const char *const six[] = {"listen_address", "::1", NULL};
	static const char *const both[] = {"listen_address", "::", "advertise_address", "[::1]", NULL};
	static const char *const both4[] = {"listen_address", "::", "advertise_address", "127.0.0.1", NULL};
	static const char *const any[] = {"listen_address", "", NULL};
	static const char *const foreign[] = {"listen_address", "192.0.2.77", NULL};
	struct fixture *b;
	struct mc_error err = {0};

	reachable(name);
	reachable(dead);
	reachable(unknown);
	reachable(any);
	if (has_v6()) {
		reachable(six);
		reachable(both);
		reachable(both4);
	} else {
		print_message("IPv6 skipped: this host has none\n");
	}
	b = fixture_new("beta", foreign);
	assert_true(fixture_open(b, MC_SEC, &err) < 0);
	assert_non_null(strstr(err.text, "name an address of this host"));
	fixture_free(b);
}

/* A connection that is made and then says nothing: the next address has 300 ms head start. */
static void test_mute_address(void **state)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof sa;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char list[64];
	const char *settings[] = {"advertise_address", list, NULL};
	struct fixture *a = fixture_start("alpha", NULL), *b;
	struct mc_session *s;
	uint64_t begin;

	assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof sa), 0);
	assert_int_equal(listen(fd, 16), 0);
	getsockname(fd, (struct sockaddr *)&sa, &len);
	snprintf(list, sizeof list, "127.0.0.1:%u,127.0.0.1", ntohs(sa.sin_port));
	b = fixture_start("beta", settings);
	begin = mc_now_ns();
	s = open_peer(a, "beta");
	assert_true(mc_now_ns() - begin < 3 * MC_SEC);
	works(s);
	mc_session_unref(s);
	close(fd);
	fixture_free(a);
	fixture_free(b);
}

/* ---- a proxy that can be cut, or made to swallow what passes ---------------------------------------- */

struct proxy {
	pthread_t thread;
	int listener, pair[64][2], nr;
	uint16_t port, to;
	int stop, cut, deaf; /* atomic */
	unsigned nr_accepted; /* atomic */
};

static void proxy_accept(struct proxy *p)
{
	int fd = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC), far;

	if (fd < 0)
		return;
	__atomic_fetch_add(&p->nr_accepted, 1, __ATOMIC_RELAXED);
	/* An engine that is just being restarted is not there. */
	far = p->nr < 64 ? try_dial(__atomic_load_n(&p->to, __ATOMIC_ACQUIRE)) : -1;
	if (far < 0) {
		close(fd);
		return;
	}
	p->pair[p->nr][0] = fd;
	p->pair[p->nr++][1] = far;
}

static void *proxy_main(void *arg)
{
	struct proxy *p = arg;
	char buf[65536];

	while (!__atomic_load_n(&p->stop, __ATOMIC_ACQUIRE)) {
		struct pollfd fds[129] = {{.fd = p->listener, .events = POLLIN}};
		bool deaf = __atomic_load_n(&p->deaf, __ATOMIC_ACQUIRE);

		if (__atomic_exchange_n(&p->cut, 0, __ATOMIC_ACQ_REL)) {
			while (p->nr--) {
				close(p->pair[p->nr][0]);
				close(p->pair[p->nr][1]);
			}
			p->nr = 0;
		}
		for (int i = 0; i < 2 * p->nr; i++)
			fds[1 + i] = (struct pollfd){.fd = deaf ? -1 : p->pair[i / 2][i % 2],
						     .events = POLLIN};
		if (poll(fds, 1 + 2 * (nfds_t)p->nr, 5) <= 0)
			continue;
		for (int i = 0; i < 2 * p->nr; i++) {
			ssize_t n;

			if (!fds[1 + i].revents)
				continue;
			n = recv(fds[1 + i].fd, buf, sizeof buf, MSG_DONTWAIT);
			if (n > 0)
				(void)!send(p->pair[i / 2][!(i % 2)], buf, (size_t)n, MSG_NOSIGNAL);
			else if (n == 0)
				shutdown(p->pair[i / 2][!(i % 2)], SHUT_WR);
		}
		if (fds[0].revents)
			proxy_accept(p);
	}
	return NULL;
}

static void proxy_init(struct proxy *p)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof sa;

	memset(p, 0, sizeof *p);
	p->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(p->listener, (struct sockaddr *)&sa, sizeof sa), 0);
	assert_int_equal(listen(p->listener, 64), 0);
	getsockname(p->listener, (struct sockaddr *)&sa, &len);
	p->port = ntohs(sa.sin_port);
}

static void proxy_fini(struct proxy *p)
{
	__atomic_store_n(&p->stop, 1, __ATOMIC_RELEASE);
	pthread_join(p->thread, NULL);
	for (int i = 0; i < 2 * p->nr; i++)
		close(p->pair[i / 2][i % 2]);
	close(p->listener);
}

/* Cut again and again: the session goes on under the same id, and nothing of it is lost. */
static void test_cut(void **state)
{
	struct proxy p;
	char list[64];
	const char *settings[] = {"advertise_address", list, NULL};
	struct fixture *a, *b;
	struct mc_session *s;
	uint64_t id;

	proxy_init(&p);
	snprintf(list, sizeof list, "127.0.0.1:%u", p.port);
	a = fixture_start("alpha", NULL);
	b = fixture_start("beta", settings);
	p.to = b->engine.port;
	assert_int_equal(pthread_create(&p.thread, NULL, proxy_main, &p), 0);
	s = open_peer(a, "beta");
	id = s->id;
	for (int i = 0; i < 5; i++) {
		__atomic_store_n(&p.cut, 1, __ATOMIC_RELEASE);
		works(s);
		works(s);
	}
	assert_int_equal(s->state, MC_SESSION_UP);
	assert_true(s->id == id);
	assert_true(__atomic_load_n(&p.nr_accepted, __ATOMIC_RELAXED) >= 3);
	assert_int_equal(a->nr_gone + b->nr_gone, 0);
	mc_session_unref(s);
	fixture_free(a);
	fixture_free(b);
	proxy_fini(&p);
}

/* Two ways to the peer, the one in use swallows everything without a word: after 300 ms the other
 * is dialled, and the session goes on there. */
static void test_swallowed(void **state)
{
	static const char *const second[] = {"peer_timeout", "5s", NULL};
	struct proxy p;
	char list[64];
	const char *settings[] = {"advertise_address", list, "peer_timeout", "5s", NULL};
	struct fixture *a, *b;
	struct mc_session *s;
	uint64_t id, begin, took;

	proxy_init(&p);
	snprintf(list, sizeof list, "127.0.0.1:%u,127.0.0.1", p.port);
	a = fixture_start("alpha", second);
	b = fixture_start("beta", settings);
	p.to = b->engine.port;
	assert_int_equal(pthread_create(&p.thread, NULL, proxy_main, &p), 0);
	s = open_peer(a, "beta");
	id = s->id;
	works(s);
	assert_int_equal(__atomic_load_n(&p.nr_accepted, __ATOMIC_RELAXED), 1);
	__atomic_store_n(&p.deaf, 1, __ATOMIC_RELEASE);
	begin = mc_now_ns();
	works(s);
	took = mc_now_ns() - begin;
	print_message("went on after %llu ms\n", (unsigned long long)(took / MC_MSEC));
	assert_true(took < 3 * MC_SEC);
	assert_true(s->id == id);
	assert_int_equal(s->state, MC_SESSION_UP);
	assert_int_equal(a->nr_gone + b->nr_gone, 0);
	mc_session_unref(s);
	fixture_free(a);
	fixture_free(b);
	proxy_fini(&p);
}

/* What answers under the peer's address is another generation: the session ends at once (P5), and the
 * name has to be opened again. */
static void test_restarted(void **state)
{
	struct proxy p;
	char list[64];
	const char *settings[] = {"advertise_address", list, NULL};
	struct fixture *a, *b, *again;
	struct mc_session *s;
	uint64_t begin;

	proxy_init(&p);
	snprintf(list, sizeof list, "127.0.0.1:%u", p.port);
	a = fixture_start("alpha", NULL);
	b = fixture_start("beta", settings);
	again = fixture_start("beta-restarted", settings);
	p.to = b->engine.port;
	assert_int_equal(pthread_create(&p.thread, NULL, proxy_main, &p), 0);
	s = open_peer(a, "beta");
	works(s);
	__atomic_store_n(&p.to, again->engine.port, __ATOMIC_RELEASE);
	__atomic_store_n(&p.cut, 1, __ATOMIC_RELEASE);
	begin = mc_now_ns();
	sem_wait(&a->gone_sem);
	assert_true(mc_now_ns() - begin < 2 * MC_SEC);
	assert_int_equal(a->gone_status, -ESTALE);
	assert_int_equal(mc_session_send(s, 0x123, "x", 1, NULL, 0), -ENOTCONN);
	mc_session_unref(s);
	fixture_free(a);
	fixture_free(b);
	fixture_free(again);
	proxy_fini(&p);
}

/* ---- bounds ------------------------------------------------------------------------------------------ */

/* An engine takes no more peers than max_peers, says so, and takes another when one has left. */
static void test_max_peers(void **state)
{
	static const char *const two[] = {"max_peers", "2", NULL};
	struct fixture *b = fixture_start("beta", two), *a[3];
	struct mc_session *s[3] = {NULL};
	struct mc_error err = {0};
	char name[16];

	for (int i = 0; i < 3; i++) {
		snprintf(name, sizeof name, "alpha%d", i);
		a[i] = fixture_start(name, NULL);
	}
	s[0] = open_peer(a[0], "beta");
	s[1] = open_peer(a[1], "beta");
	assert_int_equal(mc_session_open(&a[2]->engine, "beta", fixture_deadline(5 * MC_SEC), &s[2], &err),
			 -EBUSY);
	assert_non_null(strstr(err.text, "max_peers"));
	works(s[0]);
	mc_session_unref(s[1]);
	fixture_free(a[1]);
	s[2] = open_peer(a[2], "beta");
	works(s[2]);
	/* Its own opening, too. */
	assert_int_equal(mc_session_open(&b->engine, "alpha0", fixture_deadline(5 * MC_SEC), &s[1], &err),
			 -EBUSY);
	assert_non_null(strstr(err.text, "raise max_peers"));
	mc_session_unref(s[0]);
	mc_session_unref(s[2]);
	fixture_free(a[0]);
	fixture_free(a[2]);
	fixture_free(b);
}

static size_t nr_fds(void)
{
	size_t n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void test_many_opens(void **state)
{
	struct fixture *a = fixture_start("alpha", NULL), *b = fixture_start("beta", NULL);
	size_t bytes = 0, fds = 0, now;

	for (int i = 0; i < 250; i++) {
		struct mc_session *s = open_peer(a, "beta");

		works(s);
		mc_session_unref(s);
		assert_int_equal(mc_session_end(i % 2 ? &a->engine : &b->engine,
						(i % 2 ? b : a)->engine.generation, -ECANCELED, "done"), 0);
		sem_wait(&a->gone_sem);
		sem_wait(&b->gone_sem);
		if (i == 49) {
			bytes = mallinfo2().uordblks;
			fds = nr_fds();
		}
	}
	now = nr_fds();
	assert_true(now <= fds + 3); /* the last one may still be closing */
	assert_true(mallinfo2().uordblks < bytes + (128u << 10));
	fixture_free(a);
	fixture_free(b);
}

static int init(void **state)
{
	sem_init(&sem, 0, 0);
	mc_log_set_handler(logged, NULL);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_flood),
		cmocka_unit_test(test_silent),
		cmocka_unit_test(test_garbage),
		cmocka_unit_test(unix_flood),
		cmocka_unit_test(unix_silent),
		cmocka_unit_test(unix_garbage),
		cmocka_unit_test(test_addresses),
		cmocka_unit_test(test_mute_address),
		cmocka_unit_test(test_cut),
		cmocka_unit_test(test_swallowed),
		cmocka_unit_test(test_restarted),
		cmocka_unit_test(test_max_peers),
		cmocka_unit_test(test_many_opens),
		cmocka_unit_test(test_idle_thousands),
	};

	return cmocka_run_group_tests(tests, init, fixture_cleanup);
}
