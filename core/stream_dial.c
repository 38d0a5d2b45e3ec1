/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The dialling side: try the addresses with a head start of 300 ms each, say
 * hello on each connection that comes up, take the first that is admitted.  With
 * a cluster key only answers that come with a proof of it are believed.
 * Numeric addresses go first; names are resolved on a helper, once a head start
 * has brought no admission.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <utlist.h>

#include "addr.h"
#include "admit_wire.h"
#include "clock.h"
#include "host.h"
#include "log.h"
#include "stream_port.h"
#include "core/util/check.h"

#define HEAD_START_NS (300 * MC_MSEC)

/* One connection of a dial. */
struct attempt {
	struct attempt *prev, *next;
	struct mc_dial *dial;
	uv_poll_t poll;
	int fd;
	bool said_hello;
	struct mc_admit_talk *talk; /* with a key: what was said so far */
	size_t have, need;
	char to[MC_ADDR_TEXT_MAX];
	uint8_t buf[MC_ANSWER_MAX];
};

struct mc_dial {
	struct mc_dial *prev, *next; /* port->dials */
	struct mc_control_post post;
	struct mc_job job;
	struct mc_port *port;
	struct mc_stream_hello hello;
	char *local;
	char *path; /* of the Unix socket to dial, instead of the addresses; NULL: those */
	char **addresses;
	uint64_t deadline_ns, next_ns;
	void (*done)(void *arg, int fd, const char *why);
	void *arg;

	uint32_t refs; /* the dial itself, its timer, its attempts, its job; [control] */
	bool finished;
	uv_timer_t timer;
	bool names_left; /* to be resolved, when it is their turn */
	struct mc_targets *resolving; /* the job's until it has posted; NULL: none is under way */
	struct mc_targets targets;
	size_t nr_tried;
	struct attempt *attempts;
	/* What became of the failed ones. */
	unsigned nr_refused, nr_stale, nr_unusable;
	int other; /* first errno of another sort */
	char why[512];
};

static void dial_unref(struct mc_dial *d)
{
	if (--d->refs > 0)
		return;
	mc_port_unref(d->port);
	mc_addr_list_free(d->addresses);
	free(d->local);
	free(d->path);
	free(d);
}

static void attempt_closed(uv_handle_t *handle)
{
	struct attempt *a = handle->data;

	dial_unref(a->dial);
	free(a);
}

static void attempt_end(struct attempt *a)
{
	DL_DELETE(a->dial->attempts, a);
	uv_close((uv_handle_t *)&a->poll, attempt_closed);
	mc_admit_talk_free(a->talk);
	a->talk = NULL;
	if (a->fd >= 0)
		close(a->fd);
	a->fd = -1;
}

static void timer_closed(uv_handle_t *handle)
{
	dial_unref(handle->data);
}

/* Takes fd; the dial's own reference ends here. */
static void dial_finish(struct mc_dial *d, int fd, const char *why)
{
	if (d->finished)
		return;
	d->finished = true;
	DL_DELETE(d->port->dials, d);
	if (d->resolving && mc_helpers_cancel(d->port->engine->helpers, &d->job)) {
		free(d->resolving);
		d->resolving = NULL;
		d->refs--; /* the job's; ours is left */
	}
	while (d->attempts)
		attempt_end(d->attempts);
	uv_close((uv_handle_t *)&d->timer, timer_closed);
	d->done(d->arg, fd, why);
	dial_unref(d);
}

/* All have failed: say so, as one errno and one sentence. */
static void dial_fail(struct mc_dial *d)
{
	int status;

	if (d->other)
		status = d->other;
	else if (d->nr_stale)
		status = -ESTALE;
	else if (d->nr_refused)
		status = -ECONNREFUSED;
	else
		status = -ENETUNREACH;
	dial_finish(d, status, d->why[0] ? d->why : "no address to dial");
}

