/* SPDX-License-Identifier: Apache-2.0 */
/* Completion queues.  One that overruns is broken for good, as with real devices. */
#include "mock.h"

#include <errno.h>
#include <stdlib.h>

static struct mock_cq *mock_cq(struct ibv_cq *cq)
{
	return MC_CONTAINER_OF(cq, struct mock_cq, cq);
}

EXPORT struct ibv_cq *ibv_create_cq(struct ibv_context *context, int cqe, void *cq_context,
				    struct ibv_comp_channel *channel, int comp_vector)
{
	struct mock_ctx *ctx = mock_ctx(context);
	struct mock_cq *cq = NULL;

	if (dev_fault(ctx->dev, F_GONE))
		errno = ENODEV;
	else if (cqe < 1 || cqe > ctx->dev->set[S_MAX_CQE] || comp_vector < 0 ||
		 comp_vector >= context->num_comp_vectors)
		errno = EINVAL;
	else
		cq = calloc(1, sizeof *cq);
	if (cq)
		cq->ring = calloc((size_t)cqe, sizeof *cq->ring);
	if (!cq || !cq->ring) {
		free(cq);
		return NULL;
	}
	cq->cq.context = context;
	cq->cq.channel = channel;
	cq->cq.cq_context = cq_context;
	cq->cq.cqe = cqe;
	cq->size = (unsigned)cqe;
	cq->dev = ctx->dev;
	pthread_mutex_init(&cq->lock, NULL);
	big_lock();
	ctx->nr_cqs++;
	dev_count(ctx->dev, N_CQS, 1);
	if (channel)
		MC_CONTAINER_OF(channel, struct mock_channel, channel)->users++;
	big_unlock();
	return &cq->cq;
}

EXPORT int ibv_destroy_cq(struct ibv_cq *ibcq)
{
	struct mock_cq *cq = mock_cq(ibcq);
	struct mock_ctx *ctx = mock_ctx(ibcq->context);
	struct mock_channel *channel = NULL;

	big_lock();
	if (cq->users) {
		big_unlock();
		return EBUSY;
	}
	ctx->nr_cqs--;
	dev_count(ctx->dev, N_CQS, -1);
	if (ibcq->channel) {
		channel = MC_CONTAINER_OF(ibcq->channel, struct mock_channel, channel);
		channel->users--;
	}
	big_unlock();
	if (channel)
		queue_drop(&channel->queue, ibcq);
	events_forget(ibcq->context, ibcq);
	events_wait(&cq->nr_events, &ibcq->comp_events_completed);
	events_wait(&cq->nr_async, &ibcq->async_events_completed);
	pthread_mutex_destroy(&cq->lock);
	free(cq->ring);
	free(cq);
	return 0;
}

void cq_push(struct mock_cq *cq, const struct ibv_wc *wc, struct mock_qp *qp, uint32_t upto)
{
	bool event = false, overrun = false;

	pthread_mutex_lock(&cq->lock);
	if (cq->nr == cq->size) {
		overrun = !cq->overrun;
		cq->overrun = true;
	} else {
		cq->ring[(cq->first + cq->nr++) % cq->size] = (struct mock_cqe){ *wc, qp, upto };
		event = cq->armed == 1 || (cq->armed && wc->status != IBV_WC_SUCCESS);
		cq->armed = event ? 0 : cq->armed;
	}
	pthread_mutex_unlock(&cq->lock);
	dev_count(cq->dev, N_COMPLETIONS, 1);
	if (event && cq->cq.channel)
		channel_event(cq);
	if (overrun)
		ctx_event(mock_ctx(cq->cq.context), IBV_EVENT_CQ_ERR, &cq->cq);
}

/* The queue pair is about to be freed; its completions stay. */
void cq_forget(struct mock_cq *cq, const struct mock_qp *qp)
{
	pthread_mutex_lock(&cq->lock);
	for (unsigned i = 0; i < cq->nr; i++) {
		struct mock_cqe *e = &cq->ring[(cq->first + i) % cq->size];

		if (e->qp == qp)
			e->qp = NULL;
	}
	pthread_mutex_unlock(&cq->lock);
}

int mock_poll_cq(struct ibv_cq *ibcq, int nr, struct ibv_wc *wc)
{
	struct mock_cq *cq = mock_cq(ibcq);
	int n;

	dev_count(cq->dev, N_POLLS, 1);
	pthread_mutex_lock(&cq->lock);
	for (n = 0; n < nr && cq->nr; n++, cq->nr--) {
		struct mock_cqe *e = &cq->ring[cq->first];

		wc[n] = e->wc;
		if (e->qp)
			atomic_store(&e->qp->sq_free, e->upto);
		cq->first = (cq->first + 1) % cq->size;
	}
	if (cq->overrun && !n)
		n = -EIO;
	pthread_mutex_unlock(&cq->lock);
	return n;
}

int mock_req_notify_cq(struct ibv_cq *ibcq, int solicited_only)
{
	struct mock_cq *cq = mock_cq(ibcq);

	pthread_mutex_lock(&cq->lock);
	if (cq->armed != 1)
		cq->armed = solicited_only ? 2 : 1;
	pthread_mutex_unlock(&cq->lock);
	return 0;
}
