/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Queue pairs of type RC.  Changes of state need the attributes that the InfiniBand specification
 * asks for (table "QP state transition properties"); what is missing or too much is EINVAL.
 */
#include "mock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct mock_qp *mock_qp(struct ibv_qp *qp)
{
	return MC_CONTAINER_OF(qp, struct mock_qp, qp);
}

static struct mock_cq *cq_of(struct ibv_cq *cq)
{
	return MC_CONTAINER_OF(cq, struct mock_cq, cq);
}

/* ---- making and destroying ---------------------------------------------------------------------------- */

static int refuse(const struct shared_dev *dev, const struct ibv_qp_init_attr *init)
{
	const struct ibv_qp_cap *cap = &init->cap;

	if (dev_fault(dev, F_GONE))
		return ENODEV;
	if (dev_fault(dev, F_QP_ERRNO))
		return (int)atomic_load(&dev->faults[F_QP_ERRNO]);
	if (init->qp_type != IBV_QPT_RC || !init->send_cq || !init->recv_cq || init->srq)
		return EINVAL;
	if (cap->max_send_wr > dev->set[S_MAX_WR] || cap->max_recv_wr > dev->set[S_MAX_WR] ||
	    cap->max_send_sge > dev->set[S_MAX_SGE] || cap->max_recv_sge > dev->set[S_MAX_SGE] ||
	    cap->max_inline_data > dev->set[S_INLINE] || cap->max_inline_data > INLINE_MAX)
		return EINVAL;
	return atomic_load(&dev->stats[N_QPS]) >= dev->set[S_MAX_QP] ? ENOMEM : 0;
}

/* Under big and the host's lock. */
static struct shared_qp *publish(struct host *host, uint32_t dev, uint32_t pd)
{
	for (uint32_t i = 0; i < QPS; i++) {
		uint32_t at = (host->next_qp + i) % QPS, generation;
		struct shared_qp *qp = &host->qps[at];

		if (qp->number)
			continue;
		generation = qp->generation % 63 + 1;
		memset(qp, 0, sizeof *qp);
		qp->generation = generation;
		qp->number = proc.host_idx << 18 | generation << 12 | at;
		qp->dev = dev;
		qp->pd = pd;
		host->next_qp = at + 1;
		return qp;
	}
	return NULL;
}

static void qp_free(struct mock_qp *qp)
{
	if (!qp)
		return;
	free(qp->sq);
	free(qp->rq);
	free(qp->inline_data);
	free(qp);
}

static struct mock_qp *qp_alloc(const struct ibv_qp_init_attr *init)
{
	struct mock_qp *qp = calloc(1, sizeof *qp);

	if (!qp)
		return NULL;
	qp->cap = init->cap;
	qp->sq = calloc(init->cap.max_send_wr + 1, sizeof *qp->sq);
	qp->rq = calloc(init->cap.max_recv_wr + 1, sizeof *qp->rq);
	qp->inline_data = calloc(init->cap.max_send_wr + 1, init->cap.max_inline_data + 1);
	if (!qp->sq || !qp->rq || !qp->inline_data) {
		qp_free(qp);
		return NULL;
	}
	pthread_mutex_init(&qp->lock, NULL);
	qp->all_signalled = init->sq_sig_all;
	return qp;
}

/* Under big. */
static void qp_join(struct mock_qp *qp, struct mock_ctx *ctx, int add)
{
	ctx->nr_qps += (unsigned)add;
	dev_count(ctx->dev, N_QPS, add);
	cq_of(qp->qp.send_cq)->users += (unsigned)add;
	cq_of(qp->qp.recv_cq)->users += (unsigned)add;
	MC_CONTAINER_OF(qp->qp.pd, struct mock_pd, pd)->users += (unsigned)add;
}

EXPORT struct ibv_qp *ibv_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *init)
{
	struct mock_ctx *ctx = mock_ctx(pd->context);
	struct mock_qp *qp;

	errno = refuse(ctx->dev, init);
	qp = errno ? NULL : qp_alloc(init);
	if (!qp)
		return NULL;
	qp->ctx = ctx;
	qp->qp = (struct ibv_qp){ .context = pd->context, .qp_context = init->qp_context, .pd = pd,
				  .send_cq = init->send_cq, .recv_cq = init->recv_cq,
				  .state = IBV_QPS_RESET, .qp_type = IBV_QPT_RC };
	big_lock();
	shared_lock(&proc.host->lock);
	qp->shared = publish(proc.host, (uint32_t)(ctx->dev - fabric_get()->devs), pd->handle);
	pthread_mutex_unlock(&proc.host->lock);
	if (qp->shared) {
		qp->qp.qp_num = qp->shared->number;
		qp->qp.handle = qp->qp.qp_num;
		qp_join(qp, ctx, 1);
		qp->next = ctx->qps;
		ctx->qps = qp;
	}
	big_unlock();
	if (!qp->shared) {
		qp_free(qp);
		errno = ENOMEM;
		return NULL;
	}
	return &qp->qp;
}

