/* SPDX-License-Identifier: Apache-2.0 */
/* Keys of applications over the file metadata: what is read and written, who is refused, what comes back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <mooncake/kv.h>

#include "engine-fixture.h"
#include "meta.h"

#define T (20 * MC_SEC)

/* What `each` saw last, and how often it was called. */
struct seen {
	char text[64];
	uint64_t revision;
	int nr, answer;
	struct mc_engine *nested; /* asked from inside */
};

static int see(void *ctx, const struct mc_kv_entry *entry)
{
	struct seen *seen = ctx;

	assert_int_equal(entry->size, sizeof *entry);
	snprintf(seen->text, sizeof seen->text, "%s=%.*s", entry->key, (int)entry->len, (const char *)entry->value);
	seen->revision = entry->revision;
	seen->nr++;
	if (seen->nested)
		assert_int_equal(mc_kv_write(seen->nested, "inside", "x", 1, 0, T, NULL, NULL), 0);
	return seen->answer;
}

static struct fixture *start(const char *name, const char *const *settings)
{
	struct fixture *x = fixture_start(name, settings);

	x->engine.pid = mc_self_pid;
	return x;
}

static int write_text(struct fixture *x, const char *key, const char *value, uint32_t flags)
{
	return mc_kv_write(&x->engine, key, value, strlen(value), flags, T, NULL, NULL);
}

static const char *read_text(struct fixture *x, const char *key)
{
	static struct seen seen;

	seen = (struct seen){.nr = 0};
	return mc_kv_read(&x->engine, key, T, see, &seen, NULL) == 0 ? seen.text : NULL;
}

static void test_read_and_write(void **state)
{
	struct fixture *a = start("alpha", NULL), *b = start("beta", NULL);
	struct seen seen = {.nr = 0};
	uint64_t first, second;

	assert_int_equal(mc_kv_write(&a->engine, "t/k", "v1", 2, 0, T, &first, NULL), 0);
	assert_int_equal(mc_kv_read(&b->engine, "t/k", T, see, &seen, NULL), 0);
	assert_string_equal(seen.text, "t/k=v1");
	assert_true(seen.revision == first && first != 0);
	assert_int_equal(mc_kv_swap(&b->engine, "t/k", "v2", 2, first, 0, T, &second, NULL), 0);
	assert_true(second != first);
	assert_string_equal(read_text(a, "t/k"), "t/k=v2");
	assert_int_equal(mc_kv_write(&a->engine, "t/k", NULL, 0, 0, T, NULL, NULL), 0);
	assert_string_equal(read_text(b, "t/k"), "t/k=");
	/* What each says below 0 is the answer. */
	seen.answer = -EBADMSG;
	assert_int_equal(mc_kv_read(&b->engine, "t/k", T, see, &seen, NULL), -EBADMSG);
	seen.answer = 1;
	assert_int_equal(mc_kv_read(&b->engine, "t/k", T, see, &seen, NULL), 0);
	assert_int_equal(mc_kv_remove(&b->engine, "t/k", 0, T, NULL), 0);
	assert_null(read_text(a, "t/k"));
	fixture_free(a);
	fixture_free(b);
}

static void assert_says(const struct mc_error *err, int code, const char *text)
{
	assert_int_equal(err->code, code);
	if (!strstr(err->text, text) || !strstr(err->text, "file://"))
		fail_msg("'%s' lacks '%s' or the URL", err->text, text);
}

/* Conditions, and what the errors say. */
static void test_conditions(void **state)
{
	struct fixture *a = start("alpha", NULL);
	struct mc_error err = {0};
	uint64_t revision = 77;

	assert_int_equal(mc_kv_read(&a->engine, "no", T, see, &(struct seen){.nr = 0}, &err), -ENOENT);
	assert_says(&err, -ENOENT, "key 'no': there is no such key in cluster 'default'");
	assert_int_equal(mc_kv_swap(&a->engine, "c", "1", 1, 4711, 0, T, &revision, &err), -ESTALE);
	assert_int_equal(revision, 77);
	assert_int_equal(mc_kv_swap(&a->engine, "c", "1", 1, 0, 0, T, &revision, &err), 0);
	assert_int_equal(mc_kv_swap(&a->engine, "c", "2", 1, 0, 0, T, NULL, &err), -EEXIST);
	assert_says(&err, -EEXIST, "key 'c': it exists already");
	assert_int_equal(mc_kv_remove(&a->engine, "c", revision + 1, T, &err), -ESTALE);
	assert_says(&err, -ESTALE, "not at revision");
	assert_string_equal(read_text(a, "c"), "c=1");
	assert_int_equal(mc_kv_remove(&a->engine, "c", revision, T, &err), 0);
	assert_int_equal(mc_kv_remove(&a->engine, "c", 0, T, &err), -ENOENT);
	fixture_free(a);
}

