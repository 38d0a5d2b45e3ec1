/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device that has gone: everything of it is given back while the engine goes on, for
 * the kernel does not let a deleted interface go before the last context on it is closed.
 *
 * Each lane gives its own part back once its last endpoint is destroyed; the lane that
 * does so last asks lane 0 to deregister what is still registered, and to close the
 * context.  From then on the device's objects are empty shells until the host closes them.
 */
#include <errno.h>
#include <string.h>
#include <utlist.h>

#include "rdma.h"

#define AGAIN_NS (20 * MC_MSEC) /* until the last endpoint is destroyed, the last registration over */

static void look_again(struct rdma *rdma)
{
	rdma->host->timer_set(rdma->host, &rdma->gone_timer, rdma->host->now_ns(rdma->host) + AGAIN_NS);
}

/* ---- regions, [helper] ------------------------------------------------------------------------------- */

int rdma_gone_enter(struct rdma *lane0)
{
	int r = 0;

	pthread_mutex_lock(&lane0->region_lock);
	if (atomic_load(&lane0->gone))
		r = -ENODEV;
	else
		lane0->nr_registering++;
	pthread_mutex_unlock(&lane0->region_lock);
	return r;
}

void rdma_gone_leave(struct rdma *lane0, struct rdma_region *made)
{
	pthread_mutex_lock(&lane0->region_lock);
	lane0->nr_registering--;
	if (made)
		DL_APPEND(lane0->regions, made);
	pthread_mutex_unlock(&lane0->region_lock);
}

void rdma_gone_forget(struct rdma *lane0, struct rdma_region *region)
{
	pthread_mutex_lock(&lane0->region_lock);
	DL_DELETE(lane0->regions, region);
	pthread_mutex_unlock(&lane0->region_lock);
}

/* ---- lane 0: the context ------------------------------------------------------------------------------- */

/* [helper] */
static void context_run(struct mc_work *w)
{
	struct rdma *lane0 = w->user;
	struct rdma_region *region;

	pthread_mutex_lock(&lane0->region_lock);
	if (!lane0->nr_registering) {
		DL_FOREACH(lane0->regions, region)
			rdma_region_drop(lane0, region);
		rdma_context_close(lane0);
	}
	pthread_mutex_unlock(&lane0->region_lock);
}

/* [worker] of lane 0 */
static void context_done(struct mc_work *w)
{
	struct rdma *lane0 = w->user;

	lane0->gone_busy = false;
	if (lane0->ctx)
		look_again(lane0);
}

static void close_context(struct rdma *lane0)
{
	rdma_events_stop(lane0);
	lane0->gone_busy = true;
	lane0->gone_work = (struct mc_work){.size = sizeof lane0->gone_work, .run = context_run, .done = context_done,
					    .user = lane0};
	lane0->host->run_blocking(lane0->host, &lane0->gone_work);
}

/* ---- each lane ------------------------------------------------------------------------------------------- */

/* [helper] */
static void lane_run(struct mc_work *w)
{
	struct rdma *rdma = w->user;

	rdma_cq_free(rdma);
	rdma_scratch_drop(rdma);
}

/* [worker] */
static void lane_done(struct mc_work *w)
{
	struct rdma *rdma = w->user, *lane0 = rdma->lane0;

	rdma->gone_busy = false;
	rdma->gone_over = true;
	if (atomic_fetch_sub(&lane0->nr_holding, 1) == 1)
		lane0->host->post(lane0->host, &lane0->gone_kick);
}

/* [worker] */
static void go_on(struct rdma *rdma)
{
	struct rdma *lane0 = rdma->lane0;

	if (!atomic_load(&lane0->gone) || rdma->gone_busy || rdma->stopped)
		return;
	if (rdma->gone_over) {
		if (rdma == lane0 && rdma->ctx && !atomic_load(&lane0->nr_holding))
			close_context(rdma);
		return;
	}
	if (rdma->eps || rdma->dying || rdma->port_busy || rdma->peers) {
		look_again(rdma);
		return;
	}
	rdma_cq_unwatch(rdma);
	rdma->gone_busy = true;
	rdma->gone_work = (struct mc_work){.size = sizeof rdma->gone_work, .run = lane_run, .done = lane_done,
					   .user = rdma};
	rdma->host->run_blocking(rdma->host, &rdma->gone_work);
}

static void kicked(struct mc_work *w)
{
	go_on(w->user);
}

static void fire(struct mc_timer *t, uint64_t now_ns)
{
	(void)now_ns;
	go_on(t->user);
}

void rdma_gone_open(struct rdma *rdma)
{
	struct rdma *lane0 = rdma->lane0;

	rdma->gone_kick = (struct mc_work){.size = sizeof rdma->gone_kick, .run = kicked, .user = rdma};
	rdma->gone_timer = (struct mc_timer){.size = sizeof rdma->gone_timer, .fire = fire, .user = rdma};
	if (rdma == lane0)
		pthread_mutex_init(&lane0->region_lock, NULL);
	atomic_fetch_add(&lane0->nr_holding, 1);
	pthread_mutex_lock(&lane0->region_lock);
	LL_PREPEND2(lane0->lanes, rdma, next_lane);
	pthread_mutex_unlock(&lane0->region_lock);
}

void rdma_gone_close(struct rdma *rdma)
{
	struct rdma *lane0 = rdma->lane0;

	rdma->host->timer_set(rdma->host, &rdma->gone_timer, 0);
	pthread_mutex_lock(&lane0->region_lock);
	LL_DELETE2(lane0->lanes, rdma, next_lane);
	pthread_mutex_unlock(&lane0->region_lock);
	if (rdma == lane0)
		pthread_mutex_destroy(&lane0->region_lock);
}

/* The host is told besides, and ends the peers. */
void rdma_gone(struct rdma *lane0)
{
	struct rdma *lane;

	pthread_mutex_lock(&lane0->region_lock);
	atomic_store(&lane0->gone, true);
	LL_FOREACH2(lane0->lanes, lane, next_lane)
		lane->host->post(lane->host, &lane->gone_kick);
	pthread_mutex_unlock(&lane0->region_lock);
}
