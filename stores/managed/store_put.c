/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Putting: places from the master, all replicas of the whole group written as one batch,
 * the end told in one message.  What finds no room waits for it, and is tried again; what
 * the master says it does not know any more is looked for before it is put once more, since
 * the answer to its end may have been lost.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "store_impl.h"

#define MARGIN_NS (6 * MC_SEC)  /* the engine ends a batch so long after its deadline, at most */
#define GRACE_NS (2 * MC_SEC)   /* to tell the end of what was written in time */
#define ELSEWHERE_MAX 16        /* places of one value whose lenders could not be reached */
#define ELSEWHERE_NS (50 * MC_MSEC)
#define AGAIN_MAX 3             /* puts of one value that were given up */
#define REST_MS 1000            /* advice so long means that a master rests after its start, not that space is being freed */
#define END_LEN 32              /* of a message, per value */

struct put {
	struct store_ctx *ctx;
	const struct mc_store_config *config;
	uint32_t nr_replicas;
	bool hash;
	uint64_t deadline_ns; /* the caller's */
	uint64_t until_ns; /* of the group's transfers */
	uint64_t retry_ns; /* what waits for room: not before */
	struct mc_master_full full;
	bool has_full;
	uint32_t rest_ms; /* the master's advice when it had no room */
};

/* ---- start --------------------------------------------------------------------------------------- */

static uint16_t flags_of(const struct put *p)
{
	uint32_t f = p->config->flags;

	return (uint16_t)((f & MC_STORE_SOFT_PIN ? MC_MASTER_PUT_SOFT_PIN : 0) | (f & MC_STORE_HARD_PIN ? MC_MASTER_PUT_HARD_PIN : 0) |
			  (f & MC_STORE_CHAIN ? MC_MASTER_PUT_CHAIN : 0) | (f & MC_STORE_ALL_REPLICAS ? MC_MASTER_PUT_ALL : 0) |
			  (f & MC_STORE_REPLACE ? MC_MASTER_PUT_UPSERT : 0) | (p->hash ? MC_MASTER_PUT_CHECKSUM : 0));
}

static void start_write(struct put *p)
{
	struct store_ctx *ctx = p->ctx;
	uint32_t first = ctx->group[0], preferred[1];
	struct mc_master_put_config config = {.size = sizeof config, .nr_replicas = p->nr_replicas, .host = ctx->store->host,
					      .preferred_engine = p->config->preferred};

	do
		config.nonce = atomic_fetch_add(&ctx->store->nonce, 1);
	while (!config.nonce);
	if (p->config->flags & MC_STORE_CHAIN) {
		config.parent = (struct mc_master_key){.data = p->config->parent, .len = p->config->parent_len};
		if (first)
			config.parent = (struct mc_master_key){.data = ctx->items[first - 1].op->key,
							       .len = ctx->items[first - 1].op->key_len};
	}
	for (size_t k = 0; k < ctx->nr_group; k++) {
		struct store_item *item = &ctx->items[ctx->group[k]];

		ctx->puts[k] = (struct mc_master_put){.key = {.data = item->op->key, .len = item->op->key_len}, .len = item->room};
	}
	mc_store_begin(ctx, flags_of(p), (uint32_t)ctx->nr_group);
	mc_wire_put_config(&ctx->out, &config, preferred);
	mc_wire_puts(&ctx->out, (uint32_t)ctx->nr_group, ctx->puts);
}

