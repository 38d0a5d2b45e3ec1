/* SPDX-License-Identifier: Apache-2.0 */
/* Posting requests, and their completions. */
#include "mock.h"

#include <errno.h>
#include <string.h>

static struct mock_cq *cq_of(struct ibv_cq *cq)
{
	return MC_CONTAINER_OF(cq, struct mock_cq, cq);
}

static bool signalled(const struct mock_qp *qp, const struct mock_wqe *wqe)
{
	return qp->all_signalled || wqe->wr.send_flags & IBV_SEND_SIGNALED;
}

/* Request number `at` has ended.  A failed one always completes; what only success fills in then is
 * rubbish. */
void wqe_complete(struct mock_qp *qp, uint32_t at, enum ibv_wc_status status)
{
	const struct mock_wqe *wqe = &qp->sq[at % qp->cap.max_send_wr];
	struct ibv_wc wc = { .wr_id = wqe->wr.wr_id, .status = status, .qp_num = qp->qp.qp_num };

	if (status == IBV_WC_SUCCESS && !signalled(qp, wqe))
		return;
	if (status == IBV_WC_SUCCESS) {
		wc.opcode = wqe->wr.opcode == IBV_WR_RDMA_READ ? IBV_WC_RDMA_READ : IBV_WC_RDMA_WRITE;
		wc.byte_len = (uint32_t)wqe->len;
	} else {
		wc.opcode = (enum ibv_wc_opcode)0x7f;
		wc.byte_len = 0xdeadbeef;
		wc.vendor_err = 0x77;
	}
	cq_push(cq_of(qp->qp.send_cq), &wc, qp, at + 1);
}

void sends_flush(struct mock_qp *qp)
{
	if (dev_fault(qp->ctx->dev, F_NO_FLUSH))
		return;
	for (; qp->sq_done != qp->sq_posted; qp->sq_done++)
		wqe_complete(qp, qp->sq_done, IBV_WC_WR_FLUSH_ERR);
}

void recvs_flush(struct mock_qp *qp)
{
	if (dev_fault(qp->ctx->dev, F_NO_FLUSH))
		return;
	for (; qp->rq_done != qp->rq_posted; qp->rq_done++) {
		struct ibv_wc wc = { .wr_id = qp->rq[qp->rq_done % qp->cap.max_recv_wr],
				     .status = IBV_WC_WR_FLUSH_ERR, .opcode = (enum ibv_wc_opcode)0x7f,
				     .qp_num = qp->qp.qp_num };

		cq_push(cq_of(qp->qp.recv_cq), &wc, NULL, 0);
	}
}

/* 0 or errno; under qp.lock. */
static int take(struct mock_qp *qp, const struct ibv_send_wr *wr, uint64_t now)
{
	struct mock_wqe *wqe = &qp->sq[qp->sq_posted % qp->cap.max_send_wr];
	uint64_t len = 0;

	if (wr->opcode != IBV_WR_RDMA_WRITE && wr->opcode != IBV_WR_RDMA_READ)
		return EINVAL;
	if (wr->num_sge < 0 || wr->num_sge > (int)qp->cap.max_send_sge)
		return EINVAL;
	if (qp->sq_posted - atomic_load(&qp->sq_free) >= qp->cap.max_send_wr)
		return ENOMEM;
	for (int i = 0; i < wr->num_sge; i++)
		len += wr->sg_list[i].length;
	if (wr->send_flags & IBV_SEND_INLINE && (len > qp->cap.max_inline_data || wr->opcode == IBV_WR_RDMA_READ))
		return EINVAL;
	*wqe = (struct mock_wqe){ .wr = *wr, .posted_ns = now, .len = len };
	wqe->wr.next = NULL;
	wqe->wr.sg_list = NULL;
	if (wr->num_sge)
		memcpy(wqe->sges, wr->sg_list, (size_t)wr->num_sge * sizeof wqe->sges[0]);
	if (!(wr->send_flags & IBV_SEND_INLINE))
		return 0;
	wqe->data = qp->inline_data + (qp->sq_posted % qp->cap.max_send_wr) * (qp->cap.max_inline_data + 1);
	len = 0;
	for (int i = 0; i < wr->num_sge; len += wr->sg_list[i++].length)
		memcpy(wqe->data + len, (const void *)(uintptr_t)wr->sg_list[i].addr, wr->sg_list[i].length);
	dev_count(qp->ctx->dev, N_INLINED, 1);
	return 0;
}

int mock_post_send(struct ibv_qp *ibqp, struct ibv_send_wr *wr, struct ibv_send_wr **bad)
{
	struct mock_qp *qp = MC_CONTAINER_OF(ibqp, struct mock_qp, qp);
	uint64_t now = now_ns();
	int r = 0;

	dev_count(qp->ctx->dev, N_POSTS, 1);
	pthread_mutex_lock(&qp->lock);
	if (ibqp->state != IBV_QPS_RTS && ibqp->state != IBV_QPS_ERR)
		r = EINVAL;
	for (; wr && r == 0; wr = wr->next) {
		r = take(qp, wr, now);
		if (r)
			break;
		qp->sq_posted++;
		dev_count(qp->ctx->dev, N_REQUESTS, 1);
		dev_count(qp->ctx->dev, N_SIGNALLED, (wr->send_flags & IBV_SEND_SIGNALED) != 0);
	}
	if (ibqp->state == IBV_QPS_ERR)
		sends_flush(qp);
	pthread_mutex_unlock(&qp->lock);
	if (r)
		*bad = wr;
	if (qp->ctx->dev->set[S_SYNC])
		engine_now(qp);
	else
		host_ring(proc.host);
	return r;
}

int mock_post_recv(struct ibv_qp *ibqp, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad)
{
	struct mock_qp *qp = MC_CONTAINER_OF(ibqp, struct mock_qp, qp);
	int r = 0;

	pthread_mutex_lock(&qp->lock);
	if (ibqp->state == IBV_QPS_RESET)
		r = EINVAL;
	for (; wr && r == 0; wr = wr->next) {
		if (wr->num_sge < 0 || wr->num_sge > (int)qp->cap.max_recv_sge)
			r = EINVAL;
		else if (qp->rq_posted - qp->rq_done >= qp->cap.max_recv_wr)
			r = ENOMEM;
		if (r)
			break;
		qp->rq[qp->rq_posted++ % qp->cap.max_recv_wr] = wr->wr_id;
	}
	if (ibqp->state == IBV_QPS_ERR)
		recvs_flush(qp);
	pthread_mutex_unlock(&qp->lock);
	if (r)
		*bad = wr;
	return r;
}
