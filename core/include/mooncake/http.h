/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages of an application on the engine's port, beside /metrics and /health.  Who
 * may ask is up to the engine's key `http`; with http=off nothing is answered.
 */
#ifndef MOONCAKE_HTTP_H
#define MOONCAKE_HTTP_H

#include "types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Of a request's body; a larger one is refused by status 413. */
#define MC_HTTP_BODY_MAX (64u << 10)
#define MC_HTTP_PATH_MAX 255

struct mc_engine;
struct mc_http_page;
struct mc_http_answer;

/* What is asked; everything is borrowed until the handler returns. */
struct mc_http_ask {
	size_t size;
	const char *method; /* "GET" (also for HEAD), "POST", "PUT" or "DELETE" */
	const char *path;   /* whole, without the question; decoded */
	const void *body;   /* also ends with a NUL behind body_len */
	size_t body_len;
	const void *priv;   /* the engine's */
};

/* The value of NAME in "?NAME=VALUE", decoded; "" if it has none, NULL if it is not there.  In the
 * handler only.  since 0.1 */
MC_EXPORT const char *mc_http_argument(const struct mc_http_ask *ask, const char *name);

/* Append to the answer's body, as printf.  Out of memory: the client gets status 500.  In the handler
 * only.  since 0.1 */
MC_EXPORT void mc_http_print(struct mc_http_answer *answer, const char *format, ...)
	MC_PRINTF(2, 3);
/* Append bytes as they are. */
MC_EXPORT void mc_http_write(struct mc_http_answer *answer, const void *data, size_t len);
/* Set the Content-Type ("application/json"; the default is plain text); copied, at most 79 bytes. */
MC_EXPORT void mc_http_type(struct mc_http_answer *answer, const char *type);

/* Write the answer; the return value is its status ("200").  Runs on a helper thread of the engine,
 * several at once are possible; may block, but after 10 s the client is told 504 instead. */
typedef int (*mc_http_handler)(void *arg, const struct mc_http_ask *ask,
			       struct mc_http_answer *answer);

/* Answer path, or, if it ends with '/', every path that begins so; the longest wins.  [any]
 *   path      begins with '/', at most MC_HTTP_PATH_MAX bytes; copied
 *   about     one line for who asks for a page that is not there; copied
 *   returns   0; -EINVAL; -EEXIST: it is answered already; -ENOMEM
 *   since 0.1 */
MC_EXPORT int mc_http_serve(struct mc_engine *engine, const char *path, const char *about,
			    mc_http_handler handler, void *arg, struct mc_http_page **ret_page,
			    struct mc_error *err);
/* From the return on the handler is not running, and is not called.  Before mc_engine_close; not from
 * a handler.  Accepts NULL.  since 0.1 */
MC_EXPORT void mc_http_unserve(struct mc_http_page *page);

/* Have write append lines to /metrics, in the text format of Prometheus: names of its own, HELP and
 * TYPE lines included.  It is called on the control loop and must not block.  Ended by
 * mc_http_unserve.  [any]
 *   returns   0; -EINVAL; -ENOMEM
 *   since 0.1 */
MC_EXPORT int mc_http_serve_metrics(struct mc_engine *engine,
				    void (*write)(void *arg, struct mc_http_answer *answer),
				    void *arg, struct mc_http_page **ret_page, struct mc_error *err);

#ifdef __cplusplus
}
#endif
#endif