EXPORT int ibv_destroy_qp(struct ibv_qp *ibqp)
{
	struct mock_qp *qp = mock_qp(ibqp), **at;
	int64_t slow_ms = atomic_load(&qp->ctx->dev->faults[F_SLOW_DESTROY]);

	if (slow_ms)
		usleep((useconds_t)slow_ms * 1000);
	big_lock();
	shared_lock(&proc.host->lock);
	qp->shared->number = 0;
	atomic_store(&qp->shared->state, IBV_QPS_RESET);
	pthread_mutex_unlock(&proc.host->lock);
	for (at = &qp->ctx->qps; *at != qp; at = &(*at)->next)
		;
	*at = qp->next;
	cq_forget(cq_of(ibqp->send_cq), qp);
	qp_join(qp, qp->ctx, -1);
	big_unlock();
	events_forget(ibqp->context, ibqp);
	events_wait(&qp->nr_async, &ibqp->events_completed);
	pthread_mutex_destroy(&qp->lock);
	qp_free(qp);
	return 0;
}

/* ---- states ------------------------------------------------------------------------------------------------ */

static void set_state(struct mock_qp *qp, enum ibv_qp_state state)
{
	shared_lock(&proc.host->lock);
	atomic_store(&qp->shared->state, state);
	pthread_mutex_unlock(&proc.host->lock);
	pthread_mutex_lock(&qp->lock);
	qp->qp.state = state;
	qp->timeout_ns = 0;
	if (state == IBV_QPS_ERR) {
		sends_flush(qp);
		recvs_flush(qp);
	} else if (state == IBV_QPS_RESET) {
		qp->sq_done = qp->sq_posted;
		atomic_store(&qp->sq_free, qp->sq_posted);
		qp->rq_done = qp->rq_posted;
	}
	pthread_mutex_unlock(&qp->lock);
}

void qp_error(struct mock_qp *qp)
{
	set_state(qp, IBV_QPS_ERR);
}

/* What a step from one state to another must name, and what it may. */
static const struct transition {
	enum ibv_qp_state from, to;
	int must, may;
} transitions[] = {
	{ IBV_QPS_RESET, IBV_QPS_INIT, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS, 0 },
	{ IBV_QPS_INIT, IBV_QPS_INIT, 0, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS },
	{ IBV_QPS_INIT, IBV_QPS_RTR,
	  IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC |
		  IBV_QP_MIN_RNR_TIMER,
	  IBV_QP_ALT_PATH | IBV_QP_ACCESS_FLAGS | IBV_QP_PKEY_INDEX },
	{ IBV_QPS_RTR, IBV_QPS_RTS,
	  IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC,
	  IBV_QP_CUR_STATE | IBV_QP_ALT_PATH | IBV_QP_ACCESS_FLAGS | IBV_QP_MIN_RNR_TIMER },
	{ IBV_QPS_RTS, IBV_QPS_RTS, 0, IBV_QP_CUR_STATE | IBV_QP_ACCESS_FLAGS | IBV_QP_MIN_RNR_TIMER },
};

static bool step_ok(enum ibv_qp_state from, enum ibv_qp_state to, int mask)
{
	mask &= ~IBV_QP_STATE;
	if (to == IBV_QPS_ERR || to == IBV_QPS_RESET)
		return !(mask & ~IBV_QP_CUR_STATE);
	for (size_t i = 0; i < MC_ARRAY_SIZE(transitions); i++) {
		const struct transition *t = &transitions[i];

		if (t->from == from && t->to == to)
			return (mask & t->must) == t->must && !(mask & ~(t->must | t->may));
	}
	return false;
}

static bool path_ok(const struct shared_dev *dev, const struct ibv_ah_attr *ah)
{
	if (ah->port_num != 1 || ah->sl > 15)
		return false;
	if (!ah->is_global)
		return dev->infiniband && ah->dlid;
	return ah->grh.sgid_index < dev->nr_gids && ah->grh.hop_limit &&
	       (ah->dlid || !dev->infiniband);
}

