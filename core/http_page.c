/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages of the application.  A page is in use from the request's arrival until its
 * handler has returned; unserve waits for that.  The work of a request belongs to
 * the control loop, then to the helper that runs the handler, then to the loop
 * again, which alone knows whether the client still waits.
 */
#include "http_page.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "engine.h"
#include "helper.h"
#include "http.h"
#include "worker.h"
#include "core/util/check.h"

#define ABOUT_MAX 100

struct mc_http_page {
	struct mc_http_page *prev, *next; /* pages */
	struct mc_http_pages *pages;
	char *path; /* NULL: it adds to /metrics */
	size_t path_len;
	char about[ABOUT_MAX];
	mc_http_handler handler;
	void (*write)(void *arg, struct mc_http_answer *answer);
	void *arg;
	unsigned int users; /* handlers that run or will */
};

struct mc_http_answer {
	char *body;
	size_t len, cap;
	bool failed; /* out of memory */
	char type[80];
};

struct argument {
	struct argument *next;
	const char *value;
	char name[]; /* and the value behind it */
};

struct mc_http_work {
	struct mc_job job;
	struct mc_control_post post;
	struct mc_http_page *page;
	struct mc_http_pages *pages;
	struct mc_http_call *call; /* [control]; NULL: nobody waits */
	struct argument *arguments;
	bool failed; /* an argument did not fit into memory */
	bool bad;    /* one is not text */
	struct mc_http_ask ask;
	struct mc_http_answer answer;
	int status;
	char text[]; /* method, path and body */
};

/* ---- the answer --------------------------------------------------------------------------- */

static char *room(struct mc_http_answer *a, size_t len)
{
	size_t cap = a->cap ? a->cap : 512;
	char *body;

	while (cap - a->len <= len && cap < SIZE_MAX / 2)
		cap *= 2;
	if (a->failed || cap - a->len <= len)
		return NULL;
	if (cap != a->cap) {
		body = realloc(a->body, cap);
		if (!body) {
			a->failed = true;
			return NULL;
		}
		a->body = body;
		a->cap = cap;
	}
	return a->body + a->len;
}

void mc_http_write(struct mc_http_answer *a, const void *data, size_t len)
{
	char *at = room(a, len);

	if (!at)
		return;
	memcpy(at, data, len);
	a->len += len;
	at[len] = '\0';
}

void mc_http_print(struct mc_http_answer *a, const char *format, ...)
{
	va_list args;
	char *at;
	int len;

	va_start(args, format);
	len = vsnprintf(NULL, 0, format, args);
	va_end(args);
	at = len < 0 ? NULL : room(a, (size_t)len);
	if (!at)
		return;
	va_start(args, format);
	vsnprintf(at, (size_t)len + 1, format, args);
	va_end(args);
	a->len += (size_t)len;
}

void mc_http_type(struct mc_http_answer *a, const char *type)
{
	snprintf(a->type, sizeof a->type, "%s", type);
}

const char *mc_http_argument(const struct mc_http_ask *ask, const char *name)
{
	const struct mc_http_work *w = ask->priv;

	for (const struct argument *a = w->arguments; a; a = a->next) {
		if (!strcmp(a->name, name))
			return a->value;
	}
	return NULL;
}

/* ---- one request -------------------------------------------------------------------------- */

static void work_free(struct mc_http_work *w)
{
	for (struct argument *a = w->arguments, *next; a; a = next) {
		next = a->next;
		free(a);
	}
	free(w->answer.body);
	free(w);
}

/* [control] */
static void answered(struct mc_control_post *post)
{
	struct mc_http_work *w = MC_CONTAINER_OF(post, struct mc_http_work, post);
	struct mc_http_answer *a = &w->answer;
	struct mc_http_reply reply = {.status = w->status, .type = a->type, .body = a->body, .len = a->len};

	if (w->call) {
		a->body = NULL;
		w->pages->answered(w->pages->engine, w->call, &reply);
	}
	work_free(w);
}

static void fail(struct mc_http_work *w, int status, const char *why)
{
	free(w->answer.body);
	w->answer = (struct mc_http_answer){0};
	mc_http_type(&w->answer, "text/plain; charset=utf-8");
	mc_http_print(&w->answer, "%s\n", why);
	w->status = status;
}

