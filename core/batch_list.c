/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prepared lists: requests that are checked and resolved once and submitted many
 * times, by their numbers.  Those that lie in the same two buffers form a group;
 * a submitted one whose group is that of the run being made joins it without a
 * look at its ranges.  All else goes the way of a new request (batch_build.c).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "batch.h"
#include "engine.h"

/* An entry: the request, and which entry's buffers it shares (the first of its kind). */
struct list_entry {
	struct mc_req req;
	struct mc_session *session; /* borrowed from the segment handle */
	uint32_t group;             /* entries of one group lie in the same two buffers */
};
struct mc_list {
	struct mc_engine *engine;
	size_t nr;
	struct list_entry *entries;
	/* Per group, the buffers it was resolved to, by ids that are never reused. */
	struct list_group {
		uint32_t lbuf_id, rbuf_id;
		struct mc_session *session;
		uint8_t opcode;
		bool sole;
	} *groups;
	uint32_t nr_groups;
};

static bool same_group(const struct list_group *a, const struct list_group *b)
{
	return a->lbuf_id == b->lbuf_id && a->rbuf_id == b->rbuf_id && a->session == b->session &&
	       a->opcode == b->opcode && a->sole == b->sole;
}

static int list_resolve(struct mc_list *list, struct list_entry *e)
{
	struct mc_local_buf *lbuf;
	struct mc_snapshot *snapshot;
	struct mc_remote_buf *rbuf;
	struct list_group g = {.session = e->session, .opcode = e->req.opcode, .sole = e->req.sole};
	uint32_t i;

	lbuf = mc_local_find(list->engine, (const void *)(uintptr_t)e->req.local, e->req.len);
	if (!lbuf)
		return -EFAULT;
	snapshot = mc_session_snapshot(e->session);
	rbuf = snapshot ? mc_req_find_remote(snapshot, &e->req) : NULL;
	g.lbuf_id = lbuf->id;
	if (rbuf)
		g.rbuf_id = rbuf->id;
	mc_local_put(lbuf);
	mc_snapshot_unref(snapshot);
	if (!rbuf) {
		mc_req_denied(e->session, &e->req);
		return -EACCES;
	}
	for (i = list->nr_groups; i > 0; i--)
		if (same_group(&list->groups[i - 1], &g))
			break;
	if (!i) {
		list->groups[list->nr_groups] = g;
		i = ++list->nr_groups;
	}
	e->group = i - 1;
	return 0;
}

void mc_list_free(struct mc_list *list)
{
	if (!list)
		return;
	free(list->entries);
	free(list->groups);
	free(list);
}

int mc_list_new(struct mc_engine *engine, const struct mc_request *reqs, size_t nr,
		struct mc_list **ret_list, size_t *reterr_idx)
{
	struct mc_list *list;
	int r;

	if (!engine || !reqs || !nr || nr > UINT32_MAX || !ret_list)
		return -EINVAL;
	r = mc_engine_check(engine);
	if (r < 0)
		return r;
	r = -ENOMEM;
	list = calloc(1, sizeof *list);
	if (!list)
		return -ENOMEM;
	list->engine = engine;
	list->nr = nr;
	list->entries = calloc(nr, sizeof *list->entries);
	list->groups = calloc(nr, sizeof *list->groups);
	if (!list->entries || !list->groups)
		goto fail;
	for (size_t i = 0; i < nr; i++) {
		struct list_entry *e = &list->entries[i];

		r = mc_req_check(engine, &reqs[i]);
		if (!r) {
			mc_req_fill(&e->req, &reqs[i]);
			e->session = reqs[i].segment->session;
			r = e->req.len ? list_resolve(list, e) : 0;
		}
		if (r < 0) {
			if (reterr_idx)
				*reterr_idx = i;
			goto fail;
		}
	}
	*ret_list = list;
	return 0;
fail:
	mc_list_free(list);
	return r;
}

/* The run under construction holds the two buffers of this group, and they are the ones that the
 * list was checked against: no range needs a look. */
static bool group_matches(const struct mc_run *run, const struct list_group *g,
			  const struct mc_req *req)
{
	return run && run->lbuf->id == g->lbuf_id && run->rbuf->id == g->rbuf_id && run->session == g->session &&
	       run->opcode == g->opcode && run->sole == g->sole && run->first + run->nr == (uint32_t)(req - run->reqs);
}

int mc_batch_submit_list(struct mc_batch *batch, const struct mc_list *list, const uint32_t *idx,
			 size_t nr, size_t *reterr_idx)
{
	struct mc_builder b;
	int r;

	if (!batch || !list || list->engine != batch->engine)
		return -EINVAL;
	r = mc_submit_check(batch, nr, reterr_idx);
	if (r < 0)
		return r;
	for (size_t i = 0; i < nr; i++) {
		if ((idx ? idx[i] : i) < list->nr)
			continue;
		if (reterr_idx)
			*reterr_idx = i;
		return -EINVAL;
	}
	mc_submit_begin(batch, &b);
	for (size_t i = 0; i < nr; i++) {
		const struct list_entry *e = &list->entries[idx ? idx[i] : i];
		struct mc_req *req = &batch->reqs[batch->nr++];

		memcpy(req, &e->req, sizeof *req);
		if (!req->len)
			atomic_store(&req->state, MC_REQUEST_DONE);
		else if (group_matches(b.run, &list->groups[e->group], req))
			mc_run_append(b.run, req);
		else
			mc_build_add(&b, req, e->session);
	}
	mc_submit_end(batch, &b);
	return 0;
}
