/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The key-value side of `keys` (see keys.h): each lane watches device/, announces
 * itself there under its lease, and then goes through every operation and every
 * answer that the host promises, on a key of its own.  keys_kv_found counts lanes
 * that got through, keys_kv_wrong answers that were not as promised.
 */
#include "keys.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* One step: what is asked, and the answer that must come. */
enum step_rev { REV_NONE, REV_SEEN, REV_OLD };
static const struct step {
	uint32_t op;
	const char *value; /* PUT, CAS; GET: what must be found */
	enum step_rev expect;
	int status;
} steps[] = {
	{ MC_KV_GET, NULL, REV_NONE, -ENOENT },
	{ MC_KV_DELETE, NULL, REV_NONE, -ENOENT },
	{ MC_KV_CAS, "one", REV_NONE, 0 }, /* must not exist */
	{ MC_KV_CAS, "two", REV_NONE, -EEXIST },
	{ MC_KV_GET, "one", REV_NONE, 0 },
	{ MC_KV_PUT, "three", REV_NONE, 0 },
	{ MC_KV_CAS, "four", REV_SEEN, -ESTALE }, /* the revision of "one" */
	{ MC_KV_GET, "three", REV_NONE, 0 },
	{ MC_KV_CAS, "five", REV_SEEN, 0 },
	{ MC_KV_GET, "five", REV_NONE, 0 },
	{ MC_KV_DELETE, NULL, REV_OLD, -ESTALE },
	{ MC_KV_DELETE, NULL, REV_SEEN, 0 },
	{ MC_KV_GET, NULL, REV_NONE, -ENOENT },
};
#define NR_STEPS (sizeof steps / sizeof steps[0])

static void step_start(struct keys *k);

static void step_wrong(struct keys *k, int status)
{
	mc_counter_add(k->nr_kv_wrong, 1);
	k->host->log(k->host, MC_LOG_WARN, "key-value step %u: answer %d, not %d, or another value", k->kv_at, status,
		     steps[k->kv_at].status);
}

static bool value_is(const struct mc_kv *kv, const char *value)
{
	return kv && kv->value && kv->revision && kv->len == strlen(value) && !memcmp(kv->value, value, kv->len);
}

static void step_done(struct mc_kv_call *c, int status, const struct mc_kv *kv)
{
	struct keys *k = c->user;
	const struct step *s = &steps[k->kv_at];

	if (k->stopping)
		return;
	if (status != s->status || (s->op == MC_KV_GET && s->value && !value_is(kv, s->value))) {
		step_wrong(k, status);
		return;
	}
	if (s->op == MC_KV_GET && kv) {
		k->kv_old_revision = k->kv_revision;
		k->kv_revision = kv->revision;
	}
	if (++k->kv_at == NR_STEPS)
		mc_counter_add(k->nr_kv_found, 1);
	else
		step_start(k);
}

static void step_start(struct keys *k)
{
	const struct step *s = &steps[k->kv_at];
	int r;

	k->kv_step = (struct mc_kv_call){
		.size = sizeof k->kv_step, .op = s->op, .key = k->kv_own_key, .done = step_done, .user = k,
		.deadline_ns = k->host->now_ns(k->host) + 5 * MC_SEC,
		.expect_rev = s->expect == REV_SEEN ? k->kv_revision :
			      s->expect == REV_OLD  ? k->kv_old_revision : 0,
	};
	if (s->op == MC_KV_PUT || s->op == MC_KV_CAS) {
		k->kv_step.value = s->value;
		k->kv_step.len = strlen(s->value);
	}
	r = k->host->kv(k->host, &k->kv_step);
	if (r < 0)
		step_wrong(k, r);
}

static void announced(struct mc_kv_call *c, int status, const struct mc_kv *kv)
{
	struct keys *k = c->user;

	/* A metadata service that refuses costs the announcement, nothing else. */
	if (status == 0 && !k->stopping)
		step_start(k);
}

static void changed(struct mc_kv_call *c, int status, const struct mc_kv *kv)
{
	struct keys *k = c->user;

	if (status < 0)
		k->watching = false;
	else
		mc_counter_add(k->nr_kv_events, 1);
}

static void start(struct mc_work *w)
{
	struct keys *k = w->user;

	if (k->stopping)
		return;
	k->kv_watch = (struct mc_kv_call){ .size = sizeof k->kv_watch, .op = MC_KV_WATCH, .key = "device/",
					   .done = changed, .user = k,
					   .deadline_ns = k->host->now_ns(k->host) + 5 * MC_SEC };
	k->watching = k->host->kv(k->host, &k->kv_watch) == 0;
	snprintf(k->address, sizeof k->address, "pid %d", (int)getpid());
	k->kv_put = (struct mc_kv_call){ .size = sizeof k->kv_put, .op = MC_KV_PUT, .leased = 1,
					 .key = k->kv_key, .value = k->address,
					 .len = strlen(k->address), .done = announced, .user = k,
					 .deadline_ns = k->host->now_ns(k->host) + 5 * MC_SEC };
	k->host->kv(k->host, &k->kv_put);
}

void keys_kv_open(struct keys *k, const struct mc_open_args *args)
{
	k->nr_kv_events = k->host->counter(k->host, "keys_kv_events", "Events of the watch on device/.");
	k->nr_kv_found = k->host->counter(k->host, "keys_kv_found", "Sequences of key-value calls that went well.");
	k->nr_kv_wrong = k->host->counter(k->host, "keys_kv_wrong", "Answers of other calls than promised.");
	snprintf(k->kv_key, sizeof k->kv_key, "device/%s.%s.%u", args->engine, args->device, args->lane);
	snprintf(k->kv_own_key, sizeof k->kv_own_key, "own/%016llx.%s.%u", (unsigned long long)args->generation,
		 args->device, args->lane);
	k->start_work = (struct mc_work){ .size = sizeof k->start_work, .run = start, .user = k };
	k->host->post(k->host, &k->start_work);
}

void keys_kv_stop(struct keys *k)
{
	if (!k->watching)
		return;
	k->kv_watch.op = MC_KV_UNWATCH;
	k->host->kv(k->host, &k->kv_watch);
}
