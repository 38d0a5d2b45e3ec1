/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a run to the paths that carry it: the best usable tier of its route, in it the
 * path that would be done first, all of them for a large run.  The submitting thread
 * lends itself to the workers whose batons are free.
 */
#include <errno.h>

#include "path.h"
#include "stage.h"

/* A run this large is offered to every path of the tier, a smaller one to the best alone. */
#define SPREAD_BYTES (256u << 10)
#define CHUNK_MIN (64u << 10)

static MC_PER_THREAD struct mc_lending *lending_now;

/* ---- lending batons -------------------------------------------------------------------------------------- */

void mc_lend_begin(struct mc_lending *lending, uint64_t now)
{
	lending->now = now;
	lending->nr = 0;
	lending->has_copy = false;
	/* Inside a callback or a turn the work goes through the inbox. */
	lending->off = mc_worker_any_mine();
	lending->outer = lending_now;
	lending_now = lending;
}

void mc_lend_end(struct mc_lending *lending)
{
	lending_now = lending->outer;
	while (lending->nr) {
		struct mc_worker *w = lending->held[--lending->nr];

		mc_worker_turn(w);
		mc_worker_pause(w);
	}
}

static bool lent(struct mc_worker *w)
{
	struct mc_lending *l = lending_now;

	if (!l || l->off)
		return false;
	if (mc_worker_mine(w))
		return true;
	if (l->nr == MC_ARRAY_SIZE(l->held) || (l->has_copy && mc_worker_cpu_copy(w)))
		return false;
	if (!l->now)
		l->now = mc_now_ns();
	if (!mc_worker_resume(w, false, l->now))
		return false;
	l->held[l->nr++] = w;
	l->has_copy |= mc_worker_cpu_copy(w);
	return true;
}

static void link_arrived(struct mc_post *post)
{
	struct mc_link *link = MC_CONTAINER_OF(post, struct mc_link, post);

	mc_path_enqueue(link->path, link);
}

void mc_path_hand(struct mc_path *path, struct mc_link *link)
{
	struct mc_worker *w = path->lane->worker;

	mc_batch_add_worker(link->run->batch, w);
	if (lent(w)) {
		mc_path_enqueue(path, link);
		return;
	}
	link->post.run = link_arrived;
	mc_worker_post(w, &link->post);
}

/* ---- dispatching -------------------------------------------------------------------------------------------- */

/* One that probes after a failure holds nobody up who has another rail. */
static bool may_carry(const struct mc_path *path)
{
	struct mc_path *p = (struct mc_path *)(uintptr_t)path;
	uint32_t state = atomic_load_explicit(&p->state, memory_order_relaxed);

	return state == MC_PATH_UP || (state == MC_PATH_IDLE && mc_path_device_up(path)) ||
	       (state == MC_PATH_OPENING && !atomic_load_explicit(&p->failures, memory_order_relaxed));
}

/* The device carries that direction, and what is aligned like this, and reaches both buffers; else why it
 * does not. */
static inline enum mc_verdict judge_fit(const struct mc_run *run, const struct mc_path *path, uint8_t stage)
{
	uint32_t alignment = path->lane->caps.alignment;
	uint32_t need = run->opcode == MC_OP_READ ? MC_CAP_READ : MC_CAP_WRITE;

	if (!(path->lane->caps.flags & need))
		return MC_RAIL_DIRECTION;
	if (MC_UNLIKELY(run->lbuf->lacks) && !(stage & MC_STAGE_LOCAL) &&
	    run->lbuf->blobs[path->lane->device->idx].lacks)
		return MC_RAIL_UNREGISTERED;
	if (MC_UNLIKELY(atomic_load_explicit(&((struct mc_run *)(uintptr_t)run)->nr_barred, memory_order_relaxed)) &&
	    mc_run_barred(run, path))
		return MC_RAIL_BARRED;
	return alignment <= 1 || !(run->ored & (alignment - 1)) ? MC_RAIL_CARRIES : MC_RAIL_ALIGNMENT;
}

static bool fits(const struct mc_run *run, const struct mc_path *path, uint8_t stage)
{
	return judge_fit(run, path, stage) == MC_RAIL_CARRIES;
}

/* The best tier with a path for the run, one that may carry it now unless whatever; nr_tiers if
 * there is none. */