static void say_full(struct put *p, const struct store_item *item)
{
	const struct mc_master_full *f = &p->full;

	if (item->why != -ENOSPC || !p->has_full)
		return;
	/* Not that the last question was too late for an answer. */
	p->ctx->has_why &= p->ctx->why.code != -ETIMEDOUT;
	if (p->rest_ms >= REST_MS)
		mc_store_why(p->ctx, -ENOSPC, "store: no room yet for key '%.*s': master '%s' was started anew, and gives no place away for "
			     "%u s more, until writers of before are gone: try again then", (int)MC_MIN(item->op->key_len, 200),
			     (const char *)item->op->key, p->ctx->store->master, (p->rest_ms + 999) / 1000);
	else if (p->nr_replicas > 1 && p->config->flags & MC_STORE_ALL_REPLICAS && f->largest_free >= item->room)
		mc_store_why(p->ctx, -ENOSPC, "store: no room for all %u replicas of key '%.*s': each needs a piece of lent memory of its "
			     "own; let more lend, or be content with fewer", p->nr_replicas, (int)MC_MIN(item->op->key_len, 200),
			     (const char *)item->op->key);
	else if (!f->lent)
		mc_store_why(p->ctx, -ENOSPC, "store: no room for key '%.*s': nobody lends memory to master '%s'; start mooncake_store "
			     "serve, or lend some", (int)MC_MIN(item->op->key_len, 200), (const char *)item->op->key, p->ctx->store->master);
	mc_store_why(p->ctx, -ENOSPC, "store: no room for the %" PRIu64 " bytes of key '%.*s': of %" PRIu64 " lent bytes %" PRIu64
		     " are used, %" PRIu64 " by values that are being read (leased), %" PRIu64 " by pinned ones, %" PRIu64
		     " by unfinished puts, %" PRIu64 " wait to be used again; the largest free piece has %" PRIu64
		     ": lend more memory, or remove or unpin something", item->room, (int)MC_MIN(item->op->key_len, 200),
		     (const char *)item->op->key, f->lent, f->used, f->leased, f->pinned, f->unfinished, f->quarantined,
		     f->largest_free);
}

static bool may_retry(struct put *p, struct store_item *item, const struct mc_master_put *put)
{
	uint64_t retry_ns = (uint64_t)put->retry_ms * MC_MSEC;

	if (put->status == -ENOSPC)
		p->rest_ms = put->retry_ms;
	if (put->status == -ENOBUFS)
		return true;
	if (put->status == -EBUSY && item->busy_is_ours)
		retry_ns = MC_MAX(retry_ns, 20 * MC_MSEC);
	else if (put->status != -ENOSPC || !put->retry_ms)
		return false;
	item->why = put->status;
	p->retry_ns = MC_MIN(p->retry_ns, MC_MIN(MC_MAX(retry_ns, MC_MSEC), MC_SEC));
	return true;
}

static void started(struct put *p, struct store_item *item, const struct mc_master_put *put)
{
	struct mc_store_op *op = item->op;

	op->status = put->status > 0 ? -EBADMSG : put->status;
	if (put->status == 0) {
		item->token = put->token;
		item->first = put->first;
		item->nr = put->nr;
		item->failed = item->written = 0;
		item->adrift = false;
		item->nr_replicas = 0;
		for (uint32_t i = put->first; i < put->first + put->nr; i++)
			item->nr_replicas = MC_MAX(item->nr_replicas, p->ctx->extents.at[i].replica + 1u);
		if (!item->nr_replicas || item->nr_replicas > MC_STORE_REPLICAS_MAX)
			op->status = -EBADMSG;
	} else if (may_retry(p, item, put)) {
		op->status = STORE_PENDING;
	} else if (put->status == -ENOSPC) {
		item->why = -ENOSPC;
		say_full(p, item);
	}
}

static int start(struct put *p)
{
	struct store_ctx *ctx = p->ctx;
	uint64_t now = mc_store_now(), ttl;
	uint32_t nr = (uint32_t)ctx->nr_group;
	int r;

	start_write(p);
	r = mc_store_call(ctx, MC_WIRE_PUT_START);
	for (uint32_t k = 0; ctx->unanswered && k < nr; k++)
		ctx->items[ctx->group[k]].busy_is_ours = true;
	if (r < 0)
		return r;
	if (ctx->head.flags & MC_WIRE_FULL) {
		mc_wire_full(&ctx->in, &p->full);
		p->has_full = true;
	}
	ctx->extents.nr = 0;
	mc_wire_places(&ctx->in, nr, ctx->puts, &ctx->extents);
	if (mc_wire_end(&ctx->in) < 0 || ctx->head.count != nr)
		return mc_store_nonsense(ctx);
	for (uint32_t k = 0; k < nr; k++)
		started(p, &ctx->items[ctx->group[k]], &ctx->puts[k]);
	pthread_mutex_lock(&ctx->store->lock);
	ttl = ctx->store->terms.put_ttl_ns;
	pthread_mutex_unlock(&ctx->store->lock);
	p->until_ns = MC_MIN(ctx->deadline_ns, now + ttl - MC_MIN(ttl / 4, MARGIN_NS));
	return 0;
}

