/* SPDX-License-Identifier: Apache-2.0 */
/* The core's filters under the fake host. */
#ifndef MC_CHECK_FILTER_STACK_H
#define MC_CHECK_FILTER_STACK_H

#include "fake-host.h"

/* Stack a FILTER plugin over a transport that was loaded: from then on plugin->ops are those of both.
 * words are the filter's options.  Stays for the life of the process. */
int filter_stack(struct fake_plugin *plugin, const char *filter, const char *const *words, size_t nr_words,
		 struct mc_error *err);

#endif
