/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One space against a model that keeps a word per granule: nothing overlaps, what is used is the
 * sum of the extents, gaps are always whole, nothing is refused that has room, exact places are
 * got.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <mooncake/allocator.h>

#define GRANULE 64u
#define UNITS 4096u
#define LIVE_MAX 2048u

struct model {
	struct mc_space *space;
	uint32_t owner[UNITS]; /* tag of the extent that the granule is in, 0: none */
	struct mc_space_extent live[LIVE_MAX];
	size_t nr_live;
	uint64_t random;
	uint32_t last_tag;
};

static uint64_t draw(struct model *m)
{
	m->random ^= m->random << 13;
	m->random ^= m->random >> 7;
	m->random ^= m->random << 17;
	return m->random >> 11;
}

static void hold(struct model *m, const struct mc_space_extent *e)
{
	assert_true(e->offset % GRANULE == 0 && e->len % GRANULE == 0 && e->len);
	assert_true(e->offset + e->len <= UNITS * GRANULE);
	for (uint64_t i = e->offset / GRANULE; i < (e->offset + e->len) / GRANULE; i++) {
		assert_int_equal(m->owner[i], 0);
		m->owner[i] = (uint32_t)e->tag;
	}
	m->live[m->nr_live++] = *e;
}

/* The longest run of granules that nobody has, beginning at a multiple of align. */
static uint64_t longest(const struct model *m, uint64_t align)
{
	uint64_t best = 0;

	for (uint64_t at = 0; at < UNITS; at += align) {
		uint64_t n = 0;

		while (at + n < UNITS && !m->owner[at + n])
			n++;
		best = n > best ? n : best;
	}
	return best;
}

static void try_alloc(struct model *m)
{
	uint64_t len = draw(m) % 8 ? 1 + draw(m) % (40 * GRANULE) : 1 + draw(m) % (900 * GRANULE);
	uint64_t align = draw(m) % 3 ? 0 : (uint64_t)GRANULE << draw(m) % 6;
	uint64_t units = (len + GRANULE - 1) / GRANULE;
	struct mc_space_extent e;
	int r = mc_space_alloc(m->space, len, align, ++m->last_tag, &e);

	if (r == -ENOSPC) {
		/* 64 gaps are looked at when all are of the same thirty-second. */
		uint64_t room = longest(m, align ? align / GRANULE : 1);

		assert_true(room < units + units / 31 + 2 + align / GRANULE);
		return;
	}
	assert_int_equal(r, 0);
	assert_int_equal(e.tag, m->last_tag);
	assert_int_equal(e.len, units * GRANULE);
	assert_true(!align || e.offset % align == 0);
	hold(m, &e);
}

static void try_reserve(struct model *m)
{
	uint64_t offset = draw(m) % (UNITS * GRANULE), len = 1 + draw(m) % (30 * GRANULE), first,
		 last;
	struct mc_space_extent e;
	bool free = true;
	int r = mc_space_reserve(m->space, offset, len, ++m->last_tag, &e);

	if (offset + len > UNITS * GRANULE) {
		assert_int_equal(r, -ERANGE);
		return;
	}
	first = offset / GRANULE;
	last = (offset + len - 1) / GRANULE;
	for (uint64_t i = first; i <= last; i++)
		free = free && !m->owner[i];
	assert_int_equal(r, free ? 0 : -EEXIST);
	if (!free)
		return;
	assert_int_equal(e.offset, first * GRANULE);
	assert_int_equal(e.len, (last - first + 1) * GRANULE);
	hold(m, &e);
}

static void release(struct model *m, size_t i)
{
	struct mc_space_extent e = m->live[i], got;

	assert_int_equal(mc_space_get(m->space, e.id, &got), 0);
	assert_memory_equal(&got, &e, sizeof e);
	assert_int_equal(mc_space_release(m->space, e.id), 0);
	assert_int_equal(mc_space_release(m->space, e.id), -ENOENT);
	memset(&m->owner[e.offset / GRANULE], 0, e.len / GRANULE * sizeof m->owner[0]);
	m->live[i] = m->live[--m->nr_live];
}

struct walk {
	const struct model *m;
	uint64_t end, sum;
	size_t nr;
};

static int seen(void *arg, const struct mc_space_extent *e)
{
	struct walk *w = arg;

	assert_true(e->offset >= w->end);
	assert_int_equal(w->m->owner[e->offset / GRANULE], e->tag);
	w->end = e->offset + e->len;
	w->sum += e->len;
	w->nr++;
	return 0;
}

static void compare(struct model *m)
{
	struct mc_space_stats s = {.size = sizeof s};
	struct walk w = {.m = m};
	uint32_t nr_gaps = 0;
	uint64_t room = longest(m, 1);

	assert_int_equal(mc_space_each(m->space, seen, &w), 0);
	mc_space_stats(m->space, &s);
	for (size_t i = 0; i < UNITS; i++)
		nr_gaps += !m->owner[i] && (i == 0 || m->owner[i - 1]);
	assert_int_equal(w.nr, m->nr_live);
	assert_int_equal(s.nr_extents, m->nr_live);
	assert_int_equal(s.used, w.sum);
	assert_int_equal(s.nr_free, nr_gaps);
	assert_int_equal(s.largest_free, room * GRANULE);
	assert_true(mc_space_hint(m->space) >= s.largest_free);
}

static struct model *model_new(uint64_t seed)
{
	struct mc_space_options o = {.size = sizeof o,
				     .bytes = UNITS * GRANULE + 5,
				     .granule = GRANULE,
				     .max_extents = LIVE_MAX};
	struct model *m = calloc(1, sizeof *m);

