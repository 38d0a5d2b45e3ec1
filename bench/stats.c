/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A log-linear histogram: 64 buckets per power of two, so a percentile is at
 * most 1.6 % too high whatever the range, in 30 KiB and without a malloc per
 * value.
 */
#include "stats.h"

#include <string.h>

#define SUB (1u << BENCH_SUB_BITS)

void bench_hist_init(struct bench_hist *hist)
{
	memset(hist, 0, sizeof *hist);
	hist->min = UINT64_MAX;
}

/* Values below SUB have a bucket each; above, the top SUB_BITS bits after the first name it. */
static unsigned bucket_of(uint64_t value)
{
	unsigned shift;

	if (value < SUB)
		return (unsigned)value;
	shift = 63u - (unsigned)__builtin_clzll(value) - BENCH_SUB_BITS;
	return ((shift + 1) << BENCH_SUB_BITS) + (unsigned)(value >> shift) - SUB;
}

/* The largest value of a bucket. */
static uint64_t bucket_top(unsigned bucket)
{
	unsigned shift;

	if (bucket < SUB)
		return bucket;
	shift = (bucket >> BENCH_SUB_BITS) - 1;
	return (((uint64_t)(bucket & (SUB - 1)) + SUB) << shift) + ((UINT64_C(1) << shift) - 1);
}

void bench_hist_add(struct bench_hist *hist, uint64_t value)
{
	hist->nr++;
	hist->sum += value;
	if (value < hist->min)
		hist->min = value;
	if (value > hist->max)
		hist->max = value;
	hist->buckets[bucket_of(value)]++;
}

void bench_hist_merge(struct bench_hist *into, const struct bench_hist *from)
{
	into->nr += from->nr;
	into->sum += from->sum;
	if (from->min < into->min)
		into->min = from->min;
	if (from->max > into->max)
		into->max = from->max;
	for (unsigned i = 0; i < BENCH_BUCKETS; i++)
		into->buckets[i] += from->buckets[i];
}

uint64_t bench_hist_percentile(const struct bench_hist *hist, double share)
{
	double want = share * (double)hist->nr;
	uint64_t seen = 0;

	for (unsigned i = 0; i < BENCH_BUCKETS; i++) {
		seen += hist->buckets[i];
		if (seen && (double)seen >= want) {
			uint64_t top = bucket_top(i);

			return top < hist->max ? top : hist->max;
		}
	}
	return hist->nr ? hist->max : 0;
}

double bench_hist_mean(const struct bench_hist *hist)
{
	return hist->nr ? (double)hist->sum / (double)hist->nr : 0;
}
