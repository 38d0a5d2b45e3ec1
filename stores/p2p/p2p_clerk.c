/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store's thread: it does what a handler may not, because it would wait.  It answers GRANTs whose time is
 * over, deletes the key of what somebody removed, and looks now and then whether the record of what is offered
 * still stands.
 */
#include <errno.h>
#include <string.h>

#include "p2p_impl.h"

#define KEY_NS (5 * MC_SEC)      /* for one question to the metadata service */
#define LOOK_NS (6 * MC_SEC)     /* from one look at a record to the next, and up to 4 s more, so that a thousand */
#define LOOK_SPREAD_MS 4000      /* engines do not look at once */
#define LOOK_AGAIN_NS (2 * MC_SEC)
#define OTHER_OBJECT "another object has its name now"

uint64_t mc_p2p_look_next(void)
{
	uint64_t now = mc_p2p_now();

	return now + LOOK_NS + now / 1000 % LOOK_SPREAD_MS * MC_MSEC;
}

static void delete_key(struct p2p_object *o)
{
	char key[MC_P2P_KEY_MAX];

	mc_p2p_source_key(o->name, mc_engine_name(o->store->engine), key);
	mc_kv_remove(o->store->engine, key, 0, KEY_NS, NULL);
	o->published = false;
}

static int on_key(void *ctx, const struct mc_kv_entry *e)
{
	*(uint64_t *)ctx = e->revision;
	return 0;
}

/* Nobody is served any more, as if we had been told. */
static void give_up(struct p2p_object *o, const char *why)
{
	struct mc_p2p *store = o->store;

	mc_p2p_log(store, MC_LOG_WARN, "object '%s': %s; it is not offered any more", o->name, why);
	mc_p2p_object_hush(o);
	pthread_mutex_lock(&store->lock);
	o->removed = true;
	pthread_mutex_unlock(&store->lock);
}

/* The record is not there.  If the service has lost our key, too, and the engine has written it again, then the record
 * comes again.  If our key is as we wrote it, somebody removed the record alone: by `rm`, whose word has not come yet or was
 * lost, or for the moment in which the last source but us takes it away and puts it back.
 *   returns   when to look again, from now */
static uint64_t record_gone(struct p2p_object *o)
{
	struct mc_p2p *store = o->store;
	char key[MC_P2P_KEY_MAX];
	uint64_t revision = 0;
	int r;

	mc_p2p_source_key(o->name, mc_engine_name(store->engine), key);
	r = mc_kv_read(store->engine, key, KEY_NS, on_key, &revision, NULL);
	if (r < 0)
		return LOOK_AGAIN_NS;
	if (revision == o->key_revision && !o->record_missed) {
		o->record_missed = true;
		return LOOK_AGAIN_NS;
	}
	if (revision == o->key_revision) {
		give_up(o, "somebody has removed its record");
		return 0;
	}
	r = mc_p2p_record_ensure(o, false, mc_p2p_now() + KEY_NS, NULL);
	if (r == -EEXIST) {
		give_up(o, OTHER_OBJECT);
		return 0;
	}
	if (r < 0)
		return LOOK_AGAIN_NS;
	o->key_revision = revision;
	mc_p2p_log(store, MC_LOG_WARN, "object '%s': the metadata service had lost its record; it is written again", o->name);
	return LOOK_NS;
}

static void look_after(struct p2p_object *o)
{
	struct mc_p2p_record there = {.nr_sizes = 0};
	uint64_t next = mc_p2p_look_next();
	int r = mc_p2p_record_read(o->store, o->name, mc_p2p_now() + KEY_NS, &there, NULL, NULL);

	if (r == -ENOENT) {
		next = mc_p2p_now() + record_gone(o);
	} else if (r == 0) {
		bool ours = memcmp(&there.root, &o->layout.root, sizeof there.root) == 0;

		mc_p2p_record_free(&there);
		/* One who registers another object may put it back. */
		if (!ours && o->record_missed)
			give_up(o, OTHER_OBJECT);
		else if (!ours)
			next = mc_p2p_now() + LOOK_AGAIN_NS;
		o->record_missed = !ours;
	}
	pthread_mutex_lock(&o->store->lock);
	o->look_ns = next;
	pthread_mutex_unlock(&o->store->lock);
}

/* With the lock: an object that wants the clerk now, made busy; NULL: none, *wake goes down to when one will. */
static struct p2p_object *due(struct mc_p2p *store, uint64_t *wake)
{
	uint64_t now = mc_p2p_now();

	for (struct p2p_object *o = store->objects; o; o = o->next) {
		if (o->busy || !o->published)
			continue;
		if (o->removed || o->look_ns <= now) {
			o->busy = o->clerk = true;
			return o;
		}
		*wake = MC_MIN(*wake, o->look_ns);
	}
	return NULL;
}

void *mc_p2p_clerk(void *arg)
{
	struct mc_p2p *store = arg;

	pthread_mutex_lock(&store->lock);
	while (!store->stop) {
		uint64_t answer = mc_p2p_serve_wake(store->serve), wake = answer;
		struct p2p_object *o = due(store, &wake);
		bool gone = o && o->removed;

		if (o) {
			pthread_mutex_unlock(&store->lock);
			if (gone)
				delete_key(o);
			else
				look_after(o);
			mc_p2p_object_release(o);
			pthread_mutex_lock(&store->lock);
		} else if (answer <= mc_p2p_now()) {
			pthread_mutex_unlock(&store->lock);
			mc_p2p_answer_due(store);
			pthread_mutex_lock(&store->lock);
		} else {
			mc_p2p_cond_until(&store->cond, &store->lock, wake);
		}
	}
	pthread_mutex_unlock(&store->lock);
	return NULL;
}
