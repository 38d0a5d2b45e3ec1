/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Notifies.  The sender's message travels in a session, which delivers it once;
 * the target answers whether it had room.  A full queue is back-pressure: the
 * sender tries again, ever more slowly, until the message's deadline.  What the
 * target has queued it keeps, also when the sender is gone.
 *
 * Messages of a session are queued in the order in which they were sent, over a
 * full queue, too: once one was refused the target refuses those behind it, which
 * were already on their way, until the first is there or was given up; the sender
 * holds back later ones.  So each message says which one is the sender's oldest.
 *
 * A message is seen after the writes before it (P3): where a memory kind is open
 * whose devices need a flush, a helper does it first, once for all that arrived
 * meanwhile.
 */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <utlist.h>

#include "clock.h"
#include "engine.h"
#include "kind.h"
#include "notify.h"
#include "session_impl.h"
#include "stream_wire.h"
#include "core/util/bytes.h"
#include "core/util/check.h"

#define MSG_POST (MC_MSG_NOTIFY_FIRST + 0)   /* u64 id, u64 the sender's oldest, bytes */
#define MSG_RESULT (MC_MSG_NOTIFY_FIRST + 1) /* u64 id, u16 errno code */
#define POST_HEAD 16
#define RETRY_MIN_NS (5 * MC_MSEC)
#define RETRY_MAX_NS (100 * MC_MSEC)

/* A received message that nobody has taken yet. */
struct waiting {
	struct waiting *prev, *next;
	uint64_t generation;
	size_t len;
	char from[MC_SEGMENT_NAME_MAX + 1];
	uint8_t data[];
};

/* A received message that waits for the flush. */
struct arrival {
	struct arrival *prev, *next; /* n->arrivals */
	struct mc_session *s;        /* a reference */
	uint64_t id, oldest;
	size_t len;
	uint8_t data[];
};

/* A message on its way. */
struct post {
	struct post *prev, *next; /* n->posts */
	struct mc_control_post to_loop;
	struct mc_notifies *n;
	struct mc_session *s; /* a reference */
	uint64_t id, deadline_ns;
	uint64_t retry_ns, backoff_ns;
	bool held; /* to be sent when it is the session's first and retry_ns has come; else its answer is awaited */
	void (*done)(void *arg, int status);
	void *arg;
	size_t len;
	uint8_t data[];
};

struct mc_notifies {
	struct mc_engine *engine;
	int event;
	/* Guards the queue; the event is readable while it is not empty. */
	pthread_mutex_t lock;
	pthread_cond_t arrived;
	struct waiting *queue;
	size_t nr;
	bool flushing, stopping; /* under lock; written on [control] */
	pthread_cond_t flushed;

	/* [control] */
	struct arrival *arrivals; /* oldest first */
	size_t nr_arrivals;       /* at most as many as the queue holds */
	struct arrival *covered;  /* the last one that the flush under way is good for */
	struct mc_job flush;
	struct mc_control_post flush_done;
	uint64_t round;
	uv_timer_t timer;
	struct post *posts;
	uint64_t next_id;
	struct mc_notify_counts counts;
};

static void timer_arm(struct mc_notifies *n);

static void timer_init(void *arg)
{
	struct mc_notifies *n = arg;

	uv_timer_init(mc_control_loop(n->engine->control), &n->timer);
	n->timer.data = n;
}

int mc_notifies_open(struct mc_engine *engine)
{
	struct mc_notifies *n = calloc(1, sizeof *n);

	if (!n)
		return -ENOMEM;
	n->engine = engine;
	n->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (n->event < 0) {
		free(n);
		return -errno;
	}
	pthread_mutex_init(&n->lock, NULL);
	mc_cond_init(&n->arrived);
	pthread_cond_init(&n->flushed, NULL);
	mc_control_call(engine->control, timer_init, n);
	engine->notifies = n;
	return 0;
}

static void notifies_closed(uv_handle_t *handle)
{
	struct mc_notifies *n = handle->data;
	struct waiting *w, *next;

	DL_FOREACH_SAFE(n->queue, w, next)
		free(w);
	close(n->event);
	pthread_cond_destroy(&n->flushed);
	pthread_cond_destroy(&n->arrived);
	pthread_mutex_destroy(&n->lock);
	free(n);
}

