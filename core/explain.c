/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Puts the judgements of route.c and dispatch.c into words.  The run that they are
 * asked about is never dispatched.  Only rails that would be used are connected,
 * as the data path itself would do it: when one of these fails, the next tier is
 * asked, until what is left would carry, or nothing is left.
 */
#include "explain.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "path.h"
#include "stage.h"

#define LOOK_EVERY_NS (2 * MC_MSEC)

/* What is known of one path of the route. */
struct seen {
	struct mc_judged judged;
	bool asked;     /* to connect */
	int barred;     /* 0, or why the buffer there cannot be reached */
	char why[320];  /* of its newest break */
};

struct explaining {
	const struct mc_explain *q;
	struct mc_run run;
	struct seen *seen; /* in the route's order */
	size_t nr, at;
	const struct mc_path *best; /* carries */
	void (*each)(void *ctx, const struct mc_rail *rail);
	void *ctx;
	int nr_carry;
};

/* ---- judging -------------------------------------------------------------------------------- */

static void note_judged(void *ctx, const struct mc_judged *judged)
{
	struct explaining *x = ctx;

	x->seen[x->at++].judged = *judged;
	if (judged->verdict == MC_RAIL_CARRIES)
		x->best = judged->path;
}

static void judge(struct explaining *x)
{
	x->at = 0;
	x->best = NULL;
	mc_route_judge(&x->run, note_judged, x);
}

static bool would_carry(const struct seen *s)
{
	return s->judged.verdict == MC_RAIL_CARRIES || s->judged.verdict == MC_RAIL_SHARES;
}

/* ---- connecting ----------------------------------------------------------------------------- */

struct look {
	struct seen *seen;
	const struct mc_remote_buf *rbuf; /* to be imported; NULL: none */
	bool settled;
};

/* [worker] */
static void look_at(void *arg)
{
	struct look *look = arg;
	struct seen *s = look->seen;
	struct mc_path *path = s->judged.path;
	struct mc_import *imp;

	if (!s->asked && mc_path_is(path, MC_PATH_IDLE))
		mc_path_connect(path);
	s->asked = true;
	snprintf(s->why, sizeof s->why, "%s", path->break_why);
	look->settled = mc_path_is(path, MC_PATH_DOWN) || mc_path_is(path, MC_PATH_CLOSED) ||
			atomic_load_explicit(&path->failures, memory_order_relaxed) > 0;
	if (!mc_path_is(path, MC_PATH_UP))
		return;
	if (look->rbuf && !(s->judged.tier->stage & MC_STAGE_REMOTE))
		s->barred = mc_import_get(path, look->rbuf, &imp);
	look->settled = s->barred != -EINPROGRESS;
}

/* Connect what would be used and was not asked yet, and wait for it.  False: there is nothing. */
static bool connect_best(struct explaining *x)
{
	struct timespec pause = {.tv_nsec = LOOK_EVERY_NS};
	bool any = false, open = true;

	for (size_t i = 0; i < x->nr; i++) {
		struct look look = {.seen = &x->seen[i], .rbuf = x->q->real ? x->q->rbuf : NULL};

		/* Those of its tier that would be later now may be sooner when this one has failed. */
		if (x->seen[i].asked || (!would_carry(look.seen) && look.seen->judged.verdict != MC_RAIL_LATER))
			continue;
		any = true;
		mc_worker_call(look.seen->judged.path->lane->worker, look_at, &look);
	}
	while (any && open && mc_now_ns() < x->q->deadline_ns) {
		open = false;
		for (size_t i = 0; i < x->nr; i++) {
			struct look look = {.seen = &x->seen[i], .rbuf = x->q->real ? x->q->rbuf : NULL};

			if (!look.seen->asked)
				continue;
			mc_worker_call(look.seen->judged.path->lane->worker, look_at, &look);
			open |= !look.settled;
		}
		if (open)
			nanosleep(&pause, NULL);
	}
	return any;
}

