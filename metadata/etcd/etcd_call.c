/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A call: the endpoint that answered last is asked first, then the others, each
 * for its share of the time that is left; those that failed lately come last.
 * When none answers the round is repeated for a while, unless that has been in
 * vain before.  A token is fetched when there is a user, and again when etcd has
 * forgotten it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/util/check.h"
#include "etcd.h"

#define DOWN_NS (3 * MC_SEC)
#define PAUSE_NS (100 * MC_MSEC)
#define PAUSE_MAX_NS (500 * MC_MSEC)

void etcd_endpoint_failed(struct etcd_inst *e, size_t endpoint)
{
	__atomic_store_n(&e->endpoints[endpoint].down_until_ns, etcd_now(e) + DOWN_NS,
			 __ATOMIC_RELAXED);
}

static void endpoint_answered(struct etcd_inst *e, size_t endpoint)
{
	__atomic_store_n(&e->endpoints[endpoint].down_until_ns, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&e->current, (unsigned)endpoint, __ATOMIC_RELAXED);
}

/* The order of a round: from the current one on, those that are down behind. */
static void order(struct etcd_inst *e, size_t list[])
{
	size_t first = __atomic_load_n(&e->current, __ATOMIC_RELAXED), nr = 0;
	uint64_t now = etcd_now(e);

	for (int down = 0; down < 2; down++) {
		for (size_t i = 0; i < e->nr_endpoints; i++) {
			size_t at = (first + i) % e->nr_endpoints;
			uint64_t until = __atomic_load_n(&e->endpoints[at].down_until_ns,
							 __ATOMIC_RELAXED);

			if ((until > now) == down)
				list[nr++] = at;
		}
	}
}

/* ---- tokens -------------------------------------------------------------------------------- */

bool etcd_token_refused(const struct etcd_reply *reply)
{
	return reply->code == ETCD_UNAUTHENTICATED || strstr(reply->message, "invalid auth token") ||
	       strstr(reply->message, "revision of auth store is old") ||
	       strstr(reply->message, "user name is empty");
}

void etcd_token_drop(struct etcd_inst *e, uint64_t token_nr)
{
	pthread_mutex_lock(&e->mx);
	if (e->token_nr == token_nr) {
		free(e->token);
		e->token = NULL;
		e->token_nr++;
	}
	pthread_mutex_unlock(&e->mx);
}

static void got_token(void *ctx, const char *token)
{
	struct etcd_inst *e = ctx;
	char *copy = strdup(token);

	pthread_mutex_lock(&e->mx);
	if (copy) {
		free(e->token);
		e->token = copy;
		e->token_nr++;
	}
	pthread_mutex_unlock(&e->mx);
}

static int call(struct etcd_inst *e, struct etcd_call *c, bool tokens, struct mc_error *err);

int etcd_token_get(struct etcd_inst *e, uint64_t deadline_ns, const int *stop, struct mc_error *err)
{
	struct etcd_call c = {.path = "auth/authenticate",
			      .deadline_ns = deadline_ns,
			      .stop = stop,
			      .sink = {.token = got_token, .ctx = e}};
	bool has;
	int r;

	pthread_mutex_lock(&e->mx);
	has = e->token || !*e->set.user;
	pthread_mutex_unlock(&e->mx);
	if (has)
		return 0;
	etcd_text_add(&c.body, "{\"name\":");
	etcd_text_string(&c.body, e->set.user);
	etcd_text_add(&c.body, ",\"password\":");
	etcd_text_string(&c.body, e->set.password);
	etcd_text_add(&c.body, "}");
	r = call(e, &c, false, err);
	if (r < 0 && c.reply.code == ETCD_PRECONDITION) {
		e->host->log(e->host, MC_LOG_DEBUG, "user '%s' is not used: etcd has no authentication",
			     e->set.user);
		r = 0;
	} else if (r < 0 && c.reply.failed) {
		r = mc_fail(err, -EACCES,
			    "user '%s': etcd answers '%s'; look at metadata.etcd.user and .password_file",
			    e->set.user, c.reply.message);
	}
	etcd_call_fini(&c);
	return r;
}

