/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A store: opened, closed, its clock, its log, and what the arguments of a batch may be.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "store_impl.h"

#define MASTER "mooncake_master"

/* All stores of this process; a put of one of them may write into what another one lends. */
static pthread_mutex_t stores_lock = PTHREAD_MUTEX_INITIALIZER;
static struct mc_store *stores;

/* ---- clock, log, random bytes ------------------------------------------------------------------- */

uint64_t mc_store_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * MC_SEC + (uint64_t)ts.tv_nsec;
}

uint64_t mc_store_deadline(uint64_t timeout_ns)
{
	uint64_t now = mc_store_now();

	return timeout_ns > MC_FOREVER - now ? MC_FOREVER : now + timeout_ns;
}

uint64_t mc_store_left(uint64_t deadline_ns)
{
	uint64_t now = mc_store_now();

	return deadline_ns == MC_FOREVER ? MC_FOREVER : deadline_ns > now ? deadline_ns - now : 0;
}

void mc_store_log(const struct mc_store *store, enum mc_log_level level, const char *fmt, ...)
{
	char line[MC_ERROR_TEXT_MAX + 256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	for (char *c = line; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			*c = ' ';
	if (store->options.log)
		store->options.log(store->options.log_arg, level, line);
	else if (level <= MC_LOG_WARN)
		fprintf(stderr, "store: %s\n", line);
}

void mc_store_wait(struct mc_store *store, pthread_cond_t *cond, uint64_t until_ns)
{
	struct timespec ts = {.tv_sec = (time_t)(until_ns / MC_SEC), .tv_nsec = (long)(until_ns % MC_SEC)};

	if (until_ns == MC_FOREVER)
		pthread_cond_wait(cond, &store->lock);
	else
		pthread_cond_timedwait(cond, &store->lock, &ts);
}

void mc_store_random(void *to, size_t len)
{
	uint8_t *at = to;

	while (len) {
		ssize_t n = getrandom(at, len, 0);

		if (n < 0 && errno != EINTR)
			abort(); /* only without the system call */
		at += n > 0 ? n : 0;
		len -= n > 0 ? (size_t)n : 0;
	}
}

bool mc_store_writers_done(struct mc_engine *engine, uint64_t since_ns)
{
	bool done = true;

	pthread_mutex_lock(&stores_lock);
	for (struct mc_store *s = stores; s && done; s = s->next) {
		if (s->engine != engine)
			continue;
		pthread_mutex_lock(&s->lock);
		for (struct store_ctx *c = s->all; c && done; c = c->next_all) {
			uint64_t began = atomic_load(&c->writing_since);

			done = !began || began > since_ns;
		}
		pthread_mutex_unlock(&s->lock);
	}
	pthread_mutex_unlock(&stores_lock);
	return done;
}

/* ---- arguments ---------------------------------------------------------------------------------- */

static int check_op(enum mc_store_verb verb, struct mc_store_op *op, size_t idx, struct mc_error *err)
{
	uint64_t room = 0;

	op->status = 0;
	op->len = op->moved = 0;
	if (!op->key || !op->key_len || op->key_len > MC_STORE_KEY_MAX)
		return mc_fail(err, -EINVAL, "store: key %zu: it has %u bytes, not 1 to %d", idx, op->key ? op->key_len : 0,
			       MC_STORE_KEY_MAX);
	if (op->flags)
		return mc_fail(err, -EINVAL, "store: key %zu: flags of a value must be 0", idx);
	if (verb != MC_STORE_DO_PUT && verb != MC_STORE_DO_GET)
		return 0;
	for (uint32_t i = 0; i < op->nr_ranges; i++) {
		if (!op->ranges[i].addr && op->ranges[i].len)
			return mc_fail(err, -EINVAL, "store: key %zu: range %u is at NULL", idx, i);
		if (op->ranges[i].len > MC_STORE_VALUE_MAX || (room += op->ranges[i].len) > MC_STORE_VALUE_MAX)
			return mc_fail(err, -EINVAL, "store: key %zu: a value has at most %llu bytes", idx,
				       (unsigned long long)MC_STORE_VALUE_MAX);
	}
	if (verb == MC_STORE_DO_PUT && (!room || op->offset))
		return mc_fail(err, -EINVAL, "store: key %zu: %s", idx,
			       room ? "offset is for get only" : "a value has at least one byte");
	return 0;
}

int mc_store_check(struct mc_store *store, enum mc_store_verb verb, struct mc_store_op *ops, size_t nr,
		   const struct mc_store_config *config, struct mc_store_config *ret_config, struct mc_error *err)
{
	struct mc_store_config c = {0};
	uint32_t known = verb == MC_STORE_DO_PUT ? MC_STORE_SOFT_PIN | MC_STORE_HARD_PIN | MC_STORE_CHAIN |
							  MC_STORE_ALL_REPLICAS | MC_STORE_REPLACE | MC_STORE_CHECKSUM
			 : verb == MC_STORE_DO_REMOVE ? MC_STORE_FORCE
						      : MC_STORE_CHAIN | MC_STORE_CHECKSUM;
	int r = 0;

	if (!store || !ops || !nr || nr > MC_STORE_BATCH_MAX)
		return mc_fail(err, -EINVAL, "store: a batch has 1 to %d keys", MC_STORE_BATCH_MAX);
	if (config)
		memcpy(&c, config, MC_MIN(config->size, sizeof c));
	c.size = sizeof c;
	if (c.flags & ~known)
		return mc_fail(err, -EINVAL, "store: flags %#x do not go with this call", c.flags & ~known);
	if (c.nr_replicas > MC_STORE_REPLICAS_MAX)
		return mc_fail(err, -EINVAL, "store: %u replicas: there are at most %d", c.nr_replicas, MC_STORE_REPLICAS_MAX);
	if (c.parent_len > MC_STORE_KEY_MAX || (c.parent_len && !c.parent))
		return mc_fail(err, -EINVAL, "store: the parent's key has 1 to %d bytes", MC_STORE_KEY_MAX);
	if (c.preferred && strlen(c.preferred) > MC_SEGMENT_NAME_MAX)
		return mc_fail(err, -EINVAL, "store: preferred: a segment's name has at most %d bytes", MC_SEGMENT_NAME_MAX);
	for (size_t i = 0; i < nr && r == 0; i++)
		r = check_op(verb, &ops[i], i, err);
	*ret_config = c;
	return r;
}

/* ---- opening ------------------------------------------------------------------------------------ */

/* The same number for all processes under one kernel. */
static uint64_t host_id(void)
{
	uint64_t h = UINT64_C(0xcbf29ce484222325);
	char id[64] = "";
	FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");

	if (!f || !fgets(id, sizeof id, f))
		gethostname(id, sizeof id - 1);
	if (f)
		fclose(f);
	for (const char *c = id; *c && *c != '\n'; c++)
		h = (h ^ (unsigned char)*c) * UINT64_C(0x100000001b3);
	return h ? h : 1;
}

static int take_options(struct mc_store *s, const struct mc_store_options *options, struct mc_error *err)
{
	struct mc_store_options *o = &s->options;

	if (options)
		memcpy(o, options, MC_MIN(options->size, sizeof *o));
	o->size = sizeof *o;
	if (!o->staging_len)
		o->staging_len = UINT64_C(64) << 20;
	o->staging_len = MC_MAX(o->staging_len / STORE_UNIT, 1) * STORE_UNIT;
	if (!o->max_in_flight)
		o->max_in_flight = 1024;
	o->max_in_flight = MC_MAX(o->max_in_flight, 16);
	if (!o->max_jobs)
		o->max_jobs = 4;
	if (o->max_in_flight > 65536 || o->staging_len > UINT64_C(64) << 30 || o->max_jobs > STORE_MOUNTS)
		return mc_fail(err, -EINVAL, "store: max_in_flight is at most 65536, staging_len 64 GiB, max_jobs %d", STORE_MOUNTS);
	if (o->tenant && strlen(o->tenant) > MC_STORE_TENANT_MAX)
		return mc_fail(err, -EINVAL, "store: a tenant's name has at most %d bytes", MC_STORE_TENANT_MAX);
	s->master = strdup(o->master ? o->master : MASTER);
	s->tenant = strdup(o->tenant ? o->tenant : "");
	if (!s->master || !s->tenant)
		return mc_fail(err, -ENOMEM, "store: out of memory");
	o->master = s->master;
	o->tenant = s->tenant;
	return 0;
}

static void cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(cond, &attr);
	pthread_condattr_destroy(&attr);
}

static void store_free(struct mc_store *s)
{
	mc_rpc_client_close(s->rpc);
	while (s->all) {
		struct store_ctx *c = s->all;

		s->all = c->next_all;
		mc_store_ctx_free(c);
	}
	mc_store_peers_free(s);
	mc_store_staging_free(s);
	pthread_mutex_destroy(&s->hello_lock);
	pthread_mutex_destroy(&s->lend_lock);
	pthread_mutex_destroy(&s->lock);
	pthread_rwlock_destroy(&s->handles);
	pthread_cond_destroy(&s->changed);
	pthread_cond_destroy(&s->job_came);
	free(s->master);
	free(s->tenant);
	free(s);
}

struct names {
	char *at;
	size_t left;
	const char *self;
};

static int name_add(void *ctx, const char *name)
{
	struct names *n = ctx;
	int len;

	if (strcmp(name, n->self) == 0)
		return 0;
	len = snprintf(n->at, n->left, "%s'%s'", *n->at || n->left < 200 ? ", " : "", name);
	if (len < 0 || (size_t)len >= n->left)
		return 1;
	n->at += len;
	n->left -= (size_t)len;
	return 0;
}

/* There is no such service: say what there is. */
static int no_master(struct mc_store *s, uint64_t deadline_ns, const struct mc_error *why, struct mc_error *err)
{
	char list[200] = "";
	struct names names = {.at = list, .left = sizeof list, .self = mc_engine_name(s->engine)};

	mc_segment_list(s->engine, MC_MAX(mc_store_left(deadline_ns), MC_SEC), name_add, &names, NULL);
	return mc_fail(err, -ENOENT, "store: master '%s': %s; start mooncake_master with the same metadata_server, or name "
				     "it; other engines there: %s",
		       s->master, why->text[0] ? why->text : "there is none", *list ? list : "none");
}

static int begin(struct mc_store *s, uint64_t timeout_ns, struct mc_error *err)
{
	uint64_t deadline = mc_store_deadline(timeout_ns);
	struct mc_error why = {0};
	int r = mc_rpc_client_open(s->engine, s->master, MC_STORE_SERVICE, &s->rpc, err);

	if (r < 0)
		return r;
	mc_store_random(&s->client, sizeof s->client);
	mc_store_random(&s->nonce, sizeof s->nonce);
	r = mc_store_hello(s, 0, deadline, &why);
	if (r == -ENOENT)
		return no_master(s, deadline, &why, err);
	if (r < 0)
		return mc_fail(err, r, "store: master '%s': %s", s->master, why.text[0] ? why.text : strerror(-r));
	r = -pthread_create(&s->keeper, NULL, mc_store_keeper, s);
	return r < 0 ? mc_fail(err, r, "store: no thread: %s", strerror(-r)) : 0;
}

int mc_store_open(struct mc_engine *engine, const struct mc_store_options *options, uint64_t timeout_ns,
		  struct mc_store **ret_store, struct mc_error *err)
{
	struct mc_store *s;
	int r;

	if (!engine || !ret_store)
		return mc_fail(err, -EINVAL, "store: engine and ret_store may not be NULL");
	s = calloc(1, sizeof *s);
	if (!s)
		return mc_fail(err, -ENOMEM, "store: out of memory");
	s->engine = engine;
	s->host = host_id();
	s->jobs_tail = &s->jobs;
	pthread_mutex_init(&s->hello_lock, NULL);
	pthread_mutex_init(&s->lend_lock, NULL);
	pthread_mutex_init(&s->lock, NULL);
	pthread_rwlock_init(&s->handles, NULL);
	cond_init(&s->changed);
	cond_init(&s->job_came);
	r = take_options(s, options, err);
	if (r == 0)
		r = begin(s, timeout_ns, err);
	if (r < 0) {
		store_free(s);
		return r;
	}
	pthread_mutex_lock(&stores_lock);
	s->next = stores;
	stores = s;
	pthread_mutex_unlock(&stores_lock);
	*ret_store = s;
	return 0;
}

static void forget(struct mc_store *s)
{
	struct mc_store **at = &stores;

	pthread_mutex_lock(&stores_lock);
	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
	pthread_mutex_unlock(&stores_lock);
}

static int leave(struct mc_store *s, uint64_t timeout_ns)
{
	struct store_ctx *ctx = mc_store_ctx_get(s, 1, timeout_ns);
	int r = ctx ? 0 : -ENOMEM;

	if (ctx) {
		ctx->stranger = true;
		mc_store_begin(ctx, 0, 0);
		r = mc_store_call(ctx, MC_WIRE_LEAVE);
		mc_store_ctx_put(ctx);
	}
	return r == -ETIMEDOUT || r == -EHOSTDOWN ? -ETIMEDOUT : 0;
}

int mc_store_close(struct mc_store *store, uint64_t timeout_ns)
{
	uint64_t deadline = mc_store_deadline(timeout_ns);
	int r;

	if (!store)
		return 0;
	pthread_mutex_lock(&store->lock);
	if (store->nr_jobs) {
		pthread_mutex_unlock(&store->lock);
		return -EBUSY;
	}
	store->stop = true;
	pthread_cond_broadcast(&store->changed);
	pthread_cond_broadcast(&store->job_came);
	pthread_mutex_unlock(&store->lock);
	mc_store_jobs_end(store);
	pthread_join(store->keeper, NULL);
	/* The master forgets us first, so that nobody is sent here any more; then the memory is the caller's again. */
	r = leave(store, mc_store_left(deadline));
	mc_store_lent_free(store, MC_MAX(deadline, mc_store_deadline(MC_SEC)));
	forget(store);
	store_free(store);
	return r;
}
