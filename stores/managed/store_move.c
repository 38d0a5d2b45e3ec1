/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Moving values: each range of the caller's meets the pieces of the replicas, and all that
 * comes of it goes as one wave, one batch of the engine.  Ranges outside of registered
 * memory pass through staging; a wave that has no more room ends before the next begins.
 */
#include <errno.h>
#include <string.h>

#include "stores/p2p/p2p_hash.h"
#include "store_impl.h"

/* ---- waves ---------------------------------------------------------------------------------------- */

bool mc_store_ended_here(int why)
{
	return why == -ECANCELED || why == -EFAULT || why == -EINVAL || why == -ENOMEM;
}

static void move_failed(struct store_ctx *ctx, uint32_t i, int status)
{
	struct store_move *m = &ctx->moves[i];
	struct store_item *item = &ctx->items[m->item];

	item->failed |= 1u << m->replica;
	item->why = status;
	item->adrift |= ctx->opcode == MC_OP_WRITE && !mc_store_ended_here(status);
	mc_store_peer_failed(ctx->store, m->to.peer, m->to.handle, status);
}

/* Give the engine what it does not have yet. */
static void submit(struct store_ctx *ctx)
{
	uint32_t nr = ctx->nr - ctx->nr_submitted;
	uint64_t left = mc_store_left(ctx->until_ns);
	int r = 0;

	if (!nr)
		return;
	if (!left || mc_store_canceled(ctx))
		r = left ? -ECANCELED : -ETIMEDOUT;
	if (r == 0 && !ctx->nr_submitted)
		r = mc_batch_set_deadline(ctx->batch, left);
	if (r == 0)
		r = mc_batch_submit(ctx->batch, ctx->reqs + ctx->nr_submitted, nr, NULL);
	if (r == 0) {
		ctx->nr_submitted = ctx->nr;
		return;
	}
	for (uint32_t i = ctx->nr_submitted; i < ctx->nr; i++)
		move_failed(ctx, i, r);
	ctx->nr = ctx->nr_submitted;
}

static void collect(struct store_ctx *ctx)
{
	bool all_good = mc_batch_failed(ctx->batch) == 0;
	uint64_t now = mc_store_now();

	for (uint32_t i = 0; i < ctx->nr; i++) {
		struct store_move *m = &ctx->moves[i];
		struct mc_request_status st = {.size = sizeof st};

		ctx->items[m->item].done_ns = now;
		if (!all_good)
			mc_batch_status(ctx->batch, i, &st);
		if (st.status < 0)
			move_failed(ctx, i, st.status);
		else if (m->user_addr)
			memcpy(m->user_addr, ctx->reqs[i].local, ctx->reqs[i].len);
	}
}

/* keep: a staged piece is still needed. */
static void flush(struct store_ctx *ctx, bool keep)
{
	submit(ctx);
	if (ctx->nr_submitted) {
		/* Its deadline ends it. */
		mc_batch_wait(ctx->batch, MC_FOREVER);
		collect(ctx);
		mc_batch_reset(ctx->batch);
	}
	ctx->nr = ctx->nr_submitted = 0;
	if (!keep)
		mc_store_unstage(ctx);
}

static void add(struct store_ctx *ctx, const struct store_move *m, void *local, uint64_t offset, uint64_t len)
{
	if (ctx->nr == ctx->nr_max || (m->to.lines && ctx->opcode == MC_OP_WRITE && offset & 63 && ctx->nr))
		flush(ctx, true);
	ctx->moves[ctx->nr] = *m;
	ctx->reqs[ctx->nr] = (struct mc_request){.opcode = ctx->opcode, .local = local, .segment = m->to.handle,
						 .flags = ctx->opcode == MC_OP_WRITE ? MC_REQUEST_SOLE : 0,
						 .offset = offset, .len = len};
	ctx->nr++;
}

/* ---- ranges and pieces ------------------------------------------------------------------------------ */

