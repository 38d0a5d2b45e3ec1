/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The dice of a job: which size, which place, read or write, which target, and
 * when.  Everything follows from the seed.
 */
#include "job_draw.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include <core/util/check.h>

#include "pattern.h"

/* ---- random numbers ----------------------------------------------------------------------------
 */

uint64_t bench_rng_next(struct bench_rng *rng)
{
	rng->state += UINT64_C(0x9e3779b97f4a7c15);
	return bench_mix(rng->state);
}

double bench_rng_unit(struct bench_rng *rng)
{
	return (double)(bench_rng_next(rng) >> 11) * 0x1p-53;
}

/* The product's upper half: a bias below nr / 2^64. */
uint64_t bench_rng_below(struct bench_rng *rng, uint64_t nr)
{
	return (uint64_t)((unsigned __int128)bench_rng_next(rng) * nr >> 64);
}

/*
 * Rejection-inversion (Hörmann, Derflinger 1996: "Rejection-inversion to generate variates from
 * monotone discrete distributions"): constant time and no table, whatever nr is.  The integral of
 * x^-s is written by log1p and expm1, so that s near 1 loses no digits.
 */
static double log1p_by_x(double x)
{
	return fabs(x) > 1e-8 ? log1p(x) / x : 1 - x * (0.5 - x * (1.0 / 3));
}

static double expm1_by_x(double x)
{
	return fabs(x) > 1e-8 ? expm1(x) / x : 1 + x * 0.5 * (1 + x * (1.0 / 3));
}

static double integral(double s, double x)
{
	double l = log(x);

	return expm1_by_x((1 - s) * l) * l;
}

static double integral_inverse(double s, double y)
{
	double t = MC_MAX(y * (1 - s), -1.0);

	return exp(log1p_by_x(t) * y);
}

void bench_zipf_init(struct bench_zipf *z, uint64_t nr, double exponent)
{
	*z = (struct bench_zipf){
		.nr = nr,
		.exponent = exponent,
		.first = integral(exponent, 1.5) - 1,
		.last = integral(exponent, (double)nr + 0.5),
		.cut = 2 - integral_inverse(exponent, integral(exponent, 2.5) - pow(2, -exponent)),
	};
}

uint64_t bench_zipf_draw(const struct bench_zipf *z, struct bench_rng *rng)
{
	for (;;) {
		double u = z->last + bench_rng_unit(rng) * (z->first - z->last);
		double x = integral_inverse(z->exponent, u), k = floor(x + 0.5);

		k = k < 1 ? 1 : k > (double)z->nr ? (double)z->nr : k;
		if (k - x <= z->cut || u >= integral(z->exponent, k + 0.5) - pow(k, -z->exponent))
			return (uint64_t)k - 1;
	}
}

/* ---- places ------------------------------------------------------------------------------------
 */

int bench_layout_init(struct bench_layout *layout, const struct bench_job *job, uint64_t bytes,
		      struct mc_error *err)
{
	double shares = 0, weight = 0;

	*layout = (struct bench_layout){.nr = job->nr_blocks};
	for (size_t i = 0; i < job->nr_blocks; i++) {
		shares += job->blocks[i].share;
		weight += job->blocks[i].share * (double)job->blocks[i].size;
	}
	for (size_t i = 0; i < layout->nr; i++) {
		struct bench_class *c = &layout->classes[i];
		double places = (double)bytes * job->blocks[i].share / weight;

		c->size = job->blocks[i].size;
		/* A double has 53 bits: it must not round up beyond the region. */
		c->nr = layout->nr == 1 ? bytes / c->size : (uint64_t)(places * (1 - 1e-12));
		c->nr = MC_MAX(c->nr, UINT64_C(1));
		c->first = layout->nr_places;
		c->offset = layout->bytes;
		c->until = (i ? layout->classes[i - 1].until : 0) + job->blocks[i].share / shares;
		layout->nr_places += c->nr;
		layout->bytes += c->nr * c->size;
	}
	layout->classes[layout->nr - 1].until = 1;
	if (layout->bytes > bytes)
		return mc_fail(err, -EINVAL,
			       "job '%s': a footprint of %" PRIu64 " bytes for each of %" PRIu64
			       " threads holds no block of each size; use a larger --footprint, or fewer threads",
			       job->name, bytes, job->threads);
	return 0;
}

/* ---- when --------------------------------------------------------------------------------------
 */

