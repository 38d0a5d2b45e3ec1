/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GRANTs: asked for without waiting, answered on the rpc worker.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "p2p_get.h"

#define ASK_NS (3 * MC_SEC)
#define KEEP_NS MC_SEC /* a source forgets who is silent for 4 s */

/* A call under way; freed by its end.  The source outlives it: its client is closed first, which ends all calls. */
struct ask {
	struct mc_rpc_call call;
	struct get_source *source;
	uint8_t bytes[MC_P2P_REQUEST_MAX], reply[MC_P2P_ANSWER_LEN];
};

static struct ask *ask_new(struct get_source *s, uint32_t method, struct mc_p2p_request *q,
			   void (*done)(struct mc_rpc_call *call))
{
	struct ask *a = calloc(1, sizeof *a);

	if (!a)
		return NULL;
	q->object = s->get->object->id;
	q->root = s->get->record.root;
	a->source = s;
	a->call = (struct mc_rpc_call){.size = sizeof a->call, .method = method, .data = a->bytes, .reply = a->reply,
				       .reply_cap = sizeof a->reply, .done = done, .user = a};
	a->call.len = mc_p2p_request_put(method, q, a->bytes);
	return a;
}

static void told(struct get_source *s)
{
	__atomic_store_n(&s->told_ns, mc_p2p_now(), __ATOMIC_RELAXED);
}

static void slot_ended(struct mc_rpc_call *call)
{
	free(call->user);
}

/* The caller holds a ref of the source, or is its client's callback. */
void mc_p2p_slot_end(struct get_source *s, uint64_t slot, enum mc_p2p_end end)
{
	struct mc_p2p_request q = {.count = end, .slot = slot};
	struct ask *a = ask_new(s, MC_P2P_DONE_WITH, &q, slot_ended);

	told(s);
	__atomic_fetch_sub(&s->held, 1, __ATOMIC_RELAXED);
	if (a && mc_rpc_start(s->client, &a->call, ASK_NS) < 0)
		free(a);
}

/* An answer, or there is none. */
static void heard(struct mc_rpc_call *call)
{
	struct ask *a = call->user;
	struct get_source *s = a->source;

	pthread_mutex_lock(&s->get->lock);
	s->waiting = false;
	s->heard = call->status;
	pthread_cond_broadcast(&s->get->cond);
	pthread_mutex_unlock(&s->get->lock);
	free(a);
}

void mc_p2p_leave(struct get_source *s)
{
	struct mc_p2p_request q = {.count = 0};
	struct ask *a = ask_new(s, MC_P2P_LEAVE, &q, heard);
	int r;

	pthread_mutex_lock(&s->get->lock);
	s->waiting = true;
	pthread_mutex_unlock(&s->get->lock);
	r = a ? mc_rpc_start(s->client, &a->call, GET_WAIT_NS) : -ENOMEM;
	if (r == 0)
		return;
	free(a);
	pthread_mutex_lock(&s->get->lock);
	s->waiting = false;
	s->heard = r;
	pthread_mutex_unlock(&s->get->lock);
}

void mc_p2p_left_by(struct get_source *s, uint64_t until_ns)
{
	while (s->waiting && mc_p2p_now() < until_ns)
		mc_p2p_cond_until(&s->get->cond, &s->get->lock, until_ns);
}

/* With the lock.  True: the shard is not wanted any more, its slot is to be given back. */
static bool granted(struct mc_p2p_get *g, struct get_source *s, const struct mc_p2p_answer *answer, uint64_t now)
{
	int r;

	if (answer->retry_ms) {
		mc_p2p_pick_refused(g->pick, s->idx, now + MC_MIN(answer->retry_ms, 10000) * MC_MSEC, now);
		return false;
	}
	r = mc_p2p_pick_granted(g->pick, s->idx, answer->shard, now);
	if (r == -EALREADY)
		return true;
	if (r < 0 || g->nr_tasks == GET_TASKS) {
		mc_p2p_source_drop(g, s, false, -EBADMSG, "it grants what it was not asked for");
		return false;
	}
	s->refs++;
	g->tasks[(g->first_task + g->nr_tasks++) % GET_TASKS] =
		(struct get_task){.source = s, .slot = answer->slot, .rate = answer->rate, .shard = answer->shard};
	return false;
}

