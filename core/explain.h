/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What would become of a transfer, before a byte of it moves: every rail between
 * two locations, in the order in which they are asked, with what it would take and
 * the one reason for which it is not used.  The judging is route.c's and
 * dispatch.c's own; explain.c puts it into words.
 */
#ifndef MC_CORE_EXPLAIN_H
#define MC_CORE_EXPLAIN_H

#include <mooncake/types.h>

struct mc_local_buf;
struct mc_remote_buf;
struct mc_session;

/* What a rail comes to, for one transfer.  Only the first reason that holds counts. */
enum mc_verdict {
	MC_RAIL_CARRIES = 0,
	MC_RAIL_SHARES,        /* takes pieces of it beside the one that carries */
	/* It could, but is not asked: */
	MC_RAIL_LATER,         /* another one of its tier would be done sooner */
	MC_RAIL_LOWER_TIER,
	MC_RAIL_STAGED,        /* of the same tier, but not straight */
	MC_RAIL_FAILOVER,      /* of the same tier, but its device has a nearer partner */
	/* It could, but not now: */
	MC_RAIL_FAILED,
	MC_RAIL_DEVICE_DOWN,
	/* It cannot carry this transfer: */
	MC_RAIL_DIRECTION,
	MC_RAIL_UNREGISTERED,
	MC_RAIL_BARRED,
	MC_RAIL_ALIGNMENT,
	MC_RAIL_ACCESS,
	/* There is no such rail: */
	MC_RAIL_WIRE,
	MC_RAIL_SUBNET,        /* a transport that reaches only devices of its own subnet */
	MC_RAIL_LOCAL_KIND,
	MC_RAIL_REMOTE_KIND,
	MC_RAIL_LOCAL_ABSENT,  /* the matrix names a device that is not open here */
	MC_RAIL_REMOTE_ABSENT, /* or there */
	MC_RAIL_VERDICTS
};

/* What is asked. */
struct mc_explain {
	struct mc_session *session; /* active and up */
	uint32_t opcode;            /* enum mc_opcode */
	uint64_t len;
	uint64_t ored;              /* addresses and length, or-ed: their alignment */
	const struct mc_local_buf *lbuf;  /* row, kind, location; need not be registered: regions may be NULL */
	const struct mc_remote_buf *rbuf;
	bool real;                  /* rbuf is in the peer's table: its keys are tried, too */
	const char *denied;         /* the peer does not allow it: why; NULL: it does */
	uint64_t deadline_ns;       /* until which rails that would be used are connected; 0: none is */
};

/* One rail (of a device with several lanes: one per lane); strings live during the call. */
struct mc_rail {
	const char *local, *remote; /* "tcp:eth0/1", "tcp:eth0" */
	uint32_t tier;              /* of the matrix, from 0: of the end where it is later */
	enum mc_verdict verdict;
	const char *why;            /* a sentence */
	uint8_t stage;              /* MC_STAGE_* */
	/* Until it would have carried it: (queued + len) / (rate * weight) seconds; 0: there is no such rail. */
	double finish_s;
	uint64_t queued, rate;      /* bytes, of all that the device has in flight; bytes per second */
	bool learned;               /* the rate is not the nominal one any more */
	double weight;
};

/* Call each for every rail: those that exist in the order in which they are asked, then those that do not.
 *   returns   how many would carry it or a share of it; -ENOMEM
 * [any] that may wait, until deadline_ns */
int mc_explain(const struct mc_explain *q, void (*each)(void *ctx, const struct mc_rail *rail), void *ctx);
/* "lower_tier": for programs. */
const char *mc_verdict_word(enum mc_verdict verdict);

#endif
