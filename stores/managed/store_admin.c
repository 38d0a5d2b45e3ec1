/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Looking at the store and managing it: each a call of the master, or several with a cursor.
 */
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "store_impl.h"

#define LIST_MAX 1024 /* objects per answer */

static struct store_ctx *begin(struct mc_store *store, uint64_t timeout_ns, uint16_t flags, uint32_t count, struct mc_error *err)
{
	struct store_ctx *ctx = store ? mc_store_ctx_get(store, 1, timeout_ns) : NULL;

	if (!ctx)
		mc_fail(err, store ? -ENOMEM : -EINVAL, "store: %s", store ? "out of memory" : "it may not be NULL");
	else
		mc_store_begin(ctx, flags, count);
	return ctx;
}

static int check_key(const void *key, size_t key_len, struct mc_error *err)
{
	if (key && key_len && key_len <= MC_STORE_KEY_MAX)
		return 0;
	return mc_fail(err, -EINVAL, "store: a key has 1 to %d bytes, not %zu", MC_STORE_KEY_MAX, key ? key_len : 0);
}

static int check_pattern(const struct mc_store *store, const char *pattern, struct mc_error *err)
{
	if (!store || !pattern || strlen(pattern) > MC_STORE_KEY_MAX)
		return mc_fail(err, -EINVAL, "store: a pattern has at most %d bytes", MC_STORE_KEY_MAX);
	return 0;
}

/* ---- list ------------------------------------------------------------------------------------------ */

static int tell(const struct mc_master_object *o, int (*each)(void *ctx, const struct mc_store_entry *entry), void *arg)
{
	struct mc_store_entry e = {.size = sizeof e, .key = o->key.data, .key_len = o->key.len, .len = o->len,
				   .lease_ns = o->lease_ns, .soft_pin_ns = o->soft_pin_ns, .complete = o->complete,
				   .hard_pinned = o->hard_pinned, .nr_replicas = o->nr_replicas};

	return each(arg, &e);
}

int mc_store_list(struct mc_store *store, const char *prefix, uint64_t timeout_ns,
		  int (*each)(void *ctx, const struct mc_store_entry *entry), void *arg, struct mc_error *err)
{
	struct mc_wire_match match = {.match = MC_MASTER_PREFIX, .pattern = prefix, .max = LIST_MAX};
	uint64_t told = 0;
	struct store_ctx *ctx;
	bool stop = false;
	int r = check_pattern(store, prefix, err);

	if (r < 0 || !each)
		return r < 0 ? r : mc_fail(err, -EINVAL, "store: each may not be NULL");
	ctx = begin(store, timeout_ns, 0, 0, err);
	if (!ctx)
		return -ENOMEM;
	do {
		mc_store_begin(ctx, 0, 0);
		mc_wire_match(&ctx->out, &match);
		r = mc_store_call(ctx, MC_WIRE_QUERY);
		if (r < 0)
			break;
		mc_wire_amount(&ctx->in, &match.cursor);
		for (uint32_t i = 0; i < ctx->head.count && !stop; i++) {
			struct mc_master_object o = {.size = sizeof o};

			mc_wire_object(&ctx->in, &o);
			if (ctx->in.broken)
				break;
			told++;
			stop = tell(&o, each, arg) != 0;
		}
		if (mc_wire_end(&ctx->in) < 0)
			r = mc_store_nonsense(ctx);
	} while (r == 0 && !stop && match.cursor);
	if (r < 0)
		return mc_store_result(ctx, r, err);
	mc_store_ctx_put(ctx);
	return (int)MC_MIN(told, (uint64_t)INT_MAX);
}

/* ---- locate ------------------------------------------------------------------------------------------ */

/* The engine's name; of peers, which live as long as the store. */
static const char *engine_of(struct mc_store *store, uint32_t id)
{
	const struct store_segment *s;
	const char *name;

	pthread_mutex_lock(&store->lock);
	s = mc_store_segment_find(store, id);
	name = s ? s->peer->name : "?";
	pthread_mutex_unlock(&store->lock);
	return name;
}

int mc_store_locate(struct mc_store *store, const void *key, size_t key_len, uint64_t timeout_ns,
		    int (*each)(void *ctx, const struct mc_store_place *place), void *arg, struct mc_error *err)
{
	struct mc_master_got got = {.key = {.data = key, .len = (uint32_t)key_len}};
	struct store_ctx *ctx;
	uint64_t lease;
	int r = check_key(key, key_len, err);

	if (r < 0 || !each)
		return r < 0 ? r : mc_fail(err, -EINVAL, "store: each may not be NULL");
	ctx = begin(store, timeout_ns, MC_MASTER_GET_NO_LEASE, 1, err);
	if (!ctx)
		return -ENOMEM;
	mc_wire_gets(&ctx->out, 1, &got);
	r = mc_store_call(ctx, MC_WIRE_GET);
	if (r == 0) {
		ctx->extents.nr = 0;
		mc_wire_gots(&ctx->in, 1, &got, &ctx->extents, &lease);
		if (mc_wire_end(&ctx->in) < 0)
			r = mc_store_nonsense(ctx);
		else if (got.status)
			r = mc_store_why(ctx, got.status, "store: key '%.*s': %s", (int)MC_MIN(key_len, 200), (const char *)key,
					 mc_store_say(got.status));
	}
	if (r == 0)
		mc_store_segments_know(ctx, got.first, got.nr);
	for (uint32_t i = got.first; r == 0 && i < got.first + got.nr; i++) {
		struct mc_store_place place = {.engine = engine_of(store, ctx->extents.at[i].segment),
					       .len = ctx->extents.at[i].len, .replica = ctx->extents.at[i].replica};

		if (each(arg, &place))
			break;
	}
	return mc_store_result(ctx, r, err);
}