/* ---- end ------------------------------------------------------------------------------------------ */

static uint32_t all_of(const struct store_item *item)
{
	return (1u << item->nr_replicas) - 1;
}

/* Tell the end of those of the group that `which` says. */
static int end_some(struct put *p, enum mc_wire_method method, bool (*which)(const struct put *, const struct store_item *))
{
	struct store_ctx *ctx = p->ctx;
	uint32_t nr = 0;
	int r;

	for (size_t k = 0; k < ctx->nr_group; k++) {
		struct store_item *item = &ctx->items[ctx->group[k]];

		if (item->op->status || !which(p, item))
			continue;
		ctx->ends[nr] = (struct mc_master_end){.token = item->token, .failed = item->failed, .has_checksum = item->has_checksum};
		memcpy(ctx->ends[nr].checksum, item->checksum, 16);
		nr++;
	}
	if (!nr)
		return 0;
	mc_store_begin(ctx, 0, nr);
	mc_wire_ends(&ctx->out, nr, ctx->ends);
	r = mc_store_call(ctx, method);
	if (r == 0) {
		mc_wire_statuses(&ctx->in, nr, &ctx->ends->status, sizeof *ctx->ends);
		if (mc_wire_end(&ctx->in) < 0 || ctx->head.count != nr)
			r = mc_store_nonsense(ctx);
	}
	nr = 0;
	for (size_t k = 0; k < ctx->nr_group; k++) {
		struct store_item *item = &ctx->items[ctx->group[k]];

		if (item->op->status || !which(p, item))
			continue;
		if (method == MC_WIRE_PUT_REVOKE || (item->failed & all_of(item)) == all_of(item))
			item->op->status = mc_store_status(item->why);
		else
			item->op->status = r < 0 ? r : MC_MIN(ctx->ends[nr].status, 0);
		if (r == 0 && item->op->status == -ENOSPC)
			mc_store_unlogged(ctx, item);
		nr++;
	}
	return r;
}

static bool is_good(const struct put *p, const struct store_item *item)
{
	uint32_t failed = item->failed & all_of(item);

	return !failed || (failed != all_of(item) && !(p->config->flags & MC_STORE_ALL_REPLICAS));
}

static bool is_revoked(const struct put *p, const struct store_item *item)
{
	return !is_good(p, item) && !item->adrift && mc_store_ended_here(item->why);
}

/* Its bytes may still be on their way: the places are not used again at once. */
static bool is_told(const struct put *p, const struct store_item *item)
{
	return !is_revoked(p, item);
}

/* No lender could be reached: the master may choose others. */
static bool may_go_elsewhere(const struct put *p, const struct store_item *item)
{
	return item->why != -EACCES && item->elsewhere < ELSEWHERE_MAX && p->deadline_ns > mc_store_now();
}

