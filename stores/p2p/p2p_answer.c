/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The service that getters ask: which shard may I read now?  Runs on the rpc worker, or in whoever drives it;
 * replies are sent without the lock, because sending may run the worker.
 */
#include <errno.h>
#include <string.h>

#include "core/util/bytes.h"
#include "p2p_impl.h"

/* An answer that has been decided on under the lock. */
struct reply {
	struct mc_rpc_request *request;
	int status;
	struct mc_p2p_answer answer;
};

static void send(const struct reply *r)
{
	uint8_t bytes[MC_P2P_ANSWER_LEN];

	if (r->status < 0) {
		mc_rpc_reply(r->request, r->status, NULL, 0);
		return;
	}
	mc_p2p_answer_put(&r->answer, bytes);
	if (mc_rpc_reply(r->request, 0, bytes, sizeof bytes) == -ENOMEM)
		mc_rpc_reply(r->request, -ENOMEM, NULL, 0);
}

static struct reply reply_of(struct mc_rpc_request *request, const struct mc_p2p_grant *g)
{
	struct reply r = {.request = request};

	if (g->status == 0) {
		r.answer = (struct mc_p2p_answer){.slot = g->slot, .rate = g->rate, .shard = g->shard};
	} else if (g->status == -EAGAIN) {
		uint64_t ms = (g->retry_ns + MC_MSEC - 1) / MC_MSEC;

		r.answer.retry_ms = (uint32_t)MC_MIN(MC_MAX(ms, 1), 60000);
	} else {
		r.status = g->status;
	}
	return r;
}

/* Under the lock. */
static struct p2p_object *find(struct mc_p2p *store, const struct mc_p2p_request *q)
{
	for (struct p2p_object *o = store->objects; o; o = o->next)
		if (o->served && memcmp(&o->id, &q->object, sizeof o->id) == 0 &&
		    memcmp(&o->layout.root, &q->root, sizeof q->root) == 0)
			return o;
	return NULL;
}

static struct mc_rpc_request *ask_take(struct mc_p2p *store, uint64_t ticket)
{
	for (size_t i = 0; i < P2P_ASKS; i++)
		if (store->asks[i].ticket == ticket) {
			store->asks[i].ticket = 0;
			return store->asks[i].request;
		}
	return NULL;
}

static void ask_keep(struct mc_p2p *store, uint64_t ticket, struct mc_rpc_request *request)
{
	for (size_t i = 0; i < P2P_ASKS; i++)
		if (store->asks[i].ticket == 0) {
			store->asks[i] = (struct p2p_ask){.ticket = ticket, .request = request};
			return;
		}
}

void mc_p2p_answer_due(struct mc_p2p *store)
{
	struct mc_p2p_grant g;
	bool more = true;

	while (more) {
		struct reply r = {.request = NULL};

		pthread_mutex_lock(&store->lock);
		more = mc_p2p_serve_next(store->serve, mc_p2p_now(), &g) > 0;
		if (more)
			r = reply_of(ask_take(store, g.ticket), &g);
		pthread_mutex_unlock(&store->lock);
		if (r.request)
			send(&r);
	}
}

/* GRANTs that nobody waits for any more; they are answered all the same, which frees them. */
struct unwanted {
	size_t nr;
	struct mc_rpc_request *requests[P2P_ASKS];
};

/* Under the lock.  tally NULL: all objects. */
static void getter_gone(struct mc_p2p *store, const struct mc_p2p_tally *tally, uint64_t getter, struct unwanted *ret)
{
	uint64_t tickets[P2P_ASKS];
	size_t nr = mc_p2p_serve_gone(store->serve, tally, getter, tickets, P2P_ASKS);

	for (size_t i = 0; i < nr; i++)
		ret->requests[ret->nr++] = ask_take(store, tickets[i]);
}

static void answer_unwanted(const struct unwanted *u)
{
	for (size_t i = 0; i < u->nr; i++)
		if (u->requests[i])
			mc_rpc_reply(u->requests[i], -ECANCELED, NULL, 0);
}

