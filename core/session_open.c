/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The calls of other threads: open a session and wait for it, refresh its table,
 * end all of a generation.  Callers who open the same name at the same time wait
 * for the one who came first.
 */
#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "addr.h"
#include "clock.h"
#include "record.h"
#include "session_impl.h"
#include "core/util/bytes.h"
#include "core/util/check.h"
#include "core/util/cleanup.h"

/* One name being opened by its first caller. */
struct mc_session_opening {
	struct mc_session_opening *next; /* ss->opens */
	const char *name;
	unsigned waiters;
	bool done;
	int status;
	struct mc_session *session; /* a reference, status 0 */
	struct mc_error err;
};

struct make_call {
	struct mc_sessions *ss;
	const char *name;
	char **addresses; /* taken */
	uint64_t generation, deadline_ns;
	struct mc_session *ret; /* a reference */
	int status;
};

static void record_freep(struct mc_record **record)
{
	mc_record_free(*record);
}

/* The living active session of this name.  [control] */
static void find_on_loop(void *arg)
{
	struct make_call *call = arg;
	struct mc_session_impl *i, *next;

	HASH_ITER(hh, call->ss->by_id, i, next) {
		if (i->s.active && strcmp(i->to_name, call->name) == 0) {
			call->ret = mc_session_ref(&i->s);
			return;
		}
	}
}

static void make_on_loop(void *arg)
{
	struct make_call *call = arg;
	struct mc_sessions *ss = call->ss;
	struct mc_session_impl *i;
	uint64_t id = 0;

	call->status = -ESHUTDOWN;
	if (ss->closing)
		return;
	call->status = -EBUSY;
	if (HASH_COUNT(ss->by_id) >= (size_t)ss->engine->set->max_peers)
		return;
	call->status = -ENOMEM;
	while (!id) {
		if (getrandom(&id, sizeof id, 0) != sizeof id)
			return;
	}
	i = mc_session_new(ss, true, id);
	if (!i)
		return;
	snprintf(i->to_name, sizeof i->to_name, "%s", call->name);
	i->addresses = mc_steal(call->addresses);
	i->to_generation = call->generation;
	i->connect_deadline_ns = call->deadline_ns;
	call->ret = mc_session_ref(&i->s);
	call->status = 0;
	mc_session_dial(i, false);
	mc_sessions_arm(ss);
}

static void give_up_on_loop(void *arg)
{
	struct mc_session *s = arg;

	if (s->state == MC_SESSION_CONNECTING)
		mc_session_gone(s->impl, -ETIMEDOUT, "no answer in time");
}

static bool has_snapshot(struct mc_session *s)
{
	bool has;

	pthread_mutex_lock(&s->impl->lock);
	has = s->snapshot != NULL;
	pthread_mutex_unlock(&s->impl->lock);
	return has;
}

/* Until the session is up with a table, or has ended: 0, its status, -ETIMEDOUT. */
static int wait_ready(struct mc_session *s, uint64_t deadline_ns)
{
	struct mc_sessions *ss = s->impl->ss;
	struct timespec until = mc_wait_until(deadline_ns);
	int r = -EAGAIN;

	pthread_mutex_lock(&ss->lock);
	for (;;) {
		uint32_t state = __atomic_load_n(&s->state, __ATOMIC_ACQUIRE);

		if (state == MC_SESSION_GONE)
			r = s->gone_status;
		else if (state == MC_SESSION_UP && has_snapshot(s))
			r = 0;
		if (r != -EAGAIN)
			break;
		if (pthread_cond_timedwait(&ss->changed, &ss->lock, &until) == ETIMEDOUT &&
		    mc_now_ns() >= deadline_ns) {
			r = -ETIMEDOUT;
			break;
		}
	}
	pthread_mutex_unlock(&ss->lock);
	return r;
}

static void join_addresses(char *const *addresses, char *out, size_t size)
{
	size_t at = 0;

	out[0] = '\0';
	for (; *addresses && at < size; addresses++)
		at += (size_t)snprintf(out + at, size - at, "%s%s", at ? ", " : "", *addresses);
}

