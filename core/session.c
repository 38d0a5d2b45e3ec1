/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions: their life and death.
 *
 *   CONNECTING --hello of both sides--> UP --gone--> GONE
 *
 * A session outlives its connections: messages are numbered and kept until they
 * are acknowledged, and go again over the next connection.  One timer serves
 * all sessions; it sleeps until the next heartbeat, silence or redial is due.
 * Life is measured on the boot clock, so that a machine that slept, or a process
 * that was frozen, knows how long nothing can have been heard.
 */
#include <errno.h>
#include <string.h>

#include "clock.h"
#include "log.h"
#include "notify.h"
#include "session_impl.h"
#include "stream.h"
#include "core/util/check.h"

static uint64_t peer_timeout(const struct mc_sessions *ss)
{
	return (uint64_t)ss->engine->set->peer_timeout;
}

void mc_sessions_ref(struct mc_sessions *ss)
{
	__atomic_fetch_add(&ss->refs, 1, __ATOMIC_RELAXED);
}

void mc_sessions_unref(struct mc_sessions *ss)
{
	if (__atomic_sub_fetch(&ss->refs, 1, __ATOMIC_ACQ_REL) > 0)
		return;
	mc_published_free(ss->published);
	pthread_cond_destroy(&ss->changed);
	pthread_mutex_destroy(&ss->lock);
	free(ss);
}

void mc_session_signal(struct mc_sessions *ss)
{
	pthread_mutex_lock(&ss->lock);
	pthread_cond_broadcast(&ss->changed);
	pthread_mutex_unlock(&ss->lock);
}

static void timer_fired(uv_timer_t *timer)
{
	mc_sessions_arm(timer->data);
}

/* Look again at this moment of the boot clock, or before. */
static void due_at(struct mc_sessions *ss, uint64_t due)
{
	uint64_t now = mc_boot_ns();

	if (!ss->timer_open || (uv_is_active((uv_handle_t *)&ss->timer) && ss->due_ns <= due))
		return;
	ss->due_ns = due;
	uv_update_time(mc_control_loop(ss->engine->control));
	uv_timer_start(&ss->timer, timer_fired, due > now ? (due - now) / MC_MSEC + 1 : 1, 0);
}

/* ---- references and messages -------------------------------------------------------------- */

struct mc_session *mc_session_ref(struct mc_session *s)
{
	__atomic_fetch_add(&s->refs, 1, __ATOMIC_RELAXED);
	return s;
}

void mc_session_unref(struct mc_session *s)
{
	struct mc_session_impl *i;

	if (!s || __atomic_sub_fetch(&s->refs, 1, __ATOMIC_ACQ_REL) > 0)
		return;
	i = s->impl;
	if (i->ss->events.freed)
		i->ss->events.freed(s);
	mc_snapshot_unref(s->snapshot);
	mc_table_in_fini(&i->in);
	mc_peer_later_free(i->later);
	mc_peer_info_fini(&i->info);
	for (char **at = i->addresses; at && *at; at++)
		free(*at);
	free(i->addresses);
	pthread_mutex_destroy(&i->lock);
	mc_sessions_unref(i->ss);
	free(i);
}

struct mc_snapshot *mc_session_snapshot(struct mc_session *s)
{
	struct mc_snapshot *snap;

	pthread_mutex_lock(&s->impl->lock);
	snap = s->snapshot ? mc_snapshot_ref(s->snapshot) : NULL;
	pthread_mutex_unlock(&s->impl->lock);
	return snap;
}

void mc_session_heard(struct mc_session *s)
{
	__atomic_store_n(&s->heard_ns, mc_boot_ns(), __ATOMIC_RELAXED);
}

static void flush_run(struct mc_control_post *post)
{
	struct mc_session_impl *i = MC_CONTAINER_OF(post, struct mc_session_impl, flush);
	bool unacked;

	pthread_mutex_lock(&i->lock);
	i->flush_posted = false;
	pthread_mutex_unlock(&i->lock);
	if (i->conn)
		mc_conn_flush(i->conn);
	pthread_mutex_lock(&i->lock);
	unacked = i->head != NULL; /* it may have gone out, and been answered, before we came here */
	pthread_mutex_unlock(&i->lock);
	if (i->s.active && unacked && !i->expect_ns && i->s.state == MC_SESSION_UP) {
		i->expect_ns = mc_boot_ns(); /* an acknowledgement */
		due_at(i->ss, i->expect_ns + MC_SILENCE_NS);
	}
	mc_session_unref(&i->s);
}