/* [helper] */
static void handle(struct mc_job *job)
{
	struct mc_http_work *w = MC_CONTAINER_OF(job, struct mc_http_work, job);
	struct mc_http_pages *p = w->pages;

	mc_http_type(&w->answer, "text/plain; charset=utf-8");
	if (!w->failed && !w->bad)
		w->status = w->page->handler(w->page->arg, &w->ask, &w->answer);
	if (w->failed || w->answer.failed)
		fail(w, 500, "out of memory");
	else if (w->bad)
		fail(w, 400, "an argument has a zero byte (%00)");
	else if (w->status < 100 || w->status > 599)
		fail(w, 500, "the page gave no answer");
	mc_http_write(&w->answer, "", 0); /* an empty body is one, too */
	pthread_mutex_lock(&p->lock);
	if (--w->page->users == 0)
		pthread_cond_broadcast(&p->idle);
	pthread_mutex_unlock(&p->lock);
	mc_control_post(p->engine->control, &w->post);
}

static void add_argument(void *ctx, const char *name, const char *value)
{
	struct mc_http_work *w = ctx;
	size_t name_len = strlen(name), value_len = value ? strlen(value) : 0;
	struct argument *a = malloc(sizeof *a + name_len + value_len + 2);

	if (!a) {
		w->failed = true;
		return;
	}
	memcpy(a->name, name, name_len + 1);
	a->value = a->name + name_len + 1;
	memcpy(a->name + name_len + 1, value ? value : "", value_len + 1);
	LL_APPEND(w->arguments, a);
}

/* Under the lock: the page with the longest path that fits. */
static struct mc_http_page *find(struct mc_http_pages *p, const char *path)
{
	struct mc_http_page *page, *best = NULL;
	size_t len = strlen(path);

	DL_FOREACH(p->pages, page) {
		if (!page->path || page->path_len > len || memcmp(page->path, path, page->path_len) != 0)
			continue;
		if (page->path_len < len && page->path[page->path_len - 1] != '/')
			continue;
		if (!best || page->path_len > best->path_len)
			best = page;
	}
	return best;
}

static struct mc_http_work *work_new(const struct mc_http_request *r)
{
	const char *method = strcmp(r->method, "HEAD") != 0 ? r->method : "GET";
	size_t method_len = strlen(method), path_len = strlen(r->path);
	struct mc_http_work *w = calloc(1, sizeof *w + method_len + path_len + r->body_len + 3);
	char *body;

	if (!w)
		return NULL;
	body = w->text + method_len + path_len + 2;
	memcpy(w->text, method, method_len);
	memcpy(w->text + method_len + 1, r->path, path_len);
	if (r->body_len)
		memcpy(body, r->body, r->body_len);
	w->ask = (struct mc_http_ask){.size = sizeof w->ask,
				      .method = w->text,
				      .path = w->text + method_len + 1,
				      .body = body,
				      .body_len = r->body_len,
				      .priv = w};
	return w;
}

int mc_http_pages_ask(struct mc_http_pages *p, const struct mc_http_request *request,
		      const struct mc_http_ops *ops, struct mc_http_work **ret_work)
{
	struct mc_http_page *page;
	struct mc_http_work *w;

	pthread_mutex_lock(&p->lock);
	page = find(p, request->path);
	if (page)
		page->users++;
	pthread_mutex_unlock(&p->lock);
	if (!page)
		return -ENOENT;
	w = work_new(request);
	if (!w) {
		pthread_mutex_lock(&p->lock);
		if (--page->users == 0)
			pthread_cond_broadcast(&p->idle);
		pthread_mutex_unlock(&p->lock);
		return -ENOMEM;
	}
	w->page = page;
	w->pages = p;
	w->call = request->call;
	w->job.run = handle;
	w->post.run = answered;
	w->bad = ops->arguments(request->call, add_argument, w) < 0;
	*ret_work = w;
	mc_helpers_run_as(p->engine->helpers, &w->job, MC_JOB_LAZY);
	return 0;
}

void mc_http_work_gone(struct mc_http_work *work)
{
	work->call = NULL;
}

/* ---- pages -------------------------------------------------------------------------------- */

char *mc_http_pages_list(struct mc_http_pages *p, const char *text)
{
	struct mc_http_answer a = {0};
	struct mc_http_page *page;

	mc_http_print(&a, "%s", text);
	pthread_mutex_lock(&p->lock);
	DL_FOREACH(p->pages, page) {
		if (page->path)
			mc_http_print(&a, "%-10s %s\n", page->path, page->about);
	}
	pthread_mutex_unlock(&p->lock);
	if (!a.failed)
		return a.body;
	free(a.body);
	return NULL;
}

char *mc_http_pages_metrics(struct mc_http_pages *p, char *text, size_t *len)
{
	struct mc_http_answer a = {.body = text, .len = *len, .cap = *len + 1};
	struct mc_http_page *page;

	if (!text)
		return NULL;
	pthread_mutex_lock(&p->lock);
	DL_FOREACH(p->pages, page) {
		if (page->write)
			page->write(page->arg, &a);
	}
	pthread_mutex_unlock(&p->lock);
	*len = a.len;
	if (!a.failed)
		return a.body;
	free(a.body);
	return NULL;
}

