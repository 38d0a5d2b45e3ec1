/* SPDX-License-Identifier: Apache-2.0 */
/* Latencies: a histogram of fixed size whose buckets are at most 1/64 wide, and its percentiles. */
#ifndef MC_BENCH_STATS_H
#define MC_BENCH_STATS_H

#include <stdint.h>

#define BENCH_SUB_BITS 6
#define BENCH_BUCKETS ((64 - BENCH_SUB_BITS + 1) << BENCH_SUB_BITS)

/* One thread writes it; merge after the thread has ended. */
struct bench_hist {
	uint64_t nr, sum, min, max;
	uint64_t buckets[BENCH_BUCKETS];
};

void bench_hist_init(struct bench_hist *hist);
void bench_hist_add(struct bench_hist *hist, uint64_t value);
void bench_hist_merge(struct bench_hist *into, const struct bench_hist *from);
/* The value that a share (0..1) of all values does not exceed, at most 1/64 too high; 0 if empty.
 */
uint64_t bench_hist_percentile(const struct bench_hist *hist, double share);
double bench_hist_mean(const struct bench_hist *hist);

#endif