/* ---- answers and failures --------------------------------------------------------------------- */

/* Another endpoint, or the same one a little later, may do better. */
static bool is_passing(const struct etcd_reply *reply)
{
	return reply->code == ETCD_UNAVAILABLE || reply->code == ETCD_DEADLINE || reply->code == 1 ||
	       (reply->code == 2 && !strstr(reply->message, "auth"));
}

static int answer(struct etcd_inst *e, const struct etcd_call *c, size_t endpoint, long http,
		  struct mc_error *err)
{
	const struct etcd_reply *reply = &c->reply;
	const char *hint = "";
	int r = -EIO;

	if (!reply->failed)
		return 0;
	switch (reply->code) {
	case ETCD_NOT_FOUND:
		r = -ENOENT;
		break;
	case ETCD_DENIED:
		r = -EACCES;
		hint = "; grant the user's role the keys below 'mooncake/'";
		break;
	case ETCD_UNAUTHENTICATED:
		r = -EACCES;
		break;
	case ETCD_EXHAUSTED:
		r = -ENOSPC;
		hint = "; look at etcdctl alarm list, compact and defragment";
		break;
	case ETCD_OUT_OF_RANGE:
		r = -ERANGE;
		break;
	}
	if (etcd_token_refused(reply)) {
		r = -EACCES;
		if (!*e->set.user)
			hint = "; it wants a user: set metadata.etcd.user and .password_file";
	}
	return mc_fail(err, r, "%s/v3/%s: etcd answers '%s' (HTTP %ld)%s", e->endpoints[endpoint].url,
		       c->path, reply->message, http, hint);
}

/* What each endpoint said, the latest of each, in one line. */
struct reasons {
	int status;
	size_t len;
	const char *remedy; /* of the last that had one */
	char text[720];
};

static void reason_add(struct reasons *all, const struct etcd_inst *e, size_t endpoint,
		       const char *path, const struct etcd_try *t)
{
	size_t room = sizeof all->text - all->len;
	int n;

	if (all->status == 0 || all->status == -ETIMEDOUT)
		all->status = t->status;
	if (t->remedy)
		all->remedy = t->remedy;
	n = snprintf(all->text + all->len, room, "%s%s/v3/%s: %.*s", all->len ? "; " : "",
		     e->endpoints[endpoint].url, path, (int)(480 / e->nr_endpoints + 60), t->why);
	if (n > 0 && (size_t)n < room)
		all->len += (size_t)n;
	else
		all->text[all->len] = '\0';
}

static int no_answer(const struct reasons *all, uint64_t now, uint64_t deadline_ns, struct mc_error *err)
{
	/* Codes that are answers about a key may not come from a socket. */
	int r = all->status == -ENOENT || all->status == -EEXIST || all->status == -ESTALE || !all->status
			? -EIO
			: all->status;
	const char *hint = all->remedy ? all->remedy : "";

	if (now >= deadline_ns)
		r = -ETIMEDOUT;
	if (all->status == -ECONNREFUSED)
		hint = "start etcd there, or correct metadata_server";
	return mc_fail(err, r, "%s%s%s", all->len ? all->text : "no time was left to ask", *hint ? "; " : "",
		       hint);
}

/* ---- the call --------------------------------------------------------------------------------- */

