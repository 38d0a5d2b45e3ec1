/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plan: options in, decisions out.  A decision depends on the seed, the
 * device, the kind of fault and the number of the slice, on nothing else: no
 * generator is carried on, so a kind that is switched on or off leaves the
 * decisions of the others as they were.
 */
#include <errno.h>
#include <fnmatch.h>
#include <string.h>

#include "core/util/check.h"
#include "fault_plan.h"

static const char *const op_words[] = {"both", "read", "write", NULL};
static const char *const status_words[] = {"eio", "econnreset", "enetdown", "eacces", "estale", "etimedout",
					   "enomem", NULL};
static const int statuses[] = {-EIO, -ECONNRESET, -ENETDOWN, -EACCES, -ESTALE, -ETIMEDOUT, -ENOMEM};
static const char *const scope_words[] = {"request", "peer", "nic", "transport", NULL};

const char *const fault_names[FAULT_KINDS] = {
	[FAULT_DROP] = "drop", [FAULT_LOSE] = "lose", [FAULT_FAIL] = "fail",
	[FAULT_SHORTEN] = "shorten", [FAULT_FLIP] = "flip", [FAULT_KILL] = "kill",
	[FAULT_STALL] = "stall", [FAULT_HOLD] = "hold", [FAULT_DELAY] = "delay",
	[FAULT_REORDER] = "reorder",
};

/* One kind: its share, and the one slice that has it for sure. */
enum { OPT_SEED, OPT_OPS, OPT_PEER, OPT_DEVICE, OPT_AFTER, OPT_FAIL_STATUS, OPT_FAIL_SCOPE, OPT_DELAY_TIME, OPT_HOLD_TIME,
       OPT_STALL_TIME, OPT_KINDS };
#define CHANCE(kind, word, what)                                                                   \
	[OPT_KINDS + 2 * (kind)] = {.name = word, .type = MC_OPT_FLOAT, .def = "0", .min = 0,      \
				    .max = 1, .doc = "Share of slices " what "."},                 \
	[OPT_KINDS + 2 * (kind) + 1] = {.name = word "_nth", .type = MC_OPT_INT, .def = "0",       \
					.min = 0, .max = INT64_MAX,                                \
					.doc = "The one slice, from 1, " what "; 0: none."}
#define SPAN(idx, word, value, what)                                                               \
	[idx] = {.name = word, .type = MC_OPT_DURATION, .def = value, .min = 0,                    \
		 .max = 3600 * (int64_t)MC_SEC, .doc = what}

const struct mc_option fault_options[] = {
	[OPT_SEED] = {.name = "seed", .type = MC_OPT_INT, .def = "1", .min = 0, .max = INT64_MAX,
		      .doc = "The same seed makes the same decisions."},
	[OPT_OPS] = {.name = "ops", .type = MC_OPT_ENUM, .def = "both", .choices = op_words,
		     .doc = "The slices that the plan concerns; others are not counted."},
	[OPT_PEER] = {.name = "peer", .type = MC_OPT_STRING, .def = "",
		      .doc = "Glob on the names of the segments that the plan concerns; empty: all."},
	[OPT_DEVICE] = {.name = "device", .type = MC_OPT_STRING, .def = "",
			.doc = "Glob on the names of the devices that the plan concerns; empty: all."},
	[OPT_AFTER] = {.name = "after", .type = MC_OPT_INT, .def = "0", .min = 0, .max = INT64_MAX,
		       .doc = "So many slices are spared first; those named by number are not."},
	[OPT_FAIL_STATUS] = {.name = "fail_status", .type = MC_OPT_ENUM, .def = "eio", .choices = status_words,
			     .doc = "What slices of `fail` end with."},
	[OPT_FAIL_SCOPE] = {.name = "fail_scope", .type = MC_OPT_ENUM, .def = "peer", .choices = scope_words,
			    .doc = "What broke for them: request is not tried again."},
	SPAN(OPT_DELAY_TIME, "delay_time", "1ms", "How much later completions of `delay` come."),
	SPAN(OPT_HOLD_TIME, "hold_time", "1ms", "How much later slices of `hold` are sent."),
	SPAN(OPT_STALL_TIME, "stall_time", "100ms", "How long `stall` lasts."),
	CHANCE(FAULT_DROP, "drop", "that are never sent and never end"),
	CHANCE(FAULT_LOSE, "lose", "that are carried out and never end"),
	CHANCE(FAULT_FAIL, "fail", "that are not sent and fail"),
	CHANCE(FAULT_SHORTEN, "shorten", "of which only the first part is moved"),
	CHANCE(FAULT_FLIP, "flip", "with one bit of what is moved wrong"),
	CHANCE(FAULT_KILL, "kill", "at which the streams of their peer are cut"),
	CHANCE(FAULT_STALL, "stall", "at which nothing begins or ends for `stall_time`"),
	CHANCE(FAULT_HOLD, "hold", "sent `hold_time` later"),
	CHANCE(FAULT_DELAY, "delay", "whose completion comes `delay_time` later"),
	CHANCE(FAULT_REORDER, "reorder", "whose completion is overtaken by up to 8 later ones"),
	[OPT_KINDS + 2 * FAULT_KINDS] = {.name = NULL},
};