static void post_end(struct post *p, int status)
{
	DL_DELETE(p->n->posts, p);
	if (status)
		p->n->counts.failed++;
	else
		p->n->counts.sent++;
	if (p->held)
		p->s->impl->notify_held--;
	p->done(p->arg, status);
	mc_session_unref(p->s);
	free(p);
}

static void stop_on_loop(void *arg)
{
	struct mc_notifies *n = arg;

	struct arrival *a, *next;

	while (n->posts)
		post_end(n->posts, -ECANCELED);
	DL_FOREACH_SAFE(n->arrivals, a, next) {
		mc_session_unref(a->s);
		free(a);
	}
	uv_close((uv_handle_t *)&n->timer, notifies_closed);
}

void mc_notifies_free(struct mc_engine *engine)
{
	struct mc_notifies *n = engine->notifies;

	if (!n)
		return;
	pthread_mutex_lock(&n->lock);
	n->stopping = true;
	while (n->flushing)
		pthread_cond_wait(&n->flushed, &n->lock);
	pthread_mutex_unlock(&n->lock);
	mc_control_call(engine->control, stop_on_loop, n);
	engine->notifies = NULL;
}

/* ---- sending ------------------------------------------------------------------------------ */

/* It goes again when its time has come and no other of its session is before it. */
static void post_hold(struct post *p, uint64_t span_ns)
{
	p->retry_ns = mc_now_ns() + span_ns;
	if (!p->held)
		p->s->impl->notify_held++;
	p->held = true;
}

static void post_refused(struct post *p)
{
	p->backoff_ns = MC_MIN(MC_MAX(2 * p->backoff_ns, RETRY_MIN_NS), RETRY_MAX_NS);
	post_hold(p, p->backoff_ns);
}

/* 0; -errno: it is held, or has ended. */
static int post_send(struct post *p)
{
	uint8_t head[POST_HEAD];
	struct post *oldest;
	int r;

	DL_SEARCH_SCALAR(p->n->posts, oldest, s, p->s);
	mc_put64(head, p->id);
	mc_put64(head + 8, oldest->id);
	if (p->held)
		p->s->impl->notify_held--;
	p->held = false;
	r = mc_session_send(p->s, MSG_POST, head, sizeof head, p->data, p->len);
	if (r == -ENOBUFS)
		post_refused(p);
	else if (r < 0)
		post_end(p, r == -ENOTCONN && p->s->gone_status ? p->s->gone_status : r);
	return r;
}

static void post_on_loop(struct mc_control_post *to_loop)
{
	struct post *p = MC_CONTAINER_OF(to_loop, struct post, to_loop);
	struct mc_notifies *n = p->n;

	p->id = ++n->next_id;
	DL_APPEND(n->posts, p);
	if (p->s->impl->notify_held)
		post_hold(p, 0);
	else
		post_send(p);
	timer_arm(n);
}

int mc_notify_post(struct mc_session *s, const void *data, size_t len, uint64_t deadline_ns,
		   void (*done)(void *arg, int status), void *arg)
{
	struct post *p;

	if (len > sizeof((struct mc_notify *)0)->data || !s->active)
		return -EINVAL;
	p = calloc(1, sizeof *p + len);
	if (!p)
		return -ENOMEM;
	p->to_loop.run = post_on_loop;
	p->n = s->engine->notifies;
	p->s = mc_session_ref(s);
	p->deadline_ns = deadline_ns;
	p->done = done;
	p->arg = arg;
	p->len = len;
	if (len)
		memcpy(p->data, data, len);
	mc_control_post(s->engine->control, &p->to_loop);
	return 0;
}

/* Is it the first that its session holds back?  For walks through all, from the oldest on, under a
 * new round each. */
static bool is_first_held(struct mc_notifies *n, struct post *p)
{
	struct mc_session_impl *i = p->s->impl;

	if (!p->held || i->notify_round == n->round)
		return false;
	i->notify_round = n->round;
	return true;
}

static void timer_fired(uv_timer_t *timer)
{
	struct mc_notifies *n = timer->data;
	uint64_t now = mc_now_ns();
	struct post *p, *next;

	n->round++;
	DL_FOREACH_SAFE(n->posts, p, next) {
		if (now >= p->deadline_ns)
			post_end(p, p->held ? -ENOBUFS : -ETIMEDOUT);
		else if (is_first_held(n, p) && now >= p->retry_ns)
			post_send(p);
	}
	timer_arm(n);
}

