/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Contexts of calls, and calls of the master: encoded and answered in place, tried again
 * while the master is away, after it has forgotten us, and after it has been started anew.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "store_impl.h"

#define CLIENT_AT 8 /* where a request has the client's id */

/* ---- contexts ------------------------------------------------------------------------------------- */

void mc_store_ctx_free(struct store_ctx *ctx)
{
	mc_batch_free(ctx->batch);
	free(ctx->request);
	free(ctx->reply);
	free(ctx->items);
	free(ctx->puts);
	free(ctx->gots);
	free(ctx->ends);
	free(ctx->named);
	free(ctx->group);
	free(ctx->extents.at);
	free(ctx->targets);
	free(ctx->reqs);
	free(ctx->moves);
	free(ctx->units);
	free(ctx);
}

static struct store_ctx *ctx_new(struct mc_store *store)
{
	struct store_ctx *ctx = calloc(1, sizeof *ctx);

	if (!ctx)
		return NULL;
	ctx->store = store;
	ctx->nr_max = store->options.max_in_flight;
	ctx->request = malloc(MC_RPC_MESSAGE_MAX);
	ctx->reply = malloc(MC_RPC_MESSAGE_MAX);
	ctx->reqs = calloc(ctx->nr_max, sizeof *ctx->reqs);
	ctx->moves = calloc(ctx->nr_max, sizeof *ctx->moves);
	ctx->units = calloc(store->options.staging_len / STORE_UNIT, sizeof *ctx->units);
	if (!ctx->request || !ctx->reply || !ctx->reqs || !ctx->moves || !ctx->units ||
	    mc_batch_new(store->engine, ctx->nr_max, &ctx->batch) < 0) {
		mc_store_ctx_free(ctx);
		return NULL;
	}
	pthread_mutex_lock(&store->lock);
	ctx->next_all = store->all;
	store->all = ctx;
	pthread_mutex_unlock(&store->lock);
	return ctx;
}

static bool grow(void *array, size_t nr, size_t each)
{
	void **at = array;
	void *more = reallocarray(*at, nr, each);

	if (more)
		*at = more;
	return more;
}

static bool ctx_room(struct store_ctx *ctx, size_t nr)
{
	size_t cap = MC_MAX(ctx->cap, 16);

	if (nr <= ctx->cap)
		return true;
	while (cap < nr)
		cap *= 2;
	if (!grow(&ctx->items, cap, sizeof *ctx->items) || !grow(&ctx->puts, cap, sizeof *ctx->puts) ||
	    !grow(&ctx->gots, cap, sizeof *ctx->gots) || !grow(&ctx->ends, cap, sizeof *ctx->ends) ||
	    !grow(&ctx->named, cap, sizeof *ctx->named) || !grow(&ctx->group, cap, sizeof *ctx->group))
		return false;
	if (!ctx->extents.at) {
		ctx->extents.cap = MC_RPC_MESSAGE_MAX / 16; /* an extent is longer there */
		ctx->extents.at = malloc(ctx->extents.cap * sizeof *ctx->extents.at);
		ctx->targets = malloc(ctx->extents.cap * sizeof *ctx->targets);
		if (!ctx->extents.at || !ctx->targets) {
			free(ctx->extents.at);
			free(ctx->targets);
			ctx->extents.at = NULL;
			ctx->targets = NULL;
			return false;
		}
	}
	ctx->cap = cap;
	return true;
}

struct store_ctx *mc_store_ctx_get(struct mc_store *store, size_t nr, uint64_t timeout_ns)
{
	struct store_ctx *ctx;

	pthread_mutex_lock(&store->lock);
	ctx = store->idle;
	if (ctx)
		store->idle = ctx->next;
	pthread_mutex_unlock(&store->lock);
	if (!ctx)
		ctx = ctx_new(store);
	if (!ctx)
		return NULL;
	ctx->deadline_ns = mc_store_deadline(timeout_ns);
	ctx->job = NULL;
	ctx->has_why = ctx->unanswered = ctx->stranger = ctx->ending = ctx->once = false;
	ctx->why.code = 0;
	ctx->why.text[0] = '\0';
	if (!ctx_room(ctx, nr)) {
		mc_store_ctx_put(ctx);
		return NULL;
	}
	return ctx;
}