/* What could not reach the buffer, or did not answer, is out, as it would be for a run. */
static void bar(struct explaining *x)
{
	for (size_t i = 0; i < x->nr; i++) {
		struct seen *s = &x->seen[i];

		if (!s->asked || mc_run_barred(&x->run, s->judged.path))
			continue;
		if (s->barred == -EINPROGRESS || (mc_path_is(s->judged.path, MC_PATH_OPENING) &&
						  !atomic_load(&s->judged.path->failures)))
			s->barred = -ETIMEDOUT;
		if (s->barred < 0)
			mc_run_bar(&x->run, s->judged.path, s->barred);
	}
}

static void connect_all(struct explaining *x)
{
	while (mc_now_ns() < x->q->deadline_ns && connect_best(x)) {
		bar(x);
		judge(x);
	}
}

/* ---- words ---------------------------------------------------------------------------------- */

const char *mc_verdict_word(enum mc_verdict verdict)
{
	static const char *const words[MC_RAIL_VERDICTS] = {
		[MC_RAIL_CARRIES] = "carries", [MC_RAIL_SHARES] = "shares", [MC_RAIL_LATER] = "later",
		[MC_RAIL_LOWER_TIER] = "lower_tier", [MC_RAIL_STAGED] = "staged", [MC_RAIL_FAILOVER] = "failover",
		[MC_RAIL_FAILED] = "failed", [MC_RAIL_DEVICE_DOWN] = "device_down",
		[MC_RAIL_DIRECTION] = "direction", [MC_RAIL_UNREGISTERED] = "unregistered",
		[MC_RAIL_BARRED] = "barred", [MC_RAIL_ALIGNMENT] = "alignment", [MC_RAIL_ACCESS] = "access",
		[MC_RAIL_WIRE] = "wire", [MC_RAIL_SUBNET] = "subnet", [MC_RAIL_LOCAL_KIND] = "local_kind", [MC_RAIL_REMOTE_KIND] = "remote_kind",
		[MC_RAIL_LOCAL_ABSENT] = "local_absent", [MC_RAIL_REMOTE_ABSENT] = "remote_absent",
	};

	return words[verdict];
}

static enum mc_verdict final_verdict(const struct explaining *x, const struct seen *s)
{
	enum mc_verdict v = s->judged.verdict;

	if (x->q->denied)
		return MC_RAIL_ACCESS;
	if (s->barred < 0 && v < MC_RAIL_FAILED) /* a run has no room to remember more of them */
		v = MC_RAIL_BARRED;
	if (v == MC_RAIL_BARRED && s->barred == -EACCES)
		return MC_RAIL_ACCESS;
	if (v == MC_RAIL_BARRED && s->barred == -ETIMEDOUT)
		return MC_RAIL_FAILED;
	if (v == MC_RAIL_FAILED && !mc_path_device_up(s->judged.path))
		return MC_RAIL_DEVICE_DOWN;
	return v;
}

static void failover_words(const struct explaining *x, const struct mc_path *path, char *buf, size_t cap)
{
	const struct mc_device *d = path->lane->device;
	const char *there = x->q->session->peer->devices[path->remote_device].subnet;

	if (d->info.subnet[0] && there[0] && strcmp(d->info.subnet, there) != 0)
		snprintf(buf, cap, "other subnet (%s here, %s there): used when every rail above it is down",
			 d->info.subnet, there);
	else
		snprintf(buf, cap, "each device has one partner there, and this is not it: used when every rail above it is "
			 "down");
}

