/* SPDX-License-Identifier: Apache-2.0 */
/* The table of objects, against a plain array that remembers what must be there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store_map.h"

#define NR 5000

struct object {
	struct mc_store_item item;
	char key[24];
	bool there;
	unsigned int met;
};

static struct object objects[NR];
static uint64_t seed = 1;

/* bits: of the hash that differ at all, so that few means long runs of neighbours. */
static void objects_make(uint64_t bits)
{
	for (size_t i = 0; i < NR; i++) {
		struct object *o = &objects[i];
		int len = snprintf(o->key, sizeof o->key, "key-%zu", i / 2);

		o->there = false;
		o->item = (struct mc_store_item){.hash = mc_store_hash(7, (uint32_t)(i % 2), o->key, (size_t)len) & bits,
						 .tenant = (uint32_t)(i % 2),
						 .key_len = (uint16_t)len,
						 .key_at = offsetof(struct object, key)};
	}
}

static uint64_t draw(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static void check_all(const struct mc_store_map *map)
{
	uint32_t at = 0, nr = 0;
	struct object *o;

	for (size_t i = 0; i < NR; i++) {
		struct mc_store_item *found = mc_store_map_find(map, objects[i].item.hash, objects[i].item.tenant,
								objects[i].key, objects[i].item.key_len);

		assert_ptr_equal(found, objects[i].there ? &objects[i].item : NULL);
		objects[i].met = 0;
		nr += objects[i].there;
	}
	assert_int_equal(map->nr, nr);
	while ((o = (struct object *)mc_store_map_next(map, &at)))
		o->met++;
	for (size_t i = 0; i < NR; i++)
		assert_int_equal(objects[i].met, objects[i].there);
}

static void churn(uint64_t bits, size_t steps)
{
	struct mc_store_map map = {0};

	objects_make(bits);
	check_all(&map);
	for (size_t step = 0; step < steps; step++) {
		struct object *o = &objects[draw() % NR];

		if (o->there)
			mc_store_map_remove(&map, &o->item);
		else
			assert_int_equal(mc_store_map_add(&map, &o->item), 0);
		o->there = !o->there;
		if (step % (steps / 8) == 0)
			check_all(&map);
	}
	check_all(&map);
	mc_store_map_free(&map);
}

static void test_churn(void **state)
{
	churn(UINT64_MAX, 40000);
}

/* All at a few places, and at the end of the table, where runs wrap round. */
static void test_collisions(void **state)
{
	churn(UINT64_C(0x70000), 3000);
	churn(UINT64_C(0x3fe00) << 16, 3000);
}

/* Removing while walking meets everything once. */
static void test_walk(void **state)
{
	struct mc_store_map map = {0};
	struct object *o;
	uint32_t at = 0;
	size_t nr = 0;

	objects_make(UINT64_MAX);
	for (size_t i = 0; i < NR; i++) {
		assert_int_equal(mc_store_map_add(&map, &objects[i].item), 0);
		objects[i].there = true;
		objects[i].met = 0;
	}
	while ((o = (struct object *)mc_store_map_next(&map, &at))) {
		if (o->met++)
			continue;
		nr++;
		if (nr % 3) {
			mc_store_map_remove(&map, &o->item);
			o->there = false;
			at--;
		}
	}
	assert_int_equal(nr, NR);
	check_all(&map);
	mc_store_map_free(&map);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_churn), cmocka_unit_test(test_collisions),
					   cmocka_unit_test(test_walk)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
