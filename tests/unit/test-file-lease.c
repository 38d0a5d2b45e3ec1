/* SPDX-License-Identifier: Apache-2.0 */
/* File metadata: when a lease lives, for its holder, on its host, and elsewhere. */
#include <time.h>

#include "file-fixture.h"

#define TTL (5 * MC_SEC)
#define ID UINT64_C(0xabc)
#define NAME "l.0000000000000abc"

static void lease_file(struct fixture *x, const struct file_self *holder, uint64_t counter)
{
	struct file_lease l = {.id = ID, .ttl_ns = TTL, .counter = counter, .holder = *holder};
	uint8_t buf[FILE_LEASE_SIZE];

	file_lease_encode(buf, &l);
	fx_write(x, NAME, buf, sizeof buf, 0);
}

static bool alive(struct fixture *x)
{
	return file_lease_alive(&x->f, ID, x->now + 1);
}

/* Put with a foreign lease needs a living one. */
static void key_with(struct fixture *x, const char *key, uint64_t lease)
{
	assert_int_equal(fx_put(&x->f, key, "v", lease, NULL), 0);
}

static void own(void **state)
{
	struct fixture *x = *state;
	struct mc_error err = {0};
	struct file_inst other;
	uint64_t id = 0;

	fx_inst(x, &other);
	assert_int_equal(file_lease_grant(&x->f, TTL, x->now, &id, &err), 0);
	key_with(x, "k", id);
	x->now += TTL - 1;
	assert_int_equal(file_lease_keepalive(&x->f, id, x->now, &err), 0);
	x->now += TTL - 1;
	assert_int_equal(fx_get(&x->f, "k", NULL, NULL), 0);
	assert_int_equal(fx_get(&other, "k", NULL, NULL), 0);
	x->now += 1;
	assert_int_equal(file_lease_keepalive(&x->f, id, x->now, &err), -ENOENT);
	assert_non_null(strstr(err.text, "grant a new one"));
	assert_int_equal(fx_get(&other, "k", NULL, NULL), -ENOENT);
	assert_false(fx_exists(x, "k.k"));
	assert_int_equal(file_lease_revoke(&x->f, id, x->now, &err), -ENOENT);
	assert_int_equal(file_lease_grant(&x->f, 0, x->now, &id, &err), -EINVAL);
	fx_inst_fini(&other);
}

/* Another host found it dead while its holder slept. */
static void own_removed(void **state)
{
	struct fixture *x = *state;
	uint64_t id = 0;
	char name[64];

	assert_int_equal(file_lease_grant(&x->f, TTL, x->now, &id, NULL), 0);
	key_with(x, "k", id);
	snprintf(name, sizeof name, "l.%016llx", (unsigned long long)id);
	assert_int_equal(unlinkat(x->f.dirfd, name, 0), 0);
	assert_int_equal(fx_get(&x->f, "k", NULL, NULL), -ENOENT);
	assert_int_equal(file_lease_keepalive(&x->f, id, x->now, NULL), -ENOENT);
}

static void same_host(void **state)
{
	struct fixture *x = *state;
	int fd;

	lease_file(x, &x->f.self, 1);
	fd = openat(x->f.dirfd, NAME, O_RDWR | O_CLOEXEC);
	assert_int_equal(file_hold(fd), 0);
	x->now += 100 * TTL; /* the lock counts, not the counter */
	assert_true(alive(x));
	key_with(x, "k", ID);
	close(fd);
	x->now += 1; /* what was found at this instant is used again */
	assert_int_equal(fx_list(&x->f, ""), 0);
	assert_false(fx_exists(x, NAME));
	assert_false(fx_exists(x, "k.k"));
}

/* A child of the dead holder has a copy of the locked descriptor. */
static void inherited_lock(void **state)
{
	struct fixture *x = *state;
	struct file_self holder = x->f.self;
	int fd;

	holder.start += 1; /* another process has its number now */
	lease_file(x, &holder, 1);
	fd = openat(x->f.dirfd, NAME, O_RDWR | O_CLOEXEC);
	assert_int_equal(file_hold(fd), 0);
	assert_false(alive(x));
	close(fd);
	/* Where times are counted from another moment, that says nothing. */
	holder.pidns ^= UINT64_C(1) << 32;
	lease_file(x, &holder, 1);
	fd = openat(x->f.dirfd, NAME, O_RDWR | O_CLOEXEC);
	assert_int_equal(file_hold(fd), 0);
	assert_true(alive(x));
	close(fd);
}

