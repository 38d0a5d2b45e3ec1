/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Registered memory through which values pass whose own memory is not registered: made on
 * first use, bounded, cut into units that waves take and give back.  Who finds none left
 * flushes his wave; who holds none waits for others, which end without him.
 */
#include <errno.h>
#include <stdlib.h>

#include "store_impl.h"

/* With the lock, which is let go meanwhile. */
static int staging_new(struct mc_store *store, uint64_t timeout_ns)
{
	uint32_t nr = (uint32_t)(store->options.staging_len / STORE_UNIT);
	uint32_t *units = malloc(nr * sizeof *units);
	void *memory = NULL;
	int r = -ENOMEM;

	pthread_mutex_unlock(&store->lock);
	if (units)
		r = mc_memory_alloc(store->engine, "*", store->options.staging_len, MC_ACCESS_LOCAL,
				    MC_MAX(timeout_ns, MC_SEC), &memory, NULL);
	pthread_mutex_lock(&store->lock);
	if (r < 0 || store->staging) {
		/* Another thread was faster, or there is no memory. */
		pthread_mutex_unlock(&store->lock);
		if (r == 0)
			mc_memory_free(store->engine, memory, 10 * MC_SEC, NULL);
		free(units);
		pthread_mutex_lock(&store->lock);
		return store->staging ? 0 : r;
	}
	for (uint32_t i = 0; i < nr; i++)
		units[i] = nr - 1 - i;
	store->units = units;
	store->nr_units = store->nr_free_units = nr;
	store->staging = memory;
	return 0;
}

void mc_store_staging_free(struct mc_store *store)
{
	if (store->staging)
		mc_memory_free(store->engine, store->staging, 10 * MC_SEC, NULL);
	free(store->units);
}

/* One unit more for the wave.  0; -EAGAIN: there is none, and the wave has some to give back; -ETIMEDOUT, -ENOMEM */
static int unit_take(struct store_ctx *ctx)
{
	struct mc_store *store = ctx->store;
	int r = 0;

	pthread_mutex_lock(&store->lock);
	if (!store->staging)
		r = staging_new(store, mc_store_left(ctx->deadline_ns));
	while (r == 0 && !store->nr_free_units) {
		if (ctx->nr_units)
			r = -EAGAIN;
		else if (!mc_store_left(ctx->deadline_ns))
			r = -ETIMEDOUT;
		else
			mc_store_wait(store, &store->changed, ctx->deadline_ns);
	}
	if (r == 0)
		ctx->units[ctx->nr_units++] = store->units[--store->nr_free_units];
	pthread_mutex_unlock(&store->lock);
	return r;
}

int mc_store_stage(struct store_ctx *ctx, uint64_t len, void **ret_at, uint64_t *ret_len)
{
	uint64_t left = ctx->nr_units ? STORE_UNIT - ctx->unit_used : 0;
	uint64_t at;

	if (!left || (left < len && left < 4096)) {
		int r = unit_take(ctx);

		if (r < 0)
			return r;
		ctx->unit_used = 0;
		left = STORE_UNIT;
	}
	at = ctx->units[ctx->nr_units - 1] * STORE_UNIT + ctx->unit_used;
	*ret_at = ctx->store->staging + at;
	*ret_len = MC_MIN(len, left);
	ctx->unit_used = MC_MIN(STORE_UNIT, mc_round_up(ctx->unit_used + *ret_len, 64));
	return 0;
}

void mc_store_unstage(struct store_ctx *ctx)
{
	struct mc_store *store = ctx->store;

	if (!ctx->nr_units)
		return;
	pthread_mutex_lock(&store->lock);
	while (ctx->nr_units)
		store->units[store->nr_free_units++] = ctx->units[--ctx->nr_units];
	pthread_cond_broadcast(&store->changed);
	pthread_mutex_unlock(&store->lock);
	ctx->unit_used = 0;
}
