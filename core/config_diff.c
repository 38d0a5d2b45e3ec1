/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What differs between two configs: for a reload, which must know what it is asked
 * to change before it changes anything.
 */
#include <string.h>

#include "config_priv.h"

static const char *text_of(const struct mc_slot *s)
{
	return s && s->text ? s->text : "";
}

/* "2s" is "2000ms".  A text that was not understood, as one of the environment may be, has no value. */
static bool same(const struct mc_slot *a, const struct mc_slot *b)
{
	if (!strcmp(text_of(a), text_of(b)))
		return true;
	if (!a || !b || a->option->type != b->option->type || !*text_of(a) || !*text_of(b))
		return false;
	switch (a->option->type) {
	case MC_OPT_BOOL:
		return a->value.b == b->value.b;
	case MC_OPT_INT:
	case MC_OPT_SIZE:
	case MC_OPT_DURATION:
		return a->value.i && a->value.i == b->value.i;
	default:
		return false;
	}
}

static int tell(const struct mc_slot *was, const struct mc_slot *is,
		int (*each)(void *ctx, const struct mc_config_change *change), void *ctx)
{
	const struct mc_slot *any = is ? is : was;
	const struct mc_config_change change = {
		.key = any->key,
		.was = mc_slot_shown(was),
		.is = mc_slot_shown(is),
		.core = any->core,
		.reloadable = any->option->flags & MC_OPT_RELOADABLE,
	};

	return same(was, is) ? 0 : each(ctx, &change);
}

int mc_config_diff(const struct mc_config *was, const struct mc_config *is,
		   int (*each)(void *ctx, const struct mc_config_change *change), void *ctx)
{
	int r = 0;

	for (size_t i = 0; i < is->nr_slots && r == 0; i++)
		r = tell(mc_slot_find(was, is->slots[i].key), &is->slots[i], each, ctx);
	/* Options of plugins without a schema are there only if somebody has set them. */
	for (size_t i = 0; i < was->nr_slots && r == 0; i++)
		if (!mc_slot_find(is, was->slots[i].key))
			r = tell(&was->slots[i], NULL, each, ctx);
	return r;
}