static size_t best_tier(const struct mc_run *run, bool whatever)
{
	const struct mc_route *route = run->route;

	for (size_t t = 0; t < route->nr_tiers; t++)
		for (size_t i = 0; i < route->tiers[t].nr; i++)
			if (fits(run, route->tiers[t].paths[i], route->tiers[t].stage) &&
			    (whatever || may_carry(route->tiers[t].paths[i])))
				return t;
	return route->nr_tiers;
}

bool mc_route_usable(const struct mc_run *run)
{
	return best_tier(run, false) < run->route->nr_tiers;
}

/* Seconds until the path would have carried len more bytes: what the whole device has in flight
 * counts, not only this peer's share. */
static double finish_time(const struct mc_path *path, uint64_t len)
{
	struct mc_path *p = (struct mc_path *)(uintptr_t)path;
	double queued = (double)atomic_load_explicit(&p->lane->inflight, memory_order_relaxed);
	double rate = (double)atomic_load_explicit(&p->rate, memory_order_relaxed);

	return (queued + (double)len) / (rate * p->lane->device->weight);
}

static bool is_idle(const struct mc_path *path)
{
	struct mc_path *p = (struct mc_path *)(uintptr_t)path;

	return !atomic_load_explicit(&p->lane->inflight, memory_order_relaxed);
}

/* The path of the tier, in which some path fits, that would be done first.  If none may carry, one that fits:
 * the work waits there.  NULL: the peer has just barred what fitted. */
static struct mc_path *best_path(const struct mc_run *run, const struct mc_route_tier *tier)
{
	struct mc_path *best = NULL, *any = NULL;
	double least = 0;

	if (tier->nr == 1)
		return tier->paths[0];
	for (size_t i = 0; i < tier->nr; i++) {
		double t;

		if (!fits(run, tier->paths[i], tier->stage))
			continue;
		any = any ? any : tier->paths[i];
		if (!may_carry(tier->paths[i]))
			continue;
		/* Another lane of an idle device would not be done sooner. */
		if (best && best->lane->device == tier->paths[i]->lane->device && is_idle(best))
			continue;
		t = finish_time(tier->paths[i], run->bytes);
		if (!best || t < least) {
			best = tier->paths[i];
			least = t;
		}
	}
	return best ? best : any;
}

/* Is the run large enough for more than the best path of a tier, and a tier below that it spills to? */
static bool spreads(const struct mc_run *run)
{
	return run->bytes >= SPREAD_BYTES;
}

static bool spills(const struct mc_run *run)
{
	return run->session->engine->set->spill && spreads(run);
}

static void offer(struct mc_run *run, struct mc_path *path, uint8_t stage)
{
	uint32_t used = atomic_load(&run->links_used);
	struct mc_link *link;

	/* A link in use takes every piece: whoever drops it looks once more (mc_link_give_back). */
	for (int i = 0; used >> i; i++)
		if ((used & 1u << i) &&
		    __atomic_load_n(&run->links[i].path, __ATOMIC_RELAXED) == path)
			return;
	link = mc_run_link(run, path);
	if (!link)
		return;
	link->stage = stage;
	mc_path_hand(path, link);
}

/* A large run is worked on by every path of the tier at once: each takes pieces as it has room. */
static void spread(struct mc_run *run, const struct mc_route_tier *tier)
{
	struct mc_path *best = best_path(run, tier);

	if (!best)
		return;
	offer(run, best, tier->stage);
	if (!spreads(run))
		return;
	for (size_t i = 0; i < tier->nr; i++)
		if (tier->paths[i] != best && fits(run, tier->paths[i], tier->stage) && may_carry(tier->paths[i]))
			offer(run, tier->paths[i], tier->stage);
}

static void set_chunk(struct mc_run *run, const struct mc_route_tier *tier)
{
	uint64_t share = tier->nr > 1 ? run->bytes / (4 * tier->nr) : UINT64_MAX;

	run->chunk = MC_MIN(run->route->chunk, MC_MAX(share & ~(run->route->alignment - 1), (uint64_t)CHUNK_MIN));
	run->max_piece = run->route->max_piece;
	/* Small adjacent requests travel together, but leave something for the other rails. */
	if (tier->nr > 1 && run->bytes >= SPREAD_BYTES)
		run->max_piece = MC_MAX(run->chunk, run->route->alignment);
}

