/* SPDX-License-Identifier: Apache-2.0 */
/*
 * File metadata: open, close, watches, through the plugin's own table, on one
 * thread: the host runs what it is given in `pump`, with a clock that stands.
 */
#include <poll.h>

#include "file-fixture.h"

#define TTL (5 * MC_SEC)

struct event {
	char key[64], value[64];
	bool deleted;
	void *watch;
};

struct world {
	struct fixture x; /* first: clock, random, log; its instance is the other writer */
	const struct mc_metadata_ops *ops;
	void *inst;
	struct mc_value options[3];
	struct mc_watch *fd;
	struct mc_timer *timer;
	struct mc_work *jobs[8];
	unsigned nr_jobs, nr_runs;
	struct event events[64];
	unsigned nr_events;
	bool deaf; /* the descriptor is not looked at */
	int refuse_watch;
	void *unwatch_in_event; /* unwatch this one from inside its event */
};

static struct world *of(const struct mc_host *h)
{
	return (struct world *)(uintptr_t)h;
}

static int h_watch(const struct mc_host *h, struct mc_watch *w)
{
	if (of(h)->refuse_watch)
		return of(h)->refuse_watch;
	of(h)->fd = w;
	return 0;
}

static int h_rewatch(const struct mc_host *h, struct mc_watch *w, uint32_t events)
{
	assert_ptr_equal(of(h)->fd, w);
	w->events = events;
	return 0;
}

static void h_unwatch(const struct mc_host *h, struct mc_watch *w)
{
	assert_ptr_equal(of(h)->fd, w);
	of(h)->fd = NULL;
}

static void h_timer(const struct mc_host *h, struct mc_timer *t, uint64_t deadline_ns)
{
	t->deadline_ns = deadline_ns;
	of(h)->timer = deadline_ns ? t : NULL;
}

/* At once: close waits for it, and this thread is the control loop too. */
static void h_post(const struct mc_host *h, struct mc_work *w)
{
	w->run(w);
}

static void h_run_blocking(const struct mc_host *h, struct mc_work *w)
{
	assert_true(of(h)->nr_jobs < 8);
	of(h)->jobs[of(h)->nr_jobs++] = w;
}

static void h_event(const struct mc_host *h, void *watch, const struct mc_kv *kv)
{
	struct world *w = of(h);
	struct event *e = &w->events[w->nr_events++];

	assert_true(w->nr_events < 64);
	e->watch = watch;
	e->deleted = !kv->value;
	snprintf(e->key, sizeof e->key, "%s", kv->key);
	snprintf(e->value, sizeof e->value, "%.*s", (int)kv->len,
		 kv->value ? (const char *)kv->value : "");
	if (w->unwatch_in_event)
		w->ops->unwatch(w->inst, w->unwatch_in_event);
	w->unwatch_in_event = NULL;
}

/* Run all that is due. */
static void pump(struct world *w)
{
	for (bool again = true; again;) {
		struct pollfd pfd = {.fd = w->fd ? w->fd->fd : -1,
				     .events = w->fd ? (short)w->fd->events : 0};
		struct mc_timer *t = w->timer;

		again = false;
		if (!w->deaf && w->fd && w->fd->events && poll(&pfd, 1, 0) > 0) {
			w->fd->ready(w->fd, POLLIN);
			again = true;
		}
		if (t && t->deadline_ns <= w->x.now) {
			w->timer = NULL;
			t->deadline_ns = 0;
			t->fire(t, w->x.now);
			again = true;
		}
		while (w->nr_jobs) {
			struct mc_work *job = w->jobs[0];

			memmove(w->jobs, w->jobs + 1, --w->nr_jobs * sizeof w->jobs[0]);
			job->run(job);
			job->done(job);
			w->nr_runs++;
			again = true;
		}
	}
}

static int w_open(struct world *w, const char *url, struct mc_error *err)
{
	struct mc_open_args args = {.size = sizeof args,
				    .device = url,
				    .engine = "e",
				    .options = w->options};

	return w->ops->open(w->inst, &w->x.host, &args, err);
}

static int setup(void **state)
{
	struct fixture *x;
	struct world *w = calloc(1, sizeof *w);
	char url[128];

	fx_setup((void **)&x);
	w->x = *x;
	free(x);
	w->x.f.host = &w->x.host;
	w->x.f.path = w->x.dir;
	w->x.host.watch = h_watch;
	w->x.host.rewatch = h_rewatch;
	w->x.host.unwatch = h_unwatch;
	w->x.host.timer_set = h_timer;
	w->x.host.post = h_post;
	w->x.host.run_blocking = h_run_blocking;
	w->x.host.kv_event = h_event;
	w->ops = mc_plugin_desc.ops;
	w->inst = calloc(1, w->ops->instance_size);
	w->options[0].b = false;
	w->options[1].i = MC_SEC;
	snprintf(url, sizeof url, "file://%s", w->x.dir);
	assert_int_equal(w_open(w, url, NULL), 0);
	pump(w);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	w->ops->close(w->inst);
	assert_null(w->fd);
	assert_null(w->timer);
	free(w->inst);
	return fx_teardown(state); /* x is the first member */
}