int mc_session_queue(struct mc_session_impl *i, uint16_t type, const void *head, size_t head_len,
		     const void *body, size_t body_len, bool bounded)
{
	struct mc_out_msg *msg;
	bool post;

	if (head_len + body_len > MC_FRAME_MAX || head_len > MC_FRAME_MAX)
		return -EMSGSIZE;
	msg = malloc(sizeof *msg + head_len + body_len);
	if (!msg)
		return -ENOMEM;
	msg->next = NULL;
	msg->type = type;
	msg->len = (uint32_t)(head_len + body_len);
	if (head_len)
		memcpy(msg->data, head, head_len);
	if (body_len)
		memcpy(msg->data + head_len, body, body_len);

	pthread_mutex_lock(&i->lock);
	if (i->ended || (bounded && i->out_bytes > MC_SESSION_QUEUE_MAX)) {
		int r = i->ended ? -ENOTCONN : -ENOBUFS;

		pthread_mutex_unlock(&i->lock);
		free(msg);
		return r;
	}
	msg->seq = i->next_seq++;
	i->out_bytes += msg->len + sizeof *msg;
	if (i->tail)
		i->tail->next = msg;
	else
		i->head = msg;
	i->tail = msg;
	if (!i->unsent)
		i->unsent = msg;
	post = !i->flush_posted;
	i->flush_posted = true;
	if (post)
		mc_session_ref(&i->s);
	pthread_mutex_unlock(&i->lock);
	if (post)
		mc_control_post(i->ss->engine->control, &i->flush);
	return 0;
}

int mc_session_send(struct mc_session *s, uint16_t type, const void *head, size_t head_len,
		    const void *body, size_t body_len)
{
	return mc_session_queue(s->impl, type, head, head_len, body, body_len, true);
}

void mc_session_fail(struct mc_session *s, int status, const char *why)
{
	static struct mc_ratelimit rl;
	uint32_t dropped;

	if (s->state != MC_SESSION_GONE && mc_ratelimit_ok(&rl, 5, &dropped))
		mc_warn("peer '%s': its session is ended: %s%s", s->impl->info.name[0] ? s->impl->info.name
											 : s->impl->to_name,
			why, dropped ? " (others like it were left out)" : "");
	mc_session_gone(s->impl, status, why);
}

static void table_failed(struct mc_session_impl *i, int r)
{
	char why[128];

	if (r == -E2BIG) {
		snprintf(why, sizeof why, "it has more buffers than max_peer_buffers, which is %zu here",
			 i->ss->max_buffers);
		mc_session_fail(&i->s, r, why);
	} else if (r == -ENOBUFS || r == -ENOMEM) {
		mc_session_fail(&i->s, r, r == -ENOMEM ? "no memory for its buffer table"
							  : "it asks, and does not take the answers");
	} else if (r < 0) {
		mc_session_fail(&i->s, -EPROTO, "it sent a buffer table that is malformed");
	}
}

void mc_session_deliver(struct mc_session_impl *i, uint16_t type, const uint8_t *payload, size_t len)
{
	if (type == MC_MSG_SELF) {
		if (mc_session_self(i, payload, len) < 0)
			mc_session_fail(&i->s, -EPROTO, "what it says of itself contradicts what it was");
	} else if (type < MC_MSG_PATH_FIRST) {
		table_failed(i, mc_table_message(i, type, payload, len));
	} else if (type >= MC_MSG_NOTIFY_FIRST && type <= MC_MSG_NOTIFY_LAST) {
		mc_notify_message(&i->s, type, payload, len);
	} else if (i->ss->events.message) {
		i->ss->events.message(&i->s, type, payload, len);
	}
}

/* ---- life and death -------------------------------------------------------------------------- */

struct mc_session_impl *mc_session_new(struct mc_sessions *ss, bool active, uint64_t id)
{
	struct mc_session_impl *i = calloc(1, sizeof *i);

	if (!i)
		return NULL;
	i->ss = ss;
	mc_sessions_ref(ss);
	pthread_mutex_init(&i->lock, NULL);
	i->flush.run = flush_run;
	i->next_seq = 1;
	i->s.engine = ss->engine;
	i->s.refs = 1; /* the table's */
	i->s.active = active;
	i->s.id = id;
	i->s.impl = i;
	i->s.heard_ns = mc_boot_ns();
	i->key = (struct mc_session_key){.id = id, .active = active};
	HASH_ADD(hh, ss->by_id, key, sizeof i->key, i);
	return i;
}

struct mc_session_impl *mc_session_find(struct mc_sessions *ss, uint64_t id, bool active)
{
	struct mc_session_key key = {.id = id, .active = active};
	struct mc_session_impl *i;

	HASH_FIND(hh, ss->by_id, &key, sizeof key, i);
	return i;
}

