/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HTTP on the engine's port: /metrics, /health and pages of the application, for who
 * may ask (key `http`).
 * The port hands over connections that begin like HTTP; mod-http.so speaks it.
 */
#ifndef MC_CORE_HTTP_H
#define MC_CORE_HTTP_H

#include <mooncake/types.h>

struct mc_engine;
struct mc_http_pages;

/* Makes engine->http; nothing is opened before the first request.  [any] */
int mc_http_new(struct mc_engine *engine);
/* The owner of accepted connections that speak HTTP.  0: fd is taken; -errno: it is not, and why
 * says what to do.  [control] */
int mc_http_accept(struct mc_engine *engine, int fd, char *why, size_t why_size);
/* Close every connection; none is taken any more.  Before devices and sessions go.  [any] but
 * control */
void mc_http_close(struct mc_engine *engine);
/* After the helpers' last job.  [any] but control */
void mc_http_free(struct mc_engine *engine);

/* Those of the application.  [any] */
struct mc_http_pages *mc_http_pages(const struct mc_engine *engine);

/* What was asked, for the metrics.  [control] */
struct mc_http_counts {
	uint64_t connections, dropped, refused;
	uint64_t metrics, health, application, other; /* requests by path */
};
void mc_http_count(const struct mc_engine *engine, struct mc_http_counts *ret_counts);

#endif
