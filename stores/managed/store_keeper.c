/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store's own thread: says each second that we live, mounts what is lent when the
 * master has lost sight of it, cuts off writers whose time is over, closes handles.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "store_impl.h"

#define PING_NS MC_SEC
#define LOST_NS (100 * MC_MSEC)  /* while the master is away: what is lent is not readable until it hears of us */
#define EVICT_NS (300 * MC_MSEC) /* for one writer */
#define EVICTS_NS MC_SEC         /* for all of one ping */
#define MOUNT_NS (5 * MC_SEC)

/* Our own writes: those of then have ended when no call that began before goes on. */
static bool cut_self(struct mc_store *store)
{
	uint64_t now = mc_store_now();

	if (!store->own_since)
		store->own_since = now;
	if (!mc_store_writers_done(store->engine, store->own_since))
		return false;
	store->own_since = 0;
	return true;
}

static bool cut_off(struct mc_store *store, uint64_t generation)
{
	int r;

	if (generation == mc_engine_generation(store->engine))
		return cut_self(store);
	r = mc_peer_evict(store->engine, generation, EVICT_NS);
	if (r == 0)
		mc_store_log(store, MC_LOG_INFO, "engine with generation %016" PRIx64 " did not end its put in time: it was cut off",
			     generation);
	return r == 0 || r == -ENOENT;
}

/* What the master told us to cut off: done, or told again with the next ping. */
static void evict(struct mc_store *store, const uint64_t *list, uint32_t nr)
{
	uint64_t until = mc_store_deadline(EVICTS_NS);

	store->nr_evicted = 0;
	for (uint32_t i = 0; i < nr && mc_store_left(until); i++)
		if (cut_off(store, list[i]))
			store->evicted[store->nr_evicted++] = list[i];
}

/* ret_evict: how many of list are to be cut off. */
static int ping(struct mc_store *store, bool *ret_remount, uint64_t list[MC_WIRE_EVICT_MAX], uint32_t *ret_nr)
{
	struct store_ctx *ctx = mc_store_ctx_get(store, 1, 2 * PING_NS);
	uint64_t seen;
	int r;

	if (!ctx)
		return -ENOMEM;
	/* What is confirmed is told once: told again, it could be taken for the confirmation of a later cut. */
	ctx->once = ctx->stranger = true;
	pthread_mutex_lock(&store->lock);
	seen = store->hello_nr;
	pthread_mutex_unlock(&store->lock);
	mc_store_begin(ctx, 0, store->nr_evicted);
	mc_wire_generations(&ctx->out, store->nr_evicted, store->evicted);
	r = mc_store_call(ctx, MC_WIRE_PING);
	if (r == 0) {
		mc_wire_generations(&ctx->in, ctx->head.count, list);
		if (mc_wire_end(&ctx->in) < 0)
			r = mc_store_nonsense(ctx);
		*ret_remount = ctx->head.flags & MC_WIRE_REMOUNT;
		*ret_nr = r < 0 ? 0 : ctx->head.count;
	}
	store->nr_evicted = 0;
	mc_store_ctx_put(ctx);
	if (r == -ESTALE)
		r = mc_store_hello(store, seen, mc_store_deadline(2 * PING_NS), NULL);
	return r;
}

static bool take_remount(struct mc_store *store)
{
	bool remount;

	pthread_mutex_lock(&store->lock);
	remount = store->remount;
	store->remount = false;
	pthread_mutex_unlock(&store->lock);
	return remount;
}

static void again(struct mc_store *store)
{
	pthread_mutex_lock(&store->lock);
	store->remount = true;
	pthread_mutex_unlock(&store->lock);
}

/* One turn; true: the next one follows at once. */
static bool turn(struct mc_store *store, bool *lost)
{
	uint64_t list[MC_WIRE_EVICT_MAX];
	struct mc_error why = {0};
	bool remount = false;
	uint32_t nr = 0;
	int r = ping(store, &remount, list, &nr);

	if (r < 0) {
		if (!*lost)
			mc_store_log(store, MC_LOG_WARN, "master '%s' does not answer (%s); what is lent stays as it is", store->master,
				     strerror(-r));
		*lost = true;
		return false;
	}
	if (*lost)
		mc_store_log(store, MC_LOG_INFO, "master '%s' answers again", store->master);
	*lost = false;
	remount |= take_remount(store);
	r = mc_store_mount_all(store, remount, mc_store_deadline(MOUNT_NS), &why);
	if (r < 0) {
		mc_store_log(store, MC_LOG_WARN, "memory could not be mounted again: %s", why.text);
		if (remount)
			again(store);
	}
	evict(store, list, nr);
	mc_store_peers_bury(store, false);
	mc_store_peers_warm(store);
	return store->nr_evicted;
}

void *mc_store_keeper(void *arg)
{
	struct mc_store *store = arg;
	uint64_t next = mc_store_now() + PING_NS;
	bool lost = false;

	pthread_mutex_lock(&store->lock);
	store->remount = false; /* nothing is lent yet */
	while (!store->stop) {
		if (mc_store_now() < next && !store->remount) {
			mc_store_wait(store, &store->changed, next);
			continue;
		}
		pthread_mutex_unlock(&store->lock);
		next = turn(store, &lost) ? 0 : mc_store_now() + (lost ? LOST_NS : PING_NS);
		pthread_mutex_lock(&store->lock);
		/* What could not be mounted waits for its second, too. */
		if (store->remount && next)
			mc_store_wait(store, &store->changed, mc_store_now() + 50 * MC_MSEC);
	}
	pthread_mutex_unlock(&store->lock);
	return NULL;
}