/* Bytes [at, at + len) of the value, between local memory and one replica; false: it does not have all of them. */
static bool cut(struct store_ctx *ctx, uint32_t idx, uint32_t replica, uint64_t at, uint8_t *local, uint64_t len,
		uint8_t *user_addr)
{
	const struct store_item *item = &ctx->items[idx];
	uint64_t pos = 0;

	for (uint32_t i = item->first; len && i < item->first + item->nr; i++) {
		const struct mc_master_extent *x = &ctx->extents.at[i];
		struct store_move m = {.item = idx, .replica = replica, .to = ctx->targets[i], .user_addr = user_addr};
		uint64_t n;

		if (x->replica != replica)
			continue;
		if (at < pos + x->len) {
			n = MC_MIN(len, pos + x->len - at);
			add(ctx, &m, local, x->offset + (at - pos), n);
			at += n;
			local += n;
			len -= n;
			user_addr = user_addr ? user_addr + n : NULL;
		}
		pos += x->len;
	}
	return !len;
}

static void cut_all(struct store_ctx *ctx, uint32_t idx, uint64_t at, uint8_t *local, uint64_t len, uint8_t *user_addr)
{
	struct store_item *item = &ctx->items[idx];

	for (uint32_t r = 0; r < item->nr_replicas; r++)
		if (!((item->failed | item->written) & 1u << r) && (ctx->opcode == MC_OP_WRITE || r == item->replica) &&
		    !cut(ctx, idx, r, at, local, len, user_addr)) {
			item->failed |= 1u << r;
			item->why = -EHOSTDOWN;
		}
}

/* Nothing to do any more: a put none of whose replicas is left to be written, a get whose replica cannot be read. */
static bool over(const struct store_ctx *ctx, const struct store_item *item)
{
	uint32_t all = (1u << item->nr_replicas) - 1;

	return ctx->opcode == MC_OP_WRITE ? ((item->failed | item->written) & all) == all : item->failed & 1u << item->replica;
}

/* A range that is not registered, piece by piece. */
static int through_staging(struct store_ctx *ctx, uint32_t idx, uint64_t at, uint8_t *addr, uint64_t len)
{
	struct store_item *item = &ctx->items[idx];

	while (len && !over(ctx, item)) {
		void *piece;
		uint64_t n;
		int r = mc_store_stage(ctx, len, &piece, &n);

		if (r == -EAGAIN) {
			flush(ctx, false);
			continue;
		}
		if (r < 0)
			return r;
		if (ctx->opcode == MC_OP_WRITE)
			memcpy(piece, addr, n);
		cut_all(ctx, idx, at, piece, n, ctx->opcode == MC_OP_READ ? addr : NULL);
		/* What is staged goes while more is copied. */
		if (ctx->opcode == MC_OP_WRITE && n == STORE_UNIT)
			submit(ctx);
		at += n;
		addr += n;
		len -= n;
	}
	return 0;
}

static void item_move(struct store_ctx *ctx, uint32_t idx)
{
	struct store_item *item = &ctx->items[idx];
	uint64_t at = ctx->opcode == MC_OP_READ ? item->op->offset : 0, room = item->room;

	for (uint32_t i = 0; room && i < item->op->nr_ranges && !over(ctx, item); i++) {
		const struct mc_store_range *range = &item->op->ranges[i];
		uint64_t n = MC_MIN(range->len, room);
		int r = 0;

		if (!n)
			continue;
		/* Also what the owner wrote into memory that is not coherent is there for the engine. */
		if (mc_memory_publish(ctx->store->engine, range->addr, n, NULL) == 0)
			cut_all(ctx, idx, at, range->addr, n, NULL);
		else
			r = through_staging(ctx, idx, at, range->addr, n);
		if (r < 0) {
			item->failed = ((1u << item->nr_replicas) - 1) & ~item->written;
			item->why = r;
		}
		at += n;
		room -= n;
	}
}

/* ---- the group ---------------------------------------------------------------------------------------- */