static void other_host(void **state)
{
	struct fixture *x = *state;
	struct file_self holder = x->f.self;

	holder.boot ^= 2;
	for (uint64_t counter = 1; counter < 20; counter++) {
		lease_file(x, &holder, counter);
		assert_true(alive(x));
		x->now += TTL - 1;
	}
	/* Its counter stands; one look counts for half a ttl, as this reader may have slept. */
	lease_file(x, &holder, 20);
	assert_true(alive(x));
	key_with(x, "k", ID);
	x->now += 1000 * TTL;
	assert_true(alive(x));
	x->now += TTL / 4;
	assert_true(alive(x));
	assert_int_equal(fx_get(&x->f, "k", NULL, NULL), 0);
	x->now += TTL / 2;
	assert_false(alive(x));
	assert_false(fx_exists(x, NAME));
	assert_int_equal(fx_get(&x->f, "k", NULL, NULL), -ENOENT);
}

/* A container: the same kernel, another host name.  Nothing is concluded from a missing lock. */
static void other_container(void **state)
{
	struct fixture *x = *state;
	struct file_self holder = x->f.self;

	strcpy(holder.host, "elsewhere");
	lease_file(x, &holder, 1);
	assert_true(alive(x));
	x->now += TTL / 2;
	assert_true(alive(x));
	x->now += TTL / 2;
	assert_false(alive(x));
}

static void ended_elsewhere(void **state)
{
	struct fixture *x = *state;
	struct file_self holder = x->f.self;

	holder.boot ^= 2;
	lease_file(x, &holder, 1);
	assert_true(alive(x));
	fx_write(x, NAME, "\1", 1, FILE_LEASE_ENDED);
	assert_false(alive(x));
}

static void damaged(void **state)
{
	struct fixture *x = *state;

	fx_write(x, NAME, "garbage", 7, 0);
	for (int i = 0; i < 3; i++) {
		assert_true(alive(x));
		x->now += 14 * MC_SEC;
	}
	x->now += 14 * MC_SEC;
	assert_false(alive(x));
}

/* A key that its new owner took over is not removed with the old lease. */
static void taken_over(void **state)
{
	struct fixture *x = *state;
	struct mc_kv kv = {.size = sizeof kv, .key = "k", .value = "mine", .len = 4};
	uint64_t id = 0;

	assert_int_equal(file_lease_grant(&x->f, TTL, x->now, &id, NULL), 0);
	key_with(x, "k", id);
	key_with(x, "k2", id);
	x->now += TTL;
	assert_int_equal(file_cas(&x->f, &kv, 0, x->now + MC_SEC, NULL, NULL), 0);
	file_reap(&x->f, "k.k", "k");
	file_reap(&x->f, "k.k2", "k2");
	assert_int_equal(fx_get(&x->f, "k", NULL, NULL), 0);
	assert_false(fx_exists(x, "k.k2"));
}

static void sweep(void **state)
{
	struct fixture *x = *state;
	uint64_t id = 0;
	int stop = 0;

	assert_int_equal(file_lease_grant(&x->f, TTL, x->now, &id, NULL), 0);
	key_with(x, "leased", id);
	key_with(x, "kept", 0);
	lease_file(x, &x->f.self, 1);
	x->now += TTL;
	file_sweep(&x->f, &stop);
	assert_false(fx_exists(x, "k.leased"));
	assert_false(fx_exists(x, NAME));
	assert_true(fx_exists(x, "k.kept"));
}

static void swept_at(struct fixture *x, time_t seconds_ago)
{
	struct timespec ts[2];

	clock_gettime(CLOCK_REALTIME, &ts[0]);
	ts[0].tv_sec -= seconds_ago;
	ts[1] = ts[0];
	assert_int_equal(utimensat(x->f.dirfd, "swept", ts, 0), 0);
}

/* One sweep a minute, whoever does it. */
static void sweep_due(void **state)
{
	struct fixture *x = *state;
	uint64_t id;
	char key[MC_KV_KEY_MAX + 1];

	assert_true(file_sweep_due(&x->f));
	assert_int_equal(file_name_kind("swept", key, &id), FILE_OURS);
	assert_false(file_sweep_due(&x->f));
	swept_at(x, 50);
	assert_false(file_sweep_due(&x->f));
	swept_at(x, 70);
	assert_true(file_sweep_due(&x->f));
	assert_false(file_sweep_due(&x->f));
	swept_at(x, -3600); /* noted by a clock that is ahead: not believed */
	assert_true(file_sweep_due(&x->f));
	assert_false(file_sweep_due(&x->f));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FX_TEST(own),
		FX_TEST(own_removed),
		FX_TEST(same_host),
		FX_TEST(inherited_lock),
		FX_TEST(other_host),
		FX_TEST(other_container),
		FX_TEST(ended_elsewhere),
		FX_TEST(damaged),
		FX_TEST(taken_over),
		FX_TEST(sweep),
		FX_TEST(sweep_due),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