/* Ask one endpoint.  True: it answered, and *ret is the call's result. */
static bool ask(struct etcd_inst *e, struct etcd_call *c, size_t endpoint, uint64_t until_ns,
		bool tokens, bool *renewed, struct reasons *all, int *ret, struct mc_error *err)
{
	struct etcd_decoder *d;
	struct etcd_try t;
	uint64_t token_nr;

	for (;;) {
		pthread_mutex_lock(&e->mx);
		token_nr = e->token_nr;
		pthread_mutex_unlock(&e->mx);
		d = etcd_decoder_new(&c->sink);
		if (!d) {
			*ret = mc_fail(err, -ENOMEM, "%s: out of memory", c->path);
			return true;
		}
		etcd_http(e, endpoint, c->path, &c->body, until_ns, c->stop, d, &t);
		c->reply = *etcd_decoder_reply(d);
		etcd_decoder_free(d);
		/* A kept connection that was closed meanwhile is replaced, and the request sent
		 * again, by libcurl itself. */
		if (t.begun > 1)
			c->maybe = true;
		if (t.status < 0 || is_passing(&c->reply))
			break;
		endpoint_answered(e, endpoint);
		if (tokens && *e->set.user && !*renewed && c->reply.failed &&
		    etcd_token_refused(&c->reply)) {
			*renewed = true;
			etcd_token_drop(e, token_nr);
			*ret = etcd_token_get(e, until_ns, c->stop, err);
			if (*ret < 0)
				return true;
			continue;
		}
		*ret = answer(e, c, endpoint, t.http, err);
		return true;
	}
	if (t.begun)
		c->maybe = true;
	if (t.status == 0) {
		t.status = -EAGAIN;
		snprintf(t.why, sizeof t.why, "etcd answers '%s' (HTTP %ld)", c->reply.message, t.http);
	}
	etcd_endpoint_failed(e, endpoint);
	reason_add(all, e, endpoint, c->path, &t);
	return false;
}

static bool round_of(struct etcd_inst *e, struct etcd_call *c, bool tokens, bool *renewed,
		     struct reasons *all, int *ret, struct mc_error *err)
{
	size_t list[ETCD_MAX_ENDPOINTS];

	order(e, list);
	for (size_t i = 0; i < e->nr_endpoints; i++) {
		size_t left = e->nr_endpoints - i;
		uint64_t now = etcd_now(e), share;

		if (now >= c->deadline_ns || (c->stop && __atomic_load_n(c->stop, __ATOMIC_RELAXED)))
			return false;
		share = (c->deadline_ns - now) / left;
		/* A lone server that is slow is waited for as long as the caller does. */
		if (e->nr_endpoints > 1)
			share = MC_MIN(share, e->set.request_ns);
		if (ask(e, c, list[i], now + share, tokens, renewed, all, ret, err))
			return true;
	}
	return false;
}

static int call(struct etcd_inst *e, struct etcd_call *c, bool tokens, struct mc_error *err)
{
	uint64_t begin = etcd_now(e), pause = PAUSE_NS, now;
	bool was_up = __atomic_load_n(&e->up, __ATOMIC_RELAXED), renewed = false;
	struct reasons all;
	int r = 0;

	if (c->body.failed)
		return mc_fail(err, -ENOMEM, "%s: out of memory", c->path);
	if (tokens) {
		r = etcd_token_get(e, c->deadline_ns, c->stop, err);
		if (r < 0)
			return r;
	}
	for (;;) {
		struct timespec ts = {.tv_nsec = (long)pause};

		all = (struct reasons){0};
		if (round_of(e, c, tokens, &renewed, &all, &r, err)) {
			__atomic_store_n(&e->up, 1, __ATOMIC_RELAXED);
			return r;
		}
		now = etcd_now(e);
		/* What speaks no HTTP, or has the wrong certificate, will not learn it. */
		if (!was_up || (c->leaving && !c->maybe) || now + pause >= begin + e->set.retry_ns || now + pause >= c->deadline_ns ||
		    all.status == -EPROTO || all.status == -EACCES || all.status == -EINVAL ||
		    (c->stop && __atomic_load_n(c->stop, __ATOMIC_RELAXED)))
			break;
		nanosleep(&ts, NULL);
		pause = MC_MIN(2 * pause, PAUSE_MAX_NS);
	}
	__atomic_store_n(&e->up, 0, __ATOMIC_RELAXED);
	return no_answer(&all, now, c->deadline_ns, err);
}

int etcd_call(struct etcd_inst *e, struct etcd_call *c, const char *what, struct mc_error *err)
{
	struct mc_error own = {0};
	int r = call(e, c, true, &own);

	if (r < 0)
		mc_fail(err, r, "%s: %.900s", what, own.text);
	return r;
}

void etcd_call_fini(struct etcd_call *c)
{
	etcd_text_fini(&c->body);
}
