/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pattern is a stream of little-endian 64-bit words, word w being a mixed
 * function of seed and w; a range may begin and end anywhere in it.  A shifted,
 * stale or torn range differs from what belongs there in nearly every word.
 */
#include "pattern.h"

#include <string.h>

#include <core/util/bytes.h>

/* The finalizer of splitmix64 (Steele, Lea, Flood 2014). */
uint64_t bench_mix(uint64_t x)
{
	x += UINT64_C(0x9e3779b97f4a7c15);
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

static uint64_t word_at(uint64_t seed, uint64_t offset)
{
	return bench_mix(seed ^ (offset / 8 * UINT64_C(0xd1342543de82ef95)));
}

/* The bytes of one word that lie in the range: where they begin in it, and how many. */
static size_t part_of_word(uint64_t offset, size_t len, unsigned *ret_at)
{
	size_t room;

	*ret_at = (unsigned)(offset % 8);
	room = 8 - *ret_at;
	return len < room ? len : room;
}

/* A target fills its memory anew when the initiator says that it has read it: an order by way of another
 * process, which TSan does not see.  Suppressing each word's report by name takes it minutes. */
__attribute__((no_sanitize_thread))
void bench_pattern_fill(void *mem, size_t len, uint64_t seed, uint64_t offset)
{
	uint8_t *p = mem;

	while (len) {
		uint8_t word[8];
		unsigned at;
		size_t n = part_of_word(offset, len, &at);

		mc_put64(word, word_at(seed, offset));
		if (n == 8)
			memcpy(p, word, 8);
		else
			memcpy(p, word + at, n);
		p += n;
		offset += n;
		len -= n;
	}
}

size_t bench_pattern_check(const void *mem, size_t len, uint64_t seed, uint64_t offset)
{
	const uint8_t *p = mem;
	size_t left = len;

	while (left) {
		uint8_t word[8];
		unsigned at;
		size_t n = part_of_word(offset, left, &at);

		mc_put64(word, word_at(seed, offset));
		if (memcmp(p, word + at, n) != 0) {
			size_t i = 0;

			while (p[i] == word[at + i])
				i++;
			return len - left + i;
		}
		p += n;
		offset += n;
		left -= n;
	}
	return len;
}
