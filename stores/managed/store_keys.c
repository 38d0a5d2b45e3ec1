/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Values of a batch as items, batches that move no bytes (exist, remove), and the calls
 * that a program makes.
 */
#include <errno.h>
#include <string.h>

#include "store_impl.h"

#define KEYS_BYTES (MC_RPC_MESSAGE_MAX - 8192) /* of a message, the rest is its head */

void mc_store_items(struct store_ctx *ctx, struct mc_store_op *ops, size_t nr)
{
	for (size_t i = 0; i < nr; i++) {
		ctx->items[i] = (struct store_item){.op = &ops[i]};
		ops[i].status = STORE_PENDING;
	}
}

void mc_store_end_pending(struct store_ctx *ctx, size_t nr, int status)
{
	for (size_t i = 0; i < nr; i++)
		if (ctx->items[i].op->status > 0)
			ctx->items[i].op->status = status;
}

const char *mc_store_say(int status)
{
	switch (status) {
	case -ENOENT:
		return "there is no such value";
	case -EEXIST:
		return "it is there already";
	case -EBUSY:
		return "another put of it goes on (another client's, or of this batch), or it is being read or pinned";
	case -E2BIG:
		return "it is larger than all memory that is lent";
	case -EDQUOT:
		return "the tenant's quota is used up";
	case -EAGAIN:
		return "the memory where it lies is not mounted again yet since the master was started";
	default:
		return strerror(-status);
	}
}

int mc_store_count_failed(struct store_ctx *ctx, size_t nr)
{
	int failed = 0;

	for (size_t i = 0; i < nr; i++) {
		int status = ctx->items[i].op->status;

		failed += status != 0;
		if (status && !ctx->has_why)
			mc_store_why(ctx, status, "store: key '%.*s': %s", (int)MC_MIN(ctx->items[i].op->key_len, 200),
				     (const char *)ctx->items[i].op->key, mc_store_say(status));
	}
	return failed;
}

size_t mc_store_group(struct store_ctx *ctx, size_t from, size_t nr, size_t each, size_t max, bool run)
{
	size_t bytes = 0, i;

	ctx->nr_group = 0;
	for (i = from; i < nr && ctx->nr_group < max; i++) {
		struct mc_store_op *op = ctx->items[i].op;

		if (op->status <= 0) {
			if (run && ctx->nr_group)
				break;
			continue;
		}
		if (bytes + op->key_len + each > KEYS_BYTES)
			break;
		bytes += op->key_len + each;
		ctx->group[ctx->nr_group++] = (uint32_t)i;
	}
	return i;
}

static struct mc_master_key key_of(const struct mc_store_op *op)
{
	return (struct mc_master_key){.data = op->key, .len = op->key_len};
}

/* ---- exist --------------------------------------------------------------------------------------- */

static int exist_group(struct store_ctx *ctx, uint16_t flags)
{
	uint64_t lease;
	int r;

	for (size_t k = 0; k < ctx->nr_group; k++)
		ctx->gots[k] = (struct mc_master_got){.key = key_of(ctx->items[ctx->group[k]].op)};
	mc_store_begin(ctx, flags, (uint32_t)ctx->nr_group);
	mc_wire_gets(&ctx->out, (uint32_t)ctx->nr_group, ctx->gots);
	r = mc_store_call(ctx, MC_WIRE_EXIST);
	if (r < 0)
		return r;
	mc_wire_gots(&ctx->in, (uint32_t)ctx->nr_group, ctx->gots, NULL, &lease);
	if (mc_wire_end(&ctx->in) < 0 || ctx->head.count != ctx->nr_group)
		return mc_store_nonsense(ctx);
	for (size_t k = 0; k < ctx->nr_group; k++) {
		struct mc_store_op *op = ctx->items[ctx->group[k]].op;

		op->status = ctx->gots[k].status > 0 ? -EBADMSG : ctx->gots[k].status;
		op->len = op->status ? 0 : ctx->gots[k].len;
		if (op->status == -EAGAIN || op->status == -ENOBUFS)
			op->status = STORE_PENDING;
	}
	return 0;
}

