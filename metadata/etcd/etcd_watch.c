/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Watch streams.  Each watch is one request whose answer does not end: frames
 * with events, which etcd_event.c tells the host.  A stream that breaks is opened
 * again, at another endpoint if there is one, from the revision that was seen last.
 * A stream that is silent is believed only as long as its server answers another
 * request.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "core/util/check.h"
#include "etcd_watch.h"

#define SILENT_NS (5 * MC_SEC)
#define BACKOFF_NS (100 * MC_MSEC)
#define BACKOFF_MAX_NS (2 * MC_SEC)

/* ---- what comes on a stream -------------------------------------------------------------------- */

void etcd_stream_over(struct etcd_wstate *ws, const char *why)
{
	if (!ws->ended)
		snprintf(ws->why, sizeof ws->why, "%.299s", why);
	ws->ended = true;
}

static void on_kv(void *ctx, const struct mc_kv *kv)
{
	struct etcd_wstate *ws = ctx;
	size_t key_len = strlen(kv->key);
	struct etcd_event *ev = malloc(sizeof *ev + kv->len + key_len + 1);

	if (!ev) {
		ws->lost = true;
		etcd_stream_over(ws, "out of memory");
		return;
	}
	*ev = (struct etcd_event){
		.revision = kv->revision, .len = kv->len, .deleted = kv->value == NULL};
	if (kv->len)
		memcpy(ev->value, kv->value, kv->len);
	ev->key = memcpy((char *)ev->value + kv->len, kv->key, key_len + 1);
	*ws->events_tail = ev;
	ws->events_tail = &ev->next;
}

static void on_frame(void *ctx, const struct etcd_reply *reply)
{
	struct etcd_wstate *ws = ctx;
	char why[260];

	if (reply->canceled && reply->compact_revision) {
		ws->lost = true;
		etcd_stream_over(ws, "what happened meanwhile has been compacted");
	} else if (reply->canceled || reply->failed) {
		if (etcd_token_refused(reply))
			etcd_token_drop(ws->hub->inst, ws->stream.token_nr);
		snprintf(why, sizeof why, "etcd answers '%s'", reply->message);
		etcd_stream_over(ws, why);
	} else if (etcd_other_store(ws, reply->revision, reply->cluster)) {
		ws->lost = true;
		etcd_stream_over(ws, "its revision is older than what was seen");
	} else if (reply->created) {
		ws->state = STREAM_LIVE;
		ws->backoff_ns = 0;
	} else if (!reply->nr_kvs && !reply->nr_skipped && reply->revision && !ws->events) {
		/* A sign of progress: all up to this revision has been told. */
		ws->from = MC_MAX(ws->from, reply->revision + 1);
	}
}

static size_t on_data(char *data, size_t size, size_t nr, void *ctx)
{
	struct etcd_wstate *ws = ctx;

	ws->heard_ns = etcd_now(ws->hub->inst);
	if (!ws->ended && etcd_decoder_feed(ws->decoder, data, nr) < 0)
		etcd_stream_over(ws, "it sends what is not etcd's JSON");
	return ws->ended ? 0 : nr;
}

static size_t on_ping_data(char *data, size_t size, size_t nr, void *ctx)
{
	return nr;
}

/* ---- the multi handle ---------------------------------------------------------------------------- */

static int on_socket(CURL *easy, curl_socket_t s, int what, void *ctx, void *mark)
{
	struct etcd_hub *h = ctx;
	struct epoll_event ev = {.data.fd = s};

	if (what == CURL_POLL_REMOVE) {
		epoll_ctl(h->epfd, EPOLL_CTL_DEL, s, NULL);
		return 0;
	}
	if (what & CURL_POLL_IN)
		ev.events |= EPOLLIN;
	if (what & CURL_POLL_OUT)
		ev.events |= EPOLLOUT;
	if (epoll_ctl(h->epfd, EPOLL_CTL_MOD, s, &ev) < 0)
		epoll_ctl(h->epfd, EPOLL_CTL_ADD, s, &ev);
	return 0;
}

static int on_timer(CURLM *multi, long ms, void *ctx)
{
	struct etcd_hub *h = ctx;

	h->curl_due_ns = ms < 0 ? 0 : etcd_now(h->inst) + (uint64_t)ms * MC_MSEC;
	return 0;
}

