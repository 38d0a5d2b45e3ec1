/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which paths could carry what.  A route lists the candidates between
 * two locations, from the matrices of both ends: a rail exists where the wires
 * agree and both memory kinds are reached, directly or by staging.  Tiers keep
 * their order, direct rails before staged ones; inside a tier each local device has
 * one partner (same subnet first; where no pair shares one, same index), the other
 * pairs follow in a tier of their own, for failover only.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "path.h"
#include "stage.h"


/* ---- building routes -------------------------------------------------------------------------------- */

struct pair {
	struct mc_device *local;
	uint16_t remote_idx;
	uint16_t wire_version;
	uint32_t tier;  /* of the worse end */
	uint8_t stage;  /* MC_STAGE_*: the end that is reached through staging only */
	bool partner;   /* not only for failover */
	uint32_t order; /* as found */
};
struct pairs {
	struct pair *list;
	size_t nr, cap;
	void (*refused)(void *ctx, const struct mc_no_rail *pair); /* NULL: nobody asks */
	void *ctx;
};

static bool has_word(const char *words, const char *word)
{
	size_t len = strlen(word);

	for (const char *at = words; (at = strstr(at, word)) != NULL; at += len)
		if ((at == words || at[-1] == ' ') && (at[len] == ' ' || !at[len]))
			return true;
	return false;
}

static bool remote_reaches(const struct mc_remote_device *remote, const struct mc_device *local,
			   const char *kind)
{
	for (const char *const *k = local->caps.remote_kinds; k && *k; k++)
		if (!strcmp(*k, "*") || !strcmp(*k, kind))
			return has_word(remote->remote_kinds, "*") || has_word(remote->remote_kinds, kind);
	return false;
}

/* What of the pair must be staged, or why there is no way.  Staged memory is host memory to the wire. */
static enum mc_verdict judge_kinds(const struct mc_device *local, const char *local_kind,
				   const struct mc_remote_device *remote, const char *remote_kind,
				   uint8_t *ret_stage)
{
	bool pool = local->engine->set->staging_pool > 0;

	*ret_stage = 0;
	if (!mc_device_reaches(local, local_kind)) {
		if (!pool || !mc_device_reaches(local, "cpu") || !mc_kind_copies(local->engine, local_kind))
			return MC_RAIL_LOCAL_KIND;
		*ret_stage |= MC_STAGE_LOCAL;
	}
	if (!remote_reaches(remote, local, remote_kind)) {
		/* A wire with an agent looks for its ranges among the buffers. */
		if (!pool || (local->caps.flags & MC_CAP_AGENT) || !strcmp(remote_kind, "cpu") ||
		    !remote_reaches(remote, local, "cpu"))
			return MC_RAIL_REMOTE_KIND;
		*ret_stage |= MC_STAGE_REMOTE;
	}
	return MC_RAIL_CARRIES;
}

static uint16_t common_version(const struct mc_device *l, const struct mc_remote_device *r)
{
	uint16_t lo = MC_MAX(l->wire_min, r->wire_min), hi = MC_MIN(l->wire_max, r->wire_max);

	return strcmp(l->wire, r->wire) == 0 && lo <= hi ? hi : 0;
}

/* Some devices have nothing but what they share with their peers: a host, a pool. */
static bool in_reach(const struct mc_device *l, const struct mc_remote_device *r)
{
	return !(l->caps.flags & MC_CAP_SAME_SUBNET) || (r->subnet[0] && !strcmp(l->info.subnet, r->subnet));
}

static enum mc_verdict judge_pair(const struct mc_device *local, const char *local_kind,
				  const struct mc_remote_device *remote, const char *remote_kind, struct pair *pair)
{
	pair->wire_version = common_version(local, remote);
	if (!pair->wire_version)
		return MC_RAIL_WIRE;
	if (!in_reach(local, remote))
		return MC_RAIL_SUBNET;
	return judge_kinds(local, local_kind, remote, remote_kind, &pair->stage);
}

static int pairs_add(struct pairs *p, const struct pair *pair)
{
	for (size_t i = 0; i < p->nr; i++)
		if (p->list[i].local == pair->local && p->list[i].remote_idx == pair->remote_idx)
			return 0;
	if (p->nr == p->cap) {
		size_t cap = p->cap ? 2 * p->cap : 16;
		struct pair *list = realloc(p->list, cap * sizeof *list);

		if (!list)
			return -ENOMEM;
		p->list = list;
		p->cap = cap;
	}
	p->list[p->nr] = *pair;
	p->list[p->nr].order = (uint32_t)p->nr;
	p->nr++;
	return 0;
}

