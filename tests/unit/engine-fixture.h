/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Engines without a data path: port, sessions, notifies and metadata over a
 * directory of the test, with a buffer table that the test writes.  Several live
 * in one process and reach each other over loopback.
 */
#ifndef MC_TESTS_ENGINE_FIXTURE_H
#define MC_TESTS_ENGINE_FIXTURE_H

#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "addr.h"
#include "clock.h"
#include "device.h"
#include "notify.h"
#include "record.h"
#include "segment.h"
#include "session.h"
#include "stream.h"
#include "core/util/check.h"

#define FIXTURE_BUFS 4096

struct fixture {
	struct mc_engine engine; /* first */
	/* Our table; `lock` guards it. */
	pthread_mutex_t lock;
	uint32_t next_id;
	size_t nr;
	struct mc_local_buf bufs[FIXTURE_BUFS];
	struct mc_local_blob blobs[1];
	/* What the session layer said. */
	unsigned nr_up, nr_gone, nr_snapshots;
	int gone_status;
	char gone_why[512];
	void (*message)(struct mc_session *s, uint16_t type, const void *payload, size_t len);
	void (*up)(struct mc_session *s);
	sem_t gone_sem, snapshot_sem;
};

static char fixture_dir[64];

static uint64_t fixture_deadline(uint64_t span_ns)
{
	return mc_now_ns() + span_ns;
}

static uint32_t fixture_each(struct mc_engine *engine,
			     void (*f)(const struct mc_local_buf *buf, void *arg), void *arg)
{
	struct fixture *x = (struct fixture *)engine;
	uint32_t next_id;

	pthread_mutex_lock(&x->lock);
	for (size_t i = 0; i < x->nr; i++)
		f(&x->bufs[i], arg);
	next_id = x->next_id;
	pthread_mutex_unlock(&x->lock);
	return next_id;
}

static void fixture_message(struct mc_session *s, uint16_t type, const void *payload, size_t len)
{
	struct fixture *x = (struct fixture *)s->engine;

	if (x->message)
		x->message(s, type, payload, len);
}

static void fixture_up(struct mc_session *s)
{
	struct fixture *x = (struct fixture *)s->engine;

	__atomic_fetch_add(&x->nr_up, 1, __ATOMIC_RELAXED);
	if (x->up)
		x->up(s);
}

static void fixture_gone(struct mc_session *s, int status, const char *why)
{
	struct fixture *x = (struct fixture *)s->engine;

	x->nr_gone++;
	x->gone_status = status;
	snprintf(x->gone_why, sizeof x->gone_why, "%s", why);
	sem_post(&x->gone_sem);
}

static void fixture_snapshot(struct mc_session *s)
{
	struct fixture *x = (struct fixture *)s->engine;

	__atomic_fetch_add(&x->nr_snapshots, 1, __ATOMIC_RELAXED);
	sem_post(&x->snapshot_sem);
}

static const struct mc_session_events fixture_events = {
	.message = fixture_message,
	.up = fixture_up,
	.gone = fixture_gone,
	.snapshot = fixture_snapshot,
};

static void fixture_config(struct mc_config *config, const char *key, const char *value)
{
	struct mc_error err;

	if (mc_config_set(config, key, value, &err) < 0)
		fail_msg("%s", err.text);
}

/* name NULL: the default; settings: pairs of key and value, ends with NULL. */
static struct fixture *fixture_new(const char *name, const char *const *settings)
{
	struct fixture *x = calloc(1, sizeof *x);
	char url[128];
	struct mc_error err = {0};

