/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HTTP on the port, the core's side: who may ask, the module that speaks it, and
 * what each path answers.  The module is opened by a helper at the first request
 * that may be answered (loading it reads the disk); connections wait parked until
 * then.  Everything else is [control], and nothing of it waits.
 */
#include "http.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine.h"
#include "http_module.h"
#include "http_page.h"
#include "log.h"
#include "metrics.h"
#include "module.h"
#include "core/util/check.h"

#define MAX_CONNECTIONS 32
#define MEMORY (16u << 10)
#define REQUEST_NS (10 * MC_SEC)
#define ANSWER_NS (10 * MC_SEC)

/* Rendering takes at most one part in this many of the loop's time. */
#define RENDER_SHARE 5

/* A page as it was rendered last. */
struct page {
	char *body;
	size_t len;
	int status;
	uint64_t fresh_until_ns;
};

struct parked {
	int fd;
	uint64_t deadline_ns;
};

struct mc_http {
	struct mc_engine *engine;
	bool on, loopback_only;

	struct mc_job job; /* opens the module */
	struct mc_control_post opened;
	const struct mc_http_ops *ops; /* written on [helper] before `opened` is posted */
	struct mc_error err; /* likewise */
	int status; /* likewise */

	/* [control] */
	enum { HTTP_IDLE = 0, HTTP_OPENING, HTTP_OPEN, HTTP_FAILED, HTTP_CLOSED } state;
	struct mc_http_server *server;
	struct mc_watch watch;
	struct mc_timer timer;
	struct parked parked[MAX_CONNECTIONS];
	size_t nr_parked;
	struct page metrics, health;
	struct mc_http_counts counts;

	struct mc_http_pages pages;
};

/* ---- what is answered --------------------------------------------------------------------- */

static const char no_path[] =
	"there is no such page; there are:\n"
	"/metrics   counters and gauges, in the text format of Prometheus\n"
	"/health    the state of this engine, as JSON; 200: it serves, 503: it does not\n";

static void render_metrics(struct mc_engine *engine, struct page *p)
{
	p->status = 200;
	p->body = mc_http_pages_metrics(&engine->http->pages, mc_metrics_text(engine, &p->len), &p->len);
}

static void render_health(struct mc_engine *engine, struct page *p)
{
	p->body = mc_health_json(engine, &p->status);
	p->len = p->body ? strlen(p->body) : 0;
}

/* Whoever asks in a pipeline shall not take the loop from the peers: a page that was costly to
 * render is given again for as long as pays for it. */
static void answer_page(struct mc_http *h, struct page *p,
			void (*render)(struct mc_engine *engine, struct page *p),
			struct mc_http_reply *reply)
{
	uint64_t begin = mc_now_ns(), end;

	if (!p->body || begin >= p->fresh_until_ns) {
		free(p->body);
		render(h->engine, p);
		end = mc_now_ns();
		p->fresh_until_ns = end + (RENDER_SHARE - 1) * (end - begin);
	}
	reply->status = p->status;
	reply->body = p->body ? malloc(p->len + 1) : NULL;
	if (!reply->body)
		return;
	memcpy(reply->body, p->body, p->len);
	reply->len = p->len;
}

static void reply_text(struct mc_http_reply *reply, int status, char *text)
{
	reply->status = status;
	reply->type = "text/plain; charset=utf-8";
	reply->body = text;
	reply->len = text ? strlen(text) : 0;
}

static bool is_one_of(const char *method, const char *const methods[], size_t nr)
{
	for (size_t i = 0; i < nr; i++) {
		if (!strcmp(method, methods[i]))
			return true;
	}
	return false;
}

static bool answer_own(struct mc_http *h, const struct mc_http_request *r, struct mc_http_reply *reply)
{
	bool metrics = !strcmp(r->path, "/metrics");
	static const char *const methods[] = {"GET", "HEAD"};

	if (!metrics && strcmp(r->path, "/health") != 0)
		return false;
	if (!is_one_of(r->method, methods, MC_ARRAY_SIZE(methods))) {
		reply_text(reply, 405, strdup("only GET and HEAD are answered here\n"));
		reply->allow = "GET, HEAD";
	} else if (metrics) {
		h->counts.metrics++;
		reply->type = "text/plain; version=0.0.4; charset=utf-8";
		answer_page(h, &h->metrics, render_metrics, reply);
	} else {
		h->counts.health++;
		reply->type = "application/json";
		answer_page(h, &h->health, render_health, reply);
	}
	return true;
}

static bool answer(void *ctx, const struct mc_http_request *request, struct mc_http_reply *reply,
		   void **ret_user)
{
	static const char *const methods[] = {"GET", "HEAD", "POST", "PUT", "DELETE"};
	struct mc_http *h = ctx;
	struct mc_http_work *work = NULL;
	int r;

	if (answer_own(h, request, reply))
		return true;
	if (!is_one_of(request->method, methods, MC_ARRAY_SIZE(methods))) {
		reply_text(reply, 405, strdup("only GET, HEAD, POST, PUT and DELETE are answered here\n"));
		reply->allow = "GET, HEAD, POST, PUT, DELETE";
		return true;
	}
	r = mc_http_pages_ask(&h->pages, request, h->ops, &work);
	if (r == 0) {
		h->counts.application++;
		*ret_user = work;
		return false;
	}
	if (r == -ENOENT) {
		h->counts.other++;
		reply_text(reply, 404, mc_http_pages_list(&h->pages, no_path));
	}
	return true;
}

