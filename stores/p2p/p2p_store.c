/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A store: opened and closed; time, waiting, rates and log lines for all of it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "p2p_impl.h"

#define SLOT_NS (4 * MC_SEC) /* a getter that died holds a slot for so long */

uint64_t mc_p2p_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * MC_SEC + (uint64_t)ts.tv_nsec;
}

uint64_t mc_p2p_deadline(uint64_t timeout_ns)
{
	uint64_t now = mc_p2p_now();

	return timeout_ns > MC_FOREVER - now ? MC_FOREVER : now + timeout_ns;
}

uint64_t mc_p2p_left(uint64_t deadline_ns)
{
	uint64_t now = mc_p2p_now();

	return deadline_ns == MC_FOREVER ? MC_FOREVER : deadline_ns > now ? deadline_ns - now : 0;
}

void mc_p2p_log(const struct mc_p2p *store, enum mc_log_level level, const char *fmt, ...)
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
		fprintf(stderr, "p2p: %s\n", line);
}

void mc_p2p_cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(cond, &attr);
	pthread_condattr_destroy(&attr);
}

void mc_p2p_cond_until(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t until_ns)
{
	struct timespec ts = {.tv_sec = (time_t)(until_ns / MC_SEC), .tv_nsec = (long)(until_ns % MC_SEC)};

	if (until_ns == MC_FOREVER)
		pthread_cond_wait(cond, lock);
	else
		pthread_cond_timedwait(cond, lock, &ts);
}

uint64_t mc_p2p_rate_take(struct p2p_rate *rate, uint64_t bytes)
{
	uint64_t now, wait;

	if (rate->rate == 0)
		return 0;
	now = mc_p2p_now();
	pthread_mutex_lock(&rate->lock);
	rate->next_ns = MC_MAX(rate->next_ns, now - 20 * MC_MSEC);
	wait = rate->next_ns > now ? rate->next_ns - now : 0;
	rate->next_ns += (uint64_t)((double)bytes / (double)rate->rate * 1e9);
	pthread_mutex_unlock(&rate->lock);
	return wait;
}

/* ---- opening --------------------------------------------------------------------------------- */

/* What names this running host: engines with the same are on it. */
static void host_id(char host[64])
{
	FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");

	if (!f || !fgets(host, 64, f))
		gethostname(host, 64);
	host[63] = '\0';
	host[strcspn(host, "\n")] = '\0';
	if (f)
		fclose(f);
}

static int take_options(struct mc_p2p *s, const struct mc_p2p_options *options, struct mc_error *err)
{
	struct mc_p2p_options *o = &s->options;

	if (options)
		memcpy(o, options, MC_MIN(options->size, sizeof *o));
	o->size = sizeof *o;
	if (!o->max_serve)
		o->max_serve = 4;
	if (!o->lanes)
		o->lanes = 4;
	if (!o->patience_ns)
		o->patience_ns = MC_P2P_PATIENCE_NS;
	if (o->max_serve > 1024 || o->lanes > 64)
		return mc_fail(err, -EINVAL, "p2p store: max_serve is at most 1024 and lanes at most 64");
	if (o->rack && strlen(o->rack) > MC_P2P_LABEL_MAX)
		return mc_fail(err, -EINVAL, "p2p store: the rack's label is longer than %d bytes", MC_P2P_LABEL_MAX);
	if (o->rack && *o->rack && mc_p2p_name_check(o->rack, NULL) < 0)
		return mc_fail(err, -EINVAL, "p2p store: the rack's label is UTF-8 without control characters");
	snprintf(s->rack, sizeof s->rack, "%s", o->rack ? o->rack : "");
	o->rack = s->rack;
	s->rate_get.rate = o->max_rate_get;
	return 0;
}

static int serve_new(struct mc_p2p *s)
{
	struct mc_p2p_serve_limits limits = {.slots = s->options.max_serve, .queue = MC_MIN(s->options.max_serve, P2P_ASKS),
					     .slot_ns = SLOT_NS, .rate = s->options.max_rate_serve};

	return mc_p2p_serve_new(&limits, &s->serve);
}

int mc_p2p_open(struct mc_engine *engine, const struct mc_p2p_options *options, struct mc_p2p **ret_store,
		struct mc_error *err)
{
	struct mc_p2p *s;
	int r;

	if (!engine || !ret_store)
		return mc_fail(err, -EINVAL, "p2p store: engine and ret_store may not be NULL");
	s = calloc(1, sizeof *s);
	if (!s)
		return mc_fail(err, -ENOMEM, "p2p store: out of memory");
	s->engine = engine;
	pthread_mutex_init(&s->lock, NULL);
	pthread_mutex_init(&s->rate_get.lock, NULL);
	mc_p2p_cond_init(&s->cond);
	host_id(s->host);
	r = take_options(s, options, err);
	if (r == 0 && serve_new(s) < 0)
		r = mc_fail(err, -ENOMEM, "p2p store: out of memory");
	if (r == 0) {
		r = mc_rpc_serve(engine, MC_P2P_SERVICE, mc_p2p_handle, s, &s->service, err);
		if (r == -EEXIST)
			mc_fail(err, r, "p2p store: engine '%s' has one already", mc_engine_name(engine));
	}
	if (r == 0) {
		r = -pthread_create(&s->clerk, NULL, mc_p2p_clerk, s);
		if (r < 0)
			mc_fail(err, r, "p2p store: no thread: %s", strerror(-r));
	}
	if (r < 0) {
		mc_rpc_unserve(s->service);
		mc_p2p_serve_free(s->serve);
		free(s);
		return r;
	}
	*ret_store = s;
	return 0;
}

int mc_p2p_close(struct mc_p2p *store, uint64_t timeout_ns)
{
	uint64_t deadline = mc_p2p_deadline(timeout_ns);
	int r = 0;

	if (!store)
		return 0;
	pthread_mutex_lock(&store->lock);
	if (store->nr_gets) {
		pthread_mutex_unlock(&store->lock);
		return -EBUSY;
	}
	store->stop = true;
	pthread_cond_broadcast(&store->cond);
	pthread_mutex_unlock(&store->lock);
	pthread_join(store->clerk, NULL);
	while (store->objects) {
		struct p2p_object *o = store->objects;
		int e;

		o->busy = true;
		e = mc_p2p_object_retire(o, deadline, NULL);
		r = r < 0 ? r : e;
	}
	mc_rpc_unserve(store->service);
	mc_p2p_serve_free(store->serve);
	pthread_cond_destroy(&store->cond);
	pthread_mutex_destroy(&store->lock);
	pthread_mutex_destroy(&store->rate_get.lock);
	free(store);
	return r;
}
