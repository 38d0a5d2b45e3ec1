/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine: one thread of a process that carries out the requests of all of its queue pairs, in
 * order for each, and tells of faults.  It sleeps on the host's doorbell.
 */
#include "mock.h"

#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define BUDGET 16            /* requests of a queue pair in one turn */
#define LOOK_NS 500000u      /* how often an end that did not answer is asked again */
#define FOREVER UINT64_MAX

/* When a request that nobody answers fails: the timeout, once and for each retry. */
static uint64_t give_up_ns(const struct mock_qp *qp)
{
	if (qp->attr.retry_cnt == 7 || !qp->attr.timeout)
		return FOREVER;
	return (UINT64_C(4096) << qp->attr.timeout) * (qp->attr.retry_cnt + 1u);
}

/* The request at the head has ended so. */
static void head_ended(struct mock_qp *qp, int status)
{
	pthread_mutex_lock(&qp->lock);
	wqe_complete(qp, qp->sq_done, (enum ibv_wc_status)status);
	qp->sq_done++;
	qp->timeout_ns = 0;
	pthread_mutex_unlock(&qp->lock);
	if (status != IBV_WC_SUCCESS)
		qp_error(qp);
}

/* False: the head does not answer, and when to look again is in *wake. */
static bool head_waits(struct mock_qp *qp, uint64_t now, uint64_t *wake)
{
	uint64_t give_up = give_up_ns(qp);

	if (!qp->timeout_ns)
		qp->timeout_ns = give_up == FOREVER ? FOREVER : now + give_up;
	if (now >= qp->timeout_ns) {
		head_ended(qp, IBV_WC_RETRY_EXC_ERR);
		return true;
	}
	*wake = MC_MIN(*wake, MC_MIN(qp->timeout_ns, now + LOOK_NS));
	return false;
}

static struct mock_wqe *head(struct mock_qp *qp)
{
	struct mock_wqe *wqe;

	pthread_mutex_lock(&qp->lock);
	wqe = qp->qp.state == IBV_QPS_RTS && qp->sq_done != qp->sq_posted ?
		      &qp->sq[qp->sq_done % qp->cap.max_send_wr] : NULL;
	pthread_mutex_unlock(&qp->lock);
	return wqe;
}

/* One queue pair, under big.  True: something happened. */
static bool qp_progress(struct mock_qp *qp, uint64_t *wake)
{
	const struct shared_dev *dev = qp->ctx->dev;
	bool moved = false;

	if (atomic_load(&qp->shared->state) == IBV_QPS_ERR && qp->qp.state != IBV_QPS_ERR) {
		qp_error(qp);
		ctx_event(qp->ctx, IBV_EVENT_QP_ACCESS_ERR, &qp->qp);
		moved = true;
	}
	if (dev_fault(dev, F_SILENT) || dev_fault(dev, F_GONE))
		return moved;
	for (int i = 0; i < BUDGET; i++) {
		uint64_t now = now_ns(), due;
		struct mock_wqe *wqe = head(qp);
		int r;

		if (!wqe)
			return moved;
		due = wqe->posted_ns + (uint64_t)atomic_load(&dev->faults[F_DELAY]) * 1000;
		if (now < due) {
			*wake = MC_MIN(*wake, due);
			return moved;
		}
		r = carry(qp, wqe);
		if (r == CARRY_LATER || r == CARRY_BUSY) {
			if (!head_waits(qp, now, wake))
				return moved;
		} else if (r == CARRY_MORE) {
			qp->timeout_ns = 0;
		} else {
			head_ended(qp, r);
		}
		moved = true;
	}
	return moved;
}

void engine_now(struct mock_qp *qp)
{
	uint64_t wake = FOREVER;

	big_lock();
	while (qp_progress(qp, &wake))
		;
	big_unlock();
	if (wake != FOREVER)
		host_ring(proc.host);
}

/* Edges of the device's faults, under big. */
static void look_at_faults(struct mock_ctx *ctx)
{
	int64_t down = atomic_load(&ctx->dev->faults[F_DOWN]), gids = atomic_load(&ctx->dev->faults[F_GID_CHANGE]);
	int64_t gone = atomic_load(&ctx->dev->faults[F_GONE]), fatal = atomic_load(&ctx->dev->faults[F_FATAL]);

	if (down != ctx->seen_down)
		ctx_event(ctx, down ? IBV_EVENT_PORT_ERR : IBV_EVENT_PORT_ACTIVE, NULL);
	if (gids != ctx->seen_gids || (gone && !ctx->seen_gone))
		ctx_event(ctx, IBV_EVENT_GID_CHANGE, NULL);
	if (fatal && !ctx->seen_fatal) {
		for (struct mock_qp *qp = ctx->qps; qp; qp = qp->next)
			qp_error(qp);
		ctx_event(ctx, IBV_EVENT_DEVICE_FATAL, NULL);
	}
	ctx->seen_down = down;
	ctx->seen_gids = gids;
	ctx->seen_gone = gone;
	ctx->seen_fatal = fatal;
}

/* Under big.  False: stopped half way, because somebody waits for big. */
static bool look_at_all(uint32_t turn, bool *moved, uint64_t *wake)
{
	for (struct mock_ctx *ctx = proc.ctxs; ctx; ctx = ctx->next) {
		look_at_faults(ctx);
		for (struct mock_qp *qp = ctx->qps; qp; qp = qp->next) {
			if (qp->turn == turn)
				continue;
			qp->turn = turn;
			*moved |= qp_progress(qp, wake);
			if (atomic_load(&proc.big_waiters))
				return false;
		}
	}
	return true;
}

static void sleep_until(uint32_t seen, uint64_t wake)
{
	uint64_t now = now_ns(), left = wake > now ? wake - now : 0;
	struct timespec t = { .tv_sec = (time_t)(left / 1000000000u), .tv_nsec = (long)(left % 1000000000u) };

	if (left)
		syscall(SYS_futex, &proc.host->doorbell, FUTEX_WAIT, seen, wake == FOREVER ? NULL : &t, NULL, 0);
}

static void *engine(void *arg)
{
	prctl(PR_SET_NAME, "mock-verbs");
	for (uint32_t turn = 1; !atomic_load(&proc.quit); turn++) {
		uint32_t seen = atomic_load(&proc.host->doorbell);
		uint64_t wake = FOREVER;
		bool moved = false, whole = false;

		while (!whole) {
			pthread_mutex_lock(&proc.big);
			whole = look_at_all(turn, &moved, &wake);
			pthread_mutex_unlock(&proc.big);
			for (int i = 0; i < 1000 && atomic_load(&proc.big_waiters); i++)
				sched_yield();
		}
		if (!moved && !atomic_load(&proc.quit))
			sleep_until(seen, wake);
	}
	return NULL;
}

int engine_start(void)
{
	sigset_t all, old;
	int r;

	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
	proc.host = fabric_join(&proc.host_idx);
	if (!proc.host)
		return -1;
	atomic_store(&proc.quit, false);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&proc.engine, NULL, engine, NULL);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r)
		fabric_leave(proc.host);
	return r ? -1 : 0;
}

void engine_stop(void)
{
	atomic_store(&proc.quit, true);
	host_ring(proc.host);
	pthread_join(proc.engine, NULL);
	fabric_leave(proc.host);
	proc.host = NULL;
}