/* Dial what a record says and wait. */
static int dial_record(struct mc_engine *engine, const char *name, struct mc_record *record,
		       uint64_t deadline_ns, struct mc_session **ret_session, struct mc_error *err)
{
	struct make_call call = {.ss = engine->sessions,
				 .name = name,
				 .addresses = mc_steal(record->addresses),
				 .generation = record->generation,
				 .deadline_ns = deadline_ns};
	char where[300];
	int r;

	join_addresses(call.addresses, where, sizeof where);
	mc_control_call(engine->control, make_on_loop, &call);
	mc_addr_list_free(call.addresses);
	if (call.status == -EBUSY)
		return mc_fail(err, call.status,
			       "segment '%s': this engine has %lld peers already; raise max_peers", name,
			       (long long)engine->set->max_peers);
	if (call.status < 0)
		return mc_fail(err, call.status, "segment '%s': %s", name, strerror(-call.status));
	r = wait_ready(call.ret, deadline_ns);
	if (r < 0) {
		mc_control_call(engine->control, give_up_on_loop, call.ret);
		mc_fail(err, r, "segment '%s' (at %s) cannot be reached: %s", name, where,
			call.ret->impl->why[0] ? call.ret->impl->why : strerror(-r));
		mc_session_unref(call.ret);
		return r;
	}
	*ret_session = call.ret;
	return 0;
}

static int look_up(struct mc_engine *engine, const char *name, uint64_t deadline_ns,
		   struct mc_record **ret_record, struct mc_error *err)
{
	const char *listen = engine->set->listen_address ? engine->set->listen_address : "";
	struct mc_record *record;
	int r;

	/* Our own segment goes over our own port, not over what NAT shows to others. */
	if (strcmp(name, engine->name) != 0)
		return mc_record_find(engine, name, deadline_ns, ret_record, err);
	record = calloc(1, sizeof *record);
	if (!record)
		return mc_fail(err, -ENOMEM, "segment '%s': out of memory", name);
	record->generation = engine->generation;
	r = mc_addr_list(*listen ? listen : "127.0.0.1", engine->port, &record->addresses, err);
	if (r < 0)
		mc_record_free(record);
	else
		*ret_record = record;
	return r;
}

/* The first caller's way: what exists, else the record, else a fresh record once. */
static int open_first(struct mc_engine *engine, const char *name, uint64_t deadline_ns,
		      struct mc_session **ret_session, struct mc_error *err)
{
	struct make_call call = {.ss = engine->sessions, .name = name};
	struct mc_error first = {0};
	uint64_t generation = 0;
	int r;

	mc_control_call(engine->control, find_on_loop, &call);
	if (call.ret) {
		r = wait_ready(call.ret, deadline_ns);
		if (r == 0) {
			*ret_session = call.ret;
			return 0;
		}
		mc_session_unref(call.ret);
		if (r == -ETIMEDOUT)
			return mc_fail(err, r, "segment '%s': its buffer table did not come in time",
				       name);
	}
	for (int tries = 0;; tries++) {
		mc_cleanup(record_freep) struct mc_record *record = NULL;

		r = look_up(engine, name, deadline_ns, &record, err);
		if (r < 0)
			return r;
		if (tries && record->generation == generation)
			return mc_fail(err, first.code, "%s", first.text);
		generation = record->generation;
		r = dial_record(engine, name, record, deadline_ns, ret_session, &first);
		if (r < 0)
			mc_fail(err, r, "%s", first.text);
		if (r == 0 || tries || (r != -ESTALE && r != -ECONNREFUSED && r != -EHOSTDOWN))
			return r;
	}
}

static struct mc_session_opening *opening_find(struct mc_sessions *ss, const char *name)
{
	struct mc_session_opening *o = ss->opens;

	while (o && strcmp(o->name, name) != 0)
		o = o->next;
	return o;
}

static void opening_remove(struct mc_sessions *ss, struct mc_session_opening *o)
{
	struct mc_session_opening **at = &ss->opens;

	while (*at != o)
		at = &(*at)->next;
	*at = o->next;
}

/* Wait for another caller's attempt: 1 = it ended for a reason of its own deadline, try again. */
static int opening_wait(struct mc_sessions *ss, struct mc_session_opening *o, uint64_t deadline_ns,
			struct mc_session **ret_session, struct mc_error *err)
{
	struct timespec until = mc_wait_until(deadline_ns);
	int r = 0;