static void *watch(struct world *w, const char *prefix)
{
	void *area = calloc(1, w->ops->watch_size);

	assert_int_equal(w->ops->watch(w->inst, area, prefix, w->x.now + MC_SEC, NULL), 0);
	return area;
}

static void unwatch(struct world *w, void *area)
{
	w->ops->unwatch(w->inst, area);
	free(area);
}

static void expect(struct world *w, const char *key, const char *value)
{
	struct event *e = &w->events[0];

	assert_int_equal(w->nr_events, 1);
	assert_string_equal(e->key, key);
	assert_int_equal(e->deleted, value == NULL);
	if (value)
		assert_string_equal(e->value, value);
	w->nr_events = 0;
}

static void changes(void **state)
{
	struct world *w = *state;
	struct file_inst *other = &w->x.f;
	void *a;

	fx_put(other, "p/old", "v", 0, NULL);
	a = watch(w, "p/");
	pump(w);
	assert_int_equal(w->nr_events, 0);
	fx_put(other, "p/k", "1", 0, NULL);
	fx_put(other, "q", "1", 0, NULL);
	pump(w);
	expect(w, "p/k", "1");
	fx_put(other, "p/k", "2", 0, NULL);
	fx_put(other, "p/k", "3", 0, NULL);
	pump(w);
	expect(w, "p/k", "3");
	file_del(other, "p/k", 0, w->x.now + MC_SEC, NULL);
	pump(w);
	expect(w, "p/k", NULL);
	/* There and gone between two looks: nothing to say. */
	fx_put(other, "p/k", "4", 0, NULL);
	file_del(other, "p/k", 0, w->x.now + MC_SEC, NULL);
	pump(w);
	assert_int_equal(w->nr_events, 0);
	unwatch(w, a);
	fx_put(other, "p/k", "5", 0, NULL);
	pump(w);
	assert_int_equal(w->nr_events, 0);
}

/* Another host's change: no inotify event, the tick finds it. */
static void rescan(void **state)
{
	struct world *w = *state;
	void *a = watch(w, "");

	pump(w);
	w->deaf = true;
	fx_put(&w->x.f, "k", "1", 0, NULL);
	pump(w);
	assert_int_equal(w->nr_events, 0);
	w->x.now += MC_SEC;
	pump(w);
	expect(w, "k", "1");
	file_del(&w->x.f, "k", 0, w->x.now + MC_SEC, NULL);
	w->x.now += MC_SEC;
	pump(w);
	expect(w, "k", NULL);
	/* The interval is reloadable. */
	w->options[1].i = 10 * (int64_t)MC_SEC;
	assert_int_equal(w->ops->reconfigure(w->inst, w->options, NULL), 0);
	w->x.now += MC_SEC;
	pump(w);
	fx_put(&w->x.f, "k", "2", 0, NULL);
	w->x.now += MC_SEC;
	pump(w);
	assert_int_equal(w->nr_events, 0);
	w->x.now += 9 * MC_SEC;
	pump(w);
	expect(w, "k", "2");
	unwatch(w, a);
}

/* Idle: no watch, no lease, no timer. */
static void idle(void **state)
{
	struct world *w = *state;
	unsigned runs = w->nr_runs;
	void *a;

	assert_null(w->timer);
	w->x.now += 100 * MC_SEC;
	fx_put(&w->x.f, "k", "1", 0, NULL);
	pump(w);
	assert_int_equal(w->nr_runs, runs);
	a = watch(w, "");
	pump(w);
	assert_non_null(w->timer);
	unwatch(w, a);
	w->x.now += MC_SEC;
	pump(w);
	assert_null(w->timer);
}

static void lease_ends(void **state)
{
	struct world *w = *state;
	void *a = watch(w, "");
	uint64_t mine = 0, theirs = 0;

	assert_int_equal(w->ops->lease_grant(w->inst, TTL, w->x.now, &mine, NULL), 0);
	fx_put(w->inst, "mine", "v", mine, NULL);
	pump(w);
	expect(w, "mine", "v");
	w->x.now += TTL;
	pump(w);
	expect(w, "mine", NULL);
	assert_false(fx_exists(&w->x, "k.mine"));
	/* Somebody else's: the event of its lease file is enough. */
	file_lease_grant(&w->x.f, TTL, w->x.now, &theirs, NULL);
	fx_put(&w->x.f, "theirs", "v", theirs, NULL);
	pump(w);
	expect(w, "theirs", "v");
	file_lease_fini(&w->x.f);
	w->x.now += 1;
	pump(w);
	expect(w, "theirs", NULL);
	unwatch(w, a);
}