static void test_arguments(void **state)
{
	static char big[MC_KV_DATA_MAX + 1], name[MC_KV_NAME_MAX + 2];
	struct fixture *a = start("alpha", NULL);
	struct mc_engine *e = &a->engine;
	struct mc_error err = {0};

	memset(name, 'n', sizeof name - 1);
	assert_int_equal(write_text(a, name, "v", 0), -ENAMETOOLONG);
	name[MC_KV_NAME_MAX] = '\0';
	assert_int_equal(write_text(a, name, "v", 0), 0);
	assert_int_equal(mc_kv_remove(e, name, 0, T, NULL), 0);
	assert_int_equal(write_text(a, "", "v", 0), -EINVAL);
	assert_int_equal(write_text(a, "a\nb", "v", 0), -EINVAL);
	assert_int_equal(write_text(a, "a\x7f", "v", 0), -EINVAL);
	assert_int_equal(write_text(a, "\xff", "v", 0), -EINVAL);
	assert_int_equal(write_text(a, "\xe2\x82\xac/\xc3\xa4", "v", 0), 0);
	assert_string_equal(read_text(a, "\xe2\x82\xac/\xc3\xa4"), "\xe2\x82\xac/\xc3\xa4=v");
	assert_int_equal(mc_kv_remove(e, "\xe2\x82\xac/\xc3\xa4", 0, T, NULL), 0);
	assert_int_equal(write_text(a, "k", "v", 2), -EINVAL);
	assert_int_equal(mc_kv_write(e, NULL, "v", 1, 0, T, NULL, &err), -EINVAL);
	assert_int_equal(mc_kv_write(e, "k", NULL, 1, 0, T, NULL, &err), -EINVAL);
	assert_int_equal(mc_kv_write(e, "k", big, sizeof big, 0, T, NULL, &err), -EMSGSIZE);
	assert_int_equal(mc_kv_write(e, "big", big, sizeof big - 1, 0, T, NULL, &err), 0);
	assert_int_equal(mc_kv_remove(e, "big", 0, T, NULL), 0);
	assert_int_equal(mc_kv_read(e, "k", T, NULL, NULL, &err), -EINVAL);
	assert_int_equal(mc_kv_each(e, NULL, T, see, NULL, &err), -EINVAL);
	assert_int_equal(mc_kv_remove(NULL, "k", 0, T, &err), -EINVAL);
	e->pid = 1;
	assert_int_equal(mc_kv_remove(e, "k", 0, T, &err), -EPERM);
	fixture_free(a);
}

/* In byte order, with what each does in between, and without what is not below the prefix. */
static void test_each(void **state)
{
	struct fixture *a = start("alpha", NULL);
	struct seen seen = {.nested = &a->engine};

	assert_int_equal(write_text(a, "e/2", "two", MC_KV_LEASED), 0);
	assert_int_equal(write_text(a, "e/1", "one", 0), 0);
	assert_int_equal(write_text(a, "f", "other", 0), 0);
	assert_int_equal(mc_kv_each(&a->engine, "e/", T, see, &seen, NULL), 2);
	assert_string_equal(seen.text, "e/2=two");
	assert_string_equal(read_text(a, "inside"), "inside=x");
	seen = (struct seen){.answer = 1};
	assert_int_equal(mc_kv_each(&a->engine, "e/", T, see, &seen, NULL), 1);
	assert_string_equal(seen.text, "e/1=one");
	seen = (struct seen){.answer = -EIO};
	assert_int_equal(mc_kv_each(&a->engine, "e/", T, see, &seen, NULL), -EIO);
	assert_int_equal(seen.nr, 1);
	seen = (struct seen){.nr = 0};
	assert_int_equal(mc_kv_each(&a->engine, "", T, see, &seen, NULL), 4);
	assert_int_equal(mc_kv_each(&a->engine, "nothing", T, see, &seen, NULL), 0);
	fixture_free(a);
}