static bool values_ok(const struct mock_qp *qp, const struct ibv_qp_attr *a, int mask)
{
	const struct shared_dev *dev = qp->ctx->dev;
	const unsigned rights = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ |
				IBV_ACCESS_REMOTE_ATOMIC;

	if (mask & IBV_QP_PORT && a->port_num != 1)
		return false;
	if (mask & IBV_QP_PKEY_INDEX && a->pkey_index != 0)
		return false;
	if (mask & IBV_QP_ACCESS_FLAGS && a->qp_access_flags & ~rights)
		return false;
	if (mask & IBV_QP_PATH_MTU &&
	    (a->path_mtu < IBV_MTU_256 || a->path_mtu > IBV_MTU_4096 || 128 << a->path_mtu > dev->set[S_MTU]))
		return false;
	if (mask & IBV_QP_DEST_QPN && a->dest_qp_num > 0xffffff)
		return false;
	if ((mask & IBV_QP_RQ_PSN && a->rq_psn > 0xffffff) || (mask & IBV_QP_SQ_PSN && a->sq_psn > 0xffffff))
		return false;
	if (mask & IBV_QP_MAX_QP_RD_ATOMIC && a->max_rd_atomic > dev->set[S_RD_ATOMIC])
		return false;
	if (mask & IBV_QP_MAX_DEST_RD_ATOMIC && a->max_dest_rd_atomic > dev->set[S_RD_ATOMIC])
		return false;
	if (mask & IBV_QP_TIMEOUT && a->timeout > 31)
		return false;
	if ((mask & IBV_QP_RETRY_CNT && a->retry_cnt > 7) || (mask & IBV_QP_RNR_RETRY && a->rnr_retry > 7))
		return false;
	if (mask & IBV_QP_MIN_RNR_TIMER && a->min_rnr_timer > 31)
		return false;
	return !(mask & IBV_QP_AV) || path_ok(dev, &a->ah_attr);
}

/* Under big: what was said, here and where others see it. */
static void take_values(struct mock_qp *qp, const struct ibv_qp_attr *a, int mask)
{
	struct shared_qp *s = qp->shared;

	shared_lock(&proc.host->lock);
	if (mask & IBV_QP_ACCESS_FLAGS)
		s->access = qp->attr.qp_access_flags = a->qp_access_flags;
	if (mask & IBV_QP_PATH_MTU) {
		qp->attr.path_mtu = a->path_mtu;
		s->mtu = 128u << a->path_mtu;
	}
	if (mask & IBV_QP_DEST_QPN)
		s->dest = qp->attr.dest_qp_num = a->dest_qp_num;
	if (mask & IBV_QP_RQ_PSN)
		s->rq_psn = qp->attr.rq_psn = a->rq_psn;
	if (mask & IBV_QP_SQ_PSN)
		s->sq_psn = qp->attr.sq_psn = a->sq_psn;
	if (mask & IBV_QP_MAX_DEST_RD_ATOMIC)
		s->max_dest_reads = qp->attr.max_dest_rd_atomic = a->max_dest_rd_atomic;
	pthread_mutex_unlock(&proc.host->lock);
	if (mask & IBV_QP_PORT)
		qp->attr.port_num = a->port_num;
	if (mask & IBV_QP_AV)
		qp->attr.ah_attr = a->ah_attr;
	if (mask & IBV_QP_TIMEOUT)
		qp->attr.timeout = a->timeout;
	if (mask & IBV_QP_RETRY_CNT)
		qp->attr.retry_cnt = a->retry_cnt;
	if (mask & IBV_QP_RNR_RETRY)
		qp->attr.rnr_retry = a->rnr_retry;
	if (mask & IBV_QP_MIN_RNR_TIMER)
		qp->attr.min_rnr_timer = a->min_rnr_timer;
	if (mask & IBV_QP_MAX_QP_RD_ATOMIC)
		qp->attr.max_rd_atomic = a->max_rd_atomic;
}

EXPORT int ibv_modify_qp(struct ibv_qp *ibqp, struct ibv_qp_attr *attr, int mask)
{
	struct mock_qp *qp = mock_qp(ibqp);
	enum ibv_qp_state to;
	int r = 0;

	if (dev_fault(qp->ctx->dev, F_GONE))
		return ENODEV;
	big_lock();
	to = mask & IBV_QP_STATE ? attr->qp_state : ibqp->state;
	if ((mask & IBV_QP_CUR_STATE && attr->cur_qp_state != ibqp->state) ||
	    !step_ok(ibqp->state, to, mask) || !values_ok(qp, attr, mask)) {
		r = EINVAL;
	} else {
		take_values(qp, attr, mask);
		set_state(qp, to);
	}
	big_unlock();
	host_ring(proc.host);
	return r;
}

EXPORT int ibv_query_qp(struct ibv_qp *ibqp, struct ibv_qp_attr *attr, int mask, struct ibv_qp_init_attr *init)
{
	struct mock_qp *qp = mock_qp(ibqp);

	if (dev_fault(qp->ctx->dev, F_GONE))
		return ENODEV;
	big_lock();
	*attr = qp->attr;
	attr->qp_state = attr->cur_qp_state = ibqp->state;
	attr->cap = qp->cap;
	if (init)
		*init = (struct ibv_qp_init_attr){ .qp_context = ibqp->qp_context, .send_cq = ibqp->send_cq,
						   .recv_cq = ibqp->recv_cq, .cap = qp->cap,
						   .qp_type = IBV_QPT_RC, .sq_sig_all = qp->all_signalled };
	big_unlock();
	return 0;
}
