/* SPDX-License-Identifier: Apache-2.0 */
/* Records: the text, the rules of names, loss and return of the record. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <sys/socket.h>

#include "engine-fixture.h"
#include "meta.h"

static void test_parse(void **state)
{
	static const char good[] = "{\"format\":1,\"name\":\"a\",\"generation\":\"00000000000000ff\","
				   "\"addresses\":[\"192.0.2.1:1\",\"[::1]:2\"],\"new\":{}}";
	static const char *const bad[] = {
		"", "[]", "{}", "{\"format\":1}",
		"{\"format\":1,\"name\":\"a/b\",\"generation\":\"00000000000000ff\",\"addresses\":[\"a:1\"]}",
		"{\"format\":1,\"name\":\"a\",\"generation\":\"0\",\"addresses\":[\"a:1\"]}",
		"{\"format\":1,\"name\":\"a\",\"generation\":\"00000000000000ff\",\"addresses\":[]}",
		"{\"format\":1,\"name\":\"a\",\"generation\":\"00000000000000ff\",\"addresses\":[\"a\"]}",
		"{\"format\":1,\"name\":\"a\",\"generation\":\"00000000000000ff\",\"addresses\":[7]}",
	};
	struct mc_record *r;
	struct mc_error err;

	assert_int_equal(mc_record_parse("record", good, strlen(good), &r, &err), 0);
	assert_string_equal(r->name, "a");
	assert_true(r->generation == 255);
	assert_string_equal(r->addresses[1], "[::1]:2");
	mc_record_free(r);
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		memset(&err, 0, sizeof err);
		assert_true(mc_record_parse("record 'x'", bad[i], strlen(bad[i]), &r, &err) < 0);
		assert_non_null(strstr(err.text, "record 'x'"));
	}
}

static void test_default_name(void **state)
{
	struct fixture *a = fixture_start(NULL, NULL), *b = fixture_start(NULL, NULL);
	char host[256] = "", want[300];

	gethostname(host, sizeof host - 1);
	snprintf(want, sizeof want, "%s-%d", host, (int)getpid());
	assert_string_equal(a->engine.name, host);
	assert_string_equal(b->engine.name, want);
	fixture_free(a);
	fixture_free(b);
}

static void test_named_port(void **state)
{
	struct fixture *a = fixture_start("alpha", NULL), *b;
	char port[8];
	const char *settings[] = {"port", port, NULL};
	struct mc_error err = {0};

	snprintf(port, sizeof port, "%u", a->engine.port);
	b = fixture_new("beta", settings);
	assert_int_equal(fixture_open(b, MC_SEC, &err), -EADDRINUSE);
	assert_non_null(strstr(err.text, "in use on this host: choose another with --port or 0"));
	fixture_free(b);
	fixture_free(a);
}

/* What nobody could dial is refused when the engine opens. */
static void test_advertised(void **state)
{
	static const char *const bad[] = {"256.1.1.1", "[1:2:3]:7", "nosuchhost.invalid"};

	for (size_t i = 0; i < 3; i++) {
		const char *settings[] = {"advertise_address", bad[i], NULL};
		struct fixture *a = fixture_new("alpha", settings);
		struct mc_error err = {0};

		assert_true(fixture_open(a, MC_SEC, &err) < 0);
		assert_non_null(strstr(err.text, "advertise_address"));
		fixture_free(a);
	}
}

static int nr_listed;

static int listed(void *ctx, const char *name)
{
	nr_listed++;
	return 0;
}

static int exists(struct fixture *x, const char *name)
{
	struct mc_record *r = NULL;
	int status = mc_record_find(&x->engine, name, fixture_deadline(MC_SEC), &r, NULL);

	mc_record_free(r);
	return status;
}

/* Somebody deletes the record: its owner writes it again. */
static void test_republish(void **state)
{
	static const char *const quick[] = {"lease_ttl", "1s", NULL};
	struct fixture *a = fixture_start("alpha", quick), *b = fixture_start("beta", NULL);
	uint64_t deadline = fixture_deadline(10 * MC_SEC);
	int r;

	assert_int_equal(mc_record_list(&a->engine, deadline, listed, NULL, NULL), 2);
	assert_int_equal(nr_listed, 2);
	assert_int_equal(mc_meta_del(b->engine.meta, "mooncake/default/engine/alpha", 0, deadline, NULL),
			 0);
	while ((r = exists(b, "alpha")) == -ENOENT && mc_now_ns() < deadline)
		sched_yield();
	assert_int_equal(r, 0);
	fixture_free(a);
	assert_int_equal(exists(b, "alpha"), -ENOENT);
	fixture_free(b);
}