void mc_session_up(struct mc_session_impl *i)
{
	i->s.peer = &i->info;
	mc_session_heard(&i->s);
	__atomic_store_n(&i->s.state, MC_SESSION_UP, __ATOMIC_RELEASE);
	mc_debug("session %016llx with '%s' (generation %016llx) is up, %s",
		 (unsigned long long)i->s.id, i->info.name, (unsigned long long)i->info.generation,
		 i->s.active ? "ours" : "theirs");
	if (i->ss->events.up)
		i->ss->events.up(&i->s);
	mc_sessions_arm(i->ss);
	mc_session_signal(i->ss);
}

static void drop_queue(struct mc_session_impl *i)
{
	struct mc_out_msg *msg, *next;

	pthread_mutex_lock(&i->lock);
	i->ended = true;
	msg = i->head;
	i->head = i->tail = i->unsent = NULL;
	i->out_bytes = 0;
	pthread_mutex_unlock(&i->lock);
	for (; msg; msg = next) {
		next = msg->next;
		free(msg);
	}
}

void mc_session_gone(struct mc_session_impl *i, int status, const char *why)
{
	struct mc_sessions *ss = i->ss;
	struct mc_refresh *r;

	if (i->s.state == MC_SESSION_GONE)
		return;
	snprintf(i->why, sizeof i->why, "%s", why);
	i->s.gone_status = status;
	HASH_DEL(ss->by_id, i);
	__atomic_store_n(&i->s.state, MC_SESSION_GONE, __ATOMIC_RELEASE);
	if (i->conn)
		mc_conn_bye(i->conn, status == -ECANCELED ? -EHOSTDOWN : status, why);
	mc_conn_close(i->conn);
	mc_conn_close(i->pending);
	drop_queue(i);
	mc_debug("session %016llx with '%s' ended: %s (%s)", (unsigned long long)i->s.id,
		 i->info.name[0] ? i->info.name : i->to_name, i->why, strerror(-status));
	mc_notify_gone(&i->s, status);
	if (ss->events.gone)
		ss->events.gone(&i->s, status, i->why);
	while ((r = i->refreshes)) {
		i->refreshes = r->next;
		r->done(r->arg, status);
		free(r);
	}
	mc_session_signal(ss);
	mc_session_unref(&i->s);
}

struct mc_session *mc_session_lookup(struct mc_engine *engine, uint64_t id, uint64_t generation)
{
	struct mc_session_impl *i = NULL;

	if (engine->sessions)
		i = mc_session_find(engine->sessions, id, false);
	if (!i || i->s.state != MC_SESSION_UP || i->info.generation != generation)
		return NULL;
	return mc_session_ref(&i->s);
}

void mc_session_each(struct mc_engine *engine, void (*f)(struct mc_session *s, void *arg), void *arg)
{
	struct mc_session_impl *i, *next;

	HASH_ITER(hh, engine->sessions->by_id, i, next)
		f(&i->s, arg);
}

/* ---- heartbeats -------------------------------------------------------------------------------- */

static uint64_t silence(const struct mc_session_impl *i, uint64_t now)
{
	uint64_t heard = __atomic_load_n(&i->s.heard_ns, __ATOMIC_RELAXED);

	return now > heard ? now - heard : 0;
}

static void sweep(struct mc_sessions *ss, uint64_t now)
{
	struct mc_session_impl *i, *next;
	char why[96];

	snprintf(why, sizeof why, "nothing was heard of it for %llu ms",
		 (unsigned long long)(peer_timeout(ss) / MC_MSEC));
	HASH_ITER(hh, ss->by_id, i, next) {
		if (i->s.state == MC_SESSION_UP && silence(i, now) >= peer_timeout(ss))
			mc_session_gone(i, -EHOSTDOWN, why);
	}
}

void mc_sessions_turn(struct mc_sessions *ss)
{
	uint64_t now = mc_boot_ns();

	if (ss->last_turn_ns && now - ss->last_turn_ns > peer_timeout(ss) / 2)
		sweep(ss, now);
	ss->last_turn_ns = now;
}

