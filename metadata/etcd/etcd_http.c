/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One request to one endpoint: a client is a libcurl multi handle with its kept
 * connections and one easy handle; clients wait in a pool for the next request.
 * Sockets are closed on exec, libcurl uses no signals, and no proxy unless the
 * config allows it.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "core/util/check.h"
#include "etcd.h"

#define STOP_LOOK_MS 50
#define HEAD_ROOM 160

static const char no_connection[] = "check the address in metadata_server, and that the host is up and no "
				    "firewall stands between";
static const char no_name[] = "check its spelling in metadata_server, and that DNS or /etc/hosts here knows it";

struct etcd_client {
	struct etcd_client *next;
	CURLM *multi;
	struct etcd_easy h;
	/* of the request that runs */
	struct etcd_decoder *decoder;
	unsigned begun;
	char head[HEAD_ROOM]; /* the first bytes of the answer, for messages */
	size_t head_len;
	bool bad;
};

/* libcurl counts its starts, but before 7.84 not under a lock of its own. */
static pthread_mutex_t curl_mx = PTHREAD_MUTEX_INITIALIZER;

int etcd_curl_start(void)
{
	CURLcode code;

	pthread_mutex_lock(&curl_mx);
	code = curl_global_init(CURL_GLOBAL_DEFAULT);
	pthread_mutex_unlock(&curl_mx);
	return code == CURLE_OK ? 0 : -ENOMEM;
}

void etcd_curl_stop(void)
{
	pthread_mutex_lock(&curl_mx);
	curl_global_cleanup();
	pthread_mutex_unlock(&curl_mx);
}

/* ---- SIGPIPE -------------------------------------------------------------------------------- */

void etcd_sigpipe_hold(struct etcd_sigpipe *s)
{
	sigset_t pipe, pending;

	sigemptyset(&pipe);
	sigaddset(&pipe, SIGPIPE);
	sigpending(&pending);
	s->was_pending = sigismember(&pending, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &pipe, &s->old);
}

void etcd_sigpipe_release(const struct etcd_sigpipe *s)
{
	static const struct timespec now;
	sigset_t pipe;

	sigemptyset(&pipe);
	sigaddset(&pipe, SIGPIPE);
	/* One that came meanwhile is ours: a write of this thread raises it in this thread. */
	while (!s->was_pending && sigtimedwait(&pipe, NULL, &now) < 0 && errno == EINTR)
		;
	pthread_sigmask(SIG_SETMASK, &s->old, NULL);
}

/* ---- easy handles ---------------------------------------------------------------------------- */

static curl_socket_t open_socket(void *ctx, curlsocktype purpose, struct curl_sockaddr *a)
{
	return socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
}

static long to_ms(uint64_t ns)
{
	uint64_t ms = (ns + MC_MSEC - 1) / MC_MSEC;

	return ms > INT32_MAX ? INT32_MAX : (long)ms;
}

int etcd_easy_open(struct etcd_inst *e, struct etcd_easy *h, bool stream)
{
	const struct etcd_settings *set = &e->set;
	CURL *c = h->easy = curl_easy_init();

	if (!c)
		return -ENOMEM;
	curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(c, CURLOPT_TCP_NODELAY, 1L);
	curl_easy_setopt(c, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_easy_setopt(c, CURLOPT_TCP_KEEPIDLE, 10L);
	curl_easy_setopt(c, CURLOPT_TCP_KEEPINTVL, 5L);
	curl_easy_setopt(c, CURLOPT_OPENSOCKETFUNCTION, open_socket);
	curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, to_ms(set->connect_ns));
	curl_easy_setopt(c, CURLOPT_ERRORBUFFER, h->error);
	curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L);
#if LIBCURL_VERSION_NUM >= 0x075500
	curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
#else
	curl_easy_setopt(c, CURLOPT_PROTOCOLS, CURLPROTO_HTTP | CURLPROTO_HTTPS);
#endif
#if LIBCURL_VERSION_NUM >= 0x075700
	/* A name server that does not answer holds up nobody past his deadline. */
	curl_easy_setopt(c, CURLOPT_QUICK_EXIT, 1L);
#endif
	if (!set->proxy)
		curl_easy_setopt(c, CURLOPT_PROXY, "");
	curl_easy_setopt(c, CURLOPT_SSL_VERIFYPEER, set->verify ? 1L : 0L);
	curl_easy_setopt(c, CURLOPT_SSL_VERIFYHOST, set->verify ? 2L : 0L);
	if (*set->ca) {
		curl_easy_setopt(c, CURLOPT_CAINFO, set->ca);
		/* These, and none of the system's beside them. */
		curl_easy_setopt(c, CURLOPT_CAPATH, NULL);
	}
	if (*set->cert)
		curl_easy_setopt(c, CURLOPT_SSLCERT, set->cert);
	if (*set->key)
		curl_easy_setopt(c, CURLOPT_SSLKEY, set->key);
	if (stream)
		curl_easy_setopt(c, CURLOPT_FRESH_CONNECT, 1L);
	return 0;
}

