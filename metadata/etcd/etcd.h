/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parts of metadata/etcd: the key-value service over the JSON gateway of etcd v3.
 *
 *   etcd.c        descriptor, options, open, close
 *   etcd_url.c    the URL: endpoints
 *   etcd_text.c   request bodies: JSON, base64
 *   etcd_reply.c  answers: a streaming decoder of what a stranger sends
 *   etcd_http.c   one request to one endpoint, on connections that are kept
 *   etcd_call.c   a request with failover, retries and authentication
 *   etcd_store.c  get, put, cas, del, list, leases
 *   etcd_hub.c    the control loop's part of watches
 *   etcd_watch.c  watch streams, and what is done when one has been lost
 *   etcd_event.c  what the host is told of a watch, and of what was missed
 *
 * Operations run on helpers and drive their connections themselves; each takes a
 * client (a libcurl multi handle with its connections) from a pool, so that two
 * run at once without a lock between them.  Watch streams belong to the hub.
 */
#ifndef ETCD_H
#define ETCD_H

#include <mooncake/metadata.h>

#include <curl/curl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/types.h>

#define ETCD_MAX_ENDPOINTS 64
#define ETCD_DEFAULT_PORT 2379

/* ---- request bodies (etcd_text.c) -------------------------------------------------------- */

/* Growing text; a failed allocation is noticed once, at the end. */
struct etcd_text {
	char *s;
	size_t len, room;
	bool failed;
};

void etcd_text_fini(struct etcd_text *t);
void etcd_text_add(struct etcd_text *t, const char *s);
void etcd_text_bytes(struct etcd_text *t, const void *bytes, size_t len); /* base64 in quotes */
void etcd_text_string(struct etcd_text *t, const char *s);                /* JSON in quotes */
void etcd_text_u64(struct etcd_text *t, uint64_t u);                      /* digits in quotes */
/* "key":...,"range_end":... of all keys with the prefix, from `after` on (excluded; NULL: from the
 * first). */
void etcd_text_range(struct etcd_text *t, const char *prefix, const char *after);

/* Decode base64 into out, which has room for len / 4 * 3 + 3 bytes.  The count or -EBADMSG. */
ssize_t etcd_base64_decode(const unsigned char *text, size_t len, uint8_t *out);

/* ---- answers (etcd_reply.c) -------------------------------------------------------------- */

/* What an answer or one frame of a stream says beside its keys. */
struct etcd_reply {
	uint64_t revision; /* of the store, when it answered */
	uint64_t cluster;  /* its id; 0: not told */
	uint64_t deleted, id, ttl, compact_revision;
	uint32_t nr_kvs;     /* keys and events that were handed out */
	uint32_t nr_skipped; /* keys that no engine can have written: names or values too long */
	bool more, succeeded, created, canceled;
	int code; /* gRPC code of an error; 0: none */
	bool failed; /* an error was told */
	char message[200];
};

/* gRPC codes that matter here. */
enum { ETCD_INVALID = 3, ETCD_DEADLINE = 4, ETCD_NOT_FOUND = 5, ETCD_DENIED = 7, ETCD_EXHAUSTED = 8,
       ETCD_PRECONDITION = 9, ETCD_OUT_OF_RANGE = 11, ETCD_UNAVAILABLE = 14, ETCD_UNAUTHENTICATED = 16 };

struct etcd_decoder;
struct etcd_sink {
	/* One key, or one event (deleted: value NULL); borrowed. */
	void (*kv)(void *ctx, const struct mc_kv *kv);
	/* A frame is complete; may be NULL. */
	void (*frame)(void *ctx, const struct etcd_reply *reply);
	/* The token of an authentication; may be NULL. */
	void (*token)(void *ctx, const char *token);
	void *ctx;
};

struct etcd_decoder *etcd_decoder_new(const struct etcd_sink *sink);
void etcd_decoder_free(struct etcd_decoder *d);
/* Take a piece of an answer.  0 or -EBADMSG (no JSON, or not such as etcd sends), for ever after. */
int etcd_decoder_feed(struct etcd_decoder *d, const void *data, size_t len);
/* Whether what came ends where a value ends, and is not nothing.  0 or -EBADMSG. */
int etcd_decoder_end(struct etcd_decoder *d);
/* Of the last frame, complete or not. */
const struct etcd_reply *etcd_decoder_reply(const struct etcd_decoder *d);

/* ---- the instance ------------------------------------------------------------------------ */

struct etcd_client;
struct etcd_hub;

struct etcd_endpoint {
	char *url;              /* "http://host:port" */
	uint64_t down_until_ns; /* atomic: after a failure it is tried last until then */
};

struct etcd_settings {
	char *user, *password, *ca, *cert, *key;
	bool verify, proxy;
	uint64_t connect_ns, request_ns, retry_ns;
	uint64_t page; /* keys per answer of a list */
};

struct etcd_inst {
	const struct mc_host *host;
	char *url; /* as the user gave it */
	struct etcd_endpoint *endpoints;
	size_t nr_endpoints;
	unsigned current; /* atomic: the endpoint that answered last */
	int up;           /* atomic: the last call was answered */
	struct etcd_settings set;
	bool curl; /* curl_global_init was called */

	/* Guards the pool and the token; held for a few instructions. */
	pthread_mutex_t mx;
	struct etcd_client *idle;
	char *token;       /* NULL: none yet */
	uint64_t token_nr; /* changes with the token */

	struct etcd_hub *hub;
};

static inline uint64_t etcd_now(const struct etcd_inst *e)
{
	return e->host->now_ns(e->host);
}

/* ---- the URL (etcd_url.c) ---------------------------------------------------------------- */

int etcd_url_parse(const char *url, struct etcd_endpoint **ret_endpoints, size_t *ret_nr,
		   struct mc_error *err);