int mc_store_run_exist(struct store_ctx *ctx, struct mc_store_op *ops, size_t nr, const struct mc_store_config *config)
{
	uint16_t flags = config->flags & MC_STORE_CHAIN ? MC_MASTER_GET_CHAIN : 0;
	size_t at = 0;
	int r = 0;

	mc_store_items(ctx, ops, nr);
	while (r == 0) {
		at = mc_store_group(ctx, at, nr, 2, MC_STORE_BATCH_MAX, false);
		if (ctx->nr_group) {
			r = exist_group(ctx, flags);
			continue;
		}
		/* Those that are not mounted again yet: once more. */
		at = 0;
		if (!mc_store_group(ctx, 0, nr, 2, 1, false) || !ctx->nr_group)
			break;
		r = mc_store_pause(ctx, 20 * MC_MSEC);
		r = r == -ETIMEDOUT ? -EAGAIN : r;
	}
	mc_store_end_pending(ctx, nr, r);
	return mc_store_count_failed(ctx, nr);
}

/* ---- remove --------------------------------------------------------------------------------------- */

static int remove_group(struct store_ctx *ctx, uint16_t flags)
{
	int r;

	for (size_t k = 0; k < ctx->nr_group; k++)
		ctx->named[k] = (struct mc_master_named){.key = key_of(ctx->items[ctx->group[k]].op)};
	mc_store_begin(ctx, flags, (uint32_t)ctx->nr_group);
	mc_wire_keys(&ctx->out, (uint32_t)ctx->nr_group, ctx->named);
	r = mc_store_call(ctx, MC_WIRE_REMOVE);
	if (r < 0)
		return r;
	mc_wire_statuses(&ctx->in, (uint32_t)ctx->nr_group, &ctx->named->status, sizeof *ctx->named);
	if (mc_wire_end(&ctx->in) < 0 || ctx->head.count != ctx->nr_group)
		return mc_store_nonsense(ctx);
	for (size_t k = 0; k < ctx->nr_group; k++) {
		int status = ctx->named[k].status;

		/* Not there any more: the try that was not answered had removed it. */
		if (status == -ENOENT && ctx->unanswered)
			status = 0;
		if (status == -ENOSPC)
			mc_store_unlogged(ctx, &ctx->items[ctx->group[k]]);
		ctx->items[ctx->group[k]].op->status = status > 0 ? -EBADMSG : status;
	}
	return 0;
}

int mc_store_run_remove(struct store_ctx *ctx, struct mc_store_op *ops, size_t nr, const struct mc_store_config *config)
{
	uint16_t flags = config->flags & MC_STORE_FORCE ? MC_MASTER_REMOVE_FORCE : 0;
	size_t at = 0;
	int r = 0;

	mc_store_items(ctx, ops, nr);
	while (r == 0) {
		at = mc_store_group(ctx, at, nr, 2, MC_STORE_BATCH_MAX, false);
		if (!ctx->nr_group)
			break;
		r = remove_group(ctx, flags);
	}
	mc_store_end_pending(ctx, nr, r);
	return mc_store_count_failed(ctx, nr);
}

/* ---- the calls -------------------------------------------------------------------------------------- */

int mc_store_run(struct store_ctx *ctx, enum mc_store_verb verb, struct mc_store_op *ops, size_t nr,
		 const struct mc_store_config *config)
{
	switch (verb) {
	case MC_STORE_DO_PUT:
		return mc_store_run_put(ctx, ops, nr, config);
	case MC_STORE_DO_GET:
		return mc_store_run_get(ctx, ops, nr, config);
	case MC_STORE_DO_EXIST:
		return mc_store_run_exist(ctx, ops, nr, config);
	default:
		return mc_store_run_remove(ctx, ops, nr, config);
	}
}

static int batch(struct mc_store *store, enum mc_store_verb verb, struct mc_store_op *ops, size_t nr,
		 const struct mc_store_config *config, uint64_t timeout_ns, struct mc_error *err)
{
	struct mc_store_config c;
	struct store_ctx *ctx;
	int r = mc_store_check(store, verb, ops, nr, config, &c, err);

	if (r < 0)
		return r;
	ctx = mc_store_ctx_get(store, nr, timeout_ns);
	if (!ctx)
		return mc_fail(err, -ENOMEM, "store: out of memory");
	return mc_store_result(ctx, mc_store_run(ctx, verb, ops, nr, &c), err);
}