static void wait_for(struct fixture *x, const char *key, const char *want)
{
	uint64_t deadline = fixture_deadline(T);
	const char *got;

	while (((got = read_text(x, key)) == NULL) != (want == NULL) && mc_now_ns() < deadline)
		sched_yield();
	if (want && got)
		assert_string_equal(got, want);
	assert_true((want == NULL) == (got == NULL));
}

/* The lease ends, as after a long stop of the process: what was written under it comes back, but not what was
 * removed, was written without a lease since, or is somebody else's now. */
static void test_lease_lost(void **state)
{
	static const char *const quick[] = {"lease_ttl", "1s", NULL};
	struct fixture *a = start("alpha", quick), *b = start("beta", NULL);

	assert_int_equal(write_text(a, "l/kept", "old", MC_KV_LEASED), 0);
	assert_int_equal(mc_kv_swap(&a->engine, "l/taken", "mine", 4, 0, MC_KV_LEASED, T, NULL, NULL), 0);
	assert_int_equal(write_text(a, "l/kept", "new", MC_KV_LEASED), 0);
	assert_int_equal(write_text(a, "l/removed", "v", MC_KV_LEASED), 0);
	assert_int_equal(mc_kv_remove(&a->engine, "l/removed", 0, T, NULL), 0);
	assert_int_equal(write_text(a, "l/plain", "v", MC_KV_LEASED), 0);
	assert_int_equal(write_text(a, "l/plain", "w", 0), 0);
	assert_int_equal(write_text(a, "l/last", "v", MC_KV_LEASED), 0);
	assert_int_equal(write_text(b, "l/taken", "his", MC_KV_LEASED), 0);
	assert_int_equal(mc_meta_revoke(a->engine.meta, a->engine.meta->lease, fixture_deadline(T)), 0);
	wait_for(b, "l/kept", "l/kept=new");
	wait_for(b, "l/last", "l/last=v");
	assert_string_equal(read_text(b, "l/taken"), "l/taken=his");
	assert_null(read_text(b, "l/removed"));
	assert_string_equal(read_text(b, "l/plain"), "l/plain=w");
	/* One that is not ours to remove is kept. */
	assert_int_equal(mc_kv_remove(&a->engine, "l/kept", 4711, T, NULL), -ESTALE);
	assert_int_equal(mc_meta_revoke(a->engine.meta, a->engine.meta->lease, fixture_deadline(T)), 0);
	wait_for(b, "l/kept", "l/kept=new");
	fixture_free(a);
	assert_null(read_text(b, "l/kept"));
	assert_string_equal(read_text(b, "l/plain"), "l/plain=w");
	fixture_free(b);
}

/* A write that meets a lease that ended unseen gets another, under which the rest comes back, too. */
static void test_write_finds_lease_lost(void **state)
{
	static const char *const slow[] = {"lease_ttl", "3s", NULL};
	struct fixture *a = start("alpha", slow), *b = start("beta", NULL);
	uint64_t lease = a->engine.meta->lease;

	assert_int_equal(write_text(a, "w/old", "v", MC_KV_LEASED), 0);
	assert_int_equal(mc_meta_revoke(a->engine.meta, lease, fixture_deadline(T)), 0);
	assert_int_equal(write_text(a, "w/new", "v", MC_KV_LEASED), 0);
	assert_true(a->engine.meta->lease != lease);
	assert_true(mc_meta_lease_left(&a->engine) > 0);
	wait_for(b, "w/old", "w/old=v");
	assert_string_equal(read_text(b, "w/new"), "w/new=v");
	fixture_free(a);
	assert_null(read_text(b, "w/new"));
	assert_null(read_text(b, "w/old"));
	fixture_free(b);
}