static int add_header(struct curl_slist **list, const char *line)
{
	struct curl_slist *more = curl_slist_append(*list, line);

	if (!more)
		return -ENOMEM;
	*list = more;
	return 0;
}

/* The headers, with the token of now. */
static int set_headers(struct etcd_inst *e, struct etcd_easy *h)
{
	struct curl_slist *list = NULL;
	char line[1100] = "";
	int r;

	pthread_mutex_lock(&e->mx);
	if (e->token)
		snprintf(line, sizeof line, "Authorization: %s", e->token);
	if (h->headers && h->token_nr == e->token_nr) {
		pthread_mutex_unlock(&e->mx);
		return 0;
	}
	h->token_nr = e->token_nr;
	pthread_mutex_unlock(&e->mx);
	r = add_header(&list, "Content-Type: application/json");
	/* No waiting for 100 Continue before a large value. */
	if (r == 0)
		r = add_header(&list, "Expect:");
	/* A member that has lost its cluster shall say so instead of staying silent. */
	if (r == 0)
		r = add_header(&list, "Grpc-Metadata-hasleader: true");
	if (r == 0 && *line)
		r = add_header(&list, line);
	if (r < 0) {
		curl_slist_free_all(list);
		return r;
	}
	curl_easy_setopt(h->easy, CURLOPT_HTTPHEADER, list);
	curl_slist_free_all(h->headers);
	h->headers = list;
	return 0;
}

int etcd_easy_set(struct etcd_inst *e, struct etcd_easy *h, size_t endpoint, const char *path,
		  const struct etcd_text *body)
{
	char url[600];

	snprintf(url, sizeof url, "%s/v3/%s", e->endpoints[endpoint].url, path);
	h->error[0] = '\0';
	if (set_headers(e, h) < 0 || curl_easy_setopt(h->easy, CURLOPT_URL, url) != CURLE_OK)
		return -ENOMEM;
	curl_easy_setopt(h->easy, CURLOPT_POST, 1L);
	curl_easy_setopt(h->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body->len);
	curl_easy_setopt(h->easy, CURLOPT_POSTFIELDS, body->s);
	return 0;
}

void etcd_easy_close(struct etcd_easy *h)
{
	if (h->easy)
		curl_easy_cleanup(h->easy);
	curl_slist_free_all(h->headers);
	h->easy = NULL;
	h->headers = NULL;
}

/* ---- what went wrong -------------------------------------------------------------------------- */

static int failed(struct etcd_try *t, int status, const char *fmt, ...) MC_PRINTF(3, 4);
static int failed(struct etcd_try *t, int status, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(t->why, sizeof t->why, fmt, ap);
	va_end(ap);
	t->status = status;
	return status;
}

/* For a connection that the config let go another way. */
static const char *by_proxy(const struct etcd_inst *e)
{
	static const char *const names[] = {"http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy",
					    "ALL_PROXY"};

	for (size_t i = 0; e->set.proxy && i < MC_ARRAY_SIZE(names); i++) {
		const char *value = getenv(names[i]);

		if (value && *value)
			return "; metadata_proxy is true: look at http_proxy and https_proxy, too";
	}
	return "";
}

static bool is_tls(CURL *easy)
{
	char *url = NULL;

	curl_easy_getinfo(easy, CURLINFO_EFFECTIVE_URL, &url);
	return url && !strncmp(url, "https:", 6);
}

/* Time is up before there is a connection.  A name server that does not answer is not taken for etcd's host. */
static void no_connection_within(CURL *easy, long ms, const char *more, struct etcd_try *t)
{
	curl_off_t looked_up_us = 0;

	curl_easy_getinfo(easy, CURLINFO_NAMELOOKUP_TIME_T, &looked_up_us);
	failed(t, -ETIMEDOUT, "%s within %ld ms%s",
	       looked_up_us ? "no connection" : "the name of the host was not resolved", ms, more);
	t->remedy = looked_up_us ? no_connection : no_name;
}

