/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by filter*.c only: a stack, an instance of it, and a slice on its way through. */
#ifndef MC_CORE_FILTER_IMPL_H
#define MC_CORE_FILTER_IMPL_H

#include "filter.h"

struct mc_filter_stack {
	struct mc_plugin *filter; /* a reference */
	const struct mc_filter_ops *f;
	const struct mc_value *values; /* the caller's */
	const struct mc_transport_ops *lower;
	char *lower_name;
	struct mc_transport_ops ops;
	size_t filter_at, lower_at; /* in an instance's area */
	size_t below_at;            /* in a slice's area */
	size_t peer_at;             /* in a peer's area */
	bool slices;                /* the filter looks at slices */
	unsigned idx;               /* in stacks[] */
};

/* The slice that the lower plugin sees, behind the filter's priv of the one from above. */
struct below {
	struct mc_slice slice;
	struct mc_slice *orig;
	/* Ended by complete_any, waiting for the worker. */
	struct below *next;
	uint64_t done_len;
	int status, scope;
};

/* One instance of a stack. */
struct layer {
	struct mc_host host; /* the lower plugin's; first, so that its services find us */
	struct mc_filter_next next;
	const struct mc_filter_stack *stack;
	const struct mc_host *up;
	void *filter, *lower;     /* private areas */
	struct below *ended;      /* atomic list; pushed by any thread, taken by the worker */
	struct mc_work work;      /* takes it */
	bool posted;              /* atomic; work is on its way */
};

/* The services of the lower plugin's host; instance and the places of struct layer are the
 * caller's to fill. */
extern const struct mc_host mc_filter_below_host;
/* Hand on what other threads have ended.  [worker]  Returns how many. */
int mc_filter_take_ended(struct layer *l);
/* The run of layer.work: the same. */
void mc_filter_work_run(struct mc_work *w);

#endif