void mc_store_ctx_put(struct store_ctx *ctx)
{
	struct mc_store *store = ctx->store;

	pthread_mutex_lock(&store->lock);
	ctx->next = store->idle;
	store->idle = ctx;
	pthread_mutex_unlock(&store->lock);
}

int mc_store_why(struct store_ctx *ctx, int code, const char *fmt, ...)
{
	va_list ap;

	if (ctx->has_why)
		return code;
	ctx->has_why = true;
	ctx->why.code = code;
	va_start(ap, fmt);
	vsnprintf(ctx->why.text, sizeof ctx->why.text, fmt, ap);
	va_end(ap);
	return code;
}

void mc_store_unlogged(struct store_ctx *ctx, const struct store_item *item)
{
	mc_store_why(ctx, -ENOSPC, "store: key '%.*s': master '%s' could not log it, its disk is full: make room in its folder (--dir)",
		     (int)MC_MIN(item->op->key_len, 200), (const char *)item->op->key, ctx->store->master);
}

int mc_store_result(struct store_ctx *ctx, int r, struct mc_error *err)
{
	if (r && err) {
		if (ctx->has_why)
			mc_fail(err, ctx->why.code, "%s", ctx->why.text);
		else
			mc_fail(err, r, "store: %s", strerror(r < 0 ? -r : EIO));
	}
	mc_store_ctx_put(ctx);
	return r;
}

int mc_store_pause(struct store_ctx *ctx, uint64_t span_ns)
{
	uint64_t now = mc_store_now();
	uint64_t until = MC_MIN(ctx->deadline_ns, now + span_ns);

	while (now < until && !mc_store_canceled(ctx)) {
		uint64_t nap = MC_MIN(until - now, 20 * MC_MSEC);

		nanosleep(&(struct timespec){.tv_sec = 0, .tv_nsec = (long)nap}, NULL);
		now = mc_store_now();
	}
	return mc_store_canceled(ctx) ? -ECANCELED : now >= ctx->deadline_ns ? -ETIMEDOUT : 0;
}

/* ---- one try ---------------------------------------------------------------------------------------- */

static bool away(int status)
{
	return status == -ETIMEDOUT || status == -EHOSTDOWN || status == -ENOENT || status == -ECONNREFUSED ||
	       status == -ECONNRESET || status == -EHOSTUNREACH || status == -ENOBUFS || status == -ESTALE ||
	       status == -ECANCELED || status == -EPIPE || status == -ENETDOWN || status == -ENOTCONN;
}

/* Whether an answer of the service's came, and its head. */
static bool answered(struct store_ctx *ctx)
{
	if (ctx->call.reply_len < 8 || ctx->call.reply_len > MC_RPC_MESSAGE_MAX)
		return false;
	ctx->in = mc_wire_reader(ctx->reply, ctx->call.reply_len);
	mc_wire_reply(&ctx->in, &ctx->head);
	return !ctx->in.broken;
}

static void saw_epoch(struct mc_store *store, uint64_t epoch)
{
	uint64_t before = atomic_load_explicit(&store->epoch, memory_order_relaxed);

	if (MC_LIKELY(epoch == before))
		return;
	atomic_store(&store->epoch, epoch);
	if (!before)
		return;
	pthread_mutex_lock(&store->lock);
	store->remount = true;
	pthread_cond_broadcast(&store->changed);
	pthread_mutex_unlock(&store->lock);
}

static int try_once(struct store_ctx *ctx, enum mc_wire_method method, uint64_t timeout_ns)
{
	size_t len = mc_wire_len(&ctx->out, MC_RPC_MESSAGE_MAX);
	int r;

	if (!len)
		return -EMSGSIZE;
	ctx->call = (struct mc_rpc_call){.size = sizeof ctx->call, .method = method, .data = ctx->request, .len = len,
					 .reply = ctx->reply, .reply_cap = MC_RPC_MESSAGE_MAX};
	ctx->sent_ns = mc_store_now();
	r = mc_rpc_start(ctx->store->rpc, &ctx->call, timeout_ns);
	if (r < 0)
		return r;
	r = mc_rpc_wait(ctx->store->rpc, &ctx->call);
	return r < 0 ? r : ctx->call.status;
}