/* ---- remove, pin, info --------------------------------------------------------------------------------- */

static int remove_match(struct mc_store *store, enum mc_master_match how, const char *pattern, uint32_t flags,
			uint64_t timeout_ns, uint64_t *ret_refused, struct mc_error *err)
{
	struct mc_wire_match match = {.match = how, .pattern = pattern};
	uint64_t removed = 0, refused = 0;
	struct store_ctx *ctx;
	int r = check_pattern(store, pattern, err);

	if (r == 0 && flags & ~MC_STORE_FORCE)
		r = mc_fail(err, -EINVAL, "store: remove takes the flag MC_STORE_FORCE only");
	if (r < 0)
		return r;
	ctx = begin(store, timeout_ns, 0, 0, err);
	if (!ctx)
		return -ENOMEM;
	do {
		struct mc_wire_removed one = {0};

		mc_store_begin(ctx, flags & MC_STORE_FORCE ? MC_MASTER_REMOVE_FORCE : 0, 0);
		mc_wire_match(&ctx->out, &match);
		r = mc_store_call(ctx, MC_WIRE_REMOVE_MATCH);
		if (r < 0)
			break;
		mc_wire_removed(&ctx->in, &one);
		if (mc_wire_end(&ctx->in) < 0)
			r = mc_store_nonsense(ctx);
		match.cursor = one.cursor;
		removed += one.removed;
		refused += one.refused;
	} while (r == 0 && match.cursor);
	if (r < 0)
		return mc_store_result(ctx, r, err);
	mc_store_ctx_put(ctx);
	if (ret_refused)
		*ret_refused = refused;
	return (int)MC_MIN(removed, (uint64_t)INT_MAX);
}

int mc_store_remove_prefix(struct mc_store *store, const char *prefix, uint32_t flags, uint64_t timeout_ns,
			   uint64_t *ret_refused, struct mc_error *err)
{
	return remove_match(store, MC_MASTER_PREFIX, prefix, flags, timeout_ns, ret_refused, err);
}

int mc_store_remove_regex(struct mc_store *store, const char *regex, uint32_t flags, uint64_t timeout_ns,
			  uint64_t *ret_refused, struct mc_error *err)
{
	return remove_match(store, MC_MASTER_REGEX, regex, flags, timeout_ns, ret_refused, err);
}

int mc_store_pin(struct mc_store *store, const void *key, size_t key_len, uint64_t span_ns, uint64_t timeout_ns,
		 struct mc_error *err)
{
	struct mc_master_named named = {.key = {.data = key, .len = (uint32_t)key_len}};
	struct store_ctx *ctx;
	int r = check_key(key, key_len, err);

	if (r < 0)
		return r;
	ctx = begin(store, timeout_ns, 0, 1, err);
	if (!ctx)
		return -ENOMEM;
	mc_wire_amount(&ctx->out, &span_ns);
	mc_wire_keys(&ctx->out, 1, &named);
	r = mc_store_call(ctx, MC_WIRE_PIN);
	if (r == 0) {
		mc_wire_statuses(&ctx->in, 1, &named.status, sizeof named);
		if (mc_wire_end(&ctx->in) < 0)
			r = mc_store_nonsense(ctx);
		else if (named.status)
			r = mc_store_why(ctx, named.status, "store: key '%.*s': %s", (int)MC_MIN(key_len, 200), (const char *)key,
					 mc_store_say(named.status));
	}
	return mc_store_result(ctx, r, err);
}

int mc_store_info(struct mc_store *store, uint64_t timeout_ns, struct mc_store_info *info, struct mc_error *err)
{
	struct mc_master_stats stats = {.size = sizeof stats};
	struct mc_store_info all = {0};
	struct store_ctx *ctx;
	size_t size = info ? info->size : 0;
	int r;

	if (!info)
		return mc_fail(err, -EINVAL, "store: info may not be NULL");
	ctx = begin(store, timeout_ns, 0, 0, err);
	if (!ctx)
		return store ? -ENOMEM : -EINVAL;
	r = mc_store_call(ctx, MC_WIRE_STATS);
	if (r == 0) {
		mc_wire_stats(&ctx->in, &stats);
		if (mc_wire_end(&ctx->in) < 0)
			r = mc_store_nonsense(ctx);
	}
	if (r == 0) {
		all = (struct mc_store_info){.size = size, .epoch = ctx->head.epoch, .lent = stats.space.lent, .used = stats.space.used,
					     .nr_objects = stats.nr_objects, .nr_segments = stats.nr_segments, .nr_clients = stats.nr_clients};
		pthread_mutex_lock(&store->lock);
		all.lease_ns = store->terms.lease_ns;
		all.version_min = store->terms.min;
		all.version_max = store->terms.max;
		pthread_mutex_unlock(&store->lock);
		memcpy(info, &all, MC_MIN(size, sizeof all));
	}
	return mc_store_result(ctx, r, err);
}