	assert_non_null(m);
	m->random = seed * 2 + 1;
	assert_int_equal(mc_space_new(&o, &m->space), 0);
	return m;
}

static void model_free(struct model *m)
{
	struct mc_space_stats s = {.size = sizeof s};

	while (m->nr_live)
		release(m, 0);
	mc_space_stats(m->space, &s);
	assert_int_equal(s.nr_free, 1);
	assert_int_equal(s.largest_free, s.bytes);
	assert_true(s.fragmentation == 0);
	assert_true(s.metadata <= LIVE_MAX * 80 + 12000);
	mc_space_free(m->space);
	free(m);
}

static void a_space_does_what_the_model_does(void **state)
{
	for (uint64_t seed = 1; seed <= 12; seed++) {
		struct model *m = model_new(seed);

		for (int i = 0; i < 6000; i++) {
			/* Fuller and emptier in turn; exact places in some stretches only. */
			uint64_t what = draw(m) % 100, mood = (uint64_t)i / 500 % 3;

			if (what < 30 + 15 * mood || !m->nr_live)
				try_alloc(m);
			else if (what < 70 && i / 700 % 2)
				try_reserve(m);
			else
				release(m, draw(m) % m->nr_live);
			if (i % 701 == 0)
				mc_space_settle(m->space);
			if (i % 97 == 0)
				compare(m);
		}
		compare(m);
		model_free(m);
	}
}

/* What a journal tells, in any order, comes back exactly, and the rest can be taken. */
static void a_space_is_made_again_from_its_extents(void **state)
{
	struct model *m = model_new(77), *again = model_new(1);
	size_t nr;

	for (int i = 0; i < 5000; i++) {
		if (draw(m) % 5 < 3)
			try_alloc(m);
		else if (m->nr_live)
			release(m, draw(m) % m->nr_live);
	}
	nr = m->nr_live;
	assert_true(nr > 50);
	for (size_t i = 0; i < nr; i++) {
		const struct mc_space_extent *e = &m->live[i * 7919 % nr];
		struct mc_space_extent got;

		/* 7919 is prime, so each comes once. */
		assert_int_equal(mc_space_reserve(again->space, e->offset, e->len, e->tag, &got),
				 0);
		assert_int_equal(got.offset, e->offset);
		hold(again, &got);
		assert_int_equal(mc_space_reserve(again->space, e->offset + e->len - 1, 1, 9, &got),
				 -EEXIST);
	}
	compare(again);
	assert_memory_equal(m->owner, again->owner, sizeof m->owner);
	mc_space_settle(again->space);
	for (int i = 0; i < 500; i++) {
		if (i % 2)
			try_alloc(again);
		else
			release(again, draw(again) % again->nr_live);
	}
	compare(again);
	model_free(m);
	model_free(again);
}

static void bad_calls_are_refused(void **state)
{
	struct mc_space_options o = {.size = sizeof o,
				     .bytes = UINT64_C(48) << 40,
				     .max_extents = 3};
	struct mc_space_options bad[] = {{.size = sizeof o},
					 {.size = sizeof o, .bytes = 255},
					 {.size = sizeof o, .bytes = 4096, .granule = 48},
					 {.size = sizeof o, .bytes = MC_SPACE_MAX + 1},
					 {.size = 3, .bytes = 4096}};
	struct mc_space_extent e[4];
	struct mc_space *s;

	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		assert_int_equal(mc_space_new(&bad[i], &s), -EINVAL);
	assert_int_equal(mc_space_new(&o, &s), 0);
	assert_int_equal(mc_space_alloc(s, 0, 0, 0, e), -EINVAL);
	assert_int_equal(mc_space_alloc(s, 1, 3, 0, e), -EINVAL);
	assert_int_equal(mc_space_alloc(s, UINT64_MAX, 0, 0, e), -ENOSPC);
	assert_int_equal(mc_space_alloc(s, 1, UINT64_C(1) << 63, 0, e), -ENOSPC);
	assert_int_equal(mc_space_alloc(s, o.bytes + 1, 0, 0, e), -ENOSPC);
	assert_int_equal(mc_space_reserve(s, 0, 0, 0, e), -EINVAL);
	assert_int_equal(mc_space_reserve(s, UINT64_MAX, 2, 0, e), -ERANGE);
	assert_int_equal(mc_space_release(s, UINT32_MAX), -ENOENT);
	assert_int_equal(mc_space_get(s, 7, e), -ENOENT);
	/* 48 TiB, at its very ends. */
	assert_int_equal(mc_space_reserve(s, o.bytes - 256, 256, 1, &e[0]), 0);
	assert_int_equal(mc_space_alloc(s, o.bytes - (UINT64_C(1) << 40), UINT64_C(1) << 40, 2,
					&e[1]),
			 0);
	assert_int_equal(e[1].offset, 0);
	assert_int_equal(mc_space_alloc(s, 1, 0, 3, &e[2]), 0);
	assert_int_equal(mc_space_alloc(s, 1, 0, 3, &e[3]), -EMFILE);
	assert_int_equal(mc_space_set_tag(s, e[2].id, 44), 0);
	assert_int_equal(mc_space_get(s, e[2].id, &e[3]), 0);
	assert_int_equal(e[3].tag, 44);
	mc_space_free(s);
	mc_space_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_space_does_what_the_model_does),
		cmocka_unit_test(a_space_is_made_again_from_its_extents),
		cmocka_unit_test(bad_calls_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
