/* SPDX-License-Identifier: Apache-2.0 */
/* Figures of a master as /metrics and the summary show them. */
#ifndef MC_MASTER_METRICS_H
#define MC_MASTER_METRICS_H

#include <mooncake/http.h>

#include "keep.h"
#include "serve.h"

struct master_figures {
	struct mc_master_stats stats;
	struct master_keep_stats keep;
	struct master_method_stats methods[MC_WIRE_METHOD_END];
	size_t nr_methods;
};

void master_metrics_write(const struct master_figures *f, struct mc_http_answer *answer);
/* One line for people. */
void master_summary_write(const struct master_figures *f, struct mc_http_answer *answer);

#endif