void etcd_easy_result(struct etcd_inst *e, struct etcd_easy *h, CURLcode code, struct etcd_try *t)
{
	const char *text = h->error[0] ? h->error : curl_easy_strerror(code);
	size_t len = strlen(h->error);
	long os = 0, verify = 0;

	curl_easy_getinfo(h->easy, CURLINFO_RESPONSE_CODE, &t->http);
	curl_easy_getinfo(h->easy, CURLINFO_OS_ERRNO, &os);
	curl_easy_getinfo(h->easy, CURLINFO_SSL_VERIFYRESULT, &verify);
	/* Some of its sentences end with a blank. */
	while (len && h->error[len - 1] == ' ')
		h->error[--len] = '\0';
	t->status = 0;
	switch (code) {
	case CURLE_OK:
		return;
	case CURLE_COULDNT_RESOLVE_PROXY:
		failed(t, -EHOSTUNREACH, "the name of the proxy cannot be resolved%s", by_proxy(e));
		return;
	case CURLE_COULDNT_RESOLVE_HOST:
		failed(t, -EHOSTUNREACH, "the name of the host cannot be resolved");
		t->remedy = no_name;
		return;
	case CURLE_COULDNT_CONNECT:
		if (os)
			failed(t, -(int)os, "%s (%s)%s", strerrordesc_np((int)os),
			       strerrorname_np((int)os), by_proxy(e));
		else
			failed(t, -ECONNREFUSED, "%.200s%s", text, by_proxy(e));
		return;
	case CURLE_OPERATION_TIMEDOUT:
		no_connection_within(h->easy, to_ms(e->set.connect_ns), by_proxy(e), t);
		return;
	case CURLE_SSL_CONNECT_ERROR:
		failed(t, -EPROTO, "TLS: %.150s; if it does not speak TLS, write etcd:// or http://", text);
		return;
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_ISSUER_ERROR:
		failed(t, -EACCES, "TLS: %.150s; name its CA by metadata.etcd.ca", text);
		return;
	case CURLE_SSL_CERTPROBLEM:
	case CURLE_SSL_CACERT_BADFILE:
		failed(t, -EINVAL, "TLS: %.150s; look at metadata.etcd.ca, .cert, .key", text);
		return;
	case CURLE_GOT_NOTHING:
		failed(t, -ECONNRESET, "it closed the connection without an answer%s",
		       is_tls(h->easy) ? "" : "; if it speaks TLS, write etcds:// or https://");
		return;
	case CURLE_UNSUPPORTED_PROTOCOL:
	case CURLE_WEIRD_SERVER_REPLY:
		failed(t, -EPROTO, "what answers there does not speak HTTP (%.100s); is it etcd's client port?",
		       text);
		return;
	case CURLE_OUT_OF_MEMORY:
		failed(t, -ENOMEM, "out of memory");
		return;
	default:
		if (is_tls(h->easy) && code == CURLE_RECV_ERROR)
			failed(t, -ECONNRESET, "TLS: %.150s; does it want metadata.etcd.cert and .key?",
			       text);
		else
			failed(t, -ECONNRESET, "%.200s", text);
		return;
	}
}

/* An answer that is not etcd's. */
static void not_etcd(struct etcd_client *c, struct etcd_try *t)
{
	for (size_t i = 0; i < c->head_len; i++)
		if ((unsigned char)c->head[i] < ' ')
			c->head[i] = ' ';
	while (c->head_len && c->head[c->head_len - 1] == ' ')
		c->head_len--;
	c->head[c->head_len] = '\0';
	if (t->http == 400 && strstr(c->head, "HTTPS"))
		failed(t, -EPROTO, "HTTP 400: it speaks TLS; write etcds:// or https://");
	else if (t->http == 404)
		failed(t, -EPROTO, "HTTP 404: it is not the client port of etcd 3.4 or later with its JSON "
		       "gateway (--enable-grpc-gateway)");
	else
		failed(t, -EPROTO, "HTTP %ld: not an answer of etcd: '%.120s'", t->http, c->head);
}

/* ---- clients ------------------------------------------------------------------------------------ */

static size_t on_data(char *data, size_t size, size_t nr, void *ctx)
{
	struct etcd_client *c = ctx;
	size_t n = MC_MIN(nr, sizeof c->head - 1 - c->head_len);

	memcpy(c->head + c->head_len, data, n);
	c->head_len += n;
	/* What is no JSON is read to its end, to be told and to keep the connection. */
	if (!c->bad && etcd_decoder_feed(c->decoder, data, nr) < 0)
		c->bad = true;
	return c->bad && c->head_len == sizeof c->head - 1 ? 0 : nr;
}

static int on_begin(void *ctx, char *to, char *from, int to_port, int from_port)
{
	struct etcd_client *c = ctx;

	c->begun++;
	return CURL_PREREQFUNC_OK;
}

static void client_free(struct etcd_client *c)
{
	etcd_easy_close(&c->h);
	if (c->multi)
		curl_multi_cleanup(c->multi);
	free(c);
}

static struct etcd_client *client_get(struct etcd_inst *e)
{
	struct etcd_client *c;