static void note(struct mc_dial *d, const char *to, int status, const char *why)
{
	size_t at = strlen(d->why);

	snprintf(d->why + at, sizeof d->why - at, "%s%s: %s", at ? "; " : "", to,
		 why && *why ? why : strerror(-status));
	switch (-status) {
	case ECONNREFUSED:
		d->nr_refused++;
		break;
	case ESTALE:
		d->nr_stale++;
		break;
	case ENETUNREACH:
	case EADDRNOTAVAIL:
	case EAFNOSUPPORT:
	case EINVAL:
		d->nr_unusable++;
		break;
	default:
		if (!d->other)
			d->other = status;
	}
}

static void dial_next(struct mc_dial *d);
static void names_resolve(struct mc_dial *d);

static void attempt_fail(struct attempt *a, int status, const char *why)
{
	struct mc_dial *d = a->dial;

	note(d, a->to, status, why);
	attempt_end(a);
	dial_next(d);
}

static int attempt_send(struct attempt *a, const uint8_t *bytes, size_t len)
{
	ssize_t n = send(a->fd, bytes, len, MSG_DONTWAIT | MSG_NOSIGNAL);

	/* A fresh socket's buffer takes it. */
	return n == (ssize_t)len ? 0 : n < 0 && errno != EAGAIN ? -errno : -EIO;
}

