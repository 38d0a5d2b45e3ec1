/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages of the application (mooncake/http.h).  A request for one becomes a job of
 * a helper, and its answer a post to the control loop; http.c stands between it
 * and the module.
 */
#ifndef MC_CORE_HTTP_PAGE_H
#define MC_CORE_HTTP_PAGE_H

#include <pthread.h>

#include <mooncake/http.h>

#include "control.h"
#include "http_module.h"

struct mc_http_work; /* one request under way */

struct mc_http_pages {
	struct mc_engine *engine;
	pthread_mutex_t lock; /* guards pages, and users of each */
	pthread_cond_t idle;
	struct mc_http_page *pages;
	/* The answer of a request whose client still waits.  [control] */
	void (*answered)(struct mc_engine *engine, struct mc_http_call *call,
			 const struct mc_http_reply *reply);
};

void mc_http_pages_init(struct mc_http_pages *p, struct mc_engine *engine);
void mc_http_pages_free(struct mc_http_pages *p);
/* Begin to answer a request by the page that it asks for; ret_work is for mc_http_work_gone.
 * 0; -ENOENT: no page has this path; -ENOMEM.  [control] */
int mc_http_pages_ask(struct mc_http_pages *p, const struct mc_http_request *request,
		      const struct mc_http_ops *ops, struct mc_http_work **ret_work);
/* Its client has gone: the answer will be thrown away.  [control] */
void mc_http_work_gone(struct mc_http_work *work);
/* "PATH   ABOUT\n" of each page behind text, malloc'ed; NULL: out of memory.  [any] */
char *mc_http_pages_list(struct mc_http_pages *p, const char *text);
/* text, malloc'ed, of which *len bytes count, with what the application adds to /metrics behind it;
 * frees text.  NULL: out of memory.  [control] */
char *mc_http_pages_metrics(struct mc_http_pages *p, char *text, size_t *len);

#endif