/* The record of an engine that does not answer, though its host takes connections. */
static int silent_holder(struct fixture *x, const char *name)
{
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	char key[64], text[256];
	struct mc_kv kv = {.size = sizeof kv, .key = key, .value = text};
	uint64_t deadline = fixture_deadline(5 * MC_SEC), revision;
	socklen_t len = sizeof sin;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&sin, sizeof sin), 0);
	assert_int_equal(listen(fd, 64), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&sin, &len), 0);
	snprintf(key, sizeof key, "mooncake/default/engine/%s", name);
	kv.len = (size_t)snprintf(text, sizeof text,
				  "{\"format\":1,\"name\":\"%s\",\"generation\":\"00000000000000ff\","
				  "\"addresses\":[\"127.0.0.1:%u\"]}",
				  name, ntohs(sin.sin_port));
	assert_int_equal(mc_meta_grant(x->engine.meta, deadline, &kv.lease, NULL), 0);
	assert_int_equal(mc_meta_cas(x->engine.meta, &kv, 0, deadline, &revision, NULL), 0);
	return fd;
}

/* Whoever waits for the lease of a silent holder to end is not stopped by the end of his own. */
static void test_takes_over(void **state)
{
	static const char *const quick[] = {"lease_ttl", "600ms", NULL},
				 *const slow[] = {"lease_ttl", "2s", NULL};
	struct fixture *b = fixture_start("beta", slow), *a;
	int fd = silent_holder(b, "alpha");
	struct mc_error err = {0};

	a = fixture_new("alpha", quick);
	if (fixture_open(a, 10 * MC_SEC, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(exists(b, "alpha"), 0);
	close(fd);
	fixture_free(a);
	fixture_free(b);
}

static int ignore(void *ctx, const struct mc_kv *kv)
{
	return 0;
}

struct answer {
	sem_t sem;
	int status;
	char value[32];
};

static void kv_done(void *arg, struct mc_kv_call *call, int status, const struct mc_kv *kv, bool last)
{
	struct answer *a = arg;

	a->status = status;
	if (kv && kv->value)
		snprintf(a->value, sizeof a->value, "%s=%.*s", kv->key, (int)kv->len,
			 (const char *)kv->value);
	sem_post(&a->sem);
}

static int kv(struct fixture *x, uint32_t op, const char *key, const char *value, struct answer *a)
{
	struct mc_kv_call c = {.size = sizeof c, .op = op, .key = key, .value = value, .leased = 1,
			       .len = value ? strlen(value) : 0, .deadline_ns = fixture_deadline(MC_SEC)};

	assert_int_equal(mc_meta_kv(&x->engine, "tcp", &c, kv_done, a), 0);
	sem_wait(&a->sem);
	return a->status;
}

static void test_kv(void **state)
{
	struct fixture *a = fixture_start("alpha", NULL);
	struct answer answer = {.status = 1};

	sem_init(&answer.sem, 0, 0);
	assert_int_equal(kv(a, MC_KV_GET, "k", NULL, &answer), -ENOENT);
	assert_int_equal(kv(a, MC_KV_PUT, "k", "v1", &answer), 0);
	assert_int_equal(kv(a, MC_KV_GET, "k", NULL, &answer), 0);
	assert_string_equal(answer.value, "k=v1");
	assert_int_equal(kv(a, MC_KV_CAS, "k", "v2", &answer), -EEXIST);
	assert_int_equal(kv(a, MC_KV_DELETE, "k", NULL, &answer), 0);
	assert_int_equal(kv(a, MC_KV_GET, "k", NULL, &answer), -ENOENT);
	sem_destroy(&answer.sem);
	fixture_free(a);
}

static int there(struct fixture *x, const char *key)
{
	return mc_meta_get(x->engine.meta, key, fixture_deadline(MC_SEC), ignore, NULL, NULL);
}

/* The lease ends, as after a long stop of the process: what plugins wrote under it comes back with
 * the record, what they deleted or somebody else has written since does not. */
static void test_leased_keys_again(void **state)
{
	static const char *const quick[] = {"lease_ttl", "1s", NULL};
	static const char prefix[] = "mooncake/default/plugin/tcp/";
	struct fixture *a = fixture_start("alpha", quick), *b = fixture_start("beta", NULL);
	uint64_t deadline = fixture_deadline(20 * MC_SEC);
	struct answer answer = {.status = 1};
	char key[64];

	sem_init(&answer.sem, 0, 0);
	assert_int_equal(kv(a, MC_KV_PUT, "k", "old", &answer), 0);
	assert_int_equal(kv(a, MC_KV_PUT, "k", "new", &answer), 0);
	assert_int_equal(kv(a, MC_KV_PUT, "deleted", "v", &answer), 0);
	assert_int_equal(kv(a, MC_KV_DELETE, "deleted", NULL, &answer), 0);
	assert_int_equal(mc_meta_revoke(a->engine.meta, a->engine.meta->lease, deadline), 0);
	snprintf(key, sizeof key, "%sk", prefix);
	while (there(b, key) == -ENOENT && mc_now_ns() < deadline)
		sched_yield();
	assert_int_equal(kv(b, MC_KV_GET, "k", NULL, &answer), 0);
	assert_string_equal(answer.value, "k=new");
	assert_int_equal(exists(b, "alpha"), 0);
	snprintf(key, sizeof key, "%sdeleted", prefix);
	assert_int_equal(there(b, key), -ENOENT);
	sem_destroy(&answer.sem);
	fixture_free(a);
	snprintf(key, sizeof key, "%sk", prefix);
	assert_int_equal(there(b, key), -ENOENT);
	fixture_free(b);
}

/* On our own clock the lease stands from before the keepalive for its whole span, and not a moment after it is
 * known to be over. */
static void test_lease_left(void **state)
{
	static const char *const quick[] = {"lease_ttl", "2s", NULL};
	struct fixture *a = fixture_start("alpha", quick);
	struct mc_meta *m = a->engine.meta;
	uint64_t deadline = fixture_deadline(20 * MC_SEC), left, renewed = 0, lease;

	left = mc_meta_lease_left(&a->engine);
	assert_true(left > 0 && left < 2 * MC_SEC);
	/* It shrinks until the keepalive, which comes every third of it. */
	for (uint64_t last = left; !renewed && mc_now_ns() < deadline; last = left) {
		sched_yield();
		left = mc_meta_lease_left(&a->engine);
		if (left > last)
			renewed = left;
	}
	assert_true(renewed > MC_SEC && renewed <= 2 * MC_SEC);
	/* Ended behind our back: we learn it from the next keepalive, and have another lease then. */
	pthread_mutex_lock(&m->lock);
	lease = m->lease;
	pthread_mutex_unlock(&m->lock);
	assert_int_equal(mc_meta_revoke(m, lease, deadline), 0);
	assert_int_equal(mc_meta_keepalive(m, lease, deadline, NULL), -ENOENT);
	pthread_mutex_lock(&m->lock);
	assert_true(m->lease != lease);
	pthread_mutex_unlock(&m->lock);
	while (mc_meta_lease_left(&a->engine) == 0 && mc_now_ns() < deadline)
		sched_yield();
	assert_true(mc_meta_lease_left(&a->engine) > 0);
	assert_int_equal(mc_record_withdraw(&a->engine, deadline), 0);
	assert_int_equal(mc_meta_lease_left(&a->engine), 0);
	fixture_free(a);
}

/* A watch that ends at once, in whatever order its two jobs run: one last answer, and only one. */
static void watch_done(void *arg, struct mc_kv_call *call, int status, const struct mc_kv *kv, bool last)
{
	struct answer *a = arg;

	if (!last)
		return;
	a->status = status;
	sem_post(&a->sem);
}

static void test_watch_ends(void **state)
{
	struct fixture *a = fixture_start("alpha", NULL);
	struct answer answer = {.status = 1};
	int more;

	sem_init(&answer.sem, 0, 0);
	for (int i = 0; i < 50; i++) {
		struct mc_kv_call c = {.size = sizeof c, .op = MC_KV_WATCH, .key = "w/",
				       .deadline_ns = fixture_deadline(10 * MC_SEC)};

		assert_int_equal(mc_meta_kv(&a->engine, "tcp", &c, watch_done, &answer), 0);
		c.op = MC_KV_UNWATCH;
		assert_int_equal(mc_meta_kv(&a->engine, "tcp", &c, watch_done, &answer), 0);
		sem_wait(&answer.sem);
		assert_int_equal(answer.status, -ECANCELED);
		assert_int_equal(mc_meta_kv(&a->engine, "tcp", &c, watch_done, &answer), -ENOENT);
	}
	sem_getvalue(&answer.sem, &more);
	assert_int_equal(more, 0);
	sem_destroy(&answer.sem);
	fixture_free(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse),
		cmocka_unit_test(test_default_name),
		cmocka_unit_test(test_named_port),
		cmocka_unit_test(test_advertised),
		cmocka_unit_test(test_republish),
		cmocka_unit_test(test_takes_over),
		cmocka_unit_test(test_kv),
		cmocka_unit_test(test_leased_keys_again),
		cmocka_unit_test(test_lease_left),
		cmocka_unit_test(test_watch_ends),
	};

	return cmocka_run_group_tests(tests, NULL, fixture_cleanup);
}