static int multi_open(struct etcd_hub *h)
{
	if (h->multi)
		return 0;
	h->multi = curl_multi_init();
	if (!h->multi)
		return -ENOMEM;
	curl_multi_setopt(h->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
	curl_multi_setopt(h->multi, CURLMOPT_SOCKETDATA, h);
	curl_multi_setopt(h->multi, CURLMOPT_TIMERFUNCTION, on_timer);
	curl_multi_setopt(h->multi, CURLMOPT_TIMERDATA, h);
	curl_multi_setopt(h->multi, CURLMOPT_MAXCONNECTS, 16L);
	return 0;
}

/* Whatever libcurl can do now; false: nothing. */
static bool multi_step(struct etcd_hub *h)
{
	struct epoll_event ev[16];
	int nr, running;
	bool any = false;

	nr = epoll_wait(h->epfd, ev, MC_ARRAY_SIZE(ev), 0);
	for (int i = 0; i < nr; i++) {
		int mask = (ev[i].events & EPOLLIN ? CURL_CSELECT_IN : 0) |
			   (ev[i].events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
			   (ev[i].events & (EPOLLERR | EPOLLHUP) ? CURL_CSELECT_ERR : 0);

		curl_multi_socket_action(h->multi, ev[i].data.fd, mask, &running);
		any = true;
	}
	if (h->curl_due_ns && etcd_now(h->inst) >= h->curl_due_ns) {
		h->curl_due_ns = 0;
		curl_multi_socket_action(h->multi, CURL_SOCKET_TIMEOUT, 0, &running);
		any = true;
	}
	return any;
}

static void transfer_done(struct etcd_wstate *ws, bool ping, CURLcode code)
{
	struct etcd_try t = {0};

	etcd_easy_result(ws->hub->inst, ping ? &ws->ping : &ws->stream, code, &t);
	if (ping && t.status == 0) {
		curl_multi_remove_handle(ws->hub->multi, ws->ping.easy);
		ws->pinging = false;
		ws->heard_ns = etcd_now(ws->hub->inst);
		ws->due_ns = ws->heard_ns + SILENT_NS;
		return;
	}
	etcd_stream_over(ws, t.status < 0 ? t.why : ping ? "its server does not answer" : "the server ended it");
}

static void multi_done(struct etcd_hub *h)
{
	CURLMsg *msg;
	int left;

	while ((msg = curl_multi_info_read(h->multi, &left))) {
		CURL *easy = msg->easy_handle;
		CURLcode code = msg->data.result;
		char *owner = NULL;

		if (msg->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(easy, CURLINFO_PRIVATE, &owner);
		transfer_done((struct etcd_wstate *)owner, easy == ((struct etcd_wstate *)owner)->ping.easy,
			      code);
	}
}

/* ---- one stream ----------------------------------------------------------------------------------- */

static int easy_new(struct etcd_wstate *ws, struct etcd_easy *h, bool stream)
{
	if (h->easy)
		return 0;
	if (etcd_easy_open(ws->hub->inst, h, stream) < 0)
		return -ENOMEM;
	curl_easy_setopt(h->easy, CURLOPT_WRITEFUNCTION, stream ? on_data : on_ping_data);
	curl_easy_setopt(h->easy, CURLOPT_WRITEDATA, ws);
	curl_easy_setopt(h->easy, CURLOPT_PRIVATE, ws);
	return 0;
}

static void stream_close(struct etcd_wstate *ws)
{
	if (ws->streaming)
		curl_multi_remove_handle(ws->hub->multi, ws->stream.easy);
	if (ws->pinging)
		curl_multi_remove_handle(ws->hub->multi, ws->ping.easy);
	ws->streaming = ws->pinging = false;
	etcd_decoder_free(ws->decoder);
	ws->decoder = NULL;
}

/* It is over: when and where to try again. */
static void stream_ended(struct etcd_wstate *ws, uint64_t now)
{
	struct etcd_inst *e = ws->hub->inst;
	bool was_live = ws->state == STREAM_LIVE;

	e->host->log(e->host, MC_LOG_DEBUG, "watch of '%s' at %s: %s; it will be resumed", ws->prefix,
		     e->endpoints[ws->endpoint].url, ws->why);
	stream_close(ws);
	ws->ended = false;
	ws->state = STREAM_IDLE;
	if (!ws->lost)
		etcd_endpoint_failed(e, ws->endpoint);
	ws->endpoint = (ws->endpoint + 1) % e->nr_endpoints;
	/* One that lived is resumed at once; one that did not come up, later and later. */
	ws->due_ns = now + ws->backoff_ns;
	if (was_live && !ws->lost)
		ws->due_ns = now + (e->nr_endpoints > 1 ? 0 : BACKOFF_NS);
	ws->backoff_ns = MC_MIN(MC_MAX(2 * ws->backoff_ns, BACKOFF_NS), BACKOFF_MAX_NS);
}

static int stream_start(struct etcd_wstate *ws, uint64_t now, struct mc_error *err)
{
	struct etcd_hub *h = ws->hub;
	struct etcd_inst *e = h->inst;
	struct etcd_sink sink = {.kv = on_kv, .frame = on_frame, .ctx = ws};
	int r = etcd_token_get(e, now + e->set.request_ns, &h->closing, err);

	if (r == 0 && ws->lost)
		r = etcd_resync(ws, now, err);
	if (r == 0 && (multi_open(h) < 0 || easy_new(ws, &ws->stream, true) < 0 ||
		       !(ws->decoder = etcd_decoder_new(&sink))))
		r = mc_fail(err, -ENOMEM, "out of memory");
	if (r < 0)
		return r;
	etcd_text_fini(&ws->body);
	etcd_text_add(&ws->body, "{\"create_request\":{");
	etcd_text_range(&ws->body, ws->prefix, NULL);
	etcd_text_add(&ws->body, ",\"progress_notify\":true,\"start_revision\":");
	etcd_text_u64(&ws->body, ws->from);
	etcd_text_add(&ws->body, "}}");
	if (ws->body.failed || etcd_easy_set(e, &ws->stream, ws->endpoint, "watch", &ws->body) < 0 ||
	    curl_multi_add_handle(h->multi, ws->stream.easy) != CURLM_OK)
		return mc_fail(err, -ENOMEM, "out of memory");
	ws->streaming = true;
	ws->state = STREAM_OPENING;
	ws->heard_ns = now;
	ws->due_ns = now + e->set.connect_ns + e->set.request_ns;
	return 0;
}

/* It has been silent: ask its server anything. */
static void ping_start(struct etcd_wstate *ws, uint64_t now)
{
	struct etcd_inst *e = ws->hub->inst;

	ws->due_ns = now + SILENT_NS;
	if (!ws->ping_body.s)
		etcd_text_add(&ws->ping_body, "{}");
	if (ws->ping_body.failed || easy_new(ws, &ws->ping, false) < 0 ||
	    etcd_easy_set(e, &ws->ping, ws->endpoint, "maintenance/status", &ws->ping_body) < 0 ||
	    curl_multi_add_handle(ws->hub->multi, ws->ping.easy) != CURLM_OK)
		return;
	ws->pinging = true;
	ws->due_ns = now + e->set.request_ns;
}

/* What is due of one stream.  True: libcurl has something to do. */
static bool stream_step(struct etcd_wstate *ws)
{
	uint64_t now = etcd_now(ws->hub->inst);
	struct mc_error err = {0};

	if (ws->state == STREAM_OPENING && now >= ws->due_ns)
		etcd_stream_over(ws, "no answer in time");
	if (ws->state == STREAM_LIVE && ws->pinging && now >= ws->due_ns)
		etcd_stream_over(ws, "its server does not answer any more");
	if (ws->ended) {
		stream_ended(ws, now);
	} else if (ws->state == STREAM_LIVE && !ws->pinging) {
		if (now < ws->heard_ns + SILENT_NS) {
			ws->due_ns = ws->heard_ns + SILENT_NS;
		} else {
			ping_start(ws, now);
			return true;
		}
	}
	if (ws->state != STREAM_IDLE || now < ws->due_ns)
		return false;
	if (stream_start(ws, now, &err) < 0) {
		etcd_stream_over(ws, err.text);
		stream_ended(ws, etcd_now(ws->hub->inst));
		return false;
	}
	return true;
}

/* ---- turns ---------------------------------------------------------------------------------------- */

void etcd_watch_free(struct etcd_wstate *ws)
{
	stream_close(ws);
	etcd_easy_close(&ws->stream);
	etcd_easy_close(&ws->ping);
	etcd_text_fini(&ws->body);
	etcd_text_fini(&ws->ping_body);
	etcd_events_free(ws);
	free(ws->prefix);
	free(ws);
}

static struct etcd_wstate *head(struct etcd_hub *h)
{
	struct etcd_wstate *ws;

	pthread_mutex_lock(&h->mx);
	ws = h->watches;
	pthread_mutex_unlock(&h->mx);
	return ws;
}

/* Watches that ended: only a turn unlinks them, so that it may walk the list without the lock. */
static void bury(struct etcd_hub *h)
{
	struct etcd_wstate *dead = NULL, *ws, **at;

	pthread_mutex_lock(&h->mx);
	for (at = &h->watches; (ws = *at);) {
		if (ws->dead && !ws->emitting) {
			*at = ws->next;
			ws->next = dead;
			dead = ws;
		} else {
			at = &ws->next;
		}
	}
	pthread_mutex_unlock(&h->mx);
	while ((ws = dead)) {
		dead = ws->next;
		etcd_watch_free(ws);
	}
}

uint64_t etcd_watch_turn(struct etcd_hub *h)
{
	struct etcd_sigpipe s;
	uint64_t due;
	bool more = true;

	etcd_sigpipe_hold(&s);
	/* Bounded, for a helper is lent: what is left over announces itself. */
	for (int i = 0; i < 64 && more; i++) {
		more = h->multi && multi_step(h);
		if (h->multi)
			multi_done(h);
		bury(h);
		for (struct etcd_wstate *ws = head(h); ws; ws = ws->next) {
			etcd_events_deliver(ws);
			more |= stream_step(ws);
		}
	}
	due = h->curl_due_ns;
	for (struct etcd_wstate *ws = head(h); ws; ws = ws->next)
		if (ws->due_ns && (!due || ws->due_ns < due))
			due = ws->due_ns;
	etcd_sigpipe_release(&s);
	return due;
}

/* ---- watch, unwatch ------------------------------------------------------------------------------- */

static int known_one(void *ctx, const struct mc_kv *kv)
{
	struct etcd_wstate *ws = ctx;

	if (etcd_known_set(ws, kv->key, kv->revision) < 0)
		ws->lost = true;
	return ws->lost;
}

int etcd_watch_add(void *inst, void *watch, const char *prefix, uint64_t deadline_ns,
		   struct mc_error *err)
{
	struct etcd_inst *e = inst;
	struct etcd_hub *h = e->hub;
	struct etcd_watch *w = watch;
	struct etcd_wstate *ws = calloc(1, sizeof *ws);
	struct etcd_listing l = {
		.prefix = prefix, .keys_only = true, .deadline_ns = deadline_ns, .emit = known_one, .ctx = ws};
	int r;

	if (ws)
		ws->prefix = strdup(prefix);
	if (!ws || !ws->prefix) {
		free(ws);
		return mc_fail(err, -ENOMEM, "prefix '%s': out of memory", prefix);
	}
	ws->prefix_len = strlen(prefix);
	ws->hub = h;
	ws->user = watch;
	ws->events_tail = &ws->events;
	r = etcd_list_pages(e, &l, err);
	if (r == 0 && ws->lost)
		r = mc_fail(err, -ENOMEM, "prefix '%s': out of memory", prefix);
	if (r < 0) {
		etcd_watch_free(ws);
		return r;
	}
	/* From here on the history of etcd holds what happens until the stream is up. */
	ws->from = l.revision + 1;
	ws->cluster = l.cluster;
	ws->endpoint = __atomic_load_n(&e->current, __ATOMIC_RELAXED);
	ws->due_ns = etcd_now(e);
	pthread_mutex_lock(&h->mx);
	ws->next = h->watches;
	h->watches = ws;
	pthread_mutex_unlock(&h->mx);
	w->state = ws;
	etcd_hub_request(h);
	return 0;
}

void etcd_watch_remove(void *inst, void *watch)
{
	struct etcd_inst *e = inst;
	struct etcd_hub *h = e->hub;
	struct etcd_watch *w = watch;
	struct etcd_wstate *ws = w->state;

	if (!ws)
		return;
	pthread_mutex_lock(&h->mx);
	/* Called inside its own event: that one is the last. */
	while (ws->emitting && !pthread_equal(h->emitter, pthread_self()))
		pthread_cond_wait(&h->cond, &h->mx);
	ws->dead = true;
	w->state = NULL;
	pthread_mutex_unlock(&h->mx);
	etcd_hub_request(h);
}
