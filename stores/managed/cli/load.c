/* SPDX-License-Identifier: Apache-2.0 */
/* Times in buckets of a 32nd of an octave; bytes that say whose they are and where they belong. */
#include "load.h"

#include <string.h>

#include <core/util/check.h>

static size_t bucket(uint64_t ns)
{
	unsigned top;

	if (ns < 32)
		return (size_t)ns;
	top = 63 - (unsigned)__builtin_clzll(ns);
	return (size_t)(top - 4) * 32 + ((ns >> (top - 5)) & 31);
}

static uint64_t bucket_end(size_t at)
{
	unsigned octave = (unsigned)(at / 32);

	return octave == 0 ? at : ((32 + at % 32 + 1) << (octave - 1)) - 1;
}

void msc_times_add(struct msc_times *t, uint64_t ns)
{
	t->counts[bucket(ns)]++;
	t->nr++;
}

void msc_times_merge(struct msc_times *to, const struct msc_times *from)
{
	for (size_t i = 0; i < MSC_TIMES; i++)
		to->counts[i] += from->counts[i];
	to->nr += from->nr;
}

uint64_t msc_times_at(const struct msc_times *t, double share)
{
	uint64_t want = (uint64_t)((double)t->nr * share), seen = 0;

	if (!t->nr)
		return 0;
	want = MC_MIN(MC_MAX(want, 1), t->nr);
	for (size_t i = 0; i < MSC_TIMES; i++) {
		seen += t->counts[i];
		if (seen >= want)
			return bucket_end(i);
	}
	return 0;
}

static uint64_t word(uint64_t tag, uint64_t idx)
{
	uint64_t x = (tag + 1) * UINT64_C(0x9e3779b97f4a7c15) + idx * UINT64_C(0xd1342543de82ef95);

	return x ^ x >> 29;
}

void msc_fill(void *to, uint64_t len, uint64_t tag)
{
	uint8_t *at = to;

	for (uint64_t i = 0; i < len; i += 8) {
		uint64_t w = word(tag, i);

		memcpy(at + i, &w, (size_t)MC_MIN(len - i, 8));
	}
}

bool msc_filled(const void *data, uint64_t len, uint64_t tag)
{
	const uint8_t *at = data;

	for (uint64_t i = 0; i < len; i += 8) {
		uint64_t w = word(tag, i);

		if (memcmp(at + i, &w, (size_t)MC_MIN(len - i, 8)) != 0)
			return false;
	}
	return true;
}