static int find_remote(const struct mc_peer_info *info, const struct mc_matrix_entry *e)
{
	for (size_t i = 0; i < info->nr_devices; i++)
		if (!strcmp(info->devices[i].name, e->device) &&
		    (!e->transport || !strcmp(info->devices[i].transport, e->transport)))
			return (int)i;
	return -1;
}

static void refuse(const struct pairs *pairs, const struct mc_no_rail *pair)
{
	if (pairs->refused)
		pairs->refused(pairs->ctx, pair);
}

/* Pair one local device, entry le of tier lt, with every remote device of one remote tier. */
static int pair_tier(struct pairs *pairs, const struct mc_peer_info *info, struct mc_device *local,
		     const struct mc_matrix_entry *le, uint32_t lt, const char *local_kind,
		     const struct mc_matrix_tier *remote_tier, uint32_t rt, const char *remote_kind)
{
	for (size_t i = 0; i < remote_tier->nr; i++) {
		const struct mc_matrix_entry *entry = &remote_tier->entries[i];
		int idx = find_remote(info, entry), r;
		const struct mc_remote_device *remote = idx < 0 ? NULL : &info->devices[idx];
		struct pair pair = {.local = local, .tier = MC_MAX(lt, rt), .remote_idx = (uint16_t)idx};
		enum mc_verdict verdict = MC_RAIL_REMOTE_ABSENT;

		if (remote)
			verdict = judge_pair(local, local_kind, remote, remote_kind, &pair);
		if (verdict != MC_RAIL_CARRIES) {
			refuse(pairs, &(struct mc_no_rail){.local_entry = le, .remote_entry = entry, .device = local,
							   .remote = remote, .tier = pair.tier, .why = verdict});
			continue;
		}
		r = pairs_add(pairs, &pair);
		if (r < 0)
			return r;
	}
	return 0;
}

static int collect(struct pairs *pairs, struct mc_engine *engine, const struct mc_peer_info *info,
		   const struct mc_matrix_row *lrow, const char *local_kind,
		   const struct mc_matrix_row *rrow, const char *remote_kind)
{
	for (size_t lt = 0; lrow && rrow && lt < lrow->nr_tiers; lt++) {
		for (size_t i = 0; i < lrow->tiers[lt].nr; i++) {
			const struct mc_matrix_entry *e = &lrow->tiers[lt].entries[i];
			struct mc_device *local = mc_device_find(engine, e->transport, e->device);

			if (!local) {
				refuse(pairs, &(struct mc_no_rail){.local_entry = e, .tier = (uint32_t)lt,
								   .why = MC_RAIL_LOCAL_ABSENT});
				continue;
			}
			for (size_t rt = 0; rt < rrow->nr_tiers; rt++) {
				int r = pair_tier(pairs, info, local, e, (uint32_t)lt, local_kind,
						  &rrow->tiers[rt], (uint32_t)rt, remote_kind);

				if (r < 0)
					return r;
			}
		}
	}
	return 0;
}

static bool same_group(const struct pair *a, const struct pair *b)
{
	return a->local == b->local && a->tier == b->tier && a->stage == b->stage;
}

static bool same_subnet(const struct pair *p, const struct mc_peer_info *info)
{
	const char *subnet = info->devices[p->remote_idx].subnet;

	return subnet[0] && !strcmp(subnet, p->local->info.subnet);
}

/* Do any two devices of this tier share a subnet?  Then it is known how the cables go. */
static bool subnets_tell(const struct pairs *pairs, const struct pair *of, const struct mc_peer_info *info)
{
	for (size_t i = 0; i < pairs->nr; i++) {
		const struct pair *p = &pairs->list[i];

		if (p->tier == of->tier && p->stage == of->stage && same_subnet(p, info))
			return true;
	}
	return false;
}