void mc_store_begin(struct store_ctx *ctx, uint16_t flags, uint32_t count)
{
	struct mc_wire_request head = {.flags = flags, .count = count, .tenant = ctx->store->tenant};

	pthread_mutex_lock(&ctx->store->lock);
	head.version = ctx->store->terms.version;
	head.client = ctx->store->client;
	pthread_mutex_unlock(&ctx->store->lock);
	if (!head.version)
		head.version = MC_WIRE_VERSION_MIN;
	ctx->out = mc_wire_writer(ctx->request, MC_RPC_MESSAGE_MAX);
	mc_wire_request(&ctx->out, &head, false);
}

int mc_store_nonsense(struct store_ctx *ctx)
{
	return mc_store_why(ctx, -EBADMSG, "store: master '%s': its answer cannot be read", ctx->store->master);
}

/* The master does not know us: say who we are, and write it into the message.  */
static int hello_again(struct store_ctx *ctx, uint64_t seen)
{
	struct mc_store *store = ctx->store;
	struct mc_error why = {0};
	int r = mc_store_hello(store, seen, ctx->deadline_ns, &why);

	if (r < 0)
		return mc_store_why(ctx, r, "store: master '%s': %s", store->master, why.text[0] ? why.text : strerror(-r));
	pthread_mutex_lock(&store->lock);
	memcpy(ctx->request + CLIENT_AT, &store->client, sizeof store->client);
	pthread_mutex_unlock(&store->lock);
	return 0;
}

static int gave_up(struct store_ctx *ctx, int r)
{
	const struct mc_store *store = ctx->store;

	if (r == -ECANCELED || mc_store_canceled(ctx))
		return mc_store_why(ctx, -ECANCELED, "store: canceled");
	if (r == -ETIMEDOUT)
		return mc_store_why(ctx, r, "store: master '%s': no answer in time", store->master);
	return mc_store_why(ctx, -EHOSTDOWN, "store: master '%s' cannot be reached: %s", store->master, strerror(-r));
}

int mc_store_call(struct store_ctx *ctx, enum mc_wire_method method)
{
	struct mc_store *store = ctx->store;
	uint64_t nap = 2 * MC_MSEC, seen, left;
	const char *text = "";
	int r;

	ctx->unanswered = false;
	for (;;) {
		pthread_mutex_lock(&store->lock);
		seen = store->hello_nr;
		pthread_mutex_unlock(&store->lock);
		left = mc_store_left(ctx->deadline_ns);
		if (!left)
			return gave_up(ctx, -ETIMEDOUT);
		r = try_once(ctx, method, MC_MIN(left, STORE_ATTEMPT_NS));
		if (r == -EMSGSIZE || r == -EINVAL || r == -EACCES || r == -ENOMEM || r == -EDEADLK)
			if (!answered(ctx))
				return mc_store_why(ctx, r, "store: master '%s': %s", store->master, strerror(-r));
		if (answered(ctx)) {
			saw_epoch(store, ctx->head.epoch);
			if (r == 0)
				return 0;
			if (r != -ESTALE || ctx->stranger) {
				mc_wire_sentence(&ctx->in, &text);
				return mc_store_why(ctx, r, "store: %s", !ctx->in.broken && text && *text ? text : strerror(-r));
			}
			r = hello_again(ctx, seen);
			if (r < 0)
				return r;
			continue;
		}
		if (r == 0)
			return mc_store_nonsense(ctx);
		if (!away(r))
			return gave_up(ctx, r);
		ctx->unanswered = true;
		if (ctx->once)
			return gave_up(ctx, r);
		left = r == -ETIMEDOUT ? MC_MSEC : nap;
		nap = MC_MIN(2 * nap, 100 * MC_MSEC);
		if (mc_store_pause(ctx, left) < 0)
			return gave_up(ctx, r);
	}
}

/* ---- who we are --------------------------------------------------------------------------------------- */

static int versions_differ(const struct mc_wire_welcome *w, struct mc_error *err)
{
	return mc_fail(err, -EPROTONOSUPPORT, "it speaks versions %u to %u of the store's protocol, this library %d to %d", w->min,
		       w->max, MC_WIRE_VERSION_MIN, MC_WIRE_VERSION_MAX);
}