/* Handles of the extents; what has been closed meanwhile fails its replica. */
static void bind_targets(struct store_ctx *ctx)
{
	struct mc_store *store = ctx->store;

	pthread_mutex_lock(&store->lock);
	for (size_t k = 0; k < ctx->nr_group; k++) {
		struct store_item *item = &ctx->items[ctx->group[k]];

		for (uint32_t i = item->first; item->op->status == 0 && i < item->first + item->nr; i++) {
			const struct mc_master_extent *x = &ctx->extents.at[i];
			const struct store_segment *s = mc_store_segment_find(store, x->segment);

			if (x->replica >= item->nr_replicas || (item->failed | item->written) & 1u << x->replica)
				continue;
			if (ctx->opcode == MC_OP_READ && x->replica != item->replica)
				continue;
			if (s && s->peer->handle && x->medium == MC_MASTER_MEMORY) {
				ctx->targets[i] = (struct store_target){.handle = s->peer->handle, .peer = s->peer,
									.lines = s->lines};
				continue;
			}
			item->failed |= 1u << x->replica;
			item->why = x->medium == MC_MASTER_MEMORY ? -EHOSTDOWN : -EOPNOTSUPP;
		}
	}
	pthread_mutex_unlock(&store->lock);
}

static void count_load(struct store_ctx *ctx, bool begin)
{
	for (size_t k = 0; k < ctx->nr_group; k++) {
		struct store_item *item = &ctx->items[ctx->group[k]];

		if (begin && item->nr_replicas > 1 && item->op->status == 0 && !over(ctx, item))
			for (uint32_t i = item->first; !item->load && i < item->first + item->nr; i++)
				if (ctx->extents.at[i].replica == item->replica)
					item->load = ctx->targets[i].peer;
		if (!item->load)
			continue;
		if (begin) {
			atomic_fetch_add_explicit(&item->load->in_flight, item->room, memory_order_relaxed);
		} else {
			atomic_fetch_sub_explicit(&item->load->in_flight, item->room, memory_order_relaxed);
			item->load = NULL;
		}
	}
}

void mc_store_move(struct store_ctx *ctx, uint32_t opcode, uint64_t until_ns)
{
	struct mc_store *store = ctx->store;

	ctx->opcode = opcode;
	ctx->until_ns = until_ns;
	ctx->nr = ctx->nr_submitted = 0;
	if (opcode == MC_OP_WRITE)
		atomic_store(&ctx->writing_since, mc_store_now());
	pthread_rwlock_rdlock(&store->handles);
	bind_targets(ctx);
	if (opcode == MC_OP_READ)
		count_load(ctx, true);
	for (size_t k = 0; k < ctx->nr_group; k++) {
		struct store_item *item = &ctx->items[ctx->group[k]];

		if (item->op->status == 0 && !over(ctx, item))
			item_move(ctx, ctx->group[k]);
	}
	flush(ctx, false);
	if (opcode == MC_OP_READ)
		count_load(ctx, false);
	pthread_rwlock_unlock(&store->handles);
	atomic_store(&ctx->writing_since, 0);
}

void mc_store_hash_ranges(const struct mc_store_op *op, uint64_t len, uint8_t checksum[16])
{
	struct mc_p2p_hasher h;
	struct mc_p2p_hash hash;

	mc_p2p_hasher_init(&h);
	for (uint32_t i = 0; len && i < op->nr_ranges; i++) {
		uint64_t n = MC_MIN(len, op->ranges[i].len);

		mc_p2p_hasher_add(&h, op->ranges[i].addr, n);
		len -= n;
	}
	mc_p2p_hasher_end(&h, &hash);
	memcpy(checksum, hash.bytes, 16);
}

int mc_store_status(int why)
{
	switch (why) {
	case -ETIMEDOUT:
	case -ECANCELED:
	case -EBADMSG:
	case -ENOMEM:
	case -EINVAL:
		return why;
	default:
		return -EHOSTDOWN;
	}
}