/* The service forgets everything: its files are gone. */
static void test_forgotten(void **state)
{
	static const char *const quick[] = {"lease_ttl", "1s", NULL};
	struct fixture *a = start("alpha", quick), *b = start("beta", NULL);
	char cmd[160];

	assert_int_equal(write_text(a, "g/kept", "v", MC_KV_LEASED), 0);
	assert_int_equal(write_text(a, "g/plain", "v", 0), 0);
	snprintf(cmd, sizeof cmd, "find '%s' -type f -delete", fixture_dir);
	assert_int_equal(system(cmd), 0);
	wait_for(b, "g/kept", "g/kept=v");
	assert_null(read_text(b, "g/plain"));
	fixture_free(a);
	fixture_free(b);
}

#define NR_THREADS 4

struct worker {
	pthread_t thread;
	struct fixture *x;
	int nr;
};

/* Whatever the lease does meanwhile: the key is there when it was written, and gone for good when it was removed. */
static void *write_and_remove(void *arg)
{
	struct worker *w = arg;
	char key[32], want[48];

	for (int i = 0; i < 40; i++) {
		struct seen seen = {.nr = 0};
		int r;

		snprintf(key, sizeof key, "m/%d/%d", w->nr, i % 3);
		snprintf(want, sizeof want, "%s=%d", key, i);
		assert_int_equal(mc_kv_write(&w->x->engine, key, strchr(want, '=') + 1, strlen(strchr(want, '=') + 1),
					     MC_KV_LEASED, T, NULL, NULL), 0);
		r = mc_kv_read(&w->x->engine, key, T, see, &seen, NULL);
		if (r == 0)
			assert_string_equal(seen.text, want);
		else
			assert_int_equal(r, -ENOENT); /* the lease ended just now */
		r = mc_kv_remove(&w->x->engine, key, 0, T, NULL);
		assert_true(r == 0 || r == -ENOENT);
	}
	return NULL;
}

static void test_threads(void **state)
{
	static const char *const quick[] = {"lease_ttl", "1s", NULL};
	struct fixture *a = start("alpha", quick);
	struct worker workers[NR_THREADS];
	struct seen seen = {.nr = 0};
	uint64_t deadline = fixture_deadline(T), written;

	for (int i = 0; i < NR_THREADS; i++) {
		workers[i] = (struct worker){.x = a, .nr = i};
		assert_int_equal(pthread_create(&workers[i].thread, NULL, write_and_remove, &workers[i]), 0);
	}
	for (int i = 0; i < 8; i++) {
		uint64_t lease;

		pthread_mutex_lock(&a->engine.meta->lock);
		lease = a->engine.meta->lease;
		pthread_mutex_unlock(&a->engine.meta->lock);
		mc_meta_revoke(a->engine.meta, lease, fixture_deadline(T));
		usleep(20000);
	}
	for (int i = 0; i < NR_THREADS; i++)
		pthread_join(workers[i].thread, NULL);
	/* The last one to be written is so after all that was to be written again. */
	assert_int_equal(mc_kv_write(&a->engine, "n", "last", 4, MC_KV_LEASED, T, &written, NULL), 0);
	assert_int_equal(mc_meta_revoke(a->engine.meta, a->engine.meta->lease, fixture_deadline(T)), 0);
	while ((mc_kv_read(&a->engine, "n", T, see, &seen, NULL) < 0 || seen.revision == written) &&
	       mc_now_ns() < deadline)
		sched_yield();
	assert_true(seen.revision != written);
	assert_int_equal(mc_kv_each(&a->engine, "m/", T, see, &seen, NULL), 0);
	fixture_free(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_read_and_write),
		cmocka_unit_test(test_conditions),
		cmocka_unit_test(test_arguments),
		cmocka_unit_test(test_each),
		cmocka_unit_test(test_lease_lost),
		cmocka_unit_test(test_write_finds_lease_lost),
		cmocka_unit_test(test_forgotten),
		cmocka_unit_test(test_threads),
	};

	return cmocka_run_group_tests(tests, NULL, fixture_cleanup);
}
