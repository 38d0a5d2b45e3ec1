/* SPDX-License-Identifier: Apache-2.0 */
/* The plan of a fault filter: which faults meet which slice.  No state, no clock. */
#ifndef MC_FAULT_PLAN_H
#define MC_FAULT_PLAN_H

#include <mooncake/transport.h>

enum fault_kind {
	FAULT_DROP = 0, /* it is never sent and never ends */
	FAULT_LOSE,	/* it is carried out, its completion is lost */
	FAULT_FAIL,	/* it is not sent and fails */
	FAULT_SHORTEN,	/* its first part is moved, and that is said */
	FAULT_FLIP,	/* one bit of what is moved is wrong */
	FAULT_KILL,	/* the streams of its peer are cut */
	FAULT_STALL,	/* nothing begins or ends for a while */
	FAULT_HOLD,	/* it is sent later */
	FAULT_DELAY,	/* its completion comes later */
	FAULT_REORDER,	/* later completions overtake its own */
	FAULT_KINDS
};
#define FAULT_BIT(kind) (1u << (kind))
/* Of these one slice gets the first at most. */
#define FAULT_ONE_OF (FAULT_BIT(FAULT_STALL) - 1)

struct fault_chance {
	double share; /* of the slices that the plan concerns */
	uint64_t nth; /* one of them, counted from 1; 0: none */
};

struct fault_plan {
	uint64_t seed;
	struct fault_chance chances[FAULT_KINDS];
	uint64_t after; /* so many slices are spared first */
	bool ops[MC_OP_COUNT];
	char peers[256]; /* glob on segment names; "": all */
	uint64_t delay_ns, hold_ns, stall_ns;
	int fail_status, fail_scope;
};

extern const struct mc_option fault_options[];
extern const char *const fault_names[FAULT_KINDS];

/* From the parsed options.  Devices and lanes of one seed differ. */
void fault_plan_init(struct fault_plan *plan, const struct mc_value *options, const char *device,
		     uint32_t lane);
/* The faults of the n-th slice that the plan concerns, n from 1: FAULT_BIT()s.  The same for the same
 * plan and n, whatever was asked before. */
uint32_t fault_plan_decide(const struct fault_plan *plan, uint64_t n);
/* A number in [0, below) that belongs to a kind and a slice. */
uint64_t fault_plan_draw(const struct fault_plan *plan, enum fault_kind kind, uint64_t n, uint64_t below);
/* Is a peer of this name meant? */
bool fault_plan_peer(const struct fault_plan *plan, const char *segment);
/* The plan as one line for people, e.g. "seed 1: drop 0.01, delay 5 ms"; "" if there is no fault. */
void fault_plan_text(const struct fault_plan *plan, char *buf, size_t size);

#endif