/* One partner for each local device in each tier; none for a device that shares no subnet, where others do. */
static void choose_partners(struct pairs *pairs, const struct mc_peer_info *info)
{
	for (size_t i = 0; i < pairs->nr; i++) {
		struct pair *first = &pairs->list[i], *best = NULL;
		uint32_t index = 0, count = 0, n = 0;
		bool done = false;

		/* Only once per (device, tier): at its first pair. */
		for (size_t j = 0; j < i && !done; j++)
			done = same_group(&pairs->list[j], first);
		if (done)
			continue;
		for (size_t j = i; j < pairs->nr; j++) {
			struct pair *p = &pairs->list[j];

			if (!same_group(p, first))
				continue;
			count++;
			if (!best && same_subnet(p, info))
				best = p;
		}
		if (!best && subnets_tell(pairs, first, info))
			continue;
		index = first->local->idx % count;
		for (size_t j = i; j < pairs->nr && !best; j++)
			if (same_group(&pairs->list[j], first) && n++ == index)
				best = &pairs->list[j];
		best->partner = true;
	}
}

static int by_tier(const void *a, const void *b)
{
	const struct pair *x = a, *y = b;
	/* Inside a tier of the matrix: what goes straight first, one end staged, both. */
	uint32_t kx = (x->tier * 4 + x->stage) * 2 + !x->partner;
	uint32_t ky = (y->tier * 4 + y->stage) * 2 + !y->partner;

	if (kx != ky)
		return kx < ky ? -1 : 1;
	return x->order < y->order ? -1 : 1;
}

/* The active path of (device, remote device, lane); made if there is none.  Under paths->lock. */
static struct mc_path *path_get(struct mc_paths *paths, const struct mc_peer_info *info, const struct pair *pair,
				uint16_t lane)
{
	const struct mc_remote_device *remote = &info->devices[pair->remote_idx];
	struct mc_path *path;

	for (size_t i = 0; i < paths->nr; i++) {
		path = paths->list[i];
		if (path->lane == pair->local->lanes[lane] && path->remote_device == pair->remote_idx)
			return path;
	}
	if (paths->nr == paths->cap) {
		size_t cap = paths->cap ? 2 * paths->cap : 8;
		struct mc_path **list = realloc(paths->list, cap * sizeof *list);

		if (!list)
			return NULL;
		paths->list = list;
		paths->cap = cap;
	}
	path = mc_path_new(paths, pair->local->lanes[lane], true);
	if (!path)
		return NULL;
	path->rail_id = (uint32_t)pair->local->idx << 16 | pair->remote_idx;
	path->remote_device = pair->remote_idx;
	path->remote_lane = remote->nr_lanes ? lane % remote->nr_lanes : 0;
	path->wire_version = pair->wire_version;
	snprintf(path->remote_label, sizeof path->remote_label, "%s:%s", remote->transport, remote->name);
	paths->list[paths->nr++] = path;
	return path;
}

static void route_free(struct mc_route *route)
{
	if (!route)
		return;
	for (size_t i = 0; route->tiers && i < route->nr_tiers; i++)
		free(route->tiers[i].paths);
	free(route->tiers);
	free(route);
}

void mc_routes_free(struct mc_paths *paths)
{
	struct mc_route *route = atomic_load(&paths->routes);

	while (route) {
		struct mc_route *next = route->next;

		route_free(route);
		route = next;
	}
}

/* One device goes over all its lanes at once.  Of several, each goes over one, since lanes share the device's
 * rate, which the scheduler learns for each rail; peers are divided among them. */
static int fill_tier(struct mc_route_tier *tier, struct mc_paths *paths, const struct mc_peer_info *info,
		     const struct pair *from, size_t nr)
{
	size_t n = 0;

	for (size_t i = 0; i < nr; i++)
		n += from[i].local->nr_lanes;
	tier->paths = calloc(n, sizeof(struct mc_path *));
	if (!tier->paths)
		return -ENOMEM;
	for (size_t i = 0; i < nr; i++) {
		uint16_t lanes = from[i].local->nr_lanes;
		uint16_t first = nr > 1 ? (uint16_t)(paths->session->id % lanes) : 0;

		for (uint16_t lane = first; lane < (nr > 1 ? first + 1 : lanes); lane++) {
			struct mc_path *path = path_get(paths, info, &from[i], lane);

			if (!path)
				return -ENOMEM;
			tier->paths[tier->nr++] = path;
		}
	}
	return 0;
}