/* Under the lock.  An engine that has been started anew has left what it held before. */
static void know_getter(struct mc_p2p *store, const struct mc_rpc_incoming *incoming, struct unwanted *ret)
{
	struct mc_p2p_hash hash;
	uint64_t name;

	mc_p2p_hash(incoming->from, strlen(incoming->from), &hash);
	name = mc_get64(hash.bytes) | 1;
	for (size_t i = 0; i < P2P_GETTERS; i++) {
		struct p2p_getter *g = &store->getters[i];

		if (g->name != name)
			continue;
		if (g->generation != incoming->generation)
			getter_gone(store, NULL, g->generation, ret);
		g->generation = incoming->generation;
		return;
	}
	store->getters[store->next_getter++ % P2P_GETTERS] = (struct p2p_getter){name, incoming->generation};
}

static void on_grant(struct mc_p2p *store, struct mc_rpc_request *request, const struct mc_p2p_request *q,
		     const struct mc_rpc_incoming *incoming)
{
	struct reply reply = {.request = request, .status = -ENOENT};
	struct unwanted unwanted = {.nr = 0};
	struct p2p_object *o;

	pthread_mutex_lock(&store->lock);
	o = find(store, q);
	if (o) {
		uint64_t now = mc_p2p_now(), margin = 200 * MC_MSEC, until = incoming->deadline_ns;
		struct mc_p2p_grant g = {.ticket = 0};

		know_getter(store, incoming, &unwanted);
		until = until > now + 2 * margin ? until - margin : now + 1;
		g.status = mc_p2p_serve_ask(store->serve, &o->tally, incoming->generation, q->candidates, q->count,
					    until, now, &g);
		if (g.status == -EINPROGRESS) {
			ask_keep(store, g.ticket, request);
			reply.request = NULL;
			pthread_cond_broadcast(&store->cond);
		} else {
			reply = reply_of(request, &g);
		}
	}
	pthread_mutex_unlock(&store->lock);
	answer_unwanted(&unwanted);
	if (reply.request)
		send(&reply);
}

static void on_leave(struct mc_p2p *store, const struct mc_p2p_request *q, uint64_t getter)
{
	struct unwanted unwanted = {.nr = 0};
	struct p2p_object *o;

	pthread_mutex_lock(&store->lock);
	o = find(store, q);
	if (o)
		getter_gone(store, &o->tally, getter, &unwanted);
	pthread_mutex_unlock(&store->lock);
	answer_unwanted(&unwanted);
}

static void on_drop(struct mc_p2p *store, const struct mc_p2p_request *q, const char *from)
{
	char name[MC_P2P_NAME_MAX + 1];
	struct p2p_object *o;

	pthread_mutex_lock(&store->lock);
	o = find(store, q);
	if (o) {
		memcpy(name, o->name, sizeof name);
		o->removed = true;
		snprintf(o->removed_by, sizeof o->removed_by, "%s", from);
	}
	pthread_mutex_unlock(&store->lock);
	if (!o)
		return;
	mc_p2p_log(store, MC_LOG_INFO, "object '%s': removed by %s", name, from);
	pthread_mutex_lock(&store->lock);
	for (o = store->objects; o; o = o->next)
		if (o->removed)
			o->served = false;
	pthread_cond_broadcast(&store->cond);
	pthread_mutex_unlock(&store->lock);
}

void mc_p2p_handle(void *arg, struct mc_rpc_request *request, const struct mc_rpc_incoming *incoming)
{
	struct mc_p2p *store = arg;
	struct mc_p2p_request q = {.count = 0};
	int r = mc_p2p_request_parse(incoming->method, incoming->data, incoming->len, &q);

	if (r == 0 && incoming->method == MC_P2P_GRANT) {
		on_grant(store, request, &q, incoming);
		return;
	}
	if (r == 0 && incoming->method == MC_P2P_DONE_WITH) {
		pthread_mutex_lock(&store->lock);
		mc_p2p_serve_done(store->serve, incoming->generation, q.slot, (enum mc_p2p_end)q.count, mc_p2p_now());
		pthread_mutex_unlock(&store->lock);
	}
	if (r == 0 && incoming->method == MC_P2P_KEEP) {
		pthread_mutex_lock(&store->lock);
		mc_p2p_serve_heard(store->serve, incoming->generation, mc_p2p_now());
		pthread_mutex_unlock(&store->lock);
	}
	if (r == 0 && incoming->method == MC_P2P_LEAVE)
		on_leave(store, &q, incoming->generation);
	if (r == 0 && incoming->method == MC_P2P_DROP)
		on_drop(store, &q, incoming->from);
	mc_rpc_reply(request, r, NULL, 0);
	mc_p2p_answer_due(store);
}
