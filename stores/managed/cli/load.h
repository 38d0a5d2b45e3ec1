/* SPDX-License-Identifier: Apache-2.0 */
/* What the bench keeps of its calls, and the bytes that it puts and recognises. */
#ifndef MC_STORE_CLI_LOAD_H
#define MC_STORE_CLI_LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Times of calls, each within 1/32 of what it was. */
#define MSC_TIMES (64 * 32)
struct msc_times {
	uint64_t counts[MSC_TIMES];
	uint64_t nr;
};

void msc_times_add(struct msc_times *t, uint64_t ns);
void msc_times_merge(struct msc_times *to, const struct msc_times *from);
/* The time that so large a share of the calls took at most, ns; 0: there were none. */
uint64_t msc_times_at(const struct msc_times *t, double share);

/* Bytes that are different for each tag, and everywhere. */
void msc_fill(void *to, uint64_t len, uint64_t tag);
bool msc_filled(const void *data, uint64_t len, uint64_t tag);

#endif