void bench_pace_init(struct bench_pace *pace, const struct bench_job *job, uint64_t idx, uint64_t nr,
		     uint64_t start_ns)
{
	double rate = job->bytes_per_s > 0 ? job->bytes_per_s : job->requests_per_s;

	*pace = (struct bench_pace){.start_ns = start_ns};
	if (!(rate > 0))
		return;
	pace->ns_per_unit = 1e9 / rate * (double)nr;
	/* Threads take turns.  By bytes they start together: how large a request is, is not known. */
	if (!(job->bytes_per_s > 0))
		pace->start_ns += (uint64_t)(1e9 / rate * (double)idx);
}

uint64_t bench_pace_due(const struct bench_pace *pace)
{
	return pace->start_ns + (uint64_t)(pace->done * pace->ns_per_unit + 0.5);
}

void bench_pace_add(struct bench_pace *pace, double units)
{
	pace->done += units;
}

/* ---- what --------------------------------------------------------------------------------------
 */

size_t bench_draw_cap(const struct bench_job *job, uint32_t nr_peers)
{
	return job->batch * (job->broadcast ? nr_peers : 1);
}

uint64_t bench_draw_area(const struct bench_job *job)
{
	return job->batch * bench_job_largest(job);
}

int bench_draw_init(struct bench_draw *d, const struct bench_job *job, uint32_t nr_peers, uint64_t idx,
		    uint64_t seed, uint64_t bytes, struct mc_error *err)
{
	int r;

	memset(d, 0, sizeof *d);
	d->job = job;
	d->nr_peers = nr_peers;
	d->rng.state = bench_mix(seed + idx);
	d->first_peer = (uint32_t)(idx % nr_peers);
	r = bench_layout_init(&d->layout, job, bytes, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < d->layout.nr; i++)
		bench_zipf_init(&d->zipf[i], d->layout.classes[i].nr, job->zipf_exponent);
	d->left = job->passes ? job->passes * d->layout.nr_places : UINT64_MAX;
	return 0;
}

static size_t draw_class(struct bench_draw *d)
{
	double u;
	size_t i = 0;

	if (d->layout.nr == 1)
		return 0;
	u = bench_rng_unit(&d->rng);
	while (u >= d->layout.classes[i].until && i + 1 < d->layout.nr)
		i++;
	return i;
}

static uint64_t draw_place(struct bench_draw *d, size_t class)
{
	uint64_t nr = d->layout.classes[class].nr;

	switch (d->job->locality) {
	case BENCH_HOT:
		return 0;
	case BENCH_UNIFORM:
		return bench_rng_below(&d->rng, nr);
	case BENCH_ZIPF:
		return bench_zipf_draw(&d->zipf[class], &d->rng);
	default:
		break;
	}
	if (d->cursor[class] == nr)
		d->cursor[class] = 0;
	return d->cursor[class]++;
}

static struct bench_entry draw_entry(struct bench_draw *d)
{
	size_t class = draw_class(d);
	const struct bench_class *c = &d->layout.classes[class];
	uint64_t place = draw_place(d, class);

	return (struct bench_entry){
		.place = c->first + place,
		.offset = c->offset + place * c->size,
		.len = c->size,
		.read = d->reads,
	};
}

bool bench_draw_part(struct bench_draw *d, struct bench_entry *entries, struct bench_part *part)
{
	const struct bench_job *job = d->job;
	uint64_t blocks = MC_MIN(job->batch, d->left), local = 0;
	uint32_t peer = (uint32_t)((d->first_peer + d->request) % d->nr_peers);
	uint32_t nr_targets = job->broadcast ? d->nr_peers : 1;

	if (!blocks)
		return false;
	if (d->layer == 0)
		d->reads = job->read_share >= 1 ||
			   (job->read_share > 0 && bench_rng_unit(&d->rng) < job->read_share);
	*part = (struct bench_part){.layer = d->layer, .first = d->layer == 0, .peer = peer};
	for (uint64_t i = 0; i < blocks; i++) {
		struct bench_entry e = draw_entry(d);

		e.local = local;
		local += e.len;
		for (uint32_t j = 0; j < nr_targets; j++) {
			e.peer = job->broadcast ? j : peer;
			entries[part->nr++] = e;
			part->bytes += e.len;
		}
	}
	d->left -= d->left == UINT64_MAX ? 0 : blocks;
	part->last = d->layer + 1 == job->layers || !d->left;
	d->layer = part->last ? 0 : d->layer + 1;
	d->request += part->last;
	return true;
}
