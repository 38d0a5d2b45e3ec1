/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bench of one plugin, over the fake host: one thread runs both ends, so that
 * plugins can be compared with each other in the same harness.  It is no measure of
 * what a cluster gives; transfer_engine_bench is.
 */
#include "cases.h"

#include <errno.h>
#include <stdlib.h>

#define POINT_TIME (150 * MC_MSEC)
#define DEPTH_MAX 16

const struct bench_point bench_points[BENCH_POINTS] = {
	{"write 4 KiB x 1", MC_OP_WRITE, 4096, 1},
	{"write 64 KiB x 16", MC_OP_WRITE, 65536, 16},
	{"write 1 MiB x 16", MC_OP_WRITE, 1 << 20, 16},
	{"read 4 KiB x 1", MC_OP_READ, 4096, 1},
	{"read 64 KiB x 16", MC_OP_READ, 65536, 16},
	{"read 1 MiB x 16", MC_OP_READ, 1 << 20, 16},
};

struct bench {
	struct pair *p;
	struct bufs *b;
	const struct bench_point *point;
	uint64_t len, until, nr_done;
	struct fake_slice *slices[DEPTH_MAX];
	int failed;
};

/* Count one that is over and send it again; false: it stays in flight or could not be sent. */
static bool again(struct bench *x, unsigned i, bool more)
{
	struct fake_slice *s = x->slices[i];
	int r;

	if (s->state == FAKE_DONE) {
		if (s->status)
			x->failed = s->status;
		x->nr_done++;
		s->state = FAKE_IDLE;
	}
	if (!more || x->failed)
		return false;
	fake_slice_set(s, x->p->peer, x->point->op, x->b->local, i * x->len, x->b->remote,
		       i * x->len, x->len, MC_SLICE_MORE);
	r = fake_submit(s);
	if (r < 0 && r != -EAGAIN)
		x->failed = r;
	return r >= 0;
}

/* Asked once a turn, on the worker: keeps the queue full until the time is over.  Where submit or flush
 * finishes slices itself, the time passes in here. */
static bool turn(void *ctx)
{
	struct bench *x = ctx;
	bool more, sent, done;

	do {
		more = fake_real_ns() < x->until;
		sent = done = false;
		for (unsigned i = 0; i < x->point->depth; i++)
			if (x->slices[i]->state != FAKE_INFLIGHT)
				sent |= again(x, i, more);
		if (sent)
			fake_flush(x->p->a);
		for (unsigned i = 0; i < x->point->depth; i++)
			done |= x->slices[i]->state == FAKE_DONE;
	} while (done && more && !x->failed);
	for (unsigned i = 0; i < x->point->depth; i++)
		if (x->slices[i]->state == FAKE_INFLIGHT)
			return false;
	return !more || x->failed;
}

static int point_run(struct ctx *c, struct pair *p, struct bufs *b, unsigned idx)
{
	struct bench x = {.p = p, .b = b, .point = &bench_points[idx]};
	uint64_t t = fake_real_ns();
	int r;

	x.len = align_up(p, x.point->len < largest(p) ? x.point->len : largest(p));
	x.until = t + POINT_TIME;
	for (unsigned i = 0; i < x.point->depth; i++)
		x.slices[i] = fake_slice_new(p->a);
	r = fake_run_on(p->a, turn, &x, BOUND);
	t = fake_real_ns() - t;
	CHECK(r == 0, "%s: %u slices never complete", x.point->name, p->a->nr_inflight);
	CHECK(!x.failed, "%s: a slice ends with %d", x.point->name, x.failed);
	for (unsigned i = 0; i < x.point->depth; i++)
		fake_slice_free(x.slices[i]);
	CHECK(x.nr_done, "%s: nothing is done in %llu ms", x.point->name,
	      (unsigned long long)(t / MC_MSEC));
	c->told->bench[idx].mbps = (double)x.nr_done * (double)x.len * 1e3 / (double)t;
	c->told->bench[idx].us = (double)t / 1e3 / (double)x.nr_done;
	return PASS;
}

int bench_run(struct ctx *c)
{
	struct pair p;
	struct bufs b;
	int r = pair_open(c, &p, 0, true);

	if (r == PASS)
		r = bufs_open(c, &p, (uint64_t)DEPTH_MAX << 20, NULL, NULL, MC_ACCESS_ALL, &b);
	for (unsigned i = 0; i < BENCH_POINTS && r == PASS; i++) {
		uint32_t way = bench_points[i].op == MC_OP_READ ? MC_CAP_READ : MC_CAP_WRITE;

		if (p.a->caps.flags & way)
			r = point_run(c, &p, &b, i);
	}
	if (r == PASS)
		r = bufs_close(c, &p, &b);
	return r == PASS ? pair_close(c, &p) : r;
}