static void attempt_say_hello(struct attempt *a)
{
	const struct mc_admit_key *key = a->dial->port->key;
	uint8_t out[MC_PREAMBLE_MAX];
	socklen_t len = sizeof(int);
	int error = 0, r;
	size_t n;

	if (getsockopt(a->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		error = errno;
	if (error) {
		attempt_fail(a, -error, NULL);
		return;
	}
	mc_stream_tune(a->fd);
	n = mc_preamble_encode(&a->dial->hello, out);
	r = key ? mc_admit_talk_new(key, out, n, &a->talk) : 0;
	if (r == 0)
		r = attempt_send(a, out, n);
	if (r < 0) {
		attempt_fail(a, r, NULL);
		return;
	}
	a->said_hello = true;
	a->need = MC_ANSWER_FIXED;
}

/* A challenge: reply, and wait for the next answer. */
static void attempt_prove(struct attempt *a)
{
	uint8_t nonce[MC_ADMIT_NONCE], out[MC_REPLY_SIZE];
	int r;

	if (!a->talk) {
		attempt_fail(a, -EACCES,
			     "it asks for a proof of the cluster key: set cluster_key_file to the same key as there");
		return;
	}
	mc_random(nonce, sizeof nonce);
	r = mc_admit_reply(a->talk, a->buf, a->need, nonce, out);
	if (r > 0)
		r = attempt_send(a, out, (size_t)r);
	if (r < 0) {
		attempt_fail(a, r == -EBADMSG ? -EPROTO : r,
			     r == -EBADMSG ? "it asks for an admission that this version cannot give" : NULL);
		return;
	}
	a->have = 0;
	a->need = MC_ANSWER_FIXED;
}

/* A verdict without a good proof: nothing of it is believed, only a refusal's sentence is passed on. */
static void attempt_unproven(struct attempt *a, const struct mc_answer *ans)
{
	static const char why[] = "it did not prove that it knows the cluster key: cluster_key_file differs or is "
				  "missing at one of the two";
	static struct mc_ratelimit rl;
	uint32_t dropped;

	if ((ans->status == -EACCES || ans->status == -EPROTONOSUPPORT) && ans->why[0]) {
		attempt_fail(a, -EACCES, ans->why);
		return;
	}
	if (mc_ratelimit_ok(&rl, 1, &dropped))
		mc_warn("connection to %s given up: %s%s", a->to, why,
			dropped ? " (others like it were left out)" : "");
	attempt_fail(a, -EACCES, why);
}

static void attempt_verdict(struct attempt *a)
{
	struct mc_dial *d = a->dial;
	struct mc_answer ans;
	int fd;

	if (mc_answer_decode(a->buf, a->need, &ans) < 0) {
		attempt_fail(a, -EPROTO, "it answers what is no answer of an engine");
	} else if (ans.step == MC_STEP_CHALLENGE) {
		attempt_prove(a);
	} else if (ans.step != MC_STEP_VERDICT) {
		attempt_fail(a, -EPROTO, "it answers in a way that this version does not know");
	} else if (a->talk && mc_admit_check_verdict(a->talk, a->buf, a->need) < 0) {
		attempt_unproven(a, &ans);
	} else if (ans.status == -ESTALE || ans.status == -ECONNREFUSED) {
		attempt_fail(a, ans.status, ans.why);
	} else if (ans.status < 0) {
		/* The right engine has spoken: its other addresses would say the same. */
		note(d, a->to, ans.status, ans.why);
		dial_finish(d, ans.status, d->why);
	} else if (d->hello.to_generation && ans.generation != d->hello.to_generation) {
		attempt_fail(a, -ESTALE, "another generation answers");
	} else {
		fd = a->fd;
		a->fd = -1;
		attempt_end(a);
		dial_finish(d, fd, NULL);
	}
}

static void attempt_ready(uv_poll_t *poll, int status, int events)
{
	struct attempt *a = poll->data;

	if (!a->said_hello) {
		attempt_say_hello(a);
		if (a->fd >= 0 && a->said_hello)
			uv_poll_start(&a->poll, UV_READABLE, attempt_ready);
		return;
	}
	while (a->have < a->need) {
		ssize_t n = recv(a->fd, a->buf + a->have, a->need - a->have, MSG_DONTWAIT);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			attempt_fail(a, n < 0 ? -errno : -ECONNRESET,
				     n < 0 ? NULL : "it closed the connection without an answer");
			return;
		}
		a->have += (size_t)n;
		if (a->have == a->need && a->need == MC_ANSWER_FIXED) {
			int len = mc_answer_length(a->buf);

			if (len < 0) {
				attempt_fail(a, -EPROTO, "it answers what is no answer of an engine");
				return;
			}
			a->need = (size_t)len;
		}
	}
	attempt_verdict(a);
}

/* A socket on its way to the target; -errno. */
static int attempt_socket(const struct mc_dial *d, const struct mc_target *t)
{
	int fd, r;

	if (t->ss.ss_family == AF_UNIX)
		return mc_unix_connect(d->path);
	fd = socket(t->ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (d->local && *d->local) {
		struct mc_addr addr;
		struct sockaddr_storage ss;

		r = mc_addr_parse(d->local, &addr) < 0 ? -EINVAL : mc_addr_numeric(&addr, &ss);
		if (r > 0 && ss.ss_family != t->ss.ss_family)
			r = -EAFNOSUPPORT;
		if (r > 0 && bind(fd, (struct sockaddr *)&ss, (socklen_t)r) < 0)
			r = -errno;
		if (r < 0)
			goto fail;
	}
	if (connect(fd, (const struct sockaddr *)&t->ss, t->len) < 0 && errno != EINPROGRESS) {
		r = -errno;
		goto fail;
	}
	return fd;

fail:
	close(fd);
	return r;
}

static int attempt_new(struct mc_dial *d, const struct mc_target *t)
{
	struct attempt *a;
	char to[MC_ADDR_TEXT_MAX];
	int fd, r;

	if (d->path)
		snprintf(to, sizeof to, "its Unix socket %s", d->path);
	else
		mc_addr_of_sock((const struct sockaddr *)&t->ss, to);
	fd = attempt_socket(d, t);
	if (fd < 0) {
		note(d, to, fd, d->path ? mc_unix_remedy(fd) : NULL);
		return fd;
	}
	a = calloc(1, sizeof *a);
	r = a ? uv_poll_init(mc_control_loop(d->port->engine->control), &a->poll, fd) : -ENOMEM;
	if (r < 0) {
		note(d, to, r, NULL);
		close(fd);
		free(a);
		return r;
	}
	memcpy(a->to, to, sizeof a->to);
	a->poll.data = a;
	a->fd = fd;
	a->dial = d;
	d->refs++;
	DL_APPEND(d->attempts, a);
	uv_poll_start(&a->poll, UV_WRITABLE, attempt_ready);
	return 0;
}

static void dial_timeout(uv_timer_t *timer);

static bool more_to_try(const struct mc_dial *d)
{
	return d->nr_tried < d->targets.nr || d->names_left;
}

static void dial_arm(struct mc_dial *d)
{
	uint64_t now = mc_now_ns(), at = d->deadline_ns;

	if (more_to_try(d) && d->next_ns < at)
		at = d->next_ns;
	if (at > now + 3600 * MC_SEC)
		at = now + 3600 * MC_SEC;
	uv_update_time(mc_control_loop(d->port->engine->control));
	uv_timer_start(&d->timer, dial_timeout, at > now ? (at - now) / MC_MSEC + 1 : 0, 0);
}

/* Begin with the next address that can be begun with, and after them with the names; nothing to begin
 * with and nothing under way: failed. */
static void dial_next(struct mc_dial *d)
{
	bool begun = false;

	if (d->finished)
		return;
	while (!begun && d->nr_tried < d->targets.nr) {
		if (attempt_new(d, &d->targets.at[d->nr_tried++]) == 0) {
			d->next_ns = mc_now_ns() + HEAD_START_NS;
			begun = true;
		}
	}
	if (!begun && d->names_left)
		names_resolve(d);
	if (d->attempts || d->resolving)
		dial_arm(d);
	else
		dial_fail(d);
}

/* Those that the job under way was to resolve. */
static void note_names(struct mc_dial *d)
{
	for (char **at = d->addresses; *at; at++) {
		struct sockaddr_storage ss;
		struct mc_addr addr;

		if (mc_addr_parse(*at, &addr) == 0 && addr.port && mc_addr_numeric(&addr, &ss) <= 0)
			note(d, *at, -ETIMEDOUT, "the name service did not answer in time");
	}
}

static void dial_timeout(uv_timer_t *timer)
{
	struct mc_dial *d = timer->data;

	if (mc_now_ns() < d->deadline_ns) {
		if (more_to_try(d) && mc_now_ns() >= d->next_ns)
			dial_next(d);
		else
			dial_arm(d);
		return;
	}
	while (d->attempts) {
		note(d, d->attempts->to, -ETIMEDOUT,
		     d->attempts->said_hello ? "no answer in time" : "no connection in time");
		attempt_end(d->attempts);
	}
	if (d->resolving)
		note_names(d);
	if (!d->other)
		d->other = -ETIMEDOUT;
	dial_fail(d);
}

/* What gave no target is part of the sentence of a failure. */
static void note_targets(struct mc_dial *d, const struct mc_targets *t)
{
	size_t at = strlen(d->why);

	if (!t->status)
		return;
	snprintf(d->why + at, sizeof d->why - at, "%s%s", at ? "; " : "", t->why);
	if (t->status != -EHOSTUNREACH)
		d->nr_unusable++;
	else if (!d->other)
		d->other = t->status;
}

static void dial_resolved(struct mc_control_post *post)
{
	struct mc_dial *d = MC_CONTAINER_OF(post, struct mc_dial, post);
	struct mc_targets *t = d->resolving;

	d->resolving = NULL;
	if (!d->finished) {
		note_targets(d, t);
		for (size_t i = 0; i < t->nr; i++)
			mc_targets_add(&d->targets, &t->at[i].ss, t->at[i].len);
		dial_next(d);
	}
	free(t);
	dial_unref(d);
}

static void dial_resolve(struct mc_job *job)
{
	struct mc_dial *d = MC_CONTAINER_OF(job, struct mc_dial, job);

	mc_targets_fill(d->addresses, true, d->resolving);
	d->post.run = dial_resolved;
	mc_control_post(d->port->engine->control, &d->post);
}

static void names_resolve(struct mc_dial *d)
{
	d->names_left = false;
	d->resolving = calloc(1, sizeof *d->resolving);
	if (!d->resolving) {
		note(d, "names", -ENOMEM, NULL);
		return;
	}
	d->refs++;
	d->job.run = dial_resolve;
	mc_helpers_run_as(d->port->engine->helpers, &d->job, MC_JOB_LOOKUP);
}

static void dial_begin(struct mc_control_post *post)
{
	struct mc_dial *d = MC_CONTAINER_OF(post, struct mc_dial, post);

	uv_timer_init(mc_control_loop(d->port->engine->control), &d->timer);
	d->timer.data = d;
	d->refs++;
	DL_APPEND(d->port->dials, d);
	if (d->port->closed) {
		dial_finish(d, -ECANCELED, "the engine is being closed");
		return;
	}
	mc_targets_fill(d->addresses, false, &d->targets);
	if (d->path)
		mc_targets_add(&d->targets, &(struct sockaddr){.sa_family = AF_UNIX}, sizeof(struct sockaddr));
	d->names_left = d->targets.named;
	note_targets(d, &d->targets);
	dial_next(d);
}

void mc_dials_cancel(struct mc_port *port)
{
	while (port->dials)
		dial_finish(port->dials, -ECANCELED, "the engine is being closed");
}

static char **copy_list(const char *const *list)
{
	size_t nr = 0;
	char **copy;

	while (list[nr])
		nr++;
	copy = calloc(nr + 1, sizeof *copy);
	for (size_t i = 0; copy && i < nr; i++) {
		copy[i] = strdup(list[i]);
		if (!copy[i]) {
			mc_addr_list_free(copy);
			return NULL;
		}
	}
	return copy;
}

static int dial(struct mc_engine *engine, const char *const *addresses, const char *local_address, const char *path,
		const struct mc_stream_hello *hello, uint64_t deadline_ns,
		void (*done)(void *arg, int fd, const char *why), void *arg)
{
	struct mc_port *port = engine->listener;
	struct mc_dial *d;

	if (!port || __atomic_load_n(&port->closed, __ATOMIC_ACQUIRE))
		return -ESHUTDOWN;
	d = calloc(1, sizeof *d);
	if (!d)
		return -ENOMEM;
	d->addresses = copy_list(addresses);
	d->local = local_address && *local_address ? strdup(local_address) : NULL;
	d->path = path ? strdup(path) : NULL;
	if (!d->addresses || (local_address && *local_address && !d->local) || (path && !d->path)) {
		mc_addr_list_free(d->addresses);
		free(d->local);
		free(d->path);
		free(d);
		return -ENOMEM;
	}
	d->port = mc_port_ref(port);
	d->refs = 1;
	d->hello = *hello;
	d->hello.admission = port->key ? MC_ADMIT_HMAC : 0;
	d->deadline_ns = deadline_ns;
	d->done = done;
	d->arg = arg;
	d->post.run = dial_begin;
	mc_control_post(engine->control, &d->post);
	return 0;
}

int mc_stream_dial(struct mc_engine *engine, const char *const *addresses, const char *local_address,
		   const struct mc_stream_hello *hello, uint64_t deadline_ns,
		   void (*done)(void *arg, int fd, const char *why), void *arg)
{
	return dial(engine, addresses, local_address, NULL, hello, deadline_ns, done, arg);
}

int mc_stream_dial_local(struct mc_engine *engine, const char *path, const struct mc_stream_hello *hello,
			 uint64_t deadline_ns, void (*done)(void *arg, int fd, const char *why), void *arg)
{
	static const char *const none[] = {NULL};

	return dial(engine, none, NULL, path, hello, deadline_ns, done, arg);
}
