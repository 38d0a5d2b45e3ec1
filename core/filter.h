/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stack filters over a transport: the result looks like one transport plugin, so
 * nothing else in the core knows about filters.
 */
#ifndef MC_CORE_FILTER_H
#define MC_CORE_FILTER_H

#include "loader.h"

/* Build a transport ops table whose private areas hold filter's and lower's behind one another.
 * The stack keeps the filter plugin; filter_values and lower are borrowed until it is freed with
 * mc_filter_stack_free, when no instance is left.  lower may itself be the ops of a stack.  At
 * most 32 stacks exist in a process.  Instance areas must be aligned to a cache line. */
struct mc_filter_stack;
int mc_filter_stack_new(struct mc_plugin *filter, const struct mc_value *filter_values,
			const struct mc_transport_ops *lower, const char *lower_name,
			struct mc_filter_stack **ret_stack, struct mc_error *err);
const struct mc_transport_ops *mc_filter_stack_ops(const struct mc_filter_stack *stack);
void mc_filter_stack_free(struct mc_filter_stack *stack);

#endif