static void timer_arm(struct mc_notifies *n)
{
	uint64_t due = UINT64_MAX, now = mc_now_ns();
	struct post *p;

	n->round++;
	DL_FOREACH(n->posts, p) {
		due = MC_MIN(due, p->deadline_ns);
		if (is_first_held(n, p))
			due = MC_MIN(due, p->retry_ns);
	}
	if (due == UINT64_MAX) {
		uv_timer_stop(&n->timer);
		return;
	}
	uv_update_time(mc_control_loop(n->engine->control));
	uv_timer_start(&n->timer, timer_fired,
		       due > now ? MC_MIN(due - now, 3600 * MC_SEC) / MC_MSEC + 1 : 0, 0);
}

/* There was room for one: two more may follow, so that a queue that is read again fills fast. */
static void post_more(struct mc_notifies *n, struct mc_session *s)
{
	struct post *p, *next;
	int nr = 2;

	DL_FOREACH_SAFE(n->posts, p, next) {
		if (!s->impl->notify_held || nr == 0)
			break;
		if (p->s == s && p->held) {
			nr--;
			p->backoff_ns = 0; /* the queue is being read */
			if (post_send(p) < 0)
				break;
		}
	}
}

void mc_notify_gone(struct mc_session *s, int status)
{
	struct mc_notifies *n = s->engine->notifies;
	struct post *p, *next;

	if (!n)
		return;
	DL_FOREACH_SAFE(n->posts, p, next) {
		if (p->s == s)
			post_end(p, status);
	}
}

/* ---- receiving ------------------------------------------------------------------------------- */

static int queue_add(struct mc_notifies *n, const struct mc_peer_info *from, const uint8_t *data,
		     size_t len)
{
	struct waiting *w = calloc(1, sizeof *w + len);
	uint64_t one = 1;
	bool full;

	if (!w)
		return -ENOBUFS;
	w->generation = from->generation;
	w->len = len;
	snprintf(w->from, sizeof w->from, "%s", from->name);
	memcpy(w->data, data, len);
	pthread_mutex_lock(&n->lock);
	full = n->nr >= (size_t)n->engine->set->notify_queue;
	if (!full) {
		DL_APPEND(n->queue, w);
		if (n->nr++ == 0 && write(n->event, &one, sizeof one) < 0)
			MC_ASSERT(!"an eventfd takes 1");
		pthread_cond_signal(&n->arrived);
	}
	pthread_mutex_unlock(&n->lock);
	if (full) {
		n->counts.refused++;
		free(w);
		return -ENOBUFS;
	}
	n->counts.received++;
	return 0;
}

static void answer(struct mc_session *s, uint64_t id, int status)
{
	uint8_t out[10];

	mc_put64(out, id);
	mc_put16(out + 8, mc_wire_of_errno(status));
	(void)mc_session_send(s, MSG_RESULT, out, sizeof out, NULL, 0);
}

static void deliver(struct mc_session *s, uint64_t id, uint64_t oldest, const uint8_t *data, size_t len)
{
	struct mc_session_impl *i = s->impl;
	int r = -ENOBUFS;

	if (!i->notify_refused || id <= i->notify_refused || oldest > i->notify_refused) {
		r = queue_add(s->engine->notifies, s->peer, data, len);
		if (r == -ENOBUFS)
			i->notify_refused = id;
		else if (id >= i->notify_refused || oldest > i->notify_refused)
			i->notify_refused = 0; /* else it was here before the one that was refused */
	}
	answer(s, id, r);
}

static void flush_run(struct mc_job *job)
{
	struct mc_notifies *n = MC_CONTAINER_OF(job, struct mc_notifies, flush);

	mc_kinds_flush(n->engine);
	mc_control_post(n->engine->control, &n->flush_done);
}

static void flush_done(struct mc_control_post *post);

static void flush_begin(struct mc_notifies *n)
{
	bool begin;

	pthread_mutex_lock(&n->lock);
	begin = !n->flushing && !n->stopping && n->arrivals;
	if (begin)
		n->flushing = true;
	pthread_mutex_unlock(&n->lock);
	if (!begin)
		return;
	n->covered = n->arrivals->prev; /* utlist: the last */
	n->flush.run = flush_run;
	n->flush_done.run = flush_done;
	mc_helpers_run(n->engine->helpers, &n->flush);
}

