/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --check of a job: every batch is verified.  What each place of each target
 * holds follows from a seed per place: that of the target's filling, or of the
 * batch that wrote it last.  Written: read back into other memory and compared.
 * Read: the local bytes are spoilt before and compared after.  Meanwhile the
 * thread's clock stands still.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "job_impl.h"
#include "pattern.h"

#include <core/util/check.h>

static uint64_t thread_cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * MC_SEC + (uint64_t)ts.tv_nsec;
}

static uint64_t *place_seed(struct job_thread *t, const struct bench_entry *e)
{
	return &t->place_seeds[e->peer * t->nr_places + e->place];
}

/* New bytes to write; and none that are right where others are read to. */
static void prepare(struct job_thread *t, struct flight *f)
{
	t->write_seed = bench_mix(t->write_seed);
	for (size_t i = 0; i < f->part.nr; i++) {
		const struct bench_entry *e = &f->entries[i];

		if (e->read)
			memset(f->local + e->local, 0xa5, e->len);
		else
			bench_pattern_fill(f->local + e->local, e->len, t->write_seed, e->offset);
	}
}

static int check_entry(struct job_thread *t, const struct bench_entry *e, const uint8_t *mem)
{
	size_t right = bench_pattern_check(mem, e->len, *place_seed(t, e), e->offset);

	if (right == e->len)
		return 0;
	t->bad = t->base[e->peer] + e->offset + right;
	return mc_fail(&t->err, -EBADMSG,
		       "check: byte %zu of %" PRIu64 " at offset 0x%" PRIx64
		       " of segment '%s' is wrong (thread %" PRIu64 ", %s)",
		       right, e->len, t->base[e->peer] + e->offset,
		       mc_segment_name(t->load->args.peers[e->peer].segment), t->idx,
		       e->read ? "read" : "read back after the write");
}

/* Read what was written to one target into other memory. */
static int read_back(struct job_thread *t, struct flight *f, uint32_t peer)
{
	size_t nr = 0, bad = 0;
	int r = mc_batch_reset(f->batch);

	for (size_t i = 0; i < f->part.nr; i++) {
		const struct bench_entry *e = &f->entries[i];

		if (e->read || e->peer != peer)
			continue;
		memset(t->scratch + e->local, 0xa5, e->len);
		t->back[nr] = f->reqs[i];
		t->back[nr].opcode = MC_OP_READ;
		t->back[nr++].local = t->scratch + e->local;
	}
	if (r < 0 || !nr)
		return r;
	r = mc_batch_submit(f->batch, t->back, nr, &bad);
	if (r < 0)
		return mc_fail(&t->err, r, "check: reading back was not accepted: %s", strerror(-r));
	r = job_batch_wait(t, f->batch, UINT64_MAX);
	if (r == 0 && mc_batch_failed(f->batch))
		r = mc_fail(&t->err, -EIO, "check: reading back from segment '%s' failed",
			    mc_segment_name(t->load->args.peers[peer].segment));
	for (size_t i = 0; r == 0 && i < f->part.nr; i++) {
		const struct bench_entry *e = &f->entries[i];

		if (!e->read && e->peer == peer)
			r = check_entry(t, e, t->scratch + e->local);
	}
	return r;
}

static int finish(struct job_thread *t, struct flight *f)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < f->part.nr; i++) {
		const struct bench_entry *e = &f->entries[i];

		if (e->read)
			r = check_entry(t, e, f->local + e->local);
		else
			*place_seed(t, e) = t->write_seed;
	}
	for (uint32_t p = 0; r == 0 && p < t->load->args.nr_peers; p++)
		r = read_back(t, f, p);
	t->checked += r == 0;
	return r;
}

void job_check_prepare(struct job_thread *t, struct flight *f)
{
	uint64_t begin = bench_now_ns(), cpu = thread_cpu_ns();

	prepare(t, f);
	t->check_cpu_ns += thread_cpu_ns() - cpu;
	t->shift_ns += bench_now_ns() - begin;
}

int job_check_finish(struct job_thread *t, struct flight *f)
{
	uint64_t begin = bench_now_ns(), cpu = thread_cpu_ns();
	int r = finish(t, f);

	if (r == 0)
		r = mc_batch_reset(f->batch);
	t->check_cpu_ns += thread_cpu_ns() - cpu;
	t->shift_ns += bench_now_ns() - begin;
	return r;
}

/* ---- the targets' half -------------------------------------------------------------------------
 */

/* A question is answered in time if it is about no more than this. */
#define ASK_BYTES (UINT64_C(256) << 20)
#define ASK_ENTRIES (UINT64_C(1) << 20)

/* Offset of a place of a thread's region, and its size. */
static uint64_t place_offset(const struct job_thread *t, uint64_t place, uint64_t *ret_size)
{
	const struct bench_layout *l = &t->draw.layout;
	const struct bench_class *c = l->classes;

	while (place >= c->first + c->nr)
		c++;
	*ret_size = c->size;
	return c->offset + (place - c->first) * c->size;
}

static int fill_class(const struct job_thread *t, uint32_t peer, const struct bench_class *c,
		      bench_job_entries_fn *each, void *ctx)
{
	uint64_t step = MC_MAX(UINT64_C(1), MC_MIN(ASK_ENTRIES, ASK_BYTES / c->size));
	int r = 0;

	for (uint64_t i = 0; r == 0 && i < c->nr; i += step) {
		struct bench_entries e = {
			.base = t->base[peer],
			.first = c->offset + i * c->size,
			.step = c->size,
			.nr = MC_MIN(step, c->nr - i),
			.block = c->size,
			.seed = t->fill_seed,
		};

		r = each(ctx, peer, &e);
	}
	return r;
}

int bench_job_fill_each(const struct bench_job_load *load, bench_job_entries_fn *each, void *ctx)
{
	int r = 0;

	for (uint64_t i = 0; i < load->team.nr; i++) {
		const struct job_thread *t = &load->threads[i];

		for (uint32_t p = 0; r == 0 && p < load->args.nr_peers; p++) {
			for (size_t c = 0; r == 0 && c < t->draw.layout.nr; c++)
				r = fill_class(t, p, &t->draw.layout.classes[c], each, ctx);
		}
	}
	return r;
}

/* Every so many of the places that were written. */
static int written_of(const struct job_thread *t, uint32_t peer, bench_job_entries_fn *each, void *ctx)
{
	const uint64_t *seeds = t->place_seeds + peer * t->nr_places;
	uint64_t nr = 0, step, seen = 0;
	int r = 0;

	for (uint64_t i = 0; i < t->nr_places; i++)
		nr += seeds[i] != t->fill_seed;
	step = MC_MAX(UINT64_C(1), (nr + BENCH_JOB_SAMPLES - 1) / BENCH_JOB_SAMPLES);
	for (uint64_t i = 0; r == 0 && i < t->nr_places; i++) {
		struct bench_entries e = {.base = t->base[peer], .nr = 1, .seed = seeds[i]};

		if (seeds[i] == t->fill_seed || seen++ % step)
			continue;
		e.first = place_offset(t, i, &e.block);
		r = each(ctx, peer, &e);
	}
	return r;
}

int bench_job_written_each(const struct bench_job_load *load, bench_job_entries_fn *each, void *ctx)
{
	int r = 0;

	for (uint64_t i = 0; i < load->team.nr; i++) {
		for (uint32_t p = 0; r == 0 && p < load->args.nr_peers; p++)
			r = written_of(&load->threads[i], p, each, ctx);
	}
	return r;
}