	pthread_mutex_lock(&e->mx);
	c = e->idle;
	if (c)
		e->idle = c->next;
	pthread_mutex_unlock(&e->mx);
	if (c)
		return c;
	c = calloc(1, sizeof *c);
	if (!c)
		return NULL;
	c->multi = curl_multi_init();
	if (!c->multi || etcd_easy_open(e, &c->h, false) < 0) {
		client_free(c);
		return NULL;
	}
	curl_multi_setopt(c->multi, CURLMOPT_MAXCONNECTS, 4L);
	curl_easy_setopt(c->h.easy, CURLOPT_WRITEFUNCTION, on_data);
	curl_easy_setopt(c->h.easy, CURLOPT_WRITEDATA, c);
	curl_easy_setopt(c->h.easy, CURLOPT_PREREQFUNCTION, on_begin);
	curl_easy_setopt(c->h.easy, CURLOPT_PREREQDATA, c);
	return c;
}

static void client_put(struct etcd_inst *e, struct etcd_client *c)
{
	pthread_mutex_lock(&e->mx);
	c->next = e->idle;
	e->idle = c;
	pthread_mutex_unlock(&e->mx);
}

void etcd_clients_free(struct etcd_inst *e)
{
	struct etcd_sigpipe s;
	struct etcd_client *c;

	etcd_sigpipe_hold(&s);
	while ((c = e->idle)) {
		e->idle = c->next;
		client_free(c);
	}
	etcd_sigpipe_release(&s);
}

/* Until it is done; false: time is over, or it was stopped. */
static bool drive(struct etcd_inst *e, struct etcd_client *c, uint64_t until_ns, const int *stop,
		  CURLcode *ret_code)
{
	int running = 1, left;
	CURLMsg *msg;

	for (;;) {
		uint64_t now;
		long ms;

		if (curl_multi_perform(c->multi, &running) != CURLM_OK) {
			*ret_code = CURLE_OUT_OF_MEMORY;
			return true;
		}
		if (!running)
			break;
		now = etcd_now(e);
		if (now >= until_ns || (stop && __atomic_load_n(stop, __ATOMIC_RELAXED)))
			return false;
		ms = to_ms(until_ns - now);
		if (stop)
			ms = MC_MIN(ms, STOP_LOOK_MS);
		curl_multi_poll(c->multi, NULL, 0, (int)ms, NULL);
	}
	*ret_code = CURLE_RECV_ERROR;
	while ((msg = curl_multi_info_read(c->multi, &left)))
		if (msg->msg == CURLMSG_DONE)
			*ret_code = msg->data.result;
	return true;
}

static void request(struct etcd_inst *e, struct etcd_client *c, uint64_t until_ns, const int *stop,
		    struct etcd_try *t)
{
	uint64_t begin = etcd_now(e);
	struct etcd_sigpipe s;
	CURLcode code = CURLE_OK;
	bool done;

	etcd_sigpipe_hold(&s);
	curl_multi_add_handle(c->multi, c->h.easy);
	done = drive(e, c, until_ns, stop, &code);
	if (done) {
		etcd_easy_result(e, &c->h, code, t);
	} else if (c->begun) {
		failed(t, -ETIMEDOUT, "no answer within %ld ms", to_ms(etcd_now(e) - begin));
		t->remedy = "is etcd overloaded, frozen or without a leader? etcdctl endpoint health says so";
	} else {
		no_connection_within(c->h.easy, to_ms(etcd_now(e) - begin), "", t);
	}
	curl_multi_remove_handle(c->multi, c->h.easy);
	etcd_sigpipe_release(&s);
	t->begun = c->begun;
	/* A body of which we wanted no more. */
	if (done && code == CURLE_WRITE_ERROR && c->bad)
		t->status = 0;
	if (t->status == 0 && (c->bad || etcd_decoder_end(c->decoder) < 0))
		not_etcd(c, t);
	else if (t->status == 0 && t->http != 200 && !etcd_decoder_reply(c->decoder)->failed)
		not_etcd(c, t);
}

void etcd_http(struct etcd_inst *e, size_t endpoint, const char *path, const struct etcd_text *body,
	       uint64_t until_ns, const int *stop, struct etcd_decoder *d, struct etcd_try *t)
{
	struct etcd_client *c = client_get(e);

	*t = (struct etcd_try){0};
	if (!c || etcd_easy_set(e, &c->h, endpoint, path, body) < 0) {
		failed(t, -ENOMEM, "out of memory");
	} else {
		c->decoder = d;
		c->begun = 0;
		c->head_len = 0;
		c->bad = false;
		request(e, c, until_ns, stop, t);
		c->decoder = NULL;
	}
	if (c)
		client_put(e, c);
}
