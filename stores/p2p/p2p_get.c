/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Gets as their callers see them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "p2p_get.h"

static void get_discard(struct mc_p2p_get *g)
{
	if (g->fd >= 0)
		close(g->fd);
	pthread_cond_destroy(&g->cond);
	pthread_mutex_destroy(&g->lock);
	free(g);
}

static int take_options(struct mc_p2p_get *g, const struct mc_p2p_get_options *options, struct mc_error *err)
{
	struct mc_p2p_get_options opt = {.size = sizeof opt};

	if (options)
		memcpy(&opt, options, MC_MIN(options->size, sizeof opt));
	if (opt.flags & ~MC_P2P_RESUME)
		return mc_fail(err, -EINVAL, "get: unknown flags %#x", opt.flags);
	if (opt.location && strlen(opt.location) > MC_LOCATION_MAX)
		return mc_fail(err, -EINVAL, "get: a location has at most %d bytes", MC_LOCATION_MAX);
	g->flags = opt.flags;
	snprintf(g->location, sizeof g->location, "%s", opt.location ? opt.location : "");
	return 0;
}

static void count_get(struct mc_p2p *store, int by)
{
	pthread_mutex_lock(&store->lock);
	store->nr_gets += (uint32_t)by;
	pthread_mutex_unlock(&store->lock);
}

int mc_p2p_get_start(struct mc_p2p *store, const char *name, const struct mc_p2p_range *ranges, size_t nr,
		     const struct mc_p2p_get_options *options, uint64_t timeout_ns, struct mc_p2p_get **ret_get,
		     struct mc_error *err)
{
	struct mc_p2p_get *g;
	int r;

	if (!store || !ret_get)
		return mc_fail(err, -EINVAL, "get: store and ret_get may not be NULL");
	g = calloc(1, sizeof *g);
	if (!g)
		return mc_fail(err, -ENOMEM, "get: out of memory");
	g->store = store;
	g->start_ns = mc_p2p_now();
	g->deadline_ns = mc_p2p_deadline(timeout_ns);
	g->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	pthread_mutex_init(&g->lock, NULL);
	mc_p2p_cond_init(&g->cond);
	r = g->fd < 0 ? mc_fail(err, -errno, "get: no descriptor: %s", strerror(errno)) : take_options(g, options, err);
	if (r == 0)
		r = mc_p2p_object_new(store, name, ranges, nr, MC_P2P_REPLICA, &g->object, err);
	if (r < 0) {
		get_discard(g);
		return r;
	}
	count_get(store, 1);
	r = -pthread_create(&g->scout, NULL, mc_p2p_scout, g);
	if (r < 0) {
		count_get(store, -1);
		mc_p2p_object_retire(g->object, 0, NULL);
		get_discard(g);
		return mc_fail(err, r, "get: no thread: %s", strerror(-r));
	}
	*ret_get = g;
	return 0;
}

int mc_p2p_get_fd(const struct mc_p2p_get *get)
{
	return get->fd;
}

void mc_p2p_get_progress(const struct mc_p2p_get *get, struct mc_p2p_progress *progress)
{
	struct mc_p2p_get *g = (struct mc_p2p_get *)get; /* for its lock */
	struct mc_p2p_progress p = {.size = sizeof p};
	size_t size = MC_MIN(progress->size, sizeof p);

	pthread_mutex_lock(&g->lock);
	p.state = g->state;
	p.status = g->state == MC_P2P_FAILED ? g->status : 0;
	p.len = g->len;
	p.nr_shards = g->nr_shards;
	p.done_len = g->done_len;
	p.resumed_len = g->resumed_len;
	p.moved_len = __atomic_load_n(&g->moved_len, __ATOMIC_RELAXED);
	p.elapsed_ns = (g->end_ns ? g->end_ns : mc_p2p_now()) - g->start_ns;
	p.done_shards = g->done_shards;
	p.nr_sources = g->nr_live;
	p.dropped = g->nr_dropped;
	p.corrupt = g->nr_corrupt;
	pthread_mutex_unlock(&g->lock);
	memcpy(progress, &p, size);
	progress->size = size;
}

int mc_p2p_get_wait(struct mc_p2p_get *get, uint64_t timeout_ns, struct mc_error *err)
{
	uint64_t until = mc_p2p_deadline(timeout_ns);
	int r = 0;

	pthread_mutex_lock(&get->lock);
	while (get->state < MC_P2P_DONE && mc_p2p_left(until))
		mc_p2p_cond_until(&get->cond, &get->lock, until);
	if (get->state < MC_P2P_DONE)
		r = mc_fail(err, -EAGAIN, "get: it goes on");
	else if (get->status < 0)
		r = mc_fail(err, get->status, "%s", get->err.text);
	pthread_mutex_unlock(&get->lock);
	return r;
}

void mc_p2p_get_cancel(struct mc_p2p_get *get)
{
	pthread_mutex_lock(&get->lock);
	get->cancel = true;
	pthread_cond_broadcast(&get->cond);
	pthread_mutex_unlock(&get->lock);
}

void mc_p2p_get_free(struct mc_p2p_get *get)
{
	if (!get)
		return;
	mc_p2p_get_cancel(get);
	pthread_join(get->scout, NULL);
	count_get(get->store, -1);
	get_discard(get);
}

int mc_p2p_get_replica(struct mc_p2p *store, const char *name, const struct mc_p2p_range *ranges, size_t nr,
		       const struct mc_p2p_get_options *options, uint64_t timeout_ns, struct mc_error *err)
{
	struct mc_p2p_get *get;
	int r = mc_p2p_get_start(store, name, ranges, nr, options, timeout_ns, &get, err);

	if (r < 0)
		return r;
	r = mc_p2p_get_wait(get, MC_FOREVER, err);
	mc_p2p_get_free(get);
	return r;
}
