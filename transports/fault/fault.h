/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to the fault filter.  Everything belongs to the instance's worker; there
 * is no lock.  A slice that was taken is in exactly one place:
 *
 *   BELOW  the transport has it             HELD     sent when it is due
 *   LOST   only a fence or stop ends it     WAITING  has ended, told when it is due
 *   ENDED  was over inside submit; what befalls it on its way up comes next turn
 */
#ifndef MC_FAULT_H
#define MC_FAULT_H

#include "fault_plan.h"

#define FAULT_STREAMS 16u

struct fault_link {
	struct fault_link *prev, *next;
};

enum fault_place { FAULT_BELOW = 0, FAULT_HELD, FAULT_WAITING, FAULT_LOST, FAULT_ENDED };

/* In the slice's private area. */
struct fault_op {
	struct fault_link link; /* first; unless BELOW */
	struct mc_slice *slice;
	enum fault_place place;
	uint32_t faults; /* FAULT_BIT()s */
	uint64_t nth;	 /* its number in the plan */
	uint64_t due_ns;
	uint64_t sent_len; /* of the slice, or of its first part */
	int status, scope; /* WAITING */
	uint64_t done_len;
	unsigned char *flipped; /* a byte of the user's that is wrong while the transport has it */
	unsigned char mask;
	void *bounce; /* what is sent instead of the user's bytes */
};

struct fault_peer {
	bool meant; /* by the plan */
	bool fence_seen;
	uint32_t fenced; /* nothing of an epoch up to this one is held back any more */
	uint32_t nr_streams;
	struct {
		int fd;
		uint32_t epoch;
		uint64_t ino;
	} streams[FAULT_STREAMS];
};

struct fault {
	const struct mc_host *host;
	const struct mc_filter_next *next;
	struct fault_plan plan;
	bool idle; /* the plan has no fault */
	bool stopped;
	bool cpu_copy;	    /* the transport moves bytes by the CPU: any memory will do */
	uint32_t alignment; /* at least 1 */
	uint64_t nr;	    /* slices that the plan concerns, so far */
	struct fault_link held, waiting, lost;
	struct fault_op *late; /* of waiting: told once late_left others were */
	unsigned late_left;
	uint64_t stalled_ns; /* until then */
	struct mc_timer timer;
	uint64_t *counters[FAULT_KINDS];
};

/* fault_bytes.c: what is wrong about the bytes. */

/* next->submit with the slice's faults: a flipped bit, a part of the length. */
int fault_send(struct fault *f, struct fault_op *op);
/* The transport has ended it: put right what was wrong for it; flip a bit of what was read. */
void fault_returned(struct fault *f, struct fault_op *op, int status);

static inline void fault_count(struct fault *f, enum fault_kind kind)
{
	mc_counter_add(f->counters[kind], 1);
}

static inline bool fault_has(const struct fault_op *op, enum fault_kind kind)
{
	return op->faults & FAULT_BIT(kind);
}

#endif