static bool path_ok(const char *path)
{
	size_t len = path ? strlen(path) : 0;

	if (!len || len > MC_HTTP_PATH_MAX || path[0] != '/')
		return false;
	for (size_t i = 0; i < len; i++) {
		if ((unsigned char)path[i] <= ' ' || strchr("?#%", path[i]) || path[i] == 0x7f)
			return false;
	}
	return true;
}

/* Under the lock. */
static bool taken(struct mc_http_pages *p, const char *path)
{
	struct mc_http_page *page;

	if (!strcmp(path, "/metrics") || !strcmp(path, "/health"))
		return true;
	DL_FOREACH(p->pages, page) {
		if (page->path && !strcmp(page->path, path))
			return true;
	}
	return false;
}

static int may_serve(struct mc_engine *engine, struct mc_error *err)
{
	if (mc_engine_check(engine) < 0)
		return mc_fail(err, -EINVAL, "http page: needs an engine that this process has opened");
	return 0;
}

static int page_new(struct mc_engine *engine, const char *path, struct mc_http_page **ret_page,
		    struct mc_error *err)
{
	struct mc_http_page *page = calloc(1, sizeof *page);

	if (page && path)
		page->path = strdup(path);
	if (!page || (path && !page->path)) {
		free(page);
		return mc_fail(err, -ENOMEM, "http page '%s': out of memory", path ? path : "/metrics");
	}
	page->path_len = path ? strlen(path) : 0;
	page->pages = mc_http_pages(engine);
	*ret_page = page;
	return 0;
}

int mc_http_serve(struct mc_engine *engine, const char *path, const char *about, mc_http_handler handler,
		  void *arg, struct mc_http_page **ret_page, struct mc_error *err)
{
	struct mc_http_page *page;
	bool there;
	int r = may_serve(engine, err);

	if (r < 0)
		return r;
	if (!handler || !ret_page || !path_ok(path))
		return mc_fail(err, -EINVAL, "http page '%s': needs a handler, and a path of 1 to %d bytes that begins "
			       "with '/' and has no blanks, '?', '#' or '%%'", path ? path : "", MC_HTTP_PATH_MAX);
	r = page_new(engine, path, &page, err);
	if (r < 0)
		return r;
	snprintf(page->about, sizeof page->about, "%s", about ? about : "");
	page->handler = handler;
	page->arg = arg;
	pthread_mutex_lock(&page->pages->lock);
	there = taken(page->pages, path);
	if (!there)
		DL_APPEND(page->pages->pages, page);
	pthread_mutex_unlock(&page->pages->lock);
	if (there) {
		free(page->path);
		free(page);
		return mc_fail(err, -EEXIST, "http page '%s': this engine answers it already", path);
	}
	*ret_page = page;
	return 0;
}

int mc_http_serve_metrics(struct mc_engine *engine, void (*write)(void *arg, struct mc_http_answer *answer),
			  void *arg, struct mc_http_page **ret_page, struct mc_error *err)
{
	struct mc_http_page *page;
	int r = may_serve(engine, err);

	if (r < 0)
		return r;
	if (!write || !ret_page)
		return mc_fail(err, -EINVAL, "http page '/metrics': needs a function that writes");
	r = page_new(engine, NULL, &page, err);
	if (r < 0)
		return r;
	page->write = write;
	page->arg = arg;
	pthread_mutex_lock(&page->pages->lock);
	DL_APPEND(page->pages->pages, page);
	pthread_mutex_unlock(&page->pages->lock);
	*ret_page = page;
	return 0;
}

void mc_http_unserve(struct mc_http_page *page)
{
	struct mc_http_pages *p = page ? page->pages : NULL;

	if (!page)
		return;
	pthread_mutex_lock(&p->lock);
	DL_DELETE(p->pages, page);
	while (page->users)
		pthread_cond_wait(&p->idle, &p->lock);
	pthread_mutex_unlock(&p->lock);
	free(page->path);
	free(page);
}

void mc_http_pages_init(struct mc_http_pages *p, struct mc_engine *engine)
{
	p->engine = engine;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->idle, NULL);
}

void mc_http_pages_free(struct mc_http_pages *p)
{
	struct mc_http_page *page, *next;

	/* Of a program that has not taken them back. */
	DL_FOREACH_SAFE(p->pages, page, next) {
		free(page->path);
		free(page);
	}
	pthread_cond_destroy(&p->idle);
	pthread_mutex_destroy(&p->lock);
}
