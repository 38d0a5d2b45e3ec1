/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lets a program over the fake host, conformance for one, run a transport with
 * filters over it: the filter is opened by the core's loader and stacked by the
 * core's own code, and the result takes the place of the transport's table.
 */
#include "filter-stack.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/filter.h"

int filter_stack(struct fake_plugin *plugin, const char *filter, const char *const *words, size_t nr_words,
		 struct mc_error *err)
{
	struct mc_transport_ops *lower = malloc(sizeof *lower);
	struct mc_filter_stack *stack;
	struct mc_plugin *p = NULL;
	struct mc_value *values;
	size_t at;
	int r;

	if (!lower)
		return mc_fail(err, -ENOMEM, "out of memory");
	*lower = plugin->ops.transport;
	r = mc_plugin_load_file(filter, MC_KIND_FILTER, NULL, &p, err);
	if (r == 0)
		r = fake_options_parse(p->desc, words, nr_words, &values, err);
	if (r == 0)
		r = mc_filter_stack_new(p, values, lower, plugin->desc->name, &stack, err);
	if (r < 0)
		return r;
	plugin->ops.transport = *mc_filter_stack_ops(stack);
	at = strlen(plugin->filters);
	snprintf(plugin->filters + at, sizeof plugin->filters - at, "%s%s", at ? " " : "", p->desc->name);
	return 0;
}
