/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Getting: where values lie, under a lease; one batch of reads, each from the nearest
 * replica; what fails is read from the next one.  Bytes count only if the lease, counted on
 * our own clock from before the question, still stood when the last of them had come.
 */
#include <errno.h>
#include <string.h>

#include "store_impl.h"

#define AGAIN_MAX 3 /* questions more when no replica could be reached */
#define AGAIN_NS (250 * MC_MSEC)
#define GOT_LEN 6 /* of a question, beside the key */

struct get {
	struct store_ctx *ctx;
	bool hash, chain;
	uint64_t lease_until; /* of the group */
	bool missed;          /* CHAIN: one was not there */
};

static void found(struct get *g, struct store_item *item, const struct mc_master_got *got)
{
	struct mc_store_op *op = item->op;
	uint64_t room = 0;

	op->status = got->status > 0 ? -EBADMSG : got->status;
	if (op->status == -ENOENT)
		g->missed = true;
	if (op->status == -EAGAIN || op->status == -ENOBUFS) {
		item->why = -EAGAIN;
		op->status = STORE_PENDING;
	}
	if (op->status)
		return;
	for (uint32_t i = 0; i < op->nr_ranges; i++)
		room += op->ranges[i].len;
	op->len = item->len = got->len;
	item->room = op->offset < got->len ? MC_MIN(room, got->len - op->offset) : 0;
	item->first = got->first;
	item->nr = got->nr;
	item->nr_replicas = got->nr_replicas;
	item->failed = 0;
	item->replica = 0;
	item->done_ns = 0;
	item->has_checksum = got->has_checksum;
	memcpy(item->checksum, got->checksum, 16);
	if (!got->nr_replicas || got->nr_replicas > MC_STORE_REPLICAS_MAX)
		op->status = -EBADMSG;
}

static int ask(struct get *g)
{
	struct store_ctx *ctx = g->ctx;
	uint32_t nr = (uint32_t)ctx->nr_group;
	uint64_t lease = 0;
	int r;

	for (uint32_t k = 0; k < nr; k++) {
		const struct mc_store_op *op = ctx->items[ctx->group[k]].op;

		ctx->gots[k] = (struct mc_master_got){.key = {.data = op->key, .len = op->key_len}};
	}
	mc_store_begin(ctx, g->chain ? MC_MASTER_GET_CHAIN : 0, nr);
	mc_wire_gets(&ctx->out, nr, ctx->gots);
	r = mc_store_call(ctx, MC_WIRE_GET);
	if (r < 0)
		return r;
	ctx->extents.nr = 0;
	mc_wire_gots(&ctx->in, nr, ctx->gots, &ctx->extents, &lease);
	if (mc_wire_end(&ctx->in) < 0 || ctx->head.count != nr)
		return mc_store_nonsense(ctx);
	g->lease_until = lease > MC_FOREVER - ctx->sent_ns ? MC_FOREVER : ctx->sent_ns + lease;
	for (uint32_t k = 0; k < nr; k++)
		found(g, &ctx->items[ctx->group[k]], &ctx->gots[k]);
	return 0;
}

static uint32_t usable(const struct store_item *item)
{
	return ((1u << item->nr_replicas) - 1) & ~item->failed;
}

static void fail(struct get *g, struct store_item *item, int why)
{
	struct store_ctx *ctx = g->ctx;
	int status = mc_store_status(why);

	item->op->status = status;
	mc_store_why(ctx, status, "store: key '%.*s': %s: %s", (int)MC_MIN(item->op->key_len, 200),
		     (const char *)item->op->key, why == -EBADMSG ? "its checksum is wrong in each replica" :
		     "no replica can be read", why == -ENOENT ? "who lends its memory is gone" : strerror(-why));
}

/* The lease has run out while it was read: once more, with a new one. */
static void stale(struct get *g, struct store_item *item)
{
	item->op->status = item->stale++ ? -ESTALE : STORE_PENDING;
	if (item->op->status < 0)
		mc_store_why(g->ctx, -ESTALE, "store: key '%.*s': reading its %llu bytes took longer than a lease, twice: get it "
					      "in ranges, or let the master grant longer ones", (int)MC_MIN(item->op->key_len, 200),
			     (const char *)item->op->key, (unsigned long long)item->room);
}

