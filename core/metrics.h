/* SPDX-License-Identifier: Apache-2.0 */
/* What the engine tells of itself over HTTP.  docs/metrics.md lists every metric. */
#ifndef MC_CORE_METRICS_H
#define MC_CORE_METRICS_H

#include <mooncake/types.h>

struct mc_engine;

/* Rails that are listed one by one; more are only counted, so that a scrape is bounded. */
#define MC_METRICS_RAILS_MAX 1000

/* All metrics as text, malloc'ed; NULL: out of memory.  [control], never blocks */
char *mc_metrics_text(struct mc_engine *engine, size_t *ret_len);

/* ok: nothing is known to be wrong.  degraded: it serves, but worse than it should.  failing: no
 * peer can move bytes to or from it. */
enum mc_health { MC_HEALTH_OK = 0, MC_HEALTH_DEGRADED, MC_HEALTH_FAILING };

/* Call reason (may be NULL) for each thing that is wrong; part: "device", "metadata", "name",
 * "port", "peer", "rail", "engine".  [control], never blocks */
enum mc_health mc_health_look(struct mc_engine *engine,
			      void (*reason)(void *ctx, const char *part, const char *why),
			      void *ctx);
/* The same as JSON, malloc'ed, with the HTTP status that belongs to it; NULL: out of memory. */
char *mc_health_json(struct mc_engine *engine, int *ret_status);

#endif