static void words(const struct explaining *x, const struct seen *s, enum mc_verdict verdict, char *buf, size_t cap)
{
	const struct mc_path *path = s->judged.path;
	bool read = x->q->opcode == MC_OP_READ;
	const char *why;

	switch (verdict) {
	case MC_RAIL_CARRIES:
		snprintf(buf, cap, "carries it");
		break;
	case MC_RAIL_SHARES:
		snprintf(buf, cap, "carries pieces of it, too");
		break;
	case MC_RAIL_LATER:
		snprintf(buf, cap, "%s -> %s would be done sooner, and it is too little to share",
			 x->best ? x->best->lane->label : "another", x->best ? x->best->remote_label : "another");
		break;
	case MC_RAIL_LOWER_TIER:
		snprintf(buf, cap, "lower tier: used when every rail above it is down%s",
			 x->q->session->engine->set->spill ? ", or full (spill)" : "");
		break;
	case MC_RAIL_STAGED:
		snprintf(buf, cap, "used when no rail of its tier goes straight");
		break;
	case MC_RAIL_FAILOVER:
		failover_words(x, path, buf, cap);
		break;
	case MC_RAIL_FAILED:
		snprintf(buf, cap, "%s%s%s", s->barred == -ETIMEDOUT ? "path failed: it was not up in time" : "path failed",
			 s->why[0] ? ": " : "", s->why);
		break;
	case MC_RAIL_DEVICE_DOWN:
		snprintf(buf, cap, "device down: %s here", path->lane->device->label);
		break;
	case MC_RAIL_DIRECTION:
		snprintf(buf, cap, "the device carries no %s", read ? "reads" : "writes");
		break;
	case MC_RAIL_UNREGISTERED:
		why = x->q->lbuf->blobs[path->lane->device->idx].why;
		snprintf(buf, cap, "the device could not register the memory here%s%s", why ? ": " : "", why ? why : "");
		break;
	case MC_RAIL_BARRED:
		snprintf(buf, cap, "it cannot reach the buffer there: %s", strerror(-s->barred));
		break;
	case MC_RAIL_ALIGNMENT:
		snprintf(buf, cap, "alignment: addresses and size must be multiples of %u", path->lane->caps.alignment);
		break;
	case MC_RAIL_ACCESS:
		snprintf(buf, cap, "access: %s", x->q->denied ? x->q->denied
			 : "the peer keeps the keys of the buffer from us, for its access list leaves us fewer rights");
		break;
	default: /* those that are no rails: tell_refused */
		snprintf(buf, cap, "%s", mc_verdict_word(verdict));
		break;
	}
}

/* ---- telling -------------------------------------------------------------------------------- */

/* How the device reaches the memory here, where it has something to say about that. */
static void region_words(const struct explaining *x, const struct seen *s, char *buf, size_t cap)
{
	const struct mc_device *d = s->judged.path->lane->device;
	void *region = x->q->lbuf->regions ? x->q->lbuf->regions[d->idx] : NULL;
	char how[400] = "";
	size_t at = strlen(buf);

	if (region && !(s->judged.tier->stage & MC_STAGE_LOCAL))
		d->ops->mem_explain(d->lanes[0]->inst, region, how, sizeof how);
	if (how[0] && at < cap)
		snprintf(buf + at, cap - at, "; memory here %s", how);
}

/* What passes through host memory on this rail. */
static void stage_words(const struct seen *s, char *buf, size_t cap)
{
	static const char *const ends[] = {
		[MC_STAGE_LOCAL] = "memory here", [MC_STAGE_REMOTE] = "memory there",
		[MC_STAGE_LOCAL | MC_STAGE_REMOTE] = "memory of both ends",
	};
	size_t at = strlen(buf);

	if (s->judged.tier->stage && at < cap)
		snprintf(buf + at, cap - at, "; %s staged through host memory", ends[s->judged.tier->stage]);
}

static void tell(struct explaining *x, const struct seen *s)
{
	const struct mc_path *path = s->judged.path;
	uint64_t rate = atomic_load_explicit(&s->judged.path->rate, memory_order_relaxed);
	char why[MC_ERROR_TEXT_MAX + 64];
	struct mc_rail rail = {
		.local = path->lane->label,
		.remote = path->remote_label,
		.tier = s->judged.tier->tier,
		.verdict = final_verdict(x, s),
		.why = why,
		.stage = s->judged.tier->stage,
		.finish_s = s->judged.finish_s,
		.queued = s->judged.queued,
		.rate = rate,
		.learned = rate != path->nominal,
		.weight = path->lane->device->weight,
	};

	words(x, s, rail.verdict, why, sizeof why);
	stage_words(s, why, sizeof why);
	region_words(x, s, why, sizeof why);
	if (s->judged.waits && (rail.verdict == MC_RAIL_FAILED || rail.verdict == MC_RAIL_DEVICE_DOWN)) {
		size_t at = strlen(why);

		snprintf(why + at, sizeof why - at, "; a transfer would wait for it, until its deadline");
	}
	x->nr_carry += rail.verdict <= MC_RAIL_SHARES;
	x->each(x->ctx, &rail);
}