uint64_t mc_store_span(const struct mc_store *store)
{
	return MC_MAX(store->terms.lease_ns, store->terms.put_ttl_ns);
}

static int hello_once(struct store_ctx *ctx, struct mc_error *err)
{
	struct mc_store *store = ctx->store;
	struct mc_wire_hello hello = {.min = MC_WIRE_VERSION_MIN, .max = MC_WIRE_VERSION_MAX, .host = store->host};
	struct mc_wire_welcome w = {0};
	uint64_t left = mc_store_left(ctx->deadline_ns);
	const char *text = "";
	int r;

	mc_store_begin(ctx, 0, 0);
	mc_wire_hello(&ctx->out, &hello);
	r = left ? try_once(ctx, MC_WIRE_HELLO, MC_MIN(left, STORE_ATTEMPT_NS)) : -ETIMEDOUT;
	if (!answered(ctx))
		return r ? r : mc_fail(err, -EBADMSG, "its answer cannot be read");
	if (r < 0) {
		mc_wire_sentence(&ctx->in, &text);
		return mc_fail(err, r, "%s", !ctx->in.broken && text && *text ? text : strerror(-r));
	}
	mc_wire_welcome(&ctx->in, &w);
	if (mc_wire_end(&ctx->in) < 0)
		return mc_fail(err, -EBADMSG, "its answer cannot be read");
	if (!w.version)
		return versions_differ(&w, err);
	atomic_store(&store->epoch, ctx->head.epoch);
	pthread_mutex_lock(&store->lock);
	/* Not a master that has read its log: it has given us up, or knows nothing of before.  Others may still read and
	 * write where it, or the one before it, has sent them. */
	if (store->hello_nr && ctx->head.epoch <= store->hello_epoch)
		store->rest_until = mc_store_now() + mc_store_span(store);
	store->hello_epoch = ctx->head.epoch;
	store->terms = w;
	store->hello_nr++;
	store->remount = true;
	pthread_cond_broadcast(&store->changed);
	pthread_mutex_unlock(&store->lock);
	return 0;
}

struct find {
	const char *name;
	bool found;
};

static int find_name(void *ctx, const char *name)
{
	struct find *find = ctx;

	find->found |= strcmp(name, find->name) == 0;
	return find->found;
}

/* Is there an engine of the master's name at all?  Who knows, if the metadata do not answer. */
static bool is_there(struct mc_store *store, uint64_t deadline_ns)
{
	struct find find = {.name = store->master};

	return mc_segment_list(store->engine, MC_MIN(mc_store_left(deadline_ns), 2 * MC_SEC), find_name, &find, NULL) < 0 || find.found;
}

int mc_store_hello(struct mc_store *store, uint64_t seen, uint64_t deadline_ns, struct mc_error *err)
{
	struct store_ctx *ctx = mc_store_ctx_get(store, 1, MC_FOREVER);
	bool first = !seen, known;
	int r = 0;

	if (!ctx)
		return mc_fail(err, -ENOMEM, "out of memory");
	ctx->deadline_ns = deadline_ns;
	pthread_mutex_lock(&store->hello_lock);
	pthread_mutex_lock(&store->lock);
	known = store->hello_nr != seen; /* another thread was faster */
	pthread_mutex_unlock(&store->lock);
	for (uint64_t nap = 2 * MC_MSEC; !known; nap = MC_MIN(2 * nap, 100 * MC_MSEC)) {
		r = hello_once(ctx, err);
		if (r == -ESTALE && answered(ctx)) {
			/* We were given up, and what we had with it: be somebody new. */
			pthread_mutex_lock(&store->lock);
			mc_store_random(&store->client, sizeof store->client);
			pthread_mutex_unlock(&store->lock);
			continue;
		}
		if (first && r == -EHOSTDOWN && !is_there(store, deadline_ns))
			r = -ENOENT;
		if (r == 0 || !away(r) || (first && r == -ENOENT) || mc_store_pause(ctx, nap) < 0)
			break;
	}
	pthread_mutex_unlock(&store->hello_lock);
	if (r < 0 && err && !err->text[0])
		mc_fail(err, r, "%s", r == -ETIMEDOUT ? "no answer in time" : strerror(-r));
	mc_store_ctx_put(ctx);
	return r;
}