static void set_sizes(struct mc_route *route, const struct mc_engine *engine)
{
	const struct mc_settings *set = engine->set;
	uint64_t chunk = UINT64_MAX, max = UINT64_MAX, alignment = 1;

	for (size_t t = 0; t < route->nr_tiers; t++) {
		if (route->tiers[t].stage)
			max = MC_MIN(max, mc_stage_piece_max(engine));
		for (size_t i = 0; i < route->tiers[t].nr; i++) {
			const struct mc_transport_caps *caps = &route->tiers[t].paths[i]->lane->caps;

			max = MC_MIN(max, caps->max_slice ? caps->max_slice : UINT64_MAX);
			alignment = MC_MAX(alignment, (uint64_t)caps->alignment);
			if (t == 0)
				chunk = MC_MIN(chunk, caps->pref_slice ? caps->pref_slice
								       : caps->max_slice);
		}
	}
	if (set->slice_size != MC_VALUE_AUTO && set->slice_size > 0)
		chunk = (uint64_t)set->slice_size;
	/* Where a large request is cut, both sides stay aligned for every path. */
	route->alignment = alignment;
	route->max_piece = MC_MAX(max & ~(alignment - 1), alignment);
	route->chunk = MC_MAX(MC_MIN(chunk ? chunk : max, max) & ~(alignment - 1), alignment);
}

/* P7: what does not go straight is said, once per route. */
static void log_staged(const struct mc_route *route, const struct mc_session *s,
		       const struct mc_remote_buf *rbuf)
{
	const struct mc_route_tier *best = route->nr_tiers ? &route->tiers[0] : NULL;

	if (best && best->stage)
		mc_info("peer '%s': memory of kind '%s' and '%s' there: %s does not reach %s; staged through "
			"host memory", s->peer->name, route->local_kind, rbuf->kind,
			best->paths[0]->lane->label, best->stage == (MC_STAGE_LOCAL | MC_STAGE_REMOTE)
			? "either" : best->stage == MC_STAGE_LOCAL ? "ours" : "that");
}

/* Its requests end with -ENETUNREACH, which says too little. */
static void log_none(const struct mc_route *route, const struct mc_session *s,
		     const struct mc_matrix_row *rrow, const struct mc_remote_buf *rbuf)
{
	const char *name = s->peer->name;

	if (route->nr_tiers)
		return;
	if (!route->row)
		mc_warn("peer '%s': no row of our nic_priority_matrix covers our memory of kind '%s': it cannot "
			"be transferred; add a row for its location, or for \"*\"", name, route->local_kind);
	else if (!rrow)
		mc_warn("peer '%s': no row of its nic_priority_matrix covers its memory at '%s': it cannot be "
			"transferred; add a row for it there, or for \"*\"", name, rbuf->location);
	else
		mc_warn("peer '%s': no device of row '%s' here and of row '%s' there speak one wire and reach "
			"each other and the memory, even staged: it cannot be transferred; name other devices in the rows",
			name, route->row->location, rrow->location);
}

static struct mc_route *route_build(struct mc_paths *paths, const struct mc_peer_info *info,
				    const struct mc_matrix_row *lrow, const char *local_kind,
				    const struct mc_remote_buf *rbuf)
{
	struct mc_session *s = paths->session;
	const struct mc_matrix_row *rrow = mc_matrix_row_find(info->matrix, rbuf->location);
	struct mc_route *route = calloc(1, sizeof *route);
	struct pairs pairs = {.nr = 0};
	int r = -ENOMEM;

	if (route)
		r = collect(&pairs, s->engine, info, lrow, local_kind, rrow, rbuf->kind);
	if (!r && pairs.nr) {
		choose_partners(&pairs, info);
		qsort(pairs.list, pairs.nr, sizeof *pairs.list, by_tier);
		route->tiers = calloc(pairs.nr, sizeof *route->tiers);
		r = route->tiers ? 0 : -ENOMEM;
	}
	for (size_t i = 0, n; !r && i < pairs.nr; i += n) {
		for (n = 1; i + n < pairs.nr && pairs.list[i + n].tier == pairs.list[i].tier &&
			    pairs.list[i + n].stage == pairs.list[i].stage &&
			    pairs.list[i + n].partner == pairs.list[i].partner; n++)
			;
		route->tiers[route->nr_tiers].tier = pairs.list[i].tier;
		route->tiers[route->nr_tiers].partner = pairs.list[i].partner;
		route->tiers[route->nr_tiers].stage = pairs.list[i].stage;
		r = fill_tier(&route->tiers[route->nr_tiers++], paths, info, &pairs.list[i], n);
	}
	free(pairs.list);
	if (r < 0) {
		route_free(route);
		return NULL;
	}
	route->peer = info;
	route->row = lrow;
	snprintf(route->local_kind, sizeof route->local_kind, "%s", local_kind);
	snprintf(route->remote_location, sizeof route->remote_location, "%s", rbuf->location);
	set_sizes(route, s->engine);
	log_staged(route, s, rbuf);
	log_none(route, s, rrow, rbuf);
	return route;
}