/* The run's route, found once; false: the run has ended. */
static bool find_route(struct mc_run *run)
{
	struct mc_session *s = run->session;

	if (!run->route) {
		run->chunk = run->max_piece = UINT64_MAX;
		run->route = mc_route_get(s, run->lbuf, run->rbuf);
		if (!run->route) {
			mc_run_stop(run, -ENOMEM, MC_SCOPE_REQUEST);
			return false;
		}
	}
	if (__atomic_load_n(&s->state, __ATOMIC_ACQUIRE) == MC_SESSION_GONE) {
		mc_run_stop(run, s->gone_status, MC_SCOPE_PEER);
		return false;
	}
	if (!run->route->nr_tiers) {
		mc_run_stop(run, -ENETUNREACH, MC_SCOPE_TRANSPORT);
		return false;
	}
	return true;
}

static void dispatch(struct mc_run *run)
{
	const struct mc_route *route;
	bool fresh = !run->route;
	size_t t;

	if (!find_route(run))
		return;
	route = run->route;
	t = best_tier(run, false);
	if (fresh)
		set_chunk(run, &route->tiers[t % route->nr_tiers]);
	/* Nothing is up: it waits at the best rail, which probes; its deadline bounds the wait. */
	if (t == route->nr_tiers)
		t = best_tier(run, true);
	if (t == route->nr_tiers) {
		int barred = atomic_load(&run->barred_status);

		/* Else it is aligned for none. */
		mc_run_stop(run, atomic_load(&run->nr_barred) ? barred : -EINVAL, MC_SCOPE_REQUEST);
		return;
	}
	spread(run, &route->tiers[t]);
	if (spills(run) && t + 1 < route->nr_tiers)
		spread(run, &route->tiers[t + 1]);
}

/* How far a tier is from the one that carries, in words of the matrix. */
static enum mc_verdict judge_tier(const struct mc_route_tier *tier, const struct mc_route_tier *used)
{
	if (tier->tier != used->tier)
		return MC_RAIL_LOWER_TIER;
	return tier->stage != used->stage ? MC_RAIL_STAGED : MC_RAIL_FAILOVER;
}

void mc_route_judge(const struct mc_run *run, void (*each)(void *ctx, const struct mc_judged *judged), void *ctx)
{
	const struct mc_route *route = run->route;
	size_t t = best_tier(run, false), at = t < route->nr_tiers ? t : best_tier(run, true);
	const struct mc_path *best = at < route->nr_tiers ? best_path(run, &route->tiers[at]) : NULL;

	for (size_t i = 0; i < route->nr_tiers; i++)
		for (size_t p = 0; p < route->tiers[i].nr; p++) {
			struct mc_path *path = route->tiers[i].paths[p];
			struct mc_judged j = {
				.path = path,
				.tier = &route->tiers[i],
				.verdict = judge_fit(run, path, route->tiers[i].stage),
				.finish_s = finish_time(path, run->bytes),
				.queued = atomic_load_explicit(&path->lane->inflight, memory_order_relaxed),
				.waits = at != t && path == best,
			};

			if (j.verdict != MC_RAIL_CARRIES)
				;
			else if (!may_carry(path))
				j.verdict = MC_RAIL_FAILED;
			else if (i == t ? path != best && spreads(run) : i == t + 1 && spills(run))
				j.verdict = MC_RAIL_SHARES;
			else if (path != best)
				j.verdict = i == t ? MC_RAIL_LATER : judge_tier(&route->tiers[i], &route->tiers[at]);
			each(ctx, &j);
		}
}

void mc_route_dispatch(struct mc_run *run)
{
	/* Another worker may end the run while we still offer it. */
	atomic_fetch_add(&run->refs, 1);
	dispatch(run);
	mc_run_unref(run);
}

/* A piece that came back for another try found this link in use and left it at that, perhaps after
 * we had last looked: look again when the link is free. */
void mc_link_give_back(struct mc_link *link)
{
	struct mc_run *run = link->run;

	atomic_fetch_add(&run->refs, 1);
	mc_link_drop(link);
	if (mc_run_has_work(run))
		mc_route_dispatch(run);
	mc_run_unref(run);
}