	assert_non_null(x);
	pthread_mutex_init(&x->lock, NULL);
	sem_init(&x->gone_sem, 0, 0);
	sem_init(&x->snapshot_sem, 0, 0);
	if (!fixture_dir[0]) {
		strcpy(fixture_dir, "/tmp/mc-test-XXXXXX");
		assert_non_null(mkdtemp(fixture_dir));
	}
	snprintf(url, sizeof url, "file://%s", fixture_dir);
	if (mc_config_new(&x->engine.config, &err) < 0)
		fail_msg("%s", err.text);
	fixture_config(x->engine.config, "metadata_server", url);
	fixture_config(x->engine.config, "port", "0");
	fixture_config(x->engine.config, "listen_address", "127.0.0.1");
	if (name)
		fixture_config(x->engine.config, "local_server_name", name);
	for (; settings && settings[0]; settings += 2)
		fixture_config(x->engine.config, settings[0], settings[1]);
	x->engine.set = mc_config_settings(x->engine.config);
	if (mc_registry_load(&x->engine.registry, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(getrandom(&x->engine.generation, 8, 0), 8);
	assert_int_equal(mc_helpers_new(&x->engine.helpers), 0);
	assert_int_equal(mc_control_new(&x->engine.control, &err), 0);
	return x;
}

/* Open the control plane; 0 or -errno with err. */
static int fixture_open(struct fixture *x, uint64_t timeout_ns, struct mc_error *err)
{
	int r = mc_notifies_open(&x->engine);

	if (r == 0)
		r = mc_sessions_open(&x->engine, fixture_each);
	if (r < 0)
		return r;
	mc_session_set_events(&x->engine, &fixture_events);
	r = mc_stream_listen(&x->engine, err);
	if (r < 0)
		return r;
	mc_stream_start(&x->engine);
	r = mc_meta_open(&x->engine, fixture_deadline(timeout_ns), err);
	if (r == 0)
		r = mc_record_publish(&x->engine, fixture_deadline(timeout_ns), err);
	return r;
}

static void fixture_free(struct fixture *x)
{
	mc_record_withdraw(&x->engine, fixture_deadline(5 * MC_SEC));
	mc_sessions_close(&x->engine);
	mc_stream_free(&x->engine);
	mc_sessions_free(&x->engine);
	mc_notifies_free(&x->engine);
	mc_meta_close(&x->engine);
	mc_helpers_free(x->engine.helpers);
	mc_control_free(x->engine.control);
	mc_registry_free(x->engine.registry);
	mc_config_free(x->engine.config);
	sem_destroy(&x->gone_sem);
	sem_destroy(&x->snapshot_sem);
	pthread_mutex_destroy(&x->lock);
	free(x);
}

static struct fixture *fixture_start(const char *name, const char *const *settings)
{
	struct fixture *x = fixture_new(name, settings);
	struct mc_error err = {0};

	if (fixture_open(x, 10 * MC_SEC, &err) < 0)
		fail_msg("%s", err.text);
	return x;
}

static inline void fixture_buf(struct fixture *x, uint32_t id, uint64_t base, uint64_t len)
{
	struct mc_local_buf *b;

	pthread_mutex_lock(&x->lock);
	b = &x->bufs[x->nr++];
	*b = (struct mc_local_buf){.id = id, .base = base, .len = len, .access = MC_ACCESS_ALL};
	strcpy(b->location, "cpu:0");
	strcpy(b->kind, "cpu");
	x->next_id = MC_MAX(x->next_id, id + 1);
	pthread_mutex_unlock(&x->lock);
}

static inline void fixture_unbuf(struct fixture *x, uint32_t id)
{
	pthread_mutex_lock(&x->lock);
	for (size_t i = 0; i < x->nr; i++) {
		if (x->bufs[i].id == id) {
			memmove(&x->bufs[i], &x->bufs[i + 1], (x->nr - i - 1) * sizeof x->bufs[0]);
			x->nr--;
			break;
		}
	}
	pthread_mutex_unlock(&x->lock);
}

static int fixture_cleanup(void **state)
{
	char cmd[128];

	snprintf(cmd, sizeof cmd, "rm -rf '%s'", fixture_dir);
	return fixture_dir[0] ? system(cmd) : 0;
}

#endif
