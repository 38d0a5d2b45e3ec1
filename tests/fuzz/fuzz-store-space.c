/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of the allocator: the input is a list of calls, 4 bytes each, on a space of 256 granules.
 * After each, extents are in order, apart, and sum up to what is used; gaps are whole.
 */
#include <stdio.h>
#include <stdlib.h>

#include <mooncake/allocator.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct walk {
	uint64_t end, sum, largest;
	uint32_t nr, gaps;
};

static void die(const char *what)
{
	fprintf(stderr, "fuzz-store-space: %s\n", what);
	abort();
}

static void gap(struct walk *w, uint64_t to)
{
	if (to > w->end) {
		w->gaps++;
		w->largest = to - w->end > w->largest ? to - w->end : w->largest;
	}
}

static int seen(void *arg, const struct mc_space_extent *e)
{
	struct walk *w = arg;

	if (e->offset < w->end || !e->len)
		die("extents overlap");
	gap(w, e->offset);
	w->end = e->offset + e->len;
	w->sum += e->len;
	w->nr++;
	return 0;
}

static void check(const struct mc_space *s)
{
	struct mc_space_stats stats = {.size = sizeof stats};
	struct walk w = {0};

	mc_space_each(s, seen, &w);
	mc_space_stats(s, &stats);
	gap(&w, stats.bytes);
	if (w.sum != stats.used || w.nr != stats.nr_extents || w.gaps != stats.nr_free ||
	    w.largest != stats.largest_free)
		die("the sums differ");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mc_space_options o = {.size = sizeof o,
				     .bytes = 256 * 16,
				     .granule = 16,
				     .max_extents = 100};
	struct mc_space_extent e;
	struct mc_space *s;

	if (mc_space_new(&o, &s) < 0)
		return 0;
	for (; size >= 4 && size <= 4096; data += 4, size -= 4) {
		switch (data[0] & 7) {
		case 0:
			mc_space_settle(s);
			break;
		case 1:
			mc_space_reserve(s, data[1] * 17u, data[2] * 5u, data[3], &e);
			break;
		case 2:
		case 3:
		case 4:
			mc_space_release(s, data[1]);
			break;
		default:
			mc_space_alloc(s, data[1] * 7u, data[2] & 1 ? 1u << (data[2] >> 5) * 2 : 0,
				       data[3], &e);
			break;
		}
		check(s);
	}
	mc_space_free(s);
	return 0;
}