static const struct mc_route *route_find(struct mc_paths *paths, const struct mc_peer_info *info,
					 const struct mc_matrix_row *row, const char *kind, const char *location)
{
	struct mc_route *route = atomic_load_explicit(&paths->routes, memory_order_acquire);

	while (route && (route->row != row || route->peer != info || strcmp(route->remote_location, location) != 0 ||
			 strcmp(route->local_kind, kind) != 0))
		route = route->next;
	return route;
}

const struct mc_route *mc_route_get(struct mc_session *s, const struct mc_local_buf *lbuf,
				    const struct mc_remote_buf *rbuf)
{
	/* Both as they are now: a reload, here or there, makes other routes. */
	const struct mc_matrix_row *row = lbuf->row;
	const struct mc_peer_info *info = s->peer;
	struct mc_paths *paths = s->paths;
	const struct mc_route *found;
	struct mc_route *route;

	if (!paths)
		return NULL;
	found = route_find(paths, info, row, lbuf->kind, rbuf->location);
	if (found)
		return found;
	pthread_mutex_lock(&paths->lock);
	found = route_find(paths, info, row, lbuf->kind, rbuf->location);
	if (!found) {
		route = route_build(paths, info, row, lbuf->kind, rbuf);
		if (route) {
			route->next = atomic_load(&paths->routes);
			atomic_store_explicit(&paths->routes, route, memory_order_release);
		}
		found = route;
	}
	pthread_mutex_unlock(&paths->lock);
	return found;
}

int mc_route_refusals(struct mc_session *s, const struct mc_local_buf *lbuf, const struct mc_remote_buf *rbuf,
		      void (*each)(void *ctx, const struct mc_no_rail *pair), void *ctx)
{
	struct pairs pairs = {.refused = each, .ctx = ctx};
	const struct mc_peer_info *info = s->peer;
	int r = collect(&pairs, s->engine, info, lbuf->row, lbuf->kind,
			mc_matrix_row_find(info->matrix, rbuf->location), rbuf->kind);

	free(pairs.list);
	return r;
}

int mc_route_check(struct mc_session *s, struct mc_error *err)
{
	const struct mc_peer_info *info = s->peer;
	struct mc_engine *engine = s->engine;
	char ours[256] = "", theirs[256] = "";
	const struct mc_device *apart = NULL;

	for (size_t i = 0; i < engine->nr_devices; i++)
		for (size_t j = 0; j < info->nr_devices; j++)
			if (common_version(engine->devices[i], &info->devices[j])) {
				if (in_reach(engine->devices[i], &info->devices[j]))
					return 0;
				apart = engine->devices[i];
			}
	if (apart)
		return mc_fail(err, -EPROTONOSUPPORT,
			       "segment '%s': no rail: %s reaches only devices of its own host or pool, and that "
			       "engine is of another; give both a device of a network in the nic_priority_matrix",
			       info->name, apart->label);
	for (size_t i = 0; i < engine->nr_devices; i++) {
		size_t at = strlen(ours);

		snprintf(ours + at, sizeof ours - at, "%s%s %u..%u", at ? ", " : "",
			 engine->devices[i]->wire, engine->devices[i]->wire_min,
			 engine->devices[i]->wire_max);
	}
	for (size_t i = 0; i < info->nr_devices; i++) {
		size_t at = strlen(theirs);

		snprintf(theirs + at, sizeof theirs - at, "%s%s %u..%u", at ? ", " : "",
			 info->devices[i].wire, info->devices[i].wire_min,
			 info->devices[i].wire_max);
	}
	return mc_fail(err, -EPROTONOSUPPORT,
		       "segment '%s': no rail: this engine speaks %s, that one speaks %s; give both a "
		       "device of the same wire in the nic_priority_matrix",
		       info->name, ours[0] ? ours : "nothing", theirs[0] ? theirs : "nothing");
}