static void gone(void *ctx, void *user)
{
	mc_http_work_gone(user);
}

/* ---- the module --------------------------------------------------------------------------- */

static void run(struct mc_http *h)
{
	uint64_t now = mc_now_ns();
	uint64_t next = h->ops->run(h->server, now);

	mc_control_timer(h->engine->control, &h->timer, next);
}

static void page_answered(struct mc_engine *engine, struct mc_http_call *call,
			  const struct mc_http_reply *reply)
{
	struct mc_http *h = engine->http;

	h->ops->reply(call, reply);
	run(h);
}

static void readable(struct mc_watch *w, uint32_t revents)
{
	run(MC_CONTAINER_OF(w, struct mc_http, watch));
}

static void parked_drop(struct mc_http *h, uint64_t now)
{
	size_t nr = 0;

	for (size_t i = 0; i < h->nr_parked; i++) {
		if (h->parked[i].deadline_ns <= now) {
			close(h->parked[i].fd);
			h->counts.dropped++;
		} else {
			h->parked[nr++] = h->parked[i];
		}
	}
	h->nr_parked = nr;
}

static void due(struct mc_timer *t, uint64_t now)
{
	struct mc_http *h = MC_CONTAINER_OF(t, struct mc_http, timer);

	if (h->state == HTTP_OPEN) {
		run(h);
		return;
	}
	parked_drop(h, now);
	if (h->nr_parked)
		mc_control_timer(h->engine->control, t, h->parked[0].deadline_ns);
}

static void add(struct mc_http *h, int fd)
{
	struct sockaddr_storage from = {0};
	socklen_t len = sizeof from;

	getpeername(fd, (struct sockaddr *)&from, &len);
	h->ops->add(h->server, fd, (struct sockaddr *)&from, len, mc_now_ns());
}

static int server_open(struct mc_http *h)
{
	const struct mc_http_args args = {
		.limits = {.connections = MAX_CONNECTIONS,
			   .memory = MEMORY,
			   .body = MC_HTTP_BODY_MAX,
			   .request_ns = REQUEST_NS,
			   .answer_ns = ANSWER_NS},
		.answer = answer,
		.gone = gone,
		.ctx = h,
	};
	int r = h->ops->open(&args, &h->server);

	if (r < 0)
		return mc_fail(&h->err, r, "libmicrohttpd does not start: %s", strerror(-r));
	h->watch = (struct mc_watch){.size = sizeof h->watch,
				     .fd = h->ops->fd(h->server),
				     .events = POLLIN,
				     .ready = readable};
	r = mc_control_watch(h->engine->control, &h->watch);
	if (r < 0) {
		h->ops->close(h->server);
		h->server = NULL;
		return mc_fail(&h->err, r, "libmicrohttpd cannot be watched: %s", strerror(-r));
	}
	return 0;
}

static void opened(struct mc_control_post *post)
{
	struct mc_http *h = MC_CONTAINER_OF(post, struct mc_http, opened);

	if (h->state != HTTP_OPENING)
		return;
	mc_control_timer(h->engine->control, &h->timer, 0);
	if (h->status == 0)
		h->status = server_open(h);
	if (h->status < 0) {
		h->state = HTTP_FAILED;
		mc_warn("port %u: HTTP is not answered: %s", h->engine->port, h->err.text);
		parked_drop(h, UINT64_MAX);
		return;
	}
	h->state = HTTP_OPEN;
	for (size_t i = 0; i < h->nr_parked; i++)
		add(h, h->parked[i].fd);
	h->nr_parked = 0;
	run(h);
}

/* [helper] */
static void module_open(struct mc_job *job)
{
	struct mc_http *h = MC_CONTAINER_OF(job, struct mc_http, job);
	const void *ops = NULL;

	h->status = mc_module_open("http", &ops, &h->err);
	h->ops = ops;
	mc_control_post(h->engine->control, &h->opened);
}

static void park(struct mc_http *h, int fd)
{
	if (h->nr_parked == MAX_CONNECTIONS) {
		close(h->parked[0].fd);
		h->counts.dropped++;
		memmove(h->parked, h->parked + 1, --h->nr_parked * sizeof h->parked[0]);
	}
	h->parked[h->nr_parked++] =
		(struct parked){.fd = fd, .deadline_ns = mc_now_ns() + REQUEST_NS};
	mc_control_timer(h->engine->control, &h->timer, h->parked[0].deadline_ns);
	if (h->state == HTTP_OPENING)
		return;
	h->state = HTTP_OPENING;
	mc_helpers_run(h->engine->helpers, &h->job);
}

