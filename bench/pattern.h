/* SPDX-License-Identifier: Apache-2.0 */
/* Seeded patterns: every byte follows from a seed and its place, so both ends can make it alone. */
#ifndef MC_BENCH_PATTERN_H
#define MC_BENCH_PATTERN_H

#include <stddef.h>
#include <stdint.h>

/* Write the len bytes that belong at place offset. */
void bench_pattern_fill(void *mem, size_t len, uint64_t seed, uint64_t offset);
/* Index of the first byte that is not as it should be; len if all are right. */
size_t bench_pattern_check(const void *mem, size_t len, uint64_t seed, uint64_t offset);
/* One step of the generator, for drawing seeds. */
uint64_t bench_mix(uint64_t x);

#endif