	o->waiters++;
	while (!o->done && r == 0) {
		if (pthread_cond_timedwait(&ss->changed, &ss->lock, &until) == ETIMEDOUT &&
		    mc_now_ns() >= deadline_ns)
			r = -ETIMEDOUT;
	}
	if (!o->done)
		mc_fail(err, r, "segment '%s': it could not be opened in time", o->name);
	else if (o->status == 0)
		*ret_session = mc_session_ref(o->session);
	else if (o->status == -ETIMEDOUT)
		r = 1;
	else
		r = mc_fail(err, o->status, "%s", o->err.text);
	o->waiters--;
	pthread_cond_broadcast(&ss->changed);
	return r;
}

int mc_session_open(struct mc_engine *engine, const char *name, uint64_t deadline_ns,
		    struct mc_session **ret_session, struct mc_error *err)
{
	struct mc_sessions *ss = engine->sessions;
	struct mc_session_opening mine = {.name = name}, *o;
	struct mc_session *session = NULL;
	int r = mc_name_check(name, err);

	if (r < 0)
		return r;
	pthread_mutex_lock(&ss->lock);
	while ((o = opening_find(ss, name))) {
		r = opening_wait(ss, o, deadline_ns, ret_session, err);
		if (r <= 0) {
			pthread_mutex_unlock(&ss->lock);
			return r;
		}
	}
	mine.next = ss->opens;
	ss->opens = &mine;
	pthread_mutex_unlock(&ss->lock);

	r = open_first(engine, name, deadline_ns, &session, &mine.err);

	pthread_mutex_lock(&ss->lock);
	opening_remove(ss, &mine);
	mine.done = true;
	mine.status = r;
	mine.session = session;
	pthread_cond_broadcast(&ss->changed);
	while (mine.waiters)
		pthread_cond_wait(&ss->changed, &ss->lock);
	pthread_mutex_unlock(&ss->lock);
	if (r < 0)
		return mc_fail(err, r, "%s", mine.err.text);
	*ret_session = session;
	return 0;
}

/* ---- refresh and end ------------------------------------------------------------------------- */

struct refresh_call {
	struct mc_control_post post;
	struct mc_session_impl *i; /* a reference */
	struct mc_refresh *refresh;
};

static void refresh_on_loop(struct mc_control_post *post)
{
	struct refresh_call *call = MC_CONTAINER_OF(post, struct refresh_call, post);
	struct mc_session_impl *i = call->i;
	struct mc_refresh *refresh = call->refresh;
	int r = i->s.state == MC_SESSION_GONE ? i->s.gone_status : 0;

	free(call);
	if (r == 0) {
		static uint64_t cookie; /* shared by all engines: it only must not repeat */
		uint8_t wire[8];

		refresh->cookie = __atomic_add_fetch(&cookie, 1, __ATOMIC_RELAXED);
		mc_put64(wire, refresh->cookie);
		r = mc_session_queue(i, MC_MSG_REFRESH, wire, sizeof wire, NULL, 0, false);
	}
	if (r == 0) {
		refresh->next = i->refreshes;
		i->refreshes = refresh;
	} else {
		refresh->done(refresh->arg, r);
		free(refresh);
	}
	mc_session_unref(&i->s);
}

int mc_session_refresh(struct mc_session *s, void (*done)(void *arg, int status), void *arg)
{
	struct refresh_call *call;
	struct mc_refresh *refresh;

	if (!s->active)
		return -EINVAL;
	call = calloc(1, sizeof *call);
	refresh = calloc(1, sizeof *refresh);
	if (!call || !refresh) {
		free(call);
		free(refresh);
		return -ENOMEM;
	}
	refresh->done = done;
	refresh->arg = arg;
	*call = (struct refresh_call){.post.run = refresh_on_loop, .i = s->impl, .refresh = refresh};
	mc_session_ref(s);
	mc_control_post(s->engine->control, &call->post);
	return 0;
}

struct end_call {
	struct mc_sessions *ss;
	uint64_t generation;
	int status;
	const char *why;
	unsigned nr;
};

static void end_on_loop(void *arg)
{
	struct end_call *call = arg;
	struct mc_session_impl *i, *next;

	HASH_ITER(hh, call->ss->by_id, i, next) {
		uint64_t generation = i->info.generation ? i->info.generation : i->to_generation;

		if (generation == call->generation) {
			call->nr++;
			mc_session_gone(i, call->status, call->why);
		}
	}
}

int mc_session_end(struct mc_engine *engine, uint64_t generation, int status, const char *why)
{
	struct end_call call = {
		.ss = engine->sessions, .generation = generation, .status = status, .why = why};

	mc_control_call(engine->control, end_on_loop, &call);
	return call.nr ? 0 : -ENOENT;
}