int mc_store_put_batch(struct mc_store *store, struct mc_store_op *ops, size_t nr, const struct mc_store_config *config,
		       uint64_t timeout_ns, struct mc_error *err)
{
	return batch(store, MC_STORE_DO_PUT, ops, nr, config, timeout_ns, err);
}

int mc_store_get_batch(struct mc_store *store, struct mc_store_op *ops, size_t nr, const struct mc_store_config *config,
		       uint64_t timeout_ns, struct mc_error *err)
{
	return batch(store, MC_STORE_DO_GET, ops, nr, config, timeout_ns, err);
}

int mc_store_exist_batch(struct mc_store *store, struct mc_store_op *ops, size_t nr, const struct mc_store_config *config,
			 uint64_t timeout_ns, struct mc_error *err)
{
	return batch(store, MC_STORE_DO_EXIST, ops, nr, config, timeout_ns, err);
}

int mc_store_remove_batch(struct mc_store *store, struct mc_store_op *ops, size_t nr, const struct mc_store_config *config,
			  uint64_t timeout_ns, struct mc_error *err)
{
	return batch(store, MC_STORE_DO_REMOVE, ops, nr, config, timeout_ns, err);
}

static int one(struct mc_store *store, enum mc_store_verb verb, struct mc_store_op *op, const struct mc_store_config *config,
	       uint64_t timeout_ns, struct mc_error *err)
{
	int r = batch(store, verb, op, 1, config, timeout_ns, err);

	return r > 0 ? op->status : r;
}

int mc_store_put(struct mc_store *store, const void *key, size_t key_len, const void *addr, uint64_t len,
		 const struct mc_store_config *config, uint64_t timeout_ns, struct mc_error *err)
{
	struct mc_store_range range = {.addr = (void *)(uintptr_t)addr, .len = len};
	struct mc_store_op op = {.key = key, .key_len = (uint32_t)MC_MIN(key_len, MC_STORE_KEY_MAX + 1), .ranges = &range,
				 .nr_ranges = 1};

	return one(store, MC_STORE_DO_PUT, &op, config, timeout_ns, err);
}

int mc_store_get(struct mc_store *store, const void *key, size_t key_len, void *addr, uint64_t cap, uint64_t *ret_len,
		 const struct mc_store_config *config, uint64_t timeout_ns, struct mc_error *err)
{
	struct mc_store_range range = {.addr = addr, .len = cap};
	struct mc_store_op op = {.key = key, .key_len = (uint32_t)MC_MIN(key_len, MC_STORE_KEY_MAX + 1), .ranges = &range,
				 .nr_ranges = 1};
	int r = one(store, MC_STORE_DO_GET, &op, config, timeout_ns, err);

	if (r == 0 && ret_len)
		*ret_len = op.len;
	return r;
}

int mc_store_exist(struct mc_store *store, const void *key, size_t key_len, uint64_t *ret_len, uint64_t timeout_ns,
		   struct mc_error *err)
{
	struct mc_store_op op = {.key = key, .key_len = (uint32_t)MC_MIN(key_len, MC_STORE_KEY_MAX + 1)};
	int r = one(store, MC_STORE_DO_EXIST, &op, NULL, timeout_ns, err);

	if (r == 0 && ret_len)
		*ret_len = op.len;
	return r;
}

int mc_store_remove(struct mc_store *store, const void *key, size_t key_len, uint32_t flags, uint64_t timeout_ns,
		    struct mc_error *err)
{
	struct mc_store_config config = {.size = sizeof config, .flags = flags};
	struct mc_store_op op = {.key = key, .key_len = (uint32_t)MC_MIN(key_len, MC_STORE_KEY_MAX + 1)};

	return one(store, MC_STORE_DO_REMOVE, &op, &config, timeout_ns, err);
}
