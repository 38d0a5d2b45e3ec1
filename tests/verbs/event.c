/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asynchronous and completion events.  A descriptor that counts (eventfd as a semaphore) stands for
 * the queue, so programs may poll it and make it non-blocking, as they do with the real ones.
 */
#include "mock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

int queue_init(struct event_queue *q)
{
	q->fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
	return q->fd < 0 ? -1 : 0;
}

void queue_fini(struct event_queue *q)
{
	close(q->fd);
}

/* The descriptor's count is the queue's length, except while an element that is gone leaves gaps. */
void queue_put(struct event_queue *q, const struct ibv_async_event *e)
{
	uint64_t one = 1;

	pthread_mutex_lock(&proc.events);
	if (q->nr < MC_ARRAY_SIZE(q->events)) {
		q->events[(q->first + q->nr++) % MC_ARRAY_SIZE(q->events)].event = *e;
		if (write(q->fd, &one, sizeof one) != sizeof one)
			abort();
	}
	pthread_mutex_unlock(&proc.events);
}

void queue_drop(struct event_queue *q, const void *element)
{
	pthread_mutex_lock(&proc.events);
	for (unsigned i = 0; i < q->nr; i++) {
		struct ibv_async_event *e = &q->events[(q->first + i) % MC_ARRAY_SIZE(q->events)].event;

		if (e->event_type != IBV_EVENT_PORT_ACTIVE && e->event_type != IBV_EVENT_PORT_ERR &&
		    e->event_type != IBV_EVENT_GID_CHANGE && (const void *)e->element.qp == element)
			e->element.qp = NULL;
	}
	pthread_mutex_unlock(&proc.events);
}

/* Under events.  Counts what the program has to acknowledge. */
static void taken(const struct ibv_async_event *e)
{
	if (e->event_type == IBV_EVENT_CQ_ERR)
		MC_CONTAINER_OF(e->element.cq, struct mock_cq, cq)->nr_async++;
	else if (e->event_type == IBV_EVENT_QP_ACCESS_ERR || e->event_type == IBV_EVENT_QP_FATAL)
		MC_CONTAINER_OF(e->element.qp, struct mock_qp, qp)->nr_async++;
}

/* One event; 0 or -1 with errno.  Blocks if the descriptor does. */
static int queue_get(struct event_queue *q, struct ibv_async_event *ret, unsigned *(*count)(struct ibv_cq *cq))
{
	uint64_t n;

	for (;;) {
		if (read(q->fd, &n, sizeof n) != sizeof n)
			return -1;
		pthread_mutex_lock(&proc.events);
		*ret = q->events[q->first].event;
		q->first = (q->first + 1) % MC_ARRAY_SIZE(q->events);
		q->nr--;
		if (ret->element.qp && count)
			(*count(ret->element.cq))++;
		else if (ret->element.qp)
			taken(ret);
		pthread_mutex_unlock(&proc.events);
		if (ret->element.qp || ret->event_type == IBV_EVENT_DEVICE_FATAL)
			return 0;
	}
}

void ctx_event(struct mock_ctx *ctx, enum ibv_event_type type, void *element)
{
	struct ibv_async_event e = { .event_type = type };

	if (element)
		e.element.qp = element;
	else if (type != IBV_EVENT_DEVICE_FATAL)
		e.element.port_num = 1;
	dev_count(ctx->dev, N_EVENTS, 1);
	queue_put(&ctx->async, &e);
}

void channel_event(struct mock_cq *cq)
{
	struct ibv_async_event e = { .element.cq = &cq->cq, .event_type = IBV_EVENT_SQ_DRAINED };

	queue_put(&MC_CONTAINER_OF(cq->cq.channel, struct mock_channel, channel)->queue, &e);
}

void events_forget(struct ibv_context *ctx, const void *element)
{
	queue_drop(&mock_ctx(ctx)->async, element);
}

/* Until all that the program has got is acknowledged, as the real library waits. */
void events_wait(const unsigned *got, const uint32_t *acked)
{
	for (;;) {
		bool over;

		pthread_mutex_lock(&proc.events);
		over = *got == *acked;
		pthread_mutex_unlock(&proc.events);
		if (over)
			return;
		usleep(200);
	}
}

EXPORT int ibv_get_async_event(struct ibv_context *context, struct ibv_async_event *event)
{
	return queue_get(&mock_ctx(context)->async, event, NULL);
}

EXPORT void ibv_ack_async_event(struct ibv_async_event *event)
{
	pthread_mutex_lock(&proc.events);
	if (event->event_type == IBV_EVENT_CQ_ERR)
		event->element.cq->async_events_completed++;
	else if (event->event_type == IBV_EVENT_QP_ACCESS_ERR || event->event_type == IBV_EVENT_QP_FATAL)
		event->element.qp->events_completed++;
	pthread_mutex_unlock(&proc.events);
}

/* ---- completion channels ----------------------------------------------------------------------------- */

EXPORT struct ibv_comp_channel *ibv_create_comp_channel(struct ibv_context *context)
{
	struct mock_ctx *ctx = mock_ctx(context);
	struct mock_channel *c;

	if (dev_fault(ctx->dev, F_GONE)) {
		errno = ENODEV;
		return NULL;
	}
	c = calloc(1, sizeof *c);
	if (!c || queue_init(&c->queue) < 0) {
		free(c);
		return NULL;
	}
	c->channel.context = context;
	c->channel.fd = c->queue.fd;
	big_lock();
	ctx->nr_channels++;
	big_unlock();
	return &c->channel;
}

EXPORT int ibv_destroy_comp_channel(struct ibv_comp_channel *channel)
{
	struct mock_channel *c = MC_CONTAINER_OF(channel, struct mock_channel, channel);

	big_lock();
	if (c->users) {
		big_unlock();
		return EBUSY;
	}
	mock_ctx(channel->context)->nr_channels--;
	big_unlock();
	queue_fini(&c->queue);
	free(c);
	return 0;
}

static unsigned *cq_got(struct ibv_cq *cq)
{
	return &MC_CONTAINER_OF(cq, struct mock_cq, cq)->nr_events;
}

EXPORT int ibv_get_cq_event(struct ibv_comp_channel *channel, struct ibv_cq **cq, void **cq_context)
{
	struct mock_channel *c = MC_CONTAINER_OF(channel, struct mock_channel, channel);
	struct ibv_async_event e;

	if (queue_get(&c->queue, &e, cq_got) < 0)
		return -1;
	*cq = e.element.cq;
	*cq_context = e.element.cq->cq_context;
	return 0;
}

EXPORT void ibv_ack_cq_events(struct ibv_cq *cq, unsigned int nevents)
{
	pthread_mutex_lock(&proc.events);
	cq->comp_events_completed += nevents;
	pthread_mutex_unlock(&proc.events);
}