/* ---- numbers ------------------------------------------------------------------------------------- */

/* The finalizer of splitmix64: every bit of the result depends on every bit of x. */
static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

static uint64_t number(const struct fault_plan *plan, uint64_t stream, uint64_t n)
{
	return mix(mix(plan->seed + stream * UINT64_C(0x9e3779b97f4a7c15)) + n);
}

static bool hits(const struct fault_plan *plan, enum fault_kind kind, uint64_t n)
{
	const struct fault_chance *c = &plan->chances[kind];

	if (c->nth && n == c->nth)
		return true;
	/* 53 bits: what a double holds exactly. */
	return n > plan->after && c->share > 0 &&
	       (double)(number(plan, (uint64_t)kind + 1, n) >> 11) < c->share * 0x1p53;
}

uint32_t fault_plan_decide(const struct fault_plan *plan, uint64_t n)
{
	uint32_t faults = 0;

	for (unsigned kind = 0; kind < FAULT_KINDS; kind++) {
		if ((FAULT_BIT(kind) & FAULT_ONE_OF) && (faults & FAULT_ONE_OF))
			continue;
		if (hits(plan, kind, n))
			faults |= FAULT_BIT(kind);
	}
	return faults;
}

uint64_t fault_plan_draw(const struct fault_plan *plan, enum fault_kind kind, uint64_t n, uint64_t below)
{
	return below ? number(plan, (uint64_t)kind + 1 + FAULT_KINDS, n) % below : 0;
}

bool fault_plan_peer(const struct fault_plan *plan, const char *segment)
{
	return !*plan->peers || fnmatch(plan->peers, segment ? segment : "", 0) == 0;
}

/* ---- options ------------------------------------------------------------------------------------- */

void fault_plan_init(struct fault_plan *plan, const struct mc_value *options, const char *device, uint32_t lane)
{
	const char *only = options[OPT_DEVICE].s ? options[OPT_DEVICE].s : "";
	const struct mc_value *kinds = options + OPT_KINDS;

	*plan = (struct fault_plan){.seed = mix((uint64_t)options[OPT_SEED].i + lane)};
	for (const char *c = device; *c; c++)
		plan->seed = mix(plan->seed + (unsigned char)*c);
	if (*only && fnmatch(only, device, 0) != 0)
		return;
	plan->ops[MC_OP_READ] = options[OPT_OPS].i2 != 2;
	plan->ops[MC_OP_WRITE] = options[OPT_OPS].i2 != 1;
	snprintf(plan->peers, sizeof plan->peers, "%s", options[OPT_PEER].s ? options[OPT_PEER].s : "");
	plan->after = (uint64_t)options[OPT_AFTER].i;
	plan->fail_status = statuses[options[OPT_FAIL_STATUS].i2];
	plan->fail_scope = MC_SCOPE_REQUEST + options[OPT_FAIL_SCOPE].i2;
	plan->delay_ns = (uint64_t)options[OPT_DELAY_TIME].i;
	plan->hold_ns = (uint64_t)options[OPT_HOLD_TIME].i;
	plan->stall_ns = (uint64_t)options[OPT_STALL_TIME].i;
	for (unsigned kind = 0; kind < FAULT_KINDS; kind++) {
		plan->chances[kind].share = kinds[2 * kind].d;
		plan->chances[kind].nth = (uint64_t)kinds[2 * kind + 1].i;
	}
}

void fault_plan_text(const struct fault_plan *plan, char *buf, size_t size)
{
	size_t at = 0;

	buf[0] = '\0';
	for (unsigned kind = 0; kind < FAULT_KINDS && at < size; kind++) {
		const struct fault_chance *c = &plan->chances[kind];

		if (c->share > 0)
			at += (size_t)snprintf(buf + at, size - at, "%s%s %g", at ? ", " : "",
					       fault_names[kind], c->share);
		if (c->nth && at < size)
			at += (size_t)snprintf(buf + at, size - at, "%s%s of slice %llu", at ? ", " : "",
					       fault_names[kind], (unsigned long long)c->nth);
	}
}