static void answered(struct mc_rpc_call *call)
{
	struct ask *a = call->user;
	struct get_source *s = a->source;
	struct mc_p2p_get *g = s->get;
	struct mc_p2p_answer answer = {.slot = 0};
	int status = call->status;
	bool unwanted = false;

	if (status == 0)
		status = mc_p2p_answer_parse(a->reply, call->reply_len, &answer);
	if (status == 0 && !answer.retry_ms)
		__atomic_fetch_add(&s->held, 1, __ATOMIC_RELAXED);
	pthread_mutex_lock(&g->lock);
	if (s->dropped || g->over)
		unwanted = status == 0 && answer.slot && !answer.retry_ms;
	else if (status == 0)
		unwanted = granted(g, s, &answer, mc_p2p_now());
	else
		mc_p2p_source_drop(g, s, false, status, status == -ENOENT ? "it does not offer the object any more"
									  : "it does not answer");
	pthread_cond_broadcast(&g->cond);
	pthread_mutex_unlock(&g->lock);
	if (unwanted && status == 0)
		mc_p2p_slot_end(s, answer.slot, MC_P2P_END_DECLINED);
	free(a);
}

static void ask(struct mc_p2p_get *g, struct get_source *s, struct mc_p2p_request *q)
{
	struct ask *a = ask_new(s, MC_P2P_GRANT, q, answered);
	int r = a ? mc_rpc_start(s->client, &a->call, ASK_NS) : -ENOMEM;

	told(s);
	pthread_mutex_lock(&g->lock);
	if (r < 0 && !s->dropped)
		mc_p2p_pick_refused(g->pick, s->idx, 0, mc_p2p_now());
	s->refs--;
	pthread_mutex_unlock(&g->lock);
	if (r < 0)
		free(a);
}

void mc_p2p_keep(struct mc_p2p_get *g)
{
	uint64_t now = mc_p2p_now();

	for (uint32_t i = 0; i < GET_SOURCES; i++) {
		struct mc_p2p_request q = {.count = 0};
		struct get_source *s;
		struct ask *a;

		pthread_mutex_lock(&g->lock);
		s = g->sources[i];
		if (s && (__atomic_load_n(&s->held, __ATOMIC_RELAXED) == 0 ||
			  now - __atomic_load_n(&s->told_ns, __ATOMIC_RELAXED) < KEEP_NS))
			s = NULL;
		if (s)
			s->refs++;
		pthread_mutex_unlock(&g->lock);
		if (!s)
			continue;
		told(s);
		a = ask_new(s, MC_P2P_KEEP, &q, slot_ended);
		if (a && mc_rpc_start(s->client, &a->call, ASK_NS) < 0)
			free(a);
		pthread_mutex_lock(&g->lock);
		s->refs--;
		pthread_mutex_unlock(&g->lock);
	}
}

void mc_p2p_advance(struct mc_p2p_get *g)
{
	for (;;) {
		struct mc_p2p_request q = {.count = 0};
		struct get_source *s = NULL;
		uint32_t idx;
		int r = -EAGAIN;

		pthread_mutex_lock(&g->lock);
		if (!g->over && g->check_left == 0)
			r = mc_p2p_pick_next(g->pick, mc_p2p_now(), &idx, q.candidates, &q.count);
		if (r == 0) {
			s = g->sources[idx];
			s->refs++;
			g->lack_ns = 0;
		} else if (r == -ENODATA && !g->lack_ns) {
			g->lack_ns = mc_p2p_now();
			g->waked = true; /* somebody may have come since sources were listed */
			pthread_cond_broadcast(&g->cond);
		} else if (r == -EAGAIN && !g->over && mc_p2p_pick_flying(g->pick)) {
			g->lack_ns = 0;
		}
		pthread_mutex_unlock(&g->lock);
		if (!s)
			return;
		ask(g, s, &q);
	}
}