/* What became of one; true: it is to be read from another replica. */
static bool judge(struct get *g, struct store_item *item)
{
	struct mc_store_op *op = item->op;
	uint64_t now = mc_store_now();
	bool bad = item->failed & 1u << item->replica;

	if (!bad && item->room && item->done_ns >= g->lease_until) {
		stale(g, item);
		return false;
	}
	if (!bad && g->hash && item->has_checksum && item->room == item->len) {
		uint8_t checksum[16];

		mc_store_hash_ranges(op, item->room, checksum);
		bad = memcmp(checksum, item->checksum, 16) != 0;
		if (bad) {
			item->failed |= 1u << item->replica;
			item->why = -EBADMSG;
			mc_store_log(g->ctx->store, MC_LOG_WARN, "key '%.*s': the checksum of replica %u is wrong",
				     (int)MC_MIN(op->key_len, 200), (const char *)op->key, item->replica);
		}
	}
	if (!bad) {
		op->moved = item->room;
		item->done = true;
		return false;
	}
	if (mc_store_canceled(g->ctx) || now >= g->ctx->deadline_ns)
		fail(g, item, mc_store_canceled(g->ctx) ? -ECANCELED : -ETIMEDOUT);
	else if (now >= g->lease_until)
		stale(g, item);
	else if (usable(item))
		return true;
	else if (item->why != -EBADMSG && item->asked_again++ < AGAIN_MAX)
		op->status = STORE_PENDING; /* the master may know of another one, or a lender be back */
	else
		fail(g, item, item->why);
	return false;
}

/* Read what the group's question has found; each value from one replica after the other. */
static int read_group(struct get *g)
{
	struct store_ctx *ctx = g->ctx;
	bool again = true;
	int r = 0;

	while (again && r == 0) {
		size_t nr = 0;

		r = mc_store_resolve(ctx, true);
		if (r < 0)
			break;
		mc_store_move(ctx, MC_OP_READ, MC_MIN(ctx->deadline_ns, g->lease_until));
		for (size_t k = 0; k < ctx->nr_group; k++) {
			struct store_item *item = &ctx->items[ctx->group[k]];

			if (item->op->status == 0 && judge(g, item))
				ctx->group[nr++] = ctx->group[k];
		}
		ctx->nr_group = nr;
		again = nr;
	}
	return r;
}

int mc_store_run_get(struct store_ctx *ctx, struct mc_store_op *ops, size_t nr, const struct mc_store_config *config)
{
	struct get g = {.ctx = ctx, .chain = config->flags & MC_STORE_CHAIN,
			.hash = ctx->store->options.checksum || config->flags & MC_STORE_CHECKSUM};
	size_t at = 0;
	int r = 0;

	mc_store_items(ctx, ops, nr);
	while (r == 0) {
		at = mc_store_group(ctx, at, nr, GOT_LEN, MC_STORE_BATCH_MAX, g.chain);
		if (ctx->nr_group && g.missed && g.chain) {
			mc_store_end_pending(ctx, nr, -ENOENT);
		} else if (ctx->nr_group) {
			r = ask(&g);
			if (r == 0)
				r = read_group(&g);
		} else {
			uint64_t pause_ns = 0;

			/* Not mounted again yet, without a lease, or moved: once more. */
			at = 0;
			mc_store_group(ctx, 0, nr, GOT_LEN, MC_STORE_BATCH_MAX, false);
			if (!ctx->nr_group)
				break;
			for (size_t k = 0; k < ctx->nr_group; k++) {
				const struct store_item *item = &ctx->items[ctx->group[k]];

				pause_ns = MC_MAX(pause_ns, item->why == -EAGAIN ? 20 * MC_MSEC : item->asked_again ? AGAIN_NS : 0);
			}
			r = pause_ns ? mc_store_pause(ctx, pause_ns) : 0;
		}
	}
	for (size_t i = 0; r < 0 && i < nr; i++) {
		struct store_item *item = &ctx->items[i];

		if (item->op->status > 0 || (item->op->status == 0 && !item->done))
			item->op->status = r == -ETIMEDOUT && item->why == -EAGAIN ? -EAGAIN : r;
	}
	return mc_store_count_failed(ctx, nr);
}