static void damage(void **state)
{
	struct world *w = *state;
	void *a = watch(w, "");

	fx_put(&w->x.f, "k", "1", 0, NULL);
	pump(w);
	expect(w, "k", "1");
	fx_write(&w->x, "k.k", "\xff", 1, 20);
	for (int i = 0; i < 5; i++) {
		w->x.now += MC_SEC;
		pump(w);
	}
	assert_int_equal(w->nr_events, 0);
	assert_int_equal(w->x.logs[MC_LOG_WARN], 1);
	assert_non_null(strstr(w->x.last_log, "k.k"));
	fx_put(&w->x.f, "k", "2", 0, NULL);
	pump(w);
	expect(w, "k", "2");
	unwatch(w, a);
}

static void unwatch_inside(void **state)
{
	struct world *w = *state;
	void *a = watch(w, "");

	w->unwatch_in_event = a;
	fx_put(&w->x.f, "k1", "1", 0, NULL);
	fx_put(&w->x.f, "k2", "1", 0, NULL);
	pump(w);
	assert_int_equal(w->nr_events, 1);
	free(a);
}

/* More changes than the kernel keeps: all is looked at again. */
static void overflow(void **state)
{
	struct world *w = *state;
	void *a = watch(w, "");
	long max = 16384;
	FILE *f = fopen("/proc/sys/fs/inotify/max_queued_events", "re");

	if (f && fscanf(f, "%ld", &max) != 1)
		max = 16384;
	if (f)
		fclose(f);
	pump(w);
	if (max > 50000)
		skip();
	w->deaf = true;
	for (long i = 0; i < max / 2 + 10; i++) {
		fx_write(&w->x, i % 2 ? "junk1" : "junk2", "x", 1, 0);
		unlinkat(w->x.f.dirfd, i % 2 ? "junk1" : "junk2", 0);
	}
	fx_put(&w->x.f, "k", "1", 0, NULL);
	w->deaf = false;
	pump(w);
	expect(w, "k", "1");
	unwatch(w, a);
}

static void open_fails(void **state)
{
	static const char *const bad[] = {
		"",
		"file:",
		"file://",
		"file://dir",
		"file://host/dir",
		"http://x/",
		"file:///a%",
		"file:///a%0",
		"file:///a%00",
		"file:///dev/null",
		"file:///dev/null/x",
		"file:///proc/nothing/here",
	};
	struct world *w = *state, b = {.ops = w->ops};

	b.x.host = w->x.host;
	b.options[1].i = MC_SEC;
	b.inst = calloc(1, w->ops->instance_size);
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct mc_error err = {0};

		memset(b.inst, 0, w->ops->instance_size);
		if (w_open(&b, bad[i], &err) >= 0)
			fail_msg("'%s' was opened", bad[i]);
		assert_non_null(strstr(err.text, bad[i]));
		w->ops->close(b.inst);
	}
	b.refuse_watch = -ENOMEM;
	memset(b.inst, 0, w->ops->instance_size);
	{
		struct mc_error err = {0};
		char url[128];

		snprintf(url, sizeof url, "file://localhost%s/", w->x.dir);
		assert_int_equal(w_open(&b, url, &err), -ENOMEM);
		b.refuse_watch = 0;
		assert_int_equal(w_open(&b, url, &err), 0);
		/* Closed before its first scan ran: that comes back later and does nothing. */
		w->ops->close(b.inst);
		memset(b.inst, 0xff, w->ops->instance_size);
		assert_int_equal(b.nr_jobs, 1);
		b.jobs[0]->run(b.jobs[0]);
		b.jobs[0]->done(b.jobs[0]);
	}
	free(b.inst);
}

static void creates_directories(void **state)
{
	struct world *w = *state, b = {.ops = w->ops};
	char url[128], path[96];
	struct stat st;

	b.x.host = w->x.host;
	b.options[1].i = MC_SEC;
	b.inst = calloc(1, w->ops->instance_size);
	snprintf(path, sizeof path, "%s/a b", w->x.dir);
	snprintf(url, sizeof url, "file://%s/a%%20b", w->x.dir);
	assert_int_equal(w_open(&b, url, NULL), 0);
	pump(&b);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	w->ops->close(b.inst);
	memset(b.inst, 0, w->ops->instance_size);
	snprintf(path, sizeof path, "%s/shared", w->x.dir);
	snprintf(url, sizeof url, "file://%s", path);
	b.options[2].i2 = 1; /* group */
	assert_int_equal(w_open(&b, url, NULL), 0);
	pump(&b);
	assert_int_equal(fx_put(b.inst, "k", "v", 0, NULL), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0770);
	strcat(path, "/k.k");
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0660);
	w->ops->close(b.inst);
	free(b.inst);
}

#define W_TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		W_TEST(changes),    W_TEST(rescan),     W_TEST(idle),
		W_TEST(lease_ends), W_TEST(damage),     W_TEST(unwatch_inside),
		W_TEST(overflow),   W_TEST(open_fails), W_TEST(creates_directories),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