/* What is due for one session; the boot time at which to look again. */
static uint64_t session_tick(struct mc_session_impl *i, uint64_t now)
{
	uint64_t limit = peer_timeout(i->ss), heard, due;

	if (i->s.state == MC_SESSION_CONNECTING) {
		uint64_t mono = mc_now_ns();

		if (mono < i->connect_deadline_ns)
			return now + MC_MIN(i->connect_deadline_ns - mono, MC_SEC);
		mc_session_gone(i, -ETIMEDOUT, i->why[0] ? i->why : "no connection in time");
		return UINT64_MAX;
	}
	heard = __atomic_load_n(&i->s.heard_ns, __ATOMIC_RELAXED);
	due = heard + limit;
	if (!i->s.active)
		return due;
	/* Whatever we hear: the other end of a one-sided wire hears nothing of our transfers.  Also while
	 * an answer is missing and others are dialled: the old connection may be well. */
	if (i->conn && now >= i->pinged_ns + limit / 5) {
		mc_conn_ping(i->conn);
		i->pinged_ns = now;
		if (!i->expect_ns)
			i->expect_ns = now;
	}
	if (i->conn)
		due = MC_MIN(due, i->pinged_ns + limit / 5);
	if (!i->expect_ns)
		return due;
	if (i->conn && now < i->expect_ns + MC_SILENCE_NS)
		due = MC_MIN(due, i->expect_ns + MC_SILENCE_NS);
	else if (i->nr_dials == 0 && !i->pending && now >= i->redial_ns)
		mc_session_dial(i, true);
	else if (i->nr_dials == 0 && !i->pending)
		due = MC_MIN(due, i->redial_ns);
	return due;
}

static void conns_tick(struct mc_sessions *ss, uint64_t now, uint64_t *due)
{
	uint64_t mono = mc_now_ns();
	struct mc_conn *c, *next;

	for (c = ss->conns; c; c = next) {
		uint64_t deadline = mc_conn_deadline(c);

		next = mc_conn_next(c);
		if (!deadline)
			continue;
		if (mono >= deadline)
			mc_conn_lost(c, -ETIMEDOUT, "no hello in time");
		else
			*due = MC_MIN(*due, now + (deadline - mono));
	}
}

void mc_sessions_arm(struct mc_sessions *ss)
{
	struct mc_session_impl *i, *next;
	uint64_t now, due = UINT64_MAX;

	if (!ss->timer_open || ss->arming)
		return;
	if (!ss->by_id && !ss->conns) {
		uv_timer_stop(&ss->timer);
		ss->last_turn_ns = 0; /* idle: the loop may sleep as long as it likes */
		return;
	}
	ss->arming = true;
	mc_sessions_turn(ss);
	now = mc_boot_ns();
	sweep(ss, now);
	conns_tick(ss, now, &due);
	HASH_ITER(hh, ss->by_id, i, next)
		due = MC_MIN(due, session_tick(i, now));
	ss->arming = false;
	/* At least four turns per peer_timeout, or a quiet loop would look frozen. */
	due = MC_MIN(due, now + peer_timeout(ss) / 4);
	uv_timer_stop(&ss->timer);
	due_at(ss, due);
}

/* ---- the layer itself ---------------------------------------------------------------------------- */

static void sessions_start(void *arg)
{
	struct mc_sessions *ss = arg;

	uv_timer_init(mc_control_loop(ss->engine->control), &ss->timer);
	ss->timer.data = ss;
	ss->timer_open = true;
	mc_sessions_ref(ss);
}

int mc_sessions_open(struct mc_engine *engine, mc_table_each table)
{
	struct mc_sessions *ss = calloc(1, sizeof *ss);
	const struct mc_stream_owners owners = {.control = mc_session_accept};
	int r;

	if (!ss)
		return -ENOMEM;
	ss->engine = engine;
	ss->refs = 1;
	ss->table = table;
	ss->max_buffers = (size_t)engine->set->max_peer_buffers;
	pthread_mutex_init(&ss->lock, NULL);
	mc_cond_init(&ss->changed);
	engine->sessions = ss;
	r = mc_stream_set_owners(engine, &owners);
	if (r < 0) {
		engine->sessions = NULL;
		mc_sessions_unref(ss);
		return r;
	}
	mc_control_call(engine->control, sessions_start, ss);
	return 0;
}

void mc_session_set_events(struct mc_engine *engine, const struct mc_session_events *events)
{
	engine->sessions->events = *events;
}

static void timer_closed(uv_handle_t *handle)
{
	mc_sessions_unref(handle->data);
}

static void sessions_stop(void *arg)
{
	struct mc_sessions *ss = arg;
	struct mc_session_impl *i, *next;

	ss->closing = true;
	HASH_ITER(hh, ss->by_id, i, next)
		mc_session_gone(i, -ECANCELED, "its engine was closed");
	while (ss->conns)
		mc_conn_close(ss->conns);
	if (ss->timer_open) {
		ss->timer_open = false;
		uv_close((uv_handle_t *)&ss->timer, timer_closed);
	}
}

void mc_sessions_close(struct mc_engine *engine)
{
	if (engine->sessions)
		mc_control_call(engine->control, sessions_stop, engine->sessions);
}

void mc_sessions_free(struct mc_engine *engine)
{
	if (!engine->sessions)
		return;
	mc_sessions_close(engine);
	mc_sessions_unref(engine->sessions);
	engine->sessions = NULL;
}