static void flush_done(struct mc_control_post *post)
{
	struct mc_notifies *n = MC_CONTAINER_OF(post, struct mc_notifies, flush_done);
	struct arrival *a, *covered = n->covered;

	do {
		a = n->arrivals;
		DL_DELETE(n->arrivals, a);
		n->nr_arrivals--;
		deliver(a->s, a->id, a->oldest, a->data, a->len);
		mc_session_unref(a->s);
		if (a != covered)
			free(a);
	} while (a != covered);
	free(covered);
	pthread_mutex_lock(&n->lock);
	n->flushing = false;
	pthread_cond_signal(&n->flushed);
	pthread_mutex_unlock(&n->lock);
	flush_begin(n);
}

static void on_post(struct mc_session *s, const uint8_t *payload, size_t len)
{
	struct mc_notifies *n = s->engine->notifies;
	struct arrival *a;
	uint64_t id, oldest;

	if (len < POST_HEAD)
		return; /* there is no id to answer */
	id = mc_get64(payload);
	oldest = mc_get64(payload + 8);
	payload += POST_HEAD;
	len -= POST_HEAD;
	if (len > sizeof((struct mc_notify *)0)->data) {
		answer(s, id, -EINVAL);
		return;
	}
	if (!n->arrivals && !mc_kinds_any(s->engine)) {
		deliver(s, id, oldest, payload, len);
		return;
	}
	a = n->nr_arrivals < (size_t)s->engine->set->notify_queue ? malloc(sizeof *a + len) : NULL;
	if (!a) {
		if (!s->impl->notify_refused)
			s->impl->notify_refused = id; /* those behind it wait for it */
		answer(s, id, -ENOBUFS);
		return;
	}
	a->s = mc_session_ref(s);
	a->id = id;
	a->oldest = oldest;
	a->len = len;
	memcpy(a->data, payload, len);
	DL_APPEND(n->arrivals, a);
	n->nr_arrivals++;
	flush_begin(n);
}

static void on_result(struct mc_session *s, const uint8_t *payload, size_t len)
{
	struct mc_notifies *n = s->engine->notifies;
	struct post *p;
	int status;

	if (len < 10)
		return;
	DL_SEARCH_SCALAR(n->posts, p, id, mc_get64(payload));
	if (!p || p->s != s || p->held)
		return; /* its deadline was first */
	status = mc_errno_of_wire(mc_get16(payload + 8));
	if (status == -ENOBUFS && mc_now_ns() < p->deadline_ns) {
		post_refused(p);
	} else {
		post_end(p, status);
		post_more(n, s);
	}
	timer_arm(n);
}

void mc_notify_message(struct mc_session *s, uint16_t type, const uint8_t *payload, size_t len)
{
	if (!s->engine->notifies)
		return;
	if (type == MSG_POST && !s->active)
		on_post(s, payload, len);
	else if (type == MSG_RESULT && s->active)
		on_result(s, payload, len);
}

void mc_notify_count(struct mc_engine *engine, struct mc_notify_counts *ret_counts)
{
	struct mc_notifies *n = engine->notifies;

	*ret_counts = n->counts;
	pthread_mutex_lock(&n->lock);
	ret_counts->waiting = n->nr;
	pthread_mutex_unlock(&n->lock);
}

int mc_notify_event(struct mc_engine *engine)
{
	return engine->notifies->event;
}

int mc_notify_take(struct mc_engine *engine, struct mc_notify *notify, uint64_t timeout_ns)
{
	struct mc_notifies *n = engine->notifies;
	uint64_t now = mc_now_ns(), count;
	uint64_t deadline = timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;
	struct timespec until = mc_wait_until(deadline);
	struct waiting *w;

	if (notify->size < sizeof *notify)
		return -EINVAL;
	pthread_mutex_lock(&n->lock);
	while (!n->queue && timeout_ns && mc_now_ns() < deadline)
		pthread_cond_timedwait(&n->arrived, &n->lock, &until);
	w = n->queue;
	if (w) {
		DL_DELETE(n->queue, w);
		if (--n->nr == 0 && read(n->event, &count, sizeof count) < 0)
			MC_ASSERT(!"the event was not set");
	}
	pthread_mutex_unlock(&n->lock);
	if (!w)
		return timeout_ns ? -ETIMEDOUT : -EAGAIN;
	snprintf(notify->from, sizeof notify->from, "%s", w->from);
	notify->generation = w->generation;
	notify->len = w->len;
	memcpy(notify->data, w->data, w->len);
	free(w);
	return 0;
}