/* ---- who may ask -------------------------------------------------------------------------- */

static bool is_loopback(const struct sockaddr_storage *ss)
{
	const struct in6_addr *six = &((const struct sockaddr_in6 *)ss)->sin6_addr;

	if (ss->ss_family == AF_INET)
		return ((const uint8_t *)&((const struct sockaddr_in *)ss)->sin_addr)[0] == 127;
	if (ss->ss_family != AF_INET6)
		return false;
	return IN6_IS_ADDR_LOOPBACK(six) || (IN6_IS_ADDR_V4MAPPED(six) && six->s6_addr[12] == 127);
}

/* The kernel lets nobody outside use a loopback address as his own.  1, 0, or -errno: the connection
 * is over already. */
static int from_this_host(int fd)
{
	struct sockaddr_storage ss = {0};
	socklen_t len = sizeof ss;

	return getpeername(fd, (struct sockaddr *)&ss, &len) < 0 ? -errno : is_loopback(&ss);
}

/* Say why, without the module: what it would cost is for who may ask. */
static void forbid(int fd)
{
	static const char body[] =
		"this engine answers HTTP on the loopback addresses of its host only; "
		"http=on would change that\n";
	char sink[4096], text[512];
	int len = snprintf(text, sizeof text,
			   "HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain; charset=utf-8\r\n"
			   "Content-Length: %zu\r\nConnection: close\r\n\r\n%s",
			   sizeof body - 1, body);

	/* What is left unread at the close would reset the connection, and the client would see
	 * that instead of the answer. */
	if (recv(fd, sink, sizeof sink, MSG_DONTWAIT) < 0 ||
	    send(fd, text, (size_t)len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return;
	shutdown(fd, SHUT_WR);
}

int mc_http_accept(struct mc_engine *engine, int fd, char *why, size_t why_size)
{
	struct mc_http *h = engine->http;
	int one = 1, near = 1;

	if (!h || !h->on || h->state == HTTP_CLOSED) {
		snprintf(why, why_size, "it speaks HTTP, which http=off forbids");
		return -EACCES;
	}
	if (h->loopback_only)
		near = from_this_host(fd);
	if (near < 0) {
		close(fd);
		return 0;
	}
	if (!near) {
		forbid(fd);
		h->counts.refused++;
		snprintf(why, why_size,
			 "it asks by HTTP from another host; set http=on to answer such, too");
		return -EACCES;
	}
	if (h->state == HTTP_FAILED) {
		snprintf(why, why_size, "it speaks HTTP, which is not answered: %s", h->err.text);
		return -ENOTSUP;
	}
	setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &one, sizeof one);
	if (h->state != HTTP_OPEN) {
		park(h, fd);
		return 0;
	}
	add(h, fd);
	run(h);
	return 0;
}

/* ---- life --------------------------------------------------------------------------------- */

int mc_http_new(struct mc_engine *engine)
{
	struct mc_http *h = calloc(1, sizeof *h);

	if (!h)
		return -ENOMEM;
	h->engine = engine;
	h->on = strcasecmp(engine->set->http, "off") != 0;
	h->loopback_only = strcasecmp(engine->set->http, "on") != 0;
	h->job.run = module_open;
	h->opened.run = opened;
	h->timer = (struct mc_timer){.size = sizeof h->timer, .fire = due};
	mc_http_pages_init(&h->pages, engine);
	h->pages.answered = page_answered;
	engine->http = h;
	return 0;
}

static void close_on_loop(void *arg)
{
	struct mc_http *h = arg;

	parked_drop(h, UINT64_MAX);
	mc_control_timer(h->engine->control, &h->timer, 0);
	if (h->state == HTTP_OPEN) {
		mc_control_unwatch(h->engine->control, &h->watch);
		h->ops->close(h->server);
		h->server = NULL;
	}
	h->state = HTTP_CLOSED;
}

void mc_http_close(struct mc_engine *engine)
{
	if (engine->http)
		mc_control_call(engine->control, close_on_loop, engine->http);
}

void mc_http_free(struct mc_engine *engine)
{
	/* What the helper posted is before this in the queue. */
	mc_http_close(engine);
	if (engine->http) {
		free(engine->http->metrics.body);
		free(engine->http->health.body);
		mc_http_pages_free(&engine->http->pages);
	}
	free(engine->http);
	engine->http = NULL;
}

struct mc_http_pages *mc_http_pages(const struct mc_engine *engine)
{
	return &engine->http->pages;
}

void mc_http_count(const struct mc_engine *engine, struct mc_http_counts *ret_counts)
{
	const struct mc_http *h = engine->http;
	struct mc_http_stats stats = {0};

	*ret_counts = (struct mc_http_counts){0};
	if (!h)
		return;
	if (h->state == HTTP_OPEN)
		h->ops->stats(h->server, &stats);
	*ret_counts = h->counts;
	ret_counts->connections = h->nr_parked + stats.connections;
	ret_counts->dropped += stats.dropped;
}