static void label_of(const struct mc_matrix_entry *e, char *buf, size_t cap)
{
	snprintf(buf, cap, "%s%s%s", e->transport ? e->transport : "", e->transport ? ":" : "", e->device);
}

static void refusal_words(const struct explaining *x, const struct mc_no_rail *p, char *buf, size_t cap)
{
	const char *left_out;

	switch (p->why) {
	case MC_RAIL_WIRE:
		snprintf(buf, cap, "other wire: %s %u..%u here, %s %u..%u there", p->device->wire, p->device->wire_min,
			 p->device->wire_max, p->remote->wire, p->remote->wire_min, p->remote->wire_max);
		break;
	case MC_RAIL_SUBNET:
		snprintf(buf, cap, "reaches only devices of its own host or pool: '%s' here, '%s' there",
			 p->device->info.subnet, p->remote->subnet);
		break;
	case MC_RAIL_LOCAL_KIND:
		snprintf(buf, cap, "does not reach memory of kind '%s' here, and it cannot be staged", x->q->lbuf->kind);
		break;
	case MC_RAIL_REMOTE_KIND:
		snprintf(buf, cap, "does not reach memory of kind '%s' there, and it cannot be staged", x->q->rbuf->kind);
		break;
	case MC_RAIL_REMOTE_ABSENT:
		snprintf(buf, cap, "not open there, though the peer's matrix names it");
		break;
	default:
		left_out = mc_device_left_out(x->q->session->engine, p->local_entry->transport, p->local_entry->device);
		snprintf(buf, cap, "not open here: %s", left_out ? left_out : "the matrix names it");
		break;
	}
}

static void tell_refused(void *ctx, const struct mc_no_rail *pair)
{
	struct explaining *x = ctx;
	char local[MC_PLUGIN_NAME_MAX + MC_DEVICE_NAME_MAX + 2], remote[sizeof local] = "";
	char why[MC_ERROR_TEXT_MAX + 64];
	struct mc_rail rail = {.local = local, .remote = remote, .tier = pair->tier, .verdict = pair->why, .why = why};

	label_of(pair->local_entry, local, sizeof local);
	if (pair->remote_entry)
		label_of(pair->remote_entry, remote, sizeof remote);
	if (pair->remote)
		snprintf(remote, sizeof remote, "%s:%s", pair->remote->transport, pair->remote->name);
	refusal_words(x, pair, why, sizeof why);
	x->each(x->ctx, &rail);
}

/* ---- the question --------------------------------------------------------------------------- */

static void run_init(struct mc_run *run, const struct mc_explain *q, const struct mc_route *route)
{
	run->session = q->session;
	run->lbuf = (struct mc_local_buf *)(uintptr_t)q->lbuf;
	run->rbuf = (struct mc_remote_buf *)(uintptr_t)q->rbuf;
	run->route = route;
	run->bytes = q->len;
	run->ored = q->ored;
	run->opcode = (uint8_t)q->opcode;
}

int mc_explain(const struct mc_explain *q, void (*each)(void *ctx, const struct mc_rail *rail), void *ctx)
{
	const struct mc_route *route = mc_route_get(q->session, q->lbuf, q->rbuf);
	struct explaining *x = aligned_alloc(MC_CACHE_LINE, mc_round_up(sizeof *x, MC_CACHE_LINE));
	int r = -ENOMEM;

	if (!x || !route) {
		free(x);
		return -ENOMEM;
	}
	memset(x, 0, sizeof *x);
	x->q = q;
	x->each = each;
	x->ctx = ctx;
	for (size_t t = 0; t < route->nr_tiers; t++)
		x->nr += route->tiers[t].nr;
	x->seen = calloc(x->nr + 1, sizeof *x->seen);
	if (x->seen) {
		run_init(&x->run, q, route);
		judge(x);
		if (!q->denied)
			connect_all(x);
		for (size_t i = 0; i < x->nr; i++)
			tell(x, &x->seen[i]);
		r = mc_route_refusals(q->session, q->lbuf, q->rbuf, tell_refused, x);
	}
	r = r < 0 ? r : x->nr_carry;
	free(x->seen);
	free(x);
	return r;
}