void etcd_endpoints_free(struct etcd_endpoint *endpoints, size_t nr);

/* ---- one request (etcd_http.c) ----------------------------------------------------------- */

/* Process-wide start and end of libcurl, counted. */
int etcd_curl_start(void);
void etcd_curl_stop(void);

/* What became of one try. */
struct etcd_try {
	int status;      /* 0: an answer came; else -errno */
	long http;       /* HTTP status; 0: none */
	unsigned begun;  /* how often the request began to be sent */
	char why[300];   /* of a failure; in the answer's own words where it has some */
	const char *remedy; /* what to look at; NULL: why says it */
};

/* POST body to an endpoint, the answer to d; ends at until_ns, or soon when *stop is set (may be
 * NULL). */
void etcd_http(struct etcd_inst *e, size_t endpoint, const char *path, const struct etcd_text *body,
	       uint64_t until_ns, const int *stop, struct etcd_decoder *d, struct etcd_try *t);
void etcd_clients_free(struct etcd_inst *e);

/* An easy handle with our settings for an endpoint; the body is borrowed.  NULL: no memory. */
struct etcd_easy {
	CURL *easy;
	struct curl_slist *headers;
	uint64_t token_nr;
	char error[CURL_ERROR_SIZE];
};
int etcd_easy_open(struct etcd_inst *e, struct etcd_easy *h, bool stream);
int etcd_easy_set(struct etcd_inst *e, struct etcd_easy *h, size_t endpoint, const char *path,
		  const struct etcd_text *body);
void etcd_easy_close(struct etcd_easy *h);
/* Explain a finished transfer: status and why of t. */
void etcd_easy_result(struct etcd_inst *e, struct etcd_easy *h, CURLcode code, struct etcd_try *t);
/* SIGPIPE is held off around calls into libcurl: TLS libraries write to sockets that were closed. */
struct etcd_sigpipe {
	sigset_t old;
	bool was_pending;
};
void etcd_sigpipe_hold(struct etcd_sigpipe *s);
void etcd_sigpipe_release(const struct etcd_sigpipe *s);

/* ---- a call (etcd_call.c) ---------------------------------------------------------------- */

struct etcd_call {
	const char *path; /* "kv/range" */
	struct etcd_text body;
	uint64_t deadline_ns;
	const int *stop; /* may be NULL */
	bool leaving;    /* of an engine that closes: no waiting for an etcd that is down */
	struct etcd_sink sink;
	/* out */
	struct etcd_reply reply;
	bool maybe; /* an earlier try may have been carried out, without an answer */
};

/* Call until an endpoint answers.  0; -ENOENT, -EACCES, ... as etcd answered; -ETIMEDOUT,
 * -ECONNREFUSED, ...: none did.  `what` begins the sentence. */
int etcd_call(struct etcd_inst *e, struct etcd_call *c, const char *what, struct mc_error *err);
void etcd_call_fini(struct etcd_call *c);
/* Forget a token that was refused, unless it has been replaced. */
void etcd_token_drop(struct etcd_inst *e, uint64_t token_nr);
/* Have a token if there is a user. */
int etcd_token_get(struct etcd_inst *e, uint64_t deadline_ns, const int *stop, struct mc_error *err);
/* Whether an error is about the token, so that another one may help. */
bool etcd_token_refused(const struct etcd_reply *reply);
void etcd_endpoint_failed(struct etcd_inst *e, size_t endpoint);

/* ---- operations (etcd_store.c) ----------------------------------------------------------- */

int etcd_check(struct etcd_inst *e, uint64_t deadline_ns, struct mc_error *err);
int etcd_get(void *inst, const char *key, uint64_t deadline_ns, mc_kv_emit emit, void *ctx,
	     struct mc_error *err);
int etcd_put(void *inst, const struct mc_kv *kv, uint64_t deadline_ns, uint64_t *ret_revision,
	     struct mc_error *err);
int etcd_cas(void *inst, const struct mc_kv *kv, uint64_t expect_rev, uint64_t deadline_ns,
	     uint64_t *ret_revision, struct mc_error *err);
int etcd_del(void *inst, const char *key, uint64_t expect_rev, uint64_t deadline_ns,
	     struct mc_error *err);
int etcd_list(void *inst, const char *prefix, uint64_t deadline_ns, mc_kv_emit emit, void *ctx,
	      struct mc_error *err);
/* The same, page by page. */
struct etcd_listing {
	const char *prefix;
	bool keys_only;
	uint64_t deadline_ns;
	const int *stop;
	mc_kv_emit emit;
	void *ctx;
	uint64_t revision, cluster; /* out: the store's when the first page was read */
};
int etcd_list_pages(struct etcd_inst *e, struct etcd_listing *l, struct mc_error *err);
int etcd_lease_grant(void *inst, uint64_t ttl_ns, uint64_t deadline_ns, uint64_t *ret_lease,
		     struct mc_error *err);
int etcd_lease_keepalive(void *inst, uint64_t lease, uint64_t deadline_ns, struct mc_error *err);
int etcd_lease_revoke(void *inst, uint64_t lease, uint64_t deadline_ns, struct mc_error *err);

/* ---- watches (etcd_hub.c, etcd_watch.c) -------------------------------------------------- */

/* The private area of a watch: the host may free it as soon as unwatch returned. */
struct etcd_watch {
	struct etcd_wstate *state;
};

int etcd_hub_open(struct etcd_inst *e, struct mc_error *err);
void etcd_hub_close(struct etcd_inst *e);
int etcd_watch_add(void *inst, void *watch, const char *prefix, uint64_t deadline_ns,
		   struct mc_error *err);
void etcd_watch_remove(void *inst, void *watch);

#endif
