/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private areas of the fake host: each lies between guard bytes, and what was
 * released stays in quarantine until the world ends, so that a plugin that
 * writes beside its area or after its close is found.
 */
#include "fake-host-impl.h"
#include "core/util/check.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define POISON(p, n) ASAN_POISON_MEMORY_REGION(p, n)
#define UNPOISON(p, n) ASAN_UNPOISON_MEMORY_REGION(p, n)
#else
#define POISON(p, n) ((void)0)
#define UNPOISON(p, n) ((void)0)
#endif

#define AREA_MAGIC UINT64_C(0x616572615f6b6974)
#define AREA_EDGE 64
#define AREA_BYTE 0xa5
#define AREA_DEAD 0xdd

struct area_head {
	uint64_t magic;
	uint32_t kind, dead;
	void *owner;
	size_t size;
	struct area_head *next;
	unsigned char pad[24]; /* to one cache line */
};
static_assert(sizeof(struct area_head) == 64, "the area behind it stays aligned");

static const char *const area_names[] = { "", "instance", "region", "peer", "remote", "slice" };

void *area_new(struct fake_world *w, enum area_kind kind, size_t size, void *owner)
{
	size_t total = sizeof(struct area_head) + 2 * AREA_EDGE + mc_round_up(size, AREA_EDGE);
	struct area_head *a = aligned_alloc(AREA_EDGE, total);
	unsigned char *p;

	if (!a)
		abort();
	memset(a, AREA_BYTE, total);
	*a = (struct area_head){ .magic = AREA_MAGIC, .kind = kind, .owner = owner, .size = size };
	p = (unsigned char *)(a + 1) + AREA_EDGE;
	memset(p, 0, size);
	return p;
}

static struct area_head *area_head(const void *area)
{
	return (struct area_head *)((uintptr_t)area - AREA_EDGE - sizeof(struct area_head));
}

static bool area_edges_ok(const struct area_head *a)
{
	const unsigned char *p = (const unsigned char *)(a + 1);
	const unsigned char *end = p + AREA_EDGE + a->size;

	for (size_t i = 0; i < AREA_EDGE; i++)
		if (p[i] != AREA_BYTE || end[i] != AREA_BYTE)
			return false;
	return true;
}

void area_release(struct fake_world *w, void *area)
{
	struct area_head *a;

	if (!area)
		return;
	a = area_head(area);
	if (!area_edges_ok(a))
		fake_breach(w, "a plugin writes only inside its private areas: guard of a %s area changed",
			    area_names[a->kind]);
	memset(area, AREA_DEAD, a->size);
	POISON(area, a->size);
	pthread_mutex_lock(&w->lock);
	a->dead = 1;
	a->next = w->quarantine;
	w->quarantine = a;
	pthread_mutex_unlock(&w->lock);
}

void *area_owner(const void *area, enum area_kind kind)
{
	const struct area_head *a = area ? area_head(area) : NULL;

	return a && a->magic == AREA_MAGIC && a->kind == kind && !a->dead ? a->owner : NULL;
}

void quarantine_free(struct fake_world *w)
{
	struct area_head *a;

	while ((a = w->quarantine)) {
		unsigned char *p = (unsigned char *)(a + 1) + AREA_EDGE;
		size_t i = 0;

		UNPOISON(p, a->size);
		while (i < a->size && p[i] == AREA_DEAD)
			i++;
		if (i < a->size || !area_edges_ok(a))
			fake_breach(w, "an area is not touched after its close, nor what is beside it: the %s area was",
				    area_names[a->kind]);
		w->quarantine = a->next;
		free(a);
	}
}