static void end(struct put *p)
{
	struct store_ctx *ctx = p->ctx;
	uint64_t deadline = ctx->deadline_ns, now = mc_store_now();

	ctx->deadline_ns = MC_MAX(deadline, mc_store_deadline(GRACE_NS));
	ctx->ending = true;
	for (size_t k = 0; k < ctx->nr_group; k++) {
		struct store_item *item = &ctx->items[ctx->group[k]];

		if (item->op->status)
			continue;
		/* It was the lender that was too slow. */
		if (item->why == -ETIMEDOUT && deadline > now)
			item->why = -EHOSTDOWN;
		if (!is_good(p, item) && (!may_go_elsewhere(p, item) || mc_store_status(item->why) != -EHOSTDOWN))
			mc_store_why(ctx, mc_store_status(item->why), "store: key '%.*s': %u of %u replicas cannot be written: %s",
				     (int)MC_MIN(item->op->key_len, 200), (const char *)item->op->key,
				     (unsigned)__builtin_popcount(item->failed & all_of(item)), item->nr_replicas, strerror(-item->why));
		if (!is_good(p, item) && !is_revoked(p, item))
			item->failed = all_of(item);
	}
	end_some(p, MC_WIRE_PUT_REVOKE, is_revoked);
	end_some(p, MC_WIRE_PUT_END, is_told);
	ctx->ending = false;
	ctx->deadline_ns = deadline;
}

/* ---- what the master does not know any more ---------------------------------------------------------- */

/* Does what lies under the key lie where we have written?  Somebody else may have been given those places only if we were
 * stopped for longer than a put may take. */
static bool is_ours(const struct store_ctx *ctx, const struct store_item *item, const struct mc_master_got *got)
{
	if (got->has_checksum && item->has_checksum && memcmp(got->checksum, item->checksum, 16) != 0)
		return false;
	for (uint32_t i = item->first; got->status == 0 && i < item->first + item->nr; i++) {
		const struct mc_master_extent *x = &ctx->extents.at[i];

		for (uint32_t k = got->first; !(item->failed & 1u << x->replica) && k < got->first + got->nr; k++)
			if (ctx->extents.at[k].segment == x->segment && ctx->extents.at[k].offset == x->offset)
				return got->len == item->room;
	}
	return false;
}

static int look_once(struct put *p, struct store_item *item, struct mc_master_got *got)
{
	struct store_ctx *ctx = p->ctx;
	size_t before = ctx->extents.nr;
	uint64_t lease;
	int r;

	*got = (struct mc_master_got){.key = {.data = item->op->key, .len = item->op->key_len}};
	mc_store_begin(ctx, MC_MASTER_GET_NO_LEASE, 1);
	mc_wire_gets(&ctx->out, 1, got);
	r = mc_store_call(ctx, MC_WIRE_GET);
	if (r < 0)
		return r;
	mc_wire_gots(&ctx->in, 1, got, &ctx->extents, &lease);
	ctx->extents.nr = before;
	return mc_wire_end(&ctx->in) < 0 ? mc_store_nonsense(ctx) : 0;
}

/* Its put was given up: by a master that was started anew after it had logged the end, it is there all the same. */
static void given_up(struct put *p, struct store_item *item)
{
	struct store_ctx *ctx = p->ctx;
	struct mc_master_got got;
	int r = look_once(p, item, &got);

	while (r == 0 && got.status == -EAGAIN) {
		r = mc_store_pause(ctx, 20 * MC_MSEC);
		if (r == 0)
			r = look_once(p, item, &got);
	}
	if (r < 0)
		item->op->status = r;
	else if (is_ours(ctx, item, &got))
		item->op->status = 0;
	else
		item->op->status = ++item->stale < AGAIN_MAX ? STORE_PENDING : -ESTALE;
	item->why = -ESTALE;
}

static bool any_broken(struct put *p)
{
	struct store_ctx *ctx = p->ctx;
	bool any = false;

	for (size_t k = 0; k < ctx->nr_group && mc_store_left(p->until_ns); k++) {
		struct store_item *item = &ctx->items[ctx->group[k]];
		int why = item->why;

		if (item->op->status || !item->failed || (why != -ECONNRESET && why != -EHOSTDOWN && why != -ENETDOWN))
			continue;
		item->written |= all_of(item) & ~item->failed;
		item->failed = 0;
		any = true;
	}
	return any;
}

