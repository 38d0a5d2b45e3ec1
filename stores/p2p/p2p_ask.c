/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GRANTs: asked for without waiting, answered on the rpc worker.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "p2p_get.h"

#define ASK_NS (3 * MC_SEC)

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

static void slot_ended(struct mc_rpc_call *call)
{
	free(call->user);
}

/* The caller holds a ref of the source, or is its client's callback. */
void mc_p2p_slot_end(struct get_source *s, uint64_t slot, enum mc_p2p_end end)
{
	struct mc_p2p_request q = {.count = end, .slot = slot};
	struct ask *a = ask_new(s, MC_P2P_DONE_WITH, &q, slot_ended);

	if (a && mc_rpc_start(s->client, &a->call, ASK_NS) < 0)
		free(a);
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

	pthread_mutex_lock(&g->lock);
	if (r < 0 && !s->dropped)
		mc_p2p_pick_refused(g->pick, s->idx, 0, mc_p2p_now());
	s->refs--;
	pthread_mutex_unlock(&g->lock);
	if (r < 0)
		free(a);
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