static void go_elsewhere(struct put *p, struct store_item *item)
{
	item->op->status = STORE_PENDING;
	item->elsewhere++;
	p->retry_ns = MC_MIN(p->retry_ns, ELSEWHERE_NS);
}

/* ---- all of it -------------------------------------------------------------------------------------- */

static void one_group(struct put *p)
{
	struct store_ctx *ctx = p->ctx;
	int r = start(p);

	if (r == 0)
		r = mc_store_resolve(ctx, false);
	for (size_t k = 0; r == 0 && p->hash && k < ctx->nr_group; k++) {
		struct store_item *item = &ctx->items[ctx->group[k]];

		if (item->op->status == 0 && !item->has_checksum) {
			mc_store_hash_ranges(item->op, item->room, item->checksum);
			item->has_checksum = true;
		}
	}
	if (r == 0)
		mc_store_move(ctx, MC_OP_WRITE, p->until_ns);
	/* A connection that broke, or was cut, is made anew once: the same bytes go to the same places. */
	if (r == 0 && any_broken(p) && mc_store_resolve(ctx, false) == 0)
		mc_store_move(ctx, MC_OP_WRITE, p->until_ns);
	for (size_t k = 0; k < ctx->nr_group; k++) {
		struct store_item *item = &ctx->items[ctx->group[k]];

		if (r < 0 && item->op->status > 0) {
			item->op->status = r == -ETIMEDOUT && item->why == -ENOSPC ? STORE_PENDING : r;
		} else if (r < 0 && item->op->status == 0) {
			item->failed = all_of(item);
			item->why = -ECANCELED;
		}
	}
	end(p);
	for (size_t k = 0; k < ctx->nr_group; k++) {
		struct store_item *item = &ctx->items[ctx->group[k]];

		if (item->op->status == 0 && r < 0)
			item->op->status = r;
		if (item->op->status == -ESTALE && item->token)
			given_up(p, item);
		else if (item->op->status == -EHOSTDOWN && r == 0 && may_go_elsewhere(p, item))
			go_elsewhere(p, item);
		item->token = 0;
		if (item->op->status == 0)
			item->op->len = item->op->moved = item->room;
	}
}

int mc_store_run_put(struct store_ctx *ctx, struct mc_store_op *ops, size_t nr, const struct mc_store_config *config)
{
	struct put p = {.ctx = ctx, .config = config, .deadline_ns = ctx->deadline_ns, .nr_replicas = MC_MAX(config->nr_replicas, 1), .retry_ns = MC_SEC,
			.hash = ctx->store->options.checksum || config->flags & MC_STORE_CHECKSUM};
	/* The answer has room for them even if each is in as many pieces as may be. */
	size_t max = (MC_RPC_MESSAGE_MAX - 4096) / (16 + (size_t)p.nr_replicas * MC_MASTER_PIECES_MAX * 24), at = 0;
	int r = 0;

	mc_store_items(ctx, ops, nr);
	for (size_t i = 0; i < nr; i++)
		for (uint32_t k = 0; k < ops[i].nr_ranges; k++)
			ctx->items[i].room += ops[i].ranges[k].len;
	while (r == 0) {
		at = mc_store_group(ctx, at, nr, END_LEN, max, config->flags & MC_STORE_CHAIN);
		if (ctx->nr_group) {
			one_group(&p);
			r = mc_store_canceled(ctx) ? -ECANCELED : 0;
			continue;
		}
		/* What has found no room. */
		at = 0;
		mc_store_group(ctx, 0, nr, END_LEN, 1, false);
		if (!ctx->nr_group)
			break;
		r = mc_store_pause(ctx, p.retry_ns);
		p.retry_ns = MC_SEC;
	}
	for (size_t i = 0; i < nr; i++) {
		struct store_item *item = &ctx->items[i];

		if (item->op->status <= 0)
			continue;
		say_full(&p, item);
		item->op->status = r == -ETIMEDOUT && (item->why == -ENOSPC || item->why == -EBUSY) ? item->why : r;
	}
	return mc_store_count_failed(ctx, nr);
}
